"""The JSON Schema of a draft: the plan language, narrowed to what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fractale.toolbox import ToolInfo

if TYPE_CHECKING:
    from fractale.agents.offers import Offers

FEW_TOOLS = 8
"""Up to so many tools, the schema says what each of them takes."""

_TEXTS: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "string"}}
FLOW: Final[Mapping[str, Any]] = {
    "when": {"type": "string", "description": "An expression; false: the step is skipped."},
    "rules": {
        "type": "object",
        "description": "Event (success, failure) to expressions; the first true one decides.",
        "properties": {"success": _TEXTS, "failure": _TEXTS},
    },
    "transitions": {
        "type": "object",
        "description": "Event to the name of the step to go to, `success` or `failed`.",
        "properties": {"success": {"type": "string"}, "failure": {"type": "string"}},
    },
    "max_attempts": {"type": "integer", "minimum": 1},
}
"""What a step may say beside its call. A model that is small would fill it with nonsense."""


def draft_schema(offers: Offers) -> dict[str, Any]:
    """JSON Schema of a draft of what is offered."""
    kinds = list(_step_schemas(offers))
    items = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    most = 1 if offers.expert else offers.most_steps
    properties: dict[str, Any] = {
        "steps": {"type": "array", "items": items, "minItems": 1, "maxItems": most}
    }
    if not offers.plain:
        properties["outputs"] = {
            "type": "object",
            "description": "Name to template: what the plan returns; else its last step's outputs.",
        }
    return {"type": "object", "properties": properties, "required": ["steps"]}


def _step_schemas(offers: Offers) -> Iterator[dict[str, Any]]:
    more = {} if offers.plain else FLOW
    if offers.expert:
        kind, name = offers.expert
        yield _step_schema(kind, [name], None, more)
        return
    several = len(offers.tools) + len(offers.agents) + len(offers.prompts) > 1
    if len(offers.tools) <= FEW_TOOLS:
        for tool in offers.tools:
            templates = bool(offers.inputs) or several
            yield _step_schema("tool", [tool.name], tool, more, templates=templates)
    else:
        yield _step_schema("tool", [tool.name for tool in offers.tools], None, more)
    for kind, offered in (("prompt", offers.prompts), ("agent", offers.agents)):
        if offered:
            yield _step_schema(kind, [each.name for each in offered], None, more)
    if offers.may_nest:
        yield _step_schema("type", ["plan"], None, more)


def _step_schema(
    kind: str,
    names: Sequence[str],
    tool: ToolInfo | None,
    more: Mapping[str, Any],
    *,
    templates: bool = True,
) -> dict[str, Any]:
    name = {"type": "string", "description": "Letters, digits, _ and -; each step another."}
    inputs: Mapping[str, Any] = {"type": "object"}
    if tool is not None and tool.input_schema.get("properties"):
        inputs = _or_templates(tool.input_schema) if templates else tool.input_schema
    target = {"type": "string", "enum": list(names)}
    properties: dict[str, Any] = {"name": name, kind: target, "inputs": inputs}
    required = ["name", kind]
    if kind == "tool":
        required.append("inputs")
    else:
        properties["instruction"] = {"type": "string", "description": "What it is to do."}
    return {"type": "object", "properties": {**properties, **more}, "required": required}


def _or_templates(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a tool, each of which may be a template instead."""
    template = {"type": "string", "pattern": r"\{\{.*\}\}"}
    properties: Mapping[str, Any] = schema["properties"]
    loose = {
        name: each if kind_of(each) in ("string", "any") else {"anyOf": [each, template]}
        for name, each in properties.items()
    }
    return {**schema, "properties": loose}


def kind_of(schema: Any) -> str:
    """The type that a JSON Schema names; ``any`` where it names none."""
    if not isinstance(schema, Mapping):
        return "any"
    said: Mapping[str, Any] = schema  # pyright: ignore[reportUnknownVariableType] - JSON Schema
    return str(said.get("type") or "any")
