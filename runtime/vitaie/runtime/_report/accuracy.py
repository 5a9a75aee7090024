"""A record of accuracy on the page: its rates beside published ones, and its images one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Optional

from vitaie.manifests.measurement import AccuracyMeasurement
from vitaie.manifests.statistics import drop_bounds, mcnemar_exact
from vitaie.runtime._report import charts
from vitaie.runtime._report.commands import accuracy_command
from vitaie.runtime._report.counts import (
    ClassCount,
    Disagreement,
    classes_worst_first,
    disagreements,
)
from vitaie.runtime._report.found import MAX_DISAGREEMENTS, Found
from vitaie.runtime._report.shown import (
    MAX_FIGURES,
    Fact,
    Shown,
    State,
    class_name,
    counted,
    state_of,
    target_name,
)

if TYPE_CHECKING:
    from vitaie.manifests.contents import AccuracyRecord, Rate

_CLASSES = 5
_ALL_CLASSES = 12
"""As many are all shown; of more, the five worst and the five best."""


@dataclass(frozen=True)
class RateRow:
    """A line of the accuracy table. A published one has no counts and no interval."""

    kind: Literal["target", "source", "published"]
    name: str
    top1: str
    interval: str
    right: str
    top5: str
    difference: str


@dataclass(frozen=True)
class Difference:
    """An image on which two models disagree: its picture, or why there is none."""

    path: str
    kind: str
    label: str
    target: str
    source: str
    picture: Optional[bytes]
    no_picture: str


@dataclass(frozen=True)
class ClassRow:
    """A class, and how many of its images are right."""

    name: str
    right: int
    images: int
    percent: str


@dataclass(frozen=True)
class Paired:
    """The four cells, and what they come to."""

    both: int
    target_only: int
    source_only: int
    neither: int
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class AccuracyView:
    """A record of accuracy, and what its evidence shows image by image."""

    title: str
    state: State
    facts: tuple[Fact, ...]
    chart: charts.Intervals
    rates: tuple[RateRow, ...]
    paired: Optional[Paired]
    differences: Shown[Difference]
    worst: tuple[ClassRow, ...]
    best: tuple[ClassRow, ...]
    classes: int
    unreadable: str
    command: str


def accuracy_view(found: Found, index: int, record: AccuracyRecord, title: str) -> AccuracyView:
    """Return what is shown, under a title, of the record of accuracy with this index."""
    evidence = found.evidence[record.predictions]
    measured = evidence if isinstance(evidence, AccuracyMeasurement) else None
    counts: Sequence[ClassCount] = ()
    differing: Sequence[Disagreement] = ()
    if measured is not None:
        counts, differing = classes_worst_first(measured.images), disagreements(measured.images)
    rates = tuple(_rates(found, record))
    return AccuracyView(
        title=title,
        state=state_of(found, f"accuracy[{index}]"),
        facts=tuple(_accuracy_facts(found, record, measured)),
        chart=charts.intervals(list(_estimates(found, record))),
        rates=rates,
        paired=_paired(record),
        differences=Shown(
            tuple(
                Difference(
                    each.path,
                    each.kind,
                    class_name(found, each.label),
                    class_name(found, each.target),
                    class_name(found, each.source),
                    found.pictures.get(each.sha256),
                    found.no_picture.get(each.sha256, ""),
                )
                for each in differing[:MAX_DISAGREEMENTS]
            ),
            max(0, len(differing) - MAX_DISAGREEMENTS),
        ),
        worst=_class_rows(found, counts if len(counts) <= _ALL_CLASSES else counts[:_CLASSES]),
        best=_class_rows(
            found, [] if len(counts) <= _ALL_CLASSES else list(reversed(counts[-_CLASSES:]))
        ),
        classes=len(counts),
        unreadable="" if measured else str(evidence),
        command=accuracy_command(found),
    )


def accuracy_title(found: Found, record: AccuracyRecord) -> str:
    """Return what a record is of, in a few words."""
    return f"{target_name(found, record.target_digest)} on {record.dataset.name}"


def _accuracy_facts(
    found: Found, record: AccuracyRecord, measured: Optional[AccuracyMeasurement]
) -> Iterable[Fact]:
    missing = record.dataset.missing
    yield Fact("target", target_name(found, record.target_digest))
    yield Fact("target digest", record.target_digest, code=True)
    yield Fact("dataset", f"{record.dataset.name}, {counted(record.dataset.images, 'image')}")
    yield Fact("dataset digest", record.dataset.digest, code=True)
    if missing:
        names = ", ".join(measured.missing[:5]) if measured else ""
        yield Fact(
            "unreadable", f"{missing:,} images are in no count" + (f": {names}" * bool(names))
        )
    yield Fact("preprocessing", f"{found.manifest.preprocess.profile}, as above")
    yield Fact("batch", f"{record.batch_size:,}, {counted(record.threads, 'thread')}")
    yield Fact("measured", f"{record.created} on {record.processor}")
    yield Fact("evidence", record.predictions, code=True)


def _estimates(found: Found, record: AccuracyRecord) -> Iterable[charts.Estimate]:
    top1 = record.top1
    label = f"this target {top1.percent:.2f}%, measured"
    yield charts.Estimate("target", label, top1.percent, top1.wilson95.low, top1.wilson95.high)
    if record.source_top1 is not None:
        source = record.source_top1
        label = f"source model {source.percent:.2f}%, measured"
        interval = source.wilson95
        yield charts.Estimate("source", label, source.percent, interval.low, interval.high)
    for figure in found.manifest.expected.accuracy[:MAX_FIGURES]:
        yield charts.Estimate("published", f"published {figure.top1:g}%, not measured", figure.top1)


def _rates(found: Found, record: AccuracyRecord) -> Iterable[RateRow]:
    images = record.dataset.images
    yield _rate_row("target", "this target, measured", record.top1, record.top5, images, record)
    if record.source_top1 is not None and record.source_top5 is not None:
        name = "source model, measured"
        yield _rate_row("source", name, record.source_top1, record.source_top5, images, record)
    for figure in found.manifest.expected.accuracy[:MAX_FIGURES]:
        yield RateRow(
            "published",
            f"published for {found.manifest.source.variant}, {figure.source}",
            f"{figure.top1:g}%",
            "not measured",
            "",
            "" if figure.top5 is None else f"{figure.top5:g}%",
            f"{record.top1.percent - figure.top1:+.2f}",
        )


def _rate_row(
    kind: Literal["target", "source"],
    name: str,
    top1: Rate,
    top5: Rate,
    images: int,
    record: AccuracyRecord,
) -> RateRow:
    return RateRow(
        kind,
        name,
        f"{top1.percent:.3f}%",
        f"{top1.wilson95.low:.3f} to {top1.wilson95.high:.3f}",
        f"{top1.count:,} of {images:,}",
        f"{top5.percent:.3f}%",
        "" if kind == "target" else f"{record.top1.percent - top1.percent:+.2f}",
    )


def _paired(record: AccuracyRecord) -> Optional[Paired]:
    cells = record.paired
    if cells is None:
        return None
    images, lost, won = record.dataset.images, cells.source_only, cells.target_only
    low, high = drop_bounds(images, lost, won)
    remarks = [
        f"The drop is {100 * (lost - won) / images:.3f} points; its one-sided 95% bounds are"
        f" {100 * low:.3f} and {100 * high:.3f}.",
        f"McNemar's exact p is {mcnemar_exact(lost, won):.3g}.",
    ]
    if record.agreement is not None:
        remarks.append(f"Both give the same class to {record.agreement:,} of {images:,} images.")
    return Paired(cells.both, won, lost, cells.neither, tuple(remarks))


def _class_rows(found: Found, counts: Sequence[ClassCount]) -> tuple[ClassRow, ...]:
    return tuple(
        ClassRow(
            class_name(found, each.label),
            each.right,
            each.images,
            f"{100 * each.right / each.images:.1f}%",
        )
        for each in counts
    )
