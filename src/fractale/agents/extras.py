"""What an agent may call beside the servers' tools: people, prompts, resources, other agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fractale.agents.loop import NO_ARGUMENTS, LoopTool
from fractale.agents.reports import NOT_DONE
from fractale.agents.subagent import AgentHost, AgentRequest, Subagent
from fractale.errors import ToolError
from fractale.plan.kinds import ASK_PERSON, GET_PROMPT, READ_RESOURCE
from fractale.questions import question
from fractale.toolbox import PromptInfo, ResourceInfo, ToolInfo, ToolResult

LONGEST_LIST = 2000
"""Characters of a list of prompts or resources in a tool's description."""

_QUESTION: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "One short question."},
        "choices": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What the person can choose from; leave out for a free answer.",
        },
        "default": {"type": "string", "description": "The answer that you would take."},
    },
    "required": ["question"],
}


async def extra_tools(host: AgentHost) -> list[LoopTool]:
    """The extras that the host offers its agent."""
    tools = [_agent(agent, host) for agent in await host.agents()]
    if GET_PROMPT in host.offers and (prompts := await host.prompts()):
        tools.append(_prompts(prompts, host))
    if READ_RESOURCE in host.offers and (resources := await host.resources()):
        tools.append(_resources(resources, host))
    if ASK_PERSON in host.offers:
        tools.append(ask_person(host))
    return tools


def not_done() -> LoopTool:
    """What ends an agent's work as *not done*, with a reason; see `fractale.agents.reports`."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        reason = str(arguments.get("reason") or "").strip()
        if not reason:
            raise ToolError("`reason` is missing: say in one or two sentences what stops you")
        return ToolResult(text=reason)

    return LoopTool(
        name=NOT_DONE,
        description="End here: the task is not done and cannot be. Say why.",
        schema={
            "type": "object",
            "properties": {"reason": {"type": "string"}},
            "required": ["reason"],
        },
        call=call,
    )


def ask_person(host: AgentHost) -> LoopTool:
    """Asking the person who runs the plan."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        text = str(arguments.get("question") or "").strip()
        if not text:
            raise ToolError("`question` is missing: say what you want to know")
        given = arguments.get("choices")
        choices = [str(choice) for choice in given] if isinstance(given, list) else []  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - a model's words
        answer = host.ask_person(
            question(host.path, text, choices, default=arguments.get("default"))
        )
        return ToolResult(text=str(answer))

    return LoopTool(
        name=ASK_PERSON,
        description="Ask the person who runs this, where only they can know or choose.",
        schema=_QUESTION,
        call=call,
    )


def _prompts(prompts: list[PromptInfo], host: AgentHost) -> LoopTool:
    known = {prompt.name: prompt for prompt in prompts}

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        name = str(arguments.get("name") or "")
        if name not in known:
            raise ToolError(f"there is no prompt `{name}`; there are: {', '.join(known)}")
        given: Any = arguments.get("arguments") or {}
        messages = await host.get_prompt(name, given)
        return ToolResult(text="\n\n".join(message.text for message in messages))

    lines = [f"{p.name}({', '.join(str(a['name']) for a in p.arguments)})" for p in prompts]
    listed = "; ".join(lines)[:LONGEST_LIST]
    return LoopTool(
        name=GET_PROMPT,
        description=f"Get the text of an expert's prompt. There are: {listed}",
        schema={
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
            "required": ["name"],
        },
        call=call,
    )


def _resources(resources: list[ResourceInfo], host: AgentHost) -> LoopTool:
    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        uri = str(arguments.get("uri") or "").strip()
        if not uri:
            raise ToolError("`uri` is missing: say which resource to read")
        return await host.read_resource(uri)

    known = "; ".join(f"{each.server}:{each.uri}" for each in resources)
    return LoopTool(
        name=READ_RESOURCE,
        description=f"Read a resource of a server. There are: {known[:LONGEST_LIST]}",
        schema={"type": "object", "properties": {"uri": {"type": "string"}}, "required": ["uri"]},
        call=call,
    )


def _agent(agent: Subagent | ToolInfo, host: AgentHost) -> LoopTool:
    """Another sub-agent, as something that the model can call."""

    async def call(arguments: Mapping[str, Any]) -> ToolResult:
        answer = await host.call_agent(agent, AgentRequest(inputs=arguments))
        outputs = answer.outputs
        return ToolResult(
            text=answer.error or answer.text,
            structured=outputs if isinstance(outputs, dict) else None,
            is_error=answer.error is not None,
        )

    return LoopTool(
        name=agent.name,
        description=f"Ask the sub-agent {agent.name}: {agent.description}",
        schema=agent.input_schema or NO_ARGUMENTS,
        call=call,
        changes=True,
    )
