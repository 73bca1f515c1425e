"""Typed values from nodes. A value that does not fit becomes a problem, and reading continues."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar, cast

from fractale.durations import AMBIGUOUS, MOST_SECONDS, parse_duration
from fractale.errors import Problem, ProblemList
from fractale.text import clip, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from fractale.plan.node import Node

Word = TypeVar("Word", bound=str)

MOST_PROBLEMS: Final = 200
_CALLABLE = re.compile(r"[^\s{}]{1,256}")


class Reader:
    """Collects the problems of one plan."""

    def __init__(self) -> None:
        self.problems = ProblemList()

    def fail(
        self,
        code: str,
        message: str,
        node: Node,
        path: str,
        *,
        near: tuple[str, Collection[str]] | None = None,
    ) -> None:
        """Keep a problem.

        Args:
            code: Its stable code.
            message: The value that was found, and what would be right.
            node: The place in the file.
            path: The path in the plan.
            near: A wrong word, and the words of which the nearest is suggested.
        """
        if len(self.problems.problems) < MOST_PROBLEMS:
            suggestion = nearest(*near) if near else None
            self.keep(
                Problem(code, message, node.position, path, node.length, suggestion=suggestion)
            )

    def keep(self, problem: Problem) -> None:
        """Keep a problem once. After very many problems, keep one that says so and no more."""
        kept = len(self.problems.problems)
        if kept == MOST_PROBLEMS - 1:
            message = "more problems follow; correct the ones above first"
            last = self.problems.errors[-1].position
            problem = Problem("too-many-problems", message, last)
        if kept < MOST_PROBLEMS and problem not in self.problems.problems:
            self.problems.add(problem)

    def fields(
        self, node: Node, path: str, keys: Collection[str], noun: str, hints: Mapping[str, str]
    ) -> Fields | None:
        """A mapping whose keys are known words.

        Args:
            node: The node that should be the mapping.
            path: Its path in the plan.
            keys: The keys that it may have.
            noun: Its name with an article: ``a step``.
            hints: Unknown key → what to write instead.

        Returns:
            The mapping to read from. None if the node is not a mapping.
        """
        if not isinstance(node.value, dict):
            known = ", ".join(f"`{key}`" for key in list(keys)[:4])
            message = f"{noun} must be a mapping (of {known} …), not {node.found()}"
            self.fail("wrong-type", message, node, path)
            return None
        for key, at in node.keys.items():
            if key in hints:
                message = f"{noun} has no key `{key}`; {hints[key]}"
                self.fail("unknown-key", message, at, join(path, key))
            elif key not in keys:
                message = f"{noun} has no key `{clip(key)}`"
                self.fail("unknown-key", message, at, join(path, clip(key)), near=(key, keys))
        return Fields(self, node, path, noun)

    def text(self, node: Node, path: str, noun: str = "this") -> str | None:
        """Text that is not empty. For other values, a problem is kept and None returned."""
        if isinstance(node.value, str) and node.value.strip():
            return node.value
        quotes = "; put quotes around it" if isinstance(node.value, (int, float)) else ""
        self.fail("wrong-type", f"{noun} must be text, not {node.found()}{quotes}", node, path)
        return None

    def name(self, node: Node, path: str, noun: str) -> str | None:
        """The name of something that can be called: text without spaces, not a template."""
        text = self.text(node, path, noun)
        if text is None or _CALLABLE.fullmatch(text):
            return text
        fixed = " (it is fixed: it cannot be a template)" if "{{" in text else ""
        message = f"{noun} must be a name without spaces, not `{clip(text)}`{fixed}"
        self.fail("bad-value", message, node, path)
        return None


class Fields:
    """The values of one mapping by key. A key whose value is empty counts as left out."""

    def __init__(self, reader: Reader, node: Node, path: str, noun: str = "this") -> None:
        self.reader = reader
        self.node = node
        self.path = path
        self.noun = noun.partition(" (")[0]
        self._values = cast("dict[str, Node]", node.value)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, key: str) -> Node | None:
        """The value's node; None if it is left out or empty."""
        node = self._values.get(key)
        return None if node is None or node.value is None else node

    def value(self, key: str) -> Node:
        """The value's node of a key that is present."""
        return self._values[key]

    def at(self, key: str) -> Node:
        """The node that a problem with a key's value points at: the value if it is a scalar."""
        node = self._values.get(key)
        if node is None:
            return self.node
        scalar = node.value is not None and not isinstance(node.value, (dict, list))
        return node if scalar else self.node.keys[key]

    def fail(
        self, key: str, code: str, message: str, near: tuple[str, Collection[str]] | None = None
    ) -> None:
        """Keep a problem with a key's value."""
        self.reader.fail(code, message, self.at(key), join(self.path, key), near=near)

    def wrong(self, key: str, right: str) -> None:
        """Keep the problem that a value is not of its type.

        Args:
            key: The key.
            right: The expected value, as text.
        """
        found = self._values[key].found()
        self.fail(key, "wrong-type", f"`{key}` must be {right}, not {found}")

    def text(self, key: str) -> str:
        """Text, or an empty one."""
        node = self.get(key)
        if node is None:
            return ""
        if isinstance(node.value, str):
            return node.value
        quotes = " (put quotes around it)" if isinstance(node.value, (int, float)) else ""
        self.wrong(key, f"text{quotes}")
        return ""

    def name(self, key: str) -> str | None:
        """The name of something that can be called."""
        node = self.get(key)
        if node is None:
            return None
        return self.reader.name(node, join(self.path, key), f"`{key}`")

    def flag(self, key: str) -> bool | None:
        """``true`` or ``false``."""
        node = self.get(key)
        if node is None:
            return None
        if isinstance(node.value, bool):
            return node.value
        self.wrong(key, "`true` or `false`")
        return None

    def whole(self, key: str, least: int = 1) -> int | None:
        """A whole number of at least `least`."""
        node = self.get(key)
        if node is None:
            return None
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            if node.value >= least:
                return node.value
            self.fail(key, "bad-value", f"`{key}` must be at least {least}, not {node.value}")
            return None
        self.wrong(key, f"a whole number of at least {least}")
        return None

    def real(self, key: str, least: float | None = None) -> float | None:
        """A number, at least `least` if that is given."""
        node = self.get(key)
        if node is None:
            return None
        bound = "" if least is None else f" of at least {least:g}"
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            self.wrong(key, f"a number{bound}")
            return None
        if least is not None and node.value < least:
            self.fail(key, "bad-value", f"`{key}` must be at least {least:g}, not {node.source}")
        return node.value

    def seconds(self, key: str, *, zero: bool = False) -> float | None:
        """A duration in seconds. `zero` says whether zero is allowed."""
        node = self.get(key)
        if node is None:
            return None
        right = "a duration such as `90s`, `10m` or `1h30m` (a plain number is seconds)"
        if isinstance(node.value, (bool, dict, list)):
            self.wrong(key, right)
            return None
        seconds = _seconds(node)
        if seconds is None:
            if found := AMBIGUOUS.fullmatch(node.source.strip()):
                minutes = f"0:{int(found[1]):02d}:{found[2]}"
                message = f"is hours and minutes (`{found[0]}:00`), or minutes and seconds"
                self.fail(key, "wrong-type", f"`{found[0]}` {message} (`{minutes}`); write which")
                return None
            self.wrong(key, right)
        elif seconds == 0 and not zero:
            self.fail(key, "bad-value", f"`{key}` must be longer than 0 s")
        return seconds

    def choice(self, key: str, words: tuple[Word, ...]) -> Word | None:
        """One of some words."""
        node = self.get(key)
        if node is None:
            return None
        for word in words:
            if node.value == word:
                return word
        listed = ", ".join(f"`{word}`" for word in words)
        message = f"`{key}` must be one of {listed}, not {node.found()}"
        self.fail(key, "bad-value", message, (node.source, words))
        return None

    def items(self, key: str) -> Iterator[tuple[str, Node]]:
        """The items of a list, each with its path. If it is not a list, a problem is kept."""
        node = self.get(key)
        if node is None:
            return
        if not isinstance(node.value, list):
            self.wrong(key, "a list")
            return
        for index, item in enumerate(node.value):
            yield f"{join(self.path, key)}[{index}]", item

    def entries(self, key: str) -> Iterator[tuple[str, Node, Node]]:
        """Key, key's node and value of a mapping. If it is not a mapping, a problem is kept."""
        node = self.get(key)
        if node is None:
            return
        if not isinstance(node.value, dict):
            self.wrong(key, "a mapping")
            return
        for name, value in node.value.items():
            yield name, node.keys[name], value


def _seconds(node: Node) -> float | None:
    if isinstance(node.value, (int, float)):
        return float(node.value) if 0 <= node.value < MOST_SECONDS else None
    try:
        return parse_duration(node.source)
    except ValueError:
        return None


def join(path: str, key: str) -> str:
    """A path one key deeper."""
    return f"{path}.{key}" if path else key
