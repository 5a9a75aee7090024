"""An augreg ``.npz`` checkpoint: read safely, and known by its arrays, not by its name.

    with read_checkpoint("B_16-….npz") as checkpoint:
        card = identify(checkpoint, known_cards())
        head = checkpoint.array("head/kernel")          # float32 [width, classes]

The layout is that of the files published with "How to train your ViT?" (arXiv:2106.10270), which
timm's loader reads without a prefix: the names Flax gave the parameters, kernels as [in, out].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Optional, Union

import numpy as np
from numpy.typing import NDArray

from vitaie.builder._npz import Member, read_array, read_members
from vitaie.builder._open_file import OpenFile
from vitaie.manifests.card import Architecture, Card, known_cards
from vitaie.manifests.errors import CheckpointError

Shape = tuple[int, ...]


class Checkpoint:
    """An open checkpoint, every header of which has been checked. ``read_checkpoint`` makes it.

    Attributes:
        path: The file's name; all reading is from the file that was opened under it.
        shapes: The shape of each array, by name, in the file's order.
    """

    def __init__(self, file: OpenFile, members: Mapping[str, Member]) -> None:
        """Take over an open file and its members."""
        self._file = file
        self._members = members
        self._sha256: Optional[str] = None
        self.path = file.path
        self.shapes: Mapping[str, Shape] = MappingProxyType(
            {name: member.shape for name, member in members.items()}
        )

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self._file.size

    @property
    def sha256(self) -> str:
        """The sha256 of the file's bytes, taken when first asked for."""
        if self._sha256 is None:
            self._sha256 = self._file.sha256()
        return self._sha256

    def array(self, name: str) -> NDArray[np.float32]:
        """Return one array, C-contiguous; only this one is in memory.

        Raises:
            CheckpointError: E_CHECKPOINT_ARCHIVE when its bytes are damaged;
                E_CHECKPOINT_VALUES when it holds NaN or infinity.
        """
        array = read_array(self._file, self._members[name])
        finite = np.isfinite(array)
        if not finite.all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise CheckpointError(
                "E_CHECKPOINT_VALUES",
                self.path,
                field=name,
                expected="finite numbers",
                got=f"{array[index]} at {list(index)}",
            )
        return array

    def check_unchanged(self) -> None:
        """Raise E_CHECKPOINT_CHANGED if the file was written to since it was opened."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Checkpoint:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Close the file."""
        self.close()


def read_checkpoint(path: Union[str, Path]) -> Checkpoint:
    """Open a checkpoint and check every member's headers; no array is read.

    Use it in a ``with`` statement, or close it.

    Raises:
        CheckpointError: E_CHECKPOINT_UNREADABLE, E_CHECKPOINT_NOT_NPZ, E_CHECKPOINT_ARCHIVE,
            E_CHECKPOINT_MEMBER or E_CHECKPOINT_DTYPE, with the member at fault.
    """
    file = OpenFile(Path(path))
    try:
        return Checkpoint(file, read_members(file))
    except BaseException:
        file.close()
        raise


def layout(model: Architecture) -> dict[str, Shape]:
    """Return the arrays of the augreg layout: each name and its shape, in the order of the data."""
    width, mlp = model.width, model.mlp_dim
    heads, head_width = model.heads, model.width // model.heads
    arrays: dict[str, Shape] = {
        "embedding/kernel": (model.patch_size, model.patch_size, 3, width),
        "embedding/bias": (width,),
        "cls": (1, 1, width),
        "Transformer/posembed_input/pos_embedding": (1, model.tokens, width),
    }
    for index in range(model.depth):
        block = f"Transformer/encoderblock_{index}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        arrays[f"{block}/LayerNorm_0/scale"] = (width,)
        arrays[f"{block}/LayerNorm_0/bias"] = (width,)
        for projection in ("query", "key", "value"):
            arrays[f"{attention}/{projection}/kernel"] = (width, heads, head_width)
            arrays[f"{attention}/{projection}/bias"] = (heads, head_width)
        arrays[f"{attention}/out/kernel"] = (heads, head_width, width)
        arrays[f"{attention}/out/bias"] = (width,)
        arrays[f"{block}/LayerNorm_2/scale"] = (width,)
        arrays[f"{block}/LayerNorm_2/bias"] = (width,)
        arrays[f"{block}/MlpBlock_3/Dense_0/kernel"] = (width, mlp)
        arrays[f"{block}/MlpBlock_3/Dense_0/bias"] = (mlp,)
        arrays[f"{block}/MlpBlock_3/Dense_1/kernel"] = (mlp, width)
        arrays[f"{block}/MlpBlock_3/Dense_1/bias"] = (width,)
    arrays["Transformer/encoder_norm/scale"] = (width,)
    arrays["Transformer/encoder_norm/bias"] = (width,)
    arrays["head/kernel"] = (width, model.classes)
    arrays["head/bias"] = (model.classes,)
    return arrays


def identify(checkpoint: Checkpoint, cards: Iterable[Card]) -> Card:
    """Return the first card whose arrays the checkpoint holds, by names and shapes alone.

    Raises:
        CheckpointError: E_CHECKPOINT_UNKNOWN_VARIANT, with the first difference to the card
            that most arrays agree with.
    """
    candidates = tuple(cards)
    for card in candidates:
        if checkpoint.shapes == layout(card.model):
            return card
    nearest = max(candidates, key=lambda card: _agreement(checkpoint.shapes, layout(card.model)))
    difference = _difference(checkpoint.shapes, nearest.model)
    raise CheckpointError(
        "E_CHECKPOINT_UNKNOWN_VARIANT",
        checkpoint.path,
        field=difference.member,
        expected=f"{difference.expected} for {nearest.name}, which comes nearest",
        got=difference.got,
        hint=difference.hint,
    )


def check(checkpoint: Checkpoint, card: Card) -> None:
    """Raise unless the checkpoint holds exactly the arrays of ``card``.

    Raises:
        CheckpointError: E_CHECKPOINT_VARIANT when they are those of another built-in variant;
            else E_CHECKPOINT_KEYS or E_CHECKPOINT_SHAPE with the first member at fault.
    """
    if checkpoint.shapes == layout(card.model):
        return
    for other in known_cards():
        if checkpoint.shapes == layout(other.model):
            raise CheckpointError(
                "E_CHECKPOINT_VARIANT",
                checkpoint.path,
                expected=card.name,
                got=other.name,
                hint=f"Name the variant {other.name}, or give the checkpoint of {card.name}.",
            )
    difference = _difference(checkpoint.shapes, card.model)
    raise CheckpointError(
        difference.code,
        checkpoint.path,
        field=difference.member,
        expected=difference.expected,
        got=difference.got,
        hint=difference.hint,
    )


class Description(NamedTuple):
    """What a sound checkpoint is: the variant, and the file in bytes, arrays and parameters."""

    variant: str
    size: int
    sha256: str
    members: int
    parameters: int


def describe(path: Union[str, Path], cards: Optional[Iterable[Card]] = None) -> Description:
    """Return what the checkpoint is, every array of it read and found sound.

    Args:
        path: The checkpoint.
        cards: The variants it may be; the built-in ones if None.

    Raises:
        CheckpointError: What ``read_checkpoint``, ``identify`` and ``Checkpoint.array`` raise.
    """
    with read_checkpoint(path) as checkpoint:
        card = identify(checkpoint, known_cards() if cards is None else cards)
        for name in checkpoint.shapes:
            checkpoint.array(name)
        sha256 = checkpoint.sha256
        checkpoint.check_unchanged()
        return Description(
            variant=card.name,
            size=checkpoint.size,
            sha256=sha256,
            members=len(checkpoint.shapes),
            parameters=sum(math.prod(shape) for shape in checkpoint.shapes.values()),
        )


class _Difference(NamedTuple):
    code: str
    member: str
    expected: str
    got: str
    hint: str


def _agreement(shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> tuple[int, int]:
    """Return how many names, with and without their shapes, two layouts have in common."""
    return len(shapes.items() & wanted.items()), len(shapes.keys() & wanted.keys())


def _difference(shapes: Mapping[str, Shape], model: Architecture) -> _Difference:
    """Return the first difference to the model's layout, which is known to be there."""
    wanted = layout(model)
    missing = next((name for name in wanted if name not in shapes), None)
    extra = next((name for name in shapes if name not in wanted), None)
    if missing is not None:
        got = "no such array" if extra is None else f"none, but an array {extra}"
        hint = "The layout is that of the augreg release's .npz files: write the arrays so."
        return _Difference("E_CHECKPOINT_KEYS", missing, _array(wanted[missing]), got, hint)
    if extra is not None:
        got = _array(shapes[extra])
        hint = "Leave it out of the file, if the model works without it."
        return _Difference("E_CHECKPOINT_KEYS", extra, "no such array", got, hint)
    name = next(name for name in wanted if shapes[name] != wanted[name])
    return _Difference(
        "E_CHECKPOINT_SHAPE",
        name,
        _array(wanted[name]),
        _array(shapes[name]),
        _shape_hint(name, shapes[name], wanted[name]),
    )


def _array(shape: Shape) -> str:
    return f"an array {list(shape)}"


def _shape_hint(name: str, shape: Shape, wanted: Shape) -> str:
    if name.startswith("head/") and shape[:-1] == wanted[:-1]:
        return f"A model with {shape[-1]} classes of its own needs a card file with its labels."
    if shape == wanted[::-1]:
        return "The array is transposed: the layout has kernels as [in, out]."
    return ""
