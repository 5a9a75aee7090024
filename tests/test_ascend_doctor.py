"""The doctor says what a machine lacks for an Ascend target, and what to do about each gap.

The chips are a script's and the package is the double: no test here has seen a device.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support import ascend
from vitaie.builder import cli
from vitaie.builder.doctor import describe_ascend, examine
from vitaie.manifests.outputs import AscendOutput, DoctorOutput, TargetOutput
from vitaie.runtime import _ascend_machine
from vitaie.runtime._command import run

# As drivers of the family print it; the columns after the name differ between them.
TABLE = """\
+--------------------------------------------------------------------------------------------+
| npu-smi 23.0.0                           Version: 23.0.0                                   |
+-------------------------------+-----------------+------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)   Hugepages-Usage   |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)            |
+===============================+=================+==========================================+
| 0       310P3                 | OK              | NA           47        0     / 0         |
| 0       0                     | 0000:01:00.0    | 0            1530 / 21534                |
+===============================+=================+==========================================+
| 1       {second:<21} | OK              | NA           45        0     / 0         |
| 0       1                     | 0000:02:00.0    | 0            1529 / 21534                |
+===============================+=================+==========================================+
"""


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _ascend_machine.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(name="tools")
def _tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture(name="double")
def _double(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """Have the double found here and by the processes that the doctor starts."""
    monkeypatch.setenv("PYTHONPATH", str(ascend.FOLDER / "v100"))
    with ascend.on_path("v100"):
        yield


def write_tool(folder: Path, text: str, code: int = 0) -> None:
    tool = folder / "npu-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n", encoding="utf-8")
    tool.chmod(0o755)


def gaps(found: AscendOutput) -> dict[str, str]:
    return {row.gap: row.do for row in found.gaps}


def test_chips_are_those_that_npu_smi_shows(tools: Path) -> None:
    write_tool(tools, TABLE.format(second="310P3"))
    machine = _ascend_machine.look()
    assert machine.tool == str(tools / "npu-smi")
    assert machine.socs == ("Ascend310P3", "Ascend310P3")
    assert machine.complaint == ""
    write_tool(tools, TABLE.format(second="910B3"))
    assert _ascend_machine.look().socs == ("Ascend310P3", "Ascend910B3")


@pytest.mark.parametrize(
    ("text", "code", "complaint"),
    [
        ("dcmi module initialize failed. ret is -8005", 1, "ended with 1: dcmi module"),
        ("a table of another kind", 0, "no chip that is understood"),
    ],
)
def test_an_npu_smi_that_shows_no_chip_is_a_gap(
    tools: Path, text: str, code: int, complaint: str
) -> None:
    write_tool(tools, text, code)
    found = examine().ascend
    assert found.socs == []
    assert any(complaint in gap for gap in gaps(found))


def of_the_device() -> TargetOutput:
    return next(item for item in examine().targets if item.id == "ascend310p3")


def test_what_the_devices_target_needs_is_said(tools: Path) -> None:
    assert not of_the_device().builds
    assert of_the_device().needs.startswith("neither mindietorch nor torch_aie is installed")
    (tools / "torch_aie").mkdir()
    (tools / "torch_aie" / "__init__.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(tools)])
        write_tool(tools, TABLE.format(second="310P3"))
        assert (of_the_device().builds, of_the_device().needs) == (True, "")
        write_tool(tools, TABLE.format(second="910B3").replace("310P3", "310B1"))
        assert of_the_device().needs == "the chip Ascend310P3: here is Ascend310B1, Ascend910B3"


@pytest.mark.usefixtures("double")
def test_the_double_is_no_device_to_build_for() -> None:
    assert not of_the_device().runs
    assert of_the_device().needs == "a device: mindietorch is the tests' double"


def test_another_chip_is_a_gap(tools: Path) -> None:
    write_tool(tools, TABLE.format(second="910B3").replace("310P3", "310B1"))
    assert gaps(examine().ascend)["the chip is Ascend310B1, Ascend910B3"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("version.cfg", "# version: 1.0\ntoolkit_running_version=[7.0.RC1:8.0.RC2]\n"),
        ("aarch64-linux/ascend_toolkit_install.info", "package_name=x\nversion=8.0.RC2\n"),
        ("compiler/version.info", "Version=8.0.RC2\n"),
    ],
)
def test_cann_says_its_version_in_one_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    file = tmp_path / "toolkit" / name
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(tmp_path / "toolkit"))
    found = examine().ascend
    assert found.cann == "8.0.RC2"
    assert found.toolkit == str(tmp_path / "toolkit")
    assert found.environment == {"ASCEND_TOOLKIT_HOME": str(tmp_path / "toolkit")}


def test_a_cann_without_a_version_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert f"{tmp_path} does not say its version" in gaps(examine().ascend)


def test_a_machine_with_nothing_lacks_everything_and_hears_what_to_do(tools: Path) -> None:
    found = examine().ascend
    assert (found.package, found.socs, found.cann, found.double) == (None, [], "unknown", False)
    lacking = " ".join(gaps(found))
    for what in ("/dev/davinci0", "npu-smi", "set_env.sh", "mindietorch or torch_aie"):
        assert what in lacking
    assert all(do for do in gaps(found).values())
    text = "\n".join(describe_ascend(found))
    assert text.count("to do:") == len(found.gaps) == 4
    assert list(tools.iterdir()) == []


@pytest.mark.usefixtures("double")
def test_the_double_is_told_from_the_package_and_is_a_gap() -> None:
    found = examine().ascend
    assert (found.package, found.package_version, found.double) == ("mindietorch", "double", True)
    assert "mindietorch is the tests' double: it runs on no device" in gaps(found)


@pytest.mark.usefixtures("double")
def test_a_probe_compiles_and_runs_and_says_that_the_double_is_no_device(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(cli.app, "vitaie-build", ["doctor", "--probe"]) == 6
    printed = capsys.readouterr()
    assert "from the CPU's logits (the tests' double: no device)" in printed.out
    assert "E_DEVICE: device 0: probe:" in printed.err
    assert "no device was asked" in printed.err
    assert run(cli.app, "vitaie-build", ["doctor", "--probe", "--json"]) == 6
    document = DoctorOutput.model_validate_json(capsys.readouterr().out)
    assert document.ascend.probe is not None
    assert (document.ascend.double, document.ascend.probe.error) == (True, "")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("forward 1", "error code 507018"),
        ("compile 1", "mindietorch double: compile: "),
        ("compile 1 kill", "the process ended with -9"),
        ("set_device 1", "start"),
    ],
)
def test_a_probe_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, fault: str, error: str
) -> None:
    monkeypatch.setenv("VITAIE_DOUBLE_FAULT", fault)
    probe = examine(0).ascend.probe
    assert probe is not None
    assert error in probe.error
    assert (probe.compile_s, probe.run_s, probe.difference) == (None, None, None)


def test_a_probe_without_the_package_is_exit_6(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli.app, "vitaie-build", ["doctor", "--probe", "--device-id", "3"]) == 6
    assert "neither mindietorch nor torch_aie is installed" in capsys.readouterr().err


def test_the_document_holds_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli.app, "vitaie-build", ["doctor", "--json", "--quiet"]) == 0
    document = DoctorOutput.model_validate_json(capsys.readouterr().out)
    assert document.ascend.probe is None
    assert document.ascend == examine().ascend
