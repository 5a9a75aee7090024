"""A bundle with records: measurements put into a copy of it as ``vitaie-build attach`` would.

The manifest's records are computed from the measurements by the package's one function for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.bundles import Document, copy_bundle, document, reseal
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    Measurement,
    accuracy_record,
    performance_record,
    to_bytes,
)


def with_records(bundle: Path, folder: Path, measurements: Sequence[Measurement]) -> Path:
    """Copy a bundle to ``folder`` and put records of measurements of it in."""
    copy_bundle(bundle, folder)
    gflop: float = document(folder)["model"]["gflop"]
    records: list[tuple[str, dict[str, Any]]] = []
    rows: list[dict[str, Any]] = []
    for number, measurement in enumerate(measurements):
        path = f"measurements/{number:02d}/record.json"
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(to_bytes(measurement))
        rows.append({"path": path, "role": "measurement", "size": 0, "sha256": "", "chunks": []})
        if isinstance(measurement, AccuracyMeasurement):
            records.append(("accuracy", accuracy_record(measurement, path)))
        else:
            record = performance_record(measurement, path, gflop=gflop, peak_tflops=None)
            records.append(("performance", record))

    def add(whole: Document) -> None:
        for kind, record in records:
            whole[kind].append(record)

    whole = document(folder)
    whole["artifacts"] += rows
    (folder / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    reseal(folder, add)
    return folder
