"""An element of an array is judged by its own evidence, and by nobody else's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fractale.jobs.arrays import Elements
from fractale.jobs.polling import PollAnswer
from fractale.jobs.status import status_of
from fractale.schedulers.adapter import JobRecord, Submitted
from fractale.schedulers.folder import JobFolder
from fractale.schedulers.request import Array

PENDING = JobRecord(state="pending", evidence="scontrol", said="Resources")


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    (tmp_path / "job" / "elements").mkdir(parents=True)
    return JobFolder(tmp_path / "job")


def begin(path: Path, nodes: str = "") -> None:
    path.mkdir(exist_ok=True)
    (path / "started").write_text(f"id=7_1\nhost=n1\npid=1\nat={time.time():.0f}\nnodes={nodes}\n")


async def test_an_element_that_ends_during_the_question_says_nothing_of_the_others(folder):
    async def ask(job: Submitted) -> PollAnswer:
        own = folder.element(job.indices[0]).path
        begin(own)
        (own / "ended.0").touch()
        return PollAnswer(records=dict.fromkeys(job.indices, PENDING), at=time.time())

    found = await Elements(folder, "7", "Slurm", Array.parse("1-5")).look(ask)
    assert [status.state for status in found.values()] == ["completed", *["pending"] * 4]


async def test_an_element_that_begins_during_the_question_does_not_begin_the_others(folder):
    async def ask(job: Submitted) -> PollAnswer:
        begin(folder.element(job.indices[0]).path)
        return PollAnswer(records=dict.fromkeys(job.indices, PENDING), at=time.time() - 1)

    found = await Elements(folder, "7", "Slurm", Array.parse("1-4")).look(ask)
    assert [status.state for status in found.values()] == ["running", *["pending"] * 3]


async def test_a_job_that_a_signal_ended_waits_for_a_scheduler_that_does_not_answer(folder):
    begin(folder.path)
    end = folder.path / "ended.143"
    end.touch()

    async def ask(job: Submitted) -> PollAnswer:
        del job
        return PollAnswer(trouble="its accounting does not answer", at=time.time())

    status = await status_of(folder, "7", "Slurm", ask)
    assert (status.state, status.over) == ("running", False)
    assert status.reason == (
        "was ended by SIGTERM (exit code 143); the reason is unknown until Slurm answers: "
        "its accounting does not answer"
    )
    long_ago = time.time() - 2 * 86_400
    os.utime(end, (long_ago, long_ago))
    assert (await status_of(folder, "7", "Slurm", ask)).state in ("failed", "cancelled")


async def test_all_nodes_are_told_while_it_runs(folder):
    begin(folder.path, nodes="n[1-2]")

    async def ask(job: Submitted) -> PollAnswer:
        del job
        return PollAnswer()

    status = await status_of(folder, "7", "Slurm", ask)
    assert status.nodes == ("n1", "n2")
    assert status.reason == "runs on n1, n2"
