"""What ``manifest.json`` says, format 1, as pydantic models: the source of the JSON Schema.

Types and ranges only: ``checks`` judges what the fields say of each other, and
``manifest.Manifest`` is these contents, read and written.
"""

from __future__ import annotations

from typing import Annotated, Literal, Optional

from pydantic import Field

from vitaie.manifests import devices, digests
from vitaie.manifests.fields import (
    BatchSize,
    Bound,
    BundlePath,
    Count,
    Date,
    Deviation,
    Dimension,
    Label,
    LongText,
    Mean,
    Measure,
    Name,
    Option,
    Percent,
    Positive,
    PositiveFloat,
    Requirement,
    Sha256,
    Share,
    Strict,
    Text,
    Threads,
    Version,
)

FORMAT_VERSION = 1
MAX_PIXELS = 2**26


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
    """Image to tensor, every number stated: ``((v / scale) - mean) / std`` in float32.

    ``mean`` and ``std`` are bounded so that every value is a finite float32.
    """

    profile: Literal["timm", "modelzoo"]
    color: Literal["rgb"]
    max_pixels: Annotated[int, Field(ge=MAX_PIXELS, le=MAX_PIXELS)]
    resize: Resize
    crop: Crop
    scale: Annotated[int, Field(ge=255, le=255)]
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]


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


class Tolerance(Strict):
    """What a target's logits may differ from the source model's on another processor.

    ``max_rel_diff`` is the largest difference, relative to the largest logit; ``cosine`` the least
    cosine of the two, for reduced precision, and None where the first is enough.
    """

    max_rel_diff: Bound
    cosine: Optional[Bound]


class Agreement(Strict):
    """How a target's logits on the goldens differ from the source model's, when it was built.

    ``logits_sha256`` are of its own, float32 [classes] little-endian, one for each golden in
    order. The same target, ``packages`` and ``threads`` on a processor of the same ``features``
    give them again to the last bit.
    """

    images: Positive
    max_abs_diff: Measure
    max_rel_diff: Measure
    top1_equal: Count
    logits_sha256: tuple[Sha256, ...]
    threads: Threads
    processor: Text
    features: tuple[Text, ...]
    packages: dict[str, Text]


BEFORE, AFTER, OUTSIDE = "operators_before", "operators_after", "operators_outside"
"""Of a device's target, in ``options``: operators of ``model.ts``, of the graph that was made of it
for the compiler, and those of it that the compiler left outside the device."""


class Target(Strict):
    """One way to run the bundle. No batch sizes means any batch.

    ``torch_aie`` is that package or ``mindietorch``, whichever ``toolchain`` names; its targets say
    in ``options.double`` whether the tests' double of it made them, and they ran on no device.
    """

    id: Name
    backend: Literal["onnxruntime", "torchscript", "torch_aie"]
    device: Literal["cpu", "ascend310p3"]
    precision: Literal["fp32", "fp16", "pref_fp32", "pref_fp16"]
    optim_level: Annotated[int, Field(ge=0, le=2)]
    batch_sizes: tuple[Positive, ...]
    files: Annotated[tuple[BundlePath, ...], Field(min_length=1)]
    options: dict[str, Option]
    toolchain: dict[str, Text]
    operators_outside: tuple[Text, ...]
    tolerance: Tolerance
    agreement: Agreement
    target_digest: Sha256

    @property
    def by_double(self) -> bool:
        """Whether the tests' double of a device's package made it: it is evidence of nothing."""
        return self.options.get("double") is True

    @property
    def names_double(self) -> bool:
        """Whether ``toolchain`` or ``agreement.packages`` has the double's version of a package.

        ``by_double`` has to say the same: ``checks`` refuses a target of which it does not.
        """
        return any(
            versions.get(name) == devices.DOUBLE
            for versions in (self.toolchain, self.agreement.packages)
            for name in devices.PACKAGES
        )

    @property
    def implied_id(self) -> str:
        """The id that its fields give: ``onnxruntime-cpu-fp32``, ``ascend310p3-fp16-b8-o2``."""
        if self.device == "cpu":
            return f"{self.backend}-{self.device}-{self.precision}"
        return f"{self.device}-{self.precision}-b{self.batch_sizes[0]}-o{self.optim_level}"

    @property
    def placement(self) -> Optional[float]:
        """The share of operators that run on the target's device; None where nobody counted.

        Every operator of a CPU's target runs on the CPU. For a device, ``options`` say how many
        the compiler was given, and how many of what it made are outside.
        """
        if self.device == "cpu":
            return 1.0
        given, outside = (self.options.get(name) for name in (AFTER, OUTSIDE))
        if type(given) is not int or type(outside) is not int or given < 1 or outside < 0:
            return None
        return max(0.0, 1 - outside / given)

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
    """Which images: the digest is over the sorted list of (path, size, sha256, label).

    ``missing`` could not be read and are none of ``images``.
    """

    name: Text
    digest: Sha256
    images: Positive
    missing: Count


class Paired(Strict):
    """Target and source model on the same images: right by both, by one only, by neither."""

    both: Count
    target_only: Count
    source_only: Count
    neither: Count


class AccuracyRecord(Strict):
    """One measurement of accuracy, bound to the target it was taken on.

    ``source_top1`` to ``agreement`` are of the source model on the same images, and all None
    where it was not run. ``agreement`` counts the images on which both have the same first class.
    """

    target_digest: Sha256
    preprocess_digest: Sha256
    dataset: Dataset
    batch_size: BatchSize
    threads: Threads
    top1: Rate
    top5: Rate
    source_top1: Optional[Rate]
    source_top5: Optional[Rate]
    paired: Optional[Paired]
    agreement: Optional[Count]
    processor: Text
    created: Date
    predictions: BundlePath


Boundary = Literal["device", "host", "end_to_end"]
Scenario = Literal["single_stream", "offline"]
Validity = Literal["VALID", "INVALID"]


class PerformanceRecord(Strict):
    """One measurement of speed, bound to the target it was taken on.

    ``latency_ms`` holds the percentiles that there are calls enough for, by their name such as
    ``p99.9``; ``variation`` is the standard deviation over the mean; ``placement`` the share of
    operators on the device.
    """

    target_digest: Sha256
    boundary: Boundary
    scenario: Scenario
    protocol: Literal["quick", "full"]
    batch_size: BatchSize
    threads: Threads
    inputs: Literal["photographs", "goldens with seeded noise"]
    processor: Text
    created: Date
    verdict: Validity
    reasons: tuple[Text, ...]
    fps: PositiveFloat
    latency_ms: dict[str, PositiveFloat]
    variation: Measure
    placement: Optional[Share]
    peak_mib: Measure
    latencies: BundlePath


class GateRecord(Strict):
    """One requirement, such as ``top1>=84.0``, and how the evidence decided it for a target."""

    require: Requirement
    target_digest: Sha256
    verdict: Literal["pass", "fail", "undecidable"]
    reason: Text


class LevelRecord(Strict):
    """One optimisation level that was built and measured so that the fastest could be chosen.

    ``target_digest`` is of the target at this level, whether it ships or not; ``predictions`` is
    None where no gate asked for accuracy.
    """

    optim_level: Annotated[int, Field(ge=0, le=2)]
    target_digest: Sha256
    boundary: Boundary
    scenario: Scenario
    batch_size: BatchSize
    fps: PositiveFloat
    verdict: Validity
    gates: tuple[GateRecord, ...]
    latencies: BundlePath
    predictions: Optional[BundlePath]
    chosen: bool


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


class Contents(Strict):
    """Everything a bundle says."""

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
    gates: tuple[GateRecord, ...]
    levels: tuple[LevelRecord, ...]
    expected: Expected
    toolchain: Toolchain

    def artifact(self, path: str) -> Artifact:
        """Return the artifact at ``path``, which the manifest is known to hold."""
        return next(artifact for artifact in self.artifacts if artifact.path == path)
