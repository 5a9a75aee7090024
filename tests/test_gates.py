"""Gates: what can be required, and that only evidence that shows it passes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from vitaie.manifests.errors import InputError
from vitaie.manifests.fields import Requirement
from vitaie.manifests.gates import (
    Cells,
    Facts,
    Gate,
    Outcome,
    ask_gate,
    exit_code,
    judge,
    parse_gate,
    worst,
)
from vitaie.manifests.statistics import MINIMUM_COUNTS

FACTS = Facts(
    n=5_153,
    top1=4_320,
    top5=4_900,
    cells=Cells(both=4_300, target_only=20, source_only=25, neither=808),
    agreement=5_110,
    performance="VALID",
    fps=58.79,
    latency_ms={"p50": 16.1, "p90": 17.2, "p95": 18.0, "p99": 40.1},
    placement=1.0,
)
EXAMPLES = (
    *("top1>=84.0", "top5>=97", "top1_drop<=0.3", "agreement>=0.99", "fps>=50"),
    *(f"latency_{name}_ms<=40" for name in MINIMUM_COUNTS),
    "placement>=1.0",
)


def verdict(gate: str, facts: Facts = FACTS) -> str:
    return judge(parse_gate(gate), facts).verdict


def drop(n: int, source_only: int, target_only: int) -> Facts:
    both = n - source_only - target_only
    return Facts(n=n, cells=Cells(both, target_only, source_only, 0))


# What can be required


def test_a_gate_is_a_metric_an_operator_and_a_number() -> None:
    assert parse_gate("top1>=84.0") == Gate("top1", ">=", 84.0)
    assert parse_gate(" latency_p99.9_ms <= 40\n") == Gate("latency_p99.9_ms", "<=", 40.0)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_metric_can_be_required_and_is_written_as_it_is_read(text: str) -> None:
    gate = parse_gate(text)
    assert parse_gate(str(gate)) == gate


@settings(deadline=None, database=None)
@given(st.decimals(0, 999_999_999, places=6))
def test_no_number_changes_when_a_gate_is_written_and_read(number: Any) -> None:
    gate = parse_gate(f"fps>={number}")
    assert parse_gate(str(gate)) == gate


REQUIREMENT: TypeAdapter[str] = TypeAdapter(Requirement)


def is_written_so(text: str) -> bool:
    try:
        return str(parse_gate(text)) == text
    except InputError:
        return False


def may_stand_in_a_manifest(text: str) -> bool:
    try:
        REQUIREMENT.validate_python(text)
    except ValidationError:
        return False
    return True


@settings(deadline=None, database=None, max_examples=500)
@given(
    st.sampled_from([text.rstrip("0123456789.") for text in EXAMPLES] + ["top2>=", "fps<="]),
    st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{0,7})?", fullmatch=True)
    | st.sampled_from(["100.0", "100.000001", "99.999999", "0.0", "1.0", "999999999.999999", ""]),
)
def test_a_manifest_holds_a_gate_just_as_it_is_written(head: str, number: str) -> None:
    assert may_stand_in_a_manifest(head + number) == is_written_so(head + number)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E_GATE_SYNTAX"),
        ("top1", "E_GATE_SYNTAX"),
        (">=84", "E_GATE_SYNTAX"),
        ("84.0<=top1", "E_GATE_SYNTAX"),
        ("TOP1>=84", "E_GATE_SYNTAX"),
        ("top-1>=84", "E_GATE_SYNTAX"),
        ("top2>=84", "E_GATE_METRIC"),
        ("top5_drop<=0.3", "E_GATE_METRIC"),
        ("latency_p98_ms<=4", "E_GATE_METRIC"),
        ("latency_p99<=4", "E_GATE_METRIC"),
        ("top1>84", "E_GATE_OPERATOR"),
        ("top1==84", "E_GATE_OPERATOR"),
        ("top1=>84", "E_GATE_OPERATOR"),
        ("top1<=84", "E_GATE_OPERATOR"),
        ("top5<=84", "E_GATE_OPERATOR"),
        ("top1_drop>=0.3", "E_GATE_OPERATOR"),
        ("agreement<=1", "E_GATE_OPERATOR"),
        ("fps<=50", "E_GATE_OPERATOR"),
        ("latency_p99_ms>=40", "E_GATE_OPERATOR"),
        ("placement<=1", "E_GATE_OPERATOR"),
        ("top1>=", "E_GATE_VALUE"),
        ("top1>=nan", "E_GATE_VALUE"),
        ("fps>=inf", "E_GATE_VALUE"),
        ("top1>=84%", "E_GATE_VALUE"),
        ("top1>=84,0", "E_GATE_VALUE"),
        ("top1>=8_4", "E_GATE_VALUE"),
        ("top1>=٨٤", "E_GATE_VALUE"),
        ("top1>=1e1", "E_GATE_VALUE"),
        ("top1>=-1", "E_GATE_VALUE"),
        ("top1>=100.000001", "E_GATE_VALUE"),
        ("top1>=84 top5>=90", "E_GATE_VALUE"),
        ("top1_drop<=0", "E_GATE_VALUE"),
        ("top1_drop<=100", "E_GATE_VALUE"),
        ("agreement>=99", "E_GATE_VALUE"),
        ("placement>=1.1", "E_GATE_VALUE"),
        ("fps>=1234567890", "E_GATE_VALUE"),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str, code: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_gate(text)
    assert caught.value.code == code
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["top1>=0.95", "top5>=0.000001", "top1>=1", "top5>=1.0"])
def test_a_rate_that_can_only_be_a_share_is_not_asked_for(text: str) -> None:
    """It would pass nearly everything. A bundle that says it passed it may still be judged."""
    with pytest.raises(InputError) as caught:
        ask_gate(text)
    gate = parse_gate(text)
    share = f"write '{gate.metric}>={100 * gate.value:g}"
    assert caught.value.code == "E_GATE_VALUE"
    assert share in caught.value.hint
    assert "in percent" in (caught.value.expected or "")


@pytest.mark.parametrize(
    "text", [*EXAMPLES, "top1>=0", "top1>=1.000001", "top1_drop<=0.003", "agreement>=0.95"]
)
def test_every_other_gate_is_asked_for_as_it_is_read(text: str) -> None:
    assert ask_gate(text) == parse_gate(text)


def test_a_gate_the_wrong_way_round_says_which_way_is_right() -> None:
    with pytest.raises(InputError, match=r"less is better: write 'top1_drop<=0\.3'"):
        parse_gate("top1_drop>=0.3")
    with pytest.raises(InputError, match=r"more is better: write 'fps>=50'"):
        parse_gate("fps<50")


# The measured figures


@pytest.mark.parametrize(
    ("gate", "facts"),
    [
        ("top1>=84.1", Facts(n=1_000, top1=841, top5=900)),
        ("top5>=90", Facts(n=1_000, top1=841, top5=900)),
        ("top1>=100", Facts(n=3, top1=3)),
        ("agreement>=0.99", Facts(n=1_000, agreement=990)),
        ("agreement>=1", Facts(n=1_000, agreement=1_000)),
        ("fps>=58.79", FACTS),
        ("latency_p99_ms<=40.1", FACTS),
        ("placement>=1.0", FACTS),
    ],
)
def test_a_figure_that_equals_the_value_passes(gate: str, facts: Facts) -> None:
    assert verdict(gate, facts) == "pass"


@pytest.mark.parametrize(
    ("gate", "facts"),
    [
        ("top1>=84.1", Facts(n=1_000, top1=840, top5=900)),
        ("top1>=84.000001", Facts(n=1_000, top1=840)),
        ("top5>=90.1", Facts(n=1_000, top1=841, top5=900)),
        ("agreement>=0.991", Facts(n=1_000, agreement=990)),
        ("fps>=58.790001", FACTS),
        ("latency_p99_ms<=40.099999", FACTS),
        ("placement>=1.0", Facts(placement=0.999999)),
    ],
)
def test_a_figure_just_short_of_the_value_fails(gate: str, facts: Facts) -> None:
    assert verdict(gate, facts) == "fail"


@settings(deadline=None, database=None)
@given(st.integers(1, 60_000), st.data())
def test_a_share_is_compared_exactly(n: int, data: st.DataObject) -> None:
    """A rounded share could pass what is below the value, or fail what equals it."""
    count = data.draw(st.integers(0, n))
    tenths = data.draw(st.integers(0, 1_000))
    gate = parse_gate(f"top1>={tenths // 10}.{tenths % 10}")
    expected = "pass" if 1_000 * count >= tenths * n else "fail"
    assert judge(gate, Facts(n=n, top1=count)).verdict == expected


def test_a_value_is_the_decimal_number_that_was_written() -> None:
    """Many a decimal is a little more as a float, such as 0.1: 100 of 1,000 would fall short."""
    for thousandths in range(1_001):
        gate = parse_gate(f"agreement>={thousandths / 1_000:.3f}")
        assert judge(gate, Facts(n=1_000, agreement=thousandths)).verdict == "pass"
        if thousandths:
            assert judge(gate, Facts(n=1_000, agreement=thousandths - 1)).verdict == "fail"


def test_a_latency_is_judged_by_its_own_percentile() -> None:
    assert verdict("latency_p50_ms<=16.1") == "pass"
    assert verdict("latency_p95_ms<=17.9") == "fail"


# Drops


def test_a_drop_is_judged_by_non_inferiority_not_by_the_difference() -> None:
    assert verdict("top1_drop<=0.3", drop(5_000, 10, 10)) == "pass"
    assert verdict("top1_drop<=0.3", drop(300, 0, 0)) == "undecidable"
    assert verdict("top1_drop<=0.3", drop(300, 0, 1)) == "undecidable"
    assert verdict("top1_drop<=0.5", drop(5_153, 53, 0)) == "fail"
    assert verdict("top1_drop<=0.3", drop(1_000, 4, 0)) == "undecidable"


def test_the_sides_of_a_drop_are_not_exchanged() -> None:
    assert verdict("top1_drop<=0.3", drop(5_000, 0, 50)) == "pass"
    assert verdict("top1_drop<=0.3", drop(5_000, 50, 0)) == "fail"


def test_an_undecidable_drop_says_how_many_images_would_decide() -> None:
    outcome = judge(parse_gate("top1_drop<=0.3"), drop(1_000, 10, 10))
    assert outcome.images_needed == pytest.approx(19_000, rel=0.02)
    assert f"{outcome.images_needed:,} images" in outcome.reason
    hopeless = judge(parse_gate("top1_drop<=0.3"), drop(1_000, 3, 0))
    assert hopeless.verdict == "undecidable"
    assert hopeless.images_needed is None
    assert "no number of images" in hopeless.reason


def test_a_decided_drop_needs_no_more_images() -> None:
    for facts in (drop(5_000, 0, 50), drop(5_000, 50, 0)):
        assert judge(parse_gate("top1_drop<=0.3"), facts).images_needed is None


# Evidence that is missing or does not count


@pytest.mark.parametrize("text", EXAMPLES)
def test_what_was_not_measured_is_undecidable(text: str) -> None:
    assert verdict(text, Facts()) == "undecidable"
    assert verdict(text, Facts(n=100, performance="VALID")) == "undecidable"


@pytest.mark.parametrize("text", EXAMPLES)
def test_no_images_are_no_evidence(text: str) -> None:
    nothing = Facts(n=0, top1=0, top5=0, cells=Cells(0, 0, 0, 0), agreement=0)
    assert verdict(text, nothing) == "undecidable"


@pytest.mark.parametrize("performance", ["INVALID", None])
def test_invalid_speed_is_undecidable_and_accuracy_is_not(performance: Any) -> None:
    facts = Facts(
        n=100,
        top1=90,
        performance=performance,
        fps=1e6,
        latency_ms=dict.fromkeys(MINIMUM_COUNTS, 0.001),
        placement=1.0,
    )
    for text in EXAMPLES:
        if text.startswith(("fps", "latency")):
            assert verdict(text, facts) == "undecidable", text
    assert verdict("top1>=84.0", facts) == "pass"
    assert verdict("placement>=1.0", facts) == "pass"


def test_a_percentile_of_too_few_calls_says_how_many_it_needs() -> None:
    outcome = judge(parse_gate("latency_p99.9_ms<=40"), FACTS)
    assert outcome.verdict == "undecidable"
    assert "6,636 calls" in outcome.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"n": -1},
        {"n": 10, "top1": 11},
        {"n": 10, "top5": -1},
        {"n": 10, "agreement": 11},
        {"n": 10, "top1": 5, "top5": 4},
        {"n": 10, "cells": Cells(5, 1, 1, 2)},
        {"n": 10, "cells": Cells(9, 2, -1, 0)},
        {"n": 10, "cells": Cells(5, 1, 1, 3), "top1": 5},
        {"fps": 0.0},
        {"fps": math.nan},
        {"fps": math.inf},
        {"latency_ms": {"p50": -1.0}},
        {"latency_ms": {"p50": math.nan}},
        {"placement": 1.5},
        {"placement": math.nan},
    ],
)
def test_facts_that_cannot_be_are_refused_before_any_gate(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Facts(**fields)


# Reasons and exit codes


@pytest.mark.parametrize(
    ("gate", "figures"),
    [
        ("top1>=84.0", ("83.8347%", "4,320 of 5,153", "95% interval")),
        ("top5>=97", ("95.0902%", "4,900 of 5,153")),
        ("top1_drop<=0.3", ("0.097 points", "25 are right in the source only", "20 in the target")),
        ("agreement>=0.99", ("99.1655%", "5,110 of 5,153")),
        ("fps>=50", ("58.79 images a second",)),
        ("latency_p99_ms<=40", ("40.1 ms",)),
        ("placement>=1.0", ("1 of the operators",)),
    ],
)
def test_the_reason_gives_the_figures_in_one_line(gate: str, figures: tuple[str, ...]) -> None:
    outcome = judge(parse_gate(gate), FACTS)
    for figure in figures:
        assert figure in outcome.reason
    assert str(outcome) == f"{outcome.verdict}: {outcome.gate}: {outcome.reason}"
    assert "\n" not in str(outcome)


CODES = {"pass": 0, "undecidable": 6, "fail": 1}


@pytest.mark.parametrize("verdicts", list(itertools.product(CODES, repeat=3)))
def test_several_gates_come_to_the_worst_of_them(verdicts: tuple[Any, ...]) -> None:
    outcomes = [Outcome(Gate("fps", ">=", 1.0), each, "") for each in verdicts]
    expected = max(verdicts, key=list(CODES).index)
    assert worst(outcomes) == expected
    assert exit_code(outcomes) == CODES[expected]


def test_no_gate_is_no_objection() -> None:
    assert exit_code([]) == 0
