"""Every way a checkpoint can be wrong gets one line with its code, and no more memory for it."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.npz import (
    Arrays,
    Entry,
    archive,
    deflate,
    entries_of,
    npy,
    plain_npy,
    random_arrays,
    save,
    tiny_card,
)
from vitaie.builder.checkpoint import Checkpoint, check, describe, read_checkpoint
from vitaie.manifests.card import Card, known_cards, load_card
from vitaie.manifests.errors import CheckpointError

_HEAD = "head/bias"
_MEMORY = 4 * 2**20


def read_whole(path: Path, card: Card) -> Arrays:
    """Do all that a build does with a checkpoint, and return its arrays."""
    with read_checkpoint(path) as checkpoint:
        check(checkpoint, card)
        return _read_all(checkpoint)


def _read_all(checkpoint: Checkpoint) -> Arrays:
    arrays: Arrays = {name: checkpoint.array(name) for name in checkpoint.shapes}
    checkpoint.check_unchanged()
    return arrays


def failure(path: Path, card: Card) -> CheckpointError:
    """Return the error of reading ``path``; memory must stay within 4 MiB."""
    known_cards()  # loaded once, and not part of reading
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_whole(path, card)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < _MEMORY
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value


class Hostile(NamedTuple):
    """What is special about a file, its bytes, and how it must be judged."""

    what: str
    content: Callable[[Arrays], bytes]
    code: str
    field: str
    message: str


def _head(member: bytes, **changes: Any) -> Callable[[Arrays], bytes]:
    """Return an archive of the right arrays, its last member's bytes (or records) changed."""

    def content(arrays: Arrays) -> bytes:
        entries = entries_of(arrays)
        return archive([*entries[:-1], Entry(f"{_HEAD}.npy", member, **changes)])

    return content


def _rename(name: str) -> Callable[[Arrays], bytes]:
    def content(arrays: Arrays) -> bytes:
        entries = entries_of(arrays)
        return archive([*entries[:-1], entries[-1]._replace(name=name)])

    return content


def _array(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Arrays], bytes]:
    def content(arrays: Arrays) -> bytes:
        return archive(entries_of({**arrays, name: change(arrays[name])}))

    return content


def _without(name: str) -> Callable[[Arrays], bytes]:
    return lambda arrays: archive(
        entries_of({key: array for key, array in arrays.items() if key != name})
    )


def _with(name: str, array: NDArray[Any]) -> Callable[[Arrays], bytes]:
    return lambda arrays: archive(entries_of({**arrays, name: array}))


def _numpy(array: NDArray[Any]) -> Callable[[Arrays], bytes]:
    """Return an archive whose last array is written by NumPy itself, pickle allowed."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return _head(file.getvalue())


def _only(data: bytes) -> Callable[[Arrays], bytes]:
    """Return this content whatever the right arrays are."""
    return lambda arrays: data


def _zip(**changes: Any) -> Callable[[Arrays], bytes]:
    return lambda arrays: archive(entries_of(arrays), **changes)


def _longer(arrays: Arrays) -> bytes:
    return archive(entries_of(arrays)) + b"\0"


def _first_only(arrays: Arrays) -> bytes:
    return archive(entries_of(arrays)[:1])


def _twice(arrays: Arrays) -> bytes:
    entries = entries_of(arrays)
    return archive([*entries, Entry(f"{_HEAD}.npy", plain_npy(np.ones(5, np.float32)))])


def _overlapping(arrays: Arrays) -> bytes:
    """The last member is said to begin inside the one before it."""
    entries = entries_of(arrays)
    inside = len(archive(entries[:-1])) // 2
    return archive([*entries[:-1], entries[-1]._replace(offset=inside)])


def _same_place(arrays: Arrays) -> bytes:
    entries = entries_of(arrays)
    return archive([entries[0], entries[1]._replace(offset=0), *entries[2:]])


def _reaching_over(arrays: Arrays) -> bytes:
    """The first member is said to be so long that it holds the second one."""
    first, *rest = entries_of(arrays)
    size = len(first.data) + 200
    return archive([first._replace(size=size, stored_size=size), *rest])


def _pytorch(_: Arrays) -> bytes:
    return archive([Entry("archive/data.pkl", b"\x80\x02}q\x00."), Entry("archive/version", b"3")])


def _npy_only(_: Arrays) -> bytes:
    return plain_npy(np.ones(5, np.float32))


_BITS = np.ones(5, np.float32).tobytes()
_RIGHT = npy("(5,)", _BITS)
_OBJECT = np.array([{"a": 1}], dtype=object)
_PAIR = np.zeros(5, dtype=[("a", "<f4"), ("b", "<i4")])

NOT_NPZ = "E_CHECKPOINT_NOT_NPZ"
ARCHIVE = "E_CHECKPOINT_ARCHIVE"
MEMBER = "E_CHECKPOINT_MEMBER"
DTYPE = "E_CHECKPOINT_DTYPE"
KEYS = "E_CHECKPOINT_KEYS"
SHAPE = "E_CHECKPOINT_SHAPE"
VALUES = "E_CHECKPOINT_VALUES"

_QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
_DENSE = "Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"

HOSTILE = [
    Hostile("empty", _only(b""), NOT_NPZ, "", "an empty file). Get it again"),
    Hostile("text", _only(b"weights\n"), NOT_NPZ, "", "weights\\n'). Give the .npz file"),
    Hostile("npy", _npy_only, NOT_NPZ, "", "a single .npy array). numpy.savez"),
    Hostile("pickle", _only(pickle.dumps([1.0])), NOT_NPZ, "", "a pickle). It is never loaded"),
    Hostile("pytorch", _pytorch, MEMBER, "archive/data.pkl", "looks like a PyTorch file"),
    Hostile("object array", _numpy(_OBJECT), DTYPE, _HEAD, "got '|O'"),
    Hostile("not npy", _rename("head/bias.txt"), MEMBER, "head/bias.txt", "ends in .npy"),
    Hostile("no npy inside", _head(b"x" * 148), MEMBER, _HEAD, "begins with b'xxxxxxxx'"),
    Hostile("empty member", _head(b""), MEMBER, _HEAD, "begins with b''"),
    Hostile("name with ..", _rename("../bias.npy"), MEMBER, "../bias.npy", "plain name"),
    Hostile("absolute name", _rename("/head/bias.npy"), MEMBER, "/head/bias.npy", "plain name"),
    Hostile("name with NUL", _rename("head\0.npy"), MEMBER, "head\\x00.npy", "plain name"),
    Hostile("name with escape", _rename("\x1b[2J.npy"), MEMBER, "\\x1b[2J.npy", "plain name"),
    Hostile("name not ASCII", _rename("héad.npy"), MEMBER, "h\ufffd\ufffdad.npy", "plain name"),
    Hostile("empty name", _rename(""), MEMBER, "", "plain name"),
    Hostile("empty zip", _only(archive([])), ARCHIVE, "", "1 to 8192 members"),
    Hostile("duplicate member", _twice, ARCHIVE, _HEAD, "expected each member once"),
    Hostile("shape lies upwards", _head(npy("(6,)", _BITS)), MEMBER, _HEAD, "24 bytes for shape"),
    Hostile("shape lies downwards", _head(npy("(4,)", _BITS)), MEMBER, _HEAD, "16 bytes for"),
    Hostile("negative shape", _head(npy("(-5,)", _BITS)), MEMBER, _HEAD, "got (-5,)"),
    Hostile("zero shape", _head(npy("(0,)", b"")), MEMBER, _HEAD, "got (0,)"),
    Hostile("huge shape", _head(npy("(1" + "0" * 17 + ",)", _BITS)), MEMBER, _HEAD, "bytes for"),
    Hostile(
        "shape of 10^4 digits", _head(npy("(1" + "0" * 9999 + ",)", _BITS)), MEMBER, _HEAD, "("
    ),
    Hostile("wrapping shape", _head(npy("(4294967296, 4294967296,)", b"")), MEMBER, _HEAD, "bytes"),
    Hostile("boolean shape", _head(npy("(True, 5)", _BITS)), MEMBER, _HEAD, "got (True, 5)"),
    Hostile("shape no tuple", _head(npy("(5)", _BITS)), MEMBER, _HEAD, "got (5)"),
    Hostile("shape of code", _head(npy("(exit(),)", _BITS)), MEMBER, _HEAD, "NumPy's header"),
    Hostile("deep nesting", _head(npy("(" * 60000, _BITS)), MEMBER, _HEAD, "NumPy's header"),
    Hostile("|V0", _head(npy("(99999999999,)", b"", descr="'|V0'")), DTYPE, _HEAD, "got '|V0'"),
    Hostile("structured", _numpy(_PAIR), DTYPE, _HEAD, "got [('a', '<f4'), ('b', '<i4')]"),
    Hostile("big-endian", _numpy(np.ones(5, ">f4")), DTYPE, _HEAD, "got '>f4'"),
    Hostile("float16", _numpy(np.ones(5, np.float16)), DTYPE, _HEAD, "got '<f2'"),
    Hostile("float64", _numpy(np.ones(5)), DTYPE, _HEAD, "got '<f8'"),
    Hostile("complex", _numpy(np.ones(5, complex)), DTYPE, _HEAD, "got '<c16'"),
    Hostile(
        "header of 4 GiB",
        _head(npy("(5,)", _BITS, version=b"\2\0", length=2**32 - 1)),
        MEMBER,
        _HEAD,
        "one of 4294967295 bytes",
    ),
    Hostile(
        "header over 64 KiB",
        _head(npy("(5," + " " * 2**16 + ")", _BITS, version=b"\2\0")),
        MEMBER,
        _HEAD,
        "a header inside the member",
    ),
    Hostile("npy version 9", _head(npy("(5,)", _BITS, version=b"\x09\0")), MEMBER, _HEAD, "NUMPY"),
    Hostile(
        "bomb that inflates further",
        _head(_RIGHT, method=8, stored=deflate(_RIGHT + bytes(64 * 2**20))),
        ARCHIVE,
        _HEAD,
        "got more",
    ),
    Hostile(
        "bomb that says its size",
        _head(_RIGHT + bytes(64 * 2**20), method=8),
        MEMBER,
        _HEAD,
        "20 bytes for shape [5]",
    ),
    Hostile(
        "bomb with a header that agrees",
        _head(npy("(16777216,)", bytes(64 * 2**20)), method=8),
        SHAPE,
        _HEAD,
        "got an array [16777216]",
    ),
    Hostile(
        "size beyond what deflate can do",
        _head(_RIGHT, method=8, size=2**31),
        ARCHIVE,
        _HEAD,
        "at most 1032 times",
    ),
    Hostile(
        "deflate stream too short",
        _head(_RIGHT, method=8, stored=deflate(_RIGHT[:-4])),
        ARCHIVE,
        _HEAD,
        "deflate stream of",
    ),
    Hostile(
        "deflate stream with a tail",
        _head(_RIGHT, method=8, stored=deflate(_RIGHT) + b"tail"),
        ARCHIVE,
        _HEAD,
        "deflate stream of",
    ),
    Hostile(
        "no deflate stream",
        _head(_RIGHT, method=8, stored=b"\xff" * 90),
        ARCHIVE,
        _HEAD,
        "a deflate stream",
    ),
    Hostile("overlapping members", _overlapping, ARCHIVE, "", "(expected a member"),
    Hostile("two members in one place", _same_place, ARCHIVE, "", "a member that ends by"),
    Hostile("member over the next", _reaching_over, ARCHIVE, "embedding/kernel", "that ends by"),
    Hostile(
        "member past the end",
        _head(_RIGHT, offset=2**31),
        ARCHIVE,
        _HEAD,
        "a member that ends by",
    ),
    Hostile("encrypted", _head(_RIGHT, flags=1), ARCHIVE, _HEAD, "an encrypted member"),
    Hostile("patched data", _head(_RIGHT, flags=0x20), ARCHIVE, _HEAD, "flags 0x0020"),
    Hostile("lzma", _head(_RIGHT, method=14), ARCHIVE, _HEAD, "compression method 14"),
    Hostile("wrong CRC", _head(_RIGHT, crc=1), ARCHIVE, _HEAD, "expected CRC 00000001"),
    Hostile("other name inside", _head(_RIGHT, local_name="x.npy"), ARCHIVE, _HEAD, "agrees with"),
    Hostile("other size inside", _head(_RIGHT, local_size=1), ARCHIVE, _HEAD, "sizes that agree"),
    Hostile("stored size lies", _head(_RIGHT, size=9), ARCHIVE, _HEAD, "as stored"),
    Hostile(
        "zip64 size without its field",
        _head(_RIGHT, size=2**32 - 1),
        ARCHIVE,
        _HEAD,
        "sizes in a zip64 field",
    ),
    Hostile(
        "more members said than there are",
        _zip(count=99),
        ARCHIVE,
        "",
        "a directory of 99 members",
    ),
    Hostile(
        "fewer members said than there are",
        _zip(count=3),
        ARCHIVE,
        "",
        "a directory of 3 members",
    ),
    Hostile(
        "zip64 end record missing",
        _zip(count=0xFFFF),
        ARCHIVE,
        "",
        "a zip64 end record",
    ),
    Hostile(
        "zip comment",
        _zip(comment=b"x"),
        ARCHIVE,
        "",
        "end record as the last 22 bytes",
    ),
    Hostile(
        "a byte more",
        _longer,
        ARCHIVE,
        "",
        "end record as the last 22 bytes",
    ),
    Hostile("key missing", _without("cls"), KEYS, "cls", "got no such array). The layout is"),
    Hostile("all keys but one missing", _first_only, KEYS, "embedding/bias", ""),
    Hostile(
        "key extra",
        _with("pre_logits/bias", np.ones(8, np.float32)),
        KEYS,
        "pre_logits/bias",
        "expected no such array, got an array [8]). Leave it out",
    ),
    Hostile(
        "key renamed", _rename("head/biases.npy"), KEYS, _HEAD, "none, but an array head/biases"
    ),
    Hostile(
        "kernel transposed",
        _array(_DENSE, np.transpose),
        SHAPE,
        _DENSE,
        "expected an array [8, 12], got an array [12, 8]). The array is transposed",
    ),
    Hostile(
        "wrong heads",
        _array(_QUERY, lambda array: array.reshape(8, 4, 2)),
        SHAPE,
        _QUERY,
        "expected an array [8, 2, 4], got an array [8, 4, 2]",
    ),
    Hostile(
        "other classes",
        _array(_HEAD, lambda array: array[:3]),
        SHAPE,
        _HEAD,
        "A model with 3 classes of its own needs a card",
    ),
    Hostile(
        "NaN weight",
        _array(_DENSE, lambda array: np.where(array == array[2, 3], np.float32("nan"), array)),
        VALUES,
        _DENSE,
        "got nan at [2, 3]",
    ),
    Hostile(
        "infinite weight",
        _array(_HEAD, lambda array: np.where(array == array[4], np.float32("-inf"), array)),
        VALUES,
        _HEAD,
        "got -inf at [4]",
    ),
]


@pytest.mark.parametrize("case", HOSTILE, ids=[case.what for case in HOSTILE])
def test_hostile_checkpoint_gets_its_code_and_place(tmp_path: Path, case: Hostile) -> None:
    card = tiny_card(tmp_path / "card")
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(case.content(random_arrays(card)))
    error = failure(path, card)
    assert error.code == case.code
    assert case.message in str(error)
    if case.field:
        assert error.field == case.field


def test_hostile_checkpoints_differ_from_a_right_one_only_in_what_is_named(tmp_path: Path) -> None:
    card = tiny_card(tmp_path / "card")
    arrays = random_arrays(card)
    for method in (0, 8):
        path = tmp_path / f"right{method}.npz"
        path.write_bytes(archive(entries_of(arrays, method)))
        assert_equal(read_whole(path, card), arrays)


def assert_equal(read: Arrays, arrays: Arrays) -> None:
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_right_shapes_of_another_variant_name_it(tmp_path: Path) -> None:
    tiny = load_card("vit_tiny_patch16_224")
    path = save(tmp_path / "vit_base_patch16_224.npz", random_arrays(tiny))
    with read_checkpoint(path) as checkpoint, pytest.raises(CheckpointError) as caught:
        check(checkpoint, load_card("vit_base_patch16_224"))
    assert caught.value.code == "E_CHECKPOINT_VARIANT"
    assert "expected vit_base_patch16_224, got vit_tiny_patch16_224" in str(caught.value)


def test_arrays_of_no_variant_are_told_how_they_differ_from_the_nearest(tmp_path: Path) -> None:
    tiny = load_card("vit_tiny_patch16_224")
    arrays = random_arrays(tiny)
    arrays["head/kernel"] = arrays["head/kernel"][:, :20]
    arrays["head/bias"] = arrays["head/bias"][:20]
    path = save(tmp_path / "fine_tuned.npz", arrays)
    with pytest.raises(CheckpointError) as caught:
        describe(path)
    assert caught.value.code == "E_CHECKPOINT_UNKNOWN_VARIANT"
    assert caught.value.field == "head/kernel"
    assert "[192, 1000] for vit_tiny_patch16_224" in str(caught.value)
    assert "got an array [192, 20]). A model with 20 classes" in str(caught.value)


def test_describe_reads_the_values_too(tmp_path: Path) -> None:
    card = tiny_card(tmp_path / "card")
    arrays = random_arrays(card)
    arrays["cls"][0, 0, 1] = np.inf
    with pytest.raises(CheckpointError, match=r"E_CHECKPOINT_VALUES.*: cls: .*inf at \[0, 0, 1\]"):
        describe(save(tmp_path / "poisoned.npz", arrays), [card])


def _missing(path: Path) -> None:
    pass


def _folder(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_missing, _folder, os.mkfifo, _dangling, _device])
def test_what_is_no_readable_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "checkpoint.npz"
    make(path)
    assert failure(path, tiny_card(tmp_path / "card")).code == "E_CHECKPOINT_UNREADABLE"


def test_name_with_nul_is_refused() -> None:
    with pytest.raises(CheckpointError, match="E_CHECKPOINT_UNREADABLE"):
        read_checkpoint("a\0b.npz")


@pytest.mark.parametrize("method", [0, 8], ids=["stored", "deflated"])
def test_truncated_anywhere_is_refused(tmp_path: Path, method: int) -> None:
    card = tiny_card(tmp_path / "card")
    data = archive(entries_of(random_arrays(card), method))
    boundaries = [at for at in range(len(data)) if data[at : at + 2] == b"PK"]
    cuts = {len(data) * part // 64 for part in range(64)} | {len(data) - 1, 1, 2, 3, 4, 5}
    cuts |= {at + shift for at in boundaries for shift in (-1, 0, 1, 4, 22)}
    path = tmp_path / "checkpoint.npz"
    tried = sorted(cut for cut in cuts if 0 <= cut < len(data))
    assert len(tried) > 200
    for cut in tried:
        path.write_bytes(data[:cut])
        assert failure(path, card).code == (NOT_NPZ if cut < 4 else ARCHIVE), cut


@pytest.mark.parametrize("method", [0, 8], ids=["stored", "deflated"])
def test_flipped_bits_are_an_error_or_change_nothing(tmp_path: Path, method: int) -> None:
    card = tiny_card(tmp_path / "card")
    arrays = random_arrays(card)
    data = archive(entries_of(arrays, method))
    directory = data.index(b"PK\1\2")
    chance = random.Random(5)
    places = list(range(len(data) - 22, len(data)))  # the end record
    places += chance.sample(range(directory, len(data) - 22), 500)
    places += chance.sample(range(directory), 500)
    path = tmp_path / "checkpoint.npz"
    refused = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            assert_equal(read_whole(path, card), arrays)
        except CheckpointError:
            refused += 1
    assert refused > len(places) / 2


def test_directory_beyond_its_bound_is_not_read(tmp_path: Path) -> None:
    """A directory of 64 MiB, as 10^6 members would have, costs no memory."""
    size = 64 * 2**20
    path = tmp_path / "checkpoint.npz"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(4 + size)
        file.seek(4 + size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 60000, 60000, size, 4, 0))
    error = failure(path, tiny_card(tmp_path / "card"))
    assert (error.code, error.got) == (ARCHIVE, f"60000 in {size} bytes of directory")


def test_arrays_beyond_the_total_are_refused_before_one_is_read(tmp_path: Path) -> None:
    """16 GiB said by deflated members whose sizes deflate could reach."""
    size = 2**32 - 2**20
    header = npy(f"({(size - 100) // 4},)", b"")
    full_size = len(header) + (size - 100) // 4 * 4
    stored = deflate(header + bytes(2**16))
    stored += bytes(full_size // 1000 - len(stored))
    entries = [
        Entry(f"a{index}.npy", b"", 8, crc=0, size=full_size, stored=stored) for index in range(5)
    ]
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(archive(entries))
    error = failure(path, tiny_card(tmp_path / "card"))
    assert (error.code, error.field) == (ARCHIVE, "a4")
    assert "at most 17179869184 bytes of arrays" in str(error)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(300)
        file.write(b"\xff" * 4000)


def _shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [_append, _overwrite, _shorten])
def test_file_that_changes_while_it_is_read_is_said_to_change(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    card = tiny_card(tmp_path / "card")
    path = save(tmp_path / "checkpoint.npz", random_arrays(card))
    os.utime(path, ns=(0, 0))
    with read_checkpoint(path) as checkpoint:
        checkpoint.check_unchanged()
        change(path)
        with pytest.raises(CheckpointError, match="E_CHECKPOINT_CHANGED"):
            _read_all(checkpoint)


def test_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    """The open file is what counts, whatever its name stands for later."""
    card = tiny_card(tmp_path / "card")
    arrays = random_arrays(card)
    path = save(tmp_path / "checkpoint.npz", arrays)
    other = save(tmp_path / "other.npz", random_arrays(card, seed=1))
    os.link(path, tmp_path / "kept.npz")
    with read_checkpoint(path) as checkpoint:
        digest = checkpoint.sha256
        os.replace(other, path)
        for name, array in arrays.items():
            np.testing.assert_array_equal(checkpoint.array(name), array, strict=True)
    with read_checkpoint(tmp_path / "kept.npz") as kept:
        assert kept.sha256 == digest


def test_numpy_itself_believes_some_of_these(tmp_path: Path) -> None:
    """The reason for a reader of our own: NumPy takes the last of two members without a word."""
    arrays = random_arrays(tiny_card(tmp_path / "card"))
    path = tmp_path / "twice.npz"
    path.write_bytes(_twice(arrays))
    with np.load(path, allow_pickle=False) as loaded:
        assert loaded[_HEAD].tolist() == [1.0] * 5
    assert zipfile.is_zipfile(path)
