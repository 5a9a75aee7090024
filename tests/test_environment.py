"""Where a measurement is taken is told on every kind of processor, and bounds what it can be."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.measurements import performance
from vitaie.manifests.measurement import Environment, PerformanceMeasurement
from vitaie.runtime import _environment
from vitaie.runtime._environment import collect, peak_of, peak_tflops

X86 = """\
processor\t: 0
model name\t: Intel(R) Xeon(R)
flags\t\t: fpu sse sse2 ssse3 avx avx2 fma f16c avx512f smep smap sha_ni

processor\t: 1
model name\t: Intel(R) Xeon(R)
flags\t\t: fpu sse sse2
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes asimdhp sve i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd40

processor\t: 1
CPU implementer\t: 0x41
CPU part\t: 0xd05

Hardware\t: a board
"""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(_environment, "_CPUINFO", file)
    monkeypatch.setattr(_environment, "_BOARD", tmp_path / "model")
    return file


def test_an_x86_processor_is_named_with_its_arithmetic(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86, encoding="utf-8")
    found = collect()
    assert found.processor == "Intel(R) Xeon(R)"
    assert found.features == ("avx", "avx2", "avx512f", "f16c", "fma", "sse", "sse2", "ssse3")


def test_an_arm_processor_is_named_by_its_parts_and_its_board(cpuinfo: Path) -> None:
    cpuinfo.write_text(ARM, encoding="utf-8")
    found = collect()
    parts = "ARM implementer 0x41 part 0xd40, ARM implementer 0x41 part 0xd05"
    assert found.processor == f"{parts}, a board"
    assert found.features == ("asimd", "asimdhp", "fp", "i8mm", "sve")


def test_a_board_is_named_by_the_device_tree(cpuinfo: Path, tmp_path: Path) -> None:
    cpuinfo.write_text(ARM.partition("\n\nHardware")[0], encoding="utf-8")
    (tmp_path / "model").write_bytes(b"Some Board Rev 1\0")
    assert collect().processor.endswith("part 0xd05, Some Board Rev 1")


@pytest.mark.parametrize("text", [None, "", "\n\n:\n", "isa : rv64\nuarch : x\n"])
def test_a_processor_of_which_nothing_is_known_has_some_name_and_no_peak(
    cpuinfo: Path, text: str | None
) -> None:
    if text is not None:
        cpuinfo.write_text(text, encoding="utf-8")
    found = collect()
    assert found.processor
    assert found.features == ()
    assert peak_tflops(found, 1) is None


def test_the_packages_are_those_installed_and_none_is_imported() -> None:
    versions = collect().packages
    assert versions["numpy"] == metadata.version("numpy")
    assert versions["vitaie"] == metadata.version("vitaie")
    code = (
        "from vitaie.runtime import _environment as e; e.collect(); import sys; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"torch", "onnxruntime"}.isdisjoint(done.stdout.split())


def with_features(*features: str, processors: int = 4) -> Environment:
    return collect().model_copy(update={"features": features, "processors": processors})


@pytest.mark.parametrize(
    ("features", "flop"),
    [
        (("sse2",), 8),
        (("avx", "sse2"), 16),
        (("avx", "avx2", "fma", "sse2"), 32),
        (("avx", "avx2", "avx512f", "fma", "sse2"), 64),
        (("asimd", "fp"), 32),
        (("asimd", "fp", "sve"), 64),
    ],
)
def test_the_peak_is_cores_times_width_times_a_clock_none_has(
    features: tuple[str, ...], flop: int
) -> None:
    found = with_features(*features)
    assert peak_tflops(found, 1) == pytest.approx(flop * 6.5e-3)
    assert peak_tflops(found, 3) == pytest.approx(3 * flop * 6.5e-3)
    assert peak_tflops(found, 64) == pytest.approx(4 * flop * 6.5e-3)  # it has four processors


def test_the_peak_of_a_matrix_unit_of_unknown_size_is_not_known() -> None:
    assert peak_tflops(with_features("asimd", "sme", "sve"), 1) is None


def test_the_peak_of_a_devices_target_is_the_devices() -> None:
    document = performance()
    on_cpu = PerformanceMeasurement.model_validate_json(json.dumps(document))
    assert peak_of(on_cpu) == peak_tflops(on_cpu.environment, on_cpu.threads)
    document["subject"] = {**document["subject"], "target": "ascend310p3-fp16-b8-o2"}
    assert peak_of(PerformanceMeasurement.model_validate_json(json.dumps(document))) == 70.0
