"""A file's bytes in private memory, read and hashed in the background.

Reading starts at once, hashing follows chunk by chunk on every processor, and whoever waits for
either can do something else meanwhile: importing pydantic, building a session.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from vitaie.manifests.digests import CHUNK_SIZE, CHUNKED_ABOVE
from vitaie.manifests.errors import BundleError, DiskError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Artifact

FETCH_AGAIN = "The bundle was changed after it was published; fetch it again."


class Bytes:
    """The bytes of an open file, which is expected to be ``size`` long and to stay as it is."""

    def __init__(self, descriptor: int, size: int, where: str, *, spare: int = 0) -> None:
        """Start reading, and hashing after it. The descriptor is kept open by the caller.

        ``spare`` processors, where there are more, are left to what is done meanwhile.

        Raises:
            DiskError: There is not enough memory.
        """
        self.size = size
        self._where = where
        self._descriptor = descriptor
        try:
            self._data: NDArray[np.uint8] = np.empty(size, np.uint8)
        except MemoryError:
            raise DiskError("E_MEMORY", where, expected=f"{size} bytes") from None
        step = CHUNK_SIZE if size > CHUNKED_ABOVE else max(size, 1)
        starts = range(0, max(size, 1), step)
        workers = max(1, min(len(starts), available_cpus() - spare))
        self._pool = ThreadPoolExecutor(workers, "vitaie-read")
        # In this order, since hashing waits until every read has come to its end; and in large
        # reads, since each one's end waits until the main thread lets go of the interpreter.
        part = -(-size // workers)
        self._reads = [
            self._pool.submit(self._read, worker * part, min((worker + 1) * part, size))
            for worker in range(workers)
        ]
        self._digests: list[Future[str]] = [
            self._pool.submit(self._hash, start, start + step) for start in starts
        ]
        self._pool.shutdown(wait=False)

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes, uint8 [size], read but not yet checked: only raw weights may be used so.

        Raises:
            BundleError: The file cannot be read, or has another size by now.
        """
        for read in self._reads:
            read.result()
        return self._data

    def check(self, artifact: Artifact) -> NDArray[np.uint8]:
        """Return the bytes, uint8 [size], once their digest is known to be the artifact's.

        A chunked artifact is checked by its chunks, which the manifest binds as it does the whole.

        Raises:
            BundleError: The digest is another one, or the file cannot be read.
        """
        data = self.data
        expected = artifact.chunks or (artifact.sha256,)
        got = [digest.result() for digest in self._digests]
        for index, (actual, claimed) in enumerate(zip(got, expected)):
            if actual != claimed:
                raise BundleError(
                    "E_BUNDLE_FILE_DIGEST",
                    self._where,
                    field=f"chunk {index}" if artifact.chunks else "",
                    expected=claimed,
                    got=actual,
                    hint=FETCH_AGAIN,
                )
        return data

    def stop(self) -> None:
        """Wait for what is being read or hashed, and do no more of it."""
        for read in self._reads:
            read.cancel()
        for digest in self._digests:
            digest.cancel()
        self._pool.shutdown(wait=True)

    def _read(self, start: int, end: int) -> None:
        view = self._data.data
        try:
            while start < end:
                count = os.preadv(self._descriptor, [view[start:end]], start)
                if count == 0:
                    raise wrong_size(self._where, self.size, start)
                start += count
            actual = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise BundleError("E_BUNDLE_FILE_UNREADABLE", self._where, got=error.strerror) from None
        if actual != self.size:
            raise wrong_size(self._where, self.size, actual)

    def _hash(self, start: int, end: int) -> str:
        return hashlib.sha256(self.data.data[start:end]).hexdigest()


def wrong_size(where: str, expected: int, got: int) -> BundleError:
    """Return the error of a file that is longer or shorter than the manifest says."""
    return BundleError(
        "E_BUNDLE_FILE_SIZE",
        where,
        expected=f"{expected} bytes",
        got=f"{got} bytes",
        hint=FETCH_AGAIN,
    )


def available_cpus() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0))
