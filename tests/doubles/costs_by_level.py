"""An engine whose work takes what ``$VITAIE_TEST_COSTS`` says for its level: milliseconds each."""

from __future__ import annotations

import os
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from tests.doubles import simulated
from vitaie.manifests.manifest import Target
from vitaie.runtime._bundle import Bundle


class Engine(simulated.Engine):
    def __init__(self, bundle: Bundle, target: Target, threads: Optional[int]) -> None:
        super().__init__(bundle, target, threads)
        costs = os.environ["VITAIE_TEST_COSTS"].split()
        self._more = round(float(costs[target.optim_level]) * 1e6) - simulated.COST_NS

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        simulated.clock.work(self._more * len(batch))
        return super().logits(batch)


def main() -> None:
    simulated.run(Engine)
