"""Half precision as a device may compute it: every operator's result is rounded to 16 bits.

Products are summed in float32 and rounded once; LayerNorm and softmax are the operators that they
are made of, each rounded, which is how an overflow of the squares comes about.
"""

from __future__ import annotations

import importlib
from typing import Any, Optional

torch: Any = importlib.import_module("torch")
_dispatch: Any = importlib.import_module("torch.utils._python_dispatch")
_pytree: Any = importlib.import_module("torch.utils._pytree")


def rounded(value: Any) -> Any:
    """Round a float32 tensor to half precision, infinity where it is over 65504."""
    is_float = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.half().float() if is_float else value


def _layer_norm(x: Any, shape: Any, weight: Any, bias: Any, epsilon: float) -> tuple[Any, Any, Any]:
    mean = rounded(x.mean(-1, keepdim=True))
    centred = rounded(x - mean)
    variance = rounded(rounded(centred * centred).mean(-1, keepdim=True))
    inverse = rounded(torch.rsqrt(rounded(variance + epsilon)))
    return rounded(rounded(rounded(centred * inverse) * weight) + bias), mean, inverse


def _softmax(x: Any, dimension: int, _half_to_float: bool) -> Any:
    powers = rounded(torch.exp(rounded(x - x.max(dimension, keepdim=True).values)))
    return rounded(powers / rounded(powers.sum(dimension, keepdim=True)))


_DECOMPOSED = {"aten.native_layer_norm.default": _layer_norm, "aten._softmax.default": _softmax}


def half_precision() -> Any:
    """Return a context in which torch computes like that."""

    class Half(_dispatch.TorchDispatchMode):  # type: ignore[misc]  # torch has no types for it
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict[str, Any]] = None
        ) -> Any:
            args = _pytree.tree_map(rounded, args)
            compute: Any = _DECOMPOSED.get(str(func), func)
            return _pytree.tree_map(rounded, compute(*args, **(kwargs or {})))

    return Half()
