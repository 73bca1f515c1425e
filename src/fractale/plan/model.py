"""What a plan is: plain, immutable data that knows no engine.

A plan file becomes a tree of these types once (`fractale.plan.build`), and everything else
(checks, drawing, compilation) reads them. Text that holds ``{{ … }}`` is a `Template`, a bare
expression is an `Expression`; both remember where they stand, so that an error at run time
still names ``file:line:col``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

from fractale.errors import Position, Problem

StepKind = Literal["tool", "prompt", "agent", "plan", "parallel", "job"]
Approve = Literal["never", "ask", "always"]
FigureType = Literal["number", "integer", "string"]
Take = Literal["last", "first", "all"]

SUCCESS = "success"
FAILURE = "failure"
END_SUCCESS = "success"
END_FAILED = "failed"
RESERVED_STEP_NAMES = frozenset({"success", "failed", "failure"})


@dataclass(frozen=True, slots=True)
class Template:
    """Text with at least one ``{{ … }}`` in it. Equal text is equal, wherever it stands."""

    source: str
    position: Position = field(compare=False)


@dataclass(frozen=True, slots=True)
class Expression:
    """A bare expression, as in `rules`, `when` and `foreach`."""

    source: str
    position: Position = field(compare=False)


Value: TypeAlias = "bool | int | float | str | Template | list[Value] | dict[str, Value] | None"
"""JSON whose strings may be templates."""

NOWHERE = Position("<plan>", 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input of a plan, in JSON Schema's words.

    Args:
        type: ``string``, ``integer``, ``number``, ``boolean``, ``array``, ``object``; None
            takes any value.
        default: Used when the input is not given. Never used for a secret.
        required: There is no default and the person must give it.
        secret: Read from the environment or a prompt, shown as ``***``, never stored.
    """

    name: str
    type: str | None = None
    default: Any = None
    description: str = ""
    enum: tuple[Any, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    required: bool = False
    secret: bool = False
    position: Position = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a run stops, resumable. None: no limit of that kind.

    Args:
        steps: Entries of steps in the whole run.
        attempts: Entries of any one step, where the step does not say.
        time: Seconds of running (waiting for a person does not count).
        tokens: Input and output tokens of all models.
        cost: US dollars, where the price of the model is known.
        depth: How deep plans and agents may nest.
        node_hours, core_hours, gpu_hours: Of all batch jobs of job steps.
        jobs: Batch jobs of job steps; each element of an array is one.
    """

    steps: int | None = None
    attempts: int | None = None
    time: float | None = None
    tokens: int | None = None
    cost: float | None = None
    depth: int | None = None
    node_hours: float | None = None
    core_hours: float | None = None
    gpu_hours: float | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How faults of transport are tried again; delays in seconds."""

    attempts: int = 3
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 60.0


@dataclass(frozen=True, slots=True)
class Rule:
    """If the expression holds, the step's event is `event`."""

    event: str
    expression: Expression


MOST_ITEMS: Final = 32
"""How many items of a foreach run at the same time where its step does not say."""

MOST_JOBS: Final = 100
"""The same of batch jobs: they wait in a queue at no cost, but no scheduler is to be flooded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForEach:
    """A step that runs once per item.

    Args:
        items: An expression or a literal list; a mapping of those is their product, each
            `item` then a mapping with the same keys.
        max_parallel: How many run at the same time; None: `MOST_ITEMS`, of batch jobs
            `MOST_JOBS`.
    """

    items: Expression | tuple[Any, ...] | Mapping[str, Expression | tuple[Any, ...]]
    max_parallel: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a job step reads from the job's log.

    Args:
        pattern: A regular expression with one group, or one that is named ``value``.
        type: What the group's text becomes.
        take: Which match counts, where there are several; ``all`` gives a list.
        required: Whether a job that went well but does not have it in its log has failed.
    """

    pattern: str
    type: FigureType = "number"
    take: Take = "last"
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """The batch job of a job step; whatever may be a template is only known at run time.

    Args:
        script: The text of a batch script. Either this or `command`.
        command: A program and its arguments; a template that gives a list gives several of them.
        nodes, tasks, cores_per_task, gpus_per_task: Counts; None leaves it to the scheduler.
        array: The indices of an array, such as ``1-1000%50``: the job's outputs are then a list,
            the elements' in order. None: the script's own directive counts.
        memory: Per node, such as ``4G``.
        time: Seconds that the job may run, as the scheduler is told.
        queue: The partition or queue.
        folder: Where it works; relative to where the run was started.
        scheduler: ``slurm``, ``flux``, ``pbs``, ``lsf`` or ``local``; None: the one there is.
        confine: Whether it is confined; None: only where a model drafted the step.
        writable: With that, folders that it may write beside the project's.
        network: With that, whether it may open sockets.
        outputs: Name → what is read from the log.
        prefix: Where these keys stand in the step: below ``job``, or beside its name.
    """

    script: str | Template | None = None
    command: tuple[Value, ...] = ()
    nodes: Value = None
    tasks: Value = None
    cores_per_task: Value = None
    gpus_per_task: Value = None
    array: Value = None
    memory: Value = None
    time: Value = None
    queue: Value = None
    account: Value = None
    env: Mapping[str, Value] = field(default_factory=dict[str, Value])
    folder: Value = None
    scheduler: Value = None
    confine: bool | None = None
    writable: tuple[Value, ...] = ()
    network: bool | None = None
    outputs: Mapping[str, Figure] = field(default_factory=dict[str, Figure])
    prefix: str = field(default="", compare=False)

    def values(self) -> dict[str, Value]:
        """What is given, by its key in the file; what the log is searched for is left out."""
        each: dict[str, Value] = {
            name: getattr(self, name) for name in JOB_VALUES if getattr(self, name) is not None
        }
        if self.command:
            each["command"] = list(self.command)
        if self.env:
            each["env"] = dict(self.env)
        if self.writable:
            each["writable"] = list(self.writable)
        return each


JOB_VALUES = (
    "script",
    "nodes",
    "tasks",
    "cores_per_task",
    "gpus_per_task",
    "array",
    "memory",
    "time",
    "queue",
    "account",
    "folder",
    "scheduler",
    "confine",
    "network",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRef:
    """A sub-agent that the plan registers by dotted path."""

    path: str
    name: str | None = None
    position: Position = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node of the plan's graph.

    Args:
        kind: What the step does.
        target: The tool's, prompt's or agent's name. None for the general agent, for a step
            that the manager plans, and for a parallel block.
        instruction: What to do, in words, for a prompt, agent or plan step.
        tools: Names or globs of the tools that the model may call; None: all that the run
            has; empty: none.
        rules: In file order; the first that holds decides the event.
        transitions: Event → step name, ``success`` or ``failed``. The event ``failed`` of the
            file is kept as ``failure``.
        steps: The steps of a parallel block.
        plan: The plan that a `plan: FILE` step includes.
        job: The batch job of a job step.
        timeout: Seconds.
        max_attempts: How often the run may enter the step.
        keep_going: For foreach and parallel: items that fail do not fail the step.
        positions: Path inside the step (``transitions.success``) → where it stands.
    """

    name: str
    kind: StepKind
    target: str | None = None
    description: str = ""
    instruction: str | Template | None = None
    inputs: Mapping[str, Value] = field(default_factory=dict[str, Value])
    tools: tuple[str, ...] | None = None
    rules: tuple[Rule, ...] = ()
    transitions: Mapping[str, str] = field(default_factory=dict[str, str])
    when: Expression | None = None
    foreach: ForEach | None = None
    steps: tuple[Step, ...] = ()
    plan: Plan | None = None
    job: JobPlan | None = None
    keep_going: bool = False
    retry: Retry | None = None
    timeout: float | None = None
    max_attempts: int | None = None
    approve: Approve | None = None
    output_schema: Mapping[str, Any] | None = None
    judge: bool = False
    model: str | None = None
    persist: bool = False
    position: Position = field(default=NOWHERE, compare=False)
    positions: Mapping[str, Position] = field(
        default_factory=dict[str, Position], compare=False, repr=False
    )

    def where(self, path: str = "") -> Position:
        """The position of a part of the step, or of the nearest part around it."""
        while path:
            if path in self.positions:
                return self.positions[path]
            path = path.rpartition(".")[0]
        return self.position


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole plan: what may be put in, the steps in order, what comes out.

    Args:
        file: The path it was read from, as given, or ``<string>``.
        warnings: What is written so that it may mean something else than was meant.
    """

    name: str
    steps: tuple[Step, ...]
    description: str = ""
    inputs: Mapping[str, InputSpec] = field(default_factory=dict[str, InputSpec])
    agents: tuple[AgentRef, ...] = ()
    servers: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    outputs: Mapping[str, Value] = field(default_factory=dict[str, Value])
    file: str = field(default="<string>", compare=False)
    position: Position = field(default=NOWHERE, compare=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    def step(self, name: str) -> Step:
        """The step of that name.

        Raises:
            KeyError: There is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def walk(self) -> Iterator[Step]:
        """Every step, with those of parallel blocks (not of included plans), in file order."""
        for step in self.steps:
            yield step
            yield from step.steps

    def target_of(self, step: Step, event: str) -> str:
        """Where an event of a step leads: a step's name, ``success`` or ``failed``.

        A step without a transition for ``success`` goes on to the next step of the file, the
        last one ends in success; one without a transition for ``failure`` ends in failure.
        """
        if event in step.transitions:
            return step.transitions[event]
        if event == FAILURE:
            return END_FAILED
        return self.next_steps[step.name]

    @cached_property
    def next_steps(self) -> Mapping[str, str]:
        """Step name → the step after it in the file; of the last one, ``success``."""
        names = [step.name for step in self.steps]
        return dict(zip(names, [*names[1:], END_SUCCESS], strict=True))
