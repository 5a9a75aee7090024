"""The commands that check a number again, complete enough to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from vitaie.runtime._report.found import Found
from vitaie.runtime._report.shown import Fact


def recheck(found: Found, claim: str) -> str:
    """Return the command that re-checks what a claim's name begins with."""
    verify = ["vitaie", "verify", found.folder]
    if claim.startswith("accuracy"):
        return shlex.join([*verify, "--data", found.data or "DIR"])
    if claim.startswith("performance"):
        return shlex.join([*verify, "--performance"])
    if claim.startswith(("gates", "levels")):
        return shlex.join(["vitaie-build", "audit", _store(found)])
    return shlex.join(verify)


def commands(found: Found) -> Iterable[Fact]:
    """Yield each kind of number and the command that checks it."""
    verify = ["vitaie", "verify", found.folder]
    yield Fact("every byte, and the goldens", shlex.join(verify), code=True)
    if found.manifest.accuracy:
        yield Fact("accuracy, on every image", recheck(found, "accuracy"), code=True)
        part = [*verify, "--data", found.data or "DIR", "--sample", "200", "--seed", "7"]
        yield Fact("accuracy, on images that you draw", shlex.join(part), code=True)
    if found.manifest.performance:
        yield Fact("speed, on hardware like that", recheck(found, "performance"), code=True)
    if found.manifest.accuracy or found.manifest.performance:
        audit = ["vitaie-build", "audit", _store(found)]
        name = "counts, intervals, percentiles and gates, from the evidence, without a model"
        yield Fact(name, shlex.join(audit), code=True)


def _store(found: Found) -> str:
    return str(Path(found.folder).parent.parent)
