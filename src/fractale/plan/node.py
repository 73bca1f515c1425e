"""A value of a YAML file that knows where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from fractale.plan.scalars import Scalar
from fractale.text import clip

if TYPE_CHECKING:
    from fractale.errors import Position

NodeValue: TypeAlias = "Scalar | list[Node] | dict[str, Node]"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One value of a YAML file.

    Args:
        value: A plain value, a list of nodes, or a mapping of text to nodes.
        position: Of the first character; inside the quotes, and at the first line of the
            content of a ``|`` or ``>`` block.
        length: Characters of it on its first line, at least 1.
        source: A scalar's text as written, without quotes.
        keys: A mapping's keys as nodes.
    """

    value: NodeValue
    position: Position
    length: int = 1
    source: str = ""
    keys: dict[str, Node] = field(default_factory=dict[str, "Node"])

    def plain(self) -> Any:
        """The value as plain JSON data, without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def found(self) -> str:
        """What stands here, in words for a message."""
        match self.value:
            case None:
                return "nothing"
            case bool():
                return str(self.value).lower()
            case int() | float():
                return f"the number {clip(self.source)}"
            case str():
                return f"the text `{clip(self.value)}`" if self.value else "empty text"
            case list():
                return "a list" if self.value else "an empty list"
            case dict():
                return "a mapping"
