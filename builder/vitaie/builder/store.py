"""A store of bundles, ``<store>/<name>/<version>/``, that only ever gains whole versions.

A reader never sees half a bundle, and a build that fails, is interrupted or is killed leaves the
store as it was::

    with publication("bundles", "vit_base_patch16_224") as draft:
        ...                             # write files into draft.folder, verify them there
        path = draft.publish()          # bundles/vit_base_patch16_224/1.0.0, on the disk

The folder of the name is the lock (``flock``), which dies with its process. Whoever holds it may
clear what dead processes left, and knows that nobody else takes the next version.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Optional, Union

from pydantic import TypeAdapter, ValidationError

from vitaie.manifests.errors import BundleError, DiskError, InputError, StoreError
from vitaie.manifests.manifest import Name
from vitaie.runtime._bundle import parse_version
from vitaie.runtime._files import DISK_FAULTS, disk_errors, rename_noreplace

Bump = Literal["minor", "patch"]
PathLike = Union[str, "os.PathLike[str]"]

_STAGING = ".staging-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file until one is written
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV, errno.EINVAL)
_ATTEMPTS = 100


def versions(store: PathLike, name: str) -> list[str]:
    """Return the published versions of a name, the newest last; none when there is no such name.

    Raises:
        InputError: ``E_ARGUMENT``, ``name`` is not one a bundle can have.
        DiskError: ``E_DISK``, the folder cannot be read.
    """
    home = _home(store, name)
    names = [f"{major}.{minor}.{patch}" for major, minor, patch in _occupied(home)]
    return [version for version in names if _is_folder(home / version)]


def next_version(store: PathLike, name: str, bump: Bump = "patch") -> str:
    """Return the version after the newest, 1.0.0 for the first.

    It follows whatever has a version's name, even what is no bundle, so that it is free.

    Raises:
        InputError: ``E_ARGUMENT``, ``name`` is not one a bundle can have, or the newest is the
            last that can be.
        DiskError: ``E_DISK``, the folder cannot be read.
    """
    occupied = _occupied(_home(store, name))
    if not occupied:
        return "1.0.0"
    major, minor, patch = occupied[-1]
    following = f"{major}.{minor + 1}.0" if bump == "minor" else f"{major}.{minor}.{patch + 1}"
    check_version(following)
    return following


def check_version(version: str) -> None:
    """Refuse what is no version.

    Raises:
        InputError: ``E_ARGUMENT``, it is not X.Y.Z in whole numbers.
    """
    if parse_version(version) is None:
        raise InputError("E_ARGUMENT", "version", expected="X.Y.Z", got=repr(version))


class Publication:
    """A version in the making: write files into ``folder``, then ``publish()`` them.

    Attributes:
        folder: The staging folder, empty at first, that no reader sees.
        version: The version it will be.
    """

    def __init__(self, home: Path, lock: int, version: str) -> None:
        """Take what ``publication`` decided under the lock; nothing is made yet."""
        self.version = version
        self.folder = home / (_STAGING + secrets.token_hex(8))
        self._home = home
        self._lock = lock
        self._staged: Optional[os.stat_result] = None
        self._aside: Optional[str] = None
        self._published = False

    def aside(self) -> Path:
        """Return a second folder of the same file system, for what may yet come into the first.

        It goes when the block is left, published or not; a killed build's goes with the next one.

        Raises:
            DiskError: ``E_DISK``, it cannot be made.
        """
        if self._aside is None:
            self._aside = _STAGING + secrets.token_hex(8)
            with disk_errors(self._home):
                os.mkdir(self._aside, 0o700, dir_fd=self._lock)
        return self._home / self._aside

    def publish(self) -> Path:
        """Bring the files to the disk, then give their folder its version's name.

        Files become mode 0644 and folders 0755, whatever the umask. When this returns, the
        version is complete and durable. The files are the caller's to verify, before.

        Raises:
            StoreError: ``E_STORE_EXISTS``, someone else made this version meanwhile.
            DiskError: ``E_DISK``. Nothing is retried: after a failed fsync nobody can say what
                is on the disk.
        """
        path = self._home / self.version
        with disk_errors(self.folder):
            with _opened(self.folder.name, _FOLDER, self._lock) as folder:
                _settle(folder)
                self._staged = os.fstat(folder)
            if not _is_still(self._home, self._lock):
                hint = "Someone moved it during the build; run it again."
                raise DiskError("E_DISK", self._home, got="another folder than before", hint=hint)
        with disk_errors(path):
            try:
                rename_noreplace(self.folder.name, self.version, dir_fd=self._lock)
            except FileExistsError:
                raise _exists(path) from None
            os.fsync(self._lock)
            with _opened("..", _FOLDER, self._lock) as parent:
                os.fsync(parent)
        self._published = True
        return path

    def withdraw(self) -> None:
        """Undo what is not published: take the version's name back if need be, and remove it."""
        if self._published:
            if self._aside is not None:
                with suppress(OSError):
                    _remove(self._aside, self._lock)
            return
        with suppress(OSError):
            found = os.stat(self.version, dir_fd=self._lock, follow_symlinks=False)
            if self._staged is not None and os.path.samestat(found, self._staged):
                rename_noreplace(self.version, self.folder.name, dir_fd=self._lock)
        with suppress(OSError):
            _clear_staging(self._lock)


@contextmanager
def publication(
    store: PathLike, name: str, version: Optional[str] = None, bump: Bump = "patch"
) -> Generator[Publication, None, None]:
    """Hold the lock of ``<store>/<name>`` and give a staging folder for one new version.

    The folders ``<store>`` and ``<store>/<name>`` are made when they are missing; the store's
    parent must be there. Leaving the block without ``publish()``, for whatever reason, leaves the
    store as it was.

    Args:
        store: The folder of all bundles.
        name: The bundle's name.
        version: X.Y.Z, free; the next one when left out.
        bump: What the next version counts up when ``version`` is left out.

    Raises:
        InputError: ``E_ARGUMENT``, no such name or version can be; ``E_STORE_PATH``, the store is
            not a folder, or its parent is missing.
        StoreError: ``E_STORE_LOCKED``, another process builds this name; ``E_STORE_EXISTS``, the
            version is there in some form, be it a file, an empty folder or a dangling link.
        DiskError: ``E_DISK``, the disk is full, read-only or broken, in the block too.
    """
    home = _home(store, name)
    if version is not None:
        check_version(version)
    with disk_errors(home, DISK_FAULTS), _locked(home) as lock:
        with disk_errors(home):
            _clear_staging(lock)
            chosen = next_version(store, name, bump) if version is None else version
            if os.path.lexists(home / chosen):
                raise _exists(home / chosen)
        draft = Publication(home, lock, chosen)
        try:
            with disk_errors(home):
                _make_staging(draft.folder.name, lock)
            yield draft
        finally:
            draft.withdraw()


def copy_tree(source: Path, folder: Path) -> None:
    """Copy what is in a published version into an existing folder, as new files of their own.

    Where the file system can, a copy shares its blocks with the original until one of them is
    written (``FICLONE``); it is never a link.

    Raises:
        BundleError: ``E_BUNDLE_FILE_TYPE``, something is neither a regular file nor a folder.
        DiskError: ``E_DISK``, a file cannot be read or written.
    """
    with disk_errors(folder):
        for name in sorted(os.listdir(source)):
            if _is_folder(source / name):
                (folder / name).mkdir()
                copy_tree(source / name, folder / name)
            else:
                _copy_file(source / name, folder / name)


def _copy_file(source: Path, target: Path) -> None:
    if not stat.S_ISREG(os.lstat(source).st_mode):
        raise BundleError("E_BUNDLE_FILE_TYPE", source)
    with _opened(source, _FILE) as original, target.open("xb") as copy:
        try:
            fcntl.ioctl(copy, _FICLONE, original)
        except OSError as error:
            if error.errno not in _NO_CLONE:
                raise
            with open(original, "rb", closefd=False) as stream:
                shutil.copyfileobj(stream, copy, 2**20)


def _home(store: PathLike, name: str) -> Path:
    """Return ``<store>/<name>``, after a look at the name: it must not lead elsewhere."""
    try:
        return Path(store) / _NAME.validate_python(name)
    except ValidationError:
        expected = "lower-case letters, digits, '_', '.', '-', at most 64, first a letter or digit"
        raise InputError(
            "E_ARGUMENT", "the bundle's name", expected=expected, got=repr(name)
        ) from None


def _occupied(home: Path) -> list[tuple[int, int, int]]:
    """Return every version whose name is taken in ``home``, by whatever, the highest last."""
    with disk_errors(home):
        try:
            names = os.listdir(home)
        except FileNotFoundError:
            return []
    return sorted(version for version in map(parse_version, names) if version)


def _exists(path: Path) -> StoreError:
    hint = "Leave the version out for the next free one, or name another."
    return StoreError("E_STORE_EXISTS", path, hint=hint)


@contextmanager
def _locked(home: Path) -> Generator[int, None, None]:
    """Hold the lock of ``home``; folders made for it that are empty at the end go again."""
    made: list[Path] = []
    lock = None
    try:
        with disk_errors(home):
            lock = _lock(home, made)
        yield lock
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        if lock is not None:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_UN)  # a forked child may still have it open
            with suppress(OSError):
                os.close(lock)


def _lock(home: Path, made: list[Path]) -> int:
    attempts = 0
    while True:
        try:
            _make_folder(home.parent, made)
            _make_folder(home, made)
            return _flocked(home)
        except StoreError:
            made.clear()  # they are in use
            raise
        except FileNotFoundError:  # a build that failed just now took its folders away again
            attempts += 1
            if attempts == _ATTEMPTS:
                raise


def _make_folder(folder: Path, made: list[Path]) -> None:
    if os.path.lexists(folder):
        return
    if not folder.parent.is_dir() and folder.parent not in made:
        hint = "Make it first, or name another store."
        expected = f"a folder at {folder.parent}"
        raise InputError("E_STORE_PATH", folder, expected=expected, hint=hint)
    made.append(folder)  # before it is made: an interrupt may come right after
    try:
        folder.mkdir()
    except FileExistsError:
        made.remove(folder)
        return
    with _opened(folder.parent, os.O_RDONLY | os.O_DIRECTORY) as parent:
        os.fsync(parent)


def _flocked(home: Path) -> int:
    try:
        lock = os.open(home, _FOLDER)
    except NotADirectoryError:
        place = home if home.parent.is_dir() else home.parent
        hint = "Name another store; a link is not followed here."
        raise InputError("E_STORE_PATH", place, expected="a folder", hint=hint) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_still(home, lock):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except BlockingIOError:
        os.close(lock)
        hint = "Wait until it is done, then run it again."
        raise StoreError("E_STORE_LOCKED", home, hint=hint) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _make_staging(name: str, lock: int) -> None:
    """Make the staging folder, by the rename ``publish`` needs: better refused now than later."""
    os.mkdir(f"{name}.new", 0o700, dir_fd=lock)
    rename_noreplace(f"{name}.new", name, dir_fd=lock)


def _clear_staging(lock: int) -> None:
    """Remove every staging folder; with the lock held, each is a dead process's or to be undone."""
    with _opened(".", _FOLDER, lock) as home:  # opened now: btrfs lists what was there at opening
        for name in os.listdir(home):
            if name.startswith(_STAGING):
                _remove(name, home)


def _remove(name: str, parent: int) -> None:
    """Remove whatever ``name`` in ``parent`` is; links are removed, never followed."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    with _opened(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, parent) as handle:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # a folder that may not be read, too
        with _opened(".", _FOLDER, handle) as folder:
            for child in os.listdir(folder):
                _remove(child, folder)
    os.rmdir(name, dir_fd=parent)


def _settle(folder: int) -> None:
    """Give the files and folders their modes and bring them to the disk, the deepest first."""
    for name in sorted(os.listdir(folder)):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            with _opened(name, _FOLDER, folder) as child:
                _settle(child)
        elif stat.S_ISREG(mode):
            with _opened(name, _FILE, folder) as child:
                os.fchmod(child, 0o644)
                os.fsync(child)
        else:
            raise ValueError(f"{name!r} was staged, and is neither a regular file nor a folder")
    os.fchmod(folder, 0o755)
    os.fsync(folder)


@contextmanager
def _opened(
    path: Union[str, Path], flags: int, folder: Optional[int] = None
) -> Generator[int, None, None]:
    file = os.open(path, flags, dir_fd=folder)
    try:
        yield file
    finally:
        os.close(file)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_still(path: Path, folder: int) -> bool:
    """Say whether ``path`` still leads to the open folder."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(folder))
    except FileNotFoundError:
        return False
