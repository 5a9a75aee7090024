"""What a target says of images, batch by batch, and the source model beside it.

Files are decoded on several threads while the engine computes: Pillow lets go of Python's lock, so
nothing is copied between processes. Batches come as they were cut, and an image is always computed
in the same company, here or on another machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import ImageError
from vitaie.runtime import _images, _preprocess
from vitaie.runtime._bundle import Bundle
from vitaie.runtime._dataset import Entry
from vitaie.runtime._journal import Block, Row
from vitaie.runtime._model import Engine, open_engine, run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Preprocess, Target

TOP = 5
"""Classes that are kept of each image, where there are as many."""

Seen = Union[Row, ImageError]
"""An image, or why there is none."""


class Batch(NamedTuple):
    """Images that are computed together.

    Attributes:
        number: Which batch of the dataset it is.
        entries: Its images, readable or not.
        known: What the source gave on it before; nothing when it is not known.
    """

    number: int
    entries: tuple[Entry, ...]
    known: Block


class Image(NamedTuple):
    """A file that was read: its size, its digest, and what the model sees of it."""

    size: int
    sha256: str
    tensor: NDArray[np.float32]


class Engines:
    """A bundle's target and source, each opened when it is needed first. For one thread."""

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        source: Target | None,
        threads: int,
        device_id: int = 0,
    ) -> None:
        """Open nothing yet: what the source gives may all be known. ``source`` None is unpaired."""
        self.spec = bundle.manifest.preprocess
        self._bundle = bundle
        self._target = target
        self._source = source
        self._threads = threads
        self._device_id = device_id
        self._opened: dict[str, Engine] = {}

    def see(self, images: Sequence[Future[Image | ImageError]], known: Block) -> list[Seen]:
        """Return what is seen of each image of a batch; it is computed without the unusable."""
        read = [image.result() for image in images]
        usable = [image for image in read if isinstance(image, Image)]
        rows = iter(self._rows(usable, known) if usable else ())
        return [image if isinstance(image, ImageError) else next(rows) for image in read]

    def _rows(self, images: Sequence[Image], known: Block) -> list[Row]:
        batch = np.stack([image.tensor for image in images])
        targets = self._classes(self._target, batch)
        if self._source is None:
            sources: Sequence[tuple[int, ...] | None] = [None] * len(images)
        elif self._source.id == self._target.id:
            sources = targets
        else:
            sources = _of_same_files(known, images) or self._classes(self._source, batch)
        return [
            Row(image.size, image.sha256, target, source)
            for image, target, source in zip(images, targets, sources)
        ]

    def _classes(self, target: Target, batch: NDArray[np.float32]) -> list[tuple[int, ...]]:
        """Return the first five classes of each image, the most probable first; ties by index."""
        engine = self._opened.get(target.id)
        if engine is None:
            engine = open_engine(self._bundle, target, self._threads, self._device_id)
            self._bundle.release("model.ts")  # each engine has its own weights by now
            self._opened[target.id] = engine
        logits = run(engine, batch, self._bundle.manifest)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
        return [tuple(row) for row in order.tolist()]


def _of_same_files(known: Block, images: Sequence[Image]) -> list[tuple[int, ...]] | None:
    """Return what the source gave on these images before, if each file is the same to the bit."""
    if [row.sha256 for row in known] != [image.sha256 for image in images]:
        return None
    return [row.target for row in known]


def see_here(
    engines: Engines, batches: Iterable[Batch], decoders: int
) -> Generator[tuple[int, list[Seen]], None, None]:
    """Yield each batch's number and what was seen of it, in the order given.

    Two batches are being decoded while one is computed and another waits for it. Each file is read
    once: what is hashed is what is decoded.

    Args:
        engines: What computes them.
        batches: The batches; one more is asked for when it is about to be decoded.
        decoders: Threads that decode.
    """
    decoding_pool = ThreadPoolExecutor(decoders, "vitaie-decode")
    engine_pool = ThreadPoolExecutor(1, "vitaie-engine")
    waiting = iter(batches)
    decoding: deque[tuple[Batch, list[Future[Image | ImageError]]]] = deque()
    running: deque[tuple[int, Future[list[Seen]]]] = deque()
    try:
        while True:
            for batch in islice(waiting, 2 - len(decoding)):
                read = [decoding_pool.submit(read_entry, e, engines.spec) for e in batch.entries]
                decoding.append((batch, read))
            if decoding and len(running) < 2:
                batch, read = decoding.popleft()
                running.append((batch.number, engine_pool.submit(engines.see, read, batch.known)))
                continue
            if not running:
                return
            number, seen = running.popleft()
            yield number, seen.result()
    finally:
        for _, read in decoding:
            for image in read:
                image.cancel()
        for _, seen in running:
            seen.cancel()
        decoding_pool.shutdown(wait=True, cancel_futures=True)
        engine_pool.shutdown(wait=True, cancel_futures=True)


def read_entry(entry: Entry, spec: Preprocess) -> Image | ImageError:
    """Read a file once, and return the size, the digest and the tensor of those bytes."""
    try:
        data = _images.read_file(entry.file, entry.file)
        return Image(len(data), sha256(data), _preprocess.preprocess(data, spec))
    except ImageError as error:  # of bytes, which have no name
        return error.at(entry.file)
