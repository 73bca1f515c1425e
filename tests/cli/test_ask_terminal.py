"""A plan's question at a terminal of 80 columns: what is asked, the choices, and the default."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tmux import Tmux

PLAN = """
name: Publish
steps:
  - name: gate
    ask: "Publish the report? It goes to the whole group, and the group reads it on Monday."
    choices: [publish, {revise: What should change?}, drop]
    default: drop
    default_after: AFTER
  - name: size
    ask: How big is the job?
    form:
      type: object
      properties:
        nodes: {type: integer, minimum: 1, maximum: 8, description: Nodes of the job}
        queue: {enum: [debug, batch]}
        mail: {type: boolean}
      required: [nodes, queue]
    default: {nodes: 2, queue: batch}
outputs: {said: "{{ steps.gate.outputs }}", size: "{{ steps.size.outputs.answer }}"}
"""
GATE = """\
? gate wants to know   (run RUN)
  Publish the report? It goes to the whole group, and the group reads it on
  Monday.
   1  publish
   2  revise   (then asks: What should change?)
   3  drop   (default)
  (without an answer by TIME, the default is taken: drop)
>"""
SIZE = """\
? size wants to know   (run RUN)
  How big is the job?
  (default: {"nodes": 2, "queue": "batch"})
  nodes (integer from 1 to 8)  Nodes of the job
  [2] >"""


def seen(screen: str) -> str:
    """The screen without what differs from run to run."""
    screen = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", screen)
    return re.sub(r"\brun [a-z0-9]{5}\b", "run RUN", screen)


@pytest.fixture
def start(tmp_path: Path):
    def begin(after: str) -> Tmux:
        (tmp_path / "p.yaml").write_text(PLAN.replace("AFTER", after))
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FRACTALE_TRUST_PROJECT": "1"}
        words = (sys.executable, "-m", "fractale.cli", "run", "p.yaml")
        return Tmux(tmp_path, *words, env=env, size=(80, 45))

    return begin


def test_a_person_sees_the_choices_the_default_and_its_time(start):
    with start("1h") as terminal:
        assert GATE in seen(terminal.ask_for("the default is taken"))
        terminal.type("banana")
        assert "answer with: publish, revise, drop" in terminal.ask_for("is not a valid answer")
        terminal.type("2")
        assert "  What should change?\n  (Enter: no text) >" in terminal.ask_for("no text")
        terminal.type("shorter")
        assert SIZE in seen(terminal.ask_for("Nodes of the job"))
        terminal.type("4")
        terminal.ask_for("queue")
        terminal.type("1")
        terminal.ask_for("mail (boolean, optional)")
        terminal.type("")
        assert '    nodes  4\n    queue  "debug"\n  y answer with this · n start again' in (
            terminal.ask_for("start again")
        )
        terminal.type("y")
        assert terminal.end() == 0
        screen = terminal.screen()
    assert 'said    {"answer": "revise", "text": "shorter"}' in screen
    assert 'size    {"nodes": 4, "queue": "debug"}' in screen


def test_a_field_that_does_not_fit_is_asked_for_again(start):
    with start("1h") as terminal:
        terminal.ask_for("the default is taken")
        terminal.type("1")
        for asked, value in (("Nodes of the job", "9"), ("queue\n", ""), ("mail (", "")):
            terminal.ask_for(asked)
            terminal.type(value)
        screen = terminal.wait_for("is greater than the maximum of 8")
        assert screen.count("How big is the job?") == 1
        terminal.ask_for("[2]")
        terminal.key("C-c")
        assert terminal.end() == 130


def test_the_question_ends_at_its_time_and_the_screen_says_so(start):
    with start("2s") as terminal:
        terminal.ask_for("the default is taken")
        terminal.ask_for("Nodes of the job")
        screen = seen(terminal.screen())
        assert 'gate: no answer in time; the default was taken: "drop"' in screen
        for asked, value in (("[2]", ""), ("queue\n", ""), ("mail (", ""), ("start again", "y")):
            terminal.ask_for(asked)
            terminal.type(value)
        assert terminal.end() == 0
        screen = terminal.screen()
    assert "no answer within 2.0 s: the default `drop` was taken" in screen
