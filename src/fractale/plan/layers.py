"""Boxes placed in layers, so that every given arrow leads down: grandalf's Sugiyama layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Point: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[float, float]

BESIDE, BELOW, BEND = 60, 46, 24.0


@dataclass(slots=True)
class Placed:
    """Where everything stands.

    Args:
        corners: The upper left corner of each box.
        ways: The points of each arrow, from the bottom of one box to the top of another.
    """

    width: float = 0.0
    height: float = 0.0
    corners: dict[str, Point] = field(default_factory=dict[str, Point])
    ways: dict[tuple[str, str], list[Point]] = field(
        default_factory=dict[tuple[str, str], list[Point]]
    )


class _View:
    """The size of a box, and where grandalf puts its middle."""

    def __init__(self, size: Size) -> None:
        self.w, self.h = size
        self.xy: Point = (0.0, 0.0)


class _Line:
    """Takes the points of an arrow from grandalf."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def setpath(self, points: list[Point]) -> None:
        self.points = list(points)


def place(boxes: Mapping[str, Size], ways: Sequence[tuple[str, str]]) -> Placed:
    """Place boxes in layers.

    Args:
        boxes: Name → width and height; the first is at the top, above all that nothing leads to.
        ways: Pairs of names, without a cycle and without two of the same.

    Raises:
        ImportError: grandalf is not installed.
    """
    from grandalf.graphs import Edge, Graph, Vertex
    from grandalf.layouts import SugiyamaLayout

    vertices: dict[str, Any] = {name: Vertex(name) for name in boxes}
    for name, size in boxes.items():
        vertices[name].view = _View(size)
    lines = {way: _Line() for way in ways}
    first = next(iter(boxes))
    reached = {target for _, target in ways} | {first}
    # grandalf lays out one connected graph: what nothing leads to hangs from the first box.
    loose = [(first, name) for name in boxes if name not in reached]
    edges: list[Any] = []
    for source, target in [*ways, *loose]:
        edge: Any = Edge(vertices[source], vertices[target])
        edge.view = lines.get((source, target)) or _Line()
        edges.append(edge)
    graph: Any = Graph(list(vertices.values()), edges)
    layout: Any = SugiyamaLayout(graph.C[0])
    layout.xspace, layout.yspace, layout.dw = BESIDE, BELOW, BEND
    layout.init_all(roots=[vertices[first]], inverted_edges=[])
    layout.draw()
    return _placed(boxes, {name: v.view.xy for name, v in vertices.items()}, lines)


def _placed(
    boxes: Mapping[str, Size],
    middles: Mapping[str, Point],
    lines: Mapping[tuple[str, str], _Line],
) -> Placed:
    """Move everything so that it starts at (0, 0)."""
    bends = [point for line in lines.values() for point in line.points[1:-1]]
    left = min([middles[n][0] - w / 2 for n, (w, _) in boxes.items()] + [x for x, _ in bends])
    top = min(middles[n][1] - h / 2 for n, (_, h) in boxes.items())
    placed = Placed()
    for name, (width, height) in boxes.items():
        x, y = middles[name][0] - width / 2 - left, middles[name][1] - height / 2 - top
        placed.corners[name] = (x, y)
        placed.width = max(placed.width, x + width)
        placed.height = max(placed.height, y + height)
    for (source, target), line in lines.items():
        inner = [(x - left, y - top) for x, y in line.points[1:-1]]
        start, end = placed.corners[source], placed.corners[target]
        placed.ways[source, target] = [
            (start[0] + boxes[source][0] / 2, start[1] + boxes[source][1]),
            *inner,
            (end[0] + boxes[target][0] / 2, end[1]),
        ]
        placed.width = max([placed.width, *(x for x, _ in inner)])
    return placed
