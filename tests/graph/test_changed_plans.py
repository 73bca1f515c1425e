"""Going on with a run whose plan, tools or software changed: what is refused, and what is told."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fractale.errors import UsageError
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.model import Limits
from fractale.runs import RunOptions, Runs
from fractale.runs.changes import plan_changes
from fractale.settings import Settings
from fractale.testing import FakeToolServer

PLAN = """
name: p
description: What it is for.
inputs: {time: 10m, n: {type: integer, default: 1, description: how many}}
limits: {steps: 50}
steps:
  - {name: read, tool: note, description: reads, inputs: {text: "{{ inputs.time }}"}}
  - name: run
    tool: note
    inputs: {text: "{{ steps.read.outputs.text }}"}
    rules: {success: [text]}
  - {name: report, tool: note, inputs: {text: "{{ steps.run.outputs.text }}"}}
outputs: {said: "{{ steps.report.outputs.text }}"}
"""


def changes(old: str, new: str) -> list[str]:
    return [str(each) for each in plan_changes(parse_plan(PLAN), parse_plan(swap(old, new)))]


def swap(old: str, new: str) -> str:
    assert PLAN.count(old) == 1, old
    return PLAN.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it is for.", "Something else."),
        ("description: reads, ", ""),
        ("description: how many", "description: number of them"),
        ("rules: {success: [text]}", "rules:\n      success:\n        # a comment\n        - text"),
        ("{name: report, tool: note,", "{tool: note, name: report, type: tool,"),
    ],
)
def test_what_no_run_depends_on_is_no_change(old, new):
    assert changes(old, new) == []


NEW_STEP = "  - {name: extra, tool: note, inputs: {text: x}}\n  - name: run\n"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('{text: "{{ inputs.time }}"}', "{text: x}", ["step `read` (inputs.text)"]),
        ("tool: note\n", "prompt: note\n", ["step `run` (prompt, tool)"]),
        ("[text]", "[text, content]", ["step `run` (rules)"]),
        (
            "  - name: run\n",
            NEW_STEP,
            ["step `read` (transitions.success)", "step `extra` is new"],
        ),
        (
            '  - {name: report, tool: note, inputs: {text: "{{ steps.run.outputs.text }}"}}\n',
            "",
            ["step `run` (transitions.success)", "step `report` is gone"],
        ),
        ("time: 10m", "time: 1h", ["input `time` (default)"]),
        ("n: {", "m: {", ["input `m` is new", "input `n` is gone"]),
        ("said:", "word:", ["output `word` is new", "output `said` is gone"]),
        ("{steps: 50}", "{steps: 60}", ["`limits` (steps)"]),
        ("name: p", "name: q", ["`name`"]),
    ],
)
def test_what_changed_is_named(old, new, told):
    assert changes(old, new) == told


@pytest.mark.parametrize(
    ("one", "other", "part"),
    [
        ("rules: {failure: [x], success: [y]}", "rules: {success: [y], failure: [x]}", "rules"),
        ("foreach: {a: [1], b: [2]}", "foreach: {b: [2], a: [1]}", "foreach"),
    ],
)
def test_an_order_that_matters_is_a_change(one, other, part):
    plans = [
        parse_plan(f"name: p\nsteps: [{{name: s, tool: t, {each}}}]\n") for each in (one, other)
    ]
    assert [str(each) for each in plan_changes(*plans)] == [f"step `s` ({part})"]


def test_a_description_that_stands_in_for_an_instruction_is_a_change():
    plans = [
        parse_plan(f"name: p\nsteps: [{{name: s, agent: ask, description: {words}}}]\n")
        for words in ("Tell a joke.", "Tell a story.")
    ]
    assert [str(each) for each in plan_changes(*plans)] == ["step `s` (description)"]


INNER = "name: i\nsteps: [{name: one, tool: note, inputs: {text: a}}]\n"
OUTER = """
name: o
steps:
  - {name: inc, plan: ./inner.yaml}
  - name: block
    parallel: [{name: left, tool: note, inputs: {text: l}}]
"""


def test_changes_inside_other_plans_and_blocks_are_named_by_their_paths(tmp_path):
    (tmp_path / "o.yaml").write_text(OUTER)
    (tmp_path / "inner.yaml").write_text(INNER)
    before = load_plan(tmp_path / "o.yaml")
    (tmp_path / "other.yaml").write_text(INNER)
    (tmp_path / "o.yaml").write_text(OUTER.replace("inner.yaml", "other.yaml"))
    assert plan_changes(before, load_plan(tmp_path / "o.yaml")) == []
    (tmp_path / "other.yaml").write_text(INNER.replace("text: a", "text: b"))
    (tmp_path / "o.yaml").write_text(
        OUTER.replace("inner.yaml", "other.yaml").replace("text: l", "text: r")
    )
    found = plan_changes(before, load_plan(tmp_path / "o.yaml"))
    assert [str(each) for each in found] == [
        "step `inc/one` (inputs.text)",
        "step `block/left` (inputs.text)",
    ]


# -- going on -------------------------------------------------------------------------------------


class Place:
    """A plan's file, and a run of it that stopped after some steps."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.file = folder / "plan.yaml"
        self.settings = settings
        self.events: list[dict[str, Any]] = []
        self.server = FakeToolServer()

        @self.server.tool
        def note(text: str) -> dict:
            return {"text": text}

    @property
    def runs(self) -> Runs:
        return Runs(self.settings, self.server)

    async def start(self, text: str, steps: int) -> str:
        self.file.write_text(textwrap.dedent(text))
        options = RunOptions(limits=Limits(steps=steps))
        result = await self.runs.start(load_plan(self.file), {}, options)
        assert result.status == "limit"
        return result.run

    async def resume(self, run: str) -> Any:
        self.server.calls.clear()
        options = RunOptions(listeners=[lambda event: self.events.append(event.as_dict())])
        return await self.runs.resume(run, options)

    async def refused(self, run: str) -> tuple[str, str]:
        with pytest.raises(UsageError) as told:
            await self.resume(run)
        assert self.server.calls == []
        return told.value.message, str(told.value.hint)

    def with_head(self, run: str, **more: Any) -> None:
        path = self.settings.state_dir / "runs" / run / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))

    def head(self, run: str) -> dict[str, Any]:
        return json.loads((self.settings.state_dir / "runs" / run / "run.json").read_text())


@pytest.fixture
def place(tmp_path: Path, settings: Settings) -> Place:
    return Place(tmp_path, settings)


async def test_a_plan_that_only_looks_different_goes_on(place):
    run = await place.start(PLAN, steps=1)
    place.file.write_text("# a comment\n" + swap("What it is for.", "Anew."))
    assert (await place.resume(run)).status == "success"
    assert [name for name, _ in place.server.calls] == ["note", "note"]


async def test_a_changed_step_is_named_with_the_fork_that_takes_it_up(place):
    run = await place.start(PLAN, steps=2)
    place.file.write_text(swap('{text: "{{ inputs.time }}"}', "{text: x}"))
    message, hint = await place.refused(run)
    assert "has changed since" in message
    assert "step `read` (inputs.text)" in message
    assert f"fractale fork {run} --at read" in hint
    fork = await place.runs.fork(run, "read")
    assert fork.outputs == {"said": "x"}


@pytest.mark.parametrize(
    ("old", "new", "at", "said"),
    [
        # A change in what the run has not come to: the fork begins where the run stands.
        ('{text: "{{ steps.run.outputs.text }}"}', "{text: later}", "report", "later"),
        ("{steps: 50}", "{steps: 60}", "report", "10m"),
        # What leads to a new step has changed.
        ("  - name: run\n", NEW_STEP, "read", "10m"),
        ("said: ", "word: x\n  said: ", "report", "10m"),
    ],
)
async def test_the_fork_that_is_offered_works(place, old, new, at, said):
    run = await place.start(PLAN.replace("outputs: {said", "outputs:\n  {said"), steps=2)
    text = PLAN.replace(old, new)
    if "word" in new:
        text = PLAN.replace("outputs: {said: ", "outputs: {word: x, said: ")
    place.file.write_text(text)
    _, hint = await place.refused(run)
    assert f"fractale fork {run} --at {at};" in hint
    fork = await place.runs.fork(run, at)
    assert fork.outputs["said"] == said


async def test_a_step_that_is_gone_is_followed_by_the_next_there_is(place):
    run = await place.start(PLAN, steps=2)
    gone = swap(
        '  - {name: read, tool: note, description: reads, inputs: {text: "{{ inputs.time }}"}}\n',
        "",
    )
    place.file.write_text(
        gone.replace("steps.read.outputs.text", "steps.read.outputs.text | default('x')")
    )
    place.file.write_text(gone.replace("{{ steps.read.outputs.text }}", "{{ inputs.time }}"))
    message, hint = await place.refused(run)
    assert "step `read` is gone" in message
    assert f"fractale fork {run} --at run;" in hint


async def test_a_changed_limit_is_told_how_to_be_raised_without(place):
    run = await place.start(PLAN, steps=1)
    place.file.write_text(swap("{steps: 50}", "{steps: 60}"))
    _, hint = await place.refused(run)
    assert "--limit NAME=VALUE" in hint


async def test_a_plan_whose_file_is_gone_goes_on_as_it_was_kept(place):
    run = await place.start(PLAN, steps=1)
    place.file.unlink()
    assert (await place.resume(run)).outputs == {"said": "10m"}


async def test_many_changes_are_counted(place):
    steps = [f"  - {{name: s{i}, tool: note, inputs: {{text: a}}}}\n" for i in range(12)]
    text = f"name: p\nsteps:\n{''.join(steps)}"
    run = await place.start(text, steps=1)
    place.file.write_text(text.replace("text: a", "text: b"))
    message, _ = await place.refused(run)
    assert message.endswith("step `s5` (inputs.text), and 6 more")


# -- tools and versions ---------------------------------------------------------------------------

TOOLS = """
name: p
steps:
  - {name: first, tool: note, inputs: {text: a}}
  - {name: second, tool: other, inputs: {text: b}}
  - {name: third, tool: note, inputs: {text: c}}
"""


def with_tools(place: Place, *changed: str) -> None:
    """Other tools of the same names; those that changed take one argument more."""
    place.server = FakeToolServer()

    def plain(text: str) -> dict:
        return {"text": text}

    def more(text: str, mode: str = "") -> dict:
        return {"text": text}

    for name in ("note", "other"):
        place.server.tool(name=name)(more if name in changed else plain)


async def test_a_changed_tool_that_is_still_needed_refuses_and_offers_a_fork(place):
    with_tools(place)
    run = await place.start(TOOLS, steps=1)
    with_tools(place, "other")
    message, hint = await place.refused(run)
    assert "step `second` uses `other`" in message
    assert f"fractale fork {run} --at second;" in hint
    assert (await place.runs.fork(run, "second")).status == "success"


async def test_a_changed_tool_that_no_step_ahead_uses_does_not_matter(place):
    with_tools(place)
    run = await place.start(TOOLS, steps=2)
    with_tools(place, "other")
    assert (await place.resume(run)).status == "success"


async def test_a_changed_tool_does_not_matter_to_a_run_that_ended(place):
    with_tools(place)
    run = await place.start(TOOLS, steps=2)
    assert (await place.resume(run)).status == "success"
    with_tools(place, "note")
    assert (await place.resume(run)).status == "success"


async def test_a_changed_tool_of_a_step_that_the_run_may_come_back_to_matters(place):
    with_tools(place)
    text = TOOLS.rstrip() + "\n  - {name: back, tool: note, inputs: {text: d}, max_attempts: 2,"
    run = await place.start(text + " transitions: {failure: second}}\n", steps=2)
    with_tools(place, "other")
    message, hint = await place.refused(run)
    assert "step `second` uses `other`" in message
    assert "--at third;" in hint


async def test_tools_that_an_agent_is_given_by_name_count_too(place):
    with_tools(place)
    text = TOOLS + "  - {name: work, agent: ask, instruction: go, tools: [other], when: 'false'}\n"
    place.settings = replace(place.settings, model="openai:x", openai_api_key="k-1234567890")
    run = await place.start(text, steps=2)
    with_tools(place, "other")
    message, _ = await place.refused(run)
    assert "step `work` uses `other`" in message


async def test_a_changed_tool_inside_an_included_plan_is_found_by_its_path(place):
    with_tools(place)
    inner = "name: i\nsteps:\n  - {name: a, tool: other, inputs: {text: a}}\n"
    inner += "  - {name: b, tool: note, inputs: {text: b}}\n"
    (place.file.parent / "inner.yaml").write_text(inner)
    text = "name: p\nsteps:\n  - {name: s, tool: note, inputs: {text: s}}\n"
    text += "  - {name: inc, plan: ./inner.yaml}\n"
    run = await place.start(text, steps=2)
    inside = await place.start(text, steps=3)
    with_tools(place, "other")
    message, _ = await place.refused(run)
    assert "step `inc/a` uses `other`" in message
    assert (await place.resume(inside)).status == "success"


async def test_other_versions_are_told_and_passed_over(place):
    run = await place.start(PLAN, steps=1)
    versions = place.head(run)["versions"]
    place.with_head(run, versions={**versions, "fractale": "0.1.9", "langgraph": "0.6.1"})
    assert (await place.resume(run)).status == "success"
    [warning] = [event for event in place.events if event["event"] == "warning"]
    assert warning["code"] == "versions"
    assert f"fractale 0.1.9 → {versions['fractale']}" in warning["message"]
    assert "langgraph 0.6.1 → " in warning["message"]
    assert "pydantic" not in warning["message"]


async def test_the_same_versions_are_not_told(place):
    run = await place.start(PLAN, steps=1)
    major, _, _ = place.head(run)["versions"]["langgraph"].partition(".")
    known = {**place.head(run)["versions"], "langgraph": f"{major}.999"}
    place.with_head(run, versions=known)
    await place.resume(run)
    assert [event for event in place.events if event["event"] == "warning"] == []
