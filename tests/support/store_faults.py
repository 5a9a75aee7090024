"""One fault at each system call of a writer in turn, and what must hold after every one of them.

A case names a call of an undisturbed run (name and number) and a fault: an error number that
the call gives instead of being made, or a signal that arrives at it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests.support.store_processes import Call, Outcome

SIGNALS = {
    "SIGKILL": -signal.SIGKILL,
    "SIGTERM": 130,
    "SIGINT": 130,
}
NEEDS_SPACE = {"mkdir", "mkdirat", "openat", "write", "fsync", "renameat2", "linkat"}
CHANGES = NEEDS_SPACE | {"chmod", "fchmod", "fchmodat", "flock", "rmdir", "unlink", "unlinkat"}
_MEMORY = {"brk", "mmap", "mremap", "munmap", "madvise", "rt_sigaction", "rt_sigprocmask"}


class Case(NamedTuple):
    """A fault at a call; ``position`` counts the calls of the undisturbed run."""

    call: Call
    position: int
    fault: str

    @property
    def option(self) -> str:
        kind = "signal" if self.fault in SIGNALS else "error"
        return f"inject={self.call.name}:{kind}={self.fault}:when={self.call.number}"

    def __str__(self) -> str:
        return f"{self.fault} at {self.call.name} {self.call.number}: {self.call.line}"


def cases(calls: list[Call], faults: Iterable[str], names: set[str] | None = None) -> list[Case]:
    """Return each fault at each call where it can be, of the named calls or of all."""
    return [
        Case(call, position, fault)
        for position, call in enumerate(calls)
        for fault in faults
        if names is None or call.name in names
        if call.name not in _MEMORY
        if fault != "ENOSPC" or call.name in NEEDS_SPACE
    ]


def last(calls: list[Call], name: str) -> int:
    """Return the position of the last call of this name."""
    return max(position for position, call in enumerate(calls) if call.name == name)


def ending_problems(case: Case, outcome: Outcome, calls: list[Call]) -> list[str]:
    """Return what is wrong with how the process ended, whatever it left behind."""
    problems: list[str] = []
    if case.fault in SIGNALS:
        if outcome.code != SIGNALS[case.fault]:
            problems.append(f"exit code {outcome.code}")
    elif outcome.code not in (0, 2, 5):
        problems.append(f"exit code {outcome.code}")
    elif not any("(INJECTED)" in call.line for call in calls):
        problems.append("the fault was not injected")
    lines = 0 if outcome.code in (0, -signal.SIGKILL) else 1
    if len(outcome.err.splitlines()) != lines or not outcome.err.startswith("E_"[: 2 * lines]):
        problems.append(f"stderr {outcome.err!r}")
    if outcome.code == 0 and any(_failed(call) for call in calls):
        problems.append("success, with a step of the publication failed")
    return problems


def _failed(call: Call) -> bool:
    steps = ("fsync", "renameat2", "linkat", "write")
    return call.name in steps and re.search(r" = -1 (EIO|ENOSPC) ", call.line) is not None


def entries(folder: Path) -> set[str]:
    """Return every path in a folder, none when it is not there."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} | (
        {"."} if os.path.lexists(folder) else set()
    )
