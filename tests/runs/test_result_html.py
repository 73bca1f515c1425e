"""The result of a run in a notebook: what people need to know, and nothing that acts."""

from __future__ import annotations

import asyncio
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import fractale
from fractale.errors import UsageError
from fractale.runs import RunResult
from fractale.runs.result_html import MOST_ROWS, MOST_SIGNS

HOSTILE = '<img src=x onerror=alert(1)> "quoted" \u202e\x1b[31m $\\href{javascript:x}{y}$'
TAGS = {"div", "p", "b", "code", "table", "tr", "th", "td", "pre", "ul", "li"}


class Reader(HTMLParser):
    """The elements, attributes and text of a fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = list[str](), list[Any](), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(result: RunResult) -> Reader:
    return Reader(result._repr_html_())


def test_a_run_shows_its_end_its_outputs_and_its_steps():
    plan = "name: p\nsteps: [{name: set_it, set: {x: 1}}]\noutputs: {answer: [42]}\n"
    read = shown(asyncio.run(fractale.arun(plan)))
    for text in ("success", "answer", "[42]", "set_it"):
        assert text in read.text


def test_nothing_that_a_tool_said_is_markup_or_a_formula():
    step = {"name": HOSTILE, "outcome": HOSTILE, "decided_by": HOSTILE}
    result = RunResult(
        run=HOSTILE,
        status="failed",
        outputs={HOSTILE: HOSTILE, "data": {"k": HOSTILE}},
        steps=[step],
        error=HOSTILE,
        hint=HOSTILE,
        waiting=[{"text": HOSTILE, "step": "s"}],
        notices=[{"kind": HOSTILE, "message": HOSTILE, "step": "s"}],
        record=Path("x"),
    )
    read = shown(result)
    assert set(read.tags) <= TAGS
    assert read.attributes == [("class", "tex2jax_ignore mathjax_ignore")]
    assert "<img src=x onerror=alert(1)>" in read.text
    assert not [sign for sign in read.text if not sign.isprintable() and sign not in "\n\t"]


def test_what_is_cut_is_said():
    steps = [{"name": f"s{n}", "outcome": "success"} for n in range(MOST_ROWS + 1)]
    long = "x" * (MOST_SIGNS + 7)
    read = shown(RunResult(run="r", status="success", outputs={"long": long}, steps=steps))
    assert "7 more characters" in read.text
    assert f"The first {MOST_ROWS} of {MOST_ROWS + 1} are shown." in read.text


def test_in_the_loop_of_a_notebook_arun_works_and_run_names_it():
    async def cell() -> str:
        with pytest.raises(UsageError) as caught:
            fractale.run("name: p\nsteps: [{name: s, set: {x: 1}}]\n")
        assert "await fractale.arun(" in f"{caught.value} {caught.value.hint}"
        result = await fractale.arun("name: p\nsteps: [{name: s, set: {x: 1}}]\n")
        return result.status

    assert asyncio.run(cell()) == "success"
