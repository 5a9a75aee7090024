"""What the fields of a manifest say of each other, once each of them is right by itself.

The order is the order of judgement of ``docs/bundle-format.md``: artifacts, references to them,
targets, goldens, weights, the model and its input, and then the records of measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from vitaie.manifests import digests
from vitaie.manifests.contents import AccuracyRecord, Contents, Rate, Target
from vitaie.manifests.fields import Fault

WEIGHT_ALIGNMENT = 64
"""Every tensor of ``model.ts`` begins at a multiple of this many bytes."""

_PLACES = {
    "torchscript": "model.ts",
    "onnx": "model.onnx",
    "labels": "labels.txt",
    "golden_source": "golden/",
    "golden_crop": "golden/",
    "golden_logits": "golden/",
    "target": "targets/",
    "measurement": "measurements/",
}
_ALWAYS_THERE = ("torchscript", "onnx", "labels")
_BASE_TARGETS = (("onnxruntime", "cpu", "fp32"), ("torchscript", "cpu", "fp32"))
_RESIZE_MODES = {"timm": "shorter_side", "modelzoo": "square"}


def structure_faults(manifest: Contents) -> Iterator[Fault]:
    """Yield what is wrong with the bundle's parts; a later fault may rest on an earlier one."""
    yield from _artifact_faults(manifest)
    yield from _reference_faults(manifest)
    yield from _target_faults(manifest)
    yield from _golden_faults(manifest)
    yield from _weight_faults(manifest)
    yield from _model_faults(manifest)


def record_faults(manifest: Contents, preprocess_digest: str) -> Iterator[Fault]:
    """Yield what is wrong with the measurements: what they are bound to, and their arithmetic."""
    targets = {target.target_digest for target in manifest.targets}
    for index, record in enumerate(manifest.accuracy):
        field = f"accuracy[{index}]"
        yield from _binding_faults(f"{field}.target_digest", record.target_digest, targets)
        yield from _binding_faults(
            f"{field}.preprocess_digest", record.preprocess_digest, {preprocess_digest}
        )
        yield from _accuracy_faults(field, record)
    for index, speed in enumerate(manifest.performance):
        field = f"performance[{index}]"
        yield from _binding_faults(f"{field}.target_digest", speed.target_digest, targets)
        if (speed.verdict == "INVALID") != bool(speed.reasons):
            expected = "reasons when INVALID, none when VALID"
            yield Fault("E_MANIFEST_VALUE", f"{field}.reasons", expected, len(speed.reasons))


def _artifact_faults(manifest: Contents) -> Iterator[Fault]:
    files = {"manifest.json"}
    folders: set[str] = set()
    for index, artifact in enumerate(manifest.artifacts):
        field = f"artifacts[{index}]"
        path = artifact.path.lower()
        parents = {path[:end] for end, char in enumerate(path) if char == "/"}
        if path in files or path in folders or parents & files:
            yield Fault("E_MANIFEST_PATH_TWIN", f"{field}.path", got=artifact.path)
        files.add(path)
        folders |= parents
        place = _PLACES[artifact.role]
        inside = place.endswith("/") and artifact.path.startswith(place)
        if not inside and artifact.path != place:
            expected = f"{place} for the role {artifact.role}"
            yield Fault("E_MANIFEST_VALUE", f"{field}.path", expected, artifact.path)
        chunks = -(-artifact.size // digests.CHUNK_SIZE)
        expected_chunks = chunks if artifact.size > digests.CHUNKED_ABOVE else 0
        if len(artifact.chunks) != expected_chunks:
            yield Fault(
                "E_MANIFEST_CHUNKS", f"{field}.chunks", expected_chunks, len(artifact.chunks)
            )


def _reference_faults(manifest: Contents) -> Iterator[Fault]:
    roles: dict[str, str] = {artifact.path: artifact.role for artifact in manifest.artifacts}
    for role in _ALWAYS_THERE:
        if _PLACES[role] not in roles:
            yield Fault("E_MANIFEST_REFERENCE", "artifacts", _PLACES[role])
    references = [
        (f"targets[{index}].files[{number}]", path, {"torchscript", "onnx", "target"})
        for index, target in enumerate(manifest.targets)
        for number, path in enumerate(target.files)
    ]
    for index, golden in enumerate(manifest.goldens):
        references += [
            (f"goldens[{index}].source", golden.source, {"golden_source"}),
            (f"goldens[{index}].crop", golden.crop, {"golden_crop"}),
            (f"goldens[{index}].logits", golden.logits, {"golden_logits"}),
        ]
    references += [
        (f"accuracy[{index}].predictions", record.predictions, {"measurement"})
        for index, record in enumerate(manifest.accuracy)
    ]
    references += [
        (f"performance[{index}].latencies", record.latencies, {"measurement"})
        for index, record in enumerate(manifest.performance)
    ]
    for field, path, allowed in references:
        if roles.get(path) not in allowed:
            expected = f"an artifact of role {' or '.join(sorted(allowed))}"
            yield Fault("E_MANIFEST_REFERENCE", field, expected, path)


def _target_faults(manifest: Contents) -> Iterator[Fault]:
    ids: set[str] = set()
    for index, target in enumerate(manifest.targets):
        field = f"targets[{index}]"
        if target.id in ids:
            yield Fault("E_MANIFEST_VALUE", f"{field}.id", "each id once", target.id)
        ids.add(target.id)
        if len(set(target.files)) != len(target.files):
            yield Fault("E_MANIFEST_VALUE", f"{field}.files", "each file once")
        if not _rises(target):
            yield Fault(
                "E_MANIFEST_VALUE", f"{field}.batch_sizes", "each larger than the one before"
            )
        if target.agreement.top1_equal > target.agreement.images:
            yield Fault(
                "E_MANIFEST_VALUE",
                f"{field}.agreement.top1_equal",
                f"at most {target.agreement.images}",
                target.agreement.top1_equal,
            )
    held = {(target.backend, target.device, target.precision) for target in manifest.targets}
    for base in _BASE_TARGETS:
        if base not in held:
            yield Fault("E_MANIFEST_VALUE", "targets", f"a target of {'-'.join(base)}")


def _rises(target: Target) -> bool:
    sizes = target.batch_sizes
    return all(small < large for small, large in zip(sizes, sizes[1:]))


def _golden_faults(manifest: Contents) -> Iterator[Fault]:
    classes = manifest.model.classes
    for index, golden in enumerate(manifest.goldens):
        field = f"goldens[{index}]"
        for name, value in (("top1", golden.top1), ("top2", golden.top2)):
            if value >= classes:
                expected = f"a class below {classes}"
                yield Fault("E_MANIFEST_REFERENCE", f"{field}.{name}", expected, value)
        if golden.top1 == golden.top2:
            yield Fault("E_MANIFEST_VALUE", f"{field}.top2", "another class than top1", golden.top2)
        if golden.width * golden.height > manifest.preprocess.max_pixels:
            expected = f"at most {manifest.preprocess.max_pixels} pixels in all"
            yield Fault("E_MANIFEST_VALUE", f"{field}.height", expected, golden.height)


def _weight_faults(manifest: Contents) -> Iterator[Fault]:
    archive = manifest.artifact("model.ts").size
    names: set[str] = set()
    for index, weight in enumerate(manifest.weights):
        field = f"weights[{index}]"
        if weight.name in names:
            yield Fault("E_MANIFEST_WEIGHTS", f"{field}.name", "each name once", weight.name)
        names.add(weight.name)
        if weight.length != 4 * math.prod(weight.shape):
            expected = 4 * math.prod(weight.shape)
            yield Fault("E_MANIFEST_WEIGHTS", f"{field}.length", expected, weight.length)
        if weight.offset % WEIGHT_ALIGNMENT or weight.offset + weight.length > archive:
            expected_offset = f"a multiple of {WEIGHT_ALIGNMENT}, its bytes within {archive}"
            yield Fault("E_MANIFEST_WEIGHTS", f"{field}.offset", expected_offset, weight.offset)
    end = 0
    for offset, index in sorted((weight.offset, i) for i, weight in enumerate(manifest.weights)):
        if offset < end:
            expected_offset = f"at least {end}, where another weight ends"
            yield Fault("E_MANIFEST_WEIGHTS", f"weights[{index}].offset", expected_offset, offset)
        end = offset + manifest.weights[index].length


def _model_faults(manifest: Contents) -> Iterator[Fault]:
    model, preprocess = manifest.model, manifest.preprocess
    if model.image_size % model.patch_size:
        expected = f"a divisor of the image's {model.image_size}"
        yield Fault("E_MANIFEST_VALUE", "model.patch_size", expected, model.patch_size)
    if model.width % model.heads:
        expected = f"a divisor of the width {model.width}"
        yield Fault("E_MANIFEST_VALUE", "model.heads", expected, model.heads)
    mode = _RESIZE_MODES[preprocess.profile]
    if preprocess.resize.mode != mode:
        yield Fault("E_MANIFEST_VALUE", "preprocess.resize.mode", mode, preprocess.resize.mode)
    if preprocess.resize.size < preprocess.crop.size:
        expected = f"at least the crop's {preprocess.crop.size}"
        yield Fault("E_MANIFEST_VALUE", "preprocess.resize.size", expected, preprocess.resize.size)
    if preprocess.crop.size != model.image_size:
        yield Fault(
            "E_MANIFEST_VALUE", "preprocess.crop.size", model.image_size, preprocess.crop.size
        )
    size = model.image_size
    for field, actual, shape in (
        ("inputs[0].shape", manifest.inputs[0].shape, ("batch", 3, size, size)),
        ("outputs[0].shape", manifest.outputs[0].shape, ("batch", model.classes)),
    ):
        if actual != shape:
            yield Fault("E_MANIFEST_VALUE", field, list(shape), list(actual))


def _binding_faults(field: str, digest: str, known: set[str]) -> Iterator[Fault]:
    if digest not in known:
        yield Fault("E_MANIFEST_REFERENCE", field, "a digest of this bundle", digest)


def _accuracy_faults(field: str, record: AccuracyRecord) -> Iterator[Fault]:
    images, paired = record.dataset.images, record.paired
    rates = (
        ("top1", record.top1),
        ("top5", record.top5),
        ("source_top1", record.source_top1),
        ("source_top5", record.source_top5),
    )
    for name, rate in rates:
        yield from _rate_faults(f"{field}.{name}", rate, images)
    for top1, top5 in (rates[:2], rates[2:]):
        if top5[1].count < top1[1].count:
            expected = f"at least {top1[0]}'s {top1[1].count}"
            yield Fault("E_MANIFEST_VALUE", f"{field}.{top5[0]}.count", expected, top5[1].count)
    sums = (
        ("both and target_only", paired.both + paired.target_only, record.top1.count),
        ("both and source_only", paired.both + paired.source_only, record.source_top1.count),
        (
            "all four",
            paired.both + paired.target_only + paired.source_only + paired.neither,
            images,
        ),
    )
    for name, actual, expected_sum in sums:
        if actual != expected_sum:
            expected = f"{expected_sum} as the sum of {name}"
            yield Fault("E_MANIFEST_VALUE", f"{field}.paired", expected, actual)


def _rate_faults(field: str, rate: Rate, images: int) -> Iterator[Fault]:
    if rate.count > images:
        yield Fault("E_MANIFEST_VALUE", f"{field}.count", f"at most {images}", rate.count)
    percent = 100 * rate.count / images
    if abs(rate.percent - percent) > 1e-9:
        yield Fault("E_MANIFEST_VALUE", f"{field}.percent", percent, rate.percent)
    if not rate.wilson95.low <= rate.percent <= rate.wilson95.high:
        yield Fault("E_MANIFEST_VALUE", f"{field}.wilson95", f"an interval around {rate.percent}")
