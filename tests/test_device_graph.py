"""The graph made for a device: the source model's logits, whatever is done to it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.untyped import torch
from vitaie.builder.device_graph import (
    FUSED,
    TOLERANCE,
    check_unfused,
    count_operators,
    make_device_graph,
)
from vitaie.builder.vit import Steps, VisionTransformer, build
from vitaie.manifests.card import known_cards, load_card
from vitaie.manifests.errors import BuildError
from vitaie.manifests.manifest import Model
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._torchscript import load_module

ALL_STEPS = [Steps(*switches) for switches in product((True, False), repeat=4)]


class Source(NamedTuple):
    module: Any
    model: Model


@pytest.fixture(scope="module", name="source")
def _source(small_bundle: Path) -> Source:
    with open_bundle(small_bundle) as bundle:
        return Source(load_module(bundle, "the test"), bundle.manifest.model)


def name_of(steps: Steps) -> str:
    return " ".join(name for name, on in vars(steps).items() if on) or "none"


def shapes(module: Any, kind: str) -> list[tuple[int, ...]]:
    """Return the shape of the first input of each operator of a kind in a traced graph."""
    nodes = [node for node in module.inlined_graph.nodes() if node.kind() == kind]
    return [tuple(next(node.inputs()).type().sizes()) for node in nodes]


@pytest.mark.parametrize("steps", ALL_STEPS, ids=name_of)
def test_every_combination_of_steps_gives_the_source_models_logits(
    source: Source, steps: Steps
) -> None:
    for batch in (1, 3):
        graph = make_device_graph(*source, batch, steps)
        assert graph.difference <= TOLERANCE == 1e-5


def test_all_steps_are_taken_unless_told_otherwise(source: Source) -> None:
    graph = make_device_graph(*source, 2)
    assert graph.after == make_device_graph(*source, 2, Steps(True, True, True, True)).after


def test_attention_is_unfused_where_asked_for_and_the_fused_one_is_refused(source: Source) -> None:
    check_unfused(make_device_graph(*source, 1).after)
    fused = make_device_graph(*source, 1, Steps(unfused_attention=False)).after
    assert fused.counts[f"aten::{FUSED}"] == source.model.depth
    with pytest.raises(BuildError, match=FUSED):
        check_unfused(fused)


def test_merged_tokens_make_every_matrix_product_with_weights_one_of_two_dimensions(
    source: Source,
) -> None:
    merged = make_device_graph(*source, 3).module
    apart = make_device_graph(*source, 3, Steps(merged_tokens=False)).module
    assert {len(shape) for shape in shapes(merged, "aten::linear")} == {2}
    assert {len(shape) for shape in shapes(apart, "aten::linear")[:-1]} == {3}


def test_padded_rows_are_seen_everywhere_but_in_attention_and_in_the_head(source: Source) -> None:
    tokens, depth = 5, source.model.depth
    padded = make_device_graph(*source, 3, Steps(merged_tokens=False)).module
    *rows, head = shapes(padded, "aten::linear")
    assert {shape[1] for shape in rows} == {16}
    assert head == (3, source.model.width)
    assert {shape[2] for shape in shapes(padded, "aten::matmul")} == {tokens}
    assert len(shapes(padded, "aten::softmax")) == depth
    bare = make_device_graph(*source, 3, Steps(merged_tokens=False, padded_tokens=False)).module
    assert {shape[1] for shape in shapes(bare, "aten::linear")[:-1]} == {tokens}


@pytest.mark.parametrize(
    ("variant", "rows"),
    [
        ("vit_base_patch8_224", (785, 800)),
        ("vit_base_patch16_224", (197, 208)),
        ("vit_base_patch16_384", (577, 592)),
        ("vit_base_patch32_224", (50, 64)),
        ("vit_base_patch32_384", (145, 160)),
    ],
)
def test_rows_of_the_published_variants(variant: str, rows: tuple[int, int]) -> None:
    model = load_card(variant).model_info()
    assert (model.image_size // model.patch_size) ** 2 + 1 == rows[0]
    module = VisionTransformer(model, 1, Steps())
    assert rows[0] + module.padding.shape[1] == rows[1]


def test_static_shapes_leave_no_arithmetic_of_shapes_in_the_graph(source: Source) -> None:
    arithmetic = {"aten::size", "aten::Int", "aten::mul", "aten::floor_divide"}
    static = make_device_graph(*source, 2)
    found = arithmetic & set(static.after.counts)
    assert found == {"aten::mul"}
    assert static.after.counts["aten::mul"] == source.model.depth, "the scale of each attention"
    dynamic = make_device_graph(*source, 2, Steps(static_shapes=False))
    assert "aten::size" in dynamic.after.counts
    images = torch.zeros(5, 3, source.model.image_size, source.model.image_size)
    assert dynamic.module(images).shape == (5, source.model.classes), "it takes any batch"


def test_operators_are_counted_before_and_after(source: Source) -> None:
    graph = make_device_graph(*source, 2)
    assert graph.before == count_operators(source.module)
    assert graph.before.total == sum(graph.before.counts.values()) > graph.after.total > 0
    layers = {"aten::layer_norm": 2 * source.model.depth + 1, "aten::softmax": source.model.depth}
    for name, count in layers.items():
        assert graph.before.counts[name] == graph.after.counts[name] == count
    assert "aten::dropout" in graph.before.counts
    assert "aten::dropout" not in graph.after.counts


def test_operators_in_branches_are_counted_too() -> None:
    unit = torch.jit.CompilationUnit(
        "def branching(x: Tensor, on: bool):\n  if on:\n    x = x.relu()\n  return x\n"
    )
    assert count_operators(unit.branching).counts["aten::relu"] == 1


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_a_state_that_is_not_the_models_is_refused(source: Source, fault: str) -> None:
    state = dict(source.module.state_dict())
    if fault == "missing":
        del state["norm.bias"]
    elif fault == "extra":
        state["norm.more"] = torch.zeros(1)
    else:
        state["norm.bias"] = torch.zeros(3)
    with pytest.raises(BuildError, match=r"norm\.(bias|more)"):
        build(source.model, state, 1)


def test_another_model_is_not_taken_for_the_source(source: Source) -> None:
    """Heads change no parameter: only the logits tell."""
    other = source.model.model_copy(update={"heads": 2 * source.model.heads})
    with pytest.raises(BuildError, match="largest logit"):
        make_device_graph(source.module, other, 1)


def test_the_source_is_left_as_it_is(source: Source) -> None:
    before = {name: tensor.clone() for name, tensor in source.module.state_dict().items()}
    make_device_graph(*source, 2)
    after = source.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rows_are_padded_to_a_multiple_of_16_for_every_card() -> None:
    cards = known_cards()
    assert len(cards) >= 5
    for card in cards:
        model = card.model_info()
        module = VisionTransformer(model, 1, Steps())
        tokens = (model.image_size // model.patch_size) ** 2 + 1
        assert (tokens + module.padding.shape[1]) % 16 == 0
