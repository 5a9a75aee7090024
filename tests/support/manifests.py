"""A small manifest that is right in every field, and a seal that leaves a changed one one fault.

``seal`` takes the digests as docs/bundle-format.md states them, not with the package's own code.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from vitaie.manifests import digests
from vitaie.manifests.manifest import Manifest

_MIB = 2**20
_MODEL_BYTES = 20 * _MIB


def manifest_fields() -> dict[str, Any]:
    """Return all fields of a small manifest but its two digests, as plain JSON values.

    It is of a tiny model in two targets, with one golden, no records, and chunks for model.ts.
    """
    return copy.deepcopy(_FIELDS)


def manifest(**fields: Any) -> Manifest:
    """Return the small manifest, with top-level fields replaced by those given."""
    return Manifest.create({**manifest_fields(), **fields})


def measured_fields() -> dict[str, Any]:
    """Return the fields of ``manifest_fields`` with a record of each kind, gates and levels."""
    plain = manifest()
    fields = manifest_fields()
    evidence = {
        kind: f"measurements/{kind}-{_digest(kind)[:12]}.json"
        for kind in ("accuracy", "performance", "slower")
    }
    fields["artifacts"] += [
        _artifact(path, "measurement", size) for path, size in zip(evidence.values(), (512, 64, 32))
    ]
    target, files = plain.targets[0], {row["path"]: row["sha256"] for row in fields["artifacts"]}
    basic = target.model_copy(update={"optim_level": 1}).digest(files)
    taken = {"processor": "a processor", "created": "2026-01-02T03:04:06Z"}
    fields["accuracy"] = [
        {
            "target_digest": target.target_digest,
            "preprocess_digest": digests.sha256(digests.canonical(fields["preprocess"])),
            "dataset": {
                "name": "digits",
                "digest": _digest("dataset"),
                "images": 360,
                "missing": 1,
            },
            "batch_size": 8,
            "threads": 2,
            "top1": _rate(351, 95.35, 98.54),
            "top5": _rate(360, 98.94, 100.0),
            "source_top1": _rate(350, 95.02, 98.33),
            "source_top5": _rate(360, 98.94, 100.0),
            "paired": {"both": 349, "target_only": 2, "source_only": 1, "neither": 8},
            "agreement": 355,
            **taken,
            "predictions": evidence["accuracy"],
        }
    ]
    fields["performance"] = [
        {
            "target_digest": target.target_digest,
            "boundary": "host",
            "scenario": "single_stream",
            "protocol": "quick",
            "batch_size": 1,
            "threads": 2,
            "inputs": "photographs",
            **taken,
            "verdict": "VALID",
            "reasons": [],
            "fps": 123.5,
            "latency_ms": {"p50": 8.1, "p90": 8.3, "p95": 8.5, "p99": 9.75},
            "variation": 0.02,
            "placement": 1.0,
            "peak_mib": 87.5,
            "latencies": evidence["performance"],
        }
    ]
    fields["gates"] = [
        _gate("top1>=97.0", target.target_digest, "97.5% of 360"),
        _gate("fps>=100.0", target.target_digest, "123.5 images a second"),
    ]
    fields["levels"] = [
        _level(1, basic, 100.5, evidence["slower"], predictions=None, chosen=False),
        _level(
            2,
            target.target_digest,
            123.5,
            evidence["performance"],
            predictions=evidence["accuracy"],
            chosen=True,
        ),
    ]
    return fields


def whole_document() -> dict[str, Any]:
    """Return every field of a measured manifest, for a test to change one before ``seal``."""
    return copy.deepcopy(_whole_document())


@lru_cache(maxsize=1)
def _whole_document() -> dict[str, Any]:
    return Manifest.create(measured_fields()).model_dump(mode="json")


def paths(value: object, path: str = "") -> list[str]:
    """Return the path of everything inside a JSON value, such as ``artifacts[2].size``."""
    inside: list[tuple[str, object]] = []
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        inside = [(f"{path}.{key}" if path else key, item) for key, item in members.items()]
    elif isinstance(value, list):
        elements = cast("list[object]", value)
        inside = [(f"{path}[{index}]", item) for index, item in enumerate(elements)]
    return [each for place, item in inside for each in (place, *paths(item, place))]


def get(document: Any, path: str) -> Any:
    """Return the value at ``path``."""
    for step in _steps(path):
        document = document[step]
    return document


def put(document: Any, path: str, value: Any) -> Any:
    """Return the document with the value at ``path`` replaced, or added to its object."""
    *parents, last = _steps(path)
    place = document
    for step in parents:
        place = place[step]
    place[last] = value
    return document


def drop(document: Any, path: str) -> Any:
    """Return the document without the field or element at ``path``."""
    *parents, last = _steps(path)
    place = document
    for step in parents:
        place = place[step]
    del place[last]
    return document


def _steps(path: str) -> list[Any]:
    return [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)]


def seal(document: Mapping[str, Any], *, keep: str = "", **dump_options: Any) -> bytes:
    """Return a document as manifest.json, with its digests right.

    Args:
        document: Every field, as plain JSON values; it is not changed.
        keep: The one digest to leave as it is: ``target_digest`` or ``content_digest``.
        dump_options: Passed to ``json.dumps``.
    """
    whole = copy.deepcopy(dict(document))
    if keep != "target_digest":
        _seal_targets(whole)
    if keep != "content_digest":
        whole["content_digest"] = digests.sha256(digests.canonical(_content(whole)))
    options: dict[str, Any] = {"ensure_ascii": False, "indent": 1, **dump_options}
    return digests.with_manifest_digest((json.dumps(whole, **options) + "\n").encode("utf-8"))


def _seal_targets(document: dict[str, Any]) -> None:
    """Put the right digests into targets, and into the records that name them."""
    files = {row["path"]: row["sha256"] for row in document["artifacts"]}
    gates = [gate for level in document["levels"] for gate in level["gates"]]
    rows = [document["accuracy"], document["performance"], document["gates"], gates]
    records = [record for row in rows for record in row]
    for target in document["targets"]:
        claimed, right = target["target_digest"], target_digest(target, files)
        levels = document["levels"]
        if claimed in [level["target_digest"] for level in levels if level["chosen"]]:
            for level in levels:
                changed = {**target, "optim_level": level["optim_level"]}
                level_right = target_digest(changed, files)
                _rename([level, *level["gates"]], level["target_digest"], level_right)
        _rename(records, claimed, right)
        target["target_digest"] = right


def target_digest(target: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return a target's digest, given the sha256 of every artifact by path."""
    named = ("backend", "device", "precision", "optim_level", "batch_sizes", "options")
    covered = {name: target[name] for name in named}
    covered["files"] = sorted([path, files.get(path)] for path in target["files"])
    return digests.sha256(digests.canonical(covered))


def _rename(records: list[dict[str, Any]], claimed: str, right: str) -> None:
    for record in records:
        if record["target_digest"] == claimed:
            record["target_digest"] = right


def _content(document: Mapping[str, Any]) -> dict[str, Any]:
    content = copy.deepcopy(dict(document))
    for name in ("version", "manifest_digest", "content_digest", "accuracy", "performance"):
        content.pop(name)
    for name in ("gates", "levels"):
        content.pop(name)
    for name in ("created", "machine"):
        content["toolchain"].pop(name)
    for target in content["targets"]:
        target.pop("agreement")
    content["artifacts"] = [row for row in content["artifacts"] if row["role"] != "measurement"]
    return content


def _digest(text: str) -> str:
    return digests.sha256(text.encode("utf-8"))


def _rate(count: int, low: float, high: float) -> dict[str, Any]:
    return {"count": count, "percent": 100 * count / 360, "wilson95": {"low": low, "high": high}}


def _artifact(path: str, role: str, size: int) -> dict[str, Any]:
    chunks = -(-size // digests.CHUNK_SIZE) if size > digests.CHUNKED_ABOVE else 0
    return {
        "path": path,
        "role": role,
        "size": size,
        "sha256": _digest(path),
        "chunks": [_digest(f"{path} {number}") for number in range(chunks)],
    }


def _gate(require: str, target_digest: str, reason: str) -> dict[str, Any]:
    return {
        "require": require,
        "target_digest": target_digest,
        "verdict": "pass",
        "reason": reason,
    }


def _level(
    optim_level: int,
    target_digest: str,
    fps: float,
    latencies: str,
    *,
    predictions: str | None,
    chosen: bool,
) -> dict[str, Any]:
    return {
        "optim_level": optim_level,
        "target_digest": target_digest,
        "boundary": "host",
        "scenario": "single_stream",
        "batch_size": 1,
        "fps": fps,
        "verdict": "VALID",
        "gates": [_gate("fps>=100.0", target_digest, f"{fps} images a second")],
        "latencies": latencies,
        "predictions": predictions,
        "chosen": chosen,
    }


def _target(name: str, backend: str, files: list[str], options: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "backend": backend,
        "device": "cpu",
        "precision": "fp32",
        "optim_level": 2,
        "batch_sizes": [],
        "files": files,
        "options": options,
        "toolchain": {backend: "1.2.3"},
        "operators_outside": [],
        "tolerance": {"max_rel_diff": 0.0001, "cosine": None},
        "agreement": {
            "images": 1,
            "max_abs_diff": 1.9073486328125e-06,
            "max_rel_diff": 3.1e-07,
            "top1_equal": 1,
            "logits_sha256": [_digest(f"{name} logits")],
            "threads": 2,
            "processor": "a processor",
            "features": ["avx2", "fma"],
            "packages": {backend: "1.2.3"},
        },
        "target_digest": "0" * 64,
    }


_FIELDS: dict[str, Any] = {
    "name": "vit_tiny_digits",
    "version": "1.0.0",
    "source": {
        "file": "vit_tiny_digits.npz",
        "size": 20961904,
        "sha256": _digest("checkpoint"),
        "layout": "augreg-npz",
        "variant": "vit_tiny_digits",
        "card_sha256": _digest("card"),
    },
    "model": {
        "architecture": "vit_tiny_patch8_32",
        "timm_tag": "",
        "image_size": 32,
        "patch_size": 8,
        "width": 192,
        "depth": 2,
        "heads": 3,
        "mlp_dim": 768,
        "classes": 10,
        "parameters": 940234,
        "gflop": 0.032,
    },
    "inputs": [{"name": "input", "dtype": "float32", "shape": ["batch", 3, 32, 32]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
    "preprocess": {
        "profile": "timm",
        "color": "rgb",
        "max_pixels": 67108864,
        "resize": {
            "mode": "shorter_side",
            "size": 36,
            "interpolation": "bicubic",
            "pass_order": "horizontal_first",
        },
        "crop": {"mode": "center", "size": 32},
        "scale": 255,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.25, 0.1],
    },
    "artifacts": [
        _artifact("model.ts", "torchscript", _MODEL_BYTES),
        _artifact("model.onnx", "onnx", 81234),
        _artifact("labels.txt", "labels", 90),
        _artifact("golden/00.jpg", "golden_source", 1234),
        _artifact("golden/00.png", "golden_crop", 2345),
        _artifact("golden/00.npy", "golden_logits", 168),
    ],
    "weights": [
        {
            "name": "head.weight",
            "dtype": "float32",
            "shape": [10, 192],
            "offset": 1024,
            "length": 7680,
        },
        {"name": "head.bias", "dtype": "float32", "shape": [10], "offset": 8704, "length": 40},
    ],
    "targets": [
        _target(
            "onnxruntime-cpu-fp32",
            "onnxruntime",
            ["model.onnx", "model.ts"],
            {"graph_optimization": "all", "intra_op_threads": 0, "memory_pattern": True},
        ),
        _target("torchscript-cpu-fp32", "torchscript", ["model.ts"], {}),
    ],
    "goldens": [
        {
            "source": "golden/00.jpg",
            "crop": "golden/00.png",
            "logits": "golden/00.npy",
            "width": 640,
            "height": 480,
            "decoded_sha256": _digest("decoded"),
            "crop_sha256": _digest("crop"),
            "tensor_sha256": _digest("tensor"),
            "logits_sha256": _digest("logits"),
            "top1": 7,
            "top2": 2,
            "margin": 3.25,
            "credit": "Zoë Example, CC0",
        }
    ],
    "accuracy": [],
    "performance": [],
    "gates": [],
    "levels": [],
    "expected": {
        "accuracy": [{"source": "a table", "top1": 97.5, "top5": None}],
        "speed": [{"source": "a table", "device": "a chip", "batch_size": 1, "fps": 342.34}],
    },
    "toolchain": {
        "created": "2026-01-02T03:04:05Z",
        "machine": "x86_64, 2 cores",
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "timm": "1.0.31"},
        "packages_digest": _digest("packages"),
        "command": "vitaie-build bundle card.toml --checkpoint vit_tiny_digits.npz",
    },
}
