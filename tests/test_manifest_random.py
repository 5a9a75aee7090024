"""Whatever stands in a manifest, it is read as every JSON parser reads it, or refused."""

from __future__ import annotations

import json
from typing import Any, Union

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.manifests import paths, put, whole_document
from vitaie.manifests import digests
from vitaie.manifests.errors import ManifestError
from vitaie.manifests.manifest import Manifest
from vitaie.manifests.strict_json import MAX_INT, parse_object

PATHS = paths(whole_document())


def parse(data: bytes) -> dict[str, Any]:
    return parse_object(data, where="manifest.json", limit=2**20)


def read_or_code(data: bytes) -> Union[dict[str, Any], str]:
    try:
        return parse(data)
    except ManifestError as error:
        return error.code


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)


def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)


VALUES = st.recursive(SCALARS, nest, max_leaves=12)


@settings(deadline=None, database=None)
@given(st.dictionaries(TEXT, VALUES), st.booleans(), st.sampled_from([None, 0, 1, "\t"]))
def test_what_json_writes_is_read_back_equal(
    document: dict[str, Any], ascii_only: bool, indent: Any
) -> None:
    data = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode("utf-8")
    assert parse(data) == document
    assert repr(parse(data)) == repr(document)


@settings(deadline=None, database=None)
@given(st.binary() | st.text(st.sampled_from('{}[]":,\\ue1-.0aNI \n'), max_size=40).map(str.encode))
def test_random_bytes_are_read_as_by_the_standard_parser_or_refused(data: bytes) -> None:
    outcome = read_or_code(data)
    if isinstance(outcome, str):
        assert outcome.startswith("E_MANIFEST_")
    else:
        assert outcome == json.loads(data)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def judgement(data: bytes) -> str:
    """Return the line that ``data`` is refused with, empty when it is read."""
    try:
        Manifest.from_bytes(data)
    except ManifestError as error:
        return str(error)
    return ""


@settings(deadline=None, database=None)
@given(st.sampled_from(PATHS), JSON_VALUES)
def test_any_value_anywhere_is_accepted_or_a_manifest_error(path: str, value: Any) -> None:
    data = json.dumps(put(whole_document(), path, value)).encode("utf-8")
    if path != "manifest_digest":  # all else is judged once the digest is right
        data = digests.with_manifest_digest(data)
    line = judgement(data)
    assert line == "" or (line.startswith("E_MANIFEST_") and line.isprintable())
