"""Records of measurements: what is refused, and what follows from what was seen."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.measurements import DIGESTS, accuracy, performance
from vitaie.manifests.contents import AccuracyRecord, PerformanceRecord
from vitaie.manifests.errors import InputError, VitaieError
from vitaie.manifests.measurement import (
    MOST,
    AccuracyMeasurement,
    PerformanceMeasurement,
    accuracy_record,
    frames_per_second,
    performance_record,
    read_measurement,
    to_bytes,
)
from vitaie.manifests.statistics import wilson95
from vitaie.manifests.strict_json import SIGNS

Change = Callable[[dict[str, Any]], None]


def read(document: dict[str, Any]) -> Any:
    return read_measurement(json.dumps(document).encode(), "record.json")


def judged(document: dict[str, Any], peak_tflops: float | None = None) -> dict[str, Any]:
    measurement = read(document)
    assert isinstance(measurement, PerformanceMeasurement)
    path = "measurements/0/record.json"
    return performance_record(measurement, path, gflop=35.0, peak_tflops=peak_tflops)


@pytest.mark.parametrize("document", [accuracy(), performance()])
def test_a_record_is_read_as_it_was_written(document: dict[str, Any]) -> None:
    measurement = read(document)
    assert read_measurement(to_bytes(measurement), "again") == measurement
    assert json.loads(to_bytes(measurement)) == document


def test_the_counts_follow_from_the_predictions() -> None:
    measurement = read(accuracy())
    assert isinstance(measurement, AccuracyMeasurement)
    record = accuracy_record(measurement, "measurements/0/record.json")
    low, high = wilson95(3, 6)
    assert record["top1"] == {
        "count": 3,
        "percent": 50.0,
        "wilson95": {"low": low, "high": high},
    }
    assert record["top5"]["count"] == 6
    assert record["source_top1"]["count"] == 3
    assert record["paired"] == {"both": 2, "target_only": 1, "source_only": 1, "neither": 2}
    assert record["agreement"] == 4
    assert record["dataset"] == {"name": "val", "digest": DIGESTS[3], "images": 6, "missing": 1}


def test_without_a_source_nothing_is_said_of_one() -> None:
    document = accuracy()
    document["images"]["source"] = None
    record = accuracy_record(read(document), "x")
    pairs = ("source_top1", "source_top5", "paired", "agreement")
    assert [record[name] for name in pairs] == [None] * 4


def test_a_manifest_says_of_a_measurement_what_follows_from_it() -> None:
    unpaired = accuracy()
    unpaired["images"]["source"] = None
    for document in (accuracy(), unpaired):
        record = accuracy_record(read(document), "measurements/x.json")
        AccuracyRecord.model_validate_json(json.dumps(record))
    for document in (performance(), performance(calls=6636), performance(calls=3)):
        PerformanceRecord.model_validate_json(json.dumps(judged(document)))


def test_fps_is_images_over_wall_time_and_not_over_the_calls() -> None:
    measurement = read(performance())
    assert frames_per_second(measurement) == pytest.approx(1000 / (999 * 0.011 + 0.010))
    document = performance()
    document.update(scenario="offline", batch_size=8)
    assert frames_per_second(read(document)) == pytest.approx(8 * frames_per_second(measurement))


def test_a_steady_honest_run_is_valid() -> None:
    record = judged(performance())
    assert (record["verdict"], record["reasons"]) == ("VALID", [])
    assert record["latency_ms"] == {name: 10.0 for name in ("p50", "p90", "p95", "p99")}
    assert record["variation"] == 0.0
    assert judged(performance(calls=6636))["latency_ms"]["p99.9"] == 10.0


def _grow(document: dict[str, Any]) -> None:
    """Let one file be of several sizes."""
    document["images"].update(sha256=["0" * 64] * 6, size=[*range(6)])


def _set(path: str, value: Any) -> Change:
    *folders, last = path.split("/")

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for name in folders:
            place = place[int(name)] if name.isdigit() else place[name]
        place[last] = value

    return change


def _slow_third(document: dict[str, Any]) -> None:
    run = document["runs"][0]
    late = 0
    for index in range(1000):
        run["start_ns"][index] += late
        late += 2_000_000 * (index >= 667)
        run["end_ns"][index] += late


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_slow_third, "was not stable"),
        (_set("honesty/differing", 1), "1 of 8 outputs"),
        (_set("honesty/checked", 0), "no output"),
        (_set("honesty/repeated_ms", 8.9), "kept by input"),
        (_set("honesty/artifacts_unchanged", False), "were changed"),
        (_set("runs/0/warm_up_calls", 9), "warmed up by 9"),
        (_set("runs/0/warm_up_s", 0.9), "warmed up by 20"),
        (_set("protocol", "full"), "1 runs, at least 5"),
    ],
)
def test_whatever_makes_a_run_not_count_makes_it_invalid(spoil: Change, reason: str) -> None:
    document = performance()
    spoil(document)
    record = judged(document)
    assert record["verdict"] == "INVALID"
    assert any(reason in text for text in record["reasons"]), record["reasons"]


@pytest.mark.parametrize(("size", "needed"), [(1, 64), (32, 64), (33, 66), (1024, 2048)])
def test_fewer_inputs_than_the_protocol_gives_are_too_few(size: int, needed: int) -> None:
    document: dict[str, Any] = {**performance(), "scenario": "offline", "batch_size": size}
    document["inputs"] = {**document["inputs"], "count": needed}
    assert judged(document)["verdict"] == "VALID"
    document["inputs"] = {**document["inputs"], "count": needed - 1}
    reason = f"{needed - 1} different inputs, at least {needed} are needed"
    assert judged(document)["reasons"] == [reason]


def test_runs_that_are_one_run_are_refused() -> None:
    document = performance(runs=5)
    assert judged(document)["verdict"] in ("VALID", "INVALID")
    document["runs"][3] = document["runs"][1]
    with pytest.raises(InputError) as caught:
        read(document)
    assert caught.value.field == "runs[3].start_ns"


def test_a_record_may_hold_the_images_that_imagenet_trains_on() -> None:
    rows = 1000
    columns: list[list[object]] = [["a.jpg"] * rows, [1] * rows, ["0" * 64] * rows, [0] * rows]
    classes: list[list[object]] = [[[0, 1, 2, 3, 4]] * rows] * 2
    text = json.dumps(columns + classes).encode("ascii")
    for name in ("brackets", "commas"):
        found = sum(map(text.count, SIGNS[name]))
        assert found / rows * 1_281_167 < MOST[name]


def test_a_run_that_is_another_a_moment_later_is_refused() -> None:
    document = performance(runs=2)
    one, other = document["runs"]
    for name in ("start_ns", "end_ns"):
        other[name] = [time + 1 for time in one[name]]
    with pytest.raises(InputError) as caught:
        read(document)
    assert caught.value.field == "runs[1].start_ns"


def test_a_record_of_thousands_of_fields_is_refused() -> None:
    fields = {f"field{number}": 0 for number in range(5000)}
    with pytest.raises(VitaieError) as caught:
        read({**accuracy(), **fields})
    assert "at most 4096 colons" in str(caught.value)


def test_a_short_run_is_invalid() -> None:
    reasons = judged(performance(calls=63))["reasons"]
    assert len(reasons) == 2
    assert "63 calls, at least 64" in reasons[0]
    assert "at least 10 s" in reasons[1]


def test_short_calls_may_gain_more_from_a_repeated_image() -> None:
    document = performance(calls=10_000, call_ns=100_000)
    document["honesty"].update(distinct_ms=0.1, repeated_ms=0.081)
    assert judged(document)["verdict"] == "VALID"
    document["honesty"].update(repeated_ms=0.079)
    assert judged(document)["verdict"] == "INVALID"


def test_more_than_the_hardware_can_do_is_invalid() -> None:
    fps = judged(performance())["fps"]
    assert judged(performance(), peak_tflops=1.01 * fps * 35 / 1000)["verdict"] == "VALID"
    record = judged(performance(), peak_tflops=0.99 * fps * 35 / 1000)
    assert "TFLOPS" in record["reasons"][0]


@pytest.mark.parametrize(
    ("document", "change", "field"),
    [
        (accuracy(), _set("format", "vitaie-speed"), "format"),
        (accuracy(), _set("format_version", 2), "format_version"),
        (accuracy(), _set("more", 1), "more"),
        (accuracy(), _set("images/size", [100] * 5), "images.size"),
        (accuracy(), _grow, "images.size"),
        (performance(), _set("honesty/checked", 21), "honesty.checked"),
        (performance(), _set("honesty/distinct_ms", 0.19), "honesty.distinct_ms"),
        (performance(), _set("runs/0/warm_up_calls", 2**52), "runs[0].warm_up_calls"),
        (performance(), _set("runs/0/load_s", 1e300), "runs[0].load_s"),
        (accuracy(), _set("images/source", [[0, 1, 2]] * 5), "images.source"),
        (accuracy(), _set("images/path", [f"{n}.png" for n in (0, 1, 2, 2, 4, 5)]), "images.path"),
        (accuracy(), _set("images/target", [[0, 1, 2]] * 5 + [[0, 1, 1]]), "images.target"),
        (accuracy(), _set("images/target", [[0, 1, 2]] * 5 + [[0, 1]]), "images.target"),
        (accuracy(), _set("images/label", [0, 1, 2, 0, 1, -2]), "images.label[5]"),
        (performance(), _set("runs", []), "runs"),
        (performance(), _set("runs/0/start_ns", []), "runs[0].end_ns"),
        (performance(), _set("runs/0/end_ns", [1] * 1000), "runs[0].start_ns"),
        (performance(), _set("batch_size", 2), "batch_size"),
        *[
            (accuracy(), _set("missing", paths), "missing")
            for paths in (["a.png", "a.png"], ["b.png", "a.png"], ["3.png"], ["../a.png"], ["/a"])
        ],
        *[
            (
                accuracy(),
                _set("images/path", [*(f"{n}.png" for n in range(5)), path]),
                "images.path",
            )
            for path in ("/x.png", "a/../b.png", "x/./y.png", "x//y.png", "..", "x/")
        ],
        (accuracy(), _set("batch_size", 1025), "batch_size"),
        (accuracy(), _set("images/label", [0, "1", {}, [], None, -1]), "images.label[1]"),
        (accuracy(), _set("threads", 1025), "threads"),
        (performance(), _set("threads", 200_000), "threads"),
        (performance(), _set("honesty/differing", 9), "honesty.differing"),
        (performance(), _set("runs/0/peak_mib", "much"), "runs[0].peak_mib"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    document: dict[str, Any], change: Change, field: str
) -> None:
    spoiled = copy.deepcopy(document)
    change(spoiled)
    with pytest.raises(InputError) as caught:
        read(spoiled)
    assert (caught.value.code, caught.value.field) == ("E_RECORD", field)


def test_what_is_no_json_is_refused() -> None:
    for data in (
        b"",
        b"[]",
        b'{"format": "vitaie-accuracy", "format": "vitaie-accuracy"}',
        b"\xff",
    ):
        with pytest.raises(VitaieError) as caught:
            read_measurement(data, "record.json")
        assert caught.value.code.startswith("E_")
