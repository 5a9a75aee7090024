"""The arithmetic of claims, against SciPy, against enumeration, and against its own definition."""

from __future__ import annotations

import importlib
import math
import statistics as standard
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vitaie.manifests.statistics import (
    MINIMUM_COUNTS,
    coefficient_of_variation,
    drop_bounds,
    images_needed,
    mcnemar_exact,
    noninferiority,
    percentile,
    percentiles,
    stability,
    tango_z,
    wilson95,
)

Z95 = standard.NormalDist().inv_cdf(0.95)
quick = settings(deadline=None, database=None)


def scipy(module: str) -> Any:
    return importlib.import_module(f"scipy.{module}")


class Cells(NamedTuple):
    """Images, right in the source only, right in the target only."""

    n: int
    b: int
    c: int


@st.composite
def cells(draw: st.DrawFn, most: int = 60_000) -> Cells:
    n = draw(st.integers(1, most))
    b = draw(st.integers(0, n))
    return Cells(n, b, draw(st.integers(0, n - b)))


@st.composite
def count_of(draw: st.DrawFn, most: int) -> tuple[int, int]:
    n = draw(st.integers(1, most))
    return draw(st.integers(0, n)), n


MARGINS = st.floats(0.001, 0.5)
DROPS = st.floats(-0.95, 0.95)
TIMES = st.floats(0.01, 100)


# Wilson


@quick
@given(count_of(100_000))
def test_the_wilson_interval_is_scipys(counts: tuple[int, int]) -> None:
    count, n = counts
    theirs = scipy("stats").binomtest(count, n).proportion_ci(0.95, method="wilson")
    ours = wilson95(count, n)
    assert ours == pytest.approx((100 * theirs.low, 100 * theirs.high), rel=1e-12, abs=1e-9)


@quick
@given(count_of(2**53))
@example((3616820743936340, 3616820743936340))
def test_the_wilson_interval_holds_the_percentage_whatever_the_rounding(
    counts: tuple[int, int],
) -> None:
    low, high = wilson95(*counts)
    assert 0 <= low <= 100 * counts[0] / counts[1] <= high <= 100


def test_the_wilson_interval_ends_at_nothing_and_at_all() -> None:
    for n in range(1, 1_000):
        assert wilson95(0, n)[0] == 0
        assert wilson95(n, n)[1] == 100


@pytest.mark.parametrize(("count", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_counts_that_cannot_be_have_no_interval(count: int, n: int) -> None:
    with pytest.raises(ValueError, match=str(count)):
        wilson95(count, n)


# Tango's score test


@pytest.mark.parametrize(
    ("counts", "d", "z"),
    [
        (Cells(100, 0, 0), 0.03, -1.7586),
        (Cells(100, 1, 0), 0.03, -1.1724),
        (Cells(5153, 53, 0), 0.005, 5.2057),
    ],
)
def test_tangos_statistic_has_its_known_values(counts: Cells, d: float, z: float) -> None:
    assert tango_z(*counts, d) == pytest.approx(z, abs=5e-5)


def likeliest_rate(counts: Cells, d: float) -> float:
    """Solve for the target-only rate that makes the counts likeliest, when the drop is d."""
    n, b, c = counts
    neither = n - b - c

    def slope(t: float) -> float:
        rising = (b / (t + d) if b else 0.0) + (c / t if c else 0.0)
        return rising - (2 * neither / (1 - 2 * t - d) if neither else 0.0)

    low, high = max(0.0, -d), (1 - d) / 2
    inside = (high - low) * 1e-13
    if slope(low + inside) <= 0:
        return low
    if slope(high - inside) >= 0:
        return high
    solved: float = scipy("optimize").brentq(slope, low + inside, high - inside, xtol=1e-16)
    return solved


@quick
@given(cells(), DROPS)
@example(Cells(5153, 53, 0), 0.005)
@example(Cells(50, 0, 50), 0.3)
def test_tangos_statistic_is_the_score_at_the_constrained_maximum_likelihood(
    counts: Cells, d: float
) -> None:
    assume(abs(d) > 1e-6)
    n, b, c = counts
    t = likeliest_rate(counts, d)
    variance = n * (2 * t + d - d * d)
    assert tango_z(n, b, c, d) == pytest.approx((b - c - n * d) / math.sqrt(variance), rel=1e-5)


@quick
@given(cells(), DROPS)
def test_exchanging_the_models_turns_the_statistic_round(counts: Cells, d: float) -> None:
    n, b, c = counts
    assert tango_z(n, b, c, d) == pytest.approx(-tango_z(n, c, b, -d), rel=1e-6, abs=1e-6)


@quick
@given(cells(), DROPS, DROPS)
def test_the_statistic_rises_with_b_and_falls_with_c_and_with_the_drop(
    counts: Cells, d: float, other: float
) -> None:
    """The exact test rests on the first two, the bounds on the third."""
    n, b, c = counts
    z = tango_z(n, b, c, d)
    slack = 1e-6 * (1 + abs(z))
    if b + c < n:
        assert tango_z(n, b + 1, c, d) >= z - slack
        assert tango_z(n, b, c + 1, d) <= z + slack
    if other > d:
        assert tango_z(n, b, c, other) <= z + slack


def test_the_statistic_is_nought_when_nothing_disagrees_and_the_drop_is_nought() -> None:
    assert tango_z(100, 0, 0, 0.0) == 0
    assert tango_z(100, 9, 7, 0.0) == pytest.approx(2 / 4)  # McNemar's


@quick
@given(cells())
def test_the_score_bounds_are_where_the_statistic_is_1_645(counts: Cells) -> None:
    n, b, c = counts
    low, high = drop_bounds(n, b, c)
    assert low <= (b - c) / n <= high
    for bound, z in ((low, Z95), (high, -Z95)):
        if abs(bound) < 0.999:
            assert tango_z(n, b, c, bound) == pytest.approx(z, abs=1e-4)


@pytest.mark.parametrize("counts", [Cells(0, 0, 0), Cells(5, -1, 0), Cells(5, 3, 3)])
def test_cells_that_cannot_be_are_refused(counts: Cells) -> None:
    for judge in (tango_z, noninferiority, images_needed):
        with pytest.raises(ValueError, match=" of "):
            judge(*counts, 0.1)
    with pytest.raises(ValueError, match=" of "):
        drop_bounds(*counts)


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.0, math.nan])
def test_a_margin_is_above_0_and_below_1(margin: float) -> None:
    for judge in (noninferiority, images_needed):
        with pytest.raises(ValueError, match="margin"):
            judge(100, 1, 1, margin)
    with pytest.raises(ValueError, match="drop"):
        tango_z(100, 1, 1, 1.0)


# Non-inferiority


def test_a_drop_is_shown_below_shown_above_or_neither() -> None:
    assert noninferiority(5153, 20, 15, 0.005) == "pass"
    assert noninferiority(5153, 53, 0, 0.005) == "fail"
    assert noninferiority(5153, 25, 5, 0.005) == "undecidable"


@pytest.mark.parametrize("images", [1, 10, 97])
def test_silence_on_few_images_is_no_pass(images: int) -> None:
    assert noninferiority(images, 0, 0, 0.003) == "undecidable"


def test_when_nothing_disagrees_the_margin_asks_for_as_many_images_as_chance_does() -> None:
    """At a drop of 0.3 points, 997 images all agree with a chance of 5.003%; 998 with 4.99%."""
    assert 0.997**997 > 0.05 > 0.997**998
    assert tango_z(900, 0, 0, 0.003) < -Z95  # the score test alone would pass it
    assert [n for n in range(890, 1010) if noninferiority(n, 0, 0, 0.003) == "pass"][0] == 998


def probability(region: list[Cells], d: float, t: float) -> float:
    """Return the chance of the region, by enumeration, at a drop d and a target-only rate t."""
    total = 0.0
    for n, b, c in region:
        ways = math.comb(n, b) * math.comb(n - b, c)
        total += ways * (t + d) ** b * t**c * max(0.0, 1 - 2 * t - d) ** (n - b - c)
    return total


@pytest.mark.parametrize(("n", "d"), [(5, 0.15), (12, 0.3), (20, 0.1), (25, 0.03)])
def test_at_the_margin_at_most_5_percent_pass_or_fail_where_the_score_test_has_more(
    n: int, d: float
) -> None:
    every = [Cells(n, b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    rates = [(1 - d) / 2 * step / 300 for step in range(301)]
    passed = [each for each in every if noninferiority(*each, d) == "pass"]
    failed = [each for each in every if noninferiority(*each, d) == "fail"]
    assert passed
    for region in (passed, failed):
        assert max(probability(region, d, t) for t in rates) <= 0.05
    by_score = [each for each in every if tango_z(*each, d) <= -Z95]
    assert max(probability(by_score, d, t) for t in rates) > 0.05


def test_the_exact_test_keeps_what_the_score_test_is_right_about() -> None:
    """Of 861 tables of 40 images it may refuse a few at the edge, and no more."""
    every = [Cells(40, b, c) for b in range(41) for c in range(41 - b)]
    by_score = [each for each in every if tango_z(*each, 0.1) <= -Z95]
    kept = [each for each in by_score if noninferiority(*each, 0.1) == "pass"]
    assert 0.98 * len(by_score) <= len(kept) < len(by_score)


@settings(quick, max_examples=50)
@given(cells(most=2_000), st.sampled_from([0.003, 0.01, 0.05, 0.3]))
def test_a_decision_agrees_with_the_score_bounds(counts: Cells, d: float) -> None:
    low, high = drop_bounds(*counts)
    decision = noninferiority(*counts, d)
    if decision == "pass":
        assert high <= d + 1e-9
    if decision == "fail":
        assert low >= d - 1e-9
    if low < d < high:
        assert decision == "undecidable"


@pytest.mark.parametrize(
    ("counts", "d", "decision"),
    [
        (Cells(50_000, 500, 450), 0.003, "pass"),
        (Cells(50_000, 700, 450), 0.003, "fail"),
        (Cells(50_000, 520, 420), 0.003, "undecidable"),
        (Cells(50_000, 5_049, 5_000), 0.005, "pass"),
        (Cells(10**6, 10_000, 10_000), 0.001, "pass"),
        (Cells(10**6, 40_000, 0), 0.003, "fail"),
        (Cells(10**6, 0, 40_000), 0.003, "pass"),
    ],
)
def test_a_large_dataset_is_decided_too(counts: Cells, d: float, decision: str) -> None:
    assert noninferiority(*counts, d) == decision


@pytest.mark.parametrize(
    ("counts", "d"),
    [
        (Cells(13_355, 1_609, 1_636), 0.005),
        (Cells(5_849, 995, 1_040), 0.005),
        (Cells(14_374, 1_510, 1_558), 0.003),
    ],
)
def test_at_the_edge_a_large_dataset_is_not_decided_by_the_score_alone(
    counts: Cells, d: float
) -> None:
    assert -Z95 - 0.002 < tango_z(*counts, d) < -Z95
    assert noninferiority(*counts, d) == "undecidable"


# Images needed


def test_a_margin_of_3_tenths_needs_about_as_many_images_as_the_protocol_says() -> None:
    """1,000 when nothing disagrees, 19,000 when 2% do."""
    assert images_needed(100, 0, 0, 0.003) == pytest.approx(1_000, rel=0.01)
    assert images_needed(1_000, 10, 10, 0.003) == pytest.approx(19_000, rel=0.02)


def test_no_number_of_images_tells_a_drop_from_a_margin_equal_to_it() -> None:
    assert images_needed(1_000, 8, 5, 0.003) is None


@settings(quick, max_examples=50)
@given(
    st.integers(50, 3_000),
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([0.003, 0.01, 0.03, 0.1]),
)
def test_so_many_images_that_disagree_as_often_do_decide(n: int, b: int, c: int, d: float) -> None:
    assume(b + c <= n and noninferiority(n, b, c, d) == "undecidable")
    needed = images_needed(n, b, c, d)
    assume(needed is not None and needed < 20_000)
    assert needed is not None
    assert needed > n
    more = (b * needed // n, c * needed // n)
    assert noninferiority(needed, *more, d) == ("pass" if (b - c) / n < d else "fail")


# McNemar


@quick
@given(st.integers(0, 3_000), st.integers(0, 3_000))
@example(0, 0)
@example(1, 0)
def test_mcnemars_p_is_scipys(b: int, c: int) -> None:
    theirs = scipy("stats").binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(theirs, rel=1e-9)


@quick
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_p_is_exact(b: int, c: int) -> None:
    m = b + c
    tail = Fraction(sum(math.comb(m, i) for i in range(min(b, c) + 1)), 2**m)
    assert mcnemar_exact(b, c) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_mcnemars_p_of_any_size_is_a_number() -> None:
    assert mcnemar_exact(10**9, 0) == 0.0
    assert mcnemar_exact(10**9, 2 * 10**9) == 0.0
    assert mcnemar_exact(10**7, 10**7) == 1.0
    theirs = scipy("stats").binomtest(500_000, 1_002_000).pvalue
    assert mcnemar_exact(500_000, 502_000) == pytest.approx(theirs, rel=1e-6)
    with pytest.raises(ValueError, match="-1"):
        mcnemar_exact(-1, 3)


# Latencies


@quick
@given(st.lists(TIMES, min_size=1, max_size=50), st.integers(1, 200))
def test_percentiles_are_nearest_rank(some: list[float], times: int) -> None:
    latencies = some * times
    for name, value in percentiles(latencies).items():
        share = float(name[1:])
        assert value == np.percentile(latencies, share, method="inverted_cdf"), name
        assert value in latencies


def test_the_rank_is_not_a_matter_of_rounding() -> None:
    assert percentile([float(i) for i in range(1, 10_001)], "p99.9") == 9_990


@pytest.mark.parametrize(("name", "minimum"), list(MINIMUM_COUNTS.items()))
def test_a_percentile_is_left_out_below_its_minimum_count(name: str, minimum: int) -> None:
    latencies = [1.0 + i for i in range(minimum)]
    assert name in percentiles(latencies)
    assert percentile(latencies, name) == percentiles(latencies)[name]
    assert name not in percentiles(latencies[1:])
    assert percentile(latencies[1:], name) is None


def test_the_minimum_counts_are_those_of_the_protocol() -> None:
    assert MINIMUM_COUNTS == {"p50": 1, "p90": 64, "p95": 130, "p99": 662, "p99.9": 6_636}


def test_an_unknown_percentile_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        percentile([1.0], "p42")


@quick
@given(st.lists(TIMES, min_size=2, max_size=100))
def test_the_coefficient_of_variation_is_the_sample_deviation_over_the_mean(
    latencies: list[float],
) -> None:
    expected = standard.stdev(latencies) / standard.fmean(latencies)
    assert coefficient_of_variation(latencies) == pytest.approx(expected, abs=1e-9)


def test_a_run_is_stable_when_three_windows_lie_within_5_percent_of_their_mean() -> None:
    steady = stability([1.0] * 30)
    assert steady.stable
    assert steady.deviation == 0
    edge = [0.951] * 10 + [1.0] * 10 + [1.049] * 10
    assert stability(edge).stable
    assert stability(edge).deviation == pytest.approx(0.049)
    assert not stability([0.949] * 10 + [1.0] * 10 + [1.051] * 10).stable
    assert stability(list(range(1, 4))).means == (1, 2, 3)


@quick
@given(st.lists(TIMES, min_size=3, max_size=100))
def test_every_call_is_in_one_of_three_windows_of_nearly_equal_size(
    latencies: list[float],
) -> None:
    third = len(latencies) // 3
    candidates = {
        (first, len(latencies) - first - last, last)
        for first in (third, third + 1)
        for last in (third, third + 1)
    }
    means = stability(latencies).means
    assert any(
        max(sizes) - min(sizes) <= 1
        and sum(mean * size for mean, size in zip(means, sizes))
        == pytest.approx(math.fsum(latencies))
        for sizes in candidates
    )


def test_too_few_latencies_have_no_spread() -> None:
    for latencies in ([], [1.0], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="mean"):
            coefficient_of_variation(latencies)
    for latencies in ([], [1.0, 1.0], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match=r"latencies|mean"):
            stability(latencies)
