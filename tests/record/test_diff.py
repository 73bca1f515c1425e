"""`fractale diff`: where two runs part, and what differs in each step."""

from __future__ import annotations

import json

import pytest

from fractale.cli import run_command as fractale
from fractale.record.diff import ValueChange, changes, diff_data, diff_runs
from fractale.record.history_reader import read_history
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer
from recording import Recording, translation
from snapshot import assert_same


def diff_of(*runs: Recording):
    return diff_runs(*(read_history(run.folder) for run in runs))


def changed(diff) -> list[str]:
    return [f"{v.path}#{v.number}: {', '.join(v.changed)}" for v in diff.attempts if v.changed]


CASES = [
    (1, 1, []),
    (1, 2, [ValueChange("", 1, 2)]),
    (1, True, [ValueChange("", 1, True)]),
    ({"a": 1}, {"a": 1}, []),
    ({"a": 1, "b": 2}, {"a": 1}, [ValueChange("b", 2, None, missing="b")]),
    ({}, {"a": None}, [ValueChange("a", None, None, missing="a")]),
    ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [ValueChange("a.b[1]", 2, 3)]),
    ({"a": [1]}, {"a": [1, 2]}, [ValueChange("a", [1], [1, 2])]),
    ({"a": 1}, [1], [ValueChange("", {"a": 1}, [1])]),
]


@pytest.mark.parametrize(("a", "b", "expected"), CASES)
def test_changes_name_the_place(a, b, expected):
    assert list(changes(a, b)) == expected


def test_a_run_is_the_same_as_itself(tmp_path):
    diff = diff_of(translation(tmp_path, "aaaaa"), translation(tmp_path, "bbbbb"))
    assert diff.same
    assert diff.first is None
    assert diff.parting is None


def test_time_alone_is_no_difference(tmp_path):
    one = Recording(tmp_path, "aaaaa").start("a").visit("a", seconds=1.0).end()
    other = Recording(tmp_path, "bbbbb").start("a").visit("a", seconds=90.0, tokens=0).end()
    assert diff_of(one, other).same


def test_the_first_difference_and_where_the_ways_part(tmp_path):
    one, other = (Recording(tmp_path, name).start("a", "b", "c") for name in ("aaaaa", "bbbbb"))
    one.visit("a", outputs_ref={"n": 1}, next="b").visit("b", inputs_ref={"n": 1}, next="c")
    other.visit("a", outputs_ref={"n": 2}, next="b")
    failed = {"outcome": "failure", "decided_by": "error", "reason": "lost", "next": "failed"}
    other.visit("b", inputs_ref={"n": 2}, **failed)
    one.visit("c").end()
    other.end("failed")
    diff = diff_of(one, other)
    assert (diff.first.path, diff.first.changed) == ("a", ["outputs"])
    assert (diff.parting.path, diff.parting.number) == ("b", 1)
    assert changed(diff) == ["a#1: outputs", "b#1: inputs, outcome, path", "c#1: path"]
    assert diff.attempts[1].inputs == [ValueChange("n", 1, 2)]


def test_visits_of_a_loop_are_paired_by_their_number(tmp_path):
    one, other = (Recording(tmp_path, name).start("a") for name in ("aaaaa", "bbbbb"))
    for attempt in (1, 2, 3):
        one.visit("a", attempt, next="a" if attempt < 3 else "success")
    for attempt in (1, 2):
        other.visit("a", attempt, next="a" if attempt < 2 else "success")
    diff = diff_of(one, other)
    assert [(v.path, v.number, v.a is None, v.b is None) for v in diff.attempts] == [
        ("a", 1, False, False),
        ("a", 2, False, False),
        ("a", 3, False, True),
    ]
    assert changed(diff) == ["a#2: path", "a#3: path"]


def test_steps_at_the_same_time_may_be_entered_in_any_order(tmp_path):
    one = Recording(tmp_path, "aaaaa").start("both").enter("both", type="parallel")
    other = Recording(tmp_path, "bbbbb").start("both").enter("both", type="parallel")
    one.visit("both/l", next=None).visit("both/r", next=None).leave("both").end()
    other.visit("both/r", next=None).visit("both/l", next=None).leave("both").end()
    assert diff_of(one, other).same


def test_what_only_the_second_run_did_stands_where_it_did_it(tmp_path):
    one = Recording(tmp_path, "aaaaa").start("a", "c").visit("a").visit("c").end()
    other = Recording(tmp_path, "bbbbb").start("a", "c").visit("a").visit("b").visit("c").end()
    assert [visit.path for visit in diff_of(one, other).attempts] == ["a", "b", "c"]
    assert [visit.path for visit in diff_of(other, one).attempts] == ["a", "b", "c"]


def test_the_folder_of_a_run_is_no_difference(tmp_path):
    runs = [Recording(tmp_path, name).start("a") for name in ("aaaaa", "bbbbb")]
    for run in runs:
        path = f"{run.folder.path}/job.sh"
        run.enter("a").call("a", arguments={"path": path})
        run.leave("a", inputs_ref={"path": path}, outputs_ref={"all": [path]}).end()
    assert diff_of(*runs).same


def test_another_job_that_did_the_same_is_no_difference(tmp_path):
    for kind, expected in (("job", []), ("tool", ["a#1: outputs", "b#1: outputs"])):
        runs = []
        for number in (1, 2):
            outputs = {"state": "completed", "speed": 8.5, "log_file": f"/jobs/{number}/log"}
            outputs |= {"job_id": str(number), "submitted": number, "started": number + 1}
            outputs |= {"ended": number + 2, "seconds": 1.0 / number}
            run = Recording(tmp_path, f"{kind}{number}").start("a", "b")
            run.enter("a", type=kind).leave("a", outputs_ref=outputs)
            run.enter("b", type=kind).leave("b", outputs_ref=[outputs, {"speed": 1}])
            runs.append(run.end())
        assert changed(diff_of(*runs)) == expected


def test_other_calls_are_a_difference_in_whatever_order(tmp_path):
    runs = [Recording(tmp_path, name).start("a").enter("a") for name in ("aaaaa", "bbbbb", "ccccc")]
    runs[0].call("a", 1, arguments={"n": 1}).call("a", 2, arguments={"n": 2})
    runs[1].call("a", 1, arguments={"n": 2}).call("a", 2, arguments={"n": 1})
    runs[2].call("a", 1, arguments={"n": 2}).call("a", 2, arguments={"n": 3})
    for run in runs:
        run.leave("a").end()
    assert diff_of(runs[0], runs[1]).same
    assert changed(diff_of(runs[0], runs[2])) == ["a#1: calls"]


def test_a_short_form_is_not_held_against_a_whole_value(tmp_path):
    older = Recording(tmp_path, "aaaaa").start("a").visit("a", outputs={"t": "x…"}).end()
    newer = Recording(tmp_path, "bbbbb").start("a").visit("a", outputs_ref={"t": "x" * 900}).end()
    assert diff_of(older, newer).same


def test_what_was_run_is_compared_too(tmp_path):
    one = translation(tmp_path, "aaaaa")
    other = translation(tmp_path, "bbbbb", inputs={"script": "other.sbatch"}, plan_hash="b" * 64)
    diff = diff_of(one, other)
    assert not diff.same
    assert [change.path for change in diff.about] == ["plan_hash", "inputs.script"]


async def test_two_real_runs(run_plan, settings):
    plan = """
        name: p
        inputs: {n: 1}
        steps:
          - {name: make, tool: make, inputs: {n: "{{ inputs.n }}"}}
          - {name: more, tool: more, when: "steps.make.outputs.n > 1"}
        """
    tools = FakeToolServer()

    @tools.tool
    def make(n: int) -> dict:
        """Make."""
        return {"n": n}

    tools.answer("more", {})
    for number in (1, 1, 2):
        await run_plan(plan, {"n": number}, tools=tools, keep=True)
    third, second, first = map(RunRecords(settings.state_dir).at, ids(settings))
    assert diff_runs(read_history(first), read_history(second)).same
    diff = diff_runs(read_history(second), read_history(third))
    assert diff.first.path == "make"
    assert [change.path for change in diff.about] == ["inputs.n"]
    assert changed(diff)[-1].startswith("more#1: ")
    json.dumps(diff_data(diff))


def ids(settings) -> list[str]:
    """The latest first, by when they were started: folders may be of the same moment."""
    folders = RunRecords(settings.state_dir)
    return sorted(folders.names(), key=lambda name: -folders.at(name).read_head()["started"])


# -- as people and programs see it ----------------------------------------------------------------


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two runs that differ in all there is."""
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path))
    one = Recording(tmp_path, "aaaaa").start("make", "check", "report", "same")
    other = Recording(tmp_path, "bbbbb", plan_hash="b" * 64).start("make", "check", "report")
    one.visit("same", next="make")
    other.visit("same", next="make")
    texts = ["".join(f"{n}\n" for n in range(30)), "".join(f"{n * n}\n" for n in range(30))]
    for run, text, nodes in ((one, texts[0], 2), (other, texts[1], 4)):
        run.visit("make", outputs_ref={"script": text, "nodes": nodes}, next="check", tokens=10)
    one.visit("check", inputs_ref={"nodes": 2, "old": "\x1b[2J"}, next="report").visit("report")
    failed = {"outcome": "failure", "decided_by": "exit_code", "reason": "exit_code is 1"}
    other.visit("check", inputs_ref={"nodes": 4}, next="failed", **failed)
    one.end()
    other.end("failed")
    return tmp_path


def test_a_difference_is_shown_at_a_glance(two, capsys):
    assert fractale(["diff", "aaaaa", "bbbbb"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert_same("diff", text)


def test_in_full_nothing_is_left_out(two, capsys):
    assert fractale(["diff", "aaaaa", "bbbbb", "--full"]) == 0
    text = capsys.readouterr().out
    assert "the same" in text
    assert "more line" not in text
    assert "841" in text


def test_json_says_where_and_what(two, capsys):
    assert fractale(["diff", "aaaaa", "bbbbb", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["same"] is False
    assert data["first_difference"]["step"] == "make"
    assert data["parting"] == {
        "step": "check",
        "visit": 1,
        "changed": ["inputs", "outcome", "path"],
    }
    old = [change for change in data["visits"][2]["inputs"] if change["path"] == "old"]
    assert old == [{"path": "old", "a": "\x1b[2J"}]


def test_no_difference_is_said(two, capsys):
    assert fractale(["diff", "aaaaa", "aaaaa"]) == 0
    assert "all steps took the same path" in capsys.readouterr().out


def test_an_unfinished_run_can_be_compared(two, capsys):
    Recording(two, "ccccc").start("same").visit("same", next="make").enter("make")
    assert fractale(["diff", "aaaaa", "ccccc"]) == 0
    assert "B did not finish it" in capsys.readouterr().out
