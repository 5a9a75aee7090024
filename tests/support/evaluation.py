"""What the tests of ``vitaie eval`` share: the command, its records, and a loop without vitaie."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitaie.manifests.measurement import AccuracyMeasurement, read_measurement

COMMAND = Path(sys.executable).with_name("vitaie")


class Result(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


Eval = Callable[..., Result]
"""Runs ``vitaie eval`` with these arguments in the test's own process (fixture ``cli``)."""


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start ``vitaie eval`` as a process of its own."""
    return subprocess.Popen(
        [str(COMMAND), "eval", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def wait_for(process: subprocess.Popen[str], journal: Path, size: int) -> None:
    """Wait until the journal is so large, or the process has ended."""
    while process.poll() is None:
        if journal.exists() and journal.stat().st_size >= size:
            return
        time.sleep(0.001)


def copy_part(pictures: Path, folder: Path, each: int) -> Path:
    """Copy the first few pictures of each class to ``folder``, which must not exist."""
    for kind in sorted(pictures.iterdir()):
        (folder / kind.name).mkdir(parents=True)
        for file in sorted(kind.iterdir())[:each]:
            shutil.copyfile(file, folder / kind.name / file.name)
    return folder


def files(folder: Path) -> list[Path]:
    """Return a dataset's images in the order they are counted in."""
    return sorted(folder.glob("*/*"), key=lambda file: file.relative_to(folder).as_posix())


def record(path: Path) -> AccuracyMeasurement:
    """Read the record that ``-o`` wrote."""
    found = read_measurement(path.read_bytes(), str(path))
    assert isinstance(found, AccuracyMeasurement)
    return found


def timeless(path: Path) -> bytes:
    """Return a record's bytes without when it was made."""
    data, count = re.subn(rb'"created":"[^"]+"', b"", path.read_bytes())
    assert count == 1
    return data


def torch_logits(bundle: Path, images: list[Path]) -> NDArray[np.float32]:
    """Run ``model.ts`` as somebody without vitaie would: Pillow, NumPy and torch, one by one."""
    torch: Any = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(bundle / "model.ts")).eval()
    rows: list[NDArray[np.float32]] = []
    for image in images:
        with Image.open(image) as opened:
            picture = opened.convert("RGB")
        width, height = picture.size
        short = min(width, height)
        picture = picture.resize(
            (int(32 * width / short), int(32 * height / short)), Image.Resampling.BICUBIC
        )
        left, top = (round((side - 32) / 2) for side in picture.size)
        picture = picture.crop((left, top, left + 32, top + 32))
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
        with torch.inference_mode():
            rows.append(module(torch.from_numpy((pixels - 0.5) / 0.5)[None]).numpy()[0])
    return np.stack(rows)
