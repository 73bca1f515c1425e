"""The plan language as a JSON Schema, for editors: completion, help on keys, first checks.

It takes every plan that fractale takes. It cannot say all that `fractale validate` checks.
Everything in it comes from the tables of `fractale.plan.words` and from here;
``plan.schema.json`` beside this file is a copy for editors to fetch.
"""

from __future__ import annotations

import json
from typing import Any, Final

from fractale.durations import DURATION_PATTERN
from fractale.plan.inputs import TYPES
from fractale.plan.job import ARRAY_PATTERN, COUNTS, ENV_NAME_PATTERN, MOST_COUNT
from fractale.plan.rules import NAME_PATTERN
from fractale.plan.specs import DOTTED_PATTERN, INPUT_NAME_PATTERN, SERVER_NAME_PATTERN
from fractale.plan.words import APPROVE, FIGURE_TYPES, JOB_KEYS, KINDS, SCHEDULERS, TAKES

_Schema = dict[str, Any]

_NAME: Final = f"^{NAME_PATTERN}$"
_CALLABLE: Final = r"^[^\s{}]+$"


def schema_text() -> str:
    """The schema as JSON text, as it is committed."""
    return json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n"


def plan_schema() -> _Schema:
    """The JSON Schema (draft 2020-12) of a plan file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fractale plan",
        "description": "Steps of tools, prompts and agents, and what leads from one to the next.",
        "type": "object",
        "properties": _plan_properties(),
        "required": ["name", "steps"],
        "additionalProperties": False,
        "$defs": {
            "step": _step(),
            "input": _input(),
            "expression": _expression(),
            "duration": _duration(),
            "job": {"type": "object", "properties": _job(), "additionalProperties": False},
        },
    }


def _plan_properties() -> _Schema:
    return {
        "name": {"type": "string", "pattern": r"\S", "description": "What the plan is called."},
        "description": _text("What the plan does, for people and for models."),
        "inputs": {
            "type": "object",
            "description": "What is given from outside: a name with its default value, or with a "
            "description of what it takes.",
            "patternProperties": {f"^{INPUT_NAME_PATTERN}$": {"$ref": "#/$defs/input"}},
            "additionalProperties": False,
        },
        "agents": {
            "type": "array",
            "description": "Sub-agents to register for this plan, by dotted path.",
            "items": {"anyOf": [_pattern(DOTTED_PATTERN), _agent()]},
        },
        "servers": {
            "description": "The MCP servers that the plan needs, by their names in the settings.",
            "anyOf": [
                _pattern(SERVER_NAME_PATTERN),
                {"type": "array", "items": _pattern(SERVER_NAME_PATTERN)},
            ],
        },
        "limits": _limits(),
        "steps": {
            "type": "array",
            "description": "What is done, in order.",
            "minItems": 1,
            "items": {"$ref": "#/$defs/step"},
        },
        "outputs": {
            "type": "object",
            "description": "What the run returns: names with values that may hold {{ templates }}.",
        },
    }


def _agent() -> _Schema:
    return {
        "type": "object",
        "properties": {"path": _pattern(DOTTED_PATTERN), "name": _pattern(r"[^\s{}]+")},
        "required": ["path"],
        "additionalProperties": False,
    }


def _amount(description: str) -> _Schema:
    return {"type": "number", "exclusiveMinimum": 0, "description": description}


def _limits() -> _Schema:
    return {
        "type": "object",
        "description": "The run stops, and can be resumed, at the first of these it reaches.",
        "properties": {
            "steps": _whole("Entries of steps in the whole run."),
            "attempts": _whole("Entries of any one step, where the step does not say."),
            "time": {**_ref("duration"), "description": "Running time, without waiting."},
            "tokens": _whole("Tokens in and out, of all models."),
            "cost": _amount("US dollars."),
            "node_hours": _amount("Of all batch jobs of job steps; a node counts whole."),
            "core_hours": _amount("As `node_hours`, for cores."),
            "gpu_hours": _amount("As `node_hours`, for GPUs."),
            "jobs": _whole("Batch jobs of job steps; each element of an array is one."),
            "depth": _whole("How deep plans and agents may nest.", least=0),
        },
        "additionalProperties": False,
    }


def _step() -> _Schema:
    return {
        "type": "object",
        "properties": {
            "name": {**_pattern(NAME_PATTERN), "description": "Unique in the plan."},
            "type": {"enum": list(KINDS), "description": "Needed only where no key says it."},
            "description": _text("What the step is for, for people and for the model."),
            **_what(),
            **_job(),
            **_with(),
            **_flow(),
            **_bounds(),
        },
        "required": ["name"],
        "additionalProperties": False,
        "allOf": [_needs("tool"), _needs("prompt"), _needs("parallel"), _only_in_jobs()],
        "dependentSchemas": {
            "max_parallel": {"required": ["foreach"]},
            "keep_going": {
                "anyOf": [
                    {"required": ["foreach"]},
                    {"required": ["parallel"]},
                    {"required": ["job"]},
                    _says("job"),
                ]
            },
        },
    }


def _what() -> _Schema:
    called = {"type": "string", "pattern": _CALLABLE}
    inner = {"allOf": [_ref("step"), {"not": {"required": ["parallel"]}}]}
    return {
        "tool": {**called, "description": "The MCP or local tool to call."},
        "prompt": {**called, "description": "The MCP prompt that a model is given."},
        "agent": {
            "type": ["string", "null"],
            "pattern": _CALLABLE,
            "description": "The sub-agent; empty for the general one.",
        },
        "plan": {
            "type": ["string", "null"],
            "description": "A plan file to include; empty where the planner drafts it.",
        },
        "parallel": {
            "type": "array",
            "description": "Steps that run at the same time.",
            "minItems": 1,
            "items": inner,
        },
        "job": {
            "description": "The batch job to submit and to wait for.",
            "anyOf": [_ref("job"), {"type": "null"}],
        },
    }


def _job() -> _Schema:
    templated = {"type": "string", "pattern": r"\{\{"}
    word = {"type": ["string", "number", "boolean"]}
    return {
        "script": {"type": "string", "pattern": r"\S", "description": "A batch script."},
        "command": {
            "description": "A program with its arguments, in place of `script`.",
            "anyOf": [
                {"type": "string", "pattern": r"\S"},
                {"type": "array", "minItems": 1, "items": word},
            ],
        },
        **{
            name: {
                "description": f"How many {name.replace('_', ' ')}.",
                "anyOf": [{"type": "integer", "minimum": least, "maximum": MOST_COUNT}, templated],
            }
            for name, least in COUNTS.items()
        },
        "array": {
            "description": "The indices of a job array, such as 1-1000%50.",
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": f"^{ARRAY_PATTERN}$"},
                templated,
            ],
        },
        "memory": {
            "description": "Per node, such as 4G.",
            "anyOf": [{"type": "number"}, {"type": "string"}],
        },
        "time": {
            "description": "How long the job may run, as the scheduler is told.",
            "anyOf": [_ref("duration"), templated],
        },
        "queue": _text("The partition or queue."),
        "account": _text("Whose allocation it uses."),
        "env": {
            "type": "object",
            "description": "Variables of its environment.",
            "patternProperties": {f"^{ENV_NAME_PATTERN}$": word},
            "additionalProperties": False,
        },
        "folder": _text("Where it works; left out: where the run was started."),
        "scheduler": {
            "description": "Left out: the one there is.",
            "anyOf": [{"enum": list(SCHEDULERS)}, templated],
        },
        "confine": _flag("Keep it from private files, from writing elsewhere, from the network."),
        "writable": {
            "description": "With `confine`: folders that it may write beside the project's.",
            "anyOf": [
                {"type": "string", "pattern": r"\S"},
                {"type": "array", "items": {"type": "string", "pattern": r"\S"}},
            ],
        },
        "network": _flag("With `confine`: true lets it open sockets."),
        "outputs": {
            "type": "object",
            "description": "What is read from the log: a name with a regular expression.",
            "patternProperties": {f"^{INPUT_NAME_PATTERN}$": _figure()},
            "additionalProperties": False,
        },
    }


def _figure() -> _Schema:
    pattern = {"type": "string", "pattern": r"\S", "description": "With one group: the value."}
    properties = {
        "pattern": pattern,
        "type": {"enum": list(FIGURE_TYPES), "description": "What its text becomes."},
        "take": {"enum": list(TAKES), "description": "Which match; all gives a list."},
        "required": _flag("false: the log need not have it."),
    }
    described = {
        "type": "object",
        "properties": properties,
        "required": ["pattern"],
        "additionalProperties": False,
    }
    return {"anyOf": [pattern, described]}


def _only_in_jobs() -> _Schema:
    """The keys of a job stand beside a step's own only where the step is one."""
    is_job = {"anyOf": [{"required": ["job"]}, _says("job")]}
    given = {"anyOf": [{"required": [key]} for key in JOB_KEYS]}
    return {"if": given, "then": is_job}


def _with() -> _Schema:
    return {
        "instruction": _text("What to do; may hold {{ templates }}."),
        "inputs": {"type": "object", "description": "Arguments; may hold {{ templates }}."},
        "tools": {
            "description": "Names or globs of the tools that the model may call.",
            "anyOf": [
                {"type": "string", "pattern": _CALLABLE},
                {"type": "array", "items": {"type": "string", "pattern": _CALLABLE}},
            ],
        },
        "allow_tools": _flag("false: the model may call none; true: all that the run has."),
        "model": {
            **_pattern(r"[A-Za-z0-9_-]+:\S+"),
            "description": "The model for this step, as provider:name.",
        },
        "output_schema": {"type": "object", "description": "JSON Schema of the outputs."},
        "judge": _flag("Where no evidence decides, ask the model whether the step succeeded."),
        "persist": _flag("Remember the conversation when the run enters the step again."),
        "approve": {
            "enum": list(APPROVE),
            "description": "Whether a person must agree before a call that changes something.",
        },
    }


def _flow() -> _Schema:
    expressions = {"anyOf": [_ref("expression"), {"type": "array", "items": _ref("expression")}]}
    axis = {"anyOf": [_ref("expression"), {"type": "array", "minItems": 1}]}
    axes = {"type": "object", "minProperties": 1, "additionalProperties": axis}
    return {
        "when": {**_ref("expression"), "description": "If false, the step is skipped."},
        "rules": {
            "type": "object",
            "description": "Event → expressions; the first that holds decides the event.",
            "patternProperties": {_NAME: expressions},
            "additionalProperties": False,
        },
        "transitions": {
            "type": "object",
            "description": "Event → the step to go to, `success` or `failed`.",
            "patternProperties": {_NAME: {"type": "string", "pattern": _CALLABLE}},
            "additionalProperties": False,
        },
        "foreach": {
            "description": "Run once per item of a list, or of the product of several lists.",
            "anyOf": [*axis["anyOf"], axes],
        },
        "max_parallel": _whole("How many items run at the same time; left out, 32, or 100 jobs."),
        "keep_going": _flag("Items that fail do not fail the step."),
    }


def _bounds() -> _Schema:
    retry = {
        "attempts": _whole("How often a call is tried."),
        "delay": {**_ref("duration"), "description": "Before the second try."},
        "backoff": {"type": "number", "minimum": 1, "description": "Factor of the next delay."},
        "max_delay": _ref("duration"),
    }
    return {
        "retry": {
            "type": "object",
            "description": "For faults of transport, not for wrong answers.",
            "properties": retry,
            "additionalProperties": False,
        },
        "timeout": {**_ref("duration"), "description": "How long the step may take."},
        "max_attempts": _whole("How often the run may enter this step."),
    }


def _input() -> _Schema:
    words: dict[str, _Schema] = {
        "type": {"enum": list(TYPES), "description": "What values it takes."},
        "default": {"description": "Used when the input is not given."},
        "description": _text("What it is for."),
        "enum": {"type": "array", "minItems": 1, "description": "The values it can have."},
        "minimum": {"type": "number", "description": "The least number."},
        "maximum": {"type": "number", "description": "The greatest number."},
        "required": _flag("It must be given. So it must if there is no default."),
        "secret": _flag("Read from the environment or asked for; never stored or shown."),
    }
    # Only a `type` tells a description from a default that is a mapping, so nothing is asked of
    # the other words without it; editors still offer them.
    offered = {word: {"description": schema["description"]} for word, schema in words.items()}
    return {
        "description": "A default value, or a description of the input in JSON Schema's words.",
        "properties": offered,
        "if": {"type": "object", "required": ["type"], "properties": {"type": words["type"]}},
        "then": {"properties": words, "additionalProperties": False},
    }


def _expression() -> _Schema:
    return {"type": ["string", "boolean", "number"], "description": "An expression, no braces."}


def _duration() -> _Schema:
    return {
        "description": "90s, 10m, 1h30m, or a number of seconds.",
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": DURATION_PATTERN, "minLength": 1},
        ],
    }


def _needs(kind: str) -> _Schema:
    return {"if": _says(kind), "then": {"required": [kind]}}


def _says(kind: str) -> _Schema:
    return {"required": ["type"], "properties": {"type": {"const": kind}}}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/$defs/{name}"}


def _pattern(pattern: str) -> _Schema:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _text(description: str) -> _Schema:
    return {"type": "string", "description": description}


def _flag(description: str) -> _Schema:
    return {"type": "boolean", "description": description}


def _whole(description: str, least: int = 1) -> _Schema:
    return {"type": "integer", "minimum": least, "description": description}
