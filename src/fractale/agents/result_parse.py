"""Finds a metric in a log: asks a model for a regular expression, checks it, and asks the user.

fractale remembers an expression that the user accepted, with the shape of the log. Logs have the
same shape if their lines are of the same kinds, apart from the numbers in them.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.errors import ModelError, ModelUnavailable
from fractale.questions import question
from fractale.regexes import LONGEST_PATTERN, PatternMatch, ends_of, find_value

DEFAULT_TRIES = 5

MAX_SHOWN_LOG = 12_000
"""The most characters of the log that the model sees."""

MIN_LIKENESS = 0.5
"""The least `likeness` of two logs with the same shape."""

MAX_NOTES = 20
"""The most expressions that are remembered for one metric."""

YES, NO = "yes", "no"
REFUSED = "a person says that this is not the metric"

ANSWER: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "why": {"type": "string", "description": "Which line of the log has the metric."},
        "regex": {"type": "string", "description": "With one group, around the value."},
    },
    "required": ["why", "regex"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseTask:
    """The metric to find. The log is not part of the state, so it stays out of the checkpoints."""

    ctx: AgentContext
    metric: str
    log: str
    unit: str
    instruction: str
    max_tries: int


class Try(TypedDict):
    """One proposal of the model, and the reason for its refusal."""

    regex: str
    fault: str


class Match(TypedDict):
    """A match of a regular expression. `method` is its origin: ``model`` or ``remembered``."""

    regex: str
    value: str
    line: str
    matches: int
    method: str


class Note(TypedDict):
    """An expression that the user accepted, and the shape of its log."""

    regex: str
    shape: list[str]


class Parsing(TypedDict, total=False):
    """The agent's state. Until it is `done`, the user must still accept `match`."""

    tries: list[Try]
    match: Match | None
    done: bool


async def run(ctx: AgentContext, request: AgentRequest) -> AgentAnswer:
    """Find the metric.

    Raises:
        ModelUnavailable: The model is busy or out of reach.
        LimitReached: A limit of the run is used up.
    """
    task = _task(ctx, request)
    after = await _graph().ainvoke(Parsing(tries=[]), request.config, context=task)
    found: Match | None = after.get("match")
    if found is None or not after.get("done"):
        return _gave_up(task, after["tries"])
    if found["method"] == "model":
        _remember(task, found["regex"])
    outputs = {
        "success": True,
        "metric": task.metric,
        "value": found["value"],
        "regex": found["regex"],
        "tries": len(after["tries"]),
        "method": found["method"],
    }
    return AgentAnswer(outputs=outputs, text=f"{task.metric}: {found['value']} {task.unit}".strip())


def _task(ctx: AgentContext, request: AgentRequest) -> ParseTask:
    given = request.inputs
    return ParseTask(
        ctx=ctx,
        metric=str(given["metric_name"]).strip(),
        log=_as_text(given["log_text"]),
        unit=str(given.get("unit") or ""),
        instruction=request.instruction,
        max_tries=int(given.get("max_tries") or DEFAULT_TRIES),
    )


def _as_text(log: Any) -> str:
    """A log as one text. Some tools return it as a list of lines."""
    if not isinstance(log, list):
        return str(log)
    lines = [str(line).removesuffix("\n") for line in cast("list[Any]", log)]
    return "\n".join(lines)


def _gave_up(task: ParseTask, tries: Sequence[Try]) -> AgentAnswer:
    last = tries[-1] if tries else Try(regex="", fault="")
    times = "once" if len(tries) == 1 else f"{len(tries)} times"
    error = f"no regular expression for `{task.metric}` was found ({times} tried): {last['fault']}"
    outputs = {
        "success": False,
        "metric": task.metric,
        "value": None,
        "regex": last["regex"],
        "tries": len(tries),
        "method": "model",
        "error": error,
    }
    return AgentAnswer(outputs=outputs, text=error, error=error)


# -- the graph ----------------------------------------------------------------------------------


def _graph() -> Any:
    """Recall a known expression, or else propose until one matches and the user accepts it."""
    builder: Any = StateGraph(Parsing, context_schema=ParseTask)
    builder.add_node("recall", _recall)
    builder.add_node("propose", _propose)
    builder.add_node("confirm", _confirm)
    builder.add_edge(START, "recall")
    builder.add_conditional_edges("recall", _next, ["propose", END])
    builder.add_conditional_edges("propose", _next, ["propose", "confirm", END])
    builder.add_conditional_edges("confirm", _next, ["propose", END])
    return builder.compile(name="result_parse")


def _next(state: Parsing, runtime: Runtime[ParseTask]) -> str:
    if state.get("done"):
        return END
    if state.get("match"):
        return "confirm"
    return END if len(state.get("tries", [])) >= runtime.context.max_tries else "propose"


async def _recall(state: Parsing, runtime: Runtime[ParseTask]) -> Parsing:
    """Reuse an expression that the user accepted for a log of this shape, if it matches."""
    del state
    task = runtime.context
    for pattern in _known(task):
        found = await _search(pattern, task.log)
        if isinstance(found, PatternMatch):
            return Parsing(match=_match(pattern, found, "remembered"), done=True)
    return Parsing()


async def _propose(state: Parsing, runtime: Runtime[ParseTask]) -> Parsing:
    """Ask the model, and try its expression."""
    task, tries = runtime.context, state.get("tries", [])
    try:
        answer = await task.ctx.ask_model(_messages(task, tries), ANSWER)
    except ModelUnavailable:
        raise
    except ModelError as error:
        return Parsing(tries=[*tries, Try(regex="", fault=f"no usable answer: {error}")])
    pattern = _pattern_in(answer.data)
    before = [each["fault"] for each in tries if pattern and each["regex"] == pattern]
    if before:
        fault = f"this was tried already: {before[0]}"
        return Parsing(tries=[*tries, Try(regex=pattern, fault=fault)])
    found = await _search(pattern, task.log)
    if isinstance(found, str):
        return Parsing(tries=[*tries, Try(regex=pattern, fault=found)])
    return Parsing(
        tries=[*tries, Try(regex=pattern, fault="")], match=_match(pattern, found, "model")
    )


async def _confirm(state: Parsing, runtime: Runtime[ParseTask]) -> Parsing:
    """Ask the user whether the value is right. An answer other than yes or no is feedback."""
    task, match = runtime.context, state.get("match")
    assert match is not None  # noqa: S101 - the edge to this node looked
    asked = question(task.ctx.path, _asked(task, match), (YES, NO), default=YES)
    said = str(task.ctx.ask_person(asked)).strip()
    if said.lower() in (YES, "y", "true"):
        return Parsing(done=True)
    refused = REFUSED if said.lower() in ("", NO, "n", "false") else f"a person says: {said}"
    fault = f"it finds {match['value']!r} in {match['line']!r}, but {refused}"
    *earlier, last = state.get("tries", [])
    return Parsing(tries=[*earlier, Try(regex=last["regex"], fault=fault)], match=None)


# -- the requests to the model and the user -----------------------------------------------------


def _messages(task: ParseTask, tries: Sequence[Try]) -> list[BaseMessage]:
    prompt = resources.files(__package__ or "").joinpath("result_parse.md")
    unit = f", in {task.unit}" if task.unit else ""
    log = ends_of(task.log, MAX_SHOWN_LOG, "\n[… the middle of the log is left out …]\n")
    parts = [
        f"The metric: {task.metric}{unit}",
        task.instruction,
        f"The log:\n<log>\n{log}\n</log>",
        *_earlier(tries),
    ]
    return [
        SystemMessage(prompt.read_text(encoding="utf-8")),
        HumanMessage("\n\n".join(part for part in parts if part)),
    ]


def _earlier(tries: Sequence[Try]) -> list[str]:
    if not tries:
        return []
    lines = [f"- `{each['regex'][:LONGEST_PATTERN]}`: {each['fault']}" for each in tries]
    return ["These were not right; answer with another one:\n" + "\n".join(lines)]


def _asked(task: ParseTask, match: Match) -> str:
    of = "" if match["matches"] == 1 else f" (the last of {match['matches']} matches)"
    value = f"{match['value']} {task.unit}".strip()
    return (
        f"Is this the {task.metric} of the log?\n"
        f"value: {value}{of}\nline: {match['line']}\nregex: {match['regex']}"
    )


def _pattern_in(data: Any) -> str:
    """The model's expression. Empty if its answer has none."""
    given: Any = cast("dict[str, Any]", data).get("regex") if isinstance(data, dict) else None
    return given if isinstance(given, str) else ""


async def _search(pattern: str, log: str) -> PatternMatch | str:
    """The match of the pattern, or why its value is not usable."""
    try:
        return await asyncio.to_thread(find_value, pattern, log)
    except ValueError as error:
        return str(error)


def _match(pattern: str, found: PatternMatch, method: str) -> Match:
    return Match(
        regex=pattern,
        value=found.value,
        line=found.line,
        matches=found.matches,
        method=method,
    )


# -- the memory ---------------------------------------------------------------------------------


def _remember(task: ParseTask, pattern: str) -> None:
    """Keep the expression for logs of this shape, before older ones."""
    others = [note for note in _notes(task) if note["regex"] != pattern]
    note = Note(regex=pattern, shape=shape_of(task.log))
    task.ctx.remember(_key(task), [note, *others][:MAX_NOTES])


def _known(task: ParseTask) -> list[str]:
    """The expressions for logs of this shape, the most similar first."""
    notes = _notes(task)
    shape = shape_of(task.log) if notes else []
    alike = [(likeness(shape, note["shape"]), note["regex"]) for note in notes]
    alike.sort(key=lambda pair: -pair[0])
    return [pattern for share, pattern in alike if share >= MIN_LIKENESS]


def _notes(task: ParseTask) -> list[Note]:
    return task.ctx.recall(_key(task)) or []


def _key(task: ParseTask) -> str:
    return f"result_parse/{task.metric.lower()}"


# -- the shape of a log -----------------------------------------------------------------------

MAX_KINDS = 64
"""The most kinds of lines in a shape."""

MAX_LOG = 200_000
"""The most characters of a log that determine its shape."""

MAX_LINE = 500

_FIGURE = re.compile(r"[-+]?\d[\d.,:eE+-]*+")
_BLANKS = re.compile(r"\s++")


def shape_of(log: str) -> list[str]:
    """The most frequent kinds of lines of a log, as short hashes.

    Two lines are of one kind if they differ only in numbers and blanks.
    """
    kinds = Counter(_kind_of(line) for line in ends_of(log, MAX_LOG, "\n").splitlines())
    kinds.pop("", None)
    return [
        hashlib.sha256(kind.encode()).hexdigest()[:8] for kind, _ in kinds.most_common(MAX_KINDS)
    ]


def _kind_of(line: str) -> str:
    return _BLANKS.sub(" ", _FIGURE.sub("0", line[:MAX_LINE])).strip()


def likeness(one: Sequence[str], other: Sequence[str]) -> float:
    """The share of kinds that two shapes have in common: 0 to 1."""
    together = set(one) | set(other)
    return len(set(one) & set(other)) / len(together) if together else 0.0


INPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "metric_name": {"type": "string", "minLength": 1, "description": "The metric to find."},
        "log_text": {
            "type": ["string", "array"],
            "description": "The log, as one text or as a list of lines.",
        },
        "unit": {"type": "string", "description": "The metric's unit, if that helps to find it."},
        "max_tries": {
            "type": "integer",
            "minimum": 1,
            "maximum": 50,
            "description": f"Proposals of the model at most (default {DEFAULT_TRIES}).",
        },
        "instruction": {"type": "string", "description": "Further information for the model."},
    },
    "required": ["metric_name", "log_text"],
}

OUTPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "success": {"type": "boolean"},
        "metric": {"type": "string"},
        "value": {"type": ["string", "null"], "description": "As the log writes it."},
        "regex": {"type": "string"},
        "tries": {"type": "integer", "description": "Proposals of the model."},
        "method": {"enum": ["model", "remembered"]},
        "error": {"type": "string"},
    },
    "required": ["success", "metric", "value", "regex", "tries", "method"],
}

RESULT_PARSE = Subagent(
    name="result_parse",
    description=(
        "Finds a metric in the text of a log by a regular expression that a person approves."
    ),
    input_schema=INPUTS,
    output_schema=OUTPUTS,
    tools=(),
    run=run,
)
