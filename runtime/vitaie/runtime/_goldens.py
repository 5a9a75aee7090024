"""Goldens: real photographs, and what a target must give on them again.

How closely a target's logits must agree depends on how like this machine is to the one that built
the bundle. On the same processor, with the same engine and threads, they are the same bits
(``exact``). Elsewhere sums are taken in another order, and the manifest's tolerance says by how
much the logits may differ (``close``), or in reduced precision by which angle (``reduced``); the
first class changes only where the golden's margin is thinner than that.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, ImageError
from vitaie.runtime import _environment, _images, _preprocess
from vitaie.runtime._bytes import available_cpus
from vitaie.runtime._claim import Claim, Tier
from vitaie.runtime._model import open_engine, run
from vitaie.runtime._torchscript import threads_restored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.contents import Agreement
    from vitaie.manifests.manifest import Golden, Target
    from vitaie.runtime._bundle import Bundle

_TOGETHER = 2
"""Which golden is the last of those that are run as one batch too."""

_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \(([1-9][0-9]{0,8}),\), \} *\n",
    re.DOTALL,
)
"""What numpy.save writes before the numbers of a float32 [N]; nothing else is read."""

_NOISE = 16  # of 255: how far a pixel of a golden is moved at most
MAX_TOLERANCE = {"close": 1e-3, "reduced": 0.1}
_ROUNDING = 1e-6  # of a difference of float32 logits, which a ratio is taken of in doubles
LEAST_COSINE = 0.99
"""A target that claims to need more than these proves nothing by its goldens."""


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
            raise BundleError("E_BUNDLE_GOLDEN", where, got=error.at(error.where, "")) from None
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
        got = error.at(error.where, "")  # what a user may do about an image of their own
        raise BundleError("E_BUNDLE_GOLDEN", bundle.folder / path, got=got) from None


def is_like_the_builder(target: Target) -> bool:
    """Say whether this machine gives a target's logits to the bit, given as many threads.

    Tried in fresh processes: ONNX Runtime gave the same bits with any number of threads,
    TorchScript with the same number (docs/verifying.md). The processor's model counts beside its
    instruction sets, since libraries choose by it too. Of a device it is not known, so never.
    """
    agreement, here = target.agreement, _environment.processor()
    versions = {name: _environment.version(name) for name in agreement.packages}
    return (
        target.device == "cpu"
        and (here.model, here.features) == (agreement.processor, agreement.features)
        and bool(versions)
        and versions == agreement.packages
    )


def tier_here(target: Target, threads: int | None) -> tuple[Tier, int | None]:
    """Return how a target's logits must agree here, and by how many threads they are computed.

    With no number given they are as many as when the target was built, where the same bits are
    then to be expected.
    """
    like = is_like_the_builder(target)
    if threads is None and like:
        threads = target.agreement.threads
    exact = like and threads == target.agreement.threads
    return "exact" if exact else tier_elsewhere(target), threads


class Ran(NamedTuple):
    """A target's logits, float32 [1, classes] each, and how they differ in a batch, relatively."""

    logits: list[NDArray[np.float32]]
    mixed: float


def run_goldens(
    bundle: Bundle,
    target: Target,
    tensors: list[NDArray[np.float32]],
    threads: int | None,
    device_id: int = 0,
) -> Ran:
    """Return a target's logits, float32 [1, classes], of each golden's tensor.

    One at a time, or side by side where each has fewer threads than there are processors; and the
    first few as one batch, in which a graph that mixes its images gives others. ``device_id`` is
    the device's number, for a target that runs on one, whose modules are compared by themselves.
    """
    at_once = 1 if threads is None else max(1, available_cpus() // threads)
    torch = target.backend == "torchscript"
    with threads_restored() if torch else nullcontext():
        engine = open_engine(bundle, target, threads, device_id)
        with ThreadPoolExecutor(at_once, "vitaie-goldens") as pool:
            running = [pool.submit(run, engine, t[np.newaxis], bundle.manifest) for t in tensors]
            logits = [each.result() for each in running]
        few = slice(_TOGETHER, None, -1)  # in another order
        mixed = 0.0
        if target.device == "cpu" and tensors[few]:
            rows = run(engine, np.stack(tensors[few]), bundle.manifest)
            pairs = zip(rows, logits[few])
            mixed = max(relative_difference(row, alone[0]) for row, alone in pairs)
        del engine, running
    gc.collect()  # one set of weights at a time; torch's sit in reference cycles
    return Ran(logits, mixed)


def tier_elsewhere(target: Target) -> Tier:
    """Return how a target's logits must agree on a machine that the builder's is not like."""
    return "close" if target.tolerance.cosine is None else "reduced"


def check_logits(
    bundle: Bundle,
    target: Target,
    logits: Sequence[NDArray[np.float32]],
    tier: Tier | None = None,
    mixed: float = 0.0,
) -> Claim:
    """Compare a target's logits on the goldens, float32 [1, classes] each, with those that ship.

    ``mixed`` is the largest relative difference between those of a batch and of each by itself.

    In the tier ``exact`` they must also be, to the bit, what the target gave when it was built;
    without a tier, they are held to what any machine must give.
    """
    elsewhere, tolerance = tier_elsewhere(target), target.tolerance
    goldens = bundle.manifest.goldens
    shipped = [golden_logits(bundle, golden) for golden in goldens]
    pairs = [(got[0], expected) for got, expected in zip(logits, shipped)]
    worst = max(relative_difference(got, expected) for got, expected in pairs)
    least = min(1.0, *(cosine(got, expected) for got, expected in pairs))
    allowed = [tolerance.max_rel_diff * float(np.abs(expected).max()) for expected in shipped]
    equal = [int(got.argmax()) == golden.top1 for (got, _), golden in zip(pairs, goldens)]
    thin = [golden.margin <= 2 * most for golden, most in zip(goldens, allowed)]
    flipped = sum(not same and not near for same, near in zip(equal, thin))
    agreement = target.agreement
    near = (
        worst <= tolerance.max_rel_diff
        if tolerance.cosine is None
        else least >= tolerance.cosine >= LEAST_COSINE
    )
    holds = (
        near
        and mixed <= tolerance.max_rel_diff
        and tolerance.max_rel_diff <= MAX_TOLERANCE[elsewhere]
        and flipped == 0
        and agreement.images == len(goldens) >= agreement.top1_equal >= len(goldens) - sum(thin)
        and agreement.max_rel_diff <= tolerance.max_rel_diff
        and _possible(agreement, goldens, shipped)
    )
    detail = (
        f"largest difference {worst:.1e} of the largest logit, {tolerance.max_rel_diff:.0e} allowed"
        if tolerance.cosine is None
        else f"cosine {least:.6f}, at least {tolerance.cosine:g} needed"
    )
    if mixed > tolerance.max_rel_diff:
        detail += f"; {mixed:.1e} between a batch and each by itself"
    if tier == "exact":
        digests = tuple(sha256(got[0].astype("<f4", copy=False).tobytes()) for got in logits)
        same = digests == agreement.logits_sha256
        detail += "" if same else "; not the bits that it gave on such a machine when it was built"
        here = (_largest_difference(pairs), worst, sum(equal))
        claimed = (agreement.max_abs_diff, agreement.max_rel_diff, agreement.top1_equal)
        told = same and here != claimed
        detail += f"; agreement says {claimed}, and it is {here}" if told else ""
        holds = holds and same and not told
    return Claim(f"goldens in {target.id}", "true" if holds else "false", detail, tier or elsewhere)


def _possible(
    agreement: Agreement, goldens: Sequence[Golden], shipped: Sequence[NDArray[np.float32]]
) -> bool:
    """Say whether the largest difference can be what it is said to be, and is where bits differ."""
    same = agreement.logits_sha256 == tuple(golden.logits_sha256 for golden in goldens)
    if agreement.max_abs_diff == 0 and not same:
        return False
    scales = [float(np.abs(expected).max()) for expected in shipped]
    low, high = (agreement.max_rel_diff * scale for scale in (min(scales), max(scales)))
    return low * (1 - _ROUNDING) <= agreement.max_abs_diff <= high * (1 + _ROUNDING)


def _largest_difference(pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> float:
    return max(float(np.abs(got - expected).max()) for got, expected in pairs)


def cosine(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the cosine of two vectors of logits; -1 when it is not defined."""
    one, other = got.astype(np.float64), expected.astype(np.float64)
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    found = float(one @ other) / lengths if lengths else -1.0
    return found if np.isfinite(found) else -1.0


def with_noise(pixels: NDArray[np.uint8], chance: np.random.Generator) -> NDArray[np.uint8]:
    """Return a picture, uint8 RGB, each of whose values is moved a little: another, and alike."""
    noise = chance.integers(-_NOISE, _NOISE + 1, pixels.shape, np.int16)
    noisy: NDArray[np.uint8] = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return noisy


class GoldenFacts(NamedTuple):
    """What a golden's logits come to: the names are the manifest's."""

    logits_sha256: str
    top1: int
    top2: int
    margin: float


def golden_facts(bundle: Bundle, golden: Golden) -> GoldenFacts:
    """Return what a golden's logits come to.

    Raises:
        BundleError: The file is no ``.npy`` of float32 [classes].
    """
    logits = _read_logits(bundle, golden)
    first, second = (int(index) for index in np.argsort(-logits, kind="stable")[:2])
    margin = float(logits[first]) - float(logits[second])
    return GoldenFacts(sha256(logits.astype("<f4", copy=False).tobytes()), first, second, margin)


def golden_logits(bundle: Bundle, golden: Golden) -> NDArray[np.float32]:
    """Return a golden's logits, float32 [classes], checked against its own fields.

    Raises:
        BundleError: The file is not what the golden says.
    """
    facts = golden_facts(bundle, golden)
    claimed = GoldenFacts(golden.logits_sha256, golden.top1, golden.top2, golden.margin)
    for name, got, expected in zip(GoldenFacts._fields, facts, claimed):
        if got != expected:
            where = bundle.folder / golden.logits
            raise BundleError("E_BUNDLE_GOLDEN", where, field=name, expected=expected, got=got)
    return _read_logits(bundle, golden)


def _read_logits(bundle: Bundle, golden: Golden) -> NDArray[np.float32]:
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
        got = f"{len(data)} bytes of something else"
        raise BundleError("E_BUNDLE_GOLDEN", where, expected=expected, got=got)
    logits: NDArray[np.float32] = np.frombuffer(data, "<f4", offset=header.end()).astype(np.float32)
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
