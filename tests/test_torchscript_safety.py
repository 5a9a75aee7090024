"""No TorchScript runs that the builder did not make: canaries that write a file never do."""

from __future__ import annotations

import importlib
import pickle
import random
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import Document, copy_bundle, document, put, refused, reseal
from tests.support.canary import as_ours
from tests.support.npz import Entry, archive
from vitaie import runtime

torch: Any = importlib.import_module("torch")
ROOT = Path(__file__).parents[1]
TARGET = "torchscript-cpu-fp32"


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    return copy_bundle(small_bundle, tmp_path / "bundle")


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of load.ts and run.ts, which write "sings" into the working directory."""
    folder = tmp_path_factory.mktemp("canaries")
    program = [sys.executable, "-W", "ignore", "-m", "tests.support.canary"]
    subprocess.run([*program, str(folder), "sings"], check=True, cwd=ROOT)
    return folder


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What must not exist afterwards."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sings"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to give TorchScript to torch."""
    made: list[object] = []
    real = torch.jit.load

    def record(*arguments: object, **options: object) -> Any:
        made.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr("torch.jit.load", record)
    return made


def test_the_canaries_write_their_file_in_torch_itself(canaries: Path, canary: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.load(str(canaries / "load.ts"))
        assert canary.exists()
        canary.unlink()
        module = torch.jit.load(str(canaries / "run.ts"))
        assert not canary.exists()
        module(torch.zeros(1))
    assert canary.exists()


def test_a_canary_laid_out_as_ours_is_still_alive(
    tmp_path: Path, canaries: Path, canary: Path
) -> None:
    path = tmp_path / "ours.ts"
    path.write_bytes(as_ours(canaries / "load.ts"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.load(str(path))
    assert canary.exists()


@pytest.mark.parametrize("at", ["load", "run"])
def test_a_canary_put_in_place_is_refused_by_its_size(
    bundle: Path, canaries: Path, canary: Path, loads: list[object], at: str
) -> None:
    shutil.copy(canaries / f"{at}.ts", bundle / "model.ts")
    refused(bundle, "E_BUNDLE_FILE_SIZE", target=TARGET)
    assert (loads, canary.exists()) == ([], False)


@pytest.mark.parametrize("at", ["load", "run"])
def test_a_canary_whose_size_is_claimed_is_refused_by_its_digest(
    bundle: Path, canaries: Path, canary: Path, loads: list[object], at: str
) -> None:
    shutil.copy(canaries / f"{at}.ts", bundle / "model.ts")

    def keep_the_old_digest(whole: Document) -> None:
        row = next(row for row in whole["artifacts"] if row["path"] == "model.ts")
        row["sha256"] = old
        whole["weights"] = [{**whole["weights"][0], "shape": [1], "length": 4, "offset": 0}]

    old = next(row for row in document(bundle)["artifacts"] if row["path"] == "model.ts")["sha256"]
    reseal(bundle, keep_the_old_digest)
    refused(bundle, "E_BUNDLE_FILE_DIGEST", target=TARGET)
    assert (loads, canary.exists()) == ([], False)


@pytest.mark.parametrize("laid_out", ["by torch", "as ours"])
@pytest.mark.parametrize("at", ["load", "run"])
def test_a_canary_with_every_digest_right_is_refused(
    bundle: Path, canaries: Path, canary: Path, loads: list[object], at: str, laid_out: str
) -> None:
    saved = canaries / f"{at}.ts"
    data = saved.read_bytes() if laid_out == "by torch" else as_ours(saved)
    replace_model(bundle, data)
    error = refused(bundle, "E_TORCHSCRIPT_UNSAFE", target=TARGET)
    if laid_out == "as ours":
        assert error.got == {"load": "__getstate__", "run": "torch.save"}[at]
    assert (loads, canary.exists()) == ([], False)


def test_other_formats_of_torch_and_pickle_are_refused(
    bundle: Path, tmp_path: Path, loads: list[object]
) -> None:
    state = tmp_path / "state.pt"
    torch.save({"w": torch.zeros(3)}, state)
    old = tmp_path / "old.pt"
    torch.save({"w": torch.zeros(3)}, old, _use_new_zipfile_serialization=False)
    deflated = tmp_path / "deflated.ts"
    with (
        zipfile.ZipFile(bundle / "model.ts") as source,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    canary = tmp_path / "canary"
    call = pickle.dumps(_Call(exec, f"open({str(canary)!r}, 'w')"))
    for data in (state.read_bytes(), old.read_bytes(), deflated.read_bytes(), call):
        replace_model(bundle, data)
        refused(bundle, "E_TORCHSCRIPT_UNSAFE", target=TARGET)
    assert (loads, canary.exists()) == ([], False)


class _Call:
    def __init__(self, function: Any, *arguments: object) -> None:
        self.how = (function, arguments)

    def __reduce__(self) -> Any:
        return self.how


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_an_archive_cut_off_is_refused(bundle: Path, loads: list[object], kept: float) -> None:
    data = (bundle / "model.ts").read_bytes()
    replace_model(bundle, data[: int(len(data) * kept)])
    refused(bundle, "E_TORCHSCRIPT_UNSAFE", target=TARGET)
    assert loads == []


def test_an_archive_with_a_bit_flipped_is_refused_before_torch_sees_it(
    bundle: Path, loads: list[object]
) -> None:
    chance = random.Random(0)
    data = (bundle / "model.ts").read_bytes()
    for _ in range(30):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (bundle / "model.ts").write_bytes(flipped)
        refused(bundle, "E_BUNDLE_FILE_DIGEST", target=TARGET)
    assert loads == []


def test_what_torch_itself_refuses_is_the_bundles_fault(bundle: Path) -> None:
    """An archive of nothing but allowed members, which is no module."""
    entry = (bundle / "model.ts").read_bytes()
    with zipfile.ZipFile(bundle / "model.ts") as source:
        names = [name for name in source.namelist() if not name.endswith("data.pkl")]
        kept = bundle.parent / "kept.ts"
        with zipfile.ZipFile(kept, "w") as target:
            for name in names:
                target.writestr(name, source.read(name))
    assert len(kept.read_bytes()) < len(entry)
    replace_model(bundle, kept.read_bytes())
    refused(bundle, "E_BUNDLE_ENGINE", target=TARGET)


def test_modules_put_where_they_do_not_belong_end_no_process(bundle: Path) -> None:
    """Each is refused, or is the same model; torch itself dies of some."""
    program = [sys.executable, "-m", "tests.support.fuzz_torchscript"]
    done = subprocess.run(
        [*program, str(bundle / "model.ts"), "390"], capture_output=True, encoding="utf-8", cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    refused, accepted = map(int, done.stdout.split())
    assert refused + accepted == 390
    assert accepted >= 30  # those whose attributes only stand in another order


def test_a_bundle_without_tampering_reaches_torch_once(bundle: Path, loads: list[object]) -> None:
    runtime.load(bundle, target=TARGET).close()
    assert len(loads) == 1


def test_a_model_the_engine_cannot_run_is_the_bundles_fault(bundle: Path, canaries: Path) -> None:
    with zipfile.ZipFile(bundle / "model.ts") as source:
        code = "model/code/__torch__/torch/nn/modules/linear.py"
        entries = [Entry(name, source.read(name)) for name in source.namelist()]
    changed = [
        entry._replace(data=entry.data.replace(b"torch.linear", b"torch.matmul"))
        if entry.name.startswith(code[:-3])
        else entry
        for entry in entries
    ]
    replace_model(bundle, archive(changed))
    refused(bundle, "E_BUNDLE_ENGINE", target=TARGET)


def replace_model(bundle: Path, data: bytes) -> None:
    """Replace model.ts, every digest right; a table of one weight that lies inside any file."""

    def fit(whole: Document) -> None:
        whole["weights"] = [{**whole["weights"][0], "shape": [1], "length": 4, "offset": 0}]

    if len(data) < 4:
        data = bytes(4)
    (bundle / "model.ts").write_bytes(data)
    reseal(bundle, fit)


def test_the_default_engine_refuses_a_canary_too(
    bundle: Path, canaries: Path, canary: Path
) -> None:
    put(bundle, "model.ts", (canaries / "load.ts").read_bytes() + bytes(400_000))
    refused(bundle, "E_TORCHSCRIPT_UNSAFE")
    assert not canary.exists()
