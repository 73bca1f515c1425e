"""The tools for batch jobs, called as a run calls them."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import forked
from fractale.errors import JobError
from fractale.evidence import exit_code_evidence
from fractale.registry import load_registry
from fractale.tools.jobs import (
    job_cancel,
    job_logs,
    job_record,
    job_status,
    job_submit,
    job_wait,
    queue_info,
)
from slurm import Slurm, running_slurm

REGISTRY = Path(__file__).parents[2] / "registries" / "jobs.yaml"


class Told:
    """Stands where FastMCP gives a tool its context."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    async def report_progress(self, progress, total=None, message=None) -> None:
        self.messages.append(message)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTALE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


async def test_from_submission_to_the_end(tmp_path):
    told = Told()
    job = await job_submit(
        script="#!/bin/sh\necho $WHAT in $PWD\n", env={"WHAT": "work"}, key="a", scheduler="local"
    )
    assert job["scheduler"] == "local"
    again = await job_submit(
        script="#!/bin/sh\necho $WHAT in $PWD\n", env={"WHAT": "work"}, key="a", scheduler="local"
    )
    assert again == job
    ended = await job_wait("a", told, seconds=60)
    assert (ended["state"], ended["over"], ended["exit_code"]) == ("completed", True, 0)
    assert ended["job_id"] == job["job_id"]
    assert told.messages[-1].startswith(f"job {job['job_id']} ended with exit code 0")
    log = await job_logs("a")
    assert (log["text"], log["log_file"]) == (f"work in {tmp_path}\n", job["log_file"])
    assert (await job_status("a"))["evidence"] == "exit-code file"


async def test_a_long_log_shows_both_ends_and_is_searched_whole():
    lines = "i=0; while [ $i -lt 4000 ]; do echo step $i of zwölf; i=$((i+1)); done"
    script = f"#!/bin/sh\necho first\n{lines}\necho ERROR: lost atoms\n{lines}\necho last\n"
    await job_submit(script=script, key="a", scheduler="local")
    await job_wait("a", Told(), seconds=60)
    log = await job_logs("a")
    assert log["text"].startswith("first\nstep 0 of")
    assert log["text"].endswith("zwölf\nlast\n")
    assert (
        f"of {log['size']} bytes are left out here, from offset {log['next_offset']} on]"
        in (log["text"])
    )
    assert "lost atoms" not in log["text"]
    assert (await job_logs("a", offset=log["next_offset"], limit=5))["text"] == "step "

    found = (await job_logs("a", search="^error.*"))["text"].splitlines()
    assert found[0] == "1 matching lines; offset: line"
    offset, _, line = found[1].partition(": ")
    assert line == "ERROR: lost atoms"
    assert (await job_logs("a", offset=int(offset), limit=5))["text"] == "ERROR"
    many = (await job_logs("a", search="zwölf"))["text"].splitlines()
    assert (many[0], len(many)) == ("8000 matching lines; offset: line", 61)
    none = (await job_logs("a", search="Loop time"))["text"]
    assert none == f"nothing in {log['size']} bytes matches"


@pytest.mark.parametrize(("pattern", "why"), [("(", "not a regular expression"), ("", None)])
async def test_a_search_of_a_log_says_what_is_wrong_with_its_pattern(pattern, why):
    await job_submit(command=["echo", "work"], key="a", scheduler="local")
    await job_wait("a", Told(), seconds=60)
    if why is None:  # as models send what they leave out
        assert (await job_logs("a", search=pattern))["text"] == "work\n"
        return
    with pytest.raises(JobError, match=why):
        await job_logs("a", search=pattern)


async def test_a_wait_is_bounded_and_a_job_is_cancelled():
    await job_submit(command=["sleep", "300"], key="a", scheduler="local")
    waited = await job_wait("a", Told(), seconds=0)
    assert (waited["state"], waited["over"]) in (("running", False), ("pending", False))
    assert (await job_cancel("a"))["state"] == "cancelled"


BADLY = {
    "exit code": ({"command": ["sh", "-c", "echo no such atom; exit 3"]}, 3),
    "time limit": ({"command": ["sleep", "300"], "time": 1}, 143),
}


@pytest.mark.parametrize("how", BADLY)
async def test_waiting_for_a_job_that_ends_badly_fails_the_step_with_the_reason(run_plan, how):
    job, code = BADLY[how]
    seen = await run_plan(
        f"""
        name: badly
        steps:
          - name: submit
            tool: job_submit
            inputs: {{{json.dumps(job)[1:-1]}, key: k, scheduler: local}}
          - name: wait
            tool: job_wait
            inputs: {{key: k, seconds: 120}}
            transitions: {{failure: look}}
          - name: look
            tool: job_status
            inputs: {{key: k}}
          - name: cancel
            tool: job_cancel
            inputs: {{key: k}}
        outputs: {{state: "{{{{ steps.look.outputs.state }}}}"}}
        """,
        registries=[REGISTRY],
    )
    assert seen.path == ["submit:success", "wait:failure", "look:success", "cancel:success"]
    assert seen.decided("wait") == "exit_code"
    reason = next(e["reason"] for e in seen.of("step_finished") if e["step"] == "wait")
    told = await job_status("k")
    assert reason == f"exit_code is {code}: job {told['job_id']} {told['reason']}"
    assert ("hit its time limit" in reason) is (how == "time limit")
    assert seen.result.outputs == {"state": told["state"]}


async def test_a_job_that_is_not_over_is_no_failure_of_the_wait():
    await job_submit(command=["sleep", "300"], key="a", scheduler="local")
    waited = await job_wait("a", Told(), seconds=0)
    assert not waited["over"]
    assert exit_code_evidence(waited) is None
    assert exit_code_evidence(await job_cancel("a")) is None


async def test_a_job_of_which_nothing_shows_the_end_fails_the_wait(tmp_path):
    job = await job_submit(command=["true"], key="a", scheduler="local")
    await job_wait("a", Told(), seconds=60)
    folder = Path(job["log_file"]).parent
    for mark in ("ended.*", "minded.*"):
        for path in _marks(folder, mark):
            path.unlink()
    waited = await job_wait("a", Told(), seconds=60)
    assert waited["state"] == "unknown"
    assert "left no exit code" in exit_code_evidence(waited)
    told = await job_status("a")
    assert (told["state"], exit_code_evidence(told)) == ("unknown", None)


def _marks(folder: Path, pattern: str) -> list[Path]:
    """The files that say how a job ended, once they are there."""
    deadline = time.monotonic() + 60
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


async def test_without_a_key_each_is_a_job_of_its_own():
    one = await job_submit(command=["true"], scheduler="local")
    two = await job_submit(command=["true"], scheduler="local")
    assert one["key"] != two["key"]
    for job in (one, two):
        assert (await job_wait(job["key"], Told(), seconds=60))["state"] == "completed"


async def test_a_job_that_nobody_submitted():
    with pytest.raises(Exception, match="no job was submitted with the key `b`"):
        await job_status("b")


async def test_the_queues():
    told = await queue_info("local")
    assert told["scheduler"] == "local"
    assert told["queues"][0]["nodes"] == 1


async def test_a_run_uses_them_by_the_registry(run_plan):
    seen = await run_plan(
        """
        name: jobs
        steps:
          - name: look
            tool: queue_info
            inputs: {scheduler: local}
          - name: submit
            tool: job_submit
            inputs: {command: [echo, done], key: k, scheduler: local}
          - name: wait
            tool: job_wait
            inputs: {key: k, seconds: 60}
          - name: read
            tool: job_logs
            inputs: {key: k}
        outputs: {text: "{{ steps.read.outputs.text }}"}
        """,
        registries=[REGISTRY],
    )
    assert seen.status == "success", seen.result
    assert seen.result.outputs == {"text": "done\n"}


def test_what_servers_are_told_of_them():
    registry = load_registry(REGISTRY)
    told = {Path(entry.path).suffix[1:]: entry.annotations for entry in registry.entries}
    assert told["job_submit"] == {
        "readOnlyHint": False,
        "destructiveHint": False,
        "idempotentHint": False,
    }
    assert told["job_cancel"]["destructiveHint"] is True
    reading = {name for name, hints in told.items() if hints.get("readOnlyHint")}
    assert reading == {"job_wait", "job_status", "job_logs", "job_record", "queue_info"}


RUN = """
        name: long
        steps:
          - name: melt
            job:
              script: |
                echo at work
                while [ ! -e go ]; do sleep 0.05; done
              scheduler: local
        """


async def test_a_job_of_a_run_is_found_by_the_key_that_show_prints_and_by_its_id(tmp_path):
    (tmp_path / "plan.yaml").write_text(textwrap.dedent(RUN))
    done = await asyncio.to_thread(
        forked.run, ["run", "plan.yaml", "--detach", "--json"], cwd=tmp_path
    )
    (waiting,) = json.loads(done.stdout.splitlines()[-1])["waiting"]
    key, job = waiting["handle"]["key"], waiting["job"]
    assert (await job_status(key))["state"] in ("pending", "running")
    assert (await job_status(job))["key"] == key
    assert (await job_logs(key))["log_file"] == f"{waiting['handle']['job_dir']}/log"
    ended = await job_cancel(key)
    assert (ended["state"], ended["over"]) == ("cancelled", True)
    assert (await job_cancel(job))["state"] == "cancelled"


async def test_of_several_jobs_with_one_id_the_key_is_asked_for(tmp_path, monkeypatch):
    one = await job_submit(command=["true"], scheduler="local", key="one")
    other = await job_submit(command=["true"], scheduler="local", key="other")
    handle = tmp_path / "state" / "jobs" / Path(other["log_file"]).parent.name / "handle.json"
    told = json.loads(handle.read_text())
    handle.write_text(json.dumps({**told, "native_id": one["job_id"], "scheduler": "slurm"}))
    with pytest.raises(JobError, match="2 jobs have the id `q1`") as error:
        await job_status("q1")
    assert "one (local)" in str(error.value.hint)
    assert "other (slurm)" in str(error.value.hint)


async def test_an_array_has_a_log_for_each_element():
    await job_submit(
        command=["sh", "-c", "echo at $FRACTALE_INDEX; exit $((FRACTALE_INDEX == 5))"],
        array="1-5:2",
        scheduler="local",
        key="a",
    )
    ended = await job_wait("a", Told(), seconds=60)
    assert (ended["state"], ended["over"]) == ("failed", True)
    assert "2 of 3 completed, 1 failed: element 5" in ended["error"]
    log = await job_logs("a", element=3)
    assert log["text"] == "at 3\n"
    assert log["log_file"].endswith("elements/3/log")
    with pytest.raises(JobError, match="is not an array such as 1-10"):
        await job_submit(command=["true"], array="one", scheduler="local")


async def test_a_record_of_local_jobs_and_of_what_is_no_job():
    job = await job_submit(command=["true"], scheduler="local", key="one")
    await job_wait("one", Told(), seconds=60)
    told = await job_record(job["job_id"], "local")
    assert (told["known"], told["state"], told["job_exit_code"]) == (True, "completed", 0)
    assert await job_record("q77", "local") == {
        "job_id": "q77",
        "scheduler": "local",
        "known": False,
    }
    for wrong in ("--all", "1 2", "1;2", "", "a/b"):
        with pytest.raises(JobError, match="is not the id of a job"):
            await job_record(wrong, "local")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running_slurm() as running:
        yield running


async def test_a_job_that_somebody_else_submitted_to_slurm_is_read(slurm, monkeypatch):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    run = functools.partial(subprocess.run, env=slurm.environment, text=True, check=True)
    words = ["sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap", "exit 3"]
    job = run(words, capture_output=True).stdout.strip()
    waits = await job_record(job, "slurm")
    assert (waits["known"], waits["state"], waits["over"]) == (True, "pending", False)
    assert "is held" in waits["reason"]
    run(["scontrol", "release", job])
    ended = await job_record(job, "slurm")
    while not ended["over"]:
        await asyncio.sleep(0.2)
        ended = await job_record(job, "slurm")
    assert (ended["state"], ended["job_exit_code"]) == ("failed", 3)
    assert ended["evidence"] == "scontrol"
    assert not (await job_record("999999", "slurm"))["known"]
