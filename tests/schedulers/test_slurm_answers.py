"""What Slurm answers, read rightly: programs that say what the real ones were seen to say."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fractale.errors import JobError, SchedulerUnavailable
from fractale.schedulers.adapter import Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.notation import hosts_of
from fractale.schedulers.request import Array
from fractale.schedulers.slurm.jobs import Slurm
from job_parts import Site, site
from stand_ins import write

UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
DATABASE = (
    "echo 'sacct: error: slurm_persist_conn_open_without_init: failed to open persistent "
    "connection to host:127.0.0.1:6819: Connection refused' >&2; "
    "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1"
)
NO_DATABASE = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


def slurm_site(folder: Path, **bodies: str) -> Site:
    """A site whose Slurm says what the shell's texts say; each call is written down."""
    answers = {"sbatch": "echo 4711", "squeue": ":", "scontrol": UNKNOWN, **bodies}
    for name, body in answers.items():
        write(folder / "bin", name, f'echo "{name} $*" >> {folder}/calls\n{body}')
    return site(folder, "slurm", {"PATH": f"{folder}/bin:/usr/bin:/bin"})


def shown(tag: str, **fields: str) -> str:
    facts = {"JobId": "4711", "JobState": "PENDING", "Reason": "None", "Comment": f"fractale:{tag}"}
    return " ".join(f"{name}={value}" for name, value in {**facts, **fields}.items())


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "launch_failed_requeued_held",
            "will not start until it is released (`scontrol release`): its launch failed",
        ),
        ("JobHoldMaxRequeue", "will not start until it is released (`scontrol release`): it was"),
        ("JobHeldAdmin", "is held by an administrator, and will not start until it is released"),
        ("Some_reason_of_a_later_version", "waits for its turn"),
    ],
)
async def test_why_a_job_waits(tmp_path, reason, words):
    here = slurm_site(tmp_path)
    handle = await here.jobs.submit(here.spec("true"), key="one")
    line = shown(JobFolder(handle.job_dir).tag, Reason=reason)
    write(tmp_path / "bin", "scontrol", f"echo '{line}'")
    status = await here.jobs.status(handle)
    assert status.state == "pending"
    assert status.reason.startswith(words)


class TestAccounting:
    async def test_that_does_not_answer_is_no_answer(self, tmp_path):
        here = slurm_site(tmp_path, sacct=DATABASE)
        handle = await here.jobs.submit(here.spec("true"), key="one")
        status = await here.jobs.status(handle)
        assert not status.over
        assert "Slurm's accounting does not answer" in status.reason
        assert "Connection refused" in status.reason

    async def test_that_is_not_there_has_forgotten_the_job(self, tmp_path):
        here = slurm_site(tmp_path, sacct=NO_DATABASE)
        handle = await here.jobs.submit(here.spec("true"), key="one")
        assert (await here.jobs.status(handle)).state == "unknown"

    async def test_hides_nothing_of_the_jobs_that_the_controller_knows(self, tmp_path):
        here = slurm_site(tmp_path, sacct=DATABASE)
        handle = await here.jobs.submit(here.spec("true"), key="one")
        folder = JobFolder(handle.job_dir)
        line = shown(folder.tag, JobState="RUNNING")
        write(tmp_path / "bin", "scontrol", f"echo '{line}'")
        other = Submitted(folder=JobFolder(tmp_path / "other"), native_id="4712")
        asked = [Submitted(folder=folder, native_id="4711"), other]
        known, silent = await Slurm.of(here.environment).records(asked)
        assert known[None].state == "running"
        assert isinstance(silent, SchedulerUnavailable)


class TestClusters:
    async def test_a_job_of_another_cluster_is_asked_for_there(self, tmp_path):
        there = '[ "$1 $2" = "-M other" ]'
        here = slurm_site(tmp_path, sbatch="echo '4711;other'")
        handle = await here.jobs.submit(here.spec("true"), key="one")
        line = shown(JobFolder(handle.job_dir).tag, Reason="Priority")
        write(tmp_path / "bin", "scontrol", f"if {there}; then echo '{line}'; else {UNKNOWN}; fi")
        write(tmp_path / "bin", "scancel", f"{there} && touch {tmp_path}/cancelled")
        assert handle.native_id == "4711"
        assert (await here.jobs.status(handle)).state == "pending"
        await Slurm.of(here.environment).cancel(JobFolder(handle.job_dir), "4711")
        assert (tmp_path / "cancelled").exists()

    @pytest.mark.parametrize("how", ["script", "environment"])
    async def test_it_is_looked_for_on_each_that_was_asked_for(self, tmp_path, how):
        here = slurm_site(tmp_path, sbatch="exit 1")
        if how == "environment":
            here = site(tmp_path, "slurm", {**here.environment, "SLURM_CLUSTERS": "east,west"})
        listed = f'cat {tmp_path}/jobs/*/intent.json | sed \'s/.*"tag": "\\([^"]*\\)".*/\\1/\''
        write(
            tmp_path / "bin",
            "squeue",
            f'[ "$2" = west ] && echo "4711|fractale:$({listed})"; exit 0',
        )
        script = "#SBATCH -M east,west\ntrue" if how == "script" else "true"
        handle = await here.jobs.submit(here.spec(script), key="one")
        assert handle.native_id == "4711"
        assert (handle.job_dir / "cluster").read_text() == "west"


class TestArrays:
    async def test_all_elements_are_read_from_a_few_lines(self, tmp_path):
        here = slurm_site(tmp_path)
        spec = here.spec("true", array=Array.parse("1-1000%50"))
        handle = await here.jobs.submit(spec, key="one")
        assert "--array=1-1000%50" in (tmp_path / "calls").read_text()
        folder = JobFolder(handle.job_dir)
        more = {"ArrayJobId": "4711", "Reason": "JobArrayTaskLimit"}
        lines = [
            shown(folder.tag, **more, ArrayTaskId="3-1000%50"),
            shown(folder.tag, **more, JobId="4712", ArrayTaskId="1", JobState="RUNNING"),
            shown(folder.tag, **more, JobId="4713", ArrayTaskId="2", JobState="FAILED"),
        ]
        write(tmp_path / "bin", "scontrol", "\n".join(f"echo '{line}'" for line in lines))
        asked = Submitted(folder=folder, native_id="4711", indices=tuple(range(1, 1001)))
        began = time.monotonic()
        (found,) = await Slurm.of(here.environment).records([asked])
        assert time.monotonic() - began < 30
        states = [each.state for each in found.values()]
        assert [states.count(each) for each in ("pending", "running", "failed")] == [998, 1, 1]
        assert found[2].state == "failed"

    @pytest.mark.parametrize(
        "script",
        ["#SBATCH -a1-3", "#SBATCH --arr=1-3", "#SBATCH\t-n1 -a1-3", "#SBATCH -n1 -a 1-3"],
    )
    async def test_an_array_whose_indices_nobody_knows_is_not_submitted(self, tmp_path, script):
        # `fractale.jobs` reads them from the script before; an adapter alone refuses.
        here = slurm_site(tmp_path)
        spec = here.spec(f"{script}\ntrue")
        folder = JobFolder(tmp_path / "alone")
        folder.make()
        with pytest.raises(JobError, match="submits more than one job"):
            Slurm.of(here.environment).prepare(folder, spec)

    @pytest.mark.parametrize(
        "line", ["#SBATCH hetjob", "#SBATCH packjob", "#SBATCH --wait", "#SBATCH -n1 -W"]
    )
    async def test_what_a_job_cannot_be_is_refused_with_its_line(self, tmp_path, line):
        here = slurm_site(tmp_path)
        script = f"#SBATCH -n 1\n{line}\n#SBATCH -n 1\ntrue"
        with pytest.raises(JobError, match="line 3 of the script, `"):
            await here.jobs.submit(here.spec(script), key="one")
        assert not (tmp_path / "calls").exists()

    @pytest.mark.parametrize("line", ["#SBATCH -n 1 # -a is not used", '#SBATCH --comment=" -a "'])
    async def test_what_only_looks_like_one_is_submitted(self, tmp_path, line):
        here = slurm_site(tmp_path)
        assert (await here.jobs.submit(here.spec(f"{line}\ntrue"), key="one")).native_id == "4711"


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3,07-08],m7", ("n1", "n2", "n3", "n07", "n08", "m7")),
        ("r[1-2]n[01-02]x", ("r1n01x", "r1n02x", "r2n01x", "r2n02x")),
        ("vm,vm", ("vm",)),
        ("n[a]", ("na",)),
    ],
)
def test_host_lists(text, hosts):
    assert hosts_of(text) == hosts


def test_a_host_list_without_end_is_bounded():
    assert len(hosts_of("n[1-999999999]")) == 100_000
