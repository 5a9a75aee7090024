"""What a bundle's TorchScript archive may hold: a traced Vision Transformer and nothing else.

Loading TorchScript runs ``__setstate__``, running it runs any operator (``torch.save`` writes
files), and PyTorch takes a tensor's size from the pickle without asking how many bytes there
are. So everything is checked against what the builder writes, not against a list of evils: the
zip's layout (one way to read it), the code (word by word), the pickles (name by name, each
tensor within its bytes). ``docs/bundle-format.md`` states the rules for other implementations.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from vitaie.manifests.errors import BundleError
from vitaie.runtime._torchscript_classes import (
    ClassError,
    Classes,
    check_constants,
    check_module,
    read_classes,
)
from vitaie.runtime._torchscript_pickle import PickleError, is_own_class, read_pickle

_MEMBER = re.compile(
    r"model/(data\.pkl|constants\.pkl|version|byteorder|data/[0-9]+|constants/[0-9]+"
    r"|\.data/version|code/__torch__(/[A-Za-z_][A-Za-z0-9_]*)+\.py)\Z"
)
_PADDING = re.compile(rb"(FB(?P<length>..)(?P<fill>Z*))?\Z", re.DOTALL)
_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ZIP64 = 2**16 - 1
_MORE = "a zip archive with more or less in it than its members"
_MAX_TEXT = 2**20
"""Bytes of one member that is read: code or a pickle."""

# Operators without side effects that a Vision Transformer's trace is made of.
_OPERATORS = re.compile(
    "_convolution|add|addmm|bmm|cat|chunk|contiguous|div|dropout|expand|flatten|floor_divide|gelu"
    "|layer_norm|linear|matmul|mul|numel|permute|reshape|select|size|slice|softmax|split|squeeze"
    "|sub|t|transpose|unbind|unsqueeze|view"
)
_CALLABLE = frozenset({"int", "getattr", "annotate", "return", "ops.prim.NumToTensor"})
_ATTRIBUTE = re.compile(r"(self\.[A-Za-z_]\w*|CONSTANTS\.c\d+)\Z")
_BOUND = frozenset({"torch", "ops", "getattr", "annotate"})
_KEYWORDS = re.compile(
    r"\b(while|for|if|else|with|try|raise|assert|lambda|import|global|del|break|continue)\b"
)
_MAX_NESTING = 32
_DUNDERS = frozenset({"__torch__", "__parameters__", "__buffers__", "__annotations__"})
_CODE = re.compile(r'[A-Za-z0-9_\n "(),.:=>\[\]-]*\Z')
_DEFINITION = re.compile(
    r"^(class [A-Za-z_]\w*\(Module\):$|  def forward\d*\(self: __torch__[\w.]+)", re.M
)
_STRING = re.compile(r'"[A-Za-z0-9_.]*"')
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_DUNDER = re.compile(r"__[a-z]\w*?__")


class _Member(NamedTuple):
    name: str
    start: int
    size: int


class _UnsafeError(Exception):
    """A rule that does not hold: the member, and what it holds."""


def check_archive(data: memoryview, where: str) -> None:
    """See that a TorchScript archive holds only what the builder puts there.

    Raises:
        BundleError: The zip could be read in two ways, or a member, an operator, a type or a
            tensor is not one of a traced Vision Transformer.
    """
    with _refusal(where):
        members = list(_members(data))
        texts = {
            member.name: _text(data, member)
            for member in members
            if member.name.endswith((".py", ".pkl"))
        }
        classes: dict[str, Mapping[str, str]] = {}
        statements: dict[str, str] = {}  # most modules' are those of another: judged once
        for name, text in texts.items():
            if name.endswith(".py"):
                code = _decode(name, text)
                classes.update(_declared(name, code))
                statements.setdefault(_STRING.sub('""', _DEFINITION.sub("", code)), name)
        for code, name in statements.items():
            _check_statements(name, code)
        for name, text in texts.items():
            if name.endswith(".pkl"):
                _check_pickle(name, text, members, classes)


def _text(data: memoryview, member: _Member) -> bytes:
    if member.size > _MAX_TEXT:
        raise _UnsafeError(member.name, f"{member.size} bytes")
    return bytes(data[member.start : member.start + member.size])


def tensor_places(data: memoryview, where: str) -> set[tuple[int, int]]:
    """Return the (offset, length) in bytes of each tensor of a TorchScript archive.

    Raises:
        BundleError: The zip could be read in two ways.
    """
    with _refusal(where):
        return {
            (member.start, member.size)
            for member in _members(data)
            if member.name.startswith("model/data/")
        }


@contextmanager
def _refusal(where: str) -> Generator[None, None, None]:
    try:
        yield
    except _UnsafeError as found:
        member, got = found.args
        raise BundleError("E_TORCHSCRIPT_UNSAFE", where, field=member, got=got) from None


def _members(data: memoryview) -> Iterator[_Member]:
    """Yield the members of a zip that every reader reads alike, or refuse it.

    The end record is last, without comment; the directory ends where it begins; the members
    fill the file up to the directory, in its order, stored, and say of themselves what it says.
    (APPNOTE.TXT 6.3.3, sections 4.3.7, 4.3.12 and 4.3.16.)
    """
    end = len(data) - _END.size
    if end < 0:
        raise _UnsafeError("", "not a zip archive")
    signature, *disks, here, count, length, directory, comment = _END.unpack_from(data, end)
    if signature != b"PK\5\6" or disks != [0, 0] or here != count or comment:
        raise _UnsafeError("", "not a zip archive, or one of several parts or with a comment")
    if directory + length != end or count == _ZIP64:
        raise _UnsafeError("", _MORE)
    position, entry = 0, directory
    seen: set[str] = set()
    for _ in range(count):
        member, entry = _member(data[:end], position, entry)
        if member.name.lower() in seen:  # PyTorch's reader finds members without regard to case
            raise _UnsafeError(member.name, "the same name twice")
        seen.add(member.name.lower())
        position = member.start + member.size
        yield member
    if (position, entry) != (directory, end):
        raise _UnsafeError("", _MORE)


def _member(data: memoryview, position: int, entry: int) -> tuple[_Member, int]:
    """Return the member at ``position``, whose directory entry is at ``entry``, and the next."""
    try:
        fields, local = _ENTRY.unpack_from(data, entry), _LOCAL.unpack_from(data, position)
    except struct.error:
        raise _UnsafeError("", "a zip archive that is cut off") from None
    name_length, extra_length, comment_length, disk = fields[10:14]
    flags, method, _, _, _, packed, size = fields[3:10]
    name_end = entry + _ENTRY.size + name_length
    local_name_end = position + _LOCAL.size + local[9]
    raw_name = bytes(data[entry + _ENTRY.size : name_end])
    start = local_name_end + local[10]
    name = raw_name.decode("latin-1")
    if not _MEMBER.match(name):
        raise _UnsafeError(name, "an unexpected member")
    if flags or method or packed != size:
        raise _UnsafeError(name, "compressed, encrypted or with a data descriptor")
    if (
        fields[0] != b"PK\1\2"
        or local[0] != b"PK\3\4"
        or local[2:9] != fields[3:10]
        or bytes(data[position + _LOCAL.size : local_name_end]) != raw_name
        or comment_length
        or disk
        or fields[16] != position
        or not _is_padding(bytes(data[name_end : name_end + extra_length]))
        or not _is_padding(bytes(data[local_name_end:start]))
    ):
        raise _UnsafeError(name, "not what the zip's directory says")
    return _Member(name, start, size), name_end + extra_length


def _is_padding(extra: bytes) -> bool:
    match = _PADDING.match(extra)
    if match is None:
        return False
    return not extra or int.from_bytes(match["length"], "little") == len(match["fill"])


def _decode(member: str, data: bytes) -> str:
    code = data.decode("latin-1")
    if not _CODE.match(code):
        raise _UnsafeError(member, "a character that traced code does not have")
    for dunder in _DUNDER.findall(code):
        if dunder not in _DUNDERS:
            raise _UnsafeError(member, dunder)
    return code


def _declared(member: str, code: str) -> Classes:
    folders = member[len("model/code/") : -len(".py")]
    try:
        return read_classes(folders.replace("/", "."), code)
    except ClassError as found:
        raise _UnsafeError(member, found) from None


def _check_statements(member: str, code: str) -> None:
    """See that TorchScript source, but for its definitions, is of names and calls that are known.

    Modules call each other and operators without side effects.
    """
    end_of_last = 0
    for match in _NAME.finditer(code):
        name, before = match[0], code[end_of_last : match.start()]
        end_of_last = match.end()
        after = code[end_of_last : end_of_last + 2]
        if before.endswith("."):
            known = re.fullmatch(r"forward\d*", name) is not None and before.endswith(").")
        elif after.startswith("(") or after == " (":
            known = name in _CALLABLE or _is_operator(name)
        elif re.match(r" [A-Za-z0-9_]", after):
            known = name == "return"
        else:
            # A value: a local name, an attribute of self, a class of ours. Any other attribute
            # could be an operator, bound to a name that may be called.
            known = (
                _ATTRIBUTE.match(name) is not None or is_own_class(name)
                if "." in name
                else name not in _BOUND and name != "__torch__"
            )
        if not known:
            raise _UnsafeError(member, name)
    if _KEYWORDS.search(code) or re.search(r"\b(int|forward\d*) *=", code):
        raise _UnsafeError(member, "a statement that traced code does not have")
    if _nesting(code) > _MAX_NESTING:
        raise _UnsafeError(member, f"brackets nested deeper than {_MAX_NESTING}")
    if re.search(r'[\])"] *\(', code):
        raise _UnsafeError(member, "a call of something without a name")


def _nesting(code: str) -> int:
    """Return how deep brackets and signs are nested: torch's parser has no limit of its own."""
    depth = deepest = 0
    for char in re.findall(r"[()\[\]]", code):
        depth += 1 if char in "([" else -1
        deepest = max(deepest, depth)
    signs = max((len(run) for run in re.findall(r"(?:- *\d* *){2,}", code)), default=0)
    return max(deepest, signs)


def _is_operator(name: str) -> bool:
    namespace, _, operator = name.partition(".")
    return namespace == "torch" and _OPERATORS.fullmatch(operator) is not None


def _check_pickle(member: str, data: bytes, members: list[_Member], classes: Classes) -> None:
    """See that a pickle is the modules that the code declares, or the tensors of its constants."""
    folder = member[: -len(".pkl")] + "/"
    storages = {
        each.name[len(folder) :]: each.size for each in members if each.name.startswith(folder)
    }
    try:
        value = read_pickle(data, storages)
        if member == "model/data.pkl":
            check_module(value, classes)
        else:
            check_constants(value)
    except (PickleError, ClassError) as found:
        raise _UnsafeError(member, found) from None
