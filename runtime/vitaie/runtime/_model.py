"""A loaded bundle: images in, labels and probabilities out."""

from __future__ import annotations

import logging
import operator
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Union, cast, overload

import numpy as np

from vitaie.manifests.devices import MAX_THREADS
from vitaie.manifests.errors import BundleError, DiskError, InputError, TargetUnavailable
from vitaie.runtime import _images, _onnxruntime, _preprocess, _torchscript
from vitaie.runtime._bundle import Bundle, open_bundle
from vitaie.runtime._bytes import available_cpus

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Manifest, Target
    from vitaie.runtime import _ascend

Image = _images.Image

_log = logging.getLogger("vitaie")
_TARGETS = "Name one of these, or leave the target out: the best one of this machine is taken."
_ALIASES = {"cpu": "onnxruntime-cpu-fp32"}
_BACKENDS: dict[str, ModuleType] = {"onnxruntime": _onnxruntime, "torchscript": _torchscript}
"""Of the targets that run on the CPU; on a device it is ``_ascend``."""
_MAX_MMAP_THRESHOLD = 2**25  # DEFAULT_MMAP_THRESHOLD_MAX of glibc on 64 bits
_NO_MEMORY = re.compile(r"alloc|could not create a primitive\Z")
"""What engines say when they get no memory; the second is oneDNN, for code it makes as it runs."""
DOUBLE = "made with the tests' double: it ran on no device"
"""What is said of a target that is evidence of nothing, wherever it is met."""

_OF_DOUBLE = "No device runs it: compile the bundle on a device, or take --target cpu."
_TO_DO = "Run: vitaie-build doctor"

_PREFERENCE = ("torch_aie", "onnxruntime", "torchscript")


@dataclass(frozen=True)
class Prediction:
    """One class and its softmax probability. ``id`` is the wnid for ImageNet."""

    index: int
    id: str
    label: str
    probability: float


class Engine(Protocol):
    """What a backend module's ``Engine`` does."""

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [B, classes] for float32 [B, 3, H, W]."""
        ...


class Model:
    """A bundle, opened, verified and ready. Made by ``load``; safe to call from several threads.

    Attributes:
        manifest: Everything the bundle says.
        target: The target that runs.
    """

    def __init__(
        self,
        manifest: Manifest,
        target: Target,
        engine: Engine,
        labels: Sequence[tuple[str, str]],
    ) -> None:
        """Take over an engine that was built from the verified bytes of the bundle."""
        self.manifest = manifest
        self.target = target
        self._engine: Engine | None = engine
        self._labels = labels
        size = manifest.preprocess.crop.size
        self._shape = (3, size, size)

    @property
    def digest(self) -> str:
        """The bundle's content digest: which model this is, wherever and whenever it was built."""
        return self.manifest.content_digest

    def preprocess(self, image: Image) -> NDArray[np.float32]:
        """Return what the model sees of an image: float32 [3, H, W].

        Args:
            image: A path, the bytes of a JPEG or PNG, a PIL image, or uint8 RGB [H, W, 3].

        Raises:
            ImageError: It is none of these, is broken, or has too many pixels.
        """
        return _preprocess.preprocess(image, self.manifest.preprocess)

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, float32 [B, classes], of a batch, float32 [B, 3, H, W], B >= 1.

        Raises:
            InputError: The batch has another type or shape, or the model is closed.
            BundleError: The engine fails on the bundle's model.
            DiskError: There is not enough memory for a batch of this size.
        """
        engine = self._engine
        if engine is None:
            raise InputError("E_CLOSED", self.manifest.name, hint="Load the bundle again.")
        self._check_batch(batch)
        try:
            return run(engine, np.ascontiguousarray(batch), self.manifest)
        except BundleError:
            if np.isfinite(batch).all():
                raise
        raise InputError("E_BATCH", "batch", expected="finite numbers", got="NaN or infinity")

    def _check_batch(self, batch: object) -> None:
        """Refuse what is no batch here, not deep in an engine."""
        got = type(batch).__name__
        if isinstance(batch, np.ndarray):
            array = cast("NDArray[Any]", batch)
            if array.dtype == np.float32 and array.shape[1:] == self._shape and len(array) > 0:
                return
            got = f"{array.dtype} {list(array.shape)}"
        raise InputError(
            "E_BATCH",
            "batch",
            expected=f"float32 [B, {', '.join(map(str, self._shape))}]",
            got=got,
            hint="Stack what Model.preprocess returns.",
        )

    @overload
    def classify(self, image: Image, top_k: int = 5) -> list[Prediction]: ...
    @overload
    def classify(self, image: list[Image], top_k: int = 5) -> list[list[Prediction]]: ...
    def classify(
        self, image: Union[Image, list[Image]], top_k: int = 5
    ) -> Union[list[Prediction], list[list[Prediction]]]:
        """Return the ``top_k`` classes, most probable first; for a list of images, a list of such.

        Raises:
            ImageError: An image cannot be used.
            InputError: ``top_k`` is below 1, or the model is closed.
        """
        if isinstance(image, list):
            return list(self.stream(image, top_k))
        check_top_k(top_k)
        return self._predictions(self.logits(self.preprocess(image)[np.newaxis])[0], top_k)

    def stream(
        self, images: Iterable[Image], top_k: int = 5, *, batch_size: int = 1
    ) -> Iterator[list[Prediction]]:
        """Yield the ``top_k`` classes of each image, in order.

        The engine works on one batch while the next are decoded; at most four batches of images
        are held. An image that cannot be used raises when its turn comes, after all before it.

        Raises:
            ImageError: An image cannot be used.
            InputError: ``top_k`` or ``batch_size`` is below 1, or the model is closed.
        """
        check_top_k(top_k)
        _check_whole("batch_size", batch_size)
        return self._stream(images, top_k, batch_size)

    def _stream(
        self, images: Iterable[Image], top_k: int, batch_size: int
    ) -> Iterator[list[Prediction]]:
        decoders = ThreadPoolExecutor(available_cpus(), "vitaie-decode")
        engine = ThreadPoolExecutor(1, "vitaie-engine")
        decoding: deque[Future[NDArray[np.float32]]] = deque()
        running: deque[Future[_Batch]] = deque()
        source = iter(images)
        try:
            exhausted = False
            while True:
                while not exhausted and len(decoding) < 2 * batch_size:
                    try:
                        decoding.append(decoders.submit(self.preprocess, next(source)))
                    except StopIteration:
                        exhausted = True
                    except Exception as error:  # the source's own; its turn comes as an image's
                        decoding.append(_failed(error))
                        exhausted = True
                if decoding and len(running) < 2:
                    tensors = [decoding.popleft() for _ in range(min(batch_size, len(decoding)))]
                    running.append(engine.submit(self._run, tensors))
                    continue
                if not running:
                    return
                done = running.popleft().result()
                for logits in done.logits:
                    yield self._predictions(logits, top_k)
                if done.error is not None:
                    raise done.error
        finally:
            for tensor in decoding:
                tensor.cancel()
            for batch in running:
                batch.cancel()
            decoders.shutdown(wait=True)
            engine.shutdown(wait=True)

    def _run(self, decoding: list[Future[NDArray[np.float32]]]) -> _Batch:
        """Run a batch; an image that fails ends it, and the ones before it still count."""
        tensors: list[NDArray[np.float32]] = []
        failure: BaseException | None = None
        for future in decoding:
            failure = future.exception()
            if failure is not None:
                break
            tensors.append(future.result())
        if not tensors:
            return _Batch(np.empty((0, 0), np.float32), failure)
        return _Batch(self.logits(np.stack(tensors)), failure)

    def _predictions(self, logits: NDArray[np.float32], top_k: int) -> list[Prediction]:
        wide = logits.astype(np.float64)
        probabilities = np.exp(wide - wide.max())
        probabilities /= probabilities.sum()
        order = np.argsort(-wide, kind="stable")[:top_k]
        return [self._prediction(int(index), probabilities) for index in order]

    def _prediction(self, index: int, probabilities: NDArray[np.float64]) -> Prediction:
        identifier, label = self._labels[index]
        return Prediction(index, identifier, label, float(probabilities[index]))

    def device_engine(self) -> _ascend.Engine:
        """Return the engine of a target on a device, for whoever times it without the copies.

        Raises:
            InputError: The target runs on the CPU, or the model is closed.
        """
        from vitaie.runtime import _ascend

        if not isinstance(self._engine, _ascend.Engine):
            expected, got = "an open target on a device", self.target.id
            raise InputError("E_ARGUMENT", "boundary", expected=expected, got=got)
        return self._engine

    def close(self) -> None:
        """Let go of the engine. Calls under way finish; later ones raise. May be called twice."""
        self._engine = None

    def __enter__(self) -> Model:
        """Return the model itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the model."""
        self.close()

    def __reduce__(self) -> Any:
        """Refuse to be pickled: an engine belongs to its process; load the bundle in each."""
        raise TypeError("a Model cannot be pickled: call vitaie.runtime.load in each process")


class _Batch(NamedTuple):
    logits: NDArray[np.float32]
    error: BaseException | None


def _failed(error: Exception) -> Future[NDArray[np.float32]]:
    future: Future[NDArray[np.float32]] = Future()
    future.set_exception(error)
    return future


def load(
    path: str | os.PathLike[str],
    *,
    target: str = "auto",
    threads: int | None = None,
    device_id: int = 0,
) -> Model:
    """Open a bundle, check every byte of it, and return it ready to run.

    Args:
        path: A bundle's folder: of one version, or of all (the newest is taken).
        target: A target's id, ``cpu`` for short, or ``auto``: the best one this machine can run,
            said in the log of ``vitaie``.
        threads: Threads of the engine; the engine's own choice when None.
        device_id: Which of this machine's devices runs a target that is made for one, counted as
            the system counts them. The first model of a process on a device decides for all that
            follow: several devices are several processes.

    Raises:
        BundleError: The bundle is not what its manifest says.
        TargetUnavailable: The target named cannot run here, or not on that device.
        InputError: The bundle has no such target, ``threads`` is not 1 to 1024, or ``device_id`` is
            below 0 or is given for a target that runs on the CPU.
    """
    check_threads(threads)
    check_device_id(device_id)
    _let_malloc_reuse()
    with open_bundle(path, early="model.ts") as bundle:
        chosen = choose_target(bundle.manifest, target)
        check_device_of([chosen], device_id)
        bundle.check({a.path for a in bundle.manifest.artifacts if a.path != "model.ts"})
        engine = open_engine(bundle, chosen, threads, device_id)
        labels = read_labels(bundle)
        # The TorchScript engine frees the archive once read; the digest was checked either way.
        return Model(bundle.manifest, chosen, engine, labels)


def _let_malloc_reuse() -> None:
    """Let the weights that an engine copies for a moment lie where the ones before them lay.

    glibc maps each large block anew and returns it when freed, which for the matrices of a ViT-B
    is a third of what ONNX Runtime takes to start. Freeing one such block raises the size that
    counts as large (mallopt(3), "dynamic mmap threshold"). Its pages are never touched.
    """
    bytes(_MAX_MMAP_THRESHOLD - 2**13)


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that no engine takes."""
    if threads is not None:
        _check_whole("threads", threads, MAX_THREADS)


def check_device_id(device_id: int) -> None:
    """Refuse what is no number of a device, before a bundle is opened."""
    _check_whole("device_id", device_id, least=0)


def check_device_of(targets: Sequence[Target], device_id: int) -> None:
    """Refuse a number of a device where no target runs on one: it would choose nothing."""
    if device_id and all(target.device == "cpu" for target in targets):
        raise InputError(
            "E_ARGUMENT",
            "device_id",
            expected="0, the default, for targets that run on the CPU",
            got=device_id,
            hint=f"Of {' and '.join(target.id for target in targets)}, none runs on a device.",
        )


def check_top_k(top_k: int) -> None:
    """Refuse a number of classes that nobody can show; one above the model's shows all."""
    _check_whole("top_k", top_k)


def _check_whole(name: str, value: object, most: int | None = None, *, least: int = 1) -> None:
    """Refuse an argument that is no whole number from ``least`` on."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(cast("Any", value))
    except TypeError:
        number = -1
    if least <= number <= (most or number):
        return
    expected = f"{least} to {most}" if most else f"at least {least}"
    raise InputError("E_ARGUMENT", name, expected=expected, got=value)


def choose_target(manifest: Manifest, wanted: str) -> Target:
    """Return the target to run: the one named, or for ``auto`` the best that can run here."""
    by_id = {target.id: target for target in manifest.targets}
    if wanted != "auto":
        target = named_target(manifest, wanted)
        missing = missing_for(target)
        if missing:
            on_device = target.backend == "torch_aie"
            code = "E_TARGET_UNAVAILABLE" if on_device else "E_EXTRA_MISSING"
            got, hint = missing, _TO_DO
            if target.by_double:  # installing what is missing would not help
                got, hint = f"{DOUBLE}; {missing}", _OF_DOUBLE
            raise TargetUnavailable(code, target.id, got=got, hint=hint)
        if target.by_double:
            _log.warning("%s %s: target %s: %s", manifest.name, manifest.version, target.id, DOUBLE)
        return target
    reasons: list[str] = []
    for target in sorted(by_id.values(), key=lambda item: _PREFERENCE.index(item.backend)):
        missing = (DOUBLE if target.by_double else "") or missing_for(target)
        if not missing:
            _log.info("%s %s: target %s", manifest.name, manifest.version, target.id)
            return target
        reasons.append(f"{target.id}: {missing}")
    raise TargetUnavailable(
        "E_TARGET_UNAVAILABLE", manifest.name, got="; ".join(reasons), hint=_TO_DO
    )


def named_target(manifest: Manifest, wanted: str) -> Target:
    """Return the target of an id, or of its short name, whether or not it can run here."""
    by_id = {target.id: target for target in manifest.targets}
    target = by_id.get(_ALIASES.get(wanted, wanted))
    if target is None:
        raise InputError(
            "E_TARGET_UNKNOWN",
            manifest.name,
            expected=" or ".join(by_id),
            got=wanted,
            hint=_TARGETS,
        )
    return target


def missing_for(target: Target) -> str:
    """Return what this machine lacks to run a target; nothing when it can."""
    if target.backend == "torch_aie":
        from vitaie.runtime import _ascend  # which most who load a bundle never need

        return _ascend.missing_for(target)
    missing: str = _BACKENDS[target.backend].missing()
    return missing


def run(engine: Engine, batch: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """Return an engine's logits, float32 [B, classes], of a batch that it takes.

    Raises:
        BundleError: The engine fails, or gives something else.
        DiskError: There is not enough memory.
        TargetUnavailable: The device fails.
    """
    try:
        logits = engine.logits(batch)
    except TargetUnavailable:  # a device that went away; the bundle is not at fault
        raise
    except Exception as error:  # engines document no exception classes
        got = _reason(error)
        if isinstance(error, MemoryError) or _NO_MEMORY.search(got):
            hint = "Use a smaller batch, or allow more memory."
            raise DiskError("E_MEMORY", manifest.name, got=got, hint=hint) from None
        raise BundleError("E_BUNDLE_ENGINE", manifest.name, got=got) from None
    expected = (len(batch), manifest.model.classes)
    if logits.shape != expected or logits.dtype != np.float32:
        got = f"{logits.dtype} {list(logits.shape)}"
        raise BundleError(
            "E_BUNDLE_ENGINE", manifest.name, expected=f"float32 {list(expected)}", got=got
        )
    if not np.isfinite(logits).all():
        raise BundleError("E_BUNDLE_ENGINE", manifest.name, got="logits that are not finite")
    return logits


def _reason(error: Exception) -> str:
    """Return what an engine says; of TorchScript the end, after the trace of its own code."""
    text = str(error).strip()
    return text.splitlines()[-1] if "Traceback of TorchScript" in text else text


def open_engine(bundle: Bundle, target: Target, threads: int | None, device_id: int = 0) -> Engine:
    """Build the engine of a target from the bundle's verified bytes.

    A CPU has no use for ``device_id``, and a device none for ``threads``.
    """
    if target.backend == "torch_aie":
        from vitaie.runtime import _ascend

        return _ascend.Engine(bundle, target, device_id)
    engine: Engine = _BACKENDS[target.backend].Engine(bundle, target, threads)
    return engine


def read_labels(bundle: Bundle) -> list[tuple[str, str]]:
    """Return (id, name) for each class, in output order.

    Raises:
        BundleError: labels.txt is not one line of id, tab, name for each class.
    """
    where = str(bundle.folder / "labels.txt")
    try:
        lines = bundle.read("labels.txt").tobytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BundleError("E_BUNDLE_LABELS", where, got=error) from None
    classes = bundle.manifest.model.classes
    if len(lines) != classes + 1 or lines[-1]:
        raise BundleError(
            "E_BUNDLE_LABELS", where, expected=f"{classes} lines", got=f"{len(lines) - 1} lines"
        )
    labels: list[tuple[str, str]] = []
    for number, line in enumerate(lines[:-1], 1):
        identifier, tab, name = line.partition("\t")
        if not (identifier and tab and name):
            raise BundleError("E_BUNDLE_LABELS", where, field=f"line {number}", got=line)
        labels.append((identifier, name))
    return labels
