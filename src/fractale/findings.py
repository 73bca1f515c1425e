"""Findings of a probe on a machine, and the questions that it can ask the machine.

A probe only reads, and never raises: it reports that a thing works, is broken (with the reason),
or is absent. `fractale.site` runs the probes.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, cast

State: TypeAlias = Literal["works", "broken", "absent"]
MOST_NODES = 200
"""How many nodes of a scheduler are reported, or groups of equal nodes."""

VERSION = re.compile(r"\d+(?:\.\d+)+[\w.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A probe's finding about one thing.

    Args:
        name: Such as ``slurm``, ``docker``, ``home``.
        state: ``works`` only if it answered; ``broken`` if it is present and did not answer.
        path: The program, or the directory.
        evidence: The question that was asked, as text: it shows what ``works`` is based on.
        problem: Why it does not work.
        details: Further facts, as JSON.
    """

    name: str
    state: State = "works"
    version: str = ""
    path: str = ""
    evidence: str = ""
    problem: str = ""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data without unknown fields."""
        fields = {
            "version": self.version,
            "path": self.path,
            "evidence": self.evidence,
            "problem": self.problem,
        }
        known = {key: value for key, value in fields.items() if value}
        return {"name": self.name, "state": self.state, **known, **self.details}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """Read a finding from the data of `as_dict`."""
        own = ("name", "state", "version", "path", "evidence", "problem")
        fields = {key: str(data[key]) for key in own if key in data}
        details = {key: value for key, value in data.items() if key not in own}
        return replace(cls(name=""), **cast("dict[str, Any]", fields), details=details)


def absent(name: str, why: str) -> Finding:
    """A finding for something that is not present."""
    return Finding(name=name, state="absent", problem=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramAnswer:
    """A program's answer.

    Args:
        problem: Empty after exit code 0; otherwise the cause, in the program's words if possible.
    """

    out: str = ""
    err: str = ""
    problem: str = ""

    @property
    def lines(self) -> list[str]:
        """The non-empty lines of its standard output."""
        return [line for line in self.out.splitlines() if line.strip()]


class ProbedMachine(Protocol):
    """The machine as a probe sees it: `fractale.site.programs.Machine`."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for the programs, with the PATH to search."""
        ...

    def which(self, *names: str) -> str | None:
        """The path of the first of the programs that is on the PATH."""
        ...

    async def run(self, *words: str, slow: bool = False) -> ProgramAnswer:
        """Run a program without input; end it after the time limit.

        Args:
            slow: The program is known to take long.
        """
        ...

    async def version(self, *words: str) -> str:
        """The version that a program prints; empty if it prints none."""
        ...


SchedulerProbe: TypeAlias = Callable[[ProbedMachine], Awaitable[Finding]]
"""Looks for a scheduler: `probe` in the module `site` of its package."""


def version_in(text: str) -> str:
    """The first text that looks like a version."""
    found = VERSION.search(text)
    return found[0].rstrip(".") if found else ""
