"""The vectors are the law that every reader of a manifest obeys, this one first."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.make_vectors import VECTORS, vectors
from vitaie.manifests.errors import ManifestError, error_codes
from vitaie.manifests.manifest import Manifest

COUNT = 404
FOLDERS = sorted(VECTORS.iterdir())
BEFORE_THE_BYTES = {"E_MANIFEST_MISSING"}  # there is no manifest to put into a vector


def expected(folder: Path) -> Any:
    return json.loads((folder / "expected.json").read_bytes())


def verdict(data: bytes) -> dict[str, Any]:
    try:
        Manifest.from_bytes(data)
    except ManifestError as error:
        return {"ok": False, "code": error.code, "field": error.field}
    return {"ok": True}


def test_no_vector_is_lost() -> None:
    assert len(FOLDERS) == COUNT
    assert [folder.name[:3] for folder in FOLDERS] == [f"{n:03}" for n in range(1, COUNT + 1)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_vector_is_judged_as_expected(folder: Path) -> None:
    assert verdict((folder / "manifest.json").read_bytes()) == expected(folder)


def test_a_refusal_is_in_no_words_of_pydantics() -> None:
    """Its words change with its releases; ours are what C++ may say too."""
    words = re.compile("input|should|valid|greater|less than|pattern")
    for folder in FOLDERS:
        if not expected(folder)["ok"]:
            with pytest.raises(ManifestError) as caught:
                Manifest.from_bytes((folder / "manifest.json").read_bytes())
            assert not words.search(caught.value.expected or ""), folder.name


def test_folder_names_say_the_verdict() -> None:
    for folder in FOLDERS:
        assert folder.name.endswith("-ok" if expected(folder)["ok"] else "-fail")


def test_every_code_of_a_manifest_has_a_vector() -> None:
    held = {expected(folder).get("code") for folder in FOLDERS} - {None}
    wanted = {code for code in error_codes() if code.startswith("E_MANIFEST_")}
    assert held == wanted - BEFORE_THE_BYTES


def test_vectors_are_what_the_script_makes() -> None:
    made = {
        f"{folder}/{name}": data
        for folder, vector in vectors()
        for name, data in (("manifest.json", vector.data), ("expected.json", vector.expected))
    }
    committed = {
        f"{folder.name}/{file.name}": file.read_bytes()
        for folder in FOLDERS
        for file in folder.iterdir()
    }
    assert made.keys() == committed.keys()
    assert [name for name in made if made[name] != committed[name]] == []
