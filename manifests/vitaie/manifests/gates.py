"""Gates: what is required of a target before it ships, and whether the evidence shows it.

A gate ends in pass, fail or undecidable, and only pass publishes: evidence that is missing, too
thin or INVALID is undecidable, never a pass::

    gate = parse_gate("top1_drop<=0.3")
    outcome = judge(gate, Facts(n=5153, cells=Cells(4300, 12, 20, 821)))
    print(outcome.verdict, outcome.reason)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Optional, cast

from vitaie.manifests.errors import InputError
from vitaie.manifests.statistics import (
    MINIMUM_COUNTS,
    Decision,
    drop_bounds,
    images_needed,
    noninferiority,
    wilson95,
)

Operator = Literal[">=", "<="]

_GATE = re.compile(r"\s*([a-z][a-z0-9_.]*)\s*([<>=!]+)\s*(.*?)\s*", re.ASCII | re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?", re.ASCII)
_EXAMPLE = "Write it like 'top1>=84.0', in quotes: the shell takes > and < for itself."


class _Metric(NamedTuple):
    """Which way a metric is required, and the values that a gate may ask of it."""

    operator: Operator
    low: float
    high: float
    unit: str
    open_ended: bool = False  # whether the two ends themselves are refused


_LATENCIES = {f"latency_{name}_ms": name for name in MINIMUM_COUNTS}
_METRICS = {
    "top1": _Metric(">=", 0, 100, "in percent"),
    "top5": _Metric(">=", 0, 100, "in percent"),
    "top1_drop": _Metric("<=", 0, 100, "in points of percent", open_ended=True),
    "agreement": _Metric(">=", 0, 1, "as a share of the images"),
    "fps": _Metric(">=", 0, math.inf, "in images a second"),
    **{name: _Metric("<=", 0, math.inf, "in milliseconds") for name in _LATENCIES},
    "placement": _Metric(">=", 0, 1, "as a share of the operators"),
}


_RATES = ("top1", "top5")
"""What is asked for in percent, and by slip as a share: of a drop a share would ask for more."""


@dataclass(frozen=True)
class Gate:
    """One requirement, such as ``top1>=84.0``. Made by ``parse_gate``.

    Attributes:
        metric: ``top1``, ``top5`` (percent), ``top1_drop`` (points of percent), ``agreement``,
            ``placement`` (shares, 0 to 1), ``fps``, or ``latency_p50_ms`` to ``latency_p99.9_ms``.
        operator: ``>=``, or ``<=`` where less is better.
        value: What the metric is held against, in its unit.
    """

    metric: str
    operator: Operator
    value: float

    def __str__(self) -> str:
        """Return the gate as ``parse_gate`` takes it."""
        number = f"{self.value:.6f}".rstrip("0")
        return f"{self.metric}{self.operator}{number}" + ("0" if number.endswith(".") else "")


OF_SPEED = frozenset({"fps", "placement", *_LATENCIES})
"""The metrics that a measurement of speed decides; one of accuracy decides the others."""


def parse_gate(text: str) -> Gate:
    """Read a gate as it is written after ``--require``.

    Raises:
        InputError: ``E_GATE_SYNTAX``, ``E_GATE_METRIC``, ``E_GATE_OPERATOR`` (a drop or a latency
            takes ``<=``, all others ``>=``) or ``E_GATE_VALUE`` (no decimal number, or one that
            the metric cannot have).
    """
    where = f"--require {text}"
    match = _GATE.fullmatch(text)
    if match is None:
        raise InputError("E_GATE_SYNTAX", where, hint=_EXAMPLE)
    name, operator, number = match[1], match[2], match[3]
    metric = _METRICS.get(name)
    if metric is None:
        raise InputError("E_GATE_METRIC", where, expected=", ".join(_METRICS), got=name)
    if operator != metric.operator:
        better = "more" if metric.operator == ">=" else "less"
        hint = f"Of {name}, {better} is better: write '{name}{metric.operator}{number}'."
        raise InputError(
            "E_GATE_OPERATOR", where, expected=metric.operator, got=operator, hint=hint
        )
    value = float(number) if _NUMBER.fullmatch(number) else math.nan
    at_end = metric.open_ended and value in (metric.low, metric.high)
    if at_end or not metric.low <= value <= metric.high:
        raise InputError("E_GATE_VALUE", where, expected=_expected(metric), got=number)
    return Gate(name, metric.operator, value)


def ask_gate(text: str) -> Gate:
    """Read a gate that somebody asks for now, and refuse one that can only be a slip.

    A rate of at most 1 percent is a share that was meant as one: ``top1>=0.95`` would pass a
    model that is right in one image of a hundred. 0 is the same in both, and asks that there be
    a measurement. What a bundle says it passed is read by ``parse_gate``, whatever its value.

    Raises:
        InputError: As ``parse_gate``; ``E_GATE_VALUE`` too for such a share.
    """
    gate = parse_gate(text)
    if gate.metric in _RATES and 0 < gate.value <= 1:
        metric = _METRICS[gate.metric]
        percent = Gate(gate.metric, gate.operator, float(100 * _exact(gate.value)))
        hint = f"It is in percent: write '{percent}' for a share of {gate.value:g}."
        expected = f"0, or more than 1, {metric.unit}"
        raise InputError(
            "E_GATE_VALUE", f"--require {text}", expected=expected, got=f"{gate.value:g}", hint=hint
        )
    return gate


def _expected(metric: _Metric) -> str:
    if metric.open_ended:
        between = f"above {metric.low} and below {metric.high}"
    elif metric.high == math.inf:
        between = "of up to 9 digits and 6 decimals"
    else:
        between = f"from {metric.low} to {metric.high}"
    return f"a plain decimal number {between}, {metric.unit}"


class Cells(NamedTuple):
    """Target and source model on the same images: right by both, by one only, by neither."""

    both: int
    target_only: int
    source_only: int
    neither: int


@dataclass(frozen=True)
class Facts:
    """The evidence that gates are judged by; what was not measured is None, or not in the map.

    Attributes:
        n: Images of the accuracy measurement.
        top1: Images whose label is the target's first class.
        top5: Images whose label is among the target's first five.
        cells: The paired comparison with the source model, for the first class.
        agreement: Images for which target and source model have the same first class.
        performance: The verdict on the measurement of speed.
        fps: Images a second.
        latency_ms: Milliseconds by percentile, such as ``p99.9``; see ``statistics.percentiles``.
        placement: The share of operators that run on the device.

    Raises:
        ValueError: They contradict each other, or are none that a measurement gives.
    """

    n: int = 0
    top1: Optional[int] = None
    top5: Optional[int] = None
    cells: Optional[Cells] = None
    agreement: Optional[int] = None
    performance: Optional[Literal["VALID", "INVALID"]] = None
    fps: Optional[float] = None
    latency_ms: Mapping[str, float] = field(default_factory=lambda: cast("dict[str, float]", {}))
    placement: Optional[float] = None

    def __post_init__(self) -> None:
        """Refuse facts that no gate may be judged by: nothing passes on nonsense."""
        counts = [self.top1, self.top5, self.agreement, *(self.cells or ())]
        times = [self.fps, *self.latency_ms.values()]
        right = None if self.cells is None else self.cells.both + self.cells.target_only
        if not (
            self.n >= 0
            and all(count is None or 0 <= count <= self.n for count in counts)
            and (self.cells is None or sum(self.cells) == self.n)
            and (self.top1 is None or right is None or self.top1 == right)
            and (self.top1 is None or self.top5 is None or self.top1 <= self.top5)
            and all(time is None or 0 < time < math.inf for time in times)
            and (self.placement is None or 0 <= self.placement <= 1)
        ):
            raise ValueError(f"facts that cannot be: {self}")


def facts_of(
    accuracy: Optional[Mapping[str, Any]], performance: Optional[Mapping[str, Any]]
) -> Facts:
    """Return the evidence of a record of accuracy and one of speed, as computed from their files.

    What was not measured is None.
    """
    facts: dict[str, Any] = {}
    if accuracy is not None:
        paired = accuracy["paired"]
        facts = {
            "n": accuracy["dataset"]["images"],
            "top1": accuracy["top1"]["count"],
            "top5": accuracy["top5"]["count"],
            "cells": None if paired is None else Cells(**paired),
            "agreement": accuracy["agreement"],
        }
    if performance is not None:
        facts["performance"] = performance["verdict"]
        facts |= {name: performance[name] for name in ("fps", "latency_ms", "placement")}
    return Facts(**facts)


@dataclass(frozen=True)
class Outcome:
    """How a gate was decided, and why, in one sentence with the figures.

    ``images_needed`` is about how many images would decide a drop that these do not.
    """

    gate: Gate
    verdict: Decision
    reason: str
    images_needed: Optional[int] = None

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.verdict}: {self.gate}: {self.reason}"


def judge(gate: Gate, facts: Facts) -> Outcome:
    """Decide a gate.

    ``top1``, ``top5`` and ``agreement`` compare what was measured on this dataset with the value,
    exactly: 8,400 of 10,000 images is ``top1>=84.0``. They speak of the dataset, as a sign-off
    does; the reason gives the 95% interval beside it. ``top1_drop`` speaks of the model: it is
    judged by paired non-inferiority (``statistics.noninferiority``), and is undecidable where
    the images are too few to tell. ``fps`` and the latencies compare the measured figure, and are
    undecidable when the measurement is INVALID, or holds too few calls for the percentile.
    ``placement`` was counted, not timed, and needs no valid timing. Whatever was not measured
    is undecidable.
    """
    if gate.metric == "top1_drop":
        return _judge_drop(gate, facts)
    measured, reason = _measured(gate.metric, facts)
    if measured is None:
        return Outcome(gate, "undecidable", reason)
    value = _exact(gate.value)
    holds = measured >= value if gate.operator == ">=" else measured <= value
    return Outcome(gate, "pass" if holds else "fail", reason)


def _measured(metric: str, facts: Facts) -> tuple[Optional[Fraction], str]:
    """Return the figure to compare, or None, and the sentence that gives it or says why not."""
    counts = {"top1": facts.top1, "top5": facts.top5, "agreement": facts.agreement}
    if metric in counts:
        return _share(metric, counts[metric], facts.n)
    if metric == "placement":
        if facts.placement is None:
            return None, "it was not recorded where the operators run"
        return _exact(facts.placement), f"{facts.placement:.6g} of the operators run on the device"
    if facts.performance is None:
        return None, "speed was not measured"
    if facts.performance == "INVALID":
        return None, "the measurement of speed is INVALID"
    if metric == "fps":
        if facts.fps is None:
            return None, "images a second were not measured"
        return _exact(facts.fps), f"{facts.fps:.6g} images a second"
    name = _LATENCIES[metric]
    if name not in facts.latency_ms:
        return None, f"{name} needs at least {MINIMUM_COUNTS[name]:,} calls, and fewer were timed"
    return _exact(facts.latency_ms[name]), f"{name} is {facts.latency_ms[name]:.6g} ms"


def _share(metric: str, count: Optional[int], n: int) -> tuple[Optional[Fraction], str]:
    """Return a count's share of ``n`` images in the metric's unit, and the sentence about it."""
    if count is None or n == 0:
        return None, f"{metric} was not measured on any images"
    low, high = wilson95(count, n)
    of_source = metric == "agreement"
    said = "target and source model agree on" if of_source else f"{metric} is"
    share = f"{100 * count / n:.6g}%: {count:,} of {n:,} images"
    reason = f"{said} {share} (95% interval {low:.3f}% to {high:.3f}%)"
    return Fraction(count if of_source else 100 * count, n), reason


def _judge_drop(gate: Gate, facts: Facts) -> Outcome:
    if facts.cells is None or facts.n == 0:
        reason = "the target was not compared with the source model on any images"
        return Outcome(gate, "undecidable", reason)
    n, b, c = facts.n, facts.cells.source_only, facts.cells.target_only
    margin = float(_exact(gate.value) / 100)
    low, high = drop_bounds(n, b, c)
    seen = (
        f"the drop is {100 * (b - c) / n:.3f} points (95% bounds {100 * low:.3f} and "
        f"{100 * high:.3f}): of {n:,} images {b:,} are right in the source only and {c:,} in "
        "the target only"
    )
    verdict = noninferiority(n, b, c, margin)
    if verdict != "undecidable":
        side = "below" if verdict == "pass" else "above"
        return Outcome(gate, verdict, f"{seen}, which shows a drop {side} {gate.value:g} at 95%")
    needed = images_needed(n, b, c, margin)
    advice = (
        "no number of images tells a drop from a margin that is equal to it"
        if needed is None
        else f"about {needed:,} images of which as many disagree would decide"
    )
    shown = f"which shows a drop neither below nor above {gate.value:g} at 95%"
    return Outcome(gate, verdict, f"{seen}, {shown}; {advice}", needed)


def _exact(number: float) -> Fraction:
    """Return the decimal number that a float was written as."""
    return Fraction(repr(float(number)))


def worst(outcomes: Iterable[Outcome]) -> Decision:
    """Return what several gates come to: fail, else undecidable, else pass; pass for none."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if "fail" in verdicts:
        return "fail"
    return "undecidable" if "undecidable" in verdicts else "pass"


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return the exit code of a command that judged these gates: 0 pass, 1 fail, 6 undecidable."""
    return {"pass": 0, "fail": 1, "undecidable": 6}[worst(outcomes)]
