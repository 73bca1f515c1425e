r"""Regular expressions of plans, models and schemas, matched within bounds of time and memory.

fractale uses two engines:

- `linear` is RE2, whose time is proportional to the text. It has no look-around and no references
  to groups. It serves rules (``matches(text, pattern)``), and schemas as far as it can.
- `regex` with a time limit serves the searches in logs. Users write Python's own notation there,
  with look-behind, and ``$`` before the last line's end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

from fractale.plain import readable

LONGEST_PATTERN = 500
"""The most characters of a pattern."""

MOST_VALUES = 10_000
"""The most values that one pattern keeps."""

LONGEST_TEXT = 1_000_000
"""The most characters of a text that are searched. Only the two ends of a longer text are."""

MOST_SECONDS = 0.5
"""The most seconds of a search. A plain pattern needs some milliseconds."""

SHOWN_LINE = 300
"""The most characters of a line that are shown around a value."""

VALUE = "value"
"""The name of the group that has the value, if a pattern has several groups."""

NOTHING = "matches nothing; `^` and `$` match line ends only after `(?m)`"

TOO_LARGE = "it needs too much memory: avoid repeats inside repeats"

_RECURSION = re.compile(r"\(\?(?:R|[+-]?\d|&|P>)")
"""A pattern that calls itself uses hundreds of megabytes before its time is up."""


LONGEST_LINEAR: Final = 2000
"""The most characters of a pattern for RE2."""

MOST_MEMORY: Final = 2**20
"""Bytes that RE2 may use for one pattern, including the states that it caches."""

_SPACE = r"\t-\r\x1c-\x1f\x{85}\p{Z}"
_CONNECTORS = r"\x{203f}\x{2040}\x{2054}\x{fe33}\x{fe34}\x{fe4d}-\x{fe4f}\x{ff3f}"
_SETS: Final = {
    "d": r"\p{Nd}",
    "D": r"\P{Nd}",
    "w": r"\p{L}\p{N}_",
    # All other characters: of the punctuation, all connectors but `_`.
    "W": r"\p{M}\p{Pd}\p{Ps}\p{Pe}\p{Pi}\p{Pf}\p{Po}\p{S}\p{Z}\p{C}" + _CONNECTORS,
    "s": _SPACE,
    "S": r"\x00-\x08\x0e-\x1b!-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}"
    r"\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff}",
}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{,\d*\}", re.DOTALL)

MOST_STEPS: Final = 50_000_000
"""States times characters that RE2 processes in about half a second in the worst case."""


@lru_cache(maxsize=64)
def linear(pattern: str) -> Any:
    r"""RE2's form of a pattern in Python's notation, for `search` and `fullmatch`, without groups.

    ``\d``, ``\w`` and ``\s`` are of all scripts, as Python's. Texts must be `readable`.

    Raises:
        ValueError: RE2 cannot use the pattern; the message says why.
    """
    re2: Any = import_module("re2")  # untyped, and imported only if a pattern is used
    if len(pattern) > LONGEST_LINEAR:
        raise ValueError(f"the pattern is too long: at most {LONGEST_LINEAR} characters")
    options: Any = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = MOST_MEMORY
    try:
        return re2.compile(_PART.sub(_of_re2, pattern), options)
    except re2.error as error:
        raise ValueError(f"the pattern cannot be used: {_reason(error)}") from None


def _of_re2(part: re.Match[str]) -> str:
    """A part of Python's notation in RE2's."""
    text = part[0]
    if text[0] == "[":
        return _ESCAPE.sub(lambda escape: _SETS.get(escape[1], escape[0]), text)
    if text[0] == "{":
        return "{0" + text[1:]
    if text == r"\Z":
        return r"\z"
    return f"[{_SETS[text[1]]}]" if text[1] in _SETS else text


def _reason(error: Exception) -> str:
    said = error.args[0] if error.args else b""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    if text.startswith(("invalid perl operator", "invalid escape sequence")):
        text += "; look-ahead, look-behind and references to groups are not supported"
    return text.replace("pattern too large - compile failed", "it is too large")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternMatch:
    """A value that a pattern found in a text.

    Args:
        value: The text of its group at the last match, without blanks at the ends.
        line: The line or lines of that match.
        matches: The number of matches.
    """

    value: str
    line: str
    matches: int


def find_value(pattern: str, text: str, seconds: float = MOST_SECONDS) -> PatternMatch:
    """The value at the last match of a pattern: the last value in a log is that of its last run.

    Args:
        pattern: Has exactly one group, or one with the name ``value``.
        text: Of any size.
        seconds: The most seconds that the search may take.

    Raises:
        ValueError: The pattern is invalid, too long or too slow, has no such group, matches
            nothing, or has an empty value; the message says which.
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
    return PatternMatch(value=value, line=_line_of(searched, last), matches=matches)


def values_of(pattern: str, text: str, seconds: float = MOST_SECONDS) -> Iterator[str]:
    """The values at the matches of a pattern in their order, without blanks at their ends.

    Args:
        pattern: As for `find_value`. An empty group does not count as a value.
        text: All of it is searched, so it should have about `LONGEST_TEXT` characters at most.
        seconds: The most seconds that the search may take.

    Raises:
        ValueError: The pattern is invalid, too long or too slow, or has no such group.
    """
    compiled = _compile(pattern)
    group = _group_of(compiled)
    for match in _matches(compiled, text, seconds):
        if value := (match.group(group) or "").strip():
            yield value


def spans_of(pattern: str, text: str, seconds: float = MOST_SECONDS) -> Iterator[tuple[int, int]]:
    """The matches of a pattern in a text: start and end of each.

    Args:
        pattern: With any groups.
        text: Of any size.
        seconds: The most seconds that the search may take.

    Raises:
        ValueError: The pattern is invalid, too long or too slow.
    """
    for match in _matches(_compile(pattern), text, seconds):
        yield match.span()


def is_found(pattern: str, text: str, seconds: float, *, longest: int = LONGEST_PATTERN) -> bool:
    """Whether a pattern matches anywhere in a text.

    Args:
        pattern: With any groups, of at most `longest` characters.
        text: All of it is searched.
        seconds: The most seconds that the search may take.

    Raises:
        TimeoutError: The search took longer.
        ValueError: The pattern is invalid or too long, or needs too much memory.
    """
    compiled = _compile(pattern, longest)
    try:
        matcher = linear(pattern)
        if matcher.programsize * len(text) <= MOST_STEPS:
            return matcher.search(readable(text)) is not None
    except ValueError:  # RE2 cannot use the pattern
        pass
    try:
        return compiled.search(text, timeout=seconds, concurrent=True) is not None
    except MemoryError:
        raise ValueError(TOO_LARGE) from None


def check_syntax(pattern: str, longest: int = LONGEST_PATTERN) -> None:
    """Check that a pattern is valid, with any groups.

    Raises:
        ValueError: The pattern is invalid or too long.
    """
    _compile(pattern, longest)


def too_slow(seconds: float) -> str:
    """The message about a search that took too long."""
    return f"it took more than {seconds:g} s: avoid repeats inside repeats, such as `(a+)+`"


def check_pattern(pattern: str) -> None:
    """Check that a pattern can be used.

    Raises:
        ValueError: The pattern is invalid or too long, or does not have exactly one group.
    """
    _group_of(_compile(pattern))


def _matches(compiled: Any, text: str, seconds: float) -> Iterator[Any]:
    try:
        # `concurrent` releases Python's lock, so that other tasks keep running.
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
    import regex

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
    """The whole lines that a match touches. If they are long, the part around its end."""
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    end = len(text) if end < 0 else end
    start = max(start, match.end() - SHOWN_LINE)
    return text[start : min(end, start + 2 * SHOWN_LINE)].strip()


def ends_of(text: str, limit: int, between: str) -> str:
    """A text itself, or its first and last lines: more of the last, which have the results.

    Args:
        text: Of any size.
        limit: The number of characters to keep.
        between: The text in place of the rest.
    """
    if len(text) <= limit:
        return text
    head, tail = text[: limit // 3], text[limit // 3 - limit :]
    # Cut at whole lines, so that no value is cut in two.
    head = head[: head.rfind("\n") + 1] or head
    return head + between + tail[tail.find("\n") + 1 :]
