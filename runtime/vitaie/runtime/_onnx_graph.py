"""Which bytes an ONNX graph would read from files, found without the onnx package.

ONNX Runtime reads an external tensor that nobody supplied from a file in the working
directory, without a word. So before it sees a graph, the graph's external tensors must be
exactly those of the manifest's ``weights`` table. This walks the protobuf wire format
(https://protobuf.dev/programming-guides/encoding/) along the fields of onnx.proto (IR 8) that
can hold a tensor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Union

from vitaie.manifests.errors import BundleError

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""Wire types of fixed size, in bytes: no field that matters here is of one."""

# Message -> field number -> message of that field. Only what can lead to a TensorProto.
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_OPERATORS = frozenset(
    [
        "Add",
        "Concat",
        "Conv",
        "Div",
        "Erf",
        "Expand",
        "Gather",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "Mul",
        "Reshape",
        "Shape",
        "Softmax",
        "Transpose",
    ]
)
_MAX_DEPTH = 12
_FLOAT = 1
_INT64 = 7
_MAX_SIZE = 2**24
"""Of an index or a shape's elements: ONNX Runtime counts up to some of them, and makes the rest."""
_MAX_NUMBERS = 16
"""Of a shape or a list of axes: a tensor of a Vision Transformer has five dimensions."""
_EXTERNAL = 1


class ExternalTensor(NamedTuple):
    """An external initialiser of the main graph: its bytes are ``location[offset:][:length]``."""

    name: str
    shape: tuple[int, ...]
    location: str
    offset: int
    length: int


def external_tensors(model: bytes, where: str) -> list[ExternalTensor]:
    """Return the float32 external initialisers of the main graph, in its order.

    Raises:
        BundleError: The bytes are not a protobuf message, or an external tensor is anything but
            a float32 initialiser of the main graph with location, offset and length.
    """
    found: list[ExternalTensor] = []
    try:
        for path, tensor in _tensors(memoryview(model), "Model", ("Model",)):
            external = _external(tensor)
            if external is None:
                continue
            if path != ("Model", "Graph", "Tensor"):
                raise BundleError(
                    "E_ONNX_WEIGHTS", where, field=external.name, expected="an initialiser"
                )
            found.append(external)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise BundleError("E_ONNX_MALFORMED", where, got=error) from None
    return found


def check_operators(model: bytes, where: str) -> None:
    """See that the graph is made of the operators a Vision Transformer's is, and of nothing else.

    ONNX Runtime's operators are not safe on hostile graphs: an integer division by zero ends the
    process, a ``Loop`` need not end, some read outside their tensors, and a dimension of 2^31 keeps
    its optimiser busy for minutes.

    Raises:
        BundleError: Another operator or domain, a function, a subgraph or a tensor as attribute,
            a division by anything but a float32 constant, a shape that is no constant, an integer
            that no size or index of a Vision Transformer is.
    """

    def refuse(got: object) -> BundleError:
        return BundleError("E_ONNX_OPERATOR", where, got=got)

    floats: set[str] = set()
    integers: set[str] = set()
    divisors: list[str] = []
    shapes: list[str] = []
    try:
        for number, value in _fields(memoryview(model)):
            if number in (20, 25):
                raise refuse("a function or training information")
            if number != 7 or not isinstance(value, memoryview):
                continue
            for kind, item in _fields(value):
                if not isinstance(item, memoryview):
                    continue
                if kind in (13, 15):
                    raise refuse("a sparse tensor or a shape that is declared")
                if kind == 5 and _external(item) is None:
                    name, is_float = _constant(item, refuse)
                    (floats if is_float else integers).add(name)
                if kind == 1:
                    operator, domain, inputs = _node(item, refuse)
                    if domain or operator not in _OPERATORS:
                        raise refuse(f"{domain}:{operator}")
                    divisors += inputs[1:2] if operator == "Div" else []
                    shapes += inputs[1:2] if operator == "Reshape" else []
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise BundleError("E_ONNX_MALFORMED", where, got=error) from None
    for name in divisors:
        if name not in floats:
            raise refuse(f"a division by {name}")
    for name in shapes:
        if name not in integers:
            raise refuse(f"a shape {name}")


def _node(
    message: memoryview, refuse: Callable[[object], BundleError]
) -> tuple[str, str, list[str]]:
    """Return operator, domain and inputs; refuse attributes that hold tensors or graphs."""
    operator = domain = ""
    inputs: list[str] = []
    for number, value in _fields(message):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            inputs.append(bytes(value).decode("utf-8"))
        elif number == 4:
            operator = bytes(value).decode("utf-8")
        elif number == 5:
            for field, _ in _fields(value):
                if field in _CHILDREN["Attribute"]:
                    raise refuse("a tensor or a graph as an attribute")
        elif number == 7:
            domain = bytes(value).decode("utf-8")
    return operator, domain, inputs


def _constant(tensor: memoryview, refuse: Callable[[object], BundleError]) -> tuple[str, bool]:
    """Return a constant's name and whether it is float32; of int64 its numbers are judged."""
    name, data_type = "", 0
    numbers: list[int] = []
    plain = True
    for number, value in _fields(tensor):
        if number == 2 and isinstance(value, int):
            data_type = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8")
        elif number == 9 and isinstance(value, memoryview):
            whole = len(value) // 8 * 8
            numbers += struct.unpack(f"<{whole // 8}q", value[:whole])
        elif number != 1:
            plain = False
    if data_type == _FLOAT:
        return name, True
    size = math.prod(each for each in numbers[:_MAX_NUMBERS] if each > 0)
    if (
        data_type != _INT64
        or not plain
        or len(numbers) > _MAX_NUMBERS
        or min(numbers, default=0) < -1
        or size > _MAX_SIZE
    ):
        limit = f"a few of int64 from -1, their product at most {_MAX_SIZE}"
        raise refuse(f"a constant {name} of other than float32, or {limit}")
    return name, False


def _tensors(
    message: memoryview, kind: str, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], memoryview]]:
    if len(path) > _MAX_DEPTH:
        raise ValueError("graphs nested too deep")
    children = _CHILDREN[kind]
    for number, value in _fields(message):
        child = children.get(number)
        if child is None:
            continue
        if not isinstance(value, memoryview):
            raise ValueError(f"field {number} of {kind} is not a message")
        if child == "Tensor":
            yield (*path, child), value
        else:
            yield from _tensors(value, child, (*path, child))


def _external(tensor: memoryview) -> ExternalTensor | None:
    """Return the tensor when its data is outside the graph."""
    name = ""
    dimensions: list[int] = []
    entries: list[tuple[str, str]] = []
    data_type = location_kind = 0
    for number, value in _fields(tensor):
        if number == 1:
            dimensions += [value] if isinstance(value, int) else _packed(value)
        elif number == 2 and isinstance(value, int):
            data_type = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8")
        elif number == 13 and isinstance(value, memoryview):
            entries.append(_entry(value))
        elif number == 14 and isinstance(value, int):
            location_kind = value % 2**32
    if location_kind != _EXTERNAL and not entries:
        return None
    keys = [key for key, _ in entries]
    if location_kind != _EXTERNAL or sorted(keys) != ["length", "location", "offset"]:
        raise ValueError(f"external data of {name!r} is not one location, offset and length")
    if data_type != _FLOAT:
        raise ValueError(f"external tensor {name!r} is not float32")
    facts = dict(entries)
    for key in ("offset", "length"):
        if not (facts[key].isascii() and facts[key].isdigit() and len(facts[key]) < 17):
            raise ValueError(f"{key} of {name!r} is not a number")
    return ExternalTensor(
        name, tuple(dimensions), facts["location"], int(facts["offset"]), int(facts["length"])
    )


def _entry(message: memoryview) -> tuple[str, str]:
    pair = {1: "", 2: ""}
    for number, value in _fields(message):
        if number in pair and isinstance(value, memoryview):
            pair[number] = bytes(value).decode("utf-8")
    return pair[1], pair[2]


def _fields(message: memoryview) -> Iterator[tuple[int, Union[int, memoryview]]]:
    """Yield (field number, value) of one protobuf message's numbers, texts and messages."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if number == 0 or key >= 2**32:  # protobuf's C++ drops the bits above: another field
            raise ValueError(f"field number {number}")
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in _FIXED:
            length = _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > end:
            raise ValueError("a field runs past the end")
        if wire == _BYTES:
            yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")


def _packed(message: memoryview) -> list[int]:
    values: list[int] = []
    position = 0
    while position < len(message):
        value, position = _varint(message, position)
        values.append(value)
    return values
