"""The names that an expression refers to, known without evaluating it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeAlias

from jinja2 import nodes

from fractale.errors import Position
from fractale.plan.expressions.syntax import REMEMBERED_TEXT, name_offset

Path = tuple[str | int, ...]

_Name: TypeAlias = tuple[Path, list[int], bool, bool]
"""A path, the offsets of its parts, whether it is complete, and whether it is optional."""

_GUARDS: Final = ("defined", "undefined")


@dataclass(frozen=True, slots=True)
class Reference:
    """A name that an expression refers to.

    Args:
        path: The name's parts, such as ``("steps", "transform", "outputs", "jobspec")``. It ends
            before a part that is only known at run time.
        position: The start of the name in the file.
        optional: Whether `default` or `is defined` allows the name to be missing.
        positions: The position of each part.
        exact: Whether `default` or `is defined` names exactly this path, and not only a part of it.
        complete: False if more parts follow that are only known at run time.
    """

    path: Path
    position: Position
    optional: bool = False
    positions: tuple[Position, ...] = ()
    complete: bool = True
    exact: bool = False


def shifted(start: Position, text: str, offset: int) -> Position:
    """The position of a character of a text that starts at a position.

    In the lines after the first, the column is that of the text plus that of the first line. This
    is right for block scalars, whose lines have the same indentation.
    """
    line = text.count("\n", 0, offset)
    column = offset - (text.rfind("\n", 0, offset) + 1)
    return Position(start.file, start.line + line, start.column + column)


def references_in(root: nodes.Expr, text: str, start: Position) -> list[Reference]:
    """The names that a tree refers to, in the order of the text.

    Args:
        root: The tree.
        text: The text that its offsets refer to.
        start: The position of the text in the file.
    """
    found = [
        Reference(
            path,
            shifted(start, text, offsets[0]),
            optional,
            tuple(shifted(start, text, offset) for offset in offsets),
            complete,
            optional,
        )
        for path, offsets, complete, optional in _names(root, text)
    ]
    tested = {reference.path for reference in found if reference.optional}
    found = [
        replace(r, optional=r.optional or _guarded(r.path, tested), exact=r.path in tested)
        for r in found
    ]
    return sorted(found, key=lambda r: (r.position.line, r.position.column))


def _names(root: nodes.Expr, text: str) -> tuple[_Name, ...]:
    """The names of a tree. Those of a tree that is itself remembered are remembered, too."""
    return _remembered(root, text) if len(text) <= REMEMBERED_TEXT else tuple(_walk(root, text))


@lru_cache(maxsize=1024)
def _remembered(root: nodes.Expr, text: str) -> tuple[_Name, ...]:
    return tuple(_walk(root, text))


def _guarded(path: Path, tested: set[Path]) -> bool:
    """Whether `is defined` or `default` tests the same name, or a name around it."""
    return any(path[:end] in tested for end in range(1, len(path) + 1))


def _walk(root: nodes.Expr, text: str) -> Iterator[_Name]:
    stack: list[tuple[nodes.Node, bool]] = [(root, False)]
    while stack:
        node, optional = stack.pop()
        if isinstance(node, (nodes.Name, nodes.Getattr, nodes.Getitem)):
            path, offsets, complete, inner = _path(node, text)
            if path:
                yield path, offsets, complete, optional
            stack += [(child, optional) for child in inner]
        elif isinstance(node, nodes.Call):
            stack += [(child, optional) for child in _inside_call(node)]
        else:
            guard = isinstance(node, nodes.Filter) and node.name in ("default", "d")
            guard = guard or (isinstance(node, nodes.Test) and node.name in _GUARDS)
            stack += [
                (child, optional or (guard and child is _subject(node)))
                for child in node.iter_child_nodes()
            ]


def _subject(node: nodes.Node) -> nodes.Node | None:
    return node.node if isinstance(node, (nodes.Filter, nodes.Test)) else None


def _inside_call(node: nodes.Call) -> list[nodes.Node]:
    """The parts of a call that may have names: its arguments, and the method's object."""
    inner: list[nodes.Node] = [*node.args, *node.kwargs]
    if isinstance(node.node, nodes.Getattr):
        inner.append(node.node.node)
    return inner


def _path(node: nodes.Expr, text: str) -> tuple[Path, list[int], bool, list[nodes.Node]]:
    """A dotted name's parts and their positions, and the expressions inside its brackets."""
    parts: list[str | int] = []
    offsets: list[int] = []
    inner: list[nodes.Node] = []
    complete = True
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        part, offset = _last_part(node, text)
        if part is None:
            # After an unknown part, all further parts are unknown, too.
            parts, offsets, complete = [], [], False
            inner += [node.arg] if isinstance(node, nodes.Getitem) else []
        else:
            parts.append(part)
            offsets.append(offset)
        node = node.node
    if not isinstance(node, nodes.Name):
        return (), [], False, [*inner, node]
    path = (node.name, *reversed(parts))
    return path, [node.lineno, *reversed(offsets)], complete, inner


def _last_part(node: nodes.Getattr | nodes.Getitem, text: str) -> tuple[str | int | None, int]:
    if isinstance(node, nodes.Getattr):
        return node.attr, name_offset(text, node)
    if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, (str, int)):
        quote = isinstance(node.arg.value, str)
        return node.arg.value, node.arg.lineno + quote
    return None, 0


def compared_in(root: nodes.Expr, name: str) -> list[str]:
    """The literal texts that a tree compares with a name, by `==`, `!=` or `in`."""
    found: list[str] = []
    for compare in (root, *root.find_all(nodes.Compare)):
        if not isinstance(compare, nodes.Compare):
            continue
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        if any(operand.op not in ("eq", "ne", "in", "notin") for operand in compare.ops):
            continue
        if any(isinstance(side, nodes.Name) and side.name == name for side in sides):
            found += [text for side in sides for text in _literals(side)]
    return list(dict.fromkeys(found))


def _literals(node: nodes.Expr) -> list[str]:
    """The text that a node is, or the texts of a list."""
    parts = node.items if isinstance(node, (nodes.List, nodes.Tuple)) else [node]
    return [part.value for part in parts if isinstance(part, nodes.Const) and _is_text(part.value)]


def _is_text(value: object) -> bool:
    return isinstance(value, str)
