"""Batch jobs when things go wrong: nothing is submitted twice, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fractale.errors import JobInDoubt, SchedulerUnavailable, StoreError
from fractale.jobs import Jobs, JobSpec
from fractale.schedulers.folder import JobFolder
from job_parts import SOON, Site, local_site, site, until
from jobs_child import POINTS
from slurm import SYSTEM, running_slurm

CHILD = Path(__file__).parents[1] / "support" / "jobs_child.py"
RANDOM_KILLS = 100 if os.environ.get("FRACTALE_FAULTS") else 6
PATIENCE = 120


@pytest.fixture(scope="module")
def slurm():
    with running_slurm() as running:
        yield running


@pytest.fixture(params=["local", "slurm"])
def here(request, tmp_path) -> Site:
    if request.param == "local":
        return local_site(tmp_path)
    return site(tmp_path, "slurm", request.getfixturevalue("slurm").environment)


class Trial:
    """One job that is submitted by processes that are killed."""

    def __init__(self, here: Site, name: str) -> None:
        self.here, self.name = here, name
        self.out = here.folder.parent / f"{name}.out"
        self.root = here.folder.parent / "jobs"

    def start(self, point: str = "", **environment: str) -> subprocess.Popen[str]:
        words = [str(self.root), self.here.scheduler, self.name, str(self.out), point]
        return subprocess.Popen(
            [sys.executable, str(CHILD), *words],
            env={**self.here.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def killed(self, point: str, **environment: str) -> None:
        """A process that kills itself at a point."""
        process = self.start(point, **environment)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL, said

    def killed_after(self, seconds: float) -> None:
        """A process that is killed after a time, if it has not ended by then."""
        process = self.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        process.communicate(timeout=PATIENCE)

    def check(self, **environment: str) -> None:
        """Whoever goes on finds the one job, and sees it end; it ran once."""
        process = self.start(**environment)
        out, said = process.communicate(timeout=2 * PATIENCE)
        assert process.returncode == 0, said
        assert out.split()[1] == "completed"
        assert self.out.read_text() == "ran\n"

    def in_slurm(self, slurm) -> int:
        """How many jobs Slurm has of this one."""
        tag = JobFolder.of(self.root, self.name).tag
        return slurm.run("squeue", "-h", "-t", "all", "-o", "%k").split().count(f"fractale:{tag}")


class TestKills:
    @pytest.mark.parametrize("point", POINTS)
    def test_at_each_point(self, here, point, request):
        trial = Trial(here, point)
        trial.killed(point)
        trial.check()
        if here.scheduler == "slurm":
            assert trial.in_slurm(request.getfixturevalue("slurm")) == 1

    def test_at_random_times(self, here, request):
        chance = random.Random(4711)
        trials = [Trial(here, f"random-{number}") for number in range(RANDOM_KILLS)]
        for trial in trials:
            # Importing takes most of what passes before the submission.
            trial.killed_after(chance.uniform(0.05, 0.6))
        for trial in trials:
            trial.check()
            if here.scheduler == "slurm":
                assert trial.in_slurm(request.getfixturevalue("slurm")) == 1

    def test_while_sbatch_is_at_it(self, slurm, tmp_path):
        """The submitting program goes on without us; whoever comes next waits for it."""
        shim = _shim(tmp_path, f': > {tmp_path}/begun; sleep 2; exec /usr/bin/sbatch "$@"')
        trial = Trial(site(tmp_path, "slurm", {**slurm.environment, "PATH": shim}), "slow")
        process = trial.start()
        _wait(tmp_path / "begun")
        process.kill()
        process.communicate(timeout=PATIENCE)
        assert trial.in_slurm(slurm) == 0
        trial.check(PATH=shim)
        assert trial.in_slurm(slurm) == 1

    def test_where_what_sbatch_said_is_lost(self, slurm, tmp_path):
        """Slurm has the job, and nobody heard so: it is found by its tag."""
        shim = _shim(tmp_path, '/usr/bin/sbatch "$@" > /dev/null; kill -9 $PPID; sleep 1')
        trial = Trial(site(tmp_path, "slurm", slurm.environment), "lost")
        process = trial.start(PATH=shim)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL
        trial.check()
        assert trial.in_slurm(slurm) == 1

    def test_where_slurm_has_forgotten_the_job(self, tmp_path):
        """It ran, ended and was forgotten before anybody asked: its own files are the proof."""
        with running_slurm(forget=2) as slurm:
            shim = _shim(tmp_path, '/usr/bin/sbatch "$@" > /dev/null; kill -9 $PPID; sleep 1')
            trial = Trial(site(tmp_path, "slurm", slurm.environment), "forgotten")
            trial.start(PATH=shim).communicate(timeout=PATIENCE)
            _wait(trial.out)
            deadline = time.monotonic() + PATIENCE
            while slurm.jobs():
                assert time.monotonic() < deadline
                time.sleep(0.5)
            trial.check()

    async def test_a_second_job_of_one_key_does_not_begin(self, slurm, tmp_path):
        """What no search can exclude, the wrapper does: only one of two has the claim."""
        here = site(tmp_path, "slurm", slurm.environment)
        handle = await here.jobs.submit(here.spec("echo ran >> out; sleep 1"), key="one")
        wrapper = str(handle.job_dir / "wrapper.sh")
        second = slurm.run("sbatch", "--parsable", f"--output={tmp_path}/second", wrapper).strip()
        await here.ended(handle)
        await until(lambda: slurm.job(second).get("JobState") in ("COMPLETED", "FAILED"))
        assert (here.folder / "out").read_text() == "ran\n"
        first = slurm.job(handle.native_id)["JobState"]
        assert sorted((first, slurm.job(second)["JobState"])) == ["COMPLETED", "FAILED"]


class TestController:
    async def test_it_is_restarted_while_a_job_is_waited_for(self, tmp_path):
        with running_slurm() as slurm:
            here = site(tmp_path, "slurm", slurm.environment)
            os.mkfifo(here.folder / "gate")
            handle = await here.jobs.submit(here.spec("read line < gate; exit 3"), key="one")
            await here.running(handle)
            waiting = asyncio.create_task(here.jobs.wait(handle, timeout=PATIENCE, intervals=SOON))
            await asyncio.to_thread(slurm.stop_controller)
            status = await here.jobs.status(handle)
            assert (status.state, status.evidence) == ("running", "start file")
            assert "Slurm does not answer" in status.reason
            assert not waiting.done()
            await asyncio.to_thread(slurm.start_controller)
            await asyncio.to_thread((here.folder / "gate").write_text, "go\n")
            status = await waiting
            assert (status.state, status.exit_code) == ("failed", 3)

    async def test_a_job_that_ends_meanwhile_is_known_by_its_own_files(self, tmp_path):
        with running_slurm() as slurm:
            here = site(tmp_path, "slurm", slurm.environment)
            os.mkfifo(here.folder / "gate")
            handle = await here.jobs.submit(here.spec("read line < gate"), key="one")
            await here.running(handle)
            await asyncio.to_thread(slurm.stop_controller)
            await asyncio.to_thread((here.folder / "gate").write_text, "go\n")
            status = await here.ended(handle)
            assert (status.state, status.evidence) == ("completed", "exit-code file")
            await asyncio.to_thread(slurm.start_controller)

    async def test_nothing_is_submitted_to_one_that_does_not_answer(self, slurm, tmp_path):
        words = "sbatch: error: Batch job submission failed: Unable to contact slurm controller"
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("sbatch", "squeue", "scontrol"):
            (folder / name).write_text(f"#!/bin/sh\necho '{words}' >&2; exit 1\n")
            (folder / name).chmod(0o755)
        down = {**slurm.environment, "PATH": f"{folder}:{slurm.environment['PATH']}"}
        here = site(tmp_path, "slurm", down)
        with pytest.raises(SchedulerUnavailable, match="Unable to contact"):
            await here.jobs.submit(here.spec("echo ran >> out"), key="one")
        # It is not known what became of it: to say that there is no such job would be a guess.
        with pytest.raises(SchedulerUnavailable):
            await here.jobs.find("one")
        up = site(tmp_path, "slurm", slurm.environment)
        assert await up.jobs.find("one") is None
        assert (await up.run("echo ran >> out", key="one")).state == "completed"
        assert (here.folder / "out").read_text() == "ran\n"

    async def test_the_end_of_a_forgotten_job_is_in_the_job_completion_file(self, tmp_path):
        with running_slurm(forget=2) as slurm:
            here = site(tmp_path, "slurm", slurm.environment)
            # So hard an end that the wrapper leaves no word.
            script = "kill -9 $PPID $$"
            handle = await here.jobs.submit(here.spec(script), key="one")
            deadline = time.monotonic() + PATIENCE
            while slurm.jobs():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.5)
            status = await here.ended(handle)
            assert (status.state, status.evidence) == ("failed", "job-completion file")
            assert "SIGKILL" in status.reason

    async def test_without_any_record_it_is_unknown(self, tmp_path):
        with running_slurm(forget=2) as slurm:
            here = site(tmp_path, "slurm", slurm.environment)
            handle = await here.jobs.submit(here.spec("kill -9 $PPID $$"), key="one")
            deadline = time.monotonic() + PATIENCE
            while slurm.jobs():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.5)
            slurm.completion_file.unlink()
            status = await here.jobs.status(handle)
            assert (status.state, status.evidence) == ("unknown", "none")
            assert "Slurm does not know it any more" in status.reason


class TestFullDisk:
    async def test_where_the_intent_cannot_be_written_nothing_is_submitted(self, here):
        folder = JobFolder.of(here.folder.parent / "jobs", "one")
        folder.make()
        (folder.path / "lock").touch()
        with _no_space(), pytest.raises(StoreError, match="cannot write"):
            await here.jobs.submit(here.spec("echo ran >> out"), key="one")
        assert not (here.folder / "out").exists()
        assert (await here.run("echo ran >> out", key="one")).state == "completed"
        assert (here.folder / "out").read_text() == "ran\n"

    async def test_how_a_job_ended_is_known_all_the_same(self, tmp_path):
        with _small_disk(tmp_path) as disk:
            here = local_site(disk)
            os.mkfifo(here.folder / "gate")
            script = "read line < gate; cat /dev/zero > filler; exit 7"
            handle = await here.jobs.submit(here.spec(script), key="one")
            (here.folder / "gate").write_text("go\n")  # there was room to submit it
            status = await here.ended(handle)
            assert (status.state, status.exit_code) == ("failed", 7)
            assert (here.folder / "filler").stat().st_size > 0


class TestDoubt:
    async def test_who_submits_for_very_long_is_not_overtaken(self, tmp_path):
        folder = JobFolder.of(tmp_path, "one")
        folder.make()
        async with folder.locked():
            with pytest.raises(JobInDoubt, match="another process has been submitting"):
                async with folder.locked(patience=0.1):
                    pass

    async def test_a_program_that_hangs_is_given_up(self, tmp_path):
        from fractale.schedulers.programs import Programs

        _shim(tmp_path, "sleep 300", name="squeue")
        programs = Programs({"PATH": f"{tmp_path / 'bin'}:{SYSTEM}"}, seconds=0.2)
        with pytest.raises(SchedulerUnavailable, match="did not answer within"):
            await programs.run("squeue")

    async def test_a_damaged_record_of_a_job_is_told(self, tmp_path):
        jobs = Jobs(tmp_path, {"PATH": SYSTEM}, "local")
        spec = JobSpec(name="x", folder=tmp_path, command=("true",))
        handle = await jobs.submit(spec, key="one")
        (handle.job_dir / "handle.json").write_text('{"scheduler": "lo')
        with pytest.raises(StoreError, match=r"cannot read .*handle\.json"):
            await jobs.find("one")


def _shim(folder: Path, body: str, name: str = "sbatch") -> str:
    """A PATH on which a program is replaced."""
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return f"{folder / 'bin'}:{SYSTEM}"


def _wait(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


@contextlib.contextmanager
def _no_space():
    """This process can write no byte into files: as on a full disk, but for the word."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@contextlib.contextmanager
def _small_disk(folder: Path):
    """A file system of 2 MB, where this machine lets us mount one."""
    disk = folder / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small disk: {os.strerror(error.errno or errno.EPERM)}")
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
