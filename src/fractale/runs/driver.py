"""One process's work on one run: from an input to a `RunResult`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from langgraph.errors import GraphDrained
from langgraph.types import Command, Durability

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
from fractale.graph.compile import build_graph, node_of
from fractale.graph.context import Dependencies, Meter, RunContext
from fractale.graph.handlers import handlers_graph, state_at_end
from fractale.graph.state import ForkPoint, PlanEnd, PlanState, initial_state, latest_state
from fractale.graph.step import AttemptsExceeded, outputs_of
from fractale.graph.tracing import masked
from fractale.jobs.budget import FileLedger, MemoryLedger
from fractale.models import Usage
from fractale.plan.model import FAILURE, Limits, Plan
from fractale.questions import MISSING, Answers, is_due, needs_no_answer
from fractale.record.jobs import RunJobs
from fractale.record.plans import plan_hash
from fractale.runs.answering import Answering, in_order, step_order
from fractale.runs.cancelling import stop_requests
from fractale.runs.options import RunOptions
from fractale.runs.reporter import RunReporter, limits_of, spent_by, used_in
from fractale.runs.result import BY_CANCEL, RunResult
from fractale.settings import Settings
from fractale.settings.files import CONFIG_VARIABLE
from fractale.store.checkpoints import RunSaver, open_checkpoints
from fractale.store.journal import FileJournal
from fractale.store.locks import RunLock
from fractale.store.notes import FileNotes, MemoryNotes
from fractale.store.run_record import HANDLERS_THREAD, RunRecord
from fractale.store.serializer import StrictSerializer

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

PLAN_HASH = "fractale_plan"
"""The key of the plan's hash in the metadata of checkpoints, of a run without a record."""

ENDS: Final = ("success", "failed", "limit")
"""The statuses of a run at which the handlers of its plan run."""

CANCELLED: Final = "cancelled"

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
        self._answering = Answering(options)
        self._reporter = RunReporter(plan, dependencies, options, record)
        self._ledger = FileLedger(record.job_ledger) if record else MemoryLedger()
        self._late = frozenset[str]()
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
        self._answering.context = self._reporter.context = self.context
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
            graph, config = await self._open(stack)
            snapshot = await graph.aget_state(config)
            if self._record is None:
                self._check_known(snapshot)
                self._reporter.remember(snapshot.values.get("steps") or {})
            elif not snapshot.values:
                self._check_untouched()
                self._started(resumed=True)
                return await self._drive(graph, config, self._first_state(inputs))
            used = self._remember_all()
            spent = spent_by(snapshot.values.get("spent"), used)
            self.context.meter = Meter(limits_of(self._plan, self._options), spent, self._ledger)
            # A task that ended before its checkpoint was written is among the tasks, but not in
            # `next`.
            handlers = (
                await self._open_handlers(graph.checkpointer) if self._plan.handlers else None
            )
            if handlers and (handlers.left or (handlers.known and self._is_unreported)):
                result = await self._rest_of_handlers(handlers, graph, config, snapshot)
                limits = self._options.limits != Limits()
                if result.status != "limit" or not snapshot.tasks or not limits:
                    return result
            if not snapshot.tasks:
                end = self._end(snapshot.values)
                if handlers and not handlers.is_done(self._how(end, snapshot)):
                    self._started(resumed=True)
                    return await self._reported(self._at_end(graph, config, end))
                return self._reporter.ended(**end)
            asked = [i for i in snapshot.interrupts if not needs_no_answer(i.value)]
            self._options.replies.require([{**i.value, "id": i.id} for i in asked])
            self._started(resumed=True)
            return await self._drive(graph, config, None, snapshot.interrupts)

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

    def _remember_all(self) -> Usage:
        """Restore the state of earlier processes from the record. Returns their models' usage."""
        used = Usage()
        for event in self._record.read_events() if self._record else ():
            self._remember(event)
            if event["event"] == "model_finished":
                used += used_in(event)
        return used

    def _remember(self, event: Mapping[str, Any]) -> None:
        """Restore from the record the state of earlier processes of the run."""
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
            graph, config = await self._open(stack)
            if self._options.run_id:
                await self._check_new(graph, config)
            self._started(resumed=False)
            return await self._drive(graph, config, self._first_state(inputs))

    async def _check_new(self, graph: Any, config: dict[str, Any]) -> None:
        """Check that an id that the user chose is free. Another state directory may have it.

        Raises:
            UsageError: Another state directory has it.
        """
        if (await graph.aget_state(config)).values:
            if self._record:
                self._record.remove()
            run, where = self.context.run_id, "where the checkpoints are kept"
            hint = None if self._record else f"continue it: `fractale.resume({run!r}, plan=…)`"
            raise UsageError(f"there is a run `{run}` already {where}", hint=hint)

    def _first_state(self, inputs: Mapping[str, Any]) -> PlanState:
        state, entry = initial_state(inputs), self.context.entry
        return entry.into(state) if entry else state

    async def _open(self, stack: AsyncExitStack) -> tuple[Any, dict[str, Any]]:
        if self._record:
            stack.enter_context(RunLock(self._record))
            stop = self._options.control.request_drain
            await stack.enter_async_context(stop_requests(self._record, stop))
            self._reporter.log = log = EventLog(self._record.events)
            stack.callback(log.close)
            self.context.journal = FileJournal(self._record.journal)
            stack.callback(self.context.journal.close)
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
        return graph, self._config()

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

    async def _drive(
        self, graph: Any, config: dict[str, Any], given: Any, asked: Sequence[Any] = ()
    ) -> RunResult:
        """Run until an end, a limit, a stop, or a question without an answer.

        Args:
            given: The first input of the graph.
            asked: The questions that the graph waits for. Their answers are the first input.
        """
        return await self._reported(self._to_end(graph, config, given, asked))

    async def _reported(self, work: Awaitable[dict[str, Any]]) -> RunResult:
        """Report the end that some work leads to, or the stop or question before it."""
        try:
            return self._reporter.ended(**await work)
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

    async def _outputs_so_far(self, graph: Any, config: dict[str, Any]) -> dict[str, Any]:
        """The outputs of a plan that reached no end, as far as they can be rendered."""
        if not self._plan.outputs:
            return {}
        snapshot = await graph.aget_state(config, subgraphs=True)
        outputs, _ = outputs_of(
            self._plan, latest_state(snapshot), self.context, self._dependencies.outputs
        )
        return self.context.mask(outputs)

    async def _to_end(
        self, graph: Any, config: dict[str, Any], given: Any, asked: Sequence[Any]
    ) -> dict[str, Any]:
        """Run the plan's steps, and its handlers at an end. Returns what is to be reported."""
        end: dict[str, Any]
        try:
            end = self._end(await self._run(graph, config, given, asked))
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
            end["outputs"] = await self._outputs_so_far(graph, config)
        return await self._at_end(graph, config, end)

    async def _run(
        self,
        graph: Any,
        config: dict[str, Any],
        given: Any,
        asked: Sequence[Any],
        *,
        steps: bool = True,
    ) -> Mapping[str, Any]:
        """Run a graph until its end, or until a question without an answer. Returns its values.

        Args:
            steps: Whether the graph has the plan's steps, and not its handlers.
        """
        questions = [i for i in asked if not needs_no_answer(i.value)]
        if questions and not self._looks_first([i.value for i in questions]):
            given = await self._answering.replies(questions, self._options.replies)
            ends = given is None and len(questions) == len(asked)
            if ends and not self._is_late(questions):
                return {"__interrupt__": asked}
        invoke = self._options.invoke if steps else None
        while True:
            with masked(config, self.context.masker) as shown:
                values = await (partial(invoke, graph) if invoke else graph.ainvoke)(
                    given,
                    shown,
                    context=self.context,
                    durability=self._durability,
                    control=self._options.control,
                )
            given = await self._next_input(values)
            if given is None and not self._is_late(values.get("__interrupt__") or ()):
                return values

    @property
    def _durability(self) -> Durability:
        """When LangGraph writes checkpoints: after each step, if they outlive this process."""
        return "sync" if self._record or self._options.checkpointer else "exit"

    def _looks_first(self, questions: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the graph must run again before the user is asked.

        A job whose outcome was unknown may have evidence by now. The time of a question may have
        come.
        """
        options, clock = self._options, self.context.clock
        changed = any(
            q.get("kind") == "job_unknown"
            or (is_due(q, clock) and options.answers.find(q) is MISSING)
            for q in questions
        )
        return changed and all(options.replies.find(each) is MISSING for each in questions)

    def _is_late(self, interrupts: Sequence[Any]) -> bool:
        """Whether the time of a question has come, so that its step takes the default."""
        if not self._dependencies.patient:
            return False  # a replay answers from the record only
        asked = [each for each in interrupts if not needs_no_answer(each.value)]
        late = frozenset(each.id for each in asked if is_due(each.value, self.context.clock))
        before, self._late = self._late, late
        return bool(late - before)  # a question that stays open has no default to take

    def _interrupted(self) -> None:
        """Report that the process is ending. The user's present question stays open."""
        if self._answering.asking and self._answering.waiting:
            self._reporter.ended("waiting", waiting=self._answering.waiting)
        else:
            unknown = self.context.journal.unfinished()
            calls = [f"`{tool}` of step `{step}`" for step, tool in dict.fromkeys(unknown)]
            words, hint = "interrupted", None
            if calls:
                words += f"; it is not known whether {', '.join(calls)} was done"
                hint = f"`fractale resume {self.context.run_id}` asks before it calls it again"
            self._reporter.ended("stopped", error=words, hint=hint, waiting=self._jobs_left)

    @property
    def _jobs_left(self) -> list[dict[str, Any]]:
        """The jobs that keep running while the run does not, and the times it waits for."""
        return sorted(self.context.jobs_waited_for.values(), key=step_order)

    async def _next_input(self, values: Mapping[str, Any]) -> Any:
        """The next input of the graph, after an answer; None at an end."""
        if interrupts := values.get("__interrupt__"):
            self.context.asked.clear()
            questions = [i for i in interrupts if not needs_no_answer(i.value)]
            return await self._answering.replies(questions, Answers()) if questions else None
        if self._options.person and values.get("status") == "failed":
            return await self._ask_after_failure(values)
        return None

    async def _ask_after_failure(self, values: Mapping[str, Any]) -> Any:
        """Ask about a failure without its own transition: retry, skip or quit."""
        step = self._plan.step(str(values["last"]))
        record = values["steps"][step.name]
        if FAILURE in step.transitions or record.get("event") != FAILURE or step.kind == "ask":
            return None  # of a question, the answer decided it
        question = {"kind": "failure", "step": step.name, "error": values.get("error")}
        if jobs := self._reporter.jobs.failed_in(step.name):
            question["log"] = jobs[0]["log"]
        answer = await self._answering.ask(question)
        target = step.name
        if answer == "skip":
            target = self._plan.target_of(step, "success")
        if answer not in ("retry", "skip") or target in ("success", "failed"):
            return None
        update: dict[str, Any] = {"goto": target, "status": None, "error": None}
        return Command(goto=node_of(self._plan, target), update=update)

    def _end(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The end of the graph, as it is to be reported."""
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

    # -- the handlers of the plan -----------------------------------------------------------------

    async def _open_handlers(self, saver: Any) -> _Handlers:
        """The graph of the plan's handlers, and the state that it was left in."""
        builder = handlers_graph(self._plan, self._dependencies, build_graph)
        graph: Any = builder.compile(
            checkpointer=saver, store=self._options.memory, name=self._plan.name
        )
        config = self._config()
        config["configurable"] = {"thread_id": f"{self.context.run_id}{HANDLERS_THREAD}"}
        return _Handlers(graph, config, await graph.aget_state(config))

    async def _at_end(
        self, graph: Any, config: dict[str, Any], end: dict[str, Any]
    ) -> dict[str, Any]:
        """Run the plan's handlers at an end. Returns what is to be reported.

        Args:
            graph, config: The plan's steps, which have just ended.
        """
        if not self._plan.handlers or end["status"] not in ENDS:
            return end
        handlers = await self._open_handlers(graph.checkpointer)
        snapshot = await graph.aget_state(config)
        ended = self._how(end, snapshot)
        if end["status"] == "failed" and handlers.is_done(ended):
            return end  # nothing has happened since, as in a resume of a step without attempts
        earlier = handlers.snapshot.values.get("steps")
        given = state_at_end(self._plan, snapshot.values, ended, earlier)
        return await self._handle(handlers, given, end)

    def _how(self, end: Mapping[str, Any], snapshot: Any) -> PlanEnd:
        """How the plan ended, as its handlers see it."""
        step = end.get("gave_up") or snapshot.values.get("last")
        report = {name: value for name, value in end.items() if name != "outputs"}
        outcome = CANCELLED if end["status"] == "stopped" else end["status"]
        ended = PlanEnd(outcome=outcome, step=step, error=end.get("error"), report=report)
        at = str(snapshot.config["configurable"].get("checkpoint_id", ""))
        return cast("PlanEnd", {**self.context.mask(ended), "at": at})

    async def _handle(
        self, handlers: _Handlers, given: Any, end: dict[str, Any], asked: Sequence[Any] = ()
    ) -> dict[str, Any]:
        """Run the handlers to their end, or to a question. Returns what is to be reported."""
        values = await self._run(handlers.graph, handlers.config, given, asked, steps=False)
        return self._end(values) if values.get("__interrupt__") else end

    async def _rest_of_handlers(
        self, handlers: _Handlers, graph: Any, config: dict[str, Any], snapshot: Any
    ) -> RunResult:
        """Finish the handlers of an end that an earlier process of the run reached.

        Args:
            graph, config, snapshot: The plan's steps, and their state.
        """
        end = dict(handlers.snapshot.values["ended"]["report"])
        if snapshot.values.get("status"):
            end["outputs"] = self._store.get(snapshot.values.get("outputs") or {})
        else:
            end["outputs"] = await self._outputs_so_far(graph, config)
        interrupts = handlers.snapshot.interrupts
        asked = [i for i in interrupts if not needs_no_answer(i.value)]
        self._options.replies.require([{**i.value, "id": i.id} for i in asked])
        self._started(resumed=True)
        if not handlers.left:
            return self._reporter.ended(**end)
        return await self._reported(self._handle(handlers, None, end, interrupts))

    async def end_cancelled(self) -> RunResult | None:
        """Run the handlers of a run that was cancelled.

        Returns:
            None if there is nothing to do: the plan has no `finally`, the run has ended, or it did
            nothing since its handlers ran.
        """
        async with AsyncExitStack() as stack:
            graph, config = await self._open(stack)
            snapshot = await graph.aget_state(config)
            if not snapshot.tasks or "finally" not in self._plan.handlers:
                return None
            spent = spent_by(snapshot.values.get("spent"), self._remember_all())
            self.context.meter = Meter(limits_of(self._plan, self._options), spent, self._ledger)
            end: dict[str, Any] = {"status": "stopped", "error": BY_CANCEL}
            handlers = await self._open_handlers(graph.checkpointer)
            ended = self._how(end, snapshot)
            # A run without a process may have continued since, at the same checkpoint.
            ended["at"] = f"{ended.get('at')} {self._progress}"
            if handlers.is_done(ended):
                return None
            self._reporter.started(resumed=True, parent=self.parent, notices=self.notices)
            earlier, given = handlers.snapshot.values.get("steps"), None
            if not handlers.left:
                given = state_at_end(self._plan, snapshot.values, ended, earlier)
            asked = handlers.snapshot.interrupts if handlers.left else ()
            return await self._reported(self._handle(handlers, given, end, asked))


@dataclass(frozen=True, slots=True)
class _Handlers:
    """The graph of a plan's handlers, and the state that an earlier end left it in."""

    graph: Any
    config: dict[str, Any]
    snapshot: Any

    @property
    def left(self) -> bool:
        """Whether an earlier process began them and did not finish them."""
        return bool(self.snapshot.tasks)

    @property
    def known(self) -> bool:
        """Whether they ran at an earlier end."""
        return bool(self.snapshot.values.get("ended"))

    def is_done(self, ended: PlanEnd) -> bool:
        """Whether they have finished at this very end."""
        known: Mapping[str, Any] = self.snapshot.values.get("ended") or {}
        same = all(known.get(key) == ended.get(key) for key in ("outcome", "at", "step"))
        return self.known and not self.left and same


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
