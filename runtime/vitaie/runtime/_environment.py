"""Where a measurement is taken: processor, instruction sets and packages, and what they can do.

No package is imported for its version, and nothing is asked of the network.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional

from vitaie.manifests.errors import printable
from vitaie.runtime._bytes import available_cpus

if TYPE_CHECKING:
    from vitaie.manifests.measurement import Environment, PerformanceMeasurement

_PACKAGES = ("vitaie", "numpy", "pillow", "pydantic", "onnxruntime", "torch")
_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")
_ARITHMETIC = re.compile(
    r"(pni|s?sse|avx|fma|amx|asimd|sve|sme(?!p)|neon|vfp).*|f16c|fp|fphp|bf16|i8mm", re.ASCII
)
"""The flags of /proc/cpuinfo, of x86 and ARM, that decide how an engine does its arithmetic."""

_MAX_GHZ = 6.5
"""Above the highest clock of any processor sold; a virtual machine is not told its own."""

_FLOP_PER_CYCLE: tuple[tuple[frozenset[str], Optional[int]], ...] = (
    (frozenset({"sme"}), None),  # its outer products depend on a vector length not listed
    (frozenset({"sve"}), 64),  # two 512-bit fused multiply-adds, as A64FX has them
    (frozenset({"asimd"}), 32),  # four of 128 bits, as Neoverse V2 has them
    (frozenset({"neon"}), 16),
    (frozenset({"avx512f"}), 64),  # two of 512 bits
    (frozenset({"avx2", "fma"}), 32),  # two of 256 bits
    (frozenset({"avx", "fma4"}), 32),
    (frozenset({"avx"}), 16),  # a multiplication and an addition of 256 bits
    (frozenset({"sse2"}), 8),
)
"""At most this many float32 operations for each core and cycle; the first that is there counts."""

_DEVICE_TFLOPS = {"ascend310p3": 70.0}
"""What a device does in half precision, by what the ids of its targets begin with: published at
second hand, and more than it does in any other precision."""


class Processor(NamedTuple):
    """The model as the system names it, and the instruction sets that arithmetic depends on."""

    model: str
    features: tuple[str, ...]


def collect() -> Environment:
    """Return where and when this is, as records keep it."""
    from vitaie.manifests.measurement import Environment

    found = processor()
    return Environment(
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=found.model,
        features=found.features,
        processors=available_cpus(),
        python=platform.python_version(),
        packages=_versions(),
    )


def peak_of(measurement: PerformanceMeasurement) -> Optional[float]:
    """Return what the hardware of a measurement cannot exceed, in TFLOPS; None if not known.

    It is the device's where the target is one of a device, and else the processor's.
    """
    device = measurement.subject.target.partition("-")[0]
    if device in _DEVICE_TFLOPS:
        return _DEVICE_TFLOPS[device]
    return peak_tflops(measurement.environment, measurement.threads)


def peak_tflops(environment: Environment, threads: int) -> Optional[float]:
    """Return what float32 arithmetic on so many threads cannot exceed, in TFLOPS.

    A multiply-add counts as two. It follows from the record alone, so that an audit elsewhere
    finds the same: cores times the widest units known of the instruction set times a clock that
    no processor reaches. None where the instruction sets are not known.
    """
    features = set(environment.features)
    for names, flop in _FLOP_PER_CYCLE:
        if names <= features:
            cores = min(threads, environment.processors)
            return None if flop is None else cores * flop * _MAX_GHZ / 1000
    return None


def version(package: str) -> Optional[str]:
    """Return an installed package's version; None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in _PACKAGES}
    return {name: told for name, told in found.items() if told is not None}


def processor() -> Processor:
    """Return the model and the arithmetic instruction sets, as far as the system says them."""
    blocks = _cpuinfo(_read(_CPUINFO))
    first: Mapping[str, str] = blocks[0] if blocks else {}
    flags = (first.get("flags") or first.get("Features") or "").split()
    features = tuple(sorted(flag for flag in set(flags) if _ARITHMETIC.fullmatch(flag)))
    return Processor(printable(_model(blocks), 400), features)


def _cpuinfo(text: str) -> list[dict[str, str]]:
    """Return the fields of each block of /proc/cpuinfo, one a processor, and one of the board."""
    blocks: list[dict[str, str]] = []
    for block in re.split(r"\n\s*\n", text):
        lines = (line.partition(":") for line in block.splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, _, value in lines}
        if fields:
            blocks.append(fields)
    return blocks


def _model(blocks: list[dict[str, str]]) -> str:
    """Return the processor's name; on ARM its cores' parts, which the kernel has no names for."""
    names = [block["model name"] for block in blocks if block.get("model name")]
    parts = [
        f"ARM implementer {block['CPU implementer']} part {block['CPU part']}"
        for block in blocks
        if "CPU implementer" in block and "CPU part" in block
    ]
    boards = [block[key] for block in blocks for key in ("Model", "Hardware") if block.get(key)]
    board = _read(_BOARD).strip("\0 \n")
    found = list(dict.fromkeys(names or parts)) + list(dict.fromkeys(boards or [board]))[:1]
    told = ", ".join(name for name in found if name)
    return told or platform.processor() or platform.machine() or "unknown"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
