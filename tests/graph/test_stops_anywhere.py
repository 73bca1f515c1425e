"""A run whose store fails at any one of its writes goes on from there, and does nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

import fractale
from fractale.errors import StoreError
from fractale.runs import RunOptions, Runs
from fractale.testing import FakeToolServer

PLAN = """
name: p
steps:
  - {name: one, tool: change, inputs: {what: one}}
  - {name: many, tool: change, inputs: {what: "item {{ item }}"}, foreach: "range(3) | list"}
  - name: both
    parallel:
      - {name: left, tool: change, inputs: {what: left}}
      - {name: right, tool: change, inputs: {what: right}}
  - {name: agreed, tool: change, inputs: {what: agreed}, approve: always}
  - {name: last, tool: change, inputs: {what: "all {{ steps.many.outputs | length }}"}}
outputs: {said: "{{ steps.last.outputs.changed }}"}
"""
CHANGES = ["agreed", "all 3", "item 0", "item 1", "item 2", "left", "one", "right"]
WRITES = 60
"""More than the plan makes."""


class Failing(InMemorySaver):
    """A saver that fails once, at a write of a kind, and works again afterwards."""

    def __init__(self, kind: str, number: int) -> None:
        super().__init__()
        self._kind = kind
        self._left = number

    @property
    def failed(self) -> bool:
        return self._left <= 0

    def _count(self, kind: str) -> None:
        if kind == self._kind:
            self._left -= 1
            if self._left == 0:
                raise StoreError("the disk is gone")

    async def aput(self, *values: Any, **options: Any) -> Any:
        self._count("checkpoint")
        return await super().aput(*values, **options)

    async def aput_writes(self, *values: Any, **options: Any) -> None:
        self._count("writes")
        await super().aput_writes(*values, **options)


@pytest.mark.parametrize("kind", ["checkpoint", "writes"])
async def test_a_write_that_fails_stops_the_run_and_loses_nothing(tmp_path, settings, kind):
    (tmp_path / "p.yaml").write_text(PLAN)
    plan = fractale.load(tmp_path / "p.yaml")
    stops = 0
    for number in range(1, WRITES):
        made: list[str] = []
        tools = FakeToolServer()

        @tools.tool
        def change(what: str, made: list[str] = made) -> dict:
            made.append(what)
            return {"changed": what, "filler": "x" * 1500}

        saver = Failing(kind, number)
        runs = Runs(settings, tools)
        options = RunOptions(checkpointer=saver, yes=True)
        result = await runs.start(plan, {}, options)
        if not saver.failed:
            assert result.status == "success"
            break
        stops += 1
        assert result.status == "stopped", f"{kind} {number}: {result.error}"
        assert "the disk is gone" in str(result.error)
        result = await runs.resume(result.run, options)
        assert result.status == "success", f"{kind} {number}: {result.error}"
        assert result.outputs == {"said": "all 3"}
        assert sorted(made) == CHANGES, f"{kind} {number}"
    assert stops >= 10
