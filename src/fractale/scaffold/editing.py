"""Adds an item to a list in YAML text; every other line keeps its comments and layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from fractale.errors import UsageError
from fractale.text import listing, nearest


def add_item(
    text: str,
    key: str,
    item: Sequence[str],
    *,
    after: str | None = None,
    before_key: str | None = None,
) -> str:
    """Add an item to the list at a key of the top level.

    Args:
        text: YAML that is a mapping, and that fractale can read.
        item: The lines of the item without their common indentation; the first begins with ``- ``.
        after: The `name` of the item that the new one follows; None: the last one.
        before_key: If the text lacks the key, the key before which it is added; None: at the end.

    Raises:
        UsageError: The list is written in brackets, or has no item of that name.
    """
    lines = text.splitlines(keepends=True)
    pairs = _pairs_of(text)
    names = [name.value for name, _ in pairs]
    if key in names:
        place = names.index(key)
        value = pairs[place][1]
        if not isinstance(value, yaml.SequenceNode) or value.flow_style:
            raise UsageError(
                f"`{key}` is not a list with one item per line",
                hint=f"write `{key}:` with one item per line, each after `- `",
            )
        end = pairs[place + 1][0].start_mark.line if place + 1 < len(pairs) else len(lines)
        number, new = _in_list(lines, value, item, after, end)
    else:
        if after is not None:
            raise _no_item(key, after, [])
        new = [f"{key}:", *_indented(item, 2)]
        if before_key in names:
            number = _above_comments(lines, pairs[names.index(before_key)][0].start_mark.line)
            new = [*new, ""]
        else:
            number = len(lines)
            new = ["", *new] if any(line.strip() for line in lines) else new
    ending = "\r\n" if "\r\n" in text else "\n"
    before = "".join(lines[:number])
    if before and not before.endswith(("\n", "\r")):
        before += ending
    return before + "".join(line + ending for line in new) + "".join(lines[number:])


def _pairs_of(text: str) -> list[tuple[Any, Any]]:
    """The nodes of the keys and values of a mapping; none of another document."""
    top: Any = yaml.compose(text, Loader=yaml.SafeLoader)  # pyright: ignore[reportUnknownVariableType] - untyped
    return list(top.value) if isinstance(top, yaml.MappingNode) else []


def _in_list(
    lines: Sequence[str], value: Any, item: Sequence[str], after: str | None, end: int
) -> tuple[int, list[str]]:
    """The line before which an item goes, and its lines."""
    column = value.start_mark.column
    starts = [_dash_line(lines, node.start_mark.line, column) for node in value.value]
    names = [_name_of(node) for node in value.value]
    if after is not None and after not in names:
        raise _no_item("the plan", after, [name for name in names if name])
    place = len(starts) - 1 if after is None else names.index(after)
    stop = starts[place + 1] if place + 1 < len(starts) else end
    number = _end_of_item(lines, stop, column)
    # As the items that exist are separated, so is the new one.
    spaced = any(not lines[start - 1].strip() for start in starts[1:])
    return number, [*([""] if spaced else []), *_indented(item, column)]


def _dash_line(lines: Sequence[str], line: int, column: int) -> int:
    """The line of an item's dash: that of its content, or one above it."""
    while line > 0 and not lines[line][column:].startswith("-"):
        line -= 1
    return line


def _end_of_item(lines: Sequence[str], stop: int, column: int) -> int:
    """The line after an item, without the empty lines and comments that belong to what follows."""
    while stop > 0 and _is_between(lines[stop - 1], column):
        stop -= 1
    return stop


def _is_between(line: str, column: int) -> bool:
    text = line.strip()
    depth = len(line) - len(line.lstrip())
    return not text or text == "..." or (text.startswith("#") and depth <= column)


def _above_comments(lines: Sequence[str], line: int) -> int:
    """The first of the comments directly above a line."""
    while line > 0 and lines[line - 1].startswith("#"):
        line -= 1
    return line


def _name_of(node: Any) -> str | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value.value for key, value in node.value if key.value == "name"), None)


def _indented(lines: Sequence[str], width: int) -> Iterator[str]:
    return (f"{' ' * width}{line}" if line else "" for line in lines)


def _no_item(where: str, name: str, names: Sequence[str]) -> UsageError:
    near = nearest(name, names)
    hint = f"did you mean `{near}`?" if near else f"it has: {listing(names)}" if names else None
    return UsageError(f"{where} has no step `{name}`", hint=hint)


def quoted(value: str) -> str:
    """A text as YAML on one line, in quotes only if it needs them."""
    plain = re.fullmatch(r"[A-Za-z][\w ./-]*", value) and yaml.safe_load(value) == value
    text = value if plain else yaml.safe_dump(value, default_style='"', width=10**6)
    return text.strip()
