"""A large text is on the disk once, and every reader of a run finds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractale.errors import StoreError
from fractale.record.diff import diff_runs
from fractale.record.history import history_data, input_values
from fractale.record.history_reader import read_history
from fractale.record.pruning import PruneRule, prune
from fractale.record.recordings import write_recording
from fractale.replaying.journal import RecordedJournal
from fractale.report.write import report
from fractale.runs import RunOptions
from fractale.runs.fork import ForkChanges
from fractale.store.outputs import (
    LARGE_TEXT,
    FileOutputs,
    MemoryOutputs,
    divided,
    in_brief,
    whole,
)
from fractale.store.run_record import RunRecord
from replays import Stage

LARGE = "0123456789 a line\n" * (LARGE_TEXT // 9)
"""About half a megabyte."""
SECRET = "hunter2-of-the-cluster"

PLAN = """
name: large
inputs: {key: none}
steps:
  - {name: read, tool: read}
  - {name: use, tool: use, inputs: {text: "{{ steps.read.outputs.content }}"}}
  - {name: ask, tool: use, inputs: {text: short}, approve: always}
outputs: {text: "{{ steps.read.outputs.content }}", size: "{{ steps.use.outputs.size }}"}
"""


class Large(Stage):
    """Runs of a tool that answers with `text`."""

    text = LARGE


@pytest.fixture
def stage(tmp_path: Path, settings: Any) -> Large:
    made = Large(tmp_path, settings)

    @made.server.tool
    def read() -> str:
        return made.text

    @made.server.tool
    def use(text: str) -> dict[str, Any]:
        return {"size": len(text)}

    return made


def bytes_of(record: RunRecord) -> int:
    """The bytes of a run's directory; a file with several names counts once."""
    found = {file.stat().st_ino: file.stat().st_size for file in record.path.rglob("*")}
    return sum(found.values())


# Values


TEXTS = st.sampled_from([LARGE, LARGE[1:], LARGE + "\udcff é", "short", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "$ref", "$parts", "value", "text"]), inner)
    ),
    max_leaves=6,
)


@given(VALUES)
def test_a_value_reads_as_it_was_stored(tmp_path_factory: Any, value: Any) -> None:
    for store in (FileOutputs(tmp_path_factory.getbasetemp() / "outputs"), MemoryOutputs()):
        kept = store.put([value, "x" * 2000])  # too large for the state
        assert len(json.dumps(kept)) < 200
        assert store.get(kept) == [value, "x" * 2000]


@given(VALUES, VALUES)
def test_two_values_are_equal_in_brief_if_and_only_if_they_are_equal(a: Any, b: Any) -> None:
    assert (in_brief(a) == in_brief(b)) == (a == b)


def test_both_stores_have_the_same_references(tmp_path: Path) -> None:
    value = {"text": LARGE, "more": [LARGE]}
    assert FileOutputs(tmp_path).put(value) == MemoryOutputs().put(value)


def test_a_value_that_only_looks_divided_is_a_value(tmp_path: Path) -> None:
    store = FileOutputs(tmp_path)
    secret = store.put_text(SECRET * 2)
    forged = {"$parts": [{"at": ["x"], **secret}], "value": {"x": "y" * 3000}}
    assert store.get(store.put(forged)) == forged


@pytest.mark.parametrize("at", [["b"], ["a", 7], [1], ["a", "b", "c"], None])
def test_parts_that_do_not_fit_are_told(tmp_path: Path, at: Any) -> None:
    store = FileOutputs(tmp_path)
    kept = store.put_text(LARGE)
    value = {"a": ["in brief"]}
    with pytest.raises(StoreError, match="belongs nowhere"):
        whole(value, [{"at": at, **kept}] if at else [{**kept}], store.get_text)


def test_a_text_that_was_changed_or_removed_is_told(tmp_path: Path) -> None:
    store = FileOutputs(tmp_path)
    kept = store.put({"text": LARGE})
    (file,) = tmp_path.rglob("*.txt")
    file.write_text(LARGE.replace("a line", "a lime", 1))
    with pytest.raises(StoreError, match="changed or damaged"):
        store.get(kept)
    file.unlink()
    with pytest.raises(StoreError, match="missing"):
        store.get(kept)


def test_a_small_value_has_no_parts() -> None:
    value = {"text": "x" * LARGE_TEXT}
    assert divided(value, pytest.fail) == (value, [])


# Runs


async def test_a_large_text_is_on_the_disk_once(stage: Large) -> None:
    """The answer of a call, the outputs of a step, the arguments of another, an output."""
    result = await stage.record(PLAN, yes=True)
    assert result.status == "success"
    assert result.outputs == {"text": LARGE, "size": len(LARGE)}
    assert bytes_of(stage.last) < 1.3 * len(LARGE)
    assert stage.last.journal.stat().st_size < 20_000
    assert stage.last.events.stat().st_size < 40_000
    assert (stage.last.outputs / "text.txt").read_text() == LARGE
    assert result.output_files == {"text": str(stage.last.outputs / "text.txt")}


async def test_a_run_that_waits_is_resumed_with_it(stage: Large) -> None:
    waits = await stage.record(PLAN)
    assert waits.status == "waiting"
    result = await stage.resume(answers={"ask": True})
    assert result.outputs == {"text": LARGE, "size": len(LARGE)}


async def test_a_recorded_answer_is_whole_after_a_kill(stage: Large) -> None:
    """The process dies after the call is recorded and before the step's checkpoint."""
    await stage.record(PLAN)
    record, calls = stage.last, len(stage.server.calls)
    record.checkpoints.unlink()
    for tail in ("-wal", "-shm"):
        record.path.joinpath(f"checkpoints.sqlite{tail}").unlink(missing_ok=True)
    journal = RecordedJournal(record.journal)
    (answer,) = [call for call in journal.calls.values() if call.call.name.endswith("read")]
    assert answer.at is not None
    assert journal.result(answer.at)["text"] == LARGE
    assert len(stage.server.calls) == calls


async def test_it_is_replayed(stage: Large) -> None:
    await stage.record(PLAN, yes=True)
    await stage.equal()


async def test_another_text_is_another_run_to_a_replay(stage: Large) -> None:
    await stage.record(PLAN, yes=True)
    other = PLAN.replace('read.outputs.content }}"}}', 'read.outputs.content }}!"}}')
    replayed = await stage.replay(plan=other)
    assert replayed.divergence is not None
    assert replayed.divergence.what == "arguments"


async def test_it_is_exported_and_replayed_elsewhere(stage: Large, tmp_path: Path) -> None:
    await stage.record(PLAN, yes=True)
    for name in ("copy", "copy.zip"):
        target = tmp_path / name
        write_recording(stage.last, target, ())
        if target.is_dir():
            moved = RunRecord("copy", target)
            await stage.equal(folder=moved)


async def test_all_readers_have_the_whole(stage: Large) -> None:
    await stage.record(PLAN, yes=True)
    history = read_history(stage.last)
    data = history_data(history)
    read, use, _ = data["visits"]
    assert read["outputs"]["content"] == LARGE
    assert read["calls"][0]["result"]["text"] == LARGE
    assert use["inputs"]["text"] == use["calls"][0]["arguments"]["text"] == LARGE
    assert history.result["outputs"]["text"] == LARGE
    assert input_values(history) is not None
    assert "0123456789 a line" in report([history])


async def test_two_runs_are_compared_by_the_whole(stage: Large) -> None:
    await stage.record(PLAN, yes=True)
    one = read_history(stage.last)
    await stage.record(PLAN, yes=True)
    same = read_history(stage.last)
    assert not [each for each in diff_runs(one, same).attempts if each.changed]
    stage.text = LARGE + "x"
    await stage.record(PLAN, yes=True)
    other = diff_runs(one, read_history(stage.last))
    assert {name for each in other.attempts for name in each.changed} >= {"calls", "outputs"}


async def test_a_fork_has_it_and_the_files_are_shared(stage: Large) -> None:
    parent = await stage.record(PLAN, yes=True)
    with stage.runs(yes=True) as runs:
        fork = await runs.fork(parent.run, "use", RunOptions(yes=True), changes=ForkChanges())
    assert fork.outputs["text"] == LARGE
    stage.result = fork
    inodes = {file.stat().st_ino for file in (parent.record / "outputs").glob("??/*.txt")}
    assert len(inodes) == 1
    assert inodes == {file.stat().st_ino for file in stage.last.outputs.glob("??/*.txt")}


async def test_a_checksum_in_a_text_is_not_a_reference(stage: Large) -> None:
    """Such as that of a container's image: a fork looks for no output of that name."""
    digest = "sha256:" + "a" * 64
    stage.text = f"{digest} {'x' * 3000}"
    parent = await stage.record(PLAN, yes=True)
    with stage.runs(yes=True) as runs:
        fork = await runs.fork(parent.run, "use", RunOptions(yes=True), changes=ForkChanges())
    assert fork.outputs["text"] == stage.text


async def test_pruning_keeps_it_while_something_refers_to_it(stage: Large, settings: Any) -> None:
    await stage.record(PLAN, yes=True)
    files = list(stage.last.outputs.glob("??/*"))
    left = FileOutputs(stage.last.outputs).put_text("y" * LARGE_TEXT * 2)
    for file in stage.last.outputs.rglob("*"):
        os.utime(file, (time.time() - 9000,) * 2)
    found = await prune(settings, PruneRule(keep=100))
    assert found.outputs == 1
    assert all(file.exists() for file in files)
    with pytest.raises(StoreError):
        FileOutputs(stage.last.outputs).get_text(left)


async def test_secrets_in_it_are_masked(stage: Large) -> None:
    stage.text = f"{LARGE}{SECRET}\n{LARGE}"
    plan = PLAN.replace("{key: none}", "{key: {secret: true}}")
    await stage.record(plan, yes=True, secrets={"key": SECRET})
    for file in stage.last.path.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
    assert "***" in read_history(stage.last).result["outputs"]["text"]


async def test_an_output_that_changes_leaves_the_stored_text_alone(stage: Large) -> None:
    await stage.record(PLAN, yes=True)
    record = stage.last
    record.write_output("text", "another text")
    assert FileOutputs(record.outputs).get(FileOutputs(record.outputs).put(LARGE)) == LARGE
    assert read_history(record).result["outputs"]["text"] == LARGE


async def test_a_record_from_before_is_read(stage: Large) -> None:
    """Its journal and its events have large texts in them."""
    await stage.record(PLAN, yes=True)
    record = stage.last
    store = FileOutputs(record.outputs)
    lines = []
    for line in record.journal.read_text().splitlines():
        entry = json.loads(line)
        del entry["sum"]  # still older records have none
        if parts := entry.pop("parts", None):
            entry["result"] = whole(entry["result"], parts, store.get_text)
        lines.append(json.dumps(entry))
    record.journal.write_text("".join(f"{line}\n" for line in lines))
    lines = []
    for event in record.read_events():
        parts = event.pop("parts", ())
        lines.append(json.dumps(whole(event, parts, store.get_text)))
    record.events.write_text("".join(f"{line}\n" for line in lines))
    assert record.events.stat().st_size > 2 * len(LARGE)
    data = history_data(read_history(record))
    assert data["visits"][0]["calls"][0]["result"]["text"] == LARGE
    assert data["visits"][1]["calls"][0]["arguments"]["text"] == LARGE
    await stage.equal()


# The limit


ANSWER = """
import asyncio, resource, sys
import fractale
from pathlib import Path

def read() -> str:
    "Read it."
    return "0123456789 a line\\n" * (int(sys.argv[1]) // 18)

plan = "name: p\\nsteps: [{name: s, tool: read}]\\n"
events = []
result = fractale.run(
    fractale.load(plan), tools=[read], keep=True, on_event=lambda event: events.append(event)
)
told = [event.data["message"] for event in events if event.kind == "warning"]
size = sum(file.stat().st_size for file in Path(result.record).rglob("*") if file.is_file())
print(result.status, size / int(sys.argv[1]), told, result.error)
"""


def answered(folder: Path, size: int) -> str:
    home = {"HOME": str(folder), "FRACTALE_STATE_DIR": str(folder / "state")}
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(size)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("COV")}, **home},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_very_large_answer_warns_and_is_kept(tmp_path: Path) -> None:
    said = answered(tmp_path, 20_000_000)
    status, size, rest = said.split(" ", 2)
    assert status == "success"
    assert float(size) < 1.1
    assert "`read` answered with 19 MiB of text; let it write them to a file" in rest
