"""List what a plan names, calls and starts, as far as the plan and its inputs show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from fractale.durations import parse_duration
from fractale.plan.model import JobPlan, Plan, Step, Template
from fractale.plan.needs import experts_of
from fractale.schedulers.environment import launchers

Values: TypeAlias = "Mapping[str, Any]"
"""The inputs of a plan by name; `UNKNOWN` for values that only the run can determine."""

INPUT = re.compile(r"\{\{\s*inputs\.(\w+)\s*\}\}")
TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
ANY_WORD = "{unknown}"
"""Placeholder in a script for a word that only the run can determine."""


SHELL = """
    . : [ [[ ! { } ( alias bg break builtin exam cd command continue declare do done echo elif else
    esac eval exit export false fg fi for function getopts hash if jobs kill let local logout printf
    pwd read readonly return select set shift test then times trap true type typeset ulimit umask
    unalias unset until wait while
"""
BUILT_IN = frozenset(SHELL.split())
"""Shell builtins and the keywords of constructs: the words after them are ignored."""

PASSES_ON = frozenset({"exec", "env", "nohup", "time", "command"})
PROVIDES = frozenset({"module", "ml", "spack", "conda", "micromamba", "source", "."})
"""Commands that change the PATH: after them, the script's programs are unknown."""

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
FIGURE = re.compile(r"\d+|\{\w+\}")
PLAIN = re.compile(r"[\w./+@~-]+")


class Unknown:
    """A value that only the run can determine."""


UNKNOWN: Final = Unknown()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCall:
    """A tool call in a plan.

    Args:
        arguments: `UNKNOWN` for values that only the run can determine.
    """

    step: str
    tool: str
    arguments: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """A job step, with the known part of its scheduler and queue.

    Args:
        script: Its script or command, with the inputs filled in.
    """

    step: str
    job: JobPlan
    script: str = ""


def inputs_of(plan: Plan, given: Values) -> dict[str, Any]:
    """A plan's inputs: the given values, otherwise the defaults."""
    named = {name: spec.default for name, spec in plan.inputs.items() if not spec.secret}
    return {**named, **{name: given[name] for name in named if name in given}}


def settled(value: Any, inputs: Values) -> Any:
    """A value as the run will see it; `UNKNOWN` if it does not depend on the inputs alone."""
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
    """The text of a script, with a placeholder for words that only the run can determine."""
    if isinstance(value, Template):
        return TEMPLATE.sub(ANY_WORD, _with_inputs(value.source, inputs))
    return value if isinstance(value, str) else ""


def steps_of(plan: Plan, given: Values, prefix: str = "") -> Iterator[tuple[str, Step, Values]]:
    """Yield the steps of a plan and of its included plans, each with its plan's inputs.

    Yields:
        The step's name, the step, and the inputs that its templates refer to.
    """
    inputs = inputs_of(plan, given)
    for step in plan.walk():
        yield f"{prefix}{step.name}", step, inputs
        if step.plan is not None:
            inner = {name: settled(value, inputs) for name, value in step.inputs.items()}
            yield from steps_of(step.plan, inner, f"{prefix}{step.name}/")


def calls_of(plan: Plan, given: Values) -> list[PlanCall]:
    """The tool calls in a plan, with their arguments."""
    calls: list[PlanCall] = []
    for name, step, inputs in steps_of(plan, given):
        if step.kind == "tool" and step.target:
            calls.append(_call(name, step.target, step.inputs, inputs))
        # `optimize` calls a tool with arguments from the plan.
        tool, arguments = step.inputs.get("tool"), step.inputs.get("arguments")
        if step.kind == "agent" and isinstance(tool, str) and isinstance(arguments, Mapping):
            calls.append(_call(name, tool, cast("Mapping[str, Any]", arguments), inputs))
    return calls


def _call(step: str, tool: str, arguments: Mapping[str, Any], inputs: Values) -> PlanCall:
    known = {key: settled(value, inputs) for key, value in arguments.items()}
    if "script" in arguments:
        known["script"] = script_of(arguments["script"], inputs)
    return PlanCall(step=step, tool=tool, arguments=known)


def jobs_of(plan: Plan, given: Values) -> list[PlannedJob]:
    """Find the job steps of a plan."""
    return [
        PlannedJob(
            step=name, job=_settled_job(step.job, inputs), script=_job_script(step.job, inputs)
        )
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


# -- names of tools, prompts and agents ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedTargets:
    """The names in a plan, and the steps that use them.

    Args:
        names: Tool, prompt or agent → the steps that call it or let a model call it.
        free: Steps whose model may call any tool.
        calls: Tool calls with their arguments.
    """

    names: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    free: list[str] = field(default_factory=list[str])
    calls: list[PlanCall] = field(default_factory=list[PlanCall])

    def arguments(self, tools: Collection[str], name: str) -> list[Any]:
        """The values of one argument in calls of some tools; None if a call omits it."""
        names = {form for tool in tools for form in (tool, f"local.{tool}")}
        return [call.arguments.get(name) for call in self.calls if call.tool in names]


def named_by(plan: Plan | None, inputs: Mapping[str, Any] | None = None) -> NamedTargets:
    """Collect the names in a plan and in its included plans.

    Args:
        inputs: The plan's inputs, as far as they are known.
    """
    if plan is None:
        return NamedTargets()
    found = NamedTargets(calls=calls_of(plan, inputs or {}))
    _add(plan, "", found)
    return found


def _add(plan: Plan, prefix: str, found: NamedTargets, own: frozenset[str] = frozenset()) -> None:
    """Add the names of a plan; `own` are agents that the plans around it write themselves."""
    own = own | experts_of(plan)
    for expert in plan.experts:
        for target in expert.tools or ():
            if target not in own:
                found.names.setdefault(target, []).append(f"{prefix}{expert.name}")
    for step in plan.walk():
        name = f"{prefix}{step.name}"
        for target in _targets(step):
            if target not in own:
                found.names.setdefault(target, []).append(name)
        if step.kind in ("agent", "plan") and step.tools is None and step.plan is None:
            found.free.append(name)
        if step.plan is not None:
            _add(step.plan, f"{name}/", found, own)


def _targets(step: Step) -> list[str]:
    """Names and globs that a step calls."""
    own = [step.target] if step.target and step.kind in ("tool", "prompt", "agent") else []
    return [*own, *(step.tools or ())]


# -- programs of scripts ------------------------------------------------------------------------


def programs_of(script: str) -> list[str]:
    """The programs that a script starts by name, in their order in the script.

    Args:
        script: For sh or bash; scripts in other languages yield no programs.
    """
    lines = script.replace("\\\n", " ").splitlines()
    if lines and lines[0].startswith("#!") and not re.search(r"\b(ba|da|z|k)?sh\b", lines[0]):
        return []
    found: dict[str, None] = {}
    defined = set(re.findall(r"^\s*(?:function\s+)?(\w+)\s*\(\)", script, re.MULTILINE))
    for words in _commands(lines):
        if words[0] in PROVIDES:
            break
        found.update(dict.fromkeys(_started(words)))
        if "<<" in " ".join(words):
            break
    # An earlier step may put a program into the job's directory.
    return [name for name in found if name not in defined and name.find("/") < 1]


def _commands(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of each line, as a shell splits them."""
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that spans several lines: the rest can't be parsed
            return
        if words:
            yield words


def _started(words: Sequence[str]) -> Iterator[str]:
    """Yield the program of a command, and the program that it starts in turn."""
    rest = [*words]
    while rest and (rest[0] in PASSES_ON or ASSIGNMENT.match(rest[0])):
        rest = rest[1:]
    if not rest or rest[0] in BUILT_IN or not PLAIN.fullmatch(rest[0]):
        return
    yield rest[0]
    if Path(rest[0]).name in launchers() and (own := _launched(rest[1:])):
        yield own


def _launched(words: Sequence[str]) -> str:
    """The program after a launcher's options; empty if an option may have a separate value."""
    left = [*words]
    while left and left[0].startswith("-"):
        if "=" not in left[0]:
            if len(left) < 2 or not FIGURE.fullmatch(left[1]):
                return ""
            left = left[1:]
        left = left[1:]
    return left[0] if left and PLAIN.fullmatch(left[0]) else ""
