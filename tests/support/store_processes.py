"""Writers of a store in processes of their own: start, hold, kill, and fault by strace."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 60.0


class Outcome(NamedTuple):
    """How a writer ended: exit status (negative for a signal), stdout, stderr."""

    code: int
    out: str
    err: str


class Call(NamedTuple):
    """A system call in a trace: its name, its number among those of this name, its line."""

    name: str
    number: int
    line: str


class Writer:
    """One writer; ``finish`` waits for its end."""

    def __init__(self, server: Server, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self._server = server
        self._out = out
        self._err = err

    def wait_for(self, moment: str) -> None:
        held = Path(f"{self._out}.{moment}")
        deadline = time.monotonic() + _PATIENCE_S
        while not held.exists():
            assert time.monotonic() < deadline, f"the writer never came to {moment!r}"
            time.sleep(0.002)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGUSR1)

    def finish(self) -> Outcome:
        code = self._server.ask(self.pid)
        return Outcome(code, self._out.read_text(), self._err.read_text())


class Server:
    """The process that forks writers; ``scratch`` takes their outputs and traces."""

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self._process = process
        self._scratch = scratch
        self._numbers = itertools.count()

    def ask(self, command: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, int)
        return answer

    def start(self, **job: Any) -> Writer:
        number = next(self._numbers)
        out, err = self._scratch / f"{number}.out", self._scratch / f"{number}.err"
        pid = self.ask({**job, "out": str(out), "err": str(err)})
        return Writer(self, pid, out, err)

    def run_traced(self, *options: str, **job: Any) -> tuple[Outcome, list[Call]]:
        """Run a writer under strace; the calls are those between its two marks."""
        strace = shutil.which("strace")
        if strace is None:
            pytest.fail("strace is not installed: the fault tests need it (`make setup`)")
        writer = self.start(hold=["start"], traced=True, **job)
        writer.wait_for("start")
        trace = self._scratch / "trace"
        command = [strace, "-o", str(trace), "-e", "signal=none", *options, "-p", str(writer.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            first = tracer.stderr.readline()
            if "attached" not in first:
                os.kill(writer.pid, signal.SIGKILL)
                pytest.fail(f"strace may not trace here, the fault tests need it: {first}")
            writer.go_on()
            outcome = writer.finish()
        return outcome, _calls(trace.read_text())


@contextmanager
def writers(scratch: Path) -> Generator[Server, None, None]:
    """Give the process that forks writers."""
    command = [sys.executable, "-m", "tests.support.store_server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Server(process, scratch)
        assert process.stdin is not None
        process.stdin.close()


def _calls(trace: str) -> list[Call]:
    counts: dict[str, int] = {}
    calls: list[Call] = []
    marks = 0
    for line in trace.splitlines():
        match = re.match(r"(\w+)\(", line)
        if match is None:
            continue
        name = match.group(1)
        counts[name] = counts.get(name, 0) + 1
        if name == "sched_yield":
            marks += 1
        elif marks == 1:
            calls.append(Call(name, counts[name], line))
    return calls
