"""Every system call of a publication fails, is killed and is interrupted in turn.

After each: no torn version, no false success, no traceback, and nothing left over after the next
run. The faults are real ones, put into a running writer by strace; ``make test`` takes the calls
that change the disk, ``make test-long`` all calls, and a second fault in the cleaning up.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import pytest

from tests.support.store_bundle import check_store, fill, listing, whole
from tests.support.store_faults import CHANGES, Case, cases, ending_problems, entries, last
from tests.support.store_processes import Call, Outcome, Server, writers
from vitaie.builder.store import publication, versions

NAME = "vit_tiny"
ALL = ("EIO", "ENOSPC", "SIGKILL", "SIGTERM", "SIGINT")
PUBLISHED = {"fresh": ["1.0.0"], "grown": ["1.0.0", "1.0.1"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server, None, None]:
    with writers(tmp_path_factory.mktemp("writers")) as process:
        yield process


@pytest.fixture
def attempt(tmp_path: Path, server: Server) -> Callable[..., Attempt]:
    numbers = itertools.count()
    publish(tmp_path / "grown", "1.0.0")
    fill(tmp_path / "grown" / NAME / ".staging-of-a-dead-process")

    def run(kind: str, *options: str) -> Attempt:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        if kind == "grown":
            shutil.copytree(tmp_path / "grown", folder / "store")
        return Attempt(folder, server, kind, options)

    return run


def publish(store: Path, version: str) -> None:
    with publication(store, NAME, version) as draft:
        fill(draft.folder)
        draft.publish()


class Attempt:
    """One publication into a store of its own, with the faults of ``options``."""

    def __init__(self, folder: Path, server: Server, kind: str, options: tuple[str, ...]) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.kind = kind
        self.before = entries(folder)
        strace = [word for option in options for word in ("-e", option)]
        self.outcome: Outcome
        self.calls: list[Call]
        self.outcome, self.calls = server.run_traced(*strace, store=str(self.store), name=NAME)
        self.after = entries(folder)
        self.visible = versions(self.store, NAME)

    @property
    def published(self) -> bool:
        return self.visible == PUBLISHED[self.kind]

    def problems(self) -> list[str]:
        """Return what must never be, however many faults there were; then clean up."""
        found: list[str] = []
        if not self.published and self.visible != PUBLISHED[self.kind][:-1]:
            found.append(f"visible {self.visible}")
        for version in self.visible:
            if listing(self.store / NAME / version) != whole():
                found.append(f"{version} is torn")
        if self.outcome.code == 0 and not self.published:
            found.append("a false success")
        publish(self.store, "2.0.0")
        check_store(self.store, NAME, [*self.visible, "2.0.0"])
        shutil.rmtree(self.folder)
        return found


def one_fault(case: Case, attempt: Attempt, undisturbed: list[Call]) -> list[str]:
    """Return the problems after one fault: a failed writer leaves the store as it was."""
    found = ending_problems(case, attempt.outcome, attempt.calls)
    done = case.position > last(undisturbed, "renameat2" if case.fault == "SIGKILL" else "fsync")
    done = done or (
        case.fault in ("SIGTERM", "SIGINT") and case.position == last(undisturbed, "fsync")
    )
    if attempt.outcome.code != 0 and not done:
        if attempt.published:
            found.append("published by a writer that failed")
        if case.fault != "SIGKILL" and not attempt.after <= attempt.before:
            found.append(f"left {sorted(attempt.after - attempt.before)}")
    return found + attempt.problems()


def try_all(
    attempt: Callable[..., Attempt], kind: str, faults: Iterable[str], names: set[str] | None
) -> int:
    """Try every case; return how many there were."""
    undisturbed = attempt(kind)
    assert undisturbed.outcome.code == 0
    assert undisturbed.published
    tried = cases(undisturbed.calls, faults, names)
    failures = {
        str(case): problems
        for case in tried
        for problems in [one_fault(case, attempt(kind, case.option), undisturbed.calls)]
        if problems
    }
    assert not failures, failures
    return len(tried)


@pytest.mark.parametrize("fault", ["EIO", "SIGKILL", "SIGINT"])
def test_a_fault_where_the_disk_changes_tears_nothing(
    attempt: Callable[..., Attempt], fault: str
) -> None:
    assert try_all(attempt, "grown", [fault], CHANGES) >= 50


@pytest.mark.long
@pytest.mark.parametrize("kind", ["fresh", "grown"])
@pytest.mark.parametrize("fault", ALL)
def test_a_fault_at_any_call_tears_nothing(
    attempt: Callable[..., Attempt], kind: str, fault: str
) -> None:
    assert try_all(attempt, kind, [fault], None) >= (30 if fault == "ENOSPC" else 120)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["fresh", "grown"])
@pytest.mark.parametrize("fault", ["EIO", "SIGKILL", "SIGINT"])
def test_a_second_fault_while_cleaning_up_tears_nothing(
    attempt: Callable[..., Attempt], kind: str, fault: str
) -> None:
    undisturbed = attempt(kind)
    final = undisturbed.calls[last(undisturbed.calls, "fsync")]
    first = f"inject=fsync:error=EIO:when={final.number}"
    failing = attempt(kind, first)
    assert failing.outcome.code == 5
    told = max(n for n, call in enumerate(failing.calls) if call.line.startswith("write(2, "))
    cleaning = [
        case
        for case in cases(failing.calls, [fault])
        if last(failing.calls, "fsync") < case.position < told
    ]
    assert len(cleaning) >= 30
    failures: dict[str, list[str]] = {}
    for case in cleaning:
        again = attempt(kind, first, case.option)
        found = ending_problems(case, again.outcome, again.calls) + again.problems()
        if again.outcome.code == 0:
            found.append("a false success")
        if found:
            failures[str(case)] = found
    assert not failures, failures


def test_a_file_system_without_the_rename_is_refused_before_the_work(
    attempt: Callable[..., Attempt],
) -> None:
    refused = attempt("fresh", "inject=renameat2:error=EINVAL:when=1")
    assert refused.outcome.code == 5
    assert refused.outcome.err == (
        f"E_DISK: {refused.store / NAME}: the disk or the file system refused (got Invalid "
        "argument). Name a place on a local file system, such as ext4, xfs, btrfs or tmpfs.\n"
    )
    assert [call.line for call in refused.calls if call.line.startswith("write(")] == [
        call.line for call in refused.calls if call.line.startswith("write(2, ")
    ]
    assert refused.after == refused.before


def test_everything_is_on_the_disk_before_the_version_is_seen_and_it_too_before_success(
    attempt: Callable[..., Attempt],
) -> None:
    calls = [
        call for call in attempt("fresh").calls if call.name in ("fsync", "renameat2", "write")
    ]
    names = [call.name for call in calls]
    assert names[-5:] == ["fsync", "renameat2", "fsync", "fsync", "write"]
    staged = names[: last(calls, "renameat2")]
    files_and_folders = len(whole()) + 1
    made_folders = 2
    assert staged.count("fsync") == files_and_folders + made_folders
