"""A real browser to look at pages with: Debian's Chromium without a screen, driven by Playwright.

Pages are served on the loopback address by a server that counts what is asked of it, so that
"no request to the network" is what was seen and not what was meant.
"""

from __future__ import annotations

import importlib
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PHONE, DESK = 360, 1280
WIDTHS = (PHONE, DESK)
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


@contextmanager
def chromium() -> Generator[Browser, None, None]:
    """Start a browser with a fresh profile, and end it."""
    found = shutil.which("chromium")
    if found is None:
        raise FileNotFoundError("chromium is missing: sh scripts/setup_browser.sh installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


def _no_names() -> list[str]:
    return []


@dataclass(frozen=True)
class Opened:
    """A page that is open, what it asked the server for, and what the browser complained of."""

    page: Page
    asked: list[str] = field(default_factory=_no_names)
    requests: list[str] = field(default_factory=_no_names)
    complaints: list[str] = field(default_factory=_no_names)

    def run(self, script: str, argument: object = None) -> Any:
        """Return what a function of JavaScript gives, called with an argument."""
        return self.page.evaluate(script, argument)


@contextmanager
def opened(
    browser: Browser,
    html: bytes,
    *,
    width: int = DESK,
    height: int = 900,
    scheme: Scheme = "light",
    scale: float = 1,
) -> Generator[Opened, None, None]:
    """Serve a page and open it in a window of so many CSS pixels."""
    asked: list[str] = []
    with _served(html, asked) as address:
        context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=scale,
        )
        try:
            shown = Opened(context.new_page(), asked)
            _listen(shown)
            shown.page.goto(address)
            yield shown
        finally:
            context.close()


def _listen(shown: Opened) -> None:
    def complain(message: ConsoleMessage) -> None:
        shown.complaints.append(f"{message.type}: {message.text}")

    page = shown.page
    page.on("request", lambda request: shown.requests.append(request.url))
    page.on("console", complain)
    page.on("pageerror", lambda error: shown.complaints.append(str(error)))
    page.on("dialog", lambda dialog: shown.complaints.append(dialog.message))


@contextmanager
def _served(html: bytes, asked: list[str]) -> Generator[str, None, None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802  # the name that http.server calls
            asked.append(self.path)
            self.send_response(200 if self.path == "/report.html" else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(html)))
            self.end_headers()
            self.wfile.write(html)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002, its name there
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/report.html"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def violations(shown: Opened) -> list[tuple[str, str]]:
    """Return each rule of axe-core's that a page breaks, and the first element that does."""
    axe: Any = importlib.import_module("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(shown.page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]


UNFOLD = "() => document.querySelectorAll('details').forEach(each => each.open = true)"

OVERFLOWING = """() => {
    const width = document.documentElement.clientWidth;
    const scrolls = node => node && (node.matches('.scroll') || scrolls(node.parentElement));
    const out = [...document.querySelectorAll('body *')].filter(node =>
        !scrolls(node) && node.getBoundingClientRect().right > width + 0.5);
    return [document.documentElement.scrollWidth - width,
            out.map(node => node.tagName + ' ' + node.textContent.slice(0, 60))];
}"""
"""By how much the page is wider than the window, and what reaches out of it."""

CONTRASTS = """() => {
    const parse = text => (text.match(/[0-9.]+/g) || []).map(Number);
    const light = rgb => {
        const [r, g, b] = rgb.map(v => v / 255).map(
            v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = node => {
        for (; node; node = node.parentElement) {
            const color = parse(getComputedStyle(node).backgroundColor);
            if (color.length && color[3] !== 0) return color.slice(0, 3);
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
        if (!text || !node.getClientRects().length || node.closest('title, desc')) continue;
        const style = getComputedStyle(node);
        const ink = parse(node.closest('svg') ? style.fill : style.color).slice(0, 3);
        const [one, other] = [light(ink), light(behind(node))].sort((a, b) => b - a);
        found.push([(one + 0.05) / (other + 0.05), text.slice(0, 60)]);
    }
    return found;
}"""
"""The contrast of each text with what is behind it, as WCAG 2 defines it, and the text."""
