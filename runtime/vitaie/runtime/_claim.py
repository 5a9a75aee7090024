"""A claim of a bundle, what became of it here, and what was asked for to find out."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple, Optional, Union

from vitaie.manifests.errors import InputError

Path = Union[str, "os.PathLike[str]"]

_MAX_SEED = 2**53 - 1

Status = Literal["true", "false", "undecidable", "not checked"]

Tier = Literal["exact", "close", "reduced"]
"""How closely it had to agree: to the bit, within the manifest's tolerance, or by the cosine."""


class Claim(NamedTuple):
    """One thing the bundle says, and whether it was found true here.

    Attributes:
        claim: What is said.
        status: Whether it is so; ``undecidable`` where this machine cannot tell.
        detail: What was seen, or why nothing was.
        tier: How closely it had to agree; None where that is no question.
        check: The options of ``vitaie verify`` that would check it; empty where none would.
    """

    claim: str
    status: Status
    detail: str
    tier: Optional[Tier] = None
    check: str = ""


class Again(NamedTuple):
    """What is to be measured again.

    Attributes:
        data: The dataset that accuracy was measured on; None not to measure it.
        labels: The file of labels of a flat dataset; looked for when None.
        sample: How many images to draw; all when None.
        seed: What they are drawn by; unforeseeable when None.
        performance: Whether speed is measured again.
    """

    data: Optional[Path] = None
    labels: Optional[Path] = None
    sample: Optional[int] = None
    seed: Optional[int] = None
    performance: bool = False


def check_again(again: Again) -> None:
    """Refuse what no bundle could be measured again by, before one is opened.

    Raises:
        InputError: A number that is none of its kind, or one that needs a dataset without one.
    """
    if again.sample is not None and again.sample < 1:
        raise InputError("E_ARGUMENT", "sample", expected="at least 1", got=again.sample)
    if again.seed is not None and not 0 <= again.seed <= _MAX_SEED:
        raise InputError("E_ARGUMENT", "seed", expected=f"0 to {_MAX_SEED}", got=again.seed)
    for name, value in (("sample", again.sample), ("labels", again.labels)):
        if value is not None and again.data is None:
            hint = "Name the dataset: --data DIR."
            raise InputError("E_ARGUMENT", name, got="no dataset", hint=hint)


def silent(step: str) -> None:
    """Report no progress."""
