"""Puts the double of the Ascend package in place, and takes it away again without a trace."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "doubles" / "ascend"
PACKAGES = {"t200": "torch_aie", "rc1": "mindietorch", "v100": "mindietorch"}
"""Each profile's package."""


@contextmanager
def on_path(profile: str) -> Generator[None, None, None]:
    """Have a profile's package found, by this process; what imports it is undone at the end."""
    folder, package = str(FOLDER / profile), PACKAGES[profile]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
        loaded = sys.modules.get(package)
        if loaded is not None:
            loaded._withdraw()
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]


@contextmanager
def installed(profile: str) -> Generator[Any, None, None]:
    """Yield a profile's package, imported after torch as it asks for."""
    importlib.import_module("torch")
    with on_path(profile):
        yield importlib.import_module(PACKAGES[profile])


def environment(profile: str, **more: str) -> dict[str, str]:
    """Return the environment of a process that finds a profile's package."""
    return {**os.environ, "PYTHONPATH": str(FOLDER / profile), **more}
