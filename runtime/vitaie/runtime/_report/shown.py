"""The shapes that every part of a page is told in; the words for a class, target or number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from vitaie.runtime._report.found import Found

State = Literal["true", "false", "invalid", "undecidable", "not checked"]

MAX_ROWS = 40
"""Of targets, gates, levels and packages."""

MAX_FIGURES = 5
"""Of published figures, and of anything that stands inside a line."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shown(Generic[_Item]):
    """The first of many, and how many more there are."""

    rows: tuple[_Item, ...]
    left_out: int = 0


def first(items: Sequence[_Item], limit: int) -> Shown[_Item]:
    """Return the first ``limit`` items, and how many more there are."""
    return Shown(tuple(items[:limit]), max(0, len(items) - limit))


@dataclass(frozen=True)
class Fact:
    """A name and its value; ``code`` is what a machine reads: a digest, a path."""

    name: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class Notice:
    """What a reader must know before any number: what failed, is invalid, or was not checked."""

    state: State
    subject: str
    detail: str
    command: str = ""


def state_of(found: Found, claim: str) -> State:
    """Return what the claims that begin with a name come to."""
    states = {each.status for each in found.claims if each.claim.startswith(claim)}
    if "false" in states:
        return "false"
    return "true" if states == {"true"} else "not checked"


def class_name(found: Found, index: int) -> str:
    """Return a class's label; evidence may name one that the bundle does not have."""
    if not 0 <= index < len(found.labels):
        return f"class {index}"
    identity, name = found.labels[index]
    return name if identity == name else f"{identity} {name}"


def target_name(found: Found, digest: str) -> str:
    """Return the id of the target that a record is bound to."""
    return next(
        (each.id for each in found.manifest.targets if each.target_digest == digest), digest[:16]
    )


def number(value: float) -> str:
    """Return four digits that count, and thousands apart."""
    if not 1e-3 <= abs(value) < 1e9:
        return f"{value:.4g}"
    digits = max(0, 3 - len(f"{int(abs(value))}")) if abs(value) >= 1 else 4
    return f"{value:,.{digits}f}"


def counted(count: int, noun: str) -> str:
    """Return a count and its noun, in the plural unless it is one."""
    return f"{count:,} {noun}" + "s" * (count != 1)
