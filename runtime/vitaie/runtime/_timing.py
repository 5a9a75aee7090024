"""The process in which a target is timed: fresh, alone with one engine, and killed after.

It reads one ``Request`` as a line of JSON on stdin and writes one answer on stdout. ``time`` opens
the target, warms it up, times its calls, and sees whether a repeated image is faster; ``outputs``
says what the target gives on some of the same inputs, untimed. Outputs travel as digests: what one
engine gives on one input with the same threads and batch size is equal to the last bit.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import math
import mmap
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, DiskError, VitaieError, is_out_of_memory
from vitaie.runtime import _ascend, _images
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._goldens import check_golden_stages, check_logits
from vitaie.runtime._model import Model, Prediction, choose_target, load

TOP_K = 5
"""Classes of each image that ``end_to_end`` gives."""

_MAX_CALLS = 2_000_000  # of one run: five such runs are what a record can hold
_KEPT = 16  # outputs of timed calls that are checked, and
_KEPT_DISTINCT = 4  # of the calls that a repeated image is compared with
_ORDER = 4096  # calls at least before the order of the inputs comes again
_JPEG_QUALITY = 90

Batch = Union["NDArray[np.float32]", "list[bytes]"]
Clock = Callable[[], int]
_Call = Callable[[Any], Any]
Ready = Union[Mapping[int, Any], Sequence[Any]]
"""Batches that calls can take as they are, by their first image."""


class Request(NamedTuple):
    """What one process is asked to do.

    Attributes:
        task: ``time`` or ``outputs``.
        bundle: The folder of one version.
        target: Its id.
        target_digest: What the bundle said when it was first opened.
        boundary: ``host``, ``end_to_end`` or ``device``.
        batch_size: Images of each call.
        threads: Of the engine.
        memory: A file descriptor that holds the images one after another.
        sizes: The bytes of each image: a float32 tensor, or a JPEG or PNG file.
        seed: What order, checks and shifts follow from.
        device_id: The device's number, for a target that runs on one.
        run: The number of this process among those of a measurement.
        seconds: The timed calls last at least so long, and
        calls: are at least so many.
        warm_up: At least so many calls, and seconds, before.
        settle_s: Seconds to wait before anything is done.
        turns: At least and at most so many calls on a repeated image, and on distinct ones.
        turns_s: Between these two, they end when they have taken so many seconds.
        windows: Of ``outputs``: the batches, by their first image.
        shifts: Of ``outputs``: the first batch, shifted by so much.
    """

    task: str
    bundle: str
    target: str
    target_digest: str
    boundary: str
    batch_size: int
    threads: int
    memory: int
    sizes: Sequence[int]
    seed: int
    device_id: int = 0
    run: int = 0
    seconds: float = 0.0
    calls: int = 0
    warm_up: tuple[int, float] = (0, 0.0)
    settle_s: float = 0.0
    turns: tuple[int, int] = (0, 0)
    turns_s: float = 0.0
    windows: Sequence[int] = ()
    shifts: Sequence[int] = ()


class Timed(NamedTuple):
    """Answer to ``time``; times in nanoseconds from the first call's start.

    ``kept`` and ``kept_distinct`` are [window, digest] and [shift, digest] of checked calls.
    """

    load_s: float
    first_call_s: float
    warm_up_calls: int
    warm_up_s: float
    start_ns: list[int]
    end_ns: list[int]
    peak_mib: float
    kept: list[tuple[int, str]]
    kept_distinct: list[tuple[int, str]]
    repeated_ns: list[int]
    distinct_ns: list[int]
    unchanged: bool


class Outputs(NamedTuple):
    """Answer to ``outputs``: digests in the order asked for, and whether the goldens hold."""

    windows: list[str]
    shifts: list[str]
    goldens_hold: bool
    goldens: str
    unchanged: bool


def time_target(request: Request, clock: Clock) -> Timed:
    """Open the target, warm it up, time it, and compare a repeated image with distinct ones."""
    time.sleep(request.settle_s)
    batches = read_batches(request)
    begun = clock()
    with _load(request) as model:
        loaded = clock()
        right = model.target.target_digest == request.target_digest
        prepare, call = caller(model, request.boundary, request.batch_size)
        windows = range(0, len(batches), request.batch_size if request.boundary == "device" else 1)
        order = [windows[place] for place in input_order(len(windows), request)]
        ready = {window: prepare(batches[window]) for window in windows}
        warm = warm_up(call, ready, order, request.warm_up, clock)
        calls = time_calls(call, ready, order, warm.fastest_ns, request, clock)
        peak_mib = _peak_mib()
        turns = take_turns(call, batches[0], request, clock, prepare)
    return Timed(
        load_s=(loaded - begun) / 1e9,
        first_call_s=warm.first_ns / 1e9,
        warm_up_calls=warm.calls,
        warm_up_s=warm.seconds,
        start_ns=calls.start_ns,
        end_ns=calls.end_ns,
        peak_mib=peak_mib,
        kept=calls.kept,
        kept_distinct=turns.kept,
        repeated_ns=turns.repeated_ns,
        distinct_ns=turns.distinct_ns,
        unchanged=right and _unchanged(request),
    )


def run_untimed(request: Request) -> Outputs:
    """Say what the target gives on the batches asked for, and see that its goldens hold."""
    batches = read_batches(request)
    with _load(request) as model:
        right = model.target.target_digest == request.target_digest
        prepare, call = caller(model, request.boundary, request.batch_size)
        windows = [digest(call(prepare(batches[window]))) for window in request.windows]
        shifts = [digest(call(prepare(shifted(batches[0], shift)))) for shift in request.shifts]
        with open_bundle(request.bundle) as bundle:
            tensors, _ = check_golden_stages(bundle)
            logits = [model.logits(tensor[np.newaxis]) for tensor in tensors]
            claim = check_logits(bundle, model.target, logits)
    return Outputs(
        windows, shifts, claim.status == "true", claim.detail, right and _unchanged(request)
    )


def _load(request: Request) -> Model:
    return load(
        request.bundle,
        target=request.target,
        threads=request.threads,
        device_id=request.device_id,
    )


# Inputs


def read_batches(request: Request) -> list[Batch]:
    """Return each run of ``batch_size`` neighbouring images, where it lies, without a copy."""
    mapped = mmap.mmap(request.memory, sum(request.sizes), access=mmap.ACCESS_COPY)
    count, size = len(request.sizes), request.batch_size
    if request.boundary == "end_to_end":
        ends = np.cumsum([0, *request.sizes]).tolist()
        files = [mapped[start:end] for start, end in zip(ends, ends[1:])]
        return [files[start : start + size] for start in range(count - size + 1)]
    side = math.isqrt(request.sizes[0] // 12)
    images = np.frombuffer(mapped, np.float32).reshape(count, 3, side, side)
    return [images[start : start + size] for start in range(count - size + 1)]


def input_order(count: int, request: Request) -> list[int]:
    """Return an order of ``count`` batches: each once, then each once in another order, …."""
    chance = np.random.default_rng([request.seed, request.run])
    rounds = -(-_ORDER // count)
    return list(chain.from_iterable(chance.permutation(count).tolist() for _ in range(rounds)))


def shifted(batch: Batch, shift: int) -> Batch:
    """Return the images of a batch, each turned round by ``shift`` pixels in reading order.

    It is new to whoever remembers inputs, and like a photograph to whoever computes.
    """
    if isinstance(batch, list):
        return [_shifted_file(data, shift) for data in batch]
    rows, columns = divmod(shift, batch.shape[-1])
    return np.roll(batch, (rows, columns), axis=(-2, -1))


def _shifted_file(data: bytes, shift: int) -> bytes:
    pixels = _images.decode(data)
    rows, columns = divmod(shift, pixels.shape[1])
    return jpeg(np.roll(pixels, (rows, columns), axis=(0, 1)))


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return uint8 RGB pixels [H, W, 3] as the bytes of a JPEG file."""
    stream = io.BytesIO()
    PillowImage.fromarray(pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()


# Calls


class Caller(NamedTuple):
    """What is done to a batch before the clock is read, and the call that is timed."""

    prepare: _Call
    call: _Call


class Left(NamedTuple):
    """Logits that were left on the device, and who can copy them from there."""

    engine: _ascend.Engine
    logits: _ascend.OnDevice


def caller(model: Model, boundary: str, batch_size: int) -> Caller:
    """Return the call that is timed: what a user of the runtime would make.

    At the boundary ``device`` the batch was copied there before, and the logits stay there.
    """
    if boundary == "host":
        return Caller(_as_it_is, model.logits)
    if boundary == "device":
        engine = model.device_engine()

        def run(batch: _ascend.OnDevice) -> Left:
            return Left(engine, engine.run(batch))

        return Caller(engine.put, run)

    def classify(batch: list[bytes]) -> list[list[Prediction]]:
        return [model.classify(batch[0], TOP_K)]

    def stream(batch: list[bytes]) -> list[list[Prediction]]:
        return list(model.stream(batch, TOP_K, batch_size=batch_size))

    return Caller(_as_it_is, classify if batch_size == 1 else stream)


def _as_it_is(batch: Any) -> Any:
    return batch


def digest(output: Any) -> str:
    """Return the sha256 of logits, or of the predictions of each image."""
    if isinstance(output, Left):
        output = output.engine.get(output.logits)
    if isinstance(output, np.ndarray):
        return sha256(output.tobytes())
    rows = [[(p.index, p.probability) for p in predictions] for predictions in output]
    return sha256(np.array(rows, np.float64).tobytes())


class WarmUp(NamedTuple):
    """The first call, and those after it that do not count either."""

    first_ns: int
    fastest_ns: int
    calls: int
    seconds: float


def warm_up(
    call: _Call,
    batches: Ready,
    order: Sequence[int],
    least: tuple[int, float],
    clock: Clock,
) -> WarmUp:
    """Call until there were ``least`` calls and seconds; the very first one is none of them."""
    batch = batches[order[-1]]
    begun = clock()
    call(batch)
    first = fastest = clock() - begun
    calls, started = 0, clock()
    ended = started
    for window in cycle(reversed(order)):
        if calls >= least[0] and ended - started >= least[1] * 1e9:
            break
        batch = batches[window]
        begun = clock()
        call(batch)
        ended = clock()
        fastest = min(fastest, ended - begun)
        calls += 1
    return WarmUp(first, max(fastest, 1), calls, (ended - started) / 1e9)


class Calls(NamedTuple):
    """Every timed call, and [window, digest] of those whose outputs are checked."""

    start_ns: list[int]
    end_ns: list[int]
    kept: list[tuple[int, str]]


def time_calls(
    call: _Call,
    batches: Ready,
    order: Sequence[int],
    fastest_ns: int,
    request: Request,
    clock: Clock,
) -> Calls:
    """Call for as long, and as often, as the request says. Nothing else happens meanwhile.

    Outputs are kept at moments that the seed draws, which no engine can know. Room for the times
    is taken before, twice what the fastest call of the warm-up would need; where it is not enough
    the run ends early, and is too short to count.
    """
    length, least = math.ceil(request.seconds * 1e9), request.calls
    capacity = min(max(least, 2 * length // fastest_ns) + 1, _MAX_CALLS)
    starts, ends = (np.zeros(capacity, np.int64).data for _ in range(2))
    moments = _moments(length, request)
    moment = next(moments)
    kept: list[tuple[int, str]] = []
    count = 0
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for window in cycle(order):
            batch = batches[window]
            start = clock()
            output = call(batch)
            end = clock()
            starts[count] = start
            ends[count] = end
            count += 1
            elapsed = end - starts[0]
            if elapsed >= moment:
                kept.append((window, digest(output)))
                while elapsed >= moment:
                    moment = next(moments)
            if (elapsed >= length and count >= least) or count == capacity:
                break
    finally:
        gc.enable()
        gc.unfreeze()
    first = starts[0]
    return Calls(
        [each - first for each in starts[:count]], [each - first for each in ends[:count]], kept
    )


def _moments(length: int, request: Request) -> Iterator[float]:
    """Yield moments of a run of ``length`` ns in order, and then one that never comes."""
    chance = np.random.default_rng([request.seed, request.run, 1])
    yield from sorted(chance.integers(0, max(length, 1), _KEPT).tolist())
    yield math.inf


class Turns(NamedTuple):
    """Calls on one repeated image, on distinct ones, and [shift, digest] of some of the latter."""

    repeated_ns: list[int]
    distinct_ns: list[int]
    kept: list[tuple[int, str]]


def take_turns(
    call: _Call, batch: Batch, request: Request, clock: Clock, prepare: _Call = _as_it_is
) -> Turns:
    """Time a repeated batch and new ones in turns.

    All are shifted copies of one batch, made right before: they cost the same to compute and to
    bring in, and differ only in whether the engine has seen them.
    """
    least, most = request.turns
    chance = np.random.default_rng([request.seed, request.run, 2])
    possible = _pixels(batch) - 1
    drawn = chance.choice(possible, min(most + 1, possible), replace=False) + 1
    usual, *shifts = (int(shift) for shift in drawn)
    checked = set(chance.permutation(min(least, len(shifts)))[:_KEPT_DISTINCT].tolist())
    turns = Turns([], [], [])
    call(prepare(shifted(batch, usual)))  # whoever remembers inputs does so now
    for number, shift in enumerate(shifts):
        for repeated in (True, False) if number % 2 else (False, True):
            images = prepare(shifted(batch, usual if repeated else shift))
            start = clock()
            output = call(images)
            taken = clock() - start
            (turns.repeated_ns if repeated else turns.distinct_ns).append(taken)
            if not repeated and number in checked:
                turns.kept.append((shift, digest(output)))
        total = sum(turns.repeated_ns) + sum(turns.distinct_ns)
        if number + 1 >= least and total >= request.turns_s * 1e9:
            break
    return turns


def _pixels(batch: Batch) -> int:
    """Return the pixels of the smallest image of a batch: so many shifts differ."""
    if isinstance(batch, list):
        sizes = (_images.open_rgb(data).size for data in batch)
        return min(width * height for width, height in sizes)
    height, width = batch.shape[-2:]
    return int(height * width)


# This process


def _unchanged(request: Request) -> bool:
    """Say whether every file still is what the bundle said when it was first opened."""
    try:
        with open_bundle(request.bundle) as bundle:
            bundle.check()
            target = choose_target(bundle.manifest, request.target)
            return target.target_digest == request.target_digest
    except BundleError:
        return False


def _peak_mib() -> float:
    """Return the most memory that this process has had in use; ``ru_maxrss`` counts a parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(r"^VmHWM:\s*([0-9]+) kB$", status, re.MULTILINE)
    return 0.0 if match is None else int(match[1]) / 1024


def answer(request: Request, clock: Clock) -> dict[str, Any]:
    """Return the JSON document that answers a request; an error that users can cause is one."""
    try:
        done: Union[Timed, Outputs] = (
            time_target(request, clock) if request.task == "time" else run_untimed(request)
        )
        return {"done": done._asdict()}
    except VitaieError as error:
        return _error(error)
    except (ImportError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        return _error(DiskError("E_MEMORY", request.bundle, hint="Use a smaller batch."))


def _error(error: VitaieError) -> dict[str, Any]:
    fields = ("code", "where", "field", "expected", "got", "hint")
    told = {name: getattr(error, name) for name in fields}
    return {"error": {"kind": type(error).__name__, **told}}


def main(clock: Clock = time.perf_counter_ns) -> None:
    """Answer one request, and end; or end at once when whoever asked is gone."""
    channel = os.dup(1)
    os.dup2(2, 1)  # what engines print is no answer
    # Who asked has logged what there is to say of the target, or was told to be quiet.
    logging.getLogger("vitaie").addHandler(logging.NullHandler())
    line = sys.stdin.readline()
    if not line:
        os._exit(1)  # whoever was to ask was interrupted before
    request = Request(**json.loads(line))
    threading.Thread(target=_end_with_parent, name="vitaie-parent", daemon=True).start()
    with open(channel, "w", encoding="ascii") as stream:
        json.dump(answer(request, clock), stream)
    _ascend.finish()
    os._exit(0)  # taking an engine apart can last a second


def _end_with_parent() -> None:
    """Wait for the end of stdin, which the parent holds open for as long as it lives."""
    os.read(0, 1)
    os._exit(1)
