"""A process that forks writers of a store, so that each can be held, traced and killed.

It reads one JSON command a line: a writer's job, answered by the writer's process id, or a
process id, answered by that writer's exit status once it has ended. A writer does what a command
line does around ``publication``: a ``VitaieError`` is one line and its exit code.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from tests.support.store_bundle import FILES, fill
from vitaie.builder.store import publication
from vitaie.manifests.errors import VitaieError, error_codes
from vitaie.runtime._files import raise_on_signals, write_output

_PR_SET_PTRACER = 0x59616D61


def serve() -> None:
    error_codes()  # read now, so that no writer reads it in the middle of a fault
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    for line in sys.stdin:
        command = json.loads(line)
        if isinstance(command, int):
            _, status = os.waitpid(command, 0)
            answer = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        else:
            answer = os.fork()
            if answer == 0:
                _write(command)
        print(json.dumps(answer), flush=True)


def _write(job: dict[str, Any]) -> NoReturn:
    for descriptor, path in ((1, job["out"]), (2, job["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise_on_signals()
    code = 70
    try:
        code = _run(job)
    except KeyboardInterrupt:
        os.write(2, b"E_INTERRUPTED\n")
        code = 130
    except VitaieError as error:
        os.write(2, f"{error}\n".encode())
        code = error.exit_code
    except BaseException:  # a bug: its traceback is what the tests look for
        os.write(2, traceback.format_exc().encode())
    os._exit(code)


def _run(job: dict[str, Any]) -> int:
    def hold(moment: str) -> None:
        if moment in job.get("hold", ()):
            Path(f"{job['out']}.{moment}").touch()
            signal.sigwaitinfo({signal.SIGUSR1})

    if job.get("traced"):
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
    if "file_limit" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], job["file_limit"]))
    hold("start")
    os.sched_yield()  # a mark in the trace
    if "output" in job:
        write_output(job["output"], list(FILES.values()))
    else:
        _publish(job, hold)
    os.sched_yield()
    return 0


def _publish(job: dict[str, Any], hold: Any) -> None:
    for _ in range(job.get("times", 1)):
        with publication(job["store"], job["name"], job.get("version")) as draft:
            hold("entered")
            fill(draft.folder)
            hold("filled")
            path = draft.publish()
            os.write(1, f"{path}\n".encode())
            hold("published")


if __name__ == "__main__":
    serve()
