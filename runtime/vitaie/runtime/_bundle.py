"""Opening a bundle: no parser sees a byte before its digest was checked.

The order is fixed: the manifest, then the folder against the manifest, then size and digest of
every file. Files are opened once, relative to the open folder, and read into private memory;
what was hashed is what is parsed. Raw weights may reach an engine while they are still being
hashed (``Bytes.data``), but nothing the engine says may leave before ``Bytes.check``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from vitaie.manifests.digests import CHUNKED_ABOVE
from vitaie.manifests.errors import (
    BundleError,
    InputError,
    ManifestError,
    VitaieError,
    is_out_of_files,
)
from vitaie.runtime._bytes import FETCH_AGAIN, Bytes, wrong_size
from vitaie.runtime._files import disk_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Artifact, Manifest

MANIFEST_NAME = "manifest.json"
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\Z")
_MAX_MANIFEST_BYTES = 2**20
_MAX_EARLY = 2**31  # bytes of memory that may be wasted on a bundle that turns out to be none
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def parse_version(name: str) -> tuple[int, int, int] | None:
    """Return ``X.Y.Z`` as three numbers, or None when ``name`` is not a version."""
    match = _VERSION.match(name)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the bundle's folder: ``path`` itself, or the newest version inside it.

    Raises:
        BundleError: There is neither a manifest nor a version here.
    """
    if not isinstance(cast("object", path), (str, os.PathLike)) or not os.fspath(path):
        raise InputError("E_ARGUMENT", "path", expected="a path", got=path)
    folder = Path(path)
    hint = "Give the folder of a bundle, such as bundles/vit_base_patch16_224."
    newest: tuple[tuple[int, int, int], str] | None = None
    try:
        if os.path.lexists(folder / MANIFEST_NAME):
            return folder
        with os.scandir(folder) as entries:
            for entry in entries:
                version = parse_version(entry.name)
                if version and entry.is_dir(follow_symlinks=False):
                    newest = max(newest or (version, entry.name), (version, entry.name))
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        got = error.strerror if isinstance(error, OSError) else error
        raise BundleError("E_BUNDLE_NOT_FOUND", folder, got=got, hint=hint) from None
    if newest is None:
        expected = f"{MANIFEST_NAME} or a folder named X.Y.Z"
        raise BundleError("E_BUNDLE_NOT_FOUND", folder, expected=expected, hint=hint)
    return folder / newest[1]


class Bundle:
    """An open bundle: its manifest, and one open file for each artifact.

    Made by ``open_bundle``; every file is there, is regular, has one name and the right size.
    """

    def __init__(self, folder: Path, manifest: Manifest, files: dict[str, int]) -> None:
        """Take over the open files, by artifact path."""
        self.folder = folder
        self.manifest = manifest
        self._files = files
        self._bytes: dict[str, Bytes] = {}

    def begin(self, path: str) -> Bytes:
        """Start reading and hashing an artifact into private memory; once, and kept after."""
        if path not in self._bytes:
            size = self.manifest.artifact(path).size
            self._bytes[path] = Bytes(self._files[path], size, str(self.folder / path))
        return self._bytes[path]

    def read(self, path: str) -> NDArray[np.uint8]:
        """Return an artifact's bytes, uint8 [size], after their digest was checked."""
        return self.begin(path).check(self.manifest.artifact(path))

    @contextmanager
    def file(self, path: str) -> Generator[str, None, None]:
        """Yield the path of a private file of an artifact's checked bytes; forget it after."""
        self.read(path)
        with self._bytes.pop(path).file() as name:
            yield name

    def check(self, paths: Iterable[str] | None = None) -> None:
        """Check the digest of every artifact, or of ``paths``; keep only what was read already."""
        for artifact in self.manifest.artifacts:
            if paths is None or artifact.path in paths:
                known = artifact.path in self._bytes
                self.read(artifact.path)
                if not known:
                    self.release(artifact.path)

    def release(self, path: str) -> None:
        """Forget an artifact's bytes."""
        if path in self._bytes:
            self._bytes.pop(path).stop()

    def adopt(self, path: str, early: Bytes, descriptor: int) -> bool:
        """Take over what was read early, if it is the very file that was opened for ``path``."""
        mine = os.fstat(self._files[path])
        if not os.path.samestat(mine, os.fstat(descriptor)) or mine.st_size != early.size:
            return False
        self._bytes[path] = early
        return True

    def close(self) -> None:
        """Forget the bytes. ``open_bundle`` closes the files."""
        # The large one, begun early, last: while its map is taken away no other can be.
        for path in reversed(list(self._bytes)):
            self.release(path)
        self._files = {}


@contextmanager
def open_bundle(path: str | os.PathLike[str], *, early: str = "") -> Generator[Bundle, None, None]:
    """Open a bundle's manifest and files. Digests of files are checked as they are read.

    Args:
        path: A version's folder, or the folder of its versions (the newest is taken).
        early: An artifact that will be needed: it is read and hashed while the manifest is.

    Raises:
        BundleError: Anything missing, extra, linked, of the wrong size or malformed.
    """
    folder = locate(path)
    with ExitStack() as stack:
        try:
            root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BundleError("E_BUNDLE_NOT_FOUND", folder, got=error.strerror) from None
        stack.callback(os.close, root)
        begun = _begin_early(root, early, folder, stack) if early else None
        manifest = _read_manifest(root, folder)
        bundle = Bundle(folder, manifest, _open_artifacts(root, folder, manifest, stack))
        stack.callback(bundle.close)
        if begun is not None:
            bundle.adopt(early, *begun)
        yield bundle


def _open_artifacts(
    root: int, folder: Path, manifest: Manifest, stack: ExitStack
) -> dict[str, int]:
    """Open every artifact, by path; the stack closes them."""
    artifacts = {artifact.path: artifact for artifact in manifest.artifacts}
    files: dict[str, int] = {}
    with closing(_walk(root, folder, set(artifacts))) as found:
        for relative, entry in found:
            # A folder being changed may list a name twice: the first one stands.
            if relative != MANIFEST_NAME and relative not in files:
                files[relative] = _open_artifact(entry, folder, artifacts[relative])
                stack.callback(os.close, files[relative])
    missing = [name for name in artifacts if name not in files]
    if missing:
        raise BundleError("E_BUNDLE_FILE_MISSING", folder / missing[0], hint=FETCH_AGAIN)
    return files


def _begin_early(root: int, name: str, folder: Path, stack: ExitStack) -> tuple[Bytes, int] | None:
    """Start reading a large file before the manifest is known; what it is, is judged later."""
    where = str(folder / name)
    try:
        descriptor = _open_file(_Entry(root, name), where)
    except (BundleError, FileNotFoundError):
        return None
    stack.callback(os.close, descriptor)
    size = os.fstat(descriptor).st_size
    if not CHUNKED_ABOVE < size <= _MAX_EARLY:
        return None
    begun = Bytes(descriptor, size, where, spare=1)
    stack.callback(begun.stop)
    return begun, descriptor


def _read_manifest(root: int, folder: Path) -> Manifest:
    # Imported here: pydantic is the slowest import of the runtime, and only bundles need it.
    from vitaie.manifests.manifest import Manifest

    where = str(folder / MANIFEST_NAME)
    try:
        descriptor = _open_file(_Entry(root, MANIFEST_NAME), where)
    except FileNotFoundError:
        raise ManifestError("E_MANIFEST_MISSING", where) from None
    try:
        data = b""
        while len(data) <= _MAX_MANIFEST_BYTES:
            part = os.read(descriptor, _MAX_MANIFEST_BYTES + 1 - len(data))
            if not part:
                break
            data += part
    except OSError as error:
        raise _unreadable(error, where) from None
    finally:
        os.close(descriptor)
    return Manifest.from_bytes(data, where)


class _Entry(NamedTuple):
    folder: int
    name: str


def _walk(root: int, folder: Path, expected: set[str]) -> Generator[tuple[str, _Entry], None, None]:
    """Yield every file the manifest lists; refuse, at the first sight, anything it does not.

    An entry's folder is open until the next one is asked for.
    """
    folders = {parent for path in expected for parent in _parents(path)}
    pending = [("", os.dup(root))]
    try:
        while pending:
            prefix, descriptor = pending.pop()
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        relative = prefix + entry.name
                        if relative in folders:
                            child = _open_folder(
                                _Entry(descriptor, entry.name), str(folder / relative)
                            )
                            pending.append((relative + "/", child))
                        elif relative in expected or relative == MANIFEST_NAME:
                            yield relative, _Entry(descriptor, entry.name)
                        else:
                            raise BundleError(
                                "E_BUNDLE_FILE_EXTRA",
                                folder / relative,
                                hint="Remove it; a published version never changes.",
                            )
            finally:
                os.close(descriptor)
    finally:
        for _, descriptor in pending:
            os.close(descriptor)


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for end in range(1, len(parts) + 1):
        yield "/".join(parts[:end])


def _open_folder(entry: _Entry, where: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        _check_type(_status(entry), where, folder=True)
        return os.open(entry.name, flags, dir_fd=entry.folder)
    except OSError as error:
        raise _unreadable(error, where) from None


def _open_artifact(entry: _Entry, folder: Path, artifact: Artifact) -> int:
    where = str(folder / artifact.path)
    try:
        descriptor = _open_file(entry, where)
    except FileNotFoundError as error:  # it was there when the folder was listed
        raise _unreadable(error, where) from None
    try:
        size = os.fstat(descriptor).st_size
        if size != artifact.size:
            raise wrong_size(where, artifact.size, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_file(entry: _Entry, where: str) -> int:
    """Open a regular file of one name. Nothing else is even opened: opening a device may act."""
    try:
        _check_file(_status(entry), where)
        descriptor = os.open(entry.name, _READ_FLAGS, dir_fd=entry.folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(error, where) from None
    try:
        _check_file(os.fstat(descriptor), where)  # of what was opened, whatever was there before
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _status(entry: _Entry) -> os.stat_result:
    return os.stat(entry.name, dir_fd=entry.folder, follow_symlinks=False)


def _check_type(status: os.stat_result, where: str, *, folder: bool) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise BundleError("E_BUNDLE_FILE_LINKED", where, got="a symbolic link")
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(status.st_mode):
        expected = "a folder" if folder else "a regular file"
        raise BundleError("E_BUNDLE_FILE_TYPE", where, expected=expected)


def _check_file(status: os.stat_result, where: str) -> None:
    _check_type(status, where, folder=False)
    if status.st_nlink != 1:
        raise BundleError(
            "E_BUNDLE_FILE_LINKED",
            where,
            expected="1 name",
            got=f"{status.st_nlink} names",
            hint="Copy the bundle without hard links (cp --no-preserve=links).",
        )


def _unreadable(error: OSError, where: str) -> VitaieError:
    if is_out_of_files(error):  # this process's limit, no fault of the bundle
        return disk_error(where, error)
    if error.errno == errno.ELOOP:  # O_NOFOLLOW met a symbolic link
        return BundleError("E_BUNDLE_FILE_LINKED", where, got="a symbolic link")
    return BundleError("E_BUNDLE_FILE_UNREADABLE", where, got=error.strerror)
