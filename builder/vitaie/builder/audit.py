"""An audit of a whole store: every number that any version publishes, and no model run.

Bundles are opened one after another; one that does not open is a finding like any other, so that
the rest is still audited.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vitaie.manifests.errors import BundleError, printable
from vitaie.runtime._audit import Finding, Kept, Scalar, audit
from vitaie.runtime._bundle import MANIFEST_NAME, open_bundle, parse_version

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for a formula at the start of a cell; in East Asia full-width too."""

_WHAT_TO_GIVE = "Give a store, such as bundles, a folder of versions, or one version."


class Row(NamedTuple):
    """One finding, and the version's folder and number that it is of; "" when it does not open."""

    folder: Path
    version: str
    finding: Finding


def versions_below(path: Path) -> list[Path]:
    """Return the folders of a store's versions, of a name's, or the one version that it is.

    By name, and of a name the newest last.

    Raises:
        BundleError: ``E_BUNDLE_NOT_FOUND``, there is none.
    """
    if os.path.lexists(path / MANIFEST_NAME):
        return [path]
    found = _versions_in(path)
    for name in [] if found else _folders_in(path):
        found += _versions_in(path / name)
    if not found:
        raise BundleError("E_BUNDLE_NOT_FOUND", path, hint=_WHAT_TO_GIVE)
    return found


def _versions_in(folder: Path) -> list[Path]:
    found = {name: parse_version(name) for name in _folders_in(folder)}
    versions = {number: name for name, number in found.items() if number is not None}
    return [folder / versions[number] for number in sorted(versions)]


def _folders_in(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            folders = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        got = error.strerror if isinstance(error, OSError) else error
        raise BundleError("E_BUNDLE_NOT_FOUND", folder, got=got, hint=_WHAT_TO_GIVE) from None
    return sorted(name for name in folders if not name.startswith("."))


def audit_versions(folders: Sequence[Path], progress: Callable[[str], None]) -> Iterator[Row]:
    """Yield the findings on each version.

    Args:
        folders: The versions.
        progress: Called with each one's folder as it starts.
    """
    kept: Kept = {}
    for folder in folders:
        progress(printable(folder))
        version, findings = "", list[Finding]()
        try:
            with open_bundle(folder) as bundle:
                version = bundle.manifest.version
                findings += audit(bundle, kept)
        except BundleError as error:
            findings = [Finding("bundle", None, None, "does not follow", str(error))]
        for finding in findings:
            yield Row(folder, version, finding)


def to_csv(rows: Sequence[Row]) -> bytes:
    """Return rows as CSV with a line of headings, safe to open in a spreadsheet."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["bundle", "version", *Finding._fields])
    for row in rows:
        writer.writerow(map(_cell, (str(row.folder), row.version, *row.finding)))
    return stream.getvalue().encode("utf-8")


def _cell(value: Scalar) -> str:
    if isinstance(value, str):
        text = printable(value, 2000)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return "" if value is None else str(value)


def describe(row: Row) -> str:
    """Return a finding as a line for people."""
    finding = row.finding
    told = f"{finding.status:<16}{printable(row.folder)} {finding.claim}"
    if finding.status == "does not follow" and finding.recomputed is not None:
        told += f": {finding.published}, but {finding.recomputed} follows from {finding.why}"
    elif finding.status == "follows":
        told += f": {finding.published}"
    else:
        told += f": {finding.why}"
    return printable(told, 1000)
