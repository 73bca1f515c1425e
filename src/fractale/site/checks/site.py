"""Check a site's features in general, without a plan that names its needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fractale.findings import Finding
from fractale.plan.model import JobPlan, Template
from fractale.schedulers.homes import NAMES as SCHEDULERS
from fractale.site.checks.needs import BINDINGS, chosen_scheduler, see_scheduler
from fractale.site.examination import Examination
from fractale.site.model import Check, words_of
from fractale.site.plan_uses import jobs_of
from fractale.text import did_you_mean

SECTION = "site"

FEATURES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "scheduler": (
        SCHEDULERS,
        "none: jobs run as processes of this machine",
    ),
    "containers": (
        ("podman", "buildah", "docker", "apptainer", "singularity", "charliecloud"),
        "none that works",
    ),
    "spack": (("spack",), "not here"),
    "modules": (("modules",), "not here"),
    "kubernetes": (("kubernetes",), "not here"),
    "mpi": (("mpi",), "not here"),
}
"""Feature → the findings that provide it, and the text if all of them are absent."""


async def check_site(exam: Examination) -> list[Check]:
    """Return one line per available part of a feature, and one per missing feature."""
    if not exam.is_general:
        return await _jobs(exam)
    checks: list[Check] = []
    for feature, (names, none) in FEATURES.items():
        findings = [exam.site.find(name) for name in names]
        there = [each for each in findings if each.state != "absent"]
        checks += [_found(exam, feature, each) for each in there]
        if not there:
            fix = _get(exam, names[0])
            check = Check(section=SECTION, what=feature, verdict="warning", found=none, fix=fix)
            checks.append(check)
    return checks


def _get(exam: Examination, name: str) -> str:
    need = exam.needs.needs.get(name)
    return need.get if need else ""


def _found(exam: Examination, feature: str, finding: Finding) -> Check:
    what = feature if feature == finding.name else f"{feature} {finding.name}"
    if finding.state == "works":
        return Check(section=SECTION, what=what, found=words_of(finding))
    return Check(
        section=SECTION,
        what=what,
        verdict="warning",
        found=words_of(finding),
        fix=_get(exam, finding.name),
    )


async def _jobs(exam: Examination) -> list[Check]:
    """Check where the plan's jobs would go: the scheduler answers and its queues exist."""
    jobs = jobs_of(exam.plan, exam.inputs) if exam.plan else []
    named = [each.job.scheduler for each in jobs]
    checks: list[Check] = []
    # A scheduler from a template is known only during the run: it may be any.
    if any(name is None for name in named):
        checks.append(await scheduler_check(exam, None))
    known = sorted({name for name in named if isinstance(name, str)})
    checks += [await scheduler_check(exam, name) for name in known]
    for each in jobs:
        checks += check_queue(exam, each.step, each.job)
    return checks


async def scheduler_check(exam: Examination, name: str | None) -> Check:
    """Check whether jobs can be submitted.

    Args:
        name: The scheduler that a step names; None for the default scheduler.
    """
    works, found = await see_scheduler(exam, name)
    what = f"scheduler {name}" if name else "scheduler"
    if works:
        return Check(section=SECTION, what=what, found=found)
    taken = name or chosen_scheduler(exam.settings)
    lacks = BINDINGS.get(taken, taken) if exam.site.find(taken).state == "works" else taken
    fix = _get(exam, lacks)
    return Check(section=SECTION, what=what, verdict="missing", found=found, fix=_or(exam, fix))


def _or(exam: Examination, fix: str) -> str:
    """Add an alternative to a fix: a scheduler that answers, otherwise local processes."""
    works = [name for name in SCHEDULERS if exam.site.find(name).state == "works"]
    other = f"name `scheduler: {works[0] if works else 'local'}`"
    return f"{fix}; or {other}" if fix else other


def check_queue(exam: Examination, step: str, job: JobPlan) -> list[Check]:
    """Check that a step's queue exists and that its time limit allows the step's jobs."""
    if not isinstance(job.queue, str):
        return []  # no queue, or a template that only the run can fill in
    if isinstance(job.scheduler, Template):
        return []
    name = str(job.scheduler or chosen_scheduler(exam.settings))
    works = [f for f in [exam.site.find(name)] if f.state == "works"]
    queues: list[dict[str, Any]] = list(works[0].details.get("queues", ())) if works else []
    if not queues:
        return []
    known = {str(queue.get("name")): queue for queue in queues}
    what = f"queue {job.queue}"
    if job.queue not in known:
        listed = ", ".join(list(known)[:8])
        return [
            Check(
                section=SECTION,
                what=what,
                verdict="missing",
                found=f"{works[0].name} has no such queue; its queues are {listed}",
                fix=did_you_mean(job.queue, known, otherwise="name one of them"),
                needed_by=(f"step {step}",),
            )
        ]
    limit = known[job.queue].get("time_limit")
    if limit and isinstance(job.time, int | float) and job.time > limit:
        found = f"allows at most {limit / 60:g} min, and the step asks for {job.time / 60:g}"
        fix = "ask for less `time`, or name another queue"
        by = (f"step {step}",)
        return [
            Check(section=SECTION, what=what, verdict="missing", found=found, fix=fix, needed_by=by)
        ]
    return [Check(section=SECTION, what=what, found=f"{works[0].name} has it")]
