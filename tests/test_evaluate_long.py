"""``vitaie eval`` on 50,000 images."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.digit_pictures import flatten, make_pictures
from tests.support.evaluation import copy_part, record, start, timeless, wait_for

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cache")]

KILLS = 5


def peak_mib(process: subprocess.Popen[str]) -> float:
    """Wait for a process that must succeed; return its peak of resident memory."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 50,000 digits in class folders."""
    return make_pictures(50_000, tmp_path_factory.mktemp("many") / "digits")


@pytest.mark.parametrize(("layout", "pairing"), [("folders", "paired"), ("flat", "unpaired")])
def test_50000_images_killed_five_times_give_the_same_record(
    digits_bundle: tuple[Path, Path], many: Path, tmp_path: Path, layout: str, pairing: str
) -> None:
    data = many if layout == "folders" else flatten(many, tmp_path / "flat")
    options = ["--quiet", "--batch-size", 16] + ["--unpaired"] * (pairing == "unpaired")
    whole, output = tmp_path / "whole.json", tmp_path / "record.json"
    with start(digits_bundle[0], "--data", data, "-o", whole, *options) as process:
        peak_mib(process)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # or the source is not run again
    journal = tmp_path / "record.json.journal"
    row = 190 if pairing == "paired" else 160  # bytes of the journal for an image, at least half
    for kill in range(KILLS):
        with start(digits_bundle[0], "--data", data, "-o", output, *options) as process:
            wait_for(process, journal, row * 8_000 * (kill + 1) // 2)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not output.exists()
    with start(digits_bundle[0], "--data", data, "-o", output, *options) as process:
        peak_mib(process)
    assert timeless(output) == timeless(whole)
    found = record(output)
    assert len(found.images.path) == 50_000
    labels = np.array(found.images.label)
    assert 0.5 < (np.array(found.images.target)[:, 0] == labels).mean() < 1


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
