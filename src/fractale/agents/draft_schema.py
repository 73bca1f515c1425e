"""The JSON Schema of a draft: the plan language, narrowed to what there is.

A step is written down once, in ``$defs``: what each tool takes is in the catalog that the model
reads beside it, and a draft is checked against the tools' own schemas. Only a small model, which
fills in whatever it is shown, gets the arguments of each tool as a schema; so does the one step
of an expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from fractale.agents.signatures import resolved
from fractale.plan.job import JOB_KEYS, JOB_OUTPUTS, WIDENING

if TYPE_CHECKING:
    from fractale.agents.offers import Offers

Schema = Mapping[str, Any]

FEW_TOOLS = 8
"""Up to so many tools, the schema for a small model says what each of them takes."""

NOT_AS_INPUT: Final = ("instruction", "error")
"""Arguments that the engine gives: the step's `instruction`, and why the last attempt failed."""

_NAME: Final[Schema] = {"type": "string", "description": "Letters, digits, _ and -; unique."}
_PLAIN_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]{0,30}$"}
_EXPRESSION: Final[Schema] = {"type": "string"}
_TEXTS: Final[Schema] = {"type": "array", "items": {"type": "string"}}
_STEPS: Final[Schema] = {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 1}
_TEMPLATE: Final[Schema] = {"type": "string", "pattern": r"\{\{.*\}\}"}

_FLOW: Final[Mapping[str, Any]] = {
    "tools": {
        **_TEXTS,
        "description": "What an agent may call. Left out: all tools, but none of the sub-agents.",
    },
    "when": _EXPRESSION,
    "foreach": {"anyOf": [_EXPRESSION, {"type": "array"}]},
    "max_parallel": {"type": "integer", "minimum": 1},
    "keep_going": {"type": "boolean", "description": "Go on if items or steps inside fail."},
    "parallel": _STEPS,
    "rules": {"type": "object", "properties": {"success": _TEXTS, "failure": _TEXTS}},
    "transitions": {
        "type": "object",
        "description": "Event to a step's name, `success` or `failed`.",
        "properties": {"success": {"type": "string"}, "failure": {"type": "string"}},
    },
    "max_attempts": {"type": "integer", "minimum": 1},
    "retry": {"type": "object"},
    "output_schema": {"type": "object", "description": "JSON Schema of a model's answer."},
}
"""What a step may say beside its call. A model that is small would fill it with nonsense."""


def draft_schema(offers: Offers) -> dict[str, Any]:
    """JSON Schema of a draft of what is offered."""
    if offers.expert:
        return _draft(_expert_step(offers), most=1)
    if offers.plain:
        kinds = list(_plain_steps(offers))
        return _draft(kinds[0] if len(kinds) == 1 else {"anyOf": kinds}, most=offers.most_steps)
    outputs = {
        "type": "object",
        "description": "Name to template: what the plan returns; else its last step's outputs.",
    }
    schema = _draft({"$ref": "#/$defs/step"}, most=offers.most_steps)
    schema["properties"]["outputs"] = outputs
    return {**schema, "$defs": {"step": _whole_step(offers)}}


def _draft(step: Schema, *, most: int) -> dict[str, Any]:
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": most}
    return {"type": "object", "properties": {"steps": steps}, "required": ["steps"]}


def _whole_step(offers: Offers) -> dict[str, Any]:
    """Any step that a draft may have."""
    offered = {
        "tool": [tool.name for tool in offers.tools],
        "prompt": [prompt.name for prompt in offers.prompts],
        "agent": [agent.name for agent in offers.agents],
    }
    kinds: dict[str, Any] = {
        kind: {"type": "string", "enum": names} for kind, names in offered.items() if names
    }
    if offers.may_nest:
        kinds["type"] = {
            "type": "string",
            "enum": ["plan"],
            "description": "`plan`: the steps that its `instruction` needs are written when the "
            "run comes to it; only where they depend on what earlier steps find.",
        }
    if offers.may_submit:
        kinds["job"] = _job()
    instruction = {"type": "string", "description": "All that an agent or a prompt is to do."}
    given = {"inputs": {"type": "object"}, "instruction": instruction}
    properties = {"name": _NAME, **kinds, **given, **_FLOW}
    return {
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "additionalProperties": False,
    }


def _job() -> dict[str, Any]:
    """The key of a step that submits a batch job and waits for it."""
    named = ("script", "command", "outputs", *WIDENING)
    keys = ", ".join(key for key in JOB_KEYS if key not in named)
    return {
        "type": "object",
        "description": f"A batch job, submitted and waited for. Further keys: {keys}. Its outputs "
        f"are {', '.join(JOB_OUTPUTS)}, and those that `outputs` reads from the log: NAME: a "
        "regular expression with one group.",
        "properties": {
            "command": _TEXTS,
            "script": {"type": "string"},
            "outputs": {"type": "object"},
        },
    }


def _expert_step(offers: Offers) -> dict[str, Any]:
    """The one step that asks an expert, with the inputs that the expert takes."""
    kind, name = offers.expert or ("", "")
    takes = offers.expert_takes
    inputs = _arguments(takes, templates=bool(offers.inputs))
    properties: dict[str, Any] = {
        "name": _NAME,
        kind: {"type": "string", "enum": [name]},
        "inputs": inputs,
    }
    if offers.expert_takes_words:
        properties["instruction"] = {"type": "string", "description": "All that it is to do."}
    needed = ["inputs"] if inputs.get("required") else []
    return {"type": "object", "properties": properties, "required": ["name", kind, *needed]}


def _plain_steps(offers: Offers) -> Iterator[dict[str, Any]]:
    """A schema for each kind of call, as a small model needs it."""
    several = len(offers.tools) + len(offers.agents) + len(offers.prompts) > 1
    if len(offers.tools) <= FEW_TOOLS:
        for tool in offers.tools:
            takes = _arguments(tool.input_schema, templates=bool(offers.inputs) or several)
            yield _plain_step("tool", [tool.name], takes)
    else:
        yield _plain_step("tool", [tool.name for tool in offers.tools], {"type": "object"})
    for kind, offered in (("prompt", offers.prompts), ("agent", offers.agents)):
        if offered:
            yield _plain_step(kind, [each.name for each in offered], {"type": "object"})


def _plain_step(kind: str, names: Sequence[str], inputs: Schema) -> dict[str, Any]:
    target = {"type": "string", "enum": list(names)}
    properties: dict[str, Any] = {"name": _PLAIN_NAME, kind: target, "inputs": inputs}
    required = ["name", kind]
    if kind == "tool":
        required.append("inputs")
    else:
        properties["instruction"] = {"type": "string", "description": "What it is to do."}
    return {"type": "object", "properties": properties, "required": required}


def _arguments(schema: Schema, *, templates: bool) -> dict[str, Any]:
    """Arguments as they are written in a step; each may be a template, if there is a value to name.

    References inside are replaced by what they refer to: in the draft they would lead elsewhere.
    """
    whole: dict[str, Any] = _inlined(schema, schema)
    named: dict[str, Any] = whole.get("properties") or {}
    properties = {name: each for name, each in named.items() if name not in NOT_AS_INPUT}
    if not properties:
        return {"type": "object"}
    if templates:
        properties = {name: _or_template(each) for name, each in properties.items()}
    needed = [name for name in whole.get("required") or () if name in properties]
    kept = {key: whole[key] for key in ("additionalProperties",) if key in whole}
    required = {"required": needed} if needed else {}
    return {"type": "object", "properties": properties, **required, **kept}


def _or_template(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    said = cast("Schema", schema)
    bound = any(key in said for key in ("enum", "anyOf", "oneOf"))
    if not bound and said.get("type", "string") == "string":
        return said
    return {"anyOf": [said, _TEMPLATE]}


def _inlined(schema: Any, root: Schema, within: tuple[str, ...] = ()) -> Any:
    """A schema without references and descriptions; one that refers to itself is open there."""
    if isinstance(schema, list):
        return [_inlined(each, root, within) for each in schema]  # pyright: ignore[reportUnknownVariableType] - JSON Schema
    if not isinstance(schema, Mapping):
        return schema
    said: Schema = schema  # pyright: ignore[reportUnknownVariableType] - JSON Schema
    target = said.get("$ref")
    if isinstance(target, str):
        if target in within:
            return {}
        return _inlined(resolved(said, root), root, (*within, target))
    return {
        key: _inlined(each, root, within)
        for key, each in said.items()
        if key != "$defs" and not (key == "description" and isinstance(each, str))
    }
