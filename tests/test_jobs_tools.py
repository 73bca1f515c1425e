"""The tools for batch jobs, called as a run calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fractale.registry import load_registry
from fractale.tools.jobs import (
    job_cancel,
    job_logs,
    job_status,
    job_submit,
    job_wait,
    queue_info,
)

REGISTRY = Path(__file__).parents[1] / "registries" / "jobs.yaml"


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


async def test_a_wait_is_bounded_and_a_job_is_cancelled():
    await job_submit(command=["sleep", "300"], key="a", scheduler="local")
    waited = await job_wait("a", Told(), seconds=0)
    assert (waited["state"], waited["over"]) in (("running", False), ("pending", False))
    assert (await job_cancel("a"))["state"] == "cancelled"


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
    assert reading == {"job_wait", "job_status", "job_logs", "queue_info"}
