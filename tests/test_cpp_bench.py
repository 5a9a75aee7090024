"""``vitaie-edge bench`` writes records that Python reads, and judges them as Python does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bundles import copy_bundle
from tests.support.cpp import program
from tests.support.edge import TORCHSCRIPT, edge, fails, python
from tests.support.images import PHOTOS
from vitaie.builder.attach import attach
from vitaie.manifests.manifest import preprocess_digest
from vitaie.manifests.measurement import (
    PerformanceMeasurement,
    performance_record,
    read_measurement,
)
from vitaie.manifests.outputs import BenchOutput
from vitaie.runtime import _environment
from vitaie.runtime._bundle import open_bundle

CAT = PHOTOS / "cat.jpg"
WAYS = {
    "host": ("--threads", "1", "--data", "PICTURES"),
    "end_to_end": ("--threads", "1", "--boundary", "end_to_end", "--batch-size", "3"),
}


class Bench(NamedTuple):
    code: int
    shown: BenchOutput
    measurement: PerformanceMeasurement
    err: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the records of the ways of measuring go, by their names."""
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def benches(small_bundle: Path, pictures: Path, folder: Path) -> dict[str, Bench]:
    """Each way of measuring, all at once: how fast it is does not matter here."""
    running: dict[str, subprocess.Popen[str]] = {}
    for way, words in WAYS.items():
        options = [pictures if word == "PICTURES" else word for word in words]
        options += ["-o", folder / f"{way}.json", "--json", "--seed", "7"]
        running[way] = started(small_bundle, *options)
    found: dict[str, Bench] = {}
    for way, process in running.items():
        out, err = process.communicate(timeout=300)
        record = read_measurement((folder / f"{way}.json").read_bytes(), way)
        assert isinstance(record, PerformanceMeasurement)
        found[way] = Bench(process.returncode, BenchOutput.model_validate_json(out), record, err)
    return found


def started(bundle: Path, *words: object) -> subprocess.Popen[str]:
    command = [program("vitaie-edge"), "bench", bundle, *words]
    return subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_record_is_judged_as_python_judges_it(
    benches: dict[str, Bench], small_bundle: Path, way: str
) -> None:
    code, shown, measurement, err = benches[way]
    with open_bundle(small_bundle) as bundle:
        gflop = bundle.manifest.model.gflop
    peak = _environment.peak_tflops(measurement.environment, measurement.threads)
    expected = performance_record(measurement, "", gflop=gflop, peak_tflops=peak)
    assert (shown.verdict, shown.reasons) == (expected["verdict"], expected["reasons"])
    assert code == (0 if shown.verdict == "VALID" else 6)
    assert shown.fps == pytest.approx(expected["fps"], rel=1e-12)
    assert shown.latency_ms == pytest.approx(expected["latency_ms"], rel=1e-12)
    assert shown.variation == pytest.approx(expected["variation"], rel=1e-9)
    assert (shown.placement, shown.peak_mib) == (expected["placement"], expected["peak_mib"])
    assert shown.calls == sum(len(run.start_ns) for run in measurement.runs)
    last = err.splitlines()[-1]
    assert last.startswith("next: vitaie-build attach " if code == 0 else "E_SPEED_INVALID: ")


@pytest.mark.parametrize("way", WAYS)
def test_a_record_says_what_was_measured_and_where(
    benches: dict[str, Bench], small_bundle: Path, way: str
) -> None:
    measurement = benches[way].measurement
    with open_bundle(small_bundle) as bundle:
        manifest = bundle.manifest
    (target,) = (each for each in manifest.targets if each.id == TORCHSCRIPT)
    assert measurement.subject.model_dump() == {
        "name": manifest.name,
        "content_digest": manifest.content_digest,
        "target": target.id,
        "target_digest": target.target_digest,
        "preprocess_digest": preprocess_digest(manifest.preprocess),
    }
    here, told = _environment.collect(), measurement.environment
    for field in ("machine", "processor", "features", "processors"):
        assert getattr(told, field) == getattr(here, field)
    for name in ("vitaie", "torch"):
        assert told.packages[name] == here.packages[name].partition("+")[0]
    batch = 3 if way == "end_to_end" else 1
    assert (measurement.boundary, measurement.batch_size) == (way, batch)
    assert (measurement.protocol, measurement.threads) == ("quick", 1)
    kind = "photographs" if "--data" in WAYS[way] else "goldens with seeded noise"
    assert (measurement.inputs.kind, measurement.inputs.count) == (kind, 64)
    assert measurement.inputs.kind == benches[way].shown.inputs


@pytest.mark.parametrize("way", WAYS)
def test_timed_outputs_are_compared_with_untimed_ones(benches: dict[str, Bench], way: str) -> None:
    honesty = benches[way].measurement.honesty
    assert honesty.checked > 4
    assert honesty.differing == 0
    assert honesty.artifacts_unchanged


def test_records_are_attached_to_the_bundle_and_judged_the_same(
    benches: dict[str, Bench], small_bundle: Path, folder: Path, tmp_path: Path
) -> None:
    bundle = copy_bundle(small_bundle, tmp_path / "small_vit" / "1.0.0")
    done = attach(bundle, [folder / f"{way}.json" for way in WAYS])
    with open_bundle(done.path) as opened:
        records = opened.manifest.performance
    assert done.path.name == "1.0.1"
    assert [record.boundary for record in records] == list(WAYS)
    for record, bench in zip(records, benches.values()):
        assert record.verdict == bench.shown.verdict
        assert record.fps == pytest.approx(bench.shown.fps, rel=1e-12)


SPOILED: list[tuple[str, str, Callable[[Path], object]]] = [
    ("E_DATASET_NOT_FOUND", "", lambda data: shutil.rmtree(data)),
    ("E_DATASET_EMPTY", "/0", lambda data: list(map(Path.unlink, data.glob("0/*")))),
    ("E_DATASET_SMALL", "", lambda data: data),
    ("E_DATASET_LAYOUT", "/0", lambda data: (data / "0" / "deep").mkdir()),
    ("E_DATASET_LAYOUT", "", lambda data: shutil.copy(CAT, data / "cat.jpg")),
    ("E_DATASET_FILE", "/1/notes.txt", lambda data: (data / "1" / "notes.txt").touch()),
    (
        "E_DATASET_FILE",
        "/1/cat.jpg",
        lambda data: (data / "1" / "cat.jpg").symlink_to(CAT),
    ),
    ("E_IMAGE_FORMAT", "/2/a.png", lambda data: (data / "2" / "a.png").write_text("no image")),
]
"""The code, the place at fault in the dataset, and what makes it so."""


@pytest.mark.parametrize(("code", "place", "spoil"), SPOILED)
def test_a_dataset_is_refused_as_in_python(
    small_bundle: Path,
    few: Path,
    code: str,
    place: str,
    spoil: Callable[[Path], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in "56789":  # classes that the bundle does not have
        shutil.rmtree(few / name)
    spoil(few)
    words = ("bench", small_bundle, "--data", few, "--seed", "1", "--quiet", "--json")
    found, expected = edge(*words), python(capsys, *words)
    assert (found.code, json.loads(found.out)) == (expected.code, json.loads(expected.out))
    error = json.loads(found.out)["error"]
    assert (error["code"], error["where"]) == (code, f"{few}{place}")


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("E_ARGUMENT", 2, ["--batch-size", "0"]),
        ("E_ARGUMENT", 2, ["--batch-size", "1025"]),
        ("E_ARGUMENT", 2, ["--batch-size", "2", "--scenario", "single_stream"]),
        ("E_ARGUMENT", 2, ["--scenario", "server"]),
        ("E_ARGUMENT", 2, ["--boundary", "chip"]),
        ("E_ARGUMENT", 2, ["--protocol", "slow"]),
        ("E_ARGUMENT", 2, ["--seed", "-1"]),
        ("E_TARGET_UNAVAILABLE", 6, ["--boundary", "device"]),
        ("E_TARGET_UNAVAILABLE", 6, ["--target", "cpu"]),
        ("E_OUTPUT_EXISTS", 4, ["-o", str(PHOTOS / "cat.jpg")]),
    ],
)
def test_bad_options_are_refused_before_anything_is_timed(
    small_bundle: Path, code: str, exit_code: int, words: Sequence[str]
) -> None:
    fails(code, exit_code, "bench", small_bundle, *words)


def timing_process(parent: int) -> int:
    """Wait until the command has started its first timing process; return its number."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    for _ in range(600):
        if found := children.read_text(encoding="ascii").split():
            return int(found[0])
        time.sleep(0.05)
    pytest.fail("no timing process was started")


def test_an_interrupted_bench_leaves_no_process_behind(small_bundle: Path, tmp_path: Path) -> None:
    with started(small_bundle, "-o", tmp_path / "record.json") as process:
        child = timing_process(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("E_INTERRUPTED: ")
    for _ in range(600):
        if not Path(f"/proc/{child}/exe").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{child}/exe").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_timing_process_that_is_killed_is_said_to_lack_memory(small_bundle: Path) -> None:
    with started(small_bundle, "--json") as process:
        os.kill(timing_process(process.pid), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert err.splitlines()[-1].startswith("E_MEMORY: ")


def test_the_help_of_bench_has_an_example() -> None:
    result = edge("bench", "--help")
    assert (result.code, result.err) == (0, "")
    assert "Example: vitaie-edge bench" in result.out
