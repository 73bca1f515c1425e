"""A real Slurm of four nodes with accounting: arrays, many nodes, ends that only `sacct` knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from fractale.errors import JobError, SchedulerUnavailable
from fractale.jobs import JobHandle
from fractale.schedulers.adapter import Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.request import Array
from fractale.schedulers.slurm.jobs import Slurm as Adapter
from job_parts import Site, site, until
from slurm import running_cluster

FORGET = 3


@pytest.fixture(scope="module")
def slurm():
    with running_cluster(most=201) as running:
        yield running


@pytest.fixture(scope="module")
def forgetful():
    with running_cluster(forget=FORGET) as running:
        yield running


@pytest.fixture
def here(slurm, tmp_path) -> Site:
    return site(tmp_path, "slurm", slurm.environment)


def counted(folder: Path, environment: dict[str, str]) -> tuple[dict[str, str], Path]:
    """The environment with programs before Slurm's own that write down each call."""
    programs, calls = folder / "counting", folder / "calls"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "sacct", "scancel"):
        count = f'echo "{name} $*" >> {calls}'
        call = f'PATH={environment["PATH"]}\nexec {name} "$@"'
        (programs / name).write_text(f"#!/bin/sh\n{count}\n{call}\n")
        (programs / name).chmod(0o755)
    return {**environment, "PATH": f"{programs}:{environment['PATH']}"}, calls


def asked(handle: JobHandle, *indices: int) -> Submitted:
    folder = JobFolder(handle.job_dir)
    return Submitted(folder=folder, native_id=handle.native_id, indices=indices)


def kill_wrapper(folder: Path) -> None:
    """End a job so that it leaves nothing of its end: its wrapper first."""
    pid = JobFolder(folder).started().pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in (pid, *map(int, children)):
        os.kill(each, signal.SIGKILL)


async def elements_until(here: Site, handle: JobHandle, indices, true) -> dict:
    """The records of an array's elements, when they are as they should be."""
    deadline = time.monotonic() + 60
    while True:
        (found,) = await Adapter.of(here.environment).records([asked(handle, *indices)])
        if true(found):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)


class TestNodes:
    async def test_all_nodes_of_a_job_are_told_also_after_a_good_end(self, here):
        spec = here.spec("srun -l hostname; sleep 2", nodes=2, tasks=2)
        handle = await here.jobs.submit(spec, key="two")
        await here.running(handle)
        running = await here.jobs.status(handle)
        ended = await here.ended(handle)
        assert len(running.nodes) == 2
        assert (ended.state, ended.evidence) == ("completed", "exit-code file")
        assert ended.nodes == running.nodes
        assert all(name in ("n1", "n2", "n3", "n4") for name in ended.nodes)
        assert len((await here.log(handle)).splitlines()) == 2

    async def test_a_time_limit(self, here, slurm):
        handle = await here.jobs.submit(here.spec("sleep 300", time=60), key="long")
        await here.running(handle)
        slurm.run("scontrol", "update", f"jobid={handle.native_id}", "EndTime=now+1")
        status = await here.ended(handle)
        assert (status.state, status.evidence) == ("timeout", "scontrol")

    async def test_preemption(self, here, slurm):
        low = here.spec("sleep 300", queue="low", nodes=4, tasks=8)
        handle = await here.jobs.submit(low, key="low")
        await here.running(handle)
        high = await here.jobs.submit(here.spec("true", nodes=4, tasks=8), key="high")
        status = await here.ended(handle)
        assert (status.state, status.evidence) == ("cancelled", "scontrol")
        assert "was preempted by another job" in status.reason
        assert (await here.ended(high)).state == "completed"
        slurm.wait_idle()

    async def test_a_job_that_is_held_does_not_wait_for_its_turn(self, here):
        handle = await here.jobs.submit(here.spec("#SBATCH --hold\ntrue"), key="held")
        status = await here.until(handle, lambda status: "JobHeldUser" in status.reason)
        assert status.state == "pending"
        assert status.reason.startswith("is held, and will not start until it is released")
        await here.jobs.cancel(handle)


class TestArrays:
    async def test_fifty_elements_are_one_submission_and_one_question(self, slurm, tmp_path):
        environment, calls = counted(tmp_path, slurm.environment)
        here = site(tmp_path, "slurm", environment)
        indices = tuple(range(1, 51))
        spec = here.spec(
            "echo element $FRACTALE_INDEX of $SLURM_ARRAY_TASK_ID; [ $FRACTALE_INDEX -ne 7 ]",
            array=Array.parse("1-50%20"),
            memory="10M",
        )
        handle = await here.jobs.submit(spec, key="fifty")
        folder = JobFolder(handle.job_dir)
        await until(lambda: all(folder.element(index).ended() for index in indices))
        assert [folder.element(index).ended().code for index in (1, 7, 50)] == [0, 1, 0]
        for index in indices:
            assert folder.element(index).log.read_text() == f"element {index} of {index}\n"
        slurm.wait_idle()
        calls.write_text("")
        (found,) = await Adapter.of(environment).records([asked(handle, *indices)])
        assert set(found) == set(indices)
        assert found[7].state == "failed"
        assert {found[index].state for index in indices if index != 7} == {"completed"}
        assert len(calls.read_text().splitlines()) == 1

    async def test_elements_that_wait_and_that_run(self, here):
        spec = here.spec("sleep 300", array=Array.parse("0-199:2%3"))
        handle = await here.jobs.submit(spec, key="many")
        indices = range(0, 199, 2)
        found = await elements_until(
            here,
            handle,
            indices,
            lambda all_: sum(each.state == "running" for each in all_.values()) == 3,
        )
        assert set(found) == set(indices)
        waiting = [each for each in found.values() if each.state == "pending"]
        assert len(waiting) == 97
        assert waiting[0].words == "waits: as many elements of its array run as may at a time"
        await Adapter.of(here.environment).cancel(JobFolder(handle.job_dir), handle.native_id)
        found = await elements_until(
            here,
            handle,
            indices,
            lambda all_: {each.state for each in all_.values()} == {"cancelled"},
        )
        assert set(found) == set(indices)

    @pytest.mark.parametrize("lost", [("submit.out",), ("submit.out", "elements")])
    async def test_an_array_whose_submission_was_not_written_down_is_found(self, here, lost):
        script = "sleep 1" if len(lost) == 1 else "#SBATCH --hold\ntrue"
        handle = await here.jobs.submit(here.spec(script, array=Array.parse("3-4")), key="a")
        folder = JobFolder(handle.job_dir)
        if len(lost) == 1:
            await until(lambda: folder.element(3).started() is not None)
        for name in ("handle.json", "submit.out"):
            (handle.job_dir / name).unlink()
        assert (await here.jobs.find("a")).native_id == handle.native_id
        await Adapter.of(here.environment).cancel(folder, handle.native_id)

    async def test_an_index_above_the_limit_of_the_cluster(self, here):
        spec = here.spec("true", array=Array.parse("1-201"))
        with pytest.raises(JobError, match=r"largest index is 201, .* is 200 \(MaxArraySize\)"):
            await here.jobs.submit(spec, key="large")
        assert await here.jobs.find("large") is None

    async def test_a_heterogeneous_job_is_refused(self, here):
        script = "#SBATCH -n 1\n#SBATCH hetjob\n#SBATCH -n 1\ntrue"
        with pytest.raises(JobError, match="hetjob"):
            await here.jobs.submit(here.spec(script), key="het")


SUBMIT = """
import asyncio, os, sys
from pathlib import Path
from fractale.jobs import Jobs, JobSpec
from fractale.schedulers.request import Array

root, out = sys.argv[1:]
script = f"#!/bin/sh\\necho $FRACTALE_INDEX >> {out}\\n"
spec = JobSpec(name="k", folder=Path(root), script=script, array=Array.parse("1-20"), memory="10M")
asyncio.run(Jobs(Path(root) / "jobs", os.environ, "slurm").submit(spec, key="k"))
"""


@pytest.mark.parametrize("seconds", [0.3, 0.5, 0.7, 0.9])
async def test_whoever_submits_an_array_is_killed(slurm, tmp_path, seconds):
    out = tmp_path / "ran"
    words = [sys.executable, "-c", SUBMIT, str(tmp_path), str(out)]
    dying = await asyncio.create_subprocess_exec(*words, env=slurm.environment)
    await asyncio.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        dying.kill()
    await dying.wait()
    again = await asyncio.create_subprocess_exec(*words, env=slurm.environment)
    assert await again.wait() == 0
    await until(lambda: out.exists() and len(out.read_text().split()) >= 20)
    slurm.wait_idle()
    assert sorted(map(int, out.read_text().split())) == list(range(1, 21))


class TestManyJobs:
    async def test_they_are_asked_about_at_once(self, slurm, tmp_path):
        environment, calls = counted(tmp_path, slurm.environment)
        here = site(tmp_path, "slurm", environment)
        specs = {f"job{code}": here.spec(f"exit {code}") for code in range(4)}
        handles = [await here.jobs.submit(spec, key=key) for key, spec in specs.items()]
        for handle in handles:
            await here.ended(handle)
        slurm.wait_idle()
        calls.write_text("")
        found = await Adapter.of(environment).records([asked(handle) for handle in handles])
        assert [answer[None].exit_code for answer in found] == [0, 1, 2, 3]
        assert len(calls.read_text().splitlines()) == 1

    async def test_the_cluster_that_sbatch_names_is_asked_and_told_to_cancel(self, slurm, tmp_path):
        environment, calls = counted(tmp_path, slurm.environment)
        here = site(tmp_path, "slurm", environment)
        spec = here.spec("#SBATCH -M fractale\n#SBATCH --hold\ntrue")
        handle = await here.jobs.submit(spec, key="there")
        assert (handle.job_dir / "submit.out").read_text() == f"{handle.native_id};fractale\n"
        assert (await here.jobs.status(handle)).state == "pending"
        assert (await here.jobs.cancel(handle)).state == "cancelled"
        asked_later = calls.read_text().splitlines()[1:]
        assert asked_later
        assert all(" -M fractale " in each for each in asked_later)


class TestAccounting:
    async def test_an_end_that_only_the_accounting_knows(self, forgetful, tmp_path):
        here = site(tmp_path, "slurm", forgetful.environment)
        handle = await here.jobs.submit(here.spec("sleep 300"), key="killed")
        spec = here.spec("sleep 300", array=Array.parse("1-3"))
        array = await here.jobs.submit(spec, key="array")
        folder = JobFolder(array.job_dir)
        await here.running(handle)
        await until(lambda: all(folder.element(index).started() for index in (1, 2, 3)))
        kill_wrapper(handle.job_dir)
        forgetful.run("scancel", f"{array.native_id}_2")
        for index in (1, 3):
            kill_wrapper(folder.element(index).path)
        await until(lambda: not forgetful.job(handle.native_id))
        await until(lambda: not forgetful.job(array.native_id))

        status = await here.jobs.status(handle)
        assert (status.state, status.evidence) == ("failed", "sacct")
        (found,) = await Adapter.of(here.environment).records([asked(array, 1, 2, 3)])
        assert [found[index].state for index in (1, 2, 3)] == ["failed", "cancelled", "failed"]
        assert found[2].words == "was cancelled by user root (you)"
        assert found[1].evidence == "sacct"

    async def test_accounting_that_does_not_answer_for_a_while(self, forgetful, tmp_path):
        here = site(tmp_path, "slurm", forgetful.environment)
        handle = await here.jobs.submit(here.spec("sleep 300"), key="killed")
        await here.running(handle)
        kill_wrapper(handle.job_dir)
        await until(lambda: not forgetful.job(handle.native_id))
        other = await here.jobs.submit(here.spec("sleep 300"), key="other")
        await here.running(other)
        forgetful.stop_accounting()
        try:
            status = await here.jobs.status(handle)
            assert not status.over
            assert "Slurm's accounting does not answer" in status.reason
            found = await Adapter.of(here.environment).records([asked(handle), asked(other)])
            assert isinstance(found[0], SchedulerUnavailable)
            assert found[1][None].state == "running"
        finally:
            forgetful.start_accounting()
        status = await here.jobs.status(handle)
        assert (status.state, status.evidence) == ("failed", "sacct")
        assert (await here.jobs.cancel(other)).state in ("cancelled", "running")


SWEEP = """
name: sweep
steps:
  - name: each
    foreach: range(250) | list
    keep_going: true
    job: {scheduler: slurm, command: [sh, -c, "exit $(({{ item }} == 7))"]}
outputs: {each: "{{ steps.each.outputs | map(attribute='exit_code') | sum }}"}
"""


def test_a_sweep_is_as_few_arrays_as_the_cluster_takes(slurm, tmp_path, processes):
    environment, calls = counted(tmp_path, slurm.environment)
    (tmp_path / "plan.yaml").write_text(SWEEP)
    env = {**environment, "HOME": str(tmp_path), "FRACTALE_POLL_SECONDS": "5"}
    process = processes.start(["run", "plan.yaml", "--json"], cwd=tmp_path, env=env)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out[-2000:] + err
    assert json.loads(out.splitlines()[-1])["outputs"] == {"each": 1}
    made = [line.split()[0] for line in calls.read_text().splitlines()]
    assert made.count("sbatch") == 2  # of 200 and of 50: MaxArraySize is 201
