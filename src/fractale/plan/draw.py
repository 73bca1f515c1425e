"""Drawings of a plan: text for a terminal, Mermaid for a page, SVG and PNG for a paper.

All are made from the plan alone, without an engine, a network or Graphviz. The same plan always
gives the same drawing.
"""

from __future__ import annotations

import json

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
from fractale.plan.escape import ELLIPSIS, cells, escape, fit, fold, pad
from fractale.plan.inputs import InputSpec
from fractale.plan.kinds import KINDS
from fractale.plan.model import Plan, Step
from fractale.plan.rules import END_FAILED, END_SUCCESS

NAME_WIDTH = 24
KIND_WIDTH = 10
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
DIRECTIONS = {
    "again": " (again)",
    "back": " (back)",
    "ahead": " (ahead)",
    "nowhere": " (no such step)",
}
ENTITIES = {ord(c): f"#{ord(c)};" for c in '"#&<>`\\[]{}()|;%*~'}
"""Characters that Mermaid, its Markdown labels or HTML would interpret → their entities."""


def svg(plan: Plan) -> str:
    """The plan as a picture.

    Raises:
        DependencyMissing: The extra `draw` is not installed.
    """
    from fractale.plan.picture import svg as draw_svg

    return draw_svg(plan)


def png(plan: Plan) -> bytes:
    """The plan as a bitmap, with two pixels per unit of the SVG.

    Raises:
        DependencyMissing: The extra `draw` is not installed, or the machine has no font.
    """
    from fractale.plan.picture import png as draw_png

    return draw_png(plan)


def text(plan: Plan, width: int = 80, *, color: bool = False) -> str:
    """The plan as a list of its steps, read from top to bottom.

    Each step leads to the one below, unless an arrow says otherwise.

    Args:
        width: Columns of the terminal. No line is longer, down to 40.
        color: Whether minor text may be dimmed by ANSI codes.
    """
    writer = _Writer(max(width, 40), color)
    writer.head(plan)
    writer.steps(plan, "")
    if fails_silently(plan):
        writer.add("")
        for line in fold(UNDRAWN, writer.width):
            writer.add("", line)
    return "\n".join(writer.lines) + "\n"


class _Writer:
    """Collects the lines of one drawing."""

    def __init__(self, width: int, color: bool) -> None:
        self.width = width
        self.lines: list[str] = []
        self._color = color

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

    def steps(self, plan: Plan, prefix: str, end: str = "success") -> None:
        """Add the steps of a plan and its end. `prefix` is printed left of an inner plan."""
        names, flows = min(max(cells(step.name) for step in plan.steps), NAME_WIDTH), True
        for step in plan.steps:
            going = arrows(plan, step)
            flows = going[0].direction == "next"
            self._step(step, going, prefix, "●", "│" if flows else " ", names)
            self.add(f"{prefix}{'│' if flows else ''}")
        if flows:
            self.add(f"{prefix}◆ {end}")
        else:
            self.lines.pop()
        for name, handler in drawn_handlers(plan).items():
            self.add(prefix.rstrip())
            self.add(f"{prefix}{name}  ", HANDLER_TITLES[name])
            self.steps(handler, prefix, HANDLER_END)

    def _step(
        self, step: Step, going: list[Arrow], prefix: str, mark: str, rail: str, names: int
    ) -> None:
        name = pad(step.name, names)
        head = f"{prefix}{mark} {name}  {pad(step.kind, KIND_WIDTH)}"
        self.add(f"{head}{KINDS[step.kind].summary(step)}")
        indent = pad(f"{prefix}{rail}", cells(prefix) + names + 4)
        for line in [escape(step.description, 300), *notes(step)]:
            self._indented(indent, line, dim=True)
        for arrow in going:
            self._indented(indent, _words(arrow), dim=False)
        self._inside(step, f"{prefix}{rail}   ")

    def _inside(self, step: Step, prefix: str) -> None:
        if step.inner is not None:
            self.add(f"{prefix}")
            self.steps(step.inner, prefix)
        if step.steps:
            names = min(max(cells(child.name) for child in step.steps), NAME_WIDTH)
            for child in step.steps:
                last = child is step.steps[-1]
                self._step(child, [], prefix, "└" if last else "├", " " if last else "│", names)

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


def mermaid(plan: Plan) -> str:
    """The plan as a Mermaid flowchart, top down.

    Solid arrows lead to the next step, dotted arrows are for failures. No text of a plan can become
    Mermaid syntax: fractale makes the node ids, and labels are quoted with every special character
    as an entity.
    """
    chart = _Flowchart()
    chart.plan(plan, "    ")
    head = [
        "---",
        f"title: {json.dumps(title_of(plan), ensure_ascii=False)}",
        "---",
        "flowchart TD",
    ]
    return "\n".join([*head, f"    %% {UNDRAWN}", *chart.lines]) + "\n"


def label(text: str) -> str:
    """A quoted label."""
    return f'"{escape(text).translate(ENTITIES)}"'


class _Flowchart:
    """Collects the lines of one flowchart."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._groups: set[str] = set()
        self._count = 0

    def plan(self, plan: Plan, indent: str, end: str = END_SUCCESS) -> None:
        """The steps of a plan, its start and its ends. `end` is the text of its success."""
        ids = {step.name: self._id() for step in plan.steps}
        start = self._id()
        self.lines.append(f'{indent}{start}(["start"])')
        for step in plan.steps:
            self._node(step, ids[step.name], indent)
        self.lines.append(f"{indent}{start} --> {ids[plan.steps[0].name]}")
        for step in plan.steps:
            self._leaving(plan, step, ids, indent, end)
        for name, handler in drawn_handlers(plan).items():
            group = self._id()
            title = label(f"{name}: {HANDLER_TITLES[name]}")
            self.lines.append(f"{indent}subgraph {group}[{title}]")
            self.plan(handler, indent + "    ", HANDLER_END)
            self.lines.append(f"{indent}end")

    def _leaving(self, plan: Plan, step: Step, ids: dict[str, str], indent: str, end: str) -> None:
        going = arrows(plan, step)
        for target in dict.fromkeys(arrow.target for arrow in going):
            together = [arrow for arrow in going if arrow.target == target]
            if target not in ids:
                ids[target] = self._id()
                words = end if target == END_SUCCESS else target
                self.lines.append(f"{indent}{_end(ids[target], words)}")
            named = len(going) > 1 or together[0].event != "success"
            self._edge(ids[step.name], ids[target], together, indent, named=named)

    def _edge(
        self, source: str, target: str, together: list[Arrow], indent: str, *, named: bool
    ) -> None:
        line = "-.->" if all(arrow.failing for arrow in together) else "-->"
        words = f"|{label(', '.join(arrow.event for arrow in together))}|" if named else ""
        if source == target and source in self._groups:
            # Mermaid cannot draw an arrow from a subgraph to itself, so a node is put between.
            again = self._id()
            self.lines.append(f'{indent}{again}(("again"))')
            self.lines.append(f"{indent}{source} {line}{words} {again}")
            self.lines.append(f"{indent}{again} --> {target}")
            return
        self.lines.append(f"{indent}{source} {line}{words} {target}")

    def _node(self, step: Step, name: str, indent: str) -> None:
        if step.inner is None and not step.steps:
            left, right = KINDS[step.kind].in_brackets
            self.lines.append(f"{indent}{name}{left}{_step_label(step)}{right}")
            return
        self._groups.add(name)
        self.lines.append(f"{indent}subgraph {name}[{_step_label(step)}]")
        for child in step.steps:
            self._node(child, self._id(), indent + "    ")
        if step.inner is not None:
            self.plan(step.inner, indent + "    ")
        self.lines.append(f"{indent}end")

    def _id(self) -> str:
        self._count += 1
        return f"n{self._count}"


def _step_label(step: Step) -> str:
    rows = [step.name, f"{step.kind} {KINDS[step.kind].summary(step)}".strip(), *notes(step)]
    return '"' + "<br/>".join(escape(row, 120).translate(ENTITIES) for row in rows) + '"'


def _end(name: str, target: str) -> str:
    if target in (END_SUCCESS, END_FAILED, HANDLER_END):
        return f'{name}(["{target}"])'
    return f"{name}[{label(f'{target}: no such step')}]"
