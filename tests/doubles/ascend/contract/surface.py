"""What a version's package offers by name, and nothing that its documentation does not."""

from __future__ import annotations

import atexit
import os
import sys
from types import ModuleType
from typing import Any

from . import streams, tensors
from .compiler import Compiler, DType, TensorFormat
from .machine import MACHINE
from .profiles import PROFILES


def offer(package: str, name: str) -> dict[str, Any]:
    """Put a version in place; return the names of its package."""
    profile = PROFILES[name]
    compiler = Compiler(profile)
    tensors.activate()
    atexit.register(_end)
    npu = ModuleType(f"{package}.npu")
    # A module made here has no attributes that a type checker knows: the package's are put in.
    npu.Stream, npu.stream = streams.Stream, streams.stream  # type: ignore[attr-defined]
    surface: dict[str, Any] = {
        "Input": compiler.input_class(),
        "compile": compiler.compile,
        "export_engine": compiler.export_engine,
        "set_device": MACHINE.set_device,
        "finalize": MACHINE.finalize,
        "dtype": DType,
        "npu": npu,
        "_machine": MACHINE,  # for tests alone, and so is the next
        "_withdraw": lambda: _withdraw(compiler),
    }
    if profile.tensor_format is not None:
        surface["TensorFormat"] = TensorFormat
    if profile.enums:
        enums = ModuleType(f"{package}.{profile.enums}")
        # As above: the attribute is the package's.
        enums.PrecisionPolicy = compiler.PrecisionPolicy  # type: ignore[attr-defined]
        sys.modules[enums.__name__] = enums
        surface[profile.enums] = enums
    else:
        surface["PrecisionPolicy"] = compiler.PrecisionPolicy
    return surface


def _withdraw(compiler: Compiler) -> None:
    """Undo all that the import did."""
    compiler.close()
    tensors.deactivate()
    atexit.unregister(_end)


def _end() -> None:
    """End as the vendor's samples warn of, where nobody called ``finalize``."""
    if MACHINE.device is not None and not MACHINE.finalized:
        sys.stderr.write("the process ends without finalize\n")
        sys.stderr.flush()
        os.abort()
