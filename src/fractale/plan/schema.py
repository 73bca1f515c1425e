"""The plan language as a JSON Schema, for editors: completion, help on keys, first checks.

The schema accepts every plan that fractale accepts. `fractale validate` checks more than the schema
can express. Everything in the schema comes from the table of keys (`fractale.plan.model`).
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, cast

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


def plan_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a plan file."""
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
