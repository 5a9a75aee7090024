"""What the commands print with ``--json``: one document each, errors included.

The JSON Schemas generated from these models are committed in ``manifests/schema/``.
"""

from __future__ import annotations

from typing import Literal, Optional

from pydantic import BaseModel, ConfigDict

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
    """``vitaie classify``."""

    path: str
    version: str
    target: str
    images: list[ImageOutput]


class PreprocessOutput(_Output):
    """``vitaie preprocess``: the file written, and the digest of the array's bytes."""

    output: str
    dtype: Literal["float32"]
    shape: list[int]
    sha256: str


class ClaimOutput(_Output):
    """One claim of a bundle, and whether it holds here."""

    claim: str
    status: Literal["true", "false", "not checked"]
    detail: str


class VerifyOutput(_Output):
    """``vitaie verify``: every claim, checked or said to be unchecked."""

    path: str
    name: str
    version: str
    content_digest: str
    holds: bool
    claims: list[ClaimOutput]


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


class BundleOutput(_Output):
    """``vitaie-build bundle``: the version that was published, and the verdict it passed."""

    path: str
    name: str
    version: str
    content_digest: str
    size: int
    claims: list[ClaimOutput]


class TargetOutput(_Output):
    """One target, and what this machine still needs for it: nothing when it is empty."""

    id: str
    builds: bool
    runs: bool
    needs: str


class DoctorOutput(_Output):
    """``vitaie-build doctor``."""

    python: str
    machine: str
    processors: int
    packages: dict[str, str]
    devices: list[str]
    targets: list[TargetOutput]
