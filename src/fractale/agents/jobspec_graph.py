"""A script's translation as a graph: translate, check, validate, until nothing is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Final, TypedDict, cast

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from fractale.agents.subagent import AgentHost
from fractale.agents.translations import Pair
from fractale.agents.validators import arguments_for, find_validator, verdict_of
from fractale.errors import ModelError, ModelUnavailable, PolicyError, ToolError
from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.homes import NAMES
from fractale.schedulers.request import Request
from fractale.toolbox import ToolInfo

DIRECTIVES = "directives"
"""What validated a script where no tool does: its own lines."""

FENCE = re.compile(r"\A\s*```[^\n]*\n(.*?)\n?```\s*\Z", re.DOTALL)

ANSWER: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "script": {"type": "string", "description": "The whole translated script."},
        "notes": {"type": "string", "description": "What a person should look at."},
        "no_analogue": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Directives that the target has nothing for, each with what is lost.",
        },
    },
    "required": ["script", "notes", "no_analogue"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is translated, and who helps with it.

    Args:
        source: The manager that the script is for; empty if it has no directives.
        validator: The tool that was asked for by name, if one was.
        error: What failed before, outside this agent.
    """

    host: AgentHost
    script: str
    source: str
    target: str
    validator: str
    error: str
    instruction: str
    max_tries: int


class Translating(TypedDict, total=False):
    """The agent's state.

    `faults` is what is wrong with `jobspec`; a translation without any is done once
    `validated_by` says how that is known.
    """

    tries: int
    validator: str
    jobspec: str
    no_analogue: list[str]
    notes: str
    faults: list[str]
    validated_by: str
    warnings: list[str]


def pair_of(task: Task, state: Translating) -> Pair:
    """The script and its translation so far, to be held against each other."""
    return Pair(
        original=task.script,
        script=state.get("jobspec", ""),
        source=task.source,
        target=task.target,
        no_analogue=state.get("no_analogue", []),
    )


def translation_graph() -> Any:
    """Choose a validator; translate, check and validate until nothing is wrong any more."""
    builder: Any = StateGraph(Translating, context_schema=Task)
    builder.add_node("choose", _choose)
    builder.add_node("translate", _translate)
    builder.add_node("check", _check)
    builder.add_node("validate", _validate)
    builder.add_edge(START, "choose")
    builder.add_conditional_edges("choose", _after_choice, ["translate", "check", END])
    builder.add_conditional_edges("translate", _after_translation, ["translate", "check", END])
    builder.add_conditional_edges("check", _after_check, ["translate", "validate", END])
    builder.add_conditional_edges("validate", _after_validation, ["translate", END])
    return builder.compile(name="transform_jobspec")


def _after_choice(state: Translating) -> str:
    if state.get("faults"):
        return END
    return "check" if state.get("jobspec") else "translate"


def _after_translation(state: Translating, runtime: Runtime[Task]) -> str:
    return _again(state, runtime) if state.get("faults") else "check"


def _after_check(state: Translating, runtime: Runtime[Task]) -> str:
    if state.get("faults"):
        return _again(state, runtime)
    return "validate" if state.get("validator") else END


def _after_validation(state: Translating, runtime: Runtime[Task]) -> str:
    return _again(state, runtime) if state.get("faults") else END


def _again(state: Translating, runtime: Runtime[Task]) -> str:
    return "translate" if state.get("tries", 0) < runtime.context.max_tries else END


async def _choose(state: Translating, runtime: Runtime[Task]) -> Translating:
    """Find the tool that says whether a script is valid."""
    del state
    task = runtime.context
    tool = await _validator(task, task.validator)
    if tool is None and task.target not in NAMES:
        known = ", ".join(NAMES)
        fault = f"there is no way to check it: no tool validates it, and fractale knows {known}"
        return Translating(faults=[fault])
    return Translating(validator=tool.name if tool else "")


async def _validator(task: Task, name: str) -> ToolInfo | None:
    """The validator of that name; without one, the one that fits best, or None.

    Raises:
        ToolError: No tool has the name, or the tool takes no script.
    """
    tools = await task.host.tools()
    if not name:
        return find_validator(tools, task.target)
    found = [tool for tool in tools if name in (tool.name, tool.qualified_name)]
    if not found:
        raise ToolError(f"the agent has no tool `{name}` to validate with", hint="see `tools:`")
    if arguments_for(found[0], "", "", "") is None:
        raise ToolError(f"`{name}` takes no script, so it can't validate one")
    return found[0]


async def _translate(state: Translating, runtime: Runtime[Task]) -> Translating:
    """Ask the model for a translation, or for a better one."""
    task = runtime.context
    after = Translating(tries=state.get("tries", 0) + 1, validated_by="", faults=[])
    try:
        answer = await task.host.ask_model(_messages(task, state), ANSWER)
    except ModelUnavailable:
        raise
    except ModelError as error:
        after["faults"] = [f"no usable answer: {error}"]
        return after
    data = cast("dict[str, Any]", answer.data) if isinstance(answer.data, dict) else {}
    script, listed = data.get("script"), data.get("no_analogue")
    if not isinstance(script, str) or not script.strip():
        after["faults"] = ["the answer has no `script`"]
        return after
    after["jobspec"] = _plain(script)
    after["no_analogue"] = (
        [str(each) for each in cast("list[Any]", listed)] if isinstance(listed, list) else []
    )
    after["notes"] = str(data.get("notes") or "")
    return after


def _plain(script: str) -> str:
    """A script without the fence that some models put around it."""
    fenced = FENCE.match(script)
    return (fenced[1] if fenced else script).strip("\r\n") + "\n"


async def _check(state: Translating, runtime: Runtime[Task]) -> Translating:
    """See that it is a translation at all, which no validator says."""
    alone = not state.get("validator")
    faults = pair_of(runtime.context, state).faults(strict=alone)
    return Translating(faults=faults, validated_by=DIRECTIVES if alone and not faults else "")


async def _validate(state: Translating, runtime: Runtime[Task]) -> Translating:
    """Let the validator say whether it is valid."""
    task, name = runtime.context, state.get("validator", "")
    tool = await _validator(task, name)
    assert tool is not None  # noqa: S101 - it has a name
    arguments = arguments_for(tool, state.get("jobspec", ""), task.script, task.target) or {}
    try:
        verdict = verdict_of(await task.host.call_tool(tool, arguments))
    except PolicyError as error:
        if task.validator:
            raise
        return _without_validator(task, state, str(error))
    if verdict.valid is None:
        said = f"`{name}` says neither valid nor invalid: {verdict.reason or 'nothing'}"
        if task.validator:
            raise ToolError(said, hint="name another tool in `validator`")
        return _without_validator(task, state, said)
    if not verdict.valid:
        return Translating(faults=[f"`{name}` says: {verdict.reason}"])
    return Translating(validated_by=name)


def _without_validator(task: Task, state: Translating, why: str) -> Translating:
    """Go by the script's own lines, where the tool that was found is of no use."""
    if task.target not in NAMES:
        raise ToolError(f"there is no way to check a script for {task.target}: {why}")
    faults = pair_of(task, state).faults(strict=True)
    return Translating(
        validator="",
        faults=faults,
        validated_by="" if faults else DIRECTIVES,
        warnings=[f"no tool validated it: {why}"],
    )


# -- what the model is asked --------------------------------------------------------------------


def _messages(task: Task, state: Translating) -> list[BaseMessage]:
    prompt = resources.files(__package__ or "").joinpath("transform_jobspec.md")
    of = f" of {task.source}" if task.source else ""
    parts = [
        f"Translate this script{of} for {task.target}.",
        task.instruction,
        _options(task.target),
        f"<script>\n{task.script}\n</script>",
        f"An earlier translation failed: {task.error}" if task.error else "",
        _repair(state),
    ]
    return [
        SystemMessage(prompt.read_text(encoding="utf-8")),
        HumanMessage("\n\n".join(part for part in parts if part)),
    ]


EXAMPLES: Final[Mapping[str, Any]] = {
    "nodes": 2,
    "tasks": 8,
    "tasks_per_node": 4,
    "cores_per_task": 2,
    "gpus_per_task": 1,
    "memory_per_node": 2**30,
    "seconds": 600.0,
    "queues": ("q",),
    "name": "n",
    "output": "o",
    "error": "e",
    "account": "a",
    "workdir": "/w",
    "exclusive": True,
}
"""What a job asks for most, by the fields of a `Request`."""


def _options(target: str) -> str:
    """The target's words for what a job asks for most, for a model that does not know them."""
    if target not in NAMES:
        return ""
    dialect, least = dialect_of(target), Request(nodes=2, tasks=8)
    known = dialect.write(least).lines
    found: dict[str, str] = {}
    for field, value in EXAMPLES.items():
        asked = (
            Request(**{field: value}) if field in least.said() else replace(least, **{field: value})
        )
        lines = dialect.write(asked).lines
        new = [line for line in lines if field in least.said() or line not in known]
        found |= {re.split(r"[= ]", line)[0]: field for line in new[:1]}
    options = "\n".join(f"{flag}: {what}" for flag, what in found.items())
    return f"Directives of {target} start with {dialect.mark}; some options:\n{options}"


def _repair(state: Translating) -> str:
    faults = "\n".join(f"- {fault}" for fault in state.get("faults", []))
    if not faults:
        return ""
    last = state.get("jobspec")
    shown = f"Your last translation:\n<script>\n{last}</script>\n\n" if last else ""
    return f"{shown}What is wrong with it; repair that and answer with the whole script:\n{faults}"
