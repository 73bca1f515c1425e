"""Whether a step's `output_schema` is a JSON Schema that can be used offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fractale.text import clip

if TYPE_CHECKING:
    from fractale.plan.fields import Reader
    from fractale.plan.node import Node


def read_output_schema(reader: Reader, node: Node, path: str) -> dict[str, Any]:
    """A JSON Schema as plain data.

    References must point into the schema itself: one that names a URL would make whoever
    validates with it fetch that URL.

    Args:
        reader: Collects the problems.
        node: The schema, a mapping.
        path: Where in the plan.
    """
    # It imports jsonschema, which takes a tenth of a second, and most plans have no schema.
    from fractale.schemas import faults_of

    schema: dict[str, Any] = node.plain()
    for where, reason in faults_of(schema):
        at, inner = _descend(node, where, path)
        reader.fail("bad-schema", clip(reason, 240), at, inner)
    return schema


def _descend(node: Node, where: list[str | int], path: str) -> tuple[Node, str]:
    for part in where:
        if isinstance(node.value, dict):
            node, path = node.value[str(part)], f"{path}.{part}"
        elif isinstance(node.value, list):
            node, path = node.value[int(part)], f"{path}[{part}]"
    return node, path
