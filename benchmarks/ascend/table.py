"""Published figures and measured ones, line by line, from what bundles say of themselves.

Pure: manifests, as ``vitaie info --json`` prints them, to rows. A published figure with nothing
measured beside it is a row as well. No line is judged. The published speeds were taken with the
input on the device already, so they stand beside those at the boundary ``device``; what a call
of the runtime takes, with the copies to the device and back, is told in the note.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple, Optional

Manifest = Mapping[str, Any]

DOUBLE = "made with the tests' double: it ran on no device"
_NOT_MEASURED = "not measured"


class Row(NamedTuple):
    """One published figure beside what was measured for it at one level.

    Attributes:
        bundle: Name and preprocessing.
        figure: ``top-1 %``, ``top-5 %`` or ``images/s``.
        batch: Images of each call.
        level: The optimisation level of the target.
        published: By ``source``.
        source: Who published it, and how it was taken.
        measured: None where it was not.
        difference: In points of percent; of speed, measured as a share of published.
        note: The interval; of speed how it was taken, INVALID with the reason, and the speed at
            the boundary ``host``; or that there is nothing.
    """

    bundle: str
    figure: str
    batch: Optional[int]
    level: int
    published: float
    source: str
    measured: Optional[float]
    difference: Optional[float]
    note: str


def rows(
    manifest: Manifest,
    levels: Sequence[int],
    precision: str,
    *,
    double: bool,
    speed: bool = True,
) -> Iterator[Row]:
    """Yield the rows of one bundle.

    Args:
        manifest: What the bundle says.
        levels: The optimisation levels that were asked for.
        precision: Of the targets that count.
        double: Whether these were made by the tests' double, and not for a device.
        speed: Whether speed was to be measured, which no preprocessing changes.
    """
    targets = {
        each["target_digest"]: each
        for each in manifest["targets"]
        if each["backend"] == "torch_aie"
        and each["precision"] == precision
        and each["options"]["double"] is double
    }
    for figure in manifest["expected"]["accuracy"]:
        for level in levels:
            yield from _accuracy(manifest, figure, level, targets)
    for figure in manifest["expected"]["speed"] if speed else ():
        for level in levels:
            yield _speed(manifest, figure, level, targets)


def _accuracy(
    manifest: Manifest, figure: Mapping[str, Any], level: int, targets: Mapping[str, Any]
) -> Iterator[Row]:
    record = next(
        (
            each
            for each in manifest["accuracy"]
            if targets.get(each["target_digest"], {}).get("optim_level") == level
        ),
        None,
    )
    for key, name in (("top1", "top-1 %"), ("top5", "top-5 %")):
        published = figure[key]
        if published is None:
            continue
        row = Row(_title(manifest), name, None, level, published, figure["source"], None, None, "")
        if record is None:
            yield row._replace(note=_NOT_MEASURED)
            continue
        rate, batches = record[key], targets[record["target_digest"]]["batch_sizes"]
        low, high = rate["wilson95"]["low"], rate["wilson95"]["high"]
        lies = "inside" if low <= published <= high else "outside"
        images = f"{rate['count']:,} of {record['dataset']['images']:,} images"
        yield row._replace(
            batch=batches[0],
            measured=rate["percent"],
            difference=rate["percent"] - published,
            note=f"{images}; published lies {lies} of 95%: {low:.3f} to {high:.3f}",
        )


def _speed(
    manifest: Manifest, figure: Mapping[str, Any], level: int, targets: Mapping[str, Any]
) -> Row:
    batch = figure["batch_size"]
    row = Row(
        _title(manifest), "images/s", batch, level, figure["fps"], figure["source"], None, None, ""
    )
    records = [
        each
        for each in manifest["performance"]
        if each["batch_size"] == batch
        and targets.get(each["target_digest"], {}).get("optim_level") == level
        and targets[each["target_digest"]]["batch_sizes"] == [batch]
    ]
    at = {boundary: _best(records, boundary) for boundary in ("device", "host")}
    record, host = at["device"], at["host"]
    beside = "" if host is None else f"; host {_told(host)}"
    if record is None:
        return row._replace(note=_NOT_MEASURED + beside)
    how = f"{record['boundary']}, {record['scenario']}, {record['protocol']}"
    if record["verdict"] != "VALID":
        return row._replace(note=f"{how}: {_told(record)}{beside}")
    fps = record["fps"]
    return row._replace(measured=fps, difference=fps / figure["fps"], note=how + beside)


def _best(records: Sequence[Mapping[str, Any]], boundary: str) -> Optional[Mapping[str, Any]]:
    """Return the first record at a boundary, one that counts before one that does not."""
    found = [each for each in records if each["boundary"] == boundary]
    return min(found, key=lambda each: each["verdict"] != "VALID", default=None)


def _told(record: Mapping[str, Any]) -> str:
    """Return a speed; of one that does not count, why."""
    if record["verdict"] != "VALID":
        return f"INVALID: {'; '.join(record['reasons'])}"
    return f"{record['fps']:.3f}"


def _title(manifest: Manifest) -> str:
    return f"{manifest['name']}, {manifest['preprocess']['profile']}"


# As text


HEADS = ("Bundle", "Figure", "Batch", "Level", "Published", "By", "Measured", "Difference", "How")
NUMERIC = frozenset({"Batch", "Level", "Published", "Measured", "Difference"})


def sources(table: Sequence[Row]) -> dict[str, int]:
    """Return the sources of the published figures, numbered from 1 in the order of the rows."""
    return {
        source: number for number, source in enumerate(dict.fromkeys(r.source for r in table), 1)
    }


def cells(row: Row, numbers: Mapping[str, int]) -> tuple[str, ...]:
    """Return a row as text, under ``HEADS``."""
    return (
        row.bundle,
        row.figure,
        "" if row.batch is None else str(row.batch),
        str(row.level),
        f"{row.published:g}",
        f"[{numbers[row.source]}]",
        "" if row.measured is None else f"{row.measured:.3f}",
        _difference(row),
        row.note,
    )


def _difference(row: Row) -> str:
    if row.difference is None:
        return ""
    if row.figure == "images/s":
        return f"{100 * row.difference:.1f}%"
    return f"{row.difference:+.3f}"


class Story(NamedTuple):
    """What a report says beside the table.

    Attributes:
        double: Whether the tests' double was measured and no device.
        facts: Name and value: of the machine, the package, the options.
        failures: Step and what it said.
    """

    double: bool
    facts: Sequence[tuple[str, str]]
    failures: Sequence[tuple[str, str]]


def to_markdown(table: Sequence[Row], story: Story) -> str:
    """Return the report as Markdown."""
    numbers = sources(table)
    lines = ["# vitaie on an Ascend device", ""]
    if story.double:
        lines += [f"**{DOUBLE}: nothing here says anything of a device.**", ""]
    lines += [f"* {_plain(name)}: {_plain(value)}" for name, value in story.facts]
    lines += ["", "## What failed", ""]
    lines += [f"* {_plain(name)}: {_plain(said)}" for name, said in story.failures] or ["Nothing."]
    lines += ["", "## Published and measured", "", f"| {' | '.join(HEADS)} |"]
    lines.append("|" + "|".join("---:" if head in NUMERIC else "---" for head in HEADS) + "|")
    lines += [f"| {' | '.join(map(_plain, cells(row, numbers)))} |" for row in table]
    lines += [""] + [f"[{number}] {_plain(source)}  " for source, number in numbers.items()]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d8dde3, #343c45); }
:root { --soft: light-dark(#55606d, #a3adb9); --bad: light-dark(#ab1f17, #ff9d94); }
body { margin: 0 auto; max-width: 1120px; padding: 20px 16px 48px; overflow-wrap: anywhere;
  background: light-dark(#fff, #14181d); color: light-dark(#1a2027, #e7eaee);
  font: 15px/1.5 ui-sans-serif, system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 26px; } h2 { font-size: 19px; margin-top: 28px; }
.double, .failed { color: var(--bad); font-weight: 600; }
dt { color: var(--soft); } dd { margin: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0; overflow-wrap: normal;
  border-bottom: 1px solid var(--line); } td:last-child { min-width: 240px; }
.number { text-align: right; white-space: nowrap; } .soft { color: var(--soft); }
"""


def to_html(table: Sequence[Row], story: Story) -> str:
    """Return the report as one page that asks nothing of a network."""
    numbers = sources(table)
    head = "".join(f'<th scope="col"{_class(name)}>{name}</th>' for name in HEADS)
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{_class(n)}>{escape(c)}</td>" for n, c in zip(HEADS, cells(row, numbers)))
        + "</tr>"
        for row in table
    )
    double = f'<p class="double">{escape(DOUBLE)}: nothing here says anything of a device.</p>'
    failures = "".join(
        f'<li><span class="failed">{escape(name)}</span> {escape(said)}</li>'
        for name, said in story.failures
    )
    facts = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in story.facts)
    notes = "".join(f"<li>{escape(source)}</li>" for source in numbers)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>vitaie on an Ascend device</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>vitaie on an Ascend device</h1>
{double if story.double else ""}
<dl>{facts}</dl>
<h2>What failed</h2>
{f"<ul>{failures}</ul>" if failures else "<p>Nothing.</p>"}
<h2>Published and measured</h2>
<p class="soft">No line is judged. Accuracy: points of percent. Speed: measured as a share of
published, both with inputs and outputs on the device; "host" is with the copies there and back.</p>
<div class="scroll" role="group" aria-label="Published and measured" tabindex="0">
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div>
<h2>By</h2>
<ol>{notes}</ol>
<p class="soft">The bundles, each with every claim: bundles.html, in the same archive.</p>
</main>
</body>
</html>
"""


def _class(head: str) -> str:
    return ' class="number"' if head in NUMERIC else ""
