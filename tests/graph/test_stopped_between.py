"""A run stopped between what a step wrote and the checkpoint after it goes on from there."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from fractale.errors import StoreError
from fractale.plan.build import load_plan
from fractale.runs import RunOptions, Runs
from fractale.testing import FakeToolServer

PLAN = """
name: p
steps:
  - {name: one, tool: one}
  - {name: both, parallel: [{name: l, tool: l}, {name: r, tool: r}]}
  - {name: last, tool: last, inputs: {x: "{{ steps.one.outputs.x }}"}}
outputs: {x: "{{ steps.last.outputs.x }}"}
"""
TOOLS = ("one", "l", "r", "last")


class FullAt(InMemorySaver):
    """A store that has no room for its n-th checkpoint, and then has room again."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    async def aput(self, *args, **more):
        self.left -= 1
        if self.left == 0:
            raise StoreError("no space left on device", hint="make room")
        return await super().aput(*args, **more)


@pytest.mark.parametrize("number", range(1, 12))
async def test_a_checkpoint_that_was_not_written_loses_and_repeats_nothing(
    settings, tmp_path, number
):
    path = tmp_path / "p.yaml"
    path.write_text(PLAN)
    tools = FakeToolServer()
    for name in TOOLS:
        tools.answer(name, {"x": name})
    options = RunOptions(checkpointer=FullAt(number))
    runs = Runs(settings, tools)
    result = await runs.start(load_plan(path), options=options)
    assert result.status == ("stopped" if options.checkpointer.left <= 0 else "success")
    if result.status == "stopped":
        result = await runs.resume(result.run, options)
    assert result.status == "success", result.error
    assert result.outputs == {"x": "last"}
    assert sorted(call.name for call in tools.calls) == sorted(TOOLS)
