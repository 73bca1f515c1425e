"""The parts of a run that its nodes may use.

`Dependencies` are the outside things, one adapter each, given once to `compile_plan`.
`RunContext` is one run. It reaches the nodes through LangGraph's own context. Data leaves a run
through its fields: events, journal, notes and drafts. Each of these fields is wrapped when it is
set, so that everything that passes through it is masked. `Attempt` wraps the store of outputs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from fractale.agents.catalog import Catalog
from fractale.clock import Clock, SystemClock
from fractale.events import Event, EventKind, Listener, shortened
from fractale.graph.bindings import Bindings
from fractale.graph.fork_point import ForkPoint
from fractale.graph.limits import ConcurrencyLimit, Meter
from fractale.labels import NO_LABELS, Labels
from fractale.masking import Masker
from fractale.models import Models
from fractale.plan.model import Limits
from fractale.policy import Grant, Policy
from fractale.settings import DEFAULT_MAX_ATTEMPTS, Settings
from fractale.store.journal import Journal, MaskedJournal, NoJournal
from fractale.store.notes import MaskedNotes, MemoryNotes, Notes
from fractale.store.outputs import MemoryOutputs, OutputStore
from fractale.toolbox import Toolbox

if TYPE_CHECKING:
    from fractale.jobs import Jobs

JobsOf: TypeAlias = "Callable[[str | None], Jobs]"
"""Returns the jobs of a scheduler by its name. Without a name: the only or the default one."""

AskNow: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Asks a question while a call is in progress. Returns None if no user is there to answer."""


async def nobody(question: Mapping[str, Any]) -> Any:
    """The `AskNow` of a run without a user."""
    del question


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The outside world as a graph sees it. A test can replace each part.

    Args:
        drafts: Path of a planned step → the YAML that was drafted for it, for a graph that is only
            drawn or inspected. A run compiles its drafts when it reaches them.
        patient: Whether to wait before a step's call is tried again. A replay does not wait.
    """

    toolbox: Toolbox
    models: Models = field(default_factory=lambda: Models(Settings()))
    outputs: OutputStore = field(default_factory=MemoryOutputs)
    policy: Policy = field(default_factory=Policy)
    agents: Catalog = field(default_factory=Catalog)
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    jobs: JobsOf | None = None
    drafts: Mapping[str, str] = field(default_factory=dict[str, str])
    patient: bool = True

    def inside(self, step: str) -> Dependencies:
        """The same for the graph inside a step."""
        if not self.drafts:
            return self
        start = f"{step}/"
        below = {path: text for path, text in self.drafts.items() if path.startswith(start)}
        return replace(self, drafts={path[len(start) :]: text for path, text in below.items()})


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


MASKED: Final[Mapping[str, type[Any]]] = {
    "emit_event": MaskedListener,
    "journal": MaskedJournal,
    "keep_draft": MaskedDrafts,
    "notes": MaskedNotes,
}
"""Fields of `RunContext` through which data leaves the run → the wrapper of each."""


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
            None: `folder`.
        within: Tool scopes, lists of globs. A tool must match one glob of each to be called.
        depth: The number of drafted plans and agents that this part of the run is inside.
        entry: The step at which a fork enters this part of the run; None: its first step.
        folder: The directory in which the run was started. Paths of its jobs are relative to it.
        jobs_waited_for: Step or item → the job that it waits for, as the run's record keeps it.
        asked: Set when a step asks a question. A step that waits for a job then stops waiting.
        leave_jobs: Whether a step that waits for a job suspends the run.
        clock: Measures long waits.
        arrays: In a foreach over jobs, or an array: index → the part of an array that the item's
            job is (`fractale.graph.kinds.job_array`).
        tally: In the same steps, the number of jobs in each state.
        item_scope, item_flow, item_path, slots: In a foreach: the names that its templates see, the
            sources of their values, its path, and the number of items that may run at a time.
    """

    masker: Masker = field(default_factory=Masker, repr=False)
    run_id: str = "run"
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
    folder: Path = field(default_factory=Path.cwd)
    jobs_waited_for: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    leave_jobs: Callable[[], bool] = lambda: False
    clock: Clock = field(default_factory=SystemClock)
    item_scope: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    item_flow: Any = field(default=None, repr=False)
    item_path: str = ""
    slots: ConcurrencyLimit = field(default_factory=lambda: ConcurrencyLimit(1))
    arrays: Mapping[int, Any] = field(default_factory=dict[int, Any], repr=False)
    tally: Any = field(default=None, repr=False)

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

    def variables(self) -> dict[str, Any]:
        """The `run` of templates. A run that is not kept has no `dir`."""
        known = {"id": self.run_id, "plan": self.plan_name}
        return {**known, "dir": str(self.run_dir)} if self.run_dir else known
