"""What stands where on the page: bundles as they were found, to what a reader is told of them.

Pure: the same ``Found`` gives the same page. Text is in the field's words and not yet markup;
lists are cut where a page would grow without end, and say how much was left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from vitaie.runtime._report.accuracy import AccuracyView, accuracy_title, accuracy_view
from vitaie.runtime._report.analysis import AnalysisView, analysis_views
from vitaie.runtime._report.commands import claim_command, commands
from vitaie.runtime._report.comparison import Comparison, compare
from vitaie.runtime._report.figures import Figure, figures
from vitaie.runtime._report.found import MAX_GOLDENS, MAX_RECORDS, Found
from vitaie.runtime._report.shown import (
    MAX_FIGURES,
    MAX_ROWS,
    Fact,
    Notice,
    Shown,
    State,
    class_name,
    counted,
    first,
    number,
    target_name,
)
from vitaie.runtime._report.speed import SpeedView, speed_title, speed_view
from vitaie.runtime._verify import UNSEEN

if TYPE_CHECKING:
    from vitaie.manifests.contents import GateRecord, LevelRecord, Target
    from vitaie.manifests.measurement import Environment
    from vitaie.runtime._claim import Claim

MAX_CLAIMS = 200


@dataclass(frozen=True)
class GoldenView:
    """A golden: the crop that the model sees, and its first classes with probabilities."""

    name: str
    picture: bytes
    top: tuple[tuple[str, float, str], ...]
    credit: str


@dataclass(frozen=True)
class BundleView:
    """All that is shown of one bundle."""

    anchor: str
    name: str
    version: str
    holds: bool
    headline: str
    notices: Shown[Notice]
    unseen: tuple[Notice, ...]
    figures: tuple[Figure, ...]
    identity: tuple[Fact, ...]
    accuracy: Shown[AccuracyView]
    speed: Shown[SpeedView]
    levels: Shown[tuple[str, ...]]
    gates: Shown[tuple[str, ...]]
    goldens: Shown[GoldenView]
    targets: Shown[tuple[str, ...]]
    analyses: Shown[AnalysisView]
    toolchain: tuple[Fact, ...]
    packages: Shown[Fact]
    claims: Shown[Notice]
    commands: tuple[Fact, ...]


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    checked: tuple[Fact, ...]
    bundles: tuple[BundleView, ...]
    comparison: Optional[Comparison]


def view(bundles: Sequence[Found], here: Environment) -> Page:
    """Return the page of bundles, in the order given, that were checked ``here``."""
    views = tuple(_bundle(found, f"bundle-{place}") for place, found in enumerate(bundles, 1))
    names = [f"{each.name} {each.version}" for each in views]
    title = names[0] if len(names) == 1 else f"{len(names)} bundles"
    checked = (
        Fact("checked", here.created),
        Fact("on", f"{here.processor}, {counted(here.processors, 'processor')}"),
        Fact("with", ", ".join(f"{name} {here.packages[name]}" for name in here.packages)),
    )
    beside = compare(bundles, [each.figures for each in views]) if len(views) > 1 else None
    return Page(title, checked, views, beside)


def _bundle(found: Found, anchor: str) -> BundleView:
    manifest = found.manifest
    titles = _titles(found)
    claims = [_claim(found, titles, claim) for claim in found.claims]
    return BundleView(
        anchor=anchor,
        name=manifest.name,
        version=manifest.version,
        holds=found.holds,
        headline=_headline([claim.status for claim in found.claims]),
        notices=first(_notices(found, claims), MAX_ROWS),
        unseen=tuple(each for each in claims if each.subject in UNSEEN),
        figures=tuple(figures(found)),
        identity=tuple(_identity(found)),
        accuracy=Shown(
            tuple(
                accuracy_view(found, index, record, titles[f"accuracy[{index}]"])
                for index, record in enumerate(manifest.accuracy[:MAX_RECORDS])
            ),
            max(0, len(manifest.accuracy) - MAX_RECORDS),
        ),
        speed=Shown(
            tuple(
                speed_view(found, index, record, titles[f"performance[{index}]"])
                for index, record in enumerate(manifest.performance[:MAX_RECORDS])
            ),
            max(0, len(manifest.performance) - MAX_RECORDS),
        ),
        levels=first([_level(level) for level in manifest.levels], MAX_ROWS),
        gates=first([_gate(found, gate) for gate in manifest.gates], MAX_ROWS),
        goldens=Shown(tuple(_goldens(found)), max(0, len(manifest.goldens) - MAX_GOLDENS)),
        targets=first([_target(target) for target in manifest.targets], MAX_ROWS),
        analyses=first(list(analysis_views(found)), MAX_RECORDS),
        toolchain=tuple(_toolchain(found)),
        packages=first(
            [Fact(name, version) for name, version in manifest.toolchain.packages.items()],
            MAX_ROWS,
        ),
        claims=first(claims, MAX_CLAIMS),
        commands=tuple(commands(found)),
    )


# What comes first


def _headline(statuses: Sequence[State]) -> str:
    claims = len(statuses)
    false, unchecked = statuses.count("false"), statuses.count("not checked")
    if false:
        does = "does" if false == 1 else "do"
        return f"{false} of {counted(claims, 'claim')} {does} not hold here."
    if unchecked:
        was = "was" if unchecked == 1 else "were"
        return f"What was checked holds; {unchecked} of {claims} claims {was} not checked here."
    return f"All {claims} claims hold here."


def _claim(found: Found, titles: Mapping[str, str], claim: Claim) -> Notice:
    title = titles.get(claim.claim, "")
    quiet = claim.status == "true" or claim.claim in UNSEEN
    return Notice(
        claim.status,
        claim.claim,
        f"{title}: {claim.detail}" if title else claim.detail,
        "" if quiet else claim_command(found, claim),
    )


def _titles(found: Found) -> dict[str, str]:
    """Return what the records are of, by the name that claims give them; no two are the same."""
    accuracy, performance = found.manifest.accuracy, found.manifest.performance
    return {
        **_told_apart(
            "accuracy",
            [accuracy_title(found, record) for record in accuracy],
            [f"{record.created}, {record.predictions}" for record in accuracy],
        ),
        **_told_apart(
            "performance",
            [speed_title(found, record) for record in performance],
            [f"{record.created}, {record.latencies}" for record in performance],
        ),
    }


def _told_apart(kind: str, titles: Sequence[str], differences: Sequence[str]) -> dict[str, str]:
    """Return each record's title by its name; with its date and evidence where others have it."""
    times = Counter(titles)
    return {
        f"{kind}[{index}]": title if times[title] == 1 else f"{title}, measured {difference}"
        for index, (title, difference) in enumerate(zip(titles, differences))
    }


def _notices(found: Found, claims: Sequence[Notice]) -> list[Notice]:
    """Return what leads the page: false before invalid before not checked."""
    manifest = found.manifest
    notices = [each for each in claims if each.state == "false"]
    notices += [
        Notice("invalid", f"performance[{index}]", "; ".join(record.reasons))
        for index, record in enumerate(manifest.performance)
        if record.verdict == "INVALID"
    ]
    notices += [
        Notice("not checked", subject, "nothing was measured and nothing is claimed")
        for subject, records in (("accuracy", manifest.accuracy), ("speed", manifest.performance))
        if not records
    ]
    unchecked = (each for each in claims if each.state == "not checked")
    notices += [each for each in unchecked if each.subject not in UNSEEN]
    return notices


def _identity(found: Found) -> Iterable[Fact]:
    manifest = found.manifest
    model, spec, source = manifest.model, manifest.preprocess, manifest.source
    yield Fact(
        "model",
        f"{model.architecture or 'ViT'}: {model.image_size} px in patches of {model.patch_size},"
        f" {model.depth} blocks of {model.width}, {model.classes:,} classes,"
        f" {model.parameters:,} parameters, {model.gflop:.3g} GFLOP",
    )
    yield Fact(
        "preprocessing",
        f"{spec.profile}: {spec.resize.mode} {spec.resize.size}, {spec.resize.interpolation}"
        f" ({spec.resize.pass_order}), centre crop {spec.crop.size},"
        f" mean {list(spec.mean)}, std {list(spec.std)}",
    )
    yield Fact("folder", found.folder, code=True)
    yield Fact("content digest", manifest.content_digest, code=True)
    yield Fact("manifest digest", manifest.manifest_digest, code=True)
    yield Fact("made from", f"{source.file}, {source.size:,} bytes, variant {source.variant}")
    yield Fact("its sha256", source.sha256, code=True)


# The rest


def _gate(found: Found, gate: GateRecord) -> tuple[str, ...]:
    target = target_name(found, gate.target_digest)
    return gate.require, gate.verdict, target, gate.reason


def _level(level: LevelRecord) -> tuple[str, ...]:
    gates = ", ".join(f"{gate.require}: {gate.verdict}" for gate in level.gates[:MAX_FIGURES])
    return (
        str(level.optim_level),
        f"{level.boundary}, {level.scenario}, batch {level.batch_size}",
        number(level.fps),
        level.verdict,
        gates or "none asked",
        "ships" if level.chosen else "",
        level.target_digest[:16],
    )


def _target(target: Target) -> tuple[str, ...]:
    agreement = target.agreement
    return (
        target.id,
        f"{target.backend}, {target.device}, {target.precision}, level {target.optim_level}",
        ", ".join(map(str, target.batch_sizes)) or "any",
        f"{agreement.max_rel_diff:.1e} of the largest logit; the same first class on"
        f" {agreement.top1_equal} of {agreement.images} goldens",
        target.target_digest[:16],
    )


def _goldens(found: Found) -> Iterable[GoldenView]:
    for golden, seen in zip(found.manifest.goldens, found.goldens):
        top = tuple(
            (class_name(found, guess.label), guess.probability, f"{100 * guess.probability:.2f}%")
            for guess in seen.top
        )
        yield GoldenView(golden.source, seen.picture, top, golden.credit)


def _toolchain(found: Found) -> Iterable[Fact]:
    toolchain = found.manifest.toolchain
    yield Fact("made", f"{toolchain.created} on {toolchain.machine}")
    yield Fact("Python", toolchain.python)
    yield Fact("command", toolchain.command, code=True)
    yield Fact("packages digest", toolchain.packages_digest, code=True)
