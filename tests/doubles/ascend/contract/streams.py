"""``npu``: streams, and no ``synchronize`` of all of them."""

from __future__ import annotations

from typing import Any, Optional

from .machine import MACHINE, refuse


class Stream:
    """Work in the order of its submission; whoever does not wait for it has not measured it."""

    def __init__(self, device: str) -> None:
        """Make one on the device that was set."""
        MACHINE.step("stream")
        if device != f"npu:{MACHINE.device}":
            raise refuse("device", f"{device} is not npu:{MACHINE.device}, which was set")

    def synchronize(self) -> None:
        """Wait for all that was submitted."""
        MACHINE.step("synchronize")
        MACHINE.drain()


class stream:  # noqa: N801 - the package's own name
    """Submit what is called inside to a stream."""

    def __init__(self, of: object) -> None:
        """Take a stream, and nothing else."""
        if not isinstance(of, Stream):
            raise refuse("arguments", f"stream takes a Stream, got {type(of).__name__}")

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, *error: Optional[Any]) -> None:
        """End; nothing is waited for."""
