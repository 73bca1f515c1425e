"""Local jobs wait for free cores: in order, across processes, and whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fractale.errors import SettingsError, StoreError
from fractale.jobs import JobHandle, Jobs, JobSpec, JobStatus
from fractale.schedulers.folder import JobFolder, facts_of
from fractale.schedulers.local.queue import QUEUED
from fractale.settings import load_settings
from job_parts import PATIENCE, SOON, until

FAULTS = bool(os.environ.get("FRACTALE_FAULTS"))
SUBMITTER = """
    import asyncio, sys
    from pathlib import Path
    from fractale.jobs import Jobs, JobSpec

    async def main(root, count, cores):
        jobs = Jobs(root / "jobs", {"PATH": sys.argv[4]}, "local", cores=cores)
        for number in range(count):
            script = f"#!/bin/sh\\necho {number} >> begun; sleep 0.1; echo {number} >> ended\\n"
            spec = JobSpec(name="many", folder=root, script=script)
            await jobs.submit(spec, key=str(number))

    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
    """


class Machine:
    """Local jobs in a folder that may use so many cores; what is left of them is ended."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {"PATH": os.environ["PATH"]}

    def jobs(self, cores: int, **environment: str) -> Jobs:
        return Jobs(self.root / "jobs", {**self.environment, **environment}, "local", cores=cores)

    async def submit(self, jobs: Jobs, key: str, script: str, **more) -> JobHandle:
        text = f"#!/bin/sh\n{script}\n"
        return await jobs.submit(
            JobSpec(name="test", folder=self.root, script=text, **more), key=key
        )

    async def held(self, jobs: Jobs, key: str, **more) -> JobHandle:
        """A job that goes on until it is let go."""
        os.mkfifo(self.root / f"{key}.gate")
        script = f"echo {key} >> begun; read line < {key}.gate"
        return await self.submit(jobs, key, script, **more)

    async def let_go(self, key: str) -> None:
        await asyncio.to_thread((self.root / f"{key}.gate").write_text, "go\n")

    async def ended(self, jobs: Jobs, *handles: JobHandle) -> list[JobStatus]:
        waits = (jobs.wait(handle, timeout=PATIENCE, intervals=SOON) for handle in handles)
        return await asyncio.gather(*waits)

    def lines(self, name: str = "begun") -> list[str]:
        path = self.root / name
        return path.read_text().split() if path.exists() else []

    def process(self, count: int, cores: int) -> subprocess.Popen[bytes]:
        """A process that submits many jobs, and ends."""
        words = (str(self.root), str(count), str(cores), os.environ["PATH"])
        return subprocess.Popen([sys.executable, "-c", textwrap.dedent(SUBMITTER), *words])

    def folders(self) -> list[JobFolder]:
        return [JobFolder(path) for path in sorted((self.root / "jobs").glob("fr*"))]

    def minders(self) -> list[int]:
        facts = (facts_of(folder.text("minder")) for folder in self.folders())
        return [int(each["id"]) for each in facts if "id" in each]

    def kill_minders(self) -> None:
        for pid in self.minders():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def machine(tmp_path) -> AsyncIterator[Machine]:
    here = Machine(tmp_path)
    yield here
    jobs = here.jobs(99)
    for folder in here.folders():
        if handle := folder.handle():
            await jobs.cancel(handle)
        if started := folder.started():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


async def test_no_more_run_than_there_are_cores_for_and_in_order(machine):
    jobs = machine.jobs(2)
    script = "echo {0} >> begun; sleep 0.3; echo {0} >> ended; ls .running | wc -l >> seen"
    script = f"mkdir -p .running; touch .running/{{0}}; {script}; rm .running/{{0}}"
    handles = [await machine.submit(jobs, str(n), script.format(n)) for n in range(7)]
    ended = await machine.ended(jobs, *handles)
    assert {status.state for status in ended} == {"completed"}
    assert sorted(machine.lines()) == [str(n) for n in range(7)]
    # Two that were started together may begin in either order.
    assert all(abs(int(key) - at) <= 1 for at, key in enumerate(machine.lines()))
    assert max(map(int, machine.lines("seen"))) <= 2
    assert [handle.native_id for handle in handles] == [f"q{n}" for n in range(1, 8)]


async def test_a_job_that_waits_says_for_what(machine):
    jobs = machine.jobs(3)
    await machine.held(jobs, "a", tasks=1, cores_per_task=2)
    two = await machine.held(jobs, "b", tasks=2)
    three = await machine.held(jobs, "c")
    status = await jobs.status(two)
    assert (status.state, status.evidence, status.over) == ("pending", "local queue", False)
    said = "waits for free cores (local queue: 2 of 3 in use, 0 before it)"
    assert status.reason == said
    # There is a core for this one, and it is not its turn.
    status = await jobs.status(three)
    assert status.reason == said.replace("0 before", "1 before")
    await until(machine.lines)  # the first may need a moment to begin
    assert machine.lines() == ["a"]
    await machine.let_go("a")
    await until(lambda: sorted(machine.lines()) == ["a", "b", "c"])
    for key in "bc":
        await machine.let_go(key)
    assert [s.state for s in await machine.ended(jobs, two, three)] == ["completed"] * 2


async def test_a_job_that_asks_for_more_than_there_is_has_all_for_itself(machine):
    jobs = machine.jobs(2)
    await machine.held(jobs, "small")
    large = await machine.submit(jobs, "large", "echo large >> begun", tasks=64)
    assert (await jobs.status(large)).state == "pending"
    await machine.let_go("small")
    assert (await machine.ended(jobs, large))[0].state == "completed"


async def test_a_job_that_is_cancelled_while_it_waits_never_runs(machine):
    jobs = machine.jobs(1)
    await machine.held(jobs, "a")
    two = await machine.submit(jobs, "b", "echo b >> begun")
    three = await machine.submit(jobs, "c", "echo c >> begun")
    status = await jobs.cancel(two)
    assert (status.state, status.exit_code) == ("cancelled", None)
    assert "by fractale" in status.reason
    await machine.let_go("a")
    assert (await machine.ended(jobs, three))[0].state == "completed"
    assert machine.lines() == ["a", "c"]
    assert (await jobs.status(two)).state == "cancelled"


async def test_what_waits_is_started_although_nobody_looks(machine):
    process = machine.process(6, cores=1)
    assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    await until(lambda: len(machine.lines("ended")) == 6)
    assert machine.lines() == machine.lines("ended") == [str(n) for n in range(6)]


async def test_all_is_killed_and_whoever_looks_next_starts_what_waits(machine):
    jobs = machine.jobs(1)
    first = await machine.held(jobs, "a")
    rest = [await machine.submit(jobs, str(n), f"echo {n} >> begun") for n in range(3)]
    await until(lambda: machine.lines() == ["a"])
    machine.kill_minders()
    # Without its minder the job goes on, and still has its core.
    assert [(await jobs.status(each)).state for each in (first, *rest)] == [
        "running",
        *["pending"] * 3,
    ]
    os.killpg(JobFolder(first.job_dir).started().pid, signal.SIGKILL)
    other = machine.jobs(1)
    ended = await machine.ended(other, *rest)
    assert [status.state for status in ended] == ["completed"] * 3
    assert machine.lines() == ["a", "0", "1", "2"]


async def test_a_queue_that_is_lost_is_made_again(machine):
    jobs = machine.jobs(1)
    await machine.held(jobs, "a")
    rest = [await machine.submit(jobs, str(n), f"echo {n} >> begun") for n in range(2)]
    shutil.rmtree(machine.root / "jobs" / ".local")
    await machine.let_go("a")
    assert [s.state for s in await machine.ended(jobs, *rest)] == ["completed"] * 2
    assert sorted(machine.lines()) == ["0", "1", "a"]


async def test_a_submission_that_was_cut_off_before_its_place_is_found_again(machine):
    jobs = machine.jobs(1)
    handle = await machine.submit(jobs, "a", "sleep 300")
    two = await machine.submit(jobs, "b", "echo b >> begun")
    for path in (two.job_dir / "handle.json", *(machine.root / "jobs/.local").glob("*/00000002")):
        path.unlink()
    assert await machine.submit(machine.jobs(1), "b", "echo b >> begun") == two
    await jobs.cancel(handle)
    assert (await machine.ended(jobs, two))[0].state == "completed"
    assert machine.lines() == ["b"]


async def test_many_who_look_at_once_start_each_job_once(machine):
    jobs = machine.jobs(2)
    first = [await machine.held(jobs, key) for key in "ab"]
    rest = [await machine.submit(jobs, str(n), f"echo {n} >> begun") for n in range(8)]
    await until(lambda: len(machine.lines()) == 2)
    for handle in first:  # nobody is left who would start the next
        os.kill(int(facts_of(JobFolder(handle.job_dir).text("minder"))["id"]), signal.SIGKILL)
        os.killpg(JobFolder(handle.job_dir).started().pid, signal.SIGKILL)
    lookers = [machine.jobs(2) for _ in range(4)]
    await asyncio.gather(*(machine.ended(each, *rest) for each in lookers))
    assert sorted(machine.lines()) == [*map(str, range(8)), "a", "b"]


@pytest.mark.parametrize("seed", range(30 if FAULTS else 2))
async def test_kills_at_random_lose_no_job_and_start_none_twice(machine, seed):
    chance, count = random.Random(seed), 12
    for _ in range(4):
        process = machine.process(count, cores=2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, chance.uniform(0.2, 1.2))
        process.kill()
        process.wait()
        if chance.random() < 0.5:
            machine.kill_minders()
    process = machine.process(count, cores=2)
    assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    jobs = machine.jobs(2)
    handles = [await jobs.find(str(number)) for number in range(count)]
    assert {status.state for status in await machine.ended(jobs, *handles)} == {"completed"}
    keys = sorted(map(str, range(count)))
    assert sorted(machine.lines()) == keys
    assert sorted(machine.lines("ended")) == keys


async def test_a_job_that_waited_has_the_environment_of_its_own_submitter(machine):
    await machine.held(machine.jobs(1, MODULE="first"), "a")
    jobs = machine.jobs(1, MODULE="mine", MY_TOKEN="hidden-words", URL="db://me:hidden-words@x")
    two = await machine.submit(jobs, "b", "echo $MODULE $MY_TOKEN $URL > told")
    kept = [path for path in two.job_dir.iterdir() if b"hidden-words" in path.read_bytes()]
    assert not kept, "secrets are not written down"
    assert '"mine"' in (two.job_dir / QUEUED).read_text()
    await machine.let_go("a")
    assert (await machine.ended(jobs, two))[0].state == "completed"
    assert machine.lines("told")[0].split() == ["mine"], "nor are they given to the job"


async def test_what_is_damaged_in_the_queue_keeps_nobody_from_it(machine):
    jobs = machine.jobs(1)
    await machine.held(jobs, "a")
    two, three = [await machine.submit(jobs, key, f"echo {key} >> begun") for key in "bc"]
    next((machine.root / "jobs/.local").glob("*/00000002")).write_text("")
    (three.job_dir / QUEUED).write_text("{")
    four = await machine.submit(jobs, "d", "echo d >> begun")
    await machine.let_go("a")
    assert [s.state for s in await machine.ended(jobs, two, four)] == ["completed"] * 2
    assert sorted(machine.lines()) == ["a", "b", "d"]
    with pytest.raises(StoreError, match=r"cannot read .*queued\.json"):
        await jobs.status(three)
    shutil.rmtree(three.job_dir)


def test_the_setting(tmp_path):
    def settings(**environment: str):
        return load_settings({"HOME": str(tmp_path), **environment}, tmp_path)

    assert settings().local_cores is None
    assert settings(FRACTALE_LOCAL_CORES="3").local_cores == 3
    with pytest.raises(SettingsError, match="local_cores must be a whole number above 0"):
        settings(FRACTALE_LOCAL_CORES="none")
