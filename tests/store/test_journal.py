"""The call journal: a recorded result is taken, a call in flight that may change something asks."""

from __future__ import annotations

import json
import random
import subprocess
import sys
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
