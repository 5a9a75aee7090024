"""What the journal and the record cost of an evaluation: their part of the processors' time.

    python benchmarks/evaluate_kept.py BUNDLE DATA BATCH_SIZE

Their calls are timed by the clock of the thread that makes them, beside the clock of the process.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from vitaie.manifests.measurement import AccuracyMeasurement, to_bytes
from vitaie.runtime._evaluate import evaluate
from vitaie.runtime._files import write_output
from vitaie.runtime._journal import Block, Journal

_append = Journal.append
spent = 0.0


def append(self: Journal, number: int, block: Block) -> None:
    """Take a block, and write some now and then, timed."""
    global spent
    started = time.thread_time()
    _append(self, number, block)
    spent += time.thread_time() - started


def main(bundle: Path, data: Path, batch_size: int) -> None:
    """Print the part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def save(measurement: AccuracyMeasurement) -> None:
            global spent
            started = time.thread_time()
            write_output(folder / "record.json", to_bytes(measurement))
            spent += time.thread_time() - started

        Journal.append = append  # type: ignore[method-assign]  # to time it
        started = time.process_time()
        evaluate(
            bundle,
            data,
            paired=False,
            batch_size=batch_size,
            journal=folder / "journal",
            save=save,
        )
        print(spent / (time.process_time() - started))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
