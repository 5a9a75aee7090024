"""An engine that does what it says, though it prints where it should not."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from tests.doubles import simulated


class Engine(simulated.Engine):
    told = False

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.told:
            self.told = True
            os.write(1, b"a library's banner\n")
        return super().logits(batch)


def main() -> None:
    simulated.run(Engine)
