"""Make a checkpoint in the real layout and at full size, with RANDOM weights.

For trying vitaie without downloading a published checkpoint. The file has the augreg layout's
names, shapes and size, so all of vitaie works on it; what the model says of a picture is noise.

    python examples/make_checkpoint.py vit_base_patch16_224 -o vit_base_patch16_224.npz
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vitaie.builder.checkpoint import layout
from vitaie.manifests.card import Card, load_card
from vitaie.manifests.errors import DiskError, StoreError, VitaieError


def make(card: Card, path: Path, seed: int = 0, *, force: bool = False, quiet: bool = True) -> Path:
    """Write ``card``'s checkpoint with random weights to ``path``; the same seed, the same bytes.

    One array at a time is in memory. The file appears under its name when it is whole.

    Raises:
        StoreError: E_OUTPUT_EXISTS when ``path`` exists, unless ``force``.
        DiskError: When the folder or the disk refuses.
    """
    if os.path.lexists(path) and not force:
        raise StoreError("E_OUTPUT_EXISTS", path, hint="Give --force to replace it.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(partial, "x", zipfile.ZIP_STORED) as archive:
            shapes = layout(card.model)
            rows = tqdm(shapes.items(), unit=" arrays", mininterval=1, disable=quiet)
            for index, (name, shape) in enumerate(rows):
                member = zipfile.ZipInfo(f"{name}.npy")  # its date is fixed: 1980-01-01
                with archive.open(member, "w", force_zip64=True) as file:
                    array = _random_array(name, shape, np.random.default_rng([seed, index]))
                    np.lib.format.write_array(file, array, allow_pickle=False)
        os.replace(partial, path)
    except OSError as error:
        raise DiskError("E_DISK", path, got=error.strerror) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _random_array(
    name: str, shape: tuple[int, ...], random: np.random.Generator
) -> NDArray[np.float32]:
    """Return normal noise, scaled so that activations and logits neither vanish nor grow.

    A kernel keeps its input's variance (1 / fan-in), so logits have a variance near 1; the patch
    embedding gives twice that deviation, so that the logits depend on the picture. Biases and
    LayerNorms differ from 0 and 1, so no two arrays are equal and a mix-up of two shows.
    """
    noise = random.standard_normal(shape, dtype=np.float32)
    if name.endswith("/scale"):
        return 1 + np.float32(0.1) * noise
    if name.endswith("/bias"):
        return np.float32(0.1) * noise
    if not name.endswith("/kernel"):
        return np.float32(0.2) * noise
    projection = name.split("/")[-2] in ("query", "key", "value")
    fan_in = math.prod(shape[:1] if projection else shape[:-1])
    gain = 2 if name == "embedding/kernel" else 1
    return np.float32(gain / math.sqrt(fan_in)) * noise


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("variant", help="a variant's name, or a card file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument("--force", action="store_true", help="replace FILE.npz if it exists")
    arguments = parser.parse_args()
    if arguments.seed < 0:
        parser.error("--seed is a whole number from 0")
    try:
        card = load_card(arguments.variant)
        print(
            f"{card.name}: RANDOM weights in the real layout, not a trained model", file=sys.stderr
        )
        make(card, arguments.output, arguments.seed, force=arguments.force, quiet=False)
    except VitaieError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nE_INTERRUPTED: nothing was written", file=sys.stderr)
        return 130
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
