"""The graph that a device's compiler gets: traced, proven equal to ``model.ts``, and counted.

A compiler for a device takes what it is given, and says little of what it could not take. So
the graph is made for it (``vit.Steps``), and nothing is handed over that is not known to give
the source model's logits, or that holds an operator known not to be supported.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import torch

from vitaie.builder.vit import Steps, build
from vitaie.manifests.errors import BuildError
from vitaie.runtime._goldens import relative_difference

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Model

TOLERANCE = 1e-5
"""What the graph's logits may differ from the source model's, relative to the largest logit."""

FUSED = "scaled_dot_product_attention"
"""Support for it is documented nowhere, and the vendor's own ports replace it."""


class Operators(NamedTuple):
    """How often each torch operator stands in a graph."""

    counts: dict[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())


class DeviceGraph(NamedTuple):
    """A traced module of one batch size, and the operators of ``model.ts`` and of it."""

    module: torch.jit.ScriptModule
    before: Operators
    after: Operators
    difference: float


def make_device_graph(
    source: torch.jit.ScriptModule, model: Model, batch: int, steps: Optional[Steps] = None
) -> DeviceGraph:
    """Return the graph for a device, once it has given the source model's logits on the CPU.

    Args:
        source: ``model.ts``, loaded from verified bytes.
        model: The architecture, as the manifest has it.
        batch: The batch size that the device will compute.
        steps: What is done to the graph; all of it otherwise.

    Raises:
        BuildError: The graph does not give the source's logits within 1e-5 of the largest one, or
            holds a fused attention that was not asked for.
    """
    steps = steps or Steps()
    module = build(model, source.state_dict(), batch, steps)
    shape = (batch, 3, model.image_size, model.image_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode(False), torch.no_grad():
        traced = trace(module, images)
        difference = relative_difference(traced(images).numpy(), source(images).numpy())
    if difference > TOLERANCE:
        raise BuildError(
            "E_BUILD_DISAGREES",
            "the graph for the device",
            expected=f"at most {TOLERANCE:.0e} of the largest logit",
            got=f"{difference:.1e}",
        )
    after = count_operators(traced)
    if steps.unfused_attention:
        check_unfused(after)
    return DeviceGraph(traced, count_operators(source), after, difference)


def trace(module: torch.nn.Module, images: torch.Tensor) -> torch.jit.ScriptModule:
    """Return a module as TorchScript, traced on a batch."""
    with warnings.catch_warnings():
        # TorchScript is deprecated since torch 2.5, and it is what the devices load.
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        jit: Any = torch.jit  # its tracer has no types
        traced: torch.jit.ScriptModule = jit.trace(module, images, check_trace=False)
        return traced


def check_unfused(operators: Operators) -> None:
    """See that no fused attention is among a graph's operators.

    Raises:
        BuildError: One is.
    """
    for name in operators.counts:
        if FUSED in name:
            raise BuildError("E_BUILD_DISAGREES", "the graph for the device", got=name)


def count_operators(module: torch.jit.ScriptModule) -> Operators:
    """Return how often each ``aten`` operator stands in a module's graph, all calls inlined."""
    graph: Any = module.inlined_graph
    return count_in(graph)


def count_in(graph: Any) -> Operators:
    """Return how often each ``aten`` operator stands in a graph of torch's."""
    found = Counter(_kinds(graph.nodes()))
    return Operators({name: found[name] for name in sorted(found)})


def _kinds(nodes: Any) -> list[str]:
    kinds: list[str] = []
    for node in nodes:
        if node.kind().startswith("aten::"):
            kinds.append(str(node.kind()))
        for block in node.blocks():
            kinds += _kinds(block.nodes())
    return kinds
