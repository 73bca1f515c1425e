"""The parts of a plan around its steps: inputs, limits, agents, servers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from fractale.plan.fields import Fields, Reader, join
from fractale.plan.inputs import TYPES, convert
from fractale.plan.model import AgentRef, InputSpec, Limits
from fractale.plan.words import INPUT_KEYS, LIMIT_KEYS
from fractale.text import clip, nearest

if TYPE_CHECKING:
    from fractale.plan.node import Node

INPUT_NAME_PATTERN: Final = "[A-Za-z_][A-Za-z0-9_-]*"
SERVER_NAME_PATTERN: Final = "[A-Za-z0-9_][A-Za-z0-9_-]*"
DOTTED_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+"


def read_inputs(plan: Fields) -> dict[str, InputSpec]:
    """The plan's inputs by name."""
    found: dict[str, InputSpec] = {}
    for name, key, node in plan.entries("inputs"):
        path = join("inputs", name)
        if not re.fullmatch(INPUT_NAME_PATTERN, name):
            message = f"`{clip(name)}` cannot be the name of an input: letters, digits, `_`, `-`"
            plan.reader.fail("bad-name", message, key, path)
        elif is_input_spec(node.plain() if isinstance(node.value, dict) else None):
            found[name] = _spec(plan.reader, name, key, node, path)
        else:
            found[name] = InputSpec(name=name, default=node.plain(), position=key.position)
    return found


def is_input_spec(value: Any) -> bool:
    """Whether a value under `inputs` describes the input, rather than being its default.

    A mapping does if all its keys are words of a description, or if it has a `type` that is
    one; also if one of its keys is nearly such a word, beside one that is: a misspelt word must
    not turn a description into a default.
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
    noun = "the description of an input"
    fields = reader.fields(node, path, INPUT_KEYS, noun, {})
    if fields is None:
        return InputSpec(name=name)
    required = fields.flag("required")
    secret = fields.flag("secret") or False
    has_default = "default" in fields
    default = fields.get("default")
    spec = InputSpec(
        name=name,
        type=fields.choice("type", tuple(TYPES)),
        default=default.plain() if default else None,
        description=fields.text("description"),
        enum=_enum(fields),
        minimum=fields.real("minimum"),
        maximum=fields.real("maximum"),
        # What has neither a default nor a value would reach a tool as null.
        required=not has_default if required is None else required,
        secret=secret,
        position=key.position,
    )
    _check_bounds(fields, spec)
    if has_default:
        _check_default(fields, spec)
    return spec


def _enum(fields: Fields) -> tuple[Any, ...] | None:
    node = fields.get("enum")
    if node is None:
        return None
    if isinstance(node.value, list) and node.value:
        return tuple(item.plain() for item in node.value)
    fields.wrong("enum", "a list of at least one value")
    return None


def _check_bounds(fields: Fields, spec: InputSpec) -> None:
    for key in ("minimum", "maximum"):
        if getattr(spec, key) is not None and spec.type not in (None, "integer", "number"):
            fields.fail(key, "bad-value", f"`{key}` is for numbers, not for type {spec.type}")
    if spec.minimum is not None and spec.maximum is not None and spec.minimum > spec.maximum:
        fields.fail("maximum", "bad-value", f"`maximum` is below `minimum` ({spec.minimum:g})")
    untyped = InputSpec(name=spec.name, type=spec.type)
    for choice in spec.enum or () if spec.type else ():
        if _misfit(untyped, choice):
            message = f"`enum`: {clip(repr(choice))} is not of type {spec.type}"
            fields.fail("enum", "bad-value", message)


def _check_default(fields: Fields, spec: InputSpec) -> None:
    if spec.secret:
        message = "a secret has no default: it is read from the environment or asked for"
        fields.fail("default", "bad-value", message)
    elif spec.required:
        fields.fail("default", "bad-value", "a required input has no default; keep one of the two")
    elif spec.default is not None and (problem := _misfit(spec, spec.default)):
        fields.fail("default", "bad-value", f"the default does not fit: {problem}")


def _misfit(spec: InputSpec, value: Any) -> str | None:
    """What is wrong with a value, which in a file is not text that is still to be converted."""
    if spec.type is not None and spec.type != "string" and isinstance(value, str):
        return f"input `{spec.name}` must be of type {spec.type}, not the text `{clip(value)}`"
    problem = convert(spec, value)[1] if spec.type or spec.enum or value is not None else None
    return clip(problem, 120) if problem else None


AMOUNTS = ("cost", "node_hours", "core_hours", "gpu_hours")
"""Limits that need not be whole numbers."""


def read_limits(plan: Fields) -> Limits:
    """The plan's limits."""
    node = plan.get("limits")
    fields = plan.reader.fields(node, "limits", LIMIT_KEYS, "`limits`", {}) if node else None
    if fields is None:
        return Limits()
    amounts = {name: fields.real(name, least=0) for name in AMOUNTS}
    for name in (name for name, amount in amounts.items() if amount == 0):
        fields.fail(name, "bad-value", f"`{name}` must be more than nothing")
    return Limits(
        steps=fields.whole("steps"),
        attempts=fields.whole("attempts"),
        time=fields.seconds("time"),
        tokens=fields.whole("tokens"),
        depth=fields.whole("depth", least=0),
        jobs=fields.whole("jobs"),
        **amounts,
    )


def read_agents(plan: Fields) -> tuple[AgentRef, ...]:
    """The sub-agents that the plan registers."""
    found = (_agent(plan.reader, node, path) for path, node in plan.items("agents"))
    return tuple(agent for agent in found if agent)


def _agent(reader: Reader, node: Node, path: str) -> AgentRef | None:
    if isinstance(node.value, str):
        dotted = _dotted(reader, node, path)
        return AgentRef(path=dotted, position=node.position) if dotted else None
    noun = "an agent (a dotted path, or a mapping)"
    fields = reader.fields(node, path, ("path", "name"), noun, {})
    if fields is None:
        return None
    at = fields.get("path")
    if at is None:
        reader.fail("missing-key", "an agent needs `path`: its dotted path", node, path)
        return None
    dotted = _dotted(reader, at, join(path, "path"))
    name = fields.name("name")
    return AgentRef(path=dotted, name=name, position=node.position) if dotted else None


def _dotted(reader: Reader, node: Node, path: str) -> str | None:
    text = reader.text(node, path, "the path of an agent")
    if text is None or re.fullmatch(DOTTED_PATTERN, text):
        return text
    message = f"an agent is named by its dotted path, such as `package.module.Agent`: {clip(text)}"
    reader.fail("bad-value", message, node, path)
    return None


def read_servers(plan: Fields) -> tuple[str, ...] | None:
    """The names of the MCP servers that the plan needs; None if it does not say."""
    node = plan.get("servers")
    if node is None:
        return None
    if not isinstance(node.value, list):
        return (node.source,) if _is_server(plan.reader, node, "servers") else ()
    return tuple(
        item.source for path, item in plan.items("servers") if _is_server(plan.reader, item, path)
    )


def _is_server(reader: Reader, node: Node, path: str) -> bool:
    if isinstance(node.value, str) and re.fullmatch(SERVER_NAME_PATTERN, node.value):
        return True
    message = (
        "a plan names its servers, and never says how to start or reach them; "
        "put that into the settings under `servers:` with a name, and write the name here"
    )
    reader.fail("server-by-name", message, node, path)
    return False
