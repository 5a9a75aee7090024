"""A clock that only work moves on, and an engine whose work takes what it says, on any machine."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from vitaie.runtime import _ascend, _onnxruntime, _timing

TICK_NS = 1_000 + os.getpid() % 97
"""Of each reading; no two processes that follow each other have the same times."""
COST_NS = 1_000_000 * int(os.environ.get("VITAIE_TEST_COST_MS", "10"))
"""Of an image. The more it costs, the fewer calls come to the seconds that a protocol asks for."""


class Clock:
    """Moves on by a tick when it is read, and by what work takes when that is done."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += TICK_NS
        return self.now_ns

    def work(self, cost_ns: int = COST_NS) -> None:
        self.now_ns += cost_ns


clock = Clock()


class Engine(_onnxruntime.Engine):
    """Computes what it should, and takes its cost for each image."""

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        clock.work(COST_NS * len(batch))
        return super().logits(batch)


def run(engine: type[_onnxruntime.Engine]) -> None:
    """Be the timing process, with this engine and this clock, whatever the target."""
    for module in (_onnxruntime, _ascend):
        setattr(module, "Engine", engine)  # noqa: B010, a type checker would not have it assigned
    _timing.main(clock)
