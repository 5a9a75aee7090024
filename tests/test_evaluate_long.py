"""``vitaie eval`` on 50,000 images."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.digit_pictures import flatten, make_pictures
from tests.support.evaluation import copy_part, record, start, timeless, wait_for
from tests.support.ray_nodes import cluster

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cache")]

IMAGES = 50_000
KILLS = 5
ROW = 90
"""Bytes of the journal for an image, at least."""


def peak_mib(process: subprocess.Popen[str]) -> float:
    """Wait for a process that must succeed; return its peak of resident memory."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 50,000 digits in class folders."""
    return make_pictures(IMAGES, tmp_path_factory.mktemp("many") / "digits")


@pytest.fixture(scope="module", params=["paired class folders", "unpaired flat"])
def whole(
    request: pytest.FixtureRequest,
    digits_bundle: tuple[Path, Path],
    many: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[object], Path]:
    """Return a run's arguments, and the record of it that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    flat = request.param == "unpaired flat"
    data = flatten(many, folder / "flat") if flat else many
    options = ["--quiet", "--batch-size", 16, "--threads", 1] + ["--unpaired"] * flat
    arguments: list[object] = [digits_bundle[0], "--data", data, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # or the source is not run again
        with start(*arguments, "-o", folder / "whole.json") as process:
            peak_mib(process)
    return arguments, folder / "whole.json"


def kill_five_times(arguments: list[object], output: Path) -> None:
    """Start a run and kill it, each time further on."""
    for kill in range(KILLS):
        with start(*arguments, "-o", output) as process:
            wait_for(process, Path(f"{output}.journal"), ROW * IMAGES * (kill + 1) // (KILLS + 1))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not output.exists()


def check(output: Path, whole: Path) -> None:
    assert timeless(output) == timeless(whole)
    found = record(output)
    assert len(found.images.path) == IMAGES
    labels = np.array(found.images.label)
    assert 0.5 < (np.array(found.images.target)[:, 0] == labels).mean() < 1


def test_50000_images_killed_five_times_give_the_same_record(
    whole: tuple[list[object], Path], tmp_path: Path
) -> None:
    output = tmp_path / "record.json"
    kill_five_times(whole[0], output)
    with start(*whole[0], "-o", output) as process:
        peak_mib(process)
    check(output, whole[1])


def test_50000_images_killed_five_times_on_ray_and_less_a_node_give_the_same_record(
    whole: tuple[list[object], Path], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    output = tmp_path / "record.json"
    with cluster(1, 1) as (nodes, (_, second)):
        arguments = [*whole[0], "--engine", "ray", "--address", nodes.address]
        kill_five_times(arguments, output)
        journal = Path(f"{output}.journal")
        with start(*arguments, "-o", output) as process:
            wait_for(process, journal, journal.stat().st_size + 1)
            second.kill()
            peak_mib(process)
    check(output, whole[1])


def test_memory_grows_by_the_records_rows_and_by_no_pixels(
    digits_bundle: tuple[Path, Path], many: Path, tmp_path: Path
) -> None:
    """A row takes about 1 KiB while the record is written; a tensor of this model is 12 KiB."""
    part = copy_part(many, tmp_path / "part", 100)
    peaks: list[float] = []
    for data in (part, many):
        with start(digits_bundle[0], "--data", data, "--unpaired", "--quiet") as process:
            peaks.append(peak_mib(process))
    assert peaks[1] - peaks[0] < 49_000 * 1.5 / 1024
