"""A loaded model gives the same answer whatever the batch, the kind of image, or the thread."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.bundles import copy_bundle, document, refused
from tests.support.images import PHOTOS
from vitaie import runtime
from vitaie.manifests.errors import VitaieError

CAT = PHOTOS / "cat.jpg"


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Generator[runtime.Model, None, None]:
    with runtime.load(small_bundle, target="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def batch(model: runtime.Model) -> NDArray[np.float32]:
    """float32 [8, 3, H, W]"""
    return _batch(model, 8)


def _batch(model: runtime.Model, size: int) -> NDArray[np.float32]:
    shape = (size, *model.preprocess(CAT).shape)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def code_of(error: VitaieError) -> tuple[str, int]:
    return error.code, error.exit_code


# Logits


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_batch_gives_what_its_images_give_one_by_one(
    model: runtime.Model, batch: NDArray[np.float32], size: int
) -> None:
    alone = np.concatenate([model.logits(image[np.newaxis]) for image in batch[:size]])
    together = model.logits(batch[:size])
    assert together.shape == (size, model.manifest.model.classes)
    assert together.dtype == np.float32
    assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()


def test_how_a_batch_lies_in_memory_does_not_matter(
    model: runtime.Model, batch: NDArray[np.float32]
) -> None:
    expected = model.logits(batch[:3])
    read_only = batch[:3].copy()
    read_only.flags.writeable = False
    layouts = (
        np.asfortranarray(batch[:3]),
        np.repeat(batch[:3], 2, axis=0)[::2],
        batch[:3].transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
        read_only,
    )
    for other in layouts:
        assert np.array_equal(model.logits(other), expected)


def test_the_batch_is_not_changed_and_the_result_is_the_callers(
    model: runtime.Model, batch: NDArray[np.float32]
) -> None:
    before = batch.copy()
    first = model.logits(batch)
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(model.logits(batch), kept)
    assert np.array_equal(batch, before)


class _LooksLikeABatch:
    shape = (1, 3, 32, 32)


NO_BATCHES: dict[str, Callable[[Any], Any]] = {
    "float64": lambda batch: batch.astype(np.float64),
    "float16": lambda batch: batch.astype(np.float16),
    "uint8": lambda batch: batch.astype(np.uint8),
    "big-endian": lambda batch: batch.astype(">f4"),
    "one image": lambda batch: batch[0],
    "five axes": lambda batch: batch[np.newaxis],
    "no axis": lambda batch: np.float32(1.0).reshape(()),
    "one axis": lambda batch: batch.ravel(),
    "no image": lambda batch: batch[:0],
    "channels last": lambda batch: batch.transpose(0, 2, 3, 1),
    "four channels": lambda batch: np.concatenate([batch, batch[:, :1]], axis=1),
    "smaller": lambda batch: batch[:, :, :-1],
    "larger": lambda batch: np.concatenate([batch, batch[..., :1]], axis=3),
    "list": lambda batch: batch.tolist(),
    "None": lambda batch: None,
    "path": lambda batch: CAT,
    "scalar": lambda batch: np.float32(1.0),
    "no array": lambda batch: _LooksLikeABatch(),
}


@pytest.mark.parametrize("kind", NO_BATCHES)
def test_what_is_no_batch_is_refused(
    model: runtime.Model, batch: NDArray[np.float32], kind: str
) -> None:
    with pytest.raises(runtime.InputError) as caught:
        model.logits(NO_BATCHES[kind](batch))
    assert code_of(caught.value) == ("E_BATCH", 2)


TRACE = """The following operation failed in the TorchScript interpreter.
Traceback of TorchScript, serialized code (most recent call last):
  File "code/__torch__/timm/models/vision_transformer.py", line 12, in forward
    x0 = alloc(x)
"""


def test_an_engine_that_fails_is_the_bundles_fault_or_lacks_memory(
    model: runtime.Model, batch: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Engine:
        def __init__(self, outcome: Any) -> None:
            self.outcome = outcome

        def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
            if isinstance(self.outcome, Exception):
                raise self.outcome
            result: NDArray[np.float32] = self.outcome
            return result

    for outcome, code in (
        (RuntimeError("no kernel"), ("E_BUNDLE_ENGINE", 1)),
        (RuntimeError("Failed to allocate memory"), ("E_MEMORY", 5)),
        (MemoryError(), ("E_MEMORY", 5)),
        (RuntimeError(TRACE + "RuntimeError: could not create a primitive\n"), ("E_MEMORY", 5)),
        (RuntimeError(TRACE + "RuntimeError: bad shapes\n"), ("E_BUNDLE_ENGINE", 1)),
        (np.zeros((2, 5), np.float32), ("E_BUNDLE_ENGINE", 1)),
        (np.zeros((1, 4), np.float32), ("E_BUNDLE_ENGINE", 1)),
        (np.zeros((1, 5), np.float64), ("E_BUNDLE_ENGINE", 1)),
    ):
        monkeypatch.setattr(model, "_engine", Engine(outcome))
        with pytest.raises(VitaieError) as caught:
            model.logits(batch[:1])
        assert code_of(caught.value) == code
        assert "alloc(" not in (caught.value.got or "")


# Images and predictions


def test_the_four_kinds_of_image_give_the_same_tensor(model: runtime.Model) -> None:
    data = CAT.read_bytes()
    with Image.open(BytesIO(data)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
        kinds = (CAT, str(CAT), data, picture, Image.fromarray(pixels), pixels)
        first, *others = [model.preprocess(kind) for kind in kinds]
    size = model.manifest.preprocess.crop.size
    assert first.shape == (3, size, size)
    assert first.dtype == np.float32
    for other in others:
        assert np.array_equal(other, first)


def test_classifying_is_the_softmax_of_the_logits(model: runtime.Model) -> None:
    logits = model.logits(model.preprocess(CAT)[np.newaxis])[0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    found = model.classify(CAT, top_k=5)
    assert [p.index for p in found] == list(np.argsort(-logits))
    assert np.allclose([p.probability for p in found], np.sort(expected)[::-1], rtol=1e-12)
    assert abs(sum(p.probability for p in found) - 1) < 1e-12
    assert [(p.id, p.label) for p in found] == [(f"c{p.index}", f"class {p.index}") for p in found]


@pytest.mark.parametrize("top_k", [1, 2, 5, 6, 1000])
def test_top_k_gives_as_many_classes_as_there_are(model: runtime.Model, top_k: int) -> None:
    found = model.classify(CAT, top_k)
    assert found == model.classify(CAT, 5)[:top_k]
    assert len(found) == min(top_k, 5)


def test_a_list_gives_a_list(model: runtime.Model) -> None:
    images: list[runtime.Image] = [CAT, PHOTOS / "rocket.jpg", CAT]
    assert model.classify(images, 2) == [model.classify(image, 2) for image in images]
    assert model.classify([], 2) == []


@pytest.mark.parametrize("wrong", [0, -1, 1025, 2.5, "2", True, [2]])
def test_threads_are_a_whole_number_in_bounds(small_bundle: Path, wrong: Any) -> None:
    with pytest.raises(runtime.InputError) as caught:
        runtime.load(small_bundle, threads=wrong)
    assert (caught.value.code, caught.value.where) == ("E_ARGUMENT", "threads")


@pytest.mark.parametrize("wrong", [None, 5, b"bundles"])
def test_what_is_no_path_is_refused(wrong: Any) -> None:
    with pytest.raises(runtime.InputError) as caught:
        runtime.load(wrong)
    assert (caught.value.code, caught.value.where) == ("E_ARGUMENT", "path")


def test_a_batch_that_is_not_finite_is_the_callers_fault(model: runtime.Model) -> None:
    batch = np.full((1, *model.preprocess(CAT).shape), np.nan, np.float32)
    with pytest.raises(runtime.InputError) as caught:
        model.logits(batch)
    assert caught.value.code == "E_BATCH"


@pytest.mark.parametrize("top_k", [0, -1, 2.5, "2", None, True])
def test_top_k_below_one_or_no_whole_number_is_refused(model: runtime.Model, top_k: Any) -> None:
    uses: list[Callable[[], object]] = [
        lambda: model.classify(CAT, top_k),
        lambda: model.classify([CAT], top_k),
        lambda: model.classify([], top_k),
    ]
    for use in uses:
        with pytest.raises(runtime.InputError) as caught:
            use()
        assert code_of(caught.value) == ("E_ARGUMENT", 2)


def test_an_image_that_is_none_is_refused(model: runtime.Model, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("text")
    for image in (tmp_path / "text.jpg", tmp_path / "nowhere.jpg", b"", tmp_path):
        with pytest.raises(runtime.ImageError) as caught:
            model.classify(image)
        assert caught.value.exit_code == 2


# What a model says of itself


def test_a_model_says_what_it_is(model: runtime.Model, small_bundle: Path) -> None:
    said = document(small_bundle)
    assert model.manifest.model_dump(mode="json") == said
    assert model.digest == said["content_digest"]
    assert model.target.id == "onnxruntime-cpu-fp32"


@pytest.mark.parametrize("target", ["cpu", "onnxruntime-cpu-fp32", "auto"])
def test_a_target_has_an_id_and_the_cpus_a_short_one(small_bundle: Path, target: str) -> None:
    with runtime.load(small_bundle, target=target) as loaded:
        assert loaded.target.id == "onnxruntime-cpu-fp32"


@pytest.mark.parametrize("target", ["", "CPU", "gpu", "ascend310p3-fp16-b1-o2", "all"])
def test_an_unknown_target_is_refused_with_those_there_are(small_bundle: Path, target: str) -> None:
    with pytest.raises(runtime.InputError) as caught:
        runtime.load(small_bundle, target=target)
    assert code_of(caught.value) == ("E_TARGET_UNKNOWN", 2)
    assert caught.value.expected == "onnxruntime-cpu-fp32 or torchscript-cpu-fp32"


def test_auto_says_which_target_it_took(
    small_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "vitaie"):
        runtime.load(small_bundle).close()
    assert [record.message for record in caplog.records] == [
        "small_vit 1.0.0: target onnxruntime-cpu-fp32"
    ]


def test_a_target_that_lacks_something_is_never_replaced_silently(
    small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitaie.runtime._onnxruntime.missing", lambda: "no onnxruntime")
    monkeypatch.setattr("vitaie.runtime._torchscript.missing", lambda: "no torch")
    with pytest.raises(runtime.TargetUnavailable) as caught:
        runtime.load(small_bundle, target="torchscript-cpu-fp32")
    assert code_of(caught.value) == ("E_EXTRA_MISSING", 6)
    assert caught.value.got == "no torch"
    with pytest.raises(runtime.TargetUnavailable) as caught:
        runtime.load(small_bundle)
    assert code_of(caught.value) == ("E_TARGET_UNAVAILABLE", 6)
    assert "no onnxruntime" in str(caught.value)
    assert "no torch" in str(caught.value)


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**9])
def test_threads_are_1_to_1024(small_bundle: Path, threads: int) -> None:
    with pytest.raises(runtime.InputError) as caught:
        runtime.load(small_bundle, threads=threads)
    assert code_of(caught.value) == ("E_ARGUMENT", 2)


# Threads, closing, processes


def test_eight_threads_get_the_same_answers(small_bundle: Path, batch: NDArray[np.float32]) -> None:
    with runtime.load(small_bundle, target="cpu") as loaded:
        expected = [loaded.logits(image[np.newaxis]) for image in batch]
        start = threading.Barrier(8)

        def work(number: int) -> bool:
            start.wait()
            return all(
                np.array_equal(loaded.logits(batch[index : index + 1]), expected[index])
                for index in (np.arange(20) + number) % 8
            )

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [True] * 8


def test_a_closed_model_says_so_and_closes_twice(
    small_bundle: Path, batch: NDArray[np.float32]
) -> None:
    loaded = runtime.load(small_bundle, target="cpu")
    loaded.close()
    loaded.close()
    uses: list[Callable[[], object]] = [
        lambda: loaded.logits(batch),
        lambda: loaded.classify(CAT),
        lambda: loaded.classify([CAT]),
        lambda: list(loaded.stream([CAT])),
    ]
    for use in uses:
        with pytest.raises(runtime.InputError) as caught:
            use()
        assert code_of(caught.value) == ("E_CLOSED", 2)
    assert loaded.digest == loaded.manifest.content_digest


def test_leaving_the_block_closes_the_model_even_by_an_error(small_bundle: Path) -> None:
    with pytest.raises(KeyError), runtime.load(small_bundle, target="cpu") as loaded:
        raise KeyError
    with pytest.raises(runtime.InputError):
        loaded.classify(CAT)


def test_a_call_under_way_when_the_model_is_closed_finishes(
    small_bundle: Path, batch: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = runtime.load(small_bundle, target="cpu")
    expected = loaded.logits(batch)
    under_way, closed = threading.Event(), threading.Event()
    engine: Any = vars(loaded)["_engine"]
    real = engine.logits

    def logits(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        under_way.set()
        assert closed.wait(10)
        result: NDArray[np.float32] = real(batch)
        return result

    monkeypatch.setattr(engine, "logits", logits)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(loaded.logits, batch)
        assert under_way.wait(10)
        loaded.close()
        closed.set()
        assert np.array_equal(call.result(), expected)


def test_a_model_is_not_picklable(model: runtime.Model) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=r"vitaie\.runtime\.load in each process"):
            pickle.dumps(model, protocol)


def test_loading_again_and_again_leaves_no_file_open(small_bundle: Path, tmp_path: Path) -> None:
    spoiled = copy_bundle(small_bundle, tmp_path / "spoiled")
    with open(spoiled / "model.onnx", "r+b") as file:
        file.write(b"x")
    runtime.load(small_bundle).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(25):
        runtime.load(small_bundle).close()
        refused(spoiled, "E_BUNDLE_FILE_DIGEST")
    assert len(os.listdir("/proc/self/fd")) == before
