"""`fractale web` in a real browser: what a person does there, from the list to the answer.

Every test fails too if the console has an error or a page asks another host: see `browser`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from browser import CONTRAST, NARROW, WIDE, Browser
from counts import FULL
from faces import Web, web_server
from fractale.record.history_reader import read_history
from made_runs import FEEDBACK, MadeRuns, long_run, wait_for
from tmux import Tmux

LISTED = ("steps", "failed-job", "failed-tool", "approval", "foreach", "killed", "parent", "fork")


@pytest.fixture(scope="module")
def web(made: MadeRuns) -> Iterator[Web]:
    for name in LISTED:
        made.run(name)
    with web_server(made, "--model", "openai:scripted", "--no-browser") as web:
        yield web


@pytest.fixture
def page(browser: Browser, web: Web) -> Browser:
    """The list of runs, entered by the printed address."""
    browser.open(web.address)
    browser.until(lambda: browser.js("return document.getElementById('main')"), "the list")
    return browser


def ended(made: MadeRuns, run_id: str) -> str:
    """How a run ends that goes on in the background."""
    record = made.record(run_id)
    wait_for(lambda: read_history(record).status not in ("running", "waiting"), f"end of {run_id}")
    return read_history(record).status


def go(page: Browser, web: Web, path: str) -> None:
    page.open(f"{web.url}{path}")


# -- looking --------------------------------------------------------------------------------------


def test_the_address_opens_the_list_and_the_token_is_gone(page: Browser, web: Web):
    assert page.path == "/"
    assert web.token not in page.js("return document.documentElement.outerHTML + document.cookie")
    for name in LISTED:
        assert name in page.text
    assert "failed at relax" in page.text
    assert not page.faults()
    page.screenshot("web-list")
    page.size(*NARROW)
    assert not page.sideways()
    page.screenshot("web-list-400")


def test_the_list_is_filtered_by_keyboard(page: Browser):
    page.press("/")
    assert page.focus.startswith("input")
    page.type("failed-job")
    page.press("ENTER")
    page.until(lambda: "failed-tool" not in page.text, "the filter")
    assert "failed-job" in page.text
    page.press("ESCAPE")
    page.press("j")
    page.press("ENTER")
    page.until(lambda: page.path == "/runs/failed-job", "the run's page")


def test_a_failed_jobs_page_says_why_and_shows_its_log(page: Browser, web: Web):
    go(page, web, "/runs/failed-job")
    text = page.text
    assert text.index("exit code 3") < text.index("prepare"), "the verdict comes first"
    assert "ERROR: Unknown pair style reax/c" in text
    assert "fractale fork failed-job --at relax" in text
    assert not page.faults()
    page.screenshot("web-failed-job", whole=True)
    page.size(*NARROW)
    assert not page.sideways()
    page.screenshot("web-failed-job-400", whole=True)
    page.size(*WIDE)
    page.named("log", "a").click()
    page.until(lambda: "/logs/" in page.path, "the log's page")
    assert "Last command: pair_style reax/c NULL" in page.text
    assert not page.faults()


@pytest.mark.parametrize("name", ["foreach", "drafted"])
def test_a_runs_page_is_sound(page: Browser, web: Web, made: MadeRuns, name: str):
    made.run(name)
    go(page, web, f"/runs/{name}")
    page.js("document.querySelectorAll('details').forEach(it => it.open = true)")
    page.until(lambda: "what happened in it" not in page.text, "the contents of the attempts")
    assert not page.faults()
    page.screenshot(f"web-{name}", whole=True)
    page.size(*NARROW)
    assert not page.sideways()


def test_the_page_of_a_long_run_has_no_fault(page: Browser, web: Web, made: MadeRuns):
    steps = 1000 if FULL else 150
    long_run(made, steps, f"long-{steps}")
    go(page, web, f"/runs/long-{steps}")
    page.until(lambda: f"s{steps - 1}" in page.text, "its last step")
    assert not page.faults()
    page.size(*NARROW)
    assert not page.sideways()


def test_two_runs_are_compared(page: Browser):
    for name in ("parent", "fork"):
        page.one(f"input[value='{name}']").click()
    page.named("compare", "button").click()
    page.until(lambda: page.path.startswith("/diff"), "the comparison")
    assert "parent" in page.text
    assert "seen 12 words" in page.text
    assert not page.faults()


# -- following and acting --------------------------------------------------------------------------


def test_a_run_is_followed_to_its_end(page: Browser, web: Web, made: MadeRuns):
    with made.going("live"):
        go(page, web, "/runs/live")
        page.wait_for("running")
        page.js("window.same = 1")
        page.until(lambda: page.js("return document.querySelectorAll('.is-running').length"), "way")
        made.open_gate("live")
        page.wait_for("came after")
        page.until(lambda: "running" not in page.one("#part-verdict").text, "the verdict")
    assert "success" in page.one("#part-verdict").text
    assert page.js("return window.same") == 1, "the page was not loaded again"
    assert not page.faults()


def test_a_question_comes_to_an_open_page_and_is_answered(page: Browser, web: Web, made: MadeRuns):
    made.make("question", "ask-web", code=4)
    go(page, web, "/runs/ask-web")
    page.wait_for("Which size should the box have?")
    assert not page.faults()
    page.answer("3 large", lambda: "the large box" in page.text)
    assert ended(made, "ask-web") == "success"
    (asked,) = read_history(made.record("ask-web")).questions
    assert asked.answer == "large"


def test_a_call_is_refused_by_a_key(page: Browser, web: Web, made: MadeRuns):
    path = made.folder / "refused.sh"
    made.make("approval", "refuse", "-i", f"path={path.name}", code=4)
    go(page, web, "/runs/refuse")
    page.wait_for("flux run -n 8 lmp")
    assert path.name in page.one("[data-question]").text
    page.press("q")
    page.until(lambda: page.js("return document.activeElement.matches('[data-question]')"), "card")
    assert not page.faults()
    page.screenshot("web-approval")
    page.size(*NARROW)
    assert not page.sideways()
    page.screenshot("web-approval-400")
    page.size(*WIDE)
    # A card takes no key in its first moment.
    page.until(lambda: [page.press("n"), not page.all("[data-question]")][1], "the answer")
    ended(made, "refuse")
    assert not path.exists()
    (asked,) = read_history(made.record("refuse")).questions
    assert asked.answer is False


def test_a_form_is_filled_and_a_wrong_value_is_refused(page: Browser, web: Web, made: MadeRuns):
    made.make("form", "form-web", code=4)
    go(page, web, "/runs/form-web")
    page.named("nodes", "input").send_keys("100")
    page.named("queue", "select").send_keys("debug")
    page.answer("answer", lambda: "not done" in page.text)
    page.expected_errors = ("409 (Conflict)",)
    assert read_history(made.record("form-web")).status == "waiting"
    go(page, web, "/runs/form-web")
    page.named("nodes", "input").send_keys("4")
    page.named("queue", "select").send_keys("debug")
    page.answer("answer", lambda: "4 nodes" in page.text)
    assert ended(made, "form-web") == "success"


def test_a_draft_is_sent_back_and_accepted(page: Browser, web: Web, made: MadeRuns):
    made.make("drafted", "draft-web", code=4)
    go(page, web, "/runs/draft-web")
    card = page.one("[data-question]")
    assert "tool: look" in card.text
    page.press("q", "f")
    page.until(lambda: [page.press("f"), page.focus.startswith("textarea")][1], "the feedback")
    page.js("document.activeElement.value = ''")
    page.type(FEEDBACK)
    page.js("document.activeElement.form.requestSubmit()")
    page.wait_for("tool: check")
    page.until(lambda: "tool: check" in page.one("[data-question]").text, "the second draft")
    page.answer("a accept", lambda: not page.all("[data-question]"))
    assert ended(made, "draft-web") == "success"


def test_a_question_of_a_terminal_is_answered_in_the_browser(
    page: Browser, web: Web, made: MadeRuns
):
    words = made.words_of("question", "terminal-web")
    python = [os.path.join(os.path.dirname(os.sys.executable), "fractale"), *words]  # noqa: PTH118, PTH120
    with Tmux(made.folder, *python, env=made.env) as terminal:
        terminal.ask_for("Which size should the box have?")
        go(page, web, "/runs/terminal-web")
        page.answer("2 medium", lambda: "answered" in terminal.screen())
        assert terminal.end() == 0
        assert "the medium box" in terminal.screen()
    page.until(lambda: "success" in page.one("#part-verdict").text, "the verdict")


def test_a_run_is_started_from_its_form(page: Browser, web: Web, made: MadeRuns):
    page.named("plans", "a").click()
    page.named("plans/steps.yaml", "a").click()
    assert not page.faults()
    page.screenshot("web-plan", whole=True)
    field = page.named("text", "input, textarea")
    field.clear()
    field.send_keys("one two three four")
    page.named("show what it would do").click()
    page.wait_for("What it would do")
    assert "one two three four" in page.one("#dry-run").text
    assert not page.faults()
    page.screenshot("web-dry-run")
    page.named("start this run").click()
    page.until(lambda: page.path.startswith("/runs/"), "the new run")
    page.wait_for("seen 4 words")
    run_id = re.split(r"[/?]", page.path)[2]
    assert ended(made, run_id) == "success"


def test_a_run_that_works_is_cancelled_and_resumed(page: Browser, web: Web, made: MadeRuns):
    with made.going("stop"):
        go(page, web, "/runs/stop")
        page.named("cancel", "summary").click()
        page.named("cancel run stop").click()
        page.wait_for("stops after it")
    page.until(lambda: "stopped" in page.one("#part-verdict").text, "the end")
    page.named("resume", "button").click()
    page.wait_for("came after")
    assert ended(made, "stop") == "success"


def test_the_whole_way_by_keyboard_alone(page: Browser, web: Web, made: MadeRuns):
    """From the list by Tab, Enter and letters to an approval, each focus to be seen."""
    made.make("approval", "keys", "-i", "path=keys.sh", code=4)
    go(page, web, "/")
    page.press("/")
    page.type("keys")
    page.press("ENTER")
    page.until(lambda: "failed-tool" not in page.text, "the filter")
    page.press("j")
    assert page.focus == "a keys"
    assert page.focus_is_visible()
    page.press("ENTER")
    page.until(lambda: page.path == "/runs/keys", "the run's page")
    page.tab_to("once")
    assert page.focus_is_visible()
    page.js("dispatchEvent(new Event('pageshow'))")  # a card that takes no answer yet
    assert page.focus_is_visible()
    # A card takes no key in its first moment.
    page.until(lambda: [page.press("ENTER"), not page.all("[data-question]")][1], "the answer")
    assert ended(made, "keys") == "success"
    assert (made.folder / "keys.sh").exists()
    is_open = "return document.querySelector('dialog').open"
    page.until(lambda: [page.press("?"), page.js(is_open)][1], "the keys")
    page.press("ESCAPE")


def test_pages_are_sound_in_the_dark(page: Browser, web: Web):
    page.emulate(dark=True)
    for path in ("/", "/runs/failed-job", "/runs/approval"):
        go(page, web, path)
        assert not page.faults(rules=CONTRAST), path
    page.screenshot("web-approval-dark")


def test_without_scripts_a_question_is_answered_too(page: Browser, web: Web, made: MadeRuns):
    made.make("question", "plain-web", code=4)
    with page.without_scripts():
        go(page, web, "/runs/plain-web")
        page.one("button[value='small'], button[data-key='1']").click()
    assert ended(made, "plain-web") == "success"
