"""How fast a target is, measured so that the figure can be trusted, or said to be INVALID.

``benchmark`` tells the whole story. What counts is decided from the record alone, by
``vitaie.manifests.measurement``: here calls are made, there they are judged.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitaie.manifests import errors
from vitaie.manifests.devices import MAX_BATCH, MAX_THREADS
from vitaie.manifests.digests import canonical, sha256
from vitaie.manifests.errors import (
    BundleError,
    DiskError,
    ImageError,
    InputError,
    TargetUnavailable,
)
from vitaie.manifests.statistics import inputs_needed, stability
from vitaie.runtime import _images, _preprocess, _timing
from vitaie.runtime._bundle import Bundle, open_bundle
from vitaie.runtime._bytes import available_cpus
from vitaie.runtime._claim import silent
from vitaie.runtime._dataset import Entry, read_dataset
from vitaie.runtime._environment import collect, peak_of
from vitaie.runtime._files import disk_errors
from vitaie.runtime._goldens import with_noise
from vitaie.runtime._model import (
    DOUBLE,
    check_device_id,
    check_device_of,
    check_threads,
    choose_target,
    read_labels,
)
from vitaie.runtime._timing import Outputs, Request, Timed

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Manifest, Preprocess, Target
    from vitaie.manifests.measurement import Honesty, PerformanceMeasurement, Run
    from vitaie.manifests.outputs import BenchOutput

_log = logging.getLogger("vitaie")

BOUNDARIES = ("host", "end_to_end", "device")
SCENARIOS = ("single_stream", "offline")

_OFFLINE_BATCH = 16
_MAX_SEED = 2**53 - 1
_LEAST_SIDE = 16
"""A picture has at least so many pixels each way, or it cannot be shifted often enough."""


class Plan(NamedTuple):
    """How a protocol is carried out; ``measurement.MINIMUM`` says what it must come to.

    Attributes:
        runs: Fresh processes, each of which
        seconds: times calls for at least so long, and
        calls: at least so many, after
        warm_up: so many calls, and seconds, and after
        settle_s: so many seconds in which the machine is left alone.
        turns: At least and at most so many calls on a repeated image, and on distinct ones,
        turns_s: which end in between when they have taken so many seconds.
        worker: The module whose ``main`` the processes run.
    """

    runs: int
    seconds: float
    calls: int
    settle_s: float
    warm_up: tuple[int, float] = (10, 1.0)
    turns: tuple[int, int] = (15, 301)
    turns_s: float = 2.0
    worker: str = "vitaie.runtime._timing"

    @property
    def least(self) -> str:
        """What the timed calls of a run come to at least, in words; how long one takes is open."""
        return f"{self.seconds:g} s and {self.calls} calls at least"


PLANS = {
    "quick": Plan(runs=1, seconds=10, calls=64, settle_s=0),
    "full": Plan(runs=5, seconds=60, calls=133, settle_s=5),  # 5 x 133 is 662 and a little
}


@dataclass(frozen=True)
class Benchmark:
    """What was measured, and what follows from it: a manifest's performance record."""

    folder: Path
    manifest: Manifest
    measurement: PerformanceMeasurement
    record: dict[str, Any]

    @property
    def valid(self) -> bool:
        """Whether the figures count."""
        return not self.record["reasons"]


def benchmark(
    path: str | os.PathLike[str],
    *,
    target: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    scenario: str | None = None,
    boundary: str = "host",
    protocol: str = "quick",
    data: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    device_id: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Measure how fast a target is here. Takes about 15 s, or six minutes for ``full``.

    Args:
        path: A bundle's folder, or the folder of its versions (the newest is taken).
        target: A target's id, ``cpu`` for short, or ``auto``.
        threads: Threads of the engine; as many as there are processors when None.
        batch_size: Images of each call; 1 for ``single_stream``, 16 for ``offline`` when None.
        scenario: ``single_stream`` or ``offline``; what the batch size means when None.
        boundary: ``host`` (tensor in, logits out), ``end_to_end`` (JPEG in, top-5 out), or of a
            target on a device ``device`` (input and output lie there).
        protocol: ``quick`` or ``full``.
        data: A dataset, of which photographs are drawn; the bundle's goldens with noise when None.
        seed: What all that is drawn follows from; unforeseeable when None.
        device_id: Which of this machine's devices runs a target that is made for one.
        progress: Called with each step's name as it starts; there are ``steps_of(protocol)``.

    Raises:
        BundleError: The bundle does not open, or is false: the engine fails, or a golden does.
        TargetUnavailable: The target cannot run here, or the boundary is none of it.
        InputError: An argument is not valid, or the dataset holds too few images.
    """
    say = progress or silent
    asked = _asked(threads, batch_size, scenario, boundary, seed, device_id)
    with _session(path, target, asked, protocol, data, say) as session:
        measured = measure(session.request, session.plan, say)
        return session.benchmark(measured)


@dataclass(frozen=True)
class Session:
    """A target that is being timed: what it is fed is drawn, and each run is a fresh process.

    Whoever has several may time them in turns; ``benchmark`` times one.
    """

    folder: Path
    manifest: Manifest
    protocol: str
    plan: Plan
    request: Request
    _options: _Options
    _inputs: Inputs

    def time(self, number: int) -> Timed:
        """Time the target in the fresh process of this number; once more if it is not stable."""
        return _time_stably(self.request, self.plan, number)

    def finish(self, runs: list[Timed]) -> Benchmark:
        """Compare outputs with untimed ones, and return what all the runs come to."""
        return self.benchmark(compare(self.request, self.plan, runs))

    def benchmark(self, measured: Measured) -> Benchmark:
        """Return what was measured."""
        measurement = _measurement(
            self.manifest, self._options, self.protocol, self._inputs, measured
        )
        return Benchmark(
            self.folder, self.manifest, measurement, summary(self.manifest, measurement)
        )


@contextmanager
def open_session(
    path: str | os.PathLike[str],
    *,
    target: str,
    batch_size: int,
    data: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    device_id: int = 0,
    boundary: str = "host",
) -> Generator[Session, None, None]:
    """Yield a session of the protocol ``quick``; see ``benchmark``."""
    asked = _asked(None, batch_size, None, boundary, seed, device_id)
    with _session(path, target, asked, "quick", data, silent) as session:
        yield session


@contextmanager
def _session(
    path: str | os.PathLike[str],
    target: str,
    asked: _Asked,
    protocol: str,
    data: str | os.PathLike[str] | None,
    say: Callable[[str], None],
) -> Generator[Session, None, None]:
    if protocol not in PLANS:
        raise _invalid("protocol", " or ".join(PLANS), protocol)
    with open_bundle(path) as bundle:
        options = _options(bundle, target, asked)
        say("inputs")
        inputs = _photographs(bundle, options, data) if data else _noisy_goldens(bundle, options)
        folder, manifest = bundle.folder.absolute(), bundle.manifest
    with _in_memory(inputs.images) as memory:
        sizes = [len(image) for image in inputs.images]
        request = _request(folder, options, memory, sizes)
        yield Session(folder, manifest, protocol, PLANS[protocol], request, options, inputs)


def steps_of(protocol: str) -> list[str]:
    """Return the names of the steps that ``benchmark`` reports, roughly."""
    runs = PLANS[protocol].runs if protocol in PLANS else 1
    return ["inputs", *(f"run {number + 1}" for number in range(runs)), "outputs"]


def summary(manifest: Manifest, measurement: PerformanceMeasurement) -> dict[str, Any]:
    """Return a manifest's record of a measurement, judged by this processor's peak too."""
    from vitaie.manifests.measurement import performance_record

    peak = peak_of(measurement)
    return performance_record(measurement, "", gflop=manifest.model.gflop, peak_tflops=peak)


# What is asked for


class _Asked(NamedTuple):
    """What can be asked of any bundle, every default filled in."""

    threads: int
    batch_size: int
    scenario: str
    boundary: str
    seed: int
    device_id: int


class _Options(NamedTuple):
    """What is measured: a target of the bundle, and what was asked for."""

    target: Target
    threads: int
    batch_size: int
    scenario: str
    boundary: str
    seed: int
    device_id: int


def _asked(
    threads: int | None,
    batch_size: int | None,
    scenario: str | None,
    boundary: str,
    seed: int | None,
    device_id: int,
) -> _Asked:
    """Refuse what no bundle could be measured with, before one is opened."""
    check_threads(threads)
    check_device_id(device_id)
    if boundary not in BOUNDARIES:
        raise _invalid("boundary", " or ".join(BOUNDARIES), boundary)
    if scenario not in (None, *SCENARIOS):
        raise _invalid("scenario", " or ".join(SCENARIOS), scenario)
    if batch_size is not None and not 1 <= batch_size <= MAX_BATCH:
        raise _invalid("batch_size", f"1 to {MAX_BATCH}", batch_size)
    if seed is not None and not 0 <= seed <= _MAX_SEED:
        raise _invalid("seed", f"0 to {_MAX_SEED}", seed)
    if scenario is None:
        scenario = "offline" if batch_size is not None and batch_size > 1 else "single_stream"
    if batch_size is None:
        batch_size = _OFFLINE_BATCH if scenario == "offline" else 1
    if scenario == "single_stream" and batch_size != 1:
        raise _invalid("batch_size", "1 for single_stream", batch_size)
    if seed is None:
        seed = secrets.randbelow(2**32)
    threads = threads or min(available_cpus(), MAX_THREADS)
    return _Asked(threads, batch_size, scenario, boundary, seed, device_id)


def _options(bundle: Bundle, target: str, asked: _Asked) -> _Options:
    chosen = choose_target(bundle.manifest, target)
    check_device_of([chosen], asked.device_id)
    if asked.boundary == "device" and chosen.device == "cpu":
        raise TargetUnavailable(
            "E_TARGET_UNAVAILABLE",
            chosen.id,
            field="boundary device",
            got=f"a target on the {chosen.device}, which has no memory of its own",
            hint="Measure it with --boundary host.",
        )
    if asked.boundary == "device" and asked.batch_size not in chosen.batch_sizes:
        expected = f"{' or '.join(map(str, chosen.batch_sizes))}, as {chosen.id} was compiled for"
        raise _invalid("batch_size", expected, asked.batch_size)
    return _Options(chosen, *asked)


def _invalid(argument: str, expected: str, got: object) -> InputError:
    return InputError("E_ARGUMENT", argument, expected=expected, got=got)


# Inputs


class Inputs(NamedTuple):
    """What calls are fed: the bytes of float32 tensors, or for ``end_to_end`` of image files."""

    kind: str
    images: Sequence[bytes]
    digest: str


def _photographs(bundle: Bundle, options: _Options, data: str | os.PathLike[str]) -> Inputs:
    """Draw photographs of a dataset; two that the model sees alike count as one."""
    manifest = bundle.manifest
    ids = [identity for identity, _ in read_labels(bundle)]
    entries = read_dataset(data, class_ids=ids, classes=manifest.model.classes).entries
    drawn: list[int] = np.random.default_rng(options.seed).permutation(len(entries)).tolist()
    found: dict[str, bytes] = {}
    needed = inputs_needed(options.batch_size)
    for tensor, file in _read((entries[index] for index in drawn), needed, manifest.preprocess):
        image = file if options.boundary == "end_to_end" else tensor
        found.setdefault(sha256(tensor), image)
        if len(found) == needed:
            return _inputs("photographs", list(found.values()))
    raise InputError(
        "E_DATASET_SMALL",
        os.fspath(data),
        expected=f"at least {needed} different images",
        got=len(found),
        hint="Leave --data out to time the bundle's goldens with noise.",
    )


def _read(
    entries: Iterator[Entry], at_once: int, spec: Preprocess
) -> Iterator[tuple[bytes, bytes]]:
    """Yield each image's tensor and file, a few at a time on every processor."""

    def read(entry: Entry) -> tuple[bytes, bytes]:
        file = _images.read_file(entry.file, entry.file)
        try:
            pixels = _images.decode(file)
            tensor = _preprocess.preprocess(pixels, spec)
        except ImageError as error:  # of bytes, which have no name
            raise error.at(entry.file) from None
        if min(pixels.shape[:2]) < _LEAST_SIDE:
            expected = f"a photograph of at least {_LEAST_SIDE} pixels each way"
            raise _invalid(entry.file, expected, f"{pixels.shape[1]}x{pixels.shape[0]}")
        return tensor.tobytes(), file

    with ThreadPoolExecutor(available_cpus(), "vitaie-decode") as pool:
        while chunk := [entry for _, entry in zip(range(at_once), entries)]:
            yield from pool.map(read, chunk)


def _noisy_goldens(bundle: Bundle, options: _Options) -> Inputs:
    """Make pictures of the bundle's goldens, each with noise of its own."""
    manifest = bundle.manifest
    chance = np.random.default_rng(options.seed)
    whole = options.boundary == "end_to_end"
    sources = [golden.source if whole else golden.crop for golden in manifest.goldens]
    pictures = [_images.decode(bundle.read(source).tobytes()) for source in sources]
    images: list[bytes] = []
    for number in range(inputs_needed(options.batch_size)):
        pixels = with_noise(pictures[number % len(pictures)], chance)
        images.append(
            _timing.jpeg(pixels)
            if whole
            else _preprocess.tensor(pixels, manifest.preprocess).tobytes()
        )
    return _inputs("goldens with seeded noise", images)


def _inputs(kind: str, images: Sequence[bytes]) -> Inputs:
    return Inputs(kind, images, sha256(canonical([sha256(image) for image in images])))


@contextmanager
def _in_memory(images: Sequence[bytes]) -> Generator[int, None, None]:
    """Yield the descriptor of a file of no name that holds the images, for processes to map."""
    with disk_errors("the inputs in memory"):
        memory = os.memfd_create("vitaie-inputs", os.MFD_CLOEXEC)
    try:
        with disk_errors("the inputs in memory"), open(memory, "wb", closefd=False) as file:
            for image in images:
                file.write(image)
        yield memory
    finally:
        os.close(memory)


# Processes


class Measured(NamedTuple):
    """The answers of the timing processes, and of the one that was not timed."""

    runs: list[Timed]
    outputs: Outputs


def measure(request: Request, plan: Plan, say: Callable[[str], None]) -> Measured:
    """Time the target in fresh processes, then compare outputs with those of one that is not timed.

    A run that is not stable is made once more; what the second gives stands.
    """
    runs: list[Timed] = []
    for number in range(plan.runs):
        say(f"run {number + 1} of {plan.runs}, {plan.least}")
        runs.append(_time_stably(request, plan, number))
    say("outputs")
    return compare(request, plan, runs)


def _time_stably(request: Request, plan: Plan, number: int) -> Timed:
    run = _time(request, plan, 2 * number)
    if not _stable(run):
        _log.warning("run %d was not stable; it is made once more", number + 1)
        run = _time(request, plan, 2 * number + 1)
    return run


def compare(request: Request, plan: Plan, runs: list[Timed]) -> Measured:
    """Compare outputs of timed runs with those of a process that is not timed.

    Raises:
        BundleError: The target does not give the goldens.
    """
    windows = [window for run in runs for window, _ in run.kept]
    shifts = [shift for run in runs for shift, _ in run.kept_distinct]
    asked = request._replace(task="outputs", windows=windows, shifts=shifts)
    outputs = Outputs(**_ask(asked, plan.worker))
    if not outputs.goldens_hold:
        raise BundleError(
            "E_CLAIM_FALSE",
            request.bundle,
            field=f"goldens in {request.target}",
            got=outputs.goldens,
            hint="How fast it is does not matter.",
        )
    return Measured(runs, outputs)


def _request(folder: Path, options: _Options, memory: int, sizes: Sequence[int]) -> Request:
    return Request(
        task="time",
        bundle=str(folder),
        target=options.target.id,
        target_digest=options.target.target_digest,
        boundary=options.boundary,
        batch_size=options.batch_size,
        threads=options.threads,
        memory=memory,
        sizes=sizes,
        seed=options.seed,
        device_id=options.device_id,
    )


def _time(request: Request, plan: Plan, number: int) -> Timed:
    asked = request._replace(
        run=number,
        seconds=plan.seconds,
        calls=plan.calls,
        warm_up=plan.warm_up,
        settle_s=plan.settle_s,
        turns=plan.turns,
        turns_s=plan.turns_s,
    )
    return Timed(**_ask(asked, plan.worker))


def _stable(run: Timed) -> bool:
    latencies = [float(end - start) for start, end in zip(run.start_ns, run.end_ns)]
    return len(latencies) >= 3 and stability(latencies).stable


def _ask(request: Request, worker: str) -> dict[str, Any]:
    """Run a process that answers one request; it does not outlive this call, whatever happens.

    It looks for modules where this process does, never in the working folder, and is out of
    reach of a terminal's Ctrl-C: that ends this call, which then ends it.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {worker} import main; main()"
    with disk_errors(sys.executable):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(request.memory,),
            start_new_session=True,
            bufsize=0,
        )
    with process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # it ended at once; its code says how
                process.stdin.write(json.dumps(request._asdict()).encode("ascii") + b"\n")
            told = process.stdout.read()  # stdin stays open meanwhile: its end would end it
            process.wait()
        finally:
            process.kill()
    if process.returncode:
        raise _ended(request, process.returncode)
    document: dict[str, Any] = json.loads(told)
    if "error" in document:
        raise error_of(document["error"])
    done: dict[str, Any] = document["done"]
    return done


def error_of(told: dict[str, Any]) -> Exception:
    """Return the error that a timing process told."""
    kind: type[errors.VitaieError] = getattr(errors, told["kind"])
    fields = ("where", "field", "expected", "got", "hint")
    return kind(told["code"], **{name: told[name] for name in fields})


def _ended(request: Request, code: int) -> Exception:
    """Return what to raise when a process ended without an answer."""
    if code == -signal.SIGKILL:
        got, hint = "the timing process was killed", "Close other programs, or use a smaller batch."
        return DiskError("E_MEMORY", request.bundle, got=got, hint=hint)
    if code < 0:
        got = f"the timing process ended by {signal.Signals(-code).name}"
        return BundleError("E_BUNDLE_ENGINE", request.bundle, field=request.target, got=got)
    return RuntimeError(f"the timing process ended with {code}")


# What is told


def _measurement(
    manifest: Manifest, options: _Options, protocol: str, inputs: Inputs, measured: Measured
) -> PerformanceMeasurement:
    from vitaie.manifests.manifest import preprocess_digest
    from vitaie.manifests.measurement import PerformanceMeasurement

    fields: dict[str, Any] = {
        "format": "vitaie-performance",
        "format_version": 1,
        "subject": {
            "name": manifest.name,
            "content_digest": manifest.content_digest,
            "target": options.target.id,
            "target_digest": options.target.target_digest,
            "preprocess_digest": preprocess_digest(manifest.preprocess),
        },
        "boundary": options.boundary,
        "scenario": options.scenario,
        "protocol": protocol,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "inputs": {
            "kind": inputs.kind,
            "count": len(inputs.images),
            "seed": options.seed,
            "digest": inputs.digest,
        },
        "runs": tuple(_run(run) for run in measured.runs),
        "honesty": _honesty(measured, options.seed),
        "placement": options.target.placement,
        "environment": collect(),
    }
    return PerformanceMeasurement.model_validate(fields)


def _run(run: Timed) -> Run:
    from vitaie.manifests.measurement import Run

    return Run(
        load_s=run.load_s,
        first_call_s=run.first_call_s,
        warm_up_calls=run.warm_up_calls,
        warm_up_s=run.warm_up_s,
        start_ns=tuple(run.start_ns),
        end_ns=tuple(run.end_ns),
        peak_mib=run.peak_mib,
    )


def _honesty(measured: Measured, seed: int) -> Honesty:
    """Compare what timed calls gave with what the same inputs give untimed, to the last bit."""
    from vitaie.manifests.measurement import Honesty

    runs, outputs = measured
    timed = [digest for run in runs for _, digest in run.kept]
    timed += [digest for run in runs for _, digest in run.kept_distinct]
    untimed = outputs.windows + outputs.shifts
    return Honesty(
        seed=seed,
        checked=len(timed),
        differing=sum(one != other for one, other in zip(timed, untimed)),
        distinct_ms=statistics.median(time for run in runs for time in run.distinct_ns) / 1e6,
        repeated_ms=statistics.median(time for run in runs for time in run.repeated_ns) / 1e6,
        artifacts_unchanged=all(run.unchanged for run in runs) and outputs.unchanged,
    )


def run_rates(measurement: PerformanceMeasurement) -> list[float]:
    """Return the images a second of each run."""
    size = measurement.batch_size
    return [
        len(run.start_ns) * size * 1e9 / (run.end_ns[-1] - run.start_ns[0])
        for run in measurement.runs
    ]


def output(result: Benchmark, written: str | None) -> BenchOutput:
    """Return the ``--json`` document of a measurement, which was written to a file or not."""
    from vitaie.manifests.outputs import BenchOutput

    measurement, record = result.measurement, result.record
    return BenchOutput(
        path=str(result.folder).encode("utf-8", "backslashreplace").decode("utf-8"),
        version=result.manifest.version,
        output=written,
        target=measurement.subject.target,
        double=any(
            target.by_double
            for target in result.manifest.targets
            if target.target_digest == measurement.subject.target_digest
        ),
        target_digest=measurement.subject.target_digest,
        boundary=measurement.boundary,
        scenario=measurement.scenario,
        protocol=measurement.protocol,
        batch_size=measurement.batch_size,
        threads=measurement.threads,
        processor=measurement.environment.processor,
        inputs=measurement.inputs.kind,
        images=measurement.inputs.count,
        seed=measurement.inputs.seed,
        verdict=record["verdict"],
        reasons=record["reasons"],
        fps=record["fps"],
        runs_fps=run_rates(measurement),
        calls=sum(len(run.start_ns) for run in measurement.runs),
        latency_ms=record["latency_ms"],
        variation=record["variation"],
        load_s=max(run.load_s for run in measurement.runs),
        first_call_s=max(run.first_call_s for run in measurement.runs),
        placement=measurement.placement,
        peak_mib=record["peak_mib"],
    )


def describe(shown: BenchOutput, honesty: Honesty) -> list[str]:
    """Return a measurement as lines for people; the figure that is quoted comes last.

    An INVALID one has no such figure: nothing that looks for it finds one.
    """
    latencies = ", ".join(f"{name} {time:.4g} ms" for name, time in shown.latency_ms.items())
    rows = [
        (
            "target",
            f"{shown.target}, {shown.threads} threads, {shown.processor}"
            + f", {DOUBLE}" * shown.double,
        ),
        (
            "measured",
            f"{shown.boundary}, {shown.scenario}, batch {shown.batch_size}, {shown.protocol}:"
            f" {shown.calls:,} calls on {shown.images} {shown.inputs}, seed {shown.seed}",
        ),
        ("start", f"loaded in {shown.load_s:.3g} s, first call {1000 * shown.first_call_s:.4g} ms"),
        ("latency", f"{latencies}, variation {shown.variation:.3f}"),
        ("memory", f"{shown.peak_mib:.0f} MiB at most"),
        (
            "checked",
            f"{honesty.checked - honesty.differing} of {honesty.checked} outputs equal untimed"
            f" ones; a repeated image {honesty.repeated_ms:.4g} ms, distinct ones"
            f" {honesty.distinct_ms:.4g} ms",
        ),
    ]
    if shown.placement is not None and shown.placement < 1:
        rows.append(("placement", f"{100 * shown.placement:.1f}% of the operators on the device"))
    if len(shown.runs_fps) > 1:
        rates = f"{min(shown.runs_fps):.2f} to {max(shown.runs_fps):.2f} images a second"
        rows.insert(3, ("runs", f"{len(shown.runs_fps)}, {rates}"))
    valid = shown.verdict == "VALID"
    last = f"FPS: {shown.fps:.2f}" if valid else "INVALID: no speed is claimed"
    return [*(f"{key:<11}{errors.printable(value, 400)}" for key, value in rows), last]
