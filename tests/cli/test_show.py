"""`fractale runs` and `fractale show`: what people and programs see of a run's record."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import pytest

from fractale.cli import run_command as fractale
from fractale.cli.commands.show import command, complete_steps
from fractale.store.index import RunFilter, list_runs
from fractale.store.journal import Call, CallSite, FileJournal
from recording import BEGIN, Recording, translation
from snapshot import assert_same

ANSI = re.compile(r"\x1b")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state folder, seen from a machine that keeps UTC."""
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.chdir(tmp_path)
    time.tzset()
    yield tmp_path
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def shown(state, capsys):
    """Runs a command; gives what it printed."""

    def run(*words: str, code: int = 0) -> str:
        assert fractale(list(words)) == code
        return capsys.readouterr().out

    return run


# -- show -------------------------------------------------------------------------------------


def test_a_run_is_shown_with_all_that_lies_behind_it(state, shown):
    translation(state)
    assert_same("show_run", shown("show", "k7f3a").replace(str(state), "STATE"))


def test_a_step_is_shown_with_its_inputs_calls_and_decision(state, shown):
    translation(state)
    assert_same("show_step_transform", shown("show", "-1", "transform"))
    assert_same("show_step_submit", shown("show", "-1", "submit"))


def test_what_a_tool_said_is_inert(state, shown):
    translation(state)
    for words in (["show", "-1"], ["show", "-1", "validate"]):
        text = shown(*words)
        assert "-c8" in text
        assert not ANSI.search(text)


def test_letters_are_those_of_the_stream(state):
    translation(state)
    done = subprocess.run(
        [sys.executable, "-m", "fractale.cli", "show", "-1"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode("ascii").count(" ok transform") == 2


def test_long_values_are_cut_and_shown_whole_on_request(state, shown):
    run = Recording(state).start("a").enter("a")
    text = "".join(f"line {number}\n" for number in range(100))
    run.leave("a", inputs_ref={"text": text, "wide": "w" * 2000}, outputs_ref={})
    short, full = shown("show", "-1", "a"), shown("show", "-1", "a", "--full")
    assert "line 11" in short
    assert "line 12" not in short
    assert "88 more lines" in short
    assert "w" * 500 not in short
    assert "line 99" in full
    assert "w" * 2000 in full


def test_results_are_whole_where_the_journal_has_them(state, shown):
    run = Recording(state).start("a").enter("a", type="agent")
    journal = FileJournal(run.folder.path / "journal.jsonl")
    told = {"type": "ai", "data": {"content": "", "tool_calls": [{"name": "go", "args": {"n": 1}}]}}
    gave = {
        "structured": {"structured": {"job": 7}, "text": "ignored"},
        "text": {"structured": None, "text": "x" * 3000},
        "error": {"error": {"message": "no such queue"}},
        "message": told,
        "answer": {"text": "forty-two", "data": None},
        "list": [1, 2],
    }
    for number, result in enumerate(gave.values(), 1):
        place = CallSite(task="t", number=number, tries=1, step="a", attempt=1)
        call = Call(kind="tool", name="f.a", digest="d")
        journal.begin(place, call)
        journal.finish(place, call, result)
        run.call("a", number, key=place.key, text="the event's own text")
    journal.close()
    run.leave("a")
    text = shown("show", "-1", "a", "--full")
    for words in (
        "job  7",
        "x" * 3000,
        "no such queue",
        '[{"go": {"n": 1}}]',
        "forty-two",
        "[1, 2]",
    ):
        assert words in text
    assert "event's own" not in text
    data = json.loads(shown("show", "-1", "a", "--json"))
    assert [call["result"] for call in data["visits"][0]["calls"]] == list(gave.values())


def test_a_lost_call_has_not_the_result_of_the_one_that_was_made_in_its_place(state, shown):
    run = Recording(state).start("a").enter("a")
    journal = FileJournal(run.folder.path / "journal.jsonl")
    place = CallSite(task="t", number=1, tries=1, step="a", attempt=1)
    call = Call(kind="tool", name="f.a", digest="d")
    journal.begin(place, call)
    journal.finish(place, call, {"structured": {"job": 7}})
    journal.close()
    run.call("a", key=place.key, end=False)
    run.start("a", resumed=True).enter("a").call("a", key=place.key).leave("a").end()
    assert shown("show", "-1", "a").count("job  7") == 1
    data = json.loads(shown("show", "-1", "a", "--json"))
    results = [call["result"] for call in data["visits"][0]["calls"]]
    assert results == [None, {"structured": {"job": 7}}]


def test_items_tables_and_failed_calls_are_shown(state, shown):
    run = Recording(state).start("each").enter("each", description="try all")
    run.add("item_started", step="each", index=0, total=2)
    run.call("each[0]", tool="try", is_error=True, text="no space left")
    run.add("item_finished", step="each", index=0, total=2, outcome="failure", error="no space")
    run.add("item_started", step="each", index=1, total=2)
    run.add("table", step="each", title="trials", rows=[{"x": 1, "speed": 2.5}])
    run.leave("each", outcome="failure", decided_by="error", reason="1 of 2 items failed: no space")
    run.end("failed", error="1 of 2 items failed")
    way, step = shown("show", "-1"), shown("show", "-1", "each")
    assert "2 items   1 failed" in way
    assert 'item 1 calls try(path="x")' in way
    assert "failed: no space left" in way
    assert "item 1, each[0]\n      failure: no space" in step
    assert "item 2, each[1]\n      not finished" in step
    assert "tool try, item 1" in step
    assert "speed" in step


def test_one_item_is_shown_by_its_index(state, shown, capsys):
    run = Recording(state).start("each").enter("each")
    for index in (0, 1):
        run.add("item_started", step="each", index=index, total=2)
        run.call(f"each[{index}]", index + 1, tool="try", arguments={"n": index})
        run.enter(f"each[{index}]/inner").leave(f"each[{index}]/inner")
        values = {"inputs_ref": {"n": index}, "outputs_ref": {"speed": 10 + index}}
        run.add("item_finished", step="each", index=index, total=2, outcome="success", **values)
    run.leave("each").end()
    text = shown("show", "-1", "each[1]")
    assert "each[1] · 1st attempt" in text
    assert "each[1]/inner · 1st attempt" in text
    assert "speed  11" in text
    assert "item 2" in text
    assert "[0]" not in text
    [item, inner] = json.loads(shown("show", "-1", "each[1]", "--json"))["visits"]
    assert (item["inputs"], item["outputs"], item["seconds"]) == ({"n": 1}, {"speed": 11}, None)
    assert [call["arguments"] for call in item["calls"]] == [{"n": 1}]
    assert inner["path"] == "each[1]/inner"
    assert fractale(["show", "-1", "each[2]"]) == 2
    assert "has no step `each[2]`" in capsys.readouterr().err


def test_tokens_are_those_of_all_processes_of_a_visit(state, shown):
    """An agent that goes on after a question does not ask its model again for what it has."""
    run = Recording(state).start("work").enter("work", type="agent")
    run.ask_model("work", key="k1", input_tokens=100, output_tokens=20)
    run.start("work", resumed=True).enter("work", type="agent")
    run.ask_model("work", key="k2", input_tokens=5, output_tokens=1)
    run.leave("work", tokens=6).end()
    assert "126 tokens" in shown("show", "-1")
    assert json.loads(shown("show", "-1", "work", "--json"))["visits"][0]["tokens"] == 126


def test_a_killed_run_says_how_to_go_on(state, shown):
    Recording(state).start("a").enter("a").call("a", end=False)
    text = shown("show", "-1")
    assert "not finished" in text
    assert "its process was killed" in text
    assert "fractale resume k7f3a" in text
    assert "outcome unknown" in shown("show", "-1", "a")


def test_what_a_waiting_run_waits_for_is_shown(state, shown):
    question = {"kind": "question", "text": "how many?", "step": "a", "id": "1" * 32}
    question |= {"choices": [], "default": None, "free": True}
    run = Recording(state).start("a").enter("a").add("waiting", step="a", question=question)
    run.end("waiting", waiting=[question], next=["fractale resume k7f3a --answer a=TEXT"])
    assert "question: how many? → waiting for an answer" in shown("show", "-1")
    assert "waiting for an answer" in shown("show", "-1", "a")


def test_a_fork_names_its_parent(state, shown):
    Recording(state, parent={"run": "aaaaa", "step": "transform"}).start("a").visit("a").end()
    assert "run aaaaa at transform" in shown("show", "-1")
    assert "forked from aaaaa at transform" in shown("runs")


def test_inner_steps_stand_below_the_step_around_them(state, shown):
    run = Recording(state).start("outer").enter("outer", type="plan", target="plans/in.yaml")
    run.visit("outer/say").leave("outer")
    lines = shown("show", "-1").splitlines()
    [outer] = [line for line in lines if " outer " in line]
    assert "in.yaml" in outer
    assert any(line.startswith(" ✓   say") for line in lines)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "nope"], "run `nope` not found"),
        (["show", "-1", "transfrm"], "did you mean `transform`"),
        (["show", "-1", "report"], "did not reach step `report`"),
    ],
)
def test_what_is_not_there_is_an_error(state, capsys, words, says):
    translation(state)
    run = Recording(state, "other").start("transform", "report").visit("transform")
    assert run.folder.path.exists()
    os.utime(run.folder.path, (2e9, 2e9))
    assert fractale(words) == 2
    assert says in capsys.readouterr().err


def test_a_run_that_waits_has_no_outputs_yet(state, capsys):
    Recording(state).start("a").enter("a").end("waiting")
    assert fractale(["show", "-1", "--output", "text"]) == 2
    assert "has no outputs yet: it is waiting" in capsys.readouterr().err


def test_a_damaged_record_is_an_error(state, capsys):
    run = Recording(state).start("a")
    (run.folder.path / "events.jsonl").write_text("{\n")
    assert fractale(["show", "-1"]) == 1
    assert "damaged" in capsys.readouterr().err


def test_json_of_a_run_and_of_a_step(state, shown):
    translation(state)
    whole = json.loads(shown("show", "-1", "--json"))
    assert whole["plan_hash"] == "0123456789abcdef" * 4
    assert whole["tools"] == {"validate": "a1b2c3d4" * 8}
    one = json.loads(shown("show", "-1", "validate", "--json"))
    assert [visit["outcome"] for visit in one["visits"]] == ["failure", "success"]
    assert one["visits"][0]["calls"][0]["arguments"] == {"jobspec": "#FLUX: -N2"}


def test_a_run_of_an_older_fractale_says_what_it_lacks(state, shown):
    run = Recording(state).start("a").enter("a").call("a", text='{"n": 1}')
    run.leave("a", outputs={"text": "xx…"}).end()
    text = shown("show", "-1", "a")
    assert "cut short in this record" in text
    assert "n  1" in text


# -- runs -------------------------------------------------------------------------------------


def three_runs(state) -> None:
    for number, status in enumerate(("success", "failed", "waiting")):
        run = Recording(state, f"run{number}", plan=f"plan {number}", started=BEGIN + number * 3600)
        run.start("a").end(status, waiting=[{"step": "a"}] if status == "waiting" else [])


def test_runs_are_a_line_each(state, shown):
    three_runs(state)
    assert_same("runs", shown("runs"))


def test_runs_are_narrowed(state, shown):
    three_runs(state)
    assert shown("runs", "--plan", "* 1").splitlines()[1].split()[0] == "run1"
    assert len(shown("runs", "--status", "success", "--status", "failed").splitlines()[1:]) == 2
    assert len(shown("runs", "--since", "2026-11-23T01:00").splitlines()[1:]) == 2
    assert len(shown("runs", "--since", "9000d").splitlines()[1:]) == 3
    assert shown("runs", "--limit", "1").splitlines()[1].split()[0] == "run2"
    assert len(shown("runs", "--limit", "0").splitlines()[1:]) == 3


def test_runs_as_json_are_one_a_line(state, shown):
    three_runs(state)
    rows = [json.loads(line) for line in shown("runs", "--json").splitlines()]
    assert [row["id"] for row in rows] == ["run2", "run1", "run0"]
    assert rows[0]["waits_for"] == "a"


def test_more_runs_than_are_shown_are_told(state, capsys):
    three_runs(state)
    assert fractale(["runs", "--limit", "2"]) == 0
    assert "--limit 0 shows all" in capsys.readouterr().err


def test_no_runs_is_no_error_and_makes_nothing(state, capsys):
    assert fractale(["runs"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no runs" in printed.err
    assert list(state.iterdir()) == []


@pytest.fixture
def ordinary():
    """Act as an ordinary user where the tests run as root, whom no permission stops."""

    @contextlib.contextmanager
    def acting():
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    return acting


FILTERS = [
    RunFilter(),
    RunFilter(plan="plan *"),
    RunFilter(plan="plan 1"),
    RunFilter(status=["waiting", "failed"]),
    RunFilter(since=BEGIN + 3600),
    RunFilter(until=BEGIN + 3600),
    RunFilter(parent="run0"),
]


def test_runs_of_a_folder_that_can_only_be_read_are_listed(ordinary):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "state"
        folder.parent.chmod(0o755)
        three_runs(folder)
        parent = {"run": "run0", "step": "a", "attempt": 1}
        Recording(folder, "run3", parent=parent, started=BEGIN).start("a").end()
        expected = [list_runs(folder, which) for which in FILTERS]
        assert [len(rows) for rows in expected] == [4, 3, 1, 2, 2, 2, 1]
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        with ordinary():
            assert [list_runs(folder, which) for which in FILTERS] == expected
            assert [row.id for row in list_runs(folder, limit=1)] == ["run2"]
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700)


def test_a_time_that_is_none_is_an_error(state, capsys):
    assert fractale(["runs", "--since", "yesterday"]) == 2
    assert "such as 2d" in capsys.readouterr().err


# -- what it costs ------------------------------------------------------------------------------


def test_reading_records_imports_no_engine(state):
    translation(state, "aaaaa", file=str(state / "plan.yaml"))
    heavy = ("langgraph", "langchain_core", "mcp", "fastmcp", "pydantic", "jinja2", "rich")
    code = (
        "import sys\n"
        "from fractale.cli import run_command\n"
        "for words in ('runs', 'show -1', 'show -1 submit', 'show -1 --json', 'diff -1 aaaaa',"
        " 'export -1 --graph json --transitions -'):\n"
        "    assert run_command(words.split()) == 0, words\n"
        f"found = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_steps_are_completed(state):
    translation(state)
    context = click.Context(command)
    context.params["run_id"] = "-1"
    assert complete_steps(context, command.params[1], "tr") == ["transform"]
    context.params["run_id"] = "nope"
    assert complete_steps(context, command.params[1], "tr") == []
