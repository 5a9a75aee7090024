"""The few numbers that a reader came for, of a bundle's first record of each kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from vitaie.manifests.errors import printable
from vitaie.runtime._report.found import Found
from vitaie.runtime._report.shown import State, counted, number, state_of
from vitaie.runtime._report.speed import how

if TYPE_CHECKING:
    from vitaie.manifests.contents import PerformanceRecord

_NAME = 60
"""Characters of a name inside a sentence."""


@dataclass(frozen=True)
class Figure:
    """A number that a reader came for; ``state`` says whether it was checked for this page."""

    name: str
    value: str
    unit: str
    detail: str
    state: Optional[State]


def figures(found: Found) -> Iterable[Figure]:
    """Yield the numbers that a reader came for: of the first record of each kind."""
    manifest = found.manifest
    measured = {record.target_digest for record in manifest.accuracy[:1]}
    measured |= {speed.target_digest for _, speed in headline_speed(found)}
    several = len(measured) > 1
    for record in manifest.accuracy[:1]:
        low, high = record.top1.wilson95.low, record.top1.wilson95.high
        detail = (
            f"{record.top1.count:,} of {counted(record.dataset.images, 'image')} of"
            f" {printable(record.dataset.name, _NAME)}; 95% interval {low:.2f} to {high:.2f}"
        )
        detail += f"; {target_of(found, record.target_digest)}" if several else ""
        state = state_of(found, "accuracy[0]")
        yield Figure("Top-1, measured", f"{record.top1.percent:.2f}", "%", detail, state)
        if record.paired is not None and record.agreement is not None:
            lost, won = record.paired.source_only, record.paired.target_only
            yield Figure(
                "Same class as the source",
                f"{100 * record.agreement / record.dataset.images:.2f}",
                "%",
                f"{counted(lost, 'image')} right in the source only, {won:,} in the target only",
                state,
            )
    for index, speed in headline_speed(found):
        if speed.verdict == "INVALID":
            yield Figure("Speed", "none", "", "; ".join(speed.reasons), "invalid")
            break
        state = state_of(found, f"performance[{index}]")
        detail = how(speed) + (f"; {target_of(found, speed.target_digest)}" if several else "")
        yield Figure("Speed, measured", number(speed.fps), "images/s", detail, state)
        for name in ("p99", "p95", "p90", "p50"):
            if name in speed.latency_ms:
                median = number(speed.latency_ms.get("p50", 0))
                detail = f"of a call; the median takes {median} ms"
                value = number(speed.latency_ms[name])
                yield Figure(f"Latency, {name}", value, "ms", detail, state)
                break
    size = sum(artifact.size for artifact in manifest.artifacts)
    files = counted(len(manifest.artifacts) + 1, "file")
    detail = f"{counted(manifest.model.parameters, 'parameter')}, {files}"
    value, unit = (f"{size / 1e6:,.1f}", "MB") if size >= 1e5 else (f"{size / 1e3:,.1f}", "kB")
    yield Figure("Size", value, unit, detail, state_of(found, "files"))


def target_of(found: Found, digest: str) -> str:
    """Return the name of the target that a record is of."""
    names = {target.target_digest: target.id for target in found.manifest.targets}
    return names[digest]


def headline_speed(found: Found) -> list[tuple[int, PerformanceRecord]]:
    """Return the record that is quoted: boundary ``host`` before others, VALID before INVALID."""
    ranked = sorted(
        enumerate(found.manifest.performance),
        key=lambda each: (each[1].boundary != "host", each[1].verdict != "VALID"),
    )
    return ranked[:1]
