"""The plan language as one table, and the immutable data that a plan file becomes.

Each field of a part has the key that sets it, with its form and its help (see
`fractale.plan.forms`). These declarations define the reader, the JSON Schema, the YAML writer, the
hints about wrong keys and the tables of ``docs/plans.md``. To add a key, add a field.

The model does not depend on an engine. `fractale.plan.build` makes it from a file once. Checks,
drawings and the engine read it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Final, Literal, get_args

from fractale.errors import Position, Problem
from fractale.plan.agents import AGENTS, AgentRef, Expert, PlanAgent
from fractale.plan.ask import CHOICES, DEFAULT, FORM, AskChoice
from fractale.plan.cache import CACHE, StepCache
from fractale.plan.fields import Fields
from fractale.plan.forms import (
    AMOUNT,
    FILES,
    FLAG,
    INSTRUCTION,
    JSON_SCHEMA,
    JUDGE,
    MODEL,
    NOWHERE,
    SERVERS,
    TEXT,
    TITLE,
    TOOLS,
    VALUES,
    Form,
    Key,
    choice,
    duration,
    keys_of,
    matching,
    part,
    real,
    ref,
    whole,
)
from fractale.plan.inputs import INPUTS, InputSpec
from fractale.plan.job import JOB_KEYS, SCRIPT_KEYS, JobPlan, Metric
from fractale.plan.kinds import INSTRUCTION_INPUTS, KINDS
from fractale.plan.rules import (
    END_FAILED,
    END_SUCCESS,
    EXPRESSION,
    FAILURE,
    FOREACH,
    MOST_ITEMS,
    MOST_JOBS,
    NAME_PATTERN,
    RULES,
    SUCCESS,
    TRANSITIONS,
    ForEach,
    Rule,
)
from fractale.plan.values import Expression, Template, Value

__all__ = [
    "END_FAILED",
    "END_SUCCESS",
    "FAILURE",
    "MOST_ITEMS",
    "MOST_JOBS",
    "NOWHERE",
    "SUCCESS",
    "AgentRef",
    "Approve",
    "Expert",
    "Expression",
    "ForEach",
    "InputSpec",
    "JobPlan",
    "Limits",
    "Metric",
    "Plan",
    "Retry",
    "Rule",
    "Step",
    "StepCache",
    "Template",
    "Value",
]

Approve = Literal["never", "ask", "always"]
RetryOn = Literal["transport", "failure"]

POLL_SECONDS: Final = 10.0
"""Seconds between two calls of a step with `until`, unless the step says `every`."""

RESERVED_STEP_NAMES: Final = frozenset({"success", "failed", "failure"})

HANDLERS: Final = ("on_failure", "finally")
"""The keys of a plan whose steps run at its end, in the order in which they run."""

LANGUAGE_VERSION: Final = 1
"""The newest version of the plan language that this fractale reads."""


def _version(mapping: Fields, key: str) -> int | None:
    version = mapping.whole(key)
    if version is None or version <= LANGUAGE_VERSION:
        return version
    message = (
        f"this plan is written in version {version} of the plan language, and this fractale reads "
        f"up to version {LANGUAGE_VERSION}; install a newer fractale"
    )
    mapping.fail(key, "newer-version", message)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits at which a run stops, resumable. None: no limit of that kind."""

    steps: Annotated[int | None, Key(whole(), "Entries of steps in the whole run.")] = None
    attempts: Annotated[
        int | None, Key(whole(), "Entries of any one step that has no `max_attempts`.")
    ] = None
    time: Annotated[
        float | None,
        Key(duration(), "Running time; waiting for your answers does not count."),
    ] = None
    tokens: Annotated[int | None, Key(whole(), "Input and output tokens of all models.")] = None
    cost: Annotated[float | None, Key(AMOUNT, "US dollars, for models whose price is known.")] = (
        None
    )
    depth: Annotated[int | None, Key(whole(0), "How deep plans and agents may nest.")] = None
    node_hours: Annotated[
        float | None,
        Key(AMOUNT, "Of all batch jobs of job steps ([a budget](jobs.md#a-budget))."),
    ] = None
    core_hours: Annotated[float | None, Key(AMOUNT, "As `node_hours`, for cores.")] = None
    gpu_hours: Annotated[float | None, Key(AMOUNT, "As `node_hours`, for GPUs.")] = None
    jobs: Annotated[
        int | None, Key(whole(), "Batch jobs of job steps; each element of an array is one.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The repetition of calls after transport errors, or of attempts that failed.

    Delays are in seconds. The default of `on`, None, means ``transport``.
    """

    attempts: Annotated[int, Key(whole(), "How often a call is made at most.")] = 3
    delay: Annotated[float, Key(duration(zero=True), "The delay before the second attempt.")] = 1.0
    backoff: Annotated[float, Key(real(1), "The factor of each further delay.")] = 2.0
    max_delay: Annotated[float, Key(duration(zero=True), "The longest delay.")] = 60.0
    on: Annotated[
        RetryOn | None,
        Key(
            choice(get_args(RetryOn)),
            "`failure`: the whole attempt is made again [if the step failed](waiting.md"
            "#try-a-failure-again); left out, `transport`.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node of the plan's graph.

    Args:
        kind: A name of `fractale.plan.kinds.KINDS`.
        target: The name of the tool, prompt or agent, or the file of an included plan. None for
            the general agent, for a step that the planner drafts, and for kinds without one.
        value: The value of the key that names the kind, for kinds whose key is not a name.
        job: The batch job of a job step, or the program of a script step.
        tools: None: all tools of the run; empty: none.
        rules: In file order. The first rule that is true decides the event.
        transitions: The event ``failed`` of the file is stored as ``failure``.
        steps: The steps of a parallel block.
        plan: The plan that a `plan: FILE` step includes.
        chain: The steps of a `steps` step, as a plan without inputs and outputs of its own.
        timeout: Seconds.
        positions: Path inside the step (``transitions.success``) → its position.
    """

    name: Annotated[
        str,
        Key(
            Form(None, matching(NAME_PATTERN)),
            "A letter, then letters, digits, `_`, `-`; unique in the plan; not `success`, "
            "`failed` or `failure`.",
            required="",
        ),
    ]
    kind: Annotated[
        str,
        Key(
            choice(tuple(KINDS)),
            f"{', '.join(f'`{kind}`' for kind in KINDS)}; left out, the key of that name says it, "
            "else `agent`.",
            name="type",
        ),
    ]
    target: str | None = None
    value: Any = None
    job: JobPlan | None = None
    description: Annotated[str, Key(TEXT, "The purpose of the step, for you and for models.")] = ""
    instruction: Annotated[
        str | Template | None,
        Key(
            INSTRUCTION,
            "The model's task; may contain {{ templates }}. `inputs.goal`, `inputs.prompt` and "
            "`inputs.instruction` also serve.",
        ),
    ] = None
    inputs: Annotated[
        Mapping[str, Value],
        Key(
            VALUES,
            "The arguments; {{ templates }} at any depth; types are kept. `{resource: "
            '"server:URI"}` reads an MCP [resource](servers.md#resources).',
        ),
    ] = field(default_factory=dict[str, Value])
    tools: Annotated[
        tuple[str, ...] | None,
        Key(
            TOOLS,
            "Names or globs of the tools that the model may call.",
            kinds=("prompt", "agent", "plan"),
            never_empty=True,
        ),
        Key(
            FLAG,
            "`false`: the model may call no tool; `true`: all that the run has.",
            name="allow_tools",
            never_empty=True,
        ),
    ] = None
    when: Annotated[
        Expression | None,
        Key(
            EXPRESSION,
            "An expression; if it is false, the step is skipped, and the run goes where success "
            "goes. If it reads `item` or `index`, it is asked for each [item](#foreach).",
            never_empty=True,
        ),
    ] = None
    foreach: Annotated[
        ForEach | None,
        Key(
            FOREACH,
            "Run once per item of a list, or of several lists: their product, or `{zip: …}` "
            "([foreach](#foreach)).",
            never_empty=True,
        ),
        Key(
            whole(),
            f"How many items run at the same time; left out, {MOST_ITEMS}. Of batch jobs: as many "
            "as the scheduler runs ([sweeps](jobs.md#sweeps)).",
            name="max_parallel",
            needs=("foreach",),
        ),
    ] = None
    steps: "tuple[Step, ...]" = ()
    keep_going: Annotated[
        bool,
        Key(
            FLAG,
            "`true`: items, elements of an array, or steps inside that fail do not fail the whole, "
            "unless all of them do; [the verdict says how many](outcomes.md).",
            needs=("foreach", "parallel", "job"),
        ),
    ] = False
    rules: Annotated[
        tuple[Rule, ...],
        Key(
            RULES, "Event → expressions; the first that is true decides ([outcomes](outcomes.md))."
        ),
    ] = ()
    transitions: Annotated[
        Mapping[str, str],
        Key(TRANSITIONS, "Event → a step's name, `success` or `failed`."),
    ] = field(default_factory=dict[str, str])
    retry: Annotated[
        Retry | None,
        Key(
            part(Retry, all_keys=True),
            "`{attempts, delay, backoff, max_delay, on}`, for [faults of "
            "transport](#retry-is-for-transport), not for wrong answers; with `on: failure`, for "
            "[any failure](waiting.md#try-a-failure-again).",
        ),
    ] = None
    timeout: Annotated[
        float | None,
        Key(
            duration(),
            "How long the step may take: `90s`, `10m`, `2h`, `1:30:00` (hours, minutes, seconds), "
            "`2-12:00:00` (days in front). `1:30` is an error, since it may mean either.",
        ),
    ] = None
    max_attempts: Annotated[
        int | None, Key(whole(), "How often the run may enter this step; 1 means once.")
    ] = None
    approve: Annotated[
        Approve | None,
        Key(
            choice(get_args(Approve)),
            "`always`: you must agree before the step's calls; `ask`: unless the tool only reads; "
            "`never`: nothing is added to the [policy](policy.md).",
            never_empty=True,
        ),
    ] = None
    output_schema: Annotated[
        Mapping[str, Any] | None,
        Key(
            JSON_SCHEMA,
            "JSON Schema of the outputs; a model is asked for an answer of that form.",
        ),
    ] = None
    judge: Annotated[
        bool | str | Template,
        Key(
            JUDGE,
            "`true`: if no evidence decides, ask the model whether the step succeeded. A text is "
            "the criterion, and may contain {{ templates }}.",
            never_empty=True,
        ),
    ] = False
    model: Annotated[str | None, Key(MODEL, "The model of this step, `provider:name`.")] = None
    persist: Annotated[
        bool,
        Key(
            FLAG,
            "`true`: the agent remembers its conversation when the run enters the step again.",
            kinds=("prompt", "agent"),
        ),
    ] = False
    choices: Annotated[
        tuple[AskChoice, ...] | Expression | None,
        Key(
            CHOICES,
            "The answers to choose from: a list of words, or an expression that gives one. `{word: "
            "question}` asks for a text, too. Left out, or null, any text is an answer.",
            kinds=("ask",),
            never_empty=True,
        ),
    ] = None
    form: Annotated[
        Mapping[str, Any] | None,
        Key(
            FORM,
            "JSON Schema of an object: its fields are asked for, one after the other.",
            kinds=("ask",),
            never_empty=True,
        ),
    ] = None
    default: Annotated[
        Value,
        Key(
            DEFAULT,
            "The answer of `--yes`, and of Enter at a terminal; may contain {{ templates }}. Left "
            "out, `--yes` leaves the question open.",
            kinds=("ask",),
            never_empty=True,
        ),
    ] = None
    default_after: Annotated[
        float | None,
        Key(
            duration(),
            "How long the question waits for an answer before the default is taken: `30m`, `2d`.",
            kinds=("ask",),
            needs=("default",),
        ),
    ] = None
    creates: Annotated[
        tuple[Value, ...],
        Key(
            FILES,
            "The files that the step makes, relative to the directory in which the run was "
            "started. The step fails if one is missing after it, and is skipped if all are [up to "
            "date](#up-to-date).",
            kinds=("tool", "job", "script"),
        ),
    ] = ()
    needs: Annotated[
        tuple[Value, ...],
        Key(
            FILES,
            "The files that it makes them from: the step fails if one does not exist.",
            kinds=("tool", "job", "script"),
        ),
    ] = ()
    until: Annotated[
        Expression | None,
        Key(
            EXPRESSION,
            "The tool is called [again until this is true](waiting.md#call-a-tool-until); it sees "
            "what a rule sees.",
            kinds=("tool",),
            needs=("timeout",),
            never_empty=True,
        ),
    ] = None
    every: Annotated[
        float | None,
        Key(
            duration(),
            f"The pause between two calls of `until`; left out, {POLL_SECONDS:.0f} s.",
            kinds=("tool",),
            needs=("until",),
        ),
    ] = None
    reason: Annotated[
        str | Template | None,
        Key(
            INSTRUCTION,
            "Text with {{ templates }}: the run's error if an event of the step leads to `failed` "
            "([a run that fails](#a-run-that-fails)).",
        ),
    ] = None
    cache: Annotated[
        StepCache | None,
        Key(
            CACHE,
            "`true`: the step takes the result of an [equal step of an earlier run](cache.md); "
            "`{files: [PATH, …]}` names files that the result depends on; `false`: never.",
            kinds=("tool", "prompt", "agent", "job", "script"),
            never_empty=True,
        ),
    ] = None
    plan: "Plan | None" = None
    chain: "Plan | None" = None
    position: Position = field(default=NOWHERE, compare=False)
    positions: Mapping[str, Position] = field(
        default_factory=dict[str, Position], compare=False, repr=False
    )

    @property
    def is_drafted(self) -> bool:
        """Whether the planner drafts the step at run time."""
        return self.kind == "plan" and self.plan is None

    @property
    def inner(self) -> "Plan | None":
        """The plan inside the step: the one that it includes, or its chain."""
        return self.chain if self.plan is None else self.plan

    @cached_property
    def rendered(self) -> Mapping[str, Value]:
        """The values that are rendered before its call, by name, as the plan has them.

        Most kinds have `inputs`. A job, a question and a set step have values of their own.
        """
        return KINDS[self.kind].inputs(self)

    @cached_property
    def value_names(self) -> Collection[str]:
        """The names that it gives to values."""
        return KINDS[self.kind].value_names(self)

    def walk(self) -> "Iterator[Step]":
        """The step, with those of its block or chain (not of an included plan), in file order."""
        yield self
        for step in self.steps:
            yield from step.walk()
        if self.chain is not None:
            yield from self.chain.walk()

    def templates(self) -> "Iterator[tuple[str, Value | Expression]]":
        """The values of the step that may contain templates, with their paths in it."""
        for name, value in self.inputs.items():
            yield f"inputs.{name}", value
        # In the notation of 0.1.0, the instruction is one of the inputs.
        if self.instruction is not None and self.instruction not in list(self.inputs.values()):
            yield "instruction", self.instruction
        for key, files in (("creates", self.creates), ("needs", self.needs)):
            for number, value in enumerate(files):
                yield f"{key}[{number}]", value
        for number, value in enumerate(self.cache.files if self.cache else ()):
            yield f"cache.files[{number}]", value
        yield from KINDS[self.kind].templates(self)
        if not isinstance(self.judge, bool):
            yield "judge", self.judge

    def where(self, path: str = "") -> Position:
        """The position of a part of the step, or of the nearest part around it."""
        while path:
            if path in self.positions:
                return self.positions[path]
            path = path.rpartition(".")[0]
        return self.position


def _step_keys() -> dict[str, Key]:
    """The keys in the order in which users write them. Keys of a block are below its own keys."""
    named = {kind.name: replace(kind.key, name=kind.name, required=None) for kind in KINDS.values()}
    of_job = {
        name: replace(key, kinds=("job", "script") if name in SCRIPT_KEYS else ("job",))
        for name, key in JOB_KEYS.items()
        if name not in KINDS
    }
    blocks = {name: named.pop(name) for name in ("parallel", "steps")}
    found: dict[str, Key] = {}
    for name, key in keys_of(Step).items():
        found[name] = key
        if name == "type":
            found |= named | of_job
        elif name == "max_parallel":
            found |= blocks
    return found


STEP_KEYS: Final[Mapping[str, Key]] = _step_keys()

STEP_HINTS: Final = {
    "memoize": "write `cache: true`",
    "reuse": "write `cache: true`",
    "cached": "write `cache: true`",
    "args": "write `inputs`",
    "arguments": "write `inputs`",
    "with": "write `inputs`",
    "if": "write `when`",
    "next": "write `transitions: {success: STEP}`",
    "depends_on": "steps run in the order of the file; write `transitions` to change it",
    "let": "write `set: {NAME: value}`",
    "assign": "write `set: {NAME: value}`",
    "vars": "write `set: {NAME: value}` as a step before; its values are `values.NAME`",
    "variables": "write `set: {NAME: value}` as a step before; its values are `values.NAME`",
    "initial": "a plan starts at its first step: move it there",
    "message": "write `reason` for the error of a run that ends here",
    "schema": "write `output_schema` for what comes out; inputs are checked by the tool's own",
    "validate": "write `rules` or `output_schema`",
    "options": "write `choices`",
    "question": "write `ask`",
    "sleep": "write `wait`",
    "delay": "write `wait`, or `delay` in `retry`",
    "interval": "write `every` beside `until`",
    "poll": "write `until` and `every`",
}


NOT_DEFAULT: Final = frozenset(
    {
        "name",
        "type",
        "description",
        "instruction",
        "when",
        "foreach",
        "script",
        "command",
        "array",
        "stdin",
        "creates",
        "needs",
        *KINDS,
    }
)
"""Keys without a default: each says what one step does."""


def default_keys(kind: str) -> dict[str, Key]:
    """The keys of a kind of step that can have a default, those of a job beside the step's own."""
    return {
        name: key
        for name, key in STEP_KEYS.items()
        if name not in NOT_DEFAULT
        and name not in KINDS[kind].lacks
        and (not key.kinds or kind in key.kinds)
    }


def _defaults_schema() -> dict[str, Any]:
    """JSON Schema of `defaults`: a mapping of keys for each kind of step."""
    parts = {
        kind: {
            "type": "object",
            "properties": {name: ref(f"step/properties/{name}") for name in default_keys(kind)},
            "additionalProperties": False,
        }
        for kind in KINDS
    }
    return {"type": "object", "properties": parts, "additionalProperties": False}


def inherited_instruction(
    kind: str, target: str | None, inputs: Mapping[str, Value]
) -> str | Template | None:
    """The instruction in a step's inputs, as in 0.1.0."""
    if not KINDS[kind].inherits_instruction(target):
        return None
    found = (inputs.get(key) for key in INSTRUCTION_INPUTS)
    return next((text for text in found if isinstance(text, (str, Template)) and text), None)


HANDLER_STEPS: Final = Form(None, {"type": "array", "minItems": 1, "items": ref("step")})
"""The steps of a handler; the reader of a plan reads them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole plan: the inputs, the steps in order, the outputs.

    Args:
        file: The path it was read from, as given, or ``<string>``.
        warnings: Parts that may mean something else than their author intended.
    """

    name: Annotated[str, Key(TITLE, "The plan's name.", required="")]
    version: Annotated[
        int | None,
        Key(
            Form(_version, {"type": "integer", "minimum": 1, "maximum": LANGUAGE_VERSION}),
            f"The version of the plan language, {LANGUAGE_VERSION}; left out, 1.",
        ),
    ] = None
    description: Annotated[
        str, Key(TEXT, "The purpose of the plan, for you; its first line is the run's title.")
    ] = ""
    inputs: Annotated[
        Mapping[str, InputSpec],
        Key(
            INPUTS,
            "Name → default, or name → `{type, default, description, enum, minimum, maximum, "
            "required, secret}`.",
        ),
    ] = field(default_factory=dict[str, InputSpec])
    agents: Annotated[
        tuple[PlanAgent, ...],
        Key(
            AGENTS,
            "Registered [sub-agents](#sub-agents) that the plan uses, by dotted path: "
            "`pkg.module.Agent` or `{path, name}`; and [agents of its own](#an-agent-in-the-plan): "
            "`{name, instruction, …}`.",
        ),
    ] = ()
    servers: Annotated[
        tuple[str, ...] | None,
        Key(
            SERVERS,
            "The MCP servers of the settings that the plan uses, by name; left out, all of them.",
        ),
    ] = None
    limits: Annotated[
        Limits,
        Key(part(Limits), "Where a run stops; it can be resumed ([limits](#limits))."),
        Key(
            Form(None, _defaults_schema()),
            "Kind of step → keys that each step of this kind has unless it sets them itself "
            "([defaults](#defaults)).",
            name="defaults",
        ),
    ] = field(default_factory=Limits)
    steps: Annotated[
        tuple[Step, ...],
        Key(
            Form(None, {"type": "array", "minItems": 1, "items": ref("step")}),
            "At least one, in order.",
            required=": a list of at least one",
        ),
    ]
    outputs: Annotated[
        Mapping[str, Value],
        Key(VALUES, "Name → value with {{ templates }}: what the run returns."),
    ] = field(default_factory=dict[str, Value])
    on_failure: Annotated[
        tuple[Step, ...],
        Key(HANDLER_STEPS, "Steps that run once the plan failed ([handlers](#steps-at-the-end))."),
    ] = ()
    finally_: Annotated[
        tuple[Step, ...],
        Key(
            HANDLER_STEPS,
            "Steps that run at every end: success, failure, a limit, `fractale cancel`.",
            name="finally",
        ),
    ] = ()
    file: str = field(default="<string>", compare=False)
    position: Position = field(default=NOWHERE, compare=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    def step(self, name: str) -> Step:
        """The step of that name.

        Raises:
            KeyError: The plan has no such step.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def walk(self) -> Iterator[Step]:
        """Every step of the file, with those of blocks, chains and handlers, in file order."""
        return iter(self._all_steps)

    @cached_property
    def _all_steps(self) -> tuple[Step, ...]:
        own = (*self.steps, *self.on_failure, *self.finally_)
        return tuple(step for each in own for step in each.walk())

    @cached_property
    def handlers(self) -> "Mapping[str, Plan]":
        """The plans of the steps that run at the end, by their keys of `HANDLERS`.

        Each has the inputs and limits of this plan. A step that fails leads to the next one, unless
        it says otherwise: a failure in the middle of a cleanup must not end the cleanup.
        """
        blocks = zip(HANDLERS, (self.on_failure, self.finally_), strict=True)
        return {name: self._handler(steps) for name, steps in blocks if steps}

    def _handler(self, steps: tuple[Step, ...]) -> "Plan":
        plan = replace(self, steps=steps, on_failure=(), finally_=(), outputs={}, warnings=())
        continued = (
            replace(step, transitions={FAILURE: plan.next_steps[step.name], **step.transitions})
            for step in steps
        )
        return replace(plan, steps=tuple(continued))

    def target_of(self, step: Step, event: str) -> str:
        """The target of a step's event: a step's name, ``success`` or ``failed``.

        A step without a transition for ``success`` leads to the next step of the file, and the last
        step leads to success. A step without a transition for ``failure`` leads to failure.
        """
        if event in step.transitions:
            return step.transitions[event]
        if event == FAILURE:
            return END_FAILED
        return self.next_steps[step.name]

    @property
    def registered(self) -> tuple[AgentRef, ...]:
        """The registered sub-agents that it names."""
        return tuple(agent for agent in self.agents if isinstance(agent, AgentRef))

    @cached_property
    def experts(self) -> tuple[Expert, ...]:
        """The agents that it writes itself."""
        return tuple(agent for agent in self.agents if isinstance(agent, Expert))

    @cached_property
    def value_names(self) -> frozenset[str]:
        """The names that its `set` steps give to values."""
        return frozenset(name for step in self.walk() for name in step.value_names)

    @cached_property
    def next_steps(self) -> Mapping[str, str]:
        """Step name → the step after it in the file. The last step leads to ``success``."""
        names = [step.name for step in self.steps]
        return dict(zip(names, [*names[1:], END_SUCCESS], strict=True))


PLAN_KEYS: Final[Mapping[str, Key]] = keys_of(Plan)

_REGISTRY = "that belongs to a registry or server file"
_VALUES = "write a step `set: {NAME: value}`; its values are `values.NAME`"
PLAN_HINTS: Final = {
    "tools": _REGISTRY,
    "prompts": _REGISTRY,
    "resources": _REGISTRY,
    "server": f"{_REGISTRY}; a plan names its `servers`",
    "values": _VALUES,
    "vars": _VALUES,
    "variables": _VALUES,
    "states": "write `steps`",
    "tasks": "write `steps`",
    "handlers": "write `on_failure` or `finally`",
    "onfailure": "write `on_failure`",
    "on_error": "write `on_failure`",
    "on_exit": "write `finally`",
    "cleanup": "write `finally`",
}
