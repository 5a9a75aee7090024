"""A stream gives the answers in order, in bounded memory, and cleans up when it is left."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vitaie import runtime

Array = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Generator[runtime.Model, None, None]:
    with runtime.load(small_bundle, target="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def threads_end() -> Generator[None, None, None]:
    """Every test leaves as many threads as it found."""
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class Source:
    """Pictures, all different, and how many of them were asked for."""

    def __init__(self, count: int | None = None, broken: int | None = None) -> None:
        self.taken = 0
        self._count = count
        self._broken = broken

    def __iter__(self) -> Iterator[runtime.Image]:
        for number in itertools.count():
            if number == self._count:
                return
            self.taken += 1
            yield b"no image" if number == self._broken else picture(number)


def picture(number: int) -> Array:
    return np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 12])
def test_a_stream_gives_each_answer_in_order(
    model: runtime.Model, count: int, batch_size: int
) -> None:
    expected = [model.classify(picture(number)) for number in range(count)]
    found = list(model.stream(Source(count), batch_size=batch_size))
    assert [[p.index for p in row] for row in found] == [[p.index for p in row] for row in expected]
    assert np.allclose(
        [[p.probability for p in row] for row in found],
        [[p.probability for p in row] for row in expected],
        rtol=1e-5,
    )


def test_a_stream_asks_for_nothing_before_it_is_read(model: runtime.Model) -> None:
    source = Source()
    model.stream(source)
    assert source.taken == 0


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_an_endless_source_is_never_more_than_four_batches_ahead(
    model: runtime.Model, batch_size: int
) -> None:
    source = Source()
    stream = model.stream(source, batch_size=batch_size)
    for given, _ in zip(range(1, 40), stream):
        assert given <= source.taken <= given + 4 * batch_size
    close(stream)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
@pytest.mark.parametrize("broken", [0, 1, 4, 9])
def test_an_image_that_is_none_raises_when_its_turn_comes(
    model: runtime.Model, broken: int, batch_size: int
) -> None:
    source = Source(10, broken)
    stream = model.stream(source, batch_size=batch_size)
    for number in range(broken):
        assert next(stream)[0].index == model.classify(picture(number))[0].index
    with pytest.raises(runtime.ImageError) as caught:
        next(stream)
    assert (caught.value.code, caught.value.exit_code) == ("E_IMAGE_FORMAT", 2)
    assert list(stream) == []


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_error_of_the_source_itself_comes_after_the_answers_before_it(
    model: runtime.Model, batch_size: int
) -> None:
    def source() -> Iterator[Array]:
        yield picture(0)
        yield picture(1)
        raise ConnectionError("the camera is gone")

    stream = model.stream(source(), batch_size=batch_size)
    assert next(stream)[0].index == model.classify(picture(0))[0].index
    assert next(stream)[0].index == model.classify(picture(1))[0].index
    with pytest.raises(ConnectionError, match="the camera is gone"):
        next(stream)


def test_a_stream_that_is_left_early_ends_its_threads(model: runtime.Model) -> None:
    before = threading.active_count()
    stream = model.stream(Source())
    next(stream)
    assert threading.active_count() > before
    close(stream)
    assert threading.active_count() == before


def test_a_stream_that_is_forgotten_ends_its_threads(model: runtime.Model) -> None:
    before = threading.active_count()
    for _ in model.stream(Source()):
        break
    gc.collect()
    assert threading.active_count() == before


def test_a_model_closed_in_the_middle_of_a_stream_ends_it(small_bundle: Path) -> None:
    loaded = runtime.load(small_bundle, target="cpu", threads=1)
    stream = loaded.stream(Source())
    next(stream)
    loaded.close()
    with pytest.raises(runtime.InputError) as caught:
        list(itertools.islice(stream, 10))
    assert caught.value.code == "E_CLOSED"


def test_two_streams_of_one_model_do_not_mix(model: runtime.Model) -> None:
    pairs = zip(model.stream(Source(6)), model.stream(Source(6), batch_size=2))
    assert [one[0].index == two[0].index for one, two in pairs] == [True] * 6


@pytest.mark.parametrize(("top_k", "batch_size"), [(0, 1), (-1, 1), (5, 0), (5, -1)])
def test_a_wrong_argument_is_refused_before_the_stream_is_read(
    model: runtime.Model, top_k: int, batch_size: int
) -> None:
    with pytest.raises(runtime.InputError) as caught:
        model.stream([], top_k, batch_size=batch_size)
    assert (caught.value.code, caught.value.exit_code) == ("E_ARGUMENT", 2)


def test_a_batch_of_one_gives_the_very_answers_of_classify(model: runtime.Model) -> None:
    pictures = [picture(number) for number in range(5)]
    assert list(model.stream(pictures, 3)) == [model.classify(each, 3) for each in pictures]


def close(stream: Iterator[object]) -> None:
    assert isinstance(stream, Generator)
    stream.close()
