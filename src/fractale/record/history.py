"""The history of a run: every attempt of every step, with its calls, questions and decision.

A `RunHistory` is read from the run's directory alone: its head, its events, and the values that
they refer to. LangGraph's checkpoints are not read. Large values stay references until `resolve`
is asked for them.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, cast

from fractale.errors import StoreError
from fractale.plan.paths import around, without_indexes
from fractale.questions import identity, needs_no_answer
from fractale.record.jobs import JobHistory
from fractale.store.journal import result_in
from fractale.store.outputs import FileOutputs, Part, is_reference, whole
from fractale.store.run_record import RunRecord

KEY_START, KEY_END = b'{"key": "', b'"'

MOST_DIGITS = 12
"""The most digits of an item's index."""
_ITEM = re.compile(r"(?P<block>.+)\[(?P<index>[0-9]+)\]")

RunStatus = Literal["running", "success", "failed", "waiting", "limit", "stopped"]


@dataclass(slots=True, kw_only=True)
class RecordedCall:
    """One call of a tool or a model.

    Args:
        name: The tool, or the model as ``provider:name``.
        step: The step's path; of an item of a foreach, ``each[3]``.
        agent: The sub-agent below the step that made it; empty for the step's own.
        arguments: Of a tool; secrets are masked.
        started: Unix time in seconds.
        finished: Whether its end is known; a process that was killed leaves calls without an end.
        text: The beginning of its result.
        snapshot: The version of the model that answered, as its server named it.
        key: The key of the call in the run's journal, which has the whole result.
        entering: Which start of the attempt made it, from 1; an attempt is started again after a
            question or a crash.
        agreed: Who agreed to it beforehand, as text; empty if that is not recorded.
        parts: The large texts that its arguments have in brief, see `whole_or_brief`.
    """

    kind: Literal["tool", "model"]
    name: str
    step: str
    agent: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    started: float = 0.0
    finished: bool = False
    is_error: bool = False
    text: str = ""
    seconds: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    snapshot: str = ""
    key: str | None = None
    entering: int = 1
    agreed: str = ""
    parts: Sequence[Part] = ()

    @property
    def came_back(self) -> bool:
        """Whether it has a result, or the user's answer instead of one."""
        return self.finished or bool(self.text)


@dataclass(slots=True, kw_only=True)
class RecordedQuestion:
    """One question of a run.

    Args:
        question: Its fields, as in `fractale.questions`.
        answered: Whether there is an answer.
        by: ``person``, ``answers`` (given beforehand), ``yes`` or ``default_after``.
        via: Where it was answered, such as ``fractale web``; empty for the run's own terminal.
        user: Who answered it there, by login name.
        asked_at: When the run first waited for it; None if the answer was given beforehand.
        process: The number of the process of the run that asked it last, from 1.
    """

    step: str
    question: Mapping[str, Any]
    answered: bool = False
    answer: Any = None
    by: str | None = None
    via: str = ""
    user: str = ""
    asked_at: float | None = None
    answered_at: float | None = None
    process: int = 0

    @property
    def answered_by(self) -> str:
        """Who answered, as text: ``person``, or ``anna in fractale web``."""
        if self.via:
            return f"{self.user or 'person'} in {self.via}"
        return self.by or ""


@dataclass(slots=True, kw_only=True)
class RecordedJob:
    """A batch job that a job step submitted, in its last recorded state.

    Args:
        step: The step's path; of an item of a foreach, ``each[3]``.
        key: Its idempotency key; its directory is named after that.
        index: Of an element of an array; all elements have the array's key.
        job: The scheduler's id.
        line: The last line of its log.
        submitted, started, ended: Unix times in seconds; None if not known.
        over: Whether the run saw its end.
    """

    step: str
    key: str
    job: str
    scheduler: str
    state: str = ""
    reason: str = ""
    line: str = ""
    nodes: Sequence[str] = ()
    index: int | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    over: bool = False


@dataclass(slots=True, kw_only=True)
class RecordedItem:
    """One item of a foreach; `inputs`, `outputs`, `reused` and `read` as in `RecordedAttempt`."""

    index: int
    started: float = 0.0
    outcome: str | None = None
    decided_by: str | None = None
    error: str | None = None
    seconds: float | None = None
    inputs: Any = None
    outputs: Any = None
    reused: Mapping[str, Any] | None = None
    read: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True, kw_only=True)
class RecordedWarning:
    """A warning, or a log line of a server at that level."""

    step: str
    code: str
    message: str
    time: float


@dataclass(slots=True, kw_only=True)
class RecordedAttempt:
    """One attempt of one step.

    Args:
        path: The step's path in the run, such as ``outer/inner`` or ``each[3]/inner``.
        number: Which attempt of this path in the run it is, from 1.
        attempt: Which attempt it is within the plan around it, from 1.
        target: The tool, prompt, agent or plan file that it calls.
        previous: The step that led here.
        started, ended: Unix times in seconds; `ended` is None while it runs.
        outcome: ``success``, ``failure`` or ``skipped``; None while it runs.
        event: The event whose transition was taken.
        decided_by: The kind of evidence that decided the outcome.
        next: The next step, or ``success`` or ``failed``.
        inputs, outputs: Values, or references to stored values. In older records `inputs` is None
            and `outputs` is cut short (`outputs_cut`).
        reused: The run and the step whose result it took over, ``{run, step, key}``; None if it
            made its own call.
        read: The files and programs that its inputs name, before its call
            (`fractale.graph.read_files`).
        is_array: Whether its items are the elements of a job array.
        items_total: How many items it has; None if none was started.
        enterings: How often it was started: more than once after questions and crashes.
        handler: The handler of the plan that it is a step of: ``on_failure`` or ``finally``.
        parent: The attempt of the step around it.
    """

    path: str
    number: int = 1
    attempt: int = 1
    kind: str = ""
    target: str | None = None
    description: str = ""
    previous: str | None = None
    started: float = 0.0
    ended: float | None = None
    outcome: str | None = None
    event: str | None = None
    decided_by: str | None = None
    reason: str = ""
    error: str | None = None
    code: str | None = None
    next: str | None = None
    seconds: float | None = None
    tokens: int = 0
    inputs: Any = None
    outputs: Any = None
    outputs_cut: bool = False
    reused: Mapping[str, Any] | None = None
    read: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_array: bool = False
    items_total: int | None = None
    enterings: int = 1
    calls: list[RecordedCall] = field(default_factory=list[RecordedCall])
    items: dict[int, RecordedItem] = field(default_factory=dict[int, RecordedItem])
    jobs: list[RecordedJob] = field(default_factory=list[RecordedJob])
    questions: list[RecordedQuestion] = field(default_factory=list[RecordedQuestion])
    warnings: list[RecordedWarning] = field(default_factory=list[RecordedWarning])
    tables: dict[str, list[dict[str, Any]]] = field(
        default_factory=dict[str, "list[dict[str, Any]]"]
    )
    handler: str = ""
    parent: RecordedAttempt | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The step's name in its own plan."""
        return self.path.rpartition("/")[2]

    def part(self, path: str) -> str:
        """The name of an item's or element's path on screens: ``item 4``, ``element 3``.

        Args:
            path: Such as ``each[3]``; items are counted from 1, elements have their own index.
                A path without an index, in a damaged record, is ``item ?``.
        """
        digits = path[path.rfind("[") + 1 : -1]
        if not (digits.isdecimal() and len(digits) < MOST_DIGITS):
            return "item ?"
        index = int(digits)
        return f"element {index}" if self.is_array else f"item {index + 1}"

    @property
    def depth(self) -> int:
        """How many steps it is inside of."""
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def cost(self) -> float:
        """US dollars of its own calls, without those of steps inside."""
        return sum(call.cost for call in self.calls)

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(call.name for call in self.calls if call.kind == "model"))


@dataclass(slots=True, kw_only=True)
class RunProcess:
    """One process's work on the run.

    Args:
        resumed: Whether it continued the work of another process.
        model: The run's model, as ``provider:name``; None if no step needs one.
        versions: Package → version, if they are recorded.
        status: How it ended; None if it was killed or still runs.
        seen: When its last event happened.
    """

    started: float
    resumed: bool
    model: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ended: float | None = None
    status: str | None = None
    seen: float = 0.0


@dataclass(slots=True, kw_only=True)
class RunHistory:
    """Everything in a run's record.

    Args:
        head: How it was started (`RunRecord.read_head`).
        title: The first line of the plan's description, or its name.
        steps: The plan's steps: ``{name, type, target}``, in the plan's order.
        attempts: In the order in which they were started.
        warnings: Those that belong to no step.
        drafts: Step path → the accepted draft, YAML.
        kept: The steps whose results a fork has from its parent run.
        result: The fields of the last event `run_finished`; empty if there is none.
        alive: Whether a process works on the run.
    """

    record: RunRecord
    head: Mapping[str, Any]
    title: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    attempts: list[RecordedAttempt] = field(default_factory=list[RecordedAttempt])
    questions: list[RecordedQuestion] = field(default_factory=list[RecordedQuestion])
    warnings: list[RecordedWarning] = field(default_factory=list[RecordedWarning])
    processes: list[RunProcess] = field(default_factory=list[RunProcess])
    drafts: Mapping[str, str] = field(default_factory=dict[str, str])
    jobs: JobHistory = field(default_factory=JobHistory)
    kept: list[str] = field(default_factory=list[str])
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    alive: bool = False

    @property
    def run(self) -> str:
        return self.record.run_id

    @property
    def inputs(self) -> dict[str, Any]:
        """Values or references, without secret inputs."""
        return self.head.get("inputs") or {}

    @property
    def status(self) -> RunStatus:
        """``stopped`` if its process was killed."""
        if self.alive:
            return "running"
        last = self.processes[-1].status if self.processes else None
        return self.result["status"] if last else "stopped"

    @property
    def forkable(self) -> list[RecordedAttempt]:
        """The attempts before which a fork can start, oldest first: none inside of a step."""
        return [each for each in self.attempts if each.parent is None and not each.handler]

    @property
    def open_questions(self) -> list[RecordedQuestion]:
        """The questions that wait for an answer, each once.

        A running process asks one after the other: of several questions at once, its record has
        the first. A run whose process was killed asks about a failure again only if it fails again.
        """
        unanswered = [asked for asked in self.questions if not asked.answered]
        if self.alive or self.status == "stopped":
            over = [a for a in self.attempts if a.outcome is not None]
            closed = {id(asked) for attempt in over for asked in attempt.questions}
            return [
                asked
                for asked in unanswered
                if asked.process == len(self.processes)
                and id(asked) not in closed
                and (self.alive or asked.question.get("kind") != "failure")
            ]
        if self.status != "waiting":
            return []
        since = {_name(asked.question): asked.asked_at for asked in unanswered}
        waiting = {_name(q): q for q in self.result.get("waiting") or () if not needs_no_answer(q)}
        return [
            RecordedQuestion(
                step=str(question.get("step") or ""), question=question, asked_at=since.get(name)
            )
            for name, question in waiting.items()
        ]

    @property
    def started(self) -> float:
        """Unix time in seconds."""
        return float(self.head.get("started") or 0.0)

    @property
    def ended(self) -> float | None:
        """When its last process ended; None if the process was killed."""
        return self.processes[-1].ended if self.processes and not self.alive else None

    @property
    def versions(self) -> Mapping[str, str]:
        """Package → version, of the last process that recorded them."""
        known = [process.versions for process in self.processes if process.versions]
        return known[-1] if known else self.head.get("versions") or {}

    @property
    def tools(self) -> Mapping[str, str]:
        """Tool → a hash of its schema when the run was started."""
        return self.head.get("tools") or {}

    @property
    def models(self) -> list[str]:
        """Every model that was called, and the model of the run's start."""
        started = [process.model for process in self.processes if process.model]
        asked = [model for attempt in self.attempts for model in attempt.models]
        return list(dict.fromkeys([*started, *asked]))

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens, cost and seconds: as reported at the end, else summed over the recorded calls."""
        if self.result.get("usage") and not self.alive and self.ended is not None:
            return dict(self.result["usage"])
        calls = list(self.calls())
        tokens = {k: sum(getattr(c, k) for c in calls) for k in ("input_tokens", "output_tokens")}
        # The seconds of a job step include the time in which it waited.
        top = [attempt.seconds or 0.0 for attempt in self.attempts if attempt.parent is None]
        own = [v.seconds or 0.0 for v in self.attempts if v.parent is None and not v.jobs]
        seconds = round(sum(own if self.jobs.known else top), 3)
        return {
            **tokens,
            "total_tokens": sum(tokens.values()),
            "cost": round(sum(call.cost for call in calls), 6),
            "seconds": seconds,
            **self.jobs.usage(seconds, time.time() if self.alive else None),
        }

    def calls(self) -> Iterator[RecordedCall]:
        for attempt in self.attempts:
            yield from attempt.calls

    def of_step(self, name: str) -> list[RecordedAttempt]:
        """The attempts of a step, by its path, else by its name.

        The index of an item may be left out: ``each/inner`` returns those of all items.
        """
        whole = [attempt for attempt in self.attempts if attempt.path == name]
        if whole:
            return whole
        plain = [attempt for attempt in self.attempts if without_indexes(attempt.path) == name]
        return plain or [attempt for attempt in self.attempts if attempt.name == name]

    def paths(self) -> list[str]:
        """The paths of the steps that were started, each once."""
        return list(dict.fromkeys(attempt.path for attempt in self.attempts))


AttemptState: TypeAlias = Literal["success", "failure", "skipped", "waiting", "running", "stopped"]


def state_of(history: RunHistory, attempt: RecordedAttempt) -> AttemptState:
    """The outcome of an attempt, or the state of one that did not end.

    It is ``waiting`` if it or a step inside asks something, or if the run waits; else ``running``,
    or ``stopped`` if no process works on the run.
    """
    if attempt.outcome in ("success", "skipped"):
        return attempt.outcome
    if attempt.outcome:
        return "failure"
    if history.status == "waiting" or any(
        not asked.answered
        and not needs_no_answer(asked.question)
        and attempt.path in (asked.step, *around(asked.step))
        for asked in history.questions
    ):
        return "waiting"
    return "running" if history.alive else "stopped"


# -- items of a foreach ---------------------------------------------------------------------------


def of_item(history: RunHistory, path: str) -> list[RecordedAttempt]:
    """The attempts of an item such as ``each[3]``, and of the steps inside of it.

    Returns:
        Per attempt of the foreach that started the item, one attempt with the item's own outcome,
        inputs, outputs, calls, questions and warnings, and those of the steps inside.
    """
    found = _ITEM.fullmatch(path)
    if found is None:
        return []
    blocks, index = history.of_step(found["block"]), int(found["index"])
    attempts: list[RecordedAttempt] = []
    for block in blocks:
        if item := block.items.get(index):
            name = f"{block.path}[{index}]"
            attempts.append(_as_attempt(block, item, name))
            attempts += [v for v in history.attempts if _lies_in(v, block, f"{name}/")]
    return attempts


def _lies_in(attempt: RecordedAttempt, block: RecordedAttempt, prefix: str) -> bool:
    around = attempt.parent
    while around is not None and around is not block:
        around = around.parent
    return around is block and attempt.path.startswith(prefix)


def _as_attempt(block: RecordedAttempt, item: RecordedItem, path: str) -> RecordedAttempt:
    calls = [call for call in block.calls if call.step == path]
    return replace(
        block,
        path=path,
        previous=None,
        started=item.started or block.started,
        ended=None,
        outcome=item.outcome,
        event=None,
        decided_by=item.decided_by,
        reason=item.error or "",
        error=item.error,
        code=None,
        next=None,
        seconds=item.seconds,
        tokens=sum(call.input_tokens + call.output_tokens for call in calls),
        inputs=item.inputs,
        outputs=item.outputs,
        outputs_cut=False,
        reused=item.reused,
        enterings=1,
        calls=calls,
        items={},
        jobs=[job for job in block.jobs if job.step == path],
        questions=[asked for asked in block.questions if asked.step == path],
        warnings=[note for note in block.warnings if note.step == path],
        tables={},
    )


# -- whole values, and a history as JSON --------------------------------------------------------


def resolve(record: RunRecord, value: Any) -> Any:
    """The value of a reference; any other value unchanged.

    If the value is gone or damaged, the result is the reference with an `error`.
    """
    if not is_reference(value):
        return value
    try:
        return FileOutputs(record.outputs).get(value)
    except StoreError as error:
        return {**cast("dict[str, Any]", value), "error": error.message}


def whole_or_brief(record: RunRecord, value: Any, parts: Sequence[Part]) -> Any:
    """A value of an event with its large texts; in brief, if one of them is gone or damaged.

    Args:
        parts: The large texts that the event lacks, see `fractale.store.outputs`. The first entry
            of each place is the name of the event's field.
    """
    inside = [{**part, "at": part["at"][1:]} for part in parts]
    try:
        return whole(copy.deepcopy(value), inside, FileOutputs(record.outputs).get_text)
    except StoreError:
        return value


def input_values(history: RunHistory) -> dict[str, Any]:
    """The whole inputs of the run, without secret ones."""
    return {name: resolve(history.record, value) for name, value in history.inputs.items()}


def results_of(record: RunRecord, calls: Iterable[RecordedCall]) -> dict[str, Any]:
    """The whole results of calls, by their keys in the run's journal; see `each_result`."""
    return dict(each_result(record, calls))


def each_result(record: RunRecord, calls: Iterable[RecordedCall]) -> Iterator[tuple[str, Any]]:
    """The whole results of calls with their keys in the run's journal, one at a time.

    Returns:
        For a tool ``{text, structured, is_error, content}`` or ``{error}``; for a model its
        answer or message. Calls without a key or a result are left out. A result that the journal
        has twice comes twice; the later one counts.

    Raises:
        StoreError: The journal cannot be read.
    """
    wanted = {call.key.encode() for call in calls if call.key}
    if not wanted:
        return
    path, outputs = record.journal, FileOutputs(record.outputs)
    try:
        with path.open("rb") as file:
            for line in file:
                if _key_of(line) in wanted and (entry := json.loads(line)) and "result" in entry:
                    yield entry["key"], result_in(entry, outputs)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise StoreError(f"the run's journal {path} cannot be read: {error}") from error


def _key_of(line: bytes) -> bytes:
    """The key of a line, without parsing a result that may be large."""
    if not line.startswith(KEY_START) or not line.endswith(b"\n"):
        return b""
    return line[len(KEY_START) : line.find(KEY_END, len(KEY_START))]


def history_data(history: RunHistory) -> dict[str, Any]:
    """A whole history as JSON, every value in full."""
    results = results_of(history.record, history.calls())
    return {
        "run": history.run,
        "status": history.status,
        "plan": history.head.get("plan"),
        "title": history.title,
        "file": history.head.get("file"),
        "plan_hash": history.head.get("plan_hash"),
        "parent": history.head.get("parent"),
        "started": history.started,
        "ended": history.ended,
        "usage": history.usage,
        "inputs": input_values(history),
        "models": history.models,
        "versions": dict(history.versions),
        "tools": dict(history.tools),
        "record": str(history.record.path),
        "processes": [_plain(process) for process in history.processes],
        "steps": history.steps,
        "drafts": dict(history.drafts),
        "visits": [attempt_data(history, attempt, results) for attempt in history.attempts],
        "questions": [_plain(asked, "process") for asked in history.questions],
        "warnings": [_plain(note) for note in history.warnings],
        "result": dict(history.result),
    }


def attempt_data(
    history: RunHistory, attempt: RecordedAttempt, results: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One attempt as JSON, its values in full.

    Args:
        results: Of its calls, as `results_of` returns them; None to read them.
    """
    if results is None:
        results = results_of(history.record, attempt.calls)
    record = history.record
    data = _plain(attempt, "parent", "items", "calls", "jobs", "questions", "warnings")
    data["inputs"], data["outputs"] = (
        resolve(record, attempt.inputs),
        resolve(record, attempt.outputs),
    )
    data["cost"] = round(attempt.cost, 6)
    data["calls"] = [
        {
            **_plain(call, "parts"),
            "arguments": whole_or_brief(record, call.arguments, call.parts),
            "result": results.get(call.key) if call.key and call.came_back else None,
        }
        for call in attempt.calls
    ]
    data["items"] = [
        {
            **_plain(item),
            "inputs": resolve(record, item.inputs),
            "outputs": resolve(record, item.outputs),
        }
        for _, item in sorted(attempt.items.items())
    ]
    data["jobs"] = [_plain(job) for job in attempt.jobs]
    data["questions"] = [_plain(asked, "process") for asked in attempt.questions]
    data["warnings"] = [_plain(note) for note in attempt.warnings]
    return data


def _name(question: Mapping[str, Any]) -> str:
    return str(question.get("id") or identity(question))


def _plain(
    value: RecordedAttempt
    | RecordedCall
    | RecordedItem
    | RecordedJob
    | RecordedQuestion
    | RecordedWarning
    | RunProcess,
    *without: str,
) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value) if f.name not in without}
