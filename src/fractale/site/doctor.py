"""The doctor: look for everything that a plan, a registry or a server file needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fractale.errors import FractaleError, PlanError, Problem
from fractale.masking import Masker
from fractale.registry import Registry, load_registry
from fractale.settings import Settings
from fractale.site.checks import plan as checks_plan
from fractale.site.checks import tools as checks_tools
from fractale.site.checks.model import check_model
from fractale.site.checks.needs import check_needs, check_scripts
from fractale.site.checks.packages import check_packages
from fractale.site.checks.rules import check_rules
from fractale.site.checks.runs import check_runs
from fractale.site.checks.site import FEATURES, check_site
from fractale.site.discover import discover, machine_of
from fractale.site.examination import Examination
from fractale.site.model import Check
from fractale.site.needs import NeedsTable, load_needs
from fractale.site.plan_uses import NamedTargets, named_by
from fractale.site.programs import TIMEOUT

SECTIONS = ("plan", "tools", "servers", "model", "runs", "packages", "site", "rules")
"""Sections of the report, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The doctor's report."""

    checks: tuple[Check, ...]

    @property
    def missing(self) -> int:
        """Number of things that are needed and missing."""
        return sum(1 for check in self.checks if check.verdict == "missing")

    @property
    def warnings(self) -> int:
        """Number of things that are missing and may not be needed."""
        return sum(1 for check in self.checks if check.verdict == "warning")

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.missing,
            "missing": self.missing,
            "warnings": self.warnings,
            "checks": [check.as_dict() for check in self.checks],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The request: what the doctor should examine.

    Args:
        plan: Path of a plan.
        registries: Registry files for the run.
        server_files: Files for ``fractale serve``.
        agents: Sub-agents by dotted path.
        inputs: Values of the plan's inputs; other inputs have their defaults.
    """

    plan: str | None = None
    registries: Sequence[Path] = ()
    server_files: Sequence[Path] = ()
    agents: Sequence[str] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])


async def examine(
    settings: Settings,
    wanted: Wanted,
    *,
    online: bool = False,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - of each answer
) -> Report:
    """Look for everything that is needed. A failed check becomes a line of the report.

    Args:
        online: Whether to ask models, which costs some tokens.
        timeout: Seconds until a program or server must answer.
    """
    checks: list[Check] = []
    needs = _needs(settings, checks)
    registries = _load(wanted.registries, checks)
    served = _load(wanted.server_files, checks)
    plan, problems = _plan(wanted.plan, checks)
    place = machine_of(settings, timeout)
    general = wanted.plan is None and not wanted.registries and not wanted.server_files
    features = {name for names, _ in FEATURES.values() for name in names}
    site = await discover(place, features if general else _asked(needs, plan))
    exam = Examination(
        settings=settings,
        place=place,
        site=site,
        needs=needs,
        plan=plan,
        wanted=wanted.plan,
        registries=registries,
        served=served,
        agents=wanted.agents,
        online=online,
        inputs=wanted.inputs,
    )
    checks += await _examine(exam, problems)
    checks = _masked(settings, checks)
    return Report(checks=tuple(sorted(checks, key=lambda check: SECTIONS.index(check.section))))


def examine_rules(settings: Settings) -> Report:
    """Check a site's security rules."""
    return Report(checks=tuple(_masked(settings, check_rules(settings))))


def _masked(settings: Settings, checks: Iterable[Check]) -> list[Check]:
    mask = Masker(settings.secrets).text
    return [replace(each, found=mask(each.found), fix=mask(each.fix)) for each in checks]


def _asked(needs: NeedsTable, plan: Any) -> Collection[str]:
    """The findings that the table of needs refers to; with schedulers, if there may be jobs."""
    schedulers = FEATURES["scheduler"][0] if plan is not None else ()
    return needs.findings().union(schedulers)


async def _examine(exam: Examination, problems: Sequence[Problem]) -> list[Check]:
    named = named_by(exam.plan, exam.inputs)
    # Import the entries one by one, before the checks: Python imports a module once per process.
    own = await checks_tools.load_entries(exam.registries, served=False)
    served = await checks_tools.load_entries(exam.served, served=True)
    # A tools file without a plan needs neither a model nor a state directory.
    runs = exam.is_general or exam.wanted is not None
    parts = await asyncio.gather(
        _part("plan", checks_plan.check_plan_file(exam, problems)),
        _part("tools", _tools(exam, [*own, *served], named)),
        _part("servers", _offers(exam, [*own, *served], named)),
        _part("servers", checks_plan.check_served(exam)),
        _part("model", check_model(exam) if runs else _nothing()),
        _part("runs", check_runs(exam) if runs else _nothing()),
        _part("packages", check_packages(exam)),
        _part("site", check_site(exam)),
    )
    return [check for part in parts for check in part]


async def _tools(
    exam: Examination, loaded: Sequence[checks_tools.Loaded], named: NamedTargets
) -> list[Check]:
    files = checks_tools.files_of([*exam.registries, *exam.served])
    imports = checks_tools.check_imports(loaded, exam.needs)
    agents = checks_tools.own_agents(named, loaded)
    needs = await check_needs(exam, [*loaded, *agents], named)
    return [*files, *imports, *needs, *check_scripts(exam, named)]


async def _offers(
    exam: Examination, loaded: Sequence[checks_tools.Loaded], named: NamedTargets
) -> list[Check]:
    """Connect to servers for a run or a general check; a tools file without a plan needs none."""
    if exam.plan is None and not exam.is_general:
        return []
    return await checks_plan.check_offers(exam, loaded, named)


async def _nothing() -> list[Check]:
    return []


async def _part(section: str, part: Awaitable[list[Check]]) -> list[Check]:
    """Run one part of the examination; an exception becomes its line."""
    try:
        return await part
    except FractaleError as error:
        found, fix = error.message, error.hint or ""
    except Exception as error:  # noqa: BLE001 - reported as a failed examination
        found = f"could not be examined: {type(error).__name__}: {error}"
        fix = "this is a fault of fractale: please report it"
    return [Check(section=section, what=section, verdict="missing", found=found, fix=fix)]


def _needs(settings: Settings, checks: list[Check]) -> NeedsTable:
    own = settings.state_dir / "needs.yaml"
    try:
        return load_needs(own)
    except FractaleError as error:
        found, fix = error.message, error.hint or ""
        checks.append(
            Check(section="tools", what=str(own), verdict="warning", found=found, fix=fix)
        )
        return load_needs()


def _load(paths: Sequence[Path], checks: list[Check]) -> list[Registry]:
    """Load the files that can be read; report every problem of the others."""
    loaded: list[Registry] = []
    for path in paths:
        try:
            loaded.append(load_registry(path))
        except PlanError as error:
            checks += [_file_problem(str(path), problem) for problem in error.problems]
    return loaded


def _file_problem(path: str, problem: Problem) -> Check:
    near = problem.suggestion
    return Check(
        section="tools",
        what=str(problem.position or path),
        verdict="missing",
        found=problem.message,
        fix=f"did you mean `{near}`?" if near else "",
    )


def _plan(path: str | None, checks: list[Check]) -> tuple[Any, list[Problem]]:
    """Read the plan without its servers; returns the plan if it is valid, and its problems."""
    if path is None:
        return None, []
    from fractale.plan.check import file_problems

    try:
        plan, problems = file_problems(path)
    except FractaleError as error:
        found, fix = error.message, error.hint or ""
        checks.append(Check(section="plan", what=path, verdict="missing", found=found, fix=fix))
        return None, []
    valid = not any(problem.severity == "error" for problem in problems)
    return (plan if valid else None), problems
