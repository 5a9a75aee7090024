"""A few small files that stand for a bundle: a store does not look inside."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FILES = {
    "manifest.json": b'{"format": "vitaie-bundle"}\n',
    "model.ts": bytes(range(256)) * 40,
    "golden/00.npy": b"\x93NUMPY",
    "golden/deep/er.bin": b"",
}


def fill(folder: Path) -> None:
    """Write the files into an empty folder, with modes that a build may have left."""
    for path, data in FILES.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(0o600)


def listing(folder: Path) -> dict[str, object]:
    """Return all that is in a folder: files with mode and bytes, folders with mode, links."""
    found: dict[str, object] = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(parent, name)
            status = path.lstat()
            key = str(path.relative_to(folder))
            if stat.S_ISREG(status.st_mode):
                found[key] = (oct(status.st_mode), path.read_bytes())
            elif stat.S_ISLNK(status.st_mode):
                found[key] = os.readlink(path)
            else:
                found[key] = oct(status.st_mode)
    return found


def whole() -> dict[str, object]:
    """Return the listing that a published version has."""
    found: dict[str, object] = {path: (oct(0o100644), data) for path, data in FILES.items()}
    return {**found, "golden": oct(0o040755), "golden/deep": oct(0o040755)}


def check_store(store: Path, name: str, published: list[str]) -> None:
    """Assert that the name holds these versions, each of them whole, and nothing else."""
    home = store / name
    assert sorted(os.listdir(home)) == sorted(published)
    for version in published:
        assert listing(home / version) == whole()
        assert oct((home / version).stat().st_mode) == oct(0o040755)
