"""Labelled images on disk: which there are, which class each is of, and the digest that says so.

``read_dataset`` lists and judges; no image is opened here. It knows two layouts:

* **class folders**, each named by a label id of the bundle or by a class number (0 to N - 1);
* **flat**: images in one folder and a file of labels, ``val_label.txt`` (name and class on a line,
  apart by blanks) or ``val_label.csv`` (name and class, with or without a line of headings), inside
  the folder or beside it; or any file that is named.

Either may be the folder given, or ``val/`` in it. A class is a label id or a number in a file of
labels too. Nothing is guessed or dropped: an unknown class, a name that means two classes, an
image without a label, a label without an image, a link, or a file that is no image is an error.
Passed over are hidden files, what desktops leave behind (``Thumbs.db``, ``desktop.ini``,
``__MACOSX``), and a ``val_label`` file beside class folders, which say it themselves. Links are
refused because what they point to can be outside the dataset, or in it twice; the folder given
and its ``val/`` may be links.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Optional, Union

from vitaie.manifests.digests import canonical
from vitaie.manifests.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
"""How an image's name ends, in any case; what it holds is judged when it is decoded."""

LABEL_FILES = ("val_label.txt", "val_label.csv")
MAX_LABEL_BYTES = 2**26
MAX_LABEL_LINES = 2**21
"""Of a file of labels: more than ImageNet's 1,281,167 training images need; each line is held."""

_VAL = "val"
_LEFT_BEHIND = ("thumbs.db", "desktop.ini", "__macosx")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)

_Path = Union[str, "os.PathLike[str]"]


class Entry(NamedTuple):
    """One image: its path inside the dataset with ``/``, where it is, and its class's index."""

    path: str
    file: str
    label: int


@dataclass(frozen=True)
class Dataset:
    """Labelled images in order of path, by code point.

    Attributes:
        root: The absolute path of the folder that entries' paths are relative to.
        layout: How the classes were found.
        labels: The file of labels of a flat dataset.
        entries: At least one.
    """

    root: str
    layout: Literal["class_folders", "flat"]
    labels: Optional[str]
    entries: tuple[Entry, ...]


def read_dataset(
    path: _Path, labels: Optional[_Path] = None, *, class_ids: Sequence[str], classes: int
) -> Dataset:
    """List a dataset's images with their classes.

    Args:
        path: The folder of the images or class folders, or the one above its ``val/``.
        labels: The file of labels of a flat dataset; looked for when None.
        class_ids: The bundle's label ids, in output order.
        classes: How many classes the bundle has.

    Raises:
        InputError: With a code of a dataset, naming the folder, file, line or class at fault.
    """
    given = _absolute(path, "E_DATASET_NOT_FOUND")
    known = _Classes(class_ids, classes)
    root, listing = _find_root(given, known)
    if listing.folders and listing.images:
        got = f"both {listing.folders[0]}/ and {listing.images[0]}"
        raise InputError("E_DATASET_LAYOUT", root, got=got)
    if listing.folders:
        return _read_class_folders(root, listing, labels, known)
    return _read_flat(root, listing, labels, known)


def _absolute(path: _Path, code: str) -> str:
    text = os.fspath(path)
    if "\0" in text or not text:
        raise InputError(code, text)
    return os.path.abspath(text)


# Folders


class _Listing(NamedTuple):
    """What a folder holds, sorted; ``others`` are neither folders nor images, or are links."""

    folders: list[str]
    images: list[str]
    others: list[str]


def _list(folder: str) -> _Listing:
    listing = _Listing([], [], [])
    try:
        with os.scandir(folder) as found:
            for entry in found:
                name = entry.name
                if name.startswith(".") or name.lower() in _LEFT_BEHIND:
                    continue
                if not (name.isascii() or _is_utf8(name)):
                    listing.others.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    listing.folders.append(name)
                elif is_image(name) and entry.is_file(follow_symlinks=False):
                    listing.images.append(name)
                else:
                    listing.others.append(name)
    except OSError as error:
        raise InputError("E_DATASET_UNREADABLE", folder, got=error.strerror) from error
    for names in listing:
        names.sort()
    return listing


def is_image(name: str) -> bool:
    """Say whether a file's name is an image's."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def _is_utf8(name: str) -> bool:
    """Say whether a name is text: its digest, and any record of it, could not hold it else."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _find_root(given: str, known: _Classes) -> tuple[str, _Listing]:
    """Return the folder of the images or class folders: the one given, or its ``val/``."""
    if not os.path.isdir(given):
        got = "a file" if os.path.isfile(given) else None
        hint = "Give the folder of the images or class folders, or the one above its val/."
        raise InputError("E_DATASET_NOT_FOUND", given, got=got, hint=hint)
    listing = _list(given)
    root = os.path.join(given, _VAL)
    if known.has(_VAL) or not os.path.isdir(root):
        return given, listing
    beside = [name for name in listing.folders if known.has(name)] + listing.images
    if beside:
        got = f"both {_VAL}/ and {beside[0]}"
        hint = f"Give {root} if the dataset is that."
        raise InputError("E_DATASET_LAYOUT", given, got=got, hint=hint)
    return root, _list(root)


def _refuse_others(folder: str, others: Iterable[str]) -> None:
    for name in others:
        file = os.path.join(folder, name)
        raise InputError(
            "E_DATASET_FILE",
            file,
            expected=f"a file named *{', *'.join(IMAGE_SUFFIXES)}",
            got=_describe(file),
            hint="Move it out of the dataset.",
        )


def _describe(file: str) -> str:
    if not _is_utf8(file):
        return "a name that is not UTF-8"
    try:
        mode = os.lstat(file).st_mode
    except OSError as error:
        return str(error.strerror)
    if stat.S_ISLNK(mode):
        return "a link"
    return "a file of another name" if stat.S_ISREG(mode) else "a special file"


# Classes


class _Classes:
    """The bundle's classes, by label id and by number."""

    def __init__(self, ids: Sequence[str], classes: int) -> None:
        if len(ids) != classes:
            raise ValueError(f"{len(ids)} label ids of {classes} classes")
        self._example = ids[0]
        self._count = classes
        self._by_id = {identity: index for index, identity in enumerate(ids)}
        self._shared = {identity for identity, times in Counter(ids).items() if times > 1}

    def has(self, name: str) -> bool:
        return name in self._by_id or self._number(name) is not None

    def _number(self, name: str) -> Optional[int]:
        number = int(name) if _NUMBER.fullmatch(name) else self._count
        return number if number < self._count else None

    def indices(self, places: Mapping[str, str], where: str) -> dict[str, int]:
        """Return the class of each name. All are label ids or all are numbers.

        Args:
            places: The names, and where each stands, for an error to say.
            where: The folder or file they stand in.

        Raises:
            InputError: ``E_DATASET_CLASS``, ``E_DATASET_CLASS_AMBIGUOUS`` or
                ``E_DATASET_CLASS_NAMES``, of the first name at fault.
        """
        found: dict[str, int] = {}
        only_id = only_number = ""
        for name in sorted(places):
            by_id, number = self._by_id.get(name), self._number(name)
            index = number if by_id is None else by_id
            if index is None:
                raise InputError(
                    "E_DATASET_CLASS",
                    where,
                    field=places[name],
                    expected=f"a label id such as {self._example}, or 0 to {self._count - 1}",
                    got=name or "no name",
                    hint="Every class must be one of the bundle's; a part of them is enough.",
                )
            if number not in (None, index) or name in self._shared:
                got = f"{name}, which is the label id of class {index} too"
                raise InputError("E_DATASET_CLASS_AMBIGUOUS", where, field=places[name], got=got)
            only_id = only_id or (name if number is None else "")
            only_number = only_number or (name if by_id is None else "")
            if only_id and only_number:
                got = f"both {only_id} and {only_number}"
                raise InputError("E_DATASET_CLASS_NAMES", where, field=places[name], got=got)
            found[name] = index
        return found


def _read_class_folders(
    root: str, listing: _Listing, labels: Optional[_Path], known: _Classes
) -> Dataset:
    if labels is not None:
        expected, got = "images in one folder for a file of labels", f"{listing.folders[0]}/"
        raise InputError("E_DATASET_LAYOUT", root, expected=expected, got=got)
    _refuse_others(root, (name for name in listing.others if name not in LABEL_FILES))
    indices = known.indices({name: f"{name}/" for name in listing.folders}, root)
    entries: list[Entry] = []
    for name in listing.folders:
        folder = os.path.join(root, name)
        inside = _list(folder)
        if inside.folders:
            got = f"{inside.folders[0]}/ inside a class folder"
            raise InputError("E_DATASET_LAYOUT", folder, got=got)
        _refuse_others(folder, inside.others)
        if not inside.images:
            raise InputError("E_DATASET_EMPTY", folder, hint="Remove the folder, or fill it.")
        label = indices[name]
        entries += [Entry(f"{name}/{file}", f"{folder}/{file}", label) for file in inside.images]
    entries.sort(key=_path_of)
    return Dataset(root, "class_folders", None, tuple(entries))


def _path_of(entry: Entry) -> str:
    return entry.path


# Flat


def _read_flat(root: str, listing: _Listing, labels: Optional[_Path], known: _Classes) -> Dataset:
    file = _find_labels(root) if labels is None else _absolute(labels, "E_DATASET_LABELS_MISSING")
    passed_over: set[str] = {*LABEL_FILES}
    if file is not None and os.path.realpath(os.path.dirname(file)) == os.path.realpath(root):
        passed_over.add(os.path.basename(file))
    _refuse_others(root, (name for name in listing.others if name not in passed_over))
    if not listing.images:
        hint = "Give the folder that holds the images, or a folder of images for each class."
        raise InputError("E_DATASET_EMPTY", root, hint=hint)
    if file is None:
        raise InputError(
            "E_DATASET_LABELS_MISSING",
            root,
            expected=f"{' or '.join(LABEL_FILES)} in it or beside it",
            hint="Put one there, or name it with --labels FILE.",
        )
    rows = _read_labels(file)
    indices = known.indices({row.label: f"line {row.line}" for row in reversed(rows)}, file)
    by_name = {row.name: indices[row.label] for row in rows}
    _compare(root, listing.images, file, rows)
    entries = (Entry(name, os.path.join(root, name), by_name[name]) for name in listing.images)
    return Dataset(root, "flat", file, tuple(entries))


def _find_labels(root: str) -> Optional[str]:
    """Return the one file of labels in the folder or beside it, if there is any."""
    found = [
        file
        for folder in (root, os.path.dirname(root))
        for file in (os.path.join(folder, name) for name in LABEL_FILES)
        if os.path.lexists(file)
    ]
    if len(found) > 1:
        got = f"{found[0]} and {found[1]}"
        hint = "Name the right one with --labels FILE."
        raise InputError("E_DATASET_LABELS_TWICE", root, got=got, hint=hint)
    return found[0] if found else None


class _Row(NamedTuple):
    """What a line of a file of labels says; lines count from 1."""

    line: int
    name: str
    label: str


def _read_labels(file: str) -> list[_Row]:
    """Return the rows of a file of labels, each of an image's name and of a class."""
    text = _read_text(file)
    rows: list[_Row] = []
    seen: dict[str, int] = {}
    is_csv = file.lower().endswith(".csv")
    headed = False
    for line, cells in _csv_rows(text, file) if is_csv else _text_rows(text):
        if len(cells) != 2 or not is_image(cells[0]) or not cells[1]:
            if is_csv and not headed and not rows and _are_headings(cells):
                headed = True
                continue
            expected = "an image's name, a comma, a class" if is_csv else "an image's name, a class"
            got = (", " if is_csv else " ").join(cells)
            raise _malformed(file, line, expected, got)
        name, label = cells
        if name in seen:
            got = f"{name}, as line {seen[name]}"
            raise InputError("E_DATASET_LABEL_TWICE", file, field=f"line {line}", got=got)
        seen[name] = line
        rows.append(_Row(line, name, label))
    return rows


def _are_headings(cells: Sequence[str]) -> bool:
    """Say whether cells are words such as ``name`` and ``class``, and no image of another kind."""
    return len(cells) == 2 and "." not in cells[0] and not cells[1].isdigit()


def _malformed(file: str, line: int, expected: str, got: object) -> InputError:
    return InputError("E_DATASET_LABELS", file, field=f"line {line}", expected=expected, got=got)


def _text_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the two cells of each line; a name may hold blanks."""
    for number, line in enumerate(text.split("\n"), 1):
        cells = line.strip().rsplit(None, 1)
        if cells:
            yield number, [cell.strip() for cell in cells]


def _csv_rows(text: str, file: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise _malformed(file, reader.line_num, "comma-separated values", error) from error


def _read_text(file: str) -> str:
    """Return a regular file's text, UTF-8, without the mark that some programs put before it."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_LABEL_BYTES:
                expected = f"a regular file of at most {MAX_LABEL_BYTES} bytes"
                raise InputError("E_DATASET_LABELS", file, expected=expected)
            with open(descriptor, "rb", closefd=False) as opened:
                data = opened.read(status.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise InputError("E_DATASET_LABELS_MISSING", file) from error
    except OSError as error:
        raise InputError("E_DATASET_UNREADABLE", file, got=error.strerror) from error
    lines = max(data.count(b"\n"), data.count(b"\r"))
    if lines > MAX_LABEL_LINES:
        expected = f"at most {MAX_LABEL_LINES} lines"
        raise InputError("E_DATASET_LABELS", file, expected=expected, got=lines)
    return _decode(data, file)


def _decode(data: bytes, file: str) -> str:
    bad = data.find(b"\0")  # text too, but older Pythons' csv refuses it and newer ones do not
    if bad < 0:
        try:
            return data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            bad = error.start
    line = data.count(b"\n", 0, bad) + 1
    raise _malformed(file, line, "text in UTF-8", f"byte {data[bad]:02x}")


def _compare(root: str, images: Sequence[str], file: str, rows: Sequence[_Row]) -> None:
    """Refuse an image without a label, and a label without an image."""
    there = set(images)
    absent = [row for row in rows if row.name not in there]
    if absent:
        got = f"{absent[0].name}{_more(absent)}"
        raise InputError("E_DATASET_IMAGE_MISSING", file, field=f"line {absent[0].line}", got=got)
    named = {row.name for row in rows}
    unnamed = [name for name in images if name not in named]
    if unnamed:
        raise InputError(
            "E_DATASET_LABEL_MISSING",
            root,
            field=unnamed[0],
            got=f"{file} without {len(unnamed):,}",
        )


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - 1:,} more" if len(found) > 1 else ""


# Identity


class DatasetDigest:
    """Which images were read, whatever the order they were read in.

    The digest is the sha256 of the canonical text (``vitaie.manifests.digests``) of the list of
    [path, size, sha256, label], sorted by path. Holds about 250 bytes for an image.
    """

    def __init__(self) -> None:
        """Begin with no image."""
        self._images: dict[str, tuple[int, bytes, int]] = {}

    def __len__(self) -> int:
        """Return how many images were added."""
        return len(self._images)

    def add(self, path: str, size: int, sha256: str, label: int) -> None:
        """Add an image: its path in the dataset, its size in bytes, its digest, its class.

        Raises:
            ValueError: The path was added before, or the digest is not 64 hexadecimal digits.
        """
        digest = bytes.fromhex(sha256)
        if path in self._images or digest.hex() != sha256 or len(digest) != 32:
            raise ValueError(f"{path} {sha256}")
        self._images[path] = (size, digest, label)

    def hexdigest(self) -> str:
        """Return the digest of what was added so far, as 64 lower-case hexadecimal digits."""
        whole = hashlib.sha256(b"[")
        for number, path in enumerate(sorted(self._images)):
            size, digest, label = self._images[path]
            whole.update(b"," if number else b"")
            whole.update(canonical([path, size, digest.hex(), label]))
        whole.update(b"]")
        return whole.hexdigest()
