"""What a bundle says of its making: packages, command, date."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import InputError

_NAMED = (
    "vitaie",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "numpy",
    "pillow",
    "pydantic",
)


def describe(command: Sequence[str]) -> dict[str, Any]:
    """Return the manifest's ``toolchain``.

    Raises:
        InputError: ``SOURCE_DATE_EPOCH`` is set and no number of seconds since 1970.
    """
    return {
        "created": _created(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _NAMED},
        "packages_digest": sha256("".join(_installed()).encode("utf-8")),
        "command": shlex.join(command),
    }


def version(package: str) -> str:
    """Return an installed package's version, or ``not installed``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _installed() -> list[str]:
    found = {
        f"{distribution.metadata['Name'].lower()}=={distribution.version}\n"
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    }
    return sorted(found)


def _created() -> str:
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        moment = datetime.now(timezone.utc)
    else:
        try:
            if not (text.isascii() and text.isdigit()):
                raise ValueError(text)
            moment = datetime.fromtimestamp(int(text), timezone.utc)
        except (ValueError, OverflowError, OSError):
            raise InputError(
                "E_ARGUMENT",
                "SOURCE_DATE_EPOCH",
                expected="seconds since 1970",
                got=text,
                hint="Unset it, or give a whole number.",
            ) from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
