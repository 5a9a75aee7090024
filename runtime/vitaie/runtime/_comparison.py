"""A compiled target beside the source model, on the goldens and on images that a seed gives.

Whether the two are "the same" is what the vendor's sample asks of a compiled module, and it is
asked here with figures: the least cosine, the largest relative Euclidean distance and difference,
and on how many images the first class, and the first five, agree. What may differ is the target's
``tolerance``, which the manifest records: no difference above ``max_rel_diff`` of the largest
logit, and no other first class unless the source's own margin is thinner than twice that; where a
least cosine is given too, a distance of at most what vectors of one length have at that angle,
since a cosine does not see length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vitaie.runtime import _images, _preprocess
from vitaie.runtime._claim import Claim, Status, Tier
from vitaie.runtime._goldens import (
    LEAST_COSINE,
    MAX_TOLERANCE,
    cosine,
    golden_logits,
    relative_difference,
    run_goldens,
    with_noise,
)
from vitaie.runtime._model import DOUBLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Target, Tolerance
    from vitaie.runtime._bundle import Bundle

SEEDED = 8
"""Images beside the goldens: each is a golden's crop with noise of its own."""

_SEED = 0
_CLAIM = "comparison in "


class Images(NamedTuple):
    """What is compared on: tensors, float32 [3, S, S], and the source's logits, float32 [classes].

    The goldens come first, and their logits are those that ship.
    """

    tensors: list[NDArray[np.float32]]
    expected: list[NDArray[np.float32]]


class Comparison(NamedTuple):
    """How a target's logits differ from the source's.

    Attributes:
        images: How many were compared.
        cosine: The least, of one image; -1 where it is not defined.
        distance: The largest relative Euclidean distance.
        max_abs_diff: The largest difference of two logits.
        max_rel_diff: The same, relative to the largest absolute logit of its image.
        top1: Images with the same first class.
        top5: Images with the same first five classes, in any order.
        flipped: Images of another first class although the source's margin is beyond the tolerance.
    """

    images: int
    cosine: float
    distance: float
    max_abs_diff: float
    max_rel_diff: float
    top1: int
    top5: int
    flipped: int


def read_images(bundle: Bundle, goldens: Sequence[NDArray[np.float32]]) -> Images:
    """Return the goldens and seeded images, with the source model's logits on them.

    Args:
        bundle: An open bundle whose files were checked.
        goldens: The goldens' tensors, float32 [3, S, S] each.

    Raises:
        TargetUnavailable: torch, which the source model needs, is not installed.
        BundleError: The source model does not load, or a golden's logits are not what it says.
    """
    manifest = bundle.manifest
    seeded = _seeded(bundle)
    source = next(target for target in manifest.targets if target.backend == "torchscript")
    rows = run_goldens(bundle, source, seeded, None).logits
    expected = [golden_logits(bundle, golden) for golden in manifest.goldens]
    return Images([*goldens, *seeded], [*expected, *(row[0] for row in rows)])


def compare(
    logits: Sequence[NDArray[np.float32]],
    expected: Sequence[NDArray[np.float32]],
    tolerance: Tolerance,
) -> Comparison:
    """Compare logits, float32 [classes] each, with what was expected of the same images.

    Logits that are not finite are infinitely far from any.
    """
    pairs = list(zip(logits, expected))
    with np.errstate(invalid="ignore", over="ignore"):
        return Comparison(
            images=len(pairs),
            cosine=min(cosine(got, wanted) for got, wanted in pairs),
            distance=max(_distance(got, wanted) for got, wanted in pairs),
            max_abs_diff=max(_largest_difference(got, wanted) for got, wanted in pairs),
            max_rel_diff=max(relative_difference(got, wanted) for got, wanted in pairs),
            top1=sum(_first(got, 1) == _first(wanted, 1) for got, wanted in pairs),
            top5=sum(_first(got, 5) == _first(wanted, 5) for got, wanted in pairs),
            flipped=sum(_flipped(got, wanted, tolerance.max_rel_diff) for got, wanted in pairs),
        )


def same(found: Comparison, tolerance: Tolerance) -> bool:
    """Say whether a target is the source model, as far as its tolerance goes."""
    reduced = tolerance.cosine is not None
    least = 1.0 if tolerance.cosine is None else tolerance.cosine
    return (
        found.max_rel_diff <= tolerance.max_rel_diff
        and tolerance.max_rel_diff <= MAX_TOLERANCE["reduced" if reduced else "close"]
        and found.flipped == 0
        and (not reduced or found.cosine >= least >= LEAST_COSINE)
        and (not reduced or found.distance <= math.sqrt(2 - 2 * least))
    )


def describe(found: Comparison, tolerance: Tolerance) -> str:
    """Return the figures, each with what is allowed."""
    least, most = "", ""
    if tolerance.cosine is not None:
        least = f" (at least {tolerance.cosine:g})"
        most = f" (at most {math.sqrt(2 - 2 * tolerance.cosine):.1e})"
    return (
        f"cosine {found.cosine:.6f}{least}, relative Euclidean distance"
        f" {found.distance:.1e}{most}, largest difference {found.max_abs_diff:.1e},"
        f" {found.max_rel_diff:.1e} of the largest logit (at most {tolerance.max_rel_diff:.0e}),"
        f" top-1 {found.top1} and top-5 {found.top5} of {found.images} images alike"
        + f", {found.flipped} of them beyond the tolerance"
        * bool(found.flipped)
    )


def message(is_same: bool, *, by_double: bool = False) -> str:
    """Return the line that the vendor's sample prints; of the tests' double, with that word."""
    told = f" ({DOUBLE})" * by_double
    if is_same:
        return f"[SUCCESS] AIE inference result is the same as JIT!{told}"
    return f"[FAILURE] AIE inference result is not the same as JIT!{told}"


def claim_of(target: Target, found: Comparison, tier: Tier) -> Claim:
    """Return a comparison as a claim of the bundle."""
    status: Status = "true" if same(found, target.tolerance) else "false"
    return Claim(f"{_CLAIM}{target.id}", status, describe(found, target.tolerance), tier)


def message_of(claim: Claim) -> str:
    """Return the vendor's line for a claim that is a comparison; nothing for any other."""
    compared = claim.claim.startswith(_CLAIM) and claim.status in ("true", "false")
    return message(claim.status == "true") if compared else ""


def _seeded(bundle: Bundle) -> list[NDArray[np.float32]]:
    """Return the goldens' crops with noise, as tensors."""
    chance = np.random.default_rng(_SEED)
    goldens, spec = bundle.manifest.goldens, bundle.manifest.preprocess
    paths = [goldens[number % len(goldens)].crop for number in range(SEEDED)]
    pictures = [_images.decode(bundle.read(path).tobytes()) for path in paths]
    return [_preprocess.tensor(with_noise(pixels, chance), spec) for pixels in pictures]


def _distance(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the Euclidean distance over the length of what was expected; infinite if undefined."""
    difference = float(np.linalg.norm(got.astype(np.float64) - expected))
    length = float(np.linalg.norm(expected.astype(np.float64)))
    if not np.isfinite(difference) or length == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / length


def _largest_difference(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    difference = float(np.abs(got - expected).max())
    return difference if np.isfinite(difference) else float("inf")


def _first(logits: NDArray[np.float32], count: int) -> frozenset[int]:
    order: list[int] = np.argsort(-logits, kind="stable")[:count].tolist()
    return frozenset(order)


def _flipped(got: NDArray[np.float32], expected: NDArray[np.float32], allowed: float) -> bool:
    margin = float(expected.max()) - float(expected[int(got.argmax())])
    return margin > 2 * allowed * float(np.abs(expected).max())
