"""A plan as a graph: pure, deterministic, drawn as its author thinks of it, and long ones too."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

import fractale
from fractale.graph.compile import FLAT_STEPS, compile_plan, node_of
from fractale.graph.context import Dependencies
from fractale.plan.kinds import KINDS
from fractale.testing import FakeToolServer

PLAN = """
name: retry
steps:
  - {name: transform, tool: t, transitions: {failure: transform}, max_attempts: 3}
  - name: validate
    tool: t
    rules: {odd: [returncode == 7]}
    transitions: {failure: transform, odd: report}
  - name: block
    parallel:
      - {name: left, tool: t}
      - {name: right, tool: t}
  - {name: sweep, tool: t, foreach: [1, 2]}
  - {name: chain, steps: [{name: link, tool: t}]}
  - {name: report, tool: t}
"""


def graph_of(text: str):
    return compile_plan(fractale.load(text), Dependencies(toolbox=FakeToolServer()))


def test_steps_are_nodes_and_events_are_labelled_edges():
    drawing = graph_of(PLAN).compile().get_graph()
    assert set(drawing.nodes) >= {"transform", "validate", "block", "sweep", "report"}
    edges = {(e.source, e.target, e.data) for e in drawing.edges}
    assert ("validate", "transform", "failure") in edges
    assert ("validate", "report", "odd") in edges
    assert ("validate", "block", "success") in edges


def test_langgraphs_own_xray_shows_what_is_inside():
    drawing = graph_of(PLAN).compile().get_graph(xray=True)
    assert {"block:left", "block:right", "sweep:item", "chain:link"} <= set(drawing.nodes)


@pytest.mark.parametrize("seed", ["0", "1", "12345"])
def test_the_same_plan_gives_the_same_graph_under_any_hash_seed(seed):
    code = (
        "import fractale, sys\n"
        "from fractale.testing import FakeToolServer\n"
        "from fractale.graph.context import Dependencies\n"
        "plan = fractale.load(sys.argv[1])\n"
        "graph = fractale.compile_plan(plan, Dependencies(toolbox=FakeToolServer())).compile()\n"
        "print(graph.get_graph(xray=True).draw_mermaid())\n"
    )

    def drawn(hash_seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code, PLAN], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert drawn(seed) == graph_of(PLAN).compile().get_graph(xray=True).draw_mermaid() + "\n"


def chain(length: int, last: str = "") -> str:
    steps = "\n".join(
        f"  - {{name: s{i}, tool: count, inputs: {{n: '{{{{ steps.s{i - 1}.outputs.n }}}}'}}}}"
        for i in range(1, length)
    )
    return f"name: long\nsteps:\n  - {{name: s0, tool: count, inputs: {{n: 0}}}}\n{steps}\n{last}"


def counting() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def count(n: int) -> dict:
        return {"n": n + 1}

    return server


def test_a_short_plan_has_no_segments():
    drawing = graph_of(chain(FLAT_STEPS)).compile().get_graph()
    assert "s0" in drawing.nodes


@pytest.mark.parametrize("length", [FLAT_STEPS + 1, 100])
async def test_a_long_plan_runs_the_same_in_segments(run_plan, length):
    outputs = f"outputs: {{n: '{{{{ steps.s{length - 1}.outputs.n }}}}'}}"
    seen = await run_plan(chain(length, outputs), tools=counting())
    assert seen.result.outputs == {"n": length}
    assert [s["name"] for s in seen.result.steps] == [f"s{i}" for i in range(length)]


async def test_transitions_cross_segments_in_both_directions(run_plan):
    length = FLAT_STEPS + 20
    text = chain(length).replace(
        f"- {{name: s{length - 2}, tool: count,",
        f"- {{name: s{length - 2}, tool: count, "
        f"rules: {{back: [steps.s3.attempts < 3]}}, transitions: {{back: s3}},",
    )
    text = text.replace(
        "- {name: s5, tool: count,",
        "- {name: s5, tool: count, "
        f"rules: {{on: [steps.s3.attempts == 2]}}, transitions: {{on: s{length - 2}}},",
    )
    text = text.replace(
        f"n: '{{{{ steps.s{length - 3}.outputs.n }}}}'",
        f"n: '{{{{ steps.s{length - 3}.outputs.n | default(0) }}}}'",
    )
    seen = await run_plan(text, tools=counting())
    names = [s["name"] for s in seen.result.steps]
    first = [f"s{i}" for i in range(length - 1)]
    jumped = ["s3", "s4", "s5", f"s{length - 2}"]
    third = [f"s{i}" for i in range(3, length)]
    assert seen.status == "success"
    assert names == first + jumped + third


def test_a_step_is_found_in_its_segment():
    plan = fractale.load(chain(100))
    assert node_of(plan, "s3") == "s0..s15"
    assert node_of(fractale.load(PLAN), "sweep") == "sweep"
    with pytest.raises(KeyError):
        node_of(plan, "nowhere")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_step_has_a_file_of_its_name_that_builds_it(kind):
    assert callable(importlib.import_module(f"fractale.graph.kinds.{kind}").build)
