"""A manifest is read whole and right, or refused with one code and the path of the fault."""

from __future__ import annotations

import json
import math
from typing import Any, Optional

import pytest

from tests.support.manifests import (
    drop,
    get,
    manifest,
    manifest_fields,
    measured_fields,
    paths,
    put,
    seal,
    whole_document,
)
from vitaie.manifests import digests
from vitaie.manifests.errors import ManifestError
from vitaie.manifests.manifest import MAX_MANIFEST_BYTES, Manifest, content_digest

MEASURED = Manifest.create(measured_fields())
MAPS = (
    *("targets[0].options", "targets[0].toolchain", "targets[0].agreement.packages"),
    *("targets[1].options", "targets[1].toolchain", "targets[1].agreement.packages"),
    *("performance[0].latency_ms", "toolchain.packages"),
)
NULLABLE = (
    *("expected.accuracy[0].top5", "accuracy[0].agreement", "performance[0].placement"),
    *("targets[0].tolerance.cosine", "targets[1].tolerance.cosine"),
    *("levels[0].predictions", "levels[1].predictions"),
)
JUDGED_FIRST = ("format", "format_version", "manifest_digest")


def refusal(data: bytes) -> tuple[str, str]:
    """Return the code and field that ``data`` is refused with."""
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(data)
    return caught.value.code, caught.value.field


def judgement(data: bytes) -> str:
    """Return the line that ``data`` is refused with, empty when it is read."""
    try:
        Manifest.from_bytes(data)
    except ManifestError as error:
        return str(error)
    return ""


def resealed(document: Any) -> bytes:
    """Return the document as it is, with the right manifest_digest."""
    return digests.with_manifest_digest(json.dumps(document).encode("utf-8"))


DOCUMENT = whole_document()
PATHS = [path for path in paths(DOCUMENT) if path not in JUDGED_FIRST]
LEAVES = [path for path in PATHS if not isinstance(get(DOCUMENT, path), (dict, list))]
OBJECTS = [path for path in PATHS if isinstance(get(DOCUMENT, path), dict) and path not in MAPS]
FIELDS = [
    path for path in PATHS if path in MAPS or not (path.endswith("]") or path.startswith(MAPS))
]


def test_what_is_written_is_read_back() -> None:
    data = MEASURED.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == MEASURED
    assert again.to_bytes() == data
    assert data == seal(whole_document())


@pytest.mark.parametrize(
    "turn",
    [
        0,  # of each byte one bit, the next one of the next
        *(pytest.param(turn, marks=pytest.mark.long) for turn in range(1, 8)),  # and the others
    ],
)
def test_every_bit_flip_is_refused(turn: int) -> None:
    data = bytearray(MEASURED.to_bytes())
    assert len(data) > 6000
    accepted: list[int] = []
    for place in range(len(data)):
        flip = 1 << (place + turn) % 8
        data[place] ^= flip
        if not judgement(bytes(data)):
            accepted.append(place)
        data[place] ^= flip
    assert accepted == []


@pytest.mark.parametrize("extra", [b" ", b"\n", b"\0", b"}", b"\xff"])
def test_an_inserted_byte_is_refused(extra: bytes) -> None:
    data = manifest().to_bytes()
    accepted = [
        place
        for place in range(0, len(data) + 1, 7)
        if not judgement(data[:place] + extra + data[place:])
    ]
    assert accepted == []


def test_every_truncation_is_refused() -> None:
    data = manifest().to_bytes()
    assert [length for length in range(len(data)) if not judgement(data[:length])] == []


@pytest.mark.parametrize("value", [None, [], {}], ids=["null", "array", "object"])
def test_a_value_of_another_type_is_refused_at_its_path(value: Any) -> None:
    assert len(LEAVES) > 150
    for path in LEAVES:
        if value is not None or path not in NULLABLE:
            data = resealed(put(whole_document(), path, value))
            assert refusal(data) == ("E_MANIFEST_TYPE", path)


def test_a_missing_field_is_refused_at_its_path() -> None:
    assert len(FIELDS) > 150
    for path in FIELDS:
        data = resealed(drop(whole_document(), path))
        assert refusal(data) == ("E_MANIFEST_MISSING_FIELD", path)


def test_an_unknown_field_is_refused_at_its_path() -> None:
    assert len(OBJECTS) > 25
    for path in OBJECTS:
        data = resealed(put(whole_document(), f"{path}.note", "x"))
        assert refusal(data) == ("E_MANIFEST_UNKNOWN_FIELD", f"{path}.note")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", "9.0.0"),
        ("accuracy", []),
        ("performance", []),
        ("gates", []),
        ("levels", []),
        ("toolchain.created", "1970-01-01T00:00:00Z"),
        ("toolchain.machine", "another"),
        ("targets[0].agreement.max_abs_diff", 0.5),
        ("targets[0].agreement.logits_sha256", ["0" * 64]),
        ("targets[1].agreement.processor", "another"),
        ("artifacts[6].size", 1),
        ("artifacts[7].sha256", "0" * 64),
    ],
)
def test_content_digest_does_not_depend_on_when_where_and_how_well(path: str, value: Any) -> None:
    changed = Manifest.from_bytes(seal(put(whole_document(), path, value)))
    assert changed != MEASURED
    assert changed.content_digest == MEASURED.content_digest


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "other"),
        ("source.sha256", "0" * 64),
        ("model.gflop", 1.0),
        ("preprocess.mean", [0.5, 0.5, 0.4]),
        ("artifacts[0].sha256", "0" * 64),
        ("weights[0].name", "other"),
        ("targets[0].options", {}),
        ("targets[0].toolchain", {}),
        ("targets[0].tolerance.max_rel_diff", 0.0005),
        ("goldens[0].margin", 0.5),
        ("expected.speed", []),
        ("toolchain.python", "3.9.18"),
        ("toolchain.packages", {}),
        ("toolchain.command", ""),
    ],
)
def test_content_digest_depends_on_all_else(path: str, value: Any) -> None:
    changed = Manifest.create({**put(manifest_fields(), path, value)})
    assert changed.content_digest != MEASURED.content_digest


def test_content_digest_is_the_same_however_the_text_is_written() -> None:
    document = put(whole_document(), "performance[0].fps", 100)
    data = seal(document, indent=None, sort_keys=True, ensure_ascii=True)
    again = Manifest.from_bytes(data)
    assert again.content_digest == content_digest(again) == MEASURED.content_digest
    assert Manifest.from_bytes(again.to_bytes()).performance == again.performance


@pytest.mark.parametrize("field", ["toolchain", "operators_outside", "tolerance", "agreement"])
def test_target_digest_covers_only_what_is_run(field: str) -> None:
    files = {artifact.path: artifact.sha256 for artifact in MEASURED.artifacts}
    target, other = MEASURED.targets
    changed = target.model_copy(update={field: getattr(other, field)})
    assert changed.digest(files) == target.target_digest
    turned = target.model_copy(update={"files": target.files[::-1]})
    assert turned.digest(files) == target.target_digest


@pytest.mark.parametrize("update", [
    {"backend": "torchscript"}, {"optim_level": 1}, {"batch_sizes": (1,)}, {"options": {}},
    {"files": ("model.ts",)},
])  # fmt: skip
def test_target_digest_covers_backend_options_and_files(update: dict[str, Any]) -> None:
    files = {artifact.path: artifact.sha256 for artifact in MEASURED.artifacts}
    target = MEASURED.targets[0]
    assert target.model_copy(update=update).digest(files) != target.target_digest
    other = {**files, "model.ts": "0" * 64}
    assert target.digest(other) != target.target_digest


def test_create_makes_a_new_version_of_a_manifest_that_was_read() -> None:
    fields = {**MEASURED.model_dump(mode="json"), "version": "1.0.1"}
    following = Manifest.create(fields)
    assert following.version == "1.0.1"
    assert following.content_digest == MEASURED.content_digest
    assert following.manifest_digest != MEASURED.manifest_digest
    assert following.accuracy == MEASURED.accuracy


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("model.gflop", math.nan, "E_MANIFEST_NUMBER"),
        ("model.gflop", "fast", "E_MANIFEST_TYPE"),
        ("source.file", "a\udc80.npz", "E_MANIFEST_STRING"),
        ("source.file", "a\0.npz", "E_MANIFEST_STRING"),
        ("toolchain.machine", "é" * 5000, "E_MANIFEST_VALUE"),
        ("targets[0].files[0]", "nowhere", "E_MANIFEST_REFERENCE"),
    ],
)
def test_create_refuses_what_could_not_be_read(path: str, value: Any, code: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.create(put(manifest_fields(), path, value))
    assert (caught.value.code, caught.value.field) == (code, path)


def test_a_manifest_of_a_million_artifacts_is_too_large() -> None:
    row = b'{"path":"a","role":"target","size":1,"sha256":"","chunks":[]},'
    data = b'{"artifacts":[' + row * 10**6 + b"]}"
    assert refusal(data) == ("E_MANIFEST_TOO_LARGE", "")


def test_a_manifest_of_exactly_1_mib_is_read() -> None:
    data = MEASURED.to_bytes()
    padded = data + b" " * (MAX_MANIFEST_BYTES - len(data))
    assert Manifest.from_bytes(digests.with_manifest_digest(padded)) is not None
    assert refusal(padded + b" ") == ("E_MANIFEST_TOO_LARGE", "")


def test_a_newer_format_is_named_before_its_digest_is_judged() -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(b'{"format": "vitaie-bundle", "format_version": 2}', "x/manifest.json")
    assert str(caught.value) == (
        "E_MANIFEST_NEWER_VERSION: x/manifest.json: format_version: the bundle's format is newer "
        "than this vitaie can read (expected at most 1, got 2). Install a newer vitaie."
    )


def test_the_message_says_what_was_expected_and_got() -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(resealed(put(whole_document(), "artifacts[2].size", True)))
    assert str(caught.value) == (
        "E_MANIFEST_TYPE: manifest.json: artifacts[2].size: the value has the wrong type "
        "(expected an integer, got true)."
    )


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        MEASURED.__setattr__("name", "other")


def test_an_artifact_is_found_by_its_path() -> None:
    assert MEASURED.artifact("labels.txt").role == "labels"


def test_canonical_text_is_the_one_of_the_docs() -> None:
    value = {"b": [1, 0.5, True, None], "a": "é\n"}
    assert digests.canonical(value) == (
        '{"a":"é\\n","b":[3ff0000000000000,3fe0000000000000,true,null]}'.encode()
    )


def test_canonical_text_has_one_word_for_equal_numbers() -> None:
    assert digests.canonical([2**53, 0]) == digests.canonical((2.0**53, -0.0))
    assert digests.canonical([1]) != digests.canonical([True])
    assert digests.canonical([1]) != digests.canonical(["3ff0000000000000"])


def test_canonical_text_sorts_keys_by_code_point() -> None:
    keys = ["\U0001f600", "\uff5e", "a", "B", ""]
    text = digests.canonical(dict.fromkeys(keys)).decode()
    assert text == '{"":null,"B":null,"a":null,"\uff5e":null,"\U0001f600":null}'


@pytest.mark.parametrize("number", [math.nan, math.inf, 2**53 + 1])
def test_canonical_text_refuses_what_no_double_equals(number: float) -> None:
    with pytest.raises(ValueError, match="no finite double equals"):
        digests.canonical([number])


def test_canonical_text_refuses_what_json_has_no_word_for() -> None:
    with pytest.raises(TypeError, match="no canonical text for bytes"):
        digests.canonical([b"a"])


@pytest.mark.parametrize("data", [b"{}", b'"manifest_digest":"' + b"A" * 64 + b'"', b'"manifest_'])
def test_bytes_without_a_manifest_digest_cannot_be_sealed(data: bytes) -> None:
    assert digests.manifest_digest(data) is None
    with pytest.raises(ValueError, match="exactly once"):
        digests.with_manifest_digest(data)


@pytest.mark.parametrize(
    ("options", "placement"),
    [
        ({"operators_after": 240, "operators_outside": 0}, 1.0),
        ({"operators_after": 240, "operators_outside": 12}, 0.95),
        ({"operators_after": 240, "operators_outside": 300}, 0.0),  # the compiler added some
        ({"operators_after": 0, "operators_outside": 0}, None),
        ({"operators_after": 240}, None),
        ({"operators_after": True, "operators_outside": 0}, None),
        ({"operators_after": "240", "operators_outside": 0}, None),
        ({}, None),
    ],
)
def test_the_placement_of_a_device_target_is_counted_or_not_known(
    options: dict[str, Any], placement: Optional[float]
) -> None:
    target = manifest().targets[0]
    assert target.placement == 1.0
    on_device = target.model_copy(update={"device": "ascend310p3", "options": options})
    assert on_device.placement == placement
