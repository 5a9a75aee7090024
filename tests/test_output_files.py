"""What a command writes with ``-o`` is there in full, or not at all, and replaces nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support.store_bundle import FILES
from tests.support.store_faults import Case, cases, ending_problems, last
from tests.support.store_processes import Call, Outcome, Server, writers
from vitaie.manifests.errors import DiskError, InputError, StoreError
from vitaie.runtime._files import check_output, rename_noreplace, write_output

WHOLE = b"".join(FILES.values())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server, None, None]:
    with writers(tmp_path_factory.mktemp("writers")) as process:
        yield process


def _write_new(output: Path) -> None:
    write_output(output, b"new")


@pytest.mark.parametrize("data", [b"", b"abc", [], [b"ab", b"", b"c"]])
def test_all_the_bytes_are_written_with_the_umasks_mode(
    tmp_path: Path, data: bytes | list[bytes]
) -> None:
    before = os.umask(0o027)
    try:
        write_output(tmp_path / "out", data)
    finally:
        os.umask(before)
    assert (tmp_path / "out").read_bytes() == (data if isinstance(data, bytes) else b"".join(data))
    assert oct((tmp_path / "out").stat().st_mode) == oct(0o100640)
    assert os.listdir(tmp_path) == ["out"]


def test_the_name_may_be_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    write_output(str(tmp_path / ("n" * 255)), b"abc")
    assert os.listdir(tmp_path) == ["n" * 255]
    with pytest.raises(DiskError, match=r"E_DISK.*too long"):
        write_output(tmp_path / ("n" * 256), b"abc")


@pytest.mark.parametrize("write", [check_output, _write_new])
def test_a_name_that_is_too_long_is_refused_by_the_users_own_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    for output in (Path("n" * 256), tmp_path / ("n" * 300), tmp_path / ("n" * 300) / "out"):
        with pytest.raises(DiskError, match=r"too long\). Name a shorter path") as caught:
            write(output)
        assert str(output).startswith(caught.value.where.rstrip("…"))
    assert os.listdir(tmp_path) == []


def test_a_link_that_fails_names_the_users_own_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: str, *_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", source)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(DiskError) as caught:
        write_output(tmp_path / "out", b"new")
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize("form", ["file", "folder", "link", "dangling link", "fifo", "socket"])
def test_an_output_that_exists_in_any_form_is_refused(tmp_path: Path, form: str) -> None:
    output = tmp_path / "out"
    with socket.socket(socket.AF_UNIX) as listener:
        if form == "file":
            output.write_bytes(b"mine")
        elif form == "folder":
            output.mkdir()
        elif form == "fifo":
            os.mkfifo(output)
        elif form == "socket":
            listener.bind(str(output))
        else:
            output.symlink_to("/etc/hostname" if form == "link" else "nowhere")
    before = output.lstat()
    for call in (check_output, _write_new):
        with pytest.raises(StoreError) as caught:
            call(output)
        assert (caught.value.code, caught.value.exit_code) == ("E_OUTPUT_EXISTS", 4)
        assert str(caught.value) == (
            f"E_OUTPUT_EXISTS: {output}: the output exists already. "
            "Nothing is ever replaced: remove it or name another file."
        )
    after = output.lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == ["out"]


def test_an_output_that_appears_while_it_is_made_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def pieces() -> Iterator[bytes]:
        yield b"new"
        output.write_bytes(b"mine")

    with pytest.raises(StoreError, match="E_OUTPUT_EXISTS"):
        write_output(output, pieces())
    assert output.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("parent", ["missing", "file", "dangling"])
def test_an_output_without_a_folder_is_refused(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for call in (check_output, _write_new):
        with pytest.raises(InputError) as caught:
            call(tmp_path / parent / "out")
        assert (caught.value.code, caught.value.exit_code) == ("E_OUTPUT_PATH", 2)
        assert caught.value.expected == f"a folder at {tmp_path / parent}"


@pytest.mark.parametrize("folder", ["/sys", "/proc"])
def test_an_output_where_nothing_can_be_written_is_a_disk_error(folder: str) -> None:
    with pytest.raises(DiskError) as caught:
        write_output(Path(folder, "vitaie-output"), b"new")
    assert (caught.value.code, caught.value.exit_code) == ("E_DISK", 5)
    assert caught.value.where == folder


@pytest.mark.parametrize("fault", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_an_output_that_cannot_be_made_leaves_nothing(tmp_path: Path, fault: BaseException) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise fault

    with pytest.raises(type(fault)) as caught:
        write_output(tmp_path / "out", pieces())
    assert caught.value is fault
    assert os.listdir(tmp_path) == []


def test_an_output_larger_than_a_file_may_be_leaves_nothing(tmp_path: Path, server: Server) -> None:
    outcome = server.start(output=str(tmp_path / "out"), file_limit=5000).finish()
    assert outcome.code == 5
    assert re.fullmatch(r"E_DISK: .* \(got File too large\)\. Free some space .*\n", outcome.err)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", ["file", "folder", "link"])
def test_a_rename_never_replaces(tmp_path: Path, form: str) -> None:
    (tmp_path / "old").mkdir()
    if form == "file":
        (tmp_path / "new").touch()
    elif form == "folder":
        (tmp_path / "new").mkdir()
    else:
        (tmp_path / "new").symlink_to("nowhere")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            rename_noreplace("old", "new", dir_fd=folder)
        with pytest.raises(FileNotFoundError):
            rename_noreplace("older", "newer", dir_fd=folder)
    finally:
        os.close(folder)
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


# Faults at each system call, put in by strace


def _attempt(server: Server, folder: Path, *options: str) -> tuple[Outcome, list[Call], list[str]]:
    """Write into an empty folder under strace; return what is in it after, and empty it."""
    words = [word for option in options for word in ("-e", option)]
    outcome, calls = server.run_traced(*words, output=str(folder / "out"))
    names = os.listdir(folder)
    whole = [name for name in names if (folder / name).read_bytes() == WHOLE]
    for name in names:
        (folder / name).unlink()
    return (
        outcome,
        calls,
        ["out"] if names == whole == ["out"] else [f"torn {name}" for name in names],
    )


def _problems(
    case: Case, undisturbed: list[Call], server: Server, folder: Path, *options: str
) -> list[str]:
    outcome, calls, left = _attempt(server, folder, *options, case.option)
    problems = ending_problems(case, outcome, calls)
    if outcome.code == 0 and left != ["out"]:
        problems.append(f"a false success: {left}")
    done = case.position >= last(undisturbed, "fsync")
    if (
        outcome.code != 0
        and left != []
        and not (left == ["out"] and (done or case.fault == "SIGKILL"))
    ):
        problems.append(f"left {left}")
    return problems


def test_a_fault_at_any_call_leaves_a_whole_output_or_none(tmp_path: Path, server: Server) -> None:
    outcome, calls, left = _attempt(server, tmp_path)
    assert (outcome.code, left) == (0, ["out"])
    tried = cases(calls, ["EIO", "ENOSPC", "SIGKILL", "SIGTERM", "SIGINT"])
    assert len(tried) >= 50
    failures = {
        str(case): problems
        for case in tried
        for problems in [_problems(case, calls, server, tmp_path)]
        if problems
    }
    assert not failures, failures


def test_an_output_is_on_the_disk_before_it_has_its_name_and_so_is_its_name_before_success(
    tmp_path: Path, server: Server
) -> None:
    _, calls, _ = _attempt(server, tmp_path)
    steps = [call.name for call in calls if call.name in ("write", "fsync", "linkat")]
    assert steps == ["write", "write", "write", "fsync", "linkat", "fsync"]


@pytest.mark.parametrize("rename", [True, False])
def test_a_file_system_without_unnamed_files_gives_the_same(
    tmp_path: Path, server: Server, rename: bool
) -> None:
    _, calls, _ = _attempt(server, tmp_path)
    (unnamed,) = [call.number for call in calls if "O_TMPFILE" in call.line]
    options = [f"inject=openat:error=EOPNOTSUPP:when={unnamed}"]
    if not rename:
        options.append("inject=renameat2:error=EINVAL:when=1")
    outcome, calls, left = _attempt(server, tmp_path, *options)
    assert (outcome.code, left) == (0, ["out"])
    assert any(call.name == ("renameat2" if rename else "linkat") for call in calls)
    taken = {"openat"} if rename else {"openat", "renameat2"}
    tried = [
        case for case in cases(calls, ["EIO", "ENOSPC", "SIGTERM"]) if case.call.name not in taken
    ]
    assert len(tried) >= 25
    failures = {
        str(case): problems
        for case in tried
        for problems in [_problems(case, calls, server, tmp_path, *options)]
        if problems
    }
    assert not failures, failures


def test_a_lost_terminal_leaves_nothing(tmp_path: Path, server: Server) -> None:
    writer = server.start(output=str(tmp_path / "out"), hold=["start"])
    writer.wait_for("start")
    os.kill(writer.pid, signal.SIGHUP)
    assert writer.finish().code == 130
    assert os.listdir(tmp_path) == []
