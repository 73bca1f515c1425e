"""Check that the programs and packages that tools and job scripts need are available."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from fractale.agents.catalog import BUILT_IN
from fractale.findings import Finding
from fractale.jobs import Jobs
from fractale.registry.calls import in_thread
from fractale.registry.imports import import_fault
from fractale.schedulers.homes import flux_of
from fractale.settings import Settings
from fractale.site.checks.packages import version_of
from fractale.site.checks.tools import SECTION, Loaded
from fractale.site.examination import Examination
from fractale.site.model import Check, words_of
from fractale.site.needs import BY_FINDINGS, Need
from fractale.site.plan_uses import NamedTargets, Unknown, jobs_of, programs_of

LOCAL, AUTO = "local", "auto"
BINDINGS = {"flux": "flux-python"}
"""Scheduler → the Python package that jobs need in addition to its programs."""


async def check_needs(
    exam: Examination, loaded: Sequence[Loaded], named: NamedTargets
) -> list[Check]:
    """Return one line per requirement of the tools: programs, engines, modules, extras."""
    users: dict[str, list[Loaded]] = {}
    needed: dict[str, Need] = {}
    for each in loaded:
        path = BUILT_IN[each.instead][0] if each.instead else each.entry.path
        for need in exam.needs.of(path):
            users.setdefault(need.name, []).append(each)
            needed[need.name] = need
    return [
        await _need(exam, need, users[name], named)
        for name, need in needed.items()
        if not _told_of_jobs(exam, need, users[name], named)
    ]


def _told_of_jobs(
    exam: Examination, need: Need, users: Sequence[Loaded], named: NamedTargets
) -> bool:
    """Whether a need is the scheduler of the plan's job steps, which has its own line."""
    if need.kind != "scheduler" or exam.plan is None:
        return False
    schedulers = [each.job.scheduler for each in jobs_of(exam.plan, exam.inputs)]
    names = [name for each in users for name in each.names]
    return all(name in schedulers for name in _chosen(need, names, named))


async def _need(
    exam: Examination, need: Need, users: Sequence[Loaded], named: NamedTargets
) -> Check:
    names = [name for each in users for name in each.names]
    surely = [n for each in users for n in each.names if _is_needed(exam, each, n, named)]
    works, found = await _seen(exam, need, _chosen(need, surely or names, named))
    if works:
        return Check(section=SECTION, what=need.name, found=found, needed_by=tuple(names))
    reason = "" if surely else _why_not_surely(named)
    return Check(
        section=SECTION,
        what=need.name,
        verdict="missing" if surely else "warning",
        found=f"{need.what}: {found}{reason}",
        fix=need.get,
        needed_by=tuple(surely or names),
    )


def _chosen(need: Need, tools: Sequence[str], named: NamedTargets) -> list[str | None]:
    """The targets of a need that the plan's calls name; None for a call that names no target."""
    given = named.arguments(tools, need.chosen_by) if need.chosen_by else []
    known = [None if isinstance(each, Unknown) or each in ("", AUTO) else each for each in given]
    return list(dict.fromkeys(str(each) if each else None for each in known)) or [None]


async def _seen(exam: Examination, need: Need, chosen: Sequence[str | None]) -> tuple[bool, str]:
    """Whether a need is met for each target that calls name."""
    seen = [await _seen_one(exam, need, name) for name in chosen]
    failed = [found for works, found in seen if not works]
    return not failed, "; ".join(dict.fromkeys(failed or [found for _, found in seen]))


async def _seen_one(exam: Examination, need: Need, chosen: str | None) -> tuple[bool, str]:
    if need.kind == "scheduler":
        return await see_scheduler(exam, chosen)
    if chosen is not None and chosen in need.targets:
        return _by_findings(need, [exam.site.find(chosen)])
    return await see(exam, need)


def _is_needed(exam: Examination, each: Loaded, name: str, named: NamedTargets) -> bool:
    """Whether the plan names a tool; without a plan, every tool that is not optional is needed."""
    if exam.plan is None:
        return not each.entry.optional
    return any(fnmatchcase(name, pattern) for pattern in _bare(named.names))


def _bare(names: Iterable[str]) -> list[str]:
    """Names with and without their server prefix."""
    return [form for name in names for form in (name, name.removeprefix("local."))]


def _why_not_surely(named: NamedTargets) -> str:
    if named.free:
        return f"; only if the model of `{named.free[0]}` calls a tool that needs it"
    return "; no step of the plan names a tool that needs it"


async def see(exam: Examination, need: Need) -> tuple[bool, str]:
    """Check whether a need is met; also return a description of the findings."""
    if need.kind == "scheduler":
        return await see_scheduler(exam, None)
    if need.kind in BY_FINDINGS:
        return _by_findings(need, [exam.site.find(name) for name in need.targets])
    target = need.targets[0]
    if need.kind == "program":
        return await _program(exam, target)
    if need.kind == "module":
        fault = await in_thread(lambda: import_fault(target))
        return not fault, fault or f"`{target}` can be imported"
    missing = [name for name in need.targets if version_of(name) is None]
    if missing:
        return False, f"not installed: {', '.join(missing)}"
    return True, f"{', '.join(need.targets)} are installed"


async def _program(exam: Examination, name: str) -> tuple[bool, str]:
    path = exam.place.which(name)
    if path is None:
        return False, f"no `{name}` on the PATH"
    version = await exam.place.version(path, "--version")
    return True, f"{version}, {path}" if version else path


def _by_findings(need: Need, findings: Sequence[Finding]) -> tuple[bool, str]:
    """For kind `any`, one working target is enough; otherwise the first one present must work."""
    if need.kind == "any":
        works = [f"{each.name} {words_of(each)}" for each in findings if each.state == "works"]
        if works:
            return True, works[0]
        there = [each for each in findings if each.state != "absent"]
        return False, "; ".join(f"{each.name}: {each.problem}" for each in there or findings)
    for finding in findings:
        if finding.state != "absent":
            return finding.state == "works", words_of(finding)
    return False, "; ".join(finding.problem for finding in findings)


def chosen_scheduler(settings: Settings) -> str:
    """The scheduler for jobs that name none; ``local`` if the machine has none."""
    return Jobs.of(settings).scheduler


async def see_scheduler(exam: Examination, name: str | None) -> tuple[bool, str]:
    """Check whether jobs can be submitted, and to which scheduler.

    Args:
        name: The scheduler by name; None for the one that fractale chooses automatically.
    """
    taken = name or chosen_scheduler(exam.settings)
    if taken == LOCAL:
        none = "" if name else "none: "
        return True, f"{none}jobs run as processes of this machine"
    finding = exam.site.find(taken)
    if finding.state != "works":
        return False, f"{taken}: {words_of(finding)}"
    also = exam.needs.needs.get(BINDINGS.get(taken, ""))
    # The bindings of the site's own Flux suffice, whatever this Python has installed.
    if also and await flux_of(exam.place.environment).bindings():
        works, found = await see(exam, also)
        if not works:
            return False, f"{taken} {finding.version}, without {also.what}: {found}"
    return True, f"{finding.name} {finding.version}".strip()


# The programs of scripts


def check_scripts(exam: Examination, named: NamedTargets) -> list[Check]:
    """Return one line per program that the scripts of a plan's jobs start.

    A program that is not on the PATH here may be on the PATH of the machine that runs the job.
    """
    if exam.plan is None:
        return []
    scripts = [(job.step, job.script) for job in jobs_of(exam.plan, exam.inputs)]
    scripts += [(call.step, str(call.arguments.get("script") or "")) for call in named.calls]
    users: dict[str, list[str]] = {}
    for step, script in scripts:
        for program in programs_of(script):
            users.setdefault(program, []).append(f"step {step}")
    return [_script_program(exam, name, steps) for name, steps in users.items()]


def _script_program(exam: Examination, name: str, steps: Sequence[str]) -> Check:
    by = tuple(dict.fromkeys(steps))
    what = f"program {name}"
    if path := exam.place.which(name):
        return Check(section=SECTION, what=what, found=path, needed_by=by)
    need = exam.needs.program(name)
    return Check(
        section=SECTION,
        what=what,
        verdict="warning",
        found="not on the PATH here; the job needs it where it runs",
        fix=need.get if need else "load it in the job's script, or name it by its path",
        needed_by=by,
    )
