"""Before the first run of a plan that the user has not agreed to: show all of it, and ask.

A plan runs commands as the user. One that came from elsewhere deserves a look first. The user has
agreed to a plan if its file, with the plans that it includes, is as they agreed to it; if it lies
in the directory of a project whose settings they trust; or if they trust every plan of a
directory. A plan that another user may write to counts only as it is.
"""

from __future__ import annotations

import os
import shlex
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from fractale.audit import AuditLog
from fractale.cli import options
from fractale.errors import PlanError, UsageError
from fractale.plan.check import check_plan
from fractale.plan.model import Plan
from fractale.private import fault_of
from fractale.settings import Settings, TrustStore, trust_store
from fractale.settings.trust import digest_of
from fractale.settings.waiting import changes

EVERY_PLAN: Final = "every plan in this directory"
"""In place of a digest, in the entry of a directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a plan is to be run with.

    Args:
        yes: Agree without being asked; the plan is shown all the same.
    """

    settings: Settings
    inputs: Mapping[str, Any]
    registries: Sequence[Path] = ()
    agents: Sequence[str] = ()
    yes: bool = False


def look_at(plan: Plan, given: Given) -> None:
    """Show a plan that the user has not agreed to, and ask, if there is a terminal to do so.

    Raises:
        PlanError: The plan is invalid.
        InputError: The inputs are not those that it takes.
        UsageError: The user does not agree.
        SettingsError: The user's trust store cannot be used.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or plan.file.startswith("<"):
        return
    environment = given.settings.environment
    if options.trust_given(environment):
        return  # as the audit log says on the run's own line
    store, digest = trust_store(environment), plan_digest(plan)
    if is_agreed(plan, store, digest):
        return
    if errors := [each for each in check_plan(plan) if each.severity == "error"]:
        raise PlanError(errors)
    before = store.find("plan", plan.file)
    described = description(plan, given.settings)
    click.echo("\n".join(shown_lines(plan, given)), err=True)
    if before is not None:
        click.echo("changed since you agreed to it:", err=True)
        changed = changes(before.shown, described) or ["only comments, layout or names"]
        click.echo("\n".join(f"  {line}" for line in changed), err=True)
    folder = Path(os.path.realpath(plan.file)).parent
    word = "y" if given.yes else _asked(plan, folder)
    log, by = AuditLog.of(given.settings), "yes" if given.yes else "person"
    if word in ("a", "all") and _is_mine(folder):
        log.record("trust", kind="plans", path=str(folder), by=by)
        store.add("plan", folder, EVERY_PLAN, shown=EVERY_PLAN)
    elif word not in ("y", "yes"):
        raise UsageError(
            f"{plan.file} was not run",
            hint=f"if you agree to it: fractale trust {shlex.quote(plan.file)}",
        )
    place = os.path.realpath(plan.file)
    log.record("trust", kind="plan", path=place, digest=digest, by=by)
    store.add("plan", plan.file, digest, shown=described)


def _asked(plan: Plan, folder: Path) -> str:
    """The word that the user answers with."""
    from fractale.cli.render.questions import exact

    termios.tcflush(sys.stdin, termios.TCIFLUSH)  # what was typed before is no answer to this
    click.echo(
        f"{exact(plan.file)} runs all this as you, and you have not agreed to it yet.\n"
        f"Answer `a` to trust every plan in {exact(str(folder))}, also when it changes.\n"
        "Run it? [y/a/N] ",
        nl=False,
        err=True,
    )
    return sys.stdin.readline().strip().lower()


def agree(plan: Plan, settings: Settings) -> list[str]:
    """Keep that the user agrees to a plan as it is; what it would do, in lines.

    Raises:
        SettingsError: The user's trust store cannot be used.
    """
    shown = description(plan, settings)
    trust_store(settings.environment).add("plan", plan.file, plan_digest(plan), shown=shown)
    return shown.split("\n")


def plan_digest(plan: Plan) -> str:
    """A hash of what a plan and the plans that it includes say, and of where they are."""
    from fractale.plan.dump import dump_plan

    plans = (plan, *_included(plan))
    parts = [f"{os.path.realpath(each.file)}\n{dump_plan(each)}" for each in plans]
    return digest_of("\0".join(parts).encode("utf-8", "backslashreplace"))


def _included(plan: Plan) -> Iterator[Plan]:
    for step in plan.walk():
        if step.plan is not None:
            yield step.plan
            yield from _included(step.plan)


def is_agreed(plan: Plan, store: TrustStore, digest: str) -> bool:
    """Whether the user agreed to a plan: to the file as it is, or to its directory."""
    if store.holds("plan", plan.file, digest):
        return True
    files = [Path(os.path.realpath(each.file)) for each in (plan, *_included(plan))]
    folders = list(_trusted_folders(store))
    return all(_is_mine(file) and any(f in file.parents for f in folders) for file in files)


def _trusted_folders(store: TrustStore) -> Iterator[Path]:
    for entry in store.entries():
        path = Path(entry.path)
        if entry.kind == "plan" and entry.digest == EVERY_PLAN:
            yield path
        elif entry.kind == "project" and _has(path, entry.digest):
            yield path.parent.parent  # PROJECT/.fractale/config.yaml


def _has(path: Path, digest: str) -> bool:
    try:
        return digest_of(path.read_bytes()) == digest
    except OSError:
        return False


def _is_mine(file: Path) -> bool:
    try:
        return fault_of(file.stat()) is None
    except OSError:
        return False


def description(plan: Plan, settings: Settings) -> str:
    """What a plan would do, with nothing of one run's inputs, to tell later what changed."""
    from fractale.cli.dry_run import describe, text_lines

    return "\n".join(text_lines(plan, describe(plan, None, settings, (), ())))


def shown_lines(plan: Plan, given: Given) -> list[str]:
    """A plan as it is shown before its first run."""
    from fractale.cli.dry_run import describe, shown_inputs, text_lines

    inputs = shown_inputs(plan, given.inputs)
    found = describe(plan, inputs, given.settings, given.registries, given.agents)
    return ["", *text_lines(plan, found), ""]
