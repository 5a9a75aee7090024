"""TorchScript that writes a file when it is loaded, or when it is run.

``python -m tests.support.canary FOLDER FILE`` writes both, in a process of its own: torch keeps
one type for each class it scripts, and these types are not to be met again.
"""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path
from typing import Any

from tests.support.npz import Entry, archive

_METHODS = {
    "load": """
def __getstate__(self) -> str:
    return "{canary}"
---
def __setstate__(self, state: str):
    torch.save([1], state)
    self.training = False
""",
    "run": """
def forward(self, x):
    torch.save([1], "{canary}")
    return x
""",
}


def write_canaries(folder: Path, canary: str) -> None:
    """Write load.ts and run.ts, which write ``canary`` when they are loaded or run."""
    torch: Any = importlib.import_module("torch")
    for when, base in (("load", torch.nn.Identity()), ("run", torch.nn.Module())):
        module: Any = torch.jit.script(base)
        for method in _METHODS[when].format(canary=canary).split("---\n"):
            module.define(method)
        module.save(str(folder / f"{when}.ts"))


def as_ours(saved: Path) -> bytes:
    """Return an archive of torch's with its members named and laid out as a bundle's are."""
    with zipfile.ZipFile(saved) as source:
        return archive(
            [
                Entry("model/" + name.partition("/")[2], source.read(name))
                for name in source.namelist()
                if not name.endswith((".debug_pkl", "serialization_id"))
            ]
        )


if __name__ == "__main__":
    write_canaries(Path(sys.argv[1]), sys.argv[2])
