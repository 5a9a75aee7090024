"""``vitaie-build``: from checkpoints to bundles."""

# No postponed annotations here: on Python 3.9 typer reads Annotated only when it is evaluated.

import importlib.util
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union

import typer

from vitaie.manifests.errors import (
    GateError,
    InputError,
    TargetUnavailable,
    VitaieError,
    printable,
)
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._cli import (
    claims_output,
    measured_lines,
    outside_of,
    print_double,
    verify_command,
)
from vitaie.runtime._command import (
    BundlePath,
    Json,
    Quiet,
    Version,
    as_given,
    counting,
    leave,
    log_to_stderr,
    new_app,
    print_json,
    run,
    say,
    steps,
    suggest,
    utf8,
)
from vitaie.runtime._comparison import describe, message, same
from vitaie.runtime._files import check_output, write_output
from vitaie.runtime._journal import Interrupted
from vitaie.runtime._torchscript import need_room

if TYPE_CHECKING:
    from vitaie.builder.build import Built
    from vitaie.builder.compile import Compared, Compiled, DeviceOptions
    from vitaie.builder.gate import Judgement
    from vitaie.builder.measure import Wanted
    from vitaie.manifests.card import Profile
    from vitaie.manifests.manifest import Manifest
    from vitaie.manifests.outputs import CompiledTargetOutput
    from vitaie.runtime._ascend import Precision

_PROFILES: dict[str, "Profile"] = {"timm": "timm", "modelzoo": "modelzoo"}
_LOOK = "What is lacking here says: vitaie-build doctor"

_REQUIRE: Any = typer.Option(
    "--require", metavar="GATE", help="A gate, such as 'top1>=84.0' (repeatable)."
)
_DATA: Any = typer.Option(
    "--data", metavar="DIR", help="Measure accuracy on a dataset, as vitaie eval does."
)
_LABELS: Any = typer.Option("--labels", metavar="FILE", help="A flat dataset's labels; looked for.")
_ALLOW_MISSING: Any = typer.Option(
    "--allow-missing", metavar="N", help="How many images may be unreadable."
)
_SKIP_MEASURE: Any = typer.Option("--skip-measure", help="No speed, and accuracy only with --data.")
_PRECISION: Any = typer.Option(
    "--precision",
    metavar="fp16|fp32|pref_fp32|pref_fp16",
    help="What the device computes in.",
)
_DEVICE_ID: Any = typer.Option(
    "--device-id", metavar="K", help="The device that compiles and measures."
)
_ALLOW_FALLBACK: Any = typer.Option(
    "--allow-fallback", help="Let operators that the compiler cannot take run outside the device."
)

app = new_app("Make, check and describe Vision Transformer bundles.")


@app.callback()
def _root(version: Version = False) -> None:
    """Keep sub-commands even when there is only one."""
    del version  # answered before anything else


@app.command()
def variants(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the variants known, with file name, input size and published accuracy.

    Example: vitaie-build variants --json
    """
    from vitaie.manifests.card import known_cards
    from vitaie.manifests.outputs import VariantOutput, VariantsOutput

    cards = known_cards()
    if as_json:
        rows = [
            VariantOutput(
                name=card.name,
                checkpoint=card.checkpoint,
                model=card.model_info(),
                preprocess=[card.preprocess(profile) for profile in card.profiles],
                expected=[card.expected(profile) for profile in card.profiles],
            )
            for card in cards
        ]
        print_json(VariantsOutput(variants=rows))
    else:
        for card in cards:
            model = card.model
            print(
                f"{card.name:<22}{model.image_size} px, patches of {model.patch_size},"
                f" {card.gflop:.2f} GFLOP, {card.parameters / 1e6:.1f} M parameters"
            )
            print(f"    {card.checkpoint}")
            for profile in card.profiles:
                for figure in card.expected(profile).accuracy:
                    top5 = "" if figure.top5 is None else f", top-5 {figure.top5}"
                    print(f"    {profile}: top-1 {figure.top1}{top5} published by {figure.source}")
    suggest(quiet, "vitaie-build", "bundle", cards[0].name, "--checkpoint", cards[0].checkpoint)


@app.command()
def checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="A checkpoint.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say which variant a checkpoint's arrays are, or what is wrong with them.

    Example: vitaie-build checkpoint vit_base_patch16_224.npz
    """
    from vitaie.builder.checkpoint import describe
    from vitaie.manifests.outputs import CheckpointOutput

    found = describe(file)
    if as_json:
        print_json(
            CheckpointOutput(
                file=str(file),
                variant=found.variant,
                size=found.size,
                sha256=found.sha256,
                arrays=found.members,
                parameters=found.parameters,
            )
        )
    else:
        print(
            f"{printable(file)}: {found.variant}, {found.members} arrays,"
            f" {found.parameters:,} parameters, {found.size:,} bytes\nsha256 {found.sha256}"
        )
    suggest(quiet, "vitaie-build", "bundle", found.variant, "--checkpoint", file)


@app.command()
def bundle(
    variant: Annotated[
        str, typer.Argument(metavar="VARIANT", help="A variant's name, or a card file (.toml).")
    ],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="FILE.npz", help="The arrays.")
    ],
    store: Annotated[
        Path, typer.Option("--store", metavar="DIR", help="Where bundles are kept.")
    ] = Path("bundles"),
    version: Annotated[
        Optional[str], typer.Option("--version", metavar="X.Y.Z", help="The next one otherwise.")
    ] = None,
    preprocess: Annotated[
        Optional[str],
        typer.Option("--preprocess", metavar="timm|modelzoo", help="The card's first otherwise."),
    ] = None,
    golden: Annotated[
        Optional[list[Path]],
        typer.Option("--golden", metavar="FILE", help="Photographs instead of ours (repeatable)."),
    ] = None,
    target: Annotated[
        Optional[list[str]],
        typer.Option(
            "--target",
            metavar="ID",
            help="cpu: both CPU targets are always built; ascend310p3: compile too (repeatable).",
        ),
    ] = None,
    optim_level: Annotated[
        str,
        typer.Option(
            "--optim-level",
            metavar="0|1|2|auto",
            help="ONNX Runtime's graph optimisation: none, basic, all, or what is fastest;"
            " with ascend310p3 its compiler's.",
        ),
    ] = "2",
    precision: Annotated[Optional[str], _PRECISION] = None,
    batch_size: Annotated[
        Optional[list[int]],
        typer.Option(
            metavar="N", help="Measure speed at this batch size; gates by the first (repeatable)."
        ),
    ] = None,
    device_id: Annotated[int, _DEVICE_ID] = 0,
    allow_fallback: Annotated[bool, _ALLOW_FALLBACK] = False,
    data: Annotated[Optional[Path], _DATA] = None,
    labels: Annotated[Optional[Path], _LABELS] = None,
    allow_missing: Annotated[int, _ALLOW_MISSING] = 0,
    require: Annotated[Optional[list[str]], _REQUIRE] = None,
    skip_measure: Annotated[bool, _SKIP_MEASURE] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a bundle from a checkpoint; print its path as the last line.

    Everything is checked against the checkpoint, and what was measured by every gate, before
    anything is published.

    Example: vitaie-build bundle vit_base_patch16_224 --checkpoint vit_base_patch16_224.npz
    """
    wanted = _wanted(data, labels, allow_missing, require, batch_size, skip_measure)
    level = _level(optim_level)
    from vitaie.builder.compile import DEVICE

    if DEVICE not in (target or ()):
        _refuse_options_of_device(precision, device_id, allow_fallback)
    device = _device_options(precision or "fp16", level, batch_size, device_id, allow_fallback)
    _need_builder()
    from vitaie.builder.build import Options, build_bundle, steps_of
    from vitaie.manifests.card import load_card
    from vitaie.manifests.outputs import BundleOutput

    load_card(variant)  # what is wrong with the arguments is said before any progress
    options = Options(
        store=store,
        version=version,
        preprocess=_profile(preprocess),
        goldens=tuple(golden or ()),
        targets=tuple(target or ()),
        optim_level=2 if DEVICE in (target or ()) else level,
        measure=wanted,
        device=device,
    )
    names = steps_of(options)
    try:
        with log_to_stderr(quiet), steps(names, quiet) as start, counting(quiet) as images:
            built = build_bundle(
                variant,
                checkpoint,
                options,
                progress=start,
                images=images,
                compared=_show_compared(as_json),
            )
    except Interrupted as error:
        hint = f"Run the same command again: accuracy goes on after {error.images:,} images."
        raise VitaieError("E_INTERRUPTED", "vitaie-build bundle", hint=hint) from None
    _say_measured(built.manifest, quiet)
    suggest(quiet, "vitaie", "verify", built.path)
    if as_json:
        print_json(BundleOutput(**_measured_fields(built)))
    else:
        print(built.path)


def _wanted(
    data: Optional[Path],
    labels: Optional[Path],
    allow_missing: int,
    require: Optional[list[str]],
    batch_size: Optional[list[int]],
    skip_measure: bool,
) -> "Optional[Wanted]":
    """Return what to measure; None for nothing, which nothing may be required of."""
    if skip_measure and data is None and not require:
        return None
    from vitaie.builder.measure import Wanted
    from vitaie.manifests.checks import MAX_GATES
    from vitaie.manifests.gates import ask_gate

    if labels is not None and data is None:
        raise InputError("E_ARGUMENT", "--labels", expected="a dataset with it: --data DIR")
    gates = tuple(dict.fromkeys(ask_gate(text) for text in require or ()))
    if len(gates) > MAX_GATES:
        expected = f"at most {MAX_GATES} gates"
        raise InputError("E_ARGUMENT", "--require", expected=expected, got=len(gates))
    return Wanted(
        data=data,
        labels=labels,
        allow_missing=allow_missing,
        gates=gates,
        batch_sizes=tuple(batch_size or (1,)),
        speed=not skip_measure,
    )


def _version_fields(path: Path, manifest: "Manifest") -> dict[str, Any]:
    return {
        "path": utf8(path),
        "name": manifest.name,
        "version": manifest.version,
        "content_digest": manifest.content_digest,
        "size": sum(artifact.size for artifact in manifest.artifacts),
    }


def _say_measured(manifest: "Manifest", quiet: bool) -> None:
    for line in measured_lines(manifest):
        say(line, quiet)


def _measured_fields(done: "Union[Built, Compiled]") -> dict[str, Any]:
    """Return what is said of a version that was verified, and after that measured and gated."""
    manifest = done.manifest
    return {
        **_version_fields(done.path, manifest),
        "claims": claims_output(done.path, done.verdict),
        "compiled": [_compiled_target(each) for each in done.compared],
        "accuracy": list(manifest.accuracy),
        "performance": list(manifest.performance),
        "gates": list(manifest.gates),
        "levels": list(manifest.levels),
    }


@app.command("compile")
def compile_command(
    bundle: BundlePath,
    target: Annotated[
        str, typer.Option("--target", metavar="ID", help="ascend310p3.")
    ] = "ascend310p3",
    optim_level: Annotated[
        str,
        typer.Option(
            "--optim-level",
            metavar="0|1|2|auto",
            help="None, graph, operators (1 and 2 tune on the device), or what is fastest.",
        ),
    ] = "2",
    precision: Annotated[str, _PRECISION] = "fp16",
    batch_size: Annotated[
        Optional[list[int]],
        typer.Option(metavar="N", help="One module for each; gates by the first (repeatable)."),
    ] = None,
    device_id: Annotated[int, _DEVICE_ID] = 0,
    allow_fallback: Annotated[bool, _ALLOW_FALLBACK] = False,
    data: Annotated[Optional[Path], _DATA] = None,
    labels: Annotated[Optional[Path], _LABELS] = None,
    allow_missing: Annotated[int, _ALLOW_MISSING] = 0,
    require: Annotated[Optional[list[str]], _REQUIRE] = None,
    skip_measure: Annotated[bool, _SKIP_MEASURE] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compile a bundle's model for a device: the next minor version, with a target for each batch.

    What is compiled is compared with the source model, measured, and judged by every gate before
    anything is published. It needs torch and the device's package. The path is the last line.

    Example: vitaie-build compile bundles/vit_base_patch16_224 --target ascend310p3 --precision fp16
    """
    wanted = _wanted(data, labels, allow_missing, require, batch_size, skip_measure)
    level = _level(optim_level)
    options = _device_options(precision, level, batch_size, device_id, allow_fallback)
    from vitaie.builder import compile as compiling

    if target != compiling.DEVICE:
        raise InputError("E_TARGET_UNKNOWN", "--target", expected=compiling.DEVICE, got=target)
    _need_torch()
    from vitaie.manifests.outputs import CompileOutput

    names = compiling.steps_of(options, wanted)
    try:
        with log_to_stderr(quiet), steps(names, quiet) as start, counting(quiet) as images:
            watch = compiling.Watch(start, _show_compared(as_json), images)
            done = compiling.compile_bundle(bundle, options, wanted, watch)
    except Interrupted as error:
        hint = (
            "Run the same command again: accuracy goes on after"
            f" {error.images:,} images if the compiler gives the same bytes."
        )
        raise VitaieError("E_INTERRUPTED", "vitaie-build compile", hint=hint) from None
    _say_measured(done.manifest, quiet)
    suggest(quiet, "vitaie", "verify", as_given(done.path, bundle))
    if as_json:
        print_json(CompileOutput(**_measured_fields(done)))
    else:
        print(done.path)


def _device_options(
    precision: str,
    level: Optional[int],
    batch_size: Optional[list[int]],
    device_id: int,
    allow_fallback: bool,
) -> "DeviceOptions":
    """Return what is to be compiled; its own module judges the numbers."""
    from vitaie.builder.compile import DeviceOptions

    named = _precision(precision)
    return DeviceOptions(named, level, tuple(batch_size or (1,)), device_id, allow_fallback)


def _refuse_options_of_device(
    precision: Optional[str], device_id: int, allow_fallback: bool
) -> None:
    """Refuse what would be ignored where nothing is compiled for a device."""
    for option, got in (
        ("--precision", precision),
        ("--device-id", device_id or None),
        ("--allow-fallback", "it" if allow_fallback else None),
    ):
        if got is not None:
            hint = "Targets on the CPU are float32, and need no device."
            expected = "only with --target ascend310p3"
            raise InputError("E_ARGUMENT", option, expected=expected, got=got, hint=hint)


def _precision(name: str) -> "Precision":
    from vitaie.runtime._ascend import PRECISIONS

    for known in PRECISIONS:
        if name == known:
            return known
    expected = ", ".join(PRECISIONS)
    raise InputError("E_ARGUMENT", "--precision", expected=expected, got=name)


def _show_compared(as_json: bool) -> "Callable[[Compared], None]":
    """Return what prints a comparison as it is made, the vendor's line last."""

    def show(compared: "Compared") -> None:
        target, found = compared
        print(f"{target.id}: {describe(found, target.tolerance)}")
        if target.operators_outside:
            print(f"{target.id}: {outside_of(target)}")
        print(message(same(found, target.tolerance), by_double=target.by_double), flush=True)

    return (lambda compared: None) if as_json else show


def _compiled_target(compared: "Compared") -> "CompiledTargetOutput":
    from vitaie.manifests.contents import AFTER, BEFORE
    from vitaie.manifests.outputs import CompiledTargetOutput

    target, found = compared
    return CompiledTargetOutput(
        id=target.id,
        target_digest=target.target_digest,
        double=target.by_double,
        soc_version=str(target.options["soc_version"]),
        operators_before=int(target.options[BEFORE]),
        operators_after=int(target.options[AFTER]),
        operators_outside=list(target.operators_outside),
        placement=target.placement,
        images=found.images,
        cosine=found.cosine,
        distance=found.distance,
        max_abs_diff=found.max_abs_diff,
        max_rel_diff=found.max_rel_diff,
        top1_equal=found.top1,
        top5_equal=found.top5,
        tolerance=target.tolerance,
        message=message(same(found, target.tolerance), by_double=target.by_double),
    )


@app.command()
def attach(
    bundle: BundlePath,
    records: Annotated[
        list[Path],
        typer.Argument(metavar="RECORD.json…", help="What vitaie eval and vitaie bench wrote."),
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the next version of a bundle, with measurements of it; print its path as the last line.

    Example: vitaie-build attach bundles/vit_base_patch16_224 accuracy.json performance.json
    """
    from vitaie.builder import attach as attaching
    from vitaie.manifests.outputs import AttachOutput, InvalidOutput

    with steps(attaching.STEPS, quiet) as start:
        done = attaching.attach(bundle, records, progress=start)
    for record in done.invalid:
        reasons = "; ".join(record.reasons)
        say(f"INVALID, no gate accepts it: {record.latencies}: {reasons}", quiet=False)
    suggest(quiet, "vitaie", "info", as_given(done.path, bundle))
    if as_json:
        print_json(
            AttachOutput(
                **_version_fields(done.path, done.verdict.manifest),
                evidence=list(done.evidence),
                invalid=[
                    InvalidOutput(evidence=each.latencies, reasons=list(each.reasons))
                    for each in done.invalid
                ],
                claims=claims_output(done.path, done.verdict),
            )
        )
    else:
        for target in done.verdict.manifest.targets:
            print_double(target)
        print(done.path)


@app.command()
def gate(
    bundle: BundlePath,
    require: Annotated[Optional[list[str]], _REQUIRE] = None,
    target: Annotated[
        str, typer.Option("--target", metavar="ID", help="Whose records count.")
    ] = "cpu",
    record: Annotated[
        Optional[list[str]],
        typer.Option(metavar="PATH", help="Evidence to judge by, of the bundle (repeatable)."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Judge a bundle's kept evidence by gates again, or by those it passed. No model is run.

    The exit code is 0 when all pass, 1 when one fails, 6 when one cannot be decided.

    Example: vitaie-build gate bundles/vit_base_patch16_224 --require 'top1>=84.0'
    """
    from vitaie.builder.gate import judge_bundle
    from vitaie.manifests.gates import ask_gate, worst
    from vitaie.manifests.outputs import GateOutput, JudgedGateOutput

    gates = [ask_gate(text) for text in require or ()]
    found = judge_bundle(bundle, gates, target=target, records=record or ())
    if as_json:
        rows = [
            JudgedGateOutput(
                require=str(each.gate),
                verdict=each.verdict,
                reason=each.reason,
                images_needed=each.images_needed,
            )
            for each in found.outcomes
        ]
        print_json(
            GateOutput(
                path=utf8(found.folder),
                version=found.manifest.version,
                target=found.target.id,
                double=found.target.by_double,
                accuracy=found.accuracy,
                performance=found.performance,
                others=[record.path for record in found.others],
                verdict=worst(found.outcomes),
                gates=rows,
            )
        )
    else:
        for kind, path in (("accuracy", found.accuracy), ("speed", found.performance)):
            say(f"{kind:<12}{path or 'not measured'}", quiet)
        for other in found.others:
            age = ", later" if other.newer else ""
            option = shlex.join(["--record", other.path])
            say(f"not judged  {other.path}, measured {other.created}{age}: {option}", quiet)
        print_double(found.target)
        for each in found.outcomes:
            print(printable(each, 2000))
    missed = _missed(found)
    if missed is None:
        suggest(quiet, "vitaie", "info", found.folder)
        return 0
    say(str(missed), quiet=False)
    return missed.exit_code


def _missed(found: "Judgement") -> Optional[GateError]:
    """Return the error of the gate that decided the verdict; None where all pass."""
    from vitaie.manifests.gates import worst

    verdict = worst(found.outcomes)
    if verdict == "pass":
        return None
    decisive = next(each for each in found.outcomes if each.verdict == verdict)
    code, hint = "E_GATE_FAILED", "Do not use this bundle where that is required."
    if verdict == "undecidable":
        code = "E_GATE_UNDECIDABLE"
        hint = "Measure it with vitaie eval or vitaie bench and -o RECORD.json, then attach that."
    where = f"{found.folder}: {found.target.id}"
    return GateError(code, where, field=str(decisive.gate), got=decisive.reason, hint=hint)


@app.command()
def analyze(
    bundle: BundlePath,
    data: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="A dataset to draw images of; the goldens otherwise."),
    ] = None,
    sample: Annotated[int, typer.Option(metavar="N", help="How many images are drawn.")] = 64,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the drawing.")] = 0,
    every: Annotated[bool, typer.Option("--all", help="Show every layer.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what half precision would do to a bundle's model, layer by layer, before any device.

    It is emulated on the CPU, under assumptions that it prints; it needs torch alone.

    Example: vitaie-build analyze bundles/vit_base_patch16_224 --data ImageNet
    """
    _need_torch()
    from vitaie.builder import half_precision

    with open_bundle(bundle) as opened:
        folder, goldens = opened.folder, len(opened.manifest.goldens)
    images = goldens if data is None else max(sample, 0)
    with steps(["image"] * images, quiet) as start:
        found = half_precision.analyze(folder, data, sample=sample, seed=seed, progress=start)
    if as_json:
        print_json(half_precision.output(found))
    else:
        print("\n".join(half_precision.describe(found, every)))
    suggest(quiet, "vitaie", "info", folder)


@app.command("audit")
def audit_command(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="A store, a name's folder, or one version.")
    ],
    csv: Annotated[
        Optional[Path], typer.Option("--csv", metavar="FILE", help="A new file, for spreadsheets.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Recompute every published number from the evidence that bundles keep. No model is run.

    The exit code is 1 when any does not follow. Weights are not hashed: vitaie verify does that.

    Example: vitaie-build audit bundles
    """
    from vitaie.builder.audit import audit_versions, describe, to_csv, versions_below
    from vitaie.manifests.outputs import AuditOutput, FindingOutput

    if csv is not None:
        check_output(csv)
    folders = versions_below(store)
    with steps([str(folder) for folder in folders], quiet) as start:
        rows = list(audit_versions(folders, start))
    if csv is not None:
        write_output(csv, to_csv(rows))
    counts = Counter(row.finding.status for row in rows)
    holds = not counts["does not follow"]
    if as_json:
        findings = [
            FindingOutput(bundle=utf8(row.folder), version=row.version, **row.finding._asdict())
            for row in rows
        ]
        print_json(
            AuditOutput(path=utf8(store), versions=len(folders), holds=holds, findings=findings)
        )
    else:
        for row in rows:
            print(describe(row))
        told = ", ".join(f"{count:,} {status}" for status, count in counts.items())
        where = "1 version" if len(folders) == 1 else f"{len(folders)} versions"
        print(f"{'FOLLOWS' if holds else 'DOES NOT FOLLOW'}: {told}, in {where}")
    suggest(quiet, "vitaie", "verify", folders[-1])
    return 0 if holds else 1


@app.command()
def doctor(
    probe: Annotated[
        bool, typer.Option("--probe", help="Compile and run a tiny model on the Ascend device.")
    ] = False,
    device_id: Annotated[
        int, typer.Option("--device-id", metavar="K", help="The device to probe.")
    ] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Say what this machine has: packages, devices, and what each target still needs.

    The exit code is 6 when --probe was asked for and the device did not do it.

    Example: vitaie-build doctor --probe
    """
    from vitaie.builder.doctor import describe_ascend, examine

    found = examine(device_id if probe else None)
    if as_json:
        print_json(found)
    else:
        print(f"Python {found.python} on {found.machine}, {found.processors} processors")
        for name, version in found.packages.items():
            print(f"  {name:<14}{version}")
        print("devices: " + (", ".join(found.devices) or "no Ascend device is seen"))
        for item in found.targets:
            state = f"builds: {_yes(item.builds)}, runs: {_yes(item.runs)}"
            print(f"  {item.id:<24}{state}" + (f", needs {item.needs}" if item.needs else ""))
        print("\n".join(describe_ascend(found.ascend)))
    asked = found.ascend.probe
    if asked is not None and (asked.error or found.ascend.double):
        got = asked.error or "the package is the tests' double: no device was asked"
        hint = "Close the gaps that are named above, and probe again."
        where = f"device {device_id}"
        error = TargetUnavailable("E_DEVICE", where, field="probe", got=got, hint=hint)
        say(str(error), quiet=False)  # the document says it too, and is the only one
        return error.exit_code
    suggest(quiet, "vitaie-build", "variants")
    return 0


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _profile(name: Optional[str]) -> Optional["Profile"]:
    if name is not None and name not in _PROFILES:
        raise InputError("E_ARGUMENT", "--preprocess", expected="timm or modelzoo", got=name)
    return None if name is None else _PROFILES[name]


def _level(text: str) -> Optional[int]:
    if text not in ("0", "1", "2", "auto"):
        raise InputError("E_ARGUMENT", "--optim-level", expected="0, 1, 2 or auto", got=text)
    return None if text == "auto" else int(text)


def _need_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        hint = f"Install vitaie's extra [torch], as README says. {_LOOK}"
        raise TargetUnavailable("E_EXTRA_MISSING", "torch", hint=hint)
    need_room("vitaie-build")


def _need_builder() -> None:
    for package in ("torch", "torchvision", "timm", "onnx"):
        if importlib.util.find_spec(package) is None:
            hint = f"Install vitaie's extra [builder], as README says. {_LOOK}"
            raise TargetUnavailable("E_EXTRA_MISSING", package, hint=hint)
    need_room("vitaie-build")


app.command("verify")(verify_command)


def main() -> None:
    """Run the command line."""
    leave(run(app, "vitaie-build"))
