"""Compare the FPS of ``vitaie bench`` with that of a loop that shares no code with it.

The two take turns, each a fresh process of at least 10 s, and which goes first alternates. The
loop opens the bundle's graph with ONNX Runtime alone and counts calls on 64 random images. Prints
each pair's ratio; exits 1 when the median is more than 5% off 1. A measurement that was not stable
is compared like any other: it is the machine that was not, for both.

    python benchmarks/bench_agreement.py BUNDLE [PAIRS]
    python benchmarks/bench_agreement.py --loop BUNDLE THREADS     # one independent loop
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 10.0
LIMIT = 0.05


def loop(bundle: str, threads: int) -> float:
    """Return the images a second of a bare session, one image a call."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        os.path.join(bundle, "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    shape = [1, *session.get_inputs()[0].shape[1:]]
    chance = np.random.default_rng(0)
    images = [chance.uniform(-1, 1, shape).astype(np.float32) for _ in range(64)]
    for image in images[:10]:
        session.run(["logits"], {"input": image})
    count, begun = 0, time.monotonic()
    while time.monotonic() - begun < SECONDS:
        session.run(["logits"], {"input": images[count % 64]})
        count += 1
    return count / (time.monotonic() - begun)


def ours(bundle: str, threads: int) -> float:
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


def theirs(bundle: str, threads: int) -> float:
    """Return the images a second of the independent loop, in a fresh process."""
    command = [sys.executable, __file__, "--loop", bundle, str(threads)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main() -> int:
    """Measure in pairs and print the ratios."""
    if sys.argv[1] == "--loop":
        print(loop(sys.argv[2], int(sys.argv[3])))
        return 0
    bundle, pairs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    threads = len(os.sched_getaffinity(0))
    ratios: list[float] = []
    for number in range(pairs):
        if number % 2:
            right = theirs(bundle, threads)
            left = ours(bundle, threads)
        else:
            left = ours(bundle, threads)
            right = theirs(bundle, threads)
        ratios.append(left / right)
        print(f"bench {left:.2f}, loop {right:.2f}, ratio {ratios[-1]:.4f}", flush=True)
    median = statistics.median(ratios)
    holds = abs(median - 1) <= LIMIT
    print(f"median ratio {median:.4f}: {'holds' if holds else 'MISSED'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
