"""What the nodes of a run may use.

`Dependencies` are the outside things, one adapter each, given once to `compile_plan`.
`RunContext` belongs to one run and reaches the nodes through LangGraph's own context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from fractale.agents.catalog import Catalog
from fractale.clock import Clock, SystemClock
from fractale.events import Event, EventKind
from fractale.grants import Grant
from fractale.graph.bindings import Bindings
from fractale.graph.entry import Entry
from fractale.graph.meter import Meter
from fractale.graph.slots import Slots
from fractale.labels import NO_LABELS, Labels
from fractale.masking import Masker
from fractale.models import Models
from fractale.plan.model import Limits
from fractale.policy import Policy
from fractale.settings import DEFAULT_MAX_ATTEMPTS, Settings
from fractale.store.journal import Journal, NoJournal
from fractale.store.notes import MemoryNotes, Notes
from fractale.store.outputs import MemoryOutputs, OutputStore
from fractale.toolbox import Toolbox

if TYPE_CHECKING:
    from fractale.jobs import Jobs

JobsOf: TypeAlias = "Callable[[str | None], Jobs]"
"""Gives the jobs of a scheduler by its name; of the one there is, without a name."""

AskNow: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Asks a person while a call goes on; gives None where nobody is there to answer."""


async def nobody(question: Mapping[str, Any]) -> Any:
    """The `AskNow` of a run without a person."""
    del question


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The outside world as a graph sees it. Each part can be another one in a test.

    Args:
        drafts: Path of a planned step → what was drafted for it, as YAML, where a graph is only
            looked at: a run compiles its drafts itself, when it comes to them.
        patient: Whether to wait before a step's call is tried again. A replay does not.
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


@dataclass(slots=True, kw_only=True)
class RunContext:
    """One run, as its nodes see it.

    Args:
        emit_event: Takes every event of the run.
        secret_inputs: Secret inputs of the plan; they live here only, never in the state.
        secrets: Texts that must not be shown or stored; each is replaced by ``***``.
        masker: Knows these, the secret inputs, and what a person types in secret; one for all
            parts of the run.
        journal: What the run is about to do, and what came of it.
        notes: What agents keep for the rest of the run.
        grants: Calls that a person allowed for the rest of the run; shared by all its parts.
        bindings: Which server's tool a name means, and what was agreed to of it.
        ask_now: Asks a person while a call goes on.
        keep_draft: Takes the path of a step and the plan that was drafted for it, as YAML, and
            keeps it for people to read.
        drafted: Whether a model wrote the steps: then nobody agreed to their calls yet.
        drafted_from: What that model had read.
        drafted_for: What the person had asked it for, in words.
        run_inputs: Those that the person gave the run; None: those of the plan at hand.
        roots: The project, and the run's folder: what a model may read unasked; None: `folder`.
        within: Lists of globs; a tool must match one glob of each to be called.
        depth: How many drafted plans and agents this part of the run lies within.
        entry: Where this part of a forked run was entered; None: at its first step.
        folder: Where the run was started: paths of its jobs are relative to it.
        jobs_waited_for: Step or item → the job that it waits for, as the run's record keeps it.
        asked: Set where a step asks a person: what waits for a job gives way to that.
        leave_jobs: Whether a step that waits for a job is to end the run, waiting; the job goes on.
        clock: What long waits are measured by.
        arrays: Inside a foreach over jobs, or an array: index → the part of an array that the
            item's job is (`fractale.graph.kinds.job_array`).
        tally: There, how many of the jobs are in which state.
        item_scope, item_flow, item_path, slots: Inside a foreach: the names that its templates
            see, where their values come from, its path, and how many items may run at the same
            time.
    """

    run_id: str = "run"
    plan_name: str = ""
    run_dir: Path | None = None
    emit_event: Callable[[Event], None] = lambda _event: None
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
    entry: Entry | None = None
    folder: Path = field(default_factory=Path.cwd)
    jobs_waited_for: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    leave_jobs: Callable[[], bool] = lambda: False
    clock: Clock = field(default_factory=SystemClock)
    item_scope: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    item_flow: Any = field(default=None, repr=False)
    item_path: str = ""
    slots: Slots = field(default_factory=lambda: Slots(1))
    arrays: Mapping[int, Any] = field(default_factory=dict[int, Any], repr=False)
    tally: Any = field(default=None, repr=False)
    masker: Masker = field(default_factory=Masker, repr=False)

    def __post_init__(self) -> None:
        self.masker.add(*self.secrets, *self.secret_inputs.values())

    def deeper(self, *, within: tuple[tuple[str, ...], ...], drafted: bool) -> RunContext:
        """The same run one level down: for a drafted plan, or an agent that an agent asks.

        Args:
            within: The lists of globs that bound the tools there.
            drafted: Whether a model writes the steps there.

        Raises:
            LimitReached: It may not nest so deep.
        """
        self.meter.check_depth(self.depth + 1)
        return replace(self, within=within, drafted=drafted, depth=self.depth + 1)

    def with_inputs(self, inputs: Mapping[str, Any]) -> tuple[RunContext, dict[str, Any]]:
        """The same run as the steps of a plan inside see it, and what their state may hold.

        Args:
            inputs: Of the plan inside, secrets in the clear.

        Returns:
            The context, which has the texts that hold a secret; and all inputs without them.
        """
        hidden = {n: v for n, v in inputs.items() if isinstance(v, str) and self.mask(v) != v}
        kept = {name: self.mask(value) for name, value in inputs.items()}
        return replace(self, secret_inputs=hidden), kept

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Tell every listener what happened, secrets masked."""
        self.emit_event(Event(kind, self.run_id, cast("dict[str, Any]", self.mask(data))))

    def mask(self, value: Any) -> Any:
        """The same JSON value with each secret in it replaced by ``***``."""
        return self.masker(value)

    def variables(self) -> dict[str, Any]:
        """The `run` of templates; a run that is not kept has no `dir`."""
        known = {"id": self.run_id, "plan": self.plan_name}
        return {**known, "dir": str(self.run_dir)} if self.run_dir else known
