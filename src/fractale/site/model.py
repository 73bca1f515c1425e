"""Findings of the probes, and the lines of the doctor's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast

State: TypeAlias = Literal["works", "broken", "absent"]
Verdict: TypeAlias = Literal["ok", "missing", "warning"]

MARKS: Mapping[Verdict, str] = {"ok": "✓", "missing": "✗", "warning": "!"}


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


def words_of(finding: Finding) -> str:
    """Describe a finding in one line, without its name."""
    if finding.state != "works":
        return finding.problem
    return ", ".join(part for part in (finding.version, finding.evidence) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The findings for one machine.

    Args:
        looked: Time of the probes, as Unix time.
        seconds: Duration of the probes.
        sections: Section, such as ``schedulers``, → its findings.
        cached: Whether the findings come from the cache in the state directory.
    """

    host: str
    looked: float
    seconds: float
    sections: Mapping[str, tuple[Finding, ...]]
    cached: bool = False

    @property
    def machine(self) -> Finding:
        """The finding about the machine itself."""
        return next(iter(self.sections.get("machine", ())), absent(self.host, "not examined"))

    def find(self, name: str) -> Finding:
        """The finding with a name; an absent one if no probe looked for it."""
        for findings in self.sections.values():
            for finding in findings:
                if finding.name == name:
                    return finding
        return absent(name, "it was not examined")

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: every section is a list of findings."""
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
        """Read a site from the data of `as_dict`, such as the cache.

        Raises:
            KeyError, TypeError, ValueError: The data has another form.
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
    """One line of the doctor's report.

    Args:
        section: ``plan``, ``tools``, ``servers``, ``model``, ``runs``, ``packages``, ``site``,
            ``rules``.
        what: The thing that was examined.
        verdict: ``missing``: needed and not present; ``warning``: not present and may not be
            needed, or unknown.
        found: The finding, as text.
        fix: How to get it; empty if you need not do anything.
        needed_by: Steps or tools that need the thing.
    """

    section: str
    what: str
    verdict: Verdict = "ok"
    found: str = ""
    fix: str = ""
    needed_by: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "section": self.section,
            "what": self.what,
            "verdict": self.verdict,
            "found": self.found,
            "fix": self.fix,
            "needed_by": list(self.needed_by),
        }
