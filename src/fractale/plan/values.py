"""Nodes → the values of a plan: templates where text holds ``{{``, and where everything stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fractale.plan.fields import join
from fractale.plan.model import Template, Value

if TYPE_CHECKING:
    from fractale.errors import Position
    from fractale.plan.node import Node


def template(node: Node) -> str | Template:
    """A text's value: a template if it holds ``{{``."""
    text = cast("str", node.value)
    return Template(text, node.position) if "{{" in text else text


def value(node: Node) -> Value:
    """A node's value with its templates, at any depth."""
    if isinstance(node.value, dict):
        return {key: value(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [value(child) for child in node.value]
    return template(node) if isinstance(node.value, str) else node.value


def positions(node: Node) -> dict[str, Position]:
    """Path → position of everything inside a mapping.

    A list or mapping stands where its key does, since that is what a reader looks for.
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
