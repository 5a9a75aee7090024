"""Variant cards: everything vitaie knows of one model, as data, so that a new model is no code.

A card is one TOML file beside a label file. The built-in ones lie in ``cards/``; a fine-tuned
model with its own classes is a card of its own, given by its path::

    name = "my_vit"
    labels = "my_labels.txt"       # beside the card; one line a class: id, tab, name
    [model]
    image_size = 224
    patch_size = 16
    width = 768
    depth = 12
    heads = 12
    mlp_dim = 3072
    classes = 20
    [preprocess]
    mean = [0.5, 0.5, 0.5]
    std = [0.5, 0.5, 0.5]
    [preprocess.timm]              # shorter side; [preprocess.modelzoo] is a square resize
    resize = 248

``checkpoint`` (the published file's name), ``gflop``, ``[timm]`` and ``[published]`` are optional.
The names in ``cards/imagenet-1k.txt`` are WordNet's, in the order of timm's package data
(``timm/data/_info``, Apache-2.0): ``imagenet_synsets.txt`` and ``imagenet_synset_to_lemma.txt``.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitaie.manifests import digests
from vitaie.manifests.errors import CardError
from vitaie.manifests.fields import Deviation, Line, Mean, OptionalLine, expectation
from vitaie.manifests.manifest import (
    Crop,
    Expected,
    Model,
    Name,
    Percent,
    Positive,
    PositiveFloat,
    Preprocess,
    PublishedAccuracy,
    PublishedSpeed,
    Resize,
    field_path,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Profile = Literal["timm", "modelzoo"]
"""``timm``: the shorter side is resized; ``modelzoo``: the picture is made square."""

CARDS = Path(__file__).parent / "cards"
"""The folder of the built-in cards."""

_MAX_CARD_BYTES = 2**16
_MAX_LABEL_BYTES = 2**23
_MAX_LABEL_LENGTH = 1024
_RESIZE_MODE: dict[Profile, Literal["shorter_side", "square"]] = {
    "timm": "shorter_side",
    "modelzoo": "square",
}

_Size = Annotated[int, Field(ge=1, le=8192)]
_Width = Annotated[int, Field(ge=1, le=65536)]


class Label(NamedTuple):
    """One class: its id (for ImageNet the wnid) and its name for people."""

    id: str
    name: str


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Timm(_Strict):
    architecture: OptionalLine = ""
    tag: OptionalLine = ""


class Architecture(_Strict):
    """A Vision Transformer with a class token and one linear head, in numbers."""

    image_size: _Size
    patch_size: _Size
    width: _Width
    depth: Annotated[int, Field(ge=1, le=256)]
    heads: _Width
    mlp_dim: _Width
    classes: Annotated[int, Field(ge=2, le=2**20)]

    @property
    def tokens(self) -> int:
        """The patches of one image, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def parameters(self) -> int:
        """The number of weights and biases.

        Patch embedding, class token and positions, then for each block two LayerNorms, the
        four projections of attention and the two of the MLP, then the last LayerNorm and the head.
        """
        width, mlp = self.width, self.mlp_dim
        embedding = 3 * self.patch_size**2 * width + width + width + self.tokens * width
        attention = 4 * (width * width + width)
        block = 4 * width + attention + 2 * width * mlp + mlp + width
        return embedding + self.depth * block + 2 * width + width * self.classes + self.classes

    @property
    def gflop(self) -> float:
        """Twice the multiply-adds of one image's matrix products, in 10^9.

        Patch embedding; in each block the four projections, queries by keys, attention by
        values, and the MLP; the head. Softmax, GELU, LayerNorm and additions are not counted,
        which is why published figures lie up to half a percent higher.
        """
        tokens, width = self.tokens, self.width
        embedding = (tokens - 1) * 3 * self.patch_size**2 * width
        projections = tokens * 4 * width * width
        attention = 2 * tokens * tokens * width
        mlp = 2 * tokens * width * self.mlp_dim
        macs = embedding + self.depth * (projections + attention + mlp) + width * self.classes
        return 2 * macs / 1e9


class _Profile(_Strict):
    resize: _Size


class _Preprocess(_Strict):
    mean: Annotated[tuple[Mean, Mean, Mean], Field(strict=False)]
    std: Annotated[tuple[Deviation, Deviation, Deviation], Field(strict=False)]
    timm: Optional[_Profile] = None
    modelzoo: Optional[_Profile] = None


class _Accuracy(_Strict):
    preprocess: Profile
    source: Line
    top1: Percent
    top5: Optional[Percent] = None


class _Speed(_Strict):
    source: Line
    device: Line
    batch_size: Positive
    fps: PositiveFloat


class _Published(_Strict):
    accuracy: Annotated[tuple[_Accuracy, ...], Field(strict=False)] = ()
    speed: Annotated[tuple[_Speed, ...], Field(strict=False)] = ()


class CardFile(_Strict):
    """A card file as it is written."""

    name: Name
    checkpoint: OptionalLine = ""
    labels: Line
    gflop: Optional[PositiveFloat] = None
    timm: _Timm = _Timm()
    model: Architecture
    preprocess: _Preprocess
    published: _Published = _Published()


def _tables(
    table: type[BaseModel], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield the path of each table that a card may have, and the keys that it may have."""
    yield place, tuple(table.model_fields)
    for key, info in table.model_fields.items():
        kinds: list[Any] = [info.annotation]
        while kinds:
            kind = kinds.pop()
            kinds += get_args(kind)
            if get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _tables(kind, (*place, key))


_TABLES = dict(_tables(CardFile))


@dataclass(frozen=True)
class Card:
    """One variant. ``load_card`` makes it.

    Attributes:
        path: The card's file.
        name: The variant's name, and by default the bundle's.
        checkpoint: The published file's name, or empty.
        architecture: timm's name of the architecture, or empty.
        timm_tag: timm's tag of the weights, or empty.
        model: The architecture in numbers.
        gflop: As published, else by ``Architecture.gflop``; for one image, a multiply-add as two.
        labels: One for each class, in the order of the output.
        sha256: Of two lines: the sha256 of the card's file and that of the label file, each in
            hexadecimal and ended by a newline.
    """

    path: Path
    name: str
    checkpoint: str
    architecture: str
    timm_tag: str
    model: Architecture
    gflop: float
    labels: tuple[Label, ...] = field(repr=False)
    sha256: str
    _preprocess: _Preprocess
    _published: _Published

    @property
    def parameters(self) -> int:
        """The number of weights and biases, by the formula of ``Architecture.parameters``."""
        return self.model.parameters

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The named preprocessings this card has, the default one first."""
        return tuple(name for name in _RESIZE_MODE if getattr(self._preprocess, name) is not None)

    def preprocess(self, profile: Profile) -> Preprocess:
        """Return what ``profile`` does to an image, every number stated.

        Raises:
            CardError: E_CARD_PREPROCESS when the card has no such profile.
        """
        if profile not in self.profiles:
            raise CardError(
                "E_CARD_PREPROCESS", self.name, expected=" or ".join(self.profiles), got=profile
            )
        settings: _Profile = getattr(self._preprocess, profile)
        return Preprocess(
            profile=profile,
            color="rgb",
            max_pixels=67108864,
            resize=Resize(
                mode=_RESIZE_MODE[profile],
                size=settings.resize,
                interpolation="bicubic",
                pass_order="horizontal_first",
            ),
            crop=Crop(mode="center", size=self.model.image_size),
            scale=255,
            mean=self._preprocess.mean,
            std=self._preprocess.std,
        )

    def expected(self, profile: Profile) -> Expected:
        """Return the published figures: accuracy with ``profile``, and speed."""
        return Expected(
            accuracy=tuple(
                PublishedAccuracy(source=figure.source, top1=figure.top1, top5=figure.top5)
                for figure in self._published.accuracy
                if figure.preprocess == profile
            ),
            speed=tuple(PublishedSpeed(**figure.model_dump()) for figure in self._published.speed),
        )

    def model_info(self) -> Model:
        """Return what a bundle's manifest says of the architecture."""
        return Model(
            architecture=self.architecture,
            timm_tag=self.timm_tag,
            parameters=self.parameters,
            gflop=self.gflop,
            **self.model.model_dump(),
        )


def load_card(variant: Union[str, Path]) -> Card:
    """Return the card of a built-in variant, or of a card file.

    Args:
        variant: A name; or a path: a ``Path``, or a string that holds a ``/`` or ends in ``.toml``.

    Raises:
        CardError: E_CARD_UNKNOWN for a name that is not built in, or a file that is not there;
            E_CARD_MALFORMED with the field; E_CARD_LABELS with the line of the label file.
    """
    if str(variant).lower().endswith(".npz"):
        raise CardError(
            "E_CARD_UNKNOWN",
            variant,
            expected="a variant's name, or a card file (.toml)",
            got="the name of a checkpoint",
            hint="A checkpoint comes after --checkpoint; vitaie-build checkpoint FILE.npz says"
            " which variant it is.",
        )
    if isinstance(variant, Path) or "/" in variant or variant.endswith(".toml"):
        return _read_card(Path(variant))
    if variant not in _known_names():
        near = difflib.get_close_matches(variant, _known_names(), 1)
        raise CardError(
            "E_CARD_UNKNOWN",
            variant or "(no name)",
            expected=", ".join(_known_names()),
            hint=(f"Did you mean {near[0]}? " if near else "")
            + "For a model of your own write a card file and give its path;"
            f" copy {CARDS / 'vit_base_patch16_224.toml'} to begin.",
        )
    return _read_card(CARDS / f"{variant}.toml")


@lru_cache(maxsize=1)
def known_cards() -> tuple[Card, ...]:
    """Return the built-in cards, by name."""
    return tuple(_read_card(CARDS / f"{name}.toml") for name in _known_names())


def _known_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in CARDS.glob("*.toml")))


def _read_card(path: Path) -> Card:
    data = _read_file(path, _MAX_CARD_BYTES, "E_CARD_MALFORMED", "E_CARD_UNKNOWN")
    document = _parse(data, path)
    for problem in _problems(document):
        raise CardError("E_CARD_MALFORMED", path, **problem)
    labels_path = path.parent / document.labels
    label_data = _read_file(labels_path, _MAX_LABEL_BYTES, "E_CARD_LABELS", "E_CARD_LABELS")
    gflop = document.model.gflop if document.gflop is None else document.gflop
    both = f"{digests.sha256(data)}\n{digests.sha256(label_data)}\n"
    return Card(
        path=path,
        name=document.name,
        checkpoint=document.checkpoint,
        architecture=document.timm.architecture,
        timm_tag=document.timm.tag,
        model=document.model,
        gflop=gflop,
        labels=_parse_labels(label_data, labels_path, document.model.classes),
        sha256=digests.sha256(both.encode("ascii")),
        _preprocess=document.preprocess,
        _published=document.published,
    )


def _read_file(path: Path, limit: int, malformed: str, missing: str) -> bytes:
    """Return a small regular file's bytes; a FIFO or a device is refused without waiting for it."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CardError(malformed, path, expected="a file", got="something else")
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        code = missing if isinstance(error, FileNotFoundError) else malformed
        reason = getattr(error, "strerror", None) or error
        raise CardError(code, path, expected="a file", got=reason) from None
    if len(data) > limit:
        raise CardError(malformed, path, expected=f"at most {limit} bytes", got="more")
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _decode(data: bytes, path: Path, code: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"a byte at {error.start} that is not"
        raise CardError(code, path, expected="UTF-8", got=got) from None


def _parse(data: bytes, path: Path) -> CardFile:
    text = _decode(data, path, "E_CARD_MALFORMED")
    try:
        fields: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML's own, and integers without end
        raise CardError("E_CARD_MALFORMED", path, expected="TOML", got=error) from None
    try:
        return CardFile.model_validate(fields)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    first = faults[0]
    if first["type"] == "missing":  # a key that no card has explains what is missing in its place
        first = next((each for each in faults if each["type"] == "extra_forbidden"), first)
    got = "nothing" if first["type"] == "missing" else _written(first["input"])
    raise CardError(
        "E_CARD_MALFORMED",
        path,
        field=field_path(first["loc"]),
        expected=expectation(first),
        got=got,
        hint=_right_key(first["loc"]) if first["type"] == "extra_forbidden" else "",
    )


def _right_key(location: tuple[Union[int, str], ...]) -> str:
    """Return what to write instead of a key that its table does not have."""
    *above, wrong = [part for part in location if isinstance(part, str)]
    for place, keys in _TABLES.items():
        if wrong in keys:
            where = f"into [{'.'.join(place)}]" if place else "above the first table"
            return f"It belongs {where}."
    keys = _TABLES[tuple(above)]
    near = difflib.get_close_matches(wrong.lower(), keys, 1)
    return f"Did you mean {near[0]}?" if near else f"There may be: {', '.join(keys)}."


def _written(value: object) -> str:
    """Return a value much as a card writes it, to be cut to length."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # of an integer of many digits, of many brackets
        return f"a value of {type(value).__name__} too long to print"


def _problems(document: CardFile) -> Iterator[dict[str, Any]]:
    """Yield what the fields say against each other, as arguments of a CardError."""
    labels = Path(document.labels)
    if labels.is_absolute() or ".." in labels.parts:
        yield {
            "field": "labels",
            "expected": "a path inside the card's folder",
            "got": document.labels,
        }
    model = document.model
    if model.image_size % model.patch_size:
        yield {
            "field": "model.patch_size",
            "expected": f"a divisor of the image size {model.image_size}",
            "got": model.patch_size,
        }
    if model.width % model.heads:
        yield {
            "field": "model.heads",
            "expected": f"a divisor of the width {model.width}",
            "got": model.heads,
        }
    profiles: dict[str, Optional[_Profile]] = {
        "timm": document.preprocess.timm,
        "modelzoo": document.preprocess.modelzoo,
    }
    if not any(profiles.values()):
        yield {"field": "preprocess", "expected": "a table timm or modelzoo", "got": "neither"}
    for name, profile in profiles.items():
        if profile is not None and profile.resize < model.image_size:
            yield {
                "field": f"preprocess.{name}.resize",
                "expected": f"at least the image size {model.image_size}",
                "got": profile.resize,
            }
    for index, figure in enumerate(document.published.accuracy):
        if profiles[figure.preprocess] is None:
            yield {
                "field": f"published.accuracy[{index}].preprocess",
                "expected": "a preprocessing of this card",
                "got": figure.preprocess,
            }


def _parse_labels(data: bytes, path: Path, classes: int) -> tuple[Label, ...]:
    lines = _decode(data, path, "E_CARD_LABELS").replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    if len(lines) != classes:
        raise CardError(
            "E_CARD_LABELS",
            path,
            expected=f"{classes} lines, as the card's model.classes",
            got=f"{len(lines)} lines",
        )
    labels: dict[str, Label] = {}
    for number, line in enumerate(lines, start=1):
        identity, _, name = line.partition("\t")
        plain = identity.isprintable() and name.isprintable() and len(line) <= _MAX_LABEL_LENGTH
        if not (identity and name and plain):
            raise CardError(
                "E_CARD_LABELS", path, field=f"line {number}", expected="id, tab, name", got=line
            )
        if identity in labels:
            raise CardError(
                "E_CARD_LABELS",
                path,
                field=f"line {number}",
                expected="each id once",
                got=f"{identity} again",
            )
        labels[identity] = Label(identity, name)
    return tuple(labels.values())
