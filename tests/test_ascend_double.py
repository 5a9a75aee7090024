"""The double of the Ascend package refuses all that the documentation forbids: each rule, broken.

What passes on the double keeps every rule that is known; these tests hold that the double looks.
"""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Generator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import ascend
from tests.support.untyped import torch
from vitaie.builder.device_graph import make_device_graph
from vitaie.manifests.manifest import Model
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._torchscript import load_module

SHAPE = (2, 3, 32, 32)
Fixture = Generator[Any, None, None]


@pytest.fixture(scope="module", name="source")
def _source(small_bundle: Path) -> tuple[Any, Model]:
    with open_bundle(small_bundle) as bundle:
        return load_module(bundle, "the test"), bundle.manifest.model


@pytest.fixture(scope="module", name="graph")
def _graph(source: tuple[Any, Model]) -> Any:
    return make_device_graph(*source, SHAPE[0]).module


@pytest.fixture(name="aie", params=ascend.PACKAGES)
def _aie(request: pytest.FixtureRequest) -> Fixture:
    """Return a version's package with its device set, as every call but ``set_device`` wants it."""
    with ascend.installed(request.param) as package:
        package.set_device(0)
        yield package


def policies(aie: Any) -> Any:
    return aie._enums.PrecisionPolicy if hasattr(aie, "_enums") else aie.PrecisionPolicy


def one_input(aie: Any) -> Any:
    return aie.Input(SHAPE, dtype=aie.dtype.FLOAT)


def compiled(aie: Any, graph: Any, **more: Any) -> Any:
    keywords = {"inputs": [one_input(aie)], "require_full_compilation": True, **more}
    return aie.compile(graph, **keywords)


def images() -> Any:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.uniform(-1, 1, SHAPE).astype(np.float32))


def refused(call: Callable[[], object]) -> str:
    """Return the message of what a call raises, whatever class it is."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - no class is documented
        call()
    return str(caught.value)


def quiet_load(data: io.BytesIO) -> Any:
    data.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(data)


def saved(module: Any) -> io.BytesIO:
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(module, data)
    return data


def test_the_right_way_works_in_every_version(
    aie: Any, graph: Any, source: tuple[Any, Model]
) -> None:
    module = compiled(aie, graph)
    stream = aie.npu.Stream("npu:0")
    with aie.npu.stream(stream):
        result = module(images().to("npu:0"))
        stream.synchronize()
    expected = source[0](images())
    assert torch.allclose(result.to("cpu"), expected, atol=1e-4)
    again = quiet_load(saved(module))
    assert torch.equal(again(images().to("npu:0")).to("cpu"), result.to("cpu"))
    aie.finalize()


def test_its_version_is_double(aie: Any) -> None:
    assert metadata.version(aie.__name__.replace("_", "-")) == "double"
    assert not hasattr(aie, "__version__")


def test_the_versions_differ_in_what_exists() -> None:
    def found(profile: str) -> tuple[bool, bool, bool]:
        with ascend.installed(profile) as aie:
            return (
                hasattr(aie, "PrecisionPolicy"),
                hasattr(aie, "TensorFormat"),
                hasattr(policies(aie), "PREF_FP16"),
            )

    assert [found(profile) for profile in ascend.PACKAGES] == [
        (False, False, False),
        (True, True, False),
        (True, True, True),
    ]


def test_torch_is_imported_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import mindietorch"],
        env=ascend.environment("v100"),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "import torch first" in done.stderr


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown keyword": ({"soc": "Ascend310P3"}, "unexpected keyword"),
    "a policy that is a number": ({"precision_policy": 1}, "must be PrecisionPolicy"),
    "a flag that is a number": ({"require_full_compilation": 1}, "must be bool"),
    "a level that is a flag": ({"optimization_level": True}, "must be int"),
    "a level that does not exist": ({"optimization_level": 3}, "optimization_level 3"),
    "level 2 before level 1": ({"optimization_level": 2}, "level 1"),
    "blocks of nothing": ({"min_block_size": 0}, "min_block_size 0"),
    "operators that are no list": ({"torch_executed_ops": "aten::add"}, "must be list"),
    "an operator without its namespace": ({"torch_executed_ops": ["add"]}, "aten::add"),
    "another chip": ({"soc_version": "310P3"}, "unknown soc_version"),
    "no inputs": ({"inputs": []}, "list of Input"),
    "inputs that are none": ({"inputs": None}, "list of Input"),
    "an input that is a shape": ({"inputs": [SHAPE]}, "Input, got tuple"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_compile_refuses(aie: Any, graph: Any, case: str) -> None:
    keywords, message = ARGUMENTS[case]
    assert message in refused(lambda: compiled(aie, graph, **keywords))


def test_compile_takes_everything_after_module_by_keyword(aie: Any, graph: Any) -> None:
    assert "by keyword" in refused(lambda: aie.compile(graph, [one_input(aie)]))


def test_compile_takes_torchscript_in_evaluation_mode(aie: Any, graph: Any) -> None:
    assert "ScriptModule" in refused(lambda: compiled(aie, torch.nn.Linear(3, 3)))
    module = quiet_load(saved(graph)).train()
    assert "training mode" in refused(lambda: compiled(aie, module))


def test_level_2_comes_after_level_1(aie: Any, graph: Any) -> None:
    compiled(aie, graph, optimization_level=1)
    compiled(aie, graph, optimization_level=2)


def test_an_operator_that_is_not_supported_is_named(aie: Any, source: tuple[Any, Model]) -> None:
    from vitaie.builder.vit import Steps

    fused = make_device_graph(*source, SHAPE[0], Steps(unfused_attention=False)).module
    assert "scaled_dot_product_attention" in refused(lambda: compiled(aie, fused))
    outside = compiled(aie, fused, require_full_compilation=False)
    kinds = {node.kind() for node in outside.inlined_graph.nodes()}
    assert "aten::scaled_dot_product_attention" in kinds
    result = outside(images().to("npu:0")).to("cpu")
    assert torch.allclose(result, source[0](images()), atol=1e-4)


def test_operators_can_be_sent_to_the_host(aie: Any, graph: Any) -> None:
    message = refused(lambda: compiled(aie, graph, torch_executed_ops=["aten::softmax"]))
    assert "aten::softmax" in message


INPUTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "two positional": (lambda aie: aie.Input((1, 2), (1, 2)), "at most one"),
    "nothing": (lambda aie: aie.Input(), "takes a shape"),
    "a shape and a range": (
        lambda aie: aie.Input((1, 2), min_shape=(1, 2), max_shape=(1, 2)),
        "takes a shape, or",
    ),
    "half a range": (lambda aie: aie.Input(min_shape=(1, 2)), "come together"),
    "a range upside down": (lambda aie: aie.Input(min_shape=(2,), max_shape=(1,)), "not within"),
    "nine dimensions": (lambda aie: aie.Input((1,) * 9), "1 to 8"),
    "a size of nothing": (lambda aie: aie.Input((0, 3)), "from 1 on"),
    "a shape of floats": (lambda aie: aie.Input((1.0, 3)), "of int"),
    "torch's dtype": (lambda aie: aie.Input((1,), dtype=torch.float32), "package's own"),
    "an unknown keyword": (lambda aie: aie.Input((1,), name="x"), "unexpected keyword"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_input_refuses(aie: Any, case: str) -> None:
    make, message = INPUTS[case]
    assert message in refused(lambda: make(aie))


def test_input_takes_a_format_where_there_is_one(aie: Any) -> None:
    if hasattr(aie, "TensorFormat"):
        aie.Input((1, 2), format=aie.TensorFormat.ND)
        assert "TensorFormat" in refused(lambda: aie.Input((1, 2), format="ND"))
    else:
        assert "unexpected keyword" in refused(lambda: aie.Input((1, 2), format="ND"))


def test_gears_are_2_to_100_profiles_and_not_of_torch_aie(aie: Any, graph: Any) -> None:
    one = [one_input(aie)]
    for count in (1, 101):
        message = refused(partial(compiled, aie, graph, inputs=[one] * count))
        known = aie.__name__ == "mindietorch"
        assert ("2 to 100" if known else "list of Input") in message


def test_export_engine_gives_bytes_or_writes_a_file_as_the_version_says(
    aie: Any, graph: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "model.om")
    inputs = [one_input(aie)]
    if aie.__name__ == "torch_aie":
        aie.export_engine(graph, "forward", inputs=inputs, path=path)
        assert (tmp_path / "model.om").stat().st_size > 0
        assert "path" in refused(lambda: aie.export_engine(graph, "forward", inputs=inputs))
    else:
        assert isinstance(aie.export_engine(graph, "forward", inputs=inputs), bytes)
        assert "bytes" in refused(
            lambda: aie.export_engine(graph, "forward", inputs=inputs, path=path)
        )


@pytest.mark.parametrize("profile", ascend.PACKAGES)
def test_nothing_goes_before_set_device(profile: str, graph: Any) -> None:
    with ascend.installed(profile) as aie:
        aie.set_device(0)
        data = saved(compiled(aie, graph))
    with ascend.installed(profile) as aie:
        for call in (
            lambda: compiled(aie, graph),
            lambda: quiet_load(data),
            lambda: aie.npu.Stream("npu:0"),
            lambda: images().to("npu:0"),
            aie.finalize,
        ):
            assert "before set_device" in refused(call)


@pytest.mark.parametrize("profile", ascend.PACKAGES)
def test_a_device_is_an_int_that_exists_and_one_for_each_process(profile: str) -> None:
    with ascend.installed(profile) as aie:
        assert "must be int" in refused(lambda: aie.set_device(True))
        assert "must be int" in refused(lambda: aie.set_device("0"))
        assert "device 2" in refused(lambda: aie.set_device(2))
        aie.set_device(1)
        assert "already" in refused(lambda: aie.set_device(0))


def test_one_thread_owns_the_device(aie: Any, graph: Any) -> None:
    module = compiled(aie, graph)
    raised: list[str] = []

    def elsewhere() -> None:
        raised.append(refused(lambda: module(images())))
        raised.append(refused(lambda: compiled(aie, graph)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert ["another thread" in message for message in raised] == [True, True]


def test_nothing_goes_after_finalize_and_it_goes_once(aie: Any, graph: Any) -> None:
    module = compiled(aie, graph)
    aie.finalize()
    for call in (
        aie.finalize,
        lambda: aie.set_device(0),
        lambda: compiled(aie, graph),
        lambda: module(images()),
    ):
        assert "after finalize" in refused(call)


def test_a_process_that_does_not_finalize_dumps_core() -> None:
    program = "import torch, mindietorch\nmindietorch.set_device(0)"
    for end, code in (("", -6), ("\nmindietorch.finalize()", 0)):
        done = subprocess.run(
            [sys.executable, "-c", f"import resource\n{program}{end}"],
            env=ascend.environment("v100"),
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr


def test_a_forward_of_another_shape_dtype_or_count_is_refused(aie: Any, graph: Any) -> None:
    module = compiled(aie, graph)
    for batch in (images()[:1], images().double(), images().half()):
        message = refused(partial(module, batch.to("npu:0")))
        assert "MIE08E000001" in message
    refused(lambda: module(images().to("npu:0"), images().to("npu:0")))


def test_a_cpu_tensor_is_taken_by_the_older_versions_only(aie: Any, graph: Any) -> None:
    module = compiled(aie, graph)
    if hasattr(policies(aie), "PREF_FP16"):
        assert "on npu" in refused(lambda: module(images()))
    else:
        assert module(images()).device.type == "cpu"


USES: dict[str, Callable[[Any], object]] = {
    "printed": repr,
    "formatted": lambda tensor: f"{tensor}",
    "added": lambda tensor: tensor + 1,
    "read": lambda tensor: tensor.numpy(),
    "measured": lambda tensor: tensor.shape,
    "asked": bool,
    "listed": lambda tensor: tensor.tolist(),
    "compared": lambda tensor: torch.equal(tensor, tensor),
    "converted": lambda tensor: tensor.to(torch.float16),
    "reduced": lambda tensor: torch.argmax(tensor),
}


@pytest.mark.parametrize("use", USES)
def test_an_npu_tensor_can_only_be_copied(aie: Any, use: str) -> None:
    tensor = images().to("npu:0")
    assert "copied" in refused(lambda: USES[use](tensor))
    assert torch.equal(tensor.to("cpu"), images())


def test_a_module_that_was_not_compiled_finds_no_numbers_in_an_npu_tensor(
    aie: Any, graph: Any
) -> None:
    # torch documents no class for an operator that has no numbers to read.
    with pytest.raises((NotImplementedError, RuntimeError)):
        np.asarray(graph(images().to("npu:0")))
    del aie


def test_a_copy_goes_to_the_device_that_was_set(aie: Any) -> None:
    assert "npu:1 is not npu:0" in refused(lambda: images().to("npu:1"))
    assert "npu:1 is not npu:0" in refused(lambda: aie.npu.Stream("npu:1"))


def test_execution_is_asynchronous_and_its_time_shows_after_a_synchronise_only(
    aie: Any, graph: Any
) -> None:
    module, clock = compiled(aie, graph), aie._machine
    stream = aie.npu.Stream("npu:0")
    with aie.npu.stream(stream):
        batch = images().to("npu:0")
        start = clock.now_ns
        module(batch)
        unsynchronised = clock.now_ns - start
        stream.synchronize()
        synchronised = clock.now_ns - start
    assert unsynchronised == 0 < synchronised


def test_there_is_no_synchronise_of_all_streams(aie: Any) -> None:
    assert not hasattr(aie.npu, "synchronize")


@pytest.mark.parametrize("profile", ascend.PACKAGES)
def test_what_it_saves_does_not_load_without_it_nor_in_another_version(
    profile: str, graph: Any
) -> None:
    with ascend.installed(profile) as aie:
        aie.set_device(0)
        data = saved(compiled(aie, graph))
    assert "Unknown builtin op" in refused(lambda: quiet_load(data))
    for other in ascend.PACKAGES:
        if other != profile:
            with ascend.installed(other) as aie:
                aie.set_device(0)
                message = refused(lambda: quiet_load(data)(images().to("npu:0")))
                assert f"another version, {profile}" in message


def test_half_precision_is_rounded_and_full_precision_is_not(
    aie: Any, graph: Any, source: tuple[Any, Model]
) -> None:
    expected = source[0](images())

    def logits(policy: str) -> Any:
        module = compiled(aie, graph, precision_policy=getattr(policies(aie), policy))
        return module(images().to("npu:0")).to("cpu")

    half = logits("FP16")
    assert torch.equal(half, half.half().float()), "every result is a number of half precision"
    assert 1e-5 < (half - expected).abs().max() < 0.05
    assert (logits("FP32") - expected).abs().max() < 1e-4
    assert torch.equal(logits("PREF_FP32"), logits("FP32"))
    if hasattr(policies(aie), "PREF_FP16"):
        assert torch.equal(logits("PREF_FP16"), half)


def test_what_it_raises_is_of_many_classes(aie: Any, graph: Any) -> None:
    classes: set[type[BaseException]] = set()
    calls: list[Callable[[], object]] = [
        lambda: aie.compile(graph, 1),
        lambda: aie.Input((0,)),
        lambda: aie.set_device(5),
        lambda: images().to("npu:1"),
        lambda: images().to("npu:0").numpy(),
        lambda: compiled(aie, graph, torch_executed_ops=["aten::add"]),
    ]
    for call in calls:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - no class is documented
            call()
        classes.add(caught.type)
    assert len(classes) >= 5


def test_it_leaves_no_trace() -> None:
    plain = torch.Tensor.to
    with ascend.installed("v100"):
        assert torch.Tensor.to is not plain
    assert torch.Tensor.to is plain
    assert "mindietorch" not in sys.modules
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("mindietorch")
