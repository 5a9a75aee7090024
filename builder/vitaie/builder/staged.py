"""A staged bundle and the records of measurements that are put into it, each with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitaie.builder.files import artifacts
from vitaie.manifests.manifest import Manifest
from vitaie.runtime._bundle import MANIFEST_NAME
from vitaie.runtime._evidence import FOLDER, Evidence, record_of


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
