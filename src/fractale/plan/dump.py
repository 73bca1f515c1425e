"""A `Plan` → YAML text that reads as the same plan.

Comments and the order of keys are lost, since a plan does not store them. A step that includes a
file is written with the path of that file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from fractale.plan.forms import Inline, part_data
from fractale.plan.kinds import KINDS
from fractale.plan.model import STEP_KEYS, inherited_instruction
from fractale.plan.node import is_text

if TYPE_CHECKING:
    from fractale.plan.model import Plan, Step

    _LibYaml = yaml.SafeDumper
else:
    _LibYaml = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_WIDTH = 100
# YAML reads these as ends of a line, so only an escape preserves them.
_BREAKS = re.compile("[\r\x85\u2028\u2029]")


def dump_plan(plan: Plan) -> str:
    """Write a plan as YAML that `parse_plan` reads as an equal plan."""
    return dump_data(plan_data(plan))


def dump_plan_fast(plan: Plan) -> str:
    """Write a plan like `dump_plan`, in a layout of less care and by LibYAML where it is there.

    For the copy in a run's record: each run writes one, and programs read it.
    """
    return yaml.dump(
        plan_data(plan), Dumper=_FastDumper, sort_keys=False, allow_unicode=True, width=_WIDTH
    )


def dump_data(data: Any, *, width: int = _WIDTH) -> str:
    """Write plain JSON data as YAML that fractale reads as the same data.

    Args:
        width: The columns of a line of which more are broken.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)


def plan_data(plan: Plan) -> dict[str, Any]:
    """A plan as the plain data of its file.

    The order of the keys is part of the record: digests of plans and of steps depend on it.
    """
    data = part_data(plan)
    data["steps"] = [step_data(step) for step in plan.steps]
    for name, steps in (("on_failure", plan.on_failure), ("finally", plan.finally_)):
        if steps:
            data[name] = [step_data(step) for step in steps]
    return data


def step_data(step: Step) -> dict[str, Any]:
    """A step as the plain data of its mapping."""
    data = part_data(step)
    del data["type"]
    data |= KINDS[step.kind].data(step)
    if step.tools == ():
        del data["tools"]
        data["allow_tools"] = False
    # A step with a target has always been written with its instruction: digests depend on it.
    if not step.target and step.instruction == inherited_instruction(step.kind, None, step.inputs):
        data.pop("instruction", None)
    if step.foreach and step.foreach.max_parallel:
        data["max_parallel"] = step.foreach.max_parallel
    if step.steps:
        data["parallel"] = [step_data(inner) for inner in step.steps]
    if step.chain:
        data["steps"] = [step_data(inner) for inner in step.chain.steps]
    return {key: data[key] for key in STEP_KEYS if key in data}


class _Dumper(yaml.SafeDumper):
    """Writes lists indented, long texts as blocks, and quotes texts that YAML would misread."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


class _FastDumper(_LibYaml):
    """Writes the same values; LibYAML decides on the indentation of lists."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=_style(text))


def _style(text: str) -> str | None:
    if _BREAKS.search(text) or not is_text(text):
        return '"'
    return "|" if "\n" in text else None


def _write_short(dumper: yaml.SafeDumper, items: Inline) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


for _each in (_Dumper, _FastDumper):
    _each.add_representer(str, _write_text)
    _each.add_representer(Inline, _write_short)
