"""Load a bundle in a fresh process and print how long it took: ours, or a bare session.

python benchmarks/load_bundle.py vitaie|onnxruntime BUNDLE

What is timed is the call. onnxruntime is imported before it on either side, since a bare session
cannot be called without; pydantic is not, since ``runtime.load`` is what imports it.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

side, bundle = sys.argv[1:]
onnxruntime: Any = importlib.import_module("onnxruntime")
if side == "vitaie":
    from vitaie import runtime

    start = time.perf_counter()
    kept: Any = runtime.load(bundle)
else:
    start = time.perf_counter()
    model = os.path.join(bundle, "model.onnx")
    kept = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
print(time.perf_counter() - start)
