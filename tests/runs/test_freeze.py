"""`fractale freeze`: a run's plan with its drafts in place runs without a manager."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

import forked
from fractale.errors import UsageError
from fractale.plan.build import load_plan
from fractale.record.freeze import freeze
from fractale.store.run_record import RunRecord, RunRecords
from fractale.testing import FakeToolServer, Reply, ScriptedModel

PLAN = """
name: p
inputs: {place: here}
steps:
  - {name: before, tool: look, inputs: {where: "{{ inputs.place }}"}}
  - name: made
    type: plan
    instruction: Count what is there.
    max_attempts: 3
    inputs: {found: "{{ steps.before.outputs.files }}", goal: Count}
  - {name: after, tool: look, inputs: {where: "{{ steps.made.outputs.total }}"}}
outputs: {total: "{{ steps.made.outputs.total }}"}
"""
COUNT = {"name": "count", "tool": "count", "inputs": {"items": "{{ inputs.found }}"}}


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool(annotations={"readOnlyHint": True})
    def look(where: str = ".") -> dict:
        """Look around."""
        return {"files": ["a", "b"]}

    @server.tool(annotations={"readOnlyHint": True})
    def count(items: list) -> dict:
        """Count items."""
        return {"total": str(len(items))}

    return server


def drafts(*given: dict[str, Any]) -> ScriptedModel:
    """A model that looks around with one word, and then gives its drafts in turn."""
    left = list(given)

    def answer(messages: Sequence[BaseMessage]) -> Reply:
        if messages[-1].text == "Write the steps.":
            return Reply(data=left.pop(0))
        return Reply(text="nothing to find out")

    return ScriptedModel(answer)


class Frozen:
    """A run that is frozen, beside the frozen plan's own run."""

    def __init__(self, run_plan: Callable[..., Any], tools: FakeToolServer, settings: Any) -> None:
        self.run_plan = run_plan
        self.tools = tools
        self.folders = RunRecords(settings.state_dir)
        self.home = settings.state_dir.parent

    async def run(self, plan: str, model: Any, **options: Any) -> tuple[Any, RunRecord]:
        path = self.home / "p.yaml"
        path.write_text(plan)
        options.setdefault("yes", True)
        seen = await self.run_plan(path, tools=self.tools, model=model, keep=True, **options)
        return seen, self.folders.find(seen.result.run)

    async def again(self, path: Path) -> Any:
        return await self.run_plan(path, tools=self.tools, model=ScriptedModel([]))


@pytest.fixture
def frozen(run_plan, tools, settings) -> Frozen:
    return Frozen(run_plan, tools, settings)


async def test_the_frozen_plan_does_the_same_without_a_model(frozen, tmp_path):
    first, folder = await frozen.run(PLAN, drafts({"steps": [COUNT]}))
    files = freeze(folder, tmp_path / "tuned.yaml")
    assert files == [tmp_path / "tuned.yaml", tmp_path / "tuned/made.yaml"]
    again = await frozen.again(files[0])
    assert again.status == "success", again.result.error
    assert again.result.outputs == first.result.outputs == {"total": "2"}
    assert again.path == first.path


async def test_what_only_speaks_to_a_manager_is_left_out(frozen, tmp_path):
    _, folder = await frozen.run(PLAN, drafts({"steps": [COUNT]}))
    step = load_plan(freeze(folder, tmp_path / "tuned.yaml")[0]).step("made")
    assert (step.target, step.instruction) == ("./tuned/made.yaml", None)
    assert list(step.inputs) == ["found"]
    assert step.max_attempts == 3


async def test_drafts_in_drafts_in_blocks_and_in_included_plans(frozen, tmp_path):
    (tmp_path / "other.yaml").write_text(
        "name: other\ninputs: {found: {required: true}}\n"
        "steps: [{name: deep, type: plan, instruction: go, "
        'inputs: {found: "{{ inputs.found }}"}}]\n'
    )
    plan = """
    name: p
    steps:
      - {name: look, tool: look}
      - name: block
        parallel:
          - {name: one, type: plan, instruction: go, inputs: {found: [1]}}
          - {name: two, tool: look}
      - {name: other, plan: ./other.yaml, inputs: {found: [1, 2, 3]}}
    outputs: {one: "{{ steps.block.outputs.one.total }}", all: "{{ steps.other.outputs.total }}"}
    """
    found = "{{ inputs.found }}"
    nested = {"name": "in", "type": "plan", "instruction": "go", "inputs": {"found": found}}
    model = drafts({"steps": [nested]}, {"steps": [COUNT]}, {"steps": [COUNT]})
    first, folder = await frozen.run(plan, model)
    assert first.status == "success", first.result.error
    (tmp_path / "elsewhere").mkdir()
    files = freeze(folder, tmp_path / "elsewhere/tuned.yaml")
    (tmp_path / "other.yaml").unlink()
    (tmp_path / "p.yaml").unlink()
    names = {path.relative_to(tmp_path / "elsewhere").as_posix() for path in files}
    assert names == {
        "tuned.yaml",
        "tuned/block/one.yaml",
        "tuned/block/one/in.yaml",
        "tuned/other.yaml",
        "tuned/other/deep.yaml",
    }
    again = await frozen.again(files[0])
    assert again.result.outputs == first.result.outputs == {"one": "1", "all": "3"}


async def test_what_bounds_the_planned_step_bounds_the_frozen_steps(frozen, tmp_path):
    plan = PLAN.replace("    max_attempts: 3", "    tools: [count, ask]\n    approve: ask")
    ask = {"name": "judge", "agent": "ask", "instruction": "Is it right?"}
    model = drafts({"steps": [ask, COUNT]})
    seen, folder = await frozen.run(plan, model)
    assert seen.status == "success", seen.result.error
    step = load_plan(freeze(folder, tmp_path / "tuned.yaml")[0]).step("made")
    assert (step.tools, step.approve) == (None, None)
    judge, count = step.plan.steps
    assert (judge.tools, judge.approve, count.approve) == (("count", "ask"), "ask", "ask")


async def test_items_that_were_drafted_alike_are_one_plan(frozen, tmp_path):
    plan = PLAN.replace("    max_attempts: 3", "    foreach: [1, 2]\n    max_parallel: 1").replace(
        "{{ steps.made.outputs.total }}", "{{ steps.made.outputs | length }}"
    )
    first, folder = await frozen.run(plan, drafts({"steps": [COUNT]}, {"steps": [COUNT]}))
    assert first.status == "success", first.result.error
    again = await frozen.again(freeze(folder, tmp_path / "tuned.yaml")[0])
    assert again.status == "success", again.result.error

    other = {"steps": [{**COUNT, "name": "other"}]}
    _, folder = await frozen.run(plan, drafts({"steps": [COUNT]}, other))
    with pytest.raises(UsageError, match="`made` has 2 different drafts"):
        freeze(folder, tmp_path / "never.yaml")


async def test_a_draft_in_a_chain_is_frozen_within_it(frozen, tmp_path):
    head, _, tail = PLAN.partition("steps:\n")
    first, _, rest = tail.partition("  - name: made")
    made, _, after = rest.partition("  - {name: after")
    inside = "".join(f"    {line}\n" for line in f"  - name: made{made}".splitlines())
    plan = (
        f"{head}steps:\n{first}  - name: group\n    steps:\n{inside}  - {{name: after{after}"
    ).replace("steps.made", "steps.group")
    ran, folder = await frozen.run(plan, drafts({"steps": [COUNT]}))
    assert ran.status == "success", ran.result.error
    files = freeze(folder, tmp_path / "tuned.yaml")
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "tuned.yaml",
        "tuned/group/made.yaml",
    ]
    again = await frozen.again(files[0])
    assert (again.status, again.outputs) == ("success", ran.outputs)


async def test_a_run_without_drafts_is_refused(frozen, tmp_path):
    _, folder = await frozen.run("name: p\nsteps: [{name: look, tool: look}]\n", None)
    with pytest.raises(UsageError, match="no planned step"):
        freeze(folder, tmp_path / "tuned.yaml")
    assert not (tmp_path / "tuned.yaml").exists()


async def test_a_draft_that_waits_for_its_review_is_refused(frozen, tmp_path):
    _, folder = await frozen.run(PLAN, drafts({"steps": [COUNT]}), yes=False)
    with pytest.raises(UsageError, match="`made` has no accepted draft"):
        freeze(folder, tmp_path / "tuned.yaml")


async def test_a_plan_that_has_changed_since_is_never_mixed_with_the_drafts(frozen, tmp_path):
    _, folder = await frozen.run(PLAN, drafts({"steps": [COUNT]}))
    (folder.path / "plan.yaml").unlink(missing_ok=True)  # a run's own copy would do
    (tmp_path / "p.yaml").write_text(PLAN.replace("name: after", "name: later"))
    with pytest.raises(UsageError, match="has changed or was removed"):
        freeze(folder, tmp_path / "tuned.yaml")


async def test_no_file_is_written_over(frozen, tmp_path):
    _, folder = await frozen.run(PLAN, drafts({"steps": [COUNT]}))
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/made.yaml").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        freeze(folder, tmp_path / "tuned.yaml")
    assert not (tmp_path / "tuned.yaml").exists()
    assert (tmp_path / "tuned/made.yaml").read_text() == "mine"
    with pytest.raises(UsageError, match="is not a name of a plan file"):
        freeze(folder, tmp_path / "tuned")


async def test_the_command_writes_a_plan_that_validates(frozen, tmp_path):
    await frozen.run(PLAN, drafts({"steps": [COUNT]}))

    def fractale(*words: str) -> subprocess.CompletedProcess[str]:
        env = {name: v for name, v in os.environ.items() if not name.startswith("FRACTALE_")}
        return forked.run(words, cwd=tmp_path, env={**env, "HOME": str(tmp_path)}, timeout=60)

    done = fractale("freeze", "-1", "-o", "tuned.yaml")
    assert (done.returncode, done.stdout) == (0, "tuned.yaml\ntuned/made.yaml\n"), done.stderr
    valid = fractale("validate", "tuned.yaml")
    assert valid.returncode == 0, valid.stdout + valid.stderr
    again = fractale("freeze", "-1", "-o", "tuned.yaml")
    assert again.returncode == 2
    assert "already exists" in again.stderr
    assert fractale("freeze", "nosuchrun").returncode == 2
