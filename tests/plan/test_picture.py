"""Pictures of plans and of runs: arrows keep clear of boxes, labels are whole, text stays text."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from xml.dom import minidom

import pytest

from fractale.plan import draw
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.escape import cells
from fractale.plan.model import Plan
from fractale.plan.picture import LABEL_CHARACTER, MOST_DRAWN, PAGE_STYLE, svg
from fractale.plan.way import ItemCounts, RunWay, StepState

PLANS = Path(__file__).parents[2] / "plans"
NAMESPACE = "{http://www.w3.org/2000/svg}"

LOOPS = """
name: loops
steps:
  - {name: first, tool: t}
  - name: search
    tool: next
    rules: {done: [stop]}
    transitions: {success: trial, done: report, failure: search}
  - name: trial
    foreach: [1, 2, 3]
    script: |
      #!/bin/sh
      set -e
      exec {{ inputs.mpirun }} {{ inputs.ranks }} lmp -in {{ inputs.input }} -log none
    transitions: {success: search, failure: search}
  - {name: report, tool: r}
  - {name: last, tool: t, transitions: {failure: first, success: search}}
inputs: {mpirun: mpirun, ranks: 2, input: in.lj}
"""

# -- what a drawing holds -------------------------------------------------------------------------


@dataclass
class Area:
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Area, by: float = 0.5) -> bool:
        return (
            self.left + by < other.right
            and other.left + by < self.right
            and self.top + by < other.bottom
            and other.top + by < self.bottom
        )


@dataclass
class Level:
    """One plan or block of a picture, in the coordinates of the picture.

    Args:
        lines: The rectangles around the pieces of arrows: straight, or short.
    """

    boxes: list[Area] = field(default_factory=list[Area])
    lines: list[Area] = field(default_factory=list[Area])
    labels: list[tuple[str, Area]] = field(default_factory=list[tuple[str, Area]])


def levels(root: ET.Element) -> list[Level]:
    """The levels of a picture, each with the elements of its own."""
    found: list[Level] = []
    read(root, 0.0, 0.0, Level(), found)
    return found


def read(element: ET.Element, x: float, y: float, level: Level, found: list[Level]) -> None:
    if moved := re.search(r"translate\(([\d.-]+) ([\d.-]+)\)", element.get("transform", "")):
        x, y = x + float(moved[1]), y + float(moved[2])
        if element.tag.endswith("}g"):
            level = Level()
            found.append(level)
    kind, style = element.tag.removeprefix(NAMESPACE), element.get("class", "").split()
    if kind == "rect" and style:
        left, top = x + float(element.get("x", 0)), y + float(element.get("y", 0))
        size = float(element.get("width", 0)), float(element.get("height", 0))
        level.boxes.append(Area(left, top, left + size[0], top + size[1]))
    elif kind == "path" and "way" in style:
        ends = [(x + a, y + b) for a, b in points(element.get("d", ""))]
        level.lines += [
            Area(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in pairwise(ends)
        ]
    elif kind == "text" and "label" in style:
        words = element.text or ""
        left, base = x + float(element.get("x", 0)), y + float(element.get("y", 0))
        right = left + cells(words) * LABEL_CHARACTER
        level.labels.append((words, Area(left, base - 9, right, base + 2)))
    for child in element:
        read(child, x, y, level, found)


def points(path: str) -> Iterator[tuple[float, float]]:
    """The ends of straight lines, and points along the curves, of a path."""
    x = y = 0.0
    for command, numbers in re.findall(r"([MVHCQ])([-\d. ]+)", path):
        values = [float(number) for number in numbers.split()]
        match command:
            case "M":
                control = [(values[0], values[1])]
            case "V":
                control = [(x, values[0])]
            case "H":
                control = [(values[0], y)]
            case _:
                control = list(zip(values[::2], values[1::2], strict=True))
                yield from (bezier([(x, y), *control], i / 12) for i in range(1, 12))
        x, y = control[-1]
        yield x, y


def bezier(control: list[tuple[float, float]], t: float) -> tuple[float, float]:
    while len(control) > 1:
        control = [(a + (c - a) * t, b + (d - b) * t) for (a, b), (c, d) in pairwise(control)]
    return control[0]


def crosses(line: Area, box: Area) -> bool:
    """Whether a piece of an arrow is inside of a box; at its edge it may be."""
    by = 0.6
    return (
        line.left < box.right - by
        and box.left + by < line.right
        and line.top < box.bottom - by
        and box.top + by < line.bottom
    )


def faults(picture: str) -> list[str]:
    """Everything in a picture that cannot be read: empty if all is well."""
    root = ET.fromstring(picture)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    found: list[str] = []
    for level in levels(root):
        for i, box in enumerate(level.boxes):
            found += ["two boxes overlap" for each in level.boxes[i + 1 :] if box.overlaps(each)]
        for line in level.lines:
            found += [f"a line crosses a box: {line}" for box in level.boxes if crosses(line, box)]
            if min(line.left, line.top) < -0.5 or line.right > width or line.bottom > height:
                found.append(f"a line leaves the picture: {line}")
        for i, (words, area) in enumerate(level.labels):
            found += [f"`{words}` is on a box" for box in level.boxes if area.overlaps(box)]
            others = level.labels[i + 1 :]
            found += [f"`{words}` is on `{w}`" for w, other in others if area.overlaps(other)]
            found += [f"a line crosses `{words}`" for line in level.lines if crosses(line, area)]
            if area.left < 0 or area.right > width or area.bottom > height:
                found.append(f"`{words}` leaves the picture")
            if words.endswith("…"):
                found.append(f"`{words}` is cut")
    return found


def looped() -> Plan:
    return parse_plan(LOOPS)


# -- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    sorted(PLANS.glob("*.yaml")) + sorted(PLANS.glob("examples/*.yaml")),
    ids=lambda f: f.stem,
)
def test_every_plan_of_the_repository_can_be_read(file: Path):
    plan = load_plan(file)
    assert faults(svg(plan)) == []
    assert faults(svg(plan, RunWay())) == []


def test_a_way_back_goes_around_what_is_beside_it_and_its_label_is_whole():
    picture = svg(looped())
    assert faults(picture) == []
    assert ">success, failure<" in picture


def test_arrows_of_any_plan_keep_clear_of_boxes():
    base = parse_plan("name: p\nsteps: [{name: a, tool: t}]")
    events = ["success", "failure", "other", "a-much-longer-event-of-this-plan", "x" * 50]
    for seed in range(300):
        chance = Random(seed)
        names = [f"s{i}" for i in range(chance.randint(1, 10))]
        targets = [*names, "success", "failed"]
        steps = [
            replace(
                base.steps[0],
                name=name,
                target="t" * chance.randint(1, 40),
                transitions={
                    event: chance.choice(targets) for event in events if chance.random() < 0.4
                },
                max_attempts=chance.choice([None, 3]),
            )
            for name in names
        ]
        plan = replace(base, steps=tuple(steps))
        taken = {(s.name, t): 12 for s in steps for t in [*s.transitions.values(), "failed"]}
        assert faults(svg(plan, chance.choice([None, RunWay(arrows=taken)]))) == [], f"plan {seed}"


# -- the way of a run -----------------------------------------------------------------------------


def way_of_loops() -> RunWay:
    return RunWay(
        steps={
            "first": StepState(state="success", attempts=1),
            "search": StepState(state="success", attempts=3),
            "trial": StepState(
                state="failed",
                attempts=2,
                items=ItemCounts(total=100, done=3, failed=1),
                shown_by="trial[1]",
            ),
        },
        arrows={("first", "search"): 1, ("search", "trial"): 2, ("trial", "search"): 2},
        events={("trial", "success"): 1, ("trial", "failure"): 1},
    )


def test_a_run_marks_states_in_words_and_the_way_by_counts():
    picture = svg(looped(), way_of_loops())
    for words in ("success \u00d73", "failed \u00d72 · 3/100 items, 1 failed", "not reached"):
        assert f">{words}<" in picture
    root = ET.fromstring(picture)
    styles = [element.get("class", "") for element in root.iter()]
    assert sum("way" in s and " taken" in s for s in styles) == 4  # with that of the start
    assert any("untaken" in s for s in styles)
    assert ">success, failure \u00d72<" in picture


def test_a_run_is_drawn_as_text_and_as_mermaid():
    drawn = draw.text(looped(), way=way_of_loops())
    assert "✗ trial" in drawn
    assert "failed \u00d72 · 3/100 items, 1 failed" in drawn
    assert "success → search (back)  (taken)" in drawn
    assert "○ report" in drawn
    chart = draw.mermaid(looped(), way_of_loops())
    assert "==>" in chart
    assert "classDef failed" in chart


def test_a_failure_that_ended_the_plan_has_its_arrow():
    plan = parse_plan("name: p\nsteps: [{name: a, tool: t}, {name: b, tool: t}]")
    way = RunWay(steps={"a": StepState(state="failed", attempts=1)}, arrows={("a", "failed"): 1})
    assert ">failed<" not in svg(plan)
    assert svg(plan, way).count('class="is-failed"') == 1
    assert "failure → failed" in draw.text(plan, way=way)
    assert draw.text(plan, way=way).endswith("success  not reached\n")


def test_states_do_not_move_anything():
    def places(picture: str) -> list[str]:
        return re.findall(r'<(?:rect|path class="way)[^>]*?(?:x=|d=)"[^"]*"', picture)

    before, after = svg(looped(), RunWay()), svg(looped(), way_of_loops())
    geometry = [re.sub(r'class="[^"]*"', "", each) for each in places(before)]
    assert sorted(geometry) == sorted(re.sub(r'class="[^"]*"', "", each) for each in places(after))


# -- in a page ------------------------------------------------------------------------------------


def test_a_page_gets_links_and_neither_styles_nor_ids():
    root = ET.fromstring(svg(looped(), way_of_loops(), page=True, prefix="r1-"))
    links = {element.get("data-step"): element.get("href") for element in root.iter("a")}
    assert links == {  # of the steps that were reached
        "first": "#r1-step-first",
        "search": "#r1-step-search",
        "trial": "#r1-step-trial%5B1%5D",
    }
    steps = [element.get("data-step") for element in root.iter() if element.get("data-step")]
    assert steps == ["first", "search", "trial", "report", "last"]
    assert all(element.find("title") is not None for element in root.iter("a"))
    for element in root.iter():
        assert element.tag in {"svg", "g", "a", "title", "rect", "path", "text"}
        assert not {"style", "id", "fill", "stroke"} & set(element.keys())
    assert root.find("title") is not None
    named = set(re.findall(r"\.plan-picture [^{]*?\.([a-z-]+)", PAGE_STYLE))
    used = {c for element in root.iter() for c in element.get("class", "").split()}
    assert used - named <= {"plan-picture", "step", "is-kept"}


def test_paths_of_inner_steps_are_links():
    plan = parse_plan(
        "name: p\nsteps:\n  - name: each\n    foreach: [1, 2]\n    steps: [{name: in, tool: t}]\n"
        "  - {name: both, parallel: [{name: x, tool: t}, {name: y, tool: t}]}\n"
        "finally: [{name: clean, tool: t}]"
    )
    found = re.findall(r'data-step="([^"]*)"', svg(plan, page=True))
    assert found == ["each", "each/in", "both", "both/x", "both/y", "finally/clean"]


HOSTILE = "\"><script>alert(1)</script> \x00\x1b[2J\u202e&amp; ' onload='x' javascript:alert(1)"


@pytest.mark.parametrize("page", [True, False])
def test_nothing_that_a_plan_or_run_says_becomes_markup(page: bool):
    plan = looped()
    steps = [
        replace(
            step, name=f"{step.name} {HOSTILE}", target=HOSTILE, transitions={HOSTILE: "failed"}
        )
        for step in plan.steps
    ]
    hostile = replace(plan, name=HOSTILE, steps=tuple(steps))
    states = {step.name: StepState(state="failed", attempts=2) for step in steps}
    picture = svg(hostile, RunWay(steps=states), page=page)
    root = ET.fromstring(picture)
    tags = {element.tag.removeprefix(NAMESPACE) for element in root.iter()}
    assert tags <= {"svg", "style", "g", "a", "title", "rect", "path", "text"}
    names = {name for element in root.iter() for name in element.keys()}  # noqa: SIM118
    assert not any(name.startswith("on") for name in names)
    assert all(a.get("href", "").startswith("#step-") for a in root.iter("a"))
    assert "\u202e" not in picture
    minidom.parseString(picture)


# -- many steps -----------------------------------------------------------------------------------


def chain(count: int) -> Plan:
    rows = [
        f" - {{name: s{i}, tool: t, transitions: {{failure: s{max(i - 3, 0)}}}}}"
        for i in range(count)
    ]
    return parse_plan("name: long\nsteps:\n" + "\n".join(rows))


def test_a_plan_of_many_steps_is_a_list_with_states():
    plan = chain(MOST_DRAWN + 200)
    way = RunWay(steps={"s7": StepState(state="failed", attempts=2)})
    picture = svg(plan, way, page=True)
    assert faults(picture) == []
    assert picture.count("data-step=") == MOST_DRAWN + 200
    assert ">failed \u00d72<" in picture
    assert "is drawn as a list" in picture


def test_the_time_to_draw_grows_with_the_steps_and_states_cost_no_layout():
    small, large = chain(MOST_DRAWN), chain(10 * MOST_DRAWN)

    def seconds(plan: Plan, way: RunWay) -> float:
        began = time.perf_counter()
        svg(plan, way, page=True)
        return time.perf_counter() - began

    first = seconds(small, RunWay())
    again = min(
        seconds(small, RunWay(steps={f"s{i}": StepState(state="success")})) for i in range(3)
    )
    assert again < first / 2
    assert min(seconds(large, RunWay()) for _ in range(3)) < 5 * first
