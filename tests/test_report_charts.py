"""Where the lines of a chart lie: everything inside the box, nothing hidden, nothing made up."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

import pytest

from vitaie.manifests.statistics import percentiles
from vitaie.runtime._report import charts

STEADY = [10 + 0.01 * (number * 7919 % 100) for number in range(1000)]
HEAVY_TAIL = [0.3 if number % 50 else 25.0 for number in range(7000)]
ALIKE = [5.0] * 100
ONE = [3.25]
FAR_APART = [1e-6, 1.0, 9e9]
CASES = {
    "steady": STEADY,
    "heavy tail": HEAVY_TAIL,
    "alike": ALIKE,
    "one": ONE,
    "far apart": FAR_APART,
}


def points(frame: charts.Frame) -> Iterator[tuple[float, float]]:
    yield from ((tick.at, frame.bottom) for tick in frame.x_ticks)
    yield from ((frame.left, tick.at) for tick in frame.y_ticks)


def inside(frame: charts.Frame, found: Iterator[tuple[float, float]]) -> bool:
    return all(
        frame.left - 0.01 <= x <= frame.right + 0.01
        and frame.top - 0.01 <= y <= frame.bottom + 0.01
        for x, y in found
    )


@pytest.mark.parametrize("name", CASES)
def test_a_histogram_holds_every_call_and_lies_in_its_box(name: str) -> None:
    latencies = CASES[name]
    chart = charts.histogram(latencies)
    frame = chart.frame
    assert inside(frame, points(frame))
    assert inside(frame, ((bar.x, bar.y) for bar in chart.bars))
    assert inside(frame, ((bar.x + bar.width, bar.y + bar.height) for bar in chart.bars))
    tallest = max(bar.height for bar in chart.bars)
    assert tallest == pytest.approx(frame.bottom - frame.top)
    assert len(frame.x_ticks) >= 2
    assert chart.longest == max(latencies)
    assert chart.beyond == sum(latency > chart.edge for latency in latencies)


def test_the_heights_of_bars_are_the_counts() -> None:
    chart = charts.histogram([1.0] * 30 + [2.0] * 10)
    first, last = chart.bars
    assert first.height == pytest.approx(3 * last.height, abs=0.02)
    assert first.x < last.x


def test_marks_are_the_nearest_rank_percentiles_where_there_are_calls_enough() -> None:
    assert [mark.label for mark in charts.histogram(STEADY).marks] == ["p50", "p90", "p99"]
    assert [mark.label for mark in charts.histogram(STEADY[:100]).marks] == ["p50", "p90"]
    assert [mark.label for mark in charts.histogram(ONE).marks] == ["p50"]
    chart = charts.histogram([float(number) for number in range(1, 1001)])
    share = (chart.marks[1].at - chart.frame.left) / (chart.frame.right - chart.frame.left)
    assert share == pytest.approx((900 - 1) / (1000 - 1), abs=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_names_of_percentiles_are_not_written_over_each_other(name: str) -> None:
    marks = charts.histogram(CASES[name]).marks
    for one, other in zip(marks, marks[1:]):
        assert other.at - one.at >= 26 or other.text_at != one.text_at
    marks = charts.curve([list(enumerate(CASES[name], 1))]).marks
    for one, other in zip(marks, marks[1:]):
        assert one.text_at - other.text_at >= 11


def test_an_axis_is_logarithmic_only_where_a_linear_one_would_show_nothing() -> None:
    assert charts.histogram(STEADY).unit == "ms"
    assert charts.histogram(HEAVY_TAIL).unit == "ms, logarithmic"
    few = [tick.label for tick in charts.histogram(HEAVY_TAIL).frame.x_ticks]
    assert few == ["0.5", "1", "2", "5", "10", "20"]


@pytest.mark.parametrize("runs", [1, 5])
@pytest.mark.parametrize("name", CASES)
def test_a_curve_has_a_band_and_a_line_for_each_run_in_its_box(name: str, runs: int) -> None:
    run = [(0.5 * number, latency) for number, latency in enumerate(CASES[name], 1)]
    chart = charts.curve([run] * runs)
    frame = chart.frame
    assert len(chart.bands) == len(chart.lines) == runs
    assert len(chart.between) == runs - 1
    drawn = chain(points(frame), *chart.bands, *chart.lines)
    assert inside(frame, drawn)
    for band, line in zip(chart.bands, chart.lines):
        assert len(band) == 2 * len(line)
        lowest, highest = min(y for _, y in band), max(y for _, y in band)
        assert all(lowest <= y <= highest for _, y in line)
    assert sum(map(len, chart.lines)) <= 130


def test_a_call_that_is_far_beyond_the_rest_is_counted_and_not_drawn_to_scale() -> None:
    latencies = [*STEADY, 5000.0]
    chart = charts.curve([[(float(at), each) for at, each in enumerate(latencies, 1)]])
    assert (chart.beyond, chart.edge) == (1, 1.25 * percentiles(latencies)["p99"])


def test_intervals_hold_their_points_and_a_published_figure_has_none() -> None:
    chart = charts.intervals(
        [
            charts.Estimate("target", "measured", 96.9, 94.6, 98.3),
            charts.Estimate("published", "published", 85.5),
        ]
    )
    measured, published = chart.rows
    assert chart.frame.left <= published.x < measured.low < measured.x < measured.high
    assert measured.high <= chart.frame.right
    assert published.low == published.x == published.high


@pytest.mark.parametrize("percent", [0.0, 50.0, 100.0])
def test_intervals_of_no_length_are_drawn(percent: float) -> None:
    chart = charts.intervals([charts.Estimate("target", "", percent, percent, percent)])
    assert len(chart.frame.x_ticks) >= 1
    assert chart.frame.left <= chart.rows[0].x <= chart.frame.right


def test_whatever_a_record_holds_can_be_drawn() -> None:
    chance = random.Random(0)
    for _ in range(200):
        count = chance.choice((1, 2, 3, 64, 700))
        spread = chance.choice((1e-3, 1.0, 5.0, 20.0))
        latencies = [max(1e-6, min(9e9, chance.lognormvariate(0, spread))) for _ in range(count)]
        chart = charts.histogram(latencies)
        assert inside(chart.frame, points(chart.frame))
        curve = charts.curve([list(zip(map(float, range(1, count + 1)), latencies))])
        assert inside(curve.frame, chain(points(curve.frame), *curve.bands))
