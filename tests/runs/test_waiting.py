"""Runs that wait for a time: in their process, without one, killed, and resumed early or late."""

from __future__ import annotations

import time

from fractale.clock import SystemClock
from fractale.plan.build import load_plan
from fractale.runs import RunOptions, Runs
from fractale.testing import FakeToolServer

PLAN = """
name: p
inputs: {long: 2h}
steps:
  - {name: start, tool: note}
  - {name: pause, wait: "{{ inputs.long }}"}
  - {name: end, tool: note}
"""


class Ahead(SystemClock):
    """A clock that is some seconds ahead of the machine's."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def wall(self) -> float:
        return super().wall() + self.seconds

    def boot(self) -> float:
        return super().boot() + self.seconds


def notes() -> FakeToolServer:
    """A server with one tool, which may change something."""
    server = FakeToolServer()

    @server.tool
    def note() -> dict[str, int]:
        return {"calls": len(server.calls)}

    return server


def plan_of(tmp_path, text=PLAN):
    (tmp_path / "p.yaml").write_text(text)
    return load_plan(tmp_path / "p.yaml")


async def test_a_step_waits_in_its_process(settings, tmp_path):
    plan, tools, seen = plan_of(tmp_path), notes(), []
    options = RunOptions(listeners=[seen.append])
    before = time.monotonic()
    result = await Runs(settings, tools).start(plan, {"long": "300ms"}, options=options)
    assert result.status == "success", result.error
    assert time.monotonic() - before >= 0.3
    (timer,) = [each.data for each in seen if each.kind == "timer"]
    assert timer["step"] == "pause"
    assert timer["reason"] == "waits 0.3 s"
    (end,) = [e.data for e in seen if e.kind == "step_finished" and e.data["step"] == "pause"]
    assert end["seconds"] >= 0.3
    assert result.usage["seconds"] < 0.3, "the run does not count the time that it waits"


async def test_a_detached_run_ends_and_waits_for_the_rest(settings, tmp_path):
    plan, tools = plan_of(tmp_path), notes()
    runs = Runs(settings, tools)
    result = await runs.start(plan, options=RunOptions(detach=True))
    assert result.status == "waiting"
    (waiting,) = result.waiting
    assert (waiting["kind"], waiting["step"]) == ("timer", "pause")
    assert waiting["reason"] == "waits 2 h 00 min"
    assert waiting["due"]["seconds"] == 7200
    # Resumed early, it waits for the same moment.
    early = RunOptions(detach=True, clock=Ahead(7000))
    again = await runs.resume(result.run, early, plan=plan)
    assert again.status == "waiting"
    assert again.waiting[0]["until"] == waiting["until"]
    late = await runs.resume(result.run, RunOptions(detach=True, clock=Ahead(7201)), plan=plan)
    assert late.status == "success"
    assert len(tools.calls) == 2
