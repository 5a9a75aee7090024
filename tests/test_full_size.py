"""All five ViT-Base variants at full size: from .npz to a verified bundle and back to NumPy.

Each variant's checkpoint has random weights in the real layout; the bundle is made with the
public command. What judges it is plain NumPy in float64, and timm's module as it was converted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from examples.make_checkpoint import make
from tests.support import numpy_vit
from tests.support.untyped import torch
from vitaie.builder.build import TARGETS, TOLERANCE
from vitaie.builder.checkpoint import describe, read_checkpoint
from vitaie.builder.device_graph import make_device_graph
from vitaie.builder.module import convert
from vitaie.manifests.card import load_card
from vitaie.runtime import load, verify
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._goldens import relative_difference
from vitaie.runtime._torchscript import load_module
from vitaie.runtime._verify import UNSEEN

VARIANTS = (
    "vit_base_patch8_224",
    "vit_base_patch16_224",
    "vit_base_patch16_384",
    "vit_base_patch32_224",
    "vit_base_patch32_384",
)


class Made(NamedTuple):
    variant: str
    checkpoint: Path
    bundle: Path


SHORT = "vit_base_patch32_224"  # of 50 tokens: with more, one variant takes minutes on two cores
PARAMS = [
    name if name == SHORT else pytest.param(name, marks=pytest.mark.long) for name in VARIANTS
]


@pytest.fixture(scope="module", params=PARAMS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a checkpoint under its published name and the bundle made from it."""
    variant = str(request.param)
    folder = tmp_path_factory.mktemp(variant)
    card = load_card(variant)
    checkpoint = make(card, folder / card.checkpoint)
    command = [str(Path(sys.executable).parent / "vitaie-build"), "bundle", variant, "--quiet"]
    command.append("--skip-measure")
    done = subprocess.run(
        [*command, "--checkpoint", str(checkpoint), "--store", str(folder / "bundles")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Made(variant, checkpoint, Path(done.stdout.splitlines()[-1]))


def random_images(variant: str, batch: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    size = load_card(variant).model.image_size
    return np.random.default_rng(batch).uniform(-1, 1, (batch, 3, size, size)).astype(np.float32)


def test_the_arrays_are_recognised(made: Made) -> None:
    assert describe(made.checkpoint).variant == made.variant


def test_the_bundle_gives_the_numpy_logits(made: Made) -> None:
    """Both targets, within 1e-4 of the largest logit, on a golden and on a random image."""
    with read_checkpoint(made.checkpoint) as arrays, load(made.bundle) as model:
        golden = model.preprocess(made.bundle / model.manifest.goldens[0].source)
        images = np.concatenate([golden[np.newaxis], random_images(made.variant, 1)])
        expected = numpy_vit.logits({name: arrays.array(name) for name in arrays.shapes}, images)
        got = {TARGETS[0]: model.logits(images)}
    with load(made.bundle, target=TARGETS[1]) as model:
        got[TARGETS[1]] = model.logits(images)
    for target, logits in got.items():
        difference = np.abs(logits - expected).max() / np.abs(expected).max()
        assert difference <= 1e-4, target


def test_a_batch_of_eight_equals_the_module(made: Made) -> None:
    images = random_images(made.variant, 8)
    with read_checkpoint(made.checkpoint) as arrays, torch.inference_mode():
        module = convert(arrays, load_card(made.variant).model)
        expected = module(torch.from_numpy(images)).numpy()
    del module
    for target in TARGETS:
        with load(made.bundle, target=target) as model:
            assert relative_difference(model.logits(images), expected) <= TOLERANCE


def test_the_graph_for_a_device_gives_the_source_models_logits(made: Made) -> None:
    with open_bundle(made.bundle) as bundle:
        source, model = load_module(bundle, "the test"), bundle.manifest.model
    graph = make_device_graph(source, model, 2)
    assert graph.difference <= 1e-5
    assert graph.before.total > graph.after.total


def test_the_bundle_is_verified_and_hardly_larger_than_the_checkpoint(made: Made) -> None:
    verdict = verify(made.bundle)
    unchecked = {claim.claim for claim in verdict.claims if claim.status != "true"}
    assert unchecked == UNSEEN
    files = [path for path in made.bundle.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert size <= 1.02 * made.checkpoint.stat().st_size
