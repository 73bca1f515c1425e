"""A plan as a Mermaid flowchart, as GitHub and most documentation tools draw it.

Parallel blocks and included plans are subgraphs. Nothing of a plan's text can become Mermaid
syntax: node ids are our own, and labels are quoted with every special character as an entity.
"""

from __future__ import annotations

import json

from fractale.plan.diagram import UNDRAWN, Arrow, arrows, notes, target_words, title_of
from fractale.plan.inert import inert
from fractale.plan.model import END_FAILED, END_SUCCESS, Plan, Step

SHAPES = {
    "tool": ("[", "]"),
    "prompt": ("(", ")"),
    "agent": ("(", ")"),
    "plan": ("[[", "]]"),
    "parallel": ("[", "]"),
    "job": ("[/", "/]"),
}
ENTITIES = {ord(c): f"#{ord(c)};" for c in '"#&<>`\\[]{}()|;%*~'}
"""Characters that Mermaid, its Markdown labels or HTML would read, by their entities."""


def mermaid(plan: Plan) -> str:
    """The plan as a Mermaid flowchart, top down.

    Solid arrows are what a step goes on to, dotted ones where it goes after a failure.
    """
    chart = _Chart()
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
    return f'"{inert(text).translate(ENTITIES)}"'


class _Chart:
    """Collects the lines of one flowchart."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._groups: set[str] = set()
        self._count = 0

    def plan(self, plan: Plan, indent: str) -> None:
        """The steps of a plan, its start and its ends."""
        ids = {step.name: self._id() for step in plan.steps}
        start = self._id()
        self.lines.append(f'{indent}{start}(["start"])')
        for step in plan.steps:
            self._node(step, ids[step.name], indent)
        self.lines.append(f"{indent}{start} --> {ids[plan.steps[0].name]}")
        for step in plan.steps:
            self._leaving(plan, step, ids, indent)

    def _leaving(self, plan: Plan, step: Step, ids: dict[str, str], indent: str) -> None:
        going = arrows(plan, step)
        for target in dict.fromkeys(arrow.target for arrow in going):
            together = [arrow for arrow in going if arrow.target == target]
            if target not in ids:
                ids[target] = self._id()
                self.lines.append(f"{indent}{_end(ids[target], target)}")
            named = len(going) > 1 or together[0].event != "success"
            self._edge(ids[step.name], ids[target], together, indent, named=named)

    def _edge(
        self, source: str, target: str, together: list[Arrow], indent: str, *, named: bool
    ) -> None:
        line = "-.->" if all(arrow.failing for arrow in together) else "-->"
        words = f"|{label(', '.join(arrow.event for arrow in together))}|" if named else ""
        if source == target and source in self._groups:
            # Mermaid has no arrow from a subgraph to itself: one more node stands between.
            again = self._id()
            self.lines.append(f'{indent}{again}(("again"))')
            self.lines.append(f"{indent}{source} {line}{words} {again}")
            self.lines.append(f"{indent}{again} --> {target}")
            return
        self.lines.append(f"{indent}{source} {line}{words} {target}")

    def _node(self, step: Step, name: str, indent: str) -> None:
        if step.plan is None and not step.steps:
            left, right = SHAPES[step.kind]
            self.lines.append(f"{indent}{name}{left}{_step_label(step)}{right}")
            return
        self._groups.add(name)
        self.lines.append(f"{indent}subgraph {name}[{_step_label(step)}]")
        for child in step.steps:
            self._node(child, self._id(), indent + "    ")
        if step.plan is not None:
            self.plan(step.plan, indent + "    ")
        self.lines.append(f"{indent}end")

    def _id(self) -> str:
        self._count += 1
        return f"n{self._count}"


def _step_label(step: Step) -> str:
    rows = [step.name, f"{step.kind} {target_words(step)}".strip(), *notes(step)]
    return '"' + "<br/>".join(inert(row, 120).translate(ENTITIES) for row in rows) + '"'


def _end(name: str, target: str) -> str:
    if target in (END_SUCCESS, END_FAILED):
        return f'{name}(["{target}"])'
    return f"{name}[{label(f'{target}: there is no such step')}]"
