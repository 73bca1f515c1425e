"""Keys of the plan language, and the forms of their values.

The language is one table: the model's fields. Each field is annotated with the `Key` that sets it,
and a `Key` names the `Form` of its value. Everything else is derived from these two:

- `read_part` reads a mapping of a file into the fields of a part (a step, a retry, …),
- `part_data` returns the plain data of a part, which `fractale.plan.dump` writes as YAML,
- `part_schema` returns the JSON Schema of a part,
- the tables of ``docs/plans.md`` show `Key.help`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from fractale.durations import DURATION_PATTERN, format_duration
from fractale.errors import Position
from fractale.plan.fields import Fields, Reader, join
from fractale.plan.node import clip
from fractale.plan.values import Template, Value, plain_value, template, value_of

if TYPE_CHECKING:
    from fractale.plan.node import Node

Schema: TypeAlias = Mapping[str, Any]

CALLABLE_PATTERN: Final = r"[^\s{}]+"
INPUT_NAME_PATTERN: Final = "[A-Za-z_][A-Za-z0-9_-]*"
VALUE_NAME_PATTERN: Final = "[A-Za-z_][A-Za-z0-9_]*"
MODEL_PATTERN: Final = r"[A-Za-z0-9_-]+:\S+"
SERVER_NAME_PATTERN: Final = "[A-Za-z0-9_][A-Za-z0-9_-]*"
DOTTED_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+"

NOWHERE: Final = Position("<plan>", 1, 1)


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a key's value.

    Args:
        read: Reads the value of a key that is neither missing nor empty. It returns None after it
            has kept a problem. Without it, the part's own reader reads the key.
        schema: JSON Schema of the value.
        dump: Returns the value as plain data.
    """

    read: Callable[[Fields, str], Any] | None
    schema: Schema
    dump: Callable[[Any], Any] = field(default=lambda value: value)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the language, declared on the field of the model that it sets.

    Args:
        form: The form of its value.
        help: Markdown for the table of the docs. Editors show it without its links.
        name: The key in the file. If it is left out, the field's name.
        required: None: the key may be left out. Otherwise the key is required, and this text ends
            the message ``a step needs `name` …``.
        kinds: The kinds of step that have the key. If it is left out, every kind has the key,
            unless the kind lacks it.
        needs: Keys of which one must be beside it.
        never_empty: Whether an empty value is an error. Otherwise it would count as left out, and
            the step would do more than its author intended.
        field, default: The field and its default; `keys_of` sets both. A second key of the same
            field does not have a field.
    """

    form: Form
    help: str
    _: KW_ONLY
    name: str = ""
    required: str | None = None
    kinds: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    never_empty: bool = False
    field: str = ""
    default: Any = None


@cache
def keys_of(part: type) -> Mapping[str, Key]:
    """The keys of a part of the language, in the order of its fields."""
    found: dict[str, Key] = {}
    for each in fields(part):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        first = True
        for key in getattr(each.type, "__metadata__", ()):
            own = each.name if first else ""
            name = key.name or each.name
            found[name] = replace(key, name=name, field=own, default=default)
            first = False
    return found


def read_part(keys: Mapping[str, Key], mapping: Fields) -> dict[str, Any]:
    """The values of a mapping by the field that each sets, or by the key if it sets none.

    A value that does not fit is left out, and a problem is kept.
    """
    found: dict[str, Any] = {}
    for name in mapping:
        key = keys.get(name)
        if key is None:
            continue  # it has a problem already, or is a job's key beside a step's own
        if mapping.get(name) is None:
            if key.never_empty:
                message = f"`{name}` is empty; give it a value, or leave the key out"
                mapping.fail(name, "empty-value", message)
        elif key.form.read is not None:
            value = key.form.read(mapping, name)
            if value is not None:
                found[key.field or name] = value
    for name, key in keys.items():
        if key.required is not None and mapping.get(name) is None:
            mapping.fail(name, "missing-key", f"{mapping.noun} needs `{name}`{key.required}")
    return found


def part_data(part: Any, *, all_keys: bool = False) -> dict[str, Any]:
    """A part as the plain data of its mapping: the values that differ from their defaults.

    Args:
        part: An instance of a dataclass with keys.
        all_keys: Whether to write the defaults, too.
    """
    found: dict[str, Any] = {}
    for name, key in keys_of(cast("type", part.__class__)).items():
        if key.field:
            value = getattr(part, key.field)
            if (all_keys and value is not None) or value != key.default:
                found[name] = key.form.dump(value)
    return found


def part_schema(keys: Mapping[str, Key]) -> dict[str, Any]:
    """JSON Schema of a mapping with these keys and no others."""
    required = [name for name, key in keys.items() if key.required is not None]
    return {
        "type": "object",
        "properties": {n: {**key.form.schema, "description": key.help} for n, key in keys.items()},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


class Inline(list[Any]):
    """A list that YAML writes in brackets, on one line if it fits."""


# Plain values


def ref(name: str) -> Schema:
    """A reference to one of the schema's definitions."""
    return {"$ref": f"#/$defs/{name}"}


def matching(pattern: str) -> Schema:
    """JSON Schema of text that matches a pattern as a whole."""
    return {"type": "string", "pattern": f"^{pattern}$"}


def whole(least: int = 1) -> Form:
    """A whole number of at least `least`."""
    return Form(
        lambda mapping, key: mapping.whole(key, least), {"type": "integer", "minimum": least}
    )


def real(least: float | None = None) -> Form:
    """A number, at least `least` if that is given."""
    bound = {} if least is None else {"minimum": least}
    return Form(lambda mapping, key: mapping.real(key, least), {"type": "number", **bound})


def duration(*, zero: bool = False) -> Form:
    """Seconds, written as a number or as a duration such as ``10m``.

    Args:
        zero: Whether zero is allowed.
    """
    return Form(
        lambda mapping, key: mapping.seconds(key, zero=zero), ref("duration"), format_duration
    )


def choice(words: tuple[str, ...]) -> Form:
    """One of some words."""
    return Form(lambda mapping, key: mapping.choice(key, words), {"enum": list(words)})


def part(type_: type, *, all_keys: bool = False) -> Form:
    """A mapping that is a part of the language.

    Args:
        type_: Its dataclass.
        all_keys: Whether to write the keys that have their defaults, too.
    """
    keys = keys_of(type_)

    def read(mapping: Fields, key: str) -> Any:
        node, path = mapping.value(key), join(mapping.path, key)
        inner = mapping.reader.fields(node, path, keys, f"`{key}`", {})
        return None if inner is None else type_(**read_part(keys, inner))

    return Form(read, part_schema(keys), lambda value: part_data(value, all_keys=all_keys))


def _amount(mapping: Fields, key: str) -> float | None:
    found = mapping.real(key, 0)
    if found == 0:
        mapping.fail(key, "bad-value", f"`{key}` must be more than 0")
    return found


def _name_of_part(mapping: Fields, key: str) -> str | None:
    return mapping.reader.text(mapping.value(key), join(mapping.path, key), f"`{key}`")


TEXT: Final = Form(Fields.text, {"type": "string"})
"""Text, which may be empty."""

TITLE: Final = Form(_name_of_part, {"type": "string", "pattern": r"\S"})
"""Text that is not empty."""

NAME: Final = Form(Fields.name, matching(CALLABLE_PATTERN))
"""The name of something that can be called."""

FLAG: Final = Form(Fields.flag, {"type": "boolean"})

AMOUNT: Final = Form(_amount, {"type": "number", "exclusiveMinimum": 0})
"""A number above zero."""


def duration_schema() -> Schema:
    """JSON Schema of a duration, without ambiguous ones."""
    return {
        "description": "90s, 10m, 1h30m, or a number of seconds.",
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": DURATION_PATTERN, "minLength": 1},
        ],
    }


# Values with templates


def _values(mapping: Fields, key: str) -> dict[str, Any]:
    return {name: value_of(node) for name, _, node in mapping.entries(key)}


def _named_values(mapping: Fields, key: str) -> dict[str, Any] | None:
    """Values whose names are written with a dot, so that no name has a hyphen."""
    found: dict[str, Any] = {}
    for name, at, node in mapping.entries(key):
        if re.fullmatch(VALUE_NAME_PATTERN, name, re.ASCII):
            found[name] = value_of(node)
            continue
        right = "a letter, then letters, digits, `_`"
        message = f"`{clip(name)}` cannot name a value: {right}"
        mapping.reader.fail("bad-name", message, at, join(join(mapping.path, key), clip(name)))
    if not found and mapping.value(key).value == {}:
        mapping.fail(key, "missing-key", f"`{key}` needs at least one name with its value")
    return found or None


def _instruction(mapping: Fields, key: str) -> str | Template | None:
    node = mapping.value(key)
    if isinstance(node.value, str):
        return template(node)
    mapping.wrong(key, "text")
    return None


def _judge(mapping: Fields, key: str) -> bool | str | Template | None:
    node = mapping.value(key)
    if isinstance(node.value, bool):
        return node.value
    if isinstance(node.value, str) and node.value.strip():
        return template(node)
    mapping.wrong(key, "`true`, `false`, or the criterion as text")
    return None


def _files(mapping: Fields, key: str) -> tuple[Value, ...]:
    node = mapping.value(key)
    if isinstance(node.value, str):
        return (template(node),) if mapping.reader.text(node, join(mapping.path, key)) else ()
    found = [
        template(item)
        for path, item in mapping.items(key)
        if mapping.reader.text(item, path, f"a file of `{key}`") is not None
    ]
    return tuple(found)


FILES: Final = Form(
    _files,
    {
        "anyOf": [
            {"type": "string", "pattern": r"\S"},
            {"type": "array", "items": {"type": "string", "pattern": r"\S"}},
        ]
    },
    lambda files: Inline(map(plain_value, files)),
)
"""Paths of files that may be templates, one or a list."""

VALUES: Final = Form(_values, {"type": "object"}, plain_value)
"""Names with JSON values that may contain templates."""

NAMED_VALUES: Final = Form(
    _named_values,
    {
        "type": "object",
        "minProperties": 1,
        "patternProperties": {f"^{VALUE_NAME_PATTERN}$": {}},
        "additionalProperties": False,
    },
    plain_value,
)
"""As `VALUES`, at least one, with names that templates can write with a dot."""

INSTRUCTION: Final = Form(_instruction, {"type": "string"}, plain_value)
"""Text that may be a template."""


JUDGE: Final = Form(
    _judge, {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": r"\S"}]}, plain_value
)
"""Whether a model judges, or its criterion, which may be a template."""


# The tools of a step, and its outputs


def _tools(mapping: Fields, key: str) -> tuple[str, ...]:
    if isinstance(mapping.value(key).value, str):
        names = [mapping.name(key)]
    else:
        named = "the name of a tool"
        names = [mapping.reader.name(node, path, named) for path, node in mapping.items(key)]
    return tuple(name for name in names if name)


def _model(mapping: Fields, key: str) -> str | None:
    model = mapping.name(key)
    if model and not re.fullmatch(MODEL_PATTERN, model, re.ASCII):
        message = (
            f"a model is written `provider:name`, such as `openai:gpt-4.1`, not `{clip(model)}`"
        )
        mapping.fail(key, "bad-value", message)
    return model


def _json_schema(mapping: Fields, key: str) -> dict[str, Any] | None:
    """A JSON Schema as plain data.

    References must point into the schema itself: a program that validates with the schema would
    fetch the URL of any other reference.
    """
    node, path = mapping.value(key), join(mapping.path, key)
    if not isinstance(node.value, dict):
        mapping.wrong(key, "a JSON Schema, which is a mapping")
        return None
    # The import of jsonschema takes a tenth of a second, and most plans have no schema.
    from fractale.schemas import faults_of

    schema: dict[str, Any] = node.plain()
    for where, reason in faults_of(schema):
        at, inner = _descend(node, where, path)
        mapping.reader.fail("bad-schema", clip(reason, 240), at, inner)
    return schema


def _descend(node: Node, where: list[str | int], path: str) -> tuple[Node, str]:
    for step in where:
        if isinstance(node.value, dict):
            node, path = node.value[str(step)], f"{path}.{step}"
        elif isinstance(node.value, list):
            node, path = node.value[int(step)], f"{path}[{step}]"
    return node, path


TOOLS: Final = Form(
    _tools,
    {
        "anyOf": [
            matching(CALLABLE_PATTERN),
            {"type": "array", "items": matching(CALLABLE_PATTERN)},
        ]
    },
    Inline,
)
"""Names or globs of tools."""

MODEL: Final = Form(_model, matching(MODEL_PATTERN))

JSON_SCHEMA: Final = Form(_json_schema, {"type": "object"}, dict)


# The resources of a plan


def _servers(mapping: Fields, key: str) -> tuple[str, ...]:
    node = mapping.value(key)
    listed = (
        mapping.items(key) if isinstance(node.value, list) else [(join(mapping.path, key), node)]
    )
    return tuple(item.source for path, item in listed if _is_server(mapping.reader, item, path))


def _is_server(reader: Reader, node: Node, path: str) -> bool:
    if isinstance(node.value, str) and re.fullmatch(SERVER_NAME_PATTERN, node.value):
        return True
    message = (
        "a plan names its servers, and never says how to start or reach them; "
        "put that into the settings under `servers:` with a name, and write the name here"
    )
    reader.fail("server-by-name", message, node, path)
    return False


SERVERS: Final = Form(
    _servers,
    {
        "anyOf": [
            matching(SERVER_NAME_PATTERN),
            {"type": "array", "items": matching(SERVER_NAME_PATTERN)},
        ]
    },
    Inline,
)
"""Names of the settings' MCP servers. A plan cannot contain a server's command line or URL."""
