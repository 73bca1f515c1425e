"""What moves a plan from step to step: rules, transitions, conditions, sweeps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from fractale.plan.fields import Fields, Reader, join
from fractale.plan.model import END_FAILED, FAILURE, Expression, ForEach, Rule
from fractale.text import clip

if TYPE_CHECKING:
    from fractale.plan.node import Node

NAME_PATTERN: Final = "[A-Za-z][A-Za-z0-9_-]*"
"""What names a step or an event."""

NAME: Final = re.compile(NAME_PATTERN, re.ASCII)


def read_rules(fields: Fields) -> tuple[Rule, ...]:
    """The step's rules, in file order."""
    rules: list[Rule] = []
    for event, node, path in _events(fields, "rules"):
        items = node.value if isinstance(node.value, list) else [node]
        for index, item in enumerate(items):
            where = f"{path}[{index}]" if isinstance(node.value, list) else path
            expression = _expression(fields.reader, item, where)
            if expression:
                rules.append(Rule(event, expression))
    return tuple(rules)


def read_transitions(fields: Fields) -> dict[str, str]:
    """Event → step, ``success`` or ``failed``."""
    found: dict[str, str] = {}
    for event, node, path in _events(fields, "transitions"):
        target = fields.reader.name(node, path, "where a transition leads")
        if target:
            found[event] = END_FAILED if target == FAILURE else target
    return found


def _events(fields: Fields, key: str) -> list[tuple[str, Node, str]]:
    """Event, value and path; ``failed`` and ``failure`` are one event."""
    found: dict[str, tuple[str, Node, str]] = {}
    for name, at, node in fields.entries(key):
        event = FAILURE if name == END_FAILED else name
        path = f"{fields.path}.{key}.{clip(name)}"
        if not NAME.fullmatch(name):
            message = f"`{clip(name)}` cannot name an event: letters, digits, `_`, `-`"
            fields.reader.fail("bad-name", message, at, path)
        elif event in found:
            message = "`failed` and `failure` are one event; put them together"
            fields.reader.fail("duplicate-event", message, at, path)
        else:
            found[event] = event, node, path
    return list(found.values())


def _expression(reader: Reader, node: Node, path: str) -> Expression | None:
    if isinstance(node.value, (dict, list)) or node.value is None:
        message = f"an expression must be text, not {node.found()}"
        reader.fail("wrong-type", message, node, path)
        return None
    source = str(node.value).lower() if isinstance(node.value, bool) else node.source
    bare = source.strip()
    if not bare:
        reader.fail("wrong-type", "an expression is empty", node, path)
    elif bare.startswith("{{") and bare.endswith("}}"):
        message = f"write the expression without braces: `{clip(bare[2:-2].strip())}`"
        reader.fail("bare-expression", message, node, path)
    return Expression(source, node.position)


def read_when(fields: Fields) -> Expression | None:
    """The condition under which the step runs."""
    node = fields.get("when")
    return _expression(fields.reader, node, join(fields.path, "when")) if node else None


def read_foreach(fields: Fields) -> ForEach | None:
    """What the step goes through."""
    most = fields.whole("max_parallel")
    node = fields.get("foreach")
    if node is None:
        return None
    path = join(fields.path, "foreach")
    if not isinstance(node.value, dict):
        items = _items(fields.reader, node, path)
        return ForEach(items=items, max_parallel=most) if items is not None else None
    found = {
        key: _items(fields.reader, child, join(path, key)) for key, child in node.value.items()
    }
    if not found:
        fields.wrong("foreach", "an expression, a list, or a mapping of those")
    axes = {key: items for key, items in found.items() if items is not None}
    return ForEach(items=axes, max_parallel=most)


def _items(reader: Reader, node: Node, path: str) -> Expression | tuple[Any, ...] | None:
    if not isinstance(node.value, list):
        return _expression(reader, node, path)
    if not node.value:
        reader.fail("bad-value", "a list to go through needs at least one item", node, path)
    for index, item in enumerate(node.value):
        if item.source and "{{" in item.source:
            message = 'a list written out holds plain values; write it as an expression: "[a, b]"'
            reader.fail("bare-expression", message, item, f"{path}[{index}]")
    return tuple(item.plain() for item in node.value)
