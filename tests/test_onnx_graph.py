"""A graph reads exactly the bytes that the weights table says, and no file of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import protobuf as pb
from tests.support.bundles import copy_bundle, document, put, refused, reseal
from vitaie import runtime
from vitaie.manifests.errors import BundleError
from vitaie.runtime import _onnxruntime
from vitaie.runtime._bundle import Bundle
from vitaie.runtime._onnx_graph import ExternalTensor, check_operators, external_tensors

JUDGEMENTS = ("no error", "E_ONNX_MALFORMED", "E_ONNX_WEIGHTS")
RIGHT = ExternalTensor("w", (2, 3), "model.ts", 64, 24)


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


@pytest.fixture
def unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given to ONNX Runtime to parse."""

    def parse(*_: object, **__: object) -> None:
        raise AssertionError("ONNX Runtime was given a graph that should have been refused")

    monkeypatch.setattr("onnxruntime.InferenceSession", parse)


def judged(model: bytes) -> str:
    """Return the code of the error that a graph gives, or that it gives none."""
    try:
        external_tensors(model, "model.onnx")
    except BundleError as error:
        return error.code
    return "no error"


# The walk


def test_an_external_initialiser_is_found_with_its_facts() -> None:
    assert external_tensors(pb.model(pb.tensor()), "") == [RIGHT]


def test_dimensions_may_be_packed() -> None:
    tensor = pb.tensor().replace(pb.integer(1, 2) + pb.integer(1, 3), pb.data(1, b"\2\3"))
    assert external_tensors(pb.model(tensor), "") == [RIGHT]


def test_a_graph_in_two_parts_is_one_graph() -> None:
    second = pb.data(7, pb.data(5, pb.tensor("v")))
    found = external_tensors(pb.model(pb.tensor(), rest=second), "")
    assert [tensor.name for tensor in found] == ["w", "v"]


def test_an_initialiser_inside_the_graph_is_not_external() -> None:
    inside = pb.integer(1, 6) + pb.integer(2, pb.FLOAT) + pb.data(8, "c") + pb.data(9, bytes(24))
    assert external_tensors(pb.model(inside), "") == []


ATTRIBUTE_TENSOR = pb.data(1, "value") + pb.data(5, pb.tensor())
SUBGRAPH = pb.data(5, pb.tensor())
ELSEWHERE = {
    "attribute": pb.data(1, pb.data(5, ATTRIBUTE_TENSOR)),
    "list of an attribute": pb.data(1, pb.data(5, pb.data(10, pb.tensor()))),
    "subgraph": pb.data(1, pb.data(5, pb.data(6, SUBGRAPH))),
    "list of subgraphs": pb.data(1, pb.data(5, pb.data(11, SUBGRAPH))),
    "sparse initialiser's values": pb.data(15, pb.data(1, pb.tensor())),
    "sparse initialiser's indices": pb.data(15, pb.data(2, pb.tensor())),
    "sparse attribute": pb.data(1, pb.data(5, pb.data(22, pb.data(1, pb.tensor())))),
    "list of sparse": pb.data(1, pb.data(5, pb.data(23, pb.data(1, pb.tensor())))),
    "attribute of a subgraph": pb.data(
        1, pb.data(5, pb.data(6, pb.data(1, pb.data(5, ATTRIBUTE_TENSOR))))
    ),
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_an_external_tensor_elsewhere_in_the_graph_is_refused(place: str) -> None:
    assert judged(pb.model(graph=ELSEWHERE[place])) == "E_ONNX_WEIGHTS"


@pytest.mark.parametrize(
    "rest",
    [
        pb.data(25, pb.data(7, pb.data(5, ATTRIBUTE_TENSOR))),
        pb.data(25, pb.data(11, ATTRIBUTE_TENSOR)),
        pb.data(20, pb.data(1, pb.data(5, pb.tensor()))),
        pb.data(20, pb.data(2, pb.data(5, pb.tensor()))),
    ],
    ids=["function's node", "function's attribute", "training's start", "training's step"],
)
def test_an_external_tensor_outside_the_graph_is_refused(rest: bytes) -> None:
    assert judged(pb.model(rest=rest)) == "E_ONNX_WEIGHTS"


def test_graphs_nested_too_deep_are_refused() -> None:
    graph = b""
    for _ in range(10_000):
        graph = pb.data(1, pb.data(5, pb.data(6, graph)))
    assert judged(pb.model(graph=graph)) == "E_ONNX_MALFORMED"


@pytest.mark.parametrize(
    "facts",
    [
        {"offset": "-64"},
        {"offset": "+64"},
        {"offset": " 64"},
        {"offset": "64 "},
        {"offset": "6_4"},
        {"offset": "0x40"},
        {"offset": "64.0"},
        {"offset": "٦٤"},
        {"offset": ""},
        {"offset": str(2**64 + 64)},
        {"length": str(2**64)},
        {"length": "-1"},
        {"length": "24\0"},
        {"checksum": "0"},
        {"": ""},
        {"location": b"\xff"},
    ],
)
def test_external_data_is_one_location_offset_and_length(facts: dict[str, str | bytes]) -> None:
    assert judged(pb.model(pb.tensor("w", **facts))) == "E_ONNX_MALFORMED"


@pytest.mark.parametrize("key", ["location", "offset", "length"])
def test_a_key_of_external_data_that_is_given_twice_is_refused(key: str) -> None:
    twice = pb.tensor() + pb.entry(key, "64")
    assert judged(pb.model(twice)) == "E_ONNX_MALFORMED"


@pytest.mark.parametrize("key", ["location", "offset", "length"])
def test_a_key_of_external_data_that_is_not_given_is_refused(key: str) -> None:
    value = {"location": "model.ts", "offset": "64", "length": "24"}[key]
    less = pb.tensor().replace(pb.entry(key, value), b"")
    assert judged(pb.model(less)) == "E_ONNX_MALFORMED"


@pytest.mark.parametrize("kind", [0, 2, 10, 16])
def test_an_external_tensor_of_another_type_is_refused(kind: int) -> None:
    other = pb.tensor() + pb.integer(2, kind)
    assert judged(pb.model(other)) == "E_ONNX_MALFORMED"


def test_external_data_of_a_tensor_that_is_not_external_is_refused() -> None:
    assert judged(pb.model(pb.tensor() + pb.integer(14, 0))) == "E_ONNX_MALFORMED"


def test_an_external_tensor_without_external_data_is_refused() -> None:
    assert judged(pb.model(pb.integer(14, pb.EXTERNAL))) == "E_ONNX_MALFORMED"


def test_a_number_too_large_for_protobuf_hides_no_external_tensor() -> None:
    """protobuf's C++ keeps 32 bits of an enum, so 2^32 + 1 is EXTERNAL."""
    assert judged(pb.model(pb.integer(14, 2**32 + pb.EXTERNAL))) == "E_ONNX_MALFORMED"


@pytest.mark.parametrize("hidden", [[13], [14], [13, 14]])
def test_a_field_number_too_large_for_protobuf_hides_no_external_tensor(hidden: list[int]) -> None:
    """protobuf's C++ drops what is above 32 bits of a key: ONNX Runtime sees fields 13 and 14."""
    tensor = pb.tensor()
    for number in hidden:
        wire = 2 if number == 13 else 0
        tensor = tensor.replace(pb.key(number, wire), pb.varint(1 << 32 | number << 3 | wire))
    assert judged(pb.model(tensor)) == "E_ONNX_MALFORMED"


def test_a_number_of_fixed_size_is_no_dimension() -> None:
    """protobuf skips a field whose wire type is another, so the shape is still [2, 3]."""
    extra = pb.key(1, 1) + pack("<Q", 1) + pb.key(1, 5) + pack("<L", 1)
    assert external_tensors(pb.model(pb.tensor() + extra), "") == [RIGHT]


@pytest.mark.parametrize(
    "model",
    [
        pb.data(7, pb.data(5, pb.tensor()))[:-1],
        b"\x3a",
        b"\x3a\xff",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x00\x00",
        b"\x3b",
        b"\x3c",
        b"\x3e",
        b"\x3f",
        b"\x38\x01",
        b"\x08" + b"\x80" * 20,
        b"\x39\0\0",
        b"\x1c\0\0\0ORTM" + bytes(64),
    ],
)
def test_what_is_no_protobuf_message_is_refused(model: bytes) -> None:
    assert judged(model) == "E_ONNX_MALFORMED"


def test_a_graph_cut_off_inside_a_field_is_refused() -> None:
    model = pb.model(pb.tensor())
    for end in range(len(model)):
        assert judged(model[:end]) == ("E_ONNX_MALFORMED" if end not in (0, 2) else "no error")


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_garbage_is_refused_or_holds_nothing(model: bytes) -> None:
    assert judged(model) in JUDGEMENTS


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_graph_with_bytes_changed_is_refused_or_understood(drawn: st.DataObject) -> None:
    model = bytearray(pb.model(pb.tensor(), pb.tensor("v"), graph=ELSEWHERE["subgraph"]))
    for _ in range(drawn.draw(st.integers(1, 4))):
        model[drawn.draw(st.integers(0, len(model) - 1))] = drawn.draw(st.integers(0, 255))
    assert judged(bytes(model)) in JUDGEMENTS


# The graph against the table, in bundles whose digests are right

Change = Callable[[list[bytes]], list[bytes]]


def change_initialisers(bundle: Path, change: Change) -> None:
    """Rewrite the graph with other external initialisers, and make every digest right."""
    out = b""
    for number, value, field in pb.split((bundle / "model.onnx").read_bytes()):
        if number != 7:
            out += field
            continue
        fields = pb.split(value)
        tensors = [value for number, value, _ in fields if number == 5 and b"model.ts" in value]
        others = [
            whole for number, value, whole in fields if not (value in tensors and number == 5)
        ]
        out += pb.data(7, b"".join(others) + b"".join(pb.data(5, each) for each in change(tensors)))
    put(bundle, "model.onnx", out)


def replaced(old: str, new: str | bytes) -> Change:
    """Change an external_data of the first tensor."""

    def change(tensors: list[bytes]) -> list[bytes]:
        first = b""
        for number, value, field in pb.split(tensors[0]):
            name = pb.split(value)[0][1] if number == 13 else b""
            first += pb.entry(old, new) if name == old.encode() else field
        return [first, *tensors[1:]]

    return change


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize(
    "location",
    [
        "",
        ".",
        "..",
        "../model.ts",
        "/etc/passwd",
        "./model.ts",
        "model.ts\0",
        "model.ts/",
        "MODEL.TS",
        "model.onnx",
        "labels.txt",
        "golden/00.npy",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_weights_lie_in_model_ts_and_nowhere_else(bundle: Path, location: str) -> None:
    change_initialisers(bundle, replaced("location", location))
    assert refused(bundle, "E_ONNX_WEIGHTS").field == "cls_token"


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("fact", ["offset", "length"])
@pytest.mark.parametrize("value", [0, 1, 65, 256, 2**31, 2**32, 2**52, 10**15])
def test_a_weight_lies_where_the_table_says(bundle: Path, fact: str, value: int) -> None:
    change_initialisers(bundle, replaced(fact, str(value)))
    refused(bundle, "E_ONNX_WEIGHTS")


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("fact", ["offset", "length"])
@pytest.mark.parametrize("value", [2**63, 2**64 - 64, 2**64, 2**64 + 64, -64])
def test_an_offset_that_wraps_is_refused(bundle: Path, fact: str, value: int) -> None:
    change_initialisers(bundle, replaced(fact, str(value)))
    refused(bundle, "E_ONNX_MALFORMED")


CHANGES: dict[str, Change] = {
    "one less": lambda tensors: tensors[1:],
    "none": lambda tensors: [],
    "one twice": lambda tensors: [*tensors, tensors[0]],
    "one more": lambda tensors: [*tensors, pb.tensor("one more")],
    "reshaped": lambda tensors: [tensors[0] + pb.integer(1, 1), *tensors[1:]],
    "renamed": lambda tensors: [tensors[0] + pb.data(8, "renamed"), *tensors[1:]],
    "nameless": lambda tensors: [tensors[0] + pb.data(8, ""), *tensors[1:]],
}


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("change", CHANGES)
def test_the_graphs_external_tensors_are_the_tables(bundle: Path, change: str) -> None:
    change_initialisers(bundle, CHANGES[change])
    refused(bundle, "E_ONNX_WEIGHTS")


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("model", [b"", b"garbage", b"\0" * 100, b"\x08\x08", b"{}"])
def test_what_is_no_graph_is_refused_before_it_is_parsed(bundle: Path, model: bytes) -> None:
    put(bundle, "model.onnx", model)
    code = "E_ONNX_WEIGHTS" if model in (b"", b"\x08\x08") else "E_ONNX_MALFORMED"
    refused(bundle, code)


@pytest.mark.usefixtures("unparsed")
def test_a_graph_cut_in_half_is_refused_before_it_is_parsed(bundle: Path) -> None:
    data = (bundle / "model.onnx").read_bytes()
    put(bundle, "model.onnx", data[: len(data) // 2])
    refused(bundle, "E_ONNX_MALFORMED")


@pytest.mark.usefixtures("unparsed")
def test_two_weights_swapped_in_the_table_are_refused(bundle: Path) -> None:
    def swap(whole: dict[str, Any]) -> None:
        rows = {row["name"]: row for row in whole["weights"]}
        one, two = rows["blocks.0.norm1.weight"], rows["blocks.0.norm1.bias"]
        one["offset"], two["offset"] = two["offset"], one["offset"]

    reseal(bundle, swap)
    refused(bundle, "E_ONNX_WEIGHTS")


@pytest.mark.usefixtures("unparsed")
@pytest.mark.parametrize("offset", [1, 65, 2**40, 2**52])
def test_a_table_that_points_between_or_past_the_tensors_is_refused(
    bundle: Path, offset: int
) -> None:
    def move(whole: dict[str, Any]) -> None:
        whole["weights"][-1]["offset"] = offset

    reseal(bundle, move)
    refused(bundle, "E_MANIFEST_WEIGHTS")


def test_a_weight_inside_a_zip_header_is_refused_even_where_graph_and_table_agree(
    bundle: Path,
) -> None:
    """The first tensor begins at 64; before it is its header, and its padding."""
    first = document(bundle)["weights"][0]
    assert (first["name"], first["offset"]) == ("cls_token", 64)
    change_initialisers(bundle, replaced("offset", "0"))

    def move(whole: dict[str, Any]) -> None:
        whole["weights"][0]["offset"] = 0

    reseal(bundle, move)
    assert refused(bundle, "E_MANIFEST_WEIGHTS").field == "weights[0].offset"


def test_two_weights_that_share_bytes_are_refused(bundle: Path) -> None:
    def overlap(whole: dict[str, Any]) -> None:
        whole["weights"][1]["offset"] = whole["weights"][0]["offset"]

    reseal(bundle, overlap)
    refused(bundle, "E_MANIFEST_WEIGHTS")


# What ONNX Runtime itself refuses


def other_graph(bundle: Path, old: bytes, new: bytes) -> None:
    data = (bundle / "model.onnx").read_bytes()
    assert old in data
    assert len(old) == len(new)
    put(bundle, "model.onnx", data.replace(old, new))


def node(operator: str, *inputs: str, domain: str = "", attribute: bytes = b"") -> bytes:
    names = b"".join(pb.data(1, name) for name in inputs)
    return pb.data(1, names + pb.data(4, operator) + pb.data(7, domain) + attribute)


FLOAT_CONSTANT = pb.integer(2, pb.FLOAT) + pb.data(8, "two")
INTEGERS = pb.integer(2, 7) + pb.data(8, "shape")
INTEGER_CONSTANT = pb.integer(2, 6) + pb.data(8, "zero")
HOSTILE_GRAPHS = {
    "an endless loop": pb.model(graph=node("Loop")),
    "an operator that reads outside its tensors": pb.model(
        graph=node("RotaryEmbedding", domain="com.microsoft")
    ),
    "a known operator of another domain": pb.model(graph=node("Gemm", domain="x")),
    "an integer division": pb.model(INTEGER_CONSTANT, graph=node("Div", "x", "zero")),
    "a division by a result": pb.model(graph=node("Div", "x", "y")),
    "an integer that counts for minutes": pb.model(INTEGERS + pb.data(9, pack("<q", 2**31 - 1))),
    "an integer below -1": pb.model(INTEGERS + pb.data(9, pack("<q", -2))),
    "an integer in a second place": pb.model(
        INTEGERS + pb.data(9, pack("<q", 1)) + pb.integer(7, 1)
    ),
    "a constant of another type": pb.model(INTEGER_CONSTANT),
    "a shape that is computed": pb.model(graph=node("Reshape", "x", "y")),
    "a shape of floats": pb.model(FLOAT_CONSTANT, graph=node("Reshape", "x", "two")),
    "a shape that is declared": pb.model(graph=pb.data(13, b"")),
    "a subgraph": pb.model(graph=node("Softmax", attribute=pb.data(5, pb.data(6, b"")))),
    "a function": pb.model(rest=pb.data(25, b"")),
    "training": pb.model(rest=pb.data(20, b"")),
    "a sparse tensor": pb.model(graph=pb.data(15, b"")),
}


@pytest.mark.parametrize("what", HOSTILE_GRAPHS)
def test_only_a_vision_transformers_operators_are_run(what: str) -> None:
    with pytest.raises(BundleError) as caught:
        check_operators(HOSTILE_GRAPHS[what], "model.onnx")
    assert caught.value.code == "E_ONNX_OPERATOR"


def test_a_division_by_a_float_constant_is_gelus() -> None:
    check_operators(pb.model(FLOAT_CONSTANT, graph=node("Div", "x", "two")), "model.onnx")


def test_a_shape_of_integers_from_minus_1_to_2_24_is_a_transformers() -> None:
    shape = INTEGERS + pb.data(9, pack("<3q", -1, 0, 2**24))
    check_operators(pb.model(shape, graph=node("Reshape", "x", "shape")), "model.onnx")


@pytest.mark.parametrize("shape", [(2**24, 2), (2**12, 2**12, 2), (2**25,), (-2,), (1,) * 17])
def test_a_shape_that_would_fill_the_memory_is_refused(shape: tuple[int, ...]) -> None:
    constant = INTEGERS + pb.data(9, pack(f"<{len(shape)}q", *shape))
    with pytest.raises(BundleError) as caught:
        check_operators(pb.model(constant, graph=node("Expand", "x", "shape")), "model.onnx")
    assert caught.value.code == "E_ONNX_OPERATOR"


def test_a_dimension_that_would_keep_the_engine_busy_is_refused(bundle: Path) -> None:
    """ONNX Runtime turns the three of queries, keys and values into as many slices."""
    heads = pack("<5q", -1, 5, 3, 2, 16)
    other_graph(bundle, heads, heads[:16] + pack("<q", 2**31 - 1) + heads[24:])
    refused(bundle, "E_ONNX_OPERATOR")


def test_a_graph_with_an_unknown_operator_is_refused(
    bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other_graph(bundle, b"Softmax", b"Softmix")
    refused(bundle, "E_ONNX_OPERATOR")
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_fails_when_it_runs_is_the_bundles_fault(
    bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The class token is looked for at 9, where there are fewer tokens."""
    constant = pb.data(8, "first") + pb.data(9, bytes(8))
    other_graph(bundle, constant, constant[:-8] + pack("<q", 9))
    with runtime.load(bundle, target="cpu") as model, pytest.raises(BundleError) as caught:
        model.classify(np.zeros((40, 40, 3), np.uint8))
    assert caught.value.code == "E_BUNDLE_ENGINE"
    assert capfd.readouterr() == ("", "")


def test_a_graph_with_another_output_is_refused(bundle: Path) -> None:
    other_graph(bundle, b"logits", b"digits")
    assert refused(bundle, "E_BUNDLE_ENGINE").field == "output"


def test_a_graph_with_another_input_is_refused(bundle: Path) -> None:
    other_graph(bundle, b"\x0a\x05input", b"\x0a\x05inpot")
    assert refused(bundle, "E_BUNDLE_ENGINE").field == "input"


# The working directory

DECOYS = ["none", "same size", "empty", "folder", "fifo"]


@pytest.mark.parametrize("decoy", DECOYS)
def test_a_model_ts_in_the_working_directory_changes_nothing(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoy: str
) -> None:
    size = document(small_bundle)["preprocess"]["crop"]["size"]
    batch = np.random.default_rng(3).standard_normal((2, 3, size, size)).astype(np.float32)
    with runtime.load(small_bundle, target="cpu", threads=1) as model:
        expected = model.logits(batch)
    poison = tmp_path / "model.ts"
    if decoy == "same size":
        poison.write_bytes(os.urandom((small_bundle / "model.ts").stat().st_size))
    elif decoy == "empty":
        poison.touch()
    elif decoy == "folder":
        poison.mkdir()
    elif decoy == "fifo":
        os.mkfifo(poison)
    monkeypatch.chdir(tmp_path)
    with runtime.load(small_bundle, target="cpu", threads=1) as model:
        assert np.array_equal(model.logits(batch), expected)


def test_weights_overwritten_in_the_bundle_once_they_were_read_change_nothing(
    small_bundle: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = document(small_bundle)["preprocess"]["crop"]["size"]
    batch = np.random.default_rng(4).standard_normal((1, 3, size, size)).astype(np.float32)
    with runtime.load(small_bundle, target="cpu", threads=1) as model:
        expected = model.logits(batch)
    real = _onnxruntime.check_weights

    def spoil(opened: Bundle, graph: bytes) -> None:
        real(opened, graph)
        (bundle / "model.ts").write_bytes(os.urandom((bundle / "model.ts").stat().st_size))

    monkeypatch.setattr(_onnxruntime, "check_weights", spoil)
    monkeypatch.chdir(bundle)
    with runtime.load(bundle, target="cpu", threads=1) as model:
        assert np.array_equal(model.logits(batch), expected)
