"""Bundles beside each other: the figures that a reader compares, and when they do not compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vitaie.runtime._report.analysis import verdict
from vitaie.runtime._report.figures import Figure, headline_speed, target_of
from vitaie.runtime._report.found import Found
from vitaie.runtime._report.shown import MAX_FIGURES, State
from vitaie.runtime._report.speed import how

_NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Comparison:
    """The bundles' names, and row by row a name and a value for each; then what to keep in mind."""

    names: tuple[str, ...]
    verdicts: tuple[State, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    remarks: tuple[str, ...]


def compare(bundles: Sequence[Found], shown: Sequence[Sequence[Figure]]) -> Comparison:
    """Return the comparison of bundles whose ``figures`` are those ``shown``."""
    names = list(dict.fromkeys(figure.name for figures in shown for figure in figures))
    half_precision: list[tuple[str, tuple[str, ...]]] = []
    if any(found.analyses for found in bundles):
        told = tuple(_half_precision(found) for found in bundles)
        half_precision.append(("Half precision, emulated", told))
    rows = [
        ("Not checked here", tuple(_unchecked(found) for found in bundles)),
        *((name, tuple(_figure(figures, name) for figures in shown)) for name in names),
        ("Top-1, 95% interval", tuple(_interval(found) for found in bundles)),
        ("Top-1, published", tuple(_published(found) for found in bundles)),
        ("Drop from the source", tuple(_drop(found) for found in bundles)),
        ("Accuracy measured of", tuple(_accurate(found) for found in bundles)),
        ("Speed measured of", tuple(_timed(found) for found in bundles)),
        ("Speed measured as", tuple(_speed(found) for found in bundles)),
        *half_precision,
        ("Preprocessing", tuple(found.manifest.preprocess.profile for found in bundles)),
        ("Content digest", tuple(found.manifest.content_digest[:16] for found in bundles)),
        ("Folder", tuple(found.folder for found in bundles)),
    ]
    titles = tuple(f"{found.manifest.name} {found.manifest.version}" for found in bundles)
    verdicts: list[State] = ["true" if found.holds else "false" for found in bundles]
    return Comparison(titles, tuple(verdicts), tuple(rows), tuple(_remarks(bundles)))


def _remarks(bundles: Sequence[Found]) -> Iterable[str]:
    """Yield why numbers in one row may not be compared."""
    accuracy = [found.manifest.accuracy[0] for found in bundles if found.manifest.accuracy]
    speed = [record for found in bundles for _, record in headline_speed(found)]
    if len({record.dataset.digest for record in accuracy}) > 1:
        yield "Accuracy was measured on different datasets: these figures do not compare."
    if len({record.processor for record in speed}) > 1:
        yield "Speed was measured on different processors: these figures do not compare."
    elif len(speed) > 1:
        yield "Speeds are of different runs, between which a shared machine may have changed."
    if len({_timed(found) for found in bundles} - {_NOT_MEASURED}) > 1:
        yield "Speed was measured of different targets: see the row that says of which."
    if len({how(record) for record in speed}) > 1:
        yield "Speed was measured in different ways: see the row that says how."


def _unchecked(found: Found) -> str:
    count = sum(claim.status == "not checked" for claim in found.claims)
    return f"{count} of {len(found.claims)} claims"


def _figure(figures: Sequence[Figure], name: str) -> str:
    for figure in figures:
        if figure.name == name:
            return f"{figure.value} {figure.unit}" + " (INVALID)" * (figure.state == "invalid")
    return _NOT_MEASURED


def _interval(found: Found) -> str:
    for record in found.manifest.accuracy[:1]:
        return f"{record.top1.wilson95.low:.2f} to {record.top1.wilson95.high:.2f}%"
    return _NOT_MEASURED


def _published(found: Found) -> str:
    published = [f"{each.top1:g}%" for each in found.manifest.expected.accuracy[:MAX_FIGURES]]
    return ", ".join(published) or "none"


def _drop(found: Found) -> str:
    for record in found.manifest.accuracy[:1]:
        if record.paired is not None:
            lost = record.paired.source_only - record.paired.target_only
            return f"{100 * lost / record.dataset.images:.3f} points"
    return _NOT_MEASURED


def _half_precision(found: Found) -> str:
    for analysis in found.analyses[:1]:
        return verdict(analysis)
    return "not analyzed"


def _accurate(found: Found) -> str:
    for record in found.manifest.accuracy[:1]:
        return target_of(found, record.target_digest)
    return _NOT_MEASURED


def _timed(found: Found) -> str:
    for _, record in headline_speed(found):
        return target_of(found, record.target_digest)
    return _NOT_MEASURED


def _speed(found: Found) -> str:
    for _, record in headline_speed(found):
        return how(record)
    return _NOT_MEASURED
