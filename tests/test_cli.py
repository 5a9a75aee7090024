"""``vitaie`` says what a person and a script need: results on stdout, all else on stderr."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Generator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.bundles import Document, copy_bundle, document, put, reseal
from tests.support.images import PHOTOS
from vitaie import runtime
from vitaie.builder.cli import app as builder_app
from vitaie.manifests.digests import sha256
from vitaie.manifests.outputs import (
    ClassifyOutput,
    ErrorOutput,
    InfoOutput,
    PreprocessOutput,
    VerifyOutput,
)
from vitaie.runtime._cli import app
from vitaie.runtime._command import as_given, counting, log_to_stderr, run
from vitaie.runtime._evaluate import Progress

CAT, ROCKET = str(PHOTOS / "cat.jpg"), str(PHOTOS / "rocket.jpg")
COMMANDS = ("info", "classify", "preprocess", "verify")


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Cli:
    """Runs ``vitaie`` in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object) -> Result:
        code = run(app, "vitaie", [str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        return Result(code, out, err)

    def fails(self, code: str, exit_code: int, *arguments: object) -> str:
        """Assert that a command fails like this, told in one line and in JSON; return the line."""
        plain = self(*arguments)
        assert (plain.code, plain.out) == (exit_code, ""), plain
        line = plain.err.splitlines()[-1]
        assert line.startswith(f"{code}: ")
        assert line.isprintable()
        assert "Traceback" not in plain.err
        told = self(*arguments, "--json")
        error = ErrorOutput.model_validate_json(told.out).error
        assert (error.code, error.exit_code, told.code) == (code, exit_code, exit_code)
        assert error.message == told.err.splitlines()[-1]
        return line


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Generator[Cli, None, None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield Cli(capsys)
    for number, handler in zip(numbers, handlers):
        signal.signal(number, handler)


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example_and_every_common_option(
    cli: Cli, command: str
) -> None:
    result = cli(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Example: vitaie {command} " in result.out
    for option in ("--json", "--quiet", "--help"):
        assert option in result.out


@pytest.mark.parametrize("command", ["classify", "verify"])
def test_a_command_that_runs_a_model_takes_target_and_threads(cli: Cli, command: str) -> None:
    out = cli(command, "-h").out
    assert "--target ID" in out
    assert "--threads N" in out


def test_without_arguments_the_commands_are_listed(cli: Cli) -> None:
    result = cli()
    assert result == cli("--help")
    assert (result.code, result.err) == (0, "")
    for command in COMMANDS:
        assert f"\n  {command} " in result.out


@pytest.mark.parametrize(("name", "which"), [("vitaie", app), ("vitaie-build", builder_app)])
def test_the_version_is_that_of_the_distribution(
    name: str, which: Any, capsys: pytest.CaptureFixture[str], cli: Cli
) -> None:
    for arguments in (["--version"], ["--version", "nonsense"]):
        assert run(which, name, arguments) == 0
        assert capsys.readouterr() == (f"{name} {metadata.version('vitaie')}\n", "")


# What the commands do


def test_info_is_on_one_screen_and_names_the_next_command(cli: Cli, small_bundle: Path) -> None:
    result = cli("info", small_bundle)
    assert result.code == 0
    assert len(result.out.splitlines()) <= 24
    for fact in ("small_vit 1.0.0", "onnxruntime-cpu-fp32", "torchscript-cpu-fp32", "timm"):
        assert fact in result.out
    assert document(small_bundle)["content_digest"] in result.out
    assert result.err == f"next: vitaie verify {small_bundle}\n"


def test_info_as_json_is_the_manifest(cli: Cli, small_bundle: Path) -> None:
    result = cli("info", small_bundle, "--json")
    output = InfoOutput.model_validate_json(result.out)
    assert output.path == str(small_bundle)
    assert json.loads(result.out)["manifest"] == document(small_bundle)


def test_the_folder_of_all_versions_means_the_newest(
    cli: Cli, small_bundle: Path, tmp_path: Path
) -> None:
    for version in ("1.9.0", "1.10.0"):
        copy_bundle(small_bundle, tmp_path / version)
    for arguments in (["info"], ["verify", "--target", "cpu"], ["classify"]):
        images = [CAT] if arguments == ["classify"] else []
        result = cli(*arguments, tmp_path, *images, "--json")
        assert json.loads(result.out)["path"] == str(tmp_path / "1.10.0")


def test_classify_prints_the_classes_of_each_image(cli: Cli, small_bundle: Path) -> None:
    with runtime.load(small_bundle) as model:
        expected = model.classify([CAT, ROCKET], top_k=2)
    result = cli("classify", small_bundle, CAT, ROCKET, "--top-k", "2")
    lines: list[str] = []
    for image, predictions in zip((CAT, ROCKET), expected):
        lines.append(image)
        lines += [f"  {100 * p.probability:6.2f}%  {p.id}  {p.label}" for p in predictions]
    assert result.code == 0
    assert result.out.splitlines() == lines
    assert "target onnxruntime-cpu-fp32" in result.err
    command = f"next: vitaie preprocess {small_bundle} {CAT} -o tensor.npy"
    assert result.err.splitlines()[-1] == command


def test_classify_as_json_has_every_probability(cli: Cli, small_bundle: Path) -> None:
    with runtime.load(small_bundle) as model:
        expected = model.classify([CAT, ROCKET])
    result = cli("classify", small_bundle, CAT, ROCKET, "--json", "--quiet", "--target", "cpu")
    assert (result.code, result.err) == (0, "")
    output = ClassifyOutput.model_validate_json(result.out)
    assert (output.version, output.target) == ("1.0.0", "onnxruntime-cpu-fp32")
    assert [image.image for image in output.images] == [CAT, ROCKET]
    for image, predictions in zip(output.images, expected):
        assert [p.model_dump() for p in image.predictions] == [p.__dict__ for p in predictions]


def test_preprocess_writes_what_the_model_sees(
    cli: Cli, small_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "cat.npy"
    result = cli("preprocess", small_bundle, CAT, "-o", output, "--json")
    assert result.code == 0
    said = PreprocessOutput.model_validate_json(result.out)
    tensor = np.load(output)
    with runtime.load(small_bundle) as model:
        assert np.array_equal(tensor, model.preprocess(CAT))
    assert (said.output, said.dtype) == (str(output), "float32")
    assert (said.shape, said.sha256) == (list(tensor.shape), sha256(tensor.tobytes()))
    assert result.err == f"next: vitaie classify {small_bundle} {CAT}\n"
    plain = cli("preprocess", small_bundle, CAT, "-o", tmp_path / "2.npy")
    assert plain.out == f"{tmp_path / '2.npy'}: float32 {said.shape}, sha256 {said.sha256}\n"


def test_verify_prints_every_claim_and_the_verdict(cli: Cli, small_bundle: Path) -> None:
    result = cli("verify", small_bundle, "--target", "cpu")
    assert result.code == 0
    *claims, verdict = result.out.splitlines()
    assert verdict.startswith("TRUE")
    assert [line.split()[0] for line in claims] == ["true"] * 6 + ["not"] * 5
    assert verdict == "TRUE, 5 not checked"
    assert max(len(line.replace(str(small_bundle), "")) for line in claims) <= 120
    assert result.err.splitlines()[-1] == f"next: vitaie info {small_bundle}"


def test_verify_as_json_has_every_claim(cli: Cli, small_bundle: Path) -> None:
    result = cli("verify", small_bundle, "--target", "cpu", "--json")
    output = VerifyOutput.model_validate_json(result.out)
    assert output.holds
    assert len(output.claims) == 11
    assert output.content_digest == document(small_bundle)["content_digest"]


def test_verify_exits_with_1_when_a_claim_is_false(cli: Cli, bundle: Path) -> None:
    def spoil(whole: Document) -> None:
        whole["goldens"][1]["tensor_sha256"] = "0" * 64

    reseal(bundle, spoil)
    result = cli("verify", bundle, "--target", "cpu")
    assert result.code == 1
    assert result.out.splitlines()[-1].startswith("FALSE")
    assert "false       golden 01 preprocessing: differs at: tensor" in result.out
    assert result.err.splitlines()[-1].startswith("E_CLAIM_FALSE: ")
    told = cli("verify", bundle, "--target", "cpu", "--json")
    assert told.code == 1
    assert not VerifyOutput.model_validate_json(told.out).holds


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--quiet", "-q"])
def test_quiet_says_nothing_but_the_result(
    cli: Cli, small_bundle: Path, tmp_path: Path, command: str, option: str
) -> None:
    more: dict[str, list[object]] = {
        "info": [],
        "classify": [CAT, ROCKET],
        "preprocess": [CAT, "-o", tmp_path / "x.npy"],
        "verify": ["--target", "cpu"],
    }
    result = cli(command, small_bundle, *more[command], option)
    assert (result.code, result.err) == (0, "")
    assert result.out


def test_what_is_logged_is_not_said_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a handler Python would print warnings itself, as its last resort."""
    logger = logging.getLogger("vitaie")
    for quiet, said in ((True, ""), (False, "run 1 was not stable\n")):
        with log_to_stderr(quiet):
            logger.warning("run 1 was not stable")
        assert capsys.readouterr().err == said


def test_a_path_is_told_as_the_user_writes_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert as_given(tmp_path / "a" / "1.0.0", "a") == "a/1.0.0"
    assert as_given(tmp_path / "a", str(tmp_path)) == str(tmp_path / "a")


# Errors


def test_usage_that_is_not_understood_is_2(cli: Cli, small_bundle: Path) -> None:
    for arguments in (
        ["nonsense"],
        ["info"],
        ["info", small_bundle, "more"],
        ["info", small_bundle, "--nonsense"],
        ["classify", small_bundle],
        ["classify", small_bundle, CAT, "--top-k", "many"],
        ["classify", small_bundle, CAT, "--threads", "1.5"],
        ["preprocess", small_bundle, CAT],
    ):
        assert "Run: vitaie" in cli.fails("E_USAGE", 2, *arguments)


def test_a_bundle_that_does_not_open_is_1(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    for arguments in (["info"], ["verify"], ["classify"]):
        images = [CAT] if arguments == ["classify"] else []
        cli.fails("E_BUNDLE_NOT_FOUND", 1, *arguments, tmp_path / "nowhere", *images)
        (bundle / "extra").touch()
        cli.fails("E_BUNDLE_FILE_EXTRA", 1, *arguments, bundle, *images)
        (bundle / "extra").unlink()
    (bundle / "model.onnx").write_bytes(bytes((bundle / "model.onnx").stat().st_size))
    cli.fails("E_BUNDLE_FILE_DIGEST", 1, "verify", bundle)
    cli.fails("E_BUNDLE_FILE_DIGEST", 1, "classify", bundle, CAT)
    (bundle / "manifest.json").write_bytes(b"{}")
    cli.fails("E_MANIFEST_MISSING_FIELD", 1, "info", bundle)


def test_a_wrong_argument_is_2(cli: Cli, small_bundle: Path, tmp_path: Path) -> None:
    classify = ("classify", small_bundle)
    (tmp_path / "text.jpg").write_text("text")
    line = cli.fails("E_IMAGE_FORMAT", 2, *classify, tmp_path / "text.jpg")
    assert ". Save it as JPEG or PNG" in line
    for missing in (tmp_path / "nowhere.jpg", tmp_path):
        line = cli.fails("E_IMAGE_UNREADABLE", 2, *classify, missing)
        assert line.endswith(". Give the path of a JPEG or PNG file that may be read.")
    cli.fails("E_ARGUMENT", 2, "verify", "")
    cli.fails("E_ARGUMENT", 2, *classify, CAT, "--top-k", "0")
    cli.fails("E_ARGUMENT", 2, *classify, CAT, "--threads", "0")
    cli.fails("E_TARGET_UNKNOWN", 2, *classify, CAT, "--target", "gpu")
    cli.fails("E_TARGET_UNKNOWN", 2, "verify", small_bundle, "--target", "gpu")
    preprocess = ("preprocess", small_bundle)
    cli.fails("E_IMAGE_FORMAT", 2, *preprocess, tmp_path / "text.jpg", "-o", tmp_path / "x.npy")
    cli.fails("E_ARGUMENT", 2, *preprocess, CAT, "-o", tmp_path / "x.png")
    cli.fails("E_OUTPUT_PATH", 2, *preprocess, CAT, "-o", tmp_path / "nowhere" / "x.npy")
    assert not (tmp_path / "x.npy").exists()


def test_a_wrong_argument_is_named_as_it_was_typed(cli: Cli, small_bundle: Path) -> None:
    classify = ("classify", small_bundle, CAT)
    for typed in (["--threads", "0"], ["--threads=0"]):
        assert "E_ARGUMENT: --threads: " in cli.fails("E_ARGUMENT", 2, *classify, *typed)
    assert "E_ARGUMENT: --top-k: " in cli.fails("E_ARGUMENT", 2, *classify, "--top-k", "-1")


def test_a_folder_that_is_no_bundle_says_which_are_below_it(
    cli: Cli, small_bundle: Path, tmp_path: Path
) -> None:
    for number in range(5):
        for version in ("1.0.0", "1.1.0"):
            copy_bundle(small_bundle, tmp_path / "some" / "store" / f"vit_{number}" / version)
    (tmp_path / "some" / "store" / "empty").mkdir()
    copy_bundle(small_bundle, tmp_path / "some" / "store" / ".staging")
    store = tmp_path / "some" / "store"
    below = f"Found there: {store / 'vit_0'}, {store / 'vit_1'}, {store / 'vit_2'}."
    for command, *rest in (["info"], ["verify"], ["classify", CAT]):
        for folder in (store, store.parent):
            line = cli.fails("E_BUNDLE_NOT_FOUND", 1, command, folder, *rest)
            assert line.endswith(below)
    for folder in (store / "empty", tmp_path, tmp_path / "nowhere"):
        line = cli.fails("E_BUNDLE_NOT_FOUND", 1, "info", folder)
        assert line.endswith("Give the folder of a bundle, such as bundles/vit_base_patch16_224.")
    for missing in ("vit_0/9.9.9", "vit_0/1.0"):
        beside = f"Found there: {store / 'vit_0' / '1.0.0'}, {store / 'vit_0' / '1.1.0'}."
        assert beside in cli.fails("E_BUNDLE_NOT_FOUND", 1, "info", store / missing)


def test_an_image_that_is_none_ends_classify_after_those_before_it(
    cli: Cli, small_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("text")
    images = (CAT, tmp_path / "text.jpg", ROCKET)
    result = cli("classify", small_bundle, *images, "--top-k", "1")
    assert result.code == 2
    assert result.out.splitlines()[0] == CAT
    assert len(result.out.splitlines()) == 2
    assert result.err.splitlines()[-1].startswith(f"E_IMAGE_FORMAT: {tmp_path / 'text.jpg'}: ")
    told = cli("classify", small_bundle, *images, "--json")
    assert ErrorOutput.model_validate_json(told.out).error.code == "E_IMAGE_FORMAT"


@pytest.mark.parametrize("form", ["file", "folder", "link", "dangling"])
def test_an_output_that_exists_is_4_and_stays_as_it_is(
    cli: Cli, small_bundle: Path, tmp_path: Path, form: str
) -> None:
    output = tmp_path / "x.npy"
    if form == "file":
        output.write_text("mine")
    elif form == "folder":
        output.mkdir()
    else:
        output.symlink_to(tmp_path if form == "link" else "nowhere")
    before = sorted(os.listdir(tmp_path))
    cli.fails("E_OUTPUT_EXISTS", 4, "preprocess", small_bundle, CAT, "-o", output)
    assert sorted(os.listdir(tmp_path)) == before
    assert form != "file" or output.read_text() == "mine"


def test_a_target_that_cannot_run_here_is_6(
    cli: Cli, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitaie.runtime._torchscript.missing", lambda: "torch is not installed")
    target = ("--target", "torchscript-cpu-fp32")
    cli.fails("E_EXTRA_MISSING", 6, "classify", small_bundle, CAT, *target)
    cli.fails("E_EXTRA_MISSING", 6, "verify", small_bundle, *target)


def test_too_little_memory_is_5(
    cli: Cli, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("vitaie.runtime._cli.load", load)
    cli.fails("E_MEMORY", 5, "classify", small_bundle, CAT)


def test_what_no_user_can_cause_shows_its_traceback(
    cli: Cli, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("vitaie.runtime._cli.load", load)
    with pytest.raises(ZeroDivisionError):
        cli("classify", small_bundle, CAT)


# Names


def test_no_escape_code_of_a_name_reaches_the_terminal(
    cli: Cli, bundle: Path, tmp_path: Path
) -> None:
    labels = "".join(f"c{index}\t\x1b[31mred\u202e\x07\x7f\n" for index in range(5))
    put(bundle, "labels.txt", labels.encode("utf-8"))
    picture = tmp_path / "\x1b[31mred\x9b\n.jpg"
    shutil.copy(CAT, picture)
    (tmp_path / "\x1b[2J.jpg").write_text("text")
    output = tmp_path / "\x1b[3m.npy"
    for arguments in (
        ["classify", bundle, picture],
        ["classify", bundle, picture, "--json"],
        ["classify", bundle, picture, picture],
        ["classify", bundle, tmp_path / "\x1b[2J.jpg"],
        ["classify", bundle, tmp_path / "\x1b[2J.jpg", "--json"],
        ["preprocess", bundle, picture, "-o", output],
        ["info", tmp_path / "\x1b[31m"],
        ["\x1b[31m"],
        ["info", "--\x1b[31m"],
    ):
        result = cli(*arguments)
        assert all(char.isprintable() or char == "\n" for char in result.out)
        shown = result.err.replace("\x1b[A", "")  # tqdm's own
        assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(shown)


def test_a_name_that_is_no_text_is_escaped_in_json(
    cli: Cli, small_bundle: Path, tmp_path: Path
) -> None:
    picture: Any = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    shutil.copy(CAT, picture)
    result = cli("classify", small_bundle, picture, "--json")
    assert result.code == 0
    (image,) = ClassifyOutput.model_validate_json(result.out).images
    assert image.image == f"{tmp_path}/\\udcff.jpg"
    assert cli("classify", small_bundle, picture).code == 0


def test_a_second_count_of_images_is_shown_from_its_beginning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As verifying several records of one dataset counts it several times."""
    with counting(quiet=False) as show:
        for _ in range(2):
            for done in (0, 5, 10):
                show(Progress(done, 10, done, done, done))
    shown = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["5/10 top-1 100.000%", "10/10 top-1 100.000%"] * 2
