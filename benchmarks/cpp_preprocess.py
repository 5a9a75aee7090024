"""How long C++ takes from a JPEG's bytes to the tensor, beside torchvision's transforms.

All take the same photographs, 500x375, by turns, on one thread, and must give the same bits.
The figure is the median of the ratios of neighbours, which may be 0.40 at most; 0.25 is aimed at.
What decoding alone takes and what plain C++ without SIMD does are shown beside it.

    python -m benchmarks.cpp_preprocess [--rounds N] [--write]

Prints a table, and as the last line one JSON object; ``--write`` puts it into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.page import write_section
from benchmarks.preprocess import PROFILES, photographs, spec
from vitaie.manifests.manifest import Preprocess

LIMIT = 0.40
SIZE = (500, 375)
PROGRAM = Path(__file__).parents[1] / "cpp" / "build" / "tests" / "vitaie-time-preprocess"
WAYS = ("best", "scalar", "decode")


class Cpp:
    """The C++ side on one file: a process that preprocesses it whenever it is told to."""

    def __init__(self, program: Path, way: str, chosen: Preprocess, file: Path) -> None:
        """Start it; ``digest`` is the sha256 of what it makes."""
        numbers = (chosen.resize.size, chosen.crop.size, *chosen.mean, *chosen.std)
        words = ",".join(map(str, (chosen.resize.mode, *numbers)))
        self._process = subprocess.Popen(
            [program, way, words, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.digest = self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def seconds(self) -> float:
        """Preprocess once, and return how long it took."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._read()) / 1e9

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Torchvision:
    """The transforms as ImageNet evaluations write them, on one thread."""

    def __init__(self, chosen: Preprocess, data: bytes) -> None:
        """Compose them for one file; ``digest`` is the sha256 of what they make."""
        from vitaie.builder._torchvision import import_torchvision

        import_torchvision()
        importlib.import_module("torch").set_num_threads(1)
        transforms: Any = importlib.import_module("torchvision.transforms")
        size = chosen.resize.size
        self._compose = transforms.Compose(
            [
                transforms.Resize(
                    size if chosen.resize.mode == "shorter_side" else (size, size),
                    interpolation=transforms.InterpolationMode.BICUBIC,
                ),
                transforms.CenterCrop(chosen.crop.size),
                transforms.ToTensor(),
                transforms.Normalize(chosen.mean, chosen.std),
            ]
        )
        self._data = data
        self.digest = hashlib.sha256(self._run().numpy().tobytes()).hexdigest()

    def _run(self) -> Any:
        return self._compose(Image.open(BytesIO(self._data)).convert("RGB"))

    def seconds(self) -> float:
        """Preprocess once, and return how long it took."""
        start = time.perf_counter()
        self._run()
        return time.perf_counter() - start


def photograph(path: Path) -> bytes:
    """Return a photograph as a JPEG of the size that is measured."""
    buffer = BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").resize(SIZE).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(program: Path, chosen: Preprocess, data: bytes, rounds: int) -> dict[str, float]:
    """Return the median seconds of every side, and of its ratios to its neighbour."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file, ExitStack() as stack:
        file.write(data)
        file.flush()
        sides = {
            way: stack.enter_context(closing(Cpp(program, way, chosen, Path(file.name))))
            for way in WAYS
        }
        reference = Torchvision(chosen, data)
        if {sides["best"].digest, sides["scalar"].digest} != {reference.digest}:
            raise SystemExit("the bits differ")
        times: dict[str, list[float]] = {way: [] for way in (*WAYS, "torchvision")}
        for number in range(rounds):
            order: list[tuple[str, Cpp | Torchvision]] = [*sides.items()]
            order.append(("torchvision", reference))
            for way, side in order if number % 2 else reversed(order):
                times[way].append(side.seconds())
    row = {f"{way}_ms": statistics.median(column) * 1e3 for way, column in times.items()}
    for way in WAYS:
        pairs = zip(times[way], times["torchvision"])
        row[f"{way}_ratio"] = statistics.median(mine / theirs for mine, theirs in pairs)
    return row


def table(rows: list[dict[str, Any]], medians: dict[str, float]) -> str:
    """Return the ratios as a Markdown table."""
    lines = [
        "| photograph | profile | vitaie | torchvision | ratio | at most | | no SIMD | decoding |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    median: dict[str, Any] = {"photograph": "median", "profile": "", **medians}
    for row in [*rows, median]:
        holds = "holds" if row["best_ratio"] <= LIMIT else "MISSED"
        lines.append(
            f"| {row['photograph']} | {row['profile']} | {row['best_ms']:.2f} ms |"
            f" {row['torchvision_ms']:.2f} ms | {row['best_ratio']:.3f} | {LIMIT:.2f} | {holds} |"
            f" {row['scalar_ratio']:.3f} | {row['decode_ratio']:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Print the table and the JSON line; exit 1 when the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--program", type=Path, default=PROGRAM, help="what `make cpp` built")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(
        f"{'photograph':16} {'profile':10} {'C++ ms':>7} {'torchvision ms':>15}"
        f" {'ratio':>6} {'scalar':>6} {'decode':>6}"
    )
    for profile in PROFILES:
        for path in photographs():
            data = photograph(path)
            row = measure(arguments.program, spec(profile), data, arguments.rounds)
            print(
                f"{path.name:16} {profile:10} {row['best_ms']:7.2f} {row['torchvision_ms']:15.2f}"
                f" {row['best_ratio']:6.3f} {row['scalar_ratio']:6.3f} {row['decode_ratio']:6.3f}"
            )
            rounded = {name: round(value, 4) for name, value in row.items()}
            rows.append({"photograph": path.name, "profile": profile, **rounded})
    medians = {
        name: statistics.median(row[name] for row in rows)
        for name in rows[0]
        if name not in ("photograph", "profile")
    }
    passed = medians["best_ratio"] <= LIMIT
    result = {"benchmark": "cpp_preprocess", **medians, "limit": LIMIT, "passed": passed}
    print(json.dumps({**result, "rounds": arguments.rounds, "rows": rows}))
    if arguments.write:
        command = f"python -m benchmarks.cpp_preprocess --rounds {arguments.rounds} --write"
        write_section("cpp-preprocess", command, table(rows, medians))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
