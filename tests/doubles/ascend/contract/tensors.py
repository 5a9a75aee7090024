"""Tensors on the device: handles that nothing can be done with, but copying them.

A handle is a tensor of torch's ``meta`` device, which has a shape and no memory: whatever slips
past its refusals finds no numbers there. Its numbers are the machine's, and computed when the
machine gets to them. Operators see a handle as torch 2.0 shows it to Python, without its class:
they know it by its address.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from typing import Any, Optional

from torch import Tensor

from .machine import MACHINE, refuse

torch: Any = importlib.import_module("torch")
_plain_to: Any = torch.Tensor.to
_HANDLES: dict[int, Callable[[], Any]] = {}
_RETURNED: dict[int, tuple[Any, Any, Callable[[], Any]]] = {}


class NpuTensor(Tensor):
    """A handle: it can be passed to a compiled module, and copied."""

    numbers: Callable[[], Any]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Optional[dict[str, Any]] = None
    ) -> Any:
        """Let a compiled module have it, and nothing else."""
        if isinstance(func, torch._C.ScriptMethod):
            with torch._C.DisableTorchFunctionSubclass():
                result = func(*args, **(kwargs or {}))
            returned = _RETURNED.pop(result._cdata, None)
            return result if returned is None else on_device(*returned)
        name = getattr(func, "__name__", func)
        raise refuse("order", f"an npu tensor can only be copied: {name}")

    def to(self, *arguments: Any, **keywords: Any) -> Any:
        """Copy: to the CPU, which waits for the device, or to where it is."""
        if keywords or len(arguments) != 1 or not isinstance(arguments[0], str):
            raise refuse("arguments", 'an npu tensor is copied by .to("cpu") or .to("npu:ID")')
        MACHINE.step("copy")
        if arguments[0] == "cpu":
            MACHINE.drain()
            return self.numbers().clone()
        _check_place(arguments[0])
        return self


def on_device(shape: Any, dtype: Any, numbers: Callable[[], Any]) -> NpuTensor:
    """Return a handle to numbers that are there once the machine has got to them."""
    handle: NpuTensor = torch.Tensor._make_subclass(NpuTensor, _empty(shape, dtype))
    vars(handle)["numbers"] = numbers
    with torch._C.DisableTorchFunctionSubclass():
        address = handle._cdata
    _HANDLES[address] = numbers
    weakref.finalize(handle, _HANDLES.pop, address)
    return handle


def returned(shape: Any, dtype: Any, numbers: Callable[[], Any]) -> Any:
    """Return what an operator gives back, which becomes a handle when the module returns."""
    result = _empty(shape, dtype)
    _RETURNED[result._cdata] = (shape, dtype, numbers)
    return result


def numbers_of(tensor: Any) -> Optional[Callable[[], Any]]:
    """Return where a handle's numbers come from; None for a tensor of the CPU."""
    with torch._C.DisableTorchFunctionSubclass():
        return _HANDLES.get(tensor._cdata)


def _empty(shape: Any, dtype: Any) -> Any:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def activate() -> None:
    """Let tensors be copied to the device, as importing the package does."""
    torch.Tensor.to = _to


def deactivate() -> None:
    """Undo it."""
    torch.Tensor.to = _plain_to


def _to(self: Any, *arguments: Any, **keywords: Any) -> Any:
    place = arguments[0] if arguments else keywords.get("device")
    if not (isinstance(place, str) and place.startswith("npu")):
        return _plain_to(self, *arguments, **keywords)
    MACHINE.step("copy")
    _check_place(place)
    if len(arguments) + len(keywords) != 1:
        raise refuse("arguments", "a copy to the device changes nothing else")
    copied = _plain_to(self, "cpu").clone()
    return on_device(copied.shape, copied.dtype, lambda: copied)


def _check_place(place: str) -> None:
    if place != f"npu:{MACHINE.device}":
        raise refuse("device", f"{place} is not npu:{MACHINE.device}, which was set")
