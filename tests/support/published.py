"""Bundles that publish measurements, true ones and ones that somebody made better than they are.

``publish`` writes evidence and records as whoever publishes a bundle would; ``forge`` changes one
of the two, or both alike, and makes every digest right again: what is wrong then is wrong although
nothing was touched by accident.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.bundles import Document, document, reseal
from vitaie.manifests.digests import sha256
from vitaie.manifests.gates import Cells, Facts, judge, parse_gate
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    Measurement,
    accuracy_record,
    performance_record,
    read_measurement,
    to_bytes,
)
from vitaie.runtime._environment import peak_tflops

Evidence = dict[str, Any]


def publish(bundle: Path, *measurements: Measurement, require: Sequence[str] = ()) -> Path:
    """Add measurements to a bundle, and gates on the first of accuracy and of speed."""
    whole = document(bundle)
    rows, added = list(whole["artifacts"]), dict[str, list[Document]]()
    (bundle / "measurements").mkdir(exist_ok=True)
    for measurement in measurements:
        data = to_bytes(measurement)
        kind, record = _record(measurement, data, whole["model"]["gflop"])
        path = record["predictions" if kind == "accuracy" else "latencies"]
        (bundle / path).write_bytes(data)
        rows.append({"path": path, "role": "measurement", "size": 0, "sha256": "", "chunks": []})
        added.setdefault(kind, []).append(record)

    def add(whole: Document) -> None:
        for kind, records in added.items():
            whole[kind] += records
        whole["gates"] = [_gate(whole, text) for text in require]

    _seal_with(bundle, rows, add)
    return bundle


def _seal_with(bundle: Path, rows: list[Document], change: Callable[[Document], object]) -> None:
    whole = {**document(bundle), "artifacts": rows}
    (bundle / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    reseal(bundle, change)


def _record(measurement: Measurement, data: bytes, gflop: float) -> tuple[str, Document]:
    kind = "accuracy" if isinstance(measurement, AccuracyMeasurement) else "performance"
    path = f"measurements/{kind}-{sha256(data)[:12]}.json"
    if isinstance(measurement, AccuracyMeasurement):
        return kind, accuracy_record(measurement, path)
    peak = peak_tflops(measurement.environment, measurement.threads)
    return kind, performance_record(measurement, path, gflop=gflop, peak_tflops=peak)


def _gate(whole: Document, text: str) -> Document:
    facts: dict[str, Any] = {}
    for record in whole["accuracy"][:1]:
        cells = record["paired"]
        facts = {
            "n": record["dataset"]["images"],
            "top1": record["top1"]["count"],
            "top5": record["top5"]["count"],
            "cells": None if cells is None else Cells(**cells),
            "agreement": record["agreement"],
        }
    for record in whole["performance"][:1]:
        facts["performance"] = record["verdict"]
        facts.update({name: record[name] for name in ("fps", "latency_ms", "placement")})
    gate = parse_gate(text)
    outcome = judge(gate, Facts(**facts))
    first = (whole["accuracy"] or whole["performance"])[0]
    return {
        "require": str(gate),
        "target_digest": first["target_digest"],
        "verdict": outcome.verdict,
        "reason": outcome.reason,
    }


def forge(bundle: Path, kind: str, change: Callable[[Evidence], object]) -> None:
    """Change the evidence of the first record, and let the manifest say what follows from it.

    The file is named as its new bytes are to be.
    """
    whole = document(bundle)
    record = whole[kind][0]
    name = "predictions" if kind == "accuracy" else "latencies"
    path = record[name]
    evidence = json.loads((bundle / path).read_bytes())
    change(evidence)
    data = (json.dumps(evidence, separators=(",", ":")) + "\n").encode("ascii")
    _, forged = _record(read_measurement(data, path), data, whole["model"]["gflop"])
    assert forged[name] == replace_evidence(bundle, path, data)
    reseal(bundle, lambda whole: whole[kind].__setitem__(0, forged))


def replace_evidence(bundle: Path, path: str, data: bytes) -> str:
    """Put other evidence in the place of what lies at ``path``; return the name it has to have."""
    data = (json.dumps(json.loads(data), separators=(",", ":")) + "\n").encode("ascii")
    name = f"{path.partition('-')[0]}-{sha256(data)[:12]}.json"
    (bundle / path).unlink()
    (bundle / name).write_bytes(data)
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    (bundle / "manifest.json").write_text(text.replace(path, name), encoding="utf-8")
    reseal(bundle)
    return name
