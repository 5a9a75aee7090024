"""The whole way on real data: train, bundle, verify, classify, report; then one model at full size.

Every command is printed before it runs, as you would type it. Everything is written to one
folder of the demo's own, and nothing is deleted. Run again, it replaces its checkpoints and
digits, and makes the next version of each bundle beside the ones before.

    python examples/demo.py --out build/demo          # 0.7 GB, under five minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vitaie.manifests.errors import DiskError, StoreError, VitaieError

EXAMPLES = Path(os.path.relpath(Path(__file__).parent))
PHOTOS = EXAMPLES.parent / "builder" / "vitaie" / "builder" / "photos"
FULL_SIZE = "vit_base_patch16_224"
MARK = ".vitaie-demo"
REQUIRED_PERCENT = 95
MEASURED = ("--require", f"top1>={REQUIRED_PERCENT}", "--require", "agreement>=0.99")
"""What the digits' bundle must show before it is published."""


class Score(NamedTuple):
    """How many of the held-out images got their own class, and how many there are."""

    right: int
    total: int

    def __str__(self) -> str:
        """Return what the demo says of it."""
        return f"{self.right} of {self.total} held-out digits right: {self.percent:.2f}%"

    @property
    def percent(self) -> float:
        """The same in percent."""
        return 100 * self.right / self.total


class Demo:
    """Runs commands as a user would type them, and remembers how long each took."""

    def __init__(self, folder: Path) -> None:
        """Take over a folder that is new, empty, or an earlier demo's.

        Raises:
            StoreError: E_OUTPUT_EXISTS when there is something else in it.
            DiskError: It cannot be made.
        """
        self.folder = folder
        self.times: list[tuple[str, float]] = []
        mark = folder / MARK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.again = mark.exists()
            if not self.again and any(folder.iterdir()):
                hint = "Give --out a new folder, or an earlier demo's."
                raise StoreError("E_OUTPUT_EXISTS", folder, hint=hint)
            mark.touch()
        except OSError as error:
            raise DiskError("E_DISK", folder, got=error.strerror) from None

    def run(self, title: str, *command: object) -> None:
        """Print a command and run it.

        Args:
            title: What the list of times calls it.
            command: ``python``, ``vitaie`` or ``vitaie-build``, and its arguments.

        Raises:
            subprocess.CalledProcessError: The command failed.
        """
        print(f"\n$ {shlex.join(map(str, command))}", flush=True)
        self._timed(title, command, output=None)

    def ask(self, title: str, *command: object, typed: str = "") -> str:
        """Print a command as ``run`` does, or as ``typed``; return what it printed on stdout."""
        print(f"\n$ {typed or shlex.join(map(str, command))}", flush=True)
        return self._timed(title, command, output=subprocess.PIPE)

    def _timed(self, title: str, command: Sequence[object], output: int | None) -> str:
        program, *arguments = map(str, command)
        start = time.monotonic()
        done = subprocess.run(
            [_program(program), *arguments],
            stdout=output,
            encoding="utf-8",
            check=True,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder.absolute() / "cache")},
        )
        self.times.append((title, time.monotonic() - start))
        return done.stdout or ""

    def bundle(
        self,
        variant: object,
        checkpoint: Path,
        goldens: Sequence[Path] = (),
        measured: Sequence[object] = ("--skip-measure",),
    ) -> Path:
        """Make a bundle and verify it; return its folder. ``measured`` says what is measured."""
        command = ["vitaie-build", "bundle", variant, "--checkpoint", checkpoint]
        command += ["--store", self.folder / "bundles", *measured]
        for golden in goldens:
            command += ["--golden", golden]
        printed = self.ask(f"bundle {checkpoint.stem}", *command)
        print(printed, end="")
        bundle = Path(printed.splitlines()[-1])
        self.run(f"verify {checkpoint.stem}", "vitaie", "verify", bundle)
        return bundle


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR")
    parser.add_argument("--skip-full-size", action="store_true", help="digits only, 4 MB")
    parser.add_argument("--skip-speed", action="store_true", help="measure no speed: 15 s less")
    arguments = parser.parse_args()
    try:
        demo = Demo(arguments.out)
        score = show_digits(demo, ("--skip-measure",) if arguments.skip_speed else ())
        if not arguments.skip_full_size:
            show_full_size(demo)
    except VitaieError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except subprocess.CalledProcessError as error:
        print(f"the demo stops: that command ended with {error.returncode}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nE_INTERRUPTED: run it again to go on", file=sys.stderr)
        return 130
    print("\nTimes")
    for title, seconds in demo.times:
        print(f"{seconds:7.1f} s  {title}")
    print(f"{sum(seconds for _, seconds in demo.times):7.1f} s  in all")
    print(f"\n{score}")
    if score.percent <= REQUIRED_PERCENT:
        print(f"the demo fails: it needs more than {REQUIRED_PERCENT}%", file=sys.stderr)
        return 1
    return 0


def show_digits(demo: Demo, skipped: Sequence[str]) -> Score:
    """Train a small model, and bundle it once it is right on images it was not trained on.

    Then classify these images as a user would, and count again.
    """
    print("A small Vision Transformer, trained now on scikit-learn's digits.")
    folder = demo.folder / "digits"
    train = EXAMPLES / "digits" / "train.py"
    force = ["--force"] if demo.again else []
    demo.run("train digits", "python", train, "-o", folder, *force)

    held_out = sorted((folder / "val").glob("*/*.png"))
    some = [next(path for path in held_out if path.parent.name == digit) for digit in "357"]
    card = EXAMPLES / "digits" / "digits.toml"
    measured = ["--data", folder / "val", *MEASURED, *skipped]
    bundle = demo.bundle(card, folder / "digits.npz", goldens=some, measured=measured)
    demo.run("gate", "vitaie-build", "gate", bundle)
    demo.run("info", "vitaie", "info", bundle)
    demo.run("classify 3 digits", "vitaie", "classify", bundle, *some, "--top-k", "2")
    app = EXAMPLES / "classify.py"
    demo.run("the app of five lines", "python", app, bundle, some[0])

    saved = demo.folder / "held-out.json"
    answers = demo.ask(
        f"classify {len(held_out)} digits",
        *("vitaie", "classify", bundle, *held_out, "--json", "--top-k", "1"),
        typed=f"vitaie classify {bundle} {folder}/val/*/*.png --json --top-k 1 > {saved}",
    )
    saved.write_text(answers, encoding="utf-8")
    score = score_answers(answers)
    print(score)
    page = demo.folder / f"report-{bundle.name}.html"
    demo.run("report", "vitaie", "report", bundle, "-o", page, "--data", folder / "val")
    return score


def score_answers(answers: str) -> Score:
    """Count the right ones in what ``vitaie classify --json`` printed.

    The class of an image is the name of its folder, which is a label's id.
    """
    images = json.loads(answers)["images"]
    right = [Path(row["image"]).parent.name == row["predictions"][0]["id"] for row in images]
    return Score(sum(right), len(right))


def show_full_size(demo: Demo) -> None:
    """Bundle a model of full size and run it on photographs."""
    print(f"\n{FULL_SIZE} at full size. Its weights are RANDOM: the layout, the size and the")
    print("speed are real, and the classes it gives mean nothing.")
    checkpoint = demo.folder / f"{FULL_SIZE}.npz"
    make = EXAMPLES / "make_checkpoint.py"
    force = ["--force"] if demo.again else []
    demo.run("make a checkpoint", "python", make, FULL_SIZE, "-o", checkpoint, *force)
    bundle = demo.bundle(FULL_SIZE, checkpoint)
    photographs = sorted(PHOTOS.glob("*.jpg"))
    demo.run("classify photographs", "vitaie", "classify", bundle, *photographs, "--top-k", "2")
    print("(random weights: these classes mean nothing)")


def _program(name: str) -> str:
    """Return the path of a command of this Python's environment."""
    return sys.executable if name == "python" else str(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    sys.exit(main())
