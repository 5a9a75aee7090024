"""A journal gives back exactly the blocks that were written in full, to one run at a time."""

from __future__ import annotations

import fcntl
import io
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vitaie.manifests.errors import DiskError, InputError, StoreError
from vitaie.runtime import _journal
from vitaie.runtime._journal import MAGIC, Block, Interrupted, Row, encode, open_journal

IDENTITY: dict[str, str | int | bool] = {"bundle": "b" * 64, "batch size": 2, "pairing": True}


def block(number: int) -> Block:
    source = (2, 1) if number % 2 else None
    return tuple(Row(10 * number + row, f"{row:064x}", (1, row + 2), source) for row in range(2))


BLOCKS = {number: block(number) for number in (0, 3, 1)}
WHOLE = b"".join(encode(IDENTITY, BLOCKS.items()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.journal"


def found(path: Path) -> dict[int, Block]:
    with open_journal(path, IDENTITY) as journal:
        assert journal.changed == ()
        return journal.blocks


@contextmanager
def at_most(size: int) -> Generator[None, None, None]:
    """Let no file of this process grow above ``size`` bytes: a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# What is written is found


def test_blocks_are_found_again_in_any_order_they_were_written_in(path: Path) -> None:
    for number, each in BLOCKS.items():
        with open_journal(path, IDENTITY) as journal:
            journal.append(number, each)
    assert found(path) == BLOCKS
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("removed", [False, True])
def test_an_interrupted_run_is_told_how_many_images_are_in_the_file(
    path: Path, removed: bool
) -> None:
    def run() -> None:
        with open_journal(path, IDENTITY) as journal:
            for number, each in BLOCKS.items():
                journal.append(number, each)
            if removed:
                journal.remove()
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run()
    assert caught.value.images == (0 if removed else 6)


def test_a_new_journal_holds_nothing_and_says_of_nothing_that_it_changed(path: Path) -> None:
    assert found(path) == {}
    assert path.read_bytes() == next(encode(IDENTITY, ()))


def test_a_journal_cut_anywhere_gives_the_whole_lines_and_is_gone_on_with(path: Path) -> None:
    ends = [WHOLE.index(b"\n", len(MAGIC)) + 1]
    while ends[-1] < len(WHOLE):
        ends.append(WHOLE.index(b"\n", ends[-1]) + 1)
    for cut in range(len(WHOLE) + 1):
        path.write_bytes(WHOLE[:cut])
        kept = sum(end <= cut for end in ends[1:])
        with open_journal(path, IDENTITY) as journal:
            assert list(journal.blocks.items()) == list(BLOCKS.items())[:kept], cut
            for number, each in list(BLOCKS.items())[kept:]:
                journal.append(number, each)
        assert path.read_bytes() == WHOLE, cut


def test_no_bit_can_be_flipped_into_another_block(path: Path) -> None:
    for place in range(len(MAGIC), len(WHOLE)):
        for bit in range(8):
            data = bytearray(WHOLE)
            data[place] ^= 1 << bit
            contents = _journal.read(io.BytesIO(data), path)
            assert contents.identity in (None, IDENTITY)
            assert list(contents.blocks.items()) == list(BLOCKS.items())[: len(contents.blocks)]
            assert len(contents.blocks) < len(BLOCKS)
            assert contents.end <= place


def test_a_line_of_another_journal_is_not_taken(path: Path) -> None:
    other = b"".join(encode({**IDENTITY, "batch size": 4}, BLOCKS.items()))
    line = other[other.index(b"\n", other.index(b"\n") + 1) + 1 :]
    path.write_bytes(next(encode(IDENTITY, ())) + line)
    assert found(path) == {}


# Another run's


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        ({**IDENTITY, "batch size": 4}, ("batch size",)),
        ({**IDENTITY, "bundle": "c" * 64, "pairing": False}, ("bundle", "pairing")),
        ({**IDENTITY, "threads": 2}, ("threads",)),
        ({"bundle": "b" * 64}, ("batch size", "pairing")),
    ],
)
def test_a_journal_of_another_run_starts_anew_and_names_what_changed(
    path: Path, now: _journal.Identity, changed: tuple[str, ...]
) -> None:
    path.write_bytes(WHOLE)
    with open_journal(path, now) as journal:
        assert (journal.changed, journal.blocks) == (changed, {})
        journal.append(7, block(7))
    with open_journal(path, now) as journal:
        assert (journal.changed, journal.blocks) == ((), {7: block(7)})


# One run at a time


def test_a_second_run_on_a_journal_is_refused_and_changes_nothing(path: Path) -> None:
    with open_journal(path, IDENTITY) as journal:
        with pytest.raises(StoreError) as caught, open_journal(path, {"bundle": "other"}):
            pass
        assert (caught.value.code, caught.value.exit_code) == ("E_JOURNAL_LOCKED", 4)
        journal.append(0, block(0))
    assert found(path) == {0: block(0)}


def test_the_lock_dies_with_its_process(path: Path) -> None:
    program = (
        "import sys\nfrom vitaie.runtime._journal import open_journal\n"
        f"with open_journal({str(path)!r}, {IDENTITY!r}):\n"
        "    print('ready', flush=True)\n    sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(StoreError, match="E_JOURNAL_LOCKED"):
            found(path)
        process.send_signal(signal.SIGKILL)
    assert found(path) == {}


def test_a_journal_that_was_removed_is_not_held_against_the_next_run(path: Path) -> None:
    with open_journal(path, IDENTITY) as journal:
        journal.append(0, block(0))
        journal.remove()
        assert not path.exists()
        assert found(path) == {}


def test_a_file_that_is_replaced_while_it_is_locked_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(WHOLE)
    flock = fcntl.flock

    def replace_once(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()  # as who had it before does, when done
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", replace_once)
    with open_journal(path, IDENTITY) as journal:
        assert journal.blocks == {}
        journal.append(0, block(0))
    assert found(path) == {0: block(0)}


# What is no journal


@pytest.mark.parametrize("data", [b"my thesis", b"vitaie-journal 2\n", MAGIC[:5] + b"\n", b"\0"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        found(path)
    assert (caught.value.code, caught.value.exit_code) == ("E_JOURNAL", 2)
    assert path.read_bytes() == data


@pytest.mark.parametrize("form", ["folder", "link", "dangling link", "fifo", "socket"])
def test_what_is_no_regular_file_is_refused(path: Path, form: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        if form == "folder":
            path.mkdir()
        elif form == "fifo":
            os.mkfifo(path)
        elif form == "socket":
            listener.bind(str(path))
        else:
            target = path.with_name("target")
            path.symlink_to(target)
            if form == "link":
                target.write_bytes(WHOLE)
        with pytest.raises(InputError, match="E_JOURNAL: "):
            found(path)


def test_a_journal_in_no_folder_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match="E_OUTPUT_PATH: "):
        found(path.parent / "none" / "a.journal")


# Disks


def test_on_a_full_disk_the_blocks_before_stay(path: Path) -> None:
    """The limit is tried at every byte: the block fits, or not a byte of it is left."""
    before = b"".join(encode(IDENTITY, [(0, block(0))]))
    after = b"".join(encode(IDENTITY, [(0, block(0)), (1, block(1))]))
    for size in range(len(before), len(after)):
        path.write_bytes(before)
        with (
            pytest.raises(DiskError) as caught,
            at_most(size),
            open_journal(path, IDENTITY) as journal,
        ):
            journal.append(1, block(1))
        assert (caught.value.code, caught.value.exit_code) == ("E_DISK", 5)
        assert path.read_bytes() == before
    with at_most(len(after)), open_journal(path, IDENTITY) as journal:
        journal.append(1, block(1))
    assert path.read_bytes() == after


def test_blocks_are_written_together_now_and_then_and_whatever_ends_the_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(seconds: float) -> None:
        monkeypatch.setattr(_journal, "WRITE_S", seconds)
        with open_journal(path, IDENTITY) as journal:
            before = path.stat().st_size
            journal.append(0, block(0))
            assert (path.stat().st_size > before) == (seconds == 0)
            raise KeyError

    for seconds in (0.0, 1e9):
        with pytest.raises(KeyError):
            run(seconds)
        assert found(path) == {0: block(0)}
        path.unlink()


def test_a_disk_that_takes_a_little_at_a_time_gets_it_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def little(file: int, data: bytes, place: int) -> int:
        return pwrite(file, data[:7], place)

    monkeypatch.setattr(os, "pwrite", little)
    with open_journal(path, IDENTITY) as journal:
        for number, each in BLOCKS.items():
            journal.append(number, each)
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize(("seconds", "times"), [(0.0, 4), (1e9, 1)])
def test_the_disk_is_waited_for_at_the_start_and_at_intervals_only(
    path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, times: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(_journal, "SYNC_S", seconds)
    monkeypatch.setattr(_journal, "WRITE_S", 0.0)
    monkeypatch.setattr(os, "fsync", calls.append)
    with open_journal(path, IDENTITY) as journal:
        for number, each in BLOCKS.items():
            journal.append(number, each)
    assert len(calls) == times
