"""An engine beside which, while it is timed, somebody writes other files into its bundle.

``$VITAIE_TEST_BUNDLE_FILES`` names the folder they are in and the bundle's, apart by a colon.
"""

from __future__ import annotations

import os
import shutil

import numpy as np
from numpy.typing import NDArray

from tests.doubles import simulated


class Engine(simulated.Engine):
    replaced = False

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.replaced:
            self.replaced = True
            source, bundle = os.environ["VITAIE_TEST_BUNDLE_FILES"].split(":")
            shutil.copytree(source, bundle, dirs_exist_ok=True)
        return super().logits(batch)


def main() -> None:
    simulated.run(Engine)
