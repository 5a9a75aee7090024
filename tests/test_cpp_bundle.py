"""C++ opens what Python opens, and refuses what Python refuses for the same reason."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.bundles import copy_bundle, document, flips, put, reseal
from tests.support.cpp import OK, Verdict, cpp_bundle_verdict, program, python_verdict
from tests.test_bundle_opening import KINDS, Spoil
from vitaie.manifests.digests import CHUNK_SIZE, sha256
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._goldens import golden_logits
from vitaie.runtime._model import read_labels


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


def open_and_check(bundle: Path) -> None:
    """Open, check every byte, and read the labels and goldens: what ``vitaie-judge`` does."""
    with open_bundle(bundle) as opened:
        opened.check()
        read_labels(opened)
        for golden in opened.manifest.goldens:
            golden_logits(opened, golden)


def judged_alike(bundle: Path) -> Verdict:
    verdict = cpp_bundle_verdict(bundle)
    assert verdict == python_verdict(lambda: open_and_check(bundle))
    return verdict


def refused_alike(bundle: Path, code: str) -> None:
    verdict = judged_alike(bundle)
    assert (verdict.exit_code, verdict.code) == (1, code)


# Finding


def test_a_bundle_opens_by_its_folder_by_that_of_its_versions_and_by_a_link(
    bundle: Path, tmp_path: Path
) -> None:
    for version in ("1.9.0", "1.10.0"):
        copy_bundle(bundle, tmp_path / "store" / version)
    (tmp_path / "store" / "1.9.0" / "labels.txt").unlink()
    (tmp_path / "store" / "1.11.0").write_bytes(b"a file")
    (tmp_path / "store" / "1.12.0").symlink_to(bundle)
    (tmp_path / "store" / ".staging-2.0.0-1").mkdir()
    (tmp_path / "store" / "01.13.0").mkdir()
    (tmp_path / "link").symlink_to(bundle)
    for path in (bundle, tmp_path / "store", tmp_path / "link"):
        assert judged_alike(path) == OK


@pytest.mark.parametrize("path", [".", "nowhere", "file", "file/1.0.0", "x" * 300])
def test_what_is_no_bundle_is_refused_alike(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused_alike(tmp_path / path, "E_BUNDLE_NOT_FOUND")


def test_a_version_without_a_manifest_is_refused_alike(tmp_path: Path) -> None:
    (tmp_path / "1.0.0").mkdir()
    refused_alike(tmp_path, "E_MANIFEST_MISSING")


# What is in the folder


@pytest.mark.parametrize(
    "name",
    ["extra.txt", "golden/extra", ".hidden", "a\nb", "\x1b[31mred", "名前", "model.ts~", " "],
)
def test_an_extra_file_is_refused_alike(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"")
    refused_alike(bundle, "E_BUNDLE_FILE_EXTRA")


def test_an_extra_file_whose_name_is_no_text_is_refused_alike(bundle: Path) -> None:
    with open(os.fsencode(bundle) + b"/\xff\xfe", "wb"):
        pass
    refused_alike(bundle, "E_BUNDLE_FILE_EXTRA")


@pytest.mark.parametrize("name", [".git", "empty", "golden/empty", "targets"])
def test_an_extra_folder_is_refused_alike_even_when_empty(bundle: Path, name: str) -> None:
    (bundle / name).mkdir()
    refused_alike(bundle, "E_BUNDLE_FILE_EXTRA")


def test_a_missing_file_is_refused_alike_whichever_it_is(bundle: Path) -> None:
    rows = document(bundle)["artifacts"]
    assert len(rows) >= 12
    for row in rows:
        path = bundle / row["path"]
        path.rename(bundle.parent / "aside")
        refused_alike(bundle, "E_BUNDLE_FILE_MISSING")
        (bundle.parent / "aside").rename(path)
    assert judged_alike(bundle) == OK


def test_a_missing_folder_is_refused_alike(bundle: Path) -> None:
    shutil.rmtree(bundle / "golden")
    refused_alike(bundle, "E_BUNDLE_FILE_MISSING")


def test_many_extra_files_are_refused_alike(bundle: Path) -> None:
    for number in range(10_000):
        (bundle / "golden" / f"extra-{number}").touch()
    refused_alike(bundle, "E_BUNDLE_FILE_EXTRA")


@pytest.mark.parametrize("path", ["model.ts", "labels.txt", "golden/00.npy", "manifest.json"])
@pytest.mark.parametrize(("spoil", "code"), KINDS, ids=[spoil.__name__ for spoil, _ in KINDS])
def test_only_a_regular_file_of_one_name_is_taken(
    bundle: Path, path: str, spoil: Spoil, code: str
) -> None:
    spoil(bundle / path)
    refused_alike(bundle, code)


@pytest.mark.parametrize("form", ["link", "dangling", "file", "fifo"])
def test_a_folder_of_the_bundle_is_a_real_folder(bundle: Path, form: str) -> None:
    golden, outside = bundle / "golden", bundle.parent / "golden"
    golden.rename(outside)
    if form == "file":
        golden.write_bytes(b"")
    elif form == "fifo":
        os.mkfifo(golden)
    else:
        golden.symlink_to(outside if form == "link" else "nowhere")
    linked = form in ("link", "dangling")
    refused_alike(bundle, "E_BUNDLE_FILE_LINKED" if linked else "E_BUNDLE_FILE_TYPE")


def test_an_artifact_the_manifest_leaves_out_is_extra(bundle: Path) -> None:
    def drop_a_golden(whole: dict[str, Any]) -> None:
        last = whole["goldens"].pop()
        gone = {last["source"], last["crop"], last["logits"]}
        whole["artifacts"] = [row for row in whole["artifacts"] if row["path"] not in gone]

    reseal(bundle, drop_a_golden)
    refused_alike(bundle, "E_BUNDLE_FILE_EXTRA")


# What is in the files


@pytest.mark.parametrize("path", ["model.ts", "model.onnx", "labels.txt", "golden/00.png"])
@pytest.mark.parametrize("change", [-1, 1, -(10**9), 2**42])
def test_a_file_of_another_size_is_refused_alike(bundle: Path, path: str, change: int) -> None:
    size = (bundle / path).stat().st_size
    os.truncate(bundle / path, max(size + change, 0))
    refused_alike(bundle, "E_BUNDLE_FILE_SIZE")


def test_two_files_swapped_are_refused_alike(bundle: Path) -> None:
    one, two = bundle / "golden/00.npy", bundle / "golden/01.npy"
    assert one.stat().st_size == two.stat().st_size
    one.rename(bundle / "x")
    two.rename(one)
    (bundle / "x").rename(two)
    refused_alike(bundle, "E_BUNDLE_FILE_DIGEST")


def test_a_sparse_file_of_the_right_size_is_refused_alike(bundle: Path) -> None:
    size = (bundle / "model.ts").stat().st_size
    os.truncate(bundle / "model.ts", 0)
    os.truncate(bundle / "model.ts", size)
    refused_alike(bundle, "E_BUNDLE_FILE_DIGEST")


def test_a_flipped_bit_is_found_in_whichever_file_it_is(bundle: Path) -> None:
    chance = random.Random(0)
    for row in document(bundle)["artifacts"]:
        for _ in flips(bundle / row["path"], chance, 5):
            refused_alike(bundle, "E_BUNDLE_FILE_DIGEST")
    assert judged_alike(bundle) == OK


def test_every_flip_of_the_manifest_is_judged_alike(bundle: Path) -> None:
    for _ in flips(bundle / "manifest.json", random.Random(1), 40):
        assert judged_alike(bundle).exit_code == 1


def test_of_a_large_file_the_chunk_at_fault_is_named_alike(bundle: Path) -> None:
    """A measurement may be of any size and content, so one is made that has three chunks."""
    data = random.Random(2).randbytes(2 * CHUNK_SIZE + 1)
    path = bundle / "measurements" / "large" / "latencies.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    row: dict[str, Any] = {"path": "measurements/large/latencies.csv", "role": "measurement"}
    whole = document(bundle)
    whole["artifacts"].append({**row, "size": 0, "sha256": "0" * 64, "chunks": []})
    (bundle / "manifest.json").write_text(json.dumps(whole), encoding="utf-8")
    reseal(bundle)
    assert document(bundle)["artifacts"][-1]["sha256"] == sha256(data)
    assert judged_alike(bundle) == OK
    for place, field in ((0, "chunk 0"), (2 * CHUNK_SIZE - 1, "chunk 1"), (-1, "chunk 2")):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert judged_alike(bundle) == Verdict(1, "E_BUNDLE_FILE_DIGEST", field)


def test_of_several_files_at_fault_both_name_the_first_in_the_manifest(bundle: Path) -> None:
    for row in document(bundle)["artifacts"][3:]:
        next(flips(bundle / row["path"], random.Random(3), 1))
    refused_alike(bundle, "E_BUNDLE_FILE_DIGEST")


@pytest.mark.parametrize(
    "labels",
    [
        b"",
        b"c0\tzero\n",
        b"c\tx\n" * 6,
        b"c\tx\n" * 5 + b"\n",
        b"c\tx\n" * 5 + b"x",
        b"c\tx\n" * 4 + b"c\tx",
        b"c\tx\n" * 4 + b"cx\n",
        b"c\tx\n" * 4 + b"\tx\n",
        b"c\tx\n" * 4 + b"c\t\n",
        b"c\tx\n" * 4 + b"\n",
        b"c\tx\n" * 4 + b"c\t\xff\n",
        b"c\tx\n" * 4 + b"c\t\xed\xa0\x80\n",
    ],
)
def test_labels_are_refused_alike(bundle: Path, labels: bytes) -> None:
    put(bundle, "labels.txt", labels)
    refused_alike(bundle, "E_BUNDLE_LABELS")


def test_labels_may_hold_tabs_and_carriage_returns(bundle: Path) -> None:
    put(bundle, "labels.txt", b"c\tx\ty\r\n" * 5)
    assert judged_alike(bundle) == OK


# Goldens

Numbers = Callable[[np.ndarray[Any, Any]], object]


def _npy(bundle: Path) -> tuple[bytes, np.ndarray[Any, Any]]:
    data = (bundle / "golden/00.npy").read_bytes()
    return data[:-20], np.frombuffer(data[-20:], "<f4").copy()


def _put_golden(bundle: Path, data: bytes, **fields: Any) -> None:
    (bundle / "golden/00.npy").write_bytes(data)
    digest = sha256(data[-20:])
    reseal(bundle, lambda whole: whole["goldens"][0].update(logits_sha256=digest, **fields))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<f4", b">f4"),
        (b"<f4", b"<f8"),
        (b"<f4", b"|V4"),
        (b"False", b"True "),
        (b"(5,)", b"(6,)"),
        (b"(5,)", b"(-5)"),
        (b"(5,)", b"(05,"),
        (b"(5,), }", b"(5,),} "),
        (b"  \n", b" \n\n"),
        (b" \n", b"\x00\n"),
        (b"\n", b" "),
        (b"\x01\x00", b"\x02\x00"),
        (b"\x01\x00v", b"\x01\x00u"),
        (b"\x93NUMPY", b"PK\x03\x04\x05\x06"),
    ],
)
def test_another_npy_header_is_refused_alike(bundle: Path, old: bytes, new: bytes) -> None:
    header, numbers = _npy(bundle)
    assert old in header
    changed = header.replace(old, new, 1) if old != b"\n" else header[:-1] + new
    assert len(changed) == len(header)
    _put_golden(bundle, changed + numbers.tobytes())
    refused_alike(bundle, "E_BUNDLE_GOLDEN")


def _one_more(numbers: np.ndarray[Any, Any]) -> None:
    numbers[2] += 1


def _not_a_number(numbers: np.ndarray[Any, Any]) -> None:
    numbers[2] = np.nan


def _infinite(numbers: np.ndarray[Any, Any]) -> None:
    numbers[2] = -np.inf


def _all_equal(numbers: np.ndarray[Any, Any]) -> None:
    numbers[:] = 0.5


def _all_not_a_number(numbers: np.ndarray[Any, Any]) -> None:
    numbers[:] = np.nan


@pytest.mark.parametrize(
    "change", [_one_more, _not_a_number, _infinite, _all_equal, _all_not_a_number]
)
@pytest.mark.parametrize("matching", [True, False])
def test_logits_and_their_fields_are_compared_alike(
    bundle: Path, change: Numbers, matching: bool
) -> None:
    header, numbers = _npy(bundle)
    change(numbers)
    first, second = (int(index) for index in np.argsort(-numbers, kind="stable")[:2])
    margin = float(numbers[first]) - float(numbers[second])
    fields: dict[str, Any] = {"top1": first, "top2": second}
    if np.isfinite(margin):
        fields["margin"] = margin
    if not matching:
        fields["top2"] = next(each for each in range(5) if each not in (first, second))
    _put_golden(bundle, header + numbers.tobytes(), **fields)
    verdict = judged_alike(bundle)
    assert (verdict == OK) == (matching and bool(np.isfinite(margin)))


@pytest.mark.parametrize("field", ["logits_sha256", "top1", "top2", "margin"])
def test_a_golden_that_says_another_thing_of_its_logits_is_refused_alike(
    bundle: Path, field: str
) -> None:
    golden = document(bundle)["goldens"][0]
    free = next(each for each in range(5) if each not in (golden["top1"], golden["top2"]))
    other = {"logits_sha256": "0" * 64, "margin": golden["margin"] + 1e-12}.get(field, free)
    reseal(bundle, lambda whole: whole["goldens"][0].update({field: other}))
    refused_alike(bundle, "E_BUNDLE_GOLDEN")


# Limits of the process


def test_too_many_open_files_are_no_fault_of_the_bundle(bundle: Path) -> None:
    judge = f'ulimit -n 8; exec "{program("tests/vitaie-judge")}" bundle "{bundle}"'
    done = subprocess.run(["sh", "-c", judge], capture_output=True, check=True)
    assert done.stdout.startswith(b"5\tE_DISK\t\t")


@pytest.mark.parametrize("shape", [(), (1,), (5,), (21843,), (3, 224, 224), (1, 3, 384, 384)])
def test_an_npy_header_is_written_as_numpy_writes_it(shape: tuple[int, ...]) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape, "<f4"), allow_pickle=False)
    header = stream.getvalue()[: -4 * int(np.prod(shape))]
    sizes = [str(size) for size in shape]
    done = subprocess.run(
        [program("tests/vitaie-judge"), "npy", *sizes], capture_output=True, check=True
    )
    assert done.stdout == header
