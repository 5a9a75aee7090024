"""``vitaie bench`` counts what can be trusted, and sees through engines that only look fast.

The engines live in ``tests/doubles``, each in a timing process of its own, whose clock only their
work moves on: no result depends on the machine.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.bundles import copy_bundle, document, reseal
from tests.support.images import photographs
from vitaie.manifests.errors import (
    BundleError,
    DiskError,
    ImageError,
    InputError,
    TargetUnavailable,
    VitaieError,
)
from vitaie.manifests.measurement import (
    MINIMUM,
    WARM_UP,
    PerformanceMeasurement,
    faults,
    read_measurement,
)
from vitaie.manifests.outputs import BenchOutput
from vitaie.runtime import _benchmark
from vitaie.runtime._benchmark import Benchmark, Measured, benchmark, summary
from vitaie.runtime._cli import app
from vitaie.runtime._command import run

SEED = 20


class Using(Protocol):
    """What the fixture of that name gives."""

    def __call__(self, double: str, cost_ms: int = 25) -> None:
        """Use a double."""


@pytest.fixture
def using(monkeypatch: pytest.MonkeyPatch) -> Using:
    """Make benchmarks time one of the doubles; nothing of a protocol but its waits is changed.

    An image costs it so many milliseconds of its own clock.
    """

    def use(double: str, cost_ms: int = 25) -> None:
        monkeypatch.setenv("VITAIE_TEST_COST_MS", str(cost_ms))
        for name, plan in _benchmark.PLANS.items():
            timed = plan._replace(worker=f"tests.doubles.{double}", settle_s=0)
            monkeypatch.setitem(_benchmark.PLANS, name, timed)

    return use


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


# A record that counts


def test_an_honest_engine_is_valid(small_bundle: Path, using: Using) -> None:
    using("honest", 10)
    result = benchmark(small_bundle, seed=SEED)
    measurement, record = result.measurement, result.record
    assert (record["verdict"], record["reasons"]) == ("VALID", [])
    assert result.valid
    assert list(faults(measurement)) == []
    assert record["fps"] == pytest.approx(100, rel=1e-3)  # 10 ms each
    assert set(record["latency_ms"]) == {"p50", "p90", "p95", "p99"}
    assert measurement.honesty.checked == 20
    assert measurement.honesty.repeated_ms == measurement.honesty.distinct_ms
    target = next(t for t in result.manifest.targets if t.id == measurement.subject.target)
    assert measurement.subject.target_digest == target.target_digest
    assert measurement.placement == 1
    assert measurement.runs[0].peak_mib > 10


def test_the_full_protocol_is_five_processes_and_enough_calls(
    small_bundle: Path, using: Using
) -> None:
    using("honest", 100)
    result = benchmark(small_bundle, seed=SEED, protocol="full")
    assert result.record["verdict"] == "VALID"
    assert len(result.measurement.runs) == 5
    assert result.measurement.honesty.checked == 5 * 20


def test_plans_come_to_what_the_protocols_ask_for() -> None:
    assert set(_benchmark.PLANS) == set(MINIMUM)
    for name, plan in _benchmark.PLANS.items():
        seconds, calls, runs = MINIMUM[name]
        assert plan.runs >= runs
        assert plan.seconds >= seconds
        assert plan.runs * plan.calls >= calls
        assert plan.warm_up >= WARM_UP
    assert _benchmark.PLANS["full"].settle_s > 0


@pytest.mark.parametrize("boundary", ["host", "end_to_end"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_boundary_and_batch_is_measured_and_checked(
    small_bundle: Path, using: Using, boundary: str, batch_size: int
) -> None:
    cost_ms = 40 // batch_size
    using("honest", cost_ms)
    result = benchmark(small_bundle, boundary=boundary, batch_size=batch_size, seed=SEED)
    assert result.record["verdict"] == "VALID"
    assert result.measurement.scenario == ("offline" if batch_size > 1 else "single_stream")
    assert result.record["fps"] == pytest.approx(1000 / cost_ms, rel=1e-3)
    assert (result.measurement.honesty.checked, result.measurement.honesty.differing) == (20, 0)


def test_the_same_seed_feeds_the_same_inputs_and_another_does_not(
    small_bundle: Path, using: Using
) -> None:
    using("honest")
    inputs = [benchmark(small_bundle, seed=seed).measurement.inputs for seed in (1, 1, 2)]
    assert inputs[0] == inputs[1]
    assert inputs[0].digest != inputs[2].digest
    assert {each.kind for each in inputs} == {"goldens with seeded noise"}
    assert {each.count for each in inputs} == {64}


def test_a_seed_that_is_not_given_cannot_be_foreseen(small_bundle: Path, using: Using) -> None:
    using("honest")
    first, second = (benchmark(small_bundle).measurement.honesty.seed for _ in range(2))
    assert first != second


def test_photographs_are_drawn_from_the_dataset(
    small_bundle: Path, tmp_path: Path, using: Using
) -> None:
    using("honest")
    data = photographs(tmp_path / "data", 70)
    inputs = benchmark(small_bundle, data=data, seed=SEED).measurement.inputs
    assert (inputs.kind, inputs.count) == ("photographs", 64)
    assert inputs.digest != benchmark(small_bundle, data=data, seed=1).measurement.inputs.digest


# Cheats


def test_an_engine_that_caches_by_input_is_caught(small_bundle: Path, using: Using) -> None:
    using("caches_by_input")
    result = benchmark(small_bundle, seed=SEED)
    assert result.measurement.honesty.differing == 0  # every answer is right
    assert result.record["verdict"] == "INVALID"
    assert [each for each in result.record["reasons"] if "outputs are kept by input" in each]


def test_an_engine_that_answers_by_index_is_caught(small_bundle: Path, using: Using) -> None:
    using("answers_by_index")
    result = benchmark(small_bundle, seed=SEED)
    assert result.record["verdict"] == "INVALID"
    assert [each for each in result.record["reasons"] if "are not the model's" in each]


@pytest.mark.parametrize(
    ("double", "boundary"),
    [
        ("times_a_smaller_model", "host"),
        ("times_a_smaller_model", "end_to_end"),
        ("rounds_when_warm", "host"),
    ],
)
def test_an_engine_that_times_a_smaller_model_is_caught(
    small_bundle: Path, using: Using, double: str, boundary: str
) -> None:
    using(double)
    result = benchmark(small_bundle, seed=SEED, boundary=boundary)
    assert result.measurement.honesty.differing == 20
    assert result.record["verdict"] == "INVALID"
    assert [each for each in result.record["reasons"] if "20 of 20 outputs" in each]


def test_an_engine_that_is_always_another_model_is_caught_by_the_goldens(
    small_bundle: Path, using: Using
) -> None:
    using("is_another_model")
    with pytest.raises(BundleError) as caught:
        benchmark(small_bundle, seed=SEED)
    assert (caught.value.code, caught.value.exit_code) == ("E_CLAIM_FALSE", 1)
    assert "goldens" in caught.value.field


def test_a_figure_above_the_hardwares_peak_is_refused(small_bundle: Path, using: Using) -> None:
    using("honest")
    result = benchmark(small_bundle, seed=SEED)
    known = result.measurement.environment.model_copy(
        update={"features": ("avx", "avx2", "fma", "sse2"), "processors": 2}
    )
    measurement = result.measurement.model_copy(update={"environment": known, "threads": 2})
    peak_gflop = 2 * 32 * 6.5  # of two cores; at 40 images a second the limit is a 40th
    for gflop, verdict in ((0.0249 * peak_gflop, "VALID"), (0.0251 * peak_gflop, "INVALID")):
        model = result.manifest.model.model_copy(update={"gflop": gflop})
        record = summary(result.manifest.model_copy(update={"model": model}), measurement)
        assert record["verdict"] == verdict, record["reasons"]
        assert any("the timing is at fault" in each for each in record["reasons"]) == (
            verdict == "INVALID"
        )


# Stability


@pytest.mark.parametrize(("slow", "processes", "valid"), [(1, 3, True), (2, 3, False)])
def test_an_unstable_run_is_made_once_more_in_a_fresh_process(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    using: Using,
    slow: int,
    processes: int,
    valid: bool,
) -> None:
    log = tmp_path / "slow"
    log.write_text(str(slow), encoding="ascii")
    monkeypatch.setenv("VITAIE_TEST_SLOW", str(log))
    using("slows_down")
    result = benchmark(small_bundle, seed=SEED)
    assert log.read_text(encoding="ascii").count("p") == processes  # two timed, one untimed
    assert result.valid == valid
    assert valid or [each for each in result.record["reasons"] if "was not stable" in each]


# The artifact


def test_a_bundle_that_is_replaced_by_another_while_it_is_timed_does_not_count(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, using: Using
) -> None:
    def change(whole: dict[str, Any]) -> None:
        for target in whole["targets"]:
            target["optim_level"] = 0

    other = copy_bundle(bundle, tmp_path / "other")
    reseal(other, change)
    seen: list[Measured] = []
    measure = _benchmark.measure

    def and_look(*arguments: Any) -> Measured:
        seen.append(measure(*arguments))
        return seen[-1]

    monkeypatch.setattr(_benchmark, "measure", and_look)
    monkeypatch.setenv("VITAIE_TEST_BUNDLE_FILES", f"{other}:{bundle}")
    using("has_its_bundle_replaced")
    record = benchmark(bundle, target="cpu", seed=SEED).record
    assert [seen[0].runs[0].unchanged, seen[0].outputs.unchanged] == [False, False]
    assert record["verdict"] == "INVALID"
    assert "the artifacts were changed while they were timed" in record["reasons"]


def test_a_bundle_that_is_broken_while_it_is_timed_is_an_error(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, using: Using
) -> None:
    broken = tmp_path / "files"
    broken.mkdir()
    labels = (bundle / "labels.txt").read_bytes()
    (broken / "labels.txt").write_bytes(labels.replace(b"class 0", b"class 9"))
    monkeypatch.setenv("VITAIE_TEST_BUNDLE_FILES", f"{broken}:{bundle}")
    using("has_its_bundle_replaced")
    with pytest.raises(BundleError) as caught:
        benchmark(bundle, seed=SEED)
    assert caught.value.code == "E_BUNDLE_FILE_DIGEST"
    assert caught.value.where.endswith("labels.txt")


# Bad input


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1025}, "batch_size"),
        ({"batch_size": 2, "scenario": "single_stream"}, "batch_size"),
        ({"scenario": "server"}, "scenario"),
        ({"boundary": "npu"}, "boundary"),
        ({"protocol": "long"}, "protocol"),
        ({"seed": -1}, "seed"),
        ({"threads": 0}, "threads"),
    ],
)
def test_an_argument_that_is_not_valid_is_named(
    small_bundle: Path, options: dict[str, Any], where: str
) -> None:
    with pytest.raises(InputError) as caught:
        benchmark(small_bundle, **options)
    assert (caught.value.code, caught.value.where) == ("E_ARGUMENT", where)


def test_the_device_boundary_is_not_there_on_a_cpu(small_bundle: Path) -> None:
    with pytest.raises(TargetUnavailable) as caught:
        benchmark(small_bundle, boundary="device")
    assert caught.value.exit_code == 6
    assert "memory" in (caught.value.got or "")


def test_too_few_different_images_are_refused(small_bundle: Path, tmp_path: Path) -> None:
    """Sixty-three, and seventy of which most are copies of one."""
    few = photographs(tmp_path / "few", 63)
    copies = photographs(tmp_path / "copies", 70)
    one = (copies / "c0" / "000.jpg").read_bytes()
    for path in itertools.islice(sorted(copies.rglob("*.jpg")), 30):
        path.write_bytes(one)
    for data, count in ((few, 63), (copies, 41)):
        with pytest.raises(InputError) as caught:
            benchmark(small_bundle, data=data, seed=SEED)
        assert (caught.value.code, caught.value.got) == ("E_DATASET_SMALL", str(count))


def test_a_broken_photograph_is_named(small_bundle: Path, tmp_path: Path) -> None:
    data = photographs(tmp_path / "data", 64)
    (data / "c1" / "001.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    with pytest.raises(ImageError) as caught:
        benchmark(small_bundle, data=data, seed=SEED)
    assert caught.value.where.endswith("001.jpg")


def test_a_timing_process_that_the_system_kills_is_told_as_such(
    small_bundle: Path, using: Using
) -> None:
    using("dies")
    with pytest.raises(DiskError) as caught:
        benchmark(small_bundle)
    assert caught.value.code == "E_MEMORY"


def test_an_error_in_the_timing_process_is_the_same_error_here(small_bundle: Path) -> None:
    errors = [
        VitaieError("E_DISK", "here", field="f", expected="e", got="g", hint="h"),
        BundleError("E_BUNDLE_ENGINE", "there", got="no"),
    ]
    for error in errors:
        fields = ("code", "where", "field", "expected", "got", "hint")
        told = {"kind": type(error).__name__, **{name: getattr(error, name) for name in fields}}
        again = _benchmark.error_of(told)
        assert (type(again), str(again)) == (type(error), str(error))


# The command


def test_the_command_prints_the_figure_last_and_writes_the_record(
    small_bundle: Path,
    tmp_path: Path,
    using: Using,
    capsys: pytest.CaptureFixture[str],
) -> None:
    using("honest")
    record = tmp_path / "RECORD.json"
    code = run(app, "vitaie", ["bench", str(small_bundle), "-o", str(record), "--seed", "3"])
    out, err = capsys.readouterr()
    measurement = read_measurement(record.read_bytes(), str(record))
    assert isinstance(measurement, PerformanceMeasurement)
    assert code == 0, err
    assert out.splitlines()[-1] == "FPS: 40.00"
    assert measurement.inputs.seed == 3
    assert err.splitlines()[-1].startswith("next: vitaie-build attach ")


def test_the_command_tells_in_json_what_the_record_comes_to(
    small_bundle: Path, using: Using, capsys: pytest.CaptureFixture[str]
) -> None:
    using("honest")
    code = run(app, "vitaie", ["bench", str(small_bundle), "--json", "--quiet"])
    out, err = capsys.readouterr()
    shown = BenchOutput.model_validate_json(out)
    assert (code, err) == (0, "")
    assert (shown.verdict, shown.reasons, shown.output) == ("VALID", [], None)
    assert shown.runs_fps == [shown.fps]


def test_an_invalid_measurement_exits_6_with_its_reasons_and_is_still_written(
    small_bundle: Path,
    tmp_path: Path,
    using: Using,
    capsys: pytest.CaptureFixture[str],
) -> None:
    using("caches_by_input", 10)
    record = tmp_path / "RECORD.json"
    code = run(app, "vitaie", ["bench", str(small_bundle), "-o", str(record), "--quiet"])
    out, err = capsys.readouterr()
    assert code == 6
    assert "FPS: " not in out
    assert out.splitlines()[-1].startswith("INVALID")
    lines = err.splitlines()
    assert lines[0].startswith("INVALID: a repeated image")
    assert lines[-1].startswith("E_SPEED_INVALID: ")
    assert read_measurement(record.read_bytes(), str(record)).format == "vitaie-performance"


def test_a_record_that_is_there_is_refused_before_anything_is_timed(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "RECORD.json"
    record.touch()
    code = run(app, "vitaie", ["bench", str(small_bundle), "-o", str(record)])
    assert code == 4
    assert capsys.readouterr().err.startswith("E_OUTPUT_EXISTS: ")


# Ends


def start(bundle: Path, record: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a benchmark by the command; return it and its timing process, once there is one."""
    command = Path(sys.executable).parent / "vitaie"
    process = subprocess.Popen(
        [command, "bench", bundle, "-o", record],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (found := children.read_text(encoding="ascii").split()):
        assert process.poll() is None
        time.sleep(0.01)
    return process, int(found[0])


def wait_for_the_end_of(process: int) -> None:
    while Path(f"/proc/{process}").exists() and _state(process) != "Z":
        time.sleep(0.01)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2][1]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_leaves_neither_processes_nor_files(
    small_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process, child = start(small_bundle, tmp_path / "RECORD.json")
    os.kill(process.pid, number)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith(b"E_INTERRUPTED: ")
    wait_for_the_end_of(child)
    assert list(tmp_path.iterdir()) == []


def test_the_timing_process_ends_when_the_benchmark_is_killed(
    small_bundle: Path, tmp_path: Path
) -> None:
    process, child = start(small_bundle, tmp_path / "RECORD.json")
    process.kill()
    process.communicate()
    wait_for_the_end_of(child)
    assert list(tmp_path.iterdir()) == []


def test_the_timing_process_imports_nothing_from_the_working_folder(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    using: Using,
) -> None:
    (tmp_path / "mmap.py").write_text("raise SystemExit(77)\n", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    using("honest")
    assert benchmark(small_bundle, seed=SEED).valid


def test_a_result_is_the_bundles_it_was_measured_on(small_bundle: Path, using: Using) -> None:
    using("honest")
    result: Benchmark = benchmark(small_bundle.parent, seed=SEED)  # of all versions, the newest
    told = document(small_bundle)
    assert result.folder == small_bundle
    assert result.measurement.subject.content_digest == told["content_digest"]
    assert json.loads(result.measurement.model_dump_json())["subject"]["name"] == told["name"]
