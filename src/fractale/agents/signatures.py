"""Arguments and results of tools, prompts and sub-agents: shown on one line, and checked.

`signature` writes a call on one line, for models and users:
``submit(script*: string, nodes: integer, mode: "a"|"b") -> job_id: string, log: string``. A star
marks a required argument; the outputs follow the arrow. `faults_of_call` and `faults_of_given`
check arguments before the user is asked or a call is made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from fractale.evidence import WRAPPED
from fractale.schemas import UnusableSchema, misfits
from fractale.text import clip
from fractale.toolbox import PromptInfo

Schema = Mapping[str, Any]

MAX_CHARS: Final = 1500
"""The most characters of the arguments or the outputs in one line."""

_MAX_CHOICES: Final = 8
_MAX_DEPTH: Final = 2
_SHORT: Final = 160


def signature(name: str, takes: Schema, gives: Schema | None, without: Iterable[str] = ()) -> str:
    """A call on one line.

    Args:
        takes: JSON Schema of the arguments.
        gives: JSON Schema of the outputs; None if it is unknown.
        without: Arguments to leave out.
    """
    arguments = fields(takes, without)
    outputs = outputs_of_schema(gives) if gives else ""
    return f"{name}({clip(arguments, MAX_CHARS)}){f' -> {outputs}' if outputs else ''}"


def prompt_signature(prompt: PromptInfo) -> str:
    """A prompt on one line. Its arguments are texts."""
    names = [f"{a['name']}{'*' if a.get('required') else ''}" for a in prompt.arguments]
    return f"{prompt.name}({', '.join(names)})"


def outputs_of_schema(schema: Schema) -> str:
    """The keys of an answer with their types. Empty if the schema names none."""
    inner = _table(schema.get("properties"))
    if schema.get(WRAPPED) and list(inner) == ["result"]:
        kind = type_in_words(inner["result"], schema)
        return "content" if kind == "string" else f"result: {kind}"
    parts = [f"{n}: {type_in_words(s, schema)}" for n, s in inner.items()]
    return clip(", ".join(parts), MAX_CHARS)


def fields(schema: Schema, without: Iterable[str] = ()) -> str:
    """The arguments that a schema names, with their types, in its order."""
    return ", ".join(f"{field}{_open_object(each)}" for field, each in _fields(schema, without))


def argument_lines(schema: Schema, without: Iterable[str] = ()) -> list[str]:
    """The arguments that a schema names, one per line, each with its description."""
    return [f"{field}{_description(each)}" for field, each in _fields(schema, without)]


def _fields(schema: Schema, without: Iterable[str]) -> list[tuple[str, Any]]:
    """``name*: type`` of each argument, and its schema."""
    required, hidden = _required(schema), set(without)
    return [
        (f"{name}{'*' if name in required else ''}: {type_in_words(each, schema)}", each)
        for name, each in _table(schema.get("properties")).items()
        if name not in hidden
    ]


def _description(schema: Any) -> str:
    words = clip(str(_table(schema).get("description") or ""), 2 * _SHORT)
    return f": {words}" if words else ""


def _open_object(schema: Any) -> str:
    """The description of an object without properties, since its type says too little."""
    said = _table(schema)
    if said.get("type") != "object" or said.get("properties") or not said.get("description"):
        return ""
    return f" ({clip(str(said['description']), _SHORT)})"


def type_in_words(schema: Any, root: Schema, depth: int = 0) -> str:
    """The type that a JSON Schema asks for, such as ``[string]`` or ``"a"|"b"``."""
    said = resolved(schema, root)
    if choices := said.get("enum"):
        shown = [json.dumps(each, ensure_ascii=False) for each in choices[:_MAX_CHOICES]]
        return "|".join([*shown, *(["…"] if len(choices) > _MAX_CHOICES else [])])
    for key in ("anyOf", "oneOf"):
        if isinstance(said.get(key), list):
            parts = [type_in_words(each, root, depth + 1) for each in said[key]]
            return "|".join(dict.fromkeys(part for part in parts if part != "null")) or "null"
    kind = said.get("type")
    if isinstance(kind, list):
        return "|".join(str(each) for each in cast("list[Any]", kind) if each != "null")
    if kind == "array":
        return f"[{type_in_words(said.get('items'), root, depth + 1)}]"
    inner = _table(said.get("properties"))
    if kind == "object" and inner and depth < _MAX_DEPTH:
        required = _required(said)
        parts = [
            f"{name}{'*' if name in required else ''}: {type_in_words(each, root, depth + 1)}"
            for name, each in inner.items()
        ]
        return f"{{{', '.join(parts)}}}"
    return str(kind or "any")


def resolved(schema: Any, root: Schema) -> Schema:
    """The schema that a local ``$ref`` refers to. A schema without ``$ref`` is returned unchanged.

    For a reference without a target, the result is an empty schema.
    """
    said = _table(schema)
    target = said.get("$ref")
    if not isinstance(target, str):
        return said
    prefix, _, name = target.rpartition("/")
    return _table(_table(root.get("$defs")).get(name)) if prefix == "#/$defs" else {}


def _required(schema: Schema) -> set[str]:
    return {str(name) for name in schema.get("required") or ()}


def _table(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, Mapping) else {}


# -- arguments checked against a schema -----------------------------------------------------------


def faults_of_given(schema: Schema, given: Mapping[str, Any]) -> list[str]:
    """The errors in the arguments given so far. Others may follow.

    Args:
        schema: JSON Schema of all arguments.
        given: The known arguments. Text instead of a number is not an error: the caller can still
            convert it.
    """
    properties: Schema = schema.get("properties") or {}
    open_schema = {
        "type": "object",
        "properties": properties,
        **{key: schema[key] for key in ("$defs", "definitions") if key in schema},
    }
    return _faults(open_schema, {n: v for n, v in given.items() if n in properties})


def faults_of_call(schema: Schema, arguments: Mapping[str, Any]) -> list[str]:
    """The errors in the arguments of a whole call."""
    closed = dict(schema)
    if schema.get("properties") and "patternProperties" not in schema:
        # Servers that are made from functions refuse arguments that their functions do not have.
        closed.setdefault("additionalProperties", False)
    return _faults(closed, arguments)


def _faults(schema: Schema, value: Mapping[str, Any]) -> list[str]:
    try:
        return [str(each) for each in misfits(schema, value, texts="any")]
    except UnusableSchema:
        return []  # only the server can decide
