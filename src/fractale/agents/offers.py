"""What a drafted plan may use, as the planner is shown it and as a draft is checked against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fractale.agents.arguments import faults_of_given
from fractale.agents.draft_schema import NOT_AS_INPUT, draft_schema
from fractale.agents.signatures import prompt_signature, signature
from fractale.agents.subagent import Subagent
from fractale.errors import PlanError, Problem
from fractale.plan.build import parse_plan
from fractale.plan.check import check_against_tools, check_plan
from fractale.plan.dump import dump_data
from fractale.plan.model import Plan, Step
from fractale.plan.scope import has_template
from fractale.plan.words import GENERAL_AGENTS, KNOWN
from fractale.text import clip
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

    @property
    def may_submit(self) -> bool:
        """Whether a draft may have jobs."""
        return any(tool.name == "job_submit" for tool in self.tools)

    @property
    def expert_takes(self) -> Mapping[str, Any]:
        """JSON Schema of what the expert takes."""
        kind, name = self.expert or ("", "")
        if kind == "agent":
            return next((a.input_schema for a in self.agents if a.name == name), dict[str, Any]())
        arguments = [a for p in self.prompts if p.name == name for a in p.arguments]
        return {
            "type": "object",
            "properties": {
                str(a["name"]): {"type": "string", "description": a.get("description") or ""}
                for a in arguments
            },
            "required": [str(a["name"]) for a in arguments if a.get("required")],
        }

    @property
    def expert_takes_words(self) -> bool:
        """Whether the expert can be given an instruction beside its inputs."""
        _, name = self.expert or ("", "")
        served = [a for a in self.agents if a.name == name and isinstance(a, ToolInfo)]
        return not served or "instruction" in self.expert_takes.get("properties", {})

    def as_text(self) -> str:
        """The catalog that the model is shown; for one expert, only what its inputs can name."""
        whole = not self.expert
        blocks = [
            ("Tools", [_line(tool) for tool in self.tools]),
            ("Prompts", [_prompt_line(prompt) for prompt in self.prompts if whole]),
            ("Sub-agents", [_line(agent) for agent in self.agents if whole]),
            ("Resources", [_resource_line(resource) for resource in self.resources if whole]),
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

    def read(self, name: str, data: Any, known: str = "") -> tuple[Plan, str]:
        """A draft as a plan, and its text.

        Args:
            name: Of the step that it stands for.
            data: JSON of the draft: its `KEYS`.
            known: What was found out before, for the steps that need it.

        Raises:
            PlanError: Everything that is wrong with it.
        """
        if not isinstance(data, Mapping):
            raise PlanError([Problem("not-a-draft", "a draft is a mapping with `steps`")])
        draft: dict[str, Any] = {str(key): value for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a model's words
        kept = {key: draft[key] for key in KEYS if draft.get(key)}
        inputs: dict[str, Any] = {key: {"required": True} for key in self.inputs}
        if known or KNOWN in inputs:
            kept = hand_on(kept)
        if KNOWN not in inputs and _mentions_known(kept):
            inputs[KNOWN] = {"type": "string", "default": known}
        text = dump_data({"name": name, **({"inputs": inputs} if inputs else {}), **kept})
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
        found += check_against_tools(plan, tools, prompts, agents, drafted=True)
        if any(problem.severity == "error" for problem in found):
            return found
        known = {**tools, **agents}
        return [*found, *(p for step in plan.walk() for p in _value_problems(step, known))]

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
        if step.kind == "job" and not self.may_submit:
            message = f"`{step.name}`: a draft can submit a job only where it has the tool for it"
            yield Problem("draft-job", message, step.position)
        if (job := step.job) and (job.confine is False or job.network or job.writable):
            keys = "`confine: false`, `network` or `writable`"
            message = f"`{step.name}`: a draft can't say {keys}: its jobs are confined"
            yield Problem("draft-confine", message, step.position)
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


def _value_problems(step: Step, known: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Values of a step's inputs that its tool or agent would refuse; templates have none yet."""
    target = step.target or ""
    if step.kind not in ("tool", "agent") or target not in known:
        return
    values = {name: value for name, value in step.inputs.items() if not has_template(value)}
    for fault in faults_of_given(known[target].get("input_schema") or {}, values):
        message = f"`{step.name}`: `{target}` can't take these inputs: {fault}"
        yield Problem("bad-argument", message, step.where("inputs"))


def hand_on(draft: Mapping[str, Any]) -> dict[str, Any]:
    """A draft whose generalists are given what was found out, so that they do not look again.

    A step that reads it already is left as it is. A person sees it in the draft that they review.
    """
    steps: Any = draft.get("steps")
    if not isinstance(steps, list):
        return dict(draft)
    return {**draft, "steps": [_handed_on(step) for step in steps]}  # pyright: ignore[reportUnknownVariableType] - a model's words


def _handed_on(step: Any) -> Any:
    if not isinstance(step, Mapping):
        return step
    said: dict[str, Any] = {str(key): value for key, value in step.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a model's words
    if "parallel" in said:
        inner = hand_on({"steps": said["parallel"]})["steps"]
        return {**said, "parallel": inner}
    given: Any = said.get("inputs") or {}
    inputs: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}  # pyright: ignore[reportUnknownArgumentType] - a model's words
    asks = "agent" in said and said["agent"] in GENERAL_AGENTS and isinstance(given, Mapping)
    if not asks or _mentions_known(said):
        return step  # pyright: ignore[reportUnknownVariableType] - a model's words
    return {**said, "inputs": {**inputs, KNOWN: f"{{{{ inputs.{KNOWN} }}}}"}}


def _mentions_known(data: Any) -> bool:
    """Whether a text in a draft reads the input of what was found out."""
    if isinstance(data, str):
        return f"inputs.{KNOWN}" in data
    if isinstance(data, Mapping):
        return any(map(_mentions_known, data.values()))  # pyright: ignore[reportUnknownArgumentType] - a model's words
    return isinstance(data, list) and any(map(_mentions_known, data))  # pyright: ignore[reportUnknownArgumentType] - a model's words


def _line(tool: ToolInfo | Subagent) -> str:
    without = NOT_AS_INPUT if isinstance(tool, Subagent) or tool.is_agent else ()
    gives = tool.output_schema
    if isinstance(tool, Subagent) and tool.name in GENERAL_AGENTS:
        gives = {"properties": {"content": {"type": "string"}}}
    reads = isinstance(tool, ToolInfo) and tool.annotations.get("readOnlyHint") is True
    said = signature(tool.name, tool.input_schema, gives, without)
    return f"{said}: {clip(tool.description, SHORT)}{' (only reads)' if reads else ''}"


def _resource_line(resource: ResourceInfo) -> str:
    return f"{resource.uri}: {clip(resource.description or resource.name, SHORT)}"


def _prompt_line(prompt: PromptInfo) -> str:
    return f"{prompt_signature(prompt)}: {clip(prompt.description, SHORT)}"
