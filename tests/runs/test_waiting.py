"""Runs that wait for a time: in their process, without one, killed, and resumed early or late."""

from __future__ import annotations

import time

from fractale.clock import SystemClock
from fractale.plan.build import load_plan
from fractale.questions import Answers
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


POLL = """
name: p
inputs: {every: 50ms, timeout: 20s}
steps:
  - name: poll
    tool: state
    until: status == 'ready'
    every: 50ms
    timeout: 20s
outputs: {status: "{{ steps.poll.outputs.status }}", calls: "{{ steps.poll.outputs.calls }}"}
"""


def service(*answers: str) -> FakeToolServer:
    """A server whose tool gives these states, one after the other; the last one stays."""
    server = FakeToolServer()

    @server.tool
    def state() -> dict[str, object]:
        calls = len(server.calls)
        status = answers[min(calls, len(answers)) - 1]
        if status == "error":
            raise ValueError("the service is down")
        return {"status": status, "calls": calls}

    return server


async def test_a_tool_is_called_until_its_answer_is_there(settings, tmp_path):
    plan, tools, seen = plan_of(tmp_path, POLL), service("booting", "booting", "ready"), []
    options = RunOptions(listeners=[seen.append])
    result = await Runs(settings, tools).start(plan, options=options)
    assert result.status == "success", result.error
    assert result.outputs == {"status": "ready", "calls": 3}
    assert [s["attempt"] for s in result.steps] == [1], "the calls are one attempt"
    reasons = [each.data["reason"] for each in seen if each.kind == "timer"]
    assert reasons == [
        "calls `state` again in 0.1 s (call 2)",
        "calls `state` again in 0.1 s (call 3)",
    ]


async def test_a_failed_call_ends_the_polling(settings, tmp_path):
    plan, tools = plan_of(tmp_path, POLL), service("booting", "error")
    result = await Runs(settings, tools).start(plan)
    assert result.status == "failed"
    assert "the service is down" in str(result.error)
    assert len(tools.calls) == 2


async def test_the_timeout_ends_the_polling_and_says_the_last_answer(settings, tmp_path):
    plan = plan_of(tmp_path, POLL.replace("timeout: 20s\nout", "timeout: 300ms\nout"))
    tools = service("booting")
    result = await Runs(settings, tools).start(plan)
    assert result.status == "failed"
    assert str(result.error).startswith("`until` was not true within 0.3 s (")
    assert '"status": "booting"' in str(result.error)
    assert result.decided["code"] == "until"
    assert len(tools.calls) > 2


async def test_a_rule_with_an_event_ends_the_polling(settings, tmp_path):
    plan = plan_of(
        tmp_path,
        POLL.replace(
            "timeout: 20s\nout",
            "timeout: 20s\n    rules: {broken: status == 'broken'}\n"
            "    transitions: {broken: failed}\nout",
        ),
    )
    tools = service("booting", "broken", "ready")
    result = await Runs(settings, tools).start(plan)
    assert result.status == "failed"
    assert len(tools.calls) == 2


async def test_a_detached_poll_holds_no_process_between_its_calls(settings, tmp_path):
    plan = plan_of(
        tmp_path, POLL.replace("every: 50ms\n    ", "every: 1m\n    ").replace("20s", "1h")
    )
    tools = service("booting", "booting", "ready")
    runs = Runs(settings, tools)
    result = await runs.start(plan, options=RunOptions(detach=True))
    assert result.status == "waiting"
    assert result.waiting[0]["reason"] == "calls `state` again in 1 min 00 s (call 2)"
    for ahead, calls in ((30, 1), (61, 2), (61, 2), (122, 3)):
        options = RunOptions(detach=True, clock=Ahead(ahead))
        result = await runs.resume(result.run, options, plan=plan)
        assert len(tools.calls) == calls
    assert result.status == "success"
    assert result.outputs["calls"] == 3


RETRY = """
name: p
steps:
  - name: poll
    tool: state
    retry: {attempts: 3, delay: 20ms, on: failure}
outputs: {calls: "{{ steps.poll.outputs.calls }}"}
"""


async def test_a_failure_is_tried_again_after_a_pause(settings, tmp_path):
    plan, tools, seen = plan_of(tmp_path, RETRY), service("error", "error", "ready"), []
    options = RunOptions(listeners=[seen.append])
    result = await Runs(settings, tools).start(plan, options=options)
    assert result.status == "success", result.error
    assert result.outputs == {"calls": 3}
    assert [s["attempt"] for s in result.steps] == [1], "the tries are one attempt"
    warnings = [each.data for each in seen if each.kind == "warning"]
    assert [each["code"] for each in warnings] == ["retry", "retry"]
    assert warnings[0]["message"].startswith("try 1 failed, trying again in 0.0 s: ")
    # A pause that is over before the step looks at it has no event.
    reasons = {e.data["reason"] for e in seen if e.kind == "timer"}
    assert reasons <= {f"tries again in 0.0 s (try {n} of 3)" for n in (2, 3)}


async def test_the_last_failure_is_the_error(settings, tmp_path):
    plan, tools = plan_of(tmp_path, RETRY), service("error")
    result = await Runs(settings, tools).start(plan)
    assert result.status == "failed"
    assert "the service is down" in str(result.error)
    assert len(tools.calls) == 3


async def test_evidence_counts_as_a_failure_but_an_own_event_does_not(settings, tmp_path):
    rules = "\n    rules: {failure: status == 'booting', odd: status == 'odd'}"
    text = RETRY.replace("\nout", rules + "\n    transitions: {odd: failed}\nout")
    tools = service("booting", "odd", "ready")
    result = await Runs(settings, tools).start(plan_of(tmp_path, text))
    assert result.status == "failed"
    assert len(tools.calls) == 2


async def test_a_refused_call_is_not_tried_again(settings, tmp_path):
    plan = plan_of(tmp_path, RETRY.replace("tool: state", "tool: state\n    approve: always"))
    tools = service("ready")
    runs = Runs(settings, tools)
    result = await runs.start(plan)
    assert result.status == "waiting"
    assert "up to 3 times if it fails" in result.waiting[0]["why"]
    refused = RunOptions(answers=Answers({"poll": "no"}))
    result = await runs.resume(result.run, refused, plan=plan)
    assert result.status == "failed"
    assert "a person refused" in str(result.error)
    assert not tools.calls


async def test_consent_covers_the_tries_of_one_attempt(settings, tmp_path):
    plan = plan_of(tmp_path, RETRY.replace("tool: state", "tool: state\n    approve: always"))
    tools = service("error", "error", "ready")
    runs = Runs(settings, tools)
    result = await runs.start(plan)
    result = await runs.resume(result.run, RunOptions(answers=Answers({"poll": "yes"})), plan=plan)
    assert result.status == "success", (result.error, result.waiting)
    assert len(tools.calls) == 3
