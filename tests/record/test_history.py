"""What a run's record says happened: visits, calls, questions, processes; and the list of runs."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from fractale.errors import StoreError, UsageError
from fractale.models import Models
from fractale.plan.build import load_plan
from fractale.questions import Answers
from fractale.record.history import history_data, resolve, results_of
from fractale.record.history_reader import read_history
from fractale.record.plans import keep_plan, plan_file, plan_hash, plan_of
from fractale.record.snapshot import tool_hashes, versions
from fractale.runs import RunOptions, Runs
from fractale.store.index import RunFilter, list_runs
from fractale.store.journal import Call, CallSite, FileJournal
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply
from fractale.toolbox import ToolInfo
from recording import BEGIN, Recording, translation

PLAN = """
name: loop
steps:
  - {name: make, tool: make}
  - name: check
    tool: check
    inputs: {text: "{{ steps.make.outputs.text }}"}
    rules: {success: ["valid"], failure: ["not valid"]}
    transitions: {failure: make}
  - {name: never, tool: make, when: "false"}
outputs: {text: "{{ steps.make.outputs.text }}"}
"""


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()
    server.answer("make", {"text": "a" * 3000})
    return server.answer("check", {"valid": False}, {"valid": True})


def latest(settings):
    return read_history(RunRecords(settings.state_dir).find("-1"))


def way(history) -> list[str]:
    return [f"{v.path}#{v.number}:{v.outcome}" for v in history.attempts]


# -- real runs --------------------------------------------------------------------------------


async def test_the_way_of_a_run_with_what_decided(run_plan, tools, settings):
    await run_plan(PLAN, tools=tools, keep=True)
    history = latest(settings)
    assert way(history) == [
        "make#1:success",
        "check#1:failure",
        "make#2:success",
        "check#2:success",
        "never#1:skipped",
    ]
    back = history.attempts[1]
    assert (back.decided_by, back.reason, back.next) == ("rule", "rule `not valid`", "make")
    assert history.attempts[2].previous == "check"
    assert history.status == "success"
    assert history.result["outputs"] == {"text": "a" * 3000}


async def test_calls_belong_to_their_visits(run_plan, tools, settings):
    await run_plan(PLAN, tools=tools, keep=True)
    history = latest(settings)
    [call] = history.attempts[1].calls
    assert (call.kind, call.name, call.finished, call.is_error) == ("tool", "check", True, False)
    assert call.arguments == {"text": "a" * 3000}
    assert json.loads(call.text) == {"valid": False}
    assert [len(visit.calls) for visit in history.attempts] == [1, 1, 1, 1, 0]


async def test_calls_of_models_bring_tokens(run_plan, settings):
    plan = "name: p\nsteps: [{name: think, type: agent, instruction: think}]\n"
    await run_plan(plan, tools=FakeToolServer(), model=ScriptedModel(["42"]), keep=True)
    history = latest(settings)
    [visit] = history.attempts
    [call] = visit.calls
    assert call.kind == "model"
    assert call.text == "42"
    assert call.input_tokens + call.output_tokens == visit.tokens
    assert visit.models == history.models
    assert visit.models


async def test_items_and_inner_steps_lie_within_their_visit(run_plan, settings, tmp_path):
    (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: say, tool: say}]\n")
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "name: p\nsteps:\n"
        "  - {name: each, tool: say, foreach: [1, 2], inputs: {n: '{{ item }}'}}\n"
        "  - {name: outer, plan: ./inner.yaml}\n"
        "  - name: both\n    parallel: [{name: l, tool: say}, {name: r, tool: say}]\n"
    )
    await run_plan(plan, tools=FakeToolServer().answer("say", {"x": 1}), keep=True)
    history = latest(settings)
    visits = {visit.path: visit for visit in history.attempts}
    assert list(visits) == ["each", "outer", "outer/say", "both", "both/l", "both/r"]
    assert [item.outcome for item in visits["each"].items.values()] == ["success", "success"]
    assert sorted(call.step for call in visits["each"].calls) == ["each[0]", "each[1]"]
    assert visits["outer/say"].parent is visits["outer"]
    assert visits["both/r"].depth == 1


async def test_a_question_that_waited_and_its_answer(run_plan, settings, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("name: p\nsteps: [{name: s, tool: submit, approve: always}]\n")
    tools = FakeToolServer().answer("submit", {"job": 7})
    seen = await run_plan(plan, tools=tools, keep=True)
    assert seen.status == "waiting"
    waits = latest(settings)
    assert waits.status == "waiting"
    [asked] = waits.attempts[0].questions
    assert not asked.answered
    await Runs(settings, tools).resume(seen.result.run, RunOptions(answers=Answers({"s": True})))
    history = latest(settings)
    [asked] = history.attempts[0].questions
    assert (asked.answered, asked.answer, asked.by) == (True, True, "answers")
    assert [process.resumed for process in history.processes] == [False, True]
    assert way(history) == ["s#1:success"], "entered again is not visited again"
    assert history.attempts[0].enterings == 2


async def test_calls_before_a_question_are_told_once(run_plan, settings, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "name: p\nsteps: [{name: s, type: agent, instruction: go, tools: [look, submit]}]\n"
    )
    tools = FakeToolServer().answer("submit", {"job": 7}).answer("look", {"free": 2})
    tools.describe("look", annotations={"readOnlyHint": True})
    calls = [Reply(tool_calls=[("look", {})]), Reply(tool_calls=[("submit", {})])]
    model = ScriptedModel([*calls, "done"])
    seen = await run_plan(plan, tools=tools, model=model, keep=True)
    assert seen.status == "waiting"
    runs = Runs(settings, tools, models=Models(settings, given=model))
    await runs.resume(seen.result.run, RunOptions(answers=Answers({"s": True})))
    history = latest(settings)
    [visit] = history.attempts
    assert visit.outcome == "success"
    told = [call.name for call in visit.calls if call.kind == "tool"]
    assert told == ["look", "submit"]
    assert sum(call.kind == "model" for call in visit.calls) == 3
    assert all(call.finished for call in visit.calls)


async def test_the_plan_of_a_run_is_found_while_it_is_the_same(run_plan, settings, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("name: p\nsteps: [{name: s, tool: say}]\n")
    await run_plan(plan, tools=FakeToolServer().answer("say", {}), keep=True)
    history = latest(settings)
    assert plan_hash(load_plan(plan)) == history.head["plan_hash"]
    plan.write_text("# a remark\n" + plan.read_text())
    assert plan_of(history.record, history.head) == load_plan(plan)
    plan.write_text("name: p\nsteps: [{name: other, tool: say}]\n")
    kept = history.record.path / "plan.yaml"
    assert plan_file(history.record, history.head) == (kept if kept.exists() else None)


# -- records of every kind ----------------------------------------------------------------------


def test_a_killed_run_is_stopped_and_its_last_call_has_no_end(tmp_path):
    Recording(tmp_path).start("a").enter("a").call("a", end=False)
    history = read_history(RunRecords(tmp_path).find("-1"))
    assert history.status == "stopped"
    assert history.ended is None
    [visit] = history.attempts
    assert visit.outcome is None
    assert not visit.calls[0].finished


DOUBT = {"kind": "in_doubt", "step": "a", "tool": "submit", "arguments": {"n": 2}, "id": "q1"}


def killed(tmp_path, *answers):
    """A run that was killed in a call again and again, and asked each time whether to repeat it."""
    call = {"tool": "submit", "arguments": {"n": 2}, "key": "k1", "end": False}
    run = Recording(tmp_path).start("a").enter("a").call("a", **call)
    for number, answer in enumerate(answers):
        question = {**DOUBT, "id": f"q{number}"}
        run.start("a", resumed=True).enter("a").call("a", **call)
        run.add("waiting", step="a", question=question).end("waiting")
        if answer is None:
            continue
        run.start("a", resumed=True)
        run.add("answered", step="a", question=question, answer=answer, by="person")
        run.enter("a").call("a", **call)
    return run, {"step": "a", "tool": "submit", "call": 1, "key": "k1", "seconds": 0.25}


def test_a_call_that_was_not_made_again_is_told_once(tmp_path):
    run, end = killed(tmp_path, None, None, "failed")
    run.add("tool_finished", **end, is_error=True, text="it counts as failed").leave("a")
    [visit] = read_history(run.folder).attempts
    [call] = visit.calls
    assert (call.finished, call.is_error, call.text) == (False, True, "it counts as failed")
    # An agent that goes on afterwards takes it from the journal.
    run.start("a", resumed=True).enter("a")
    run.call("a", tool="submit", arguments={"n": 2}, key="k1", recorded=True)
    assert len(read_history(run.folder).attempts[0].calls) == 1


def test_a_call_that_waits_to_be_made_again_is_one(tmp_path):
    run, _ = killed(tmp_path, None)
    [visit] = read_history(run.folder).attempts
    assert [call.finished for call in visit.calls] == [False]


def test_a_call_that_was_made_again_is_told_each_time(tmp_path):
    run, end = killed(tmp_path, "again", "again")
    run.add("tool_finished", **end, is_error=False, text="{}").leave("a")
    [visit] = read_history(run.folder).attempts
    assert [call.finished for call in visit.calls] == [False, False, True]


def test_a_call_that_is_made_again_without_asking_is_told_each_time(tmp_path):
    call = {"tool": "look", "key": "k1"}
    run = Recording(tmp_path).start("a").enter("a").call("a", **call, end=False)
    run.start("a", resumed=True).enter("a").call("a", **call).leave("a")
    [visit] = read_history(run.folder).attempts
    assert [call.finished for call in visit.calls] == [False, True]


def test_a_run_that_a_process_has_is_running(tmp_path):
    run = Recording(tmp_path).start("a").enter("a")
    with RunLock(run.folder):
        assert read_history(run.folder).status == "running"


def test_a_call_from_the_journal_is_not_told_twice(tmp_path):
    run = Recording(tmp_path).start("a").enter("a", type="agent")
    run.call("a", 1, tool="look").call("a", 2, tool="submit", end=False)
    run.start("a", resumed=True).enter("a", type="agent")
    run.call("a", 1, tool="look", recorded=True).call("a", 2, tool="submit").leave("a")
    [visit] = read_history(run.folder).attempts
    assert [(c.name, c.finished, c.entering) for c in visit.calls] == [
        ("look", True, 1),
        ("submit", False, 1),
        ("submit", True, 2),
    ]


def test_a_call_with_a_key_is_told_once_by_its_key(tmp_path):
    run = Recording(tmp_path).start("a").enter("a")
    run.call("a", key="k1").call("a", 2, key="k2")
    run.enter("a").call("a", key="k1", recorded=True).call("a", 2, key="k2", recorded=True)
    [visit] = read_history(run.leave("a").folder).attempts
    assert [call.key for call in visit.calls] == ["k1", "k2"]


def test_a_recorded_call_whose_first_telling_was_lost_is_kept(tmp_path):
    run = Recording(tmp_path).start("a").enter("a").call("a", recorded=True, text="known")
    [visit] = read_history(run.folder).attempts
    assert [call.text for call in visit.calls] == ["known"]


def test_steps_inside_count_anew_in_each_visit_around_them(tmp_path):
    run = Recording(tmp_path).start("outer")
    for attempt in (1, 2):
        run.enter("outer", attempt, type="plan").visit("outer/say").leave("outer", attempt)
    history = read_history(run.folder)
    assert way(history) == [
        "outer#1:success",
        "outer/say#1:success",
        "outer#2:success",
        "outer/say#2:success",
    ]
    assert [visit.attempt for visit in history.of_step("outer/say")] == [1, 1]


def test_a_question_asked_by_two_processes_is_one(tmp_path):
    question = {"kind": "question", "text": "how many?", "step": "a", "id": "1" * 32}
    run = Recording(tmp_path).start("a").enter("a")
    run.add("waiting", step="a", question=question).end("waiting")
    run.start("a", resumed=True).add("waiting", step="a", question={**question, "number": 1})
    run.add("answered", step="a", question={**question, "of": 2}, answer="2", by="person")
    history = read_history(run.folder)
    [asked] = history.questions
    assert asked.answer == "2"
    assert asked.asked_at == BEGIN + 1.0
    assert history.attempts[0].questions == [asked]


def test_the_open_questions_of_a_run_are_counted_once(tmp_path):
    def asks(step: str, **more: Any) -> dict[str, Any]:
        return {"step": step, "question": {"kind": "question", "text": "?", "step": step, **more}}

    run = Recording(tmp_path).start("a", "b").enter("a").add("waiting", **asks("a"))
    run.leave("a", outcome="failure").enter("b").add("waiting", **asks("b", id="2" * 32))
    history = read_history(run.folder)
    history.alive = True
    assert [asked.step for asked in history.open_questions] == ["b"], "a has failed meanwhile"
    run.start("a", "b", resumed=True).add("waiting", **asks("b", kind="failure"))
    history = read_history(run.folder)
    assert history.open_questions == [], "the process was killed: it may not fail again"
    history.alive = True
    assert [asked.question["kind"] for asked in history.open_questions] == ["failure"]
    due = {"began": {"wall": 1.0}, "seconds": 9.0, "until": 10.0}
    timer = {"kind": "timer", "step": "c", "due": due}
    run.end("waiting", waiting=[timer, asks("b", id="2" * 32)["question"]])
    (asked,) = read_history(run.folder).open_questions
    assert (asked.step, asked.asked_at) == ("b", BEGIN + 2.5)


def test_warnings_tables_and_items_belong_to_their_step(tmp_path):
    run = Recording(tmp_path).start("a").enter("a")
    run.add("log", level="info", message="nothing to see", step="a")
    run.add("log", level="error", message="disk full", step="a")
    run.add("warning", code="undefined", message="`x` is not defined", step="a[0]")
    run.add("warning", code="fallback", message="of no step")
    run.add("table", step="a", title="trials", rows=[{"n": 1}])
    run.add("table", step="a", title="trials", rows=[{"n": 1}, {"n": 2}])
    run.add("item_started", step="a", index=0, total=2)
    run.add("item_finished", step="a", index=0, total=2, outcome="failure", error="broken")
    run.add("item_started", step="a", index=1, total=2)
    history = read_history(run.folder)
    [visit] = history.attempts
    assert [(note.code, note.message) for note in visit.warnings] == [
        ("log: error", "disk full"),
        ("undefined", "`x` is not defined"),
    ]
    assert [note.message for note in history.warnings] == ["of no step"]
    assert visit.tables == {"trials": [{"n": 1}, {"n": 2}]}
    assert [(i.outcome, i.error) for i in visit.items.values()] == [
        ("failure", "broken"),
        (None, None),
    ]


def test_steps_are_found_by_path_by_path_without_indexes_and_by_name(tmp_path):
    run = Recording(tmp_path).start("each", "say").enter("each", type="plan")
    run.visit("each[0]/say").visit("each[1]/say").leave("each").visit("say")
    history = read_history(run.folder)
    assert [v.path for v in history.of_step("each[1]/say")] == ["each[1]/say"]
    assert [v.path for v in history.of_step("each/say")] == ["each[0]/say", "each[1]/say"]
    assert [v.path for v in history.of_step("say")] == ["say"]
    assert history.of_step("no") == []


def test_versions_models_and_tools_are_told(tmp_path):
    history = read_history(translation(tmp_path).folder)
    assert history.versions["langgraph"] == "1.2.22"
    assert history.models == ["openai:gpt-5"]
    assert history.tools == {"validate": "a1b2c3d4" * 8}
    newer = Recording(tmp_path, "newer").start("a", versions={"fractale": "0.3.0"})
    assert read_history(newer.folder).versions == {"fractale": "0.3.0"}


def test_drafts_are_read_by_their_steps(tmp_path):
    run = Recording(tmp_path).start("made")
    run.folder.keep_draft("outer/made", "steps: []\n")
    assert read_history(run.folder).drafts == {"outer/made": "steps: []\n"}


def test_large_values_are_references_until_they_are_asked_for(tmp_path):
    run = Recording(tmp_path).start("a").enter("a")
    large = {"text": "x" * 5000}
    kept = run.outputs.put(large)
    run.leave("a", inputs_ref={"n": 1}, outputs_ref=kept, outputs={"text": "xx…"})
    [visit] = read_history(run.folder).attempts
    assert visit.outputs == kept
    assert resolve(run.folder, visit.outputs) == large
    run.outputs.path(kept).unlink()
    gone = resolve(run.folder, visit.outputs)
    assert "missing" in gone["error"]


def test_results_of_calls_come_whole_from_the_journal(tmp_path):
    run = Recording(tmp_path).start("a").enter("a")
    journal = FileJournal(run.folder.path / "journal.jsonl")
    call = Call(kind="tool", name="fake.a", digest="d")
    places = [CallSite(task="a:1", number=n, tries=1, step="a", attempt=1) for n in (1, 2)]
    for place in places:
        journal.begin(place, call)
    journal.finish(places[0], call, {"text": "y" * 9000})
    journal.close()
    run.call("a", key=places[0].key, text="y" * 2000).call("a", 2, key=places[1].key, end=False)
    [visit] = read_history(run.folder).attempts
    assert results_of(run.folder, visit.calls) == {places[0].key: {"text": "y" * 9000}}


def test_without_a_journal_nothing_more_is_known_of_calls(tmp_path):
    run = Recording(tmp_path).start("a").enter("a").call("a", key="k1")
    assert results_of(run.folder, read_history(run.folder).calls()) == {}


def test_the_whole_history_is_json(tmp_path):
    data = history_data(read_history(translation(tmp_path).folder))
    again = json.loads(json.dumps(data))
    assert again["status"] == "success"
    assert [v["path"] for v in again["visits"]][:3] == ["transform", "validate", "transform"]
    assert again["visits"][0]["inputs"]["script"].startswith("#!/bin/bash")
    assert again["visits"][-1]["questions"][0]["by"] == "person"
    assert again["usage"]["total_tokens"] == 120


def test_usage_of_a_run_without_an_end_is_summed(tmp_path):
    run = Recording(tmp_path).start("a").enter("a").ask_model("a").ask_model("a", 2)
    usage = read_history(run.folder).usage
    assert usage["total_tokens"] == 240
    assert usage["cost"] == pytest.approx(0.004)


def test_a_line_that_a_crash_cut_is_left_out(tmp_path):
    run = Recording(tmp_path).start("a").visit("a")
    with (run.folder.path / "events.jsonl").open("a") as file:
        file.write('{"event": "step_sta')
    assert way(read_history(run.folder)) == ["a#1:success"]


DAMAGED = ['{"event": "step_st', "[]", '{"event": "step_started"}', '{"a": 1}', '"\\ud800"', "7"]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_is_an_error_that_says_so(tmp_path, line):
    run = Recording(tmp_path).start("a")
    with (run.folder.path / "events.jsonl").open("a") as file:
        file.write(f"{line}\n")
    run.visit("a")
    with pytest.raises(StoreError, match="damaged"):
        read_history(run.folder)


def test_a_byte_that_is_no_text_is_an_error_that_says_so(tmp_path):
    run = Recording(tmp_path).start("a")
    with (run.folder.path / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "log", "message": "\xff"}\n')
    with pytest.raises(StoreError, match="damaged"):
        read_history(run.folder)


def test_an_event_of_a_later_fractale_is_passed_over(tmp_path):
    run = Recording(tmp_path).start("a").add("weather", sky="blue").visit("a")
    assert way(read_history(run.folder)) == ["a#1:success"]


# -- the plan, and what it ran on ----------------------------------------------------------------


def test_a_kept_plan_is_there_when_the_file_is_gone(tmp_path):
    (tmp_path / "deep.yaml").write_text("name: d\nsteps: [{name: say, tool: say}]\n")
    (tmp_path / "inner.yaml").write_text("name: i\nsteps: [{name: dig, plan: ./deep.yaml}]\n")
    file = tmp_path / "plan.yaml"
    file.write_text("name: p\nsteps: [{name: outer, plan: ./inner.yaml}]\n")
    run = Recording(tmp_path / "state", file=str(file))
    kept = keep_plan(run.folder, load_plan(file))
    for name in ("plan.yaml", "inner.yaml", "deep.yaml"):
        (tmp_path / name).unlink()
    plan = plan_of(run.folder, run.folder.read_head())
    assert plan is not None
    inner = plan.steps[0].plan
    assert inner is not None
    assert inner.steps[0].plan.steps[0].target == "say"
    assert kept.stat().st_mode & 0o077 == 0


def test_a_plan_that_cannot_be_read_any_more_is_none(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("name: [")
    run = Recording(tmp_path, file=str(file))
    assert plan_of(run.folder, run.folder.read_head()) is None


def test_a_schema_has_the_same_hash_however_its_keys_are_ordered():
    first = ToolInfo(name="t", server="s", input_schema={"type": "object", "required": ["a"]})
    same = ToolInfo(name="t", server="s", input_schema={"required": ["a"], "type": "object"})
    other = ToolInfo(name="t", server="s", input_schema={"type": "object", "required": ["b"]})
    assert tool_hashes([first]) == tool_hashes([same])
    assert tool_hashes([first]) != tool_hashes([other])
    assert len(tool_hashes([first])["t"]) == 64


def test_versions_are_those_that_are_installed():
    found = versions()
    assert {"python", "fractale", "langgraph"} <= set(found)
    assert all(found.values())


# -- the list of runs ----------------------------------------------------------------------------


def test_runs_are_listed_the_latest_first_and_filtered(tmp_path):
    for number, status in enumerate(("success", "failed", "waiting")):
        run = Recording(tmp_path, f"run{number}", plan=f"p{number}", started=BEGIN + number)
        run.start("a").end(status, waiting=[{"step": "a"}] if status == "waiting" else [])
    assert [row.id for row in list_runs(tmp_path)] == ["run2", "run1", "run0"]
    assert [row.waits_for for row in list_runs(tmp_path)] == ["a", "", ""]
    assert [r.id for r in list_runs(tmp_path, RunFilter(plan="p[01]"))] == ["run1", "run0"]
    assert [r.id for r in list_runs(tmp_path, RunFilter(status=["failed"]))] == ["run1"]
    assert len(list_runs(tmp_path, limit=1)) == 1


def test_a_run_that_went_on_is_listed_as_it_is_now(tmp_path):
    run = Recording(tmp_path).start("a").end("waiting", waiting=[{"step": "a"}])
    assert [row.status for row in list_runs(tmp_path)] == ["waiting"]
    run.start("a", resumed=True).end("success")
    events = run.folder.path / "events.jsonl"
    os.utime(events, (run.time + 60, run.time + 60))
    assert [row.status for row in list_runs(tmp_path)] == ["success"]


def test_a_run_without_events_is_listed_all_the_same(tmp_path):
    Recording(tmp_path)
    assert [row.status for row in list_runs(tmp_path)] == ["stopped"]


def test_to_list_makes_no_state_folder(tmp_path):
    assert list_runs(tmp_path / "nothing") == []
    assert not (tmp_path / "nothing").exists()


def test_a_run_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="run `nope` not found"):
        RunRecords(tmp_path).find("nope")
