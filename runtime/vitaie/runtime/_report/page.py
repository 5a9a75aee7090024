"""The page as one HTML file: the only place where text becomes markup.

Every string that the template writes is made printable, cut and escaped by the environment, never
by the template: it may have come from a file that somebody made to do harm. What is markup is
made here, of numbers and of bytes that this program encoded. The page's own policy allows its
one style sheet, by digest, and pictures inside it; no script, no request.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vitaie.manifests.errors import TargetUnavailable, printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from vitaie.runtime._report.view import Page

MAX_TEXT = 1000
"""Characters of one text; a longer one ends in an ellipsis."""

_HERE = Path(__file__).parent


def environment() -> Environment:
    """Return the environment that templates are rendered in.

    Raises:
        TargetUnavailable: ``E_EXTRA_MISSING``, Jinja is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        hint = "Install vitaie's extra [report], as README says."
        raise TargetUnavailable("E_EXTRA_MISSING", error.name or "jinja2", hint=hint) from None

    def plain(value: object) -> object:
        return value if isinstance(value, Markup) else printable(value, MAX_TEXT)

    def points(line: Iterable[tuple[float, float]]) -> Markup:
        return Markup(" ".join(f"{x:.1f},{y:.1f}" for x, y in line))

    def jpeg(data: bytes) -> Markup:
        return Markup("data:image/jpeg;base64," + b64encode(data).decode("ascii"))

    made = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(points=points, jpeg=jpeg)
    return made


def to_html(page: Page) -> bytes:
    """Return the page as UTF-8.

    Raises:
        TargetUnavailable: ``E_EXTRA_MISSING``, Jinja is not installed.
    """
    from markupsafe import Markup

    made = environment()
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    text = made.get_template("page.html.j2").render(
        page=page, style=Markup(style), style_sha256=digest
    )
    return text.encode("utf-8")
