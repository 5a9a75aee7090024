"""Whatever stops ``vitaie eval``, the same command goes on and ends with the same record."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import copy_bundle, reseal
from tests.support.evaluation import Eval, Result, files, record, start, timeless, wait_for
from vitaie.manifests.errors import DiskError
from vitaie.manifests.measurement import AccuracyMeasurement, to_bytes
from vitaie.runtime import _cli, _evaluate, _journal
from vitaie.runtime._evaluate import Progress, evaluate
from vitaie.runtime._journal import Interrupted, Journal

pytestmark = pytest.mark.usefixtures("cache")


def journal_sizes(bundle: Path, data: Path, folder: Path, **options: Any) -> tuple[Path, int]:
    """Return the record of a run that nothing interrupts, and how large its journal gets."""
    folder.mkdir()
    output, journal = folder / "record.json", folder / "a.journal"
    most = 0

    def look(now: Progress) -> None:
        nonlocal most
        most = max(most, journal.stat().st_size)

    def save(measurement: AccuracyMeasurement) -> None:
        output.write_bytes(to_bytes(measurement))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_journal, "WRITE_S", 0.0)
        evaluate(bundle, data, journal=journal, progress=look, save=save, **options)
    assert not journal.exists()
    return output, most


@pytest.mark.parametrize(("pairing", "kills"), [("paired", 2), ("unpaired", 5)])
def test_killed_at_any_moment_a_run_ends_with_the_same_record(
    digits_bundle: tuple[Path, Path], pictures: Path, tmp_path: Path, pairing: str, kills: int
) -> None:
    paired = pairing == "paired"
    bundle = digits_bundle[0]
    whole, size = journal_sizes(
        bundle, pictures, tmp_path / "whole", paired=paired, threads=1, batch_size=4
    )
    chance = random.Random(0)
    output = tmp_path / "record.json"
    journal = tmp_path / "record.json.journal"
    arguments = [bundle, "--data", pictures, "-o", output, "--threads", 1, "--batch-size", 4]
    arguments += [] if paired else ["--unpaired"]
    killed = 0
    for kill in range(kills):
        with start(*arguments) as process:
            wait_for(process, journal, int(size * (kill + chance.random()) / kills))
            process.kill()
        killed += process.returncode == -signal.SIGKILL
    assert 2 * killed >= kills  # the rest were done before they could be
    if not output.exists():
        with start(*arguments) as process:
            _, messages = process.communicate()
        assert process.returncode == 0, messages
        assert re.search(r"going on after [1-9]\d* of 600 images", messages)
    assert timeless(output) == timeless(whole)
    assert not journal.exists()


def interrupted(bundle: Path, data: Path, output: Path, after: int, **options: Any) -> None:
    """Run and stop, as by a kill, when so many images are done."""

    class Stop(Exception):
        pass

    def stop(now: Progress) -> None:
        if now.done >= after:
            raise Stop

    with pytest.raises(Stop):
        evaluate(bundle, data, journal=f"{output}.journal", progress=stop, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_does(
    digits_bundle: tuple[Path, Path], pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "record.json"
    arguments = (digits_bundle[0], "--data", pictures, "--unpaired", "-o", output)
    with start(*arguments, "--batch-size", 1) as process:
        wait_for(process, tmp_path / "record.json.journal", 4000)
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    match = re.fullmatch(
        r"E_INTERRUPTED: vitaie eval: interrupted\."
        r" Run the same command again: it goes on after (\d+) images\.",
        err.splitlines()[-1],
    )
    assert match is not None, err
    with start(*arguments, "--batch-size", 1) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"going on after {match[1]} of 600 images" in err
    assert out.splitlines()[-1].endswith("step is 600")


def test_what_an_interrupted_run_goes_on_after_is_what_is_in_its_journal(
    digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    """The batch of an unusable image was seen, and is seen again."""
    files(few)[3].write_bytes(b"no image")

    def interrupt(now: Progress) -> None:
        if now.done == 24:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"paired": False, "journal": tmp_path / "a.journal"}
    with pytest.raises(Interrupted) as caught:
        evaluate(digits_bundle[0], few, allow_missing=1, progress=interrupt, **options)
    assert caught.value.images == 16
    told: list[Progress] = []
    evaluate(digits_bundle[0], few, allow_missing=1, progress=told.append, **options)
    assert [now.done for now in told] == [16, 24, 32, 40]


def test_interrupted_once_the_record_is_written_nothing_is_left_to_do(
    cli: Eval,
    digits_bundle: tuple[Path, Path],
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "record.json"

    def interrupt(journal: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "remove", interrupt)
    result = cli(digits_bundle[0], "--data", few, "--unpaired", "-o", output)
    assert (result.code, result.out) == (130, "")
    assert result.err.splitlines()[-1].endswith(f"interrupted. The record is written: {output}.")
    assert len(record(output).images.path) == 40


@pytest.mark.parametrize(
    "change", ["image", "touched", "added", "batch size", "threads", "pairing", "target", "bundle"]
)
def test_a_changed_bundle_dataset_or_option_starts_anew_and_says_why(
    cli: Eval,
    digits_bundle: tuple[Path, Path],
    few: Path,
    tmp_path: Path,
    change: str,
) -> None:
    bundle = copy_bundle(digits_bundle[0], tmp_path / "bundle")
    output = tmp_path / "record.json"
    interrupted(bundle, few, output, 16, paired=False)
    arguments = {"--batch-size": 8, "--target": "cpu", "--threads": len(os.sched_getaffinity(0))}
    flags = ["--unpaired"]
    image = files(few)[3]
    if change == "image":
        status = image.stat()
        image.write_bytes(image.read_bytes())
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if it were not
    elif change == "touched":
        image.touch()
    elif change == "added":
        shutil.copyfile(image, image.with_name("zzzz.jpg"))
    elif change == "batch size":
        arguments["--batch-size"] = 4
    elif change == "threads":
        arguments["--threads"] = 3
    elif change == "pairing":
        flags = []
    elif change == "target":
        arguments["--target"] = _evaluate.SOURCE
    else:
        reseal(bundle, lambda whole: whole["source"].update(file="another.npz"))
    names = {"image": "dataset", "touched": "dataset", "added": "dataset"}
    given = [str(part) for pair in arguments.items() for part in pair]
    result = cli(bundle, "--data", few, "-o", output, *given, *flags)
    assert result.code == 0, result.err
    journal = f"{output}.journal"
    assert f"{journal}: starting anew, for another {names.get(change, change)}\n" in result.err
    assert "going on" not in result.err


def test_how_many_may_be_missing_starts_nothing_anew(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    files(few)[30].write_bytes(b"no image")
    arguments = (digits_bundle[0], "--data", few, "-o", tmp_path / "record.json", "--unpaired")
    assert cli(*arguments).code == 2
    result = cli(*arguments, "--allow-missing", 1)
    assert result.code == 0
    assert "going on after 24 of 40 images" in result.err


def test_a_run_without_a_record_has_its_journal_in_the_cache_and_removes_it(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, cache: Path
) -> None:
    image = files(few)[30]
    data = image.read_bytes()
    image.write_bytes(b"no image")
    arguments = (digits_bundle[0], "--data", few, "--unpaired")
    assert cli(*arguments).code == 2
    (journal,) = (cache / "journals").iterdir()
    image.write_bytes(data)
    result = cli(*arguments)
    assert result.code == 0
    assert f"{journal}: starting anew, for another dataset\n" in result.err
    assert list((cache / "journals").iterdir()) == []


def test_without_a_home_the_journal_must_be_named(
    cli: Eval,
    digits_bundle: tuple[Path, Path],
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "relative")
    arguments = (digits_bundle[0], "--data", few, "--unpaired")
    result = cli(*arguments)
    assert (result.code, result.err.split(":")[0]) == (2, "E_ARGUMENT")
    assert "--journal FILE" in result.err
    assert cli(*arguments, "--journal", tmp_path / "a.journal").code == 0


def test_a_second_run_on_a_journal_is_refused_while_the_first_goes_on(
    cli: Eval, digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path
) -> None:
    refused: list[Result] = []
    output = tmp_path / "record.json"

    def second(now: Progress) -> None:
        if now.done == 16:
            refused.append(cli(digits_bundle[0], "--data", few, "-o", output))

    evaluate(digits_bundle[0], few, journal=f"{output}.journal", progress=second, paired=False)
    assert [one.code for one in refused] == [4]
    assert refused[0].err.splitlines()[-1].startswith("E_JOURNAL_LOCKED: ")


def test_on_a_full_disk_the_run_stops_and_goes_on_when_there_is_room(
    digits_bundle: tuple[Path, Path], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_journal, "WRITE_S", 0.0)
    journal = tmp_path / "a.journal"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(now: Progress) -> None:
        if now.done == 16:
            room = journal.stat().st_size + 10
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))

    try:
        with pytest.raises(DiskError) as caught:
            evaluate(digits_bundle[0], few, journal=journal, progress=fill, paired=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.code, caught.value.exit_code) == ("E_DISK", 5)
    assert caught.value.where == str(journal)
    told: list[Progress] = []
    result = evaluate(digits_bundle[0], few, journal=journal, progress=told.append, paired=False)
    assert [now.done for now in told] == [16, 24, 32, 40]
    fresh = evaluate(digits_bundle[0], few, paired=False)
    assert result.measurement.images == fresh.measurement.images


def test_a_record_that_finds_no_room_costs_no_second_run(
    cli: Eval,
    digits_bundle: tuple[Path, Path],
    few: Path,
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "record.json"

    def full(path: Path, data: bytes) -> None:
        raise DiskError("E_DISK", path, got="No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_cli, "write_output", full)
        result = cli(digits_bundle[0], "--data", few, "-o", output, "--unpaired")
    assert (result.code, result.out) == (5, "")
    assert opened == ["onnxruntime-cpu-fp32"]
    result = cli(digits_bundle[0], "--data", few, "-o", output, "--unpaired")
    assert result.code == 0, result.err
    assert "going on after 40 of 40 images" in result.err
    assert opened == ["onnxruntime-cpu-fp32"]
    assert len(record(output).images.path) == 40
