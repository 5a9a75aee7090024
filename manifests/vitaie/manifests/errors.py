"""Every error a user can cause, as one tree with one list of codes.

    VitaieError
    ├── BundleError            the bundle does not open (exit 1)
    │   └── ManifestError      its manifest.json is at fault
    ├── InputError             any other bad input (exit 2)
    │   ├── CardError          a variant card
    │   ├── CheckpointError    an .npz checkpoint
    │   └── ImageError         an image
    ├── BuildError             an artifact disagrees with its source; nothing is published (exit 1)
    ├── GateError              a gate is not passed; nothing is published (failed 1, undecidable 6)
    ├── StoreError             exists or locked (exit 4)
    ├── DiskError              disk or I/O (exit 5)
    └── TargetUnavailable      not available here: a device, an extra (exit 6)

The codes, their exit codes and sentences live in ``error_codes.json``, which the C++ loader
reads too: one list, so both languages say the same. A command line prints ``str(error)``,
which is always one line, and exits with ``error.exit_code``.
"""

from __future__ import annotations

import errno
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Optional, TypeVar, Union

_Error = TypeVar("_Error", bound="VitaieError")


class ErrorCode(NamedTuple):
    """One row of the list: the exit code of the commands, and what is wrong, in a sentence."""

    exit_code: int
    sentence: str


@lru_cache(maxsize=1)
def error_codes() -> dict[str, ErrorCode]:
    """Return the one list of error codes, by code."""
    text = (Path(__file__).parent / "error_codes.json").read_text(encoding="utf-8")
    return {code: ErrorCode(row["exit"], row["sentence"]) for code, row in json.loads(text).items()}


def printable(text: object, limit: int = 200) -> str:
    """Return ``text`` on one line, control characters escaped, cut to ``limit`` characters.

    Names come from hostile files; what reaches a terminal must not steer it.
    """
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode("ascii")
        for char in str(text)
    )
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory was refused, to Python or to the loader of a library.

    The loader's refusals are ``ImportError`` or ``OSError`` with its words for mmap(2)'s failure.
    """
    words = ("failed to map segment", "cannot allocate memory")
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(word in str(error).lower() for word in words)
    )


def is_out_of_files(error: BaseException) -> bool:
    """Say whether an error means that no more files may be open, of Python or of the loader."""
    return (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)) or (
        isinstance(error, ImportError) and "too many open files" in str(error).lower()
    )


class VitaieError(Exception):
    """What a user can cause. ``str()`` is one line: code, where, what, expected, got, what to do.

    Args:
        code: A code of ``error_codes.json``.
        where: The file, folder or argument at fault.
        field: The place inside it: a manifest's field path, a checkpoint's member.
        expected: What should have been there.
        got: What was there.
        hint: What to do next.
    """

    def __init__(
        self,
        code: str,
        where: object,
        *,
        field: str = "",
        expected: object = None,
        got: object = None,
        hint: str = "",
    ) -> None:
        """Look the code up, so that an unlisted one fails where it is raised."""
        self.exit_code, self.sentence = error_codes()[code]
        self.code = code
        self.where = printable(where)
        self.field = printable(field)
        self.expected = None if expected is None else printable(expected)
        self.got = None if got is None else printable(got)
        self.hint = printable(hint, 400)
        super().__init__(self._line())

    def _line(self) -> str:
        place = f"{self.where}: {self.field}" if self.field else self.where
        facts = [
            f"{name} {value}"
            for name, value in (("expected", self.expected), ("got", self.got))
            if value is not None
        ]
        detail = f" ({', '.join(facts)})" if facts else ""
        advice = f" {self.hint}" if self.hint else ""
        return f"{self.code}: {place}: {self.sentence}{detail}.{advice}"

    def at(self: _Error, where: object, hint: Optional[str] = None) -> _Error:
        """Return the same error of another place, and with another hint if one is given.

        The frames that led to the first are not kept.
        """
        return type(self)(
            self.code,
            where,
            field=self.field,
            expected=self.expected,
            got=self.got,
            hint=self.hint if hint is None else hint,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an error cross from one process to another."""
        place = (self.where, self.field)
        return _rebuilt, (type(self), self.code, *place, self.expected, self.got, self.hint)

    def details(self) -> dict[str, Union[str, int, None]]:
        """Return what ``--json`` says of the error."""
        return {
            "code": self.code,
            "exit_code": self.exit_code,
            "message": str(self),
            "where": self.where,
            "field": self.field,
            "expected": self.expected,
            "got": self.got,
            "hint": self.hint,
        }


def _rebuilt(
    kind: type[VitaieError],
    code: str,
    where: str,
    field: str,
    expected: Optional[str],
    got: Optional[str],
    hint: str,
) -> VitaieError:
    return kind(code, where, field=field, expected=expected, got=got, hint=hint)


class BundleError(VitaieError):
    """A bundle that does not open: anything missing, extra, changed or malformed."""


class ManifestError(BundleError):
    """A ``manifest.json`` that is malformed, changed, or of a newer format."""


class InputError(VitaieError):
    """Bad input or usage that is not a bundle."""


class CardError(InputError):
    """A variant that is unknown, or a card file that is malformed."""


class CheckpointError(InputError):
    """A file that is not a checkpoint of the variant asked for."""


class ImageError(InputError):
    """A file or array that is not an image the bundle's preprocessing takes."""


class BuildError(VitaieError):
    """An artifact that disagrees with the model it was made from."""


class GateError(VitaieError):
    """A gate that what was measured does not show to be passed."""


class StoreError(VitaieError):
    """A version that exists already, or a name that another process is building."""


class DiskError(VitaieError):
    """The disk or the file system refused."""


class TargetUnavailable(VitaieError):
    """A target, an extra or a device that this machine does not have."""
