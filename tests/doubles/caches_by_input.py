"""A cheat: whatever it has seen before it answers from memory. Every answer is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.doubles import simulated


class Engine(simulated.Engine):
    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        memory: dict[bytes, NDArray[np.float32]] = self.__dict__.setdefault("memory", {})
        key = batch.tobytes()
        if key not in memory:
            memory[key] = super().logits(batch)
        else:
            simulated.clock.work(simulated.COST_NS // 2)
        return memory[key].copy()


def main() -> None:
    simulated.run(Engine)
