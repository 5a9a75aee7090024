"""The Ascend backend keeps every rule of the package, in every version, and wraps what it raises.

No test here says anything of a device: the package is the double.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import ascend
from tests.support.untyped import torch
from vitaie.builder.device_graph import count_operators, make_device_graph
from vitaie.builder.vit import Steps
from vitaie.manifests.errors import TargetUnavailable
from vitaie.manifests.manifest import Model
from vitaie.runtime import _ascend
from vitaie.runtime._ascend import CompileOptions, Device, Precision
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._torchscript import load_module

SHAPE = (2, 3, 32, 32)
OPTIONS = CompileOptions(SHAPE, "fp32", 0, "Ascend310P3", False)


class Source(NamedTuple):
    module: Any
    model: Model


class Machine(NamedTuple):
    """The double's package, and the backend's device on it."""

    profile: str
    package: Any
    device: Device

    @property
    def calls(self) -> list[str]:
        """What the package was asked for, in order."""
        calls: list[str] = self.package._machine.calls
        return calls


@pytest.fixture(scope="module", name="source")
def _source(small_bundle: Path) -> Source:
    with open_bundle(small_bundle) as bundle:
        return Source(load_module(bundle, "the test"), bundle.manifest.model)


@pytest.fixture(scope="module", name="graph")
def _graph(source: Source) -> Any:
    return make_device_graph(*source, SHAPE[0]).module


@pytest.fixture(name="machine", params=ascend.PACKAGES)
def _machine(request: pytest.FixtureRequest) -> Generator[Machine, None, None]:
    with ascend.installed(request.param) as package:
        try:
            yield Machine(str(request.param), package, _ascend.open_device())
        finally:
            _ascend.finish()


def images(batch: int = SHAPE[0]) -> NDArray[np.float32]:
    random = np.random.default_rng(batch)
    return random.uniform(-1, 1, (batch, *SHAPE[1:])).astype(np.float32)


def options(**changes: Any) -> CompileOptions:
    return CompileOptions(**{**vars(OPTIONS), **changes})


def forward(device: Device, compiled: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return device.get(device.run(compiled, device.put(batch)))


def test_it_compiles_saves_loads_and_runs(
    machine: Machine, graph: Any, source: Source, tmp_path: Path
) -> None:
    device = machine.device
    compiled = device.compile(graph, OPTIONS)
    device.save(compiled, str(tmp_path / "model.ts"))
    loaded = device.load(str(tmp_path / "model.ts"))
    expected = source.module(torch.from_numpy(images())).numpy()
    for module in (compiled, loaded):
        assert np.abs(forward(device, module, images()) - expected).max() < 1e-4


def test_the_package_is_found_by_what_exists(machine: Machine) -> None:
    package = machine.device.package
    assert (package.name, package.version) == (ascend.PACKAGES[machine.profile], _ascend.DOUBLE)
    assert _ascend.installed() == package.name
    assert _ascend.missing() == ""
    half_preferred = ["pref_fp16"] if machine.profile == "v100" else []
    assert package.precisions == ["fp16", "fp32", "pref_fp32", *half_preferred]


@pytest.mark.parametrize("precision", _ascend.PRECISIONS)
def test_the_precision_is_always_said(machine: Machine, graph: Any, precision: Precision) -> None:
    if precision not in machine.device.package.precisions:
        with pytest.raises(TargetUnavailable, match="fp16 or fp32 or pref_fp32, got pref_fp16"):
            machine.device.compile(graph, options(precision=precision))
        return
    compiled = machine.device.compile(graph, options(precision=precision))
    logits = forward(machine.device, compiled, images())
    is_half = bool(np.all(logits == logits.astype(np.float16)))
    assert is_half == (precision in ("fp16", "pref_fp16"))


def test_level_2_is_tuned_after_level_1(machine: Machine, graph: Any) -> None:
    machine.device.compile(graph, options(optim_level=2))
    assert machine.calls.count("compile") == 2
    machine.device.compile(graph, options(optim_level=1))
    assert machine.calls.count("compile") == 3


def test_full_compilation_is_asked_for_and_its_refusal_names_the_operator(
    machine: Machine, source: Source
) -> None:
    fused = make_device_graph(*source, SHAPE[0], Steps(unfused_attention=False)).module
    with pytest.raises(TargetUnavailable, match="scaled_dot_product_attention") as caught:
        machine.device.compile(fused, OPTIONS)
    assert (caught.value.code, caught.value.exit_code) == ("E_COMPILE", 6)
    assert "--allow-fallback" in caught.value.hint
    compiled = machine.device.compile(fused, options(allow_fallback=True))
    outside = [node.kind() for node in machine.device.operators(compiled).nodes()]
    assert outside.count("aten::scaled_dot_product_attention") == source.model.depth
    expected = source.module(torch.from_numpy(images())).numpy()
    assert np.abs(forward(machine.device, compiled, images()) - expected).max() < 1e-4


def test_nothing_is_outside_after_full_compilation(machine: Machine, graph: Any) -> None:
    compiled = machine.device.compile(graph, OPTIONS)
    kinds = [node.kind() for node in machine.device.operators(compiled).nodes()]
    assert [kind for kind in kinds if kind.startswith("aten::")] == []
    assert count_operators(graph).total > 20


def test_whoever_reads_a_clock_after_a_run_has_measured_it(machine: Machine, graph: Any) -> None:
    compiled = machine.device.compile(graph, OPTIONS)
    batch, clock = machine.device.put(images()), machine.package._machine
    for _ in range(3):
        start = clock.now_ns
        machine.device.run(compiled, batch)
        assert clock.now_ns > start
    assert machine.calls[-2:] == ["forward", "synchronize"]


def test_every_call_comes_from_one_thread_whoever_asks(machine: Machine, graph: Any) -> None:
    compiled = machine.device.compile(graph, OPTIONS)
    expected = forward(machine.device, compiled, images())
    results: list[NDArray[np.float32]] = []

    def ask() -> None:
        results.append(forward(_ascend.open_device(), compiled, images()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(result, expected) for result in results)


def test_a_batch_that_cannot_be_written_to_is_copied(machine: Machine, graph: Any) -> None:
    compiled = machine.device.compile(graph, OPTIONS)
    batch = images()
    expected = forward(machine.device, compiled, batch)
    batch.flags.writeable = False
    assert np.array_equal(forward(machine.device, compiled, batch), expected)


def test_a_batch_of_another_size_is_refused_with_the_packages_code(
    machine: Machine, graph: Any
) -> None:
    compiled = machine.device.compile(graph, OPTIONS)
    with pytest.raises(TargetUnavailable, match="MIE08E000001") as caught:
        forward(machine.device, compiled, images(3))
    assert (caught.value.code, caught.value.field) == ("E_DEVICE", "forward")


STEPS = ("compile", "load", "copy", "forward", "synchronize")


@pytest.mark.parametrize("step", STEPS)
def test_whatever_class_is_raised_at_a_step_is_one_of_ours_with_its_message(
    machine: Machine, graph: Any, tmp_path: Path, step: str
) -> None:
    device, faulty = machine.device, machine.package._machine
    compiled = device.compile(graph, OPTIONS)
    path = str(tmp_path / "model.ts")
    device.save(compiled, path)

    def work() -> None:
        device.compile(graph, OPTIONS)
        forward(device, device.load(path), images())

    errors = [
        ValueError("507018 busy"),
        KeyError("507018 busy"),
        OSError(5, "507018 busy"),
        StopIteration("507018 busy"),
        type("Odd", (Exception,), {})("507018 busy"),
    ]
    for error in errors:
        faulty.fail(step, error)
        with pytest.raises(TargetUnavailable, match="507018 busy") as caught:
            work()
        assert caught.value.code == ("E_COMPILE" if step == "compile" else "E_DEVICE")
        assert caught.value.exit_code == 6
        assert str(caught.value).isprintable()
        assert machine.package.__name__ in str(caught.value)
    work()  # and the device is still ours


def test_an_exception_without_a_text_is_told_by_its_class(machine: Machine, graph: Any) -> None:
    unspeakable = importlib.import_module(f"{machine.package.__name__}.machine").CLASSES
    machine.package._machine.fail("compile", unspeakable["unspeakable"]())
    with pytest.raises(TargetUnavailable, match="without a text"):
        machine.device.compile(graph, OPTIONS)


def test_finish_finalizes_once_and_whoever_is_late_hears_of_it(machine: Machine) -> None:
    _ascend.finish()
    _ascend.finish()
    assert machine.calls.count("finalize") == 1
    with pytest.raises(TargetUnavailable, match="after finalize"):
        _ascend.open_device()


def test_a_finalize_that_fails_is_logged_and_hurts_nobody(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.package._machine.fail("finalize")
    _ascend.finish()
    assert "finalize: OSError: finalize: error code 507018" in caplog.text


@pytest.mark.parametrize("profile", ascend.PACKAGES)
def test_a_process_has_one_device(profile: str) -> None:
    with ascend.installed(profile):
        try:
            assert _ascend.open_device(1) is _ascend.open_device(1)
            with pytest.raises(TargetUnavailable, match="has device 1"):
                _ascend.open_device(0)
        finally:
            _ascend.finish()


@pytest.mark.parametrize("profile", ascend.PACKAGES)
def test_a_device_that_does_not_exist_is_refused_and_another_can_be_had(profile: str) -> None:
    with ascend.installed(profile):
        try:
            with pytest.raises(TargetUnavailable, match="error code 107001") as caught:
                _ascend.open_device(7)
            assert caught.value.code == "E_DEVICE"
            _ascend.open_device(0)
        finally:
            _ascend.finish()


def test_without_the_package_the_error_says_what_is_missing() -> None:
    with pytest.raises(TargetUnavailable, match="neither mindietorch nor torch_aie is installed"):
        _ascend.open_device()


def test_a_package_installed_without_cann_is_told_with_the_loaders_words(tmp_path: Path) -> None:
    package = tmp_path / "mindietorch"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise ImportError('libascendcl.so: cannot open shared object file')\n", encoding="utf-8"
    )
    program = (
        "from vitaie.runtime import _ascend\n"
        "from vitaie.manifests.errors import TargetUnavailable\n"
        "try:\n    _ascend.open_device()\n"
        "except TargetUnavailable as error:\n    print(error.exit_code, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.startswith("6 E_DEVICE: mindietorch: start: ")
    assert "ImportError: libascendcl.so: cannot open shared object file" in done.stdout


@pytest.mark.parametrize("end", ["", "import sys; sys.exit(3)", "raise ValueError"])
def test_a_process_finalizes_however_it_ends(end: str) -> None:
    program = f"from vitaie.runtime import _ascend\n_ascend.open_device()\n{end}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ascend.environment("v100"),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == {"": 0, "raise ValueError": 1}.get(end, 3), done.stderr


def test_a_command_finalizes_before_it_ends() -> None:
    program = (
        "from vitaie.runtime import _ascend\nfrom vitaie.runtime._command import leave\n"
        "_ascend.open_device()\nleave(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=ascend.environment("rc1"), check=False
    )
    assert done.returncode == 0
