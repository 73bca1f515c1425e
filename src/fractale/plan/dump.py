"""A `Plan` → the YAML text that reads as the same plan.

Comments and the order of keys are not kept: a plan does not know them. A step that includes a
file is written with the path of that file.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from fractale.durations import format_duration
from fractale.plan.model import Expression, Figure, Template
from fractale.plan.scalars import is_text
from fractale.plan.specs import is_input_spec
from fractale.plan.steps import inherited_instruction
from fractale.plan.words import JOB_KEYS

if TYPE_CHECKING:
    from fractale.plan.model import (
        ForEach,
        InputSpec,
        JobPlan,
        Limits,
        Plan,
        Retry,
        Step,
        Value,
    )

_Items: TypeAlias = "Expression | tuple[Any, ...]"

_WIDTH = 100
# Read as ends of a line, so that only an escape keeps them.
_BREAKS = re.compile("[\r\x85\u2028\u2029]")


def dump_plan(plan: Plan) -> str:
    """Write a plan as YAML.

    Args:
        plan: A plan as `fractale.plan.build` makes them.

    Returns:
        Text that `parse_plan` reads as an equal plan.
    """
    return dump_data(plan_data(plan))


def dump_data(data: Any) -> str:
    """Write plain JSON data as YAML that fractale reads as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


def plan_data(plan: Plan) -> dict[str, Any]:
    """A plan as the plain data of its file.

    Args:
        plan: The plan.
    """
    data: dict[str, Any] = {
        "name": plan.name,
        "description": plan.description or None,
        "inputs": {name: _input(spec) for name, spec in plan.inputs.items()} or None,
        "agents": [{"path": a.path, "name": a.name} if a.name else a.path for a in plan.agents]
        or None,
        "servers": None if plan.servers is None else _Short(plan.servers),
        "limits": _limits(plan.limits) or None,
        "steps": [step_data(step) for step in plan.steps],
        "outputs": {key: _value(value) for key, value in plan.outputs.items()} or None,
    }
    return _given(data)


def step_data(step: Step) -> dict[str, Any]:
    """A step as the plain data of its file.

    Args:
        step: The step.
    """
    inherited = inherited_instruction(step.kind, step.target, step.inputs)
    data: dict[str, Any] = {
        "name": step.name,
        **_kind(step),
        "description": step.description or None,
        "instruction": None if step.instruction == inherited else _text(step.instruction),
        "inputs": {key: _value(value) for key, value in step.inputs.items()} or None,
        "tools": _Short(step.tools) if step.tools else None,
        "allow_tools": False if step.tools == () else None,
        "when": step.when.source if step.when else None,
        **(_foreach(step.foreach) if step.foreach else {}),
        "parallel": [step_data(inner) for inner in step.steps] or None,
        "keep_going": step.keep_going or None,
        "rules": _rules(step) or None,
        "transitions": dict(step.transitions) or None,
        "retry": _retry(step.retry) if step.retry else None,
        "timeout": None if step.timeout is None else format_duration(step.timeout),
        "max_attempts": step.max_attempts,
        "approve": step.approve,
        "output_schema": None if step.output_schema is None else dict(step.output_schema),
        "judge": step.judge or None,
        "model": step.model,
        "persist": step.persist or None,
    }
    return _given(data)


def _given(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}


def _kind(step: Step) -> dict[str, Any]:
    if step.kind == "parallel":
        return {}
    if step.job:
        return {"job": job_data(step.job)}
    return {step.kind: step.target} if step.target else {"type": step.kind}


def job_data(job: JobPlan) -> dict[str, Any]:
    """A job as the plain data of its file."""
    data = {key: _value(value) for key, value in job.values().items()}
    if isinstance(job.time, (int, float)):
        data["time"] = format_duration(job.time)
    if "command" in data:
        data["command"] = _Short(data["command"])
    if job.outputs:
        data["outputs"] = {name: _figure(figure) for name, figure in job.outputs.items()}
    return {key: data[key] for key in JOB_KEYS if key in data}


def _figure(figure: Figure) -> Any:
    """The short form (the pattern alone) where it says it all."""
    given, usual = asdict(figure), asdict(Figure(pattern=figure.pattern))
    more = {key: value for key, value in given.items() if value != usual[key]}
    return {"pattern": figure.pattern, **more} if more else figure.pattern


def _text(text: str | Template | None) -> str | None:
    return text.source if isinstance(text, Template) else text


def _value(value: Value) -> Any:
    if isinstance(value, dict):
        return {key: _value(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_value(child) for child in value]
    return value.source if isinstance(value, Template) else value


def _foreach(foreach: ForEach) -> dict[str, Any]:
    items = foreach.items
    if isinstance(items, (Expression, tuple)):
        written = _items(items)
    else:
        written = {key: _items(axis) for key, axis in items.items()}
    return {"foreach": written, "max_parallel": foreach.max_parallel}


def _items(items: _Items) -> Any:
    return items.source if isinstance(items, Expression) else _Short(items)


def _rules(step: Step) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {}
    for rule in step.rules:
        rules.setdefault(rule.event, _Short()).append(rule.expression.source)
    return rules


def _retry(retry: Retry) -> dict[str, Any]:
    return {
        "attempts": retry.attempts,
        "delay": format_duration(retry.delay),
        "backoff": retry.backoff,
        "max_delay": format_duration(retry.max_delay),
    }


def _limits(limits: Limits) -> dict[str, Any]:
    time = None if limits.time is None else format_duration(limits.time)
    return _given({**asdict(limits), "time": time})


def _input(spec: InputSpec) -> Any:
    """The short form (the default alone) where it says it all."""
    described = _given(
        {
            "type": spec.type,
            "description": spec.description or None,
            "enum": None if spec.enum is None else _Short(spec.enum),
            "minimum": spec.minimum,
            "maximum": spec.maximum,
            "secret": spec.secret or None,
        }
    )
    if spec.required:
        return {**described, "required": True}
    if not described and not is_input_spec(spec.default):
        return spec.default
    absent = {"required": False} if spec.secret else {"default": spec.default}
    return {**described, **absent}


class _Short(list[Any]):
    """A list to be written in brackets, on one line if it fits."""


class _Dumper(yaml.SafeDumper):
    """Writes lists indented, long texts as blocks, and quotes what would not read as text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=_style(text))


def _style(text: str) -> str | None:
    if _BREAKS.search(text) or not is_text(text):
        return '"'
    return "|" if "\n" in text else None


def _write_short(dumper: yaml.SafeDumper, items: _Short) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


_Dumper.add_representer(str, _write_text)
_Dumper.add_representer(_Short, _write_short)
