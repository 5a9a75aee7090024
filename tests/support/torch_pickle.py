"""The pickles of a TorchScript archive as trees that a test changes and writes again.

Written from PyTorch's pickler.cpp, and not from the reader under test. Anything can be put into
a tree, also what torch would never write.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

PROTOCOL = b"\x80\2"


@dataclass
class Tensor:
    """The arguments of ``torch._utils._rebuild_tensor_v2``; the storage's five facts first."""

    storage: tuple[Any, ...]
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


@dataclass
class Module:
    """An instance of ``module`` + ``name``, and the attributes in their order."""

    module: str
    name: str
    state: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.state = state

    @property
    def type(self) -> str:
        """The class's whole name."""
        return f"{self.module}.{self.name}"

    def children(self) -> dict[Any, Module]:
        """Return the attributes that are modules."""
        return {key: value for key, value in self.state.items() if isinstance(value, Module)}

    def all(self) -> list[Module]:
        """Return this module and all below it."""
        return [self] + [each for child in self.children().values() for each in child.all()]


def read(data: bytes) -> Any:
    """Return the tree of a pickle that torch wrote."""
    return _Unpickler(io.BytesIO(data)).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if module.startswith("__torch__"):
            return type(name, (_Unpickled,), {"names": (module, name)})
        if name == "_rebuild_tensor_v2":
            return _rebuild_tensor
        return name if module == "torch" else dict

    def persistent_load(self, pid: Any, /) -> tuple[Any, ...]:
        return tuple(pid)


def _rebuild_tensor(
    storage: tuple[Any, ...], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Tensor:
    return Tensor(storage, offset, shape, strides)


class _Unpickled:
    """What a pickle's instance is while it is made: a ``Module`` of the class's names."""

    names = ("", "")

    def __new__(cls) -> Any:
        return Module(*cls.names)


def write(value: Any) -> bytes:
    """Return the pickle of a tree, in torch's opcodes, without a memo."""
    return PROTOCOL + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:
    """Return what leaves a value on an unpickler's stack; bytes stand for themselves."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(text)) + text
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value) if abs(value) < 2**31 else _long(value)
    if isinstance(value, tuple):
        items = b"".join(map(opcodes, cast("Sequence[Any]", value)))
        return b"(" + items + b"t"
    if isinstance(value, Tensor):
        kind, item, *facts = value.storage
        pid = (kind, named("torch", item), *facts)
        hooks = named("collections", "OrderedDict") + b")R"
        arguments = (opcodes(pid) + b"Q", value.offset, value.shape, value.strides, False, hooks)
        return named("torch._utils", "_rebuild_tensor_v2") + opcodes(arguments) + b"R"
    return named(value.module, value.name) + b")\x81" + attributes(value.state) + b"b"


def attributes(state: Mapping[Any, Any]) -> bytes:
    """Return what leaves a dictionary on the stack."""
    pairs = b"".join(opcodes(key) + opcodes(item) for key, item in state.items())
    return b"}(" + pairs + b"u"


def named(module: str, name: str) -> bytes:
    """Return what leaves a class or function on the stack."""
    return f"c{module}\n{name}\n".encode()


def _long(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)
