"""model.ts and model.onnx: what they hold, what they must not, and that they never vary."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import numpy_vit
from tests.support.bundles import copy_bundle, put
from tests.support.untyped import onnx, torch
from vitaie.builder.build import TOLERANCE
from vitaie.builder.checkpoint import read_checkpoint
from vitaie.builder.module import convert
from vitaie.builder.onnx_graph import IR_VERSION, OPSET
from vitaie.builder.torchscript import export_torchscript
from vitaie.manifests.card import load_card
from vitaie.manifests.errors import BuildError
from vitaie.manifests.manifest import Manifest
from vitaie.runtime import load, verify
from vitaie.runtime._goldens import relative_difference

Checkpoint = tuple[Path, Path]

# TorchScript itself is deprecated; the runtime says so nowhere, these tests load it by hand.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.load.:DeprecationWarning")


def manifest_of(bundle: Path) -> Manifest:
    return Manifest.from_bytes((bundle / "manifest.json").read_bytes())


def test_logits_equal_the_published_description(small_checkpoint: Checkpoint) -> None:
    path, npz = small_checkpoint
    card = load_card(path)
    images = np.random.default_rng(1).uniform(-1, 1, (3, 3, 32, 32)).astype(np.float32)
    with read_checkpoint(npz) as arrays:
        module = convert(arrays, card.model)
        expected = numpy_vit.logits({name: arrays.array(name) for name in arrays.shapes}, images)
    with torch.inference_mode():
        got = module(torch.from_numpy(images)).numpy()
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_both_targets_give_the_modules_logits(
    small_checkpoint: Checkpoint, small_bundle: Path, batch: int
) -> None:
    path, npz = small_checkpoint
    images = np.random.default_rng(batch).uniform(-1, 1, (batch, 3, 32, 32)).astype(np.float32)
    with read_checkpoint(npz) as arrays, torch.inference_mode():
        expected = convert(arrays, load_card(path).model)(torch.from_numpy(images)).numpy()
    for target in ("cpu", "torchscript-cpu-fp32"):
        with load(small_bundle, target=target) as model:
            assert relative_difference(model.logits(images), expected) <= TOLERANCE


def test_an_export_returns_what_the_module_gave_on_the_example(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    path, npz = small_checkpoint
    images = np.random.default_rng(2).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    with read_checkpoint(npz) as arrays:
        module = convert(arrays, load_card(path).model)
    export = export_torchscript(module, images, tmp_path / "model.ts")
    with torch.inference_mode():
        expected = module(torch.from_numpy(images)).numpy()
    assert np.abs(export.logits - expected).max() <= 1e-6 * np.abs(expected).max()


def test_no_fused_attention_is_in_the_graph(small_bundle: Path) -> None:
    graph = str(torch.jit.load(small_bundle / "model.ts").inlined_graph)
    assert "aten::softmax" in graph
    assert "scaled_dot_product_attention" not in graph


def test_fused_attention_is_refused(tmp_path: Path) -> None:
    def forward(_self: Any, images: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(images, images, images)

    fused = type("Fused", (torch.nn.Module,), {"forward": forward})
    with pytest.raises(BuildError, match="scaled_dot_product_attention"):
        export_torchscript(fused(), np.zeros((1, 3, 32, 32), np.float32), tmp_path / "model.ts")


def test_torchscript_is_fp32_and_takes_no_gradient(small_bundle: Path) -> None:
    state = torch.jit.load(small_bundle / "model.ts").state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert not any(tensor.requires_grad for tensor in state.values())


def test_archive_holds_no_path_of_the_build(small_bundle: Path) -> None:
    folders = [os.sep + part for part in Path(torch.__file__).parts[1:3]]
    with zipfile.ZipFile(small_bundle / "model.ts") as archive:
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.compress_type == zipfile.ZIP_STORED
            assert not info.filename.endswith((".debug_pkl", "serialization_id"))
            if "/data/" not in info.filename:
                data = archive.read(info)
                assert b"site-packages" not in data
                assert not any(os.fsencode(folder + os.sep) in data for folder in folders)


def test_weights_are_in_the_bundle_once(small_bundle: Path) -> None:
    manifest = manifest_of(small_bundle)
    archive = (small_bundle / "model.ts").read_bytes()
    state = torch.jit.load(small_bundle / "model.ts").state_dict()
    assert {weight.name for weight in manifest.weights} == set(state)
    for weight in manifest.weights:
        assert weight.offset % 64 == 0
        data = archive[weight.offset : weight.offset + weight.length]
        assert data == state[weight.name].numpy().tobytes()
    assert sum(weight.length for weight in manifest.weights) == 4 * manifest.model.parameters


def test_onnx_is_opset_17_ir_8_and_passes_the_checker(small_bundle: Path) -> None:
    onnx.checker.check_model(str(small_bundle / "model.onnx"), full_check=True)
    model = onnx.load(str(small_bundle / "model.onnx"), load_external_data=False)
    assert model.ir_version == IR_VERSION == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert OPSET == 17


def test_weights_table_is_the_graphs_external_set(small_bundle: Path) -> None:
    model = onnx.load(str(small_bundle / "model.onnx"), load_external_data=False)
    external = {
        tensor.name: (
            tuple(tensor.dims),
            {entry.key: entry.value for entry in tensor.external_data},
        )
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    assert external == {
        weight.name: (
            weight.shape,
            {
                "location": "model.ts",
                "offset": str(weight.offset),
                "length": str(weight.length),
            },
        )
        for weight in manifest_of(small_bundle).weights
    }


def test_a_second_export_in_the_same_process_is_the_same_bytes_whatever_the_example(
    tmp_path: Path, small_checkpoint: Checkpoint, small_bundle: Path
) -> None:
    path, npz = small_checkpoint
    with read_checkpoint(npz) as arrays:
        module = convert(arrays, load_card(path).model)
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        example = np.full((number + 1, 3, 32, 32), number, np.float32)
        export_torchscript(module, example, tmp_path / str(number) / "model.ts")
        data = (tmp_path / str(number) / "model.ts").read_bytes()
        assert data == (small_bundle / "model.ts").read_bytes()


_ENVIRONMENTS = (
    {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
    {"TZ": "America/Lima", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "2"},
)


def files_of(bundle: Path) -> dict[str, str]:
    return {
        str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in bundle.rglob("*")
        if path.is_file()
    }


def build_elsewhere(
    folder: Path, variant: str, checkpoint: Path, environment: dict[str, str], umask: int
) -> Path:
    """Build with the command, from another folder and in another environment."""
    folder.mkdir(parents=True)
    command = Path(sys.executable).parent / "vitaie-build"
    shell = f'umask {umask:o} && exec "$@"'
    arguments = ["bundle", variant, "--checkpoint", str(checkpoint), "--store", "s", "--quiet"]
    arguments.append("--skip-measure")
    done = subprocess.run(
        ["sh", "-c", shell, "sh", str(command), *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.strip()


def test_builds_elsewhere_differ_in_no_byte(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    card, npz = small_checkpoint
    first, second = (
        build_elsewhere(tmp_path / name, str(card), npz, environment, umask)
        for name, environment, umask in zip(
            ("a", "b/with a blank/ünï"), _ENVIRONMENTS, (0o022, 0o077)
        )
    )
    one, other = files_of(first), files_of(second)
    del one["manifest.json"], other["manifest.json"]
    assert one == other
    assert manifest_of(first).content_digest == manifest_of(second).content_digest


def test_a_graph_that_mixes_the_images_of_a_batch_is_not_true(
    small_bundle: Path, tmp_path: Path
) -> None:
    """Alone, each image has its own logits; in a batch, all have those of the first."""
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    model = onnx.load(str(bundle / "model.onnx"), load_external_data=False)
    graph, name = model.graph, model.graph.output[0].name
    last = next(node for node in graph.node if name in node.output)
    last.output[0] = "raw"
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for constant, values in (("mix.first", [0]), ("mix.classes", [classes])):
        raw = np.array(values, np.int64).tobytes()
        graph.initializer.append(
            onnx.helper.make_tensor(constant, onnx.TensorProto.INT64, [1], raw, raw=True)
        )
    for operator, given, made in (
        ("Gather", ["raw", "mix.first"], "mix.row"),
        ("Shape", ["raw"], "mix.shape"),
        ("Gather", ["mix.shape", "mix.first"], "mix.size"),
        ("Concat", ["mix.size", "mix.classes"], "mix.whole"),
        ("Expand", ["mix.row", "mix.whole"], name),
    ):
        options = {"axis": 0} if operator != "Expand" and operator != "Shape" else {}
        graph.node.append(onnx.helper.make_node(operator, given, [made], **options))
    put(bundle, "model.onnx", model.SerializeToString())
    verdict = verify(bundle, target="cpu")
    (false,) = [claim for claim in verdict.claims if claim.status == "false"]
    assert false.claim == "goldens in onnxruntime-cpu-fp32"
    assert "between a batch and each by itself" in false.detail
