"""Judging a bundle by the evidence it keeps: no model is run, no figure of its manifest is used."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional

from vitaie.manifests.errors import InputError
from vitaie.manifests.gates import Gate, Outcome, facts_of, judge, parse_gate
from vitaie.runtime._bundle import Bundle, open_bundle
from vitaie.runtime._evidence import kept_measurement, record_of
from vitaie.runtime._model import named_target

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Manifest, Target


class Other(NamedTuple):
    """Evidence that did not count, of a kind of which other evidence did.

    Attributes:
        path: In the bundle.
        created: When it was measured, as the manifest says.
        newer: Whether that is later than what counted.
    """

    path: str
    created: str
    newer: bool


class Judgement(NamedTuple):
    """How gates were decided, and by which evidence: paths in the bundle, None where none is."""

    folder: Path
    manifest: Manifest
    target: Target
    accuracy: Optional[str]
    performance: Optional[str]
    others: list[Other]
    outcomes: list[Outcome]


def judge_bundle(
    path: str | os.PathLike[str],
    gates: Sequence[Gate],
    *,
    target: str = "cpu",
    records: Sequence[str] = (),
) -> Judgement:
    """Judge gates by the evidence that a bundle keeps of a target.

    Args:
        path: A bundle's folder, or the folder of its versions (the newest is taken).
        gates: What is required; what the bundle says it passed when there is none.
        target: Whose records count.
        records: Paths of evidence to judge by, one of each kind at most; of each kind that is not
            named, the target's first record counts: what it was published with.

    Raises:
        BundleError: The bundle does not open, or a record's evidence is none.
        InputError: There is no such target, no such record, or nothing is required.
    """
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
        chosen = named_target(manifest, target)
        digest = chosen.target_digest
        if not gates:
            gates = [
                parse_gate(each.require) for each in manifest.gates if each.target_digest == digest
            ]
        if not gates:
            expected = "--require GATE, since the bundle says of none that it passed it"
            raise InputError("E_ARGUMENT", "--require", expected=expected)
        accuracy = {
            e.predictions: e.created for e in manifest.accuracy if e.target_digest == digest
        }
        speed = {e.latencies: e.created for e in manifest.performance if e.target_digest == digest}
        _check_named(records, accuracy, speed)
        predictions, latencies = _first(accuracy, records), _first(speed, records)
        facts = facts_of(_record(bundle, predictions, digest), _record(bundle, latencies, digest))
        outcomes = [judge(gate, facts) for gate in gates]
        others = [*_others(accuracy, predictions), *_others(speed, latencies)]
        return Judgement(bundle.folder, manifest, chosen, predictions, latencies, others, outcomes)


def _others(created: Mapping[str, str], taken: Optional[str]) -> list[Other]:
    """Return the evidence of a kind that was not taken, by its paths and times."""
    return [
        Other(path, time, time > created[taken])
        for path, time in created.items()
        if taken is not None and path != taken
    ]


def _check_named(records: Sequence[str], accuracy: Collection[str], speed: Collection[str]) -> None:
    for record in records:
        kind = next((each for each in (accuracy, speed) if record in each), None)
        if kind is None or sum(other in kind for other in records) > 1:
            expected = f"one of {', '.join([*accuracy, *speed]) or 'no records'}, one of a kind"
            raise InputError("E_ARGUMENT", "--record", expected=expected, got=record)


def _first(paths: Iterable[str], named: Sequence[str]) -> Optional[str]:
    return next((path for path in paths if path in named), next(iter(paths), None))


def _record(bundle: Bundle, path: Optional[str], digest: str) -> Optional[dict[str, object]]:
    if path is None:
        return None
    return record_of(bundle.manifest, kept_measurement(bundle, path, digest), path)
