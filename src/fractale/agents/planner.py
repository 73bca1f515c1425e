"""The manager: looks at what there is, asks the person, and drafts the steps of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from fractale.agents.ask import as_text
from fractale.agents.extras import ASK_PERSON, ask_person
from fractale.agents.loop import answer_of, tool_of, work
from fractale.agents.offers import Offers
from fractale.agents.subagent import AgentAnswer, AgentHost, AgentRequest, Subagent
from fractale.errors import ModelError, PlanError
from fractale.models import Answer
from fractale.policy import reads_only

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

MOST_DRAFTS = 5
"""Drafts before the manager gives up, where the step does not say `max_attempts`."""

MOST_LOOKS = 20
"""Model turns of looking around before the first draft."""


def task_of(goal: str, inputs: Mapping[str, Any], offers: Offers) -> list[BaseMessage]:
    """What the manager is told.

    Args:
        goal: The step's instruction.
        inputs: The step's inputs, which say what the draft can read.
    """
    prompt = resources.files(__package__ or "").joinpath("planner.md").read_text(encoding="utf-8")
    parts = [f"The task:\n{goal}", offers.as_text()]
    if inputs:
        given = "\n".join(f"{name}: {as_text(value)[:2000]}" for name, value in inputs.items())
        parts.append(f"The values of the inputs:\n{given}")
    if offers.expert:
        kind, name = offers.expert
        parts.append(f"Write one step, `{kind}: {name}`, with an instruction that says all.")
    return [SystemMessage(prompt), HumanMessage("\n\n".join(parts))]


async def explore(
    host: AgentHost, task: Sequence[BaseMessage], config: RunnableConfig | None
) -> list[BaseMessage]:
    """Look around with tools that only read, and ask the person.

    Returns:
        What was found out, as messages to put after the task.

    Raises:
        ModelError: The model failed.
        LimitReached: A limit of the run is used up.
    """
    tools = [tool_of(tool, host) for tool in await host.tools() if reads_only(tool)]
    if ASK_PERSON in host.offers:
        tools.append(ask_person(host))
    if not tools:
        return []
    request = HumanMessage(
        "Before you write the steps: find out with these tools what you must know for it, and ask "
        "the person what only they know. Then say in a few sentences what matters. If nothing is "
        "to be found out, say so at once."
    )
    system, *rest = task
    conversation = await work(
        [*rest, request],
        host=host,
        tools=tools,
        system=system.text,
        config=config,
        max_turns=MOST_LOOKS,
    )
    return [HumanMessage(f"What was found out before:\n{answer_of(conversation)}")]


async def draft(host: AgentHost, messages: Sequence[BaseMessage], offers: Offers) -> Answer:
    """One draft, as the JSON that `offers.schema()` describes.

    Raises:
        ModelError: The model failed, or answered nothing usable.
        LimitReached: A limit of the run is used up.
    """
    asked = [*messages, HumanMessage("Write the steps.")]
    return await host.ask_model(asked, offers.schema(), correct=False)


def correction(answer: str, problems: Sequence[str]) -> list[BaseMessage]:
    """A draft that is wrong, and why, as messages."""
    lines = "\n".join(f"- {problem}" for problem in problems)
    return [
        AIMessage(answer or "(nothing)"),
        HumanMessage(f"This draft can't be used:\n{lines}\nWrite all the steps again, corrected."),
    ]


def feedback(answer: str, words: str) -> list[BaseMessage]:
    """A draft that the person wants otherwise, as messages."""
    return [AIMessage(answer), HumanMessage(f"The person wants it otherwise: {words}")]


async def run(host: AgentHost, request: AgentRequest) -> AgentAnswer:
    """Draft a plan for a task, without running it."""
    tools = await host.tools()
    offers = Offers(tools=tools, prompts=await host.prompts(), agents=await host.agents())
    messages = task_of(request.instruction, {}, offers)
    reasons: list[str] = []
    for _ in range(MOST_DRAFTS):
        said = ""
        try:
            answer = await draft(host, messages, offers)
            said = answer.text
            _, text = offers.read("drafted", answer.data)
            return AgentAnswer(outputs={"plan": text}, text=text)
        except PlanError as error:
            reasons = [str(problem) for problem in error.problems]
        except ModelError as error:
            if error.retryable:
                raise
            reasons = [str(error)]
        messages = [*messages, *correction(said, reasons)]
    why = f"no valid draft after {MOST_DRAFTS} tries: {'; '.join(reasons)}"
    return AgentAnswer(outputs={}, error=why)


PLANNER = Subagent(
    name="planner",
    description="The manager: drafts the steps of a plan for a task, without running them.",
    input_schema={
        "type": "object",
        "properties": {"instruction": {"type": "string", "description": "The task."}},
    },
    output_schema={"type": "object", "properties": {"plan": {"type": "string"}}},
    run=run,
)
