"""The digests that bind a bundle together, and the canonical text that two of them are taken of.

No language's way of writing a number or ordering keys is part of a digest: the canonical text
sorts keys by code point and writes every number as the 16 hexadecimal digits of its IEEE-754
double. ``docs/bundle-format.md`` states it for other implementations, with an example.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Optional, Union, cast

CHUNK_SIZE = 16 * 2**20
"""Bytes of one chunk of a large artifact; the last one may be shorter."""

CHUNKED_ABOVE = 8 * 2**20
"""Artifacts larger than this, in bytes, list the digest of each chunk."""

_ZEROS = b"0" * 64
_KEY = b'"manifest_digest"'
_ENCODER = json.JSONEncoder(ensure_ascii=False)  # made once: a dataset has 100,000 strings
_KEY_AND_DIGITS = re.compile(_KEY + rb'[ \t\r\n]*:[ \t\r\n]*"([0-9a-f]{64})"')


def sha256(data: Union[bytes, bytearray, memoryview]) -> str:
    """Return the sha256 of ``data`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: object) -> bytes:
    """Return the canonical text of a JSON value, as UTF-8.

    An integer and the float equal to it are one number, and so are 0 and -0.0.

    Raises:
        TypeError: For what JSON has no word for.
        ValueError: For a number that no finite double equals.
    """
    return _text(value).encode("utf-8")


def _text(value: object) -> str:
    if value is None or isinstance(value, (bool, str)):
        return _ENCODER.encode(value)
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, Mapping):
        members = sorted(cast("Mapping[str, object]", value).items())
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in members) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, cast("Sequence[object]", value))) + "]"
    raise TypeError(f"no canonical text for {type(value).__name__}")


def _number(value: Union[int, float]) -> str:
    double = float(value)
    if not math.isfinite(double) or double != value:
        raise ValueError(f"no finite double equals {value}")
    return struct.pack(">d", double + 0.0).hex()  # -0.0 + 0.0 is 0.0


def manifest_digest(data: bytes) -> Optional[str]:
    """Return the sha256 of a manifest's bytes with its own digest's 64 digits read as zeros.

    None when the bytes do not hold ``"manifest_digest"`` exactly once, with a string of 64
    lower-case hexadecimal digits as its value.
    """
    span = _digest_span(data)
    if span is None:
        return None
    start, end = span
    return sha256(data[:start] + _ZEROS + data[end:])


def with_manifest_digest(data: bytes) -> bytes:
    """Return a manifest's bytes with the right digest in place of the 64 digits it has.

    Raises:
        ValueError: Where ``manifest_digest`` would give None.
    """
    span = _digest_span(data)
    if span is None:
        raise ValueError("the bytes do not name manifest_digest exactly once")
    start, end = span
    digest = sha256(data[:start] + _ZEROS + data[end:])
    return data[:start] + digest.encode("ascii") + data[end:]


def _digest_span(data: bytes) -> Optional[tuple[int, int]]:
    if data.count(_KEY) != 1:
        return None
    match = _KEY_AND_DIGITS.search(data)
    return None if match is None else match.span(1)
