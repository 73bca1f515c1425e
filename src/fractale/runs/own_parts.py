"""The tools and sub-agents of a run that are objects of the user's program.

Objects are not recorded: the caller gives them again to resume the run. A run that continued
without one would use up the answer to its question, and then fail. So it is refused first, as for a
changed tool. If a server of the settings is down or gone, the step that needs it reports that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from fractale.errors import NotRecorded, UsageError
from fractale.graph.bindings import Bindings, Bound
from fractale.pins import LOCAL, pins_of
from fractale.plan.kinds import GENERAL_AGENTS
from fractale.plan.model import Plan, Step
from fractale.plan.needs import experts_of
from fractale.record.history import RunHistory
from fractale.record.history_reader import read_history
from fractale.record.snapshot import read_snapshot
from fractale.runs.changes import MOST_CHANGES, steps_ahead, tools_named_by
from fractale.store.run_record import RunRecord
from fractale.toolbox import Toolbox, ToolInfo


async def check_own_parts(
    record: RunRecord,
    head: Mapping[str, Any],
    plan: Plan,
    bindings: Bindings,
    toolbox: Toolbox,
    agents: Collection[str],
) -> None:
    """Check that the tools and sub-agents of the user's program are there again.

    Tools that a model finds by a pattern only may be missing, unless a question is about them.

    Args:
        head: The start of the run. Its `own_servers` are those of a toolbox that the user gave.
        agents: The sub-agents that no server has.

    Raises:
        UsageError: One is missing, and a step that may still run names it, or a question that the
            run waits for is about it.
    """
    own = {LOCAL, *head.get("own_servers", ())}
    gone: set[Bound] = set()
    for server in own:
        here = await _own_tools(toolbox, server)
        had = set[str]() if here is None else bindings.of_server(server) - here
        gone |= {Bound(server, name) for name in had}
    known = {*agents, *filter(None, GENERAL_AGENTS), *experts_of(plan)}
    drafts = any(step.is_drafted for step in plan.walk())
    if not gone and not drafts and not _unknown_agents(_whole(plan), known, bindings):
        return  # without reading the record
    history = read_history(record)
    ahead = [step for _, step in steps_ahead(history, plan)]
    if not ahead or history.alive:
        return
    meant = _tools_of(ahead, history, bindings, own)
    tools = list(dict.fromkeys(bound.tool for bound in meant if bound in gone))
    unknown = _unknown_agents(ahead, known, bindings)
    missing = [name for name in unknown if not await _may_be_of_server(toolbox, record, name)]
    if tools or missing:
        raise _missing(history, tools, missing)


async def _own_tools(toolbox: Toolbox, server: str) -> set[str] | None:
    """The tools of the user's program and registries; None if they are not known now."""
    if pins_of(toolbox).covers(server):
        return None
    if server not in {status.name for status in await toolbox.servers(())}:
        return set()
    found = await toolbox.tools([f"{server}.*"])
    there = server in {status.name for status in await toolbox.servers(()) if status.connected}
    return {tool.own_name for tool in found if tool.server == server} if there else None


def _tools_of(
    steps: Iterable[Step], history: RunHistory, bindings: Bindings, own: Collection[str]
) -> list[Bound]:
    """The user's own tools that steps name, and those that the open questions are about."""
    names = [name for step in steps for name in (*tools_named_by(step), *_agents_of(step))]
    meant = [bound for n in names if (bound := bindings.meaning(n)) and bound.server in own]
    waiting = history.result.get("waiting") if history.status == "waiting" else None
    for question in cast("Sequence[Mapping[str, Any]]", waiting or ()):
        if (server := question.get("server")) in own and question.get("tool"):
            several = str(question["tool"]).split(", ")  # `tool_changed` is about several
            meant += [Bound(str(server), tool) for tool in several]
    return meant


def _unknown_agents(steps: Iterable[Step], known: set[str], bindings: Bindings) -> list[str]:
    """The sub-agents of steps that are not known, and that the run found on no server."""
    names = dict.fromkeys(name for step in steps for name in _agents_of(step))
    return [name for name in names if name not in known and not bindings.meaning(name)]


def _agents_of(step: Step) -> tuple[str, ...]:
    return (step.target,) if step.kind == "agent" and step.target else ()


def _whole(plan: Plan) -> list[Step]:
    """Every step, with those of included plans."""
    steps = list(plan.walk())
    return [*steps, *(inner for step in steps if step.plan for inner in _whole(step.plan))]


async def _may_be_of_server(toolbox: Toolbox, record: RunRecord, name: str) -> bool:
    """Whether a sub-agent is or was on a server, or may be on one that did not answer."""
    if _has(await toolbox.tools([name]), name):
        return True
    pins = pins_of(toolbox)
    for status in await toolbox.servers(()):
        if not status.listed:
            had = pins.known(status.name)
            if had is None or name.removeprefix(f"{status.name}.") in had:
                return True
    try:
        return _has(read_snapshot(record).tools, name)
    except NotRecorded:
        return False


def _has(tools: Iterable[ToolInfo], name: str) -> bool:
    return any(name in (tool.name, tool.own_name, tool.qualified_name) for tool in tools)


def _missing(history: RunHistory, tools: Sequence[str], agents: Sequence[str]) -> UsageError:
    """The error for missing parts, with the call that continues the run."""
    files = " or registries" if history.head.get("registries") else ""
    gone = [f"the tool `{name}`" for name in tools] + [f"the sub-agent `{name}`" for name in agents]
    keywords = [name for name, found in (("tools", tools), ("agents", agents)) if found]
    again = " and ".join(f"`{name}`" for name in keywords)
    call = ", ".join(f"{name}=…" for name in keywords)
    return UsageError(
        f"run {history.run} was started with {' and '.join(gone[:MOST_CHANGES])} of your "
        f"program{files}, which {'is' if len(gone) == 1 else 'are'} not here",
        hint=f"give {again} again: fractale.resume({history.run!r}, {call})",
    )
