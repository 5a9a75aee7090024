"""From a checkpoint to a published bundle: the builder's whole way, in order.

    checkpoint ─ convert ─► module ─ export ─► model.ts ─► model.onnx
    photographs ─ preprocess ─► goldens ───────────┴─► logits ─► manifest ─ verify ─► publish

The module's own logits are taken first; whatever is made after it, from the files as they
will ship, must give them again, or nothing is published.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import shlex
from collections.abc import Container, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitaie.builder import toolchain
from vitaie.builder.checkpoint import Checkpoint, check, read_checkpoint
from vitaie.builder.compile import (
    DEVICE,
    Compared,
    DeviceOptions,
    check_options,
    open_ready,
    publish_staged,
    stage_targets,
    staging_steps,
)
from vitaie.builder.compile import Watch as DeviceWatch
from vitaie.builder.files import artifacts
from vitaie.builder.goldens import Golden, encode_npy, encode_png, read_goldens
from vitaie.builder.module import convert, import_timm
from vitaie.builder.onnx_graph import INPUT, OUTPUT, export_onnx
from vitaie.builder.staged import NOT_YET_AGREED
from vitaie.builder.store import check_version, publication
from vitaie.builder.torchscript import StoredTensor, export_torchscript
from vitaie.manifests.card import Card, load_card
from vitaie.manifests.devices import MAX_THREADS
from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BuildError, CheckpointError, InputError
from vitaie.manifests.manifest import Manifest
from vitaie.runtime._bundle import MANIFEST_NAME, open_bundle
from vitaie.runtime._bytes import available_cpus
from vitaie.runtime._claim import silent
from vitaie.runtime._environment import processor
from vitaie.runtime._goldens import relative_difference
from vitaie.runtime._model import Engine, choose_target, open_engine
from vitaie.runtime._verify import UNSEEN, Verdict, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vitaie.builder.measure import Wanted
    from vitaie.manifests.card import Profile
    from vitaie.runtime._evaluate import Progress

ONNX_TARGET = "onnxruntime-cpu-fp32"
TORCHSCRIPT_TARGET = "torchscript-cpu-fp32"
TARGETS = (ONNX_TARGET, TORCHSCRIPT_TARGET)
TOLERANCE = 1e-4
"""What a target's logits may differ from the source model's, relative to the largest logit."""

RANDOM_BATCHES = (1, 3)
STEPS = (
    "checkpoint",
    "goldens",
    "module",
    "reference logits",
    "model.ts",
    "model.onnx",
)
_STEPS_OF_A_LEVEL = ("targets against the module", "verify")
LEVELS = (0, 1, 2)
"""ONNX Runtime's graph optimisation: none, basic, all."""


@dataclass(frozen=True)
class Options:
    """What ``vitaie-build bundle`` was asked for, beside the variant and the checkpoint."""

    store: Path = Path("bundles")
    version: str | None = None
    preprocess: Profile | None = None
    goldens: tuple[Path, ...] = ()
    targets: tuple[str, ...] = ()
    optim_level: int | None = 2  # None: the fastest, which only ``measure`` can find
    measure: Wanted | None = None
    device: DeviceOptions = DeviceOptions()  # of what ``targets`` asks for

    @property
    def compiled(self) -> DeviceOptions | None:
        """What is compiled for a device, and measured in the place of the CPU's targets."""
        return self.device if DEVICE in self.targets else None

    @property
    def measured(self) -> str:
        """The id of the CPU's target that is measured."""
        torchscript = self.targets == (TORCHSCRIPT_TARGET,)
        return TORCHSCRIPT_TARGET if torchscript else ONNX_TARGET


class Built(NamedTuple):
    """A published bundle and the verdict it passed, which is of before it was measured.

    ``compared`` are its device's targets beside the source model.
    """

    path: Path
    manifest: Manifest
    verdict: Verdict
    compared: tuple[Compared, ...] = ()


class _Probe(NamedTuple):
    """An input batch, float32 [B, 3, S, S], and the module's logits on it, float32 [B, classes]."""

    batch: NDArray[np.float32]
    logits: NDArray[np.float32]


def build_bundle(
    variant: str,
    checkpoint: Path,
    options: Options | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    images: Callable[[Progress], None] | None = None,
    compared: Callable[[Compared], None] | None = None,
) -> Built:
    """Make a bundle from a checkpoint, and publish it once every check has passed.

    Args:
        variant: A variant's name, or the path of a card file.
        checkpoint: The ``.npz`` file.
        options: All else.
        progress: Called with each of ``steps_of(options)`` as it starts.
        images: Called while accuracy is measured.
        compared: Called with each target of a device, as it compares with the source model.

    Raises:
        InputError: The variant, the checkpoint, a golden or an option is at fault.
        TargetUnavailable: A device's target was asked for, and its package or the device is not
            there or refuses; nothing was begun but for ``E_COMPILE``.
        BuildError: Something made from the checkpoint does not give its logits.
        GateError: What was measured does not pass a gate.
        StoreError: The version exists, or another process is building this name.
        DiskError: The disk refused. In every case the store is as it was.
    """
    options = options or Options()
    say = progress or silent
    _check_targets(options.targets)
    _check_names(variant, checkpoint, options.store, *options.goldens)
    if options.version is not None:
        check_version(options.version)
    say("checkpoint")
    card = load_card(variant)
    profile = options.preprocess or card.profiles[0]
    spec = card.preprocess(profile)
    levels = LEVELS if options.optim_level is None else (options.optim_level,)
    commands = [_command(variant, checkpoint, profile, options, level) for level in levels]
    facts = toolchain.describe(commands[0])
    _check_wanted(options, card)
    compiled = options.compiled
    ready = None if compiled is None else open_ready(compiled)
    with ExitStack() as stack:
        arrays = stack.enter_context(read_checkpoint(checkpoint))
        check(arrays, card)
        say("goldens")
        goldens = read_goldens(options.goldens, spec)
        draft = stack.enter_context(publication(options.store, card.name, options.version))
        say("module")
        hashing = stack.enter_context(ThreadPoolExecutor(1)).submit(lambda: arrays.sha256)
        with _no_collection(stack):
            import_timm()
        module = convert(arrays, card.model)
        hashing.result()
        source = _source(arrays, checkpoint, card)
        *batches, example = _batches(goldens, card.model.image_size)
        say("reference logits")
        probes = _probe(module, batches)
        say("model.ts")
        tensors, seen = export_torchscript(module, example, draft.folder / "model.ts")
        probes.append(_Probe(example, seen))
        _check_finite(probes, card.name)
        del module
        _release_memory()
        say("model.onnx")
        graph = export_onnx(card.model, tensors)
        fields: dict[str, Any] = {
            "name": card.name,
            "version": draft.version,
            "source": source,
            **_interface(card),
            "preprocess": spec.model_dump(mode="json"),
            "weights": [_weight(tensor) for tensor in tensors],
            "accuracy": [],
            "performance": [],
            "gates": [],
            "levels": [],
            "expected": card.expected(profile).model_dump(mode="json"),
        }
        roles = _write_files(draft.folder, card, goldens, graph)
        files = artifacts(draft.folder, roles)
        known: dict[str, list[NDArray[np.float32]]] = {}
        verdicts: list[Verdict] = []
        for level, command in zip(levels, commands):
            fields["toolchain"] = {**facts, "command": shlex.join(command)}
            say("targets against the module")
            stage = _Stage(draft.folder, fields, files, goldens, level)
            _write_candidate(stage, probes, known)
            say("verify")
            verdicts.append(verify(draft.folder, known=known))
            _check_verdict(verdicts[-1])
        if compiled is not None and ready is not None:
            watch = DeviceWatch(say, compared or _no_comparison, images or _no_images)
            base = verdicts[0].manifest.model_dump(mode="json")
            made = stage_targets(draft, base, compiled, ready, watch)
            return Built(*publish_staged(draft, options.store, made, options.measure, watch))
        if options.measure is not None:
            from vitaie.builder import measure  # what it needs takes time to import

            names = (options.measured,) * len(options.measure.batch_sizes)
            candidates = [measure.Candidate(verdict.manifest, names) for verdict in verdicts]
            show = partial(measure.show_manifest, draft.folder)
            staged = measure.Staged(draft.folder, candidates, options.store, show, draft.publish)
            timing = measure.Watch(say, images or _no_images)
            path, manifest = measure.measure_and_publish(staged, options.measure, timing)
            content = manifest.content_digest
            chosen = [found for found in verdicts if found.manifest.content_digest == content]
            return Built(path, manifest, chosen[0])
        say("publish")
        return Built(draft.publish(), verdicts[0].manifest, verdicts[0])


def steps_of(options: Options) -> tuple[str, ...]:
    """Return the names of the steps that ``build_bundle`` reports."""
    levels = 1 if options.optim_level is not None else len(LEVELS)
    names = (*STEPS, *(_STEPS_OF_A_LEVEL * levels))
    wanted = options.measure
    if options.compiled is not None:
        return (*names, *staging_steps(options.compiled, wanted), "publish")
    if wanted is not None and wanted.speed:
        names += ("speed", *(f"speed at batch {size}" for size in wanted.batch_sizes[1:]))
    if wanted is not None and wanted.data is not None:
        names += ("accuracy",)
    return (*names, "publish")


def _check_wanted(options: Options, card: Card) -> None:
    """Refuse early what cannot be measured, and a level that nothing is measured to choose by."""
    if options.measure is not None:
        from vitaie.builder.measure import check_wanted

        check_wanted(options.measure, card.name, [label.id for label in card.labels])
    if options.compiled is not None:
        check_options(options.compiled, options.measure)
    if options.optim_level is not None:
        return
    if options.measure is None or not options.measure.speed:
        got, hint = "auto, and no speed is measured", "Leave --skip-measure out, or name a level."
        raise InputError("E_ARGUMENT", "optim_level", got=got, hint=hint)
    if options.measured != ONNX_TARGET:
        got, expected = options.measured, f"{ONNX_TARGET}, which alone has levels"
        raise InputError("E_ARGUMENT", "--target", expected=expected, got=got)


def _no_images(progress: Progress) -> None:
    """Report no images."""


def _no_comparison(compared: Compared) -> None:
    """Report no comparison."""


@contextmanager
def _no_collection(stack: ExitStack) -> Generator[None, None, None]:
    """Import without looking for garbage: what imports make stays, and looking takes a sixth.

    Nor do collections look at it later, until the stack ends.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
        stack.callback(gc.unfreeze)
    finally:
        gc.enable()


def _release_memory() -> None:
    """Give back what is no longer used: torch's modules sit in cycles, glibc keeps freed blocks."""
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def _check_targets(targets: Sequence[str]) -> None:
    """Refuse a target that nobody knows."""
    known = (*TARGETS, "cpu", DEVICE)
    for target in targets:
        if target not in known:
            expected = " or ".join(known)
            raise InputError("E_TARGET_UNKNOWN", "--target", expected=expected, got=target)


def _check_names(*names: object) -> None:
    """Refuse paths that are no text: a manifest could not name them, and torch takes none."""
    for name in map(str, names):
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError("E_ARGUMENT", name, expected="a path in UTF-8") from None


def _command(
    variant: str, checkpoint: Path, profile: str, options: Options, level: int
) -> list[str]:
    """Return the command that gives this content again, inputs named without their folders.

    What is measured, and required, is no part of the content.
    """
    command = ["vitaie-build", "bundle", Path(variant).name, "--checkpoint", checkpoint.name]
    command += ["--preprocess", profile, "--optim-level", str(level)]
    for golden in options.goldens:
        command += ["--golden", golden.name]
    return command


def _source(arrays: Checkpoint, checkpoint: Path, card: Card) -> dict[str, Any]:
    """Digest the file the arrays were read from, and see that it held still meanwhile."""
    source = {
        "file": checkpoint.name,
        "size": arrays.size,
        "sha256": arrays.sha256,
        "layout": "augreg-npz",
        "variant": card.name,
        "card_sha256": card.sha256,
    }
    arrays.check_unchanged()
    return source


def _batches(goldens: Sequence[Golden], size: int) -> list[NDArray[np.float32]]:
    """Return what all are compared on: each golden, then seeded random batches [B, 3, S, S]."""
    random = np.random.default_rng(0)
    return [golden.tensor[np.newaxis] for golden in goldens] + [
        random.uniform(-1, 1, (batch, 3, size, size)).astype(np.float32) for batch in RANDOM_BATCHES
    ]


def _probe(module: Any, batches: Sequence[NDArray[np.float32]]) -> list[_Probe]:
    """Run the module on each batch."""
    torch: Any = importlib.import_module("torch")
    with torch.inference_mode():
        return [_Probe(batch, module(torch.from_numpy(batch)).numpy()) for batch in batches]


def _check_finite(probes: Sequence[_Probe], name: str) -> None:
    if not all(np.isfinite(probe.logits).all() for probe in probes):
        raise CheckpointError("E_CHECKPOINT_LOGITS", name, hint="Train it again.")


def _write_files(
    folder: Path, card: Card, goldens: Sequence[Golden], graph: bytes
) -> dict[str, str]:
    """Write all that is known before a target has run; return every file's role, by path."""
    lines = "".join(f"{label.id}\t{label.name}\n" for label in card.labels)
    files = {"model.onnx": ("onnx", graph), "labels.txt": ("labels", lines.encode("utf-8"))}
    for golden in goldens:
        files[golden.source] = ("golden_source", golden.data)
        files[golden.crop_path] = ("golden_crop", encode_png(golden.crop))
    (folder / "golden").mkdir()
    for path, (_, data) in files.items():
        (folder / path).write_bytes(data)
    return {"model.ts": "torchscript", **{path: role for path, (role, _) in files.items()}}


def _interface(card: Card) -> dict[str, Any]:
    size, classes = card.model.image_size, card.model.classes
    return {
        "model": card.model_info().model_dump(mode="json"),
        "inputs": [{"name": INPUT, "dtype": "float32", "shape": ["batch", 3, size, size]}],
        "outputs": [{"name": OUTPUT, "dtype": "float32", "shape": ["batch", classes]}],
    }


def _weight(tensor: StoredTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": "float32",
        "shape": list(tensor.shape),
        "offset": tensor.offset,
        "length": tensor.length,
    }


class _Stage(NamedTuple):
    """What a manifest is written of: all that is known before a target has run, and its level."""

    folder: Path
    fields: dict[str, Any]
    files: list[dict[str, Any]]
    goldens: Sequence[Golden]
    level: int


def _write_candidate(
    stage: _Stage, probes: Sequence[_Probe], known: dict[str, list[NDArray[np.float32]]]
) -> None:
    """Run what is staged, and write its manifest; add each target's logits to what is known.

    ``known`` holds logits on the goldens, float32 [1, classes] each, by target digest.
    """
    folder, fields, files, goldens, level = stage
    unknown = [np.zeros(probes[0].logits.shape[1], np.float32)] * len(goldens)
    targets = [_target(name, level, NOT_YET_AGREED) for name in TARGETS]
    draft = _write_manifest(folder, fields, files, list(zip(goldens, unknown)), targets)
    known.update(_run_targets(folder, probes, len(goldens), known))
    logits = {target.id: known[target.target_digest] for target in draft.targets}
    source = logits[TORCHSCRIPT_TARGET]
    shown = [(golden, row[0]) for golden, row in zip(goldens, source)]
    targets = [_target(name, level, _agreement(name, logits[name], source)) for name in TARGETS]
    _write_manifest(folder, fields, files, shown, targets)


def _write_manifest(
    folder: Path,
    fields: dict[str, Any],
    files: list[dict[str, Any]],
    goldens: Sequence[tuple[Golden, NDArray[np.float32]]],
    targets: list[dict[str, Any]],
) -> Manifest:
    """Write the goldens' logits, float32 [classes] each, and the manifest that names them."""
    for golden, logits in goldens:
        (folder / golden.logits_path).write_bytes(encode_npy(logits))
    written = {golden.logits_path: "golden_logits" for golden, _ in goldens}
    manifest = Manifest.create(
        {
            **fields,
            "artifacts": files + artifacts(folder, written),
            "goldens": [golden.fields(logits) for golden, logits in goldens],
            "targets": targets,
        }
    )
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest


def _run_targets(
    folder: Path, probes: Sequence[_Probe], goldens: int, known: Container[str]
) -> dict[str, list[NDArray[np.float32]]]:
    """Run every target on the staged files; return its logits on the goldens, by target digest.

    One whose digest is known ran before.

    The staged folder already opens as a bundle, its goldens' logits and agreement still to be
    filled in: what is compared with the module is what ships, read as users read it.

    Raises:
        BuildError: A target does not give the module's logits on a golden or a random batch.
    """
    logits: dict[str, list[NDArray[np.float32]]] = {}
    with open_bundle(folder) as bundle:
        for name in TARGETS:
            target = choose_target(bundle.manifest, name)
            if target.target_digest in known:
                continue
            threads = _threads(name) if name == ONNX_TARGET else None  # torch's are set per call
            engine = open_engine(bundle, target, threads)
            batches = [probe.batch for probe in probes]
            singles = sum(len(batch) == 1 for batch in batches)  # they come first
            run_singles = _one_thread_each if name == TORCHSCRIPT_TARGET else _in_turn
            got = run_singles(engine, batches[:singles]) + _in_turn(engine, batches[singles:])
            del engine
            _release_memory()  # one set of weights at a time
            logits[target.target_digest] = _checked(name, got, probes)[:goldens]
    return logits


def _in_turn(engine: Engine, batches: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    return [engine.logits(batch) for batch in batches]


def _one_thread_each(
    engine: Engine, batches: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Run torch on each batch with one thread, on as many processors as there are.

    The goldens' logits are then the same on any number of processors.
    """
    torch: Any = importlib.import_module("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            available_cpus(), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            return list(pool.map(engine.logits, batches))
    finally:
        torch.set_num_threads(threads)


def _checked(
    target: str, logits: list[NDArray[np.float32]], probes: Sequence[_Probe]
) -> list[NDArray[np.float32]]:
    """Return a target's logits once they are known to be the module's, within the tolerance."""
    for got, probe in zip(logits, probes):
        if got.shape != probe.logits.shape:
            raise BuildError(
                "E_BUILD_DISAGREES", target, expected=list(probe.logits.shape), got=list(got.shape)
            )
        difference = relative_difference(got, probe.logits)
        if difference > TOLERANCE:
            raise BuildError(
                "E_BUILD_DISAGREES",
                target,
                field=f"batch of {len(probe.batch)}",
                expected=f"at most {TOLERANCE:.0e} of the largest logit",
                got=f"{difference:.1e}",
            )
    return logits


def _threads(target: str) -> int:
    """Return with how many threads a target computes the goldens' logits, one golden at a time."""
    return 1 if target == TORCHSCRIPT_TARGET else min(available_cpus(), MAX_THREADS)


def _agreement(
    target: str, logits: Sequence[NDArray[np.float32]], source: Sequence[NDArray[np.float32]]
) -> dict[str, Any]:
    """Return how a target's logits on the goldens differ from the source model's.

    And all that a machine must have in common with this one to give the same bits.
    """
    pairs = list(zip(logits, source))
    here = processor()
    return {
        "images": len(pairs),
        "max_abs_diff": max(float(np.abs(got - expected).max()) for got, expected in pairs),
        "max_rel_diff": max(relative_difference(got, expected) for got, expected in pairs),
        "top1_equal": sum(int(got.argmax() == expected.argmax()) for got, expected in pairs),
        "logits_sha256": [sha256(got.astype("<f4", copy=False).tobytes()) for got in logits],
        "threads": _threads(target),
        "processor": here.model,
        "features": here.features,
        "packages": _packages(target),
    }


def _packages(target: str) -> dict[str, str]:
    """Return the version of the package that computes a target."""
    package = "onnxruntime" if target == ONNX_TARGET else "torch"
    return {package: toolchain.version(package)}


def _target(name: str, optim_level: int, agreement: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest's entry; ``Manifest.create`` puts the digest in."""
    onnx = name == ONNX_TARGET
    return {
        "id": name,
        "backend": "onnxruntime" if onnx else "torchscript",
        "device": "cpu",
        "precision": "fp32",
        "optim_level": optim_level if onnx else 0,
        "batch_sizes": [],
        "files": ["model.onnx", "model.ts"] if onnx else ["model.ts"],
        "options": {},
        "toolchain": _packages(name),
        "operators_outside": [],
        "tolerance": {"max_rel_diff": TOLERANCE, "cosine": None},
        "agreement": agreement,
        "target_digest": "0" * 64,
    }


def _check_verdict(verdict: Verdict) -> None:
    for claim in verdict.claims:
        if claim.status != "true" and claim.claim not in UNSEEN:
            raise BuildError("E_BUILD_DISAGREES", claim.claim, got=claim.detail)
