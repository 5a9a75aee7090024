"""A bundle with a target that the double of the Ascend package compiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import ascend
from tests.support.bundles import Document, copy_bundle, document, reseal
from vitaie.builder.device_graph import make_device_graph
from vitaie.manifests.manifest import Target
from vitaie.runtime import _ascend
from vitaie.runtime._ascend import CompileOptions
from vitaie.runtime._bundle import open_bundle
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


def pass_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the double, and what it made, be run as a device's are, so that tests see how.

    No manifest can ask for that: what says of itself that no double made it is refused.
    """

    def is_real(target: Target) -> bool:
        del target  # whatever it says
        return False

    monkeypatch.setattr(Target, "by_double", property(is_real))
    monkeypatch.setattr(_ascend, "DOUBLE", "a version that nothing has")
