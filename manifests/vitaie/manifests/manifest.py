"""``manifest.json``: the bytes to the contents and back.

``Manifest.from_bytes`` is the only way in. It judges the bytes in an order that never lets a
later step see what an earlier one refused: JSON (strict), format and version, the digest of
the bytes, types and values, what fields say of each other, and last the digests over content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from pydantic import ValidationError

from vitaie.manifests import checks, digests
from vitaie.manifests.contents import FORMAT_VERSION, Contents
from vitaie.manifests.contents import Artifact as Artifact
from vitaie.manifests.contents import Crop as Crop
from vitaie.manifests.contents import Expected as Expected
from vitaie.manifests.contents import Golden as Golden
from vitaie.manifests.contents import Model as Model
from vitaie.manifests.contents import Preprocess as Preprocess
from vitaie.manifests.contents import PublishedAccuracy as PublishedAccuracy
from vitaie.manifests.contents import PublishedSpeed as PublishedSpeed
from vitaie.manifests.contents import Resize as Resize
from vitaie.manifests.contents import Target as Target
from vitaie.manifests.contents import Tolerance as Tolerance
from vitaie.manifests.errors import ManifestError
from vitaie.manifests.fields import Fault, fault
from vitaie.manifests.fields import Name as Name
from vitaie.manifests.fields import Percent as Percent
from vitaie.manifests.fields import Positive as Positive
from vitaie.manifests.fields import PositiveFloat as PositiveFloat
from vitaie.manifests.fields import Version as Version
from vitaie.manifests.fields import field_path as field_path
from vitaie.manifests.strict_json import parse_object

FORMAT = "vitaie-bundle"
MAX_MANIFEST_BYTES = 2**20
MOST = {"commas": 2**15, "brackets": 2**12}
"""Outside of strings. A manifest of 1 MiB, with a line for each value, has hardly more."""

_PLACEHOLDER = "0" * 64
_OUTSIDE_CONTENT = (
    *("version", "manifest_digest", "content_digest"),
    *("accuracy", "performance", "gates", "levels"),
)


class Manifest(Contents):
    """Everything a bundle says. Made with ``create``, read with ``from_bytes``."""

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "manifest.json") -> Manifest:
        """Read and check a manifest.

        Raises:
            ManifestError: With the code and the path of the field at fault.
        """
        document = _parsed(data, where)
        _check_format(document, where)
        _check_manifest_digest(data, document, where)
        manifest = _validated(data, where)
        for found in chain(
            checks.structure_faults(manifest),
            checks.record_faults(manifest, preprocess_digest(manifest.preprocess)),
            _digest_faults(manifest),
        ):
            raise found.error(where)
        return manifest

    @classmethod
    def create(cls, fields: dict[str, Any]) -> Manifest:
        """Make a manifest of all fields but ``format``, ``format_version`` and the two digests.

        Targets carry any 64 digits as ``target_digest``; the right ones are put in. Records
        name the right digest of their target.

        Raises:
            ManifestError: As ``from_bytes``.
        """
        document = {
            **fields,
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "manifest_digest": _PLACEHOLDER,
            "content_digest": _PLACEHOLDER,
        }
        data = json.dumps(document).encode("ascii")
        _parsed(data, "manifest.json")
        draft = _validated(data, "manifest.json")
        for found in checks.structure_faults(draft):
            raise found.error("manifest.json")
        files = {artifact.path: artifact.sha256 for artifact in draft.artifacts}
        targets = tuple(
            target.model_copy(update={"target_digest": target.digest(files)})
            for target in draft.targets
        )
        draft = draft.model_copy(update={"targets": targets})
        draft = draft.model_copy(update={"content_digest": content_digest(draft)})
        return cls.from_bytes(draft.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the bytes of manifest.json: UTF-8, fields in the order of the model.

        ``manifest_digest`` is the one of these bytes, whatever bytes the manifest came from.
        """
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n"
        return digests.with_manifest_digest(text.encode("utf-8"))


def content_digest(manifest: Manifest) -> str:
    """Return the digest of what a bundle is, whenever, wherever and however well it was measured.

    It covers every field but the version, the two digests of the whole, the date and machine,
    the measurements with their files and what was judged by them, and the numeric agreement of
    the targets.
    """
    document = manifest.model_dump(mode="json")
    for field in _OUTSIDE_CONTENT:
        del document[field]
    for field in ("created", "machine"):
        del document["toolchain"][field]
    for target in document["targets"]:
        del target["agreement"]
    document["artifacts"] = [
        artifact for artifact in document["artifacts"] if artifact["role"] != "measurement"
    ]
    return digests.sha256(digests.canonical(document))


def preprocess_digest(preprocess: Preprocess) -> str:
    """Return the digest that an accuracy record binds its preprocessing by."""
    return digests.sha256(digests.canonical(preprocess.model_dump(mode="json")))


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    return parse_object(data, where=where, limit=MAX_MANIFEST_BYTES, most=MOST)


def _check_format(document: dict[str, Any], where: str) -> None:
    for field in ("format", "format_version"):
        if field not in document:
            raise ManifestError("E_MANIFEST_MISSING_FIELD", where, field=field)
    kind, version = document["format"], document["format_version"]
    if kind != FORMAT:
        raise Fault("E_MANIFEST_FORMAT", "format", FORMAT, kind).error(where)
    if type(version) is not int:
        raise Fault("E_MANIFEST_TYPE", "format_version", "an integer", version).error(where)
    if version < 1:
        raise Fault("E_MANIFEST_VALUE", "format_version", "at least 1", version).error(where)
    if version > FORMAT_VERSION:
        raise ManifestError(
            "E_MANIFEST_NEWER_VERSION",
            where,
            field="format_version",
            expected=f"at most {FORMAT_VERSION}",
            got=version,
            hint="Install a newer vitaie.",
        )


def _check_manifest_digest(data: bytes, document: dict[str, Any], where: str) -> None:
    if "manifest_digest" not in document:
        raise ManifestError("E_MANIFEST_MISSING_FIELD", where, field="manifest_digest")
    actual = digests.manifest_digest(data)
    if actual is None or actual != document["manifest_digest"]:
        raise ManifestError(
            "E_MANIFEST_DIGEST",
            where,
            field="manifest_digest",
            expected=actual or "64 lower-case hexadecimal digits, and the name just once",
            got=document["manifest_digest"],
            hint="The manifest was changed after it was published; fetch the bundle again.",
        )


def _validated(data: bytes, where: str) -> Manifest:
    """Return the manifest with every value of the right type, nothing compared yet."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        # pydantic's order differs between its releases, and a list with an element at fault is
        # also "too short": the innermost fault is the one, and of several the first by name
        details = min(error.errors(), key=lambda each: (-len(each["loc"]), field_path(each["loc"])))
    raise fault(details).error(where)


def _digest_faults(manifest: Manifest) -> Iterator[Fault]:
    files = {artifact.path: artifact.sha256 for artifact in manifest.artifacts}
    for index, target in enumerate(manifest.targets):
        actual = target.digest(files)
        if actual != target.target_digest:
            field = f"targets[{index}].target_digest"
            yield Fault("E_MANIFEST_TARGET_DIGEST", field, actual, target.target_digest)
    yield from _level_digest_faults(manifest, files)
    actual = content_digest(manifest)
    if actual != manifest.content_digest:
        claimed = manifest.content_digest
        yield Fault("E_MANIFEST_CONTENT_DIGEST", "content_digest", actual, claimed)


def _level_digest_faults(manifest: Manifest, files: dict[str, str]) -> Iterator[Fault]:
    """See that each level's target is the chosen one in all but its level.

    A device's is another module at each level: those that do not ship are known by their evidence.
    """
    chosen = {level.target_digest for level in manifest.levels if level.chosen}
    ships = [target for target in manifest.targets if target.target_digest in chosen]
    if ships and ships[0].device != "cpu":
        return
    for index, level in enumerate(manifest.levels):
        candidate = ships[0].model_copy(update={"optim_level": level.optim_level})
        actual = candidate.digest(files)
        if actual != level.target_digest:
            field = f"levels[{index}].target_digest"
            yield Fault("E_MANIFEST_TARGET_DIGEST", field, actual, level.target_digest)
