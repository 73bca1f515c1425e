"""`fractale run --why`: for each step why it runs, or from which run it takes over its result."""

# ruff: noqa: ASYNC240 - these tests change files between runs
from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from fractale.plan.build import parse_plan
from fractale.record.history_reader import read_history
from fractale.record.recordings import open_recording
from fractale.render.why import why_lines, why_text
from fractale.replaying.replay import replay
from fractale.runs import RunOptions, Workspace
from fractale.runs.why import Why
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer

PLAN = """
name: p
inputs: {x: 1}
steps:
  - {name: a, tool: size, inputs: {path: in.dat, n: "{{ inputs.x }}"}}
  - {name: never, when: inputs.x > 90, tool: size}
  - {name: v, set: {k: "{{ steps.a.outputs.n }}"}}
  - {name: each, tool: size, foreach: "[1, values.k]", inputs: {n: "{{ item }}"}, cache: true}
  - name: par
    parallel:
      - {name: p1, tool: size, inputs: {n: 7}}
      - {name: p2, tool: size, inputs: {n: "{{ inputs.x }}"}}
  - name: ch
    steps:
      - {name: c1, tool: size, inputs: {n: "{{ steps.p2.outputs.n }}"}}
      - {name: c2, tool: size, inputs: {n: "{{ steps.c1.outputs.n }}"}}
  - {name: open, tool: look}
  - {name: last, tool: size, cache: false}
"""


@pytest.fixture
def tools() -> FakeToolServer:
    made = FakeToolServer()

    @made.tool(read_only=True)
    def size(path: str = "", n: int = 0) -> dict:
        return {"n": n + (len(Path(path).read_text()) if path else 0)}

    made.describe("look", annotations={"readOnlyHint": True, "openWorldHint": True}).answer(
        "look", "sky"
    )
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.dat").write_text("abc")
    return tmp_path


@pytest.fixture
def why(settings, tools, folder):
    del folder

    async def look(plan=PLAN, inputs=None, reuse=True, **more) -> dict[str, str]:
        loaded = parse_plan(plan, "p.yaml")
        async with Workspace.open(settings, loaded, tools=tools, **more) as workspace:
            found = await workspace.runs.why(loaded, inputs, RunOptions(reuse=reuse))
        return {each.step: why_text(each) for each in found}

    return look


async def test_before_the_first_run_nothing_equal_is_known(why, tools):
    found = await why()
    assert tools.calls == []
    assert found == {
        "a": "runs: nothing equal is known",
        "never": "skipped: `when` is false",
        "v": "runs: depends on step `a`, which runs",
        "each": "runs: depends on step `v`, which runs",
        "par/p1": "runs: nothing equal is known",
        "par/p2": "runs: nothing equal is known",
        "ch": "runs: depends on step `par/p2`, which runs",
        "open": "runs: not cacheable: `look` does not say that its world is closed "
        "(`openWorldHint: false`): its answer may change at any time; write `cache: true` in the "
        "step",
        "last": "runs: it says `cache: false`",
    }


async def test_after_a_run_it_says_what_is_taken_over_and_the_run_does_that(why, run_plan, tools):
    first = await run_plan(PLAN, tools=tools, reuse=True, keep=True)
    found = await why()
    now = f"({time.strftime('%H:%M')})"
    taken = f"taken over from run {first.result.run} {now}"
    assert found["a"].startswith(taken[:-7])
    steps = [step for step, text in found.items() if text.startswith("taken over")]
    assert steps == ["a", "each", "par/p1", "par/p2", "ch/c1", "ch/c2"]
    assert found["each"].endswith("items: 2 taken over")
    before = len(tools.calls)
    again = await run_plan(PLAN, tools=tools, reuse=True)
    assert len(tools.calls) == before + 2  # `open` and `last`
    reused = [e["step"] for e in again.of("step_finished") if e.get("reused")]
    assert sorted(reused) == sorted(set(steps) - {"each"})


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [
        ("input", "a", "runs: argument `n` differs from run {run}"),
        ("file", "a", "runs: file `in.dat` differs from run {run}"),
        ("no file", "a", "runs: file `in.dat` is missing, unlike in run {run}"),
        ("server", "a", "runs: the version of the server and 1 more differ from run {run}"),
        ("definition", "par/p1", "runs: the definition of the tool differs from run {run}"),
        ("new", "fresh", "runs: argument `n` and 1 more differ from run {run}"),
        ("off", "a", "runs: --no-cache"),
        ("only", "a", "runs: it does not say `cache`"),
    ],
)
async def test_the_first_difference_to_the_nearest_run_is_named(
    why, run_plan, tools, change, step, reason
):
    plan = PLAN
    first = await run_plan(plan, tools=tools, reuse=True, keep=True)
    inputs, reuse = ({"x": 5} if change == "input" else {}), True
    if change == "file":
        Path("in.dat").write_text("xyz")
    if change == "no file":
        Path("in.dat").unlink()
    if change == "server":
        tools.version = "2"
    if change == "definition":
        tools.describe("size", description="Other.", annotations={"readOnlyHint": True})
    if change == "new":
        plan = "name: q\nsteps: [{name: fresh, tool: size, inputs: {path: none.dat}}]"
    if change in ("off", "only"):
        reuse = False if change == "off" else None
    found = await why(plan, inputs, reuse)
    assert found[step].startswith(reason.format(run=first.result.run)), found[step]


async def test_a_result_whose_file_is_gone_is_named(why, run_plan, tools):
    @tools.tool
    def make(name: str) -> dict:
        path = Path(name).absolute()
        path.write_text("made")
        return {"path": str(path)}

    plan = """
    name: p
    steps: [{name: a, tool: make, inputs: {name: "out"}, cache: true}]
    """
    first = await run_plan(plan, tools=tools, keep=True)
    Path("out").unlink()
    found = await why(plan.replace("\n    ", "\n"))
    assert found["a"].startswith(f"runs: file `out` is missing, unlike in run {first.result.run}")


async def test_a_loop_and_a_failing_template_end_the_walk(why, run_plan, tools):
    plan = """
name: p
steps:
  - name: a
    tool: size
    cache: true
    rules: {again: ["n < 5"]}
    transitions: {again: b}
  - {name: b, tool: size, cache: true, transitions: {success: a}, max_attempts: 2}
"""
    await run_plan("name: p\nsteps: [{name: a, tool: size, cache: true}]", tools=tools)
    found = await why(plan)
    assert [text.partition(" (")[0][:10] for text in found.values()] == ["taken over"] * 2
    broken = "name: p\nsteps: [{name: a, tool: size, inputs: {n: '{{ 1 / 0 }}'}, cache: true}]"
    assert (await why(broken))["a"].startswith("runs: it will fail: ")


def test_what_a_plan_says_is_shown_inert():
    each = Why(step="a\x1b[31m", type="tool", verdict="runs", reason="x\x1b]0;bad\x07")
    (line,) = why_lines([each])
    assert "\x1b" not in line
    assert "\x07" not in line
    assert json.loads(json.dumps(each.as_dict()))["verdict"] == "runs"


# -- records of runs that took over results ------------------------------


async def test_a_replay_takes_over_what_the_run_took_over(run_plan, tools, settings, folder):
    del folder
    await run_plan(PLAN, tools=tools, reuse=True, keep=True)
    run = await run_plan(PLAN, tools=tools, reuse=True, keep=True)
    Path("in.dat").write_text("changed since")
    (settings.state_dir / "cache" / "secret").unlink()
    record = RunRecords(settings.state_dir).find(run.result.run)
    with open_recording(record.path, settings=settings) as recording:
        replayed = await replay(recording, settings)
    assert replayed.equal, replayed.divergence
    history = read_history(record)
    sources = {each.path: each.reused for each in history.attempts if each.reused}
    assert set(sources) == {"a", "par/p1", "par/p2", "ch/c1", "ch/c2"}
    (each,) = history.of_step("each")
    assert all(item.reused for item in each.items.values())
