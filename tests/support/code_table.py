"""Writes the table of codes into docs/bundle-format.md.

python -m tests.support.code_table
"""

from __future__ import annotations

from pathlib import Path

from vitaie.manifests.errors import error_codes

PAGE = Path(__file__).parents[2] / "docs" / "bundle-format.md"
_BEGIN = "<!-- codes: begin (python -m tests.support.code_table) -->\n"
_END = "<!-- codes: end -->\n"
_OF_A_BUNDLE = ("E_BUNDLE_", "E_MANIFEST_", "E_ONNX_", "E_TORCHSCRIPT_")


def with_code_table(page: str) -> str:
    """Return the page with the table between its marks made anew."""
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    rows = "".join(
        f"| `{code}` | {row.sentence} |\n"
        for code, row in error_codes().items()
        if code.startswith(_OF_A_BUNDLE)
    )
    return f"{before}{_BEGIN}| code | what is wrong |\n|---|---|\n{rows}{_END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_code_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
