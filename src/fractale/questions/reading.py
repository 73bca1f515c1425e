"""What people write, as the answer that a question takes.

The same words count on a terminal, on a command line, in a file of answers and from Python;
files and Python can also give the data itself.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from fractale.errors import AnswerError
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.questions.forms import (
    defaults_of,
    errors_of,
    properties_of,
    read_field,
    required_of,
)
from fractale.questions.kinds import asks_secret, secrets_of_answer
from fractale.questions.words import NO, YES, is_storable, mapping_of, one_line, word_of


def read_answer(question: Mapping[str, Any], raw: Any) -> Any:
    """The answer that a question takes, from what somebody wrote.

    Args:
        question: Of any kind of `fractale.questions`.
        raw: Text, or JSON data.

    Raises:
        AnswerError: It is no answer to this question; the message says what would be one.
    """
    answer = _READERS[question["kind"]](question, raw)
    if answer is None:
        step, said = question.get("step"), "" if asks_secret(question) else one_line(raw).strip()
        words = f"`{said}` is no answer" if said else "an empty answer is none"
        raise AnswerError(f"{words} to what `{step}` asks", hint=f"it takes: {takes(question)}")
    if not is_storable(answer):
        raise AnswerError(
            f"the answer to `{question.get('step')}` cannot be kept in the run's record",
            hint="numbers have 64 bits and are finite, text is Unicode",
        )
    return answer


def is_answer(question: Mapping[str, Any], answer: Any) -> bool:
    """Whether a value is an answer as `read_answer` gives it, and not only looks like one."""
    if question["kind"] == "question":
        return isinstance(answer, str) and (question["free"] or answer in question["choices"])
    try:
        read = read_answer(question, answer)
    except AnswerError:
        return False
    return type(read) is type(answer) and bool(read == answer)


def takes(question: Mapping[str, Any]) -> str:
    """The answers that a question takes, in words for people."""
    kind = question["kind"]
    if kind == "question":
        return _takes_choice(question)
    if asks_secret(question):
        return "a secret, typed at a terminal; or decline or cancel"
    if kind == "elicitation":
        names = list(properties_of(question["schema"]))
        if not names:
            return "yes, decline or cancel"
        data = names[0] if len(names) == 1 else "{" + ", ".join(f"{n}: …" for n in names) + "}"
        return f"{data}, decline or cancel"
    return {
        "approval": "yes, always, no, {always: {fix: [ARGUMENT, …]}}, or {arguments: {…}}",
        "tool_changed": "accept or reject",
        "review": "accept, reject, or what should change",
        "in_doubt": "again, failed, or {outputs: {…}}",
        "job_unknown": "wait, success, failure, or again",
        "failure": "retry, skip or quit",
    }[kind]


def _takes_choice(question: Mapping[str, Any]) -> str:
    choices = labels(question)[: len(question["choices"])]
    if not choices:
        return "any text"
    few = choices if len(choices) <= 6 else [f"{choices[0]} to {choices[-1]}"]
    if question["free"]:
        return f"{', '.join(few)}, or any text"
    return ", ".join(few)


def examples(question: Mapping[str, Any]) -> list[str]:
    """Answers that a question accepts, one of them to be chosen; capitals stand for a value."""
    words = {
        "in_doubt": ["again", "failed"],
        "job_unknown": ["wait", "success", "failure", "again"],
        "tool_changed": ["accept", "reject"],
    }
    return words.get(question["kind"]) or [example(question)]


def example(question: Mapping[str, Any]) -> str:
    """An answer that the question takes, to be shown; in capitals what stands for one."""
    kind = question["kind"]
    if kind == "question":
        choices: Sequence[str] = question["choices"]
        default = question["default"]
        if choices:
            return labels(question)[choices.index(default) if default in choices else 0]
        return default or "TEXT"
    if kind == "elicitation":
        return _example_form(question["schema"])
    words = {"approval": "yes", "review": "accept", "tool_changed": "accept"}
    return words.get(kind, "ANSWER")


def _example_form(schema: Mapping[str, Any]) -> str:
    defaults = defaults_of(schema)
    fields = {name: defaults.get(name, name.upper()) for name in properties_of(schema)}
    if len(fields) == 1:
        (value,) = fields.values()
        return value if isinstance(value, str) else json.dumps(value)
    return to_json(fields) if fields else "yes"


def labels(question: Mapping[str, Any]) -> list[str]:
    """The short names of the choices in order, then one for "something else" if that may be.

    Numbers, or letters where a number could be meant as a choice itself.
    """
    choices: Sequence[str] = question.get("choices") or ()
    count = len(choices) + (1 if question.get("free") else 0)
    if not any(choice.isdecimal() for choice in choices):
        return [str(number) for number in range(1, count + 1)]
    if count <= len(string.ascii_lowercase):
        return list(string.ascii_lowercase[:count])
    return [f"#{number}" for number in range(1, count + 1)]


def _question(question: Mapping[str, Any], raw: Any) -> str | None:
    choices: Sequence[str] = question["choices"]
    if isinstance(raw, (Mapping, list)):
        return None
    text = _text(raw, choices)
    if not text.strip():
        return question["default"]
    verbatim = _quoted(text)
    if verbatim is not None:
        return verbatim if question["free"] or verbatim in choices else None
    chosen = _chosen(question, text.strip())
    if chosen is not None or not question["free"]:
        return chosen
    return None if choices and _is_slip(question, text.strip()) else text


def _text(raw: Any, choices: Sequence[str]) -> str:
    """Data as text; YAML's true is the choice ``yes`` where there is one."""
    if raw is None:
        return ""
    if isinstance(raw, bool):
        words = ("yes", "true") if raw else ("no", "false")
        found = [choice for choice in choices if choice.casefold() in words]
        return found[0] if found else words[0]
    return raw if isinstance(raw, str) else json.dumps(raw, default=str)


def _quoted(text: str) -> str | None:
    if not (len(text) > 1 and text[0] == text[-1] == '"'):
        return None
    try:
        return str(json.loads(text))
    except ValueError:
        return None


def _chosen(question: Mapping[str, Any], text: str) -> str | None:
    choices: Sequence[str] = question["choices"]
    if text in choices:
        return text
    by_label = dict(zip(labels(question), choices, strict=False))
    if text in by_label:
        return by_label[text]
    near = [choice for choice in choices if choice.casefold() == text.casefold()]
    if near:
        return near[0]
    return text if text == question["default"] else None


def _is_slip(question: Mapping[str, Any], text: str) -> bool:
    """Whether a text looks like a label and is none; who means it puts it in quotes."""
    known = labels(question)
    return text.isdecimal() if known[0] == "1" else text in known


def _approval(question: Mapping[str, Any], raw: Any) -> Any:
    word = word_of(raw)
    if word in YES or word == "once":
        return True
    if word in NO:
        return False
    if word in ("a", "always"):
        return "always"
    data = mapping_of(raw)
    if data is not None and set(data) == {"always"}:
        return _always(question, data["always"])
    right = data is not None and set(data) == {"arguments"} and _is_mapping(data["arguments"])
    return data if right else None


def _always(question: Mapping[str, Any], raw: Any) -> Any:
    """Agreed for later calls, too, as long as some arguments stay as they are.

    Returns:
        ``{always: {fix: {argument: value}}}``; ``{always: {fix: all}}`` for exactly these
        arguments; ``always`` where none is fixed.

    Raises:
        AnswerError: An argument is not one of the call's, or has another value in it.
    """
    data = mapping_of(raw)
    if data is None or set(data) != {"fix"}:
        return None
    fix, given = data["fix"], question["arguments"]
    if word_of(fix) == "all":
        return {"always": {"fix": "all"}}
    names = [fix] if isinstance(fix, str) else fix
    if isinstance(names, Mapping):
        table: Mapping[Any, Any] = cast("Mapping[Any, Any]", names)
        names, given = list(table), {str(k): v for k, v in table.items()}
    if not isinstance(names, list):
        return None
    fixed: dict[str, Any] = {}
    for name in map(str, cast("list[Any]", names)):
        if name not in question["arguments"]:
            raise _not_fixable(question, f"the call has no argument `{one_line(name)}`")
        if to_json(given[name]) != to_json(question["arguments"][name]):
            raise _not_fixable(question, f"`{one_line(name)}` has another value in this call")
        fixed[name] = question["arguments"][name]
    return {"always": {"fix": fixed}} if fixed else "always"


def _not_fixable(question: Mapping[str, Any], why: str) -> AnswerError:
    names = ", ".join(question["arguments"]) or "none"
    return AnswerError(
        f"the answer to `{question.get('step')}` does not fit: {why}",
        hint=f"arguments of the call: {names}",
    )


def _tool_changed(question: Mapping[str, Any], raw: Any) -> Any:
    word = word_of(raw)
    found = {"a": "accept", "accept": "accept", "r": "reject", "reject": "reject"}
    return found.get(word)


def _review(question: Mapping[str, Any], raw: Any) -> Any:
    word = word_of(raw)
    if word in YES or word in ("a", "accept"):
        return "accept"
    if word in NO or word in ("r", "reject"):
        return "reject"
    if isinstance(raw, str) and len(word) > 1:
        return {"feedback": raw.strip()}
    data = mapping_of(raw)
    if data is None or len(data) != 1:
        return None
    text = data.get("feedback", data.get("plan"))
    return data if isinstance(text, str) and text.strip() else None


def _elicitation(question: Mapping[str, Any], raw: Any) -> Any:
    schema: Mapping[str, Any] = question["schema"]
    data = mapping_of(raw)
    if data is not None and "action" in data and "action" not in properties_of(schema):
        if data["action"] != "accept":
            return {"action": data["action"]} if data["action"] in ("decline", "cancel") else None
        content = mapping_of(data.get("content") or {})
    elif word_of(raw) in ("decline", "cancel"):
        return {"action": word_of(raw)}
    elif data is None and not properties_of(schema) and word_of(raw) in NO:
        return {"action": "decline"}
    else:
        content = data if data is not None else _content(schema, raw)
    if content is None:
        return None
    content = {**defaults_of(schema), **content}
    if errors := errors_of(schema, content):
        errors = [Masker(secrets_of_answer(question, {"content": content})).text(e) for e in errors]
        step = question.get("step")
        raise AnswerError(
            f"the answer to `{step}` does not fit: {'; '.join(errors)}",
            hint=f"it takes: {takes(question)}",
        )
    return {"action": "accept", "content": content}


def _content(schema: Mapping[str, Any], raw: Any) -> dict[str, Any] | None:
    """What a single word or value means: the only field's value, or a yes to the defaults."""
    fields = properties_of(schema)
    if len(fields) == 1:
        ((name, field),) = fields.items()
        return {name: read_field(field, raw)}
    known = required_of(schema) <= defaults_of(schema).keys()
    return {} if word_of(raw) in YES and known else None


def _in_doubt(question: Mapping[str, Any], raw: Any) -> Any:
    word = word_of(raw)
    if word in ("again", "failed"):
        return word
    data = mapping_of(raw)
    right = data is not None and set(data) == {"outputs"} and _is_mapping(data["outputs"])
    return data if right else None


def _job_unknown(question: Mapping[str, Any], raw: Any) -> Any:
    word = "failure" if word_of(raw) == "failed" else word_of(raw)
    return word if word in ("wait", "success", "failure", "again") else None


def _failure(question: Mapping[str, Any], raw: Any) -> Any:
    found = [each for each in ("retry", "skip", "quit") if word_of(raw) in (each, each[0])]
    return found[0] if found else None


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


_READERS: Mapping[str, Callable[[Mapping[str, Any], Any], Any]] = {
    "question": _question,
    "approval": _approval,
    "review": _review,
    "elicitation": _elicitation,
    "in_doubt": _in_doubt,
    "job_unknown": _job_unknown,
    "failure": _failure,
    "tool_changed": _tool_changed,
}
