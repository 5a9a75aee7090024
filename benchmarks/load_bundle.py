"""Load a bundle in a fresh process and print how long it took: ours, or a bare session.

python benchmarks/load_bundle.py vitaie|onnxruntime BUNDLE
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

side, bundle = sys.argv[1:]
if side == "vitaie":
    from vitaie import runtime

    start = time.perf_counter()
    kept: Any = runtime.load(bundle)
else:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    start = time.perf_counter()
    model = os.path.join(bundle, "model.onnx")
    kept = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
print(time.perf_counter() - start)
