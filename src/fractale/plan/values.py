"""Values of a plan: JSON whose text may contain templates, and bare expressions.

Both types store their position, so that an error at run time still names ``file:line:col``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, cast

from fractale.plan.fields import join

if TYPE_CHECKING:
    from fractale.errors import Position
    from fractale.plan.node import Node


@dataclass(frozen=True, slots=True)
class Template:
    """Text with at least one ``{{ … }}``. Templates of equal text are equal at any position."""

    source: str
    position: Position = field(compare=False)


@dataclass(frozen=True, slots=True)
class Expression:
    """A bare expression, as in `rules`, `when` and `foreach`."""

    source: str
    position: Position = field(compare=False)


Value: TypeAlias = "bool | int | float | str | Template | list[Value] | dict[str, Value] | None"
"""JSON whose strings may be templates."""


def template(node: Node) -> str | Template:
    """The value of a text: a template if it contains ``{{``."""
    text = cast("str", node.value)
    return Template(text, node.position) if "{{" in text else text


def value_of(node: Node) -> Value:
    """The value of a node, with its templates at any depth."""
    if isinstance(node.value, dict):
        return {key: value_of(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [value_of(child) for child in node.value]
    return template(node) if isinstance(node.value, str) else node.value


def plain_value(value: Value) -> object:
    """The value as the file has it: templates are text again."""
    if isinstance(value, dict):
        return {key: plain_value(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain_value(child) for child in value]
    return value.source if isinstance(value, Template) else value


def is_resource(value: Value) -> bool:
    """Whether a value names an MCP resource: ``{resource: "server:uri"}``."""
    return isinstance(value, dict) and list(value) == ["resource"]


def has_resource(value: Value) -> bool:
    """Whether some value inside a step's inputs names an MCP resource.

    The inputs themselves never do: an argument may have the name `resource`.
    """
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(is_resource(each) or has_resource(each) for each in inner)


def has_template(value: Value) -> bool:
    """Whether a value is only known at run time."""
    if is_resource(value):
        return True
    if isinstance(value, dict):
        return any(map(has_template, value.values()))
    if isinstance(value, list):
        return any(map(has_template, value))
    return isinstance(value, Template)


def positions(node: Node) -> dict[str, Position]:
    """Path → position of everything inside a mapping.

    The position of a list or mapping is that of its key, which a reader looks for.
    """
    found: dict[str, Position] = {}
    _collect(node, "", found)
    return found


def _collect(node: Node, path: str, found: dict[str, Position]) -> None:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            inner = isinstance(child.value, (dict, list))
            found[join(path, key)] = (node.keys[key] if inner else child).position
            _collect(child, join(path, key), found)
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            found[f"{path}[{index}]"] = child.position
            _collect(child, f"{path}[{index}]", found)
