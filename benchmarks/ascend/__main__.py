"""The acceptance run on a machine with a card: build, compile, measure, compare, pack.

    python -m benchmarks.ascend --checkpoints DIR --data IMAGENET            # all five variants
    python -m benchmarks.ascend --variant CARD --checkpoint FILE --data DIR  # one model

It calls the public commands and nothing else. Run the same line again after a kill: what is done
is not done again. What fails is told, and the rest goes on. The exit code is 0 when all of it was
done on a device, 1 when something failed, 2 for bad arguments, 6 without a device that works.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from benchmarks.ascend.steps import Done, Steps, write
from benchmarks.ascend.table import DOUBLE, Row, Story, rows, to_html, to_markdown

TARGET = "ascend310p3"
LEVELS = (0, 1, 2)
BATCH_SIZES = (1, 4, 8, 16, 32, 64)
BOUNDARIES = ("device", "host")
"""As the published speeds were taken, and as a user of the runtime meets it."""
ARCHIVE = "ascend-acceptance.tar.gz"


class Model(NamedTuple):
    """What is built and measured of one checkpoint with one preprocessing.

    Attributes:
        variant: A name, or a card file.
        name: The bundle's.
        checkpoint: The file.
        profile: The preprocessing; the card's first where it is empty.
        levels: The optimisation levels.
        batch_sizes: Accuracy is measured at the first.
        speed: Whether speed is measured.
    """

    variant: str
    name: str
    checkpoint: Path
    profile: str
    levels: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    speed: bool

    @property
    def key(self) -> str:
        """What its steps and files are called."""
        return f"{self.name}-{self.profile}" if self.profile else self.name


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run it, and return the exit code."""
    options = _options(arguments)
    run = Run(options)
    try:
        return run.all()
    except KeyboardInterrupt:
        print("interrupted: run the same command again, it goes on where it was", file=sys.stderr)
        return 130


def _options(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ascend", description=__doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--checkpoints", type=Path, help="folder of the five published .npz files")
    given.add_argument("--variant", help="one variant, or a card file, with --checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="the .npz file of --variant")
    parser.add_argument("--data", type=Path, required=True, help="ImageNet's validation images")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/ascend-acceptance"))
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--levels", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--device-id", type=int, default=0)
    parser.add_argument(
        "--allow-missing", type=int, default=0, help="images that may be unreadable"
    )
    parser.add_argument(
        "--unpaired", action="store_true", help="without the source model, on the CPU"
    )
    parser.add_argument("--protocol", default="quick", help="of speed: quick or full")
    parser.add_argument("--double", action="store_true", help="go on though no device is there")
    options = parser.parse_args(arguments)
    if (options.variant is None) != (options.checkpoint is None):
        parser.error("--variant and --checkpoint go together")
    for name in ("checkpoints", "checkpoint", "data"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            parser.error(f"--{name}: {path} is not there")
    return options


def models_of(variants: Sequence[dict[str, Any]], options: argparse.Namespace) -> Iterator[Model]:
    """Yield the variants that have published speeds; and what each figure of accuracy is of.

    The first preprocessing gets it all. Another, for which accuracy was published too, gets that
    alone, at the first level, as it was measured.

    Args:
        variants: As ``vitaie-build variants --json`` lists them.
        options: Of the command line.
    """
    levels, sizes = tuple(options.levels), tuple(options.batch_sizes)
    for variant in variants:
        if not variant["expected"][0]["speed"]:
            continue
        name = variant["name"]
        files = (options.checkpoints / variant["checkpoint"], options.checkpoints / f"{name}.npz")
        checkpoint = next((file for file in files if file.exists()), files[0])
        profiles = [each["profile"] for each in variant["preprocess"]]
        yield Model(name, name, checkpoint, profiles[0], levels, sizes, True)
        for profile, expected in zip(profiles[1:], variant["expected"][1:]):
            if expected["accuracy"]:
                yield Model(name, name, checkpoint, profile, levels[:1], sizes[:1], False)


class Run:
    """One acceptance run, in its folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Take the options; nothing is run yet."""
        self._options = options
        self._folder = Path(options.output)
        self._send = self._folder / "send"
        self._steps = Steps(self._folder / "steps")
        self._failures: list[tuple[str, str]] = []
        self._double = False

    def all(self) -> int:
        """Do everything, and write the report and the archive."""
        self._send.mkdir(parents=True, exist_ok=True)
        machine = self._machine()
        if machine is None:
            return 6
        table: list[Row] = []
        bundles: list[Path] = []
        analyses: list[Path] = []
        for model in self._models():
            bundle = self._model(model)
            if bundle is None:
                continue
            bundles.append(bundle)
            analyses += self._analysis(model, bundle)
            manifest = self._manifest(bundle)
            table += rows(
                manifest,
                model.levels,
                self._options.precision,
                double=self._double,
                speed=model.speed,
            )
            write(self._send / f"{model.key}.json", manifest)
        if bundles:
            self._page(bundles, analyses)
        self._report(table, machine)
        archive = self._pack()
        print(f"{archive}: {archive.stat().st_size:,} bytes, to send back", flush=True)
        if self._failures:
            print(f"{len(self._failures)} steps failed: {self._send / 'acceptance.md'}")
            return 1
        return 6 if self._double else 0

    # What there is

    def _machine(self) -> Optional[dict[str, Any]]:
        """Look at the machine, and compile and run a tiny model; None where that ends it."""
        device = ("--device-id", self._options.device_id)
        probe = ("vitaie-build", "doctor", "--probe", *device)
        found = self._steps.run("doctor", probe, again=True)  # what was wrong may be right by now
        document: dict[str, Any] = found.document
        write(self._send / "doctor.json", document)
        self._double = bool(document.get("ascend", {}).get("double"))
        if found.code == 0 or (self._double and self._options.double):
            return document
        for gap in document.get("ascend", {}).get("gaps", ()):  # the error itself is said already
            print(f"  gap: {gap['gap']}; to do: {gap['do']}", file=sys.stderr)
        return None

    def _models(self) -> Iterator[Model]:
        options = self._options
        levels, sizes = tuple(options.levels), tuple(options.batch_sizes)
        if options.variant is not None:
            path = Path(options.variant)
            name = path.stem if path.suffix == ".toml" else options.variant
            yield Model(options.variant, name, options.checkpoint, "", levels, sizes, True)
            return
        listed = self._steps.run("variants", ("vitaie-build", "variants"))
        yield from models_of(listed.document["variants"], options)

    # One model

    def _model(self, model: Model) -> Optional[Path]:
        """Build, compile, measure and attach; return the newest version, None without a bundle."""
        store = self._folder / f"store-{model.profile or 'card'}"
        home = self._bundle(model, store)
        if home is None:
            return None
        for level in model.levels:
            self._compile(model, home, level)
        newest = _versions(home)[-1]
        manifest = self._manifest(newest)
        records = list(self._measure(model, newest, manifest))
        return self._attach(model, newest, records)

    def _bundle(self, model: Model, store: Path) -> Optional[Path]:
        """Build it, and return the folder of its versions."""
        command: list[object] = ["vitaie-build", "bundle", model.variant]
        command += ["--checkpoint", model.checkpoint, "--store", store, "--skip-measure"]
        command += ["--preprocess", model.profile] if model.profile else []
        name = f"{model.key}-bundle"
        built = self._steps.run(name, command)
        if built.code:
            self._fail(name, built)
            return None
        return Path(built.document["path"]).parent

    def _compile(self, model: Model, home: Path, level: int) -> None:
        """Add the targets of a level that are not there: all at once, or else one by one."""
        there = {each["id"] for each in self._manifest(_versions(home)[-1])["targets"]}
        sizes = [size for size in model.batch_sizes if self._target(size, level) not in there]
        if not sizes:
            return
        name = f"{model.key}-compile-o{level}"
        done = self._compile_at_once(name, home, level, sizes)
        if done.code and len(sizes) > 1:
            for size in sizes:
                alone = f"{name}-b{size}"
                done = self._compile_at_once(alone, home, level, [size])
                if done.code:
                    self._fail(alone, done)
        elif done.code:
            self._fail(name, done)
        _keep_newest(home)

    def _compile_at_once(self, name: str, home: Path, level: int, sizes: Sequence[int]) -> Done:
        options = self._options
        command: list[object] = ["vitaie-build", "compile", home, "--target", TARGET]
        command += ["--optim-level", level, "--precision", options.precision]
        for size in sizes:
            command += ["--batch-size", size]
        command += ["--device-id", options.device_id, "--skip-measure"]
        return self._steps.run(name, command)

    def _target(self, size: int, level: int) -> str:
        return f"{TARGET}-{self._options.precision}-b{size}-o{level}"

    def _measure(self, model: Model, bundle: Path, manifest: dict[str, Any]) -> Iterator[Path]:
        """Measure what the bundle has no record of; yield each record's file."""
        digests = {each["id"]: each["target_digest"] for each in manifest["targets"]}
        seen = {each["target_digest"] for each in manifest["accuracy"]}
        timed = {(each["target_digest"], each["boundary"]) for each in manifest["performance"]}
        for level in model.levels:
            target = self._target(model.batch_sizes[0], level)
            if target in digests and digests[target] not in seen:
                yield from self._accuracy(model, bundle, target, manifest)
        for size in model.batch_sizes if model.speed else ():
            for level in model.levels:
                target = self._target(size, level)
                for boundary in BOUNDARIES if target in digests else ():
                    if (digests[target], boundary) not in timed:
                        yield from self._speed(model, bundle, target, size, boundary, manifest)

    def _accuracy(
        self, model: Model, bundle: Path, target: str, manifest: dict[str, Any]
    ) -> Iterator[Path]:
        options = self._options
        name = f"{model.key}-accuracy-{target}"
        output = self._record(name, manifest)
        command: list[object] = ["vitaie", "eval", bundle, "--target", target]
        command += ["--data", options.data, "--device-id", options.device_id]
        command += ["--allow-missing", options.allow_missing, "-o", output]
        command += ["--unpaired"] * options.unpaired
        yield from self._measured(name, self._steps.run(name, command, output=output), output)

    def _speed(
        self,
        model: Model,
        bundle: Path,
        target: str,
        size: int,
        boundary: str,
        manifest: dict[str, Any],
    ) -> Iterator[Path]:
        options = self._options
        name = f"{model.key}-speed-{target}-{boundary}"
        output = self._record(name, manifest)
        command: list[object] = ["vitaie", "bench", bundle, "--target", target]
        command += ["--batch-size", size, "--boundary", boundary, "--protocol", options.protocol]
        command += ["--device-id", options.device_id, "-o", output]
        done = self._steps.run(name, command, output=output, accept=(0, 6))
        yield from self._measured(name, done, output)

    def _record(self, name: str, manifest: dict[str, Any]) -> Path:
        """Return a record's file: of this content, since other targets make it another."""
        folder = self._send / "records"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}-{manifest['content_digest'][:8]}.json"

    def _measured(self, name: str, done: Done, output: Path) -> Iterator[Path]:
        """Yield the record, if there is one; an INVALID speed (6) has one too."""
        if output.exists():
            yield output
        else:
            self._fail(name, done)

    def _attach(self, model: Model, newest: Path, records: Sequence[Path]) -> Path:
        """Put the records into the bundle that it does not have; return its newest version."""
        held = {each["sha256"] for each in self._manifest(newest)["artifacts"]}
        new = [file for file in records if _sha256(file) not in held]
        if not new:
            return newest
        name = f"{model.key}-attach"
        done = self._steps.run(name, ("vitaie-build", "attach", newest, *new))
        if done.code:
            self._fail(name, done)
            return newest
        _keep_newest(newest.parent)
        return Path(done.document["path"])

    # What is said of it

    def _manifest(self, bundle: Path) -> dict[str, Any]:
        """Return what a version says; it is opened again each time, since it is never far."""
        name = f"info-{_sha256_of(str(bundle.resolve()))[:12]}"
        done = self._steps.run(name, ("vitaie", "info", bundle))
        if done.code:
            raise SystemExit(f"{bundle}: {done.complaint}")
        manifest: dict[str, Any] = done.document["manifest"]
        return manifest

    def _analysis(self, model: Model, bundle: Path) -> Iterator[Path]:
        """Yield what half precision should do, emulated on the CPU, to hold a device against."""
        if not model.speed:
            return
        name = f"{model.key}-analysis"
        done = self._steps.run(name, ("vitaie-build", "analyze", bundle))
        if done.code:
            self._fail(name, done)
            return
        file = self._send / f"{name}.json"
        write(file, done.document)
        yield file

    def _page(self, bundles: Sequence[Path], analyses: Sequence[Path]) -> None:
        output = self._send / "bundles.html"
        output.unlink(missing_ok=True)
        command: list[object] = ["vitaie", "report", *bundles, "-o", output]
        command += ["--device-id", self._options.device_id]
        for file in analyses:
            command += ["--analysis", file]
        done = self._steps.run("report", command, again=True)
        false = done.code == 1 and output.exists()
        if done.code and not (false and self._double):  # what the double made is never true
            self._fail("report", done)

    def _report(self, table: Sequence[Row], machine: dict[str, Any]) -> None:
        ascend, options = machine["ascend"], self._options
        facts = [
            ("Machine", f"{machine['machine']}, {machine['processors']} processors"),
            ("Python", machine["python"]),
            ("Package", f"{ascend['package']} {ascend['package_version']}"),
            ("CANN", ascend["cann"]),
            ("Chips", ", ".join(ascend["socs"]) or "none is shown"),
            ("Packages", ", ".join(f"{k} {v}" for k, v in machine["packages"].items())),
            ("Data", options.data.name),
            ("Precision", options.precision),
        ]
        story = Story(self._double, facts, self._failures)
        document = {
            "double": self._double,
            "about": DOUBLE if self._double else "measured on the device that doctor.json says",
            "facts": dict(facts),
            "failures": [{"step": name, "said": said} for name, said in self._failures],
            "rows": [row._asdict() for row in table],
        }
        write(self._send / "acceptance.json", document)
        (self._send / "acceptance.md").write_text(to_markdown(table, story), encoding="utf-8")
        (self._send / "acceptance.html").write_text(to_html(table, story), encoding="utf-8")

    def _pack(self) -> Path:
        """Write the archive: reports, records and what commands said, and none of the bundles."""
        archive = self._folder / ARCHIVE
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(self._send, "ascend-acceptance", filter=_is_whole)
            packed.add(self._folder / "steps", "ascend-acceptance/steps")
        return archive

    def _fail(self, name: str, done: Done) -> None:
        self._failures.append((name, done.complaint))
        print(f"{name}: {done.complaint}", file=sys.stderr, flush=True)


def _is_whole(member: tarfile.TarInfo) -> Optional[tarfile.TarInfo]:
    """Leave out the journal of an evaluation that failed: it is of use here alone."""
    return None if member.name.endswith(".journal") else member


def _versions(home: Path) -> list[Path]:
    """Return the versions in a folder, the oldest first."""

    def number(path: Path) -> tuple[int, ...]:
        return tuple(map(int, path.name.split(".")))

    found = (path for path in home.iterdir() if path.name.replace(".", "").isdigit())
    return sorted(found, key=number)


def _keep_newest(home: Path) -> None:
    """Remove all versions but the newest, which has all of theirs: a module is hundreds of MB."""
    for version in _versions(home)[:-1]:
        shutil.rmtree(version)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
