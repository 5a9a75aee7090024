"""What a user would write instead of ``vitaie-build bundle``: export, and check nothing.

python benchmarks/naive_export.py CHECKPOINT.npz OUTPUT.ts
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from vitaie.builder._torchvision import import_torchvision

import_torchvision()
torch: Any = importlib.import_module("torch")
timm: Any = importlib.import_module("timm")

warnings.simplefilter("ignore")
model = timm.create_model("vit_base_patch16_224", checkpoint_path=sys.argv[1]).eval()
with torch.no_grad():
    model(torch.zeros(1, 3, 224, 224))
    torch.jit.script(model).save(sys.argv[2])
