"""What is wrong with a command's arguments is said before a bundle is opened or read.

So each argument here comes with a bundle that is not there, or whose weights are spoilt: whoever
looked at that first would complain of it.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.bundles import copy_bundle
from tests.support.images import PHOTOS
from vitaie.manifests.errors import DiskError
from vitaie.manifests.outputs import ErrorOutput
from vitaie.runtime._cli import app
from vitaie.runtime._command import run
from vitaie.runtime._files import check_output

CAT = str(PHOTOS / "cat.jpg")


@pytest.fixture(autouse=True)
def handlers() -> Generator[None, None, None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


ARGUMENTS = [
    ("classify {} {cat} --top-k 0", "E_ARGUMENT"),
    ("classify {} {cat} --top-k -1", "E_ARGUMENT"),
    ("classify {} {cat} --threads 0", "E_ARGUMENT"),
    ("classify {} {cat} --device-id -1", "E_ARGUMENT"),
    ("verify {} --threads 1025", "E_ARGUMENT"),
    ("verify {} --device-id -1", "E_ARGUMENT"),
    ("preprocess {} {cat} -o x.png", "E_ARGUMENT"),
    ("preprocess {} {cat} -o {tmp}/there.npy", "E_OUTPUT_EXISTS"),
    ("preprocess {} {cat} -o {tmp}/none/x.npy", "E_OUTPUT_PATH"),
    ("eval {} --data {tmp} -o {tmp}/there.npy", "E_OUTPUT_EXISTS"),
    ("eval {} --data {tmp} --threads 0", "E_ARGUMENT"),
    ("eval {} --data {tmp} --batch-size 0", "E_ARGUMENT"),
    ("eval {} --data {tmp} --batch-size 1025", "E_ARGUMENT"),
    ("eval {} --data {tmp} --allow-missing -1", "E_ARGUMENT"),
    ("eval {} --data {tmp} --device-id -1", "E_ARGUMENT"),
    ("eval {} --data {tmp} --device-id 1 --engine ray --address 127.0.0.1:1", "E_ARGUMENT"),
    ("eval {} --data {tmp} --journal {tmp}/none/a.journal", "E_OUTPUT_PATH"),
    ("bench {} -o {tmp}/there.npy", "E_OUTPUT_EXISTS"),
    ("bench {} --threads 0", "E_ARGUMENT"),
    ("bench {} --device-id -1", "E_ARGUMENT"),
    ("bench {} --batch-size 0", "E_ARGUMENT"),
    ("bench {} --batch-size 2 --scenario single_stream", "E_ARGUMENT"),
    ("bench {} --seed -1", "E_ARGUMENT"),
    ("bench {} --protocol slow", "E_ARGUMENT"),
    ("bench {} --boundary npu", "E_ARGUMENT"),
    ("bench {} --scenario server", "E_ARGUMENT"),
]


@pytest.mark.parametrize(("line", "code"), ARGUMENTS)
def test_a_wrong_argument_is_refused_before_a_bundle_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: str
) -> None:
    (tmp_path / "there.npy").touch()
    arguments = line.format(tmp_path / "no_bundle", cat=CAT, tmp=tmp_path).split()
    run(app, "vitaie", [*arguments, "--json"])
    assert ErrorOutput.model_validate_json(capsys.readouterr().out).error.code == code


@pytest.fixture(name="spoilt")
def _spoilt(small_bundle: Path, tmp_path: Path) -> Path:
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    for name in ("model.ts", "model.onnx", "labels.txt"):
        (bundle / name).write_bytes(bytes((bundle / name).stat().st_size))
    return bundle


COMMANDS = ["classify {} {cat}", "verify {}", "eval {} --data {tmp} --unpaired", "bench {}"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("target", ["cpu", ""])
def test_a_number_of_a_device_is_refused_where_nothing_runs_on_one(
    spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, target: str
) -> None:
    arguments = command.format(spoilt, cat=CAT, tmp=tmp_path).split()
    arguments += ["--target", target] if target else []
    assert run(app, "vitaie", [*arguments, "--device-id", "1", "--json"]) == 2
    error = ErrorOutput.model_validate_json(capsys.readouterr().out).error
    assert (error.code, error.where, error.got) == ("E_ARGUMENT", "--device-id", "1")
    assert error.expected == "0, the default, for targets that run on the CPU"
    assert "onnxruntime-cpu-fp32" in error.hint


@pytest.mark.parametrize("command", COMMANDS)
def test_a_target_that_is_none_is_refused_before_the_weights_are_checked(
    spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = command.format(spoilt, cat=CAT, tmp=tmp_path).split()
    assert run(app, "vitaie", [*arguments, "--target", "gpu", "--json"]) == 2
    error = ErrorOutput.model_validate_json(capsys.readouterr().out).error
    assert (error.code, error.got) == ("E_TARGET_UNKNOWN", "gpu")


def test_an_output_whose_folder_may_not_be_written_is_refused_before_it_is_made() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # nobody: root may write anywhere
            with pytest.raises(DiskError, match="E_DISK.*Name a place that you may write to") as e:
                check_output(Path(name, "out"))
        finally:
            os.seteuid(user)
        assert (e.value.where, e.value.exit_code) == (name, 5)
