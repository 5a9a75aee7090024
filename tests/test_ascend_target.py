"""A bundle's Ascend target: loaded where it was made for, refused elsewhere, and never believed
when the double made it.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import ascend
from tests.support.bundles import Document, copy_bundle, document, reseal
from vitaie import runtime
from vitaie.builder.device_graph import make_device_graph
from vitaie.manifests.errors import TargetUnavailable
from vitaie.runtime import _ascend, _cli
from vitaie.runtime._ascend import CompileOptions
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._command import run
from vitaie.runtime._model import DOUBLE
from vitaie.runtime._torchscript import load_module

BATCH = 4
NAME = "ascend310p3-fp32-b4-o0"


def add_target(bundle: Path, folder: Path, profile: str, **changes: Any) -> Path:
    """Return a copy of a bundle with a target that the double compiles, its manifest right."""
    copied = copy_bundle(bundle, folder / "copy")
    with open_bundle(bundle) as opened:
        source, model = load_module(opened, "the test"), opened.manifest.model
    path = f"targets/{NAME}/model.ts"
    (copied / "targets" / NAME).mkdir(parents=True)
    shape = (BATCH, 3, model.image_size, model.image_size)
    device = _ascend.open_device()
    graph = make_device_graph(source, model, BATCH).module
    device.save(
        device.compile(graph, CompileOptions(shape, "fp32", 0, "Ascend310P3", False)),
        str(copied / path),
    )

    def change(whole: Document) -> None:
        row: dict[str, Any] = {"path": path, "role": "target", "size": 0, "sha256": ""}
        row["chunks"] = list[str]()
        whole["artifacts"].append(row)
        plain = next(each for each in whole["targets"] if each["backend"] == "torchscript")
        target = {
            **json.loads(json.dumps(plain)),
            "id": NAME,
            "backend": "torch_aie",
            "device": "ascend310p3",
            "batch_sizes": [BATCH],
            "files": [path],
            "options": {"double": True, "soc_version": "Ascend310P3"},
            "toolchain": {ascend.PACKAGES[profile]: "double"},
        }
        whole["targets"].append({**target, **changes})

    whole = document(copied)
    change(whole)
    (copied / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    reseal(copied)
    return copied


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


VERSIONS: dict[str, tuple[dict[str, Any], str]] = {
    "package": ({"toolchain": {"mindietorch": "1.0.0"}}, "mindietorch 1.0.0, and here is double"),
    "name": ({"toolchain": {"torch_aie": "6.3"}}, "torch_aie 6.3, and here is mindietorch double"),
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
            assert caught.value.code == "E_TARGET_UNAVAILABLE"
            assert package._machine.calls == calls, "the module was parsed"
        finally:
            _ascend.finish()


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
