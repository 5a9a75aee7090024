"""Copies of a bundle to spoil: with digests left wrong, or made right so that a later check fails.

``reseal`` writes the manifest anew for whatever files are there: what is wrong with a resealed
bundle is wrong although every digest holds, as it would be in one that somebody made on purpose.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import seal
from vitaie import runtime
from vitaie.manifests import digests
from vitaie.manifests.errors import VitaieError

Document = dict[str, Any]


def copy_bundle(bundle: Path, folder: Path) -> Path:
    """Copy a version's folder to ``folder``, which must not exist."""
    shutil.copytree(bundle, folder)
    return folder


def document(bundle: Path) -> Document:
    """Return the manifest as plain JSON values."""
    loaded: Document = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return loaded


def reseal(bundle: Path, change: Callable[[Document], object] | None = None) -> None:
    """Write manifest.json anew: files as they are now, then ``change``, then every digest right."""
    whole = document(bundle)
    for row in whole["artifacts"]:
        data = (bundle / row["path"]).read_bytes()
        row["size"], row["sha256"] = len(data), digests.sha256(data)
        starts = range(0, len(data), digests.CHUNK_SIZE)
        chunks = [digests.sha256(data[start : start + digests.CHUNK_SIZE]) for start in starts]
        row["chunks"] = chunks if len(data) > digests.CHUNKED_ABOVE else []
    if change is not None:
        change(whole)
    (bundle / "manifest.json").write_bytes(seal(whole))


def put(bundle: Path, path: str, data: bytes) -> None:
    """Replace a file's bytes and make every digest right again."""
    (bundle / path).write_bytes(data)
    reseal(bundle)


def refused(bundle: Path, code: str, *, target: str = "cpu") -> VitaieError:
    """Assert that the bundle does not load, for this reason, which is the bundle's fault."""
    with pytest.raises(VitaieError) as caught:
        runtime.load(bundle, target=target)
    assert caught.value.code == code, caught.value
    assert caught.value.exit_code == 1
    assert str(caught.value).isprintable()
    return caught.value


def flips(path: Path, chance: random.Random, count: int) -> Generator[None, None, None]:
    """Flip a random bit of the file, yield, flip it back; again and again."""
    size = path.stat().st_size
    with open(path, "r+b", buffering=0) as file:
        for _ in range(count):
            place, bit = chance.randrange(size), 1 << chance.randrange(8)
            byte = os.pread(file.fileno(), 1, place)[0]
            os.pwrite(file.fileno(), bytes([byte ^ bit]), place)
            yield
            os.pwrite(file.fileno(), bytes([byte]), place)
