"""The record of a run on the disk: its events, whole or told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from langgraph.checkpoint.memory import InMemorySaver

import fractale
from fractale.errors import StoreError, UsageError
from fractale.events import Event, EventLog
from fractale.runs import RunOptions, Runs
from fractale.schedulers.folder import JobFolder
from fractale.store.run_record import RunRecords
from fractale.testing import FakeToolServer


@pytest.fixture
def folder(tmp_path):
    return RunRecords(tmp_path).new("k7f3")


def log(folder, *words: str) -> None:
    made = EventLog(folder.events)
    for word in words:
        made(Event("log", "k7f3", {"step": "", "level": "info", "message": word}))
    made.close()


def said(folder) -> list[str]:
    return [event["message"] for event in folder.read_events()]


def test_events_are_read_back_in_their_order(folder):
    log(folder, "one", "zwei — drüben")
    log(folder, "three")
    assert said(folder) == ["one", "zwei — drüben", "three"]
    assert (folder.path / "events.jsonl").stat().st_mode & 0o777 == 0o600


def test_all_of_the_state_folder_is_its_owners(tmp_path):
    run = RunRecords(tmp_path / ".fractale" / "runs").new("k7f3").path
    JobFolder.of(tmp_path / "other" / "jobs", "one").make()
    made = [run, *run.parents[:2], *(tmp_path / "other").rglob("*"), tmp_path / "other"]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


def test_a_run_without_events_has_none(folder):
    assert said(folder) == []


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_last_line_that_a_crash_cut_is_left_out_and_not_glued_to_the_next(folder, cut):
    log(folder, "one", "two — ü")
    path = folder.path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    log(folder, "three")
    assert said(folder) == ["one", "three"]


def test_a_long_torn_line_alone_is_cut_too(folder):
    (folder.path / "events.jsonl").write_bytes(b"{" + b"x" * 10_000)
    log(folder, "one")
    assert said(folder) == ["one"]


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"{broken", b"[1, 2]", b"7", b'{"a": 1}', b"\0\0"])
def test_a_damaged_line_is_told_with_its_place(folder, damage):
    log(folder, "one", "two", "three")
    path = folder.path / "events.jsonl"
    first, _, *rest = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, damage, *rest]))
    with pytest.raises(StoreError, match=r"line 2 of .*events\.jsonl is damaged") as caught:
        said(folder)
    assert "take that line out" in (caught.value.hint or "")


def test_a_last_line_that_is_no_text_is_left_out(folder):
    log(folder, "one")
    with (folder.path / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "log", "message": "\xff\xfe')
    assert said(folder) == ["one"]


def test_a_disk_without_room_is_told(folder):
    (folder.path / "events.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="cannot write the run's record") as caught:
        log(folder, "one")
    assert "check space" in (caught.value.hint or "")


def test_an_output_that_cannot_be_written_is_told(folder):
    folder.outputs.mkdir()
    (folder.outputs / "report.txt").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="cannot write the run's record"):
        folder.write_output("report", "x" * 100_000)


def test_a_text_that_is_no_unicode_is_kept_as_an_escape(folder):
    log(folder, "a lone \ud800 surrogate")
    (line,) = (folder.path / "events.jsonl").read_bytes().splitlines()
    assert json.loads(line)["message"] == "a lone \ud800 surrogate"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "-1", "a b", "x" * 65, "ü"])
def test_an_id_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="is not a valid id of a run"):
        RunRecords(tmp_path).new(name)


def test_an_id_is_given_once(tmp_path):
    folders = RunRecords(tmp_path)
    folder = folders.new("job-4711")
    assert folders.new("job-4711").path == folder.path, "nothing began under it"
    folder.write_head({"plan": "p"})
    with pytest.raises(UsageError, match="there is a run `job-4711` already"):
        folders.new("job-4711")


async def test_an_id_that_another_state_folder_uses_in_the_same_store_is_refused(
    settings, tmp_path
):
    tools = FakeToolServer()
    tools.answer("t", {"ok": True})
    (tmp_path / "p.yaml").write_text("name: p\nsteps: [{name: s, tool: t}]\n")
    plan = fractale.load(tmp_path / "p.yaml")
    options = RunOptions(checkpointer=InMemorySaver(), run_id="job-4711")
    result = await Runs(settings, tools).start(plan, {}, options)
    assert (result.run, result.status) == ("job-4711", "success")
    other = replace(settings, state_dir=tmp_path / "other")
    with pytest.raises(UsageError, match="there is a run `job-4711` already"):
        await Runs(other, tools).start(plan, {}, options)
    assert RunRecords(other.state_dir).names() == set()
