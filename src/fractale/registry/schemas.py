"""JSON Schemas as clients expect them: without titles and, if possible, without references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

WRAPPED: Final = "x-fastmcp-wrap-result"
"""FastMCP's mark in an output schema: the answer itself is under the key ``result``."""

_MAPS: Final = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
"""Keywords whose value maps names to schemas."""
_LISTS: Final = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SINGLE: Final = {"items", "contains", "propertyNames", "not", "if", "then", "else"} | {
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
}
_PREFIX: Final = "#/$defs/"
_MOST_PARTS: Final = 20_000
"""Inlining copies definitions: a schema that grows beyond this size keeps its references."""


class _CannotInlineError(Exception):
    """The references form a cycle, point outside ``$defs``, or expand to too much."""


def untitled(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the titles that pydantic makes from names."""
    return {
        key: _untitled_under(key, value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }


def _untitled_under(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        if key in _MAPS:
            return {name: _untitled_each(each) for name, each in table.items()}
        return untitled(table) if key in _SINGLE else table
    if isinstance(value, list) and key in _LISTS:
        return [_untitled_each(each) for each in cast("list[Any]", value)]
    return cast("Any", value)


def _untitled_each(value: Any) -> Any:
    return untitled(cast("dict[str, Any]", value)) if isinstance(value, dict) else value


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace references by their ``$defs``: some clients don't support ``$ref``.

    A schema that refers to itself keeps its references, except at its root, where MCP requires
    ``type: object``.
    """
    if "$defs" not in schema:
        return schema
    body = {key: value for key, value in schema.items() if key != "$defs"}
    try:
        return _Inliner(schema["$defs"]).expand(body, frozenset())
    except _CannotInlineError:
        return _rooted(schema)


class _Inliner:
    """Replaces references by definitions, up to a size."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._left = _MOST_PARTS

    def expand(self, node: Any, inside: frozenset[str]) -> Any:
        """Replace the references in a part of the schema.

        Args:
            inside: The definitions that contain the part.

        Raises:
            _CannotInlineError: The references must stay.
        """
        self._left -= 1
        if self._left < 0:
            raise _CannotInlineError
        if isinstance(node, list):
            return [self.expand(each, inside) for each in cast("list[Any]", node)]
        if not isinstance(node, dict):
            return node
        return self._expand_table(cast("dict[str, Any]", node), inside)

    def _expand_table(self, table: dict[str, Any], inside: frozenset[str]) -> dict[str, Any]:
        beside = {
            key: self.expand(value, inside)
            for key, value in table.items()
            if key != "$ref" or not isinstance(value, str)
        }
        name = _referred(table)
        if name is None:
            return _without_discriminator(beside)
        if name in inside or name not in self._definitions:
            raise _CannotInlineError
        return {**self.expand(self._definitions[name], inside | {name}), **beside}


def _referred(table: Mapping[str, Any]) -> str | None:
    """The definition that a part refers to; None if it has no reference.

    Raises:
        _CannotInlineError: The reference points outside ``$defs``.
    """
    reference = table.get("$ref")
    if not isinstance(reference, str):  # also a property that is called so
        return None
    if not reference.startswith(_PREFIX):
        raise _CannotInlineError
    return reference.removeprefix(_PREFIX)


def _without_discriminator(table: dict[str, Any]) -> dict[str, Any]:
    """Remove OpenAPI's discriminator from a union: it refers to definitions that are inlined.

    The tag becomes a required property of each member: pydantic omits it if it has a default.
    """
    tag = table.get("discriminator")
    if not isinstance(tag, dict) or not {"anyOf", "oneOf"} & table.keys():
        return table
    name = cast("dict[str, Any]", tag).get("propertyName")
    return {
        key: [_requiring(name, each) for each in value] if key in ("anyOf", "oneOf") else value
        for key, value in table.items()
        if key != "discriminator"
    }


def _requiring(name: Any, member: Any) -> Any:
    if not isinstance(name, str) or not isinstance(member, dict):
        return member
    known = cast("dict[str, Any]", member)
    required: list[str] = known.get("required", [])
    return known if name in required else {**known, "required": [*required, name]}


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace the reference at the root of a schema."""
    reference = schema.get("$ref")
    if "type" in schema or not isinstance(reference, str):
        return schema
    target: Any = schema["$defs"].get(reference.removeprefix(_PREFIX))
    if not isinstance(target, dict):
        return schema
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
