"""README's picture: the top of the demo's report, as the tests' own browser shows it.

    python -m tests.support.report_picture docs [REPORT.html]

Writes ``report-light.webp`` and ``report-dark.webp``. Without a report it runs the part of the demo
that trains on digits, bundles, measures and reports.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.support.browser import SCHEMES, chromium, opened

WIDTH, HEIGHT, SCALE = 1080, 860, 1.5
QUALITY = 60
DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def main(arguments: list[str]) -> None:
    """Write both pictures into a folder."""
    folder = Path(arguments[0])
    if len(arguments) > 1:
        draw(Path(arguments[1]).read_bytes(), folder)
        return
    with tempfile.TemporaryDirectory() as build:
        # a short name of its own, since the page names the bundle's folder
        command = [sys.executable, str(DEMO), "--out", "demo", "--skip-full-size"]
        subprocess.run(command, cwd=build, check=True)
        (report,) = Path(build, "demo").glob("report-*.html")
        draw(report.read_bytes(), folder)


def draw(html: bytes, folder: Path) -> None:
    """Write ``report-light.webp`` and ``report-dark.webp``: how a page begins."""
    with chromium() as browser:
        for scheme in SCHEMES:
            size = {"width": WIDTH, "height": HEIGHT}
            with opened(browser, html, **size, scheme=scheme, scale=SCALE) as shown:
                taken = shown.page.screenshot()
            with Image.open(BytesIO(taken)) as picture:
                picture.convert("RGB").save(
                    folder / f"report-{scheme}.webp", quality=QUALITY, method=6
                )


if __name__ == "__main__":
    main(sys.argv[1:])
