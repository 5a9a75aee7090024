"""Measuring a bundle before it is published, on the very bytes that ship, and judging its gates.

    staged candidates ─ time in turns ─► speed ─ gates ─► accuracy of the best ─ gates ─► publish

A candidate is the same bundle at one optimisation level. Speed comes first: it takes seconds, and
what it decides need not wait for fifty thousand images. Whatever is refused, the evidence is kept
beside the store, and the journal of the evaluation stays, so that nothing is measured twice.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vitaie.builder.staged import with_records, write_records
from vitaie.manifests.devices import MAX_BATCH
from vitaie.manifests.errors import BundleError, GateError, ImageError, InputError, StoreError
from vitaie.manifests.gates import OF_SPEED, Gate, Outcome, facts_of, judge, worst
from vitaie.manifests.levels import choose_level
from vitaie.manifests.outputs import RefusalReport
from vitaie.runtime import _benchmark, _evaluate
from vitaie.runtime._bundle import MANIFEST_NAME, open_bundle
from vitaie.runtime._dataset import read_dataset
from vitaie.runtime._evidence import Evidence, evidence_of, record_of
from vitaie.runtime._files import disk_errors, write_output
from vitaie.runtime._timing import Timed

if TYPE_CHECKING:
    from vitaie.manifests.contents import LevelRecord
    from vitaie.manifests.manifest import Manifest, Target
    from vitaie.manifests.measurement import AccuracyMeasurement

_log = logging.getLogger("vitaie")

ROUNDS = 2
"""Runs of each candidate, one after the other and then the other way round, when there are more."""


@dataclass(frozen=True)
class Wanted:
    """What is measured of a bundle before it is published, and what must come of it.

    Attributes:
        data: A dataset, on which accuracy is measured; none when None.
        labels: Its file of labels, if it is flat; looked for when None.
        allow_missing: How many of its images may be unreadable.
        gates: All must pass.
        batch_sizes: Speed is measured at each; gates and levels are judged by the first.
        speed: Whether speed is measured.
    """

    data: Path | None = None
    labels: Path | None = None
    allow_missing: int = 0
    gates: tuple[Gate, ...] = ()
    batch_sizes: tuple[int, ...] = (1,)
    speed: bool = True


@dataclass(frozen=True)
class Watch:
    """Who is told how far it is: of each step's name, and of images that are done."""

    step: Callable[[str], None]
    images: Callable[[_evaluate.Progress], None]


class Candidate(NamedTuple):
    """A manifest that may ship, and the target that is measured at each of the batch sizes."""

    manifest: Manifest
    targets: Sequence[str]


@dataclass
class _Attempt:
    """A candidate and what is known of it so far; the first speed is the one that is judged."""

    candidate: Candidate
    speeds: list[Evidence] = field(default_factory=lambda: list[Evidence]())
    accuracy: Evidence | None = None

    @property
    def manifest(self) -> Manifest:
        return self.candidate.manifest

    @property
    def target(self) -> Target:
        """The one that accuracy and gates are of."""
        name = self.candidate.targets[0]
        return next(target for target in self.manifest.targets if target.id == name)

    @property
    def evidence(self) -> list[Evidence]:
        return [*([] if self.accuracy is None else [self.accuracy]), *self.speeds]


class Staged(NamedTuple):
    """A bundle that is ready but for its measurements.

    Attributes:
        folder: The staging folder.
        candidates: What to choose from, one for each level, the lowest first.
        store: The store that it will be published in.
        show: Makes the folder one of the candidates.
        publish: Publishes what is in the folder then.
        device_id: Which device runs targets that are made for one.
    """

    folder: Path
    candidates: Sequence[Candidate]
    store: Path
    show: Callable[[Manifest], None]
    publish: Callable[[], Path]
    device_id: int = 0


class Published(NamedTuple):
    """Where the bundle is, and what it says."""

    path: Path
    manifest: Manifest


def show_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a staged bundle the candidate of a manifest, where nothing else differs."""
    (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())


def check_wanted(wanted: Wanted, name: str, class_ids: Sequence[str]) -> None:
    """Refuse what could not be measured or decided, before anything is built.

    Args:
        wanted: What is to be measured.
        name: The model's.
        class_ids: The id of each of its classes, in output order.

    Raises:
        InputError: The dataset is none of this model, or a batch size is not 1 to 1024.
        GateError: ``E_GATE_UNDECIDABLE``, a gate asks for what is not measured.
    """
    for gate in wanted.gates:
        of_speed = gate.metric in OF_SPEED
        if not (wanted.speed if of_speed else wanted.data):
            got = "speed is not measured" if of_speed else "no dataset to measure accuracy on"
            hint = "Leave --skip-measure out." if of_speed else "Name one with --data DIR."
            raise GateError("E_GATE_UNDECIDABLE", name, field=str(gate), got=got, hint=hint)
    check_batch_sizes(wanted.batch_sizes)
    if wanted.allow_missing < 0:
        least = "at least 0"
        raise InputError("E_ARGUMENT", "allow_missing", expected=least, got=wanted.allow_missing)
    if wanted.data is not None:
        classes = len(class_ids)
        read_dataset(wanted.data, wanted.labels, class_ids=class_ids, classes=classes)


def check_batch_sizes(sizes: Sequence[int]) -> None:
    """Refuse what no call could be made of.

    Raises:
        InputError: ``E_ARGUMENT``, one is not 1 to 1024, or stands there twice.
    """
    for size in sizes:
        if not 1 <= size <= MAX_BATCH or sizes.count(size) > 1:
            expected = f"1 to {MAX_BATCH}, each once"
            raise InputError("E_ARGUMENT", "batch_size", expected=expected, got=size)


def measure_and_publish(staged: Staged, wanted: Wanted, watch: Watch) -> Published:
    """Measure the candidates in turns, and publish the best that passes every gate.

    Raises:
        GateError: ``E_GATE_FAILED``, ``E_GATE_UNDECIDABLE``, or of several levels
            ``E_SPEED_INVALID``; the error names the report.
        BundleError: The bundle was changed meanwhile, or is false.
        InputError: The dataset holds what cannot be used.
        DiskError: The disk refused. In every case the store is as it was.
    """
    return _Measuring(staged, wanted, watch).run()


class _Measuring:
    """One bundle on its way from staged to published."""

    def __init__(self, staged: Staged, wanted: Wanted, watch: Watch) -> None:
        self._staged = staged
        self._wanted = wanted
        self._watch = watch
        self._attempts = [_Attempt(candidate) for candidate in staged.candidates]
        self._refused: list[_Attempt] = []
        self._published: Published | None = None
        self._photographs = wanted.data if wanted.labels is None else None

    def run(self) -> Published:
        if self._wanted.speed:
            several = ROUNDS * len(self._attempts) if len(self._attempts) > 1 else 0
            runs = f"{several} runs of " if several else ""
            self._watch.step(f"speed, {runs}{_benchmark.PLANS['quick'].least}")
            self._time()
        while (best := self._best()) is not None:
            self._time_other_batches(best)
            self._show(best)
            if self._wanted.data is None:
                self._conclude(best)
            else:
                self._watch.step("accuracy")
                self._evaluate(best)
            if self._published is not None:
                return self._published
        raise self._refusal()

    # Speed

    def _time(self) -> None:
        """Time every candidate at the first batch size, all in turns and fed with the same."""
        several = len(self._attempts) > 1
        seed: int | None = None
        with ExitStack() as stack:
            sessions: list[_benchmark.Session] = []
            for attempt in self._attempts:
                self._show(attempt)
                session = stack.enter_context(self._session(attempt, 0, seed))
                seed = session.request.seed
                sessions.append(session)
            runs: list[list[Timed]] = [[] for _ in sessions]
            for number in range(ROUNDS if several else 1):
                order = range(len(sessions))
                for index in order if number % 2 == 0 else reversed(order):
                    self._show(self._attempts[index])
                    runs[index].append(sessions[index].time(number))
            for attempt, session, timed in zip(self._attempts, sessions, runs):
                self._show(attempt)
                attempt.speeds.append(evidence_of(session.finish(timed).measurement))

    def _time_other_batches(self, attempt: _Attempt) -> None:
        sizes = self._wanted.batch_sizes
        for index in range(len(attempt.speeds), len(sizes)) if attempt.speeds else ():
            least = _benchmark.PLANS["quick"].least
            self._watch.step(f"speed at batch {sizes[index]}, {least}")
            self._show(attempt)
            with self._session(attempt, index, None) as session:
                attempt.speeds.append(evidence_of(session.finish([session.time(0)]).measurement))

    @contextmanager
    def _session(
        self, attempt: _Attempt, index: int, seed: int | None
    ) -> Generator[_benchmark.Session, None, None]:
        """Open a session on photographs of the dataset; on the goldens where it has too few.

        ``index`` is of the batch size.
        """

        def opened(data: Path | None) -> AbstractContextManager[_benchmark.Session]:
            return _benchmark.open_session(
                self._staged.folder,
                target=attempt.candidate.targets[index],
                batch_size=self._wanted.batch_sizes[index],
                data=data,
                seed=seed,
                device_id=self._staged.device_id,
            )

        with ExitStack() as stack:
            try:
                session = stack.enter_context(opened(self._photographs))
            except InputError as error:
                unreadable = isinstance(error, ImageError) and self._wanted.allow_missing > 0
                if error.code != "E_DATASET_SMALL" and not unreadable:
                    raise
                _log.info("speed is measured on the goldens with noise: %s", error)
                self._photographs = None
                session = stack.enter_context(opened(None))
            yield session

    def _best(self) -> _Attempt | None:
        """Return the attempt to go on with; None when none is left that can still pass."""
        left = [attempt for attempt in self._attempts if attempt not in self._refused]
        if len(self._attempts) == 1:
            return next((each for each in left if self._can_pass(each)), None)
        rows = {each.manifest.manifest_digest: self._level(each, OF_SPEED) for each in left}
        chosen = choose_level(list(rows.values()))
        return next((each for each in left if rows[each.manifest.manifest_digest] is chosen), None)

    def _can_pass(self, attempt: _Attempt) -> bool:
        """Say whether the gates on speed pass, which nothing that is measured later changes."""
        judged = self._judged(attempt)
        return all(each.verdict == "pass" for each in judged if each.gate.metric in OF_SPEED)

    # Accuracy

    def _evaluate(self, attempt: _Attempt) -> None:
        """Evaluate, and publish before the journal goes: what fails then costs no image again."""

        def conclude(measurement: AccuracyMeasurement) -> None:
            attempt.accuracy = evidence_of(measurement)
            self._conclude(attempt)

        wanted, target = self._wanted, attempt.target
        assert wanted.data is not None
        named = f"{target.id}, level {target.optim_level}"
        home = self._staged.store / attempt.manifest.name
        _evaluate.evaluate(
            self._staged.folder,
            wanted.data,
            labels=wanted.labels,
            target=target.id,
            allow_missing=wanted.allow_missing,
            device_id=self._staged.device_id,
            journal=_evaluate.journal_file(None, home, named, wanted.data),
            cache=_evaluate.cache_folder(),
            progress=self._watch.images,
            save=conclude,
        )

    # Judging

    def _conclude(self, attempt: _Attempt) -> None:
        """Publish the attempt if it passes; refuse if no other is left that might."""
        outcomes = self._judged(attempt)
        if worst(outcomes) == "pass":
            self._publish(attempt, outcomes)
            return
        self._refused.append(attempt)
        if self._best() is None:
            raise self._refusal()

    def _judged(self, attempt: _Attempt) -> list[Outcome]:
        found = [
            None if each is None else record_of(attempt.manifest, each.measurement, each.path)
            for each in (attempt.accuracy, next(iter(attempt.speeds), None))
        ]
        facts = facts_of(found[0], found[1])
        return [judge(gate, facts) for gate in self._wanted.gates]

    def _gate_rows(self, attempt: _Attempt, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
        digest = attempt.target.target_digest
        return [
            {
                "require": str(outcome.gate),
                "target_digest": digest,
                "verdict": outcome.verdict,
                "reason": outcome.reason,
            }
            for outcome in outcomes
        ]

    def _level(
        self, attempt: _Attempt, metrics: frozenset[str] | None = None, *, chosen: bool = False
    ) -> LevelRecord:
        """Return the attempt's row of the table, judged by all gates or those of some metrics."""
        from vitaie.manifests.contents import LevelRecord

        outcomes = [
            outcome
            for outcome in self._judged(attempt)
            if metrics is None or outcome.gate.metric in metrics
        ]
        speed = attempt.speeds[0]
        record = record_of(attempt.manifest, speed.measurement, speed.path)
        same = ("target_digest", "boundary", "scenario", "batch_size", "fps", "verdict")
        row = {
            **{name: record[name] for name in same},
            "optim_level": attempt.target.optim_level,
            "gates": self._gate_rows(attempt, outcomes),
            "latencies": speed.path,
            "predictions": None if attempt.accuracy is None else attempt.accuracy.path,
            "chosen": chosen,
        }
        return LevelRecord.model_validate_json(json.dumps(row))

    def _table(self, chosen: _Attempt | None) -> list[LevelRecord]:
        if len(self._attempts) == 1:
            return []
        return [self._level(each, chosen=each is chosen) for each in self._attempts]

    # The end

    def _show(self, attempt: _Attempt) -> None:
        """Make the staged bundle this candidate."""
        self._staged.show(attempt.manifest)

    def _publish(self, attempt: _Attempt, outcomes: Sequence[Outcome]) -> None:
        """Put the records into the staged bundle, check every byte of it again, and publish it."""
        self._watch.step("publish")
        fields = with_records(attempt.manifest, attempt.evidence)
        fields["gates"] += self._gate_rows(attempt, outcomes)
        table = self._table(attempt)
        if table:
            fields["levels"] = [row.model_dump(mode="json") for row in table]
        all_evidence = attempt.evidence if not table else self._all_evidence()
        manifest = write_records(self._staged.folder, fields, all_evidence)
        with open_bundle(self._staged.folder) as bundle:
            if bundle.manifest != manifest:
                raise BundleError("E_MANIFEST_DIGEST", self._staged.folder, got="another manifest")
            bundle.check()
        self._published = Published(self._staged.publish(), manifest)

    def _all_evidence(self) -> list[Evidence]:
        found = [each for attempt in self._attempts for each in attempt.evidence]
        return list({each.path: each for each in found}.values())

    def _refusal(self) -> GateError:
        """Keep what was measured beside the store, and return the error that says so."""
        attempt = self._refused[-1] if self._refused else self._attempts[-1]
        outcomes = self._judged(attempt)
        verdict = worst(outcomes)
        store = self._staged.store if self._staged.store.name else self._staged.store.resolve()
        folder = store.with_name(f"{store.name}.refused") / attempt.manifest.name
        evidence = self._all_evidence()
        report = RefusalReport.model_validate_json(
            json.dumps(
                {
                    "name": attempt.manifest.name,
                    "content_digest": attempt.manifest.content_digest,
                    "target": attempt.target.id,
                    "verdict": verdict,
                    "gates": self._gate_rows(attempt, outcomes),
                    "levels": [row.model_dump(mode="json") for row in self._table(None)],
                    "evidence": [Path(each.path).name for each in evidence],
                }
            )
        )
        data = (json.dumps(report.model_dump(mode="json"), indent=1) + "\n").encode("ascii")
        place = _keep(folder, evidence, data)
        code = {"fail": "E_GATE_FAILED", "undecidable": "E_GATE_UNDECIDABLE"}
        said = self._missed(attempt, outcomes)
        return GateError(
            code.get(verdict, "E_SPEED_INVALID"),
            attempt.manifest.name,
            field=said[0],
            got=said[1],
            hint="Nothing is published. The evidence is kept:"
            f" {shlex.quote(str(place))} says how each gate was judged.",
        )

    def _missed(self, attempt: _Attempt, outcomes: Sequence[Outcome]) -> tuple[str, str]:
        """Return the gate that decided it, and why; where none did, why no speed counts."""
        reasons = ""
        for each in attempt.speeds[:1]:
            record = record_of(attempt.manifest, each.measurement, each.path)
            reasons = "; ".join(record["reasons"])
        missed = [each for each in outcomes if each.verdict == worst(outcomes) != "pass"]
        if not missed:
            return "speed", reasons
        measured = attempt.accuracy is not None
        told = next((e for e in missed if measured or e.gate.metric in OF_SPEED), missed[0])
        invalid = f": {reasons}" if reasons and told.gate.metric in OF_SPEED else ""
        return str(told.gate), told.reason + invalid


def _keep(folder: Path, evidence: Sequence[Evidence], report: bytes) -> Path:
    """Write evidence and report, named by their digests, into a folder; return the report's path.

    What is there already is the same, and stays.
    """
    from vitaie.manifests.digests import sha256

    place = folder / f"report-{sha256(report)[:12]}.json"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path, data in [*((folder / Path(e.path).name, e.data) for e in evidence), (place, report)]:
        with suppress(StoreError):
            write_output(path, data)
    return place
