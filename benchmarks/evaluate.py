"""``vitaie eval`` beside the loop that one would write: the same images, the same session.

The alternative is torchvision's ImageFolder and a DataLoader with two workers before an ONNX
Runtime session on the bundle's own graph, which counts top-1 and top-5 and keeps nothing. Sides
take turns, each a fresh process with a warm page cache; what is judged is the median ratio.

    python -m benchmarks.evaluate [--runs N] [--full-size IMAGES]

With the small model decoding dominates, and the ratio may be 0.9 at most; with
vit_base_patch16_224 (``--full-size``) inference does, and it may be 1.0. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Comparison, Run, compare, run, table
from examples.make_checkpoint import make
from tests.support.digit_pictures import make_pictures
from vitaie.manifests.card import load_card

ROOT = Path(__file__).parents[1]
BATCH = 8
SMALL_IMAGES = 20_000
VARIANT = "vit_base_patch16_224"
_RIGHT = re.compile(r"top1 is (\S+), top5 is (\S+), step is (\d+)")

PLAIN = """
import sys, warnings
import numpy, onnxruntime, torch
from vitaie.builder._torchvision import import_torchvision
import_torchvision()
from torchvision import datasets, transforms

bundle, data, resize, crop, batch = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
images = datasets.ImageFolder(data, transforms.Compose([
    transforms.Resize(resize, interpolation=transforms.InterpolationMode.BICUBIC),
    transforms.CenterCrop(crop),
    transforms.ToTensor(),
    transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
]))
index = torch.tensor([int(name) for name in images.classes])
loader = torch.utils.data.DataLoader(images, batch_size=batch, num_workers=2)
session = onnxruntime.InferenceSession(f"{bundle}/model.onnx", providers=["CPUExecutionProvider"])
right1 = right5 = 0
for tensor, folder in loader:
    logits = session.run(["logits"], {"input": tensor.numpy()})[0]
    first = torch.from_numpy(logits).topk(5).indices
    hits = first == index[folder][:, None]
    right1 += int(hits[:, 0].sum())
    right5 += int(hits.sum())
count = len(images)
print(f"top1 is {100 * right1 / count:.3f}, top5 is {100 * right5 / count:.3f}, step is {count}")
"""


def sides(
    name: str, limit: float, bundle: Path, data: Path, sizes: tuple[int, int], runs: int
) -> Comparison:
    """Compare the two on one bundle and dataset; they must count alike."""
    command = Path(sys.executable).with_name("vitaie")
    ours: list[Run] = []
    theirs: list[Run] = []
    for number in range(runs + 1):
        arguments = ["--data", data, "--unpaired", "--quiet", "--batch-size", BATCH]
        output = data.with_name(f"{data.name}-{number}.json")
        mine = run([command, "eval", bundle, *arguments, "-o", output])
        plain = run([sys.executable, "-c", PLAIN, bundle, data, *sizes, BATCH], ROOT)
        if _counts(mine) != _counts(plain):
            raise SystemExit(f"{_counts(mine)} and {_counts(plain)} differ")
        if number:  # the first pair warms the page cache
            ours.append(mine)
            theirs.append(plain)
    return compare(name, limit, "s", ours, theirs, printed=False)


def _counts(result: Run) -> tuple[str, ...]:
    match = _RIGHT.fullmatch(result.output.splitlines()[-1])
    if match is None:
        raise SystemExit(result.output)
    return match.groups()


def small(folder: Path, runs: int) -> Comparison:
    """Compare on digits with the demo's model, trained here."""
    demo = [sys.executable, ROOT / "examples" / "demo.py", "--out", folder / "demo"]
    subprocess.run([*map(str, demo), "--skip-full-size"], check=True, stdout=subprocess.DEVNULL)
    data = make_pictures(SMALL_IMAGES, folder / "digits")
    bundle = folder / "demo" / "bundles" / "digits" / "1.0.0"
    return sides("vitaie eval, small model", 0.9, bundle, data, (32, 32), runs)


def full_size(folder: Path, runs: int, images: int) -> Comparison:
    """Compare on crops of the builder's photographs, whose classes mean nothing here."""
    card = load_card(VARIANT)
    checkpoint = make(card, folder / card.checkpoint)
    command = [Path(sys.executable).with_name("vitaie-build"), "bundle", VARIANT, "--quiet"]
    command.append("--skip-measure")
    built = run([*command, "--checkpoint", checkpoint, "--store", folder / "bundles"])
    data = photographs(images, folder / "photographs")
    bundle = Path(built.output.splitlines()[-1])
    return sides(f"vitaie eval, {VARIANT}", 1.0, bundle, data, (248, 224), runs)


def photographs(count: int, folder: Path) -> Path:
    """Write crops of real photographs, of 300 to 500 pixels, as JPEGs in ten class folders."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    sources = sorted((ROOT / "builder" / "vitaie" / "builder" / "photos").glob("*.jpg"))
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as opened:
            picture = opened.convert("RGB")
        width, height = (int(min(chance.integers(300, 501), side)) for side in picture.size)
        left = int(chance.integers(0, picture.width - width + 1))
        top = int(chance.integers(0, picture.height - height + 1))
        file = folder / str(number % 10) / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.crop((left, top, left + width, top + height)).save(file, quality=90)
    return folder


def main() -> int:
    """Print the table and one JSON line; exit 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side")
    parser.add_argument("--full-size", type=int, default=0, metavar="IMAGES", help="ViT-B too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        rows = [small(Path(name), options.runs)]
        if options.full_size:
            rows.append(full_size(Path(name), options.runs, options.full_size))
    print(table(rows))
    print(json.dumps([row._asdict() for row in rows]))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
