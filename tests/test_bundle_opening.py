"""Opening refuses a folder that is not exactly what its manifest says, before any parser runs."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import copy_bundle, document, flips, put, refused, reseal
from vitaie import runtime
from vitaie.manifests.errors import VitaieError
from vitaie.manifests.manifest import Manifest
from vitaie.runtime import _bundle
from vitaie.runtime._bundle import locate, open_bundle


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# Finding


def test_the_newest_version_is_by_number_not_by_letter(small_bundle: Path, tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "0.99.0"):
        (tmp_path / version).mkdir()
    assert locate(tmp_path) == tmp_path / "1.10.0"


def test_staging_folders_files_and_links_are_no_versions(tmp_path: Path) -> None:
    (tmp_path / "1.0.0").mkdir()
    (tmp_path / ".staging-1.2.0-123").mkdir()
    (tmp_path / "1.3").mkdir()
    (tmp_path / "v1.4.0").mkdir()
    (tmp_path / "01.5.0").mkdir()
    (tmp_path / "1.6.0").write_bytes(b"a file")
    (tmp_path / "1.7.0").symlink_to("1.0.0")
    assert locate(tmp_path) == tmp_path / "1.0.0"


def test_a_name_without_versions_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    error = refused(tmp_path, "E_BUNDLE_NOT_FOUND")
    assert "manifest.json or a folder named X.Y.Z" in str(error)


@pytest.mark.parametrize("path", ["nowhere", "file", "file/1.0.0", "nul\0"])
def test_what_is_no_folder_is_no_bundle(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / path, "E_BUNDLE_NOT_FOUND")


def test_a_version_without_a_manifest_is_said_to_lack_it(bundle: Path, tmp_path: Path) -> None:
    bundle.rename(tmp_path / "1.0.0")
    (tmp_path / "1.0.0" / "manifest.json").unlink()
    refused(tmp_path, "E_MANIFEST_MISSING")


def test_a_bundle_opens_through_a_link_to_it(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    with runtime.load(tmp_path / "link", target="cpu") as model:
        assert model.digest == document(bundle)["content_digest"]


def test_a_read_only_bundle_opens(bundle: Path) -> None:
    for folder, _, files in os.walk(bundle, topdown=False):
        for name in files:
            os.chmod(Path(folder, name), 0o444)
        os.chmod(folder, 0o555)
    runtime.load(bundle, target="cpu").close()
    for folder, _, _ in os.walk(bundle):
        os.chmod(folder, 0o755)


# What is in the folder


@pytest.mark.parametrize(
    "name",
    ["extra.txt", "golden/extra", ".hidden", "a\nb", "\x1b[31mred", "名前", "model.ts~", " "],
)
def test_an_extra_file_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"")
    refused(bundle, "E_BUNDLE_FILE_EXTRA")


def test_an_extra_file_whose_name_is_no_text_is_refused(bundle: Path) -> None:
    with open(os.fsencode(bundle) + b"/\xff\xfe", "wb"):
        pass
    assert "\\udcff\\udcfe" in str(refused(bundle, "E_BUNDLE_FILE_EXTRA"))


@pytest.mark.parametrize("name", [".git", "empty", "golden/empty", "targets"])
def test_an_extra_folder_is_refused_even_when_empty(bundle: Path, name: str) -> None:
    (bundle / name).mkdir()
    refused(bundle, "E_BUNDLE_FILE_EXTRA")


def test_a_missing_file_is_refused_whichever_it_is(small_bundle: Path, tmp_path: Path) -> None:
    paths = [row["path"] for row in document(small_bundle)["artifacts"]]
    assert len(paths) >= 12
    for index, path in enumerate(paths):
        folder = copy_bundle(small_bundle, tmp_path / str(index))
        (folder / path).unlink()
        assert path in refused(folder, "E_BUNDLE_FILE_MISSING").where


def test_a_missing_folder_is_refused(bundle: Path) -> None:
    shutil.rmtree(bundle / "golden")
    refused(bundle, "E_BUNDLE_FILE_MISSING")


def test_many_extra_files_are_refused_at_the_first(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000):
        (bundle / f"extra-{number}").touch()
    listed: list[str] = []
    real: Any = os.scandir

    @contextmanager
    def scandir(folder: int) -> Generator[Iterator[Any], None, None]:
        def watched(entries: Iterator[Any]) -> Iterator[Any]:
            for entry in entries:
                listed.append(entry.name)
                yield entry

        with real(folder) as entries:
            yield watched(entries)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(bundle, "E_BUNDLE_FILE_EXTRA")
    assert sum(name.startswith("extra-") for name in listed) == 1


@pytest.mark.long
def test_a_hundred_thousand_extra_files_are_refused_at_the_first(bundle: Path) -> None:
    for number in range(100_000):
        os.close(os.open(bundle / f"extra-{number}", os.O_CREAT | os.O_WRONLY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(bundle, "E_BUNDLE_FILE_EXTRA")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


# What kind of thing each is

Spoil = Callable[[Path], None]


def _beside(path: Path) -> Path:
    """Return the folder that the bundle is in."""
    return next(folder.parent for folder in path.parents if folder.name == "bundle")


def _link_inside(path: Path) -> None:
    path.unlink()
    path.symlink_to(_beside(path) / "bundle" / "golden" / "01.npy")


def _link_outside(path: Path) -> None:
    outside = _beside(path) / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def _dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


def _hard_link(path: Path) -> None:
    os.link(path, _beside(path) / "twin")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


KINDS: list[tuple[Spoil, str]] = [
    (_link_inside, "E_BUNDLE_FILE_LINKED"),
    (_link_outside, "E_BUNDLE_FILE_LINKED"),
    (_dangling_link, "E_BUNDLE_FILE_LINKED"),
    (_hard_link, "E_BUNDLE_FILE_LINKED"),
    (_fifo, "E_BUNDLE_FILE_TYPE"),
    (_folder, "E_BUNDLE_FILE_TYPE"),
    (_socket, "E_BUNDLE_FILE_TYPE"),
]


@pytest.mark.parametrize("path", ["model.ts", "labels.txt", "golden/00.npy", "manifest.json"])
@pytest.mark.parametrize(("spoil", "code"), KINDS, ids=[spoil.__name__ for spoil, _ in KINDS])
def test_only_a_regular_file_of_one_name_is_taken(
    bundle: Path, path: str, spoil: Spoil, code: str
) -> None:
    spoil(bundle / path)
    assert path in refused(bundle, code).where


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ("link", "E_BUNDLE_FILE_LINKED"),
        ("dangling", "E_BUNDLE_FILE_LINKED"),
        ("file", "E_BUNDLE_FILE_TYPE"),
        ("fifo", "E_BUNDLE_FILE_TYPE"),
    ],
)
def test_a_folder_of_the_bundle_is_a_real_folder(bundle: Path, form: str, code: str) -> None:
    golden, outside = bundle / "golden", bundle.parent / "golden"
    golden.rename(outside)
    if form == "link":
        golden.symlink_to(outside)
    elif form == "dangling":
        golden.symlink_to("nowhere")
    elif form == "file":
        golden.write_bytes(b"")
    else:
        os.mkfifo(golden)
    refused(bundle, code)


def test_a_device_is_never_opened(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real_open, real_stat = os.open, os.stat
    device = real_stat("/dev/null")

    def stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        if path == "labels.txt":  # making a real one takes rights that a test may not have
            return device
        return real_stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        opened.append(str(path))
        return real_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "open", open_)
    refused(bundle, "E_BUNDLE_FILE_TYPE")
    assert "manifest.json" in opened
    assert "labels.txt" not in opened


def test_a_file_that_becomes_a_fifo_after_it_was_looked_at_does_not_hang(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        status = real(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == "labels.txt":
            (bundle / path).unlink()
            os.mkfifo(bundle / path)
        return status

    monkeypatch.setattr(os, "stat", stat)
    refused(bundle, "E_BUNDLE_FILE_TYPE")


# A large model.ts is read while the manifest is still unknown


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take model.ts for large."""
    monkeypatch.setattr(_bundle, "CHUNKED_ABOVE", 1000)


@pytest.mark.usefixtures("early")
def test_a_file_that_is_read_early_is_read_once(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    real = os.sendfile

    def sendfile(memory: int, descriptor: int, offset: int, count: int) -> int:
        counts.append(real(memory, descriptor, offset, count))
        return counts[-1]

    monkeypatch.setattr(os, "sendfile", sendfile)
    runtime.load(bundle, target="cpu").close()
    assert counts.count((bundle / "model.ts").stat().st_size) == 1


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize(("spoil", "code"), KINDS, ids=[spoil.__name__ for spoil, _ in KINDS])
def test_a_file_that_is_read_early_is_a_regular_file_of_one_name(
    bundle: Path, spoil: Spoil, code: str
) -> None:
    spoil(bundle / "model.ts")
    refused(bundle, code)


@pytest.mark.usefixtures("early")
def test_a_file_that_is_read_early_is_refused_for_its_size_and_bytes(bundle: Path) -> None:
    for _ in flips(bundle / "model.ts", random.Random(3), 20):
        refused(bundle, "E_BUNDLE_FILE_DIGEST")
    with open(bundle / "model.ts", "ab") as file:
        file.write(b"x")
    refused(bundle, "E_BUNDLE_FILE_SIZE")
    (bundle / "model.ts").unlink()
    refused(bundle, "E_BUNDLE_FILE_MISSING")


@pytest.mark.usefixtures("early")
def test_a_file_replaced_after_it_was_read_early_is_read_again(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken is the file that the bundle holds when its folder is listed."""
    spoiled = tmp_path / "model.ts"
    shutil.copy(bundle / "model.ts", spoiled)
    with open(spoiled, "r+b") as file:
        file.write(b"x")
    real: Any = Manifest.from_bytes

    def replace_first(data: bytes, where: str) -> Any:
        spoiled.replace(bundle / "model.ts")
        return real(data, where)

    monkeypatch.setattr(Manifest, "from_bytes", replace_first)
    refused(bundle, "E_BUNDLE_FILE_DIGEST")


@pytest.mark.usefixtures("early")
def test_a_bundle_refused_while_its_model_is_read_leaves_no_file_and_no_thread(
    bundle: Path,
) -> None:
    other = copy_bundle(bundle, bundle.parent / "other")
    (other / "manifest.json").write_bytes(b"{}")
    runtime.load(bundle, target="cpu").close()
    before = (open_files(), threading.active_count())
    for _ in range(10):
        refused(other, "E_MANIFEST_MISSING_FIELD")
        runtime.load(bundle, target="cpu").close()
    assert (open_files(), threading.active_count()) == before


# What the files say


@pytest.mark.parametrize(
    "labels",
    [
        b"",
        b"c0\tzero\n",
        b"c\tx\n" * 6,
        b"c\tx\n" * 5 + b"\n",
        b"c\tx\n" * 4 + b"c\tx",
        b"c\tx\n" * 4 + b"cx\n",
        b"c\tx\n" * 4 + b"\tx\n",
        b"c\tx\n" * 4 + b"c\t\n",
        b"c\tx\n" * 4 + b"c\t\xff\n",
    ],
)
def test_labels_are_one_line_of_id_tab_name_for_each_class(bundle: Path, labels: bytes) -> None:
    put(bundle, "labels.txt", labels)
    refused(bundle, "E_BUNDLE_LABELS")


def test_an_artifact_the_manifest_leaves_out_is_extra(bundle: Path) -> None:
    def drop_a_golden(whole: dict[str, Any]) -> None:
        last = whole["goldens"].pop()
        gone = {last["source"], last["crop"], last["logits"]}
        whole["artifacts"] = [row for row in whole["artifacts"] if row["path"] not in gone]

    reseal(bundle, drop_a_golden)
    refused(bundle, "E_BUNDLE_FILE_EXTRA")


def test_a_resealed_bundle_that_is_right_opens(bundle: Path) -> None:
    reseal(bundle)
    runtime.load(bundle, target="cpu").close()


def test_a_change_of_the_manifest_alone_is_found(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    changed = text.replace('"top1": ', '"top1":  ', 1)
    assert json.loads(changed) == json.loads(text)
    assert changed != text
    (bundle / "manifest.json").write_text(changed, encoding="utf-8")
    refused(bundle, "E_MANIFEST_DIGEST")


# Nothing is left open


def test_opening_and_failing_to_open_leave_no_file_open(bundle: Path) -> None:
    runtime.load(bundle, target="cpu").close()
    before = open_files()
    for _ in range(25):
        runtime.load(bundle, target="cpu").close()
    (bundle / "golden" / "extra").touch()
    for _ in range(25):
        refused(bundle, "E_BUNDLE_FILE_EXTRA")
    (bundle / "golden" / "extra").unlink()
    for path, code in (("labels.txt", "SIZE"), ("golden/00.npy", "SIZE")):
        with open(bundle / path, "ab") as file:
            file.write(b"x")
        for _ in range(10):
            refused(bundle, f"E_BUNDLE_FILE_{code}")
        os.truncate(bundle / path, (bundle / path).stat().st_size - 1)
    (bundle / "golden" / "00.npy").unlink()
    (bundle / "golden" / "00.npy").symlink_to("01.npy")
    for _ in range(10):
        refused(bundle, "E_BUNDLE_FILE_LINKED")
    assert open_files() == before


def test_too_many_open_files_are_no_fault_of_the_bundle(bundle: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 4, limits[1]))
    try:
        with pytest.raises(VitaieError) as caught, open_bundle(bundle):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (caught.value.code, caught.value.exit_code) == ("E_DISK", 5)
