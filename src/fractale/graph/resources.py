"""MCP resources: read by a step's inputs, as ``{resource: "server:uri"}``, or by a model.

In inputs, a mapping names a resource only if the plan itself writes the mapping. The result of a
template is data and stays unchanged: ``"{{ {'resource': 'gpu'} }}"`` is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from fractale.graph.call import Attempt
from fractale.graph.kinds.tool import agree, call_tool, with_files
from fractale.plan.kinds import READ_RESOURCE
from fractale.plan.model import Value
from fractale.plan.values import has_resource, is_resource
from fractale.policy import Chooser, Source
from fractale.toolbox import ToolInfo, ToolResult

RESOURCE_READER = ToolInfo(
    name=READ_RESOURCE, server="fractale", annotations={"readOnlyHint": True}
)
"""Reads a resource that a server lists."""

OPEN_READER = replace(RESOURCE_READER, annotations={"readOnlyHint": True, "openWorldHint": True})
"""Reads a resource by a URI that no server lists. The URI itself discloses data to the server."""


async def read_resource(
    attempt: Attempt, uri: str, chosen_by: Chooser, agent: str | None = None
) -> ToolResult:
    """Read a resource of the run's servers. fractale itself makes this call, which only reads.

    Args:
        agent: The path of the sub-agent that reads the resource, if it is not the step's own.

    Raises:
        ToolError: The resource does not exist, or its server failed.
        PolicyError: The settings or the user refuse the call.
    """
    listed = chosen_by == "plan" or await _is_listed(attempt, uri)
    reader = RESOURCE_READER if listed else OPEN_READER
    arguments = agree(attempt, reader, {"uri": uri}, chosen_by)

    async def make() -> ToolResult:
        answer = await attempt.deps.toolbox.read_resource(str(arguments["uri"]))
        return with_files(answer, attempt.deps.outputs)

    source = _source(attempt, uri)
    return await call_tool(attempt, reader, arguments, agent, make=make, source=source)


def _source(attempt: Attempt, uri: str) -> Source:
    trusted = uri in attempt.deps.policy.settings.sources.trusted
    return Source(kind="resource", name=uri, untrusted=not trusted, private=True)


async def _is_listed(attempt: Attempt, uri: str) -> bool:
    """Whether a server lists a resource of that URI, rather than a template that the URI fits."""
    return any(
        uri in (info.uri, f"{info.server}:{info.uri}", f"{info.server}.{info.uri}")
        for info in await attempt.deps.toolbox.resources()
        if not info.is_template
    )


async def fill_inputs(attempt: Attempt) -> None:
    """Put the contents of resources into the step's inputs.

    Raises:
        ToolError: A resource cannot be read.
        PolicyError: The settings refuse it.
    """
    filled: dict[str, Any] = {}
    for name, written in attempt.step.inputs.items():
        found: set[Source] = set()
        filled[name] = await _filled(attempt, written, attempt.inputs[name], found)
        attempt.argument_sources[name] = attempt.argument_sources[name] | found
    attempt.inputs = filled


async def _filled(attempt: Attempt, written: Value, rendered: Any, found: set[Source]) -> Any:
    """A rendered value with the contents of the resources that the plan writes in it.

    Args:
        found: Receives the resources as sources.
    """
    if is_resource(written):
        uri = str(rendered["resource"])
        result = await read_resource(attempt, uri, "plan")
        found.add(_source(attempt, uri))
        return _value_of(result)
    if isinstance(written, dict) and has_resource(written):
        table = cast("Mapping[str, Any]", rendered)
        return {
            name: await _filled(attempt, each, table[name], found) for name, each in written.items()
        }
    if isinstance(written, list) and has_resource(written):
        parts = zip(written, cast("list[Any]", rendered), strict=True)
        return [await _filled(attempt, each, value, found) for each, value in parts]
    return rendered


def _value_of(result: ToolResult) -> Any:
    """Text as text, bytes as the run's file with these bytes, several parts as a list."""
    files = [dict(file) for file in result.files]
    if not files:
        return result.text
    if result.text:
        return [result.text, *files]
    return files[0] if len(files) == 1 else files
