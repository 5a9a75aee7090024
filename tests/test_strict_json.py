"""JSON that two parsers could read in two ways is refused, with the place of the fault."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from vitaie.manifests.errors import ManifestError
from vitaie.manifests.strict_json import MAX_INT, parse_object

LIMIT = 2**20


def parse(data: bytes) -> dict[str, Any]:
    return parse_object(data, where="manifest.json", limit=LIMIT)


def refusal(data: bytes) -> tuple[str, str]:
    """Return the code and field that ``data`` is refused with."""
    with pytest.raises(ManifestError) as caught:
        parse(data)
    assert "\n" not in str(caught.value)
    return caught.value.code, caught.value.field


@pytest.mark.parametrize("data", [b"", b" \n", b"{", b"{}x", b"{} {}", b"{}\0", b"{/**/}", b"{,}"])
def test_anything_but_one_json_value_is_refused(data: bytes) -> None:
    assert refusal(data) == ("E_MANIFEST_JSON", "")


@pytest.mark.parametrize("data", [b"[]", b'"a"', b"1", b"null", b"true"])
def test_a_value_that_is_no_object_is_refused(data: bytes) -> None:
    assert refusal(data) == ("E_MANIFEST_NOT_OBJECT", "")


@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbf{}", b'{"a": "\xff"}', "{}".encode("utf-16"), b'{"a": "\xed\xa0\x80"}']
)
def test_anything_but_utf_8_without_a_mark_is_refused(data: bytes) -> None:
    assert refusal(data) == ("E_MANIFEST_ENCODING", "")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"a": 1, "a": 1}', "a"),
        ('{"a": 1, "\\u0061": 2}', "a"),
        ('{"model": {"width": 1, "depth": 2, "width": 3}}', "model.width"),
        ('{"artifacts": [{}, {}, {"size": 1, "size": 1}]}', "artifacts[2].size"),
        ('{"a": [[1], [2, {"b": {"c": 0, "c": 0}}]]}', "a[1][1].b.c"),
    ],
)
def test_a_duplicate_key_is_named_by_its_path(text: str, field: str) -> None:
    assert refusal(text.encode()) == ("E_MANIFEST_DUPLICATE_KEY", field)


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", str(2**53), str(-(2**53)), "1" * 5000],
)
def test_a_number_that_no_double_holds_is_named_by_its_path(number: str) -> None:
    data = f'{{"artifacts": [{{"size": 1}}, {{"size": {number}}}]}}'.encode()
    assert refusal(data) == ("E_MANIFEST_NUMBER", "artifacts[1].size")


@pytest.mark.parametrize("number", [MAX_INT, -MAX_INT, 0])
def test_integers_up_to_2_53_are_read(number: int) -> None:
    assert parse(b'{"a": %d}' % number) == {"a": number}


def test_an_integer_of_a_million_digits_is_refused_without_being_computed() -> None:
    data = b'{"a": ' + b"9" * 10**6 + b"}"
    assert refusal(data) == ("E_MANIFEST_NUMBER", "a")


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800", "\\udfff", "\\ude00\\ud83d", "\\ud83d x"])
def test_nul_and_lone_surrogates_are_refused(text: str) -> None:
    assert refusal(f'{{"a": {{"b": "x{text}"}}}}'.encode()) == ("E_MANIFEST_STRING", "a.b")
    assert refusal(f'{{"a": {{"x{text}": 1}}}}'.encode()) == ("E_MANIFEST_STRING", "a")


def test_an_escaped_pair_of_surrogates_is_one_character() -> None:
    assert parse(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize("start", [b"[", b'{"a":', b'[{"a":'])
def test_nesting_of_100000_levels_is_refused_before_it_is_parsed(start: bytes) -> None:
    assert refusal(start * 10**5) == ("E_MANIFEST_DEPTH", "")


def test_16_levels_are_read_and_17_refused() -> None:
    assert parse(b'{"a":' + b"[" * 15 + b"]" * 15 + b"}")
    assert refusal(b'{"a":' + b"[" * 16 + b"]" * 16 + b"}") == ("E_MANIFEST_DEPTH", "")


@pytest.mark.parametrize("text", ["[" * 99, '\\"' + "{" * 99, "\\\\", '\\\\\\"' + "[" * 99])
def test_brackets_inside_strings_are_no_nesting(text: str) -> None:
    assert parse(f'{{"a": "{text}", "{text}": 1}}'.encode())


def test_a_path_is_made_for_a_fault_alone() -> None:
    """One as long as the key for each of the zeros would be 8 TB: more than a minute."""
    data = b'{"%s": [%s]}' % (b"k" * 4_000_000, b",".join([b"0"] * 2_000_000))
    program = (
        "import resource, sys; from vitaie.manifests.strict_json import parse_object;"
        "resource.setrlimit(resource.RLIMIT_CPU, (30, 30));"
        "parse_object(sys.stdin.buffer.read(), where='', limit=2**23)"
    )
    assert subprocess.run([sys.executable, "-c", program], input=data, check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"": NaN}', ""),
        ('{"": {"a": NaN}}', "a"),
        ('{"": [NaN]}', "[0]"),
        ('{"a": {"": NaN}}', "a."),
        ('{"a": [0, [1, NaN]]}', "a[1][1]"),
        ("[NaN]", "[0]"),
        ('[{"a": NaN}]', "[0].a"),
        ("NaN", ""),
    ],
)
def test_a_path_has_a_part_for_each_level(text: str, field: str) -> None:
    assert refusal(text.encode()) == ("E_MANIFEST_NUMBER", field)


def test_the_size_is_judged_before_anything_else() -> None:
    assert parse(b"{}" + b" " * (LIMIT - 2)) == {}
    assert refusal(b"{}" + b" " * (LIMIT - 1)) == ("E_MANIFEST_TOO_LARGE", "")
    assert refusal(b"[" * (LIMIT + 1)) == ("E_MANIFEST_TOO_LARGE", "")


def test_the_number_of_values_is_judged_outside_of_strings() -> None:
    most = {"commas": 2, "colons": 3, "braces": 3, "brackets": 4}

    def judged(text: bytes) -> str:
        try:
            parse_object(text, where="x", limit=LIMIT, most=most)
        except ManifestError as error:
            return f"{error.code} {error.expected}"
        return "ok"

    assert judged(rb'{"a": [1, 2], "b": ",,,,\",,:::[[[{{{"}') == "ok"
    assert judged(b'{"a": [1, 2, 3], "b": 1}') == "E_MANIFEST_TOO_LARGE at most 2 commas"
    assert judged(b'{"a": {"b": {"c": ":"}}}') == "ok"
    assert judged(b'{"a":1,"b":1,"c":{"d":1}}') == "E_MANIFEST_TOO_LARGE at most 3 colons"
    assert judged(b"[{},{},{{}}") == "E_MANIFEST_TOO_LARGE at most 3 braces"
    assert judged(b"[[[[[") == "E_MANIFEST_TOO_LARGE at most 4 brackets"
    assert judged(b"[" * 17 + b",,,").startswith("E_MANIFEST_DEPTH")
    assert judged(b'{"a": [1, 2').startswith("E_MANIFEST_JSON")


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("9007199254740991", True),
        ("-9007199254740991", True),
        ("9007199254740992", False),
        ("8999999999999999", True),
        ("9100000000000000", False),
        (r'"\ud83d\ude00"', True),
        (r'"\ud83d"', False),
        (r'"\ude00"', False),
        (r'"\ud83d\ud83d\ude00"', False),
    ],
)
def test_a_large_text_is_read_without_a_walk_and_refused_without_a_place(
    text: str, ok: bool
) -> None:
    filler = "0," * (2**21 + 1)
    data = ('{"a": [' + filler + text + "]}").encode()
    if ok:
        found = parse_object(data, where="x", limit=2**26)
        assert found["a"][-1] == json.loads(text)
        return
    with pytest.raises(ManifestError) as caught:
        parse_object(data, where="x", limit=2**26)
    assert (caught.value.code, caught.value.field) == ("E_MANIFEST_JSON", "")


def test_the_error_is_one_line_with_place_and_what_was_there() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_object(b'{"a": [1e999]}', where="bundles/x/manifest.json", limit=LIMIT)
    assert str(caught.value) == (
        "E_MANIFEST_NUMBER: bundles/x/manifest.json: a[0]: a number is not finite, or an integer "
        "is outside +-(2^53 - 1) (got 1e999)."
    )


def test_reading_json_needs_no_pydantic() -> None:
    program = (
        "import sys, vitaie.manifests.strict_json, vitaie.manifests.digests;"
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "IMG 20260101123456789.png",
        "a:99999999999999999, [12345678901234567",
        "a literal \\u0000, \\ud83d and \\\\u0000",
        "\U0001f600 beside \\\U0001f600",
    ],
)
def test_what_a_string_says_is_no_fault_of_a_large_text(text: str) -> None:
    rows = {"path": [text] * 2**18}
    data = json.dumps(rows).encode("ascii")
    assert len(data) > 2**22
    assert parse_object(data, where="r", limit=2**28) == rows


@pytest.mark.parametrize(
    "fault",
    [
        b'"\\u0000"',
        b'"\\\\\\u0000"',
        b'"\\ud83d\\\\\\ude00"',
        b'"\\ud83d\\"\\ude00"',
        b"12345678901234567",
    ],
)
def test_a_fault_in_a_large_text_is_found(fault: bytes) -> None:
    data = b'{"path":[' + b'"a name of some length",' * 2**18 + fault + b"]}"
    with pytest.raises(ManifestError) as caught:
        parse_object(data, where="r", limit=2**28)
    assert caught.value.code == "E_MANIFEST_JSON"
