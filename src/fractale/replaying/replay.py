"""Replaying a recorded run: the same graph again, with every answer from the record.

No tool and no model is called, no server is started, and nothing is written. The events of the
replay are compared with the record, and the first difference ends it. If one side is real, it gets
only calls that the record has, with the recorded arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fractale.agents.catalog import Catalog
from fractale.errors import NotRecorded, StoreError
from fractale.events import Listener
from fractale.graph.bindings import Bindings
from fractale.graph.context import Dependencies
from fractale.masking import MASK, Masker
from fractale.models import Models
from fractale.plain import to_json
from fractale.plan.model import Limits, Plan
from fractale.plan.needs import experts_of
from fractale.policy import Policy
from fractale.questions import needs_no_answer
from fractale.record.jobs import JOBS, RunJobs
from fractale.record.recordings import Recording
from fractale.record.snapshot import policy_of, read_snapshot
from fractale.replaying.comparison import Comparison, Diverged, Divergence, RecordEnds, Rules
from fractale.replaying.journal import RecordedJournal, ReplayJournal
from fractale.replaying.recorded import (
    RecordedAgents,
    RecordedBindings,
    RecordedJobs,
    RecordedLooks,
    RecordedModels,
    RecordedOutputs,
    RecordedPolicy,
    RecordedToolbox,
    RecordedUser,
)
from fractale.replaying.trace import Data, as_one_process
from fractale.runs.driver import RunDriver
from fractale.runs.fork import read_point
from fractale.runs.options import RunOptions
from fractale.runs.preflight import preflight
from fractale.settings import Settings
from fractale.store.cache import CacheStore
from fractale.store.outputs import FileOutputs
from fractale.toolbox import Toolbox

ENDED = ("success", "failed", "waiting")
SECRET = "\ue000secret\ue000"  # noqa: S105 - the value of each secret input, so that it is masked
OUT_OF_TIME = "the run has taken "
"""Beginning of a time limit's message: a run can reach that limit at any step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The side of a replay that is real.

    Args:
        tools, models: The real ones, instead of the recorded.
        secrets: The values of the plan's secret inputs.
        loose: Whether the answers of tools and models are ignored. Only their effects are then
            compared: calls with their arguments, outcomes, the path.
    """

    tools: Toolbox | None = None
    models: Models | None = None
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    loose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The result of a replay.

    Args:
        events: How many were equal.
        of: How many the record has.
        status: The status of the recorded run, or ``killed``.
        divergence: The first difference, if there is one.
        ends: Where the record of an interrupted run ends; empty if the record is complete.
        missing: Sub-agents whose code is not there; their answers are as recorded.
        reworded: How many requests to models differ only because fractale's own prompts did not
            stay the same. Their answers are as recorded.
    """

    run: str
    plan: str
    events: int
    of: int
    status: str
    divergence: Divergence | None = None
    ends: str = ""
    missing: tuple[str, ...] = ()
    reworded: int = 0

    @property
    def equal(self) -> bool:
        """Whether the replay equals the record, as far as the record goes."""
        return self.divergence is None


async def replay(
    recording: Recording,
    settings: Settings,
    *,
    plan: Plan | None = None,
    agents: Catalog | None = None,
    live: Live | None = None,
    listeners: Sequence[Listener] = (),
) -> Replayed:
    """Replay a recorded run.

    Args:
        plan: Instead of the plan that was run.
        agents: The sub-agents that the run can ask, with today's code.
        live: Which side is real; neither by default.
        listeners: Called with every event of the replay.

    Raises:
        NotRecorded: The record lacks what a replay needs.
        PlanError: The plan is invalid, or names tools that the run was not offered.
        StoreError: The record is damaged.
    """
    events = list(recording.record.read_events())
    if not events:
        raise NotRecorded("no-events", f"run {recording.record.run_id} has no events")
    of = _Replay(
        recording=recording,
        settings=settings,
        plan=plan or recording.plan_then(),
        catalog=agents or Catalog(),
        live=live or Live(),
        listeners=listeners,
        events=events,
    )
    return await of.play()


@dataclass(slots=True, kw_only=True)
class _Replay:
    recording: Recording
    settings: Settings
    plan: Plan
    catalog: Catalog
    live: Live
    listeners: Sequence[Listener]
    events: list[dict[str, Any]]

    async def play(self) -> Replayed:
        record, live = self.recording.record, self.live
        status, ended = _status(self.events)
        journal = RecordedJournal(record.journal)
        if journal.missing and any(event.get("key") for event in self.events):
            raise NotRecorded(
                "no-journal",
                f"the journal of run {record.run_id} was not found, and the run made calls",
            )
        outputs = RecordedOutputs(record.outputs)
        comparison = Comparison(
            as_one_process(self.events, journal.calls, ended=ended),
            ended=ended,
            rules=Rules(
                loose=live.loose,
                live_tools=live.tools is not None,
                live_model=live.models is not None,
            ),
            then=_lenient(FileOutputs(record.outputs)),
            now=_lenient(outputs),
        )
        agents = RecordedAgents(
            self.catalog, self.events, {*self._offered_names(), *experts_of(self.plan)}, comparison
        )
        # The machine that wrote a recording masked it with its own secrets.
        masker = Masker(() if self.recording.about else self._hidden())
        jobs = RecordedJobs(record.jobs, masker, outside=self.recording.own)
        deps = self._dependencies(outputs, agents, jobs, journal)
        if not live.tools:
            await preflight(self.plan, deps.toolbox, deps.models, deps.agents, Bindings())
        session = self._session(comparison, deps)
        replayed = ReplayJournal(journal, comparison, jobs.has_log)
        session.context.journal = replayed
        try:
            await session.drive(self.recording.head.get("inputs") or {})
        except (Diverged, RecordEnds) as end:
            # The comparison has the difference, unless the replay was cancelled.
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError from end
        return Replayed(
            run=record.run_id,
            plan=self.plan.name,
            events=comparison.matched,
            of=comparison.of,
            status=status,
            divergence=comparison.divergence,
            ends=comparison.cut,
            missing=agents.missing,
            reworded=len(replayed.reworded),
        )

    def _offered_names(self) -> set[str]:
        if self.live.tools:
            return set()
        tools = read_snapshot(self.recording.record).tools
        return {name for tool in tools for name in (tool.name, tool.qualified_name)}

    def _session(self, comparison: Comparison, deps: Dependencies) -> RunDriver:
        recording, live = self.recording, self.live
        options = RunOptions(
            notifications=None,
            listeners=[comparison, *self.listeners],
            person=RecordedUser(self.events, lambda question: _unasked(comparison, question)),
            limits=self._limits(),
            keep=False,
        )
        secrets = dict.fromkeys((n for n, s in self.plan.inputs.items() if s.secret), SECRET)
        settings = replace(self.settings, secrets=self._hidden(), audit=None)
        if live.tools or live.models:
            secrets = {name: live.secrets.get(name, MASK) for name in secrets}
            settings = self.settings
        session = RunDriver(
            settings, deps, self.plan, options, recording.record.run_id, None, secrets
        )
        session.context.run_dir = recording.run_dir
        session.context.start_dir = Path(str(recording.head.get("folder") or Path.cwd()))
        session.context.bindings = (
            Bindings() if live.tools else RecordedBindings.recorded(recording.head, self.events)
        )
        if point := read_point(recording.record):
            session.fork(point, recording.head["parent"])
        return session

    def _hidden(self) -> tuple[str, ...]:
        """Today's secrets that were secrets of the recorded run, as far as the record shows.

        The log of a job is kept as the job wrote it, and is read again. But a text that the record
        shows was not a secret of the run, so it must not be a secret of the replay.
        """
        shown = "\n".join(map(to_json, self.events))
        return tuple(text for text in self.settings.secrets if to_json(text)[1:-1] not in shown)

    def _dependencies(
        self,
        outputs: RecordedOutputs,
        agents: Catalog,
        jobs: RecordedJobs,
        journal: RecordedJournal,
    ) -> Dependencies:
        recorded: Mapping[str, Any] = self.recording.head.get("settings") or {}
        live, settings = self.live, self.settings
        policy = Policy(settings=policy_of(recorded["policy"]) if recorded else settings.policy)
        return Dependencies(
            toolbox=live.tools or RecordedToolbox(read_snapshot(self.recording.record)),
            models=live.models or RecordedModels(settings, recorded, self._model()),
            outputs=outputs,
            policy=RecordedPolicy.of(policy, self.events),
            agents=agents,
            max_attempts=int(self._began("bounds").get("max_attempts") or settings.max_attempts),
            jobs=RunJobs.of(settings.state_dir / JOBS, settings) if live.tools else jobs,
            cache=RecordedLooks(store=CacheStore(settings.state_dir), looked=journal.looked),
            patient=live.tools is not None or live.models is not None,
        )

    def _model(self) -> str | None:
        """The model that the run began with, for a record without its settings."""
        began = (e.get("model") for e in self.events if e["event"] == "run_started")
        return next(began, None) or self.recording.head.get("model")

    def _limits(self) -> Limits:
        """The limits of the run's last process, if they were not the plan's own."""
        last = {**self._began("limits"), **self._began("bounds")}
        last.pop("max_attempts", None)
        try:
            own = self.recording.plan_then().limits
        except NotRecorded:
            own = Limits()
        return Limits(
            **{name: value for name, value in last.items() if value != getattr(own, name)}
        )

    def _began(self, name: str) -> dict[str, Any]:
        """A field of the last process's `run_started`."""
        last = next(event for event in reversed(self.events) if event["event"] == "run_started")
        return dict(last.get(name) or {})


def _status(events: Sequence[Data]) -> tuple[str, bool]:
    """The status of a recorded run, and whether its record is complete."""
    last = next(e for e in reversed(events) if e["event"] in ("run_started", "run_finished"))
    if last["event"] == "run_started":
        return "killed", False
    status = str(last["status"])
    timed = status == "limit" and str(last.get("error")).startswith(OUT_OF_TIME)
    unended = any(needs_no_answer(each) for each in last.get("waiting") or ())
    return status, (status in ENDED and not unended) or (status == "limit" and not timed)


def _lenient(store: Any) -> Any:
    """A function that reads references; a reference without a value stays as it is."""

    def get(value: Any) -> Any:
        try:
            return store.get(value)
        except StoreError:
            return value

    return get


def _unasked(comparison: Comparison, question: Data) -> None:
    """Diverge at a question without a recorded answer, unless the recorded run waits for one."""
    waits = [each for each in comparison.waiting if each.get("step") == question.get("step")]
    if waits or not comparison.ended:
        return
    comparison.diverge(
        Divergence(
            what="question",
            message=f"step `{question.get('step')}` asks a question without a recorded answer",
            step=str(question.get("step") or ""),
            now=dict(question),
        )
    )
