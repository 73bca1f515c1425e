"""What was found, and what that means for somebody who needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast

State: TypeAlias = Literal["works", "broken", "absent"]
Verdict: TypeAlias = Literal["ok", "missing", "warning"]

MARKS: Mapping[Verdict, str] = {"ok": "✓", "missing": "✗", "warning": "!"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one probe found of one thing.

    Args:
        name: ``slurm``, ``docker``, ``home``.
        state: ``works`` only where something answered; ``broken`` where it is there and does not.
        path: The program, or the folder.
        evidence: What was asked, in words, so that a reader knows what ``works`` stands on.
        problem: Why it does not work.
        details: What else is known of it, as JSON.
    """

    name: str
    state: State = "works"
    version: str = ""
    path: str = ""
    evidence: str = ""
    problem: str = ""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; what is not known is left out."""
        told = {
            "version": self.version,
            "path": self.path,
            "evidence": self.evidence,
            "problem": self.problem,
        }
        known = {key: value for key, value in told.items() if value}
        return {"name": self.name, "state": self.state, **known, **self.details}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """What `as_dict` gave."""
        own = ("name", "state", "version", "path", "evidence", "problem")
        fields = {key: str(data[key]) for key in own if key in data}
        details = {key: value for key, value in data.items() if key not in own}
        return replace(cls(name=""), **cast("dict[str, Any]", fields), details=details)


def absent(name: str, why: str) -> Finding:
    """A thing that is not there."""
    return Finding(name=name, state="absent", problem=why)


def words_of(finding: Finding) -> str:
    """A finding in one line, without its name."""
    if finding.state != "works":
        return finding.problem
    return ", ".join(part for part in (finding.version, finding.evidence) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What was found on one machine.

    Args:
        looked: When, in Unix time.
        seconds: How long that took.
        sections: ``schedulers`` → its findings, and so on.
        cached: Whether it was read from the state folder.
    """

    host: str
    looked: float
    seconds: float
    sections: Mapping[str, tuple[Finding, ...]]
    cached: bool = False

    @property
    def machine(self) -> Finding:
        """The machine itself."""
        return next(iter(self.sections.get("machine", ())), absent(self.host, "not looked at"))

    def find(self, name: str) -> Finding:
        """The finding of that name; an absent one if it was not looked for."""
        for findings in self.sections.values():
            for finding in findings:
                if finding.name == name:
                    return finding
        return absent(name, "it was not looked for")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: every section is a list of findings."""
        sections = {
            section: [finding.as_dict() for finding in findings]
            for section, findings in self.sections.items()
        }
        return {
            "version": 1,
            "host": self.host,
            "looked": self.looked,
            "seconds": self.seconds,
            "cached": self.cached,
            "sections": sections,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Site:
        """What `as_dict` gave, as read from the cache.

        Raises:
            KeyError, TypeError, ValueError: It is not of that form.
        """
        sections = {
            str(section): tuple(Finding.from_dict(finding) for finding in findings)
            for section, findings in dict(data["sections"]).items()
        }
        return cls(
            host=str(data["host"]),
            looked=float(data["looked"]),
            seconds=float(data["seconds"]),
            sections=sections,
            cached=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor.

    Args:
        section: ``plan``, ``tools``, ``servers``, ``model``, ``runs``, ``packages``, ``site``,
            ``rules``.
        what: What was looked at.
        verdict: ``missing`` is needed and not there; ``warning`` is not there and may not be
            needed, or can't be told.
        found: What was found, in words.
        fix: How to get it; empty where nothing is to be done.
        needed_by: Steps or tools that need it.
    """

    section: str
    what: str
    verdict: Verdict = "ok"
    found: str = ""
    fix: str = ""
    needed_by: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "section": self.section,
            "what": self.what,
            "verdict": self.verdict,
            "found": self.found,
            "fix": self.fix,
            "needed_by": list(self.needed_by),
        }
