"""Checkpoints in SQLite: as LangGraph wants them, and never wrong without a word."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from fractale.errors import StoreError
from fractale.store.sqlite_saver import CHANGES, PAGE_BYTES, open_sqlite
from store_runs import begin, config, finish, history, latest

FLIPS = 10_000 if os.environ.get("FRACTALE_FULL") else 100


async def test_langgraphs_conformance_suite_passes(tmp_path):
    @checkpointer_test(name="sqlite")
    async def saver():
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            async with open_sqlite(Path(folder) / "checkpoints.sqlite") as made:
                yield made

    report = await validate(saver)
    assert report.passed_all_base(), report.to_dict()
    assert report.passed_all(), report.to_dict()


@pytest.fixture
async def kept(tmp_path):
    """A file with a run that waits and a run that is done, and what reads from it."""
    path = tmp_path / "kept" / "checkpoints.sqlite"
    async with open_sqlite(path) as saver:
        await begin(saver, "waits")
        await begin(saver, "done")
        assert await finish(saver, "done") == [0, 1, 2, 3]
    return path, await readings(path)


async def readings(path: Path, wait: float = 1.0) -> list[str]:
    async with open_sqlite(path, wait=wait) as saver:
        read = [await latest(saver, thread) for thread in ("waits", "done", "nobody")]
        return [*read, await history(saver, "waits"), await history(saver, "done")]


async def right_or_told(path: Path, expected: list[str]) -> str:
    """What came of reading a damaged file; a test fails where it is neither."""
    try:
        read = await readings(path)
    except StoreError as error:
        return "told" if error.hint else "told without a hint"
    assert read == expected
    return "right"


async def test_a_flipped_bit_reads_right_or_is_told(kept, tmp_path):
    path, expected = kept
    whole, flips = path.read_bytes(), random.Random(4)
    seen = {"right": 0, "told": 0}
    for number in range(FLIPS):
        place = flips.randrange(len(whole) * 8)
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / path.name).write_bytes(data)
        seen[await right_or_told(folder / path.name, expected)] += 1
        shutil.rmtree(folder)
    # Some bits are in space that nothing uses, others are not: both must have been met.
    assert min(seen.values()) > FLIPS // 10


async def test_a_truncated_file_reads_right_or_is_told(kept, tmp_path):
    path, expected = kept
    whole = path.read_bytes()
    cut = tmp_path / "cut" / path.name
    cut.parent.mkdir()
    for length in (0, 1, 99, 100, 4095, *range(4096, len(whole), PAGE_BYTES), len(whole) - 1):
        for old in cut.parent.iterdir():
            old.unlink()
        cut.write_bytes(whole[:length])
        assert await right_or_told(cut, expected) == "told", length


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


async def after_a_crash(folder: Path) -> tuple[Path, list[str]]:
    """A file whose log was not taken up when its process died."""
    path = folder / "live" / "checkpoints.sqlite"
    async with open_sqlite(path) as saver:
        await begin(saver, "waits")
        await begin(saver, "done")
        await finish(saver, "done")
        crashed = folder / "crashed" / path.name
        crashed.parent.mkdir()
        for tail in ("", "-wal"):
            shutil.copy(f"{path}{tail}", f"{crashed}{tail}")
    return crashed, await readings(path)


async def test_after_a_crash_all_that_was_kept_is_there(tmp_path):
    path, expected = await after_a_crash(tmp_path)
    assert log_of(path).stat().st_size > 4096
    assert await readings(path) == expected


async def test_a_log_damaged_after_a_crash_is_told(tmp_path):
    path, _ = await after_a_crash(tmp_path)
    log = log_of(path)
    whole, flips = log.read_bytes(), random.Random(5)
    # The last frame is left out: damaged, it can't be told from one that the crash cut.
    for _ in range(10):
        place = flips.randrange((len(whole) - PAGE_BYTES - 24) * 8)
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        log.write_bytes(data)
        with pytest.raises(StoreError, match="latest changes") as caught:
            await readings(path)
        assert log.name in (caught.value.hint or "")


async def test_a_transaction_that_a_crash_cut_is_left_out(tmp_path):
    path, _ = await after_a_crash(tmp_path)
    log = log_of(path)
    os.truncate(log, log.stat().st_size - 100)
    async with open_sqlite(path) as saver:
        assert "waits" in await latest(saver, "waits")


async def test_a_locked_file_is_told_and_works_again_afterwards(kept):
    path, expected = kept
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        async with open_sqlite(path, wait=0.05) as saver:
            with pytest.raises(StoreError, match="locked") as caught:
                await begin(saver, "new")
            assert "another process" in (caught.value.hint or "")
            other.execute("ROLLBACK")
            await begin(saver, "new")
    finally:
        other.close()
    assert await readings(path) == expected


async def place_of(saver, thread: str):
    found = await saver.aget_tuple(config(thread))
    return found.config


async def test_a_write_that_is_under_way_when_the_file_is_closed_is_made_whole(kept):
    # LangGraph waits for no write that it starts when a step is cancelled.
    path, _ = kept
    async with open_sqlite(path) as saver:
        late = saver.aput_writes(await place_of(saver, "waits"), [("numbers", [77])], "late")
        task = asyncio.create_task(late)
        await asyncio.sleep(0)
    await task
    async with open_sqlite(path, wait=0.1) as saver:
        assert "[77]" in await latest(saver, "waits")
        await begin(saver, "another")


async def test_a_write_that_comes_after_the_file_was_closed_is_left_out(kept):
    path, expected = kept
    async with open_sqlite(path) as saver:
        late = saver.aput_writes(await place_of(saver, "waits"), [("numbers", [77])], "late")
    await late
    assert await readings(path, wait=0.1) == expected


@pytest.mark.parametrize("turns", range(8))
async def test_a_write_that_is_cancelled_on_the_way_holds_up_nobody(kept, turns):
    path, _ = kept
    async with open_sqlite(path) as saver, open_sqlite(path, wait=0.1) as other:
        at = await place_of(saver, "waits")
        task = asyncio.create_task(saver.aput_writes(at, [("numbers", [77])], "late"))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await begin(other, "another")


async def test_a_write_that_fails_takes_no_other_with_it(kept):
    path, _ = kept
    async with open_sqlite(path) as saver:
        at = await place_of(saver, "waits")
        wrong = saver.aput_writes(at, [("numbers", [5])], "wrong", task_path=object())
        right = saver.aput_writes(at, [("numbers", [77])], "right")
        results = await asyncio.gather(wrong, right, return_exceptions=True)
        assert [type(each) for each in results] == [StoreError, type(None)]
    async with open_sqlite(path) as saver:
        assert "[77]" in await latest(saver, "waits")


async def begin_many(saver) -> None:
    for number in range(50):
        await begin(saver, f"more {number}")


async def test_a_full_disk_is_told_and_what_was_kept_stays(kept):
    path, expected = kept
    async with open_sqlite(path) as saver:
        async with saver.conn.execute("PRAGMA page_count") as rows:
            pages = (await rows.fetchone())[0]
        await saver.conn.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(StoreError, match="full") as caught:
            await begin_many(saver)
        assert "free some space" in (caught.value.hint or "")
    assert await readings(path) == expected


WRITE_UNTIL_FULL = """
import asyncio, resource, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fractale.errors import StoreError
from fractale.store.sqlite_saver import open_sqlite
from store_runs import begin

async def main():
    async with open_sqlite(Path({path!r})) as saver:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        for number in range(200):
            await begin(saver, f"more {{number}}")

try:
    asyncio.run(main())
except StoreError as error:
    print(error.code, error.hint)
"""


def write_until_full(path: Path) -> str:
    """What a process says that keeps run after run and may make no file larger than a limit."""
    limit = path.stat().st_size + 50_000
    code = WRITE_UNTIL_FULL.format(
        tests=str(Path(__file__).parents[1] / "support"), path=str(path), limit=limit
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


async def test_a_file_that_may_not_grow_is_told_and_what_was_kept_stays(kept):
    path, expected = kept
    assert write_until_full(path).startswith("store check the disk's space")
    assert await readings(path) == expected


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


async def test_a_read_only_folder_or_file_is_told(kept, ordinary):
    path, _ = kept
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "state"
        folder.mkdir()
        shutil.copy(path, folder / path.name)
        (folder / path.name).chmod(0o444)
        folder.chmod(0o555)
        folder.parent.chmod(0o755)
        with ordinary():
            for where in (folder / path.name, folder / "new.sqlite"):
                with pytest.raises(StoreError, match="cannot use the checkpoints") as caught:
                    await readings(where)
                assert "FRACTALE_STATE_DIR" in (caught.value.hint or "")
        folder.chmod(0o755)


async def test_a_file_of_version_0_is_brought_up_to_date(tmp_path):
    path = tmp_path / "checkpoints.sqlite"
    async with AsyncSqliteSaver.from_conn_string(str(path)) as before:
        await begin(before, "waits")
        shown = await latest(before, "waits")
    assert version_of(path) == 0
    async with open_sqlite(path) as saver:
        assert await latest(saver, "waits") == shown
        assert await finish(saver, "waits") == [0, 1, 2, 3]
    assert version_of(path) == len(CHANGES)


def version_of(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("PRAGMA user_version").fetchone()[0]


async def test_a_file_of_a_newer_version_is_refused(kept):
    path, _ = kept
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99") as caught:
        await readings(path)
    assert "newer fractale" in (caught.value.hint or "")


async def test_langgraphs_own_saver_may_write_to_the_same_file(kept):
    path, _ = kept
    async with AsyncSqliteSaver.from_conn_string(str(path)) as other:
        await begin(other, "studio")
        shown = await latest(other, "studio")
    async with open_sqlite(path) as saver:
        assert await latest(saver, "studio") == shown
        assert await finish(saver, "studio") == [0, 1, 2, 3]


async def test_deleting_a_thread_leaves_the_others_and_gives_space_back(kept):
    path, expected = kept
    with contextlib.closing(sqlite3.connect(path)) as database:  # as the file of all runs was made
        database.executescript("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")
    async with open_sqlite(path) as saver:
        for number in range(20):
            await begin(saver, f"more {number}")
        assert set(await saver.sizes()) == {"waits", "done", *(f"more {n}" for n in range(20))}
        await saver.reclaim()
        grown = path.stat().st_size
        for number in range(20):
            await saver.adelete_thread(f"more {number}")
        await saver.reclaim()
        assert set(await saver.sizes()) == {"waits", "done"}
        assert path.stat().st_size < grown / 2
    assert await readings(path) == expected


def mounted(folder: Path, kind: str, options: str = "rw") -> str:
    return (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"23 22 0:41 / {folder} {options} shared:1 - {kind} server:/export {options}\n"
    )


async def journal_of(saver) -> tuple[str, str]:
    async with saver.conn.execute("PRAGMA journal_mode") as rows:
        journal = (await rows.fetchone())[0]
    async with saver.conn.execute("PRAGMA locking_mode") as rows:
        return journal, (await rows.fetchone())[0]


async def test_on_a_disk_of_this_machine_there_is_a_write_ahead_log(tmp_path):
    async with open_sqlite(tmp_path / "c.sqlite", mountinfo=mounted(tmp_path, "xfs")) as saver:
        assert await journal_of(saver) == ("wal", "normal")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "fuse.sshfs"])
async def test_on_a_network_file_system_there_is_none_and_one_process_at_a_time(tmp_path, kind):
    path, mountinfo = tmp_path / "c.sqlite", mounted(tmp_path, kind)
    async with open_sqlite(path, mountinfo=mountinfo) as saver:
        assert await journal_of(saver) == ("delete", "exclusive")
        await begin(saver, "waits")
        assert not log_of(path).exists()
        with pytest.raises(StoreError, match=f"network file system .{kind}.*held by process") as no:
            async with open_sqlite(path, mountinfo=mountinfo):
                pass
        assert "FRACTALE_STATE_DIR" in (no.value.hint or "")
        assert "PostgreSQL" in (no.value.hint or "")
    async with open_sqlite(path, mountinfo=mountinfo) as saver:
        assert await finish(saver, "waits") == [0, 1, 2, 3]


async def test_a_file_with_a_log_may_move_to_a_network_file_system(kept, tmp_path):
    path, expected = kept
    mountinfo = mounted(tmp_path, "nfs4")
    async with open_sqlite(path, mountinfo=mountinfo) as saver:
        assert await journal_of(saver) == ("delete", "exclusive")
    assert await readings(path) == expected


@pytest.mark.parametrize("options", ["rw,nolock", "rw,local_lock=all", "rw,localflock"])
async def test_a_mount_whose_locks_other_machines_do_not_see_is_refused(tmp_path, options):
    mountinfo = mounted(tmp_path, "nfs4", options)
    with pytest.raises(StoreError, match="locks do not reach") as caught:
        async with open_sqlite(tmp_path / "c.sqlite", mountinfo=mountinfo):
            pass
    assert "FRACTALE_STATE_DIR" in (caught.value.hint or "")


async def test_a_moved_row_is_told(kept):
    # A checkpoint of one run put in place of another's: each is whole, but not where it belongs.
    path, _ = kept
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(
            "UPDATE checkpoints SET checkpoint = (SELECT checkpoint FROM checkpoints"
            " WHERE thread_id = 'done' ORDER BY checkpoint_id DESC LIMIT 1)"
            " WHERE thread_id = 'waits'"
        )
        database.commit()
    async with open_sqlite(path) as saver:
        with pytest.raises(StoreError, match="not its row's"):
            await saver.aget_tuple(config("waits"))


@pytest.mark.parametrize("column", ["metadata = x'7b'", "checkpoint = 7", "checkpoint = x'00'"])
async def test_a_row_with_something_else_in_it_is_told(kept, column):
    path, _ = kept
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE checkpoints SET {column}")
        database.commit()
    async with open_sqlite(path) as saver:
        with pytest.raises(StoreError) as caught:
            await saver.aget_tuple(config("waits"))
    assert caught.value.hint


async def test_a_channels_history_has_no_seals_in_it(kept):
    path, _ = kept
    async with open_sqlite(path) as saver:
        found = await saver.aget_delta_channel_history(config=config("done"), channels=["numbers"])
    assert [value for _, _, value in found["numbers"]["writes"]] == [[2], [3]]


async def test_bytes_are_kept_as_they_are(tmp_path):
    async with open_sqlite(tmp_path / "c.sqlite") as saver:
        await begin(saver, "waits")
        place = (await saver.aget_tuple(config("waits"))).config
        values = [("a", b"\x00b"), ("b", bytearray(b"c")), ("c", None), ("d", ["fractale_seal"])]
        await saver.aput_writes(place, values, "task", "path")
        found = (await saver.aget_tuple(config("waits"))).pending_writes
        assert [(channel, value) for task, channel, value in found if task == "task"] == values


# What a step costs the disk


async def transactions(saver) -> list[str]:
    """The changes that the disk confirms from now on, one entry each."""
    seen: list[str] = []

    def note(statement: str) -> None:
        if statement == "COMMIT":
            seen.append(statement)

    await saver.conn.set_trace_callback(note)
    return seen


def state_at(number: int) -> dict[str, Any]:
    return {
        "v": 4,
        "ts": f"2026-12-01T00:00:{number:02}+00:00",
        "id": f"1f0c0000-0000-6000-8000-{number:012}",
        "channel_values": {"number": number},
        "channel_versions": {},
        "versions_seen": {},
        "updated_channels": None,
    }


def at(number: int) -> dict[str, Any]:
    found = config("one")
    found["configurable"]["checkpoint_id"] = state_at(number)["id"]
    return found


async def test_a_step_is_one_transaction(tmp_path):
    """The writes of its task, and its checkpoint, which LangGraph hands over right after them."""
    async with open_sqlite(tmp_path / "checkpoints.sqlite") as saver:
        await saver.aput(config("one"), state_at(0), {"step": 0}, {})
        seen = await transactions(saver)
        for number in range(1, 11):
            before = at(number - 1)
            writes = asyncio.create_task(saver.aput_writes(before, [("number", number)], "task"))
            await asyncio.sleep(0)
            await saver.aput(before, state_at(number), {"step": number}, {})
            await writes
        assert len(seen) == 10
        found = await saver.aget_tuple(at(9))
        assert found.pending_writes == [("task", "number", 10)]


async def test_tasks_that_end_together_share_a_transaction(tmp_path):
    async with open_sqlite(tmp_path / "checkpoints.sqlite") as saver:
        await saver.aput(config("one"), state_at(0), {"step": 0}, {})
        seen = await transactions(saver)
        await asyncio.gather(*(saver.aput_writes(at(0), [("n", n)], f"t{n}") for n in range(200)))
        assert len(seen) == 1
        found = await saver.aget_tuple(config("one"))
        assert sorted(value for _, _, value in found.pending_writes) == list(range(200))


async def test_a_write_returns_when_the_disk_has_it(tmp_path):
    path = tmp_path / "checkpoints.sqlite"
    async with open_sqlite(path) as saver, open_sqlite(path) as other:
        await saver.aput(config("one"), state_at(0), {"step": 0}, {})
        await saver.aput_writes(at(0), [("number", 1)], "task")
        assert (await other.aget_tuple(config("one"))).pending_writes == [("task", "number", 1)]


async def test_a_write_that_waits_is_read_and_is_kept_at_the_end(tmp_path):
    path = tmp_path / "checkpoints.sqlite"
    async with open_sqlite(path) as saver:
        await saver.aput(config("one"), state_at(0), {"step": 0}, {})
        first = asyncio.create_task(saver.aput_writes(at(0), [("number", 1)], "first"))
        await asyncio.sleep(0)
        assert len((await saver.aget_tuple(config("one"))).pending_writes) == 1
        second = asyncio.create_task(saver.aput_writes(at(0), [("number", 2)], "second"))
        await asyncio.sleep(0)
    await asyncio.gather(first, second)
    async with open_sqlite(path) as saver:
        assert len((await saver.aget_tuple(config("one"))).pending_writes) == 2


async def test_a_task_that_is_cancelled_takes_no_writes_of_others_with_it(tmp_path):
    path = tmp_path / "checkpoints.sqlite"
    async with open_sqlite(path) as saver:
        await saver.aput(config("one"), state_at(0), {"step": 0}, {})
        tasks = [
            asyncio.create_task(saver.aput_writes(at(0), [("n", n)], f"t{n}")) for n in range(3)
        ]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.gather(*tasks[1:])
        assert len((await saver.aget_tuple(config("one"))).pending_writes) == 3


async def test_a_question_is_on_the_disk_at_once(tmp_path):
    async with open_sqlite(tmp_path / "checkpoints.sqlite") as saver:
        await saver.aput(config("one"), state_at(0), {"step": 0}, {})
        waits = asyncio.create_task(saver.aput_writes(at(0), [("number", 1)], "other"))
        await asyncio.sleep(0)
        seen = await transactions(saver)
        await saver.aput_writes(at(0), [(INTERRUPT, "which?")], "task")
        await waits
        assert len(seen) == 1


async def test_writes_that_cannot_be_kept_are_told_to_each_task(tmp_path):
    path = tmp_path / "checkpoints.sqlite"
    async with open_sqlite(path, wait=0.05) as saver:
        await saver.aput(config("one"), state_at(0), {"step": 0}, {})
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writes = [saver.aput_writes(at(0), [("n", n)], f"t{n}") for n in range(3)]
        told = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(each) for each in told] == [StoreError] * 3
        other.execute("ROLLBACK")
        other.close()
        await saver.aput_writes(at(0), [("n", 9)], "t9")
        assert len((await saver.aget_tuple(config("one"))).pending_writes) == 1
