"""``make ascend-acceptance``: what it compares, what it does not do twice, what it packs.

The whole way runs on the double, in ``make test-long``: no test here has seen a device.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ascend import steps, table
from benchmarks.ascend.__main__ import ARCHIVE, LEVELS, models_of
from benchmarks.ascend.table import Row, Story, rows, to_html, to_markdown
from tests.support import ascend
from tests.support.images import PHOTOS
from vitaie.manifests.card import known_cards

ROOT = Path(__file__).parents[1]


# The table


def target(digest: str, batch: int, level: int, **changes: Any) -> dict[str, Any]:
    whole = {
        "id": f"ascend310p3-fp16-b{batch}-o{level}",
        "target_digest": digest,
        "backend": "torch_aie",
        "precision": "fp16",
        "optim_level": level,
        "batch_sizes": [batch],
        "options": {"double": False},
    }
    return {**whole, **changes}


def speed(digest: str, batch: int, fps: float, **changes: Any) -> dict[str, Any]:
    how = {"boundary": "device", "scenario": "offline", "protocol": "quick"}
    counts: dict[str, Any] = {"verdict": "VALID", "reasons": list[str]()}
    whole = {"target_digest": digest, "batch_size": batch, "fps": fps}
    return {**whole, **how, **counts, **changes}


def rate(count: int) -> dict[str, Any]:
    percent = count / 500
    wilson = {"low": percent - 0.3, "high": percent + 0.3}
    return {"count": count, "percent": percent, "wilson95": wilson}


def manifest(**changes: Any) -> dict[str, Any]:
    accuracy = {"target_digest": "a", "dataset": {"images": 50_000}}
    whole: dict[str, Any] = {
        "name": "vit_base_patch8_224",
        "preprocess": {"profile": "modelzoo"},
        "targets": [
            {**target("cpu", 1, 2), "backend": "onnxruntime", "options": {}},
            target("a", 1, 0),
            target("b", 1, 2),
            target("c", 4, 2),
        ],
        "expected": {
            "accuracy": [{"source": "the page", "top1": 85.632, "top5": 97.764}],
            "speed": [
                {"source": "the page", "batch_size": 1, "fps": 58.79},
                {"source": "another", "batch_size": 4, "fps": 93.78},
            ],
        },
        "accuracy": [{**accuracy, "top1": rate(42_900), "top5": rate(48_000)}],
        "performance": [speed("cpu", 1, 3.0), speed("b", 1, 60.0), speed("c", 4, 46.89)],
    }
    return {**whole, **changes}


def test_every_published_figure_is_a_line_for_each_level_beside_what_was_measured() -> None:
    found = list(rows(manifest(), (0, 2), "fp16", double=False))
    seen = [(row.figure, row.batch, row.level, row.measured) for row in found]
    assert seen == [
        ("top-1 %", 1, 0, 85.8),
        ("top-5 %", 1, 0, 96.0),
        ("top-1 %", None, 2, None),
        ("top-5 %", None, 2, None),
        ("images/s", 1, 0, None),
        ("images/s", 1, 2, 60.0),
        ("images/s", 4, 0, None),
        ("images/s", 4, 2, 46.89),
    ]
    first, second, third = found[:3]
    assert first.bundle == "vit_base_patch8_224, modelzoo"
    assert first.difference == pytest.approx(0.168)
    assert "42,900 of 50,000 images; published lies inside of 95%" in first.note
    assert "published lies outside of 95%" in second.note
    assert (third.difference, third.note) == (None, "not measured")
    assert found[5].difference == pytest.approx(60 / 58.79)
    assert found[7].difference == pytest.approx(0.5)


def test_what_was_to_be_measured_for_its_accuracy_alone_has_no_lines_of_speed() -> None:
    found = list(rows(manifest(), (0,), "fp16", double=False, speed=False))
    assert [(row.figure, row.measured) for row in found] == [("top-1 %", 85.8), ("top-5 %", 96.0)]


def test_no_figure_is_taken_of_what_does_not_count() -> None:
    whole = manifest(performance=[speed("b", 1, 60.0, verdict="INVALID", reasons=["not stable"])])
    (row,) = [each for each in rows(whole, (2,), "fp16", double=False) if each.batch == 1]
    assert (row.measured, row.difference) == (None, None)
    assert row.note == "device, offline, quick: INVALID: not stable"
    whole["performance"].append(speed("b", 1, 50.0))
    (row,) = [each for each in rows(whole, (2,), "fp16", double=False) if each.batch == 1]
    assert (row.measured, row.note) == (50.0, "device, offline, quick")


def test_a_speed_with_the_copies_is_told_beside_and_never_compared() -> None:
    whole = manifest(performance=[speed("b", 1, 40.0, boundary="host")])
    (row,) = [each for each in rows(whole, (2,), "fp16", double=False) if each.batch == 1]
    assert (row.measured, row.note) == (None, "not measured; host 40.000")
    whole["performance"].append(speed("b", 1, 60.0))
    (row,) = [each for each in rows(whole, (2,), "fp16", double=False) if each.batch == 1]
    assert (row.measured, row.note) == (60.0, "device, offline, quick; host 40.000")


def test_another_precision_and_the_double_are_nothing_measured() -> None:
    whole = manifest()
    for precision, double in (("fp32", False), ("fp16", True)):
        found = list(rows(whole, LEVELS, precision, double=double))
        assert len(found) == 12
        assert {(row.measured, row.note) for row in found} == {(None, "not measured")}
    of_double = manifest(targets=[target("a", 1, 0, options={"double": True})])
    assert next(rows(of_double, (0,), "fp16", double=True)).measured == 85.8
    assert next(rows(of_double, (0,), "fp16", double=False)).measured is None


def test_the_figures_are_those_that_the_cards_have() -> None:
    """Of five variants ATC at six batch sizes, and of one the sample at one."""
    speeds = [figure for card in known_cards() for figure in card.expected("timm").speed]
    assert len(speeds) == 5 * 6 + 1
    sample = [figure.fps for figure in speeds if "TorchAIE" in figure.source]
    assert sample == [58.79]


STORY = Story(False, [("Chips", "Ascend310P3")], [("a-bundle", "E_CHECKPOINT <&> | none")])


def test_a_report_says_what_failed_and_escapes_it() -> None:
    found = list(rows(manifest(), (0, 2), "fp16", double=False))
    page, text = to_html(found, STORY), to_markdown(found, STORY)
    assert "E_CHECKPOINT &lt;&amp;&gt; | none" in page
    assert "* a-bundle: E_CHECKPOINT <&> \\| none" in text
    lines = [line for line in text.splitlines() if line.startswith("| vit")]
    assert len(lines) == len(found) == page.count("<tr>") - 1
    assert "| 58.79 | [1] | 60.000 | 102.1% | device, offline, quick |" in lines[5]
    assert lines[7].count("|") == len(table.HEADS) + 1
    assert text.rstrip().endswith("[2] another")
    for report in (page, text):
        assert table.DOUBLE not in unescape(report)
        assert "Ascend310P3" in report


def test_what_the_double_made_says_so_before_anything_else() -> None:
    story = STORY._replace(double=True, failures=())
    page, text = to_html([], story), to_markdown([], story)
    for report in (page, text):
        assert unescape(report).index(table.DOUBLE) < report.index("Ascend310P3")
        assert "Nothing." in report


# What is built


def options(**changes: Any) -> argparse.Namespace:
    whole = {"checkpoints": Path("/none"), "levels": LEVELS, "batch_sizes": (1, 4)}
    return argparse.Namespace(**{**whole, **changes})


def test_all_five_variants_are_built_and_the_sample_s_preprocessing_where_it_was_published(
    tmp_path: Path,
) -> None:
    listed = json.loads(
        subprocess.run(
            [steps.program("vitaie-build"), "variants", "--json"],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )["variants"]
    (tmp_path / "vit_base_patch8_224.npz").touch()
    named = next(each["checkpoint"] for each in listed if each["name"] == "vit_base_patch16_384")
    (tmp_path / named).touch()
    models = list(models_of(listed, options(checkpoints=tmp_path)))
    assert [model.key for model in models] == [
        "vit_base_patch16_224-timm",
        "vit_base_patch16_384-timm",
        "vit_base_patch32_224-timm",
        "vit_base_patch32_384-timm",
        "vit_base_patch8_224-timm",
        "vit_base_patch8_224-modelzoo",
    ]
    *_, eight, sample = models
    assert eight.checkpoint == sample.checkpoint == tmp_path / "vit_base_patch8_224.npz"
    assert models[1].checkpoint == tmp_path / named
    assert (eight.levels, eight.batch_sizes, eight.speed) == (LEVELS, (1, 4), True)
    assert (sample.levels, sample.batch_sizes, sample.speed) == ((0,), (1,), False)


# Steps


@pytest.fixture(name="command")
def _command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a command that counts how often it is run, and ends as its first argument says."""
    tool = tmp_path / "tool"
    tool.write_text(
        f'#!/bin/sh\necho run >> {tmp_path}/count\n[ -n "$2" ] && touch "$2"\n'
        'echo \'{"done": 1}\'\n[ "$1" -gt 128 ] && kill -$(($1 - 128)) $$\nexit $1\n',
        encoding="utf-8",
    )
    tool.chmod(0o755)

    def found(name: str) -> str:
        return str(tool.with_name(name))

    monkeypatch.setattr(steps, "program", found)
    return ["tool"]


def count(tmp_path: Path) -> int:
    file = tmp_path / "count"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_step_that_is_done_is_not_done_again(tmp_path: Path, command: Sequence[str]) -> None:
    for _ in range(2):
        done = steps.Steps(tmp_path / "steps").run("one", [*command, 0])
        assert (done.code, done.document) == (0, {"done": 1})
    assert count(tmp_path) == 1
    assert steps.Steps(tmp_path / "steps").run("one", [*command, 0], again=True).code == 0
    assert count(tmp_path) == 2


def test_one_that_failed_or_was_asked_otherwise_is_done_again(
    tmp_path: Path, command: Sequence[str]
) -> None:
    run = steps.Steps(tmp_path / "steps").run
    for expected, code in enumerate((1, 1, 6, 0, 0), 1):
        assert run("one", [*command, code]).code == code
        assert count(tmp_path) == min(expected, 4)
    assert run("two", [*command, 6], accept=(0, 6)).code == 6
    assert run("two", [*command, 6], accept=(0, 6)).code == 6
    assert count(tmp_path) == 5


def test_one_that_was_killed_after_its_output_was_written_is_done(
    tmp_path: Path, command: Sequence[str]
) -> None:
    output, note = tmp_path / "record.json", tmp_path / "steps" / "one.json"
    asked = [*command, "0", str(output)]
    run = steps.Steps(tmp_path / "steps").run
    steps.write(note, {"command": asked, "code": None})
    assert run("one", asked, output=output).seconds is not None, "nothing was written"
    steps.write(note, {"command": asked, "code": None})
    assert run("one", asked, output=output).seconds is None
    assert count(tmp_path) == 1
    output.write_text("of other data")
    assert run("one", [*asked, "more"], output=output).code == 0
    assert (count(tmp_path), output.read_text()) == (2, "")
    output.unlink()
    assert run("one", [*asked, "more"], output=output).code == 0
    assert count(tmp_path) == 3


def test_an_interrupted_step_ends_the_run_and_one_that_dumps_core_does_not(
    tmp_path: Path, command: Sequence[str]
) -> None:
    run = steps.Steps(tmp_path / "steps").run
    for code in (130, 128 + signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt):
            run("one", [*command, code])
    done = run("two", [*command, 128 + signal.SIGKILL])
    assert (done.code, done.complaint) == (-signal.SIGKILL, "it ended by SIGKILL")


def test_a_step_that_fails_is_told_in_its_own_words() -> None:
    error = {"error": {"message": "E_DEVICE: device 0: it is busy"}}
    stdout = f'{{"python": "3.9"}}\n{json.dumps(error, indent=1)}\n'
    done = steps.Done("one", [], 6, 1.0, stdout)
    assert done.complaint == "E_DEVICE: device 0: it is busy"
    assert done.document == {"python": "3.9"}
    assert done._replace(stdout="Traceback").complaint == "it ended with 6"
    assert done._replace(stdout="Traceback").document == {}


# The whole way, on the double


def start(card: Path, checkpoint: Path, data: Path, out: Path) -> subprocess.Popen[str]:
    arguments = ["--variant", card, "--checkpoint", checkpoint, "--data", data, "-o", out]
    arguments += ["--levels", 0, 2, "--batch-sizes", 1, 2, "--double"]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ascend", *map(str, arguments)],
        cwd=ROOT,
        env=ascend.environment("t200", XDG_CACHE_HOME=str(out.parent / "cache")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


@pytest.mark.long
def test_the_whole_way_runs_on_the_double_and_goes_on_after_a_kill(
    small_checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    card = tmp_path / "small_vit.toml"
    published = '[[published.accuracy]]\npreprocess = "timm"\nsource = "nobody"\ntop1 = 20.0\n'
    published += (
        '[[published.speed]]\nsource = "nobody"\ndevice = "none"\nbatch_size = 2\nfps = 10\n'
    )
    card.write_text(small_checkpoint[0].read_text() + published)
    shutil.copy(small_checkpoint[0].with_suffix(".txt"), tmp_path)
    data = tmp_path / "val"
    for index, photo in enumerate(sorted(PHOTOS.glob("*.jpg"))):
        (data / f"c{index % 5}").mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, data / f"c{index % 5}")
    out = tmp_path / "out"
    first = start(card, small_checkpoint[1], data, out)
    while not list((out / "send" / "records").glob("*accuracy*")):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "steps").glob("*-compile-*")}
    assert len(kept) == 2
    with start(card, small_checkpoint[1], data, out) as second:
        printed, messages = second.communicate()
    assert second.returncode == 6, messages
    again = {path.name: path.stat().st_mtime_ns for path in (out / "steps").glob("*-compile-*")}
    assert again == kept, "what was done was done again"
    assert "vitaie-build compile" not in messages
    assert printed.splitlines()[-1].endswith("to send back")
    with tarfile.open(out / ARCHIVE) as packed:
        names = packed.getnames()
        member = packed.extractfile("ascend-acceptance/acceptance.json")
        assert member is not None
        said = json.loads(member.read())
    for name in ("acceptance.html", "acceptance.md", "bundles.html", "doctor.json"):
        assert f"ascend-acceptance/{name}" in names
    records = [name for name in names if "/records/" in name]
    assert len(records) == 2 + 8
    assert not [name for name in names if name.endswith((".ts", ".npz", ".jpg", ".journal"))]
    assert (said["double"], said["about"], said["failures"]) == (True, table.DOUBLE, [])
    found = [Row(**row) for row in said["rows"]]
    assert [(row.figure, row.batch, row.level) for row in found] == [
        ("top-1 %", 1, 0),
        ("top-1 %", 1, 2),
        ("images/s", 2, 0),
        ("images/s", 2, 2),
    ]
    assert all(row.measured is not None for row in found[:2])
    assert all(row.measured or "INVALID" in row.note for row in found)
    page = (out / "send" / "acceptance.html").read_text(encoding="utf-8")
    assert table.DOUBLE in unescape(page)
    bundle = json.loads((out / "send" / "small_vit.json").read_text(encoding="utf-8"))
    assert len(bundle["accuracy"]) == 2
    assert len(bundle["performance"]) == 8


def test_without_a_device_it_ends_before_anything_is_built(
    small_checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ascend", "--variant", str(small_checkpoint[0])]
        + ["--checkpoint", str(small_checkpoint[1]), "--data", str(PHOTOS)]
        + ["-o", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 6, done.stderr
    assert "to do: install the wheel that comes with CANN" in done.stderr
    assert [path.name for path in (tmp_path / "out" / "steps").iterdir()] == ["doctor.json"]
