"""Files that are whole or not there: what commands write, and what a store publishes.

An output appears under its name only when every byte of it is on the disk, and never takes
the place of something else. ``write_output`` is the one call a command needs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import secrets
import signal
import sys
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, Union

from vitaie.manifests.errors import DiskError, InputError, StoreError, is_out_of_files

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)
_BROKEN = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EMFILE, errno.ENFILE)
DISK_FAULTS = frozenset(_OUT_OF_SPACE + _NOT_ALLOWED + _BROKEN)
"""What only a disk, a file system or a limit says; other numbers may be a program's mistake."""

MORE_FILES = "Allow more open files (ulimit -n), then run it again."

_SOON_S = 0.01  # by then the hook has returned, and the next exception gets out
_NO_SUCH_RENAME = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_UNNAMED_FILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


def raise_on_signals() -> None:
    """Make Ctrl-C, SIGTERM and a lost terminal unwind, so that a command cleans up behind it.

    To be called once, first thing in a command's ``main``; a signal that is ignored
    (``nohup``) stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _interrupt_again


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Send once more what was raised where no exception gets out: a destructor, a callback of C."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        main = threading.main_thread().ident
        again = threading.Timer(_SOON_S, signal.pthread_kill, (main, signal.SIGINT))
        again.daemon = True
        again.start()
        return
    sys.__unraisablehook__(lost)


@contextmanager
def disk_errors(where: object, only: frozenset[int] | None = None) -> Generator[None, None, None]:
    """Turn an ``OSError`` of the block into a ``DiskError``.

    Args:
        where: The file or folder to name when the error itself names none.
        only: The error numbers to turn; every one when left out.

    Raises:
        DiskError: ``E_DISK``, with what the system said and what to do.
    """
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        raise disk_error(where, error) from error


def disk_error(where: object, error: OSError) -> DiskError:
    """Return the ``DiskError`` that says what ``error`` says."""
    if error.errno in _OUT_OF_SPACE:
        hint = "Free some space or name another place, then run it again."
    elif error.errno in _NOT_ALLOWED:
        hint = "Name a place that you may write to."
    elif error.errno in _NO_SUCH_RENAME:
        hint = "Name a place on a local file system, such as ext4, xfs, btrfs or tmpfs."
    elif is_out_of_files(error):
        hint = MORE_FILES
    elif error.errno == errno.ENAMETOOLONG:
        hint = "Name a shorter path."
    else:
        hint = "Check the disk, then run it again."
    name = str(error.filename or "")
    # A bare name is relative to an open folder, and one in /proc that of a file without a name.
    place = name if "/" in name and not name.startswith("/proc/self/") else where
    return DiskError("E_DISK", place, got=error.strerror or str(error), hint=hint)


def rename_noreplace(old: str, new: str, *, dir_fd: int) -> None:
    """Rename ``old`` to ``new``, both in the folder ``dir_fd``, unless ``new`` is there.

    This is ``renameat2`` with ``RENAME_NOREPLACE`` (Linux 3.15): ``rename`` would silently
    replace a file or an empty folder.

    Raises:
        FileExistsError: ``new`` exists in any form, even as a dangling link.
        OSError: Anything else; ``EINVAL`` where the file system has no such rename.
    """
    noreplace = ctypes.c_uint(1)
    libc = ctypes.CDLL(None, use_errno=True)
    paths = (ctypes.c_int(dir_fd), os.fsencode(old), ctypes.c_int(dir_fd), os.fsencode(new))
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(*paths, noreplace)
    else:  # glibc before 2.28, which devices still have
        number = {"x86_64": 316, "aarch64": 276}.get(platform.machine(), -1)
        failed = libc.syscall(ctypes.c_long(number), *paths, noreplace)
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


def check_output(path: str | os.PathLike[str]) -> None:
    """Refuse an output that cannot be made at ``path``, before the work of making it is done.

    Raises:
        InputError: ``E_OUTPUT_PATH``, its folder is not there.
        StoreError: ``E_OUTPUT_EXISTS``, something is there, be it a dangling link.
        DiskError: ``E_DISK``, nothing may be written there.
    """
    output = Path(path)
    with disk_errors(output):
        if not output.parent.is_dir():
            expected, hint = f"a folder at {output.parent}", "Make the folder, or name another."
            raise InputError("E_OUTPUT_PATH", output, expected=expected, hint=hint)
        with suppress(FileNotFoundError):
            os.lstat(output)
            raise _exists(output)
        if not os.access(output.parent, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output.parent))


def write_output(path: str | os.PathLike[str], data: Union[bytes, Iterable[bytes]]) -> None:
    """Write a new file at ``path``: all of it and on the disk, or nothing.

    Until it is complete the file has no name, so a killed process leaves nothing behind. Where
    the file system has no unnamed files, it is written under a hidden name beside ``path``.

    Args:
        path: Where; nothing may be there.
        data: The bytes, or pieces of them in order.

    Raises:
        InputError: ``E_OUTPUT_PATH``, its folder is not there.
        StoreError: ``E_OUTPUT_EXISTS``, something is there; it is left as it is.
        DiskError: ``E_DISK``, the disk is full, read-only or broken.
    """
    output = Path(path)
    check_output(output)
    with disk_errors(output.parent):
        folder = os.open(output.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _write_new(folder, output.name, (data,) if isinstance(data, bytes) else data)
        except FileExistsError:
            raise _exists(output) from None
        finally:
            os.close(folder)


def _exists(output: Path) -> StoreError:
    hint = "Nothing is ever replaced: remove it or name another file."
    return StoreError("E_OUTPUT_EXISTS", output, hint=hint)


def _write_new(folder: int, name: str, pieces: Iterable[bytes]) -> None:
    file, temporary = _open_new(folder)
    try:
        for piece in pieces:
            _write_all(file, piece)
        os.fsync(file)
        _place(folder, file, temporary, name)
        os.fsync(folder)
    except BaseException:
        for mine in (name, temporary):
            with suppress(OSError):
                if _names(folder, mine, file):
                    os.unlink(mine, dir_fd=folder)
        raise
    finally:
        os.close(file)


def _open_new(folder: int) -> tuple[int, str]:
    """Open a new file for writing; the name it has meanwhile is hidden, and often never made."""
    temporary = f".vitaie-{secrets.token_hex(8)}"
    try:
        return os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o666, dir_fd=folder), temporary
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILE:
            raise
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    return os.open(temporary, flags, 0o666, dir_fd=folder), temporary


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _place(folder: int, file: int, temporary: str, name: str) -> None:
    if not _names(folder, temporary, file):
        os.link(f"/proc/self/fd/{file}", name, dst_dir_fd=folder, follow_symlinks=True)
        return
    try:
        rename_noreplace(temporary, name, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_SUCH_RENAME:
            raise
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.unlink(temporary, dir_fd=folder)


def _names(folder: int, name: str, file: int) -> bool:
    """Say whether ``name`` in ``folder`` is the open file, and not another's of that name."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file))
