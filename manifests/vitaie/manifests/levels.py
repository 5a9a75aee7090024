"""Which optimisation level ships: the rule by which it is chosen, and an audit checks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from vitaie.manifests.contents import LevelRecord

WITHIN = 0.05
"""Of the fastest level's speed: a lower level that is so near does less to the graph, and ships."""


def choose_level(levels: Sequence[LevelRecord]) -> Optional[LevelRecord]:
    """Return the lowest level within 5% of the fastest that is VALID and passes its gates.

    None when there is no such level.
    """
    passing = [
        level
        for level in levels
        if level.verdict == "VALID" and all(gate.verdict == "pass" for gate in level.gates)
    ]
    if not passing:
        return None
    fastest = max(level.fps for level in passing)
    near = [level for level in passing if level.fps >= (1 - WITHIN) * fastest]
    return min(near, key=lambda level: level.optim_level)
