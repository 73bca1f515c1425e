"""What a person puts into a plan: texts and files become typed values, or clear errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fractale.errors import InputError
from fractale.plain import plain, to_json
from fractale.plan.model import InputSpec, Plan
from fractale.secret_names import INPUT_VARIABLE
from fractale.text import did_you_mean

TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
WORDS = {"true": True, "yes": True, "on": True, "1": True}
FORMS: Mapping[str, str] = {
    "array": """'["a.sh", "b.sh"]'""",
    "object": """'{"nodes": 4}'""",
}
"""How to write a value of a type on the command line: as JSON, in a shell's quotes."""
UNWORDS = {"false": False, "no": False, "off": False, "0": False}


def bind_inputs(
    plan: Plan, given: Mapping[str, Any], secrets: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The value of every input that is not secret: given, or the default.

    Args:
        given: Typed values, or texts as from the command line; a text becomes the input's type.
        secrets: The secret inputs that were read; only looked at for what is missing.

    Raises:
        InputError: Unknown, missing or ill-typed inputs, all of them in one message.
    """
    problems = [_unknown(plan, name) for name in given if name not in plan.inputs]
    values: dict[str, Any] = {}
    for name, spec in plan.inputs.items():
        if spec.secret:
            problems += _secret_problems(name, given, secrets or {}, spec)
        elif name in given:
            value, problem = convert(spec, given[name])
            values[name] = value
            problems += [problem] if problem else []
        elif spec.required:
            what = f" ({spec.description})" if spec.description else ""
            problems.append(f"input `{name}`{what} is required: -i {name}=…")
        else:
            values[name] = spec.default
    if problems:
        raise InputError("; ".join(problems), hint=f"the inputs of this plan: {_listing(plan)}")
    return values


def read_secrets(
    plan: Plan, environment: Mapping[str, str], ask: Callable[[str], str] | None = None
) -> dict[str, str]:
    """The plan's secret inputs, from ``FRACTALE_INPUT_NAME`` or asked of the person.

    Args:
        ask: Asks for the input of that name without showing what is typed; None: nobody is there.
    """
    found: dict[str, str] = {}
    for name, spec in plan.inputs.items():
        if not spec.secret:
            continue
        value = environment.get(secret_variable(name))
        if value is None and ask is not None:
            value = ask(name)
        if value:
            found[name] = value
    return found


def secret_variable(name: str) -> str:
    """The environment variable that a secret input is read from."""
    return INPUT_VARIABLE + name.upper().replace("-", "_")


def convert(spec: InputSpec, value: Any) -> tuple[Any, str | None]:
    """A given value as the input's type.

    Returns:
        The value, and what is wrong with it or None.
    """
    kind = spec.type or _type_of(spec.default)
    if isinstance(value, str) and kind not in (None, "string"):
        value = _from_text(kind, value)
    value = _as_kind(kind, value)
    if reason := _unkept(value):
        return value, f"input `{spec.name}` {reason}"
    if kind is not None and not _fits(kind, value):
        wrong = f"input `{spec.name}` must be of type {kind}, not {to_json(value)}"
        return value, wrong + (f": -i {spec.name}={FORMS[kind]}" if kind in FORMS else "")
    if spec.enum is not None and value not in spec.enum:
        choices = ", ".join(to_json(choice) for choice in spec.enum)
        return value, f"input `{spec.name}` must be one of {choices}, not {to_json(value)}"
    if spec.minimum is not None and isinstance(value, (int, float)) and value < spec.minimum:
        return value, f"input `{spec.name}` must be at least {spec.minimum:g}, not {value:g}"
    if spec.maximum is not None and isinstance(value, (int, float)) and value > spec.maximum:
        return value, f"input `{spec.name}` must be at most {spec.maximum:g}, not {value:g}"
    return value, None


def _from_text(kind: str, text: str) -> Any:
    word = text.strip()
    if kind == "boolean":
        return {**WORDS, **UNWORDS}.get(word.lower(), text)
    try:
        return json.loads(word, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(word: str) -> NoReturn:
    """Python's JSON takes `NaN` and `Infinity`, which are none."""
    raise ValueError(word)


def _as_kind(kind: str | None, value: Any) -> Any:
    """A value as its type: 4.0 fits `integer`, and is the integer 4 from then on."""
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _unkept(value: Any) -> str | None:
    """Why a run cannot keep a value; None if it can."""
    try:
        kept = plain(value)
    except ValueError as error:
        return f"holds {error}"
    return None if kept is value else "holds a number that is not finite (NaN or infinite)"


def _fits(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES.get(kind, (object,)))


def _type_of(default: Any) -> str | None:
    if default is None:
        return None
    if isinstance(default, bool):
        return "boolean"
    for kind in ("string", "integer", "number", "array", "object"):
        if isinstance(default, TYPES[kind]):
            # A default of 1 does not say that 1.5 would be wrong.
            return "number" if kind == "integer" else kind
    return None


def _unknown(plan: Plan, name: str) -> str:
    return f"the plan has no input `{name}`" + did_you_mean(name, plan.inputs, before="; ")


def _secret_problems(
    name: str, given: Mapping[str, Any], secrets: Mapping[str, str], spec: InputSpec
) -> list[str]:
    variable = secret_variable(name)
    if name in given:
        return [f"input `{name}` is secret and is not given as an argument: set {variable}"]
    if name not in secrets and spec.required:
        return [f"input `{name}` is secret: set {variable}, or run on a terminal to be asked"]
    return []


def _listing(plan: Plan) -> str:
    return ", ".join(f"{n} ({s.type or 'any'})" for n, s in plan.inputs.items()) or "none"
