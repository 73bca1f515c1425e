"""A run for research: its graph with the transitions that were taken.

The graph can be written as JSON, Mermaid or GraphML, and the transitions as lines of JSON. Names
from a plan or a model cannot become syntax: ids are generated, and labels are quoted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from xml.sax.saxutils import escape as xml_escape

from fractale.errors import PlanError
from fractale.plain import to_json
from fractale.plan.build import parse_plan
from fractale.plan.draw import ENTITIES
from fractale.plan.escape import escape
from fractale.plan.model import END_FAILED, END_SUCCESS, FAILURE, SUCCESS, Plan, Step
from fractale.plan.paths import without_indexes
from fractale.record.history import RecordedAttempt, RunHistory, attempt_data, results_of
from fractale.record.plans import plan_of

START = "start"
ENDS = (END_SUCCESS, END_FAILED)
XML_TYPES = {"str": "string", "int": "int", "float": "double", "bool": "boolean"}
ATTEMPT_FIELDS = (
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
    "reused",
    "calls",
    "items",
    "questions",
    "warnings",
)
"""Fields of the attempt that a transition ends."""


@dataclass(slots=True, kw_only=True)
class GraphNode:
    """A step, or the start or an end of a plan.

    Args:
        id: The step's path; the items of a foreach are one step.
        kind: Of the step; ``start`` or ``end``.
        parent: The step around it; empty at the top.
        drafted: Whether a model wrote it.
        succeeded, failed, skipped: The number of its attempts with this outcome.
    """

    id: str
    name: str
    kind: str
    target: str = ""
    parent: str = ""
    drafted: bool = False
    visits: int = 0  # its attempts, without skipped ones
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    tokens: int = 0
    cost: float = 0.0


@dataclass(slots=True, kw_only=True)
class GraphEdge:
    """A transition on an event, and how often it was taken."""

    source: str
    target: str
    event: str
    taken: int = 0


@dataclass(slots=True)
class RunGraph:
    """The graph of a run.

    Args:
        complete: Whether the plan was found; otherwise the graph has only the steps that ran.
    """

    run: str
    plan: str
    complete: bool
    nodes: dict[str, GraphNode] = field(default_factory=dict[str, GraphNode])
    edges: dict[tuple[str, str, str], GraphEdge] = field(
        default_factory=dict[tuple[str, str, str], GraphEdge]
    )

    def add_node(self, node: GraphNode) -> GraphNode:
        """Add a node unless its id is known; returns the node of that id."""
        return self.nodes.setdefault(node.id, node)

    def add_edge(self, source: str, event: str, target: str) -> GraphEdge:
        """Add an edge unless it is known; returns it."""
        edge = GraphEdge(source=source, target=target, event=event)
        return self.edges.setdefault((source, event, target), edge)

    def add_end(self, prefix: str, name: str) -> str:
        """Add the start or an end of a plan; returns its id."""
        kind = START if name == START else "end"
        node = GraphNode(id=prefix + name, name=name, kind=kind, parent=prefix.removesuffix("/"))
        return self.add_node(node).id


def graph_of(history: RunHistory) -> RunGraph:
    """The graph of a run: its plan and drafts, with how often each part was used."""
    plan = plan_of(history.record, history.head)
    graph = RunGraph(history.run, str(history.head.get("plan")), complete=plan is not None)
    if plan is not None:
        _add_plan(graph, plan, "")
    for path, text in history.drafts.items():
        prefix = f"{without_indexes(path)}/"
        if (draft := _draft(text, path)) is not None:
            _add_plan(graph, draft, prefix, drafted=True)
    for attempt in history.attempts:
        _add_attempt(graph, attempt)
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
    for name, handler in plan.handlers.items():
        _add_handler(graph, name, prefix)
        _add_plan(graph, handler, f"{prefix}{name}/", drafted=drafted)


def _add_handler(graph: RunGraph, name: str, prefix: str) -> None:
    """A node that groups the steps of a handler of the plan."""
    parent = prefix.removesuffix("/")
    graph.add_node(GraphNode(id=prefix + name, name=name, kind="handler", parent=parent))


def _add_step(graph: RunGraph, step: Step, prefix: str, *, drafted: bool) -> None:
    path = prefix + step.name
    graph.add_node(
        GraphNode(
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
    if step.inner is not None:
        _add_plan(graph, step.inner, f"{path}/", drafted=drafted)


def _add_transition(
    graph: RunGraph, prefix: str, source: str, event: str, target: str
) -> GraphEdge:
    end = graph.add_end(prefix, target) if target in ENDS else prefix + target
    return graph.add_edge(prefix + source, event, end)


def _add_attempt(graph: RunGraph, attempt: RecordedAttempt) -> None:
    path = without_indexes(attempt.path)
    parent, _, name = path.rpartition("/")
    node = graph.add_node(
        GraphNode(id=path, name=name, kind=attempt.kind, target=attempt.target or "", parent=parent)
    )
    node.visits += attempt.outcome != "skipped"
    node.succeeded += attempt.outcome == SUCCESS
    node.failed += attempt.outcome == FAILURE
    node.skipped += attempt.outcome == "skipped"
    node.seconds = round(node.seconds + (attempt.seconds or 0.0), 3)
    node.tokens += attempt.tokens
    node.cost = round(node.cost + attempt.cost, 6)
    if attempt.handler and parent in graph.nodes:
        graph.nodes[parent].visits = max(graph.nodes[parent].visits, attempt.number)
    prefix = f"{parent}/" if parent else ""
    if attempt.next:
        _add_transition(graph, prefix, name, attempt.event or SUCCESS, attempt.next).taken += 1
    begins = attempt.previous is None or (
        attempt.handler and f"{prefix}{attempt.previous}" not in graph.nodes
    )
    if begins and attempt.kind and not _beside_others(graph, parent):
        graph.add_edge(graph.add_end(prefix, START), START, path).taken += 1


def _beside_others(graph: RunGraph, parent: str) -> bool:
    """Whether a step is in a parallel block, in which no step leads to another."""
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
    """Every transition of a run, in the order in which they were taken.

    An attempt that did not end is left out. A step of a parallel block leads to no other step: its
    `to` is null.
    """
    results = results_of(history.record, history.calls())
    ended = [attempt for attempt in history.attempts if attempt.ended is not None]
    for number, attempt in enumerate(sorted(ended, key=lambda v: v.ended or 0.0), 1):
        data = attempt_data(history, attempt, results)
        prefix = attempt.path.removesuffix(attempt.name)
        yield {
            "run": history.run,
            "plan": history.head.get("plan"),
            "plan_hash": history.head.get("plan_hash"),
            "number": number,
            "from": attempt.path,
            "event": attempt.event,
            "to": f"{prefix}{attempt.next}" if attempt.next else None,
            "came_from": f"{prefix}{attempt.previous}" if attempt.previous else None,
            "type": attempt.kind,
            "visit": attempt.number,
            "models": attempt.models,
            **{key: data[key] for key in ATTEMPT_FIELDS},
        }


def transition_lines(history: RunHistory) -> Iterator[str]:
    """Every transition as a line of JSON."""
    for each in transitions(history):
        yield to_json(each, default=str)


# -- as Mermaid and as GraphML ------------------------------------------------------------------


def mermaid(graph: RunGraph) -> str:
    """The graph as a Mermaid flowchart: thick arrows were taken, dotted arrows were not."""
    ids = {path: f"n{number}" for number, path in enumerate(graph.nodes, 1)}
    title = to_json(f"{escape(graph.plan, 200)}, run {graph.run}")
    lines = ["---", f"title: {title}", "---", "flowchart TD"]
    lines += _level(graph, ids, "", "    ")
    lines += [_arrow(edge, ids) for edge in graph.edges.values()]
    for name, style in (
        ("ok", "stroke:#2a7d2a,stroke-width:2px"),
        ("bad", "stroke:#b02020,stroke-width:2px"),
        ("unseen", "stroke-dasharray:4 4,color:#888"),
    ):
        lines.append(f"    classDef {name} {style}")
    lines += [f"    class {ids[path]} {_class(n)}" for path, n in graph.nodes.items() if _class(n)]
    return "\n".join(lines) + "\n"


def _level(graph: RunGraph, ids: dict[str, str], parent: str, indent: str) -> Iterator[str]:
    """The nodes below one; those with steps inside are subgraphs."""
    inside = {node.parent for node in graph.nodes.values()}
    for path, node in graph.nodes.items():
        if node.parent != parent:
            continue
        if path in inside:
            yield f"{indent}subgraph {ids[path]}[{_label(node)}]"
            yield from _level(graph, ids, path, indent + "    ")
            yield f"{indent}end"
        elif node.kind in ("start", "end"):
            yield f"{indent}{ids[path]}([{_quoted(node.name)}])"
        else:
            yield f"{indent}{ids[path]}[{_label(node)}]"


def _label(node: GraphNode) -> str:
    counts = [_times(node.visits)] if node.visits else []
    counts += [f"{node.failed} failed"] if node.failed else []
    counts += [f"{node.skipped} skipped"] if node.skipped else []
    rows = [node.name, f"{node.kind} {node.target}".strip(), ", ".join(counts) or "not reached"]
    return _quoted(*rows)


def _times(number: int) -> str:
    return f"{number}\u00d7"


def _quoted(*rows: str) -> str:
    return '"' + "<br/>".join(escape(row, 120).translate(ENTITIES) for row in rows) + '"'


def _class(node: GraphNode) -> str:
    if node.kind in ("start", "end"):
        return ""
    if not node.visits:
        return "unseen"
    return "bad" if node.failed else "ok"


def _arrow(edge: GraphEdge, ids: dict[str, str]) -> str:
    words = "" if edge.event == "start" else edge.event
    if edge.taken > 1:
        words = f"{words} {_times(edge.taken)}".strip()
    label = f"|{_quoted(words)}|" if words else ""
    line = "==>" if edge.taken else "-.->"
    return f"    {ids[edge.source]} {line}{label} {ids[edge.target]}"


def graphml(graph: RunGraph) -> str:
    """The graph as GraphML, which Gephi, yEd, NetworkX and igraph read."""
    keys: list[str] = []
    for kind, made in (("node", GraphNode), ("edge", GraphEdge)):
        for each in fields(made):
            if each.name not in ("id", "source", "target") or kind == "node":
                name = f"{kind}_{each.name}"
                attr = XML_TYPES[str(each.type)]
                keys.append(
                    f'  <key id="{name}" for="{kind}" attr.name="{each.name}" attr.type="{attr}"/>'
                )
    ids = {path: f"n{number}" for number, path in enumerate(graph.nodes, 1)}
    body = [line for path, node in graph.nodes.items() for line in _xml_node(node, ids[path])]
    body += [line for edge in graph.edges.values() for line in _xml_edge(edge, ids)]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
            *keys,
            f'  <graph id="run_{_xml(graph.run)}" edgedefault="directed">',
            *body,
            "  </graph>",
            "</graphml>",
            "",
        ]
    )


def _xml_node(node: GraphNode, name: str) -> Iterator[str]:
    yield f'    <node id="{name}">'
    for key, value in asdict(node).items():
        yield f'      <data key="node_{key}">{_xml(value)}</data>'
    yield "    </node>"


def _xml_edge(edge: GraphEdge, ids: dict[str, str]) -> Iterator[str]:
    yield f'    <edge source="{ids[edge.source]}" target="{ids[edge.target]}">'
    yield f'      <data key="edge_event">{_xml(edge.event)}</data>'
    yield f'      <data key="edge_taken">{edge.taken}</data>'
    yield "    </edge>"


def _xml(value: object) -> str:
    """A value as XML text, without the control characters that XML does not allow."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return xml_escape(escape(str(value)), {'"': "&quot;"})
