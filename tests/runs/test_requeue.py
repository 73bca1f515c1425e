"""The batch script of the documentation on a real Slurm: a run outlives its job's time limit."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fractale.store.index import list_runs
from slurm import running_slurm

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "requeue.sbatch"
FULL = bool(os.environ.get("FRACTALE_FAULTS"))
TOOLS = '''
import os, time

def change(what: str) -> dict:
    """Change something."""
    job, life = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    with open("changes.txt", "a") as file:
        file.write(f"{what} {job} {life}\\n")
    while os.path.exists("hold-" + what):
        time.sleep(0.05)
    return {"changed": what}
'''
PLAN = """
name: p
steps:
  - {name: one, tool: change, inputs: {what: one}}
  - {name: two, tool: change, inputs: {what: two}}
  - {name: three, tool: change, inputs: {what: three}}
"""


@pytest.fixture(scope="module")
def slurm():
    with running_slurm(credentials=5) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_tools.py").write_text(TOOLS)
    (tmp_path / "tools.yaml").write_text("tools: [{path: my_tools.change}]\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def submit(slurm, folder: Path, *options: str) -> str:
    """Submit the script; returns the job's number."""
    path = f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"
    said = slurm.run(
        "env",
        f"PATH={path}",
        "sbatch",
        "--parsable",
        f"--chdir={folder}",
        f"--output={folder}/log.txt",
        *options,
        str(SCRIPT),
        "plan.yaml",
        "-r",
        "tools.yaml",
    )
    return said.strip()


def changes(folder: Path) -> list[list[str]]:
    path = folder / "changes.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def log_of(folder: Path) -> str:
    path = folder / "log.txt"
    return path.read_text() if path.exists() else "it never began"


def wait_until(condition: Callable[[], bool], folder: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, log_of(folder)
        time.sleep(0.1)


def came_to_its_end(slurm, folder: Path, job: str) -> None:
    """Whether the run began in the job, and ended in the job's second life."""
    wait_until(lambda: slurm.job(job)["Restarts"] == "1", folder)
    wait_until(lambda: slurm.job(job)["JobState"] == "COMPLETED", folder, 300)
    assert changes(folder) == [["one", job, "0"], ["two", job, "0"], ["three", job, "1"]]
    (row,) = list_runs(folder / ".fractale")
    assert (row.id, row.status) == (f"job-{job}", "success")


def test_a_run_is_requeued_at_the_end_of_its_step_and_goes_on(slurm, folder):
    (folder / "hold-two").touch()
    job = submit(slurm, folder)
    wait_until(lambda: len(changes(folder)) == 2, folder)
    # As Slurm sends it before the time limit, to the script alone.
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_until(lambda: "before the time limit" in log_of(folder), folder)
    (folder / "hold-two").unlink()
    came_to_its_end(slurm, folder, job)


@pytest.mark.skipif(not FULL, reason="minutes: `make test-faults`")
def test_slurm_sends_the_signal_itself_before_the_time_limit(slurm, folder):
    (folder / "hold-two").touch()
    job = submit(slurm, folder, "--time=2", "--signal=B:USR1@60")
    wait_until(lambda: len(changes(folder)) == 2, folder)
    wait_until(lambda: "before the time limit" in log_of(folder), folder)
    (folder / "hold-two").unlink()
    came_to_its_end(slurm, folder, job)


def test_a_run_that_fails_is_not_requeued(slurm, folder):
    text = (folder / "plan.yaml").read_text()
    (folder / "plan.yaml").write_text(text.replace("what: two", "nothing: two"))
    job = submit(slurm, folder)
    wait_until(lambda: slurm.job(job)["JobState"] == "FAILED", folder)
    assert slurm.job(job)["ExitCode"] in ("1:0", "3:0")
    assert slurm.job(job)["Restarts"] == "0"


def test_a_job_that_is_cancelled_leaves_a_run_that_goes_on(slurm, folder):
    (folder / "hold-two").touch()
    job = submit(slurm, folder)
    wait_until(lambda: len(changes(folder)) == 2, folder)
    slurm.run("scancel", "--batch", "--signal=TERM", job)
    wait_until(lambda: "stopping on request" in log_of(folder), folder)
    (folder / "hold-two").unlink()
    wait_until(lambda: slurm.job(job)["JobState"] == "FAILED", folder)
    assert slurm.job(job)["ExitCode"] == "75:0"
    (row,) = list_runs(folder / ".fractale")
    assert row.status == "stopped"
    assert [what for what, *_ in changes(folder)] == ["one", "two"]
