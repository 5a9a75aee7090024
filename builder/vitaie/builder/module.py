"""A checkpoint's arrays in timm's Vision Transformer.

timm gives the module; the arrays go in one at a time, from the file that was hashed, so memory
stays at the size of the model.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vitaie.builder._torchvision import import_torchvision
from vitaie.manifests.errors import BuildError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.builder.checkpoint import Checkpoint
    from vitaie.manifests.card import Architecture


def create_module(model: Architecture) -> Any:
    """Return timm's module for an architecture, in evaluation mode, its weights not set.

    Random initialisation is skipped: on the meta device where timm can be built there (1.0 and
    newer), else through timm's own ``weight_init="skip"``.
    """
    import_torchvision()
    torch: Any = importlib.import_module("torch")
    transformer: Any = importlib.import_module("timm.models.vision_transformer").VisionTransformer

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
    with torch.no_grad():
        for name, array in _weights(checkpoint, model):
            parameter = parameters.pop(name, None)
            if parameter is None or tuple(parameter.shape) != array.shape:
                raise BuildError(
                    "E_BUILD_DISAGREES",
                    "timm",
                    field=name,
                    expected=list(array.shape),
                    got="none" if parameter is None else list(parameter.shape),
                )
            parameter.copy_(torch.from_numpy(array))
    if parameters:
        raise BuildError("E_BUILD_DISAGREES", "timm", field=min(parameters), got="no array for it")
    return module


def _weights(
    checkpoint: Checkpoint, model: Architecture
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield timm's parameter names with the arrays of the augreg layout, turned torch's way.

    Flax keeps a dense kernel as [in, out] and a convolution as [h, w, in, out]; torch wants
    [out, in] and [out, in, h, w].
    """
    array, width = checkpoint.array, model.width
    yield "cls_token", array("cls")
    yield "pos_embed", array("Transformer/posembed_input/pos_embedding")
    yield "patch_embed.proj.weight", array("embedding/kernel").transpose(3, 2, 0, 1)
    yield "patch_embed.proj.bias", array("embedding/bias")
    for index in range(model.depth):
        source, block = f"Transformer/encoderblock_{index}/", f"blocks.{index}."
        attention = source + "MultiHeadDotProductAttention_1/"
        for number, norm in ((1, "LayerNorm_0"), (2, "LayerNorm_2")):
            yield f"{block}norm{number}.weight", array(f"{source}{norm}/scale")
            yield f"{block}norm{number}.bias", array(f"{source}{norm}/bias")
        kernels = [array(f"{attention}{part}/kernel") for part in ("query", "key", "value")]
        biases = [array(f"{attention}{part}/bias") for part in ("query", "key", "value")]
        yield (
            f"{block}attn.qkv.weight",
            np.concatenate([kernel.reshape(width, width).T for kernel in kernels]),
        )
        yield f"{block}attn.qkv.bias", np.concatenate([bias.reshape(width) for bias in biases])
        yield f"{block}attn.proj.weight", array(f"{attention}out/kernel").reshape(width, width).T
        yield f"{block}attn.proj.bias", array(f"{attention}out/bias")
        for number in (1, 2):
            dense = f"{source}MlpBlock_3/Dense_{number - 1}/"
            yield f"{block}mlp.fc{number}.weight", array(f"{dense}kernel").T
            yield f"{block}mlp.fc{number}.bias", array(f"{dense}bias")
    yield "norm.weight", array("Transformer/encoder_norm/scale")
    yield "norm.bias", array("Transformer/encoder_norm/bias")
    yield "head.weight", array("head/kernel").T
    yield "head.bias", array("head/bias")
