"""What a run's batch jobs may use, and what they have used."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fractale.errors import LimitReached, StoreError
from fractale.jobs.budget import Amount, Budget, FileLedger, MemoryLedger, Size, inherited
from fractale.schedulers.request import Array, Chunk, Request

HOUR = 3600.0


def size(request: Request, *, one_node: bool = False) -> Size:
    return Size.of_request(request, lambda seconds: seconds, one_node=one_node)


def never() -> None:
    raise AssertionError("nothing is waited for")


def an_hour(nodes: float = 1.0) -> Amount:
    return Amount(node_hours=nodes, core_hours=nodes, jobs=1)


class TestSize:
    def test_nodes_times_the_time_limit(self) -> None:
        most = size(Request(nodes=2, tasks=8, cores_per_task=4, seconds=1800)).most()
        assert most == Amount(node_hours=1.0, core_hours=16.0, jobs=1)

    def test_each_element_of_an_array_counts(self) -> None:
        most = size(Request(nodes=1, seconds=3600, array=Array.parse("1-9:2%2"))).most()
        assert (most.node_hours, most.jobs) == (5.0, 5)

    def test_nodes_that_the_scheduler_chooses_are_reserved_at_their_most(self) -> None:
        found = size(Request(tasks=6, seconds=3600))
        assert found.most().node_hours == 6.0
        assert found.used(1800, nodes=2).node_hours == 1.0

    def test_of_a_range_of_nodes_the_larger_one_is_reserved(self) -> None:
        assert size(Request(nodes=2, most_nodes=4, seconds=3600)).most().node_hours == 4.0

    def test_this_machine_is_one_node(self) -> None:
        assert size(Request(tasks=6, seconds=3600), one_node=True).most().node_hours == 1.0

    def test_gpus_of_chunks(self) -> None:
        chunks = (Chunk(count=2, cores=8, gpus=4), Chunk(count=1, cores=2))
        most = size(Request(chunks=chunks, place="scatter", seconds=3600)).most()
        assert (most.node_hours, most.core_hours, most.gpu_hours) == (3.0, 18.0, 8.0)

    def test_whole_nodes_have_more_cores_than_is_known(self) -> None:
        assert size(Request(nodes=2, exclusive=True, seconds=60)).whole_nodes
        assert not size(Request(nodes=2, seconds=60)).whole_nodes

    @pytest.mark.parametrize("seconds", [None, math.inf])
    def test_a_job_without_a_limit_has_no_time(self, seconds: float | None) -> None:
        assert size(Request(nodes=2, seconds=seconds)).seconds is None


class TestBudget:
    async def test_what_was_used_takes_the_place_of_what_was_reserved(self) -> None:
        budget = Budget({"node_hours": 2}, MemoryLedger())
        await budget.reserve("a", an_hour(2), never)
        assert (budget.used.node_hours, budget.reserved.node_hours) == (0, 2)
        await budget.settle("a", an_hour(0.25))
        assert (budget.used.node_hours, budget.reserved.node_hours) == (0.25, 0)

    async def test_a_job_that_does_not_fit_is_not_submitted(self) -> None:
        budget = Budget({"node_hours": 2}, MemoryLedger())
        await budget.reserve("a", an_hour(1.5), never)
        await budget.settle("a", an_hour(1.5))
        with pytest.raises(
            LimitReached, match=r"may use 1 node-hour, .*limit of 2 .*: 1\.5 are used"
        ):
            await budget.reserve("b", an_hour(1), never)
        assert budget.reserved == Amount()

    async def test_a_limit_of_jobs(self) -> None:
        budget = Budget({"jobs": 2}, MemoryLedger())
        for key in ("a", "b"):
            await budget.reserve(key, Amount(jobs=1), never)
            await budget.settle(key, Amount(jobs=1))
        with pytest.raises(LimitReached, match=r"limit of 2 .*: 2 are used"):
            await budget.reserve("c", Amount(jobs=1), never)

    async def test_the_same_key_is_reserved_once_and_settled_once(self) -> None:
        budget = Budget({}, MemoryLedger())
        for _ in range(2):
            await budget.reserve("a", an_hour(), never)
        for used in (0.5, 0.75):
            await budget.settle("a", an_hour(used))
        assert budget.used.node_hours == 0.5

    async def test_of_a_job_that_nobody_knows_of_all_that_was_reserved_counts(self) -> None:
        budget = Budget({}, MemoryLedger())
        await budget.reserve("a", an_hour(3), never)
        await budget.settle("a", None)
        assert budget.used.node_hours == 3

    async def test_a_job_waits_for_room_while_others_of_the_process_run(self) -> None:
        budget = Budget({"node_hours": 2}, MemoryLedger())
        await budget.reserve("a", an_hour(2), never)
        with budget.watched("a"):
            waits = asyncio.create_task(budget.reserve("b", an_hour(1), lambda: None))
            await asyncio.sleep(0.05)
            assert not waits.done()
            await budget.settle("a", an_hour(0.5))
        await asyncio.wait_for(waits, 5)
        assert budget.reserved.node_hours == 1

    async def test_a_job_that_no_end_of_another_makes_room_for_does_not_wait(self) -> None:
        budget = Budget({"node_hours": 2}, MemoryLedger())
        await budget.reserve("a", an_hour(1), never)
        with budget.watched("a"), pytest.raises(LimitReached):
            await budget.reserve("b", an_hour(3), never)

    async def test_whoever_leaves_the_run_waits_no_longer(self) -> None:
        class Left(Exception):
            pass

        def leave() -> None:
            raise Left

        budget = Budget({"node_hours": 1}, MemoryLedger())
        await budget.reserve("a", an_hour(1), never)
        with budget.watched("a"), pytest.raises(Left):
            await budget.reserve("b", an_hour(1), leave)

    async def test_whoever_is_asked_sees_whether_it_fits(self) -> None:
        budget = Budget({"node_hours": 2}, MemoryLedger())
        await budget.reserve("a", an_hour(1.5), never)
        assert budget.words(an_hour(0.5)) == "0.5 node-hours (1.5 of 2 taken so far)"
        assert budget.words(an_hour(1)) == ("1 node-hour (1.5 of 2 taken so far); it does not fit")

    async def test_a_job_that_was_refused_is_reserved_anew_when_it_is_tried_again(self) -> None:
        ledger = MemoryLedger()
        budget = Budget({"node_hours": 2}, ledger)
        await budget.reserve("a", an_hour(2), never)
        await budget.release("a")
        assert Budget({}, ledger).reserved == budget.reserved == Amount()
        await budget.reserve("a", an_hour(2), never)
        await budget.settle("a", an_hour(1.5))
        assert (budget.used, Budget({}, ledger).used) == (an_hour(1.5), an_hour(1.5))

    async def test_an_array_that_was_refused_gives_all_back(self) -> None:
        budget, array = Budget({"jobs": 5}, MemoryLedger()), Array.parse("1-5")
        await budget.reserve("a", Amount(jobs=1), never, None, array)
        assert budget.reserved.jobs == 5
        await budget.release("a", array)
        await budget.reserve("b", Amount(jobs=5), never)

    async def test_two_that_wait_for_room_do_not_wait_for_each_other(self) -> None:
        budget = Budget({"node_hours": 2}, MemoryLedger())
        await budget.reserve("gone", an_hour(1), never)
        budget.unwatch("gone")
        for key in ("a", "b"):
            with pytest.raises(LimitReached):
                await budget.reserve(key, an_hour(1.5), never)
        await budget.reserve("c", an_hour(1), never)
        waits = [asyncio.create_task(budget.reserve(key, an_hour(1), lambda: None)) for key in "de"]
        await asyncio.sleep(0.05)
        budget.unwatch("c")  # its run is left: no end of it is to come
        found = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 10)
        assert [type(each) for each in found] == [LimitReached, LimitReached]


class TestLedger:
    async def test_another_process_goes_on_with_the_same_sums(self, tmp_path: Any) -> None:
        path = tmp_path / "jobs.jsonl"
        first = Budget({}, FileLedger(path))
        await first.reserve("a", an_hour(2), never)
        await first.settle("a", an_hour(1))
        await first.reserve("b", an_hour(4), never)
        second = Budget({}, FileLedger(path))
        assert (second.used, second.reserved) == (an_hour(1), an_hour(4))

    async def test_a_line_that_a_crash_cut_had_no_effect(self, tmp_path: Any) -> None:
        path = tmp_path / "jobs.jsonl"
        await Budget({}, FileLedger(path)).reserve("a", an_hour(2), never)
        with path.open("a") as file:
            file.write('{"is": "reserved", "key": "b", "amou')
        budget = Budget({}, FileLedger(path))
        assert budget.reserved == an_hour(2)
        await budget.reserve("c", an_hour(1), never)
        assert Budget({}, FileLedger(path)).reserved.node_hours == 3

    def test_a_damaged_ledger_is_told(self, tmp_path: Any) -> None:
        path = tmp_path / "jobs.jsonl"
        path.write_text('{"is": "res\n{}\n')
        with pytest.raises(StoreError, match="damaged"):
            Budget({}, FileLedger(path))

    def test_it_is_for_its_owner_only(self, tmp_path: Any) -> None:
        path = tmp_path / "jobs.jsonl"
        FileLedger(path).add({"is": "used", "key": "a", "amount": {}, "at": 0})
        assert path.stat().st_mode & 0o777 == 0o600

    async def test_a_fork_inherits_what_was_used_before_it(self, tmp_path: Any) -> None:
        path = tmp_path / "jobs.jsonl"
        ledger = FileLedger(path)
        ledger.add({"is": "reserved", "key": "a", "amount": an_hour(2).as_dict(), "at": 10.0})
        ledger.add({"is": "used", "key": "a", "amount": an_hour(1).as_dict(), "at": 20.0})
        ledger.add({"is": "used", "key": "b", "amount": an_hour(7).as_dict(), "at": 30.0})
        for until, hours in ((15.0, 2), (25.0, 1), (None, 8)):
            line = inherited(ledger, until)
            assert line is not None
            child = MemoryLedger()
            child.add(json.loads(json.dumps(line)))
            assert Budget({}, child).used.node_hours == hours
        assert inherited(ledger, 5.0) is None


@settings(deadline=None)
@given(
    st.floats(0.5, 20),
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 1)), min_size=1, max_size=40),
)
def test_no_order_of_jobs_passes_a_limit(limit: float, jobs: list[tuple[float, float]]) -> None:
    async def run() -> None:
        ledger = MemoryLedger()
        budget = Budget({"node_hours": limit}, ledger)
        for number, (most, part) in enumerate(jobs):
            try:
                await budget.reserve(str(number), Amount(node_hours=most), never)
            except LimitReached:
                continue
            await budget.settle(str(number), Amount(node_hours=most * part))
        used = [x["amount"]["node_hours"] for x in ledger.lines() if x["is"] == "used"]
        assert budget.used.node_hours == math.fsum(used)
        assert math.fsum(used) <= limit * (1 + 1e-9)

    asyncio.run(run())
