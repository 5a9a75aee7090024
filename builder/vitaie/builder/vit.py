"""A Vision Transformer of our own, in plain torch, built the way a device's compiler wants it.

What is compiled for a device must not depend on the release of timm at hand, nor on how that
release writes attention. The parameters have timm's names, so ``model.ts``'s state dict fills it,
and every ``Step`` that makes the graph fit a device can be switched off alone. The model is the
sequence of its named values (Dosovitskiy et al. 2021, arXiv:2010.11929, equations 1 to 4): a
graph is traced over it, and the analysis of half precision looks at each value on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitaie.manifests.errors import BuildError

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Model

ROW_MULTIPLE = 16
"""Matrix units of the Ascend family multiply blocks of 16 by 16: rows beyond are padding anyway."""

_EPSILON = 1e-6  # of every LayerNorm, in flax and in timm


@dataclass(frozen=True)
class Steps:
    """What is done to the graph for a device; each step is exact.

    Attributes:
        unfused_attention: Scale, product, softmax, product; no fused operator.
        merged_tokens: [B, N, C] is [B * N, C] between the attentions, as matrix products like it.
        padded_tokens: The token rows are padded to a multiple of 16 outside attention.
        static_shapes: Sizes are constants of one batch size; else they are read off the input.
    """

    unfused_attention: bool = True
    merged_tokens: bool = True
    padded_tokens: bool = True
    static_shapes: bool = True


class Arithmetic:
    """How the operators compute: as torch does. The analysis puts rounding in their place."""

    def convolution(self, images: Tensor, layer: nn.Conv2d) -> Tensor:
        """[B, 3, S, S] to [B, C, S / patch, S / patch]."""
        return cast("Tensor", layer(images))

    def linear(self, rows: Tensor, layer: nn.Linear) -> Tensor:
        """[..., in] to [..., out]."""
        return cast("Tensor", layer(rows))

    def layer_norm(self, rows: Tensor, layer: nn.LayerNorm) -> Tensor:
        """Normalise over the last dimension."""
        return cast("Tensor", layer(rows))

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """[..., n, k] by [..., k, m]."""
        return left @ right

    def softmax(self, scores: Tensor) -> Tensor:
        """Over the last dimension."""
        return scores.softmax(-1)

    def gelu(self, rows: Tensor) -> Tensor:
        """By the error function."""
        return functional.gelu(rows)

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        """With broadcasting."""
        return left + right

    def scale(self, values: Tensor, factor: float) -> Tensor:
        """By a constant."""
        return values * factor


_TORCH = Arithmetic()


class _PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPSILON)
        self.attn = _Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=_EPSILON)
        self.mlp = _Mlp(width, hidden)


class VisionTransformer(nn.Module):
    """float32 [B, 3, S, S] to logits [B, classes]; B is ``batch`` where the shapes are static."""

    padding: Tensor

    def __init__(self, model: Model, batch: int, steps: Steps) -> None:
        """Describe the modules; the parameters have no memory yet (``build`` gives them theirs)."""
        super().__init__()
        self._steps = steps
        self._static_batch = batch
        self._heads = model.heads
        self._width = model.width
        self._tokens = (model.image_size // model.patch_size) ** 2 + 1
        multiple = ROW_MULTIPLE if steps.padded_tokens else 1
        self._rows = -(-self._tokens // multiple) * multiple
        with torch.device("meta"):
            self.cls_token = nn.Parameter(torch.empty(1, 1, model.width))
            self.pos_embed = nn.Parameter(torch.empty(1, self._tokens, model.width))
            self.patch_embed = _PatchEmbed(model.patch_size, model.width)
            self.blocks = nn.ModuleList(
                _Block(model.width, model.mlp_dim) for _ in range(model.depth)
            )
            self.norm = nn.LayerNorm(model.width, eps=_EPSILON)
            self.head = nn.Linear(model.width, model.classes)
        if self._rows > self._tokens:
            rows = self._rows - self._tokens
            padding = torch.zeros(batch if steps.static_shapes else 1, rows, model.width)
            self.register_buffer("padding", padding, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits: the last of the values."""
        return deque(self.values(images), maxlen=1)[0][1]

    def values(
        self, images: Tensor, arithmetic: Arithmetic = _TORCH
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield each value by the layer's name, in order; the last is the logits, named ``head``.

        Tokens are [B, N, C], or [B * N, C] where they are merged, with N padded where it is.
        A norm's value follows that of its input, and a softmax's that of its scores.
        """
        batch = self._batch(images)
        patches = arithmetic.convolution(images, self.patch_embed.proj)
        yield "patch_embed.proj", patches
        tokens = torch.cat(
            [self.cls_token.expand(batch, -1, -1), patches.flatten(2).transpose(1, 2)], 1
        )
        tokens = self._outside(arithmetic.add(tokens, self.pos_embed), batch)
        yield "pos_embed", tokens
        for index, module in enumerate(self.blocks):
            block, name = cast("_Block", module), f"blocks.{index}"
            rows = arithmetic.layer_norm(tokens, block.norm1)
            yield f"{name}.norm1", rows
            qkv = arithmetic.linear(rows, block.attn.qkv)
            yield f"{name}.attn.qkv", qkv
            for part, mixed in self._attention(qkv, batch, arithmetic):
                rows = mixed
                yield f"{name}.attn.{part}", rows
            rows = arithmetic.linear(self._outside(rows, batch), block.attn.proj)
            yield f"{name}.attn.proj", rows
            tokens = arithmetic.add(tokens, rows)
            yield f"{name}.attn.residual", tokens
            rows = arithmetic.layer_norm(tokens, block.norm2)
            yield f"{name}.norm2", rows
            rows = arithmetic.linear(rows, block.mlp.fc1)
            yield f"{name}.mlp.fc1", rows
            rows = arithmetic.gelu(rows)
            yield f"{name}.mlp.gelu", rows
            rows = arithmetic.linear(rows, block.mlp.fc2)
            yield f"{name}.mlp.fc2", rows
            tokens = arithmetic.add(tokens, rows)
            yield f"{name}.mlp.residual", tokens
        # A norm looks at one row at a time: only the class token's is needed.
        classifier = tokens.reshape(batch, self._rows, self._width)[:, 0]
        yield "classifier", classifier
        classifier = arithmetic.layer_norm(classifier, self.norm)
        yield "norm", classifier
        yield "head", arithmetic.linear(classifier, self.head)

    def _attention(
        self, qkv: Tensor, batch: int, arithmetic: Arithmetic
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the scores, the weights, and what they mix, [B, N, C], of the tokens alone."""
        head_width = self._width // self._heads
        qkv = qkv.reshape(batch, self._rows, 3 * self._width)
        if self._rows > self._tokens:
            qkv = torch.ops.aten.slice(qkv, 1, 0, self._tokens)  # indexing would trace two slices
        qkv = qkv.reshape(batch, self._tokens, 3, self._heads, head_width).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        if self._steps.unfused_attention:
            query = arithmetic.scale(query, head_width**-0.5)
            weights = arithmetic.matmul(query, key.transpose(-2, -1))
            yield "scores", weights
            weights = arithmetic.softmax(weights)
            yield "softmax", weights
            mixed = arithmetic.matmul(weights, value)
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        yield "context", mixed.transpose(1, 2).reshape(batch, self._tokens, self._width)

    def _outside(self, tokens: Tensor, batch: int) -> Tensor:
        """Return tokens [B, N, C] as they are outside attention: padded, and merged."""
        if self._rows > self._tokens:
            static = self._steps.static_shapes
            padding = self.padding if static else self.padding.expand(batch, -1, -1)
            tokens = torch.cat([tokens, padding], 1)
        return tokens.reshape(-1, self._width) if self._steps.merged_tokens else tokens

    def _batch(self, images: Tensor) -> int:
        return self._static_batch if self._steps.static_shapes else images.shape[0]


def build(
    model: Model, state: Mapping[str, Tensor], batch: int, steps: Optional[Steps] = None
) -> VisionTransformer:
    """Return the model with ``state``'s tensors, which it shares and never changes.

    Args:
        model: The architecture, as the manifest has it.
        state: timm's parameters by name, such as ``model.ts``'s state dict.
        batch: The batch size of a graph with static shapes.
        steps: What is done for the device; all of it otherwise.

    Raises:
        BuildError: A parameter is missing, one too many, or of another shape.
    """
    module = VisionTransformer(model, batch, steps or Steps())
    wanted = dict(module.named_parameters())
    for name in sorted(wanted.keys() | state.keys()):
        got, expected = state.get(name), wanted.get(name)
        if got is None or expected is None or got.shape != expected.shape:
            raise BuildError(
                "E_BUILD_DISAGREES",
                "model.ts",
                field=name,
                expected="no such parameter" if expected is None else list(expected.shape),
                got="none" if got is None else list(got.shape),
            )
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, nn.Parameter(got.detach(), requires_grad=False))
    return module.eval()
