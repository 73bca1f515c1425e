"""LangGraph graphs as sub-agents: compiled graphs, builders, and functions that make them.

`create_agent`, deepagents and a person's own `StateGraph` all give such graphs. The graph keeps its
own models, tools, middleware and store. `AgentContext.run_graph` runs it inside the step.

**Input.** The request becomes the graph's state. Inputs with the names of its state keys go there,
those with the names of its context schema into its context. The instruction and all other inputs
become one message in `messages`. A graph without `messages` gets the instruction as `instruction`,
if it has that key.

**Output.** A graph with `messages` answers with `structured_response`, if it has one, else with its
last message: as JSON, or as `content`. Its other outputs keep their names. A graph without
`messages` answers with its outputs.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast, get_type_hints

import pydantic_core

from fractale.agents.conversation import check_done
from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.errors import ModelError, ToolError
from fractale.evidence import as_mapping
from fractale.plan.kinds import INSTRUCTION_INPUTS

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

MESSAGES = "messages"
STRUCTURED = "structured_response"
UNNAMED = "LangGraph"
"""The name that LangGraph gives to a graph without a name."""


def is_graph(found: Any) -> bool:
    """Whether an object is a LangGraph graph, compiled or not. Imports nothing."""
    return _is(found, "langgraph.pregel", "Pregel") or _is(
        found, "langgraph.graph.state", "StateGraph"
    )


def _is(found: Any, module: str, name: str) -> bool:
    # If the module is not imported, nothing can be an instance of its classes.
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(found, kind)


def graph_agent(found: Any, name: str, description: str = "") -> Subagent:
    """A graph as a sub-agent.

    Args:
        found: A compiled graph, or a `StateGraph`.
        name: Its name, unless the graph has one.

    Raises:
        Exception: The builder cannot be compiled, for LangGraph's reason.
    """
    graph = _compiled(found)
    own = str(getattr(graph, "name", "") or "")

    async def run(ctx: AgentContext, request: AgentRequest) -> AgentAnswer:
        return await _ask(ctx, request, graph, agent.name)

    agent = Subagent(
        name=own if own and own != UNNAMED else name,
        description=description or f"The LangGraph agent `{name}`.",
        input_schema=_input_schema(graph),
        run=run,
        is_graph=True,
    )
    return agent


def factory_agent(function: Callable[..., Any], name: str) -> Subagent:
    """A function that makes a graph, as a sub-agent. It is called in each attempt of a step.

    Args:
        function: Sync or async, or an async context manager. It has no parameter, or one for the
            node's `RunnableConfig`.
    """

    async def run(ctx: AgentContext, request: AgentRequest) -> AgentAnswer:
        async with _made_by(function, request, name) as graph:
            return await _ask(ctx, request, graph, agent.name)

    agent = Subagent(
        name=name,
        description=_first_line(inspect.getdoc(function)) or f"The LangGraph agent `{name}`.",
        input_schema={"type": "object", "properties": {"instruction": {"type": "string"}}},
        run=run,
        is_graph=True,
    )
    return agent


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _compiled(found: Any) -> Any:
    return found.compile() if _is(found, "langgraph.graph.state", "StateGraph") else found


@asynccontextmanager
async def _made_by(
    function: Callable[..., Any], request: AgentRequest, name: str
) -> AsyncGenerator[Any]:
    """The graph that a function makes.

    Raises:
        ToolError: The function failed, or made something else.
    """
    needed = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    try:
        made: Any = function(request.config or {}) if needed else function()
        if inspect.isawaitable(made):
            made = await made
    except Exception as error:
        raise ToolError(f"the agent `{name}` could not be made: {error!r}") from error
    if hasattr(made, "__aenter__"):
        async with made as graph:
            yield _checked(graph, name)
    else:
        yield _checked(made, name)


def _checked(made: Any, name: str) -> Any:
    if not is_graph(made):
        raise ToolError(
            f"the agent `{name}` is a function that returned {type(made).__name__}, and must "
            "return a LangGraph graph",
            hint="to use a function as a tool, list it in a registry file and give that with -r",
        )
    return _compiled(made)


async def _ask(ctx: AgentContext, request: AgentRequest, graph: Any, name: str) -> AgentAnswer:
    given, context = _given(graph, request, ctx)
    result = await ctx.run_graph(graph, given, request, name=name, context=context)
    return _answer(result, name)


# -- what a graph takes ----------------------------------------------------------------------------


def _input_schema(graph: Any) -> dict[str, Any]:
    """JSON Schema of the inputs: the instruction, and the keys of the graph's state."""
    schema: dict[str, Any] = {}
    try:
        schema = dict(graph.get_input_jsonschema())
    except Exception:  # noqa: BLE001 - a type without a schema, such as typing's TypedDict
        schema = {"properties": {key: {} for key in _keys_of(_state_of(graph))}}
    properties: dict[str, Any] = dict(schema.get("properties") or {})
    properties.pop(MESSAGES, None)
    more = _keys_of(getattr(graph, "context_schema", None))
    properties = {"instruction": {"type": "string"}, **{key: {} for key in more}, **properties}
    defs = {"$defs": schema["$defs"]} if "$ref" in json.dumps(properties) else {}
    # Other inputs become a part of the message, if there is one.
    takes_more = MESSAGES in (schema.get("properties") or ())
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": takes_more or not properties,
        **defs,
    }


def _state_of(graph: Any) -> Any:
    builder: Any = getattr(graph, "builder", None)
    return getattr(builder, "input_schema", None)


def _keys_of(schema: Any) -> list[str]:
    """The names of a state's or a context's fields."""
    if schema is None:
        return []
    try:
        return list(get_type_hints(schema))
    except Exception:  # noqa: BLE001 - an annotation that cannot be read
        return list(getattr(schema, "__annotations__", {}))


def _given(graph: Any, request: AgentRequest, ctx: AgentContext) -> tuple[Any, Any]:
    """The graph's input and its context, from a request."""
    inputs = {k: v for k, v in request.inputs.items() if k not in INSTRUCTION_INPUTS}
    instruction, error = request.instruction, inputs.pop("error", None)
    builder: Any = getattr(graph, "builder", None)
    if builder is None:  # a function with `@entrypoint`, whose input has any form
        return inputs or instruction, None
    keys = _keys_of(_state_of(graph))
    context = _context(graph, inputs, keys)
    state = {key: inputs.pop(key) for key in keys if key in inputs}
    if error and "error" in keys:
        state["error"], error = error, None
    if MESSAGES in keys:
        earlier = [*request.messages, *cast("Sequence[Any]", state.pop(MESSAGES, []))]
        text = _as_message(instruction, inputs, error)
        return {**state, MESSAGES: [*earlier, *text]}, context
    for name in INSTRUCTION_INPUTS:
        if name in keys and instruction:
            state[name], instruction = instruction, ""
    left = [*inputs, *(["instruction"] if instruction else [])]
    if left:
        ctx.warn(
            "input-left-out",
            f"the graph's state has no {', '.join(f'`{name}`' for name in left)}; "
            f"it has: {', '.join(keys)}",
        )
    return state, context


def _context(graph: Any, inputs: dict[str, Any], state: Sequence[str]) -> Any:
    """The values for the graph's context schema, taken out of the inputs."""
    schema = getattr(graph, "context_schema", None)
    if schema is None:
        return None
    names = [name for name in _keys_of(schema) if name not in state and name in inputs]
    return {name: inputs.pop(name) for name in names}


def _as_message(instruction: str, inputs: Mapping[str, Any], error: Any) -> list[BaseMessage]:
    """The instruction and the inputs as one message. No message if all are empty."""
    from langchain_core.messages import HumanMessage

    parts = [instruction, "\n".join(f"{name}: {_text(value)}" for name, value in inputs.items())]
    if error:
        parts.append(f"The last attempt failed: {_text(error)}")
    text = "\n\n".join(part for part in parts if part)
    return [HumanMessage(text)] if text else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# -- what a graph answers --------------------------------------------------------------------------


def _answer(result: Any, name: str) -> AgentAnswer:
    """The graph's output as an answer.

    Raises:
        NotDone: The last message says that the task was not done.
        ModelError: The graph answered nothing.
    """
    if not isinstance(result, Mapping):
        found = _as_json(result)
        _check_not_empty(found, name)
        return AgentAnswer(outputs=found, text=_text(found))
    values = {str(key): value for key, value in cast("Mapping[Any, Any]", result).items()}
    if MESSAGES not in values:
        outputs = {key: _as_json(value) for key, value in values.items()}
        _check_not_empty(outputs, name)
        return AgentAnswer(outputs=outputs, text=_text(outputs))
    messages: list[BaseMessage] = list(values.pop(MESSAGES) or [])
    structured = values.pop(STRUCTURED, None)
    others = {key: _as_json(value) for key, value in values.items()}
    if structured is not None:
        data = _as_json(structured)
        outputs = {**others, **as_mapping(data)}
        return AgentAnswer(outputs=outputs, text=_text(data), messages=messages)
    text = _last_text(messages, name)
    from fractale.models import whole_json

    try:
        found = as_mapping(whole_json(text))
    except ValueError:
        found = {"content": text}
    return AgentAnswer(outputs={**others, **found}, text=text, messages=messages)


def _last_text(messages: Sequence[BaseMessage], name: str) -> str:
    from langchain_core.messages import AIMessage

    last = messages[-1] if messages else None
    text = last.text.strip() if isinstance(last, AIMessage) else ""
    if not text:
        raise ModelError(f"the agent `{name}` ended without an answer")
    return check_done(text, messages)


def _check_not_empty(found: Any, name: str) -> None:
    values = list(cast("dict[str, Any]", found).values()) if isinstance(found, dict) else [found]
    if all(value in (None, "", [], {}) for value in values):
        raise ModelError(f"the agent `{name}` ended without an answer")


def _as_json(value: Any) -> Any:
    return pydantic_core.to_jsonable_python(value, fallback=str)
