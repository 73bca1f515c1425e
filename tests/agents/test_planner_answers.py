"""Drafts that chat models wrote for five tasks, as they wrote them: each is usable at once.

`planner_answers.json` has the answers of large models to what the planner sent for the tasks of
`tests/support/planner_site.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from langchain_core.messages import BaseMessage

from fractale.agents.draft_catalog import DraftCatalog
from fractale.agents.planner import task_messages
from fractale.testing import Reply, ScriptedModel
from planner_site import TASKS, Site

ANSWERS: dict[str, Any] = json.loads(
    Path(__file__).with_name("planner_answers.json").read_text(encoding="utf-8")
)


def planner(draft: Any) -> ScriptedModel:
    def answer(messages: Sequence[BaseMessage]) -> Reply:
        if messages[-1].text != "Write the steps.":
            return Reply(text="nothing to find out")
        return Reply(data=draft)

    return ScriptedModel(answer)


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def run(run_plan, site):
    async def drafted(task: str, **keywords: Any):
        plan = {"name": "p", "steps": [{"name": "do", "type": "plan", "instruction": TASKS[task]}],
                "outputs": {"all": "{{ steps.do.outputs }}"}}  # fmt: skip
        tools, model = site.served(), planner(ANSWERS[task])
        seen = await run_plan(
            json.dumps(plan, indent=1), tools=tools, model=model, yes=True, **keywords
        )
        drafts = [each for each in model.requests if each[-1].text == "Write the steps."]
        assert len(drafts) == 1, seen.of("warning")
        return seen, [(call.name, dict(call.arguments)) for call in tools.calls]

    return drafted


@pytest.mark.parametrize("task", TASKS)
async def test_it_is_accepted_as_it_is(site, task):
    catalog = DraftCatalog(tools=await site.served().tools())
    assert Draft202012Validator(catalog.schema()).is_valid(ANSWERS[task])
    catalog.read("do", ANSWERS[task])
    assert TASKS[task] in task_messages(TASKS[task], {}, catalog)[1].text


async def test_a_person_chooses_among_what_a_tool_lists(run):
    seen, calls = await run("queue", answers={"do/choose": "long"})
    assert seen.status == "success", seen.result.error
    assert calls == [
        ("queues", {}),
        ("submit", {"queue": "long", "command": "bash relax.sh", "nodes": 2}),
    ]
    assert seen.outputs["all"] == {"queue": "long", "job_id": "long-2"}


async def test_yes_does_not_choose_for_the_person(run):
    seen, calls = await run("queue")
    assert (seen.status, calls) == ("waiting", [("queues", {})])
    assert seen.result.waiting[0]["choices"] == ["debug", "batch", "long"]


async def test_each_item_has_its_own_steps(run):
    seen, calls = await run("samples")
    assert seen.status == "success", seen.result.error
    assert seen.outputs["all"] == {"matrix": "/data/matrix.tsv"}
    assert calls[-1] == (
        "gather", {"files": [f"/data/run7/s{n}.hg38.sorted.bam" for n in (1, 2, 3)]}
    )  # fmt: skip
    assert sorted(name for name, _ in calls[1:-1]) == ["align"] * 3 + ["sort_bam"] * 3


async def test_a_service_is_waited_for(run):
    seen, calls = await run("service")
    assert seen.status == "success", seen.result.error
    assert seen.outputs["all"] == {"requests_per_second": 812.5}
    assert [name for name, _ in calls] == ["service_start", "service_state", "benchmark"]


@pytest.mark.parametrize("task", ["service", "cleanup"])
async def test_a_service_that_never_gets_ready_is_a_failure(run, site, task):
    site.state = "failed"
    seen, calls = await run(task)
    assert seen.status == "failed"
    assert "no rule for `success` is true: `state == 'ready'`" in seen.result.error
    assert "benchmark" not in dict(calls)


@pytest.mark.parametrize("broken", [False, True])
async def test_a_service_is_stopped_whatever_happens(run, site, broken):
    site.broken = broken
    seen, calls = await run("cleanup")
    assert seen.status == ("failed" if broken else "success")
    told = [given["text"] for name, given in calls if name == "notify"]
    assert len(told) == broken
    assert all("bench" in text and "connection refused" in text for text in told)
    assert calls[-1] == ("service_stop", {"id": "vectors-1"})


async def test_a_table_grows_until_it_is_enough(run):
    seen, calls = await run("scaling")
    assert seen.status == "success", seen.result.error
    assert [given["nodes"] for _, given in calls] == [1, 2, 4, 8]
    seconds = [80.0, 42.0, 24.0, 20.0]
    assert seen.outputs["all"]["table"] == [
        {"nodes": 2**n, "seconds": each} for n, each in enumerate(seconds)
    ]
