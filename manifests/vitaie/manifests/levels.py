"""Which optimisation level ships: the rule by which it is chosen, and an audit checks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from vitaie.manifests.contents import GateRecord, LevelRecord
from vitaie.manifests.gates import OF_SPEED, parse_gate

WITHIN = 0.05
"""Of the fastest level's speed: a lower level that is so near does less to the graph, and ships."""


def level_that_ships(levels: Sequence[LevelRecord]) -> Optional[LevelRecord]:
    """Return the level that a table comes to, taken in turns as they are evaluated.

    Of those that are VALID and pass their gates on speed, the best by ``choose_level`` ships if it
    passes all; where its predictions decided against it, the best of the others is next. One whose
    turn came and that was never evaluated is returned: nothing after it can ship.
    """
    left = list(levels)
    while True:
        by_speed = [
            level.model_copy(update={"gates": tuple(filter(_of_speed, level.gates))})
            for level in left
        ]
        found = choose_level(by_speed)
        if found is None:
            return None
        best = left[by_speed.index(found)]
        passes = all(gate.verdict == "pass" for gate in best.gates)
        if passes or best.predictions is None:
            return best
        left.remove(best)


def _of_speed(gate: GateRecord) -> bool:
    return parse_gate(gate.require).metric in OF_SPEED


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
