"""Small checkpoints, right and wrong: a tiny card, its arrays, and zips written byte by byte.

``zipfile`` and ``numpy.savez`` refuse to write what a hostile file holds, so ``archive`` writes
the records itself and lets a test set any field of them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from vitaie.builder.checkpoint import layout
from vitaie.manifests.card import Card, load_card

Arrays = dict[str, NDArray[Any]]

TINY = """\
name = "tiny"
labels = "labels.txt"
[model]
image_size = 16
patch_size = 8
width = 8
depth = 2
heads = 2
mlp_dim = 12
classes = 5
[preprocess]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[preprocess.timm]
resize = 20
"""


def write_card(folder: Path, text: str = TINY, labels: Optional[str] = None) -> Path:
    """Write a card file and its labels to ``folder`` and return the card's path."""
    folder.mkdir(exist_ok=True)
    if labels is None:
        labels = "".join(f"c{index}\tclass {index}\n" for index in range(5))
    (folder / "labels.txt").write_bytes(labels.encode("utf-8"))
    path = folder / "card.toml"
    path.write_text(text, encoding="utf-8")
    return path


def tiny_card(folder: Path) -> Card:
    """Return the card of a model of two blocks and some 2,600 parameters."""
    return load_card(write_card(folder))


def random_arrays(card: Card, seed: int = 0) -> Arrays:
    """Return the card's arrays, all different, small enough for logits of the order of 1."""
    random = np.random.default_rng(seed)
    return {
        name: (0.3 * random.standard_normal(shape) + name.endswith("/scale")).astype(np.float32)
        for name, shape in layout(card.model).items()
    }


def save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write arrays as ``numpy.savez`` does, stored."""
    values: dict[str, Any] = dict(arrays)
    np.savez(path, **values)
    return path


def npy(
    shape: str,
    data: bytes,
    *,
    descr: str = "'<f4'",
    order: str = "False",
    version: bytes = b"\1\0",
    length: Optional[int] = None,
) -> bytes:
    """Return a .npy file whose header says whatever it is told to."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode("latin-1")
    width = "<H" if version == b"\1\0" else "<L"
    size = struct.pack(width, len(text) if length is None else length)
    return b"\x93NUMPY" + version + size + text + data


def plain_npy(array: NDArray[np.float32]) -> bytes:
    """Return a right .npy file of a float32 array."""
    return npy(repr(tuple(int(size) for size in array.shape)), array.tobytes())


class Entry(NamedTuple):
    """A member to write; None takes what is true of ``data``.

    ``size``, ``crc``, ``flags`` and ``method`` go to both headers; ``local_*`` to the local one
    only; ``offset`` to the directory. ``stored`` is what is written in place of ``data``.
    """

    name: str
    data: bytes
    method: int = 0
    flags: int = 0
    crc: Optional[int] = None
    size: Optional[int] = None
    stored: Optional[bytes] = None
    stored_size: Optional[int] = None
    offset: Optional[int] = None
    local_name: Optional[str] = None
    local_size: Optional[int] = None


def deflate(data: bytes) -> bytes:
    """Return a raw deflate stream, as zip method 8 holds it."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def archive(
    entries: Sequence[Entry], *, count: Optional[int] = None, comment: bytes = b""
) -> bytes:
    """Return a zip of ``entries`` in this order."""
    body = b""
    directory = b""
    for entry in entries:
        offset = len(body) if entry.offset is None else entry.offset
        stored = entry.stored
        if stored is None:
            stored = deflate(entry.data) if entry.method == 8 else entry.data
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        stored_size = len(stored) if entry.stored_size is None else entry.stored_size
        name = entry.name.encode("utf-8")
        local_name = name if entry.local_name is None else entry.local_name.encode("utf-8")
        local_size = size if entry.local_size is None else entry.local_size
        fixed = (20, entry.flags, entry.method, 0, 0x21, crc, stored_size)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *fixed, local_size, len(local_name), 0)
        body += local_name + stored
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 20, *fixed, size, len(name), 0, 0, 0, 0, 0, offset
        )
        directory += name
    total = len(entries) if count is None else count
    end = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, total, total, len(directory), len(body), len(comment)
    )
    return body + directory + end + comment


def entries_of(arrays: Mapping[str, NDArray[Any]], method: int = 0) -> list[Entry]:
    """Return the right entries of a checkpoint's arrays."""
    return [Entry(f"{name}.npy", plain_npy(array), method) for name, array in arrays.items()]
