"""The file of `fractale report` in a real browser, opened from a disk without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import CONTRAST, NARROW, Browser
from counts import FULL
from made_runs import SECRET, MadeRuns, long_run

LOOKED_AT = (("failed-job",), ("parent", "fork"), ("back", "foreach", "drafted", "images", "table"))


def report(made: MadeRuns, *runs: str) -> Path:
    file = made.folder / f"{'-'.join(runs)[:60]}.html"
    file.unlink(missing_ok=True)
    made.call("report", *runs, "-o", file.name)
    return file


def opened(browser: Browser) -> None:
    """Unfold everything."""
    browser.js("document.querySelectorAll('details').forEach(it => it.open = true)")


@pytest.mark.parametrize("names", LOOKED_AT, ids="-".join)
def test_a_report_is_sound(browser: Browser, made: MadeRuns, names: tuple[str, ...]):
    for name in names:
        made.run(name)
    browser.open(report(made, *names))
    assert all(name in browser.text for name in names)
    assert ("seen 12 words" in browser.text) is ("fork" in names), "what differs"
    browser.screenshot(f"report-{names[0]}", whole=True)
    opened(browser)
    assert not browser.faults()
    browser.size(*NARROW)
    assert not browser.sideways()
    browser.screenshot(f"report-{names[0]}-400", whole=True)
    browser.emulate(dark=True)
    assert not browser.faults(rules=CONTRAST), "in the dark"
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


def test_a_secret_is_in_no_report(made: MadeRuns):
    made.run("secret")
    html = report(made, "secret").read_text(encoding="utf-8")
    assert "anna" in html
    assert SECRET not in html


def test_the_report_of_a_long_run_has_no_fault(browser: Browser, made: MadeRuns):
    steps = 1000 if FULL else 150  # axe takes 40 s for the 80,000 elements of 1,000 steps
    long_run(made, steps, f"long-{steps}")
    browser.open(report(made, f"long-{steps}"))
    assert f"s{steps - 1}" in browser.text
    assert not browser.faults()
