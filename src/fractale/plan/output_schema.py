"""Whether a step's `output_schema` is a JSON Schema that can be used offline."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from fractale.plan.scalars import clip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fractale.plan.fields import Reader
    from fractale.plan.node import Node

_DATA: Final = frozenset({"const", "default", "enum", "examples"})
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef"})


def read_output_schema(reader: Reader, node: Node, path: str) -> dict[str, Any]:
    """A JSON Schema as plain data.

    References must point into the schema itself: one that names a URL would make whoever
    validates with it fetch that URL.

    Args:
        reader: Collects the problems.
        node: The schema, a mapping.
        path: Where in the plan.
    """
    schema: dict[str, Any] = node.plain()
    found = len(reader.problems.problems)
    for keyword, at, where in _keywords(node, path):
        if keyword in _REFERENCES:
            _check_reference(reader, schema, at, where)
        elif keyword == "pattern":
            _check_pattern(reader, at, where)
    if len(reader.problems.problems) == found:
        _check_schema(reader, schema, node, path)
    return schema


def _keywords(node: Node, path: str) -> Iterator[tuple[str, Node, str]]:
    """Every key with a text value, outside of data."""
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            if isinstance(child.value, str):
                yield key, child, f"{path}.{key}"
            elif key not in _DATA:
                yield from _keywords(child, f"{path}.{key}")
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _keywords(child, f"{path}[{index}]")


def _check_reference(reader: Reader, schema: dict[str, Any], node: Node, path: str) -> None:
    if not node.source.startswith("#"):
        message = f"a reference must start with `#` (inside this schema), not `{clip(node.source)}`"
        reader.fail("bad-schema", message, node, path)
    elif node.source.startswith("#/") and not _leads_somewhere(schema, node.source):
        message = f"`{clip(node.source)}` leads nowhere in this schema"
        reader.fail("bad-schema", message, node, path)


def _leads_somewhere(schema: Any, pointer: str) -> bool:
    for word in pointer[2:].split("/"):
        key = word.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list):
            items = cast("list[Any]", schema)
            schema = dict(zip(map(str, range(len(items))), items, strict=True))
        if not isinstance(schema, dict) or key not in schema:
            return False
        schema = cast("dict[str, Any]", schema)[key]
    return True


def _check_pattern(reader: Reader, node: Node, path: str) -> None:
    try:
        re.compile(node.source)
    except (re.error, RecursionError, OverflowError) as error:
        reader.fail("bad-schema", f"not a regular expression: {error}", node, path)


def _check_schema(reader: Reader, schema: dict[str, Any], node: Node, path: str) -> None:
    # Costs a tenth of a second to import, and most plans have no schema.
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        at, inner = _descend(node, list(error.absolute_path), path)
        reader.fail("bad-schema", f"not a JSON Schema: {clip(error.message, 120)}", at, inner)


def _descend(node: Node, where: list[str | int], path: str) -> tuple[Node, str]:
    for part in where:
        if isinstance(node.value, dict):
            node, path = node.value[str(part)], f"{path}.{part}"
        elif isinstance(node.value, list):
            node, path = node.value[int(part)], f"{path}[{part}]"
    return node, path
