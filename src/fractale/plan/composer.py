"""YAML events → nodes: the part of reading that must withstand hostile files.

Nothing is constructed but plain JSON values, and an alias is counted as what it expands to
before it is used. Only limits and faults that make the rest unreadable stop the reading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import yaml

from fractale.errors import PlanError, Position, Problem, ProblemList
from fractale.plan.node import Node
from fractale.plan.scalars import HugeIntegerError, NotFiniteError, Scalar, resolve
from fractale.text import clip

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH: Final = 40
MAX_NODES: Final = 100_000

BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What the YAML parser counts as the end of a line."""

_PARSER_DEPTH = "exceeded maximum nesting depth"
"""libyaml's own limit: since 0.2.6 it scans no further than 1,000 levels ahead."""

_TAG_PREFIX = "tag:yaml.org,2002:"
_TAGGED_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
}
_EXPLANATIONS: Final[dict[str, str]] = {
    "mapping values are not allowed in this context": (
        "a `:` cannot stand here; quote the text if it holds `: `"
    ),
    "could not find expected ':'": "this line has no `:`, which a key needs",
    "found character that cannot start any token": (
        "text cannot start with this character; put quotes around it"
    ),
    "found unexpected end of stream": "the quote that opens here is never closed",
    "did not find expected ',' or ']'": (
        "a list in brackets lacks a `,` or its `]`; put quotes around an expression in it"
    ),
    "did not find expected ',' or '}'": (
        "a mapping in braces lacks a `,` or its `}`; put quotes around an expression in it"
    ),
    "did not find expected key": "a key was expected; is the indentation right?",
    "did not find expected '-' indicator": "a `-` was expected; is the indentation right?",
}


@dataclass(slots=True)
class _Anchored:
    """A node that an alias can repeat: how many nodes it is, how deep."""

    node: Node
    size: int
    height: int


@dataclass(slots=True)
class _Frame:
    """A collection whose end has not been read yet."""

    node: Node
    anchor: str | None
    count: int
    height: int = 1
    key: Node | None = None


class Composer:
    """Builds the tree of one document.

    Args:
        text: Without a byte order mark, and without characters that YAML forbids.
        file: What positions are to name.
    """

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._lines: list[str] | None = None
        self._problems = ProblemList()
        self._anchors: dict[str, _Anchored] = {}
        self._stack: list[_Frame] = []
        self._count = 0
        self._root: Node | None = None

    def compose(self) -> Node:
        """Read the document.

        Returns:
            Its root.

        Raises:
            PlanError: Every problem that could be found.
        """
        for event in self._events():
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.CollectionStartEvent():
                    self._open(event)
                case yaml.CollectionEndEvent():
                    self._close()
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.DocumentStartEvent() if self._root:
                    self._stop("many-documents", "a second document; keep one", self._at(event))
                case _:
                    pass
        if self._root is None or self._root.value is None:
            self._stop("empty-file", "there is nothing in it", Position(self._file, 1, 1))
        self._problems.raise_if_any()
        return self._root

    def _events(self) -> Iterator[Any]:
        # The C parser is ten times as quick; PyYAML is sometimes built without it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(self._text)
        try:
            while loader.check_event():
                yield loader.get_event()
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except (yaml.YAMLError, ValueError) as error:
            self._stop("yaml-syntax", str(error), Position(self._file, 1, 1))
        finally:
            loader.dispose()

    def _syntax(self, error: yaml.MarkedYAMLError) -> NoReturn:
        mark: Any = error.problem_mark or error.context_mark
        fault = error.problem or "this is not YAML"
        if fault == _PARSER_DEPTH:
            self._too_deep(self._where(mark))
        # What is missing at the end of the file is best shown where it was opened.
        if mark and mark.index >= len(self._text.rstrip()) and error.context_mark:
            mark = error.context_mark
        at = self._text[mark.index : mark.index + 1] if mark else ""
        if at == "\t" or "found a tab" in fault:
            fault = "a tab stands where YAML takes spaces only"
        self._stop("yaml-syntax", _EXPLANATIONS.get(fault, fault), self._where(mark))

    def _scalar(self, event: Any) -> None:
        node = self._node(event, self._value(event))
        if "\0" in event.value:
            self._problem("nul-byte", "a NUL character in text", node)
        self._count_nodes(1, event)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(node, 1, 1)
        self._put(node, 1, plain=event.tag is None and event.implicit[0])

    def _value(self, event: Any) -> Scalar:
        if event.tag is None:
            return self._resolved(event) if event.implicit[0] else event.value
        name = event.tag.removeprefix(_TAG_PREFIX)
        if name in ("!", "str"):
            return event.value
        if name not in _TAGGED_TYPES:
            self._unknown_tag(event)
            return None
        value = self._resolved(event)
        if not isinstance(value, _TAGGED_TYPES[name]):
            message = f"`{clip(event.value)}` is not a `!!{name}`"
            self._problem("bad-value", message, self._node(event, None))
        return value

    def _resolved(self, event: Any) -> Scalar:
        try:
            return resolve(event.value)
        except HugeIntegerError:
            message = "this integer does not fit 64 bits; put it in quotes, as text"
            self._problem("huge-integer", message, self._node(event, None))
        except NotFiniteError:
            message = "this is not a finite number; put it in quotes, as text"
            self._problem("not-finite", message, self._node(event, None))
        return 0

    def _open(self, event: Any) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG_PREFIX + ("map" if is_mapping else "seq")):
            self._unknown_tag(event)
        self._count_nodes(1, event)
        self._check_depth(len(self._stack) + 1, event)
        node = Node({} if is_mapping else [], self._at(event))
        self._stack.append(_Frame(node, event.anchor, self._count))

    def _close(self) -> None:
        frame = self._stack.pop()
        if frame.anchor is not None:
            size = self._count - frame.count + 1
            self._anchors[frame.anchor] = _Anchored(frame.node, size, frame.height)
        self._put(frame.node, frame.height, plain=False)

    def _alias(self, event: Any) -> None:
        if any(frame.anchor == event.anchor for frame in self._stack):
            message = f"`*{clip(event.anchor)}` stands inside what it repeats"
            self._stop("recursive-alias", message, self._at(event))
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            message = f"there is no anchor `&{clip(event.anchor)}` before this"
            self._stop("unknown-alias", message, self._at(event))
        self._count_nodes(anchored.size, event)
        self._check_depth(len(self._stack) + anchored.height, event)
        self._put(anchored.node, anchored.height, plain=False)

    def _put(self, node: Node, height: int, *, plain: bool) -> None:
        """Hang a finished node into the collection around it."""
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.node.value, list):
            frame.node.value.append(node)
        elif frame.key is None:
            frame.key = self._checked_key(frame.node, node, plain=plain)
        else:
            mapping = cast("dict[str, Node]", frame.node.value)
            mapping[frame.key.source] = node
            frame.node.keys[frame.key.source] = frame.key
            frame.key = None

    def _checked_key(self, mapping: Node, key: Node, *, plain: bool) -> Node:
        if isinstance(key.value, (dict, list)):
            self._problem("bad-key", f"a key must be text, not {key.found()}", key)
        elif plain and key.source == "<<":
            message = "merge keys are not part of the plan language; write the keys out"
            self._problem("merge-key", message, key)
        elif plain and not key.source:
            self._problem("bad-key", "there is no key before this `:`", key)
        elif first := mapping.keys.get(key.source):
            message = f"`{clip(key.source)}` stands here already, in line {first.position.line}"
            self._problem("duplicate-key", message, key)
        return key

    def _count_nodes(self, number: int, event: Any) -> None:
        self._count += number
        if self._count > MAX_NODES:
            message = f"more than {MAX_NODES:,} values; an alias counts as all that it repeats"
            self._stop("too-many-nodes", message, self._at(event))

    def _check_depth(self, depth: int, event: Any) -> None:
        if depth > MAX_DEPTH:
            self._too_deep(self._at(event))

    def _too_deep(self, where: Position) -> NoReturn:
        self._stop("too-deep", f"more than {MAX_DEPTH} levels of nesting", where)

    def _unknown_tag(self, event: Any) -> None:
        tag = event.tag.replace(_TAG_PREFIX, "!!")
        message = f"`{clip(tag)}`: the plan language has no tags"
        self._problem("unknown-tag", message, Node(None, self._at(event), len(tag)))

    def _node(self, event: Any, value: Scalar) -> Node:
        start, end, source = event.start_mark, event.end_mark, event.value
        if event.style in ("|", ">") and source:
            return self._block(start.line + 1, value, source)
        quote = 1 if event.style in ("'", '"') else 0
        position = Position(self._file, start.line + 1, start.column + 1 + quote)
        one_line = start.line == end.line
        length = end.index - start.index - 2 * quote if one_line else source.find("\n")
        return Node(value, position, max(1, length), source)

    def _block(self, line: int, value: Scalar, source: str) -> Node:
        """A block scalar stands where its content does: on the next line, indented."""
        if self._lines is None:
            self._lines = BREAK.split(self._text)
        first = next((row for row in self._lines[line:] if row.strip()), "")
        written = next((row for row in source.split("\n") if row.strip()), "")
        column = max(0, _indent(first) - _indent(written)) + 1
        length = max(1, len(source.split("\n", 1)[0]))
        return Node(value, Position(self._file, line + 1, column), length, source)

    def _at(self, event: Any) -> Position:
        return self._where(event.start_mark)

    def _where(self, mark: Any) -> Position:
        if mark is None:
            return Position(self._file, 1, 1)
        return Position(self._file, mark.line + 1, mark.column + 1)

    def _problem(self, code: str, message: str, node: Node) -> None:
        self._problems.add(Problem(code, message, node.position, length=node.length))

    def _stop(self, code: str, message: str, where: Position) -> NoReturn:
        """Give up: what follows cannot be read."""
        self._problems.add(Problem(code, message, where))
        raise PlanError(self._problems.errors)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
