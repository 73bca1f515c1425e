"""Replaying a recorded run: the same graph again, with the outside as the record has it.

No tool and no model is called, no server is started, nothing is written. What the replay tells is
held against the record, event by event, and the first difference ends it. Where one side is real,
it is called only as the record says it was.
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
from fractale.policy import Policy
from fractale.questions import is_job
from fractale.record.jobs import JOBS, RunJobs
from fractale.record.offered import policy_of, read_offered
from fractale.record.recordings import Recording
from fractale.replay.agents import RecordedAgents
from fractale.replay.calls import RecordedJournal, ReplayJournal
from fractale.replay.compare import Comparison, Diverged, RecordEnds, Rules
from fractale.replay.events import Data, as_one_process
from fractale.replay.outside import (
    RecordedBindings,
    RecordedJobs,
    RecordedModels,
    RecordedOutputs,
    RecordedPerson,
    RecordedPolicy,
    RecordedToolbox,
)
from fractale.replay.words import Divergence
from fractale.runs.driver import RunDriver
from fractale.runs.fork import read_point
from fractale.runs.options import RunOptions
from fractale.runs.preflight import preflight
from fractale.settings import Settings
from fractale.store.outputs import FileOutputs
from fractale.toolbox import Toolbox

ENDED = ("success", "failed", "waiting")
SECRET = "\ue000secret\ue000"  # noqa: S105 - stands for one, so that it is masked as that was
OUT_OF_TIME = "the run has taken "
"""How the words of a time limit begin: where a run is stopped by it is chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What of a replay is real.

    Args:
        tools, models: The real ones, in place of the record's.
        secrets: The plan's secret inputs, for the real side.
        loose: What they answer is not compared, but only what comes of it: which calls with what
            arguments, outcomes, and the path.
    """

    tools: Toolbox | None = None
    models: Models | None = None
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    loose: bool = False

    @property
    def rules(self) -> Rules:
        """What counts."""
        tools, model = self.tools is not None, self.models is not None
        return Rules(loose=self.loose, live_tools=tools, live_model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a replay.

    Args:
        events: That were equal.
        of: Events that the record has.
        status: How the recorded run stands: its status, or ``killed``.
        divergence: Where the replay first was another one; None if it was not.
        ends: Where the record of a run that was cut short ends; empty where it is whole.
        missing: Sub-agents whose code is not there; what they did is as it was recorded.
    """

    run: str
    plan: str
    events: int
    of: int
    status: str
    divergence: Divergence | None = None
    ends: str = ""
    missing: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the run was the same again, as far as its record goes."""
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
        plan: In place of the one that was run.
        agents: The sub-agents that the run can ask; their code is today's.
        live: What is real; nothing of it where None.
        listeners: Take every event of the replay.

    Raises:
        NotRecorded: The record lacks what a replay needs.
        PlanError: The plan is invalid, or names tools that the run was not offered.
        StoreError: The record is damaged.
    """
    live, agents = live or Live(), agents or Catalog()
    events = list(recording.folder.read_events())
    if not events:
        raise NotRecorded("no-events", f"run {recording.folder.run_id} has no events")
    stage = _Stage(recording, settings, plan or recording.plan_then(), agents, live, events)
    return await stage.play(listeners)


@dataclass(slots=True)
class _Stage:
    """All that a replay is made of."""

    recording: Recording
    settings: Settings
    plan: Plan
    agents: Catalog
    live: Live
    events: list[dict[str, Any]]

    async def play(self, listeners: Sequence[Listener]) -> Replayed:
        status, ended = _standing(self.events)
        folder = self.recording.folder
        outputs = RecordedOutputs(folder.outputs)
        journal = RecordedJournal(folder.path / "journal.jsonl")
        if journal.missing and any(event.get("key") for event in self.events):
            raise NotRecorded(
                "no-journal", f"the journal of run {folder.run_id} is gone, and it made calls"
            )
        told = as_one_process(self.events, journal.calls)
        comparison = Comparison(
            told if ended else [event for event in told if event["event"] != "run_finished"],
            ended=ended,
            rules=self.live.rules,
            then=_lenient(FileOutputs(folder.outputs)),
            now=_lenient(outputs),
        )
        agents = RecordedAgents(self.agents, self.events, self._offered_names(), lambda: comparison)
        deps = self._dependencies(outputs, agents)
        await self._run(comparison, journal, deps, listeners)
        return Replayed(
            run=folder.run_id,
            plan=self.plan.name,
            events=comparison.matched,
            of=comparison.of,
            status=status,
            divergence=comparison.divergence,
            ends=comparison.cut,
            missing=agents.missing,
        )

    def _offered_names(self) -> set[str]:
        if self.live.tools:
            return set()
        tools = read_offered(self.recording.folder).tools
        return {name for tool in tools for name in (tool.name, tool.qualified_name)}

    async def _run(
        self,
        comparison: Comparison,
        journal: RecordedJournal,
        deps: Dependencies,
        listeners: Sequence[Listener],
    ) -> None:
        if not self.live.tools:
            await preflight(self.plan, deps.toolbox, deps.models, deps.agents, Bindings())
        session = self._session(comparison, deps, listeners)
        folder = self.recording.folder.path / "jobs"
        jobs = RecordedJobs(folder, outside=self.recording.own)
        session.context.journal = ReplayJournal(journal, comparison, self.live.rules, jobs.has_log)
        try:
            await session.drive(self.recording.head.get("inputs") or {})
        except (Diverged, RecordEnds) as end:
            # Told before anything ran; the comparison knows. But that somebody ended the replay
            # is no difference of the run.
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError from end

    def _session(
        self, comparison: Comparison, deps: Dependencies, listeners: Sequence[Listener]
    ) -> RunDriver:
        recording, live = self.recording, self.live
        options = RunOptions(
            listeners=[comparison, *listeners],
            person=RecordedPerson(self.events, lambda question: _unasked(comparison, question)),
            limits=self._limits(),
            keep=False,
        )
        secrets = dict.fromkeys((n for n, s in self.plan.inputs.items() if s.secret), SECRET)
        settings = replace(self.settings, secrets=self._hidden(), audit=None)
        if live.tools or live.models:
            secrets = {name: live.secrets.get(name, MASK) for name in secrets}
            settings = self.settings
        session = RunDriver(
            settings, deps, self.plan, options, recording.folder.run_id, None, secrets
        )
        session.context.run_dir = recording.run_dir
        session.context.folder = Path(str(recording.head.get("folder") or Path.cwd()))
        session.context.bindings = (
            Bindings() if live.tools else RecordedBindings.recorded(recording.head, self.events)
        )
        if point := read_point(recording.folder):
            session.fork(point, recording.head["parent"])
        return session

    def _hidden(self) -> tuple[str, ...]:
        """Today's secrets that were hidden when the run was recorded, as far as can be told.

        The log of a job is kept as it was written, and is read again. But what the record shows
        was no secret of the run, and must be no secret of its replay.
        """
        shown = "\n".join(map(to_json, self.events))
        return tuple(text for text in self.settings.secrets if to_json(text)[1:-1] not in shown)

    def _dependencies(self, outputs: RecordedOutputs, agents: Catalog) -> Dependencies:
        said: Mapping[str, Any] = self.recording.head.get("settings") or {}
        live, settings = self.live, self.settings
        # A recording was masked when it was written, by the secrets of where that was.
        masker = Masker(() if self.recording.about else self._hidden())
        folder = self.recording.folder.path / "jobs"
        jobs = RecordedJobs(folder, masker, outside=self.recording.own)
        policy = Policy(settings=policy_of(said["policy"]) if said else settings.policy)
        toolbox = live.tools or RecordedToolbox(read_offered(self.recording.folder))
        return Dependencies(
            toolbox=toolbox,
            models=live.models or RecordedModels(settings, said, self._model()),
            outputs=outputs,
            policy=RecordedPolicy.of(policy, self.events),
            agents=agents,
            max_attempts=self._max_attempts(),
            jobs=RunJobs.of(settings.state_dir / JOBS, settings) if live.tools else jobs,
            patient=live.tools is not None or live.models is not None,
        )

    def _model(self) -> str | None:
        """The model that the run began with, of a record that does not have its settings."""
        began = (e.get("model") for e in self.events if e["event"] == "run_started")
        return next(began, None) or self.recording.head.get("model")

    def _limits(self) -> Limits:
        """The limits that the run was given beside its plan's, those of its last process."""
        last = {**self._began("limits"), **self._began("bounds")}
        last.pop("max_attempts", None)
        try:
            own = self.recording.plan_then().limits
        except NotRecorded:
            own = Limits()
        over = {name: value for name, value in last.items() if value != getattr(own, name)}
        return Limits(**over)

    def _max_attempts(self) -> int:
        return int(self._began("bounds").get("max_attempts") or self.settings.max_attempts)

    def _began(self, name: str) -> dict[str, Any]:
        """A field of how the last process of the run began."""
        last = next(event for event in reversed(self.events) if event["event"] == "run_started")
        return dict(last.get(name) or {})


def _standing(events: Sequence[Data]) -> tuple[str, bool]:
    """How a recorded run stands, and whether its record is whole."""
    last = next(e for e in reversed(events) if e["event"] in ("run_started", "run_finished"))
    if last["event"] == "run_started":
        return "killed", False
    status = str(last["status"])
    timed = status == "limit" and str(last.get("error")).startswith(OUT_OF_TIME)
    on_job = any(is_job(each) for each in last.get("waiting") or ())
    return status, (status in ENDED and not on_job) or (status == "limit" and not timed)


def _lenient(store: Any) -> Any:
    def get(value: Any) -> Any:
        """The value of a reference; what is gone stays its reference."""
        try:
            return store.get(value)
        except StoreError:
            return value

    return get


def _unasked(comparison: Comparison, question: Data) -> None:
    """A question that the record has no answer to: well, if the recorded run waits for one."""
    waits = [each for each in comparison.waiting if each.get("step") == question.get("step")]
    if waits or not comparison.ended:
        return
    comparison.diverge(
        Divergence(
            what="question",
            message=f"step `{question.get('step')}` asks what the record has no answer to",
            step=str(question.get("step") or ""),
            now=dict(question),
        )
    )
