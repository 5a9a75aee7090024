"""Putting measurements that were taken elsewhere into a bundle: a new version with them.

The version before is not touched. What is new in the manifest follows from the records alone,
and each becomes a file of the bundle, so that anyone can compute it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vitaie.builder.staged import (
    check_newest,
    check_verdict,
    store_of,
    with_records,
    write_records,
)
from vitaie.builder.store import copy_tree, publication
from vitaie.manifests.errors import StoreError
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._claim import silent
from vitaie.runtime._evidence import Evidence, check_subject, read_evidence
from vitaie.runtime._verify import Verdict, verify

if TYPE_CHECKING:
    from vitaie.manifests.contents import PerformanceRecord
    from vitaie.manifests.manifest import Manifest

STEPS = ("records", "bundle", "copy", "verify", "publish")


class Attached(NamedTuple):
    """The version that was published, and what is new in it.

    Attributes:
        path: Its folder.
        evidence: The paths in it of the new evidence.
        invalid: The new records of speed that no gate accepts; they are kept, and said to be so.
        verdict: What ``verify`` says of it.
    """

    path: Path
    evidence: tuple[str, ...]
    invalid: tuple[PerformanceRecord, ...]
    verdict: Verdict


def attach(
    bundle: str | os.PathLike[str],
    records: Sequence[Path],
    *,
    progress: Callable[[str], None] | None = None,
) -> Attached:
    """Publish the bundle's next patch version, with records of measurements of it.

    Args:
        bundle: The newest version in a store, or the folder of its versions.
        records: What ``vitaie eval -o`` and ``vitaie bench -o`` wrote.
        progress: Called with each of ``STEPS`` as it starts.

    Raises:
        InputError: ``E_RECORD``, a record is none or contradicts itself; ``E_RECORD_OTHER``, it is
            of another bundle, target or preprocessing; ``E_STORE_PATH``, the bundle lies in no
            store.
        BundleError: The bundle does not open, or is false.
        StoreError: ``E_RECORD_TWICE``, the bundle has the record already; ``E_STORE_NEWER``, there
            is a newer version; ``E_STORE_LOCKED``, another process makes one.
        DiskError: The disk refused. In every case the store is as it was.
    """
    say = progress or silent
    say("records")
    found = [(file, read_evidence(file)) for file in records]
    say("bundle")
    with open_bundle(bundle) as opened:
        folder, manifest = opened.folder.resolve(), opened.manifest
        opened.check()
    _check_records(manifest, found)
    store = store_of(folder, manifest)
    with publication(store, manifest.name) as draft:
        check_newest(store, manifest, "Attach to")
        say("copy")
        copy_tree(folder, draft.folder)
        evidence = [each for _, each in found]
        fields = {**with_records(manifest, evidence), "version": draft.version}
        written = write_records(draft.folder, fields, evidence)
        say("verify")
        verdict = verify(draft.folder)
        check_verdict(verdict)
        say("publish")
        paths = tuple(each.path for each in evidence)
        invalid = tuple(
            record
            for record in written.performance
            if record.latencies in paths and record.verdict == "INVALID"
        )
        return Attached(draft.publish(), paths, invalid, verdict)


def _check_records(manifest: Manifest, found: Sequence[tuple[Path, Evidence]]) -> None:
    known = {artifact.path for artifact in manifest.artifacts}
    new: set[str] = set()
    for file, evidence in found:
        check_subject(manifest, evidence.measurement, file)
        if evidence.path in known | new:
            where = manifest.version if evidence.path in known else "what was named before"
            hint = f"Leave it out: {where} holds it."
            raise StoreError("E_RECORD_TWICE", file, got=evidence.path, hint=hint)
        new.add(evidence.path)
