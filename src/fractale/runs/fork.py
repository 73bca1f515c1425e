"""Forks: what a run knew just before it entered a step, taken from its checkpoints.

A fork does not go on with the checkpoints of the run that it comes from. It takes the *values*
of one of them, and starts a thread of its own with these, at the step. So that run is only read,
and the plan may have changed since, as long as it has the step.

Where a step lies inside another, LangGraph keeps the graph around it under a namespace of its
own: the names of the nodes around, each with its task. The checkpoint of an inner graph says
which one of each graph around it belongs to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from fractale.errors import StoreError, UsageError
from fractale.graph.compile import way_to
from fractale.graph.entry import Entry
from fractale.graph.state import Record
from fractale.plan.model import Plan
from fractale.record.history import RunHistory, Visit
from fractale.record.plans import plan_of
from fractale.text import did_you_mean

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

RUN_DRAFT = "run"
"""The node of a planned step that runs its draft."""
DRAFT_PARTS = ("text", "said", "shown", "tries", "rounds", "accepted", "sources")
SENT = "__pregel_tasks"
"""LangGraph's channel of what is sent to nodes without an edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """A place in a run where a fork can begin.

    Args:
        path: Of the step.
        visit: Which visit of the step in that run, from 1, as `fractale show` counts.
        entry: What was known there.
        at: When the run came there, in Unix time; None: at its end.
    """

    path: str
    visit: int
    entry: Entry
    at: float | None = None

    def parent(self, run: str) -> dict[str, Any]:
        """What the record of a fork says of the run that it comes from."""
        return {"run": run, "step": self.path, "attempt": self.visit}


@dataclass(frozen=True, slots=True)
class _Graph:
    """One of the graphs that lie within each other around a step.

    Args:
        node: The node of it that leads on to the step.
        step: The step of a plan that this node is part of the way to.
        attempt: Which visit of that step; None: any.
        draft: Whether it is the graph of a planned step, not of a plan.
    """

    node: str
    step: str = ""
    attempt: int | None = None
    draft: bool = False


async def find_point(saver: BaseCheckpointSaver[Any], history: RunHistory, at: str) -> ForkPoint:
    """The place where a fork of a run begins.

    Args:
        saver: With the run's checkpoints, which are only read.
        at: The step's name or path, and where it is not the last visit, its number: ``run#2``.

    Raises:
        UsageError: The run did not come to the step, or not so often; or it is none that a run
            can be entered at.
        StoreError: The run's plan or its checkpoints are gone.
    """
    path, _, number = at.partition("#")
    visits = _visits(history, path)
    if number and not (number.isdecimal() and 0 < int(number) <= len(visits)):
        times = "never entered" if not visits else f"entered {len(visits)} times"
        raise UsageError(
            f"--at {at}: there is no such visit in run {history.run}",
            hint=f"`{path}` was {times}; see `fractale show {history.run}`",
        )
    visit = visits[int(number or 0) - 1] if visits else None
    graphs = _graphs(history, visit, path)
    found = [c async for c in _candidates(saver, history.run, graphs)]
    if not found:
        raise _no_checkpoint(history, path) if visit else did_not_come(history, path)
    # A visit that was skipped is not counted: the ones after it have the same number.
    alike = [v for v in visits if visit and _place(v) == _place(visit)]
    behind = len(alike) - alike.index(visit) if visit else 1
    chosen = found[-min(behind, len(found))]
    return ForkPoint(
        path=visit.path if visit else path,
        visit=visit.number if visit else 1,
        entry=_entry(graphs, chosen),
        at=visit.started if visit else None,
    )


def _place(visit: Visit) -> tuple[Any, ...]:
    around = visit.parent
    return (visit.attempt, *((around.path, around.number) if around else ()))


def _visits(history: RunHistory, path: str) -> list[Visit]:
    """The visits of a step, given by its path or its name.

    Raises:
        UsageError: Several steps have the name, or a fork can't begin at the step.
    """
    visits = history.of_step(path)
    paths = list(dict.fromkeys(visit.path for visit in visits))
    if any("[" in each for each in paths):
        block = paths[0].partition("[")[0]
        raise UsageError(
            f"`{path}` runs once for each item of `{block}`: a fork can't begin inside of one",
            hint=f"fork the run where all items begin: --at {block}",
        )
    if len(paths) > 1:
        raise UsageError(f"several steps are named `{path}`", hint=f"one of: {', '.join(paths)}")
    for visit in visits[:1]:
        _check_parents(visit)
    return visits


def _check_parents(visit: Visit) -> None:
    around = visit.parent
    while around is not None:
        if around.kind == "parallel":
            raise UsageError(
                f"`{visit.path}` runs beside other steps of its block: a fork can't begin there",
                hint=f"fork the run at the block: --at {around.path}",
            )
        around = around.parent


def did_not_come(history: RunHistory, path: str) -> UsageError:
    """What to say where a run did not come to a step."""
    run, parent = history.run, history.head.get("parent")
    plan = plan_of(history.folder, history.head)
    if parent and plan and path.partition("/")[0] in {step.name for step in plan.walk()}:
        there = (history.folder.path.parent / parent["run"]).is_dir()
        way = f"fractale fork {parent['run']} --at {path}"
        gone = f"run {parent['run']} itself is gone: it was removed"
        return UsageError(
            f"run {run} was forked from {parent['run']} at `{parent['step']}`, and did not come "
            f"to `{path}` itself",
            hint=f"fork that run: {way}" if there else gone,
        )
    paths = [p for p in history.paths() if "[" not in p]
    came = f"it came to: {', '.join(paths[:20])}" if paths else "it came to no step at all"
    return UsageError(
        f"run {run} did not come to a step `{path}`",
        hint=did_you_mean(path, paths, otherwise=came),
    )


def _no_checkpoint(history: RunHistory, path: str) -> StoreError:
    return StoreError(
        f"run {history.run} has no checkpoint from before `{path}`",
        hint="its checkpoints were lost, or are in another store: see `fractale config`",
    )


# -- the graphs around a step -------------------------------------------------------------------


def _graphs(history: RunHistory, visit: Visit | None, path: str) -> list[_Graph]:
    """The graphs around a step, the run's own first."""
    plan = plan_of(history.folder, history.head)
    if plan is None:
        raise StoreError(
            f"the plan of run {history.run} has changed since, or is gone",
            hint="put it back as it was, or fork a newer run",
        )
    chain = [visit] if visit else []
    while chain and chain[0].parent is not None:
        chain.insert(0, chain[0].parent)
    wanted: list[tuple[str, int | None]] = [(v.name, v.attempt) for v in chain]
    try:
        return list(_along(plan, wanted or [(path, None)]))
    except KeyError:
        raise did_not_come(history, path) from None


def _along(plan: Plan | None, wanted: Sequence[tuple[str, int | None]]) -> Iterator[_Graph]:
    """The graphs that lead from a plan to a step inside of it; a draft is never a long plan."""
    (name, attempt), *inside = wanted
    for node in way_to(plan, name) if plan else [name]:
        yield _Graph(node, name, attempt)
    if inside:
        below = plan.step(name).plan if plan else None
        if below is None:
            yield _Graph(RUN_DRAFT, draft=True)
        yield from _along(below, inside)


# -- the checkpoints ----------------------------------------------------------------------------


async def _candidates(
    saver: BaseCheckpointSaver[Any], run: str, graphs: Sequence[_Graph]
) -> AsyncIterator[list[dict[str, Any]]]:
    """The values of all graphs, the run's own first, each time the step was about to be entered.

    The oldest come first.
    """
    *around, _ = graphs
    names = [graph.node for graph in around]
    fields = {"thread_id": run} if names else {"thread_id": run, "checkpoint_ns": ""}
    found = [
        checkpoint
        async for checkpoint in saver.alist({"configurable": fields})
        if _names(checkpoint) == names and _about_to_enter(checkpoint, graphs[-1].node)
    ]
    for checkpoint in sorted(found, key=lambda c: str(c.checkpoint["id"])):
        values = [*await _around(saver, run, checkpoint), _values(checkpoint)]
        if _is_visit(graphs, values):
            yield values


def _names(checkpoint: CheckpointTuple) -> list[str]:
    """The nodes around a checkpoint's graph."""
    space = str(checkpoint.config.get("configurable", {}).get("checkpoint_ns", ""))
    return [part.partition(":")[0] for part in space.split("|")] if space else []


def _about_to_enter(checkpoint: CheckpointTuple, node: str) -> bool:
    """Whether the node runs next: by an edge, by a jump, or because it was sent something."""
    channels = checkpoint.checkpoint["channel_values"]
    edge = f"branch:to:{node}"
    jumps = [channel for _, channel, _ in checkpoint.pending_writes or ()]
    sent = [getattr(each, "node", None) for each in channels.get(SENT) or ()]
    return edge in channels or edge in jumps or node in sent


async def _around(
    saver: BaseCheckpointSaver[Any], run: str, checkpoint: CheckpointTuple
) -> list[dict[str, Any]]:
    """The values of the graphs around that of a checkpoint, when it was made."""
    above = cast("Mapping[str, str]", checkpoint.metadata.get("parents") or {})
    found: list[dict[str, Any]] = []
    for space in sorted(above, key=len):
        fields = {"thread_id": run, "checkpoint_ns": space, "checkpoint_id": above[space]}
        outer = await saver.aget_tuple({"configurable": fields})
        found.append(_values(outer) if outer else {})
    return found


def _values(checkpoint: CheckpointTuple) -> dict[str, Any]:
    return dict(checkpoint.checkpoint["channel_values"])


def _is_visit(graphs: Sequence[_Graph], values: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the values are those before the visits that the graphs say."""
    if len(graphs) != len(values):
        return False
    return all(
        graph.attempt is None
        or graph.node != graph.step
        or known.get("steps", {}).get(graph.step, {}).get("attempts", 0) + 1 == graph.attempt
        for graph, known in zip(graphs, values, strict=True)
    )


# -- what was known -----------------------------------------------------------------------------


def _entry(graphs: Sequence[_Graph], values: Sequence[Mapping[str, Any]]) -> Entry:
    """What was known in each of the plans, from the values of their graphs."""
    graph, known = graphs[0], values[0]
    records: dict[str, Record] = dict(known.get("steps", {}))
    last, at = known.get("last"), 1
    while graph.node != graph.step:  # a segment knows what came after the graph around it
        graph, known = graphs[at], values[at]
        records |= known.get("steps", {})
        last, at = known.get("last", last), at + 1
    draft: dict[str, Any] | None = None
    if at < len(graphs) and graphs[at].draft:
        draft = {key: values[at][key] for key in DRAFT_PARTS if key in values[at]}
        at += 1
    return Entry(
        step=graph.step,
        attempt=records.get(graph.step, Record()).get("attempts", 0) + 1,
        records={name: _inherited(record) for name, record in records.items()},
        last=last,
        inside=_entry(graphs[at:], values[at:]) if at < len(graphs) else None,
        draft=draft,
    )


def _inherited(record: Record) -> Record:
    made = record.get("attempts", 0)
    return cast("Record", {**record, "inherited": made}) if made else record


def innermost(entry: Entry) -> Entry:
    """What was known in the plan that the step itself is part of."""
    return innermost(entry.inside) if entry.inside else entry


def with_innermost(entry: Entry, records: Mapping[str, Record]) -> Entry:
    """The same place with other records in the plan that the step itself is part of."""
    if entry.inside:
        return replace(entry, inside=with_innermost(entry.inside, records))
    return replace(entry, records=records)
