"""The example plan that cleans up at its end: a service is stopped however the plan ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fractale import Limits, api
from fractale.plan.check import file_problems
from fractale.settings import load_settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "plans" / "examples" / "service-cleanup.yaml"
REGISTRIES = [ROOT / "registries" / name for name in ("jobs.yaml", "demo.yaml")]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the example in an empty directory."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}, tmp_path)

    def run(**options: Any):
        made = api.arun(
            EXAMPLE, keep=True, yes=True, settings=settings, registries=REGISTRIES, **options
        )
        return asyncio.run(made)

    return run


def test_the_example_has_no_problems():
    assert file_problems(EXAMPLE)[1] == []


def test_after_a_success_the_service_is_stopped(run, tmp_path):
    result = run()
    assert result.status == "success"
    assert result.outputs == {"residual": 0.02}
    assert [step["name"] for step in result.steps] == ["service", "solve", "finally/stop"]
    assert not (tmp_path / "failure.txt").exists()
    assert result.notices == []


def test_after_a_failure_a_report_is_written_too(run, tmp_path):
    result = run(inputs={"residual": 0.5})
    assert result.status == "failed"
    assert (tmp_path / "failure.txt").read_text().startswith("step solve: rule `residual >")
    assert [step["name"] for step in result.steps][2:] == ["on_failure/report", "finally/stop"]


def test_at_a_limit_the_service_is_stopped(run, tmp_path):
    result = run(limits=Limits(steps=1))
    assert result.status == "limit"
    assert [step["outcome"] for step in result.steps] == ["success", "success"]
    assert not (tmp_path / "failure.txt").exists()
