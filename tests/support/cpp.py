"""The C++ reader's verdicts, by the program ``vitaie-judge``, and Python's in the same form."""

from __future__ import annotations

import os
import subprocess
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from vitaie.manifests.errors import VitaieError

BUILD = Path(os.environ.get("VITAIE_CPP_BUILD") or Path(__file__).parents[2] / "cpp" / "build")
"""Another folder than ``cpp/build`` is one with a sanitizer, or one for another processor whose
programs start through an emulator."""


class Verdict(NamedTuple):
    """What a reader says of a manifest or bundle; code ``ok`` for what is right."""

    exit_code: int
    code: str
    field: str


OK = Verdict(0, "ok", "")


def program(name: str) -> Path:
    """Return the path of a program that ``make cpp`` builds; fail plainly where it is missing."""
    path = BUILD / name
    if not path.is_file():
        pytest.fail(f"{path} is missing: run `make cpp` first", pytrace=False)
    return path


def python_verdict(act: Callable[[], object]) -> Verdict:
    """Return what ``act`` ends with."""
    try:
        act()
    except VitaieError as error:
        return Verdict(error.exit_code, error.code, error.field)
    return OK


def cpp_manifest_verdicts(manifests: Iterable[bytes]) -> list[Verdict]:
    """Return the C++ reader's verdict on each manifest, all from one process."""
    manifests = list(manifests)
    lines = _judge(["manifests"], b"".join(b"%d\n" % len(data) + data for data in manifests))
    assert len(lines) == len(manifests)
    return [_verdict(line) for line in lines]


def cpp_bundle_verdict(bundle: Path) -> Verdict:
    """Return the C++ reader's verdict on a bundle: its files, every digest, labels, goldens."""
    (line,) = _judge(["bundle", str(bundle)], b"")
    return _verdict(line)


def _judge(arguments: list[str], data: bytes) -> list[str]:
    done = subprocess.run(
        [program("tests/vitaie-judge"), *arguments],
        input=data,
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, (done.returncode, done.stderr.decode("utf-8", "replace"))
    assert done.stderr == b""
    return done.stdout.decode("utf-8").splitlines()


def _verdict(line: str) -> Verdict:
    exit_code, code, field, text = line.split("\t")
    # A character that this Python's Unicode does not know yet may be printed: it steers nothing.
    assert all(c.isprintable() or c == "\t" or unicodedata.category(c) == "Cn" for c in line)
    assert text.startswith(code) or code == "ok"
    return Verdict(int(exit_code), code, field)
