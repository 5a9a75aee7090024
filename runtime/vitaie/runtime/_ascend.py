"""The Ascend backend: all that is known of ``torch_aie`` and ``mindietorch``, in one module.

One package under two names, of a family that is finished; three versions of it differ in small
ways that no version number tells, so what exists decides. The rules that hold for all of them are
kept here and nowhere else: arguments by keyword, precision and format said explicitly, tensors
copied to the device and back, one thread that owns the device, a wait before anybody looks at a
clock, ``finalize`` once at the end. The package documents no class of exception; whatever it
raises becomes one of ours, with its own message. ``docs/ascend.md`` says what was never run.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import logging
import re
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import metadata
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Optional, TypeVar

import numpy as np

from vitaie.manifests.devices import DOUBLE as DOUBLE
from vitaie.manifests.devices import PACKAGES as PACKAGES
from vitaie.manifests.errors import TargetUnavailable
from vitaie.runtime import _ascend_machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Target
    from vitaie.runtime._bundle import Bundle

Precision = Literal["fp16", "fp32", "pref_fp32", "pref_fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32", "pref_fp32", "pref_fp16")
"""``PrecisionPolicy``'s members, in lower case. The last is not in every version."""

_STACK = re.compile(r"At:|File .*|.*\(\d+\): \S+|.*<--- HERE")
_FIRST = 60  # characters of a long message's first line; its last is what matters
_FINISH_S = 30.0  # a device that died may never answer
_log = logging.getLogger("vitaie")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class CompileOptions:
    """What a module is compiled with. ``shape`` is of the one input, float32."""

    shape: tuple[int, ...]
    precision: Precision
    optim_level: int
    soc: str
    allow_fallback: bool


class Package(NamedTuple):
    """The package, imported; ``version`` is ``unknown`` where it was not installed by pip."""

    name: str
    version: str
    module: Any

    def __str__(self) -> str:
        """Return name and version, as errors and records have them."""
        return f"{self.name} {self.version}"

    @property
    def precisions(self) -> list[str]:
        """The policies that this version has."""
        return [name for name in PRECISIONS if hasattr(self._policies(), name.upper())]

    def policy(self, precision: Precision) -> Any:
        """Return the member of ``PrecisionPolicy``.

        Raises:
            TargetUnavailable: This version does not have it.
        """
        if precision not in self.precisions:
            raise TargetUnavailable(
                "E_TARGET_UNAVAILABLE",
                self,
                field="precision",
                expected=" or ".join(self.precisions),
                got=precision,
                hint="Name one of these with --precision.",
            )
        return getattr(self._policies(), precision.upper())

    def input(self, shape: tuple[int, ...]) -> Any:
        """Return the ``Input`` of a float32 tensor; its format is said where the version has any.

        The default changed between versions.
        """
        keywords = {"dtype": self.module.dtype.FLOAT}
        formats = getattr(self.module, "TensorFormat", None)
        if formats is not None:
            keywords["format"] = formats.NCHW
        return self.module.Input(shape, **keywords)

    def _policies(self) -> Any:
        found = getattr(self.module, "PrecisionPolicy", None)
        return self.module._enums.PrecisionPolicy if found is None else found


def installed() -> Optional[str]:
    """Return which of the packages is installed; importing it is left to who needs it."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is not None:
            return name
    return None


def version(name: str) -> str:
    """Return a package's version: the double's is ``double``; no ``__version__`` is documented."""
    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "unknown"


def missing() -> str:
    """Return what this machine lacks to reach a device, as far as can be seen without one."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: install vitaie's extra [torch], as README says"
    if installed() is None:
        return f"neither {' nor '.join(PACKAGES)} is installed: they come with the device's CANN"
    return ""


def missing_for(target: Target) -> str:
    """Return what keeps this machine from running a target: what is missing, or is another.

    Whether a saved module outlives its chip, package or CANN is documented nowhere, so each has to
    be the one that compiled it; what one side does not say is not held against it. The tests'
    double runs what is marked as its own, and nothing else does.
    """
    lacking = missing()
    name = installed()
    if lacking or name is None:
        return lacking
    machine = _ascend_machine.look()
    soc = str(target.options.get("soc_version", _ascend_machine.UNKNOWN))
    here = machine.socs[0] if machine.socs else _ascend_machine.UNKNOWN
    made, is_here = target.toolchain.get(name), version(name)
    if made is None or (is_here == DOUBLE) != target.by_double:
        return f"it was compiled with {_versions(target)}, and here is {name} {is_here}"
    for what, then, now in (
        (name, made, is_here),
        ("CANN", target.toolchain.get("cann", _ascend_machine.UNKNOWN), machine.cann),
        ("chip", soc, here),
    ):
        if _ascend_machine.UNKNOWN not in (then, now) and then != now:
            return f"it was compiled for {what} {then}, and here is {now}"
    return ""


def _versions(target: Target) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(target.toolchain.items()))


@dataclass(frozen=True)
class Compiled:
    """A module on the device, for ``Device`` alone to call."""

    module: Any


class Device:
    """One device, which one thread of this process owns. Made by ``open_device``."""

    def __init__(self, number: int) -> None:
        """Import the package, after torch, and set the device: all on the thread that stays.

        Raises:
            TargetUnavailable: Something is missing, or the package refuses.
        """
        self.number = number
        self.package = Package("", "unknown", None)
        self._stream: Any = None
        self._torch: Any = None
        self._jobs: SimpleQueue[Optional[Callable[[], None]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="vitaie-ascend", daemon=True)
        self._thread.start()
        try:
            self._on_thread("start", self._start)
        except BaseException:
            self._jobs.put(None)
            raise

    def compile(self, module: Any, options: CompileOptions) -> Compiled:
        """Compile a TorchScript module. Level 2 is tuned on top of level 1, as the vendor says.

        Raises:
            TargetUnavailable: The compiler refuses, with what it says, or lacks the precision.
        """

        def work() -> Compiled:
            levels = (1, 2) if options.optim_level == 2 else (options.optim_level,)
            keywords = {
                "inputs": [self.package.input(options.shape)],
                "precision_policy": self.package.policy(options.precision),
                "truncate_long_and_double": True,
                "require_full_compilation": not options.allow_fallback,
                "allow_tensor_replace_int": True,
                "min_block_size": 1,
                "torch_executed_ops": [],
                "soc_version": options.soc,
            }
            compiled = None
            for level in levels:
                compiled = self.package.module.compile(module, **keywords, optimization_level=level)
            return Compiled(compiled)

        return self._on_thread("compile", work)

    def save(self, compiled: Compiled, path: str) -> None:
        """Write a compiled module to a file that ``load`` takes.

        Raises:
            TargetUnavailable: The package refuses.
        """
        self._on_thread("save", lambda: compiled.module.save(path))

    def load(self, path: str) -> Compiled:
        """Load a compiled module from a file whose digest was checked: loading it runs code.

        Raises:
            TargetUnavailable: The package, or torch, refuses the file.
        """

        def work() -> Compiled:
            with warnings.catch_warnings():
                for category in (DeprecationWarning, FutureWarning):  # of TorchScript itself
                    warnings.simplefilter("ignore", category)
                return Compiled(self._torch.jit.load(path).eval())

        return self._on_thread("load", work)

    def operators(self, compiled: Compiled) -> Any:
        """Return a compiled module's graph, all calls inlined: what is left of torch is in it."""
        return self._on_thread("graph", lambda: compiled.module.inlined_graph)

    def put(self, batch: NDArray[np.float32]) -> OnDevice:
        """Copy a batch to the device.

        Raises:
            TargetUnavailable: The device refuses.
        """

        def work() -> OnDevice:
            return OnDevice(self._torch.from_numpy(np.ascontiguousarray(batch)).to(self._place))

        if not batch.flags.writeable:  # torch has no tensors that cannot be written to
            batch = batch.copy()
        return self._on_thread("copy to the device", work)

    def run(self, compiled: Compiled, batch: OnDevice) -> OnDevice:
        """Run a compiled module, and wait for it: whoever reads a clock next measures it.

        Raises:
            TargetUnavailable: The device fails, or the batch is not of the shape compiled for.
        """

        def work() -> OnDevice:
            with self.package.module.npu.stream(self._stream):
                result = compiled.module(batch.tensor)
                self._stream.synchronize()
            return OnDevice(result)

        return self._on_thread("forward", work)

    def get(self, result: OnDevice) -> NDArray[np.float32]:
        """Copy a result from the device.

        Raises:
            TargetUnavailable: The device fails.
        """

        def work() -> NDArray[np.float32]:
            array: NDArray[np.float32] = result.tensor.to("cpu").detach().numpy()
            return array

        return self._on_thread("copy from the device", work)

    def finish(self) -> None:
        """Call ``finalize``, after which nothing of the package works in this process."""
        done: Future[None] = Future()
        self._jobs.put(lambda: _answer(done, lambda: self.package.module.finalize()))
        self._jobs.put(None)
        try:
            done.result(_FINISH_S)
        except Exception as error:  # the package documents none; and the process is about to end
            _log.warning("%s: finalize: %s", self.package, told(error))

    @property
    def _place(self) -> str:
        return f"npu:{self.number}"

    def _start(self) -> None:
        self._torch = importlib.import_module("torch")
        name = installed() or PACKAGES[0]
        module = importlib.import_module(name)
        self.package = Package(name, version(name), module)
        module.set_device(self.number)
        self._stream = module.npu.Stream(self._place)

    def _on_thread(self, step: str, work: Callable[[], _Result]) -> _Result:
        """Return what ``work`` gives on the device's thread; its errors are the package's."""
        done: Future[_Result] = Future()
        self._jobs.put(lambda: _answer(done, work))
        try:
            return done.result()
        except TargetUnavailable:
            raise
        except Exception as error:  # the package documents no exception classes
            code = "E_COMPILE" if step == "compile" else "E_DEVICE"
            where = self.package if self.package.name else installed() or "the device"
            raise TargetUnavailable(
                code, where, field=step, got=told(error), hint=_HINTS.get(step, _HINT)
            ) from None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


@dataclass(frozen=True)
class OnDevice:
    """A tensor that nothing can be done with but ``Device``'s ``run`` and ``get``."""

    tensor: Any


_HINT = "Run: vitaie-build doctor"
_HINTS = {
    "compile": "An operator that is not supported can stay outside with --allow-fallback.",
    "load": "A module is tied to the versions that made it: compile the bundle again here.",
}


def told(error: BaseException) -> str:
    """Return an exception's class and message, whatever kind of exception it is.

    Of a message of many lines the first and the last, less the stacks that torch puts around a
    reason; all of it is logged.
    """
    try:
        text = str(error)
    except Exception as unspeakable:  # a foreign class: its text is its own code
        text = f"without a text ({type(unspeakable).__name__})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 2:
        _log.info("%s", text)
        lines = [line for line in lines if not _STACK.fullmatch(line)] or lines
        lines = [lines[0][:_FIRST], "…", lines[-1]]
    return ": ".join([type(error).__name__, " ".join(lines)] if lines else [type(error).__name__])


def _answer(done: Future[_Result], work: Callable[[], _Result]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)  # it is raised where it is waited for


_lock = threading.Lock()
_opened: Optional[Device] = None


def open_device(number: int = 0) -> Device:
    """Return this process's device: the first caller decides which, for as long as it lives.

    Raises:
        TargetUnavailable: It cannot be had, or the process has another one already.
    """
    global _opened
    lacking = missing()
    if lacking:
        raise TargetUnavailable("E_EXTRA_MISSING", f"device {number}", got=lacking, hint=_HINT)
    with _lock:
        if _opened is None:
            _opened = Device(number)
            atexit.register(finish)
        if _opened.number != number:
            raise TargetUnavailable(
                "E_DEVICE",
                f"device {number}",
                got=f"this process has device {_opened.number}",
                hint="Several devices are several processes.",
            )
        return _opened


def finish() -> None:
    """Give the device back at the end of the process; without it the package dumps core."""
    global _opened
    with _lock:
        device, _opened = _opened, None
    if device is not None:
        atexit.unregister(finish)
        device.finish()


class Engine:
    """A compiled module on the device: its one batch size takes any, padded and in pieces."""

    def __init__(self, bundle: Bundle, target: Target, device_id: int = 0) -> None:
        """Load the module from verified bytes to the device of this number.

        Raises:
            TargetUnavailable: The package or the device is missing, or refuses the module; or this
                process has another device already.
            BundleError: A digest is wrong.
        """
        (path,) = target.files
        bundle.read(path)
        self._device = open_device(device_id)
        with bundle.file(path) as file:
            self._compiled = self._device.load(file)
        (self._batch,) = target.batch_sizes

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [B, classes] for float32 [B, 3, H, W], any B of at least 1."""
        pieces = [
            self._piece(batch[start : start + self._batch])
            for start in range(0, len(batch), self._batch)
        ]
        return np.concatenate(pieces)

    def put(self, batch: NDArray[np.float32]) -> OnDevice:
        """Copy a batch of the size that the module was compiled for to the device.

        Raises:
            TargetUnavailable: The device refuses.
        """
        return self._device.put(batch)

    def run(self, batch: OnDevice) -> OnDevice:
        """Run such a batch, and wait for it; the logits stay on the device.

        Raises:
            TargetUnavailable: The device fails, or the batch has another shape.
        """
        return self._device.run(self._compiled, batch)

    def get(self, logits: OnDevice) -> NDArray[np.float32]:
        """Copy logits, float32 [B, classes], from the device.

        Raises:
            TargetUnavailable: The device fails.
        """
        return self._device.get(logits)

    def _piece(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one call of the module's own batch size; what pads it is left out of the answer."""
        lacking = self._batch - len(images)
        if lacking:
            padding = np.zeros((lacking, *images.shape[1:]), np.float32)
            padded = np.concatenate([images, padding])
        else:
            padded = images
        return self.get(self.run(self.put(padded)))[: len(images)]
