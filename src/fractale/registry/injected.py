"""Parameters that LangGraph sets, not the caller: LangChain's own annotations on a function.

A function may ask for the `RunnableConfig` of the call, for LangGraph's `ToolRuntime`, or for
`InjectedState`, `InjectedStore` and `InjectedToolCallId`, as it does under `create_agent`. Such
parameters are not part of the tool. LangGraph's `ToolNode` provides their values.

Nothing here imports LangChain before a function asks for something of it.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, get_args, get_origin
from uuid import uuid4

from fractale.errors import ToolError
from fractale.toolbox import LOCAL_CALL

_CONFIG: Final = "RunnableConfig"
_RUNTIME: Final = "_DirectlyInjectedToolArg"
_ANY: Final = "InjectedToolArg"
_STATE, _STORE, _CALL_ID = "InjectedState", "InjectedStore", "InjectedToolCallId"
_NAMES: Final = (_STATE, _STORE, _CALL_ID, _RUNTIME, _ANY)
_PACKAGES: Final = ("langchain_core", "langgraph")


@dataclass(frozen=True, slots=True)
class InjectedParameter:
    """A parameter that the run sets.

    Args:
        what: The name of LangChain's class that its annotation names.
        key: Of `InjectedState`: the key of the state; None: the whole state.
    """

    what: str
    key: str | None = None


def injected_in(hints: Mapping[str, Any]) -> dict[str, InjectedParameter]:
    """The parameters that the run sets, by name.

    Args:
        hints: The annotations of a function by name.
    """
    if "langchain_core" not in sys.modules:
        return {}
    found = {name: _injected(hint) for name, hint in hints.items() if name != "return"}
    return {name: each for name, each in found.items() if each is not None}


def _injected(hint: Any) -> InjectedParameter | None:
    if _class_name(hint) == _CONFIG:
        return InjectedParameter(_CONFIG)
    arguments = get_args(hint)
    marks = arguments[1:] if get_origin(hint) is Annotated else ()
    for mark in (hint, get_origin(hint), *marks):
        kind: Any = mark if isinstance(mark, type) else type(mark)
        for base in kind.__mro__ if isinstance(kind, type) else ():
            if (name := _class_name(base)) in _NAMES:
                return InjectedParameter(name, getattr(mark, "field", None))
    if get_origin(hint) is Annotated:
        return _injected(arguments[0])
    members = [each for each in arguments if each is not type(None)]
    return _injected(members[0]) if len(members) == 1 and len(arguments) == 2 else None


def _class_name(found: Any) -> str | None:
    """The name of a class of LangChain or LangGraph; None for anything else."""
    package = str(getattr(found, "__module__", "")).partition(".")[0]
    return getattr(found, "__name__", None) if package in _PACKAGES else None


def call_id() -> str:
    """The id of the present call, as LangChain's ``tool_call_id``."""
    call = LOCAL_CALL.get()
    return call.id if call else uuid4().hex


def in_graph() -> bool:
    """Whether the running code belongs to a node of a LangGraph graph."""
    if "langgraph.config" not in sys.modules:
        return False
    from langgraph.runtime import get_runtime

    try:
        runtime: Any = get_runtime()
    except (RuntimeError, KeyError):
        return False
    return runtime is not None


async def values_of(
    parameters: Mapping[str, InjectedParameter], tool: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of injected parameters in the present call.

    A parameter of the caller's own kind of `InjectedToolArg` gets no value.

    Raises:
        ToolError: A value exists only in a run of a plan, and this is none.
    """
    if all(each.what in (_CONFIG, _ANY) for each in parameters.values()):
        from langchain_core.runnables.config import ensure_config

        return {name: ensure_config() for name, p in parameters.items() if p.what == _CONFIG}
    if not in_graph():
        asked = ", ".join(f"`{name}`" for name in parameters)
        raise ToolError(f"`{tool}` needs {asked}, which only a run of a plan can provide")
    runtime = await _runtime(tool, arguments)
    return {
        name: _value(parameter, runtime)
        for name, parameter in parameters.items()
        if parameter.what != _ANY
    }


async def _runtime(tool: str, arguments: Mapping[str, Any]) -> Any:
    """LangGraph's `ToolRuntime` of the present call."""
    from langchain_core.messages import ToolMessage
    from langgraph.prebuilt import ToolNode

    seen: list[Any] = []

    async def look(request: Any, _: Any) -> ToolMessage:
        seen.append(request.runtime)
        return ToolMessage("", tool_call_id=request.tool_call["id"])

    node: Any = ToolNode([], awrap_tool_call=look)
    asked = {"type": "tool_call", "name": tool, "args": dict(arguments), "id": call_id()}
    await node.ainvoke([asked])
    return _callers(seen[0])


async def in_callers_context(request: Any, make: Callable[[Any], Awaitable[Any]]) -> Any:
    """Make a call of LangGraph's `ToolNode` with the context that the tool may see."""
    return await make(replace(request, runtime=_callers(request.runtime)))


def _callers(runtime: Any) -> Any:
    """A `ToolRuntime` with the context of the application. That of the node is fractale's own."""
    call = LOCAL_CALL.get()
    return replace(runtime, context=call.context if call else None)


def _value(parameter: InjectedParameter, runtime: Any) -> Any:
    if parameter.what == _CONFIG:
        return runtime.config
    if parameter.what == _STORE:
        if runtime.store is None:
            raise ToolError("the run has no store: compile the graph with `store=`")
        return runtime.store
    if parameter.what == _CALL_ID:
        return runtime.tool_call_id
    if parameter.what == _RUNTIME:
        return runtime
    if parameter.key is None:
        return runtime.state
    if parameter.key not in runtime.state:
        raise ToolError(f"the state of the graph has no key `{parameter.key}`")
    return runtime.state[parameter.key]
