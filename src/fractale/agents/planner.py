"""The planner: looks at what there is, asks the person, and drafts the steps of a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Final, TypedDict, cast

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime

from fractale.agents.ask import as_text
from fractale.agents.draft_schema import NOT_AS_INPUT
from fractale.agents.extras import ASK_PERSON, ask_person
from fractale.agents.loop import answer_of, tool_of, work
from fractale.agents.offers import Offers
from fractale.agents.signatures import argument_lines
from fractale.agents.subagent import AgentAnswer, AgentHost, AgentRequest, Subagent
from fractale.errors import ModelError, PlanError
from fractale.plan.source import read_source
from fractale.policy import reads_only

MOST_DRAFTS = 5
"""Drafts before the planner gives up, where the step does not say `max_attempts`."""

MOST_LOOKS = 20
"""Model turns of looking around before the first draft."""

SHOWN = 2000
"""Letters of an input that it is shown."""

_FENCED: Final = re.compile(r"```(?:ya?ml)?[ \t]*\n(.*?)\n```", re.DOTALL)


def task_of(goal: str, inputs: Mapping[str, Any], offers: Offers) -> list[BaseMessage]:
    """What the planner is told.

    Args:
        goal: The step's instruction.
        inputs: The step's inputs, which say what the draft can read.
    """
    part = "planner_short.md" if offers.expert or offers.plain else "planner.md"
    prompt = resources.files(__package__ or "").joinpath(part).read_text(encoding="utf-8")
    parts = [f"The task:\n{goal}", offers.as_text()]
    if inputs:
        given = "\n".join(f"{name}: {as_text(value)[:SHOWN]}" for name, value in inputs.items())
        parts.append(f"The values of the inputs:\n{given}")
    if offers.expert:
        parts.append(_about(offers))
    return [SystemMessage(prompt), HumanMessage("\n\n".join(part for part in parts if part))]


def _about(offers: Offers) -> str:
    """The one expert whom the draft asks, and what it takes."""
    kind, name = offers.expert or ("", "")
    lines = argument_lines(offers.expert_takes, NOT_AS_INPUT)
    takes = "\n".join(["Its inputs, * required:", *(f"- {line}" for line in lines)])
    words = " and an `instruction` that says all" if offers.expert_takes_words else ""
    head = f"Write one step, `{kind}: {name}`, with its `inputs`{words}."
    return f"{head}\n{takes}" if lines else head


async def explore(
    host: AgentHost, task: Sequence[BaseMessage], config: RunnableConfig | None
) -> str:
    """Look around with tools that only read, and ask the person.

    Returns:
        What was found out, in words; empty if nothing was looked at.

    Raises:
        ModelError: The model failed.
        LimitReached: A limit of the run is used up.
    """
    tools = [tool_of(tool, host) for tool in await host.tools() if reads_only(tool)]
    if ASK_PERSON in host.offers:
        tools.append(ask_person(host))
    if not tools:
        return ""
    request = HumanMessage(
        "Before you write the steps: find out with these tools what you must know for it, and ask "
        "the person what only they know. Then say all that you found out and that the steps need: "
        "values, names and paths in full. If nothing is to be found out, say so at once."
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
    answer = str(answer_of(conversation))  # plain, as YAML and checkpoints need it
    return answer if any(isinstance(each, ToolMessage) for each in conversation) else ""


def known_of(text: str) -> list[BaseMessage]:
    """What was found out before the first draft, as messages to put after the task."""
    return [HumanMessage(f"What was found out before:\n{text}")] if text else []


def failed_before(draft: str, error: str) -> list[BaseMessage]:
    """What failed before the steps are written again, as messages.

    Args:
        draft: The steps that ran, as YAML; empty if something else failed.
    """
    if not draft:
        return [HumanMessage(f"The last attempt failed: {error}")]
    words = f"These steps ran and failed: {error}\nWrite steps that do the task all the same."
    return [AIMessage(draft), HumanMessage(words)]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One draft, held against the validator.

    Args:
        said: What the model answered.
        text: The draft as YAML; empty if it is not valid.
        problems: What is wrong with it.
    """

    said: str = ""
    text: str = ""
    problems: tuple[str, ...] = ()


async def attempt(
    host: AgentHost,
    name: str,
    messages: Sequence[BaseMessage],
    offers: Offers,
    known: str = "",
) -> Attempt:
    """Ask for one draft, and check it.

    Args:
        name: Of the step that the draft stands for.
        known: What was found out before.

    Raises:
        ModelError: The model failed; an answer that is no draft is a problem of the attempt.
        LimitReached: A limit of the run is used up.
    """
    said = ""
    try:
        said, data = await _ask(host, messages, offers)
        _, text = offers.read(name, data, known)
    except PlanError as error:
        return Attempt(said, problems=tuple(str(problem) for problem in error.problems))
    except ModelError as error:
        if error.retryable or error.usage is None:  # it is out of reach, or refuses the request
            raise
        return Attempt(error.text, problems=(str(error),))
    return Attempt(said, text)


async def _ask(host: AgentHost, messages: Sequence[BaseMessage], offers: Offers) -> tuple[str, Any]:
    """What the model answers, and the draft in it."""
    asked = [*messages, HumanMessage("Write the steps.")]
    try:
        answer = await host.ask_model(asked, offers.schema(), correct=False)
    except ModelError as error:
        data = plan_in(error.text)
        if data is None:
            raise
        return error.text, data
    data: Any = answer.data
    if not _is_plan(data):  # a YAML text can hold pieces that are JSON
        data = plan_in(answer.text) or data
    return answer.text, data


def plan_in(text: str) -> Mapping[str, Any] | None:
    """The first plan in YAML in a text, bare or fenced; None if there is none."""
    for candidate in [*_FENCED.findall(text), text]:
        try:
            data = read_source(candidate, "draft").plain()
        except PlanError:
            continue
        if _is_plan(data):
            return data
    return None


def _is_plan(data: Any) -> bool:
    return isinstance(data, Mapping) and "steps" in data


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


class Planning(TypedDict, total=False):
    """The state of a planner that is asked like any other agent.

    Keys:
        messages: The conversation.
        known: What was found out.
        tries: Drafts so far.
        text: The valid draft.
        error: Why there is none.
    """

    messages: Annotated[list[AnyMessage], add_messages]
    known: str
    tries: int
    text: str
    error: str


@dataclass(frozen=True, slots=True)
class Task:
    """What the nodes work with: the host, what is asked, and what a draft may use."""

    host: AgentHost
    request: AgentRequest
    offers: Offers


async def run(host: AgentHost, request: AgentRequest) -> AgentAnswer:
    """Draft a plan for a task, without running it."""
    offers = Offers(
        tools=await host.tools(), prompts=await host.prompts(), agents=await host.agents()
    )
    after: Planning = await _graph().ainvoke(
        Planning(tries=0), request.config, context=Task(host, request, offers)
    )
    text = after.get("text", "")
    if not text:
        return AgentAnswer(outputs={}, error=after.get("error") or "there is no draft")
    return AgentAnswer(outputs={"plan": text}, text=text)


def _graph() -> Any:
    builder: Any = StateGraph(Planning, context_schema=Task)
    builder.add_node("explore", _explore)
    builder.add_node("draft", _draft)
    builder.add_edge(START, "explore")
    builder.add_edge("explore", "draft")
    builder.add_conditional_edges("draft", _after_draft, ["draft", END])
    return builder.compile()


async def _explore(state: Planning, runtime: Runtime[Task], config: RunnableConfig) -> Planning:
    task = runtime.context
    told = task_of(task.request.instruction, {}, task.offers)
    known = await explore(task.host, told, config)
    messages = cast("list[AnyMessage]", [*told, *known_of(known)])
    return Planning(messages=messages, known=known)


async def _draft(state: Planning, runtime: Runtime[Task]) -> Planning:
    task, tries = runtime.context, state.get("tries", 0) + 1
    messages, known = state.get("messages", []), state.get("known", "")
    made = await attempt(task.host, "drafted", messages, task.offers, known)
    if made.text:
        return Planning(tries=tries, text=made.text, error="")
    why = f"no valid draft in {tries} tries; the last: {'; '.join(made.problems)}"
    wrong = cast("list[AnyMessage]", correction(made.said, made.problems))
    return Planning(tries=tries, messages=wrong, error=why)


def _after_draft(state: Planning) -> str:
    return END if state.get("text") or state.get("tries", 0) >= MOST_DRAFTS else "draft"


PLANNER = Subagent(
    name="planner",
    description="The planner: drafts the steps of a plan for a task, without running them.",
    input_schema={
        "type": "object",
        "properties": {"instruction": {"type": "string", "description": "The task."}},
    },
    output_schema={"type": "object", "properties": {"plan": {"type": "string"}}},
    run=run,
)
