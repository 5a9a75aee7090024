"""A bundle's Ascend target: loaded where it was made for, refused elsewhere, and never believed
when the double made it.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import ascend
from tests.support.ascend_target import BATCH, NAME, add_target, pass_for_a_device
from tests.support.bundles import copy_bundle, reseal
from vitaie import runtime
from vitaie.builder import cli as builder_cli
from vitaie.builder.compile import DeviceOptions, compile_bundle
from vitaie.builder.measure import Wanted
from vitaie.manifests.errors import InputError, ManifestError, TargetUnavailable
from vitaie.manifests.outputs import ClassifyOutput, GateOutput
from vitaie.runtime import _ascend, _benchmark, _cli, _evaluate, _timing
from vitaie.runtime._benchmark import Session, benchmark, open_session
from vitaie.runtime._command import run
from vitaie.runtime._model import DOUBLE


@pytest.fixture(name="profile", params=ascend.PACKAGES)
def _profile(request: pytest.FixtureRequest) -> Generator[str, None, None]:
    with ascend.installed(request.param):
        try:
            yield str(request.param)
        finally:
            _ascend.finish()


def images(batch: int) -> NDArray[np.float32]:
    random = np.random.default_rng(batch)
    return random.uniform(-1, 1, (batch, 3, 32, 32)).astype(np.float32)


def unknown_version(name: str) -> str:
    """Return what stands for the version of a package that pip did not install."""
    del name
    return "unknown"


def test_any_batch_is_padded_and_in_pieces_and_the_padding_never_shows(
    profile: str, small_bundle: Path, tmp_path: Path
) -> None:
    bundle = add_target(small_bundle, tmp_path, profile)
    with runtime.load(bundle, target="cpu") as cpu, runtime.load(bundle, target=NAME) as model:
        for batch in (1, 3, BATCH, BATCH + 1, 2 * BATCH):
            expected, got = cpu.logits(images(batch)), model.logits(images(batch))
            assert got.shape == expected.shape
            assert np.abs(got - expected).max() < 1e-4
        photo = bundle / model.manifest.goldens[0].source
        assert model.classify(photo)[0].index == cpu.classify(photo)[0].index


def test_what_the_double_made_is_said_and_never_taken_by_itself_nor_verified(
    profile: str,
    small_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = add_target(small_bundle, tmp_path, profile)
    with runtime.load(bundle) as model:
        assert model.target.id == "onnxruntime-cpu-fp32"
    runtime.load(bundle, target=NAME).close()
    assert f"target {NAME}: {DOUBLE}" in caplog.text
    verdict = runtime.verify(bundle)
    assert not verdict.holds
    assert [claim.detail for claim in verdict.claims if claim.status == "false"] == [DOUBLE]
    assert run(_cli.app, "vitaie", ["verify", str(bundle)]) == 1
    assert DOUBLE in capsys.readouterr().out
    assert run(_cli.app, "vitaie", ["info", str(bundle)]) == 0
    assert capsys.readouterr().out.count(DOUBLE) == 1
    photo = str(bundle / "golden" / "00.jpg")
    classify = ["classify", str(bundle), photo, "--target", NAME, "--quiet"]
    assert run(_cli.app, "vitaie", classify) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines()[0], err) == (f"{NAME}: {DOUBLE}", "")
    assert run(_cli.app, "vitaie", [*classify, "--json"]) == 0
    assert ClassifyOutput.model_validate_json(capsys.readouterr().out).double
    gate = ["gate", str(bundle), "--target", NAME, "--require", "top1>=90", "--quiet"]
    assert run(builder_cli.app, "vitaie-build", gate) == 6
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"{NAME}: {DOUBLE}"
    assert err.startswith(f"E_GATE_UNDECIDABLE: {bundle}: {NAME}: top1>=90.0: ")
    assert err.endswith("then attach that.\n")
    assert run(builder_cli.app, "vitaie-build", [*gate, "--json"]) == 6
    assert GateOutput.model_validate_json(capsys.readouterr().out).double


def test_without_the_package_a_doubles_target_is_said_to_run_on_no_device(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ascend.installed("v100"):
        try:
            bundle = add_target(small_bundle, tmp_path, "v100")
        finally:
            _ascend.finish()
    monkeypatch.setattr(_ascend, "installed", lambda: None)
    with pytest.raises(TargetUnavailable, match="neither mindietorch nor torch_aie") as caught:
        runtime.load(bundle, target=NAME)
    assert str(caught.value.got).startswith(f"{DOUBLE}; ")
    assert caught.value.hint.startswith("No device runs it: ")


def test_a_double_is_false_where_nothing_could_run_it_too(
    small_bundle: Path, tmp_path: Path
) -> None:
    with ascend.installed("t200"):
        try:
            bundle = add_target(small_bundle, tmp_path, "t200")
        finally:
            _ascend.finish()
    verdict = runtime.verify(bundle)
    assert [claim.claim for claim in verdict.claims if claim.status == "false"] == [
        f"goldens in {NAME}"
    ]
    with pytest.raises(TargetUnavailable, match="neither mindietorch nor torch_aie") as caught:
        runtime.load(bundle, target=NAME)
    assert caught.value.exit_code == 6


REAL = {"double": False, "soc_version": "Ascend310P3"}
VERSIONS: dict[str, tuple[dict[str, Any], str]] = {
    "package": (
        {"options": REAL, "toolchain": {"mindietorch": "1.0.0"}},
        "mindietorch 1.0.0, and here is mindietorch double",
    ),
    "package of no known version": (
        {"options": REAL, "toolchain": {"mindietorch": "unknown"}},
        "mindietorch unknown, and here is mindietorch double",
    ),
    "name": (
        {"options": REAL, "toolchain": {"torch_aie": "6.3"}},
        "torch_aie 6.3, and here is mindietorch double",
    ),
    "CANN": (
        {"toolchain": {"mindietorch": "double", "cann": "8.0.RC1"}},
        "CANN 8.0.RC1, and here is 8.0.RC2",
    ),
    "chip": (
        {
            "options": {"double": True, "soc_version": "Ascend910B3"},
            "toolchain": {"mindietorch": "double"},
        },
        "chip Ascend910B3, and here is Ascend310P3",
    ),
}


@pytest.mark.parametrize("what", VERSIONS)
def test_another_package_cann_or_chip_is_refused_with_both_sides_shown(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    tool = tmp_path / "npu-smi"
    tool.write_text("#!/bin/sh\necho '| 0       310P3   | OK |'\n", encoding="utf-8")
    tool.chmod(0o755)
    (tmp_path / "version.cfg").write_text("version=8.0.RC2\n", encoding="utf-8")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path))
    changes, message = VERSIONS[what]
    with ascend.installed("v100") as package:
        try:
            bundle = add_target(small_bundle, tmp_path, "v100", **changes)
            calls = list(package._machine.calls)
            with pytest.raises(TargetUnavailable, match=message) as caught:
                runtime.load(bundle, target=NAME)
            assert (caught.value.code, caught.value.exit_code) == ("E_TARGET_UNAVAILABLE", 6)
            with runtime.load(bundle) as model:
                assert model.target.device == "cpu"
            assert package._machine.calls == calls, "the module was parsed"
        finally:
            _ascend.finish()


def test_a_real_package_does_not_run_what_the_double_made(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package does not tell its version either."""
    with ascend.installed("v100"):
        try:
            bundle = add_target(small_bundle, tmp_path, "v100")
            monkeypatch.setattr(_ascend, "version", unknown_version)
            with pytest.raises(
                TargetUnavailable, match="mindietorch double, and here is"
            ) as caught:
                runtime.load(bundle, target=NAME)
            assert caught.value.exit_code == 6
        finally:
            _ascend.finish()


def test_a_target_whose_double_is_said_to_be_none_is_refused(
    small_bundle: Path, tmp_path: Path
) -> None:
    with ascend.installed("v100"):
        try:
            bundle = add_target(small_bundle, tmp_path, "v100")
        finally:
            _ascend.finish()
    reseal(bundle, lambda whole: whole["targets"][-1]["options"].update(double=False))
    for use in (runtime.load, runtime.verify):
        with pytest.raises(ManifestError) as caught:
            use(bundle)
        assert (caught.value.code, caught.value.field) == (
            *("E_MANIFEST_VALUE", "targets[2].options.double"),
        )


def test_a_module_changed_by_one_byte_is_found_before_it_is_parsed(
    profile: str, small_bundle: Path, tmp_path: Path
) -> None:
    bundle = add_target(small_bundle, tmp_path, profile)
    file = bundle / "targets" / NAME / "model.ts"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(runtime.BundleError) as caught:
        runtime.load(bundle, target=NAME)
    assert caught.value.code == "E_BUNDLE_FILE_DIGEST"


def test_a_device_that_dies_in_the_middle_is_not_the_bundles_fault(
    small_bundle: Path, tmp_path: Path
) -> None:
    with ascend.installed("rc1") as package:
        try:
            bundle = add_target(small_bundle, tmp_path, "rc1")
            with runtime.load(bundle, target=NAME) as model:
                package._machine.fail("forward", after=1)
                with pytest.raises(TargetUnavailable, match="error code 507018") as caught:
                    model.logits(images(2 * BATCH))
                assert caught.value.code == "E_DEVICE"
                assert len(model.logits(images(1))) == 1
        finally:
            _ascend.finish()


# Which device


def test_the_device_that_is_named_runs_it_and_is_the_processes_from_then_on(
    small_bundle: Path, tmp_path: Path
) -> None:
    with ascend.installed("t200"):
        try:
            bundle = add_target(small_bundle, tmp_path, "t200")
        finally:
            _ascend.finish()
    with ascend.installed("t200") as package:
        try:
            with runtime.load(bundle, target=NAME, device_id=1) as model:
                assert package._machine.device == 1
                assert len(model.logits(images(1))) == 1
            with pytest.raises(TargetUnavailable, match="this process has device 1") as caught:
                runtime.load(bundle, target=NAME)
            assert (caught.value.code, caught.value.where) == ("E_DEVICE", "device 0")
            assert "Several devices are several processes" in caught.value.hint
        finally:
            _ascend.finish()


def test_a_device_that_is_not_there_is_refused_in_the_packages_words(
    small_bundle: Path, tmp_path: Path
) -> None:
    with ascend.installed("v100"):
        try:
            bundle = add_target(small_bundle, tmp_path, "v100")
        finally:
            _ascend.finish()
    with ascend.installed("v100"):
        with pytest.raises(TargetUnavailable, match="aclrtSetDevice failed, device 7") as caught:
            runtime.load(bundle, target=NAME, device_id=7)
        assert caught.value.exit_code == 6


@pytest.mark.parametrize("device_id", [-1, 1.0, True, "1"])
def test_what_is_no_number_of_a_device_is_bad_input(small_bundle: Path, device_id: Any) -> None:
    with pytest.raises(InputError, match="expected at least 0"):
        runtime.load(small_bundle, device_id=device_id)


def test_every_command_runs_a_target_on_the_device_that_is_named(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The double passes for a device, so that its goldens are run."""
    pass_for_a_device(monkeypatch)
    with ascend.installed("rc1"):
        try:
            bundle = add_target(small_bundle, tmp_path, "rc1")
        finally:
            _ascend.finish()
    asked: list[int] = []
    open_device = _ascend.open_device

    def spy(number: int = 0) -> _ascend.Device:
        asked.append(number)
        return open_device(number)

    monkeypatch.setattr(_ascend, "open_device", spy)
    photo = str(bundle / "golden" / "00.jpg")
    data = tmp_path / "data" / "c0"
    data.mkdir(parents=True)
    shutil.copy(photo, data)
    options = ["--target", NAME, "--device-id", "1", "--quiet"]
    with ascend.installed("rc1"):
        try:
            for command in (
                ["classify", str(bundle), photo],
                ["verify", str(bundle)],
                ["eval", str(bundle), "--data", str(data.parent), "--unpaired"],
            ):
                run(_cli.app, "vitaie", [*command, *options])
                assert asked == [1], command
                asked.clear()
            with open_session(bundle, target=NAME, batch_size=1, device_id=1) as session:
                assert asked == [], "timed calls are made in processes of their own"
                assert _timing.run_untimed(session.request).goldens_hold
            assert asked == [1]
        finally:
            _ascend.finish()


# Speed without the copies


def request(session: Session, **changes: Any) -> _timing.Request:
    short: dict[str, Any] = {"seconds": 0.01, "calls": 30, "warm_up": (1, 0.0), "turns": (2, 2)}
    return session.request._replace(**{**short, **changes})


def test_at_the_boundary_device_nothing_is_copied_while_calls_are_timed(
    small_bundle: Path, tmp_path: Path
) -> None:
    with ascend.installed("t200") as package:
        try:
            bundle = add_target(small_bundle, tmp_path, "t200")
            # one call, which whoever remembers inputs is shown first, is not timed
            for boundary, copies in (("device", {0, 2}), ("host", {2})):
                with open_session(
                    bundle, target=NAME, batch_size=BATCH, boundary=boundary
                ) as session:
                    calls, marks = package._machine.calls, list[int]()
                    timed = _timing.time_target(request(session), _marking(calls, marks))
                    assert _copies(calls, marks) == copies
                    asked = request(
                        session,
                        windows=[window for window, _ in timed.kept],
                        shifts=[shift for shift, _ in timed.kept_distinct],
                    )
                    outputs = _timing.run_untimed(asked)
                assert len(timed.start_ns) >= 30
                assert outputs.windows == [digest for _, digest in timed.kept] != []
                assert outputs.shifts == [digest for _, digest in timed.kept_distinct] != []
        finally:
            _ascend.finish()


def _marking(calls: Sequence[str], marks: list[int]) -> Callable[[], int]:
    """Return a clock that notes how many calls there were at each reading."""

    def clock() -> int:
        marks.append(len(calls))
        return time.perf_counter_ns()

    return clock


def _copies(calls: Sequence[str], marks: Sequence[int]) -> set[int]:
    """Return how many copies there are with a forward between two readings of the clock.

    The most frequent number comes from at least so many calls as were timed.
    """
    found = Counter(
        calls[begun:ended].count("copy")
        for begun, ended in zip(marks, marks[1:])
        if "forward" in calls[begun:ended]
    )
    (_, times), *others = found.most_common()
    assert times >= 30
    assert sum(count for _, count in others) <= 1
    return set(found)


def test_the_boundary_device_is_of_a_target_on_one_at_its_own_batch_size(
    small_bundle: Path, tmp_path: Path
) -> None:
    with ascend.installed("v100"):
        try:
            bundle = add_target(small_bundle, tmp_path, "v100")
            with pytest.raises(InputError, match="expected 4, as ascend310p3-fp32-b4-o0") as caught:
                benchmark(bundle, target=NAME, batch_size=1, boundary="device")
            assert caught.value.where == "batch_size"
            with pytest.raises(TargetUnavailable, match="boundary device"):
                benchmark(bundle, target="cpu", boundary="device")
        finally:
            _ascend.finish()


# Compiling


def test_what_is_compiled_is_proven_and_measured_on_the_device_that_is_named(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store" / "small_vit").mkdir(parents=True)
    bundle = copy_bundle(small_bundle, tmp_path / "store" / "small_vit" / "1.0.0")
    photos = tmp_path / "data" / "c0"
    photos.mkdir(parents=True)
    shutil.copy(bundle / "golden" / "00.jpg", photos)
    options = DeviceOptions("fp32", 0, (1,), device_id=1, allow_fallback=False)
    asked: list[int] = []

    def measured(*arguments: object, device_id: int, **more: object) -> None:
        asked.append(device_id)
        raise InputError("E_ARGUMENT", "the test", got="enough")

    monkeypatch.setattr(_benchmark, "open_session", measured)
    monkeypatch.setattr(_evaluate, "evaluate", measured)
    with ascend.installed("v100") as package:
        try:
            for wanted in (Wanted(), Wanted(data=photos.parent, speed=False)):
                with pytest.raises(InputError, match="enough"):
                    compile_bundle(bundle, options, wanted)
            assert asked == [package._machine.device] * 2 == [1, 1]
        finally:
            _ascend.finish()
