"""Inputs of a plan: their descriptions, and the conversion of texts and files to values."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, cast

from fractale import shipped
from fractale.errors import InputError, Position
from fractale.plain import plain, to_json
from fractale.plan.fields import Fields, Reader, join, nearest
from fractale.plan.forms import (
    FLAG,
    INPUT_NAME_PATTERN,
    NOWHERE,
    TEXT,
    Form,
    Inline,
    Key,
    choice,
    keys_of,
    part_data,
    part_schema,
    read_part,
    real,
    ref,
)
from fractale.plan.node import Node
from fractale.secret_names import INPUT_VARIABLE
from fractale.text import clip, did_you_mean

if TYPE_CHECKING:
    from fractale.plan.model import Plan

TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
FORMS: Mapping[str, str] = {
    "array": """'["a.sh", "b.sh"]'""",
    "object": """'{"nodes": 4}'""",
}
"""Type → how to write a value on the command line: as JSON, in a shell's quotes."""

# The description of an input


def _default(mapping: Fields, key: str) -> Any:
    return mapping.value(key).plain()


def _enum(mapping: Fields, key: str) -> tuple[Any, ...] | None:
    node = mapping.value(key)
    if isinstance(node.value, list) and node.value:
        return tuple(item.plain() for item in node.value)
    mapping.wrong(key, "a list of at least one value")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input of a plan, in the vocabulary of JSON Schema."""

    name: str
    type: Annotated[
        str | None, Key(choice(tuple(TYPES)), "The type of its values; left out, any value fits.")
    ] = None
    default: Annotated[Any, Key(Form(_default, {}), "The value if the input is not given.")] = None
    description: Annotated[str, Key(TEXT, "The purpose of the input.")] = ""
    enum: Annotated[
        tuple[Any, ...] | None,
        Key(Form(_enum, {"type": "array", "minItems": 1}, Inline), "All values that it can have."),
    ] = None
    minimum: Annotated[float | None, Key(real(), "The least number.")] = None
    maximum: Annotated[float | None, Key(real(), "The greatest number.")] = None
    required: Annotated[
        bool, Key(FLAG, "Whether it must be given; left out, yes if it has no `default`.")
    ] = False
    secret: Annotated[
        bool,
        Key(
            FLAG,
            "`true`: read from the environment or asked for, shown as `***`, never stored.",
        ),
    ] = False
    position: Position = field(default=NOWHERE, compare=False)


INPUT_KEYS: Final = keys_of(InputSpec)


def _inputs(plan: Fields, key: str) -> dict[str, InputSpec]:
    found: dict[str, InputSpec] = {}
    for name, at, node in plan.entries(key):
        path = join(key, name)
        if not re.fullmatch(INPUT_NAME_PATTERN, name):
            message = f"`{clip(name)}` cannot be the name of an input: letters, digits, `_`, `-`"
            plan.reader.fail("bad-name", message, at, path)
        elif is_input_spec(node.plain() if isinstance(node.value, dict) else None):
            found[name] = _spec(plan.reader, name, at, node, path)
        else:
            found[name] = InputSpec(name=name, default=node.plain(), position=at.position)
    return found


def is_input_spec(value: Any) -> bool:
    """Whether a value under `inputs` describes the input, rather than being its default.

    A mapping is a description if all its keys are words of a description, or if its `type` is a
    valid one. It is also a description if one key is nearly such a word, beside a key that is one:
    a misspelled word must not turn a description into a default.
    """
    if not isinstance(value, dict) or not value:
        return False
    keys = cast("dict[str, Any]", value)
    known = [key for key in keys if key in INPUT_KEYS]
    kind = keys.get("type")
    if len(known) == len(keys) or (isinstance(kind, str) and kind in TYPES):
        return True
    return bool(known) and any(nearest(key, INPUT_KEYS) for key in keys if key not in INPUT_KEYS)


def _spec(reader: Reader, name: str, key: Node, node: Node, path: str) -> InputSpec:
    mapping = reader.fields(node, path, INPUT_KEYS, "the description of an input", {})
    if mapping is None:
        return InputSpec(name=name)
    # An input without a default or a value would reach a tool as null.
    given: dict[str, Any] = {"required": "default" not in mapping, **read_part(INPUT_KEYS, mapping)}
    spec = InputSpec(name=name, position=key.position, **given)
    _check_bounds(mapping, spec)
    if "default" in mapping:
        _check_default(mapping, spec)
    return spec


def _check_bounds(mapping: Fields, spec: InputSpec) -> None:
    for key in ("minimum", "maximum"):
        if getattr(spec, key) is not None and spec.type not in (None, "integer", "number"):
            mapping.fail(key, "bad-value", f"`{key}` is for numbers, not for type {spec.type}")
    if spec.minimum is not None and spec.maximum is not None and spec.minimum > spec.maximum:
        mapping.fail("maximum", "bad-value", f"`maximum` is below `minimum` ({spec.minimum:g})")
    untyped = InputSpec(name=spec.name, type=spec.type)
    for value in spec.enum or () if spec.type else ():
        if _misfit(untyped, value):
            message = f"`enum`: {clip(repr(value))} is not of type {spec.type}"
            mapping.fail("enum", "bad-value", message)


def _check_default(mapping: Fields, spec: InputSpec) -> None:
    if spec.secret:
        message = "a secret has no default: it is read from the environment or asked for"
        mapping.fail("default", "bad-value", message)
    elif spec.required:
        message = "a required input has no default; keep one of the two"
        mapping.fail("default", "bad-value", message)
    elif spec.default is not None and (problem := _misfit(spec, spec.default)):
        mapping.fail("default", "bad-value", f"the default does not fit: {problem}")


def _misfit(spec: InputSpec, value: Any) -> str | None:
    """The error in a value. In a file, a value is not a text that still needs a conversion."""
    if spec.type is not None and spec.type != "string" and isinstance(value, str):
        return f"input `{spec.name}` must be of type {spec.type}, not the text `{clip(value)}`"
    problem = convert(spec, value)[1] if spec.type or spec.enum or value is not None else None
    return clip(problem, 120) if problem else None


def _inputs_data(inputs: Mapping[str, InputSpec]) -> dict[str, Any]:
    return {name: _spec_data(spec) for name, spec in inputs.items()}


def _spec_data(spec: InputSpec) -> Any:
    """The short form (the default alone) if it is complete."""
    described = part_data(spec)
    for key in ("default", "required"):
        described.pop(key, None)
    if spec.required:
        return {**described, "required": True}
    if not described and not is_input_spec(spec.default):
        return spec.default
    absent = {"required": False} if spec.secret else {"default": spec.default}
    return {**described, **absent}


INPUTS: Final = Form(
    _inputs,
    {
        "type": "object",
        "patternProperties": {f"^{INPUT_NAME_PATTERN}$": ref("input")},
        "additionalProperties": False,
    },
    _inputs_data,
)
"""Name → a default value, or an `InputSpec`."""


def input_schema() -> dict[str, Any]:
    """JSON Schema of one input.

    Only a `type` distinguishes a description from a default that is a mapping. Without a `type`,
    the schema therefore offers the other keys to editors, but does not check them.
    """
    described = part_schema(INPUT_KEYS)
    offered = {key: {"description": each.help} for key, each in INPUT_KEYS.items()}
    kind = {"type": described["properties"]["type"]}
    return {
        "description": "A default value, or a description of the input in JSON Schema's words.",
        "properties": offered,
        "if": {"type": "object", "required": ["type"], "properties": kind},
        "then": {"properties": described["properties"], "additionalProperties": False},
    }


def schema_of_inputs(plan: "Plan") -> dict[str, Any]:
    """JSON Schema of the plan's inputs. Secret ones are left out: a form would store them."""
    specs = [spec for spec in plan.inputs.values() if not spec.secret]
    return {
        "title": "Input",
        "type": "object",
        "properties": {spec.name: _schema_of(spec) for spec in specs},
        "required": [spec.name for spec in specs if spec.required],
    }


def _schema_of(spec: InputSpec) -> dict[str, Any]:
    known: dict[str, Any] = {"title": spec.name}
    values = {
        "type": spec.type,
        "description": spec.description or None,
        "enum": list(spec.enum) if spec.enum else None,
        "default": spec.default,
        "minimum": spec.minimum,
        "maximum": spec.maximum,
    }
    return known | {key: value for key, value in values.items() if value is not None}


# Values that the user gives


def bind_inputs(
    plan: "Plan", given: Mapping[str, Any], secrets: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The value of every input that is not secret: the given value, or the default.

    Args:
        given: Typed values, or texts as from the command line. A text is converted to the type.
        secrets: The secret inputs that were read. They only show which inputs are missing.

    Raises:
        InputError: Unknown, missing or ill-typed inputs, all of them in one message.
    """
    problems = [_unknown(plan, name) for name in given if name not in plan.inputs]
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, spec in plan.inputs.items():
        if spec.secret:
            problems += _secret_problems(name, given, secrets or {}, spec)
        elif name in given:
            values[name], problem = convert(spec, shipped.value(given[name]))
            if problem:
                problems.append(problem + _option(spec, values[name]))
                wrong[name] = problem.removeprefix(f"input `{name}` ")
        elif spec.required:
            what = f" ({spec.description})" if spec.description else ""
            problems.append(f"input `{name}`{what} is required: -i {name}=…")
            wrong[name] = "is required"
        else:
            values[name] = shipped.value(spec.default)
    if problems:
        hint = f"the inputs of this plan: {_listing(plan)}"
        raise InputError("; ".join(problems), hint=hint, of_inputs=wrong)
    return values


def default_values(plan: "Plan") -> dict[str, Any]:
    """The value of each input that need not be given, in the steps of an included plan."""
    specs = plan.inputs.items()
    return {name: shipped.value(spec.default) for name, spec in specs if not spec.required}


def _option(spec: InputSpec, value: Any) -> str:
    """How a value of the input's type is written on the command line; empty for the right type."""
    kind = kind_of(spec)
    if kind is None or kind not in FORMS or _fits(kind, value):
        return ""
    return f": -i {spec.name}={FORMS[kind]}"


def read_secrets(
    plan: "Plan", environment: Mapping[str, str], ask: Callable[[str], str] | None = None
) -> dict[str, str]:
    """Read the plan's secret inputs, from ``FRACTALE_INPUT_NAME`` or from the user.

    Args:
        ask: Asks for the input of that name without showing the typed text. None: without a
            terminal.
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
    """The environment variable of a secret input."""
    return INPUT_VARIABLE + name.upper().replace("-", "_")


def convert(spec: InputSpec, value: Any) -> tuple[Any, str | None]:
    """A given value as the input's type.

    Returns:
        The value, and its error or None.
    """
    kind = kind_of(spec)
    if isinstance(value, str) and kind not in (None, "string"):
        value = _from_text(kind, value)
    value = _as_kind(kind, value)
    if reason := _unkept(value):
        return value, f"input `{spec.name}` {reason}"
    if kind is not None and not _fits(kind, value):
        return value, f"input `{spec.name}` must be of type {kind}, not {to_json(value)}"
    if spec.enum is not None and value not in spec.enum:
        choices = ", ".join(to_json(choice) for choice in spec.enum)
        return value, f"input `{spec.name}` must be one of {choices}, not {to_json(value)}"
    if spec.minimum is not None and isinstance(value, (int, float)) and value < spec.minimum:
        return value, f"input `{spec.name}` must be at least {spec.minimum:g}, not {value:g}"
    if spec.maximum is not None and isinstance(value, (int, float)) and value > spec.maximum:
        return value, f"input `{spec.name}` must be at most {spec.maximum:g}, not {value:g}"
    return value, None


def kind_of(spec: InputSpec) -> str | None:
    """The type of an input: the declared one, or that of its default; None if any value fits."""
    return spec.type or _type_of(spec.default)


def _from_text(kind: str, text: str) -> Any:
    word = text.strip()
    if kind == "boolean":
        return BOOLEANS.get(word.lower(), text)
    try:
        return json.loads(word, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(word: str) -> NoReturn:
    """Refuse `NaN` and `Infinity`, which Python's JSON accepts, but which are not JSON."""
    raise ValueError(word)


def _as_kind(kind: str | None, value: Any) -> Any:
    """A value as its type: 4.0 fits `integer`, and is the integer 4 from then on."""
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _unkept(value: Any) -> str | None:
    """Why a run cannot store a value; None if it can."""
    try:
        kept = plain(value)
    except ValueError as error:
        return f"contains {error}"
    return None if kept is value else "contains a number that is not finite (NaN or infinite)"


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
            # A default of 1 does not mean that 1.5 would be wrong.
            return "number" if kind == "integer" else kind
    return None


def _unknown(plan: "Plan", name: str) -> str:
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


def _listing(plan: "Plan") -> str:
    return ", ".join(f"{n} ({s.type or 'any'})" for n, s in plan.inputs.items()) or "none"
