"""A question as a card: the exact call or text, and the answers that one click or a form gives.

An answer belongs to the question that the card shows: the form has its key, and the key of a
question that is asked again is another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import Any, Final, cast

from fractale.errors import AnswerError
from fractale.questions import calls_in, tool_of
from fractale.questions.forms import (
    choices_of,
    defaults_of,
    properties_of,
    read_field,
    required_of,
    secret_fields,
)
from fractale.questions.kinds import default_word, expected, form_of, is_breakpoint, labels
from fractale.questions.parsing import data_of
from fractale.render import questions as shown
from fractale.render.text import inert, plain, table
from fractale.runs.actions import OpenQuestion

Fields = Mapping[str, str]

FIELD: Final = "field."
"""Before the name of a form's field."""


@dataclass(frozen=True, slots=True)
class Button:
    """An answer of one click.

    Args:
        name: The value of the field ``answer``.
        key: The key of a keyboard that presses it while the card has the focus; may be empty.
    """

    name: str
    words: str
    key: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form.

    Args:
        kind: ``text``, ``long``, ``choice`` or ``secret``.
        options: Of a choice: value and words.
        problem: What is wrong with the value that was sent.
    """

    name: str
    label: str
    kind: str = "text"
    value: str = ""
    about: str = ""
    required: bool = False
    options: Sequence[tuple[str, str]] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """A form of a card.

    Args:
        name: The value of the field ``answer``.
        folded: The words that open it; empty for a form that is always shown.
    """

    name: str
    fields: Sequence[Field]
    submit: str
    folded: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A question and the ways to answer it.

    Args:
        key: Of the question, see `fractale.runs.actions.OpenQuestion`.
        head: The question in one line.
        text: The exact call, plan or text, in full.
        sources: Where the values of a call came from.
        why: Why it is asked.
        answered: Who answered it, if the run has not taken the answer; empty if it is open.
    """

    key: str
    step: str
    kind: str
    head: str
    text: str
    why: str = ""
    sources: Sequence[tuple[str, str]] = ()
    changes: str = ""
    buttons: Sequence[Button] = ()
    forms: Sequence[AnswerForm] = ()
    problem: str = ""
    held: bool = False
    notes: Sequence[str] = ()
    answered: str = ""


def card_of(asked: OpenQuestion) -> Card:
    """The card of a question."""
    question = asked.question
    kind = str(question.get("kind"))
    lines = [plain(line) for line in _LINES[kind](question)] if kind in _LINES else []
    head = lines[0] if lines else f"{inert(asked.step)} asks"
    body = lines[1:]
    buttons, forms = _ways(kind)(question)
    notes = [shown.exact(line) for line in shown.due_line(question)]
    answered = f"answered {inert(asked.given, 200)}; {_NOT_TAKEN[asked.held]}"
    if asked.held and not asked.turn and not asked.given:
        notes.append("an answer waits until the questions before this one are answered")
    if asked.problem:
        buttons, forms = (), ()
    if kind == "review":
        body = shown.exact(str(question["plan"])).rstrip("\n").split("\n")
    return Card(
        key=asked.key,
        step=inert(asked.step, 200),
        kind=kind,
        head=head.strip(),
        text=dedent("\n".join(body)),
        why="" if (why := inert(str(question.get("why") or ""), 1000)) in head else why,
        sources=_sources(question),
        changes=shown.exact(str(question.get("changes") or "")),
        buttons=buttons,
        forms=forms,
        problem=inert(asked.problem, 400),
        held=asked.held,
        notes=notes,
        answered=answered if asked.given else "",
    )


_NOT_TAKEN: Final = {
    True: "the run takes it when the turn of this question comes",
    False: "the run has not taken it: resume the run",
}


def _sources(question: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Argument → where its value came from."""
    found: list[tuple[str, str]] = []
    for origin in cast("Sequence[Any]", question.get("origins") or ()):
        if isinstance(origin, Mapping):
            each = cast("Mapping[str, Any]", origin)
            named = [str(source) for source in cast("Sequence[Any]", each.get("from") or ())]
            found.append((inert(str(each.get("argument") or ""), 80), inert(", ".join(named), 200)))
    return found


_LINES: Final[Mapping[str, Callable[[Mapping[str, Any]], Sequence[Any]]]] = {
    "question": lambda q: shown.question_lines(q, ""),
    "approval": lambda q: shown.approval_lines(q, ""),
    "review": lambda q: shown.review_lines(q, ""),
    "elicitation": lambda q: shown.elicitation_lines(q, ""),
    "in_doubt": lambda q: shown.in_doubt_lines(q, ""),
    "tool_changed": lambda q: shown.tool_changed_lines(q, ""),
    "job_unknown": lambda q: shown.job_unknown_lines(q, ""),
    "failure": lambda q: shown.failure_lines(q, ""),
    "interrupt": lambda q: shown.interrupt_lines(q, ""),
}

Ways = tuple[Sequence[Button], Sequence[AnswerForm]]


def _ways(kind: str) -> Callable[[Mapping[str, Any]], Ways]:
    return _WAYS.get(kind, _free)


def _approval(question: Mapping[str, Any]) -> Ways:
    arguments: Mapping[str, Any] = table(question, "arguments")
    tool = shown.exact(tool_of(question))
    buttons = [
        Button("yes", f"call {tool} once", "y", "good"),
        Button("always", f"always with exactly {'these' if arguments else 'no'} arguments", "a"),
        Button("no", "do not call it", "n", "bad"),
    ]
    written = _visible(json.dumps(arguments, indent=2, ensure_ascii=False, default=str))
    forms = [
        AnswerForm(
            "edit",
            [Field("arguments", "arguments, as JSON", "long", written, required=True)],
            f"call {tool} with these arguments",
            "change the arguments",
            "e",
        ),
        AnswerForm(
            "refuse", [Field("reason", "why not", required=True)], "refuse", "refuse, and say why"
        ),
    ]
    return buttons, forms


def _visible(text: str) -> str:
    """JSON with every character escaped that cannot be seen, or that turns the direction."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _question(question: Mapping[str, Any]) -> Ways:
    if form := form_of(question):
        return (), [AnswerForm("form", _fields(form), "answer")]
    follow_up = table(question, "follow_up")
    default = default_word(question)
    choices: Sequence[str] = question.get("choices") or ()
    buttons = [
        Button(f"choice.{label}", inert(choice, 200), label if len(label) == 1 else "")
        for label, choice in zip(labels(question), choices, strict=False)
    ]
    forms: list[AnswerForm] = []
    for label, choice in zip(labels(question), choices, strict=False):
        if choice in follow_up:
            about = inert(str(follow_up[choice]), 400)
            text = Field("text", about, "long")
            forms.append(
                AnswerForm(f"with.{label}", [text], inert(choice, 60), f"{inert(choice, 60)} …")
            )
    if default is not None and default not in choices:
        buttons.append(Button("default", f"the default: {inert(str(default), 200)}"))
    if question.get("free"):
        folded = "something else …" if choices else ""
        forms.append(AnswerForm("text", [Field("text", "answer", required=True)], "answer", folded))
    return buttons, forms


def _review(question: Mapping[str, Any]) -> Ways:
    buttons = [
        Button("accept", "accept this plan", "a", "good"),
        Button("reject", "reject it", "r", "bad"),
    ]
    forms = [
        AnswerForm(
            "feedback",
            [Field("text", "what should change?", "long", required=True)],
            "ask for these changes",
            "ask for changes",
            "f",
        ),
        AnswerForm(
            "plan",
            [Field("plan", "the plan, YAML", "long", str(question["plan"]), required=True)],
            "use this plan",
            "edit the plan",
            "e",
        ),
    ]
    return buttons, forms


def _elicitation(question: Mapping[str, Any]) -> Ways:
    schema = table(question, "schema")
    decline = Button("decline", "decline", "n", "bad")
    if not properties_of(schema):
        return [Button("yes", "yes", "y", "good"), decline], ()
    return [decline, Button("cancel", "cancel the call")], [
        AnswerForm("form", _fields(schema), "send")
    ]


def _interrupt(question: Mapping[str, Any]) -> Ways:
    if is_breakpoint(question):
        return [Button("continue", "continue", "y", "good")], ()
    buttons: list[Button] = []
    if calls_in(question):
        buttons = [Button("yes", "yes", "y", "good"), Button("no", "no", "n", "bad")]
    about = f"answer with: {inert(expected(question), 400)}"
    return buttons, [
        AnswerForm("text", [Field("text", "answer", "long", about=about, required=True)], "answer")
    ]


def _in_doubt(question: Mapping[str, Any]) -> Ways:
    del question
    buttons = [Button("again", "call it again", "a"), Button("failed", "it failed", "f")]
    outputs = Field("outputs", "its outputs, as JSON", "long", "{}", required=True)
    return buttons, [
        AnswerForm("outputs", [outputs], "it was done, with these outputs", "it was done", "d")
    ]


def _words(*words: tuple[str, str, str]) -> Callable[[Mapping[str, Any]], Ways]:
    buttons = [Button(name, text, key) for name, text, key in words]
    return lambda question: (buttons, ())


def _free(question: Mapping[str, Any]) -> Ways:
    about = f"answer with: {inert(expected(question), 400)}"
    return (), [AnswerForm("text", [Field("text", "answer", about=about, required=True)], "answer")]


_WAYS: Final[Mapping[str, Callable[[Mapping[str, Any]], Ways]]] = {
    "approval": _approval,
    "question": _question,
    "review": _review,
    "elicitation": _elicitation,
    "interrupt": _interrupt,
    "in_doubt": _in_doubt,
    "tool_changed": _words(("accept", "accept the change", "a"), ("reject", "reject it", "r")),
    "job_unknown": _words(
        ("wait", "wait for it", "w"),
        ("success", "it succeeded", "s"),
        ("failure", "it failed", "f"),
        ("again", "submit it again", "a"),
    ),
    "failure": _words(
        ("retry", "try again", "r"), ("skip", "skip the step", "s"), ("quit", "end the run", "q")
    ),
}


def _fields(schema: Mapping[str, Any]) -> list[Field]:
    """The fields of a JSON Schema, as a form."""
    defaults, required, secret = defaults_of(schema), required_of(schema), secret_fields(schema)
    found: list[Field] = []
    for name, field in properties_of(schema).items():
        said = field.get("title"), field.get("description")
        about = " · ".join(inert(str(text), 400) for text in said if text and text != name)
        default = defaults.get(name)
        options = [(str(value), inert(words, 200)) for value, words in choices_of(field)]
        if field.get("type") == "boolean":
            options = [("yes", "yes"), ("no", "no")]
            default = None if default is None else "yes" if default else "no"
        kind = (
            "secret" if name in secret else "choice" if options and not _is_list(field) else "text"
        )
        found.append(
            Field(
                FIELD + name,
                inert(name, 80),
                kind,
                _as_text(default),
                about,
                name in required,
                options,
            )
        )
    return found


def _is_list(field: Mapping[str, Any]) -> bool:
    return field.get("type") == "array"


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in cast("list[Any]", value)):
        return ", ".join(cast("list[str]", value))
    return json.dumps(value, ensure_ascii=False, default=str)


# -- the answer that a form gives ------------------------------------------------------------------


def answer_in(question: Mapping[str, Any], form: Fields) -> Any:
    """The raw answer that a submitted form means, as `fractale.questions.read_answer` expects it.

    Raises:
        AnswerError: A field does not have a value of its type, or the form is not of this question.
    """
    name = form.get("answer", "")
    buttons, forms = _ways(str(question.get("kind")))(question)
    if name not in {each.name for each in buttons} | {each.name for each in forms}:
        raise AnswerError(
            "this answer does not belong to the question", hint="reload the page, and answer again"
        )
    if label := name.removeprefix("choice.") if name.startswith("choice.") else "":
        return json.dumps(_choice(question, label))
    if label := name.removeprefix("with.") if name.startswith("with.") else "":
        return {"answer": _choice(question, label), "text": form.get("text", "").strip()}
    if name in _READ:
        return _READ[name](question, form)
    return name


def _choice(question: Mapping[str, Any], label: str) -> str:
    choices: Sequence[str] = question["choices"]
    return dict(zip(labels(question), choices, strict=False))[label]


def _text(question: Mapping[str, Any], form: Fields) -> str:
    text = _newlines(form.get("text", ""))
    if not text.strip():
        raise AnswerError(f"the answer to `{question.get('step')}` is empty")
    return text


def _outputs(question: Mapping[str, Any], form: Fields) -> dict[str, Any]:
    del question
    return {"outputs": _mapping(form.get("outputs", ""), "outputs")}


def _mapping(text: str, what: str) -> dict[str, Any]:
    data = data_of(text)
    if not isinstance(data, dict):
        raise AnswerError(f"{what} must be a mapping of names to values")
    return cast("dict[str, Any]", data)


def _edited(question: Mapping[str, Any], form: Fields) -> dict[str, Any]:
    del question
    return {"arguments": _mapping(form.get("arguments", ""), "arguments")}


def _of_fields(question: Mapping[str, Any], form: Fields) -> dict[str, Any]:
    schema = form_of(question) or table(question, "schema")
    content: dict[str, Any] = {}
    for name, field in properties_of(schema).items():
        text = _newlines(form.get(FIELD + name, ""))
        if text.strip():
            content[name] = read_field(field, text)
    if question.get("kind") == "elicitation":
        return {"action": "accept", "content": content}
    return content


def _newlines(text: str) -> str:
    """A text as it was typed: forms send line ends as CR LF."""
    return text.replace("\r\n", "\n")


_READ: Final[Mapping[str, Callable[[Mapping[str, Any], Fields], Any]]] = {
    # The word alone would allow any arguments.
    "always": lambda q, form: {"always": {"fix": "all"}},
    "edit": _edited,
    "outputs": _outputs,
    "refuse": lambda q, form: {"refuse": form.get("reason", "").strip()},
    "text": _text,
    "feedback": lambda q, form: {"feedback": _text(q, form)},
    "plan": lambda q, form: {"plan": _newlines(form.get("plan", ""))},
    "form": _of_fields,
    "default": lambda q, form: "",
}
