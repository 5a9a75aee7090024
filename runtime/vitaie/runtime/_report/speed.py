"""A record of speed on the page: its percentiles, and its calls one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from vitaie.manifests.measurement import PerformanceMeasurement, frames_per_second
from vitaie.runtime._report import charts
from vitaie.runtime._report.commands import speed_command
from vitaie.runtime._report.found import Found
from vitaie.runtime._report.shown import (
    MAX_FIGURES,
    Fact,
    State,
    counted,
    number,
    state_of,
    target_name,
)

if TYPE_CHECKING:
    from vitaie.manifests.contents import PerformanceRecord
    from vitaie.manifests.measurement import Run


@dataclass(frozen=True)
class SpeedView:
    """A record of speed, and what its evidence shows call by call."""

    title: str
    state: State
    reasons: tuple[str, ...]
    facts: tuple[Fact, ...]
    latencies: tuple[Fact, ...]
    histogram: Optional[charts.Histogram]
    curve: Optional[charts.Curve]
    runs: tuple[tuple[str, ...], ...]
    unreadable: str
    command: str


_BOUNDARIES = {
    "device": "device: input and output stay on the device",
    "host": "host: float32 array in, logits out, copies included",
    "end_to_end": "end_to_end: JPEG in, top-5 out",
}


def speed_view(found: Found, index: int, record: PerformanceRecord, title: str) -> SpeedView:
    """Return what is shown, under a title, of the record of speed with this index."""
    evidence = found.evidence[record.latencies]
    measured = evidence if isinstance(evidence, PerformanceMeasurement) else None
    runs = [_calls(run) for run in measured.runs] if measured else []
    invalid = record.verdict == "INVALID"
    return SpeedView(
        title=title,
        state="invalid" if invalid else state_of(found, f"performance[{index}]"),
        reasons=record.reasons,
        facts=tuple(_speed_facts(found, record, measured)),
        latencies=tuple(
            Fact(name, f"{number(value)} ms") for name, value in record.latency_ms.items()
        ),
        histogram=charts.histogram([ms for run in runs for _, ms in run]) if runs else None,
        curve=charts.curve(runs) if runs else None,
        runs=tuple(_run(place, run, measured) for place, run in enumerate(measured.runs, 1))
        if measured
        else (),
        unreadable="" if measured else str(evidence),
        command=speed_command(found, record),
    )


def speed_title(found: Found, record: PerformanceRecord) -> str:
    """Return what a record is of, in a few words."""
    target = target_name(found, record.target_digest)
    return f"{target}, {record.boundary}, {record.scenario}, batch {record.batch_size}"


def _calls(run: Run) -> list[tuple[float, float]]:
    """Return each call's end in seconds since the run began, and how many ms it took."""
    first = run.start_ns[0]
    return [
        ((end - first) / 1e9, (end - start) / 1e6) for start, end in zip(run.start_ns, run.end_ns)
    ]


def _run(place: int, run: Run, measured: PerformanceMeasurement) -> tuple[str, ...]:
    alone = measured.model_copy(update={"runs": (run,)})
    return (
        str(place),
        f"{len(run.start_ns):,}",
        f"{(run.end_ns[-1] - run.start_ns[0]) / 1e9:.2f} s",
        number(frames_per_second(alone)),
        f"{run.warm_up_calls:,} in {run.warm_up_s:.3g} s",
        f"{run.load_s:.3g} s",
        f"{1000 * run.first_call_s:.4g} ms",
    )


def _speed_facts(
    found: Found, record: PerformanceRecord, measured: Optional[PerformanceMeasurement]
) -> Iterable[Fact]:
    counts = "" if record.verdict == "VALID" else ", which counts for nothing"
    yield Fact("images a second", number(record.fps) + counts)
    yield Fact("verdict", record.verdict)
    yield Fact("target", target_name(found, record.target_digest))
    yield Fact("target digest", record.target_digest, code=True)
    yield Fact("boundary", _BOUNDARIES[record.boundary])
    yield Fact("scenario", f"{record.scenario}, batch {record.batch_size}")
    yield Fact("protocol", f"{record.protocol}, {counted(record.threads, 'thread')}")
    yield Fact("inputs", record.inputs)
    if measured:
        honesty = measured.honesty
        same = honesty.checked - honesty.differing
        yield Fact(
            "outputs checked",
            f"{same} of {honesty.checked} of timed calls equal an untimed run's; a repeated image"
            f" {number(honesty.repeated_ms)} ms, distinct ones {number(honesty.distinct_ms)} ms",
        )
    yield Fact("variation", f"{record.variation:.3f} (standard deviation over mean)")
    if record.placement is not None:
        yield Fact("on the device", f"{100 * record.placement:.1f}% of the operators")
    yield Fact("peak memory", f"{record.peak_mib:,.0f} MiB")
    yield Fact("measured", f"{record.created} on {record.processor}")
    yield Fact("evidence", record.latencies, code=True)
    for figure in found.manifest.expected.speed[:MAX_FIGURES]:
        yield Fact(
            "published",
            f"{figure.fps:g} images/s on {figure.device}, batch {figure.batch_size}"
            f" ({figure.source}); not measured here",
        )


def how(record: PerformanceRecord) -> str:
    """Return what was measured, in one line."""
    return (
        f"{record.boundary}, {record.scenario}, batch {record.batch_size},"
        f" {counted(record.threads, 'thread')}, {record.protocol}"
    )
