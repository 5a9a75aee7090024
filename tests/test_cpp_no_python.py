"""``vitaie-edge`` on a machine that has its shared libraries, a bundle, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.bundles import copy_bundle
from tests.support.cpp import program
from tests.support.images import PHOTOS

SCRIPT = """
set -e
for path in $LIBRARIES; do
    mkdir -p "$ROOT$(dirname "$path")"
    : >"$ROOT$path"
    mount --bind "$path" "$ROOT$path"
done
mount --rbind /proc "$ROOT/proc"
exec env -i "$(command -v chroot)" "$ROOT" /vitaie/vitaie-edge "$@"
"""
"""Run as root of a user namespace: it mounts what it needs, and sees nothing else any more."""


def libraries(*binaries: Path) -> set[str]:
    """Return the paths of all shared libraries that programs load, the loader's among them."""
    told = subprocess.run(["ldd", *binaries], capture_output=True, check=True, text=True).stdout
    assert "not found" not in told
    return set(re.findall(r"(/\S+) \(0x", told))


@pytest.fixture(scope="module")
def device(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("device")
    for folder in ("vitaie", "proc", "out"):
        (root / folder).mkdir()
    for name in ("vitaie-edge", "libvitaie_torch.so"):
        shutil.copy(program(name), root / "vitaie")
    copy_bundle(small_bundle, root / "bundle")
    shutil.copy(PHOTOS / "cat.jpg", root / "cat.jpg")
    return root


def run(device: Path, *arguments: str) -> str:
    """Run a command with ``device`` as the root of all files and no environment."""
    binaries = [device / "vitaie" / name for name in ("vitaie-edge", "libvitaie_torch.so")]
    paths = libraries(*binaries)
    assert not any("libpython" in path for path in paths)
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", *arguments],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "ROOT": str(device),
            "LIBRARIES": " ".join(paths),
        },
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done
    files = [path for path in device.rglob("*") if path.is_file() and "proc" not in path.parts]
    assert not [path for path in files if path.suffix == ".py" or path.name.startswith("python")]
    return done.stdout


def test_verify_finds_every_claim_true_that_it_can_check(device: Path) -> None:
    verdict = json.loads(run(device, "verify", "/bundle", "--json"))
    statuses = {claim["claim"]: claim["status"] for claim in verdict["claims"]}
    assert verdict["holds"]
    assert statuses["goldens in torchscript-cpu-fp32"] == "true"
    assert statuses["golden 00 preprocessing"] == "true"


def test_info_classify_preprocess_and_check_work(device: Path) -> None:
    assert "small_vit 1.0.0" in run(device, "info", "/bundle")
    shown = json.loads(run(device, "classify", "/bundle", "/cat.jpg", "--json"))
    assert len(shown["images"][0]["predictions"]) == 5
    run(device, "preprocess", "/bundle", "/cat.jpg", "-o", "/out/cat.npy")
    assert (device / "out" / "cat.npy").stat().st_size == 128 + 4 * 3 * 32 * 32
    assert "[SUCCESS]" in run(device, "check", "/bundle", "--batch", "2")
