"""Ask steps: the user answers a question. No model and no tool is involved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from langgraph.errors import GraphInterrupt

from fractale import questions
from fractale.durations import in_words
from fractale.errors import AnswerError, TemplateError
from fractale.evidence import Notice
from fractale.graph.call import Attempt
from fractale.graph.interrupts import ask
from fractale.graph.kinds import Compiler
from fractale.graph.outcome import CallResult
from fractale.plan.expressions import evaluate
from fractale.plan.model import Expression
from fractale.questions.parsing import brief

if TYPE_CHECKING:
    from fractale.graph.step import StepNode


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that asks the user."""
    del compiler
    if node.step.default_after is None:
        return replace(node, perform=_perform)
    from fractale.graph.timers import timed_graph  # few questions have a time

    return replace(node, perform=_perform_timed, inside=timed_graph("ask", _ask_in_time))


async def _perform(attempt: Attempt) -> CallResult:
    question = _question(attempt)
    return _result_of(attempt, question, ask(attempt, question))


async def _perform_timed(attempt: Attempt) -> CallResult:
    from fractale.graph.timers import run_timed

    known = await run_timed(attempt)
    result = _result_of(attempt, _question(attempt), known["answer"])
    if not known["late"]:
        return result
    shown = brief(attempt.context.mask(known["answer"]))
    waited = in_words(attempt.step.default_after or 0)
    message = f"no answer within {waited}: the default `{shown}` was taken"
    return replace(result, notices=(Notice(kind="warning", message=message),))


async def _ask_in_time(attempt: Attempt, began: Mapping[str, Any]) -> dict[str, Any]:
    """The answer, or the default if the time for an answer is over.

    An answer that was given precedes the default, also if the run is resumed late.
    """
    question = _question(attempt)
    question["due"] = questions.due(began, attempt.step.default_after or 0)
    try:
        return {"answer": ask(attempt, question), "late": False}
    except GraphInterrupt:
        # A replay gets its answers from the record.
        if not (attempt.deps.patient and questions.is_due(question, attempt.context.clock)):
            raise
    asked = attempt.context.mask(question)
    attempt.emit("answered", question=asked, answer=asked["default"], by="default_after")
    return {"answer": asked["default"], "late": True}  # the checkpoint stores it


def _result_of(attempt: Attempt, question: Mapping[str, Any], answer: Any) -> CallResult:
    _label(attempt, question, answer)
    return CallResult(outputs=_outputs_of(answer, is_form=attempt.step.form is not None))


def _question(attempt: Attempt) -> dict[str, Any]:
    choices, follow_up = _choices_of(attempt)
    text, step = str(attempt.inputs["ask"]), attempt.step
    default = attempt.inputs.get("default")
    if step.form is not None:
        question = questions.question(attempt.path, text, form=step.form)
    elif choices is not None:
        question = questions.question(attempt.path, text, choices, free=False, follow_up=follow_up)
    else:
        question = questions.question(attempt.path, text)
    if default is not None:
        question["default"] = _checked_default(attempt, question, default)
    return question


def _choices_of(attempt: Attempt) -> tuple[list[str] | None, dict[str, str]]:
    """The choices in order, None for any text, and choice → what is asked next.

    Raises:
        TemplateError: The expression gives neither a list of texts nor null.
    """
    choices = attempt.step.choices
    if isinstance(choices, Expression):
        found = evaluate(choices, attempt.scope)
        return (None if found is None else _listed(choices, found)), {}
    if choices is None:
        return None, {}
    words: list[str] = []
    follow_up: dict[str, str] = {}
    for each in attempt.inputs.get("choices", ()):
        if isinstance(each, dict):
            ((word, asked),) = cast("dict[str, Any]", each).items()
            follow_up[word] = str(asked)
            words.append(word)
        else:
            words.append(str(each))
    return words, follow_up


def _listed(choices: Expression, value: Any) -> list[str]:
    wrong = None
    if not isinstance(value, list):
        wrong = f"gave {type(value).__name__}"
    elif not value:
        wrong = "gave an empty list"
    else:
        for number, each in enumerate(cast("list[Any]", value), 1):
            if not isinstance(each, str) or not each.strip():
                wrong = f"gave {brief(each)} as item {number}"
                break
    if wrong:
        raise TemplateError(
            f"`choices` must give a list of texts, and {wrong}",
            hint="for numbers write `| map('string') | list`" if value else None,
            position=choices.position,
        )
    return [each.strip() for each in cast("list[str]", value)]


def _checked_default(attempt: Attempt, question: Mapping[str, Any], default: Any) -> Any:
    """The default in the form of an answer.

    Raises:
        TemplateError: It does not answer the question, or has a secret in it.
    """
    if attempt.context.mask(default) != default:
        raise TemplateError(
            "the default has a secret in it, and an answer is kept as `***`",
            hint="write `inputs.NAME` where the secret is needed",
            position=attempt.step.where("default"),
        )
    try:
        return questions.read_answer({**question, "default": None}, default)
    except AnswerError as error:
        raise TemplateError(
            f"the default is not an answer to the question: {error.message}",
            hint=error.hint,
            position=attempt.step.where("default"),
        ) from error


def _label(attempt: Attempt, question: Mapping[str, Any], answer: Any) -> None:
    """Record the sources of the answer: those of choices that a run found, and of the default.

    Only the fields of the default count that the answer has, too: the user gave the others. The
    question may quote anything; its words are not in the answer.
    """
    attempt.seen.sources.clear()
    attempt.seen.add(attempt.flow.base)
    if isinstance(attempt.step.choices, Expression):
        attempt.seen.add(attempt.flow.of(attempt.step.choices))
    written, given = attempt.step.default, _fields_of(answer)
    if written is None:
        return
    for name, value in _fields_of(question["default"]).items():
        if name in given and _is_kept(given[name], value):
            # One template may give several fields. A default of the form itself has no sources.
            source = written.get(name) if isinstance(written, dict) else written
            attempt.seen.add(attempt.flow.of(source))


def _fields_of(answer: Any) -> Mapping[str, Any]:
    return cast("dict[str, Any]", answer) if isinstance(answer, dict) else {"answer": answer}


def _is_kept(given: Any, default: Any) -> bool:
    """Whether a field has its default, or a list one of the default's items.

    Space around a text does not count: a person who edits a form may lose it.
    """
    if isinstance(given, list) and isinstance(default, list):
        items, defaults = cast("list[Any]", given), cast("list[Any]", default)
        return any(_is_kept(each, item) for each in items for item in defaults)
    if isinstance(given, str) and isinstance(default, str):
        return given.strip() == default.strip()
    return given == default


def _outputs_of(answer: Any, *, is_form: bool) -> dict[str, Any]:
    if is_form:
        return {**answer, "answer": answer, "text": ""}
    if isinstance(answer, dict):
        return dict(cast("dict[str, Any]", answer))
    return {"answer": answer, "text": ""}
