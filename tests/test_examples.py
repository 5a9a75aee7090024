"""The examples that a reader tries first do what README says of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitaie import runtime

APP = Path(__file__).parents[1] / "examples" / "classify.py"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_the_app_prints_the_five_most_probable_labels(small_bundle: Path, picture: Path) -> None:
    with runtime.load(small_bundle) as model:
        expected = [f"{p.probability:7.2%}  {p.label}" for p in model.classify(picture)]
    done = subprocess.run(
        [sys.executable, str(APP), str(small_bundle), str(picture)],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert len(expected) == 5
    assert done.stdout.splitlines() == expected
    assert done.stderr == ""


def test_the_app_opens_the_newest_version_of_a_bundle(small_bundle: Path, picture: Path) -> None:
    command = [sys.executable, str(APP), str(small_bundle.parent), str(picture)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert len(done.stdout.splitlines()) == 5


def test_the_app_has_five_lines() -> None:
    source = APP.read_text(encoding="utf-8")
    docstring = ast.parse(source).body[0]
    lines = source.splitlines()[docstring.end_lineno :]
    assert sum(bool(line.strip()) for line in lines) == 5
