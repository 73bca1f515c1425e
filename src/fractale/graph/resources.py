"""MCP resources in a step's inputs: ``{resource: "server:uri"}`` stands for what is there.

Only a mapping that the plan itself writes is one. What a template gives is data, and stays as it
is: ``"{{ {'resource': 'gpu'} }}"`` is an argument.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from fractale.graph import tool_calls
from fractale.graph.attempt import Attempt
from fractale.graph.doubt import too_late
from fractale.labels import Source
from fractale.plan.model import Value
from fractale.plan.values import has_resource, is_resource
from fractale.toolbox import ToolResult


async def fill_resources(attempt: Attempt) -> None:
    """Put what resources contain into the step's inputs.

    Raises:
        ToolError: A resource cannot be read, or the step's time is up.
        PolicyError: The settings refuse it.
    """
    step = attempt.step
    if step.foreach is not None or step.job or not has_resource(dict(step.inputs)):
        return
    written = step.inputs.items()
    try:
        async with asyncio.timeout(step.timeout):
            filled: dict[str, Any] = {}
            for name, value in written:
                found: set[Source] = set()
                filled[name] = await _filled(attempt, value, attempt.inputs[name], found)
                attempt.argument_sources[name] = attempt.argument_sources[name] | found
            attempt.inputs = filled
    except TimeoutError as error:
        raise too_late(step, attempt.cut_off) from error


async def _filled(attempt: Attempt, written: Value, rendered: Any, found: set[Source]) -> Any:
    """A rendered value with the resources that the plan writes in it.

    Args:
        found: Gets where they came from.
    """
    if is_resource(written):
        uri = str(rendered["resource"])
        result = await tool_calls.read_resource(attempt, uri, "plan")
        found.add(tool_calls.resource_source(attempt, uri))
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
    """Text as text; bytes as the file that the run keeps of them, of several parts a list."""
    files = [dict(file) for file in result.files]
    if not files:
        return result.text
    if result.text:
        return [result.text, *files]
    return files[0] if len(files) == 1 else files
