"""The whole story: bundles are found, the page is put together, and one new file is written.

A bundle that does not open ends it before anything is written. A claim that is false does not:
it is what the page then begins with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Union

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import InputError
from vitaie.manifests.outputs import AnalyzeOutput, ReportedOutput, ReportOutput
from vitaie.runtime._bundle import open_bundle
from vitaie.runtime._environment import collect
from vitaie.runtime._files import check_output, write_output
from vitaie.runtime._report.analysis import check_analyses, read_analysis
from vitaie.runtime._report.found import Found, find
from vitaie.runtime._report.page import environment, to_html
from vitaie.runtime._report.view import view

_Path = Union[str, "os.PathLike[str]"]

MAX_BUNDLES = 8
_SUFFIXES = (".html", ".htm")


class Options(NamedTuple):
    """What was asked for.

    Attributes:
        target: Whose goldens are run.
        threads: Of the engines that run them.
        device_id: Which device targets that are made for one run on.
        data: Where the measured images are.
        labels: Their file of labels, where it is not looked for.
        analyses: What ``vitaie-build analyze --json`` printed of the bundles.
    """

    target: str = "all"
    threads: int | None = None
    device_id: int = 0
    data: _Path | None = None
    labels: _Path | None = None
    analyses: tuple[_Path, ...] = ()


def report(
    bundles: Sequence[_Path], output: _Path, options: Options, *, progress: Callable[[str], None]
) -> ReportOutput:
    """Re-check bundles and write a page on them.

    Args:
        bundles: Folders of versions, or of all versions (the newest is taken), in order.
        output: A new file.
        options: What else was asked for.
        progress: Called with each step's name as it starts; there are ``steps_of`` so many bundles.

    Raises:
        BundleError: A bundle does not open; nothing is written.
        InputError: An argument is not valid, or the dataset or an analysis is none of a bundle.
        TargetUnavailable: The target named cannot run here, or Jinja is not installed.
        StoreError: The output exists.
        DiskError: The disk is full, read-only or broken.
    """
    if not os.fspath(output).lower().endswith(_SUFFIXES):
        raise InputError("E_ARGUMENT", output, expected="a name that ends in .html")
    if len(bundles) > MAX_BUNDLES:
        expected = f"at most {MAX_BUNDLES} bundles on a page"
        raise InputError("E_ARGUMENT", "BUNDLE", expected=expected, got=len(bundles))
    if options.labels is not None and options.data is None:
        raise InputError("E_ARGUMENT", "labels", expected="--data DIR beside it")
    check_output(output)
    environment()  # what is missing is said before the work is done
    analyses = _analyses(bundles, options)
    found = [_find(bundle, options, analyses, progress) for bundle in bundles]
    progress("page")
    data = to_html(view(found, collect()))
    write_output(output, data)
    return ReportOutput(
        output=_utf8(output),
        size=len(data),
        sha256=sha256(data),
        pictures=sum(len(each.goldens) + len(each.pictures) for each in found),
        bundles=[_reported(each) for each in found],
    )


def steps_of(bundles: int) -> list[str]:
    """Return the names of the steps that ``report`` takes, roughly."""
    one = ["files", "preprocessing", "goldens", "goldens", "evidence and pictures"]
    return [*(one * bundles), "page"]


def _analyses(bundles: Sequence[_Path], options: Options) -> list[AnalyzeOutput]:
    """Return the analyses, each of which is of one of the bundles."""
    found = [(file, read_analysis(file)) for file in options.analyses]
    if found:
        digests: list[str] = []
        for bundle in bundles:
            with open_bundle(bundle) as opened:
                digests.append(opened.manifest.content_digest)
        check_analyses(found, digests)
    return [analysis for _, analysis in found]


def _find(
    bundle: _Path,
    options: Options,
    analyses: Sequence[AnalyzeOutput],
    progress: Callable[[str], None],
) -> Found:
    return find(
        bundle,
        target=options.target,
        threads=options.threads,
        device_id=options.device_id,
        data=options.data,
        labels=options.labels,
        analyses=analyses,
        progress=progress,
    )


def _reported(found: Found) -> ReportedOutput:
    statuses = [claim.status for claim in found.claims]
    return ReportedOutput(
        path=_utf8(found.folder),
        name=found.manifest.name,
        version=found.manifest.version,
        content_digest=found.manifest.content_digest,
        holds=found.holds,
        claims=len(statuses),
        false=statuses.count("false"),
        not_checked=statuses.count("not checked"),
        analyses=len(found.analyses),
    )


def _utf8(path: object) -> str:
    """Return a path for JSON: bytes that are no UTF-8 are escaped, as JSON cannot hold them."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
