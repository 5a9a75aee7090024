"""What a machine has of the Ascend family, seen without touching a device: chips, CANN, settings.

``npu-smi`` and the files of CANN are for people; what they say is read where it is understood,
and ``unknown`` otherwise. Nothing here decides whether a device works: only the device does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple, Optional

UNKNOWN = "unknown"

VARIABLES = (
    "ASCEND_HOME_PATH",
    "ASCEND_TOOLKIT_HOME",
    "ASCEND_OPP_PATH",
    "ASCEND_AICPU_PATH",
    "LD_LIBRARY_PATH",
)
"""What CANN's ``set_env.sh`` sets."""

_TOOLKITS = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
_DEFAULT_TOOLKIT = "/usr/local/Ascend/ascend-toolkit/latest"
_VERSION_FILES = ("version.cfg", "*/ascend_toolkit_install.info", "compiler/version.info")
_VERSION = re.compile(r"^\s*(?:version|Version|toolkit_running_version)\s*=\s*\[?([\w.:-]+)", re.M)
_CHIP = re.compile(r"^\|\s*[0-9]+\s+(?:[0-9]+\s+)?(?P<name>[0-9]{3}[A-Z0-9]+)\s*\|", re.M)
_PATIENCE_S = 20.0
_MAX_TEXT = 2**16


class Machine(NamedTuple):
    """What is there.

    ``nodes`` are the driver's device files, ``tool`` the path of ``npu-smi``, ``socs`` one name
    for each chip that it shows, such as ``Ascend310P3``; ``complaint`` is why it showed none.
    """

    nodes: tuple[str, ...]
    tool: Optional[str]
    socs: tuple[str, ...]
    complaint: str
    cann: str
    toolkit: Optional[str]


def look() -> Machine:
    """Look at files and the environment, and ask ``npu-smi`` where it is installed."""
    tool = shutil.which("npu-smi", path=os.environ.get("PATH"))
    text, complaint = ("", "npu-smi is not on the path") if tool is None else _ask(tool)
    socs = tuple(f"Ascend{name}" for name in _CHIP.findall(text))
    if tool is not None and not socs and not complaint:
        complaint = "npu-smi shows no chip that is understood here"
    toolkit = _toolkit()
    return Machine(
        tuple(sorted(str(path) for path in Path("/dev").glob("davinci[0-9]*"))),
        tool,
        socs,
        complaint,
        UNKNOWN if toolkit is None else _cann(toolkit),
        None if toolkit is None else str(toolkit),
    )


def environment() -> dict[str, str]:
    """Return the variables of CANN that are set."""
    return {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}


def _ask(tool: str) -> tuple[str, str]:
    """Return what ``npu-smi info`` prints, and why it did not."""
    try:
        done = subprocess.run(
            [tool, "info"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"npu-smi: {error}"
    text = done.stdout[:_MAX_TEXT].decode("utf-8", "replace")
    if done.returncode:
        told = (done.stderr or done.stdout)[:_MAX_TEXT].decode("utf-8", "replace").split("\n")[0]
        return "", f"npu-smi info ended with {done.returncode}: {told}"
    return text, ""


def _toolkit() -> Optional[Path]:
    named = [os.environ[name] for name in _TOOLKITS if os.environ.get(name)]
    for folder in map(Path, [*named, _DEFAULT_TOOLKIT]):
        if folder.is_dir():
            return folder
    return None


def _cann(toolkit: Path) -> str:
    """Return the version that CANN's files give; which file says it changed between releases."""
    for pattern in _VERSION_FILES:
        for file in sorted(toolkit.glob(pattern)):
            try:
                text = file.read_bytes()[:_MAX_TEXT].decode("utf-8", "replace")
            except OSError:
                continue
            found = _VERSION.search(text)
            if found:
                return found[1].split(":")[-1]
    return UNKNOWN
