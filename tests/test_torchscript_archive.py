"""A TorchScript archive holds a traced Vision Transformer, and can be read in one way only."""

from __future__ import annotations

import io
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bundles import copy_bundle, document, put, refused
from tests.support.fuzz_torchscript import CHANGES
from tests.support.npz import Entry, archive
from tests.support.torch_pickle import Module, Tensor, opcodes, read, write
from vitaie.manifests.errors import BundleError
from vitaie.runtime import _torchscript_archive
from vitaie.runtime._torchscript_archive import check_archive, tensor_places

UNREAD = (4, 5, 6, 7, 36, 37, 38, 39, 40, 41)
"""Bytes of a directory entry that mean nothing to a reader: versions and attributes."""

BLOCK = "model/code/__torch__/timm/models/vision_transformer.py"


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> bytes:
    return (small_bundle / "model.ts").read_bytes()


@pytest.fixture(scope="module")
def entries(model: bytes) -> list[Entry]:
    """The archive's members, to be written again with one of them changed."""
    with zipfile.ZipFile(io.BytesIO(model)) as source:
        return [Entry(name, source.read(name)) for name in source.namelist()]


def judged(data: bytes) -> str:
    """Return what check_archive finds, or nothing."""
    try:
        check_archive(memoryview(data), "model.ts")
    except BundleError as error:
        found = error
    else:
        return ""
    assert (found.code, found.exit_code) == ("E_TORCHSCRIPT_UNSAFE", 1)
    assert str(found).isprintable()
    return str(found)


def with_member(entries: Sequence[Entry], name: str, data: bytes) -> bytes:
    """Return the archive with this member's bytes replaced."""
    assert name in [entry.name for entry in entries]
    return archive(
        [entry._replace(data=data) if entry.name == name else entry for entry in entries]
    )


def test_the_builders_archive_is_accepted(model: bytes) -> None:
    assert judged(model) == ""


def test_the_archive_written_again_is_accepted(entries: list[Entry]) -> None:
    assert judged(archive(entries)) == ""


def test_the_places_of_the_tensors_are_the_weights_table(model: bytes, small_bundle: Path) -> None:
    rows = document(small_bundle)["weights"]
    table = {(row["offset"], row["length"]) for row in rows}
    assert tensor_places(memoryview(model), "model.ts") == table


# What is no such archive at all


def test_a_pickle_a_tar_and_garbage_are_refused(model: bytes) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("model"))
    for data in (b"", b"PK\5\6", pickle.dumps(print), tar.getvalue(), bytes(1000), model[:-1]):
        assert "not a zip archive" in judged(data)


def test_an_empty_archive_lacks_what_torch_needs_but_holds_nothing_unsafe() -> None:
    assert judged(archive([])) == ""


@pytest.mark.parametrize("cut", [1, 21, 22, 23, 100, 1000, 20_000])
def test_an_archive_cut_at_either_end_is_refused(model: bytes, cut: int) -> None:
    assert judged(model[:-cut])
    assert judged(model[cut:])


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused(data: bytes) -> None:
    assert judged(data)


# One way to read the zip


def test_bytes_before_after_or_between_members_are_refused(model: bytes) -> None:
    directory = int.from_bytes(model[-6:-2], "little")
    assert judged(b"x" + model)
    assert judged(model + b"x")
    assert judged(model + model)
    assert judged(model[:directory] + b"x" + model[directory:])
    assert judged(model[:-22] + b"x" + model[-22:])


@pytest.mark.parametrize("comment", [b"x", b"PK\5\6" + bytes(18)])
def test_a_comment_is_refused(entries: list[Entry], comment: bytes) -> None:
    assert judged(archive(entries, comment=comment))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_directory_of_another_length_than_its_count_is_refused(
    entries: list[Entry], change: int
) -> None:
    assert judged(archive(entries, count=len(entries) + change))


@pytest.mark.parametrize(
    "change",
    [
        {"method": 8},
        {"flags": 1},
        {"flags": 8},
        {"flags": 0x800},
        {"local_name": "model/data/1"},
        {"local_name": "model/data/00"},
        {"local_size": 1},
        {"stored_size": 1},
        {"size": 1},
        {"offset": 1},
        {"offset": 2**31},
    ],
    ids=str,
)
def test_a_member_that_two_readers_could_read_differently_is_refused(
    entries: list[Entry], change: dict[str, Any]
) -> None:
    assert entries[0].name == "model/data/0"
    assert "model/data/0" in judged(archive([entries[0]._replace(**change), *entries[1:]]))


def test_a_name_twice_is_refused_even_in_another_case(entries: list[Entry]) -> None:
    assert "twice" in judged(archive([*entries, entries[-1]]))
    code = next(entry for entry in entries if entry.name.endswith(".py"))
    upper = code._replace(name=code.name.replace("code/__torch__/t", "code/__torch__/T"))
    assert "twice" in judged(archive([*entries, upper]))


def test_members_in_another_order_than_the_directory_are_refused(entries: list[Entry]) -> None:
    one, two = entries[:2]
    start = 30 + len(one.name) + len(one.data)
    swapped = archive([two._replace(offset=start), one._replace(offset=0)])
    assert judged(swapped)


@pytest.mark.parametrize(
    "extra", [b"FB\1\0\0", b"FB\2\0Z", b"FB\0\0Z", b"UP\0\0", b"\1\0\0\0", b"F"]
)
def test_an_extra_field_that_is_not_padding_is_refused(model: bytes, extra: bytes) -> None:
    """An extra field can give other sizes and names (zip64, Unicode path)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        info = zipfile.ZipInfo("model/version")
        file.writestr(info, b"3")
    data = bytearray(out.getvalue())
    directory = data.index(b"PK\1\2")
    local = data[:28] + len(extra).to_bytes(2, "little") + data[30:43] + extra + data[43:directory]
    data[-6:-2] = (directory + len(extra)).to_bytes(4, "little")
    assert judged(out.getvalue()) == ""
    assert "model/version" in judged(bytes(local + data[directory:]))


@pytest.mark.parametrize(
    "name",
    [
        "model/../evil",
        "model/code/__torch__/../../evil.py",
        "/model/data/0",
        "other/data/0",
        "model/extra/producer_info.json",
        "model/bytecode.pkl",
        "model/attributes.pkl",
        "model/code/evil.py",
        "model/code/__torch__/evil.pyc",
        "model/code/__torch__/evil.py.debug_pkl",
        "model/code/__torch__/a b.py",
        "model/data/0\n",
        "model/data/-1",
        "model/",
        "",
    ],
)
def test_a_member_of_another_name_is_refused(entries: list[Entry], name: str) -> None:
    assert "unexpected member" in judged(archive([*entries, Entry(name, b"")]))


# Code

HOSTILE_LINES = [
    "    annotate = x._reshape_alias",
    "    x1 = x._reshape_alias",
    "    getattr = torch",
    "    int = x",
    "    while -1:",
    "    x1 = " + "(" * 100 + "x" + ")" * 100,
    "    x1 = " + "- " * 100 + "1",
    '    x1 = torch.save(x, "canary")',
    '    x1 = torch.save (x, "canary")',
    '    x1 = torch. save(x, "canary")',
    '    x1 = torch .save(x, "canary")',
    '    x1 = torch.\\\nsave(x, "canary")',
    '    x1 = (torch\n.save)(x, "canary")',
    '    x1 = torch.from_file("canary")',
    "    x1 = torch.as_strided(x, [9], [9])",
    "    x1 = torch.set_(x, x)",
    '    x1 = torch.load("canary")',
    "    x1 = torch._foo.add(x)",
    "    x1 = torch.add.save(x)",
    '    x1 = ops.aten.save(x, "canary")',
    "    x1 = ops.prim.Print(x)",
    "    x1 = ops.my.evil(x)",
    "    t = torch",
    '    t = torch\n    u = t.save(x, "canary")',
    "    o = ops.aten",
    "    f = torch.save",
    "    f = torch.add",
    "    f = ops.prim.NumToTensor",
    '    x1 = getattr(torch, "save")(x, "canary")',
    '    x1 = getattr(x, "save")("canary")',
    '    x1 = [x.save]("canary")',
    '    x1 = (x).save("canary")',
    '    x1 = x.save("canary")',
    "    x1 = x.forward(x)",
    "    x1 = (self.norm).__setstate__(x)",
    "    x1 = fork(x)",
    "    x1 = awaitable(x)",
    "    x1 = print(x)",
    "    x1 = rpc_sync(x)",
    "    x1 = __torch__.torch.classes.evil.Evil(x)",
    "    x1 = __torch__.timm.evil(x)",
    "    x1 : __torch__.torch.classes.evil.Evil = x",
    "    x1 : __torch__ = x",
    "    while True:\n      x1 = x",
    "    for i in x:\n      x1 = x",
    "    if bool(x):\n      x1 = x",
    "    with x as y:\n      x1 = x",
    "    import os",
    "    raise x",
    "    assert x",
    "    x1 = 'torch'",
    "    x1 = x  # a comment",
    "    x1 = x; x2 = x",
    "    x1 = {}",
    '    x1 = "a b"',
    '    x1 = "\\x00"',
    "    x1 = x @ x",
    "    x1 = é",
    "    x1 = x\r",
    "    x1 = x\0",
    '    x1 = """x"""(x)',
    "  def __setstate__(self: int,\n    x: Tensor) -> Tensor:",
    "  def __getstate__(self: int) -> Tensor:",
    "  def evil(self: int) -> Tensor:",
    "  def forward(x: int) -> Tensor:",
    "class Evil(NamedTuple):",
    "class Evil(Enum):",
    "class Evil:",
    "  __constants__ = []",
    "  __forward_hooks__ = []",
    '  __annotations__["__setstate__"] = int',
]


@pytest.mark.parametrize("line", HOSTILE_LINES)
def test_code_that_no_trace_has_is_refused(entries: list[Entry], line: str) -> None:
    code = next(entry.data for entry in entries if entry.name == BLOCK)
    assert BLOCK in judged(with_member(entries, BLOCK, code + line.encode("utf-8") + b"\n"))


HARMLESS_LINES = [
    "    x1 = torch.add(x, x)",
    "    x1 = torch.layer_norm(x, [32], x, x, 9.9999999999999995e-07)",
    "    x1 = (x).forward1(x, )",
    '    x1 = torch.gelu(x, approximate="none")',
    "    x1 = [int(x), -1, -1]",
    "    x1 = annotate(List[int], [])",
    "    return (x, x1)",
]


@pytest.mark.parametrize("line", HARMLESS_LINES)
def test_code_that_traces_have_is_accepted(entries: list[Entry], line: str) -> None:
    code = next(entry.data for entry in entries if entry.name == BLOCK)
    assert judged(with_member(entries, BLOCK, code + line.encode("utf-8") + b"\n")) == ""


CLASS = """\
class Block(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
"""
"""How the class begins that each of these spoils."""


@pytest.mark.parametrize(
    "declared",
    [
        '  __parameters__ = ["training", ]',
        '  __buffers__ = ["weight", ]',
        "  __parameters__ = [x, ]",
        "  __parameters__ = __torch__.x.y",
        "  training : bool",
        '  __annotations__["training"] = bool',
        "  weight : Tensor",
        "  weight : int",
        "  weight : List[Tensor]",
        "  weight : Optional[Tensor]",
        "  weight : Optional[\n    bool]",
        "  weight: bool",
        "  weight = bool",
        "   weight : bool",
        "    weight : bool",
        " weight : bool",
        "weight : bool",
        "",
        "  def forward1(self: __torch__.x.Linear) -> NoneType:\n    return None",
        "  def forward1(self: Block) -> NoneType:\n    return None",
        "class Block(Module):",
        "class Other(Module):",
    ],
)
def test_a_class_declared_as_torch_does_not_or_as_the_modules_are_not_is_refused(
    entries: list[Entry], declared: str
) -> None:
    code = next(entry.data for entry in entries if entry.name == BLOCK).decode("ascii")
    assert code.count(CLASS) == 1
    assert judged(with_member(entries, BLOCK, code.replace(CLASS, CLASS + "").encode())) == ""
    changed = code.replace(CLASS, f"{CLASS}{declared}\n").encode("ascii")
    assert judged(with_member(entries, BLOCK, changed))


def test_code_outside_of_classes_is_refused(entries: list[Entry]) -> None:
    code = next(entry.data for entry in entries if entry.name == BLOCK)
    for line in (b"    x = y\n", b"  weight : Tensor\n", b"x = y\n"):
        assert BLOCK in judged(with_member(entries, BLOCK, line + code))


def test_a_class_that_is_of_no_module_is_refused(entries: list[Entry]) -> None:
    """A long chain of classes, each an attribute of the last, ends the process in torch."""
    name = "model/code/__torch__/chain.py"
    links = [
        f"class C{number}(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        f"  next : __torch__.chain.C{number + 1}\n"
        for number in range(5000)
    ]
    chain = Entry(name, "".join(links).encode("ascii"))
    assert "no module of __torch__.chain.C0" in judged(archive([*entries, chain]))


def test_code_of_unlikely_length_is_refused(
    entries: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_torchscript_archive, "_MAX_TEXT", 100)
    assert "bytes" in judged(archive(entries))


# Pickles


class _Call:
    def __init__(self, function: Any, *arguments: object) -> None:
        self.how = (function, arguments)

    def __reduce__(self) -> Any:
        return self.how


def with_modules(entries: Sequence[Entry], change: Callable[[Module], object]) -> bytes:
    """Return the archive with its modules changed."""
    name = "model/data.pkl"
    tree = read(next(entry.data for entry in entries if entry.name == name))
    change(tree)
    return with_member(entries, name, write(tree))


def with_tensor(
    entries: Sequence[Entry],
    offset: int,
    shape: Sequence[int],
    strides: Sequence[int],
    *,
    elements: int,
    key: str = "0",
) -> bytes:
    """Return the archive with a tensor in place of its first, in the first one's storage."""
    storage = ("storage", "FloatStorage", key, "cpu", elements)

    def change(tree: Module) -> None:
        tree.state["cls_token"] = Tensor(storage, offset, tuple(shape), tuple(strides))

    return with_modules(entries, change)


@pytest.fixture(scope="module")
def elements(entries: list[Entry]) -> int:
    return len(entries[0].data) // 4


def test_a_tensor_within_its_bytes_is_accepted(entries: list[Entry], elements: int) -> None:
    for offset, shape, strides in (
        (0, [elements], [1]),
        (1, [elements - 1], [1]),
        (0, [2, elements // 2], [elements // 2, 1]),
        (0, [2, 2, 2], [0, 0, 0]),
        (elements, [0], [1]),
        (0, [], []),
    ):
        assert judged(with_tensor(entries, offset, shape, strides, elements=elements)) == ""


@pytest.mark.parametrize("past", [1, 2**30, 2**62])
def test_a_tensor_that_reaches_past_its_bytes_is_refused(
    entries: list[Entry], elements: int, past: int
) -> None:
    """PyTorch would read the memory behind it."""
    for offset, shape, strides in (
        (0, [elements + past], [1]),
        (past, [elements], [1]),
        (0, [2, elements], [past, 1]),
        (-past, [1], [1]),
        (0, [-past], [1]),
        (elements - 1, [2], [-past]),
        (0, [1, 1], [1]),
        (elements + past, [0], [1]),
        (0, [elements + past], [0]),
        (0, [0, past + 1, elements], [0, 0, 0]),
        (0, [past] * 100, [0] * 100),
    ):
        data = with_tensor(entries, offset, shape, strides, elements=elements)
        assert "model/data.pkl" in judged(data)
    for count in (elements + past, 0, -elements):
        assert "model/data.pkl" in judged(with_tensor(entries, 0, [1], [1], elements=count))
    data = with_tensor(entries, 0, [1], [1], elements=elements, key="no such")
    assert "model/data.pkl" in judged(data)


@pytest.mark.parametrize("member", ["model/data.pkl", "model/constants.pkl"])
def test_a_pickle_that_calls_something_is_refused_and_not_called(
    entries: list[Entry], member: str, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for call in (_Call(canary.touch), _Call(exec, f"open({str(canary)!r}, 'w')")):
            data = pickle.dumps(call, protocol)
            assert member in judged(with_member(entries, member, data))
    assert not canary.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\2",
        b"garbage",
        b"\x80\2cos\nsystem\nX\2\0\0\0id\x85R.",
        b"\x80\2c__torch__.torch.classes.evil\nEvil\n.",
        b"\x80\2c__torch__.torch\nclasses\n.",
        b"\x80\2ctorch\njit\n.",
        b"\x80\2ctorch.jit._pickle\nrestore_type_tag\n.",
        b"\x80\2ctorch._utils\n_rebuild_sparse_tensor\n.",
        b"\x80\2X\xff\xff\xff\xffx.",
        b"\x80\2K\1Q.",
        b"\x80\2]Q.",
        b"Pstorage\n.",
        b"\x80\2" + b"(" * 100_000,
        b"\x80\2h\7.",
        b"\x80\xff.",
        b"\x80\4N.",
        b"\x80\2N",
        b"\x80\2NN.",
        b"\x80\2(N.",
        b"\x80\2N..",
        b"\x80\2K\1K\2K\3K\4\x87.",
        b"\x80\2K\1\x85\x85\x85.",
        b"\x80\2X\1\0\0\0\xff.",
        b"\x80\2X\1\0\0\0.",
        b"\x80\2Nq\1.",
        b"\x80\2Nr\xff\xff\xff\xff.",
        b"\x80\2Nq\0h\0\x86.",
        b"\x80\2)q\0h\0\x86.",
        b"\x80\2\x8a\xff" + b"\xff" * 255 + b".",
    ],
)
def test_a_pickle_that_names_what_traces_do_not_is_refused(
    entries: list[Entry], data: bytes
) -> None:
    assert "model/data.pkl" in judged(with_member(entries, "model/data.pkl", data))


@pytest.mark.parametrize("member", ["model/data.pkl", "model/constants.pkl"])
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (b")", b"\x85"),
        (b"", b"("),
        (b"(" * 200_000, b"t"),
        (b"", b"]"),
        (b"]", b"a"),
        (b"}", b"X\1\0\0\0k"),
        (b"", b"c__torch__.x\nX\n)\x81"),
        (b"", b"c__torch__.x\nX\n)\x81}(X\1\0\0\0k"),
    ],
)
def test_nesting_ends_no_process(
    entries: list[Entry], member: str, begin: bytes, end: bytes
) -> None:
    """A hash, a comparison or PyTorch's destructor of the whole would overflow the stack."""
    nested = begin + end * (200_000 // len(end))
    for data in (nested, nested + b"N.", b"}" + nested + b"Ns.", b"}(" + nested + b"Nu."):
        assert member in judged(with_member(entries, member, b"\x80\2" + data))


def test_modules_nested_deeper_than_a_models_are_refused(entries: list[Entry]) -> None:
    name = "model/code/__torch__/chain.py"
    links = [
        f"class C{number}(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        + (f"  next : __torch__.chain.C{number + 1}\n" if number < 40 else "")
        for number in range(41)
    ]
    modules = Module("__torch__.chain", "C40")
    for number in reversed(range(40)):
        modules = Module("__torch__.chain", f"C{number}", {"next": modules})
    whole = [entry for entry in entries if "/code/" not in entry.name]
    code = Entry(name, "".join(links).encode("ascii"))
    assert "nested deeper" in judged(with_member([*whole, code], "model/data.pkl", write(modules)))


@pytest.mark.parametrize("change", CHANGES)
def test_modules_that_the_code_does_not_declare_are_refused(
    entries: list[Entry], change: Callable[[Module, random.Random], object]
) -> None:
    """PyTorch would take one thing for another, and read memory that is neither."""
    original = read(next(entry.data for entry in entries if entry.name == "model/data.pkl"))
    for seed in range(10):
        changed: list[Module] = []

        def spoil(tree: Module, seed: int = seed, changed: list[Module] = changed) -> None:
            change(tree, random.Random(seed))
            changed.append(tree)

        verdict = judged(with_modules(entries, spoil))
        # As dictionaries, so that another order of attributes is the same.
        assert (verdict == "") == (changed == [original]), verdict
        assert verdict == "" or "model/data.pkl" in verdict


def test_a_module_in_two_places_is_refused(entries: list[Entry]) -> None:
    """Sixteen levels of two each are 65,536 modules to PyTorch, from a kilobyte."""
    child = b"c__torch__.x\nX\n)\x81}b"
    parent = b"c__torch__.x\nX\n)\x81}(" + opcodes("a") + child + b"q\0" + opcodes("b") + b"h\0ub"
    data = with_member(entries, "model/data.pkl", b"\x80\2" + parent + b".")
    assert "a Module in two places" in judged(data)


def test_an_attribute_twice_is_refused(entries: list[Entry]) -> None:
    def twice(tree: Module) -> None:
        norm = tree.state["norm"]
        pairs = b"".join(opcodes(key) + opcodes(value) for key, value in norm.state.items())
        new = f"c{norm.module}\n{norm.name}\n)".encode("ascii") + b"\x81"
        tree.state["norm"] = new + b"}(" + pairs + opcodes("training") + b"Nub"

    assert "name of its own" in judged(with_modules(entries, twice))


@pytest.mark.parametrize(
    "value", [None, True, 1, "text", (), Module("__torch__.x", "X"), (None,), ((),)], ids=repr
)
def test_what_is_no_module_and_no_constants_is_refused(entries: list[Entry], value: Any) -> None:
    data = write(value)
    assert "model/data.pkl" in judged(with_member(entries, "model/data.pkl", data))
    if value != ():
        assert "model/constants.pkl" in judged(with_member(entries, "model/constants.pkl", data))


# In a bundle


def test_the_default_engine_takes_no_weights_from_a_doubtful_archive(
    small_bundle: Path, tmp_path: Path, entries: list[Entry]
) -> None:
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    put(bundle, "model.ts", archive(entries, comment=b"x" * 30_000))
    refused(bundle, "E_TORCHSCRIPT_UNSAFE")


@pytest.mark.parametrize("place", range(22))
def test_an_end_record_that_says_otherwise_is_refused(model: bytes, place: int) -> None:
    for bit in range(8):
        changed = bytearray(model)
        changed[len(model) - 22 + place] ^= 1 << bit
        assert judged(bytes(changed))


@pytest.mark.parametrize("place", [place for place in range(46) if place not in UNREAD])
def test_a_directory_entry_that_says_otherwise_is_refused(model: bytes, place: int) -> None:
    directory = int.from_bytes(model[-6:-2], "little")
    for bit in range(8):
        changed = bytearray(model)
        changed[directory + place] ^= 1 << bit
        assert judged(bytes(changed))
