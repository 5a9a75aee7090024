"""A stranger's project builds with the library, in C11 and C++17, with either C++ ABI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cpp import program
from tests.support.images import PHOTOS
from vitaie import runtime

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "cpp"
CAT, ROCKET = str(PHOTOS / "cat.jpg"), str(PHOTOS / "rocket.jpg")
STRICT = "-Wall -Wextra -Wshadow -Wconversion -Wpedantic -Werror"


def run(*command: object, code: int = 0) -> str:
    """Run a command in an environment that knows of no torch; return what it printed."""
    plain = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, check=False, text=True, env=plain
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library is installed."""
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", program("libvitaie.so").parent, "--prefix", folder)
    return folder


def built(source: Path, build: Path, *options: str, **flags: str) -> Path:
    """Configure and build a stranger's project."""
    given = [f"-DCMAKE_{name}_FLAGS={STRICT} {value}" for name, value in flags.items()]
    run("cmake", "-S", source, "-B", build, *given, *options)
    run("cmake", "--build", build, "--parallel", os.cpu_count() or 1)
    return build


def expected(bundle: Path, image: str) -> list[str]:
    with runtime.load(bundle, target="torchscript-cpu-fp32") as model:
        return [f"{100 * p.probability:8.2f}%  {p.label}" for p in model.classify(image)]


@pytest.mark.parametrize("abi", [0, 1])
def test_the_examples_build_against_an_installed_library_with_either_abi(
    prefix: Path, tmp_path: Path, small_bundle: Path, abi: int
) -> None:
    build = built(
        shutil.copytree(EXAMPLE, tmp_path / "source"),  # away from everything of ours
        tmp_path / "build",
        f"-DCMAKE_PREFIX_PATH={prefix}",
        C="-std=c11",
        CXX=f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
    )
    lines = run(build / "classify", small_bundle.parent, CAT, ROCKET).splitlines()
    assert lines == [
        "small_vit 1.0.0 in torchscript-cpu-fp32",
        *(CAT, *expected(small_bundle, CAT)),
        *(ROCKET, *expected(small_bundle, ROCKET)),
    ]
    lines = run(build / "classify_c", small_bundle, CAT).splitlines()
    assert lines == expected(small_bundle, CAT)
    run(build / "classify", small_bundle, "nowhere.jpg", code=2)
    run(build / "classify_c", tmp_path, CAT, code=1)


def test_an_installed_command_finds_its_engine(prefix: Path, small_bundle: Path) -> None:
    run(prefix / "bin" / "vitaie-edge", "classify", small_bundle, CAT)


def test_the_library_itself_needs_no_torch_and_shows_only_its_c_functions() -> None:
    library = program("libvitaie.so")
    needed = run("readelf", "-d", library)
    assert "torch" not in needed
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
    header = (ROOT / "cpp" / "include" / "vitaie" / "vitaie.h").read_text(encoding="utf-8")
    declared = re.findall(r"^VITAIE_API .*?(vitaie_\w+)\(", header, re.M)
    assert len(declared) >= 25
    assert sorted(names) == sorted(declared)


@pytest.mark.long  # the library is compiled once more
def test_a_project_that_holds_the_sources_builds_the_library_and_nothing_else(
    tmp_path: Path, small_bundle: Path
) -> None:
    build = built(
        EXAMPLE,
        tmp_path / "build",
        f"-DVITAIE_SOURCE={ROOT / 'cpp'}",
        "-DVITAIE_WITH_TORCH=OFF",
        "-DCMAKE_BUILD_TYPE=Debug",
    )
    made = {path.name for path in (build / "vitaie").iterdir()}
    assert "libvitaie.so" in made
    assert not made & {"tests", "vitaie-edge", "libvitaie_torch.so"}
    run(build / "classify", small_bundle, CAT, code=6)
