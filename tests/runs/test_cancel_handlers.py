"""`fractale cancel` and the handlers of a plan: those of an end that was reached, and `finally`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fractale
from fractale.runs.cancelling import may_end
from fractale.settings import Settings
from fractale.store.run_record import RunRecords

DO = """
def do(what: str, fail: bool = False) -> dict:
    'Do something.'
    with open({calls!r}, 'a') as file:
        file.write(what + '\\n')
    if fail:
        raise ValueError('broken ' + what)
    return {{'did': what}}

def tidy(what: str{more}) -> dict:
    'Tidy up.'
    return do(what)
"""

PLAN = """
name: handled
inputs: {bad: false}
steps:
  - {name: one, tool: do, inputs: {what: one, fail: "{{ inputs.bad }}"}}
outputs: {did: "{{ steps.one.outputs.did | default('nothing') }}"}
on_failure:
  - {name: hold, wait: 1h}
  - {name: note, tool: tidy, inputs: {what: note}}
finally:
  - {name: clean, tool: tidy, inputs: {what: "clean {{ run.outcome }}"}}
  - {name: more, tool: tidy, inputs: {what: more}}
"""
ASKS = PLAN.replace("name: more,", "name: more, approve: always,")
WAITS = PLAN.replace("{name: clean", "{name: rest, wait: 1h}\n  - {name: clean")


class Program:
    """A user's program with two tools, and the calls that were made."""

    def __init__(self, folder: Path, settings: Settings, forget: Callable[[], None]) -> None:
        self._folder, self._forget = folder, forget
        self.settings = settings
        (folder / "tools.yaml").write_text("tools: [{path: noted.do}, {path: noted.tidy}]")
        self.write()

    def write(self, more: str = "") -> None:
        """Write the program; `more` are further parameters of `tidy`."""
        self._forget()
        text = DO.format(calls=str(self._folder / "calls"), more=more)
        (self._folder / "noted.py").write_text(text)

    @property
    def calls(self) -> list[str]:
        return (self._folder / "calls").read_text().splitlines()

    async def run(self, plan: str, **inputs: Any) -> Any:
        registries = [self._folder / "tools.yaml"]
        return await fractale.arun(
            plan, inputs, registries=registries, settings=self.settings, keep=True, detach=True
        )

    async def cancel(self, run: str) -> Any:
        return await fractale.acancel(run, settings=self.settings)

    def last(self, run: str) -> dict[str, Any]:
        """How the record says that the run ended."""
        record = RunRecords(self.settings.state_dir).find(run)
        return next(record.events_from_end(("run_finished",)))


@pytest.fixture
def program(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Program(
        tmp_path, settings, lambda: monkeypatch.delitem(sys.modules, "noted", raising=False)
    )


@pytest.mark.parametrize(
    ("plan", "bad", "calls", "step", "what"),
    [
        (ASKS, False, ["one", "clean success"], "finally/more", "its question had no answer"),
        (WAITS, False, ["one"], "finally/rest", "it waited"),
        (PLAN, True, ["one", "clean failed", "more"], "on_failure/hold", "it waited"),
    ],
)
async def test_a_plan_that_had_ended_keeps_its_end(program, plan, bad, calls, step, what):
    run = await program.run(plan, bad=bad)
    assert (run.status, run.waiting[0]["step"]) == ("waiting", step)
    cancelled = await program.cancel(run.run)
    ended = cancelled.ended
    assert (ended.status, cancelled.trouble) == ("failed" if bad else "success", "")
    assert ended.error == ("ValueError: broken one" if bad else None)
    assert ended.outputs == {"did": "nothing" if bad else "one"}
    assert program.calls == calls
    (notice,) = [each for each in ended.notices if each["step"] == step]
    rest = step.partition("/")[0]
    assert (
        notice["message"] == f"{what} when the run was cancelled; the rest of `{rest}` did not run"
    )
    assert program.last(run.run)["status"] == ended.status
    # It is over: neither another cancel nor a resume does anything.
    assert (await program.cancel(run.run)).ended is None
    again = await fractale.aresume(run.run, settings=program.settings)
    assert (again.status, program.calls) == (ended.status, calls)


async def test_both_lists_may_wait(program):
    plan = WAITS.replace("{name: rest, wait: 1h}", "{name: rest, ask: 'Tidy up?'}")
    run = await program.run(plan, bad=True)
    ended = (await program.cancel(run.run)).ended
    assert (ended.status, program.calls) == ("failed", ["one"])
    steps = [notice["step"] for notice in ended.notices if notice.get("handler")]
    assert steps == ["on_failure/hold", "finally/rest"]


async def test_on_failure_alone_is_finished_too(program):
    run = await program.run(PLAN.partition("finally:")[0], bad=True)
    ended = (await program.cancel(run.run)).ended
    assert (ended.status, ended.error) == ("failed", "ValueError: broken one")


async def test_a_question_of_finally_at_a_cancel_is_a_warning(program):
    plan = ASKS.replace("name: one,", "name: one, approve: always,")
    run = await program.run(plan)
    ended = (await program.cancel(run.run)).ended
    assert (ended.status, ended.error) == ("stopped", "cancelled by `fractale cancel`")
    assert [notice["step"] for notice in ended.notices] == ["finally/more"]
    assert program.calls == ["clean cancelled"]
    # A resume continues the plan, and its next end runs the lists anew.
    answers = {"one": True, "finally/more": True}
    result = await fractale.aresume(run.run, answers=answers, settings=program.settings)
    assert (result.status, program.calls[1:]) == ("success", ["one", "clean success", "more"])
    attempts = [step["attempt"] for step in result.steps if step["name"] == "finally/clean"]
    assert attempts == [1, 2]


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_changed_tool_of_the_handlers_is_not_called(program, has_ended):
    plan = ASKS if has_ended else ASKS.replace("name: one,", "name: one, approve: always,")
    run = await program.run(plan)
    program.write(", force: bool = True")
    before, called = program.last(run.run), program.calls if has_ended else []
    cancelled = await program.cancel(run.run)
    assert cancelled.ended is None
    assert "the schemas of tools have changed" in cancelled.trouble
    assert "`finally/clean` uses `tidy`" in cancelled.trouble
    if has_ended:
        assert program.calls == called
        assert program.last(run.run) == before
    assert may_end(RunRecords(program.settings.state_dir).find(run.run))
    program.write()
    cancelled = await program.cancel(run.run)
    assert cancelled.ended.status == ("success" if has_ended else "stopped")
    assert program.calls == ["one", "clean success"] if has_ended else ["clean cancelled"]


async def test_a_changed_tool_of_the_plan_alone_does_not_keep_finally_from_running(program):
    plan = PLAN.replace("tool: tidy", "tool: do").replace("tool: do", "tool: tidy", 1)
    plan = plan.replace(', fail: "{{ inputs.bad }}"', "")
    run = await program.run(plan.replace("name: one,", "name: one, approve: always,"))
    program.write(", force: bool = True")
    cancelled = await program.cancel(run.run)
    assert (cancelled.ended.status, cancelled.trouble) == ("stopped", "")
    assert program.calls == ["clean cancelled", "more"]


async def test_finally_of_a_fork_runs_at_a_cancel(program):
    plan = PLAN.replace("outputs:", "  - {name: two, tool: do, inputs: {what: two}}\noutputs:", 1)
    plan = plan.replace("what: more", 'what: "more {{ steps.one.outputs.did }}"')
    run = await program.run(plan.replace("name: two,", "name: two, approve: always,"))
    fork = await fractale.afork(run.run, "two", settings=program.settings)
    assert fork.status == "waiting"
    ended = (await program.cancel(fork.run)).ended
    assert (ended.status, program.calls) == ("stopped", ["one", "clean cancelled", "more one"])


MANY = "".join(f"  - {{name: s{n}, set: {{a: {n}}}}}\n" for n in range(150))
NO_PBS = "{name: two, job: {scheduler: pbs, command: [true], time: 1m}}"
IN_CHAIN = f"{{name: two, steps: [{{name: deep, set: {{b: 1}}}}, {NO_PBS.replace('two', 'last')}]}}"


@pytest.mark.parametrize("failing", [NO_PBS, MANY[4:] + f"  - {NO_PBS}", IN_CHAIN])
async def test_the_step_whose_error_ended_the_plan_is_the_one_that_failed(settings, failing):
    plan = f"""
name: broken
steps:
  - {{name: one, set: {{a: 1}}}}
  - {failing}
on_failure:
  - {{name: why, set: {{why: "{{{{ run.failed.step }}}}"}}}}
"""
    result = await fractale.arun(plan, settings=settings, yes=True, keep=True)
    assert result.status == "failed"
    record = RunRecords(settings.state_dir).find(result.run)
    seen = next(record.events_from_end(("step_finished",)))
    assert (seen["step"], seen["outputs"]) == ("on_failure/why", {"why": "two"})
