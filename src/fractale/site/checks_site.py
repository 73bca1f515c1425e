"""What the site offers in general, where no plan says what is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fractale.plan.model import JobPlan, Template
from fractale.schedulers.dialects import NAMES as SCHEDULERS
from fractale.site.calls import jobs_of
from fractale.site.case import Case
from fractale.site.checks_needs import BINDINGS, see_scheduler
from fractale.site.model import Check, Finding, words_of
from fractale.site.schedulers import chosen_scheduler
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
"""Feature → the findings that can give it, and what is said where none of them is there."""


async def check_site(case: Case) -> list[Check]:
    """A line for each thing of a feature that is there, and one for each feature that is not."""
    if not case.is_general:
        return await _jobs(case)
    checks: list[Check] = []
    for feature, (names, none) in FEATURES.items():
        findings = [case.site.find(name) for name in names]
        there = [each for each in findings if each.state != "absent"]
        checks += [_found(case, feature, each) for each in there]
        if not there:
            fix = _get(case, names[0])
            check = Check(section=SECTION, what=feature, verdict="warning", found=none, fix=fix)
            checks.append(check)
    return checks


def _get(case: Case, name: str) -> str:
    need = case.needs.needs.get(name)
    return need.get if need else ""


def _found(case: Case, feature: str, finding: Finding) -> Check:
    what = feature if feature == finding.name else f"{feature} {finding.name}"
    if finding.state == "works":
        return Check(section=SECTION, what=what, found=words_of(finding))
    return Check(
        section=SECTION,
        what=what,
        verdict="warning",
        found=words_of(finding),
        fix=_get(case, finding.name),
    )


async def _jobs(case: Case) -> list[Check]:
    """Where the plan's jobs would go: a scheduler that answers, queues that there are."""
    jobs = jobs_of(case.plan, case.inputs) if case.plan else []
    named = [each.job.scheduler for each in jobs]
    checks: list[Check] = []
    # What only the run will tell (a template) may be anything.
    if any(name is None for name in named):
        checks.append(await scheduler_check(case, None))
    known = sorted({name for name in named if isinstance(name, str)})
    checks += [await scheduler_check(case, name) for name in known]
    for each in jobs:
        checks += check_queue(case, each.step, each.job)
    return checks


async def scheduler_check(case: Case, name: str | None) -> Check:
    """Whether jobs can be submitted.

    Args:
        name: The scheduler that a step names; None: the one that is taken where none is named.
    """
    works, found = await see_scheduler(case, name)
    what = f"scheduler {name}" if name else "scheduler"
    if works:
        return Check(section=SECTION, what=what, found=found)
    taken = name or chosen_scheduler(case.settings)
    lacks = BINDINGS.get(taken, taken) if case.site.find(taken).state == "works" else taken
    fix = _get(case, lacks)
    return Check(section=SECTION, what=what, verdict="missing", found=found, fix=_or(case, fix))


def _or(case: Case, fix: str) -> str:
    """What else would do: a scheduler that answers, or none."""
    works = [name for name in SCHEDULERS if case.site.find(name).state == "works"]
    return f"{fix}; or name `scheduler: {works[0] if works else 'local'}`"


def check_queue(case: Case, step: str, job: JobPlan) -> list[Check]:
    """Whether the queue that a step names is there, and takes jobs as long as the step's."""
    if not isinstance(job.queue, str):
        return []  # none, or a template that only the run can fill in
    if isinstance(job.scheduler, Template):
        return []
    name = str(job.scheduler or chosen_scheduler(case.settings))
    works = [f for f in [case.site.find(name)] if f.state == "works"]
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
                found=f"{works[0].name} has no such queue; there are {listed}",
                fix=did_you_mean(job.queue, known, otherwise="name one of them"),
                needed_by=(f"step {step}",),
            )
        ]
    limit = known[job.queue].get("time_limit")
    if limit and isinstance(job.time, int | float) and job.time > limit:
        found = f"takes jobs of at most {limit / 60:g} min, and the step asks for {job.time / 60:g}"
        fix = "ask for less `time`, or name another queue"
        by = (f"step {step}",)
        return [
            Check(section=SECTION, what=what, verdict="missing", found=found, fix=fix, needed_by=by)
        ]
    return [Check(section=SECTION, what=what, found=f"{works[0].name} has it")]
