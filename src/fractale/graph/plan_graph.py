"""A plan's graph for LangGraph applications: a compiled graph that knows its plan.

`PlanGraph` is LangGraph's own `CompiledStateGraph`. All ways to run a graph lead through its
`astream`: `ainvoke`, the development server, a parent graph. There, each run gets everything that
its plan says about itself:

- Input is the plan's inputs (``{"nodes": 4}``) or `initial_state`. Defaults are filled in, types
  are checked.
- Secret inputs are moved to the run's context. No checkpoint has them.
- The limits of the plan are counted. A limit, or `max_attempts`, ends the run with a `status`.
- Events of the run are chunks of the stream mode ``custom``.

`fractale.runs` runs the graph without this entrance, since it does the same with more: a record,
a journal, a user at the terminal.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, cast

from langchain_core.runnables import RunnableConfig
from langgraph._internal._config import ensure_config  # no public function merges them like a run
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_TASK_ID,
    CONFIG_KEY_THREAD_ID,
    INTERRUPT,
    NS_SEP,
    OVERWRITE,
)
from langgraph.config import get_stream_writer
from langgraph.graph import END, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command
from pydantic import create_model
from typing_extensions import TypedDict

from fractale.errors import AnswerError, InputError, LimitReached, UsageError
from fractale.events import Event, Listener
from fractale.graph.context import NO_ID, Meter, RunContext, with_limits
from fractale.graph.continued import (
    Left,
    checkpoint_of,
    cut_off_steps,
    forget_answer,
    kept_at,
    leave,
    read_left,
    write_of,
)
from fractale.graph.handlers import GAVE_UP, is_same_end, state_at_end
from fractale.graph.interrupts import is_by_id, read_resume
from fractale.graph.listener import OnEvent, caller_listener
from fractale.graph.state import PlanEnd, PlanState, latest_state
from fractale.graph.step import AttemptsExceeded, outputs_of
from fractale.graph.sync_saver import LoopSaver
from fractale.graph.tracing import masked
from fractale.graph.turns import Turn, turn_of
from fractale.masking import MASK
from fractale.plan.given import limits_of, secret_text, secrets_of
from fractale.plan.inputs import bind_inputs, schema_of_inputs, secret_variable
from fractale.plan.kinds import KINDS
from fractale.plan.model import Limits, Plan
from fractale.store.journal import MemoryJournal
from fractale.store.notes import MemoryNotes
from fractale.store.outputs import OutputStore
from fractale.store.run_record import HANDLERS_THREAD
from fractale.text import did_you_mean, shown_value

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.types import StateSnapshot, StateUpdate
    from pydantic import BaseModel

NO_RECURSION_LIMIT = 1_000_000_000
"""fractale bounds its loops itself: by attempts, limits and rules."""

_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class PlanContext(TypedDict, total=False):
    """The context of a plan's graph: ``graph.ainvoke(inputs, config, context={…})``.

    Keys:
        secrets: The plan's secret inputs by name. A resumed run needs them again. In a graph that
            is a node, the `secrets` in the context of the graph around it are known, too.
            LangGraph's server stores the context of each run, and has it in the checkpoints of
            graphs around a plan. There, set ``FRACTALE_INPUT_NAME`` or give `fractale.plan_graph`
            the secrets.
        limits: Limits that replace the plan's, such as ``{"steps": 20, "time": "2h"}``.
        yes: Whether approvals and drafted plans are accepted without a question.
    """

    secrets: dict[str, str]
    limits: dict[str, Any]
    yes: bool


class PlanOutput(TypedDict, total=False):
    """The result of a plan's graph.

    Keys:
        status: ``success``; ``failed``; ``limit`` if a limit of the run was reached, which a
            higher limit continues; None while the run waits.
        outputs: The plan's `outputs`. If the run failed or reached a limit, those that could be
            rendered then.
        error: Why the run did not succeed.
    """

    status: Literal["success", "failed", "limit"] | None
    outputs: Any
    error: str | None


Begin: TypeAlias = Callable[[], AbstractAsyncContextManager[Mapping[str, Any]]]


@asynccontextmanager
async def nothing_to_open() -> AsyncGenerator[Mapping[str, Any]]:
    """The `begin` of a graph whose dependencies are open already."""
    yield {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSetup:
    """The part of each run that is the same for all runs of a graph.

    Args:
        secrets: Secret inputs.
        limits: Replace the plan's limits of the same name.
        yes: Whether approvals and drafted plans are accepted without a question.
        on_event: Receives every event of a run; a function, or an async function.
        begin: Opens the tools for the time of a run. Gives fields of its `RunContext`.
    """

    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    limits: Limits = field(default_factory=Limits)
    yes: bool = False
    on_event: OnEvent | None = None
    begin: Begin = nothing_to_open


class PlanBuilder(StateGraph[PlanState, Any, Any, PlanOutput]):
    """A plan as LangGraph's `StateGraph`. Compile it with a saver.

    Args:
        outputs: The store that the plan's steps use.
        setup: What all runs of the graph begin with.
    """

    def __init__(self, plan: Plan, outputs: OutputStore, setup: RunSetup | None = None) -> None:
        super().__init__(
            PlanState,
            context_schema=PlanContext,
            input_schema=PlanState,
            output_schema=PlanOutput,
        )
        self.plan = plan
        self.outputs = outputs
        self.setup = setup or RunSetup()
        self.handlers: Any = None  # the builder of the graph of the plan's handlers alone

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride] - the same parameters
        self, checkpointer: Any = None, *, name: str | None = None, **options: Any
    ) -> PlanGraph:
        """Compile the plan. The parameters are those of `StateGraph.compile`.

        Args:
            checkpointer: A LangGraph saver. Without one a run cannot wait for an answer.
            name: The graph's name in traces; None: the plan's.
        """
        graph = super().compile(checkpointer, name=name or self.plan.name, **options)
        return PlanGraph.of(
            graph,
            plan=self.plan,
            outputs=self.outputs,
            setup=self.setup,
            handlers=self.handlers.compile() if self.handlers else None,
        )


@dataclass(frozen=True, slots=True)
class _Entered:
    """A run that is about to be streamed."""

    given: Any
    context: RunContext
    notes: MemoryNotes
    journal: MemoryJournal

    def work(self) -> tuple[dict[str, Any], frozenset[str]]:
        """The usage of the run and the calls of its step: not the same after any more work."""
        total = self.context.meter.total
        usage = {name: used for name, used in total.items() if name != "seconds"}
        return usage, frozenset(self.journal.values())


class PlanGraph(CompiledStateGraph[PlanState, Any, Any, PlanOutput]):
    """The compiled graph of a plan.

    Its context is a `PlanContext`, its result a `PlanOutput`, its state a `PlanState`.

    Args:
        plan: The plan.
        outputs: The store that the plan's steps use.
        setup: What all runs of the graph begin with.
        handlers: The compiled graph of the plan's handlers alone; None: it has none.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        outputs: OutputStore,
        setup: RunSetup,
        handlers: Any = None,
        **attributes: Any,
    ) -> None:
        # By these names, because LangGraph's `copy` passes every attribute to the constructor.
        allowed = attributes.pop("_serde_allowlist", None)
        mappers = {name: attributes.pop(name, None) for name in ("_output_mapper", "_state_mapper")}
        super().__init__(**attributes)
        self.plan = plan
        self.outputs = outputs
        self.setup = setup
        self.handlers = handlers
        self._serde_allowlist = allowed
        vars(self).update(mappers)

    @classmethod
    def of(
        cls,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        *,
        plan: Plan,
        outputs: OutputStore,
        setup: RunSetup,
        handlers: Any = None,
    ) -> Self:
        """Make a plan's graph of the graph that LangGraph compiled."""
        attributes = {
            name: value for name, value in vars(graph).items() if name != "__orig_class__"
        }
        config = cast("RunnableConfig", {"recursion_limit": NO_RECURSION_LIMIT})
        attributes["config"] = {**config, **(graph.config or {})}
        return cls(plan=plan, outputs=outputs, setup=setup, handlers=handlers, **attributes)

    # -- what it takes and gives ------------------------------------------------------------------

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The schema of the plan's inputs."""
        del config
        return schema_of_inputs(self.plan)

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[BaseModel]:
        """The plan's inputs as a pydantic model."""
        del config
        fields: dict[str, Any] = {
            spec.name: (
                _PYTHON.get(spec.type or "", Any) if spec.required else Any,
                ... if spec.required and not spec.secret else spec.default,
            )
            for spec in self.plan.inputs.values()
        }
        return create_model(self.get_name("Input"), **fields)

    # -- a run ------------------------------------------------------------------------------------

    async def astream(  # pyright: ignore[reportIncompatibleMethodOverride] - the overloads only say what versions give
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        config: RunnableConfig | None = None,
        *,
        context: PlanContext | RunContext | None = None,
        stream_mode: Any = None,
        output_keys: Any = None,
        durability: Any = None,
        subgraphs: bool = False,
        version: Literal["v1", "v2"] = "v1",
        **options: Any,
    ) -> AsyncGenerator[Any]:
        """Run the plan, or continue its run, and stream it as LangGraph does.

        Args:
            input: The plan's inputs, or `initial_state`. None or a `Command` continues a run.
            context: Secrets, limits, approval beforehand.
            durability: By default ``sync``: a finished step is never done again.

        Raises:
            InputError: An input or a secret is missing or wrong, or the context is.
            ListenerError: `on_event` raised. The run continued to its end or next question.
            AnswerError: An agent's graph, or a tool's code, does not accept the answer. Its
                question stays open.
        """
        config = _without_secrets(config)
        call = ensure_config(self.config, config)
        saver = cast("BaseCheckpointSaver[Any] | None", self._resolve_checkpointer(call))
        if stream_mode is None:
            stream_mode = "values" if CONFIG_KEY_TASK_ID in call.get(CONF, {}) else self.stream_mode
        if (
            durability is None
            and saver is not None
            and CONFIG_KEY_TASK_ID not in call.get(CONF, {})
        ):
            durability = "sync"
        form = _Form(call, stream_mode, output_keys, subgraphs, version, self.stream_channels_list)
        on_event = self.setup.on_event
        heard = caller_listener(on_event) if on_event else nullcontext()
        resumes = input is None or isinstance(input, Command)
        async with (
            _turn(call, saver) if resumes else nullcontext() as turn,
            heard as listener,
            self.setup.begin() as fields,
        ):
            entered = await self._enter(input, call, context, saver, form, fields, listener, turn)
            before = entered.work()
            given = {**(config or {}), "callbacks": call.get("callbacks")}
            chunks = self._stream_masked(
                entered,
                cast("RunnableConfig", given),
                stream_mode=stream_mode,
                output_keys=output_keys,
                durability=durability,
                subgraphs=subgraphs,
                version=version,
                **options,
            )
            try:
                async with aclosing(_noted(chunks, turn, form)) as stream:
                    async for chunk in stream:
                        yield chunk
            except (AttemptsExceeded, LimitReached) as error:
                is_idle = entered.work() == before
                end = self._end(entered, call, saver, error, durability, form, is_idle=is_idle)
                async with aclosing(_noted(end, turn, form)) as stream:
                    async for chunk in stream:
                        yield chunk
            finally:
                if saver is not None and (not form.at_end or self.handlers is not None):
                    run, notes, journal = entered.context, entered.notes, entered.journal
                    await asyncio.shield(leave(saver, call, run, notes, journal))

    async def _end(
        self,
        entered: _Entered,
        config: RunnableConfig,
        saver: BaseCheckpointSaver[Any] | None,
        error: AttemptsExceeded | LimitReached,
        durability: Any,
        form: _Form,
        *,
        is_idle: bool,
    ) -> AsyncGenerator[Any]:
        """The chunks of a run that an error ended: of its handlers, and of its end."""
        status = "limit" if isinstance(error, LimitReached) else "failed"
        outputs = await self._outputs_so_far(config, saver, entered)
        if self.handlers is not None:
            chunks = self._handle(entered, config, saver, error, durability, form, is_idle=is_idle)
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        form.is_over = True
        for chunk in form.ended(status, error.message, outputs):
            yield chunk

    async def _outputs_so_far(
        self,
        config: RunnableConfig,
        saver: BaseCheckpointSaver[Any] | None,
        entered: _Entered,
    ) -> Any:
        """The outputs of a plan that reached no end, as far as they can be rendered.

        None if no saver has the plan's steps.
        """
        if not self.plan.outputs or saver is None or CONFIG_KEY_TASK_ID in config.get(CONF, {}):
            return None
        state = latest_state(await self.aget_state(config, subgraphs=True))
        outputs, _ = outputs_of(self.plan, state, entered.context, self.outputs)
        return self.outputs.put(entered.context.mask(outputs))

    async def _handle(
        self,
        entered: _Entered,
        config: RunnableConfig,
        saver: BaseCheckpointSaver[Any] | None,
        error: AttemptsExceeded | LimitReached,
        durability: Any,
        form: _Form,
        *,
        is_idle: bool,
    ) -> AsyncGenerator[Any]:
        """Run the plan's handlers after an error ended its graph, whose step stays due.

        They have a thread of their own, or in another graph a namespace, since the thread of the
        plan continues from its checkpoint. If the plan did nothing since an earlier call reached
        this end, only the handlers that it left unfinished are finished. No question can be asked
        there: a step that asks one ends them with a warning.

        Args:
            form: Of the run. Its latest values count if no saver keeps the state.
            is_idle: Whether this call of the graph has done nothing before the end.

        Yields:
            Their chunks, unless another graph has them already.
        """
        conf, run = config.get(CONF, {}), entered.context
        step = error.step if isinstance(error, AttemptsExceeded) else None
        words = run.mask(error.message)
        ended = PlanEnd(outcome="failed" if step else "limit", step=step, error=words)
        own: dict[str, Any] = {k: v for k, v in conf.items() if k != CONFIG_KEY_CHECKPOINT_ID}
        known: Any = form.values
        if saver is not None:
            state = await self.aget_state({**config, CONF: own})
            known = state.values
            ended["at"] = str(state.config.get(CONF, {}).get(CONFIG_KEY_CHECKPOINT_ID, ""))
        graph, begins = self.handlers, True
        if saver is not None and CONFIG_KEY_TASK_ID not in conf:
            own[CONFIG_KEY_THREAD_ID] = f"{conf[CONFIG_KEY_THREAD_ID]}{HANDLERS_THREAD}"
            graph = graph.copy({"checkpointer": saver})
            earlier = await graph.aget_state({CONF: own})
            same = is_same_end(earlier.values.get("ended") or PlanEnd(), ended)
            begins = not (is_idle and same)
            if not (begins or earlier.tasks):
                return
        options = {} if durability is None else {"durability": durability}
        at = {**config, CONF: own, "recursion_limit": NO_RECURSION_LIMIT}
        given = state_at_end(self.plan, known or entered.given or {}, ended) if begins else None
        modes = list(dict.fromkeys(["updates", *form.modes]))
        asked_of: list[Any] = []
        with masked(cast("RunnableConfig", at), run.masker) as shown:
            async for ns, mode, data in graph.astream(
                given, shown, context=run, stream_mode=modes, subgraphs=True, **options
            ):
                if mode == "updates" and INTERRUPT in data:
                    asked_of += data[INTERRUPT] if ns == form.ns else ()
                elif CONFIG_KEY_TASK_ID not in conf and form.wants(ns, mode):
                    yield form.chunk(mode, data, ns)
        for asked in asked_of:
            step = str(asked.value.get("step") or "")
            words = "its question cannot be asked when a limit has ended the plan"
            run.emit("warning", step=step, code=GAVE_UP, message=words)

    async def _stream_masked(
        self, entered: _Entered, config: RunnableConfig, **options: Any
    ) -> AsyncGenerator[Any]:
        """LangGraph's own stream of this graph, whose callback handlers see no secret."""
        own = cast("RunnableConfig", {**(self.config or {}), "callbacks": None})
        plain = self.copy({"config": own}) if (self.config or {}).get("callbacks") else self
        with masked(config, entered.context.masker) as shown:
            chunks = cast(
                "AsyncGenerator[Any]",
                super(PlanGraph, plain).astream(
                    entered.given, shown, context=entered.context, **options
                ),
            )
            chunk = await anext(chunks, _LAST)  # with the first one, LangGraph reads the config
        async with aclosing(chunks):
            while chunk is not _LAST:
                yield chunk
                chunk = await anext(chunks, _LAST)

    def stream(  # pyright: ignore[reportIncompatibleMethodOverride] - as `astream`
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        config: RunnableConfig | None = None,
        **options: Any,
    ) -> Generator[Any]:
        """The same as `astream`, for code that is not async.

        Raises:
            UsageError: An event loop runs in this thread: use `astream` or `ainvoke` there.
        """
        _check_no_loop()
        graph, config = self._with_async_saver(config)
        with asyncio.Runner() as runner:
            chunks = graph.astream(input, config, **options)
            try:
                while True:
                    if (chunk := runner.run(_next(chunks))) is _LAST:
                        return
                    yield chunk
            finally:
                runner.run(chunks.aclose())

    def _with_async_saver(
        self, config: RunnableConfig | None
    ) -> tuple[PlanGraph, RunnableConfig | None]:
        """This graph and config with a saver that a loop can use: most have sync methods only."""
        given: dict[str, Any] = {**(config or {})}
        conf: dict[str, Any] = given.get(CONF) or {}
        if saver := conf.get(CONFIG_KEY_CHECKPOINTER):
            given[CONF] = {**conf, CONFIG_KEY_CHECKPOINTER: LoopSaver(saver)}
            return self, cast("RunnableConfig", given)
        if self.checkpointer in (None, True, False):
            return self, config
        saver = LoopSaver(cast("BaseCheckpointSaver[Any]", self.checkpointer))
        return self.copy({"checkpointer": saver}), config

    async def _enter(
        self,
        given: Any,
        config: RunnableConfig,
        context: PlanContext | RunContext | None,
        saver: BaseCheckpointSaver[Any] | None,
        form: _Form,
        fields: Mapping[str, Any],
        listener: Listener | None,
        turn: Turn | None,
    ) -> _Entered:
        """Prepare a run: the graph's input, and the run as its nodes see it."""
        plan, conf = self.plan, config.get(CONF, {})
        nested = CONFIG_KEY_TASK_ID in conf
        resumes = given is None or isinstance(given, Command)
        options = _options(plan, None if isinstance(context, RunContext) else context)
        inputs = {} if resumes else inputs_of(plan, given, nested=nested)
        theirs = secrets_in(plan, parent_context(config))
        given_ones = {**options.secrets, **_split_secrets(plan, inputs)}
        secrets = {**self.setup.secrets, **theirs, **given_ones}
        _check_secrets(plan, secrets)
        values = {} if resumes else bind_inputs(plan, inputs, secrets)
        run = await _context_of(plan, config, context, fields)
        left = Left()
        if saver is not None and (resumes or conf.get(CONFIG_KEY_RESUMING)):
            given, left = await self._continued(given, config, saver, run, turn, nested=nested)
        run.grants = [*run.grants, *left.grants]
        run.shown = set(left.shown)
        notes = MemoryNotes(left.notes)
        outer = str(conf.get(CONFIG_KEY_CHECKPOINT_NS) or "") if nested else ""
        journal = MemoryJournal(left.calls, outer)
        if not isinstance(context, RunContext):  # else they are the caller's own
            run.notes = notes
            if saver is not None:
                run.journal = journal
            run.caller = _callers(config, context, nested=nested)
        run.secret_inputs = secrets
        run.masker.add(*secrets.values())
        if resumes and not nested:
            _check_no_secret(run, given)
        if run.meter.limits == Limits() and not run.meter.total:
            limits = with_limits(with_limits(plan.limits, self.setup.limits), options.limits)
            run.meter = Meter(limits, left.spent, entered=left.entered)
        run.yes = run.yes or self.setup.yes or options.yes
        _connect_events(run, config, form, listener)
        if not resumes:
            prefix = str(cast("Mapping[str, Any]", given).get("prefix") or "")
            kept = {name: self.outputs.put(run.mask(value)) for name, value in values.items()}
            given = _first_state(kept, prefix)
            if plan.value_names:  # of an earlier run
                given |= {"values": {OVERWRITE: {}}, "value_sources": {OVERWRITE: {}}}
        return _Entered(given, run, notes, journal)

    async def _continued(
        self,
        given: Any,
        config: RunnableConfig,
        saver: BaseCheckpointSaver[Any],
        run: RunContext,
        turn: Turn | None,
        *,
        nested: bool,
    ) -> tuple[Any, Left]:
        """The input of a thread that is continued, and what it left beside its checkpoints."""
        left = await read_left(saver, config)
        given, state = await self._answered(given, config, turn, nested=nested)
        if nested:
            _forget_bare(config.get(CONF, {}))
        elif left.answered and not _has_bare(given):
            await forget_answer(saver, config)
        if any(KINDS[step.kind].keeps_sources for step in self.plan.walk()):
            state = state or await self.aget_state(config)
            run.cut_off = await cut_off_steps(saver, config, state)
        return given, left

    # -- its state --------------------------------------------------------------------------------

    def bulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """As LangGraph's. The usage and the approvals of the waiting step are kept."""
        saver, call = self._saver_of(config)
        kept = kept_at(saver and saver.get_tuple(checkpoint_of(call)))
        updated = super().bulk_update_state(config, supersteps)
        if saver is not None and kept:
            saver.put_writes(checkpoint_of(updated), *write_of(kept))
        return updated

    async def abulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        """As LangGraph's. The usage and the approvals of the waiting step are kept."""
        saver, call = self._saver_of(config)
        kept = kept_at(saver and await saver.aget_tuple(checkpoint_of(call)))
        updated = await super().abulk_update_state(config, supersteps)
        if saver is not None and kept:
            await saver.aput_writes(checkpoint_of(updated), *write_of(kept))
        return updated

    def _saver_of(
        self, config: RunnableConfig
    ) -> tuple[BaseCheckpointSaver[Any] | None, RunnableConfig]:
        call = ensure_config(self.config, config)
        saver = cast("BaseCheckpointSaver[Any] | None", self._resolve_checkpointer(call))
        return (saver if CONFIG_KEY_THREAD_ID in call.get(CONF, {}) else None), call

    async def _answered(
        self, given: Any, config: RunnableConfig, turn: Turn | None, *, nested: bool
    ) -> tuple[Any, StateSnapshot | None]:
        """The input, with answers to Python code in the form that it expects; the state, if read.

        Raises:
            AnswerError: The input has an answer that is none, or was given to a question that
                another call has answered meanwhile. Questions stay open.
        """
        if nested or not isinstance(given, Command):
            return given, None  # in another graph, the agent's step reads the answer
        command = cast("Command[Any]", given)
        if command.resume is None:
            return command, None
        state = await self.aget_state(config)
        waiting = {each.id for each in state.interrupts}
        fits = is_by_id(command.resume) and waiting.issuperset(command.resume)
        if turn is not None and turn.waited and state.tasks and not fits:
            raise AnswerError(
                "another call has continued this thread meanwhile, so this answer was not used",
                hint="look at the thread's state, and answer what it asks now",
            )
        return replace(command, resume=read_resume(command.resume, state.interrupts)), state


def _connect_events(
    run: RunContext, config: RunnableConfig, form: _Form, listener: Listener | None
) -> None:
    """Pass the run's events to those who want them."""
    listeners = [] if listener is None else [listener]
    if "custom" in form.modes or CONFIG_KEY_STREAM in config.get(CONF, {}):
        listeners.append(StreamedEvents())
    if not listeners:
        return
    earlier = run.emit_event

    def emit(event: Event) -> None:
        earlier(event)
        for each in listeners:
            each(event)

    run.emit_event = emit


_PYTHON: Final[Mapping[str, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
}


# -- the input -------------------------------------------------------------------------------------

_STATE: Final = frozenset(PlanState.__annotations__)


def inputs_of(plan: Plan, given: Any, *, nested: bool = False) -> dict[str, Any]:
    """The plan's inputs in the input of a graph: either alone, or as `initial_state` has them.

    Args:
        nested: Whether a node of another graph gives its state. As for any subgraph, keys that the
            plan does not have are not meant for it.

    Raises:
        InputError: It is not a mapping.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"the input of the plan `{plan.name}` is a mapping of its inputs, "
            f"not {type(given).__name__}",
            hint=f"its inputs: {', '.join(plan.inputs) or 'none'}",
        )
    values = {str(key): value for key, value in cast("Mapping[Any, Any]", given).items()}
    if _is_state(plan, values, nested=nested):
        inner = values["inputs"]
        return {str(k): v for k, v in cast("Mapping[Any, Any]", inner).items()}
    return {name: value for name, value in values.items() if not nested or name in plan.inputs}


def _is_state(plan: Plan, values: Mapping[str, Any], *, nested: bool) -> bool:
    """Whether an input has the form of `initial_state`."""
    if not isinstance(values.get("inputs"), Mapping):
        return False
    if "inputs" in plan.inputs:  # the plan has an input of this name: only the whole form is clear
        return {"inputs", "steps", "spent"} <= values.keys()
    return nested or values.keys() <= _STATE


def _split_secrets(plan: Plan, inputs: dict[str, Any]) -> dict[str, str]:
    """Take the secret inputs out of the inputs.

    Raises:
        InputError: One is not text.
    """
    found: dict[str, str] = {}
    for name, spec in plan.inputs.items():
        if not spec.secret or name not in inputs:
            continue
        value = inputs.pop(name)
        if value is not None:
            found[name] = secret_text(name, value)
    return found


def _check_secrets(plan: Plan, secrets: Mapping[str, str]) -> None:
    missing = [n for n, s in plan.inputs.items() if s.secret and s.required and n not in secrets]
    if missing:
        raise InputError(
            f"secret input `{missing[0]}` is missing; no checkpoint has it",
            hint=f'give context={{"secrets": {{"{missing[0]}": …}}}}, also when a run continues; '
            f"`fractale.plan_graph` also reads {secret_variable(missing[0])}",
        )


def _first_state(inputs: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The state in which a run begins. A thread may have the state of an earlier run."""
    return {
        "inputs": dict(inputs),
        "steps": {OVERWRITE: {}},
        "spent": {OVERWRITE: {}},
        "prefix": prefix,
        "last": None,
        "goto": None,
        "status": None,
        "error": None,
        "outputs": None,
    }


# -- the context -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    limits: Limits = field(default_factory=Limits)
    yes: bool = False


def _options(plan: Plan, context: Any) -> _Options:
    """The values of a `PlanContext`.

    Raises:
        InputError: It has another key, or a wrong value.
    """
    if context is None:
        return _Options()
    keys = PlanContext.__annotations__
    if not isinstance(context, Mapping):
        raise InputError(
            f"the context of a plan's graph is a mapping of {', '.join(keys)}, "
            f"not {shown_value(context)}"
        )
    given = cast("Mapping[str, Any]", context)
    for key in given:
        if key not in keys:
            hint = did_you_mean(str(key), keys, otherwise=f"its keys: {', '.join(keys)}")
            raise InputError(f"the context of a plan's graph has no key `{key}`", hint=hint)
    yes = given.get("yes")
    if yes is not None and not isinstance(yes, bool):
        raise InputError(f"`yes` cannot be {shown_value(yes)}", hint="give True or False")
    return _Options(
        secrets=secrets_of(plan, given.get("secrets")),
        limits=limits_of(given.get("limits")),
        yes=yes is True,
    )


def _without_secrets(config: RunnableConfig | None) -> RunnableConfig | None:
    """The config without the context's secrets.

    LangGraph's server puts the context into the config, too, and savers store the config's values
    as the metadata of checkpoints.
    """
    conf: dict[str, Any] = (config or {}).get(CONF) or {}
    if config is None or "secrets" not in conf:
        return config
    return {**config, CONF: {key: value for key, value in conf.items() if key != "secrets"}}


def _callers(config: RunnableConfig, context: Any, *, nested: bool) -> Any:
    """The context as the application's own tools see it: of the graph around, if there is one.

    The secrets of a `PlanContext` are left out: a tool gets a secret by its arguments.
    """
    if nested:
        around = parent_context(config)
        return around.caller if isinstance(around, RunContext) else around
    known: Mapping[str, Any] | None = context
    return None if known is None else {k: v for k, v in known.items() if k != "secrets"}


def _has_bare(given: Any) -> bool:
    """Whether the input has an answer that names no question."""
    resume: Any = cast("Command[Any]", given).resume if isinstance(given, Command) else None
    return resume is not None and not is_by_id(resume)


def _forget_bare(conf: Mapping[str, Any]) -> None:
    """Pass over a bare answer to the graph around: beside answers by id, it is an earlier one."""
    scratchpad = conf.get(CONFIG_KEY_SCRATCHPAD)
    if scratchpad is not None and conf.get(CONFIG_KEY_RESUME_MAP):
        scratchpad.get_null_resume(True)


def _check_no_secret(run: RunContext, given: Any) -> None:
    """Check that an answer has no secret of the run. The checkpointer stores it as it is.

    Raises:
        AnswerError: It has one. The question stays open.
    """
    resume: Any = cast("Command[Any]", given).resume if isinstance(given, Command) else None
    if resume is not None and run.mask(resume) != resume:
        raise AnswerError(
            "the answer has a secret of the run, and the checkpointer would store it",
            hint=f"leave it as `{MASK}`: the call is made with the secret",
        )


def parent_context(config: RunnableConfig) -> Any:
    """The context of the graph that this one is a node of; None: it has none, or there is none."""
    return getattr(config.get(CONF, {}).get(CONFIG_KEY_RUNTIME), "context", None)


def secrets_in(plan: Plan, context: Any) -> dict[str, str]:
    """The plan's secret inputs in the context of another graph: its `secrets`, if it has them.

    Raises:
        InputError: One is not text.
    """
    found: Any = _part(context, "secrets")
    if not isinstance(found, Mapping):
        return {}
    theirs = cast("Mapping[str, Any]", found)
    names = [name for name, spec in plan.inputs.items() if spec.secret and name in theirs]
    return {name: secret_text(name, theirs[name]) for name in names}


def _part(context: Any, name: str) -> Any:
    if isinstance(context, Mapping):
        return cast("Mapping[str, Any]", context).get(name)
    return getattr(context, name, None)


async def _context_of(
    plan: Plan, config: RunnableConfig, context: Any, fields: Mapping[str, Any]
) -> RunContext:
    """The run as its nodes see it, before its limits and secrets are known."""
    if isinstance(context, RunContext):
        run_id = _run_id(config) if context.run_id == NO_ID else context.run_id
        return replace(context, run_id=run_id, plan_name=context.plan_name or plan.name)
    known: dict[str, Any] = {"start_dir": await asyncio.to_thread(Path.cwd), **fields}
    return RunContext(run_id=_run_id(config), plan_name=plan.name, **known)


def _run_id(config: RunnableConfig) -> str:
    """The id of a run: the thread's; in another graph, the same for the same task of the thread."""
    conf = config.get(CONF, {})
    thread = str(conf.get(CONFIG_KEY_THREAD_ID) or "")
    if not thread:
        return uuid.uuid4().hex
    if not _RUN_ID.fullmatch(thread):
        thread = hashlib.sha256(thread.encode()).hexdigest()[:32]
    if CONFIG_KEY_TASK_ID not in conf:
        return thread
    namespace = str(conf.get(CONFIG_KEY_CHECKPOINT_NS, ""))
    return f"{thread}-{hashlib.sha256(namespace.encode()).hexdigest()[:8]}"


# -- the stream ------------------------------------------------------------------------------------


class StreamedEvents:
    """Writes a run's events to LangGraph's stream of mode ``custom``.

    LangGraph finds the stream of a node by the context of its task. Some events are emitted in
    other tasks, such as the progress of a tool. So each step's context is kept.
    """

    def __init__(self) -> None:
        self._contexts: dict[str, Context] = {}

    def __call__(self, event: Event) -> None:
        step = str(event.data.get("step") or "")
        if event.kind in ("step_started", "item_started") or step not in self._contexts:
            self._contexts[step] = copy_context()
        self._contexts[step].copy().run(_write, event)
        if event.kind == "step_finished":
            del self._contexts[step]


def _write(event: Event) -> None:
    try:
        write = get_stream_writer()
    except RuntimeError:  # outside of any node
        return
    write(event.as_dict())


class _Form:
    """The form of a run's chunks, so that the end of a run has the same form."""

    def __init__(
        self,
        config: RunnableConfig,
        mode: Any,
        keys: Any,
        subgraphs: bool,
        version: str,
        channels: Sequence[str],
    ) -> None:
        conf = config.get(CONF, {})
        place = str(conf.get(CONFIG_KEY_CHECKPOINT_NS) or "") if CONFIG_KEY_TASK_ID in conf else ""
        self.ns = tuple(place.split(NS_SEP)) if place else ()
        self._is_list = isinstance(mode, list)
        self.modes: Sequence[str] = [mode] if isinstance(mode, str) else list(mode)
        self._keys: Sequence[str] = [keys] if isinstance(keys, str) else list(keys or channels)
        self._subgraphs = subgraphs
        self._version = version
        self.values: dict[str, Any] = {}
        self.is_paused = False
        self.is_over = False

    def seen(self, chunk: Any) -> Any:
        """Remember the latest values of the run. They have every key of the result.

        A run that `fractale.arun` began has a key only once a step has set it.
        """
        if self.is_over or ("values" not in self.modes and "updates" not in self.modes):
            return chunk
        ns, mode, data = self._parts(chunk)
        if ns == self.ns and isinstance(data, dict):
            self.is_paused = self.is_paused or INTERRUPT in data
        if mode == "values" and ns == self.ns and isinstance(data, dict):
            self.values = values = cast("dict[str, Any]", data)
            for key in PlanOutput.__annotations__:
                if key in self._keys:
                    values.setdefault(key, None)
        return chunk

    @property
    def at_end(self) -> bool:
        """Whether the run is known to have reached an end of its plan."""
        return self.values.get("status") in ("success", "failed")

    def _parts(self, chunk: Any) -> tuple[Any, str, Any]:
        if self._version == "v2":
            return chunk["ns"], chunk["type"], chunk["data"]
        if self._is_list:
            return chunk if self._subgraphs else (self.ns, *chunk)
        ns, data = chunk if self._subgraphs else (self.ns, chunk)
        return ns, self.modes[0], data

    def ended(self, status: str, error: str, outputs: Any) -> Iterator[Any]:
        """The chunks at the end of a run whose graph did not reach an end itself."""
        update = {"status": status, "outputs": outputs, "error": error}
        if "updates" in self.modes:
            yield self.chunk("updates", {END: update})
        if "values" in self.modes:
            shown = {key: value for key, value in update.items() if key in self._keys}
            known = {k: v for k, v in self.values.items() if k != INTERRUPT}
            yield self.chunk("values", {**known, **shown})

    def wants(self, ns: tuple[str, ...], mode: str) -> bool:
        """Whether a chunk of the handlers is one of the run's, which end with its values."""
        if mode == "values" or mode not in self.modes:
            return False
        return self._subgraphs or ns == self.ns or mode == "custom"

    def chunk(self, mode: str, data: Any, ns: tuple[str, ...] | None = None) -> Any:
        """A chunk of the run; ns: of its own graph, if None. It is shown only with subgraphs."""
        ns = ns if ns is not None and self._subgraphs else self.ns
        if self._version == "v2":
            known = {"interrupts": ()} if mode == "values" else {}
            return {"type": mode, "ns": ns, "data": data, **known}
        if self._is_list:
            return (ns, mode, data) if self._subgraphs else (mode, data)
        return (ns, data) if self._subgraphs else data


def _turn(
    config: RunnableConfig, saver: BaseCheckpointSaver[Any] | None
) -> AbstractAsyncContextManager[Turn | None]:
    """The turn to continue a thread. In another graph, that graph decides."""
    conf = config.get(CONF, {})
    thread = str(conf.get(CONFIG_KEY_THREAD_ID) or "")
    if saver is None or not thread or CONFIG_KEY_TASK_ID in conf:
        return nullcontext()
    home: Any = saver.saver if isinstance(saver, LoopSaver) else saver
    for name in ("conn", "storage"):  # LangGraph may use a copy of the saver, with the same one
        home = getattr(home, name, home)
    return turn_of(home, thread)


async def _noted(
    chunks: AsyncGenerator[Any], turn: Turn | None, form: _Form
) -> AsyncGenerator[Any]:
    """A run's chunks, which the form sees. The turn knows when the caller has one."""
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            shown = form.seen(chunk)
            if turn is not None:
                turn.shown(is_paused=form.is_paused)
            yield shown
            if turn is not None:
                turn.goes_on()


def _check_no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        "`invoke` and `stream` of a plan's graph cannot wait inside a running event loop, such as "
        "that of a notebook; use `await graph.ainvoke(…)` or `async for … in graph.astream(…)`"
    )


_LAST: Final = object()


async def _next(chunks: AsyncGenerator[Any]) -> Any:
    return await anext(chunks, _LAST)
