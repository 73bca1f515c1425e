"""A run for research: its graph with what was taken of it, and every transition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from fractale.errors import PlanError
from fractale.plain import to_json
from fractale.plan.build import parse_plan
from fractale.plan.model import END_FAILED, END_SUCCESS, FAILURE, SUCCESS, Plan, Step
from fractale.record.history import RunHistory, Visit, without_indexes
from fractale.record.history_values import resolve, results_of, visit_data
from fractale.record.plans import plan_of

START = "start"
ENDS = (END_SUCCESS, END_FAILED)


@dataclass(slots=True, kw_only=True)
class Node:
    """A step, or the start or an end of a plan.

    Args:
        id: The step's path; the items of a foreach are one step.
        kind: Of the step; ``start`` or ``end``.
        parent: The step around it; empty at the top.
        drafted: Whether a model wrote it.
        visits: How often it was entered, and `succeeded`, `failed`, `skipped`: with which end.
    """

    id: str
    name: str
    kind: str
    target: str = ""
    parent: str = ""
    drafted: bool = False
    visits: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    tokens: int = 0
    cost: float = 0.0


@dataclass(slots=True, kw_only=True)
class Edge:
    """A transition: from where, on which event, to where, and how often it was taken."""

    source: str
    target: str
    event: str
    taken: int = 0


@dataclass(slots=True)
class RunGraph:
    """The graph of a run.

    Args:
        complete: Whether the plan was there; else the graph is only of what was taken.
    """

    run: str
    plan: str
    complete: bool
    nodes: dict[str, Node] = field(default_factory=dict[str, Node])
    edges: dict[tuple[str, str, str], Edge] = field(
        default_factory=dict[tuple[str, str, str], Edge]
    )

    def add_node(self, node: Node) -> Node:
        """Add a node, if there is none of its id; returns the one that is there."""
        return self.nodes.setdefault(node.id, node)

    def add_edge(self, source: str, event: str, target: str) -> Edge:
        """Add an edge, if it is not there; returns the one that is."""
        edge = Edge(source=source, target=target, event=event)
        return self.edges.setdefault((source, event, target), edge)

    def add_end(self, prefix: str, name: str) -> str:
        """Add the start or an end of a plan; returns its id."""
        kind = START if name == START else "end"
        node = Node(id=prefix + name, name=name, kind=kind, parent=prefix.removesuffix("/"))
        return self.add_node(node).id


def graph_of(history: RunHistory) -> RunGraph:
    """The graph of a run: the plan's with its drafts, and how often each part was taken."""
    plan = plan_of(history.folder, history.head)
    graph = RunGraph(history.run, str(history.head.get("plan")), complete=plan is not None)
    if plan is not None:
        _add_plan(graph, plan, "")
    for path, text in history.drafts.items():
        prefix = f"{without_indexes(path)}/"
        if (draft := _draft(text, path)) is not None:
            _add_plan(graph, draft, prefix, drafted=True)
    for visit in history.visits:
        _add_visit(graph, visit)
    return graph


def _draft(text: str, path: str) -> Plan | None:
    try:
        return parse_plan(text, f"draft of {path}")
    except PlanError:
        return None


def _add_plan(graph: RunGraph, plan: Plan, prefix: str, *, drafted: bool = False) -> None:
    for step in plan.steps:
        _add_step(graph, step, prefix, drafted=drafted)
    graph.add_edge(graph.add_end(prefix, START), START, prefix + plan.steps[0].name)
    for step in plan.steps:
        events = [SUCCESS, *step.transitions, *(rule.event for rule in step.rules)]
        for event in dict.fromkeys(events):
            _add_transition(graph, prefix, step.name, event, plan.target_of(step, event))


def _add_step(graph: RunGraph, step: Step, prefix: str, *, drafted: bool) -> None:
    path = prefix + step.name
    graph.add_node(
        Node(
            id=path,
            name=step.name,
            kind=step.kind,
            target=step.target or "",
            parent=prefix.removesuffix("/"),
            drafted=drafted,
        )
    )
    for inner in step.steps:
        _add_step(graph, inner, f"{path}/", drafted=drafted)
    if step.plan is not None:
        _add_plan(graph, step.plan, f"{path}/", drafted=drafted)


def _add_transition(graph: RunGraph, prefix: str, source: str, event: str, target: str) -> Edge:
    end = graph.add_end(prefix, target) if target in ENDS else prefix + target
    return graph.add_edge(prefix + source, event, end)


def _add_visit(graph: RunGraph, visit: Visit) -> None:
    path = without_indexes(visit.path)
    parent, _, name = path.rpartition("/")
    node = graph.add_node(
        Node(id=path, name=name, kind=visit.kind, target=visit.target or "", parent=parent)
    )
    node.visits += visit.outcome != "skipped"
    node.succeeded += visit.outcome == SUCCESS
    node.failed += visit.outcome == FAILURE
    node.skipped += visit.outcome == "skipped"
    node.seconds = round(node.seconds + (visit.seconds or 0.0), 3)
    node.tokens += visit.tokens
    node.cost = round(node.cost + visit.cost, 6)
    prefix = f"{parent}/" if parent else ""
    if visit.next:
        _add_transition(graph, prefix, name, visit.event or SUCCESS, visit.next).taken += 1
    if visit.previous is None and visit.kind and not _beside_others(graph, parent):
        graph.add_edge(graph.add_end(prefix, START), START, path).taken += 1


def _beside_others(graph: RunGraph, parent: str) -> bool:
    """Whether a step stands in a parallel block, where no step leads to another."""
    return parent in graph.nodes and graph.nodes[parent].kind == "parallel"


def graph_data(graph: RunGraph) -> dict[str, Any]:
    """A graph as JSON, in the node-link form that NetworkX and others read."""
    return {
        "directed": True,
        "multigraph": True,
        "graph": {"run": graph.run, "plan": graph.plan, "complete": graph.complete},
        "nodes": [asdict(node) for node in graph.nodes.values()],
        "edges": [{**asdict(edge), "key": edge.event} for edge in graph.edges.values()],
    }


def transitions(history: RunHistory) -> Iterator[dict[str, Any]]:
    """Every transition of a run, in the order in which they were taken: a mapping each.

    A visit without an end led nowhere and is left out. A step of a parallel block has an end, but
    leads to no other step: its `to` is null.
    """
    results = results_of(history.folder, history.calls())
    ended = [visit for visit in history.visits if visit.ended is not None]
    for number, visit in enumerate(sorted(ended, key=lambda v: v.ended or 0.0), 1):
        data = visit_data(history, visit, results)
        prefix = visit.path.removesuffix(visit.name)
        yield {
            "run": history.run,
            "plan": history.head.get("plan"),
            "plan_hash": history.head.get("plan_hash"),
            "number": number,
            "from": visit.path,
            "event": visit.event,
            "to": f"{prefix}{visit.next}" if visit.next else None,
            "came_from": f"{prefix}{visit.previous}" if visit.previous else None,
            "type": visit.kind,
            "visit": visit.number,
            "models": visit.models,
            **{key: data[key] for key in TOLD},
        }


TOLD = (
    "target",
    "attempt",
    "outcome",
    "decided_by",
    "reason",
    "error",
    "code",
    "started",
    "ended",
    "seconds",
    "tokens",
    "cost",
    "inputs",
    "outputs",
    "outputs_cut",
    "calls",
    "items",
    "questions",
    "warnings",
)
"""What a transition tells of the visit that it ends."""


def transition_lines(history: RunHistory) -> Iterator[str]:
    """Every transition as a line of JSON."""
    for each in transitions(history):
        yield to_json(each, default=str)


def input_values(history: RunHistory) -> dict[str, Any]:
    """The inputs that the run was started with, in full; secret ones are not kept."""
    return {name: resolve(history.folder, value) for name, value in history.inputs.items()}
