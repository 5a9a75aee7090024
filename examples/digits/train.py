"""Train a small Vision Transformer on scikit-learn's digits, and save it as augreg ``.npz``.

It stands for your own training: whatever trained a model, once its weights lie in this layout
and a card says its numbers, all the rest is ``vitaie-build bundle``.

    pip install -e ".[builder,demo]"
    python examples/digits/train.py -o build/digits
    vitaie-build bundle examples/digits/digits.toml --checkpoint build/digits/digits.npz

The digits are 1,797 scans of 8 x 8 pixels in 17 grey levels (UCI, "Optical Recognition of
Handwritten Digits"). A fifth of each class is held out and never trained on; those 360 are
written as PNG files, ``val/<label id>/<number in the data set>.png``. Under a minute on two cores.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitaie.builder.checkpoint import layout
from vitaie.builder.module import create_module
from vitaie.manifests.card import Architecture, Card, load_card
from vitaie.manifests.errors import DiskError, StoreError, VitaieError
from vitaie.runtime._preprocess import preprocess

# These come without complete types, so they are Any here.
datasets: Any = importlib.import_module("sklearn.datasets")
model_selection: Any = importlib.import_module("sklearn.model_selection")
torch: Any = importlib.import_module("torch")
tqdm: Any = importlib.import_module("tqdm").tqdm
functional: Any = torch.nn.functional

CARD = Path(__file__).with_name("digits.toml")
EPOCHS = 60
BATCH = 64
PEAK_LEARNING_RATE = 2e-3
SCALE = 8
"""A digit's pixel becomes 8 x 8 of the picture, which is 64 x 64: large enough to look at."""


class Digits(NamedTuple):
    """Pictures, uint8 RGB [N, 64, 64, 3], their classes [N], and their numbers in the data set."""

    pictures: NDArray[np.uint8]
    classes: NDArray[np.int64]
    numbers: NDArray[np.int64]


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--force", action="store_true", help="replace what is in DIR by that name")
    arguments = parser.parse_args()
    folder: Path = arguments.output
    try:
        for path in (folder / "digits.npz", folder / "val"):
            if os.path.lexists(path) and not arguments.force:
                raise StoreError("E_OUTPUT_EXISTS", path, hint="Give --force to replace it.")
        folder.mkdir(parents=True, exist_ok=True)
        card = load_card(CARD)
        training, held_out = split_digits()
        module = train(training, card)
        correct = int((predict(module, held_out, card) == held_out.classes).sum())
        save(folder, module, held_out, card)
    except OSError as error:
        print(DiskError("E_DISK", folder, got=error.strerror), file=sys.stderr)
        return 5
    except VitaieError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nE_INTERRUPTED: run it again to start over", file=sys.stderr)
        return 130
    count = len(held_out.classes)
    print(f"held out: {correct} of {count} right, {100 * correct / count:.2f}%", file=sys.stderr)
    print(folder / "digits.npz")
    return 0


def split_digits() -> tuple[Digits, Digits]:
    """Return the digits to train on and those held out, always the same fifth of each class."""
    digits = datasets.load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    grey = levels.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    pictures = np.repeat(grey[..., np.newaxis], 3, axis=3)
    numbers = np.arange(len(pictures))
    parts = model_selection.train_test_split(
        numbers, test_size=0.2, stratify=digits.target, random_state=0
    )
    training, held_out = (Digits(pictures[part], digits.target[part], part) for part in parts)
    return training, held_out


def see(digits: Digits, card: Card) -> Any:
    """Return exactly what the bundle's model will see of the pictures, float32 [N, 3, 32, 32]."""
    spec = card.preprocess(card.profiles[0])
    return torch.from_numpy(np.stack([preprocess(picture, spec) for picture in digits.pictures]))


def train(digits: Digits, card: Card) -> Any:
    """Return timm's module of the card's architecture, trained on the pictures."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # of so small a model, more threads mostly wait for each other
    module = initialise(create_module(card.model))
    images, classes = see(digits, card), torch.from_numpy(digits.classes)
    steps = EPOCHS * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(module.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, steps)
    module.train()
    with tqdm(total=steps, unit="batch", file=sys.stderr, desc="training") as bar:
        for _ in range(EPOCHS):
            order = torch.randperm(len(images))
            for start in range(0, len(images) - BATCH + 1, BATCH):
                batch = order[start : start + BATCH]
                output = module(augment(images[batch]))
                loss = functional.cross_entropy(output, classes[batch], label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                bar.update()
    return module.eval().requires_grad_(False)


def initialise(module: Any) -> Any:
    """Give a module that was made without weights those of a start.

    Kernels keep their input's variance, class token and positions are small, LayerNorms change
    nothing.
    """
    module.requires_grad_(True)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        elif name in ("cls_token", "pos_embed"):
            torch.nn.init.normal_(parameter, std=0.02)
        else:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return module


def augment(images: Any) -> Any:
    """Turn, stretch and shift half of the images, float32 [B, 3, S, S] with black as -1, a little.

    The other half stays sharp, as the model will see them: interpolation blurs.
    """
    amounts = torch.empty(5, len(images)).uniform_(-1, 1) * torch.randint(2, (len(images),))
    angle, stretch, shift = 0.2 * amounts[0], 1 + 0.15 * amounts[1:3], 0.12 * amounts[3:]
    first_row = torch.stack([angle.cos() * stretch[0], -angle.sin(), shift[0]], 1)
    second_row = torch.stack([angle.sin(), angle.cos() * stretch[1], shift[1]], 1)
    matrix = torch.stack([first_row, second_row], 1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1


def predict(module: Any, digits: Digits, card: Card) -> NDArray[np.int64]:
    """Return the class the module takes each picture for, [N]."""
    with torch.inference_mode():
        return np.asarray(module(see(digits, card)).argmax(1))


def save(folder: Path, module: Any, held_out: Digits, card: Card) -> None:
    """Write ``digits.npz`` and ``val/<label id>/NNNN.png``."""
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    np.savez(folder / "digits.npz", **to_augreg(state, card.model))
    for picture, label, number in zip(held_out.pictures, held_out.classes, held_out.numbers):
        path = folder / "val" / card.labels[int(label)].id / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(path)


def to_augreg(state: Mapping[str, NDArray[np.float32]], model: Architecture) -> dict[str, Any]:
    """Return timm's parameters under the augreg layout's names and in its shapes.

    Flax keeps a dense kernel as [in, out], an attention kernel with its heads apart ([in, heads,
    head width], and [heads, head width, out] on the way out) and a convolution as [h, w, in,
    out]; torch has [out, in] and [out, in, h, w], and query, key and value in one.
    """
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for index in range(model.depth):
        block, target = f"blocks.{index}", f"Transformer/encoderblock_{index}"
        attention = f"{target}/MultiHeadDotProductAttention_1"
        kernels = np.split(state[f"{block}.attn.qkv.weight"], 3)
        biases = np.split(state[f"{block}.attn.qkv.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases):
            arrays[f"{attention}/{part}/kernel"] = kernel.T
            arrays[f"{attention}/{part}/bias"] = bias
        arrays[f"{attention}/out/kernel"] = state[f"{block}.attn.proj.weight"].T
        arrays[f"{attention}/out/bias"] = state[f"{block}.attn.proj.bias"]
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{target}/{name}/scale"] = state[f"{block}.{norm}.weight"]
            arrays[f"{target}/{name}/bias"] = state[f"{block}.{norm}.bias"]
        for dense, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            arrays[f"{target}/MlpBlock_3/{name}/kernel"] = state[f"{block}.mlp.{dense}.weight"].T
            arrays[f"{target}/MlpBlock_3/{name}/bias"] = state[f"{block}.mlp.{dense}.bias"]
    return {
        name: np.ascontiguousarray(arrays[name], np.float32).reshape(shape)
        for name, shape in layout(model).items()
    }


if __name__ == "__main__":
    sys.exit(main())
