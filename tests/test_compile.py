"""Compiling for a device: what is published, and that a failure of any kind publishes nothing.

All of it runs on the strict double of the device's package, and says so.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import ascend
from tests.support.ascend_target import pass_for_a_device
from tests.support.bundles import copy_bundle, document, reseal
from tests.support.images import photographs
from tests.test_attach import files
from vitaie import runtime
from vitaie.builder import cli as builder_cli
from vitaie.builder import compile as compiling
from vitaie.builder import measure
from vitaie.manifests.contents import AFTER, BEFORE, OUTSIDE
from vitaie.manifests.manifest import Manifest
from vitaie.manifests.outputs import BundleOutput, CompileOutput, ErrorOutput, VerifyOutput
from vitaie.runtime import _ascend, _benchmark, _cli
from vitaie.runtime._command import run
from vitaie.runtime._comparison import SEEDED
from vitaie.runtime._model import DOUBLE

Call = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("cache")
COMMAND = Path(sys.executable).with_name("vitaie-build")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAST = _benchmark.Plan(
    runs=1, seconds=0.2, calls=8, settle_s=0, warm_up=(2, 0.0), turns=(3, 9), turns_s=0.1
)
"""Much too little to count: its records are INVALID, and take seconds in place of minutes."""

SUCCESS = "[SUCCESS] AIE inference result is the same as JIT!"
FAILURE = "[FAILURE] AIE inference result is not the same as JIT!"


@pytest.fixture(autouse=True)
def short_collections() -> Generator[None, None, None]:
    """Keep what all tests made before out of sight of a compile's looking for garbage."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """Return a version in a store of its own."""
    (tmp_path / "store" / "small_vit").mkdir(parents=True)
    return copy_bundle(small_bundle, tmp_path / "store" / "small_vit" / "1.0.0")


@pytest.fixture
def build(capsys: pytest.CaptureFixture[str]) -> Generator[Call, None, None]:
    """Run ``vitaie-build``, or ``vitaie`` where the command is its own, in this process."""
    handlers = [signal.getsignal(number) for number in SIGNALS]

    def call(command: str, *arguments: object) -> tuple[int, str, str]:
        ours = command in ("compile", "bundle", "audit", "attach", "gate")
        app, name = (builder_cli.app, "vitaie-build") if ours else (_cli.app, "vitaie")
        code = run(app, name, [command, *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    for number, handler in zip(SIGNALS, handlers):
        signal.signal(number, handler)


@pytest.fixture(name="package", params=ascend.PACKAGES)
def _package(request: pytest.FixtureRequest) -> Generator[Any, None, None]:
    yield from _installed(str(request.param))


@pytest.fixture(name="v100")
def _v100() -> Generator[Any, None, None]:
    yield from _installed("v100")


def _installed(profile: str) -> Generator[Any, None, None]:
    with ascend.installed(profile) as package:
        try:
            yield package
        finally:
            _ascend.finish()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photos") / "val", 12)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    def whatever(run: object) -> bool:
        del run  # it is not run again
        return True

    monkeypatch.setitem(_benchmark.PLANS, "quick", FAST)
    monkeypatch.setattr(_benchmark, "_stable", whatever)


@pytest.fixture
def at_costs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Time engines that take so many milliseconds at each level, by a clock of their own."""

    def use(costs: str) -> None:
        monkeypatch.setenv("VITAIE_TEST_COSTS", costs)
        quick = _benchmark.PLANS["quick"]
        worker = quick._replace(worker="tests.doubles.costs_by_level", settle_s=0)
        monkeypatch.setitem(_benchmark.PLANS, "quick", worker)

    return use


def manifest_of(bundle: Path) -> Manifest:
    return Manifest.from_bytes((bundle / "manifest.json").read_bytes())


def images(batch: int) -> NDArray[np.float32]:
    random = np.random.default_rng(batch)
    return random.uniform(-1, 1, (batch, 3, 32, 32)).astype(np.float32)


# What is published


def test_a_target_for_each_batch_size_is_published_in_the_next_minor_version(
    package: Any, build: Call, bundle: Path
) -> None:
    before, inodes = files(bundle), {path.stat().st_ino for path in bundle.rglob("*")}
    code, out, err = build("compile", bundle, "--target", "ascend310p3", "--optim-level", 1,
                           "--batch-size", 1, "--batch-size", 4, "--skip-measure",
                           "--json")  # fmt: skip
    assert code == 0, err
    shown = CompileOutput.model_validate_json(out)
    made, manifest = Path(shown.path), manifest_of(Path(shown.path))
    assert (made.name, manifest.version) == ("1.1.0", "1.1.0")
    assert files(bundle) == before
    assert os.listdir(bundle.parent) in (["1.0.0", "1.1.0"], ["1.1.0", "1.0.0"])
    assert inodes.isdisjoint(path.stat().st_ino for path in made.rglob("*"))
    after = files(made)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    names = ["ascend310p3-fp16-b1-o1", "ascend310p3-fp16-b4-o1"]
    assert set(after) - set(before) == {f"targets/{name}/model.ts" for name in names}
    assert [target.id for target in manifest.targets[2:]] == names
    for target, batch in zip(manifest.targets[2:], (1, 4)):
        assert (target.backend, target.device, target.precision, target.optim_level) == (
            *("torch_aie", "ascend310p3", "fp16", 1),
        )
        assert (target.batch_sizes, target.files) == ((batch,), (f"targets/{target.id}/model.ts",))
        assert (target.by_double, target.options["soc_version"]) == (True, "Ascend310P3")
        assert target.toolchain[package.__name__] == "double"
        assert (target.operators_outside, target.placement) == ((), 1.0)
        assert target.options[OUTSIDE] == 0
        assert 0 < int(target.options[AFTER]) < int(target.options[BEFORE]) + 200
        assert (target.tolerance.cosine, target.tolerance.max_rel_diff) == (0.999, 0.05)
        assert target.agreement.images == len(manifest.goldens)
        assert 0 < target.agreement.max_rel_diff < 0.01  # half precision was asked for
    compared = shown.compiled
    assert [each.id for each in compared] == names
    for each in compared:
        assert each.images == len(manifest.goldens) + SEEDED
        assert each.top1_equal == each.top5_equal == each.images
        assert 0.9999 < each.cosine <= 1
        assert 0 < each.distance < 0.01
        assert each.message == f"{SUCCESS} ({DOUBLE})"
    assert package._machine.calls.count("compile") == 2
    assert manifest.toolchain.command.endswith(
        "&& vitaie-build compile small_vit --target ascend310p3 --optim-level 1"
        " --precision fp16 --batch-size 1 --batch-size 4"
    )
    assert DOUBLE in err


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("t200", "rc1")]


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("package", ["v100", *LONG], indirect=True)
def test_the_whole_way_on_the_double(
    package: Any, build: Call, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    name = "ascend310p3-fp32-b4-o2"
    gates = ("--require", "agreement>=1.0", "--skip-measure")
    code, out, err = build("compile", bundle, "--precision", "fp32", "--batch-size", 4,
                           "--data", photos, *gates)  # fmt: skip
    assert code == 0, err
    lines = out.splitlines()
    made = Path(lines[-1])
    assert lines[-2] == f"{SUCCESS} ({DOUBLE})"
    assert lines[-3].startswith(f"{name}: cosine 1.000000, relative Euclidean distance ")
    assert package._machine.calls.count("compile") == 2  # level 2 tunes what 1 has tuned
    manifest = manifest_of(made)
    digest = manifest.targets[-1].target_digest
    assert [record.target_digest for record in manifest.accuracy] == [digest]
    assert [gate.verdict for gate in manifest.gates] == ["pass"]
    measured = [line for line in err.splitlines() if name in line]
    assert any(DOUBLE in line for line in measured)

    with runtime.load(made, target="cpu") as cpu, runtime.load(made, target=name) as model:
        assert np.abs(model.logits(images(6)) - cpu.logits(images(6))).max() < 1e-4
    with runtime.load(made) as model:
        assert model.target.device == "cpu"

    record = tmp_path / "accuracy.json"
    code, out, err = build("eval", made, "--data", photos, "--target", name, "-o", record,
                           "--batch-size", 2)  # fmt: skip
    assert (code, DOUBLE in err, record.exists()) == (0, True, True)
    code, out, err = build("bench", made, "--target", name, "--batch-size", 4)
    assert (code, DOUBLE in err) == (6, True)
    code, out, err = build("info", made)
    assert code == 0
    assert out.count(DOUBLE) == 3  # the target, its accuracy and the gate on it
    code, out, err = build("verify", made)
    assert (code, out.splitlines()[-1].split(",")[0]) == (1, "FALSE")
    assert f"false       goldens in {name}: {DOUBLE}" in out
    code, out, err = build("audit", made)
    assert (code, "DOES NOT" in out, out.count(DOUBLE)) == (0, False, 1)
    page = tmp_path / "report.html"
    code, out, err = build("report", made, "-o", page)
    assert code == 1
    assert DOUBLE in page.read_text(encoding="utf-8").replace("&#39;", "'")


@pytest.mark.long
def test_records_on_the_double_are_judged_and_attached_with_its_name(
    v100: Any, build: Call, bundle: Path, photos: Path, tmp_path: Path
) -> None:
    del v100
    name = "ascend310p3-fp16-b1-o0"
    gates = ("--require", "agreement>=1.0", "--skip-measure")
    code, out, err = build("compile", bundle, "--optim-level", 0, "--data", photos, *gates)
    assert code == 0, err
    made, record = Path(out.splitlines()[-1]), tmp_path / "accuracy.json"
    code, out, err = build("gate", made, "--target", name)
    assert (code, f"{name}: {DOUBLE}" in out) == (0, True)
    code, out, err = build("eval", made, "--data", photos, "--target", name, "-o", record,
                           "--batch-size", 2)  # fmt: skip
    assert code == 0, err
    code, out, err = build("attach", made, record)
    assert (code, f"{name}: {DOUBLE}" in out) == (0, True)
    assert len(manifest_of(Path(out.splitlines()[-1])).accuracy) == 2


def test_what_was_measured_of_other_targets_is_carried_over_and_of_the_same_id_goes(
    v100: Any, build: Call, bundle: Path, at_costs: Callable[[str], None]
) -> None:
    at_costs("10 10 10")
    code, out, err = build("compile", bundle, "--optim-level", 0, "--require", "fps>=1")
    assert code == 0, err
    first = manifest_of(Path(out.splitlines()[-1]))
    kept = first.performance[0].latencies
    code, out, err = build("compile", bundle.parent, "--optim-level", 1, "--skip-measure")
    assert code == 0, err
    second, path = manifest_of(Path(out.splitlines()[-1])), Path(out.splitlines()[-1])
    assert (second.version, len(second.targets)) == ("1.2.0", 4)
    assert second.performance == first.performance
    assert second.gates == first.gates
    assert (path / kept).read_bytes() == (path.with_name("1.1.0") / kept).read_bytes()
    code, out, err = build("compile", bundle.parent, "--optim-level", 0, "--skip-measure")
    assert code == 0, err
    third, path = manifest_of(Path(out.splitlines()[-1])), Path(out.splitlines()[-1])
    assert [target.id for target in third.targets[2:]] == [
        *("ascend310p3-fp16-b1-o1", "ascend310p3-fp16-b1-o0"),
    ]
    assert (len(third.performance), len(third.gates)) == (0, 0)
    assert not (path / kept).exists()


@pytest.mark.parametrize("sizes", [(2,), pytest.param((2, 1), marks=pytest.mark.long)])
def test_the_fastest_level_ships_and_the_table_is_kept(
    v100: Any,
    build: Call,
    bundle: Path,
    at_costs: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[int, ...],
) -> None:
    at_costs("20 10 15")
    monkeypatch.setattr(measure, "ROUNDS", 1)
    batches = [part for size in sizes for part in ("--batch-size", size)]
    code, out, err = build("compile", bundle, "--optim-level", "auto", *batches)
    assert code == 0, err
    made = Path(out.splitlines()[-1])
    manifest = manifest_of(made)
    names = [f"ascend310p3-fp16-b{size}-o1" for size in sizes]
    assert [target.id for target in manifest.targets[2:]] == names
    assert [level.optim_level for level in manifest.levels] == [0, 1, 2]
    assert [level.chosen for level in manifest.levels] == [False, True, False]
    assert len({level.target_digest for level in manifest.levels}) == 3
    assert {level.batch_size for level in manifest.levels} == {2}
    ids = {target.target_digest: target.id for target in manifest.targets}
    assert [(ids[speed.target_digest], speed.batch_size) for speed in manifest.performance] == [
        *zip(names, sizes),
    ]
    assert sorted(path.name for path in made.joinpath("targets").iterdir()) == sorted(names)
    assert sorted(os.listdir(bundle.parent)) == ["1.0.0", "1.1.0"]
    assert manifest.toolchain.command.count("--optim-level 1") == 1
    assert build("audit", made)[0] == 0
    with runtime.load(made) as model:
        assert model.target.device == "cpu"


def test_a_bundle_may_be_built_with_its_device_target_at_once(
    v100: Any, build: Call, small_checkpoint: tuple[Path, Path], tmp_path: Path
) -> None:
    card, npz = small_checkpoint
    arguments = (card, "--checkpoint", npz, "--store", tmp_path / "new", "--skip-measure")
    code, out, err = build("bundle", *arguments, "--target", "ascend310p3", "--optim-level", 0,
                           "--precision", "pref_fp16", "--batch-size", 2, "--json")  # fmt: skip
    assert code == 0, err
    shown = BundleOutput.model_validate_json(out)
    manifest = manifest_of(Path(shown.path))
    assert manifest.version == "1.0.0"
    assert [target.id for target in manifest.targets[2:]] == ["ascend310p3-pref_fp16-b2-o0"]
    assert manifest.targets[0].optim_level == 2  # the CPU's own
    assert [each.message for each in shown.compiled] == [f"{SUCCESS} ({DOUBLE})"]
    assert " && vitaie-build compile small_vit " in manifest.toolchain.command


# Operators outside the device


@pytest.fixture
def no_gelu(v100: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the double's compiler know one operator less."""
    module: Any = sys.modules[f"{v100.__name__}.compiler"]
    fewer = re.compile(module._SUPPORTED.pattern.replace("|gelu", ""))
    monkeypatch.setattr(module, "_SUPPORTED", fewer)


@pytest.mark.usefixtures("no_gelu")
def test_an_operator_that_is_not_supported_is_named_and_nothing_is_published(
    build: Call, bundle: Path
) -> None:
    code, out, _ = build("compile", bundle, "--skip-measure", "--json")
    error = ErrorOutput.model_validate_json(out).error
    assert (code, error.code) == (6, "E_COMPILE")
    assert "unsupported operators: aten::gelu" in str(error.got)
    assert "--allow-fallback" in error.hint
    assert os.listdir(bundle.parent) == ["1.0.0"]


@pytest.mark.usefixtures("no_gelu")
def test_what_falls_back_is_counted_recorded_and_shown(
    build: Call, bundle: Path, at_costs: Callable[[str], None]
) -> None:
    at_costs("10 10 10")
    code, out, err = build("compile", bundle, "--allow-fallback", "--optim-level", 0, "--json")
    assert code == 0, err
    shown = CompileOutput.model_validate_json(out)
    (compiled,) = shown.compiled
    target = manifest_of(Path(shown.path)).targets[-1]
    assert "aten::gelu" in target.operators_outside
    assert list(target.operators_outside) == sorted(set(target.operators_outside))
    assert target.options[OUTSIDE] == target.options[AFTER]  # the double does all or nothing
    assert target.placement == compiled.placement == shown.performance[0].placement == 0.0
    assert "outside the device are" in err
    code, out, _ = build("info", shown.path)
    assert "placement of 0.0% of the operators on the device; outside it are " in out
    code, out, _ = build("bench", shown.path, "--target", target.id)
    assert "placement  0.0% of the operators on the device" in out


# Compiled and source


def test_what_is_not_the_source_model_is_said_with_figures_and_not_published(
    v100: Any, build: Call, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on_device = _ascend.Engine.logits

    def off(self: _ascend.Engine, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        found = run_on_device(self, batch)
        return found + np.linspace(-0.1, 0.1, found.shape[1], dtype=np.float32)

    monkeypatch.setattr(_ascend.Engine, "logits", off)
    code, out, err = build("compile", bundle, "--skip-measure")
    assert (code, out.splitlines()[-1]) == (1, f"{FAILURE} ({DOUBLE})")
    assert "E_CLAIM_FALSE: ascend310p3-fp16-b1-o2" in err
    for figure in ("cosine 0.", "relative Euclidean distance", "largest difference", "top-1 "):
        assert figure in err.splitlines()[-1]
    assert os.listdir(bundle.parent) == ["1.0.0"]


def test_verify_compares_compiled_and_source_again_and_says_the_vendors_line(
    v100: Any, build: Call, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build("compile", bundle, "--skip-measure", "--optim-level", 0)[0] == 0
    real = bundle.with_name("1.1.0")
    pass_for_a_device(monkeypatch)
    code, out, err = build("verify", real)
    assert code == 0, out + err
    assert SUCCESS in out.splitlines()
    code, out, _ = build("verify", real, "--json")
    claims = {each.claim: each for each in VerifyOutput.model_validate_json(out).claims}
    claim = claims["comparison in ascend310p3-fp16-b1-o0"]
    assert (claim.status, claim.tier) == ("true", "reduced")
    count = SEEDED + len(manifest_of(real).goldens)
    assert f"top-1 {count} and top-5 {count} of {count} images alike" in claim.detail
    run_on_device = _ascend.Engine.logits

    def longer(self: _ascend.Engine, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return run_on_device(self, batch) * np.float32(1.045)  # no cosine and no first class sees

    monkeypatch.setattr(_ascend.Engine, "logits", longer)
    code, out, _ = build("verify", real)
    assert code == 1
    assert FAILURE in out.splitlines()


# Failures

ARGUMENTS = [
    (("--target", "ascend910b"), "E_TARGET_UNKNOWN", 2),
    (("--optim-level", 3), "E_ARGUMENT", 2),
    (("--precision", "int8"), "E_ARGUMENT", 2),
    (("--batch-size", 0), "E_ARGUMENT", 2),
    (("--batch-size", 2000), "E_ARGUMENT", 2),
    (("--batch-size", 1, "--batch-size", 1), "E_ARGUMENT", 2),
    (("--device-id", -1), "E_ARGUMENT", 2),
    (("--optim-level", "auto", "--skip-measure"), "E_ARGUMENT", 2),
    (("--require", "top1>84"), "E_GATE_OPERATOR", 2),
    (("--require", "fps>=1", "--skip-measure"), "E_GATE_UNDECIDABLE", 6),
    (("--data", "nowhere"), "E_DATASET_NOT_FOUND", 2),
]


@pytest.mark.parametrize(("arguments", "code", "exit_code"), ARGUMENTS)
def test_what_can_never_be_is_refused_before_the_device_is_asked(
    build: Call, bundle: Path, arguments: tuple[object, ...], code: str, exit_code: int
) -> None:
    got, out, _ = build("compile", bundle, *arguments, "--json")
    error = ErrorOutput.model_validate_json(out).error
    assert (error.code, got) == (code, exit_code)
    assert os.listdir(bundle.parent) == ["1.0.0"]


@pytest.mark.parametrize("command", ["compile", "bundle"])
def test_without_the_package_exactly_that_is_said_before_any_work(
    build: Call, bundle: Path, small_checkpoint: tuple[Path, Path], tmp_path: Path, command: str
) -> None:
    card, npz = small_checkpoint
    made = (card, "--checkpoint", npz, "--store", tmp_path / "new")
    first = made if command == "bundle" else (bundle,)
    code, out, err = build(command, *first, "--target", "ascend310p3", "--json")
    error = ErrorOutput.model_validate_json(out).error
    assert (code, error.code) == (6, "E_EXTRA_MISSING")
    assert error.got == "neither mindietorch nor torch_aie is installed: they come with the" \
        " device's CANN"  # fmt: skip
    assert "reference logits" not in err
    assert "copy" not in err
    assert not (tmp_path / "new").exists()


def test_a_package_without_cann_says_in_its_own_words_what_it_lacks(
    build: Call, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site" / "torch_aie"
    folder.mkdir(parents=True)
    lacks = "libascendcl.so: cannot open shared object file: No such file or directory"
    (folder / "__init__.py").write_text(f"raise ImportError({lacks!r})\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    code, out, _ = build("compile", bundle, "--json")
    error = ErrorOutput.model_validate_json(out).error
    assert (code, error.code, error.field) == (6, "E_DEVICE", "start")
    assert lacks in str(error.got)
    assert "doctor" in error.hint


STEPS = ("set_device", "compile", "load", "forward")


@pytest.mark.parametrize("step", STEPS)
def test_a_device_that_fails_at_any_step_leaves_the_store_as_it_was(
    v100: Any, build: Call, bundle: Path, step: str
) -> None:
    v100._machine.fail(step)
    code, out, _ = build("compile", bundle, "--skip-measure", "--json")
    error = ErrorOutput.model_validate_json(out).error
    assert (code, error.code) == (6, "E_COMPILE" if step == "compile" else "E_DEVICE")
    assert "error code 507018" in str(error.got)
    assert os.listdir(bundle.parent) == ["1.0.0"]
    if step == "forward":
        assert build("compile", bundle, "--skip-measure")[0] == 0


def test_any_class_that_a_compile_raises_is_an_error_with_its_words(
    v100: Any, build: Call, bundle: Path
) -> None:
    machine: Any = sys.modules[f"{v100.__name__}.machine"]
    classes: dict[str, type[Exception]] = machine.CLASSES
    options = ("--skip-measure", "--json", "--optim-level")
    for kind in (classes["unspeakable"], classes["finalized"]):
        v100._machine.fail("compile", kind("the compiler's own words"))
        code, out, _ = build("compile", bundle, *options, 0)
        error = ErrorOutput.model_validate_json(out).error
        assert (code, error.code) == (6, "E_COMPILE")
        assert kind.__name__ in str(error.got)
        assert os.listdir(bundle.parent) == ["1.0.0"]


@pytest.mark.parametrize(
    ("arguments", "tool", "code", "told"),
    [
        (("--device-id", 7), "", "E_DEVICE", "device 7, error code 107001"),
        ((), "| 0       910B3   | OK |", "E_TARGET_UNAVAILABLE", "Ascend910B3"),
    ],
)
def test_a_device_that_is_not_there_or_is_another_is_said(
    v100: Any,
    build: Call,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    tool: str,
    code: str,
    told: str,
) -> None:
    if tool:
        (tmp_path / "npu-smi").write_text(f"#!/bin/sh\necho '{tool}'\n", encoding="utf-8")
        (tmp_path / "npu-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    got, out, _ = build("compile", bundle, *arguments, "--skip-measure", "--json")
    error = ErrorOutput.model_validate_json(out).error
    assert (got, error.code) == (6, code)
    assert told in str(error.got)
    assert os.listdir(bundle.parent) == ["1.0.0"]


def test_a_precision_that_this_version_of_the_package_lacks_is_said_with_those_it_has(
    build: Call, bundle: Path
) -> None:
    for _ in _installed("t200"):
        code, out, _ = build("compile", bundle, "--precision", "pref_fp16", "--json")
        error = ErrorOutput.model_validate_json(out).error
        assert (code, error.code, error.expected) == (
            *(6, "E_TARGET_UNAVAILABLE", "fp16 or fp32 or pref_fp32"),
        )


def test_a_disk_without_room_is_said_before_anything_is_compiled(
    v100: Any, build: Call, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def full(descriptor: int, start: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    code, out, _ = build("compile", bundle, "--batch-size", 1, "--batch-size", 2,
                         "--skip-measure", "--json")  # fmt: skip
    assert (code, ErrorOutput.model_validate_json(out).error.code) == (5, "E_DISK")
    assert asked == [2 * sum(weight.length for weight in manifest_of(bundle).weights)]
    assert "compile" not in v100._machine.calls
    assert os.listdir(bundle.parent) == ["1.0.0"]


def test_a_compile_that_is_killed_leaves_nothing_to_see(bundle: Path, build: Call) -> None:
    before = files(bundle)
    killed = ascend.environment("v100", VITAIE_DOUBLE_FAULT="compile 2 kill")
    command = [str(COMMAND), "compile", str(bundle), "--skip-measure"]
    done = subprocess.run(command, env=killed, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in bundle.parent.glob("[0-9]*")] == ["1.0.0"]
    for _ in _installed("v100"):
        assert build("compile", bundle, "--skip-measure")[0] == 0
    assert sorted(os.listdir(bundle.parent)) == ["1.0.0", "1.1.0"]
    assert files(bundle) == before


def test_it_needs_torch_and_the_package_and_nothing_else_of_the_builder(bundle: Path) -> None:
    program = f"""
import sys
for name in ("timm", "torchvision", "onnx"):
    sys.modules[name] = None  # whoever imports it gets an ImportError
from vitaie.builder.cli import app
from vitaie.runtime._command import leave, run
leave(run(app, "vitaie-build", ["compile", {str(bundle)!r}, "--skip-measure", "--quiet"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ascend.environment("t200"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(bundle.with_name("1.1.0"))


def test_a_gate_that_is_not_passed_publishes_nothing_and_keeps_the_evidence(
    v100: Any, build: Call, bundle: Path, at_costs: Callable[[str], None], tmp_path: Path
) -> None:
    at_costs("10 10 10")
    code, out, _ = build("compile", bundle, "--require", "fps>=500", "--json")
    assert (code, ErrorOutput.model_validate_json(out).error.code) == (1, "E_GATE_FAILED")
    assert os.listdir(bundle.parent) == ["1.0.0"]
    (report,) = tmp_path.glob("store.refused/small_vit/report-*.json")
    assert json.loads(report.read_bytes())["target"] == "ascend310p3-fp16-b1-o2"


def test_only_the_newest_version_of_a_store_is_gone_on_from(
    v100: Any, build: Call, bundle: Path, tmp_path: Path
) -> None:
    copy_bundle(bundle, bundle.with_name("1.0.1"))
    reseal(bundle.with_name("1.0.1"), lambda whole: whole.update(version="1.0.1"))
    code, out, _ = build("compile", bundle, "--json")
    error = ErrorOutput.model_validate_json(out).error
    assert (code, error.code) == (4, "E_STORE_NEWER")
    assert error.hint.startswith("Compile the newest: ")
    copied = copy_bundle(bundle, tmp_path / "elsewhere")
    code, out, _ = build("compile", copied, "--json")
    assert (code, ErrorOutput.model_validate_json(out).error.code) == (2, "E_STORE_PATH")
    assert document(copied)["version"] == "1.0.0"


def test_the_tolerances_prove_something() -> None:
    for tolerance in compiling.TOLERANCES.values():
        assert tolerance["cosine"] is None or tolerance["cosine"] >= 0.99
        assert tolerance["max_rel_diff"] <= (1e-3 if tolerance["cosine"] is None else 0.1)
