"""Makes ``manifests/vectors/``: manifests, one fault each, that every reader must judge alike.

    python -m tests.support.make_vectors

A vector is a folder: ``manifest.json``, the bytes to judge, and ``expected.json``, the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.support.vector_cases import CASES, Vector

VECTORS = Path(__file__).parents[2] / "manifests" / "vectors"


def vectors() -> Iterator[tuple[str, Vector]]:
    """Yield every vector with its folder's name."""
    for number, vector in enumerate((vector for group in CASES for vector in group()), 1):
        yield f"{number:03}-{vector.name}-{'fail' if vector.code else 'ok'}", vector


def main() -> None:
    """Write every vector, over what is there."""
    for folder, vector in vectors():
        (VECTORS / folder).mkdir(parents=True, exist_ok=True)
        (VECTORS / folder / "manifest.json").write_bytes(vector.data)
        (VECTORS / folder / "expected.json").write_bytes(vector.expected)


if __name__ == "__main__":
    main()
