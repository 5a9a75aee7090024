"""An engine that gets slower while it runs: in as many processes as ``$VITAIE_TEST_SLOW`` says.

The file that it names holds a letter for each process so far, and a digit that says how many.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.doubles import simulated


class Engine(simulated.Engine):
    slow = False

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.slow:
            simulated.clock.work(simulated.clock.now_ns // 1000)
        return super().logits(batch)


def main() -> None:
    log = Path(os.environ["VITAIE_TEST_SLOW"])
    told = log.read_text(encoding="ascii")
    log.write_text(told + "p", encoding="ascii")
    Engine.slow = told.count("p") < int(told[0])
    simulated.run(Engine)
