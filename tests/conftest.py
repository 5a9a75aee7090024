"""The bundles that many tests read, each made once a session. None may write into them.

Nothing here imports the builder until a fixture asks for it: the runtime's tests also run
where torch is not installed, on a small bundle that was built elsewhere.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.evaluation import Eval
    from vitaie.manifests.manifest import Target
    from vitaie.runtime._bundle import Bundle
    from vitaie.runtime._model import Engine

# A job in the background ignores these, and so would every process that a test starts and signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
SMALL_CARD = """\
name = "small_vit"
labels = "small_vit.txt"
[model]
image_size = 32
patch_size = 16
width = 32
depth = 2
heads = 2
mlp_dim = 64
classes = 5
[preprocess]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[preprocess.timm]
resize = 36
[preprocess.modelzoo]
resize = 36
"""
SMALL_LABELS = "".join(f"c{index}\tclass {index}\n" for index in range(5))


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the card and the ``.npz`` of a tiny model with random weights."""
    from examples.make_checkpoint import make
    from vitaie.manifests.card import load_card

    folder = tmp_path_factory.mktemp("small_checkpoint")
    card = folder / "small_vit.toml"
    card.write_text(SMALL_CARD, encoding="utf-8")
    (folder / "small_vit.txt").write_text(SMALL_LABELS, encoding="utf-8")
    return card, make(load_card(card), folder / "small_vit.npz")


@pytest.fixture(scope="session")
def small_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the version folder of a tiny bundle: the one $VITAIE_TEST_BUNDLE names, or our own."""
    given = os.environ.get("VITAIE_TEST_BUNDLE")
    if given:
        return Path(given)
    from vitaie.builder.build import Options, build_bundle

    card, checkpoint = request.getfixturevalue("small_checkpoint")
    store = tmp_path_factory.mktemp("small_store")
    return build_bundle(str(card), checkpoint, Options(store=store)).path


@pytest.fixture(scope="session")
def digits_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo without its full-size model; return its folder and what it printed.

    Processes that share a session (pytest-xdist) share the demo too: the first one runs it.
    """
    home = tmp_path_factory.getbasetemp()
    shared = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home
    folder, printed = shared / "demo" / "out", shared / "demo-printed"
    folder.parent.mkdir(exist_ok=True)
    with open(shared / "demo-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            _run_demo(folder, printed)
    return folder, printed.read_text(encoding="utf-8")


def _run_demo(folder: Path, printed: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "--out", str(folder), "--skip-full-size", "--skip-speed"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed.write_text(done.stdout, encoding="utf-8")


@pytest.fixture(scope="session")
def digits_bundle(digits_demo: tuple[Path, str]) -> tuple[Path, Path]:
    """Return the bundle of a trained model, and its held-out images in class folders."""
    folder, _ = digits_demo
    return folder / "bundles" / "digits" / "1.0.0", folder / "digits" / "val"


PICTURES = 600


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders of digits of several sizes, turned a little, as JPEGs."""
    from tests.support.digit_pictures import make_pictures

    return make_pictures(PICTURES, tmp_path_factory.mktemp("pictures") / "digits")


@pytest.fixture
def few(pictures: Path, tmp_path: Path) -> Path:
    """Return a copy of 40 of the pictures, to spoil."""
    from tests.support.evaluation import copy_part

    return copy_part(pictures, tmp_path / "few", 4)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the user's cache, where predictions and journals are kept, into the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vitaie"


@pytest.fixture
def cli(cache: Path, capsys: pytest.CaptureFixture[str]) -> Generator[Eval, None, None]:
    """Run ``vitaie eval`` in this process."""
    from tests.support.evaluation import Result
    from vitaie.runtime._cli import app
    from vitaie.runtime._command import run

    del cache  # out of the way of what the command keeps
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]

    def call(*arguments: object) -> Result:
        code = run(app, "vitaie", ["eval", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    yield call
    for number, handler in zip(numbers, handlers):
        signal.signal(number, handler)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by each target whose engine an evaluation opens."""
    from vitaie.runtime import _model, _seeing

    ids: list[str] = []
    open_engine = _model.open_engine

    def spy(bundle: Bundle, target: Target, threads: int | None, device_id: int) -> Engine:
        ids.append(target.id)
        return open_engine(bundle, target, threads, device_id)

    monkeypatch.setattr(_seeing, "open_engine", spy)
    return ids
