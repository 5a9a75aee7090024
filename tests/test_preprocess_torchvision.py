"""Preprocessing equals torchvision's transforms to the last bit, both profiles, every kind.

torchvision resizes as the Pillow at hand does, and from version 12 on Pillow may take the
vertical pass first; there the reference is told to take the order that the manifest names.
"""

from __future__ import annotations

import importlib
import itertools
import random
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support import images
from tests.support.images import SPECS
from vitaie.builder._torchvision import import_torchvision
from vitaie.manifests.manifest import Preprocess
from vitaie.runtime import _images, _preprocess

PASS_ORDER_VARIES = int(PIL.__version__.split(".")[0]) >= 12


@pytest.fixture(scope="module", name="transforms")
def transforms_fixture() -> Iterator[Any]:
    import_torchvision()
    torch = importlib.import_module("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small, and waiting threads cost more
    yield importlib.import_module("torchvision.transforms")
    torch.set_num_threads(threads)


@pytest.fixture
def _horizontal_first(monkeypatch: pytest.MonkeyPatch) -> None:
    one_pass: Any = Image.Image.resize

    def resize(self: Image.Image, size: tuple[int, int], resample: int) -> Image.Image:
        narrow = one_pass(self, (size[0], self.height), resample)
        resized: Image.Image = one_pass(narrow, size, resample)
        return resized

    if PASS_ORDER_VARIES:
        monkeypatch.setattr(Image.Image, "resize", resize)


def compose(transforms: Any, spec: Preprocess) -> Any:
    size = spec.resize.size
    return transforms.Compose(
        [
            transforms.Resize(
                size if spec.resize.mode == "shorter_side" else (size, size),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.CenterCrop(spec.crop.size),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )


@pytest.mark.usefixtures("_horizontal_first")
@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
def test_every_image_equals_torchvision_to_the_last_bit(transforms: Any) -> None:
    references = [compose(transforms, spec) for spec in SPECS]
    count = 0
    for name, data in itertools.chain(images.stable_corpus(), images.encoded_corpus()):
        with Image.open(BytesIO(data)) as image:
            rgb = image.convert("RGB")
        opened = _images.open_rgb(data)
        for spec, reference in zip(SPECS, references):
            expected: NDArray[np.float32] = reference(rgb).numpy()
            actual = _preprocess.preprocess(opened, spec)
            assert actual.dtype == expected.dtype
            assert actual.shape == expected.shape
            assert actual.tobytes() == expected.tobytes(), (name, spec.profile, spec.crop.size)
        count += 1
    assert count == 226


def test_sizes_and_offsets_round_as_torchvision_does(transforms: Any) -> None:
    torch = importlib.import_module("torch")
    functional: Any = transforms.functional
    rng = random.Random(7)
    for number in range(1500):
        width, height = (int(2 ** rng.uniform(5, 12)) for _ in range(2))
        spec = SPECS[number % len(SPECS)]
        size = spec.resize.size
        sizes = [size] if spec.resize.mode == "shorter_side" else [size, size]
        # Tensors of the meta device have a shape and an offset, but no pixels.
        picture = torch.empty((1, height, width), device="meta")
        nearest = transforms.InterpolationMode.NEAREST
        resized = functional.resize(picture, sizes, interpolation=nearest)
        cropped = functional.center_crop(resized, [spec.crop.size])
        top, left = divmod(cropped.storage_offset(), resized.shape[2])
        step = _preprocess.plan(width, height, spec)
        assert (step.height, step.width) == tuple(resized.shape[1:])
        assert (step.top, step.left) == (top, left)
