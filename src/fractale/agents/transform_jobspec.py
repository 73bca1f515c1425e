"""Translates a batch script between workload managers, and checks every translation.

The agent is a graph: it chooses a validator. Then it translates, checks and validates until no
fault is left. `check` compares the script with the original by their own lines. Validators do not
do that: for most of them, a script without any directive is valid, and directives of another
manager are comments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Final, cast

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from fractale.agents.script_validators import arguments_for, find_validator, verdict_of
from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.errors import ModelError, ModelUnavailable, PolicyError, ToolError
from fractale.schedulers.commands import compare_commands
from fractale.schedulers.comparison import comments_of, compare, leftovers
from fractale.schedulers.dialects import (
    dialect_of,
    lines_of,
    plain_script,
    read_script,
    schedulers_of,
)
from fractale.schedulers.homes import NAMES, READ, scheduler_named
from fractale.schedulers.request import Request
from fractale.schedulers.script import Loss, Script
from fractale.schedulers.translation import translate
from fractale.toolbox import ToolInfo

DEFAULT_TRIES = 4

DIRECTIVES = "directives"
"""`validated_by` of a script that no tool validated. Only its own lines were checked."""

FENCE = re.compile(r"\A\s*```[^\n]*\n(.*?)\n?```\s*\Z", re.DOTALL)

ANSWER: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "script": {"type": "string", "description": "The whole translated script."},
        "notes": {"type": "string", "description": "The points that a person should check."},
        "no_analogue": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Directives that the target has nothing for, each with what is lost.",
        },
    },
    "required": ["script", "notes", "no_analogue"],
    "additionalProperties": False,
}


async def run(ctx: AgentContext, request: AgentRequest) -> AgentAnswer:
    """Translate the script.

    Raises:
        ToolError: The validator was not found.
        TransportError: The connection to the validator's server was lost.
        PolicyError: The requested validator may not be called.
        ModelUnavailable: The model is busy or out of reach.
        LimitReached: A limit of the run is used up.
    """
    task = _task(ctx, request)
    state = Translating(tries=0)
    if task.source == task.target:
        state["jobspec"] = task.script
    after: Translating = await _graph().ainvoke(state, request.config, context=task)
    return _answer(task, after)


def _task(ctx: AgentContext, request: AgentRequest) -> ScriptTask:
    given = request.inputs
    script = str(given["script"])
    source = scheduler_named(str(given.get("source") or "")) or manager_of(script)
    return ScriptTask(
        ctx=ctx,
        script=script,
        source=source,
        target=scheduler_named(str(given["target"])),
        validator=str(given.get("validator") or ""),
        error=str(given.get("error") or ""),
        instruction=request.instruction,
        max_tries=int(given.get("max_tries") or DEFAULT_TRIES),
    )


def _answer(task: ScriptTask, after: Translating) -> AgentAnswer:
    jobspec, faults = after.get("jobspec", ""), after.get("faults", [])
    success = not faults and bool(after.get("validated_by"))
    no_analogue = after.get("no_analogue", [])
    outputs: dict[str, Any] = {
        "success": success,
        "jobspec": jobspec,
        "target": task.target,
        "tries": after.get("tries", 0),
        "validated_by": after.get("validated_by") if success else None,
        "no_analogue": [*no_analogue, *_translation_of(task, after).without_counterpart()],
    }
    for key in ("notes", "warnings"):
        if value := after.get(key):
            outputs[key] = value
    if success:
        return AgentAnswer(outputs=outputs, text=jobspec)
    times = "once" if outputs["tries"] == 1 else f"{outputs['tries']} times"
    error = f"no valid script for {task.target} ({times} tried): {'; '.join(faults)}"
    return AgentAnswer(outputs={**outputs, "error": error}, text=error, error=error)


# -- the graph ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptTask:
    """The script to translate, its managers and its validator.

    Args:
        source: The manager that the script is for; empty if it has no directives.
        validator: The validator that the user named; empty if none.
        error: The earlier error, from outside this agent.
    """

    ctx: AgentContext
    script: str
    source: str
    target: str
    validator: str
    error: str
    instruction: str
    max_tries: int


class Translating(TypedDict, total=False):
    """The agent's state.

    A translation is finished if it has no `faults` and `validated_by` names the check that passed.
    """

    tries: int
    validator: str
    jobspec: str
    no_analogue: list[str]
    notes: str
    faults: list[str]
    validated_by: str
    warnings: list[str]


def _translation_of(task: ScriptTask, state: Translating) -> TranslationState:
    return TranslationState(
        original=task.script,
        script=state.get("jobspec", ""),
        source=task.source,
        target=task.target,
        no_analogue=state.get("no_analogue", []),
    )


def _graph() -> Any:
    builder: Any = StateGraph(Translating, context_schema=ScriptTask)
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


def _after_translation(state: Translating, runtime: Runtime[ScriptTask]) -> str:
    return _again(state, runtime) if state.get("faults") else "check"


def _after_check(state: Translating, runtime: Runtime[ScriptTask]) -> str:
    if state.get("faults"):
        return _again(state, runtime)
    return "validate" if state.get("validator") else END


def _after_validation(state: Translating, runtime: Runtime[ScriptTask]) -> str:
    return _again(state, runtime) if state.get("faults") else END


def _again(state: Translating, runtime: Runtime[ScriptTask]) -> str:
    return "translate" if state.get("tries", 0) < runtime.context.max_tries else END


async def _choose(state: Translating, runtime: Runtime[ScriptTask]) -> Translating:
    """Find the tool that validates scripts."""
    del state
    task = runtime.context
    tool = await _validator(task, task.validator)
    if tool is None and task.target not in NAMES:
        known = ", ".join(NAMES)
        fault = f"it cannot be checked: no tool validates it, and fractale knows only {known}"
        return Translating(faults=[fault])
    return Translating(validator=tool.name if tool else "")


async def _validator(task: ScriptTask, name: str) -> ToolInfo | None:
    """The validator of that name. Without a name, the one that fits best, or None.

    Raises:
        ToolError: No tool has the name, or the tool does not accept a script.
    """
    tools = await task.ctx.tools()
    if not name:
        return find_validator(tools, task.target)
    found = [tool for tool in tools if name in (tool.name, tool.qualified_name)]
    if not found:
        raise ToolError(f"the agent has no tool `{name}` to validate with", hint="see `tools:`")
    if arguments_for(found[0], "", "", "") is None:
        raise ToolError(f"`{name}` expects no script, so it can't validate one")
    return found[0]


async def _translate(state: Translating, runtime: Runtime[ScriptTask]) -> Translating:
    task = runtime.context
    after = Translating(tries=state.get("tries", 0) + 1, validated_by="", faults=[])
    try:
        answer = await task.ctx.ask_model(_messages(task, state), ANSWER)
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
    """A script without the code fence that some models put around it."""
    fenced = FENCE.match(script)
    return (fenced[1] if fenced else script).strip("\r\n") + "\n"


async def _check(state: Translating, runtime: Runtime[ScriptTask]) -> Translating:
    alone = not state.get("validator")
    faults = _translation_of(runtime.context, state).faults(strict=alone)
    return Translating(faults=faults, validated_by=DIRECTIVES if alone and not faults else "")


async def _validate(state: Translating, runtime: Runtime[ScriptTask]) -> Translating:
    task, name = runtime.context, state.get("validator", "")
    tool = await _validator(task, name)
    assert tool is not None  # noqa: S101 - it has a name
    arguments = arguments_for(tool, state.get("jobspec", ""), task.script, task.target) or {}
    try:
        verdict = verdict_of(await task.ctx.call_tool(tool, arguments))
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


def _without_validator(task: ScriptTask, state: Translating, why: str) -> Translating:
    """Check only the script's own lines, since the tool that was found is not usable."""
    if task.target not in NAMES:
        raise ToolError(f"a script for {task.target} cannot be checked: {why}")
    faults = _translation_of(task, state).faults(strict=True)
    return Translating(
        validator="",
        faults=faults,
        validated_by="" if faults else DIRECTIVES,
        warnings=[f"no tool validated it: {why}"],
    )


# -- the request to the model -------------------------------------------------------------------


def _messages(task: ScriptTask, state: Translating) -> list[BaseMessage]:
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
"""The most frequent requests of jobs, by the fields of a `Request`."""


def _options(target: str) -> str:
    """The target's directives for `EXAMPLES`, for a model that does not know them."""
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
    return f"{shown}Its faults; repair them and answer with the whole script:\n{faults}"


# -- whether a script is a translation of another -----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationState:
    """A script and its translation.

    Args:
        source: The manager of the original, from `scheduler_named`; empty if it has none.
        target: The manager of the translation.
        no_analogue: The features that the target cannot express, in the translator's words.
    """

    original: str
    script: str
    source: str
    target: str
    no_analogue: Sequence[str] = ()

    def faults(self, *, strict: bool) -> list[str]:
        """The evidence that the translation is missing or wrong. Empty if it is right.

        Args:
            strict: Whether options that the target does not know count, too. A validator finds them
                better.
        """
        original, translated = self._original(), self._translated()
        found = [*leftovers(original, translated), *compare_commands(original, translated).errors]
        if self.target in NAMES and self.target not in schedulers_of(translated.lines):
            mark = dialect_of(self.target).mark
            missing = f"it has no {mark} line: it is not translated"
            return [missing, *found] if self.source else found
        if self.target not in NAMES:
            return found
        if strict:
            found += [str(each) for each in translated.invalid]
        if not original.scheduler:
            return found
        mentions = [*self.no_analogue, *comments_of(translated)]
        known = [loss for loss in self._losses(original) if not loss.grave]
        differences = compare(original, translated, mentions, known)
        return [*found, *(str(each) for each in differences if not each.minor)]

    def _losses(self, original: Script) -> Sequence[Loss]:
        """The features that the target cannot express, as far as fractale knows."""
        if not original.scheduler or self.target not in NAMES or self.source == self.target:
            return ()
        return translate(original, self.target).losses

    def _original(self) -> Script:
        if self.source not in READ:
            return plain_script(self.original)
        return read_script(self.original, self.source)

    def _translated(self) -> Script:
        if self.target not in NAMES:
            return plain_script(self.script, self.target)
        return read_script(self.script, self.target)

    def without_counterpart(self) -> list[str]:
        """The features that the target cannot express, and that `no_analogue` does not mention."""
        return [
            f"{loss.text or loss.what}: {loss.why}"
            for loss in self._losses(self._original())
            if not self._is_mentioned(loss.text)
        ]

    def _is_mentioned(self, text: str) -> bool:
        flag = text.split("=")[0].split()[:1]
        return bool(flag) and any(flag[0] in each for each in self.no_analogue)


def manager_of(script: str) -> str:
    """The manager of a script's first directive; empty if it has none."""
    return next(iter(schedulers_of(lines_of(script))), "")


INPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "script": {"type": "string", "minLength": 1, "description": "The batch script's text."},
        "target": {
            "type": "string",
            "minLength": 1,
            "description": "The manager to translate it for: flux, slurm, pbs, lsf or another.",
        },
        "source": {
            "type": "string",
            "description": "The manager that it is for; by default that of its first directive.",
        },
        "validator": {
            "type": "string",
            "description": "The tool that validates; by default the one that fits best.",
        },
        "error": {"type": "string", "description": "Why an earlier translation failed."},
        "max_tries": {
            "type": "integer",
            "minimum": 1,
            "maximum": 50,
            "description": f"Translations of the model at most (default {DEFAULT_TRIES}).",
        },
        "instruction": {"type": "string", "description": "Further information for the model."},
    },
    "required": ["script", "target"],
}

OUTPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "success": {"type": "boolean"},
        "jobspec": {"type": "string", "description": "The translated script."},
        "target": {"type": "string"},
        "tries": {"type": "integer", "description": "Translations of the model."},
        "validated_by": {
            "type": ["string", "null"],
            "description": f"The tool, or `{DIRECTIVES}`: only the script's own lines.",
        },
        "no_analogue": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Directives that the target has nothing for.",
        },
        "notes": {"type": "string", "description": "The points that a person should check."},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "error": {"type": "string"},
    },
    "required": ["success", "jobspec", "target", "tries", "validated_by", "no_analogue"],
}

TRANSFORM_JOBSPEC = Subagent(
    name="transform_jobspec",
    description=(
        "Translates a batch script between workload managers (Slurm, Flux, PBS, LSF), validates "
        "and repairs it, and lists what has no analogue."
    ),
    input_schema=INPUTS,
    output_schema=OUTPUTS,
    run=run,
)
