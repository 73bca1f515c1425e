"""Regular expressions that somebody else wrote, matched within bounds of time and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import regex

LONGEST_PATTERN = 500
"""Characters of a pattern."""

MOST_VALUES = 10_000
"""Values of one pattern that are kept."""

LONGEST_TEXT = 1_000_000
"""Characters of a text that are searched; of a longer one, its two ends."""

MOST_SECONDS = 0.5
"""Seconds that a search may take; a plain pattern needs some milliseconds."""

SHOWN_LINE = 300
"""Characters of a line that are shown around a value."""

VALUE = "value"
"""The name of the group that holds the value, where there are several groups."""

NOTHING = "matches nothing; `^` and `$` stand for line ends only after `(?m)`"

TOO_LARGE = "it needs too much memory: avoid repeats inside repeats"

_RECURSION = regex.compile(r"\(\?(?:R|[+-]?\d|&|P>)")
"""A pattern that calls itself takes hundreds of megabytes before its time is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a pattern found in a text.

    Args:
        value: What its group took at the last match, without blanks at the ends.
        line: The line or lines of that match.
        matches: How often it matched.
    """

    value: str
    line: str
    matches: int


def find_value(pattern: str, text: str, seconds: float = MOST_SECONDS) -> Found:
    """The value at the last match of a pattern: a log's last figure is that of its last run.

    Args:
        pattern: Has exactly one group, or one with the name ``value``.
        text: Of any size.
        seconds: How long the search may take.

    Raises:
        ValueError: The pattern is none, is too long or too slow, has no such group, matches
            nothing, or takes an empty value; the message says which.
    """
    compiled = _compile(pattern)
    group = _group_of(compiled)
    searched = ends_of(text, LONGEST_TEXT, "\n")
    last, matches = None, 0
    for match in _matches(compiled, searched, seconds):
        last, matches = match, matches + 1
    if last is None:
        raise ValueError(f"it {NOTHING}")
    value = (last.group(group) or "").strip()
    if not value:
        raise ValueError(f"it matches, but its group is empty, in: {_line_of(searched, last)}")
    return Found(value=value, line=_line_of(searched, last), matches=matches)


def values_of(pattern: str, text: str, seconds: float = MOST_SECONDS) -> Iterator[str]:
    """The values at the matches of a pattern in their order, without blanks at their ends.

    Args:
        pattern: As for `find_value`. Where its group is empty, that is no value.
        text: All of it is searched, so it should be of about `LONGEST_TEXT` at most.
        seconds: How long the search may take.

    Raises:
        ValueError: The pattern is none, is too long or too slow, or has no such group.
    """
    compiled = _compile(pattern)
    group = _group_of(compiled)
    for match in _matches(compiled, text, seconds):
        if value := (match.group(group) or "").strip():
            yield value


def spans_of(pattern: str, text: str, seconds: float = MOST_SECONDS) -> Iterator[tuple[int, int]]:
    """Where a pattern matches in a text: start and end of each match.

    Args:
        pattern: With any groups.
        text: Of any size.
        seconds: How long the search may take.

    Raises:
        ValueError: The pattern is none, or is too long or too slow.
    """
    for match in _matches(_compile(pattern), text, seconds):
        yield match.span()


def is_found(pattern: str, text: str, seconds: float, *, longest: int = LONGEST_PATTERN) -> bool:
    """Whether a pattern matches anywhere in a text.

    Args:
        pattern: With any groups, of at most `longest` characters.
        text: All of it is searched.
        seconds: How long the search may take.

    Raises:
        TimeoutError: It took longer.
        ValueError: The pattern is none, is too long, or needs too much memory.
    """
    compiled = _compile(pattern, longest)
    try:
        return compiled.search(text, timeout=seconds, concurrent=True) is not None
    except MemoryError:
        raise ValueError(TOO_LARGE) from None


def check_syntax(pattern: str, longest: int = LONGEST_PATTERN) -> None:
    """See that a pattern is one, whatever its groups.

    Raises:
        ValueError: It is none, or is too long.
    """
    _compile(pattern, longest)


def too_slow(seconds: float) -> str:
    """What is said of a search that took too long."""
    return f"it took more than {seconds:g} s: avoid repeats inside repeats, such as `(a+)+`"


def check_pattern(pattern: str) -> None:
    """See that a pattern can be used.

    Raises:
        ValueError: The pattern is none, is too long, or does not have exactly one group.
    """
    _group_of(_compile(pattern))


def _matches(compiled: Any, text: str, seconds: float) -> Iterator[Any]:
    try:
        # `concurrent` lets go of Python's lock, so that other tasks go on meanwhile.
        yield from compiled.finditer(text, timeout=seconds, concurrent=True)
    except TimeoutError:
        raise ValueError(too_slow(seconds)) from None
    except MemoryError:
        raise ValueError(TOO_LARGE) from None


def _compile(pattern: str, longest: int = LONGEST_PATTERN) -> Any:
    if not pattern:
        raise ValueError("it is empty")
    if len(pattern) > longest:
        raise ValueError(f"it is longer than {longest} characters")
    if _RECURSION.search(pattern):
        raise ValueError("it calls itself, which is not allowed")
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"it is not a regular expression: {error}") from error
    except (RecursionError, OverflowError, MemoryError):
        raise ValueError("it is nested too deeply, or repeats too often") from None


def _group_of(compiled: Any) -> str | int:
    if VALUE in compiled.groupindex:
        return VALUE
    if compiled.groups != 1:
        raise ValueError(
            f"it has {compiled.groups} groups: it needs exactly one, or one named `value`; "
            "`(?:…)` groups without counting"
        )
    return 1


def _line_of(text: str, match: Any) -> str:
    """The whole lines that a match touches; of long ones, the part around its end."""
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    end = len(text) if end < 0 else end
    start = max(start, match.end() - SHOWN_LINE)
    return text[start : min(end, start + 2 * SHOWN_LINE)].strip()


def ends_of(text: str, limit: int, between: str) -> str:
    """A text itself, or its first and last lines: more of the last, where results are.

    Args:
        text: Of any size.
        limit: Characters that are kept.
        between: What stands for the rest.
    """
    if len(text) <= limit:
        return text
    head, tail = text[: limit // 3], text[limit // 3 - limit :]
    # At whole lines, so that no figure is cut in two.
    head = head[: head.rfind("\n") + 1] or head
    return head + between + tail[tail.find("\n") + 1 :]
