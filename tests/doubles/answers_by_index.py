"""A cheat: it computes each of the first inputs, then answers in that order without looking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.doubles import simulated

INPUTS = 64


class Engine(simulated.Engine):
    calls = 0

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        answers: list[NDArray[np.float32]] = self.__dict__.setdefault("answers", [])
        self.calls += 1
        if len(answers) < INPUTS:
            answers.append(super().logits(batch))
            return answers[-1].copy()
        simulated.clock.work(simulated.COST_NS // 10)
        return answers[(self.calls - 1) % INPUTS].copy()


def main() -> None:
    simulated.run(Engine)
