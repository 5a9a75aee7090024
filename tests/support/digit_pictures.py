"""As many labelled JPEGs as a test wants: scikit-learn's digits at several sizes and rotations.

python -m tests.support.digit_pictures COUNT FOLDER
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDES = (32, 48, 64, 96, 128, 200)
DEGREES = 12
"""A picture is turned by at most so many, either way."""


def make_pictures(count: int, folder: Path) -> Path:
    """Write ``count`` pictures, ``folder/<class>/<number>.jpg``, always the same ones."""
    datasets: Any = importlib.import_module("sklearn.datasets")
    digits: Any = datasets.load_digits()
    chance = np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        index = number % len(digits.target)
        levels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
        width, height = (int(chance.choice(SIDES)) for _ in range(2))
        degrees = float(chance.uniform(-DEGREES, DEGREES))
        picture = Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)
        picture = picture.rotate(degrees, Image.Resampling.BILINEAR)
        file = folder / str(digits.target[index]) / f"{number:05d}.jpg"
        picture.convert("RGB").save(file, quality=int(chance.integers(70, 96)))
    return folder


def flatten(folders: Path, folder: Path) -> Path:
    """Lay class folders out flat: the same files in one folder, and val_label.txt above it."""
    flat = folder / "val"
    flat.mkdir(parents=True)
    lines: list[str] = []
    for file in sorted(folders.glob("*/*.jpg")):
        os.link(file, flat / file.name)
        lines.append(f"{file.name} {file.parent.name}\n")
    (folder / "val_label.txt").write_text("".join(lines), encoding="utf-8")
    return folder


if __name__ == "__main__":
    make_pictures(int(sys.argv[1]), Path(sys.argv[2]))
