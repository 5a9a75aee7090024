"""The analysis of half precision finds what was planted, and names the layer it was planted in."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import SMALL_CARD, SMALL_LABELS
from tests.support import ascend
from tests.support.npz import save
from tests.support.untyped import torch
from vitaie.builder import cli
from vitaie.builder.build import Options, build_bundle
from vitaie.builder.device_graph import make_device_graph
from vitaie.builder.goldens import PHOTOS
from vitaie.builder.half_precision import (
    LARGEST,
    Analysis,
    HalfArithmetic,
    Layer,
    analyze,
    describe,
    rounded,
)
from vitaie.builder.vit import Steps, build
from vitaie.manifests.errors import InputError
from vitaie.manifests.outputs import AnalyzeOutput
from vitaie.runtime import _ascend, load
from vitaie.runtime._ascend import CompileOptions
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._command import run
from vitaie.runtime._report.analysis import check_analyses, read_analysis
from vitaie.runtime._torchscript import load_module

Arrays = dict[str, NDArray[np.float32]]


def planted(small: tuple[Path, Path], folder: Path, plant: Callable[[Arrays], object]) -> Analysis:
    """Build a bundle of the small checkpoint with something planted in it, and analyse that."""
    with np.load(small[1]) as file:
        arrays = {name: file[name] for name in file.files}
    plant(arrays)
    card = folder / "small_vit.toml"
    card.write_text(SMALL_CARD, encoding="utf-8")
    (folder / "small_vit.txt").write_text(SMALL_LABELS, encoding="utf-8")
    checkpoint = save(folder / "planted.npz", arrays)
    return analyze(build_bundle(str(card), checkpoint, Options(store=folder / "store")).path)


def layer(analysis: Analysis, name: str) -> Layer:
    return next(layer for layer in analysis.layers if layer.name == name)


@pytest.fixture(scope="module", name="healthy")
def _healthy(small_bundle: Path) -> Analysis:
    return analyze(small_bundle)


def test_nothing_is_found_where_nothing_is_wrong(healthy: Analysis) -> None:
    assert healthy.first_wrong is None
    assert healthy.flips == ()
    assert healthy.images == len(healthy.manifest.goldens) == 3
    assert all(not layer.risks and layer.cosine > 0.9999 for layer in healthy.layers)


def test_every_layer_is_there_once_and_in_order(healthy: Analysis) -> None:
    names = [layer.name for layer in healthy.layers]
    depth = healthy.manifest.model.depth
    assert len(names) == len(set(names)) == 2 + 12 * depth + 3
    assert names[0] == "patch_embed.proj"
    assert names[-1] == "head"
    for block in range(depth):
        inner = [name for name in names if name.startswith(f"blocks.{block}.")]
        assert [inner[0], inner[-1]] == [f"blocks.{block}.norm1", f"blocks.{block}.mlp.residual"]


def test_magnitudes_are_those_of_the_real_model(small_bundle: Path, healthy: Analysis) -> None:
    with load(small_bundle) as model:
        goldens = [model.preprocess(small_bundle / g.source) for g in model.manifest.goldens]
        largest = float(np.abs(model.logits(np.stack(goldens))).max())
    assert layer(healthy, "head").largest == pytest.approx(largest, rel=1e-5)
    assert layer(healthy, "head").headroom == pytest.approx(LARGEST / largest, rel=1e-5)
    before, norm = layer(healthy, "pos_embed"), layer(healthy, "blocks.0.norm1")
    assert norm.square is not None
    assert norm.square_sum is not None
    assert 0 < norm.square <= (2 * before.largest) ** 2
    width = healthy.manifest.model.width
    assert norm.square <= norm.square_sum <= width * norm.square
    scores = layer(healthy, "blocks.0.attn.scores")
    score = layer(healthy, "blocks.0.attn.softmax").score
    assert score is not None
    assert score <= scores.largest


def test_a_layer_norm_scaled_to_overflow_is_found_and_named(
    small_checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    def plant(arrays: Arrays) -> None:
        arrays["Transformer/encoderblock_1/LayerNorm_2/scale"] *= np.float32(1e5)

    found = planted(small_checkpoint, tmp_path, plant)
    wrong = found.first_wrong
    assert wrong is not None
    assert wrong.name == "blocks.1.norm2"
    assert wrong.largest > LARGEST
    assert wrong.headroom < 1
    assert wrong.overflows > 0
    assert wrong.cosine == 0
    assert "the value overflows" in wrong.risks
    assert "blocks.1.norm2" in "\n".join(describe(found))
    assert "verdict: goes wrong first in blocks.1.norm2." in "\n".join(describe(found))
    assert len(found.flips) == found.images


def test_a_variance_that_overflows_is_found_though_no_value_does(
    small_checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    """The squares overflow on the way to the variance: the known ruin of decomposed LayerNorm."""

    def plant(arrays: Arrays) -> None:
        arrays["embedding/kernel"] *= np.float32(1e3)

    found = planted(small_checkpoint, tmp_path, plant)
    wrong = found.first_wrong
    assert wrong is not None
    assert wrong.name == "blocks.0.norm1"
    assert layer(found, "pos_embed").largest < LARGEST
    assert wrong.square is not None
    assert wrong.square > LARGEST
    assert "the squares of the variance overflow" in wrong.risks


def test_a_sum_of_squares_that_could_overflow_is_a_risk_and_not_wrong() -> None:
    risky = Layer("norm", 10.0, 6e4, 7e5, None, 0, 1.0)
    assert risky.risks == ["the variance overflows if its sum is kept in half precision"]
    assert not risky.wrong


def test_scores_that_softmax_could_not_take_bare_are_a_risk(
    small_checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    def plant(arrays: Arrays) -> None:
        arrays["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"] *= 30

    found = planted(small_checkpoint, tmp_path, plant)
    softmax = layer(found, "blocks.0.attn.softmax")
    assert softmax.score is not None
    assert softmax.score > math.log(LARGEST)
    assert softmax.risks == ["softmax overflows unless the largest score is subtracted first"]


def test_near_ties_flip_and_are_named_with_their_margin(
    small_checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    """Two classes alike but for less than half precision can tell: the first of them wins there."""

    def plant(arrays: Arrays) -> None:
        arrays["head/kernel"][:, 3] = arrays["head/kernel"][:, 2]
        arrays["head/bias"][2:4] = 9, 9.001

    found = planted(small_checkpoint, tmp_path, plant)
    assert found.first_wrong is None
    assert [(flip.exact, flip.half) for flip in found.flips] == [(3, 2)] * found.images
    assert all(0 < flip.margin < 0.0011 for flip in found.flips)
    text = "\n".join(describe(found))
    assert f"the same on 0 of {found.images} goldens" in text
    assert "class 3 becomes class 2; its margin is 0.001" in text


def test_it_agrees_with_the_doubles_own_half_precision(small_bundle: Path) -> None:
    """Two emulations, written apart, of the same assumptions."""
    with open_bundle(small_bundle) as bundle:
        source, model = load_module(bundle, "the test"), bundle.manifest.model
    shape = (2, 3, model.image_size, model.image_size)
    images = np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)
    with torch.no_grad():
        module = build(model, source.state_dict(), 2, Steps())
        *_, (_, logits) = module.values(torch.from_numpy(images), HalfArithmetic())
    graph = make_device_graph(source, model, 2).module
    with ascend.installed("t200"):
        try:
            device = _ascend.open_device()
            compiled = device.compile(graph, CompileOptions(shape, "fp16", 0, "Ascend310P3", False))
            got = device.get(device.run(compiled, device.put(images)))
        finally:
            _ascend.finish()
    assert np.abs(got - logits.numpy()).max() <= 2 * np.spacing(np.float16(np.abs(got).max()))


def test_rounding_is_ieee_half_precision() -> None:
    values = np.array([65504, 65519, 65520, 1 + 2**-11, 1 + 2**-10, 1e-8], np.float32)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)
    assert np.array_equal(rounded(torch.from_numpy(values)).numpy(), expected)
    assert list(np.isinf(expected)) == [False, False, True, False, False, False]


@pytest.fixture(name="data")
def _data(tmp_path: Path) -> Path:
    photos = sorted(PHOTOS.glob("*.jpg"))
    assert len(photos) >= 3
    for index, photo in enumerate(photos):
        folder = tmp_path / "data" / f"c{index % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder)
    return tmp_path / "data"


def test_images_of_a_dataset_are_drawn_by_a_seed(small_bundle: Path, data: Path) -> None:
    first = analyze(small_bundle, data, sample=2, seed=1)
    assert first.inputs == "dataset"
    assert first.images == 2
    assert first.layers == analyze(small_bundle, data, sample=2, seed=1).layers
    assert first.layers != analyze(small_bundle, data, sample=1, seed=2).layers
    assert analyze(small_bundle, data, sample=99).images == len(list(data.rglob("*.jpg")))


def test_a_sample_of_nothing_is_refused(small_bundle: Path, data: Path) -> None:
    with pytest.raises(InputError, match="at least 1"):
        analyze(small_bundle, data, sample=0)


def test_the_command_prints_a_table_and_a_document(
    small_bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["analyze", str(small_bundle), "--data", str(data), "--sample", "2"]
    assert run(cli.app, "vitaie-build", command) == 0
    printed = capsys.readouterr()
    assert "verdict: no layer goes wrong. An emulation on the CPU: no device was asked" in (
        printed.out
    )
    assert "headroom" in printed.out
    assert run(cli.app, "vitaie-build", [*command, "--all", "--quiet"]) == 0
    every = capsys.readouterr()
    assert every.out.count("blocks.1.") == 12
    assert every.err == ""
    assert run(cli.app, "vitaie-build", [*command, "--json", "--quiet"]) == 0
    printed_json = capsys.readouterr().out
    document = AnalyzeOutput.model_validate_json(printed_json)
    assert (document.images, document.inputs, document.first_wrong) == (2, "dataset", None)
    assert len(document.layers) == 29
    file = data.parent / "analysis.json"
    file.write_text(printed_json, encoding="utf-8")
    assert read_analysis(file) == document
    with open_bundle(small_bundle) as bundle:
        check_analyses([(file, document)], [bundle.manifest.content_digest])


def test_a_document_holds_no_number_that_json_has_not(
    small_checkpoint: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plant(arrays: Arrays) -> None:
        arrays["Transformer/encoder_norm/scale"] *= 0
        arrays["Transformer/encoder_norm/bias"] *= 0

    found = planted(small_checkpoint, tmp_path, plant)
    assert layer(found, "norm").headroom == math.inf
    assert run(cli.app, "vitaie-build", ["analyze", str(found.folder), "--json"]) == 0
    document = AnalyzeOutput.model_validate_json(capsys.readouterr().out)
    norm: Any = next(row for row in document.layers if row.name == "norm")
    assert (norm.largest, norm.headroom, norm.cosine) == (0, None, 1)
