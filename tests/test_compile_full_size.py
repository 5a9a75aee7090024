"""All five ViT-Base variants at full size, compiled on the double in every profile, the whole way.

Random weights in the real layout; what runs is the double's arithmetic, and no device's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.make_checkpoint import make
from tests.support import ascend
from tests.support.bundles import copy_bundle
from tests.support.images import PHOTOS
from tests.test_full_size import VARIANTS
from vitaie.manifests.card import load_card
from vitaie.manifests.outputs import BenchOutput, CompileOutput, EvalOutput
from vitaie.runtime._model import DOUBLE

pytestmark = pytest.mark.long
BIN = Path(sys.executable).parent


def command(
    profile: str, code: int, name: str, *arguments: object
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(BIN / name), *map(str, arguments)],
        env=ascend.environment(profile),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module", params=VARIANTS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of a variant, for the CPU alone."""
    folder = tmp_path_factory.mktemp(str(request.param))
    card = load_card(str(request.param))
    checkpoint = make(card, folder / card.checkpoint)
    arguments = ("--checkpoint", checkpoint, "--store", folder / "s", "--skip-measure", "--quiet")
    done = command("v100", 0, "vitaie-build", "bundle", card.name, *arguments)
    checkpoint.unlink()
    return Path(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("profile", ascend.PACKAGES)
@pytest.mark.usefixtures("cache")
def test_a_variant_goes_the_whole_way_on_the_double(
    built: Path, profile: str, tmp_path: Path
) -> None:
    home = tmp_path / "s" / built.parent.name
    home.mkdir(parents=True)
    bundle = copy_bundle(built, home / built.name)
    data = tmp_path / "data" / "0"
    data.mkdir(parents=True)
    for photo in sorted(PHOTOS.glob("*.jpg"))[:2]:
        (data / photo.name).write_bytes(photo.read_bytes())

    made = command(profile, 0, "vitaie-build", "compile", bundle, "--target", "ascend310p3",
                   "--optim-level", 2, "--precision", "fp16", "--batch-size", 2, "--data",
                   data.parent, "--skip-measure", "--json")  # fmt: skip
    shown = CompileOutput.model_validate_json(made.stdout)
    (compiled,) = shown.compiled
    assert (compiled.id, compiled.double) == ("ascend310p3-fp16-b2-o2", True)
    assert compiled.placement == 1.0
    assert compiled.cosine > 0.999
    # Random weights have near ties: half precision may decide one, within what is allowed.
    assert compiled.message.startswith("[SUCCESS]")
    assert compiled.images - 1 <= compiled.top1_equal <= compiled.images
    assert DOUBLE in made.stderr
    assert shown.accuracy[0].target_digest == compiled.target_digest

    options = ("--target", compiled.id, "--json")
    done = command(profile, 0, "vitaie", "eval", shown.path, "--data", data.parent, *options)
    assert EvalOutput.model_validate_json(done.stdout).target_digest == compiled.target_digest
    assert DOUBLE in done.stderr
    done = command(profile, 1, "vitaie", "verify", shown.path)
    assert f"goldens in {compiled.id}: {DOUBLE}" in done.stdout
    done = command(profile, 0, "vitaie-build", "audit", shown.path)
    assert "FOLLOWS" in done.stdout
    page = tmp_path / "report.html"
    command(profile, 1, "vitaie", "report", shown.path, "-o", page)
    assert DOUBLE in page.read_text(encoding="utf-8").replace("&#39;", "'")


@pytest.mark.usefixtures("cache")
def test_a_variant_is_timed_on_the_double(built: Path, tmp_path: Path) -> None:
    home = tmp_path / "s" / built.parent.name
    home.mkdir(parents=True)
    bundle = copy_bundle(built, home / built.name)
    arguments = ("--optim-level", 0, "--precision", "fp32", "--skip-measure", "--quiet")
    done = command("v100", 0, "vitaie-build", "compile", bundle, *arguments)
    made = done.stdout.splitlines()[-1]
    done = subprocess.run(
        [str(BIN / "vitaie"), "bench", made, "--target", "ascend310p3-fp32-b1-o0", "--json"],
        env=ascend.environment("v100"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 6), done.stderr  # a loaded machine is not stable
    shown = BenchOutput.model_validate_json(done.stdout)
    assert (shown.placement, shown.calls >= 64) == (1.0, True)
    assert DOUBLE in done.stderr
