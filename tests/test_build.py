"""Building: what is published, and that a failure of any kind publishes nothing."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.make_checkpoint import make
from vitaie.builder import build
from vitaie.builder import module as module_of
from vitaie.builder.build import Options, build_bundle
from vitaie.manifests.card import load_card
from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import (
    BuildError,
    CardError,
    CheckpointError,
    ImageError,
    InputError,
    StoreError,
    TargetUnavailable,
    VitaieError,
)
from vitaie.manifests.manifest import Manifest
from vitaie.runtime import load, verify
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._environment import processor
from vitaie.runtime._goldens import check_golden_stages, run_goldens

Checkpoint = tuple[Path, Path]


def manifest_of(bundle: Path) -> Manifest:
    return Manifest.from_bytes((bundle / "manifest.json").read_bytes())


def test_a_bundle_says_what_it_was_made_from(
    small_bundle: Path, small_checkpoint: Checkpoint
) -> None:
    manifest = manifest_of(small_bundle)
    data = small_checkpoint[1].read_bytes()
    assert manifest.source.file == "small_vit.npz"
    assert manifest.source.size == len(data)
    assert manifest.source.sha256 == hashlib.sha256(data).hexdigest()
    assert manifest.name == "small_vit"
    assert manifest.version == "1.0.0"
    assert [target.id for target in manifest.targets] == list(build.TARGETS)
    assert manifest.toolchain.command == (
        "vitaie-build bundle small_vit.toml --checkpoint small_vit.npz"
        " --preprocess timm --optim-level 2"
    )


def test_goldens_are_photographs_with_their_credit(small_bundle: Path) -> None:
    goldens = manifest_of(small_bundle).goldens
    assert len(goldens) >= 3
    assert all(golden.credit and golden.width > 100 for golden in goldens)


def test_every_targets_own_logits_come_again_to_the_last_bit(small_bundle: Path) -> None:
    with open_bundle(small_bundle) as bundle:
        tensors, _ = check_golden_stages(bundle)
        for target in bundle.manifest.targets:
            agreement = target.agreement
            logits = run_goldens(bundle, target, tensors, agreement.threads).logits
            digests = tuple(sha256(row.tobytes()) for row in logits)
            assert digests == agreement.logits_sha256
            assert (agreement.images, agreement.features) == (len(tensors), processor().features)
        goldens = tuple(golden.logits_sha256 for golden in bundle.manifest.goldens)
        source = next(t for t in bundle.manifest.targets if t.backend == "torchscript")
        assert source.agreement.logits_sha256 == goldens, "the source model's are those that ship"


def test_the_next_build_is_the_next_patch(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    card, npz = small_checkpoint
    built = [build_bundle(str(card), npz, Options(store=tmp_path)).path for _ in range(2)]
    assert [path.name for path in built] == ["1.0.0", "1.0.1"]
    first, second = (manifest_of(path) for path in built)
    assert first.content_digest == second.content_digest
    assert first.manifest_digest != second.manifest_digest


@pytest.mark.parametrize("profile", ["timm", "modelzoo"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_profile_and_level_verifies(
    tmp_path: Path, small_checkpoint: Checkpoint, profile: Any, level: int
) -> None:
    card, npz = small_checkpoint
    options = Options(store=tmp_path, preprocess=profile, optim_level=level)
    built = build_bundle(str(card), npz, options)
    manifest = manifest_of(built.path)
    assert manifest.preprocess.profile == profile
    assert manifest.targets[0].optim_level == level
    assert verify(built.path).holds


def test_a_golden_of_the_users_own_may_be_png(
    tmp_path: Path, small_checkpoint: Checkpoint, small_bundle: Path
) -> None:
    card, npz = small_checkpoint
    own = tmp_path / "mine.png"
    shutil.copy(small_bundle / manifest_of(small_bundle).goldens[0].crop, own)
    built = build_bundle(str(card), npz, Options(store=tmp_path / "s", goldens=(own,)))
    (golden,) = manifest_of(built.path).goldens
    assert golden.source == "golden/00.source.png"
    assert (built.path / golden.source).read_bytes() == own.read_bytes()


def test_twenty_classes_of_the_users_own(tmp_path: Path) -> None:
    """What most people bring: a fine-tuned ViT-Base (here patch 32) with labels of their own."""
    card = tmp_path / "birds.toml"
    card.write_text(
        'name = "birds"\nlabels = "birds.txt"\n'
        "[model]\nimage_size = 224\npatch_size = 32\nwidth = 768\ndepth = 12\nheads = 12\n"
        "mlp_dim = 3072\nclasses = 20\n"
        "[preprocess]\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"
        "[preprocess.timm]\nresize = 248\n"
    )
    names = "".join(f"b{number:02d}\tbird number {number}\n" for number in range(20))
    (tmp_path / "birds.txt").write_text(names)
    npz = make(load_card(card), tmp_path / "birds.npz")
    built = build_bundle(str(card), npz, Options(store=tmp_path / "s"))
    with load(built.path) as model:
        photo = built.path / model.manifest.goldens[0].source
        predictions = model.classify(photo, top_k=20)
    assert {p.label for p in predictions} == {f"bird number {number}" for number in range(20)}
    assert sum(p.probability for p in predictions) == pytest.approx(1)


# What goes wrong publishes nothing


def expect_nothing(
    store: Path, error: type[VitaieError], code: str, exit_code: int, build_it: Any
) -> VitaieError:
    before = sorted(store.rglob("*")) if store.exists() else None
    with pytest.raises(error) as caught:
        build_it()
    assert caught.value.code == code
    assert caught.value.exit_code == exit_code
    assert "\n" not in str(caught.value)
    after = sorted(store.rglob("*")) if store.exists() else None
    assert before == after
    return caught.value


def test_an_unknown_variant_names_the_known_ones(tmp_path: Path) -> None:
    store = tmp_path / "s"
    error = expect_nothing(
        store,
        CardError,
        "E_CARD_UNKNOWN",
        2,
        lambda: build_bundle("vit_huge", tmp_path / "x.npz", Options(store=store)),
    )
    assert "vit_base_patch16_224" in str(error)


def test_a_missing_checkpoint_leaves_no_store(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    store = tmp_path / "s"
    expect_nothing(
        store,
        CheckpointError,
        "E_CHECKPOINT_UNREADABLE",
        2,
        lambda: build_bundle(str(small_checkpoint[0]), tmp_path / "none.npz", Options(store=store)),
    )


def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    store = tmp_path / "s"
    with pytest.raises(CheckpointError, match="E_CHECKPOINT_"):
        build_bundle("vit_tiny_patch16_224", small_checkpoint[1], Options(store=store))
    assert not store.exists()


def test_a_golden_that_is_no_image_is_named(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    card, npz = small_checkpoint
    store, text = tmp_path / "s", tmp_path / "notes.jpg"
    text.write_text("no image")
    error = expect_nothing(
        store,
        ImageError,
        "E_IMAGE_FORMAT",
        2,
        lambda: build_bundle(str(card), npz, Options(store=store, goldens=(text,))),
    )
    assert "notes.jpg" in str(error)


def test_a_version_that_exists_stays(tmp_path: Path, small_checkpoint: Checkpoint) -> None:
    card, npz = small_checkpoint
    options = Options(store=tmp_path / "s", version="1.2.3")
    build_bundle(str(card), npz, options)
    expect_nothing(
        tmp_path / "s",
        StoreError,
        "E_STORE_EXISTS",
        4,
        lambda: build_bundle(str(card), npz, options),
    )


def test_a_device_target_is_not_available_here(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    card, npz = small_checkpoint
    store = tmp_path / "s"
    expect_nothing(
        store,
        TargetUnavailable,
        "E_EXTRA_MISSING",
        6,
        lambda: build_bundle(str(card), npz, Options(store=store, targets=("ascend310p3",))),
    )


def test_a_target_that_nobody_knows_is_bad_input(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    card, npz = small_checkpoint
    store = tmp_path / "s"
    for target in ("gpu", "", "all", "auto", "ascend310p33", "cpu "):
        expect_nothing(
            store,
            InputError,
            "E_TARGET_UNKNOWN",
            2,
            lambda target=target: build_bundle(
                str(card), npz, Options(store=store, targets=("cpu", target))
            ),
        )


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"version": "1.0"}, "E_ARGUMENT"),
        ({"targets": ("gpu",)}, "E_TARGET_UNKNOWN"),
        ({"targets": ("ascend310p3-fp16-b1-o2",)}, "E_TARGET_UNKNOWN"),
        ({"targets": ("ascend310p3",)}, "E_EXTRA_MISSING"),
    ],
)
def test_a_wrong_option_is_refused_before_the_checkpoint_is_looked_for(
    tmp_path: Path, small_checkpoint: Checkpoint, options: dict[str, Any], code: str
) -> None:
    card, _ = small_checkpoint
    with pytest.raises(VitaieError) as caught:
        build_bundle(str(card), tmp_path / "none.npz", Options(store=tmp_path / "s", **options))
    assert caught.value.code == code


def test_a_golden_that_is_none_is_refused_before_the_store_is_touched(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    card, npz = small_checkpoint
    options = Options(store=tmp_path / "none" / "s", goldens=(tmp_path / "none.jpg",))
    with pytest.raises(ImageError):
        build_bundle(str(card), npz, options)


def test_a_date_that_is_no_number_is_refused(
    tmp_path: Path, small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, npz = small_checkpoint
    store = tmp_path / "s"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    expect_nothing(
        store,
        InputError,
        "E_ARGUMENT",
        2,
        lambda: build_bundle(str(card), npz, Options(store=store)),
    )


@pytest.mark.parametrize(("epoch", "year"), [("0", "1970"), ("4294967296", "2106")])
def test_the_date_may_be_given(
    tmp_path: Path,
    small_checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    epoch: str,
    year: str,
) -> None:
    card, npz = small_checkpoint
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    built = build_bundle(str(card), npz, Options(store=tmp_path))
    assert manifest_of(built.path).toolchain.created.startswith(year)


def test_a_graph_that_disagrees_is_not_published(
    tmp_path: Path, small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, npz = small_checkpoint
    from vitaie.builder import onnx_graph

    monkeypatch.setattr(onnx_graph, "_EPSILON", 1e-2)
    store = tmp_path / "s"
    error = expect_nothing(
        store,
        BuildError,
        "E_BUILD_DISAGREES",
        1,
        lambda: build_bundle(str(card), npz, Options(store=store)),
    )
    assert build.ONNX_TARGET in str(error)


@pytest.mark.parametrize(
    ("limit", "size", "line"),
    [
        (resource.RLIMIT_FSIZE, 100_000, "E_DISK: model.ts: .*File too large"),
        (resource.RLIMIT_FSIZE, 0, "E_DISK: TMPDIR: .*No usable temporary directory"),
        (resource.RLIMIT_AS, 700 * 2**20, "E_MEMORY: vitaie-build: .*700 MiB allowed"),
    ],
)
def test_a_limit_that_ends_torch_is_met_before_it(
    tmp_path: Path, small_checkpoint: Checkpoint, limit: int, size: int, line: str
) -> None:
    """torch aborts when a write fails or memory is refused while it is imported."""
    card, npz = small_checkpoint
    vitaie_build = Path(sys.executable).with_name("vitaie-build")
    arguments = ["--checkpoint", str(npz), "--store", str(tmp_path / "s"), "--quiet"]
    arguments.append("--skip-measure")
    inherited = "TORCHINDUCTOR_CACHE_DIR"  # which torch sets where it is imported, as here
    done = subprocess.run(
        [vitaie_build, "bundle", card, *arguments],
        capture_output=True,
        encoding="utf-8",
        env={name: value for name, value in os.environ.items() if name != inherited},
        preexec_fn=lambda: resource.setrlimit(limit, (size, size)),
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert re.match(line, done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_checkpoint_that_changes_meanwhile_is_refused(
    tmp_path: Path, small_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, _ = small_checkpoint
    npz = tmp_path / "copy.npz"
    shutil.copy(small_checkpoint[1], npz)

    def convert_then_change(*arguments: Any) -> Any:
        module = module_of.convert(*arguments)
        with open(npz, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"x")
        return module

    monkeypatch.setattr(build, "convert", convert_then_change)
    store = tmp_path / "s"
    expect_nothing(
        store,
        CheckpointError,
        "E_CHECKPOINT_CHANGED",
        2,
        lambda: build_bundle(str(card), npz, Options(store=store)),
    )


def test_weights_that_overflow_are_not_published(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    """Finite arrays can still give logits that are not; such a model is no model."""
    card, _ = small_checkpoint
    npz = tmp_path / "huge.npz"
    with np.load(small_checkpoint[1]) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["head/kernel"] = np.full_like(changed["head/kernel"], 3e38)
    np.savez(npz, **changed)
    store = tmp_path / "s"
    expect_nothing(
        store,
        CheckpointError,
        "E_CHECKPOINT_LOGITS",
        2,
        lambda: build_bundle(str(card), npz, Options(store=store)),
    )


def test_a_full_disk_is_said_and_nothing_is_left(
    tmp_path: Path, small_checkpoint: Checkpoint
) -> None:
    """A file system of 192 KiB, mounted in a namespace of its own: the bundle does not fit."""
    card, npz = small_checkpoint
    (tmp_path / "disk").mkdir()
    mounted = 'mount -t tmpfs -o size=192k none disk && "$@"; code=$?; ls -A disk; exit $code'
    command = [str(Path(sys.executable).parent / "vitaie-build"), "bundle", str(card)]
    command += ["--checkpoint", str(npz), "--store", "disk/s", "--quiet", "--skip-measure"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted, "sh", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("E_DISK: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == "", "something was left in the store"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_build_leaves_nothing_to_see(
    tmp_path: Path, small_checkpoint: Checkpoint, number: signal.Signals
) -> None:
    card, npz = small_checkpoint
    command = Path(sys.executable).parent / "vitaie-build"
    arguments = [str(command), "bundle", str(card), "--checkpoint", str(npz), "--store", "s"]
    arguments.append("--skip-measure")
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("s/small_vit/.staging-*/model.ts")):
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("s/small_vit/[0-9]*"))
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert not (tmp_path / "s").exists()
    built = build_bundle(str(card), npz, Options(store=tmp_path / "s"))
    assert built.path.name == "1.0.0"
    assert sorted(os.listdir(tmp_path / "s" / "small_vit")) == ["1.0.0"]
