"""Packages that ship no usable types, as ``Any``, in one place."""

from __future__ import annotations

import importlib
from typing import Any

torch: Any = importlib.import_module("torch")
onnx: Any = importlib.import_module("onnx")
