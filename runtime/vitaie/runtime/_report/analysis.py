"""What half precision would do, as ``vitaie-build analyze --json`` printed it of the same bundle.

It was computed somewhere else and nothing of it is computed again for the page: a file is taken
only if it is of a bundle on the page, by content digest, and agrees with itself.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from pydantic import ValidationError

from vitaie.manifests.errors import InputError, ManifestError
from vitaie.manifests.fields import expectation, field_path
from vitaie.manifests.outputs import AnalyzeOutput, LayerOutput
from vitaie.manifests.strict_json import parse_object
from vitaie.runtime._evidence import fault_of_json, read_file
from vitaie.runtime._report.shown import (
    MAX_ROWS,
    Fact,
    Shown,
    class_name,
    counted,
    first,
    number,
)

if TYPE_CHECKING:
    from vitaie.runtime._report.found import Found

    _Path = Union[str, os.PathLike[str]]

MAX_LAYERS = 200
MAX_FLIPS = 20

_LEAST = 12  # layers of the least headroom that are always shown
_MAX_BYTES = 2**24
_HINT = "Make it again: vitaie-build analyze BUNDLE --json > FILE.json"


@dataclass(frozen=True)
class AnalysisView:
    """One analysis; rows of ``layers`` are name, largest, headroom, cosine and what is wrong."""

    title: str
    verdict: str
    wrong: bool
    facts: tuple[Fact, ...]
    layers: Shown[tuple[str, ...]]
    every: Shown[tuple[str, ...]]
    flips: Shown[tuple[str, ...]]
    assumptions: tuple[str, ...]
    command: str


def read_analysis(file: _Path) -> AnalyzeOutput:
    """Return what ``vitaie-build analyze --json`` printed into a file.

    Raises:
        InputError: ``E_RECORD``, it is no such document, or its parts do not agree.
    """
    data = read_file(file, _MAX_BYTES)
    try:
        parse_object(data, where=os.fspath(file), limit=_MAX_BYTES)
        analysis = AnalyzeOutput.model_validate_json(data)
    except ManifestError as error:  # its sentence speaks of a manifest
        said = fault_of_json(error)
        expected = "one object of strict JSON"
        raise InputError("E_RECORD", file, expected=expected, got=said, hint=_HINT) from None
    except ValidationError as error:
        details = min(error.errors(), key=lambda each: (-len(each["loc"]), field_path(each["loc"])))
        field, expected = field_path(details["loc"]), expectation(details)
        raise InputError("E_RECORD", file, field=field, expected=expected, hint=_HINT) from None
    for field, expected, got in _faults(analysis):
        raise InputError("E_RECORD", file, field=field, expected=expected, got=got, hint=_HINT)
    return analysis


def _faults(analysis: AnalyzeOutput) -> Iterator[tuple[str, str, object]]:
    """Yield the field, the rule and the value of what contradicts the rest."""
    if analysis.images < 1:
        yield "images", "at least 1", analysis.images
    if not analysis.layers:
        yield "layers", "at least one", "none"
    equal = analysis.images - len(analysis.flips)
    if analysis.top1_equal != equal:
        yield "top1_equal", f"{equal}, the images without a flip", analysis.top1_equal
    wrong = next((each.name for each in analysis.layers if _is_wrong(analysis, each)), None)
    if analysis.first_wrong != wrong:
        yield "first_wrong", f"{wrong or 'null'}, as the layers say", analysis.first_wrong


def _is_wrong(analysis: AnalyzeOutput, layer: LayerOutput) -> bool:
    return layer.overflows > 0 or layer.cosine < analysis.least_cosine


def check_analyses(analyses: Sequence[tuple[_Path, AnalyzeOutput]], digests: Sequence[str]) -> None:
    """Refuse an analysis of a bundle whose content digest is none of those on the page.

    Raises:
        InputError: ``E_RECORD_OTHER``.
    """
    for file, analysis in analyses:
        if analysis.content_digest not in digests:
            raise InputError(
                "E_RECORD_OTHER",
                file,
                field="content_digest",
                expected=" or ".join(dict.fromkeys(digests)),
                got=f"{analysis.content_digest}, of {analysis.name} {analysis.version}",
                hint=_HINT,
            )


def analysis_views(found: Found) -> Iterable[AnalysisView]:
    """Yield what is shown of each analysis of a bundle."""
    for analysis in found.analyses:
        least = sorted(analysis.layers, key=_headroom)[:_LEAST]
        told = [
            layer
            for layer in analysis.layers
            if layer.risks or _is_wrong(analysis, layer) or layer in least
        ]
        yield AnalysisView(
            title=f"Emulated on {counted(analysis.images, 'image')}: {_inputs(analysis)}",
            verdict=verdict(analysis),
            wrong=analysis.first_wrong is not None or bool(analysis.flips),
            facts=tuple(_facts(found, analysis, least[0])),
            layers=first([_row(analysis, layer) for layer in told], MAX_ROWS),
            every=first([_row(analysis, layer) for layer in analysis.layers], MAX_LAYERS),
            flips=first(list(_flips(found, analysis)), MAX_FLIPS),
            assumptions=tuple(analysis.assumptions[:MAX_ROWS]),
            command=_command(found, analysis),
        )


def verdict(analysis: AnalyzeOutput) -> str:
    """Return what an analysis comes to, in a sentence."""
    wrong = analysis.first_wrong
    layer = "no layer goes wrong" if wrong is None else f"goes wrong first in {wrong}"
    return f"{layer}; the same first class on {analysis.top1_equal:,} of {analysis.images:,}"


def _inputs(analysis: AnalyzeOutput) -> str:
    return "the goldens" if analysis.inputs == "goldens" else "drawn of a dataset"


def _facts(found: Found, analysis: AnalyzeOutput, least: LayerOutput) -> Iterator[Fact]:
    share = 100 * analysis.top1_equal / analysis.images
    same = f"{analysis.top1_equal:,} of {counted(analysis.images, 'image')}, {share:.2f}%"
    yield Fact("First layer that goes wrong", analysis.first_wrong or "none")
    yield Fact("Same first class", same)
    yield Fact("Least headroom", f"{_room(least)} in {least.name}")
    yield Fact("Cosine of the logits", f"{analysis.layers[-1].cosine:.5f} at least")
    yield Fact("Of", f"{analysis.name} {analysis.version}, the same content as this bundle")
    yield Fact("Content digest", found.manifest.content_digest, code=True)


def _row(analysis: AnalyzeOutput, layer: LayerOutput) -> tuple[str, ...]:
    notes = list(layer.risks)
    if layer.name == analysis.first_wrong:
        notes.append("the first to go wrong")
    if layer.overflows:
        notes.append(f"{counted(layer.overflows, 'value')} not finite")
    largest = "infinite" if layer.largest is None else number(layer.largest)
    return layer.name, largest, _room(layer), f"{layer.cosine:.5f}", "; ".join(notes)


def _headroom(layer: LayerOutput) -> float:
    return float("inf") if layer.headroom is None else layer.headroom


def _room(layer: LayerOutput) -> str:
    return "without end" if layer.headroom is None else number(layer.headroom)


def _flips(found: Found, analysis: AnalyzeOutput) -> Iterator[tuple[str, ...]]:
    for flip in analysis.flips:
        half = "not finite" if flip.half < 0 else class_name(found, flip.half)
        yield flip.image, class_name(found, flip.exact), half, number(flip.margin)


def _command(found: Found, analysis: AnalyzeOutput) -> str:
    data = [] if analysis.inputs == "goldens" else ["--data", found.data or "DIR"]
    return shlex.join(["vitaie-build", "analyze", found.folder, *data, "--json"])
