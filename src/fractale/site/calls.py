"""What a plan calls, as far as that is settled before it runs: by what it says, and its inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

from fractale.durations import parse_duration
from fractale.plan.model import JobPlan, Plan, Step, Template

Values: TypeAlias = "Mapping[str, Any]"
"""The inputs of a plan by name; `UNKNOWN` where only the run will tell."""

INPUT = re.compile(r"\{\{\s*inputs\.(\w+)\s*\}\}")
TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
ANY_WORD = "{unknown}"
"""Stands in a script for what only the run will tell."""


class Unknown:
    """What only the run will tell."""


UNKNOWN: Final = Unknown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a tool that stands in a plan.

    Args:
        arguments: `UNKNOWN` where only the run will tell.
    """

    step: str
    tool: str
    arguments: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job step, with what is settled of where it goes.

    Args:
        script: Its script, or its command, with the inputs in their places.
    """

    step: str
    job: JobPlan
    script: str = ""


def inputs_of(plan: Plan, given: Values) -> dict[str, Any]:
    """A plan's inputs: what was given, else the defaults."""
    named = {name: spec.default for name, spec in plan.inputs.items() if not spec.secret}
    return {**named, **{name: given[name] for name in named if name in given}}


def settled(value: Any, inputs: Values) -> Any:
    """A value as it will be in a run; `UNKNOWN` where the inputs alone do not tell."""
    if not isinstance(value, Template):
        return value
    if whole := INPUT.fullmatch(value.source.strip()):
        return inputs.get(whole[1], UNKNOWN)
    text = _with_inputs(value.source, inputs)
    return UNKNOWN if TEMPLATE.search(text) else text


def _with_inputs(source: str, inputs: Values) -> str:
    def put(found: re.Match[str]) -> str:
        value = inputs.get(found[1], UNKNOWN)
        return found[0] if isinstance(value, Unknown) else "" if value is None else str(value)

    return INPUT.sub(put, source)


def script_of(value: Any, inputs: Values) -> str:
    """The text of a script, in which a word stands for what only the run will tell."""
    if isinstance(value, Template):
        return TEMPLATE.sub(ANY_WORD, _with_inputs(value.source, inputs))
    return value if isinstance(value, str) else ""


def steps_of(plan: Plan, given: Values, prefix: str = "") -> Iterator[tuple[str, Step, Values]]:
    """The steps of a plan and of the plans that it includes, each with its plan's inputs.

    Yields:
        The step's name, the step, and the inputs that its templates speak of.
    """
    inputs = inputs_of(plan, given)
    for step in plan.walk():
        yield f"{prefix}{step.name}", step, inputs
        if step.plan is not None:
            inner = {name: settled(value, inputs) for name, value in step.inputs.items()}
            yield from steps_of(step.plan, inner, f"{prefix}{step.name}/")


def calls_of(plan: Plan, given: Values) -> list[Call]:
    """The calls of tools that stand in a plan with their arguments."""
    calls: list[Call] = []
    for name, step, inputs in steps_of(plan, given):
        if step.kind == "tool" and step.target:
            calls.append(_call(name, step.target, step.inputs, inputs))
        # `optimize` calls a tool with arguments that stand in the plan.
        tool, arguments = step.inputs.get("tool"), step.inputs.get("arguments")
        if step.kind == "agent" and isinstance(tool, str) and isinstance(arguments, Mapping):
            calls.append(_call(name, tool, cast("Mapping[str, Any]", arguments), inputs))
    return calls


def _call(step: str, tool: str, arguments: Mapping[str, Any], inputs: Values) -> Call:
    known = {key: settled(value, inputs) for key, value in arguments.items()}
    if "script" in arguments:
        known["script"] = script_of(arguments["script"], inputs)
    return Call(step=step, tool=tool, arguments=known)


def jobs_of(plan: Plan, given: Values) -> list[Job]:
    """The job steps of a plan."""
    return [
        Job(step=name, job=_settled_job(step.job, inputs), script=_job_script(step.job, inputs))
        for name, step, inputs in steps_of(plan, given)
        if step.job is not None
    ]


def _settled_job(job: JobPlan, inputs: Values) -> JobPlan:
    known = {name: settled(getattr(job, name), inputs) for name in ("scheduler", "queue", "time")}
    if isinstance(known["time"], str):
        known["time"] = _seconds(known["time"])
    return replace(job, **{k: v for k, v in known.items() if not isinstance(v, Unknown)})


def _seconds(text: str) -> float | Unknown:
    try:
        return parse_duration(text)
    except ValueError:
        return UNKNOWN


def _job_script(job: JobPlan, inputs: Values) -> str:
    if job.script is not None:
        return script_of(job.script, inputs)
    words = [script_of(word, inputs) for word in job.command]
    return " ".join(words)
