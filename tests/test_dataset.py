"""Datasets: every layout gives the same labels, and every doubt is an error, never a shift."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import pytest

from vitaie.manifests.digests import canonical
from vitaie.manifests.errors import InputError
from vitaie.runtime import _dataset
from vitaie.runtime._dataset import Dataset, DatasetDigest, Entry, read_dataset

IDS = ("n01", "n02", "n03", "n04")
PICTURES = {"a.JPEG": 2, "b.jpg": 0, "c.PNG": 2, "d.jpeg": 3}
"""Image names and their classes: a part of the bundle's, suffixes in any case."""


def read(path: Path, labels: Optional[Path] = None, ids: tuple[str, ...] = IDS) -> Dataset:
    return read_dataset(path, labels, class_ids=ids, classes=len(ids))


def labelled(dataset: Dataset) -> dict[str, int]:
    return {entry.path: entry.label for entry in dataset.entries}


def fault(path: Path, labels: Optional[Path] = None, ids: tuple[str, ...] = IDS) -> InputError:
    """Return the one error that reading gives."""
    with pytest.raises(InputError) as caught:
        read(path, labels, ids)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def make(folder: Path, *files: str, text: str = "") -> Path:
    """Put files into a folder; return the folder."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    return folder


def class_folders(root: Path, name_of: Callable[[int], str] = IDS.__getitem__) -> Path:
    return make(root, *(f"{name_of(label)}/{name}" for name, label in PICTURES.items()))


def lines(separator: str = " ", name_of: Callable[[int], str] = str) -> str:
    return "".join(f"{name}{separator}{name_of(label)}\n" for name, label in PICTURES.items())


def flat(root: Path) -> Path:
    return make(root, *PICTURES)


# Layouts


@pytest.mark.parametrize("name_of", [IDS.__getitem__, str], ids=["id", "number"])
@pytest.mark.parametrize("inside", ["", "val"], ids=["given", "val"])
def test_class_folders_are_named_by_label_id_or_by_number(
    tmp_path: Path, name_of: Callable[[int], str], inside: str
) -> None:
    class_folders(tmp_path / inside, name_of)
    dataset = read(tmp_path)
    assert dataset.layout == "class_folders"
    assert dataset.root == str(tmp_path / inside)
    assert labelled(dataset) == {f"{name_of(n)}/{file}": n for file, n in PICTURES.items()}


@pytest.mark.parametrize("place", ["inside", "beside", "named", "named inside"])
@pytest.mark.parametrize("above", [True, False], ids=["above", "val"])
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
@pytest.mark.parametrize("name_of", [IDS.__getitem__, str], ids=["id", "number"])
def test_flat_images_have_a_file_of_labels(
    tmp_path: Path, place: str, above: bool, suffix: str, name_of: Callable[[int], str]
) -> None:
    root = tmp_path / "ImageNet"
    val = flat(root / "val")
    labels = {
        "inside": val / f"val_label{suffix}",
        "beside": root / f"val_label{suffix}",
        "named": tmp_path / f"answers{suffix}",
        "named inside": val / f"answers{suffix}",
    }[place]
    labels.write_text(lines("," if suffix == ".csv" else " ", name_of), encoding="utf-8")
    named = labels if place.startswith("named") else None
    dataset = read(root if above else val, named)
    assert dataset.layout == "flat"
    assert (dataset.root, dataset.labels) == (str(val), str(labels))
    assert labelled(dataset) == PICTURES


def test_entries_are_in_order_of_path_and_lead_to_the_files(tmp_path: Path) -> None:
    ids = ("n-1", "n", "n0")
    make(tmp_path, "n/z.jpg", "n/B.jpg", "n/a.jpg", "n-1/y.jpg", "n0/x.jpg")
    dataset = read(tmp_path, ids=ids)
    assert [entry.path for entry in dataset.entries] == [
        *("n-1/y.jpg", "n/B.jpg", "n/a.jpg", "n/z.jpg", "n0/x.jpg")
    ]
    assert dataset.entries[0] == Entry("n-1/y.jpg", str(tmp_path / "n-1" / "y.jpg"), 0)
    assert all(Path(entry.file).is_file() for entry in dataset.entries)


def test_a_relative_path_gives_absolute_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert read(Path("data/")) == read(tmp_path / "data")


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    class_folders(tmp_path / "real")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "val").symlink_to(tmp_path / "real")
    assert labelled(read(tmp_path / "data")) == labelled(read(tmp_path / "real"))


def test_what_lies_beside_val_is_not_looked_at(tmp_path: Path) -> None:
    make(class_folders(tmp_path / "val").parent, "train/n01/x.jpg", "devkit/readme.txt", "a.tar")
    assert len(read(tmp_path).entries) == len(PICTURES)


def test_a_class_named_val_is_a_class(tmp_path: Path) -> None:
    make(tmp_path, "val/a.jpg", "n01/b.jpg")
    assert labelled(read(tmp_path, ids=("n01", "val"))) == {"n01/b.jpg": 0, "val/a.jpg": 1}


def test_what_desktops_leave_behind_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    class_folders(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.jpg", ".git/x", "__MACOSX/n01/a"):
        make(tmp_path, name)
    for name in (".DS_Store", "Thumbs.db", "._a.jpg"):
        make(tmp_path / "n01", name)
    assert len(read(tmp_path).entries) == len(PICTURES)


def test_class_folders_say_the_class_themselves(tmp_path: Path) -> None:
    """A file of labels left beside them, even a wrong one, changes nothing."""
    class_folders(tmp_path / "val")
    make(tmp_path, "val_label.txt", "val/val_label.txt", text="a.JPEG 0\n")
    assert read(tmp_path).labels is None
    assert labelled(read(tmp_path))["n03/a.JPEG"] == 2


# Class names


def test_ids_that_are_their_own_numbers_are_both(tmp_path: Path) -> None:
    make(tmp_path, "0/a.png", "7/b.png")
    ids = tuple(map(str, range(10)))
    assert labelled(read(tmp_path, ids=ids)) == {"0/a.png": 0, "7/b.png": 7}


@pytest.mark.parametrize("ids", [("1", "2", "3"), ("2", "1", "0")], ids=["from 1", "backwards"])
def test_a_name_that_is_one_classs_id_and_anothers_number_is_refused(
    tmp_path: Path, ids: tuple[str, ...]
) -> None:
    make(tmp_path / "folders", "2/a.png")
    error = fault(tmp_path / "folders", ids=ids)
    assert error.code == "E_DATASET_CLASS_AMBIGUOUS"
    make(tmp_path / "flat", "a.png")
    make(tmp_path / "flat", "val_label.txt", text="a.png 2\n")
    assert fault(tmp_path / "flat", ids=ids).code == "E_DATASET_CLASS_AMBIGUOUS"


def test_an_id_that_two_classes_share_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "twin/a.png")
    error = fault(tmp_path, ids=("twin", "n02", "twin"))
    assert error.code == "E_DATASET_CLASS_AMBIGUOUS"


@pytest.mark.parametrize("name", ["n05", "4", "N01", "00", "01", "+1", "1_0", "-1", "cat", "٢"])
def test_an_unknown_folder_is_an_error_and_shifts_nothing(tmp_path: Path, name: str) -> None:
    make(class_folders(tmp_path), f"{name}/x.jpg")
    error = fault(tmp_path)
    assert error.code == "E_DATASET_CLASS"
    assert name in str(error)


def test_ids_and_numbers_do_not_mix(tmp_path: Path) -> None:
    make(class_folders(tmp_path), "1/x.jpg")
    error = fault(tmp_path)
    assert error.code == "E_DATASET_CLASS_NAMES"
    assert (error.got, error.field) == ("both n01 and 1", "n01/")


def test_the_number_of_ids_is_the_number_of_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 label ids of 5"):
        read_dataset(class_folders(tmp_path), class_ids=IDS, classes=5)


# Folders that are no dataset


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("none", "file", "loop", "nul\0"):
        assert fault(tmp_path / name).code == "E_DATASET_NOT_FOUND"


def test_nothing_in_it(tmp_path: Path) -> None:
    assert fault(tmp_path).code == "E_DATASET_EMPTY"
    make(tmp_path, "val_label.txt", ".DS_Store")
    assert fault(tmp_path).code == "E_DATASET_EMPTY"
    (tmp_path / "val").mkdir()
    assert fault(tmp_path).code == "E_DATASET_EMPTY"


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    (class_folders(tmp_path) / "n02").mkdir()
    error = fault(tmp_path)
    assert error.code == "E_DATASET_EMPTY"
    assert error.where == str(tmp_path / "n02")


@pytest.mark.parametrize("at", ["", "val", "val/n01"])
def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    class_folders(tmp_path / "val")
    closed, scandir = str(tmp_path / at), os.scandir

    def refuse(folder: str) -> Any:
        if folder == closed:
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    error = fault(tmp_path)
    assert (error.code, error.where) == ("E_DATASET_UNREADABLE", closed)


@pytest.mark.parametrize(
    "files",
    [
        ("n01/a.jpg", "b.jpg"),
        ("val/n01/a.jpg", "val/b.jpg"),
        ("val/n01/a.jpg", "b.jpg"),
        ("val/n01/a.jpg", "n02/b.jpg"),
        ("val/n01/a.jpg", "2/b.jpg"),
        ("n01/deeper/a.jpg",),
    ],
)
def test_mixed_layouts_are_refused(tmp_path: Path, files: tuple[str, ...]) -> None:
    assert fault(make(tmp_path, *files)).code == "E_DATASET_LAYOUT"


def test_a_file_of_labels_is_not_for_class_folders(tmp_path: Path) -> None:
    labels = make(tmp_path, "labels.txt", text=lines()) / "labels.txt"
    assert fault(class_folders(tmp_path / "val"), labels).code == "E_DATASET_LAYOUT"


# Files that are no images


def other_file(file: Path) -> None:
    file.with_name("x.webp").touch()


def link(file: Path) -> None:
    file.symlink_to(file.with_name("a.JPEG"))


def dangling_link(file: Path) -> None:
    file.symlink_to("/nowhere.jpg")


def link_to_a_folder(file: Path) -> None:
    file.symlink_to(file.parent)


def fifo(file: Path) -> None:
    os.mkfifo(file)


def not_utf8(file: Path) -> None:
    os.close(os.open(os.fsencode(file.with_name("x")) + b"\xff.jpg", os.O_CREAT))


@pytest.mark.parametrize("put", [other_file, link, dangling_link, link_to_a_folder, fifo, not_utf8])
@pytest.mark.parametrize("layout", ["in a class", "beside classes", "flat"])
def test_what_is_no_image_is_named(
    tmp_path: Path, put: Callable[[Path], None], layout: str
) -> None:
    if layout == "flat":
        place = make(flat(tmp_path), "val_label.txt", text=lines())
    else:
        class_folders(tmp_path)
        make(tmp_path, "n03/a.JPEG")
        place = tmp_path / "n03" if layout == "in a class" else tmp_path
    put(place / "x.jpg")
    error = fault(tmp_path)
    assert error.code == "E_DATASET_FILE"
    assert error.where.startswith(str(place / "x"))


def test_a_link_to_a_class_folder_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "n02").symlink_to("n01")
    error = fault(tmp_path)
    assert (error.code, error.got) == ("E_DATASET_FILE", "a link")


# Files of labels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tabs.txt", lines("\t")),
        ("blanks.txt", f"\n  {lines('   ')}\n\n"),
        ("windows.txt", "\ufeff" + lines().replace("\n", "\r\n")),
        ("no_end.txt", lines().rstrip()),
        ("backwards.txt", "\n".join(reversed(lines().splitlines()))),
        ("ids.txt", lines(" ", IDS.__getitem__)),
        ("headings.csv", "name,class\n" + lines(",")),
        ("quoted.csv", "".join(f'"{name}","{n}"\r\n' for name, n in PICTURES.items())),
        ("blanks.csv", "\n" + lines(" , ") + ",\n\n"),
        ("UPPER.CSV", lines(",")),
    ],
)
def test_a_file_of_labels_may_be_written_in_many_ways(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8"))
    assert labelled(read(flat(tmp_path / "val"), tmp_path / name)) == PICTURES


def test_a_name_may_hold_blanks_and_letters_of_any_alphabet(tmp_path: Path) -> None:
    make(tmp_path, "my  cat (1).jpg", "кот.png")
    make(tmp_path, "val_label.txt", text="my  cat (1).jpg 1\nкот.png 3\n")
    assert labelled(read(tmp_path)) == {"my  cat (1).jpg": 1, "кот.png": 3}


@pytest.mark.parametrize(
    ("suffix", "content", "code", "field"),
    [
        (".txt", lines().encode() + b"a.JPEG 2\n", "E_DATASET_LABEL_TWICE", "line 5"),
        (".txt", lines().encode() + b"a.JPEG 1\n", "E_DATASET_LABEL_TWICE", "line 5"),
        (".txt", lines().encode() + b"e.jpg 1\n", "E_DATASET_IMAGE_MISSING", "line 5"),
        (".txt", b"val/" + lines().encode(), "E_DATASET_IMAGE_MISSING", "line 1"),
        (".txt", lines().replace("a.JPEG", "a.jpeg").encode(), "E_DATASET_IMAGE_MISSING", "line 1"),
        (".txt", lines().split("\n", 1)[1].encode(), "E_DATASET_LABEL_MISSING", "a.JPEG"),
        (".txt", b"", "E_DATASET_LABEL_MISSING", "a.JPEG"),
        (".txt", lines().replace("3", "4").encode(), "E_DATASET_CLASS", "line 4"),
        (".txt", lines().replace("2", "9").encode(), "E_DATASET_CLASS", "line 1"),
        (".txt", lines().replace("3", "-1").encode(), "E_DATASET_CLASS", "line 4"),
        (".txt", lines().replace("3", "3.0").encode(), "E_DATASET_CLASS", "line 4"),
        (".txt", lines().replace("3", "n09").encode(), "E_DATASET_CLASS", "line 4"),
        (".txt", lines().replace("3", "n04").encode(), "E_DATASET_CLASS_NAMES", "line 4"),
        (".txt", b"a.JPEG\n", "E_DATASET_LABELS", "line 1"),
        (".txt", lines().encode() + b"e.jpg 1 cat\n", "E_DATASET_LABELS", "line 5"),
        (".txt", lines(",").encode(), "E_DATASET_LABELS", "line 1"),
        (".txt", b"name class\n" + lines().encode(), "E_DATASET_LABELS", "line 1"),
        (".txt", b"n01440764\ttench\n", "E_DATASET_LABELS", "line 1"),
        (".txt", lines().encode() + b"\xff.jpg 1\n", "E_DATASET_LABELS", "line 5"),
        (".txt", lines().encode() + b"\0", "E_DATASET_LABELS", "line 5"),
        (".txt", lines().encode("utf-16"), "E_DATASET_LABELS", "line 1"),
        (".csv", b"name,class\nname,class\n", "E_DATASET_LABELS", "line 2"),
        (".csv", lines(",").encode() + b"name,class\n", "E_DATASET_LABELS", "line 5"),
        (".csv", b"x.webp,1\n" + lines(",").encode(), "E_DATASET_LABELS", "line 1"),
        (".csv", b"x.webp,n01\n" + lines(",").encode(), "E_DATASET_LABELS", "line 1"),
        (".csv", b"a\0.jpg,1\n" + lines(",").encode(), "E_DATASET_LABELS", "line 1"),
        (".csv", b"12,1\n" + lines(",").encode(), "E_DATASET_LABELS", "line 1"),
        (".csv", lines(";").encode(), "E_DATASET_LABELS", "line 1"),
        (".csv", lines(",").encode() + b"e.jpg,1,cat\n", "E_DATASET_LABELS", "line 5"),
        (".csv", lines(",").encode() + b"e.jpg,\n", "E_DATASET_LABELS", "line 5"),
        (".csv", b'"a.JPEG,2\n', "E_DATASET_LABELS", "line 1"),
        (".csv", b'"a.JPEG"x,2\n', "E_DATASET_LABELS", "line 1"),
        (".csv", b"a" * 200_000 + b",1\n", "E_DATASET_LABELS", "line 1"),
    ],
)
def test_a_wrong_file_of_labels_is_refused_with_its_line(
    tmp_path: Path, suffix: str, content: bytes, code: str, field: str
) -> None:
    labels = tmp_path / f"val_label{suffix}"
    labels.write_bytes(content)
    error = fault(flat(tmp_path / "val"))
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize("name", ["MAX_LABEL_BYTES", "MAX_LABEL_LINES"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_of_labels_that_is_too_large_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str
) -> None:
    val = flat(tmp_path / "val")
    data = lines().replace("\n", end).encode()
    (tmp_path / "val_label.txt").write_bytes(data)
    size = len(data) if name == "MAX_LABEL_BYTES" else data.count(b"\n")
    monkeypatch.setattr(_dataset, name, size)
    assert labelled(read(val)) == PICTURES
    monkeypatch.setattr(_dataset, name, size - 1)
    error = fault(val)
    assert error.code == "E_DATASET_LABELS"
    assert f"at most {size - 1} " in str(error)


def test_no_file_of_labels_says_where_one_is_looked_for(tmp_path: Path) -> None:
    error = fault(flat(tmp_path / "val"))
    assert error.code == "E_DATASET_LABELS_MISSING"
    assert "val_label.txt" in str(error)
    assert "--labels" in str(error)


def test_two_files_of_labels_are_refused_until_one_is_named(tmp_path: Path) -> None:
    val = flat(tmp_path / "val")
    make(tmp_path, "val_label.txt", text=lines().replace("3", "1"))
    make(val, "val_label.txt", text=lines())
    assert fault(tmp_path).code == "E_DATASET_LABELS_TWICE"
    assert labelled(read(tmp_path, val / "val_label.txt")) == PICTURES
    assert labelled(read(tmp_path, tmp_path / "val_label.txt")) == {**PICTURES, "d.jpeg": 1}


def test_a_file_of_labels_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    val = flat(tmp_path / "val")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name, code in {
        "none.txt": "E_DATASET_LABELS_MISSING",
        "nul\0": "E_DATASET_LABELS_MISSING",
        "fifo": "E_DATASET_LABELS",
        "val": "E_DATASET_LABELS",
        "loop": "E_DATASET_UNREADABLE",
    }.items():
        assert fault(val, tmp_path / name).code == code


def test_a_file_of_labels_has_a_limit(tmp_path: Path) -> None:
    val = flat(tmp_path / "val")
    with open(tmp_path / "val_label.txt", "wb") as sparse:
        sparse.truncate(_dataset.MAX_LABEL_BYTES + 1)
    assert fault(val).code == "E_DATASET_LABELS"


# Identity


ROWS = [
    ["a/1.jpg", 5, hashlib.sha256(b"one").hexdigest(), 0],
    ["a/2.jpg", 0, hashlib.sha256(b"two").hexdigest(), 0],
    ["b/é.jpg", 2**40, hashlib.sha256(b"three").hexdigest(), 999],
]


def digest_of(rows: list[list[Any]]) -> str:
    digest = DatasetDigest()
    for row in rows:
        digest.add(*row)
    assert len(digest) == len(rows)
    return digest.hexdigest()


def test_the_digest_is_of_the_sorted_list_in_any_order_of_reading() -> None:
    expected = hashlib.sha256(canonical(ROWS)).hexdigest()
    for seed in range(6):
        rows = list(ROWS)
        random.Random(seed).shuffle(rows)
        assert digest_of(rows) == expected
    assert digest_of([]) == hashlib.sha256(b"[]").hexdigest()


@pytest.mark.parametrize("column", range(4))
def test_the_digest_changes_with_every_part_of_an_entry(column: int) -> None:
    changed = [list(row) for row in ROWS]
    changed[1][column] = ["a/3.jpg", 1, hashlib.sha256(b"2").hexdigest(), 1][column]
    assert digest_of(changed) != digest_of(ROWS)
    assert digest_of(ROWS[:2]) != digest_of(ROWS)


def test_two_images_that_change_places_change_the_digest() -> None:
    first, second, third = ROWS
    swapped = [[first[0], *second[1:]], [second[0], *first[1:]], third]
    assert digest_of(swapped) != digest_of(ROWS)


@pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64, "0" * 66, "zz" * 32])
def test_an_image_is_added_once_and_with_a_sha256(digest: str) -> None:
    accumulator = DatasetDigest()
    with pytest.raises(ValueError, match=r"x\.jpg|hexadecimal"):
        accumulator.add("x.jpg", 1, digest, 0)
    accumulator.add("x.jpg", 1, "0" * 64, 0)
    with pytest.raises(ValueError, match=r"x\.jpg"):
        accumulator.add("x.jpg", 1, "0" * 64, 0)


# A real dataset


def test_the_demos_held_out_images_have_the_labels_of_their_folders(
    digits_bundle: tuple[Path, Path],
) -> None:
    _, val = digits_bundle
    ids = tuple(map(str, range(10)))
    dataset = read(val, ids=ids)
    assert dataset == read(val.parent, ids=ids)
    assert len(dataset.entries) == sum(1 for _ in val.rglob("*.png")) == 360
    assert {entry.label for entry in dataset.entries} == set(range(10))
    assert all(Path(entry.file).parent.name == str(entry.label) for entry in dataset.entries)
