"""The generalist: investigates with tools, asks the user if it must, and answers.

Plans ask `ask`. ``fractale prompt`` asks `ask_or_plan`, which can also ask fractale's experts. If a
task needs several steps, it calls `plan_steps`. A rule of its step then ends it, and the next step
is planned with its findings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from fractale.agents.catalog import BUILT_IN, Catalog
from fractale.agents.conversation import IN_WORDS, check_done
from fractale.agents.loop import answer_of, work
from fractale.agents.loop_tools import LoopTool, extra_tools, not_done, server_tool
from fractale.agents.signatures import faults_of_call
from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.errors import ModelError, ToolError
from fractale.evidence import as_mapping
from fractale.models import structured, whole_json
from fractale.plan.kinds import HANDED_OVER, INSTRUCTION_INPUTS, KNOWN
from fractale.toolbox import ToolResult


async def run(
    ctx: AgentContext,
    request: AgentRequest,
    more: Sequence[LoopTool] = (),
    *,
    name: str = "ask",
    role: str = "",
) -> AgentAnswer:
    """Work until there is an answer, or until a rule of the step is true.

    Args:
        more: Further tools of the model.
        name: The agent's name. It does not ask itself.
        role: The role of an expert of the plan, for the model.

    Raises:
        NotDone: The model reports that the task was not done.
        ModelError: The model failed, answered nothing, or never came to an end.
        LimitReached: A limit of the run is used up.
    """
    messages = [*request.messages, *_asked(request)]
    if role and not messages:
        messages = [HumanMessage(NO_TASK)]
    tools = [server_tool(tool, ctx) for tool in await ctx.tools()]
    tools += [*(each for each in await extra_tools(ctx) if not role or each.name != name), *more]
    if not tools:
        return await _answer_at_once(ctx, messages, request.schema, role)
    tools.append(not_done())
    system = f"{role.strip()}\n\n{_system_prompt()}" if role else _system_prompt()
    conversation = await work(
        messages, name=name, ctx=ctx, tools=tools, system=system, config=request.config
    )
    if ctx.decided(conversation):
        return AgentAnswer(outputs={}, messages=conversation)
    text, data = await _read(answer_of(conversation), conversation, ctx, request.schema)
    outputs = {"content": text} if data is None else data
    return AgentAnswer(outputs=outputs, text=text, messages=conversation)


NO_TASK: Final = "Do what your role asks for."
"""The task of an expert whose step gives it neither an instruction nor inputs."""


async def _read(
    text: str,
    conversation: Sequence[BaseMessage],
    ctx: AgentContext,
    schema: Mapping[str, Any] | None,
) -> tuple[str, Any]:
    """The answer and its JSON: by the schema, or without one, if the whole answer is JSON."""
    if schema is None:
        try:
            return text, whole_json(text)
        except ValueError:
            return text, None
    data, errors = structured.read(text, schema)
    if not errors:
        return text, data
    again = structured.with_correction(conversation[:-1], text, errors)
    try:
        return await _asked_once(again, ctx, schema)
    except ModelError as error:
        if data is None or not error.text:
            raise
        return text, data


async def _asked_once(
    messages: Sequence[BaseMessage], ctx: AgentContext, schema: Mapping[str, Any]
) -> tuple[str, Any]:
    """An answer and its JSON, which may not fit the schema.

    Raises:
        NotDone: The answer says that the task was not done.
        ModelError: The answer contains no JSON. The error's `text` is the answer, if there is one.
    """
    try:
        answer = await ctx.ask_model(messages, schema, correct=False)
    except ModelError as error:
        check_done(error.text, messages)
        raise
    return check_done(answer.text, messages), answer.data


async def _answer_at_once(
    ctx: AgentContext,
    messages: Sequence[BaseMessage],
    schema: Mapping[str, Any] | None,
    role: str = "",
) -> AgentAnswer:
    """The answer of a model without tools. It may correct an answer that does not fit, once."""
    if schema is not None:
        said = [*([SystemMessage(role.strip())] if role else []), *messages]
        try:
            text, _ = await _asked_once(said, ctx, schema)
        except ModelError as error:
            if not error.text:
                raise
            text = error.text
        text, data = await _read(text, [*said, AIMessage(text)], ctx, schema)
    else:
        words = [role.strip()] if role else []
        words += [] if ctx.is_small else [IN_WORDS]
        system = [SystemMessage("\n\n".join(words))] if words else []
        answer = await ctx.ask_model([*system, *messages])
        text, data = check_done(answer.text, messages), answer.data
    outputs = {"content": text} if data is None else data
    return AgentAnswer(outputs=outputs, text=text, messages=[*messages, AIMessage(text)])


def _system_prompt() -> str:
    return resources.files(__package__ or "").joinpath("ask.md").read_text(encoding="utf-8")


def _asked(request: AgentRequest) -> list[BaseMessage]:
    """The instruction and the inputs as one message. No message if both are empty."""
    given = {k: v for k, v in request.inputs.items() if k not in INSTRUCTION_INPUTS}
    error = given.pop("error", None)
    parts = [request.instruction, "\n".join(f"{k}: {as_text(v)}" for k, v in given.items())]
    if error:  # last: small models heed the end most
        parts.append(f"The last attempt failed: {as_text(error)}")
    text = "\n\n".join(part for part in parts if part)
    return [HumanMessage(text)] if text else []


def as_text(value: Any) -> str:
    """Text unchanged; anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


INPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "instruction": {"type": "string", "description": "What to do or to answer."},
        "error": {"description": "Why the last attempt failed."},
    },
}

ASK = Subagent(
    name="ask",
    description="The generalist: investigates with the tools it has, asks the person, answers.",
    input_schema=INPUTS,
    run=run,
)


# -- the generalist of `fractale prompt` ----------------------------------------------------------

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


async def run_or_plan(ctx: AgentContext, request: AgentRequest) -> AgentAnswer:
    """Work until there is an answer, or until the model hands the task over."""
    others = {agent.name for agent in await ctx.agents()}
    return await run(ctx, request, [*_experts(ctx, others), _hand_over()])


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


def _experts(ctx: AgentContext, others: Iterable[str]) -> list[LoopTool]:
    """One tool for all of fractale's sub-agents: separate tools would cost more on every turn."""
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
        answer = await ctx.call_agent(agent, AgentRequest(inputs=inputs))
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
    """An expert with its required inputs. The reply to a wrong call has the whole schema."""
    needs = ", ".join(map(str, agent.input_schema.get("required") or ()))
    return f"{agent.name}({needs}): {agent.description}"


ASK_OR_PLAN = Subagent(
    name="ask_or_plan",
    description="The generalist of `fractale prompt`: works with the run's tools and experts, and "
    "hands over to the planner where several steps are needed.",
    input_schema={**INPUTS, "additionalProperties": True},
    run=run_or_plan,
)
