"""How the report and the pages look, compared with kept pictures: runs with fixed times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from browser import NARROW, WIDE, Browser
from faces import Web, web_server
from made_runs import MadeRuns, made_runs
from pictures import MOST_DIFFERENT, assert_looks_as_before, part_different, small
from top_runs import written

SIZES = {"1280": WIDE, "400": NARROW}


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeRuns]:
    with made_runs(tmp_path_factory.mktemp("fixed") / "melt") as fixed:
        fixed.env["TZ"] = "UTC"
        written(fixed.state_dir)
        yield fixed


@pytest.fixture(scope="module")
def web(fixed: MadeRuns) -> Iterator[Web]:
    with web_server(fixed, "--no-browser") as web:
        yield web


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize(
    ("name", "runs", "dark"),
    [("failed", ["c0de"], False), ("night", ["c0de"], True), ("compared", ["d0ne", "c0de"], False)],
)
def test_a_report_looks_as_before(
    browser: Browser, fixed: MadeRuns, name: str, runs: list[str], dark: bool, width: str
):
    file = fixed.folder / f"{name}-{width}.html"
    fixed.call("report", *runs, "-o", file.name)
    browser.emulate(dark=dark)
    browser.size(*SIZES[width])
    browser.open(file)
    shot = browser.screenshot(f"report-{name}-{width}")
    assert_looks_as_before(f"report-{name}-{width}", shot)


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize(("name", "path"), [("list", "/"), ("run", "/runs/c0de")])
def test_a_page_looks_as_before(browser: Browser, web: Web, name: str, path: str, width: str):
    browser.open(web.address)
    browser.size(*SIZES[width])
    browser.open(f"{web.url}{path}")
    browser.until(lambda: browser.js("return document.getElementById('main')"), "the page")
    browser.js("document.querySelector('.place').textContent = '~/melt'")  # paths are longer or not
    shot = browser.screenshot(f"web-{name}-{width}")
    assert_looks_as_before(f"web-{name}-{width}", shot)


def test_a_changed_page_looks_different(browser: Browser, fixed: MadeRuns):
    fixed.call("report", "c0de", "-o", "changed.html")
    browser.open(fixed.folder / "changed.html")
    before = small(browser.screenshot("before"))
    browser.js("document.querySelector('h1').style.marginBottom = '40px'")
    assert part_different(before, small(browser.screenshot("moved"))) > MOST_DIFFERENT
