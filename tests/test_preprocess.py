"""Preprocessing: the same bits under any Pillow, sizes as stated, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.support import images
from tests.support.images import PNG_KINDS, SPECS, photograph, png_of_rows, spec
from vitaie.manifests.errors import ImageError
from vitaie.runtime import _images, _preprocess
from vitaie.runtime._preprocess import Plan

TIMM, MODELZOO = SPECS[0], SPECS[2]


def test_every_image_gives_the_same_bits_under_any_pillow() -> None:
    expected = json.loads(images.DIGESTS.read_text(encoding="utf-8"))
    actual = {name: images.digests(data) for name, data in images.stable_corpus()}
    assert len(expected) == 151
    assert actual == expected


def test_the_arithmetic_is_float32_in_the_stated_order() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = _preprocess.tensor(pixels, MODELZOO)
    assert tensor.shape == (3, 16, 16)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    for channel in range(3):
        mean, std = (np.float32(v[channel]) for v in (MODELZOO.mean, MODELZOO.std))
        table = [(np.float32(v) / np.float32(255) - mean) / std for v in range(256)]
        assert np.array_equal(tensor[channel].ravel(), np.array(table, np.float32))


def test_the_widest_mean_and_std_give_finite_values() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for mean in (-1000.0, 1000.0, 5e-324):
        for std in (1e-6, 1000.0):
            widest = MODELZOO.model_copy(update={"mean": (mean,) * 3, "std": (std,) * 3})
            assert np.isfinite(_preprocess.tensor(pixels, widest)).all()


def test_the_stages_are_what_preprocess_does() -> None:
    for number, chosen in enumerate(SPECS):
        image = photograph(number, 300, 411)
        crop = _preprocess.crop(image, chosen)
        assert crop.shape == (chosen.crop.size, chosen.crop.size, 3)
        assert crop.dtype == np.uint8
        assert crop.flags.c_contiguous
        tensor = _preprocess.tensor(crop, chosen)
        assert np.array_equal(_preprocess.preprocess(image, chosen), tensor)
        assert np.array_equal(_preprocess.crop(_images.decode(image), chosen), crop)


def test_the_resize_is_two_one_axis_passes_horizontal_first() -> None:
    for number, (width, height) in enumerate(images.SIZES):
        image = Image.fromarray(photograph(number, width, height))
        for chosen in SPECS:
            step = _preprocess.plan(width, height, chosen)
            resized = image
            for size in ((step.width, height), (step.width, step.height)):
                if resized.size != size:
                    resized = resized.resize(size, Image.Resampling.BICUBIC)
            side = chosen.crop.size
            whole = np.asarray(resized)[step.top : step.top + side, step.left : step.left + side]
            assert np.array_equal(_preprocess.crop(image, chosen), whole)


def test_the_callers_image_is_left_as_it_was() -> None:
    for width, height in ((224, 224), (248, 248), (384, 384), (300, 500)):
        image = Image.fromarray(photograph(0, width, height))
        before = image.tobytes()
        for chosen in SPECS:
            _preprocess.crop(image, chosen)[:] = 0
        assert image.tobytes() == before


def test_users_pixel_limit_of_pillow_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photograph(0, 300, 500)
    expected = _preprocess.preprocess(image, TIMM)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert np.array_equal(_preprocess.preprocess(image, TIMM), expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), Plan(248, 248, 12, 12)),
        ((500, 375), Plan(330, 248, 53, 12)),
        ((375, 500), Plan(248, 330, 12, 53)),
        ((640, 427), Plan(371, 248, 74, 12)),  # 73.5 rounds to the even 74
        ((427, 637), Plan(248, 369, 12, 72)),  # 72.5 rounds to the even 72
        ((248, 300), Plan(248, 300, 12, 38)),
    ],
)
def test_the_shorter_side_is_resized_and_the_centre_cropped(
    size: tuple[int, int], expected: Plan
) -> None:
    assert _preprocess.plan(*size, TIMM) == expected


def test_a_square_resize_keeps_no_aspect() -> None:
    assert _preprocess.plan(4000, 10, MODELZOO) == Plan(248, 248, 12, 12)
    assert _preprocess.plan(4000, 10, spec("modelzoo", 384, 384)) == Plan(384, 384, 0, 0)


@pytest.mark.parametrize(
    ("width", "height", "profile", "refused"),
    [
        (1, 3000, "timm", True),  # to 248x744000
        (3000, 1, "timm", True),
        (1, 3000, "modelzoo", False),
        (1, 1091, "timm", False),  # to 248x270568: 67,100,864 pixels of 67,108,864
        (1, 1092, "timm", True),
        (65535, 1, "timm", True),
        (65535, 1, "modelzoo", False),
        (270600, 1, "modelzoo", False),
        (270601, 1, "modelzoo", True),  # small in the end, but large between the passes
        (1, 270601, "modelzoo", True),
    ],
)
def test_no_step_of_the_resize_may_have_more_than_2_to_26_pixels(
    width: int, height: int, profile: str, refused: bool
) -> None:
    chosen = spec(profile, 248, 224)
    if not refused:
        _preprocess.plan(width, height, chosen)
        return
    with pytest.raises(ImageError) as caught:
        _preprocess.plan(width, height, chosen, where="strip.png")
    assert caught.value.code == "E_IMAGE_TOO_LARGE"
    assert str(caught.value).startswith("E_IMAGE_TOO_LARGE: strip.png: ")
    assert f"{width}x{height}" in str(caught.value)


def test_what_would_grow_too_large_is_refused_before_it_is_resized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resized(*_: object) -> None:
        raise AssertionError("resized")

    monkeypatch.setattr(Image.Image, "resize", resized)
    strip = png_of_rows(1, 3000, PNG_KINDS["grey8"], b"\0\1" * 3000)
    with pytest.raises(ImageError, match="E_IMAGE_TOO_LARGE: image bytes: .* 248x744000"):
        _preprocess.preprocess(strip, TIMM)


def test_a_strip_at_the_limit_is_resized() -> None:
    strip = png_of_rows(1, 1091, PNG_KINDS["grey8"], b"\0\7" * 1091)
    assert (_preprocess.crop(strip, TIMM) == 7).all()
    wide = png_of_rows(65535, 1, PNG_KINDS["grey8"], b"\0" + b"\7" * 65535)
    assert (_preprocess.crop(wide, MODELZOO) == 7).all()


def test_the_committed_photographs_are_credited() -> None:
    names = sorted(path.name for path in images.PHOTOS.glob("*.jpg"))
    credits = (images.PHOTOS / "credits.toml").read_text(encoding="utf-8")
    prose = (images.PHOTOS / "CREDITS.md").read_text(encoding="utf-8")
    assert len(names) >= 3
    for name in names:
        assert f'file = "{name}"' in credits
        assert f"## {name}\n" in prose
        assert (images.PHOTOS / name).stat().st_size < 120_000
