"""A strict reader of .npz archives, because ``numpy.load`` believes what a hostile file says.

NumPy, even without pickle, lets the last of two members of one name win, allocates what a header
claims, and inflates without a bound. Here every record of the zip and every .npy header is
checked against the others and against the file's size before one array is read; an array is then
read straight into its place, its CRC taken on the way. What NumPy writes is read; what it never
writes (comments, prefixes, overlapping or encrypted members) is refused.

The zip records are those of PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3; the .npy header
is that of NumPy's ``numpy.lib.format``.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from vitaie.builder._open_file import OpenFile
from vitaie.manifests.errors import CheckpointError, printable

MAX_MEMBERS = 8192
MAX_DIRECTORY_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 2**16
MAX_TOTAL_BYTES = 2**34
"""Bytes of all arrays together, inflated: several times the largest published checkpoint."""

_READ_SIZE = 2**20
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR, _UTF8, _DEFLATE_LEVEL = 0x1, 0x8, 0x800, 0x6
_DEFLATE_LIMIT = 1032
"""No deflate stream is longer than this times its compressed size."""

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_EXTRA = struct.Struct("<2H")

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*\.npy")
_HEADER = re.compile(
    r"\{\s*'descr':\s*(?P<descr>'[^']*'|\[.*\]),\s*'fortran_order':\s*(?P<order>True|False),"
    r"\s*'shape':\s*\((?P<shape>[^()]*)\),?\s*\}\s*",
    re.DOTALL,
)
_SHAPE = re.compile(r"\s*(([1-9]\d{0,17}\s*,\s*){1,8}([1-9]\d{0,17}\s*)?)?")


class Member(NamedTuple):
    """One array: where its bytes lie, and what its headers were found to agree on.

    ``start`` and ``stored_size`` are of the member's data in the file, ``header_size`` of the
    .npy header inside that data, all in bytes.
    """

    name: str
    method: int
    crc: int
    start: int
    stored_size: int
    header_size: int
    shape: tuple[int, ...]
    fortran_order: bool

    @property
    def nbytes(self) -> int:
        """The bytes of the array."""
        return 4 * math.prod(self.shape)


class _Entry(NamedTuple):
    """A member as the central directory describes it."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    stored_size: int
    size: int
    offset: int


def read_members(file: OpenFile) -> dict[str, Member]:
    """Return every array of the archive by name, in the file's order; no array is read.

    Raises:
        CheckpointError: E_CHECKPOINT_NOT_NPZ, E_CHECKPOINT_ARCHIVE (the zip), E_CHECKPOINT_MEMBER
            (a member that is no plain array) or E_CHECKPOINT_DTYPE, each with the member's name.
    """
    _check_kind(file)
    count, start, size = _find_directory(file)
    entries = sorted(_read_directory(file, count, start, size), key=lambda entry: entry.offset)
    ends = [entry.offset for entry in entries[1:]] + [start]
    members: dict[str, Member] = {}
    total = 0
    for entry, end in zip(entries, ends):
        if entry.name in members:
            _malformed(file, entry.name, expected="each member once", got="it twice")
        member = _read_npy_header(file, entry, _read_local_header(file, entry, end))
        members[entry.name] = member
        total += member.nbytes
        if total > MAX_TOTAL_BYTES:
            _malformed(file, entry.name, f"at most {MAX_TOTAL_BYTES} bytes of arrays", got="more")
    return members


def read_array(file: OpenFile, member: Member) -> NDArray[np.float32]:
    """Return one array, C-contiguous, read into its place and checked against its CRC.

    Raises:
        CheckpointError: E_CHECKPOINT_ARCHIVE when the data does not inflate to the declared
            size or fails its CRC; E_CHECKPOINT_CHANGED when that is because the file changed.
    """
    flat = np.empty(member.nbytes // 4, dtype=np.float32)
    target = flat.data.cast("B")
    if member.method == _STORED:
        crc = _copy_stored(file, member, target)
    else:
        crc = _inflate(file, member, target)
    if crc != member.crc:
        _damaged(file, member.name, f"CRC {member.crc:08x}", f"{crc:08x}")
    if not member.fortran_order:
        return flat.reshape(member.shape)
    return np.ascontiguousarray(flat.reshape(member.shape[::-1]).transpose())


def _copy_stored(file: OpenFile, member: Member, target: memoryview) -> int:
    crc = zlib.crc32(file.read(member.start, member.header_size))
    data = member.start + member.header_size
    for offset in range(0, len(target), _READ_SIZE):
        part = target[offset : offset + _READ_SIZE]
        file.read_into(part, data + offset)
        crc = zlib.crc32(part, crc)
    return crc


def _inflate(file: OpenFile, member: Member, target: memoryview) -> int:
    size = member.header_size + len(target)
    done = 0
    crc = 0
    for part in _inflated(file, member, size):
        crc = zlib.crc32(part, crc)
        skipped = min(len(part), max(0, member.header_size - done))
        position = done + skipped - member.header_size
        target[position : position + len(part) - skipped] = part[skipped:]
        done += len(part)
    return crc


def _inflated(file: OpenFile, member: Member, size: int) -> Iterator[bytes]:
    """Yield the ``size`` bytes of a deflated member in parts; never hold, or yield, more."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    left = size
    for offset in range(0, member.stored_size, _READ_SIZE):
        length = min(_READ_SIZE, member.stored_size - offset)
        data = file.read(member.start + offset, length)
        while data and not stream.eof:
            # One byte beyond what is left: a stream that goes on is found without following it.
            try:
                part = stream.decompress(data, min(left + 1, _READ_SIZE))
            except zlib.error as error:
                _damaged(file, member.name, "a deflate stream", str(error))
            if len(part) > left:
                _damaged(file, member.name, f"{size} bytes", "more")
            left -= len(part)
            data = stream.unconsumed_tail
            yield part
    if left or not stream.eof or stream.unused_data:
        _damaged(file, member.name, f"a deflate stream of {size} bytes", f"{size - left}")


def _check_kind(file: OpenFile) -> None:
    """Refuse a file that is no zip at all, saying what it looks like."""
    head = file.read(0, min(file.size, 8))
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return
    if not head:
        got, hint = "an empty file", "Get it again: nothing of it is here."
    elif head.startswith(b"\x93NUMPY"):
        got = "a single .npy array"
        hint = "numpy.savez writes an archive of named arrays; the layout has many."
    elif head.startswith(b"\x80"):
        got = "a pickle"
        hint = "It is never loaded, for it can run code: write its arrays with numpy.savez."
    else:
        got = f"a file that begins with {head!r}"
        hint = "Give the .npz file of a checkpoint; vitaie-build variants names those published."
    raise CheckpointError(
        "E_CHECKPOINT_NOT_NPZ", file.path, expected="an .npz archive", got=got, hint=hint
    )


def _find_directory(file: OpenFile) -> tuple[int, int, int]:
    """Return the central directory's number of entries, offset and size."""
    end = file.size - _END.size
    if end < 0:
        _malformed(file, "", "an end record", f"a file of {file.size} bytes", _TRUNCATED)
    signature, *fields, comment = _END.unpack(file.read(end, _END.size))
    if signature != b"PK\5\6" or comment:
        _malformed(file, "", "an end record as the last 22 bytes", "none", _TRUNCATED)
    end, fields = _widen_end(file, end, fields)
    disk, first_disk, here, count, size, start = fields
    if disk or first_disk or here != count:
        _malformed(file, "", "one disk", "several")
    if start + size != end:
        _malformed(file, "", f"a directory that ends at {end}", f"one that ends at {start + size}")
    if not 1 <= count <= MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        _malformed(file, "", f"1 to {MAX_MEMBERS} members", f"{count} in {size} bytes of directory")
    return count, start, size


_TRUNCATED = "The file may be truncated; fetch it again."


def _widen_end(file: OpenFile, end: int, fields: list[int]) -> tuple[int, list[int]]:
    """Return where the end records begin, and the fields of the zip64 one if there is one."""
    locator_at = end - _END64_LOCATOR.size
    record_at = locator_at - _END64.size
    if record_at >= 0:
        signature, _, offset, _ = _END64_LOCATOR.unpack(file.read(locator_at, _END64_LOCATOR.size))
        if signature == b"PK\6\7":
            signature, _, _, _, *wide = _END64.unpack(file.read(record_at, _END64.size))
            agree = all(
                narrow in (value, 0xFFFF, 0xFFFFFFFF) for narrow, value in zip(fields, wide)
            )
            if signature != b"PK\6\6" or offset != record_at or not agree:
                _malformed(file, "", "a zip64 end record that agrees with the end record", "none")
            return record_at, wide
    if 0xFFFF in fields[2:4] or 0xFFFFFFFF in fields[4:]:
        _malformed(file, "", "a zip64 end record", "none")
    return end, fields


def _read_directory(file: OpenFile, count: int, start: int, size: int) -> Iterator[_Entry]:
    data = file.read(start, size)
    at = 0
    for _ in range(count):
        if at + _CENTRAL.size > size:
            _malformed(file, "", f"a directory of {count} members", "fewer")
        record = _CENTRAL.unpack_from(data, at)
        signature, _, _, flags, method, _, _, crc, stored_size, full_size = record[:10]
        name_size, extra_size, comment_size, disk, _, _, offset = record[10:]
        name_at = at + _CENTRAL.size
        extra_at = name_at + name_size
        at = extra_at + extra_size + comment_size
        if signature != b"PK\1\2" or at > size or disk:
            _malformed(file, "", f"a directory of {count} members", "broken records")
        raw_name = data[name_at:extra_at]
        name = _check_name(file, raw_name)
        extra = data[extra_at : extra_at + extra_size]
        sizes = _apply_zip64(file, name, extra, (full_size, stored_size, offset))
        yield _check_entry(file, _Entry(name, raw_name, flags, method, crc, sizes[1], *sizes[::2]))
    if at != size:
        _malformed(file, "", f"a directory of {count} members", "more")


def _check_name(file: OpenFile, raw: bytes) -> str:
    name = raw.decode("ascii", "replace")
    if len(raw) > 255 or not _NAME.fullmatch(name):
        raise CheckpointError(
            "E_CHECKPOINT_MEMBER",
            file.path,
            field=name,
            expected="a plain name that ends in .npy",
            hint="This looks like a PyTorch file; vitaie reads augreg .npz checkpoints."
            if name.endswith(".pkl")
            else "",
        )
    return name[: -len(".npy")]


def _apply_zip64(
    file: OpenFile, name: str, extra: bytes, fields: tuple[int, ...]
) -> tuple[int, ...]:
    """Return 32-bit ``fields``, those that are all ones taken from the zip64 extra field."""
    wide = [index for index, value in enumerate(fields) if value == 0xFFFFFFFF]
    at = 0
    while wide and at + _EXTRA.size <= len(extra):
        kind, size = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == 1 and at + size <= len(extra) and size >= 8 * len(wide):
            values = struct.unpack_from(f"<{len(wide)}Q", extra, at)
            return tuple(
                values[wide.index(index)] if index in wide else value
                for index, value in enumerate(fields)
            )
        at += size
    if wide:
        _malformed(file, name, "its sizes in a zip64 field", "none")
    return fields


def _check_entry(file: OpenFile, entry: _Entry) -> _Entry:
    if entry.flags & _ENCRYPTED:
        _malformed(file, entry.name, "no encryption", "an encrypted member")
    if entry.flags & ~(_DESCRIPTOR | _UTF8 | _DEFLATE_LEVEL):
        _malformed(file, entry.name, "a plain member", f"flags {entry.flags:#06x}")
    if entry.method not in (_STORED, _DEFLATED):
        _malformed(file, entry.name, "stored or deflated", f"compression method {entry.method}")
    if entry.method == _STORED and entry.size != entry.stored_size:
        _malformed(file, entry.name, f"{entry.stored_size} bytes, as stored", f"{entry.size}")
    if entry.size > _DEFLATE_LIMIT * entry.stored_size:
        _malformed(
            file,
            entry.name,
            f"at most {_DEFLATE_LIMIT} times its {entry.stored_size} bytes",
            f"{entry.size}",
        )
    return entry


def _read_local_header(file: OpenFile, entry: _Entry, end: int) -> int:
    """Return where a member's data begins; it must end at or before ``end``."""
    header_end = entry.offset + _LOCAL.size
    if header_end > end:
        _malformed(file, entry.name, f"a member that ends by {end}", f"one at {entry.offset}")
    record = _LOCAL.unpack(file.read(entry.offset, _LOCAL.size))
    signature, _, flags, method, _, _, crc, stored_size, size, name_size, extra_size = record
    if signature != b"PK\3\4":
        _malformed(file, entry.name, f"a member at {entry.offset}", f"{signature!r}")
    start: int = header_end + name_size + extra_size
    if start + entry.stored_size > end:
        _malformed(
            file,
            entry.name,
            f"a member that ends by {end}",
            f"{entry.stored_size} bytes at {start}",
        )
    names = file.read(header_end, name_size + extra_size)
    raw_name, extra = names[:name_size], names[name_size:]
    if (raw_name, flags, method) != (entry.raw_name, entry.flags, entry.method):
        _malformed(file, entry.name, "a header that agrees with the directory", "another")
    if not flags & _DESCRIPTOR:
        sizes = _apply_zip64(file, entry.name, extra, (size, stored_size))
        if (*sizes, crc) != (entry.size, entry.stored_size, entry.crc):
            _malformed(file, entry.name, "sizes that agree with the directory", "others")
    return start


def _read_npy_header(file: OpenFile, entry: _Entry, start: int) -> Member:
    prefix = _begin(file, entry, start, 12)
    if len(prefix) < 12 or prefix[:6] != b"\x93NUMPY" or prefix[6:8] not in _NPY_VERSIONS:
        _no_array(file, entry.name, "a .npy array", f"a member that begins with {prefix[:8]!r}")
    text_at, length = _NPY_VERSIONS[prefix[6:8]]
    (text_size,) = struct.unpack_from(length, prefix, 8)
    header_size = text_at + text_size
    if text_size > MAX_HEADER_BYTES or header_size > entry.size:
        _no_array(file, entry.name, "a header inside the member", f"one of {text_size} bytes")
    header = _begin(file, entry, start, header_size)
    shape, fortran_order = _parse_npy_header(file, entry.name, header[text_at:].decode("latin-1"))
    if header_size + 4 * math.prod(shape) != entry.size:
        _no_array(
            file,
            entry.name,
            f"{4 * math.prod(shape)} bytes for shape {list(shape)}",
            f"{entry.size - header_size}",
        )
    return Member(
        entry.name,
        entry.method,
        entry.crc,
        start,
        entry.stored_size,
        header_size,
        shape,
        fortran_order,
    )


_NPY_VERSIONS = {b"\1\0": (10, "<H"), b"\2\0": (12, "<L"), b"\3\0": (12, "<L")}


def _begin(file: OpenFile, entry: _Entry, start: int, length: int) -> bytes:
    """Return the first bytes of a member's contents, at most ``length``."""
    if entry.method == _STORED:
        return file.read(start, min(length, entry.stored_size))
    data = file.read(start, min(length + 1024, entry.stored_size))
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length)
    except zlib.error as error:
        _malformed(file, entry.name, "a deflate stream", str(error))


def _parse_npy_header(file: OpenFile, name: str, text: str) -> tuple[tuple[int, ...], bool]:
    """Return shape and order. The text is matched, never evaluated."""
    match = _HEADER.fullmatch(text)
    if match is None:
        _no_array(file, name, "NumPy's header", printable(text.strip(), 80))
    if match["descr"] != "'<f4'":
        raise CheckpointError(
            "E_CHECKPOINT_DTYPE", file.path, field=name, expected="'<f4'", got=match["descr"]
        )
    if not _SHAPE.fullmatch(match["shape"]):
        _no_array(file, name, "a tuple of whole numbers of at least 1", f"({match['shape']})")
    shape = tuple(int(size) for size in match["shape"].split(",") if size.strip())
    return shape, match["order"] == "True"


def _malformed(file: OpenFile, member: str, expected: str, got: str, hint: str = "") -> NoReturn:
    raise CheckpointError(
        "E_CHECKPOINT_ARCHIVE", file.path, field=member, expected=expected, got=got, hint=hint
    )


def _no_array(file: OpenFile, member: str, expected: str, got: str) -> NoReturn:
    raise CheckpointError(
        "E_CHECKPOINT_MEMBER", file.path, field=member, expected=expected, got=got
    )


def _damaged(file: OpenFile, member: str, expected: str, got: str) -> NoReturn:
    """Say that a member's data is wrong, unless the file was changed under the reader."""
    file.check_unchanged()
    _malformed(file, member, expected, got, "The file is damaged; fetch it again.")
