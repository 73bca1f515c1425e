"""The agents of a plan: registered sub-agents that it names, and experts that it writes itself.

This module does not postpone annotations, since `keys_of` reads those of `Expert`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from fractale.errors import Position, Problem
from fractale.plan.fields import Fields, Reader, join
from fractale.plan.forms import (
    CALLABLE_PATTERN,
    DOTTED_PATTERN,
    JSON_SCHEMA,
    MODEL,
    NOWHERE,
    TEXT,
    TOOLS,
    Form,
    Key,
    keys_of,
    matching,
    part_data,
    part_schema,
    read_part,
)
from fractale.plan.kinds import EXTRA_TOOLS, GENERAL_AGENTS, MODEL_AGENTS
from fractale.plan.values import positions
from fractale.text import clip

if TYPE_CHECKING:
    from fractale.plan.node import Node

EXPERT_NAME: Final = "[A-Za-z][A-Za-z0-9_-]{0,63}"
"""The name of an expert: models call it as a tool."""

TAKEN: Final = frozenset(filter(None, (*GENERAL_AGENTS, *MODEL_AGENTS, "optimize", *EXTRA_TOOLS)))
"""Names with a meaning of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRef:
    """A sub-agent that the plan registers by its dotted path."""

    path: str
    name: str | None = None
    position: Position = field(default=NOWHERE, compare=False)


def _fixed_text(mapping: Fields, key: str) -> str | None:
    text = mapping.reader.text(mapping.value(key), join(mapping.path, key), f"`{key}`")
    if text is None or "{{" not in text:
        return text
    message = f"`{key}` is fixed; put templates into the instruction or the inputs of the step"
    mapping.fail(key, "bad-value", message)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """An agent that the plan itself writes: a model with a role, tools and a form of answer.

    Args:
        tools: None: all that the step or the agent that asks it has; empty: none.
        positions: Path inside the entry → its position.
    """

    name: Annotated[
        str,
        Key(
            Form(None, matching(EXPERT_NAME)),
            "The name for steps (`agent: NAME`) and for models; a letter, then letters, digits, "
            "`_`, `-`.",
            required="",
        ),
    ]
    description: Annotated[
        str,
        Key(TEXT, "The purpose, for you and for the models that may ask it."),
    ] = ""
    instruction: Annotated[
        str,
        Key(
            Form(_fixed_text, {"type": "string"}),
            "The role, as fixed text: each task comes with the step or the agent that asks.",
            required="",
        ),
    ] = ""
    model: Annotated[
        str | None,
        Key(MODEL, "Its model, `provider:name`; left out, that of the step that asks it."),
    ] = None
    tools: Annotated[
        tuple[str, ...] | None,
        Key(
            TOOLS,
            "Names or globs of the most tools that it may call, of those of the step that asks it; "
            "`[]`: none.",
            never_empty=True,
        ),
    ] = None
    output_schema: Annotated[
        Mapping[str, Any] | None,
        Key(JSON_SCHEMA, "JSON Schema of its answer, unless the step has its own."),
    ] = None
    position: Position = field(default=NOWHERE, compare=False)
    positions: Mapping[str, Position] = field(
        default_factory=dict[str, Position], compare=False, repr=False
    )

    @property
    def summary(self) -> str:
        """Its purpose in short: for a model that may ask it."""
        return self.description or clip(self.instruction.strip().partition("\n")[0], 200)

    def where(self, key: str) -> Position:
        """The position of a part of its entry."""
        return self.positions.get(key, self.position)


PlanAgent: TypeAlias = AgentRef | Expert

EXPERT_KEYS: Final = keys_of(Expert)
_HINTS: Final = {
    "prompt": "write `instruction`",
    "system": "write `instruction`",
    "role": "write `instruction`",
    "allow_tools": "write `tools: []` for none",
    "schema": "write `output_schema`",
    "inputs": "give them in the step that asks the agent",
}


def _agents(mapping: Fields, key: str) -> tuple[PlanAgent, ...]:
    first: dict[str, Expert] = {}
    found: list[PlanAgent] = []
    for path, node in mapping.items(key):
        agent = _agent(mapping.reader, node, path)
        if agent is None:
            continue
        found.append(agent)
        if isinstance(agent, Expert) and first.setdefault(agent.name, agent) is not agent:
            line = first[agent.name].position.line
            message = f"line {line} has an agent `{agent.name}` already"
            where, length = agent.where("name"), len(agent.name)
            problem = Problem("same-name", message, where, join(path, "name"), length)
            mapping.reader.keep(problem)
    return tuple(found)


def _agent(reader: Reader, node: "Node", path: str) -> PlanAgent | None:
    if isinstance(node.value, str):
        dotted = _dotted(reader, node, path)
        return AgentRef(path=dotted, position=node.position) if dotted else None
    if isinstance(node.value, dict) and "path" not in node.value and len(node.value) > 1:
        return _expert(reader, node, path)
    noun = "an agent (a dotted path, or a mapping)"
    mapping = reader.fields(node, path, ("path", "name"), noun, {})
    if mapping is None:
        return None
    at = mapping.get("path")
    if at is None:
        message = "an agent needs `path`: its dotted path; or an `instruction` of its own"
        reader.fail("missing-key", message, node, path)
        return None
    dotted = _dotted(reader, at, join(path, "path"))
    name = mapping.name("name")
    return AgentRef(path=dotted, name=name, position=node.position) if dotted else None


def _expert(reader: Reader, node: "Node", path: str) -> Expert | None:
    mapping = reader.fields(node, path, EXPERT_KEYS, "an agent", _HINTS)
    if mapping is None:
        return None
    given = read_part(EXPERT_KEYS, mapping)
    name = mapping.name("name")
    if name is None:
        return None
    if not re.fullmatch(EXPERT_NAME, name, re.ASCII):
        right = "a letter, then letters, digits, `_`, `-`; 64 at most"
        mapping.fail("name", "bad-name", f"`{clip(name)}` cannot name an agent: {right}")
    elif name in TAKEN:
        message = f"`{name}` is a name of fractale's own; choose another"
        mapping.fail("name", "bad-name", message)
    return Expert(**given, name=name, position=node.position, positions=positions(node))


def _dotted(reader: Reader, node: "Node", path: str) -> str | None:
    text = reader.text(node, path, "the path of an agent")
    if text is None or re.fullmatch(DOTTED_PATTERN, text):
        return text
    message = f"an agent is named by its dotted path, such as `package.module.Agent`: {clip(text)}"
    reader.fail("bad-value", message, node, path)
    return None


def _agents_data(agents: tuple[PlanAgent, ...]) -> list[Any]:
    return [_agent_data(agent) for agent in agents]


def _agent_data(agent: PlanAgent) -> Any:
    if isinstance(agent, Expert):
        return part_data(agent)
    return {"path": agent.path, "name": agent.name} if agent.name else agent.path


AGENTS: Final = Form(
    _agents,
    {
        "type": "array",
        "items": {
            "anyOf": [
                matching(DOTTED_PATTERN),
                {
                    "type": "object",
                    "properties": {
                        "path": matching(DOTTED_PATTERN),
                        "name": matching(CALLABLE_PATTERN),
                    },
                    "required": ["path"],
                    "additionalProperties": False,
                },
                part_schema(EXPERT_KEYS),
            ]
        },
    },
    _agents_data,
)
"""Registered sub-agents and experts."""
