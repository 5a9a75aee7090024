"""The kinds of field a manifest or a card has, and what each way of being wrong is called.

pydantic judges the types. Its own words for what is wrong change with its releases and speak of
Python, so they are translated here: into the codes that the C++ reader gives too, and into words
that are ours.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from vitaie.manifests.devices import MAX_BATCH, MAX_THREADS
from vitaie.manifests.errors import ManifestError
from vitaie.manifests.strict_json import MAX_INT

_PATH_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PATH = f"^{_PATH_PART}(/{_PATH_PART})*$"
_SHA256 = r"^[0-9a-f]{64}$"
_NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
_VERSION = r"^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}$"
_DAY = (
    r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
)
_DATE = rf"^{_DAY}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$"
_LINE = r"^[^\x00-\x1f]*$"

_TAIL = r"\.(0|[0-9]{0,5}[1-9])"  # six decimals at most, none of them idle
_REQUIREMENT = (
    rf"^(top[15]>=(100\.0|(0|[1-9][0-9]?){_TAIL})"
    rf"|top1_drop<=(0\.[0-9]{{0,5}}[1-9]|[1-9][0-9]?{_TAIL})"
    rf"|(agreement|placement)>=(1\.0|0{_TAIL})"
    rf"|(fps>=|latency_p(50|90|95|99|99\.9)_ms<=)(0|[1-9][0-9]{{0,8}}){_TAIL})$"
)


def _check_path(path: str) -> str:
    if len(path) > 255 or not re.fullmatch(_PATH, path):
        raise PydanticCustomError(
            "E_MANIFEST_PATH",
            "letters, digits and _.-/ in at most 255 characters, no part of it empty or beginning "
            "with a dot or a hyphen",
        )
    return path


def _check_dimension(value: object) -> object:
    """Judge a dimension before the union does, whose errors name its members, not the field."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise PydanticCustomError("E_MANIFEST_TYPE", "'batch' or an integer")
    if value != "batch" and (isinstance(value, str) or not 1 <= value <= MAX_INT):
        raise PydanticCustomError("E_MANIFEST_VALUE", "'batch' or at least 1")
    return value


def _check_option(value: object) -> object:
    """Judge an option before the union does, as ``_check_dimension``."""
    if not isinstance(value, (bool, int, str)):
        raise PydanticCustomError("E_MANIFEST_TYPE", "true, false, an integer or a string")
    return value


Sha256 = Annotated[str, StringConstraints(pattern=_SHA256)]
Name = Annotated[str, StringConstraints(pattern=_NAME)]
Version = Annotated[str, StringConstraints(pattern=_VERSION)]
Date = Annotated[str, StringConstraints(pattern=_DATE)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=_LINE)]
OptionalLine = Annotated[str, StringConstraints(max_length=255, pattern=_LINE)]
BundlePath = Annotated[
    str,
    AfterValidator(_check_path),
    WithJsonSchema({"type": "string", "pattern": _PATH, "maxLength": 255}),
]
Requirement = Annotated[str, StringConstraints(pattern=_REQUIREMENT)]
"""A gate as ``gates.Gate`` writes it: one text for one requirement."""
Text = Annotated[str, StringConstraints(max_length=4096)]
LongText = Annotated[str, StringConstraints(max_length=65536)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]
Threads = Annotated[int, Field(ge=1, le=MAX_THREADS)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Percent = Annotated[float, Field(ge=0, le=100)]
Mean = Annotated[float, Field(ge=-1000, le=1000)]
Deviation = Annotated[float, Field(ge=1e-6, le=1000)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Bound = Annotated[float, Field(gt=0, le=1)]
Measure = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, le=1e6)]
Dimension = Annotated[Union[Literal["batch"], Positive], BeforeValidator(_check_dimension)]
Option = Annotated[Union[bool, int, str], BeforeValidator(_check_option)]


_Element = TypeVar("_Element")
Column = Annotated[tuple[_Element, ...], Field(fail_fast=True)]
"""A long array of a record, of which the first fault is the one that is told of."""


class Strict(BaseModel):
    """An object with exactly its fields, each of exactly its type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Fault(NamedTuple):
    """One thing that is wrong: its code, its place, and what was there instead of what."""

    code: str
    field: str
    expected: object = None
    got: object = None

    def error(self, where: str) -> ManifestError:
        """Return the fault as the error to raise for the manifest at ``where``."""
        return ManifestError(
            self.code, where, field=self.field, expected=self.expected, got=self.got
        )


_CODES = {
    "missing": "E_MANIFEST_MISSING_FIELD",
    "extra_forbidden": "E_MANIFEST_UNKNOWN_FIELD",
    "greater_than": "E_MANIFEST_VALUE",
    "greater_than_equal": "E_MANIFEST_VALUE",
    "less_than_equal": "E_MANIFEST_VALUE",
    "string_pattern_mismatch": "E_MANIFEST_VALUE",
    "string_too_long": "E_MANIFEST_VALUE",
    "string_too_short": "E_MANIFEST_VALUE",
    "too_long": "E_MANIFEST_VALUE",
    "too_short": "E_MANIFEST_VALUE",
}


def fault(details: ErrorDetails) -> Fault:
    """Translate a complaint of pydantic's; what is not in the table is a wrong type."""
    kind, location, value = details["type"], details["loc"], details["input"]
    if kind == "missing" and isinstance(location[-1], int):
        return Fault("E_MANIFEST_VALUE", field_path(location[:-1]), "more elements")
    if kind in ("missing", "extra_forbidden"):
        return Fault(_CODES[kind], field_path(location))
    if kind == "literal_error" and isinstance(value, str):
        code = "E_MANIFEST_VALUE"
    else:
        code = kind if kind.startswith("E_") else _CODES.get(kind, "E_MANIFEST_TYPE")
    got = json.dumps(value, ensure_ascii=False)
    return Fault(code, field_path(location), expectation(details), got)


def expectation(details: ErrorDetails) -> str:
    """Return what should stand where pydantic complains, in words of ours."""
    kind, facts = details["type"], details.get("ctx", {})
    if kind.startswith("E_"):
        return details["msg"]
    if kind == "string_pattern_mismatch":
        pattern = str(facts["pattern"])
        return _PATTERNS.get(pattern, f"text that matches {pattern}")
    words, fact = _EXPECTATIONS.get(kind, ("a value of another kind", ""))
    return words.format(_plain_number(facts[fact])) if fact else words


def _plain_number(value: Any) -> object:
    """Return a limit as one writes it: 1, not 1.0; what is no number, as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_PATTERNS = {
    _SHA256: "64 lower-case hexadecimal digits",
    _NAME: "1 to 64 of a-z, 0-9 and _.-, the first a letter or digit",
    _VERSION: "X.Y.Z in whole numbers",
    _DATE: "a time such as 2026-12-31T23:59:59Z",
    _LINE: "one line, without control characters",
    _REQUIREMENT: "a gate such as top1>=84.0",
}
_EXPECTATIONS = {
    "missing": ("a value", ""),
    "extra_forbidden": ("no field of this name", ""),
    "bool_type": ("true or false", ""),
    "int_type": ("an integer", ""),
    "int_from_float": ("an integer", ""),
    "float_type": ("a number", ""),
    "finite_number": ("a finite number", ""),
    "string_type": ("text", ""),
    "dict_type": ("named fields", ""),
    "model_type": ("named fields", ""),
    "model_attributes_type": ("named fields", ""),
    "list_type": ("an array", ""),
    "tuple_type": ("an array", ""),
    "literal_error": ("{}", "expected"),
    "greater_than": ("more than {}", "gt"),
    "greater_than_equal": ("at least {}", "ge"),
    "less_than": ("less than {}", "lt"),
    "less_than_equal": ("at most {}", "le"),
    "string_too_long": ("at most {} characters", "max_length"),
    "string_too_short": ("at least {} characters", "min_length"),
    "too_long": ("at most {} elements", "max_length"),
    "too_short": ("at least {} elements", "min_length"),
}
"""By pydantic's names of its complaints, which stay; and the fact that the words tell of."""


def field_path(location: tuple[Union[int, str], ...]) -> str:
    """Return a pydantic location as ``artifacts[2].size``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
