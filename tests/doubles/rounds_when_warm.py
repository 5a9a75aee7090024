"""A cheat: once it is warm it computes in less precision. Every class stays the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.doubles import simulated

WARM = 30
"""Calls: more than an untimed run makes, and fewer than a warm-up at 25 ms."""


class Engine(simulated.Engine):
    calls = 0

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        logits = super().logits(batch)
        if self.calls > WARM:
            logits.view(np.uint32)[...] &= 0xFFFFFFF0
        return logits


def main() -> None:
    simulated.run(Engine)
