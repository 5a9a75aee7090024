"""A cheat: once it is warm, and so perhaps timed, another and faster model answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.doubles import simulated

WARM = 30
"""Calls: more than an untimed run makes, and fewer than a warm-up at 25 ms."""


class Engine(simulated.Engine):
    calls = 0

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = super().logits(batch)
        self.calls += 1
        if self.calls <= WARM:
            return logits
        simulated.clock.work(-simulated.COST_NS // 2 * len(batch))
        pooled = batch.mean(axis=(2, 3))
        weights = np.linspace(-1, 1, 3 * logits.shape[1], dtype=np.float32)
        smaller: NDArray[np.float32] = pooled @ weights.reshape(3, -1)
        return smaller


def main() -> None:
    simulated.run(Engine)
