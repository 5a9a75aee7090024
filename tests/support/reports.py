"""Bundles to report on: of records that nobody measured, of pictures to disagree on, of malice.

The numbers of a bundle made here follow from its evidence, as those of any that was measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.bundles import Document, copy_bundle, document, reseal
from tests.support.manifests import get, paths, put, seal
from tests.support.measurements import accuracy, performance
from tests.support.published import replace_evidence
from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import VitaieError
from vitaie.manifests.gates import Cells, Facts, judge, parse_gate
from vitaie.manifests.manifest import Manifest, preprocess_digest
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    Images,
    Measurement,
    PerformanceMeasurement,
    accuracy_record,
    performance_record,
    read_measurement,
    to_bytes,
)
from vitaie.runtime._dataset import DatasetDigest
from vitaie.runtime._environment import peak_tflops
from vitaie.runtime._report import write

HOSTILE = (
    "\"'></style></title></script><script>window.pwned=1</script>"
    "<img src=x onerror=window.pwned=1><svg/onload=window.pwned=1>"
    "{{7*7}}{% raw %}<!--]]>javascript:\x1b[31m\u202e&lt;"
)

_BYTES_SAY = ("weights", "inputs", "outputs", "artifacts")
"""Fields that the other files of a bundle must agree with, or it does not open."""


_GATES = ("top1>=50.0", "fps>=50.0")


def page_of(
    bundles: Sequence[Path],
    folder: Path,
    *,
    data: Path | None = None,
    analyses: Sequence[Document] = (),
) -> bytes:
    """Return the page on bundles, as ``vitaie report`` writes it."""
    output = folder / "report.html"
    files: list[Path] = []
    for number, analysis in enumerate(analyses):
        files.append(folder / f"analysis-{number}.json")
        files[-1].write_text(json.dumps(analysis), encoding="utf-8")
    options = write.Options(data=data, analyses=tuple(files))
    write.report(bundles, output, options, progress=lambda _: None)
    return output.read_bytes()


def analysis_of(bundle: Path, *, wrong: bool = False, text: str = "") -> Document:
    """Return a document of ``vitaie-build analyze --json`` that nobody computed.

    Of a model in which nothing goes wrong; with ``wrong`` a LayerNorm overflows, and two images
    change their class. Where it has text of its own, it ends in ``text``.
    """
    manifest = _manifest(bundle)
    names = ["patches", "blocks.0.norm1", "blocks.0.attention.softmax", "norm", "logits"]
    layers: list[Document] = [
        {
            "name": f"{name}{text}",
            "largest": 10.0 * place + 0.5,
            "headroom": 65504 / (10.0 * place + 0.5),
            "square": None,
            "square_sum": None,
            "score": None,
            "overflows": 0,
            "cosine": 0.99999,
            "risks": [],
        }
        for place, name in enumerate(names)
    ]
    flips: list[Document] = []
    if wrong:
        norm = {"square": 90_000.0, "square_sum": None, "overflows": 7, "cosine": 0.0}
        layers[1].update(norm, risks=[f"the squares of the variance overflow{text}"])
        layers[4].update(overflows=5, cosine=0.0, largest=None, headroom=0.0)
        flips = [
            {"image": f"c0/0.jpg{text}", "exact": 0, "half": -1, "margin": 1.25},
            {"image": f"c1/1.jpg{text}", "exact": 1, "half": 2, "margin": 0.001},
        ]
    return {
        "path": str(bundle),
        "name": manifest.name,
        "version": manifest.version,
        "content_digest": manifest.content_digest,
        "inputs": "dataset" if wrong else "goldens",
        "images": 64,
        "assumptions": [f"every result is rounded{text}"],
        "least_cosine": 0.99,
        "first_wrong": layers[1]["name"] if wrong else None,
        "top1_equal": 64 - len(flips),
        "flips": flips,
        "layers": layers,
    }


def measurements_of(
    bundle: Path, text: str = ""
) -> tuple[AccuracyMeasurement, PerformanceMeasurement]:
    """Return a measurement of accuracy, of six images, and one of speed, of 1,000 calls.

    They are bound to the bundle's first target. Where they have text of their own, it is ``text``,
    if that is any.
    """
    seen, timed = accuracy(), performance()
    if text:
        seen["dataset"], seen["missing"] = text, [text]
        images = seen["images"]
        images["path"] = [f"{text}{number}" for number in range(len(images["path"]))]
    manifest = _manifest(bundle)
    ranks = min(5, manifest.model.classes)
    for name in ("target", "source"):
        rows: list[list[int]] = seen["images"][name]
        seen["images"][name] = [[*row, *range(len(row), ranks)] for row in rows]
    for each in (seen, timed):
        each["subject"] = {
            "name": manifest.name,
            "content_digest": manifest.content_digest,
            "target": manifest.targets[0].id,
            "target_digest": manifest.targets[0].target_digest,
            "preprocess_digest": preprocess_digest(manifest.preprocess),
        }
        if text:
            each["environment"] = {**each["environment"], "processor": text, "machine": text}
    one, other = (_read(each) for each in (seen, timed))
    assert isinstance(one, AccuracyMeasurement)
    assert isinstance(other, PerformanceMeasurement)
    return with_images(one), other


def with_images(measurement: AccuracyMeasurement, **columns: Any) -> AccuracyMeasurement:
    """Return a measurement with other columns, and the digest of the dataset that they are of."""
    images = Images.model_validate({**measurement.images.model_dump(), **columns})
    digest = DatasetDigest()
    for row in zip(images.path, images.size, images.sha256, images.label):
        digest.add(*row)
    update = {"images": images, "dataset_digest": digest.hexdigest()}
    return measurement.model_copy(update=update)


def with_records(bundle: Path, folder: Path, measurements: Sequence[Measurement]) -> Path:
    """Copy a bundle to ``folder`` and put records of measurements of it in."""
    copy_bundle(bundle, folder)
    found = [_add(folder, measurement) for measurement in measurements]

    def change(whole: Document) -> None:
        for kind, record in found:
            whole[kind].append(record)

    reseal(folder, change)
    return folder


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
    changed = with_images(measured, source=tuple(source))
    name = replace_evidence(folder, path, to_bytes(changed))

    def change(whole: Document) -> None:
        whole["accuracy"][0] = accuracy_record(changed, name)

    reseal(folder, change)
    return folder


def add_gates_and_levels(bundle: Path) -> None:
    """Put into a measured bundle two gates that its target passed, and two slower levels."""
    manifest = _manifest(bundle)
    target, seen, ships = manifest.targets[0], manifest.accuracy[0], manifest.performance[0]
    files = {artifact.path: artifact.sha256 for artifact in manifest.artifacts}
    _, timed = measurements_of(bundle)
    levels: list[Document] = []
    for number in range(target.optim_level):
        digest = target.model_copy(update={"optim_level": number}).digest(files)
        subject = timed.subject.model_copy(update={"target_digest": digest})
        runs = tuple(_slower(run, 2 + number) for run in timed.runs)
        _, record = _add(bundle, timed.model_copy(update={"subject": subject, "runs": runs}))
        levels.append(_level(number, record, chosen=False))
    levels.append(_level(target.optim_level, ships.model_dump(), chosen=True))
    facts = _facts(ships.model_dump(), seen.model_dump())
    gates = [_gate(text, target.target_digest, facts) for text in _GATES]
    levels[-1].update(gates=gates, predictions=seen.predictions)
    reseal(bundle, lambda whole: whole.update(gates=gates, levels=levels))


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


def _manifest(bundle: Path) -> Manifest:
    return Manifest.from_bytes((bundle / "manifest.json").read_bytes())


def _read(whole: Document) -> Measurement:
    return read_measurement(json.dumps(whole).encode(), "record.json")


def _add(bundle: Path, measurement: Measurement) -> tuple[str, Document]:
    """Write evidence and list it; return what the manifest may say of it, and in which field."""
    data, whole = to_bytes(measurement), document(bundle)
    kind = measurement.format.replace("vitaie-", "")
    path = f"measurements/{kind}-{sha256(data)[:12]}.json"
    (bundle / "measurements").mkdir(exist_ok=True)
    (bundle / path).write_bytes(data)
    row: dict[str, Any] = {
        "path": path,
        "role": "measurement",
        "size": 0,
        "sha256": "",
        "chunks": [],
    }
    whole["artifacts"].append(row)
    (bundle / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    reseal(bundle)
    if isinstance(measurement, AccuracyMeasurement):
        return kind, accuracy_record(measurement, path)
    peak = peak_tflops(measurement.environment, measurement.threads)
    gflop: float = whole["model"]["gflop"]
    return kind, performance_record(measurement, path, gflop=gflop, peak_tflops=peak)


def _slower(run: Any, factor: int) -> Any:
    """Return a run whose calls took so many times as long."""
    times = {
        name: tuple(factor * at for at in getattr(run, name)) for name in ("start_ns", "end_ns")
    }
    return run.model_copy(update=times)


def _level(number: int, record: Document, *, chosen: bool) -> Document:
    same = ("target_digest", "boundary", "scenario", "batch_size", "fps", "verdict", "latencies")
    return {
        "optim_level": number,
        **{name: record[name] for name in same},
        "gates": [_gate(text, record["target_digest"], _facts(record)) for text in _GATES],
        "predictions": None,
        "chosen": chosen,
    }


def _gate(text: str, digest: str, facts: Facts) -> Document:
    outcome = judge(parse_gate(text), facts)
    return {
        "require": text,
        "target_digest": digest,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
    }


def _facts(speed: Document, seen: Document | None = None) -> Facts:
    timed = {name: speed[name] for name in ("fps", "latency_ms", "placement")}
    if seen is None:
        return Facts(performance=speed["verdict"], **timed)
    return Facts(
        n=seen["dataset"]["images"],
        top1=seen["top1"]["count"],
        top5=seen["top5"]["count"],
        cells=Cells(**seen["paired"]),
        agreement=seen["agreement"],
        performance=speed["verdict"],
        **timed,
    )
