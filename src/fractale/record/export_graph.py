"""The graph of a run as Mermaid and as GraphML.

Nothing of what a plan or a model named can become syntax: ids are our own, labels are quoted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from xml.sax.saxutils import escape as xml_escape

from fractale.plain import to_json
from fractale.plan.draw import ENTITIES
from fractale.plan.escape import escape
from fractale.record.export import Edge, Node, RunGraph

XML_TYPES = {"str": "string", "int": "int", "float": "double", "bool": "boolean"}


def mermaid(graph: RunGraph) -> str:
    """The graph as a Mermaid flowchart: thick arrows were taken, dotted ones not."""
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
    """The nodes below one, those with an inside as subgraphs."""
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


def _label(node: Node) -> str:
    counts = [_times(node.visits)] if node.visits else []
    counts += [f"{node.failed} failed"] if node.failed else []
    counts += [f"{node.skipped} skipped"] if node.skipped else []
    rows = [node.name, f"{node.kind} {node.target}".strip(), ", ".join(counts) or "not visited"]
    return _quoted(*rows)


def _times(number: int) -> str:
    return f"{number}\u00d7"


def _quoted(*rows: str) -> str:
    return '"' + "<br/>".join(escape(row, 120).translate(ENTITIES) for row in rows) + '"'


def _class(node: Node) -> str:
    if node.kind in ("start", "end"):
        return ""
    if not node.visits:
        return "unseen"
    return "bad" if node.failed else "ok"


def _arrow(edge: Edge, ids: dict[str, str]) -> str:
    words = "" if edge.event == "start" else edge.event
    if edge.taken > 1:
        words = f"{words} {_times(edge.taken)}".strip()
    label = f"|{_quoted(words)}|" if words else ""
    line = "==>" if edge.taken else "-.->"
    return f"    {ids[edge.source]} {line}{label} {ids[edge.target]}"


def graphml(graph: RunGraph) -> str:
    """The graph as GraphML, which Gephi, yEd, NetworkX and igraph read."""
    keys: list[str] = []
    for kind, made in (("node", Node), ("edge", Edge)):
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


def _xml_node(node: Node, name: str) -> Iterator[str]:
    yield f'    <node id="{name}">'
    for key, value in asdict(node).items():
        yield f'      <data key="node_{key}">{_xml(value)}</data>'
    yield "    </node>"


def _xml_edge(edge: Edge, ids: dict[str, str]) -> Iterator[str]:
    yield f'    <edge source="{ids[edge.source]}" target="{ids[edge.target]}">'
    yield f'      <data key="edge_event">{_xml(edge.event)}</data>'
    yield f'      <data key="edge_taken">{edge.taken}</data>'
    yield "    </edge>"


def _xml(value: object) -> str:
    """A value as XML text; XML has no letters for control characters, escaped or not."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return xml_escape(escape(str(value)), {'"': "&quot;"})
