"""A wall clock that jumps while a job runs ends no job, and keeps none alive."""

from __future__ import annotations

import time

import pytest

from fractale.clock import SystemClock, elapsed, moment
from fractale.plan.build import load_plan
from fractale.runs import RunOptions, Runs
from fractale.testing import FakeToolServer

DAY = 86_400.0


class Jumping(SystemClock):
    """A clock that somebody sets anew once a job was submitted."""

    def __init__(self, by: float, *, slow: float = 1.0, boot: str = "one") -> None:
        self.by, self.slow, self.boot_name = by, slow, boot
        self.started = time.monotonic()
        self.read = 0

    def wall(self) -> float:
        self.read += 1
        return time.time() + (self.by if self.read > 1 else 0.0)

    def boot(self) -> float:
        return (time.monotonic() - self.started) * self.slow

    def boot_id(self) -> str:
        return self.boot_name


async def run(settings, tmp_path, clock, *, seconds: float, limit: str):
    (tmp_path / "p.yaml").write_text(
        f"name: p\nsteps: [{{name: s, timeout: {limit}, "
        f"job: {{scheduler: local, command: [sleep, '{seconds}']}}}}]\n"
    )
    seen = []
    options = RunOptions(clock=clock, listeners=[seen.append])
    result = await Runs(settings, FakeToolServer()).start(
        load_plan(tmp_path / "p.yaml"), options=options
    )
    (end,) = [each.data for each in seen if each.kind == "step_finished"]
    return result, end


@pytest.mark.parametrize("by", [DAY, -DAY], ids=["forward", "back"])
async def test_a_job_goes_on_while_the_clock_jumps(settings, tmp_path, by):
    result, end = await run(settings, tmp_path, Jumping(by), seconds=1.5, limit="10m")
    assert result.status == "success", result.error
    assert 0 < end["seconds"] < 600


@pytest.mark.parametrize("by", [0, DAY, -DAY], ids=["still", "forward", "back"])
async def test_a_jobs_time_is_up_whatever_the_clock_shows(settings, tmp_path, by):
    clock = Jumping(by, slow=600)  # ten minutes a second
    result, end = await run(settings, tmp_path, clock, seconds=300, limit="15m")
    assert result.status == "failed"
    assert "15" in str(end["reason"]) or "timeout" in str(end["reason"])


def test_another_process_of_the_same_start_measures_the_same():
    first, then = Jumping(0), Jumping(DAY)
    then.started = first.started - 100
    assert elapsed(then, moment(first)) == pytest.approx(100, abs=5)


def test_after_a_restart_the_wall_clocks_count():
    first, then = Jumping(0), Jumping(0, boot="two")
    began = {**moment(first), "wall": time.time() - 60}
    assert elapsed(then, began) == pytest.approx(60, abs=5)
    assert elapsed(then, {"wall": time.time() - 60}) == pytest.approx(60, abs=5)
    assert elapsed(then, {"wall": time.time() + DAY}) == 0


def test_this_machines_clock_goes_on():
    clock = SystemClock()
    began = moment(clock)
    assert clock.boot_id() == began["boot_id"]
    assert 0 <= elapsed(clock, began) < 60
