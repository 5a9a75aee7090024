"""How accurate a target is, counted image by image on a labelled dataset, and the source beside it.

``evaluate`` tells the whole story. What the counts come to is computed from the record alone, by
``vitaie.manifests.measurement``: here images are seen, there they are judged.

Batches are cut by the dataset's order and by nothing else, so an image is always computed in the
same company: neither where a run was killed nor how many machines shared it changes a prediction.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from vitaie.manifests.digests import canonical, sha256
from vitaie.manifests.errors import (
    ImageError,
    InputError,
    TargetUnavailable,
    VitaieError,
    printable,
)
from vitaie.runtime import _images, _journal, _preprocess
from vitaie.runtime._bundle import Bundle, open_bundle
from vitaie.runtime._bytes import available_cpus
from vitaie.runtime._dataset import Dataset, DatasetDigest, Entry, read_dataset
from vitaie.runtime._environment import collect
from vitaie.runtime._files import disk_errors, write_output
from vitaie.runtime._journal import Block, Identity, Journal, Row, open_journal
from vitaie.runtime._model import (
    Engine,
    check_threads,
    choose_target,
    missing_for,
    open_engine,
    read_labels,
    run,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.contents import Rate
    from vitaie.manifests.manifest import Manifest, Preprocess, Target
    from vitaie.manifests.measurement import AccuracyMeasurement, Environment
    from vitaie.manifests.outputs import EvalOutput

    _Path = Union[str, os.PathLike[str]]

_log = logging.getLogger("vitaie")

SOURCE = "torchscript-cpu-fp32"
"""The target that is the source model: ``model.ts``, fp32, as it was exported."""

_BATCH_SIZE = 8
_MAX_BATCH = 1024
_TOP = 5

Seen = Union[Row, ImageError]
"""An image, or why there is none."""


class Progress(NamedTuple):
    """How far a run is: batches' images done of all, and of those counted how many are right."""

    done: int
    total: int
    counted: int
    top1: int
    top5: int


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what follows from it: a manifest's accuracy record."""

    folder: Path
    manifest: Manifest
    class_ids: tuple[str, ...]
    measurement: AccuracyMeasurement
    record: dict[str, Any]


def evaluate(
    path: _Path,
    data: _Path,
    *,
    labels: _Path | None = None,
    target: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    allow_missing: int = 0,
    paired: bool = True,
    journal: _Path | None = None,
    cache: _Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    save: Callable[[AccuracyMeasurement], None] | None = None,
) -> Evaluation:
    """Count how many of a dataset's images a target gets right.

    Each file is read once: what is hashed is what is decoded. Decoding, on every processor, and
    inference overlap; at most four batches of images are held.

    Args:
        path: A bundle's folder, or the folder of its versions (the newest is taken).
        data: The dataset; ``vitaie.runtime._dataset`` says how one is laid out.
        labels: The file of labels of a flat dataset; looked for when None.
        target: A target's id, ``cpu`` for short, or ``auto``.
        threads: Threads of the engine; as many as there are processors when None.
        batch_size: Images of each call.
        allow_missing: How many images may be unreadable; they are counted and named.
        paired: Whether the source model predicts the same images.
        journal: Where progress is kept, so that the next call of the same goes on; none when None.
        cache: A folder where the source's predictions are kept and found; none when None.
        progress: Called at the start and after each batch.
        save: Called with the measurement before the journal is removed.

    Raises:
        BundleError: The bundle does not open, or the engine fails on it.
        TargetUnavailable: The target or the source cannot run here.
        InputError: An argument is not valid, or the dataset is not.
        ImageError: One image more than ``allow_missing`` cannot be used.
        StoreError: Another run has the journal.
        DiskError: The disk is full; what is journaled stays.
    """
    options = _Options(target, threads, batch_size, allow_missing, paired)
    _check_options(options)
    with open_bundle(path, early="model.ts") as bundle, ExitStack() as stack:
        plan = _plan(bundle, options, data, labels)
        bundle.check()
        record = stack.enter_context(open_journal(journal, _identity(plan))) if journal else None
        kept = _read_kept(cache, plan)
        blocks = _count(bundle, plan, record, kept, progress or _silent)
        measurement = _measurement(plan, blocks)
        _write_kept(cache, plan, blocks, kept)
        del blocks, kept  # the record holds it all
        if save is not None:
            save(measurement)
        if record is not None:
            record.remove()
        folder = bundle.folder.absolute()
    return Evaluation(folder, plan.manifest, plan.class_ids, measurement, summary(measurement))


def summary(measurement: AccuracyMeasurement) -> dict[str, Any]:
    """Return a manifest's record of a measurement."""
    from vitaie.manifests.measurement import accuracy_record

    return accuracy_record(measurement, "")


def _silent(progress: Progress) -> None:
    """Report no progress."""


# What is asked for


class _Options(NamedTuple):
    """What was asked for, as it was asked for."""

    target: str
    threads: int | None
    batch_size: int | None
    allow_missing: int
    paired: bool


class _Plan(NamedTuple):
    """What is computed of which images, every default filled in. ``source`` None is unpaired."""

    manifest: Manifest
    class_ids: tuple[str, ...]
    target: Target
    source: Target | None
    threads: int
    batch_size: int
    allow_missing: int
    dataset: Dataset
    environment: Environment

    @property
    def batches(self) -> range:
        """The number of each batch."""
        return range(-(-len(self.dataset.entries) // self.batch_size))

    def batch(self, number: int) -> tuple[Entry, ...]:
        """Return a batch's images: by order alone, readable or not."""
        start = number * self.batch_size
        return self.dataset.entries[start : start + self.batch_size]


def _check_options(options: _Options) -> None:
    """Refuse what no bundle could be measured with, before one is opened."""
    check_threads(options.threads)
    if options.batch_size is not None and not 1 <= options.batch_size <= _MAX_BATCH:
        raise _invalid("batch_size", f"1 to {_MAX_BATCH}", options.batch_size)
    if options.allow_missing < 0:
        raise _invalid("allow_missing", "at least 0", options.allow_missing)


def _plan(bundle: Bundle, options: _Options, data: _Path, labels: _Path | None) -> _Plan:
    manifest = bundle.manifest
    target = choose_target(manifest, options.target)
    source = _source(manifest) if options.paired else None
    ids = tuple(identity for identity, _ in read_labels(bundle))
    return _Plan(
        manifest,
        ids,
        target,
        source,
        options.threads or available_cpus(),
        options.batch_size or max(target.batch_sizes, default=_BATCH_SIZE),
        options.allow_missing,
        read_dataset(data, labels, class_ids=ids, classes=manifest.model.classes),
        collect(),
    )


def _invalid(argument: str, expected: str, got: object) -> InputError:
    return InputError("E_ARGUMENT", argument, expected=expected, got=got)


def _source(manifest: Manifest) -> Target:
    """Return the source model's target, which can run here."""
    for target in manifest.targets:
        if target.id == SOURCE and missing_for(target):
            raise TargetUnavailable(
                "E_EXTRA_MISSING",
                SOURCE,
                got=missing_for(target),
                hint="The source model runs beside the target; measure without it by --unpaired.",
            )
    return choose_target(manifest, SOURCE)


def _identity(plan: _Plan) -> Identity:
    """Return all that predictions depend on; how many images may be missing changes none."""
    from vitaie.manifests.manifest import preprocess_digest

    environment = plan.environment.model_dump(exclude={"created", "machine"})
    return {
        "bundle": plan.manifest.content_digest,
        "target": f"{plan.target.id} {plan.target.target_digest}",
        "preprocessing": preprocess_digest(plan.manifest.preprocess),
        "dataset": _listing(plan.dataset),
        "batch size": plan.batch_size,
        "threads": plan.threads,
        "pairing": plan.source is not None,
        "packages or processor": sha256(canonical(environment)),
    }


def _listing(dataset: Dataset) -> str:
    """Return the digest of which files there are, of which class, and when each was changed last.

    It stands for their bytes where reading them is what a journal spares. The time of change is
    the file system's own (``st_ctime``), which no program sets.
    """
    whole = hashlib.sha256()
    for entry in dataset.entries:
        whole.update(f"{entry.path}\0{entry.label}\0".encode())
        try:
            status = os.stat(entry.file)
            whole.update(b"%d %d\0" % (status.st_size, status.st_ctime_ns))
        except OSError:
            whole.update(b"gone\0")
    return whole.hexdigest()


# Seeing


Blocks = dict[int, Sequence[Seen]]
"""What was seen of each batch, by its number."""


def _count(
    bundle: Bundle,
    plan: _Plan,
    journal: Journal | None,
    kept: dict[int, Block],
    progress: Callable[[Progress], None],
) -> Blocks:
    """See every batch that is not in the journal, which each is written to as it is done.

    A batch with an image that cannot be used is not written: the next run tries it again.
    """
    blocks: Blocks = dict(_journaled(plan, journal))
    tally = Progress(0, len(plan.dataset.entries), 0, 0, 0)
    for number, block in blocks.items():
        tally = _add(tally, plan.batch(number), block)
    progress(tally)
    missing = 0
    todo = [number for number in plan.batches if number not in blocks]
    with closing(_see(bundle, plan, kept, todo)) as seeing:
        for number, block in seeing:
            errors = [seen for seen in block if isinstance(seen, ImageError)]
            missing += len(errors)
            if missing > plan.allow_missing:
                raise _too_many(errors[plan.allow_missing - missing], plan.allow_missing)
            if journal is not None and not errors:
                journal.append(number, tuple(seen for seen in block if isinstance(seen, Row)))
            blocks[number] = block
            tally = _add(tally, plan.batch(number), block)
            progress(tally)
    return blocks


def _journaled(plan: _Plan, journal: Journal | None) -> dict[int, Block]:
    """Return what the journal holds of this run, and say so."""
    if journal is None:
        return {}
    if journal.changed:
        _log.info("%s: starting anew, for another %s", journal.path, " and ".join(journal.changed))
    found = journal.blocks.items()
    blocks = {number: block for number, block in found if _fits(plan, number, block)}
    if blocks:
        images = sum(map(len, blocks.values()))
        total = len(plan.dataset.entries)
        _log.info("%s: going on after %s of %s images", journal.path, f"{images:,}", f"{total:,}")
    return blocks


def _fits(plan: _Plan, number: int, block: Block) -> bool:
    """Say whether a block is a batch of the plan, with as many classes as a row of it has."""
    width = min(_TOP, plan.manifest.model.classes)
    return (
        number in plan.batches
        and len(block) == len(plan.batch(number))
        and all(len(row.target) == width for row in block)
        and all((row.source is None) == (plan.source is None) for row in block)
    )


def _add(tally: Progress, entries: Sequence[Entry], block: Sequence[Seen]) -> Progress:
    pairs = [(e.label, seen.target) for e, seen in zip(entries, block) if isinstance(seen, Row)]
    return Progress(
        tally.done + len(block),
        tally.total,
        tally.counted + len(pairs),
        tally.top1 + sum(label == classes[0] for label, classes in pairs),
        tally.top5 + sum(label in classes for label, classes in pairs),
    )


def _too_many(error: ImageError, allowed: int) -> ImageError:
    hint = f"Repair or remove it, or count it as missing: --allow-missing {allowed + 1}."
    return _renamed(error, error.where, hint)


def _renamed(error: ImageError, where: str, hint: str) -> ImageError:
    """Return an error as one of another place, without the frames that led to it."""
    return ImageError(
        error.code, where, field=error.field, expected=error.expected, got=error.got, hint=hint
    )


def _see(
    bundle: Bundle, plan: _Plan, kept: dict[int, Block], numbers: Iterable[int]
) -> Generator[tuple[int, list[Seen]], None, None]:
    """Yield each batch's number and what was seen of it, in the order asked for.

    Two batches are being decoded while one is computed and another waits for it.
    """
    decoders = ThreadPoolExecutor(available_cpus(), "vitaie-decode")
    engine = ThreadPoolExecutor(1, "vitaie-engine")
    engines = _Engines(bundle, plan, kept)
    waiting = iter(numbers)
    decoding: deque[tuple[int, list[Future[_Image | ImageError]]]] = deque()
    running: deque[tuple[int, Future[list[Seen]]]] = deque()
    try:
        while True:
            for number in islice(waiting, 2 - len(decoding)):
                entries = plan.batch(number)
                images = [decoders.submit(_read, e, plan.manifest.preprocess) for e in entries]
                decoding.append((number, images))
            if decoding and len(running) < 2:
                number, images = decoding.popleft()
                running.append((number, engine.submit(engines.see, number, images)))
                continue
            if not running:
                return
            number, seen = running.popleft()
            yield number, seen.result()
    finally:
        for _, images in decoding:
            for image in images:
                image.cancel()
        for _, seen in running:
            seen.cancel()
        decoders.shutdown(wait=True, cancel_futures=True)
        engine.shutdown(wait=True, cancel_futures=True)


class _Image(NamedTuple):
    """A file that was read: its size, its digest, and what the model sees of it."""

    size: int
    sha256: str
    tensor: NDArray[np.float32]


def _read(entry: Entry, spec: Preprocess) -> _Image | ImageError:
    """Read a file once, and return the size, the digest and the tensor of those bytes."""
    try:
        data = _images.read_file(entry.file, entry.file)
        return _Image(len(data), sha256(data), _preprocess.preprocess(data, spec))
    except ImageError as error:  # of bytes, which have no name
        return _renamed(error, entry.file, error.hint)


class _Engines:
    """The target and the source, each opened when it is needed first. For one thread."""

    def __init__(self, bundle: Bundle, plan: _Plan, kept: dict[int, Block]) -> None:
        """Open nothing yet: the source's predictions may all be ``kept``."""
        self._bundle = bundle
        self._plan = plan
        self._kept = kept
        self._opened: dict[str, Engine] = {}

    def see(self, number: int, images: Sequence[Future[_Image | ImageError]]) -> list[Seen]:
        """Return what is seen of each image of a batch; it is computed without the unusable."""
        read = [image.result() for image in images]
        usable = [image for image in read if isinstance(image, _Image)]
        rows = iter(self._rows(number, usable) if usable else ())
        return [image if isinstance(image, ImageError) else next(rows) for image in read]

    def _rows(self, number: int, images: Sequence[_Image]) -> list[Row]:
        plan, batch = self._plan, np.stack([image.tensor for image in images])
        targets = self._classes(plan.target, batch)
        if plan.source is None:
            sources: Sequence[tuple[int, ...] | None] = [None] * len(images)
        elif plan.source.id == plan.target.id:
            sources = targets
        else:
            sources = self._kept_classes(number, images) or self._classes(plan.source, batch)
        return [
            Row(image.size, image.sha256, target, source)
            for image, target, source in zip(images, targets, sources)
        ]

    def _kept_classes(self, number: int, images: Sequence[_Image]) -> list[tuple[int, ...]] | None:
        """Return what the source gave on this batch before, if each file is the same to the bit."""
        block = self._kept.get(number, ())
        if [row.sha256 for row in block] != [image.sha256 for image in images]:
            return None
        return [row.target for row in block]

    def _classes(self, target: Target, batch: NDArray[np.float32]) -> list[tuple[int, ...]]:
        """Return the first five classes of each image, the most probable first; ties by index."""
        engine = self._opened.get(target.id)
        if engine is None:
            engine = open_engine(self._bundle, target, self._plan.threads)
            self._bundle.release("model.ts")  # each engine has its own weights by now
            self._opened[target.id] = engine
        logits = run(engine, batch, self._plan.manifest)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :_TOP]
        return [tuple(row) for row in order.tolist()]


# The source's predictions, kept


def _kept_identity(plan: _Plan, source: Target) -> Identity:
    """Return all that the source's predictions depend on: nothing of the target but its batches."""
    same = ("preprocessing", "dataset", "batch size", "threads", "packages or processor")
    identity = _identity(plan)
    return {"source": source.target_digest, **{name: identity[name] for name in same}}


def _kept_file(cache: _Path, identity: Identity) -> Path:
    return Path(cache) / "sources" / sha256(canonical(identity))


def _read_kept(cache: _Path | None, plan: _Plan) -> dict[int, Block]:
    """Return what the source gave on this dataset before, by batch; nothing if it is not whole."""
    if cache is None or plan.source is None:
        return {}
    identity = _kept_identity(plan, plan.source)
    file = _kept_file(cache, identity)
    try:
        with open(file, "rb") as opened:
            found = _journal.read(opened, file)
    except (OSError, InputError):
        return {}
    if found.identity != identity:
        return {}
    return found.blocks


def _write_kept(cache: _Path | None, plan: _Plan, blocks: Blocks, kept: dict[int, Block]) -> None:
    """Keep what the source gave on each whole batch. That it cannot be kept spoils no run."""
    if cache is None or plan.source is None:
        return
    made: dict[int, Block] = {}
    for number in plan.batches:
        rows = [seen for seen in blocks[number] if isinstance(seen, Row) and seen.source]
        if len(rows) == len(blocks[number]):
            made[number] = tuple(Row(r.size, r.sha256, r.source or (), None) for r in rows)
    if made == kept:
        return
    identity = _kept_identity(plan, plan.source)
    file = _kept_file(cache, identity)
    try:
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
        write_output(file, _journal.encode(identity, made.items()))
    except VitaieError as error:
        _log.info("the source's predictions are not kept: %s", error)


# The record


def _measurement(plan: _Plan, blocks: Blocks) -> AccuracyMeasurement:
    """Return the record: one row for each image that was seen, in the dataset's order."""
    from vitaie.manifests.manifest import preprocess_digest
    from vitaie.manifests.measurement import AccuracyMeasurement, Images, Subject

    digest = DatasetDigest()
    rows: list[Row] = []
    seen_entries: list[Entry] = []
    missing: list[str] = []
    for number in plan.batches:
        for entry, seen in zip(plan.batch(number), blocks[number]):
            if isinstance(seen, ImageError):
                missing.append(entry.path)
                continue
            digest.add(entry.path, seen.size, seen.sha256, entry.label)
            seen_entries.append(entry)
            rows.append(seen)
    if not rows:
        raise InputError("E_DATASET_EMPTY", plan.dataset.root, expected="an image that can be read")
    return AccuracyMeasurement(
        format="vitaie-accuracy",
        format_version=1,
        subject=Subject(
            name=plan.manifest.name,
            content_digest=plan.manifest.content_digest,
            target=plan.target.id,
            target_digest=plan.target.target_digest,
            preprocess_digest=preprocess_digest(plan.manifest.preprocess),
        ),
        dataset=_name(plan.dataset),
        dataset_digest=digest.hexdigest(),
        missing=tuple(missing),
        batch_size=plan.batch_size,
        threads=plan.threads,
        images=Images(
            path=tuple(entry.path for entry in seen_entries),
            size=tuple(row.size for row in rows),
            sha256=tuple(row.sha256 for row in rows),
            label=tuple(entry.label for entry in seen_entries),
            target=tuple(row.target for row in rows),
            source=None if plan.source is None else tuple(row.source or () for row in rows),
        ),
        environment=plan.environment,
    )


def _name(dataset: Dataset) -> str:
    """Return what the dataset's folder is called, or the one above its ``val``."""
    above, name = os.path.split(dataset.root)
    return (os.path.basename(above) if name == "val" else "") or name or dataset.root


# For people and scripts


def output(result: Evaluation, written: str | None) -> EvalOutput:
    """Return the ``--json`` document of an evaluation whose record is at ``written``, if it is."""
    from vitaie.manifests.outputs import EvalOutput
    from vitaie.manifests.statistics import mcnemar_exact

    measurement, record = result.measurement, result.record
    paired = record["paired"]
    fields: dict[str, Any] = {
        "path": str(result.folder).encode("utf-8", "backslashreplace").decode("utf-8"),
        "version": result.manifest.version,
        "output": written,
        "target": measurement.subject.target,
        "target_digest": measurement.subject.target_digest,
        "batch_size": measurement.batch_size,
        "threads": measurement.threads,
        "dataset": measurement.dataset,
        "dataset_digest": measurement.dataset_digest,
        "images": len(measurement.images.path),
        "missing": list(measurement.missing),
        "mcnemar_p": paired and mcnemar_exact(paired["source_only"], paired["target_only"]),
        "classes": _classes(result),
        "expected": list(result.manifest.expected.accuracy),
    }
    same = ("top1", "top5", "source_top1", "source_top5", "paired", "agreement")
    return EvalOutput.model_validate({**fields, **{name: record[name] for name in same}})


def _classes(result: Evaluation) -> list[dict[str, str | int]]:
    """Return the counts of each class that has an image, by index."""
    images = result.measurement.images
    counts: dict[int, list[int]] = {}
    for label, classes in zip(images.label, images.target):
        count = counts.setdefault(label, [0, 0, 0])
        count[0] += 1
        count[1] += label == classes[0]
        count[2] += label in classes
    return [
        {"index": index, "id": result.class_ids[index], "images": n, "top1": top1, "top5": top5}
        for index, (n, top1, top5) in sorted(counts.items())
    ]


def describe(shown: EvalOutput) -> list[str]:
    """Return an evaluation as lines for people; the last is the one the vendor's scripts print."""
    rows = [
        ("target", f"{shown.target}, batch {shown.batch_size}, {shown.threads} threads"),
        ("dataset", f"{shown.dataset}, {shown.images:,} images, {shown.dataset_digest}"),
        ("top-1", _rate(shown.top1, shown.images)),
        ("top-5", _rate(shown.top5, shown.images)),
    ]
    if shown.missing:
        rows.insert(2, ("missing", f"{len(shown.missing):,} images: {', '.join(shown.missing)}"))
    if shown.source_top1 and shown.source_top5 and shown.paired and shown.agreement is not None:
        cells = shown.paired
        rows += [
            ("source", f"{SOURCE}: top-1 {_rate(shown.source_top1, shown.images)}"),
            (
                "paired",
                f"{cells.both:,} right in both, {cells.target_only:,} in the target only,"
                f" {cells.source_only:,} in the source only, {cells.neither:,} in neither;"
                f" McNemar's p {shown.mcnemar_p:.3g}",
            ),
            ("agreement", f"{shown.agreement:,} of {shown.images:,} first classes"),
        ]
    for figure in shown.expected:
        top5 = "" if figure.top5 is None else f", top-5 {figure.top5}"
        off = shown.top1.percent - figure.top1
        rows.append(
            (
                "published",
                f"top-1 {figure.top1}{top5} ({figure.source}): measured here {off:+.3f} points",
            )
        )
    last = (
        f"top1 is {shown.top1.percent:.3f}, top5 is {shown.top5.percent:.3f},"
        f" step is {shown.images}"
    )
    return [*(f"{key:<11}{printable(value, 400)}" for key, value in rows), last]


def _rate(rate: Rate, images: int) -> str:
    interval = rate.wilson95
    return (
        f"{rate.percent:.3f}%, {rate.count:,} of {images:,},"
        f" 95% between {interval.low:.3f} and {interval.high:.3f}"
    )


# Where progress and predictions are kept by default


def cache_folder() -> Path | None:
    """Return the user's folder for what can be made again; None where there is no home."""
    for place in (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")):
        if os.path.isabs(place):
            return Path(place) / "vitaie"
    return None


def journal_file(output: _Path | None, bundle: _Path, target: str, data: _Path) -> Path:
    """Return where a command's journal lies: beside its output, or in the cache if it has none.

    There it is named by the arguments, so that a changed bundle or dataset finds it and says so.

    Raises:
        InputError: There is no cache.
        DiskError: The cache's folder cannot be made.
    """
    if output is not None:
        return Path(f"{os.fspath(output)}.journal")
    cache = cache_folder()
    if cache is None:
        hint = "Name one with --journal FILE."
        raise InputError("E_ARGUMENT", "journal", got="no home folder to put one in", hint=hint)
    folder = cache / "journals"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    named = [os.path.abspath(bundle), target, os.path.abspath(data)]
    return folder / f"{sha256(repr(named).encode())[:32]}.journal"
