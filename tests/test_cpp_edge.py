"""``vitaie-edge`` does in C++ what ``vitaie`` does in Python: documents, bytes and exit codes."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.bundles import Document, copy_bundle, document, reseal
from tests.support.canary import as_ours
from tests.support.cpp import program
from tests.support.edge import TORCHSCRIPT, Result, edge, fails, python
from tests.support.images import PHOTOS
from tests.support.manifests import measured_fields, target_digest
from vitaie import runtime
from vitaie.manifests.digests import canonical, sha256
from vitaie.manifests.outputs import (
    ClassifyOutput,
    InfoOutput,
    PreprocessOutput,
    VerifyOutput,
)
from vitaie.runtime import _preprocess

CAT, ROCKET, ESPRESSO = (str(PHOTOS / name) for name in ("cat.jpg", "rocket.jpg", "espresso.jpg"))
PROBABILITY = 1e-4
"""How far a probability may be from Python's."""


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


# info


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_info_says_what_python_says(
    small_bundle: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    found = edge("info", small_bundle.parent, *form)
    expected = python(capsys, "info", small_bundle.parent, *form)
    assert (found.code, found.out) == (0, expected.out)
    assert found.err == expected.err.replace("vitaie verify", "vitaie-edge verify")
    if form:
        InfoOutput.model_validate_json(found.out)


def test_info_says_of_measurements_what_python_says(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every kind of record, an INVALID speed and missing images among them."""
    fields = measured_fields()
    names = {row["path"] for row in fields["artifacts"] if row["role"] == "measurement"}
    (bundle / "measurements").mkdir()
    for name in names:
        (bundle / name).write_bytes(b"{}\n")

    def measure(whole: Document) -> None:
        target = whole["targets"][0]
        files = {row["path"]: row["sha256"] for row in whole["artifacts"]}
        evidence: Document = {
            "role": "measurement",
            "size": 3,
            "sha256": sha256(b"{}\n"),
            "chunks": [],
        }
        whole["artifacts"] += [{"path": name, **evidence} for name in sorted(names)]
        for kind in ("accuracy", "performance", "gates", "levels"):
            whole[kind] = copy.deepcopy(fields[kind])
        spoiled = {"verdict": "INVALID", "reasons": ["it drifts"], "fps": 12345.678}
        whole["performance"].append({**whole["performance"][0], **spoiled})
        whole["accuracy"][0]["preprocess_digest"] = sha256(canonical(whole["preprocess"]))
        for record in (*whole["accuracy"], *whole["performance"], *whole["gates"]):
            record["target_digest"] = target["target_digest"]
        for level in whole["levels"]:
            changed = {**target, "optim_level": level["optim_level"]}
            for record in (level, *level["gates"]):
                record["target_digest"] = target_digest(changed, files)

    reseal(bundle, measure)
    found = edge("info", bundle)
    assert (found.code, found.out) == (0, python(capsys, "info", bundle).out)
    for told in ("1 missing", "INVALID: it drifts;", "pass: top1>=97.0 of ", "level 2:", "ships"):
        assert told in found.out


# verify


def claims(result: Result) -> dict[str, tuple[str, str]]:
    verdict = VerifyOutput.model_validate_json(result.out)
    assert verdict.holds == (result.code == 0)
    return {claim.claim: (claim.status, claim.detail) for claim in verdict.claims}


def test_verify_finds_true_what_python_finds_true(
    small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = claims(edge("verify", small_bundle, "--json"))
    expected = claims(python(capsys, "verify", small_bundle, "--json"))
    assert list(expected) == [claim for claim in found if "top-5" not in claim]
    for claim in expected:
        if claim.endswith("onnxruntime-cpu-fp32"):
            assert found[claim][0] == "not checked"
        elif claim.endswith(TORCHSCRIPT):
            assert found[claim][0] == "true"
        else:
            assert found[claim] == expected[claim]


def test_verify_names_the_five_most_probable_classes_of_each_golden(
    digits_bundle: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, _ = digits_bundle
    found = claims(edge("verify", folder, "--json"))
    with runtime.load(folder, target=TORCHSCRIPT) as model:
        for index, golden in enumerate(model.manifest.goldens):
            names = ", ".join(p.label for p in model.classify(folder / golden.source))
            assert found[f"golden {index:02d} top-5 in {TORCHSCRIPT}"] == ("true", names)


def add_doubles_target(bundle: Path) -> None:
    """Give a bundle a target that the tests' double of a device's package made."""
    name = "ascend310p3-fp16-b1-o0"
    path = f"targets/{name}/model.ts"
    (bundle / path).parent.mkdir(parents=True)
    (bundle / path).write_bytes(b"no engine in C++ reads it")

    def change(whole: Document) -> None:
        target = {
            **whole["targets"][0],
            "id": name,
            "backend": "torch_aie",
            "device": "ascend310p3",
            "precision": "fp16",
            "optim_level": 0,
            "batch_sizes": [1],
            "files": [path],
            "options": {"double": True},
            "toolchain": {"mindietorch": "double"},
        }
        whole["targets"].append(target)

    whole = document(bundle)
    row: dict[str, Any] = {"path": path, "role": "target", "size": 0, "sha256": "", "chunks": []}
    whole["artifacts"].append(row)
    (bundle / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    reseal(bundle, change)


def test_what_the_double_made_is_said_never_taken_and_never_verified(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_doubles_target(bundle)
    name = "ascend310p3-fp16-b1-o0"
    expected = claims(python(capsys, "verify", bundle, "--json"))[f"goldens in {name}"]
    result = edge("verify", bundle, "--json")
    assert result.code == 1
    assert claims(result)[f"goldens in {name}"] == expected
    assert expected == ("false", "made with the tests' double: it ran on no device")
    assert expected[1] in edge("info", bundle).out
    assert f"target {TORCHSCRIPT}" in edge("classify", bundle, CAT).err
    fails("E_TARGET_UNAVAILABLE", 6, "classify", bundle, CAT, "--target", name)


def golden_with(field: str, value: object) -> Callable[[Document], None]:
    """Return the change of a manifest that gives its second golden this value."""
    return lambda whole: whole["goldens"][1].update({field: value})


def test_a_false_claim_is_said_in_one_line_with_exit_code_1(bundle: Path) -> None:
    for stage in ("decoded_sha256", "crop_sha256", "tensor_sha256"):
        old = document(bundle)["goldens"][1][stage]
        reseal(bundle, golden_with(stage, "0" * 64))
        result = edge("verify", bundle)
        assert result.code == 1
        assert "\nFALSE" in result.out
        (line,) = (each for each in result.out.splitlines() if each.startswith("false"))
        assert f"differs at: {stage.partition('_')[0]}" in line
        assert result.err.splitlines()[-1].startswith("E_CLAIM_FALSE: ")
        reseal(bundle, golden_with(stage, old))
    assert edge("verify", bundle).code == 0


def test_logits_that_ship_and_are_not_the_models_are_a_false_claim(bundle: Path) -> None:
    path = bundle / "golden" / "00.npy"
    logits = np.load(path)
    logits[[0, 1]] = logits[[1, 0]]
    np.save(path, logits)
    first, second = (int(index) for index in np.argsort(-logits, kind="stable")[:2])

    def claim(whole: Document) -> None:
        whole["goldens"][0].update(
            logits_sha256=sha256(logits.tobytes()),
            top1=first,
            top2=second,
            margin=float(logits[first]) - float(logits[second]),
        )

    reseal(bundle, claim)
    result = edge("verify", bundle)
    assert result.code == 1
    assert f"false       goldens in {TORCHSCRIPT}: largest difference" in result.out
    assert f"false       golden 00 top-5 in {TORCHSCRIPT}" in result.out


def test_a_bundle_that_does_not_open_is_refused_as_in_python(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "extra").touch()
    line = fails("E_BUNDLE_FILE_EXTRA", 1, "verify", bundle)
    assert python(capsys, "verify", bundle).err.splitlines()[-1] == line
    (bundle / "extra").unlink()
    with open(bundle / "labels.txt", "r+b") as file:
        file.write(b"x")
    line = fails("E_BUNDLE_FILE_DIGEST", 1, "verify", bundle)
    assert python(capsys, "verify", bundle).err.splitlines()[-1] == line
    fails("E_BUNDLE_FILE_DIGEST", 1, "classify", bundle, CAT)


# classify


def compared(result: Result, expected: Result, count: int) -> None:
    assert (result.code, expected.code) == (0, 0), result
    found = ClassifyOutput.model_validate_json(result.out)
    wanted = ClassifyOutput.model_validate_json(expected.out)
    assert (found.path, found.version, found.target) == (
        wanted.path,
        wanted.version,
        wanted.target,
    )
    assert len(found.images) == len(wanted.images) == count
    for image, other in zip(found.images, wanted.images):
        assert image.image == other.image
        for one, two in zip(image.predictions, other.predictions, strict=True):
            assert (one.index, one.id, one.label) == (two.index, two.id, two.label)
            assert abs(one.probability - two.probability) < PROBABILITY


def test_classify_gives_the_classes_and_probabilities_of_python(
    digits_bundle: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, validation = digits_bundle
    images = [str(path) for path in sorted(validation.rglob("*.png"))[::10]]
    assert len(images) >= 20
    arguments = ("classify", folder, *images, "--target", TORCHSCRIPT, "--json", "--top-k", 10)
    compared(edge(*arguments), python(capsys, *arguments), len(images))


def test_classify_prints_what_python_prints(
    small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("classify", small_bundle, CAT, ROCKET, "--target", TORCHSCRIPT, "--top-k", 2)
    found, expected = edge(*arguments), python(capsys, *arguments)
    assert (found.code, found.out) == (0, expected.out)
    assert found.err == expected.err.replace("next: vitaie ", "next: vitaie-edge ")


def test_quiet_leaves_the_results_alone(small_bundle: Path) -> None:
    result = edge("classify", small_bundle, CAT, ROCKET, "--quiet")
    assert result.code == 0
    assert len(result.out.splitlines()) == 12
    assert result.err == ""


def test_auto_says_which_target_it_took(small_bundle: Path) -> None:
    assert f"small_vit 1.0.0: target {TORCHSCRIPT}" in edge("classify", small_bundle, CAT).err


def test_images_before_a_broken_one_are_classified(small_bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(Path(CAT).read_bytes()[:5000])
    result = edge("classify", small_bundle, CAT, ROCKET, broken, CAT, "--top-k", 1)
    assert result.code == 2
    assert len(result.out.splitlines()) == 4
    assert result.err.splitlines()[-1].startswith(f"E_IMAGE_BROKEN: {broken}")


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("E_ARGUMENT", 2, ["--top-k", "0"]),
        ("E_ARGUMENT", 2, ["--top-k", "-1"]),
        ("E_ARGUMENT", 2, ["--threads", "0"]),
        ("E_ARGUMENT", 2, ["--threads", "1025"]),
        ("E_USAGE", 2, ["--threads", "many"]),
        ("E_USAGE", 2, ["--no-such-option"]),
        ("E_TARGET_UNKNOWN", 2, ["--target", "nowhere"]),
        ("E_TARGET_UNAVAILABLE", 6, ["--target", "cpu"]),
    ],
)
def test_bad_options_are_refused(
    small_bundle: Path, code: str, exit_code: int, words: Sequence[str]
) -> None:
    fails(code, exit_code, "classify", small_bundle, CAT, *words)


@pytest.mark.parametrize("word", ["clasify", "-v", ""])
def test_a_command_that_is_none_is_named(word: str) -> None:
    result = edge(word)
    assert result.code == 2
    assert result.err.endswith(f"got {word}). Run: vitaie-edge --help\n")


def test_what_was_asked_for_is_what_is_refused(small_bundle: Path) -> None:
    for words, said in (
        (("--threads", "0"), "expected 1 to 1024, got 0"),
        (("--target", "cpu"), "Take torchscript-cpu-fp32"),
    ):
        assert said in edge("classify", small_bundle, CAT, *words).err


def test_images_that_are_none_are_refused_as_in_python(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_bytes(b"no image")
    (tmp_path / "cut.png").write_bytes((PHOTOS / "cat.jpg").read_bytes()[:100])
    os.mkfifo(tmp_path / "fifo")
    for name, code in (
        ("text.jpg", "E_IMAGE_FORMAT"),
        ("cut.png", "E_IMAGE_BROKEN"),
        ("fifo", "E_IMAGE_UNREADABLE"),
        ("nowhere", "E_IMAGE_UNREADABLE"),
        ("", "E_IMAGE_UNREADABLE"),
    ):
        line = fails(code, 2, "classify", small_bundle, tmp_path / name)
        expected = python(capsys, "classify", small_bundle, tmp_path / name).err.splitlines()[-1]
        assert line.split(" (")[0] == expected.split(" (")[0]
        assert line.split(").")[1:] == expected.split(").")[1:], "another hint"


# preprocess


def test_preprocess_writes_the_bytes_that_python_writes(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, image in enumerate((CAT, ROCKET, ESPRESSO, small_bundle / "golden" / "00.png")):
        one, two = tmp_path / f"{index}-cpp.npy", tmp_path / f"{index}-python.npy"
        found = edge("preprocess", small_bundle, image, "-o", one, "--json")
        expected = python(capsys, "preprocess", small_bundle, image, "-o", two, "--json")
        assert one.read_bytes() == two.read_bytes()
        document = PreprocessOutput.model_validate_json(found.out)
        assert document.output == str(one)
        assert json.loads(found.out) == {**json.loads(expected.out), "output": str(one)}


def test_an_output_is_refused_as_in_python(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.npy").write_bytes(b"old")
    for name, code, exit_code in (
        ("there.npy", "E_OUTPUT_EXISTS", 4),
        ("nowhere/x.npy", "E_OUTPUT_PATH", 2),
        ("x.txt", "E_ARGUMENT", 2),
        (".npy", "E_ARGUMENT", 2),
    ):
        arguments = ("preprocess", small_bundle, CAT, "-o", tmp_path / name)
        line = fails(code, exit_code, *arguments)
        assert python(capsys, *arguments).err.splitlines()[-1] == line
    assert [path.name for path in tmp_path.iterdir()] == ["there.npy"]


# check


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_check_compares_a_target_in_batches_with_torchscript(
    small_bundle: Path, batch: int
) -> None:
    result = edge("check", small_bundle, "--batch", batch)
    assert result.code == 0, result
    last = result.out.splitlines()[-1]
    assert last == f"[SUCCESS] {TORCHSCRIPT} inference result is the same as JIT!"
    told = json.loads(edge("check", small_bundle, "--batch", batch, "--json").out)
    assert told["same"]
    assert told["batch_size"] == batch
    assert told["images"] == 3 + max(batch, 4)
    assert 0 <= told["difference"] <= told["tolerance"]


def test_check_says_failure_with_exit_code_1(bundle: Path) -> None:
    def claim_to_be_exact(whole: Document) -> None:
        for target in whole["targets"]:
            target["tolerance"]["max_rel_diff"] = 1e-12
            target["agreement"].update(max_abs_diff=0.0, max_rel_diff=0.0)

    reseal(bundle, claim_to_be_exact)
    result = edge("check", bundle, "--batch", 3)
    assert result.code == 1
    assert result.out.splitlines()[-1].startswith(f"[FAILURE] {TORCHSCRIPT} ")
    assert result.err.splitlines()[-1].startswith("E_CLAIM_FALSE: ")


@pytest.mark.parametrize("batch", [0, -1, 1025])
def test_check_takes_batches_of_1_to_1024(small_bundle: Path, batch: int) -> None:
    fails("E_ARGUMENT", 2, "check", small_bundle, "--batch", batch)


@pytest.mark.parametrize(
    "words",
    [
        ("classify", "--top-k", 0),
        ("classify", "--threads", 0),
        ("verify", "--threads", 1025),
        ("check", "--batch", 0),
        ("bench", "--batch-size", 0),
        ("bench", "--protocol", "slow"),
        ("bench", "--seed", -1),
    ],
)
def test_arguments_are_refused_before_a_bundle_is_looked_for(
    tmp_path: Path, words: Sequence[object]
) -> None:
    command, *rest = words
    images = [CAT] if command == "classify" else []
    fails("E_ARGUMENT", 2, command, tmp_path / "nowhere", *images, *rest)


# Safety and engines


@pytest.mark.parametrize("at", ["load", "run"])
def test_torchscript_that_would_write_a_file_is_refused_before_it_runs(
    bundle: Path, tmp_path: Path, at: str
) -> None:
    made = [sys.executable, "-W", "ignore", "-m", "tests.support.canary", str(tmp_path), "sings"]
    subprocess.run(made, check=True, cwd=Path(__file__).parents[1])
    saved = tmp_path / f"{at}.ts"
    for data in (saved.read_bytes(), as_ours(saved)):
        (bundle / "model.ts").write_bytes(data)
        reseal(bundle, keep_one_weight)
        line = fails("E_TORCHSCRIPT_UNSAFE", 1, "classify", bundle, CAT, cwd=tmp_path)
        assert str(bundle / "model.ts") in line
    assert not (tmp_path / "sings").exists()


def keep_one_weight(whole: Document) -> None:
    """Leave a table of weights that any file holds."""
    whole["weights"] = [{**whole["weights"][0], "shape": [1], "length": 4, "offset": 0}]


@pytest.fixture
def lone(tmp_path: Path) -> Path:
    """The command in a folder of its own, without the engine beside it."""
    (tmp_path / "alone").mkdir()
    return Path(shutil.copy(program("vitaie-edge"), tmp_path / "alone"))


def test_without_torch_everything_but_logits_is_there(
    small_bundle: Path, tmp_path: Path, lone: Path
) -> None:
    assert edge("info", small_bundle, binary=lone).code == 0
    output = tmp_path / "cat.npy"
    assert edge("preprocess", small_bundle, CAT, "-o", output, binary=lone).code == 0
    with runtime.load(small_bundle) as model:
        assert np.array_equal(np.load(output), model.preprocess(CAT))
    verified = edge("verify", small_bundle, "--json", binary=lone)
    assert verified.code == 0
    assert claims(verified)[f"goldens in {TORCHSCRIPT}"][0] == "not checked"
    assert claims(verified)["golden 00 preprocessing"][0] == "true"
    line = fails(
        "E_EXTRA_MISSING", 6, "classify", small_bundle, CAT, "--target", TORCHSCRIPT, binary=lone
    )
    assert "torch" in line
    assert "torch" in fails("E_TARGET_UNAVAILABLE", 6, "classify", small_bundle, CAT, binary=lone)
    fails("E_TARGET_UNAVAILABLE", 6, "check", small_bundle, binary=lone)


def test_a_torch_that_it_was_not_built_for_is_refused(small_bundle: Path, lone: Path) -> None:
    version = metadata.version("torch").partition("+")[0]
    other = version[:-1] + ("9" if version[-1] != "9" else "8")
    engine = program("libvitaie_torch.so").read_bytes()
    assert engine.count(version.encode() + b"\0") == 1
    (lone.parent / "libvitaie_torch.so").write_bytes(
        engine.replace(version.encode() + b"\0", other.encode() + b"\0")
    )
    arguments = ("classify", small_bundle, CAT, "--target", TORCHSCRIPT)
    line = fails("E_TARGET_UNAVAILABLE", 6, *arguments, binary=lone)
    assert f"built for torch {other}" in line
    assert f"has torch {version}" in line


def test_an_engine_that_is_no_library_is_refused(small_bundle: Path, lone: Path) -> None:
    (lone.parent / "libvitaie_torch.so").write_bytes(b"no library")
    arguments = ("classify", small_bundle, CAT, "--target", TORCHSCRIPT)
    fails("E_TARGET_UNAVAILABLE", 6, *arguments, binary=lone)


# The process


def test_no_command_and_an_unknown_one(small_bundle: Path) -> None:
    assert "Usage:" in edge().out
    for words in (["nothing"], ["info"], ["info", small_bundle, "more"], ["classify"]):
        fails("E_USAGE", 2, *words)


@pytest.mark.parametrize("command", ["info", "verify", "classify", "preprocess", "check"])
def test_the_help_of_a_command_has_an_example(command: str) -> None:
    result = edge(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Usage: vitaie-edge {command}" in result.out
    assert f"Example: vitaie-edge {command}" in result.out
    for option in ("--json", "--quiet"):
        assert option in result.out


def test_a_full_disk_and_a_closed_stdout_are_exit_code_5(small_bundle: Path) -> None:
    command = f'"{program("vitaie-edge")}" info "{small_bundle}"'
    reader, nobody_reads = os.pipe()
    os.close(reader)
    with open(nobody_reads, "wb") as pipe, open("/dev/full", "wb") as full:
        for script, where in ((command, pipe), (command, full), (f"{command} >&-", None)):
            done = subprocess.run(
                ["sh", "-c", script], stdout=where, stderr=subprocess.PIPE, check=False, text=True
            )
            assert done.returncode == 5
            assert done.stderr.splitlines()[-1].startswith("E_DISK: standard output: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_says_so_with_exit_code_130(
    small_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A thousand images take longer than a signal does."""
    command = [program("vitaie-edge"), "classify", small_bundle, *[CAT] * 1000]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # it is well under way
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("E_INTERRUPTED: vitaie-edge: interrupted.")


def test_a_name_that_is_no_text_and_one_that_steers_are_printed_escaped(
    small_bundle: Path, tmp_path: Path
) -> None:
    for name in (b"\xff\xfe.jpg", b"\x1b[31m\n.jpg", "名前.jpg".encode()):
        path = os.fsencode(tmp_path) + b"/" + name
        with open(path, "wb") as file:
            file.write(Path(CAT).read_bytes())
        binary = program("vitaie-edge")
        plain = subprocess.run(
            [binary, "classify", small_bundle, path], capture_output=True, check=True
        )
        assert len(plain.stdout.splitlines()) == 6
        assert b"\x1b" not in plain.stdout + plain.stderr
        plain.stdout.decode("utf-8")
        told = subprocess.run(
            [binary, "classify", small_bundle, path, "--json"], capture_output=True, check=True
        )
        assert told.stdout.isascii()
        expected = os.fsdecode(path).encode("utf-8", "backslashreplace").decode("utf-8")
        assert json.loads(told.stdout)["images"][0]["image"] == expected


def test_a_current_folder_that_was_deleted_is_refused_before_torch_ends_the_process(
    small_bundle: Path, tmp_path: Path
) -> None:
    script = f'mkdir gone && cd gone && rmdir ../gone && "$0" classify "{small_bundle}" "{CAT}"'
    binary = str(program("vitaie-edge"))
    done = subprocess.run(
        ["sh", "-c", script, binary], capture_output=True, check=False, text=True, cwd=tmp_path
    )
    assert done.returncode == 6
    assert "the current folder was deleted" in done.stderr


# The library, linked as a stranger's program is


def api(*arguments: object) -> bytes:
    done = subprocess.run(
        [program("tests/vitaie-use-api"), *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done
    return done.stdout


def predictions(output: bytes) -> list[tuple[int, str, float]]:
    found: list[tuple[int, str, float]] = []
    for line in output.decode("utf-8").splitlines():
        index, probability, _, label = line.split(" ", 3)
        found.append((int(index), label, float(probability)))
    return found


@pytest.mark.parametrize("mebibytes", [60, 500, 1000, 1024, 1100, 1300, 1600, 2200])
def test_too_little_address_space_is_said_and_ends_no_process(
    small_bundle: Path, mebibytes: int
) -> None:
    command = [program("vitaie-edge"), "classify", small_bundle, CAT, "--threads", "1"]
    done = subprocess.run(
        ["sh", "-c", f'ulimit -v {1024 * mebibytes}; exec "$@"', "sh", *map(str, command)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode in (0, 5), done
    if done.returncode == 5:
        assert done.stderr.splitlines()[-1].startswith("E_MEMORY: ")
    if mebibytes < 1024:
        assert f"expected at least 1024 MiB, got {mebibytes} MiB allowed" in done.stderr


def test_the_library_says_what_the_bundle_is(small_bundle: Path) -> None:
    whole = document(small_bundle)
    size = (small_bundle / "manifest.json").stat().st_size
    facts = [whole["name"], whole["version"], whole["content_digest"], "32", "5", str(size)]
    assert api(small_bundle, "facts").decode().splitlines() == facts


def test_an_image_is_a_path_its_bytes_or_one_of_a_batch(small_bundle: Path) -> None:
    images = [CAT, ROCKET, ESPRESSO, CAT, ROCKET]
    with runtime.load(small_bundle, target=TORCHSCRIPT) as model:
        rows = [p for image in images for p in model.classify(image, 4)]
    found = predictions(api(small_bundle, "classify", 4, *images))
    assert [row[:2] for row in found] == [(p.index, p.label) for p in rows]
    assert all(abs(row[2] - p.probability) < PROBABILITY for row, p in zip(found, rows))
    assert predictions(api(small_bundle, "bytes", 4, *images)) == found
    for size in (1, 2, 3, 7):
        batched = predictions(api(small_bundle, "batch", 4, size, *images))
        assert [row[:2] for row in batched] == [row[:2] for row in found]
        assert all(abs(one[2] - two[2]) < PROBABILITY for one, two in zip(batched, found))


def test_a_model_may_be_used_by_several_threads_at_once(small_bundle: Path) -> None:
    assert api(small_bundle, "threads", 6, *[CAT, ROCKET, ESPRESSO] * 8) == b"same\n"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_logits_of_any_batch_are_those_of_python(
    small_bundle: Path, tmp_path: Path, count: int
) -> None:
    batch = np.random.default_rng(count).standard_normal((count, 3, 32, 32), np.float32)
    (tmp_path / "batch").write_bytes(batch.tobytes())
    found = np.frombuffer(api(small_bundle, "logits", tmp_path / "batch"), np.float32)
    with runtime.load(small_bundle, target=TORCHSCRIPT) as model:
        expected = model.logits(batch)
    assert np.abs(found.reshape(expected.shape) - expected).max() < 1e-5


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_batch_that_is_not_finite_is_refused(
    small_bundle: Path, tmp_path: Path, number: float
) -> None:
    batch = np.zeros((1, 3, 32, 32), np.float32)
    batch[0, 1, 2, 3] = number
    (tmp_path / "batch").write_bytes(batch.tobytes())
    done = subprocess.run(
        [program("tests/vitaie-use-api"), small_bundle, "logits", tmp_path / "batch"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("E_BATCH: batch: ")


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("padding", [0, 5])
def test_a_cameras_frame_is_preprocessed_to_the_bit(
    small_bundle: Path, tmp_path: Path, order: str, padding: int
) -> None:
    pixels = np.array(Image.open(CAT).convert("RGB").resize((75, 53)))
    rows = pixels[:, :, ::-1] if order == "bgr" else pixels
    frame = np.zeros((53, 3 * 75 + padding), np.uint8)
    frame[:, : 3 * 75] = rows.reshape(53, -1)
    (tmp_path / "frame").write_bytes(frame.tobytes())
    found = api(small_bundle, "frame", tmp_path / "frame", 75, 53, 3 * 75 + padding, order)
    with runtime.load(small_bundle) as model:
        expected = _preprocess.preprocess(pixels, model.manifest.preprocess)
    assert found == expected.tobytes()


def test_calls_that_are_wrong_are_errors_and_no_crashes(small_bundle: Path) -> None:
    assert api(small_bundle, "misuse").decode().splitlines() == [
        "ok",
        *["E_IMAGE_ARRAY 2 "] * 6,
        "E_IMAGE_TOO_LARGE 2 ",
        "E_IMAGE_ARRAY 2 order",
        *["E_ARGUMENT 2 "] * 3,
        "E_IMAGE_UNREADABLE 2 ",
        *["E_BATCH 2 "] * 2,
        "E_ARGUMENT 2 ",
        "E_TARGET_UNKNOWN 2 ",
        "E_TARGET_UNAVAILABLE 6 ",
        *["E_ARGUMENT 2 "] * 4,
        "E_IMAGE_UNREADABLE 2 ",
        *["E_ARGUMENT 2 "] * 4,
        "empty",
    ]
