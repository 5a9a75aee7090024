"""The second engine: TorchScript on the CPU, for those who have torch (extra ``[torch]``).

Loading TorchScript can run code and PyTorch checks no integrity, so the archive is checked
twice first: its digest, and that it holds nothing but what a bundle's model needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import resource
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from vitaie.manifests.errors import BundleError, DiskError, TargetUnavailable
from vitaie.runtime._torchscript_archive import check_archive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Target
    from vitaie.runtime._bundle import Bundle


_MIN_ADDRESS_SPACE = 2**30


def missing() -> str:
    """Return what this machine lacks to run the engine."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: install vitaie's extra [torch], as README says"
    return ""


def need_room(where: str) -> None:
    """Refuse to import torch where its libraries would end the process.

    Its oneMKL does in a folder that was deleted; others do where address space is short.

    Raises:
        TargetUnavailable: The folder is gone.
        DiskError: The process may have less than 1 GiB of address space.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if 0 <= limit < _MIN_ADDRESS_SPACE:
        got, hint = f"{limit // 2**20} MiB allowed (ulimit -v)", "PyTorch needs more."
        raise DiskError("E_MEMORY", where, expected="at least 1024 MiB", got=got, hint=hint)
    try:
        os.getcwd()
    except FileNotFoundError:
        got, hint = "the current folder was deleted", "Change to one that is there."
        raise TargetUnavailable("E_TARGET_UNAVAILABLE", where, got=got, hint=hint) from None


def load_module(bundle: Bundle, where: str) -> Any:
    """Return ``model.ts`` as a TorchScript module, its archive checked before torch sees it.

    Raises:
        TargetUnavailable: torch is not installed; ``where`` is who needs it.
        BundleError: A digest is wrong, or the archive is not built as a bundle's is.
    """
    if missing():
        hint = "Run: vitaie-build doctor"
        raise TargetUnavailable("E_EXTRA_MISSING", where, got=missing(), hint=hint)
    need_room(where)
    file = str(bundle.folder / "model.ts")
    check_archive(bundle.read("model.ts").data, file)
    torch: Any = importlib.import_module("torch")
    try:
        with bundle.file("model.ts") as path, warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):  # of TorchScript itself
                warnings.simplefilter("ignore", category)
            return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch documents no exception classes
        raise BundleError("E_BUNDLE_ENGINE", file, got=error) from None


@contextmanager
def threads_restored() -> Generator[None, None, None]:
    """Give torch its number of threads back at the end: an engine that is given one sets it.

    Raises:
        TargetUnavailable: The current folder is gone.
    """
    need_room("torchscript")
    torch: Any = importlib.import_module("torch")
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Engine:
    """A TorchScript module, loaded from verified bytes."""

    def __init__(self, bundle: Bundle, target: Target, threads: int | None) -> None:
        """Check the archive, then load it. ``threads`` is torch's own setting, process-wide.

        Raises:
            TargetUnavailable: torch is not installed.
            BundleError: A digest is wrong, or the archive is not built as a bundle's is.
        """
        self._module = load_module(bundle, target.id)
        self._torch: Any = importlib.import_module("torch")
        self._threads = threads
        if threads is not None:
            self._torch.set_num_threads(threads)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [B, classes] for float32 [B, 3, H, W], any B of at least 1."""
        if self._threads is not None and self._torch.get_num_threads() != self._threads:
            self._torch.set_num_threads(self._threads)  # OpenMP keeps it for each thread of ours
        if not batch.flags.writeable:  # torch has no tensors that cannot be written to
            batch = batch.copy()
        with self._torch.inference_mode():
            result: NDArray[np.float32] = self._module(self._torch.from_numpy(batch)).numpy()
        return result
