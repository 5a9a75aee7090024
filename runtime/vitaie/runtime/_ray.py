"""An evaluation's batches, seen on a Ray cluster: ``see`` does what ``_seeing.see`` does here.

Each worker is a process on some node. It opens and verifies the bundle for itself, and is given
shards, runs of a few batches, one after another. A worker that is lost costs the shard that it
had: another is given it. Ray itself retries nothing, so that what is tried again, and how often,
is decided in one place, and a worker can own what it runs on for as long as it lives.

A target that is made for a device runs on one device for each worker. A node says which it has by
resources that bear their numbers, ``ascend310p3-0`` and so on: Ray then gives each to one worker of
one job at a time, and nothing hangs on how a device's software counts what it is shown.

The numbers are those that this machine would have given, since a node that has other packages or
instruction sets, another bundle, or not the same files is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Optional

from vitaie.manifests.errors import (
    BundleError,
    ImageError,
    InputError,
    TargetUnavailable,
    VitaieError,
)
from vitaie.runtime import _ascend
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._environment import collect
from vitaie.runtime._model import choose_target
from vitaie.runtime._seeing import Batch, Engines, Seen, read_entry, see_here

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Preprocess
    from vitaie.manifests.measurement import Environment

SHARD_IMAGES = 128
"""About so many images are a shard: what a lost worker costs, and how often progress is told."""

MAX_LOSSES = 3
"""A shard that so many workers were lost with, or so many workers lost in opening, end the run."""

_CONNECT_S = 5.0
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How a client of HTTP/2, and so of gRPC, begins: RFC 9113, 3.4, and a frame of no settings."""
_POLL_S = 1.0
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", re.ASCII)

_MAX_PORT = 65535

_log = logging.getLogger("vitaie")


@dataclass(frozen=True)
class Job:
    """What every worker does, and what it must have to do it. Plain values, for any version.

    Attributes:
        bundle: The absolute path of a version's folder.
        content_digest: Of that bundle.
        target: The id of the target.
        target_digest: Of that target.
        source: The id of the source's target; None for unpaired.
        threads: Of each engine, and as many processors a worker takes of its node.
        data: The absolute path of the dataset's folder.
        packages: Name and version of all that the driver has.
        features: Instruction sets that the driver has.
        device: What the target runs on: ``cpu``, or what begins the names of a node's resources.
    """

    bundle: str
    content_digest: str
    target: str
    target_digest: str
    source: Optional[str]
    threads: int
    data: str
    packages: dict[str, str]
    features: tuple[str, ...]
    device: str


def see(
    address: str, job: Job, batches: Sequence[Batch], spec: Preprocess
) -> Generator[tuple[int, list[Seen]], None, None]:
    """Yield each batch's number and what was seen of it, in any order.

    Args:
        address: HOST:PORT of the cluster's head. This machine must be one of its nodes.
        job: What is done.
        batches: On what.
        spec: The preprocessing, with which an image that a node cannot use is tried here.

    Raises:
        InputError: ``E_ARGUMENT``, it is no address.
        TargetUnavailable: Ray is not installed, or the cluster cannot be reached, is not set up as
            this machine is, has no room, or loses its workers again and again.
        VitaieError: What a worker says of the bundle or the engine, with the node.
    """
    by_number = {batch.number: batch for batch in batches}
    with _connected(address) as ray, _Workers(ray, job, batches) as workers:
        for node, number, block in workers.results():
            for entry, seen in zip(by_number[number].entries, block):
                # Nobody but this machine says that an image of the dataset is unusable.
                if isinstance(seen, ImageError) and not isinstance(
                    read_entry(entry, spec), ImageError
                ):
                    raise _node_error(node, entry.file, "as it is here", seen.got or seen.sentence)
            yield number, block


# On a node


class Worker:
    """What runs on a node, in a process of its own, for as long as there are shards."""

    def __init__(self) -> None:
        """Open nothing yet: what goes wrong in a call can be told."""
        self._stack = ExitStack()
        self._node = ""
        self._engines: Engines
        self._decoders = 1

    def open(self, job: Job, device_id: int) -> str:
        """See that this node is as the job says, and open and verify the bundle; return its name.

        The device of this number, where the job's target runs on one, is this process's from the
        first batch on until ``close``.

        Raises:
            TargetUnavailable: ``E_CLUSTER_NODE``.
            BundleError: The bundle does not open here.
        """
        ray: Any = importlib.import_module("ray")
        self._node = _name(ray.nodes(), ray.get_runtime_context().get_node_id())
        for what, expected, got in differences(job, collect()):
            raise _node_error(self._node, what, expected, got)
        if not os.path.isdir(job.data):
            raise _node_error(self._node, job.data, "the dataset", "no folder")
        try:
            bundle = self._stack.enter_context(open_bundle(job.bundle, early="model.ts"))
            bundle.check()
        except BundleError as error:
            if error.code in ("E_BUNDLE_NOT_FOUND", "E_MANIFEST_MISSING"):
                raise _node_error(
                    self._node, job.bundle, "the bundle", error.got or "none"
                ) from None
            raise _at(self._node, error) from None
        manifest = bundle.manifest
        target = choose_target(manifest, job.target)
        found = (manifest.content_digest, target.target_digest)
        for expected, got in zip((job.content_digest, job.target_digest), found):
            if expected != got:
                raise _node_error(self._node, job.bundle, expected, got)
        source = None if job.source is None else choose_target(manifest, job.source)
        self._engines = Engines(bundle, target, source, job.threads, device_id)
        self._decoders = job.threads
        return self._node

    def see(self, batches: Sequence[Batch]) -> tuple[str, list[tuple[int, list[Seen]]]]:
        """Return this node's name, and of each batch its number and what was seen of it."""
        try:
            return self._node, list(see_here(self._engines, batches, self._decoders))
        except VitaieError as error:
            raise _at(self._node, error) from None

    def close(self) -> None:
        """Let go of the bundle and of the device, which Ray's way to end a process does not."""
        self._stack.close()
        _ascend.finish()


def _name(nodes: list[dict[str, Any]], identity: str) -> str:
    """Return how a message calls a node: its address, and the beginning of its id in Ray's logs."""
    addresses = [node["NodeManagerAddress"] for node in nodes if node["NodeID"] == identity]
    return " ".join([*addresses, f"({identity[:8]})"])


def differences(job: Job, mine: Environment) -> Iterator[tuple[str, str, str]]:
    """Yield what decides on a bit of a logit and is another here: what, expected and got.

    Ray itself refuses another Python. How many processors there are decides nothing, since the
    job says how many threads there are.
    """
    for name in sorted({*job.packages, *mine.packages}):
        expected, got = job.packages.get(name, "none"), mine.packages.get(name, "none")
        if expected != got:
            yield name, expected, got
    for name in sorted({*job.features} ^ {*mine.features}):
        expected, got = ("it", "none") if name in job.features else ("none", "it")
        yield f"instruction set {name}", expected, got


def _node_error(node: str, what: str, expected: object, got: object) -> TargetUnavailable:
    return TargetUnavailable(
        "E_CLUSTER_NODE",
        f"node {node}",
        field=what,
        expected=expected,
        got=got,
        hint="Every node needs the same packages, kind of processor, and paths as this machine.",
    )


def _at(node: str, error: VitaieError) -> VitaieError:
    """Return an error as one of a node."""
    where, kind = f"node {node}: {error.where}", type(error)
    field, expected, got = error.field, error.expected, error.got
    return kind(error.code, where, field=field, expected=expected, got=got, hint=error.hint)


# On this machine


def shards(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Cut batches into runs of about ``SHARD_IMAGES`` images."""
    run: list[Batch] = []
    for batch in batches:
        run.append(batch)
        if sum(len(each.entries) for each in run) >= SHARD_IMAGES:
            yield run
            run = []
    if run:
        yield run


class _Shard(NamedTuple):
    batches: list[Batch]
    losses: int


class _Worker(NamedTuple):
    """A process on some node, by Ray's handle, and the device that it has; 0 where none is."""

    actor: Any
    device_id: int


class _Call(NamedTuple):
    """What a worker is doing; ``shard`` is what it sees."""

    worker: _Worker
    step: Literal["open", "see", "close"]
    shard: Optional[_Shard] = None


class _Workers:
    """As many workers as the cluster has room for, each with one call under way."""

    def __init__(self, ray: Any, job: Job, batches: Sequence[Batch]) -> None:
        """Take over the shards; ``results`` starts the workers."""
        self._ray = ray
        self._job = job
        self._waiting = deque(_Shard(run, 0) for run in shards(batches))
        self._calls: dict[Any, _Call] = {}
        self._lost_opening = 0
        self._remote = ray.remote(Worker)

    def __enter__(self) -> _Workers:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End every worker, whatever it is doing."""
        for call in self._calls.values():
            self._kill(call.worker)

    def results(self) -> Iterator[tuple[str, int, list[Seen]]]:
        """Yield a node, a batch's number and what that node saw of it, until none is left."""
        while self._waiting or self._calls:
            self._hire()
            done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=_POLL_S)
            for reference in done:
                call = self._calls.pop(reference)
                try:
                    result = self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    self._kill(call.worker)
                    raise _told(error) from None
                except self._ray.exceptions.RayError as error:  # the worker or its node is gone
                    self._kill(call.worker)
                    if getattr(error, "actor_init_failed", False):
                        raise _no_vitaie(error) from None
                    self._lose(call, error)
                    continue
                if call.step == "close":
                    self._kill(call.worker)
                    continue
                self._employ(call.worker)
                if call.step == "open":
                    self._lost_opening = 0
                    if self._job.device != "cpu":
                        device = f"{self._job.device}-{call.worker.device_id}"
                        _log.info("node %s: a worker has %s", result, device)
                else:
                    node, blocks = result
                    for number, block in blocks:
                        yield node, number, block
            self._dismiss()

    def _hire(self) -> None:
        """Start workers while there are shards for them and nodes with room."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = room_on(nodes, self._job.threads, self._job.device)
        opening = sum(call.step == "open" for call in self._calls.values())
        if not room and opening == len(self._calls):
            raise _no_room(nodes, self._job.threads, self._job.device)
        free = room - Counter(call.worker.device_id for call in self._calls.values())
        for device_id in sorted(free.elements()):
            if opening >= len(self._waiting):
                return
            actor = self._remote.options(
                num_cpus=self._job.threads,
                resources=self._device(device_id),
                max_restarts=0,
                max_task_retries=0,
            )
            worker = _Worker(actor.remote(), device_id)
            self._calls[worker.actor.open.remote(self._job, device_id)] = _Call(worker, "open")
            opening += 1

    def _device(self, device_id: int) -> dict[str, float]:
        """Return what a worker claims beside processors, by Ray's names."""
        return {} if self._job.device == "cpu" else {f"{self._job.device}-{device_id}": 1}

    def _dismiss(self) -> None:
        """End workers that are not open yet when no shard waits for them: they may never be.

        Another job can have taken what they claim.
        """
        if not self._waiting:
            for reference, call in list(self._calls.items()):
                if call.step == "open":
                    del self._calls[reference]
                    self._kill(call.worker)

    def _employ(self, worker: _Worker) -> None:
        """Give a worker the next shard, or let it go."""
        if self._waiting:
            shard = self._waiting.popleft()
            call = _Call(worker, "see", shard)
            self._calls[worker.actor.see.remote(shard.batches)] = call
        else:
            self._calls[worker.actor.close.remote()] = _Call(worker, "close")

    def _kill(self, worker: _Worker) -> None:
        self._ray.kill(worker.actor)

    def _lose(self, call: _Call, error: Exception) -> None:
        """Put a shard back whose worker was lost; give up where that happens again and again."""
        shard = call.shard
        if call.step == "close":
            return
        if shard is None:
            self._lost_opening += 1
            losses, doing = self._lost_opening, "opening the bundle"
        else:
            shard = _Shard(shard.batches, shard.losses + 1)
            self._waiting.appendleft(shard)
            losses, doing = shard.losses, f"the images from {shard.batches[0].entries[0].path} on"
        _log.info("a worker was lost with %s, for the %d. time", doing, losses)
        if losses >= MAX_LOSSES:
            hint = "The cluster's logs say why; too little memory is the usual reason."
            got = " ".join(str(error).split())
            raise TargetUnavailable("E_CLUSTER_LOST", "Ray", field=doing, got=got, hint=hint)


def room_on(nodes: Sequence[Mapping[str, float]], threads: int, device: str) -> Counter[int]:
    """Return how many workers fit on nodes with these resources, by the number of their device.

    A node has room for as many as it has processors for, ``threads`` each. On a device each also
    has one for itself; on the CPU all have the number 0.
    """
    room: Counter[int] = Counter()
    for node in nodes:
        most = int(node.get("CPU", 0) // threads)
        if device == "cpu":
            room[0] += most
        else:
            room.update(_device_ids(node, device)[:most])
    return +room


def _device_ids(node: Mapping[str, float], device: str) -> list[int]:
    """Return the numbers of the devices that a node's resources name."""
    pattern = re.compile(rf"{re.escape(device)}-(0|[1-9][0-9]{{0,3}})")
    found = (pattern.fullmatch(name) for name, count in node.items() if count >= 1)
    return sorted(int(match[1]) for match in found if match)


def _no_room(nodes: Sequence[Mapping[str, float]], threads: int, device: str) -> TargetUnavailable:
    """Return the error of a cluster that has no node for a single worker."""
    most = max((node.get("CPU", 0) for node in nodes), default=0)
    expected, got = f"a node with {threads} CPU", f"{most:g} CPU"
    hint = "Give fewer --threads, or start a larger node."
    if device != "cpu":
        seen = {f"{device}-{number}" for node in nodes for number in _device_ids(node, device)}
        expected += f" and a resource {device}-N, N the number of its device"
        got += f", {', '.join(sorted(seen)) or 'no such resource'}"
        if not seen:
            hint = f"""Start each node as: ray start ... --resources='{{"{device}-0": 1}}'"""
    return TargetUnavailable("E_CLUSTER_FULL", "Ray", expected=expected, got=got, hint=hint)


def _told(error: Any) -> Exception:
    """Return what a worker raised; what no user can cause is a bug, and stays as it is."""
    if isinstance(error.cause, VitaieError):
        return error.cause
    found: Exception = error
    return found


def _no_vitaie(error: Exception) -> TargetUnavailable:
    """Return the error of a node that cannot even begin: our part of that cannot fail."""
    return TargetUnavailable(
        "E_CLUSTER_NODE",
        "Ray",
        field="vitaie",
        expected="the same packages as here",
        got=str(error).strip().splitlines()[-1],
        hint="Install vitaie on every node as on this machine.",
    )


def missing() -> str:
    """Return what this machine lacks to use a cluster."""
    if importlib.util.find_spec("ray") is None:
        return "ray is not installed: install vitaie's extra [ray], as README says"
    return ""


def _unanswered(host: str, port: int) -> str:
    """Return why nobody there speaks as Ray does; it would wait for an answer without an end."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S) as connection:
            connection.settimeout(_CONNECT_S)
            connection.sendall(_HELLO)
            answer = connection.recv(9)
    except (OSError, OverflowError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "" if answer[3:4] == b"\4" else "an answer that is not Ray's"


@contextmanager
def _connected(address: str) -> Generator[Any, None, None]:
    """Connect this process to a cluster, and leave it again. Yields the module ``ray``."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[2]) <= _MAX_PORT:
        expected = f"HOST:PORT, of a port from 1 to {_MAX_PORT}"
        raise InputError("E_ARGUMENT", "address", expected=expected, got=address)
    if missing():
        hint = "Run: vitaie-build doctor"
        raise TargetUnavailable("E_EXTRA_MISSING", "ray", got=missing(), hint=hint)
    hint = "Start it with: ray start --head --disable-usage-stats --include-dashboard=false"
    problem = _unanswered(match[1].strip("[]"), int(match[2]))
    if problem:
        raise TargetUnavailable("E_CLUSTER_UNREACHABLE", address, got=problem, hint=hint)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns about it
    ray: Any = importlib.import_module("ray")
    importlib.import_module("ray.exceptions")
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # Ray documents no exception classes
        got = " ".join(str(error).split())
        raise TargetUnavailable("E_CLUSTER_UNREACHABLE", address, got=got, hint=hint) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # which Ray has taken
    try:
        yield ray
    finally:
        ray.shutdown()
