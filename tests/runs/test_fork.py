"""Forks: a new run from a step of another, which itself stays as it is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import forked
import fractale
from fractale.errors import InputError, StoreError, UsageError
from fractale.graph.compile import way_to
from fractale.models import Models
from fractale.plan.build import load_plan
from fractale.plan.model import Limits
from fractale.questions import MISSING, Answers
from fractale.record.diff import RunDiff, diff_data, diff_runs
from fractale.record.history_reader import read_history
from fractale.record.pruning import PruneRule, prune
from fractale.runs import RunOptions, Runs
from fractale.runs.fork import ForkChanges
from fractale.settings import Settings
from fractale.store.checkpoints import open_checkpoints
from fractale.store.index import list_runs
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply

THREE = """
name: three
inputs: {time: 10m, n: 1}
steps:
  - {name: read, tool: read, inputs: {n: "{{ inputs.n }}"}}
  - name: run
    tool: run
    inputs: {time: "{{ inputs.time }}", text: "{{ steps.read.outputs.text }}"}
  - {name: report, tool: report, inputs: {at: "{{ steps.run.outputs.at }}"}}
outputs: {said: "{{ steps.report.outputs.said }}"}
"""
LOOP = """
name: loop
inputs: {enough: 3}
steps:
  - name: make
    tool: make
    inputs: {seen: "{{ previous.outputs.level | default(0) }}"}
    max_attempts: 5
  - name: check
    tool: check
    inputs: {made: "{{ steps.make.outputs.made }}", enough: "{{ inputs.enough }}"}
    transitions: {failure: make}
  - name: end
    tool: end
    inputs: {made: "{{ steps.check.outputs.level }}", times: "{{ steps.make.attempts }}"}
outputs: {made: "{{ steps.end.outputs.made }}", times: "{{ steps.end.outputs.times }}"}
"""


@dataclass
class Bench:
    """Runs of one state folder on fake tools, with what they told."""

    folder: Path
    settings: Settings
    server: FakeToolServer
    model: Any = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def runs(self) -> Runs:
        return Runs(self.settings, self.server, models=Models(self.settings, given=self.model))

    def write(self, text: str, name: str = "plan.yaml") -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def options(self, **given: Any) -> RunOptions:
        self.events.clear()
        return RunOptions(listeners=[lambda e: self.events.append(e.as_dict())], **given)

    async def start(self, text: str, inputs: Any = None, **given: Any) -> Any:
        return await self.runs.start(
            load_plan(self.write(text)), inputs or {}, self.options(**given)
        )

    async def fork(self, run: str, at: str, *, inputs: Any = None, **given: Any) -> Any:
        more = {name: given.pop(name) for name in ("plan", "secrets") if name in given}
        changes = ForkChanges(inputs=inputs or {}, outputs=given.pop("outputs", {}))
        options = self.options(**given)
        self.server.calls.clear()
        return await self.runs.fork(run, at, options, changes=changes, **more)

    def called(self) -> list[str]:
        return [name for name, _ in self.server.calls]

    def path(self, result: Any) -> list[str]:
        return [step["name"] for step in result.steps]

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def warnings(self) -> list[str]:
        return [event["message"] for event in self.told("warning")]

    def record(self, run: str) -> Path:
        return self.settings.state_dir / "runs" / run

    def head(self, run: str) -> dict[str, Any]:
        return json.loads((self.record(run) / "run.json").read_text())


def content(folder: Path) -> dict[str, str]:
    """Every file of a run's record."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def read(n: int) -> dict:
        return {"text": f"{n} " + "long " * 1000}

    @server.tool
    def run(time: str, text: str) -> dict:
        if time == "10m":
            return {"returncode": 1, "stderr": "hit its time limit"}
        return {"at": f"{time} of {text.split()[0]}"}

    @server.tool
    def report(at: str) -> dict:
        return {"said": f"done at {at}"}

    @server.tool
    def make(seen: int) -> dict:
        return {"made": seen + 1}

    @server.tool
    def check(made: int, enough: int) -> dict:
        return {"level": made, "error": "" if made >= enough else f"{made} is not enough"}

    @server.tool
    def end(made: int, times: int = 0) -> dict:
        return {"made": made, "times": times}

    @server.tool
    def note(text: str) -> dict:
        return {"text": text}

    @server.tool(annotations={"readOnlyHint": True})
    def look(at: str = "") -> dict:
        return {"seen": f"what is at {at}"}

    return server


@pytest.fixture
def bench(tmp_path: Path, settings: Settings, tools: FakeToolServer) -> Bench:
    return Bench(tmp_path, settings, tools)


async def test_a_fork_goes_on_from_its_step_with_another_input(bench):
    parent = await bench.start(THREE)
    assert parent.status == "failed"
    before = content(parent.record)
    fork = await bench.fork(parent.run, "run", inputs={"time": "30m"})
    assert fork.status == "success", fork.error
    assert fork.outputs == {"said": "done at 30m of 1"}
    assert bench.called() == ["run", "report"]
    assert fork.run != parent.run
    assert bench.head(fork.run)["parent"] == {"run": parent.run, "step": "run", "attempt": 1}
    assert bench.head(fork.run)["inputs"] == {"time": "30m", "n": 1}
    told = bench.told("run_started")[0]["parent"]
    assert told == {**bench.head(fork.run)["parent"], "kept": ["read"]}
    assert bench.warnings() == []
    assert content(parent.record) == before


async def test_the_fork_of_a_parent_is_in_the_list_and_in_its_record(bench):
    parent = await bench.start(THREE)
    fork = await bench.fork(parent.run, "run", inputs={"time": "30m"})
    rows = {row.id: row for row in list_runs(bench.settings.state_dir)}
    assert (rows[fork.run].parent, rows[fork.run].forked_at) == (parent.run, "run")
    assert rows[parent.run].parent is None
    history = read_history(RunRecords(bench.settings.state_dir).find(fork.run))
    assert history.paths() == ["run", "report"]


async def test_a_failed_run_names_the_fork_that_goes_on(bench):
    parent = await bench.start(THREE)
    assert bench.told("run_finished")[0]["next"] == [
        f"fractale show {parent.run} run",
        f"fractale fork {parent.run} --at run",
    ]


async def test_an_input_that_an_earlier_step_read_is_warned_of(bench):
    parent = await bench.start(THREE)
    fork = await bench.fork(parent.run, "run", inputs={"time": "30m", "n": 7})
    assert fork.outputs == {"said": "done at 30m of 1"}  # not 7: `read` did not run again
    [warning] = bench.warnings()
    assert "`read` read the input `n`" in warning
    assert bench.told("warning")[0]["code"] == "fork"


async def test_an_input_that_will_be_read_again_is_not_warned_of(bench):
    parent = await bench.start(LOOP)
    await bench.fork(parent.run, "make#1", inputs={"enough": 2})
    assert bench.warnings() == []


@pytest.mark.parametrize(
    ("inputs", "says"), [({"tiem": "1m"}, "did you mean `time`"), ({"n": "many"}, "of type number")]
)
async def test_inputs_are_checked_before_anything_begins(bench, inputs, says):
    parent = await bench.start(THREE)
    there = RunRecords(bench.settings.state_dir).names()
    with pytest.raises(InputError, match=says):
        await bench.fork(parent.run, "run", inputs=inputs)
    assert RunRecords(bench.settings.state_dir).names() == there


async def test_an_output_of_an_earlier_step_can_be_set(bench):
    parent = await bench.start(THREE)
    fork = await bench.fork(
        parent.run, "run", inputs={"time": "1h"}, outputs={"read": {"text": "five words"}}
    )
    assert fork.outputs == {"said": "done at 1h of five"}


async def test_an_output_that_is_set_has_the_type_of_what_was_there(bench):
    parent = await bench.start(LOOP)
    fork = await bench.fork(parent.run, "end", outputs={"check": {"level": "12"}})
    assert fork.outputs["made"] == 12


async def test_an_output_that_its_step_did_not_give_is_warned_of(bench):
    parent = await bench.start(THREE)
    await bench.fork(parent.run, "run", inputs={"time": "1h"}, outputs={"read": {"txt": "x"}})
    assert bench.warnings()[0] == "`read` gave no output `txt`, which is set: it gave text"
    await bench.fork(parent.run, "run", inputs={"time": "1h"}, outputs={"read": {"text": "x"}})
    assert not any("gave no output" in words for words in bench.warnings())


async def test_an_output_of_a_step_that_did_not_run_cannot_be_set(bench):
    parent = await bench.start(THREE)
    with pytest.raises(InputError, match="step `raed` has no outputs to set") as told:
        await bench.fork(parent.run, "run", outputs={"raed": {"text": "x"}})
    assert told.value.hint == "did you mean `read`?"


async def test_an_output_inside_a_list_or_a_mapping_can_be_set(bench):
    bench.server.answer("deep", {"nodes": [{"name": "a", "cores": 4}, {"name": "b", "cores": 8}]})
    parent = await bench.start(
        """
        name: p
        steps:
          - {name: find, tool: deep}
          - {name: use, tool: note, inputs: {text: "{{ steps.find.outputs.nodes | tojson }}"}}
        """
    )
    outputs = {"find": {"nodes.1.cores": "16", "nodes.0.name": "7"}}
    await bench.fork(parent.run, "use", outputs=outputs)
    told = json.loads(bench.server.calls[-1].arguments["text"])
    assert told == [{"name": "7", "cores": 4}, {"name": "b", "cores": 16}]
    with pytest.raises(InputError, match="is not a mapping with the key `9`"):
        await bench.fork(parent.run, "use", outputs={"find": {"nodes.9.cores": "1"}})


# -- loops ----------------------------------------------------------------------------------------


async def test_each_visit_of_a_loop_is_a_place_to_fork_at(bench):
    parent = await bench.start(LOOP)
    assert parent.outputs == {"made": 3, "times": 3}
    whole = bench.path(parent)
    for step in ("make", "check", "end"):
        places = [i for i, name in enumerate(whole) if name == step]
        for number, place in enumerate(places, 1):
            fork = await bench.fork(parent.run, f"{step}#{number}")
            assert bench.path(fork) == whole[place:], (step, number)
            assert fork.outputs == parent.outputs
            assert bench.head(fork.run)["parent"]["attempt"] == number


async def test_the_last_visit_is_the_default(bench):
    parent = await bench.start(LOOP)
    fork = await bench.fork(parent.run, "make")
    assert bench.path(fork) == ["make", "check", "end"]
    assert bench.told("step_started")[0]["attempt"] == 3


@pytest.mark.parametrize("number", ["4", "0", "-1", "x"])
async def test_a_visit_that_never_was_is_none_to_fork_at(bench, number):
    parent = await bench.start(LOOP)
    with pytest.raises(UsageError, match="attempt not found") as told:
        await bench.fork(parent.run, f"make#{number}")
    assert "attempted 3 times" in str(told.value.hint)


async def test_a_step_that_gave_up_has_all_its_tries_again(bench):
    parent = await bench.start(LOOP, {"enough": 9})
    assert parent.decided["gave_up"] == "make"
    assert bench.told("run_finished")[0]["next"] == [
        f"fractale show {parent.run} make",
        f"fractale fork {parent.run} --at make",
    ]
    fork = await bench.fork(parent.run, "make")
    assert fork.status == "success"
    assert fork.outputs == {"made": 9, "times": 9}
    again = await bench.fork(parent.run, "make#1")
    assert again.decided["gave_up"] == "make"
    assert bench.called().count("make") == 5


async def test_what_was_spent_is_the_parents_own(bench):
    parent = await bench.start(LOOP, limits=Limits(steps=4))
    assert parent.status == "limit"
    fork = await bench.fork(parent.run, "check#1", limits=Limits(steps=6))
    assert fork.status == "success", fork.error
    assert len(fork.steps) == 6


async def test_a_step_that_was_skipped_before_is_found(bench):
    parent = await bench.start(
        """
        name: p
        steps:
          - {name: a, tool: make, inputs: {seen: "{{ steps.b.attempts | default(0) }}"}}
          - {name: b, tool: make, inputs: {seen: 1}, when: steps.a.attempts > 1}
          - name: c
            tool: check
            inputs: {made: "{{ steps.a.attempts }}", enough: 3}
            transitions: {failure: a}
        """
    )
    assert bench.path(parent) == ["a", "b", "c"] * 3
    for at, left in (("b#1", 8), ("b#2", 5), ("b#3", 2), ("c#1", 7), ("a#2", 6)):
        fork = await bench.fork(parent.run, at)
        assert len(fork.steps) == left, at


class TryAgain:
    """A person who has a failed step tried again, once."""

    def __init__(self) -> None:
        self.answers = ["retry"]

    async def answer(self, question):
        return self.answers.pop() if self.answers else MISSING


async def test_a_visit_that_a_person_asked_for_is_a_place_to_fork_at(bench):
    bench.server.fail("flaky", "first").answer("flaky", {"ok": 1})
    parent = await bench.start(
        "name: p\nsteps: [{name: a, tool: note, inputs: {text: x}}, {name: b, tool: flaky}]\n",
        person=TryAgain(),
    )
    assert bench.path(parent) == ["a", "b", "b"]
    for at in ("b#1", "b#2"):
        fork = await bench.fork(parent.run, at)
        assert bench.path(fork) == ["b"]


# -- where a run can be forked ------------------------------------------------------------------


async def test_a_step_that_the_run_did_not_come_to_is_none_to_fork_at(bench):
    parent = await bench.start(THREE)
    with pytest.raises(UsageError, match="did not reach step `report`") as told:
        await bench.fork(parent.run, "report")
    assert told.value.hint == "steps reached: read, run"
    with pytest.raises(UsageError) as told:
        await bench.fork(parent.run, "rnu")
    assert told.value.hint == "did you mean `run`?"


async def test_a_step_before_which_the_run_stopped_can_be_forked_at(bench):
    parent = await bench.start(THREE, {"time": "1h"}, limits=Limits(steps=2))
    assert parent.status == "limit"
    fork = await bench.fork(parent.run, "report", outputs={"run": {"at": "noon"}})
    assert fork.outputs == {"said": "done at noon"}


async def test_a_run_that_waits_can_be_forked_and_waits_on(bench):
    parent = await bench.start(
        "name: p\nsteps: [{name: a, tool: note, inputs: {text: x}},"
        " {name: b, tool: note, inputs: {text: y}, approve: always}]\n"
    )
    assert parent.status == "waiting"
    fork = await bench.fork(parent.run, "b", answers=Answers({"b": True}))
    assert (fork.status, bench.called()) == ("success", ["note"])
    result = await bench.runs.resume(parent.run, RunOptions(replies=Answers({"b": True})))
    assert result.status == "success"


async def test_a_run_can_be_forked_while_it_goes_on(bench):
    going, go = asyncio.Event(), asyncio.Event()

    @bench.server.tool(name="hold")
    async def hold() -> dict:
        going.set()
        await asyncio.wait_for(go.wait(), 60)
        return {"held": True}

    text = "name: p\nsteps: [{name: a, tool: note, inputs: {text: x}}, {name: b, tool: hold}]\n"
    task = asyncio.create_task(bench.start(text, run_id="parent"))
    await asyncio.wait_for(going.wait(), 60)
    fork = await bench.runs.fork("parent", "a", RunOptions(limits=Limits(steps=1)))
    assert [step["name"] for step in fork.steps] == ["a"]
    go.set()
    assert (await task).status == "success"


async def test_a_fork_is_forked_and_names_its_parent_for_what_came_before(bench):
    parent = await bench.start(THREE)
    fork = await bench.fork(parent.run, "run", inputs={"time": "30m"})
    second = await bench.fork(fork.run, "report", outputs={"run": {"at": "dawn"}})
    assert second.outputs == {"said": "done at dawn"}
    assert bench.head(second.run)["parent"]["run"] == fork.run
    with pytest.raises(UsageError, match="did not reach `read` itself") as told:
        await bench.fork(fork.run, "read")
    assert f"fractale fork {parent.run} --at read" in str(told.value.hint)
    with pytest.raises(UsageError, match="did not reach step `nowhere`"):
        await bench.fork(fork.run, "nowhere")


async def test_a_fork_outlives_its_parent(bench):
    parent = await bench.start(THREE)
    fork = await bench.fork(
        parent.run, "run", inputs={"time": "1h"}, limits=Limits(steps=1), run_id="fork"
    )
    assert fork.status == "limit"
    report = await prune(bench.settings, PruneRule(keep=1, force=True))
    assert [gone.id for gone in report.removed] == [parent.run]
    again = await bench.fork("fork", "run", inputs={"n": 4})
    assert again.outputs == {"said": "done at 1h of 1"}
    assert (await bench.runs.resume("fork")).status == "success"
    with pytest.raises(UsageError, match="not found in"):
        await bench.fork(parent.run, "run")
    with pytest.raises(UsageError) as told:
        await bench.fork("fork", "read")
    assert f"run {parent.run} was removed" in str(told.value.hint)


async def test_a_run_without_its_checkpoints_is_told(bench):
    parent = await bench.start(THREE)
    async with open_checkpoints(bench.settings.checkpoints) as saver:
        await saver.adelete_thread(parent.run)
    with pytest.raises(StoreError, match="no checkpoint"):
        await bench.fork(parent.run, "run")


async def test_outputs_are_shared_with_the_parent_not_repeated(bench):
    parent = await bench.start(THREE)
    fork = await bench.fork(parent.run, "run", inputs={"time": "30m"})
    theirs = {p.name: p.stat().st_ino for p in (parent.record / "outputs").rglob("*.json")}
    ours = {p.name: p.stat().st_ino for p in (fork.record / "outputs").rglob("*.json")}
    shared = set(theirs) & set(ours)
    assert shared
    assert all(theirs[name] == ours[name] for name in shared)


async def test_an_output_of_the_parent_that_is_gone_is_told(bench):
    parent = await bench.start(THREE)
    for path in (parent.record / "outputs").rglob("*.json"):
        path.unlink()
    with pytest.raises(StoreError, match="cannot be linked or copied"):
        await bench.fork(parent.run, "run")


# -- going on with a fork -------------------------------------------------------------------------


async def test_a_fork_that_stopped_goes_on(bench):
    parent = await bench.start(LOOP)
    fork = await bench.fork(parent.run, "check#1", limits=Limits(steps=2))
    assert fork.status == "limit"
    result = await bench.runs.resume(fork.run, RunOptions(limits=Limits(steps=50)))
    assert result.outputs == parent.outputs
    assert bench.path(result) == ["check", "make", "check", "make", "check", "end"]


async def test_a_fork_that_was_killed_before_its_first_checkpoint_begins_at_its_step(bench):
    parent = await bench.start(THREE, {"time": "1h"})
    fork = await bench.fork(parent.run, "report")
    async with open_checkpoints(bench.settings.checkpoints) as saver:
        await saver.adelete_thread(fork.run)
    for name in ("journal.jsonl", "events.jsonl"):
        (fork.record / name).unlink(missing_ok=True)
    bench.server.calls.clear()
    result = await bench.runs.resume(fork.run)
    assert result.outputs == fork.outputs
    assert bench.called() == ["report"]


async def test_a_fork_whose_beginning_is_damaged_is_told(bench):
    parent = await bench.start(THREE, {"time": "1h"})
    fork = await bench.fork(parent.run, "run", limits=Limits(steps=1))
    (fork.record / "entry.json").write_text("{")
    with pytest.raises(StoreError, match=r"entry\.json cannot be read"):
        await bench.runs.resume(fork.run)


async def test_secrets_are_given_anew_and_kept_nowhere(bench):
    plan = """
        name: p
        inputs: {key: {type: string, secret: true, required: true}, n: 1}
        steps:
          - {name: a, tool: note, inputs: {text: "{{ inputs.n }}"}}
          - {name: b, tool: note, inputs: {text: "with {{ inputs.key }}"}}
        """
    path = bench.write(plan)
    parent = await bench.runs.start(load_plan(path), {}, secrets={"key": "hunter2-hunter2"})
    fork = await bench.fork(parent.run, "b", secrets={"key": "other-secret-9"})
    assert bench.server.calls[-1].arguments == {"text": "with other-secret-9"}
    files = b"".join(p.read_bytes() for p in fork.record.rglob("*") if p.is_file())
    assert b"other-secret-9" not in files
    assert b"hunter2" not in files
    with pytest.raises(InputError, match="is secret"):
        await bench.fork(parent.run, "b")


# -- plans within plans, long plans, drafts -------------------------------------------------------

OUTER = """
name: outer
inputs: {word: hello}
steps:
  - {name: first, tool: note, inputs: {text: "{{ inputs.word }}"}}
  - {name: inc, plan: ./inner.yaml, inputs: {word: "{{ inputs.word }}"}}
  - name: twice
    tool: check
    inputs: {made: "{{ steps.inc.attempts }}", enough: 2}
    transitions: {failure: inc}
outputs: {text: "{{ steps.inc.outputs.text }}"}
"""
INNER = """
name: inner
inputs: {word: none}
steps:
  - {name: one, tool: note, inputs: {text: "one {{ inputs.word }}"}}
  - {name: two, tool: note, inputs: {text: "two {{ inputs.word }} {{ steps.one.outputs.text }}"}}
outputs: {text: "{{ steps.two.outputs.text }}"}
"""


async def test_a_step_of_an_included_plan_is_a_place_to_fork_at(bench):
    bench.write(INNER, "inner.yaml")
    parent = await bench.start(OUTER)
    whole = ["first", *(["inc/one", "inc/two", "inc", "twice"] * 2)]
    assert bench.path(parent) == whole
    for at, place in (
        ("inc/two#1", 2),
        ("inc/two", 6),
        ("inc/one#1", 1),
        ("inc#2", 5),
        ("two#1", 2),
    ):
        fork = await bench.fork(parent.run, at)
        assert fork.outputs == parent.outputs
        assert bench.path(fork) == whole[place:], at
    changed = await bench.fork(parent.run, "inc/two", inputs={"word": "bye"})
    assert changed.outputs == {"text": "two bye one hello"}


async def test_a_fork_inside_an_included_plan_that_stopped_goes_on_inside_it(bench):
    bench.write(INNER, "inner.yaml")
    parent = await bench.start(OUTER)
    fork = await bench.fork(parent.run, "inc/two#1", limits=Limits(steps=1))
    assert fork.status == "limit"
    result = await bench.runs.resume(fork.run, RunOptions(limits=Limits(steps=50)))
    assert result.status == "success"
    assert bench.called() == ["note", "check", "note", "note", "check"]


async def test_a_step_that_includes_no_plan_any_more_cannot_be_entered_inside(bench):
    bench.write(INNER, "inner.yaml")
    parent = await bench.start(OUTER)
    single = 'tool: note, inputs: {text: "{{ inputs.word }}"}}'
    bench.write(OUTER.replace('plan: ./inner.yaml, inputs: {word: "{{ inputs.word }}"}}', single))
    with pytest.raises(UsageError, match="runs another kind of plan") as told:
        await bench.fork(parent.run, "inc/two")
    assert str(told.value.hint).endswith("--at inc")
    assert (await bench.fork(parent.run, "inc#1")).outputs == {"text": "hello"}


INSIDE = """
name: p
steps:
  - name: block
    parallel:
      - {name: left, tool: note, inputs: {text: l}}
      - {name: right, tool: note, inputs: {text: r}}
  - {name: each, plan: ./inner.yaml, foreach: [1, 2], inputs: {word: "{{ item }}"}}
"""


@pytest.mark.parametrize(
    ("at", "way"),
    [("block/left", "--at block"), ("each[0]/two", "--at each"), ("two", "--at each")],
)
async def test_what_runs_beside_others_is_forked_as_a_whole(bench, at, way):
    bench.write(INNER, "inner.yaml")
    parent = await bench.start(INSIDE)
    with pytest.raises(UsageError) as told:
        await bench.fork(parent.run, at)
    assert str(told.value.hint).endswith(way)
    fork = await bench.fork(parent.run, way.removeprefix("--at "))
    assert fork.status == "success"


GROUP = """
name: outer
inputs: {word: hello}
steps:
  - {name: first, tool: note, inputs: {text: "{{ inputs.word }}"}}
  - name: group
    steps:
      - {name: one, tool: note, inputs: {text: "one {{ inputs.word }}"}}
      - name: two
        tool: note
        inputs:
          text: "{{ steps.first.outputs.text }} {{ steps.one.outputs.text }}, {{ inputs.word }}"
  - name: twice
    tool: check
    inputs: {made: "{{ steps.group.attempts }}", enough: 2}
    transitions: {failure: group}
  - name: each
    foreach: [1]
    steps: [{name: three, tool: note, inputs: {text: "{{ item }}"}}]
outputs: {text: "{{ steps.group.outputs.text }}"}
"""


async def test_a_step_of_a_chain_is_a_place_to_fork_at(bench):
    parent = await bench.start(GROUP)
    whole = ["first", *(["group/one", "group/two", "group", "twice"] * 2), "each[0]/three", "each"]
    assert bench.path(parent) == whole
    for at, place in (("group/two#1", 2), ("two", 6), ("group#2", 5)):
        fork = await bench.fork(parent.run, at)
        assert fork.outputs == parent.outputs
        assert bench.path(fork) == whole[place:], at
    changed = await bench.fork(parent.run, "two", inputs={"word": "bye"})
    assert changed.outputs == {"text": "hello one hello, bye"}
    stopped = await bench.fork(parent.run, "group/two#1", limits=Limits(steps=1))
    assert stopped.status == "limit"
    result = await bench.runs.resume(stopped.run, RunOptions(limits=Limits(steps=50)))
    assert (result.status, result.outputs) == ("success", parent.outputs)


async def test_an_item_of_a_chain_is_none_to_fork_at(bench):
    parent = await bench.start(GROUP)
    with pytest.raises(UsageError) as told:
        await bench.fork(parent.run, "three")
    assert str(told.value.hint).endswith("--at each")


async def test_a_changed_step_of_a_chain_is_warned_of_if_it_is_kept(bench):
    parent = await bench.start(GROUP)
    bench.write(GROUP.replace("one {{ inputs.word }}", "ONE {{ inputs.word }}"))
    await bench.fork(parent.run, "each")
    (told,) = [w for w in bench.warnings() if "has changed" in w]
    assert told.startswith("`group` has changed since run")


def chain(count: int, last: str = "") -> str:
    """A plan of so many steps, each of which adds one to what the one before gave."""
    step = '  - {{name: s{0}, tool: make, inputs: {{seen: "{{{{ steps.s{1}.outputs.made }}}}"}}}}\n'
    steps = ["  - {name: s0, tool: make, inputs: {seen: 0}}\n"]
    steps += [step.format(i, i - 1) for i in range(1, count)]
    out = f'outputs: {{made: "{{{{ steps.s{count - 1}.outputs.made }}}}"}}\n'
    return f"name: long\nsteps:\n{''.join(steps)}{last}{out}"


@pytest.mark.parametrize("at", [0, 1, 15, 16, 31, 32, 39])
async def test_a_long_plan_is_forked_at_any_of_its_steps(bench, at):
    parent = await bench.start(chain(40))
    fork = await bench.fork(parent.run, f"s{at}")
    assert fork.outputs == {"made": 40}
    assert len(bench.called()) == 40 - at


async def test_a_long_plan_with_a_loop_between_its_segments(bench):
    back = """  - name: back
    tool: check
    inputs: {made: "{{ steps.s20.attempts }}", enough: 3}
    transitions: {failure: s20}
"""
    parent = await bench.start(chain(40, back))
    for number in (1, 2, 3):
        fork = await bench.fork(parent.run, f"s30#{number}")
        assert len(fork.steps) == 11 + 21 * (3 - number)
        assert fork.outputs == {"made": 40}


def test_the_way_to_a_step_goes_through_its_segments():
    plan = fractale.load(chain(600))
    assert way_to(plan, "s300") == ["s256..s511", "s288..s303", "s300"]
    assert way_to(fractale.load(chain(20)), "s3") == ["s3"]


PLANNED = """
name: p
inputs: {place: here}
steps:
  - {name: before, tool: look, inputs: {at: "{{ inputs.place }}"}}
  - {name: made, type: plan, instruction: Look twice., inputs: {place: "{{ inputs.place }}"}}
  - {name: after, tool: look, inputs: {at: "{{ steps.made.outputs.seen }}"}}
outputs: {seen: "{{ steps.after.outputs.seen }}"}
"""
DRAFT = {
    "steps": [
        {"name": "near", "tool": "look", "inputs": {"at": "{{ inputs.place }}"}},
        {"name": "far", "tool": "look", "inputs": {"at": "{{ steps.near.outputs.seen }}"}},
    ]
}


def manager(messages: list[Any]) -> Reply:
    if "Write the steps." in str(messages[-1].content):
        return Reply(data=DRAFT)
    return Reply(text="nothing to find out")


async def test_a_step_of_a_draft_is_a_place_to_fork_at_and_the_draft_stays(bench):
    bench.model = ScriptedModel(manager)
    parent = await bench.start(PLANNED, yes=True)
    assert bench.path(parent) == ["before", "made/near", "made/far", "made", "after"], parent.error
    bench.model = ScriptedModel([])
    for at, place in (("made/far", 2), ("made/near", 1), ("after", 4)):
        fork = await bench.fork(parent.run, at)
        assert fork.status == "success", fork.error
        assert fork.outputs == parent.outputs
        assert bench.path(fork) == bench.path(parent)[place:]
        assert (fork.record / "drafts/made.yaml").is_file()
    assert bench.model.requests == []
    stopped = await bench.fork(parent.run, "made/near", limits=Limits(steps=2))
    assert stopped.status == "limit"
    result = await bench.runs.resume(stopped.run, RunOptions(limits=Limits(steps=9)))
    assert result.outputs == parent.outputs
    assert bench.model.requests == []


# -- another plan -------------------------------------------------------------------------------


async def test_a_fork_takes_the_plan_as_it_is_today(bench):
    parent = await bench.start(THREE)
    bench.write(THREE.replace('time: "{{ inputs.time }}"', 'time: "45m"'))
    fork = await bench.fork(parent.run, "run")
    assert fork.outputs == {"said": "done at 45m of 1"}


async def test_a_kept_step_that_changed_is_warned_of(bench):
    parent = await bench.start(THREE, {"time": "1h"})
    bench.write(THREE.replace("tool: read", "tool: note").replace('n: "{{', 'text: "{{'))
    fork = await bench.fork(parent.run, "report")
    assert fork.status == "success"
    assert ["`read` has changed" in words for words in bench.warnings()] == [True]


OTHER = """
name: other
inputs: {time: 2h, extra: 1}
steps:
  - {name: run, tool: run, inputs: {time: "{{ inputs.time }}", text: "from {{ inputs.extra }}"}}
outputs: {at: "{{ steps.run.outputs.at }}"}
"""


async def test_a_fork_takes_another_plan_that_has_the_step(bench):
    parent = await bench.start(THREE, {"time": "1h"})
    other = load_plan(bench.write(OTHER, "other.yaml"))
    fork = await bench.fork(parent.run, "run", plan=other, inputs={"extra": 5})
    assert fork.outputs == {"at": "1h of from"}
    assert bench.head(fork.run)["inputs"] == {"time": "1h", "extra": 5}
    with pytest.raises(UsageError, match="no longer has step `report`"):
        await bench.fork(parent.run, "report", plan=other)


async def test_a_plan_whose_file_is_gone_is_taken_as_it_was_kept(bench):
    parent = await bench.start(THREE)
    (bench.folder / "plan.yaml").unlink()
    fork = await bench.fork(parent.run, "run", inputs={"time": "30m"})
    assert fork.status == "success"


# -- beside its parent ----------------------------------------------------------------------------


def both(bench: Bench, one: Any, other: Any) -> RunDiff:
    folders = RunRecords(bench.settings.state_dir)
    return diff_runs(*(read_history(folders.find(each.run)) for each in (one, other)))


def differences(diff: RunDiff) -> list[str]:
    return [f"{v.path}#{v.number}: {', '.join(v.changed)}" for v in diff.attempts if v.changed]


async def test_a_fork_that_changes_nothing_is_the_same_as_its_parent(bench):
    parent = await bench.start(LOOP)
    fork = await bench.fork(parent.run, "check#2")
    diff = both(bench, parent, fork)
    assert diff.same
    assert [(v.path, v.number) for v in diff.attempts] == [
        ("check", 2),
        ("make", 3),
        ("check", 3),
        ("end", 1),
    ]
    assert diff_data(diff)["forked"] == {"fork": "b", "step": "check", "visit": 2, "before": 3}


async def test_a_fork_is_compared_from_where_it_began(bench):
    parent = await bench.start(LOOP)
    fork = await bench.fork(parent.run, "check#2", outputs={"make": {"made": 9}})
    expected = ["check#2: inputs, calls, outputs, outcome, path", "make#3: path", "check#3: path"]
    diff = both(bench, parent, fork)
    assert differences(diff)[:3] == expected
    assert (diff.first.path, diff.first.number) == ("check", 2)
    turned = both(bench, fork, parent)
    assert sorted(differences(turned)) == sorted(differences(diff))
    assert turned.forked.fork == "a"


async def test_a_fork_inside_a_draft_is_compared_from_there(bench):
    bench.model = ScriptedModel(manager)
    parent = await bench.start(PLANNED, yes=True)
    fork = await bench.fork(parent.run, "made/far")
    diff = both(bench, parent, fork)
    assert diff.same, differences(diff)  # the model's calls for the draft came before it
    assert [visit.path for visit in diff.attempts] == ["made", "made/far", "after"]


async def test_a_fork_at_a_step_that_its_parent_stopped_in_front_of(bench):
    parent = await bench.start(THREE, {"time": "1h"}, limits=Limits(steps=1))
    fork = await bench.fork(parent.run, "run")
    diff = both(bench, parent, fork)
    assert differences(diff) == ["run#1: path", "report#1: path"]


def test_the_comparison_says_where_the_fork_began(project):
    assert command(project, "run", "job.yaml", "-r", "tools.yaml").returncode == 1
    parent = json.loads(command(project, "runs", "--limit", "1", "--json").stdout)["id"]
    done = command(project, "fork", parent, "--at", "run", "--set", "inputs.time=30m")
    assert done.returncode == 0, done.stderr
    text = command(project, "diff", parent, "-1").stdout
    assert "B is a fork of A at run, 1st attempt; 1 attempt before it" in text
    assert "only in" not in text


# -- in PostgreSQL --------------------------------------------------------------------------------


async def test_runs_in_postgresql_are_forked_too(bench, postgres):
    bench.settings = replace(bench.settings, store=postgres)
    bench.write(INNER, "inner.yaml")
    parent = await bench.start(OUTER)
    for at in ("twice#1", "inc/two#1", "first"):
        fork = await bench.fork(parent.run, at)
        assert fork.outputs == parent.outputs
    stopped = await bench.fork(parent.run, "inc/two#1", limits=Limits(steps=1))
    result = await bench.runs.resume(stopped.run, RunOptions(limits=Limits(steps=50)))
    assert result.outputs == parent.outputs


# -- on the command line --------------------------------------------------------------------------

TOOLS = '''
def run(time: str) -> dict:
    """Run a job."""
    if time == "10m":
        return {"returncode": 1, "stderr": "hit its time limit"}
    return {"at": time}


def prepare(n: int) -> dict:
    """Prepare."""
    open("prepared.txt", "a").write(f"{n}\\n")
    return {"n": n}
'''
JOB = """
name: job
inputs: {time: 10m, n: 1}
steps:
  - {name: prepare, tool: prepare, inputs: {n: "{{ inputs.n }}"}}
  - {name: run, tool: run, inputs: {time: "{{ inputs.time }}"}}
outputs: {at: "{{ steps.run.outputs.at }}"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "job_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text(
        "tools: [{path: job_tools.run}, {path: job_tools.prepare}]\n"
    )
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def command(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    names = ("PATH", "LANG", "TMPDIR")
    kept = {k: v for k, v in os.environ.items() if k in names or k.startswith("COVERAGE_")}
    return forked.run(
        words,
        cwd=project,
        env={**kept, "HOME": str(project), "PYTHONPATH": str(project)},
        timeout=120,
    )


def test_the_command_that_a_failure_prints_goes_on_from_there(project):
    failed = command(project, "run", "job.yaml", "-r", "tools.yaml")
    assert failed.returncode == 1
    [line] = [line for line in failed.stderr.splitlines() if "fractale fork" in line]
    words = line.split("fractale ")[1].split()
    done = command(project, *words, "--set", "inputs.time=30m", "--json")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["outputs"] == {"at": "30m"}
    assert (project / "prepared.txt").read_text() == "1\n"
    parent = words[1]
    shown = command(project, "show", last["run"]).stdout
    assert f"forked from  run {parent} at run" in shown
    row = json.loads(command(project, "runs", "--json", "--limit", "1").stdout)
    assert (row["id"], row["parent"], row["forked_at"]) == (last["run"], parent, "run")
    assert f"forked from {parent} at run" in command(project, "runs").stdout


def test_a_project_that_was_moved_has_its_tools_where_it_is_now(project):
    here = project / "here"
    here.mkdir()
    for name in ("job_tools.py", "tools.yaml", "job.yaml"):
        (project / name).rename(here / name)
    done = command(
        here, "run", "job.yaml", "-r", "tools.yaml", "-i", "time=1h", "--limit", "steps=1"
    )
    assert done.returncode == 5, done.stderr
    there = here.rename(project / "there")
    done = command(there, "resume", "-1", "--limit", "steps=9")
    assert done.returncode == 0, done.stderr
    done = command(there, "fork", "-1", "--at", "run")
    assert done.returncode == 0, done.stderr
    assert (there / "prepared.txt").read_text() == "1\n"


KILLED = """
name: killed
steps:
  - {name: prepare, tool: prepare, inputs: {n: 1}}
  - {name: middle, tool: prepare, inputs: {n: 2}}
  - {name: die, tool: die_twice}
outputs: {done: "{{ steps.die.outputs.done }}"}
"""
DYING = """

def die_twice() -> dict:
    \"\"\"Kill this process, twice.\"\"\"
    import os, pathlib, signal

    for mark in (pathlib.Path("first"), pathlib.Path("second")):
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return {"done": True}
"""


def test_a_fork_of_a_killed_run_that_is_killed_itself_goes_on(project):
    (project / "job_tools.py").write_text(TOOLS + DYING)
    safe = "{path: job_tools.die_twice, annotations: {readOnlyHint: true}}"
    (project / "tools.yaml").write_text(f"tools: [{{path: job_tools.prepare}}, {safe}]\n")
    (project / "job.yaml").write_text(KILLED)
    assert command(project, "run", "job.yaml", "-r", "tools.yaml").returncode == -9
    assert command(project, "fork", "-1", "--at", "middle").returncode == -9
    done = command(project, "resume", "-1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["outputs"] == {"done": True}
    assert (project / "prepared.txt").read_text() == "1\n2\n2\n"


@pytest.mark.parametrize("pair", ["time=30m", "inputs.time", "steps.prepare.n=3", "inputs.a.b=1"])
def test_what_cannot_be_set_is_wrong_use(project, pair):
    done = command(project, "fork", "-1", "--at", "run", "--set", pair)
    assert done.returncode == 2
    assert "this value cannot be set" in done.stderr


def test_a_run_that_is_not_there_is_told(project):
    done = command(project, "fork", "gone1", "--at", "run")
    assert done.returncode == 2
    assert "run `gone1` not found" in done.stderr
