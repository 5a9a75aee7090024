"""``Input``, ``compile`` and ``export_engine``, every argument judged."""

from __future__ import annotations

import enum
import hashlib
import importlib
import io
import json
import re
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from . import scripted as _scripted
from .arithmetic import half_precision
from .machine import MACHINE, refuse
from .profiles import Profile
from .tensors import numbers_of, returned

torch: Any = importlib.import_module("torch")
scripted: Any = _scripted  # TorchScript's source has no types of Python's

NAMESPACE = "aie_double"
"""Of the operators that a compiled module calls: where they are not registered it cannot load."""

SOCS = ("Ascend310P3", "Ascend310P1", "Ascend310B1", "Ascend910B3")
_HEADER = 4096  # bytes of an engine before the module that it stands for

_SUPPORTED = re.compile(
    "aten::(_convolution|add|addmm|bmm|cat|conv2d|div|dropout|expand|flatten|floor_divide|gelu|Int"
    "|layer_norm|linear|matmul|mul|permute|reshape|select|size|slice|softmax|split|squeeze|sub|t"
    "|transpose|unbind|unsqueeze|view)"
)
"""What the vendor's ports of timm's Vision Transformer hold. Fused attention is not among it."""


class DType(enum.Enum):
    """The package's ``dtype``."""

    FLOAT = 0
    FLOAT16 = 1
    INT8 = 2
    INT32 = 3
    UINT8 = 4
    INT16 = 6
    UINT16 = 7
    UINT32 = 8
    INT64 = 9
    UINT64 = 10
    DOUBLE = 11
    BOOL = 12


class TensorFormat(enum.Enum):
    """How a tensor lies in memory."""

    NCHW = 0
    NHWC = 1
    ND = 2


class Compiler:
    """One version's compiler, and the operators that run what it made."""

    def __init__(self, profile: Profile) -> None:
        """Register the operators that compiled modules call."""
        self.profile = profile
        # A profile has policies of its own, and mypy knows an enumeration by its literal members.
        self.PrecisionPolicy: Any = enum.Enum("PrecisionPolicy", profile.policies)  # type: ignore[misc]
        self._engines: dict[int, _Engine] = {}
        self._reason = ""
        self._library: Any = torch.library.Library(NAMESPACE, "DEF")
        kernels: list[tuple[str, Callable[..., Any]]] = [
            ("refuses_engine(Tensor engine) -> bool", self._judge(self._attach)),
            ("refuses_input(Tensor engine, Tensor x) -> bool", self._judge(self._check_input)),
            ("refuses_on_host(Tensor x) -> bool", self._judge(self._check_on_host)),
            ("reason(Tensor x) -> str", self._why),
            ("execute(Tensor engine, Tensor x) -> Tensor", self._execute),
            ("to_host(Tensor x) -> Tensor", self._to_host),
            ("to_npu(Tensor x, Tensor like) -> Tensor", self._to_npu),
        ]
        for schema, kernel in kernels:
            self._library.define(schema)
            self._library.impl(schema.split("(")[0], kernel, "CompositeExplicitAutograd")

    def close(self) -> None:
        """Take the operators away again."""
        if hasattr(self._library, "_destroy"):
            self._library._destroy()
        self._library = None  # torch 2.0 does it when the library goes

    def input_class(self) -> type:
        """Return ``Input``."""
        compiler = self

        class Input:
            def __init__(self, *shape: Any, **keywords: Any) -> None:
                self.shape, self.range = compiler._input(shape, keywords)

        return Input

    def _input(self, positional: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any]:
        allowed = {"shape", "min_shape", "max_shape", "dtype"}
        if self.profile.tensor_format is not None:
            allowed.add("format")
        _check_names("Input", keywords, allowed)
        if len(positional) > 1:
            raise refuse("arguments", "Input takes at most one positional argument, the shape")
        if positional and "shape" in keywords:
            raise refuse("arguments", "Input got its shape twice")
        shape = positional[0] if positional else keywords.get("shape")
        limits = [keywords.get("min_shape"), keywords.get("max_shape")]
        if (shape is None) == (limits == [None, None]):
            raise refuse("values", "Input takes a shape, or min_shape and max_shape")
        if shape is None and None in limits:
            raise refuse("values", "min_shape and max_shape come together")
        if not isinstance(keywords.get("dtype", DType.FLOAT), DType):
            raise refuse("arguments", "dtype is one of the package's own")
        if not isinstance(keywords.get("format", TensorFormat.ND), TensorFormat):
            raise refuse("arguments", "format is a TensorFormat")
        if shape is not None:
            return _shape(shape), None
        low, high = (_shape(limit) for limit in limits)
        if len(low) != len(high) or any(a > b for a, b in zip(low, high)):
            raise refuse("values", f"min_shape {low} is not within max_shape {high}")
        return None, (low, high)

    def compile(self, module: Any, *positional: Any, **keywords: Any) -> Any:
        """Return a compiled module, as the package's function of the name does."""
        MACHINE.step("compile")
        if positional:
            raise refuse("arguments", "everything after module goes by keyword")
        options = self._options(keywords)
        shape = self._static_shape(options["inputs"])
        _check_module(module)
        outside = _unsupported(module, options["torch_executed_ops"])
        if outside and options["require_full_compilation"]:
            raise refuse("operator", f"unsupported operators: {', '.join(outside)}")
        source = _bytes_of(module)
        key = hashlib.sha256(source + repr(shape).encode()).digest()
        level = options["optimization_level"]
        if level == 2 and key not in MACHINE.tuned:
            raise refuse("order", "level 2 tunes what level 1 has tuned before")
        if level == 1:
            MACHINE.tuned.add(key)
        if outside:
            return _script(scripted.OnHost(module))
        engine = self._engine(source, shape, options)
        return _script(scripted.OnDevice(engine))

    def export_engine(self, module: Any, method: str, **keywords: Any) -> Any:
        """Give the engine alone, ``.om``: to ``path``, or as bytes."""
        MACHINE.step("export_engine")
        path = keywords.pop("path", None)
        if self.profile.returns_engine == (path is not None):
            wanted = "returns the bytes" if self.profile.returns_engine else "takes path="
            raise refuse("arguments", f"export_engine {wanted}")
        if method != "forward":
            raise refuse("values", f"no method {method}")
        options = self._options(keywords)
        _check_module(module)
        data = bytes(
            self._engine(_bytes_of(module), self._static_shape(options["inputs"]), options).numpy()
        )
        return data if path is None else Path(path).write_bytes(data)

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "inputs": None,
            "precision_policy": self.PrecisionPolicy.PREF_FP32,
            "truncate_long_and_double": True,
            "require_full_compilation": False,
            "allow_tensor_replace_int": False,
            "min_block_size": self.profile.min_block_size,
            "torch_executed_ops": [],
            "soc_version": "Ascend310P3",
            "optimization_level": 0,
        }
        _check_names("compile", given, set(defaults))
        options = {**defaults, **given}
        for name, default in defaults.items():
            if name != "inputs" and type(options[name]) is not type(default):
                wanted, got = type(default).__name__, type(options[name]).__name__
                raise refuse("arguments", f"{name} must be {wanted}, got {got}")
        if options["soc_version"] not in SOCS:
            raise refuse("values", f"unknown soc_version {options['soc_version']}")
        if options["optimization_level"] not in (0, 1, 2):
            raise refuse("values", f"optimization_level {options['optimization_level']}")
        if options["min_block_size"] < 1:
            raise refuse("values", f"min_block_size {options['min_block_size']}")
        for name in options["torch_executed_ops"]:
            if not (isinstance(name, str) and name.startswith("aten::")):
                raise refuse("values", f'torch_executed_ops are like "aten::add", got {name}')
        return options

    def _static_shape(self, inputs: Any) -> tuple[int, ...]:
        """Return the one shape of the one input that the double computes; judge all others."""
        if not _is(inputs, list) or not inputs:
            raise refuse("arguments", "inputs must be a list of Input")
        given: list[Any] = inputs
        gears = _is(given[0], list)
        profiles: list[Any] = given if gears else [given]
        if gears and not self.profile.gears:
            raise refuse("arguments", "inputs must be a list of Input")
        if gears and not 2 <= len(profiles) <= 100:
            raise refuse("values", f"{len(profiles)} profiles: 2 to 100 are allowed")
        for profile in profiles:
            if not _is(profile, list) or not profile:
                raise refuse("arguments", "inputs must be a list of Input, or of lists of it")
            for kind in [type(item).__name__ for item in profile]:
                if kind != "Input":
                    raise refuse("arguments", f"an input is an Input, got {kind}")
        if gears or profiles[0][0].shape is None or len(profiles[0]) != 1:
            # The package takes these; a double that guessed at them would prove nothing.
            raise NotImplementedError("the double computes one input of a static shape only")
        shape: tuple[int, ...] = profiles[0][0].shape
        return shape

    def _engine(self, source: bytes, shape: tuple[int, ...], options: dict[str, Any]) -> Any:
        header = {
            "double": True,
            "profile": self.profile.name,
            "shape": shape,
            "soc_version": options["soc_version"],
            "precision": options["precision_policy"].name,
            "optimization_level": options["optimization_level"],
        }
        text = json.dumps(header).encode().ljust(_HEADER)
        return torch.frombuffer(bytearray(text + source), dtype=torch.uint8)

    def _judge(self, check: Callable[..., None]) -> Callable[..., bool]:
        """Return an operator that says whether ``check`` raises, and keeps the reason.

        What an operator of Python's raises loses its text in TorchScript of torch 2.0.
        """

        def judge(*arguments: Any) -> bool:
            try:
                check(*arguments)
            except Exception as error:  # whatever it is, the package throws a class of its own
                self._reason = f"{type(error).__name__}: {error}"
                return True
            return False

        return judge

    def _why(self, _tensor: Any) -> str:
        return self._reason

    def _attach(self, engine: Any) -> None:
        """Take an engine to the device, when a compiled module is loaded."""
        MACHINE.step("load")
        self._known(engine)

    def _known(self, engine: Any) -> _Engine:
        known = self._engines.get(engine.data_ptr())
        if known is None:
            data = bytes(engine.numpy())
            header = json.loads(data[:_HEADER])
            if header["profile"] != self.profile.name:
                raise refuse("values", f"an engine of another version, {header['profile']}")
            module = _quiet_load(data[_HEADER:])
            with torch.no_grad():
                out = module(torch.zeros(header["shape"]))
            known = _Engine(engine, tuple(header["shape"]), header["precision"], module, out.shape)
            self._engines[engine.data_ptr()] = known
        return known

    def _check_input(self, engine: Any, x: Any) -> None:
        MACHINE.step("forward")
        known = self._known(engine)
        with torch._C.DisableTorchFunctionSubclass():
            shape, dtype = tuple(x.shape), x.dtype
        if (shape, dtype) != (known.shape, torch.float32):
            raise refuse(
                "values", f"MIE08E000001: expected {known.shape} float32, got {shape} {dtype}"
            )
        self._check_place(x)

    def _check_on_host(self, x: Any) -> None:
        MACHINE.step("forward")
        self._check_place(x)

    def _check_place(self, x: Any) -> None:
        if numbers_of(x) is None and self.profile.only_npu:
            raise refuse("device", "the input must be on npu, got cpu")

    def _execute(self, engine: Any, x: Any) -> Any:
        known, numbers = self._known(engine), numbers_of(x)
        if numbers is None:
            MACHINE.submit(lambda: None)
            MACHINE.drain()
            return known.compute(x)
        results: list[Any] = []
        MACHINE.submit(lambda: results.append(known.compute(numbers())))
        return returned(known.out, torch.float32, lambda: results[0])

    def _to_host(self, x: Any) -> Any:
        numbers = numbers_of(x)
        MACHINE.drain()
        return x.clone() if numbers is None else numbers().clone()

    def _to_npu(self, x: Any, like: Any) -> Any:
        result = x.clone()
        if numbers_of(like) is None:
            return result
        return returned(result.shape, result.dtype, lambda: result)


class _Engine(NamedTuple):
    data: Any  # kept, so that its address is nobody else's
    shape: tuple[int, ...]
    precision: str
    module: Any
    out: Any

    def compute(self, x: Any) -> Any:
        half = self.precision in ("FP16", "PREF_FP16")
        with torch.no_grad(), half_precision() if half else nullcontext():
            return self.module(x)


@contextmanager
def _quiet() -> Generator[None, None, None]:
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # TorchScript's own, since 2.5
            warnings.simplefilter("ignore", category)
        yield


def _script(module: Any) -> Any:
    with _quiet():
        return torch.jit.script(module.eval())


def _quiet_load(data: bytes) -> Any:
    with _quiet():
        return torch.jit.load(io.BytesIO(data)).eval()


def _bytes_of(module: Any) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.jit.save(module, buffer)
    return buffer.getvalue()


def _check_names(function: str, given: dict[str, Any], allowed: set[str]) -> None:
    for name in given:
        if name not in allowed:
            raise refuse("arguments", f"{function} got an unexpected keyword argument '{name}'")


def _is(value: Any, *kinds: type) -> bool:
    """Say whether a value is of a kind; its type stays what nobody knows."""
    return isinstance(value, kinds)


def _shape(shape: Any) -> tuple[int, ...]:
    sizes: tuple[Any, ...] = (None,)
    if _is(shape, list, tuple):
        sizes = tuple(shape)
    if any(type(size) is not int for size in sizes):
        raise refuse("arguments", f"a shape is a list or tuple of int, got {shape!r}")
    if not 1 <= len(sizes) <= 8 or min(sizes) < 1:
        raise refuse("values", f"a shape is of 1 to 8 sizes from 1 on, got {shape!r}")
    return sizes


def _check_module(module: Any) -> None:
    if not isinstance(module, torch.jit.ScriptModule):
        raise refuse("arguments", f"module must be a ScriptModule, got {type(module).__name__}")
    if module.training:
        raise refuse("order", "module is in training mode")


def _unsupported(module: Any, outside: list[str]) -> list[str]:
    kinds = {node.kind() for node in module.inlined_graph.nodes()}
    names = {kind for kind in kinds if kind.startswith("aten::")}
    return sorted(name for name in names if name in outside or not _SUPPORTED.fullmatch(name))
