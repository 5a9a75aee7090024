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
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from vitaie.manifests.devices import MAX_BATCH, MAX_THREADS
from vitaie.manifests.digests import canonical, sha256
from vitaie.manifests.errors import ImageError, InputError, TargetUnavailable
from vitaie.runtime._bundle import Bundle, open_bundle
from vitaie.runtime._bytes import available_cpus
from vitaie.runtime._dataset import Dataset, DatasetDigest, Entry, read_dataset
from vitaie.runtime._environment import collect
from vitaie.runtime._files import disk_errors
from vitaie.runtime._journal import Block, Identity, Journal, Row, check_journal, open_journal
from vitaie.runtime._model import (
    check_device_id,
    check_device_of,
    check_threads,
    choose_target,
    missing_for,
    read_labels,
)
from vitaie.runtime._seeing import TOP, Batch, Engines, Seen, see_here
from vitaie.runtime._sources import read_known, write_known

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Manifest, Target
    from vitaie.manifests.measurement import AccuracyMeasurement, Environment

    _Path = Union[str, os.PathLike[str]]

_log = logging.getLogger("vitaie")

SOURCE = "torchscript-cpu-fp32"
"""The target that is the source model: ``model.ts``, fp32, as it was exported."""

_BATCH_SIZE = 8

Blocks = dict[int, Sequence[Seen]]
"""What was seen of each batch, by its number."""


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
    device_id: int = 0,
    address: str | None = None,
    journal: _Path | None = None,
    cache: _Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    save: Callable[[AccuracyMeasurement], None] | None = None,
) -> Evaluation:
    """Count how many of a dataset's images a target gets right.

    Decoding, on every processor, and inference overlap; at most four batches of images are held.

    Args:
        path: A bundle's folder, or the folder of its versions (the newest is taken).
        data: The dataset; ``vitaie.runtime._dataset`` says how one is laid out.
        labels: The file of labels of a flat dataset; looked for when None.
        target: A target's id, ``cpu`` for short, or ``auto``.
        threads: Threads of the engine; as many as there are processors when None.
        batch_size: Images of each call.
        allow_missing: How many images may be unreadable; they are counted and named.
        paired: Whether the source model predicts the same images.
        device_id: Which of this machine's devices runs a target that is made for one. Of a cluster
            the nodes say it.
        address: Of a Ray cluster that computes it; this process does when None.
        journal: Where progress is kept, so that the next call of the same goes on; none when None.
        cache: A folder where the source's predictions are kept and found; none when None.
        progress: Called at the start and after each batch.
        save: Called with the measurement before the journal is removed.

    Raises:
        BundleError: The bundle does not open, or the engine fails on it.
        TargetUnavailable: The target or the source cannot run here, or the cluster cannot do it.
        InputError: An argument is not valid, or the dataset is not.
        ImageError: One image more than ``allow_missing`` cannot be used.
        StoreError: Another run has the journal.
        DiskError: The disk is full; what is journaled stays.
        Interrupted: In place of a KeyboardInterrupt, where there is a journal.
    """
    options = _Options(target, threads, batch_size, allow_missing, paired, device_id)
    _check_options(options, address)
    if journal is not None:
        check_journal(journal)
    with open_bundle(path, early="model.ts") as bundle, ExitStack() as stack:
        plan = _plan(bundle, options, data, labels)
        bundle.check()
        record = stack.enter_context(open_journal(journal, _identity(plan))) if journal else None
        known = _read_known(cache, plan)
        blocks = _journaled(plan, record)
        todo = list(plan.cut(blocks, known))
        with closing(_see(bundle, plan, todo, address)) as seeing:
            _count(plan, blocks, seeing, record, progress or _silent)
        measurement = _measurement(plan, blocks)
        _write_known(cache, plan, blocks, known)
        del blocks, known, todo  # the record holds it all
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
    device_id: int


class _Plan(NamedTuple):
    """What is computed of which images, every default filled in. ``source`` None is unpaired."""

    manifest: Manifest
    class_ids: tuple[str, ...]
    target: Target
    source: Target | None
    threads: int
    batch_size: int
    allow_missing: int
    device_id: int
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

    def cut(self, done: Collection[int], known: dict[int, Block]) -> Iterator[Batch]:
        """Yield the batches that are not done, with what is known of the source on each."""
        for number in self.batches:
            if number not in done:
                yield Batch(number, self.batch(number), known.get(number, ()))


def _check_options(options: _Options, address: str | None) -> None:
    """Refuse what no bundle could be measured with, before one is opened."""
    check_threads(options.threads)
    check_device_id(options.device_id)
    if options.device_id and address is not None:
        raise InputError(
            "E_ARGUMENT",
            "device_id",
            expected="none with a cluster, whose nodes say which devices they have",
            got=options.device_id,
            hint="""Start each node as: ray start ... --resources='{"ascend310p3-0": 1}'""",
        )
    if options.batch_size is not None and not 1 <= options.batch_size <= MAX_BATCH:
        raise _invalid("batch_size", f"1 to {MAX_BATCH}", options.batch_size)
    if options.allow_missing < 0:
        raise _invalid("allow_missing", "at least 0", options.allow_missing)


def _plan(bundle: Bundle, options: _Options, data: _Path, labels: _Path | None) -> _Plan:
    manifest = bundle.manifest
    target = choose_target(manifest, options.target)
    check_device_of([target], options.device_id)
    source = _source(manifest) if options.paired else None
    ids = tuple(identity for identity, _ in read_labels(bundle))
    return _Plan(
        manifest,
        ids,
        target,
        source,
        options.threads or min(available_cpus(), MAX_THREADS),
        options.batch_size or max(target.batch_sizes, default=_BATCH_SIZE),
        options.allow_missing,
        options.device_id,
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


# Seeing and counting


def _see(
    bundle: Bundle, plan: _Plan, batches: Sequence[Batch], address: str | None
) -> Generator[tuple[int, list[Seen]], None, None]:
    """Return what sees batches and yields each as it is done: this process, or a cluster."""
    if address is None:
        engines = Engines(bundle, plan.target, plan.source, plan.threads, plan.device_id)
        return see_here(engines, batches, available_cpus())
    from vitaie.runtime import _ray

    job = _ray.Job(
        bundle=str(bundle.folder.absolute()),
        content_digest=plan.manifest.content_digest,
        target=plan.target.id,
        target_digest=plan.target.target_digest,
        source=plan.source.id if plan.source else None,
        threads=plan.threads,
        data=plan.dataset.root,
        packages=plan.environment.packages,
        features=plan.environment.features,
        device=plan.target.device,
    )
    return _ray.see(address, job, batches, plan.manifest.preprocess)


def _count(
    plan: _Plan,
    blocks: Blocks,
    seeing: Iterable[tuple[int, Sequence[Seen]]],
    journal: Journal | None,
    progress: Callable[[Progress], None],
) -> None:
    """Add to ``blocks`` each batch that is seen, and write it to the journal first.

    A batch with an image that cannot be used is not written: the next run tries it again.
    """
    tally = Progress(0, len(plan.dataset.entries), 0, 0, 0)
    for number, block in blocks.items():
        tally = _add(tally, plan.batch(number), block)
    progress(tally)
    missing = 0
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


def _journaled(plan: _Plan, journal: Journal | None) -> Blocks:
    """Return what the journal holds of this run, and say so."""
    if journal is None:
        return {}
    if journal.changed:
        _log.info("%s: starting anew, for another %s", journal.path, " and ".join(journal.changed))
    found = journal.blocks.items()
    blocks: Blocks = {number: block for number, block in found if _fits(plan, number, block)}
    if blocks:
        images = sum(map(len, blocks.values()))
        total = len(plan.dataset.entries)
        _log.info("%s: going on after %s of %s images", journal.path, f"{images:,}", f"{total:,}")
    return blocks


def _fits(plan: _Plan, number: int, block: Block) -> bool:
    """Say whether a block is a batch of the plan, with as many classes as a row of it has."""
    width = min(TOP, plan.manifest.model.classes)
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
    return error.at(error.where, hint)


# The source's predictions


def _source_identity(plan: _Plan, source: Target) -> Identity:
    """Return all that the source's predictions depend on: nothing of the target but its batches."""
    same = ("preprocessing", "dataset", "batch size", "threads", "packages or processor")
    identity = _identity(plan)
    return {"source": source.target_digest, **{name: identity[name] for name in same}}


def _read_known(cache: _Path | None, plan: _Plan) -> dict[int, Block]:
    if cache is None or plan.source is None:
        return {}
    return read_known(cache, _source_identity(plan, plan.source))


def _write_known(cache: _Path | None, plan: _Plan, blocks: Blocks, known: dict[int, Block]) -> None:
    if cache is not None and plan.source is not None:
        in_order = ((number, blocks[number]) for number in plan.batches)
        write_known(cache, _source_identity(plan, plan.source), in_order, known)


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
        raise InputError(
            "E_DATASET_EMPTY",
            plan.dataset.root,
            expected="an image that can be read",
            hint="All are missing: copy the dataset again.",
        )
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
