"""What is told of an evaluation: the ``--json`` document, and lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitaie.manifests.errors import printable
from vitaie.runtime._evaluate import SOURCE, Evaluation
from vitaie.runtime._model import DOUBLE

if TYPE_CHECKING:
    from vitaie.manifests.contents import Rate
    from vitaie.manifests.manifest import Target
    from vitaie.manifests.outputs import EvalOutput


def output(result: Evaluation, written: str | None) -> EvalOutput:
    """Return the ``--json`` document of an evaluation whose record is at ``written``, if it is."""
    from vitaie.manifests.outputs import EvalOutput
    from vitaie.manifests.statistics import mcnemar_exact

    measurement, record = result.measurement, result.record
    paired = record["paired"]
    fields: dict[str, Any] = {
        "path": str(result.folder).encode("utf-8", "backslashreplace").decode("utf-8"),
        "version": result.manifest.version,
        "output": written,
        "target": measurement.subject.target,
        "double": _target(result).by_double,
        "target_digest": measurement.subject.target_digest,
        "batch_size": measurement.batch_size,
        "threads": measurement.threads,
        "dataset": measurement.dataset,
        "dataset_digest": measurement.dataset_digest,
        "images": len(measurement.images.path),
        "missing": list(measurement.missing),
        "mcnemar_p": paired and mcnemar_exact(paired["source_only"], paired["target_only"]),
        "classes": _classes(result),
        "expected": list(result.manifest.expected.accuracy),
    }
    same = ("top1", "top5", "source_top1", "source_top5", "paired", "agreement")
    return EvalOutput.model_validate({**fields, **{name: record[name] for name in same}})


def _target(result: Evaluation) -> Target:
    digest = result.measurement.subject.target_digest
    return next(each for each in result.manifest.targets if each.target_digest == digest)


def _classes(result: Evaluation) -> list[dict[str, str | int]]:
    """Return the counts of each class that has an image, by index."""
    images = result.measurement.images
    counts: dict[int, list[int]] = {}
    for label, classes in zip(images.label, images.target):
        count = counts.setdefault(label, [0, 0, 0])
        count[0] += 1
        count[1] += label == classes[0]
        count[2] += label in classes
    return [
        {"index": index, "id": result.class_ids[index], "images": n, "top1": top1, "top5": top5}
        for index, (n, top1, top5) in sorted(counts.items())
    ]


def describe(shown: EvalOutput) -> list[str]:
    """Return an evaluation as lines for people; the last is the one the vendor's scripts print."""
    rows = [
        (
            "target",
            f"{shown.target}, batch {shown.batch_size}, {shown.threads} threads"
            + f", {DOUBLE}" * shown.double,
        ),
        ("dataset", f"{shown.dataset}, {shown.images:,} images, {shown.dataset_digest}"),
        ("top-1", _rate(shown.top1, shown.images)),
        ("top-5", _rate(shown.top5, shown.images)),
    ]
    if shown.missing:
        rows.insert(2, ("missing", f"{len(shown.missing):,} images: {', '.join(shown.missing)}"))
    if shown.source_top1 and shown.source_top5 and shown.paired and shown.agreement is not None:
        cells = shown.paired
        rows += [
            ("source", f"{SOURCE}: top-1 {_rate(shown.source_top1, shown.images)}"),
            (
                "paired",
                f"{cells.both:,} right in both, {cells.target_only:,} in the target only,"
                f" {cells.source_only:,} in the source only, {cells.neither:,} in neither;"
                f" McNemar's p {shown.mcnemar_p:.3g}",
            ),
            ("agreement", f"{shown.agreement:,} of {shown.images:,} first classes"),
        ]
    for figure in shown.expected:
        top5 = "" if figure.top5 is None else f", top-5 {figure.top5}"
        off = shown.top1.percent - figure.top1
        rows.append(
            (
                "published",
                f"top-1 {figure.top1}{top5} ({figure.source}): measured here {off:+.3f} points",
            )
        )
    last = (
        f"top1 is {shown.top1.percent:.3f}, top5 is {shown.top5.percent:.3f},"
        f" step is {shown.images}"
    )
    return [*(f"{key:<11}{printable(value, 400)}" for key, value in rows), last]


def _rate(rate: Rate, images: int) -> str:
    interval = rate.wilson95
    return (
        f"{rate.percent:.3f}%, {rate.count:,} of {images:,},"
        f" 95% between {interval.low:.3f} and {interval.high:.3f}"
    )
