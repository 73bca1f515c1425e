"""One process's work on one run: from an input to a `RunResult`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph.errors import GraphDrained

from fractale.audit import AuditLog
from fractale.errors import (
    AnswerError,
    FractaleError,
    LimitReached,
    NotRecorded,
    StoreError,
    UsageError,
)
from fractale.events import EventLog
from fractale.graph.compile import build_graph
from fractale.graph.context import Dependencies, Meter, RunContext
from fractale.graph.state import ForkPoint, PlanState, initial_state, latest_state
from fractale.graph.step import AttemptsExceeded, outputs_of
from fractale.jobs.budget import FileLedger, MemoryLedger
from fractale.models import Usage
from fractale.plan.model import Limits, Plan
from fractale.questions import needs_no_answer
from fractale.record.follow import TextFile
from fractale.record.jobs import RunJobs
from fractale.record.plans import plan_hash
from fractale.runs.answering import Answering, in_order, step_order
from fractale.runs.cancelling import stop_requests
from fractale.runs.handlers import ENDS, Handlers, open_handlers, plan_end
from fractale.runs.mailbox import Mailbox
from fractale.runs.options import RunOptions
from fractale.runs.reporter import End, RunReporter, limits_of, spent_by, used_in
from fractale.runs.result import BY_CANCEL, INTERRUPTED, RunResult
from fractale.runs.rounds import Rounds, Thread
from fractale.settings import Settings
from fractale.settings.files import CONFIG_VARIABLE
from fractale.store.checkpoints import RunSaver, open_checkpoints
from fractale.store.journal import FileJournal
from fractale.store.locks import RunLock
from fractale.store.notes import FileNotes, MemoryNotes
from fractale.store.run_record import RunRecord
from fractale.store.serializer import StrictSerializer

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

PLAN_HASH = "fractale_plan"
"""The key of the plan's hash in the metadata of checkpoints, of a run without a record."""

NO_RECURSION_LIMIT = 1_000_000_000
"""fractale bounds its loops itself: by attempts, limits and rules."""


class RunDriver:
    """One process's work on one run: from an input to a `RunResult`.

    Attributes:
        notices: Code and text of the warnings before anything runs.
        parent: For a fork, the run and the step that it comes from.
    """

    def __init__(
        self,
        settings: Settings,
        dependencies: Dependencies,
        plan: Plan,
        options: RunOptions,
        run_id: str,
        record: RunRecord | None,
        secrets: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._dependencies = dependencies
        self._plan = plan
        self._options = options
        self._record = record
        self._store = dependencies.outputs
        self._mailbox = Mailbox(record) if record else None
        self._answering = Answering(options, self._mailbox)
        self._reporter = RunReporter(plan, dependencies, options, record)
        self._ledger = FileLedger(record.job_ledger) if record else MemoryLedger()
        self.notices: list[tuple[str, str]] = []
        self.parent: Mapping[str, Any] | None = None
        self._is_unreported = False  # whether the record ends with a step of a handler
        self._progress = 0  # the number of events of the plan's own steps in the record
        self.context = RunContext(
            run_id=run_id,
            plan_name=plan.name,
            run_dir=record.path if record else None,
            emit_event=self._reporter.hear,
            meter=Meter(limits_of(plan, options), ledger=self._ledger),
            secret_inputs=secrets,
            secrets=settings.secrets,
            masker=options.masker,
            notes=FileNotes(record.notes) if record else MemoryNotes(),
            ask_now=self._answering.ask_now,
            keep_draft=record.keep_draft if record else _not_kept,
            leave_jobs=self._suspends_on_jobs,
            roots=roots_of(settings, record),
            clock=options.clock,
        )
        self._reporter.count_answer = self._answering.count
        self._answering.context = self._reporter.context = self.context
        self._rounds = Rounds(
            plan,
            options,
            self.context,
            self._answering,
            self._reporter,
            patient=dependencies.patient,
            outlives_process=record is not None or options.checkpointer is not None,
        )
        self._reporter.audit = AuditLog.of(settings, kept=options.keep, mask=self.context.mask)

    def _suspends_on_jobs(self) -> bool:
        """Whether the run ends, or first asks the user, instead of waiting for a job or a time."""
        options = self._options
        asks = options.person is not None and self.context.asked.is_set()
        return options.detach or options.control.drain_requested or asks

    async def resume(self, inputs: Mapping[str, Any]) -> RunResult:
        """Continue from the last checkpoint.

        Args:
            inputs: The inputs at the start of the run, values or references.
        """
        async with AsyncExitStack() as stack:
            steps = await self._open(stack)
            snapshot = await steps.snapshot()
            if self._record is None:
                self._check_known(snapshot)
                self._reporter.remember(snapshot.values.get("steps") or {})
            elif not snapshot.values:
                self._check_untouched()
                self._started(resumed=True)
                return await self._drive(steps, self._first_state(inputs))
            self._remember_all(snapshot)
            handlers = await self._open_handlers(steps) if self._plan.handlers else None
            if handlers and (handlers.is_unfinished or (handlers.have_run and self._is_unreported)):
                result = await self._finish_handlers(handlers, steps, snapshot)
                limits = self._options.limits != Limits()
                if result.status != "limit" or not snapshot.tasks or not limits:
                    return result
            # A task that ended before its checkpoint was written is among the tasks, but not in
            # `next`.
            if not snapshot.tasks:
                end = self._end(snapshot.values)
                if handlers and not handlers.is_done(
                    plan_end(self._plan, end, snapshot, self.context)
                ):
                    self._started(resumed=True)
                    return await self._reported(self._with_handlers(steps, end))
                return self._reporter.ended(**end)
            self._check_replies(snapshot.interrupts)
            self._started(resumed=True)
            return await self._drive(steps, None, snapshot.interrupts)

    def _check_replies(self, interrupts: Sequence[Any]) -> None:
        """Check that the answers given to single questions are answers to these."""
        asked = [{**i.value, "id": i.id} for i in interrupts if not needs_no_answer(i.value)]
        self._options.replies.require(asked)

    def _check_known(self, snapshot: Any) -> None:
        """Check that the checkpointer has a run without a record, and that its plan is the same.

        Raises:
            UsageError: The checkpointer does not have it, or it was started with another plan.
        """
        run = self.context.run_id
        if not (snapshot.values or snapshot.tasks):
            raise UsageError(
                f"run `{run}` not found in the checkpointer",
                hint="start it with the same `run_id` and `checkpointer`",
            )
        then: Any = dict(snapshot.metadata or {}).get(PLAN_HASH)
        if then is not None and then != plan_hash(self._plan):
            raise UsageError(
                f"the plan {self._plan.file} has changed since run {run} was started",
                hint="restore the plan, or start a new run",
            )

    def _check_untouched(self) -> None:
        """A run without a checkpoint may start anew only if it has done nothing.

        Raises:
            StoreError: The run has done something: its checkpoints were lost.
        """
        record = self._record
        if record and (record.journal.exists() or self._reporter.steps):
            raise StoreError(
                f"run {self.context.run_id} has no checkpoint to continue from",
                hint="its checkpoints were lost, or are in another store: see `fractale config`",
            )

    def _remember_all(self, snapshot: Any) -> None:
        """Restore what earlier processes did and used, from the record and the latest state."""
        used = Usage()
        for event in self._record.read_events() if self._record else ():
            self._remember(event)
            if event["event"] == "model_finished":
                used += used_in(event)
        spent = spent_by(snapshot.values.get("spent"), used)
        self.context.meter = Meter(limits_of(self._plan, self._options), spent, self._ledger)

    def _remember(self, event: Mapping[str, Any]) -> None:
        """Restore from the record the state of earlier processes of the run."""
        if event["event"] == "answered":
            self._answering.count(event)
        path = str(event.get("step") or "")
        if path and path.partition("/")[0] not in self._plan.handlers:
            self._progress += 1
        if event["event"] in ("step_started", "step_finished", "run_finished"):
            self._is_unreported = bool(event.get("handler"))
        if event["event"] == "step_finished":
            self._reporter.step_finished(event)
        elif event["event"] == "job_state":
            self._reporter.jobs.add(event, float(event["time"]))
        elif event["event"] == "answered":
            self._answering.keep(event["question"], event["answer"])
        elif event["event"] == "warning":
            self._reporter.warned(event)
        elif event["event"] == "waiting" and self._reporter.notifications:
            self._reporter.notifications.remember(event["question"])

    def fork(self, point: ForkPoint, parent: Mapping[str, Any]) -> None:
        """Have the run begin at a step in the middle of its plan.

        Args:
            parent: The run and the step that it was forked from.
        """
        self.context.entry, self.parent = point, parent
        # Its ledger has a first line now: the usage of that run's jobs.
        self.context.meter = Meter(limits_of(self._plan, self._options), ledger=self._ledger)

    async def drive(self, inputs: Mapping[str, Any]) -> RunResult:
        """Run from the first step.

        Args:
            inputs: Of the plan, values or references.
        """
        async with AsyncExitStack() as stack:
            steps = await self._open(stack)
            if self._options.run_id and self._shares_checkpoints:
                await self._check_new(steps)
            self._started(resumed=False)
            return await self._drive(steps, self._first_state(inputs))

    @property
    def _shares_checkpoints(self) -> bool:
        """Whether runs of other state directories keep their checkpoints in the same place.

        The file in a new run's own directory is new, too.
        """
        own_file = self._record and self._options.checkpointer is None and not self._settings.store
        return not own_file

    async def _check_new(self, steps: Thread) -> None:
        """Check that an id that the user chose is free. Another state directory may have it.

        Raises:
            UsageError: Another state directory has it.
        """
        if (await steps.snapshot()).values:
            if self._record and self._record.is_new:  # else another process began it meanwhile
                self._record.remove()
            run, where = self.context.run_id, "where the checkpoints are kept"
            hint = None if self._record else f"continue it: `fractale.resume({run!r}, plan=…)`"
            raise UsageError(f"there is a run `{run}` already {where}", hint=hint)

    def _first_state(self, inputs: Mapping[str, Any]) -> PlanState:
        state, entry = initial_state(inputs), self.context.entry
        return entry.into(state) if entry else state

    async def _open(self, stack: AsyncExitStack) -> Thread:
        """Open the record and the checkpoints, and compile the plan's steps."""
        if (sends := self._options.notifications) and (wanted := self._settings.notify):
            environment, mask = self._settings.site_environment, self.context.mask
            notifications = sends.of_run(wanted, environment, self._record, mask)
            self._reporter.notifications = notifications
            stack.callback(notifications.release)  # last: after the run's lock
        if self._record:
            stack.enter_context(RunLock(self._record))
            if self._mailbox:
                self._mailbox.clear()
            stop = self._options.control.request_drain
            await stack.enter_async_context(stop_requests(self._record, stop))
            self._reporter.log = log = EventLog(self._record.events)
            stack.callback(log.close)
            self._reporter.texts = TextFile(self._record)
            stack.callback(self._reporter.texts.close)
            self.context.journal = FileJournal(self._record.journal)
            stack.callback(self.context.journal.close)
            stack.push_async_callback(self._journal_synced)
        elif isinstance(self._dependencies.jobs, RunJobs):
            stack.push_async_callback(self._dependencies.jobs.remove_ended)
        saver = await stack.enter_async_context(checkpoints(self._settings, self._options))
        if isinstance(saver, RunSaver):
            await stack.enter_async_context(saver.holding(self.context.run_id))
            await saver.open_run(self.context.run_id)
        entry = self.context.entry
        builder = build_graph(self._plan, self._dependencies, entry.step if entry else None)
        graph = builder.compile(
            checkpointer=saver, store=self._options.memory, name=self._plan.name
        )
        return Thread(graph=graph, config=self._config(), invoke=self._options.invoke)

    async def _journal_synced(self) -> None:
        """Have the journal on the disk before it is closed, without stopping the event loop."""
        with contextlib.suppress(StoreError):  # the end of the run is reported already
            await self.context.journal.synced()

    def _config(self) -> dict[str, Any]:
        """LangGraph's configuration of the run."""
        options = self._options
        metadata = dict(options.metadata)
        if self._record is None and options.checkpointer is not None:
            metadata[PLAN_HASH] = plan_hash(self._plan)
        given = {"callbacks": options.callbacks, "tags": [*options.tags], "metadata": metadata}
        return {
            "configurable": {"thread_id": self.context.run_id},
            "recursion_limit": NO_RECURSION_LIMIT,
            **{name: value for name, value in given.items() if value},
        }

    def _started(self, *, resumed: bool) -> None:
        forked = {"parent": self.parent} if self.parent and not resumed else {}
        self._reporter.audit.record(
            "resume" if resumed else "fork" if forked else "run",
            run=self.context.run_id,
            plan=self._plan.name,
            file=self._plan.file,
            yes=self._options.yes,
            trusted=self._options.trusted or self._settings.environment.get(CONFIG_VARIABLE) == "1",
            **forked,
        )
        self._reporter.started(resumed=resumed, parent=self.parent, notices=self.notices)

    async def end_cancelled(self) -> RunResult | None:
        """Run the handlers of a run that was cancelled, or finish those of its end.

        A run whose plan had ended keeps that end.

        Returns:
            None if there is nothing to do: the plan has no `finally`, the run has ended, or it did
            nothing since its handlers ran.
        """
        async with AsyncExitStack() as stack:
            steps = await self._open(stack)
            snapshot = await steps.snapshot()
            self._remember_all(snapshot)
            handlers = await self._open_handlers(steps)
            if handlers.is_unfinished or (handlers.have_run and self._is_unreported):
                end = await self._end_of(handlers, steps, snapshot)
                self._restarted()
                if not handlers.is_unfinished:
                    return self._reporter.ended(**end)
                work = handlers.finish(self._rounds, self.context)
                return await self._reported(self._after_handlers(end, work))
            if not snapshot.tasks or "finally" not in self._plan.handlers:
                return None
            end = {"status": "stopped", "error": BY_CANCEL}
            ended = plan_end(self._plan, end, snapshot, self.context)
            # A run without a process may have continued since, at the same checkpoint.
            ended["at"] = f"{ended.get('at')} {self._progress}"
            if handlers.is_done(ended):
                return None
            self._restarted()
            work = handlers.begin(self._rounds, snapshot.values, ended)
            work = handlers.without_answers(work, self._rounds, self.context)
            return await self._reported(self._after_handlers(end, work))

    def _restarted(self) -> None:
        """Report that `fractale cancel` works on the run."""
        self._reporter.started(resumed=True, parent=self.parent, notices=self.notices)

    # -- to an end --------------------------------------------------------------------------------

    async def _drive(self, steps: Thread, given: Any, asked: Sequence[Any] = ()) -> RunResult:
        """Run until an end, a limit, a stop, or a question without an answer.

        Args:
            given: The first input of the graph.
            asked: The questions that the graph waits for. Their answers are the first input.
        """
        return await self._reported(self._to_end(steps, given, asked))

    async def _reported(self, work: Awaitable[End]) -> RunResult:
        """Report the end that some work leads to, or the stop or question before it."""
        try:
            end = await work
            self._answering.drop_unused(end["status"])
            return self._reporter.ended(**end)
        except GraphDrained:
            words = "stopped on request at a step's boundary"
            return self._reporter.ended("stopped", error=words, waiting=self._jobs_left)
        except asyncio.CancelledError:
            self._interrupted()
            raise
        except AnswerError:  # the user must correct it
            self._reporter.ended("waiting", waiting=self._answering.waiting)
            raise
        except NotRecorded:  # of a replay, which reports it itself
            raise
        except StoreError as error:  # the run is sound: resume it when the disk has space
            return self._reporter.ended("stopped", error=str(error), hint=error.hint)
        except FractaleError as error:
            return self._reporter.ended("failed", error=str(error), hint=error.hint)

    async def _to_end(self, steps: Thread, given: Any, asked: Sequence[Any]) -> End:
        """Run the plan's steps, and its handlers at an end."""
        end: End
        try:
            end = self._end(await self._rounds.run(steps, given, asked))
        except LimitReached as error:
            end = {
                "status": "limit",
                "error": error.message,
                "hint": error.hint,
                "waiting": self._jobs_left,
            }
        except AttemptsExceeded as error:
            end = {"status": "failed", "error": error.message, "gave_up": error.step}
        except (AnswerError, NotRecorded, StoreError):
            raise
        except FractaleError as error:
            end = {"status": "failed", "error": str(error), "hint": error.hint}
        if end["status"] in ENDS and "outputs" not in end:
            end["outputs"] = await self._outputs_so_far(steps)
        return await self._with_handlers(steps, end)

    def _end(self, values: Mapping[str, Any]) -> End:
        """The end that a graph's values show, or the questions that it waits for."""
        if interrupts := values.get("__interrupt__"):
            waiting = [{**i.value, "id": i.id} for i in in_order(interrupts)]
            if self._options.control.drain_requested and all(
                needs_no_answer(each) for each in waiting
            ):
                words = f"stopped on request ({self._options.control.drain_reason})"
                return {"status": "stopped", "error": words, "waiting": waiting}
            return {"status": "waiting", "waiting": waiting}
        outputs = self._store.get(values.get("outputs") or {})
        if values.get("status") == "success":
            return {"status": "success", "outputs": outputs}
        words = str(values.get("error") or "the plan failed")
        return {"status": "failed", "error": words, "outputs": outputs}

    async def _outputs_so_far(self, steps: Thread) -> dict[str, Any]:
        """The outputs of a plan that reached no end, as far as they can be rendered."""
        if not self._plan.outputs:
            return {}
        state = latest_state(await steps.snapshot(subgraphs=True))
        outputs, _ = outputs_of(self._plan, state, self.context, self._dependencies.outputs)
        return self.context.mask(outputs)

    def _interrupted(self) -> None:
        """Report that the process is ending. The user's present question stays open."""
        if self._answering.asking and self._answering.waiting:
            self._reporter.ended("waiting", waiting=self._answering.waiting)
        else:
            unknown = self.context.journal.unfinished()
            calls = [f"`{tool}` of step `{step}`" for step, tool in dict.fromkeys(unknown)]
            words, hint = INTERRUPTED, None
            if calls:
                words += f"; it is not known whether {', '.join(calls)} was done"
                hint = f"`fractale resume {self.context.run_id}` asks before it calls it again"
            self._reporter.ended("stopped", error=words, hint=hint, waiting=self._jobs_left)

    @property
    def _jobs_left(self) -> list[dict[str, Any]]:
        """The jobs that keep running while the run does not, and the times it waits for."""
        return sorted(self.context.jobs_waited_for.values(), key=step_order)

    # -- the handlers at an end -------------------------------------------------------------------

    async def _open_handlers(self, steps: Thread) -> Handlers:
        return await open_handlers(self._plan, self._dependencies, steps, self.context.run_id)

    async def _with_handlers(self, steps: Thread, end: End) -> End:
        """Run the plan's handlers if it has just ended. Returns what is to be reported."""
        if not self._plan.handlers or end["status"] not in ENDS:
            return end
        handlers = await self._open_handlers(steps)
        snapshot = await steps.snapshot(subgraphs=True)
        ended = plan_end(self._plan, end, snapshot, self.context)
        if end["status"] == "failed" and handlers.is_done(ended):
            return end  # nothing has happened since, as in a resume of a step without attempts
        work = handlers.begin(self._rounds, snapshot.values, ended)
        return await self._after_handlers(end, work)

    async def _finish_handlers(self, handlers: Handlers, steps: Thread, snapshot: Any) -> RunResult:
        """Finish the handlers of an end that an earlier process reached, and report the end.

        Args:
            steps, snapshot: The plan's own steps, and their state.
        """
        end = await self._end_of(handlers, steps, snapshot)
        self._check_replies(handlers.asked)
        self._started(resumed=True)
        if not handlers.is_unfinished:
            return self._reporter.ended(**end)
        return await self._reported(self._after_handlers(end, handlers.resume(self._rounds)))

    async def _end_of(self, handlers: Handlers, steps: Thread, snapshot: Any) -> End:
        """The end at which an earlier process ran the handlers, with the plan's outputs."""
        end = handlers.report
        if snapshot.values.get("status"):
            outputs = self._store.get(snapshot.values.get("outputs") or {})
        else:
            outputs = await self._outputs_so_far(steps)
        return {**end, "outputs": outputs}

    async def _after_handlers(self, end: End, work: Awaitable[Mapping[str, Any]]) -> End:
        """The end of the plan, which its handlers do not change, or what they wait for."""
        values = await work
        return self._end(values) if values.get("__interrupt__") else end


@asynccontextmanager
async def checkpoints(
    settings: Settings, options: RunOptions
) -> AsyncGenerator[BaseCheckpointSaver[Any]]:
    """The saver of the options, or the saver of the state directory."""
    if options.checkpointer is not None:
        yield options.checkpointer
    elif not options.keep:
        from langgraph.checkpoint.memory import InMemorySaver

        yield InMemorySaver(serde=StrictSerializer())
    else:
        async with open_checkpoints(settings.checkpoints) as saver:
            yield saver


def roots_of(settings: Settings, record: RunRecord | None) -> tuple[Path, ...]:
    """The directories that a model may read unasked: the project's, and the run's own.

    Neither the whole home directory nor the root directory counts as a project.
    """
    here = Path.cwd()
    directories = {here, settings.project_folder or here} - {Path.home(), Path(here.anchor)}
    return (*sorted(directories), *([record.path] if record else []))


def _not_kept(path: str, text: str) -> None:
    """Drop a draft, since the run is not recorded."""
    del path, text
