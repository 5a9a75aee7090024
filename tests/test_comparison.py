"""When a compiled target is the source model, and with what figures it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from vitaie.manifests.manifest import Tolerance
from vitaie.runtime._comparison import compare, describe, message, same

FULL = Tolerance(max_rel_diff=1e-3, cosine=None)
HALF = Tolerance(max_rel_diff=0.05, cosine=0.999)

Logits = NDArray[np.float32]


def logits(*numbers: float) -> Logits:
    return np.array(numbers, np.float32)


SOURCE = logits(4.0, 1.0, 0.5, -2.0, 0.25, -1.0)


def test_the_figures_are_those_of_the_worst_image() -> None:
    other = SOURCE + logits(0.1, 0, 0, 0, 0, 0)
    found = compare([SOURCE, other], [SOURCE, SOURCE], HALF)
    length = math.sqrt(float(np.square(SOURCE.astype(np.float64)).sum()))
    assert found.images == found.top1 == found.top5 == 2
    assert found.max_abs_diff == pytest.approx(0.1, rel=1e-5)
    assert found.max_rel_diff == pytest.approx(0.025, rel=1e-5)
    assert found.distance == pytest.approx(0.1 / length, rel=1e-5)
    dot = float(SOURCE.astype(np.float64) @ other.astype(np.float64))
    norm = float(np.linalg.norm(other.astype(np.float64)))
    assert found.cosine == pytest.approx(dot / length / norm, rel=1e-9)
    assert found.flipped == 0


NEAR_TIE = logits(4.0, 3.9, 0, 0, 0, 0)

CASES: dict[str, tuple[Logits, Logits, Tolerance, bool]] = {
    "equal": (SOURCE, SOURCE, FULL, True),
    "in another order of sums": (SOURCE * np.float32(1.0005), SOURCE, FULL, True),
    "rounded, where all should be there": (SOURCE * np.float32(1.01), SOURCE, FULL, False),
    "rounded": (SOURCE * np.float32(1.01), SOURCE, HALF, True),
    "longer, which no cosine sees": (SOURCE * np.float32(1.046), SOURCE, HALF, False),
    "one logit off by more than 5%": (SOURCE + logits(0, 0.3, 0, 0, 0, 0), SOURCE, HALF, False),
    "another first class, nearly tied": (NEAR_TIE[[1, 0, 2, 3, 4, 5]], NEAR_TIE, HALF, True),
    "another first class": (SOURCE[[1, 0, 2, 3, 4, 5]], SOURCE, HALF, False),
    "not a number": (SOURCE * np.float32(np.nan), SOURCE, HALF, False),
    "overflowed": (SOURCE * np.float32(np.inf), SOURCE, HALF, False),
    "one overflowed, as in the source": (
        logits(np.inf, 1, 1, 1, 1, 1),
        logits(np.inf, 1, 1, 1, 1, 1),
        *(HALF, False),
    ),
    "nothing": (SOURCE * np.float32(0), SOURCE, HALF, False),
    "a tolerance that proves nothing": (
        *(SOURCE, SOURCE, Tolerance(max_rel_diff=0.5, cosine=0.999), False),
    ),
    "an angle that proves nothing": (
        *(SOURCE, SOURCE, Tolerance(max_rel_diff=0.05, cosine=0.9), False),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_target_is_the_source_within_its_tolerance_or_is_not(name: str) -> None:
    got, expected, tolerance, holds = CASES[name]
    found = compare([got], [expected], tolerance)
    assert same(found, tolerance) == holds, describe(found, tolerance)
    assert not math.isnan(found.cosine + found.max_rel_diff)


def test_the_line_is_the_vendors_and_names_the_double() -> None:
    assert message(True) == "[SUCCESS] AIE inference result is the same as JIT!"
    assert message(False) == "[FAILURE] AIE inference result is not the same as JIT!"
    assert message(True, by_double=True).endswith(
        "(made with the tests' double: it ran on no device)"
    )
