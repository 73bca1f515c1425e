"""The call journal: a recorded result is taken, a call in flight that may change something asks."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fractale.errors import StoreError
from fractale.store.journal import Call, CallSite, FileJournal, digest_of
from store_runs import unmeasured

CALL = Call(kind="tool", name="local.submit", digest=digest_of({"nodes": 2}))


def place(number: int = 1, task: str = "s:1", tries: int = 1) -> CallSite:
    return CallSite(task=task, number=number, tries=tries, step="s", attempt=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_a_call_that_was_not_begun_is_not_known(path):
    assert FileJournal(path).find(place(), CALL) is None
    assert not path.exists(), "a run that calls nothing leaves no file"


def test_a_recorded_result_is_there_in_another_process(path):
    first = FileJournal(path)
    first.begin(place(), CALL)
    first.finish(place(), CALL, {"text": "job 7", "n": [1, None, "é"]})
    entry = FileJournal(path).find(place(), CALL)
    assert entry is not None
    assert entry.done
    assert entry.result == {"text": "job 7", "n": [1, None, "é"]}


def test_an_intent_without_a_result_is_in_doubt(path):
    FileJournal(path).begin(place(), CALL)
    entry = FileJournal(path).find(place(), CALL)
    assert entry is not None
    assert not entry.done


@pytest.mark.parametrize("other", [place(2), place(task="s:2"), place(tries=2)])
def test_the_next_call_visit_and_try_are_other_calls(path, other):
    journal = FileJournal(path)
    journal.begin(place(), CALL)
    journal.finish(place(), CALL, "done")
    assert journal.find(other, CALL) is None


def test_a_withdrawn_call_may_be_made_again(path):
    journal = FileJournal(path)
    journal.begin(place(), CALL)
    journal.withdraw(place())
    assert journal.find(place(), CALL) is None
    assert FileJournal(path).find(place(), CALL) is None


@pytest.mark.parametrize(
    "other",
    [
        Call(kind="tool", name="local.cancel", digest=CALL.digest),
        Call(kind="tool", name=CALL.name, digest=digest_of({"nodes": 3})),
    ],
)
def test_another_call_at_the_same_place_is_refused(path, other):
    FileJournal(path).begin(place(), CALL)
    with pytest.raises(StoreError, match=r"made another call when the run came here first"):
        FileJournal(path).find(place(), other)


def test_a_line_that_a_crash_cut_is_left_out_and_written_anew(path):
    journal = FileJournal(path)
    journal.begin(place(), CALL)
    journal.finish(place(), CALL, "first")
    journal.begin(place(2), CALL)
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    again = FileJournal(path)
    assert again.find(place(2), CALL) is None
    again.begin(place(2), CALL)
    again.finish(place(2), CALL, "second")
    again.close()
    assert [json.loads(line).get("result") for line in path.read_text().splitlines()] == [
        None,
        "first",
        None,
        "second",
    ]
    assert FileJournal(path).find(place(2), CALL).result == "second"


def test_damage_in_the_middle_is_told_and_not_passed_over(path):
    journal = FileJournal(path)
    journal.begin(place(), CALL)
    journal.finish(place(), CALL, "first")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([b"{broken", *lines[1:]]))
    with pytest.raises(StoreError, match=r"journal\.jsonl cannot be read"):
        FileJournal(path)


def written(path) -> bytes:
    """A journal of two calls, the second under way."""
    journal = FileJournal(path)
    journal.begin(place(), CALL)
    journal.finish(place(), CALL, {"text": "job 7", "structured": {"sum": "of all", "n": 1}})
    journal.begin(place(2), CALL)
    journal.close()
    return path.read_bytes()


def test_every_flipped_bit_is_told_or_leaves_the_calls_as_they_were(path):
    data = written(path)
    expected = [FileJournal(path).find(place(n), CALL) for n in (1, 2)]
    told = 0
    for number in random.Random(7).sample(range(8 * len(data)), 100):
        changed = bytearray(data)
        changed[number // 8] ^= 1 << number % 8
        path.write_bytes(changed)
        try:
            journal = FileJournal(path)
            found = [journal.find(place(n), CALL) for n in (1, 2)]
        except StoreError as error:
            told += "cannot be read" in str(error)
            continue
        # The end of the last line: without it the call under way looks like one not begun.
        if changed.endswith(b"\n"):
            assert found == expected, number
    assert told >= 95


@pytest.mark.parametrize("keep", range(0, 400, 23))
def test_a_file_cut_anywhere_keeps_its_whole_lines(path, keep):
    data = written(path)
    path.write_bytes(data[:keep])
    FileJournal(path)
    assert path.read_bytes() == b"".join(
        line for line in data[:keep].splitlines(keepends=True) if line.endswith(b"\n")
    )


def test_a_journal_without_sums_is_read(path):
    """As they were written before."""
    lines = [json.loads(line) for line in written(path).splitlines()]
    for line in lines:
        del line["sum"]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    journal = FileJournal(path)
    assert journal.find(place(), CALL).result["structured"] == {"sum": "of all", "n": 1}
    journal.finish(place(2), CALL, "second")
    assert FileJournal(path).find(place(2), CALL).result == "second"


def test_a_line_that_a_full_disk_cut_is_taken_back(path):
    """One call of several at once finds no room; another, smaller one does."""
    code = f"""
import resource, sys
from pathlib import Path
from fractale.errors import StoreError
from fractale.store.journal import FileJournal
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]!r}
from test_journal import CALL, place
journal = FileJournal(Path({str(path)!r}))
journal.begin(place(), CALL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    journal.finish(place(), CALL, "x" * 2000)
except StoreError as error:
    print(error.code, error.hint)
journal.begin(place(2), CALL)
journal.finish(place(2), CALL, "small")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=unmeasured()
    )
    assert done.stdout.startswith("store check space"), done.stderr
    journal = FileJournal(path)
    assert not journal.find(place(), CALL).done
    assert journal.find(place(2), CALL).result == "small"


def test_a_folder_that_cannot_be_written_keeps_the_call_from_being_made(tmp_path):
    with pytest.raises(StoreError, match="cannot write the run's journal") as caught:
        FileJournal(tmp_path / "gone" / "journal.jsonl").begin(place(), CALL)
    assert caught.value.hint


def test_only_the_owner_can_read_it(path):
    FileJournal(path).begin(place(), CALL)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_settled_takes_no_memory_but_stays_in_the_file(path):
    journal = FileJournal(path)
    journal.begin(place(), CALL)
    journal.finish(place(), CALL, "kept")
    journal.commit([place()])
    assert journal.find(place(), CALL) is None
    assert FileJournal(path).find(place(), CALL).result == "kept"


# What is on the disk, and when


class Disk:
    """Stands for `os.fdatasync`: counts the syncs, and is as slow or broken as a test wants."""

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self._path = path
        self._seconds = seconds
        self.threads: list[int] = []
        self.synced = b""
        self.fault: OSError | None = None

    def __call__(self, _descriptor: int) -> None:
        self.threads.append(threading.get_ident())
        there = self._path.read_bytes()
        time.sleep(self._seconds)
        if self.fault:
            raise self.fault
        self.synced = there

    @property
    def calls(self) -> list[str]:
        """The keys of the intents that are on the disk."""
        lines = [json.loads(line) for line in self.synced.splitlines()]
        return [line["key"] for line in lines if "kind" in line]


async def test_an_intent_is_on_the_disk_before_its_call(path):
    disk = Disk(path)
    journal = FileJournal(path, sync=disk)
    journal.begin(place(), CALL)
    assert not disk.calls
    await journal.synced()
    assert disk.calls == [place().key]


async def test_a_call_that_is_safe_to_repeat_waits_for_no_disk(path):
    disk = Disk(path)
    journal = FileJournal(path, sync=disk)
    call = replace(CALL, safe=True)
    journal.begin(place(), call)
    journal.finish(place(), call, "read")
    await journal.synced()
    journal.close()
    assert not disk.threads


async def test_calls_at_the_same_time_share_a_sync(path):
    disk = Disk(path, seconds=0.05)
    journal = FileJournal(path, sync=disk)

    async def call(number: int) -> None:
        journal.begin(place(number), CALL)
        await journal.synced()
        assert place(number).key in disk.calls, "its intent was on the disk"
        journal.finish(place(number), CALL, number)

    await asyncio.gather(*(call(number) for number in range(1, 51)))
    await journal.synced()
    assert len(disk.threads) <= 4, "one for the first, one for the others, one for the results"
    assert all(FileJournal(path).find(place(n), CALL).result == n for n in range(1, 51))


async def test_the_event_loop_goes_on_while_the_disk_is_slow(path):
    disk = Disk(path, seconds=0.2)
    journal = FileJournal(path, sync=disk)
    journal.begin(place(), CALL)
    waiting, turns = asyncio.create_task(journal.synced()), 0
    while not waiting.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 3
    assert threading.get_ident() not in disk.threads


async def test_a_call_that_begins_when_a_sync_has_just_ended_gets_its_own(path):
    """That sync may have ended in its thread before the event loop knows."""
    disk = Disk(path)
    journal = FileJournal(path, sync=disk)
    for number in range(1, 200):
        journal.begin(place(2 * number), CALL)
        first = asyncio.create_task(journal.synced())
        await asyncio.sleep(0)
        journal.begin(place(2 * number + 1), CALL)
        time.sleep(0.002)  # noqa: ASYNC251 - the event loop is busy meanwhile
        async with asyncio.timeout(10):
            await asyncio.gather(first, journal.synced())
        assert place(2 * number + 1).key in disk.calls[-2:]


async def test_a_result_is_synced_with_the_next_intent(path):
    """So one call after the other needs one sync each, not two."""
    disk = Disk(path)
    journal = FileJournal(path, sync=disk)
    for number in range(1, 11):
        journal.begin(place(number), CALL)
        await journal.synced()
        journal.finish(place(number), CALL, number)
    assert len(disk.threads) == 10
    await journal.synced()
    assert disk.synced == path.read_bytes(), "the last result, too"


async def test_a_result_is_synced_soon_if_no_call_follows(path):
    disk = Disk(path)
    journal = FileJournal(path, sync=disk)
    journal.begin(place(), CALL)
    await journal.synced()
    journal.finish(place(), CALL, "done")
    for _ in range(500):
        if disk.synced == path.read_bytes():
            break
        await asyncio.sleep(0.01)
    assert disk.synced == path.read_bytes()
    assert len(disk.threads) == 2
    journal.close()
    assert len(disk.threads) == 2, "nothing is left to be synced"


async def test_a_journal_that_is_closed_is_on_the_disk(path):
    disk = Disk(path)
    journal = FileJournal(path, sync=disk)
    journal.begin(place(), CALL)
    await journal.synced()
    journal.finish(place(), CALL, "done")
    journal.close()
    assert disk.synced == path.read_bytes()


async def test_after_a_sync_that_failed_no_call_is_made(path):
    """A later sync may succeed although the kernel dropped what the failed one should write."""
    disk = Disk(path)
    journal = FileJournal(path, sync=disk)
    journal.begin(place(), CALL)
    disk.fault = OSError(5, "Input/output error")
    with pytest.raises(StoreError, match="Input/output error"):
        await journal.synced()
    disk.fault = None
    with pytest.raises(StoreError, match="Input/output error"):
        journal.begin(place(2), CALL)
    with pytest.raises(StoreError, match="Input/output error"):
        await journal.synced()
    journal.close()


async def test_one_who_is_cancelled_does_not_end_the_sync_of_the_others(path):
    disk = Disk(path, seconds=0.1)
    journal = FileJournal(path, sync=disk)
    journal.begin(place(1), CALL)
    first = asyncio.create_task(journal.synced())
    await asyncio.sleep(0.02)
    journal.begin(place(2), CALL)
    second = asyncio.create_task(journal.synced())
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert disk.calls == [place(1).key, place(2).key]
    assert first.cancelled()


def test_outside_an_event_loop_a_call_waits_for_the_disk(path):
    disk = Disk(path)
    journal = FileJournal(path, sync=disk)
    journal.begin(place(), CALL)
    journal.sync()
    assert disk.calls == [place().key]
    journal.finish(place(), CALL, "done")
    assert disk.synced == path.read_bytes()
