"""The predictions of a record, made again and held against the ones that were kept.

Batches are cut and computed as ``evaluate`` did it, so that an image is in the same company as
then: on a machine like that one, the same bits come out. Of a sample, the whole batches of the
images drawn are computed, for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vitaie.manifests.errors import ImageError, InputError
from vitaie.runtime import _images, _preprocess
from vitaie.runtime._bytes import available_cpus
from vitaie.runtime._dataset import Dataset, DatasetDigest, Entry
from vitaie.runtime._evaluate import Progress
from vitaie.runtime._journal import Row
from vitaie.runtime._model import open_engine, run
from vitaie.runtime._seeing import Batch, Engines, read_entry, see_here

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Preprocess, Target
    from vitaie.manifests.measurement import AccuracyMeasurement, Images
    from vitaie.runtime._bundle import Bundle


def difference(dataset: Dataset, measurement: AccuracyMeasurement) -> str | None:
    """Return the first image, or class of one, in which a dataset is not the recorded one."""
    here = {entry.path: entry.label for entry in dataset.entries}
    images = measurement.images
    for path, label in zip(images.path, images.label):
        if path not in here:
            return f"no {path}"
        if here[path] != label:
            return f"{path} of class {here[path]}, which was {label}"
    unknown = sorted(here.keys() - set(images.path) - set(measurement.missing))
    if unknown:
        return f"{unknown[0]}, which is none of its"
    gone = sorted(set(measurement.missing) - here.keys())
    return f"no {gone[0]}" if gone else None


def draw(sample: int | None, seed: int, rows: int) -> list[int] | None:
    """Return the places of the images drawn; None for all.

    Raises:
        InputError: More than there are.
    """
    if sample is None:
        return None
    if sample > rows:
        raise InputError("E_ARGUMENT", "sample", expected=f"1 to {rows}", got=sample)
    drawn: list[int] = np.random.default_rng(seed).choice(rows, sample, replace=False).tolist()
    return sorted(drawn)


class Kept(NamedTuple):
    """What the evidence holds of one image."""

    size: int
    sha256: str
    label: int
    target: tuple[int, ...]
    source: tuple[int, ...] | None


class Differing(NamedTuple):
    """An image that is not classified as it was: its batch, and the classes kept and seen."""

    number: int
    entry: Entry
    kept: tuple[int, ...]
    here: tuple[int, ...]


class Plan:
    """A measurement that is to be repeated: its batches, and what was kept of each image."""

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        source: Target | None,
        measurement: AccuracyMeasurement,
        dataset: Dataset,
        device_id: int = 0,
    ) -> None:
        """Take what the measurement and the dataset, which has the same images, say.

        ``device_id`` is the device's number, for a target that runs on one.
        """
        self.bundle = bundle
        self.target = target
        self.source = source
        self.measurement = measurement
        self.device_id = device_id
        self.entries = dataset.entries
        self.kept = _kept(measurement.images)

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return -(-len(self.entries) // self.measurement.batch_size)

    def batch(self, number: int) -> tuple[Entry, ...]:
        """Return the images that were computed together in a batch.

        ``evaluate`` cuts batches by order alone and computes each without what it cannot read.
        """
        size = self.measurement.batch_size
        cut = self.entries[number * size : (number + 1) * size]
        return tuple(entry for entry in cut if entry.path in self.kept)

    @property
    def missing(self) -> list[Entry]:
        """Return the files that the record leaves out of every count, in the dataset's order."""
        return [entry for entry in self.entries if entry.path not in self.kept]

    def batches_of(self, rows: Sequence[int]) -> list[int]:
        """Return the batches that images are in: each is computed in the same company as then."""
        places = {entry.path: place for place, entry in enumerate(self.entries)}
        paths, size = self.measurement.images.path, self.measurement.batch_size
        return sorted({places[paths[row]] // size for row in rows})


def _kept(images: Images) -> Mapping[str, Kept]:
    sources = images.source or [None] * len(images.path)
    rows = zip(images.size, images.sha256, images.label, images.target, sources)
    return {path: Kept(*row) for path, row in zip(images.path, rows)}


@dataclass
class SeenAgain:
    """What became of the images that were seen again."""

    compared: int = 0
    target: list[Differing] = field(default_factory=list["Differing"])
    source: list[Differing] = field(default_factory=list["Differing"])
    digest: str = ""


def see_again(plan: Plan, numbers: Sequence[int], images: Callable[[Progress], None]) -> SeenAgain:
    """Predict batches again and compare each image, and its file, with what was kept.

    Raises:
        InputError: ``E_DATASET_OTHER``, a file is not the one that was measured.
        ImageError: An image cannot be used, and then it could.
    """
    found, digest = SeenAgain(), DatasetDigest()
    total = sum(len(plan.batch(number)) for number in numbers)
    tally = Progress(0, total, 0, 0, 0)
    images(tally)
    threads = plan.measurement.threads
    engines = Engines(plan.bundle, plan.target, plan.source, threads, plan.device_id)
    batches = (Batch(number, plan.batch(number), ()) for number in numbers)
    with closing(see_here(engines, batches, available_cpus())) as seeing:
        for number, block in seeing:
            entries = plan.batch(number)
            top1 = top5 = 0
            for entry, seen in zip(entries, block):
                kept = plan.kept[entry.path]
                if isinstance(seen, ImageError):
                    raise seen
                _check_file(entry, seen, kept)
                digest.add(entry.path, seen.size, seen.sha256, entry.label)
                if seen.target != kept.target:
                    found.target.append(Differing(number, entry, kept.target, seen.target))
                if seen.source and kept.source and seen.source != kept.source:
                    found.source.append(Differing(number, entry, kept.source, seen.source))
                top1 += entry.label == seen.target[0]
                top5 += entry.label in seen.target
            tally = Progress(
                tally.done + len(block),
                total,
                tally.counted + len(block),
                tally.top1 + top1,
                tally.top5 + top5,
            )
            images(tally)
    found.compared = tally.counted
    found.digest = digest.hexdigest()
    return found


def _check_file(entry: Entry, seen: Row, kept: Kept) -> None:
    """Refuse a file that is not the one that was measured."""
    if (seen.size, seen.sha256) != (kept.size, kept.sha256):
        expected = f"{kept.size} bytes, sha256 {kept.sha256}"
        got = f"{seen.size} bytes, sha256 {seen.sha256}"
        raise InputError("E_DATASET_OTHER", entry.file, expected=expected, got=got)


def readable(entries: Sequence[Entry], spec: Preprocess) -> list[Entry]:
    """Return which of these files can be used here: read, decoded and made a tensor of.

    It is tried as ``evaluate`` does it, on every processor; no tensor is kept.
    """

    def usable(entry: Entry) -> bool:
        return not isinstance(read_entry(entry, spec), ImageError)

    decoders = ThreadPoolExecutor(available_cpus(), "vitaie-decode")
    try:
        return [entry for entry, can in zip(entries, decoders.map(usable, entries)) if can]
    finally:
        decoders.shutdown(wait=True, cancel_futures=True)


def beyond(plan: Plan, target: Target, differing: Sequence[Differing]) -> Iterator[Differing]:
    """Yield the images whose kept classes are not the first ones here, within the tolerance.

    Two logits that are nearer to each other than twice what each may be off can change places.
    """
    spec = plan.bundle.manifest.preprocess
    threads = plan.measurement.threads
    engine = open_engine(plan.bundle, target, threads, plan.device_id) if differing else None
    for number, group in groupby(differing, key=lambda each: each.number):
        batch = plan.batch(number)
        tensors = [_preprocess.preprocess(_images.read_file(e.file, e.file), spec) for e in batch]
        assert engine is not None
        logits = run(engine, np.stack(tensors), plan.bundle.manifest)
        for each in group:
            row = logits[batch.index(each.entry)]
            allowed = 2 * target.tolerance.max_rel_diff * float(np.abs(row).max())
            if not _may_be_first(each.kept, row, allowed):
                yield each


def _may_be_first(classes: Sequence[int], logits: NDArray[np.float32], allowed: float) -> bool:
    """Say whether each class's logit is the largest of those left, or less by what is allowed."""
    left = logits.astype(np.float64)
    for index in classes:
        if index >= len(left) or left[index] < left.max() - allowed:
            return False
        left[index] = -np.inf
    return True
