"""The arithmetic of measured claims: intervals, paired non-inferiority, percentiles, stability.

One place for every formula, so that what a measurement says, what a gate decides and what an audit
recomputes cannot differ. Standard library only; counts are integers and rates are fractions
except where percent is said. Throughout, of ``n`` images ``b`` are right in the source model
only, ``c`` in the target only, and the drop is ``b / n - c / n``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple, Optional

Decision = Literal["pass", "fail", "undecidable"]

MINIMUM_COUNTS = {"p50": 1, "p90": 64, "p95": 130, "p99": 662, "p99.9": 6636}
"""Latencies that a percentile needs before it is given at all."""

LEAST_INPUTS = 64
"""Different ones that timed calls are fed, whatever the batch."""

WINDOW_TOLERANCE = 0.05
"""Of the mean of three windows' means: how far each may lie from it in a stable run."""

_Z975 = 1.959963984540054  # quantiles of the standard normal distribution
_Z95 = 1.6448536269514722
_Z90 = 1.2815515655446004
_BISECTIONS = 60

_LEVEL = 0.05
_OUTSIDE = 1e-4
"""Part of the level: the chance that the target-only rate is outside its plausible range."""
_TIE = 1e-9
"""Statistics nearer to each other than this count as equal."""
_TAIL = 1e-8
"""More than the chance that a binomial count lies outside its ``_window``."""
_TINY, _EPSILON = 1e-300, 1e-16
_MAX_EVALUATIONS, _MAX_TERMS = 2048, 400_000
"""After so many probabilities, or terms of them, the exact test has shown nothing: its p is then
very near the level. Decided ones of 360 to 50,000 images took at most 170,000 terms; 400,000
take about 1.5 s."""


def inputs_needed(batch_size: int) -> int:
    """Return how many different inputs give calls enough that are not like each other."""
    return max(LEAST_INPUTS, 2 * batch_size)


def wilson95(count: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of ``count`` in ``n``, as (low, high) in percent.

    It always holds ``100 * count / n``. Wilson, JASA 22, 1927, 209-212.

    Raises:
        ValueError: Not 0 <= count <= n, or n below 1.
    """
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"{count} of {n}")
    rate, extra = count / n, _Z975**2 / n
    centre = rate + extra / 2
    half = math.sqrt(extra * (rate * (1 - rate) + extra / 4))
    low = 100 * (centre - half) / (1 + extra)
    high = 100 * (centre + half) / (1 + extra)
    percent = 100 * count / n  # which rounding alone can put outside
    return max(min(low, percent), 0.0), min(max(high, percent), 100.0)


def tango_z(n: int, b: int, c: int, d: float) -> float:
    """Return Tango's score statistic of the drop against ``d``: negative when the drop is less.

    The target-only rate is the maximum likelihood one among those with a drop of exactly ``d``.
    Tango, Statistics in Medicine 17, 1998, 891-908.

    Raises:
        ValueError: Counts below 0 or beyond ``n``, or not -1 < d < 1.
    """
    _check_cells(n, b, c)
    if not -1 < d < 1:
        raise ValueError(f"a drop of {d}")
    return _tango_z(n, b, c, d)


def _check_cells(n: int, b: int, c: int) -> None:
    if n < 1 or b < 0 or c < 0 or b + c > n:
        raise ValueError(f"{b} and {c} of {n}")


def _tango_z(n: int, b: int, c: int, d: float) -> float:
    variance = 2 * _target_only(n, b, c, d) + d * (1 - d)
    if variance <= 0:
        return 0.0  # d is 0 and nothing disagrees
    return (b - c - n * d) / math.sqrt(n * variance)


def _target_only(n: int, b: int, c: int, d: float) -> float:
    """Return the most likely target-only rate t when the source-only rate is t + d."""
    second, first, zeroth = 2 * n, (2 * n - b + c) * d - (b + c), -c * d * (1 - d)
    root = math.sqrt(max(0.0, first * first - 4 * second * zeroth))
    if first > 0:  # the same root, without a difference of near numbers
        return -2 * zeroth / (first + root)
    return (root - first) / (2 * second)


def drop_bounds(n: int, b: int, c: int) -> tuple[float, float]:
    """Return the lower and the upper one-sided 95% score bound of the drop.

    Tango's test inverted: the drops at which ``tango_z`` is +1.645 and -1.645.

    Raises:
        ValueError: Counts below 0 or beyond ``n``.
    """
    _check_cells(n, b, c)
    return _drop_at(n, b, c, _Z95), _drop_at(n, b, c, -_Z95)


def _drop_at(n: int, b: int, c: int, z: float) -> float:
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _tango_z(n, b, c, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def noninferiority(n: int, b: int, c: int, d: float) -> Decision:
    """Decide whether the target's drop stays below the margin ``d``, at 95% one-sided.

    ``pass`` when Tango's score test shows a drop below ``d``, ``fail`` when it shows one above,
    that is when the lower score bound is above ``d``; ``undecidable`` between. Where few images
    disagree, the score test's 1.645 is too easy (it lets 6.7% pass at n = 900, d = 0.003), so
    what it shows must also hold in the exact unconditional test of the same statistic.

    Raises:
        ValueError: Counts below 0 or beyond ``n``, or not 0 < d < 1.
    """
    if not 0 < d < 1:
        raise ValueError(f"a margin of {d}")
    z = tango_z(n, b, c, d)
    if z <= -_Z95 and _shown_below(n, b, c, d):
        return "pass"
    if z >= _Z95 and _shown_below(n, c, b, -d):
        return "fail"
    return "undecidable"


def _shown_below(n: int, b: int, c: int, d: float) -> bool:
    """Say whether the exact test shows a drop below ``d`` at 5%.

    With a drop of ``d`` and any target-only rate t, a statistic as low as this one must have a
    probability of at most 5%. Larger drops make it less likely, since the statistic rises with
    b and falls with c (Hsueh, Liu, Chen, Biometrics 57, 2001, 478-483). The rates tried are those
    that c does not rule out; the rest is paid for with ``_OUTSIDE`` (Berger, Boos, JASA 89, 1994,
    1012-1016). Between two rates, the arcsine of the probability's root moves by no more than
    the Hellinger angle of the two distributions, so no peak is missed.
    """
    low, high = _plausible_rates(n, c)
    low, high = max(low, 0.0, -d), min(high, (1 - d) / 2)
    if low > high:
        return True
    region = _Region(n, d, _tango_z(n, b, c, d), low, high)
    allowed = math.asin(math.sqrt(_LEVEL - _OUTSIDE))
    waiting = deque([(low, high)])
    for _ in range(_MAX_EVALUATIONS):
        if not waiting:
            return True
        if region.terms > _MAX_TERMS:
            break
        start, end = waiting.popleft()
        middle = (start + end) / 2
        angle = math.asin(math.sqrt(min(1.0, region.probability(middle))))
        if angle > allowed:
            return False
        if angle + max(_angle(n, d, middle, start), _angle(n, d, middle, end)) > allowed:
            waiting += [(start, middle), (middle, end)]
    return False


class _Region:
    """The counts (b, c) whose statistic is at most ``z``: for each c, every b up to a limit.

    Holds the limits of every c that a target-only rate between ``low`` and ``high`` can give, and
    counts the ``terms`` that were added up.
    """

    def __init__(self, n: int, d: float, z: float, low: float, high: float) -> None:
        self._n, self._d, self._z = n, d, z + _TIE
        self.terms = 0
        self._first = _window(n, low)[0]
        self._limits: list[int] = []
        limit = -1
        for c in range(self._first, _window(n, high)[1] + 1):
            limit = self._limit(c, limit)
            self._limits.append(limit)

    def _limit(self, c: int, least: int) -> int:
        """Return the largest b of the region, or -1; the limit rises with c, up to n - c."""
        low, high = min(least, self._n - c), self._n - c + 1
        step = 1
        while low + step < high:
            if _tango_z(self._n, low + step, c, self._d) <= self._z:
                low += step
                step *= 2
            else:
                high = low + step
                step = max(1, step // 4)
        return low

    def probability(self, rate: float) -> float:
        """Return the region's probability when the target-only rate is ``rate``.

        It is the sum over c of its binomial probability times that of b up to its limit. The
        latter goes from one c to the next by one trial less and a higher limit; terms are only
        ever added, so nothing cancels.
        """
        n = self._n
        start, end = _window(n, rate)
        limits = self._limits[start - self._first : end - self._first + 1]
        self.terms += len(limits)
        logs = math.log(rate), math.log1p(-rate)
        source_only = min(max((rate + self._d) / (1 - rate), _TINY), 1 - _EPSILON)
        source_logs = math.log(source_only), math.log1p(-source_only)
        limit = limits[0]
        below = _binomial_cdf(limit, n - start, source_only)
        total = 0.0
        for c, next_limit in zip(range(start, end + 1), limits):
            trials = n - c
            if c > start and 0 <= limit <= trials:
                below += source_only * _binomial(limit, trials, source_logs)
            while limit < next_limit:
                limit += 1
                below += _binomial(limit, trials, source_logs)
            total += _binomial(c, n, logs) * min(below, 1.0)
        return min(total + _TAIL, 1.0)


def _window(n: int, rate: float) -> tuple[int, int]:
    """Return the lowest and highest count that a binomial has but for ``_TAIL``."""
    mean = n * rate
    reach = 6 * math.sqrt(mean * (1 - rate)) + 24
    return max(0, math.floor(mean - reach)), min(n, math.ceil(mean + reach))


def _binomial(k: int, n: int, logs: tuple[float, float]) -> float:
    """Return the probability of ``k`` in ``n``, given the logarithms of the rate and of 1 - it."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * logs[0] + (n - k) * logs[1])


def _binomial_cdf(k: int, n: int, rate: float) -> float:
    """Return the probability of at most ``k`` in ``n``, from the largest term down."""
    logs = math.log(rate), math.log1p(-rate)
    total = 0.0
    for i in range(min(k, n), -1, -1):
        term = _binomial(i, n, logs)
        total += term
        if i < n * rate and term <= 1e-17 * total:
            break
    return total


def _plausible_rates(n: int, count: int) -> tuple[float, float]:
    """Return the rates that a count in ``n`` does not rule out at ``_OUTSIDE``, by Chernoff."""
    allowed = math.log(2 / _OUTSIDE) / n
    ends: list[float] = []
    for far in (0.0, 1.0):
        near = count / n
        for _ in range(_BISECTIONS):
            middle = (near + far) / 2
            if _divergence(count / n, middle) <= allowed:
                near = middle
            else:
                far = middle
        ends.append(far)
    return ends[0], ends[1]


def _divergence(p: float, q: float) -> float:
    """Return Kullback and Leibler's divergence of two coins, in nats."""
    total = 0.0
    for one, other in ((p, q), (1 - p, 1 - q)):
        if one > 0:
            total += math.inf if other <= 0 else one * math.log(one / other)
    return total


def _angle(n: int, d: float, one: float, other: float) -> float:
    """Return the Hellinger angle between the counts' distributions at two target-only rates."""
    apart = 0.0
    for p, q in ((one, other), (one + d, other + d), (1 - 2 * one - d, 1 - 2 * other - d)):
        apart += (math.sqrt(max(p, 0.0)) - math.sqrt(max(q, 0.0))) ** 2 / 2
    if apart >= 1:
        return math.pi / 2
    return 2 * math.asin(math.sqrt(-math.expm1(n * math.log1p(-apart)) / 2))


def images_needed(n: int, b: int, c: int, d: float) -> Optional[int]:
    """Return about how many images would decide, when as many of them disagree as of these.

    So many that they decide nine times in ten, when these were undecidable. None when the drop
    seen is the margin itself, which no number of images decides.

    Raises:
        ValueError: Counts below 0 or beyond ``n``, or not 0 < d < 1.
    """
    if not 0 < d < 1:
        raise ValueError(f"a margin of {d}")
    _check_cells(n, b, c)
    drop = (b - c) / n
    if abs(d - drop) < 1e-12:
        return None
    at_margin = 2 * _target_only(n, b, c, d) + d * (1 - d)
    seen = max((b + c) / n - drop * drop, 0.0)
    needed = ((_Z95 * math.sqrt(at_margin) + _Z90 * math.sqrt(seen)) / (d - drop)) ** 2
    if drop < d:  # if every image agreed, this many could still be luck
        needed = max(needed, math.log(_LEVEL - _OUTSIDE) / math.log1p(-d))
    return math.ceil(needed)


def mcnemar_exact(b: int, c: int) -> float:
    """Return McNemar's exact two-sided p: how likely a split at least as uneven is by chance.

    Twice the binomial tail at one half, at most 1; 0.0 when it is too small for a float.

    Raises:
        ValueError: A count below 0.
    """
    if b < 0 or c < 0:
        raise ValueError(f"{b} and {c}")
    if abs(b - c) <= 1:
        return 1.0
    return min(1.0, 2 * _binomial_cdf(min(b, c), b + c, 0.5))


def percentile(latencies: Sequence[float], name: str) -> Optional[float]:
    """Return the nearest-rank percentile, such as ``p99.9``: one of the latencies themselves.

    None when there are fewer latencies than ``MINIMUM_COUNTS`` asks for: it is not guessed.

    Raises:
        KeyError: A percentile that ``MINIMUM_COUNTS`` does not name.
    """
    return percentiles(latencies).get(name) if MINIMUM_COUNTS[name] <= len(latencies) else None


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return every percentile of ``MINIMUM_COUNTS`` that has latencies enough, by its name."""
    ordered = sorted(latencies)
    return {
        name: ordered[math.ceil(Fraction(name[1:]) * len(ordered) / 100) - 1]
        for name, minimum in MINIMUM_COUNTS.items()
        if len(ordered) >= minimum
    }


def coefficient_of_variation(latencies: Sequence[float]) -> float:
    """Return the sample standard deviation (n - 1) over the mean.

    Raises:
        ValueError: Fewer than two latencies, or a mean that is not above 0.
    """
    count = len(latencies)
    mean = math.fsum(latencies) / count if count > 1 else 0.0
    if not mean > 0:
        raise ValueError(f"{count} latencies with a mean of {mean}")
    return math.sqrt(math.fsum((each - mean) ** 2 for each in latencies) / (count - 1)) / mean


class Stability(NamedTuple):
    """The means of three equal windows, and the share by which one lies off their mean at most."""

    means: tuple[float, float, float]
    deviation: float

    @property
    def stable(self) -> bool:
        """Whether every window lies within 5% of the mean of the three."""
        return self.deviation <= WINDOW_TOLERANCE


def stability(latencies: Sequence[float]) -> Stability:
    """Return how steady a run was: its latencies in order, cut into three windows.

    The windows differ by at most one call, and every call is in one.

    Raises:
        ValueError: Fewer than three latencies, or a mean that is not above 0.
    """
    count = len(latencies)
    if count < 3:
        raise ValueError(f"{count} latencies")
    cuts = [count * part // 3 for part in range(4)]
    first, second, third = (
        math.fsum(latencies[start:end]) / (end - start) for start, end in zip(cuts, cuts[1:])
    )
    mean = (first + second + third) / 3
    if not mean > 0:
        raise ValueError(f"a mean of {mean}")
    deviation = max(abs(each - mean) for each in (first, second, third)) / mean
    return Stability((first, second, third), deviation)
