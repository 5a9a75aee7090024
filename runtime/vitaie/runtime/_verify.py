"""Re-checking what a bundle claims: its files, its goldens, its numbers, and what was measured.

``verify`` tells the whole story. Files, goldens and the arithmetic of every record are always
checked; what costs a dataset or minutes is checked when it is asked for, and listed as
``not checked`` otherwise, with what would check it.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vitaie.manifests.errors import BundleError
from vitaie.runtime._bundle import Bundle, open_bundle
from vitaie.runtime._claim import Again, Claim, check_again, silent
from vitaie.runtime._comparison import claim_of, compare, read_images
from vitaie.runtime._goldens import check_golden_stages, check_logits, run_goldens, tier_here
from vitaie.runtime._model import (
    DOUBLE,
    check_device_id,
    check_device_of,
    check_threads,
    choose_target,
    missing_for,
    read_labels,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Manifest, Target
    from vitaie.runtime._evaluate import Progress
    from vitaie.runtime._recheck import Rechecks

_PUBLISHED = "published figures"
_UNSEEN = {
    "architecture and gflop": "as the card says; not counted from the graph",
    "source checkpoint": "it is not part of the bundle; its sha256 is, to compare",
    _PUBLISHED: "of this variant elsewhere; of these bytes only a measurement says it",
    "toolchain": "what made the bundle cannot be seen in it",
    "credits of the goldens": "who made a picture cannot be seen in it",
}
"""What a bundle says and none of its bytes can show, with the reason."""

UNSEEN = frozenset(_UNSEEN)
"""The claims that are never checked, by whoever has the bundle alone."""


class Verdict(NamedTuple):
    """All claims of a bundle, checked or said to be unchecked."""

    manifest: Manifest
    claims: list[Claim]

    @property
    def holds(self) -> bool:
        """Whether nothing that was checked is false or undecidable, and something was checked."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """The verdict as the commands exit with it: 0 true, 1 false, 6 not decidable here."""
        statuses = {claim.status for claim in self.claims}
        return 1 if "false" in statuses else 6 if "undecidable" in statuses else 0


def verify(
    path: str | os.PathLike[str],
    *,
    target: str = "all",
    threads: int | None = None,
    device_id: int = 0,
    progress: Callable[[str], None] | None = None,
    known: Mapping[str, Sequence[NDArray[np.float32]]] | None = None,
    again: Again | None = None,
    images: Callable[[Progress], None] | None = None,
) -> Verdict:
    """Re-check a bundle's files, its goldens in each target (or the one named), and its numbers.

    What nothing in the bundle can show, such as what built it, is listed as ``not checked``.

    Args:
        path: A bundle's folder, or the folder of its versions (the newest is taken).
        target: A target's id, or ``all`` that run here.
        threads: Threads of the engines that run the goldens; as when they were built when None.
        device_id: Which of this machine's devices targets that are made for one run on.
        progress: Called with each step's name as it starts.
        known: What targets gave on the goldens, float32 [1, classes] each, by target digest, from
            who has just run them: those are compared, not run again.
        again: What is measured again; nothing when None.
        images: Called with how far each dataset is.

    Raises:
        BundleError: The bundle does not open: that is false before any claim.
        TargetUnavailable: The target named cannot run here.
        InputError: An argument is not valid, or ``data`` is not the dataset of any record.
        ImageError: An image of the dataset cannot be used.
    """
    check_threads(threads)
    check_device_id(device_id)
    again = again or Again()
    check_again(again)
    say = progress or silent
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        wanted = [choose_target(manifest, target)] if target != "all" else list(manifest.targets)
        check_device_of(wanted, device_id)
        say("files")
        check_files(bundle)
        read_labels(bundle)
        rechecks = _planned(bundle, wanted, again, device_id)
        files = len(manifest.artifacts) + 1
        claims = [Claim("files", "true", f"{files} files, {total_size(manifest):,} bytes")]
        claims.append(check_parameters(manifest))
        say("preprocessing of the goldens")
        tensors, preprocessing = check_golden_stages(bundle)
        claims += preprocessing
        for item in wanted:
            say(f"goldens in {item.id}")
            claims += _check_goldens(bundle, item, tensors, threads, device_id, known or {})
        claims += [_unwanted(item) for item in manifest.targets if item not in wanted]
        claims += [] if rechecks is None else rechecks.run(say, images)
        figures = manifest.expected.accuracy or manifest.expected.speed
        claims += [
            Claim(claim, "not checked", reason)
            for claim, reason in _UNSEEN.items()
            if figures or claim != _PUBLISHED
        ]
    return Verdict(manifest, claims)


def total_size(manifest: Manifest) -> int:
    """Return the bytes of all artifacts."""
    return sum(artifact.size for artifact in manifest.artifacts)


def check_files(bundle: Bundle) -> None:
    """Check every artifact's digest; for a chunked one, of the whole too.

    Raises:
        BundleError: A digest is wrong.
    """
    for artifact in bundle.manifest.artifacts:
        if artifact.chunks:
            begun = bundle.begin(artifact.path)  # its chunks are hashed while the whole is
            digest = hashlib.sha256(begun.data.data).hexdigest()
            if digest != artifact.sha256:
                raise BundleError(
                    "E_BUNDLE_FILE_DIGEST",
                    bundle.folder / artifact.path,
                    expected=artifact.sha256,
                    got=digest,
                )
    bundle.check()


def check_parameters(manifest: Manifest) -> Claim:
    """Compare the number of parameters with that of the weights, each of which is there once."""
    counted = sum(math.prod(weight.shape) for weight in manifest.weights)
    claimed = manifest.model.parameters
    detail = f"{counted:,} in the weights" + (f", {claimed:,} claimed" * (counted != claimed))
    return Claim("parameters", "true" if counted == claimed else "false", detail)


def _check_goldens(
    bundle: Bundle,
    target: Target,
    tensors: list[NDArray[np.float32]],
    threads: int | None,
    device_id: int,
    known: Mapping[str, Sequence[NDArray[np.float32]]],
) -> list[Claim]:
    """Run a target on the goldens; one that was compiled on seeded images too, as its source."""
    if target.by_double:
        return [Claim(f"goldens in {target.id}", "false", DOUBLE)]
    missing = missing_for(target)
    if missing:
        return [Claim(f"goldens in {target.id}", "not checked", missing)]
    given = known.get(target.target_digest)
    if given is not None:  # they are what the manifest's digests were taken of
        return [check_logits(bundle, target, given, "exact")]
    tier, threads = tier_here(target, threads)
    if target.device == "cpu":
        ran = run_goldens(bundle, target, tensors, threads)
        return [check_logits(bundle, target, ran.logits, tier, ran.mixed)]
    images = read_images(bundle, tensors)
    logits = run_goldens(bundle, target, images.tensors, threads, device_id).logits
    found = compare([row[0] for row in logits], images.expected, target.tolerance)
    return [check_logits(bundle, target, logits, tier), claim_of(target, found, tier)]


def _unwanted(target: Target) -> Claim:
    claim, why = f"goldens in {target.id}", "another target was asked for"
    return Claim(claim, "not checked", why, check=f"--target {target.id}")


def _planned(
    bundle: Bundle, wanted: Sequence[Target], again: Again, device_id: int
) -> Rechecks | None:
    """Return what is to be done about the measurements; None where there are none.

    What that needs is imported there alone: most bundles on a device have no records.
    """
    manifest = bundle.manifest
    records = (*manifest.accuracy, *manifest.performance, *manifest.gates, *manifest.levels)
    if not records and again == Again():
        return None
    from vitaie.runtime._recheck import Rechecks

    return Rechecks(bundle, [target.target_digest for target in wanted], again, device_id)
