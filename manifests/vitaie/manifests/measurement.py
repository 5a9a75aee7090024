"""A measurement as it travels: what was seen, image by image or call by call.

``vitaie eval -o RECORD.json`` and ``vitaie bench -o RECORD.json`` each write one such document.
``vitaie-build attach`` puts it into a bundle unchanged, as evidence; what the manifest then says of
it, and what gates and audits judge, is computed from it here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import median
from typing import Annotated, Any, Literal, Optional, TypeVar, Union

from pydantic import Field, ValidationError

from vitaie.manifests.devices import MAX_RECORD_BYTES as MAX_RECORD_BYTES
from vitaie.manifests.errors import InputError
from vitaie.manifests.fields import (
    BatchSize,
    Column,
    Count,
    Date,
    Label,
    Measure,
    Name,
    Positive,
    PositiveFloat,
    Seconds,
    Sha256,
    Strict,
    Text,
    Threads,
    expectation,
    field_path,
)
from vitaie.manifests.statistics import (
    coefficient_of_variation,
    inputs_needed,
    percentiles,
    stability,
    wilson95,
)
from vitaie.manifests.strict_json import parse_object

FORMAT_VERSION = 1
MOST = {"colons": 2**12, "braces": 2**7, "brackets": 2**23, "commas": 2**25}
"""Named fields, of which 64 runs have 448 and each package is one, objects, and what two million
images need, more than ImageNet's 1,281,167 to train on: two arrays and 14 commas each."""

MINIMUM = {"quick": (10.0, 64, 1), "full": (60.0, 662, 5)}
"""Of each protocol: seconds of each run, calls of all together, runs."""

WARM_UP = (10, 1.0)
"""Calls and seconds before the first that counts."""

REPEATED = (0.10, 0.20, 0.2)
"""By how much a repeated image may be faster; the same below so many ms; and how many."""


MOST_CHECKED = 20
"""Outputs of each run: at 16 moments and of 4 distinct images, all drawn by the seed."""

ALIKE = 20.0
"""By which factor the same call may last longer or shorter beside the timed calls' median."""


class Environment(Strict):
    """Where and when it was measured. ``features`` are the processor's instruction sets."""

    created: Date
    machine: Text
    processor: Text
    features: Column[Text]
    processors: Positive
    python: Text
    packages: dict[str, Text]


class Subject(Strict):
    """What was measured, by digest: these bytes and no others."""

    name: Name
    content_digest: Sha256
    target: Name
    target_digest: Sha256
    preprocess_digest: Sha256


class Images(Strict):
    """One row for each image in the dataset's order, as columns.

    ``sha256`` and ``size`` are of the file; ``label`` is a class's index; ``target`` and ``source``
    are the first five classes, the most probable first (fewer where there are fewer classes).
    ``source`` is None for an unpaired measurement.
    """

    path: Annotated[Column[Label], Field(min_length=1)]
    size: Column[Count]
    sha256: Column[Sha256]
    label: Column[Count]
    target: Column[Column[Count]]
    source: Optional[Column[Column[Count]]]


class AccuracyMeasurement(Strict):
    """The predictions of one target on one dataset, and of the source model beside them."""

    format: Literal["vitaie-accuracy"]
    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    subject: Subject
    dataset: Text
    dataset_digest: Sha256
    missing: Column[Text]
    batch_size: BatchSize
    threads: Threads
    images: Images
    environment: Environment


class Inputs(Strict):
    """What the timed calls were fed: the digest is over the sha256 of each input tensor."""

    kind: Literal["photographs", "goldens with seeded noise"]
    count: Positive
    seed: Count
    digest: Sha256


class Run(Strict):
    """One fresh process: its start, its warm-up, and every timed call.

    ``start_ns`` and ``end_ns`` are of a monotonic clock, one pair for each call, in order.
    """

    load_s: Seconds
    first_call_s: Seconds
    warm_up_calls: Count
    warm_up_s: Seconds
    start_ns: Column[Count]
    end_ns: Column[Count]
    peak_mib: Measure


class Honesty(Strict):
    """What was checked beside the clock.

    ``checked`` outputs of timed calls, chosen by ``seed``, were compared with an untimed run's, and
    ``differing`` of them were not equal. ``distinct_ms`` and ``repeated_ms`` are median latencies
    on distinct images and on one repeated image, measured in turns.
    """

    seed: Count
    checked: Count
    differing: Count
    distinct_ms: PositiveFloat
    repeated_ms: PositiveFloat
    artifacts_unchanged: bool


class PerformanceMeasurement(Strict):
    """The calls of one target, timed. ``placement`` is the share of operators on the device."""

    format: Literal["vitaie-performance"]
    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    subject: Subject
    boundary: Literal["device", "host", "end_to_end"]
    scenario: Literal["single_stream", "offline"]
    protocol: Literal["quick", "full"]
    batch_size: BatchSize
    threads: Threads
    inputs: Inputs
    runs: Annotated[Column[Run], Field(min_length=1, max_length=64)]
    honesty: Honesty
    placement: Annotated[Optional[float], Field(ge=0, le=1)]
    environment: Environment


Measurement = Union[AccuracyMeasurement, PerformanceMeasurement]
_Model = TypeVar("_Model", AccuracyMeasurement, PerformanceMeasurement)
_MODELS: dict[str, type[Measurement]] = {
    "vitaie-accuracy": AccuracyMeasurement,
    "vitaie-performance": PerformanceMeasurement,
}


def read_measurement(data: bytes, where: str) -> Measurement:
    """Read a record and check that its parts agree.

    Raises:
        InputError: ``E_RECORD`` with the field at fault.
        ManifestError: It is no strict JSON.
    """
    document = parse_object(data, where=where, limit=MAX_RECORD_BYTES, most=MOST)
    kind = document.get("format")
    del document  # as large as what is made of the same bytes next
    if not isinstance(kind, str) or kind not in _MODELS:
        raise InputError("E_RECORD", where, field="format", expected=" or ".join(_MODELS), got=kind)
    try:
        measurement = _MODELS[kind].model_validate_json(data)
    except ValidationError as error:
        details = min(error.errors(), key=lambda each: (-len(each["loc"]), field_path(each["loc"])))
        field = field_path(details["loc"])
        raise InputError("E_RECORD", where, field=field, expected=expectation(details)) from None
    for field, expected in faults(measurement):
        raise InputError("E_RECORD", where, field=field, expected=expected)
    return measurement


def to_bytes(measurement: Measurement) -> bytes:
    """Return the bytes of a record: ASCII, one line for each column, fields in order."""
    document: dict[str, Any] = measurement.model_dump(mode="json")
    return (json.dumps(document, indent=None, separators=(",", ":")) + "\n").encode("ascii")


def faults(measurement: Measurement) -> Iterator[tuple[str, str]]:
    """Yield the field and the rule of whatever in a record contradicts the rest of it."""
    if isinstance(measurement, AccuracyMeasurement):
        yield from _image_faults(measurement.images)
        yield from _path_faults(measurement)
    else:
        paces: list[list[int]] = []
        for index, run in enumerate(measurement.runs):
            yield from _run_faults(f"runs[{index}]", run)
            paces.append(_pace(run))
            if paces[-1] in paces[:-1]:
                yield f"runs[{index}].start_ns", "times of its own, no earlier run's"
        if measurement.scenario == "single_stream" and measurement.batch_size != 1:
            yield "batch_size", "1 for single_stream"
        yield from _honesty_faults(measurement)


def _pace(run: Run) -> list[int]:
    """Return when each call started, from the first one's start on: no two runs have the same."""
    return [start - run.start_ns[0] for start in run.start_ns]


def _honesty_faults(measurement: PerformanceMeasurement) -> Iterator[tuple[str, str]]:
    """Judge what was checked beside the clock by what the clock saw."""
    honesty, runs = measurement.honesty, measurement.runs
    most = MOST_CHECKED * len(runs)
    if honesty.checked > most:
        yield "honesty.checked", f"at most {most}, of {len(runs)} runs"
    if honesty.differing > honesty.checked:
        yield "honesty.differing", "at most as many as were checked"
    middle = median(chain.from_iterable(map(_latencies_ms, runs)))
    if not middle / ALIKE <= honesty.distinct_ms <= middle * ALIKE:
        yield "honesty.distinct_ms", f"a latency like the calls' {middle:.6g} ms"


def _image_faults(images: Images) -> Iterator[tuple[str, str]]:
    count = len(images.path)
    columns: list[tuple[str, Sequence[object]]] = [
        ("size", images.size),
        ("sha256", images.sha256),
        ("label", images.label),
        ("target", images.target),
    ]
    if images.source is not None:
        columns.append(("source", images.source))
    for name, column in columns:
        if len(column) != count:
            yield f"images.{name}", f"{count} elements, as images.path has"
    if len(set(zip(images.sha256, images.size))) != len(set(images.sha256)):
        yield "images.size", "one size for each digest"
    width = min(5, len(images.target[0])) if images.target else 0
    for name, rows in (("target", images.target), ("source", images.source or ())):
        if any(len(row) != width or len(set(row)) != width for row in rows) or width == 0:
            yield f"images.{name}", f"{width or 5} different classes for each image"


def _path_faults(measurement: AccuracyMeasurement) -> Iterator[tuple[str, str]]:
    """Judge where images lie in the dataset; one that is missing is none that was counted."""
    paths, missing = measurement.images.path, measurement.missing
    for field, column in (("images.path", paths), ("missing", missing)):
        if any(_leaves_dataset(path) for path in column):
            yield field, "paths below the dataset's folder"
        if any(one >= other for one, other in zip(column, column[1:])):
            yield field, "each path once, in order"
    if not set(paths).isdisjoint(missing):
        yield "missing", "none of the images that were counted"


def _leaves_dataset(path: str) -> bool:
    parts = path.split("/")
    return "" in parts or "." in parts or ".." in parts


def _run_faults(field: str, run: Run) -> Iterator[tuple[str, str]]:
    if not 0 < len(run.start_ns) == len(run.end_ns):
        yield f"{field}.end_ns", "as many calls as start_ns, and at least one"
        return
    if run.warm_up_calls > 1e6 * run.warm_up_s + 1:
        yield f"{field}.warm_up_calls", f"at most what {run.warm_up_s:.6g} s hold, at 1 us each"
    ends = chain((0,), run.end_ns)
    if any(not last <= start < end for last, start, end in zip(ends, run.start_ns, run.end_ns)):
        yield f"{field}.start_ns", "calls one after another, each ending after it starts"


def right(rows: Sequence[Sequence[int]], labels: Sequence[int], k: int) -> int:
    """Return on how many images the label is among the first ``k`` classes."""
    return sum(label in row[:k] for row, label in zip(rows, labels))


def accuracy_record(measurement: AccuracyMeasurement, evidence: str) -> dict[str, Any]:
    """Return what a manifest says of a measurement of accuracy, whose file is ``evidence``."""
    images = measurement.images
    count, labels, target, source = len(images.path), images.label, images.target, images.source
    record: dict[str, Any] = {
        "target_digest": measurement.subject.target_digest,
        "preprocess_digest": measurement.subject.preprocess_digest,
        "dataset": {
            "name": measurement.dataset,
            "digest": measurement.dataset_digest,
            "images": count,
            "missing": len(measurement.missing),
        },
        "batch_size": measurement.batch_size,
        "threads": measurement.threads,
        "top1": _rate(right(target, labels, 1), count),
        "top5": _rate(right(target, labels, 5), count),
        "source_top1": None,
        "source_top5": None,
        "paired": None,
        "agreement": None,
        "processor": measurement.environment.processor,
        "created": measurement.environment.created,
        "predictions": evidence,
    }
    if source is not None:
        pairs = [(t[0] == label, s[0] == label) for t, s, label in zip(target, source, labels)]
        record["source_top1"] = _rate(right(source, labels, 1), count)
        record["source_top5"] = _rate(right(source, labels, 5), count)
        record["paired"] = {
            "both": pairs.count((True, True)),
            "target_only": pairs.count((True, False)),
            "source_only": pairs.count((False, True)),
            "neither": pairs.count((False, False)),
        }
        record["agreement"] = sum(t[0] == s[0] for t, s in zip(target, source))
    return record


def _rate(count: int, n: int) -> dict[str, Any]:
    low, high = wilson95(count, n)
    return {"count": count, "percent": 100 * count / n, "wilson95": {"low": low, "high": high}}


def performance_record(
    measurement: PerformanceMeasurement,
    evidence: str,
    *,
    gflop: float,
    peak_tflops: Optional[float],
) -> dict[str, Any]:
    """Return what a manifest says of a measurement of speed, whose file is ``evidence``.

    Args:
        measurement: What was timed.
        evidence: Its file in the bundle.
        gflop: Of one image, a multiply-add counted as two.
        peak_tflops: What the hardware does at most; None when it is not known.
    """
    latencies = [_latencies_ms(run) for run in measurement.runs]
    pooled = list(chain.from_iterable(latencies))
    fps = frames_per_second(measurement)
    reasons = _reasons(measurement, latencies)
    if peak_tflops is not None and fps * gflop / 1000 > peak_tflops:
        reasons.append(
            f"{fps:.6g} images a second at {gflop} GFLOP each are more than the hardware's"
            f" {peak_tflops:.6g} TFLOPS: the timing is at fault"
        )
    return {
        "target_digest": measurement.subject.target_digest,
        "boundary": measurement.boundary,
        "scenario": measurement.scenario,
        "protocol": measurement.protocol,
        "batch_size": measurement.batch_size,
        "threads": measurement.threads,
        "inputs": measurement.inputs.kind,
        "processor": measurement.environment.processor,
        "created": measurement.environment.created,
        "verdict": "INVALID" if reasons else "VALID",
        "reasons": reasons,
        "fps": fps,
        "latency_ms": percentiles(pooled),
        "variation": coefficient_of_variation(pooled) if len(pooled) > 1 else 0.0,
        "placement": measurement.placement,
        "peak_mib": max(run.peak_mib for run in measurement.runs),
        "latencies": evidence,
    }


def frames_per_second(measurement: PerformanceMeasurement) -> float:
    """Return images over wall time, from each run's first call's start to its last one's end."""
    calls = sum(len(run.start_ns) for run in measurement.runs)
    wall_ns = sum(run.end_ns[-1] - run.start_ns[0] for run in measurement.runs)
    return calls * measurement.batch_size * 1e9 / wall_ns


def _latencies_ms(run: Run) -> list[float]:
    return [(end - start) / 1e6 for start, end in zip(run.start_ns, run.end_ns)]


def _reasons(measurement: PerformanceMeasurement, latencies: Sequence[list[float]]) -> list[str]:
    """Say why a measurement does not count; nothing when it does."""
    seconds, calls, runs = MINIMUM[measurement.protocol]
    reasons: list[str] = []
    inputs, needed = measurement.inputs.count, inputs_needed(measurement.batch_size)
    if inputs < needed:
        reasons.append(f"{inputs} different inputs, at least {needed} are needed")
    if len(measurement.runs) < runs:
        reasons.append(f"{len(measurement.runs)} runs, at least {runs} are needed")
    if sum(map(len, latencies)) < calls:
        reasons.append(f"{sum(map(len, latencies))} calls, at least {calls} are needed")
    for number, (run, times) in enumerate(zip(measurement.runs, latencies), 1):
        timed = (run.end_ns[-1] - run.start_ns[0]) / 1e9
        if timed < seconds:
            reasons.append(f"run {number} lasted {timed:.3g} s, at least {seconds:g} s are needed")
        if run.warm_up_calls < WARM_UP[0] or run.warm_up_s < WARM_UP[1]:
            reasons.append(
                f"run {number} was warmed up by {run.warm_up_calls} calls in {run.warm_up_s:.3g} s,"
                f" at least {WARM_UP[0]} and {WARM_UP[1]:g} s are needed"
            )
        if len(times) < 3:
            reasons.append(f"run {number} is too short to be seen as stable")
        elif not stability(times).stable:
            off = 100 * stability(times).deviation
            reasons.append(f"run {number} was not stable: a third of it lies {off:.3g}% off")
    reasons += _dishonesty(measurement.honesty)
    return reasons


def _dishonesty(honesty: Honesty) -> Iterator[str]:
    if honesty.checked == 0:
        yield "no output of a timed call was checked"
    if honesty.differing:
        yield f"{honesty.differing} of {honesty.checked} outputs of timed calls are not the model's"
    usual, short, limit_ms = REPEATED
    allowed = short if honesty.distinct_ms < limit_ms else usual
    if honesty.repeated_ms < (1 - allowed) * honesty.distinct_ms:
        yield (
            f"a repeated image took {honesty.repeated_ms:.4g} ms and distinct ones"
            f" {honesty.distinct_ms:.4g} ms: outputs are kept by input"
        )
    if not honesty.artifacts_unchanged:
        yield "the artifacts were changed while they were timed"
