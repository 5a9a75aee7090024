"""The shape of the project itself: what a careless commit would break without a word."""

from __future__ import annotations

import json
import re
from pathlib import Path

from vitaie.manifests.errors import VitaieError, error_codes

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = tuple(ROOT / part / "vitaie" for part in ("builder", "runtime", "manifests"))


def sources() -> str:
    return "\n".join(
        path.read_text(encoding="utf-8") for package in PACKAGES for path in package.rglob("*.py")
    )


def test_the_namespace_has_no_init_file() -> None:
    assert all(package.is_dir() for package in PACKAGES)
    assert [package for package in PACKAGES if (package / "__init__.py").exists()] == []


def test_every_error_code_in_the_list_is_used_and_every_used_one_is_listed() -> None:
    used = set(re.findall(r"\bE_[A-Z][A-Z_]+\b", sources()))
    listed = set(error_codes())
    assert used - listed == set()
    assert listed - used == set()


def test_error_codes_are_sorted_into_the_exit_codes_of_the_contract() -> None:
    assert {code.exit_code for code in error_codes().values()} == {1, 2, 4, 5, 6, 130}
    for name, code in error_codes().items():
        assert not code.sentence.endswith("."), name
        assert code.sentence[0].islower() or code.sentence.startswith(("ONNX", "SOURCE")), name


def test_an_error_is_one_line_whatever_it_names() -> None:
    error = VitaieError(
        "E_DISK", "a\nb\x1b[31m", field="c\r", expected="d\t", got="\u202e", hint="e"
    )
    assert str(error).isprintable()


def test_error_codes_are_written_once() -> None:
    text = (PACKAGES[2] / "manifests" / "error_codes.json").read_text(encoding="utf-8")
    pairs: list[str] = []
    json.loads(text, object_pairs_hook=lambda items: pairs.extend(key for key, _ in items))
    codes = [key for key in pairs if key.startswith("E_")]
    assert len(codes) == len(set(codes)) == len(error_codes())
