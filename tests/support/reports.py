"""Bundles to report on: of records made up call by call, of pictures to disagree on, of malice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.bundles import Document, copy_bundle, document, reseal
from tests.support.manifests import get, paths, put, seal
from tests.support.measured import with_records
from tests.test_measurement import accuracy, performance
from vitaie.manifests.errors import VitaieError
from vitaie.manifests.manifest import Manifest, preprocess_digest
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    Measurement,
    accuracy_record,
    read_measurement,
    to_bytes,
)
from vitaie.runtime._report import write

HOSTILE = (
    "\"'></style></title></script><script>window.pwned=1</script>"
    "<img src=x onerror=window.pwned=1><svg/onload=window.pwned=1>"
    "{{7*7}}{% raw %}<!--]]>javascript:\x1b[31m\u202e&lt;"
)

_BYTES_SAY = ("weights", "inputs", "outputs", "artifacts")
"""Fields that the other files of a bundle must agree with, or it does not open."""


def page_of(bundles: Sequence[Path], folder: Path, *, data: Path | None = None) -> bytes:
    """Return the page on bundles, as ``vitaie report`` writes it."""
    output = folder / "report.html"
    write.report(bundles, output, write.Options(data=data), progress=lambda _: None)
    return output.read_bytes()


def measurements_of(bundle: Path, text: str = "") -> list[Measurement]:
    """Return a measurement of accuracy and one of speed that nobody made, bound to a bundle.

    Where a record has text of its own, it is ``text``, if that is any.
    """
    whole = document(bundle)
    documents = [accuracy(), performance()]
    for each in documents:
        each["subject"] = {
            "name": whole["name"],
            "content_digest": whole["content_digest"],
            "target": whole["targets"][0]["id"],
            "target_digest": whole["targets"][0]["target_digest"],
            "preprocess_digest": preprocess_digest(Manifest.from_bytes(seal(whole)).preprocess),
        }
        if text:
            each["environment"] = {**each["environment"], "processor": text, "machine": text}
    if text:
        images = documents[0]["images"]
        documents[0]["dataset"] = text
        documents[0]["missing"] = [text]
        images["path"] = [f"{text}{number}" for number in range(len(images["path"]))]
    return [read_measurement(json.dumps(each).encode(), "record.json") for each in documents]


def with_disagreements(bundle: Path, folder: Path, count: int = 25) -> Path:
    """Copy a measured bundle whose source model disagrees on the first so many images."""
    copy_bundle(bundle, folder)
    path = document(folder)["accuracy"][0]["predictions"]
    measured = read_measurement((folder / path).read_bytes(), path)
    assert isinstance(measured, AccuracyMeasurement)
    source = [
        (classes[1], classes[0], *classes[2:]) if index < count else classes
        for index, classes in enumerate(measured.images.source or ())
    ]
    images = measured.images.model_copy(update={"source": tuple(source)})
    changed = measured.model_copy(update={"images": images})
    (folder / path).write_bytes(to_bytes(changed))

    def change(whole: Document) -> None:
        whole["accuracy"][0] = accuracy_record(changed, path)

    reseal(folder, change)
    return folder


def add_gates_and_levels(bundle: Path) -> None:
    """Put into a measured bundle the two gates that its first target passed, and its levels."""
    whole = document(bundle)
    manifest = Manifest.from_bytes((bundle / "manifest.json").read_bytes())
    files = {row["path"]: row["sha256"] for row in whole["artifacts"]}
    target, speed = manifest.targets[0], manifest.performance[0]

    def gates(digest: str, verdict: str) -> list[dict[str, Any]]:
        requirements = (("top1>=50.0", "a half is right"), ("fps>=50.0", "it is fast enough"))
        return [
            {"require": require, "target_digest": digest, "verdict": verdict, "reason": reason}
            for require, reason in requirements
        ]

    def level(number: int) -> dict[str, Any]:
        chosen = number == target.optim_level
        digest = target.model_copy(update={"optim_level": number}).digest(files)
        return {
            "optim_level": number,
            "target_digest": digest,
            **{"boundary": "host", "scenario": "single_stream", "batch_size": 1},
            "fps": 100.5 + number,
            "verdict": "VALID",
            "gates": gates(digest, "pass" if chosen else "undecidable"),
            "latencies": speed.latencies,
            "predictions": None,
            "chosen": chosen,
        }

    def change(whole: Document) -> None:
        whole["gates"] = gates(target.target_digest, "pass")
        whole["levels"] = [level(number) for number in range(3)]

    reseal(bundle, change)


def hostile_bundle(bundle: Path, folder: Path) -> Path:
    """Copy a bundle with records, and write hostile text wherever the format takes any."""
    with_records(bundle, folder, measurements_of(bundle, HOSTILE))
    add_gates_and_levels(folder)
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    hostile = "".join(f"{HOSTILE}{number}\t{HOSTILE}\n" for number in range(len(labels)))
    (folder / "labels.txt").write_text(hostile, encoding="utf-8")
    published: dict[str, Any] = {
        "accuracy": [{"source": HOSTILE, "top1": 80.5, "top5": 95.25}],
        "speed": [{"source": HOSTILE, "device": HOSTILE, "batch_size": 1, "fps": 342.34}],
    }

    def change(whole: Document) -> None:
        whole["expected"] = published
        for path in paths(whole):
            fixed = path.startswith(_BYTES_SAY) or path.endswith("_digest")
            if not fixed and isinstance(get(whole, path), str):
                _put_if_taken(whole, path)
        whole["toolchain"]["packages"][HOSTILE] = HOSTILE
        whole["targets"][0]["toolchain"][HOSTILE] = HOSTILE

    reseal(folder, change)
    return folder


def _put_if_taken(whole: Document, path: str) -> None:
    """Put hostile text at a path, unless the format has no place for it there."""
    before = get(whole, path)
    put(whole, path, HOSTILE)
    try:
        Manifest.from_bytes(seal(whole))
    except (VitaieError, KeyError):
        put(whole, path, before)
