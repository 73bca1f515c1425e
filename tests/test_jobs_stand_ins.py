"""Flux, PBS and LSF, which no package brings: against stand-ins that answer as documented.

What these tests show, `stand_in_schedulers/scheduler.py` says: that the documented forms are
written and read. Where a real Flux answers, one test runs on that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fractale.errors import JobError, SchedulerUnavailable
from fractale.schedulers.folder import JobFolder
from job_parts import Site, site, until
from stand_ins import write

FOLDER = Path(__file__).parent / "stand_in_schedulers"
PROGRAMS = {
    "flux": (),
    "pbs": ("qsub", "qstat", "qselect", "qdel"),
    "lsf": ("bsub", "bjobs", "bkill", "bqueues"),
}


@pytest.fixture(params=list(PROGRAMS))
def here(request, tmp_path) -> Site:
    return stand_in(tmp_path, request.param)


def stand_in(folder: Path, scheduler: str, **environment: str) -> Site:
    """A site whose scheduler is the stand-in."""
    programs, state = folder / "bin", folder / "state"
    programs.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    for name in PROGRAMS[scheduler]:
        words = f'exec {sys.executable} {FOLDER / "scheduler.py"} {name} "$@"'
        (programs / name).write_text(f"#!/bin/sh\n{words}\n")
        (programs / name).chmod(0o755)
    if scheduler == "flux":  # it hides a real one
        words = f'exec {sys.executable} {FOLDER / "flux" / "program.py"} "$@"'
        (programs / "flux").write_text(f"#!/bin/sh\n{words}\n")
        (programs / "flux").chmod(0o755)
    own = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FAKE_STATE": str(state),
        "PYTHONPATH": str(FOLDER),
        "FLUX_URI": "local:///tmp/flux" if scheduler == "flux" else "",
    }
    return site(folder, scheduler, {**os.environ, **own, **environment})


def facts(here: Site) -> dict:
    """What the stand-in was told of its last job."""
    return json.loads(sorted((here.folder.parent / "state").glob("*.json"))[-1].read_text())


def tell(here: Site, **more: object) -> None:
    """Let the stand-in say something else of its last job."""
    path = sorted((here.folder.parent / "state").glob("*.json"))[-1]
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def no_flux() -> str:
    """Why there is no Flux to ask; empty where there is one."""
    words = [sys.executable, "-c", "import flux; flux.Flux()"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    return ran.stderr.strip().rpartition("\n")[2] if ran.returncode else ""


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
        assert len(words[words.index("-N") + 1]) == 15
        wrapper = JobFolder.of(tmp_path / "jobs", "one").text("wrapper.sh")
        assert wrapper.splitlines()[1] == "#PBS -W umask=022"

    async def test_a_server_that_does_not_answer(self, tmp_path):
        here = stand_in(tmp_path, "pbs", FAKE_DOWN="pbs_connect: cannot connect, server down")
        with pytest.raises(SchedulerUnavailable, match="PBS does not answer"):
            await here.jobs.submit(here.spec("true"), key="one")


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
            ("COMPLETED|0:0|{now}|{now}|{now}|n1", "completed", 0, "exit code 0"),
            ("RUNNING|0:0|{now}|{now}|Unknown|n1", "running", None, "runs on n1"),
            ("COMPLETED|0:0|1000|1000|1000|n1", "unknown", None, "does not know it any more"),
        ],
    )
    async def test_what_it_says(self, tmp_path, row, state, code, words):
        answers = {
            "sbatch": "echo 4711",
            "squeue": ":",
            "scontrol": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            "sacct": f"echo '4711|{row.format(now=int(time.time()))}'",
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
