"""``vitaie`` as a process: streams that are closed, full or of another alphabet, and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundles import copy_bundle, put
from tests.support.images import PHOTOS
from vitaie.manifests.outputs import ClassifyOutput, ErrorOutput, InfoOutput

VITAIE = Path(sys.executable).with_name("vitaie")
CAT = str(PHOTOS / "cat.jpg")


def shell(line: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell; ``"$@"`` in it is vitaie with these arguments."""
    command = ["sh", "-c", line, "sh", str(VITAIE), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env={**os.environ, **environment}
    )


def test_the_installed_command_works(small_bundle: Path) -> None:
    done = shell('"$@"', "info", small_bundle, "--json")
    assert done.returncode == 0
    InfoOutput.model_validate_json(done.stdout)


@pytest.mark.parametrize("command", ["info", "verify"])
@pytest.mark.parametrize("json_option", ["--json", "--quiet"])
@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
def test_an_output_that_takes_nothing_is_5(
    small_bundle: Path, command: str, json_option: str, output: str
) -> None:
    target = ["--target", "cpu"] if command == "verify" else []
    done = shell(f'"$@" {output}', command, small_bundle, json_option, *target)
    assert done.returncode == 5
    (line,) = [line for line in done.stderr.splitlines() if "E_" in line]
    assert line.startswith("E_DISK: standard output: ")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"], ["nonsense", "--json"]])
def test_a_pipe_that_nobody_reads_is_no_traceback(small_bundle: Path, arguments: list[str]) -> None:
    """The manifest alone is larger than what Python keeps before it writes."""
    command, *options = arguments
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = subprocess.run(
            [VITAIE, command, small_bundle, *options],
            stdout=writer,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    finally:
        os.close(writer)
    assert process.returncode == (2 if command == "nonsense" else 5)
    assert "Traceback" not in process.stderr
    assert "Exception" not in process.stderr


def test_messages_that_cannot_be_shown_do_not_reach_the_output(small_bundle: Path) -> None:
    done = shell('"$@" 2>&-', "classify", small_bundle, CAT, "--json")
    assert done.returncode == 0
    ClassifyOutput.model_validate_json(done.stdout)
    for where in ("2>&-", "2>/dev/full"):
        done = shell(f'"$@" {where}', "info", "/nowhere", "--json")
        assert done.returncode == 1
        assert ErrorOutput.model_validate_json(done.stdout).error.code == "E_BUNDLE_NOT_FOUND"


def test_a_terminal_of_another_alphabet_gets_escapes_and_json_is_ascii(
    small_bundle: Path, tmp_path: Path
) -> None:
    bundle = copy_bundle(small_bundle, tmp_path / "bundle")
    put(bundle, "labels.txt", "".join(f"c{index}\tété {index}\n" for index in range(5)).encode())
    done = shell('"$@"', "classify", bundle, CAT, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\xe9t\\xe9 0" in done.stdout
    done = shell('"$@"', "classify", bundle, CAT, "--json", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    labels = {p["label"] for p in json.loads(done.stdout)["images"][0]["predictions"]}
    assert "été 0" in labels
    assert done.stdout.isascii()


_SLOW = """
import sys, time
from vitaie.runtime import _cli

def load(*arguments, **options):
    print("loading", file=sys.stderr, flush=True)
    time.sleep(60)

_cli.load = load
_cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_says_so_and_exits_with_130(
    small_bundle: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, "classify", small_bundle, CAT, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "loading\n"
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 130
    assert err.startswith("E_INTERRUPTED: ")
    assert len(err.splitlines()) == 1
    assert ErrorOutput.model_validate_json(out).error.exit_code == 130


_LOST = """
import os, signal, sys, time
from vitaie.runtime import _cli

class Interrupted:
    def __del__(self):  # no exception gets out of it
        os.kill(os.getpid(), signal.SIGINT)

def load(*arguments, **options):
    Interrupted()
    time.sleep(60)

_cli.load = load
_cli.main()
"""


def test_an_interrupt_where_no_exception_gets_out_is_not_lost(small_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOST, "classify", small_bundle, CAT],
        capture_output=True,
        encoding="utf-8",
        timeout=50,
    )
    assert done.returncode == 130
    assert done.stderr.startswith("E_INTERRUPTED: ")
    assert len(done.stderr.splitlines()) == 1


_IMPORTING = """
import sys, time
from vitaie import _entry

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            print("importing", file=sys.stderr, flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
_entry.{command}()
"""


@pytest.mark.parametrize("command", ["vitaie", "vitaie_build"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_interrupted_while_it_is_imported_says_so_and_exits_with_130(
    number: signal.Signals, command: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _IMPORTING.format(command=command), "variants", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "importing\n"
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 130
    name = command.replace("_", "-")
    assert err.startswith(f"E_INTERRUPTED: {name}: ")
    assert len(err.splitlines()) == 1
    assert ErrorOutput.model_validate_json(out).error.message == err.strip()


def test_a_command_whose_signals_are_ignored_still_ignores_them_while_it_is_imported() -> None:
    code = _IMPORTING.format(command="vitaie").replace("sleep(60)", "sleep(0.5)")
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT HUP; exec "$@"', "sh", sys.executable, "-c", code, "--help"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGHUP)
        assert process.wait() == 0


def test_before_a_command_can_answer_signals_hardly_anything_is_imported() -> None:
    """Until then Ctrl-C shows Python's traceback, so what comes before is as little as can be."""
    code = """
import re, signal, sys  # what pip's script and signal itself import
before = set(sys.modules)
from vitaie import _entry
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.split() == ["__future__", "vitaie", "vitaie._entry"]


def test_what_tqdm_reads_of_the_environment_ends_no_command(small_bundle: Path) -> None:
    malformed = {f"TQDM_{name}": "abc" for name in ("MININTERVAL", "SMOOTHING", "TOTAL")}
    done = shell('"$@"', "info", small_bundle, "--quiet", **malformed)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("limit", [60_000, 100_000, 150_000, 200_000, 250_000])
def test_too_little_address_space_for_the_imports_is_5(small_bundle: Path, limit: int) -> None:
    done = shell(f'ulimit -v {limit}; "$@"', "info", small_bundle, "--json")
    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("E_MEMORY: vitaie: ")
    assert ErrorOutput.model_validate_json(done.stdout).error.message == done.stderr.strip()


@pytest.mark.parametrize("limit", [6, 7, 8, 12, 18, 19, 20])
def test_too_few_open_files_are_the_process_limit_and_5(small_bundle: Path, limit: int) -> None:
    """Whatever meets the limit: a folder, a file, memory that is mapped, an import."""
    done = shell(f'ulimit -n {limit}; "$@"', "classify", small_bundle, CAT, "-q", "--target=cpu")
    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("E_DISK: ")
    assert "Too many open files" in done.stderr
    assert done.stderr.endswith("Allow more open files (ulimit -n), then run it again.\n")
    assert "standard output" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        "ImportError('libgfortran.so: failed to map segment from shared object')",
        "OSError('libtorch_cpu.so: cannot allocate memory in static TLS block')",
        "OSError(12, 'Cannot allocate memory', '/usr/lib')",
        "MemoryError()",
    ],
)
@pytest.mark.parametrize("when", ["numpy", "pydantic"])
def test_memory_refused_to_an_import_is_5(small_bundle: Path, error: str, when: str) -> None:
    """``numpy`` is imported with the command, ``pydantic`` by what it does."""
    code = f"""
import sys
from vitaie import _entry

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name == {when!r}:
            raise {error}

sys.meta_path.insert(0, Refused())
_entry.vitaie()
"""
    command = [sys.executable, "-c", code, "info", str(small_bundle)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 5
    assert done.stderr.startswith("E_MEMORY: vitaie: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_import_that_fails_for_another_reason_shows_its_traceback() -> None:
    code = "import sys; sys.modules['typer'] = None; from vitaie import _entry; _entry.vitaie()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_what_needs_no_torch_works_in_a_folder_that_was_deleted(
    small_bundle: Path, tmp_path: Path
) -> None:
    gone = f'mkdir "{tmp_path}/gone" && cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && "$@"'
    bundle = small_bundle.resolve()
    done = shell(gone, "classify", bundle, CAT, "--quiet", "--target", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
