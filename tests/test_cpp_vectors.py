"""Python and C++ judge every manifest alike, to the code and the field path.

The vectors are compared with what they expect, and with Python's verdict of today; so are
mutations of them, each made from a seed and most of them sealed again, so that a fault deep
inside is met and not only a digest that does not fit.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.cpp import Verdict, cpp_manifest_verdicts, python_verdict
from tests.support.make_vectors import VECTORS
from tests.support.manifests import seal
from vitaie.manifests import digests
from vitaie.manifests.errors import printable
from vitaie.manifests.manifest import Manifest

COUNT = 404
FOLDERS = sorted(VECTORS.iterdir())
MUTATIONS = 20_000
SAMPLE = 2_000


def judged(manifests: list[bytes]) -> list[Verdict]:
    return [python_verdict(partial(Manifest.from_bytes, data)) for data in manifests]


def expected(folder: Path) -> Verdict:
    verdict = json.loads((folder / "expected.json").read_bytes())
    if verdict["ok"]:
        return Verdict(0, "ok", "")
    return Verdict(1, verdict["code"], printable(verdict["field"]))


def test_every_vector_is_judged_as_expected_and_as_python_judges_it() -> None:
    assert len(FOLDERS) == COUNT
    manifests = [(folder / "manifest.json").read_bytes() for folder in FOLDERS]
    verdicts = cpp_manifest_verdicts(manifests)
    rows = zip(FOLDERS, verdicts, map(expected, FOLDERS), judged(manifests))
    assert [row for row in rows if not row[1] == row[2] == row[3]] == []


# Mutations

VALID = [(folder / "manifest.json").read_bytes() for folder in FOLDERS if expected(folder)[0] == 0]
TEXTS = [
    "",
    "a",
    "batch",
    "model.ts",
    "golden/00.jpg",
    "golden/../x",
    "MODEL.TS",
    "0" * 64,
    "1.2.3",
    "VALID",
    "square",
    "torchscript",
    "é",
    "\x7f",
    "\u00a0\u2028",
    "\U0001f600",
    "x" * 4096,
    "y" * 4097,
    "2026-01-02T03:04:05Z",
]
NUMBERS = [0, 1, -1, 2, 63, 64, 100, 2**31, 2**53 - 1, -(2**53 - 1), 0.0, -0.0, 0.5, 1e-320, 1e308]
SCALARS: list[Any] = [None, True, False, *TEXTS, *NUMBERS]
CONTAINERS: list[Any] = [[], {}, [0], [[]], {"a": 1}, ["batch", 3, 32, 32], {"": None}]
PIECES = [
    *b'{}[]",:\\ \n\t\r\0\x7f\x80\xff',
    *b"0123456789eE+-.untrfalsNIi",
]
TOKENS = [
    *(b"{}", b"[]", b'""', b"null", b"1e400", b"-0", b"NaN", b"-Infinity", b"1E+2", b"0.10"),
    *(b'"\\ud800"', b'"\\u0000"', b'"\\ud83d\\ude00"', b"\xef\xbb\xbf", b"//", b"01", b"1.0"),
]

Change = Callable[[random.Random, Any], object]
Slot = tuple[Any, Any]


def slots(value: Any) -> list[Slot]:
    """Return (container, key) of everything inside a JSON value."""
    keys = keys_of(value)
    return [(value, key) for key in keys] + [slot for key in keys for slot in slots(value[key])]


def keys_of(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value))
    return list(range(len(cast("list[object]", value)))) if isinstance(value, list) else []


def inside(value: Any, kind: type) -> list[Any]:
    """Return the values inside a JSON value, itself included, that are of a type."""
    found = [value, *(container[key] for container, key in slots(value))]
    return [each for each in found if isinstance(each, kind)]


def some_value(chance: random.Random, document: Any) -> Any:
    kind = chance.randrange(4)
    if kind == 0:
        container, key = chance.choice(slots(document))
        return copy.deepcopy(container[key])
    return copy.deepcopy(chance.choice(CONTAINERS if kind == 1 else SCALARS))


def replace_value(chance: random.Random, document: Any) -> None:
    container, key = chance.choice(slots(document))
    container[key] = some_value(chance, document)


def nudge_number(chance: random.Random, document: Any) -> None:
    """Change a number a little, which keeps the rules of its own and breaks those beyond it."""
    numbers = [slot for slot in slots(document) if type(slot[0][slot[1]]) in (int, float)]
    container, key = chance.choice(numbers)
    container[key] += chance.choice([1, -1, 64, 0.5, 1e-9, 1e-10])


def swap_values(chance: random.Random, document: Any) -> None:
    (one, key), (other, name) = chance.sample(slots(document), 2)
    held = copy.deepcopy(one[key]), copy.deepcopy(other[name])
    one[key], other[name] = held[1], held[0]


def drop_value(chance: random.Random, document: Any) -> None:
    container, key = chance.choice(slots(document))
    del container[key]


def add_member(chance: random.Random, document: Any) -> None:
    place = chance.choice(inside(document, dict))
    place[chance.choice(TEXTS)] = some_value(chance, document)


def repeat_element(chance: random.Random, document: Any) -> None:
    array = chance.choice(inside(document, list))
    if array:
        array.insert(chance.randrange(len(array) + 1), copy.deepcopy(chance.choice(array)))


CHANGES: list[Change] = [
    replace_value,
    nudge_number,
    swap_values,
    drop_value,
    add_member,
    repeat_element,
]


def changed_document(chance: random.Random, data: bytes) -> bytes:
    """Change one to three things in a manifest, and make right what digests can be."""
    document = json.loads(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        chance.choice(CHANGES)(chance, document)
    try:
        return seal(document)
    except (AttributeError, KeyError, TypeError, ValueError):  # too broken to have its digests
        return resealed(json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8"))


def changed_bytes(chance: random.Random, data: bytes) -> bytes:
    """Change, remove, insert or move some bytes of a manifest."""
    text = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        start = chance.randrange(len(text))
        end = min(len(text), start + chance.choice([1, 1, 1, 2, 8, 100]))
        piece = [
            bytes([chance.choice(PIECES)]),
            chance.choice(TOKENS),
            bytes(text[start:end]) * 2,
            b"",
            bytes([text[start] ^ 1 << chance.randrange(8)]),
        ]
        text[start:end] = chance.choice(piece)
    return resealed(bytes(text)) if chance.randrange(4) else bytes(text)


def changed_token(chance: random.Random, data: bytes) -> bytes:
    """Put something else in the place of one JSON token."""
    tokens = list(re.finditer(rb'"[^"\\]*"|-?[0-9.eE+-]+|true|false|null', data))
    start, end = chance.choice(tokens).span()
    return resealed(data[:start] + chance.choice(TOKENS) + data[end:])


def resealed(data: bytes) -> bytes:
    try:
        return digests.with_manifest_digest(data)
    except ValueError:
        return data


def mutations(seed: int, count: int) -> list[bytes]:
    chance = random.Random(seed)
    ways = [changed_document, changed_document, changed_bytes, changed_token]
    return [chance.choice(ways)(chance, chance.choice(VALID)) for _ in range(count)]


def differences(manifests: list[bytes], verdicts: list[Verdict]) -> list[tuple[bytes, Any, Any]]:
    rows = zip(manifests, verdicts, judged(manifests))
    return [row for row in rows if row[1] != row[2]]


def test_mutated_manifests_crash_nothing_and_are_judged_as_python_judges_them() -> None:
    manifests = mutations(0, SAMPLE)
    verdicts = cpp_manifest_verdicts(manifests)  # fails when there are fewer of them: a crash
    assert differences(manifests, verdicts) == []
    # What the mutator makes is of many kinds, and most of it gets past the manifest's digest.
    codes = Counter(verdict.code for verdict in verdicts)
    assert len(codes) >= 20, codes
    assert max(codes.values()) < SAMPLE // 3, codes


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_two_hundred_thousand_mutations_are_judged_alike(seed: int) -> None:
    manifests = mutations(seed, MUTATIONS)
    assert differences(manifests, cpp_manifest_verdicts(manifests)) == []
