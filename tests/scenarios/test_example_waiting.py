"""The example plans that wait, poll and try again: real batch jobs of the local scheduler."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from fractale import api
from fractale.events import Event
from fractale.plan.check import file_problems
from fractale.settings import load_settings

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "plans" / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run an example in an empty directory, and see its events."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, **options):
        events: list[Event] = []
        settings = load_settings(
            {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}, tmp_path
        )
        result = asyncio.run(
            api.arun(
                EXAMPLES / name,
                options.pop("inputs", None),
                settings=settings,
                keep=True,
                yes=True,
                on_event=events.append,
                **options,
            )
        )
        return result, events

    return run


@pytest.mark.parametrize("name", ["service-job.yaml", "license-retry.yaml"])
def test_the_examples_have_no_problems(name):
    plan, problems = file_problems(EXAMPLES / name)
    assert plan is not None
    assert not problems


def test_a_service_is_waited_for_used_and_ended(run):
    result, events = run("service-job.yaml", registries=[ROOT / "registries" / "jobs.yaml"])
    assert result.ok, result.error
    assert result.outputs["said"].endswith("listening on port 8000")
    assert result.outputs["state"] == "running"
    assert [step["name"] for step in result.steps] == [
        "start",
        "listening",
        "settle",
        "look",
        "end",
    ]
    waits = [e.data["step"] for e in events if e.kind == "timer"]
    assert waits[-1] == "settle"
    assert "listening" in waits


def test_a_job_that_gets_no_license_is_submitted_again(run, tmp_path):
    result, events = run("license-retry.yaml")
    assert result.ok, result.error
    assert result.outputs == {"energy": -13.6}
    assert (tmp_path / "requests.txt").read_text() == "request\n" * 3
    assert [step["attempt"] for step in result.steps] == [1]
    jobs = {e.data["handle"]["key"] for e in events if e.kind == "job_state"}
    assert len(jobs) == 3
    assert (
        json.dumps([e.data["code"] for e in events if e.kind == "warning"]) == '["retry", "retry"]'
    )
