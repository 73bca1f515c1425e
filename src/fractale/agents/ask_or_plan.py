"""What ``fractale prompt`` asks: the generalist that can ask experts, and hand over to the planner.

It goes to work with the run's tools at once. Where a task needs several steps, it calls
`plan_steps`: a rule of its step ends it there, and the step after it is planned with what it
found out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from fractale.agents import ask
from fractale.agents.arguments import faults_of_call
from fractale.agents.catalog import BUILT_IN, Catalog
from fractale.agents.loop import LoopTool
from fractale.agents.subagent import AgentAnswer, AgentHost, AgentRequest, Subagent
from fractale.errors import ToolError
from fractale.evidence import as_mapping
from fractale.plan.kinds import HANDED_OVER, KNOWN
from fractale.toolbox import ToolResult

PLAN_STEPS: Final = "plan_steps"
ASK_EXPERT: Final = "ask_expert"
NO_EXPERTS: Final = ("ask", "ask_or_plan", "planner")

_HAND_OVER: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        KNOWN: {
            "type": "string",
            "description": "All that you found out and did so far: values, names, paths, answers "
            "of the person. Nothing of it is looked for again.",
        }
    },
    "required": [KNOWN],
}


async def run(host: AgentHost, request: AgentRequest) -> AgentAnswer:
    """Work until there is an answer, or until the task is handed over."""
    others = {agent.name for agent in await host.agents()}
    return await ask.run(host, request, [*_experts(host, others), _hand_over()])


def _hand_over() -> LoopTool:
    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        known = str(arguments.get(KNOWN) or "")
        return ToolResult(text="handed over", structured={HANDED_OVER: True, KNOWN: known})

    return LoopTool(
        name=PLAN_STEPS,
        description="Hand the task over to the planner, who writes a plan of several steps, shows "
        "it to the person, and has it run. Only for what a few calls here can't do: several "
        "experts one after another, many items, attempts that go back to an earlier step, a plan "
        "that the person wants to keep.",
        schema=_HAND_OVER,
        call=call,
    )


def _experts(host: AgentHost, others: Iterable[str]) -> list[LoopTool]:
    """One tool for fractale's own sub-agents: one tool each would make every turn dearer."""
    left = [n for n in BUILT_IN if n not in (*NO_EXPERTS, *others)]
    experts = {agent.name: agent for agent in Catalog().matching(lambda name: name in left)}
    if not experts:
        return []

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        agent = experts.get(str(arguments.get("name")))
        if agent is None:
            raise ToolError(f"no expert has this name; there are: {', '.join(experts)}")
        given: Any = arguments.get("inputs")
        inputs: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}  # pyright: ignore[reportUnknownArgumentType] - a model's words
        if faults := faults_of_call(agent.input_schema, inputs):
            schema = json.dumps(dict(agent.input_schema), ensure_ascii=False)
            raise ToolError(f"`{agent.name}`: {'; '.join(faults)}. Its inputs are: {schema}")
        answer = await host.call_agent(agent, AgentRequest(inputs=inputs))
        return ToolResult(
            text=answer.error or answer.text,
            structured=as_mapping(answer.outputs),
            is_error=answer.error is not None,
        )

    return [
        LoopTool(
            name=ASK_EXPERT,
            description="Ask an expert. It needs these inputs, and takes more:\n"
            + "\n".join(f"- {_line(agent)}" for agent in experts.values()),
            schema={
                "type": "object",
                "properties": {
                    "name": {"type": "string", "enum": list(experts)},
                    "inputs": {"type": "object"},
                },
                "required": ["name", "inputs"],
            },
            call=call,
            changes=True,
        )
    ]


def _line(agent: Subagent) -> str:
    """An expert with what it needs; what else it takes, it says where it is asked wrongly."""
    needs = ", ".join(map(str, agent.input_schema.get("required") or ()))
    return f"{agent.name}({needs}): {agent.description}"


ASK_OR_PLAN = Subagent(
    name="ask_or_plan",
    description="The generalist of `fractale prompt`: works with the run's tools and experts, and "
    "hands over to the planner where several steps are needed.",
    input_schema={**ask.INPUTS, "additionalProperties": True},
    run=run,
)
