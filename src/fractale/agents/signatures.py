"""What a tool, a prompt or a sub-agent takes and gives, in one line, for models and people.

``submit(script*: string, nodes: integer, mode: "a"|"b") -> job_id: string, log: string``: a star
marks an argument that is required, the arrow what comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from fractale.evidence import WRAPPED
from fractale.text import clip
from fractale.toolbox import PromptInfo

Schema = Mapping[str, Any]

MOST_LETTERS: Final = 1500
"""Of the arguments or the outputs of one line."""

_MOST_CHOICES: Final = 8
_MOST_DEPTH: Final = 2
_SHORT: Final = 160


def signature(name: str, takes: Schema, gives: Schema | None, without: Iterable[str] = ()) -> str:
    """A call in one line.

    Args:
        takes: JSON Schema of the arguments.
        gives: JSON Schema of the outputs; None where it is not known.
        without: Arguments that are not to be named.
    """
    arguments = fields(takes, without)
    outputs = outputs_of_schema(gives) if gives else ""
    return f"{name}({clip(arguments, MOST_LETTERS)}){f' -> {outputs}' if outputs else ''}"


def prompt_signature(prompt: PromptInfo) -> str:
    """A prompt in one line; its arguments are texts."""
    names = [f"{a['name']}{'*' if a.get('required') else ''}" for a in prompt.arguments]
    return f"{prompt.name}({', '.join(names)})"


def outputs_of_schema(schema: Schema) -> str:
    """The keys of an answer with their types; empty where the schema names none."""
    inner = _table(schema.get("properties"))
    if schema.get(WRAPPED) and list(inner) == ["result"]:
        kind = type_in_words(inner["result"], schema)
        return "content" if kind == "string" else f"result: {kind}"
    parts = [f"{n}: {type_in_words(s, schema)}" for n, s in inner.items()]
    return clip(", ".join(parts), MOST_LETTERS)


def fields(schema: Schema, without: Iterable[str] = ()) -> str:
    """The arguments that a schema names, with their types, in its order."""
    required = _names(schema)
    hidden = set(without)
    return ", ".join(
        f"{name}{'*' if name in required else ''}: {type_in_words(each, schema)}{_said(each)}"
        for name, each in _table(schema.get("properties")).items()
        if name not in hidden
    )


def argument_lines(schema: Schema, without: Iterable[str] = ()) -> list[str]:
    """The arguments that a schema names, one a line, with what it says of each."""
    required, hidden = _names(schema), set(without)
    return [
        f"{name}{'*' if name in required else ''}: {type_in_words(each, schema)}{_about(each)}"
        for name, each in _table(schema.get("properties")).items()
        if name not in hidden
    ]


def _about(schema: Any) -> str:
    words = clip(str(_table(schema).get("description") or ""), 2 * _SHORT)
    return f": {words}" if words else ""


def type_in_words(schema: Any, root: Schema, depth: int = 0) -> str:
    """The type that a JSON Schema asks for, such as ``[string]`` or ``"a"|"b"``."""
    said = resolved(schema, root)
    if choices := said.get("enum"):
        shown = [json.dumps(each, ensure_ascii=False) for each in choices[:_MOST_CHOICES]]
        return "|".join([*shown, *(["…"] if len(choices) > _MOST_CHOICES else [])])
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
    if kind == "object" and inner and depth < _MOST_DEPTH:
        required = _names(said)
        parts = [
            f"{name}{'*' if name in required else ''}: {type_in_words(each, root, depth + 1)}"
            for name, each in inner.items()
        ]
        return f"{{{', '.join(parts)}}}"
    return str(kind or "any")


def resolved(schema: Any, root: Schema) -> Schema:
    """A schema behind its local reference, if it is one; empty where it is none."""
    said = _table(schema)
    target = said.get("$ref")
    if not isinstance(target, str):
        return said
    prefix, _, name = target.rpartition("/")
    return _table(_table(root.get("$defs")).get(name)) if prefix == "#/$defs" else {}


def _names(schema: Schema) -> set[str]:
    """The arguments that a schema requires."""
    return {str(name) for name in schema.get("required") or ()}


def _said(schema: Any) -> str:
    """In words what an argument is whose type says too little of it."""
    said = _table(schema)
    if said.get("type") != "object" or said.get("properties") or not said.get("description"):
        return ""
    return f" ({clip(str(said['description']), _SHORT)})"


def _table(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, Mapping) else {}
