"""What half precision would do to a model, layer by layer, before anybody has a device.

Half precision holds 65,504 at most and 11 bits. Two runs go side by side through the graph that
a device gets: one in float32, whose largest magnitudes say how much room is left, and one in
which every operator's result is rounded to half precision. Where the two part for the first time
is named. It is an emulation under stated assumptions, and no measurement of any device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Optional, Union, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vitaie.builder.vit import Arithmetic, Steps, VisionTransformer, build
from vitaie.manifests.errors import InputError, printable
from vitaie.runtime import _preprocess
from vitaie.runtime._bundle import Bundle, open_bundle
from vitaie.runtime._claim import silent
from vitaie.runtime._command import utf8
from vitaie.runtime._dataset import read_dataset
from vitaie.runtime._goldens import check_golden_stages
from vitaie.runtime._model import read_labels
from vitaie.runtime._torchscript import load_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Manifest
    from vitaie.manifests.outputs import AnalyzeOutput

LARGEST = 65504.0
"""The largest number of IEEE 754 binary16."""

LARGEST_EXPONENT = math.log(LARGEST)
"""A softmax that does not subtract the largest score first overflows above this score."""

LEAST_COSINE = 0.99
"""A layer whose rounded values point further than this from the exact ones has gone wrong."""

ASSUMPTIONS = (
    "every operator's result, and every weight, is rounded to half precision",
    "matrix products and sums accumulate in float32 and are rounded once",
    "LayerNorm and softmax are computed in steps, each rounded; softmax subtracts the largest",
)
"""What the emulation assumes of a device. None of it is known of one."""

_BATCH = 4
_ROWS = 12  # of the table, unless all are asked for


@dataclass(frozen=True)
class Layer:
    """One value of the model on all images.

    Attributes:
        name: The layer's.
        largest: The largest magnitude in float32.
        square: Of a LayerNorm: the largest squared deviation from the mean, which is computed on
            the way to the variance.
        square_sum: Of a LayerNorm: the largest sum of them, should a device keep it in half.
        score: Of a softmax: the largest score.
        overflows: How many of the rounded values are not finite.
        cosine: The smallest, over the images, between exact and rounded values; 0 when the rounded
            ones are not finite.
    """

    name: str
    largest: float
    square: Optional[float]
    square_sum: Optional[float]
    score: Optional[float]
    overflows: int
    cosine: float

    @property
    def headroom(self) -> float:
        """How often the largest magnitude goes into 65,504: below 1 it overflows."""
        return LARGEST / self.largest if self.largest else math.inf

    @property
    def wrong(self) -> bool:
        """Whether the rounded values are no longer those of the model."""
        return self.overflows > 0 or self.cosine < LEAST_COSINE

    @property
    def risks(self) -> list[str]:
        """What would overflow here, or could, depending on how a device computes it."""
        found: list[str] = []
        if self.largest > LARGEST:
            found.append("the value overflows")
        if self.square is not None and self.square > LARGEST:
            found.append("the squares of the variance overflow")
        elif self.square_sum is not None and self.square_sum > LARGEST:
            found.append("the variance overflows if its sum is kept in half precision")
        if self.score is not None and self.score > LARGEST_EXPONENT:
            found.append("softmax overflows unless the largest score is subtracted first")
        return found


class Flip(NamedTuple):
    """An image whose first class changes; the margin is float32's, first logit less second."""

    image: str
    exact: int
    half: int
    margin: float


@dataclass(frozen=True)
class Analysis:
    """What half precision does to a bundle's model on some images."""

    folder: Path
    manifest: Manifest
    inputs: str
    images: int
    layers: tuple[Layer, ...]
    flips: tuple[Flip, ...]

    @property
    def first_wrong(self) -> Optional[Layer]:
        """The first layer, in the order of the model, that goes wrong."""
        return next((layer for layer in self.layers if layer.wrong), None)


class HalfArithmetic(Arithmetic):
    """Operators whose results are rounded to half precision, as ``ASSUMPTIONS`` say."""

    def convolution(self, images: Tensor, layer: nn.Conv2d) -> Tensor:
        """Rounded."""
        weight, bias = rounded(layer.weight), rounded(cast("Tensor", layer.bias))
        return rounded(functional.conv2d(rounded(images), weight, bias, layer.stride))

    def linear(self, rows: Tensor, layer: nn.Linear) -> Tensor:
        """Rounded."""
        return rounded(functional.linear(rows, rounded(layer.weight), rounded(layer.bias)))

    def layer_norm(self, rows: Tensor, layer: nn.LayerNorm) -> Tensor:
        """In steps, each rounded."""
        centred = rounded(rows - rounded(rows.mean(-1, keepdim=True)))
        variance = rounded(rounded(centred * centred).mean(-1, keepdim=True))
        inverse = rounded(torch.rsqrt(rounded(variance + layer.eps)))
        scaled = rounded(rounded(centred * inverse) * rounded(layer.weight))
        return rounded(scaled + rounded(layer.bias))

    def matmul(self, left: Tensor, right: Tensor) -> Tensor:
        """Rounded."""
        return rounded(left @ right)

    def softmax(self, scores: Tensor) -> Tensor:
        """In steps, each rounded, the largest score subtracted first."""
        powers = rounded(torch.exp(rounded(scores - scores.amax(-1, keepdim=True))))
        return rounded(powers / rounded(powers.sum(-1, keepdim=True)))

    def gelu(self, rows: Tensor) -> Tensor:
        """Rounded."""
        return rounded(functional.gelu(rows))

    def add(self, left: Tensor, right: Tensor) -> Tensor:
        """Rounded."""
        return rounded(rounded(left) + rounded(right))

    def scale(self, values: Tensor, factor: float) -> Tensor:
        """Rounded."""
        return rounded(values * float(np.float16(factor)))


def rounded(values: Tensor) -> Tensor:
    """Return the nearest numbers of half precision, infinite above 65,504, as float32."""
    return values.half().float()


def analyze(
    path: str | os.PathLike[str],
    data: Union[str, os.PathLike[str], None] = None,
    *,
    sample: int = 64,
    seed: int = 0,
    progress: Optional[Callable[[str], None]] = None,
) -> Analysis:
    """Say what half precision would do to a bundle's model.

    Args:
        path: A bundle's folder, or that of its versions.
        data: A dataset to draw images of; the bundle's goldens otherwise.
        sample: How many images are drawn.
        seed: Of the drawing.
        progress: Called with each image's name before it is run.

    Raises:
        BundleError: The bundle does not open.
        TargetUnavailable: torch is not installed.
        InputError: The dataset, an image or ``sample`` is at fault.
    """
    say = progress or silent
    with open_bundle(path) as bundle, torch.inference_mode():
        manifest = bundle.manifest
        images = _goldens(bundle) if data is None else _drawn(bundle, data, sample, seed)
        source = load_module(bundle, "vitaie-build analyze")
        steps = Steps(merged_tokens=False, padded_tokens=False, static_shapes=False)
        module = build(manifest.model, source.state_dict(), 1, steps)
        seen, flips, count = _Seen(), list[Flip](), 0
        for names, tensors in _batches(images):
            for name in names:
                say(name)
            exact, half = _run_both(module, torch.tensor(tensors), seen)
            flips += _flips(names, exact, half)
            count += len(names)
        inputs = "goldens" if data is None else "dataset"
        folder = bundle.folder
    return Analysis(folder, manifest, inputs, count, tuple(seen.layers()), tuple(flips))


_Images = Iterator[tuple[str, "NDArray[np.float32]"]]


def _goldens(bundle: Bundle) -> _Images:
    tensors, _ = check_golden_stages(bundle)
    return zip((golden.source for golden in bundle.manifest.goldens), tensors)


def _drawn(bundle: Bundle, data: Union[str, os.PathLike[str]], sample: int, seed: int) -> _Images:
    if sample < 1:
        raise InputError("E_ARGUMENT", "sample", expected="at least 1", got=sample)
    ids = [identifier for identifier, _ in read_labels(bundle)]
    classes = bundle.manifest.model.classes
    entries = read_dataset(data, class_ids=ids, classes=classes).entries
    order = np.random.default_rng(seed).permutation(len(entries))[:sample]
    chosen = [entries[int(index)] for index in np.sort(order)]
    spec = bundle.manifest.preprocess
    return ((entry.path, _preprocess.preprocess(entry.file, spec)) for entry in chosen)


def _batches(images: _Images) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield a few images at a time: names, and float32 [B, 3, S, S]."""
    names: list[str] = []
    tensors: list[NDArray[np.float32]] = []
    for name, tensor in images:
        names.append(name)
        tensors.append(tensor)
        if len(names) == _BATCH:
            yield names, np.stack(tensors)
            names, tensors = [], []
    if names:
        yield names, np.stack(tensors)


def _run_both(module: VisionTransformer, images: Tensor, seen: _Seen) -> tuple[Tensor, Tensor]:
    """Go through the model twice, side by side; return the logits of both."""
    exact = half = before = images
    both = zip(module.values(images), module.values(images, HalfArithmetic()))
    for (name, exact), (_, half) in both:
        seen.add(name, before, exact, half)
        before = exact
    return exact, half


def _flips(names: Sequence[str], exact: Tensor, half: Tensor) -> Iterator[Flip]:
    for name, expected, got in zip(names, exact.numpy(), half.numpy()):
        first, second = (int(index) for index in np.argsort(-expected, kind="stable")[:2])
        if not np.isfinite(got).all() or int(got.argmax()) != first:
            half_class = int(got.argmax()) if np.isfinite(got).all() else -1
            yield Flip(name, first, half_class, float(expected[first]) - float(expected[second]))


def output(analysis: Analysis) -> AnalyzeOutput:
    """Return the ``--json`` document of an analysis."""
    from vitaie.manifests.outputs import AnalyzeOutput, FlipOutput, LayerOutput

    wrong = analysis.first_wrong
    return AnalyzeOutput(
        path=utf8(analysis.folder),
        name=analysis.manifest.name,
        version=analysis.manifest.version,
        content_digest=analysis.manifest.content_digest,
        inputs="goldens" if analysis.inputs == "goldens" else "dataset",
        images=analysis.images,
        assumptions=list(ASSUMPTIONS),
        least_cosine=LEAST_COSINE,
        first_wrong=None if wrong is None else wrong.name,
        top1_equal=analysis.images - len(analysis.flips),
        flips=[FlipOutput(**flip._asdict()) for flip in analysis.flips],
        layers=[
            LayerOutput(
                name=layer.name,
                largest=_finite(layer.largest),
                headroom=_finite(layer.headroom),
                square=_finite(layer.square),
                square_sum=_finite(layer.square_sum),
                score=_finite(layer.score),
                overflows=layer.overflows,
                cosine=layer.cosine,
                risks=layer.risks,
            )
            for layer in analysis.layers
        ],
    )


def _finite(value: Optional[float]) -> Optional[float]:
    """Return None for what JSON has no number for: a magnitude or a room without end."""
    return value if value is not None and math.isfinite(value) else None


def describe(analysis: Analysis, every: bool = False) -> list[str]:
    """Return the table: every layer, or those with the least room, at risk, or first wrong."""
    wrong, logits = analysis.first_wrong, analysis.layers[-1]
    least = sorted(analysis.layers, key=lambda layer: layer.headroom)[:_ROWS]
    lines = [f"{'layer':<26}{'largest':>12}{'headroom':>12}{'cosine':>10}"]
    for layer in analysis.layers:
        notes = layer.risks + (["the first to go wrong"] if layer is wrong else [])
        if layer.overflows:
            notes.append(f"{layer.overflows:,} values are not finite")
        if every or notes or layer in least:
            room = f"{layer.headroom:.4g}"
            row = f"{layer.name:<26}{layer.largest:>12.4g}{room:>12}{layer.cosine:>10.5f}"
            lines.append(row + (f"  {'; '.join(notes)}" if notes else ""))
    equal = analysis.images - len(analysis.flips)
    lines.append(
        f"top-1 in half precision: the same on {equal} of {analysis.images} {analysis.inputs};"
        f" the logits' smallest cosine is {logits.cosine:.6f}"
    )
    for flip in analysis.flips:
        half = "nothing, the logits are not finite" if flip.half < 0 else f"class {flip.half}"
        lines.append(
            f"  {printable(flip.image)}: class {flip.exact} becomes {half};"
            f" its margin is {flip.margin:.3g}"
        )
    verdict = "no layer goes wrong" if wrong is None else f"goes wrong first in {wrong.name}"
    lines.append(
        f"verdict: {verdict}. An emulation on the CPU: no device was asked, and it assumes"
    )
    return lines + [f"  {assumption}" for assumption in ASSUMPTIONS]


class _Seen:
    """The worst of every layer so far, in the order of the model."""

    def __init__(self) -> None:
        self._layers: dict[str, Layer] = {}

    def add(self, name: str, before: Tensor, exact: Tensor, half: Tensor) -> None:
        """Take a batch's value; ``before`` is the one before it, exact: a norm's input."""
        square = square_sum = score = None
        if "norm" in name.rpartition(".")[2]:
            squares = (before - before.mean(-1, keepdim=True)).double().square()
            square, square_sum = float(squares.max()), float(squares.sum(-1).max())
        elif name.endswith(".softmax"):
            score = float(before.max())
        new = Layer(
            name,
            float(exact.abs().max()),
            square,
            square_sum,
            score,
            int((~half.isfinite()).sum()),
            _least_cosine(exact, half),
        )
        old = self._layers.get(name, new)
        self._layers[name] = Layer(
            name,
            max(old.largest, new.largest),
            _larger(old.square, new.square),
            _larger(old.square_sum, new.square_sum),
            _larger(old.score, new.score),
            new.overflows + (old.overflows if old is not new else 0),
            min(old.cosine, new.cosine),
        )

    def layers(self) -> list[Layer]:
        """Return them all."""
        return list(self._layers.values())


def _larger(one: Optional[float], other: Optional[float]) -> Optional[float]:
    return one if one is None or other is None else max(one, other)


def _least_cosine(exact: Tensor, half: Tensor) -> float:
    """Return the smallest cosine over the images of a batch; 0 where one is not finite."""
    one, other = exact.flatten(1).double(), half.flatten(1).double()
    lengths = one.square().sum(1).sqrt() * other.square().sum(1).sqrt()
    cosine = (one * other).sum(1) / lengths
    same = (one == other).all(1)  # also where both are zero
    return float(torch.where(same, 1.0, cosine).nan_to_num(0.0, 0.0, 0.0).min())
