"""A Ray cluster on this machine, of real nodes that can be killed, or see other files than we do.

Each node is ``ray start --block`` in a process of its own, as README says, on a loopback address.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

RAY = Path(sys.executable).with_name("ray")
HOST = "127.0.0.2"
"""A loopback address; Ray takes 127.0.0.1 for the address that the machine has in its network."""

_START_S = 60.0
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_health_check_period_ms": "1000"}


class Node(NamedTuple):
    """One node: the process that started it, and the file it writes to."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """Kill all of it, as if its machine had lost its power."""
        for pid in (*descendants(self.process.pid), self.process.pid):
            kill_process(pid)
        self.process.wait()

    def workers(self) -> list[int]:
        """Return the processes that run our workers."""
        return [pid for pid in descendants(self.process.pid) if "ray::Worker" in _title(pid)]


class Nodes:
    """A cluster: its head computes nothing, the nodes that are added do."""

    def __init__(self, folder: Path) -> None:
        """Start the head. ``folder`` has a short name: sockets lie in it."""
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        self.address = f"{HOST}:{port}"
        self._folder = folder
        self._nodes: list[Node] = []
        self._start(
            *("--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=0"),
            f"--temp-dir={folder / 'ray'}",
        )

    def add(
        self,
        cpus: int,
        *,
        resources: Mapping[str, int] | None = None,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Node:
        """Start a node, and wait until it is part of the cluster.

        Args:
            cpus: Processors that it says it has.
            resources: What else it says it has, such as devices.
            within: A command that starts it, such as ``unshare -rm``.
            environment: Variables that it has and this process does not.
        """
        arguments = [f"--address={self.address}", f"--num-cpus={cpus}"]
        if resources:
            arguments.append(f"--resources={json.dumps(resources)}")
        return self._start(*arguments, within=within, environment=environment or {})

    def _start(
        self, *arguments: str, within: Sequence[str] = (), environment: Mapping[str, str] = {}
    ) -> Node:
        log = self._folder / f"node{len(self._nodes)}.log"
        common = ("--block", "--disable-usage-stats", f"--node-ip-address={HOST}")
        memory = f"--object-store-memory={80 * 2**20}"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*within, str(RAY), "start", *common, memory, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_QUIET, **environment},
            )
        node = Node(process, log)
        self._nodes.append(node)
        deadline = time.monotonic() + _START_S
        while b"Ray runtime started" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return node

    def close(self) -> None:
        """Kill every node that is left."""
        for node in reversed(self._nodes):
            if node.process.poll() is None:
                node.kill()


@contextmanager
def cluster(*cpus: int) -> Generator[tuple[Nodes, list[Node]], None, None]:
    """Start a cluster of nodes with so many processors each; kill them at the end."""
    folder = Path(tempfile.mkdtemp(prefix="vr-"))
    nodes = Nodes(folder)
    try:
        yield nodes, [nodes.add(count) for count in cpus]
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


def kill_process(pid: int) -> None:
    """Kill a process, unless it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they started."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            match = re.fullmatch(r"(\d+) \(.*\) \S (\d+) .*", status.read_text(), re.DOTALL)
            if match and int(match[2]) == pid:
                found += [int(match[1]), *descendants(int(match[1]))]
    return found


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""
