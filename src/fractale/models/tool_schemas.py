"""Convert the tools of any server to a form that every model provider accepts.

MCP allows names and schemas that providers refuse, and one refused tool fails the whole request.
OpenAI has the strictest rules:

- names have at most 64 characters of `[a-zA-Z0-9_-]`;
- a schema is an object with `properties`, without `anyOf` and the like at the top;
- each array has `items`;
- a request has at most 128 tools.

The tool's server still checks the rules that a schema loses here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

MOST_TOOLS = 128
LONGEST_NAME = 64
MOST_LEVELS = 40

ACCEPTED_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

CHOICES = ("allOf", "anyOf", "oneOf")
DROPPED = ("$schema", "$id", "$anchor", "$dynamicRef", "$dynamicAnchor")
DROPPED_AT_TOP = ("not", "enum", "const", "if", "then", "else", "dependentSchemas")

TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
ONE = ("items", "not", "if", "then", "else", "contains", "propertyNames")
ONE_OR_BOOLEAN = ("additionalProperties", "unevaluatedProperties", "unevaluatedItems")

Json = dict[str, Any]


def wire_names(names: Iterable[str]) -> dict[str, str]:
    """Choose the name that a model sees for each tool; all names differ.

    Valid names stay as they are. In other names, a dot becomes ``__`` and any other invalid
    character ``_``. A name that is shortened, or that another tool already has, ends in a hash.
    """
    plain = {name: _plain(name) for name in names}
    taken = Counter(plain.values())
    return {
        name: shown if shown == name or taken[shown] == 1 else _hashed(shown, name)
        for name, shown in plain.items()
    }


def _plain(name: str) -> str:
    shown = re.sub(r"[^a-zA-Z0-9_-]", "_", name.replace(".", "__"))
    if not re.match(r"[a-zA-Z_]", shown):  # Gemini requires a letter or `_` first
        shown = f"_{shown}"
    return shown if len(shown) <= LONGEST_NAME else _hashed(shown, name)


def _hashed(shown: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{shown[: LONGEST_NAME - 9]}_{digest}"


def wire_schema(schema: Mapping[str, Any]) -> Json:
    """Convert the schema of a tool's arguments to the form that providers accept.

    Choices at the top become one object with the properties of all choices. References to other
    documents are removed: nothing is fetched.

    Raises:
        ValueError: The arguments are not an object.
    """
    whole = dict(schema)
    top = _merged(_resolved(whole, whole), whole, 0)
    kinds = top.get("type", "object")
    if "object" not in (cast("list[Any]", kinds) if isinstance(kinds, list) else [kinds]):
        raise ValueError(f"its arguments are not an object but {kinds}")
    for key in DROPPED_AT_TOP:
        top.pop(key, None)
    return _adapted({**top, "type": "object"}, whole, 0)


def _resolved(schema: Any, whole: Json) -> Json:
    """Resolve a local reference and merge its siblings; ``{}`` for a value that is not a schema."""
    seen: set[str] = set()
    while isinstance(schema, dict) and "$ref" in schema:
        table = cast("Json", schema)
        target = _target(table["$ref"], whole)
        if target is None or table["$ref"] in seen:
            return {key: value for key, value in table.items() if key != "$ref"}
        seen.add(str(table["$ref"]))
        schema = {**table, **target} if "$ref" in target else {**_without_ref(table), **target}
    return dict(cast("Json", schema)) if isinstance(schema, dict) else {}


def _without_ref(table: Json) -> Json:
    return {key: value for key, value in table.items() if key != "$ref"}


def _target(reference: Any, whole: Json) -> Json | None:
    """Find the schema at ``#/…`` in the same document; None if it does not exist."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    found: Any = whole
    for part in reference[2:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            return None
        found = cast("Json", found)[key]
    return cast("Json", found) if isinstance(found, dict) else None


def _merged(top: Json, whole: Json, level: int) -> Json:
    """Merge the choices at the top of a schema into its own properties."""
    groups = {key: _list(top.pop(key)) for key in CHOICES if key in top}
    if level > MOST_LEVELS or not groups:
        return top
    required, found = _list(top.get("required")), dict[str, list[Any]]()
    for key, group in groups.items():
        branches = [_merged(_resolved(each, whole), whole, level + 1) for each in group]
        objects = [each for each in branches if each.get("type", "object") == "object"]
        for name, schema in (pair for each in objects for pair in _properties(each).items()):
            if schema not in found.setdefault(name, []):
                found[name].append(schema)
        needs = [{str(name) for name in _list(each.get("required"))} for each in objects]
        if needs:
            shared = set[str].union(*needs) if key == "allOf" else set[str].intersection(*needs)
            required += sorted(shared - set(required))
        if key != "allOf" and (words := _in_words(needs)):
            top["description"] = " ".join(filter(None, [top.get("description"), words]))
    choices = {n: each[0] if len(each) == 1 else {"anyOf": each} for n, each in found.items()}
    merged = {"type": "object", **top, "properties": {**choices, **_properties(top)}}
    return {**merged, "required": required} if required else merged


def _list(value: Any) -> list[Any]:
    return list(cast("list[Any]", value)) if isinstance(value, list) else []


def _properties(schema: Json) -> Json:
    properties = schema.get("properties")
    return cast("Json", properties) if isinstance(properties, dict) else {}


def _in_words(needs: list[set[str]]) -> str:
    if len(needs) < 2 or all(each == needs[0] for each in needs):
        return ""
    return f"Give one of: {'; or '.join(', '.join(sorted(each)) for each in needs)}."


def _adapted(schema: Any, whole: Json, level: int) -> Json:
    """Rewrite a schema at any depth with the keywords that providers accept."""
    if not isinstance(schema, dict) or level > MOST_LEVELS:
        return {}
    made = {k: v for k, v in cast("Json", schema).items() if k not in DROPPED and k[:2] != "x-"}
    if "$ref" in made and _target(made["$ref"], whole) is None:
        del made["$ref"]
    _adapt_kind(made)
    for key in BY_NAME:
        if isinstance(made.get(key), dict):
            inner = cast("Json", made[key])
            made[key] = {
                n: _adapted(each, whole, level + 1)
                for n, each in inner.items()
                if each is not False
            }
    for key in LISTS:
        if isinstance(made.get(key), list):
            made[key] = [_adapted(each, whole, level + 1) for each in made[key]]
    for key in (*ONE, *ONE_OR_BOOLEAN):
        if key in made and not (key in ONE_OR_BOOLEAN and isinstance(made[key], bool)):
            made[key] = _adapted(made[key], whole, level + 1)
    return made


def _adapt_kind(made: Json) -> None:
    """Add the keywords that providers require for a type, and remove those outside JSON Schema."""
    kinds: list[Any] = made["type"] if isinstance(made.get("type"), list) else [made.get("type")]
    if not all(kind in TYPES for kind in kinds):
        made.pop("type", None)
    if "object" in kinds and not isinstance(made.get("properties"), dict):
        made["properties"] = {}
    if isinstance(made.get("items"), list):  # tuples of older drafts
        made["items"] = {"anyOf": made["items"]} if made["items"] else {}
    if "array" in kinds:
        made.setdefault("items", {})
    if not isinstance(made.get("required", []), list):
        del made["required"]
    if made.get("enum") == []:
        del made["enum"]
