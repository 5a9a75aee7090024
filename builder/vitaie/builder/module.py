"""A checkpoint's arrays in timm's Vision Transformer.

timm gives the module; the arrays go in one at a time for each processor, from the file that was
hashed, so memory stays at the size of the model.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitaie.builder._torchvision import import_torchvision
from vitaie.manifests.errors import BuildError
from vitaie.runtime._bytes import available_cpus

if TYPE_CHECKING:
    from vitaie.builder.checkpoint import Checkpoint
    from vitaie.manifests.card import Architecture


def import_timm() -> Any:
    """Return timm's Vision Transformer class."""
    import_torchvision()
    return importlib.import_module("timm.models.vision_transformer").VisionTransformer


def create_module(model: Architecture) -> Any:
    """Return timm's module for an architecture, in evaluation mode, its weights not set.

    Random initialisation is skipped: on the meta device where timm can be built there (1.0 and
    newer), else through timm's own ``weight_init="skip"``.
    """
    transformer = import_timm()
    torch: Any = importlib.import_module("torch")

    def build() -> Any:
        return transformer(
            img_size=model.image_size,
            patch_size=model.patch_size,
            num_classes=model.classes,
            embed_dim=model.width,
            depth=model.depth,
            num_heads=model.heads,
            mlp_ratio=model.mlp_dim / model.width,
            weight_init="skip",
        )

    if "device" in inspect.signature(transformer.__init__).parameters:
        with torch.device("meta"):
            module = build()
        module.to_empty(device="cpu")
    else:
        module = build()
    for block in module.blocks:
        # Fused attention is one opaque operator that no device compiler is known to take.
        if hasattr(block.attn, "fused_attn"):
            block.attn.fused_attn = False
    return module.eval().requires_grad_(False)


def convert(checkpoint: Checkpoint, model: Architecture) -> Any:
    """Return timm's module with the checkpoint's weights.

    Args:
        checkpoint: An open checkpoint that was checked against the card.
        model: The card's architecture.

    Raises:
        CheckpointError: An array cannot be read, or is not finite.
        BuildError: timm's module does not have the parameters that the layout gives.
    """
    torch: Any = importlib.import_module("torch")

    module = create_module(model)
    parameters: dict[str, Any] = dict(module.state_dict())
    inferring = torch.is_inference_mode_enabled()  # a switch that each thread has for itself

    def fill(weight: _Weight) -> None:
        array = weight.turn([checkpoint.array(source) for source in weight.sources])
        parameter = parameters.get(weight.name)
        if parameter is None or tuple(parameter.shape) != array.shape:
            raise BuildError(
                "E_BUILD_DISAGREES",
                "timm",
                field=weight.name,
                expected=list(array.shape),
                got="none" if parameter is None else list(parameter.shape),
            )
        with torch.inference_mode(inferring), torch.no_grad():
            parameter.copy_(torch.from_numpy(array))

    weights = list(_weights(model))
    with ThreadPoolExecutor(available_cpus()) as pool:
        for _ in pool.map(fill, weights):
            pass
    left = parameters.keys() - {weight.name for weight in weights}
    if left:
        raise BuildError("E_BUILD_DISAGREES", "timm", field=min(left), got="no array for it")
    return module


class _Weight(NamedTuple):
    """One of timm's parameters, the arrays it is made of, and how they are turned torch's way.

    Flax keeps a dense kernel as [in, out] and a convolution as [h, w, in, out]; torch wants
    [out, in] and [out, in, h, w].
    """

    name: str
    sources: tuple[str, ...]
    turn: Callable[[Sequence[NDArray[np.float32]]], NDArray[np.float32]]


def _as_it_is(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return arrays[0]


def _convolution(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return arrays[0].transpose(3, 2, 0, 1)


def _dense(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return arrays[0].T


def _into_heads(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Query, key and value, [width, heads, width / heads] each, as one [3 width, width]."""
    return np.concatenate([array.reshape(len(array), -1).T for array in arrays])


def _heads_biases(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([array.reshape(-1) for array in arrays])


def _out_of_heads(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """[heads, width / heads, width] as [width, width]."""
    return arrays[0].reshape(-1, arrays[0].shape[-1]).T


def _weights(model: Architecture) -> Iterator[_Weight]:
    """Yield every parameter of timm's module."""
    yield _Weight("cls_token", ("cls",), _as_it_is)
    yield _Weight("pos_embed", ("Transformer/posembed_input/pos_embedding",), _as_it_is)
    yield _Weight("patch_embed.proj.weight", ("embedding/kernel",), _convolution)
    yield _Weight("patch_embed.proj.bias", ("embedding/bias",), _as_it_is)
    for index in range(model.depth):
        source, block = f"Transformer/encoderblock_{index}/", f"blocks.{index}."
        attention = source + "MultiHeadDotProductAttention_1/"
        yield from _norm(f"{block}norm1", f"{source}LayerNorm_0")
        parts = [f"{attention}{part}" for part in ("query", "key", "value")]
        kernels, biases = ([f"{part}/{kind}" for part in parts] for kind in ("kernel", "bias"))
        yield _Weight(f"{block}attn.qkv.weight", tuple(kernels), _into_heads)
        yield _Weight(f"{block}attn.qkv.bias", tuple(biases), _heads_biases)
        yield _Weight(f"{block}attn.proj.weight", (f"{attention}out/kernel",), _out_of_heads)
        yield _Weight(f"{block}attn.proj.bias", (f"{attention}out/bias",), _as_it_is)
        yield from _norm(f"{block}norm2", f"{source}LayerNorm_2")
        yield from _linear(f"{block}mlp.fc1", f"{source}MlpBlock_3/Dense_0")
        yield from _linear(f"{block}mlp.fc2", f"{source}MlpBlock_3/Dense_1")
    yield from _norm("norm", "Transformer/encoder_norm")
    yield from _linear("head", "head")


def _norm(name: str, source: str) -> Iterator[_Weight]:
    yield _Weight(f"{name}.weight", (f"{source}/scale",), _as_it_is)
    yield _Weight(f"{name}.bias", (f"{source}/bias",), _as_it_is)


def _linear(name: str, source: str) -> Iterator[_Weight]:
    yield _Weight(f"{name}.weight", (f"{source}/kernel",), _dense)
    yield _Weight(f"{name}.bias", (f"{source}/bias",), _as_it_is)
