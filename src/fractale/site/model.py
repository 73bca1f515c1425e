"""All findings of a machine, and the lines of the doctor's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from fractale.findings import Finding, absent

Verdict: TypeAlias = Literal["ok", "missing", "warning"]

MARKS: Mapping[Verdict, str] = {"ok": "✓", "missing": "✗", "warning": "!"}


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
