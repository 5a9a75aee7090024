"""The timed loop does nothing but call, and feeds what no engine can have an answer ready for."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.doubles.simulated import TICK_NS, Clock
from tests.support.images import PHOTOS
from vitaie.runtime import _images, _timing
from vitaie.runtime._timing import Request

SIDE = 8
BATCHES: list[Any] = [np.full((1, 3, SIDE, SIDE), number, np.float32) for number in range(4)]
MS = 1_000_000


def request(**changes: Any) -> Request:
    whole = Request("time", "", "", "", "host", 1, 1, 0, (), 5, seconds=1.0, calls=10)
    return whole._replace(turns=(15, 301), turns_s=2.0)._replace(**changes)


def working(clock: Clock, cost_ns: int = 10 * MS) -> Callable[[Any], NDArray[np.float32]]:
    """Return a call that takes so long and gives the first number of each image."""

    def call(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        clock.work(cost_ns)
        return batch[:, :1, 0, 0]

    return call


def timed(
    clock: Clock, call: Callable[[Any], Any], asked: Request, fastest_ns: int = MS
) -> _timing.Calls:
    order = _timing.input_order(len(BATCHES), asked)
    return _timing.time_calls(call, BATCHES, order, fastest_ns, asked, clock)


# Timed calls


def test_the_clock_is_read_right_before_and_after_each_call_and_nowhere_else() -> None:
    clock = Clock()
    calls = timed(clock, working(clock), request())
    gaps = [start - end for start, end in zip(calls.start_ns[1:], calls.end_ns)]
    assert set(gaps) == {TICK_NS}
    assert {end - start for start, end in zip(calls.start_ns, calls.end_ns)} == {10 * MS + TICK_NS}
    assert clock.now_ns == calls.end_ns[-1] + TICK_NS


@pytest.mark.parametrize(("seconds", "least", "count"), [(1.0, 10, 100), (0.1, 64, 64)])
def test_a_run_lasts_the_seconds_and_has_the_calls_asked_for(
    seconds: float, least: int, count: int
) -> None:
    clock = Clock()
    calls = timed(clock, working(clock), request(seconds=seconds, calls=least))
    assert len(calls.start_ns) == len(calls.end_ns) == count
    assert calls.start_ns[0] == 0
    assert calls.end_ns[-1] >= seconds * 1e9
    assert calls.end_ns[-2] < seconds * 1e9 or count == least


def test_a_run_for_which_no_room_is_left_ends_early() -> None:
    """The warm-up promised 10 ms; with calls of 1 ms the second is not filled, and it shows."""
    clock = Clock()
    calls = timed(clock, working(clock, MS), request(), fastest_ns=10 * MS)
    assert len(calls.start_ns) == 2 * 100 + 1
    assert calls.end_ns[-1] < 1e9


def test_no_garbage_is_collected_while_calls_are_timed() -> None:
    clock = Clock()
    seen: set[bool] = set()

    def call(batch: Any) -> Any:
        seen.add(gc.isenabled())
        return working(clock)(batch)

    timed(clock, call, request())
    assert seen == {False}
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_call_that_fails() -> None:
    def call(_: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        timed(Clock(), call, request())
    assert gc.isenabled()


def test_outputs_are_kept_all_over_a_run_where_the_seed_says() -> None:
    def kept(seed: int, run: int = 0) -> list[tuple[int, str]]:
        clock = Clock()
        asked = request(seed=seed, run=run)
        calls = timed(clock, working(clock), asked)
        for window, digest in calls.kept:
            assert digest == _timing.digest(BATCHES[window][:, :1, 0, 0])
        return calls.kept

    assert 12 <= len(kept(5)) <= 16  # of a hundred calls; two moments can fall into one
    assert kept(5) == kept(5)
    assert len({tuple(kept(seed, run)) for seed in range(3) for run in range(3)}) == 9


def test_moments_are_in_each_quarter_of_a_run() -> None:
    moments = [*_timing._moments(1000, request())]  # pyright: ignore[reportPrivateUsage]
    assert moments[-1] == float("inf")
    assert {int(moment) // 250 for moment in moments[:-1]} == {0, 1, 2, 3}


def test_what_was_kept_is_not_changed_by_an_engine_that_uses_its_buffer_again() -> None:
    clock = Clock()
    buffer = np.empty((1, 1), np.float32)

    def call(batch: Any) -> Any:
        buffer[...] = working(clock)(batch)
        return buffer

    for window, digest in timed(clock, call, request()).kept:
        assert digest == _timing.digest(BATCHES[window][:, :1, 0, 0])


# Warm-up


@pytest.mark.parametrize(("cost_ms", "calls"), [(10, 100), (500, 10), (1, 1000)])
def test_a_warm_up_has_the_calls_and_the_seconds_and_the_first_is_none_of_them(
    cost_ms: int, calls: int
) -> None:
    clock = Clock()
    count = 0

    def call(batch: Any) -> Any:
        nonlocal count
        count += 1
        return working(clock, (200 if count == 1 else cost_ms) * MS)(batch)

    warm = _timing.warm_up(call, BATCHES, [0, 1, 2, 3], (10, 1.0), clock)
    assert calls * 0.99 <= warm.calls <= calls
    assert warm.calls == count - 1
    assert warm.seconds >= 1
    assert warm.first_ns == 200 * MS + TICK_NS
    assert warm.fastest_ns == min(200, cost_ms) * MS + TICK_NS


# Inputs


def test_each_batch_comes_once_in_each_round_and_no_round_is_like_another() -> None:
    order = _timing.input_order(64, request())
    rounds = [tuple(order[start : start + 64]) for start in range(0, len(order), 64)]
    assert len(order) >= 4096
    assert len(set(rounds)) == len(rounds)
    assert all(sorted(one) == list(range(64)) for one in rounds)


def test_the_order_follows_from_the_seed_and_the_run() -> None:
    orders = {
        tuple(_timing.input_order(64, request(seed=s, run=r))) for s in (1, 2) for r in (0, 1)
    }
    assert len(orders) == 4
    assert _timing.input_order(64, request()) == _timing.input_order(64, request())


def test_batches_lie_in_memory_as_neighbours_and_can_be_written_to() -> None:
    images = np.arange(5 * 3 * SIDE * SIDE, dtype=np.float32).reshape(5, 3, SIDE, SIDE)
    memory = os.memfd_create("test")
    try:
        os.write(memory, images.tobytes())
        asked = request(memory=memory, sizes=[images[0].nbytes] * 5, batch_size=2)
        batches: list[Any] = _timing.read_batches(asked)
    finally:
        os.close(memory)
    assert len(batches) == 4
    for start, batch in enumerate(batches):
        np.testing.assert_array_equal(batch, images[start : start + 2])
        assert batch.flags.c_contiguous
        assert batch.flags.writeable  # torch would be given a copy else
    assert np.shares_memory(batches[0], batches[1])


def test_files_are_read_as_they_were_written() -> None:
    files = [b"one", b"three", b"seventeen"]
    memory = os.memfd_create("test")
    try:
        os.write(memory, b"".join(files))
        asked = request(
            memory=memory, sizes=[*map(len, files)], batch_size=2, boundary="end_to_end"
        )
        assert _timing.read_batches(asked) == [files[:2], files[1:]]
    finally:
        os.close(memory)


def test_every_shift_gives_another_tensor_of_the_same_numbers() -> None:
    batch: Any = np.arange(3 * SIDE * SIDE, dtype=np.float32).reshape(1, 3, SIDE, SIDE)
    shifted: list[Any] = [_timing.shifted(batch, shift) for shift in range(SIDE * SIDE)]
    assert len({each.tobytes() for each in shifted}) == SIDE * SIDE
    assert all(sorted(each.ravel()) == sorted(batch.ravel()) for each in shifted)


def test_every_shift_gives_another_photograph() -> None:
    photo = (PHOTOS / "cat.jpg").read_bytes()
    files: list[Any] = [_timing.shifted([photo], shift)[0] for shift in range(1, 20)]
    assert len({*files, photo}) == 20
    shape = _images.decode(photo).shape
    assert {_images.decode(file).shape for file in files} == {shape}


# A repeated image


def test_a_repeated_image_and_distinct_ones_take_turns() -> None:
    clock = Clock()
    seen: list[bytes] = []

    def call(batch: Any) -> Any:
        seen.append(batch.tobytes())
        return working(clock)(batch)

    images: Any = np.arange(3 * SIDE * SIDE, dtype=np.float32).reshape(1, 3, SIDE, SIDE)
    turns = _timing.take_turns(call, images, request(), clock)
    repeated, calls = seen[0], seen[1:]
    assert [calls[start : start + 2].count(repeated) for start in range(0, len(calls), 2)] == [
        1
    ] * len(turns.repeated_ns)
    distinct = [each for each in calls if each != repeated]
    assert len(set(distinct)) == len(distinct) == len(turns.distinct_ns)
    assert images.tobytes() not in seen  # which the timed calls may have shown
    assert {calls[0] == repeated, calls[2] == repeated} == {True, False}  # either goes first
    assert set(turns.repeated_ns) == set(turns.distinct_ns) == {10 * MS + TICK_NS}
    for shift, digest in turns.kept:
        first: Any = _timing.shifted(images, shift)
        assert digest == _timing.digest(first[:, :1, 0, 0])
    assert len(turns.kept) == 4


@pytest.mark.parametrize(("cost_ns", "turns"), [(10 * MS, 62), (500 * MS, 15)])
def test_turns_end_when_they_took_long_enough(cost_ns: int, turns: int) -> None:
    """An image of 8 x 8 pixels has 63 shifts, of which one is the repeated one."""
    clock = Clock()
    taken = _timing.take_turns(working(clock, cost_ns), BATCHES[1], request(), clock)
    assert len(taken.distinct_ns) == turns


def test_turns_end_at_the_most_that_was_asked_for() -> None:
    clock = Clock()
    asked = request(turns=(3, 9))
    assert len(_timing.take_turns(working(clock, 1), BATCHES[1], asked, clock).distinct_ns) == 9
    asked = request(turns=(3, 9), turns_s=0.05)
    assert len(_timing.take_turns(working(clock), BATCHES[1], asked, clock).distinct_ns) == 3
