"""What importing the runtime costs, and what it offers."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from vitaie import runtime
from vitaie.manifests import errors

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    *("torch", "torchvision", "timm", "onnx", "onnxruntime", "typer", "click", "pydantic", "tqdm"),
    *("vitaie.builder", "vitaie.manifests.manifest"),
)


def modules_after(program: str) -> set[str]:
    """Return the modules that a fresh interpreter has after a program."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return set(done.stdout.split())


def test_importing_the_runtime_imports_nothing_heavy() -> None:
    loaded = modules_after("import vitaie.runtime")
    assert "vitaie.runtime._model" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_running_the_default_target_imports_neither_torch_nor_the_command_line(
    small_bundle: Path,
) -> None:
    loaded = modules_after(
        "import numpy\nfrom vitaie import runtime\n"
        f"with runtime.load({str(small_bundle)!r}) as model:\n"
        "    model.classify(numpy.zeros((50, 50, 3), numpy.uint8))"
    )
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint({"torch", "timm", "onnx", "typer", "tqdm", "vitaie.builder"})


def test_all_is_the_public_surface() -> None:
    public = {
        name
        for name, value in vars(runtime).items()
        if not name.startswith("_") and type(value).__name__ != "module"
    }
    assert sorted(public) == runtime.__all__


def test_the_tree_of_errors_names_every_class_under_its_parent() -> None:
    tree = errors.__doc__ or ""
    drawn: dict[str, str] = {}
    open_at: dict[int, str] = {}
    for line in tree.splitlines():
        match = re.match(r"^( {4}[ │├└─]*)([A-Z]\w+)", line)
        if match:
            depth = (len(match[1]) - 4) // 4
            open_at[depth] = match[2]
            drawn[match[2]] = open_at.get(depth - 1, "Exception")
    classes = {
        name: value.__base__.__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.VitaieError) and value.__base__
    }
    assert drawn == classes


def test_each_public_error_is_a_vitaie_error() -> None:
    offered = {name for name in runtime.__all__ if name.endswith(("Error", "Unavailable"))}
    assert len(offered) >= 7
    for name in offered:
        assert issubclass(getattr(runtime, name), errors.VitaieError)


def test_onnx_runtimes_telemetry_is_off_before_it_is_imported(
    small_bundle: Path, tmp_path: Path
) -> None:
    """ONNX Runtime 1.32 writes a device id under the home folder unless told before its import."""
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    code = f"from vitaie import runtime; runtime.load({str(small_bundle)!r}).close()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 0
    assert list(tmp_path.rglob("*")) == []


def imports(path: Path) -> set[str]:
    """Return every name that a module imports, wherever in it, also for its types alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(node.module)
    return found


def test_no_module_imports_one_that_imports_it() -> None:
    packages = [ROOT / part / "vitaie" for part in ("builder", "runtime", "manifests")]
    paths = {
        ".".join(("vitaie", *path.relative_to(package).with_suffix("").parts)): path
        for package in packages
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert len(paths) > 30
    waiting = {name: imports(path) & (paths.keys() - {name}) for name, path in paths.items()}
    while free := {name for name, needed in waiting.items() if not needed}:
        waiting = {name: needed - free for name, needed in waiting.items() if name not in free}
    assert waiting == {}
