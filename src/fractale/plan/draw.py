"""Drawings of a plan: text for a terminal, Mermaid for a page, SVG and PNG for a paper.

All are made from the plan alone, without an engine, a network or Graphviz. The same plan always
gives the same drawing.
"""

from __future__ import annotations

import json

from fractale.plan.diagram import (
    HANDLER_END,
    HANDLER_TITLES,
    LABEL_LIMIT,
    UNDRAWN,
    Arrow,
    arrows_of_run,
    drawn_handlers,
    fails_silently,
    notes,
    title_of,
)
from fractale.plan.escape import ELLIPSIS, cells, escape, fit, fold, pad
from fractale.plan.inputs import InputSpec
from fractale.plan.kinds import KINDS
from fractale.plan.model import Plan, Step
from fractale.plan.rules import END_FAILED, END_SUCCESS
from fractale.plan.way import MARKS, RunWay, StepState, times

NAME_WIDTH = 24
KIND_WIDTH = 10
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
DIRECTIONS = {
    "again": " (again)",
    "back": " (back)",
    "ahead": " (ahead)",
    "nowhere": " (no such step)",
}
MERMAID_STATES = {
    "unreached": "stroke-dasharray:4 4,color:#767676",
    "kept": "stroke-dasharray:4 4",
    "running": "stroke:#0b5cad,stroke-width:3px",
    "waiting": "stroke:#8a4b00,stroke-width:3px",
    "stopped": "stroke:#b3261e,stroke-width:3px",
    "success": "stroke:#2e7d32,stroke-width:3px",
    "failed": "stroke:#b3261e,stroke-width:3px",
    "skipped": "stroke-dasharray:2 3",
}
"""The class of a state → its style."""
ENTITIES = {ord(c): f"#{ord(c)};" for c in '"#&<>`\\[]{}()|;%*~'}
"""Characters that Mermaid, its Markdown labels or HTML would interpret → their entities."""


def svg(plan: Plan, way: RunWay | None = None) -> str:
    """The plan as a picture.

    Args:
        way: The way of a run, which every drawing can show.
    """
    from fractale.plan.picture import svg as draw_svg

    return draw_svg(plan, way)


def png(plan: Plan, way: RunWay | None = None) -> bytes:
    """The plan as a bitmap, with two pixels per unit of the SVG.

    Raises:
        DependencyMissing: The extra `draw` is not installed, or the machine has no font.
    """
    from fractale.plan.picture import png as draw_png

    return draw_png(plan, way)


def text(plan: Plan, width: int = 80, *, way: RunWay | None = None, color: bool = False) -> str:
    """The plan as a list of its steps, read from top to bottom.

    Each step leads to the one below, unless an arrow says otherwise.

    Args:
        width: Columns of the terminal. No line is longer, down to 40.
        way: The way of a run: each step then has its state, each arrow how often it was taken.
        color: Whether minor text may be dimmed by ANSI codes.
    """
    writer = _Writer(max(width, 40), color, way)
    writer.head(plan)
    writer.steps(plan, "", "")
    if fails_silently(plan) and way is None:
        writer.add("")
        for line in fold(UNDRAWN, writer.width):
            writer.add("", line)
    return "\n".join(writer.lines) + "\n"


class _Writer:
    """Collects the lines of one drawing."""

    def __init__(self, width: int, color: bool, way: RunWay | None) -> None:
        self.width = width
        self.lines: list[str] = []
        self._color = color
        self._way = way
        self._events: dict[tuple[str, str], int] = {}
        if way is not None:
            self._events = {(p, escape(e, LABEL_LIMIT)): n for (p, e), n in way.events.items()}

    def add(self, strong: str, dim: str = "") -> None:
        """Add one line: its main text, then minor text."""
        dim = fit(dim, self.width - cells(strong))
        if self._color and dim:
            dim = f"{DIM}{dim}{PLAIN}"
        self.lines.append((fit(strong, self.width) + dim).rstrip())

    def head(self, plan: Plan) -> None:
        """Add the name, the purpose, the inputs, the plan's own agents and the outputs."""
        self.add(title_of(plan))
        for line in fold(escape(plan.description), self.width, 3):
            if line:
                self.add("", line)
        inputs = ", ".join(_input(spec) for spec in plan.inputs.values())
        agents = ", ".join(escape(agent.name) for agent in plan.experts)
        outputs = ", ".join(map(escape, plan.outputs))
        for label, words in (("inputs", inputs), ("agents", agents), ("outputs", outputs)):
            for i, line in enumerate(fold(words, self.width - 9, 4) if words else []):
                self.add(pad(label if i == 0 else "", 9), line)
        self.add("")

    def steps(self, plan: Plan, path: str, prefix: str, end: str = "success") -> None:
        """Add the steps of a plan and its end.

        Args:
            path: Of the step around it, with a slash.
            prefix: Printed left of an inner plan.
        """
        names, flows = min(max(cells(step.name) for step in plan.steps), NAME_WIDTH), True
        for step in plan.steps:
            going = arrows_of_run(plan, step, f"{path}{step.name}", self._way)
            flows = going[0].direction == "next"
            mark = self._mark(f"{path}{step.name}")
            self._step(step, going, path, prefix, mark, "│" if flows else " ", names)
            self.add(f"{prefix}{'│' if flows else ''}")
        if flows:
            self.add(f"{prefix}◆ {end}", "" if self._ends(plan, path) else "  not reached")
        else:
            self.lines.pop()
        for name, handler in drawn_handlers(plan).items():
            self.add(prefix.rstrip())
            self.add(f"{prefix}{name}  ", HANDLER_TITLES[name])
            self.steps(handler, f"{path}{name}/", prefix, HANDLER_END)

    def _ends(self, plan: Plan, path: str) -> bool:
        """Whether the run reached the plan's success; True without a run."""
        way = self._way
        ends = [(f"{path}{step.name}", END_SUCCESS) for step in plan.steps]
        return way is None or any(end in way.arrows for end in ends)

    def _mark(self, path: str) -> str:
        return "●" if self._way is None else MARKS[self._way.of(path).state]

    def _step(
        self,
        step: Step,
        going: list[Arrow],
        path: str,
        prefix: str,
        mark: str,
        rail: str,
        names: int,
    ) -> None:
        name, path = pad(step.name, names), f"{path}{step.name}"
        head = f"{prefix}{mark} {name}  {pad(step.kind, KIND_WIDTH)}"
        self.add(f"{head}{KINDS[step.kind].summary(step)}")
        indent = pad(f"{prefix}{rail}", cells(prefix) + names + 4)
        if self._way is not None:
            self._indented(indent, self._way.of(path).words, dim=False)
        for line in [escape(step.description, 300), *notes(step)]:
            self._indented(indent, line, dim=True)
        for arrow in going:
            self._indented(indent, self._words(arrow, path), dim=False)
        self._inside(step, f"{path}/", f"{prefix}{rail}   ")

    def _words(self, arrow: Arrow, path: str) -> str:
        """An arrow as text, with how often its event happened in the run."""
        words, number = _words(arrow), self._events.get((path, arrow.event), 0)
        if not words or not number:
            return words
        return f"{words}  (taken {times(number)})" if number > 1 else f"{words}  (taken)"

    def _inside(self, step: Step, path: str, prefix: str) -> None:
        if step.inner is not None:
            self.add(f"{prefix}")
            self.steps(step.inner, path, prefix)
        if step.steps:
            names = min(max(cells(child.name) for child in step.steps), NAME_WIDTH)
            for child in step.steps:
                last = child is step.steps[-1]
                mark, rail = "└" if last else "├", " " if last else "│"
                if self._way is not None:
                    mark += f" {MARKS[self._way.of(f'{path}{child.name}').state]}"
                self._step(child, [], path, prefix, mark, rail, names)

    def _indented(self, indent: str, words: str, *, dim: bool) -> None:
        if not words:
            return
        for i, line in enumerate(fold(words, self.width - cells(indent) - 2, 4)):
            line = line if i == 0 else f"  {line}"
            self.add(indent, line) if dim else self.add(indent + line)


def _words(arrow: Arrow) -> str:
    """An arrow as text. Empty if it only leads to the step below."""
    condition = f" if {' or '.join(arrow.rules)}" if arrow.rules else ""
    if arrow.direction == "next":
        return f"success{condition}" if condition else ""
    return f"{arrow.event} → {escape(arrow.target)}{DIRECTIONS.get(arrow.direction, '')}{condition}"


def _input(spec: InputSpec) -> str:
    if spec.secret:
        return f"{escape(spec.name)} (secret)"
    if spec.required:
        return f"{escape(spec.name)} (required)"
    shown = escape(str(spec.default), 24)
    return escape(spec.name) if shown.endswith(ELLIPSIS) else f"{escape(spec.name)}={shown}"


# Mermaid


def mermaid(plan: Plan, way: RunWay | None = None) -> str:
    """The plan as a Mermaid flowchart, top down.

    Solid arrows lead to the next step, dotted arrows are for failures, thick arrows were taken. No
    text of a plan can become Mermaid syntax: fractale makes the node ids, and labels are quoted
    with every special character as an entity.

    Args:
        way: The way of a run.
    """
    chart = _Flowchart(way)
    chart.plan(plan, "", "    ")
    chart.classes()
    head = [
        "---",
        f"title: {json.dumps(title_of(plan), ensure_ascii=False)}",
        "---",
        "flowchart TD",
    ]
    note = [f"    %% {UNDRAWN}"] if way is None else []
    return "\n".join([*head, *note, *chart.lines]) + "\n"


def label(text: str) -> str:
    """A quoted label."""
    return f'"{escape(text).translate(ENTITIES)}"'


class _Flowchart:
    """Collects the lines of one flowchart."""

    def __init__(self, way: RunWay | None) -> None:
        self.lines: list[str] = []
        self._way = way
        self._states: dict[str, list[str]] = {}
        self._groups: set[str] = set()
        self._count = 0

    def plan(self, plan: Plan, path: str, indent: str, end: str = END_SUCCESS) -> None:
        """The steps of a plan, its start and its ends.

        Args:
            path: Of the step around it, with a slash.
            end: The text of its success.
        """
        ids = {step.name: self._id() for step in plan.steps}
        start = self._id()
        self.lines.append(f'{indent}{start}(["start"])')
        for step in plan.steps:
            self._node(step, ids[step.name], path, indent)
        first = plan.steps[0].name
        begun = self._way is not None and self._way.of(f"{path}{first}").attempts
        self.lines.append(f"{indent}{start} {'==>' if begun else '-->'} {ids[first]}")
        for step in plan.steps:
            self._leaving(plan, step, path, ids, indent, end)
        for name, handler in drawn_handlers(plan).items():
            group = self._id()
            title = label(f"{name}: {HANDLER_TITLES[name]}")
            self.lines.append(f"{indent}subgraph {group}[{title}]")
            self.plan(handler, f"{path}{name}/", indent + "    ", HANDLER_END)
            self.lines.append(f"{indent}end")

    def classes(self) -> None:
        """The style of each state of a run, and the nodes that have it."""
        for name, nodes in self._states.items():
            self.lines.append(f"    classDef {name} {MERMAID_STATES[name]}")
            self.lines.append(f"    class {','.join(nodes)} {name}")

    def _leaving(
        self, plan: Plan, step: Step, path: str, ids: dict[str, str], indent: str, end: str
    ) -> None:
        path = f"{path}{step.name}"
        going = arrows_of_run(plan, step, path, self._way)
        for target in dict.fromkeys(arrow.target for arrow in going):
            together = [arrow for arrow in going if arrow.target == target]
            if target not in ids:
                ids[target] = self._id()
                words = end if target == END_SUCCESS else target
                self.lines.append(f"{indent}{_end(ids[target], words)}")
            named = len(going) > 1 or together[0].event != "success"
            words = ", ".join(arrow.event for arrow in together) if named else ""
            number = self._way.arrows.get((path, target), 0) if self._way else 0
            if number > 1:
                words = f"{words} {times(number)}".strip()
            line = "-.->" if all(arrow.failing for arrow in together) else "-->"
            self._edge(ids[step.name], ids[target], "==>" if number else line, words, indent)

    def _edge(self, source: str, target: str, line: str, words: str, indent: str) -> None:
        words = f"|{label(words)}|" if words else ""
        if source == target and source in self._groups:
            # Mermaid cannot draw an arrow from a subgraph to itself, so a node is put between.
            again = self._id()
            self.lines.append(f'{indent}{again}(("again"))')
            self.lines.append(f"{indent}{source} {line}{words} {again}")
            self.lines.append(f"{indent}{again} --> {target}")
            return
        self.lines.append(f"{indent}{source} {line}{words} {target}")

    def _node(self, step: Step, name: str, path: str, indent: str) -> None:
        path = f"{path}{step.name}"
        state = self._way.of(path) if self._way is not None else None
        words = _step_label(step, state)
        if state is not None:
            self._states.setdefault(state.state.replace("not ", "un"), []).append(name)
        if step.inner is None and not step.steps:
            left, right = KINDS[step.kind].in_brackets
            self.lines.append(f"{indent}{name}{left}{words}{right}")
            return
        self._groups.add(name)
        self.lines.append(f"{indent}subgraph {name}[{words}]")
        for child in step.steps:
            self._node(child, self._id(), f"{path}/", indent + "    ")
        if step.inner is not None:
            self.plan(step.inner, f"{path}/", indent + "    ")
        self.lines.append(f"{indent}end")

    def _id(self) -> str:
        self._count += 1
        return f"n{self._count}"


def _step_label(step: Step, state: StepState | None) -> str:
    """The name of a step, its state, and what it does."""
    what = f"{step.kind} {KINDS[step.kind].summary(step)}".strip()
    told = [f"{MARKS[state.state]} {state.words}"] if state is not None else []
    rows = [step.name, *told, what, *notes(step)]
    return '"' + "<br/>".join(escape(row, 120).translate(ENTITIES) for row in rows) + '"'


def _end(name: str, target: str) -> str:
    if target in (END_SUCCESS, END_FAILED, HANDLER_END):
        return f'{name}(["{target}"])'
    return f"{name}[{label(f'{target}: no such step')}]"
