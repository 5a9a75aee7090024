"""Cards are data: the built-in ones agree with timm and with each other, and a user's own loads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.npz import TINY, tiny_card, write_card
from vitaie.manifests import digests
from vitaie.manifests.card import CARDS, known_cards, load_card
from vitaie.manifests.errors import CardError

BASE = [
    "vit_base_patch16_224",
    "vit_base_patch16_384",
    "vit_base_patch32_224",
    "vit_base_patch32_384",
    "vit_base_patch8_224",
]
NAMES = [*BASE, "vit_small_patch16_224", "vit_tiny_patch16_224"]

PUBLISHED = {
    "vit_base_patch8_224": (85.838, 97.776),
    "vit_base_patch16_224": (84.534, 97.300),
    "vit_base_patch16_384": (86.010, 97.998),
    "vit_base_patch32_224": (80.732, 95.574),
    "vit_base_patch32_384": (83.358, 96.828),
    "vit_small_patch16_224": (81.384, 96.136),
    "vit_tiny_patch16_224": (75.454, 92.844),
}
"""timm's results-imagenet.csv: top-1 and top-5 with timm's preprocessing."""

ASCEND_310P3_TFLOPS = 70
"""Its published fp16 peak; a speed above peak / GFLOP would be wrong."""


def test_the_built_in_cards_are_these() -> None:
    assert [card.name for card in known_cards()] == NAMES
    assert [load_card(name) for name in NAMES] == list(known_cards())


@pytest.mark.parametrize("name", NAMES)
def test_built_in_card_is_consistent(name: str) -> None:
    card = load_card(name)
    assert card.path == CARDS / f"{name}.toml"
    assert card.checkpoint.endswith(f"-res_{card.model.image_size}.npz")
    assert card.architecture == name
    assert card.timm_tag == "augreg_in21k_ft_in1k"
    assert len(card.labels) == 1000
    assert card.labels[0] == ("n01440764", "tench, Tinca tinca")
    assert card.labels[999].id == "n15075141"
    assert card.expected("timm").accuracy[0].source.startswith("timm results-imagenet.csv")
    figure = card.expected("timm").accuracy[0]
    assert (figure.top1, figure.top5) == PUBLISHED[name]
    assert card.model_info().parameters == card.parameters


@pytest.mark.parametrize("name", BASE)
def test_published_gflop_is_that_of_the_formula_within_half_a_percent(name: str) -> None:
    card = load_card(name)
    assert 1 < card.gflop / card.model.gflop < 1.005


@pytest.mark.parametrize("name", BASE)
def test_published_speeds_are_below_the_chip(name: str) -> None:
    card = load_card(name)
    speeds = card.expected("timm").speed
    assert [speed.batch_size for speed in speeds][-6:] == [1, 4, 8, 16, 32, 64]
    assert card.expected("modelzoo").speed == speeds
    for speed in speeds:
        assert speed.device == "Ascend 310P3"
        assert speed.fps < 1000 * ASCEND_310P3_TFLOPS / card.gflop


def test_accuracy_belongs_to_one_preprocessing() -> None:
    card = load_card("vit_base_patch8_224")
    assert [figure.top1 for figure in card.expected("timm").accuracy] == [85.838, 85.58]
    assert [figure.top1 for figure in card.expected("modelzoo").accuracy] == [85.632]
    assert card.expected("timm").accuracy[1].top5 is None


@pytest.mark.parametrize("name", NAMES)
def test_a_published_accuracy_is_of_the_preprocessing_that_its_source_names(name: str) -> None:
    """Nobody crops 384 pixels from a shorter side of 248: that figure is of another model."""
    card = load_card(name)
    for profile in card.profiles:
        resize = card.preprocess(profile).resize
        for figure in card.expected(profile).accuracy:
            if found := re.search(r"shorter side (\d+)", figure.source):
                assert (resize.mode, resize.size) == ("shorter_side", int(found[1]))
            assert profile == ("modelzoo" if "TorchAIE" in figure.source else "timm")
        for speed in card.expected(profile).speed:
            assert card.model.image_size == 224 or "shorter side" not in speed.source


def test_profiles_are_named_and_every_number_is_stated() -> None:
    card = load_card("vit_base_patch16_224")
    assert card.profiles == ("timm", "modelzoo")
    timm, modelzoo = card.preprocess("timm"), card.preprocess("modelzoo")
    assert timm.model_dump() == {
        "profile": "timm",
        "color": "rgb",
        "max_pixels": 2**26,
        "resize": {
            "mode": "shorter_side",
            "size": 248,
            "interpolation": "bicubic",
            "pass_order": "horizontal_first",
        },
        "crop": {"mode": "center", "size": 224},
        "scale": 255,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert modelzoo.resize.mode == "square"
    assert load_card("vit_base_patch32_384").preprocess("timm").resize.size == 384


def test_profile_that_a_card_has_not_is_refused() -> None:
    with pytest.raises(CardError, match="E_CARD_PREPROCESS.*expected timm, got modelzoo"):
        load_card("vit_tiny_patch16_224").preprocess("modelzoo")


def test_digest_covers_the_card_and_its_labels(tmp_path: Path) -> None:
    card = tiny_card(tmp_path)
    lines = [digests.sha256((tmp_path / file).read_bytes()) for file in ("card.toml", "labels.txt")]
    assert card.sha256 == digests.sha256("".join(f"{line}\n" for line in lines).encode())
    (tmp_path / "labels.txt").write_text("".join(f"d{i}\tclass {i}\n" for i in range(5)))
    assert load_card(card.path).sha256 != card.sha256


OWN = """\
name = "my_flowers"
labels = "flowers.txt"
[model]
image_size = 224
patch_size = 16
width = 768
depth = 12
heads = 12
mlp_dim = 3072
classes = 20
[preprocess]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[preprocess.timm]
resize = 256
"""


@pytest.mark.parametrize("as_text", [True, False], ids=["str", "Path"])
def test_a_fine_tuned_model_of_20_classes_is_a_card_of_its_own(
    tmp_path: Path, as_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flowers.txt").write_bytes(
        "".join(
            f"f{index:02}\tflower {index}, fleur n\u00b0 {index}\r\n" for index in range(20)
        ).encode("utf-8")
    )
    (tmp_path / "flowers.toml").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    card = load_card("flowers.toml" if as_text else Path("flowers.toml"))
    assert card.name == "my_flowers"
    assert (card.checkpoint, card.architecture, card.timm_tag) == ("", "", "")
    assert card.labels[19] == ("f19", "flower 19, fleur n° 19")
    assert card.parameters == load_card("vit_base_patch16_224").parameters - 980 * 769
    assert card.gflop == card.model.gflop
    assert card.profiles == ("timm",)
    assert card.preprocess("timm").mean == (0.485, 0.456, 0.406)
    assert card.expected("timm").model_dump() == {"accuracy": (), "speed": ()}


@pytest.mark.parametrize("variant", ["vit_huge_patch14_224", "", "VIT_BASE_PATCH16_224", ".."])
def test_unknown_variant_is_told_the_known_ones_and_how_to_write_a_card(variant: str) -> None:
    with pytest.raises(CardError) as caught:
        load_card(variant)
    assert caught.value.code == "E_CARD_UNKNOWN"
    assert "expected vit_base_patch16_224, vit_base_patch16_384" in str(caught.value)
    assert "vit_tiny_patch16_224" in str(caught.value)
    assert "write a card file and give its path" in str(caught.value)


@pytest.mark.parametrize("variant", ["vit.npz", "./a/VIT.NPZ", Path("vit.npz")])
def test_a_checkpoint_in_a_variants_place_is_said_to_be_one(variant: str | Path) -> None:
    with pytest.raises(CardError) as caught:
        load_card(variant)
    assert caught.value.code == "E_CARD_UNKNOWN"
    assert caught.value.got == "the name of a checkpoint"
    assert "--checkpoint" in caught.value.hint


def test_card_file_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"E_CARD_UNKNOWN.*none\.toml.*got No such file"):
        load_card(tmp_path / "none.toml")


MALFORMED: dict[str, tuple[str, str, str, str]] = {
    "not TOML": ("[model]", "[model", "", "expected TOML"),
    "duplicate key": ("width = 8", "width = 8\nwidth = 8", "", "expected TOML"),
    "nested too deep": ("width = 8", "width = " + "[" * 30000, "", "expected TOML"),
    "unknown field": (
        "depth = 2",
        "depth = 2\nlayers = 2",
        "model.layers",
        "no field of this name, got 2",
    ),
    "unknown table": ("[model]", "[extra]\n[model]", "extra", "got {}"),
    "misspelt key": ("classes = 5", "clases = 5", "model.clases", "got 5). Did you mean classes?"),
    "misspelt key that need not be": (
        "[model]",
        'chekpoint = "a.npz"\n[model]',
        "chekpoint",
        'got "a.npz"). Did you mean checkpoint?',
    ),
    "misspelt table": (
        "[preprocess.timm]",
        "[preprocess.tim]",
        "preprocess.tim",
        'got {"resize": 20}). Did you mean timm?',
    ),
    "key in upper case": ("depth = 2", "DEPTH = 2", "model.DEPTH", "Did you mean depth?"),
    "key of another table": (
        "[preprocess.timm]",
        "image_size = 16\n[preprocess.timm]",
        "preprocess.image_size",
        "got 16). It belongs into [model].",
    ),
    "key below a table": (
        "heads = 2",
        "heads = 2\ngflop = 1.0",
        "model.gflop",
        "got 1.0). It belongs above the first table.",
    ),
    "key like no other": (
        "resize = 20",
        "resize = 20\nx = 1",
        "preprocess.timm.x",
        "got 1). There may be: resize.",
    ),
    "missing field": ("depth = 2\n", "", "model.depth", "expected a value, got nothing"),
    "missing table": ("[preprocess.timm]\nresize = 20\n", "", "preprocess", "timm or modelzoo"),
    "text for a number": (
        "depth = 2",
        'depth = "2"',
        "model.depth",
        'expected an integer, got "2"',
    ),
    "float for a whole number": (
        "depth = 2",
        "depth = 2.0",
        "model.depth",
        "expected an integer, got 2.0",
    ),
    "boolean for a number": (
        "depth = 2",
        "depth = true",
        "model.depth",
        "expected an integer, got true",
    ),
    "date for a text": ('"tiny"', "1979-05-27", "name", 'text, got "1979-05-27"'),
    "zero": ("depth = 2", "depth = 0", "model.depth", "expected at least 1, got 0"),
    "negative": ("width = 8", "width = -8", "model.width", "got -8"),
    "huge": ("classes = 5", "classes = 99999999999999999999", "model.classes", "at most 1048576"),
    "huge in hexadecimal": (
        "classes = 5",
        f"classes = 0x{'f' * 9999}",
        "model.classes",
        "too long",
    ),
    "brackets": ("width = 8", f"width = {'[' * 99}{']' * 99}", "model.width", "an integer"),
    "table for a text": ('name = "tiny"', "name.a = 1", "name", 'expected text, got {"a": 1}'),
    "number for a table": (
        "[model]",
        "model = 1\n[other]",
        "model",
        "expected named fields, got 1",
    ),
    "number for an optional text": (
        "[model]",
        "checkpoint = 1\n[model]",
        "checkpoint",
        "text, got 1",
    ),
    "NaN": (
        "mean = [0.5, 0.5, 0.5]",
        "mean = [0.5, nan, 0.5]",
        "preprocess.mean[1]",
        "a finite number, got NaN",
    ),
    "infinite": (
        "std = [0.5, 0.5, 0.5]",
        "std = [0.5, 0.5, inf]",
        "preprocess.std[2]",
        "a finite number",
    ),
    "zero deviation": (
        "std = [0.5,",
        "std = [0.0,",
        "preprocess.std[0]",
        "expected at least 1e-06, got 0.0",
    ),
    "four channels": ("mean = [", "mean = [0.5, ", "preprocess.mean", "at most 3 elements"),
    "name as a path": ('"tiny"', '"../tiny"', "name", "1 to 64 of a-z, 0-9 and _.-"),
    "name too long": ('"tiny"', f'"{"t" * 65}"', "name", "the first a letter or digit"),
    "heads that do not divide": ("heads = 2", "heads = 3", "model.heads", "a divisor of the width"),
    "patch that does not divide": (
        "patch_size = 8",
        "patch_size = 5",
        "model.patch_size",
        "a divisor of the image size 16, got 5",
    ),
    "crop above the resize": (
        "resize = 20",
        "resize = 15",
        "preprocess.timm.resize",
        "at least the image size 16, got 15",
    ),
    "labels outside": ('"labels.txt"', '"../labels.txt"', "labels", "inside the card's folder"),
    "labels absolute": ('"labels.txt"', '"/etc/hostname"', "labels", "inside the card's folder"),
    "control character": ('"labels.txt"', '"a\\u001bb"', "labels", "without control characters"),
    "figure of another profile": (
        "[preprocess]",
        '[[published.accuracy]]\npreprocess = "modelzoo"\nsource = "s"\ntop1 = 80.0\n[preprocess]',
        "published.accuracy[0].preprocess",
        "a preprocessing of this card, got modelzoo",
    ),
    "more than 100 percent": (
        "[preprocess]",
        '[[published.accuracy]]\npreprocess = "timm"\nsource = "s"\ntop1 = 101.0\n[preprocess]',
        "published.accuracy[0].top1",
        "expected at most 100, got 101.0",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_card_names_field_expected_and_got(tmp_path: Path, what: str) -> None:
    right, wrong, field, message = MALFORMED[what]
    assert TINY.count(right) == 1
    path = write_card(tmp_path, TINY.replace(right, wrong))
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert caught.value.code == "E_CARD_MALFORMED"
    assert caught.value.field == field
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", MALFORMED)
def test_a_card_error_is_in_no_words_of_pydantics(tmp_path: Path, what: str) -> None:
    right, wrong, _, _ = MALFORMED[what]
    with pytest.raises(CardError) as caught:
        load_card(write_card(tmp_path, TINY.replace(right, wrong)))
    expected = caught.value.expected or ""
    assert not re.search("input|should|valid|greater|less|pattern|str|dict|tuple", expected)


def _not_utf8(path: Path) -> None:
    path.write_bytes(TINY.encode() + b"# \xff\n")


def _too_large(path: Path) -> None:
    path.write_text(TINY + "#" * 2**16)


def _byte_order_mark(path: Path) -> None:
    path.write_text("\ufeff" + TINY, encoding="utf-8")


def _folder(path: Path) -> None:
    path.mkdir()


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


BAD_FILES = [_not_utf8, _too_large, _byte_order_mark, _folder, _device, os.mkfifo]


@pytest.mark.parametrize("make", BAD_FILES)
def test_file_that_is_no_card_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "card.toml"
    make(path)
    with pytest.raises(CardError, match="E_CARD_MALFORMED"):
        load_card(path)


BAD_LABELS = {
    "too few": ("a\tA\nb\tB\nc\tC\nd\tD\n", "", "expected 5 lines"),
    "too many": ("a\tA\nb\tB\nc\tC\nd\tD\ne\tE\nf\tF\n", "", "got 6 lines"),
    "empty": ("", "", "got 0 lines"),
    "empty line": ("a\tA\n\nc\tC\nd\tD\ne\tE\n", "line 2", "expected id, tab, name"),
    "no tab": ("a\tA\nb B\nc\tC\nd\tD\ne\tE\n", "line 2", "got b B"),
    "two tabs": ("a\tA\nb\tB\tB\nc\tC\nd\tD\ne\tE\n", "line 2", "expected id, tab, name"),
    "no id": ("\tA\nb\tB\nc\tC\nd\tD\ne\tE\n", "line 1", "expected id, tab, name"),
    "no name": ("a\tA\nb\tB\nc\t\nd\tD\ne\tE\n", "line 3", "expected id, tab, name"),
    "id twice": ("a\tA\nb\tB\nc\tC\na\tD\ne\tE\n", "line 4", "got a again"),
    "escape code": ("a\tA\nb\t\x1b[2J\nc\tC\nd\tD\ne\tE\n", "line 2", "got b\\t\\x1b[2J"),
    "NUL": ("a\tA\nb\t\0\nc\tC\nd\tD\ne\tE\n", "line 2", "expected id, tab, name"),
    "byte order mark": ("\ufeffa\tA\nb\tB\nc\tC\nd\tD\ne\tE\n", "line 1", "got \\ufeffa"),
    "line separator": ("a\tA\nb\t\u2028\nc\tC\nd\tD\ne\tE\n", "line 2", "got b\\t\\u2028"),
    "long line": (f"a\t{'A' * 2000}\nb\tB\nc\tC\nd\tD\ne\tE\n", "line 1", "expected id, tab"),
}


@pytest.mark.parametrize("what", BAD_LABELS)
def test_bad_labels_name_their_line(tmp_path: Path, what: str) -> None:
    text, field, message = BAD_LABELS[what]
    path = write_card(tmp_path, labels=text)
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert caught.value.code == "E_CARD_LABELS"
    assert caught.value.field == field
    assert message in str(caught.value)
    assert "labels.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def _missing(path: Path) -> None:
    pass


def _labels_not_utf8(path: Path) -> None:
    path.write_bytes(b"a\t\xff\n" * 5)


@pytest.mark.parametrize("make", [_missing, _labels_not_utf8, _folder, _device, os.mkfifo])
def test_file_that_is_no_labels_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = write_card(tmp_path)
    (tmp_path / "labels.txt").unlink()
    make(tmp_path / "labels.txt")
    with pytest.raises(CardError, match=r"E_CARD_LABELS.*labels\.txt"):
        load_card(path)


def test_last_label_needs_no_newline(tmp_path: Path) -> None:
    path = write_card(tmp_path, labels="a\tA\nb\tB\nc\tC\nd\tD\ne\tE")
    assert [label.id for label in load_card(path).labels] == list("abcde")


def test_names_may_repeat_as_imagenets_do() -> None:
    names = [label.name for label in load_card("vit_base_patch16_224").labels]
    assert names.count("crane") == 2
