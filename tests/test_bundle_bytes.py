"""Every byte of a bundle is the one the manifest names, and what was hashed is what runs."""

from __future__ import annotations

import errno
import importlib
import mmap
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.bundles import copy_bundle, document, flips, refused, reseal
from vitaie import runtime
from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError
from vitaie.manifests.manifest import Artifact
from vitaie.runtime import _bytes
from vitaie.runtime._bundle import open_bundle


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to give ONNX Runtime a graph to parse."""
    made: list[object] = []
    real: Any = importlib.import_module("onnxruntime").InferenceSession

    def record(*arguments: object, **options: object) -> Any:
        made.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr("onnxruntime.InferenceSession", record)
    return made


def test_two_files_swapped_are_refused(bundle: Path) -> None:
    one, two = bundle / "golden/00.npy", bundle / "golden/01.npy"
    assert one.stat().st_size == two.stat().st_size
    one.rename(bundle / "x")
    two.rename(one)
    (bundle / "x").rename(two)
    refused(bundle, "E_BUNDLE_FILE_DIGEST")


@pytest.mark.parametrize("path", ["model.ts", "model.onnx", "labels.txt", "golden/00.png"])
@pytest.mark.parametrize("change", [-1, 1, -(10**9)])
def test_a_file_cut_or_extended_is_refused_by_its_size(
    bundle: Path, path: str, change: int
) -> None:
    size = (bundle / path).stat().st_size
    os.truncate(bundle / path, max(size + change, 0))
    refused(bundle, "E_BUNDLE_FILE_SIZE")


def test_a_sparse_file_of_the_right_size_is_refused_by_its_bytes(bundle: Path) -> None:
    size = (bundle / "model.ts").stat().st_size
    os.truncate(bundle / "model.ts", 0)
    os.truncate(bundle / "model.ts", size)
    refused(bundle, "E_BUNDLE_FILE_DIGEST")


def test_a_huge_sparse_file_is_refused_without_reading_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(bundle / "model.ts", 2**42)
    monkeypatch.setattr(os, "sendfile", None)
    refused(bundle, "E_BUNDLE_FILE_SIZE")


@pytest.mark.parametrize(("module", "call"), [(os, "sendfile"), (mmap, "mmap")])
def test_a_file_too_large_for_memory_is_an_error_of_memory(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, module: Any, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(module, call, refuse)
    with pytest.raises(runtime.DiskError) as caught:
        runtime.load(bundle, target="cpu")
    assert (caught.value.code, caught.value.exit_code) == ("E_MEMORY", 5)


def test_nobody_can_write_to_what_was_read(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        begun = opened.begin("labels.txt")
        assert begun.data.tobytes() == (bundle / "labels.txt").read_bytes()
        assert not begun.data.flags.writeable
        with begun.file() as path:
            with pytest.raises(PermissionError), open(path, "r+b") as file:
                file.write(b"x")
            with pytest.raises(PermissionError):
                os.truncate(path, 0)


def test_a_file_that_grows_while_it_is_hashed_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.sendfile

    def sendfile(memory: int, descriptor: int, offset: int, count: int) -> int:
        with open(bundle / "model.ts", "ab") as file:
            file.write(b"x")
        return real(memory, descriptor, offset, count)

    monkeypatch.setattr(os, "sendfile", sendfile)
    refused(bundle, "E_BUNDLE_FILE_SIZE")


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.sendfile

    def sendfile(memory: int, descriptor: int, offset: int, count: int) -> int:
        for path in ("model.ts", "labels.txt"):
            os.truncate(bundle / path, 7)
        return real(memory, descriptor, offset, count)

    monkeypatch.setattr(os, "sendfile", sendfile)
    refused(bundle, "E_BUNDLE_FILE_SIZE")


def test_a_read_that_fails_is_said_so(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sendfile(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "sendfile", sendfile)
    assert "Input/output error" in str(refused(bundle, "E_BUNDLE_FILE_UNREADABLE"))


def test_reads_that_return_little_are_continued(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.sendfile

    def sendfile(memory: int, descriptor: int, offset: int, count: int) -> int:
        return real(memory, descriptor, offset, min(count, 4096))

    monkeypatch.setattr(os, "sendfile", sendfile)
    runtime.load(bundle, target="cpu").close()


def _scribbler(bundle: Path, stop: threading.Event) -> Callable[[], None]:
    """Change model.ts's first byte and back, as fast as it goes."""

    def scribble() -> None:
        descriptor = os.open(bundle / "model.ts", os.O_RDWR)
        byte = os.pread(descriptor, 1, 0)
        try:
            while not stop.is_set():
                os.pwrite(descriptor, bytes([byte[0] ^ 1]), 0)
                os.pwrite(descriptor, byte, 0)
        finally:
            os.close(descriptor)

    return scribble


def test_what_was_hashed_is_what_runs_while_the_file_is_written_to(
    small_bundle: Path, bundle: Path
) -> None:
    batch = np.zeros((1, *_shape(bundle)), np.float32)
    with runtime.load(small_bundle, target="cpu", threads=1) as model:
        expected = model.logits(batch)
    stop = threading.Event()
    writer = threading.Thread(target=_scribbler(bundle, stop))
    writer.start()
    try:
        for _ in range(20):
            with (
                suppress(BundleError),  # it was read while the byte was wrong
                runtime.load(bundle, target="cpu", threads=1) as model,
            ):
                assert np.array_equal(model.logits(batch), expected)
    finally:
        stop.set()
        writer.join()


def test_a_folder_replaced_while_it_is_read_changes_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy_bundle(bundle, tmp_path / "other")
    (other / "labels.txt").write_text("".join(f"evil{i}\tevil\n" for i in range(5)))
    reseal(other)
    real = os.sendfile

    def sendfile(memory: int, descriptor: int, offset: int, count: int) -> int:
        if other.exists():
            bundle.rename(tmp_path / "away")
            other.rename(bundle)
        return real(memory, descriptor, offset, count)

    monkeypatch.setattr(os, "sendfile", sendfile)
    with runtime.load(bundle, target="cpu") as model:
        labels = [p.id for p in model.classify(np.zeros((40, 40, 3), np.uint8), 5)]
    assert sorted(labels) == [f"c{index}" for index in range(5)]
    assert not other.exists()


def test_every_artifact_is_refused_when_one_bit_of_it_is_flipped(
    small_bundle: Path, bundle: Path, sessions: list[object]
) -> None:
    chance = random.Random(0)
    count = 0
    for row in document(small_bundle)["artifacts"]:
        path = row["path"]
        sessions.clear()
        for _ in flips(bundle / path, chance, 20):
            refused(bundle, "E_BUNDLE_FILE_DIGEST")
            count += 1
        # Raw weights may reach the engine before their digest is known; a graph may not.
        assert path == "model.ts" or sessions == []
    assert count >= 240


def test_every_flip_of_the_graph_is_refused_before_it_is_parsed(
    bundle: Path, sessions: list[object]
) -> None:
    for _ in flips(bundle / "model.onnx", random.Random(1), 100):
        refused(bundle, "E_BUNDLE_FILE_DIGEST")
    assert sessions == []


@pytest.mark.long
@pytest.mark.parametrize("path", ["model.ts", "model.onnx"])
def test_ten_thousand_flips_of_each_large_file_are_all_refused(bundle: Path, path: str) -> None:
    for _ in flips(bundle / path, random.Random(2), 10_000):
        with open_bundle(bundle) as opened, pytest.raises(BundleError) as caught:
            opened.read(path)
        assert caught.value.code == "E_BUNDLE_FILE_DIGEST"


def test_a_large_file_is_checked_chunk_by_chunk(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bytes, "CHUNK_SIZE", 4096)
    monkeypatch.setattr(_bytes, "CHUNKED_ABOVE", 4096)
    path = bundle / "model.onnx"
    data = path.read_bytes()
    chunks = tuple(sha256(data[start : start + 4096]) for start in range(0, len(data), 4096))
    with open_bundle(bundle) as opened:
        artifact = opened.manifest.artifact("model.onnx").model_copy(update={"chunks": chunks})
    assert checked(path, artifact).tobytes() == data
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(bytes([data[4096] ^ 1]))
    with pytest.raises(BundleError) as caught:
        checked(path, artifact)
    assert (caught.value.code, caught.value.field) == ("E_BUNDLE_FILE_DIGEST", "chunk 1")


@pytest.mark.parametrize("slow", range(4))
def test_a_chunk_is_not_hashed_before_it_is_read(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    """Any part of the file may be late, while all else is done."""
    monkeypatch.setattr(_bytes, "CHUNK_SIZE", 1024)
    monkeypatch.setattr(_bytes, "CHUNKED_ABOVE", 1024)
    monkeypatch.setattr(_bytes, "available_cpus", lambda: 4)
    path = bundle / "model.onnx"
    data = path.read_bytes()
    chunks = tuple(sha256(data[start : start + 1024]) for start in range(0, len(data), 1024))
    with open_bundle(bundle) as opened:
        artifact = opened.manifest.artifact("model.onnx").model_copy(update={"chunks": chunks})
    real = os.sendfile

    def sendfile(memory: int, descriptor: int, offset: int, count: int) -> int:
        if len(data) * slow // 4 <= offset < len(data) * (slow + 1) // 4:
            time.sleep(0.1)
        return real(memory, descriptor, offset, min(count, len(data) // 4))

    monkeypatch.setattr(os, "sendfile", sendfile)
    assert checked(path, artifact).tobytes() == data


def checked(path: Path, artifact: Artifact) -> NDArray[np.uint8]:
    descriptor = os.open(path, os.O_RDONLY)
    begun = _bytes.Bytes(descriptor, path.stat().st_size, path.name)
    try:
        return begun.check(artifact)
    finally:
        begun.stop()
        os.close(descriptor)


def _shape(bundle: Path) -> tuple[int, int, int]:
    size = document(bundle)["preprocess"]["crop"]["size"]
    return (3, size, size)
