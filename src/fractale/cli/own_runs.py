"""Runs that the user did not start: asked about before `resume` or `fork` acts on their record."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fractale.audit import AuditLog
from fractale.cli.options import trust_given
from fractale.cli.render.text import inert
from fractale.settings import Settings
from fractale.settings.own_runs import agree, is_agreed, is_own, not_own, why_not_own

if TYPE_CHECKING:
    from fractale.store.run_record import RunRecord


def check_own(folder: RunRecord, head: Mapping[str, Any], settings: Settings) -> None:
    """See that the user started a run, or agrees to what its record names.

    Raises:
        SettingsError: The user did neither.
    """
    environment = settings.environment
    if is_own(head, environment):
        return
    log, place = AuditLog.of(settings), str(folder.path)
    if by := trust_given(environment):
        log.record("trust", kind="run", path=place, run=folder.run_id, by=by)
        return
    if is_agreed(folder.path, head, environment):
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise not_own(folder.run_id, environment)
    lines = [f"You did not start run {folder.run_id}, or its record was changed: {folder.path}"]
    lines += [f"  imports   {path}" for path in [*_named(head, "registries", "agents")]]
    lines += [f"  plan      {head.get('file') or head.get('plan') or '-'}"]
    lines.append(f"  note      {why_not_own(environment)}")
    for line in lines:
        click.echo(inert(line, 1000), err=True)
    click.echo("Continue with it? [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise not_own(folder.run_id, environment)
    log.record("trust", kind="run", path=place, run=folder.run_id, by="person")
    agree(folder.path, head, environment)


def _named(head: Mapping[str, Any], *keys: str) -> list[str]:
    return [str(each) for key in keys for each in head.get(key) or ()]
