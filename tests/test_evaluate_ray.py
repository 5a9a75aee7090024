"""On a Ray cluster an evaluation ends with the record that this machine would have made."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.bundles import copy_bundle, reseal
from tests.support.evaluation import Eval, files, record, start, timeless, wait_for
from vitaie.manifests.errors import ImageError, VitaieError
from vitaie.runtime import _ascend, _ray
from vitaie.runtime._dataset import Entry
from vitaie.runtime._environment import collect
from vitaie.runtime._seeing import Batch

if _ray.missing():
    pytest.skip(_ray.missing(), allow_module_level=True)

from tests.support.ray_nodes import HOST, Node, Nodes, cluster, kill_process

pytestmark = pytest.mark.usefixtures("cache")

Pair = tuple[Nodes, list[Node]]
DEVICE_TARGET = "ascend310p3-fp32-b4-o0"


@pytest.fixture(scope="module")
def nodes() -> Generator[Pair, None, None]:
    """Return a cluster of two nodes with one processor each, of which no test takes any."""
    with cluster(1, 1) as started:
        yield started


@pytest.fixture(scope="module")
def local(
    digits_bundle: tuple[Path, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the record of an unpaired run of batch size 4 on this machine."""
    output = tmp_path_factory.mktemp("local") / "record.json"
    options = ("--unpaired", "--threads", 1, "--batch-size", 4, "-o", output)
    with start(digits_bundle[0], "--data", pictures, *options) as process:
        _, messages = process.communicate()
    assert process.returncode == 0, messages
    return output


def on(nodes: Nodes, output: Path, *more: object) -> tuple[object, ...]:
    """Return the options of the same run on a cluster."""
    options = ("--unpaired", "--threads", 1, "--batch-size", 4, "-o", output)
    return (*options, "--engine", "ray", "--address", nodes.address, *more)


# The record


def test_a_clusters_record_is_the_local_one_with_its_pairs(
    digits_bundle: tuple[Path, Path], tmp_path: Path, nodes: Pair
) -> None:
    bundle, held_out = digits_bundle
    outputs = [tmp_path / "local.json", tmp_path / "ray.json"]
    engines: list[list[object]] = [[], ["--engine", "ray", "--address", nodes[0].address]]
    err = ""
    for output, engine in zip(outputs, engines):
        options = ("--threads", 1, "-o", output, "--journal", tmp_path / "journal", *engine)
        with start(bundle, "--data", held_out, *options) as process:
            out, err = process.communicate()
        assert process.returncode == 0, err
        assert out.splitlines()[-1].endswith(", step is 360")
    assert "360/360 top-1 " in err
    assert timeless(outputs[0]) == timeless(outputs[1])
    assert record(outputs[1]).images.source is not None


# What is lost on the way


def test_a_killed_worker_and_a_killed_node_cost_only_their_shards(
    digits_bundle: tuple[Path, Path], pictures: Path, tmp_path: Path, local: Path
) -> None:
    output = tmp_path / "record.json"
    with cluster(1, 1) as (nodes, (first, second)):
        slow = on(nodes, output, "--journal", tmp_path / "journal")
        with start(digits_bundle[0], "--data", pictures, *slow) as process:
            wait_for(process, tmp_path / "journal", 1000)
            for pid in first.workers():
                kill_process(pid)
            second.kill()
            _, err = process.communicate()
    assert process.returncode == 0, err
    assert "a worker was lost with " in err
    assert timeless(output) == timeless(local)


def test_a_killed_command_goes_on_where_its_journal_ends(
    digits_bundle: tuple[Path, Path], pictures: Path, tmp_path: Path, nodes: Pair, local: Path
) -> None:
    output = tmp_path / "record.json"
    arguments = (digits_bundle[0], "--data", pictures, *on(nodes[0], output))
    with start(*arguments) as process:
        wait_for(process, tmp_path / "record.json.journal", 1000)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with start(*arguments) as process:
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert re.search(r"going on after [1-9]\d* of 600 images", err)
    assert timeless(output) == timeless(local)


def test_an_interrupted_command_lets_go_of_the_cluster_and_says_how_to_go_on(
    digits_bundle: tuple[Path, Path], pictures: Path, tmp_path: Path, nodes: Pair, local: Path
) -> None:
    output = tmp_path / "record.json"
    arguments = (digits_bundle[0], "--data", pictures, *on(nodes[0], output))
    with start(*arguments) as process:
        wait_for(process, tmp_path / "record.json.journal", 1000)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    match = re.search(r"Run the same command again: it goes on after (\d+) images\.$", err.strip())
    assert match is not None, err
    with start(digits_bundle[0], "--data", pictures, *on(nodes[0], output)) as process:
        _, err = process.communicate()
    assert f"going on after {match[1]} of 600 images" in err
    assert timeless(output) == timeless(local)


def test_work_that_is_lost_again_and_again_is_given_up(
    digits_bundle: tuple[Path, Path], pictures: Path, tmp_path: Path, nodes: Pair
) -> None:
    arguments = (digits_bundle[0], "--data", pictures, *on(nodes[0], tmp_path / "record.json"))
    with start(*arguments) as process:
        while process.poll() is None:
            for node in nodes[1]:
                for pid in node.workers():
                    kill_process(pid)
            time.sleep(0.01)
        _, err = process.communicate()
    assert process.returncode == 6, err
    assert err.splitlines()[-1].startswith("E_CLUSTER_LOST: Ray: ")


# Clusters that will not do


def test_a_cluster_without_a_node_of_so_many_processors_is_refused(
    cli: Eval, digits_bundle: tuple[Path, Path], nodes: Pair
) -> None:
    options = ("--unpaired", "--threads", 64, "--engine", "ray", "--address", nodes[0].address)
    result = cli(digits_bundle[0], "--data", digits_bundle[1], *options)
    assert result.code == 6, result.err
    last = result.err.splitlines()[-1]
    assert last.startswith("E_CLUSTER_FULL: Ray: no node of the Ray cluster is large enough")
    assert "(expected a node with 64 CPU, got 1 CPU)" in last


def test_what_is_no_cluster_is_an_error_of_one_line(
    cli: Eval, digits_bundle: tuple[Path, Path]
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent_port = silent.getsockname()[1]
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            closed_port = closed.getsockname()[1]
        for address, code, exit_code in (
            (f"127.0.0.1:{silent_port}", "E_CLUSTER_UNREACHABLE", 6),
            (f"127.0.0.1:{closed_port}", "E_CLUSTER_UNREACHABLE", 6),
            ("127.0.0.1", "E_ARGUMENT", 2),
            ("ray://127.0.0.1:10001", "E_ARGUMENT", 2),
            ("127.0.0.1:0", "E_ARGUMENT", 2),
            ("127.0.0.1:65536", "E_ARGUMENT", 2),
        ):
            options = ("--unpaired", "--engine", "ray", "--address", address)
            result = cli(digits_bundle[0], "--data", digits_bundle[1], *options)
            assert (result.code, result.out) == (exit_code, "")
            assert result.err.splitlines()[-1].startswith(f"{code}: ")


@pytest.mark.parametrize(
    "options", [("--engine", "ray"), ("--address", "127.0.0.1:6379"), ("--engine", "dask")]
)
def test_an_engine_and_its_address_go_together(
    cli: Eval, digits_bundle: tuple[Path, Path], options: tuple[str, ...]
) -> None:
    result = cli(digits_bundle[0], "--data", digits_bundle[1], *options)
    assert (result.code, result.err.split(":")[0]) == (2, "E_ARGUMENT")


def test_without_ray_its_extra_is_named(
    cli: Eval, digits_bundle: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ray, "missing", lambda: "ray is not installed")
    options = ("--unpaired", "--engine", "ray", "--address", "127.0.0.1:6379")
    result = cli(digits_bundle[0], "--data", digits_bundle[1], *options)
    assert (result.code, result.err.splitlines()[-1].split(":")[0]) == (6, "E_EXTRA_MISSING")


# A node that is not as this machine is


class Odd(NamedTuple):
    """A node of two processors, whose files and packages can be made others than ours.

    Attributes:
        nodes: Its cluster, where it is the only node with two processors.
        node: The node.
        path: A folder where its Python looks for packages first.
    """

    nodes: Nodes
    node: Node
    path: Path

    def mount(self, *arguments: object) -> None:
        """Mount something where this node alone sees it."""
        self._inside("mount", *arguments, check=True)

    def unmount(self, place: object) -> None:
        """Undo it, if anything is mounted there."""
        self._inside("umount", place, check=False)

    def _inside(self, *command: object, check: bool) -> None:
        inside = ("nsenter", "-t", str(self.node.process.pid), "-U", "-m", "--preserve-credentials")
        subprocess.run([*inside, *map(str, command)], check=check, capture_output=True)


@pytest.fixture(scope="module")
def odd(nodes: Pair, tmp_path_factory: pytest.TempPathFactory) -> Odd:
    path = tmp_path_factory.mktemp("odd")
    environment = {"PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}
    node = nodes[0].add(2, within=("unshare", "-rm"), environment=environment)
    return Odd(nodes[0], node, path)


def another_version(odd: Odd, bundle: Path, data: Path, folder: Path) -> str:
    metadata = odd.path / "onnxruntime-0.0.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 0.0.1\n")
    return r"onnxruntime: .* \(expected [1-9][.\d]+, got 0\.0\.1\)\."


def no_vitaie(odd: Odd, bundle: Path, data: Path, folder: Path) -> str:
    (odd.path / "vitaie").mkdir()
    (odd.path / "vitaie" / "__init__.py").touch()
    return r"vitaie: .* Install vitaie on every node as on this machine\."


def another_processor(odd: Odd, bundle: Path, data: Path, folder: Path) -> str:
    flag = collect().features[-1]
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    (folder / "cpuinfo").write_text(re.sub(rf"\b{flag}\b", "", text), encoding="utf-8")
    odd.mount("--bind", folder / "cpuinfo", "/proc/cpuinfo")
    return rf"instruction set {flag}: .* \(expected it, got none\)\."


def no_data(odd: Odd, bundle: Path, data: Path, folder: Path) -> str:
    odd.mount("-t", "tmpfs", "none", data.parent)
    return rf"{data}: .* \(expected the dataset, got no folder\)\."


def another_image(odd: Odd, bundle: Path, data: Path, folder: Path) -> str:
    image = files(data)[20]
    (folder / "empty").touch()
    odd.mount("--bind", folder / "empty", image)
    return rf"{image}: .* \(expected as it is here, got no bytes\)\."


def no_bundle(odd: Odd, bundle: Path, data: Path, folder: Path) -> str:
    odd.mount("-t", "tmpfs", "none", bundle)
    return rf"{bundle}: .* \(expected the bundle, got .*\)\."


def another_bundle(odd: Odd, bundle: Path, data: Path, folder: Path) -> str:
    copy = copy_bundle(bundle, folder / "another")
    reseal(copy, lambda whole: whole["source"].update(file="another.npz"))
    odd.mount("--bind", copy, bundle)
    return rf"{bundle}: .* \(expected [0-9a-f]{{64}}, got [0-9a-f]{{64}}\)\."


@pytest.mark.parametrize(
    "fault",
    [
        another_version,
        another_processor,
        no_data,
        another_bundle,
        *(
            pytest.param(each, marks=pytest.mark.long)
            for each in (another_image, no_bundle, no_vitaie)
        ),
    ],
)
def test_a_node_that_is_not_as_this_machine_is_refused(
    cli: Eval,
    digits_bundle: tuple[Path, Path],
    few: Path,
    tmp_path: Path,
    odd: Odd,
    fault: Callable[[Odd, Path, Path, Path], str],
) -> None:
    bundle = copy_bundle(digits_bundle[0], tmp_path / "bundle")
    data = tmp_path / "above" / "val"
    data.parent.mkdir()
    few.rename(data)
    image = files(data)[20]
    try:
        expected = fault(odd, bundle, data, tmp_path)
        options = ("--unpaired", "--threads", 2, "--engine", "ray", "--address", odd.nodes.address)
        result = cli(bundle, "--data", data, *options)
    finally:
        shutil.rmtree(odd.path)
        odd.path.mkdir()
        for place in (bundle, data.parent, "/proc/cpuinfo", image):
            odd.unmount(place)
    last = result.err.splitlines()[-1]
    assert result.code == 6, result.err
    assert last.startswith((f"E_CLUSTER_NODE: node {HOST} (", "E_CLUSTER_NODE: Ray: "))
    assert re.search(expected, last), last


def test_a_bundle_that_is_spoilt_on_a_node_does_not_open(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path, odd: Odd
) -> None:
    bundle = copy_bundle(digits_bundle[0], tmp_path / "bundle")
    spoilt = tmp_path / "labels.txt"
    spoilt.write_bytes((bundle / "labels.txt").read_bytes().swapcase()[:-1] + b" ")
    odd.mount("--bind", spoilt, bundle / "labels.txt")
    options = ("--unpaired", "--threads", 2, "--engine", "ray", "--address", odd.nodes.address)
    result = cli(bundle, "--data", few, *options)
    odd.unmount(bundle / "labels.txt")
    assert result.code == 1, result.err
    last = result.err.splitlines()[-1]
    assert re.match(rf"E_BUNDLE_FILE_DIGEST: node {HOST} \([0-9a-f]{{8}}\): ", last), last


# A target that is made for a device


@pytest.fixture(scope="module")
def on_device(
    digits_bundle: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Path, None, None]:
    """Return the demo's bundle with a target of the double's, which this process's children find.

    So do nodes that are started from now on.
    """
    ascend = pytest.importorskip("tests.support.ascend")
    add_target = importlib.import_module("tests.support.ascend_target").add_target
    with ascend.installed("v100"):
        try:
            bundle: Path = add_target(digits_bundle[0], tmp_path_factory.mktemp("device"), "v100")
        finally:
            _ascend.finish()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ascend.FOLDER / "v100"))
        yield bundle


WithDevices = Callable[[Nodes, int, dict[str, int]], Node]


@pytest.fixture(name="with_devices")
def _with_devices() -> Generator[WithDevices, None, None]:
    """Add nodes that have devices, and kill them at the end, whatever became of the test."""
    added: list[Node] = []

    def add(nodes: Nodes, cpus: int, resources: dict[str, int]) -> Node:
        added.append(nodes.add(cpus, resources=resources))
        return added[-1]

    yield add
    for node in added:
        node.kill()


def test_each_worker_of_a_target_for_a_device_has_a_device_of_its_own(
    on_device: Path, pictures: Path, tmp_path: Path, nodes: Pair, with_devices: WithDevices
) -> None:
    node = with_devices(nodes[0], 2, {"ascend310p3-0": 1, "ascend310p3-1": 1})
    outputs = [tmp_path / "local.json", tmp_path / "ray.json"]
    same = ("--data", pictures, "--target", DEVICE_TARGET, "--unpaired", "--threads", 1)
    engines: list[list[object]] = [[], ["--engine", "ray", "--address", nodes[0].address]]
    err = ""
    for output, engine in zip(outputs, engines):
        with start(on_device, *same, "-o", output, *engine) as process:
            _, err = process.communicate()
        assert process.returncode == 0, err
    assert timeless(outputs[0]) == timeless(outputs[1])
    devices = re.findall(rf"node {HOST} \([0-9a-f]{{8}}\): a worker has (\S+)", err)
    assert sorted(devices) == ["ascend310p3-0", "ascend310p3-1"]
    deadline = time.monotonic() + 60
    while node.workers():  # one that was told to end takes a moment to be gone
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.1)


@pytest.mark.long
def test_a_device_is_the_one_whose_number_the_node_says(
    cli: Eval, on_device: Path, few: Path, nodes: Pair, with_devices: WithDevices
) -> None:
    with_devices(nodes[0], 1, {"ascend310p3-7": 1})
    options = ("--target", DEVICE_TARGET, "--unpaired", "--threads", 1)
    with importlib.import_module("tests.support.ascend").on_path("v100"):
        result = cli(
            on_device, "--data", few, *options, "--engine", "ray", "--address", nodes[0].address
        )
    last = result.err.splitlines()[-1]
    assert result.code == 6, result.err
    assert re.match(rf"E_DEVICE: node {HOST} \([0-9a-f]{{8}}\): mindietorch double: start", last)
    assert "aclrtSetDevice failed, device 7" in last


def test_a_cluster_whose_nodes_say_nothing_of_devices_is_refused(
    cli: Eval, on_device: Path, few: Path, nodes: Pair
) -> None:
    options = ("--target", DEVICE_TARGET, "--unpaired", "--threads", 1)
    with importlib.import_module("tests.support.ascend").on_path("v100"):
        result = cli(
            on_device, "--data", few, *options, "--engine", "ray", "--address", nodes[0].address
        )
    last = result.err.splitlines()[-1]
    assert (result.code, last.split(":")[0]) == (6, "E_CLUSTER_FULL"), result.err
    assert "a node with 1 CPU and a resource ascend310p3-N" in last
    assert """--resources='{"ascend310p3-0": 1}'""" in last


# Parts


NODES: list[dict[str, float]] = [
    {"CPU": 4, "ascend310p3-0": 1, "ascend310p3-1": 1, "memory": 1e9},
    {"CPU": 1, "ascend310p3-0": 1, "ascend310p3-10": 1},
    {"CPU": 2, "node:127.0.0.2": 1, "ascend310p3": 1, "ascend310p3-x": 1, "ascend310p3-01": 1},
    {"ascend310p3-3": 1},
    {"CPU": 1, "ascend310p3-5": 0.5},
]


@pytest.mark.parametrize(
    ("threads", "device", "room"),
    [
        (1, "cpu", {0: 8}),
        (2, "cpu", {0: 3}),
        (8, "cpu", {}),
        (1, "ascend310p3", {0: 2, 1: 1}),
        (2, "ascend310p3", {0: 1, 1: 1}),
        (4, "ascend310p3", {0: 1}),
        (1, "ascend910b", {}),
    ],
)
def test_a_node_has_room_for_workers_by_its_processors_and_its_devices(
    threads: int, device: str, room: dict[int, int]
) -> None:
    assert dict(_ray.room_on(NODES, threads, device)) == room


def test_shards_are_runs_of_batches_in_order() -> None:
    entries = tuple(Entry(f"{n}.jpg", f"/{n}.jpg", 0) for n in range(48))
    batches = [Batch(number, entries, ()) for number in (0, 1, 2, 5, 6, 9, 11)]
    cut = [[batch.number for batch in run] for run in _ray.shards(batches)]
    assert cut == [[0, 1, 2], [5, 6, 9], [11]]
    large = [Batch(number, entries * 10, ()) for number in range(2)]
    assert [len(run) for run in _ray.shards(large)] == [1, 1]


def test_an_error_crosses_from_one_process_to_another() -> None:
    error = ImageError("E_IMAGE_BROKEN", "a\n.jpg", field="b", expected=None, got=3, hint="c")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ImageError
    assert isinstance(copy, VitaieError)
    assert copy.details() == error.details()
