"""Time ``Model.logits`` beside the bare session on the same model, call by call in turns.

Both sessions live in one process and have the same options; each pair of calls is made in both
orders. Prints the two medians and, last, the median ratio.

    python benchmarks/run_logits.py BUNDLE CALLS [bare]

Which of the two is made first changes where its memory lies: ours, or with ``bare`` the other.
"""

from __future__ import annotations

import importlib
import os
import statistics
import sys
import time
from typing import Any

import numpy as np

from vitaie import runtime

bundle, calls, bare_first = sys.argv[1], int(sys.argv[2]), "bare" in sys.argv[3:]
onnxruntime: Any = importlib.import_module("onnxruntime")


def bare_session() -> Any:
    """Return what a user without vitaie would call."""
    path = os.path.join(bundle, "model.onnx")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


session: Any = bare_session() if bare_first else None
model = runtime.load(bundle)
session = session or bare_session()
size = model.manifest.model.image_size
batch = np.random.default_rng(0).uniform(-1, 1, (1, 3, size, size)).astype(np.float32)


def ours() -> float:
    """Return the seconds of one ``Model.logits``."""
    start = time.perf_counter()
    model.logits(batch)
    return time.perf_counter() - start


def bare() -> float:
    """Return the seconds of one call of the bare session."""
    start = time.perf_counter()
    session.run(["logits"], {"input": batch})
    return time.perf_counter() - start


for _ in range(5):
    ours()
    bare()
pairs: list[tuple[float, float]] = []
for number in range(calls):
    if number % 2:
        left = ours()
        pairs.append((left, bare()))
    else:
        right = bare()
        pairs.append((ours(), right))
print(
    statistics.median(left for left, _ in pairs),
    statistics.median(right for _, right in pairs),
    statistics.median(left / right for left, right in pairs),
)
