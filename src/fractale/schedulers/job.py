"""A batch job for a scheduler: its command, its resources and its handle after submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from fractale.schedulers.request import Array

JobState = Literal[
    "pending",
    "running",
    "completed",
    "failed",
    "cancelled",
    "timeout",
    "out_of_memory",
    "node_failure",
    "unknown",
]

ELEMENTS: Final = "elements"
"""Directory in an array's directory, with one directory per element that has begun."""

ACTIVE: Final[frozenset[JobState]] = frozenset({"pending", "running"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Confine:
    """A request to confine a job (`fractale.confine`); only local jobs can be confined.

    Args:
        writable: Directories that the job may write to, besides the project's.
        network: Whether the job may open sockets.
        required: Whether to refuse a job of another scheduler, instead of running it unconfined.
    """

    writable: tuple[str, ...] = ()
    network: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """The command of one element, in an array whose elements run different things.

    Args:
        script, command: As in a `JobSpec`: one of the two.
        env: Variables added to those of the whole array.
        folder: The working directory.
        stdin: As in a `JobSpec`.
    """

    folder: Path
    script: str | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    stdin: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """The command of a job, and the resources for it: a script or a program.

    Args:
        name: Name of the job, for people who look at the queue.
        script: Text of a script, run by the program that its ``#!`` names, else by ``sh``.
            Directives for the job's scheduler (``#SBATCH``…) count unless a field here contradicts
            them.
        command: A program and its arguments; started once, on the job's first node.
        nodes: Number of nodes; None: as the script's directives request, else one.
        tasks: Total number of tasks; None as for `nodes`.
        memory: Memory per node, such as ``4G``.
        time: Time limit, in seconds.
        queue: Queue or partition.
        env: Variables set for the script or command.
        folder: The working directory.
        epilogue: A program and its arguments, run inside the job after its end is recorded, however
            it ended. Its output goes to ``epilogue.log`` in the job's directory.
        confine: How to confine the script or command; None: unconfined.
        launcher: Words before the script or command that start it.
        array: One element per index, each with ``FRACTALE_INDEX`` in its environment.
            `fractale.jobs` copies it from the script's own directive before an adapter gets the
            spec.
        elements: Index → command of that element, instead of `script` and `command`, of which only
            the directives then count. Empty: all elements run the same.
        stdin: Text that the script or command reads from its standard input; None: nothing.
        short: Whether it is a short program of this machine: it starts at once, however many local
            jobs there are, directives in its script are comments, and its stdout has a file of its
            own, so that the log is its stderr.
    """

    name: str
    folder: Path
    script: str | None = None
    command: tuple[str, ...] = ()
    nodes: int | None = None
    tasks: int | None = None
    cores_per_task: int | None = None
    gpus_per_task: int | None = None
    memory: str | None = None
    time: float | None = None
    queue: str | None = None
    account: str | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    epilogue: tuple[str, ...] = ()
    confine: Confine | None = None
    launcher: tuple[str, ...] = ()
    array: Array | None = None
    elements: Mapping[int, Element] = field(default_factory=dict[int, Element], repr=False)
    stdin: str | None = field(default=None, repr=False)
    short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHandle:
    """A submitted job, or an element of a submitted array.

    Args:
        scheduler: ``local``, ``slurm``, ``flux``, ``pbs`` or ``lsf``.
        native_id: The scheduler's id of the job.
        key: The caller's idempotency key; the same key is never submitted twice.
        job_dir: Directory of the job: wrapper, log, and the wrapper's evidence.
        confined: The method of confinement, ``bwrap`` or ``landlock``; empty without confinement.
        index: Index of the named element; None: the whole job.
    """

    scheduler: str
    native_id: str
    key: str
    job_dir: Path
    confined: str = ""
    index: int | None = None

    @property
    def own_dir(self) -> Path:
        """The directory with the log and the evidence of the job, or of the named element."""
        if self.index is None:
            return self.job_dir
        return self.job_dir / ELEMENTS / str(self.index)

    @property
    def title(self) -> str:
        """The job's name for users: ``4711``, or ``4711[7]`` for an element of an array."""
        return self.native_id if self.index is None else f"{self.native_id}[{self.index}]"

    @property
    def label(self) -> str:
        """The job's key, with the index of the named element, if any."""
        return self.key if self.index is None else f"{self.key}[{self.index}]"

    def as_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "job_dir": str(self.job_dir)}
        return {
            k: v for k, v in found.items() if k not in ("confined", "index") or v not in ("", None)
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobHandle:
        """Read a handle that `as_dict` wrote.

        Raises:
            ValueError: The data is not a handle.
        """
        names = ("scheduler", "native_id", "key", "job_dir")
        scheduler, native_id, key, job_dir = (data.get(name) for name in names)
        if not all(isinstance(each, str) for each in (scheduler, native_id, key, job_dir)):
            raise ValueError(f"a job's handle has the texts {', '.join(names)}")
        return cls(
            scheduler=str(scheduler),
            native_id=str(native_id),
            key=str(key),
            job_dir=Path(str(job_dir)),
            confined=str(data.get("confined") or ""),
            index=index if isinstance(index := data.get("index"), int) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue or partition.

    Args:
        gpus: Number of GPUs per node.
        memory: Memory per node, in bytes.
        time_limit: In seconds; None without a limit.
        state: ``up``, or the scheduler's name for another state.
    """

    name: str
    nodes: int | None = None
    nodes_idle: int | None = None
    cores_per_node: int | None = None
    gpus: int | None = None
    memory: int | None = None
    time_limit: float | None = None
    state: str = "up"
    default: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
