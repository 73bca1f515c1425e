"""What a drafted plan may use, as the manager is told it and as a draft is held against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fractale.agents.draft_schema import draft_schema, kind_of
from fractale.agents.subagent import Subagent
from fractale.errors import PlanError, Problem
from fractale.plan.build import parse_plan
from fractale.plan.check import check_against_tools, check_plan
from fractale.plan.dump import dump_data
from fractale.plan.model import Plan, Step
from fractale.toolbox import PromptInfo, ResourceInfo, ToolInfo

MOST_STEPS = 50
SHORT = 200
KEYS = ("description", "steps", "outputs", "limits")
"""What a draft may say; its name and inputs are those of the step that it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """What a step that is planned may use.

    Args:
        inputs: The names of the step's inputs, which the draft sees as `inputs.NAME`.
        expert: The one agent or prompt that the draft is to ask, and its name; None: as it likes.
        may_nest: Whether a drafted step may be planned in its turn.
        most_steps: How many steps a draft may have.
        plain: Whether the model is small: then its drafts are plain calls, one after another.
    """

    tools: Sequence[ToolInfo] = ()
    prompts: Sequence[PromptInfo] = ()
    agents: Sequence[Subagent | ToolInfo] = ()
    resources: Sequence[ResourceInfo] = ()
    inputs: Sequence[str] = ()
    expert: tuple[str, str] | None = None
    may_nest: bool = False
    most_steps: int = MOST_STEPS
    plain: bool = False

    def as_text(self) -> str:
        """The catalogue that the model is shown."""
        blocks = [
            ("Tools", [_tool_line(tool) for tool in self.tools]),
            ("Prompts", [_prompt_line(prompt) for prompt in self.prompts]),
            ("Sub-agents", [_tool_line(agent) for agent in self.agents]),
            ("Resources", [f"{r.uri}: {_clip(r.description or r.name)}" for r in self.resources]),
            ("Inputs, seen as {{ inputs.NAME }}", list(self.inputs)),
        ]
        return "\n\n".join(
            f"{title}:\n" + "\n".join(f"- {line}" for line in lines)
            for title, lines in blocks
            if lines
        )

    def schema(self) -> dict[str, Any]:
        """JSON Schema of a draft."""
        return draft_schema(self)

    def read(self, name: str, data: Any) -> tuple[Plan, str]:
        """A draft as a plan, and its text.

        Args:
            name: Of the step that it stands for.
            data: JSON of the draft: its `KEYS`.

        Raises:
            PlanError: Everything that is wrong with it.
        """
        if not isinstance(data, Mapping):
            raise PlanError([Problem("not-a-draft", "a draft is a mapping with `steps`")])
        draft: dict[str, Any] = {str(key): value for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a model's words
        inputs = {key: {"required": True} for key in self.inputs}
        known = {key: draft[key] for key in KEYS if draft.get(key)}
        text = dump_data({"name": name, **({"inputs": inputs} if inputs else {}), **known})
        plan = parse_plan(text, f"draft of {name}")
        problems = [*self._problems(plan, draft), *self._checked(plan)]
        if faults := [problem for problem in problems if problem.severity == "error"]:
            raise PlanError(faults, plan)
        return plan, text

    def _checked(self, plan: Plan) -> list[Problem]:
        found = check_plan(plan)
        if any(problem.severity == "error" for problem in found):
            return found
        tools = {
            name: {"input_schema": tool.input_schema, "output_schema": tool.output_schema}
            for tool in self.tools
            for name in (tool.name, tool.qualified_name)
        }
        prompts = {p.name: {"arguments": list(p.arguments)} for p in self.prompts}
        agents = {
            agent.name: {"input_schema": agent.input_schema, "output_schema": agent.output_schema}
            for agent in self.agents
        }
        return [*found, *check_against_tools(plan, tools, prompts, agents)]

    def _problems(self, plan: Plan, draft: Mapping[str, Any]) -> Iterator[Problem]:
        for key in draft:
            if key not in (*KEYS, "name", "inputs"):
                yield Problem("draft-key", f"a draft has no `{key}`; it has {', '.join(KEYS)}")
        steps = list(plan.walk())
        if len(steps) > self.most_steps:
            yield Problem("draft-too-long", f"{len(steps)} steps; at most {self.most_steps}")
        for step in steps:
            yield from self._step_problems(step)

    def _step_problems(self, step: Step) -> Iterator[Problem]:
        if step.approve == "never":
            message = f"`{step.name}`: a draft can't say `approve: never`"
            yield Problem("draft-approve", message, step.where("approve"))
        if step.kind == "job" and not any(tool.name == "job_submit" for tool in self.tools):
            message = f"`{step.name}`: a draft can submit a job only where it has the tool for it"
            yield Problem("draft-job", message, step.position)
        if step.kind == "plan" and not self.may_nest:
            message = f"`{step.name}`: plans may not nest so deep; write its steps out"
            yield Problem("draft-too-deep", message, step.position)
        if step.kind == "agent" and step.target is None and not self._asks_anyone:
            message = f"`{step.name}`: name one of the sub-agents that there are"
            yield Problem("draft-agent", message, step.position)
        if self.expert and (step.kind, step.target) != self.expert:
            kind, name = self.expert
            message = f"`{step.name}`: the one step is to be `{kind}: {name}`"
            yield Problem("draft-expert", message, step.position)

    @property
    def _asks_anyone(self) -> bool:
        return any(agent.name == "ask" for agent in self.agents)


def _tool_line(tool: ToolInfo | Subagent) -> str:
    takes: Mapping[str, Any] = tool.input_schema.get("properties", {})
    arguments = json.dumps({name: kind_of(schema) for name, schema in takes.items()})
    reads = isinstance(tool, ToolInfo) and tool.annotations.get("readOnlyHint") is True
    return f"{tool.name} {arguments}: {_clip(tool.description)}{' (only reads)' if reads else ''}"


def _prompt_line(prompt: PromptInfo) -> str:
    arguments = ", ".join(str(argument["name"]) for argument in prompt.arguments)
    return f"{prompt.name}({arguments}): {_clip(prompt.description)}"


def _clip(text: str) -> str:
    first = " ".join(text.split())
    return first if len(first) <= SHORT else f"{first[:SHORT]}…"
