"""A plan as a picture: boxes placed in layers by grandalf, written as SVG, drawn as PNG.

The inside of a parallel block or an included plan is laid out first. It is one box in the plan
around it. Arrows that lead back run in lanes at the right, so that the forward path stays readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from xml.sax.saxutils import escape as xml_escape

from fractale.errors import DependencyMissing
from fractale.plan.diagram import (
    HANDLER_END,
    HANDLER_TITLES,
    UNDRAWN,
    Arrow,
    arrows,
    drawn_handlers,
    fails_silently,
    notes,
    title_of,
)
from fractale.plan.escape import cells, escape, fit, fold
from fractale.plan.kinds import KINDS
from fractale.plan.model import Plan, Step
from fractale.plan.rules import END_FAILED, END_SUCCESS
from fractale.plan.way import Way

Point: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[float, float]

INSTALL = "pip install 'fractale[draw]'"
FONTS = "Lato, 'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif"
CHARACTER = 7.4
"""Width of a character of the text in a box, large enough for the widest of `FONTS`."""
ROW, MARGIN, GAP, LANE = 17.0, 24.0, 16.0, 22.0
BESIDE, BELOW, BEND = 60, 46, 24.0
LINE_LIMIT = 44
STATE_COLORS = {END_SUCCESS: "#2e7d32", END_FAILED: "#b3261e"}
STYLE = (
    f"text{{font-family:{FONTS};font-size:12px;fill:#1b1b1b}}"
    ".name{font-weight:bold;font-size:13px}.end{text-anchor:middle}.minor{fill:#555}"
    ".label{font-size:11px;fill:#333;paint-order:stroke;stroke:#fff;stroke-width:4px}"
    ".box{fill:#f6f7f9;stroke:#555}.group{fill:#fff;stroke:#888;stroke-dasharray:5 3}"
    ".way{fill:none;stroke:#444;stroke-width:1.3}.failing{stroke-dasharray:4 3}"
)


@dataclass(slots=True)
class Box:
    """One step or end: its text and, for a composite step, the drawing inside."""

    key: str
    rows: list[str]
    shape: str
    inside: Drawing | None = None
    width: float = 0.0
    height: float = 0.0

    def __post_init__(self) -> None:
        words = max(cells(row) for row in self.rows) * CHARACTER + 28
        self.width = max(words, self.inside.width + 2 * GAP if self.inside else 0.0)
        self.height = len(self.rows) * ROW + 16 + (self.inside.height + 8 if self.inside else 0.0)


@dataclass(slots=True)
class Drawing:
    """SVG elements with their size, starting at (0, 0)."""

    width: float
    height: float
    elements: list[str] = field(default_factory=list[str])


def svg(plan: Plan, way: Way | None = None, *, page: bool = False) -> str:
    """The plan as an SVG document.

    Args:
        way: The way of a run, which marks the boxes and the arrows.
        page: Whether it becomes a part of an HTML page: without a background, with colors by
            the page's style, and each box a link to ``#step-PATH``.

    Raises:
        DependencyMissing: grandalf is not installed.
    """
    body = _draw_plan(plan)
    title = fold(title_of(plan), 70)
    top = MARGIN + len(title) * 20 + 6
    note = [UNDRAWN] if fails_silently(plan) else []
    words = max(cells(row) for row in [*title, *note]) * CHARACTER
    width = max(body.width, words) + 2 * MARGIN
    height = top + body.height + MARGIN + len(note) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{xml_escape(title_of(plan))}</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0.5L8 4L0 7.5z" fill="#444"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        *(_text(MARGIN, MARGIN + 12 + 20 * i, row, "name") for i, row in enumerate(title)),
        f'<g transform="translate({(width - body.width) / 2:.1f} {top:.1f})">',
        *body.elements,
        "</g>",
        *(_text(MARGIN, height - MARGIN + 6, row, "minor") for row in note),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def png(plan: Plan) -> bytes:
    """The plan as a PNG, two pixels per unit of the SVG.

    Raises:
        DependencyMissing: grandalf or resvg-py is not installed, or no font was found.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise missing("resvg-py") from error
    fonts = [str(path) for path in packaged_fonts()]

    def render(source: str) -> bytes:
        return resvg_py.svg_to_bytes(svg_string=source, zoom=2, font_files=fonts)

    probe = f'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><style>{STYLE}</style>'
    if render(f"{probe}{_text(2, 15, 'M', 'name')}</svg>") == render(f"{probe}</svg>"):
        raise DependencyMissing(
            "a PNG needs a font, and this machine has none",
            hint="`pip install font-lato` brings one; an SVG needs none",
        )
    return render(svg(plan))


def packaged_fonts() -> list[Path]:
    """The font files of the package font-lato; empty if it is not installed."""
    found = find_spec("font_lato")
    if found is None or found.origin is None:
        return []
    directory = Path(found.origin).parent / "files"
    return [directory / f"Lato-{name}.ttf" for name in ("Regular", "Bold")]


def missing(package: str) -> DependencyMissing:
    """The error for a package of the extra `draw` that is not installed."""
    return DependencyMissing(f"drawing a picture needs {package}", hint=INSTALL)


def _draw_plan(plan: Plan, end: str = END_SUCCESS) -> Drawing:
    boxes = {"start": Box("start", ["start"], "end")}
    for step in plan.steps:
        boxes[f"step {step.name}"] = _box(step)
    going = {f"step {step.name}": arrows(plan, step) for step in plan.steps}
    for arrow in (a for leaving in going.values() for a in leaving):
        key = _key(plan, arrow)
        if key not in boxes:
            boxes[key] = _end(arrow, end)
    ways = [EdgePath("start", f"step {plan.steps[0].name}", "")]
    for source, leaving in going.items():
        ways += _ways(plan, source, leaving)
    drawing = _lay_out(list(boxes.values()), ways)
    for name, handler in drawn_handlers(plan).items():
        inside = _draw_plan(handler, HANDLER_END)
        box = Box(name, [name, HANDLER_TITLES[name]], "agent", inside)
        top = drawing.height + BELOW
        drawing.elements += _draw_box(box, 0.0, top)
        drawing.width = max(drawing.width, box.width)
        drawing.height = top + box.height
    return drawing


def _key(plan: Plan, arrow: Arrow) -> str:
    inside = arrow.direction != "end" and any(s.name == arrow.target for s in plan.steps)
    return f"{'step' if inside else 'end'} {arrow.target}"


@dataclass(slots=True)
class EdgePath:
    """One arrow of the picture, for one or more events that lead to the same target."""

    source: str
    target: str
    label: str
    failing: bool = False


def _ways(plan: Plan, source: str, leaving: list[Arrow]) -> list[EdgePath]:
    found: dict[str, list[Arrow]] = {}
    for arrow in leaving:
        found.setdefault(_key(plan, arrow), []).append(arrow)
    return [
        EdgePath(
            source,
            target,
            ", ".join(a.event for a in together) if len(leaving) > 1 else "",
            all(a.failing for a in together),
        )
        for target, together in found.items()
    ]


def _box(step: Step) -> Box:
    detail = f"{step.kind} · {KINDS[step.kind].summary(step)}".removesuffix(" · ")
    rows = [step.name, *(row for note in [detail, *notes(step)] for row in fold(note, LINE_LIMIT))]
    inside = _draw_plan(step.inner) if step.inner is not None else None
    if step.steps:
        inside = _beside([_box(child) for child in step.steps])
    return Box(step.name, [rows[0], *(fit(r, LINE_LIMIT) for r in rows[1:])], step.kind, inside)


def _end(arrow: Arrow, end: str) -> Box:
    """The box of an end. `end` is the text of the plan's success."""
    known = {END_SUCCESS: end, END_FAILED: END_FAILED}
    words = known.get(arrow.target) or f"{escape(arrow.target)}: no such step"
    return Box(f"end {arrow.target}", [words], "end")


def _beside(boxes: list[Box]) -> Drawing:
    """The steps of a parallel block, side by side, at most four in a row."""
    drawing = Drawing(0.0, 0.0)
    for first in range(0, len(boxes), 4):
        x, row = 0.0, boxes[first : first + 4]
        for box in row:
            drawing.elements += _draw_box(box, x, drawing.height)
            x += box.width + GAP
        drawing.width = max(drawing.width, x - GAP)
        drawing.height += max(box.height for box in row) + GAP
    drawing.height -= GAP
    return drawing


def _lay_out(boxes: list[Box], ways: list[EdgePath]) -> Drawing:
    """Place the boxes, draw them, and draw the arrows between them."""
    order = {_place_key(box): i for i, box in enumerate(boxes)}
    # An arrow leads back if its target is above. The ends are below every step.
    forward = [w for w in ways if order[w.source] < order[w.target]]
    backward = [w for w in ways if order[w.source] >= order[w.target]]
    try:
        placed = _layered(
            {_place_key(box): (box.width, box.height) for box in boxes},
            [(w.source, w.target) for w in forward],
        )
    except ImportError as error:
        raise missing("grandalf") from error
    drawing = Drawing(placed.width, placed.height)
    # Draw the arrows first, so that they pass behind the boxes on their path.
    _draw_backward(drawing, {_place_key(box): box for box in boxes}, placed, backward)
    for box in boxes:
        x, y = placed.corners[_place_key(box)]
        drawing.elements += _draw_box(box, x, y)
    for way in forward:
        points = placed.ways[way.source, way.target]
        drawing.elements += _arrow(_curve(points), way, _label_spot(points))
    return drawing


def _draw_backward(
    drawing: Drawing, boxes: dict[str, Box], placed: Layout, ways: list[EdgePath]
) -> None:
    """Draw the arrows that lead back, the shortest in the innermost lane."""
    corners = placed.corners
    lane = placed.width + GAP + max((_label_width(w) for w in ways), default=0.0)
    for way in sorted(ways, key=lambda w: corners[w.source][1] - corners[w.target][1]):
        right = corners[way.source][0] + boxes[way.source].width
        again = way.source == way.target
        at = right + LANE if again else lane
        spot = (at + 4, corners[way.source][1] + 30) if again else None
        drawing.elements += _back(way, boxes, corners, at, spot)
        drawing.width = max(drawing.width, at + (_label_width(way) if again else 4.0))
        lane += 0.0 if again else LANE


def _label_width(way: EdgePath) -> float:
    return cells(way.label) * CHARACTER + 6 if way.label else 0.0


def _place_key(box: Box) -> str:
    return box.key if box.shape == "end" else f"step {box.key}"


def _back(
    way: EdgePath, boxes: dict[str, Box], corners: dict[str, Point], lane: float, spot: Point | None
) -> list[str]:
    """An arrow from a box's right side, up a lane, into the right side of another or the same box.

    Args:
        lane: The lane's distance from the left.
        spot: The position of the label; None: at the arrow's beginning.
    """
    (sx, sy), (tx, ty) = corners[way.source], corners[way.target]
    source, target = boxes[way.source], boxes[way.target]
    x1, x2 = sx + source.width, tx + target.width
    y1, y2 = sy + min(source.height * 0.7, 40), ty + min(target.height * 0.3, 18)
    r = min(8.0, (y1 - y2) / 2)
    path = (
        f"M{x1:.1f} {y1:.1f}H{lane - r:.1f}Q{lane:.1f} {y1:.1f} {lane:.1f} {y1 - r:.1f}"
        f"V{y2 + r:.1f}Q{lane:.1f} {y2:.1f} {lane - r:.1f} {y2:.1f}H{x2:.1f}"
    )
    return _arrow(path, way, spot or (x1 + 5, y1 - 4))


def _curve(points: list[Point]) -> str:
    """A smooth path down through the points."""
    (x0, y0), *rest = points
    parts = [f"M{x0:.1f} {y0:.1f}"]
    for x, y in rest:
        middle = (y0 + y) / 2
        parts.append(f"C{x0:.1f} {middle:.1f} {x:.1f} {middle:.1f} {x:.1f} {y:.1f}")
        x0, y0 = x, y
    return "".join(parts)


def _label_spot(points: list[Point]) -> Point:
    (x0, y0), (x1, y1) = points[0], points[1]
    return (x0 + (x1 - x0) * 0.35 + 4, y0 + min((y1 - y0) * 0.45, 26.0))


def _arrow(path: str, way: EdgePath, spot: Point) -> list[str]:
    style = "way failing" if way.failing else "way"
    drawn = [f'<path class="{style}" d="{path}" marker-end="url(#tip)"/>']
    if way.label:
        drawn.append(_text(*spot, fit(way.label, LINE_LIMIT), "label"))
    return drawn


def _draw_box(box: Box, x: float, y: float) -> list[str]:
    color = STATE_COLORS.get(box.rows[0]) if box.shape == "end" else None
    radius = box.height / 2 if box.shape == "end" else _radius(box.shape)
    stroke = f' style="stroke:{color}"' if color else ""
    drawn = [
        f'<rect class="{"group" if box.inside else "box"}" x="{x:.1f}" y="{y:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius:.1f}"{stroke}/>'
    ]
    for i, row in enumerate(box.rows):
        if box.shape == "end":
            row_x, style = x + box.width / 2, "name end"
        else:
            row_x, style = x + 14, "minor" if i else "name"
        drawn.append(_text(row_x, y + 20 + ROW * i, row, style))
    if box.inside:
        left = x + (box.width - box.inside.width) / 2
        top = y + len(box.rows) * ROW + 14
        drawn += [
            f'<g transform="translate({left:.1f} {top:.1f})">',
            *box.inside.elements,
            "</g>",
        ]
    return drawn


def _radius(kind: str) -> float:
    return 2.0 if KINDS[kind].is_square else 10.0


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{xml_escape(words)}</text>'


# Layers


@dataclass(slots=True)
class Layout:
    """The positions of boxes and arrows.

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
    """The size of a box, and the middle that grandalf gives it."""

    def __init__(self, size: Size) -> None:
        self.w, self.h = size
        self.xy: Point = (0.0, 0.0)


class _Line:
    """Receives the points of an arrow from grandalf."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def setpath(self, points: list[Point]) -> None:
        self.points = list(points)


def _layered(boxes: Mapping[str, Size], ways: Sequence[tuple[str, str]]) -> Layout:
    """Place boxes in layers, so that every given arrow leads down: grandalf's Sugiyama layout.

    Args:
        boxes: Name → width and height. The first is at the top, above all boxes without an incoming
            arrow.
        ways: Pairs of names, without a cycle and without duplicates.

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
    # grandalf lays out one connected graph: a box without an incoming arrow hangs from the first.
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
) -> Layout:
    """Move everything so that it starts at (0, 0)."""
    bends = [point for line in lines.values() for point in line.points[1:-1]]
    left = min([middles[n][0] - w / 2 for n, (w, _) in boxes.items()] + [x for x, _ in bends])
    top = min(middles[n][1] - h / 2 for n, (_, h) in boxes.items())
    placed = Layout()
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
