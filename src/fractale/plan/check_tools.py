"""Compares a plan with its servers: tools, prompts, their arguments and their answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, cast

from fractale.errors import Position, Problem
from fractale.plan.expressions import Reference, references
from fractale.plan.expressions.values import is_list, is_mapping
from fractale.plan.inputs import TYPES
from fractale.plan.kinds import EXTRA_TOOLS, GENERAL_AGENTS, INSTRUCTION_INPUTS
from fractale.plan.model import Expert, Plan, Step
from fractale.plan.scope import (
    TOP,
    Placed,
    Text,
    outputs_of_plan,
    placed_steps,
    texts_of,
)
from fractale.plan.values import Value, has_template
from fractale.text import clip, nearest

Schema = Mapping[str, Any]

_SHOWN: Final = 60
_MOST_DEPTH: Final = 20
_RULE_NAMES: Final = frozenset((*TOP, "outputs", "content", "error", "attempts", "item", "index"))


def check_against_tools(
    plan: Plan,
    tools: Mapping[str, Mapping[str, Any]],
    prompts: Mapping[str, Mapping[str, Any]],
    agents: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    drafted: bool = False,
) -> list[Problem]:
    """Find the parts of a plan that do not fit the available tools, prompts and sub-agents.

    Args:
        plan: A plan in which `check_plan` finds no error.
        tools: Name → ``{"input_schema": …, "output_schema": …}``, JSON Schemas or None. It includes
            the sub-agents of servers.
        prompts: Name → ``{"arguments": [{"name": …, "required": …}, …]}``.
        agents: The same for sub-agents that no server has; None: the built-in generalist only.
        drafted: Whether a model wrote the plan. If so, a key that a schema does not name is an
            error, and the answer of a model without a schema has only its `content`. A user may
            know more about a tool than its schema says, but a model does not.

    Returns:
        Errors and warnings, in the order of the plan.
    """
    offers = _Offers(tools, prompts, agents or {}, drafted)
    return list(dict.fromkeys(_check(plan, offers, "", set())))


@dataclass(frozen=True, slots=True)
class _Offers:
    tools: Mapping[str, Mapping[str, Any]]
    prompts: Mapping[str, Mapping[str, Any]]
    agents: Mapping[str, Mapping[str, Any]]
    drafted: bool = False
    experts: frozenset[str] = frozenset()

    def called_by(self, step: Step) -> Mapping[str, Mapping[str, Any]]:
        """The names that a tool or agent step can use."""
        return {**self.tools, **self.agents} if step.kind == "agent" else self.tools

    @property
    def allowable(self) -> list[str]:
        """The names that a list of tools can contain."""
        return [*self.tools, *self.agents, *EXTRA_TOOLS]

    def output_schema(self, step: Step) -> Schema | None:
        """The schema of a step's outputs, if they are one tool's or one model's answer."""
        if step.foreach:
            return None
        if _answers_in_words(step):
            # With rules, the outputs may be the answer of the tool that ended the step.
            return _words_of(step.output_schema) if self.drafted and not step.rules else None
        if not _calls_tool(step):
            return None
        if step.kind == "agent" and step.target in self.experts:
            own = self.agents[step.target]["output_schema"]
            asked = _words_of(step.output_schema) if step.output_schema else own
            return None if step.rules else asked
        return self.called_by(step).get(step.target or "", {}).get("output_schema")


def _answers_in_words(step: Step) -> bool:
    """Whether the generalist answers: with text, or with JSON of the step's `output_schema`."""
    return step.kind == "prompt" or (step.kind == "agent" and step.target in GENERAL_AGENTS)


def _words_of(asked: Schema | None) -> Schema | None:
    """The schema of a model's outputs. Their text is always present as `content`."""
    if asked is None:
        return {"properties": {"content": {"type": "string"}}}
    if asked.get("type", "object") != "object":
        return {"properties": {"result": asked, "content": {"type": "string"}}}
    if not asked.get("properties"):
        return None
    return {**asked, "properties": {"content": {"type": "string"}, **asked["properties"]}}


def _calls_tool(step: Step) -> bool:
    return step.kind == "tool" or (step.kind == "agent" and step.target not in GENERAL_AGENTS)


def _check(
    plan: Plan,
    offers: _Offers,
    prefix: str,
    seen: set[int],
    around: Mapping[str, Step] | None = None,
) -> Iterator[Problem]:
    """The problems of a plan and of the plans that it includes, each plan once.

    Args:
        around: Of a chain, the steps around it.
    """
    seen.add(id(plan))
    yield from _check_experts(plan, offers, prefix)
    offers = _with_experts(plan, offers)
    own = {placed.step.name: placed.step for placed in placed_steps(plan, prefix)}
    steps = {**(around or {}), **own}
    for placed in placed_steps(plan, prefix):
        yield from _check_call(placed, offers)
        yield from _check_allowed(placed, offers)
        for text in texts_of(placed):
            yield from _check_keys(text, steps, offers)
        if placed.step.chain is not None:
            yield from _check(placed.step.chain, offers, f"{placed.path}.", seen, steps)
        included = placed.step.plan
        if included is not None and id(included) not in seen:
            yield from _check(included, offers, f"{placed.path}.plan.", seen)
    for text in outputs_of_plan(plan, prefix):
        yield from _check_keys(text, steps, offers)


def _with_experts(plan: Plan, offers: _Offers) -> _Offers:
    """The offers inside a plan, with the agents that it writes itself."""
    if not plan.experts:
        return offers
    own: dict[str, Mapping[str, Any]] = {
        agent.name: {"output_schema": _words_of(agent.output_schema)} for agent in plan.experts
    }
    return replace(offers, agents={**offers.agents, **own}, experts=offers.experts | own.keys())


def _check_experts(plan: Plan, offers: _Offers, prefix: str) -> Iterator[Problem]:
    """An expert has a name of its own, and its tools exist."""
    others = {**offers.tools, **{n: a for n, a in offers.agents.items() if n not in offers.experts}}
    known = _with_experts(plan, offers)
    for index, agent in enumerate(plan.agents):
        if not isinstance(agent, Expert):
            continue
        path = f"{prefix}agents[{index}]"
        if agent.name in others:
            what = "sub-agent" if agent.name in offers.agents else "tool"
            message = f"`{agent.name}` is the name of a {what}; choose another"
            yield Problem(
                "same-name", message, agent.where("name"), f"{path}.name", len(agent.name)
            )
        yield from _unknown_tools(agent.tools or (), agent.where, path, known)


# Calls


def _check_call(placed: Placed, offers: _Offers) -> Iterator[Problem]:
    step = placed.step
    name = step.target or ""
    if step.kind == "prompt":
        if name in offers.prompts:
            yield from _check_prompt(placed, offers.prompts[name])
        else:
            yield _unknown(placed, "prompt", name, offers.prompts)
    elif _calls_tool(step):
        known = offers.called_by(step)
        if name in known:
            yield from _check_arguments(placed, known[name].get("input_schema") or {})
        else:
            yield _unknown(placed, step.kind, name, known)


def _unknown(placed: Placed, what: str, name: str, names: Collection[str]) -> Problem:
    several = sorted(each for each in names if each.partition(".")[2] == name)
    if len(several) > 1:
        choices = " or ".join(f"`{each}`" for each in several)
        return Problem(
            f"ambiguous-{what}",
            f"`{name}` is a {what} of {len(several)} servers: write {choices}",
            placed.step.where(what),
            f"{placed.path}.{what}",
            len(name),
        )
    return Problem(
        f"unknown-{what}",
        f"no server has the {what} `{name}`",
        placed.step.where(what),
        f"{placed.path}.{what}",
        len(name),
        suggestion=nearest(name, names),
        missing=name,
    )


def _check_allowed(placed: Placed, offers: _Offers) -> Iterator[Problem]:
    yield from _unknown_tools(placed.step.tools or (), placed.step.where, placed.path, offers)


def _unknown_tools(
    tools: Collection[str], where: Callable[[str], Position], path: str, offers: _Offers
) -> Iterator[Problem]:
    """The tools that a model may call must exist, and a pattern should match some tool."""
    for index, name in enumerate(tools):
        if any(fnmatchcase(tool, name) for tool in offers.allowable):
            continue
        is_pattern = any(sign in name for sign in "*?[")
        what = f"no tool fits `{name}`" if is_pattern else f"no server has the tool `{name}`"
        yield Problem(
            "unknown-tool",
            what,
            where(f"tools[{index}]"),
            f"{path}.tools[{index}]",
            len(name),
            suggestion=None if is_pattern else nearest(name, offers.allowable),
            severity="warning" if is_pattern else "error",
            missing=None if is_pattern else name,
        )


def _check_prompt(placed: Placed, prompt: Mapping[str, Any]) -> Iterator[Problem]:
    arguments: list[Mapping[str, Any]] = list(prompt.get("arguments") or ())
    names = [str(argument["name"]) for argument in arguments]
    # The engine passes `error` after a failure, so the plan need not.
    needed = [str(a["name"]) for a in arguments if a.get("required") and a["name"] != "error"]
    yield from _missing(placed, needed)
    for name in placed.step.inputs:
        if name not in names and name not in INSTRUCTION_INPUTS:
            yield _unknown_argument(placed, name, names)


def _check_arguments(placed: Placed, schema: Schema) -> Iterator[Problem]:
    step = placed.step
    properties: Mapping[str, Any] = schema.get("properties") or {}
    needed = [str(name) for name in schema.get("required") or ()]
    if step.kind == "agent":
        given = {"error", "instruction"} if step.instruction else {"error"}
        needed = [name for name in needed if name not in given]
    yield from _missing(placed, needed)
    for name, value in step.inputs.items():
        if name in properties:
            yield from _check_value(placed, name, value, properties[name], schema)
        elif _is_closed(schema) and not (step.kind == "agent" and name in INSTRUCTION_INPUTS):
            yield _unknown_argument(placed, name, properties)


def _is_closed(schema: Schema) -> bool:
    """Whether arguments that the schema does not name are refused.

    JSON Schema allows them if the schema says nothing. But nearly all servers are made from
    functions, and these servers refuse them.
    """
    if "additionalProperties" in schema:
        return schema["additionalProperties"] is False
    return bool(schema.get("properties")) and "patternProperties" not in schema


def _missing(placed: Placed, names: Collection[str]) -> Iterator[Problem]:
    step = placed.step
    for name in names:
        if name not in step.inputs:
            message = f"`{step.target}` needs the argument `{name}`: give it in `inputs`"
            where = step.where("inputs") if step.inputs else step.where(step.kind)
            yield Problem("missing-argument", message, where, f"{placed.path}.inputs")


def _unknown_argument(placed: Placed, name: str, names: Collection[str]) -> Problem:
    return Problem(
        "unknown-argument",
        f"`{placed.step.target}` has no argument `{name}`",
        placed.step.where(f"inputs.{name}"),
        f"{placed.path}.inputs.{name}",
        suggestion=nearest(name, names),
    )


def _check_value(
    placed: Placed, name: str, value: Value, schema: Any, root: Schema
) -> Iterator[Problem]:
    if has_template(value) or _fits(value, schema, root):
        return
    shown = clip(json.dumps(value), _SHOWN)
    message = f"`{placed.step.target}` expects {_wanted(schema)} as `{name}`, not {shown}"
    where = placed.step.where(f"inputs.{name}")
    yield Problem("bad-argument", message, where, f"{placed.path}.inputs.{name}")


def _fits(value: Any, schema: Any, root: Schema, depth: int = 0) -> bool:
    """Whether a value may match a schema, by its types and choices alone.

    The schema comes from a server, which a stranger may control. Its patterns could hang, and its
    references could lead to other places, so only the simple parts are checked.
    """
    found = _resolved(schema, root) if is_mapping(schema) else None
    if found is None or depth > _MOST_DEPTH:
        return True
    for key in ("anyOf", "oneOf"):
        choices = found.get(key)
        if is_list(choices) and not any(_fits(value, c, root, depth + 1) for c in choices):
            return False
    if is_list(found.get("enum")) and value not in found["enum"]:
        return False
    kinds = found.get("type", [])
    if kinds and not any(_is_of(value, k) for k in (kinds if is_list(kinds) else [kinds])):
        return False
    inner = found.get("items")
    return not is_list(value) or all(_fits(item, inner, root, depth + 1) for item in value)


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    types = TYPES.get(kind) if isinstance(kind, str) else None
    return kind not in ("null", "boolean") and (types is None or isinstance(value, types))


def _wanted(schema: Any) -> str:
    """The values that a schema expects, as text."""
    for key, words in (("type", "a value of type {}"), ("enum", "one of {}")):
        if schema.get(key):
            named = schema[key] if is_list(schema[key]) else [schema[key]]
            return words.format(", ".join(map(str, named[:8])))
    return "something else"


# Keys of answers


def _check_keys(text: Text, steps: Mapping[str, Step], offers: _Offers) -> Iterator[Problem]:
    """Find keys that an answer cannot have according to its schema."""
    for reference in references(text.value):
        if reference.optional:
            continue
        if problem := _key_of_list(reference, text, steps):
            yield problem
        elif found := _answer(reference, text, steps, offers):
            schema, start = found
            if problem := _impossible(reference, start, schema, text):
                yield replace(problem, severity="error") if offers.drafted else problem


def _key_of_list(reference: Reference, text: Text, steps: Mapping[str, Step]) -> Problem | None:
    """Find keys of a foreach's outputs, which are a list and have no keys."""
    top, name, part, key = (*reference.path, None, None, None)[:4]
    step = steps.get(str(name)) if (top, part) == ("steps", "outputs") else None
    if step is None or not step.foreach or not isinstance(key, str):
        return None
    return Problem(
        "impossible-key",
        f"the outputs of `{step.name}` are a list, one entry an item of its `foreach`: write "
        f"`steps.{step.name}.outputs | map(attribute='{key}') | list`, or `outputs[0].{key}`",
        reference.positions[3],
        text.path,
        len(key),
    )


def _answer(
    reference: Reference, text: Text, steps: Mapping[str, Step], offers: _Offers
) -> tuple[Schema, int] | None:
    """The schema of the answer that a name is a part of, and the part that is its first key."""
    path = reference.path
    top = path[0]
    step, start = None, 0
    if top == "steps" and len(path) > 3 and path[2] == "outputs":
        step, start = steps.get(str(path[1])), 3
    elif text.place == "rule" and text.within and top not in _RULE_NAMES:
        step = text.within.step
    schema = offers.output_schema(step) if step else None
    return (schema, start) if schema and not _may_hold_json(schema) else None


def _may_hold_json(schema: Schema) -> bool:
    """Whether the answer is wrapped text, whose JSON becomes the outputs."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    if list(properties) != ["result"]:
        return False
    inner = properties["result"]
    return not isinstance(inner, dict) or cast("Schema", inner).get("type", "string") == "string"


def _impossible(reference: Reference, start: int, schema: Schema, text: Text) -> Problem | None:
    inner: Schema | None = schema
    for index in range(start, len(reference.path)):
        inner = _resolved(inner, schema)
        properties = inner.get("properties") if inner else None
        if inner is None or not isinstance(properties, dict):
            return None
        known = cast("dict[str, Any]", properties)
        part = str(reference.path[index])
        if part not in known:
            return _impossible_key(reference, index, inner, known, text)
        inner = known[part] if isinstance(known[part], dict) else None
    return None


def _resolved(schema: Schema | None, root: Schema) -> Schema | None:
    """The schema that a local reference points to, or the schema itself."""
    target = schema.get("$ref") if schema else None
    if not isinstance(target, str):
        return schema
    prefix, _, name = target.rpartition("/")
    return root.get("$defs", {}).get(name) if prefix == "#/$defs" else None


def _impossible_key(
    reference: Reference, index: int, schema: Schema, known: Collection[str], text: Text
) -> Problem | None:
    rest = schema.get("additionalProperties")
    if rest or "patternProperties" in schema:
        return None
    part = str(reference.path[index])
    names = ", ".join(f"`{name}`" for name in list(known)[:8])
    # If a schema does not mention further keys, it allows them, though few tools intend that.
    sure = rest is False
    verb = "has no" if sure else "does not name the"
    return Problem(
        "impossible-key",
        f"the output schema {verb} key `{part}`; it names {names}",
        reference.positions[index],
        text.path,
        len(part),
        suggestion=nearest(part, known),
        severity="error" if sure else "warning",
    )
