"""Steps with an inside: foreach, parallel blocks, included plans."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt

from fractale import questions
from fractale.graph.kinds.foreach import ConcurrencyLimit, Full
from fractale.testing import FakeToolServer


@pytest.fixture
def tools() -> FakeToolServer:
    server = FakeToolServer()

    @server.tool
    def double(n: int) -> dict:
        return {"n": n, "twice": 2 * n, "returncode": 1 if n == 13 else 0}

    @server.tool
    def add(a: int, b: int) -> dict:
        return {"sum": a + b}

    return server


async def test_foreach_gives_the_outputs_in_order(run_plan, tools):
    seen = await run_plan(
        """
        name: each
        inputs: {numbers: [3, 1, 2]}
        steps:
          - name: sweep
            tool: double
            foreach: inputs.numbers
            inputs: {n: "{{ item }}"}
        outputs: {all: "{{ steps.sweep.outputs | map(attribute='twice') | list }}"}
        """,
        tools=tools,
    )
    assert seen.result.outputs == {"all": [6, 2, 4]}
    assert seen.path == ["sweep:success"]


async def test_foreach_over_a_mapping_is_the_product(run_plan, tools):
    seen = await run_plan(
        """
        name: sweep
        steps:
          - name: sweep
            tool: add
            foreach: {a: [10, 20], b: "[1, 2, 3]"}
            inputs: {a: "{{ item.a }}", b: "{{ item.b }}"}
        outputs: {all: "{{ steps.sweep.outputs | map(attribute='sum') | list }}"}
        """,
        tools=tools,
    )
    assert seen.result.outputs == {"all": [11, 12, 13, 21, 22, 23]}


@pytest.mark.parametrize(("keep_going", "status"), [("false", "failed"), ("true", "success")])
async def test_one_failed_item_fails_the_step_unless_it_keeps_going(
    run_plan, tools, keep_going, status
):
    seen = await run_plan(
        f"""
        name: each
        steps:
          - name: sweep
            tool: double
            foreach: [1, 13, 2]
            keep_going: {keep_going}
            inputs: {{n: "{{{{ item }}}}"}}
        """,
        tools=tools,
    )
    assert seen.status == status
    assert len(tools.calls) == 3
    if status == "failed":
        assert "1 of 3 items failed; item 2: " in seen.result.error


async def test_an_empty_list_is_a_success_of_nothing(run_plan, tools):
    seen = await run_plan(
        """
        name: none
        steps:
          - {name: sweep, tool: double, foreach: "[]", inputs: {n: "{{ item }}"}}
        outputs: {all: "{{ steps.sweep.outputs }}"}
        """,
        tools=tools,
    )
    assert seen.result.outputs == {"all": []}


async def test_something_that_is_no_list_fails_the_step(run_plan, tools):
    seen = await run_plan(
        """
        name: none
        steps:
          - {name: sweep, tool: double, foreach: "3", inputs: {n: "{{ item }}"}}
        """,
        tools=tools,
    )
    assert seen.path == ["sweep:failure"]
    assert "must give a list" in seen.result.error


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (3, 3), (10, 10)])
async def test_max_parallel_items_run_at_the_same_time(run_plan, limit, most):
    server = FakeToolServer()
    running = {"now": 0, "most": 0}

    @server.tool
    async def work(n: int) -> dict:
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        await asyncio.sleep(0.02)
        running["now"] -= 1
        return {"n": n}

    await run_plan(
        f"""
        name: bounded
        steps:
          - name: sweep
            tool: work
            foreach: "range(10) | list"
            max_parallel: {limit}
            inputs: {{n: "{{{{ item }}}}"}}
        """,
        tools=server,
    )
    assert running["most"] == most


async def test_items_are_told_by_their_number(run_plan, tools):
    seen = await run_plan(
        """
        name: each
        steps:
          - {name: sweep, tool: double, foreach: [1, 2], inputs: {n: "{{ item + index }}"}}
        """,
        tools=tools,
    )
    assert sorted(e["index"] for e in seen.of("item_started")) == [0, 1]
    assert sorted(e["step"] for e in seen.of("tool_started")) == ["sweep[0]", "sweep[1]"]
    assert sorted(arguments["n"] for _, arguments in tools.calls) == [1, 3]


async def test_parallel_steps_run_together_and_their_outputs_stand_by_name(run_plan):
    server = FakeToolServer()
    both = asyncio.Barrier(2)

    @server.tool
    async def meet(name: str) -> dict:
        async with asyncio.timeout(5):
            await both.wait()  # passes only if the other one is running, too
        return {"name": name}

    seen = await run_plan(
        """
        name: together
        steps:
          - name: block
            parallel:
              - {name: left, tool: meet, inputs: {name: l}}
              - {name: right, tool: meet, inputs: {name: r}}
        outputs:
          left: "{{ steps.block.outputs.left.name }}"
          right: "{{ steps.block.outputs.right.name }}"
        """,
        tools=server,
    )
    assert seen.result.outputs == {"left": "l", "right": "r"}
    names = [s["name"] for s in seen.result.steps]
    assert sorted(names[:2]) == ["block/left", "block/right"]
    assert names[2] == "block"


@pytest.mark.parametrize(("keep_going", "status"), [("false", "failed"), ("true", "success")])
async def test_a_failed_step_fails_its_block_unless_it_keeps_going(
    run_plan, tools, keep_going, status
):
    seen = await run_plan(
        f"""
        name: together
        steps:
          - name: block
            keep_going: {keep_going}
            parallel:
              - {{name: left, tool: double, inputs: {{n: 13}}}}
              - {{name: right, tool: double, inputs: {{n: 1}}}}
        """,
        tools=tools,
    )
    assert seen.status == status
    if status == "failed":
        assert "`left` failed" in seen.result.error


async def test_an_included_plan_runs_as_a_subgraph_with_its_own_inputs(run_plan, tools, tmp_path):
    (tmp_path / "inner.yaml").write_text(
        """
name: inner
inputs: {n: {type: integer, required: true}, plus: 6}
steps:
  - {name: twice, tool: double, inputs: {n: "{{ inputs.n }}"}}
  - {name: plus, tool: add, inputs: {a: "{{ steps.twice.outputs.twice }}", b: "{{ inputs.plus }}"}}
outputs: {answer: "{{ steps.plus.outputs.sum }}"}
"""
    )
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        """
name: outer
inputs: {start: 4}
steps:
  - {name: part, plan: inner.yaml, inputs: {n: "{{ inputs.start }}"}}
  - {name: last, tool: double, inputs: {n: "{{ steps.part.outputs.answer }}"}}
outputs: {answer: "{{ steps.last.outputs.twice }}"}
"""
    )
    seen = await run_plan(outer, tools=tools)
    assert seen.result.outputs == {"answer": 28}
    names = [s["name"] for s in seen.result.steps]
    assert names == ["part/twice", "part/plus", "part", "last"]


async def test_the_list_of_an_included_plans_last_step_is_its_result(run_plan, tools, tmp_path):
    (tmp_path / "inner.yaml").write_text(
        'name: i\nsteps:\n  - {name: s, tool: double, foreach: [1, 2], inputs: {n: "{{ item }}"}}\n'
    )
    (tmp_path / "outer.yaml").write_text(
        "name: o\nsteps: [{name: in, plan: inner.yaml}]\n"
        "outputs: {all: \"{{ steps.in.outputs.result | map(attribute='twice') | list }}\"}\n"
    )
    seen = await run_plan(tmp_path / "outer.yaml", tools=tools)
    assert seen.outputs == {"all": [2, 4]}


async def test_a_failed_included_plan_is_a_failed_step(run_plan, tools, tmp_path):
    (tmp_path / "inner.yaml").write_text(
        "name: inner\nsteps: [{name: x, tool: double, inputs: {n: 13}}]\n"
    )
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        """
name: outer
steps:
  - {name: part, plan: inner.yaml, transitions: {failure: mend}}
  - {name: end, tool: double, inputs: {n: 13}}
  - {name: mend, tool: double, inputs: {n: 1}}
"""
    )
    seen = await run_plan(outer, tools=tools)
    assert seen.path == ["part/x:failure", "part:failure", "mend:success"]


async def test_a_step_that_gives_up_inside_fails_the_step_that_includes_it(
    run_plan, tools, tmp_path
):
    (tmp_path / "inner.yaml").write_text(
        """
name: inner
steps:
  - {name: x, tool: double, inputs: {n: 13}, max_attempts: 2, transitions: {failure: x}}
"""
    )
    outer = tmp_path / "outer.yaml"
    outer.write_text("name: outer\nsteps: [{name: part, plan: inner.yaml}]\n")
    seen = await run_plan(outer, tools=tools)
    assert seen.path == ["part/x:failure", "part/x:failure", "part:failure"]
    assert "its limit" in seen.result.error


async def test_foreach_over_an_included_plan(run_plan, tools, tmp_path):
    (tmp_path / "inner.yaml").write_text(
        """
name: inner
inputs: {n: 0}
steps: [{name: x, tool: double, inputs: {n: "{{ inputs.n }}"}}]
"""
    )
    outer = tmp_path / "outer.yaml"
    outer.write_text(
        """
name: outer
steps: [{name: each, plan: inner.yaml, foreach: [1, 2], inputs: {n: "{{ item }}"}}]
outputs: {all: "{{ steps.each.outputs | map(attribute='twice') | list }}"}
"""
    )
    seen = await run_plan(outer, tools=tools)
    assert seen.result.outputs == {"all": [2, 4]}
    assert {s["name"] for s in seen.result.steps} == {"each[0]/x", "each[1]/x", "each"}


@pytest.mark.parametrize(("bound", "most"), [("", 32), ("max_parallel: 50", 50)])
async def test_a_foreach_that_says_no_bound_has_one(run_plan, bound, most):
    server = FakeToolServer()
    running = {"now": 0, "most": 0}
    as_many_as_expected = asyncio.Event()

    @server.tool
    async def work(n: int) -> dict:
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        if running["most"] >= most:
            as_many_as_expected.set()
        async with asyncio.timeout(60):
            await as_many_as_expected.wait()
        running["now"] -= 1
        return {"n": n}

    seen = await run_plan(
        f"""
        name: bounded
        steps:
          - name: sweep
            tool: work
            foreach: "range(60) | list"
            {bound}
            inputs: {{n: "{{{{ item }}}}"}}
        outputs: {{all: "{{{{ steps.sweep.outputs }}}}"}}
        """,
        tools=server,
    )
    assert seen.result.outputs == {"all": [{"n": n} for n in range(60)]}
    assert running["most"] == most


class TestSlots:
    """The concurrency limit of a foreach."""

    async def enter(self, slots, order, name, gate):
        async with slots:
            order.append(name)
            await gate.wait()

    async def settled(self):
        for _ in range(20):
            await asyncio.sleep(0)

    async def test_those_who_wait_come_in_in_their_order_and_one_at_a_time(self):
        slots, order, gates = ConcurrencyLimit(2), [], [asyncio.Event() for _ in range(5)]
        tasks = [asyncio.create_task(self.enter(slots, order, n, gates[n])) for n in range(5)]
        await self.settled()
        assert order == [0, 1]
        gates[1].set()
        await self.settled()
        assert order == [0, 1, 2]
        for gate in gates:
            gate.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]
        async with slots, slots:
            pass

    @pytest.mark.parametrize("late", [False, True])
    async def test_one_who_is_cancelled_passes_its_slot_on(self, late):
        slots, order, gates = ConcurrencyLimit(1), [], [asyncio.Event() for _ in range(3)]
        tasks = [asyncio.create_task(self.enter(slots, order, n, gates[n])) for n in range(3)]
        await self.settled()
        if late:  # the slot is its own, but it has not run since
            gates[0].set()
            await asyncio.sleep(0)
            tasks[1].cancel()
        else:
            tasks[1].cancel()
            gates[0].set()
        await self.settled()
        assert order == [0, 2]
        gates[2].set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [False, True, False]

    async def test_where_every_slot_is_kept_nobody_else_comes_in(self):
        async def leaves(slots, gate):
            async with slots:
                await gate.wait()
                leave_with_job()

        slots, order, gate = ConcurrencyLimit(2), [], asyncio.Event()
        leaving = [asyncio.create_task(leaves(slots, gate)) for _ in range(2)]
        waiting = [asyncio.create_task(self.enter(slots, order, n, gate)) for n in range(2)]
        await self.settled()
        waiting[0].cancel()
        gate.set()
        await asyncio.gather(*leaving, *waiting, return_exceptions=True)
        assert isinstance(waiting[1].exception(), Full)
        with pytest.raises(Full):
            async with slots:
                pass
        assert order == []


def leave_with_job():
    raise GraphInterrupt((Interrupt.from_ns(value=questions.job("s", {}), ns="n"),))
