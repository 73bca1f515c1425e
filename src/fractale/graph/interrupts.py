"""LangGraph's interrupts: a step asks a question, or suspends while its job runs or a time passes.

An interrupt ends the node, and the run once nothing else is running. On resume the node runs again
from its start, and `ask` returns the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, cast

from langgraph._internal._constants import (
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    RESUME,
)
from langgraph.config import get_config
from langgraph.errors import GraphInterrupt
from langgraph.types import (
    Interrupt,
    _interrupt_id,  # pyright: ignore[reportPrivateUsage] - no public function gives an id
    interrupt,
)
from pydantic_core import to_jsonable_python

from fractale import questions
from fractale.errors import AnswerError
from fractale.masking import MASK
from fractale.questions import (
    MISSING,
    asks_secret,
    default_answer,
    expected,
    identity,
    is_answer,
    is_question,
    needs_no_answer,
    read_answer,
    read_for_code,
    read_reply,
    secrets_of_answer,
)
from fractale.store.outputs import from_common, is_inline, to_common

if TYPE_CHECKING:
    from fractale.graph.call import Attempt


def suspend(waiting: dict[str, Any]) -> NoReturn:
    """End the node until the run is resumed. It needs no answer.

    A node can be suspended any number of times, and ask questions in between.

    Args:
        waiting: What the run waits for, as `fractale.questions.job` or `timer` describes it.
    """
    task = str(get_config().get("configurable", {}).get("checkpoint_ns", ""))
    raise GraphInterrupt((Interrupt.from_ns(value=waiting, ns=task),))


def is_suspended(error: BaseException | None) -> bool:
    """Whether an error suspends its node while a job runs or a time passes."""
    found: Any = error.args[0] if isinstance(error, GraphInterrupt) and error.args else ()
    return any(needs_no_answer(interrupt.value) for interrupt in found)


def asks(error: GraphInterrupt) -> bool:
    """Whether an interrupt is a question that needs an answer."""
    found: Any = error.args[0] if error.args else ()
    return any(not needs_no_answer(each.value) for each in found)


def ask(attempt: Attempt, question: Mapping[str, Any], *, replayed: bool = False) -> Any:
    """The answer to a question of the step.

    An answer is used only for its own question. Answers to other questions of the same task wait
    for those questions. A bare value, as ``Command(resume=…)`` gives it, belongs to the question in
    its position. If the question does not accept the value, the question is asked again, with the
    reason as `problem`.

    Args:
        question: Of any kind of `fractale.questions`. Its secrets are masked when it is asked and
            stored.
        replayed: Whether it is from a record. A secret in its answer is no longer needed.

    Raises:
        GraphInterrupt: The user has not answered yet.
    """
    asked = _as_asked(attempt, question)
    if attempt.context.yes and (answer := default_answer(question)) is not MISSING:
        attempt.emit("answered", question=asked, answer=answer, by="yes")
        return answer
    wanted = identity(asked)
    replies = attempt.replies.setdefault(attempt.journal.task, [])
    shown, bare, was_shown = asked, 0, _note_shown(attempt, wanted)
    while True:
        for index, (belongs_to, answer) in enumerate(replies):
            if belongs_to == wanted:
                del replies[index]
                return _as_given(attempt, answer)
        value = interrupt(shown)
        if (given := read_reply(value)) is not None:
            # A secret is not stored, so it must be asked for again.
            if not replayed and MASK in secrets_of_answer(asked, given[1]):
                continue
            if replayed or given[0] != wanted or is_answer(asked, given[1]):
                replies.append(given)
            else:  # `fractale.questions.reply` did not make it
                shown = {**asked, "problem": f"answer with: {expected(asked)}"}
            continue
        bare += 1
        is_old = _is_older(attempt, wanted, bare, was_shown=was_shown)
        try:
            answer = _read_bare(asked, value, is_old=is_old)
        except AnswerError as error:
            shown = asked_again(asked, error)
        else:
            _note_answered(attempt, wanted)
            return _as_given(attempt, answer)


def _as_asked(attempt: Attempt, question: Mapping[str, Any]) -> dict[str, Any]:
    """A question as it is asked and stored: masked, and of a form that the run's saver can keep."""
    asked = attempt.context.mask(dict(question))
    return to_common(asked) if is_inline(attempt.deps.outputs) else asked


def _as_given(attempt: Attempt, answer: Any) -> Any:
    """An answer to a question in the form of `_as_asked`."""
    return from_common(answer) if is_inline(attempt.deps.outputs) else answer


def ask_as_before(attempt: Attempt, question: Mapping[str, Any]) -> None:
    """Take the answer to a question that the running task asked before, and no longer needs to ask.

    LangGraph gives a task its answers in order. So a bare answer to this question would become that
    of the next one.
    """
    key, context = asked_in(attempt.journal.task), attempt.context
    known = context.notes.get(key) if context.shown else None
    if known and identity_of(attempt, question) in known:
        ask(attempt, question)


def _note_answered(attempt: Attempt, identity: str) -> None:
    key, notes = asked_in(attempt.journal.task), attempt.context.notes
    known: list[str] = notes.get(key) or []
    if attempt.context.shown is not None and identity not in known:
        notes.put(key, [*known, identity])


def asked_in(task: str) -> str:
    """The key of the questions that got bare answers in a task."""
    return f"asked in {task}"


def asked_again(question: Mapping[str, Any], error: AnswerError) -> dict[str, Any]:
    """A question whose answer was none. Its `problem` says why."""
    problem = f"{error.message} ({error.hint})" if error.hint else error.message
    return {**question, "problem": problem}


def _read_bare(question: Mapping[str, Any], value: Any, *, is_old: bool) -> Any:
    """The answer that a bare value means.

    Raises:
        AnswerError: It is not an answer to this question.
    """
    if is_old:
        raise AnswerError("this question was not asked yet: the answer was given to another one")
    if asks_secret(question) and _accepts(value):
        raise AnswerError(
            "a secret is not taken from a resume, which would store it: decline or cancel"
        )
    return read_answer(question, value)


def note_shown(attempt: Attempt, question: Mapping[str, Any]) -> None:
    """Note that the user is shown a question that this module did not ask."""
    _note_shown(attempt, identity(question))


def _note_shown(attempt: Attempt, identity: str) -> bool:
    """Note that the user is shown a question. Returns whether that was so before."""
    shown = attempt.context.shown
    if shown is None or identity in shown:
        return True
    shown.add(identity)
    return False


def _is_older(attempt: Attempt, identity: str, index: int, *, was_shown: bool) -> bool:
    """Whether a bare answer of the task was given before the user was shown the question.

    Args:
        index: Of the answer among the bare answers that the question has met.
    """
    shown, older = attempt.context.shown, f"{identity} after {index}"
    if was_shown:
        return shown is not None and older in shown
    if shown is not None:
        shown.add(older)
    return True


def of_code(
    attempt: Attempt, error: GraphInterrupt, *, server: str = "", tool: str = "", agent: str = ""
) -> GraphInterrupt:
    """The interrupt of Python code of the user, as a question of the run.

    Its ids stay the same, so an answer reaches the code's own `interrupt`. Questions, jobs and
    times of a plan that the code runs stay as they are.
    """
    found: tuple[Interrupt[Any], ...] = error.args[0] if error.args else ()
    mask = attempt.context.mask

    def asked(each: Interrupt[Any]) -> Any:
        value, schema = each.value, each.response_schema
        if is_question(value) or needs_no_answer(value):
            return value
        plain = mask(to_jsonable_python(value, fallback=str))
        known = schema if isinstance(schema, dict) else None
        question = questions.interrupt(attempt.path, agent, plain, known, server=server, tool=tool)
        return to_common(question) if is_inline(attempt.deps.outputs) else question

    return GraphInterrupt(
        tuple(
            Interrupt(asked(each), each.id, response_schema=each.response_schema) for each in found
        )
    )


def refused(question: Mapping[str, Any], id_: str, error: Exception) -> GraphInterrupt | None:
    """A question of a tool's own code, asked again since its schema refuses the answer.

    The answer is taken off the answers of the running task. Otherwise the code would get it again.

    Args:
        id_: The id under which the question was asked.

    Returns:
        The interrupt. None if another task asked, such as one of a graph inside the tool.
    """
    known = get_config().get("configurable", {})
    scratchpad, task = known.get(CONFIG_KEY_SCRATCHPAD), known.get(CONFIG_KEY_CHECKPOINT_NS)
    if scratchpad is None or not task:
        return None
    index = scratchpad.interrupt_counter() - 1  # of the code's `interrupt` that refused
    if index < 0 or id_ not in (_interrupt_id(task, index), _interrupt_id(task, 0)):
        return None
    del scratchpad.resume[index:]
    known[CONFIG_KEY_SEND]([(RESUME, list(scratchpad.resume))])
    again = asked_again(question, AnswerError(f"the answer does not fit: {error}"))
    return GraphInterrupt((Interrupt(again, id_, response_schema=question.get("schema")),))


def read_resume(resume: Any, waiting: Sequence[Interrupt[Any]]) -> Any:
    """The value of a ``Command(resume=…)`` in the form in which LangGraph may store it.

    Only the code of a graph or a tool reads an answer to its question, which has the code's form.
    All other questions are read by the steps that ask them. An answer with a secret that a server
    asks for is replaced by a mask, so that the step refuses it.

    Args:
        waiting: The interrupts that the value may answer.

    Raises:
        AnswerError: A question of code does not accept its answer, or it cannot be stored.
    """
    if not _fits(resume):
        raise AnswerError(
            "the answer has an integer over 64 bits, which a checkpointer cannot keep",
            hint='give it as JSON text: {"$json": "…"}',
        )
    secret = {each.id for each in waiting if is_question(each.value) and asks_secret(each.value)}
    asked = {each.id: each.value for each in waiting if is_of_code(each.value)}
    if is_by_id(resume):
        shown = {k: MASK if k in secret and _accepts(v) else v for k, v in resume.items()}
        return {
            key: read_for_code(asked[key], value) if key in asked else value
            for key, value in shown.items()
        }
    if secret and _accepts(resume):
        return MASK
    if len(waiting) != 1 or not asked:
        return resume  # of several interrupts, LangGraph wants the ids
    ((key, question),) = asked.items()
    return {key: read_for_code(question, resume)}


def is_by_id(resume: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether LangGraph takes the value of a resume for a mapping: id of an interrupt → answer."""
    return isinstance(resume, Mapping) and all(map(_is_id, cast("Mapping[Any, Any]", resume)))


def is_of_code(value: Any) -> bool:
    """Whether an interrupt is a question of Python code, as `fractale.questions` describes it."""
    return is_question(value) and value["kind"] == "interrupt"


def _fits(value: Any) -> bool:
    """Whether the integers of a value have at most 64 bits."""
    if isinstance(value, Mapping):
        return all(map(_fits, cast("Mapping[Any, Any]", value).values()))
    if isinstance(value, list):
        return all(map(_fits, cast("list[Any]", value)))
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def _is_id(key: Any) -> bool:
    """Whether LangGraph takes a key of a resume for the id of an interrupt."""
    return isinstance(key, str) and re.fullmatch("[0-9a-f]{32}", key) is not None


def identity_of(attempt: Attempt, question: Mapping[str, Any]) -> str:
    """The identity of a question in this run and in its record. Its answer refers to it."""
    return identity(_as_asked(attempt, question))


def _accepts(value: Any) -> bool:
    """Whether a bare answer to a server contains the fields that the server asks for."""
    word = cast("Mapping[str, Any]", value).get("action") if isinstance(value, Mapping) else value
    return word not in ("decline", "cancel")
