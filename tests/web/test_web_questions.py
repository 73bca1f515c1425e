"""The cards of questions: every button and form gives an answer that the question accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from fractale.errors import AnswerError
from fractale.policy import grant_of
from fractale.questions import read_answer
from fractale.questions.kinds import (
    Approval,
    ElicitationQuestion,
    InDoubt,
    JobUnknown,
    OfGraph,
    Question,
    Review,
    ToolChanged,
)
from fractale.record.history_reader import read_history
from fractale.runs.actions import Actions, OpenQuestion
from fractale.runs.mailbox import Asked, Mailbox
from fractale.settings import Settings
from fractale.web.environment import environment
from fractale.web.questions import Card, answer_in, card_of
from fractale.web.run_parts import RunParts
from top_runs import QUESTION, held, run

CALL = Approval.ask("s", "write", {"path": "a.sh", "text": "x"}, "it changes something")
FORM = {
    "type": "object",
    "properties": {
        "nodes": {"type": "integer", "minimum": 1},
        "queue": {"enum": ["debug", "batch"], "default": "debug"},
        "now": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["nodes"],
}
CHOICES = Question.ask("s", "Which?", ["2", "large", '"quoted"'], "large")


def card(question: Mapping[str, Any]) -> Card:
    return card_of(OpenQuestion(key="k1", step="s", question=question, held=False))


def answered(question: Mapping[str, Any], **form: str) -> Any:
    """The answer in a submitted form, as the question reads it."""
    return read_answer(question, answer_in(question, form))


@pytest.mark.parametrize(
    "question",
    [
        CALL,
        Approval.ask("s", "look", {}, ""),
        CHOICES,
        Question.ask("s", "Why?", default="so"),
        Review.ask("s", "name: p\nsteps: []\n", None, 1),
        ElicitationQuestion.ask("s", "site", "Continue?", {}),
        InDoubt.ask("s", "write", {"path": "a"}),
        ToolChanged.ask("s", "site", {"write": "0" * 64}, "-a\n+b"),
        JobUnknown.ask("s", "17", "slurm", "it is not listed", "/nowhere"),
        {"kind": "failure", "step": "s", "error": "no route to host"},
        OfGraph.ask("s", "pkg.agent", {"action_requests": [{"name": "a", "args": {}}]}),
    ],
    ids=lambda question: question["kind"],
)
def test_every_button_is_an_answer(question: dict[str, Any]):
    shown = card(question)
    assert shown.buttons or shown.forms
    for button in shown.buttons:
        assert answered(question, answer=button.name) is not None, button


def test_the_answers_of_a_call():
    assert answered(CALL, answer="yes") is True
    assert answered(CALL, answer="no") is False
    assert answered(CALL, answer="always") == {"always": {"fix": "all"}}
    assert answered(CALL, answer="refuse", reason="not here") == {"refuse": "not here"}
    edited = answered(CALL, answer="edit", arguments='{"path": "b.sh", "text": "y"}')
    assert edited == {"arguments": {"path": "b.sh", "text": "y"}}
    with pytest.raises(AnswerError, match="must be a mapping"):
        answered(CALL, answer="edit", arguments="[1]")


@pytest.mark.parametrize("name", ["", "maybe", "choice.1", "True", "accept", "form"])
def test_what_is_no_answer_of_the_question_is_refused(name: str):
    with pytest.raises(AnswerError, match="does not belong"):
        answered(CALL, answer=name)


def test_a_choice_is_meant_although_it_looks_like_another_ones_label():
    shown = card(CHOICES)
    texts = {b.words: answered(CHOICES, answer=b.name) for b in shown.buttons}
    assert texts == {"2": "2", "large": "large", '"quoted"': '"quoted"'}
    assert answered(CHOICES, answer="text", text=" other\r\nlines") == " other\nlines"
    with pytest.raises(AnswerError, match="is empty"):
        answered(CHOICES, answer="text", text="  ")


def test_the_fields_of_a_form_have_their_types():
    question = Question.ask("s", "What size?", form=FORM)
    fields = {"field.nodes": "4", "field.queue": "", "field.now": "yes", "field.tags": "a, b"}
    expected = {"nodes": 4, "queue": "debug", "now": True, "tags": ["a", "b"]}
    assert answered(question, answer="form", **fields) == expected
    for wrong in ({"field.nodes": "four"}, {"field.nodes": "0"}, {}):
        with pytest.raises(AnswerError):
            answered(question, answer="form", **wrong)


def test_a_server_gets_what_it_asked_for_or_a_refusal():
    question = ElicitationQuestion.ask("s", "site", "Size?", FORM)
    sent = answered(question, **{"answer": "form", "field.nodes": "2", "field.now": "no"})
    assert sent == {"action": "accept", "content": {"nodes": 2, "queue": "debug", "now": False}}
    assert answered(question, answer="decline") == {"action": "decline"}


def test_a_draft_is_accepted_changed_or_sent_back():
    question = Review.ask("s", "name: p\nsteps: []\n", "-a\n+b", 2)
    assert answered(question, answer="accept") == "accept"
    assert answered(question, answer="reject") == "reject"
    assert answered(question, answer="feedback", text="use\r\n2 nodes") == {
        "feedback": "use\n2 nodes"
    }
    assert answered(question, answer="plan", plan="name: q\r\n") == {"plan": "name: q\n"}


def test_a_secret_is_not_asked_for_on_a_page():
    asked = OpenQuestion(
        key="k", step="s", question=CALL, held=True, problem="answer it at the terminal"
    )
    shown = card_of(asked)
    assert (shown.buttons, shown.forms) == ((), ())
    assert shown.problem == "answer it at the terminal"


def test_always_without_arguments_allows_no_others():
    question = dict(Approval.ask("s", "cancel_jobs", {}, ""), server="local", definition="d")
    granted = grant_of(question, answered(question, answer="always"))
    assert granted is not None
    assert granted.exact
    assert "exactly no arguments" in card(question).buttons[1].words


def test_an_answer_that_waits_is_shown_instead_of_asked_for():
    asked = OpenQuestion(key="k", step="s", question=CALL, held=False, given="by anna in top")
    assert card_of(asked).answered.startswith("answered by anna in top; the run has not taken it")
    later = OpenQuestion(key="k", step="s", question=CALL, held=True, turn=False)
    assert "before this one" in card_of(later).notes[-1]


def test_a_card_stays_between_two_questions_of_a_process(settings: Settings):
    """The record has one after the other, the mailbox has all."""
    asked = [{**QUESTION, "id": digit * 16, "step": digit} for digit in "12"]
    first = {"step": "1", "question": asked[0]}
    answer = {**first, "answer": True, "by": "person"}
    events = (0.1, "waiting", first), (0.2, "answered", answer)
    record = run(settings.state_dir, "asks", "two", 9.0, *events)
    pages = environment()
    pages.globals |= {"csrf": str, "csrf_name": "csrf"}
    parts = RunParts(pages, Actions(settings, by="a page"))
    with held(settings.state_dir, "asks"):
        Mailbox(record).publish({"second": Asked(asked[1])})
        assert "card-second" in parts(read_history(record), {})
