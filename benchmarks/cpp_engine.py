"""The C++ loader beside bare libtorch and beside Python, on a full-size vit_base_patch16_224.

    python -m benchmarks.cpp_engine [--runs N] [--bundle FOLDER] [--write]

Sides take turns in one run; what is judged is the median of the neighbours' ratios. What is timed
comes of `cmake -DVITAIE_BUILD_BENCHMARKS=ON`, which this builds. ``--write`` puts the table into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import Comparison, Run, compare, run, table
from benchmarks.page import write_section
from examples.make_checkpoint import make
from vitaie.manifests.card import load_card

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "cpp" / "build"
TIMER = BUILD / "tests" / "vitaie-time-engine"
EDGE = BUILD / "vitaie-edge"
VARIANT = "vit_base_patch16_224"
CALLS = 12
"""Of each side in a process, counted."""


def build() -> None:
    """Build what is timed."""
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DVITAIE_BUILD_BENCHMARKS=ON"]
    subprocess.run(["cmake", "-S", ROOT / "cpp", "-B", BUILD, *options], check=True)
    count = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", BUILD, "--parallel", count], check=True)


def bundle(folder: Path) -> Path:
    """Make a bundle with random weights."""
    card = load_card(VARIANT)
    checkpoint = make(card, folder / card.checkpoint)
    command = Path(sys.executable).parent / "vitaie-build"
    arguments = ["bundle", VARIANT, "--checkpoint", checkpoint, "--store", folder / "bundles"]
    made = run([command, *arguments, "--skip-measure", "--quiet"])
    return Path(made.output.splitlines()[-1])


def logits(made: Path, runs: int) -> Comparison:
    """Compare ``Model.logits`` with a bare loop on the same module, call by call.

    In a process the two modules lie where they lie in memory, which can favour either by some
    percent: the medians are over processes.
    """
    results = [run([TIMER, "logits", made, CALLS]) for _ in range(runs)]
    figures = np.array([[float(word) for word in each.output.split()] for each in results])
    ours, theirs, ratio = (float(each) for each in np.median(figures, axis=0))
    peak = float(np.median([each.peak_mib for each in results]))
    return Comparison("Model.logits, batch 1", ours, theirs, ratio, 1.02, "s", peak, peak)


def load(made: Path, runs: int) -> Comparison:
    """Compare opening and loading, every byte verified, with ``torch::jit::load``."""
    sides: dict[str, list[Run]] = {"vitaie": [], "torch": []}
    for number in range(runs + 1):
        for side, results in sides.items():
            result = run([TIMER, "load", side, made])
            if number:  # the first pair warms the page cache
                results.append(result)
    return compare("open and load", 2.0, "s", *sides.values(), printed=True)


def first_prediction(made: Path, image: Path, runs: int) -> Comparison:
    """Compare ``classify`` from process start with Python's, in the same engine."""
    words = ["classify", made, image, "--target", "torchscript-cpu-fp32", "--quiet"]
    python = Path(sys.executable).parent / "vitaie"
    ours: list[Run] = []
    theirs: list[Run] = []
    for _ in range(runs + 1):
        ours.append(run([EDGE, *words]))
        theirs.append(run([python, *words]))
    name = "first prediction (beside Python)"
    return compare(name, 1.0, "s", ours[1:], theirs[1:], printed=False)


def main() -> int:
    """Run all and print the table; exit 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="counted runs of each side")
    parser.add_argument("--bundle", type=Path, help="a version's folder; made when left out")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    build()
    with tempfile.TemporaryDirectory() as name:
        made = options.bundle or bundle(Path(name))
        image = ROOT / "builder" / "vitaie" / "builder" / "photos" / "cat.jpg"
        rows = [
            logits(made, options.runs),
            load(made, options.runs),
            first_prediction(made, image, options.runs),
        ]
    text = table(rows)
    print(text)
    if options.write:
        command = f"python -m benchmarks.cpp_engine --runs {options.runs} --write"
        write_section("cpp-engine", command, text)
    missed = [row.name for row in rows if not row.holds]
    print("missed: " + ", ".join(missed) if missed else "every limit holds", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
