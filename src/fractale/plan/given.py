"""Limits and secret inputs that a caller gives to a run of a plan, from Python or in a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from fractale.errors import InputError, PlanError
from fractale.plan.build import read_limits
from fractale.plan.model import Limits, Plan
from fractale.text import did_you_mean, shown_value


def limits_of(value: Limits | Mapping[str, Any] | None) -> Limits:
    """Limits from a value that a caller gives.

    Raises:
        InputError: It is something else, has another key than the `limits` of plans, or a wrong
            value.
    """
    if isinstance(value, Limits):
        return value
    if value is not None and not _is_table(value):
        raise InputError(
            f"`limits` cannot be {shown_value(value)}",
            hint='give a mapping like the `limits` of a plan, such as {"steps": 20, "time": "2h"}',
        )
    try:
        return read_limits(value or {})
    except PlanError as error:
        problem = error.problems[0]
        hint = f"did you mean `{problem.suggestion}`?" if problem.suggestion else None
        raise InputError(problem.message, hint=hint) from error


def secrets_of(plan: Plan, value: Mapping[str, str] | None) -> dict[str, str]:
    """Secret inputs of a plan from a value that a caller gives.

    Raises:
        InputError: It is not a mapping, names something else than a secret input, or one is not
            text.
    """
    if value is not None and not _is_table(value):
        raise InputError(
            f"`secrets` cannot be {shown_value(value)}", hint='give a mapping: {"name": "…"}'
        )
    known = [name for name, spec in plan.inputs.items() if spec.secret]
    for name in value or {}:
        if name not in known:
            hint = did_you_mean(name, known, otherwise=_listing(plan, name, known))
            raise InputError(f"the plan `{plan.name}` has no secret input `{name}`", hint=hint)
    return {name: secret_text(name, text) for name, text in (value or {}).items()}


def secret_text(name: str, value: Any) -> str:
    """The value of a secret input.

    Raises:
        InputError: It is not text, or empty. The message does not have it.
    """
    if not isinstance(value, str) or not value:
        kind = "empty" if value == "" else f"of the type {type(value).__name__}"
        raise InputError(f"the secret input `{name}` must be text, and is {kind}")
    return value


def _listing(plan: Plan, name: str, known: Sequence[str]) -> str:
    if name in plan.inputs:
        return f"`{name}` is not secret: give it with the other inputs"
    return f"its secret inputs: {', '.join(known)}" if known else "no input of it is `secret`"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) for key in cast("Mapping[Any, Any]", value)
    )
