"""What is measured before a bundle is published, the gates it must pass, and which level ships."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import document
from tests.support.images import photographs
from vitaie.builder import measure, staged
from vitaie.builder.cli import app
from vitaie.manifests.levels import choose_level
from vitaie.manifests.manifest import Manifest
from vitaie.manifests.measurement import AccuracyMeasurement, PerformanceMeasurement
from vitaie.manifests.outputs import BundleOutput, ErrorOutput, GateOutput, RefusalReport
from vitaie.runtime import _benchmark, verify
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._command import run
from vitaie.runtime._evidence import kept_measurement, record_of

Checkpoint = tuple[Path, Path]
Call = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("cache")
COMMAND = Path(sys.executable).with_name("vitaie-build")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photos") / "val", 100)


@pytest.fixture
def build(
    small_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Generator[Call, None, None]:
    """Run ``vitaie-build`` in this process; ``bundle`` is of the small model, into ``store``."""
    card, npz = small_checkpoint
    handlers = [signal.getsignal(number) for number in SIGNALS]

    def call(command: str, *arguments: object) -> tuple[int, str, str]:
        model = [str(card), "--checkpoint", str(npz), "--store", str(tmp_path / "store")]
        first = model if command == "bundle" else []
        code = run(app, "vitaie-build", [command, *first, *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    for number, handler in zip(SIGNALS, handlers):
        signal.signal(number, handler)


@pytest.fixture
def at_costs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Time engines that take so many milliseconds at each level, by a clock of their own."""

    def use(costs: str) -> None:
        monkeypatch.setenv("VITAIE_TEST_COSTS", costs)
        for name, plan in _benchmark.PLANS.items():
            worker = plan._replace(worker="tests.doubles.costs_by_level", settle_s=0)
            monkeypatch.setitem(_benchmark.PLANS, name, worker)

    use("50 50 50")
    return use


def manifest_of(bundle: Path) -> Manifest:
    return Manifest.from_bytes((bundle / "manifest.json").read_bytes())


def versions(store: Path) -> list[str]:
    return sorted(path.name for path in store.glob("*/[0-9]*"))


# What a measured bundle says


def test_what_a_bundle_says_of_its_measurements_follows_from_the_evidence_it_keeps(
    build: Call, at_costs: Callable[[str], None], photos: Path, tmp_path: Path
) -> None:
    at_costs("10 10 10")  # calls enough for p99
    gates = ("top1>=2", "top1_drop<=10", "agreement>=1", "fps>=99", "latency_p99_ms<=11")
    required = [part for gate in gates for part in ("--require", gate)]
    code, out, err = build("bundle", "--data", photos, *required, "--batch-size", 1,
                           "--batch-size", 4, "--json")  # fmt: skip
    assert code == 0, err
    shown = BundleOutput.model_validate_json(out)
    bundle = Path(shown.path)
    with open_bundle(bundle) as opened:
        opened.check()
        manifest = opened.manifest
        digest = manifest.targets[0].target_digest
        for record in (*manifest.accuracy, *manifest.performance):
            published = record.model_dump(mode="json")
            path = published.get("predictions") or published["latencies"]
            measurement = kept_measurement(opened, path, digest)
            assert record_of(manifest, measurement, path) == published
            assert measurement.subject.content_digest == manifest.content_digest
    assert [gate.require for gate in manifest.gates] == [
        *("top1>=2.0", "top1_drop<=10.0", "agreement>=1.0", "fps>=99.0", "latency_p99_ms<=11.0")
    ]
    assert [speed.batch_size for speed in manifest.performance] == [1, 4]
    assert [speed.inputs for speed in manifest.performance] == ["photographs"] * 2
    assert manifest.performance[0].fps == pytest.approx(100, rel=1e-2)
    assert manifest.accuracy[0].dataset.images == 100
    assert manifest.accuracy[0].paired is not None
    assert shown.accuracy == list(manifest.accuracy)
    for told in (
        *("top-1", "images a second", "pass: fps>=99.0"),
        *("speed, 10 s and 64 calls at least", "speed at batch 4, 10 s and 64 calls at least"),
    ):
        assert told in err
    assert verify(bundle).holds
    assert not (tmp_path / "store.refused").exists()

    # The gates again, by the evidence alone; what did not count is named.
    code, _, err = build("gate", bundle)
    first, second = (speed.latencies for speed in manifest.performance)
    assert code == 0
    assert f"speed       {first}\n" in err
    assert f"not judged  {second}, measured {manifest.performance[1].created}" in err
    assert f": --record {second}\n" in err
    code, out, err = build("gate", bundle, "--require", "top1>=99", "--require", "fps>=50",
                           "--json")  # fmt: skip
    assert "E_GATE_FAILED: " in err
    assert "Do not use this bundle where that is required." in err
    judged = GateOutput.model_validate_json(out)
    assert (code, judged.verdict) == (1, "fail")
    assert [gate.verdict for gate in judged.gates] == ["fail", "pass"]
    assert judged.accuracy == manifest.accuracy[0].predictions
    assert (judged.performance, judged.others) == (first, [second])
    code, out, _ = build("gate", bundle, "--require", "latency_p90_ms<=20",
                         "--record", manifest.performance[1].latencies)  # fmt: skip
    assert (code, out.split(":")[0]) == (1, "fail")
    code, out, _ = build("gate", bundle, "--require", "latency_p99.9_ms<=11")
    assert (code, out.split(":")[0]) == (6, "undecidable")
    assert build("gate", bundle, "--require", "fps>=1", "--target", "torchscript-cpu-fp32")[0] == 6
    assert build("gate", bundle, "--target", "torchscript-cpu-fp32")[0] == 2
    assert build("gate", bundle, "--record", "measurements/none")[0] == 2

    # A figure that was raised in the manifest raises nothing.
    raised = tmp_path / "raised"
    shutil.copytree(bundle, raised)
    whole = document(raised)
    whole["performance"][0]["fps"] = 1000.0
    whole["gates"] = []
    (raised / "manifest.json").write_bytes(Manifest.create(whole).to_bytes())
    assert build("gate", raised, "--require", "fps>=500")[0] == 1


@pytest.mark.usefixtures("at_costs")
def test_without_data_speed_is_measured_and_without_speed_nothing(build: Call) -> None:
    code, out, err = build("bundle")
    assert code == 0, err
    manifest = manifest_of(Path(out.strip()))
    assert (len(manifest.accuracy), len(manifest.performance)) == (0, 1)
    assert manifest.performance[0].inputs == "goldens with seeded noise"
    code, out, _ = build("bundle", "--skip-measure")
    again = manifest_of(Path(out.strip()))
    assert (code, again.performance, again.accuracy) == (0, (), ())
    assert again.content_digest == manifest.content_digest


def test_accuracy_may_be_measured_without_speed_and_of_torchscript(
    build: Call, photos: Path
) -> None:
    target = ("--target", "torchscript-cpu-fp32")
    arguments = ("--skip-measure", "--data", photos, "--require", "agreement>=1", "--quiet")
    code, out, err = build("bundle", *arguments, *target)
    assert code == 0, err
    manifest = manifest_of(Path(out.strip()))
    assert manifest.accuracy[0].target_digest == manifest.targets[1].target_digest
    assert (manifest.performance, err) == ((), "")


# What is refused


@pytest.mark.parametrize(
    ("gates", "code", "exit_code"),
    [
        (("top1>=99", "fps>=10"), "E_GATE_FAILED", 1),
        (("top1_drop<=0.1",), "E_GATE_UNDECIDABLE", 6),
    ],
)
@pytest.mark.usefixtures("at_costs")
def test_a_gate_that_is_not_passed_publishes_nothing_and_keeps_the_evidence(
    build: Call,
    photos: Path,
    tmp_path: Path,
    gates: tuple[str, ...],
    code: str,
    exit_code: int,
) -> None:
    required = [part for gate in gates for part in ("--require", gate)]
    got, out, err = build("bundle", "--data", photos, *required, "--json")
    error = ErrorOutput.model_validate_json(out).error
    assert (got, error.code) == (exit_code, code)
    assert not (tmp_path / "store").exists()
    folder = tmp_path / "store.refused" / "small_vit"
    (report,) = folder.glob("report-*.json")
    assert str(report) in error.hint
    assert error.hint in err
    told = RefusalReport.model_validate_json(report.read_bytes())
    assert [gate.require.split(".")[0] for gate in told.gates] == [g.split(".")[0] for g in gates]
    kept = [file.name for file in folder.iterdir() if file != report]
    assert sorted(kept) == sorted(told.evidence)

    # The same content without the gate takes what was measured.
    assert build("bundle", "--skip-measure")[0] == 0
    evidence = [folder / name for name in told.evidence]
    got, out, err = build("attach", tmp_path / "store" / "small_vit", *evidence)
    assert got == 0, err
    manifest = manifest_of(Path(out.splitlines()[-1]))
    assert len(manifest.accuracy) + len(manifest.performance) == len(evidence)


@pytest.mark.usefixtures("at_costs")
def test_a_failed_gate_on_speed_is_not_kept_waiting_for_accuracy(
    build: Call, photos: Path, tmp_path: Path
) -> None:
    assert build("bundle", "--data", photos, "--require", "fps>=101")[0] == 1
    assert list(tmp_path.glob("store.refused/small_vit/accuracy-*")) == []


def test_what_can_never_be_is_refused_before_any_work(
    build: Call, photos: Path, tmp_path: Path
) -> None:
    (photos.parent / "other" / "no-such-class").mkdir(parents=True)
    shutil.copy(next(photos.glob("*/*.jpg")), photos.parent / "other" / "no-such-class" / "a.jpg")
    for arguments, code in (
        (("--require", "top1>84"), "E_GATE_OPERATOR"),
        (("--precision", "fp32"), "E_ARGUMENT"),
        (("--device-id", "1"), "E_ARGUMENT"),
        (("--allow-fallback",), "E_ARGUMENT"),
        (("--require", "top1"), "E_GATE_SYNTAX"),
        (("--require", "top1>=0.84"), "E_GATE_VALUE"),
        (("--require", "top1>=84"), "E_GATE_UNDECIDABLE"),
        (("--require", "fps>=1", "--skip-measure"), "E_GATE_UNDECIDABLE"),
        (("--data", tmp_path / "none"), "E_DATASET_NOT_FOUND"),
        (("--data", photos.parent / "other"), "E_DATASET_CLASS"),
        (("--labels", photos), "E_ARGUMENT"),
        (("--batch-size", 0), "E_ARGUMENT"),
        (("--batch-size", 2, "--batch-size", 2), "E_ARGUMENT"),
        (("--optim-level", "auto", "--skip-measure"), "E_ARGUMENT"),
        (("--optim-level", "auto", "--target", "torchscript-cpu-fp32"), "E_ARGUMENT"),
        (("--optim-level", "3"), "E_ARGUMENT"),
    ):
        got, out, err = build("bundle", *arguments, "--json")
        error = ErrorOutput.model_validate_json(out).error
        assert (error.code, error.exit_code) == (code, got), arguments
        assert "goldens" not in err, "the work had begun"
    assert list(tmp_path.iterdir()) == [] or not (tmp_path / "store").exists()


@pytest.mark.usefixtures("at_costs")
def test_a_bundle_that_is_changed_before_it_is_published_is_not(
    build: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records = staged.write_records

    def and_then_change(folder: Path, *arguments: Any) -> Manifest:
        manifest = write_records(folder, *arguments)
        data = bytearray((folder / "labels.txt").read_bytes())
        data[-2] ^= 1
        (folder / "labels.txt").write_bytes(data)
        return manifest

    monkeypatch.setattr(measure, "write_records", and_then_change)
    code, out, _ = build("bundle", "--json")
    assert ErrorOutput.model_validate_json(out).error.code == "E_BUNDLE_FILE_DIGEST"
    assert (code, (tmp_path / "store").exists()) == (1, False)


def test_an_evaluation_that_was_killed_goes_on_and_a_refused_one_is_not_done_again(
    small_checkpoint: Checkpoint, pictures: Path, tmp_path: Path
) -> None:
    """The content is the same again, so its journal is found: first after SIGKILL, then after a
    gate was not passed.

    Each time in a process of its own: in this one, Ray may have put its packages on the path, and
    those that are installed are part of the content.
    """
    card, npz = small_checkpoint
    data = tmp_path / "val"
    for digit in range(5):
        shutil.copytree(pictures / str(digit), data / str(digit))
    command = [COMMAND, "bundle", card, "--checkpoint", npz, "--store", tmp_path / "store"]
    wanted = ["--data", data, "--skip-measure"]
    refused = ["--require", "top1>=99"]
    arguments = [str(word) for word in (*command, *wanted, *refused)]
    journals = Path(os.environ["XDG_CACHE_HOME"]) / "vitaie" / "journals"
    for number in (signal.SIGKILL, signal.SIGINT):
        before = sum(file.stat().st_size for file in journals.glob("*.journal"))
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while sum(file.stat().st_size for file in journals.glob("*.journal")) <= before + 1_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert versions(tmp_path / "store") == []
    assert process.returncode == 130
    assert "Run the same command again: accuracy goes on after " in errors.splitlines()[-1]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "going on after" in done.stderr
    passing = [str(word) for word in (*command, *wanted)]
    done = subprocess.run(passing, capture_output=True, text=True, check=False)
    errors = done.stderr
    assert done.returncode == 0, errors
    total = len(list(data.glob("*/*.jpg")))
    assert f"going on after {total} of {total} images" in errors
    assert list(journals.iterdir()) == []


# Which level ships


@pytest.mark.parametrize(
    ("costs", "gates", "chosen"),
    [
        ("100 52 50", (), 1),  # within 5%: the lower
        ("75 100 50", ("fps>=12",), 2),
    ],
)
def test_the_fastest_level_ships_or_the_lowest_within_5_percent(
    build: Call,
    at_costs: Callable[[str], None],
    costs: str,
    gates: tuple[str, ...],
    chosen: int,
) -> None:
    at_costs(costs)
    required = [part for gate in gates for part in ("--require", gate)]
    code, out, err = build("bundle", "--optim-level", "auto", *required)
    assert code == 0, err
    bundle = Path(out.strip())
    manifest = manifest_of(bundle)
    assert manifest.targets[0].optim_level == chosen
    assert "speed, 6 runs of 10 s and 64 calls at least\n" in err
    assert f"--optim-level {chosen}" in manifest.toolchain.command
    assert [level.optim_level for level in manifest.levels] == [0, 1, 2]
    assert [level.chosen for level in manifest.levels] == [n == chosen for n in range(3)]
    for level, cost in zip(manifest.levels, map(float, costs.split())):
        assert level.fps == pytest.approx(1000 / cost, rel=1e-2)
    best = choose_level(manifest.levels)
    assert best is not None
    assert best.optim_level == chosen
    with open_bundle(bundle) as opened:
        opened.check()
        for level in manifest.levels:
            found = kept_measurement(opened, level.latencies, level.target_digest)
            assert isinstance(found, PerformanceMeasurement)
            assert len(found.runs) == measure.ROUNDS
            assert found.inputs.seed == found.honesty.seed
    assert verify(bundle).holds


def test_accuracy_is_measured_of_the_level_that_ships(
    build: Call, at_costs: Callable[[str], None], photos: Path
) -> None:
    at_costs("150 50 100")
    gates = ("--require", "agreement>=1", "--require", "fps>=8")
    code, out, err = build("bundle", "--optim-level", "auto", "--data", photos, *gates)
    assert code == 0, err
    manifest = manifest_of(Path(out.strip()))
    low, mid, high = manifest.levels
    assert [level.predictions is None for level in (low, mid, high)] == [True, False, True]
    verdicts = [[gate.verdict for gate in level.gates] for level in (low, mid, high)]
    assert verdicts == [["undecidable", "fail"], ["pass", "pass"], ["undecidable", "pass"]]
    with open_bundle(Path(out.strip())) as opened:
        found = kept_measurement(opened, mid.predictions or "", mid.target_digest)
    assert isinstance(found, AccuracyMeasurement)


def test_where_no_level_passes_none_ships_and_the_table_is_kept(
    build: Call, at_costs: Callable[[str], None], tmp_path: Path
) -> None:
    at_costs("150 100 125")
    code, out, _ = build("bundle", "--optim-level", "auto", "--require", "fps>=100", "--json")
    assert (code, ErrorOutput.model_validate_json(out).error.code) == (1, "E_GATE_FAILED")
    assert not (tmp_path / "store").exists()
    (report,) = tmp_path.glob("store.refused/small_vit/report-*.json")
    told = json.loads(report.read_bytes())
    assert [level["optim_level"] for level in told["levels"]] == [0, 1, 2]
    assert len(told["evidence"]) == 3
