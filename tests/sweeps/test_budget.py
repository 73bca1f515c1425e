"""One budget over the runs of a sweep: what is reserved, what is used, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counts import examples
from fractale.errors import StoreError, UsageError
from fractale.plan import Plan, parse_plan
from fractale.store.locks import RunLock
from fractale.store.run_record import RunRecord
from fractale.sweeps.budget import (
    AT_ONCE,
    SWEEP_LIMITS,
    RunBound,
    SweepBudget,
    check_limits,
    most_of,
    use_of,
    used_by,
    words,
)
from fractale.sweeps.results import LimitView
from fractale.testing import FakeToolServer, Reply, ScriptedModel

PLAN = """
name: melt
limits: {node_hours: 2, tokens: 1000}
steps:
  - {name: melt, job: {command: [lmp], time: 1h}}
"""


def plan(text: str = PLAN) -> Plan:
    return parse_plan(text)


def started(row: int, attempt: int = 1, **reserved: float) -> dict[str, Any]:
    run = f"s.{row}" if attempt == 1 else f"s.{row}.{attempt}"
    return {"row": row, "is": "started", "run": run, "attempt": attempt, "reserved": reserved}


def ended(row: int, status: str = "success", attempt: int = 1, **used: float) -> dict[str, Any]:
    line = started(row, attempt)
    del line["reserved"]
    return {**line, "is": "ended", "status": status, "used": used}


class TestRoom:
    def test_what_was_used_takes_the_place_of_what_was_reserved(self) -> None:
        budget = SweepBudget({"node_hours": 3}, [started(0, node_hours=2)])
        assert (budget.used["node_hours"], budget.reserved["node_hours"]) == (0, 2)
        budget.count(ended(0, node_hours=0.25))
        assert (budget.used["node_hours"], budget.reserved["node_hours"]) == (0.25, 0)

    def test_a_run_that_does_not_fit_is_named_by_its_limit(self) -> None:
        budget = SweepBudget({"tokens": 100, "node_hours": 3}, [started(0, node_hours=2)])
        assert budget.obstacle("s.1", {"node_hours": 1}) == ""
        assert budget.obstacle("s.1", {"node_hours": 1.5}) == "node_hours"
        assert budget.obstacle("s.1", {"tokens": 101, "node_hours": 1.5}) == "tokens"

    def test_an_end_may_make_room_but_not_if_the_budget_is_spent(self) -> None:
        budget = SweepBudget({"node_hours": 3}, [started(0, node_hours=2)])
        assert not budget.is_spent("s.1", {"node_hours": 3})
        budget.count(ended(0, node_hours=0.5))
        assert budget.is_spent("s.1", {"node_hours": 3})
        assert not budget.is_spent("s.1", {"node_hours": 2.5})

    @pytest.mark.parametrize("status", ["waiting", "running"])
    def test_a_run_that_is_not_over_keeps_its_reservation(self, status: str) -> None:
        budget = SweepBudget({}, [started(0, tokens=50), ended(0, status, tokens=10)])
        assert (budget.used["tokens"], budget.reserved["tokens"]) == (0, 50)

    def test_a_lost_run_keeps_its_reservation_until_it_is_settled_once_with_its_total(self) -> None:
        budget = SweepBudget({}, [started(0, tokens=50)])
        budget.count({"row": 0, "is": "lost", "run": "s.0", "attempt": 1, "reason": "killed"})
        assert budget.reserved["tokens"] == 50
        budget.count(started(0, tokens=50))
        assert budget.reserved["tokens"] == 50
        budget.count(ended(0, tokens=30))
        assert (budget.used["tokens"], budget.reserved["tokens"]) == (30, 0)

    def test_a_second_end_counts_nothing(self) -> None:
        lines = [started(0, tokens=50), ended(0, tokens=30), ended(0, tokens=30)]
        assert SweepBudget({}, lines).used["tokens"] == 30

    def test_use_without_a_start_counts_nothing(self) -> None:
        assert SweepBudget({}, [ended(0, "failed", tokens=30)]).used["tokens"] == 0

    def test_an_end_that_does_not_know_the_use_counts_the_reservation(self) -> None:
        line = ended(0, "failed")
        del line["used"]
        budget = SweepBudget({}, [started(0, tokens=50), line])
        assert (budget.used["tokens"], budget.reserved["tokens"]) == (50, 0)

    def test_a_retry_reserves_anew_and_the_failed_attempt_stays_counted(self) -> None:
        budget = SweepBudget({"tokens": 100}, [started(0, tokens=60)])
        budget.count(ended(0, "failed", tokens=45))
        budget.count({"row": 0, "is": "retried"})
        assert budget.obstacle("s.0.2", {"tokens": 60}) == "tokens"
        assert budget.obstacle("s.0.2", {"tokens": 55}) == ""
        budget.count(started(0, 2, tokens=55))
        budget.count(ended(0, attempt=2, tokens=5))
        assert budget.used["tokens"] == 50

    @pytest.mark.parametrize("status", ["stopped", "limit"])
    def test_a_run_that_is_resumed_counts_once_with_its_total(self, status: str) -> None:
        budget = SweepBudget({"tokens": 60}, [started(0, tokens=50), ended(0, status, tokens=40)])
        assert (budget.used["tokens"], budget.reserved["tokens"]) == (40, 0)
        assert budget.obstacle("s.0", {"tokens": 60}) == ""  # its own 40 are among the 60
        assert budget.obstacle("s.1", {"tokens": 21}) == "tokens"
        budget.count(started(0, tokens=60))
        assert (budget.used["tokens"], budget.reserved["tokens"]) == (0, 60)
        budget.count(ended(0, tokens=55))
        assert (budget.used["tokens"], budget.reserved["tokens"]) == (55, 0)

    def test_a_cancelled_row_settles_by_what_its_record_says(self) -> None:
        line = {"row": 0, "is": "cancelled", "run": "s.0"}
        budget = SweepBudget({}, [started(0, tokens=50), line])
        assert budget.reserved["tokens"] == 50  # nobody read its record
        budget.count({**line, "used": {"tokens": 20}})
        assert (budget.used["tokens"], budget.reserved["tokens"]) == (20, 0)

    def test_a_retry_of_a_run_that_was_never_settled_leaves_no_reservation(self) -> None:
        budget = SweepBudget({}, [started(0, tokens=50), {"row": 0, "is": "cancelled"}])
        budget.count({"row": 0, "is": "retried", "run": "s.0", "used": {"tokens": 20}})
        assert (budget.used["tokens"], budget.reserved["tokens"]) == (20, 0)
        assert not budget.open_runs

    @pytest.mark.parametrize("what", ["cancelled", "retried", "settled"])
    def test_a_run_whose_record_was_removed_stays_counted(self, what: str) -> None:
        budget = SweepBudget({}, [started(0, tokens=50), ended(0, "limit", tokens=40)])
        budget.count({"row": 0, "is": what, "run": "s.0", "used": {"tokens": 0}})
        assert budget.used["tokens"] == 40
        assert not budget.has_changed("s.0", {"tokens": 0})

    def test_a_run_that_continued_without_the_sweep_counts_anew(self) -> None:
        budget = SweepBudget({}, [started(0, tokens=50), ended(0, "limit", tokens=40)])
        assert budget.has_changed("s.0", {"tokens": 70})
        budget.count({"is": "settled", "run": "s.0", "used": {"tokens": 70}})
        assert budget.used["tokens"] == 70
        assert not budget.has_changed("s.0", {"tokens": 70})

    def test_a_cancelled_row_that_never_started_counts_nothing(self) -> None:
        budget = SweepBudget({}, [{"row": 0, "is": "cancelled"}])
        assert {*budget.used.values(), *budget.reserved.values()} == {0}

    def test_jobs_in_progress_are_counted_while_a_run_is(self) -> None:
        budget = SweepBudget({AT_ONCE: 10}, [started(0, jobs=8, jobs_at_once=8)])
        assert budget.obstacle("s.1", {"jobs": 3, AT_ONCE: 3}) == AT_ONCE
        budget.count(ended(0, jobs=8, jobs_at_once=0))
        assert budget.obstacle("s.1", {"jobs": 8, AT_ONCE: 8}) == ""
        assert budget.used["jobs"] == 8

    def test_sums_of_small_amounts_are_exact(self) -> None:
        budget = SweepBudget({"cost": 1})
        for row in range(10):
            assert budget.obstacle(f"s.{row}", {"cost": 0.1}) == ""
            budget.count(started(row, cost=0.1))
            budget.count(ended(row, cost=0.1))
        assert budget.used["cost"] == 1
        assert budget.obstacle("s.10", {"cost": 0.000001}) == "cost"

    def test_nothing_is_kept_of_runs_that_are_over(self) -> None:
        budget = SweepBudget({"tokens": 10**6})
        for row in range(200):
            budget.count(started(row, tokens=50))
            budget.count(ended(row, tokens=30))
        assert len(budget.open_runs) == 0

    def test_the_views_show_what_is_left(self) -> None:
        lines = [started(0, tokens=50), ended(0, tokens=30), started(1, tokens=50, node_hours=2)]
        views = SweepBudget({"node_hours": 10, "tokens": 100}, lines).views()
        assert views == (
            LimitView(name="tokens", limit=100, used=30, reserved=50),
            LimitView(name="node_hours", limit=10, used=0, reserved=2),
        )
        assert [view.left for view in views] == [20, 8]

    def test_the_reason_says_who_has_the_rest(self) -> None:
        lines = [started(0, node_hours=2), ended(0, node_hours=1.5), started(1, node_hours=1)]
        budget = SweepBudget({"node_hours": 3}, lines)
        said = "1.5 are used, 1 are reserved by runs that are not over"
        assert budget.why("node_hours", "s.2", {"node_hours": 1}) == (
            "the next run may use 1 node-hour, more than the sweep's limit `node_hours` of 3 "
            f"leaves: {said}; their ends may free enough"
        )
        assert budget.why("node_hours", "s.2", {"node_hours": 2}).endswith(said)

    def test_amounts_have_units(self) -> None:
        assert [words("cost", 0.25), words("tokens", 1), words("node_hours", 2.5)] == [
            "$0.25",
            "1 token",
            "2.5 node-hours",
        ]


# -- any sequence of events -----------------------------------------------------------------------

NAMES = ("tokens", "node_hours")


@dataclass
class Sweep:
    """A sweep in a model: runs that use at most what they may, and a driver that may be killed."""

    limits: dict[str, float]
    most: dict[str, float]
    lines: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    attempts: dict[int, int] = field(default_factory=dict[int, int])
    states: dict[int, str] = field(default_factory=dict[int, str])
    use: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    open: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        self.budget = SweepBudget(self.limits)

    def write(self, line: dict[str, Any]) -> None:
        self.lines.append(json.loads(json.dumps(line)))
        self.budget.count(self.lines[-1])

    def run(self, row: int) -> str:
        attempt = self.attempts.get(row, 1)
        return f"s.{row}" if attempt == 1 else f"s.{row}.{attempt}"

    def does(self, run: str, part: float) -> None:
        """A run uses something, whether or not a driver is there to see it."""
        before = self.use.setdefault(run, dict.fromkeys(NAMES, 0.0))
        for name in NAMES:
            left = self.most[name] - before[name]
            before[name] = round(before[name] + left * part, 9)

    def step(self, what: str, row: int, part: float) -> None:
        run, attempt, state = self.run(row), self.attempts.get(row, 1), self.states.get(row, "")
        if what == "start" and state not in ("success", "failed", "running"):
            if not self.budget.obstacle(run, self.most):
                self.write(started(row, attempt, **self.most))
                self.states[row] = "running"
                self.open.add(run)
        elif what == "use" and run in self.open:
            self.does(run, part)
        elif what in ("success", "failed", "stopped", "limit", "waiting") and state == "running":
            self.does(run, part)
            self.write(ended(row, what, attempt, **self.use[run]))
            self.states[row] = what
            if what != "waiting":
                self.open.discard(run)
        elif what == "again" and state in ("success", "failed"):
            self.write(ended(row, state, attempt, **self.use[run]))
        elif what == "lost" and state == "running":
            self.write({"row": row, "is": "lost", "run": run, "attempt": attempt, "reason": ""})
            self.write(started(row, attempt, **self.most))
        elif what == "retry" and state == "failed":
            self.write({"row": row, "is": "retried"})
            self.attempts[row], self.states[row] = attempt + 1, ""
        elif what == "kill":
            self.killed(part)

    def killed(self, part: float) -> None:
        """The driver is killed. Maybe it had not yet written the end of a run that is over."""
        if self.lines and part < 0.3 and self.lines[-1]["is"] == "ended":
            cut = self.lines.pop()
            if cut["run"] == self.run(cut["row"]) and self.states[cut["row"]] == cut["status"]:
                found = [x for x in self.lines if x.get("run") == cut["run"]]
                over = found[-1]["is"] == "ended"
                self.states[cut["row"]] = found[-1]["status"] if over else "running"
                if not over:
                    self.open.add(cut["run"])
        self.budget = SweepBudget(self.limits, self.lines)

    def check(self) -> None:
        settled = {run: used for run, used in self.use.items() if run not in self.open}
        for name in NAMES:
            used = sum(round(each[name] * 10**9) for each in settled.values())
            assert round(self.budget.used[name] * 10**9) == used
            reserved = len(self.open) * round(self.most[name] * 10**9)
            assert round(self.budget.reserved[name] * 10**9) == reserved
            true = sum(round(each[name] * 10**9) for each in self.use.values())
            assert true <= used + reserved <= round(self.limits[name] * 10**9)


WHAT = ("start", "start", "start", "use", "success", "failed", "stopped", "limit", "waiting")
MORE = ("again", "lost", "retry", "kill")


@settings(deadline=None, max_examples=examples(400))
@given(
    st.tuples(st.integers(1, 5000), st.floats(0.01, 50)),
    st.tuples(st.integers(1, 1000), st.floats(0.001, 20)),
    st.lists(
        st.tuples(st.sampled_from(WHAT + MORE), st.integers(0, 5), st.floats(0, 1)), max_size=60
    ),
)
def test_no_sequence_of_events_passes_a_limit_or_loses_a_reservation(
    limits: tuple[int, float], most: tuple[int, float], steps: list[tuple[str, int, float]]
) -> None:
    sweep = Sweep(dict(zip(NAMES, limits, strict=True)), dict(zip(NAMES, most, strict=True)))
    for step in steps:
        sweep.step(*step)
        sweep.check()
    for row in [row for row in sweep.states if sweep.run(row) in sweep.open]:
        if sweep.states[row] == "waiting":
            sweep.step("start", row, 0)
        sweep.step("success", row, 0.5)
    sweep.check()
    assert set(sweep.budget.reserved.values()) == {0}
    again = SweepBudget(sweep.limits, sweep.lines)
    assert (again.used, again.reserved) == (sweep.budget.used, sweep.budget.reserved)


# -- what a run may use ---------------------------------------------------------------------------

ASKING = """
name: asking
limits: {tokens: 100}
steps: [{name: look, tool: look}]
finally: [{name: words, prompt: say}]
on_failure: [{name: why, agent: , instruction: why, tools: []}]
"""
SUBMITTING = """
name: submitting
limits: {node_hours: 4, jobs: 3}
steps: [{name: look, tool: look}]
finally: [%s]
"""


class TestMost:
    def test_the_limits_of_each_run_replace_those_of_the_plan(self) -> None:
        most = most_of(plan(), {"node_hours": 0.5, "jobs": 3, "steps": 7})
        assert most == {"tokens": 1000, "node_hours": 0.5, "jobs": 3, AT_ONCE: 3}

    def test_each_handler_that_asks_a_model_has_the_limit_for_itself(self) -> None:
        assert most_of(plan(ASKING), {}) == {"tokens": 300}

    @pytest.mark.parametrize(
        "step",
        [
            "{name: last, job: {command: [sleep, 1], time: 1m}}",
            "{name: last, tool: job_submit}",
            "{name: last, tool: site.job_run}",
            "{name: last, agent: , instruction: clean}",
            "{name: last, agent: , instruction: clean, tools: [site.*]}",
            "{name: last, type: plan, instruction: clean}",
            "{name: last, parallel: [{name: a, job: {command: [x], time: 1m}}]}",
        ],
    )
    def test_jobs_of_handlers_have_no_bound(self, step: str) -> None:
        assert most_of(plan(SUBMITTING % step), {}) == {}

    @pytest.mark.parametrize(
        "step",
        [
            "{name: last, tool: clean}",
            "{name: last, script: rm -f x}",
            "{name: last, agent: , instruction: clean, tools: [look]}",
        ],
    )
    def test_handlers_that_submit_nothing_leave_the_bound(self, step: str) -> None:
        assert most_of(plan(SUBMITTING % step), {}) == {"node_hours": 4, "jobs": 3, AT_ONCE: 3}


class TestCheck:
    def test_limits_that_runs_keep_are_accepted(self) -> None:
        check_limits({"node_hours": 2, "tokens": 5000, AT_ONCE: 4}, plan(), {"jobs": 4})

    @pytest.mark.parametrize(
        ("limits", "said", "hint"),
        [
            ({"cost": 5}, "limit `cost` needs a limit `cost` of each", "--run-limit cost="),
            ({AT_ONCE: 5}, "`jobs_at_once` needs a limit `jobs` of each", "--run-limit jobs="),
            (
                {"node_hours": 1.5},
                "one run may use 2 node-hours, more than .* limit of 1.5",
                "--limit",
            ),
            ({"steps": 5}, "`steps` is not a limit of a sweep; they are tokens", "--run-limit"),
        ],
    )
    def test_a_limit_that_cannot_be_kept_is_refused(
        self, limits: Mapping[str, float], said: str, hint: str
    ) -> None:
        with pytest.raises(UsageError, match=said) as raised:
            check_limits(limits, plan(), {})
        assert hint in str(raised.value.hint)

    def test_all_faults_are_said_at_once(self) -> None:
        with pytest.raises(UsageError, match=r"`cost`.*; .*2 node-hours"):
            check_limits({"cost": 5, "node_hours": 1}, plan(), {})

    def test_jobs_of_handlers_are_named_as_the_reason(self) -> None:
        job = "{name: last, job: {command: [sleep, 1], time: 1m}}"
        with pytest.raises(UsageError, match="cannot be kept: handlers may submit jobs"):
            check_limits({"node_hours": 10}, plan(SUBMITTING % job), {})


# -- what a run has used --------------------------------------------------------------------------


def event(kind: str, **data: Any) -> str:
    return json.dumps({"event": kind, "run": "s.0", "time": 1.0, **data}) + "\n"


def call(key: str, tokens: int, **more: Any) -> str:
    used = {"input_tokens": tokens - 1, "output_tokens": 1, "cost": tokens / 1000}
    return event("model_finished", step="a", call=1, key=key, text="", **used, **more)


def record_of(folder: Path, *lines: str, jobs: tuple[dict[str, Any], ...] = ()) -> RunRecord:
    record = RunRecord("s.0", folder / "s.0")
    record.path.mkdir()
    record.events.write_text("".join(lines))
    if jobs:
        record.job_ledger.write_text("".join(f"{json.dumps(line)}\n" for line in jobs))
    return record


class TestUsed:
    def test_a_run_that_does_not_exist_used_nothing(self, tmp_path: Path) -> None:
        used = used_by(RunRecord("s.0", tmp_path / "s.0"))
        assert used == dict.fromkeys(SWEEP_LIMITS, 0)

    def test_calls_of_all_processes_count_once(self, tmp_path: Path) -> None:
        lines = [call("a", 10), call("b", 20), call("a", 10, recorded=True), call("c", 5)]
        used = used_by(record_of(tmp_path, *lines))
        assert (used["tokens"], used["cost"]) == (35, 0.035)

    def test_a_call_that_only_its_recording_reports_counts(self, tmp_path: Path) -> None:
        lines = [call("a", 10, recorded=True), call("a", 10, recorded=True)]
        assert used_by(record_of(tmp_path, *lines))["tokens"] == 10

    def test_a_torn_last_line_is_no_call(self, tmp_path: Path) -> None:
        assert used_by(record_of(tmp_path, call("a", 10), call("b", 20)[:-9]))["tokens"] == 10

    def test_the_words_of_a_tool_are_no_usage(self, tmp_path: Path) -> None:
        said = event("tool_finished", text=call("x", 99))
        assert used_by(record_of(tmp_path, said))["tokens"] == 0

    def test_a_damaged_record_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="cannot be read"):
            used_by(record_of(tmp_path, '{"event": "model_finished" x\n'))

    def test_a_job_whose_end_is_not_known_counts_whole(self, tmp_path: Path) -> None:
        most = {"node_hours": 2.0, "core_hours": 8.0, "gpu_hours": 0.0, "jobs": 1}
        jobs = (
            {"is": "reserved", "key": "a", "amount": most, "at": 1.0},
            {"is": "used", "key": "a", "amount": {**most, "node_hours": 0.5}, "at": 2.0},
            {"is": "reserved", "key": "b", "amount": most, "at": 3.0},
        )
        used = used_by(record_of(tmp_path, jobs=jobs))
        assert (used["node_hours"], used["jobs"], used[AT_ONCE]) == (2.5, 2, 1)

    async def test_it_is_what_the_result_of_a_real_run_says(
        self, run_plan: Callable[..., Any]
    ) -> None:
        server = FakeToolServer().prompt("say", "Say {what}.", arguments=[{"name": "what"}])
        model = ScriptedModel([Reply(text="a"), Reply(text="b")])
        text = """
name: asks
steps:
  - {name: one, prompt: say, inputs: {what: a}}
  - {name: two, prompt: say, inputs: {what: b}}
  - {name: work, job: {command: ["true"], time: 1m, scheduler: local}}
"""
        result = (await run_plan(text, tools=server, model=model, keep=True)).result
        assert result.status == "success"
        used = used_by(RunRecord(result.run, result.record))
        assert used["tokens"] == result.usage["total_tokens"] > 0
        assert used["node_hours"] == pytest.approx(result.usage["node_hours"], abs=1e-9)
        assert (used["jobs"], used[AT_ONCE]) == (1, 0)

    def test_a_run_that_a_process_has_keeps_its_reservation(self, tmp_path: Path) -> None:
        record = record_of(tmp_path, call("a", 10))
        with RunLock(record):
            assert use_of(record) == {}
        assert use_of(record)["used"]["tokens"] == 10

    def test_a_damaged_record_settles_nothing(self, tmp_path: Path) -> None:
        assert use_of(record_of(tmp_path, '{"event": "model_finished" x\n')) == {}


class TestBound:
    def test_a_new_run_reserves_its_limits(self, tmp_path: Path) -> None:
        bound = RunBound(plan(), {})
        assert bound.of(RunRecord("s.0", tmp_path / "s.0")) == bound.most

    def test_a_run_that_used_more_than_its_limit_reserves_that(self, tmp_path: Path) -> None:
        record = record_of(tmp_path, call("a", 1200))
        assert RunBound(plan(), {}).of(record) == {"tokens": 1200, "node_hours": 2}

    def test_a_resumed_run_reserves_its_limits_again_not_more(self, tmp_path: Path) -> None:
        record = record_of(tmp_path, call("a", 600))
        assert RunBound(plan(), {}).of(record)["tokens"] == 1000

    def test_handlers_begin_anew_so_what_was_used_comes_on_top(self, tmp_path: Path) -> None:
        record = record_of(tmp_path, call("a", 60))
        assert RunBound(plan(ASKING), {}).of(record) == {"tokens": 360}
