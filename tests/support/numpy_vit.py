"""The Vision Transformer in plain NumPy float64: the judge that conversions are held against.

Written from the published description (Dosovitskiy et al. 2021, arXiv:2010.11929, equations 1 to
4 and appendix A), with GELU by the error function and LayerNorm's epsilon 1e-6; it shares no code
and no library with what it judges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def logits(arrays: Mapping[str, NDArray[Any]], images: NDArray[Any]) -> Float64:
    """Return the logits, float64 [B, classes], of ``images`` [B, 3, H, W].

    ``arrays`` are a checkpoint's in the augreg layout. Width, depth, heads and patch size are
    read off their shapes.
    """
    arrays = _Float64Arrays(arrays)
    z = _embed(arrays, images.astype(np.float64))
    depth = sum(name.endswith("/LayerNorm_0/scale") for name in arrays)
    for index in range(depth):
        block = f"Transformer/encoderblock_{index}"
        z = z + _attention(
            arrays,
            f"{block}/MultiHeadDotProductAttention_1",
            _layer_norm(arrays, f"{block}/LayerNorm_0", z),
        )
        z = z + _mlp(arrays, f"{block}/MlpBlock_3", _layer_norm(arrays, f"{block}/LayerNorm_2", z))
    y = _layer_norm(arrays, "Transformer/encoder_norm", z[:, 0])
    return y @ arrays["head/kernel"] + arrays["head/bias"]


class _Float64Arrays(Mapping[str, Float64]):
    """Arrays that become float64 when they are used, so that never all of them are."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Float64:
        return self._arrays[name].astype(np.float64)

    def __iter__(self) -> Any:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _embed(arrays: Mapping[str, Float64], images: Float64) -> Float64:
    """Equation 1: patches by the kernel, the class token in front, positions added."""
    kernel = arrays["embedding/kernel"]
    size, _, channels, width = kernel.shape
    batch, _, height, breadth = images.shape
    rows, columns = height // size, breadth // size
    grid = images.reshape(batch, channels, rows, size, columns, size)
    patches = grid.transpose(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
    tokens = patches @ kernel.reshape(-1, width) + arrays["embedding/bias"]
    cls = np.broadcast_to(arrays["cls"], (batch, 1, width))
    return (
        np.concatenate([cls, tokens], axis=1) + arrays["Transformer/posembed_input/pos_embedding"]
    )


def _layer_norm(arrays: Mapping[str, Float64], name: str, x: Float64) -> Float64:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normal: Float64 = centred / np.sqrt(variance + 1e-6)
    return normal * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def _attention(arrays: Mapping[str, Float64], name: str, x: Float64) -> Float64:
    """Equation 2 and appendix A, equations 5 to 8: multi-head self-attention."""
    batch, tokens, width = x.shape
    heads = arrays[f"{name}/query/kernel"].shape[1]

    def project(which: str) -> Float64:
        """Return [B, heads, N, D]."""
        kernel = arrays[f"{name}/{which}/kernel"].reshape(width, -1)
        projected = x @ kernel + arrays[f"{name}/{which}/bias"].reshape(-1)
        return projected.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3)

    query, key, value = project("query"), project("key"), project("value")
    scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed = (weights @ value).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)
    out: Float64 = mixed @ arrays[f"{name}/out/kernel"].reshape(-1, width)
    return out + arrays[f"{name}/out/bias"]


def _mlp(arrays: Mapping[str, Float64], name: str, x: Float64) -> Float64:
    """Equation 3's MLP: two layers with GELU(x) = x Φ(x) between."""
    hidden: Float64 = x @ arrays[f"{name}/Dense_0/kernel"] + arrays[f"{name}/Dense_0/bias"]
    hidden = hidden * 0.5 * (1.0 + _erf(hidden / math.sqrt(2.0)))
    return hidden @ arrays[f"{name}/Dense_1/kernel"] + arrays[f"{name}/Dense_1/bias"]
