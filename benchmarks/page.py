"""docs/benchmarks.md, of which each benchmark writes its own section and leaves the others."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from vitaie.builder.doctor import examine

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def write_section(name: str, command: str, text: str) -> None:
    """Put text, and where and how it was measured, between the marks of that name."""
    machine = examine()
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    about = (
        f"`{command.strip()}` on {machine.processors} processors, {platform.machine()},"
        f" Python {machine.python}: {versions}."
    )
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    marked = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page, count = marked.subn(
        lambda _: f"{begin}{text}\n\n{about}\n{end}", PAGE.read_text(encoding="utf-8")
    )
    if count != 1:
        raise SystemExit(f"{PAGE}: {begin.strip()} must be there once, not {count} times")
    PAGE.write_text(page, encoding="utf-8")
