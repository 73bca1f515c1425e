"""The control flow of a plan: rules, transitions, conditions and sweeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from fractale.plan.fields import Fields, Reader, join
from fractale.plan.forms import CALLABLE_PATTERN, Form, Inline, matching, ref
from fractale.plan.values import Expression
from fractale.text import clip

if TYPE_CHECKING:
    from fractale.plan.node import Node

SUCCESS: Final = "success"
FAILURE: Final = "failure"
END_SUCCESS: Final = "success"
END_FAILED: Final = "failed"

NAME_PATTERN: Final = "[A-Za-z][A-Za-z0-9_-]*"
"""The name of a step or an event."""

NAME_REGEX: Final = re.compile(NAME_PATTERN, re.ASCII)

ZIP: Final = "zip"
"""The key of a `foreach` with lists that are gone through together."""

MOST_ITEMS: Final = 32
"""Items of a foreach that run at the same time, unless the step sets another number."""

MOST_JOBS: Final = 100
"""The same for batch jobs: waiting in a queue costs nothing, but floods harm a scheduler."""

Items: TypeAlias = "Expression | tuple[Any, ...]"


@dataclass(frozen=True, slots=True)
class Rule:
    """If the expression is true, the step's event is `event`."""

    event: str
    expression: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class ForEach:
    """A step that runs once per item.

    Args:
        items: An expression or a literal list. A mapping of these means their product, and each
            `item` is then a mapping with the same keys.
        zip: Whether a mapping means lists that are gone through together, not their product.
        max_parallel: The number of items that run at the same time; None: `MOST_ITEMS`, for batch
            jobs `MOST_JOBS`.
    """

    items: Items | Mapping[str, Items]
    max_parallel: int | None = None
    zip: bool = False

    @property
    def prefix(self) -> str:
        """The path of the lists in the step, such as ``foreach`` or ``foreach.zip``."""
        return "foreach.zip" if self.zip else "foreach"


def _rules(mapping: Fields, key: str) -> tuple[Rule, ...]:
    """The rules in file order."""
    rules: list[Rule] = []
    for event, node, path in _events(mapping, key):
        items = node.value if isinstance(node.value, list) else [node]
        for index, item in enumerate(items):
            where = f"{path}[{index}]" if isinstance(node.value, list) else path
            expression = _expression_of(mapping.reader, item, where)
            if expression:
                rules.append(Rule(event, expression))
    return tuple(rules)


def _transitions(mapping: Fields, key: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for event, node, path in _events(mapping, key):
        target = mapping.reader.name(node, path, "where a transition leads")
        if target:
            found[event] = END_FAILED if target == FAILURE else target
    return found


def _events(mapping: Fields, key: str) -> list[tuple[str, Node, str]]:
    """Event, value and path. ``failed`` and ``failure`` are one event."""
    found: dict[str, tuple[str, Node, str]] = {}
    for name, at, node in mapping.entries(key):
        event = FAILURE if name == END_FAILED else name
        path = f"{mapping.path}.{key}.{clip(name)}"
        if not NAME_REGEX.fullmatch(name):
            message = f"`{clip(name)}` cannot name an event: letters, digits, `_`, `-`"
            mapping.reader.fail("bad-name", message, at, path)
        elif event in found:
            message = "`failed` and `failure` are one event; put them together"
            mapping.reader.fail("duplicate-event", message, at, path)
        else:
            found[event] = event, node, path
    return list(found.values())


def _expression(mapping: Fields, key: str) -> Expression | None:
    return _expression_of(mapping.reader, mapping.value(key), join(mapping.path, key))


def _expression_of(reader: Reader, node: Node, path: str) -> Expression | None:
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


def _foreach(mapping: Fields, key: str) -> ForEach | None:
    node, path = mapping.value(key), join(mapping.path, key)
    if not isinstance(node.value, dict):
        items = _items(mapping.reader, node, path)
        return ForEach(items=items) if items is not None else None
    zipped = node.value.get(ZIP)
    if zipped is None or not isinstance(zipped.value, dict):
        return ForEach(items=_axes(mapping, key, node, path))
    for name, at in node.keys.items():
        if name != ZIP:
            message = f"`{clip(name)}` is beside `{ZIP}`; put it below that, or take `{ZIP}` away"
            mapping.reader.fail("misplaced-key", message, at, join(path, clip(name)))
    axes = _axes(mapping, key, zipped, join(path, ZIP))
    lengths = {name: len(items) for name, items in axes.items() if isinstance(items, tuple)}
    if len(set(lengths.values())) > 1:
        mapping.reader.fail("bad-value", unequal(lengths), node.keys[ZIP], join(path, ZIP))
    return ForEach(items=axes, zip=True)


def _axes(mapping: Fields, key: str, node: Node, path: str) -> dict[str, Items]:
    """The lists of a mapping by their names."""
    lists = cast("dict[str, Node]", node.value)
    found = {name: _items(mapping.reader, child, join(path, name)) for name, child in lists.items()}
    if not found:
        mapping.wrong(key, "an expression, a list, or a mapping of those")
    return {name: items for name, items in found.items() if items is not None}


def unequal(lengths: Mapping[str, int]) -> str:
    """The message about zipped lists of different lengths."""
    listed = ", ".join(f"`{name}` {length}" for name, length in lengths.items())
    return f"the lists of `{ZIP}` must have the same length: {listed}"


def _items(reader: Reader, node: Node, path: str) -> Items | None:
    if not isinstance(node.value, list):
        return _expression_of(reader, node, path)
    if not node.value:
        reader.fail("bad-value", "a list to go through needs at least one item", node, path)
    for index, item in enumerate(node.value):
        if item.source and "{{" in item.source:
            message = 'a list written out holds plain values; write it as an expression: "[a, b]"'
            reader.fail("bare-expression", message, item, f"{path}[{index}]")
    return tuple(item.plain() for item in node.value)


def _rules_data(rules: tuple[Rule, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rule in rules:
        found.setdefault(rule.event, Inline()).append(rule.expression.source)
    return found


def _foreach_data(foreach: ForEach) -> Any:
    if isinstance(foreach.items, Mapping):
        axes = {name: _items_data(axis) for name, axis in foreach.items.items()}
        return {ZIP: axes} if foreach.zip else axes
    return _items_data(foreach.items)


def _items_data(items: Items) -> Any:
    return items.source if isinstance(items, Expression) else Inline(items)


_ONE_OR_MORE: Final = {"anyOf": [ref("expression"), {"type": "array", "items": ref("expression")}]}
_AXIS: Final = {"anyOf": [ref("expression"), {"type": "array", "minItems": 1}]}
_AXES: Final = {"type": "object", "minProperties": 1, "additionalProperties": _AXIS}
_SWEEP: Final = {**_AXES, "properties": {"zip": {"anyOf": [*_AXIS["anyOf"], _AXES]}}}

EXPRESSION: Final = Form(_expression, ref("expression"), lambda expression: expression.source)

RULES: Final = Form(
    _rules,
    {
        "type": "object",
        "patternProperties": {f"^{NAME_PATTERN}$": _ONE_OR_MORE},
        "additionalProperties": False,
    },
    _rules_data,
)
"""Event → expressions."""

TRANSITIONS: Final = Form(
    _transitions,
    {
        "type": "object",
        "patternProperties": {f"^{NAME_PATTERN}$": matching(CALLABLE_PATTERN)},
        "additionalProperties": False,
    },
    dict,
)
"""Event → step, ``success`` or ``failed``."""

FOREACH: Final = Form(_foreach, {"anyOf": [*_AXIS["anyOf"], _SWEEP]}, _foreach_data)
"""An expression, a list, or a mapping of these."""


def expression_schema() -> dict[str, Any]:
    """JSON Schema of an expression."""
    return {"type": ["string", "boolean", "number"], "description": "An expression, no braces."}
