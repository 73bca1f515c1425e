"""The file of `fractale report` in a real browser, opened from a disk without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import NARROW, Browser
from made_runs import KINDS, MARK, SECRET, MadeRuns, hostile_run

LOOKED_AT = ("back", "failed-job", "foreach", "drafted", "images", "table")


def report(made: MadeRuns, *runs: str) -> Path:
    file = made.folder / f"{'-'.join(runs)[:60]}.html"
    file.unlink(missing_ok=True)
    made.call("report", *runs, "-o", file.name)
    return file


def opened(browser: Browser) -> None:
    """Unfold everything."""
    browser.js("document.querySelectorAll('details').forEach(it => it.open = true)")


@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_report_is_sound(browser: Browser, made: MadeRuns, name: str):
    made.run(name)
    browser.open(report(made, name))
    browser.screenshot(f"report-{name}", whole=True)
    opened(browser)
    assert not browser.faults()
    browser.size(*NARROW)
    assert not browser.sideways()
    browser.screenshot(f"report-{name}-400", whole=True)
    browser.emulate(dark=True)
    assert not browser.faults(), "in the dark"
    assert [each for each in browser.requests() if not each.startswith(("file:", "data:"))] == []


def test_a_failed_jobs_report_without_scripts_and_in_print(browser: Browser, made: MadeRuns):
    made.run("failed-job")
    file = report(made, "failed-job")
    with browser.without_scripts():
        browser.open(file)
        # What is folded is a `details`, which opens without a script.
        html = file.read_text(encoding="utf-8")
        assert "exit code 3" in browser.text
        assert "Unknown pair style reax/c" in html
    assert len(browser.pdf()) > 10_000
    browser.emulate("print")
    browser.screenshot("report-print", whole=True)


def test_a_fork_and_its_parent_are_compared_in_one_file(browser: Browser, made: MadeRuns):
    made.run("fork")
    browser.open(report(made, "parent", "fork"))
    assert "seen 12 words" in browser.text
    assert not browser.faults()
    browser.screenshot("report-two", whole=True)


def test_all_kinds_of_runs_in_one_file(browser: Browser, made: MadeRuns):
    made.all()
    file = report(made, *KINDS)
    browser.open(file)
    assert all(name in browser.text for name in KINDS)
    assert SECRET not in file.read_text(encoding="utf-8")


def test_the_hostile_run_is_text(browser: Browser, made: MadeRuns, tmp_path: Path):
    record = hostile_run(made.state_dir, "hostile-report")
    file = report(made, record.run_id)
    assert file.stat().st_size < 12_000_000, "lines of 10 MB are cut"
    html = file.read_text(encoding="utf-8")
    assert "\0" not in html
    assert "\x1b" not in html
    browser.open(file)
    opened(browser)
    assert MARK in browser.text
    assert browser.driver.title != MARK
    assert browser.js(f"return window.{MARK} === undefined")
    assert browser.js("return document.scripts.length") <= 1
    links = browser.js("return [...document.links].map(it => it.getAttribute('href'))")
    assert [each for each in links if not each.startswith(("#", "file:"))] == []
    assert not browser.all("form, iframe, object, embed, base, meta[http-equiv=refresh]")
    assert not browser.js(
        "return [...document.querySelectorAll('*')].filter(it => [...it.attributes].some("
        "at => at.name.startsWith('on'))).map(it => it.outerHTML.slice(0, 100))"
    )
    browser.size(*NARROW)
    assert not browser.sideways()
    browser.screenshot("report-hostile-400")
