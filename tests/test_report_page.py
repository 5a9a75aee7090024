"""The page as a browser shows it: at both widths, in both schemes, and with everything hostile."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browser import (
    CONTRASTS,
    DESK,
    OVERFLOWING,
    PHONE,
    SCHEMES,
    UNFOLD,
    WIDTHS,
    Opened,
    Scheme,
    chromium,
    opened,
    violations,
)
from tests.support.reports import (
    HOSTILE,
    add_gates_and_levels,
    analysis_of,
    hostile_bundle,
    measurements_of,
    page_of,
    with_disagreements,
    with_records,
)
from vitaie.manifests.errors import printable
from vitaie.runtime import _benchmark

ROOT = Path(__file__).parents[1]
SECTIONS = (
    "What failed or was not checked",
    "What it is",
    "Accuracy",
    "Speed",
    "Goldens",
    "Targets",
    "Check it yourself",
)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser, None, None]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def digits_page(
    digits_bundle: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """Return the page of the demo's bundle, measured, and of one that has all that a page shows.

    The first one's speed is INVALID: it was timed for half a second. The second has a VALID speed
    that nobody measured, gates, levels, and a source that disagrees with it.
    """
    bundle, val = digits_bundle
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        short = _benchmark.PLANS["quick"]._replace(seconds=0.5, settle_s=0)
        patch.setitem(_benchmark.PLANS, "quick", short)
        speed = _benchmark.benchmark(bundle, data=val).measurement
    measured = with_records(bundle, folder / "measured", [speed])
    other = with_records(bundle, folder / "other", [measurements_of(bundle)[1]])
    differing = with_disagreements(other, folder / "differing")
    add_gates_and_levels(differing)
    analyses = [analysis_of(bundle), analysis_of(bundle, wrong=True)]
    return page_of([measured, differing], folder, data=val, analyses=analyses)


@pytest.fixture(scope="module")
def small_page(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the page of a small bundle with a record of each kind, beside itself."""
    folder = tmp_path_factory.mktemp("small")
    bundle = with_records(small_bundle, folder / "bundle", measurements_of(small_bundle))
    return page_of([bundle, bundle], folder)


@pytest.fixture(scope="module")
def hostile_page(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    bundle = hostile_bundle(small_bundle, tmp_path_factory.mktemp("hostile") / "1.0.0")
    analyses = [analysis_of(bundle, wrong=True, text=HOSTILE)]
    return page_of([bundle, bundle], tmp_path_factory.mktemp("page"), analyses=analyses)


@pytest.fixture(scope="module")
def desk(browser: Browser, digits_page: bytes) -> Generator[Opened, None, None]:
    with opened(browser, digits_page, width=DESK) as shown:
        yield shown


def test_the_page_asks_for_nothing_and_nothing_is_wrong_with_it(desk: Opened) -> None:
    assert desk.asked == ["/report.html"]
    assert [url for url in desk.requests if not url.startswith("data:")] == [desk.page.url]
    assert desk.complaints == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_reaches_out_of_the_window_and_all_text_can_be_read(
    browser: Browser, digits_page: bytes, width: int, scheme: Scheme
) -> None:
    with opened(browser, digits_page, width=width, scheme=scheme) as shown:
        shown.run(UNFOLD)
        assert shown.run(OVERFLOWING) == [0, []]
        contrasts = shown.run(CONTRASTS)
        assert len(contrasts) > 300
        assert [each for each in contrasts if each[0] < 4.5] == []
        smallest = shown.run(
            "() => Math.min(...[...document.querySelectorAll('.chart text')].map("
            "each => each.getBoundingClientRect().height))"
        )
        assert smallest >= 9


SCROLLING = """() => [...document.querySelectorAll('.scroll')].filter(
    each => each.scrollWidth > each.clientWidth).map(each => each.getAttribute('aria-label'))"""
"""The tables that are wider than their place."""

BROKEN_WORDS = """() => {
    const words = [...document.querySelectorAll('.comparison tbody th')].flatMap(
        head => [...head.firstChild.textContent.matchAll(/[^ ]+/g)].map(
            found => [head.firstChild, found.index, found[0]]));
    return [words.length, words.filter(([text, start, word]) => {
        const range = document.createRange();
        range.setStart(text, start);
        range.setEnd(text, start + word.length);
        return range.getClientRects().length > 1;
    }).map(([,, word]) => word)];
}"""
"""How many words name the rows of the comparison, and which of them lie on two lines."""


@pytest.mark.parametrize("width", [780, 1000, 1119, 1120, DESK])
def test_the_rates_need_no_scrolling_on_anything_wider_than_a_phone(
    browser: Browser, small_page: bytes, width: int
) -> None:
    with opened(browser, small_page, width=width) as shown:
        assert [each for each in shown.run(SCROLLING) if each.startswith("Rates")] == []


@pytest.mark.parametrize("width", [320, PHONE, 400, DESK])
def test_no_word_of_the_comparison_is_broken(
    browser: Browser, small_page: bytes, width: int
) -> None:
    with opened(browser, small_page, width=width) as shown:
        words, broken = shown.run(BROKEN_WORDS)
    assert words >= 10
    assert broken == []


GATES = """() => [...document.querySelectorAll('.whole tbody th')].map(head => {
    const range = document.createRange();
    range.selectNodeContents(head);
    return [head.textContent, range.getClientRects().length];
})"""
OPTIONS = """() => [...document.querySelectorAll('.option')].filter(e => e.offsetParent).map(e => {
    const range = document.createRange();
    range.selectNodeContents(e);
    return [e.textContent, range.getClientRects().length];
})"""
"""Names of gates, and options of commands, with the lines that each takes."""


@pytest.mark.parametrize("width", [PHONE, 1200])
def test_no_gate_and_no_option_of_a_command_is_broken(
    browser: Browser, digits_page: bytes, width: int
) -> None:
    with opened(browser, digits_page, width=width) as shown:
        gates, options = shown.run(GATES), shown.run(OPTIONS)
    assert any(">=" in name for name, _ in gates)
    assert "--performance" in {name for name, _ in options}
    assert [name for name, lines in [*gates, *options] if lines != 1] == []


def test_a_speed_that_is_invalid_is_not_to_be_checked_again(desk: Opened) -> None:
    commands = "id => [...document.querySelectorAll(id + ' code')].map(e => e.textContent)"
    first, second = (desk.run(commands, f"#bundle-{number}") for number in (1, 2))
    assert desk.page.locator("#bundle-1 .pill.invalid").count() > 0
    assert [each for each in first if "--performance" in each] == []
    assert [each for each in second if "--performance" in each] != []


def test_dark_is_dark_and_light_is_light(browser: Browser, digits_page: bytes) -> None:
    seen: list[int] = []
    for scheme in SCHEMES:
        with opened(browser, digits_page, scheme=scheme) as shown:
            color = shown.run("() => getComputedStyle(document.body).backgroundColor")
            seen.append(sum(map(int, color[4:-1].split(","))))
    light, dark = seen
    assert light > 3 * 230
    assert dark < 3 * 40


def test_people_who_cannot_see_it_find_their_way(browser: Browser, digits_page: bytes) -> None:
    """axe-core's rules: alternatives of pictures, heads of tables, order of headings, landmarks."""
    with opened(browser, digits_page, width=PHONE) as shown:
        shown.run(UNFOLD)
        assert violations(shown) == []


def test_every_section_is_there_and_the_verdict_comes_first(desk: Opened) -> None:
    for number in (1, 2):
        article = f"#bundle-{number}"
        headings = desk.run(
            "selector => [...document.querySelectorAll(selector + ' h3')].map(e => e.textContent)",
            article,
        )
        assert [each for each in headings if each in SECTIONS] == list(SECTIONS)
        more = {"Gates", "Half precision, emulated"}
        more |= {"Optimisation levels"} if number == 2 else set()
        assert {*headings} - {*SECTIONS} == more
        text: str = desk.run("selector => document.querySelector(selector).innerText", article)
        first = text.index("claims were not checked here")
        assert first < text.index("What failed or was not checked") < text.index("Top-1, measured")
    assert desk.page.locator("#bundle-1 .chart").count() >= 3


def test_pictures_are_shown_and_have_alternatives(desk: Opened) -> None:
    pictures = desk.run(
        "() => [...document.images].map(e => [e.alt, e.complete && e.naturalWidth > 0, e.src])"
    )
    assert len(pictures) >= 2 * 3 + 20
    for alternative, shown, source in pictures:
        assert alternative
        assert shown, alternative
        assert source.startswith("data:image/jpeg;base64,")


def test_what_is_folded_unfolds_by_a_click(desk: Opened) -> None:
    folded = desk.page.locator("details")
    assert folded.count() >= 8
    for number in range(folded.count()):
        details = folded.nth(number)
        inside = details.locator(":scope > :not(summary)").first
        assert not inside.is_visible()
        details.locator("summary").first.click()
        assert inside.is_visible()
        details.locator("summary").first.click()
        assert not inside.is_visible()


def test_a_name_in_the_comparison_leads_to_its_bundle(desk: Opened) -> None:
    link = desk.page.locator(".comparison a").nth(1)
    link.click()
    assert desk.page.url.endswith("#bundle-2")
    assert desk.run("() => document.querySelector('#bundle-2').getBoundingClientRect().top") < 100


def test_the_page_may_run_nothing_and_ask_for_nothing(browser: Browser, digits_page: bytes) -> None:
    with opened(browser, digits_page) as shown:
        shown.run(
            """async () => {
                const add = (name, set) => document.body.append(
                    Object.assign(document.createElement(name), set));
                add('script', {textContent: 'window.ran = true'});
                add('img', {src: '/picture.png'});
                add('style', {textContent: 'body { margin-left: 77px }'});
                add('iframe', {src: '/frame.html'});
                await fetch('/data').catch(() => {});
            }"""
        )
        shown.page.wait_for_timeout(200)
        assert shown.run("() => window.ran") is None
        assert shown.run("() => getComputedStyle(document.body).marginLeft") != "77px"
        assert shown.asked == ["/report.html"]
        assert len(shown.complaints) >= 5


def test_what_is_folded_is_printed(browser: Browser, digits_page: bytes) -> None:
    with opened(browser, digits_page, scheme="dark") as shown:
        shown.page.emulate_media(media="print")
        assert shown.page.locator("details.more .claims").first.is_visible()
        paper = shown.run("() => getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        assert shown.page.pdf().startswith(b"%PDF-")


def test_a_bundle_of_hostile_text_is_text(browser: Browser, hostile_page: bytes) -> None:
    with opened(browser, hostile_page, width=PHONE) as shown:
        shown.run(UNFOLD)
        shown.page.wait_for_timeout(200)
        assert shown.run("() => window.pwned") is None
        assert shown.run("() => [...document.images].every(e => e.src.startsWith('data:'))")
        assert shown.run("() => [...document.links].every(e => e.hash.startsWith('#bundle-'))")
        assert shown.run(OVERFLOWING) == [0, []]
        elements = shown.run("() => [...document.querySelectorAll('*')].map(e => e.localName)")
        attributes = shown.run(
            "() => [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
        )
        text: str = shown.run("() => document.body.textContent")
        assert (shown.asked, shown.complaints) == (["/report.html"], [])
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(elements)
    assert not {name for name in attributes if name.startswith("on") or name == "style"}
    assert text.count(printable(HOSTILE)) >= 20


def test_no_control_character_of_a_bundle_reaches_the_page(hostile_page: bytes) -> None:
    page = hostile_page.decode("utf-8")
    assert {char for char in page if not char.isprintable()} == {"\n"}
    assert HOSTILE not in page


def test_the_wheel_has_all_that_the_page_is_made_of(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    folder = Path("vitaie/runtime/_report")
    here = {str(folder / path.name) for path in (ROOT / "runtime" / folder).iterdir()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith(f"{folder}/")}
    assert held == {name for name in here if not name.endswith("__pycache__")}
    assert {Path(name).suffix for name in held} == {".py", ".j2", ".css"}
