"""How a job ended, judged from its own files and from what its scheduler says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractale.jobs import JobStatus
from fractale.jobs.status import JobEvidence
from fractale.schedulers.adapter import JobRecord
from fractale.schedulers.ends import telling_line
from fractale.schedulers.folder import JobFolder

SLURM_LIMIT = (
    "slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026-11-30T07:15:00 DUE TO TIME LIMIT ***"
)
MPI_ABORT = "Abort(1) on node 0 (rank 0 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 1)"


def job(path: Path, *, started: bool = True, ended: str = "", log: str = "", **intent) -> JobFolder:
    """A job's folder as its wrapper leaves it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "intent.json").write_text(json.dumps({"written": time.time(), **intent}))
    if started:
        (path / "started").write_text("id=12\nhost=n1\npid=1\nat=0\nboot=\nticks=\nnodes=n1,n2,\n")
    if started and not ended:
        (path / ".ending").touch()
    if ended:
        (path / f"ended.{ended}").touch()
    (path / "log").write_text(log)
    return JobFolder(path)


def says(state: str, said: str = "", **more) -> JobRecord:
    return JobRecord(state=state, said=said or state.upper(), evidence="scontrol", **more)


def status(folder: JobFolder, record: JobRecord | None) -> JobStatus:
    return JobEvidence(folder, "Slurm", record).status()


# A scheduler's "it went well" against a wrapper that does not say so


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("ago", [None, 1e9, 3600], ids=["no-time", "long-ago", "an-hour-ago"])
def test_success_needs_the_wrappers_own_word(tmp_path, started, ago):
    ended = None if ago is None else time.time() - ago
    folder = job(tmp_path / "a", started=started)
    found = status(folder, says("completed", exit_code=0, ended=ended))
    assert (found.state, found.exit_code, found.evidence) == ("unknown", None, "none")
    assert found.reason.endswith("; Slurm says that it ended (scontrol: COMPLETED)")


def test_an_end_of_just_now_may_not_be_seen_here_yet(tmp_path):
    folder = job(tmp_path / "a")
    found = status(folder, says("completed", exit_code=0, ended=time.time()))
    assert (found.state, found.over) == ("running", False)
    (tmp_path / "a" / "ended.0").touch()
    assert status(folder, says("completed", exit_code=0, ended=time.time())).state == "completed"


def test_what_fractale_cancelled_and_nobody_knows_any_more_was_cancelled(tmp_path):
    folder = job(tmp_path / "a")
    (tmp_path / "a" / "cancelled").touch()
    for record in (None, says("completed", exit_code=0), says("failed", signal=9)):
        found = status(folder, record)
        assert (found.state, found.exit_code) == ("cancelled", None)
        assert "was cancelled on n1, n2 by fractale" in found.reason


def test_an_element_is_cancelled_with_its_array(tmp_path):
    job(tmp_path / "a", started=False)
    (tmp_path / "a" / "cancelled").touch()
    element = JobFolder(tmp_path / "a").element(3)
    job(element.path)
    assert status(element, None).state == "cancelled"


# Exit codes


@pytest.mark.parametrize("code", [1, 7, 72])
def test_a_job_that_never_ran_has_no_exit_code(tmp_path, code):
    found = status(job(tmp_path / "a", started=False), says("failed", exit_code=code))
    assert (found.state, found.exit_code) == ("failed", None)


def test_the_wrappers_own_exit_codes_are_told_as_what_they_mean(tmp_path):
    record = says("failed", exit_code=72, started=time.time(), nodes=("n1",))
    found = status(job(tmp_path / "a", started=False), record)
    assert found.exit_code is None
    assert found.reason.startswith("could not start: the state directory must be on a file system")


@pytest.mark.parametrize(("code", "words"), [(137, "SIGKILL"), (139, "SIGSEGV"), (143, "SIGTERM")])
def test_exit_codes_of_signals_are_named(tmp_path, code, words):
    record = says("failed", exit_code=code, nodes=("n1",))
    assert f"was ended by {words}" in status(job(tmp_path / "a"), record).reason


def test_the_signal_that_ended_a_job_is_said_once(tmp_path):
    found = status(job(tmp_path / "a", ended="143.TERM"), None)
    assert found.reason.count("SIGTERM") == 1
    assert "was ended by SIGTERM (exit code 143)" in found.reason
    found = status(job(tmp_path / "b", ended="3.TERM"), None)
    assert "ended with exit code 3 after SIGTERM was sent to it" in found.reason


def test_all_nodes_are_told_of_a_job_whose_scheduler_was_not_asked(tmp_path):
    assert status(job(tmp_path / "a", ended="0"), None).nodes == ("n1", "n2")


# What decided


@pytest.mark.parametrize(
    "line",
    [
        "srun: error: n1: task 13: Out Of Memory",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=8.batch. Some of the step tasks",
        "slurmstepd: error: JobId=8 StepId=batch exceeded memory limit (300 > 50), being killed",
        "slurmstepd: error: Exceeded job memory limit at some point.",
        "slurmstepd-node1: error: StepId=26.batch exceeded memory limit (300 > 50), being killed",
    ],
)
@pytest.mark.parametrize("record", [says("failed", exit_code=1), None])
def test_memory_is_read_in_the_log_and_the_log_is_named_for_it(tmp_path, line, record):
    folder = job(tmp_path / "a", ended="1", log=f"Step 1\n{line}\nsrun: Terminating job step\n")
    found = status(folder, record)
    assert (found.state, found.evidence) == ("out_of_memory", "log")
    assert "scontrol" not in found.reason
    assert f"(log: {line.replace('(', '').replace(')', '')}" in found.reason
    assert found.reason.endswith(f"last line: {line}")


def test_a_program_that_speaks_of_memory_has_just_failed(tmp_path):
    folder = job(tmp_path / "a", ended="1", log="we ran out of memory for the list\n")
    assert status(folder, says("failed", exit_code=1)).state == "failed"


def test_a_limit_is_read_in_what_the_scheduler_itself_wrote(tmp_path):
    folder = job(tmp_path / "a", ended="143.TERM", log="Step 1\n", time=60)
    (tmp_path / "a" / "scheduler.log").write_text(f"{SLURM_LIMIT}\n")
    found = status(folder, None)
    assert (found.state, found.evidence) == ("timeout", "log")
    assert found.reason.startswith("hit its time limit of 1:00 on n1, n2 (log: slurmstepd: ")
    assert found.reason.endswith("last line: Step 1")


def test_a_limit_of_a_step_in_the_jobs_own_log_is_not_the_jobs(tmp_path):
    line = SLURM_LIMIT.replace("JOB 12", "STEP 12.0")
    found = status(job(tmp_path / "a", ended="1", log=f"{line}\n"), None)
    assert found.state == "failed"


@pytest.mark.parametrize(
    ("asked", "held", "words"),
    [
        (20, 60.0, "hit its time limit of 1:00 (20 s were asked for) on"),
        (60, 60.0, "hit its time limit of 1:00 on"),
        (None, 3600.0, "hit its time limit of 1:00:00 on"),
        (0.5, None, "hit its time limit of 0.5 s on"),
        (None, None, "hit its time limit on"),
    ],
)
def test_the_limit_that_is_told_is_the_schedulers(tmp_path, asked, held, words):
    folder = job(tmp_path / "a", ended="143.TERM", time=asked)
    assert status(folder, says("timeout", time_limit=held)).reason.startswith(words)


def test_a_state_that_is_not_known_is_not_told_as_a_failure(tmp_path):
    found = status(job(tmp_path / "a"), says("unknown", "TELEPORTED"))
    assert found.state == "unknown"
    assert found.reason.startswith("is in a state that fractale does not know (scontrol: TELEP")


# The line that tells why


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("Step 1\nTerminated\n", "Step 1"),
        ("Step 1\n/tmp/x/script: line 3: 4711 Terminated              sleep 100\n", "Step 1"),
        (
            "Step 1\nsrun: Job step aborted: Waiting up to 32 seconds for job step to finish.\n"
            "srun: error: n1: tasks 0-1: Terminated\nsrun: Force Terminated StepId=1.0\n",
            "Step 1",
        ),
        (f"Step 1\n{SLURM_LIMIT}\nsrun: error: n1: task 0: Terminated\n", SLURM_LIMIT),
        (f"{MPI_ABORT}\n" + "".join(f"cleaning up {n}\n" for n in range(6)), MPI_ABORT),
        (f"{MPI_ABORT}\n" + "".join(f"other {n}\n" for n in range(30)), "other 29"),
        ("Terminated\n", "Terminated"),
        ("why\n-----------------\n", "why"),
        ("srun: error: n1: task 0: Exited with exit code 3\n", "srun: error: n1: task 0: Exited"),
    ],
)
def test_the_line_that_is_told_is_the_one_that_tells_why(tmp_path, log, told):
    found = status(job(tmp_path / "a", ended="1", log=log), None)
    assert found.reason.partition("last line: ")[2].startswith(told)
    assert told in found.last_lines


@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=40))
def test_some_line_of_any_log_is_told(lines):
    assert 0 <= telling_line(lines) < len(lines)
