"""Cards of `fractale web` that change under a person's hand, and the ways into the page."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Browser
from faces import Web, web_server
from fractale.record.history_reader import read_history
from made_runs import MadeRuns
from tmux import Tmux

PLAN = """
name: Three writes
steps:
  - name: each
    tool: write
    approve: always
    foreach: ['harmless', 'DANGEROUS', 'third']
    keep_going: true
    inputs: {path: "{{ item }}.out", text: "{{ item }}"}
"""
CLICK = """
const [x, y] = arguments;
window.hit = "";
{
  const look = () => {
    if (document.querySelectorAll("[data-question]").length > 2) return setTimeout(look, 5);
    const it = document.elementFromPoint(x, y);
    it.click();
    window.hit = it.innerText;
  };
  look();
}
"""
CENTER = """
const at = arguments[0].getBoundingClientRect();
return [at.left + at.width / 2, at.top + at.height / 2];
"""


@pytest.fixture(scope="module")
def web(made: MadeRuns) -> Iterator[Web]:
    with web_server(made, "--model", "openai:scripted", "--no-browser") as web:
        yield web


def answers(made: MadeRuns, run_id: str) -> list[object]:
    return [each.answer for each in read_history(made.record(run_id)).questions if each.answered]


def test_a_card_that_is_answered_elsewhere_stays_and_takes_no_click(
    browser: Browser, web: Web, made: MadeRuns
):
    (made.folder / "plans" / "three.yaml").write_text(PLAN)
    words = [os.path.join(os.path.dirname(sys.executable), "fractale")]  # noqa: PTH118, PTH120
    words += made.words_of("three", "three")
    with Tmux(made.folder, *words, env=made.env) as terminal:
        terminal.ask_for("harmless")
        browser.open(web.address)
        browser.open(f"{web.url}/runs/three")
        browser.until(lambda: len(browser.all("[data-question]")) == 3, "three cards")
        yes = browser.named("y call", "button")
        browser.js("arguments[0].scrollIntoView({block: 'center'})", yes)
        where = browser.js(CENTER, browser.all("[data-question]")[0])[1]
        browser.js(CLICK, *browser.js(CENTER, yes))
        made.call("answer", "three", "each[0]=no")
        browser.until(lambda: browser.js("return window.hit"), "the click")
        browser.until(lambda: browser.all("[id^=closed-]"), "the card that is not open any more")
        (closed,) = browser.all("[id^=closed-]")
        assert "each[0]" in closed.text
        assert browser.js(CENTER, closed)[1] == pytest.approx(where, abs=1), "it stays there"
        browser.screenshot("web-closed-card")
        assert browser.path == "/runs/three"
        assert answers(made, "three") == [False]
        # What comes later is for the card that is seen by then.
        key = browser.js("return document.querySelector('[data-question]').dataset.question")
        first = f"[data-question='{key}'] button"
        browser.answer("n do not", lambda: answers(made, "three") == [False, False], first)
        made.call("answer", "three", "each[2]=no")
        terminal.ask_for("items failed")
        terminal.type("q")
        terminal.end()
    assert not (made.folder / "DANGEROUS.out").exists()


def test_a_click_on_a_page_that_has_just_come_is_not_taken(
    browser: Browser, web: Web, made: MadeRuns
):
    made.make("approval", "early", "-i", "path=early.sh", code=4)
    browser.open(web.address)
    browser.open(f"{web.url}/runs/early")
    browser.js(
        "dispatchEvent(new Event('pageshow')); document.querySelector('[data-key=y]').click()"
    )
    browser.wait_for("look again")
    assert answers(made, "early") == []
    browser.answer("n do not", lambda: answers(made, "early") == [False])


@pytest.mark.parametrize("start", ["file", "link", "link without token"])
def test_the_page_is_entered_from_elsewhere(browser: Browser, web: Web, tmp_path: Path, start: str):
    """A strict cookie is not sent along with what another page leads to."""
    address = web.address
    if start == "link without token":
        browser.open(web.address)
        address = f"{web.url}/?state=failed"
    page = tmp_path / "start.html"
    refresh = f'<meta http-equiv="refresh" content="0; url={address}">' if start == "file" else ""
    page.write_text(f'<html lang=en><title>T</title>{refresh}<a href="{address}">open it</a>')
    browser.open(web.url + "/static/none")
    browser.expected_errors = ("401", "404")
    browser.open(page)
    if start != "file":
        browser.one("a").click()
    browser.wait_for("only you can use this page")
    assert browser.path == ("/" if "token=" in address else "/?state=failed")


def test_the_contents_of_fields_come_back_as_they_were(browser: Browser, web: Web, made: MadeRuns):
    odd = r'"all:\n\tcc x\u200b \e[0m \u202eé\u00a0 <&\"\r\n"'
    steps = "steps:\n  - {name: a, tool: look, inputs: {text: x}}\n"
    plan = f"name: Odd\ninputs: {{text: {odd}}}\n{steps}"
    (made.folder / "plans" / "odd.yaml").write_text(plan)
    made.make("odd", "odd")
    given = 'all:\n\tcc x\u200b \x1b[0m \u202eé\u00a0 <&"\n'
    browser.open(web.address)
    for path in ("/plans/plans/odd.yaml", "/runs/odd/fork"):
        browser.open(web.url + path)
        assert browser.js("return document.querySelector('textarea').value") == given
    browser.open(web.url + "/plans/plans/odd.yaml")
    browser.named("show what it would do").click()
    browser.named("start this run").click()
    browser.until(lambda: browser.path.startswith("/runs/"), "the new run")
    run_id = browser.path.split("/")[2].partition("?")[0]
    browser.until(lambda: made.record(run_id).head.exists(), "its record")
    assert made.record(run_id).read_head()["inputs"] == made.record("odd").read_head()["inputs"]
