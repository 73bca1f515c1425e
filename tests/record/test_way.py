"""The way of a run through its plan: states of steps, arrows taken, drafts in their place."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

import pytest
from langchain_core.messages import BaseMessage

from fractale.cli import run_command as fractale
from fractale.plan.way import ItemCounts, RunWay
from fractale.record.history import RunHistory
from fractale.record.history_reader import read_history
from fractale.record.plans import keep_plan
from fractale.record.way import picture_of_run, plan_of_run, way_taken
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer, Reply, ScriptedModel
from recording import Recording

PLAN = """
name: night
steps:
  - {name: make, tool: make}
  - name: check
    tool: check
    rules: {success: [valid], failure: [not valid]}
    transitions: {failure: make}
  - name: both
    parallel: [{name: left, tool: make}, {name: right, tool: make}]
  - name: sweep
    foreach: [1, 2, 3]
    keep_going: true
    steps:
      - {name: cut, tool: make}
      - {name: weigh, tool: weigh, inputs: {n: "{{ item }}"}}
  - {name: never, tool: make, when: "1 == 2"}
  - {name: drafted, type: plan, instruction: Look.}
  - {name: submit, tool: submit}
  - {name: mail, tool: make}
finally:
  - {name: clean, tool: make}
"""


def weigh(n: int) -> dict[str, object]:
    """Weigh one."""
    return {"exit_code": n - 1 if n < 3 else 0}


def drafts(messages: Sequence[BaseMessage]) -> Reply:
    """The answers of a planner that finds nothing out."""
    if messages[-1].text != "Write the steps.":
        return Reply(text="nothing to find out")
    return Reply(data={"steps": [{"name": "look", "tool": "make"}]})


@pytest.fixture
async def history(run_plan, settings) -> RunHistory:
    tools = FakeToolServer()
    tools.answer("make", {"text": "a"}).answer("check", {"valid": False}, {"valid": True})
    tools.answer("submit", {"exit_code": 7}).tool(weigh)
    done = await run_plan(PLAN, tools=tools, model=ScriptedModel(drafts), yes=True, keep=True)
    assert done.status == "failed", done.result
    return read_history(RunRecords(settings.state_dir).find("-1"))


def states(way: RunWay) -> dict[str, str]:
    return {path: state.words for path, state in way.steps.items()}


async def test_every_step_has_its_state_and_every_arrow_its_count(history):
    way = way_taken(history)
    assert states(way) == {
        "make": "success \u00d72",
        "check": "success \u00d72",
        "both": "success",
        "both/left": "success",
        "both/right": "success",
        "sweep": "success \u00b7 3/3 items, 1 failed",
        "sweep/cut": "success \u00b7 3/3 items",
        "sweep/weigh": "failed \u00b7 3/3 items, 1 failed",
        "never": "skipped",
        "drafted": "success",
        "drafted/look": "success",
        "submit": "failed",
        "finally/clean": "success",
    }
    assert way.of("sweep/weigh").shown_by == "sweep[1]/weigh"
    assert way.of("mail").state == "not reached"
    assert way.arrows["check", "make"] == 1
    assert way.arrows["make", "check"] == 2
    assert way.arrows["sweep/weigh", "success"] == 2
    assert way.arrows["submit", "failed"] == 1
    assert way.events["check", "failure"] == 1


async def test_its_picture_has_drafts_and_states_at_their_places(
    history, capsys, settings, tmp_path
):
    root = ET.fromstring(picture_of_run(history, page=True) or "")
    steps = {e.get("data-step"): e.get("class") for e in root.iter() if e.get("data-step")}
    assert steps["drafted/look"] == "step is-success"
    assert steps["sweep/weigh"] == "step is-failed"
    assert steps["never"] == "step is-skipped"
    assert steps["mail"] == "step is-unreached"
    assert plan_of_run(history) is plan_of_run(history)


async def test_the_command_draws_a_run_in_each_form(history, capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(history.record.state_dir))
    monkeypatch.chdir(tmp_path)
    assert fractale(["graph", "--run", "-1"]) == 0
    said = capfd.readouterr().out
    assert "failure \u2192 make (back) if not valid  (taken)" in said
    assert "\u2717 submit" in said
    assert fractale(["graph", "--run", history.run, "-f", "mermaid"]) == 0
    assert "classDef failed" in capfd.readouterr().out
    for name, start in (("run.svg", b"<svg"), ("run.png", b"\x89PNG")):
        assert fractale(["graph", "--run", "-1", "-o", name]) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert b">failed<" in (tmp_path / "run.svg").read_bytes()
    assert fractale(["graph", "p.yaml", "--run", "-1"]) == 2
    assert fractale(["graph"]) == 2
    assert "draws one plan or one run" in capfd.readouterr().err


async def test_a_run_without_its_plan_is_not_drawn(history, capfd, monkeypatch):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(history.record.state_dir))
    history.record.plan.unlink()
    assert picture_of_run(history) is None
    assert fractale(["graph", "--run", history.run]) == 2
    assert "is gone, or has changed since" in capfd.readouterr().err


# -- runs that continue, wait, or were killed ----------------------------------------------------


def test_a_step_that_did_not_end_is_stopped_waiting_or_running(tmp_path):
    run = Recording(tmp_path).start("a", "b").visit("a").enter("b")
    history = read_history(run.folder)
    assert states(way_taken(history)) == {"a": "success", "b": "stopped"}
    history.alive = True
    assert way_taken(history).of("b").state == "running"
    question = {"id": "q1", "kind": "ask", "text": "Go?"}
    history = read_history(run.add("waiting", step="b", question=question).folder)
    history.alive = True
    assert way_taken(history).of("b").state == "waiting"


def test_items_of_a_foreach_are_counted_while_they_run(tmp_path):
    run = Recording(tmp_path).start("each").enter("each")
    for index in range(3):
        run.add("item_started", step="each", index=index, total=100)
    run.add("item_finished", step="each", index=0, total=100, outcome="success")
    run.add("item_finished", step="each", index=1, total=100, outcome="failure", error="x")
    history = read_history(run.folder)
    history.alive = True
    state = way_taken(history).of("each")
    assert state.words == "running \u00b7 2/100 items, 1 failed"
    assert state.items == ItemCounts(total=100, done=2, failed=1)


def test_items_inside_items_are_counted_together(tmp_path):
    run = Recording(tmp_path).start("outer").enter("outer", type="foreach")
    for i in range(3):
        run.add("item_started", step="outer", index=i, total=3)
        run.enter(f"outer[{i}]/inner", type="foreach")
        for j in range(2):
            run.add("item_started", step=f"outer[{i}]/inner", index=j, total=2)
            run.visit(f"outer[{i}]/inner[{j}]/cut")
            ended = {"outcome": "failure" if i == j == 0 else "success"}
            run.add("item_finished", step=f"outer[{i}]/inner", index=j, total=2, **ended)
        if i == 0:
            early = way_taken(read_history(run.folder))
            assert early.of("outer/inner").items == ItemCounts(total=None, done=2, failed=1)
        run.leave(f"outer[{i}]/inner")
        run.add("item_finished", step="outer", index=i, total=3, outcome="success")
    way = way_taken(read_history(run.leave("outer").folder))
    assert way.of("outer").items == ItemCounts(total=3, done=3)
    assert way.of("outer/inner").items == ItemCounts(total=6, done=6, failed=1)
    assert way.of("outer/inner/cut").items == ItemCounts(total=6, done=6)


def test_what_a_fork_took_over_is_kept(tmp_path):
    parent = {"run": "other", "step": "b", "attempt": 1, "kept": ["a"]}
    run = Recording(tmp_path).start("a", "b", parent=parent).visit("b")
    assert states(way_taken(read_history(run.folder))) == {
        "a": "done before the fork",
        "b": "success",
    }


def test_a_draft_that_cannot_be_read_leaves_its_step_as_it_was(tmp_path):
    from fractale.plan.build import parse_plan

    plan = parse_plan("name: p\nsteps: [{name: made, type: plan, instruction: go}]")
    run = Recording(tmp_path).start("made")
    keep_plan(run.folder, plan)
    run.folder.keep_draft("made", "name: [")
    found = plan_of_run(read_history(run.folder))
    assert found is not None
    assert found.steps[0].is_drafted
