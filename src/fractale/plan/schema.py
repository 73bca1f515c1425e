"""The plan language as a JSON Schema, for editors: completion, help on keys, first checks.

The schema accepts every plan that fractale accepts. `fractale validate` checks more than the schema
can express. Everything in the schema comes from the table of keys (`fractale.plan.model`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from fractale.plan.forms import Key, Schema, duration_schema, part_schema
from fractale.plan.inputs import input_schema
from fractale.plan.job import JOB_KEYS, SCRIPT_KEYS
from fractale.plan.kinds import KINDS, StepKind
from fractale.plan.model import LANGUAGE_VERSION, PLAN_KEYS, STEP_KEYS
from fractale.plan.rules import expression_schema

SCHEMA_FILE: Final = f"plan-{LANGUAGE_VERSION}.schema.json"
"""The committed copy beside this file, one for each version of the language."""

SCHEMA_ID: Final = (
    "https://raw.githubusercontent.com/converged-computing/fractale/main/src/fractale/plan/"
    + SCHEMA_FILE
)

_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def schema_text() -> str:
    """The schema as JSON text, as it is committed."""
    return json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n"


def schema_path() -> Path:
    """The file of the installed package that has the schema of `SCHEMA_ID`."""
    return Path(__file__).with_name(SCHEMA_FILE)


def plan_schema(
    tools: Mapping[str, Mapping[str, Any]] | None = None, *, complete: bool = True
) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a plan file.

    Args:
        tools: Name → JSON Schema of the inputs. Steps can then call only these tools, with their
            inputs, and an editor completes both. The schema has no `$id`: it is not the public one.
        complete: Whether `tools` are all tools that a run has; if not, steps may call others.
    """
    schema = _plan_schema()
    return schema if tools is None else _with_tools(schema, tools, complete=complete)


def _plan_schema() -> dict[str, Any]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "fractale plan",
        "description": "Steps of tools, prompts and agents, and what leads from one to the next.",
        **part_schema(PLAN_KEYS),
        "$defs": {
            "step": _step(),
            "input": input_schema(),
            "expression": expression_schema(),
            "duration": duration_schema(),
            "job": part_schema(JOB_KEYS),
        },
    }
    return _without_links(schema)


def _step() -> dict[str, Any]:
    needed = [_if_type(kind) for kind in KINDS.values() if kind.key.required is not None]
    return {
        **part_schema(STEP_KEYS),
        "allOf": [*needed, *_only_in_jobs()],
        "dependentSchemas": {n: _any_of(key) for n, key in STEP_KEYS.items() if key.needs},
    }


def _if_type(kind: StepKind) -> Schema:
    return {"if": _says(kind.name), "then": {"required": [kind.name]}}


def _only_in_jobs() -> list[Schema]:
    """The keys of a job may be beside a step's own keys only if the step is a job or a script."""
    is_job: list[Schema] = [{"required": ["job"]}, _says("job")]
    is_script: list[Schema] = [{"required": ["script"]}, {"required": ["command"]}]
    own = [key for key in JOB_KEYS if key not in SCRIPT_KEYS]
    shared = [key for key in SCRIPT_KEYS if key not in ("script", "command")]
    return [
        {"if": {"anyOf": [{"required": [key]} for key in keys]}, "then": {"anyOf": choices}}
        for keys, choices in ((own, is_job), (shared, [*is_job, *is_script]))
    ]


def _any_of(key: Key) -> Schema:
    """One of the keys that a key needs beside it, or an equivalent type."""
    given: list[Schema] = [{"required": [need]} for need in key.needs]
    optional = [need for need in key.needs if need in KINDS and KINDS[need].key.required is None]
    choices = [*given, *(_says(need) for need in optional)]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _says(kind: str) -> Schema:
    return {"required": ["type"], "properties": {"type": {"const": kind}}}


def _without_links(schema: Any) -> Any:
    """The schema with the text of links instead of links, which lead nowhere in an editor."""
    if isinstance(schema, list):
        return [_without_links(each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _LINK.sub(r"\1", value)
        if key == "description" and isinstance(value, str)
        else _without_links(value)
        for key, value in cast("dict[str, Any]", schema).items()
    }


# -- with the tools of a run ----------------------------------------------------------------------

_TEMPLATE: Final[Schema] = {"type": "string", "pattern": r"\{[{%]"}
_RESOURCE: Final[Schema] = {
    "type": "object",
    "properties": {"resource": {"type": "string"}},
    "required": ["resource"],
    "additionalProperties": False,
}
_INSTEAD: Final = (_TEMPLATE, _RESOURCE)
"""Schemas of what may replace a value in a plan."""

_KEPT: Final = frozenset(
    (
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
    )
)
"""Keywords of a tool's schema that are kept. A template might not fit the others, and an editor
would match a stranger's pattern, or fetch a reference.
"""

_DEFINITIONS: Final = ("$defs", "definitions")
_MOST_DEPTH: Final = 20


def _with_tools(
    schema: dict[str, Any], tools: Mapping[str, Mapping[str, Any]], *, complete: bool
) -> dict[str, Any]:
    """The schema with the names of tools, and with the inputs of each."""
    del schema["$id"]
    definitions: dict[str, Any] = schema["$defs"]
    step: dict[str, Any] = definitions["step"]
    any_name = dict(step["properties"]["tool"])
    names: Schema = {"enum": sorted(tools)}
    step["properties"]["tool"] = {
        **({**any_name, **names} if complete else {"anyOf": [names, any_name]}),
        "description": any_name["description"],
    }
    for name, inputs in sorted(tools.items()):
        place = f"inputs of {name}"
        definitions[place] = _inputs(inputs, f"#/$defs/{_pointer(place)}")
        then: dict[str, Any] = {"properties": {"inputs": {"$ref": f"#/$defs/{_pointer(place)}"}}}
        if definitions[place].get("required"):
            then["required"] = ["inputs"]
        is_tool = {"required": ["tool"], "properties": {"tool": {"const": name}}}
        step["allOf"] = [*step["allOf"], {"if": is_tool, "then": then}]
    return schema


def _inputs(schema: Mapping[str, Any], here: str) -> dict[str, Any]:
    """The schema of a tool's inputs as a plan may give them, with templates in place of values.

    Any inputs fit if the tool's own schema is invalid.
    """
    from fractale.schemas import UnusableSchema, check_schema

    found = _templated(schema, _Root(schema, here))
    if found.get("properties") and "additionalProperties" not in found:
        found["additionalProperties"] = "patternProperties" in schema
    try:
        check_schema(_without_refs(found))
    except UnusableSchema:
        return {}
    return found


@dataclass(frozen=True, slots=True)
class _Root:
    """A tool's whole schema, and the reference to its place in the schema of plans."""

    schema: Mapping[str, Any]
    here: str

    def resolved(self, reference: str) -> dict[str, Any]:
        """A reference to one of the tool's definitions; anything fits any other reference."""
        hash_sign, *keys = reference.split("/")
        if hash_sign != "#" or len(keys) != 2 or keys[0] not in _DEFINITIONS:
            return {}
        named = self.schema.get(keys[0])
        if not isinstance(named, Mapping) or keys[1] not in named:
            return {}
        return {"$ref": f"{self.here}/{keys[0]}/{_pointer(keys[1])}"}


def _templated(schema: Any, root: _Root, depth: int = 0) -> Any:
    """A schema in which each part of a value may be a template."""
    if not isinstance(schema, Mapping) or depth > _MOST_DEPTH:
        return schema if isinstance(schema, bool) else {}
    given = cast("Mapping[str, Any]", schema)
    if "$ref" in given:
        return root.resolved(str(given["$ref"]))
    of: dict[str, Any] = {key: value for key, value in given.items() if key in _KEPT}
    for key, change in (("properties", _or_template), *((key, _templated) for key in _DEFINITIONS)):
        parts: Any = of.get(key)
        if isinstance(parts, Mapping):
            of[key] = {
                str(name): change(part, root, depth + 1)
                for name, part in cast("Mapping[Any, Any]", parts).items()
            }
    for key in ("items", "additionalProperties"):
        if isinstance(of.get(key), Mapping):
            of[key] = _or_template(of[key], root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        choices: Any = of.get(key)
        if isinstance(choices, list):
            of[key] = [_templated(part, root, depth + 1) for part in cast("list[Any]", choices)]
    return of


def _or_template(schema: Any, root: _Root, depth: int) -> Any:
    """The schema of one value, or a template, or a resource."""
    inner = _templated(schema, root, depth)
    if not isinstance(inner, dict):
        return inner
    found = cast("dict[str, Any]", inner)
    words = {key: found[key] for key in ("title", "description", "default") if key in found}
    rest = {key: value for key, value in found.items() if key not in words}
    return {**words, "anyOf": [rest, *_INSTEAD]} if rest else words


def _without_refs(schema: Any) -> Any:
    """A schema without its references, which lead to other parts of the schema of plans."""
    if isinstance(schema, list):
        return [_without_refs(each) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    parts = cast("dict[str, Any]", schema)
    return {key: _without_refs(value) for key, value in parts.items() if key != "$ref"}


def _pointer(name: str) -> str:
    """A name as a part of a JSON pointer in a URI."""
    return quote(name.replace("~", "~0").replace("/", "~1"))
