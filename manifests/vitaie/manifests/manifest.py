"""What ``manifest.json`` says, format 1, as pydantic models: the source of the JSON Schema.

``Manifest.from_bytes`` is the only way in. It judges the bytes in an order that never lets a
later step see what an earlier one refused: JSON (strict), format and version, the digest of
the bytes, types and values, what fields say of each other, and last the digests over content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Literal, Optional

from pydantic import Field, ValidationError

from vitaie.manifests import checks, digests
from vitaie.manifests.checks import Fault
from vitaie.manifests.errors import ManifestError
from vitaie.manifests.fields import (
    BundlePath,
    Count,
    Date,
    Dimension,
    Label,
    LongText,
    Measure,
    Option,
    Sha256,
    Strict,
    Text,
    fault,
)
from vitaie.manifests.fields import Name as Name
from vitaie.manifests.fields import Percent as Percent
from vitaie.manifests.fields import Positive as Positive
from vitaie.manifests.fields import PositiveFloat as PositiveFloat
from vitaie.manifests.fields import Version as Version
from vitaie.manifests.fields import field_path as field_path
from vitaie.manifests.strict_json import parse_object

FORMAT = "vitaie-bundle"
FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 2**20
MAX_PIXELS = 2**26
_PLACEHOLDER = "0" * 64


class Source(Strict):
    """The checkpoint the bundle was made from, and the card that said what it is."""

    file: Text
    size: Positive
    sha256: Sha256
    layout: Literal["augreg-npz"]
    variant: Name
    card_sha256: Sha256


class Model(Strict):
    """The architecture. ``gflop`` counts a multiply-add as two, for one image."""

    architecture: Text
    timm_tag: Text
    image_size: Positive
    patch_size: Positive
    width: Positive
    depth: Positive
    heads: Positive
    mlp_dim: Positive
    classes: Positive
    parameters: Positive
    gflop: PositiveFloat


class Tensor(Strict):
    """An input or output; the dimension ``batch`` takes any size of at least 1."""

    name: Label
    dtype: Literal["float32"]
    shape: tuple[Dimension, ...]


class Resize(Strict):
    """Pillow's 8-bit two-pass bicubic. ``shorter_side`` keeps the aspect, ``square`` does not."""

    mode: Literal["shorter_side", "square"]
    size: Positive
    interpolation: Literal["bicubic"]
    pass_order: Literal["horizontal_first"]


class Crop(Strict):
    """A square of ``size`` pixels from the centre; offsets round half to even."""

    mode: Literal["center"]
    size: Positive


class Preprocess(Strict):
    """Image to tensor, every number stated: ``((v / scale) - mean) / std`` in float32."""

    profile: Literal["timm", "modelzoo"]
    color: Literal["rgb"]
    max_pixels: Annotated[int, Field(ge=MAX_PIXELS, le=MAX_PIXELS)]
    resize: Resize
    crop: Crop
    scale: Annotated[int, Field(ge=255, le=255)]
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


Role = Literal[
    "torchscript",
    "onnx",
    "labels",
    "golden_source",
    "golden_crop",
    "golden_logits",
    "target",
    "measurement",
]


class Artifact(Strict):
    """One file: its size in bytes, its digest, and over 8 MiB the digest of each 16 MiB chunk."""

    path: BundlePath
    role: Role
    size: Count
    sha256: Sha256
    chunks: tuple[Sha256, ...]


class Weight(Strict):
    """One external tensor of ``model.onnx``: where its bytes lie inside ``model.ts``."""

    name: Label
    dtype: Literal["float32"]
    shape: Annotated[tuple[Positive, ...], Field(max_length=8)]
    offset: Count
    length: Positive


class Agreement(Strict):
    """How a target's logits on the goldens differ from the source model's, when it was built."""

    images: Positive
    max_abs_diff: Measure
    max_rel_diff: Measure
    top1_equal: Count


class Target(Strict):
    """One way to run the bundle. No batch sizes means any batch."""

    id: Name
    backend: Literal["onnxruntime", "torchscript"]
    device: Literal["cpu"]
    precision: Literal["fp32"]
    optim_level: Annotated[int, Field(ge=0, le=2)]
    batch_sizes: tuple[Positive, ...]
    files: Annotated[tuple[BundlePath, ...], Field(min_length=1)]
    options: dict[str, Option]
    toolchain: dict[str, Text]
    operators_outside: tuple[Text, ...]
    tolerance: Annotated[float, Field(gt=0, le=1)]
    agreement: Agreement
    target_digest: Sha256

    def digest(self, files: dict[str, str]) -> str:
        """Return the target's digest, given the sha256 of every artifact by path."""
        return digests.sha256(
            digests.canonical(
                {
                    "backend": self.backend,
                    "device": self.device,
                    "precision": self.precision,
                    "optim_level": self.optim_level,
                    "batch_sizes": self.batch_sizes,
                    "options": self.options,
                    "files": [[path, files[path]] for path in sorted(self.files)],
                }
            )
        )


class Golden(Strict):
    """One real image and every stage it must pass through.

    ``decoded_sha256`` and ``crop_sha256`` are of the uint8 RGB pixels [H, W, 3],
    ``tensor_sha256`` of the float32 [3, S, S], ``logits_sha256`` of the float32 [classes],
    all little-endian and row-major. ``margin`` is the first logit less the second.
    """

    source: BundlePath
    crop: BundlePath
    logits: BundlePath
    width: Positive
    height: Positive
    decoded_sha256: Sha256
    crop_sha256: Sha256
    tensor_sha256: Sha256
    logits_sha256: Sha256
    top1: Count
    top2: Count
    margin: Measure
    credit: Text


class Interval(Strict):
    """A 95% Wilson score interval, in percent."""

    low: Percent
    high: Percent


class Rate(Strict):
    """A count and what it is of all images, in percent, with its interval."""

    count: Count
    percent: Percent
    wilson95: Interval


class Dataset(Strict):
    """Which images: the digest is over the sorted list of (path, size, sha256, label)."""

    name: Text
    digest: Sha256
    images: Positive


class Paired(Strict):
    """Target and source model on the same images: right by both, by one only, by neither."""

    both: Count
    target_only: Count
    source_only: Count
    neither: Count


class AccuracyRecord(Strict):
    """One measurement of accuracy, bound to the target it was taken on."""

    target_digest: Sha256
    preprocess_digest: Sha256
    dataset: Dataset
    top1: Rate
    top5: Rate
    source_top1: Rate
    source_top5: Rate
    paired: Paired
    predictions: BundlePath


class PerformanceRecord(Strict):
    """One measurement of speed, bound to the target it was taken on."""

    target_digest: Sha256
    boundary: Literal["device", "host", "end_to_end"]
    scenario: Literal["single_stream", "offline"]
    batch_size: Positive
    verdict: Literal["VALID", "INVALID"]
    reasons: tuple[Text, ...]
    fps: PositiveFloat
    latencies: BundlePath


class PublishedAccuracy(Strict):
    """A published figure for this variant and preprocessing. Never a measured one."""

    source: Text
    top1: Percent
    top5: Optional[Percent]


class PublishedSpeed(Strict):
    """A published speed of this variant, in images a second. Never a measured one."""

    source: Text
    device: Text
    batch_size: Positive
    fps: PositiveFloat


class Expected(Strict):
    """The published figures to show beside measured ones."""

    accuracy: tuple[PublishedAccuracy, ...]
    speed: tuple[PublishedSpeed, ...]


class Toolchain(Strict):
    """What built the bundle. ``created`` and ``machine`` are outside the content digest.

    ``packages_digest`` is over the sorted ``name==version`` lines of every installed package.
    ``command`` names inputs without their folders.
    """

    created: Date
    machine: Text
    python: Text
    packages: dict[str, Text]
    packages_digest: Sha256
    command: LongText


class Manifest(Strict):
    """Everything a bundle says. Made with ``create``, read with ``from_bytes``."""

    format: Literal["vitaie-bundle"]
    format_version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    name: Name
    version: Version
    manifest_digest: Sha256
    content_digest: Sha256
    source: Source
    model: Model
    inputs: tuple[Tensor]
    outputs: tuple[Tensor]
    preprocess: Preprocess
    artifacts: tuple[Artifact, ...]
    weights: Annotated[tuple[Weight, ...], Field(min_length=1)]
    targets: tuple[Target, ...]
    goldens: Annotated[tuple[Golden, ...], Field(min_length=1)]
    accuracy: tuple[AccuracyRecord, ...]
    performance: tuple[PerformanceRecord, ...]
    expected: Expected
    toolchain: Toolchain

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "manifest.json") -> Manifest:
        """Read and check a manifest.

        Raises:
            ManifestError: With the code and the path of the field at fault.
        """
        document = parse_object(data, where=where, limit=MAX_MANIFEST_BYTES)
        _check_format(document, where)
        _check_manifest_digest(data, document, where)
        manifest = _validated(data, where)
        for found in chain(
            checks.structure_faults(manifest),
            checks.record_faults(manifest, preprocess_digest(manifest.preprocess)),
            _digest_faults(manifest),
        ):
            raise found.error(where)
        return manifest

    @classmethod
    def create(cls, fields: dict[str, Any]) -> Manifest:
        """Make a manifest of all fields but ``format``, ``format_version`` and the two digests.

        Targets carry any 64 digits as ``target_digest``; the right ones are put in. Records
        name the right digest of their target.

        Raises:
            ManifestError: As ``from_bytes``.
        """
        document = {
            **fields,
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "manifest_digest": _PLACEHOLDER,
            "content_digest": _PLACEHOLDER,
        }
        data = json.dumps(document).encode("ascii")
        parse_object(data, where="manifest.json", limit=MAX_MANIFEST_BYTES)
        draft = _validated(data, "manifest.json")
        for found in checks.structure_faults(draft):
            raise found.error("manifest.json")
        files = {artifact.path: artifact.sha256 for artifact in draft.artifacts}
        targets = tuple(
            target.model_copy(update={"target_digest": target.digest(files)})
            for target in draft.targets
        )
        draft = draft.model_copy(update={"targets": targets})
        draft = draft.model_copy(update={"content_digest": content_digest(draft)})
        return cls.from_bytes(draft.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the bytes of manifest.json: UTF-8, fields in the order of the model.

        ``manifest_digest`` is the one of these bytes, whatever bytes the manifest came from.
        """
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n"
        return digests.with_manifest_digest(text.encode("utf-8"))

    def artifact(self, path: str) -> Artifact:
        """Return the artifact at ``path``, which the manifest is known to hold."""
        return next(artifact for artifact in self.artifacts if artifact.path == path)


def content_digest(manifest: Manifest) -> str:
    """Return the digest of what a bundle is, whenever, wherever and however well it was measured.

    It covers every field but the version, the two digests of the whole, the date and machine,
    the measurements with their files, and the numeric agreement of the targets.
    """
    document = manifest.model_dump(mode="json")
    for field in ("version", "manifest_digest", "content_digest", "accuracy", "performance"):
        del document[field]
    for field in ("created", "machine"):
        del document["toolchain"][field]
    for target in document["targets"]:
        del target["agreement"]
    document["artifacts"] = [
        artifact for artifact in document["artifacts"] if artifact["role"] != "measurement"
    ]
    return digests.sha256(digests.canonical(document))


def preprocess_digest(preprocess: Preprocess) -> str:
    """Return the digest that an accuracy record binds its preprocessing by."""
    return digests.sha256(digests.canonical(preprocess.model_dump(mode="json")))


def _check_format(document: dict[str, Any], where: str) -> None:
    for field in ("format", "format_version"):
        if field not in document:
            raise ManifestError("E_MANIFEST_MISSING_FIELD", where, field=field)
    kind, version = document["format"], document["format_version"]
    if kind != FORMAT:
        raise Fault("E_MANIFEST_FORMAT", "format", FORMAT, kind).error(where)
    if type(version) is not int:
        raise Fault("E_MANIFEST_TYPE", "format_version", "an integer", version).error(where)
    if version < 1:
        raise Fault("E_MANIFEST_VALUE", "format_version", "at least 1", version).error(where)
    if version > FORMAT_VERSION:
        raise ManifestError(
            "E_MANIFEST_NEWER_VERSION",
            where,
            field="format_version",
            expected=f"at most {FORMAT_VERSION}",
            got=version,
            hint="Install a newer vitaie.",
        )


def _check_manifest_digest(data: bytes, document: dict[str, Any], where: str) -> None:
    if "manifest_digest" not in document:
        raise ManifestError("E_MANIFEST_MISSING_FIELD", where, field="manifest_digest")
    actual = digests.manifest_digest(data)
    if actual is None or actual != document["manifest_digest"]:
        raise ManifestError(
            "E_MANIFEST_DIGEST",
            where,
            field="manifest_digest",
            expected=actual or "64 lower-case hexadecimal digits, and the name just once",
            got=document["manifest_digest"],
            hint="The manifest was changed after it was published; fetch the bundle again.",
        )


def _validated(data: bytes, where: str) -> Manifest:
    """Return the manifest with every value of the right type, nothing compared yet."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        # pydantic's order differs between its releases, and a list with an element at fault is
        # also "too short": the innermost fault is the one, and of several the first by name
        details = min(error.errors(), key=lambda each: (-len(each["loc"]), field_path(each["loc"])))
    raise fault(details).error(where)


def _digest_faults(manifest: Manifest) -> Iterator[Fault]:
    files = {artifact.path: artifact.sha256 for artifact in manifest.artifacts}
    for index, target in enumerate(manifest.targets):
        actual = target.digest(files)
        if actual != target.target_digest:
            field = f"targets[{index}].target_digest"
            yield Fault("E_MANIFEST_TARGET_DIGEST", field, actual, target.target_digest)
    actual = content_digest(manifest)
    if actual != manifest.content_digest:
        claimed = manifest.content_digest
        yield Fault("E_MANIFEST_CONTENT_DIGEST", "content_digest", actual, claimed)
