"""What this machine has, and what each target still needs: the first thing to ask in a report."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from typing import Optional

from vitaie.builder import toolchain
from vitaie.builder.build import ONNX_TARGET, TORCHSCRIPT_TARGET
from vitaie.builder.compile import DEVICE, SOC
from vitaie.manifests.errors import printable
from vitaie.manifests.outputs import (
    AscendOutput,
    DoctorOutput,
    GapOutput,
    ProbeOutput,
    TargetOutput,
)
from vitaie.runtime import _ascend, _ascend_machine
from vitaie.runtime._bytes import available_cpus

_BUILDER = ("torch", "torchvision", "timm", "onnx")
_PACKAGES = ("vitaie", *_BUILDER, "onnxruntime", "numpy", "pillow", "pydantic", "typer", "tqdm")
_PROBE_S = 300  # a compiler's first run is slow; one that hangs must not hang the doctor
_VENDOR = ("torch_aie", "mindietorch", "torch_npu")


def examine(probe_device: Optional[int] = None) -> DoctorOutput:
    """Look at packages, devices and targets. Imports none of the packages.

    Args:
        probe_device: The device on which a tiny model is compiled and run, in another process.
    """
    missing = [name for name in _BUILDER if importlib.util.find_spec(name) is None]
    needs_builder = f"the extra [builder] ({', '.join(missing)})" if missing else ""
    needs_torch = "the extra [torch]" if "torch" in missing else ""
    vendor = [name for name in _VENDOR if importlib.util.find_spec(name) is not None]
    machine = _ascend_machine.look()
    lacking = _lacking_for_device(machine)
    return DoctorOutput(
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.release()} {platform.machine()}",
        processors=available_cpus(),
        packages={
            **{name: toolchain.version(name) for name in _PACKAGES},
            **{name: toolchain.version(name.replace("_", "-")) for name in vendor},
        },
        devices=[*machine.nodes, *([machine.tool] if machine.tool else [])],
        ascend=_ascend_of(machine, probe_device),
        targets=[
            TargetOutput(id=ONNX_TARGET, builds=not missing, runs=True, needs=needs_builder),
            TargetOutput(
                id=TORCHSCRIPT_TARGET,
                builds=not missing,
                runs=not needs_torch,
                needs=needs_builder or needs_torch,
            ),
            TargetOutput(id=DEVICE, builds=not lacking, runs=not lacking, needs=lacking),
        ],
    )


def _lacking_for_device(machine: _ascend_machine.Machine) -> str:
    """Return what is missing for a device's target, as far as can be seen without the device."""
    lacking = _ascend.missing()
    name = _ascend.installed()
    if not lacking and name is not None and _ascend.version(name) == _ascend.DOUBLE:
        return f"a device: {name} is the tests' double"
    if not lacking and machine.socs and SOC not in machine.socs:
        return f"the chip {SOC}: here is {', '.join(machine.socs)}"
    return lacking


def _ascend_of(machine: _ascend_machine.Machine, probe_device: Optional[int]) -> AscendOutput:
    name = _ascend.installed()
    version = None if name is None else _ascend.version(name)
    gaps = _gaps(machine, name)
    soc = machine.socs[0] if machine.socs else SOC
    return AscendOutput(
        package=name,
        package_version=version,
        double=version == _ascend.DOUBLE,
        cann=machine.cann,
        toolkit=machine.toolkit,
        nodes=list(machine.nodes),
        npu_smi=machine.tool,
        socs=list(machine.socs),
        environment=_ascend_machine.environment(),
        gaps=[GapOutput(gap=gap, do=do) for gap, do in gaps],
        probe=None if probe_device is None else _probe(probe_device, soc),
    )


def _gaps(machine: _ascend_machine.Machine, package: Optional[str]) -> list[tuple[str, str]]:
    """Return what is lacking, in the order in which it is put right, and how."""
    gaps: list[tuple[str, str]] = []
    if not machine.nodes:
        gaps.append(
            (
                "the driver shows no device (/dev/davinci0)",
                "install the driver and firmware; in a container, pass the device and"
                " /dev/davinci_manager",
            )
        )
    if machine.complaint:
        gaps.append((machine.complaint, "run npu-smi info, and see what it says of the chip"))
    elif SOC not in machine.socs:
        seen = ", ".join(machine.socs)
        gaps.append((f"the chip is {seen}", f"vitaie knows {SOC} alone"))
    if machine.toolkit is None:
        gaps.append(("CANN is not installed, or its set_env.sh not read", "source its set_env.sh"))
    elif machine.cann == _ascend_machine.UNKNOWN:
        gaps.append((f"{machine.toolkit} does not say its version", "report what lies there"))
    if importlib.util.find_spec("torch") is None:
        gaps.append(("torch is not installed", "install the version that the package asks for"))
    if package is None:
        names = " or ".join(_ascend.PACKAGES)
        gaps.append((f"{names} is not installed", "install the wheel that comes with CANN"))
    elif _ascend.version(package) == _ascend.DOUBLE:
        gaps.append(
            (
                f"{package} is the tests' double: it runs on no device",
                "take its folder off PYTHONPATH, and install the real one",
            )
        )
    return gaps


def _probe(device: int, soc: str) -> ProbeOutput:
    """Ask another process: a device that dumps core or never answers takes that one with it."""
    command = [sys.executable, "-m", "vitaie.builder.probe", str(device), soc]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _failed(f"no answer in {_PROBE_S} s")
    try:
        return ProbeOutput(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError):  # it ended before its answer
        last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        return _failed(f"the process ended with {done.returncode}: {printable(last)}")


def _failed(error: str) -> ProbeOutput:
    return ProbeOutput(error=error, compile_s=None, run_s=None, difference=None)


def describe_ascend(found: AscendOutput) -> list[str]:
    """Return lines for people: what there is, each gap with what to do, and the probe's answer."""
    package = f"{found.package} {found.package_version}" if found.package else "no package"
    socs = ", ".join(found.socs) or "no chip is shown"
    lines = [f"Ascend: {package}; CANN {found.cann}; {socs}"]
    lines += [f"  {name}={printable(value)}" for name, value in found.environment.items()]
    lines += [f"  gap: {printable(row.gap)}; to do: {row.do}" for row in found.gaps]
    if found.probe is not None:
        told = found.probe.error or (
            f"compiled in {found.probe.compile_s:.1f} s and ran;"
            f" {found.probe.difference:.1e} from the CPU's logits"
        )
        lines.append(
            f"  probe: {told}" + (" (the tests' double: no device)" if found.double else "")
        )
    return lines
