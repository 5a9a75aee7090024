"""Modules of a TorchScript archive put where they do not belong, for a process that may crash.

``python -m tests.support.fuzz_torchscript MODEL.ts COUNT`` judges COUNT archives with changed
modules, gives torch those that are not refused, and prints how many were. What torch makes of
them is to be the same model.
"""

from __future__ import annotations

import importlib
import io
import random
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

from tests.support.npz import Entry, archive
from tests.support.torch_pickle import Module, Tensor, read, write
from vitaie.manifests.errors import BundleError
from vitaie.runtime._torchscript_archive import check_archive

_INPUT = (2, 3, 32, 32)
"""A batch that the tests' small model takes."""

_NO_TENSOR: tuple[Any, ...] = (None, True, 7, "text", (), (1, 2))


def _classes_swapped(tree: Module, chance: random.Random) -> None:
    one, two = chance.sample(tree.all(), 2)
    one.module, one.name, two.module, two.name = two.module, two.name, one.module, one.name


def _class_of_another(tree: Module, chance: random.Random) -> None:
    one, two = chance.sample(tree.all(), 2)
    one.module, one.name = two.module, two.name


def _class_unknown(tree: Module, chance: random.Random) -> None:
    chance.choice(tree.all()).name = "Unknown"


def _attribute_removed(tree: Module, chance: random.Random) -> None:
    state = chance.choice(tree.all()).state
    del state[chance.choice(list(state))]


def _attribute_renamed(tree: Module, chance: random.Random) -> None:
    state = chance.choice(tree.all()).state
    state[chance.choice(["weight", "evil", "0", "forward"])] = state.pop(chance.choice(list(state)))


def _attribute_added(tree: Module, chance: random.Random) -> None:
    chance.choice(tree.all()).state["more"] = chance.choice(_NO_TENSOR)


def _attributes_emptied(tree: Module, chance: random.Random) -> None:
    chance.choice(tree.all()).state = {}


def _attributes_in_another_order(tree: Module, chance: random.Random) -> None:
    module = chance.choice(tree.all())
    items = list(module.state.items())
    chance.shuffle(items)
    module.state = dict(items)


def _module_for_a_tensor(tree: Module, chance: random.Random) -> None:
    state, name = _place(tree, chance, Tensor)
    state[name] = read(write(chance.choice(tree.all())))


def _tensor_for_a_module(tree: Module, chance: random.Random) -> None:
    state, name = _place(tree, chance, Module)
    other, tensor = _place(tree, chance, Tensor)
    state[name] = other[tensor]


def _nothing_for_a_tensor_or_module(tree: Module, chance: random.Random) -> None:
    state, name = _place(tree, chance, chance.choice([Module, Tensor]))
    state[name] = chance.choice(_NO_TENSOR)


def _tensor_for_a_flag(tree: Module, chance: random.Random) -> None:
    other, tensor = _place(tree, chance, Tensor)
    chance.choice(tree.all()).state["training"] = other[tensor]


def _children_swapped(tree: Module, chance: random.Random) -> None:
    (one, name), (two, other) = (_place(tree, chance, Module) for _ in range(2))
    if not {id(part) for part in (one[name].all())} & {id(part) for part in two[other].all()}:
        one[name], two[other] = two[other], one[name]


CHANGES = (
    _classes_swapped,
    _class_of_another,
    _class_unknown,
    _attribute_removed,
    _attribute_renamed,
    _attribute_added,
    _attributes_emptied,
    _attributes_in_another_order,
    _module_for_a_tensor,
    _tensor_for_a_module,
    _nothing_for_a_tensor_or_module,
    _tensor_for_a_flag,
    _children_swapped,
)


def _place(tree: Module, chance: random.Random, kind: type[Any]) -> tuple[dict[Any, Any], str]:
    """Return where an attribute of this kind is: its module's attributes, and its name."""
    places = [
        (module.state, name)
        for module in tree.all()
        for name, value in module.state.items()
        if isinstance(value, kind)
    ]
    return chance.choice(places)


def main(path: Path, count: int) -> None:
    """Judge the archives, run those accepted, print what became of them."""
    torch: Any = importlib.import_module("torch")
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    pickled = members["model/data.pkl"]
    batch = torch.randn(_INPUT)
    expected = torch.jit.load(str(path))(batch)
    refused = accepted = 0
    for number in range(count):
        changed = read(pickled)
        CHANGES[number % len(CHANGES)](changed, random.Random(number))
        members["model/data.pkl"] = write(changed)
        data = archive([Entry(name, member) for name, member in members.items()])
        try:
            check_archive(memoryview(data), str(path))
        except BundleError:
            refused += 1
            continue
        found = torch.jit.load(io.BytesIO(data))(batch)
        if not torch.equal(found, expected):
            raise AssertionError(f"change {number} is another model")
        accepted += 1
    print(refused, accepted)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), int(sys.argv[2]))
