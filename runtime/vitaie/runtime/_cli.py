"""``vitaie``: what a bundle is, what it says of an image, and whether its claims are true."""

# No postponed annotations here: on Python 3.9 typer reads Annotated only when it is evaluated.

import io
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, InputError, printable
from vitaie.runtime import _preprocess
from vitaie.runtime._bundle import locate, open_bundle
from vitaie.runtime._command import (
    BundlePath,
    Json,
    Quiet,
    Threads,
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
from vitaie.runtime._files import check_output, write_output
from vitaie.runtime._model import load
from vitaie.runtime._verify import verify

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Manifest
    from vitaie.manifests.outputs import VerifyOutput
    from vitaie.runtime._verify import Verdict

app = new_app("Use Vision Transformer bundles: inspect, classify, and re-check every claim.")

_Target = Annotated[
    str, typer.Option("--target", metavar="ID", help="A target's id, cpu for short, or auto.")
]


@app.callback()
def _root() -> None:
    """Keep sub-commands even when there is only one."""


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
                f" {target.agreement.images} goldens",
            )
        )
    for golden in manifest.goldens:
        rows.append(("golden", f"{golden.source}: class {golden.top1}, margin {golden.margin:.3f}"))
    rows.append(("measured", _measured(manifest)))
    for figure in manifest.expected.accuracy:
        top5 = "" if figure.top5 is None else f", top-5 {figure.top5}"
        figures = f"top-1 {figure.top1}{top5} ({figure.source})"
        rows.append(("published", f"for {manifest.source.variant}, not measured here: {figures}"))
    return [f"{key:<11}{printable(value, 400)}" for key, value in rows]


def _measured(manifest: "Manifest") -> str:
    if not manifest.accuracy and not manifest.performance:
        return "nothing: no accuracy and no speed is claimed"
    return f"{len(manifest.accuracy)} accuracy and {len(manifest.performance)} speed records"


@app.command()
def classify(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="JPEG or PNG files.")],
    top_k: Annotated[int, typer.Option("--top-k", metavar="K", help="Classes to show.")] = 5,
    target: _Target = "auto",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print the most probable classes of images. Checks every byte of the bundle first.

    Example: vitaie classify bundles/vit_base_patch16_224 cat.jpg dog.png --top-k 3
    """
    from vitaie.manifests.outputs import ClassifyOutput, ImageOutput, PredictionOutput

    folder = locate(bundle)
    with log_to_stderr(quiet), load(folder, target=target, threads=threads) as model:
        found: list[ImageOutput] = []
        with steps([str(image) for image in images], quiet or len(images) == 1) as start:
            for image, predictions in zip(images, model.stream(images, top_k)):
                start(printable(image))
                if not as_json:
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
        str, typer.Option("--target", metavar="ID", help="Goldens in one target; all otherwise.")
    ] = "all",
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Re-check what a bundle claims: every byte, and its goldens in every target.

    The exit code is the verdict: 0 true, 1 false.

    Example: vitaie verify bundles/vit_base_patch16_224
    """
    folder = locate(bundle)
    names = ["files", "preprocessing", "goldens", "goldens"]
    with steps(names, quiet) as start:
        verdict = verify(folder, target=target, threads=threads, progress=start)
    if as_json:
        print_json(verify_output(folder, verdict))
    else:
        print_claims(verdict)
    if verdict.holds:
        suggest(quiet, "vitaie", "info", folder)
    else:
        false = next(claim for claim in verdict.claims if claim.status == "false")
        hint = "Do not use this bundle for what it claims."
        error = BundleError("E_CLAIM_FALSE", folder, field=false.claim, got=false.detail, hint=hint)
        say(str(error), quiet=False)
    return 0 if verdict.holds else 1


def verify_output(folder: Path, verdict: "Verdict") -> "VerifyOutput":
    """Return the ``--json`` document of a verdict."""
    from vitaie.manifests.outputs import ClaimOutput, VerifyOutput

    return VerifyOutput(
        path=utf8(folder),
        name=verdict.manifest.name,
        version=verdict.manifest.version,
        content_digest=verdict.manifest.content_digest,
        holds=verdict.holds,
        claims=[ClaimOutput(**claim._asdict()) for claim in verdict.claims],
    )


def print_claims(verdict: "Verdict") -> None:
    """Print one line a claim, and the verdict last."""
    for claim in verdict.claims:
        print(f"{claim.status:<12}{printable(claim.claim)}: {printable(claim.detail)}")
    unchecked = sum(claim.status == "not checked" for claim in verdict.claims)
    print(("TRUE" if verdict.holds else "FALSE") + (f", {unchecked} not checked" * bool(unchecked)))


def main() -> None:
    """Run the command line."""
    leave(run(app, "vitaie"))
