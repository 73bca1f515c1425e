"""Batch jobs: every scheduler that can run here passes the same tests, for real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from fractale.errors import DependencyMissing, JobError, SchedulerUnavailable, StoreError
from fractale.jobs import JobHandle, Jobs, JobSpec, JobStatus
from fractale.schedulers.folder import JobFolder, facts_of, name_of, new_tag
from fractale.schedulers.notation import bytes_of
from job_parts import SOON, Site, local_site, site, until
from slurm import running_slurm


@pytest.fixture(scope="module")
def slurm():
    with running_slurm(gather="linux") as running:
        yield running


@pytest.fixture(params=["local", pytest.param("slurm", marks=pytest.mark.real)])
def here(request, tmp_path) -> Site:
    if request.param == "local":
        return local_site(tmp_path)
    environment = request.getfixturevalue("slurm").environment
    return site(tmp_path, "slurm", environment)


class TestEverywhere:
    async def test_a_command_runs_in_its_folder_with_its_environment(self, here):
        command = ("sh", "-c", 'echo "$GREETING from $PWD" >&2')
        spec = here.spec(command=command, env={"GREETING": 'it\'s "me" $HOME'})
        handle = await here.jobs.submit(spec, key="a key/with: everything")
        status = await here.ended(handle)
        assert (status.state, status.exit_code, status.evidence) == (
            "completed",
            0,
            "exit-code file",
        )
        assert await here.log(handle) == f'it\'s "me" $HOME from {here.folder}\n'
        assert handle.scheduler == here.scheduler
        assert all((status.nodes, status.submitted, status.started, status.ended))
        assert 0 <= status.seconds < 60
        assert status.as_dict()["over"] is True

    async def test_a_script_runs_by_its_own_interpreter(self, here):
        script = "#!/usr/bin/env python3\nimport sys\nprint('I am Python', file=sys.stderr)\n"
        spec = JobSpec(name="a name", folder=here.folder, script=script)
        handle = await here.jobs.submit(spec, key="py")
        assert (await here.ended(handle)).state == "completed"
        assert await here.log(handle) == "I am Python\n"

    async def test_an_exit_code_is_told_with_the_last_line(self, here):
        status = await here.run("echo first; echo 'no such atom'; exit 3")
        assert (status.state, status.exit_code) == ("failed", 3)
        assert status.reason.startswith("ended with exit code 3 on ")
        assert status.reason.endswith("(exit-code file); last line: no such atom")
        assert status.last_lines == "first\nno such atom"

    async def test_a_signal_is_told_by_its_name(self, here):
        status = await here.run("kill -SEGV $$")
        assert (status.state, status.exit_code) == ("failed", 139)
        assert "was ended by SIGSEGV (exit code 139)" in status.reason

    async def test_a_program_that_is_not_there(self, here):
        status = await here.run(command=("no-such-program",))
        assert (status.state, status.exit_code) == ("failed", 127)
        assert "the program was not found" in status.reason

    async def test_the_same_key_is_the_same_job(self, here):
        spec = here.spec("echo once >> ran; sleep 1")
        first = await here.jobs.submit(spec, key="one")
        assert await here.jobs.submit(spec, key="one") == first
        assert await here.jobs.find("one") == first
        await here.ended(first)
        assert await here.jobs.submit(spec, key="one") == first
        assert (here.folder / "ran").read_text() == "once\n"

    async def test_many_who_submit_one_job_at_once_get_one(self, here):
        spec = here.spec("echo once >> ran")
        handles = await asyncio.gather(*(here.jobs.submit(spec, key="one") for _ in range(8)))
        assert len({handle.native_id for handle in handles}) == 1
        await here.ended(handles[0])
        assert (here.folder / "ran").read_text() == "once\n"

    async def test_a_key_is_for_one_job_only(self, here):
        await here.run("true", key="one")
        with pytest.raises(JobError, match="another job, `test`, was submitted with this key"):
            await here.jobs.submit(here.spec("false"), key="one")

    async def test_a_job_nobody_submitted_is_not_found(self, here):
        assert await here.jobs.find("never") is None
        assert not JobFolder.of(here.folder.parent / "jobs", "never").path.exists()

    async def test_another_process_knows_the_job_by_its_handle(self, here):
        handle = await here.jobs.submit(here.spec("exit 4"), key="one")
        again = JobHandle.from_dict(handle.as_dict())
        assert again == handle
        other = Jobs(Path("/nowhere"), here.environment)
        status = await other.wait(again, timeout=60, intervals=SOON)
        assert (status.state, status.exit_code) == ("failed", 4)

    async def test_cancelling_ends_it_and_says_who_did(self, here):
        handle = await here.jobs.submit(here.spec("echo begun; sleep 300"), key="one")
        await here.running(handle)
        await here.jobs.cancel(handle)
        status = await here.ended(handle)
        assert status.state == "cancelled"
        assert "by fractale" in status.reason
        assert "not by" not in status.reason
        assert await here.jobs.cancel(handle) == status

    async def test_cancelling_what_is_over_changes_nothing(self, here):
        handle = await here.jobs.submit(here.spec("true"), key="one")
        await here.ended(handle)
        # By its own files, as the next one: the first look may have come before them.
        status = await here.jobs.status(handle)
        assert await here.jobs.cancel(handle) == status
        assert not (handle.job_dir / "cancelled").exists()

    async def test_waiting_has_an_end_and_tells_each_change(self, here):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        told: list[JobStatus] = []

        async def tell(status: JobStatus) -> None:
            told.append(status)

        await here.running(handle)
        status = await here.jobs.wait(handle, timeout=0.5, on_status=tell, intervals=(0.1,))
        assert not status.over
        assert len(told) == len({(each.state, each.reason) for each in told})
        await here.jobs.cancel(handle)
        assert (await here.ended(handle)).state == "cancelled"

    async def test_what_the_job_is_told_of_itself(self, here):
        handle = await here.jobs.submit(
            here.spec("echo $FRACTALE_JOB_NAME $FRACTALE_JOB_TASKS", tasks=2), key="one"
        )
        await here.ended(handle)
        assert await here.log(handle) == "test 2\n"

    async def test_an_epilogue_runs_when_the_evidence_is_there(self, here):
        spec = here.spec("exit 3", epilogue=("sh", "-c", "ls ended.*"))
        handle = await here.jobs.submit(spec, key="one")
        await here.ended(handle)
        await until(lambda: (handle.job_dir / "epilogue.log").read_text() == "ended.3\n")

    async def test_a_job_of_neither_or_both_is_refused(self, here):
        for wrong in (here.spec(), here.spec("true", command=("true",))):
            with pytest.raises(JobError, match="either a script or a command"):
                await here.jobs.submit(wrong, key="one")
        with pytest.raises(JobError, match="not a valid name of an environment variable"):
            await here.jobs.submit(here.spec("true", env={"A B": "c"}), key="one")
        # Nothing of it is left: the key is free.
        assert (await here.run("true", key="one")).state == "completed"

    async def test_the_queues(self, here):
        queues = await here.jobs.queues()
        assert [queue.name for queue in queues if queue.default] == [
            "debug" if here.scheduler == "slurm" else "local"
        ]
        assert all((queues[0].cores_per_node, queues[0].memory))
        assert queues[0].nodes == 1

    async def test_a_job_whose_working_folder_is_not_there(self, here):
        status = await here.run("true", folder=here.folder / "absent")
        assert status.state == "failed"
        assert "absent" in status.last_lines


class TestLogs:
    async def test_a_log_is_read_in_parts(self, here):
        handle = await here.jobs.submit(
            here.spec("printf 'one\\ntwo\\nzw\\303\\266lf\\n'"), key="k"
        )
        assert (await here.jobs.logs(handle)).offset == 0
        await here.ended(handle)
        first = await here.jobs.logs(handle, limit=5)
        assert (first.text, first.next_offset, first.size) == ("one\nt", 5, 15)
        rest = await here.jobs.logs(handle, offset=first.next_offset)
        assert rest.text == "wo\nzwölf\n"
        assert (await here.jobs.logs(handle, offset=-3)).text == "lf\n"
        assert (await here.jobs.logs(handle, tail_lines=1)).text == "zwölf\n"
        assert (await here.jobs.logs(handle, offset=99)).text == ""

    async def test_a_character_is_never_cut(self, here):
        handle = await here.jobs.submit(here.spec("printf '\\303\\266\\342\\202\\254x'"), key="k")
        await here.ended(handle)
        text, offset = "", 0
        for _ in range(10):
            part = await here.jobs.logs(handle, offset=offset, limit=4)
            text, offset = text + part.text, part.next_offset
        assert text == "ö€x"

    async def test_a_log_of_100_megabytes_is_not_loaded(self, here):
        # Written quickly: a sparse file would do, but this is what a job does.
        script = "yes 0123456789abcde | head -c 104857600; echo last words; exit 1"
        handle = await here.jobs.submit(here.spec(script), key="big")
        status = await here.ended(handle)
        assert status.last_lines.endswith("last words")
        tail = await here.jobs.logs(handle, tail_lines=2)
        assert tail.size == 104857600 + len("last words\n")
        assert tail.text == "0123456789abcde\nlast words\n"
        assert len((await here.jobs.logs(handle, limit=10**9)).text) == 2**20

    async def test_a_running_job_has_a_log(self, here):
        handle = await here.jobs.submit(here.spec("echo so far; sleep 300"), key="k")
        await until(lambda: "so far" in JobFolder(handle.job_dir).text("log"))
        await here.jobs.cancel(handle)


class TestLocal:
    @pytest.fixture
    def here(self, tmp_path) -> Site:
        return local_site(tmp_path)

    async def test_a_time_limit(self, here):
        status = await here.run("echo on it; sleep 300", time=0.5)
        assert status.state == "timeout"
        assert status.reason.startswith("hit its time limit of 0.5 s on ")

    async def test_a_job_that_ignores_being_asked_is_ended_all_the_same(self, here):
        status = await here.run("trap '' TERM; echo no; while :; do sleep 1; done", time=0.5)
        assert status.state == "timeout"

    async def test_memory(self, here):
        words = ("python3", "-c", "x = bytearray(300 << 20); import time; time.sleep(300)")
        status = await here.run(command=words, memory="100M")
        assert status.state == "out_of_memory"
        assert "(it may have 100M)" in status.reason

    async def test_ended_from_outside(self, here):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        await here.running(handle)
        os.kill(_minder(handle), signal.SIGTERM)
        status = await here.ended(handle)
        assert status.state == "cancelled"
        assert "not by fractale" in status.reason

    async def test_without_its_minder_the_wrapper_still_tells(self, here):
        os.mkfifo(here.folder / "gate")
        handle = await here.jobs.submit(here.spec("read line < gate; exit 5"), key="one")
        await here.running(handle)
        os.kill(_minder(handle), signal.SIGKILL)
        assert (await here.jobs.status(handle)).state == "running"
        (here.folder / "gate").write_text("go\n")
        status = await here.ended(handle)
        assert (status.state, status.exit_code, status.evidence) == ("failed", 5, "exit-code file")

    @pytest.mark.parametrize(
        "script", ["sleep 300", "trap '' TERM; while :; do sleep 1; done"], ids=["soft", "hard"]
    )
    async def test_without_its_minder_it_can_still_be_cancelled(self, here, script):
        handle = await here.jobs.submit(here.spec(script), key="one")
        await here.running(handle)
        wrapper = JobFolder(handle.job_dir).started()
        os.kill(_minder(handle), signal.SIGKILL)
        status = await here.jobs.cancel(handle)
        assert status.state == "cancelled"
        assert "not by fractale" not in status.reason
        await until(lambda: not _living(wrapper.pid))

    async def test_gone_without_a_trace_is_unknown(self, here):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        await here.running(handle)
        wrapper = JobFolder(handle.job_dir).started()
        os.kill(_minder(handle), signal.SIGKILL)
        os.killpg(wrapper.pid, signal.SIGKILL)
        status = await here.ended(handle)
        assert (status.state, status.evidence, status.exit_code) == ("unknown", "none", None)
        assert "left no exit code, and is gone" in status.reason

    async def test_nothing_of_a_job_is_left_behind(self, here):
        handle = await here.jobs.submit(here.spec("sleep 300 & echo $! > child"), key="one")
        assert (await here.ended(handle)).state == "completed"
        child = int((here.folder / "child").read_text())
        await until(lambda: not _is_there(child))

    async def test_after_a_restart_of_the_machine_a_job_is_lost_with_it(self, here):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        minder = handle.job_dir / "minder"
        facts = minder.read_text()
        minder.write_text(
            "\n".join(
                "boot=another" if line.startswith("boot") else line for line in facts.splitlines()
            )
        )
        status = await here.jobs.status(handle)
        assert (status.state, status.evidence) == ("node_failure", "boot id")
        minder.write_text(facts)
        await here.jobs.cancel(handle)

    async def test_of_another_machine_nothing_is_claimed(self, here):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        await here.running(handle)
        minder = handle.job_dir / "minder"
        facts = minder.read_text()
        minder.write_text(facts.replace("host=", "host=another-"))
        status = await here.jobs.status(handle)
        assert (status.state, status.over) == ("running", False)
        assert "cannot reach from this machine" in status.reason
        minder.write_text(facts)
        await here.jobs.cancel(handle)

    async def test_one_machine_is_one_node(self, here):
        with pytest.raises(JobError, match="asks for 2 nodes"):
            await here.jobs.submit(here.spec("true", nodes=2), key="one")

    async def test_a_state_folder_that_cannot_be_written(self, here, tmp_path):
        (tmp_path / "file").write_text("")
        jobs = Jobs(tmp_path / "file", here.environment, "local")
        with pytest.raises(StoreError, match=r"cannot (write|read)"):
            await jobs.submit(here.spec("true"), key="one")


class TestSlurm:
    @pytest.fixture
    def here(self, slurm, tmp_path) -> Site:
        return site(tmp_path, "slurm", slurm.environment)

    async def test_what_a_script_asks_for_counts_where_nothing_else_is_said(self, here, slurm):
        script = "#SBATCH --partition=short\n#SBATCH --ntasks=3\n#SBATCH --job-name=mine\nsleep 300"
        handle = await here.jobs.submit(here.spec(script, tasks=2, memory="64M"), key="one")
        job = slurm.job(handle.native_id)
        assert (job["Partition"], job["NumTasks"], job["JobName"]) == ("short", "2", "test")
        assert job["MinMemoryNode"] == "64M"
        await here.jobs.cancel(handle)

    async def test_a_refused_job_is_told_in_slurms_words(self, here):
        with pytest.raises(JobError, match="Invalid partition name") as caught:
            await here.jobs.submit(here.spec("true", queue="absent"), key="one")
        assert not isinstance(caught.value, SchedulerUnavailable)
        # The key is free for what will be right.
        assert (await here.run("true", key="one")).state == "completed"

    async def test_an_array_of_the_script_is_an_array(self, here):
        status = await here.run("#SBATCH -a1-4%2\nexit $((SLURM_ARRAY_TASK_ID == 3))")
        assert status.reason == "3 of 4 completed, 1 failed: element 3"

    @pytest.mark.parametrize("line", ["#SBATCH -a1-3", "#SBATCH --arr=1-3"])
    async def test_the_array_of_a_script_is_one(self, here, line):
        handle = await here.jobs.submit(here.spec(f"{line}\necho $FRACTALE_INDEX"), key="one")
        assert (await here.ended(handle)).state == "completed"
        elements = await here.jobs.elements(handle)
        assert {index: each.state for index, each in elements.items()} == dict.fromkeys(
            (1, 2, 3), "completed"
        )

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"queue": "closed"}, "as long as its partition is down"),
            ({"queue": "short", "time": 600}, "more time than its partition allows"),
        ],
    )
    async def test_why_a_job_never_starts(self, here, more, words):
        handle = await here.jobs.submit(here.spec("true", **more), key="one")
        status = await here.until(handle, lambda status: words in status.reason)
        assert (status.state, status.over, status.evidence) == ("pending", False, "scontrol")
        ended = await here.jobs.cancel(handle)
        assert (ended.state, ended.exit_code, ended.started) == ("cancelled", None, None)

    async def test_a_time_limit(self, here, slurm):
        handle = await here.jobs.submit(here.spec("echo on it; sleep 300", time=50), key="one")
        await here.running(handle)
        # Slurm's limits are whole minutes; this one is over at once.
        slurm.run("scontrol", "update", f"jobid={handle.native_id}", "EndTime=now+1")
        status = await here.ended(handle)
        assert (status.state, status.evidence) == ("timeout", "scontrol")
        assert status.reason.startswith("hit its time limit of 1:00 (50 s were asked for) on node1")

    async def test_memory(self, here):
        words = ("python3", "-c", "x = bytearray(300 << 20); import time; time.sleep(300)")
        status = await here.run(command=words, memory="50M")
        assert status.state == "out_of_memory"
        assert "ran out of memory (it may have 50M) on node1" in status.reason

    async def test_cancelled_from_outside(self, here, slurm):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        await here.running(handle)
        slurm.run("scancel", handle.native_id)
        status = await here.ended(handle)
        assert (status.state, status.evidence) == ("cancelled", "scontrol")
        assert "not by fractale" in status.reason

    async def test_a_lost_node(self, here, slurm):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        await here.running(handle)
        slurm.run("scontrol", "update", "nodename=node1", "state=down", "reason=test")
        try:
            status = await here.ended(handle)
        finally:
            # It may be back already by itself.
            slurm.run("scontrol", "update", "nodename=node1", "state=resume", check=False)
            slurm.wait_idle()
        assert (status.state, status.evidence) == ("node_failure", "scontrol")
        assert "was lost with its node on node1" in status.reason

    async def test_a_job_of_a_slurm_that_was_set_up_anew_is_not_taken_for_ours(self, here):
        handle = await here.jobs.submit(here.spec("sleep 300"), key="one")
        other = await here.jobs.submit(here.spec("sleep 300"), key="two")
        mixed = JobHandle.from_dict({**handle.as_dict(), "native_id": other.native_id})
        status = await here.jobs.status(mixed)
        assert status.state in ("unknown", "pending", "running")
        assert "Slurm does not know it any more" in status.reason
        for each in (handle, other):
            await here.jobs.cancel(each)


class TestFinding:
    def test_without_any_scheduler_it_is_this_machine(self, tmp_path):
        assert Jobs(tmp_path, {"PATH": str(tmp_path)}).scheduler == "local"

    def test_flux_comes_first_only_inside_an_instance(self, tmp_path):
        for name in ("flux", "sbatch", "scontrol", "squeue"):
            (tmp_path / name).write_text("#!/bin/sh\necho UP\n")
            (tmp_path / name).chmod(0o755)
        path = {"PATH": str(tmp_path)}
        assert Jobs(tmp_path, path).scheduler == "slurm"
        assert Jobs(tmp_path, {**path, "FLUX_URI": "local:///run/flux/local"}).scheduler == "flux"
        (tmp_path / "sbatch").unlink()
        assert Jobs(tmp_path, path).scheduler == "flux"

    def test_a_scheduler_that_is_not_there(self, tmp_path):
        with pytest.raises(DependencyMissing, match="LSF was not found on this machine"):
            _ = Jobs(tmp_path, {"PATH": str(tmp_path)}, "lsf").scheduler
        with pytest.raises(JobError, match="`cobalt` is not a scheduler"):
            _ = Jobs(tmp_path, {"PATH": str(tmp_path)}, "cobalt").scheduler

    def test_a_tag_fits_every_scheduler_and_is_one_jobs_only(self):
        assert len(name_of("x" * 1000)) == len(new_tag("x" * 1000)) == 15
        assert name_of("a") == name_of("a") != name_of("b")
        assert new_tag("a") != new_tag("a")

    def test_sizes(self):
        assert bytes_of("4G") == bytes_of("4 GiB") == bytes_of("4096") == 4 * 2**30
        with pytest.raises(JobError, match="not an amount of memory"):
            bytes_of("much")

    def test_a_damaged_handle(self):
        with pytest.raises(ValueError, match="a job's handle has"):
            JobHandle.from_dict({"scheduler": "local", "native_id": 7})


def _minder(handle: JobHandle) -> int:
    return int(facts_of((handle.job_dir / "minder").read_text())["id"])


def _living(session: int) -> list[str]:
    """What is left of a session: its processes' states, without those that only wait for a word."""
    stats: list[list[str]] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats.append(path.read_text().rpartition(")")[2].split())
    return [state for state, _, _, group, *_ in stats if group == str(session) and state != "Z"]


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
