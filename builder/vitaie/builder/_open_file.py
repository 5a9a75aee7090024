"""The checkpoint's file, opened once: what is checked, hashed and read is one open file.

Names can be exchanged between two openings, and a FIFO would be waited for; an open regular file
can only change in ways that its size, times or inode show.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from vitaie.manifests.digests import CHUNK_SIZE
from vitaie.manifests.errors import CheckpointError

_HINT = "Give the path of an .npz checkpoint that may be read."


class OpenFile:
    """One regular file. Reading names its offset, so several threads may read at once.

    Raises:
        CheckpointError: E_CHECKPOINT_UNREADABLE when it is missing, unreadable or no regular file
            (a FIFO is refused, not waited for).
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` and remember what the file system says of it."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(
                "E_CHECKPOINT_UNREADABLE", path, expected="a file", got=reason, hint=_HINT
            ) from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            got = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
            raise CheckpointError(
                "E_CHECKPOINT_UNREADABLE", path, expected="a file", got=got, hint=_HINT
            )
        self.size = status.st_size
        self._identity = _identity(status)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def check_unchanged(self) -> None:
        """Raise E_CHECKPOINT_CHANGED unless size, times and inode are what they were at first."""
        if _identity(os.fstat(self._fd)) != self._identity:
            raise CheckpointError(
                "E_CHECKPOINT_CHANGED",
                self.path,
                hint="Wait until nothing writes to it, then try again.",
            )

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``, which must lie inside the file."""
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the bytes at ``offset``, which must lie inside the file."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(
                    "E_CHECKPOINT_UNREADABLE", self.path, got=error.strerror
                ) from None
            if count == 0:
                raise CheckpointError(
                    "E_CHECKPOINT_CHANGED",
                    self.path,
                    expected=f"{self.size} bytes",
                    got=f"an end at {offset + done}",
                )
            done += count

    def sha256(self) -> str:
        """Return the sha256 of the whole file."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(CHUNK_SIZE, self.size)))
        for offset in range(0, self.size, CHUNK_SIZE):
            part = buffer[: min(CHUNK_SIZE, self.size - offset)]
            self.read_into(part, offset)
            digest.update(part)
        return digest.hexdigest()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
