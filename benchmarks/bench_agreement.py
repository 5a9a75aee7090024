"""Compare the FPS of ``vitaie bench`` with that of a loop that shares no code with it.

    python -m benchmarks.bench_agreement BUNDLE… [--runs N] [--write]
    python -m benchmarks.bench_agreement --loop BUNDLE --threads N    # one independent loop

The loop opens the bundle's graph with ONNX Runtime alone and counts calls on 64 random images for
10 s; like ``bench``, it does so once more where the three thirds of it were not within 5% of their
mean. They take turns, each a fresh process, so that each measurement of ours lies between two of
the loop, whose mean it is held against: a machine that grows slower or faster cancels out. Exits 1
when the median ratio is more than 5% off 1. A measurement that was not stable the second time is
compared like any other: it is the machine that was not, for both. ``--write`` puts the table into
docs/benchmarks.md. What ``Model.logits`` checks takes 12 us more than the bare session: of a call
of 0.2 ms, which digits are, that alone is 6%.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.page import write_section

SECONDS = 10.0
STABLE = 0.05
LIMIT = 0.05


class Agreement(NamedTuple):
    """Both figures of a bundle, as medians, and the median of each ratio to its neighbours."""

    name: str
    ours: float
    theirs: float
    ratio: float
    least: float
    most: float

    @property
    def holds(self) -> bool:
        """Whether the ratio is within the limit."""
        return abs(self.ratio - 1) <= LIMIT


def loop(bundle: Path, threads: int) -> float:
    """Return the images a second of a bare session, one image a call."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    shape = [1, *session.get_inputs()[0].shape[1:]]
    chance = np.random.default_rng(0)
    images = [chance.uniform(-1, 1, shape).astype(np.float32) for _ in range(64)]
    for image in images[:10]:
        session.run(["logits"], {"input": image})

    def third() -> float:
        count, begun = 0, time.monotonic()
        while time.monotonic() - begun < SECONDS / 3:
            session.run(["logits"], {"input": images[count % 64]})
            count += 1
        return count / (time.monotonic() - begun)

    rates = [third() for _ in range(3)]
    mean = statistics.mean(rates)
    if any(abs(rate - mean) > STABLE * mean for rate in rates):
        rates = [third() for _ in range(3)]
    return statistics.mean(rates)


def ours(bundle: Path, threads: int) -> float:
    """Return the images a second that ``vitaie bench`` says, be it VALID or not."""
    command = [Path(sys.executable).parent / "vitaie", "bench", bundle, "--target", "cpu"]
    done = subprocess.run(
        [*map(str, command), "--threads", str(threads), "--json", "--quiet"],
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode not in (0, 6):
        raise SystemExit(done.returncode)
    return float(json.loads(done.stdout)["fps"])


def theirs(bundle: Path, threads: int) -> float:
    """Return the images a second of the independent loop, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.bench_agreement", "--loop", str(bundle)]
    done = subprocess.run([*command, "--threads", str(threads)], stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def measure(bundle: Path, runs: int, threads: int) -> Agreement:
    """Measure in turns, and print each ratio."""
    loops, figures, ratios = [theirs(bundle, threads)], list[float](), list[float]()
    for _ in range(runs):
        figures.append(ours(bundle, threads))
        loops.append(theirs(bundle, threads))
        around = statistics.mean(loops[-2:])
        ratios.append(figures[-1] / around)
        print(f"bench {figures[-1]:.2f}, loops {around:.2f}, ratio {ratios[-1]:.4f}", flush=True)
    name = json.loads((bundle / "manifest.json").read_bytes())["name"]
    mine, other, ratio = (statistics.median(each) for each in (figures, loops, ratios))
    return Agreement(name, mine, other, ratio, min(ratios), max(ratios))


def table(rows: list[Agreement]) -> str:
    """Return the comparisons as a Markdown table."""
    lines = [
        "| bundle | `vitaie bench` | loop | ratio | of the runs | at most 5% off |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.ours:,.4g} images/s | {row.theirs:,.4g} images/s | {row.ratio:.3f} |"
        f" {row.least:.3f} to {row.most:.3f} | {'holds' if row.holds else 'MISSED'} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure every bundle and print the table; exit 1 when the limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs="*", help="versions' folders")
    parser.add_argument("--runs", type=int, default=5, help="measurements of ours")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--loop", type=Path, help="run the loop alone on this bundle")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.loop:
        print(loop(options.loop, options.threads))
        return 0
    if not options.bundles:
        parser.error("name at least one bundle: of none, nothing holds")
    rows = [measure(bundle, options.runs, options.threads) for bundle in options.bundles]
    text = table(rows)
    print(text)
    if options.write:
        command = f"python -m benchmarks.bench_agreement BUNDLE… --runs {options.runs} --write"
        write_section("agreement", command, text)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
