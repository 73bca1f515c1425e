"""One file of checkpoints per run: what runs in progress, damage and moved directories mean."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

from fractale import paths
from fractale.errors import StoreError, UsageError
from fractale.questions import Answers
from fractale.record.pruning import PruneRule, prune
from fractale.runs import RunOptions, Runs
from fractale.store.checkpoints import MOST_OPEN, open_checkpoints
from fractale.store.index import list_runs
from fractale.store.run_record import RecordFile, RunRecord, RunRecords
from fractale.store.sqlite_saver import PAGE_BYTES, open_sqlite
from fractale.testing import FakeToolServer
from store_runs import begin, config, finish, latest

WAITS = """
name: waits
steps: [{name: first, tool: t}, {name: asked, tool: t, approve: always}]
"""


def network(folder: Path) -> str:
    return (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"23 22 0:41 / {folder} rw shared:1 - nfs4 server:/export rw\n"
    )


def file_of(state: Path, run: str) -> Path:
    return RunRecords(state).at(run).checkpoints


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()
    server.answer("t", {"text": "x" * 3000})
    return server


@pytest.fixture
def plan(tmp_path) -> Path:
    path = tmp_path / "waits.yaml"
    path.write_text(WAITS)
    return path


async def test_langgraphs_conformance_suite_passes(tmp_path):
    @checkpointer_test(name="files of runs")
    async def saver():
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            async with open_checkpoints(Path(folder)) as made:
                yield made

    report = await validate(saver)
    assert report.passed_all_base(), report.to_dict()
    assert report.passed_all(), report.to_dict()


async def test_a_run_s_checkpoints_are_in_its_directory(run_plan, settings, plan, tools):
    seen = await run_plan(plan, tools=tools, keep=True)
    assert file_of(settings.state_dir, seen.result.run).is_file()
    assert not (settings.state_dir / "checkpoints.sqlite").exists()


async def test_tools_of_a_plan_may_write_nothing_that_is_the_record_s(tmp_path):
    names = [each.name for each in vars(RunRecord).values() if isinstance(each, RecordFile)]
    assert "checkpoints.sqlite" in names
    record = tmp_path / ".fractale" / "runs" / "k7f3a"
    record.mkdir(parents=True)
    for name in (*names, "checkpoints.sqlite-wal", "checkpoints.sqlite-journal"):
        assert paths.forbidden(record / name, writing=True), name
    assert not paths.forbidden(record / "result.txt", writing=True)


# -- several runs at a time -----------------------------------------------------------------------


async def test_on_a_network_file_system_sixteen_runs_are_in_progress_at_the_same_time(
    run_plan, settings, plan, tools
):
    state = settings.state_dir
    all_open = asyncio.Barrier(16)

    async def start(name: str):
        # Each opens the checkpoints anew, as a process of its own does.
        async with open_checkpoints(state, mountinfo=network(state)) as saver:
            await saver.open_run(name)
            await all_open.wait()
            seen = await run_plan(plan, tools=tools, keep=True, run_id=name, checkpointer=saver)
        return seen.status

    names = [f"run{number}" for number in range(16)]
    assert await asyncio.gather(*map(start, names)) == ["waiting"] * 16
    assert {row.status for row in list_runs(state)} == {"waiting"}


async def test_on_a_network_file_system_a_run_s_file_is_for_one_process_at_a_time(tmp_path):
    mountinfo = network(tmp_path)
    async with open_checkpoints(tmp_path, mountinfo=mountinfo) as saver:
        await begin(saver, "one")
        async with open_checkpoints(tmp_path, mountinfo=mountinfo) as other:
            with pytest.raises(StoreError, match=r"network file system .nfs4.*held by process"):
                await other.aget_tuple(config("one"))
            await begin(other, "two")
    async with open_checkpoints(tmp_path, mountinfo=mountinfo) as saver:
        assert await finish(saver, "one") == [0, 1, 2, 3]


async def test_a_run_is_read_while_another_process_writes_it(tmp_path):
    async with open_checkpoints(tmp_path) as saver, open_checkpoints(tmp_path) as other:
        await begin(saver, "one")
        assert await latest(other, "one") == await latest(saver, "one")


async def test_a_server_with_many_threads_keeps_few_files_open(tmp_path):
    names = [f"run{number}" for number in range(3 * MOST_OPEN)]
    async with open_checkpoints(tmp_path) as saver:
        for name in names:
            await begin(saver, name)
            assert len(open_files(tmp_path)) <= MOST_OPEN
        found = await asyncio.gather(*(latest(saver, name) for name in names))
        assert len(open_files(tmp_path)) <= len(names)
        assert all("x" * 300 in each for each in found)
        await latest(saver, names[0])
        await begin(saver, "another")
        assert len(open_files(tmp_path)) <= MOST_OPEN
    assert not open_files(tmp_path)


def open_files(folder: Path) -> set[str]:
    """The databases that this process has open."""
    found: set[str] = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return {each for each in found if each.startswith(str(folder)) and each.endswith(".sqlite")}


async def test_a_write_that_comes_after_the_end_opens_nothing(tmp_path):
    async with open_checkpoints(tmp_path) as saver:
        await begin(saver, "one")
        place = (await saver.aget_tuple(config("one"))).config
    await saver.aput_writes(place, [("numbers", [77])], "late")
    assert not open_files(tmp_path)
    async with open_checkpoints(tmp_path) as saver:
        assert "[77]" not in await latest(saver, "one")


@pytest.mark.parametrize("thread", ["../other", "a/b", "", ".", "x" * 65])
async def test_a_thread_that_no_run_can_be_is_refused(tmp_path, thread):
    async with open_checkpoints(tmp_path) as saver:
        with pytest.raises(StoreError, match="not a valid ID"):
            await saver.aget_tuple(config(thread))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tail", ["", "-wal", "-journal"])
async def test_a_link_that_came_with_a_directory_is_not_followed(tmp_path, tail):
    target = tmp_path / "mine"
    target.write_bytes(b"mine")
    async with open_checkpoints(tmp_path) as saver:
        await begin(saver, "one")
    link = file_of(tmp_path, "one").with_name(f"checkpoints.sqlite{tail}")
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    async with open_checkpoints(tmp_path) as saver:
        with pytest.raises(StoreError, match="is a symbolic link"):
            await saver.aget_tuple(config("one"))
    assert target.read_bytes() == b"mine"


# -- damage, moved and removed directories ---------------------------------------------------------


async def test_a_damaged_file_costs_one_run(run_plan, settings, plan, tools):
    for name in ("good", "bad", "later"):
        assert (await run_plan(plan, tools=tools, keep=True, run_id=name)).status == "waiting"
    file = file_of(settings.state_dir, "bad")
    file.write_bytes(b"\0" * file.stat().st_size)
    runs = Runs(settings, tools)
    agreed = RunOptions(replies=Answers({"asked": "yes"}))
    with pytest.raises(StoreError, match="cannot use the checkpoints") as caught:
        await runs.resume("bad", agreed)
    assert str(file) in str(caught.value)
    assert (await runs.resume("good", agreed)).status == "success"
    assert {row.id: row.status for row in list_runs(settings.state_dir)} == {
        "good": "success",
        "bad": "waiting",
        "later": "waiting",
    }
    # It can be removed, and does not keep others from it.
    report = await prune(settings, PruneRule(keep=0, force=True))
    assert {run.id for run in report.removed} == {"good", "bad", "later"}


async def test_a_run_s_directory_is_moved_to_another_state_directory(
    run_plan, settings, plan, tools, tmp_path
):
    seen = await run_plan(plan, tools=tools, keep=True)
    run = seen.result.run
    moved = replace(settings, state_dir=tmp_path / "elsewhere" / "state")
    (moved.state_dir / "runs").mkdir(parents=True)
    shutil.move(settings.state_dir / "runs" / run, moved.state_dir / "runs" / run)
    assert [row.status for row in list_runs(moved.state_dir)] == ["waiting"]
    assert list_runs(settings.state_dir) == []
    result = await Runs(moved, tools).resume(run, RunOptions(replies=Answers({"asked": "yes"})))
    assert result.status == "success"
    assert [call[0] for call in tools.calls] == ["t", "t"]
    fork = await Runs(moved, tools).fork(run, "asked", RunOptions(yes=True))
    assert fork.status == "success"


async def test_a_copy_of_a_run_s_directory_goes_its_own_way(
    run_plan, settings, plan, tools, tmp_path
):
    run = (await run_plan(plan, tools=tools, keep=True)).result.run
    copy = replace(settings, state_dir=tmp_path / "copy")
    shutil.copytree(settings.state_dir / "runs", copy.state_dir / "runs")
    for each in (copy, settings):
        agreed = RunOptions(replies=Answers({"asked": "yes"}))
        assert (await Runs(each, tools).resume(run, agreed)).status == "success"
    assert len(tools.calls) == 3


async def test_the_latest_run_is_the_one_that_began_last(run_plan, settings, plan, tools):
    for name in ("one", "two"):
        await run_plan(plan, tools=tools, keep=True, run_id=name)
    async with open_checkpoints(settings.checkpoints) as saver:
        await saver.aget_tuple(config("one"))  # SQLite makes and removes files beside it
    assert RunRecords(settings.state_dir).find("-1").run_id == "two"


@pytest.mark.parametrize("name", ["..", ".", "", "../runs", "/etc"])
def test_a_path_is_not_the_id_of_a_run(tmp_path: Path, name: str):
    RunRecords(tmp_path).new("one")
    with pytest.raises(UsageError, match="not found"):
        RunRecords(tmp_path).find(name)


# -- the one file of 0.2 ---------------------------------------------------------------------------


@pytest.fixture
async def shared(tmp_path) -> Path:
    """A state directory whose runs have one file of checkpoints, with a record each."""
    async with open_sqlite(tmp_path / "checkpoints.sqlite") as saver:
        for name in ("waits", "done"):
            await begin(saver, name)
            record = RunRecords(tmp_path).new(name)
            record.events.write_text('{"event": "run_started"}\n')
        await finish(saver, "done")
    return tmp_path


async def test_a_run_of_the_shared_file_is_read_there_and_gets_no_file(shared):
    async with open_checkpoints(shared) as saver:
        assert "x" * 300 in await latest(saver, "done")
        assert [found async for found in saver.alist(config("done"))]
        assert set(await saver.sizes()) == {"waits", "done"}
    assert not file_of(shared, "done").exists()


async def test_a_run_of_the_shared_file_gets_its_own_when_it_is_resumed(shared):
    async with open_checkpoints(shared) as saver:
        before = await latest(saver, "waits")
        await saver.open_run("waits")
        assert await latest(saver, "waits") == before
        assert await finish(saver, "waits") == [0, 1, 2, 3]
    (shared / "checkpoints.sqlite").unlink()
    async with open_checkpoints(shared) as saver:
        assert "3" in await latest(saver, "waits")
        assert await saver.aget_tuple(config("done")) is None


async def test_what_a_crash_left_of_a_copy_is_not_taken_for_one(shared):
    part = file_of(shared, "waits").with_name(".checkpoints.sqlite.7.7.part")
    part.write_bytes(b"half")
    async with open_checkpoints(shared) as saver:
        await saver.open_run("waits")
        assert await finish(saver, "waits") == [0, 1, 2, 3]


async def test_a_damaged_shared_file_is_not_copied(shared):
    file = shared / "checkpoints.sqlite"
    data = bytearray(file.read_bytes())
    data[3 * PAGE_BYTES : 3 * PAGE_BYTES + 64] = bytes(64)
    file.write_bytes(data)
    async with open_checkpoints(shared) as saver:
        with pytest.raises(StoreError, match="cannot use the checkpoints"):
            await saver.open_run("waits")
        assert not file_of(shared, "waits").exists()
        await begin(saver, "new")  # other runs go on


async def test_a_new_run_takes_nothing_of_one_that_had_its_id(shared):
    shutil.rmtree(RunRecords(shared).at("waits").path)
    RunRecords(shared).new("waits")
    async with open_checkpoints(shared) as saver:
        await saver.open_run("waits")
        assert await saver.aget_tuple(config("waits")) is None


async def test_a_resumed_run_whose_checkpoints_are_lost_gets_no_empty_file(shared):
    hidden = (shared / "checkpoints.sqlite").rename(shared / "hidden")
    async with open_checkpoints(shared) as saver:
        await saver.open_run("waits")
    hidden.rename(shared / "checkpoints.sqlite")
    async with open_checkpoints(shared) as saver:
        assert await finish(saver, "waits") == [0, 1, 2, 3]


async def test_on_a_network_file_system_runs_of_the_shared_file_are_resumed_together(shared):
    async def resume(name: str) -> list[int]:
        async with open_checkpoints(shared, mountinfo=network(shared)) as saver:
            await saver.open_run(name)
        async with open_checkpoints(shared, mountinfo=network(shared)) as saver:
            return (await saver.aget_tuple(config(name))).checkpoint["channel_values"]["numbers"]

    assert await asyncio.gather(resume("waits"), resume("done")) == [[0, 1], [0, 1, 2, 3]]


async def test_deleting_a_run_takes_it_out_of_the_shared_file_too(shared):
    async with open_checkpoints(shared) as saver:
        await saver.open_run("waits")
        await saver.adelete_thread("waits")
        assert await saver.aget_tuple(config("waits")) is None
        assert set(await saver.sizes()) == {"done"}
        await saver.reclaim()
    assert not file_of(shared, "waits").exists()
