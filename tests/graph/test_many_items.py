"""A foreach of a thousand items or more, whose items run in chunks."""

from __future__ import annotations

import asyncio

import pytest

from counts import FULL
from fractale import load
from fractale.graph.kinds.foreach import CHUNKED, ConcurrencyLimit
from fractale.models import Models
from fractale.runs import RunOptions, Runs
from fractale.testing import FakeToolServer, ScriptedModel
from fractale.testing.model_server import Reply

MANY = 1_200
SIZE = 35
"""The items of a chunk, of 1,200."""

AT_ONCE = 7
FAILING = (0, SIZE - 1, SIZE, 700, MANY - 1)
PLAN = f"""
name: many
steps:
  - name: each
    tool: work
    foreach: "range({MANY}) | list"
    max_parallel: {AT_ONCE}
    keep_going: true
    inputs: {{n: "{{{{ item }}}}"}}
outputs: {{all: "{{{{ steps.each.outputs }}}}"}}
"""


class Work:
    """The tool of the items, and what was seen while it ran."""

    def __init__(self, failing: tuple[int, ...] = ()) -> None:
        self.began: list[int] = []
        self.running = self.most = self.most_tasks = 0
        self.until: asyncio.Event | None = None
        self.server = FakeToolServer()
        self.server.tool(read_only=True)(self.work)
        self._failing = failing

    async def work(self, n: int) -> dict:
        """Do the work of an item."""
        self.began.append(n)
        self.running += 1
        self.most = max(self.most, self.running)
        if n % SIZE == 0:
            self.most_tasks = max(self.most_tasks, len(asyncio.all_tasks()))
        try:
            await asyncio.sleep(0.001)
            if self.until is not None and len(self.began) > MANY // 2:
                self.until.set()
                await asyncio.sleep(60)
        finally:
            self.running -= 1
        if n in self._failing:
            raise ValueError(f"no {n}")
        return {"n": n}


class CountedTask(asyncio.Task):
    """A task of asyncio that counts how often anything waits for one."""

    waits = 0

    def add_done_callback(self, *args, **options):
        CountedTask.waits += 1
        return super().add_done_callback(*args, **options)


async def test_many_items_end_in_order_at_most_some_at_once_and_cost_the_same_each(run_plan):
    work = Work(FAILING)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **named: CountedTask(coro, loop=loop, **named))
    CountedTask.waits = 0
    seen = await run_plan(PLAN, tools=work.server)
    loop.set_task_factory(None)
    outputs = seen.result.outputs["all"]
    assert seen.result.ok
    good = [n for n in range(MANY) if n not in FAILING]
    assert [each["n"] for each in outputs if "error" not in each] == good
    assert [n for n, each in enumerate(outputs) if "error" in each] == list(FAILING)
    (notice,) = seen.of("step_finished")[-1]["notices"]
    assert notice["message"].startswith(f"{len(FAILING)} of {MANY} items failed; item 1: ")
    assert work.most == AT_ONCE
    assert sorted(work.began) == list(range(MANY))
    early = max(abs(place - n) for place, n in enumerate(work.began))
    assert early <= 3 * SIZE, "the items begin in their order, give or take some chunks"
    # One graph of all items: 600 waits an item, and each item a task from the beginning.
    assert CountedTask.waits / MANY < 60
    assert work.most_tasks < MANY / 2


async def test_items_of_chunks_that_are_cancelled_end_and_the_run_continues_with_the_others(
    settings,
):
    work, plan = Work(), load(PLAN)
    work.until = asyncio.Event()
    runs = Runs(settings, work.server)
    running = asyncio.create_task(runs.start(plan, {}, RunOptions(run_id="r")))
    await work.until.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert work.running == 0
    before, work.until = len(work.began), None
    await asyncio.sleep(0.05)
    assert len(work.began) == before, "no item begins after the end"
    result = await runs.resume("r")
    assert result.ok, result.error
    assert result.outputs["all"] == [{"n": n} for n in range(MANY)]
    assert set(work.began) == set(range(MANY))
    assert len(work.began) <= MANY + AT_ONCE, "only the items that were running begin again"


async def test_a_limit_of_the_run_counts_the_items_of_all_chunks(settings):
    most = 60
    model = ScriptedModel(lambda _: Reply(text="yes", input_tokens=10, output_tokens=0))
    text = f"""
name: many
limits: {{tokens: {10 * most}}}
steps:
  - name: each
    type: agent
    instruction: "Is {{{{ item }}}} even?"
    foreach: "range({CHUNKED}) | list"
"""
    runs = Runs(settings, FakeToolServer(), models=Models(settings, given=model))
    result = await runs.start(load(text), {})
    assert result.status == "limit", result
    assert result.usage["input_tokens"] == 10 * most


@pytest.mark.skipif(not FULL, reason="5 s: only with FRACTALE_FULL=1")
async def test_each_item_of_a_chunk_has_its_own_chain(run_plan):
    work = Work()
    seen = await run_plan(
        f"""
name: many
steps:
  - name: each
    foreach: "range({CHUNKED}) | list"
    steps:
      - {{name: one, tool: work, inputs: {{n: "{{{{ item }}}}"}}}}
      - {{name: two, tool: work, inputs: {{n: "{{{{ steps.one.outputs.n }}}}"}}}}
outputs: {{all: "{{{{ steps.each.outputs | map(attribute='n') | list }}}}"}}
""",
        tools=work.server,
    )
    assert seen.result.outputs == {"all": list(range(CHUNKED))}


class TestChunks:
    """When the chunks of a foreach begin."""

    def start(self, limit, began, size, gate, chunks):
        async def item(chunk, number):
            async with limit:
                began.append((chunk, number))
                await gate.wait()

        async def chunk(number):
            async with limit.chunk():
                began.append(number)
                await asyncio.gather(*(item(number, n) for n in range(size)))

        return [asyncio.create_task(chunk(n)) for n in range(chunks)]

    async def settled(self):
        for _ in range(20):
            await asyncio.sleep(0)

    async def test_the_next_one_begins_once_fewer_items_wait_than_can_run(self):
        limit, began, gate = ConcurrencyLimit(2), [], asyncio.Event()
        tasks = self.start(limit, began, 3, gate, 5)
        await self.settled()
        assert began == [0, (0, 0), (0, 1), 1]  # of six items two run and four wait
        gate.set()
        await asyncio.gather(*tasks)
        assert [each for each in began if isinstance(each, int)] == [0, 1, 2, 3, 4]
        assert len(began) == 5 + 15

    @pytest.mark.parametrize("late", [False, True])
    async def test_one_that_is_cancelled_lets_the_next_one_begin(self, late):
        limit, began, first, gate = ConcurrencyLimit(1), [], asyncio.Event(), asyncio.Event()

        async def chunk(number, gate):
            async with limit.chunk():
                began.append(number)
                async with limit:
                    await gate.wait()

        tasks = [asyncio.create_task(chunk(n, gate if n else first)) for n in range(4)]
        await self.settled()
        assert began == [0, 1]  # an item runs, and one waits
        first.set()
        for _ in range(late):  # the item that waited begins, so the next chunk may begin
            await asyncio.sleep(0)
        tasks[2].cancel()
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [False, False, True, False]
        assert began == [0, 1, 3]

    async def test_one_without_items_left_lets_the_next_one_begin(self):
        limit, began, gate = ConcurrencyLimit(2), [], asyncio.Event()
        tasks = self.start(limit, began, 0, gate, 3)
        await asyncio.gather(*tasks)
        assert began == [0, 1, 2]
