"""The pickles of a TorchScript archive, read with the few opcodes that torch writes, and no other.

Python's unpickler and PyTorch's do not read every stream alike: a memo's index reserves memory in
one of them, deep nesting ends the process in either, and what one calls the other numbers. What
is read here means the same to both: modules of tensors and flags, and tuples of tensors.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, cast

_MAX_DIMENSIONS = 8
_QUALIFIED = re.compile(rb"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
_STORAGES = {
    "torch.BoolStorage": 1,
    "torch.IntStorage": 4,
    "torch.FloatStorage": 4,
    "torch.LongStorage": 8,
    "torch.DoubleStorage": 8,
}
"""Bytes of an element."""


class PickleError(Exception):
    """What a pickle holds and torch writes for no traced module."""


class Tensor(NamedTuple):
    """A tensor whose elements all lie within its storage."""

    shape: tuple[int, ...]


class Module(NamedTuple):
    """An instance of one of the archive's classes, and its attributes."""

    type: str
    attributes: Mapping[str, object]


class _Global(NamedTuple):
    name: str


class _Instance(NamedTuple):
    type: str


class _Attributes(NamedTuple):
    names: tuple[str, ...] = ()
    values: tuple[object, ...] = ()


class _Storage(NamedTuple):
    elements: int


class _Hooks(NamedTuple):
    """Those of a tensor: none."""


class _Mark(NamedTuple):
    """Where the items of a tuple, or the attributes of an instance, begin."""


_SHARED = (str, _Global, _Storage, Tensor)
"""What may stand in two places. Modules may not: two in each of forty levels are a billion."""


def is_own_class(name: str) -> bool:
    """Say whether a type is one of the archive's own; ``torch.classes`` are C++ of anybody's."""
    return name.startswith("__torch__.") and not name.startswith("__torch__.torch.classes")


def read_pickle(data: bytes, storages: Mapping[str, int]) -> object:
    """Return the one value of a pickle: a ``Module``, a ``Tensor`` or a tuple of those, or less.

    Args:
        data: The pickle.
        storages: The bytes of each storage, by key.

    Raises:
        PickleError: torch writes no such pickle, or a tensor reaches past its storage.
    """
    try:
        return _Reader(data, storages).value()
    except (IndexError, struct.error):
        raise PickleError("a pickle that is cut off, or takes what is not there") from None


class _Reader:
    """A stack and a memo, as any unpickler has. Only tuples of integers nest in a tuple."""

    def __init__(self, data: bytes, storages: Mapping[str, int]) -> None:
        self._data = data
        self._storages = storages
        self._place = 0
        self._stack: list[Any] = []
        self._memo: list[Any] = []

    def value(self) -> object:
        if not self._data.startswith(b"\x80\2") or not self._data.endswith(b"."):
            raise PickleError("no pickle of protocol 2")
        self._place, end = 2, len(self._data) - 1
        while self._place < end:
            opcode = self._data[self._place]
            self._place += 1
            if opcode in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode])
            elif opcode in _INTEGERS:
                self._stack.append(self._integer(_INTEGERS[opcode]))
            elif opcode in _GETS:
                self._get(self._integer(_GETS[opcode]))
            elif opcode in _PUTS:
                self._put(self._integer(_PUTS[opcode]))
            elif opcode in _TUPLES:
                self._tuple_of(_TUPLES[opcode])
            elif opcode in _OTHERS:
                _OTHERS[opcode](self)
            else:
                raise PickleError(f"opcode {opcode:#04x}")
        if len(self._stack) != 1 or self._place != end:
            raise PickleError("not one value")
        return self._stack[0]

    def _integer(self, layout: struct.Struct) -> int:
        (number,) = layout.unpack_from(self._data, self._place)
        self._place += layout.size
        return int(number)

    def long(self) -> None:
        if self._integer(_U1) != _I8.size:
            raise PickleError("an integer of other than 8 bytes")
        self._stack.append(self._integer(_I8))

    def text(self) -> None:
        start = self._place + _U4.size
        self._place = start + self._integer(_U4)
        text = self._data[start : self._place]
        if not text.isascii():
            raise PickleError("a string that is not ASCII")
        self._stack.append(text.decode("ascii"))

    def name(self) -> None:
        name = f"{self._line()}.{self._line()}"
        if name not in _FUNCTIONS and name not in _STORAGES and not is_own_class(name):
            raise PickleError(name)
        self._stack.append(_Global(name))

    def _line(self) -> str:
        end = self._data.find(b"\n", self._place)
        line = self._data[self._place : end]
        if end < 0 or not _QUALIFIED.match(line):
            raise PickleError(f"a name {line[:100]!r}")
        self._place = end + 1
        return line.decode("ascii")

    def _put(self, index: int) -> None:
        """Remember the last value. torch counts from 0: a larger index would be memory for it."""
        if index != len(self._memo):
            raise PickleError(f"{index} in a memo of {len(self._memo)}")
        self._memo.append(self._stack[-1])

    def _get(self, index: int) -> None:
        value = self._memo[index]
        if type(value) not in _SHARED:
            raise PickleError(f"a {_kind(value)} in two places")
        self._stack.append(value)

    def _pop(self, kind: type[Any]) -> Any:
        value = self._stack.pop()
        if type(value) is not kind:
            raise PickleError(f"a {_kind(value)} in place of a {kind.__name__.strip('_')}")
        return value

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while type(value := self._stack.pop()) is not _Mark:
            items.append(value)
        return items[::-1]

    def tuple_to_mark(self) -> None:
        self._push_tuple(self._pop_to_mark())

    def _tuple_of(self, count: int) -> None:
        self._push_tuple([self._stack.pop() for _ in range(count)][::-1])

    def _push_tuple(self, items: list[Any]) -> None:
        for item in items:
            if type(item) is tuple and set(map(type, cast("tuple[object, ...]", item))) - {int}:
                raise PickleError("tuples within tuples")
        self._stack.append(tuple(items))

    def storage(self) -> None:
        facts = self._pop(tuple)
        if [type(fact) for fact in facts] != [str, _Global, str, str, int]:
            raise PickleError("a storage of other than five facts")
        kind, item, key, device, count = facts
        if kind != "storage" or device != "cpu" or key not in self._storages:
            raise PickleError(f"a {kind} {key!r} on {device!r}")
        if item.name not in _STORAGES:
            raise PickleError(f"a storage of {item.name}")
        if count * _STORAGES[item.name] != self._storages[key]:
            raise PickleError(f"{count} elements in the {self._storages[key]} bytes of {key!r}")
        self._stack.append(_Storage(count))

    def call(self) -> None:
        arguments, function = self._pop(tuple), self._pop(_Global)
        if function.name not in _FUNCTIONS:
            raise PickleError(f"a call of {function.name}")
        self._stack.append(_FUNCTIONS[function.name](arguments))

    def instance(self) -> None:
        arguments, name = self._pop(tuple), self._pop(_Global).name
        if arguments or not is_own_class(name):
            raise PickleError(f"an instance of {name}")
        self._stack.append(_Instance(name))

    def fill(self) -> None:
        items = self._pop_to_mark()
        names, values = items[::2], items[1::2]
        if self._pop(_Attributes) != _Attributes() or len(names) != len(values):
            raise PickleError("attributes that are not given once, in pairs")
        if any(type(name) is not str for name in names) or len(set(names)) != len(names):
            raise PickleError("an attribute without a name of its own")
        self._stack.append(_Attributes(tuple(names), tuple(values)))

    def build(self) -> None:
        attributes, instance = self._pop(_Attributes), self._pop(_Instance)
        self._stack.append(Module(instance.type, dict(zip(attributes.names, attributes.values))))


def _kind(value: object) -> str:
    return type(value).__name__.strip("_")


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """Return what ``_rebuild_tensor_v2(storage, offset, shape, strides, grad, hooks)`` makes."""
    if [type(item) for item in arguments] != [_Storage, int, tuple, tuple, bool, _Hooks]:
        raise PickleError("a tensor of other than six facts")
    storage, offset, shape, strides = arguments[:4]
    if any(number < 0 for number in (offset, *shape, *strides)):
        raise PickleError("a tensor with an offset, size or stride below 0")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise PickleError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    count, reach = 1, 1
    for size, stride in zip(shape, strides):
        count *= max(size, 1)  # bounded even where there are none: PyTorch multiplies in 64 bits
        reach += (size - 1) * stride
    end = offset if 0 in shape else offset + reach
    if count > max(storage.elements, 1) or end > storage.elements:
        raise PickleError(f"a tensor {[*shape]} that reaches past its {storage.elements} elements")
    return Tensor(shape)


def _hooks(arguments: tuple[Any, ...]) -> _Hooks:
    if arguments:
        raise PickleError("a tensor with hooks")
    return _Hooks()


_FUNCTIONS: dict[str, Callable[[tuple[Any, ...]], object]] = {
    "collections.OrderedDict": _hooks,
    "torch._utils._rebuild_tensor_v2": _tensor,
}

# The opcodes that torch's pickler.cpp writes, by what they do; pickletools says it of each.
_U1, _U2, _U4 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I")
_I4, _I8 = struct.Struct("<i"), struct.Struct("<q")
_CONSTANTS: dict[int, object] = {
    ord(")"): (),
    ord("("): _Mark(),
    ord("}"): _Attributes(),
    ord("N"): None,
    0x88: True,
    0x89: False,
}
_INTEGERS = {ord("K"): _U1, ord("M"): _U2, ord("J"): _I4}
_GETS = {ord("h"): _U1, ord("j"): _U4}
_PUTS = {ord("q"): _U1, ord("r"): _U4}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_OTHERS: dict[int, Callable[[_Reader], None]] = {
    0x8A: _Reader.long,
    ord("X"): _Reader.text,
    ord("c"): _Reader.name,
    ord("t"): _Reader.tuple_to_mark,
    ord("Q"): _Reader.storage,
    ord("R"): _Reader.call,
    0x81: _Reader.instance,
    ord("u"): _Reader.fill,
    ord("b"): _Reader.build,
}
