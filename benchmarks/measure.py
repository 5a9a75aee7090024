"""Measuring commands side by side: in turns, each a fresh process, with its own peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    """One finished process: wall seconds, peak resident memory in MiB, what it printed."""

    wall: float
    peak_mib: float
    output: str


class Comparison(NamedTuple):
    """Ours beside the alternative, as medians over interleaved runs."""

    name: str
    ours: float
    theirs: float
    ratio: float
    limit: float
    unit: str
    ours_mib: float
    theirs_mib: float

    @property
    def holds(self) -> bool:
        """Whether the ratio is within its limit."""
        return self.ratio <= self.limit


def run(command: Sequence[object], folder: Path | None = None) -> Run:
    """Run a command to its end; it must succeed."""
    started = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], cwd=folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as stdout:
        output = stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{process.returncode}: {' '.join(map(str, command))}")
    return Run(time.perf_counter() - started, usage.ru_maxrss / 1024, output)


def compare(
    name: str, limit: float, unit: str, ours: Sequence[Run], theirs: Sequence[Run], *, printed: bool
) -> Comparison:
    """Compare runs made in turns: the ratio is the median of the neighbours' ratios.

    Args:
        name: What was compared.
        limit: What the ratio may be at most.
        unit: Of the figures.
        ours: Our runs.
        theirs: The alternative's runs, each made right after ours of the same index.
        printed: Whether the figure is the last word a run printed, or else its wall time.
    """
    left = [float(item.output.split()[-1]) if printed else item.wall for item in ours]
    right = [float(item.output.split()[-1]) if printed else item.wall for item in theirs]
    return Comparison(
        name,
        statistics.median(left),
        statistics.median(right),
        statistics.median(a / b for a, b in zip(left, right)),
        limit,
        unit,
        statistics.median(item.peak_mib for item in ours),
        statistics.median(item.peak_mib for item in theirs),
    )


def table(rows: Sequence[Comparison]) -> str:
    """Return the comparisons as a Markdown table."""
    lines = [
        "| what | vitaie | alternative | ratio | at most | | peak MiB | alternative's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.ours:.4g} {row.unit} | {row.theirs:.4g} {row.unit} |"
        f" {row.ratio:.3f} | {row.limit:.2f} | {'holds' if row.holds else 'MISSED'} |"
        f" {row.ours_mib:.0f} | {row.theirs_mib:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)
