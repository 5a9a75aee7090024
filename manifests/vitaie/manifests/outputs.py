"""What the commands print with ``--json``: one document each, errors included.

The JSON Schemas generated from these models are committed in ``manifests/schema/``.
"""

from __future__ import annotations

from typing import Literal, Optional, Union

from pydantic import BaseModel, ConfigDict

from vitaie.manifests.contents import (
    AccuracyRecord,
    GateRecord,
    LevelRecord,
    Paired,
    PerformanceRecord,
    PublishedAccuracy,
    Rate,
    Tolerance,
)
from vitaie.manifests.manifest import Expected, Manifest, Model, Preprocess


class _Output(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ErrorDetail(_Output):
    """A code of ``error_codes.json`` with what, where, expected, got and what to do."""

    code: str
    exit_code: int
    message: str
    where: str
    field: str
    expected: Optional[str]
    got: Optional[str]
    hint: str


class ErrorOutput(_Output):
    """Any command that fails."""

    error: ErrorDetail


class InfoOutput(_Output):
    """``vitaie info``: the folder, and all that the manifest says."""

    path: str
    manifest: Manifest


class PredictionOutput(_Output):
    """One class of an image; the probability is of the softmax."""

    index: int
    id: str
    label: str
    probability: float


class ImageOutput(_Output):
    """One image and its most probable classes, the first the most probable."""

    image: str
    predictions: list[PredictionOutput]


class ClassifyOutput(_Output):
    """``vitaie classify``; ``double``: the tests' double made the target, it ran on no device."""

    path: str
    version: str
    target: str
    double: bool
    images: list[ImageOutput]


class PreprocessOutput(_Output):
    """``vitaie preprocess``: the file written, and the digest of the array's bytes."""

    output: str
    dtype: Literal["float32"]
    shape: list[int]
    sha256: str


class ClaimOutput(_Output):
    """One claim of a bundle, and whether it holds here.

    ``undecidable``: this machine cannot tell. ``tier`` is how closely it had to agree: to the bit,
    within the manifest's tolerance, or by the cosine. ``check`` is the command that would check
    what is not checked, where there is one.
    """

    claim: str
    status: Literal["true", "false", "undecidable", "not checked"]
    detail: str
    tier: Optional[Literal["exact", "close", "reduced"]] = None
    check: Optional[str] = None


class VerifyOutput(_Output):
    """``vitaie verify``: every claim, checked or said to be unchecked.

    ``holds`` is whether none is false or undecidable.
    """

    path: str
    name: str
    version: str
    content_digest: str
    holds: bool
    claims: list[ClaimOutput]


class ClassAccuracyOutput(_Output):
    """How many images of one class there are, and how many of them are right."""

    index: int
    id: str
    images: int
    top1: int
    top5: int


class EvalOutput(_Output):
    """``vitaie eval``: the record's summary; the predictions are in the file it wrote.

    ``source_top1`` to ``mcnemar_p`` are null for an unpaired measurement; ``agreement`` counts the
    images to which both give the same first class. ``expected`` is published, never measured.
    ``double``: the tests' double made the target, and it ran on no device.
    """

    path: str
    version: str
    output: Optional[str]
    target: str
    double: bool
    target_digest: str
    batch_size: int
    threads: int
    dataset: str
    dataset_digest: str
    images: int
    missing: list[str]
    top1: Rate
    top5: Rate
    source_top1: Optional[Rate]
    source_top5: Optional[Rate]
    paired: Optional[Paired]
    agreement: Optional[int]
    mcnemar_p: Optional[float]
    classes: list[ClassAccuracyOutput]
    expected: list[PublishedAccuracy]


class BenchOutput(_Output):
    """``vitaie bench``: the record's summary; the calls themselves are in the file it wrote.

    ``runs_fps`` is of each fresh process, ``fps`` of all together. ``double``: the tests' double
    made the target, and it ran on no device.
    """

    path: str
    version: str
    output: Optional[str]
    target: str
    double: bool
    target_digest: str
    boundary: Literal["device", "host", "end_to_end"]
    scenario: Literal["single_stream", "offline"]
    protocol: Literal["quick", "full"]
    batch_size: int
    threads: int
    processor: str
    inputs: Literal["photographs", "goldens with seeded noise"]
    images: int
    seed: int
    verdict: Literal["VALID", "INVALID"]
    reasons: list[str]
    fps: float
    runs_fps: list[float]
    calls: int
    latency_ms: dict[str, float]
    variation: float
    load_s: float
    first_call_s: float
    placement: Optional[float]
    peak_mib: float


class ReportedOutput(_Output):
    """One bundle of a report: how many of its claims are there, are false, were not checked.

    ``analyses`` are those of its half precision that the page shows.
    """

    path: str
    name: str
    version: str
    content_digest: str
    holds: bool
    claims: int
    false: int
    not_checked: int
    analyses: int


class ReportOutput(_Output):
    """``vitaie report``: the page that was written, and the verdict on each bundle."""

    output: str
    size: int
    sha256: str
    pictures: int
    bundles: list[ReportedOutput]


class VariantOutput(_Output):
    """One variant that is known, with its published figures for each preprocessing."""

    name: str
    checkpoint: str
    model: Model
    preprocess: list[Preprocess]
    expected: list[Expected]


class VariantsOutput(_Output):
    """``vitaie-build variants``."""

    variants: list[VariantOutput]


class CheckpointOutput(_Output):
    """``vitaie-build checkpoint``: the variant that the arrays are."""

    file: str
    variant: str
    size: int
    sha256: str
    arrays: int
    parameters: int


class CompiledTargetOutput(_Output):
    """A target that was compiled for a device, and how it compares with the source model.

    ``cosine`` is the least, ``distance`` (relative, Euclidean) and the differences the largest, of
    ``images`` goldens and seeded images; ``top1_equal`` and ``top5_equal`` count those with the
    same first class and first five. ``placement`` is the share of operators on the device.
    """

    id: str
    target_digest: str
    double: bool
    soc_version: str
    operators_before: int
    operators_after: int
    operators_outside: list[str]
    placement: Optional[float]
    images: int
    cosine: float
    distance: float
    max_abs_diff: float
    max_rel_diff: float
    top1_equal: int
    top5_equal: int
    tolerance: Tolerance
    message: str


class BundleOutput(_Output):
    """``vitaie-build bundle``: the version that was published, and the verdict it passed.

    ``compiled`` are its targets of a device. ``accuracy`` to ``levels`` are the manifest's: empty
    where nothing was measured.
    """

    path: str
    name: str
    version: str
    content_digest: str
    size: int
    claims: list[ClaimOutput]
    compiled: list[CompiledTargetOutput]
    accuracy: list[AccuracyRecord]
    performance: list[PerformanceRecord]
    gates: list[GateRecord]
    levels: list[LevelRecord]


class CompileOutput(BundleOutput):
    """``vitaie-build compile``: as ``bundle``; records of the version before are among them."""


class InvalidOutput(_Output):
    """A record of speed that no gate accepts, by its evidence's path, and why."""

    evidence: str
    reasons: list[str]


class AttachOutput(_Output):
    """``vitaie-build attach``: the version that was published, and the evidence that is new in it.

    ``evidence`` are paths inside the version's folder; ``invalid`` those of them that do not count.
    """

    path: str
    name: str
    version: str
    content_digest: str
    size: int
    evidence: list[str]
    invalid: list[InvalidOutput]
    claims: list[ClaimOutput]


class JudgedGateOutput(_Output):
    """One gate, and how it was decided."""

    require: str
    verdict: Literal["pass", "fail", "undecidable"]
    reason: str
    images_needed: Optional[int]


class GateOutput(_Output):
    """``vitaie-build gate``: how the kept evidence decides each gate now.

    ``accuracy`` and ``performance`` are the evidence's paths inside the bundle, null where there
    is none; ``others`` are those that the bundle keeps of the target too, and that were not judged
    by. ``images_needed`` is about how many images would decide a drop that these do not.
    ``double``: the tests' double made the target; what is judged is of no device.
    """

    path: str
    version: str
    target: str
    double: bool
    accuracy: Optional[str]
    performance: Optional[str]
    others: list[str]
    verdict: Literal["pass", "fail", "undecidable"]
    gates: list[JudgedGateOutput]


class RefusalReport(_Output):
    """``report-….json``: why ``vitaie-build bundle`` published nothing, and what was measured.

    ``evidence`` are the files beside it. ``verdict`` is ``pass`` where no gate was missed and still
    no optimisation level could be chosen, because no measurement of speed was VALID.
    """

    name: str
    content_digest: str
    target: str
    verdict: Literal["pass", "fail", "undecidable"]
    gates: tuple[GateRecord, ...]
    levels: tuple[LevelRecord, ...]
    evidence: tuple[str, ...]


class LayerOutput(_Output):
    """One value of the model: magnitudes in float32, and how its rounded values compare.

    ``square`` and ``square_sum`` are of a LayerNorm's deviations, ``score`` of a softmax; what is
    not finite is null.
    """

    name: str
    largest: Optional[float]
    headroom: Optional[float]
    square: Optional[float]
    square_sum: Optional[float]
    score: Optional[float]
    overflows: int
    cosine: float
    risks: list[str]


class FlipOutput(_Output):
    """An image whose first class changes; ``half`` is -1 when its logits are not finite."""

    image: str
    exact: int
    half: int
    margin: float


class AnalyzeOutput(_Output):
    """``vitaie-build analyze``: half precision emulated on the CPU, under ``assumptions``.

    ``content_digest`` is the bundle's, whose model and preprocessing these are.
    """

    path: str
    name: str
    version: str
    content_digest: str
    inputs: Literal["goldens", "dataset"]
    images: int
    assumptions: list[str]
    least_cosine: float
    first_wrong: Optional[str]
    top1_equal: int
    flips: list[FlipOutput]
    layers: list[LayerOutput]


class FindingOutput(_Output):
    """One published number, and what follows from the evidence; null where nothing does."""

    bundle: str
    version: str
    claim: str
    published: Union[bool, int, float, str, None]
    recomputed: Union[bool, int, float, str, None]
    status: Literal["follows", "does not follow", "not checked", "not claimed"]
    why: str


class AuditOutput(_Output):
    """``vitaie-build audit``: every published number; ``holds`` is whether each follows."""

    path: str
    versions: int
    holds: bool
    findings: list[FindingOutput]


class TargetOutput(_Output):
    """One target, and what this machine still needs for it: nothing when it is empty."""

    id: str
    builds: bool
    runs: bool
    needs: str


class GapOutput(_Output):
    """What an Ascend target lacks here, and what to do about it."""

    gap: str
    do: str


class ProbeOutput(_Output):
    """A tiny model compiled and run in a process of its own, which ends however it ends.

    ``error`` is empty when its logits are the CPU's; times are in seconds and say nothing of speed.
    """

    error: str
    compile_s: Optional[float]
    run_s: Optional[float]
    difference: Optional[float]


class AscendOutput(_Output):
    """What the machine has of the Ascend family; ``double``: the package is the tests' own."""

    package: Optional[str]
    package_version: Optional[str]
    double: bool
    cann: str
    toolkit: Optional[str]
    nodes: list[str]
    npu_smi: Optional[str]
    socs: list[str]
    environment: dict[str, str]
    gaps: list[GapOutput]
    probe: Optional[ProbeOutput]


class DoctorOutput(_Output):
    """``vitaie-build doctor``."""

    python: str
    machine: str
    processors: int
    packages: dict[str, str]
    devices: list[str]
    ascend: AscendOutput
    targets: list[TargetOutput]
