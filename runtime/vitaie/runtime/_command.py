"""What both commands share: one line for an error, one document for ``--json``, exit codes.

Results go to stdout; progress, messages and the next useful command go to stderr.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional, Union, cast

import typer
from tqdm import tqdm

from vitaie.manifests.errors import (
    BundleError,
    DiskError,
    InputError,
    VitaieError,
    error_codes,
    is_out_of_files,
    is_out_of_memory,
    printable,
)
from vitaie.runtime import _ascend
from vitaie.runtime._bundle import MANIFEST_NAME, locate
from vitaie.runtime._files import MORE_FILES, raise_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from vitaie.runtime._evaluate import Progress

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no messages.")]
Threads = Annotated[
    Optional[int], typer.Option("--threads", metavar="N", help="Threads of the engine.")
]

DeviceId = Annotated[
    int,
    typer.Option(
        "--device-id", metavar="K", help="Which device runs a target that is made for one."
    ),
]


def _print_version(context: typer.Context, asked: bool) -> None:
    from importlib import metadata

    if asked:
        print(f"{context.find_root().info_name} {metadata.version('vitaie')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
]
BundlePath = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="A version's folder, or that of all versions.")
]


_FEW = 3  # bundles that a hint names
_MANY_FOLDERS = 200  # that are looked into for a hint
_MANY = 50  # steps, from which on the bar is redrawn ten times a second and not for each
_STDOUT_HINT = "Nothing was printed in full; give it a file or a pipe that takes it."

# Newer typers come with a click of their own: this finds the base of all its complaints in either.
_ClickError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def new_app(help_text: str) -> typer.Typer:
    """Return an application whose errors are ours to print."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; what a user can cause is one line on stderr."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    as_json = "--json" in arguments
    try:
        raise_on_signals()
        error_codes()  # read while files can be opened: what fails later may be just that
        _prepare_streams()
        code = _invoke(app, name, list(arguments))
        sys.stdout.flush()
        return code
    except VitaieError as error:
        return _fail(_helpful(error, arguments), as_json)
    except _ClickError as error:
        complaint: Any = error
        context: Any = getattr(error, "ctx", None)
        path = name if context is None else context.command_path
        hint = f"Run: {path} --help"
        return _fail(
            InputError("E_USAGE", path, got=complaint.format_message(), hint=hint), as_json
        )
    except (KeyboardInterrupt, typer.Abort):
        hint = "Nothing was left behind; run it again to start over."
        return _fail(VitaieError("E_INTERRUPTED", name, hint=hint), as_json)
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        return _fail(DiskError("E_MEMORY", name, got=error, hint="Allow more processes."), as_json)
    except (ImportError, MemoryError, OSError) as error:
        if is_out_of_files(error):
            where, got = getattr(error, "filename", None), getattr(error, "strerror", None)
            refused = DiskError("E_DISK", where or name, got=got or error, hint=MORE_FILES)
            return _fail(refused, as_json)
        if is_out_of_memory(error):
            got = str(error) or None
            hint = "Close other programs, or allow more memory."
            return _fail(DiskError("E_MEMORY", name, got=got, hint=hint), as_json)
        if not isinstance(error, OSError) or error.filename is not None:
            raise  # not ours to print: every file has its own error
        got = error.strerror
        if error.errno == errno.ENOENT:  # tempfile's, which some imports ask
            hint = "Name a folder in it that may be written to."
            return _fail(DiskError("E_DISK", "TMPDIR", got=got, hint=hint), as_json)
        _silence(1)
        return _fail(DiskError("E_DISK", "standard output", got=got, hint=_STDOUT_HINT), False)


def leave(code: int) -> NoReturn:
    """End the process, now that ``run`` has flushed what it printed, and a device is given back.

    Taking torch's modules apart lasts a second and gives back nothing that the system does not.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what was asked for is done
    _ascend.finish()
    if "torch" in sys.modules:
        os._exit(code)
    sys.exit(code)


def _helpful(error: VitaieError, arguments: Sequence[str]) -> VitaieError:
    """Return an error of the Python interface as one of the command line: what was typed."""
    where, hint = error.where, error.hint
    option = "--" + where.replace("_", "-")
    if error.code == "E_ARGUMENT" and any(text.split("=")[0] == option for text in arguments):
        where = option
    elif error.code == "E_BUNDLE_NOT_FOUND" and (found := _bundles_near(Path(where))):
        hint = f"Found there: {', '.join(map(str, found))}."
    else:
        return error
    return error.at(where, hint)


def _bundles_near(folder: Path) -> list[Path]:
    """Return the first few bundles in a folder, or in its folders, of the many it may hold.

    Of one that is not there, those beside it.
    """
    if not os.path.lexists(folder):
        folder = folder.parent
    for pattern in ("*", "*/*"):
        found: list[Path] = []
        with suppress(OSError):
            found += filter(_is_bundle, islice(folder.glob(pattern), _MANY_FOLDERS))
        if found:
            return sorted(found)[:_FEW]
    return []


def _is_bundle(folder: Path) -> bool:
    try:
        return not folder.name.startswith(".") and (locate(folder) / MANIFEST_NAME).is_file()
    except BundleError:
        return False


def _prepare_streams() -> None:
    """Let names of any alphabet reach a terminal of any encoding; refuse to print to nowhere.

    Python has no stream for a descriptor that was closed before it started, and the next file
    opened would get its number.
    """
    output, messages = cast("Any", sys.stdout), cast("Any", sys.stderr)
    if output is None or messages is None:
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    if messages is None:
        messages = sys.stderr = io.TextIOWrapper(io.BytesIO())
    messages.reconfigure(errors="backslashreplace")
    if output is None:
        sys.stdout = io.TextIOWrapper(io.BytesIO())
        raise DiskError("E_DISK", "standard output", got="it is closed", hint=_STDOUT_HINT)
    output.reconfigure(errors="backslashreplace")


def _invoke(app: typer.Typer, name: str, arguments: list[str]) -> int:
    """Run a command as its ``main`` does, which would take a broken pipe for exit code 1."""
    command: Any = typer.main.get_command(app)
    try:
        with command.make_context(name, arguments) as context:
            result = command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return result if isinstance(result, int) else 0


def _fail(error: VitaieError, as_json: bool) -> int:
    _Messages().write(f"{error}\n")
    try:
        if as_json:
            from vitaie.manifests.outputs import ErrorOutput

            print_json(ErrorOutput.model_validate({"error": error.details()}))
    except OSError:
        _silence(1)
    return error.exit_code


class _Messages:
    """stderr, where nobody may be listening: the exit code says what matters."""

    def write(self, text: str) -> None:
        """Write and flush; the first failure is the last."""
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            _silence(2)

    def flush(self) -> None:
        """Nothing is left to flush."""


def _silence(descriptor: int) -> None:
    """Point a stream at nothing, so that the interpreter's last flush cannot fail as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def print_json(document: BaseModel) -> None:
    """Print the one document of ``--json``, in ASCII: any terminal takes it, none is steered."""
    text = json.dumps(document.model_dump(mode="json"), indent=1).replace("\x7f", "\\u007f")
    print(text, flush=True)


def utf8(path: object) -> str:
    """Return a path for JSON: bytes that are no UTF-8 are escaped, as JSON cannot hold them."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def say(text: str, quiet: bool) -> None:
    """Print a message for people."""
    if not quiet:
        _Messages().write(printable(text, 2000) + "\n")


def as_given(path: Path, given: object) -> str:
    """Return a path as a user writes it who gave another: relative where that one is."""
    return str(path) if os.path.isabs(str(given)) else os.path.relpath(path)


def suggest(quiet: bool, *command: object) -> None:
    """Name the next useful command, complete enough to copy."""
    say("next: " + shlex.join(map(str, command)), quiet)


@contextmanager
def steps(names: Sequence[str], quiet: bool) -> Generator[Callable[[str], None], None, None]:
    """Show progress on stderr; yield the function that says which step starts.

    A bar on a terminal; in a log a line for each step, or none where they are many.
    """
    terminal = sys.stderr.isatty()
    messages = _Messages()
    with tqdm(
        total=len(names),
        disable=quiet or not terminal,
        file=messages,
        bar_format="{n_fmt}/{total_fmt} {bar:20} {elapsed} {desc}",
    ) as bar:
        started = 0

        def start(name: str) -> None:
            nonlocal started
            if not (quiet or terminal) and len(names) < _MANY:
                messages.write(f"{started + 1}/{len(names)} {name}\n")
            bar.update(min(started, 1))
            started += 1
            bar.set_description_str(name, refresh=len(names) < _MANY)

        yield start
        bar.update(min(started, 1))
        bar.set_description_str("done")


@contextmanager
def counting(quiet: bool) -> Generator[Callable[[Progress], None], None, None]:
    """Show progress over images on stderr; yield the function that says how far it is.

    Running top-1, images a second and time left: a bar on a terminal, in a log a line for each
    tenth. What was done before the first call counts for no speed. Where less is done than before,
    another count has begun, and with it another display.
    """
    shown: list[Union[_Bar, _Lines]] = []
    done = 0

    def show(now: Progress) -> None:
        nonlocal done
        if not shown or now.done < done:
            for each in shown:
                each.close()
            shown[:] = [_Bar(now) if sys.stderr.isatty() else _Lines(now)]
        done = now.done
        shown[0].show(now)

    try:
        yield _show_nothing if quiet else show
    finally:
        for each in shown:
            each.close()


def _show_nothing(now: Progress) -> None:
    """Show no progress."""


def _top1(now: Progress) -> str:
    return f"top-1 {100 * now.top1 / max(now.counted, 1):.3f}%"


class _Bar:
    """A bar on a terminal."""

    def __init__(self, first: Progress) -> None:
        self._bar = tqdm(
            total=first.total,
            initial=first.done,
            file=_Messages(),
            unit=" images",
            bar_format="{n_fmt}/{total_fmt} {bar:20} {desc}, {rate_noinv_fmt}, {remaining} left",
        )

    def show(self, now: Progress) -> None:
        self._bar.set_description_str(_top1(now), refresh=False)
        self._bar.update(now.done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """A line for each tenth."""

    def __init__(self, first: Progress) -> None:
        self._first = first.done
        self._started = time.monotonic()
        self._tenths = 10 * first.done // first.total

    def show(self, now: Progress) -> None:
        tenths = 10 * now.done // now.total
        if tenths == self._tenths or now.done == self._first:
            return
        self._tenths = tenths
        rate = (now.done - self._first) / max(time.monotonic() - self._started, 1e-9)
        left = tqdm.format_interval((now.total - now.done) / rate)
        _Messages().write(
            f"{now.done}/{now.total} {_top1(now)}, {rate:.2f} images/s, {left} left\n"
        )

    def close(self) -> None:
        """Nothing is left to show."""


@contextmanager
def log_to_stderr(quiet: bool) -> Generator[None, None, None]:
    """Show what vitaie logs, such as the target that ``auto`` took; nothing of it when quiet.

    A logger without a handler has Python's last resort, which prints warnings.
    """
    handler = logging.NullHandler() if quiet else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("vitaie")
    level = logger.level
    logger.addHandler(handler)
    if not quiet:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
