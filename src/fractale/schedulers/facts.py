"""Facts of a batch script: its request as JSON, and claims compared with its lines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, cast

from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.request import Array, Request
from fractale.schedulers.script import Directive, Script

_PLAN_NAMES: Final = {"name": "job_name", "queues": "queue"}
"""Fields of a request that have another name in plans and tools: field → that name."""


def facts_of(request: Request) -> dict[str, Any]:
    """Make JSON of a request, with the names that plans use."""
    return {_PLAN_NAMES.get(name, name): _plain(value) for name, value in request.said().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Array):
        return str(value)
    if isinstance(value, tuple):
        parts = [_plain(each) for each in cast("tuple[Any, ...]", value)]
        return ",".join(parts) if all(isinstance(each, str) for each in parts) else parts
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        said = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: _plain(each) for name, each in said.items() if each not in (None, ())}
    return "unlimited" if value == float("inf") else value


def with_facts(request: Request, facts: Mapping[str, Any]) -> Request:
    """Replace fields of a request by facts.

    Raises:
        ValueError: A fact is not one that a batch script has.
    """
    own = {name: field for field, name in _PLAN_NAMES.items()}
    before = facts_of(request)
    changed: dict[str, Any] = {}
    for name, value in facts.items():
        field = own.get(name, name)
        if before.get(name) == value:
            continue
        if field not in {each.name for each in dataclasses.fields(Request)}:
            raise ValueError(f"`{name}` is not a fact of a batch script")
        changed[field] = _field_value(field, value)
    return dataclasses.replace(request, **changed)


def _field_value(field: str, value: Any) -> Any:
    if field == "array":
        return Array.parse(str(value))
    if isinstance(getattr(Request(), field), tuple):
        return tuple(value.split(",")) if isinstance(value, str) else tuple(value)
    return float("inf") if value == "unlimited" else value


# -- claims -------------------------------------------------------------------------------------


def facts_set_by(directive: Directive, said: Mapping[str, Any]) -> list[str]:
    """List the names of the facts that a directive sets."""
    names = sorted(_PLAN_NAMES.get(field, field) for field in directive.sets)
    return [name for name in names if name in said]


def directive_of(parsed: Script, name: str) -> Directive | None:
    """Find the last directive of an option (long or short name, ``_`` or ``-``), or of a fact."""
    names = {name, name.replace("_", "-")}
    field = next((field for field, own in _PLAN_NAMES.items() if own == name), name)
    if len(name) == 1:
        dialect = dialect_of(parsed.scheduler)
        names |= {each.option for each in dialect.read([f"{dialect.mark} -{name} 1"]).directives}
    found = [d for d in parsed.reading.directives if d.option in names]
    found = found or [d for d in parsed.reading.directives if field in d.sets]
    return found[-1] if found else None


def contradiction(parsed: Script, directive: Directive | None, name: str, value: Any) -> str | None:
    """Say how a script contradicts a claim about an option or a fact; None if it agrees."""
    if directive is None:
        return None if value in (None, "") else f"no line says what {name} is"
    if value is None:
        return f"line {directive.line} says {name} is {directive.value}"
    meant = facts_of(_alone(parsed, directive.text))
    if value == directive.value or value in meant.values():
        return None
    flag, gap, _ = directive.text.rpartition(directive.value) if directive.value else ("", "", "")
    if gap and (claim := facts_of(_alone(parsed, f"{flag}{value}"))) and claim == meant:
        return None
    return f"line {directive.line} says {name} is {directive.value}, not {value}"


def _alone(parsed: Script, text: str) -> Request:
    """Read the request of a single directive."""
    dialect = dialect_of(parsed.scheduler)
    return dialect.read([f"{dialect.mark} {text}"]).request
