"""The double of the vendor's C++ library, put where a package of a version would be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.support import ascend
from tests.support.bundles import Document, copy_bundle, document, reseal
from tests.support.cpp import program
from vitaie.builder.device_graph import make_device_graph
from vitaie.runtime import _ascend
from vitaie.runtime._ascend import CompileOptions, Precision
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._torchscript import load_module

BATCH = 4
SHAPE = "4,3,32,32"
"""Of a compiled module's input, for a tiny bundle."""


def install(folder: Path, profile: str) -> Path:
    """Put the library of a profile, with its package's metadata, below a folder; return it."""
    package = ascend.PACKAGES[profile]
    metadata = f"{package}-double.dist-info"
    shutil.copytree(ascend.FOLDER / profile / metadata, folder / metadata)
    library = folder / package / "lib" / "libtorch_aie.so"
    library.parent.mkdir(parents=True)
    shutil.copy(program("tests/ascend-double/libtorch_aie.so"), library)
    return library


def environment(library: Path, profile: str, **more: str) -> dict[str, str]:
    """Return the environment of a process that finds a profile's library."""
    named = {"VITAIE_TORCH_AIE_LIBRARY": str(library), "VITAIE_DOUBLE_PROFILE": profile}
    return {**os.environ, **named, **more}


def target_id(precision: str) -> str:
    """Return the id of the target that ``compile_bundle`` makes."""
    return f"ascend310p3-{precision}-b{BATCH}-o0"


def compile_bundle(
    bundle: Path, folder: Path, profile: str, precision: Precision = "fp32", **changes: Any
) -> Path:
    """Return a copy of a bundle with a target that the double in Python compiled.

    Args:
        bundle: A bundle of the CPU.
        folder: Where the copy goes; not there yet.
        profile: The version of the package.
        precision: What the module computes in; half precision is held to an angle.
        changes: Fields of the target that are another than they would be.
    """
    copied = copy_bundle(bundle, folder)
    name = target_id(precision)
    path = f"targets/{name}/model.ts"
    (copied / path).parent.mkdir(parents=True)
    with open_bundle(bundle) as opened:
        source, model = load_module(opened, "the test"), opened.manifest.model
    with ascend.installed(profile):
        try:
            device = _ascend.open_device()
            graph = make_device_graph(source, model, BATCH).module
            shape = (BATCH, 3, model.image_size, model.image_size)
            options = CompileOptions(shape, precision, 0, "Ascend310P3", False)
            device.save(device.compile(graph, options), str(copied / path))
        finally:
            _ascend.finish()
    whole = document(copied)
    whole["artifacts"].append(
        {"path": path, "role": "target", "size": 0, "sha256": "", "chunks": list[str]()}
    )
    plain = next(each for each in whole["targets"] if each["backend"] == "torchscript")
    target: Document = {
        **json.loads(json.dumps(plain)),
        "id": name,
        "backend": "torch_aie",
        "device": "ascend310p3",
        "precision": precision,
        "batch_sizes": [BATCH],
        "files": [path],
        "options": {"double": True, "soc_version": "Ascend310P3"},
        "toolchain": {ascend.PACKAGES[profile]: "double"},
    }
    if precision == "fp16":
        target["tolerance"] = {"max_rel_diff": 0.1, "cosine": 0.999}
    whole["targets"].append({**target, **changes})
    (copied / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    reseal(copied)
    return copied
