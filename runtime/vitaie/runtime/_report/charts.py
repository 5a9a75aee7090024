"""Numbers to geometry: where each bar, line and label of a chart lies.

No markup is made here: the template writes the SVG, and with it escapes every label. Coordinates
are those of a box ``WIDTH`` wide, which a page scales to its column, text and all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Optional

from vitaie.manifests.statistics import percentiles

WIDTH = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 34, 34
_PLOT = 150
_BARS = 38
_COLUMNS = 120
_ROW = 34
_FEW = 3
_LABEL = 26
"""How wide the name of a percentile is, or more."""

_MARKED = ("p50", "p90", "p99")
_BEYOND = 1.25
"""Times the largest percentile there is: latencies above are drawn at the edge, and said so."""

_SPREAD = 5
"""Times the median, from which on the largest percentile would leave the rest too little room."""

Point = tuple[float, float]


class Tick(NamedTuple):
    """A place on an axis and what is written there."""

    at: float
    label: str


class Box(NamedTuple):
    """A bar: its upper left corner and its size."""

    x: float
    y: float
    width: float
    height: float


class Mark(NamedTuple):
    """A percentile: where its line lies, where its name is written, and which it is."""

    at: float
    text_at: float
    label: str


@dataclass(frozen=True)
class Frame:
    """The box and the plot inside it, with ticks on both axes."""

    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Histogram:
    """How many calls took how long. ``beyond`` calls are in the last bar, up to ``longest`` ms."""

    unit: str
    frame: Frame
    bars: tuple[Box, ...]
    marks: tuple[Mark, ...]
    beyond: int
    edge: float
    longest: float


@dataclass(frozen=True)
class Curve:
    """Latencies over the run: for each run, a band from the least to the most, and the median."""

    unit: str
    frame: Frame
    bands: tuple[tuple[Point, ...], ...]
    lines: tuple[tuple[Point, ...], ...]
    between: tuple[float, ...]
    marks: tuple[Mark, ...]
    beyond: int
    edge: float


class Estimate(NamedTuple):
    """A rate in percent, with its interval where it was measured."""

    kind: str
    label: str
    percent: float
    low: Optional[float] = None
    high: Optional[float] = None


class Row(NamedTuple):
    """An estimate's place: its label above, its interval and its point."""

    estimate: Estimate
    text_y: float
    y: float
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Rates under each other on one axis of percent."""

    frame: Frame
    rows: tuple[Row, ...]


class _Scale(NamedTuple):
    """An axis, linear or logarithmic; what lies outside is drawn at its end."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies: 0 to 1."""
        inside = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(inside / self.low) / math.log(self.high / self.low)
        return (inside - self.low) / (self.high - self.low)

    def __call__(self, value: float) -> float:
        return round(self.start + self.share(value) * (self.end - self.start), 2)

    def ticks(self, about: int) -> tuple[Tick, ...]:
        """Return about so many round numbers along the axis."""
        values = _decades(self.low, self.high) if self.logarithmic else []
        if len(values) < _FEW:
            values = _ticks(self.low, self.high, about)
        return tuple(Tick(self(value), _number(value)) for value in values)


def histogram(latencies: Sequence[float]) -> Histogram:
    """Return the histogram of latencies in ms, at least one, all above 0."""
    found, longest = percentiles(latencies), max(latencies)
    edge = _edge(longest, found)
    x = _latency_scale(min(latencies), edge, _LEFT, WIDTH - _RIGHT, _spread(found))
    counts = [0] * _BARS
    for latency in latencies:
        counts[min(_BARS - 1, int(x.share(latency) * _BARS))] += 1
    y = _Scale(0, max(counts), _TOP + _PLOT, _TOP)
    width = (WIDTH - _RIGHT - _LEFT) / _BARS
    bars = tuple(
        Box(round(_LEFT + place * width, 2), y(count), round(width - 0.6, 2), y(0) - y(count))
        for place, count in enumerate(counts)
        if count
    )
    named = [(name, x(found[name])) for name in _MARKED if name in found]
    marks = tuple(
        Mark(at, _TOP - 5 - 11 * _level(named[:place], at), name)
        for place, (name, at) in enumerate(named)
    )
    whole = tuple(Tick(y(value), _number(value)) for value in _ticks(0, max(counts), 4, whole=True))
    frame = _frame(x, y, x.ticks(6), whole)
    return Histogram(_unit(x), frame, bars, marks, _beyond(latencies, edge), edge, longest)


def _level(before: Sequence[tuple[str, float]], at: float) -> int:
    """Return how many of the names before it one would be written over, each a line higher."""
    return sum(at - other < _LABEL for _, other in before)


def curve(runs: Sequence[Sequence[tuple[float, float]]]) -> Curve:
    """Return the curve of runs, each of (seconds since its start, latency in ms) in order.

    Runs stand beside each other, as long as they lasted.
    """
    latencies = [latency for run in runs for _, latency in run]
    found = percentiles(latencies)
    edge = _edge(max(latencies), found)
    lengths = [max(run[-1][0], 1e-9) for run in runs]
    whole = sum(lengths)
    x = _Scale(0, whole, _LEFT, WIDTH - _RIGHT - _LABEL)
    spread = _spread(found)
    least = min(latencies) if spread else 0.0
    y = _latency_scale(least, edge, _TOP + _PLOT, _TOP, spread)
    bands: list[tuple[Point, ...]] = []
    lines: list[tuple[Point, ...]] = []
    start = 0.0
    for run, length in zip(runs, lengths):
        columns = _columns(run, length, max(2, round(_COLUMNS * length / whole)))
        at = [x(start + seconds) for seconds, _ in columns]
        upper = [(place, y(max(column))) for place, (_, column) in zip(at, columns)]
        lower = [(place, y(min(column))) for place, (_, column) in zip(at, columns)]
        bands.append((*upper, *reversed(lower)))
        lines.append(tuple((place, y(median(c))) for place, (_, c) in zip(at, columns)))
        start += length
    frame = _frame(x, y, x.ticks(6), y.ticks(5))
    between = tuple(x(sum(lengths[:number])) for number in range(1, len(lengths)))
    marks: list[Mark] = []
    for name in _MARKED:
        if name in found:
            height = y(found[name])
            text_at = min(height + 4, marks[-1].text_at - 11 if marks else math.inf)
            marks.append(Mark(height, text_at, name))
    return Curve(
        _unit(y),
        frame,
        tuple(bands),
        tuple(lines),
        between,
        tuple(marks),
        _beyond(latencies, edge),
        edge,
    )


def _columns(
    run: Sequence[tuple[float, float]], length: float, count: int
) -> list[tuple[float, list[float]]]:
    """Return the latencies of each of ``count`` equal parts of a run that has any, and its time."""
    columns: list[list[float]] = [[] for _ in range(count)]
    for seconds, latency in run:
        columns[min(count - 1, int(seconds / length * count))].append(latency)
    return [
        ((number + 0.5) * length / count, column) for number, column in enumerate(columns) if column
    ]


def intervals(estimates: Sequence[Estimate]) -> Intervals:
    """Return rates with their intervals, the first on top."""
    ends = [
        value
        for each in estimates
        for value in (each.percent, each.low, each.high)
        if value is not None
    ]
    margin = max(0.08 * (max(ends) - min(ends)), 0.05)
    low, high = max(0.0, min(ends) - margin), min(100.0, max(ends) + margin)
    x = _Scale(low, high, 10, WIDTH - 10)
    rows: list[Row] = []
    for number, each in enumerate(estimates):
        top = 4 + number * _ROW
        start = each.percent if each.low is None else each.low
        end = each.percent if each.high is None else each.high
        rows.append(Row(each, top + 10, top + 21, x(each.percent), x(start), x(end)))
    bottom = 4 + len(rows) * _ROW
    frame = Frame(bottom + _BOTTOM, 10, WIDTH - 10, 0, bottom, x.ticks(5), ())
    return Intervals(frame, tuple(rows))


def _frame(x: _Scale, y: _Scale, x_ticks: tuple[Tick, ...], y_ticks: tuple[Tick, ...]) -> Frame:
    return Frame(_TOP + _PLOT + _BOTTOM, x.start, x.end, y.end, y.start, x_ticks, y_ticks)


def _latency_scale(low: float, high: float, start: float, end: float, spread: bool) -> _Scale:
    """Return the axis of latencies, with a length however alike they are."""
    if high - low <= 1e-6 * high:
        low, high = 0.9 * low, 1.1 * high
    return _Scale(low, high, start, end, spread)


def _unit(scale: _Scale) -> str:
    return "ms, logarithmic" if scale.logarithmic else "ms"


def _spread(found: dict[str, float]) -> bool:
    """Say whether latencies are so far apart that a linear axis would show nothing of most."""
    return max(found.values()) > _SPREAD * found["p50"]


def _edge(longest: float, found: dict[str, float]) -> float:
    """Return the latency that a chart ends at: the longest, unless it is far from nearly all."""
    return min(longest, _BEYOND * max(found.values()))


def _beyond(latencies: Sequence[float], edge: float) -> int:
    return sum(latency > edge for latency in latencies)


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten between two numbers; the powers alone of many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= _FEW else (1,)
    found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [value for value in found if low <= value <= high]


def _ticks(low: float, high: float, about: int, *, whole: bool = False) -> list[float]:
    """Return at most ``about`` round numbers between two, as far apart as 1, 2 or 5."""
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10, 20) if unit * factor >= rough)
    step = max(step, 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= value < 1e7 else f"{value:.6g}"
