"""The kinds of questions. One class per kind makes a question and reads the answers to it.

The same words are accepted on a terminal, on a command line, in a file of answers and from Python.
Files and Python can also give the data. A question is a plain mapping, see `fractale.questions`.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, cast

from fractale.clock import Clock, elapsed
from fractale.errors import AnswerError
from fractale.masking import MASK, Masker
from fractale.plain import to_json
from fractale.questions.forms import (
    defaults_of,
    errors_of,
    properties_of,
    read_field,
    required_of,
    secret_fields,
    with_defaults,
)
from fractale.questions.parsing import NO, YES, brief, decision_of, is_storable, mapping_of, word_of
from fractale.schemas import UnusableSchema, misfits


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final[Any] = _Missing()
"""An answer that was not given."""


class Kind:
    """A kind of question: the answers to it, and the default behavior for all kinds."""

    expects: ClassVar[str] = ""
    """The answers as text that completes ``answer with: …``."""

    words: ClassVar[Sequence[str]] = ()
    """Answers of one word, to be shown as examples."""

    keys: ClassVar[frozenset[str]] = frozenset()
    """A mapping with one of these keys is one answer, not a table of answers to questions."""

    def read(self, question: Mapping[str, Any], raw: Any) -> Any:
        """The answer that text or JSON data means; None if it is not an answer.

        Raises:
            AnswerError: It is not an answer, and the message says why.
        """
        word = word_of(raw)
        return next((each for each in self.words if word in (each, each[0])), None)

    def decided(self, question: Mapping[str, Any], decision: Mapping[str, Any]) -> Any:
        """The answer that a decision means, which has the form of LangChain's middleware.

        None if it does not answer this question.
        """
        del question, decision

    def expected(self, question: Mapping[str, Any]) -> str:
        """The answers to this question, as text for users."""
        return self.expects

    def examples(self, question: Mapping[str, Any]) -> Sequence[str]:
        """Alternative answers to this question; a word in capitals is a placeholder for a value."""
        return self.words

    def default(self, question: Mapping[str, Any]) -> Any:
        """The answer of ``--yes``; MISSING if ``--yes`` does not cover the question."""
        return MISSING

    def is_answer(self, question: Mapping[str, Any], keys: set[str]) -> bool:
        """Whether a mapping with these keys is itself an answer to this question."""
        return bool(keys & self.keys)


class Question(Kind):
    """A choice, any text, or the fields of a form."""

    @staticmethod
    def ask(
        step: str,
        text: str,
        choices: Sequence[Any] = (),
        default: Any = None,
        *,
        free: bool = True,
        follow_up: Mapping[str, str] | None = None,
        form: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Ask for something that only the user knows or may choose.

        Args:
            step: The path of the step that asks.
            choices: The choices; kept as text, each once.
            default: The answer of Enter and of ``--yes``: one of the choices, or any text if
                `free` is true.
            free: Whether any other text is an answer, too. Without choices it always is.
            follow_up: Of a step that asks: choice → what is asked next. The answer is then
                ``{answer: choice, text: text}``.
            form: Instead of choices: JSON Schema of the object that is asked for. The answer and
                the default are such objects.
        """
        if form is not None:
            return {
                "kind": "question",
                "step": step,
                "text": text,
                "choices": [],
                "default": default,
                "free": False,
                "form": dict(form),
            }
        texts = list(dict.fromkeys(str(each).strip() for each in choices if str(each).strip()))
        free = free or not texts
        return {
            "kind": "question",
            "step": step,
            "text": text,
            "choices": texts,
            "default": _default_choice(default, texts, free=free),
            "free": free,
            **({} if follow_up is None else {"follow_up": dict(follow_up)}),
        }

    def decided(self, question: Mapping[str, Any], decision: Mapping[str, Any]) -> Any:
        return decision.get("message") if decision["type"] == "respond" else None

    def read(self, question: Mapping[str, Any], raw: Any) -> Any:
        if form := question.get("form"):
            return _filled(question, form, raw)
        if question.get("follow_up") is not None and (data := mapping_of(raw)) is not None:
            return _with_text(question, data)
        return self._read_text(question, raw)

    def _read_text(self, question: Mapping[str, Any], raw: Any) -> Any:
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

    def expected(self, question: Mapping[str, Any]) -> str:
        if form := question.get("form"):
            return _fields_in_words(form)
        if follow_up := question.get("follow_up"):
            word = next(iter(follow_up))
            return f"{', '.join(question['choices'])}, or {{answer: {word}, text: …}}"
        choices = labels(question)[: len(question["choices"])]
        if question.get("follow_up") is not None:
            choices = question["choices"]
        if not choices:
            return "any text"
        few = choices if len(choices) <= 6 else [f"{choices[0]} to {choices[-1]}"]
        return ", ".join([*few, "or any text"] if question["free"] else few)

    def examples(self, question: Mapping[str, Any]) -> Sequence[str]:
        choices: Sequence[str] = question["choices"]
        default = question["default"]
        if form := question.get("form"):
            return [_example_of(form, default or {})]
        if (follow_up := question.get("follow_up")) is not None:
            return [_example_with_text(word) if word in follow_up else word for word in choices]
        if choices:
            return [labels(question)[choices.index(default) if default in choices else 0]]
        return [default or "TEXT"]

    def default(self, question: Mapping[str, Any]) -> Any:
        default = question.get("default")
        return MISSING if default is None else default

    def is_answer(self, question: Mapping[str, Any], keys: set[str]) -> bool:
        if form := question.get("form"):
            return keys <= set(properties_of(form))
        return question.get("follow_up") is not None and "answer" in keys


def _with_text(question: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
    """A choice with the text that goes with it; the choice alone without a text.

    Raises:
        AnswerError: The choice has no text.
    """
    word, text = data.get("answer"), data.get("text") or ""
    if not (isinstance(word, str) and isinstance(text, str) and set(data) <= {"answer", "text"}):
        return None
    chosen = _chosen(question, word.strip())
    if chosen is None or not text.strip():
        return chosen
    if chosen not in question["follow_up"]:
        raise AnswerError(
            f"the choice `{brief(chosen)}` of `{question.get('step')}` has no text",
            hint=f"answer with: {expected(question)}",
        )
    return {"answer": chosen, "text": text}


def _example_with_text(word: str) -> str:
    """The answer to show for a choice that has a text."""
    answer = "{answer: %s, text: TEXT}"
    try:
        is_plain = mapping_of(answer % word) == {"answer": word, "text": "TEXT"}
    except AnswerError:
        is_plain = False
    return answer % (word if is_plain else to_json(word))


def _filled(question: Mapping[str, Any], form: Mapping[str, Any], raw: Any) -> Any:
    """The fields of a form; None if a word cannot mean them.

    Raises:
        AnswerError: They do not fit the form.
    """
    default: Any = question.get("default")
    empty = raw is None or (isinstance(raw, str) and not raw.strip())
    content = default if empty else mapping_of(raw)
    content = _content(form, raw) if content is None and not empty else content
    if content is None:
        return None
    content = {**defaults_of(form), **content}
    if errors := errors_of(form, content):
        raise AnswerError(
            f"the answer to `{question.get('step')}` is not valid: {'; '.join(errors)}",
            hint=f"answer with: {expected(question)}",
        )
    return content


def form_of(question: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The form of a question, with the question's default as those of its fields."""
    form: Mapping[str, Any] | None = question.get("form")
    return None if form is None else with_defaults(form, question.get("default") or {})


def default_word(question: Mapping[str, Any]) -> Any:
    """The default as the user sees it: the choice or the text; None for a form."""
    default: Any = question.get("default")
    if question.get("form") is not None:
        return None
    return cast("Any", default)["answer"] if isinstance(default, Mapping) else default


def _fields_in_words(form: Mapping[str, Any]) -> str:
    names = list(properties_of(form))
    return names[0] if len(names) == 1 else "{" + ", ".join(f"{n}: …" for n in names) + "}"


def _example_of(form: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """The answer to show: the known fields, and the names of the others in capitals."""
    known = {**defaults_of(form), **known}
    fields = {name: known.get(name, name.upper()) for name in properties_of(form)}
    if len(fields) == 1:
        (value,) = fields.values()
        return value if isinstance(value, str) else json.dumps(value)
    return to_json(fields)


def _default_choice(default: Any, choices: Sequence[str], *, free: bool) -> str | None:
    """The choice that a default means; models may write it in another case."""
    if default is None or not (text := str(default).strip()):
        return None
    near = [choice for choice in choices if choice.casefold() == text.casefold()]
    return near[0] if near else text if free else None


def labels(question: Mapping[str, Any]) -> list[str]:
    """The short names of the choices in order, then one for "something else" if that is allowed.

    Labels are numbers, or letters if a number could be mistaken for a choice.
    """
    choices: Sequence[str] = question.get("choices") or ()
    count = len(choices) + (1 if question.get("free") else 0)
    if not any(choice.isdecimal() for choice in choices):
        return [str(number) for number in range(1, count + 1)]
    if count <= len(string.ascii_lowercase):
        return list(string.ascii_lowercase[:count])
    return [f"#{number}" for number in range(1, count + 1)]


def _text(raw: Any, choices: Sequence[str]) -> str:
    """Data as text; YAML's true is the choice ``yes`` if there is one."""
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
    """Whether a text looks like a label but is not; users quote such a text if they mean it."""
    known = labels(question)
    return text.isdecimal() if known[0] == "1" else text in known


class Approval(Kind):
    """Whether a call may be made."""

    expects = "yes, always, no, {always: {fix: [ARGUMENT, …]}}, or {arguments: {…}}"
    words = ("yes",)
    keys = frozenset({"arguments", "always", "refuse", "decisions"})

    @staticmethod
    def ask(
        step: str,
        tool: str,
        arguments: Mapping[str, Any],
        why: str,
        *,
        server: str = "",
        definition: str = "",
        origins: Sequence[Mapping[str, Any]] = (),
        yes: bool = True,
        cost: str = "",
    ) -> dict[str, Any]:
        """Ask whether a call may be made.

        Args:
            tool: The tool's name on its server.
            arguments: The exact arguments, secrets masked.
            why: The reason for the question, as text.
            definition: The hash of the server's description of the tool. An answer is valid for
                this description only.
            origins: For each argument that strangers may have written: where its value came from.
            yes: Whether ``--yes`` agrees to the call.
            cost: The most that the call may use: ``2 node-hours (1.5 of 40 taken so far)``.
        """
        question: dict[str, Any] = {
            "kind": "approval",
            "step": step,
            "server": server,
            "tool": tool,
            "definition": definition,
            "arguments": dict(arguments),
            "why": why,
        }
        if origins:
            question["origins"] = [dict(origin) for origin in origins]
        if cost:
            question["cost"] = cost
        return question if yes else {**question, "yes": False}

    def read(self, question: Mapping[str, Any], raw: Any) -> Any:
        word = word_of(raw)
        if word in YES or word == "once":
            return True
        if word in NO:
            return False
        if word in ("a", "always"):
            return "always"
        data = mapping_of(raw)
        if data is None or len(data) != 1:
            return None
        ((key, value),) = data.items()
        if key == "always":
            return _always(question, value)
        right = {"arguments": _is_mapping(value), "refuse": isinstance(value, str) and value}
        return data if right.get(key) else None

    def decided(self, question: Mapping[str, Any], decision: Mapping[str, Any]) -> Any:
        """Approved; refused, with the reason if there is one; or approved with other arguments.

        Raises:
            AnswerError: The decision is about another tool, or replaces the call's answer.
        """
        if decision["type"] == "respond":
            raise AnswerError(
                f"the call of `{tool_of(question)}` cannot be answered instead of made",
                hint="approve, edit or reject it",
            )
        if decision["type"] != "edit":
            reason = decision.get("message")
            return {"refuse": reason} if reason else decision["type"] == "approve"
        action = mapping_of(decision.get("edited_action")) or {}
        if action.get("name", question["tool"]) not in (question["tool"], tool_of(question)):
            raise AnswerError(
                f"the call is of `{tool_of(question)}`, not of `{brief(action['name'])}`",
                hint="only its arguments can be changed",
            )
        return {"arguments": action.get("args")}

    def default(self, question: Mapping[str, Any]) -> Any:
        return True if question.get("yes", True) else MISSING


def _always(question: Mapping[str, Any], raw: Any) -> Any:
    """An agreement that covers later calls, too, as long as some arguments stay the same.

    Returns:
        ``{always: {fix: {argument: value}}}``; ``{always: {fix: all}}`` for exactly these
        arguments; ``always`` if no argument is fixed.

    Raises:
        AnswerError: The call does not have an argument, or has another value for it.
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
            raise _not_fixable(question, f"the call has no argument `{brief(name)}`")
        if to_json(given[name]) != to_json(question["arguments"][name]):
            raise _not_fixable(question, f"`{brief(name)}` has another value in this call")
        fixed[name] = question["arguments"][name]
    return {"always": {"fix": fixed}} if fixed else "always"


def _not_fixable(question: Mapping[str, Any], why: str) -> AnswerError:
    names = ", ".join(question["arguments"]) or "none"
    return AnswerError(
        f"the answer to `{question.get('step')}` is not valid: {why}",
        hint=f"arguments of the call: {names}",
    )


_ACCEPTED: Final = {"approve": "accept", "reject": "reject"}


class ToolChanged(Kind):
    """Whether tools may be used although their server changed their description."""

    expects = "accept or reject"
    words = ("accept", "reject")

    @staticmethod
    def ask(step: str, server: str, tools: Mapping[str, str], diff: str) -> dict[str, Any]:
        """Ask whether tools may be used although their server changed their description.

        Args:
            tools: Each tool's name with the hash of its new definition. An answer is valid for
                these definitions only.
            diff: The changes, as a unified diff.
        """
        return {
            "kind": "tool_changed",
            "step": step,
            "server": server,
            "tool": ", ".join(tools),
            "tools": dict(tools),
            "diff": diff,
        }

    def decided(self, question: Mapping[str, Any], decision: Mapping[str, Any]) -> Any:
        return _ACCEPTED.get(decision["type"])


class Review(Kind):
    """Whether a drafted plan may run."""

    expects = "accept, reject, or the changes that you want"
    words = ("accept",)
    keys = frozenset({"feedback", "plan", "decisions"})

    @staticmethod
    def ask(step: str, plan: str, changes: str | None, round: int) -> dict[str, Any]:  # noqa: A002
        """Ask whether a drafted plan may run.

        Args:
            plan: Its YAML.
            changes: The unified diff to the previous draft; None for the first draft.
            round: The number of the draft, from 1.
        """
        return {"kind": "review", "step": step, "plan": plan, "changes": changes, "round": round}

    def read(self, question: Mapping[str, Any], raw: Any) -> Any:
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

    def decided(self, question: Mapping[str, Any], decision: Mapping[str, Any]) -> Any:
        if decision["type"] != "edit":
            return _ACCEPTED.get(decision["type"])
        action = mapping_of(decision.get("edited_action")) or {}
        return {"plan": (mapping_of(action.get("args")) or {}).get("plan")}

    def default(self, question: Mapping[str, Any]) -> Any:
        return "accept"


class ElicitationQuestion(Kind):
    """A question that a server asks during a call."""

    @staticmethod
    def ask(
        step: str,
        server: str,
        message: str,
        schema: Mapping[str, Any],
        *,
        call: str = "",
        round: int = 1,  # noqa: A002
    ) -> dict[str, Any]:
        """Ask on behalf of a server, during a call.

        Args:
            schema: JSON Schema of the object that the server wants.
            call: The key of the call site, so that an answer is used for one call only.
            round: How often this call has asked the same question, from 1.
        """
        return {
            "kind": "elicitation",
            "step": step,
            "server": server,
            "message": message,
            "schema": dict(schema),
            "call": call,
            "round": round,
        }

    def read(self, question: Mapping[str, Any], raw: Any) -> Any:
        schema: Mapping[str, Any] = question["schema"]
        data = mapping_of(raw)
        if data is not None and "action" in data and "action" not in properties_of(schema):
            if data["action"] != "accept":
                return (
                    {"action": data["action"]} if data["action"] in ("decline", "cancel") else None
                )
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
            errors = [
                Masker(secrets_of_answer(question, {"content": content})).text(e) for e in errors
            ]
            step = question.get("step")
            raise AnswerError(
                f"the answer to `{step}` is not valid: {'; '.join(errors)}",
                hint=f"answer with: {expected(question)}",
            )
        return {"action": "accept", "content": content}

    def decided(self, question: Mapping[str, Any], decision: Mapping[str, Any]) -> Any:
        if decision["type"] == "reject":
            return {"action": "decline"}
        return decision.get("message") if decision["type"] == "respond" else None

    def expected(self, question: Mapping[str, Any]) -> str:
        if asks_secret(question):
            return "a secret, typed at a terminal; or decline or cancel"
        if not properties_of(question["schema"]):
            return "yes, decline or cancel"
        return f"{_fields_in_words(question['schema'])}, decline or cancel"

    def examples(self, question: Mapping[str, Any]) -> Sequence[str]:
        schema: Mapping[str, Any] = question["schema"]
        return [_example_of(schema, {}) if properties_of(schema) else "yes"]

    def default(self, question: Mapping[str, Any]) -> Any:
        if asks_secret(question):
            return MISSING
        defaults = defaults_of(question["schema"])
        known = required_of(question["schema"]) <= defaults.keys()
        return {"action": "accept", "content": defaults} if known else MISSING

    def is_answer(self, question: Mapping[str, Any], keys: set[str]) -> bool:
        # A mapping without keys agrees to the defaults.
        return "action" in keys or keys <= set(properties_of(question["schema"]))


def _content(schema: Mapping[str, Any], raw: Any) -> dict[str, Any] | None:
    """The content that a single word or value means: the only field's value, or the defaults."""
    fields = properties_of(schema)
    if len(fields) == 1:
        ((name, field),) = fields.items()
        return {name: read_field(field, raw)}
    known = required_of(schema) <= defaults_of(schema).keys()
    return {} if word_of(raw) in YES and known else None


class InDoubt(Kind):
    """A call with an unknown outcome: the run was killed in it, so it may have been made or not."""

    expects = "again, failed, or {outputs: {…}}"
    words = ("again", "failed")
    keys = frozenset({"outputs"})

    @staticmethod
    def ask(
        step: str, tool: str, arguments: Mapping[str, Any], *, server: str = ""
    ) -> dict[str, Any]:
        """Ask what to do about a call with an unknown outcome.

        Args:
            tool: The tool's name on its server.
        """
        return {
            "kind": "in_doubt",
            "step": step,
            "server": server,
            "tool": tool,
            "arguments": dict(arguments),
        }

    def read(self, question: Mapping[str, Any], raw: Any) -> Any:
        if word := super().read(question, raw):
            return word
        data = mapping_of(raw)
        right = data is not None and set(data) == {"outputs"} and _is_mapping(data["outputs"])
        return data if right else None


class JobUnknown(Kind):
    """A batch job with an unknown outcome."""

    expects = "wait, success, failure, or again"
    words = ("wait", "success", "failure", "again")

    @staticmethod
    def ask(step: str, job: str, scheduler: str, reason: str, directory: str) -> dict[str, Any]:
        """Ask what to do about a batch job with an unknown outcome.

        Args:
            job: The scheduler's id of the job.
            reason: Where fractale looked for the outcome, as text.
            directory: The directory of its log.
        """
        return {
            "kind": "job_unknown",
            "step": step,
            "job": job,
            "scheduler": scheduler,
            "reason": reason,
            "folder": directory,
        }

    def read(self, question: Mapping[str, Any], raw: Any) -> Any:
        return super().read(question, "failure" if word_of(raw) == "failed" else raw)


class Failure(Kind):
    """A step that failed; fractale asks only if a user is at the terminal."""

    expects = "retry, skip or quit"
    words = ("retry", "skip", "quit")


class OfGraph(Kind):
    """An interrupt of a LangGraph agent, or of the code of a tool.

    The answer is passed on in the form that the code expects.
    """

    @staticmethod
    def ask(
        step: str,
        agent: str,
        value: Any,
        schema: Mapping[str, Any] | None = None,
        *,
        server: str = "",
        tool: str = "",
    ) -> dict[str, Any]:
        """Pass on the question of Python code.

        Args:
            agent: The path of the agent; empty for a tool that the step itself calls.
            value: The value of its interrupt, as JSON.
            schema: JSON Schema of the answer, if the code has one.
            tool: The tool whose code asks, by its name on its server.
        """
        by = {"server": server, "tool": tool} if tool else {}
        return {
            **by,
            "kind": "interrupt",
            "step": step,
            "agent": agent,
            "value": value,
            "schema": dict(schema) if schema is not None else None,
        }

    def read(self, question: Mapping[str, Any], raw: Any) -> Any:
        if is_breakpoint(question):
            return "continue" if word_of(raw) in (*YES, "continue") else None
        answer = _data_in(raw)
        if answer is None or answer == "":
            return None
        if calls_in(question):
            answer = _decided(question, raw, answer)
        if answer is not None and (schema := question.get("schema")):
            _check_schema(question, schema, answer)
        return answer

    def expected(self, question: Mapping[str, Any]) -> str:
        if is_breakpoint(question):
            return "continue"
        if not (calls := calls_in(question)):
            return f"what the {_asker(question)} expects: text, or JSON"
        words = ["yes", "no"] if _may(question, "approve") else []
        one = '{"type": "approve" | "edit" | "reject" | …}'
        return ", ".join([*words, one if _asks_one(question) else f'{{"decisions": [{one}]}}']) + (
            "" if len(calls) == 1 else f", one for each of the {len(calls)} calls"
        )

    def examples(self, question: Mapping[str, Any]) -> Sequence[str]:
        if is_breakpoint(question):
            return ["continue"]
        return ["yes"] if calls_in(question) and _may(question, "approve") else ["ANSWER"]

    def default(self, question: Mapping[str, Any]) -> Any:
        if is_breakpoint(question):
            return "continue"
        if not calls_in(question) or not _may(question, "approve"):
            return MISSING
        return self.read(question, "yes")

    def is_answer(self, question: Mapping[str, Any], keys: set[str]) -> bool:
        return True


def _asker(question: Mapping[str, Any]) -> str:
    return "tool" if question.get("tool") else "agent"


def is_breakpoint(question: Mapping[str, Any]) -> bool:
    """Whether the graph of an agent stops before or after a node, and asks nothing."""
    value = question["value"]
    return isinstance(value, Mapping) and set(cast("Mapping[str, Any]", value)) == {"breakpoint"}


def calls_in(question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The calls, with `name` and `args`, that an agent asks about in LangChain's form."""
    value: Any = question["value"]
    if not isinstance(value, Mapping):
        return []
    asked = cast("Mapping[str, Any]", value)
    given: Any = [asked] if asked.get("type") == "tool_approval" else asked.get("action_requests")
    found = cast("list[Any]", given) if isinstance(given, list) else []
    calls = [cast("Mapping[str, Any]", each) for each in found if isinstance(each, Mapping)]
    right = [call for call in calls if {"name", "args"} <= set(call)]
    return right if len(right) == len(found) else []


def _asks_one(question: Mapping[str, Any]) -> bool:
    """Whether LangChain expects one decision, and not a list of them."""
    return question["value"].get("type") == "tool_approval"


def _may(question: Mapping[str, Any], decision: str) -> bool:
    """Whether every call allows a decision."""
    if _asks_one(question):
        return f'"{decision}"' in to_json(question.get("schema") or {})
    configs: Any = question["value"].get("review_configs") or []
    return all(decision in config.get("allowed_decisions", [decision]) for config in configs)


def _data_in(raw: Any) -> Any:
    """Text that is JSON as its value; other text and data unchanged."""
    if not isinstance(raw, str):
        return raw
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw.strip()


def _decided(question: Mapping[str, Any], raw: Any, answer: Any) -> Any:
    """An answer as LangChain's decisions; None if it is none.

    Raises:
        AnswerError: There are too few or too many decisions, or one of them is not allowed.
    """
    calls, word = calls_in(question), word_of(raw)
    if word in (*YES, "approve", "once"):
        decisions: Any = [{"type": "approve"} for _ in calls]
    elif word in (*NO, "reject"):
        decisions = [{"type": "reject"} for _ in calls]
    else:
        decisions = _listed(calls, answer)
    if decisions is None:
        return None
    problem = ""
    if len(decisions) != len(calls):
        problem = f"it has {len(decisions)} decisions for {len(calls)} calls"
    for decision in decisions:
        known = isinstance(decision, Mapping)
        kind = cast("Mapping[str, Any]", decision).get("type") if known else None
        if kind not in ("approve", "edit", "reject", "respond") or not _may(question, kind):
            problem = f"`{brief(kind)}` is not an allowed decision"
    if problem:
        raise AnswerError(
            f"the answer to `{question.get('step')}` does not fit: {problem}",
            hint=f"answer with: {expected(question)}",
        )
    return decisions[0] if _asks_one(question) else {"decisions": decisions}


def _listed(calls: Sequence[Mapping[str, Any]], answer: Any) -> list[Any] | None:
    """The decisions in data: a list, one decision, or the changed arguments of one call."""
    if isinstance(answer, list):
        return cast("list[Any]", answer)
    if not isinstance(answer, Mapping):
        return None
    data = cast("Mapping[str, Any]", answer)
    if isinstance(data.get("decisions"), list):
        return data["decisions"]
    if "type" in data:
        return [dict(data)]
    if set(data) == {"arguments"} and len(calls) == 1:
        action = {"name": calls[0]["name"], "args": data["arguments"]}
        return [{"type": "edit", "edited_action": action}]
    return None


def _check_schema(question: Mapping[str, Any], schema: Mapping[str, Any], answer: Any) -> None:
    """Check an answer against the agent's own schema.

    Raises:
        AnswerError: It does not fit.
    """
    try:
        faults = misfits(schema, answer)
    except UnusableSchema:
        return  # the agent checks it
    if faults:
        raise AnswerError(
            f"the answer to `{question.get('step')}` does not fit: {'; '.join(map(str, faults))}",
            hint=f"its schema: {brief(schema, 300)}",
        )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


KINDS: Final[Mapping[str, Kind]] = {
    "question": Question(),
    "approval": Approval(),
    "review": Review(),
    "elicitation": ElicitationQuestion(),
    "in_doubt": InDoubt(),
    "job_unknown": JobUnknown(),
    "failure": Failure(),
    "tool_changed": ToolChanged(),
    "interrupt": OfGraph(),
}


def kind_of(question: Mapping[str, Any]) -> Kind:
    """The kind of a question."""
    return KINDS[question["kind"]]


def read_answer(question: Mapping[str, Any], raw: Any) -> Any:
    """Convert text or data to an answer of the form that the question's kind documents.

    Args:
        question: Of any kind of `fractale.questions`.
        raw: Text, or JSON data.

    Raises:
        AnswerError: `raw` is not an answer to this question; the message lists valid answers.
    """
    kind = kind_of(question)
    decision = None if isinstance(kind, OfGraph) else decision_of(raw)
    answer = kind.read(question, raw if decision is None else kind.decided(question, decision))
    if answer is None:
        step, said = question.get("step"), "" if asks_secret(question) else brief(raw).strip()
        words = f"`{said}` is not a valid answer" if said else "an empty answer is not valid"
        raise AnswerError(
            f"{words} for the question of `{step}`", hint=f"answer with: {expected(question)}"
        )
    if not is_storable(answer):
        raise AnswerError(
            f"the answer to `{question.get('step')}` cannot be kept in the run's record",
            hint="numbers must be finite and fit in 64 bits; text must be valid Unicode",
        )
    return answer


def read_for_code(question: Mapping[str, Any], raw: Any) -> Any:
    """The answer of a program to a question of the kind `interrupt`, in the form of the code.

    A program may give the value that the code expects. So text that looks like JSON stays text,
    unless the code's schema wants something else.

    Raises:
        AnswerError: `raw` is not an answer to this question.
    """
    if is_breakpoint(question) or calls_in(question):
        return read_answer(question, raw)
    from pydantic_core import to_jsonable_python  # the command line starts without it

    schema = question.get("schema")
    try:
        fits = not schema or not misfits(schema, to_jsonable_python(raw, fallback=str))
    except UnusableSchema:
        fits = True  # the code checks it
    return raw if fits else read_answer(question, raw)


def is_answer(question: Mapping[str, Any], answer: Any) -> bool:
    """Whether a value is an answer in the form that `read_answer` returns."""
    if question["kind"] == "question" and isinstance(answer, str):
        return bool(question["free"]) or answer in question["choices"]
    try:
        read = read_answer(question, answer)
    except AnswerError:
        return False
    return type(read) is type(answer) and bool(read == answer)


def expected(question: Mapping[str, Any]) -> str:
    """The answers to a question, as text for users."""
    return kind_of(question).expected(question)


def examples(question: Mapping[str, Any]) -> list[str]:
    """Alternative answers to a question; a word in capitals is a placeholder for a value."""
    return list(kind_of(question).examples(question))


def example(question: Mapping[str, Any]) -> str:
    """The answer to show if only one fits; ``ANSWER`` if there are several."""
    found = examples(question)
    return found[0] if len(found) == 1 else "ANSWER"


def default_answer(question: Mapping[str, Any]) -> Any:
    """The answer of ``--yes``; MISSING if ``--yes`` does not cover the question.

    The user must check whether a call in doubt was made, how a job ended, and whether a changed
    tool may be used.
    """
    return kind_of(question).default(question)


def tool_of(question: Mapping[str, Any]) -> str:
    """``server.tool``, as shown to the user; questions in old records have no server."""
    server = question.get("server")
    return f"{server}.{question['tool']}" if server else str(question["tool"])


def asks_secret(question: Mapping[str, Any]) -> bool:
    """Whether a server asks for a secret. Such an answer is neither stored nor shown."""
    return question.get("kind") == "elicitation" and bool(secret_fields(question["schema"]))


def secrets_of_answer(question: Mapping[str, Any], answer: Any) -> list[str]:
    """The secrets in an answer to a question of a server."""
    content = _content_of(question, answer)
    found = (content.get(name) for name in secret_fields(question["schema"])) if content else ()
    return [str(each) for each in found if each not in (None, "", True, False)]


def without_secrets(question: Mapping[str, Any], answer: Any) -> Any:
    """An answer in which secrets are masked, so that it may be stored and shown."""
    if not (content := _content_of(question, answer)):
        return answer
    hidden = dict.fromkeys(secret_fields(question["schema"]) & content.keys(), MASK)
    return {**answer, "content": {**content, **hidden}}


def _content_of(question: Mapping[str, Any], answer: Any) -> Mapping[str, Any] | None:
    if not asks_secret(question) or not isinstance(answer, Mapping):
        return None
    content: Any = cast("Mapping[str, Any]", answer).get("content")
    return cast("Mapping[str, Any]", content) if isinstance(content, Mapping) else None


def is_question(value: Any) -> bool:
    """Whether a value is a question of a run: a mapping with a known kind and a step."""
    if not isinstance(value, Mapping):
        return False
    found = cast("Mapping[str, Any]", value)
    return found.get("kind") in KINDS and "step" in found


# Batch jobs, which a run also waits for


def job(step: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """A batch job that a run waits for. It is not a question, since it needs no answer.

    Args:
        known: The fields of the event `job_state`.
    """
    return {"kind": "job", "step": step, **known}


def job_held(step: str) -> dict[str, Any]:
    """A batch job that is not submitted yet, since the concurrency limit is reached."""
    return job(step, {"state": "held", "reason": "`max_parallel` jobs are in progress"})


def is_job(waiting: Any) -> bool:
    """Whether a run waits for a batch job here."""
    return _kind(waiting) == "job"


# Times, which a run also waits for


def due(began: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The time at which something becomes due, as JSON.

    A question can have one, too, in its field `due`: then it need not wait for its answer longer.

    Args:
        began: The moment from which it is counted (`fractale.clock.moment`).
    """
    return {"began": dict(began), "seconds": seconds, "until": round(began["wall"] + seconds, 3)}


def timer(step: str, reason: str, at: Mapping[str, Any]) -> dict[str, Any]:
    """A time that a run waits for. It is not a question, since it needs no answer.

    Args:
        reason: Why the step waits, as text.
        at: The time, as `due` returns it.
    """
    until = datetime.fromtimestamp(at["until"], UTC).isoformat(timespec="seconds")
    return {"kind": "timer", "step": step, "reason": reason, "until": until, "due": dict(at)}


def timer_held(step: str) -> dict[str, Any]:
    """An item that waits until the concurrency limit lets it begin."""
    return {"kind": "timer", "step": step, "reason": "`max_parallel` items are in progress"}


def is_timer(waiting: Any) -> bool:
    """Whether a run waits for a time here."""
    return _kind(waiting) == "timer"


def needs_no_answer(waiting: Any) -> bool:
    """Whether a run waits for a batch job or a time here, and not for an answer."""
    return _kind(waiting) in ("job", "timer")


def is_due(waiting: Any, clock: Clock) -> bool:
    """Whether the time of a timer, or of a question, has come. False if it has none."""
    known = cast("Mapping[str, Any]", waiting).get("due") if isinstance(waiting, Mapping) else None
    return bool(known) and elapsed(clock, known["began"]) >= known["seconds"]


def _kind(waiting: Any) -> Any:
    return cast("Mapping[str, Any]", waiting).get("kind") if isinstance(waiting, Mapping) else None
