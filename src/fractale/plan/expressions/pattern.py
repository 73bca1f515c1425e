"""Regular expressions that cannot hang: `matches(text, pattern)`, as in fractale 0.1.0's rules.

Python's own matcher may take exponential time. This one steps through all the ways to match at
once, so its time is the text's length times the pattern's, and it pays for every step. It knows
characters, classes, groups, alternatives, repeats, `^` and `$`; not look-around or references.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from fractale.plan.expressions.values import STEP, Fault, Fuel

MOST_STATES: Final = 2000
MOST_NESTING: Final = 30

_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_REPEAT = re.compile(r"(?:([*+?])|\{(\d{1,4})?(?:(,)(\d{1,4})?)?\})\??")
_CHARACTER_ESCAPES: Final = frozenset("dDwWsSnrtfv")

Build = Callable[[int], int]
"""Adds the states of a part of a pattern that goes on at a state; gives the state it starts at."""


@dataclass(slots=True)
class _Machine:
    """States that each take one character, or split, or stand at an end of the text.

    Args:
        takes: What the state takes; None: nothing, it only leads on.
        leads: Where it leads.
        at: ``^`` or ``$``, if it holds only there.
    """

    takes: list[re.Pattern[str] | None] = field(default_factory=list[Any])
    leads: list[list[int]] = field(default_factory=list[list[int]])
    at: list[str] = field(default_factory=list[str])

    def add(self, takes: re.Pattern[str] | None, leads: list[int], at: str = "") -> int:
        if len(self.takes) >= MOST_STATES:
            raise Fault("the pattern is too large")
        self.takes.append(takes)
        self.leads.append(leads)
        self.at.append(at)
        return len(self.takes) - 1


def full_match(fuel: Fuel, pattern: str, text: str) -> bool:
    """Whether all of a text fits a pattern.

    Raises:
        Fault: The pattern is not one, or matching it is too much work.
    """
    fuel.spend(STEP * len(pattern))
    machine, start = _compile(pattern) if len(pattern) <= MOST_STATES else _too_large()
    states = _closure(machine, [start], first=True, last=not text)
    for position, character in enumerate(text):
        fuel.spend(STEP * (1 + len(states)))
        taken = [
            machine.leads[state][0]
            for state in states
            if (takes := machine.takes[state]) and takes.match(character)
        ]
        states = _closure(machine, taken, first=False, last=position == len(text) - 1)
        if not states:
            return False
    return 0 in states


def _too_large() -> Any:
    raise Fault("the pattern is too large")


def _closure(machine: _Machine, states: list[int], *, first: bool, last: bool) -> set[int]:
    """All states that can be reached without taking a character."""
    reached: set[int] = set()
    stack = list(states)
    while stack:
        state = stack.pop()
        if state in reached:
            continue
        reached.add(state)
        at = machine.at[state]
        if machine.takes[state] is None and (not at or (first if at == "^" else last)):
            stack += machine.leads[state]
    return reached


@lru_cache(maxsize=64)
def _compile(pattern: str) -> tuple[_Machine, int]:
    machine = _Machine()
    end = machine.add(None, [])
    reader = _Reader(pattern, machine)
    build = reader.alternatives()
    if reader.position < len(pattern):
        raise Fault(f"the pattern has an extra `)`: {pattern}")
    return machine, build(end)


class _Reader:
    """Reads a pattern into builders of states."""

    def __init__(self, pattern: str, machine: _Machine) -> None:
        self.pattern = pattern
        self.machine = machine
        self.position = 0
        self.depth = 0

    def alternatives(self) -> Build:
        choices = [self._sequence()]
        while self._skip("|"):
            choices.append(self._sequence())
        if len(choices) == 1:
            return choices[0]
        return lambda onward: self.machine.add(None, [build(onward) for build in choices])

    def _sequence(self) -> Build:
        parts: list[Build] = []
        while self.position < len(self.pattern) and self.pattern[self.position] not in "|)":
            part = self._repeated(self._atom())
            parts.append(part)

        def build(onward: int) -> int:
            for part in reversed(parts):
                onward = part(onward)
            return onward

        return build

    def _skip(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.position)
        self.position += len(text) if found else 0
        return found

    def _atom(self) -> Build:
        if self._skip("("):
            return self._group()
        for end in "^$":
            if self._skip(end):
                return lambda onward, end=end: self.machine.add(None, [onward], end)
        takes = _one_character(self._one())
        return lambda onward: self.machine.add(takes, [onward])

    def _group(self) -> Build:
        if not self._skip("?:") and self._skip("?"):
            raise Fault("the pattern has a kind of group that is not supported: `(?`")
        self.depth += 1
        if self.depth > MOST_NESTING:
            raise Fault("the pattern is nested too deeply")
        build = self.alternatives()
        self.depth -= 1
        if not self._skip(")"):
            raise Fault(f"the pattern has a group that is not closed: {self.pattern}")
        return build

    def _one(self) -> str:
        """The part of the pattern that takes one character."""
        character = self.pattern[self.position]
        if character in "*+?":
            raise Fault(f"the pattern has nothing to repeat before `{character}`")
        match = _CLASS.match(self.pattern, self.position)
        length = match.end() - self.position if match else 2 if character == "\\" else 1
        found = self.pattern[self.position : self.position + length]
        self.position += length
        if found[0] == "\\" and (len(found) < 2 or not _plain_escape(found[1])):
            raise Fault(f"the pattern has `{found}`, which is not supported")
        if character == "[" and not match:
            raise Fault(f"the pattern has a class that is not closed: {self.pattern}")
        return found if len(found) > 1 or found in "." else re.escape(found)

    def _repeated(self, part: Build) -> Build:
        match = _REPEAT.match(self.pattern, self.position)
        if match is None or match.group() in ("{}", "{}?"):
            return part
        self.position = match.end()
        if self.pattern[self.position : self.position + 1] in ("*", "+", "?"):
            raise Fault("the pattern repeats a repeat; put brackets around the inner one")
        return self._times(part, *_bounds(match))

    def _times(self, part: Build, least: int, most: int | None) -> Build:
        def build(onward: int) -> int:
            state = self._any(part, onward) if most is None else onward
            for _ in range((most or least) - least):
                state = self.machine.add(None, [part(state), onward])
            for _ in range(least):
                # A state of its own, so that repeats of nothing count too.
                state = self.machine.add(None, [part(state)])
            return state

        return build

    def _any(self, part: Build, onward: int) -> int:
        loop = self.machine.add(None, [onward])
        self.machine.leads[loop].append(part(loop))
        return loop


def _one_character(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise Fault(f"the pattern has `{pattern}`: {error}") from None


def _plain_escape(character: str) -> bool:
    return character in _CHARACTER_ESCAPES or not character.isalnum()


def _bounds(match: re.Match[str]) -> tuple[int, int | None]:
    sign, least, comma, most = match.groups()
    if sign:
        return (1 if sign == "+" else 0), (1 if sign == "?" else None)
    low = int(least or 0)
    high = (int(most) if most else None) if comma else low
    if high is not None and high < low:
        raise Fault(f"the pattern repeats `{match.group()}`, whose bounds are the wrong way round")
    return low, high
