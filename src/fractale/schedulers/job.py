"""A batch job as a scheduler gets it: what is to run, on what, and what it is called there."""

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
"""Folder in that of an array: it has one for each element that has begun."""

ACTIVE: Final[frozenset[JobState]] = frozenset({"pending", "running"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Confine:
    """That a job is to be confined (`fractale.confine`); only local jobs can be.

    Args:
        writable: Folders that it may write beside the project's.
        network: Whether it may open sockets.
        required: Whether a job of another scheduler is refused, rather than not confined.
    """

    writable: tuple[str, ...] = ()
    network: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """What one element of an array runs, where its elements run different things.

    Args:
        script, command: As those of a `JobSpec`: either of them.
        env: Set beside the variables of the whole array.
        folder: The working folder.
    """

    folder: Path
    script: str | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What is to run, and on what: a script or a command.

    Args:
        name: For people who look at the queue.
        script: The text of a script, run by the program that its ``#!`` names, else by ``sh``.
            Directives of the scheduler that gets it (``#SBATCH``…) count where nothing here says
            otherwise.
        command: A program and its arguments; it is started once, on the job's first node.
        nodes: None asks for what the script's directives ask for, else for one.
        tasks: In all. None as for `nodes`.
        memory: Per node, such as ``4G``.
        time: The limit, in seconds.
        queue: Queue or partition.
        env: Set for the script or command.
        folder: The working folder.
        epilogue: A program and its arguments, run inside the job when it has ended and left its
            evidence, however it ended; what it says goes to ``epilogue.log`` in the job's folder.
        confine: How the script or command is confined; None: it is not.
        launcher: What starts the script or command: words before its own.
        array: One element for each index, each with ``FRACTALE_INDEX`` in its environment.
            `fractale.jobs` fills it from the script's own directive before an adapter sees it.
        elements: Of an array, index → what that element runs, in place of `script` and `command`,
            whose directives then only count. Empty: all run the same.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHandle:
    """A job that was submitted.

    Args:
        scheduler: ``local``, ``slurm``, ``flux``, ``pbs`` or ``lsf``.
        native_id: What the scheduler calls it.
        key: What the caller called it; the same key never is submitted twice.
        job_dir: Its folder: wrapper, log, and the files by which the wrapper says what happened.
        confined: How it is confined, ``bwrap`` or ``landlock``; empty where it is not.
        index: Of the element of an array that is meant; None: the whole job.
    """

    scheduler: str
    native_id: str
    key: str
    job_dir: Path
    confined: str = ""
    index: int | None = None

    @property
    def own_dir(self) -> Path:
        """Where the files of the job are, or of the element that is meant: its log, its end."""
        if self.index is None:
            return self.job_dir
        return self.job_dir / ELEMENTS / str(self.index)

    @property
    def title(self) -> str:
        """What people call it: ``4711``, or ``4711[7]`` for an element of an array."""
        return self.native_id if self.index is None else f"{self.native_id}[{self.index}]"

    @property
    def label(self) -> str:
        """Its key, and where an element is meant also that."""
        return self.key if self.index is None else f"{self.key}[{self.index}]"

    def as_dict(self) -> dict[str, Any]:
        """The handle as JSON."""
        found = {**asdict(self), "job_dir": str(self.job_dir)}
        return {
            k: v for k, v in found.items() if k not in ("confined", "index") or v not in ("", None)
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobHandle:
        """The handle that `as_dict` wrote.

        Raises:
            ValueError: It is no handle.
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
        gpus: Per node.
        memory: Per node, in bytes.
        time_limit: In seconds; None for none.
        state: ``up``, or what the scheduler says instead.
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
        """The queue as JSON."""
        return asdict(self)
