"""The classes that a TorchScript archive's code declares, and the modules that are to be of them.

PyTorch gives an instance the attributes that its class declares and believes of each what the
pickle says: a module in place of a tensor, or one of another class, and running the model reads
memory as what it is not. A long chain of classes ends the process as it is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from vitaie.runtime._torchscript_pickle import Module, Tensor

Classes = Mapping[str, Mapping[str, str]]
"""The type of each attribute as the code writes it, by class and by attribute."""

_MAX_DEPTH = 16
_TYPE = r"(?P<type>Tensor|bool|Optional\[bool\]|__torch__(\.\w+)+)"
_CLASS = re.compile(r"class (?P<name>\w+)\(Module\):\Z")
_TENSORS = re.compile(r'  __(parameters|buffers)__ = \[(?P<names>("\w+", )*)\]\Z')
_ATTRIBUTE = re.compile(
    rf'  ((?P<name>[A-Za-z_]\w*) : |__annotations__\["(?P<text>\w+)"\] = ){_TYPE}\Z'
)
_METHOD = re.compile(r"  def forward\d*\(self: (?P<self>[\w.]+)(,|\) -> [^:]+:)\Z")


class ClassError(Exception):
    """Code that declares classes as torch does not, or a module that is not of its class."""


def read_classes(module: str, code: str) -> Classes:
    """Return the classes that a file of code declares, each of its lines as torch writes it.

    Args:
        module: What the file's classes are named in, such as ``__torch__.torch.nn.modules.conv``.
        code: The file, in ASCII.

    Raises:
        ClassError: A line that is part of no class, or a class or attribute twice.
    """
    classes: dict[str, dict[str, str]] = {}
    tensors: list[tuple[str, str]] = []
    name, in_method = "", True
    for line in code.splitlines():
        if match := _CLASS.match(line):
            name, in_method = f"{module}.{match['name']}", False
            _add(classes, name, {})
        elif name and (match := _METHOD.match(line)):
            in_method = True
            if match["self"] != name:
                raise ClassError(f"a method of {match['self']} in {name}")
        elif name and in_method and line.startswith("    "):
            pass  # a method's code: its words are checked one by one
        elif not in_method and (match := _TENSORS.match(line)):
            tensors += [(name, text) for text in re.findall(r"\w+", match["names"])]
        elif not in_method and (match := _ATTRIBUTE.match(line)):
            _add(classes[name], match["name"] or match["text"], match["type"])
        else:
            raise ClassError(f"{line!r} in {name or 'no class'}")
    for name, text in tensors:
        if classes[name].get(text) != "Tensor":
            raise ClassError(f"{name}.{text}, which is to be a tensor")
    return classes


def _add(table: dict[str, Any], name: str, value: object) -> None:
    if name in table:
        raise ClassError(f"{name} twice")
    table[name] = value


def check_module(value: object, classes: Classes) -> None:
    """See that a value is a module of the classes declared, of all of them, through and through.

    Raises:
        ClassError: It is not a module; an attribute is missing, too many or of another type; a
            class is not declared, or is that of no module; modules are deeper in each other than
            those of a Vision Transformer.
    """
    if not isinstance(value, Module):
        raise ClassError("no module")
    seen: set[str] = set()
    level = [value]
    for _ in range(_MAX_DEPTH):
        seen.update(module.type for module in level)
        level = [child for module in level for child in _children(module, classes)]
    if level:
        raise ClassError(f"modules nested deeper than {_MAX_DEPTH}")
    if unused := classes.keys() - seen:
        raise ClassError(f"no module of {min(unused)}")


def _children(module: Module, classes: Classes) -> list[Module]:
    """Return the modules that are attributes of one whose attributes are those of its class."""
    if module.type not in classes:
        raise ClassError(f"a {module.type}, which no code declares")
    declared = classes[module.type]
    if odd := declared.keys() ^ module.attributes.keys():
        raise ClassError(f"{module.type}.{min(odd)}, declared or given, but not both")
    for name, value in module.attributes.items():
        if not _is_of(value, declared[name]):
            raise ClassError(f"{module.type}.{name}, which is no {declared[name]}")
    return [value for value in module.attributes.values() if isinstance(value, Module)]


def _is_of(value: object, declared: str) -> bool:
    if declared == "Tensor":
        return isinstance(value, Tensor)
    if declared in ("bool", "Optional[bool]"):
        return isinstance(value, bool) or (value is None and declared != "bool")
    return isinstance(value, Module) and value.type == declared


def check_constants(value: object) -> None:
    """See that the constants of the code are a tuple of tensors.

    Raises:
        ClassError: They are something else.
    """
    if type(value) is not tuple or set(map(type, cast("tuple[object, ...]", value))) - {Tensor}:
        raise ClassError("no tuple of tensors")
