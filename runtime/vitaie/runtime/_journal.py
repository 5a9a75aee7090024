"""What a long run has seen so far, on the disk block by block, so that a killed run goes on.

A journal is a file of lines that only grows: one that says what it is, one that says what run it
is of, and one for each block of images. Each line but the first is a sha256, a blank and JSON;
the sha256 is of the line before's and of this JSON. So a line that was torn by a kill, or changed
after, is known, and so is all that follows it: they are cut off, and done again.

One run at a time has a journal: the file is the lock (``flock``), which dies with its process.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, Union

from vitaie.manifests.errors import DiskError, InputError, StoreError
from vitaie.manifests.strict_json import MAX_INT
from vitaie.runtime._files import disk_error, disk_errors

MAGIC = b"vitaie-journal 1\n"

WRITE_S = 0.1
"""Seconds of work that a killed process may lose: blocks are written some at a time, so that this
costs little where images are fast."""

SYNC_S = 5.0
"""Seconds of work that may be lost with the power."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_MAX_LINE = 2**24
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FLAGS = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Identity = Mapping[str, Union[str, int, bool]]
"""What a run's outcome depends on, by the name that a message gives it."""


class Row(NamedTuple):
    """What was seen of an image: its file's bytes, and the first classes of target and source."""

    size: int
    sha256: str
    target: tuple[int, ...]
    source: Optional[tuple[int, ...]]


Block = tuple[Row, ...]


class Contents(NamedTuple):
    """The whole lines of a journal.

    Attributes:
        identity: Of the run; None where even that line is torn.
        blocks: By number.
        end: Where the last whole line ends.
        checksum: Of that line.
    """

    identity: Optional[dict[str, Any]]
    blocks: dict[int, Block]
    end: int
    checksum: str


_NOTHING = Contents(None, {}, 0, "")


class Interrupted(KeyboardInterrupt):
    """A run was stopped, and ``images`` of it are in its journal: the next run goes on after them.

    The number is read from the file as the next run will read it, since a signal can come at any
    moment: after a line was written, and before anybody was told.
    """

    def __init__(self, images: int) -> None:
        """Say how many images need not be seen again."""
        super().__init__(f"{images} images are in the journal")
        self.images = images


class Journal:
    """What was done before, and where to what is done now. Made by ``open_journal``.

    Attributes:
        path: The file.
        blocks: What was found, by number. What is appended goes to the disk alone.
        changed: Why blocks that were found are gone: the names of what is another now.
    """

    def __init__(self, path: Path, descriptor: int, identity: Identity) -> None:
        """Take over an open and locked file; what cannot be gone on from is cut off."""
        self.path = path
        self._descriptor = descriptor
        with disk_errors(path), open(descriptor, "rb", closefd=False) as file:
            found = read(file, path)
        self.changed = () if found.identity is None else _differences(found.identity, identity)
        if found.identity is None or self.changed:
            found = _NOTHING
        self.blocks = found.blocks
        self._end, self._checksum = found.end, found.checksum
        self._waiting: list[tuple[int, Block]] = []
        self._written = self._synced = time.monotonic()
        with disk_errors(path):
            os.ftruncate(descriptor, self._end)
        if self._end == 0:
            first, self._checksum = _line("", dict(identity))
            self._write(MAGIC + first)
            self._sync()

    def append(self, number: int, block: Block) -> None:
        """Take a block, and write all that were taken once ``WRITE_S`` have passed.

        Raises:
            DiskError: As ``write``.
        """
        self._waiting.append((number, block))
        if time.monotonic() - self._written >= WRITE_S:
            self.write()

    def write(self) -> None:
        """Write what was taken; what was written before stays as it is, whatever happens.

        Raises:
            DiskError: ``E_DISK``, the disk is full or broken.
        """
        if not self._waiting:
            return
        lines: list[bytes] = []
        checksum = self._checksum
        for number, block in self._waiting:
            line, checksum = _line(checksum, [number, *block])
            lines.append(line)
        self._write(b"".join(lines))
        self._waiting, self._checksum = [], checksum
        self._written = time.monotonic()
        if self._written - self._synced >= SYNC_S:
            self._sync()

    def images(self) -> int:
        """Return how many images are in the file now; none once it is removed."""
        try:
            with open(self.path, "rb") as file:
                return sum(map(len, read(file, self.path).blocks.values()))
        except FileNotFoundError:
            return 0

    def remove(self) -> None:
        """Remove the file: what it holds is kept elsewhere by now."""
        self._waiting = []
        with disk_errors(self.path):
            os.unlink(self.path)

    def _write(self, data: bytes) -> None:
        done = 0
        with disk_errors(self.path):
            try:
                while done < len(data):
                    done += os.pwrite(self._descriptor, data[done:], self._end + done)
            except OSError:
                with suppress(OSError):  # a torn line is known as one, too
                    os.ftruncate(self._descriptor, self._end)
                raise
        self._end += done

    def _sync(self) -> None:
        with disk_errors(self.path):
            os.fsync(self._descriptor)
        self._synced = time.monotonic()


@contextmanager
def open_journal(
    path: str | os.PathLike[str], identity: Identity
) -> Generator[Journal, None, None]:
    """Open a run's journal, or begin one, and keep every other run from it.

    Args:
        path: The file; its folder must be there.
        identity: What the run's outcome depends on; blocks of any other are cut off.

    Raises:
        InputError: ``E_JOURNAL``, what is there is no journal; it is left as it is.
        StoreError: ``E_JOURNAL_LOCKED``, another run has it.
        DiskError: ``E_DISK``, the file cannot be made or written.
        Interrupted: In place of a KeyboardInterrupt of the block.
    """
    file = Path(path)
    descriptor = _lock(file)
    try:
        journal = Journal(file, descriptor, identity)
        try:
            yield journal
        except BaseException as error:
            with suppress(DiskError):  # what ended the run is what matters
                journal.write()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(journal.images()) from error
            raise
        journal.write()
    finally:
        os.close(descriptor)


def check_journal(path: str | os.PathLike[str]) -> None:
    """Refuse a journal that cannot be opened at ``path``, before the work that comes first.

    Raises:
        InputError: ``E_OUTPUT_PATH``, its folder is not there.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        hint = "Make the folder, or name a file in another with --journal FILE."
        raise InputError("E_OUTPUT_PATH", path, expected=f"a folder at {folder}", hint=hint)


def _lock(path: Path) -> int:
    """Return the open and locked file of that name, which whoever had it may have removed."""
    check_journal(path)
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            hint = "Wait for it, or give this one its own with --journal FILE."
            raise StoreError("E_JOURNAL_LOCKED", path, hint=hint) from None
        except OSError as error:
            os.close(descriptor)
            raise disk_error(path, error) from error
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open a file for reading and writing, and make it where there is none."""
    try:
        descriptor = os.open(path, _FLAGS, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, folder or socket
            raise InputError("E_JOURNAL", path, expected="a regular file") from None
        raise disk_error(path, error) from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise InputError("E_JOURNAL", path, expected="a regular file")


def _differences(found: Mapping[str, Any], identity: Identity) -> tuple[str, ...]:
    names = dict.fromkeys((*identity, *found))
    return tuple(name for name in names if found.get(name) != identity.get(name))


# The lines


def encode(identity: Identity, blocks: Iterable[tuple[int, Block]]) -> Iterator[bytes]:
    """Yield the lines of a journal of these blocks."""
    line, checksum = _line("", dict(identity))
    yield MAGIC + line
    for number, block in blocks:
        line, checksum = _line(checksum, [number, *block])
        yield line


def read(file: BinaryIO, where: object) -> Contents:
    """Read a journal up to the first line that is torn or changed.

    Raises:
        InputError: ``E_JOURNAL``, it is a file of something else.
    """
    first = file.readline(len(MAGIC))
    if not MAGIC.startswith(first):
        hint = "Nothing is ever replaced: name another file."
        raise InputError("E_JOURNAL", where, got=first[:32], hint=hint)
    identity: Optional[dict[str, Any]] = None
    blocks: dict[int, Block] = {}
    end, checksum = len(first), ""
    while line := file.readline(_MAX_LINE):
        try:
            document, following = _parse(line, checksum)
            if identity is None:
                identity = dict(document)
            else:
                number, *rows = document
                blocks[int(number)] = tuple(map(_row, rows))
        except (ValueError, TypeError, OverflowError, RecursionError):
            break
        end, checksum = end + len(line), following
    return _NOTHING if identity is None else Contents(identity, blocks, end, checksum)


def _line(previous: str, document: object) -> tuple[bytes, str]:
    """Return a line, and its checksum, which is of the one before's too."""
    text = _ENCODER.encode(document)
    checksum = _checksum(previous, text.encode("ascii"))
    return f"{checksum} {text}\n".encode("ascii"), checksum


def _checksum(previous: str, text: bytes) -> str:
    return hashlib.sha256(previous.encode("ascii") + text).hexdigest()


def _parse(line: bytes, previous: str) -> tuple[Any, str]:
    """Return what a line says, and its checksum; ValueError where it is not as it was written."""
    claimed, _, text = line.partition(b" ")
    checksum = _checksum(previous, text[:-1])
    if text[-1:] != b"\n" or claimed != checksum.encode("ascii"):
        raise ValueError("torn or changed")
    return json.loads(text), checksum


def _row(value: Any) -> Row:
    size, sha256, target, source = value
    if not _SHA256.fullmatch(sha256):
        raise ValueError(sha256)
    seen, known = _classes(target), None if source is None else _classes(source)
    if not 0 <= int(size) <= MAX_INT or (known is not None and len(known) != len(seen)):
        raise ValueError("no row of an image")
    return Row(int(size), sha256, seen, known)


def _classes(value: Any) -> tuple[int, ...]:
    """Return the first classes, the most probable first; ValueError for what no model gives."""
    classes = tuple(map(int, value))
    if len(set(classes)) != len(classes) or not all(0 <= each <= MAX_INT for each in classes):
        raise ValueError("no first classes")
    return classes
