"""A staged bundle's files as its manifest lists them: size, digest, chunks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitaie.manifests.digests import CHUNK_SIZE, CHUNKED_ABOVE, sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray


def artifacts(folder: Path, roles: dict[str, str]) -> list[dict[str, Any]]:
    """Return the manifest's entries of the staged files, each read and hashed once."""
    return [_artifact(folder, path, roles[path]) for path in sorted(roles)]


def _artifact(folder: Path, path: str, role: str) -> dict[str, Any]:
    """Hash one file, the chunks beside the whole: hashing lets go of the interpreter."""
    data: NDArray[np.uint8] = np.memmap(folder / path, np.uint8, "r")
    chunked = len(data) > CHUNKED_ABOVE
    starts = range(0, len(data), CHUNK_SIZE) if chunked else ()
    with ThreadPoolExecutor() as pool:
        whole = pool.submit(sha256, data.data)
        chunks = [pool.submit(sha256, data.data[start : start + CHUNK_SIZE]) for start in starts]
        return {
            "path": path,
            "role": role,
            "size": len(data),
            "sha256": whole.result(),
            "chunks": [chunk.result() for chunk in chunks],
        }
