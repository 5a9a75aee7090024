"""``model.onnx``: the model as an ONNX graph whose weights are the tensors inside ``model.ts``.

The graph is written node by node from the architecture (Dosovitskiy et al. 2021,
arXiv:2010.11929, equations 1 to 4) instead of being exported from a trace: it is the same
under every torch, has less than half of the nodes, needs no weights in memory, and its matrix
products are ``Gemm`` with ``transB``, which take torch's [out, in] weights as they lie in the
file, with nothing to fold at load. Every bundle checks it against the module before it is
published.
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vitaie.builder.torchscript import StoredTensor
    from vitaie.manifests.card import Architecture

OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT = "input", "logits"
_FLOAT = 1  # onnx.TensorProto.FLOAT
_EPSILON = 1e-6  # of every LayerNorm, in flax and in timm


def export_onnx(model: Architecture, tensors: list[StoredTensor]) -> bytes:
    """Return the serialised graph.

    Args:
        model: The architecture.
        tensors: Where each of timm's parameters lies inside ``model.ts``.
    """
    helper: Any = importlib.import_module("onnx.helper")

    graph = _Graph()
    tokens = _embed(graph, model)
    for index in range(model.depth):
        tokens = _block(graph, model, f"blocks.{index}.", tokens)
    tokens = graph.layer_norm(tokens, "norm")
    classifier = graph.add("Gather", [tokens, graph.integers("first", 0)], "cls", axis=1)
    graph.linear(classifier, "head", OUTPUT)
    size = model.image_size
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "vit",
            [helper.make_tensor_value_info(INPUT, _FLOAT, ["batch", 3, size, size])],
            [helper.make_tensor_value_info(OUTPUT, _FLOAT, ["batch", model.classes])],
            initializer=[_external(tensor) for tensor in tensors] + graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="vitaie",
        ir_version=IR_VERSION,
    )
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _external(tensor: StoredTensor) -> Any:
    onnx: Any = importlib.import_module("onnx")

    facts = {"location": "model.ts", "offset": str(tensor.offset), "length": str(tensor.length)}
    return onnx.TensorProto(
        name=tensor.name,
        data_type=_FLOAT,
        dims=tensor.shape,
        data_location=onnx.TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key=key, value=facts[key]) for key in facts],
    )


class _Graph:
    """Nodes and small constants, each constant once."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._names: set[str] = set()

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        helper: Any = importlib.import_module("onnx.helper")
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def integers(self, name: str, value: int | list[int]) -> str:
        return self._constant(name, np.array(value, np.int64))

    def scalar(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, np.float32))

    def _constant(self, name: str, array: np.ndarray[Any, Any]) -> str:
        numpy_helper: Any = importlib.import_module("onnx.numpy_helper")
        if name not in self._names:
            self._names.add(name)
            self.constants.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, rows: str, layer: str, output: str) -> str:
        """[rows, in] to [rows, out]."""
        return self.add("Gemm", [rows, f"{layer}.weight", f"{layer}.bias"], output, transB=1)

    def layer_norm(self, tokens: str, layer: str) -> str:
        inputs = [tokens, f"{layer}.weight", f"{layer}.bias"]
        return self.add("LayerNormalization", inputs, f"{layer}.out", axis=-1, epsilon=_EPSILON)


def _embed(graph: _Graph, model: Architecture) -> str:
    """Patches to tokens [B, N, C], the class token first (equation 1)."""
    patch, width = model.patch_size, model.width
    patches = graph.add(
        "Conv",
        [INPUT, "patch_embed.proj.weight", "patch_embed.proj.bias"],
        "patches",
        kernel_shape=[patch, patch],
        strides=[patch, patch],
    )
    flat_shape = graph.integers("shape.patches", [0, width, -1])
    flat = graph.add("Reshape", [patches, flat_shape], "patches.flat")
    rows = graph.add("Transpose", [flat], "patches.rows", perm=[0, 2, 1])
    batch = graph.add("Shape", [INPUT], "batch.size", start=0, end=1)
    one = graph.integers("shape.cls", [1, width])
    shape = graph.add("Concat", [batch, one], "cls.shape", axis=0)
    classifier = graph.add("Expand", ["cls_token", shape], "cls.expanded")
    tokens = graph.add("Concat", [classifier, rows], "tokens", axis=1)
    return graph.add("Add", [tokens, "pos_embed"], "embedded")


def _block(graph: _Graph, model: Architecture, block: str, tokens: str) -> str:
    """One encoder block: attention (equation 2), then the MLP (equation 3), each with a residual.

    Between the norms and the residuals [B, N, C] is [B * N, C], as a matrix product likes it.
    """
    width, heads = model.width, model.heads
    count = (model.image_size // model.patch_size) ** 2 + 1
    rows_shape = graph.integers("shape.rows", [-1, width])
    tokens_shape = graph.integers("shape.tokens", [-1, count, width])
    heads_shape = graph.integers("shape.heads", [-1, count, 3, heads, width // heads])

    rows = graph.add(
        "Reshape", [graph.layer_norm(tokens, f"{block}norm1"), rows_shape], f"{block}attn.in"
    )
    qkv = graph.linear(rows, f"{block}attn.qkv", f"{block}attn.qkv.out")
    qkv = graph.add("Reshape", [qkv, heads_shape], f"{block}attn.heads")
    qkv = graph.add("Transpose", [qkv], f"{block}attn.split", perm=[2, 0, 3, 1, 4])
    query, key, value = (
        graph.add("Gather", [qkv, graph.integers(name, index)], f"{block}attn.{part}", axis=0)
        for index, (name, part) in enumerate(
            (("first", "query"), ("second", "key"), ("third", "value"))
        )
    )
    scale = graph.scalar("scale", (width // heads) ** -0.5)
    query = graph.add("Mul", [query, scale], f"{block}attn.query.scaled")
    key = graph.add("Transpose", [key], f"{block}attn.key.turned", perm=[0, 1, 3, 2])
    weights = graph.add("MatMul", [query, key], f"{block}attn.scores")
    weights = graph.add("Softmax", [weights], f"{block}attn.weights", axis=-1)
    mixed = graph.add("MatMul", [weights, value], f"{block}attn.mixed")
    mixed = graph.add("Transpose", [mixed], f"{block}attn.merged", perm=[0, 2, 1, 3])
    rows = graph.add("Reshape", [mixed, rows_shape], f"{block}attn.rows")
    rows = graph.linear(rows, f"{block}attn.proj", f"{block}attn.proj.out")
    rows = graph.add("Reshape", [rows, tokens_shape], f"{block}attn.out")
    tokens = graph.add("Add", [tokens, rows], f"{block}attn.residual")

    rows = graph.add(
        "Reshape", [graph.layer_norm(tokens, f"{block}norm2"), rows_shape], f"{block}mlp.in"
    )
    hidden = graph.linear(rows, f"{block}mlp.fc1", f"{block}mlp.fc1.out")
    hidden = _gelu(graph, hidden, f"{block}mlp.gelu")
    rows = graph.linear(hidden, f"{block}mlp.fc2", f"{block}mlp.fc2.out")
    rows = graph.add("Reshape", [rows, tokens_shape], f"{block}mlp.out")
    return graph.add("Add", [tokens, rows], f"{block}mlp.residual")


def _gelu(graph: _Graph, value: str, name: str) -> str:
    """Half of x (1 + erf(x / sqrt 2)), in the order that ONNX Runtime fuses."""
    scaled = graph.add("Div", [value, graph.scalar("sqrt2", math.sqrt(2))], f"{name}.scaled")
    error = graph.add("Erf", [scaled], f"{name}.erf")
    shifted = graph.add("Add", [error, graph.scalar("one", 1.0)], f"{name}.shifted")
    doubled = graph.add("Mul", [value, shifted], f"{name}.doubled")
    return graph.add("Mul", [doubled, graph.scalar("half", 0.5)], name)
