"""``model.ts``: the module as TorchScript, the same bytes for the same model every time.

What ``torch.jit.save`` writes depends on the build path (``*.debug_pkl``), on the file's name
and on a random id. The archive is written again without those, with a fixed name, order and
date, its tensors stored and 64-byte aligned, so that ``model.onnx`` can point into it.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitaie.manifests.errors import BuildError
from vitaie.runtime._files import disk_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNMENT = 64
_MAX_CODE = 2**22
"""Bytes of an archive beside its tensors, with room to spare."""
_DATE = (1980, 1, 1, 0, 0, 0)
_LOCAL_HEADER_SIZE = 30
_PADDING_ID = b"FB"  # the id that PyTorch itself gives its padding field
# Build paths, a random id, and the example that the module was traced with.
_DROPPED = re.compile(r"\.debug_pkl$|/\.data/serialization_id$|^model/traced_inputs")
_FUSED = "scaled_dot_product_attention"


class StoredTensor(NamedTuple):
    """A tensor of the archive: its bytes are ``model.ts[offset:][:length]``, float32."""

    name: str
    shape: tuple[int, ...]
    offset: int
    length: int


class Export(NamedTuple):
    """Where each tensor lies in ``model.ts``, and what the module gave on the example."""

    tensors: list[StoredTensor]
    logits: NDArray[np.float32]


def export_torchscript(module: Any, example: NDArray[np.float32], path: Path) -> Export:
    """Trace ``module`` and write it to ``path``.

    Args:
        module: A module on the CPU, in evaluation mode, without gradients.
        example: The batch to trace with, float32 [B, 3, S, S]; the graph takes any other B too.
        path: The file to write; it must not exist.

    Raises:
        BuildError: The graph holds a fused attention operator, or the archive is not laid out
            as every torch from 2.0.1 to 2.13 lays it out.
    """
    torch: Any = importlib.import_module("torch")

    _forget_traced_classes(torch)
    with torch.no_grad(), _outputs(torch, module) as outputs, warnings.catch_warnings():
        # timm asserts the input's size; for a fixed size that is rightly a constant. TorchScript
        # is deprecated since torch 2.5, and it is what the devices load.
        for category in (torch.jit.TracerWarning, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        traced: Any = torch.jit.trace(module, torch.from_numpy(example), check_trace=False)
    if _FUSED in str(traced.inlined_graph):
        raise BuildError("E_BUILD_DISAGREES", path.name, got=_FUSED, expected="unfused attention")
    tensors = {name: value.numpy() for name, value in module.state_dict().items()}
    size = sum(array.nbytes for array in tensors.values())
    with _saved(traced, path.parent, size) as source:
        del traced
        with open(path, "xb") as target:
            return Export(_rewrite(source, target, tensors), outputs[0].numpy())


@contextmanager
def _outputs(torch: Any, module: Any) -> Generator[list[Any], None, None]:
    """Yield a list that gets what ``module`` returns: tracing runs it, and keeps that to itself."""
    outputs: list[Any] = []

    def keep(called: Any, _inputs: Any, output: Any) -> None:
        if called is module:
            outputs.append(output.detach())

    # A hook on the module itself would become part of the TorchScript.
    hook = torch.nn.modules.module.register_module_forward_hook(keep)
    try:
        yield outputs
    finally:
        hook.remove()


@contextmanager
def _saved(traced: Any, folder: Path, size: int) -> Generator[zipfile.ZipFile, None, None]:
    """Yield what ``torch.jit.save`` writes, from a file in memory; ``size`` is of the tensors.

    torch aborts the whole process when a write fails, so it never writes to a disk; and it names
    the archive after the file, so the file in memory is reached through a link of that name.
    """
    descriptor = os.memfd_create("model.ts", os.MFD_CLOEXEC)
    try:
        with disk_errors("model.ts"):  # a file that may not grow so large (ulimit -f)
            os.ftruncate(descriptor, size + _MAX_CODE)
            os.ftruncate(descriptor, 0)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".torchscript-") as temporary:
            link = Path(temporary) / "model.ts"
            link.symlink_to(f"/proc/self/fd/{descriptor}")
            traced.save(str(link))
        with open(descriptor, "rb", closefd=False) as file, zipfile.ZipFile(file) as source:
            yield source
    finally:
        os.close(descriptor)


def _forget_traced_classes(torch: Any) -> None:
    """Let the first class of each name go unmangled again, whatever this process traced before."""
    torch._C._jit_clear_class_registry()
    torch.jit._state._clear_class_state()


def _rewrite(
    source: zipfile.ZipFile, target: Any, tensors: dict[str, np.ndarray[Any, Any]]
) -> list[StoredTensor]:
    """Copy the members that carry the model; tensors come from memory, checked by their CRC."""
    stored: list[StoredTensor] = []
    names = iter(tensors)
    mangles = _Mangles(source)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for info in source.infolist():
            if _DROPPED.search(info.filename):
                continue
            if not info.filename.startswith("model/data/"):
                name = mangles.renumber(info.filename.encode()).decode()
                _write(archive, target, name, mangles.renumber(source.read(info)))
                continue
            name = next(names, "")
            array = np.ascontiguousarray(tensors.get(name, np.empty(0, np.float32)))
            data = array.data.cast("B")
            offset = _write(archive, target, info.filename, data)
            if len(data) != info.file_size or archive.getinfo(info.filename).CRC != info.CRC:
                raise BuildError(
                    "E_BUILD_DISAGREES", "model.ts", field=info.filename, expected=name or "no more"
                )
            stored.append(StoredTensor(name, array.shape, offset, len(data)))
    left = next(names, None)
    if left is not None:
        raise BuildError("E_BUILD_DISAGREES", "model.ts", field=left, got="not in the archive")
    return stored


class _Mangles:
    """The numbers in ``___torch_mangle_N``: they count on through a process; ours start at 0."""

    _NUMBER = re.compile(rb"___torch_mangle_(\d+)")

    def __init__(self, source: zipfile.ZipFile) -> None:
        names = "\n".join(source.namelist()).encode()
        code = [
            source.read(name)
            for name in source.namelist()
            if name.endswith(".py") or name == "model/data.pkl"
        ]
        found = {int(number) for text in (names, *code) for number in self._NUMBER.findall(text)}
        self._ranks = {number: rank for rank, number in enumerate(sorted(found))}

    def renumber(self, text: bytes) -> bytes:
        return self._NUMBER.sub(
            lambda match: b"___torch_mangle_%d" % self._ranks[int(match[1])], text
        )


def _write(archive: zipfile.ZipFile, target: Any, name: str, data: bytes | memoryview) -> int:
    """Write one stored member whose data starts at a multiple of 64; return where it starts."""
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    header = target.tell() + _LOCAL_HEADER_SIZE + len(info.filename.encode()) + 4
    padding = -header % ALIGNMENT
    info.extra = _PADDING_ID + padding.to_bytes(2, "little") + b"Z" * padding
    archive.writestr(info, data)
    return int(header + padding)
