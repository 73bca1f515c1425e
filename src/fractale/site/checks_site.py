"""What the site offers in general, where no plan says what is needed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fractale.plan.model import JobPlan, Plan
from fractale.site.case import Case
from fractale.site.checks_tools import words_of
from fractale.site.model import Check, Finding

SECTION = "site"

SCHEDULERS = ("slurm", "flux", "pbs", "lsf")

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
        return _jobs(case)
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


def _jobs(case: Case) -> list[Check]:
    """Where the plan's jobs would go: a scheduler that answers, queues that there are."""
    jobs = list(_job_steps(case.plan)) if case.plan else []
    if not jobs:
        return []
    checks: list[Check] = []
    wanted = {str(job.scheduler) for _, job in jobs if isinstance(job.scheduler, str)}
    if any(job.scheduler is None for _, job in jobs):
        findings = [case.site.find(name) for name in SCHEDULERS]
        checks.append(scheduler_check(case, [f for f in findings if f.state != "absent"]))
    checks += [_named_scheduler(case, name) for name in sorted(wanted - {"local"})]
    for name, job in jobs:
        checks += check_queue(case, name, job)
    return checks


def _job_steps(plan: Plan) -> Iterator[tuple[str, JobPlan]]:
    """The job steps of a plan and of the plans that it includes."""
    for step in plan.walk():
        if step.job is not None:
            yield step.name, step.job
        if step.plan is not None:
            yield from _job_steps(step.plan)


def _named_scheduler(case: Case, name: str) -> Check:
    finding = case.site.find(name)
    works = finding.state == "works"
    return Check(
        section=SECTION,
        what=f"scheduler {name}",
        verdict="ok" if works else "missing",
        found=words_of(finding),
        fix="" if works else _get(case, name),
    )


def check_queue(case: Case, step: str, job: JobPlan) -> list[Check]:
    """Whether the queue that a step names is there, and takes jobs as long as the step's."""
    if not isinstance(job.queue, str):
        return []  # none, or a template that only the run can fill in
    names = [job.scheduler] if isinstance(job.scheduler, str) else list(SCHEDULERS)
    works = [f for n in names if (f := case.site.find(n)).state == "works"]
    queues: list[dict[str, Any]] = list(works[0].details.get("queues", ())) if works else []
    if not queues:
        return []
    known = {str(queue.get("name")): queue for queue in queues}
    what = f"queue {job.queue}"
    if job.queue not in known:
        near = difflib.get_close_matches(job.queue, known, 1)
        listed = ", ".join(list(known)[:8])
        return [
            Check(
                section=SECTION,
                what=what,
                verdict="missing",
                found=f"{works[0].name} has no such queue; there are {listed}",
                fix=f"did you mean `{near[0]}`?" if near else "name one of them",
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


def scheduler_check(case: Case, there: Sequence[Finding]) -> Check:
    """A scheduler that works, or none at all, will do; one that does not answer won't."""
    works = [each for each in there if each.state == "works"]
    if works:
        names = ", ".join(f"{each.name} {each.version}".strip() for each in works)
        return Check(section=SECTION, what="scheduler", found=names)
    if not there:
        found = FEATURES["scheduler"][1]
        return Check(section=SECTION, what="scheduler", found=found)
    return Check(
        section=SECTION,
        what=f"scheduler {there[0].name}",
        verdict="missing",
        found=there[0].problem,
        fix=_get(case, there[0].name),
    )
