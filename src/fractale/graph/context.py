"""A run as its nodes see it: the outside world, the limits, and the way out.

`Dependencies` are the outside things, one adapter each, given once to `compile_plan`. `Meter`
counts the usage of a run and stops it at a limit. `RunContext` is one run. It reaches the nodes
through LangGraph's own context. Data leaves a run through its fields: events, journal, notes and
drafts. Each of these fields is wrapped when it is set, so that everything that passes through it is
masked. `Attempt` wraps the store of outputs.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from pydantic_core import SchemaSerializer, core_schema

from fractale.agents.catalog import Catalog
from fractale.clock import Clock, SystemClock
from fractale.errors import LimitReached
from fractale.events import Event, EventKind, Listener, shortened
from fractale.graph.bindings import Bindings
from fractale.graph.state import ForkPoint, Spent
from fractale.jobs.budget import LIMITS, Budget, Ledger, MemoryLedger
from fractale.masking import Masker
from fractale.models import Models, Usage
from fractale.plan.model import Limits, Plan
from fractale.policy import NO_LABELS, Grant, Labels, Policy
from fractale.settings import DEFAULT_MAX_ATTEMPTS, Settings
from fractale.store.cache import CacheStore
from fractale.store.journal import Journal, MaskedJournal, NoJournal
from fractale.store.notes import MaskedNotes, MemoryNotes, Notes
from fractale.store.outputs import InlineOutputs, OutputStore
from fractale.toolbox import Toolbox

if TYPE_CHECKING:
    from fractale.graph.call import Attempt
    from fractale.jobs import Jobs

JobsOf: TypeAlias = "Callable[[str | None], Jobs]"
"""Returns the jobs of a scheduler by its name. Without a name: the only or the default one."""

AskNow: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Asks a question while a call is in progress. Returns None if no user is there to answer."""


async def nobody(question: Mapping[str, Any]) -> Any:
    """The `AskNow` of a run without a user."""
    del question


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultCache:
    """The results of earlier runs that the steps of a run may take over.

    Args:
        store: Where they are.
        reuse: Whether every step that only reads takes part, not only those that say `cache`.
        environment: The variables that jobs and scripts get, as far as they matter.
    """

    store: CacheStore
    reuse: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def keeps(self) -> bool:
        """Whether new results are kept."""
        return True

    def wants(self, attempt: Attempt) -> bool:
        """Whether the step of an attempt is to be looked up.

        A run comes back to a step because it wants something new.
        """
        step = attempt.step
        if step.cache is None and not self.reuse:
            return False
        if step.foreach is not None or attempt.is_again:
            return False
        if step.job is not None and step.job.array is not None:
            return False
        if step.cache is not None:
            return step.cache.on
        return step.kind == "tool" and step.until is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The outside world as a graph sees it. A test can replace each part.

    Args:
        drafts: Path of a planned step → the YAML that was drafted for it, for a graph that is only
            drawn or inspected. A run compiles its drafts when it reaches them.
        patient: Whether to wait before a step's call is tried again. A replay does not wait.
        made: Directory (`MADE`) of what is known of the files that steps create
            (`fractale.graph.made`). None: nothing is known, so that no step is up to date.
        cache: The results that steps may take over (`fractale.graph.reuse`). None: none is.
    """

    toolbox: Toolbox
    models: Models = field(default_factory=lambda: Models(Settings()))
    outputs: OutputStore = field(default_factory=InlineOutputs)
    policy: Policy = field(default_factory=Policy)
    agents: Catalog = field(default_factory=Catalog)
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    jobs: JobsOf | None = None
    drafts: Mapping[str, str] = field(default_factory=dict[str, str])
    patient: bool = True
    made: Path | None = None
    cache: ResultCache | None = None

    def within(self, plan: Plan) -> Dependencies:
        """The same for the graph of a plan, which may write agents of its own."""
        return replace(self, agents=self.agents.with_experts(plan)) if plan.experts else self

    def inside(self, step: str) -> Dependencies:
        """The same for the graph inside a step."""
        if not self.drafts:
            return self
        start = f"{step}/"
        below = {path: text for path, text in self.drafts.items() if path.startswith(start)}
        return replace(self, drafts={path[len(start) :]: text for path, text in below.items()})


LOOK: Final = "cache.look"
"""The name in the journal of the look-up of a step for a result of an earlier run."""

MADE = "made"
"""The directory in the state directory that says from what the files of steps were made."""

# The limits of a run


def limits_set(limits: Limits, names: Iterable[str] = Limits.__slots__) -> dict[str, Any]:
    """Those of some limits that are set."""
    values = {name: getattr(limits, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def with_limits(limits: Limits, others: Limits) -> Limits:
    """The same limits, with those of the others that are set."""
    return replace(limits, **limits_set(others))


RAISE = "raise it with --limit and continue with `fractale resume`"
DEFAULT_DEPTH = 5
"""The maximum nesting of drafted plans, and of agents that ask agents."""


class Meter:
    """Counts the usage of the whole tree of a run, and stops the run at the first limit reached.

    Args:
        limits: Of the plan at the top of the run.
        spent: The usage of earlier processes of the same run.
        ledger: The usage of its batch jobs.
        entered: The path of each step that waits → LangGraph's name of its task. Such a step is
            counted already.

    Attributes:
        limits: The limits.
        jobs: The budget of its batch jobs.
    """

    def __init__(
        self,
        limits: Limits,
        spent: Spent | None = None,
        ledger: Ledger | None = None,
        entered: Mapping[str, str] | None = None,
    ) -> None:
        self.limits = limits
        hours = {name: getattr(limits, name) for name in LIMITS}
        set_ones = {name: most for name, most in hours.items() if most is not None}
        self.jobs = Budget(set_ones, ledger or MemoryLedger())
        self.total: Spent = cast("Spent", dict(spent or {}))
        self._earlier = self.total.get("seconds", 0.0)
        self._started = time.monotonic()
        self._pauses = 0
        self._paused_at = 0.0
        self.entered: dict[str, str] = dict(entered or {})
        self._under_way = 0
        self._largest = Usage()
        self._room = asyncio.Condition()
        self._outer: Meter | None = None

    def for_handlers(self, steps: int) -> Meter:
        """The meter of the handlers of the run's own plan: its limits, with nothing used yet.

        What the handlers use counts for the run, too. Their batch jobs are unlimited. Each of their
        steps may be entered once, however low the limit of steps is. The handlers of a plan inside
        another one have no meter of their own.

        Args:
            steps: The number of their steps.
        """
        limits = self.limits
        if limits.steps is not None:
            limits = replace(limits, steps=max(limits.steps, steps))
        meter = Meter(replace(limits, **dict.fromkeys(LIMITS)))
        meter.jobs = self.jobs.unlimited()
        meter.entered = self.entered
        meter._outer = self
        return meter

    @property
    def seconds(self) -> float:
        """Seconds of running, earlier processes included."""
        now = self._paused_at if self._pauses else time.monotonic()
        return self._earlier + now - self._started

    @contextmanager
    def paused(self) -> Generator[None]:
        """Stop the run's time while fractale asks the user or waits for a job."""
        if not self._pauses:
            self._paused_at = time.monotonic()
        self._pauses += 1
        try:
            with self._outer.paused() if self._outer else nullcontext():
                yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._started += time.monotonic() - self._paused_at

    def enter_step(self, path: str, task: str) -> bool:
        """Count one entry of a step.

        Args:
            task: LangGraph's name of the task. Each entry has another name.

        Returns:
            Whether the entry is new. A step that asked the user runs again from its start when it
            has the answer, which does not count as another entry.

        Raises:
            LimitReached: The run has used up a limit.
        """
        if task and self.entered.get(path) == task:
            return False
        self.check()
        limit = self.limits.steps
        used = self.total.get("steps", 0)
        if limit is not None and used >= limit:
            steps = "1 step" if used == 1 else f"{used} steps"
            end = "its limit" if used == limit else f"and its limit is {limit}"
            raise LimitReached("steps", f"the run has entered {steps}, {end}", hint=RAISE)
        self.total["steps"] = used + 1
        self.entered[path] = task
        if self._outer:
            self._outer.total["steps"] = self._outer.total.get("steps", 0) + 1
        return True

    @property
    def steps_left(self) -> int | None:
        """The number of steps that the run may still enter. None: unlimited."""
        limit = self.limits.steps
        return None if limit is None else max(limit - self.total.get("steps", 0), 0)

    def check_depth(self, depth: int) -> None:
        """Check the depth before a drafted plan or an agent's agent begins, `depth` levels down.

        Raises:
            LimitReached: The run may not nest that deep.
        """
        if depth > self.most_depth:
            message = f"plans and agents are nested {self.most_depth} deep, the run's limit"
            raise LimitReached("depth", message, hint=RAISE)

    @property
    def most_depth(self) -> int:
        """The maximum nesting of drafted plans and agents."""
        return DEFAULT_DEPTH if self.limits.depth is None else self.limits.depth

    def add(self, usage: Usage) -> None:
        """Add the usage of a model."""
        total = self.total
        total["input_tokens"] = total.get("input_tokens", 0) + usage.input_tokens
        total["output_tokens"] = total.get("output_tokens", 0) + usage.output_tokens
        total["cost"] = total.get("cost", 0.0) + usage.cost
        if usage.total_tokens > self._largest.total_tokens:
            self._largest = usage
        if self._outer:
            self._outer.add(usage)

    @asynccontextmanager
    async def model_call(self) -> AsyncGenerator[None]:
        """Bound a model call: under a limit of tokens or cost, it waits until it fits.

        Concurrent calls must not pass the limit together. Each call in progress counts as the
        largest call so far. Until the first call returns, no other call starts.

        Raises:
            LimitReached: A limit of the run is used up.
        """
        async with self._room:
            self.check()
            while self._under_way and not self._has_room():
                await self._room.wait()
                self.check()
            self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            async with self._room:
                self._room.notify_all()

    def _has_room(self) -> bool:
        limits, largest = self.limits, self._largest
        if limits.tokens is None and limits.cost is None:
            return True
        if not largest.total_tokens:
            return False
        tokens = self._tokens() + self._under_way * largest.total_tokens
        cost = self.total.get("cost", 0.0) + self._under_way * largest.cost
        return (limits.tokens is None or tokens < limits.tokens) and (
            limits.cost is None or cost < limits.cost
        )

    def _tokens(self) -> int:
        return self.total.get("input_tokens", 0) + self.total.get("output_tokens", 0)

    @property
    def limits_cost(self) -> bool:
        """Whether the run has a limit of cost."""
        return self.limits.cost is not None

    def check(self) -> None:
        """Check the limits before a call.

        Raises:
            LimitReached: Time, tokens or cost are used up.
        """
        limits, total, tokens = self.limits, self.total, self._tokens()
        if limits.time is not None and self.seconds >= limits.time:
            raise LimitReached(
                "time", f"the run has taken {limits.time:g} s, its limit", hint=RAISE
            )
        if limits.tokens is not None and tokens >= limits.tokens:
            message = f"the run has used {tokens} tokens; its limit is {limits.tokens}"
            raise LimitReached("tokens", message, hint=RAISE)
        if limits.cost is not None and total.get("cost", 0.0) >= limits.cost:
            message = (
                f"the run has cost ${total.get('cost', 0.0):.3f}; its limit is ${limits.cost:g}"
            )
            raise LimitReached("cost", message, hint=RAISE)


# The data that leaves a run


class MaskedListener:
    """Masks secrets in every event, then shortens long fields, and passes the event on."""

    def __init__(self, listener: Listener, masker: Masker) -> None:
        self._listener = listener
        self._masker = masker

    def __call__(self, event: Event) -> None:
        data = shortened(event.kind, cast("dict[str, Any]", self._masker(event.data)))
        self._listener(event if data is event.data else replace(event, data=data))


class MaskedDrafts:
    """Masks secrets in every draft that is kept for readers."""

    def __init__(self, keep: Callable[[str, str], None], masker: Masker) -> None:
        self._keep = keep
        self._masker = masker

    def __call__(self, path: str, text: str) -> None:
        self._keep(path, self._masker.text(text))


_OPAQUE: Final = SchemaSerializer(
    core_schema.any_schema(
        serialization=core_schema.plain_serializer_function_ser_schema(lambda _: None)
    )
)
"""Hides the parts of an object from pydantic."""


MASKED: Final[Mapping[str, type[Any]]] = {
    "emit_event": MaskedListener,
    "journal": MaskedJournal,
    "keep_draft": MaskedDrafts,
    "notes": MaskedNotes,
}
"""Fields of `RunContext` through which data leaves the run → the wrapper of each."""


# A run


@dataclass(frozen=True, slots=True)
class Outer:
    """The values around a chain, which its steps see beside those of the chain.

    Args:
        scope: The names that the templates of the chain's step see.
        flow: The sources of their values (a `fractale.graph.call.LabelFlow`).
    """

    scope: Mapping[str, Any] = field(repr=False)
    flow: Any = field(repr=False)

    def with_own(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """The scope of a step of the chain: its own steps are beside those around the chain."""
        both = {
            name: {**self.scope[name], **scope.get(name, {})}
            for name in ("steps", "values", "run")
            if name in self.scope
        }
        return {**self.scope, **scope, "inputs": self.scope["inputs"], **both}


RUN_DIR: Final = "run.dir"
"""The note of the directory of a run that is not kept."""

NO_ID: Final = "run"
"""The id of a run that was given none."""


@dataclass(slots=True, kw_only=True)
class RunContext:
    """One run, as its nodes see it.

    Args:
        masker: Has `secrets`, the secret inputs, and the secrets that a user types. All parts of
            the run share it.
        emit_event: Receives every event of the run.
        secret_inputs: Secret inputs of the plan. They exist here only, never in the state.
        secrets: Texts that must not be shown or stored. ``***`` replaces each of them.
        journal: The calls that the run is about to make, and their results.
        notes: The values that agents keep for the rest of the run.
        grants: Calls that a user allowed for the rest of the run. All its parts share them.
        bindings: The server's tool that each name means, and the approved definitions.
        ask_now: Asks a question while a call is in progress.
        keep_draft: Receives the path of a step and the YAML that was drafted for it, to keep it
            for readers.
        drafted: Whether a model wrote the steps. If so, their calls need approval.
        drafted_from: The sources that this model had read.
        drafted_for: The user's request to this model, as text.
        run_inputs: The inputs that the user gave the run; None: the inputs of the present plan.
        roots: Directories that a model may read without asking: the project and the run's own.
            None: `start_dir`.
        within: Tool scopes, lists of globs. A tool must match one glob of each to be called.
        depth: The number of drafted plans and agents that this part of the run is inside.
        entry: The step at which a fork enters this part of the run; None: its first step.
        start_dir: The directory in which the run was started. Paths of its jobs are relative to it.
        jobs_waited_for: Step or item → the job or the time that it waits for, as the run's record
            keeps it.
        shown: The identities of the questions that the run has asked so far. A bare answer counts
            only for one of them. None: the caller's answers name their questions.
        asked: Set when a step asks a question. A step that waits for a job or a time then stops
            waiting.
        leave_jobs: Whether a step that waits for a job or a time suspends the run.
        clock: Measures long waits.
        arrays: In a foreach over jobs, or an array: index → the part of an array that the item's
            job is (`fractale.graph.kinds.job_array`).
        tally: In the same steps, the number of jobs in each state.
        yes: Whether each question gets its default answer, as with ``--yes``. `fractale.runs`
            answers such questions itself.
        cut_off: Nodes that a killed process left in the middle. Their agents may have read anything
            (`fractale.graph.continued`).
        caller: The context that the application gave its graph, for its own tools.
        item_scope, item_flow, item_path, slots: In a foreach: the names that its templates see, the
            sources of their values, its path, and the number of items that may run at a time.
        outer: In a chain, the values around it.
        again: Whether the run came back to a step around this part of it.
    """

    masker: Masker = field(default_factory=Masker, repr=False)
    run_id: str = NO_ID
    plan_name: str = ""
    run_dir: Path | None = None
    emit_event: Listener = lambda _event: None
    meter: Meter = field(default_factory=lambda: Meter(Limits()))
    secret_inputs: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    journal: Journal = field(default_factory=NoJournal)
    notes: Notes = field(default_factory=MemoryNotes)
    grants: list[Grant] = field(default_factory=list[Grant])
    bindings: Bindings = field(default_factory=Bindings)
    ask_now: AskNow = nobody
    keep_draft: Callable[[str, str], None] = lambda _path, _text: None
    drafted: bool = False
    drafted_from: Labels = NO_LABELS
    drafted_for: tuple[str, ...] = ()
    run_inputs: Mapping[str, Any] | None = None
    roots: tuple[Path, ...] | None = None
    within: tuple[tuple[str, ...], ...] = ()
    depth: int = 0
    entry: ForkPoint | None = None
    start_dir: Path = field(default_factory=Path.cwd)
    jobs_waited_for: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    shown: set[str] | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    leave_jobs: Callable[[], bool] = lambda: False
    clock: Clock = field(default_factory=SystemClock)
    item_scope: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    item_flow: Any = field(default=None, repr=False)
    item_path: str = ""
    yes: bool = False
    cut_off: frozenset[str] = frozenset()
    caller: Any = field(default=None, repr=False)
    slots: AbstractAsyncContextManager[None] = field(default_factory=nullcontext[None])
    arrays: Mapping[int, Any] = field(default_factory=dict[int, Any], repr=False)
    tally: Any = field(default=None, repr=False)
    outer: Outer | None = None
    again: bool = False

    # LangChain dumps the arguments of a tool, and with `ToolRuntime` the context of its run.
    __pydantic_serializer__ = _OPAQUE

    def __post_init__(self) -> None:
        self.masker.add(*self.secrets, *self.secret_inputs.values())

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field. It is wrapped if data leaves the run through it, unless it already is."""
        wrap = MASKED.get(name)
        if wrap is not None and not isinstance(value, wrap):
            value = wrap(value, self.masker)
        object.__setattr__(self, name, value)

    def deeper(self, *, within: tuple[tuple[str, ...], ...], drafted: bool) -> RunContext:
        """The same run one level down: for a drafted plan, or an agent that an agent asks.

        Args:
            within: The tool scopes there.
            drafted: Whether a model writes the steps there.

        Raises:
            LimitReached: The run may not nest that deep.
        """
        self.meter.check_depth(self.depth + 1)
        return replace(self, within=within, drafted=drafted, depth=self.depth + 1)

    def with_inputs(self, inputs: Mapping[str, Any]) -> tuple[RunContext, dict[str, Any]]:
        """The same run as the steps of a plan inside see it, and the inputs for their state.

        Args:
            inputs: Of the plan inside, secrets in the clear.

        Returns:
            The context, which has the texts that hold a secret; and all inputs, masked.
        """
        hidden = {n: v for n, v in inputs.items() if isinstance(v, str) and self.mask(v) != v}
        kept = {name: self.mask(value) for name, value in inputs.items()}
        return replace(self, secret_inputs=hidden), kept

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Report an event to every listener."""
        self.emit_event(Event(kind, self.run_id, data))

    def mask(self, value: Any) -> Any:
        """The same JSON value with each secret in it replaced by ``***``."""
        return self.masker(value)

    def variables(self, *, directory: bool) -> dict[str, Any]:
        """The `run` of templates.

        Args:
            directory: Whether a template reads `run.dir`. For a run that is not kept, it is made
                when it is first read: a temporary directory, which is not removed, since the
                outputs may name files in it.
        """
        known = {"id": self.run_id, "plan": self.plan_name}
        where = str(self.run_dir) if self.run_dir else self._own_directory() if directory else None
        return {**known, "dir": where} if where else known

    def _own_directory(self) -> str:
        known = self.notes.get(RUN_DIR)
        if known is None or not Path(known).is_dir():
            known = tempfile.mkdtemp(prefix=f"fractale-{self.run_id}-")
            self.notes.put(RUN_DIR, known)
        return str(known)
