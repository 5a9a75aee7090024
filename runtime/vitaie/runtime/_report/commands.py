"""The commands that check a number again, complete enough to copy."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vitaie.runtime._report.found import Found
from vitaie.runtime._report.shown import Fact

if TYPE_CHECKING:
    from vitaie.manifests.contents import PerformanceRecord
    from vitaie.runtime._claim import Claim

_SAMPLE = 200


def claim_command(found: Found, claim: Claim) -> str:
    """Return the command that checks a claim which is false or was not checked, if any does."""
    if claim.status == "false":
        return _verify(found)
    check = claim.check.replace("--data DIR", f"--data {shlex.quote(found.data or 'DIR')}")
    return f"{_verify(found)} {check}" if check else ""


def accuracy_command(found: Found) -> str:
    """Return the command that measures accuracy again."""
    return _verify(found, "--data", found.data or "DIR")


def speed_command(found: Found, record: PerformanceRecord) -> str:
    """Return the command that measures speed again; of whole photographs, on the same ones.

    Empty for a record that is INVALID: it claims no speed, so that none can be checked.
    """
    if record.verdict == "INVALID":
        return ""
    same = record.inputs == "photographs" and record.boundary == "end_to_end"
    return _verify(found, "--performance", *(["--data", found.data or "DIR"] * same))


def gates_command(found: Found) -> str:
    """Return the command that judges the kept evidence again by the gates that were passed."""
    return shlex.join(["vitaie-build", "gate", found.folder])


def commands(found: Found) -> Iterable[Fact]:
    """Yield each kind of number and the command that checks it."""
    yield Fact("every byte, and the goldens", _verify(found), code=True)
    if found.manifest.accuracy:
        yield Fact("accuracy, on every image", accuracy_command(found), code=True)
        sample = min(_SAMPLE, found.manifest.accuracy[0].dataset.images)
        part = _verify(found, "--data", found.data or "DIR", "--sample", str(sample))
        yield Fact("accuracy, on images that you draw", part, code=True)
    valid = [record for record in found.manifest.performance if record.verdict == "VALID"]
    for record in valid[:1]:
        yield Fact("speed, on hardware like that", speed_command(found, record), code=True)
    if found.manifest.gates:
        yield Fact("the gates it passed", gates_command(found), code=True)
    if found.manifest.accuracy or found.manifest.performance:
        store = os.path.normpath(os.path.join(found.folder, "..", ".."))
        name = "counts, intervals, percentiles and levels, from the evidence, without a model"
        yield Fact(name, shlex.join(["vitaie-build", "audit", store]), code=True)


def _verify(found: Found, *options: str) -> str:
    return shlex.join(["vitaie", "verify", found.folder, *options])
