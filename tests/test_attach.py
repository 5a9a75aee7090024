"""Records that were taken elsewhere come into a bundle, and nothing that is not of it does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.bundles import copy_bundle, reseal
from tests.support.images import photographs
from tests.support.measurements import performance
from vitaie.builder.attach import attach
from vitaie.builder.cli import app
from vitaie.builder.store import publication
from vitaie.manifests.errors import BundleError, StoreError, VitaieError
from vitaie.manifests.manifest import Manifest
from vitaie.manifests.measurement import AccuracyMeasurement, to_bytes
from vitaie.manifests.outputs import AttachOutput, ErrorOutput
from vitaie.runtime import verify
from vitaie.runtime._command import run
from vitaie.runtime._evaluate import evaluate

COMMAND = Path(sys.executable).with_name("vitaie-build")
Document = dict[str, Any]
Change = Callable[[Document], object]


class Records(NamedTuple):
    """One of accuracy that was measured, and one of speed that could have been."""

    accuracy: Path
    performance: Path


@pytest.fixture(scope="module")
def measured(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> AccuracyMeasurement:
    data = photographs(tmp_path_factory.mktemp("photos") / "val", 12)
    return evaluate(small_bundle, data, target="cpu").measurement


@pytest.fixture
def records(measured: AccuracyMeasurement, tmp_path: Path) -> Records:
    accuracy, speed = tmp_path / "accuracy.json", tmp_path / "performance.json"
    accuracy.write_bytes(to_bytes(measured))
    document = {**performance(), "subject": measured.subject.model_dump(mode="json")}
    speed.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return Records(accuracy, speed)


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """Return a version of a store of the test's own."""
    (tmp_path / "store" / "small_vit").mkdir(parents=True)
    return copy_bundle(small_bundle, tmp_path / "store" / "small_vit" / "1.0.0")


def manifest_of(bundle: Path) -> Manifest:
    return Manifest.from_bytes((bundle / "manifest.json").read_bytes())


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def changed(record: Path, change: Change) -> Path:
    document = json.loads(record.read_bytes())
    change(document)
    record.write_text(json.dumps(document), encoding="utf-8")
    return record


# What is attached


def test_records_make_the_next_patch_and_leave_the_version_before_as_it_was(
    bundle: Path, records: Records
) -> None:
    before = files(bundle)
    done = attach(bundle.parent, records)
    assert done.path == bundle.with_name("1.0.1")
    assert files(bundle) == before
    manifest = manifest_of(done.path)
    assert (manifest.version, manifest.content_digest) == (
        "1.0.1",
        manifest_of(bundle).content_digest,
    )
    assert manifest.accuracy[0].dataset.images == 12
    assert manifest.performance[0].latency_ms["p99"] == 10.0
    assert done.evidence == (manifest.accuracy[0].predictions, manifest.performance[0].latencies)
    after = files(done.path)
    assert after[done.evidence[0]] == records.accuracy.read_bytes()
    same = set(before) - {"manifest.json"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert verify(done.path).holds


def test_what_was_attached_before_is_carried_over(bundle: Path, records: Records) -> None:
    first = attach(bundle, [records.accuracy])
    second = attach(first.path, [records.performance])
    manifest = manifest_of(second.path)
    assert second.path.name == "1.0.2"
    assert manifest.accuracy == manifest_of(first.path).accuracy
    assert len(manifest.performance) == 1


def test_the_command_prints_the_path_last_or_one_document(bundle: Path, records: Records) -> None:
    command = [str(COMMAND), "attach", str(bundle)]
    done = subprocess.run(
        [*command, str(records.accuracy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{bundle.with_name('1.0.1')}\n"
    again = [*command[:2], str(bundle.parent), str(records.performance), "--json", "--quiet"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    shown = AttachOutput.model_validate_json(done.stdout)
    assert (shown.version, len(shown.evidence), done.stderr) == ("1.0.2", 1, "")
    assert shown.invalid == []


def test_a_speed_that_is_invalid_is_attached_and_said_to_be_so(
    bundle: Path, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gate is undecidable by it, so nothing is claimed; hidden it would be a claim."""
    changed(records.performance, lambda record: record["honesty"].update(differing=1))
    arguments = ["attach", str(bundle), *map(str, records), "--json", "--quiet"]
    assert run(app, "vitaie-build", arguments) == 0
    out, err = capsys.readouterr()
    shown = AttachOutput.model_validate_json(out)
    (record,) = manifest_of(Path(shown.path)).performance
    assert record.verdict == "INVALID"
    ((evidence, reasons),) = [(each.evidence, each.reasons) for each in shown.invalid]
    assert (evidence, reasons) == (record.latencies, list(record.reasons))
    assert err == f"INVALID, no gate accepts it: {evidence}: {'; '.join(reasons)}\n"


# What is refused


def refused(bundle: Path, code: str, exit_code: int, *records: Path) -> VitaieError:
    before = sorted(bundle.parent.rglob("*"))
    with pytest.raises(VitaieError) as caught:
        attach(bundle, records)
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code), caught.value
    assert "\n" not in str(caught.value)
    assert sorted(bundle.parent.rglob("*")) == before
    return caught.value


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("name", "another"),
        ("content_digest", "0" * 64),
        ("preprocess_digest", "0" * 64),
        ("target_digest", "0" * 64),
        ("target", "torchscript-cpu-fp32"),
        ("target", "no-such-target"),
    ],
)
def test_a_record_of_another_bundle_is_refused_with_what_differs(
    bundle: Path, records: Records, part: str, value: str
) -> None:
    for record in records:
        changed(record, lambda document: document["subject"].update({part: value}))
        field = "target_digest" if part == "target" else part
        assert refused(bundle, "E_RECORD_OTHER", 2, record).field == f"subject.{field}"


def _another_label(record: Document) -> None:
    record["images"]["label"][0] = 4


def _another_size(record: Document) -> None:
    record["images"]["size"][0] = 1


def _another_digest(record: Document) -> None:
    record["dataset_digest"] = "0" * 64


def _a_class_that_is_none(record: Document) -> None:
    record["images"]["target"][0] = [0, 1, 2, 3, 7]


def _a_class_twice(record: Document) -> None:
    record["images"]["target"][0] = [0, 0, 1, 2, 3]


def _a_row_less(record: Document) -> None:
    record["images"]["source"].pop()


def _a_field_more(record: Document) -> None:
    record["more"] = 1


def _another_order(record: Document) -> None:
    record["images"]["path"].reverse()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_another_label, "dataset_digest"),
        (_another_size, "dataset_digest"),
        (_another_digest, "dataset_digest"),
        (_a_class_that_is_none, "images.target"),
        (_a_class_twice, "images.target"),
        (_a_row_less, "images.source"),
        (_a_field_more, "more"),
        (_another_order, "images.path"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    bundle: Path, records: Records, change: Change, field: str
) -> None:
    record = changed(records.accuracy, change)
    assert refused(bundle, "E_RECORD", 2, records.performance, record).field == field


def test_a_record_is_attached_once(bundle: Path, records: Records) -> None:
    error = refused(bundle, "E_RECORD_TWICE", 4, records.accuracy, records.accuracy)
    assert error.hint == "Leave it out: what was named before holds it."
    following = attach(bundle, [records.accuracy]).path
    spaced = json.dumps(json.loads(records.accuracy.read_bytes()), indent=2)
    records.accuracy.write_text(spaced, encoding="utf-8")
    error = refused(following, "E_RECORD_TWICE", 4, records.accuracy)
    assert error.hint == "Leave it out: 1.0.1 holds it."


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"hello", b"[]", b"{}", b'{"format": "vitaie-accuracy"}', b"\xff\xfe", b"[" * 10**5),
        *(b'{"format": "vitaie-accuracy", "format": 1}', b'{"format": NaN}', b"\0" * 100),
    ],
)
def test_what_is_no_record_is_refused(bundle: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "record.json").write_bytes(data)
    refused(bundle, "E_RECORD", 2, tmp_path / "record.json")


def test_a_record_that_was_cut_off_anywhere_is_refused(bundle: Path, records: Records) -> None:
    whole = records.accuracy.read_bytes()
    for size in range(0, len(whole) - 1, 97):
        records.accuracy.write_bytes(whole[:size])
        refused(bundle, "E_RECORD", 2, records.accuracy)


def test_what_is_no_file_is_refused_without_waiting(bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "none", tmp_path, Path("/dev/zero")):
        error = refused(bundle, "E_RECORD_UNREADABLE", 2, path)
        assert error.hint is not None
    assert refused(bundle, "E_RECORD_UNREADABLE", 2, tmp_path).got == "Is a directory"


def test_a_bundle_that_is_damaged_is_refused(bundle: Path, records: Records) -> None:
    data = bytearray((bundle / "model.ts").read_bytes())
    data[5000] ^= 1
    (bundle / "model.ts").write_bytes(data)
    refused(bundle, "E_BUNDLE_FILE_DIGEST", 1, records.accuracy)


def test_a_bundle_whose_claims_are_false_is_refused(
    bundle: Path, measured: AccuracyMeasurement, tmp_path: Path
) -> None:
    """Its digests are right, and the record is of it: only running it shows what it claims."""
    reseal(bundle, lambda whole: whole["goldens"][0].update(tensor_sha256="0" * 64))
    subject = measured.subject.model_copy(
        update={"content_digest": manifest_of(bundle).content_digest}
    )
    record = tmp_path / "record.json"
    record.write_bytes(to_bytes(measured.model_copy(update={"subject": subject})))
    refused(bundle, "E_CLAIM_FALSE", 1, record)


def test_only_the_newest_version_is_gone_on_from(bundle: Path, records: Records) -> None:
    shutil.copytree(bundle, bundle.with_name("1.0.7"))
    error = refused(bundle, "E_STORE_NEWER", 4, records.accuracy)
    assert "Attach to the newest" in error.hint
    assert (error.expected, error.got) == ("1.0.0", "1.0.7")


def test_a_version_that_is_published_meanwhile_is_seen(
    bundle: Path, records: Records, tmp_path: Path
) -> None:
    def publish_another(step: str) -> None:
        if step == "bundle":
            with publication(tmp_path / "store", "small_vit") as draft:
                shutil.copytree(bundle, draft.folder, dirs_exist_ok=True)
                draft.publish()

    with pytest.raises(StoreError) as caught:
        attach(bundle, [records.accuracy], progress=publish_another)
    assert caught.value.code == "E_STORE_NEWER"
    assert not bundle.with_name("1.0.2").exists()


def test_a_bundle_that_is_changed_meanwhile_is_not_published(
    bundle: Path, records: Records
) -> None:
    def change(step: str) -> None:
        if step == "copy":
            (bundle / "labels.txt").write_text("x\ty\n" * 5, encoding="utf-8")

    with pytest.raises(BundleError) as caught:
        attach(bundle, [records.accuracy], progress=change)
    assert caught.value.code.startswith("E_BUNDLE_FILE_")
    assert [path.name for path in bundle.parent.iterdir()] == ["1.0.0"]


def test_a_bundle_that_lies_in_no_store_is_refused(
    bundle: Path, records: Records, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    bundle.rename(elsewhere)
    with pytest.raises(VitaieError) as caught:
        attach(elsewhere, [records.accuracy])
    assert caught.value.code == "E_STORE_PATH"


def test_a_store_that_is_locked_is_said_so(bundle: Path, records: Records, tmp_path: Path) -> None:
    with publication(tmp_path / "store", "small_vit"), pytest.raises(StoreError) as caught:
        attach(bundle, [records.accuracy])
    assert caught.value.code == "E_STORE_LOCKED"


def test_a_full_disk_is_said_and_nothing_is_left(
    small_bundle: Path, records: Records, tmp_path: Path
) -> None:
    """The store on a file system that one copy of the bundle fits on, and not two."""
    (tmp_path / "disk").mkdir()
    size = sum(path.stat().st_size for path in small_bundle.rglob("*")) // 1024
    script = (
        f"mount -t tmpfs -o size={3 * size // 2}k none disk && mkdir -p disk/small_vit &&"
        ' cp -r "$1" disk/small_vit/1.0.0 && shift && "$@"; code=$?;'
        " ls -A disk/small_vit; exit $code"
    )
    command = [str(COMMAND), "attach", "disk/small_vit", str(records.accuracy), "--quiet", "--json"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(small_bundle), *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    document, names = done.stdout.rsplit("}\n", 1)
    assert ErrorOutput.model_validate_json(document + "}").error.code == "E_DISK"
    assert names == "1.0.0\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_attach_leaves_nothing_to_see(
    bundle: Path, records: Records, number: signal.Signals
) -> None:
    arguments = [str(COMMAND), "attach", str(bundle), str(records.accuracy)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(bundle.parent.glob(".staging-*/model.ts")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    assert [p.name for p in bundle.parent.glob("[0-9]*")] == ["1.0.0"]
    assert attach(bundle, [records.accuracy]).path.name == "1.0.1"
    assert sorted(os.listdir(bundle.parent)) == ["1.0.0", "1.0.1"]
