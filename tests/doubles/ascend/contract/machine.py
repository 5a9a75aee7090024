"""The machine that the double pretends to be: its state, its rules of order, its clock, its faults.

Real packages document no class of exception, so every rule here breaks with a class of its own
choosing. The clock is virtual: it moves when the device works, and not before somebody waits.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional

DEVICES = 2
COST_NS = 1_000_000
"""What one forward takes, on the machine's own clock."""

FAULT = "VITAIE_DOUBLE_FAULT"
"""The environment's ``STEP N [kill]``: the N-th call of that step fails, or ends the process."""


class DeviceError(Exception):
    """A class that nobody could have expected."""


class _Unspeakable(Exception):
    """One whose text cannot even be had."""

    def __str__(self) -> str:
        raise RuntimeError("this exception has no text")


CLASSES: dict[str, type[Exception]] = {
    "arguments": TypeError,
    "values": ValueError,
    "order": RuntimeError,
    "thread": DeviceError,
    "device": OSError,
    "operator": KeyError,
    "finalized": AssertionError,
    "unspeakable": _Unspeakable,
}
"""What is raised, by kind of rule. A caller that catches less than ``Exception`` misses some."""


def refuse(kind: str, message: str) -> Exception:
    """Return what is raised when a rule of a kind is broken."""
    return CLASSES[kind](message)


@dataclass
class Machine:
    """One process's view of the devices."""

    device: Optional[int] = None
    thread: int = 0
    finalized: bool = False
    now_ns: int = 0
    calls: list[str] = field(default_factory=list[str])
    queue: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    tuned: set[bytes] = field(default_factory=set[bytes])
    faults: dict[str, tuple[int, Exception]] = field(
        default_factory=dict[str, tuple[int, Exception]]
    )

    def step(self, name: str, *, needs_device: bool = True) -> None:
        """Note a call, and refuse it where the order of calls or its thread is wrong."""
        if self.finalized:
            raise refuse("finalized", f"{name} after finalize")
        if needs_device and self.device is None:
            raise refuse("order", f"{name} before set_device")
        if needs_device and threading.get_ident() != self.thread:
            raise refuse("thread", f"{name} on another thread than set_device")
        self.calls.append(name)
        self._break(name)

    def set_device(self, device: object) -> None:
        """Take a device, once, for the thread that calls."""
        self.step("set_device", needs_device=False)
        if type(device) is not int:
            raise refuse("arguments", f"device must be int, got {type(device).__name__}")
        if not 0 <= device < DEVICES:
            raise refuse("device", f"aclrtSetDevice failed, device {device}, error code 107001")
        if self.device not in (None, device):
            raise refuse("device", f"device {self.device} is set in this process already")
        if self.device is not None and threading.get_ident() != self.thread:
            raise refuse("thread", "set_device on two threads")
        self.device, self.thread = device, threading.get_ident()

    def finalize(self) -> None:
        """Give everything back; nothing works afterwards."""
        self.step("finalize")
        self.finalized = True

    def submit(self, work: Callable[[], None]) -> None:
        """Take work for later, as a stream does."""
        self.queue.append(work)

    def drain(self) -> None:
        """Do the work that was submitted, on the machine's own clock."""
        while self.queue:
            self.queue.pop(0)()
            self.now_ns += COST_NS

    def fail(self, step: str, error: Optional[Exception] = None, *, after: int = 0) -> None:
        """Let the call of ``step`` that comes after so many raise ``error``."""
        self.faults[step] = (after, error or refuse("device", f"{step}: error code 507018"))

    def _break(self, name: str) -> None:
        step, number, *kill = os.environ.get(FAULT, "none 0").split()
        if step == name and self.calls.count(name) == int(number):
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise refuse("device", f"{name}: error code 507018")
        if name in self.faults:
            after, error = self.faults.pop(name)
            if not after:
                raise error
            self.faults[name] = (after - 1, error)


MACHINE = Machine()
"""Of this import of the package: another import is another process."""
