"""Re-checking what a bundle claims: its files, and its goldens in every target that runs here."""

from __future__ import annotations

import gc
import hashlib
import math
import os
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, ImageError
from vitaie.runtime import _images, _preprocess
from vitaie.runtime._bundle import Bundle, open_bundle
from vitaie.runtime._model import (
    check_threads,
    choose_target,
    missing_for,
    open_engine,
    read_labels,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Golden, Manifest, Target

_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \(([1-9][0-9]{0,8}),\), \} *\n",
    re.DOTALL,
)
"""What numpy.save writes before the numbers of a float32 [N]; nothing else is read."""

_MAX_TOLERANCE = 1e-3
"""Of fp32: a target that claims to need more proves nothing by its goldens."""

_PUBLISHED = "published figures"
_UNSEEN = {
    "architecture and gflop": "as the card says; not counted from the graph",
    "source checkpoint": "it is not part of the bundle; its sha256 is, to compare",
    _PUBLISHED: "of this variant elsewhere; of these bytes only a measurement says it",
    "toolchain": "what made the bundle cannot be seen in it",
    "credits of the goldens": "who made a picture cannot be seen in it",
}
"""What a bundle says and none of its bytes can show, with the reason."""

UNSEEN = frozenset(_UNSEEN)
"""The claims that are never checked, by whoever has the bundle alone."""

Status = Literal["true", "false", "not checked"]


class Claim(NamedTuple):
    """One thing the bundle says, and whether it was found true here."""

    claim: str
    status: Status
    detail: str


class Verdict(NamedTuple):
    """All claims of a bundle, checked or said to be unchecked."""

    manifest: Manifest
    claims: list[Claim]

    @property
    def holds(self) -> bool:
        """Whether nothing that was checked is false, and something was checked."""
        return all(claim.status != "false" for claim in self.claims)


def verify(
    path: str | os.PathLike[str],
    *,
    target: str = "all",
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
    known: Mapping[str, Sequence[NDArray[np.float32]]] | None = None,
) -> Verdict:
    """Re-check a bundle's files, and its goldens in each target (or the one named).

    What nothing in the bundle can show, such as what built it, is listed as ``not checked``.

    Args:
        path: A bundle's folder, or the folder of its versions (the newest is taken).
        target: A target's id, or ``all`` that run here.
        threads: Threads of the engines.
        progress: Called with each step's name as it starts.
        known: What targets gave on the goldens, float32 [1, classes] each, by target digest, from
            who has just run them: those are compared, not run again.

    Raises:
        BundleError: The bundle does not open: that is false before any claim.
        TargetUnavailable: The target named cannot run here.
    """
    check_threads(threads)
    say = progress or silent
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        wanted = [choose_target(manifest, target)] if target != "all" else list(manifest.targets)
        say("files")
        check_files(bundle)
        read_labels(bundle)
        files = len(manifest.artifacts) + 1
        claims = [Claim("files", "true", f"{files} files, {total_size(manifest):,} bytes")]
        claims.append(check_parameters(manifest))
        say("preprocessing of the goldens")
        tensors, preprocessing = check_golden_stages(bundle)
        claims += preprocessing
        for item in wanted:
            say(f"goldens in {item.id}")
            missing = missing_for(item)
            if missing:
                claims.append(Claim(f"goldens in {item.id}", "not checked", missing))
                continue
            given = (known or {}).get(item.target_digest)
            logits = run_goldens(bundle, item, tensors, threads) if given is None else given
            claims.append(check_logits(bundle, item, logits))
        claims += [
            Claim(f"goldens in {item.id}", "not checked", "another target was asked for")
            for item in manifest.targets
            if item not in wanted
        ]
        claims += [
            Claim(f"{kind}[{index}]", "not checked", "not re-measured")
            for kind, records in (
                ("accuracy", manifest.accuracy),
                ("performance", manifest.performance),
                ("gates", manifest.gates),
                ("levels", manifest.levels),
            )
            for index in range(len(records))
        ]
        figures = manifest.expected.accuracy or manifest.expected.speed
        claims += [
            Claim(claim, "not checked", reason)
            for claim, reason in _UNSEEN.items()
            if figures or claim != _PUBLISHED
        ]
    return Verdict(manifest, claims)


def silent(step: str) -> None:
    """Report no progress."""


def total_size(manifest: Manifest) -> int:
    """Return the bytes of all artifacts."""
    return sum(artifact.size for artifact in manifest.artifacts)


def check_files(bundle: Bundle) -> None:
    """Check every artifact's digest; for a chunked one, of the whole too.

    Raises:
        BundleError: A digest is wrong.
    """
    for artifact in bundle.manifest.artifacts:
        if artifact.chunks:
            begun = bundle.begin(artifact.path)  # its chunks are hashed while the whole is
            digest = hashlib.sha256(begun.data.data).hexdigest()
            if digest != artifact.sha256:
                raise BundleError(
                    "E_BUNDLE_FILE_DIGEST",
                    bundle.folder / artifact.path,
                    expected=artifact.sha256,
                    got=digest,
                )
    bundle.check()


def check_parameters(manifest: Manifest) -> Claim:
    """Compare the number of parameters with that of the weights, each of which is there once."""
    counted = sum(math.prod(weight.shape) for weight in manifest.weights)
    claimed = manifest.model.parameters
    detail = f"{counted:,} in the weights" + (f", {claimed:,} claimed" * (counted != claimed))
    return Claim("parameters", "true" if counted == claimed else "false", detail)


def check_golden_stages(bundle: Bundle) -> tuple[list[NDArray[np.float32]], list[Claim]]:
    """Take each golden through decoding, crop and tensor; return the tensors and one claim each."""
    tensors: list[NDArray[np.float32]] = []
    claims: list[Claim] = []
    for index, golden in enumerate(bundle.manifest.goldens):
        pixels = _decode(bundle, golden.source)
        try:
            crop = _preprocess.crop(pixels, bundle.manifest.preprocess)
        except ImageError as error:
            where = bundle.folder / golden.source
            raise BundleError("E_BUNDLE_GOLDEN", where, got=error) from None
        tensor = _preprocess.tensor(crop, bundle.manifest.preprocess)
        shipped = _decode(bundle, golden.crop)
        size = (golden.height, golden.width, 3)
        wrong = [
            stage
            for stage, got, expected in (
                ("size", pixels.shape, size),
                ("decoded", sha256(pixels.tobytes()), golden.decoded_sha256),
                ("crop", sha256(crop.tobytes()), golden.crop_sha256),
                (golden.crop, sha256(shipped.tobytes()), golden.crop_sha256),
                ("tensor", sha256(tensor.tobytes()), golden.tensor_sha256),
            )
            if got != expected
        ]
        tensors.append(tensor)
        claims.append(
            Claim(
                f"golden {index:02d} preprocessing",
                "false" if wrong else "true",
                f"differs at: {', '.join(wrong)}" if wrong else "decoded, crop and tensor equal",
            )
        )
    return tensors, claims


def _decode(bundle: Bundle, path: str) -> NDArray[np.uint8]:
    """Decode a picture of the bundle's own: one that is none is the bundle's fault."""
    try:
        return _images.decode(bundle.read(path).tobytes())
    except ImageError as error:
        raise BundleError("E_BUNDLE_GOLDEN", bundle.folder / path, got=error) from None


def run_goldens(
    bundle: Bundle, target: Target, tensors: list[NDArray[np.float32]], threads: int | None
) -> list[NDArray[np.float32]]:
    """Return a target's logits, float32 [1, classes], of each golden's tensor."""
    engine = open_engine(bundle, target, threads)
    logits = [run(engine, tensor[np.newaxis], bundle.manifest) for tensor in tensors]
    del engine
    gc.collect()  # one set of weights at a time; torch's sit in reference cycles
    return logits


def check_logits(bundle: Bundle, target: Target, logits: Sequence[NDArray[np.float32]]) -> Claim:
    """Compare a target's logits on the goldens, float32 [1, classes] each, with those that ship."""
    worst, flipped, tolerance = 0.0, 0, target.tolerance.max_rel_diff
    for golden, got in zip(bundle.manifest.goldens, logits):
        expected = golden_logits(bundle, golden)
        worst = max(worst, relative_difference(got[0], expected))
        allowed = tolerance * float(np.abs(expected).max())
        flipped += int(got[0].argmax()) != golden.top1 and golden.margin > 2 * allowed
    agreement = target.agreement
    holds = (
        worst <= tolerance <= _MAX_TOLERANCE
        and flipped == 0
        and agreement.images == len(bundle.manifest.goldens) >= agreement.top1_equal
        and agreement.max_rel_diff <= tolerance
    )
    return Claim(
        f"goldens in {target.id}",
        "true" if holds else "false",
        f"largest difference {worst:.1e} of the largest logit, {tolerance:.0e} allowed",
    )


def golden_logits(bundle: Bundle, golden: Golden) -> NDArray[np.float32]:
    """Return a golden's logits, float32 [classes], checked against its own fields.

    Raises:
        BundleError: The file is not what the golden says.
    """
    where = str(bundle.folder / golden.logits)
    classes = bundle.manifest.model.classes
    data = bundle.read(golden.logits).tobytes()
    header = _NPY.match(data)
    if (
        header is None
        or header.end() != 10 + int.from_bytes(header[1], "little")
        or int(header[2]) != classes
        or len(data) != header.end() + 4 * classes
    ):
        expected = f".npy of float32 [{classes}]"
        raise BundleError("E_BUNDLE_GOLDEN", where, expected=expected, got=data[:128])
    logits: NDArray[np.float32] = np.frombuffer(data, "<f4", offset=header.end()).astype(np.float32)
    first, second = (int(index) for index in np.argsort(-logits, kind="stable")[:2])
    margin = float(logits[first]) - float(logits[second])
    facts = (sha256(data[header.end() :]), first, second, margin)
    claimed = (golden.logits_sha256, golden.top1, golden.top2, golden.margin)
    if facts != claimed:
        raise BundleError("E_BUNDLE_GOLDEN", where, expected=claimed, got=facts)
    return logits


def relative_difference(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest absolute difference, relative to the largest absolute expected logit.

    Infinity when anything is not finite, so that no comparison passes by NaN.
    """
    scale = float(np.abs(expected).max())
    difference = float(np.abs(got.astype(np.float64) - expected).max())
    if not np.isfinite(difference) or scale == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / scale
