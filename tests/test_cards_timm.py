"""The built-in cards say what timm builds under the same name."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from vitaie.builder._torchvision import import_torchvision
from vitaie.manifests.card import Card, known_cards, load_card


def _timm_model(card: Card) -> tuple[Any, dict[str, Any]]:
    """Return timm's own model of the card's architecture, without weights, and its settings."""
    import_torchvision()
    timm: Any = importlib.import_module("timm")
    torch: Any = importlib.import_module("torch")
    if timm.__version__.startswith("0.6"):  # no tags, and its constructor needs real tensors
        model = timm.create_model(card.architecture)
        return model, model.default_cfg
    with torch.device("meta"):
        model = timm.create_model(f"{card.architecture}.{card.timm_tag}")
    return model, model.pretrained_cfg


@pytest.mark.parametrize("name", [card.name for card in known_cards()])
def test_built_in_card_says_what_timm_builds(name: str) -> None:
    card = load_card(name)
    model, settings = _timm_model(card)
    numbers = card.model
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    width, patch, mlp = numbers.width, numbers.patch_size, numbers.mlp_dim
    expected: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, numbers.tokens, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (numbers.classes, width),
        "head.bias": (numbers.classes,),
    }
    for index in range(numbers.depth):
        for layer, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", mlp, width),
            ("mlp.fc2", width, mlp),
        ):
            expected[f"blocks.{index}.{layer}.weight"] = (rows, columns)
            expected[f"blocks.{index}.{layer}.bias"] = (rows,)
        for layer in ("norm1", "norm2"):
            expected[f"blocks.{index}.{layer}.weight"] = (width,)
            expected[f"blocks.{index}.{layer}.bias"] = (width,)
    assert shapes == expected
    assert sum(value.numel() for value in model.parameters()) == card.parameters
    assert {block.attn.num_heads for block in model.blocks} == {numbers.heads}
    assert settings["input_size"] == (3, numbers.image_size, numbers.image_size)
    assert settings["url"].endswith(f"/augreg/{card.checkpoint}")
    preprocess = card.preprocess("timm")
    assert (settings["mean"], settings["std"]) == (preprocess.mean, preprocess.std)
    assert int(numbers.image_size / settings["crop_pct"]) == preprocess.resize.size
    assert settings["interpolation"] == preprocess.resize.interpolation
