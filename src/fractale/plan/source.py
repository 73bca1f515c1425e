"""YAML text → a tree of values with their positions.

A file is UTF-8, at most 1 MiB, 40 levels and 100,000 values. Anchors and aliases are allowed. Merge
keys (``<<``) are not, since a reader cannot see which of two keys wins. All faults of a file are
reported at once, except after a fault that makes the rest unreadable (a syntax error, a limit).
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import yaml

from fractale.errors import PlanError, Position, Problem, ProblemList
from fractale.plan.node import HugeIntegerError, Node, NotFiniteError, Scalar, resolve
from fractale.text import clip

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 40
MAX_NODES: Final = 100_000

BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""The characters that the YAML parser treats as the end of a line."""

NO_WRITER, SILENT_WRITER = 2.0, 60.0
"""Seconds to wait for a named pipe without a writer, and for one with a silent writer."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_file(path: Path | str) -> Node:
    """Read a YAML file.

    Args:
        path: Positions name it as given here.

    Returns:
        The root of the tree.

    Raises:
        PlanError: The file cannot be read, or is not YAML that fractale reads.
    """
    try:
        data = _bytes_of(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal("unreadable-file", f"cannot be read: {reason}", str(path)) from error
    return read_source(data, str(path))


def _bytes_of(path: Path | str) -> bytes:
    """The bytes of a file, up to one more than the limit.

    A named pipe is read until its writers close it. A pipe without a writer must not block the
    command.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return b"".join(_piped(descriptor))
        os.set_blocking(descriptor, True)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _piped(descriptor: int) -> Iterator[bytes]:
    """The contents of a pipe that is read without blocking."""
    left, patience = MAX_BYTES + 1, NO_WRITER
    has_begun = False
    while left > 0:
        try:
            data = os.read(descriptor, left)
        except BlockingIOError:  # the pipe has a writer
            data, patience, has_begun = None, SILENT_WRITER, True
        if data:
            left, has_begun = left - len(data), True
            yield data
        elif data is not None and has_begun:
            return
        elif select.select([descriptor], [], [], patience)[0]:
            has_begun = True
        else:
            raise TimeoutError(errno.ETIMEDOUT, f"nothing was written to it for {patience:g} s")


def read_source(text: str | bytes, file: str) -> Node:
    """Read YAML text of one document.

    Args:
        text: At most 1 MiB. Bytes are UTF-8.
        file: The file name for positions.

    Returns:
        The root of the tree.

    Raises:
        PlanError: It is not YAML that fractale reads. The error has all problems.
    """
    if len(text) > MAX_BYTES:
        raise _refusal("too-big", "the file is larger than 1 MiB", file)
    decoded = text if isinstance(text, str) else _decode(text, file)
    decoded = decoded.removeprefix("\ufeff")
    _check_characters(decoded, file)
    return _Composer(decoded, file).compose()


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        before = data[: error.start].decode("utf-8")
        raise _refusal("not-utf8", message, file, before) from error


def _check_characters(text: str, file: str) -> None:
    """Refuse characters that YAML forbids, so that the parser never sees them."""
    match = _UNPRINTABLE.search(text)
    if match is None:
        return
    before = text[: match.start()]
    if match[0] == "\0":
        raise _refusal("nul-byte", "a NUL byte; is this a text file?", file, before)
    message = f"YAML cannot contain the character U+{ord(match[0]):04X}"
    raise _refusal("control-character", message, file, before)


def _refusal(code: str, message: str, file: str, before: str = "") -> PlanError:
    """The error for a fault at the end of the text `before`."""
    lines = BREAK.split(before)
    return PlanError([Problem(code, message, Position(file, len(lines), len(lines[-1]) + 1))])


# Events of the YAML parser → nodes. This part must withstand hostile files: it makes plain JSON
# values only, and counts an alias by its expanded size before it is used.

_PARSER_DEPTH = "exceeded maximum nesting depth"
"""libyaml's own limit: since 0.2.6 it scans at most 1,000 levels ahead."""

_TAG_PREFIX = "tag:yaml.org,2002:"
_TAGGED_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
}
_EXPLANATIONS: Final[dict[str, str]] = {
    "mapping values are not allowed in this context": (
        "a `:` cannot be here; quote the text if it contains `: `"
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
    """A node that an alias can repeat, with its number of nodes and its depth."""

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


class _Composer:
    """Builds the tree of one document.

    Args:
        text: Without a byte order mark, and without characters that YAML forbids.
        file: The file name for positions.
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
            self._stop("empty-file", "the file is empty", Position(self._file, 1, 1))
        self._problems.raise_if_any()
        return self._root

    def _events(self) -> Iterator[Any]:
        # The C parser is ten times as fast, but PyYAML is sometimes built without it.
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
        # If something is missing at the end of the file, point at the beginning of its construct.
        if mark and mark.index >= len(self._text.rstrip()) and error.context_mark:
            mark = error.context_mark
        at = self._text[mark.index : mark.index + 1] if mark else ""
        if at == "\t" or "found a tab" in fault:
            fault = "a tab; YAML allows only spaces here"
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
            message = f"`*{clip(event.anchor)}` is inside what it repeats"
            self._stop("recursive-alias", message, self._at(event))
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            message = f"no anchor `&{clip(event.anchor)}` precedes this alias"
            self._stop("unknown-alias", message, self._at(event))
        self._count_nodes(anchored.size, event)
        self._check_depth(len(self._stack) + anchored.height, event)
        self._put(anchored.node, anchored.height, plain=False)

    def _put(self, node: Node, height: int, *, plain: bool) -> None:
        """Put a finished node into the collection around it."""
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
            self._problem("bad-key", "this `:` has no key before it", key)
        elif first := mapping.keys.get(key.source):
            message = (
                f"`{clip(key.source)}` is here twice; the first is in line {first.position.line}"
            )
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
        """A block scalar has the position of its content: on the next line, indented."""
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
        """Stop reading: the rest cannot be read."""
        self._problems.add(Problem(code, message, where))
        raise PlanError(self._problems.errors)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
