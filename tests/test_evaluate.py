"""``vitaie eval`` counts what an independent loop counts, and says so."""

from __future__ import annotations

import hashlib
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.bundles import copy_bundle, document, reseal
from tests.support.digit_pictures import flatten
from tests.support.evaluation import Eval, files, record, torch_logits
from vitaie.manifests.errors import ImageError, InputError, TargetUnavailable
from vitaie.manifests.outputs import ErrorOutput, EvalOutput
from vitaie.runtime import _evaluate, _images, _model, _preprocess, _seeing, _torchscript
from vitaie.runtime._evaluate import Progress, evaluate

pytestmark = pytest.mark.usefixtures("cache")


# What is counted


def test_the_counts_equal_an_independent_loop_with_torch(
    cli: Eval, digits_bundle: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, held_out = digits_bundle
    images = files(held_out)
    labels = np.array([int(image.parent.name) for image in images])
    order = np.argsort(-torch_logits(bundle, images), axis=1)
    top1 = int((order[:, 0] == labels).sum())
    top5 = int((order[:, :5] == labels[:, None]).any(axis=1).sum())
    assert 0.9 * len(images) < top1 < top5

    result = cli(bundle, "--data", held_out, "-o", tmp_path / "record.json")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == (
        f"top1 is {100 * top1 / 360:.3f}, top5 is {100 * top5 / 360:.3f}, step is 360"
    )
    found = record(tmp_path / "record.json")
    assert found.images.label == tuple(labels)
    assert [row[0] for row in found.images.target] == order[:, 0].tolist()
    assert [row[0] for row in found.images.source or ()] == order[:, 0].tolist()


def test_a_record_names_what_was_measured_by_digest(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    bundle, _ = digits_bundle
    assert cli(bundle, "--data", few, "-o", tmp_path / "record.json", "--threads", 1).code == 0
    found, manifest = record(tmp_path / "record.json"), document(bundle)
    images = files(few)
    data = [image.read_bytes() for image in images]
    assert found.images.path == tuple(f"{image.parent.name}/{image.name}" for image in images)
    assert found.images.size == tuple(map(len, data))
    assert found.images.sha256 == tuple(hashlib.sha256(each).hexdigest() for each in data)
    rows = "".join(
        f'["{path}",{pack(size)},"{digest}",{pack(label)}],'
        for path, size, digest, label in zip(
            found.images.path, found.images.size, found.images.sha256, found.images.label
        )
    )
    assert found.dataset_digest == hashlib.sha256(f"[{rows[:-1]}]".encode()).hexdigest()
    target = next(each for each in manifest["targets"] if each["id"] == "onnxruntime-cpu-fp32")
    assert found.subject.target == target["id"]
    assert found.subject.target_digest == target["target_digest"]
    assert found.subject.content_digest == manifest["content_digest"]
    assert (found.dataset, found.batch_size, found.threads, found.missing) == ("few", 8, 1, ())


def pack(number: int) -> str:
    """Write a number as ``docs/bundle-format.md`` says digests take it."""
    return np.array(number, ">f8").tobytes().hex()


@pytest.mark.parametrize("above", [True, False])
def test_a_flat_dataset_counts_as_its_class_folders_do(
    digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path, above: bool
) -> None:
    bundle, _ = digits_bundle
    flat = flatten(few, tmp_path / "flat")
    one = evaluate(bundle, few, paired=False, batch_size=1)
    two = evaluate(bundle, flat if above else flat / "val", paired=False, batch_size=1)
    names = [Path(path).name for path in one.measurement.images.path]
    by_name = dict(zip(names, zip(one.measurement.images.label, one.measurement.images.target)))
    images = two.measurement.images
    assert dict(zip(images.path, zip(images.label, images.target))) == by_name
    assert two.measurement.dataset == "flat"
    assert one.record["top1"] == two.record["top1"]


def test_a_part_of_the_classes_is_counted_by_label_and_not_by_place(
    digits_bundle: tuple[Path, Path], few: Path
) -> None:
    bundle, _ = digits_bundle
    whole = evaluate(bundle, few, paired=False, batch_size=1).measurement.images
    for digit in "0125679":
        shutil.rmtree(few / digit)
    part = evaluate(bundle, few, paired=False, batch_size=1).measurement.images
    assert set(part.label) == {3, 4, 8}
    rows = dict(zip(whole.path, whole.target))
    assert part.target == tuple(rows[path] for path in part.path)


def test_the_first_five_are_all_classes_where_there_are_fewer(
    tmp_path: Path, small_checkpoint: tuple[Path, Path], few: Path
) -> None:
    from examples.make_checkpoint import make
    from vitaie.builder.build import Options, build_bundle
    from vitaie.manifests.card import load_card

    text = small_checkpoint[0].read_text(encoding="utf-8").replace("classes = 5", "classes = 3")
    card = tmp_path / "three.toml"
    card.write_text(text, encoding="utf-8")
    (tmp_path / "small_vit.txt").write_text("a\tA\nb\tB\nc\tC\n", encoding="utf-8")
    checkpoint = make(load_card(card), tmp_path / "three.npz")
    bundle = build_bundle(str(card), checkpoint, Options(store=tmp_path / "store")).path
    for digit in "3456789":
        shutil.rmtree(few / digit)
    result = evaluate(bundle, few)
    assert all(sorted(row) == [0, 1, 2] for row in result.measurement.images.target)
    assert result.record["top5"]["count"] == len(files(few)) == 12


def test_batches_are_cut_by_the_order_alone(
    digits_bundle: tuple[Path, Path], few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing image makes its own batch smaller, and moves no other image into it."""
    bundle, _ = digits_bundle
    broken = files(few)[10]
    broken.write_bytes(b"no image")
    sizes: list[int] = []
    engine_run = _model.run

    def spy(engine: Any, batch: NDArray[np.float32], manifest: Any) -> NDArray[np.float32]:
        sizes.append(len(batch))
        return engine_run(engine, batch, manifest)

    monkeypatch.setattr(_seeing, "run", spy)
    evaluate(bundle, few, paired=False, batch_size=7, allow_missing=1)
    assert sizes == [7, 6, 7, 7, 7, 5]


# What is printed


def test_the_summary_is_one_json_document_with_the_published_figures_beside(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    bundle = copy_bundle(digits_bundle[0], tmp_path / "bundle")
    figure = {"source": "a paper", "top1": 90.0, "top5": None}
    reseal(bundle, lambda whole: whole["expected"].update(accuracy=[figure]))
    output = tmp_path / "record.json"
    result = cli(bundle, "--data", few, "-o", output, "--json")
    assert result.code == 0, result.err
    shown = EvalOutput.model_validate_json(result.out)
    assert shown.output == str(output)
    assert [each.model_dump() for each in shown.expected] == [figure]
    assert shown.paired is not None
    cells = shown.paired
    assert cells.both + cells.target_only == shown.top1.count
    assert shown.images == sum(row.images for row in shown.classes) == 40
    assert shown.top1.count == sum(row.top1 for row in shown.classes)
    assert shown.top5.count == sum(row.top5 for row in shown.classes)
    assert [row.id for row in shown.classes] == list("0123456789")

    output.unlink()
    told = cli(bundle, "--data", few, "-o", output)
    off = shown.top1.percent - 90
    assert f"top-1 90.0 (a paper): measured here {off:+.3f} points" in told.out
    last = re.compile(r"top1 is \d+\.\d{3}, top5 is \d+\.\d{3}, step is 40")
    assert last.fullmatch(told.out.splitlines()[-1])
    assert told.err.splitlines()[-1] == f"next: vitaie-build attach {bundle} {output}"


def test_progress_says_running_top1_speed_and_time_left(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path
) -> None:
    result = cli(digits_bundle[0], "--data", few, "--unpaired")
    lines = [line for line in result.err.splitlines() if "/40 " in line]
    assert len(lines) == 5
    row = re.compile(r"\d+/40 top-1 \d+\.\d{3}%, \d+\.\d\d images/s, \d\d:\d\d left")
    assert all(row.fullmatch(line) for line in lines)
    assert lines[-1].startswith("40/40 ")


def test_a_quiet_run_says_nothing(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    result = cli(digits_bundle[0], "--data", few, "--quiet", "-o", tmp_path / "record.json")
    assert (result.code, result.err) == (0, "")


def test_progress_is_told_from_nothing_to_all(digits_bundle: tuple[Path, Path], few: Path) -> None:
    told: list[Progress] = []
    result = evaluate(digits_bundle[0], few, paired=False, progress=told.append)
    assert [now.done for now in told] == [0, 8, 16, 24, 32, 40]
    top1, top5 = (result.record[name]["count"] for name in ("top1", "top5"))
    assert told[-1] == Progress(40, 40, 40, top1, top5)


# The source model


def test_the_sources_predictions_are_computed_once_for_a_dataset(
    digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path, opened: list[str]
) -> None:
    first = evaluate(digits_bundle[0], few, cache=tmp_path / "kept")
    assert opened == ["onnxruntime-cpu-fp32", "torchscript-cpu-fp32"]
    opened.clear()
    second = evaluate(digits_bundle[0], few, cache=tmp_path / "kept")
    assert opened == ["onnxruntime-cpu-fp32"]
    assert second.measurement.images == first.measurement.images
    assert second.measurement.images.source is not None


def test_the_source_as_the_target_is_run_once(
    digits_bundle: tuple[Path, Path], few: Path, opened: list[str]
) -> None:
    images = evaluate(digits_bundle[0], few, target=_evaluate.SOURCE).measurement.images
    assert opened == [_evaluate.SOURCE]
    assert images.source == images.target


def test_kept_predictions_are_not_trusted_for_a_changed_image(
    digits_bundle: tuple[Path, Path],
    few: Path,
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where the list of files looks the same: each file's own digest decides."""

    def same(dataset: object) -> str:
        return "the same"

    monkeypatch.setattr(_evaluate, "_listing", same)
    evaluate(digits_bundle[0], few, cache=tmp_path / "kept")
    one, other = files(few)[3], files(few)[30]
    one.write_bytes(other.read_bytes())
    opened.clear()
    second = evaluate(digits_bundle[0], few, cache=tmp_path / "kept")
    assert "torchscript-cpu-fp32" in opened
    fresh = evaluate(digits_bundle[0], few)
    assert second.measurement.images == fresh.measurement.images


@pytest.mark.parametrize("fault", ["flipped", "cut", "another's", "text", "folder"])
def test_kept_predictions_that_are_not_whole_are_computed_again(
    digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path, opened: list[str], fault: str
) -> None:
    kept = tmp_path / "kept"
    first = evaluate(digits_bundle[0], few, cache=kept)
    (file,) = (kept / "sources").iterdir()
    data = file.read_bytes()
    if fault == "flipped":
        file.write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
    elif fault == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif fault == "another's":
        evaluate(digits_bundle[0], few, cache=kept, batch_size=4)
        (other,) = set((kept / "sources").iterdir()) - {file}
        file.write_bytes(other.read_bytes())
    elif fault == "text":
        file.write_bytes(b"text")
    else:
        file.unlink()
        file.mkdir()
    opened.clear()
    second = evaluate(digits_bundle[0], few, cache=kept)
    assert "torchscript-cpu-fp32" in opened
    assert second.measurement.images == first.measurement.images
    if fault != "folder":
        assert file.read_bytes() == data


def test_without_torch_the_pairing_is_refused_and_unpaired_measures(
    cli: Eval,
    digits_bundle: tuple[Path, Path],
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_torchscript, "missing", lambda: "torch is not installed")
    with pytest.raises(TargetUnavailable) as caught:
        evaluate(digits_bundle[0], few)
    assert (caught.value.code, caught.value.exit_code) == ("E_EXTRA_MISSING", 6)
    assert "--unpaired" in str(caught.value)
    output = tmp_path / "record.json"
    assert cli(digits_bundle[0], "--data", few, "--unpaired", "-o", output).code == 0
    assert record(output).images.source is None


# Images that cannot be used


@pytest.mark.parametrize("fault", ["empty", "text", "truncated", "gone"])
def test_an_image_that_cannot_be_used_is_named_and_ends_the_run(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path, fault: str
) -> None:
    image = files(few)[21]
    data = image.read_bytes()
    told: list[Progress] = []

    def spoil(now: Progress) -> None:
        """Spoil it once the dataset was listed, so that it can be gone as well."""
        told.append(now)
        if fault == "gone":
            image.unlink(missing_ok=True)
        else:
            image.write_bytes({"empty": b"", "text": b"text"}.get(fault, data[:-20]))

    with pytest.raises(ImageError) as caught:
        evaluate(digits_bundle[0], few, paired=False, progress=spoil)
    assert caught.value.exit_code == 2
    assert caught.value.where == str(image)
    assert str(caught.value).endswith("or count it as missing: --allow-missing 1.")
    assert told[-1].done == 16

    image.write_bytes(data[:-20])
    output = tmp_path / "record.json"
    arguments = (digits_bundle[0], "--data", few, "--unpaired", "-o", output)
    assert cli(*arguments, "--allow-missing", 0).code == 2
    assert not output.exists()
    result = cli(*arguments, "--allow-missing", 1)
    assert result.out.splitlines()[-1].endswith(", step is 39")
    name = image.relative_to(few).as_posix()
    assert record(output).missing == (name,)
    assert name not in record(output).images.path
    assert f"missing    1 images: {name}\n" in result.out


def test_one_image_more_than_allowed_ends_the_run(
    digits_bundle: tuple[Path, Path], few: Path
) -> None:
    for index in (2, 3, 33):
        files(few)[index].write_bytes(b"no image")
    result = evaluate(digits_bundle[0], few, paired=False, allow_missing=3)
    assert len(result.measurement.missing) == 3
    for allowed, index in ((0, 2), (1, 3), (2, 33)):
        with pytest.raises(ImageError) as caught:
            evaluate(digits_bundle[0], few, paired=False, allow_missing=allowed)
        assert caught.value.where == str(files(few)[index])


def test_a_dataset_of_no_usable_image_is_empty(digits_bundle: tuple[Path, Path], few: Path) -> None:
    for image in files(few):
        image.write_bytes(b"no image")
    with pytest.raises(InputError, match="E_DATASET_EMPTY"):
        evaluate(digits_bundle[0], few, paired=False, allow_missing=40)


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (("--batch-size", 0), "E_ARGUMENT"),
        (("--batch-size", 1025), "E_ARGUMENT"),
        (("--threads", 0), "E_ARGUMENT"),
        (("--allow-missing", -1), "E_ARGUMENT"),
        (("--target", "npu"), "E_TARGET_UNKNOWN"),
        (("--labels", "none.txt"), "E_DATASET_LAYOUT"),
        (("-o", "none/record.json"), "E_OUTPUT_PATH"),
        (("--journal", "none/a.journal"), "E_OUTPUT_PATH"),
    ],
)
def test_a_wrong_option_is_an_error_of_one_line(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, option: tuple[object, ...], code: str
) -> None:
    result = cli(digits_bundle[0], "--data", few, "--unpaired", "--json", *option)
    error = ErrorOutput.model_validate_json(result.out).error
    assert (result.code, error.exit_code, error.code) == (2, 2, code)
    assert result.err.splitlines()[-1] == error.message


def test_a_record_never_replaces_anything(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    output = tmp_path / "record.json"
    output.write_bytes(b"mine")
    result = cli(digits_bundle[0], "--data", few, "-o", output)
    assert (result.code, result.err.split(":")[0]) == (4, "E_OUTPUT_EXISTS")
    assert output.read_bytes() == b"mine"
    assert not (tmp_path / "record.json.journal").exists()


# Memory, and files


def test_at_most_four_batches_of_images_are_held_and_each_file_is_read_once(
    digits_bundle: tuple[Path, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: set[int] = set()
    most: list[int] = []
    reads: list[str] = []
    preprocess, read_file = _preprocess.preprocess, _images.read_file

    def watch(image: Any, spec: Any) -> NDArray[np.float32]:
        tensor = preprocess(image, spec)
        number = len(most)
        alive.add(number)
        weakref.finalize(tensor, alive.discard, number)
        most.append(len(alive))
        return tensor

    def read(path: str, where: str) -> bytes:
        reads.append(path)
        return read_file(path, where)

    monkeypatch.setattr(_preprocess, "preprocess", watch)
    monkeypatch.setattr(_images, "read_file", read)
    evaluate(digits_bundle[0], pictures, paired=False, batch_size=5)
    assert 5 < max(most) <= 4 * 5
    assert sorted(reads) == sorted(map(str, files(pictures)))
