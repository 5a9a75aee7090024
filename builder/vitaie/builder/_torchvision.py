"""Importing torchvision, and with it timm, beside a CPU build of torch.

torchvision's wheels are linked with CUDA. Beside a CPU-only torch their extension does not
load, and the import dies with "operator torchvision::nms does not exist". Classification needs
none of its operators, so declaring the two schemas it looks for is enough.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

_declared: list[Any] = []  # a torch.library.Library undoes its work when it is collected


def import_torchvision() -> None:
    """Import torchvision; where its extension cannot load, declare its schemas first."""
    torch: Any = importlib.import_module("torch")
    if not _declared and not _extension_loads(torch):
        library: Any = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    importlib.import_module("torchvision")


def _extension_loads(torch: Any) -> bool:
    """Whether torchvision's own extension, which declares the operators itself, can be loaded."""
    spec = importlib.util.find_spec("torchvision")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for extension in [path for folder in folders for path in Path(folder).glob("_C*.so")]:
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            return False
    return True
