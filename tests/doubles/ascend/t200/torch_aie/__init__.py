"""The double of ``torch_aie`` as 6.3.T200 has it."""

import importlib
import sys
from pathlib import Path

if "torch" not in sys.modules:
    raise ImportError("libtorch.so: cannot open shared object file: import torch first")
__path__.append(str(Path(__file__).parents[2] / "contract"))
globals().update(importlib.import_module(".surface", __name__).offer(__name__, "t200"))
del importlib, sys, Path
