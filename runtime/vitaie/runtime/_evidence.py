"""Evidence: the records of measurements, as files that travel and as files of a bundle.

A record that is to stand in a bundle must be of that bundle and agree with itself. What it comes
to, in a manifest and before a gate, is computed from it and from nothing else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, InputError, ManifestError
from vitaie.manifests.manifest import preprocess_digest
from vitaie.manifests.measurement import (
    MAX_RECORD_BYTES,
    AccuracyMeasurement,
    Measurement,
    accuracy_record,
    performance_record,
    read_measurement,
    to_bytes,
)
from vitaie.runtime._dataset import DatasetDigest
from vitaie.runtime._environment import peak_of

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Manifest
    from vitaie.runtime._bundle import Bundle

FOLDER = "measurements"
_NAME_DIGITS = 12
_HINT = "Give a file that vitaie eval -o or vitaie bench -o wrote."
_MEASURE_AGAIN = "Measure again with this bundle: vitaie eval, vitaie bench."


class Evidence(NamedTuple):
    """A measurement and its bytes as a bundle keeps them, whatever white space it came with."""

    measurement: Measurement
    data: bytes

    @property
    def kind(self) -> str:
        """``accuracy`` or ``performance``."""
        return _kind(self.measurement)

    @property
    def path(self) -> str:
        """Its path in a bundle, which follows from its bytes."""
        return name_of(self.measurement, sha256(self.data))


def _kind(measurement: Measurement) -> str:
    return "accuracy" if isinstance(measurement, AccuracyMeasurement) else "performance"


def name_of(measurement: Measurement, digest: str) -> str:
    """Return the path in a bundle of evidence whose bytes have the sha256 ``digest``."""
    return f"{FOLDER}/{_kind(measurement)}-{digest[:_NAME_DIGITS]}.json"


def evidence_of(measurement: Measurement) -> Evidence:
    """Return a measurement as a bundle keeps it."""
    return Evidence(measurement, to_bytes(measurement))


def read_evidence(file: Path) -> Evidence:
    """Read a record that ``vitaie eval -o`` or ``vitaie bench -o`` wrote.

    Raises:
        InputError: ``E_RECORD``, it is none, or contradicts itself; ``E_RECORD_UNREADABLE``.
    """
    measurement = _parsed(read_file(file), str(file))
    if isinstance(measurement, AccuracyMeasurement):
        actual = dataset_digest(measurement)
        if actual != measurement.dataset_digest:
            got = measurement.dataset_digest
            raise InputError("E_RECORD", file, field="dataset_digest", expected=actual, got=got)
    return evidence_of(measurement)


def kept_measurement(bundle: Bundle, path: str, target_digest: str) -> Measurement:
    """Read the evidence that a bundle keeps at ``path`` of a record on a target.

    Raises:
        BundleError: ``E_BUNDLE_EVIDENCE``, it is none, or of another target.
    """
    where = bundle.folder / path
    data = bundle.read(path).tobytes()
    bundle.release(path)
    try:
        measurement = _parsed(data, str(where))
        check_kept(bundle.manifest, measurement, data, path)
        _check_names(bundle.manifest, measurement, where)
    except InputError as error:
        raise BundleError(
            "E_BUNDLE_EVIDENCE", where, field=error.field, expected=error.expected, got=error.got
        ) from None
    got = measurement.subject.target_digest
    if got != target_digest:
        field = "subject.target_digest"
        raise BundleError("E_BUNDLE_EVIDENCE", where, field=field, expected=target_digest, got=got)
    return measurement


def check_kept(manifest: Manifest, measurement: Measurement, data: bytes, path: str) -> None:
    """Refuse what no command put into a bundle: other bytes of the same, or under another name.

    Raises:
        InputError: ``E_RECORD``.
    """
    check_fit(manifest, measurement, path)
    if to_bytes(measurement) != data:
        raise InputError("E_RECORD", path, expected="its bytes as vitaie-build attach writes them")
    expected = name_of(measurement, sha256(data))
    if expected != path:
        raise InputError("E_RECORD", path, expected=expected, got=path)


def _check_names(manifest: Manifest, measurement: Measurement, where: object) -> None:
    """Refuse evidence that names another target, bundle or preprocessing than its digest's."""
    subject = measurement.subject
    for target in manifest.targets:
        if target.target_digest == subject.target_digest:
            for name, got, expected in (
                ("name", subject.name, manifest.name),
                ("target", subject.target, target.id),
                (
                    "preprocess_digest",
                    subject.preprocess_digest,
                    preprocess_digest(manifest.preprocess),
                ),
            ):
                if got != expected:
                    field = f"subject.{name}"
                    raise InputError("E_RECORD", where, field=field, expected=expected, got=got)


def check_subject(manifest: Manifest, measurement: Measurement, where: object) -> None:
    """Refuse a measurement of anything but this bundle.

    Raises:
        InputError: ``E_RECORD_OTHER`` with the part that differs.
    """
    subject = measurement.subject
    targets = {target.id: target.target_digest for target in manifest.targets}
    for name, got, expected in (
        ("name", subject.name, manifest.name),
        ("content_digest", subject.content_digest, manifest.content_digest),
        ("preprocess_digest", subject.preprocess_digest, preprocess_digest(manifest.preprocess)),
        ("target_digest", subject.target_digest, targets.get(subject.target, "a target of it")),
    ):
        if got != expected:
            field = f"subject.{name}"
            hint = _MEASURE_AGAIN
            raise InputError(
                "E_RECORD_OTHER", where, field=field, expected=expected, got=got, hint=hint
            )
    check_fit(manifest, measurement, where)


def check_fit(manifest: Manifest, measurement: Measurement, where: object) -> None:
    """Refuse a measurement that this model, or the target that it names, cannot have given.

    Raises:
        InputError: ``E_RECORD`` with the field.
    """
    digest = measurement.subject.target_digest
    targets = [target for target in manifest.targets if target.target_digest == digest]
    if isinstance(measurement, AccuracyMeasurement):
        _check_classes(manifest.model.classes, measurement, where)
        images = measurement.images
        is_source = any(each.backend == "torchscript" for each in targets)
        if is_source and images.source not in (None, images.target):
            expected = "the target's own, which is the source model"
            raise InputError("E_RECORD", where, field="images.source", expected=expected)
        return
    for target in targets:
        if measurement.placement != target.placement:
            share, got = target.placement, measurement.placement
            raise InputError("E_RECORD", where, field="placement", expected=share, got=got)
        if measurement.boundary == "device" and target.device == "cpu":
            expected = "host or end_to_end, on the CPU"
            raise InputError("E_RECORD", where, field="boundary", expected=expected, got="device")


def _check_classes(classes: int, measurement: AccuracyMeasurement, where: object) -> None:
    images = measurement.images
    columns = (("label", [images.label]), ("target", images.target), ("source", images.source))
    for name, rows in columns:
        highest = max((max(row) for row in rows or ()), default=0)
        if highest >= classes:
            expected = f"classes below {classes}"
            field = f"images.{name}"
            raise InputError("E_RECORD", where, field=field, expected=expected, got=highest)
    width = len(images.target[0])
    if width != min(5, classes):
        expected = f"{min(5, classes)} classes for each image"
        raise InputError("E_RECORD", where, field="images.target", expected=expected, got=width)


def dataset_digest(measurement: AccuracyMeasurement) -> str:
    """Return the digest of the dataset that the measurement's own rows give."""
    digest, images = DatasetDigest(), measurement.images
    for row in zip(images.path, images.size, images.sha256, images.label):
        digest.add(*row)
    return digest.hexdigest()


def record_of(manifest: Manifest, measurement: Measurement, path: str) -> dict[str, Any]:
    """Return what a manifest says of a measurement whose evidence lies at ``path``."""
    if isinstance(measurement, AccuracyMeasurement):
        return accuracy_record(measurement, path)
    peak = peak_of(measurement)
    return performance_record(measurement, path, gflop=manifest.model.gflop, peak_tflops=peak)


def fault_of_json(error: ManifestError) -> str:
    """Return what is wrong with a file's JSON, where the error would speak of a manifest."""
    told = error.sentence.replace("the manifest", "it")
    return told if error.got is None else f"{told}: {error.got}"


def _parsed(data: bytes, where: str) -> Measurement:
    try:
        return read_measurement(data, where)
    except ManifestError as error:  # its sentence speaks of a manifest
        raise InputError(
            "E_RECORD", where, field=error.field, expected="one object of strict JSON",
            got=fault_of_json(error), hint=_HINT,
        ) from None  # fmt: skip


def read_file(file: str | os.PathLike[str], limit: int = MAX_RECORD_BYTES) -> bytes:
    """Return the bytes of a regular file of a record; a FIFO or a device is not waited for.

    Raises:
        InputError: ``E_RECORD_UNREADABLE``, there is no such file, or it is larger than ``limit``
            bytes.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                expected = "a regular file"
                raise InputError("E_RECORD_UNREADABLE", file, expected=expected, hint=_HINT)
            if status.st_size > limit:
                expected = f"at most {limit} bytes"
                raise InputError("E_RECORD_UNREADABLE", file, expected=expected, got=status.st_size)
            return stream.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError("E_RECORD_UNREADABLE", file, got=reason, hint=_HINT) from None
