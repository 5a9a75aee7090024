"""What was measured is measured again when asked for, and a claim that is not true is found.

Speed is of the honest engine of ``tests/doubles``, whose clock only its work moves on: 100 images a
second on any machine.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.bundles import Document, copy_bundle, document, reseal
from tests.support.published import Evidence, forge, publish
from vitaie import runtime
from vitaie.manifests import checks
from vitaie.manifests.errors import ImageError, InputError
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    PerformanceMeasurement,
    performance_record,
)
from vitaie.manifests.outputs import ErrorOutput, VerifyOutput
from vitaie.runtime import Again, _benchmark, _recheck
from vitaie.runtime._audit import audit
from vitaie.runtime._benchmark import benchmark
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._claim import Claim
from vitaie.runtime._cli import app
from vitaie.runtime._command import run
from vitaie.runtime._dataset import DatasetDigest
from vitaie.runtime._evaluate import evaluate
from vitaie.runtime._recheck import judge_speed

IMAGES, BATCH, SEED = 43, 4, 5
TORCH = importlib.util.find_spec("torch") is not None
ONNX = "onnxruntime-cpu-fp32"


@pytest.fixture(scope="session")
def whole_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders of the small bundle's, 43 different pictures, one of them broken."""
    folder = tmp_path_factory.mktemp("rechecked") / "val"
    chance = np.random.default_rng(3)
    for number in range(IMAGES):
        path = folder / f"c{number % 5}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = chance.integers(0, 256, (5, 7, 3), np.uint8)
        Image.fromarray(coarse).resize((56, 40)).save(path)
    (folder / "c2" / "007.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def data(whole_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_dataset, tmp_path / "val"))


@pytest.fixture(scope="session")
def accuracy(small_bundle: Path, whole_dataset: Path) -> AccuracyMeasurement:
    return evaluate(
        small_bundle,
        whole_dataset,
        target="cpu",
        threads=1,
        batch_size=BATCH,
        allow_missing=1,
        paired=TORCH,
    ).measurement


@pytest.fixture
def honest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let benchmarks time the honest double, without a protocol's waits."""
    for name, plan in _benchmark.PLANS.items():
        timed = plan._replace(worker="tests.doubles.honest", settle_s=0)
        monkeypatch.setitem(_benchmark.PLANS, name, timed)


@pytest.fixture(scope="session")
def speed(small_bundle: Path) -> PerformanceMeasurement:
    plan, worker = _benchmark.PLANS["quick"], "tests.doubles.honest"
    _benchmark.PLANS["quick"] = plan._replace(worker=worker)
    try:
        return benchmark(small_bundle, target="cpu", threads=1, seed=SEED).measurement
    finally:
        _benchmark.PLANS["quick"] = plan


@pytest.fixture
def accurate(small_bundle: Path, accuracy: AccuracyMeasurement, tmp_path: Path) -> Path:
    return publish(copy_bundle(small_bundle, tmp_path / "bundle"), accuracy)


@pytest.fixture
def fast(small_bundle: Path, speed: PerformanceMeasurement, tmp_path: Path) -> Path:
    return publish(copy_bundle(small_bundle, tmp_path / "fast"), speed)


def verify(bundle: Path, **again: Any) -> tuple[int, dict[str, Claim]]:
    verdict = runtime.verify(bundle, target="cpu", again=Again(**again))
    assert verdict.holds == (verdict.exit_code == 0)
    return verdict.exit_code, {claim.claim: claim for claim in verdict.claims}


# Accuracy


def test_the_whole_measurement_is_confirmed_prediction_by_prediction(
    accurate: Path, data: Path
) -> None:
    code, claims = verify(accurate, data=data)
    assert code == 0
    measured = claims["accuracy[0]"]
    assert (measured.status, measured.tier) == ("true", "exact")
    assert measured.detail == "42 of 42 predictions are as kept"
    assert claims["accuracy[0] dataset"].status == "true"
    assert claims["accuracy[0] evidence"].status == "true"
    assert ("accuracy[0] source" in claims) == TORCH
    if TORCH:
        source = claims["accuracy[0] source"]
        assert (source.status, source.tier) == ("true", "exact")


def test_what_is_not_measured_again_is_listed_with_what_would(accurate: Path) -> None:
    code, claims = verify(accurate)
    assert code == 0
    assert claims["accuracy[0] evidence"].status == "true"
    assert claims["accuracy[0]"].status == "not checked"
    assert claims["accuracy[0]"].check == "--data DIR"


def flip(row: int) -> Callable[[Evidence], None]:
    """Return a change of evidence that claims one image right that was wrong."""

    def change(evidence: Evidence) -> None:
        images = evidence["images"]
        classes, label = images["target"][row], images["label"][row]
        assert classes[0] != label
        classes.remove(label)
        classes.insert(0, label)

    return change


def a_wrong_row(bundle: Path) -> int:
    images = evidence_of(bundle)["images"]
    pairs = enumerate(zip(images["target"], images["label"]))
    return next(row for row, (classes, label) in pairs if classes[0] != label)


def evidence_of(bundle: Path, kind: str = "accuracy") -> Evidence:
    record = document(bundle)[kind][0]
    path = record["predictions" if kind == "accuracy" else "latencies"]
    loaded: Evidence = json.loads((bundle / path).read_bytes())
    return loaded


def test_a_prediction_made_up_with_all_that_follows_from_it_is_found(
    accurate: Path, data: Path
) -> None:
    row = a_wrong_row(accurate)
    forge(accurate, "accuracy", flip(row))
    with open_bundle(accurate) as bundle:
        assert all(each.status != "does not follow" for each in audit(bundle))
    assert verify(accurate)[0] == 0, "every number follows: only the images can tell"

    code, claims = verify(accurate, data=data)
    assert code == 1
    assert claims["accuracy[0]"].status == "false"
    path = evidence_of(accurate)["images"]["path"][row]
    assert f"42 of 42 predictions, 1 not as kept: {path} is " in claims["accuracy[0]"].detail


def test_a_made_up_prediction_of_the_source_model_is_found(accurate: Path, data: Path) -> None:
    if not TORCH:
        pytest.skip("the source model needs torch")

    def better(evidence: Evidence) -> None:
        evidence["images"]["source"][0].reverse()

    forge(accurate, "accuracy", better)
    code, claims = verify(accurate, data=data)
    assert (code, claims["accuracy[0] source"].status) == (1, "false")


def test_a_sample_finds_what_is_drawn_and_says_what_is_not(accurate: Path, data: Path) -> None:
    row = a_wrong_row(accurate)
    forge(accurate, "accuracy", flip(row))
    seeds: dict[bool, int] = {}
    for seed in range(100):
        drawn = np.random.default_rng(seed).choice(42, 2, replace=False)
        batch = {place // BATCH for place in map(place_of, drawn)}
        seeds.setdefault(place_of(row) // BATCH in batch, seed)
    code, claims = verify(accurate, data=data, sample=2, seed=seeds[True])
    assert (code, claims["accuracy[0]"].status) == (1, "false")
    code, claims = verify(accurate, data=data, sample=2, seed=seeds[False])
    assert (code, claims["accuracy[0]"].status) == (0, "true")
    assert f"of 2 images drawn by seed {seeds[False]}" in claims["accuracy[0]"].detail
    others = claims["accuracy[0] other images"]
    assert (others.status, others.check) == ("not checked", "--data DIR")
    assert "accuracy[0] dataset" not in claims


def place_of(row: int) -> int:
    """Return where an image is in the dataset's order: the one that is missing comes before."""
    return int(row) + (row >= 19)


def test_a_sample_of_all_is_the_whole(accurate: Path, data: Path) -> None:
    forge(accurate, "accuracy", flip(a_wrong_row(accurate)))
    code, claims = verify(accurate, data=data, sample=42)
    assert (code, claims["accuracy[0]"].status) == (1, "false")


def test_a_seed_that_is_not_given_cannot_be_foreseen(accurate: Path, data: Path) -> None:
    details = {verify(accurate, data=data, sample=1)[1]["accuracy[0]"].detail for _ in range(2)}
    assert len({detail.partition("seed ")[2] for detail in details}) == 2


# Another dataset


def remove(data: Path) -> None:
    (data / "c0" / "000.png").unlink()


def add(data: Path) -> None:
    shutil.copyfile(data / "c0" / "000.png", data / "c0" / "more.png")


def move(data: Path) -> None:
    (data / "c0" / "000.png").rename(data / "c1" / "000.png")


def change_class(data: Path) -> None:
    (data / "c0").rename(data / "x")
    (data / "c1").rename(data / "c0")
    (data / "x").rename(data / "c1")


def lose_the_missing(data: Path) -> None:
    (data / "c2" / "007.png").unlink()


def touch_a_pixel(data: Path) -> None:
    path = data / "c4" / "004.png"
    with Image.open(path) as opened:
        pixels = np.array(opened)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (remove, "no c0/000.png"),
        (add, "c0/more.png, which is none of its"),
        (move, "no c0/000.png"),
        (change_class, "no c0/000.png"),
        (lose_the_missing, "no c2/007.png"),
        (touch_a_pixel, "bytes, sha256 "),
    ],
)
def test_another_dataset_is_refused_and_says_what_differs(
    accurate: Path, data: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(data)
    with pytest.raises(InputError) as caught:
        verify(accurate, data=data)
    assert (caught.value.code, caught.value.exit_code) == ("E_DATASET_OTHER", 2)
    assert told in str(caught.value.got)


# Files that are called missing

ALL, A_FEW = dict[str, int](), {"sample": 2, "seed": SEED}


def test_files_that_are_missing_indeed_are_tried_in_a_sample_too(
    accurate: Path, data: Path
) -> None:
    for asked in (ALL, A_FEW):
        code, claims = verify(accurate, data=data, **asked)
        missing = claims["accuracy[0] missing"]
        assert (code, missing.status) == (0, "true")
        assert missing.detail == "of 1 files tried that it calls missing, 0 can be used"


def call_the_wrong_ones_missing(evidence: Evidence) -> None:
    """Claim that no image is wrong; each is a batch of its own, so that no other one meets it."""
    images = evidence["images"]
    wrong = {
        place
        for place, (classes, label) in enumerate(zip(images["target"], images["label"]))
        if classes[0] != label
    }
    missing: set[str] = {images["path"][place] for place in wrong}
    evidence["missing"] = sorted(missing.union(evidence["missing"]))
    evidence["batch_size"] = 1
    for name, column in images.items():
        if column is not None:
            images[name] = [value for place, value in enumerate(column) if place not in wrong]
    digest = DatasetDigest()
    for row in zip(images["path"], images["size"], images["sha256"], images["label"]):
        digest.add(*row)
    evidence["dataset_digest"] = digest.hexdigest()


@pytest.mark.parametrize("asked", [ALL, A_FEW])
def test_wrong_images_that_are_called_missing_are_found(
    accurate: Path, data: Path, asked: dict[str, int]
) -> None:
    forge(accurate, "accuracy", call_the_wrong_ones_missing)
    record = document(accurate)["accuracy"][0]
    assert record["top1"]["percent"] == 100
    code, claims = verify(accurate, data=data, **asked)
    missing, lost = claims["accuracy[0] missing"], record["dataset"]["missing"]
    assert (code, missing.status) == (1, "false")
    assert f"of {lost} files tried that it calls missing, {lost - 1} can be used" in missing.detail


def test_of_many_missing_files_those_that_a_sample_leaves_are_listed(
    accurate: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_recheck, "_TRIED", 3)
    forge(accurate, "accuracy", call_the_wrong_ones_missing)
    missing = document(accurate)["accuracy"][0]["dataset"]["missing"]
    _, claims = verify(accurate, data=data, **A_FEW)
    assert claims["accuracy[0] missing"].detail.startswith("of 3 files tried")
    others = claims["accuracy[0] other missing"]
    assert (others.status, others.check) == ("not checked", "--data DIR")
    assert others.detail == f"{missing - 3} were not drawn"
    assert "accuracy[0] other missing" not in verify(accurate, data=data)[1]


def test_a_missing_file_that_was_repaired_since_is_no_longer_missing(
    accurate: Path, data: Path
) -> None:
    shutil.copyfile(data / "c0" / "000.png", data / "c2" / "007.png")
    code, claims = verify(accurate, data=data)
    assert (code, claims["accuracy[0]"].status) == (1, "true")
    missing = claims["accuracy[0] missing"]
    assert (missing.status, "c2/007.png" in missing.detail) == ("false", True)


def test_the_same_images_of_other_classes_are_another_dataset(accurate: Path, data: Path) -> None:
    def relabel(evidence: Evidence) -> None:
        evidence["images"]["label"][0] = 3

    forge(accurate, "accuracy", relabel)
    with pytest.raises(InputError) as caught:
        verify(accurate, data=data)
    record = document(accurate)["accuracy"][0]["dataset"]
    assert caught.value.code == "E_DATASET_OTHER"
    assert caught.value.got == "c0/000.png of class 0, which was 3"
    assert caught.value.expected == f"{record['name']}, 42 images, {record['digest']}"


def test_an_image_that_broke_since_is_named(accurate: Path, data: Path) -> None:
    (data / "c3" / "003.png").write_bytes(b"no picture any more")
    with pytest.raises(ImageError) as caught:
        verify(accurate, data=data)
    assert caught.value.where.endswith("c3/003.png")


def test_a_bundle_that_claims_no_accuracy_has_none_to_measure_again(
    small_bundle: Path, data: Path
) -> None:
    with pytest.raises(InputError) as caught:
        verify(small_bundle, data=data)
    assert caught.value.code == "E_ARGUMENT"


# Other machines


def elsewhere(evidence: Evidence) -> None:
    evidence["environment"]["processor"] = "another processor"


def swap_the_last_two(evidence: Evidence) -> None:
    elsewhere(evidence)
    row = evidence["images"]["target"][0]
    row[-2:] = reversed(row[-2:])


def test_on_another_processor_predictions_may_differ_within_the_tolerance(
    accurate: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(accurate, "accuracy", elsewhere)
    claim = verify(accurate, data=data)[1]["accuracy[0]"]
    assert (claim.status, claim.tier) == ("true", "close")

    forge(accurate, "accuracy", swap_the_last_two)
    claim = verify(accurate, data=data)[1]["accuracy[0]"]
    assert (claim.status, claim.tier) == ("false", "close")

    def loosen(whole: Document) -> None:
        whole["targets"][0]["tolerance"]["max_rel_diff"] = 0.9

    monkeypatch.setattr(checks, "MAX_CPU_DIFFERENCE", 0.9)  # which no manifest may allow
    reseal(accurate, loosen)
    claims = verify(accurate, data=data)[1]
    assert claims["accuracy[0]"].status == "true"
    assert claims["accuracy[0]"].detail.endswith("1 of them within the tolerance")
    assert claims[f"goldens in {ONNX}"].status == "false", "such a tolerance proves nothing"


@pytest.mark.skipif(not TORCH, reason="measured with the source model")
def test_without_torch_the_source_model_is_said_to_be_unchecked(
    accurate: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    code, claims = verify(accurate, data=data)
    assert (code, claims["accuracy[0]"].status) == (0, "true")
    assert claims["accuracy[0] source"].status == "not checked"


# Speed


def scaled(factor: float) -> Callable[[Evidence], None]:
    """Return a change of evidence to calls that take so many times as long."""

    def change(evidence: Evidence) -> None:
        for timed_run in evidence["runs"]:
            for name in ("start_ns", "end_ns"):
                timed_run[name] = [round(each * factor) for each in timed_run[name]]

    return change


@pytest.mark.usefixtures("honest")
def test_a_true_speed_is_confirmed(fast: Path) -> None:
    code, claims = verify(fast, performance=True)
    assert (code, claims["performance[0]"].status) == (0, "true")
    assert claims["performance[0] evidence"].status == "true"


def test_a_speed_that_is_not_claimed_cannot_be_measured_again(accurate: Path) -> None:
    with pytest.raises(InputError) as caught:
        verify(accurate, performance=True)
    assert (caught.value.code, caught.value.where) == ("E_ARGUMENT", "performance")
    assert "vitaie bench" in caught.value.hint


def test_a_speed_is_listed_as_unchecked_until_it_is_asked_for(fast: Path) -> None:
    code, claims = verify(fast)
    assert code == 0
    claim = claims["performance[0]"]
    assert (claim.status, claim.check) == ("not checked", "--performance")


@pytest.mark.usefixtures("honest")
@pytest.mark.parametrize(
    ("factor", "code", "status"),
    [(1 / 3, 1, "false"), (0.8, 1, "false"), (0.9, 0, "true"), (10, 0, "true")],
)
def test_a_speed_is_confirmed_from_0_85_of_the_claim(
    fast: Path, factor: float, code: int, status: str
) -> None:
    """Calls that are said to take a third of what they do, with all that follows from it."""
    forge(fast, "performance", lengthened(factor))
    assert verify(fast)[0] == 0, "every number follows: only the engine can tell"
    found, claims = verify(fast, performance=True)
    assert (found, claims["performance[0]"].status) == (code, status)


def lengthened(factor: float) -> Callable[[Evidence], None]:
    """Return a change to calls of another length, and as many more that the run lasts as long."""

    def change(evidence: Evidence) -> None:
        scaled(factor)(evidence)
        for timed_run in evidence["runs"]:
            length = timed_run["end_ns"][-1] + 1000
            copies = range(max(1, round(1 / factor) + 1))
            for name in ("start_ns", "end_ns"):
                times = timed_run[name]
                timed_run[name] = [each + copy * length for copy in copies for each in times]

    return change


@pytest.mark.usefixtures("honest")
@pytest.mark.parametrize(
    "change",
    [
        {"processor": "a device"},
        {"features": ["sse2"]},
        {"packages": {"vitaie": "0.1.0", "onnxruntime": "1.0.0"}},
    ],
    ids=str,
)
def test_a_speed_of_other_hardware_is_not_decidable(fast: Path, change: dict[str, Any]) -> None:
    forge(fast, "performance", lambda evidence: evidence["environment"].update(change))
    code, claims = verify(fast, performance=True)
    assert (code, claims["performance[0]"].status) == (6, "undecidable")
    assert "other hardware" in claims["performance[0]"].detail


@pytest.mark.usefixtures("honest")
def test_an_invalid_record_claims_no_speed(fast: Path) -> None:
    def cut(evidence: Evidence) -> None:
        for timed_run in evidence["runs"]:
            for name in ("start_ns", "end_ns"):
                timed_run[name] = timed_run[name][:70]

    forge(fast, "performance", cut)
    code, claims = verify(fast, performance=True)
    assert code == 0
    assert claims["performance[0]"].status == "not checked"
    assert "no speed is claimed" in claims["performance[0]"].detail


def test_what_is_false_makes_what_is_not_decidable_false(fast: Path) -> None:
    forge(fast, "performance", lambda evidence: evidence["environment"].update(processor="another"))
    reseal(fast, lambda whole: whole["performance"][0].update(fps=1000.0))
    code, claims = verify(fast, performance=True)
    assert code == 1
    assert claims["performance[0]"].status == "undecidable"
    assert claims["performance[0] evidence"].status == "false"
    assert "performance[0].fps: 1000.0 is claimed" in claims["performance[0] evidence"].detail


def timed(speed: PerformanceMeasurement, latencies_ms: list[float]) -> PerformanceMeasurement:
    """Return a measurement of calls that take so long, one right after the other."""
    ends = np.cumsum([round(each * 1e6) for each in latencies_ms]).tolist()
    starts = [0, *ends[:-1]]
    run = speed.runs[0].model_copy(update={"start_ns": tuple(starts), "end_ns": tuple(ends)})
    return speed.model_copy(update={"runs": (run,)})


@pytest.mark.parametrize(
    ("latencies_ms", "status"),
    [
        ([10.0] * 1200, "true"),
        ([10.0] * 400 + [11.0] * 800, "true"),  # not stable, and fast enough all the same
        ([10.0] * 400 + [20.0] * 800, "undecidable"),  # it can be so fast, and was not
        ([20.0] * 1200, "false"),
        ([12.0] * 400 + [25.0] * 800, "false"),  # not stable, and never fast enough
    ],
)
def test_an_unstable_run_decides_only_what_its_best_and_its_whole_show(
    fast: Path, speed: PerformanceMeasurement, latencies_ms: list[float], status: str
) -> None:
    with open_bundle(fast) as bundle:
        (record,) = bundle.manifest.performance
    here = timed(speed, latencies_ms)
    reasons = performance_record(here, "", gflop=0.001, peak_tflops=None)["reasons"]
    assert judge_speed("a claim", record, here, reasons).status == status


def test_a_run_whose_outputs_are_wrong_confirms_nothing(
    fast: Path, speed: PerformanceMeasurement
) -> None:
    with open_bundle(fast) as bundle:
        (record,) = bundle.manifest.performance
    honesty = speed.honesty.model_copy(update={"differing": 1})
    here = speed.model_copy(update={"honesty": honesty})
    reasons = performance_record(here, "", gflop=0.001, peak_tflops=None)["reasons"]
    claim = judge_speed("a claim", record, here, reasons)
    assert claim.status == "undecidable"
    assert "are not the model's" in claim.detail


# Arguments and commands


@pytest.mark.parametrize(
    ("again", "where"),
    [
        ({"sample": 3}, "sample"),
        ({"labels": "val_label.txt"}, "labels"),
        ({"data": ".", "sample": 0}, "sample"),
        ({"data": ".", "seed": -1}, "seed"),
        ({"data": ".", "seed": 2**53}, "seed"),
    ],
)
def test_a_wrong_argument_is_refused_before_a_bundle_is_opened(
    tmp_path: Path, again: dict[str, Any], where: str
) -> None:
    with pytest.raises(InputError) as caught:
        verify(tmp_path / "none", **again)
    assert (caught.value.code, caught.value.where) == ("E_ARGUMENT", where)


def test_more_images_than_there_are_cannot_be_drawn(accurate: Path, data: Path) -> None:
    with pytest.raises(InputError) as caught:
        verify(accurate, data=data, sample=43)
    assert (caught.value.where, caught.value.expected) == ("sample", "1 to 42")


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(app, "vitaie", ["verify", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_says_what_was_checked_how_closely_and_what_was_not(
    accurate: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, accurate, "--target", "cpu")
    assert code == 0, err
    line = f"not checked accuracy[0]: not measured again: vitaie verify {accurate} --data DIR"
    assert line in out.splitlines()
    code, out, err = command(capsys, accurate, "--target", "cpu", "--data", data)
    assert code == 0, err
    assert "true        accuracy[0]: 42 of 42 predictions are as kept (exact)" in out.splitlines()
    assert out.splitlines()[-1].startswith("TRUE, ")


@pytest.mark.usefixtures("honest")
def test_the_commands_json_and_exit_code_are_the_verdict(
    fast: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(fast, "performance", lambda evidence: evidence["environment"].update(processor="another"))
    asked = (fast, "--target", "cpu", "--performance")
    code, out, err = command(capsys, *asked, "--json")
    told = VerifyOutput.model_validate_json(out)
    assert (code, told.holds) == (6, False)
    (claim,) = [claim for claim in told.claims if claim.claim == "performance[0]"]
    assert claim.status == "undecidable"
    assert err.splitlines()[-1].startswith("E_CLAIM_UNDECIDABLE: ")
    code, out, _ = command(capsys, *asked)
    assert code == 6
    assert out.splitlines()[-1].startswith("UNDECIDABLE, ")


def test_the_command_names_another_dataset(
    accurate: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(data)
    code, out, _ = command(capsys, accurate, "--data", data, "--json")
    assert code == 2
    assert ErrorOutput.model_validate_json(out).error.code == "E_DATASET_OTHER"


# The whole story, on a trained model


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="the demo's data")
def test_a_trained_models_numbers_are_confirmed_and_audited(
    digits_bundle: tuple[Path, Path], tmp_path: Path
) -> None:
    """The gates it passed, its pairs with the source model, and what is falsified of it."""
    trained, held_out = digits_bundle
    measurement = evaluate(trained, held_out, target="cpu").measurement
    bundle = publish(
        copy_bundle(trained, tmp_path / "digits"),
        measurement,
        require=("top1>=90.0", "top1_drop<=1.0", "agreement>=0.99"),
    )
    with open_bundle(bundle) as opened:
        found = list(audit(opened))
    assert not [each for each in found if each.status == "does not follow"]
    assert {"gates[0]", "gates[1]", "gates[2]"} <= {each.claim for each in found}
    code, claims = verify(bundle, data=held_out)
    assert code == 0
    assert claims["accuracy[0]"].detail == "360 of 360 predictions are as kept"
    for name in ("accuracy[0]", "accuracy[0] source"):
        assert (claims[name].status, claims[name].tier) == ("true", "exact")

    forge(bundle, "accuracy", flip(a_wrong_row(bundle)))
    code, claims = verify(bundle, data=held_out)
    assert (code, claims["accuracy[0]"].status) == (1, "false")


@pytest.mark.long
def test_a_real_engines_speed_is_confirmed_or_refuted(small_bundle: Path, tmp_path: Path) -> None:
    measurement = benchmark(small_bundle, target="cpu", threads=1).measurement
    for factor, status in ((0.1, "false"), (10, "true")):
        bundle = publish(copy_bundle(small_bundle, tmp_path / f"{factor}"), measurement)
        forge(bundle, "performance", steady)
        forge(bundle, "performance", lengthened(factor))
        assert document(bundle)["performance"][0]["verdict"] == "VALID"
        assert verify(bundle, performance=True)[1]["performance[0]"].status == status


def steady(evidence: Evidence) -> None:
    """Let all calls take as long as the median one: the machine may not have been left alone."""
    for timed_run in evidence["runs"]:
        times = zip(timed_run["start_ns"], timed_run["end_ns"])
        taken = sorted(end - start for start, end in times)
        median = taken[len(taken) // 2]
        count = max(len(taken), 11 * 10**9 // median)
        timed_run["start_ns"] = [number * (median + 100) for number in range(count)]
        timed_run["end_ns"] = [start + median for start in timed_run["start_ns"]]
