"""The smallest whole way through a device, in a process of its own: compile, run, compare.

    python -m vitaie.builder.probe DEVICE SOC

Prints one JSON object, ``ProbeOutput``. It is not a measurement of speed.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import torch

from vitaie.builder.device_graph import make_device_graph, trace
from vitaie.builder.vit import Steps, VisionTransformer, build
from vitaie.manifests.errors import TargetUnavailable
from vitaie.manifests.manifest import Model
from vitaie.manifests.outputs import ProbeOutput
from vitaie.runtime import _ascend
from vitaie.runtime._goldens import relative_difference

TOLERANCE = 1e-3
"""Full precision is asked for; which sums a device keeps in which order nobody knows."""

_TINY = Model(
    architecture="",
    timm_tag="",
    image_size=32,
    patch_size=8,
    width=64,
    depth=2,
    heads=2,
    mlp_dim=128,
    classes=10,
    parameters=1,
    gflop=1.0,
)
_PLAIN = Steps(
    unfused_attention=True, merged_tokens=False, padded_tokens=False, static_shapes=False
)


def probe(device: int, soc: str) -> ProbeOutput:
    """Compile a tiny model with random weights, run it, and compare it with the CPU.

    Raises:
        TargetUnavailable: The package or the device refuses.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = VisionTransformer(_TINY, 1, _PLAIN).named_parameters()
    state = {
        name: torch.randn(parameter.shape, generator=generator) * 0.1 for name, parameter in shapes
    }
    shape = (1, 3, _TINY.image_size, _TINY.image_size)
    images = torch.randn(shape, generator=generator)
    with torch.no_grad():
        source = trace(build(_TINY, state, 1, _PLAIN), images)
        expected = np.asarray(source(images))
    graph = make_device_graph(source, _TINY, 1)
    opened = _ascend.open_device(device)
    options = _ascend.CompileOptions(shape, "fp32", 0, soc, allow_fallback=False)
    start = time.perf_counter()
    compiled = opened.compile(graph.module, options)
    compiled_at = time.perf_counter()
    result = opened.run(compiled, opened.put(np.asarray(images)))
    ran_at = time.perf_counter()
    difference = relative_difference(opened.get(result), expected)
    wrong = "" if difference <= TOLERANCE else "the logits are not the CPU's"
    return ProbeOutput(
        error=wrong,
        compile_s=compiled_at - start,
        run_s=ran_at - compiled_at,
        difference=difference if np.isfinite(difference) else None,
    )


def main() -> None:
    """Answer, give the device back, and end before torch takes itself apart."""
    try:
        answer = probe(int(sys.argv[1]), sys.argv[2])
    except TargetUnavailable as error:
        said = ": ".join(filter(None, (error.where, error.field, error.sentence, error.got)))
        answer = ProbeOutput(error=said, compile_s=None, run_s=None, difference=None)
    print(answer.model_dump_json(), flush=True)
    _ascend.finish()
    os._exit(0)


if __name__ == "__main__":
    main()
