"""Protobuf messages written by hand: right ones, and ones that no library would write.

Field numbers are those of onnx.proto; ``MODEL`` is the smallest graph with external weights.
"""

from __future__ import annotations

from collections.abc import Mapping

EXTERNAL = 1
FLOAT = 1


def varint(value: int, *, size: int = 0) -> bytes:
    """Return a number in as few bytes as it takes, or padded to ``size``."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < size:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*out, value])


def key(number: int, wire: int) -> bytes:
    """Return what begins a field."""
    return varint(number << 3 | wire)


def integer(number: int, value: int) -> bytes:
    """Return a field that is a number."""
    return key(number, 0) + varint(value)


def data(number: int, value: bytes | str) -> bytes:
    """Return a field that is bytes, a text, or a message already written."""
    value = value.encode("utf-8") if isinstance(value, str) else value
    return key(number, 2) + varint(len(value)) + value


def entry(name: str | bytes, value: str | bytes) -> bytes:
    """Return one of a TensorProto's external_data."""
    return data(13, data(1, name) + data(2, value))


def tensor(name: str = "w", **facts: str | bytes) -> bytes:
    """Return an external TensorProto of float32 [2, 3]; ``facts`` replace or add external_data."""
    external: Mapping[str, str | bytes] = {
        "location": "model.ts",
        "offset": "64",
        "length": "24",
        **facts,
    }
    entries = b"".join(entry(name, value) for name, value in external.items())
    head = integer(1, 2) + integer(1, 3) + integer(2, FLOAT) + data(8, name)
    return head + entries + integer(14, EXTERNAL)


def model(*initialisers: bytes, graph: bytes = b"", rest: bytes = b"") -> bytes:
    """Return a ModelProto: initialisers, more of its graph, more of the model."""
    inside = b"".join(data(5, each) for each in initialisers)
    return integer(1, 8) + data(7, inside + graph) + rest


def split(message: bytes) -> list[tuple[int, bytes, bytes]]:
    """Return (number, value, the whole field) of each field; numbers have an empty value."""
    fields: list[tuple[int, bytes, bytes]] = []
    position = 0
    while position < len(message):
        start = position
        tag, position = _read(message, position)
        if tag & 7 == 0:
            _, position = _read(message, position)
            fields.append((tag >> 3, b"", message[start:position]))
            continue
        length, position = (4, position) if tag & 7 == 5 else _read(message, position)
        position += length
        fields.append((tag >> 3, message[position - length : position], message[start:position]))
    return fields


def _read(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while message[position] > 0x7F:
        value |= (message[position] & 0x7F) << shift
        shift, position = shift + 7, position + 1
    return value | message[position] << shift, position + 1
