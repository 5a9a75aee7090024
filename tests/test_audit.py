"""An audit recomputes every published number, and finds each one that does not follow."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.bundles import Document, copy_bundle, document, put, reseal
from tests.support.published import Evidence, forge, publish, replace_evidence
from vitaie.manifests.contents import LevelRecord
from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, InputError
from vitaie.manifests.gates import Facts, Gate, Outcome, judge, parse_gate
from vitaie.manifests.levels import choose_level, level_that_ships
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    PerformanceMeasurement,
    accuracy_record,
    performance_record,
    read_measurement,
    to_bytes,
)
from vitaie.manifests.statistics import wilson95
from vitaie.runtime._audit import Finding, audit
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._environment import collect, peak_tflops
from vitaie.runtime._evaluate import evaluate

GATES = ("top1>=0.0", "top5>=50.0", "fps>=50.0", "latency_p99_ms<=40.0")


def photographs(folder: Path, count: int = 40) -> Path:
    """Write so many different pictures into class folders of the small bundle's."""
    chance = np.random.default_rng(1)
    for number in range(count):
        path = folder / f"c{number % 5}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(path)
    return folder


@pytest.fixture(scope="session")
def accuracy(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> AccuracyMeasurement:
    """Return what the small bundle's default engine predicts, a made-up source model beside it."""
    data = photographs(tmp_path_factory.mktemp("audited") / "val")
    measurement = evaluate(small_bundle, data, target="cpu", threads=1, paired=False).measurement
    rows = list(measurement.images.target)
    rows[3] = (*rows[3][1:], rows[3][0])
    images = measurement.images.model_copy(update={"source": tuple(rows)})
    return measurement.model_copy(update={"images": images})


@pytest.fixture(scope="session")
def speed(accuracy: AccuracyMeasurement) -> PerformanceMeasurement:
    """Return 1,200 calls of 10 ms, a little apart."""
    starts = [number * 10_100_000 for number in range(1200)]
    run = {
        "load_s": 0.5,
        "first_call_s": 0.2,
        "warm_up_calls": 20,
        "warm_up_s": 1.1,
        "start_ns": tuple(starts),
        "end_ns": tuple(start + 10_000_000 + start % 7 for start in starts),
        "peak_mib": 100.5,
    }
    honesty = {"distinct_ms": 10.0, "repeated_ms": 10.0, "artifacts_unchanged": True}
    fields: dict[str, Any] = {
        "format": "vitaie-performance",
        "format_version": 1,
        "subject": accuracy.subject,
        "boundary": "host",
        "scenario": "single_stream",
        "protocol": "quick",
        "batch_size": 1,
        "threads": 1,
        "inputs": {"kind": "photographs", "count": 64, "seed": 1, "digest": "0" * 64},
        "runs": (run,),
        "honesty": {"seed": 1, "checked": 8, "differing": 0, **honesty},
        "placement": 1.0,
        "environment": collect(),
    }
    return PerformanceMeasurement.model_validate(fields)


@pytest.fixture
def bundle(
    small_bundle: Path,
    tmp_path: Path,
    accuracy: AccuracyMeasurement,
    speed: PerformanceMeasurement,
) -> Path:
    folder = copy_bundle(small_bundle, tmp_path / "store" / "small_vit" / "1.0.0")
    return publish(folder, accuracy, speed, require=GATES)


def findings(bundle: Path) -> list[Finding]:
    with open_bundle(bundle) as opened:
        return list(audit(opened))


def wrong(bundle: Path) -> list[str]:
    return [each.claim for each in findings(bundle) if each.status == "does not follow"]


# What follows


def test_every_published_number_of_a_true_bundle_follows(bundle: Path) -> None:
    found = {each.claim: each for each in findings(bundle)}
    assert {each.status for each in found.values()} == {"follows", "not checked"}
    whole = document(bundle)
    for kind, skipped in (("accuracy", "predictions"), ("performance", "latencies")):
        for name, value in flat(whole[kind][0]):
            if name != skipped:
                each = found[f"{kind}[0].{name}"]
                assert each.status == "follows"
                assert each.published == value
    for index in range(len(GATES)):
        assert found[f"gates[{index}]"].status == "follows"
    for name in ("model.parameters", "model.gflop", "goldens[0].margin", "accuracy[0].predictions"):
        assert found[name].status == "follows"
    assert found["performance[0].fps against the hardware's peak"].status != "does not follow"
    assert "vitaie verify" in found["artifacts"].why


def flat(value: Document, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, member in value.items():
        if isinstance(member, dict):
            yield from flat(member, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        elif not isinstance(member, list):
            yield prefix + name, member


def test_a_bundle_without_measurements_says_that_nothing_is_claimed(small_bundle: Path) -> None:
    claimed = [each for each in findings(small_bundle) if each.status == "not claimed"]
    assert [(each.claim, each.why) for each in claimed] == [
        ("accuracy and performance", "nothing is claimed: not measured")
    ]
    assert wrong(small_bundle) == []


# Falsified numbers


def at(path: str, value: Callable[[Any], Any]) -> Callable[[Document], None]:
    """Return a change of one field of a manifest, such as ``performance.0.fps``."""
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("/"))

    def change(whole: Document) -> None:
        place: Any = whole
        for step in steps:
            place = place[step]
        place[last] = value(place[last])

    return change


def more_top1(whole: Document) -> None:
    """Claim five more images right, and everything that goes with it."""
    record = whole["accuracy"][0]
    for cells, count in (("paired", 5), ("top1", 5), ("top5", 0)):
        if cells == "paired":
            record["paired"]["target_only"] += count
            record["paired"]["neither"] -= count
            continue
        rate, images = record[cells], record["dataset"]["images"]
        rate["count"] += count
        low, high = wilson95(rate["count"], images)
        rate["percent"] = 100 * rate["count"] / images
        rate["wilson95"] = {"low": low, "high": high}
    record["agreement"] -= 5  # more than they can agree on now


def moved_cells(whole: Document) -> None:
    """Hide a disagreement: one image more is right in both and in neither."""
    paired = whole["accuracy"][0]["paired"]
    for name, step in (("both", 1), ("neither", 1), ("target_only", -1), ("source_only", -1)):
        paired[name] += step


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (more_top1, "accuracy[0].top1.count"),
        (
            at("accuracy/0/top1/wilson95/low", lambda low: low + 0.5),
            "accuracy[0].top1.wilson95.low",
        ),
        (at("accuracy/0/top5/wilson95/low", lambda low: low + 1), "accuracy[0].top5.wilson95.low"),
        (at("accuracy/0/agreement", lambda count: count - 1), "accuracy[0].agreement"),
        (at("accuracy/0/dataset/digest", lambda _: "1" * 64), "accuracy[0].dataset.digest"),
        (at("accuracy/0/dataset/name", lambda _: "ImageNet"), "accuracy[0].dataset.name"),
        (at("accuracy/0/dataset/missing", lambda _: 1), "accuracy[0].dataset.missing"),
        (at("accuracy/0/batch_size", lambda _: 1), "accuracy[0].batch_size"),
        (at("accuracy/0/created", lambda _: "2030-01-01T00:00:00Z"), "accuracy[0].created"),
        (at("performance/0/fps", lambda fps: 3 * fps), "performance[0].fps"),
        (at("performance/0/fps", lambda fps: fps * (1 + 1e-6)), "performance[0].fps"),
        (at("performance/0/latency_ms/p50", lambda ms: ms / 2), "performance[0].latency_ms.p50"),
        (at("performance/0/latency_ms/p99.9", lambda _: 11.0), "performance[0].latency_ms.p99.9"),
        (at("performance/0/variation", lambda _: 0.0), "performance[0].variation"),
        (at("performance/0/protocol", lambda _: "full"), "performance[0].protocol"),
        (at("performance/0/threads", lambda _: 4), "performance[0].threads"),
        (at("performance/0/processor", lambda _: "a device"), "performance[0].processor"),
        (at("performance/0/placement", lambda _: 0.5), "performance[0].placement"),
        (at("performance/0/peak_mib", lambda _: 1.0), "performance[0].peak_mib"),
        (at("gates/2/reason", lambda _: "300 images a second"), "gates[2]"),
        (at("gates/2/require", lambda _: "fps>=300.0"), "gates[2]"),
        (at("goldens/0/margin", lambda margin: margin + 1), "goldens[0].margin"),
        (at("model/gflop", lambda gflop: gflop / 2), "model.gflop"),
        (at("model/parameters", lambda count: count + 1), "model.parameters"),
        (at("targets/0/agreement/images", lambda _: 1000), "targets[0].agreement.images"),
    ],
)
def test_a_number_that_its_evidence_does_not_give_is_found(
    bundle: Path, change: Callable[[Document], None], claim: str
) -> None:
    def also(whole: Document) -> None:
        if "p99.9" in claim:  # which 1,200 calls are too few for
            whole["performance"][0]["latency_ms"]["p99.9"] = 0.0
        if claim == "targets[0].agreement.images":
            agreement = whole["targets"][0]["agreement"]
            agreement["logits_sha256"] = agreement["logits_sha256"][:1] * 1000
        if claim.startswith("accuracy[0].paired"):
            return
        change(whole)

    reseal(bundle, also)
    assert claim in wrong(bundle)


def test_a_hidden_disagreement_is_found(bundle: Path) -> None:
    def hide(evidence: Evidence) -> None:
        """Make one image right in the target only and one in the source only."""
        images = evidence["images"]
        for row, column in ((0, "target"), (1, "source")):
            label = images["label"][row]
            other = (label + 1) % 5
            rest = [index for index in range(5) if index not in (label, other)]
            for name in ("target", "source"):
                first = label if name == column else other
                images[name][row] = [first, *(i for i in (label, other) if i != first), *rest]

    forge(bundle, "accuracy", hide)
    reseal(bundle, lambda whole: whole.update(gates=[]))
    assert wrong(bundle) == []
    reseal(bundle, moved_cells)
    assert set(wrong(bundle)) == {
        f"accuracy[0].paired.{name}" for name in ("both", "target_only", "source_only", "neither")
    }


def test_a_measurement_that_does_not_count_cannot_be_called_valid(bundle: Path) -> None:
    def shorten(evidence: Evidence) -> None:
        for run in evidence["runs"]:
            run["start_ns"], run["end_ns"] = run["start_ns"][:70], run["end_ns"][:70]

    reseal(bundle, lambda whole: whole.update(gates=[]))
    forge(bundle, "performance", shorten)
    assert document(bundle)["performance"][0]["verdict"] == "INVALID"
    assert wrong(bundle) == []
    reseal(bundle, lambda whole: whole["performance"][0].update(verdict="VALID", reasons=[]))
    assert wrong(bundle) == ["performance[0].verdict", "performance[0].reasons"]


def test_a_speed_above_the_hardwares_peak_is_found(bundle: Path) -> None:
    def hasten(evidence: Evidence) -> None:
        evidence["environment"]["features"] = ["sse2"]
        for run in evidence["runs"]:
            run["start_ns"] = [2000 * number for number in range(6_000_000 // 1000)]
            run["end_ns"] = [start + 1000 for start in run["start_ns"]]
        evidence["honesty"].update(distinct_ms=0.001, repeated_ms=0.001)

    reseal(bundle, lambda whole: whole.update(gates=[], model={**whole["model"], "gflop": 35.0}))
    forge(bundle, "performance", hasten)
    reseal(bundle, lambda whole: whole["performance"][0].update(verdict="VALID", reasons=[]))
    found = wrong(bundle)
    assert "performance[0].fps against the hardware's peak" in found
    assert "performance[0].verdict" in found


@pytest.mark.parametrize(
    ("field", "value", "claim"),
    [
        ("name", "another", "accuracy[0].predictions.subject.name"),
        ("target", "torchscript-cpu-fp32", "accuracy[0].predictions.subject.target"),
        ("target_digest", "1" * 64, "accuracy[0].target_digest"),
        ("preprocess_digest", "1" * 64, "accuracy[0].preprocess_digest"),
    ],
)
def test_evidence_of_something_else_is_found(
    bundle: Path, field: str, value: str, claim: str
) -> None:
    path = document(bundle)["accuracy"][0]["predictions"]
    evidence = json.loads((bundle / path).read_bytes())
    evidence["subject"][field] = value
    replace_evidence(bundle, path, json.dumps(evidence).encode())
    also = [f"accuracy[0].predictions.subject.{field}"] * (field == "preprocess_digest")
    assert wrong(bundle) == [claim, *also]


def test_evidence_under_another_name_is_found(bundle: Path) -> None:
    path = document(bundle)["accuracy"][0]["predictions"]
    other = "measurements/accuracy-0123456789ab.json"
    (bundle / path).rename(bundle / other)
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    (bundle / "manifest.json").write_text(text.replace(path, other), encoding="utf-8")
    reseal(bundle, lambda whole: whole.update(gates=[]))
    assert wrong(bundle) == ["accuracy[0].predictions"]


@pytest.mark.parametrize(
    ("kind", "evidence"), [("accuracy", "predictions"), ("performance", "latencies")]
)
def test_evidence_in_other_bytes_is_found(bundle: Path, kind: str, evidence: str) -> None:
    path = document(bundle)[kind][0][evidence]
    data = (bundle / path).read_bytes().replace(b",", b", ", 1)
    name = f"measurements/{kind}-{sha256(data)[:12]}.json"
    (bundle / path).unlink()
    (bundle / name).write_bytes(data)
    text = (bundle / "manifest.json").read_text(encoding="utf-8").replace(path, name)
    (bundle / "manifest.json").write_text(text, encoding="utf-8")
    reseal(bundle, lambda whole: whole.update(gates=[]))
    found = [each for each in findings(bundle) if each.status == "does not follow"]
    assert [each.claim for each in found] == [f"{kind}[0].{evidence}"]
    assert "as vitaie-build attach writes them" in found[0].why


def test_no_gate_is_judged_by_the_peak_of_a_device_that_a_name_alone_says(bundle: Path) -> None:
    from vitaie.builder.gate import judge_bundle

    reseal(bundle, lambda whole: whole.update(gates=[]))
    other = "ascend310p3-fp16-b1-o0"
    forge(bundle, "performance", lambda evidence: evidence["subject"].update(target=other))
    with pytest.raises(BundleError) as caught:
        judge_bundle(bundle, [parse_gate("fps>=1.0")])
    assert (caught.value.code, caught.value.field) == ("E_BUNDLE_EVIDENCE", "subject.target")


def test_a_source_that_differs_from_itself_is_found(bundle: Path) -> None:
    torchscript = document(bundle)["targets"][1]

    def of_the_source(evidence: Evidence) -> None:
        digest = torchscript["target_digest"]
        evidence["subject"].update(target=torchscript["id"], target_digest=digest)
        evidence["images"]["target"][0].reverse()

    reseal(bundle, lambda whole: whole.update(gates=[]))
    forge(bundle, "accuracy", of_the_source)
    found = [each for each in findings(bundle) if each.status == "does not follow"]
    assert [each.claim for each in found] == ["accuracy[0].predictions"]
    assert "images.source" in found[0].why


def test_many_gates_and_records_are_judged_in_bounded_time(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product of all would be a million judgements."""

    def grow(whole: Document) -> None:
        digest = whole["targets"][0]["target_digest"]
        whole["gates"] = [
            {
                "require": f"top1>={number}.5",
                "target_digest": digest,
                "verdict": "pass",
                "reason": "because",
            }
            for number in range(64)
        ]
        whole["accuracy"] = whole["accuracy"][:1] * 128
        whole["performance"] = whole["performance"][:1] * 128

    judged: list[object] = []

    def counted(gate: Gate, facts: Facts) -> Outcome:
        judged.append(gate)
        return judge(gate, facts)

    monkeypatch.setattr("vitaie.runtime._audit.judge", counted)
    reseal(bundle, grow)
    found = wrong(bundle)
    assert len(judged) == 64
    assert {f"gates[{number}]" for number in range(64)} <= set(found)


@pytest.mark.parametrize(
    ("kind", "evidence"), [("accuracy", "predictions"), ("performance", "latencies")]
)
def test_the_same_evidence_twice_is_found(bundle: Path, kind: str, evidence: str) -> None:
    reseal(bundle, lambda whole: whole[kind].append(whole[kind][0]))
    assert wrong(bundle) == [f"{kind}[1].{evidence} once"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"placement": 0.5}, "placement"),
        ({"placement": None}, "placement"),
        ({"boundary": "device"}, "boundary"),
    ],
)
def test_speed_that_the_target_cannot_have_is_found(
    bundle: Path, change: dict[str, Any], why: str
) -> None:
    reseal(bundle, lambda whole: whole.update(gates=[]))
    forge(bundle, "performance", lambda evidence: evidence.update(change))
    found = [each for each in findings(bundle) if each.status == "does not follow"]
    assert [each.claim for each in found] == ["performance[0].latencies"]
    assert f" {why}: " in found[0].why


def test_classes_that_the_model_has_not_are_found(bundle: Path) -> None:
    def add(evidence: Evidence) -> None:
        for name in ("target", "source"):
            evidence["images"][name][0][-1] = 5

    reseal(bundle, lambda whole: whole.update(gates=[]))
    forge(bundle, "accuracy", add)
    found = [each for each in findings(bundle) if each.status == "does not follow"]
    assert [each.claim for each in found] == ["accuracy[0].predictions"]
    assert "classes below 5" in found[0].why


def test_evidence_of_a_version_with_other_contents_is_said_to_be_so(bundle: Path) -> None:
    forge(bundle, "accuracy", lambda evidence: evidence["subject"].update(content_digest="1" * 64))
    claim = "accuracy[0].predictions.subject.content_digest"
    found = {each.claim: each.status for each in findings(bundle)}
    assert found[claim] == "not checked"
    assert wrong(bundle) == []


@pytest.mark.parametrize("data", [b"", b"{}", b"1\n", b'{"format": "vitaie-accuracy"}'])
def test_evidence_that_is_none_is_found(bundle: Path, data: bytes) -> None:
    put(bundle, document(bundle)["accuracy"][0]["predictions"], data)
    assert "accuracy[0].predictions" in wrong(bundle)


def test_evidence_that_was_changed_after_it_was_published_is_found(bundle: Path) -> None:
    path = bundle / document(bundle)["accuracy"][0]["predictions"]
    path.write_bytes(path.read_bytes().replace(b'"label":[0,', b'"label":[1,'))
    found = {each.claim: each for each in findings(bundle)}["accuracy[0].predictions"]
    assert found.status == "does not follow"
    assert "E_BUNDLE_FILE_DIGEST" in found.why


def test_the_digest_of_a_dataset_is_of_its_rows_whatever_the_evidence_says(bundle: Path) -> None:
    path = document(bundle)["accuracy"][0]["predictions"]
    evidence = json.loads((bundle / path).read_bytes())
    evidence["images"]["sha256"][0] = "1" * 64
    replace_evidence(bundle, path, json.dumps(evidence).encode())
    assert wrong(bundle) == [
        "accuracy[0].dataset.digest",
        "accuracy[0].predictions.dataset_digest",
    ]


# Levels


def with_levels(bundle: Path, speed: PerformanceMeasurement, chosen: int, fps: list[float]) -> Path:
    """Publish the levels 0, 1 and 2, measured at so many images a second each."""
    whole = document(bundle)
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    files = {artifact.path: artifact.sha256 for artifact in manifest.artifacts}
    ships = manifest.targets[0]
    assert ships.optim_level == 2
    levels: list[Document] = []
    measurements: list[PerformanceMeasurement] = []
    for level, rate in enumerate(fps):
        digest = ships.model_copy(update={"optim_level": level}).digest(files)
        run = speed.runs[0]
        scale = 100 / rate
        times = {
            name: tuple(round(each * scale) for each in getattr(run, name))
            for name in ("start_ns", "end_ns")
        }
        subject = speed.subject.model_copy(update={"target_digest": digest})
        measurement = speed.model_copy(
            update={"runs": (run.model_copy(update=times),), "subject": subject}
        )
        measurements.append(measurement)
        peak = peak_tflops(measurement.environment, measurement.threads)
        record = performance_record(
            measurement, "", gflop=whole["model"]["gflop"], peak_tflops=peak
        )
        names = ("target_digest", "boundary", "scenario", "batch_size", "fps", "verdict")
        levels.append({"optim_level": level, **{name: record[name] for name in names}})
    publish(bundle, *measurements[-1:])
    rows = document(bundle)["artifacts"]
    for row, measurement in zip(levels, measurements):
        data = to_bytes(measurement)
        path = f"measurements/performance-{sha256(data)[:12]}.json"
        if not (bundle / path).exists():
            (bundle / path).write_bytes(data)
            entry: Document = {
                "path": path,
                "role": "measurement",
                "size": 0,
                "sha256": "",
                "chunks": [],
            }
            rows.append(entry)
        row.update(gates=[], latencies=path, predictions=None, chosen=row["optim_level"] == chosen)
    whole = {**document(bundle), "artifacts": rows}
    (bundle / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    reseal(bundle, lambda whole: whole.update(levels=levels))
    return bundle


def test_a_table_of_levels_follows_from_what_was_measured_of_each(
    small_bundle: Path, tmp_path: Path, speed: PerformanceMeasurement
) -> None:
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    with_levels(bundle, speed, 2, [50, 80, 100])
    assert wrong(bundle) == []
    reseal(bundle, at("levels/1/fps", lambda fps: fps / 2))
    assert wrong(bundle) == ["levels[1].fps"]


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("threads", 64),
        ("environment.processor", "another"),
        ("environment.packages", {"numpy": "0"}),
        ("inputs.digest", "1" * 64),
        ("placement", 0.1),
        ("subject.preprocess_digest", "1" * 64),
    ],
)
def test_a_level_that_was_measured_otherwise_is_found(
    small_bundle: Path, tmp_path: Path, speed: PerformanceMeasurement, claim: str, value: object
) -> None:
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    with_levels(bundle, speed, 2, [50, 80, 100])
    path = document(bundle)["levels"][1]["latencies"]
    evidence: Evidence = json.loads((bundle / path).read_bytes())
    *above, name = claim.split(".")
    inner: Evidence = evidence[above[0]] if above else evidence
    inner[name] = value
    replace_evidence(bundle, path, json.dumps(evidence).encode())
    assert wrong(bundle) == [f"levels[1].latencies.{claim}"]


def test_levels_are_held_to_the_same_gates(
    small_bundle: Path, tmp_path: Path, speed: PerformanceMeasurement
) -> None:
    """A gate that nobody else has would take the fastest level out."""
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    with_levels(bundle, speed, 2, [500, 80, 100])

    def add(whole: Document) -> None:
        level = whole["levels"][0]
        level["gates"] = [
            {
                "require": "latency_p50_ms<=0.001",
                "target_digest": level["target_digest"],
                "verdict": "fail",
                "reason": "p50 is 2 ms",
            }
        ]

    reseal(bundle, add)
    assert "levels[0].gates" in wrong(bundle)


def test_the_level_that_ships_is_the_one_whose_turn_it_was(speed: PerformanceMeasurement) -> None:
    def level(number: int, fps: float, top1: str, predictions: str | None) -> LevelRecord:
        digest = f"{number:064x}"
        rows = [("fps>=1.0", "pass"), ("top1>=1.0", top1)]
        gates = [
            {"require": text, "target_digest": digest, "verdict": verdict, "reason": ""}
            for text, verdict in rows
        ]
        return LevelRecord.model_validate_json(
            json.dumps(
                {
                    "optim_level": number,
                    "target_digest": digest,
                    "boundary": "host",
                    "scenario": "single_stream",
                    "batch_size": 1,
                    "fps": fps,
                    "verdict": "VALID",
                    "gates": gates,
                    "latencies": "measurements/a.json",
                    "predictions": predictions,
                    "chosen": False,
                }
            )
        )

    evaluated = "measurements/b.json"
    slow, passes = level(0, 50, "undecidable", None), level(1, 100, "pass", evaluated)
    assert level_that_ships([slow, passes]) == passes
    never, failed = level(2, 200, "undecidable", None), level(2, 200, "fail", evaluated)
    assert level_that_ships([slow, passes, never]) == never
    assert level_that_ships([slow, passes, failed]) == passes
    assert level_that_ships([failed]) is None
    assert level_that_ships([slow, failed]) == slow


def test_a_level_named_after_a_faster_device_is_found(
    small_bundle: Path, tmp_path: Path, speed: PerformanceMeasurement
) -> None:
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    with_levels(bundle, speed, 2, [50, 80, 100])
    path = document(bundle)["levels"][0]["latencies"]
    evidence = json.loads((bundle / path).read_bytes())
    evidence["subject"]["target"] = "ascend310p3-fp16-b1-o0"
    replace_evidence(bundle, path, json.dumps(evidence).encode())
    assert wrong(bundle) == ["levels[0].latencies.subject.target"]


def test_a_choice_of_a_slower_level_is_found(
    small_bundle: Path, tmp_path: Path, speed: PerformanceMeasurement
) -> None:
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    with_levels(bundle, speed, 2, [50, 100, 80])
    assert wrong(bundle) == ["levels.chosen"]


def test_the_lowest_level_within_5_percent_of_the_fastest_is_chosen(
    small_bundle: Path, tmp_path: Path, speed: PerformanceMeasurement
) -> None:
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    with_levels(bundle, speed, 2, [50, 96, 100])
    with open_bundle(bundle) as opened:
        levels = opened.manifest.levels
    best = choose_level(levels)
    assert best is not None
    assert best.optim_level == 1
    slow = [level.model_copy(update={"verdict": "INVALID"}) for level in levels]
    assert choose_level(slow) is None


# A whole store


def run_audit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    from vitaie.builder.cli import app
    from vitaie.runtime._command import run

    code = run(app, "vitaie-build", ["audit", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_store_is_audited_version_by_version(
    bundle: Path, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    copy_bundle(small_bundle, bundle.parent / "0.9.0")
    copy_bundle(bundle, store / "twin" / "10.0.0")
    copy_bundle(bundle, store / "twin" / "9.0.0")
    (store / "twin" / ".staging-1").mkdir()
    (store / "notes").mkdir()
    code, out, err = run_audit(capsys, store, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["versions"], document["holds"]) == (4, True)
    folders = dict.fromkeys(row["bundle"] for row in document["findings"])
    names = [str(Path(folder).relative_to(store)) for folder in folders]
    assert names == ["small_vit/0.9.0", "small_vit/1.0.0", "twin/9.0.0", "twin/10.0.0"]
    for narrower, versions in ((store / "twin", 2), (bundle, 1)):
        assert json.loads(run_audit(capsys, narrower, "--json")[1])["versions"] == versions


def test_one_line_for_each_claim_and_the_verdict_last(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_audit(capsys, bundle)
    *lines, last = out.splitlines()
    assert code == 0
    assert len(lines) == len(findings(bundle))
    assert last.startswith(f"FOLLOWS: {sum(line.startswith('follows') for line in lines)} follows")
    assert err.splitlines()[-1] == f"next: vitaie verify {bundle}"

    reseal(bundle, at("performance/0/fps", lambda fps: 3 * fps))
    code, out, _ = run_audit(capsys, bundle)
    (line,) = [line for line in out.splitlines() if line.startswith("does not follow")]
    assert code == 1
    assert "performance[0].fps: " in line
    assert "follows from measurements/performance-" in line
    assert out.splitlines()[-1].startswith("DOES NOT FOLLOW: ")


def test_a_bundle_that_does_not_open_is_a_finding_and_the_rest_is_audited(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = copy_bundle(bundle, bundle.parent / "0.1.0")
    (broken / "labels.txt").unlink()
    shutil.copytree(bundle, tmp_path / "store" / "zzz" / "1.0.0")
    code, out, _ = run_audit(capsys, tmp_path / "store")
    (line,) = [line for line in out.splitlines() if line.startswith("does not follow")]
    assert code == 1
    assert "E_BUNDLE_FILE_MISSING" in line
    assert len(out.splitlines()) == 2 * len(findings(bundle)) + 2


def test_no_weight_is_read(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((bundle / "model.ts").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.ts").write_bytes(data)
    code, out, _ = run_audit(capsys, bundle)
    assert code == 0
    assert f"no weights: vitaie verify {bundle}" in out


@pytest.mark.parametrize("first", [*"=+-@", *"\uff1d\uff0b\uff0d\uff20"])
def test_a_cell_that_a_spreadsheet_would_compute_is_quoted(first: str) -> None:
    from vitaie.builder.audit import Row, to_csv

    finding = Finding("claim", f"{first}1+1", None, "follows", "")
    (row,) = csv.DictReader(io.StringIO(to_csv([Row(Path("b"), "1.0.0", finding)]).decode()))
    assert row["published"] == f"'{first}1+1"


def test_the_findings_are_written_for_spreadsheets(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(bundle, "accuracy", lambda evidence: evidence.update(dataset="=1+1"))
    file = tmp_path / "audit.csv"
    code, out, _ = run_audit(capsys, bundle, "--csv", file)
    assert code == 0, out
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert len(rows) == len(out.splitlines()) - 1
    (named,) = [row for row in rows if row["claim"] == "accuracy[0].dataset.name"]
    assert (named["published"], named["status"]) == ("'=1+1", "follows")
    code, _, err = run_audit(capsys, bundle, "--csv", file)
    assert code == 4
    assert "E_OUTPUT_EXISTS" in err


@pytest.mark.parametrize("name", ["gone", "empty", "a_file"])
def test_what_is_no_store_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").touch()
    code, _, err = run_audit(capsys, tmp_path / name)
    assert code == 1
    assert err.startswith("E_BUNDLE_NOT_FOUND")
    assert err.endswith(" Give a store, such as bundles, a folder of versions, or one version.\n")


def test_reading_a_record_back_is_what_the_manifest_says(bundle: Path) -> None:
    record = document(bundle)["accuracy"][0]
    path = record["predictions"]
    measurement = read_measurement((bundle / path).read_bytes(), path)
    assert isinstance(measurement, AccuracyMeasurement)
    assert json.loads(json.dumps(accuracy_record(measurement, path))) == record
    with pytest.raises(InputError):
        read_measurement(b"{}", path)
