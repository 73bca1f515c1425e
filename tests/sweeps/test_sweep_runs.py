"""The runs of sweeps in lists, and their removal: a sweep is one line, and goes as a whole."""

from __future__ import annotations

import json
import shutil

import pytest

from fractale.cli import run_command as fractale
from fractale.store.index import RunFilter, RunIndex, RunRow, list_runs, row_of, sums_of
from fractale.store.run_record import RunRecords
from fractale.sweeps.pruning import groups_in
from fractale.sweeps.record import SweepLock, SweepRecords
from made_sweeps import START, run_records, sweep_record
from recording import Recording


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A sweep `s` of four rows with three runs, and a run of its own before and after it."""
    state = tmp_path / "state"
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(state))
    monkeypatch.chdir(tmp_path)
    for name, at in (("before", START - 100), ("after", START + 100)):
        run = Recording(state, name, started=at)
        run.time = at
        run.start().add("run_finished", status="success", waiting=[], usage={})
    sweep_record(state, "s", [{"x": i} for i in range(4)], {0: {}, 1: {}, 2: {}})
    run_records(state, "s", 2)
    run_records(state, "s", 3, status="failed", first=2)
    return state


def row(sweep, number, attempt=1, **more) -> RunRow:
    name = f"{sweep}.{number}" if attempt == 1 else f"{sweep}.{number}.{attempt}"
    given = {"plan": "melt", "file": "/p.yaml", "status": "success", "started": START, **more}
    return RunRow(id=name, **given, sweep=sweep, sweep_row=number, attempt=attempt)


# -- the index


def test_the_head_of_a_run_names_its_sweep(state):
    (found,) = list_runs(state, RunFilter(sweep="s", status=["failed"]))
    assert (found.id, found.sweep, found.sweep_row, found.attempt) == ("s.2", "s", 2, 1)


def test_runs_of_one_sweep_and_of_none(state):
    assert {each.id for each in list_runs(state, RunFilter(sweep="s"))} == {"s.0", "s.1", "s.2"}
    assert [each.id for each in list_runs(state, RunFilter(single=True))] == ["after", "before"]


def test_a_sweep_is_summed_up_and_only_the_latest_attempt_of_a_row_counts(tmp_path):
    rows = [
        row("s", 0, tokens=10, node_hours=0.5, ended=START + 5),
        row("s", 1, status="failed", tokens=7, jobs=2),
        row("s", 1, attempt=2, tokens=3, started=START + 9),
        row("t", 0, status="waiting", started=START + 50),
        RunRow(id="alone", plan="melt", file="/p.yaml", status="success", started=START),
    ]
    with RunIndex(tmp_path) as index:
        index.put_all(rows)
        later, earlier = index.sweeps()
        assert (later.sweep, later.counts) == ("t", {"waiting": 1})
        assert (earlier.sweep, earlier.counts) == ("s", {"success": 2})
        assert (earlier.runs, earlier.tokens, earlier.node_hours) == (3, 20, 0.5)
        assert (earlier.jobs, earlier.started, earlier.ended) == (2, START, START + 5)
        (failed,) = index.sweeps(RunFilter(status=["waiting"]))
        assert failed.sweep == "t"


def test_rows_without_an_index_are_summed_up_in_the_same_way(state):
    records = RunRecords(state)
    rows = [found for name in records.names() if (found := row_of(records.at(name)))]
    rows += [row("s", 2, attempt=2, started=START + 60), row("t", 0, started=START + 90)]
    with RunIndex(state) as index:
        index.put_all(rows)
        assert sums_of(rows) == index.sweeps()
        assert [each.counts for each in index.sweeps()] == [{"success": 1}, {"success": 3}]


def test_ten_thousand_runs_of_a_sweep_are_one_row_of_the_index(tmp_path):
    with RunIndex(tmp_path) as index:
        index.put_all(row("s", number) for number in range(10_000))
        assert index.find(RunFilter(single=True)) == []
        (found,) = index.sweeps()
    assert (found.runs, found.counts) == (10_000, {"success": 10_000})


# -- the list


def test_a_sweep_is_one_line_between_the_runs(state, capsys):
    assert fractale(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", "after", "s", "before"]
    assert "sweep: 3 runs" in lines[2]
    assert "2 success, 1 failed" in lines[2]


def test_a_filter_counts_only_the_runs_that_pass(state, capsys):
    assert fractale(["runs", "--status", "failed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", "s"]
    assert "sweep: 1 run" in lines[1]


def test_the_runs_of_a_sweep_on_request(state, capsys):
    assert fractale(["runs", "--sweep", "s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} == {"s.0", "s.1", "s.2"}
    assert fractale(["runs", "--sweep", "-1", "--limit", "1"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert "--limit 0 shows all" in captured.err


def test_an_unknown_sweep_is_refused(state, capsys):
    assert fractale(["runs", "--sweep", "other"]) == 2
    assert "sweep `other` not found" in capsys.readouterr().err


def test_json_has_every_run_with_its_sweep(state, capsys):
    assert fractale(["runs", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {each["id"]: each["sweep"] for each in found} == {
        "after": None,
        "before": None,
        "s.0": "s",
        "s.1": "s",
        "s.2": "s",
    }


# -- prune


def there(state) -> tuple[set[str], list[str]]:
    return RunRecords(state).names(), SweepRecords(state).ids()


ALL_RUNS = {"before", "after", "s.0", "s.1", "s.2"}


def test_a_sweep_counts_as_one_and_goes_with_all_its_runs(state, capsys):
    assert fractale(["runs", "prune", "--keep", "1", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "sweep of 3 runs" in said
    assert "1 run and 1 sweep with 3 runs would be removed" in said
    assert there(state) == (ALL_RUNS, ["s"])
    assert fractale(["runs", "prune", "--keep", "1"]) == 0
    assert "1 run and 1 sweep with 3 runs removed" in capsys.readouterr().out
    assert there(state) == ({"after"}, [])
    assert [each.id for each in list_runs(state)] == ["after"]


def test_keeping_two_keeps_the_whole_sweep(state, capsys):
    assert fractale(["runs", "prune", "--keep", "2"]) == 0
    assert there(state) == (ALL_RUNS - {"before"}, ["s"])
    assert "4 runs are kept" in capsys.readouterr().out


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_sweep_that_a_process_drives_stays_whole(state, capsys, dry):
    with SweepLock(SweepRecords(state).at("s")):
        assert fractale(["runs", "prune", "--keep", "0", *dry]) == 0
    said = capsys.readouterr().out
    assert "kept nevertheless" in said
    assert "process" in said
    assert {"s.0", "s.1", "s.2"} <= there(state)[0]
    assert there(state)[1] == ["s"]


def test_one_waiting_run_keeps_the_whole_sweep_unless_forced(state, capsys):
    run_records(state, "s", 4, status="waiting", first=3)
    assert fractale(["runs", "prune", "--keep", "0"]) == 0
    assert "run s.3: waiting for" in capsys.readouterr().out
    assert there(state) == ({"s.0", "s.1", "s.2", "s.3"}, ["s"])
    assert fractale(["runs", "prune", "--keep", "0", "--force"]) == 0
    assert there(state) == (set(), [])


def test_the_age_of_a_sweep_is_that_of_its_last_run(state):
    (group,) = groups_in(state)
    assert group.changed >= START  # the time of the ledger
    assert fractale(["runs", "prune", "--older-than", "1s"]) == 0
    assert there(state) == (ALL_RUNS, ["s"])  # made runs are of the year 2027


def test_the_runs_of_a_sweep_that_is_gone_are_single_runs(state):
    shutil.rmtree(state / "sweeps" / "s")
    assert fractale(["runs", "prune", "--keep", "2"]) == 0
    assert there(state)[0] == {"after", "s.2"}
