"""What a page needs of a bundle: re-checked claims, raw evidence, and pictures that are small.

Every byte is read through the open bundle, and so was checked; a picture of the dataset is shown
only when its digest is that of the file that was measured. Pictures are decoded here and written
anew, so that none of the bytes that somebody else made reaches a browser.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Callable, NamedTuple, Union

import numpy as np
from PIL import Image

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, ImageError, InputError
from vitaie.runtime import _images
from vitaie.runtime._bundle import MANIFEST_NAME, Bundle, locate, open_bundle
from vitaie.runtime._dataset import read_dataset
from vitaie.runtime._goldens import golden_logits
from vitaie.runtime._model import read_labels
from vitaie.runtime._report.counts import disagreements
from vitaie.runtime._verify import verify

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Golden, Manifest
    from vitaie.manifests.measurement import Measurement
    from vitaie.manifests.outputs import AnalyzeOutput
    from vitaie.runtime._claim import Claim

    _Path = Union[str, os.PathLike[str]]

MAX_RECORDS = 8
"""Of accuracy and of speed, whose evidence is read and shown."""

MAX_GOLDENS = 24
MAX_DISAGREEMENTS = 20

_TOP = 5
_SIDE = 160
_JPEG_QUALITY = 85


class Guess(NamedTuple):
    """A class by index, and its probability by the softmax of the logits."""

    label: int
    probability: float


class GoldenFound(NamedTuple):
    """The crop that the model sees, as a JPEG, and the first classes of the logits that ship."""

    picture: bytes
    top: tuple[Guess, ...]


@dataclass(frozen=True)
class Found:
    """One bundle, as it was found.

    Attributes:
        folder: The version's folder, as commands name it.
        manifest: What it says.
        claims: What of it holds here.
        labels: (id, name) of each class.
        goldens: The first ``MAX_GOLDENS``, in the manifest's order.
        evidence: By the path of each record that is shown, what was measured, or why the file
            does not say it.
        pictures: By the sha256 of the file, pictures of the dataset as JPEG.
        no_picture: By the sha256 of the file, why there is none.
        data: The dataset's folder as it was given, or empty.
        analyses: What half precision would do, computed elsewhere of the same content.
    """

    folder: str
    manifest: Manifest
    claims: tuple[Claim, ...]
    labels: tuple[tuple[str, str], ...]
    goldens: tuple[GoldenFound, ...]
    evidence: Mapping[str, Measurement | str]
    pictures: Mapping[str, bytes]
    no_picture: Mapping[str, str]
    data: str
    analyses: tuple[AnalyzeOutput, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing that was checked is false."""
        return all(claim.status != "false" for claim in self.claims)


def find(
    path: _Path,
    *,
    target: str = "all",
    threads: int | None = None,
    device_id: int = 0,
    data: _Path | None = None,
    labels: _Path | None = None,
    analyses: Sequence[AnalyzeOutput] = (),
    progress: Callable[[str], None],
) -> Found:
    """Re-check a bundle as ``verify`` does, and read what a page shows of it.

    Args:
        path: A bundle's folder, or the folder of its versions (the newest is taken).
        target: The target whose goldens are run, or ``all`` that run here.
        threads: Threads of the engines.
        device_id: Which device targets that are made for one run on.
        data: The dataset, to show images of; none are when None.
        labels: The file of labels of a flat dataset; looked for when None.
        analyses: Of this bundle, or of others, which are left out.
        progress: Called with each step's name as it starts.

    Raises:
        BundleError: The bundle does not open.
        TargetUnavailable: The target named cannot run here.
        InputError: The dataset is none of this bundle.
    """
    folder = locate(path)
    verdict = verify(folder, target=target, threads=threads, device_id=device_id, progress=progress)
    progress("evidence and pictures")
    with open_bundle(folder) as bundle:
        if bundle.manifest.manifest_digest != verdict.manifest.manifest_digest:
            raise BundleError(
                "E_BUNDLE_FILE_DIGEST",
                folder / MANIFEST_NAME,
                expected=verdict.manifest.manifest_digest,
                got=bundle.manifest.manifest_digest,
                hint="The bundle was replaced while it was read; run it again.",
            )
        names = read_labels(bundle)
        goldens = tuple(_golden(bundle, each) for each in bundle.manifest.goldens[:MAX_GOLDENS])
        evidence = dict(_evidence(bundle))
    manifest = verdict.manifest
    pictures: dict[str, bytes] = {}
    no_picture: dict[str, str] = {}
    if data is not None:
        files = _files(data, labels, [identity for identity, _ in names])
        for digest, wanted in _wanted(evidence.values()).items():
            picture = _picture(files.get(wanted), digest)
            if isinstance(picture, bytes):
                pictures[digest] = picture
            else:
                no_picture[digest] = picture
    return Found(
        str(folder),
        manifest,
        tuple(verdict.claims),
        tuple(names),
        goldens,
        evidence,
        pictures,
        no_picture,
        "" if data is None else os.fspath(data),
        tuple(each for each in analyses if each.content_digest == manifest.content_digest),
    )


def _golden(bundle: Bundle, golden: Golden) -> GoldenFound:
    logits = golden_logits(bundle, golden)
    order = np.argsort(-logits, kind="stable")[:_TOP].tolist()
    shifted = np.exp(logits.astype(np.float64) - float(logits.max()))
    shares = shifted / shifted.sum()
    crop = _images.decode(bundle.read(golden.crop).tobytes())
    return GoldenFound(_thumbnail(crop), tuple(Guess(i, float(shares[i])) for i in order))


def _evidence(bundle: Bundle) -> Iterable[tuple[str, Measurement | str]]:
    """Yield each shown record's path, and the measurement that it is computed from."""
    from vitaie.manifests.measurement import read_measurement

    manifest = bundle.manifest
    accuracy = [record.predictions for record in manifest.accuracy[:MAX_RECORDS]]
    performance = [record.latencies for record in manifest.performance[:MAX_RECORDS]]
    for kind, paths in (("vitaie-accuracy", accuracy), ("vitaie-performance", performance)):
        for path in paths:
            try:
                measurement = read_measurement(bundle.read(path).tobytes(), path)
            except (InputError, BundleError) as error:
                yield path, str(error)
                continue
            yield path, measurement if measurement.format == kind else "another kind of record"
            bundle.release(path)


def _wanted(evidence: Iterable[Measurement | str]) -> dict[str, str]:
    """Return digest and path of the images on which two models differ, as many as are shown."""
    from vitaie.manifests.measurement import AccuracyMeasurement

    return {
        each.sha256: each.path
        for measurement in evidence
        if isinstance(measurement, AccuracyMeasurement)
        for each in disagreements(measurement.images)[:MAX_DISAGREEMENTS]
    }


def _files(data: _Path, labels: _Path | None, class_ids: list[str]) -> dict[str, str]:
    """Return where each of a dataset's images is, by its path in it: no other file is opened."""
    entries = read_dataset(data, labels, class_ids=class_ids, classes=len(class_ids)).entries
    return {entry.path: entry.file for entry in entries}


def _picture(file: str | None, digest: str) -> bytes | str:
    """Return an image as a small JPEG, or why it is not shown."""
    if file is None:
        return "not in the dataset given"
    try:
        data = _images.read_file(file, file)
        if sha256(data) != digest:
            return "not the file that was measured"
        return _thumbnail(_images.decode(data))
    except ImageError as error:
        return error.sentence


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels, uint8 RGB [H, W, 3], as a JPEG of at most 160 pixels each way."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    written = BytesIO()
    image.save(written, "JPEG", quality=_JPEG_QUALITY)
    return written.getvalue()
