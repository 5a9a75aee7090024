"""What a compiled module is made of: TorchScript that calls the double's operators.

TorchScript reads this source, and takes comments about types for its own.
"""

# mypy: ignore-errors
# pyright: basic

from typing import Tuple  # noqa: UP035 - what TorchScript of torch 2.0 reads

import torch


class OnDevice(torch.nn.Module):
    """An engine, which is attached when it is loaded: not without the package."""

    def __init__(self, engine):
        super().__init__()
        self.engine = engine

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.ops.aie_double.refuses_input(self.engine, x):
            raise RuntimeError(torch.ops.aie_double.reason(x))
        return torch.ops.aie_double.execute(self.engine, x)

    @torch.jit.export
    def __getstate__(self):
        return (self.engine, self.training)

    @torch.jit.export
    def __setstate__(self, state: Tuple[torch.Tensor, bool]):
        self.engine = state[0]
        self.training = state[1]
        if torch.ops.aie_double.refuses_engine(self.engine):
            raise RuntimeError(torch.ops.aie_double.reason(self.engine))


class OnHost(torch.nn.Module):
    """The double puts all or nothing on the device: this is nothing."""

    def __init__(self, source):
        super().__init__()
        self.source = source

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.ops.aie_double.refuses_on_host(x):
            raise RuntimeError(torch.ops.aie_double.reason(x))
        result = self.source(torch.ops.aie_double.to_host(x))
        return torch.ops.aie_double.to_npu(result, x)
