"""What a graph of the development server stands for: where the plan of a new run comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from fractale.errors import UsageError
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.model import InputSpec, Plan
from fractale.runs.one_step import (
    GENERALIST,
    WORDS,
    Expert,
    find_agent,
    find_prompt,
    is_small,
    keep_plan,
    one_step_plan,
)

if TYPE_CHECKING:
    from fractale.runs.workspace import Workspace

PLAN, INPUTS, RUN = "plan", "inputs", "run"
NO_PLAN = """\
name: any plan
description: Name a plan in the assistant's context, or in the input.
steps:
  - {name: plan, type: plan, instruction: Name a plan.}
"""

Schema = dict[str, Any]
SHOWN: Mapping[str, Schema] = {
    RUN: {"type": "string", "description": "The run whose plan and drafts are drawn."}
}


class Source(Protocol):
    """Where the plan of a new run comes from."""

    def shown(self, context: Mapping[str, Any]) -> Plan:
        """The plan to draw where there is no run.

        Args:
            context: What the assistant was given.

        Raises:
            PlanError: The plan is invalid.
        """
        ...

    def input_schema(self, plan: Plan) -> Schema:
        """JSON Schema of what a run is started with."""
        ...

    def context_schema(self) -> Schema:
        """JSON Schema of what an assistant is given."""
        ...

    def opened_for(self, given: Mapping[str, Any], context: Mapping[str, Any]) -> Plan | None:
        """The plan whose servers and sub-agents a run needs, if it is known before these are open.

        Raises:
            PlanError: The plan is invalid.
            UsageError: No plan is named.
        """
        ...

    async def plan(
        self,
        given: Mapping[str, Any],
        opened: Plan | None,
        workspace: Workspace,
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan of a run, and the plan's inputs.

        Args:
            given: The run's input.
            opened: What `opened_for` gave.

        Raises:
            UsageError: What was given can't be run.
        """
        ...


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One plan, from its file; a run's input is the plan's inputs."""

    path: Path

    def shown(self, context: Mapping[str, Any]) -> Plan:
        """The plan as its file is today."""
        del context
        return load_plan(self.path)

    def input_schema(self, plan: Plan) -> Schema:
        """The plan's inputs."""
        return schema_of_inputs(plan)

    def context_schema(self) -> Schema:
        """A run to draw."""
        return _object(SHOWN)

    def opened_for(self, given: Mapping[str, Any], context: Mapping[str, Any]) -> Plan:
        """The plan as its file is today."""
        del given
        return self.shown(context)

    async def plan(
        self,
        given: Mapping[str, Any],
        opened: Plan | None,
        workspace: Workspace,
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan, and its inputs as they are given."""
        del workspace
        return opened or load_plan(self.path), dict(given)


@dataclass(frozen=True, slots=True)
class AnyPlan:
    """The plan that an assistant's context or a run's input names: a path, or YAML text."""

    def shown(self, context: Mapping[str, Any]) -> Plan:
        """The plan of the context; without one, a plan that says so."""
        named = context.get(PLAN)
        return read_plan(str(named)) if named else parse_plan(NO_PLAN, "any plan")

    def input_schema(self, plan: Plan) -> Schema:
        """A plan, and its inputs."""
        known = schema_of_inputs(plan)
        inputs = known if known["properties"] else {"type": "object", "title": "Inputs"}
        words = "A plan's path, or its YAML text; not needed where the assistant names one."
        return _object({PLAN: {"type": "string", "description": words}, INPUTS: inputs})

    def context_schema(self) -> Schema:
        """A plan, or a run to draw."""
        words = "A plan's path, or its YAML text."
        return _object({PLAN: {"type": "string", "description": words}, **SHOWN})

    def opened_for(self, given: Mapping[str, Any], context: Mapping[str, Any]) -> Plan:
        """The plan that the input names, else that of the context."""
        named = given.get(PLAN) or context.get(PLAN)
        if not named:
            raise UsageError(
                "no plan is named",
                hint="give one in the assistant's context, or as `plan` in the input",
            )
        return read_plan(str(named))

    async def plan(
        self,
        given: Mapping[str, Any],
        opened: Plan | None,
        workspace: Workspace,
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan, and what the input has for it under `inputs`."""
        del workspace
        assert opened is not None  # noqa: S101 - it was named
        return opened, _inputs_in(given, {PLAN, INPUTS})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question in words, as ``fractale prompt`` and ``fractale agent`` ask it."""

    def shown(self, context: Mapping[str, Any]) -> Plan:
        """The steps that do what is asked: at once, or planned if the generalist hands over."""
        del context
        import yaml

        data = one_step_plan(Expert(kind="agent", name=GENERALIST), "…", {}, direct=False)
        return parse_plan(yaml.safe_dump(data, allow_unicode=True), "prompt")

    def input_schema(self, plan: Plan) -> Schema:
        """Words, and whom to ask."""
        del plan
        told = {
            WORDS: ("string", "What to do."),
            "agent": ("string", "Whom to ask: a sub-agent. Left out: the generalist."),
            "prompt": ("string", "Whom to ask: a server's prompt."),
            "direct": ("boolean", "Ask at once, without the planner."),
            INPUTS: ("object", "What else it is given."),
        }
        fields = {name: {"type": kind, "description": text} for name, (kind, text) in told.items()}
        return {**_object(fields), "required": [WORDS]}

    def context_schema(self) -> Schema:
        """A run to draw."""
        return _object(SHOWN)

    def opened_for(self, given: Mapping[str, Any], context: Mapping[str, Any]) -> Plan | None:
        """None: all of the settings' servers may be needed to plan."""
        del given, context

    async def plan(
        self,
        given: Mapping[str, Any],
        opened: Plan | None,
        workspace: Workspace,
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan of one step that asks."""
        del opened
        words = str(given.get(WORDS) or "")
        inputs = _inputs_in(given, {WORDS, "agent", "prompt", "direct", INPUTS})
        expert = await _expert(given, workspace)
        direct, small = bool(given.get("direct")), is_small(workspace.settings.model_spec)
        data = one_step_plan(expert, words, inputs, direct=direct, small=small)
        plan = load_plan(keep_plan(data, workspace.settings.state_dir))
        return plan, {**inputs, WORDS: words} if words else inputs


async def _expert(given: Mapping[str, Any], workspace: Workspace) -> Expert:
    name = given.get("prompt")
    if not name:
        name = str(given.get("agent") or GENERALIST)
        return await find_agent(name, workspace.toolbox, workspace.agents)
    found = await find_prompt(str(name), workspace.toolbox)
    if found is None:
        raise UsageError(f"no server has a prompt `{name}`", hint="see `fractale list prompts`")
    return found


def read_plan(named: str) -> Plan:
    """A plan from its path, or from YAML text (text has a newline in it).

    Raises:
        PlanError: The plan is invalid, or there is none.
    """
    return parse_plan(named) if "\n" in named else load_plan(named)


def schema_of_inputs(plan: Plan) -> Schema:
    """JSON Schema of the plan's inputs; secret ones come from the environment only."""
    specs = [spec for spec in plan.inputs.values() if not spec.secret]
    schema = _object({spec.name: _schema_of(spec) for spec in specs})
    return {**schema, "required": [spec.name for spec in specs if spec.required]}


def _schema_of(spec: InputSpec) -> Schema:
    known: Schema = {"title": spec.name}
    values = {
        "type": spec.type,
        "description": spec.description or None,
        "enum": list(spec.enum) if spec.enum else None,
        "default": spec.default,
        "minimum": spec.minimum,
        "maximum": spec.maximum,
    }
    return known | {key: value for key, value in values.items() if value is not None}


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"title": "Input", "type": "object", "properties": dict(properties)}


def _inputs_in(given: Mapping[str, Any], own: set[str]) -> dict[str, Any]:
    inputs: Any = given.get(INPUTS) or {}
    strange = sorted(set(given) - own)
    if not isinstance(inputs, Mapping) or strange:
        what = f"`{strange[0]}`" if strange else f"`{INPUTS}` that is no mapping"
        raise UsageError(f"the input has {what}", hint=f"it takes: {', '.join(sorted(own))}")
    return dict(cast("Mapping[str, Any]", inputs))
