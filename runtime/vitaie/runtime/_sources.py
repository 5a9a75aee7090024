"""The source model's predictions on a dataset, kept, so that other targets do not pay for them.

They are found by all that they depend on, and each is used only for a file that has the digest it
was made from (``_seeing``). A file that is not whole is as good as none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Union

from vitaie.manifests.digests import canonical, sha256
from vitaie.manifests.errors import InputError, VitaieError
from vitaie.runtime import _journal
from vitaie.runtime._files import disk_errors, write_output
from vitaie.runtime._journal import Block, Identity, Row
from vitaie.runtime._seeing import Seen

_Path = Union[str, "os.PathLike[str]"]

_log = logging.getLogger("vitaie")


def read_known(cache: _Path, identity: Identity) -> dict[int, Block]:
    """Return what the source gave before, by batch; each row's ``target`` is the source's."""
    file = _file(cache, identity)
    try:
        with open(file, "rb") as opened:
            found = _journal.read(opened, file)
    except (OSError, InputError):
        return {}
    return found.blocks if found.identity == identity else {}


def write_known(
    cache: _Path,
    identity: Identity,
    blocks: Iterable[tuple[int, Sequence[Seen]]],
    known: dict[int, Block],
) -> None:
    """Keep what the source gave on each whole batch, unless that is what is ``known`` already.

    That it cannot be kept spoils no run: it is said in the log.
    """
    made: dict[int, Block] = {}
    for number, block in blocks:
        rows = [seen for seen in block if isinstance(seen, Row) and seen.source]
        if len(rows) == len(block):
            made[number] = tuple(Row(r.size, r.sha256, r.source or (), None) for r in rows)
    if made == known:
        return
    file = _file(cache, identity)
    try:
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
        write_output(file, _journal.encode(identity, made.items()))
    except VitaieError as error:
        _log.info("the source's predictions are not kept: %s", error)


def _file(cache: _Path, identity: Identity) -> Path:
    return Path(cache) / "sources" / sha256(canonical(identity))
