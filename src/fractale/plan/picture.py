"""A plan as a picture, written as SVG and drawn as PNG; of a run, also the way that it took.

The inside of a parallel block, a chain or an included plan is laid out first. It is one box in the
plan around it. A plan of many steps is drawn as a list, without arrows. Positions do not depend on
the states of steps, so that a page which draws a run again and again lays it out once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape as xml_escape
from xml.sax.saxutils import quoteattr

from fractale.errors import DependencyMissing
from fractale.plan.diagram import (
    HANDLER_END,
    HANDLER_TITLES,
    UNDRAWN,
    Arrow,
    arrows_of_run,
    drawn_handlers,
    fails_silently,
    notes,
    title_of,
)
from fractale.plan.escape import cells, escape, fit, fold
from fractale.plan.kinds import KINDS
from fractale.plan.layout import Heading, Layout, Link, Size, lay_out
from fractale.plan.model import Plan, Step
from fractale.plan.rules import END_FAILED, END_SUCCESS
from fractale.plan.way import RunWay, State, StepState, times

INSTALL = "pip install 'fractale[draw]'"
FONTS = "Lato, 'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif"
CHARACTER, LABEL_CHARACTER = 7.4, 6.8
"""Width of a character in a box and of an arrow's label, enough for the widest of `FONTS`."""
ROW, LABEL_ROW, MARGIN, GAP, BELOW = 17.0, 13.0, 24.0, 16.0, 46.0
LINE_LIMIT, LABEL_LIMIT = 44, 26
COUNT_CELLS = 5
"""Space at a label for how often its arrow was taken."""
STATE_CELLS, ITEMS_CELLS = 24, 40
"""Space in a box for the words of its state; of a foreach, with the counts of its items."""
MOST_DRAWN = 120
"""A plan with more steps is drawn as a list: its arrows could no longer be followed."""
LIST_COLUMNS, LIST_WIDTH, LIST_ROW, LIST_INDENT = 4, 300.0, 24.0, 14.0
LISTED = f"A plan of more than {MOST_DRAWN} steps is drawn as a list, without arrows."
PICTURES_KEPT = 16
"""Layouts that stay in memory."""

_CLASSES: Final[Mapping[State, str]] = {
    "not reached": "is-unreached",
    "kept": "is-kept",
    "running": "is-running",
    "waiting": "is-waiting",
    "stopped": "is-stopped",
    "success": "is-success",
    "failed": "is-failed",
    "skipped": "is-skipped",
}
_MARKS: Final[Mapping[State, str]] = {
    "not reached": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "kept": "M-4 0L0 -4L4 0L0 4z",
    "running": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "waiting": "M-3 -2.2a3 2.6 0 1 1 3 2.8V1.6M0 3.4V4.6",
    "stopped": "M-3.5 -3.5h7v7h-7z",
    "success": "M-4.5 0L-1.5 3.5L4.5 -4",
    "failed": "M-3.8 -3.8L3.8 3.8M3.8 -3.8L-3.8 3.8",
    "skipped": "M-4 0H4",
}
"""State → its mark around (0, 0), as a path: a font may not have such letters."""

_LIGHT: Final = {
    "ink": "#1b1b1b",
    "minor": "#555555",
    "paper": "#ffffff",
    "box": "#f6f7f9",
    "line": "#555555",
    "dim": "#b4b9c0",
    "success": "#2e7d32",
    "failed": "#b3261e",
    "running": "#0b5cad",
    "waiting": "#8a4b00",
}
_DARK: Final = {
    "ink": "#e8eaed",
    "minor": "#b3b8bf",
    "paper": "#16181b",
    "box": "#23262b",
    "line": "#a3a9b1",
    "dim": "#565c64",
    "success": "#81c784",
    "failed": "#ff8a80",
    "running": "#82b1ff",
    "waiting": "#ffca6b",
}
_RULES: Final = (
    ("text", f"font-family:{FONTS};font-size:12px;fill:{{ink}}"),
    (".name", "font-weight:bold;font-size:13px"),
    (".end", "text-anchor:middle"),
    (".minor", "fill:{minor}"),
    (".label", "font-size:11px"),
    (".box", "fill:{box};stroke:{line}"),
    (".group", "fill:{paper};stroke:{line};stroke-dasharray:5 3"),
    (".way", "fill:none;stroke:{line};stroke-width:1.3"),
    (".tip", "fill:{line}"),
    (".failing", "stroke-dasharray:4 3"),
    (".untaken", "stroke:{dim}"),
    (".tip.untaken", "fill:{dim};stroke:none"),
    (".label.untaken", "fill:{minor};stroke:none"),
    (".taken", "stroke:{ink};stroke-width:2.6"),
    (".tip.taken", "fill:{ink};stroke:none"),
    (".label.taken", "fill:{ink};stroke:none;font-weight:bold"),
    (".mark", "fill:none;stroke-width:2;stroke:{minor}"),
    (".state", "fill:{minor};font-weight:bold"),
    (".is-unreached .box", "stroke:{dim}"),
    (".is-unreached .name", "fill:{minor}"),
    (".is-unreached .state", "font-weight:normal"),
    (".is-skipped .box", "stroke-dasharray:2 3"),
    *(
        rule
        for state, color in (
            ("success", "success"),
            ("failed", "failed"),
            ("running", "running"),
            ("waiting", "waiting"),
            ("stopped", "failed"),
        )
        for rule in (
            (f".is-{state} .box", f"stroke:{{{color}}};stroke-width:2"),
            (f".is-{state} .group", f"stroke:{{{color}}};stroke-width:2"),
            (f".is-{state} .mark", f"stroke:{{{color}}}"),
            (f".is-{state} .state", f"fill:{{{color}}}"),
        )
    ),
    (".is-running .mark", "fill:{running}"),
    (".is-stopped .mark", "fill:{failed}"),
)
"""Selectors with their declarations; the names in braces are colors."""


def _style(prefix: str, colors: Mapping[str, str]) -> str:
    return "".join(f"{prefix}{name}{{{rule.format(**colors)}}}" for name, rule in _RULES)


STYLE: Final = _style("", _LIGHT)
"""The style of a picture in a file of its own."""


def _page_style() -> str:
    names = {name: f"var(--picture-{name})" for name in _LIGHT}

    def variables(colors: Mapping[str, str]) -> str:
        return "".join(f"--picture-{name}:{color};" for name, color in colors.items())

    return (
        f":root{{{variables(_LIGHT)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(_DARK)}}}}}\n"
        + _style(".plan-picture ", names)
        + "\n.plan-picture a:focus-visible{outline:none}"
        ".plan-picture a:focus-visible .box,.plan-picture a:focus-visible .group,"
        ".plan-picture a:hover .box,.plan-picture a:hover .group"
        "{stroke:var(--picture-running);stroke-width:3}\n"
    )


PAGE_STYLE: Final = _page_style()
"""The style of pictures in a page. Its colors are variables, ``--picture-ink`` and so on."""


@dataclass(slots=True)
class Box:
    """One step, end or handler: its text and, for a composite step, the drawing inside.

    Args:
        key: Its name in the layout.
        rows: Lines of text, the name first.
        shape: The step's kind, ``end``, ``handler`` or ``row`` (of a list).
        path: The step's path; empty for others.
        target: Of an end, the arrows that lead to it: its name and the path of the plan.
        space: Cells for the words of the state; 0 without states.
    """

    key: str
    rows: list[str]
    shape: str
    path: str = ""
    target: str = ""
    title: str = ""
    inside: Drawing | None = None
    space: int = 0
    width: float = 0.0
    height: float = 0.0

    def __post_init__(self) -> None:
        if self.shape == "row":
            self.width, self.height = LIST_WIDTH, LIST_ROW - 4
            return
        words = max([cells(row) for row in self.rows] + [self.space + 3 if self.space else 0])
        inside = self.inside.width + 2 * GAP if self.inside else 0.0
        self.width = max(words * CHARACTER + 28, inside)
        self.height = self.head + (self.inside.height + 8 if self.inside else 0.0)

    @property
    def head(self) -> float:
        """The height of its text."""
        return (len(self.rows) + bool(self.space)) * ROW + 16


@dataclass(slots=True)
class PlacedBox:
    """A box with its position."""

    box: Box
    x: float
    y: float
    width: float
    height: float


@dataclass(slots=True)
class PlacedArrow:
    """A part of an arrow, or of several that run together.

    Args:
        arrows: (path of the step, name of the target) of each; of the start, (path, "").
    """

    arrows: list[tuple[str, str]]
    path: str
    failing: bool
    tip: tuple[float, float, Heading] | None = None


@dataclass(slots=True)
class PlacedLabel:
    """The label of an arrow; `rows` may be empty, for the number of times alone."""

    arrow: tuple[str, str]
    rows: list[str]
    x: float
    y: float


@dataclass(slots=True)
class Drawing:
    """Boxes and arrows with their positions, starting at (0, 0)."""

    width: float = 0.0
    height: float = 0.0
    boxes: list[PlacedBox] = field(default_factory=list[PlacedBox])
    arrows: list[PlacedArrow] = field(default_factory=list[PlacedArrow])
    labels: list[PlacedLabel] = field(default_factory=list[PlacedLabel])
    is_list: bool = False

    def has_list(self) -> bool:
        """Whether it, or the inside of one of its boxes, is a list."""
        insides = (placed.box.inside for placed in self.boxes)
        return self.is_list or any(inside.has_list() for inside in insides if inside)


def svg(plan: Plan, way: RunWay | None = None, *, page: bool = False, prefix: str = "") -> str:
    """The plan as an SVG document.

    Args:
        way: The way of a run, which marks the boxes and the arrows.
        page: Whether it becomes a part of an HTML page that has `PAGE_STYLE`. It then has neither
            a background nor a style of its own, and each step has its path as ``data-step``. It is
            a link to ``#step-PATH``, of a run only if the run reached the step.
        prefix: Before the ids that links lead to, on a page with several runs.
    """
    body = _drawing(plan, way)
    writer = _Writer(way, page=page, prefix=prefix)
    note = [UNDRAWN] if fails_silently(plan) and way is None else []
    note += [LISTED] if body.has_list() else []
    title = [] if page else fold(title_of(plan), 70)
    margin = 4.0 if page else MARGIN
    top = margin + (len(title) * 20 + 6 if title else 0.0)
    words = max([cells(row) for row in [*title, *note]] + [0]) * CHARACTER
    width = max(body.width, words) + 2 * margin
    height = top + body.height + margin + len(note) * ROW
    name = xml_escape(title_of(plan))
    head = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = (
        [f'<svg class="plan-picture" {head} role="group">', f"<title>Plan {name}</title>"]
        if page
        else [
            f'<svg xmlns="http://www.w3.org/2000/svg" {head} role="img">',
            f"<title>{name}</title>",
            f"<style>{STYLE}</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
        ]
    )
    parts += [
        *(_text(MARGIN, MARGIN + 12 + 20 * i, row, "name") for i, row in enumerate(title)),
        f'<g transform="translate({(width - body.width) / 2:.1f} {top:.1f})">',
        *writer.drawing(body),
        "</g>",
        *(
            _text(margin, height - margin + 6 - ROW * (len(note) - 1 - i), row, "minor")
            for i, row in enumerate(note)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def png(plan: Plan, way: RunWay | None = None) -> bytes:
    """The plan as a PNG, two pixels per unit of the SVG.

    Args:
        way: As of `svg`.

    Raises:
        DependencyMissing: resvg-py is not installed, or no font was found.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DependencyMissing("drawing a PNG needs resvg-py", hint=INSTALL) from error
    fonts = [str(path) for path in packaged_fonts()]

    def render(source: str) -> bytes:
        return resvg_py.svg_to_bytes(svg_string=source, zoom=2, font_files=fonts)

    probe = f'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><style>{STYLE}</style>'
    if render(f"{probe}{_text(2, 15, 'M', 'name')}</svg>") == render(f"{probe}</svg>"):
        raise DependencyMissing(
            "a PNG needs a font, and this machine has none",
            hint="`pip install font-lato` brings one; an SVG needs none",
        )
    return render(svg(plan, way))


def packaged_fonts() -> list[Path]:
    """The font files of the package font-lato; empty if it is not installed."""
    found = find_spec("font_lato")
    if found is None or found.origin is None:
        return []
    directory = Path(found.origin).parent / "files"
    return [directory / f"Lato-{name}.ttf" for name in ("Regular", "Bold")]


# -- layouts --------------------------------------------------------------------------------------

_kept: OrderedDict[tuple[int, tuple[str, ...] | None], tuple[Plan, Drawing]] = OrderedDict()


def _drawing(plan: Plan, way: RunWay | None) -> Drawing:
    """The drawing of a plan, laid out once for a plan and the failures that ended it."""
    # The plan is kept, too, so that no other object can have its id.
    key = (id(plan), None if way is None else _ended_by(way))
    if (found := _kept.get(key)) is not None:
        return found[1]
    drawing = _Drafter(way).plan(plan, "")
    _kept[key] = (plan, drawing)
    while len(_kept) > PICTURES_KEPT:
        _kept.popitem(last=False)
    return drawing


def _ended_by(way: RunWay) -> tuple[str, ...]:
    return tuple(sorted(path for path, target in way.arrows if target == END_FAILED))


@dataclass(slots=True)
class _Edge:
    """An arrow of the picture, for one or more events that lead to the same box."""

    source: str
    target: str
    arrow: tuple[str, str]
    label: str = ""
    failing: bool = False
    main: bool = False


@dataclass(slots=True)
class _Drafter:
    """Makes the boxes and arrows of plans, and places them.

    Args:
        way: The way of a run: boxes and labels then have space for what happened. Of all that it
            says, only the failures that ended a plan without an arrow change the positions.
    """

    way: RunWay | None
    items: int = 0  # how many foreach are around

    def plan(self, plan: Plan, prefix: str, end: str = END_SUCCESS) -> Drawing:
        """The steps of a plan, and its handlers below.

        Args:
            prefix: The path of the step around it, with a slash.
            end: The text of its success.
        """
        if len(plan.steps) > MOST_DRAWN:
            drawing = self._list(plan, prefix)
        else:
            drawing = self._layers(plan, prefix, end)
        x, top = 0.0, drawing.height + BELOW
        for name, handler in drawn_handlers(plan).items():
            inside = self.plan(handler, f"{prefix}{name}/", HANDLER_END)
            box = Box(name, [name, HANDLER_TITLES[name]], "handler", inside=inside)
            drawing.boxes.append(PlacedBox(box, x, top, box.width, box.height))
            drawing.width = max(drawing.width, x + box.width)
            drawing.height = max(drawing.height, top + box.height)
            x += box.width + GAP
        return drawing

    def _layers(self, plan: Plan, prefix: str, end: str) -> Drawing:
        boxes = {"start": Box("start", ["start"], "end", target=f"{prefix}>")}
        for step in plan.steps:
            boxes[f"step {step.name}"] = self._box(step, prefix)
        edges = [_Edge("start", f"step {plan.steps[0].name}", (prefix, ""), main=True)]
        for step in plan.steps:
            leaving = arrows_of_run(plan, step, f"{prefix}{step.name}", self.way)
            for arrow in leaving:
                key = _key(plan, arrow)
                if key not in boxes:
                    boxes[key] = _end(arrow, end, prefix)
            edges += self._edges(plan, step, leaving, prefix)
        return self._place(boxes, edges)

    def _edges(self, plan: Plan, step: Step, leaving: list[Arrow], prefix: str) -> list[_Edge]:
        together: dict[str, list[Arrow]] = {}
        for arrow in leaving:
            together.setdefault(_key(plan, arrow), []).append(arrow)
        return [
            _Edge(
                f"step {step.name}",
                target,
                (f"{prefix}{step.name}", some[0].target),
                ", ".join(arrow.event for arrow in some) if len(leaving) > 1 else "",
                all(arrow.failing for arrow in some),
                leaving[0] in some,
            )
            for target, some in together.items()
        ]

    def _box(self, step: Step, prefix: str) -> Box:
        path = f"{prefix}{step.name}"
        detail = f"{step.kind} · {KINDS[step.kind].summary(step)}".removesuffix(" · ")
        rows = [row for note in [detail, *notes(step)] for row in fold(note, LINE_LIMIT)]
        self.items += step.foreach is not None
        inside = self.plan(step.inner, f"{path}/") if step.inner is not None else None
        if step.steps:
            inside = _beside([self._box(child, f"{path}/") for child in step.steps])
        space = self._space(step)
        self.items -= step.foreach is not None
        return Box(
            step.name,
            [escape(step.name), *(fit(row, LINE_LIMIT) for row in rows)],
            step.kind,
            path=path,
            title=f"{escape(step.name)}, {detail}",
            inside=inside,
            space=space,
        )

    def _space(self, step: Step) -> int:
        if self.way is None:
            return 0
        array = step.job is not None and step.job.array is not None
        return ITEMS_CELLS if self.items or array else STATE_CELLS

    def _place(self, boxes: dict[str, Box], edges: list[_Edge]) -> Drawing:
        rows = [self._label(edge) for edge in edges]
        links = [
            Link(edge.source, edge.target, self._label_size(lines), main=edge.main)
            for edge, lines in zip(edges, rows, strict=True)
        ]
        layout = lay_out({key: (box.width, box.height) for key, box in boxes.items()}, links)
        drawing = Drawing(layout.width, layout.height)
        for key, box in boxes.items():
            drawing.boxes.append(PlacedBox(box, *layout.corners[key], *layout.sizes[key]))
        drawing.arrows = list(_placed_arrows(layout, edges))
        drawing.labels = [
            PlacedLabel(edges[i].arrow, rows[i], x, y) for i, (x, y) in layout.labels.items()
        ]
        return drawing

    def _label(self, edge: _Edge) -> list[str]:
        return fold(edge.label, LABEL_LIMIT) if edge.label else []

    def _label_size(self, rows: Sequence[str]) -> Size:
        widths = [cells(row) for row in rows] or [0]
        if self.way is not None:
            widths.append(widths[-1] + COUNT_CELLS)
        height = max(len(rows), 1) * LABEL_ROW
        return (max(widths) * LABEL_CHARACTER, height) if max(widths) else (0.0, 0.0)

    def _list(self, plan: Plan, prefix: str) -> Drawing:
        """The steps in columns, each in one row; those inside a step are indented below it."""
        rows = list(self._rows(plan.steps, prefix, 0))
        columns = min(LIST_COLUMNS, -(-len(rows) // 24))
        high = -(-len(rows) // columns)
        drawing = Drawing(columns * (LIST_WIDTH + GAP) - GAP, high * LIST_ROW, is_list=True)
        for i, (depth, box) in enumerate(rows):
            left = LIST_INDENT * min(depth, 6)
            x = (i // high) * (LIST_WIDTH + GAP) + left
            y = (i % high) * LIST_ROW
            drawing.boxes.append(PlacedBox(box, x, y, LIST_WIDTH - left, box.height))
        return drawing

    def _rows(self, steps: Sequence[Step], prefix: str, depth: int) -> Iterator[tuple[int, Box]]:
        for step in steps:
            path = f"{prefix}{step.name}"
            name = escape(step.name)
            title = f"{name}, {step.kind} · {KINDS[step.kind].summary(step)}".removesuffix(" · ")
            yield depth, Box(step.name, [name], "row", path=path, title=title, space=1)
            inner = step.inner.steps if step.inner is not None else step.steps
            yield from self._rows(inner, f"{path}/", depth + 1)


def _key(plan: Plan, arrow: Arrow) -> str:
    inside = arrow.direction != "end" and any(s.name == arrow.target for s in plan.steps)
    return f"{'step' if inside else 'end'} {arrow.target}"


def _end(arrow: Arrow, end: str, prefix: str) -> Box:
    """The box of an end. `end` is the text of the plan's success."""
    known = {END_SUCCESS: end, END_FAILED: END_FAILED}
    words = known.get(arrow.target) or f"{escape(arrow.target)}: no such step"
    return Box(f"end {arrow.target}", [words], "end", target=f"{prefix}>{arrow.target}")


def _beside(boxes: list[Box]) -> Drawing:
    """The steps of a parallel block, side by side, at most four in a row."""
    drawing = Drawing()
    for first in range(0, len(boxes), 4):
        x, row = 0.0, boxes[first : first + 4]
        for box in row:
            drawing.boxes.append(PlacedBox(box, x, drawing.height, box.width, box.height))
            x += box.width + GAP
        drawing.width = max(drawing.width, x - GAP)
        drawing.height += max(box.height for box in row) + GAP
    drawing.height -= GAP
    return drawing


def _placed_arrows(layout: Layout, edges: Sequence[_Edge]) -> Iterator[PlacedArrow]:
    for route in layout.routes:
        some = [edges[i] for i in route.links]
        failing = all(edge.failing for edge in some)
        yield PlacedArrow([edge.arrow for edge in some], route.path, failing, route.tip)


# -- writing --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Writer:
    """Writes drawings as SVG elements.

    Args:
        way: The way of a run; None for a plan alone.
        page, prefix: As of `svg`.
    """

    way: RunWay | None
    page: bool
    prefix: str

    def drawing(self, drawing: Drawing) -> Iterator[str]:
        """The elements of a drawing: arrows that were taken lie above the others."""
        taken: list[str] = []
        for arrow in drawing.arrows:
            number = sum(map(self._times, arrow.arrows))
            lines = list(_arrow(arrow, self._use(number)))
            if number:
                taken += lines
            else:
                yield from lines
        yield from taken
        for label in drawing.labels:
            yield from self._label(label)
        ends = self._ends(drawing)
        for placed in drawing.boxes:
            yield from self._box(placed, ends)

    def _times(self, arrow: tuple[str, str]) -> int:
        """How often an arrow was taken."""
        if self.way is None:
            return 0
        path, target = arrow
        if target:
            return self.way.arrows.get(arrow, 0)
        return any(step.startswith(path) for step in self.way.steps)

    def _use(self, number: int) -> str:
        if self.way is None:
            return ""
        return " taken" if number else " untaken"

    def _ends(self, drawing: Drawing) -> set[str]:
        """The ends and starts that the run reached, as `Box.target` names them."""
        found: set[str] = set()
        for arrow in drawing.arrows:
            for path, target in arrow.arrows:
                if self._times((path, target)):
                    found.add(f"{path[: path.rfind('/') + 1]}>{target}")
        return found

    def _label(self, label: PlacedLabel) -> Iterator[str]:
        number = self._times(label.arrow)
        rows = list(label.rows)
        if number > 1:
            rows = [*rows[:-1], f"{rows[-1]} {times(number)}" if rows else times(number)]
        for i, row in enumerate(rows):
            y = label.y + 10 + LABEL_ROW * i
            yield _text(label.x, y, row, f"label{self._use(number)}")

    def _box(self, placed: PlacedBox, ends: set[str]) -> Iterator[str]:
        box = placed.box
        state = self.way.of(box.path) if self.way is not None and box.path else None
        link = self._link(box, state)
        yield self._opening(box, state, link, ends)
        yield from self._head(placed, state)
        yield "</a>" if link else "</g>"
        if box.inside is not None:
            left = placed.x + (placed.width - box.inside.width) / 2
            yield f'<g transform="translate({left:.1f} {placed.y + box.head - 2:.1f})">'
            yield from self.drawing(box.inside)
            yield "</g>"

    def _opening(self, box: Box, state: StepState | None, link: str, ends: set[str]) -> str:
        style = f' class="step {_CLASSES[state.state]}"' if state else ' class="step"'
        if box.target:
            reached = self.way is None or box.target in ends
            end = {END_SUCCESS: "is-success", END_FAILED: "is-failed"}.get(box.rows[0], "")
            style = f' class="{end if reached else "is-unreached"}"'
        title = box.title + (f": {state.words}" if state else "")
        told = f"<title>{xml_escape(title)}</title>" if box.title else ""
        about = f" data-step={quoteattr(escape(box.path))}" if self.page and box.path else ""
        if link:
            return f"<a{style}{about} href={quoteattr(link)}>{told}"
        return f"<g{style}{about}>{told}"

    def _link(self, box: Box, state: StepState | None) -> str:
        """Where a box of a page leads to; empty for one that leads nowhere."""
        if not self.page or not box.path:
            return ""
        if state is not None and state.state in ("not reached", "kept"):
            return ""
        path = (state.shown_by if state else "") or box.path
        return f"#{quote(f'{self.prefix}step-{path}', safe='/', errors='replace')}"

    def _head(self, placed: PlacedBox, state: StepState | None) -> Iterator[str]:
        """The outline of a box, and its text."""
        box, x, y = placed.box, placed.x, placed.y
        radius = placed.height / 2 if box.shape == "end" else _radius(box.shape)
        yield (
            f'<rect class="{"group" if box.inside else "box"}" x="{x:.1f}" y="{y:.1f}" '
            f'width="{placed.width:.1f}" height="{placed.height:.1f}" rx="{radius:.1f}"/>'
        )
        if box.shape == "row":
            yield from self._row(placed, state)
            return
        if box.shape == "end":
            yield _text(x + placed.width / 2, y + 21, box.rows[0], "name end")
            return
        yield _text(x + 14, y + 20, box.rows[0], "name")
        rows = box.rows[1:]
        if state is not None:
            yield _mark(x + 19, y + 20 + ROW - 4, state.state)
            yield _text(x + 30, y + 20 + ROW, fit(state.words, box.space), "state")
        first = y + 20 + ROW * (2 if box.space else 1)
        for i, row in enumerate(rows):
            yield _text(x + 14, first + ROW * i, row, "minor")

    def _row(self, placed: PlacedBox, state: StepState | None) -> Iterator[str]:
        """A row of a list: as much of the name as the words of its state leave."""
        box, x, y = placed.box, placed.x, placed.y + 14
        words = "" if state is None or state.state == "not reached" else state.words
        space = int((placed.width - 30) / CHARACTER)
        words, long = _fitted(words, max(space - 8, 8))
        if state is not None:
            yield _mark(x + 12, y - 4, state.state)
        yield _text(x + 24, y, fit(box.rows[0], max(space - long - 2, 4)), "name")
        if words:
            left = x + placed.width - long * CHARACTER - 4
            yield _text(left, y, words, "state")


@lru_cache(maxsize=1000)
def _fitted(words: str, most: int) -> tuple[str, int]:
    """The words of a state, shortened, and their cells; the steps of a run share them."""
    shown = fit(words, most)
    return shown, cells(shown)


def _arrow(arrow: PlacedArrow, use: str) -> Iterator[str]:
    style = f"way{' failing' if arrow.failing else ''}{use}"
    yield f'<path class="{style}" d="{arrow.path}"/>'
    if arrow.tip is not None:
        x, y, heading = arrow.tip
        back = {"down": "l-4.5 -9h9z", "left": "l9 -4.5v9z", "right": "l-9 -4.5v9z"}[heading]
        yield f'<path class="tip{use}" d="M{x:.1f} {y:.1f}{back}"/>'


def _mark(x: float, y: float, state: State) -> str:
    return f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{_MARKS[state]}"/>'


def _radius(shape: str) -> float:
    square = shape == "row" or (shape in KINDS and KINDS[shape].is_square)
    return 2.0 if square else 10.0


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{xml_escape(words)}</text>'
