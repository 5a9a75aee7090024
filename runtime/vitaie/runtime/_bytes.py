"""A file's bytes in private memory, read and hashed in the background.

Reading starts at once, hashing follows chunk by chunk on every processor, and whoever waits for
either can do something else meanwhile: importing pydantic, building a session.

The memory is a sealed file of no name: nobody can change it, and PyTorch, which reads a file once
but copies a buffer three times, gets that file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vitaie.manifests.digests import CHUNK_SIZE, CHUNKED_ABOVE
from vitaie.manifests.errors import BundleError, DiskError, VitaieError, is_out_of_files
from vitaie.runtime._files import disk_error, disk_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Artifact

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NO_MEMORY = (errno.ENOMEM, errno.ENOSPC, errno.EFBIG)
_T = TypeVar("_T")
FETCH_AGAIN = "The bundle was changed after it was published; fetch it again."


class Bytes:
    """The bytes of an open file, which is expected to be ``size`` long and to stay as it is."""

    def __init__(self, descriptor: int, size: int, where: str, *, spare: int = 0) -> None:
        """Start reading, and hashing after it. The descriptor is kept open by the caller.

        ``spare`` processors, where there are more, are left to what is done meanwhile.

        Raises:
            DiskError: Too many files are open.
        """
        self.size = size
        self._where = where
        self._descriptor = descriptor
        with disk_errors(where):
            self._memory = os.memfd_create("vitaie", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        step = CHUNK_SIZE if size > CHUNKED_ABOVE else max(size, 1)
        starts = range(0, max(size, 1), step)
        workers = max(1, min(len(starts), available_cpus() - spare))
        large = size > CHUNKED_ABOVE
        self._pool = ThreadPoolExecutor(workers, "vitaie-read") if large else _AtOnce()
        self._mapped: Future[NDArray[np.uint8]] = self._pool.submit(self._read)
        self._digests: list[Future[str]] = [
            self._pool.submit(self._hash, start, start + step) for start in starts
        ]
        self._pool.shutdown(wait=False)

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes, uint8 [size], read but not yet checked: only raw weights may be used so.

        Raises:
            BundleError: The file cannot be read, or has another size by now.
            DiskError: There is not enough memory.
        """
        return self._mapped.result()

    def check(self, artifact: Artifact) -> NDArray[np.uint8]:
        """Return the bytes, uint8 [size], once their digest is known to be the artifact's.

        A chunked artifact is checked by its chunks, which the manifest binds as it does the whole.

        Raises:
            BundleError: The digest is another one, or the file cannot be read.
        """
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
        return self.data

    @contextmanager
    def file(self) -> Generator[str, None, None]:
        """Yield a path of the bytes, for who must be given one, and forget them after.

        They are in memory just once meanwhile: ``data`` is gone.
        """
        for digest in self._digests:
            digest.exception()  # it reads what is let go of here
        self._forget()
        try:
            yield f"/proc/self/fd/{self._memory}"
        finally:
            self.stop()

    def stop(self) -> None:
        """Wait for what is being read or hashed, do no more of it, and forget the bytes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        held = [self._forget()]
        memory, self._memory = self._memory, -1
        if memory < 0:
            return
        if self.size > CHUNKED_ABOVE:  # giving its pages back takes a while: nobody waits for it
            with suppress(RuntimeError):  # no more threads
                threading.Thread(target=_free, args=(held, memory), name="vitaie-free").start()
                return
        _free(held, memory)

    def _forget(self) -> Future[NDArray[np.uint8]]:
        """Let go of the memory, whoever still holds this: a failed digest's traceback does."""
        held, self._mapped = self._mapped, Future()
        self._digests = []
        self._mapped.cancel()
        return held

    def _read(self) -> NDArray[np.uint8]:
        done = 0
        try:
            # All at once if it goes: each call's end waits until the main thread lets go of the
            # interpreter.
            while done < self.size:
                count = os.sendfile(self._memory, self._descriptor, done, self.size - done)
                if count == 0:
                    raise wrong_size(self._where, self.size, done)
                done += count
            actual = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._unreadable(error) from None
        if actual != self.size:
            raise wrong_size(self._where, self.size, actual)
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, _SEALS)
        if self.size == 0:
            return np.empty(0, np.uint8)
        try:
            mapped = mmap.mmap(self._memory, self.size, mmap.MAP_PRIVATE, mmap.PROT_READ)
        except OSError as error:
            raise self._unreadable(error) from None
        return np.frombuffer(mapped, np.uint8)

    def _unreadable(self, error: OSError) -> VitaieError:
        if error.errno in _NO_MEMORY:
            expected = f"{self.size} bytes of memory"
            return DiskError("E_MEMORY", self._where, expected=expected, got=error.strerror)
        if is_out_of_files(error):
            return disk_error(self._where, error)
        return BundleError("E_BUNDLE_FILE_UNREADABLE", self._where, got=error.strerror)

    def _hash(self, start: int, end: int) -> str:
        return hashlib.sha256(self.data.data[start:end]).hexdigest()


def _free(held: list[Future[NDArray[np.uint8]]], memory: int) -> None:
    """Give back a map and its file; the map first: its pages then go with the file."""
    held.clear()
    os.close(memory)


class _AtOnce(Executor):
    """Does a task when it is submitted: for a small file a thread takes longer than the file."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **options: Any) -> Future[_T]:
        """Call ``fn`` and return its outcome."""
        future: Future[_T] = Future()
        try:
            future.set_result(fn(*args, **options))
        except Exception as error:  # it is raised to who asks for the result
            future.set_exception(error)
        return future


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
