"""The kinds of field a manifest has, and the code that each way of being wrong gets.

pydantic judges the types. Its own words for what is wrong change with its releases, so they are
translated here into the codes that the C++ reader gives too.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, NamedTuple, Union

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

from vitaie.manifests.errors import ManifestError
from vitaie.manifests.strict_json import MAX_INT

_PATH_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PATH = f"^{_PATH_PART}(/{_PATH_PART})*$"


def _check_path(path: str) -> str:
    if len(path) > 255 or not re.fullmatch(_PATH, path):
        raise PydanticCustomError(
            "E_MANIFEST_PATH",
            "Path should be of letters, digits and _.-/ in at most 255 characters, no part "
            "of it empty or beginning with a dot or a hyphen",
        )
    return path


def _check_dimension(value: object) -> object:
    """Judge a dimension before the union does, whose errors name its members, not the field."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise PydanticCustomError("E_MANIFEST_TYPE", "Input should be 'batch' or an integer")
    if value != "batch" and (isinstance(value, str) or not 1 <= value <= MAX_INT):
        raise PydanticCustomError("E_MANIFEST_VALUE", "Input should be 'batch' or at least 1")
    return value


def _check_option(value: object) -> object:
    """Judge an option before the union does, as ``_check_dimension``."""
    if not isinstance(value, (bool, int, str)):
        raise PydanticCustomError(
            "E_MANIFEST_TYPE", "Input should be a boolean, an integer or a string"
        )
    return value


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Version = Annotated[
    str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}$")
]
Date = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
        r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$"
    ),
]
BundlePath = Annotated[
    str,
    AfterValidator(_check_path),
    WithJsonSchema({"type": "string", "pattern": _PATH, "maxLength": 255}),
]
Text = Annotated[str, StringConstraints(max_length=4096)]
LongText = Annotated[str, StringConstraints(max_length=65536)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]
Percent = Annotated[float, Field(ge=0, le=100)]
Mean = Annotated[float, Field(ge=-1000, le=1000)]
Deviation = Annotated[float, Field(ge=1e-6, le=1000)]
PositiveFloat = Annotated[float, Field(gt=0)]
Measure = Annotated[float, Field(ge=0)]
Dimension = Annotated[Union[Literal["batch"], Positive], BeforeValidator(_check_dimension)]
Option = Annotated[Union[bool, int, str], BeforeValidator(_check_option)]


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
    """Return what a complaint of pydantic's says should be there, without its grammar."""
    if details["type"] == "missing":
        return "a value"
    if details["type"] == "extra_forbidden":
        return "no field of this name"
    return re.sub(r"^.* should (be )?", "", details["msg"])


def field_path(location: tuple[Union[int, str], ...]) -> str:
    """Return a pydantic location as ``artifacts[2].size``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
