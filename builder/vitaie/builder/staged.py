"""A next version on its way: what it goes on from, the records put into it, and its verdict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitaie.builder.files import artifacts
from vitaie.builder.store import versions
from vitaie.manifests.errors import BundleError, InputError, StoreError
from vitaie.manifests.manifest import Manifest
from vitaie.runtime._bundle import MANIFEST_NAME
from vitaie.runtime._evidence import FOLDER, Evidence, record_of

if TYPE_CHECKING:
    from vitaie.runtime._verify import Verdict

NOT_YET_AGREED: dict[str, Any] = {
    "images": 1,
    "max_abs_diff": 0.0,
    "max_rel_diff": 0.0,
    "top1_equal": 0,
    "logits_sha256": ["0" * 64],
    "threads": 1,
    "processor": "",
    "features": [],
    "packages": {},
}
"""The agreement of a target that has still to be run: the manifest that it is opened by has it."""


def store_of(folder: Path, manifest: Manifest) -> Path:
    """Return the store that a bundle's version lies in.

    Raises:
        InputError: ``E_STORE_PATH``, it lies in none.
    """
    if (folder.parent.name, folder.name) != (manifest.name, manifest.version):
        expected = f"a folder {manifest.name}/{manifest.version} in a store"
        hint = "Put a copy of it there, as it was published."
        raise InputError("E_STORE_PATH", folder, expected=expected, hint=hint)
    return folder.parent.parent


def check_newest(store: Path, manifest: Manifest, verb: str) -> None:
    """Refuse to go on from a version that is not the newest: its successor would lack things.

    Raises:
        StoreError: ``E_STORE_NEWER``; its hint begins with ``verb``.
    """
    newest = next(reversed(versions(store, manifest.name)), "none")
    if newest != manifest.version:
        place = store / manifest.name
        with suppress(OSError):
            place = Path(os.path.relpath(place))
        hint = f"{verb} the newest: {place}."
        raise StoreError("E_STORE_NEWER", place, expected=manifest.version, got=newest, hint=hint)


def check_verdict(verdict: Verdict) -> None:
    """Refuse to publish what is false, but for what the double made: the bundle says it itself.

    Raises:
        BundleError: ``E_CLAIM_FALSE``.
    """
    excused = {f"goldens in {item.id}" for item in verdict.manifest.targets if item.by_double}
    for claim in verdict.claims:
        if claim.status == "false" and claim.claim not in excused:
            raise BundleError("E_CLAIM_FALSE", claim.claim, got=claim.detail)


def with_records(manifest: Manifest, evidence: Sequence[Evidence]) -> dict[str, Any]:
    """Return the fields of a manifest with more records, their files still to be listed."""
    fields = manifest.model_dump(mode="json")
    for each in evidence:
        fields[each.kind].append(record_of(manifest, each.measurement, each.path))
    return fields


def write_records(folder: Path, fields: dict[str, Any], evidence: Sequence[Evidence]) -> Manifest:
    """Write evidence into a staged bundle, and the manifest that lists it; return that."""
    if evidence:
        (folder / FOLDER).mkdir(exist_ok=True)
    for each in evidence:
        (folder / each.path).write_bytes(each.data)
    written = artifacts(folder, {each.path: "measurement" for each in evidence})
    manifest = Manifest.create({**fields, "artifacts": fields["artifacts"] + written})
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    return manifest
