"""A worker that the system kills."""

from __future__ import annotations

import os
import signal


def main() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
