"""The tools of a run as a model's provider accepts them: renamed, adapted, or left out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.tools import StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from fractale.models.tool_schemas import MOST_TOOLS, wire_names, wire_schema

if TYPE_CHECKING:
    from fractale.agents.loop import LoopTool

Warn = Callable[[str, str], None]
"""Takes a code and a message."""

MOST_NAMES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A tool, and what the model is shown of it.

    Args:
        declared: Under the name that the model calls it by; what it does is never called.
    """

    tool: LoopTool
    declared: StructuredTool

    @property
    def name(self) -> str:
        """The name that the model calls it by."""
        return self.declared.name


def offer(tools: Sequence[LoopTool], warn: Warn, most: int = MOST_TOOLS) -> list[Offered]:
    """What a model is shown of some tools, at most so many.

    Args:
        warn: Is told of each tool that is left out, with its server.
    """
    unlike = list(_unlike(tools))
    names = wire_names(tool.name for tool in unlike)
    offered: list[Offered] = []
    for tool in unlike:
        try:
            offered.append(Offered(tool=tool, declared=_declared(tool, names[tool.name])))
        except Exception as error:  # noqa: BLE001 - LangChain raises anything about a schema
            warn("tool-left-out", f"{_full_name(tool)} is not shown to the model: {error}")
    return _at_most(offered, most, warn)


def _unlike(tools: Sequence[LoopTool]) -> Iterator[LoopTool]:
    """The tools under different names: a server's tool named as one of fractale's is qualified."""
    own = {tool.name for tool in tools if not tool.server}
    for tool in tools:
        shared = tool.server and tool.name in own
        yield replace(tool, name=f"{tool.server}.{tool.name}") if shared else tool


def _declared(tool: LoopTool, name: str) -> StructuredTool:
    schema = wire_schema(tool.schema)
    words = str(schema.pop("description", ""))
    described = [tool.description] if words in tool.description else [tool.description, words]

    async def call(**_arguments: Any) -> str:  # pragma: no cover - the loop makes the calls
        raise AssertionError("HostMiddleware makes the calls")

    declared = StructuredTool(
        name=name, description="\n".join(described), args_schema=schema, coroutine=call
    )
    convert_to_openai_tool(declared)  # raises now what would end each request later
    return declared


def _full_name(tool: LoopTool) -> str:
    return f"the tool `{tool.name}` of the server {tool.server}" if tool.server else tool.name


def _at_most(offered: list[Offered], most: int, warn: Warn) -> list[Offered]:
    """What fits: all that is fractale's own, then the servers' tools in turns."""
    if len(offered) <= most:
        return offered
    servers = dict.fromkeys(each.tool.server for each in offered)
    queues = [[each for each in offered if each.tool.server == server] for server in servers]
    queues.sort(key=lambda queue: queue[0].tool.server != "")
    own = queues.pop(0) if not queues[0][0].tool.server else []
    turns = [each for turn in itertools.zip_longest(*queues) for each in turn if each]
    kept = {each.name for each in [*own, *turns][:most]}
    left_out = [each.tool for each in offered if each.name not in kept]
    named = ", ".join(f"`{tool.name}` ({tool.server})" for tool in left_out[:MOST_NAMES])
    more = f" and {len(left_out) - MOST_NAMES} more" if len(left_out) > MOST_NAMES else ""
    warn(
        "tools-left-out",
        f"{len(left_out)} of {len(offered)} tools are not shown to the model, which takes {most}: "
        f"{named}{more}; name those that the step needs in `tools`",
    )
    return [each for each in offered if each.name in kept]
