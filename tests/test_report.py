"""``vitaie report``: what is shown follows from the bundle alone, and none of it is trusted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.bundles import Document, copy_bundle, document, put, reseal
from tests.support.reports import (
    add_gates_and_levels,
    analysis_of,
    measurements_of,
    page_of,
    with_images,
    with_records,
)
from vitaie import runtime
from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import BundleError, InputError, VitaieError
from vitaie.manifests.measurement import (
    AccuracyMeasurement,
    Measurement,
    to_bytes,
)
from vitaie.manifests.outputs import AnalyzeOutput, ErrorOutput, ReportOutput
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._cli import app
from vitaie.runtime._command import run
from vitaie.runtime._environment import collect
from vitaie.runtime._report import write
from vitaie.runtime._report.analysis import read_analysis
from vitaie.runtime._report.figures import figures
from vitaie.runtime._report.found import Found, find
from vitaie.runtime._report.view import BundleView, view


def quiet(step: str) -> None:
    del step


def seen(bundle: Path, **options: Any) -> BundleView:
    """Return what a page says of a bundle."""
    found = find(bundle, target="cpu", progress=quiet, **options)
    return view([found], collect()).bundles[0]


@pytest.fixture(scope="module")
def measured(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with a record of accuracy on six images and one of speed, of 1,000 calls."""
    folder = tmp_path_factory.mktemp("measured") / "small_vit" / "1.0.0"
    folder.parent.mkdir()
    return with_records(small_bundle, folder, measurements_of(small_bundle))


@pytest.fixture
def bundle(measured: Path, tmp_path: Path) -> Path:
    return copy_bundle(measured, tmp_path / "bundle")


def texts(page: bytes) -> str:
    """Return what a reader reads of a page, on one line."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page.decode("utf-8"))))


# What is shown


def test_the_numbers_are_those_of_the_records(measured: Path) -> None:
    shown = seen(measured)
    figures = {figure.name: figure for figure in shown.figures}
    assert (figures["Top-1, measured"].value, figures["Top-1, measured"].unit) == ("50.00", "%")
    assert figures["Top-1, measured"].detail == "3 of 6 images of val; 95% interval 18.76 to 81.24"
    assert figures["Same class as the source"].value == "66.67"
    assert (figures["Speed, measured"].value, figures["Latency, p99"].value) == ("90.9", "10.0")
    assert {figure.state for figure in shown.figures[:4]} == {"not checked"}
    (accuracy,), (speed,) = shown.accuracy.rows, shown.speed.rows
    assert [rate.right for rate in accuracy.rates] == ["3 of 6", "3 of 6"]
    paired = accuracy.paired
    assert paired is not None
    cells = (paired.both, paired.target_only, paired.source_only, paired.neither)
    assert cells == (2, 1, 1, 2)
    assert [(row.name, row.right, row.images) for row in accuracy.worst] == [
        ("c0 class 0", 1, 2),
        ("c1 class 1", 1, 2),
        ("c2 class 2", 1, 2),
    ]
    assert [fact.value for fact in speed.latencies] == ["10.0 ms"] * 4
    assert speed.histogram is not None
    assert speed.curve is not None


def test_published_figures_stand_beside_measured_ones_and_never_for_them(bundle: Path) -> None:
    def publish(whole: Document) -> None:
        whole["expected"]["accuracy"] = [{"source": "a table", "top1": 85.49, "top5": None}]

    reseal(bundle, publish)
    (accuracy,) = seen(bundle).accuracy.rows
    target, _, published = accuracy.rates
    assert (target.top1, published.top1, published.difference) == ("50.000%", "85.49%", "-35.49")
    assert (published.kind, published.interval, published.right) == (
        "published",
        "not measured",
        "",
    )
    reseal(bundle, lambda whole: whole.update(accuracy=[]))
    shown = seen(bundle)
    assert not [figure for figure in shown.figures if "Top-1" in figure.name]
    assert shown.accuracy.rows == ()


def test_the_page_leads_with_what_is_false_then_invalid_then_not_checked(
    small_bundle: Path, tmp_path: Path
) -> None:
    accuracy, speed = measurements_of(small_bundle)
    run = speed.runs[0]
    hurried = run.model_copy(update={"start_ns": run.start_ns[:20], "end_ns": run.end_ns[:20]})
    records: list[Measurement] = [accuracy, speed.model_copy(update={"runs": (hurried,)})]
    bundle = with_records(small_bundle, tmp_path / "bundle", records)
    reseal(bundle, lambda whole: whole["goldens"][0].update(tensor_sha256="0" * 64))
    shown = seen(bundle)
    states = [notice.state for notice in shown.notices.rows]
    assert states[:2] == ["false", "invalid"]
    assert set(states[2:]) == {"not checked"}
    assert shown.headline.startswith("1 of ")
    assert not shown.holds
    figure = next(figure for figure in shown.figures if figure.name == "Speed")
    assert (figure.value, figure.state) == ("none", "invalid")
    assert "20 calls, at least 64 are needed" in figure.detail
    assert figure.detail == shown.notices.rows[1].detail


def test_what_was_not_measured_is_said_first(small_bundle: Path) -> None:
    shown = seen(small_bundle)
    said = [(notice.subject, notice.detail) for notice in shown.notices.rows]
    nothing = "nothing was measured and nothing is claimed"
    assert said[:2] == [("accuracy", nothing), ("speed", nothing)]
    assert [notice.subject for notice in shown.unseen]
    assert not {notice.subject for notice in shown.unseen} & {subject for subject, _ in said}


def test_goldens_are_shown_with_the_classes_of_the_logits_that_ship(measured: Path) -> None:
    shown = seen(measured)
    whole = document(measured)
    assert len(shown.goldens.rows) == len(whole["goldens"])
    with runtime.load(measured, target="cpu") as model:
        for golden, row in zip(shown.goldens.rows, whole["goldens"]):
            source: Path = measured / row["source"]
            predictions = model.classify(source)
            names = [f"{each.id} {each.label}" for each in predictions]
            assert [label for label, _, _ in golden.top] == names
            for (_, share, _), prediction in zip(golden.top, predictions):
                assert share == pytest.approx(prediction.probability, abs=1e-4)
            assert golden.credit == row["credit"]


def test_the_store_of_a_bundle_is_two_folders_above_however_it_was_named(
    measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, named, store in (
        (measured.parents[2], "/".join(measured.parts[-3:]), measured.parts[-3]),
        (measured.parents[1], "/".join(measured.parts[-2:]), "."),
        (measured.parents[0], measured.name, ".."),
        (measured, ".", "../.."),
    ):
        monkeypatch.chdir(folder)
        assert f"vitaie-build audit {store}" in [fact.value for fact in seen(Path(named)).commands]


def test_every_command_names_the_folder_so_that_a_shell_takes_it(
    measured: Path, tmp_path: Path
) -> None:
    odd = copy_bundle(measured, tmp_path / "a b;c")
    shown = seen(odd)
    commands = [fact.value for fact in shown.commands]
    assert len(commands) >= 4
    commands += [notice.command for notice in shown.notices.rows if notice.command]
    assert len([each for each in commands if each.startswith(f"vitaie verify '{odd}'")]) >= 5
    assert not [each for each in commands if str(odd) in each and f"'{odd}'" not in each]


def test_records_of_the_same_are_told_apart_by_when_they_were_measured_and_where_they_lie(
    small_bundle: Path, tmp_path: Path
) -> None:
    accuracy, speed = measurements_of(small_bundle)
    later = accuracy.environment.model_copy(update={"created": "2026-11-25T12:00:00Z"})
    again = (accuracy, accuracy.model_copy(update={"environment": later}), speed)
    shown = seen(with_records(small_bundle, tmp_path / "bundle", again))
    first, second = (record.title for record in shown.accuracy.rows)
    records = document(tmp_path / "bundle")["accuracy"]
    same = f"onnxruntime-cpu-fp32 on {accuracy.dataset}, measured "
    assert first == f"{same}2026-11-24T12:00:00Z, {records[0]['predictions']}"
    assert second == f"{same}2026-11-25T12:00:00Z, {records[1]['predictions']}"
    assert [record.title for record in shown.speed.rows] == [
        "onnxruntime-cpu-fp32, host, single_stream, batch 1"
    ]


def test_gates_and_levels_are_shown_row_by_row(bundle: Path) -> None:
    add_gates_and_levels(bundle)
    shown = seen(bundle)
    target = "onnxruntime-cpu-fp32"
    (accurate, fast) = shown.gates.rows
    assert accurate[:3] == ("top1>=50.0", "pass", target)
    assert accurate[3].startswith("top1 is 50%: 3 of 6 images")
    assert fast == ("fps>=50.0", "pass", target, "90.9174 images a second")
    first, second, ships = shown.levels.rows
    measured = "host, single_stream, batch 1"
    failed = "top1>=50.0: undecidable, fps>=50.0: fail"
    assert first[:6] == ("0", measured, "45.5", "VALID", failed, "")
    assert second[:6] == ("1", measured, "30.3", "VALID", failed, "")
    passed = "top1>=50.0: pass, fps>=50.0: pass"
    assert ships[:6] == ("2", measured, "90.9", "VALID", passed, "ships")
    assert ships[6] == document(bundle)["targets"][0]["target_digest"][:16]


# What half precision would do


def test_an_analysis_is_shown_beside_the_bundle_that_it_is_of(
    measured: Path, small_bundle: Path, tmp_path: Path
) -> None:
    read = [
        AnalyzeOutput.model_validate(analysis_of(small_bundle, wrong=wrong))
        for wrong in (False, True)
    ]
    assert seen(measured).analyses.rows == ()
    fine, wrong = seen(measured, analyses=read, data=None).analyses.rows
    assert (fine.title, fine.wrong) == ("Emulated on 64 images: the goldens", False)
    assert fine.verdict == "no layer goes wrong; the same first class on 64 of 64"
    assert fine.layers == fine.every
    assert fine.layers.rows[0] == ("patches", "0.5000", "131,008", "0.99999", "")
    assert fine.flips.rows == ()
    assert wrong.wrong
    assert wrong.verdict == ("goes wrong first in blocks.0.norm1; the same first class on 62 of 64")
    facts = {fact.name: fact.value for fact in wrong.facts}
    assert facts["First layer that goes wrong"] == "blocks.0.norm1"
    assert facts["Same first class"] == "62 of 64 images, 96.88%"
    assert facts["Least headroom"] == "0 in logits"
    assert wrong.layers.rows[1][4] == (
        "the squares of the variance overflow; the first to go wrong; 7 values not finite"
    )
    assert wrong.layers.rows[4][1:3] == ("infinite", "0")
    assert wrong.flips.rows == (
        ("c0/0.jpg", "c0 class 0", "not finite", "1.25"),
        ("c1/1.jpg", "c1 class 1", "c2 class 2", "0.0010"),
    )
    assert wrong.command == f"vitaie-build analyze {measured} --data DIR --json"
    other = read[0].model_copy(update={"content_digest": "0" * 64})
    assert len(seen(measured, analyses=[other, read[1]]).analyses.rows) == 1


def test_of_many_layers_the_ones_at_risk_and_with_least_headroom_come_first(
    small_bundle: Path,
) -> None:
    whole = analysis_of(small_bundle)
    layer = whole["layers"][0]
    whole["layers"] = [{**layer, "name": f"l{n}", "headroom": 1000.0 - n} for n in range(300)]
    whole["layers"][7]["risks"] = ["softmax overflows"]
    (shown,) = seen(small_bundle, analyses=[AnalyzeOutput.model_validate(whole)]).analyses.rows
    names = [row[0] for row in shown.layers.rows]
    assert names == ["l7", *(f"l{n}" for n in range(288, 300))]
    assert (len(shown.every.rows), shown.every.left_out) == (200, 100)


def test_an_analysis_of_another_bundle_is_refused_before_anything_is_checked(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = analysis_of(measured)
    other["content_digest"] = "0" * 64
    file, output = tmp_path / "other.json", tmp_path / "report.html"
    file.write_text(json.dumps(other), encoding="utf-8")
    assert vitaie(measured, "-o", output, "--analysis", file) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"E_RECORD_OTHER: {file}: content_digest: ")
    assert document(measured)["content_digest"] in said[0]
    assert not output.exists()


SPOILT: dict[str, tuple[Document, str]] = {
    "agreement": ({"top1_equal": 63}, "top1_equal: "),
    "first layer": ({"first_wrong": "norm"}, "first_wrong: "),
    "no images": ({"images": 0, "top1_equal": 0}, "images: "),
    "no layers": ({"layers": []}, "layers: "),
    "a word": ({"images": "64"}, "images: "),
    "another field": ({"device": "Ascend310P3"}, "device: "),
}


@pytest.mark.parametrize("what", [*SPOILT, "not JSON", "twice", "a folder", "another document"])
def test_an_analysis_that_is_none_or_contradicts_itself_is_refused(
    measured: Path, tmp_path: Path, what: str
) -> None:
    file = tmp_path / "analysis.json"
    changes, field = SPOILT.get(what, ({}, ""))
    text = json.dumps({**analysis_of(measured), **changes})
    if what == "a folder":
        file.mkdir()
    else:
        texts = {
            "not JSON": text[:-1],
            "twice": '{"path": "",' + text[1:],
            "another document": "{}",
        }
        file.write_text(texts.get(what, text), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_analysis(file)
    assert caught.value.code == ("E_RECORD_UNREADABLE" if what == "a folder" else "E_RECORD")
    assert f"{caught.value.field}: ".startswith(field)


def test_how_many_analyses_a_page_shows_is_told_for_each_bundle(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy_bundle(measured, tmp_path / "other")
    reseal(other, lambda whole: whole["source"].update(file="another.npz"))
    file, output = tmp_path / "analysis.json", tmp_path / "report.html"
    file.write_text(json.dumps(analysis_of(measured, wrong=True)), encoding="utf-8")
    options = ("--target", "cpu", "--analysis", file, "-o", output, "--json", "--quiet")
    assert vitaie(measured, other, *options) == 0
    told = ReportOutput.model_validate_json(capsys.readouterr().out)
    assert [each.analyses for each in told.bundles] == [1, 0]
    page = texts(output.read_bytes())
    assert page.count("no device was asked") == 1
    assert page.count("goes wrong first in blocks.0.norm1") == 2, "side by side, and below"
    assert "not analyzed" in page


# Pictures of the dataset


def dataset(
    folder: Path, bundle: Path, count: int, *, noise: int = 0
) -> tuple[AccuracyMeasurement, Path]:
    """Make a dataset, and a measurement of it in which two models differ on every image.

    With ``noise`` the pictures are of nothing else, so many pixels each way.
    """
    accuracy, _ = measurements_of(bundle)
    val = folder / "val"
    paths = [f"c0/{number:03d}.png" for number in range(count)]
    digests: list[str] = []
    for number, path in enumerate(paths):
        (val / path).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (40 + number, 30), (number, 80, 160))
        if noise:
            picture = Image.effect_noise((noise, noise), 100).convert("RGB")
        picture.save(val / path)
        digests.append(sha256((val / path).read_bytes()))
    record = with_images(
        accuracy,
        path=tuple(paths),
        sha256=tuple(digests),
        size=(1,) * count,
        label=(0,) * count,
        target=((1, 0, 2),) * count,
        source=((0, 1, 2),) * count,
    )
    return record, val


def test_twenty_images_that_differ_are_shown_and_the_rest_is_counted(
    small_bundle: Path, tmp_path: Path
) -> None:
    record, val = dataset(tmp_path, small_bundle, 23)
    bundle = with_records(small_bundle, tmp_path / "bundle", [record])
    for data, pictures in ((val.parent, 20), (val, 20), (None, 0)):
        (accuracy,) = seen(bundle, data=data).accuracy.rows
        differences = accuracy.differences
        assert (len(differences.rows), differences.left_out) == (20, 3)
        assert sum(each.picture is not None for each in differences.rows) == pictures
        first = differences.rows[0]
        assert (first.path, first.kind) == ("c0/000.png", "right in the source only")
        assert (first.label, first.target, first.source) == (
            "c0 class 0",
            "c1 class 1",
            "c0 class 0",
        )


def test_a_picture_is_shown_only_if_it_is_the_file_that_was_measured(
    small_bundle: Path, tmp_path: Path
) -> None:
    record, val = dataset(tmp_path, small_bundle, 4)
    bundle = with_records(small_bundle, tmp_path / "bundle", [record])
    Image.new("RGB", (40, 30), (9, 9, 9)).save(val / "c0" / "001.png")
    (val / "c0" / "002.png").unlink()
    (accuracy,) = seen(bundle, data=val).accuracy.rows
    shown = [(each.picture is not None, each.no_picture) for each in accuracy.differences.rows]
    assert shown == [
        (True, ""),
        (False, "not the file that was measured"),
        (False, "not in the dataset given"),
        (True, ""),
    ]


def test_no_path_of_a_record_leads_out_of_the_dataset(small_bundle: Path, tmp_path: Path) -> None:
    record, val = dataset(tmp_path, small_bundle, 1)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    for number, path in enumerate(("../secret.png", str(secret), "c0/../../secret.png")):
        leading = with_images(record, path=(path,), sha256=(sha256(secret.read_bytes()),))
        bundle = with_records(small_bundle, tmp_path / f"bundle-{number}", [leading])
        row = seen(bundle, data=val).accuracy.rows[0]
        assert "paths below the dataset's folder" in row.unreadable
        assert not row.differences.rows


def test_a_dataset_of_other_classes_is_refused(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "val" / "zebra").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        find(measured, target="cpu", data=tmp_path / "val", progress=quiet)
    assert caught.value.code == "E_DATASET_CLASS"


# What is wrong with a bundle


def test_evidence_that_is_none_is_false_and_the_page_says_so(bundle: Path) -> None:
    accuracy, speed = (document(bundle)[kind][0] for kind in ("accuracy", "performance"))
    put(bundle, accuracy["predictions"], b"{}")
    measurement, _ = measurements_of(bundle)
    put(bundle, speed["latencies"], to_bytes(measurement))
    shown = seen(bundle)
    assert not shown.holds
    false = [notice.detail for notice in shown.notices.rows if notice.state == "false"]
    assert len(false) == 2
    assert "E_RECORD" in false[0]
    assert "E_RECORD" in shown.accuracy.rows[0].unreadable
    assert shown.speed.rows[0].unreadable == "another kind of record"
    page = texts(page_of([bundle], bundle.parent))
    assert page.count("The evidence cannot be read") == 2


def test_classes_that_the_bundle_does_not_have_are_numbers(
    small_bundle: Path, tmp_path: Path
) -> None:
    accuracy, _ = measurements_of(small_bundle)
    record = with_images(accuracy, label=(0, 1, 2, 0, 1, 999_999))
    bundle = with_records(small_bundle, tmp_path / "bundle", [record])
    (row,) = seen(bundle).accuracy.rows
    assert "class 999999" in [each.name for each in row.worst]


def test_a_bundle_that_is_replaced_while_it_is_read_is_refused(
    bundle: Path, measured: Path, tmp_path: Path
) -> None:
    other = copy_bundle(measured, tmp_path / "other")
    reseal(other, lambda whole: whole["toolchain"].update(python="3.12.0"))

    def replace(step: str) -> None:
        if step == "evidence and pictures":
            shutil.rmtree(bundle)
            copy_bundle(other, bundle)

    with pytest.raises(BundleError) as caught:
        find(bundle, target="cpu", progress=replace)
    assert caught.value.code == "E_BUNDLE_FILE_DIGEST"


def test_a_page_is_bounded_and_says_what_was_left_out(small_bundle: Path, tmp_path: Path) -> None:
    """Of everything more than is shown: pictures of noise, which no JPEG makes small, and text."""
    _, speed = measurements_of(small_bundle, "x" * 4000)
    record, val = dataset(tmp_path, small_bundle, 25, noise=300)
    days = [f"2026-11-{day}T12:00:00Z" for day in range(10, 20)]
    records = [
        each.model_copy(
            update={"environment": each.environment.model_copy(update={"created": day})}
        )
        for each in (record, speed)
        for day in days
    ]
    bundle = with_records(small_bundle, tmp_path / "bundle", records)

    def grow(whole: Document) -> None:
        whole["toolchain"]["packages"] = {f"package-{n}": "9" * 4000 for n in range(60)}
        whole["toolchain"]["command"] = "c" * 65000

    reseal(bundle, grow)
    page = page_of([bundle], tmp_path, data=val)
    assert 1_000_000 < len(page) < 5_000_000
    said = texts(page)
    assert said.count("2 more records left out of this page.") == 2
    assert said.count("5 more images left out of this page.") == 8
    assert "20 more packages left out of this page." in said
    assert "c" * 1001 not in said


def test_the_same_bundle_gives_the_same_page(measured: Path) -> None:
    from vitaie.runtime._report.page import to_html

    found = find(measured, target="cpu", progress=quiet)
    here = collect()
    assert to_html(view([found], here)) == to_html(view([found], here))


# Side by side


def test_bundles_stand_beside_each_other_in_the_order_given(
    measured: Path, small_bundle: Path
) -> None:
    found: list[Found] = [
        find(each, target="cpu", progress=quiet) for each in (measured, small_bundle)
    ]
    comparison = view(found, collect()).comparison
    assert comparison is not None
    rows = dict(comparison.rows)
    assert comparison.names == ("small_vit 1.0.0", "small_vit 1.0.0")
    assert comparison.verdicts == ("true", "true")
    assert rows["Top-1, measured"] == ("50.00 %", "not measured")
    assert rows["Speed, measured"] == ("90.9 images/s", "not measured")
    assert rows["Drop from the source"] == ("0.000 points", "not measured")
    assert rows["Folder"] == (str(measured), str(small_bundle))
    assert view(found[:1], collect()).comparison is None


def test_figures_that_do_not_compare_are_said_not_to(
    measured: Path, small_bundle: Path, tmp_path: Path
) -> None:
    accuracy, speed = measurements_of(small_bundle)
    elsewhere = accuracy.environment.model_copy(update={"processor": "another"})
    others: list[Measurement] = [
        with_images(accuracy, size=(1,) * 6),
        speed.model_copy(update={"environment": elsewhere}),
    ]
    other = with_records(small_bundle, tmp_path / "other", others)
    found = [find(each, target="cpu", progress=quiet) for each in (measured, other)]
    comparison = view(found, collect()).comparison
    assert comparison is not None
    assert comparison.remarks == (
        "Accuracy was measured on different datasets: these figures do not compare.",
        "Speed was measured on different processors: these figures do not compare.",
    )


def test_figures_of_different_targets_name_them(
    measured: Path, small_bundle: Path, tmp_path: Path
) -> None:
    accuracy, speed = measurements_of(small_bundle)
    with open_bundle(small_bundle) as opened:
        one, other = opened.manifest.targets[:2]
    subject = {"target": other.id, "target_digest": other.target_digest}
    moved = speed.model_copy(update={"subject": speed.subject.model_copy(update=subject)})
    mixed = with_records(small_bundle, tmp_path / "mixed", [accuracy, moved])
    found = [find(each, target="cpu", progress=quiet) for each in (measured, mixed)]
    details = {each.name: each.detail for each in figures(found[1])}
    assert details["Top-1, measured"].endswith(f"; {one.id}")
    assert details["Speed, measured"].endswith(f"; {other.id}")
    assert one.id not in next(iter(figures(found[0]))).detail
    comparison = view(found, collect()).comparison
    assert comparison is not None
    assert dict(comparison.rows)["Speed measured of"] == (one.id, other.id)
    assert (
        "Speed was measured of different targets: see the row that says of which."
        in comparison.remarks
    )


# The command


def vitaie(*arguments: object) -> int:
    return run(app, "vitaie", ["report", *map(str, arguments)])


def test_its_help_has_an_example_and_every_common_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert vitaie("--help") == 0
    said = capsys.readouterr().out
    assert "Example: vitaie report " in said
    options = ("--output", "--data", "--labels", "--target", "--threads", "--device-id")
    for option in (*options, "--analysis", "--json", "--quiet"):
        assert option in said


def test_the_command_writes_a_page_and_says_the_verdict(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.html"
    assert vitaie(measured, "--target", "cpu", "-o", output) == 0
    said = capsys.readouterr()
    first, last = said.out.splitlines()
    assert re.fullmatch(r"small_vit 1\.0\.0: TRUE, \d+ not checked", first)
    assert last == f"{output}: {output.stat().st_size:,} bytes, 3 pictures"
    assert said.err.splitlines()[-1] == f"next: vitaie verify {measured}"
    page = output.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<title>small_vit 1.0.0: vitaie report</title>" in page


def test_as_json_it_says_the_same(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.html"
    code = vitaie(measured, measured, "--target", "cpu", "-o", output, "--json", "--quiet")
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    told = ReportOutput.model_validate_json(said.out)
    data = output.read_bytes()
    assert (told.output, told.size, told.sha256) == (str(output), len(data), sha256(data))
    assert [each.path for each in told.bundles] == [str(measured)] * 2
    assert {each.content_digest for each in told.bundles} == {document(measured)["content_digest"]}
    assert told.bundles[0].holds


def test_a_false_claim_is_written_down_and_exits_with_1(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(whole: Document) -> None:
        whole["goldens"][1]["tensor_sha256"] = "0" * 64

    reseal(bundle, spoil)
    output = tmp_path / "report.html"
    assert vitaie(bundle, "--target", "cpu", "-o", output) == 1
    said = capsys.readouterr()
    assert "small_vit 1.0.0: FALSE" in said.out
    assert said.err.splitlines()[-1].startswith(f"E_CLAIM_FALSE: {bundle}: ")
    page = texts(output.read_bytes())
    assert page.index("False. 1 of ") < page.index("golden 01 preprocessing") < page.index("Top-1")


@pytest.mark.parametrize("form", ["file", "folder", "dangling"])
def test_an_output_that_exists_stays_as_it_is(
    measured: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.html"
    if form == "file":
        output.write_text("mine")
    elif form == "folder":
        output.mkdir()
    else:
        output.symlink_to("nowhere")
    assert vitaie(measured, "-o", output, "--json") == 4
    error = ErrorOutput.model_validate_json(capsys.readouterr().out).error
    assert error.code == "E_OUTPUT_EXISTS"
    assert os.listdir(tmp_path) == ["report.html"]
    assert form != "file" or output.read_text() == "mine"


def test_nothing_is_written_when_something_is_wrong(measured: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    broken = copy_bundle(measured, tmp_path / "broken")
    (broken / "extra").touch()
    cases: list[tuple[int, list[object]]] = [
        (1, [tmp_path / "nowhere", "-o", output]),
        (1, [measured, broken, "--target", "cpu", "-o", output]),
        (2, [measured, "-o", tmp_path / "nowhere" / "report.html"]),
        (2, [measured, "-o", tmp_path / "report.pdf"]),
        (2, [measured, "-o", output, "--labels", "x.txt"]),
        (2, [measured, "-o", output, "--target", "gpu"]),
        (2, [measured, "-o", output, "--threads", "0"]),
        (2, [measured, "-o", output, "--data", tmp_path / "nowhere"]),
        (2, [*[measured] * 9, "-o", output]),
        (2, [measured]),
        (2, ["-o", output]),
    ]
    for code, arguments in cases:
        assert vitaie(*arguments, "--quiet") == code, arguments
    assert sorted(os.listdir(tmp_path)) == ["broken"]


def test_the_wrong_argument_is_named_as_it_was_typed(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vitaie(measured, "-o", tmp_path / "x.html", "--labels", "x.txt") == 2
    assert "E_ARGUMENT: --labels: " in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(measured: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    program = (
        "import sys\nsys.modules['jinja2'] = None\n"
        "from vitaie.runtime._cli import app\nfrom vitaie.runtime._command import run\n"
        "sys.exit(run(app, 'vitaie', sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "report", str(measured), "-o", str(output), "--json"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 6
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "E_EXTRA_MISSING"
    assert error["hint"] == "Install vitaie's extra [report], as README says."
    assert not output.exists()


def test_a_place_that_cannot_be_written_to_is_5(measured: Path) -> None:
    with pytest.raises(VitaieError) as caught:
        write.report([measured], Path("/proc/report.html"), write.Options("cpu"), progress=quiet)
    assert caught.value.exit_code == 5


def test_no_other_command_imports_what_reports_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import vitaie.runtime._cli, sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    loaded = done.stdout.split()
    assert "vitaie.runtime._cli" in loaded
    assert not {"jinja2", "markupsafe", "vitaie.runtime._report"} & set(loaded)
