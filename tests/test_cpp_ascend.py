"""The C++ loader on the double of the Ascend library: what Python compiled runs by every rule.

No test here says anything of a device: the library is the double's, and so is what compiled.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support import ascend_cpp
from tests.support.ascend import PACKAGES
from tests.support.ascend_cpp import BATCH, SHAPE, compile_bundle, target_id
from tests.support.bundles import copy_bundle, document, reseal
from tests.support.cpp import program
from tests.support.edge import TORCHSCRIPT, Result, edge, fails, python
from tests.support.images import PHOTOS
from vitaie import runtime
from vitaie.runtime._model import DOUBLE

CAT, ROCKET = PHOTOS / "cat.jpg", PHOTOS / "rocket.jpg"
NAME = target_id("fp32")
PROFILES = tuple(PACKAGES)
REAL = {"double": False, "soc_version": "Ascend310P3"}
VENDORS = {"mindietorch": "1.0.0"}
MARK = b"vitaie_tests_double\0"


class Site(NamedTuple):
    """A machine with a version of the library, and a bundle that this version compiled."""

    profile: str
    library: Path
    bundle: Path

    def environment(self, **more: str) -> dict[str, str]:
        return ascend_cpp.environment(self.library, self.profile, **more)

    def edge(self, *arguments: object, **variables: str) -> Result:
        return edge(*arguments, env=self.environment(**variables))

    def fails(self, code: str, exit_code: int, *arguments: object, **variables: str) -> str:
        return fails(code, exit_code, *arguments, env=self.environment(**variables))


@pytest.fixture(scope="module")
def sites(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Site]:
    folder = tmp_path_factory.mktemp("sites")
    return {
        profile: Site(
            profile,
            ascend_cpp.install(folder / profile / "site", profile),
            compile_bundle(small_bundle, folder / profile / "bundle", profile),
        )
        for profile in PROFILES
    }


@pytest.fixture
def site(sites: dict[str, Site]) -> Site:
    return sites["v100"]


# The whole way


@pytest.mark.parametrize(
    ("profile", "batch"), [("t200", BATCH), ("rc1", 1), ("v100", BATCH + 2), ("v100", 2 * BATCH)]
)
def test_what_python_compiled_is_the_same_as_the_source_in_any_batch(
    sites: dict[str, Site], profile: str, batch: int
) -> None:
    site = sites[profile]
    result = site.edge(
        "check", site.bundle, "--target", NAME, "--batch", batch, "--json", "--quiet"
    )
    found = json.loads(result.out)
    assert (result.code, found["target"], found["batch_size"]) == (0, NAME, batch)
    assert found["same"]
    assert found["difference"] < 1e-5
    assert found["message"] == "[SUCCESS] the tests' double's inference result is the same as JIT!"
    assert found["double"] is True
    assert result.err == f"small_vit 1.0.0: target {NAME}: {DOUBLE}\n"


def test_classes_are_those_of_the_source(site: Site) -> None:
    words = (CAT, ROCKET, "--json", "--quiet")
    there = site.edge("classify", site.bundle, *words, "--target", NAME, "--device-id", "1")
    here = site.edge("classify", site.bundle, *words, "--target", TORCHSCRIPT)
    assert (there.code, here.code) == (0, 0)
    assert there.err == f"small_vit 1.0.0: target {NAME}: {DOUBLE}\n"
    for one, other in zip(json.loads(there.out)["images"], json.loads(here.out)["images"]):
        for got, expected in zip(one["predictions"], other["predictions"]):
            assert got["label"] == expected["label"]
            assert got["probability"] == pytest.approx(expected["probability"], abs=1e-5)


def test_half_precision_is_held_to_the_cosine(small_bundle: Path, tmp_path: Path) -> None:
    bundle = compile_bundle(small_bundle, tmp_path / "bundle", "t200", "fp16")
    site = Site("t200", ascend_cpp.install(tmp_path / "site", "t200"), bundle)
    words = ("check", bundle, "--target", target_id("fp16"), "--json", "--quiet")
    found = json.loads(site.edge(*words).out)
    assert found["same"]
    assert 1e-5 < found["difference"] < 0.05, "it is rounded to half precision"
    assert found["least_cosine"] == 0.999 <= found["cosine"] < 1
    assert 0 < found["distance"] < 0.045
    assert found["top1"] == found["top5"] == found["images"]
    reseal(bundle, lambda whole: whole["targets"][-1]["tolerance"].update(cosine=0.9999999999))
    result = site.edge(*words)
    assert (result.code, json.loads(result.out)["same"]) == (1, False)


def test_several_threads_share_the_one_device(site: Site) -> None:
    command = [program("tests/vitaie-use-api"), site.bundle, "threads", "4", CAT, ROCKET, CAT]
    done = subprocess.run(
        [*map(str, command)],
        env=site.environment(VITAIE_TARGET=NAME),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"same\n"


def test_a_run_is_over_when_it_was_waited_for(site: Site, tmp_path: Path) -> None:
    """The double works when somebody waits for it: numbers that are right were waited for."""
    batch = np.random.default_rng(1).standard_normal((9, 3, 32, 32), np.float32)
    (tmp_path / "batch").write_bytes(batch.tobytes())
    command = [program("tests/vitaie-use-api"), site.bundle, "logits", tmp_path / "batch"]
    environment = site.environment(VITAIE_TARGET=NAME, VITAIE_DOUBLE_COST_MS="20")
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, check=True)
    with runtime.load(site.bundle, target=TORCHSCRIPT) as model:
        expected = model.logits(batch)
    found = np.frombuffer(done.stdout, np.float32).reshape(expected.shape)
    assert np.abs(found - expected).max() < 1e-5


# The double is said to be one


def test_info_says_what_python_says(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    found = site.edge("info", site.bundle)
    assert (found.code, found.out) == (0, python(capsys, "info", site.bundle).out)
    assert found.out.count(DOUBLE) == 1


def test_verify_does_not_pass_what_the_double_made(site: Site) -> None:
    for environment in (site.environment(), None):  # with the library, and without
        result = edge("verify", site.bundle, "--json", env=environment)
        claims = {each["claim"]: each for each in json.loads(result.out)["claims"]}
        assert result.code == 1
        assert [c for c in claims.values() if c["status"] == "false"] == [
            claims[f"goldens in {NAME}"]
        ]
        assert claims[f"goldens in {NAME}"]["detail"] == DOUBLE
        assert claims[f"goldens in {TORCHSCRIPT}"]["status"] == "true"
    expected = runtime.verify(site.bundle, target=TORCHSCRIPT)
    assert expected.holds


def test_auto_never_takes_what_the_double_made(site: Site) -> None:
    result = site.edge("classify", site.bundle, CAT)
    assert result.code == 0
    assert f"small_vit 1.0.0: target {TORCHSCRIPT}" in result.err


@pytest.mark.long
def test_bench_measures_it_and_claims_nothing(site: Site, tmp_path: Path) -> None:
    output = tmp_path / "record.json"
    result = site.edge("bench", site.bundle, "--target", NAME, "--device-id", 1, "-o", output)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1].startswith("E_CLAIM_FALSE: ")
    assert DOUBLE in result.err.splitlines()[-1]
    assert "3/3 outputs" in result.err, "it was timed"
    assert not output.exists()


def test_what_stays_on_the_device_cannot_be_timed(site: Site) -> None:
    words = ("bench", site.bundle, "--target", NAME, "--boundary", "device")
    line = site.fails("E_TARGET_UNAVAILABLE", 6, *words)
    assert "no way to wait for a device is documented in C++" in line


# What is missing, or is another


def test_without_the_library_it_is_said_what_is_missing(site: Site, tmp_path: Path) -> None:
    line = fails("E_TARGET_UNAVAILABLE", 6, "classify", site.bundle, CAT, "--target", NAME)
    assert "libtorch_aie.so: cannot open shared object file" in line
    nowhere = str(tmp_path / "libtorch_aie.so")
    words = ("check", site.bundle, "--target", NAME)
    assert nowhere in site.fails(
        "E_TARGET_UNAVAILABLE", 6, *words, VITAIE_TORCH_AIE_LIBRARY=nowhere
    )
    other = str(program("libvitaie.so"))  # a library, and none of the vendor's
    line = site.fails("E_TARGET_UNAVAILABLE", 6, *words, VITAIE_TORCH_AIE_LIBRARY=other)
    assert "undefined symbol: _ZN9torch_aie" in line


def test_the_library_is_found_on_the_loaders_path(site: Site) -> None:
    words = ("classify", site.bundle, CAT, "--target", NAME, "--quiet")
    found = site.edge(*words, VITAIE_TORCH_AIE_LIBRARY="", LD_LIBRARY_PATH=str(site.library.parent))
    assert found.code == 0, found.err


def test_a_double_that_lies_anywhere_is_still_known(site: Site, tmp_path: Path) -> None:
    """Without its package's metadata beside it, nothing but what it is tells."""
    library = tmp_path / "libtorch_aie.so"
    library.write_bytes(site.library.read_bytes())
    bundle = copy_bundle(site.bundle, tmp_path / "bundle")
    reseal(bundle, lambda whole: whole["targets"][-1].update(options=REAL, toolchain=VENDORS))
    line = site.fails(
        "E_TARGET_UNAVAILABLE",
        6,
        *("classify", bundle, CAT, "--target", NAME),
        VITAIE_TORCH_AIE_LIBRARY=str(library),
    )
    assert line.endswith("with mindietorch 1.0.0, and here is libtorch_aie.so double).")


def test_a_target_whose_double_is_said_to_be_none_is_refused(site: Site, tmp_path: Path) -> None:
    bundle = copy_bundle(site.bundle, tmp_path / "bundle")
    reseal(bundle, lambda whole: whole["targets"][-1]["options"].update(double=False))
    for words in (("classify", bundle, CAT, "--target", NAME), ("verify", bundle)):
        assert "targets[2].options.double" in site.fails("E_MANIFEST_VALUE", 1, *words)


VERSIONS: dict[str, tuple[dict[str, Any], str]] = {
    "package": (
        {"options": REAL, "toolchain": VENDORS},
        "mindietorch 1.0.0, and here is mindietorch double",
    ),
    "package of no known version": (
        {"options": REAL, "toolchain": {"mindietorch": "unknown"}},
        "mindietorch unknown, and here is mindietorch double",
    ),
    "name": (
        {"options": REAL, "toolchain": {"torch_aie": "6.3"}},
        "torch_aie 6.3, and here is mindietorch double",
    ),
    "CANN": (
        {"toolchain": {"mindietorch": "double", "cann": "8.0.RC1"}},
        "CANN 8.0.RC1, and here is 8.0.RC2",
    ),
    "chip": (
        {"options": {"double": True, "soc_version": "Ascend910B3"}},
        "chip Ascend910B3, and here is Ascend310P3",
    ),
}
"""As tests/test_ascend_target.py has them for Python."""


@pytest.mark.parametrize("what", VERSIONS)
def test_another_package_cann_or_chip_is_refused_before_the_module_is_parsed(
    site: Site, tmp_path: Path, what: str
) -> None:
    changes, message = VERSIONS[what]
    tool = tmp_path / "npu-smi"
    tool.write_text("#!/bin/sh\necho '| 0       310P3   | OK |'\n", encoding="utf-8")
    tool.chmod(0o755)
    (tmp_path / "version.cfg").write_text("version=8.0.RC2\n", encoding="utf-8")
    bundle = copy_bundle(site.bundle, tmp_path / "bundle")
    reseal(bundle, lambda whole: whole["targets"][-1].update(changes))
    line = site.fails(
        "E_TARGET_UNAVAILABLE",
        6,
        *("classify", bundle, CAT, "--target", NAME),
        PATH=f"{tmp_path}:/usr/bin:/bin",
        ASCEND_TOOLKIT_HOME=str(tmp_path),
        VITAIE_DOUBLE_FAULT="set_device 1",  # which would be E_DEVICE
    )
    assert message in line


def test_a_module_changed_by_one_byte_is_found_before_it_is_parsed(
    site: Site, tmp_path: Path
) -> None:
    bundle = copy_bundle(site.bundle, tmp_path / "bundle")
    file = bundle / "targets" / NAME / "model.ts"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    site.fails(
        "E_BUNDLE_FILE_DIGEST",
        1,
        *("classify", bundle, CAT, "--target", NAME),
        VITAIE_DOUBLE_FAULT="set_device 1",
    )


# A device that refuses


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("set_device 1", "start"),
        ("load 1", "load"),
        ("copy 1", "copy to the device"),
        ("forward 2", "forward"),
        ("copy 2", "copy from the device"),
    ],
)
def test_a_device_that_fails_is_not_the_bundles_fault(site: Site, fault: str, step: str) -> None:
    words = ("classify", site.bundle, CAT, ROCKET, "--target", NAME)
    result = site.edge(*words, VITAIE_DOUBLE_FAULT=fault)
    line = result.err.splitlines()[-1]
    assert (result.code, line.split(":")[0]) == (6, "E_DEVICE")
    assert line.startswith(f"E_DEVICE: mindietorch double: {step}: ")
    assert f"{fault.split()[0]}: error code 507018" in line


def test_what_finalize_throws_is_told_and_changes_nothing(site: Site) -> None:
    result = site.edge(
        *("classify", site.bundle, CAT, "--target", NAME), VITAIE_DOUBLE_FAULT="finalize 1"
    )
    assert "E_DEVICE: mindietorch double: finalize: " in result.err
    assert "aie_double::DeviceError: finalize: error code 507018" in result.err


def test_a_device_that_is_not_there_is_refused_with_the_packages_message(site: Site) -> None:
    words = ("classify", site.bundle, CAT)
    line = site.fails("E_DEVICE", 6, *words, "--target", NAME, "--device-id", "2")
    assert "aclrtSetDevice failed, device 2, error code 107001" in line
    site.fails("E_ARGUMENT", 2, *words, "--target", NAME, "--device-id", "-1")
    line = site.fails("E_ARGUMENT", 2, *words, "--target", TORCHSCRIPT, "--device-id", "1")
    assert "for targets that run on the CPU, got 1" in line


def test_a_command_that_fails_gives_the_device_back_too(site: Site, tmp_path: Path) -> None:
    """The double ends a process that does not."""
    nowhere = tmp_path / "nothing.jpg"
    site.fails("E_IMAGE_UNREADABLE", 2, "classify", site.bundle, nowhere, "--target", NAME)


# The double's own rules

RULES = {
    "none": "ok",
    "without the library": "aie_double",
    "load before set_device": "load before set_device",
    "set_device twice": "a device is set in this process already",
    "operator": "an npu tensor can only be copied: aten::add",
    "another device": "npu:1 is not the device that was set",
    "shape": "MIE08E000001: expected [4, 3, 32, 32]",
    "cpu tensor": "the input must be on npu, got cpu",
    "thread": "on another thread than set_device",
    "after finalize": "an exception that is none of the standard's",
}


def break_rule(site: Site, rule: str) -> subprocess.CompletedProcess[str]:
    module = site.bundle / "targets" / NAME / "model.ts"
    command = [program("tests/vitaie-use-double"), rule, site.library, module, SHAPE]
    return subprocess.run(
        [*map(str, command)], env=site.environment(), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_double_keeps_the_rule(site: Site, rule: str) -> None:
    done = break_rule(site, rule)
    assert done.returncode == 0
    assert RULES[rule] in done.stdout
    assert (done.stdout == "ok\n") == (rule == "none")


def test_the_double_takes_tensors_of_the_cpu_where_the_version_does(
    sites: dict[str, Site],
) -> None:
    assert break_rule(sites["t200"], "cpu tensor").stdout == "ok\n"


def test_a_process_that_does_not_finalize_is_ended(site: Site) -> None:
    done = break_rule(site, "without finalize")
    assert done.returncode == -6
    assert "the process ends without finalize" in done.stderr


# As if a device were there


def install_for_a_device(folder: Path) -> Path:
    """Put the double's library where it looks like the vendor's: nothing else runs here."""
    library = ascend_cpp.install(folder, "v100")
    data = library.read_bytes()
    assert data.count(MARK) >= 1
    library.write_bytes(data.replace(MARK, MARK.replace(b"double", b"device")))
    (metadata,) = folder.glob("*.dist-info")
    text = (metadata / "METADATA").read_text().replace("Version: double", "Version: 1.0.0")
    (metadata / "METADATA").write_text(text)
    metadata.rename(folder / "mindietorch-1.0.0.dist-info")
    return library


def test_verify_compares_a_devices_target_with_the_source_on_seeded_images(
    small_bundle: Path, tmp_path: Path
) -> None:
    changes = {"options": REAL, "toolchain": VENDORS}
    bundle = compile_bundle(small_bundle, tmp_path / "bundle", "v100", "fp16", **changes)
    site = Site("v100", install_for_a_device(tmp_path / "site"), bundle)
    words = ("verify", bundle, "--target", target_id("fp16"), "--json", "--quiet")

    def compared() -> tuple[int, dict[str, str]]:
        result = site.edge(*words)
        claims = {each["claim"]: each for each in json.loads(result.out)["claims"]}
        assert claims[f"goldens in {target_id('fp16')}"]["status"] in ("true", "false")
        return result.code, claims[f"comparison in {target_id('fp16')}"]

    code, claim = compared()
    assert (code, claim["status"]) == (0, "true"), claim
    count = BATCH + len(document(bundle)["goldens"])
    assert f"top-1 {count} and top-5 {count} of {count} images alike" in claim["detail"]
    assert "cosine 0.99" in claim["detail"]
    assert "relative Euclidean distance" in claim["detail"]
    assert "(at most 4.5e-02)" in claim["detail"]
    reseal(bundle, lambda whole: whole["targets"][-1]["tolerance"].update(cosine=0.9999999999))
    code, claim = compared()
    assert (code, claim["status"]) == (1, "false")
