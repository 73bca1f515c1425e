"""A run that another process works on: its history as it grows, and the texts of its models."""

from __future__ import annotations

import json

import pytest

from fractale.errors import StoreError
from fractale.events import Event, EventLog
from fractale.record.follow import (
    MOST_TEXT,
    RunFollower,
    TextFile,
    text_being_written,
    texts_being_written,
)
from fractale.record.history_reader import read_history
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecord, RunRecords


@pytest.fixture
def record(tmp_path) -> RunRecord:
    made = RunRecords(tmp_path).new("k7f3a")
    made.write_head({"plan": "melt", "file": "melt.yaml", "started": 1.0})
    return made


@pytest.fixture
def log(record):
    log = EventLog(record.events)
    yield lambda kind, **data: log(Event(kind, record.run_id, data, 2.0))
    log.close()


def started(log, step: str) -> None:
    log("step_started", step=step, attempt=1, type="tool", target="t", previous=None)


# -- the history ------------------------------------------------------------------------------


def test_a_read_returns_only_what_is_new(record, log):
    follower = RunFollower(record)
    assert follower.read() == []
    with RunLock(record):
        log("run_started", plan="melt", steps=[])
        started(log, "one")
        assert [event["event"] for event in follower.read()] == ["run_started", "step_started"]
        assert follower.history.alive
        assert follower.read() == []
        started(log, "two")
        assert [event["step"] for event in follower.read()] == ["two"]
        assert follower.history.paths() == ["one", "two"]
        log("run_finished", status="success")
    assert len(follower.read()) == 1
    assert (follower.history.alive, follower.history.status) == (False, "success")


def test_a_torn_line_is_left_until_it_is_whole_or_cut(record, log):
    follower = RunFollower(record)
    log("run_started", plan="melt", steps=[])
    with record.events.open("ab") as file:
        file.write(b'{"event": "step_st')
    assert len(follower.read()) == 1
    assert follower.read() == []
    again = EventLog(record.events)  # the next process cuts it
    again(Event("warning", record.run_id, {"step": "", "code": "x", "message": "m"}))
    again.close()
    assert [event["event"] for event in follower.read()] == ["warning"]


def test_a_damaged_or_removed_record_is_an_error_each_time(record, log):
    follower = RunFollower(record)
    log("run_started", plan="melt", steps=[])
    with record.events.open("ab") as file:
        file.write(b"\0\0\0\n")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"line 2 of .* is damaged"):
            follower.read()
    assert len(follower.history.processes) == 1
    record.remove()
    with pytest.raises(StoreError, match="was removed"):
        follower.read()


def test_the_same_history_as_one_that_is_read_at_once(record, log):
    follower = RunFollower(record)
    log("run_started", plan="melt", steps=[{"name": "a", "type": "plan", "target": None}])
    for step in ("a", "a/b", "a"):
        started(log, step)
        follower.read()
    record.keep_draft("a", "name: drafted\n")
    log("step_finished", step="a/b", attempt=1, outcome="success")
    follower.read()
    assert follower.history.drafts == {"a": "name: drafted\n"}
    whole = read_history(record)
    assert (follower.history.attempts, follower.history.drafts) == (whole.attempts, whole.drafts)


# -- texts of models --------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def piece(text: str, step: str = "write") -> Event:
    return Event("model_text", "k7f3a", {"step": step, "text": text})


def test_the_end_of_a_text_is_seen_while_it_is_written(record):
    clock = Clock()
    texts = TextFile(record, clock)
    with RunLock(record):
        texts(piece("Once upon"))
        texts(piece(" a time"))  # too soon
        assert text_being_written(record) == {"write": "Once upon"}
        clock.now += 0.6
        texts(piece("x" * 3000))
        assert text_being_written(record) == {"write": "x" * MOST_TEXT}
        assert record.written.stat().st_mode & 0o777 == 0o600
        texts(Event("model_finished", "k7f3a", {"step": "write"}))
        assert text_being_written(record) == {}
        assert not record.written.exists()


def test_a_text_of_a_killed_process_is_not_shown(record):
    TextFile(record)(piece("Once upon"))
    assert record.written.exists()
    assert text_being_written(record) == {}
    with RunLock(record):
        TextFile(record)
        assert text_being_written(record) == {}


@pytest.mark.parametrize("content", [b"[1]", b"\xff", b'{"a": 1}', b'{"a": ["b", "c", 1]}', b"{"])
def test_a_file_that_something_else_wrote_is_no_error(record, content):
    record.written.write_bytes(content)
    with RunLock(record):
        assert text_being_written(record) == {}


@pytest.mark.parametrize(
    ("begin", "is_data"), [('{"plan"', True), ("```json\n{", True), ("[see]", False), ("As", False)]
)
def test_json_is_known_by_its_beginning(record, begin, is_data):
    clock = Clock()
    texts = TextFile(record, clock)
    texts(piece(begin))
    clock.now += 1
    texts(piece("x" * 3000))
    with RunLock(record):
        [text] = texts_being_written(record).values()
    assert (text.is_data, text.characters) == (is_data, len(begin) + 3000)


def test_a_run_without_models_writes_no_file(record):
    texts = TextFile(record)
    before = sorted(path.name for path in record.path.iterdir())
    for kind in ("run_started", "step_started", "tool_started", "tool_finished", "run_finished"):
        texts(Event(kind, "k7f3a", {"step": "a"}))
    assert sorted(path.name for path in record.path.iterdir()) == before
    assert json.loads(record.head.read_text())["plan"] == "melt"
