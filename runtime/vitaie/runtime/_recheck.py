"""Measurements, checked again: their arithmetic always, what was measured when it is asked for.

Accuracy is measured again as it was recorded: the same batches, in the same order, with as many
threads, through the same code as ``evaluate``, and each prediction is held against the one that
was kept. Of a sample, the images are drawn by the seed of the one who verifies. Speed is measured
again by ``benchmark``: a claim is confirmed at 0.85 of it, and the same hardware can refute it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vitaie.manifests.errors import InputError, VitaieError
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    Environment,
    Measurement,
    PerformanceMeasurement,
    read_measurement,
)
from vitaie.manifests.statistics import percentiles
from vitaie.runtime._audit import audit_records
from vitaie.runtime._benchmark import benchmark
from vitaie.runtime._claim import Again, Claim, Tier
from vitaie.runtime._dataset import Dataset, read_dataset
from vitaie.runtime._environment import collect
from vitaie.runtime._evaluate import SOURCE, Progress
from vitaie.runtime._goldens import tier_elsewhere
from vitaie.runtime._model import missing_for, read_labels
from vitaie.runtime._seen_again import (
    Differing,
    Plan,
    beyond,
    difference,
    draw,
    readable,
    see_again,
)

if TYPE_CHECKING:
    from vitaie.manifests.contents import PerformanceRecord
    from vitaie.manifests.manifest import Target
    from vitaie.manifests.measurement import Run
    from vitaie.runtime._bundle import Bundle

    Say = Callable[[str], None]
    Count = Callable[[Progress], None]

CONFIRMED = 0.85
"""Of a claimed speed: reaching so much confirms it, and faster is no lie."""

_TRIED = 256
"""Of a record's missing files, so many are tried beside a smaller sample: decoded, not computed."""

_ENGINES = {"onnxruntime": "onnxruntime", "torchscript": "torch", "torch_aie": "torch"}
"""The package that computes; what else a device needs is compared before a target runs at all."""
_DATA, _SPEED = "--data DIR", "--performance"


class Rechecks:
    """What is to be checked of a bundle's measurements. Made when the arguments are known.

    Raises:
        InputError: An argument is not valid, or the dataset is not that of any record.
    """

    def __init__(
        self, bundle: Bundle, wanted: Sequence[str], again: Again, device_id: int = 0
    ) -> None:
        """Read the evidence of the records that are to be measured again, and the dataset's list.

        Args:
            bundle: An open bundle whose files were checked.
            wanted: The digests of the targets that are asked for.
            again: What is to be measured again.
            device_id: Which device targets that are made for one run on.
        """
        self._bundle = bundle
        self._wanted = wanted
        self._again = again
        self._device_id = device_id
        self._environment = collect()
        self._seed = secrets.randbelow(2**32) if again.seed is None else again.seed
        self._dataset: Dataset | None = None
        self._matching: dict[int, AccuracyMeasurement] = {}
        if again.data is not None:
            self._dataset = self._read_dataset(again.data)
            self._matching = self._match(self._dataset)
        claimed = {record.target_digest for record in bundle.manifest.performance}
        if again.performance and claimed.isdisjoint(wanted):
            hint = "Measure it with: vitaie bench BUNDLE."
            expected = "a target whose speed the bundle claims"
            raise InputError("E_ARGUMENT", "performance", expected=expected, got="none", hint=hint)

    def run(self, say: Say, images: Count | None) -> Iterator[Claim]:
        """Yield a claim for the arithmetic of each record, and one for its measurement.

        Raises:
            InputError: An image is not the one of the record.
            ImageError: An image cannot be used.
        """
        yield from self._arithmetic()
        if self._again.data is not None:
            say("accuracy")
        yield from self._accuracy(images or _silent)
        if self._again.performance:
            say("performance")
        yield from self._performance()

    # Arithmetic

    def _arithmetic(self) -> Iterator[Claim]:
        for record, path, findings in audit_records(self._bundle):
            wrong = [each for each in findings if each.status == "does not follow"]
            measured = record.startswith(("accuracy", "performance"))
            claim = f"{record} evidence" if measured else record
            if wrong:
                first = wrong[0]
                told = f"{first.published} is claimed, and of {first.why} follows"
                why = first.why if first.recomputed is None else f"{told} {first.recomputed}"
                yield Claim(claim, "false", f"{first.claim}: {why}")
            else:
                follow = sum(each.status == "follows" for each in findings)
                told = f"{follow} claims follow" if follow > 1 else "it follows"
                yield Claim(claim, "true", f"{told} from {path}")

    def _measurement(self, path: str) -> Measurement | None:
        """Return a file of evidence; None if it is none, which its arithmetic says already."""
        data = self._bundle.read(path).tobytes()
        self._bundle.release(path)
        try:
            return read_measurement(data, path)
        except VitaieError:
            return None

    # Accuracy

    def _read_dataset(self, data: str | os.PathLike[str]) -> Dataset:
        ids = [identity for identity, _ in read_labels(self._bundle)]
        classes = self._bundle.manifest.model.classes
        return read_dataset(data, self._again.labels, class_ids=ids, classes=classes)

    def _match(self, dataset: Dataset) -> dict[int, AccuracyMeasurement]:
        """Return the measurements on this list of images and classes, by their record's index."""
        found: dict[int, AccuracyMeasurement] = {}
        others: list[InputError] = []
        for index, record in enumerate(self._bundle.manifest.accuracy):
            if record.target_digest not in self._wanted:
                continue
            measurement = self._measurement(record.predictions)
            if not isinstance(measurement, AccuracyMeasurement):
                continue
            differs = difference(dataset, measurement)
            if differs is None:
                found[index] = measurement
                continue
            digest, images = record.dataset.digest, record.dataset.images
            others.append(
                InputError(
                    "E_DATASET_OTHER",
                    dataset.root,
                    field=f"accuracy[{index}]",
                    expected=f"{record.dataset.name}, {images} images, {digest}",
                    got=differs,
                )
            )
        if found:
            return found
        if others:
            raise others[0]
        hint = "Measure it with: vitaie eval BUNDLE --data DIR."
        expected = "a target whose accuracy the bundle claims"
        raise InputError("E_ARGUMENT", "data", expected=expected, got="none", hint=hint)

    def _accuracy(self, images: Count) -> Iterator[Claim]:
        for index, record in enumerate(self._bundle.manifest.accuracy):
            claim = f"accuracy[{index}]"
            target = self._target(record.target_digest)
            missing = missing_for(target)
            if record.target_digest not in self._wanted:
                why, check = "another target was asked for", f"{_DATA} --target {target.id}"
                yield Claim(claim, "not checked", why, check=check)
            elif self._dataset is None:
                yield Claim(claim, "not checked", "not measured again", check=_DATA)
            elif index not in self._matching:
                why = f"of another dataset: {record.dataset.name}, {record.dataset.digest}"
                yield Claim(claim, "not checked", why, check=_DATA)
            elif missing:
                yield Claim(claim, "not checked", missing)
            else:
                yield from self._see_again(claim, target, self._matching[index], images)

    def _see_again(
        self, claim: str, target: Target, measurement: AccuracyMeasurement, images: Count
    ) -> Iterator[Claim]:
        assert self._dataset is not None
        source = self._source(measurement)
        plan = Plan(self._bundle, target, source, measurement, self._dataset, self._device_id)
        rows = len(plan.kept)
        drawn = draw(self._again.sample, self._seed, rows)
        numbers = range(plan.batches) if drawn is None else plan.batches_of(drawn)
        seen = see_again(plan, numbers, images)
        how = f"{seen.compared:,} of {rows:,} predictions"
        if drawn is not None:
            how += f", in the batches of {len(drawn):,} images drawn by seed {self._seed},"
        yield self._judged(claim, plan, target, seen.target, how)
        if source is not None:
            yield self._judged(f"{claim} source", plan, source, seen.source, how)
        elif measurement.images.source is not None:
            why = missing_for(self._source_target())
            yield Claim(f"{claim} source", "not checked", why)
        if drawn is None:
            digest, recorded = seen.digest, measurement.dataset_digest
            same = digest == recorded
            detail = f"{rows:,} files, {digest}" + ("" if same else f", {recorded} is claimed")
            yield Claim(f"{claim} dataset", "true" if same else "false", detail)
        elif seen.compared < rows:
            why = f"{rows - seen.compared:,} were not drawn"
            yield Claim(f"{claim} other images", "not checked", why, check=_DATA)
        yield from self._missing(claim, plan)

    def _missing(self, claim: str, plan: Plan) -> Iterator[Claim]:
        """Say whether the files that a record leaves out cannot be used; in a sample too.

        Nothing in a record shows it of a file: it has no digest. Wrong images called missing would
        raise its rates, and no sample of those that were counted meets them.
        """
        missing, sample = plan.missing, self._again.sample
        if not missing:
            return
        tried = missing
        if sample is not None and len(missing) > max(sample, _TRIED):
            drawn = draw(max(sample, _TRIED), self._seed, len(missing)) or ()
            tried = [missing[place] for place in drawn]
        found = readable(tried, plan.bundle.manifest.preprocess)
        told = f"of {len(tried):,} files tried that it calls missing, {len(found):,} can be used"
        if found:
            detail = f"{told}, first {found[0].path}: no count has them"
            yield Claim(f"{claim} missing", "false", detail)
        else:
            yield Claim(f"{claim} missing", "true", told)
        if len(tried) < len(missing):
            why = f"{len(missing) - len(tried):,} were not drawn"
            yield Claim(f"{claim} other missing", "not checked", why, check=_DATA)

    def _judged(
        self,
        claim: str,
        plan: Plan,
        target: Target,
        differing: Sequence[Differing],
        how: str,
    ) -> Claim:
        """Say whether predictions that differ may: none on a like machine, near ties elsewhere."""
        environment, threads = plan.measurement.environment, plan.measurement.threads
        tier: Tier = tier_elsewhere(target)
        on_cpu = target.device == "cpu"  # a device's bits were never seen twice
        if on_cpu and not _unlike(environment, self._environment, target, threads):
            tier = "exact"
        wrong = differing if tier == "exact" else list(beyond(plan, target, differing))
        if not wrong:
            near = f", {len(differing):,} of them within the tolerance" if differing else ""
            return Claim(claim, "true", f"{how} are as kept{near}", tier)
        first = wrong[0]
        kept, here = (", ".join(map(str, classes)) for classes in (first.kept, first.here))
        detail = f"{how}, {len(wrong):,} not as kept: {first.entry.path} is {here}, not {kept}"
        return Claim(claim, "false", detail, tier)

    def _target(self, digest: str) -> Target:
        targets = self._bundle.manifest.targets
        return next(target for target in targets if target.target_digest == digest)

    def _source_target(self) -> Target:
        targets = self._bundle.manifest.targets
        return next(target for target in targets if target.id == SOURCE)

    def _source(self, measurement: AccuracyMeasurement) -> Target | None:
        """Return the source model's target where it was measured, and runs here."""
        source = self._source_target()
        return None if measurement.images.source is None or missing_for(source) else source

    # Speed

    def _performance(self) -> Iterator[Claim]:
        for index, record in enumerate(self._bundle.manifest.performance):
            claim = f"performance[{index}]"
            target = self._target(record.target_digest)
            measurement = self._measurement(record.latencies)
            missing = missing_for(target)
            if record.verdict == "INVALID":
                yield Claim(claim, "not checked", "INVALID: no speed is claimed")
            elif record.target_digest not in self._wanted:
                why, check = "another target was asked for", f"{_SPEED} --target {target.id}"
                yield Claim(claim, "not checked", why, check=check)
            elif not self._again.performance:
                yield Claim(claim, "not checked", "not measured again", check=_SPEED)
            elif missing:
                yield Claim(claim, "not checked", missing)
            elif not isinstance(measurement, PerformanceMeasurement):
                yield Claim(claim, "not checked", f"{record.latencies} is no evidence")
            elif unlike := _unlike(
                measurement.environment, self._environment, target, record.threads
            ):
                yield Claim(claim, "undecidable", f"measured on other hardware: {unlike}")
            elif _needs_photographs(record) and self._again.data is None:
                why = "it was measured on photographs, whose size decides"
                yield Claim(claim, "not checked", why, check=f"{_SPEED} {_DATA}")
            else:
                yield self._time_again(claim, target, record)

    def _time_again(self, claim: str, target: Target, record: PerformanceRecord) -> Claim:
        try:
            result = benchmark(
                self._bundle.folder,
                target=target.id,
                threads=record.threads,
                batch_size=record.batch_size,
                scenario=record.scenario,
                boundary=record.boundary,
                protocol=record.protocol,
                data=self._again.data if _needs_photographs(record) else None,
                seed=self._again.seed,
                device_id=self._device_id if target.device != "cpu" else 0,
            )
        except VitaieError as error:
            if error.exit_code != 6:
                raise
            return Claim(claim, "undecidable", str(error))
        return judge_speed(claim, record, result.measurement, result.record["reasons"])


def _silent(progress: Progress) -> None:
    """Report no progress."""


# Whether this machine can tell


def _unlike(then: Environment, here: Environment, target: Target, threads: int) -> str:
    """Return in what this machine is not the one of a measurement; nothing where it is like it."""
    packages = ("vitaie", "numpy", "pillow", _ENGINES[target.backend])
    differences = [
        f"{name} {told}, here {seen}"
        for name, told, seen in (
            ("processor", then.processor, here.processor),
            *((name, then.packages.get(name), here.packages.get(name)) for name in packages),
        )
        if told != seen
    ]
    if then.features != here.features:
        changed = sorted(set(then.features) ^ set(here.features))
        differences.append(f"instruction sets differ in {', '.join(changed)}")
    needed = min(threads, then.processors)
    if here.processors < needed:
        differences.append(f"{needed} processors, here {here.processors}")
    return "; ".join(differences)


def _needs_photographs(record: PerformanceRecord) -> bool:
    return record.inputs == "photographs" and record.boundary == "end_to_end"


def judge_speed(
    claim: str,
    record: PerformanceRecord,
    measured: PerformanceMeasurement,
    reasons: Sequence[str],
) -> Claim:
    """Say whether a speed measured on the same hardware confirms or refutes the one claimed.

    It confirms when the whole measurement reaches 0.85 of the images a second and of the median
    latency, though it may not have been stable; it refutes when not even the fastest third of a
    run does. Between the two, and where outputs were not right, nothing is decided.
    """
    windows = [window for run in measured.runs for window in _thirds(run)]
    size = measured.batch_size
    whole = _Speed.of(list(measured.runs), size)
    best = [_Speed.of([window], size) for window in windows]
    fps, p50 = record.fps, record.latency_ms["p50"]
    detail = (
        f"{whole.fps:.6g} images a second here, {fps:.6g} claimed;"
        f" median {whole.p50_ms:.4g} ms here, {p50:.4g} claimed; {CONFIRMED:g} of it confirms it"
    )
    if (
        max(each.fps for each in best) < CONFIRMED * fps
        or min(each.p50_ms for each in best) * CONFIRMED > p50
    ):
        return Claim(claim, "false", detail)
    unstable = [reason for reason in reasons if "was not stable" in reason]
    if len(unstable) < len(reasons):
        return Claim(claim, "undecidable", f"{detail}; INVALID: {'; '.join(reasons)}")
    if whole.fps >= CONFIRMED * fps and whole.p50_ms * CONFIRMED <= p50:
        return Claim(claim, "true", detail)
    return Claim(claim, "undecidable", f"{detail}; leave the machine alone, and run it again")


class _Calls(NamedTuple):
    """Calls in order, as a run has them."""

    start_ns: Sequence[int]
    end_ns: Sequence[int]


class _Speed(NamedTuple):
    fps: float
    p50_ms: float

    @classmethod
    def of(cls, runs: Sequence[Run | _Calls], batch_size: int) -> _Speed:
        """Return images over wall time, and the median latency of all calls."""
        wall = sum(run.end_ns[-1] - run.start_ns[0] for run in runs)
        times = [(b - a) / 1e6 for run in runs for a, b in zip(run.start_ns, run.end_ns)]
        return cls(len(times) * batch_size * 1e9 / wall, percentiles(times)["p50"])


def _thirds(run: Run) -> Iterator[_Calls]:
    """Yield a run's three equal parts; the run itself where it is shorter than that."""
    count = len(run.start_ns)
    cuts = [count * part // 3 for part in range(4)] if count >= 3 else [0, count]
    for start, end in zip(cuts, cuts[1:]):
        yield _Calls(run.start_ns[start:end], run.end_ns[start:end])
