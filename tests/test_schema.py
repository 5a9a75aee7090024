"""The committed schema, the page on the format, and the models say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.code_table import PAGE, with_code_table
from tests.support.manifests import paths, whole_document
from vitaie.manifests import digests, schema
from vitaie.manifests.strict_json import parse_object

TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(schema.MODELS))
def test_committed_schema_is_made_from_the_model(name: str) -> None:
    committed = (schema.FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert committed == schema.schema_text(name), "run python -m vitaie.manifests.schema"


def test_every_committed_schema_has_its_model() -> None:
    assert {path.stem for path in schema.FOLDER.iterdir()} == set(schema.MODELS)


def test_schemas_are_written_into_the_folder_given(tmp_path: Path) -> None:
    schema.main([str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == set(schema.MODELS)


def test_the_schema_forbids_fields_that_the_format_has_not() -> None:
    text = schema.schema_text("manifest").encode("utf-8")
    document: Any = parse_object(text, where="schema", limit=2**20)
    objects = [document, *document["$defs"].values()]
    assert len(objects) > 20
    assert all(each["additionalProperties"] is False for each in objects)
    assert all(set(each["required"]) == set(each["properties"]) for each in objects)


def test_the_page_names_every_field() -> None:
    fields = {name for path in paths(named()) for name in re.findall(r"[a-z]\w*", path)}
    assert len(fields) > 90
    assert fields - set(re.findall(r"[a-z]\w*", TEXT)) == set()


def named() -> Any:
    """Return a manifest without the keys that are the writer's own."""
    document = whole_document()
    document["toolchain"]["packages"] = {}
    for target in document["targets"]:
        target["options"], target["toolchain"] = {}, {}
    return document


def test_the_page_lists_the_codes_and_sentences_of_the_one_list() -> None:
    assert with_code_table(TEXT) == TEXT, "run python -m tests.support.code_table"


def test_the_example_on_the_page_has_the_digest_on_the_page() -> None:
    text = digests.canonical({"b": [1, 0.5, True, None], "a": "é\n"})
    assert f"\n    {text.decode('utf-8')}\n" in TEXT
    assert f"whose sha256 is `{digests.sha256(text)}`" in TEXT
