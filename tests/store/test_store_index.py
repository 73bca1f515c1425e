"""The list of runs: quick with many, right after a crash, made again where it is lost."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from fractale.errors import StoreError
from fractale.events import Event, EventLog
from fractale.store.index import CHANGES, RunFilter, RunIndex, RunRow, list_runs
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecord, RunRecords

START = 1_700_000_000.0


def row(number: int, **more) -> RunRow:
    words = {
        "plan": ("translate", "optimize")[number % 2],
        "file": ("/plans/p.yaml", "/plans/weekly-tuning.yaml")[number % 2],
        "status": ("success", "failed", "waiting")[number % 3],
        "started": START + number,
        **more,
    }
    return RunRow(id=f"r{number:05}", **words)


@pytest.fixture
def index(tmp_path):
    with RunIndex(tmp_path) as made:
        yield made


def ids(rows) -> list[str]:
    return [row.id for row in rows]


def test_what_is_put_is_got(index):
    whole = row(
        1,
        ended=START + 9,
        seconds=8.5,
        tokens=2514,
        cost=0.011,
        waits_for="ask",
        parent="r00000",
        forked_at="transform",
    )
    index.put(whole)
    assert index.get("r00001") == whole
    assert index.get("r00002") is None


def test_a_later_row_takes_the_place_of_an_earlier_one(index):
    index.put(row(1, status="running"))
    index.put(row(1, status="success"))
    assert [r.status for r in index.find()] == ["success"]


def test_the_latest_come_first_and_only_so_many(index):
    index.put_all(row(number) for number in range(10))
    assert ids(index.find(limit=3)) == ["r00009", "r00008", "r00007"]
    assert len(index.find(limit=None)) == 10


FILTERS = [
    (RunFilter(plan="translate"), ["r00004", "r00002", "r00000"]),
    (RunFilter(plan="trans*"), ["r00004", "r00002", "r00000"]),
    (RunFilter(plan="p.yaml"), []),
    (RunFilter(plan_or_file="trans*"), ["r00004", "r00002", "r00000"]),
    (RunFilter(plan_or_file="weekly-tuning.yaml"), ["r00005", "r00003", "r00001"]),
    (RunFilter(plan_or_file="weekly-*ing", until=START + 2), ["r00001"]),
    (RunFilter(plan_or_file="plans*"), []),
    (RunFilter(status=["waiting", "failed"]), ["r00005", "r00004", "r00002", "r00001"]),
    (RunFilter(since=START + 4), ["r00005", "r00004"]),
    (RunFilter(until=START + 1), ["r00000"]),
    (RunFilter(plan="optimize", status=["success"]), ["r00003"]),
    (RunFilter(parent="r00001"), ["r00005"]),
    (RunFilter(plan="' OR 1 --"), []),
]


@pytest.mark.parametrize(("which", "expected"), FILTERS)
def test_filters_narrow_the_list(index, which, expected):
    index.put_all(row(number) for number in range(5))
    index.put(row(5, parent="r00001"))
    assert ids(index.find(which)) == expected


def test_ten_thousand_runs_are_listed_about_as_quickly_as_a_hundred(tmp_path):
    times = {}
    for count in (100, 10_000):
        with RunIndex(tmp_path / str(count)) as index:
            index.put_all(row(number) for number in range(count))
            times[count] = min(timed(index) for _ in range(7))
    print(f"find: {times[100] * 1e3:.2f} ms of 100, {times[10_000] * 1e3:.2f} ms of 10,000")
    assert times[10_000] < 10 * times[100]


def timed(index: RunIndex) -> float:
    before = time.perf_counter()
    index.find(limit=50)
    index.find(RunFilter(plan="translate", status=["waiting"]), limit=50)
    return time.perf_counter() - before


def write_run(folders: RunRecords, run_id: str, *events: Event, parent=None) -> None:
    folder = folders.new(run_id)
    head = {"plan": "translate", "file": "/p.yaml", "started": START, "inputs": {}}
    folder.write_head({**head, **({"parent": parent} if parent else {})})
    log = EventLog(folder.events)
    for event in events:
        log(event)
    log.close()


def finished(status: str, **more) -> Event:
    usage = {"seconds": 4.0, "total_tokens": 7, "cost": 0.5}
    return Event("run_finished", "r", {"status": status, "usage": usage, **more}, time=START + 5)


BEGUN = Event("run_started", "r", {"plan": "translate"}, time=START)


def test_it_is_made_from_the_folders_where_it_is_missing(tmp_path):
    folders = RunRecords(tmp_path)
    write_run(folders, "done", BEGUN, finished("success"))
    write_run(folders, "waits", BEGUN, finished("waiting", waiting=[{"step": "ask"}]))
    write_run(folders, "killed", BEGUN)
    write_run(folders, "again", BEGUN, finished("waiting"), BEGUN)
    write_run(folders, "child", BEGUN, parent={"run": "done", "step": "transform"})
    (tmp_path / "runs" / "empty").mkdir()
    with RunIndex(tmp_path) as index:
        found = {r.id: r for r in index.find()}
    assert {i: r.status for i, r in found.items()} == {
        "done": "success",
        "waits": "waiting",
        "killed": "stopped",
        "again": "stopped",
        "child": "stopped",
    }
    expected = RunRow(
        "done", "translate", "/p.yaml", "success", START, START + 5, 4.0, 7, 0.5, ran=4.0
    )
    assert found["done"] == expected
    assert found["waits"].waits_for == "ask"
    assert (found["child"].parent, found["child"].forked_at) == ("done", "transform")
    assert found["killed"].ended is None


def test_refresh_makes_it_fit_the_folders(tmp_path):
    folders = RunRecords(tmp_path)
    with RunIndex(tmp_path) as index:
        write_run(folders, "new", BEGUN, finished("success"))
        write_run(folders, "killed", BEGUN)
        write_run(folders, "goes-on", BEGUN)
        index.put(RunRow("gone", "p", "/p.yaml", "success", START))
        for run_id in ("killed", "goes-on"):
            index.put(RunRow(run_id, "p", "/p.yaml", "running", START))
        with RunLock(folders.at("goes-on")):
            assert index.refresh() == 3
            assert {r.id: r.status for r in index.find()} == {
                "new": "success",
                "killed": "stopped",
                "goes-on": "running",
            }
            assert index.refresh() == 0


def test_a_run_that_went_on_at_once_is_read_again(tmp_path):
    folders = RunRecords(tmp_path)
    write_run(folders, "stops", BEGUN, finished("stopped"))
    with RunIndex(tmp_path) as index:
        assert [r.status for r in index.find()] == ["stopped"]
        with (folders.at("stops").path / "events.jsonl").open("a") as file:
            file.writelines(
                json.dumps(event.as_dict()) + "\n" for event in (BEGUN, finished("success"))
            )
        assert index.refresh() == 1
        assert [r.status for r in index.find()] == ["success"]
        assert index.refresh() == 0


def test_a_damaged_index_is_put_aside_and_made_again(tmp_path):
    write_run(RunRecords(tmp_path), "done", BEGUN, finished("success"))
    with RunIndex(tmp_path) as index:
        index.put_all(row(number) for number in range(500))
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"no database at all" * 1000)
    with RunIndex(tmp_path) as index:
        assert ids(index.find()) == ["done"]
    assert (tmp_path / "index.sqlite.damaged").exists()


def test_an_index_damaged_in_the_middle_is_made_again_when_it_is_read(tmp_path):
    write_run(RunRecords(tmp_path), "done", BEGUN, finished("success"))
    with RunIndex(tmp_path) as index:
        index.put_all(row(number) for number in range(500))
    path = tmp_path / "index.sqlite"
    data = bytearray(path.read_bytes())
    data[8192:] = bytes(len(data) - 8192)
    path.write_bytes(data)
    with RunIndex(tmp_path) as index:
        assert ids(index.find()) == ["done"]


def test_a_file_of_an_earlier_version_is_brought_up_to_date_with_its_rows(tmp_path):
    path = tmp_path / "index.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        for statement in CHANGES[0]:
            database.execute(statement)
        database.execute(
            "INSERT INTO runs (id, plan, file, status, started)"
            " VALUES ('old', 'p', 'f', 'failed', 1)"
        )
        database.execute("PRAGMA user_version = 1")
        database.commit()
    with RunIndex(tmp_path) as index:
        assert index.get("old") == RunRow("old", "p", "f", "failed", 1.0)
        index.put(row(1, parent="old"))
        assert ids(index.find(RunFilter(parent="old"))) == ["r00001"]


def test_an_empty_file_of_version_0_is_made_whole(tmp_path):
    (tmp_path / "index.sqlite").touch()
    with RunIndex(tmp_path) as index:
        index.put(row(1))
        assert ids(index.find()) == ["r00001"]


def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    RunIndex(tmp_path).close()
    path = tmp_path / "index.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="version 99") as caught:
        RunIndex(tmp_path)
    assert "newer fractale" in (caught.value.hint or "")
    assert path.read_bytes() == before


def test_a_change_that_fails_changes_nothing(tmp_path):
    from fractale.store.sqlite import migrate

    with contextlib.closing(sqlite3.connect(tmp_path / "f.sqlite")) as database:
        with pytest.raises(sqlite3.Error):
            migrate(database, [["CREATE TABLE a (x)", "no SQL"]], "f")
        assert database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
        assert migrate(database, [["CREATE TABLE a (x)"], ["CREATE TABLE b (x)"]], "f") == 2
        assert migrate(database, [["CREATE TABLE a (x)"], ["CREATE TABLE b (x)"]], "f") == 0


def test_on_a_network_file_system_it_has_no_write_ahead_log(tmp_path):
    mountinfo = f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {tmp_path} rw - nfs4 b rw\n"
    with RunIndex(tmp_path, mountinfo=mountinfo) as index:
        index.put(row(1))
        assert not (tmp_path / "index.sqlite-wal").exists()


def test_only_the_owner_can_read_it(index, tmp_path):
    index.put(row(1))
    assert stat.S_IMODE((tmp_path / "index.sqlite").stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="index of runs"):
        RunIndex(tmp_path / "file")


def test_the_last_event_is_found_from_the_end_of_a_long_file(tmp_path):
    record = RunRecord("r", tmp_path)
    lines = [{"event": "run_started", "n": 0}]
    lines += [{"event": "log", "text": "y" * 1000, "n": n} for n in range(300)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    record.events.write_text(text + '{"event": "run_finished", "cut')
    ends = record.events_from_end(("run_finished", "run_started"))
    assert list(ends) == [{"event": "run_started", "n": 0}]
    assert len(list(record.events_from_end(("log",)))) == 300
    assert list(RunRecord("none", tmp_path / "none").events_from_end(("log",))) == []


# Many at once


def test_sixteen_at_once_list_and_write_a_new_index(tmp_path):
    """The workers of a sweep, and whoever looks at it; each has a connection of its own."""
    for number in range(40):
        make_run(RunRecords(tmp_path), f"run{number}")
    together = threading.Barrier(16)

    def work(number: int) -> int:
        together.wait()
        listed = len(list_runs(tmp_path))
        with RunIndex(tmp_path) as index:
            for again in range(10):
                index.put(replace(row(number), id=f"run{number}", seconds=float(again)))
                index.refresh()
        return listed

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [40] * 16
    assert len(list_runs(tmp_path)) == 40


def make_run(records: RunRecords, name: str) -> None:
    record = records.new(name)
    record.write_head({"plan": "p", "file": "p.yaml", "started": START, "inputs": {}})
