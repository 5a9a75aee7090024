"""Documents of measurements that could have been made: what records are built and judged from."""

from __future__ import annotations

import copy
from typing import Any

DIGESTS = [f"{number:064x}" for number in range(8)]

SUBJECT = {
    "name": "digits",
    "content_digest": DIGESTS[0],
    "target": "onnxruntime-cpu-fp32",
    "target_digest": DIGESTS[1],
    "preprocess_digest": DIGESTS[2],
}
ENVIRONMENT: dict[str, Any] = {
    "created": "2026-11-24T12:00:00Z",
    "machine": "Linux x86_64",
    "processor": "a processor",
    "features": ["avx2"],
    "processors": 2,
    "python": "3.11.7",
    "packages": {"onnxruntime": "1.32.0"},
}


def accuracy() -> dict[str, Any]:
    """Six images: the target is right on the first three, the source on the first two and last."""
    return {
        "format": "vitaie-accuracy",
        "format_version": 1,
        "subject": SUBJECT,
        "dataset": "val",
        "dataset_digest": DIGESTS[3],
        "missing": ["broken.png"],
        "batch_size": 4,
        "threads": 2,
        "images": {
            "path": [f"{number}.png" for number in range(6)],
            "size": [100] * 6,
            "sha256": DIGESTS[:6],
            "label": [0, 1, 2, 0, 1, 2],
            "target": [[0, 1, 2], [1, 2, 0], [2, 0, 1], [1, 0, 2], [0, 2, 1], [1, 0, 2]],
            "source": [[0, 1, 2], [1, 2, 0], [0, 2, 1], [1, 0, 2], [0, 2, 1], [2, 1, 0]],
        },
        "environment": ENVIRONMENT,
    }


def performance(runs: int = 1, calls: int = 1000, call_ns: int = 10_000_000) -> dict[str, Any]:
    """Calls of 10 ms, each begun 1 ms after the one before it ended."""
    starts = [number * (call_ns + 1_000_000) for number in range(calls)]
    run = {
        "load_s": 0.5,
        "first_call_s": 0.2,
        "warm_up_calls": 20,
        "warm_up_s": 1.1,
        "start_ns": starts,
        "end_ns": [start + call_ns for start in starts],
        "peak_mib": 700.5,
    }
    return {
        "format": "vitaie-performance",
        "format_version": 1,
        "subject": SUBJECT,
        "boundary": "host",
        "scenario": "single_stream",
        "protocol": "quick",
        "batch_size": 1,
        "threads": 2,
        "inputs": {
            "kind": "photographs",
            "count": 64,
            "seed": 1,
            "digest": DIGESTS[4],
        },
        "runs": [_later(run, number) for number in range(runs)],
        "honesty": {
            "seed": 1,
            "checked": 8,
            "differing": 0,
            "distinct_ms": 10.0,
            "repeated_ms": 9.5,
            "artifacts_unchanged": True,
        },
        "placement": 1.0,
        "environment": ENVIRONMENT,
    }


def _later(run: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the run of this number: two processes have neither times nor pauses in common."""
    later = copy.deepcopy(run)
    for name in ("start_ns", "end_ns"):
        later[name] = [each + number * 10**13 for each in run[name]]
        later[name][-1] += number
    return later
