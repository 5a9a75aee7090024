"""``vitaie eval`` beside the loop that one would write: the same images, the same session.

The alternative is torchvision's ImageFolder and a DataLoader with two workers before an ONNX
Runtime session on the bundle's own graph, which counts top-1 and top-5 and keeps nothing. Sides
take turns, each a fresh process with a warm page cache; what is judged is the median ratio.

    python -m benchmarks.evaluate [--runs N] [--write]

With the small model decoding dominates, and the ratio may be 0.9 at most; with
vit_base_patch16_224 inference does, and it may be 1.0. Then, with the small model: memory on few
images and on many, and what the journal and the record cost. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Comparison, Run, compare, run, table
from benchmarks.page import write_section
from examples.make_checkpoint import make
from tests.support.digit_pictures import make_pictures
from vitaie.manifests.card import load_card

ROOT = Path(__file__).parents[1]
BATCH = 8
ROW_KIB = 1.5
KEPT_SHARE = 0.01
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


def digits_bundle(folder: Path) -> Path:
    """Make the demo's bundle, of a small model that is trained here."""
    demo = [sys.executable, ROOT / "examples" / "demo.py", "--out", folder / "demo"]
    subprocess.run([*map(str, demo), "--skip-full-size"], check=True, stdout=subprocess.DEVNULL)
    return folder / "demo" / "bundles" / "digits" / "1.0.0"


def small(bundle: Path, folder: Path, runs: int, images: int) -> Comparison:
    """Compare on digits with the small model."""
    data = make_pictures(images, folder / "digits")
    return sides("`vitaie eval`, small model", 0.9, bundle, data, (32, 32), runs)


class Growth(NamedTuple):
    """Peak resident memory on few images and on many, and what the record's rows take of it."""

    few: int
    many: int
    few_mib: float
    many_mib: float

    @property
    def for_each_kib(self) -> float:
        """Memory for each image more; 12 KiB would be its tensor, and more its pixels."""
        return 1024 * (self.many_mib - self.few_mib) / (self.many - self.few)

    @property
    def holds(self) -> bool:
        """Whether it grows by rows of the record alone."""
        return self.for_each_kib <= ROW_KIB


def memory(bundle: Path, folder: Path, few: int, many: int) -> Growth:
    """Measure the peak of ``vitaie eval`` on few images and on many."""
    command = [Path(sys.executable).with_name("vitaie"), "eval", bundle, "--unpaired", "--quiet"]
    peaks: list[float] = []
    for count in (few, many):
        data = make_pictures(count, folder / str(count))
        peaks.append(run([*command, "--data", data, "-o", folder / f"{count}.json"]).peak_mib)
    return Growth(few, many, *peaks)


def kept(bundle: Path, data: Path, runs: int) -> float:
    """Return which part of the processors' time the journal and the record take, the median."""
    program = [sys.executable, ROOT / "benchmarks" / "evaluate_kept.py", bundle, data, BATCH]
    return statistics.median(float(run(program, ROOT).output.split()[-1]) for _ in range(runs))


def full_size(folder: Path, runs: int, images: int) -> Comparison:
    """Compare on crops of the builder's photographs, whose classes mean nothing here."""
    card = load_card(VARIANT)
    checkpoint = make(card, folder / card.checkpoint)
    command = [Path(sys.executable).with_name("vitaie-build"), "bundle", VARIANT, "--quiet"]
    command.append("--skip-measure")
    built = run([*command, "--checkpoint", checkpoint, "--store", folder / "bundles"])
    data = photographs(images, folder / "photographs")
    bundle = Path(built.output.splitlines()[-1])
    return sides(f"`vitaie eval`, {VARIANT}", 1.0, bundle, data, (248, 224), runs)


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
    parser.add_argument("--images", type=int, default=20_000, help="for the small model")
    parser.add_argument("--full-size", type=int, default=96, help="images for ViT-B; 0 for none")
    parser.add_argument("--many", type=int, default=50_000, help="images for the peak of memory")
    parser.add_argument("--bundle", type=Path, help="the demo's digits; made here otherwise")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = name
        bundle = options.bundle or digits_bundle(folder)
        rows = [small(bundle, folder, options.runs, options.images)]
        share = kept(bundle, folder / "digits", options.runs)
        growth = memory(bundle, folder, 1000, options.many)
        if options.full_size:
            rows.append(full_size(folder, options.runs, options.full_size))
    text = (
        f"{table(rows)}\n\nThe small model on {options.images:,} images, {VARIANT} on"
        f" {options.full_size:,}, batches of {BATCH}, beside torchvision's `ImageFolder`, a"
        " `DataLoader` with two workers and the same ONNX Runtime session.\n\n"
        f"Memory, small model: {growth.few_mib:.0f} MiB at the peak on {growth.few:,} images,"
        f" {growth.many_mib:.0f} on {growth.many:,}: {growth.for_each_kib:.2f} KiB for each image"
        f" more, at most {ROW_KIB} (its row in the record; its tensor would be 12). Journal and"
        f" record take {100 * share:.2f}% of the processors' time there, at most"
        f" {100 * KEPT_SHARE:g}%."
    )
    print(text)
    print(json.dumps([*(row._asdict() for row in rows), growth._asdict(), {"kept": share}]))
    if options.write:
        counts = f"--runs {options.runs} --images {options.images} --full-size {options.full_size}"
        write_section("eval", f"python -m benchmarks.evaluate {counts} --write", text)
    holds = all(row.holds for row in rows) and growth.holds and share <= KEPT_SHARE
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
