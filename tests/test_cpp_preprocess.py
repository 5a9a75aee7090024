"""The C++ preprocessing: Python's pixels and tensors to the bit, and Python's verdicts."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
import pytest

from tests import test_images
from tests.support import cpp_preprocess, images
from tests.support.cpp_preprocess import Comparison, Cpp, compare, program, python_answer
from tests.support.images import PNG_KINDS, SPECS, png_of_rows, spec

TIMM, MODELZOO = SPECS[0], SPECS[2]
SMALL = spec("timm", 20, 16)
ODD = (spec("timm", 201, 199), spec("modelzoo", 97, 64))
"""Sizes whose rows do not fill SIMD registers."""


def test_both_profiles_of_2300_images_are_pythons_to_the_bit() -> None:
    corpus = itertools.chain(
        cpp_preprocess.photographs(),
        images.stable_corpus(),
        images.encoded_corpus(),
        cpp_preprocess.good_images(seed=1, count=2100),
    )
    result = compare(corpus, (TIMM, MODELZOO))
    assert result.differences == []
    assert result.refused == 0
    assert result.images == 5 + 151 + 75 + 2100


def test_other_sizes_of_resize_and_crop_are_pythons_to_the_bit() -> None:
    corpus = itertools.chain(
        cpp_preprocess.photographs(), cpp_preprocess.good_images(seed=2, count=100)
    )
    result = compare(corpus, (SPECS[1], SPECS[3], *ODD, SMALL))
    assert result.differences == []
    assert result.images == 105


@pytest.mark.long
def test_20000_images_are_pythons_to_the_bit() -> None:
    result = compare(cpp_preprocess.good_images(seed=3, count=20000), (TIMM, *ODD))
    assert result.differences == []
    assert result.refused == 0


def test_every_kernel_of_this_machine_was_compared() -> None:
    done = subprocess.run(
        [program("vitaie-preprocess-file"), "kernels"], capture_output=True, text=True, check=True
    )
    features = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    emulated = "VITAIE_CPP_BUILD" in os.environ
    if platform.machine() == "x86_64" and "avx2" in features and not emulated:
        assert done.stdout.split() == ["avx2", "scalar"]
    else:
        assert "scalar" in done.stdout.split()


# Verdicts


def judged_alike(data: bytes, code: str) -> None:
    with Cpp((SMALL,)) as program:
        program.ask(data)
        answer = program.answer()
    assert answer == python_answer(data, (SMALL,))
    assert answer[0] == code if code else not answer[0].startswith("E_")


@pytest.mark.parametrize("name", test_images.HOSTILE)
def test_hostile_bytes_have_pythons_code(name: str) -> None:
    make, code = test_images.HOSTILE[name]
    judged_alike(make(), code)


@pytest.mark.parametrize("name", test_images.METADATA)
def test_what_only_describes_a_jpeg_changes_nothing(name: str) -> None:
    judged_alike(test_images.METADATA[name], "")


@pytest.mark.parametrize("name", test_images.CHUNKS)
def test_what_only_describes_a_png_changes_nothing(name: str) -> None:
    judged_alike(test_images.with_chunk(*test_images.CHUNKS[name]), "")


def cut_off() -> Iterator[tuple[str, bytes]]:
    for path in sorted(images.COMMITTED_JPEGS.glob("*.jpg")):
        data = path.read_bytes()
        yield from cpp_preprocess.broken_ends(data, len(data) // 40)
    yield from cpp_preprocess.broken_ends(test_images.JPEG, 5)
    for kind in PNG_KINDS.values():
        yield from cpp_preprocess.broken_ends(images.png(test_images.PIXELS[:5, :9], kind), 3)


def test_a_file_that_is_cut_off_has_pythons_code() -> None:
    result = compare(cut_off(), (SMALL,))
    assert result.differences == []
    assert result.refused == result.images > 1000


OTHER_MACHINE = "VITAIE_CPP_EMULATED" in os.environ
"""Whether the programs run on another kind of processor than Python here: libjpeg-turbo's own
instructions give other pixels there where damage takes a coefficient out of its range."""


def damaged(seed: int, count: int) -> None:
    corpus = list(cpp_preprocess.damaged_images(seed, count))
    exact = [item for item in corpus if not cpp_preprocess.progressive(item[1])]
    result = compare(exact, (SMALL,), codes_only=OTHER_MACHINE)
    assert 0.4 * result.images < result.refused < 0.9 * result.images
    only_in_the_library(exact, result, codes_only=OTHER_MACHINE)
    only_in_the_library(corpus, compare(corpus, (SMALL,), codes_only=True), codes_only=True)


def only_in_the_library(
    corpus: list[tuple[str, bytes]], result: Comparison, *, codes_only: bool
) -> None:
    """See that what differs, in at most one image of 50,000, differs by libjpeg-turbo's version.

    Pillow brings a newer one than Debian, which gives up on some damaged arithmetic coding. With
    that one in the program's place nothing differs.
    """
    names = {difference.split(":")[0] for difference in result.differences}
    assert len(names) <= result.images // 50_000, result.differences
    if names:
        (library,) = Path(PIL.__file__).parents[1].glob("pillow.libs/libjpeg-*.so*")
        again = [item for item in corpus if item[0] in names]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(library))
            assert compare(again, (SMALL,), codes_only=codes_only).differences == []


def test_damage_has_pythons_code_or_pixels() -> None:
    damaged(seed=1, count=8000)


@pytest.mark.long
def test_much_damage_has_pythons_code_or_pixels() -> None:
    damaged(seed=2, count=200_000)


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1092), (1, 1091), (65535, 1)])
def test_a_strip_has_pythons_code_or_pixels(size: tuple[int, int]) -> None:
    rows = (b"\0" + b"\7" * size[0]) * size[1]
    data = png_of_rows(*size, PNG_KINDS["grey8"], rows)
    with Cpp((TIMM, MODELZOO)) as program:
        program.ask(data)
        assert program.answer() == python_answer(data, (TIMM, MODELZOO))


def test_the_pixel_limit_is_judged_before_pixels_are_decoded() -> None:
    for height, code in ((2**13 + 1, "E_IMAGE_TOO_LARGE"), (2**13, "E_IMAGE_BROKEN")):
        judged_alike(png_of_rows(2**13, height, PNG_KINDS["rgb8"], b""), code)


def test_a_path_has_pythons_code(tmp_path: Path) -> None:
    cases = test_images.unreadable(tmp_path)
    (tmp_path / "photo.png").write_bytes(test_images.JPEG)  # the name says nothing
    (tmp_path / "text").write_bytes(b"text")
    with Cpp((SMALL,), kind="paths") as program:
        for name, path in cases.items():
            program.ask(os.fsencode(path))
            assert program.answer() == ["E_IMAGE_UNREADABLE"], name
        program.ask(os.fsencode(tmp_path / "text"))
        assert program.answer() == ["E_IMAGE_FORMAT"]
        program.ask(os.fsencode(tmp_path / "photo.png"))
        assert program.answer() == python_answer(test_images.JPEG, (SMALL,))


def test_arithmetic_coding_over_64_kib_is_refused_as_pillow_refuses_it() -> None:
    pixels = images.photograph(0, 500, 400)
    with cpp_preprocess.Encoder() as encode:
        for quality, code in ((50, ""), (99, "E_IMAGE_BROKEN")):
            words = ("ycc", quality, "together", "arithmetic", 0, "1x1", "1x1", "1x1")
            data = encode(pixels, words)
            assert (len(data) > 2**16) is bool(code)
            judged_alike(data, code)


def test_scans_that_never_end_are_refused() -> None:
    """Each scan costs as much as decoding the whole; 1,000 are allowed."""
    data = images.jpeg(np.zeros((8, 8, 3), np.uint8), progressive=True)
    last = data.rindex(b"\xff\xda")
    with Cpp(()) as program:
        for repeats, refused in ((900, False), (1100, True)):
            program.ask(data[:last] + data[last:-2] * repeats + data[-2:])
            assert (program.answer() == ["E_IMAGE_BROKEN"]) is refused
