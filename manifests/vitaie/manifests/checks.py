"""What the fields of a manifest say of each other, once each of them is right by itself.

The order is the order of judgement of ``docs/bundle-format.md``: artifacts, references to them,
targets, goldens, weights, the model and its input, and then the records of measurements.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from vitaie.manifests import devices, digests
from vitaie.manifests.contents import (
    AccuracyRecord,
    Contents,
    LevelRecord,
    PerformanceRecord,
    Rate,
    Target,
)
from vitaie.manifests.fields import Fault

WEIGHT_ALIGNMENT = 64
"""Every tensor of ``model.ts`` begins at a multiple of this many bytes."""

MAX_CPU_DIFFERENCE = 1e-3
"""What a CPU's target may allow its logits to differ, of the largest logit."""

PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9")
"""Of latencies, from the one that fewest calls are enough for (``statistics.MINIMUM_COUNTS``)."""

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
_CPU_FILES = {"onnxruntime": ("model.onnx", "model.ts"), "torchscript": ("model.ts",)}
"""All that each engine loads: a digest over less would not say which weights were measured."""

MAX_GATES = 64
"""Of a manifest: each is judged again by whoever audits it."""

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
        yield from _performance_faults(field, speed)
    yield from _gate_faults(manifest, targets)
    yield from _level_faults(manifest)


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
        if artifact.role == "measurement" and artifact.size > devices.MAX_RECORD_BYTES:
            expected = f"at most {devices.MAX_RECORD_BYTES} bytes of evidence"
            yield Fault("E_MANIFEST_VALUE", f"{field}.size", expected, artifact.size)
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
    for index, level in enumerate(manifest.levels):
        references.append((f"levels[{index}].latencies", level.latencies, {"measurement"}))
        if level.predictions is not None:
            references.append((f"levels[{index}].predictions", level.predictions, {"measurement"}))
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
        yield from _device_faults(field, target)
        if target.agreement.top1_equal > target.agreement.images:
            yield Fault(
                "E_MANIFEST_VALUE",
                f"{field}.agreement.top1_equal",
                f"at most {target.agreement.images}",
                target.agreement.top1_equal,
            )
        if len(target.agreement.logits_sha256) != target.agreement.images:
            yield Fault(
                "E_MANIFEST_VALUE",
                f"{field}.agreement.logits_sha256",
                f"{target.agreement.images} digests, one for each golden",
                len(target.agreement.logits_sha256),
            )
    held = {(target.backend, target.device, target.precision) for target in manifest.targets}
    for base in _BASE_TARGETS:
        if base not in held:
            yield Fault("E_MANIFEST_VALUE", "targets", f"a target of {'-'.join(base)}")


def _device_faults(field: str, target: Target) -> Iterator[Fault]:
    """Judge what a backend can be: on the CPU in full precision, or one module for one batch."""
    device = "ascend310p3" if target.backend == "torch_aie" else "cpu"
    if target.device != device:
        yield Fault("E_MANIFEST_VALUE", f"{field}.device", device, target.device)
    if device == "cpu":
        if target.precision != "fp32":
            yield Fault("E_MANIFEST_VALUE", f"{field}.precision", "fp32", target.precision)
        yield from _id_faults(f"{field}.id", target)
        if target.files != _CPU_FILES[target.backend]:
            expected = " and ".join(_CPU_FILES[target.backend])
            yield Fault("E_MANIFEST_VALUE", f"{field}.files", expected, " and ".join(target.files))
        yield from _tolerance_faults(f"{field}.tolerance", target)
        return
    if len(target.batch_sizes) != 1:
        yield Fault("E_MANIFEST_VALUE", f"{field}.batch_sizes", "one", len(target.batch_sizes))
    if target.batch_sizes[0] > devices.MAX_BATCH:
        expected = f"at most {devices.MAX_BATCH}"
        yield Fault("E_MANIFEST_VALUE", f"{field}.batch_sizes", expected, target.batch_sizes[0])
    yield from _id_faults(f"{field}.id", target)
    folder = f"targets/{target.id}/"
    if len(target.files) != 1 or not target.files[0].startswith(folder):
        yield Fault("E_MANIFEST_VALUE", f"{field}.files", f"one file below {folder}")
    if not isinstance(target.options.get("double"), bool):
        yield Fault("E_MANIFEST_VALUE", f"{field}.options", "double: true or false")
    if (target.options.get("double") is True) != target.names_double:
        expected = (
            "true: toolchain or agreement.packages has the version double"
            if target.names_double
            else "false: neither toolchain nor agreement.packages has the version double"
        )
        yield Fault("E_MANIFEST_VALUE", f"{field}.options.double", expected, target.by_double)
    yield from _tolerance_faults(f"{field}.tolerance", target)


def _id_faults(field: str, target: Target) -> Iterator[Fault]:
    """Judge the name by what it names: commands and records tell targets apart by it."""
    if target.id != target.implied_id:
        yield Fault("E_MANIFEST_VALUE", field, target.implied_id, target.id)


def _tolerance_faults(field: str, target: Target) -> Iterator[Fault]:
    """Judge what may differ: in full precision the difference decides, no cosine in its place."""
    cosine, difference = target.tolerance.cosine, target.tolerance.max_rel_diff
    if target.precision == "fp32" and cosine is not None:
        yield Fault("E_MANIFEST_VALUE", f"{field}.cosine", "null, for fp32", cosine)
    if target.device == "cpu" and difference > MAX_CPU_DIFFERENCE:
        expected = f"at most {MAX_CPU_DIFFERENCE} on the CPU"
        yield Fault("E_MANIFEST_VALUE", f"{field}.max_rel_diff", expected, difference)


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
    images = record.dataset.images
    of_source = (record.source_top1, record.source_top5, record.paired, record.agreement)
    if None in of_source and any(part is not None for part in of_source):
        expected = "all of source_top1, source_top5, paired and agreement, or none"
        yield Fault("E_MANIFEST_VALUE", f"{field}.paired", expected)
    rates = [("top1", record.top1), ("top5", record.top5)]
    if record.source_top1 is not None and record.source_top5 is not None:
        rates += [("source_top1", record.source_top1), ("source_top5", record.source_top5)]
    for name, rate in rates:
        yield from _rate_faults(f"{field}.{name}", rate, images)
    for top1, top5 in zip(rates[::2], rates[1::2]):
        if top5[1].count < top1[1].count:
            expected = f"at least {top1[0]}'s {top1[1].count}"
            yield Fault("E_MANIFEST_VALUE", f"{field}.{top5[0]}.count", expected, top5[1].count)
    yield from _paired_faults(field, record)


def _paired_faults(field: str, record: AccuracyRecord) -> Iterator[Fault]:
    images, paired = record.dataset.images, record.paired
    if paired is None or record.source_top1 is None or record.agreement is None:
        return
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
    if not paired.both <= record.agreement <= paired.both + paired.neither:
        expected = f"{paired.both} to {paired.both + paired.neither}"
        yield Fault("E_MANIFEST_VALUE", f"{field}.agreement", expected, record.agreement)


def _rate_faults(field: str, rate: Rate, images: int) -> Iterator[Fault]:
    if rate.count > images:
        yield Fault("E_MANIFEST_VALUE", f"{field}.count", f"at most {images}", rate.count)
    percent = 100 * rate.count / images
    if abs(rate.percent - percent) > 1e-9:
        yield Fault("E_MANIFEST_VALUE", f"{field}.percent", percent, rate.percent)
    if not rate.wilson95.low <= rate.percent <= rate.wilson95.high:
        yield Fault("E_MANIFEST_VALUE", f"{field}.wilson95", f"an interval around {rate.percent}")


def _performance_faults(field: str, record: PerformanceRecord) -> Iterator[Fault]:
    yield from _batch_faults(field, record)
    if (record.verdict == "INVALID") != bool(record.reasons):
        expected = "reasons when INVALID, none when VALID"
        yield Fault("E_MANIFEST_VALUE", f"{field}.reasons", expected, len(record.reasons))
    times = [record.latency_ms[name] for name in PERCENTILES if name in record.latency_ms]
    first = PERCENTILES[: len(record.latency_ms)]
    if not times or set(record.latency_ms) != set(first) or times != sorted(times):
        expected = f"the first of {', '.join(PERCENTILES)}, none below the one before"
        yield Fault("E_MANIFEST_VALUE", f"{field}.latency_ms", expected)


def _batch_faults(field: str, record: PerformanceRecord | LevelRecord) -> Iterator[Fault]:
    if record.scenario == "single_stream" and record.batch_size != 1:
        expected = "1 for single_stream"
        yield Fault("E_MANIFEST_VALUE", f"{field}.batch_size", expected, record.batch_size)


def _gate_faults(manifest: Contents, targets: set[str]) -> Iterator[Fault]:
    """Judge the gates the bundle passed: one that it did not pass would have stopped it."""
    if len(manifest.gates) > MAX_GATES:
        yield Fault("E_MANIFEST_VALUE", "gates", f"at most {MAX_GATES}", len(manifest.gates))
    seen: set[tuple[str, str]] = set()
    for index, gate in enumerate(manifest.gates):
        field = f"gates[{index}]"
        yield from _binding_faults(f"{field}.target_digest", gate.target_digest, targets)
        if gate.verdict != "pass":
            yield Fault("E_MANIFEST_VALUE", f"{field}.verdict", "pass", gate.verdict)
        if (gate.require, gate.target_digest) in seen:
            yield Fault("E_MANIFEST_VALUE", f"{field}.require", "each gate once", gate.require)
        seen.add((gate.require, gate.target_digest))


def _level_faults(manifest: Contents) -> Iterator[Fault]:
    """Judge the table of levels; ``manifest`` judges the digests that follow from the chosen."""
    levels = manifest.levels
    chosen = sum(level.chosen for level in levels)
    if levels and chosen != 1:
        yield Fault("E_MANIFEST_VALUE", "levels", "one that is chosen", chosen)
    for index, level in enumerate(levels):
        field, before = f"levels[{index}]", levels[index - 1]
        if index and level.optim_level <= before.optim_level:
            expected = f"more than {before.optim_level}"
            yield Fault("E_MANIFEST_VALUE", f"{field}.optim_level", expected, level.optim_level)
        for name in ("boundary", "scenario", "batch_size"):
            ours, first = getattr(level, name), getattr(levels[0], name)
            if ours != first:
                expected = f"{first}, as the first level was measured"
                yield Fault("E_MANIFEST_VALUE", f"{field}.{name}", expected, ours)
        yield from _batch_faults(field, level)
        for number, gate in enumerate(level.gates):
            place = f"{field}.gates[{number}]"
            digests_here = {level.target_digest}
            yield from _binding_faults(f"{place}.target_digest", gate.target_digest, digests_here)
            if level.chosen and gate.verdict != "pass":
                yield Fault("E_MANIFEST_VALUE", f"{place}.verdict", "pass", gate.verdict)
        if level.chosen:
            yield from _chosen_faults(field, level, manifest.targets)


def _chosen_faults(field: str, level: LevelRecord, targets: tuple[Target, ...]) -> Iterator[Fault]:
    ships = [target for target in targets if target.target_digest == level.target_digest]
    yield from _binding_faults(
        f"{field}.target_digest", level.target_digest, {target.target_digest for target in ships}
    )
    if ships[0].optim_level != level.optim_level:
        expected = ships[0].optim_level
        yield Fault("E_MANIFEST_VALUE", f"{field}.optim_level", expected, level.optim_level)
    if level.verdict != "VALID":
        yield Fault("E_MANIFEST_VALUE", f"{field}.verdict", "VALID", level.verdict)
