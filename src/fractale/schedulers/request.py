"""The request of a batch job, in terms that are independent of the scheduler."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

DependencyKind = Literal["after", "afterany", "afterok", "afternotok", "aftercorr", "singleton"]
Place = Literal["free", "pack", "scatter"]

SIZES: Final = frozenset(
    {
        *("nodes", "most_nodes", "tasks", "tasks_per_node"),
        *("cores_per_task", "cores_per_node", "chunks"),
        *("gpus", "gpus_per_node", "gpus_per_task"),
    }
)
"""Fields that set the size of the job."""

GRAVE: Final = (SIZES - {"most_nodes"}) | {"array", "dependencies", "components"}
"""Fields without which a translation does not do the work of the original.

`most_nodes` is not among them, because the least number of a range of nodes is enough for the work.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Resources that stay together on one host; several chunks may share a host.

    Args:
        count: Number of chunks of this kind.
        tasks: MPI processes per chunk.
        memory: Memory per chunk, in bytes.
        threads: OpenMP threads per task.
        other: Other resources, as written: ``model=rome``.
    """

    count: int = 1
    cores: int | None = None
    tasks: int | None = None
    gpus: int | None = None
    memory: int | None = None
    threads: int | None = None
    other: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Array indices from `first` to `last`, both included."""

    first: int
    last: int
    step: int = 1

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1, self.step))

    def __str__(self) -> str:
        if self.first == self.last:
            return str(self.first)
        return f"{self.first}-{self.last}" + (f":{self.step}" if self.step > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """The indices of a job array.

    Args:
        most: The most elements that may run at a time; None without a limit.
    """

    spans: tuple[Span, ...]
    most: int | None = None

    @property
    def indices(self) -> tuple[int, ...]:
        """All indices, each once, in order."""
        return tuple(sorted({index for span in self.spans for index in span}))

    @property
    def size(self) -> int:
        """Number of indices in all spans; an index in two spans counts twice."""
        return sum((span.last - span.first) // span.step + 1 for span in self.spans)

    def __str__(self) -> str:
        """Write the array as Slurm and plans do: ``1-10:2,15%4``."""
        return ",".join(map(str, self.spans)) + (f"%{self.most}" if self.most else "")

    @classmethod
    def of(cls, indices: Iterable[int], most: int | None = None) -> Array:
        """Make the array of these indices, with as few spans of neighbors as possible."""
        spans: list[Span] = []
        for index in sorted(set(indices)):
            if spans and spans[-1].last == index - 1:
                spans[-1] = Span(first=spans[-1].first, last=index)
            else:
                spans.append(Span(first=index, last=index))
        return cls(spans=tuple(spans), most=most)

    @classmethod
    def parse(cls, text: str) -> Array:
        """Parse an array from ``1-10:2,15%4``.

        Raises:
            ValueError: The text is not an array, or has more than 100,000 indices.
        """
        body, percent, most = text.strip().partition("%")
        spans: list[Span] = []
        for part in body.split(","):
            ends, colon, step = part.strip().partition(":")
            first, dash, last = ends.partition("-")
            figures = [first, last if dash else first, step if colon else "1"]
            if not all(each.isascii() and each.isdecimal() for each in figures):
                raise ValueError(f"`{text}` is not an array such as 1-10, 0-9:3 or 1,5,7-9%2")
            span = Span(first=int(figures[0]), last=int(figures[1]), step=int(figures[2]))
            if span.last < span.first or span.step < 1:
                raise ValueError(f"`{text}`: `{part.strip()}` has no index")
            spans.append(span)
        if percent and not (most.isascii() and most.isdecimal() and int(most)):
            raise ValueError(f"`{text}`: after `%` comes how many may run at a time")
        found = cls(spans=tuple(spans), most=int(most) if percent else None)
        if found.size > MOST_ELEMENTS:
            raise ValueError(f"`{text}` has more than {MOST_ELEMENTS:,} elements")
        return found


MOST_ELEMENTS: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """A dependency of a job on other jobs.

    Args:
        jobs: Ids, as the script's scheduler writes them; empty for ``singleton``.
    """

    kind: DependencyKind
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The request of a batch job; None (or an empty tuple) means unspecified.

    File names have marks: ``{{id}}`` (job), ``{{array_id}}`` (whole array), ``{{index}}`` (in the
    array), ``{{name}}``, ``{{user}}``, ``{{host}}``, ``{{node}}`` (number of the node) and
    ``{{task}}`` (rank). A literal ``{{`` does not occur.

    Args:
        queues: Queues or partitions; several if the scheduler may choose.
        server: Name of another cluster or server (``-M`` of Slurm, ``queue@server`` of PBS).
        seconds: Wall time; infinity if the script turns the limit off.
        begin: ``2026-11-30T12:00`` (local time) or ``+3600`` (seconds from submission).
        output, error: File names. A name that ends with ``/`` is a directory, and the scheduler
            chooses the name of the file in it.
        join: Whether stderr goes into stdout's file.
        append: Whether to append to an existing file (True) or to overwrite it (False).
        mail_on: ``begin``, ``end``, ``fail``, ``requeue`` and the like, in lower case; ``none``.
        export: Whether the job gets the submitting shell's whole environment.
        variables: ``NAME`` (passed on) or ``NAME=value`` (set).
        most_nodes: The upper limit of a range; `nodes` is the lower limit.
        tasks: Total number, like `gpus` and `memory`.
        memory: In bytes, as all amounts of memory; 0: all memory of each node.
        gpu_kind: Such as ``a100``.
        chunks: As in PBS's ``select``. A reader that sets them also sets the other sizes from them,
            as far as these can express the same.
        place: How chunks are spread over hosts.
        components: More than one: parts of a heterogeneous job, as text.
        signal: Such as ``USR1@60``: the signal, and the seconds before the end.
        other: Resources and settings that other schedulers may know: ``name=amount``, as written;
            a generic resource of Slurm as ``gres/lscratch=100``.
    """

    name: str | None = None
    account: str | None = None
    queues: tuple[str, ...] = ()
    server: str | None = None
    qos: str | None = None
    reservation: str | None = None
    seconds: float | None = None
    begin: str | None = None
    output: str | None = None
    error: str | None = None
    input: str | None = None
    join: bool | None = None
    append: bool | None = None
    workdir: str | None = None
    mail_on: tuple[str, ...] = ()
    mail_to: tuple[str, ...] = ()
    array: Array | None = None
    dependencies: tuple[Dependency, ...] = ()
    components: tuple[str, ...] = ()
    hold: bool | None = None
    requeue: bool | None = None
    exclusive: bool | None = None
    export: bool | None = None
    variables: tuple[str, ...] = ()
    constraint: str | None = None
    hosts: tuple[str, ...] = ()
    without_hosts: tuple[str, ...] = ()
    licenses: str | None = None
    signal: str | None = None
    comment: str | None = None
    shell: str | None = None
    nodes: int | None = None
    most_nodes: int | None = None
    tasks: int | None = None
    tasks_per_node: int | None = None
    cores_per_task: int | None = None
    cores_per_node: int | None = None
    gpus: int | None = None
    gpus_per_node: int | None = None
    gpus_per_task: int | None = None
    gpu_kind: str | None = None
    memory: int | None = None
    memory_per_node: int | None = None
    memory_per_core: int | None = None
    memory_per_gpu: int | None = None
    chunks: tuple[Chunk, ...] = ()
    place: Place | None = None
    other: tuple[str, ...] = ()

    def said(self) -> dict[str, Any]:
        """The fields that are set → their values."""
        found = zip(_FIELDS, _values(self), strict=True)
        return {name: value for name, value in found if value is not None and value != ()}

    def totals(self) -> Totals:
        """The totals of the job, with the default of every scheduler: one task, one core."""
        if self.chunks:
            return self._totals_of_chunks()
        nodes, tasks = self.nodes, self.tasks
        if tasks is None:
            tasks = (self.tasks_per_node or 1) * (nodes or 1)
        if nodes is None and self.tasks_per_node:
            nodes = -(-tasks // self.tasks_per_node)
        hosts = nodes or 1
        cores = (self.cores_per_task or 1) * tasks
        if self.cores_per_node:
            cores = self.cores_per_node * hosts
        gpus = self.gpus
        if gpus is None:
            gpus = (self.gpus_per_task or 0) * tasks or (self.gpus_per_node or 0) * hosts
        memory = self.memory
        if memory is None:
            memory = (
                (self.memory_per_node or 0) * hosts
                or (self.memory_per_core or 0) * cores
                or (self.memory_per_gpu or 0) * gpus
            )
        return Totals(nodes=nodes, tasks=tasks, cores=cores, gpus=gpus, memory=memory)

    def _totals_of_chunks(self) -> Totals:
        def total(amounts: Iterator[int]) -> int:
            return sum(amounts)

        count = sum(chunk.count for chunk in self.chunks)
        nodes = {"scatter": count, "pack": 1}.get(self.place or "free", 1 if count == 1 else None)
        nodes = self.nodes if nodes is None else nodes
        return Totals(
            nodes=nodes,
            tasks=total(chunk.count * (chunk.tasks or 1) for chunk in self.chunks),
            cores=total(chunk.count * (chunk.cores or chunk.tasks or 1) for chunk in self.chunks),
            gpus=total(chunk.count * (chunk.gpus or 0) for chunk in self.chunks),
            memory=total(chunk.count * (chunk.memory or 0) for chunk in self.chunks),
        )


_FIELDS: Final = tuple(each.name for each in dataclasses.fields(Request))
_values: Final = operator.attrgetter(*_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The sizes of a whole job; of an array, the sizes per element.

    Args:
        nodes: None if the scheduler may choose.
        memory: In bytes; 0 if unspecified.
    """

    nodes: int | None
    tasks: int
    cores: int
    gpus: int
    memory: int

    def as_dict(self) -> Mapping[str, int | None]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """A request without chunks, for schedulers that have none.

    Args:
        lost: Field → the part of the chunks that the other sizes cannot express.
        notes: Differences in meaning, one sentence each.
    """

    request: Request
    lost: Mapping[str, str]
    notes: tuple[str, ...]


def flat(request: Request) -> Flat:
    """Express the chunks of a request, and their placement, by its other sizes."""
    if not request.chunks and request.place is None:
        return Flat(request=request, lost={}, notes=())
    if not request.chunks:
        nodes = 1 if request.place == "pack" and request.nodes is None else request.nodes
        return Flat(
            request=dataclasses.replace(request, nodes=nodes, place=None), lost={}, notes=()
        )
    lost: dict[str, str] = {}
    notes: list[str] = []
    others = sorted({name for chunk in request.chunks for name in chunk.other})
    if others:
        lost["other"] = f"asked for by chunk: {', '.join(others)}"
    sizes = _sizes_of_chunks(request.chunks, request.place or "free", lost, notes)
    cleared: dict[str, Any] = dict.fromkeys(SIZES | MEMORY)
    flattened = dataclasses.replace(request, **{**cleared, **sizes, "chunks": (), "place": None})
    return Flat(request=flattened, lost=lost, notes=tuple(notes))


ALL_MEMORY: Final = "0 is all the memory of each node: write how much that is"

MEMORY: Final = frozenset({"memory", "memory_per_node", "memory_per_core", "memory_per_gpu"})
"""Fields that set the memory of the job."""


def _sizes_of_chunks(
    chunks: tuple[Chunk, ...], place: Place, lost: dict[str, str], notes: list[str]
) -> dict[str, Any]:
    count = sum(chunk.count for chunk in chunks)
    tasks = sum(chunk.count * (chunk.tasks or 1) for chunk in chunks)
    cores = sum(chunk.count * (chunk.cores or chunk.tasks or 1) for chunk in chunks)
    sizes: dict[str, Any] = {"tasks": tasks}
    nodes = {"scatter": count, "pack": 1}.get(place, 1 if count == 1 else None)
    if nodes is not None:
        sizes["nodes"] = nodes
    if len(chunks) == 1 and nodes and nodes > 1:
        sizes["tasks_per_node"] = tasks // nodes
    if any(chunk.cores and chunk.cores < (chunk.tasks or 1) for chunk in chunks):
        lost["chunks"] = f"{tasks} tasks share {cores} cores: here each has a core"
        cores = max(cores, tasks)
    _cores_of_chunks(chunks, tasks, cores, nodes, sizes, lost)
    _gpus_of_chunks(chunks, tasks, nodes, sizes)
    _memory_of_chunks(chunks, nodes, sizes, lost)
    if nodes is None and any((chunk.tasks or 1) > 1 for chunk in chunks):
        notes.append(
            "the tasks of a chunk may run on different hosts: chunks are not kept together"
        )
    if nodes and nodes > 1 and len(chunks) > 1:
        notes.append("the chunks differ: which node gets how many tasks is left to the scheduler")
    return sizes


def _cores_of_chunks(
    chunks: tuple[Chunk, ...],
    tasks: int,
    cores: int,
    nodes: int | None,
    sizes: dict[str, Any],
    lost: dict[str, str],
) -> None:
    if not any(chunk.cores for chunk in chunks):
        return
    each = {max((chunk.cores or 1) / (chunk.tasks or 1), 1.0) for chunk in chunks}
    if len(each) == 1 and cores % tasks == 0:
        sizes["cores_per_task"] = cores // tasks
    elif len(chunks) == 1 and nodes:
        sizes["cores_per_node"] = cores // nodes
    else:
        most = sizes["cores_per_task"] = math.ceil(max(each))
        described = " and ".join(
            f"{chunk.count} of {chunk.cores or 1} cores for {chunk.tasks or 1} tasks"
            for chunk in chunks
        )
        lost["chunks"] = f"{described}: they become {tasks} tasks of {most} cores each"


def _gpus_of_chunks(
    chunks: tuple[Chunk, ...], tasks: int, nodes: int | None, sizes: dict[str, Any]
) -> None:
    gpus = sum(chunk.count * (chunk.gpus or 0) for chunk in chunks)
    alike = len({chunk.gpus or 0 for chunk in chunks}) == 1
    if gpus and nodes and (alike or nodes == 1):
        sizes["gpus_per_node"] = gpus // nodes
    elif gpus and gpus % tasks == 0 and len(chunks) == 1:
        sizes["gpus_per_task"] = gpus // tasks
    elif gpus:
        sizes["gpus"] = gpus


def _memory_of_chunks(
    chunks: tuple[Chunk, ...], nodes: int | None, sizes: dict[str, Any], lost: dict[str, str]
) -> None:
    memory = sum(chunk.count * (chunk.memory or 0) for chunk in chunks)
    alike = len({chunk.memory or 0 for chunk in chunks}) == 1
    if memory and nodes and (alike or nodes == 1):
        sizes["memory_per_node"] = memory // nodes
    elif memory:
        per_core = {
            (chunk.memory or 0) / max(chunk.cores or 1, chunk.tasks or 1) for chunk in chunks
        }
        sizes["memory_per_core"] = math.ceil(max(per_core))
        if len(per_core) > 1:
            lost["memory"] = "chunks differ in memory per core: each core gets the most of them"


_MARK: Final = re.compile(r"\{\{(\w+)\}\}")


def write_name(
    name: str, marks: Mapping[str, str], literal: Callable[[str], str] = str
) -> tuple[str, tuple[str, ...]]:
    """Write a file name of a request with a scheduler's own marks.

    Args:
        marks: Mark without braces → the scheduler's own mark.
        literal: Escapes the text between marks for the scheduler.

    Returns:
        The name without the marks that the scheduler lacks, and these marks.
    """
    parts = _MARK.split(name)
    missing = tuple(mark for mark in parts[1::2] if mark not in marks)
    written = (marks.get(part, "") if i % 2 else literal(part) for i, part in enumerate(parts))
    return "".join(written), missing


def in_folder(folder: str, stream: Literal["o", "e"], *, array: bool) -> str:
    """The file that a scheduler writes into a directory: ``NAME.oID``, in arrays with the index."""
    ids = "{{array_id}}.{{index}}" if array else "{{id}}"
    return f"{folder}{{{{name}}}}.{stream}{ids}"


def take_broken(said: dict[str, Any]) -> dict[str, str]:
    """Remove the fields whose text has several lines, because no directive line can hold it.

    Returns:
        Field → why it is lost.
    """

    def broken(value: object) -> bool:
        parts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
        return any(isinstance(part, str) and len(part.splitlines()) > 1 for part in parts)

    lost = {name: "it has several lines" for name, value in said.items() if broken(value)}
    for name in lost:
        del said[name]
    return lost


def join_dependencies(dependencies: Iterable[Dependency]) -> tuple[Dependency, ...]:
    """Merge neighboring dependencies of the same kind."""
    joined: list[Dependency] = []
    for each in dependencies:
        if joined and joined[-1].kind == each.kind:
            jobs = tuple(dict.fromkeys((*joined[-1].jobs, *each.jobs)))
            joined[-1] = Dependency(kind=each.kind, jobs=jobs)
        else:
            joined.append(each)
    return tuple(joined)


def split_hosts(text: str) -> tuple[str, ...]:
    """Split ``n[1-4,7],login1`` into names; a name with brackets stays in one piece."""
    found = (each.strip() for each in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text))
    return tuple(each for each in found if each)
