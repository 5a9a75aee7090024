"""JSON, read strictly: what two parsers could read in two ways is refused, with its place.

A manifest is read by more than one language. Duplicate keys, NaN, integers that a double cannot
hold and half characters are where parsers differ, so none of them gets as far as a field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, Union, cast

from vitaie.manifests.errors import ManifestError

MAX_DEPTH = 16
"""Objects and arrays inside each other, the outermost one counted."""

MAX_INT = 2**53 - 1
"""The largest integer that every language's double holds exactly, and its neighbours too."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BAD_CHARACTER = re.compile("[\x00\ud800-\udfff]")
_LARGER = "|".join(
    f"{str(MAX_INT)[:place]}[{int(digit) + 1}-9]" + f"[0-9]{{{len(str(MAX_INT)) - 1 - place}}}"
    for place, digit in enumerate(str(MAX_INT))
    if digit != "9"
)
_HALF = (
    r"[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F]"
)
_LARGE_NUMBER = re.compile(rf"[:,\[\s]-?([0-9]{{17}}|{_LARGER})".encode())
"""What outside of strings may be too large an integer."""

_BAD_ESCAPE = re.compile(rf"\\u(0000|{_HALF})")
"""What, once no backslash stands for itself, is NUL or half a character."""

_MAX_WALKED = 2**22
"""Bytes of a text in which the place of a fault is looked for: its walk takes 40 times as many."""

SIGNS = {"commas": (b",",), "colons": (b":",), "braces": (b"{",), "brackets": (b"[", b"{")}
"""What is counted outside of strings, by name."""


class _Pairs(list[tuple[str, Any]]):
    """An object as it stands in the text, before its keys are known to differ."""


class _BadNumber(NamedTuple):
    """A number that a manifest cannot hold, kept until its place is known."""

    text: str


def parse_object(
    data: bytes,
    *,
    where: str,
    limit: int,
    most: Optional[Mapping[str, int]] = None,
) -> dict[str, Any]:
    """Return the JSON object in ``data``, in time linear in its length.

    Steps, in this order: size, encoding, depth, number of values, syntax, then keys, numbers and
    strings in the order of the text, and last that the whole is an object.

    Args:
        data: The text, in UTF-8.
        where: What errors call it.
        limit: How many bytes it may have.
        most: How many of each sign there may be outside of strings, by its name in ``SIGNS``: what
            bounds the faults, each of which takes as much memory as a page of JSON.

    Raises:
        ManifestError: For more bytes or signs than that, a byte order mark, invalid
            UTF-8, more or less than one JSON value, a duplicate key, a number that is not finite
            or an integer outside ±(2^53 - 1), a NUL or a lone surrogate in a string, or nesting
            deeper than 16.
    """
    if len(data) > limit:
        raise ManifestError(
            "E_MANIFEST_TOO_LARGE", where, expected=f"at most {limit} bytes", got=len(data)
        )
    text = _decode(data, where)
    outside = _outside_strings(data)
    _check_depth(outside, where)
    for name, limit_of in (most or {}).items():
        found = sum(map(outside.count, SIGNS[name]))
        if found > limit_of:
            raise ManifestError(
                "E_MANIFEST_TOO_LARGE", where, expected=f"at most {limit_of} {name}", got=found
            )
    plain = None if _LARGE_NUMBER.search(outside) else _parse_plain(text)
    del outside
    if plain is not None:
        return plain
    if len(data) > _MAX_WALKED:
        got = "a fault whose place is not looked for in so large a text"
        raise ManifestError("E_MANIFEST_JSON", where, got=got)
    parsed = _parse(text, where)
    try:
        value = _plain(parsed)
    except _MisfitError as misfit:
        raise misfit.error(where) from None
    if not isinstance(value, dict):
        raise ManifestError("E_MANIFEST_NOT_OBJECT", where, expected="{…}", got=text)
    return cast("dict[str, Any]", value)


def _decode(data: bytes, where: str) -> str:
    if data.startswith(_BYTE_ORDER_MARK):
        raise ManifestError("E_MANIFEST_ENCODING", where, got="a byte order mark")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(
            "E_MANIFEST_ENCODING", where, got=f"{error.reason} at byte {error.start}"
        ) from None


def _outside_strings(data: bytes) -> bytes:
    """Return what of a JSON text is in no string.

    Without its escapes, it has a quote only where a string begins or ends, so every second piece
    between quotes is outside.
    """
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(unescaped.split(b'"')[::2])


def _check_depth(outside: bytes, where: str) -> None:
    """Refuse deep nesting before a recursive parser meets it."""
    depth = 0
    for bracket in outside.translate(None, _ALL_BUT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ManifestError("E_MANIFEST_DEPTH", where)


def _parse_plain(text: str) -> Optional[dict[str, Any]]:
    """Return an object in which nothing is to be refused, by the parser that is written in C.

    None for any other text, and for some that are right: they are walked, for the place of what
    is wrong. A record of 50,000 images is read in a tenth of the time.
    """
    if _BAD_ESCAPE.search(text.replace("\\\\", "__")):
        return None
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite
        )
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("the same key twice")
    return members


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_Pairs,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_BadNumber,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ManifestError("E_MANIFEST_JSON", where, got=f"{error.msg}, {place}") from None


def _integer(text: str) -> Union[int, _BadNumber]:
    """Return a JSON integer, without first making a number of a million digits."""
    if len(text) > len(str(-MAX_INT)) or abs(int(text)) > MAX_INT:
        return _BadNumber(text)
    return int(text)


def _real(text: str) -> Union[float, _BadNumber]:
    value = float(text)
    return value if math.isfinite(value) else _BadNumber(text)


class _MisfitError(Exception):
    """What no manifest holds, raised where it stands: every level above adds its part of the path.

    Only a fault pays for its path: one for each of a million elements, each as long as a key of
    half a megabyte above it, would take minutes.
    """

    def __init__(self, code: str, got: object = None) -> None:
        super().__init__(code)
        self.code = code
        self.got = got
        self.parts: list[Union[int, str]] = []
        """The innermost first."""

    def error(self, where: str) -> ManifestError:
        path = ""
        for part in reversed(self.parts):
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        return ManifestError(self.code, where, field=path, got=self.got)


def _plain(value: object) -> object:
    """Return a parsed text as dict, list, str, int, float, bool and None; refuse the rest."""
    if isinstance(value, _Pairs):
        return _object(value)
    if isinstance(value, list):
        return _array(cast("list[object]", value))
    if isinstance(value, _BadNumber):
        raise _MisfitError("E_MANIFEST_NUMBER", value.text)
    if isinstance(value, str):
        _check_string(value)
    return value


def _array(items: list[object]) -> list[object]:
    result: list[object] = []
    try:
        for item in items:
            result.append(_plain(item))
    except _MisfitError as misfit:
        misfit.parts.append(len(result))
        raise
    return result


def _object(pairs: _Pairs) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        _check_string(key)
        try:
            if key in result:
                raise _MisfitError("E_MANIFEST_DUPLICATE_KEY")
            result[key] = _plain(value)
        except _MisfitError as misfit:
            misfit.parts.append(key)
            raise
    return result


def _check_string(text: str) -> None:
    if _BAD_CHARACTER.search(text):
        raise _MisfitError("E_MANIFEST_STRING", text)
