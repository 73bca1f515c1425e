"""The external needs of a plan, as far as the plan shows them, and how a step narrows them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from glob import has_magic
from typing import Final

from fractale.plan.kinds import EXTRA_TOOLS, GENERAL_AGENTS, GET_PROMPT, KINDS, READ_RESOURCE
from fractale.plan.model import Approve, Plan, Step

STRICTNESS: Final = ("always", "ask", None, "never")


def needs_model(step: Step) -> bool:
    """Whether the step itself asks a model."""
    return step.judge is not False or KINDS[step.kind].needs_model(step)


def models_of(plan: Plan) -> list[str | None]:
    """The `model:` of every step that needs one, each once. None is the default model."""
    names: list[str | None] = []
    experts = {expert.name: expert for expert in plan.experts}
    for step in plan.walk():
        own: list[str | None] = models_of(step.plan) if step.plan else []
        expert = experts.get(step.target or "") if step.kind == "agent" else None
        if needs_model(step) or expert is not None:
            own = [step.model or (expert.model if expert else None), *own]
        names += [name for name in own if name not in names]
    # Models that choose among tools may ask any expert.
    asked = [e.model for e in plan.experts if e.model and any(map(_asks_with_tools, plan.walk()))]
    return [*names, *(name for name in dict.fromkeys(asked) if name not in names)]


def experts_of(plan: Plan) -> frozenset[str]:
    """The agents that the plan, and the plans inside it, write themselves."""
    inner = (experts_of(step.plan) for step in plan.walk() if step.plan)
    return frozenset(agent.name for agent in plan.experts).union(*inner)


def tools_of(plan: Plan, agents: Collection[str] = ()) -> frozenset[str] | None:
    """The tools that the plan names, and the patterns of tools that it allows models.

    Args:
        agents: The sub-agents that no server has.

    Returns:
        Names and globs; None if the plan lets a model have all tools.
    """
    steps, agents = list(_steps(plan)), {*agents, *experts_of(plan)}
    if any(_asks_with_tools(s) and s.tools is None and not _is_of_server(s, agents) for s in steps):
        return None
    names = {name for step in steps for name in _named(step, agents)}
    return frozenset(names.difference(EXTRA_TOOLS, GENERAL_AGENTS, agents))


def named_tools(plan: Plan, agents: Collection[str] = ()) -> dict[str, list[Step]]:
    """Each tool that the plan names, with the steps that name it. Patterns are not names.

    Args:
        agents: The sub-agents that no server has.
    """
    found: dict[str, list[Step]] = {}
    agents = {*agents, *experts_of(plan)}
    own = {*EXTRA_TOOLS, *GENERAL_AGENTS, *agents}
    for step in _steps(plan):
        for name in _named(step, agents):
            if name not in own and not has_magic(name):
                found.setdefault(name, []).append(step)
    return found


def _named(step: Step, agents: Collection[str]) -> Collection[str]:
    """The names and patterns of tools in a step."""
    if step.kind == "tool" or _is_of_server(step, agents):
        return {step.target or ""}
    return step.tools or () if _asks_with_tools(step) else ()


def prompts_of(plan: Plan, agents: Collection[str] = ()) -> frozenset[str] | None:
    """The prompts that the plan names; None if it lets a model have all of them.

    Args:
        agents: The sub-agents that no server has.
    """
    names, agents = set[str](), {*agents, *experts_of(plan)}
    for step in _steps(plan):
        if step.kind == "prompt" and step.target:
            names.add(step.target)
        if _may_use(step, GET_PROMPT, agents):
            return None
    return frozenset(names)


def shows_resources(plan: Plan, agents: Collection[str] = ()) -> bool:
    """Whether a model of the plan sees the list of resources.

    Args:
        agents: The sub-agents that no server has.
    """
    agents = {*agents, *experts_of(plan)}
    return any(_may_use(step, READ_RESOURCE, agents) or step.is_drafted for step in _steps(plan))


def _may_use(step: Step, extra: str, agents: Collection[str]) -> bool:
    """Whether a step's model may use one of `EXTRA_TOOLS`."""
    if not _asks_with_tools(step) or _is_of_server(step, agents):
        return False
    return step.tools is None or any(fnmatchcase(extra, glob) for glob in step.tools)


def _steps(plan: Plan) -> Iterator[Step]:
    """Every step, with those of included plans."""
    for step in plan.walk():
        yield step
        if step.plan:
            yield from _steps(step.plan)


def _asks_with_tools(step: Step) -> bool:
    """Whether the step asks a model that may have tools."""
    return KINDS[step.kind].chooses_tools and step.plan is None


def _is_of_server(step: Step, agents: Collection[str]) -> bool:
    """Whether the step asks a sub-agent of a server, not one of fractale's or the user's own."""
    return step.kind == "agent" and step.target not in (None, *GENERAL_AGENTS, *agents)


def narrow(plan: Plan, tools: tuple[str, ...] | None, approve: Approve | None) -> Plan:
    """A plan whose steps may do no more than the step that it replaces.

    Args:
        tools: The globs of the step around it; None: all tools.
        approve: The step's setting for approval. The stricter of this and each step's own counts.
    """

    def narrowed(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(_narrow_step(step, tools, approve) for step in steps)

    return replace(
        plan,
        steps=narrowed(plan.steps),
        on_failure=narrowed(plan.on_failure),
        finally_=narrowed(plan.finally_),
    )


def _narrow_step(step: Step, tools: tuple[str, ...] | None, approve: Approve | None) -> Step:
    inner = tuple(_narrow_step(each, tools, approve) for each in step.steps)
    chain = narrow(step.chain, tools, approve) if step.chain else None
    if "approve" in KINDS[step.kind].lacks:
        return replace(step, steps=inner, chain=chain)
    stricter = min(step.approve, approve, key=STRICTNESS.index)
    chosen = both(step.tools, tools) if KINDS[step.kind].chooses_tools else step.tools
    return replace(step, steps=inner, approve=stricter, tools=chosen)


def both(some: tuple[str, ...] | None, others: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Globs of the names that two lists of globs have in common; None lists everything.

    If two globs overlap and neither contains the other, the result has none of them.
    """
    if some is None or others is None:
        return others if some is None else some
    kept = [glob for glob in some if any(fnmatchcase(glob, other) for other in others)]
    kept += [other for other in others if any(fnmatchcase(other, glob) for glob in some)]
    return tuple(dict.fromkeys(kept))
