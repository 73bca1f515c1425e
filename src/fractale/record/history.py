"""What happened in a run: every visit of every step, with what was called, asked and decided.

A `RunHistory` is made from the run's folder alone: its head, its events, and the values that
they refer to. LangGraph's checkpoints are not read. Of the largest values it only holds
references; `fractale.record.history_values` gives the values themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fractale.record.jobs_told import JobsTold
from fractale.store.run_record import RunRecord

RunStatus = Literal["running", "success", "failed", "waiting", "limit", "stopped"]


@dataclass(slots=True, kw_only=True)
class CallMade:
    """One call of a tool or a model.

    Args:
        name: The tool, or the model as ``provider:name``.
        step: The step's path; of an item of a foreach, ``each[3]``.
        agent: The sub-agent below the step that made it; empty for the step's own.
        arguments: Of a tool; secrets are masked.
        started: Unix time in seconds.
        finished: Whether its end is known: a process that was killed leaves calls without one.
        text: What came back, its beginning.
        seconds: How long it took.
        key: Of the call in the run's journal, which has the whole result; None if not known.
        entering: Which entering of the visit made it, from 1; a visit is entered again after a
            question or a crash.
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
    key: str | None = None
    entering: int = 1

    @property
    def came_back(self) -> bool:
        """Whether something came back, or a person said what: else a later call has the key."""
        return self.finished or bool(self.text)


@dataclass(slots=True, kw_only=True)
class Asked:
    """One question of a run.

    Args:
        question: Its fields, as in `fractale.questions`.
        answered: Whether there is an answer.
        by: ``person``, ``answers`` (given beforehand) or ``yes``.
        asked_at: When the run first waited for it; None where the answer was there already.
    """

    step: str
    question: Mapping[str, Any]
    answered: bool = False
    answer: Any = None
    by: str | None = None
    asked_at: float | None = None
    answered_at: float | None = None


@dataclass(slots=True, kw_only=True)
class JobMade:
    """A batch job that a job step submitted, as the record told of it last.

    Args:
        step: The step's path; of an item of a foreach, ``each[3]``.
        key: What fractale calls it; its folder is named after that.
        index: Of the element, if it is one of an array: then several have the same key.
        job: What the scheduler calls it.
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
class Item:
    """One item of a foreach; `inputs` and `outputs` as in `Visit`."""

    index: int
    started: float = 0.0
    outcome: str | None = None
    decided_by: str | None = None
    error: str | None = None
    seconds: float | None = None
    inputs: Any = None
    outputs: Any = None


@dataclass(slots=True, kw_only=True)
class Note:
    """A warning, or what a server logged as one."""

    step: str
    code: str
    message: str
    time: float


@dataclass(slots=True, kw_only=True)
class Visit:
    """One visit of one step.

    Args:
        path: The step's path in the run, such as ``outer/inner`` or ``each[3]/inner``.
        number: Which visit of this path in the run it is, from 1.
        attempt: Which visit within the plan around it.
        target: What it calls: a tool, a prompt, an agent, a plan's file.
        previous: The step that led here.
        started, ended: Unix times in seconds; `ended` is None while it goes on.
        outcome: ``success``, ``failure`` or ``skipped``; None while it goes on.
        event: Which transition was taken.
        decided_by: The evidence that decided.
        next: Where it led: a step, ``success`` or ``failed``.
        inputs, outputs: Values, or references to values that are kept beside the record; of
            older records `inputs` is None and `outputs` a short form (`outputs_cut`).
        is_array: Whether its items are the elements of a job array, each called by its index.
        enterings: How often it was entered: more than once after questions and crashes.
        parent: The visit of the step around it.
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
    is_array: bool = False
    enterings: int = 1
    calls: list[CallMade] = field(default_factory=list[CallMade])
    items: dict[int, Item] = field(default_factory=dict[int, Item])
    jobs: list[JobMade] = field(default_factory=list[JobMade])
    questions: list[Asked] = field(default_factory=list[Asked])
    warnings: list[Note] = field(default_factory=list[Note])
    tables: dict[str, list[dict[str, Any]]] = field(
        default_factory=dict[str, "list[dict[str, Any]]"]
    )
    parent: Visit | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The step's name in its own plan."""
        return self.path.rpartition("/")[2]

    def part(self, path: str) -> str:
        """What people call the part of the step that a path is of: ``item 4``, ``element 3``.

        Args:
            path: Such as ``each[3]``; items are counted from 1, elements have their own index.
        """
        index = int(path[path.rfind("[") + 1 : -1])
        return f"element {index}" if self.is_array else f"item {index + 1}"

    @property
    def depth(self) -> int:
        """How many steps it lies within."""
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def cost(self) -> float:
        """US dollars of its own calls; of a step with an inside, not of the steps inside."""
        return sum(call.cost for call in self.calls)

    @property
    def models(self) -> list[str]:
        """The models that it asked, each once."""
        return list(dict.fromkeys(call.name for call in self.calls if call.kind == "model"))


@dataclass(slots=True, kw_only=True)
class Process:
    """One process's work on the run.

    Args:
        resumed: Whether it went on with what another had begun.
        model: The run's model, as ``provider:name``; None where no step needs one.
        versions: Package → version, where the record says.
        status: How it ended; None where it was killed, or goes on.
    """

    started: float
    resumed: bool
    model: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ended: float | None = None
    status: str | None = None


@dataclass(slots=True, kw_only=True)
class RunHistory:
    """Everything that a run's record says of it.

    Args:
        head: How it was started (`RunRecord.read_head`).
        title: The first line of the plan's description, or its name.
        steps: The plan's steps: ``{name, type, target}``, in the plan's order.
        visits: In the order in which they were entered.
        warnings: Those of no step.
        drafts: Step path → the accepted draft, YAML.
        jobs: What was told of its batch jobs.
        result: The fields of the last event `run_finished`; empty where there is none.
        alive: Whether a process has the run.
    """

    folder: RunRecord
    head: Mapping[str, Any]
    title: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    visits: list[Visit] = field(default_factory=list[Visit])
    questions: list[Asked] = field(default_factory=list[Asked])
    warnings: list[Note] = field(default_factory=list[Note])
    processes: list[Process] = field(default_factory=list[Process])
    drafts: Mapping[str, str] = field(default_factory=dict[str, str])
    jobs: JobsTold = field(default_factory=JobsTold)
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    alive: bool = False

    @property
    def run(self) -> str:
        """The run's id."""
        return self.folder.run_id

    @property
    def inputs(self) -> dict[str, Any]:
        """What it was started with: values, or references; secret ones are not kept."""
        return self.head.get("inputs") or {}

    @property
    def status(self) -> RunStatus:
        """How it ended, or where it stands; ``stopped`` where its process was killed."""
        if self.alive:
            return "running"
        last = self.processes[-1].status if self.processes else None
        return self.result["status"] if last else "stopped"

    @property
    def started(self) -> float:
        """Unix time in seconds."""
        return float(self.head.get("started") or 0.0)

    @property
    def ended(self) -> float | None:
        """When its last process ended, where it did so in order."""
        return self.processes[-1].ended if self.processes and not self.alive else None

    @property
    def versions(self) -> Mapping[str, str]:
        """Package → version, of the last process that told them, else of the head."""
        told = [process.versions for process in self.processes if process.versions]
        return told[-1] if told else self.head.get("versions") or {}

    @property
    def tools(self) -> Mapping[str, str]:
        """Tool → a hash of its schema, as the run had them when it was started."""
        return self.head.get("tools") or {}

    @property
    def models(self) -> list[str]:
        """Every model that was asked, and the one that it was started with."""
        started = [process.model for process in self.processes if process.model]
        asked = [model for visit in self.visits for model in visit.models]
        return list(dict.fromkeys([*started, *asked]))

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens, cost and seconds: as it was told at the end, else summed over what is known."""
        if self.result.get("usage") and not self.alive and self.ended is not None:
            return dict(self.result["usage"])
        calls = list(self.calls())
        tokens = {k: sum(getattr(c, k) for c in calls) for k in ("input_tokens", "output_tokens")}
        # How long a step took includes that it waited for a job.
        top = [visit.seconds or 0.0 for visit in self.visits if visit.parent is None]
        own = [v.seconds or 0.0 for v in self.visits if v.parent is None and not v.jobs]
        seconds = round(sum(own if self.jobs.known else top), 3)
        return {
            **tokens,
            "total_tokens": sum(tokens.values()),
            "cost": round(sum(call.cost for call in calls), 6),
            "seconds": seconds,
            **self.jobs.usage(seconds, time.time() if self.alive else None),
        }

    def calls(self) -> Iterator[CallMade]:
        """Every call of every visit."""
        for visit in self.visits:
            yield from visit.calls

    def of_step(self, name: str) -> list[Visit]:
        """The visits of a step, given by its path, or by its name where no path is that.

        The index of an item may be left out: ``each/inner`` are those of all items.
        """
        whole = [visit for visit in self.visits if visit.path == name]
        if whole:
            return whole
        plain = [visit for visit in self.visits if without_indexes(visit.path) == name]
        return plain or [visit for visit in self.visits if visit.name == name]

    def paths(self) -> list[str]:
        """The paths of the steps that were visited, each once."""
        return list(dict.fromkeys(visit.path for visit in self.visits))


def without_indexes(path: str) -> str:
    """A step's path without the indexes of items: of ``a[3]/b``, ``a/b``."""
    return "/".join(part.partition("[")[0] for part in path.split("/"))
