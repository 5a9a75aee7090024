"""The cases of ``manifests/vectors/``, made from one right manifest.

Every faulty one carries the digests that are right for its bytes, so that nothing but its one
fault can be found; where a digest is the fault, the others are right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.support.manifests import drop, put, seal, whole_document
from vitaie.manifests import digests

_MIB = 2**20
_ARTIFACTS = len(whole_document()["artifacts"])


class Vector(NamedTuple):
    """One case: what is special about it, its bytes, and the code and field; no code is right."""

    name: str
    data: bytes
    code: str = ""
    field: str = ""

    @property
    def expected(self) -> bytes:
        """The bytes of expected.json."""
        verdict: dict[str, Any] = {"ok": not self.code}
        if self.code:
            verdict.update(code=self.code, field=self.field)
        return (json.dumps(verdict) + "\n").encode("ascii")


def _changed(path: str, value: Any) -> bytes:
    return seal(put(whole_document(), path, value))


def _edited(old: str, new: str) -> bytes:
    """Return the right manifest with a piece of its text replaced, its own digest right again."""
    data = seal(whole_document())
    if data.count(old.encode("utf-8")) != 1:
        raise ValueError(f"{old!r} does not stand there exactly once")
    return digests.with_manifest_digest(data.replace(old.encode("utf-8"), new.encode("utf-8")))


def _with_mean(*mean: float) -> bytes:
    return seal(_bound(put(whole_document(), "preprocess.mean", list(mean))))


def _bound(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with its accuracy record bound to the preprocessing that it has now."""
    digest = digests.sha256(digests.canonical(document["preprocess"]))
    put(document, "accuracy[0].preprocess_digest", digest)
    return document


def _right() -> Iterator[Vector]:
    yield Vector("measured", seal(whole_document()))
    bare = whole_document()
    bare.update(accuracy=[], performance=[], gates=[], levels=[])
    bare["artifacts"] = bare["artifacts"][:6]
    yield Vector("unmeasured", seal(bare))
    yield Vector("compact-keys-sorted", seal(bare, indent=None, sort_keys=True))
    yield Vector(
        "tabs-and-crlf",
        digests.with_manifest_digest(seal(bare, indent="\t").replace(b"\n", b"\r\n")),
    )
    put(bare, "goldens[0].credit", '\U0001f600 "quoted" \\ / \b\f\n\r\t\x1f\x7f\u2028 é')
    yield Vector("text-with-escapes", seal(bare, ensure_ascii=True))
    yield Vector("text-as-utf-8", seal(bare))
    put(bare, "toolchain.packages", {"\uff5e": "1", "\U0001f600": "2", "a": "3", "Z": "4", "": "5"})
    yield Vector("keys-by-code-point-not-utf-16", seal(bare))
    put(bare, "goldens[0].credit", "[" * 40 + "{" * 40 + '\\"' + "[" * 40)
    yield Vector("brackets-in-strings-are-no-depth", seal(bare))
    yield Vector("integers-for-reals", _with_mean(0, 1, -1))
    yield Vector(
        "reals-of-all-sizes",
        seal(
            _bound(
                put(
                    put(whole_document(), "preprocess.mean", [0.1 + 0.2, 5e-324, -1 / 3]),
                    "model.gflop",
                    1.7976931348623157e308,
                )
            )
        ),
    )
    yield Vector(
        "real-with-exponent-and-long-tail",
        _edited('"gflop": 0.032', '"gflop": 3.2000000000000000000000000000000000000000000E-2'),
    )
    yield Vector("minus-zero", _with_mean(-0.0, 0.0, 0))
    yield Vector(
        "options-of-every-kind",
        _changed(
            "targets[0].options",
            {"a": True, "b": 1, "c": "1", "d": False, "e": 0, "f": "", "g": -7},
        ),
    )
    yield Vector("largest-integer", _changed("source.size", 2**53 - 1))
    document = whole_document()
    put(document, "preprocess.profile", "modelzoo")
    put(document, "preprocess.resize.mode", "square")
    yield Vector("modelzoo", seal(_bound(document)))
    document = whole_document()
    put(document, "artifacts[1].size", 8 * _MIB)
    put(document, "artifacts[2].size", 8 * _MIB + 1)
    put(document, "artifacts[2].chunks", ["5" * 64])
    put(document, "artifacts[0].size", 32 * _MIB)
    yield Vector("chunks-at-their-limits", seal(document))
    document = whole_document()
    put(document, "performance[0].verdict", "INVALID")
    yield Vector("invalid-with-a-reason", seal(put(document, "performance[0].reasons", ["drift"])))
    long = "targets/" + "/".join(["a-b.c_D9"] * 27) + "/" + "e" * 4
    yield Vector("path-of-255-characters", seal(_with_artifact(long)))
    document = whole_document()
    put(document, "weights[0]", {**document["weights"][0], "shape": [], "length": 4})
    end = {"offset": 20 * _MIB - 64, "shape": [16], "length": 64}
    put(document, "weights[1]", {**document["weights"][1], **end})
    yield Vector("weights-scalar-and-last", seal(document))
    yield Vector("static-batch-sizes", _changed("targets[0].batch_sizes", [1, 8, 16]))


def _json() -> Iterator[Vector]:
    good = seal(whole_document())
    code = "E_MANIFEST_JSON"
    yield Vector("empty", b"", code)
    yield Vector("only-spaces", b" \n\t ", code)
    yield Vector("text", b"hello\n", code)
    yield Vector("truncated", good[: len(good) // 2], code)
    yield Vector("trailing-bytes", good + b"x", code)
    yield Vector("two-objects", good + good, code)
    yield Vector("comment", _edited('"name": "vit', '/* a comment */ "name": "vit'), code)
    yield Vector("trailing-comma", good.rstrip()[:-1] + b",}", code)
    yield Vector("single-quotes", _edited('"1.0.0"', "'1.0.0'"), code)
    yield Vector("leading-zero", _edited('"gflop": 0.032', '"gflop": 00.032'), code)
    yield Vector("real-without-a-digit", _edited('"gflop": 0.032', '"gflop": .032'), code)
    yield Vector("plus-sign", _edited('"gflop": 0.032', '"gflop": +0.032'), code)
    yield Vector("newline-in-a-string", _edited("Zoë Example", "Zoë\nExample"), code)
    yield Vector("nul-byte-in-a-string", _edited("Zoë Example", "Zoë\0Example"), code)
    yield Vector("unknown-escape", _edited("Zoë Example", "Zoë\\x20Example"), code)
    code = "E_MANIFEST_ENCODING"
    yield Vector("byte-order-mark", b"\xef\xbb\xbf" + good, code)
    yield Vector("utf-16", good.decode("utf-8").encode("utf-16"), code)
    yield Vector("latin-1", good.replace("ë".encode(), b"\xeb"), code)
    yield Vector("surrogate-in-utf-8", good.replace("ë".encode(), b"\xed\xa0\x80"), code)
    yield Vector("overlong-utf-8", good.replace("ë".encode(), b"\xc0\xaf"), code)
    yield Vector("over-1-mib", good + b" " * (2**20 + 1 - len(good)), "E_MANIFEST_TOO_LARGE")
    deep = '"machine": ' + "[" * 15 + "]" * 15
    yield Vector(
        "nested-17-levels", _edited('"machine": "x86_64, 2 cores"', deep), "E_MANIFEST_DEPTH"
    )
    yield Vector("nested-100000-levels-unclosed", b"[" * 100_000, "E_MANIFEST_DEPTH")
    for name, data in (("array", b"[" + good + b"]"), ("string", b'"a"'), ("null", b"null")):
        yield Vector(f"not-an-object-but-{name}", data, "E_MANIFEST_NOT_OBJECT")
    code = "E_MANIFEST_DUPLICATE_KEY"
    twice = '"name": "vit_tiny_digits",\n "version"'
    once = '"version"'
    yield Vector("duplicate-key", _edited(once, twice), code, "name")
    yield Vector(
        "duplicate-key-other-spelling", _edited(once, twice.replace("na", "\\u006ea")), code, "name"
    )
    yield Vector(
        "duplicate-key-in-an-object", _edited('"width": 192', '"width": 192, "width": 192'),
        code, "model.width",
    )  # fmt: skip
    yield Vector(
        "duplicate-key-in-an-array", _edited('"size": 81234', '"size": 81234, "size": 81234'),
        code, "artifacts[1].size",
    )  # fmt: skip
    code = "E_MANIFEST_NUMBER"
    for name, number in (
        ("nan", "NaN"), ("infinity", "Infinity"), ("minus-infinity", "-Infinity"),
        ("1e400", "1e400"), ("minus-1e400", "-1e400"),
    ):  # fmt: skip
        data = _edited('"gflop": 0.032', f'"gflop": {number}')
        yield Vector(f"real-{name}", data, code, "model.gflop")
    for name, number in (
        ("beyond-2-53", "9007199254740992"), ("beyond-minus-2-53", "-9007199254740992"),
        ("of-30-digits", "1" * 30), ("of-5000-digits", "1" * 5000),
    ):  # fmt: skip
        data = _edited('"size": 81234', f'"size": {number}')
        yield Vector(f"integer-{name}", data, code, "artifacts[1].size")
    code = "E_MANIFEST_STRING"
    for name, text in (
        ("nul", "\\u0000"), ("lone-high-surrogate", "\\ud83d"), ("lone-low-surrogate", "\\ude00"),
        ("surrogates-the-wrong-way-round", "\\ude00\\ud83d"),
    ):  # fmt: skip
        yield Vector(name, _edited("Zoë", f"Zo{text}"), code, "goldens[0].credit")
    yield Vector("nul-in-a-key", _edited('"timm":', '"ti\\u0000mm":'), code, "toolchain.packages")


def _format() -> Iterator[Vector]:
    def of(name: str, path: str, value: Any, code: str) -> Vector:
        return Vector(name, _changed(path, value), f"E_MANIFEST_{code}", path)

    missing = "E_MANIFEST_MISSING_FIELD"
    yield Vector("empty-object", b"{}\n", missing, "format")
    yield Vector("format-missing", seal(drop(whole_document(), "format")), missing, "format")
    version = "format_version"
    yield Vector("format-version-missing", seal(drop(whole_document(), version)), missing, version)
    yield of("format-other", "format", "somebody-else", "FORMAT")
    yield of("format-null", "format", None, "FORMAT")
    yield of("format-version-true", version, True, "TYPE")
    yield of("format-version-real", version, 1.0, "TYPE")
    yield of("format-version-text", version, "1", "TYPE")
    yield of("format-version-zero", version, 0, "VALUE")
    yield of("format-version-negative", version, -1, "VALUE")
    yield of("format-version-newer", version, 2, "NEWER_VERSION")
    newer = json.dumps({"format": "vitaie-bundle", "format_version": 9, "all": "else differs"})
    yield Vector(
        "format-version-newer-and-all-else-too",
        newer.encode("ascii"), "E_MANIFEST_NEWER_VERSION", version,
    )  # fmt: skip


def _types() -> Iterator[Vector]:
    def of(name: str, path: str, value: Any, code: str = "TYPE") -> Vector:
        return Vector(name, _changed(path, value), f"E_MANIFEST_{code}", path)

    for path in ("content_digest", "source", "toolchain", "artifacts[1].sha256", "model.gflop",
                 "goldens[0].margin", "targets[1].agreement", "expected.accuracy[0].top5",
                 "preprocess.crop.mode"):  # fmt: skip
        name = "missing-" + path.replace("_", "-").replace("[", "-").replace("].", "-")
        data = _without(path)
        yield Vector(name.replace(".", "-"), data, "E_MANIFEST_MISSING_FIELD", path)
    yield of("unknown-field", "comment", "", "UNKNOWN_FIELD")
    yield of("unknown-field-in-an-object", "model.comment", "", "UNKNOWN_FIELD")
    yield of("unknown-field-in-an-array", "weights[1].comment", "", "UNKNOWN_FIELD")
    yield of("integer-true", "artifacts[1].size", True)
    yield of("integer-with-fraction-zero", "artifacts[1].size", 1.0)
    yield Vector("integer-with-exponent", _edited('"size": 81234', '"size": 1e2'),
                 "E_MANIFEST_TYPE", "artifacts[1].size")  # fmt: skip
    yield of("integer-text", "artifacts[1].size", "81234")
    yield of("integer-null", "artifacts[1].size", None)
    yield of("fixed-integer-with-fraction-zero", "preprocess.scale", 255.0)
    yield of("fixed-integer-true", "preprocess.max_pixels", True)
    yield of("real-true", "model.gflop", True)
    yield of("real-text", "model.gflop", "0.032")
    yield of("real-null", "goldens[0].margin", None)
    yield of("text-number", "goldens[0].credit", 5)
    yield of("text-null", "model.timm_tag", None)
    yield of("word-of-a-list-number", "targets[0].backend", 1)
    yield of("digest-null", "source.sha256", None)
    yield of("array-object", "accuracy", {})
    yield of("array-text", "outputs", "logits")
    yield of("object-array", "expected", [])
    yield of("object-null", "model", None)
    yield of("object-text-in-an-array", "goldens[0]", "golden/00.jpg")
    yield of("map-array", "toolchain.packages", [])
    yield of("map-value-number", "toolchain.packages.timm", 1)
    yield of("option-real", "targets[0].options.real", 1.5)
    yield of("option-null", "targets[0].options.none", None)
    yield of("option-array", "targets[0].options.list", [1])
    yield of("dimension-true", "inputs[0].shape[0]", True)
    yield of("dimension-real", "inputs[0].shape[1]", 3.0)


def _without(path: str) -> bytes:
    """Return the right manifest without one field, each digest right that still has its fields."""
    document = json.loads(seal(whole_document()))
    return digests.with_manifest_digest(
        (json.dumps(drop(document, path), ensure_ascii=False, indent=1) + "\n").encode("utf-8")
    )


def _values() -> Iterator[Vector]:
    def of(name: str, path: str, value: Any, field: str = "") -> Vector:
        return Vector(name, _changed(path, value), "E_MANIFEST_VALUE", field or path)

    yield of("size-negative", "artifacts[1].size", -1)
    yield of("positive-zero", "model.depth", 0)
    yield of("real-negative", "goldens[0].margin", -0.5)
    yield of("real-zero-where-positive", "preprocess.std[2]", 0)
    yield of("percent-over-100", "expected.accuracy[0].top1", 100.001)
    yield of("level-3", "targets[0].optim_level", 3)
    yield of("fixed-integer-other", "preprocess.scale", 256)
    yield of("word-of-a-list-other", "targets[0].device", "CPU")
    yield of("role-other", "artifacts[1].role", "model")
    yield of("digest-upper-case", "source.sha256", "ABCDEF01" * 8)
    yield of("digest-short", "source.sha256", "0" * 63)
    yield of("digest-long", "source.sha256", "0" * 65)
    yield of("digest-of-sha512", "source.sha256", "0" * 128)
    yield of("digest-with-algorithm", "source.sha256", "sha256:" + "0" * 64)
    yield of("digest-then-newline", "source.sha256", "0" * 64 + "\n")
    yield of("name-upper-case", "name", "Vit")
    yield of("name-with-slash", "name", "a/b")
    yield of("name-of-dots", "name", "..")
    yield of("name-empty", "name", "")
    yield of("name-of-65", "name", "a" * 65)
    yield of("version-of-two-parts", "version", "1.0")
    yield of("version-leading-zero", "version", "1.02.3")
    yield of("version-then-newline", "version", "1.0.0\n")
    yield of("version-other-digits", "version", "1.0.\u0663")
    yield of("date-month-13", "toolchain.created", "2026-13-02T03:04:05Z")
    yield of("date-without-zone", "toolchain.created", "2026-01-02T03:04:05")
    yield of("text-of-4097", "toolchain.machine", "é" * 4097)
    yield of("tensor-name-empty", "inputs[0].name", "")
    yield of("mean-of-two", "preprocess.mean", [0.5, 0.5])
    yield of("mean-of-four", "preprocess.mean", [0.5, 0.5, 0.5, 0.5])
    tensor = whole_document()["inputs"][0]
    yield of("no-input", "inputs", [])
    yield of("two-inputs", "inputs", [tensor, tensor])
    yield of("dimension-zero", "outputs[0].shape[1]", 0)
    yield of("dimension-unknown-word", "outputs[0].shape[0]", "n")
    yield of("weight-of-nine-dimensions", "weights[0].shape", [1] * 9)
    yield of("weights-none", "weights", [])
    yield of("goldens-none", "goldens", [])
    yield of("target-without-files", "targets[0].files", [])


def _with_artifact(path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a document with a file of a target's at ``path``, its last artifact."""
    document = document or whole_document()
    row: dict[str, Any] = {
        "path": path,
        "role": "target",
        "size": 1,
        "sha256": "a" * 64,
        "chunks": [],
    }
    document["artifacts"].append(row)
    return document


def _paths() -> Iterator[Vector]:
    field = f"artifacts[{_ARTIFACTS}].path"
    for name, path in (
        ("empty", ""), ("dot", "."), ("dot-dot", ".."), ("parent", "targets/../../secret"),
        ("absolute", "/etc/passwd"), ("double-slash", "targets//a"), ("slash-at-end", "targets/a/"),
        ("backslash", "targets\\a"), ("drive", "C:/a"), ("hidden", "targets/.git"),
        ("hyphen-first", "targets/-rf"), ("space", "targets/a b"), ("newline", "targets/a\nb"),
        ("newline-at-end", "targets/a\n"), ("escape-code", "targets/\x1b[31ma"),
        ("not-ascii", "targets/é"), ("other-digits", "targets/\u0663"),
        ("of-256-characters", "targets/" + "a" * 248),
    ):  # fmt: skip
        yield Vector(f"path-{name}", seal(_with_artifact(path)), "E_MANIFEST_PATH", field)
    data = _changed("targets[1].files[0]", "../model.ts")
    yield Vector("path-parent-in-a-target", data, "E_MANIFEST_PATH", "targets[1].files[0]")
    data = _changed("goldens[0].crop", "/golden/00.png")
    yield Vector("path-absolute-in-a-golden", data, "E_MANIFEST_PATH", "goldens[0].crop")
    document = whole_document()
    document["artifacts"].append(document["artifacts"][-1])
    yield Vector("path-twice", seal(document), "E_MANIFEST_PATH_TWIN", field)
    twin = f"artifacts[{len(document['artifacts'])}].path"
    for name, first, second in (
        ("case-twin", "targets/a", "targets/A"), ("file-then-folder", "targets/a", "targets/a/b"),
        ("folder-then-file", "targets/a/b", "targets/a"),
        ("file-then-folder-other-case", "targets/A", "targets/a/b"),
    ):  # fmt: skip
        data = seal(_with_artifact(second, _with_artifact(first)))
        yield Vector(f"path-{name}", data, "E_MANIFEST_PATH_TWIN", twin)
    data = seal(_with_artifact("Manifest.json"))
    yield Vector("path-of-the-manifest", data, "E_MANIFEST_PATH_TWIN", field)


def _structure() -> Iterator[Vector]:
    def of(code: str, name: str, path: str, value: Any, field: str = "") -> Vector:
        return Vector(name, _changed(path, value), f"E_MANIFEST_{code}", field or path)

    yield of("VALUE", "role-in-the-wrong-place", "artifacts[2].role", "target", "artifacts[2].path")
    outside, field = seal(_with_artifact("extra/a")), f"artifacts[{_ARTIFACTS}].path"
    yield Vector("target-file-outside", outside, "E_MANIFEST_VALUE", field)
    labels = seal(drop(whole_document(), "artifacts[2]"))
    yield Vector("labels-missing", labels, "E_MANIFEST_REFERENCE", "artifacts")
    field = "artifacts[0].chunks"
    yield of("CHUNKS", "chunks-missing", field, [])
    yield of("CHUNKS", "chunks-too-few", field, ["0" * 64])
    yield of("CHUNKS", "chunks-too-many", field, ["0" * 64] * 3)
    yield of("CHUNKS", "chunks-of-a-small-file", "artifacts[2].chunks", ["0" * 64])
    yield of("REFERENCE", "target-file-unknown", "targets[0].files[0]", "targets/model.onnx")
    yield of("REFERENCE", "target-file-of-other-role", "targets[0].files[0]", "labels.txt")
    yield of("REFERENCE", "golden-unknown", "goldens[0].logits", "golden/01.npy")
    yield of("REFERENCE", "golden-of-other-role", "goldens[0].source", "golden/00.png")
    yield of("REFERENCE", "golden-class-unknown", "goldens[0].top1", 10)
    yield of("VALUE", "golden-classes-equal", "goldens[0].top2", 7)
    yield of("VALUE", "golden-too-large", "goldens[0].height", 2**20, "goldens[0].height")
    document = whole_document()
    put(document, "targets[1].id", document["targets"][0]["id"])
    yield Vector("target-id-twice", seal(document), "E_MANIFEST_VALUE", "targets[1].id")
    yield of("VALUE", "target-file-twice", "targets[1].files", ["model.ts", "model.ts"])
    yield of("VALUE", "batch-sizes-falling", "targets[0].batch_sizes", [8, 1])
    yield of("VALUE", "agreement-more-than-images", "targets[0].agreement.top1_equal", 2)
    data = seal(drop(whole_document(), "targets[1]"))
    yield Vector("torchscript-target-missing", data, "E_MANIFEST_VALUE", "targets")
    yield of("WEIGHTS", "weight-length-not-the-shape", "weights[0].length", 7684)
    yield of("WEIGHTS", "weight-unaligned", "weights[0].offset", 1028)
    yield of("WEIGHTS", "weight-past-the-end", "weights[1].offset", 20 * _MIB)
    yield of("WEIGHTS", "weight-offset-wrapping", "weights[1].offset", 2**53 - 64)
    yield of("WEIGHTS", "weight-overlapping", "weights[1].offset", 8640)
    yield of("WEIGHTS", "weight-name-twice", "weights[1].name", "head.weight")
    yield of("WEIGHTS", "weight-shape-overflowing", "weights[0].shape", [2**32, 2**32, 2**32, 30],
             "weights[0].length")  # fmt: skip
    yield of("VALUE", "patch-does-not-divide", "model.patch_size", 5)
    yield of("VALUE", "heads-do-not-divide", "model.heads", 5)
    yield of("VALUE", "profile-of-other-resize", "preprocess.resize.mode", "square")
    yield of("VALUE", "crop-larger-than-resize", "preprocess.resize.size", 31)
    document = put(whole_document(), "preprocess.crop.size", 30)
    yield Vector("crop-not-the-image", seal(document), "E_MANIFEST_VALUE", "preprocess.crop.size")
    yield of("VALUE", "input-of-other-size", "inputs[0].shape", ["batch", 3, 32, 31])
    yield of("VALUE", "input-batch-fixed", "inputs[0].shape", [1, 3, 32, 32])
    yield of("VALUE", "output-of-other-size", "outputs[0].shape", ["batch", 11])


def _records() -> Iterator[Vector]:
    def of(code: str, name: str, path: str, value: Any, field: str = "") -> Vector:
        return Vector(name, _changed(path, value), f"E_MANIFEST_{code}", field or path)

    other = "b" * 64
    yield of("REFERENCE", "accuracy-of-other-target", "accuracy[0].target_digest", other)
    yield of("REFERENCE", "accuracy-of-other-preprocess", "accuracy[0].preprocess_digest", other)
    yield of("REFERENCE", "speed-of-other-target", "performance[0].target_digest", other)
    yield of("REFERENCE", "predictions-of-other-role", "accuracy[0].predictions", "labels.txt")
    yield of("REFERENCE", "latencies-unknown", "performance[0].latencies", "measurements/none")
    yield of("VALUE", "count-over-images", "accuracy[0].top5.count", 361)
    yield of("VALUE", "percent-not-the-count", "accuracy[0].top1.percent", 97.5001)
    yield of("VALUE", "interval-elsewhere", "accuracy[0].source_top1.wilson95.high", 97.0,
             "accuracy[0].source_top1.wilson95")  # fmt: skip
    document = whole_document()
    fewer = {"count": 350, "percent": 100 * 350 / 360, "wilson95": {"low": 95.0, "high": 99.0}}
    put(document, "accuracy[0].top5", fewer)
    yield Vector("top5-below-top1", seal(document), "E_MANIFEST_VALUE", "accuracy[0].top5.count")
    for name, both, target_only, source_only, neither in (
        ("target", 349, 1, 1, 9), ("source", 349, 2, 2, 7), ("all", 349, 2, 1, 9),
    ):  # fmt: skip
        cells = {"both": both, "target_only": target_only}
        cells |= {"source_only": source_only, "neither": neither}
        yield of("VALUE", f"paired-sum-of-{name}", "accuracy[0].paired", cells)
    yield of("VALUE", "invalid-without-reasons", "performance[0].verdict", "INVALID",
             "performance[0].reasons")  # fmt: skip
    yield of("VALUE", "valid-with-reasons", "performance[0].reasons", ["drift"])


def _digests() -> Iterator[Vector]:
    field, code = "manifest_digest", "E_MANIFEST_DIGEST"
    good = seal(whole_document())
    start = good.index(b'"manifest_digest": "') + len(b'"manifest_digest": "')
    claimed = good[start : start + 64]

    def claiming(digits: bytes) -> bytes:
        return good.replace(claimed, digits)

    flipped = good.replace(b'"size": 81234', b'"size": 81235')
    yield Vector("one-bit-changed", flipped, code, field)
    yield Vector("one-space-more", good.replace(b'"size": 81234', b'"size":  81234'), code, field)
    yield Vector("one-newline-more-at-the-end", good + b"\n", code, field)
    yield Vector("manifest-digest-other", claiming(b"0" * 64), code, field)
    yield Vector("manifest-digest-upper-case", claiming(claimed.upper()), code, field)
    yield Vector("manifest-digest-short", claiming(claimed[:-1]), code, field)
    yield Vector("manifest-digest-null", good.replace(b'"' + claimed + b'"', b"null"), code, field)
    escaped = good.replace(b'"manifest_digest"', b'"manifest\\u005fdigest"')
    yield Vector("manifest-digest-key-escaped", escaped, code, field)
    again = good.replace(b'"timm_tag": ""', b'"timm_tag": "manifest_digest"')
    yield Vector("manifest-digest-named-twice", again, code, field)
    gone = good.replace(b' "manifest_digest": "' + claimed + b'",\n', b"")
    yield Vector("manifest-digest-missing", gone, "E_MANIFEST_MISSING_FIELD", field)
    document = json.loads(good)
    other = {**document["targets"][1]["options"], "threads": 1}
    for name, path, value in (
        ("other", "targets[1].target_digest", "c" * 64), ("without-an-option",
         "targets[1].options", other), ("of-another-file", "artifacts[0].sha256", "c" * 64),
    ):  # fmt: skip
        index = 0 if name == "of-another-file" else 1
        data = seal(put(json.loads(good), path, value), keep="target_digest")
        field = f"targets[{index}].target_digest"
        yield Vector(f"target-digest-{name}", data, "E_MANIFEST_TARGET_DIGEST", field)
    for name, path, value in (
        ("other", "content_digest", "d" * 64), ("of-another-label-file", "artifacts[2].sha256",
         "d" * 64), ("of-another-credit", "goldens[0].credit", "Somebody else"),
    ):  # fmt: skip
        data = seal(put(json.loads(good), path, value), keep="content_digest")
        yield Vector(f"content-digest-{name}", data, "E_MANIFEST_CONTENT_DIGEST", "content_digest")


def _ranges() -> Iterator[Vector]:
    def of(field: str, value: float) -> bytes:
        return seal(_bound(put(whole_document(), f"preprocess.{field}", value)))

    limits = put(whole_document(), "preprocess.mean", [-1000, 1000, 0])
    put(limits, "preprocess.std", [1e-6, 1000, 1])
    yield Vector("mean-and-std-at-their-limits", seal(_bound(limits)))
    for name, field, value in (
        ("mean-too-large", "mean[1]", 1000.0000000000001), ("mean-too-small", "mean[0]", -1e308),
        ("std-too-large", "std[0]", 1e39), ("std-too-small", "std[2]", 9.99999e-7),
    ):  # fmt: skip
        yield Vector(name, of(field, value), "E_MANIFEST_VALUE", f"preprocess.{field}")


def _measured() -> Iterator[Vector]:
    def of(code: str, name: str, path: str, value: Any, field: str = "") -> Vector:
        return Vector(name, _changed(path, value), f"E_MANIFEST_{code}", field or path)

    document = whole_document()
    of_source = ("source_top1", "source_top5", "paired", "agreement")
    document["accuracy"][0].update(dict.fromkeys(of_source))
    yield Vector("unpaired", seal(document))
    for name in of_source:
        data = _changed(f"accuracy[0].{name}", None)
        yield Vector(f"paired-without-{name.replace('_', '-')}", data, "E_MANIFEST_VALUE",
                     "accuracy[0].paired")  # fmt: skip
    document["accuracy"][0]["agreement"] = 355
    yield Vector("agreement-of-an-unpaired", seal(document), "E_MANIFEST_VALUE",
                 "accuracy[0].paired")  # fmt: skip
    yield Vector("agreement-at-its-limits", _changed("accuracy[0].agreement", 349))
    yield of("VALUE", "agreement-below-both", "accuracy[0].agreement", 348)
    yield of("VALUE", "agreement-above-both-and-neither", "accuracy[0].agreement", 358)
    yield of("VALUE", "missing-negative", "accuracy[0].dataset.missing", -1)
    yield of("VALUE", "measured-in-month-13", "accuracy[0].created", "2026-13-02T03:04:05Z")

    speed = "performance[0]"
    times = {"p50": 1, "p90": 1, "p95": 2.5, "p99": 3, "p99.9": 3}
    yield Vector("all-percentiles", _changed(f"{speed}.latency_ms", times))
    yield Vector("one-percentile", _changed(f"{speed}.latency_ms", {"p50": 1e-9}))
    yield Vector("placement-unknown", _changed(f"{speed}.placement", None))
    for name, latencies in (
        ("none", {}), ("unknown", {"p50": 1, "p98": 2}), ("without-p50", {"p90": 1}),
        ("with-a-gap", {"p50": 1, "p95": 1}), ("falling", {"p50": 2, "p90": 1}),
    ):  # fmt: skip
        yield of("VALUE", f"percentiles-{name}", f"{speed}.latency_ms", latencies)
    yield of("VALUE", "percentile-zero", f"{speed}.latency_ms.p50", 0)
    yield of("TYPE", "percentile-null", f"{speed}.latency_ms.p90", None)
    yield of("TYPE", "percentiles-array", f"{speed}.latency_ms", [8.1])
    yield of("VALUE", "single-stream-of-two", f"{speed}.batch_size", 2)
    yield of("VALUE", "placement-over-1", f"{speed}.placement", 1.5)
    yield of("TYPE", "placement-text", f"{speed}.placement", "all")
    yield of("VALUE", "protocol-other", f"{speed}.protocol", "none")
    yield of("VALUE", "inputs-other", f"{speed}.inputs", "zeros")

    yield of("VALUE", "tolerance-with-cosine", "targets[0].tolerance.cosine", 0.999)
    yield of("TYPE", "tolerance-real", "targets[0].tolerance", 0.0001)
    yield of("VALUE", "tolerance-zero", "targets[0].tolerance.max_rel_diff", 0)
    yield of("VALUE", "cosine-zero", "targets[0].tolerance.cosine", 0.0)
    yield of("TYPE", "cosine-true", "targets[0].tolerance.cosine", True)
    agreement = "targets[0].agreement.logits_sha256"
    yield of("VALUE", "golden-digest-missing", agreement, [])
    yield of("VALUE", "golden-digest-short", f"{agreement}[0]", "0" * 63)


def _gates() -> Iterator[Vector]:
    def of(code: str, name: str, path: str, value: Any, field: str = "") -> Vector:
        return Vector(name, _changed(path, value), f"E_MANIFEST_{code}", field or path)

    document = whole_document()
    (gate, *_) = document["gates"]
    texts = (
        *("top1>=0.0", "top1>=100.0", "top5>=99.999999", "top1_drop<=0.000001"),
        *("top1_drop<=99.999999", "top1_drop<=10.5", "agreement>=1.0", "agreement>=0.0"),
        *("fps>=999999999.999999", "latency_p50_ms<=0.1", "latency_p90_ms<=9.0"),
        *("latency_p95_ms<=40.0", "latency_p99_ms<=12.25", "latency_p99.9_ms<=0.0"),
        "placement>=0.999999",
    )
    document["gates"] = [{**gate, "require": text} for text in texts]
    yield Vector("gates-of-every-kind", seal(document))
    for name, text in (
        ("empty", ""), ("without-a-fraction", "top1>=84"), ("idle-zero", "top1>=84.50"),
        ("two-zeros", "top1>=84.00"), ("leading-zero", "top1>=084.0"), ("spaces", "top1 >= 84.0"),
        ("no-digit-before-the-point", "agreement>=.5"), ("the-wrong-way", "top1<=84.0"),
        ("equal", "top1==84.0"), ("unknown-metric", "top2>=84.0"),
        ("unknown-percentile", "latency_p98_ms<=9.0"), ("over-100", "top1>=100.000001"),
        ("drop-zero", "top1_drop<=0.0"), ("drop-100", "top1_drop<=100.0"),
        ("share-over-1", "agreement>=1.000001"), ("negative", "fps>=-1.0"),
        ("exponent", "fps>=1.0e3"), ("seven-decimals", "fps>=0.1234567"),
        ("ten-digits", "fps>=1234567890.0"), ("newline", "fps>=50.0\n"),
        ("other-digits", "fps>=5\u0663.0"),
    ):  # fmt: skip
        yield of("VALUE", f"gate-{name}", "gates[0].require", text)
    yield of("TYPE", "gate-number", "gates[0].require", 84.0)
    yield of("REFERENCE", "gate-of-other-target", "gates[1].target_digest", "b" * 64)
    yield of("VALUE", "gate-that-failed", "gates[0].verdict", "fail")
    yield of("VALUE", "gate-with-other-verdict", "levels[0].gates[0].verdict", "passed")
    yield of("VALUE", "gate-twice", "gates[1].require", "top1>=97.0")


def _levels() -> Iterator[Vector]:
    def of(code: str, name: str, path: str, value: Any, field: str = "") -> Vector:
        return Vector(name, _changed(path, value), f"E_MANIFEST_{code}", field or path)

    document = whole_document()
    put(document, "levels[0].gates[0].verdict", "undecidable")
    yield Vector("level-not-chosen-is-invalid", seal(put(document, "levels[0].verdict", "INVALID")))
    yield of("VALUE", "level-chosen-by-none", "levels[1].chosen", False, "levels")
    yield of("VALUE", "level-chosen-twice", "levels[0].chosen", True, "levels")
    yield of("TYPE", "level-chosen-integer", "levels[1].chosen", 1)
    yield of("VALUE", "level-twice", "levels[0].optim_level", 2, "levels[1].optim_level")
    for name, value in (("boundary", "end_to_end"), ("scenario", "offline"), ("batch_size", 2)):
        field = f"levels[1].{name}"
        yield of("VALUE", f"level-of-other-{name.replace('_', '-')}", field, value)
    document = put(whole_document(), "levels[0].batch_size", 2)
    data = seal(put(document, "levels[1].batch_size", 2))
    yield Vector("level-single-stream-of-two", data, "E_MANIFEST_VALUE", "levels[0].batch_size")
    yield of("VALUE", "level-chosen-is-invalid", "levels[1].verdict", "INVALID")
    yield of("VALUE", "level-chosen-failed-a-gate", "levels[1].gates[0].verdict", "fail")
    yield of("REFERENCE", "level-gate-of-other-target", "levels[0].gates[0].target_digest",
             "b" * 64)  # fmt: skip
    yield of("REFERENCE", "level-latencies-unknown", "levels[0].latencies", "measurements/none")
    yield of("REFERENCE", "level-predictions-unknown", "levels[1].predictions", "labels.txt")
    yield of("TYPE", "level-predictions-false", "levels[0].predictions", False)

    def as_it_is(name: str, code: str, field: str, *changes: tuple[str, Any]) -> Vector:
        document = json.loads(seal(whole_document()))
        for path, value in changes:
            put(document, path, value)
        return Vector(name, seal(document, keep="target_digest"), f"E_MANIFEST_{code}", field)

    yield as_it_is("level-chosen-is-no-target", "REFERENCE", "levels[1].target_digest",
                   ("levels[1].target_digest", "c" * 64),
                   ("levels[1].gates", []))  # fmt: skip
    yield as_it_is("level-chosen-is-not-the-targets", "VALUE", "levels[1].optim_level",
                   ("levels[0].optim_level", 0), ("levels[1].optim_level", 1))  # fmt: skip
    yield as_it_is("target-digest-of-a-level-other", "TARGET_DIGEST", "levels[0].target_digest",
                   ("levels[0].target_digest", "c" * 64), ("levels[0].gates", []))  # fmt: skip


_ON_DEVICE = "ascend310p3-fp16-b8-o2"


def _with_device(*changes: tuple[str, Any], name: str = _ON_DEVICE) -> bytes:
    """Return the right manifest with a device's target, and then these values at these paths."""
    document = _with_artifact(f"targets/{name}/model.ts")
    other = f"targets/{name}-other/model.ts"
    document = _with_artifact(other, document)
    target = {
        **document["targets"][1],
        "id": name,
        "backend": "torch_aie",
        "device": "ascend310p3",
        "precision": name.split("-")[1],
        "optim_level": 2,
        "batch_sizes": [8],
        "files": [f"targets/{name}/model.ts"],
        "options": {"double": False, "soc_version": "Ascend310P3"},
        "toolchain": {"mindietorch": "1.0.0", "cann": "8.0.RC2"},
        "tolerance": {"max_rel_diff": 0.05, "cosine": 0.999},
    }
    document["targets"].append(target)
    for path, value in changes:
        put(document, path, value)
    return seal(document)


def _devices() -> Iterator[Vector]:
    field, name, changed = "targets[2]", _ON_DEVICE, _with_device

    def of(name: str, member: str, value: Any, at: str = "") -> Vector:
        data = changed((f"{field}.{member}", value))
        return Vector(name, data, "E_MANIFEST_VALUE", f"{field}.{at or member}")

    yield Vector("device-target", changed())
    by_double = (f"{field}.options.double", True), (f"{field}.toolchain.mindietorch", "double")
    yield Vector("device-target-of-the-double", changed(*by_double))
    mixed = changed(name="ascend310p3-pref_fp16-b8-o2")
    yield Vector("device-target-of-mixed-precision", mixed)
    yield of("device-target-on-the-cpu", "device", "cpu")
    yield of("device-precision-unknown", "precision", "int8")
    yield of("device-target-of-any-batch", "batch_sizes", [])
    yield of("device-target-of-two-batches", "batch_sizes", [1, 8])
    files = [f"targets/{name}/model.ts", f"targets/{name}-other/model.ts"]
    yield of("device-target-of-two-files", "files", files)
    yield of("device-target-of-anothers-file", "files", files[1:])
    yield of("device-target-of-the-source", "files", ["model.ts"])
    yield of("device-target-silent-of-the-double", "options", {"soc_version": "Ascend310P3"})
    yield of("device-target-double-a-number", "options.double", 1, "options")
    on_device = _changed("targets[0].device", "ascend310p3")
    yield Vector("cpu-backend-on-a-device", on_device, "E_MANIFEST_VALUE", "targets[0].device")
    half = _changed("targets[1].precision", "fp16")
    yield Vector("cpu-backend-in-half", half, "E_MANIFEST_VALUE", "targets[1].precision")
    counts = {"operators_before": 300, "operators_after": 240, "operators_outside": 12}
    options = {"double": False, "allow_fallback": True, "soc_version": "Ascend310P3", **counts}
    outside = (f"{field}.operators_outside", ["aten::gelu"])
    data = changed((f"{field}.options", options), outside)
    yield Vector("device-target-with-operators-outside", data)
    document = json.loads(changed())
    ships = document["targets"][2]["target_digest"]
    for level, digest in zip(document["levels"], ("c" * 64, ships)):
        put(level, "target_digest", digest)
        for gate in level["gates"]:
            put(gate, "target_digest", digest)
    yield Vector("device-levels-of-other-modules", seal(document, keep="target_digest"))
    put(document, "levels[1].target_digest", "d" * 64)
    put(document, "levels[1].gates", [])
    data = seal(document, keep="target_digest")
    field = "levels[1].target_digest"
    yield Vector("device-level-chosen-is-no-target", data, "E_MANIFEST_REFERENCE", field)


def _doubles() -> Iterator[Vector]:
    target = "targets[2]"
    field = f"{target}.options.double"
    says, denies = (field, True), (field, False)
    for place in ("toolchain", "agreement.packages"):
        name = place.rpartition(".")[2]
        for package in ("mindietorch", "torch_aie"):
            named = (f"{target}.{place}.{package}", "double")
            vector = f"double-{package.replace('_', '-')}-of-the-{name}"
            yield Vector(vector, _with_device(says, named))
            data = _with_device(denies, named)
            yield Vector(f"{vector}-denied", data, "E_MANIFEST_VALUE", field)
    yield Vector("double-named-by-nothing", _with_device(says), "E_MANIFEST_VALUE", field)
    others = (f"{target}.toolchain.cann", "double"), (f"{target}.toolchain.mindietorch", "Double")
    yield Vector("double-of-other-words", _with_device(denies, *others))


def _threads() -> Iterator[Vector]:
    places = [
        f"{place}.threads" for place in ("targets[1].agreement", "accuracy[0]", "performance[0]")
    ]
    for count in (1, 1024):
        document = whole_document()
        for place in places:
            put(document, place, count)
        yield Vector(f"threads-{count}", seal(document))
    for place in places:
        for count in (0, 1025):
            name = re.sub(r"[^a-z]+", "-", place)
            yield Vector(f"{name}-{count}", _changed(place, count), "E_MANIFEST_VALUE", place)


def _tolerances() -> Iterator[Vector]:
    for index in (0, 1):
        field = f"targets[{index}].tolerance.max_rel_diff"
        yield Vector(f"difference-of-target-{index}-at-its-limit", _changed(field, 0.001))
        data = _changed(field, 0.0010000000000000002)
        yield Vector(f"difference-of-target-{index}-too-large", data, "E_MANIFEST_VALUE", field)
    full, field = "ascend310p3-fp32-b8-o2", "targets[2].tolerance.cosine"
    data = _with_device(name=full)
    yield Vector("device-in-full-precision-with-cosine", data, "E_MANIFEST_VALUE", field)
    yield Vector("device-in-full-precision", _with_device((field, None), name=full))


def _names() -> Iterator[Vector]:
    field = "targets[0].id"
    for name in ("cpu", "all", "onnxruntime-cpu-fp16", "torchscript-cpu-fp32-other"):
        yield Vector(f"cpu-target-named-{name}", _changed(field, name), "E_MANIFEST_VALUE", field)
    for what in ("pref_fp16-b8-o2", "fp16-b1-o2", "fp16-b08-o2", "fp16-b8-o1", "fp16-b8"):
        name = f"ascend310p3-{what}"
        data = _with_device(("targets[2].precision", "fp16"), name=name)
        yield Vector(f"device-target-named-{what}", data, "E_MANIFEST_VALUE", "targets[2].id")


def _batches() -> Iterator[Vector]:
    yield Vector("device-target-of-batch-1024", _with_device(
        ("targets[2].batch_sizes", [1024]), name="ascend310p3-fp16-b1024-o2"))  # fmt: skip
    data = _with_device(("targets[2].batch_sizes", [1025]), name="ascend310p3-fp16-b1025-o2")
    field = "targets[2].batch_sizes"
    yield Vector("device-target-of-batch-1025", data, "E_MANIFEST_VALUE", field)
    offline = ("performance[0].scenario", "offline")
    for place, others in (("accuracy[0]", ()), ("performance[0]", (offline,))):
        field = f"{place}.batch_size"
        for size, code in ((1024, ""), (1025, "E_MANIFEST_VALUE")):
            document = whole_document()
            for path, value in (*others, (field, size)):
                put(document, path, value)
            name = f"{place.partition('[')[0]}-of-batch-{size}"
            yield Vector(name, seal(document), code, field if code else "")


def _commas() -> Iterator[Vector]:
    yield Vector("commas-in-a-string", _changed("toolchain.command", "," * 40_000))
    most = b"[" + b"0," * 2**15 + b"0]"
    yield Vector("commas-as-many-as-may-be", most, "E_MANIFEST_NOT_OBJECT")
    yield Vector("commas-one-too-many", most[:-1] + b",0]", "E_MANIFEST_TOO_LARGE")
    yield Vector("commas-too-many-and-unclosed", most[:-1] + b",,", "E_MANIFEST_TOO_LARGE")
    brackets = b"[" + b"{}," * (2**12 - 2) + b"{}]"
    yield Vector("brackets-as-many-as-may-be", brackets, "E_MANIFEST_NOT_OBJECT")
    yield Vector("brackets-one-too-many", brackets[:-1] + b",{}]", "E_MANIFEST_TOO_LARGE")


def _what_is_measured() -> Iterator[Vector]:
    field = "targets[0].files"
    for name, files in (
        ("the-graph-alone", ["model.onnx"]),
        ("the-weights-alone", ["model.ts"]),
        ("another-order", ["model.ts", "model.onnx"]),
    ):
        data = _changed(field, files)
        yield Vector(f"onnxruntime-target-of-{name}", data, "E_MANIFEST_VALUE", field)
    field = "targets[1].files"
    for name, files in (("the-graph", ["model.onnx"]), ("both", ["model.onnx", "model.ts"])):
        data = _changed(field, files)
        yield Vector(f"torchscript-target-of-{name}", data, "E_MANIFEST_VALUE", field)
    document = whole_document()
    index = next(i for i, a in enumerate(document["artifacts"]) if a["role"] == "measurement")
    for size, code in ((2**28, ""), (2**28 + 1, "E_MANIFEST_VALUE")):
        chunks = ["0" * 64] * -(-size // 2**24)
        put(document, f"artifacts[{index}].size", size)
        put(document, f"artifacts[{index}].chunks", chunks)
        name = f"evidence-of-{size}-bytes"
        yield Vector(name, seal(document), code, f"artifacts[{index}].size" if code else "")
    for count, code in ((64, ""), (65, "E_MANIFEST_VALUE")):
        document = whole_document()
        gate = document["gates"][0]
        texts = [f"fps>={number}.0" for number in range(count)]
        document["gates"] = [{**gate, "require": text} for text in texts]
        yield Vector(f"gates-{count}", seal(document), code, "gates" if code else "")


def _days() -> Iterator[Vector]:
    for day, code in (
        ("2026-02-29", "E_MANIFEST_VALUE"),
        ("2028-02-29", ""),
        ("2100-02-29", "E_MANIFEST_VALUE"),
        ("2000-02-29", ""),
        ("2026-02-31", "E_MANIFEST_VALUE"),
        ("2026-04-31", "E_MANIFEST_VALUE"),
        ("2026-12-31", ""),
    ):
        data = _changed("toolchain.created", f"{day}T03:04:05Z")
        yield Vector(f"made-on-{day}", data, code, "toolchain.created" if code else "")


CASES = (
    *(_right, _json, _format, _types, _values, _paths, _structure, _records, _digests),
    *(_ranges, _measured, _gates, _levels, _devices, _doubles, _threads, _tolerances),
    *(_names, _batches, _commas, _what_is_measured, _days),
)
"""Each a function that yields vectors; they are numbered, so that a new one comes last."""
