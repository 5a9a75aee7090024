"""Commands that are run once: what is done is kept, and is not done again after a kill.

Before a command runs, a note says what is asked; afterwards, what came of it. A note of the same
command that ended well is the answer. Output files of vitaie's commands are whole or not there, so
one that lies there with a note but no end was finished.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

_INTERRUPTED = (130, -signal.SIGINT, -signal.SIGTERM)


class Done(NamedTuple):
    """What a command gave; ``seconds`` is None where it was killed after its output was written."""

    name: str
    command: list[str]
    code: int
    seconds: Optional[float]
    stdout: str

    @property
    def document(self) -> dict[str, Any]:
        """What it printed with ``--json``: the first document, where an error follows."""
        nothing: dict[str, Any] = {}
        return next(_documents(self.stdout), nothing)

    @property
    def complaint(self) -> str:
        """Why it failed, in its own words."""
        for found in _documents(self.stdout):
            if "error" in found:
                return str(found["error"]["message"])
        if self.code < 0:
            return f"it ended by {signal.Signals(-self.code).name}"
        return f"it ended with {self.code}"


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects that stand one after another; what is none ends it."""
    text = text.lstrip()
    while text:
        try:
            found, end = json.JSONDecoder().raw_decode(text)
        except ValueError:  # of a command that did not end by itself
            return
        yield found
        text = text[end:].lstrip()


class Steps:
    """The commands of one run, and the notes of those that were run before."""

    def __init__(self, folder: Path) -> None:
        """Keep the notes in ``folder``."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        name: str,
        command: Sequence[object],
        *,
        output: Optional[Path] = None,
        accept: Sequence[int] = (0,),
        again: bool = False,
    ) -> Done:
        """Run a vitaie command with ``--json``, or return what it gave before.

        Args:
            name: Of its note.
            command: ``vitaie`` or ``vitaie-build``, and its arguments.
            output: The file that it writes.
            accept: Exit codes after which it is not run again.
            again: Run it whatever came of it before.

        Raises:
            KeyboardInterrupt: It was interrupted.
        """
        asked = [str(each) for each in command]
        note = self._folder / f"{name}.json"
        before = {} if again else self._read(note)
        same = before.get("command") == asked
        if same and before["code"] in accept and (output is None or output.exists()):
            return Done(name, asked, before["code"], before["seconds"], before["stdout"])
        if same and before["code"] is None and output is not None and output.is_file():
            return Done(name, asked, accept[0], None, "")
        if output is not None and output.is_file():
            output.unlink()  # of another command, such as one with other data
        write(note, {"command": asked, "code": None})
        print(f"\n== {shlex.join(asked)}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        ended = subprocess.run(
            [program(asked[0]), *asked[1:], "--json"], stdout=subprocess.PIPE, check=False
        )
        seconds = time.monotonic() - begun
        stdout = ended.stdout.decode("utf-8", "replace")
        if ended.returncode in _INTERRUPTED:
            raise KeyboardInterrupt
        kept = {"code": ended.returncode, "seconds": seconds, "stdout": stdout}
        write(note, {"command": asked, **kept})
        return Done(name, asked, ended.returncode, seconds, stdout)

    def _read(self, note: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found


def write(file: Path, document: Any) -> None:
    """Write JSON so that the file is the old one or the new one, whenever it is looked at."""
    begun = file.with_suffix(".new")
    begun.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(begun, file)


def program(name: str) -> str:
    """Return where a command of this interpreter's environment lies."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is not installed for {sys.executable}: README says how")
    return found
