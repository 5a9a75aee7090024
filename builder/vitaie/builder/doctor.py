"""What this machine has, and what each target still needs: the first thing to ask in a report."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from vitaie.builder import toolchain
from vitaie.builder.build import DEVICE, ONNX_TARGET, TORCHSCRIPT_TARGET
from vitaie.manifests.outputs import DoctorOutput, TargetOutput
from vitaie.runtime._bytes import available_cpus

_BUILDER = ("torch", "torchvision", "timm", "onnx")
_PACKAGES = ("vitaie", *_BUILDER, "onnxruntime", "numpy", "pillow", "pydantic", "typer", "tqdm")
_VENDOR = ("torch_aie", "mindietorch", "torch_npu")


def examine() -> DoctorOutput:
    """Look at packages, devices and targets. Imports none of the packages."""
    missing = [name for name in _BUILDER if importlib.util.find_spec(name) is None]
    needs_builder = f"the extra [builder] ({', '.join(missing)})" if missing else ""
    needs_torch = "the extra [torch]" if "torch" in missing else ""
    vendor = [name for name in _VENDOR if importlib.util.find_spec(name) is not None]
    return DoctorOutput(
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.release()} {platform.machine()}",
        processors=available_cpus(),
        packages={
            **{name: toolchain.version(name) for name in _PACKAGES},
            **{name: toolchain.version(name.replace("_", "-")) for name in vendor},
        },
        devices=_devices(),
        targets=[
            TargetOutput(id=ONNX_TARGET, builds=not missing, runs=True, needs=needs_builder),
            TargetOutput(
                id=TORCHSCRIPT_TARGET,
                builds=not missing,
                runs=not needs_torch,
                needs=needs_builder or needs_torch,
            ),
            TargetOutput(
                id=DEVICE,
                builds=False,
                runs=False,
                needs="a vitaie that compiles for it: this one builds for the CPU only",
            ),
        ],
    )


def _devices() -> list[str]:
    """Name the Ascend devices that the driver shows, and its tool where it is installed."""
    found = sorted(str(path) for path in Path("/dev").glob("davinci[0-9]*"))
    tool = shutil.which("npu-smi", path=os.environ.get("PATH"))
    return found + ([tool] if tool else [])
