"""What is known of a batch job, whichever scheduler has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fractale.schedulers.job import ACTIVE, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What is known about a job, and from what.

    Args:
        reason: In words: why it waits, where it runs, how it ended, with what shows it.
        evidence: ``exit-code file``, ``scontrol``, ``sacct``, ``job-completion file``, ``flux``,
            ``qstat``, ``bjobs``, ``log``, ``boot id``, ``start file``, or ``none``.
        exit_code: Of the script or command; None if it has none, or none is known.
        submitted: Seconds since 1970, as the others.
        last_lines: The end of the log, of a job that did not do its work.
        counts: Of an array, state → how many of its elements are so.
        notices: What of the job's request did not count with its scheduler, a sentence each.
    """

    state: JobState
    reason: str
    evidence: str = "none"
    exit_code: int | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    nodes: tuple[str, ...] = ()
    last_lines: str = ""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    notices: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself, as far as can be known."""
        return self.state not in ACTIVE

    @property
    def seconds(self) -> float | None:
        """How long it ran, if both ends are known."""
        if self.started is None or self.ended is None:
            return None
        return max(0.0, self.ended - self.started)

    def as_dict(self) -> dict[str, Any]:
        """The status as JSON, with `over` and `seconds`."""
        found: dict[str, Any] = {
            **asdict(self),
            "nodes": list(self.nodes),
            "over": self.over,
            "seconds": self.seconds,
        }
        for name in ("counts", "notices"):  # few jobs have any
            if not found[name]:
                del found[name]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLog:
    """A part of a job's log.

    Args:
        offset: Where the text begins, in bytes.
        next_offset: Where to read on.
        size: Of the whole log now, in bytes.
    """

    text: str
    offset: int
    next_offset: int
    size: int
