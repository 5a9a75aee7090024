"""Where both commands begin: what goes wrong while they are imported is one line as well.

Their imports take longer than most of what they do. Nothing is there to clean up before
``vitaie.runtime._command.run`` takes over the signals, and a module half imported is best left
alone: until then Ctrl-C ends the process on the spot.
"""

from __future__ import annotations

import signal
import sys

TYPE_CHECKING = False  # typing's own would be imported while Ctrl-C still shows a traceback
if TYPE_CHECKING:
    from types import FrameType

    from vitaie.manifests.errors import VitaieError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MIN_ADDRESS_SPACE = 2**28
"""Bytes. With less, NumPy's OpenBLAS ends the process itself, with an exit code of its own."""


def vitaie() -> None:
    """Run ``vitaie``."""
    _run("vitaie", "vitaie.runtime._cli")


def vitaie_build() -> None:
    """Run ``vitaie-build``."""
    _run("vitaie-build", "vitaie.builder.cli")


def _run(name: str, module: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until there is somebody to answer
    import importlib
    import os
    import resource

    from vitaie.manifests.errors import (
        DiskError,
        VitaieError,
        error_codes,
        is_out_of_files,
        is_out_of_memory,
    )

    def stop(_number: int, _frame: FrameType | None) -> None:
        hint = "Nothing was left behind; run it again to start over."
        os._exit(_tell(VitaieError("E_INTERRUPTED", name, hint=hint)))

    error_codes()  # read now, and not by the handler
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    for variable in [each for each in os.environ if each.startswith("TQDM_")]:
        del os.environ[variable]  # read by tqdm's import, which fails on some: ours is the display
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    try:
        if 0 <= limit < _MIN_ADDRESS_SPACE:
            raise MemoryError(f"{limit // 2**20} MiB allowed (ulimit -v)")
        importlib.import_module(module).main()
    except (ImportError, MemoryError, OSError) as error:
        if is_out_of_files(error):
            hint = "Allow more open files (ulimit -n), then run it again."
            sys.exit(_tell(DiskError("E_DISK", name, got=error, hint=hint)))
        if not is_out_of_memory(error):
            raise
        hint = f"Close other programs, or allow more than {_MIN_ADDRESS_SPACE // 2**20} MiB."
        sys.exit(_tell(DiskError("E_MEMORY", name, got=str(error) or None, hint=hint)))


def _tell(error: VitaieError) -> int:
    """Write the line, and the document of ``--json``, past Python's streams; return the code."""
    import json
    import os
    from contextlib import suppress

    document = json.dumps({"error": error.details()}, indent=1)
    for descriptor, text in ((2, str(error)), (1, document)):
        if descriptor == 2 or "--json" in sys.argv:
            with suppress(OSError):  # where nobody listens, the exit code says what matters
                os.write(descriptor, f"{text}\n".encode("utf-8", "backslashreplace"))
    return error.exit_code
