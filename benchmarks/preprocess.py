"""How long an image takes from its file to the tensor, beside torchvision's transforms.

Both read the same photographs from the same paths, by turns, on one thread, and must give the
same bits. The figure is the median of the ratios of neighbours, which may be 0.95 at most.

    python benchmarks/preprocess.py            # a table, and as the last line one JSON object
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitaie.manifests.manifest import Preprocess
from vitaie.runtime import _preprocess

LIMIT = 0.95
PROFILES = {"timm": "shorter_side", "modelzoo": "square"}
SIDES = ("vitaie", "torchvision")

Side = Callable[[Path], NDArray[np.float32]]


def photographs() -> list[Path]:
    """Return the builder's photographs, and scikit-learn's two where it is installed."""
    root = Path(__file__).parents[1]
    found = sorted((root / "builder" / "vitaie" / "builder" / "photos").glob("*.jpg"))
    sklearn = importlib.util.find_spec("sklearn")
    if sklearn is not None and sklearn.origin is not None:
        found += sorted((Path(sklearn.origin).parent / "datasets" / "images").glob("*.jpg"))
    return found


def spec(profile: str) -> Preprocess:
    """Return a 224-pixel model's preprocessing."""
    resize = {
        "mode": PROFILES[profile],
        "size": 248,
        "interpolation": "bicubic",
        "pass_order": "horizontal_first",
    }
    return Preprocess.model_validate(
        {
            "profile": profile,
            "color": "rgb",
            "max_pixels": 2**26,
            "resize": resize,
            "crop": {"mode": "center", "size": 224},
            "scale": 255,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        }
    )


def vitaie(profile: str) -> Side:
    """Return our side."""
    chosen = spec(profile)
    return lambda path: _preprocess.preprocess(path, chosen)


def torchvision(profile: str) -> Side:
    """Return the transforms as ImageNet evaluations write them, on one thread."""
    from PIL import Image

    from vitaie.builder._torchvision import import_torchvision

    import_torchvision()
    importlib.import_module("torch").set_num_threads(1)
    transforms: Any = importlib.import_module("torchvision.transforms")
    compose = transforms.Compose(
        [
            transforms.Resize(
                248 if profile == "timm" else (248, 248),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )

    def run(path: Path) -> NDArray[np.float32]:
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        tensor: NDArray[np.float32] = compose(image).numpy()
        return tensor

    return run


def compare(ours: Side, theirs: Side, path: Path, rounds: int) -> tuple[float, float, float]:
    """Return milliseconds of both, and the median ratio of neighbours, each first by turns."""
    if ours(path).tobytes() != theirs(path).tobytes():
        raise SystemExit(f"{path}: the bits differ")
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        seconds: dict[Side, float] = {}
        for side in (ours, theirs) if number % 2 else (theirs, ours):
            start = time.perf_counter()
            side(path)
            seconds[side] = time.perf_counter() - start
        times.append((seconds[ours], seconds[theirs]))
    ratio = statistics.median(mine / other for mine, other in times)
    mine, other = (statistics.median(column) * 1e3 for column in zip(*times))
    return mine, other, ratio


def peak_mib(side: str) -> float:
    """Return the peak memory of a fresh process that runs one side on every photograph."""
    command = [sys.executable, __file__, "--only", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_only(side: str) -> None:
    """Run one side, and print the process's peak memory in MiB."""
    run = {"vitaie": vitaie, "torchvision": torchvision}[side]("timm")
    for path in photographs():
        run(path)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--only", choices=SIDES, help="one side only: prints its peak MiB")
    arguments = parser.parse_args()
    if arguments.only:
        run_only(arguments.only)
        return
    rows: list[dict[str, Any]] = []
    print(f"{'photograph':16} {'profile':10} {'vitaie ms':>10} {'torchvision ms':>15} {'ratio':>6}")
    for profile in PROFILES:
        ours, theirs = vitaie(profile), torchvision(profile)
        for path in photographs():
            mine, other, ratio = compare(ours, theirs, path, arguments.rounds)
            print(f"{path.name:16} {profile:10} {mine:10.2f} {other:15.2f} {ratio:6.3f}")
            rows.append(
                {
                    "photograph": path.name,
                    "profile": profile,
                    "vitaie_ms": round(mine, 3),
                    "torchvision_ms": round(other, 3),
                    "ratio": round(ratio, 4),
                }
            )
    ratio = statistics.median(row["ratio"] for row in rows)
    result = {
        "benchmark": "preprocess",
        "vitaie_ms": statistics.median(row["vitaie_ms"] for row in rows),
        "torchvision_ms": statistics.median(row["torchvision_ms"] for row in rows),
        "ratio": ratio,
        "limit": LIMIT,
        "passed": ratio <= LIMIT,
        "rounds": arguments.rounds,
        "peak_mib": {side: round(peak_mib(side), 1) for side in SIDES},
        "rows": rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
