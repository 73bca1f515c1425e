"""Questions as the user sees them: the exact call, plan or change, escaped and in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fractale.plan.escape import JOINERS
from fractale.questions import calls_in, tool_of
from fractale.questions.forms import (
    as_schema,
    choices_of,
    defaults_of,
    options_of,
    properties_of,
    required_of,
)
from fractale.questions.kinds import default_word, is_breakpoint, labels
from fractale.render.phrases import as_json
from fractale.render.text import Line, cells, exactly, fold, inert, pad, row, table

WIDTH = 96
NAME_MOST = 24
LOG_LINES = 20
"""The number of last lines of a job's log that a question shows on request."""


def exact(text: str) -> str:
    """A text with every control character and invisible character written out.

    Unlike `inert` it neither omits nor joins anything, since the user agrees to this text.
    """
    text = text.replace("\x1b", "\\x1b")
    for joiner in JOINERS:
        text = text.replace(joiner, f"\\u{ord(joiner):04x}")
    return inert(text, lines=True)


def exact_value(value: Any) -> list[str]:
    """A value in full: text of several lines unchanged, any other value as JSON on one line."""
    if isinstance(value, str) and "\n" in value.rstrip("\n"):
        return exact(value).split("\n")
    return exact(as_json(value)).split("\n")


def arguments_lines(arguments: Mapping[str, Any]) -> list[str]:
    """Every argument of a call, with the names in a column."""
    if not arguments:
        return ["(no arguments)"]
    names = {name: exact(as_json(name))[1:-1] for name in arguments}
    width = min(max(cells(shown) for shown in names.values()), NAME_MOST)
    lines: list[str] = []
    for name, value in arguments.items():
        first, *rest = exact_value(value)
        if rest:
            lines += [names[name], *(f"  │ {text}" for text in (first, *rest))]
        else:
            lines.append(f"{pad(names[name], width)}  {first}")
    return lines


def prose(text: str, indent: str = "  ") -> list[Line]:
    """A text for the user, folded; its line breaks are kept."""
    rows = inert(text.strip(), lines=True).split("\n")
    return [row(indent + words) for line in rows for words in fold(line, WIDTH)]


def choices_lines(question: Mapping[str, Any], other: str = "") -> list[str]:
    """The numbered choices, with a mark on the default.

    Args:
        other: The text of the last number, if any text may be answered.
    """
    found: list[str] = []
    choices: Sequence[str] = question.get("choices") or ()
    marks, more = labels(question), table(question, "follow_up")
    for mark, choice in zip(marks, choices, strict=False):
        default = "   (default)" if choice == default_word(question) else ""
        asked = f"   (then asks: {inert(str(more[choice]), 200)})" if choice in more else ""
        found.append(f"{mark:>2}  {inert(choice)}{default}{asked}")
    if choices and other and question.get("free"):
        found.append(f"{marks[-1]:>2}  {other}")
    return found


def default_line(question: Mapping[str, Any]) -> list[str]:
    """The default, if it is not among the choices."""
    default = default_word(question)
    if default is None and question.get("form") and question.get("default"):
        default = as_json(question["default"])
    if default is None or default in (question.get("choices") or ()):
        return []
    return [f"(default: {inert(str(default))})"]


def due_line(question: Mapping[str, Any]) -> list[str]:
    """When the default is taken, if the question has a time."""
    until = table(question, "due").get("until")
    if not until:
        return []
    default = default_word(question)
    shown = f"the default is taken: {inert(str(default))}" if default else "the defaults are taken"
    return [f"(without an answer by {exactly(until)}, {shown})"]


def where(question: Mapping[str, Any], run: str) -> str:
    """The run and the number of a question: ``(run k7f3 · question 1 of 3)``."""
    parts = [f"run {run}"] if run else []
    if question.get("of"):
        parts.append(f"question {question['number']} of {question['of']}")
    return f"   ({' · '.join(parts)})" if parts else ""


def head(mark: str, words: str, question: Mapping[str, Any], run: str) -> Line:
    """The first line of a question."""
    state = "warn" if mark == "!" else "now"
    return [(mark, state), (f" {words}", ""), (where(question, run), "dim")]


def question_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """The lines of a `question`: its text, its choices and its default."""
    step = inert(str(question["step"]))
    below = [*choices_lines(question, "something else …"), *default_line(question)]
    below += due_line(question)
    return [
        head("?", f"{step} wants to know", question, run),
        *prose(str(question["text"])),
        *(row(f"  {line}") for line in below),
    ]


def approval_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """The exact call, and the reason for the question."""
    step, tool = inert(str(question["step"])), exact(tool_of(question))
    words = f"{step} wants to call {tool}"
    why = f"   ({inert(str(question['why']))})" if question.get("why") else ""
    cost = cost_lines(question)
    return [
        [*head("!", words, question, ""), (why, "dim"), (where(question, run), "dim")],
        *(row(f"    {line}") for line in [*arguments_lines(table(question, "arguments")), *cost]),
    ]


def cost_lines(question: Mapping[str, Any]) -> list[str]:
    """The most that a call may use; empty if unknown."""
    cost = question.get("cost")
    return [f"at most {inert(str(cost), 200)}"] if cost else []


def tool_changed_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """The tools whose descriptions a server changed, with the diff."""
    step = inert(str(question["step"]))
    return [
        head("!", f"{changed_words(question)}; {step} would use it", question, run),
        *changes_lines(str(question["diff"])),
    ]


def changed_words(question: Mapping[str, Any]) -> str:
    """The names of the changed tools: ``server site changed its tool submit``."""
    server, names = exact(str(question["server"])), [exact(name) for name in question["tools"]]
    word = "tool" if len(names) == 1 else "tools"
    return f"server {server} changed its {word} {', '.join(names)}"


def review_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """The first line of a review; the plan is shown below it."""
    count = int(question.get("round") or 1)
    which = "has drafted a plan" if count == 1 else f"has drafted the plan again (draft {count})"
    return [head("?", f"{inert(str(question['step']))} {which}", question, run)]


def changes_lines(changes: str) -> list[Line]:
    """A unified diff, with removed and added lines marked."""
    lines: list[Line] = [row("  what changed:", "dim")]
    for text in exact(changes).rstrip("\n").split("\n"):
        mark = "good" if text.startswith("+") else "bad" if text.startswith("-") else "dim"
        lines.append(row(f"  {text}", mark))
    return lines


def elicitation_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """The question of a server, in the server's words."""
    server, step = inert(str(question["server"])), inert(str(question["step"]))
    return [
        head("?", f"the server {server} asks, in step {step}", question, run),
        *prose(str(question["message"])),
    ]


def field_lines(name: str, schema: Mapping[str, Any]) -> list[str]:
    """One field of a server's question: its description, type, choices and default."""
    field = properties_of(schema)[name]
    title = f"{inert(name)}{_kind(field, optional=name not in required_of(schema))}"
    said = field.get("title"), field.get("description")
    about = " · ".join(inert(str(text)) for text in said if text and text != name)
    lines = [f"{title}  {about}" if about else title]
    default = defaults_of(schema).get(name)
    for number, (value, words) in enumerate(choices_of(field), 1):
        chosen = value in default if isinstance(default, list) else value == default
        mark = "   (default)" if default is not None and chosen else ""
        lines.append(f"{number:>2}  {inert(words)}{mark}")
    return lines


def _kind(field: Mapping[str, Any], *, optional: bool) -> str:
    bounds = [
        f"{words} {field[key]}"
        for key, words in (("minimum", "from"), ("maximum", "to"))
        if key in field
    ]
    kind = " ".join([str(field.get("type") or ""), *bounds]).strip()
    if kind == "array":
        several = as_schema(field.get("items")).get("type") or "values"
        kind = f"list of {several}, separated by commas"
        if choices_of(field):
            kind = "any of these, separated by commas"
    words = [inert(kind, 60)] if kind and not options_of(field) else []
    words += ["optional"] if optional else []
    return f" ({', '.join(words)})" if words else ""


def failure_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """The failed step and its error."""
    step = inert(str(question["step"]))
    error = inert(str(question.get("error") or ""), 2000)
    return [head("?", f"step {step} failed", question, run), *prose(error, "    ")]


def interrupt_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """The question of a LangGraph agent, or of a tool's Python code."""
    return [
        head("?", f"{asker(question)} asks", question, run),
        *(row(f"    {line}") for line in asked_lines(question)),
    ]


def asker(question: Mapping[str, Any]) -> str:
    """The tool or the agent whose code asks with LangGraph's `interrupt`."""
    if question.get("tool"):
        return f"the tool {inert(str(question['tool']), 80)}"
    return f"the agent {inert(str(question['agent']), 80)}"


def asked_lines(question: Mapping[str, Any]) -> list[str]:
    """The calls that a LangGraph agent asks about, or the value of its interrupt."""
    if is_breakpoint(question):
        return ["it stops here, at a breakpoint of its graph"]
    if calls := calls_in(question):
        return [line for call in calls for line in _call_lines(call)]
    value = question["value"]
    if isinstance(value, str):
        return exact(value.strip()).split("\n")
    return arguments_lines(value) if isinstance(value, dict) else exact_value(value)  # pyright: ignore[reportUnknownArgumentType] - the agent's own data


def _call_lines(call: Mapping[str, Any]) -> list[str]:
    arguments = arguments_lines(table(call, "args"))
    return [f"may it call {exact(str(call['name']))}?", *(f"  {line}" for line in arguments)]


def log_lines(log: Path) -> list[Line]:
    """The path of a job's log, and its last lines."""
    from fractale.jobs.logs import LONGEST_TAIL, read_tail
    from fractale.render.text import shorten_path

    try:
        text = read_tail(log, LOG_LINES, LONGEST_TAIL).text
    except OSError as error:
        return [row(f"  {log} cannot be read: {error}", "warn")]
    lines = exact(text.rstrip("\n")).split("\n") if text.strip() else ["(empty)"]
    return [row(f"  {inert(shorten_path(str(log)))}", "dim"), *(row(f"  │ {x}") for x in lines)]


def in_doubt_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """A call with an unknown outcome."""
    step, tool = inert(str(question["step"])), exact(tool_of(question))
    return [
        head("!", f"the run was killed while {step} called {tool}", question, run),
        row("  The call may or may not have run. Check before you answer."),
        *(row(f"    {line}") for line in arguments_lines(table(question, "arguments"))),
    ]


def job_unknown_lines(question: Mapping[str, Any], run: str) -> list[Line]:
    """A batch job with an unknown outcome."""
    step, job = inert(str(question["step"])), inert(str(question["job"]))
    words = f"the outcome of job {job} of {step} is unknown".replace("  ", " ")
    directory = str(question.get("folder") or "")
    return [
        head("!", words, question, run),
        *prose(str(question["reason"])),
        *([row(f"  Its log and state are in {inert(directory)}")] if directory else []),
        row("  Check the scheduler before you answer: submitted again, the job may run twice."),
    ]
