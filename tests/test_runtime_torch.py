"""The TorchScript engine keeps every promise of the default one, and gives the same logits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.images import PHOTOS
from vitaie import runtime

TARGET = "torchscript-cpu-fp32"


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Generator[runtime.Model, None, None]:
    with runtime.load(small_bundle, target=TARGET, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def batch(model: runtime.Model) -> NDArray[np.float32]:
    shape = (8, *model.preprocess(PHOTOS / "cat.jpg").shape)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_both_engines_give_the_same_logits(
    model: runtime.Model, batch: NDArray[np.float32], small_bundle: Path, size: int
) -> None:
    with runtime.load(small_bundle, target="cpu") as other:
        expected = other.logits(batch[:size])
    assert np.abs(model.logits(batch[:size]) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_batch_gives_what_its_images_give_one_by_one(
    model: runtime.Model, batch: NDArray[np.float32], size: int
) -> None:
    alone = np.concatenate([model.logits(image[np.newaxis]) for image in batch[:size]])
    assert np.abs(model.logits(batch[:size]) - alone).max() <= 1e-5 * np.abs(alone).max()


def test_how_a_batch_lies_in_memory_does_not_matter(
    model: runtime.Model, batch: NDArray[np.float32]
) -> None:
    expected = model.logits(batch)
    read_only = batch.copy()
    read_only.flags.writeable = False
    for other in (np.asfortranarray(batch), np.repeat(batch, 2, axis=0)[::2], read_only):
        assert np.array_equal(model.logits(other), expected)


def test_eight_threads_get_the_same_answers(
    model: runtime.Model, batch: NDArray[np.float32]
) -> None:
    expected = [model.logits(image[np.newaxis]) for image in batch]
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait()
        return all(
            np.array_equal(model.logits(batch[index : index + 1]), expected[index])
            for index in (np.arange(20) + number) % 8
        )

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [True] * 8


def test_the_named_target_is_the_one_that_runs(model: runtime.Model) -> None:
    assert model.target.id == TARGET


def test_classifying_a_stream_is_as_with_the_default_engine(
    model: runtime.Model, small_bundle: Path
) -> None:
    images: list[runtime.Image] = [PHOTOS / "cat.jpg", PHOTOS / "rocket.jpg"]
    with runtime.load(small_bundle, target="cpu") as other:
        expected = [[p.index for p in row] for row in other.classify(images)]
    assert [[p.index for p in row] for row in model.classify(images)] == expected


@pytest.mark.parametrize("decoy", ["none", "same size"])
def test_a_model_ts_in_the_working_directory_changes_nothing(
    model: runtime.Model,
    batch: NDArray[np.float32],
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoy: str,
) -> None:
    if decoy == "same size":
        size = (small_bundle / "model.ts").stat().st_size
        (tmp_path / "model.ts").write_bytes(os.urandom(size))
    monkeypatch.chdir(tmp_path)
    with runtime.load(small_bundle, target=TARGET, threads=1) as loaded:
        assert np.array_equal(loaded.logits(batch), model.logits(batch))


def test_loading_again_and_again_leaves_no_file_open(small_bundle: Path) -> None:
    runtime.load(small_bundle, target=TARGET).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        runtime.load(small_bundle, target=TARGET).close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("command", ["vitaie verify", "vitaie classify", "vitaie-build bundle"])
def test_torch_is_not_imported_in_a_folder_that_was_deleted(
    small_bundle: Path, tmp_path: Path, command: str
) -> None:
    """Intel's oneMKL would end the process with words and an exit code of its own."""
    program, name = command.split()
    arguments: dict[str, list[object]] = {
        "verify": [small_bundle.resolve(), "--target", TARGET],
        "classify": [small_bundle.resolve(), PHOTOS / "cat.jpg", "--target", TARGET],
        "bundle": ["vit_base_patch16_224", "--checkpoint", "vit.npz"],
    }
    gone = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"'
    start = ["sh", "-c", gone, tmp_path / "gone", Path(sys.executable).with_name(program), name]
    done = subprocess.run(
        [*map(str, [*start, *arguments[name], "--quiet"])], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 6
    (line,) = done.stderr.splitlines()
    assert line.startswith("E_TARGET_UNAVAILABLE: ")
    assert "folder was deleted" in line
