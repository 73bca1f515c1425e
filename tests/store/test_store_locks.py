"""A run is held by one process at a time, by a lock that ends with the process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from fractale.errors import RunHeld, StoreError, UsageError
from fractale.store.locks import FileLock, Holder, RunLock, holder_of
from fractale.store.run_record import RunRecords
from store_runs import unmeasured

HOLD = """
import sys
from pathlib import Path
from fractale.errors import RunHeld
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecord
folder = RunRecord("k7f3", Path(sys.argv[1]))
try:
    with RunLock(folder):
        print("has it", flush=True)
        sys.stdin.read()
except RunHeld as error:
    print(error.code, error.exit_code, error, flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    return RunRecords(tmp_path).new("k7f3")


@pytest.fixture
def started():
    """Starts processes that try to hold a run, and ends them."""
    processes = []

    def start(folder) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=unmeasured(),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_of_two_processes_exactly_one_proceeds_and_the_other_says_who(folder, started):
    first, second = started(folder), started(folder)
    said = {process.pid: process.stdout.readline() for process in (first, second)}
    (winner,) = [pid for pid, words in said.items() if words == "has it\n"]
    (loser,) = [words for pid, words in said.items() if pid != winner]
    host = socket.gethostname()
    assert loser.startswith(f"run-held 2 run k7f3 is held by process {winner} on {host} since ")


def test_the_name_of_one_that_ended_is_not_taken_for_the_holder(folder, started):
    gone = started(folder)
    assert gone.stdout.readline() == "has it\n"
    gone.kill()
    gone.wait()
    with (folder.path / "lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # taken, and not yet signed
        with pytest.raises(RunHeld, match="is held by another process"):
            RunLock(folder).acquire()
        file.truncate(0)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        threading.Timer(0.1, lambda: os.pwrite(file.fileno(), json.dumps(me).encode(), 0)).start()
        with pytest.raises(RunHeld, match=f"is held by process {os.getpid()} on "):
            RunLock(folder).acquire()


def test_a_crash_releases_the_lock(folder, started):
    holder = started(folder)
    assert holder.stdout.readline() == "has it\n"
    with pytest.raises(RunHeld, match=f"process {holder.pid} on "):
        RunLock(folder).acquire()
    assert holder_of(folder).pid == holder.pid
    holder.kill()
    holder.wait()
    assert holder_of(folder) is None
    with RunLock(folder):
        assert holder_of(folder).pid == os.getpid()
    assert holder_of(folder) is None


def test_twice_in_one_process_is_once_too_often(folder):
    with RunLock(folder), pytest.raises(RunHeld) as caught, RunLock(folder):
        pass
    assert isinstance(caught.value, UsageError)
    assert "nothing was done" in (caught.value.hint or "")


def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(folder):
    lock = RunLock(folder)
    lock.acquire()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock.release()
    try:
        with RunLock(folder):
            assert holder_of(folder).pid == os.getpid()
    finally:
        child.communicate(b"\n")


def test_those_who_look_at_a_run_do_not_keep_it_from_being_resumed(folder):
    with RunLock(folder):
        pass  # the file exists
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            holder_of(folder)

    viewers = [threading.Thread(target=look) for _ in range(4)]
    for viewer in viewers:
        viewer.start()
    try:
        for _ in range(100):
            with RunLock(folder):
                pass
    finally:
        over.set()
        for viewer in viewers:
            viewer.join()


def test_asking_who_holds_a_run_makes_nothing(folder):
    assert holder_of(folder) is None
    assert list(folder.path.iterdir()) == []


def test_only_the_owner_can_read_the_lock(folder):
    with RunLock(folder):
        assert stat.S_IMODE((folder.path / "lock").stat().st_mode) == 0o600
        assert json.loads((folder.path / "lock").read_text())["pid"] == os.getpid()


def test_a_run_that_was_removed_cannot_be_held(folder):
    folder.path.rmdir()
    with pytest.raises(StoreError, match="cannot lock"):
        RunLock(folder).acquire()


def test_a_holder_that_did_not_sign_yet_is_told_without_a_name(folder):
    with RunLock(folder):
        (folder.path / "lock").write_text("")
        with pytest.raises(RunHeld, match="held by another process"):
            RunLock(folder).acquire()
        assert holder_of(folder).host == "an unknown machine"


def test_the_time_has_a_date_where_it_is_another_day():
    now = time.time()
    hour = time.strftime("%H:%M", time.localtime(now))
    assert str(Holder(4711, "node3", now)) == f"process 4711 on node3 since {hour}"
    assert str(Holder(4711, "node3", 0.0)).startswith("process 4711 on node3 since 19")


def test_another_lock_has_words_and_an_error_of_its_own(tmp_path):
    lock = FileLock(tmp_path / "l", "the file", hint="wait")
    again = FileLock(tmp_path / "l", "the file", hint="wait")
    with lock, pytest.raises(StoreError, match="the file is held by process"):
        again.acquire()
    again.release()  # what is not held can be released
