"""A bundle's model compiled for a device: a module for each batch size, proven and published.

    model.ts ─ graph for the device ─ compile ─► targets/<id>/model.ts ─ load, run ─► comparison
                                                        manifest ─ verify, measure ─► publish

What is compared with the source is what ships: loaded from the staged bundle, as users load it. A
target that is not the source model, as far as its tolerance goes, is not published. It needs torch
and the device's package, and nothing else of the builder.
"""

from __future__ import annotations

import gc
import logging
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitaie.builder import toolchain
from vitaie.builder.files import artifacts
from vitaie.builder.staged import NOT_YET_AGREED, check_newest, check_verdict, store_of
from vitaie.builder.store import Publication, copy_tree, publication
from vitaie.manifests.contents import AFTER, BEFORE, OUTSIDE
from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, InputError, TargetUnavailable
from vitaie.manifests.manifest import Manifest
from vitaie.runtime import _ascend, _ascend_machine
from vitaie.runtime._ascend import CompileOptions, Device, Precision
from vitaie.runtime._bundle import MANIFEST_NAME, Bundle, open_bundle
from vitaie.runtime._claim import silent
from vitaie.runtime._comparison import (
    Comparison,
    Images,
    compare,
    describe,
    read_images,
    same,
)
from vitaie.runtime._environment import processor
from vitaie.runtime._files import disk_errors
from vitaie.runtime._goldens import check_golden_stages, check_logits
from vitaie.runtime._model import DOUBLE, open_engine, read_labels
from vitaie.runtime._torchscript import load_module
from vitaie.runtime._verify import Verdict, verify

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.builder.device_graph import DeviceGraph
    from vitaie.builder.measure import Candidate, Wanted
    from vitaie.manifests.manifest import Target
    from vitaie.runtime._evaluate import Progress

_log = logging.getLogger("vitaie")

DEVICE = "ascend310p3"
"""The device, and what the ids of its targets begin with."""

SOC = "Ascend310P3"
"""The compiler's own default, for a machine that does not say what chip it has."""

LEVELS = (0, 1, 2)
"""The compiler's optimisation: none, of the graph, of operators; 1 and 2 tune on the device."""

TOLERANCES: dict[Precision, dict[str, Any]] = {
    "fp32": {"max_rel_diff": 1e-3, "cosine": None},
    "fp16": {"max_rel_diff": 0.05, "cosine": 0.999},
    "pref_fp32": {"max_rel_diff": 0.05, "cosine": 0.999},
    "pref_fp16": {"max_rel_diff": 0.05, "cosine": 0.999},
}
"""What each precision may differ from the source model.

Half precision rounds by 2^-12 of a value on average, and a Vision Transformer of twelve blocks
about two hundred times in a row: rounding that adds up at random gives a distance near 0.4% and a
cosine near 0.99999. 0.999 is the angle of a distance of 4.5%, ten times that: beyond it something
is wrong and not rounded. The mixed policies may compute in half precision wherever the compiler
prefers it. In full precision only the order of sums is the device's own, as the probe allows it.
"""


@dataclass(frozen=True)
class DeviceOptions:
    """What is compiled for a device.

    Attributes:
        precision: The compiler's policy.
        optim_level: 0 to 2, or None for the fastest, which only measuring can find.
        batch_sizes: A module, and a target, for each.
        device_id: The device that compiles and runs it.
        allow_fallback: Whether operators that the compiler cannot take may stay outside the device.
    """

    precision: Precision = "fp16"
    optim_level: int | None = 2
    batch_sizes: tuple[int, ...] = (1,)
    device_id: int = 0
    allow_fallback: bool = False

    @property
    def levels(self) -> tuple[int, ...]:
        """All that are compiled."""
        return LEVELS if self.optim_level is None else (self.optim_level,)

    def target_id(self, batch: int, level: int) -> str:
        """Return the id of a target, such as ``ascend310p3-fp16-b1-o2``."""
        return f"{DEVICE}-{self.precision}-b{batch}-o{level}"


class Compared(NamedTuple):
    """A target as it was compiled, and how it compares with the source model."""

    target: Target
    found: Comparison


@dataclass(frozen=True)
class Watch:
    """Who is told how far it is: of each step, of each comparison, of images that are done."""

    step: Callable[[str], None] = silent
    compared: Callable[[Compared], None] = lambda compared: None
    images: Callable[[Progress], None] = lambda progress: None


class Compiled(NamedTuple):
    """The version that was published, its verdict, and its comparisons with the source model."""

    path: Path
    manifest: Manifest
    verdict: Verdict
    compared: tuple[Compared, ...]


class Ready(NamedTuple):
    """A device that is open, and what the machine says of its chip and its CANN."""

    device: Device
    soc: str
    cann: str

    @property
    def by_double(self) -> bool:
        """Whether the tests' double stands in for the package: then there is no device."""
        return self.device.package.version == _ascend.DOUBLE


def compile_bundle(
    bundle: str | os.PathLike[str],
    options: DeviceOptions,
    measured: Wanted | None = None,
    watch: Watch | None = None,
) -> Compiled:
    """Publish the bundle's next minor version, with targets for a device.

    The version before is not touched. A target of the same id is replaced, and what was measured
    of it goes; all other records are carried over.

    Args:
        bundle: The newest version in a store, or the folder of its versions.
        options: What is compiled.
        measured: What is measured before it is published; nothing when None.
        watch: Who is told how far it is; ``steps_of`` names the steps.

    Raises:
        InputError: An option is not valid; ``E_STORE_PATH``, the bundle lies in no store.
        TargetUnavailable: ``E_EXTRA_MISSING``, ``E_TARGET_UNAVAILABLE`` or ``E_DEVICE``, package or
            device are not there or refuse; ``E_COMPILE``, the compiler refuses the model.
        BundleError: The bundle does not open, or is false; ``E_CLAIM_FALSE``, what was compiled is
            not the source model.
        GateError: What was measured does not pass a gate.
        StoreError: There is a newer version, or another process makes one.
        DiskError: The disk refused. In every case the store is as it was.
    """
    watch = watch or Watch()
    check_options(options, measured)
    watch.step("device")
    with open_bundle(bundle) as opened:
        folder, manifest = opened.folder.resolve(), opened.manifest
        if measured is not None:
            from vitaie.builder.measure import check_wanted

            check_wanted(measured, manifest.name, [identity for identity, _ in read_labels(opened)])
        store = store_of(folder, manifest)
        ready = open_ready(options)
        watch.step("bundle")
        opened.check()
    with publication(store, manifest.name, bump="minor") as draft:
        check_newest(store, manifest, "Compile")
        watch.step("copy")
        copy_tree(folder, draft.folder)
        fields = _without(manifest, draft.folder, options)
        fields["version"] = draft.version
        staged = stage_targets(draft, fields, options, ready, watch)
        return publish_staged(draft, store, staged, measured, watch)


def steps_of(options: DeviceOptions, measured: Wanted | None) -> tuple[str, ...]:
    """Return the names of the steps that ``compile_bundle`` reports."""
    return ("device", "bundle", "copy", *staging_steps(options, measured), "publish")


def staging_steps(options: DeviceOptions, measured: Wanted | None) -> tuple[str, ...]:
    """Return the names of the steps from the copy to the publication."""
    names = ["source model"]
    for batch in options.batch_sizes:
        names.append(f"graph for batch {batch}")
        names += [f"compile {options.target_id(batch, level)}" for level in options.levels]
    for level in options.levels:
        names += [f"compare {options.target_id(batch, level)}" for batch in options.batch_sizes]
        names.append("verify")
    if measured is not None and measured.speed:
        names += ["speed", *(f"speed at batch {size}" for size in options.batch_sizes[1:])]
    if measured is not None and measured.data is not None:
        names.append("accuracy")
    return tuple(names)


def check_options(options: DeviceOptions, measured: Wanted | None) -> None:
    """Refuse options that no device has, and a level that nothing is measured to choose by.

    Raises:
        InputError: ``E_ARGUMENT``.
    """
    from vitaie.builder.measure import check_batch_sizes

    if options.optim_level not in (None, *LEVELS):
        expected = "0, 1, 2 or auto"
        raise InputError("E_ARGUMENT", "optim_level", expected=expected, got=options.optim_level)
    if options.device_id < 0:
        raise InputError("E_ARGUMENT", "device_id", expected="at least 0", got=options.device_id)
    check_batch_sizes(options.batch_sizes)
    if not options.batch_sizes:
        raise InputError("E_ARGUMENT", "batch_size", expected="at least one", got="none")
    if options.optim_level is None and (measured is None or not measured.speed):
        got, hint = "auto, and no speed is measured", "Leave --skip-measure out, or name a level."
        raise InputError("E_ARGUMENT", "optim_level", got=got, hint=hint)


def open_ready(options: DeviceOptions) -> Ready:
    """Open the device before any long work, and see that it can be compiled for.

    Raises:
        TargetUnavailable: What is missing, or which chip is not the target's.
    """
    machine = _ascend_machine.look()
    socs = machine.socs
    soc = socs[min(options.device_id, len(socs) - 1)] if socs else SOC
    if soc != SOC:
        hint = "vitaie compiles for this chip alone."
        raise TargetUnavailable(
            "E_TARGET_UNAVAILABLE", DEVICE, field="chip", expected=SOC, got=soc, hint=hint
        )
    device = _ascend.open_device(options.device_id)
    device.package.policy(options.precision)
    ready = Ready(device, soc, machine.cann)
    if ready.by_double:
        _log.warning("%s: %s", device.package, DOUBLE)
    return ready


class Staged(NamedTuple):
    """What may ship, one candidate for each level, and how each of its targets compares."""

    candidates: list[Candidate]
    verdicts: list[Verdict]
    compared: list[tuple[Compared, ...]]
    show: Callable[[Manifest], None]
    device_id: int


def stage_targets(
    draft: Publication,
    fields: dict[str, Any],
    options: DeviceOptions,
    ready: Ready,
    watch: Watch,
) -> Staged:
    """Compile into a staged bundle, and prove what was compiled, from the staged files.

    Args:
        draft: Its folder holds a whole bundle.
        fields: That bundle's manifest, as plain JSON values.
        options: What is compiled.
        ready: The device.
        watch: Who is told how far it is.

    Raises:
        TargetUnavailable: ``E_COMPILE`` or ``E_DEVICE``, the package's own words inside.
        BundleError: ``E_CLAIM_FALSE``, what was compiled is not the source model.
    """
    from vitaie.builder.measure import Candidate

    base = Manifest.create(fields)
    (draft.folder / MANIFEST_NAME).write_bytes(base.to_bytes())
    watch.step("source model")
    with open_bundle(draft.folder) as bundle:
        tensors, _ = check_golden_stages(bundle)
        images = read_images(bundle, tensors)
        rows = _compile_all(bundle, draft.aside(), options, ready, watch)
    files = _Files(draft.folder, draft.aside(), [row["id"] for row in rows])
    staged = Staged([], [], [], files.show, options.device_id)
    known: dict[str, list[NDArray[np.float32]]] = {}
    for level in options.levels:
        shown = [row for row in rows if row["optim_level"] == level]
        command = shlex.join(_command(base.name, options, level))
        staged_fields = {**fields, "toolchain": dict(fields["toolchain"])}
        staged_fields["toolchain"]["command"] += f" && {command}"
        compared = _prove(files, staged_fields, shown, images, known, options.device_id, watch)
        watch.step("verify")
        verdict = verify(draft.folder, known=known, device_id=options.device_id)
        check_verdict(verdict)
        staged.verdicts.append(verdict)
        staged.compared.append(compared)
        staged.candidates.append(Candidate(verdict.manifest, [row["id"] for row in shown]))
    return staged


def publish_staged(
    draft: Publication, store: Path, staged: Staged, measured: Wanted | None, watch: Watch
) -> Compiled:
    """Measure what is staged, if anything is to be, and publish the best of it.

    Raises:
        GateError: What was measured does not pass a gate.
        DiskError: The disk refused. In every case the store is as it was.
    """
    if measured is None:
        watch.step("publish")
        verdict = staged.verdicts[0]
        return Compiled(draft.publish(), verdict.manifest, verdict, staged.compared[0])
    from vitaie.builder import measure  # what it needs takes time to import

    bundle = measure.Staged(
        draft.folder, staged.candidates, store, staged.show, draft.publish, staged.device_id
    )
    path, manifest = measure.measure_and_publish(
        bundle, measured, measure.Watch(watch.step, watch.images)
    )
    contents = [verdict.manifest.content_digest for verdict in staged.verdicts]
    chosen = contents.index(manifest.content_digest)
    return Compiled(path, manifest, staged.verdicts[chosen], staged.compared[chosen])


# What a version goes on from


def _without(manifest: Manifest, folder: Path, options: DeviceOptions) -> dict[str, Any]:
    """Return a manifest's fields without the targets to be made, and take their files away.

    What was measured of these goes too. A table of levels makes room where another one comes.
    """
    made = {options.target_id(b, level) for b in options.batch_sizes for level in options.levels}
    kept = {t.target_digest for t in manifest.targets if t.id not in made}
    fields = manifest.model_dump(mode="json")
    fields["targets"] = [row for row in fields["targets"] if row["id"] not in made]
    for kind in ("accuracy", "performance", "gates"):
        fields[kind] = [row for row in fields[kind] if row["target_digest"] in kept]
    ships = {level.target_digest for level in manifest.levels if level.chosen}
    levels = manifest.levels
    if options.optim_level is None or not ships <= kept:
        levels, fields["levels"] = (), []
    needed = {row["predictions"] for row in fields["accuracy"]}
    needed |= {row["latencies"] for row in fields["performance"]}
    needed |= {path for level in levels for path in (level.latencies, level.predictions)}
    needed |= {path for row in fields["targets"] for path in row["files"]}
    gone = [
        row["path"]
        for row in fields["artifacts"]
        if row["role"] in ("measurement", "target") and row["path"] not in needed
    ]
    fields["artifacts"] = [row for row in fields["artifacts"] if row["path"] not in gone]
    for path in gone:
        (folder / path).unlink()
    _remove_empty_folders(folder)
    return fields


def _remove_empty_folders(folder: Path) -> None:
    for parent, _, _ in os.walk(folder, topdown=False):
        if parent != str(folder) and not os.listdir(parent):
            os.rmdir(parent)


def _command(name: str, options: DeviceOptions, level: int) -> list[str]:
    """Return the command that gives these targets again, on such a machine."""
    command = ["vitaie-build", "compile", name, "--target", DEVICE]
    command += ["--optim-level", str(level), "--precision", options.precision]
    for batch in options.batch_sizes:
        command += ["--batch-size", str(batch)]
    return [*command, "--allow-fallback"] if options.allow_fallback else command


# Compiling


def _compile_all(
    bundle: Bundle, aside: Path, options: DeviceOptions, ready: Ready, watch: Watch
) -> list[dict[str, Any]]:
    """Compile every batch size at every level; return the manifest's entries, not yet compared.

    Each module lies in a folder of its target's id.
    """
    from vitaie.builder.device_graph import make_device_graph

    count = len(options.batch_sizes) * len(options.levels)
    _ask_for_room(aside / "room", count * sum(weight.length for weight in bundle.manifest.weights))
    source, model = load_module(bundle, DEVICE), bundle.manifest.model
    rows: list[dict[str, Any]] = []
    for batch in options.batch_sizes:
        watch.step(f"graph for batch {batch}")
        graph = make_device_graph(source, model, batch)
        for level in options.levels:
            name = options.target_id(batch, level)
            watch.step(f"compile {name}")
            (aside / name).mkdir()
            shape = (batch, 3, model.image_size, model.image_size)
            asked = CompileOptions(
                shape, options.precision, level, ready.soc, options.allow_fallback
            )
            outside = _compile(ready.device, graph, asked, aside / name / "model.ts")
            rows.append(_row(name, batch, asked, ready, graph, outside))
            if outside:
                _log.warning("%s: outside the device are %s", name, _listed(outside))
        del graph
        gc.collect()  # one set of weights at a time; torch's sit in reference cycles
    return rows


def _ask_for_room(file: Path, size: int) -> None:
    """See that the disk holds so many bytes more, before a compilation that may take hours.

    The package documents nothing of a full disk: what it says then could be about anything.

    Raises:
        DiskError: It does not.
    """
    with disk_errors(file):
        with open(file, "xb") as room:
            os.posix_fallocate(room.fileno(), 0, size)
        file.unlink()


def _compile(
    device: Device, graph: DeviceGraph, options: CompileOptions, file: Path
) -> dict[str, int]:
    """Compile a graph into a file; return how often each operator is left outside the device."""
    from vitaie.builder.device_graph import count_in

    compiled = device.compile(graph.module, options)
    outside = count_in(device.operators(compiled)).counts
    device.save(compiled, str(file))
    return outside


def _listed(outside: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in outside.items())


def _row(
    name: str,
    batch: int,
    asked: CompileOptions,
    ready: Ready,
    graph: DeviceGraph,
    outside: dict[str, int],
) -> dict[str, Any]:
    package = ready.device.package
    return {
        "id": name,
        "backend": "torch_aie",
        "device": DEVICE,
        "precision": asked.precision,
        "optim_level": asked.optim_level,
        "batch_sizes": [batch],
        "files": [f"targets/{name}/model.ts"],
        "options": {
            "allow_fallback": asked.allow_fallback,
            "double": ready.by_double,
            BEFORE: graph.before.total,
            AFTER: graph.after.total,
            OUTSIDE: sum(outside.values()),
            "soc_version": ready.soc,
        },
        "toolchain": {
            package.name: package.version,
            "cann": ready.cann,
            "torch": toolchain.version("torch"),
            "vitaie": toolchain.version("vitaie"),
        },
        "operators_outside": sorted(outside),
        "tolerance": TOLERANCES[asked.precision],
        "agreement": NOT_YET_AGREED,
        "target_digest": "0" * 64,
    }


class _Files:
    """The targets' files: those of one level lie in the bundle, the others wait beside it."""

    def __init__(self, folder: Path, aside: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self._aside = aside
        self._names = names

    def show(self, manifest: Manifest) -> None:
        """Make the bundle the one of a manifest."""
        shown = {target.id for target in manifest.targets}
        (self.folder / "targets").mkdir(exist_ok=True)
        for name in self._names:
            inside, outside = self.folder / "targets" / name, self._aside / name
            if name in shown and not inside.exists():
                os.rename(outside, inside)
            elif name not in shown and inside.exists():
                os.rename(inside, outside)
        (self.folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())

    def entries(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the manifest's entries of some targets' files, wherever they lie."""
        found: list[dict[str, Any]] = []
        for name in names:
            inside = self.folder / "targets" / name
            place = inside if inside.exists() else self._aside / name
            for entry in artifacts(place, {"model.ts": "target"}):
                found.append({**entry, "path": f"targets/{name}/{entry['path']}"})
        return found


# Proving


def _prove(
    files: _Files,
    fields: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    images: Images,
    known: dict[str, list[NDArray[np.float32]]],
    device_id: int,
    watch: Watch,
) -> tuple[Compared, ...]:
    """Run staged targets beside the source model, and write the manifest that says how they agree.

    Their logits on the goldens, float32 [1, classes] each, are added to ``known`` by target digest.
    """
    entries = fields["artifacts"] + files.entries([row["id"] for row in rows])
    draft = Manifest.create(
        {**fields, "artifacts": entries, "targets": [*fields["targets"], *rows]}
    )
    files.show(draft)
    ids = [row["id"] for row in rows]
    compared: list[Compared] = []
    agreed: list[dict[str, Any]] = []
    with open_bundle(files.folder) as bundle:
        goldens = len(bundle.manifest.goldens)
        for target, row in zip((t for t in draft.targets if t.id in ids), rows):
            watch.step(f"compare {target.id}")
            logits = _run(bundle, target, images.tensors, device_id)
            each = Compared(target, compare(logits, images.expected, target.tolerance))
            watch.compared(each)
            _check_same(each)
            seen = compare(logits[:goldens], images.expected[:goldens], target.tolerance)
            agreement = _agreement(target, logits[:goldens], seen)
            agreed.append({**row, "agreement": agreement})
            known[target.target_digest] = [one[np.newaxis] for one in logits[:goldens]]
            compared.append(each)
    manifest = Manifest.create(
        {**fields, "artifacts": entries, "targets": [*fields["targets"], *agreed]}
    )
    files.show(manifest)
    with open_bundle(files.folder) as bundle:  # verify itself does not look at a double's
        for target in bundle.manifest.targets:
            if target.id in ids:
                claim = check_logits(bundle, target, known[target.target_digest], "exact")
                if claim.status != "true":
                    raise BundleError("E_CLAIM_FALSE", claim.claim, got=claim.detail)
    return tuple(compared)


def _run(
    bundle: Bundle, target: Target, tensors: Sequence[NDArray[np.float32]], device_id: int
) -> list[NDArray[np.float32]]:
    """Return a target's logits, float32 [classes], of each tensor, finite or not."""
    engine = open_engine(bundle, target, None, device_id)
    return [engine.logits(tensor[np.newaxis])[0] for tensor in tensors]


def _check_same(compared: Compared) -> None:
    target, found = compared
    if same(found, target.tolerance):
        return
    raise BundleError(
        "E_CLAIM_FALSE",
        target.id,
        field="compiled and source model",
        expected="the same, within the tolerance",
        got=describe(found, target.tolerance),
        hint="vitaie-build analyze says which layer half precision spoils; or --precision fp32.",
    )


def _agreement(
    target: Target, logits: Sequence[NDArray[np.float32]], found: Comparison
) -> dict[str, Any]:
    here = processor()
    return {
        "images": found.images,
        "max_abs_diff": found.max_abs_diff,
        "max_rel_diff": found.max_rel_diff,
        "top1_equal": found.top1,
        "logits_sha256": [sha256(one.astype("<f4", copy=False).tobytes()) for one in logits],
        "threads": 1,
        "processor": here.model,
        "features": list(here.features),
        "packages": {name: target.toolchain[name] for name in sorted(target.toolchain)},
    }
