"""A store only ever gains whole versions, whatever happens to the process that builds one."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.store_bundle import check_store, fill, listing, whole
from tests.support.store_processes import ROOT, Server, writers
from vitaie.builder.store import copy_tree, next_version, publication, versions
from vitaie.manifests.errors import BundleError, DiskError, InputError, StoreError, VitaieError

NAME = "vit_tiny"
FORMS = ["file", "folder", "empty folder", "link", "dangling link", "fifo"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server, None, None]:
    with writers(tmp_path_factory.mktemp("writers")) as process:
        yield process


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def publish(store: Path, version: str | None = None) -> Path:
    with publication(store, NAME, version) as draft:
        fill(draft.folder)
        return draft.publish()


def make(path: Path, form: str) -> None:
    """Make something of this form at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "file":
        path.write_bytes(b"mine")
    elif form == "folder":
        path.mkdir()
        (path / "mine").write_bytes(b"mine")
    elif form == "empty folder":
        path.mkdir()
    elif form == "link":
        path.symlink_to("/")
    elif form == "dangling link":
        path.symlink_to("nowhere")
    else:
        os.mkfifo(path)


# Versions


def test_the_first_version_is_1_0_0_and_the_next_a_patch(store: Path) -> None:
    assert next_version(store, NAME) == "1.0.0"
    assert publish(store) == store / NAME / "1.0.0"
    assert publish(store) == store / NAME / "1.0.1"
    with publication(store, NAME, bump="minor") as draft:
        assert draft.version == "1.1.0"
        fill(draft.folder)
        draft.publish()
    assert next_version(store, NAME, "minor") == "1.2.0"
    check_store(store, NAME, ["1.0.0", "1.0.1", "1.1.0"])


def test_versions_are_ordered_by_number_not_by_letter(store: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.10.2", "0.99.99"):
        publish(store, version)
    assert versions(store, NAME) == ["0.99.99", "1.9.0", "1.10.0", "1.10.2"]
    assert next_version(store, NAME) == "1.10.3"


def test_only_folders_named_as_a_version_are_versions(store: Path) -> None:
    publish(store)
    for name in ("1.0", "01.0.0", "1.0.0.0", "1.0.x", ".staging-1.0.1", "v1.0.1", "1.0.1\n"):
        make(store / NAME / name, "folder")
    for number, form in enumerate(("file", "link", "dangling link", "fifo"), 1):
        make(store / NAME / f"1.0.{number}", form)
    assert versions(store, NAME) == ["1.0.0"]
    assert next_version(store, NAME) == "1.0.5"


def test_a_name_that_is_not_there_has_no_versions(store: Path) -> None:
    assert versions(store, NAME) == []
    assert not store.exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/a", "A", "-a", ".staging-1", "a\n", "a" * 65, "a\0"]
)
def test_a_name_that_is_none_makes_nothing(tmp_path: Path, name: str) -> None:
    for call in (versions, next_version):
        with pytest.raises(InputError, match=r"\AE_ARGUMENT: the bundle's name"):
            call(tmp_path / "store", name)
    with pytest.raises(InputError, match="E_ARGUMENT"), publication(tmp_path / "store", name):
        pytest.fail("entered")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "version",
    ["", ".", "..", "1", "1.0", "1.0.0/", "../1.0.0", "01.0.0", "1.0.0\n", "1.0.1000000000"],
)
def test_a_version_that_is_none_makes_nothing(tmp_path: Path, version: str) -> None:
    with pytest.raises(InputError, match=r"\AE_ARGUMENT: version"):
        publish(tmp_path / "store", version)
    assert os.listdir(tmp_path) == []


def test_no_version_follows_the_last_possible_one(store: Path) -> None:
    publish(store, "1.0.999999999")
    with pytest.raises(InputError, match="E_ARGUMENT: version"):
        publish(store)


# What is there stays


@pytest.mark.parametrize("form", FORMS)
def test_a_version_that_exists_in_any_form_is_refused(store: Path, form: str) -> None:
    make(store / NAME / "1.0.0", form)
    before = listing(store)
    with pytest.raises(StoreError) as caught:
        publish(store, "1.0.0")
    assert (caught.value.code, caught.value.exit_code) == ("E_STORE_EXISTS", 4)
    assert str(caught.value) == (
        f"E_STORE_EXISTS: {store / NAME / '1.0.0'}: this version exists already, and a published "
        "version never changes. Leave the version out for the next free one, or name another."
    )
    assert listing(store) == before


@pytest.mark.parametrize("form", FORMS)
def test_a_version_that_appears_during_the_build_is_not_replaced(store: Path, form: str) -> None:
    before: dict[str, object] = {}

    def build() -> None:
        with publication(store, NAME) as draft:
            fill(draft.folder)
            make(store / NAME / "1.0.0", form)
            before.update(listing(store / NAME))
            draft.publish()

    with pytest.raises(StoreError, match="E_STORE_EXISTS"):
        build()
    left = {path: what for path, what in before.items() if not path.startswith(".staging-")}
    assert listing(store / NAME) == left
    assert "1.0.0" in left


@pytest.mark.parametrize("existing", ["nothing", "store", "name", "version"])
@pytest.mark.parametrize("fault", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3), None])
def test_a_build_that_does_not_publish_leaves_the_store_as_it_was(
    tmp_path: Path, existing: str, fault: BaseException | None
) -> None:
    store = tmp_path / "store"
    if existing == "version":
        publish(store)
    elif existing != "nothing":
        (store / NAME if existing == "name" else store).mkdir(parents=True)
    before = listing(tmp_path)

    def build() -> None:
        with publication(store, NAME) as draft:
            fill(draft.folder)
            if fault is not None:
                raise fault

    if fault is None:
        build()
    else:
        with pytest.raises(type(fault)) as caught:
            build()
        assert caught.value is fault
    assert listing(tmp_path) == before


def test_a_build_whose_folder_is_moved_away_is_an_error(store: Path) -> None:
    def build() -> None:
        with publication(store, NAME) as draft:
            fill(draft.folder)
            (store / NAME).rename(store / "moved")
            draft.publish()

    with pytest.raises(DiskError, match=r"E_DISK.*another folder than before"):
        build()
    assert listing(store / "moved") == {}


@pytest.mark.parametrize("form", ["link", "fifo"])
def test_what_is_neither_file_nor_folder_is_never_published(store: Path, form: str) -> None:
    def build() -> None:
        with publication(store, NAME) as draft:
            fill(draft.folder)
            make(draft.folder / "golden" / "odd", form)
            draft.publish()

    with pytest.raises(ValueError, match="neither a regular file"):
        build()
    assert not store.exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_published_modes_do_not_depend_on_the_umask(store: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        publish(store)
    finally:
        os.umask(before)
    check_store(store, NAME, ["1.0.0"])


def test_nobody_else_may_look_into_a_bundle_in_the_making(store: Path) -> None:
    with publication(store, NAME) as draft:
        assert draft.folder.parent == store / NAME
        assert oct(draft.folder.stat().st_mode) == oct(0o040700)


# A store that cannot be one


@pytest.mark.parametrize(
    ("make_at", "form", "expected"),
    [
        ("store", "file", "a folder"),
        ("store", "dangling link", "a folder"),
        ("store", "fifo", "a folder"),
        ("store/vit_tiny", "file", "a folder"),
        ("store/vit_tiny", "link", "a folder"),
        ("store/vit_tiny", "dangling link", "a folder"),
        ("parent", "file", "a folder at "),
        ("elsewhere", "file", "a folder at "),
    ],
)
def test_a_store_that_is_not_a_folder_is_refused(
    tmp_path: Path, make_at: str, form: str, expected: str
) -> None:
    make(tmp_path / make_at, form)
    store = tmp_path / ("store" if make_at.startswith("store") else "parent/store")
    before = listing(tmp_path)
    with pytest.raises(InputError) as caught:
        publish(store)
    assert (caught.value.code, caught.value.exit_code) == ("E_STORE_PATH", 2)
    assert (caught.value.expected or "").startswith(expected)
    assert listing(tmp_path) == before


def test_a_store_may_be_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to("disk")
    publish(tmp_path / "store")
    check_store(tmp_path / "disk", NAME, ["1.0.0"])


@pytest.mark.parametrize("place", ["/sys", "/proc"])
def test_a_store_where_nothing_can_be_made_is_a_disk_error(place: str) -> None:
    with pytest.raises(DiskError) as caught:
        publish(Path(place, "vitaie-store"))
    assert (caught.value.code, caught.value.exit_code) == ("E_DISK", 5)
    assert caught.value.where.startswith(f"{place}/vitaie-store")


def test_a_disk_error_of_the_build_is_one_line_and_other_errors_are_not_hidden(
    store: Path, server: Server
) -> None:
    outcome = server.start(store=str(store), name=NAME, file_limit=5000).finish()
    assert outcome.code == 5
    assert re.fullmatch(
        rf"E_DISK: {re.escape(str(store))}\S+: the disk or the file system refused \(got File too "
        r"large\)\. Free some space or name another place, then run it again\.\n",
        outcome.err,
    )
    assert not store.exists()
    with pytest.raises(FileNotFoundError), publication(store, NAME) as draft:
        (draft.folder / "missing").read_bytes()
    assert not store.exists()


_ON_A_FULL_DISK = """
import sys
from pathlib import Path
from tests.test_store import publish, listing
from vitaie.manifests.errors import DiskError
store = Path(sys.argv[1], "store")
publish(store)
codes = []
for free in range(0, 64, 4):  # KiB: from nothing at all to enough
    filler = Path(sys.argv[1], "filler")
    with filler.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() - free * 1024))
    before = listing(store)
    try:
        publish(store)
        codes.append(0)
    except DiskError as error:
        assert "No space left" in str(error), error
        codes.append(error.exit_code)
        assert listing(store) == before
print(codes)
"""


@pytest.mark.long
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    """On a real one, 256 KiB small: it needs leave to mount in a namespace of its own."""
    script = 'mount -t tmpfs -o size=256k none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh"]
    result = subprocess.run(
        [*command, str(tmp_path), sys.executable, _ON_A_FULL_DISK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    codes = [int(code) for code in re.findall(r"\d+", result.stdout)]
    assert set(codes) == {0, 5}
    assert codes[0] == 5


# Two processes


def test_a_name_that_is_being_built_is_locked(store: Path, server: Server) -> None:
    first = server.start(store=str(store), name=NAME, hold=["filled"])
    first.wait_for("filled")
    before = listing(store)
    second = server.start(store=str(store), name=NAME).finish()
    assert second.code == 4
    assert second.err == (
        f"E_STORE_LOCKED: {store / NAME}: another process is building this name. "
        "Wait until it is done, then run it again.\n"
    )
    assert listing(store) == before
    assert server.start(store=str(store), name="other").finish().code == 0
    first.go_on()
    assert first.finish().out == f"{store / NAME / '1.0.0'}\n"
    assert server.start(store=str(store), name=NAME).finish().code == 0
    check_store(store, NAME, ["1.0.0", "1.0.1"])


def test_writers_at_once_each_publish_or_are_told_to_wait(tmp_path: Path, server: Server) -> None:
    codes: list[int] = []
    for number in range(8):
        store = tmp_path / str(number)
        crowd = [server.start(store=str(store), name=NAME, times=2) for _ in range(4)]
        outcomes = [writer.finish() for writer in crowd]
        codes += [outcome.code for outcome in outcomes]
        paths = sorted(path for outcome in outcomes for path in outcome.out.split())
        assert paths == [str(store / NAME / f"1.0.{patch}") for patch in range(len(paths))]
        check_store(store, NAME, [Path(path).name for path in paths])
    assert set(codes) <= {0, 4}
    assert 0 in codes


def test_a_lock_on_a_folder_that_was_taken_away_is_no_lock(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed build may remove the folder it made just before another takes the lock."""
    real = fcntl.flock
    taken_away: list[int] = []

    def flock(file: int, operation: int) -> None:
        if not taken_away:
            taken_away.append(file)
            (store / NAME).rmdir()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    publish(store)
    assert len(taken_away) == 1
    check_store(store, NAME, ["1.0.0"])


def test_a_folder_that_another_was_faster_to_lock_is_not_taken_away(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    faster: list[int] = []

    def flock(file: int, operation: int) -> None:
        if not faster:
            faster.append(os.open(store / NAME, os.O_RDONLY))
            real(faster[0], fcntl.LOCK_EX)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match="E_STORE_LOCKED"):
        publish(store)
    assert os.listdir(store) == [NAME]
    os.close(faster[0])


def test_a_reader_never_sees_half_a_version(store: Path, server: Server) -> None:
    writer = server.start(store=str(store), name=NAME, times=20)
    for _ in range(200):
        for version in versions(store, NAME)[-2:]:
            assert listing(store / NAME / version) == whole()
    assert writer.finish().code == 0
    check_store(store, NAME, [f"1.0.{patch}" for patch in range(20)])


# Killed and interrupted

EXIT_CODES = {signal.SIGKILL: -9, signal.SIGTERM: 130, signal.SIGINT: 130, signal.SIGHUP: 130}


@pytest.mark.parametrize("number", list(EXIT_CODES))
@pytest.mark.parametrize("moment", ["entered", "filled", "published"])
def test_a_writer_ended_at_a_chosen_moment_leaves_no_half_version(
    store: Path, server: Server, moment: str, number: signal.Signals
) -> None:
    writer = server.start(store=str(store), name=NAME, hold=[moment])
    writer.wait_for(moment)
    os.kill(writer.pid, number)
    outcome = writer.finish()
    assert outcome.code == EXIT_CODES[number]
    assert outcome.err == ("" if number == signal.SIGKILL else "E_INTERRUPTED\n")
    published = ["1.0.0"] if moment == "published" else []
    assert versions(store, NAME) == published
    if number != signal.SIGKILL:
        assert store.exists() == bool(published)
    publish(store, "2.0.0")
    check_store(store, NAME, [*published, "2.0.0"])


def _end_at_random_moments(store: Path, server: Server, rounds: int) -> None:
    chance = random.Random(0)
    for _ in range(rounds):
        number = chance.choice(list(EXIT_CODES))
        writer = server.start(store=str(store), name=NAME, times=10**6, hold=["start"])
        writer.wait_for("start")
        writer.go_on()
        time.sleep(chance.uniform(0, 0.03))
        os.kill(writer.pid, number)
        outcome = writer.finish()
        assert outcome.code == EXIT_CODES[number], outcome
        assert "Traceback" not in outcome.err
        for path in outcome.out.split():
            assert listing(Path(path)) == whole()
        published = versions(store, NAME)
        assert set(published) >= {Path(path).name for path in outcome.out.split()}
        publish(store)
        check_store(store, NAME, versions(store, NAME))
        shutil.rmtree(store)


def test_a_writer_ended_at_a_random_moment_leaves_no_half_version(
    store: Path, server: Server
) -> None:
    _end_at_random_moments(store, server, 25)


@pytest.mark.long
def test_a_writer_ended_at_a_thousand_random_moments_leaves_no_half_version(
    store: Path, server: Server
) -> None:
    _end_at_random_moments(store, server, 1000)


def test_the_next_run_clears_whatever_dead_processes_left(tmp_path: Path, store: Path) -> None:
    outside = tmp_path / "outside"
    make(outside, "folder")
    publish(store)
    home = store / NAME
    for form in FORMS:
        make(home / f".staging-{form}", form)
    odd = home / ".staging-odd"
    fill_folder = odd / "deep" / "read-only"
    fill_folder.mkdir(parents=True)
    fill(fill_folder)
    (odd / "to-outside").symlink_to(outside)
    (odd / "locked").mkdir(0o000)
    make(odd / "fifo", "fifo")
    with socket.socket(socket.AF_UNIX) as server_socket:
        here = os.getcwd()
        os.chdir(odd)
        try:
            server_socket.bind("socket")
        finally:
            os.chdir(here)
    (home / ".staging-link-out").symlink_to(outside)
    fill_folder.chmod(0o555)
    odd.chmod(0o000)
    publish(store)
    check_store(store, NAME, ["1.0.0", "1.0.1"])
    assert (outside / "mine").read_bytes() == b"mine"


# Copying a version


def test_a_copied_version_has_the_same_bytes_in_files_of_its_own(store: Path) -> None:
    first = publish(store)
    with publication(store, NAME) as draft:
        copy_tree(first, draft.folder)
        second = draft.publish()
    assert listing(second) == listing(first) == whole()
    for path in second.rglob("*"):
        original = first / path.relative_to(second)
        assert not path.samefile(original)
        assert path.is_dir() or path.stat().st_nlink == 1
    (second / "model.ts").write_bytes(b"changed")
    assert listing(first) == whole()


@pytest.mark.parametrize("form", ["link", "dangling link", "fifo"])
def test_a_link_or_fifo_is_not_copied(tmp_path: Path, form: str) -> None:
    make(tmp_path / "old" / "odd", form)
    (tmp_path / "new").mkdir()
    with pytest.raises(BundleError, match="E_BUNDLE_FILE_TYPE"):
        copy_tree(tmp_path / "old", tmp_path / "new")
    assert os.listdir(tmp_path / "new") == []


def test_a_copy_that_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    make(tmp_path / "old" / "file", "file")
    with pytest.raises(VitaieError, match="E_DISK"):
        copy_tree(tmp_path / "old", Path("/sys"))
