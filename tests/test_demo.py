"""The demo's claim: a model it trains is over 95% right through the public commands.

The judge is a plain torch loop without code of ours: timm's own model and its own reader of
``.npz`` files, and torchvision's transforms.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from examples import demo
from examples.digits import train
from tests.conftest import DEMO
from tests.support.untyped import torch
from vitaie.builder._torchvision import import_torchvision
from vitaie.manifests.card import load_card
from vitaie.manifests.manifest import Manifest

HELD_OUT = 360
datasets: Any = importlib.import_module("sklearn.datasets")


class Answer(NamedTuple):
    digit: int
    probability: float


def timm_module(size: int, patch: int, width: int, depth: int, heads: int, mlp: float) -> Any:
    import_torchvision()  # only makes torchvision importable beside a CPU build of torch
    timm: Any = importlib.import_module("timm.models.vision_transformer")
    return timm.VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp,
        num_classes=10,
    ).eval()


def plain_torch_loop(checkpoint: Path, images: list[Path]) -> list[Answer]:
    module = timm_module(32, 8, 64, 3, 4, 2)
    module.load_pretrained(str(checkpoint))
    transforms: Any = importlib.import_module("torchvision.transforms")
    see = transforms.Compose(
        [
            transforms.Resize(32, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    answers: list[Answer] = []
    for path in images:
        with Image.open(path) as image, torch.inference_mode():
            probabilities = module(see(image.convert("RGB"))[None]).softmax(1)[0]
        best = int(probabilities.argmax())
        answers.append(Answer(best, float(probabilities[best])))
    return answers


def test_demo_prints_the_accuracy_on_all_held_out_images(digits_demo: tuple[Path, str]) -> None:
    folder, printed = digits_demo
    images = json.loads((folder / "held-out.json").read_text(encoding="utf-8"))["images"]
    assert len({row["image"] for row in images}) == HELD_OUT
    right = sum(row["image"].split("/")[-2] == row["predictions"][0]["id"] for row in images)
    assert right > 0.95 * HELD_OUT
    score = f"{right} of {HELD_OUT} held-out digits right: {right / 3.6:.2f}%"
    assert printed.splitlines()[-1] == score


def test_every_answer_is_that_of_a_plain_torch_loop(
    digits_demo: tuple[Path, str], digits_bundle: tuple[Path, Path]
) -> None:
    folder, _ = digits_demo
    images = sorted(digits_bundle[1].glob("*/*.png"))
    rows = json.loads((folder / "held-out.json").read_text(encoding="utf-8"))["images"]
    assert [Path(row["image"]) for row in rows] == images
    expected = plain_torch_loop(folder / "digits" / "digits.npz", images)
    assert len(expected) == HELD_OUT
    for row, answer in zip(rows, expected):
        prediction = row["predictions"][0]
        assert prediction["index"] == answer.digit, row["image"]
        assert prediction["probability"] == pytest.approx(answer.probability, abs=1e-5)


def test_demo_prints_each_command_before_its_result(digits_demo: tuple[Path, str]) -> None:
    _, printed = digits_demo
    commands = [line[2:].split()[:2] for line in printed.splitlines() if line.startswith("$ ")]
    assert [(words[0], Path(words[1]).name) for words in commands] == [
        ("python", "train.py"),
        ("vitaie-build", "bundle"),
        ("vitaie", "verify"),
        ("vitaie-build", "gate"),
        ("vitaie", "info"),
        ("vitaie", "classify"),
        ("python", "classify.py"),
        ("vitaie", "classify"),
        ("vitaie", "report"),
    ]
    assert (
        printed.index("$ vitaie verify")
        < printed.index("\nTRUE, ")
        < printed.index("$ vitaie info")
    )


def test_the_bundle_says_the_accuracy_that_it_had_to_show(
    digits_demo: tuple[Path, str], digits_bundle: tuple[Path, Path]
) -> None:
    _, printed = digits_demo
    manifest = Manifest.from_bytes((digits_bundle[0] / "manifest.json").read_bytes())
    (record,) = manifest.accuracy
    assert record.dataset.images == HELD_OUT
    assert printed.splitlines()[-1].startswith(f"{record.top1.count} of {HELD_OUT} held-out")
    assert [gate.require for gate in manifest.gates] == ["top1>=95.0", "agreement>=0.99"]
    assert printed.count("pass: top1>=95.0") == 2  # by the gate command, and in info


def test_demo_writes_only_what_it_says(digits_demo: tuple[Path, str]) -> None:
    folder, _ = digits_demo
    written = {path.name for path in folder.iterdir()}
    files = {"held-out.json", "report-1.0.0.html"}
    assert written == {".vitaie-demo", "digits", "bundles", "cache", *files}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_held_out_images_are_the_data_sets_own_and_were_not_trained_on(
    digits_bundle: tuple[Path, Path],
) -> None:
    digits = datasets.load_digits()
    training, _ = train.split_digits()
    images = sorted(digits_bundle[1].glob("*/*.png"))
    numbers = [int(path.stem) for path in images]
    assert sorted([*numbers, *training.numbers.tolist()]) == list(range(1797))
    for path, number in zip(images, numbers):
        assert path.parent.name == str(digits.target[number])
        with Image.open(path) as image:
            pixels = np.array(image, np.uint8)
        levels = np.rint(pixels * (16 / 255))
        digit: NDArray[np.float64] = digits.images[number]
        assert np.array_equal(levels, digit.repeat(8, axis=0).repeat(8, axis=1))


def test_what_training_saves_is_what_timms_own_reader_loads(tmp_path: Path) -> None:
    """Every parameter comes back to the bit, from a model whose sizes all differ."""
    card = load_card(train.CARD)
    sizes = {"image_size": 24, "width": 12, "depth": 2, "heads": 3, "mlp_dim": 36}
    model = card.model.model_copy(update=sizes)
    module, loaded = (timm_module(24, 8, 12, 2, 3, 3) for _ in range(2))
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    np.savez(tmp_path / "saved.npz", **train.to_augreg(state, model))
    loaded.load_pretrained(str(tmp_path / "saved.npz"))
    for name, tensor in loaded.state_dict().items():
        assert np.array_equal(tensor.numpy(), state[name]), name


def test_score_counts_images_whose_folder_is_the_label_id() -> None:
    rows = [("val/3/a.png", "3"), ("val/5/b.png", "3"), ("val/5/c.png", "5")]
    images = [{"image": image, "predictions": [{"id": label}]} for image, label in rows]
    assert demo.score_answers(json.dumps({"images": images})) == (2, 3)


@pytest.mark.parametrize(("right", "code"), [(95, 1), (96, 0)])
def test_demo_fails_unless_more_than_95_percent_are_right(
    right: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show_digits(_: demo.Demo, __: Sequence[str]) -> demo.Score:
        return demo.Score(right, 100)

    monkeypatch.setattr(demo, "show_digits", show_digits)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path), "--skip-full-size"])
    assert demo.main() == code


def run(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_demo_refuses_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    done = run(DEMO, "--out", tmp_path)
    assert done.returncode == 4
    assert done.stderr == (
        f"E_OUTPUT_EXISTS: {tmp_path}: the output exists already."
        " Give --out a new folder, or an earlier demo's.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_demo_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    (tmp_path / demo.MARK).touch()
    (tmp_path / "digits").write_text("not a folder", encoding="utf-8")
    done = run(DEMO, "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"E_DISK: {tmp_path / 'digits'}: the disk or the file system refused (got File exists).",
        "the demo stops: that command ended with 5",
    ]
    assert done.stdout.count("$ ") == 1


@pytest.mark.parametrize("name", ["digits.npz", "val"])
def test_training_replaces_nothing_unasked(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    done = run(Path(train.__file__), "-o", tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith(f"E_OUTPUT_EXISTS: {tmp_path / name}: ")
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.long
def test_the_whole_demo_and_then_again_makes_the_next_version(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = run(DEMO, "--out", folder)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "RANDOM" in first.stdout
    assert first.stdout.count("\nTRUE, ") == 2
    again = run(DEMO, "--out", folder, "--skip-full-size")
    assert again.returncode == 0, again.stdout + again.stderr
    bundles = sorted(path.relative_to(folder / "bundles") for path in folder.glob("bundles/*/*.*"))
    assert list(map(str, bundles)) == [
        "digits/1.0.0",
        "digits/1.0.1",
        "vit_base_patch16_224/1.0.0",
    ]
