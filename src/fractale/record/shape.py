"""The shape of a record: which fields its head and its events have, and of which types.

It is checked when a record is read, so that what reads a history need not expect anything else.
Fields that are missing or null are valid unless they are required; unknown fields and events, of a
later version, are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, cast

Check: TypeAlias = Callable[[Any], str]
"""Returns what is wrong with a value, such as `is not a number`; empty if it is valid."""

MOST_NUMBER: Final = 1e15
MOST_TIME: Final = 2.5e11
"""A Unix time in the year 9892; dates end with the year 9999."""


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "is not a text"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "is not a number"
    valid = math.isfinite(value) and abs(value) < MOST_NUMBER
    return "" if valid else "is not a possible number"


def _natural(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return "is not a whole number"
    return "" if 0 <= value < MOST_NUMBER else "is not a possible number"


def _time(value: Any) -> str:
    return _number(value) or ("" if 0 <= value < MOST_TIME else "is not a time")


def _call(value: Any) -> str:
    return "" if isinstance(value, (str, int)) else "is not a number"


def _one_of(*words: str) -> Check:
    said = f"is not one of {', '.join(words)}"
    return lambda value: "" if value in words else said


def _stamp(value: Any) -> str:
    """Of a file: size, time in ns, checksum; of a program also its path."""
    parts = cast("list[Any]", value) if isinstance(value, list) else []
    numbers = all(isinstance(each, int) and not isinstance(each, bool) for each in parts[:2])
    texts = all(isinstance(each, str) for each in parts[2:])
    return "" if len(parts) in (3, 4) and numbers and texts else "is not the state of a file"


def _list_of(check: Check) -> Check:
    def found(value: Any) -> str:
        if not isinstance(value, list):
            return "is not a list"
        wrong = (check(each) for each in cast("list[Any]", value))
        return next((f"has an entry that {each}" for each in wrong if each), "")

    return found


def _table_of(check: Check) -> Check:
    """A mapping with values of one type; they may be null."""

    def found(value: Any) -> str:
        if not isinstance(value, dict):
            return "is not a mapping"
        values = cast("dict[str, Any]", value).values()
        wrong = (check(each) for each in values if each is not None)
        return next((f"has an entry that {each}" for each in wrong if each), "")

    return found


def _fields(required: Mapping[str, Check] | None = None, /, **others: Check) -> Check:
    """A mapping with some fields."""
    needed = required or {}

    def found(value: Any) -> str:
        if not isinstance(value, dict):
            return "is not a mapping"
        table = cast("dict[str, Any]", value)
        for name, check in {**others, **needed}.items():
            if table.get(name) is None:
                if name in needed:
                    return f"has no `{name}`"
            elif wrong := check(table[name]):
                return f"has a `{name}` that {wrong}"
        return ""

    return found


def _amount(value: Any) -> str:
    """A number, or several by their names, such as what is reserved of each limit."""
    return _table_of(_number)(value) if isinstance(value, dict) else _number(value)


def _or_empty(check: Check) -> Check:
    return lambda value: check(value) if value else ""


def _any(_value: Any) -> str:
    return ""


_STATUS = _one_of("success", "failed", "waiting", "limit", "stopped")
_OUTCOME = _one_of("success", "failure", "skipped")
_TABLE = _fields()
_TEXTS = _list_of(_text)
_MOMENT = _fields({"wall": _time}, boot=_number)
_DUE = _or_empty(_fields({"began": _MOMENT, "seconds": _number}, until=_time, last=_time))
_QUESTION = _fields(
    id=_text, kind=_text, step=_text, due=_DUE, round=_natural, handle=_TABLE, number=_natural,
    of=_natural, schema=_TABLE, arguments=_TABLE,
)  # fmt: skip
_HANDLE = _fields(index=_natural)
_JOB_TIMES: Final[Mapping[str, Check]] = dict.fromkeys(("submitted", "started", "ended"), _time)
_FAILED_JOB = _fields({"step": _text, "job": _any}, seconds=_number, log=_text)
_STEP: Final[Mapping[str, Check]] = {"step": _text}
_CALL: Final[Mapping[str, Check]] = {**_STEP, "call": _call}
_ITEM: Final[Mapping[str, Check]] = {**_STEP, "index": _natural}
_REUSED: Final = _or_empty(_fields({"run": _text, "step": _text}, key=_text))
_READ: Final = _or_empty(
    _fields(files=_table_of(_stamp), programs=_table_of(_stamp), prompts=_table_of(_stamp))
)
_ENDED: Final[Mapping[str, Check]] = {
    "outcome": _OUTCOME, "error": _text, "decided_by": _text, "seconds": _number,
}  # fmt: skip

_PARENT = _or_empty(_fields({"run": _text, "step": _text}, attempt=_natural, kept=_TEXTS))

HEAD: Final = _fields(
    plan=_text, file=_text, started=_time, inputs=_TABLE, versions=_table_of(_text),
    tools=_table_of(_text), plan_hash=_text, registries=_list_of(_text),
    parent=_PARENT,
)  # fmt: skip

EVENTS: Final[Mapping[str, Check]] = {
    "run_started": _fields(
        title=_text, model=_text, versions=_table_of(_text), limits=_TABLE,
        steps=_list_of(_fields({"name": _text}, type=_text, target=_text)),
        parent=_PARENT,
    ),
    "step_started": _fields(
        _STEP, attempt=_natural, type=_text, target=_text, description=_text, previous=_text,
        handler=_text,
    ),
    "item_started": _fields(_ITEM, total=_natural),
    "item_finished": _fields(_ITEM, total=_natural, reused=_REUSED, read=_READ, **_ENDED),
    "tool_started": _fields({**_CALL, "tool": _text}, arguments=_TABLE, key=_text),
    "tool_progress": _fields(_STEP, progress=_number, total=_number, message=_text),
    "tool_finished": _fields(_CALL, text=_text, seconds=_number),
    "model_started": _fields({**_CALL, "model": _text}, key=_text),
    "model_finished": _fields(
        _CALL, text=_text, seconds=_number, input_tokens=_natural, output_tokens=_natural,
        cost=_number, snapshot=_text,
    ),
    "log": _fields(step=_text, level=_text, message=_text),
    "warning": _fields(step=_text, message=_text),
    "job_state": _fields(
        _STEP, handle=_HANDLE, began=_or_empty(_MOMENT), nodes=_TEXTS, deadline=_time,
        timeout=_number,
        jobs=_table_of(_natural), state=_text, reason=_text, line=_text, **_JOB_TIMES,
    ),
    "timer": _fields(_STEP, reason=_text, due=_DUE),
    "step_finished": _fields(
        {**_STEP, "outcome": _OUTCOME}, attempt=_natural, event_name=_text, decided_by=_text,
        reason=_text, error=_text, seconds=_number, tokens=_natural, next=_text, handler=_text,
        reused=_REUSED, read=_READ,
        notices=_list_of(_fields(kind=_text, message=_text)),
    ),
    "table": _fields(_STEP, rows=_list_of(_TABLE)),
    "waiting": _fields({"question": _QUESTION}, step=_text),
    "answered": _fields({"question": _QUESTION}, step=_text, by=_text, via=_text, user=_text),
    "run_finished": _fields(
        {"status": _STATUS}, error=_text, hint=_text, outputs=_TABLE, usage=_table_of(_amount),
        output_files=_table_of(_text), next=_TEXTS, left_out=_TEXTS, record=_text,
        waiting=_list_of(_QUESTION),
        notices=_list_of(_fields(kind=_text, step=_text, message=_text)),
        decided=_fields(
            step=_text, by=_text, reason=_text, gave_up=_text, jobs=_list_of(_FAILED_JOB)
        ),
        steps=_list_of(_fields(name=_text, attempt=_natural, outcome=_OUTCOME, error=_text)),
    ),
}  # fmt: skip
_PART = _fields({"at": _list_of(_any), "text": _text, "bytes": _natural})
_EVERY = _fields({"time": _time}, parts=_list_of(_PART))


def wrong_event(event: Mapping[str, Any]) -> str:
    """The fault of an event, as text; empty for a valid one."""
    kind = event.get("event")
    if not isinstance(kind, str):
        return "an event has no kind"
    found = _EVERY(event) or EVENTS.get(kind, _TABLE)(event)
    return f"the event `{kind}` {found}" if found else ""


def wrong_head(head: Any) -> str:
    """The fault of the head of a record, as text; empty for a valid one."""
    found = HEAD(head)
    return f"its head {found}" if found else ""
