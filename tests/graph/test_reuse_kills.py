"""Many processes compute an equal step once; one that is killed harms no result."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from counts import FULL
from fractale.store.cache import CacheStore

TOOLS = """
import os, time
def slow(n: int) -> dict:
    "Slow."
    with open("called", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(float(os.environ.get("SLOW", "1.5")))
    return {"n": n * 2}
"""
REGISTRY = "tools: [{path: slow_tools.slow}]\n"
PLAN = """
name: p
inputs: {x: 0}
steps:
  - {name: a, tool: slow, inputs: {n: 21}, cache: true}
outputs: {n: "{{ steps.a.outputs.n }}", x: "{{ inputs.x }}"}
"""
RUNS = 16


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "slow_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text(REGISTRY)
    (tmp_path / "p.yaml").write_text(PLAN)
    return tmp_path


def start(processes, folder, number, **more):
    words = ["run", "p.yaml", "-r", "tools.yaml", "-q", "-i", f"x={number}"]
    words += ["--output", "n", "--run-id", f"r{number}"]
    environment = {**os.environ, **more}
    return processes.start(words, cwd=folder, env=environment)


def called(folder) -> list[str]:
    return (folder / "called").read_text().split() if (folder / "called").exists() else []


def test_sixteen_runs_at_once_make_the_call_once(processes, folder):
    going = [start(processes, folder, number) for number in range(RUNS)]
    ended = [each.communicate(timeout=120) for each in going]
    assert [each.wait() for each in going] == [0] * RUNS, ended
    assert [out.strip() for out, _ in ended] == ["42"] * RUNS
    assert len(called(folder)) == 1


def test_those_that_wait_for_a_killed_process_compute_themselves(processes, folder):
    first = start(processes, folder, 0, SLOW="60")
    deadline = time.monotonic() + 60
    while not called(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    waiting = [start(processes, folder, number, SLOW="0") for number in (1, 2)]
    time.sleep(2)
    assert len(called(folder)) == 1
    first.send_signal(signal.SIGKILL)
    first.wait()
    ended = [each.communicate(timeout=120) for each in waiting]
    assert [out.strip() for out, _ in ended] == ["42", "42"], ended
    assert 2 <= len(called(folder)) <= 3


WRITER = """
import sys
from pathlib import Path
from fractale.store.cache import CacheStore, Entry
store = CacheStore(Path(sys.argv[1]))
for n in range(100000):
    parts = {"n": store.hash_of(n % 5)}
    key = store.key_of(parts)
    result = {"text": str(n % 5) * 400000}
    store.keep(Entry(key=key, group="g", run="r", plan="p", step="s", at=n, parts=parts,
                     result=result))
    if n == 5:
        print("ready", flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_whole_results(tmp_path):
    draw = random.Random(5)
    for _ in range(40 if FULL else 8):
        words = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(draw.random() / 5)
            writer.kill()
        store = CacheStore(tmp_path)
        for n in range(5):
            found = store.find("g", store.key_of({"n": store.hash_of(n)}))
            assert found is not None
            assert found.result == {"text": str(n) * 400000}
    assert Path(tmp_path / "cache" / "secret").stat().st_size == 32
