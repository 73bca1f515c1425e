"""What a divergence of a replay is, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fractale.errors import without_positions
from fractale.events import SHORT_TEXT
from fractale.masking import MASK
from fractale.record.diff import Change, changes
from fractale.replay.events import CALL_ENDS, CALL_STARTS, Told

What: TypeAlias = Literal["call", "arguments", "outcome", "path", "question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a replay first does something else than its record says.

    Args:
        what: Another call, other arguments, another outcome, another path, another question.
        message: The same in a sentence.
        step: The step's path; empty for the whole run.
        attempt: Which visit of it.
        recorded, now: What stands against each other, as far as it is known.
        changes: The places in it that differ.
    """

    what: What
    message: str
    step: str = ""
    attempt: int = 1
    recorded: Any = None
    now: Any = None
    changes: tuple[Change, ...] = ()


def same(a: Any, b: Any) -> bool:
    """Whether two JSON values are one, but for where in its file an error stands.

    True is not 1. Where the record of a text has ``***``, any secret was; and of such a text,
    what is cut off depends on how long they were.
    """
    return all(_alike(change) for change in changes(a, b))


def _alike(change: Change) -> bool:
    a, b = change.a, change.b
    if not isinstance(a, str) or not isinstance(b, str):
        return False
    a, b = without_positions(a), without_positions(b)
    short, long = sorted((a, b), key=len)
    if a == b or (MASK in short and len(long) >= SHORT_TEXT and long.startswith(short)):
        return True
    return MASK in a and _fits(a, b)


def _fits(masked: str, text: str) -> bool:
    """Whether a text is the masked one, with something in the place of each mask."""
    first, *pieces = masked.split(MASK)
    if not text.startswith(first):
        return False
    last, place = pieces.pop(), len(first)
    for piece in pieces:
        place = text.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return text.endswith(last) and place + len(last) <= len(text)


def another(
    expected: Told, told: Told, recorded: Mapping[str, Any], now: Mapping[str, Any]
) -> Divergence:
    """An event that is not the one that the record has there.

    Args:
        recorded, now: What differs in them.
    """
    if expected.kind != told.kind:
        return _of_kinds(expected, told)
    what, words = _what(expected, told, {*recorded, *now})
    then, this = (recorded, now) if told.kind != "tool_started" else (expected.data, told.data)
    if what == "arguments" and told.kind == "tool_started":
        then, this = expected.data.get("arguments", {}), told.data.get("arguments", {})
    return Divergence(
        what=what,
        message=f"{place_of(told)} {words}",
        step=told.step,
        attempt=told.attempt,
        recorded=dict(then),
        now=dict(this),
        changes=tuple(changes(dict(then), dict(this))),
    )


def missing(left: Told, end: Told) -> Divergence:
    """An event of the record, before which the replay ended."""
    error = f": {end.data['error']}" if end.data.get("error") else ""
    return Divergence(
        what="call" if left.kind in (*CALL_STARTS, *CALL_ENDS) else "path",
        message=f"{place_of(left)}: the record has {named(left)}, before which the run now ends as "
        f"{end.data.get('status')}{error}",
        step=left.step,
        attempt=left.attempt,
        recorded=left.data,
    )


def unknown(told: Told, left: Told | None) -> Divergence:
    """An event that the record does not have.

    Args:
        left: What it has in its place, if that is known.
    """
    there = f"the record has {named(left)}" if left else "the record has nothing there"
    return Divergence(
        what=_kind_of(told),
        message=f"{place_of(told)}: now there is {named(told)}; {there}",
        step=told.step,
        attempt=told.attempt,
        recorded=left.data if left else None,
        now=told.data,
    )


def _of_kinds(expected: Told, told: Told) -> Divergence:
    kinds: list[What] = [_kind_of(told), _kind_of(expected)]
    first: What = kinds[1] if kinds[0] == "path" else kinds[0]
    return Divergence(
        what="question" if "question" in kinds else first,
        message=f"{place_of(told)}: the record has {named(expected)}, now there is {named(told)}",
        step=told.step,
        attempt=told.attempt,
        recorded=expected.data,
        now=told.data,
    )


def _kind_of(told: Told) -> What:
    if told.kind in (*CALL_STARTS, *CALL_ENDS):
        return "call"
    return "question" if told.kind == "answered" else "path"


def _what(expected: Told, told: Told, differs: set[str]) -> tuple[What, str]:
    data, before = told.data, expected.data
    if told.kind == "tool_started":
        if {"tool", "agent"} & differs:
            return "call", f"calls `{data.get('tool')}`; the record has `{before.get('tool')}`"
        return "arguments", f"calls `{data.get('tool')}` with other arguments"
    if told.kind == "step_finished":
        return _of_step(differs)
    if told.kind in CALL_ENDS:
        return "outcome", f"gets another answer of `{data.get('tool') or data.get('model')}`"
    words: dict[str, tuple[What, str]] = {
        "model_started": (
            "call",
            f"asks {data.get('model')}; the record has {before.get('model')}",
        ),
        "answered": ("question", "asks something else, or is answered otherwise"),
        "step_started": ("path", "is entered from elsewhere, or is another kind of step"),
        "item_finished": ("outcome", "ends otherwise"),
        "run_finished": ("outcome", "ends otherwise"),
    }
    return words.get(told.kind, ("outcome", f"tells another {told.kind.replace('_', ' ')}"))


def _of_step(differs: set[str]) -> tuple[What, str]:
    if "inputs" in differs:
        return "arguments", "is given other inputs"
    if {"outcome", "decided_by", "error", "reason", "code"} & differs:
        return "outcome", "ends otherwise"
    if {"next", "event_name"} & differs:
        return "path", "leads elsewhere"
    return "outcome", "gives other outputs"


def place_of(told: Told) -> str:
    """Where in a run an event is, in words."""
    if not told.step:
        return "the run"
    return f"step `{told.step}`" + (f", visit {told.attempt}," if told.attempt > 1 else "")


def named(told: Told) -> str:
    """An event, in words."""
    data = told.data
    words: dict[str, str] = {
        "run_finished": f"the end of the run, {data.get('status')}",
        "step_started": f"step `{told.step}`",
        "step_finished": f"the end of step `{told.step}`",
        "item_started": f"item `{told.step}`",
        "item_finished": f"the end of item `{told.step}`",
        "tool_started": f"a call of `{data.get('tool')}`",
        "tool_finished": f"the end of a call of `{data.get('tool')}`",
        "model_started": f"a question to {data.get('model')}",
        "model_finished": f"an answer of {data.get('model')}",
        "answered": "an answer of a person",
        "warning": f"a warning ({data.get('code')}: {data.get('message')})",
    }
    return words.get(told.kind, f"a {told.kind.replace('_', ' ')}")
