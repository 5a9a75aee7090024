"""The C++ loader under AddressSanitizer, UndefinedBehaviorSanitizer and valgrind, and fuzzed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cpp import program
from tests.support.images import COMMITTED_JPEGS, PHOTOS, PNG_KINDS, png
from tests.support.manifests import seal, whole_document
from tests.test_images import PIXELS

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
FUZZ_SECONDS = int(os.environ.get("VITAIE_FUZZ_SECONDS", "600"))
HARD = {
    "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


@pytest.fixture(scope="module")
def sanitized() -> Path:
    """A build of everything that needs no torch, where any finding ends the process."""
    build = ROOT / "cpp" / "build-sanitize"
    options = ("-DVITAIE_SANITIZE=ON", "-DVITAIE_WITH_TORCH=OFF", "-DCMAKE_BUILD_TYPE=Release")
    subprocess.run(["cmake", "-S", ROOT / "cpp", "-B", build, *options], check=True)
    count = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", build, "--parallel", count], check=True)
    return build


def test_the_cpp_tests_pass_under_sanitizers(sanitized: Path) -> None:
    command = ["ctest", "--test-dir", str(sanitized), "--output-on-failure"]
    subprocess.run(command, check=True, env={**os.environ, **HARD})


@pytest.mark.parametrize("name", ["bundle", "preprocess", "torchscript", "vectors"])
def test_the_comparisons_with_python_pass_under_sanitizers(sanitized: Path, name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not long", f"tests/test_cpp_{name}.py"]
    # UndefinedBehaviorSanitizer opens a pipe to see whether an object can be read, and takes one
    # that it cannot open for a fault of the object.
    command += ["-k", "not too_many_open_files"]
    environment = {**os.environ, **HARD, "VITAIE_CPP_BUILD": str(sanitized)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)


def test_changed_files_of_every_kind_have_no_finding(
    sanitized: Path, small_bundle: Path, tmp_path: Path
) -> None:
    files = [*COMMITTED_JPEGS.glob("*.jpg"), PHOTOS / "cat.jpg", small_bundle / "model.ts"]
    made = {f"{name}.png": png(PIXELS, kind) for name, kind in PNG_KINDS.items()}
    made["whole.json"] = seal(whole_document())
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
        files.append(tmp_path / name)
    golden = small_bundle / "golden"
    files += [small_bundle / "manifest.json", golden / "00.npy", golden / "00.png"]
    fuzz = str(sanitized / "tests" / "vitaie-fuzz")
    command = [fuzz, str(FUZZ_SECONDS), "1", *map(str, sorted(files))]
    done = subprocess.run(
        command, env={**os.environ, **HARD}, check=True, capture_output=True, text=True
    )
    print(done.stdout)
    inputs, good = (int(word) for word in done.stdout.split() if word.isdigit())
    assert 0 < good < inputs


@pytest.mark.parametrize("command", ["info", "preprocess"])
def test_valgrind_finds_nothing(small_bundle: Path, tmp_path: Path, command: str) -> None:
    if shutil.which("valgrind") is None:
        pytest.fail("valgrind is missing: apt-get install valgrind", pytrace=False)
    words = [str(program("vitaie-edge")), command, str(small_bundle)]
    if command == "preprocess":
        words += [str(PHOTOS / "cat.jpg"), "-o", str(tmp_path / "cat.npy")]
    checks = ["--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"]
    subprocess.run(["valgrind", *checks, *words], check=True)
