"""Importing torchvision, and with it timm, beside a CPU build of torch.

torchvision's wheels are linked with CUDA. Beside a CPU-only torch their extension does not
load, and the import dies with "operator torchvision::nms does not exist". Classification needs
none of its operators, so declaring the two schemas it looks for is enough.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_declared: list[Any] = []  # a torch.library.Library undoes its work when it is collected


def import_torchvision() -> None:
    """Import torchvision; where its extension cannot load, declare its schemas first."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        torch: Any = importlib.import_module("torch")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: Any = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        importlib.import_module("torchvision")
