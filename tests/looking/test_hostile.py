"""A run in which every field of every event would do harm if it were more than text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from browser import NARROW, Browser
from faces import Web, web_server
from fractale.render.text import cells
from made_runs import HOSTILE, MARK, MadeRuns, hostile_questions, hostile_run, inert
from tmux import Tmux

STATED = (
    "return [...document.querySelectorAll('*')].filter(it => [...it.attributes].some("
    "at => at.name.startsWith('on') || /^\\s*(javascript|data:text)/i.test(at.value) && "
    "['href', 'src', 'action', 'formaction'].includes(at.name)))"
    ".map(it => it.outerHTML.slice(0, 200))"
)
"""The elements of a page that have a handler, or lead to a script."""


SHOWN = """
const page = document.documentElement.cloneNode(true);
page.querySelectorAll("textarea").forEach(it => it.remove());
page.querySelectorAll("[value]").forEach(it => it.removeAttribute("value"));
return page.outerHTML;
"""


@pytest.fixture(scope="module")
def hostile(made: MadeRuns) -> str:
    """The hostile run with lines of 10 MB, and one that waits with hostile questions."""
    hostile_run(made.state_dir)
    hostile_questions(made.state_dir)
    return "hostile"


@pytest.fixture(scope="module")
def web(made: MadeRuns, hostile: str) -> Iterator[Web]:
    with web_server(made, "--no-browser", output=made.folder / "hostile.txt") as web:
        yield web


@pytest.mark.parametrize(
    "words",
    [
        ("runs",),
        ("show", "hostile"),
        ("show", "hostile", HOSTILE[0]),
        ("show", "hostile-asks"),
        ("diff", "hostile", "steps"),
        ("why", "hostile", "--since", "steps"),
        ("watch", "hostile"),
        ("watch", "hostile-asks"),
        ("answer", "hostile-asks"),
        ("graph", "--run", "hostile"),
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_a_command_prints_it_as_text(made: MadeRuns, hostile: str, words: tuple[str, ...]):
    made.run("steps")
    process = made.start(*words)
    out, err = process.communicate()
    assert process.returncode in (0, 1, 2, 4), err
    assert "unexpected" not in err, err
    assert MARK in out + err or words[0] == "graph"
    assert not inert(out + err)
    assert len(out + err) < 400_000, "what is long is cut"


@pytest.mark.parametrize("path", ["/", "/runs/hostile", "/runs/hostile-asks", "/runs/hostile/fork"])
def test_a_page_shows_it_as_text(browser: Browser, web: Web, path: str):
    browser.open(web.address)
    browser.open(f"{web.url}{path}")
    browser.js("document.querySelectorAll('details').forEach(it => it.open = true)")
    browser.until(lambda: "what happened in it" not in browser.text, "the attempts")
    assert MARK in browser.text
    assert browser.driver.title != MARK
    assert browser.js(f"return window.{MARK} === undefined")
    assert browser.js(STATED) == []
    # A field has the value itself: it is sent as it is.
    html = browser.js(SHOWN)
    assert not inert(html), "control characters and marks of direction are written out"
    assert len(html) < 12_000_000
    own = browser.js("return [...document.querySelectorAll('form')].map(it => it.action)")
    assert all(each.startswith(web.url) for each in own)
    browser.size(*NARROW)
    assert not browser.sideways()
    browser.screenshot(f"hostile{path.replace('/', '-')}")


def test_a_report_shows_it_as_text(browser: Browser, made: MadeRuns, hostile: str):
    file = made.folder / "hostile.html"
    made.call("report", hostile, "-o", file.name)
    assert file.stat().st_size < 12_000_000, "lines of 10 MB are cut"
    browser.open(file)
    browser.js("document.querySelectorAll('details').forEach(it => it.open = true)")
    assert MARK in browser.text
    assert browser.driver.title != MARK
    assert browser.js(f"return window.{MARK} === undefined")
    assert browser.js(STATED) == []
    assert not browser.all("form, iframe, object, embed, base, meta[http-equiv=refresh]")
    links = browser.js("return [...document.links].map(it => it.getAttribute('href'))")
    assert [each for each in links if not each.startswith(("#", "file:"))] == []
    browser.size(*NARROW)
    assert not browser.sideways()
    browser.screenshot("hostile-report-400")


def test_the_terminal_shows_it_as_text(made: MadeRuns, hostile: str):
    """`fractale top` at 80 columns: the list, the run, and its questions."""
    words = [sys.executable, "-m", "fractale.cli", "top"]
    env = {**made.env, "LANG": "C.UTF-8", "PYTHONPATH": os.pathsep.join(sys.path)}
    with Tmux(made.folder, *words, env=env, size=(80, 24)) as terminal:
        terminal.wait_for("q leave")
        terminal.type("/hostile")  # other runs of the directory may be above it
        log = "other job"
        # Each key once the screen of the key before is there.
        for key, comes in (
            ("", "Esc all (hostile)"),
            ("Enter", " lines below"),
            ("l", log),
            ("Escape", " lines below"),
            ("Escape", "Esc all"),
            ("Down", "\u203ahostile "),
            ("Enter", "last error"),
            ("l", log),
            ("q", " lines below"),
        ):
            if key:
                terminal.key(key)
            texts = (comes,) if comes == log else (comes, MARK[:3])
            screen = terminal.until(lambda it, texts=texts: all(text in it for text in texts))
            assert not inert(screen)
            assert all(cells(line) <= 80 for line in screen.splitlines())
        terminal.key("C-c")
        assert terminal.end() == 0
