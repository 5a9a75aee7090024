"""The default engine: ONNX Runtime on the CPU, fed with verified weights, never with a path.

The weights go in through ``SessionOptions.add_external_initializers``, which copies them and
was seen to read no file. ``add_initializer`` would share the memory, but ONNX Runtime 1.32
still opens the external file beside it and uses what it finds there.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vitaie.manifests.errors import BundleError, VitaieError
from vitaie.runtime._bundle import MANIFEST_NAME
from vitaie.runtime._onnx_graph import check_operators, external_tensors
from vitaie.runtime._torchscript_archive import tensor_places

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Target
    from vitaie.runtime._bundle import Bundle


def missing() -> str:
    """Return what this machine lacks to run the engine: nothing, it is in the base install."""
    return ""


class Engine:
    """An ONNX Runtime session on the bundle's graph."""

    def __init__(self, bundle: Bundle, target: Target, threads: int | None) -> None:
        """Build the session while the weights are still being hashed; keep it if they are right.

        Raises:
            BundleError: The graph's external tensors are not the weights table, a digest is
                wrong, or ONNX Runtime refuses the graph.
        """
        weights = bundle.begin("model.ts")
        # Before the import: later ONNX Runtime has already written a device id into the home
        # folder and looked up where to send it.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        onnxruntime: Any = importlib.import_module("onnxruntime")
        graph = bundle.read("model.onnx").tobytes()
        check_weights(bundle, graph)
        check_operators(graph, str(bundle.folder / "model.onnx"))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is raised; stderr is not its to write to
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if threads is not None:
            options.intra_op_num_threads = threads
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        )[target.optim_level]
        table = bundle.manifest.weights
        options.add_external_initializers(
            [weight.name for weight in table],
            [
                onnxruntime.OrtValue.ortvalue_from_numpy(
                    weights.data[weight.offset : weight.offset + weight.length]
                    .view(np.float32)
                    .reshape(weight.shape)
                )
                for weight in table
            ],
        )
        session: Any = None
        try:
            session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime documents no exception classes
            bundle.read("model.ts")
            raise _refused(bundle, error) from None
        check_places(bundle, bundle.read("model.ts"))
        self._session = session
        self._input = bundle.manifest.inputs[0].name
        self._outputs = [bundle.manifest.outputs[0].name]
        _check_interface(bundle, session)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [B, classes] for float32 [B, 3, H, W], any B of at least 1."""
        result: NDArray[np.float32] = self._session.run(self._outputs, {self._input: batch})[0]
        return result


def check_weights(bundle: Bundle, graph: bytes) -> None:
    """See that the graph's external tensors are exactly the manifest's weights table.

    Raises:
        BundleError: One is missing, one too many, or one lies elsewhere.
    """
    where = str(bundle.folder / "model.onnx")
    expected = {
        weight.name: (weight.shape, "model.ts", weight.offset, weight.length)
        for weight in bundle.manifest.weights
    }
    seen: set[str] = set()
    for tensor in external_tensors(graph, where):
        place = (tensor.shape, tensor.location, tensor.offset, tensor.length)
        listed = expected.get(tensor.name)
        if tensor.name in seen or listed != place:
            raise BundleError(
                "E_ONNX_WEIGHTS",
                where,
                field=tensor.name,
                expected=_told(*listed) if listed else "no such external tensor",
                got="the same name twice" if tensor.name in seen else _told(*place),
            )
        seen.add(tensor.name)
    for name in expected:
        if name not in seen:
            raise BundleError("E_ONNX_WEIGHTS", where, field=name, got="not in the graph")


def _told(shape: Sequence[int], location: str, offset: int, length: int) -> str:
    return f"float32 {list(shape)}, {length} bytes from {offset} of {location}"


def check_places(bundle: Bundle, data: NDArray[np.uint8]) -> None:
    """See that each weight is all of one tensor of ``model.ts``, and no part of the zip around it.

    Raises:
        BundleError: One is not, or ``model.ts`` is not built as a bundle's is.
    """
    places = tensor_places(data.data, str(bundle.folder / "model.ts"))
    for index, weight in enumerate(bundle.manifest.weights):
        if (weight.offset, weight.length) not in places:
            raise BundleError(
                "E_MANIFEST_WEIGHTS",
                bundle.folder / MANIFEST_NAME,
                field=f"weights[{index}].offset",
                expected="the place of a tensor",
                got=f"{weight.offset} and {weight.length} bytes",
            )


def _check_interface(bundle: Bundle, session: Any) -> None:
    for kind, actual, declared in (
        ("input", session.get_inputs(), bundle.manifest.inputs),
        ("output", session.get_outputs(), bundle.manifest.outputs),
    ):
        got = "; ".join(f"{each.name}: {each.type} {list(each.shape)}" for each in actual)
        expected = "; ".join(f"{each.name}: tensor(float) {list(each.shape)}" for each in declared)
        if got != expected:
            raise BundleError(
                "E_BUNDLE_ENGINE",
                bundle.folder / "model.onnx",
                field=kind,
                expected=expected,
                got=got,
            )


def _refused(bundle: Bundle, error: Exception) -> VitaieError:
    return BundleError("E_BUNDLE_ENGINE", bundle.folder / "model.onnx", got=error)
