"""Runs that are not kept: checkpoints are written at questions only, and nothing runs twice."""

from __future__ import annotations

from typing import Any

import fractale
from fractale.plan.model import Limits
from fractale.runs import RunResult
from fractale.settings import Settings
from fractale.testing import Reply, ScriptedModel

PLAN = """
name: p
steps:
  - name: side_by_side
    parallel:
      - {name: a, tool: count, inputs: {n: 1}}
      - {name: b, tool: change, inputs: {n: 2}, approve: always}
      - {name: c, tool: count, foreach: [3, 4], inputs: {n: "{{ item }}"}}
  - {name: think, agent: ask, instruction: Work, tools: [count, change]}
  - {name: last, tool: count, inputs: {n: 9}}
"""


class Agrees:
    """A person who agrees to everything."""

    async def answer(self, question: Any) -> Any:
        """Yes."""
        del question
        return True


async def run(**options: Any) -> tuple[RunResult, list[int]]:
    calls: list[int] = []

    def count(n: int) -> dict[str, int]:
        calls.append(n)
        return {"n": n}

    def change(n: int) -> dict[str, int]:
        calls.append(n)
        return {"n": n}

    turn = Reply(tool_calls=[("count", {"n": 5}), ("change", {"n": 6})])
    model = ScriptedModel([turn, "Done."])
    result = await fractale.arun(
        PLAN, tools=[count, change], model=model, settings=Settings(), **options
    )
    return result, sorted(calls)


async def test_what_ended_before_a_question_is_not_done_again():
    result, calls = await run(person=Agrees())
    assert result.ok, result.error
    assert calls == [1, 2, 3, 4, 5, 6, 9]


async def test_without_a_person_it_waits():
    result, calls = await run()
    assert result.status == "waiting"
    assert [each["step"] for each in result.waiting] == ["side_by_side/b"]
    assert calls == [1, 3, 4]


async def test_a_limit_ends_it_with_the_steps_so_far():
    result, calls = await run(person=Agrees(), limits=Limits(steps=5))
    assert result.status == "limit"
    assert calls == [1, 2, 3, 4, 5, 6]
