"""Every published number, computed again from the raw evidence that the bundle keeps.

No model is run and no weight is read: what an auditor sees in seconds, for a whole store. What a
number says of the world is for ``verify`` to measure again; here it is whether it follows at all::

    with open_bundle("bundles/digits") as bundle:
        for finding in audit(bundle):
            print(finding.status, finding.claim, finding.published)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Optional, Union, cast

from vitaie.manifests.card import Architecture
from vitaie.manifests.errors import BundleError, InputError, ManifestError, VitaieError
from vitaie.manifests.gates import OF_SPEED, facts_of, judge, parse_gate
from vitaie.manifests.levels import level_that_ships
from vitaie.manifests.manifest import preprocess_digest
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    Measurement,
    Subject,
    read_measurement,
)
from vitaie.runtime._environment import peak_of
from vitaie.runtime._evidence import check_kept, dataset_digest, record_of
from vitaie.runtime._goldens import golden_facts
from vitaie.runtime._model import DOUBLE

if TYPE_CHECKING:
    from vitaie.manifests.contents import (
        AccuracyRecord,
        GateRecord,
        LevelRecord,
        PerformanceRecord,
    )
    from vitaie.manifests.manifest import Manifest
    from vitaie.runtime._bundle import Bundle

Status = Literal["follows", "does not follow", "not checked", "not claimed"]
Scalar = Union[None, bool, int, float, str]

_ROUNDING = 1e-9
"""By how much two figures may differ, of themselves: other machines' libraries round otherwise."""

_TRIED = 8
"""Records of a target that a gate is judged by: what it was published with is the first."""

_GFLOP_ALLOWED = 0.02
"""Of the matrix products' count: published figures count the small operations too."""


class Finding(NamedTuple):
    """One claim of a manifest, what the evidence comes to, and whether the claim follows.

    Attributes:
        claim: The manifest's field.
        published: What it says.
        recomputed: What follows from the evidence; None where nothing does.
        status: Whether the two are the same.
        why: Where the second comes from, or why there is none.
    """

    claim: str
    published: Scalar
    recomputed: Scalar
    status: Status
    why: str


class Judged(NamedTuple):
    """What one file of evidence comes to, the images and calls themselves forgotten.

    Attributes:
        subject: What was measured.
        record: What a manifest may say of it, but for the name of the file.
        own: Claims that the evidence makes of itself, with what its rows come to.
        peak_fps: Images a second that the hardware cannot exceed, when that is known.
        setting: What it was measured with, by field.
    """

    subject: Subject
    record: dict[str, Any]
    own: tuple[tuple[str, Scalar, Scalar], ...]
    peak_fps: Optional[float]
    setting: dict[str, Scalar]


Kept = dict[tuple[str, str, str], Union[Judged, str]]
"""What was judged before, by the file's digest and path and the bundle's contents."""


def audit(bundle: Bundle, kept: Kept | None = None) -> Iterator[Finding]:
    """Yield a finding for each number that a bundle publishes, in the order of its manifest.

    Args:
        bundle: An open bundle: its manifest is sound, its files have the right sizes.
        kept: What other bundles' evidence came to, for those that have the same.
    """
    auditor = _Auditor(bundle, {} if kept is None else kept)
    yield from auditor.model()
    yield from auditor.goldens()
    yield from auditor.measurements()
    yield from auditor.unseen()


def audit_records(bundle: Bundle) -> Iterator[tuple[str, str, list[Finding]]]:
    """Yield each record's field, its evidence's path, and the findings on it."""
    auditor = _Auditor(bundle, {})
    for field, path, findings in auditor.records():
        yield field, path, list(findings)


class _Auditor:
    """One bundle and what its evidence came to, read once for all that rests on it."""

    def __init__(self, bundle: Bundle, kept: Kept) -> None:
        self._bundle = bundle
        self._manifest: Manifest = bundle.manifest
        self._kept = kept

    # What is no measurement

    def model(self) -> Iterator[Finding]:
        model = self._manifest.model
        counted = sum(math.prod(weight.shape) for weight in self._manifest.weights)
        yield _compare("model.parameters", model.parameters, counted, "the weights' shapes")
        gflop = Architecture(
            image_size=model.image_size,
            patch_size=model.patch_size,
            width=model.width,
            depth=model.depth,
            heads=model.heads,
            mlp_dim=model.mlp_dim,
            classes=model.classes,
        ).gflop
        holds = abs(model.gflop - gflop) <= _GFLOP_ALLOWED * gflop
        why = f"the architecture, within {_GFLOP_ALLOWED:.0%}"
        yield _found("model.gflop", model.gflop, gflop, holds, why)

    def goldens(self) -> Iterator[Finding]:
        for index, golden in enumerate(self._manifest.goldens):
            field = f"goldens[{index}]"
            try:
                facts: Mapping[str, Scalar] = golden_facts(self._bundle, golden)._asdict()
            except BundleError as error:
                yield _broken(f"{field}.logits", golden.logits, error)
                continue
            published = golden.model_dump(include=set(facts))
            yield from _compare_all(field, published, facts, golden.logits)
        for index, target in enumerate(self._manifest.targets):
            field, goldens = f"targets[{index}].agreement.images", len(self._manifest.goldens)
            yield _compare(field, target.agreement.images, goldens, "the goldens")

    def unseen(self) -> Iterator[Finding]:
        for index, target in enumerate(self._manifest.targets):
            field = f"targets[{index}].agreement"
            why = DOUBLE if target.by_double else f"a model must run: {self._verify()}"
            yield Finding(field, None, None, "not checked", why)
        artifacts = self._manifest.artifacts
        sized = f"{len(artifacts)} files of {sum(each.size for each in artifacts):,} bytes"
        why = f"sized; only evidence and goldens' logits were hashed, no weights: {self._verify()}"
        yield Finding("artifacts", sized, None, "not checked", why)
        if self._manifest.expected.accuracy or self._manifest.expected.speed:
            why = "published elsewhere, of other bytes"
            yield Finding("expected", None, None, "not checked", why)

    def _verify(self) -> str:
        return f"vitaie verify {self._bundle.folder}"

    # Measurements

    def measurements(self) -> Iterator[Finding]:
        manifest = self._manifest
        if not manifest.accuracy and not manifest.performance:
            claim = "accuracy and performance"
            yield Finding(claim, None, None, "not claimed", "nothing is claimed: not measured")
        for _, _, findings in self.records():
            yield from findings

    def records(self) -> Iterator[tuple[str, str, Iterator[Finding]]]:
        manifest = self._manifest
        for index, record in enumerate(manifest.accuracy):
            field = f"accuracy[{index}]"
            before = [each.predictions for each in manifest.accuracy[:index]]
            yield field, record.predictions, self._accuracy(field, record, before)
        for index, speed in enumerate(manifest.performance):
            field = f"performance[{index}]"
            earlier = [each.latencies for each in manifest.performance[:index]]
            yield field, speed.latencies, self._performance(field, speed, earlier)
        for index, gate in enumerate(manifest.gates):
            paths = (
                [each.predictions for each in self._of(gate.target_digest, manifest.accuracy)],
                [each.latencies for each in self._of(gate.target_digest, manifest.performance)],
            )
            yield f"gates[{index}]", "the records", self._gate(f"gates[{index}]", gate, *paths)
        for index, level in enumerate(manifest.levels):
            yield f"levels[{index}]", level.latencies, self._level(f"levels[{index}]", level)
        if manifest.levels:
            yield "levels", "the levels", self._choice(manifest.levels)

    def _of(self, digest: str, records: Sequence[Any]) -> list[Any]:
        return [record for record in records if record.target_digest == digest]

    def _accuracy(
        self, field: str, record: AccuracyRecord, before: Sequence[str]
    ) -> Iterator[Finding]:
        yield from _once(f"{field}.predictions", record.predictions, before)
        judged = self._judged(record.predictions)
        yield self._evidence(f"{field}.predictions", record.predictions, judged)
        if isinstance(judged, Judged):
            published = record.model_dump(mode="json", exclude={"predictions"})
            yield from _compare_all(field, published, judged.record, record.predictions)
            yield from self._bound(f"{field}.predictions", judged)

    def _performance(
        self, field: str, record: PerformanceRecord, before: Sequence[str]
    ) -> Iterator[Finding]:
        yield from _once(f"{field}.latencies", record.latencies, before)
        judged = self._judged(record.latencies)
        yield self._evidence(f"{field}.latencies", record.latencies, judged)
        if isinstance(judged, Judged):
            published = record.model_dump(mode="json", exclude={"latencies"})
            yield from _compare_all(field, published, judged.record, record.latencies)
            yield from self._bound(f"{field}.latencies", judged)
            yield _below_peak(f"{field}.fps", record, judged.peak_fps)

    def _judged(self, path: str) -> Union[Judged, str]:
        """Return what evidence comes to, or why it comes to nothing."""
        digest = self._manifest.artifact(path).sha256
        key = (digest, path, self._manifest.content_digest)
        if key not in self._kept:
            try:
                data = self._bundle.read(path).tobytes()
                self._bundle.release(path)
                measurement = read_measurement(data, path)
                check_kept(self._manifest, measurement, data, path)
                self._kept[key] = _judge(self._manifest, measurement)
            except BundleError as error:  # the file, which another bundle may have whole
                return _told(error)
            except (InputError, ManifestError) as error:
                self._kept[key] = _told(error)
        return self._kept[key]

    def _evidence(self, field: str, path: str, judged: Union[Judged, str]) -> Finding:
        digest = self._manifest.artifact(path).sha256
        if isinstance(judged, str):
            return Finding(field, digest, None, "does not follow", judged)
        return Finding(field, digest, digest, "follows", f"the bytes of {path}")

    def _bound(self, field: str, judged: Judged) -> Iterator[Finding]:
        """Compare what was measured with what this bundle is, and the evidence with itself."""
        manifest, subject = self._manifest, judged.subject
        for name, published, recomputed in judged.own:
            yield _compare(f"{field}.{name}", published, recomputed, "its own rows")
        yield _compare(f"{field}.subject.name", manifest.name, subject.name, "the evidence")
        ids = [t.id for t in manifest.targets if t.target_digest == subject.target_digest]
        if ids:  # a level that was not chosen is no target
            yield _compare(f"{field}.subject.target", ids[0], subject.target, "the evidence")
            claim, digest = f"{field}.subject.preprocess_digest", subject.preprocess_digest
            here = preprocess_digest(manifest.preprocess)
            yield _compare(claim, here, digest, "the evidence")
        claim, here = f"{field}.subject.content_digest", manifest.content_digest
        if subject.content_digest == here:
            yield Finding(claim, here, here, "follows", "the evidence")
        else:
            why = "measured in a version with other contents; the target's bytes are the same"
            yield Finding(claim, here, subject.content_digest, "not checked", why)

    # What was decided by them

    def _gate(
        self,
        field: str,
        gate: GateRecord,
        predictions: Sequence[Optional[str]],
        latencies: Sequence[str],
    ) -> Iterator[Finding]:
        """Judge a gate again by the evidence; of several records of a target it may be any."""
        published = f"{gate.verdict}: {gate.require}: {gate.reason}"
        wanted = parse_gate(gate.require)
        of_speed = wanted.metric in OF_SPEED
        recomputed = ""
        for record in self._records_of(latencies if of_speed else predictions):
            facts = facts_of(None, record) if of_speed else facts_of(record, None)
            outcome = str(judge(wanted, facts))
            recomputed = recomputed or outcome
            if outcome == published:
                recomputed = outcome
                break
        yield _compare(field, published, recomputed, "the evidence of its target")

    def _records_of(self, paths: Sequence[Optional[str]]) -> Iterator[Optional[dict[str, Any]]]:
        """Yield what each file of evidence comes to, of a few; one None where there is nothing."""
        found = False
        for path in list(dict.fromkeys(path for path in paths if path is not None))[:_TRIED]:
            judged = self._judged(path)
            if isinstance(judged, Judged):
                found = True
                yield judged.record
        if not found:
            yield None

    def _level(self, field: str, level: LevelRecord) -> Iterator[Finding]:
        judged = self._judged(level.latencies)
        yield self._evidence(f"{field}.latencies", level.latencies, judged)
        if isinstance(judged, Judged):
            names = ("target_digest", "boundary", "scenario", "batch_size", "fps", "verdict")
            published = level.model_dump(mode="json", include=set(names))
            recomputed = {name: judged.record[name] for name in names}
            yield from _compare_all(field, published, recomputed, level.latencies)
            yield from self._bound(f"{field}.latencies", judged)
            yield from self._named(f"{field}.latencies", level, judged.subject)
            yield from self._alike(f"{field}.latencies", judged, self._ships.latencies)
            yield from self._placed(f"{field}.latencies", judged)
        if level.predictions is not None:
            accuracy = self._judged(level.predictions)
            yield self._evidence(f"{field}.predictions", level.predictions, accuracy)
            if isinstance(accuracy, Judged):
                digest = accuracy.subject.target_digest
                claim = f"{field}.predictions.subject.target_digest"
                yield _compare(claim, level.target_digest, digest, "the evidence")
                yield from self._bound(f"{field}.predictions", accuracy)
                yield from self._named(f"{field}.predictions", level, accuracy.subject)
                yield from self._alike(f"{field}.predictions", accuracy, self._ships.predictions)
        asked = [
            gate.require
            for gate in self._manifest.gates
            if gate.target_digest == self._ships.target_digest
        ]
        claim, found = f"{field}.gates", [gate.require for gate in level.gates]
        yield _compare(claim, "; ".join(found), "; ".join(asked), "the gates of what ships")
        for number, gate in enumerate(level.gates):
            place = f"{field}.gates[{number}]"
            yield from self._gate(place, gate, [level.predictions], [level.latencies])

    def _named(self, field: str, level: LevelRecord, subject: Subject) -> Iterator[Finding]:
        """Judge the name of a level's target that does not ship, by the one that does."""
        manifest = self._manifest
        if any(target.target_digest == subject.target_digest for target in manifest.targets):
            return
        for target in manifest.targets:
            if target.target_digest == self._ships.target_digest:
                other = target.model_copy(update={"optim_level": level.optim_level})
                claim, why = f"{field}.subject.target", "the chosen target's name"
                yield _compare(claim, subject.target, other.implied_id, why)

    @property
    def _ships(self) -> LevelRecord:
        return next(level for level in self._manifest.levels if level.chosen)

    def _alike(self, field: str, judged: Judged, path: Optional[str]) -> Iterator[Finding]:
        """Compare what a level was measured with, and what the level that ships was."""
        ships = None if path is None else self._judged(path)
        if isinstance(ships, Judged) and ships is not judged:
            for name, published in judged.setting.items():
                why = "as the level that ships was measured"
                yield _compare(f"{field}.{name}", published, ships.setting[name], why)

    def _placed(self, field: str, judged: Judged) -> Iterator[Finding]:
        devices = {t.target_digest: t.device for t in self._manifest.targets}
        if devices.get(self._ships.target_digest) == "cpu":
            claim, share = f"{field}.placement", judged.record["placement"]
            yield _compare(claim, share, 1.0, "every operator of a CPU's target is on the CPU")

    def _choice(self, levels: Sequence[LevelRecord]) -> Iterator[Finding]:
        chosen = next(level.optim_level for level in levels if level.chosen)
        best = level_that_ships(levels)
        why = (
            "the lowest level within 5% of the fastest that is VALID and passes its gates, "
            "evaluated in turn"
        )
        right = None if best is None else best.optim_level
        yield _compare("levels.chosen", chosen, right, why)


def _judge(manifest: Manifest, measurement: Measurement) -> Judged:
    record = record_of(manifest, measurement, "")
    if isinstance(measurement, AccuracyMeasurement):
        identity = dataset_digest(measurement)
        record["dataset"]["digest"] = identity
        del record["predictions"]
        own: tuple[tuple[str, Scalar, Scalar], ...] = (
            ("dataset_digest", measurement.dataset_digest, identity),
        )
        return Judged(measurement.subject, record, own, None, _setting(measurement, record))
    del record["latencies"]
    peak = peak_of(measurement)
    peak_fps = None if peak is None else 1000 * peak / manifest.model.gflop
    return Judged(measurement.subject, record, (), peak_fps, _setting(measurement, record))


def _setting(measurement: Measurement, record: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return what two measurements must have in common to be compared."""
    environment = measurement.environment
    packages = sorted(environment.packages.items())
    setting: dict[str, Scalar] = {
        "subject.name": measurement.subject.name,
        "subject.preprocess_digest": measurement.subject.preprocess_digest,
        "batch_size": measurement.batch_size,
        "threads": measurement.threads,
        "environment.processor": environment.processor,
        "environment.features": " ".join(environment.features),
        "environment.packages": ", ".join(" ".join(each) for each in packages),
    }
    if isinstance(measurement, AccuracyMeasurement):
        return {**setting, "dataset.digest": record["dataset"]["digest"]}
    return {**setting, "inputs.digest": measurement.inputs.digest, "protocol": measurement.protocol}


def _once(field: str, path: str, before: Sequence[str]) -> Iterator[Finding]:
    if path in before:
        why = "a record before has this evidence: nothing is measured twice by it"
        yield Finding(f"{field} once", path, None, "does not follow", why)


def _below_peak(field: str, record: PerformanceRecord, peak_fps: Optional[float]) -> Finding:
    claim = f"{field} against the hardware's peak"
    if peak_fps is None:
        why = "what this hardware does at most is not known"
        return Finding(claim, record.fps, None, "not checked", why)
    why = "images a second that arithmetic on its threads cannot exceed"
    holds = record.fps <= peak_fps or record.verdict == "INVALID"
    return _found(claim, record.fps, peak_fps, holds, why)


# Comparing


def _compare_all(
    field: str, published: Mapping[str, Any], recomputed: Mapping[str, Any], evidence: str
) -> Iterator[Finding]:
    """Compare every number of a record, in the record's order; one that is in one only differs."""
    ours, theirs = dict(_flat(published)), dict(_flat(recomputed))
    for name in dict.fromkeys((*ours, *theirs)):
        why = evidence if name in theirs else f"{evidence} holds too little for it"
        yield _compare(f"{field}.{name}", ours.get(name), theirs.get(name), why)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    for name, member in value.items():
        if isinstance(member, Mapping):
            yield from _flat(cast("Mapping[str, Any]", member), f"{prefix}{name}.")
        elif isinstance(member, (list, tuple)):
            yield f"{prefix}{name}", "; ".join(map(str, cast("Sequence[object]", member)))
        else:
            yield f"{prefix}{name}", member


def _compare(claim: str, published: Scalar, recomputed: Scalar, why: str) -> Finding:
    return _found(claim, published, recomputed, _same(published, recomputed), why)


def _found(claim: str, published: Scalar, recomputed: Scalar, holds: bool, why: str) -> Finding:
    return Finding(claim, published, recomputed, "follows" if holds else "does not follow", why)


def _same(one: Scalar, other: Scalar) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return type(one) is type(other) and one == other


def _broken(claim: str, published: str, error: VitaieError) -> Finding:
    return Finding(claim, published, None, "does not follow", _told(error))


def _told(error: VitaieError) -> str:
    """Return an error as a reason: the sentence without what to do about it."""
    place, expected, got = error.field, error.expected, error.got
    return str(type(error)(error.code, error.where, field=place, expected=expected, got=got))
