"""``vitaie-edge`` as tests run it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.cpp import program
from vitaie.manifests.outputs import ErrorOutput
from vitaie.runtime._cli import app
from vitaie.runtime._command import run

TORCHSCRIPT = "torchscript-cpu-fp32"


class Result(NamedTuple):
    code: int
    out: str
    err: str


def edge(*arguments: object, binary: Path | None = None, **options: Any) -> Result:
    """Run ``vitaie-edge``."""
    done = subprocess.run(
        [binary or program("vitaie-edge"), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
        **options,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def python(capture: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """Run ``vitaie`` in this process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        code = run(app, "vitaie", [str(argument) for argument in arguments])
    finally:
        for number, handler in zip(numbers, handlers):
            signal.signal(number, handler)
    out, err = capture.readouterr()
    return Result(code, out, err)


def fails(code: str, exit_code: int, *arguments: object, **options: Any) -> str:
    """Assert that a command fails like this, told in one line and in JSON; return the line."""
    plain = edge(*arguments, **options)
    assert (plain.code, plain.out) == (exit_code, ""), plain
    line = plain.err.splitlines()[-1]
    assert line.startswith(f"{code}: ")
    assert line.isprintable()
    told = edge(*arguments, "--json", **options)
    error = ErrorOutput.model_validate_json(told.out).error
    assert (error.code, error.exit_code, told.code) == (code, exit_code, exit_code)
    assert error.message == told.err.splitlines()[-1] == line
    return line
