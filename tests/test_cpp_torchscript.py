"""C++ refuses the TorchScript archives that Python refuses, in the same words."""

from __future__ import annotations

import io
import random
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cpp import program
from tests.support.fuzz_torchscript import CHANGES
from tests.support.npz import Entry, archive
from tests.support.torch_pickle import Module, read, write
from tests.test_torchscript_archive import BLOCK, HARMLESS_LINES, HOSTILE_LINES
from vitaie.manifests.errors import BundleError
from vitaie.runtime._torchscript_archive import check_archive


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> bytes:
    return (small_bundle / "model.ts").read_bytes()


@pytest.fixture(scope="module")
def entries(model: bytes) -> list[Entry]:
    with zipfile.ZipFile(io.BytesIO(model)) as source:
        return [Entry(name, source.read(name)) for name in source.namelist()]


def with_member(entries: list[Entry], name: str, data: bytes) -> bytes:
    return archive([each._replace(data=data) if each.name == name else each for each in entries])


def judged_alike(archives: Iterator[bytes]) -> tuple[int, int]:
    """Assert that both say the same of each archive; return how many, and how many were good."""
    command = [program("tests/vitaie-check-archives")]
    count = good = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for data in archives:
            process.stdin.write(b"%d\n" % len(data) + data)
            process.stdin.flush()
            try:
                check_archive(memoryview(data), "model.ts")
                expected = "ok"
            except BundleError as error:
                expected = str(error)
            assert process.stdout.readline().decode("utf-8") == expected + "\n"
            count += 1
            good += expected == "ok"
        process.stdin.close()
        assert process.wait(60) == 0
    return count, good


def test_the_builders_archive_is_accepted(model: bytes, entries: list[Entry]) -> None:
    assert judged_alike(iter([model, archive(entries), archive([])])) == (3, 3)


def test_code_is_judged_alike(entries: list[Entry]) -> None:
    code = next(entry.data for entry in entries if entry.name == BLOCK)
    lines = [*HOSTILE_LINES, *HARMLESS_LINES]
    count, good = judged_alike(
        with_member(entries, BLOCK, code + line.encode("utf-8") + b"\n") for line in lines
    )
    assert count == len(lines) >= 70
    assert 0 < good <= len(HARMLESS_LINES)


def test_modules_are_judged_alike(entries: list[Entry]) -> None:
    pickled = next(entry.data for entry in entries if entry.name == "model/data.pkl")

    def changed() -> Iterator[bytes]:
        for number in range(30 * len(CHANGES)):
            tree = read(pickled)
            assert isinstance(tree, Module)
            CHANGES[number % len(CHANGES)](tree, random.Random(number))
            yield with_member(entries, "model/data.pkl", write(tree))

    count, good = judged_alike(changed())
    assert count == 30 * len(CHANGES)
    assert 0 < good < count


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with a few changed, cut out, put in or doubled."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(changed))
        end = min(place + chance.randrange(1, 20), len(changed))
        act = chance.randrange(5)
        if act == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif act == 1:
            changed[place] = chance.choice(b'()[]{}.,: ="_-0aQRtubcXKMJhjqr\x80\x81\x85\x86\x8a\n')
        elif act == 2:
            del changed[place:end]
        elif act == 3:
            changed[place:place] = changed[place:end]
        else:
            other = chance.randrange(len(changed))
            changed[place:end] = changed[other : other + end - place]
    return bytes(changed)


@pytest.mark.parametrize("suffix", [".py", ".pkl"])
def test_a_mutated_member_is_judged_alike(entries: list[Entry], suffix: str) -> None:
    members = [entry for entry in entries if entry.name.endswith(suffix)]

    def changed() -> Iterator[bytes]:
        for number in range(500):
            chance = random.Random(number)
            entry = chance.choice(members)
            yield with_member(entries, entry.name, mutated(entry.data, chance))

    count, good = judged_alike(changed())
    assert count == 500
    assert good < count


def test_a_mutated_archive_is_judged_alike(model: bytes) -> None:
    directory = int.from_bytes(model[-6:-2], "little")

    def changed() -> Iterator[bytes]:
        for number in range(300):
            chance = random.Random(number)
            yield model[:directory] + mutated(model[directory:], chance)
            yield mutated(model, chance)

    count, good = judged_alike(changed())
    assert count == 600
    assert 0 < good < count


def test_hostile_pickles_end_no_process(entries: list[Entry]) -> None:
    deep = b"c__torch__.a\nB\nq\0" + b"h\0)\x81}(X\1\0\0\0a" * 70_000
    long = b"X" + (500_000).to_bytes(4, "little") + b"a" * 500_000 + b"q\0"
    tails = (
        b"(" * 900_000,
        b"}(X\1\0\0\0a" * 100_000 + b"u" * 100_000,
        b")\x85" * 400_000,
        deep + b"u" * 70_000,
        deep + b"ub" * 70_000,
        long + b"h\0" * 200_000,
        long + b"}(h\0Nu" * 80_000,
        b"K\1" * 400_000 + b"t",
        b"(" + b"K\1" * 200_000 + b"tq\0" + b"r\1\0\0\0" * 9,
    )
    archives = (with_member(entries, "model/data.pkl", b"\x80\2" + tail + b".") for tail in tails)
    assert judged_alike(archives) == (len(tails), 0)
