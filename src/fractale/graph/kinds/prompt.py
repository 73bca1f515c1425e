"""Prompt steps: a server renders the prompt, and the step's model answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from fractale.agents.subagent import AgentRequest
from fractale.graph.bindings import resolve_prompt
from fractale.graph.call import Attempt, Codec, once
from fractale.graph.kinds import Compiler
from fractale.graph.kinds.agent import GENERALIST, ask_agent, with_error
from fractale.graph.outcome import CallResult
from fractale.plan.kinds import EXTRA_TOOLS
from fractale.store.journal import Call
from fractale.toolbox import PromptMessage

if TYPE_CHECKING:
    from fractale.graph.step import StepNode


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that lets a model answer a prompt of a server."""
    del compiler
    return replace(node, perform=_perform)


async def _perform(attempt: Attempt) -> CallResult:
    name = attempt.step.target or ""
    infos = [info for info in await attempt.deps.toolbox.prompts([name]) if info.name == name]
    takes = {str(argument["name"]) for info in infos for argument in info.arguments}
    messages: list[BaseMessage] = [
        AIMessage(message.text) if message.role == "assistant" else HumanMessage(message.text)
        for message in await get_prompt(attempt, name, with_error(attempt, takes))
    ]
    if attempt.instruction:
        messages.append(HumanMessage(attempt.instruction))
    # A prompt only answers. It can ask the user only if its step lists tools.
    extras = set(EXTRA_TOOLS) if attempt.step.tools else set[str]()
    generalist = attempt.deps.agents.find(GENERALIST)
    assert generalist is not None  # noqa: S101 - it is built in
    return await ask_agent(attempt, generalist, AgentRequest(messages=messages), frozenset(extras))


async def get_prompt(
    attempt: Attempt, name: str, arguments: Mapping[str, Any], agent: str | None = None
) -> list[PromptMessage]:
    """Have a server render a prompt.

    Raises:
        ToolError: The prompt does not exist, or did not accept the arguments.
    """
    site = attempt.journal.next_site(agent, prompt=True)
    call = Call(kind="prompt", name=name, digest=attempt.digest(arguments), safe=True)

    async def fetch() -> list[PromptMessage]:
        toolbox = attempt.deps.toolbox
        bound = await resolve_prompt(toolbox, attempt.context.bindings, name)
        return await toolbox.get_prompt(bound, arguments)

    messages = await once(attempt, site, call, fetch, PromptCodec(attempt, {}))
    if attempt.context.run_dir is not None and attempt.deps.made is not None:
        from fractale.graph.read_files import note_prompt  # a run without a record needs none

        note_prompt(attempt, name, [[each.role, each.text] for each in messages])
    return messages


class PromptCodec(Codec[list[PromptMessage]]):
    """A prompt that a server renders. Its call has no events."""

    def dump(self, result: list[PromptMessage], seconds: float | None) -> dict[str, Any]:
        del seconds
        return {"messages": [asdict(message) for message in result]}

    def load(self, data: Mapping[str, Any]) -> list[PromptMessage]:
        return [PromptMessage(**message) for message in data["messages"]]
