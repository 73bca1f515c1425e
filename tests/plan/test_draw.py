"""Drawings of plans: what they show, that nothing in a plan can break them, what they need."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counts import examples
from fractale.errors import DependencyMissing
from fractale.plan import draw
from fractale.plan.build import parse_plan
from fractale.plan.draw import label
from fractale.plan.escape import cells, escape
from fractale.plan.model import Plan
from snapshot import assert_same

INNER = """
name: Build
steps:
  - {name: fetch, tool: git_clone}
  - name: make
    tool: make_all
    transitions: {failure: fetch}
    max_attempts: 3
"""

TUNE = """
name: 'Tune "LAMMPS" <quickly> & well'
description: Build it, test it two ways at once, run a sweep, and explain what came out.
inputs:
  script: {type: string, required: true}
  key: {secret: true}
  nodes: 4
steps:
  - name: build
    plan: build.yaml
    transitions: {failure: build}
    max_attempts: 2
  - name: checks
    parallel:
      - {name: unit, tool: run_ctest}
      - {name: lint, agent: reviewer, description: Reads the code}
    transitions: {failure: repair}
  - name: sweep
    tool: lammps_run
    foreach: {x: inputs.nodes, y: [1, 2, 4]}
    max_parallel: 4
    keep_going: true
    approve: ask
    rules:
      slow: ["seconds > 100"]
      failure: ["returncode != 0", "not log"]
    transitions: {slow: repair, failure: sweep}
  - name: report
    agent: ask
    instruction: write it
    when: steps.sweep.outputs
    transitions: {success: success}
  - name: repair
    type: plan
    description: Finds out why and changes the input script.
    transitions: {success: checks, failure: failed}
    max_attempts: 3
outputs: {report: "{{ steps.report.outputs.content }}"}
"""

TRIAGE = """
name: triage
steps:
  - name: classify
    agent: ask
    rules: {oom: [memory], slow: [time], bad: [other]}
    transitions: {success: done, oom: memory, slow: profile, bad: done}
  - {name: memory, tool: raise_memory, transitions: {success: rerun}}
  - {name: profile, tool: profile_job, transitions: {success: rerun, failure: failed}}
  - {name: rerun, tool: submit, transitions: {failure: classify, success: done}}
  - {name: done, tool: notify}
"""

HOSTILE = '\x1b[2J"]; click n1 "javascript:alert(1)" <script>`|x|` %% end --> [[ \u202e&amp;#35;'


@pytest.fixture
def tune() -> Plan:
    return parse_plan(TUNE, "tune.yaml", include=lambda name, _: parse_plan(INNER, name))


@pytest.fixture
def hostile(tune: Plan) -> Plan:
    """A plan all of whose free text tries to be something else."""
    steps = [
        replace(step, target=HOSTILE, description=HOSTILE, transitions={HOSTILE: "report"})
        for step in tune.steps
    ]
    return replace(tune, name=HOSTILE, description=HOSTILE, steps=tuple(steps))


class TestText:
    def test_it_reads_like_the_plan(self, tune: Plan):
        assert_same("draw_tune", draw.text(tune))

    def test_branches_name_where_they_lead(self):
        assert_same("draw_triage", draw.text(parse_plan(TRIAGE)))

    @pytest.mark.parametrize("width", [40, 60, 80, 120])
    def test_no_line_is_wider_than_the_terminal(self, tune: Plan, width: int):
        assert max(cells(line) for line in draw.text(tune, width).split("\n")) <= width

    def test_colour_changes_no_word(self, tune: Plan):
        assert escape(draw.text(tune, color=True), lines=True) == draw.text(tune)
        assert "\x1b" not in draw.text(tune)

    def test_a_transition_to_nowhere_is_drawn_as_such(self):
        plan = parse_plan("name: p\nsteps: [{name: a, tool: t, transitions: {success: b}}]")
        assert "success → b (no such step)" in draw.text(plan)

    def test_what_a_plan_says_cannot_reach_the_terminal(self, hostile: Plan):
        drawn = draw.text(hostile)
        assert "\x1b" not in drawn
        assert "\u202e" not in drawn


class TestMermaid:
    NODE = r'n\d+(\["[^"]*"\]|\("[^"]*"\)|\[\["[^"]*"\]\]|\(\["[^"]*"\]\)|\(\("[^"]*"\)\))'
    LINE = re.compile(
        rf'\s*({NODE}|subgraph n\d+\["[^"]*"\]|end|n\d+ (-->|-\.->)(\|"[^"]*"\|)? n\d+|%% [\w ,.]+)'
    )

    def test_it_shows_steps_blocks_plans_and_events(self, tune: Plan):
        assert_same("draw_tune_mermaid", draw.mermaid(tune))

    def test_every_line_is_of_a_known_form(self, tune: Plan, hostile: Plan):
        for plan in (tune, hostile, parse_plan(TRIAGE)):
            head, *lines = draw.mermaid(plan).split("flowchart TD\n")[1].rstrip("\n").split("\n")
            for line in (head, *lines):
                assert self.LINE.fullmatch(line), line

    def test_every_arrow_joins_things_that_are_there(self, tune: Plan):
        drawn = draw.mermaid(tune)
        ids = set(re.findall(r"^\s*(?:subgraph )?(n\d+)[\[(]", drawn, re.M))
        arrows = re.findall(r'^\s*(n\d+) -\.?->(?:\|"[^"]*"\|)? (n\d+)$', drawn, re.M)
        assert arrows
        assert {name for arrow in arrows for name in arrow} <= ids

    @given(st.text())
    def test_a_label_holds_nothing_but_text(self, text: str):
        inside = label(text)[1:-1]
        assert not re.search(r"[\"<>`\\|\[\]{}()&;#\n]", re.sub(r"#\d+;", "", inside))


class TestPicture:
    def test_the_svg_is_xml_that_names_every_step(self, tune: Plan):
        words = {element.text for element in ET.fromstring(draw.svg(tune)).iter()}
        assert {step.name for step in tune.walk()} <= words
        assert {"fetch", "make", "slow", "success", "failed", tune.name} <= words

    def test_what_a_plan_says_stays_text(self, hostile: Plan):
        root = ET.fromstring(draw.svg(hostile))
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "g", "title", "style", "defs", "marker", "path", "rect", "text"}

    @pytest.mark.parametrize("source", [TUNE, TRIAGE])
    def test_boxes_lie_apart_and_inside_the_picture(self, source: str):
        plan = parse_plan(source, include=lambda name, _: parse_plan(INNER, name))
        root = ET.fromstring(draw.svg(plan))
        width, height = float(root.get("width", 0)), float(root.get("height", 0))
        for group in root.iter("{http://www.w3.org/2000/svg}g"):
            boxes = [rectangle(r) for r in group.findall("{http://www.w3.org/2000/svg}rect")]
            for i, a in enumerate(boxes):
                assert 0 <= a[0] <= a[2] <= width
                assert 0 <= a[1] <= a[3] <= height
                assert not any(overlap(a, b) for b in boxes[i + 1 :])

    def test_the_same_plan_gives_the_same_drawing(self, tune: Plan):
        again = parse_plan(TUNE, "tune.yaml", include=lambda name, _: parse_plan(INNER, name))
        assert draw.svg(tune) == draw.svg(again)
        assert draw.text(tune) == draw.text(again)
        assert draw.mermaid(tune) == draw.mermaid(again)

    def test_the_png_has_two_pixels_to_a_unit(self):
        plan = parse_plan(TRIAGE)
        try:
            data = draw.png(plan)
        except DependencyMissing as error:
            pytest.skip(error.message)
        root = ET.fromstring(draw.svg(plan))
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert int.from_bytes(data[16:20]) == 2 * int(root.get("width", 0))
        assert int.from_bytes(data[20:24]) == 2 * int(root.get("height", 0))

    def test_only_a_png_needs_a_further_package(self):
        code = (
            "import sys; sys.modules['resvg_py'] = None\n"
            "from fractale.errors import DependencyMissing\n"
            "from fractale.plan import draw\nfrom fractale.plan.build import parse_plan\n"
            "plan = parse_plan('name: p\\nsteps: [{name: a, tool: t}]')\n"
            "try: draw.png(plan)\n"
            "except DependencyMissing as e: print(e.message, '|', e.hint)\n"
            "draw.text(plan), draw.mermaid(plan), draw.svg(plan)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "drawing a PNG needs resvg-py | pip install 'fractale[draw]'\n"

    def test_a_plan_of_hundreds_of_steps_is_drawn(self):
        rows = [
            f" - {{name: s{i}, tool: t, transitions: {{failure: s{max(i - 3, 0)}}}}}"
            for i in range(300)
        ]
        plan = parse_plan("name: long\nsteps:\n" + "\n".join(rows))
        assert draw.svg(plan).count('class="name"') >= 300


def rectangle(element: ET.Element) -> tuple[float, float, float, float]:
    x, y, w, h = (float(element.get(key, 0)) for key in ("x", "y", "width", "height"))
    return x, y, x + w, y + h


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


plain_names = st.from_regex(r"[a-z][a-z0-9_-]{0,30}", fullmatch=True)


@settings(max_examples=examples(40), deadline=None)
@given(st.data())
def test_any_wiring_of_steps_can_be_drawn(data: st.DataObject):
    names = data.draw(st.lists(plain_names, min_size=1, max_size=8, unique=True))
    names = [name for name in names if name not in ("success", "failed", "failure")] or ["a"]
    targets = st.sampled_from([*names, "success", "failed"])
    events = st.dictionaries(st.sampled_from(["success", "failure", "other"]), targets)
    base = parse_plan("name: p\nsteps: [{name: a, tool: t}]")
    steps = [replace(base.steps[0], name=name, transitions=data.draw(events)) for name in names]
    plan = replace(base, steps=tuple(steps))
    assert all(name in draw.text(plan) for name in names)
    words = {element.text for element in ET.fromstring(draw.svg(plan)).iter()}
    assert set(names) <= words
    assert draw.mermaid(plan).count("\n") > len(names)
