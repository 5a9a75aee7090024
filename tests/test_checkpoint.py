"""A checkpoint is read as NumPy wrote it, known by its arrays, and means what timm takes it for."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from examples.make_checkpoint import make
from tests.support.npz import Arrays, Entry, archive, npy, random_arrays, save, tiny_card
from tests.support.numpy_vit import logits
from vitaie.builder._npz import Member
from vitaie.builder._open_file import OpenFile
from vitaie.builder._torchvision import import_torchvision
from vitaie.builder.checkpoint import (
    Checkpoint,
    check,
    describe,
    identify,
    layout,
    read_checkpoint,
)
from vitaie.manifests.card import Card, known_cards, load_card
from vitaie.manifests.errors import CheckpointError, StoreError

NAMES = [card.name for card in known_cards()]
MAKE = Path(__file__).parents[1] / "examples" / "make_checkpoint.py"


def assert_reads(path: Path, arrays: Arrays) -> None:
    """Assert that the file gives exactly these arrays, plain and contiguous."""
    with read_checkpoint(path) as checkpoint:
        assert dict(checkpoint.shapes) == {name: array.shape for name, array in arrays.items()}
        for name, array in arrays.items():
            read = checkpoint.array(name)
            np.testing.assert_array_equal(read, array, strict=True)
            assert read.flags.c_contiguous
            assert read.flags.writeable
        checkpoint.check_unchanged()


def test_what_savez_writes_is_read(tmp_path: Path) -> None:
    arrays = random_arrays(tiny_card(tmp_path / "card"))
    assert_reads(save(tmp_path / "checkpoint.npz", arrays), arrays)


def test_what_savez_compressed_writes_is_read(tmp_path: Path) -> None:
    arrays = random_arrays(tiny_card(tmp_path / "card"))
    arrays["cls"][...] = 0  # deflate's best case, where one input byte gives most
    values: dict[str, Any] = dict(arrays)
    np.savez_compressed(tmp_path / "checkpoint.npz", **values)
    assert_reads(tmp_path / "checkpoint.npz", arrays)


def test_arrays_larger_than_one_read_are_whole(tmp_path: Path) -> None:
    big = np.random.default_rng(0).standard_normal((3, 700, 301)).astype(np.float32)
    compressible = np.zeros((1024, 1025), np.float32)
    compressible[1000, 7] = 1
    arrays: Arrays = {"big": big, "compressible": compressible, "last": big[0].copy()}
    values: dict[str, Any] = dict(arrays)
    assert_reads(save(tmp_path / "stored.npz", arrays), arrays)
    np.savez_compressed(tmp_path / "deflated.npz", **values)
    assert_reads(tmp_path / "deflated.npz", arrays)


def test_fortran_order_is_read_and_put_in_order(tmp_path: Path) -> None:
    """``kernel=weight.T`` of a PyTorch weight is saved so."""
    arrays = random_arrays(tiny_card(tmp_path / "card"))
    transposed = {name: np.asfortranarray(array) for name, array in arrays.items()}
    path = save(tmp_path / "checkpoint.npz", transposed)
    with zipfile.ZipFile(path) as file:
        assert b"'fortran_order': True" in file.read("head/kernel.npy")
    assert_reads(path, arrays)


class _Pipe(io.RawIOBase):
    """A stream that cannot seek, as a zip is written to a socket or a bucket."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_with_data_descriptors_is_read(tmp_path: Path, method: int) -> None:
    arrays = random_arrays(tiny_card(tmp_path / "card"))
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", method) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    (tmp_path / "checkpoint.npz").write_bytes(pipe.data)
    assert_reads(tmp_path / "checkpoint.npz", arrays)


def test_zip64_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of an archive over 4 GiB, at the size of a small one."""
    arrays = random_arrays(tiny_card(tmp_path / "card"))
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = save(tmp_path / "checkpoint.npz", arrays)
    assert path.read_bytes().count(b"PK\6\6") == 1
    assert_reads(path, arrays)


@pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0"])
def test_each_npy_version_is_read(tmp_path: Path, version: bytes) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = archive([Entry("a.npy", npy("(2, 3)", array.tobytes(), version=version))])
    (tmp_path / "checkpoint.npz").write_bytes(data)
    assert_reads(tmp_path / "checkpoint.npz", {"a": array})


def test_size_and_sha256_are_of_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "c.npz", random_arrays(tiny_card(tmp_path / "card")))
    with read_checkpoint(str(path)) as checkpoint:
        assert checkpoint.size == path.stat().st_size
        assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert checkpoint.path == path


def test_file_is_closed_after_use_and_after_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "c.npz", random_arrays(tiny_card(tmp_path / "card")))
    (tmp_path / "text.npz").write_text("text")
    before = os.listdir("/proc/self/fd")
    with read_checkpoint(path) as checkpoint:
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    checkpoint.close()
    with pytest.raises(CheckpointError, match="E_CHECKPOINT_NOT_NPZ"):
        read_checkpoint(tmp_path / "text.npz")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("name", NAMES)
def test_variant_is_known_from_the_arrays_alone(tmp_path: Path, name: str) -> None:
    card = load_card(name)
    members = {
        key: Member(key, 0, 0, 0, 0, 0, shape, False) for key, shape in layout(card.model).items()
    }
    (tmp_path / "no-name").write_bytes(b"")
    with Checkpoint(OpenFile(tmp_path / "no-name"), members) as checkpoint:
        assert identify(checkpoint, known_cards()) == card
        check(checkpoint, card)


@pytest.mark.parametrize("name", NAMES)
def test_layout_has_the_cards_parameters(name: str) -> None:
    card = load_card(name)
    shapes = layout(card.model)
    assert len(shapes) == 8 + 16 * 12
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == card.parameters


@pytest.mark.parametrize("name", ["{checkpoint}", "{variant}.npz", "vit_base_patch8_224.npz"])
def test_the_name_of_the_file_says_nothing(tmp_path: Path, name: str) -> None:
    card = load_card("vit_tiny_patch16_224")
    path = tmp_path / name.format(checkpoint=card.checkpoint, variant=card.name)
    make(card, path)
    described = describe(path)
    assert described.variant == "vit_tiny_patch16_224"
    assert described.size == path.stat().st_size
    assert described.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (described.members, described.parameters) == (200, 5_717_416)


def test_card_of_ones_own_is_identified(tmp_path: Path) -> None:
    card = tiny_card(tmp_path / "card")
    path = save(tmp_path / "c.npz", random_arrays(card))
    assert describe(path, [*known_cards(), card]).variant == "tiny"


def test_memory_is_that_of_the_largest_array(tmp_path: Path) -> None:
    """Reading and hashing 23 MB takes the largest array, the flags of its values, and a buffer."""
    card = load_card("vit_tiny_patch16_224")
    path = make(card, tmp_path / "c.npz")
    largest = max(4 * int(np.prod(shape)) for shape in layout(card.model).values())
    tracemalloc.start()
    try:
        with read_checkpoint(path) as checkpoint:
            check(checkpoint, card)
            for name in checkpoint.shapes:
                checkpoint.array(name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert largest < peak < 1.25 * largest + 2**19


class _Recorder(dict[str, NDArray[Any]]):
    """Arrays that note which of them are asked for."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__(arrays)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> NDArray[Any]:
        self.read.add(name)
        return super().__getitem__(name)


def _timm_model(card: Card) -> Any:
    import_torchvision()
    transformer: Any = importlib.import_module("timm.models.vision_transformer")
    numbers = card.model
    return transformer.VisionTransformer(
        img_size=numbers.image_size,
        patch_size=numbers.patch_size,
        embed_dim=numbers.width,
        depth=numbers.depth,
        num_heads=numbers.heads,
        mlp_ratio=numbers.mlp_dim / numbers.width,
        num_classes=numbers.classes,
    ).eval()


def test_timm_reads_exactly_the_layouts_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tiny_card(tmp_path / "card")
    recorder = _Recorder(random_arrays(card))
    model = _timm_model(card)

    def load(*_: Any, **__: Any) -> _Recorder:
        return recorder

    helpers: Any = importlib.import_module("timm.models.vision_transformer")
    monkeypatch.setattr(np, "load", load)
    monkeypatch.setattr(helpers, "_load_npz_checkpoint", load, raising=False)
    model.load_pretrained("any.npz")
    assert recorder.read == set(layout(card.model))


def test_plain_numpy_agrees_with_timm_in_float64(tmp_path: Path) -> None:
    """The judge of the conversions is itself right."""
    card = tiny_card(tmp_path / "card")
    arrays = random_arrays(card, seed=3)
    path = save(tmp_path / "c.npz", arrays)
    images = np.random.default_rng(4).uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)
    torch: Any = importlib.import_module("torch")
    model = _timm_model(card)
    model.load_pretrained(str(path))
    with torch.no_grad():
        expected: NDArray[np.float64] = model.double()(torch.from_numpy(images).double()).numpy()
    ours = logits(arrays, images)
    assert ours.dtype == np.float64
    assert ours.shape == (3, 5)
    assert np.abs(ours - expected).max() < 1e-6 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).min() > 1e-2, "the images must matter"


def test_made_checkpoint_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    card = tiny_card(tmp_path / "card")
    contents = [
        make(card, tmp_path / f"{i}.npz", seed).read_bytes() for i, seed in enumerate((0, 0, 1))
    ]
    assert contents[0] == contents[1] != contents[2]


def test_made_checkpoint_has_no_two_equal_arrays_and_healthy_logits(tmp_path: Path) -> None:
    card = load_card("vit_tiny_patch16_224")
    path = make(card, tmp_path / "c.npz", seed=7)
    with np.load(path) as loaded:
        arrays: Arrays = {name: loaded[name] for name in loaded.files}
    assert len({array.tobytes() for array in arrays.values()}) == 200
    columns = np.linspace(-1, 1, 224, dtype=np.float32)
    images = np.stack([np.full((3, 224, 224), -0.5), np.tile(columns, (3, 224, 1))])
    scores = logits(arrays, images)
    assert 0.5 < scores.std() < 2
    assert np.abs(scores[0] - scores[1]).max() > 0.5


def test_made_checkpoint_never_replaces_a_file_unless_told(tmp_path: Path) -> None:
    card = tiny_card(tmp_path / "card")
    path = tmp_path / "c.npz"
    path.write_text("mine")
    with pytest.raises(StoreError, match="E_OUTPUT_EXISTS.*--force"):
        make(card, path)
    assert path.read_text() == "mine"
    make(card, path, force=True)
    assert describe(path, [card]).variant == "tiny"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c.npz", "card"]


def test_make_checkpoint_command_says_what_it_makes(tmp_path: Path) -> None:
    card = tiny_card(tmp_path / "card")
    command = [sys.executable, str(MAKE), str(card.path), "-o", "c.npz", "--seed", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "c.npz\n"
    assert "RANDOM weights" in done.stderr
    assert "40/40" in done.stderr
    assert (tmp_path / "c.npz").read_bytes() == make(card, tmp_path / "d.npz", 2).read_bytes()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (4, "")
    assert "Traceback" not in again.stderr


def test_checkpoints_need_neither_torch_nor_timm() -> None:
    code = (
        "import sys, vitaie.builder.checkpoint, examples.make_checkpoint;"
        "print(sorted({'torch', 'timm', 'torchvision', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=MAKE.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
