"""``vitaie``: what a bundle is, what it says of an image, and whether its claims are true."""

# No postponed annotations here: on Python 3.9 typer reads Annotated only when it is evaluated.

import io
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import numpy as np
import typer

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import (
    BundleError,
    InputError,
    TargetUnavailable,
    VitaieError,
    printable,
)
from vitaie.runtime import _preprocess
from vitaie.runtime._bundle import locate, open_bundle
from vitaie.runtime._claim import Again
from vitaie.runtime._command import (
    BundlePath,
    DeviceId,
    Json,
    Quiet,
    Threads,
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
from vitaie.runtime._comparison import message_of
from vitaie.runtime._files import check_output, write_output
from vitaie.runtime._journal import Interrupted
from vitaie.runtime._model import DOUBLE, check_device_id, check_threads, check_top_k, load
from vitaie.runtime._verify import verify

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Manifest, Target
    from vitaie.manifests.outputs import ClaimOutput, VerifyOutput
    from vitaie.runtime._claim import Claim
    from vitaie.runtime._verify import Verdict

app = new_app("Use Vision Transformer bundles: inspect, classify, and re-check every claim.")

_Target = Annotated[
    str, typer.Option("--target", metavar="ID", help="A target's id, cpu for short, or auto.")
]


@app.callback()
def _root(version: Version = False) -> None:
    """Keep sub-commands even when there is only one."""
    del version  # answered before anything else


@app.command()
def info(bundle: BundlePath, as_json: Json = False, quiet: Quiet = False) -> None:
    """Say what a bundle is and claims, on one screen. Checks the manifest and the file sizes.

    Example: vitaie info bundles/vit_base_patch16_224
    """
    with open_bundle(bundle) as opened:
        folder, manifest = opened.folder, opened.manifest
    if as_json:
        from vitaie.manifests.outputs import InfoOutput

        print_json(InfoOutput(path=utf8(folder), manifest=manifest))
    else:
        print("\n".join(_describe(folder, manifest)))
    suggest(quiet, "vitaie", "verify", folder)


def _describe(folder: Path, manifest: "Manifest") -> list[str]:
    model, spec = manifest.model, manifest.preprocess
    size = sum(artifact.size for artifact in manifest.artifacts)
    rows = [
        ("bundle", f"{manifest.name} {manifest.version}, {size / 1e6:,.1f} MB, {folder}"),
        ("content", manifest.content_digest),
        ("made", f"{manifest.toolchain.created} from {manifest.source.file}"),
        ("source", manifest.source.sha256),
        (
            "model",
            f"{model.image_size} px in patches of {model.patch_size}, {model.depth} blocks of"
            f" {model.width}, {model.classes} classes, {model.parameters / 1e6:.1f} M parameters,"
            f" {model.gflop:.2f} GFLOP",
        ),
        (
            "preprocess",
            f"{spec.profile}: {spec.resize.mode} {spec.resize.size} {spec.resize.interpolation},"
            f" crop {spec.crop.size}, mean {list(spec.mean)}, std {list(spec.std)}",
        ),
    ]
    for target in manifest.targets:
        batches = ", ".join(map(str, target.batch_sizes)) or "any"
        rows.append(
            (
                "target",
                f"{target.id}: level {target.optim_level}, batch {batches},"
                f" {target.agreement.max_rel_diff:.1e} from the source on"
                f" {target.agreement.images} goldens" + (f", {DOUBLE}" if target.by_double else ""),
            )
        )
        if target.operators_outside:
            rows.append(("", f"  {outside_of(target)}"))
    for golden in manifest.goldens:
        rows.append(("golden", f"{golden.source}: class {golden.top1}, margin {golden.margin:.3f}"))
    measured = measured_lines(manifest) or ["nothing: no accuracy and no speed is claimed"]
    rows += [("measured", line) for line in measured]
    for figure in manifest.expected.accuracy:
        top5 = "" if figure.top5 is None else f", top-5 {figure.top5}"
        figures = f"top-1 {figure.top1}{top5} ({figure.source})"
        rows.append(("published", f"for {manifest.source.variant}, not measured here: {figures}"))
    return [f"{key:<11}{printable(value, 400)}" for key, value in rows]


def print_double(target: "Target") -> None:
    """Say on stdout that a target is evidence of nothing, where it is; ``--quiet`` hides it not."""
    if target.by_double:
        print(f"{target.id}: {DOUBLE}")


def outside_of(target: "Target") -> str:
    """Return which operators of a device's target the device does not run, and their share."""
    names = ", ".join(target.operators_outside)
    share = "" if target.placement is None else f" of {target.placement:.1%} of the operators"
    return f"placement{share} on the device; outside it are {names}"


def measured_lines(manifest: "Manifest") -> list[str]:
    """Return what a bundle says of its measurements, one line each."""
    ids = {target.target_digest: target.id for target in manifest.targets}
    doubles = {target.target_digest for target in manifest.targets if target.by_double}

    def of_double(digest: str) -> str:
        return f", {DOUBLE}" * (digest in doubles)

    lines: list[str] = []
    for record in manifest.accuracy:
        images = f"{record.top1.count:,} of {record.dataset.images:,} images of"
        line = f"top-1 {record.top1.percent:.3f}%, {images} {record.dataset.name}"
        if record.source_top1 is not None:
            line += f", the source {record.source_top1.percent:.3f}%"
        missing = f", {record.dataset.missing} missing" * bool(record.dataset.missing)
        line += f"{missing} ({ids[record.target_digest]}, {record.created})"
        lines.append(line + of_double(record.target_digest))
    for speed in manifest.performance:
        how = f"{speed.boundary}, {speed.scenario}, batch {speed.batch_size}, {speed.protocol}"
        counts = "" if speed.verdict == "VALID" else f" INVALID: {speed.reasons[0]};"
        line = f"{speed.fps:.2f} images a second:{counts} {how}, {speed.processor}"
        line += f" ({ids[speed.target_digest]}, {speed.created})"
        lines.append(line + of_double(speed.target_digest))
    lines += [
        f"{gate.verdict}: {gate.require} of {ids[gate.target_digest]}: {gate.reason}"
        f"{of_double(gate.target_digest)}"
        for gate in manifest.gates
    ]
    of_levels = "".join(of_double(each.target_digest) for each in manifest.levels if each.chosen)
    for level in manifest.levels:
        gates = "".join(f", {gate.require} {gate.verdict}" for gate in level.gates)
        chosen = ", ships" * level.chosen
        invalid = " INVALID" * (level.verdict == "INVALID")
        lines.append(
            f"level {level.optim_level}: {level.fps:.2f} images a second{invalid}{gates}{chosen}"
            f"{of_levels}"
        )
    return lines


@app.command()
def classify(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="JPEG or PNG files.")],
    top_k: Annotated[int, typer.Option("--top-k", metavar="K", help="Classes to show.")] = 5,
    target: _Target = "auto",
    threads: Threads = None,
    device_id: DeviceId = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the most probable classes of images. Checks every byte of the bundle first.

    Example: vitaie classify bundles/vit_base_patch16_224 cat.jpg dog.png --top-k 3
    """
    from vitaie.manifests.outputs import ClassifyOutput, ImageOutput, PredictionOutput

    check_top_k(top_k)
    check_threads(threads)
    check_device_id(device_id)
    folder = locate(bundle)
    with (
        log_to_stderr(quiet),
        load(folder, target=target, threads=threads, device_id=device_id) as model,
    ):
        found: list[ImageOutput] = []
        with steps([str(image) for image in images], quiet or len(images) == 1) as start:
            for image, predictions in zip(images, model.stream(images, top_k)):
                start(printable(image))
                if not as_json:
                    if not found:
                        print_double(model.target)
                    print(printable(image))
                    for p in predictions:
                        name = printable(f"{p.id}  {p.label}")
                        print(f"  {100 * p.probability:6.2f}%  {name}")
                found.append(
                    ImageOutput(
                        image=utf8(image),
                        predictions=[PredictionOutput(**asdict(p)) for p in predictions],
                    )
                )
        if as_json:
            print_json(
                ClassifyOutput(
                    path=utf8(folder),
                    version=model.manifest.version,
                    target=model.target.id,
                    double=model.target.by_double,
                    images=found,
                )
            )
    suggest(quiet, "vitaie", "preprocess", folder, images[0], "-o", "tensor.npy")


@app.command()
def preprocess(
    bundle: BundlePath,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A JPEG or PNG file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.npy", help="A new file.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what the model sees of an image: float32 [3, H, W], as .npy.

    Example: vitaie preprocess bundles/vit_base_patch16_224 cat.jpg -o cat.npy
    """
    if output.suffix != ".npy":
        raise InputError("E_ARGUMENT", output, expected="a name that ends in .npy")
    check_output(output)
    with open_bundle(bundle) as opened:
        tensor = _preprocess.preprocess(image, opened.manifest.preprocess)
        folder = opened.folder
    stream = io.BytesIO()
    np.save(stream, tensor, allow_pickle=False)
    write_output(output, stream.getvalue())
    digest = sha256(tensor.tobytes())
    if as_json:
        from vitaie.manifests.outputs import PreprocessOutput

        shape = list(tensor.shape)
        print_json(
            PreprocessOutput(output=utf8(output), dtype="float32", shape=shape, sha256=digest)
        )
    else:
        print(f"{printable(output)}: float32 {list(tensor.shape)}, sha256 {digest}")
    suggest(quiet, "vitaie", "classify", folder, image)


@app.command("verify")
def verify_command(
    bundle: BundlePath,
    target: Annotated[
        str, typer.Option("--target", metavar="ID", help="Claims of one target; of all otherwise.")
    ] = "all",
    threads: Threads = None,
    device_id: DeviceId = 0,
    data: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="Measure accuracy again: the dataset that it is of."),
    ] = None,
    labels: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="A flat dataset's labels; looked for.")
    ] = None,
    sample: Annotated[
        Optional[int], typer.Option(metavar="N", help="Images to draw of the dataset; all else.")
    ] = None,
    seed: Annotated[
        Optional[int], typer.Option(metavar="S", help="What is drawn follows from it; drawn else.")
    ] = None,
    performance: Annotated[
        bool, typer.Option("--performance", help="Measure speed again, as it was measured.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Re-check what a bundle claims: every byte, its goldens in every target, its arithmetic.

    What was measured is measured again when asked for; what was not checked is listed. The exit
    code is the verdict: 0 true, 1 false, 6 not decidable on this machine.

    Example: vitaie verify bundles/vit_base_patch16_224 --data ImageNet --sample 1000
    """
    check_threads(threads)
    check_device_id(device_id)
    folder = locate(bundle)
    again = Again(data, labels, sample, seed, performance)
    names = ["files", "preprocessing", "goldens", "goldens"]
    names += ["accuracy"] * (data is not None) + ["performance"] * performance
    with log_to_stderr(quiet), steps(names, quiet) as start, counting(quiet) as show:
        verdict = verify(
            folder,
            target=target,
            threads=threads,
            device_id=device_id,
            progress=start,
            again=again,
            images=show,
        )
    if as_json:
        print_json(verify_output(folder, verdict))
    else:
        print_claims(folder, verdict)
    if verdict.holds:
        suggest(quiet, "vitaie", "info", folder)
        return 0
    decisive = "false" if verdict.exit_code == 1 else "undecidable"
    claim = next(claim for claim in verdict.claims if claim.status == decisive)
    if decisive == "false":
        hint = "Do not use this bundle for what it claims."
        say(str(_told(BundleError, "E_CLAIM_FALSE", folder, claim, hint)), quiet=False)
    else:
        hint = "Run it where it was measured; vitaie bench measures this machine."
        say(str(_told(TargetUnavailable, "E_CLAIM_UNDECIDABLE", folder, claim, hint)), quiet=False)
    return verdict.exit_code


def _told(
    kind: type[VitaieError], code: str, folder: Path, claim: "Claim", hint: str
) -> VitaieError:
    return kind(code, folder, field=claim.claim, got=claim.detail, hint=hint)


@app.command("eval")
def eval_command(
    bundle: BundlePath,
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Class folders, or images with val_label.txt; or above."),
    ],
    labels: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="A flat dataset's labels; looked for.")
    ] = None,
    target: _Target = "auto",
    threads: Threads = None,
    device_id: DeviceId = 0,
    batch_size: Annotated[
        Optional[int], typer.Option("--batch-size", metavar="N", help="Images of each call.")
    ] = None,
    allow_missing: Annotated[
        int, typer.Option(metavar="N", help="How many images may be unreadable.")
    ] = 0,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Without the source model, which needs torch.")
    ] = False,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="local: this machine; ray: a cluster.")
    ] = "local",
    address: Annotated[
        Optional[str], typer.Option(metavar="HOST:PORT", help="Of the Ray cluster's head.")
    ] = None,
    journal: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Progress; RECORD.json.journal, or in the cache."),
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", metavar="RECORD.json", help="A new file.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how accurate a target is, and the source model beside it on the same images.

    A run that is stopped goes on where it was when it is started again.

    Example: vitaie eval bundles/vit_base_patch16_224 --data ImageNet -o RECORD.json
    """
    from vitaie.manifests.measurement import AccuracyMeasurement, to_bytes
    from vitaie.runtime import _evaluate, _evaluate_output

    def save(measurement: AccuracyMeasurement) -> None:
        if output is not None:
            write_output(output, to_bytes(measurement))

    if engine not in ("local", "ray"):
        raise InputError("E_ARGUMENT", "--engine", expected="local or ray", got=engine)
    if (engine == "ray") != (address is not None):
        expected = "HOST:PORT, where the engine is ray, and only there"
        raise InputError("E_ARGUMENT", "--address", expected=expected, got=address or "none")
    if output is not None:
        check_output(output)
    try:
        with log_to_stderr(quiet), counting(quiet) as show:
            result = _evaluate.evaluate(
                bundle,
                data,
                labels=labels,
                target=target,
                threads=threads,
                batch_size=batch_size,
                allow_missing=allow_missing,
                paired=not unpaired,
                device_id=device_id,
                address=address,
                journal=journal or _evaluate.journal_file(output, bundle, target, data),
                cache=_evaluate.cache_folder(),
                progress=show,
                save=save,
            )
    except KeyboardInterrupt as error:
        hint = "Run the same command again."
        if output is not None and output.exists():
            hint = f"The record is written: {output}."
        elif isinstance(error, Interrupted) and error.images:
            hint = f"Run the same command again: it goes on after {error.images:,} images."
        raise VitaieError("E_INTERRUPTED", "vitaie eval", hint=hint) from None
    shown = _evaluate_output.output(result, None if output is None else utf8(output))
    if as_json:
        print_json(shown)
    else:
        print("\n".join(_evaluate_output.describe(shown)))
    folder = as_given(result.folder, bundle)
    again = ("vitaie", "eval", folder, "--data", data, "-o", "RECORD.json")
    attach = ("vitaie-build", "attach", folder, output)
    suggest(quiet, *(again if output is None else attach))


@app.command()
def bench(
    bundle: BundlePath,
    target: _Target = "auto",
    threads: Threads = None,
    device_id: DeviceId = 0,
    batch_size: Annotated[
        Optional[int], typer.Option("--batch-size", metavar="N", help="Images of each call.")
    ] = None,
    scenario: Annotated[
        Optional[str],
        typer.Option(metavar="NAME", help="single_stream, batch 1, or offline; as the batch is."),
    ] = None,
    boundary: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="host: tensor to logits; end_to_end: JPEG to top-5; device: no copies.",
        ),
    ] = "host",
    protocol: Annotated[
        str,
        typer.Option(metavar="NAME", help="quick: 10 s; full: five fresh processes of 60 s."),
    ] = "quick",
    data: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="A dataset to draw photographs of; goldens otherwise."),
    ] = None,
    seed: Annotated[
        Optional[int], typer.Option(metavar="S", help="Of order and checks; drawn otherwise.")
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option("-o", "--output", metavar="RECORD.json", help="A new file.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure how fast a target is here, and whether the figure can be trusted.

    The exit code is 0 when it is VALID, and 6 when it is INVALID, with the reasons.

    Example: vitaie bench bundles/vit_base_patch16_224 --data ImageNet -o RECORD.json
    """
    from vitaie.manifests.measurement import to_bytes
    from vitaie.runtime import _benchmark

    if output is not None:
        check_output(output)
    with log_to_stderr(quiet), steps(_benchmark.steps_of(protocol), quiet) as start:
        result = _benchmark.benchmark(
            bundle,
            target=target,
            threads=threads,
            batch_size=batch_size,
            scenario=scenario,
            boundary=boundary,
            protocol=protocol,
            data=data,
            seed=seed,
            device_id=device_id,
            progress=start,
        )
    shown = _benchmark.output(result, None if output is None else utf8(output))
    if not as_json:
        print("\n".join(_benchmark.describe(shown, result.measurement.honesty)), flush=True)
    if output is not None:
        write_output(output, to_bytes(result.measurement))
    if as_json:
        print_json(shown)
    if result.valid:
        folder = as_given(result.folder, bundle)
        again = ("vitaie", "bench", folder, "-o", "RECORD.json")
        attach = ("vitaie-build", "attach", folder, output)
        suggest(quiet, *(again if output is None else attach))
        return 0
    for reason in shown.reasons:
        say(f"INVALID: {reason}", quiet=False)
    hint = "No gate accepts it. Where it was not stable, leave the machine alone and run it again."
    error = TargetUnavailable("E_SPEED_INVALID", shown.target, got=shown.reasons[0], hint=hint)
    say(str(error), quiet=False)
    return error.exit_code


@app.command("report")
def report_command(
    bundles: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE…", help="Folders of versions, or that of all versions."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE.html", help="A new file.")
    ],
    data: Annotated[
        Optional[Path],
        typer.Option(metavar="DIR", help="The dataset, for pictures of where two models differ."),
    ] = None,
    labels: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="A flat dataset's labels; looked for.")
    ] = None,
    analysis: Annotated[
        Optional[list[Path]],
        typer.Option(
            metavar="FILE.json", help="What vitaie-build analyze --json printed (repeatable)."
        ),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", metavar="ID", help="Goldens in one target; all otherwise.")
    ] = "all",
    threads: Threads = None,
    device_id: DeviceId = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write one page on bundles: what failed or was not checked, then each number and how to check.

    Every bundle is verified first, as by `vitaie verify`. The exit code is the verdict: 0 true,
    1 when a claim is false, which the page then begins with. It needs the extra [report].

    Example: vitaie report bundles/vit_base_patch16_224 -o report.html
    """
    from vitaie.runtime._report import write

    options = write.Options(target, threads, device_id, data, labels, tuple(analysis or ()))
    with log_to_stderr(quiet), steps(write.steps_of(len(bundles)), quiet) as start:
        written = write.report(bundles, output, options, progress=start)
    if as_json:
        print_json(written)
    else:
        for each in written.bundles:
            verdict = "TRUE" if each.holds else "FALSE"
            named = printable(f"{each.name} {each.version}: {verdict}")
            print(named + f", {each.not_checked} not checked" * bool(each.not_checked))
        print(f"{printable(output)}: {written.size:,} bytes, {written.pictures} pictures")
    first = written.bundles[0]
    if all(each.holds for each in written.bundles):
        suggest(quiet, "vitaie", "verify", first.path, *(["--data", data] if data else []))
        return 0
    false = next(each for each in written.bundles if not each.holds)
    hint = "Do not use this bundle for what it claims."
    claims = "1 claim" if false.false == 1 else f"{false.false} claims"
    error = BundleError("E_CLAIM_FALSE", false.path, got=claims, hint=hint)
    say(str(error), quiet=False)
    return 1


def verify_output(folder: Path, verdict: "Verdict") -> "VerifyOutput":
    """Return the ``--json`` document of a verdict."""
    from vitaie.manifests.outputs import VerifyOutput

    return VerifyOutput(
        path=utf8(folder),
        name=verdict.manifest.name,
        version=verdict.manifest.version,
        content_digest=verdict.manifest.content_digest,
        holds=verdict.holds,
        claims=claims_output(folder, verdict),
    )


def claims_output(folder: Path, verdict: "Verdict") -> "list[ClaimOutput]":
    """Return the claims of a verdict on the bundle in ``folder``, as ``--json`` has them."""
    from vitaie.manifests.outputs import ClaimOutput

    return [
        ClaimOutput(
            claim=claim.claim,
            status=claim.status,
            detail=claim.detail,
            tier=claim.tier,
            check=_checking(folder, claim),
        )
        for claim in verdict.claims
    ]


def _checking(folder: Path, claim: "Claim") -> Optional[str]:
    """Return the command that would check a claim, where there is one."""
    return f"vitaie verify {shlex.quote(utf8(folder))} {claim.check}" if claim.check else None


def print_claims(folder: Path, verdict: "Verdict") -> None:
    """Print one line a claim, and the verdict last."""
    for claim in verdict.claims:
        detail = claim.detail + (f" ({claim.tier})" if claim.tier else "")
        check = _checking(folder, claim)
        detail += f": {check}" if check else ""
        print(f"{claim.status:<12}{printable(claim.claim)}: {printable(detail, 600)}")
    for line in filter(None, map(message_of, verdict.claims)):
        print(line)
    unchecked = sum(claim.status == "not checked" for claim in verdict.claims)
    told = {0: "TRUE", 1: "FALSE", 6: "UNDECIDABLE"}[verdict.exit_code]
    print(told + (f", {unchecked} not checked" * bool(unchecked)))


def main() -> None:
    """Run the command line."""
    leave(run(app, "vitaie"))
