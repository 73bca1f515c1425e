"""Flux, PBS and LSF, which no package brings: against stand-ins that answer as documented.

What these tests show, `stand_in_schedulers/scheduler.py` says: that the documented forms are
written and read. Where a real Flux answers, one test runs on that.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fractale.errors import JobError, SchedulerUnavailable
from fractale.jobs import JobHandle
from fractale.jobs.status import JobEvidence
from fractale.schedulers.adapter import Submitted
from fractale.schedulers.ends import after
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.lsf.jobs import Lsf
from fractale.schedulers.pbs.jobs import Pbs
from fractale.schedulers.request import Array
from job_parts import Site, site, until
from stand_in_site import PROGRAMS, stand_in
from stand_ins import write


@pytest.fixture(params=list(PROGRAMS))
def here(request, tmp_path) -> Site:
    return stand_in(tmp_path, request.param, FAKE_HISTORY="1")


def facts(here: Site) -> dict:
    """What the stand-in was told of its last job."""
    return json.loads(_last(here).read_text())


def _last(here: Site) -> Path:
    state = here.folder.parent / "state"
    return sorted(path for path in state.glob("*.json") if "_" not in path.stem)[-1]


def asked(here: Site, program: str) -> list[str]:
    """How a program of the stand-in was called, each time."""
    calls = (here.folder.parent / "state" / "asked").read_text().splitlines()
    return [call for call in calls if call.split()[0] == program]


def run(here: Site, *words: str) -> None:
    """Run a program of the stand-in as a person would."""
    path = here.folder.parent / "bin" / words[0]
    subprocess.run([str(path), *words[1:]], env=dict(here.environment), check=True)


def tell(here: Site, **more: object) -> None:
    """Let the stand-in say something else of its last job."""
    path = _last(here)
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def no_flux() -> str:
    """Why there is no Flux to ask; empty where there is one."""
    words = [sys.executable, "-c", "import flux; flux.Flux()"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    return ran.stderr.strip().rpartition("\n")[2] if ran.returncode else ""


def no_pbs() -> str:
    """Why there is no PBS to ask; empty where there is one."""
    try:
        ran = subprocess.run(["qstat", "-B"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    if "Active" in ran.stdout:
        return ""
    return ran.stderr.strip() or "`qstat -B` names no server"


class TestEach:
    async def test_a_job_runs_and_ends(self, here):
        spec = here.spec("echo $GREETING from $PWD", env={"GREETING": "hi"})
        handle = await here.jobs.submit(spec, key="one")
        assert await here.jobs.submit(spec, key="one") == handle
        status = await here.ended(handle)
        assert (status.state, status.evidence) == ("completed", "exit-code file")
        assert await here.log(handle) == f"hi from {here.folder}\n"
        assert JobFolder(handle.job_dir).started().native_id.lstrip("f") in (
            handle.native_id.lstrip("f"),
        )

    async def test_an_exit_code(self, here):
        status = await here.run("echo why; exit 3")
        assert (status.state, status.exit_code) == ("failed", 3)
        assert status.reason.endswith("last line: why")

    async def test_what_nobody_wrote_down_is_found_by_its_tag(self, here):
        handle = await here.jobs.submit(here.spec("echo ran >> out"), key="one")
        await here.ended(handle)
        for name in ("handle.json", "submit.out", "started"):
            (handle.job_dir / name).unlink()
        assert await here.jobs.find("one") == handle
        assert (here.folder / "out").read_text() == "ran\n"

    async def test_what_never_arrived_is_not_found(self, here):
        handle = await here.jobs.submit(here.spec("true"), key="one")
        await here.ended(handle)
        # The stand-in writes its own record after that; a file that is gone would come again.
        await until(lambda: facts(here)["state"] == "ended")
        for name in ("handle.json", "submit.out", "started"):
            (handle.job_dir / name).unlink()
        for path in (here.folder.parent / "state").glob("*.json"):
            path.unlink()
        assert await here.jobs.find("one") is None

    async def test_a_refusal_is_told(self, here):
        with pytest.raises(JobError, match=r"refused the job: .*(ueue|absent)"):
            await here.jobs.submit(here.spec("true", queue="absent"), key="one")

    async def test_a_job_that_waits_says_why_and_is_cancelled(self, here):
        handle = await here.jobs.submit(here.spec("true", queue="held"), key="one")
        status = await here.jobs.status(handle)
        assert status.state == "pending"
        assert status.reason.startswith("waits")
        ended = await here.jobs.cancel(handle)
        assert (ended.state, ended.exit_code) == ("cancelled", None)

    async def test_a_running_job_is_cancelled(self, here):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        await here.running(handle)
        assert (await here.jobs.status(handle)).state == "running"
        await here.jobs.cancel(handle)
        status = await here.ended(handle)
        assert status.state == "cancelled"
        assert "by fractale" in status.reason

    async def test_what_it_forgot_is_unknown(self, here):
        handle = await here.jobs.submit(here.spec("true", queue="held"), key="one")
        for path in (here.folder.parent / "state").glob("*.json"):
            path.unlink()
        status = await here.jobs.status(handle)
        assert (status.state, status.evidence) == ("unknown", "none")

    @pytest.mark.parametrize("end", ["timeout"])
    async def test_a_time_limit(self, here, end):
        handle = await here.jobs.submit(here.spec("true", queue="held", time=60), key="one")
        word = {"flux": "timeout", "pbs": "walltime", "lsf": "runlimit"}[here.scheduler]
        tell(here, state="ended", code=-15, end=word)
        status = await here.jobs.status(handle)
        assert status.state == end
        assert status.reason.startswith("hit its time limit of 1:00")

    async def test_its_queues(self, here):
        queues = {queue.name: queue for queue in await here.jobs.queues()}
        if here.scheduler == "flux":
            assert queues["debug"].as_dict() == {
                "name": "debug",
                "nodes": 4,
                "nodes_idle": 1,
                "cores_per_node": 8,
                "gpus": 2,
                "memory": None,
                "time_limit": 3600.0,
                "state": "up",
                "default": False,
            }
            assert (queues["batch"].time_limit, queues["batch"].state) == (None, "stopped")
        elif here.scheduler == "pbs":
            assert (queues["workq"].time_limit, queues["workq"].state) == (3600, "up")
        else:
            assert (queues["normal"].state, queues["night"].state) == ("up", "Open:Inact")


class TestFlux:
    async def test_what_is_asked_for(self, tmp_path):
        here = stand_in(tmp_path, "flux")
        spec = here.spec(
            "true", nodes=2, tasks=8, cores_per_task=3, gpus_per_task=1, time=90, account="bank"
        )
        await here.ended(await here.jobs.submit(spec, key="one"))
        told = facts(here)
        assert (told["nodes"], told["slots"], told["cores"], told["gpus"]) == (2, 8, 3, 1)
        assert told["asked"] == {"system.bank": "bank", "queue": "", "duration": 90}

    async def test_a_scripts_directives_are_read(self, tmp_path):
        here = stand_in(tmp_path, "flux")
        script = "#FLUX: -N 2\n#FLUX: -n 4\n#FLUX: -t 2m\n#FLUX: -q debug\ntrue"
        await here.ended(await here.jobs.submit(here.spec(script, tasks=6), key="one"))
        told = facts(here)
        assert (told["nodes"], told["slots"]) == (2, 6)
        assert told["asked"] == {"queue": "debug", "duration": 120}

    async def test_a_directive_that_cannot_be_handed_on_is_refused(self, tmp_path):
        here = stand_in(tmp_path, "flux")
        with pytest.raises(JobError, match=r"line 2 of the script, .* cannot be handed on"):
            await here.jobs.submit(here.spec("#FLUX: --dependency=afterok:f1\ntrue"), key="one")

    async def test_a_lost_node(self, tmp_path):
        here = stand_in(tmp_path, "flux")
        handle = await here.jobs.submit(here.spec("true", queue="held"), key="one")
        tell(here, state="ended", code=1, end="node")
        status = await here.jobs.status(handle)
        assert status.state == "node_failure"
        assert "lost contact with corona7" in status.reason

    async def test_an_instance_that_does_not_answer(self, tmp_path):
        here = stand_in(tmp_path, "flux", FLUX_URI="local:///down")
        with pytest.raises(SchedulerUnavailable, match="Flux does not answer"):
            await here.jobs.submit(here.spec("true"), key="one")

    async def test_a_real_flux(self, tmp_path):
        if why := no_flux():
            pytest.skip(f"no Flux answers here: {why}")
        here = site(tmp_path, "flux", dict(os.environ))
        assert (await here.run("exit 3")).exit_code == 3


class TestPbs:
    async def test_what_is_asked_for(self, tmp_path):
        here = stand_in(tmp_path, "pbs")
        spec = here.spec(
            "#PBS -W umask=022\ntrue",
            nodes=2,
            tasks=8,
            cores_per_task=2,
            memory="4G",
            time=90,
            account="a",
        )
        await here.ended(await here.jobs.submit(spec, key="one"))
        words = facts(here)["words"]
        assert "select=2:ncpus=8:mpiprocs=4:mem=4096mb" in words
        assert "walltime=00:01:30" in words
        assert words[words.index("-A") + 1] == "a"
        assert words[words.index("-r") + 1] == "n"
        assert len(words[words.index("-N") + 1]) == 15
        wrapper = JobFolder.of(tmp_path / "jobs", "one").text("wrapper.sh")
        assert wrapper.splitlines()[1] == "#PBS -W umask=022"

    async def test_a_server_that_does_not_answer(self, tmp_path):
        here = stand_in(tmp_path, "pbs", FAKE_DOWN="pbs_connect: cannot connect, server down")
        with pytest.raises(SchedulerUnavailable, match="PBS does not answer"):
            await here.jobs.submit(here.spec("true"), key="one")

    async def test_the_log_is_there_while_it_runs_and_when_it_has_ended(self, tmp_path):
        # PBS delivers what goes to `-o` some time after the end.
        here = stand_in(tmp_path, "pbs", FAKE_DELAY="5")
        script = "echo speed: 7.5; while [ ! -e gate ]; do sleep 0.05; done; echo speed: 8.5"
        handle = await here.jobs.submit(here.spec(script), key="one")
        await until(lambda: (handle.job_dir / "log").read_text() == "speed: 7.5\n")
        assert await here.log(handle) == "speed: 7.5\n"
        (here.folder / "gate").touch()
        assert (await here.ended(handle)).state == "completed"
        assert await here.log(handle) == "speed: 7.5\nspeed: 8.5\n"

    @pytest.mark.parametrize("history", ["", "1"])
    async def test_a_job_that_was_killed_is_no_success(self, tmp_path, history):
        # PBS says `Exit_status = 0` and "finished" of it, if it says anything.
        here = stand_in(tmp_path, "pbs", FAKE_HISTORY=history)
        handle = await here.jobs.submit(here.spec("echo a; sleep 60; echo done"), key="one")
        await here.running(handle)
        run(here, "qsig", "-s", "KILL", handle.native_id)
        await until(lambda: facts(here)["state"] == "ended")
        tell(here, ended=time.time() - 3600)
        status = await here.jobs.status(handle)
        assert (status.state, status.exit_code, status.evidence) == ("unknown", None, "none")
        assert "left no exit code" in status.reason
        assert status.reason.endswith("last line: a")
        if history:
            assert "PBS says that it ended (qstat: F, Job run at " in status.reason

    @pytest.mark.parametrize(
        ("status", "state", "words"),
        [
            (
                265,
                "failed",
                "was ended by SIGKILL, perhaps by the kernel because memory ran out on",
            ),
            (139, "failed", "was ended by SIGSEGV (exit code 139) on"),
            (271, "cancelled", "was cancelled on node3, node4, not by fractale"),
            (-27, "out_of_memory", "ran out of memory on"),
            (-4, "node_failure", "was lost with its node"),
            (-25, "failed", "used more cores than it had asked for"),
            (-10, "failed", "could not be run by PBS: its Exit_status is -10"),
        ],
    )
    async def test_exit_statuses_of_pbs(self, tmp_path, status, state, words):
        here = stand_in(tmp_path, "pbs", FAKE_HISTORY="1")
        handle = await here.jobs.submit(here.spec("sleep 60"), key="one")
        await here.running(handle)
        run(here, "qsig", "-s", "KILL", handle.native_id)
        await until(lambda: facts(here)["state"] == "ended")
        tell(here, status=status, code=1, end="")
        found = await here.jobs.status(handle)
        assert found.state == state
        assert found.reason.startswith(words)

    async def test_an_end_that_is_not_seen_here_yet_is_waited_for(self, tmp_path):
        here = stand_in(tmp_path, "pbs", FAKE_HISTORY="1")
        handle = await here.jobs.submit(here.spec("exit 0"), key="one")
        await until(lambda: facts(here)["state"] == "ended")
        (handle.job_dir / "ended.0").rename(handle.job_dir / "kept")
        status = await here.jobs.status(handle)
        assert status.state == "running"
        assert "its exit code is not visible here yet" in status.reason
        (handle.job_dir / "kept").rename(handle.job_dir / "ended.0")
        assert (await here.jobs.status(handle)).state == "completed"

    async def test_without_a_history_a_job_is_seen_to_wait_to_run_and_to_end(self, tmp_path):
        here = stand_in(tmp_path, "pbs")
        script = "while [ ! -e gate ]; do sleep 0.05; done; echo why; exit 3"
        handle = await here.jobs.submit(here.spec(script), key="one")
        await here.running(handle)
        status = await here.jobs.status(handle)
        assert (status.state, status.nodes) == ("running", ("node3", "node4"))
        assert status.evidence == "qstat"
        (here.folder / "gate").touch()
        status = await here.ended(handle)
        assert (status.state, status.exit_code) == ("failed", 3)
        assert "does not answer" not in status.reason
        assert not [call for call in asked(here, "qstat") if "-x" in call][1:]

    @pytest.mark.parametrize("queue", [None, "held"])
    async def test_without_a_history_a_cancelled_job_is_cancelled(self, tmp_path, queue):
        here = stand_in(tmp_path, "pbs")
        handle = await here.jobs.submit(here.spec("sleep 300", queue=queue), key="one")
        if not queue:
            await here.running(handle)
        await here.jobs.cancel(handle)
        status = await here.ended(handle)
        assert status.state == "cancelled"
        assert "by fractale" in status.reason

    async def test_without_a_history_a_time_limit_is_read_in_what_pbs_wrote(self, tmp_path):
        here = stand_in(tmp_path, "pbs")
        handle = await here.jobs.submit(here.spec("echo on it; sleep 300", time=60), key="one")
        await here.running(handle)
        tell(here, notice="=>> PBS: job killed: walltime 71 exceeded limit 60\nTerminated\n")
        run(here, "qdel", handle.native_id)
        status = await here.ended(handle)
        assert (status.state, status.evidence) == ("timeout", "log")
        assert status.reason.startswith("hit its time limit of 1:00 on ")
        assert "(log: =>> PBS: job killed: walltime 71 exceeded limit 60)" in status.reason
        assert status.reason.endswith("last line: on it")

    @pytest.mark.parametrize("history", ["", "1"])
    async def test_a_job_that_still_runs_is_found_by_its_tag(self, tmp_path, history):
        here = stand_in(tmp_path, "pbs", FAKE_HISTORY=history)
        script = "while [ ! -e gate ]; do sleep 0.05; done"
        handle = await here.jobs.submit(here.spec(script), key="one")
        await here.running(handle)
        for name in ("handle.json", "submit.out", "started"):
            (handle.job_dir / name).unlink()
        assert await here.jobs.find("one") == handle
        (here.folder / "gate").touch()

    @pytest.mark.parametrize(
        ("comment", "words"),
        [
            (
                "Can Never Run: Insufficient amount of resource: ncpus (R: 99 A: 8 T: 8)",
                "will not start: PBS says that it can never run (qstat: Q, Can Never Run: "
                "Insufficient amount of resource: ncpus [R: 99 A: 8 T: 8])",
            ),
            ("Not Running: Queue not started.", "does not start as long as its queue is stopped"),
            ("Not Running: Dedicated time conflict", "waits: it would run into dedicated time"),
            (
                "Not Running: User has reached server running job limit.",
                "waits: a limit is reached",
            ),
            (
                "Not Running: Job would conflict with reservation or top job",
                "waits behind jobs of higher priority",
            ),
            ("Not Running: Not enough free nodes available", "waits for nodes, cores or memory"),
            ("", "waits for its turn"),
        ],
    )
    async def test_why_a_job_waits(self, tmp_path, comment, words):
        here = stand_in(tmp_path, "pbs")
        handle = await here.jobs.submit(here.spec("true", queue="held"), key="one")
        tell(here, comment=comment)
        assert (await here.jobs.status(handle)).reason.startswith(words)

    async def test_all_nodes_of_a_job_that_went_well(self, tmp_path):
        here = stand_in(tmp_path, "pbs")
        status = await here.run("true")
        assert (status.state, status.nodes) == ("completed", ("node3", "node4"))

    async def test_a_warning_of_the_site_beside_an_answer_is_no_trouble(self, tmp_path):
        here = stand_in(tmp_path, "pbs")
        handle = await here.jobs.submit(here.spec("sleep 60"), key="one")
        job = Submitted(folder=JobFolder(handle.job_dir), native_id=handle.native_id)
        gone = Submitted(folder=JobFolder(handle.job_dir), native_id="999.pbshost")
        qstat = tmp_path / "bin" / "qstat"
        warned = qstat.read_text().replace("exec", "echo 'maintenance on Monday' >&2\nexec")
        qstat.write_text(warned)
        found = await Pbs.of(here.environment).records([job, gone])
        assert [set(each) for each in found] == [{None}, set()]
        qstat.write_text("#!/bin/sh\necho 'maintenance on Monday' >&2; exit 1\n")
        with pytest.raises(SchedulerUnavailable, match="PBS does not answer: maintenance"):
            await Pbs.of(here.environment).records([job, gone])
        run(here, "qdel", handle.native_id)

    async def test_many_jobs_are_asked_about_at_once(self, tmp_path):
        here = stand_in(tmp_path, "pbs")
        script = "while [ ! -e gate ]; do sleep 0.05; done"
        handles = [await here.jobs.submit(here.spec(script), key=f"{n}") for n in range(3)]
        jobs = [Submitted(folder=JobFolder(h.job_dir), native_id=h.native_id) for h in handles]
        gone = Submitted(folder=JobFolder(handles[0].job_dir), native_id="999.pbshost")
        before = len(asked(here, "qstat"))
        found = await Pbs.of(here.environment).records([*jobs, gone])
        assert [set(each) for each in found] == [{None}, {None}, {None}, set()]
        # One question about all, and one for the history of what is not there any more.
        assert len(asked(here, "qstat")) - before == 2
        (here.folder / "gate").touch()

    async def test_a_real_pbs(self, tmp_path):
        if why := no_pbs():
            pytest.skip(f"no PBS answers here: {why}")
        here = site(tmp_path, "pbs", dict(os.environ))
        status = await here.run("echo why; exit 3")
        assert (status.state, status.exit_code) == ("failed", 3)
        handle = await here.jobs.submit(here.spec("echo a; sleep 60"), key="killed")
        await here.running(handle)
        subprocess.run(["qsig", "-s", "KILL", handle.native_id], check=True)  # noqa: ASYNC221
        assert (await here.ended(handle)).state == "unknown"
        array = Array.parse("0,3-4%2")
        spec = here.spec("echo $FRACTALE_INDEX $PBS_ARRAY_INDEX", array=array)
        handle = await here.jobs.submit(spec, key="array")
        elements = [JobFolder(handle.job_dir).element(index) for index in array.indices]
        await until(lambda: all(each.ended() for each in elements))
        assert [each.log.read_text() for each in elements] == ["0 0\n", "3 3\n", "4 4\n"]


class TestArrays:
    """Native arrays. Their elements are asked about by the adapter's own call."""

    @pytest.fixture(params=["pbs", "lsf"])
    def here(self, request, tmp_path) -> Site:
        return stand_in(tmp_path, request.param, FAKE_HISTORY="1")

    def adapter(self, here: Site) -> Pbs | Lsf:
        return {"pbs": Pbs, "lsf": Lsf}[here.scheduler].of(here.environment)

    async def records(self, here: Site, handle: JobHandle, array: Array) -> dict:
        job = Submitted(
            folder=JobFolder(handle.job_dir), native_id=handle.native_id, indices=array.indices
        )
        (found,) = await self.adapter(here).records([job])
        return dict(found)

    def said(self, here: Site) -> str:
        words = facts(here)["words"]
        return words[words.index("-J") + 1]

    @pytest.mark.parametrize(
        ("text", "pbs", "lsf"),
        [
            ("1-4", "1-4", "test[1-4]"),
            ("2-10:4%2", "2-10:4%2", "test[2-10:4]%2"),
            ("5", "5-6:2", "test[5]"),
            ("1-2,7", "1-3", "test[1-2,7]"),
            ("0-2", "0-2", "test[1-3]"),
            ("0", "0-1:2", "test[1]"),
            (",".join(str(n) for n in range(1, 600, 7)) + "%9", "1-86%9", None),
        ],
    )
    async def test_each_element_runs_once_with_its_own_index(self, here, text, pbs, lsf):
        array = Array.parse(text)
        variable = {"pbs": "PBS_ARRAY_INDEX", "lsf": "LSB_JOBINDEX"}[here.scheduler]
        script = f"echo $FRACTALE_INDEX ${variable} >> out"
        few = len(array.indices) < 10
        spec = here.spec(script, array=array, queue=None if few else "held")
        handle = await here.jobs.submit(spec, key="one")
        assert len(asked(here, {"pbs": "qsub", "lsf": "bsub"}[here.scheduler])) == 1
        expected = {"pbs": pbs, "lsf": lsf}[here.scheduler]
        if expected is None:
            assert self.said(here) == "test[1-86]%9"
        else:
            assert self.said(here) == expected
        if not few:
            assert set(await self.records(here, handle, array)) == set(array.indices)
            return
        elements = [JobFolder(handle.job_dir).element(index) for index in array.indices]
        await until(lambda: all(each.ended() for each in elements))
        ran = sorted((here.folder / "out").read_text().splitlines())
        assert ran == sorted(f"{index} {index}" for index in array.indices)
        assert {each.ended().code for each in elements} == {0}
        started = {each.started().native_id for each in elements}
        assert len(started) == len(array.indices)

    async def test_each_element_has_a_record_of_its_own(self, here):
        array = Array.parse("2,4-6,9")
        script = "case $FRACTALE_INDEX in 4) exit 3;; 6|9) sleep 60;; esac"
        handle = await here.jobs.submit(here.spec(script, array=array), key="one")
        folder = JobFolder(handle.job_dir)
        await until(lambda: all(folder.element(n).ended() for n in (2, 4, 5)))
        await until(lambda: all(folder.element(n).started() for n in (6, 9)))
        await self.adapter(here).cancel(folder, handle.native_id, 9)
        await until(lambda: folder.element(9).ended())
        end = {2: ("completed", 0), 4: ("failed", 3), 5: ("completed", 0), 6: ("running", None)}

        async def found() -> dict:
            records = await self.records(here, handle, array)
            return {n: (record.state, record.exit_code) for n, record in records.items()}

        deadline = time.monotonic() + 60
        while (seen := await found()).pop(9)[0] != "cancelled" or seen != end:
            assert time.monotonic() < deadline, seen
            await asyncio.sleep(0.1)
        await self.adapter(here).cancel(folder, handle.native_id)
        await until(lambda: folder.element(6).ended())
        deadline = time.monotonic() + 60
        while (await found())[6][0] != "cancelled":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        # Of one that was deleted before the others ended PBS shows the whole array's exit status.
        assert (await found()).get(9, ("cancelled",))[0] == "cancelled"

    async def test_an_array_without_a_history_is_told_by_its_own_files(self, tmp_path):
        here = stand_in(tmp_path, "pbs")
        array = Array.parse("1-3")
        script = "case $FRACTALE_INDEX in 2) exit 3;; 3) sleep 60;; esac"
        handle = await here.jobs.submit(here.spec(script, array=array), key="one")
        folder = JobFolder(handle.job_dir)
        await until(lambda: all(folder.element(n).ended() for n in (1, 2)))
        await until(lambda: folder.element(3).started())
        deadline = time.monotonic() + 60
        while set(found := await self.records(here, handle, array)) != {3}:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.1)
        states = {
            index: JobEvidence(folder.element(index), "PBS", found.get(index)).status().state
            for index in array.indices
        }
        assert states == {1: "completed", 2: "failed", 3: "running"}
        await self.adapter(here).cancel(folder, handle.native_id)

    async def test_the_array_is_found_by_its_tag(self, here):
        array = Array.parse("1-2")
        spec = here.spec("while [ ! -e gate ]; do sleep 0.05; done", array=array)
        handle = await here.jobs.submit(spec, key="one")
        folder = JobFolder(handle.job_dir)
        (handle.job_dir / "submit.out").unlink()
        assert await self.adapter(here).find(folder) == handle.native_id
        (here.folder / "gate").touch()

    @pytest.mark.parametrize("script", ["#PBS -J1-10%2 -r y\n", '#BSUB -J "scan[1-10]%2" -P acc\n'])
    async def test_the_scripts_own_array_does_not_count_beside_the_specs(self, tmp_path, script):
        here = stand_in(tmp_path, "pbs" if "PBS" in script else "lsf")
        spec = here.spec(script + "true", array=Array.parse("3-4"))
        handle = await here.jobs.submit(spec, key="one")
        assert "1-10" not in (handle.job_dir / "wrapper.sh").read_text()
        assert "3-4" in self.said(here)

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("#PBS -J1-10", r"line 2 of the script, `#PBS -J1-10`, submits more than one job"),
            ("#PBS -I", r"line 2 of the script, `#PBS -I`, makes the job interactive"),
            ("#BSUB -Is", r"line 2 of the script, `#BSUB -Is`, makes the job interactive"),
        ],
    )
    async def test_what_is_no_single_batch_job_is_refused(self, tmp_path, line, says):
        here = stand_in(tmp_path, "pbs" if "PBS" in line else "lsf")
        folder = JobFolder.of(tmp_path / "jobs", "one")
        folder.make()
        with pytest.raises(JobError, match=says):
            self.adapter(here).prepare(folder, here.spec(f"{line}\ntrue"))


class TestHeader:
    """What of a script's directives goes to the scheduler: what that one itself would read."""

    async def test_directives_below_an_indented_comment_count(self, tmp_path):
        here = stand_in(tmp_path, "pbs")
        script = "#PBS -p 7\n   # a remark\n#PBS -l walltime=0:07:00\ntrue\n#PBS -q late"
        handle = await here.jobs.submit(here.spec(script), key="one")
        wrapper = (handle.job_dir / "wrapper.sh").read_text().splitlines()
        assert wrapper[1:3] == ["#PBS -p 7", "#PBS -l walltime=0:07:00"]
        assert "#PBS -q late" not in wrapper

    async def test_a_size_of_the_job_replaces_those_of_the_script(self, tmp_path):
        # PBS refuses `-l nodes=` beside `-l select=`.
        here = stand_in(tmp_path, "pbs")
        script = "#PBS -l nodes=2:ppn=8,walltime=1:00:00\n#PBS -p 7\ntrue"
        handle = await here.jobs.submit(here.spec(script, tasks=4), key="one")
        wrapper = (handle.job_dir / "wrapper.sh").read_text().splitlines()
        assert wrapper[1:3] == ["#PBS -l walltime=1:00:00", "#PBS -p 7"]


class TestLsf:
    async def test_what_is_asked_for(self, tmp_path):
        here = stand_in(tmp_path, "lsf")
        spec = here.spec(
            "true", nodes=2, tasks=8, cores_per_task=2, gpus_per_task=1, memory="4G", time=90
        )
        await here.ended(await here.jobs.submit(spec, key="one"))
        words = " ".join(facts(here)["words"])
        assert "-n 8 -R span[ptile=4] -R affinity[core(2)]" in words
        assert "-gpu num=1/task -M 4096MB -W 2" in words

    async def test_memory(self, tmp_path):
        here = stand_in(tmp_path, "lsf")
        handle = await here.jobs.submit(here.spec("true", queue="held"), key="one")
        tell(here, state="ended", code=-9, end="memlimit")
        status = await here.jobs.status(handle)
        assert (status.state, status.exit_code) == ("out_of_memory", 137)
        assert "TERM_MEMLIMIT" in status.reason

    async def test_a_batch_system_that_does_not_answer(self, tmp_path):
        here = stand_in(tmp_path, "lsf", FAKE_DOWN="LSF is down. Please wait ...")
        with pytest.raises(SchedulerUnavailable, match="LSF does not answer"):
            await here.jobs.submit(here.spec("true"), key="one")

    async def test_the_log_is_there_when_the_job_has_ended(self, tmp_path):
        here = stand_in(tmp_path, "lsf", FAKE_DELAY="5")
        handle = await here.jobs.submit(here.spec("echo speed: 7.5"), key="one")
        status = await here.ended(handle)
        assert (status.state, status.nodes) == ("completed", ("hostA", "hostB"))
        assert await here.log(handle) == "speed: 7.5\n"

    async def test_a_job_that_was_killed_is_no_success(self, tmp_path):
        here = stand_in(tmp_path, "lsf")
        handle = await here.jobs.submit(here.spec("echo a; sleep 60; echo done"), key="one")
        await here.running(handle)
        run(here, "bkill", "-s", "KILL", handle.native_id)
        await until(lambda: facts(here)["state"] == "ended")
        tell(here, ended=time.time() - 3600)
        status = await here.jobs.status(handle)
        assert (status.state, status.exit_code) == ("unknown", None)
        assert "LSF says that it ended (bjobs: DONE)" in status.reason
        assert status.nodes == ("hostA", "hostB")

    async def test_the_limit_that_is_told_is_the_one_that_lsf_has(self, tmp_path):
        here = stand_in(tmp_path, "lsf")
        handle = await here.jobs.submit(here.spec("true", queue="held", time=20), key="one")
        tell(here, state="ended", code=-15, end="runlimit")
        reason = (await here.jobs.status(handle)).reason
        assert reason.startswith("hit its time limit of 1:00 (20 s were asked for)")


class TestGoingOn:
    """The line that has PBS resume a run: it starts programs without our PATH, at home."""

    async def test_as_printed_it_resumes_the_run(self, tmp_path):
        here = stand_in(tmp_path, "pbs", HOME=str(tmp_path))
        folder = tmp_path / "it's a project"
        folder.mkdir()
        command = f"cd {shlex.quote(str(folder))} && /bin/sh -c 'pwd > resumed'"
        line = after("pbs", "'12[].pbshost'", command)
        subprocess.run(["/bin/sh", "-c", line], env=dict(here.environment), check=True)  # noqa: ASYNC221
        await until(lambda: facts(here)["state"] == "ended")
        assert (folder / "resumed").read_text() == f"{folder}\n"
        words = facts(here)["words"]
        assert words == ["-W", "depend=afterany:12[].pbshost", "-j", "oe", "-o", "/dev/null"]


class TestSlurmWithAccounting:
    """The Slurm of the other tests has no accounting: here `sacct` answers, and nothing else."""

    @pytest.mark.parametrize(
        ("row", "state", "code", "words"),
        [
            ("TIMEOUT|0:15|{now}|{now}|{now}|n[1-2],m7", "timeout", None, "on n1, n2, m7"),
            ("CANCELLED by 0|0:15|{now}|{now}|{now}|n1", "cancelled", None, "by user root"),
            ("OUT_OF_MEMORY|0:125|{now}|{now}|{now}|n1", "out_of_memory", None, "sacct"),
            ("NODE_FAIL|0:0|{now}|{now}|{now}|n1", "node_failure", None, "lost with its node"),
            ("PREEMPTED|0:0|{now}|{now}|{now}|n1", "cancelled", None, "was preempted"),
            ("FAILED|7:0|{now}|{now}|{now}|n1", "failed", 7, "exit code 7"),
            ("COMPLETED|0:0|{now}|{now}|{now}|n1", "running", None, "is not visible here yet"),
            ("COMPLETED|0:0|{now}|{now}|{past}|n1", "unknown", None, "left no sign of having"),
            ("RUNNING|0:0|{now}|{now}|Unknown|n1", "running", None, "runs on n1"),
            ("COMPLETED|0:0|1000|1000|1000|n1", "unknown", None, "does not know it any more"),
        ],
    )
    async def test_what_it_says(self, tmp_path, row, state, code, words):
        answers = {
            "sbatch": "echo 4711",
            "squeue": ":",
            "scontrol": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            "sacct": f"echo '4711|{row.format(now=int(time.time()), past=int(time.time()) - 90)}'",
        }
        programs = tmp_path / "bin"
        for name, body in answers.items():
            write(programs, name, body)
        here = site(tmp_path, "slurm", {"PATH": f"{programs}:/usr/bin:/bin"})
        handle = await here.jobs.submit(here.spec("true"), key="one")
        status = await here.jobs.status(handle)
        assert (status.state, status.exit_code) == (state, code)
        assert words in status.reason
        assert status.evidence == ("none" if state == "unknown" else "sacct")
