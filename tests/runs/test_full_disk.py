"""A disk that fills up in the middle of a run: it is told, and the run goes on when there is room.

The limit is put a little further on each time, so that it is hit in the journal, the outputs, the
events and the checkpoints alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from held import Project, project
from servers.postgres import new_database
from store_runs import unmeasured

FULL = bool(os.environ.get("FRACTALE_FAULTS"))
STEPS = 6
PLAN = "name: p\nsteps:\n" + "\n".join(
    f"  - {{name: s{i}, tool: change, inputs: {{what: w{i}, size: {size}}}}}"
    for i, size in enumerate([900, 2000, 40_000, 500, 9000, 2000])
)
WHOLE = [f"w{i}" for i in range(STEPS)]
LARGEST = {
    "sqlite": range(1_000, 200_000, 4_000 if FULL else 40_000),
    "postgresql": range(200, 200_000, 4_000 if FULL else 40_000),
}
"""Bytes that a file of the run may have."""
DISK = range(8, 640, 12 if FULL else 126)
"""Kilobytes of the disk that holds the state folder."""


def finish(held: Project, run: bool) -> dict[str, Any]:
    """Go on with the run, answering as a person would who looks what happened."""
    if not run:
        out, err = held.run(PLAN).communicate()
        assert "Traceback" not in err, err
        assert out, err
        return json.loads(out.splitlines()[-1])
    answers: list[str] = []
    for _ in range(STEPS + 2):
        process = held.start("resume", "-1", "--yes", *answers)
        out, err = process.communicate()
        assert "Traceback" not in err, err
        assert process.returncode in (0, 4), err
        last = json.loads(out.splitlines()[-1])
        if process.returncode == 0:
            return last
        answers = []
        for question in last["waiting"]:
            assert question["kind"] == "in_doubt", question
            arguments = question["arguments"]
            done = arguments["what"] in held.changes()
            outputs = json.dumps({"outputs": {"changed": arguments["what"]}})
            answers += [
                "--answer",
                f"{question['step']}={outputs if done else 'again'}",
            ]
    raise AssertionError("the run never ends")


def check(held: Project, process: Any) -> bool:
    """Whether a run that was short of room was told of it, and goes on to the whole end."""
    out, err = process.communicate()
    assert "Traceback" not in out + err, err
    assert process.returncode in (0, 1, 75), (process.returncode, err)
    if process.returncode == 0:
        return False
    told = out + err
    assert "No space left" in told or "too large" in told or "full" in told or "I/O" in told, told
    assert "space" in told or "permissions" in told, "what to do is not said"
    begun = any(held.folder.rglob("run.json"))
    before = held.changes()
    assert begun or not before, "something was done that nobody knows of"
    assert process.returncode == 75 or not before, err
    last = finish(held, begun)
    assert last["status"] == "success"
    assert Counter(held.changes()) == Counter(WHOLE)
    return True


@pytest.mark.parametrize("store", LARGEST)
def test_files_that_may_not_grow_stop_the_run_and_lose_nothing(tmp_path, processes, store, request):
    url = None
    if store == "postgresql":
        url = new_database(request.getfixturevalue("postgres"))
    stopped = 0
    for largest in LARGEST[store]:
        folder = tmp_path / str(largest)
        folder.mkdir()
        with project(folder, processes, url) as held:
            stopped += check(held, held.run(PLAN, largest=largest))
    assert 2 <= stopped < len(LARGEST[store]), "no limit was hit, or every one was"


@contextmanager
def disk(folder: Path) -> Iterator[Any]:
    """A disk of its own; gives what sets its size in KB."""
    folder.mkdir()

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words, str(folder)], check=True, capture_output=True)

    try:
        mount("-t", "tmpfs", "-o", "mode=700,size=64m", "none")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can be mounted by root only")
    try:
        yield lambda size: mount("-o", f"remount,size={size}k")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, processes):
    stopped = 0
    for number, size in enumerate(DISK):
        folder = tmp_path / str(number)
        folder.mkdir()
        with project(folder, processes) as held, disk(folder / ".fractale") as resize:
            resize(size)
            process = held.run(PLAN)
            process.wait()
            resize(65_536)
            stopped += check(held, process)
    assert 2 <= stopped < len(DISK), "no disk was full, or every one was"


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_full_disk_under_its_output_stops_the_run_too(tmp_path, processes, words):
    with project(tmp_path, processes) as held:
        (tmp_path / "plan.yaml").write_text(PLAN)
        command = [sys.executable, "-m", "fractale.cli", "run", "plan.yaml", "-r", "tools.yaml"]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*command, *words],
                cwd=tmp_path,
                env={**unmeasured(), "HOME": str(tmp_path)},
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=120,
                check=False,
            )
        assert "Traceback" not in done.stderr
        if words:
            assert done.returncode == 1
            assert "No space left" in done.stderr
            assert "a bug in fractale" not in done.stderr
            assert len(held.changes()) < STEPS
            finish(held, run=True)
        assert held.changes() == WHOLE
