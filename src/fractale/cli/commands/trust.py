"""``fractale trust``: the project settings and plans that may act in the user's name."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fractale.audit import FILE, AuditLog
from fractale.errors import UsageError
from fractale.plain import to_json
from fractale.private import fault_of
from fractale.render.text import inert
from fractale.settings import (
    Project,
    SettingsFile,
    TrustStore,
    changes_of,
    find_project,
    load_settings,
    trust_file,
    trust_store,
    untrusted_lines,
    waiting_of,
)
from fractale.settings.files import user_folder


@click.command("trust")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--show", is_flag=True, help="List what you trust, and what waits for your trust.")
@click.option("--remove", is_flag=True, help="Stop trusting PATH.")
@click.option("--plans", is_flag=True, help="Trust every plan in the directory PATH.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(path: Path | None, *, show: bool, remove: bool, plans: bool, as_json: bool) -> None:
    """Trust the settings of the project in PATH (default: the working directory), or a plan.

    A project's `.fractale/config.yaml` may name servers to start, addresses to send keys to, and
    calls to allow. fractale uses these settings only once you have trusted the file. If the file
    changes, fractale asks again. Your decisions are stored in `~/.config/fractale/trust.json`.

    On a terminal, `fractale run` shows each plan that you have not trusted yet, and asks before
    its first run.

    \b
    fractale trust              show the waiting settings of this project, and trust them
    fractale trust plan.yaml    show what this plan does, and trust its present content
    fractale trust --plans .    trust every plan in this directory, also after changes
    fractale trust --show       list what you trust, and what waits for your trust
    fractale trust --remove .   stop trusting this project and its plans
    """
    if show + remove + plans > 1:
        raise UsageError("--show, --remove and --plans exclude each other", hint="give one of them")
    environment = dict(os.environ)
    store = trust_store(environment)
    if remove:
        data = _remove(store, path or Path(), _log(environment))
    elif show:
        data = _show(store, path or Path(), environment)
    elif plans:
        data = _trust_plans(store, path or Path(), _log(environment))
    elif path is not None and path.is_file() and not _is_config(path):
        data = _trust_plan(path, _log(environment))
    else:
        data = _trust(path or Path(), environment)
    if as_json:
        click.echo(to_json(data["json"], indent=2))
    else:
        click.echo("\n".join(inert(line, lines=True) for line in data["lines"]))


def _log(environment: dict[str, str]) -> AuditLog:
    """The audit log in the working directory's state directory, which is not created for it.

    If the user does not own a state directory there, lines are written beside the trust store.
    """
    settings = load_settings(environment, untrusted="narrow", check_state=False)
    directory = settings.state_dir
    kept = directory.is_dir() and not directory.is_symlink() and not fault_of(directory.stat())
    log = AuditLog.of(settings, kept=kept)
    return log if kept else replace(log, files=(user_folder(environment) / FILE, *log.files))


def _remove(store: TrustStore, path: Path, log: AuditLog) -> dict[str, Any]:
    count = store.remove(path)
    if not count:
        raise UsageError(
            f"{path.resolve()} is not trusted", hint="list what you trust: fractale trust --show"
        )
    log.record("trust", removed=count, path=str(path.resolve()), by="command")
    return {
        "json": {"removed": count, "path": str(path.resolve())},
        "lines": [f"no longer trusted: {path.resolve()}"],
    }


def _show(store: TrustStore, path: Path, environment: dict[str, str]) -> dict[str, Any]:
    entries = store.entries()
    lines = [f"trusted ({store.path})"]
    lines += [f"  {each.kind:<8} {each.path}  since {each.at}" for each in entries] or ["  nothing"]
    waiting: list[dict[str, str]] = []
    project = find_project(path.resolve(), environment)
    file = project.config
    waits = waiting_of(file, environment) if file else ()
    if file and waits and not store.holds("project", file.path, file.digest):
        waiting = [_row(each) for each in waits]
        lines += ["", *untrusted_lines(file.path, waits, changes_of(file, environment))]
        lines += [f"to trust it: fractale trust {path}"]
    lines += [f"! {words}" for words in project.passed_over]
    trusted = [{"kind": e.kind, "path": e.path, "digest": e.digest, "at": e.at} for e in entries]
    data = {"trusted": trusted, "waiting": waiting, "passed_over": list(project.passed_over)}
    return {"json": data, "lines": lines}


def _trust(path: Path, environment: dict[str, str]) -> dict[str, Any]:
    project = _project_at(path, environment)
    file = _file_of(project, path)
    waits = waiting_of(file, environment)
    if waits:
        lines = untrusted_lines(file.path, waits, changes_of(file, environment))
        _log(environment).record(
            "trust", kind="project", path=str(file.path), digest=file.digest, by="command"
        )
        trust_file(file, environment)
        lines += ["", f"trusted: {file.path}", f"undo: fractale trust --remove {project.directory}"]
    else:
        lines = [f"no setting in {file.path} waits for your trust"]
    rows = [_row(each) for each in waits]
    return {"json": {"path": str(file.path), "trusted": rows}, "lines": lines}


def _is_config(path: Path) -> bool:
    return path.resolve().parent.name == ".fractale"


def _trust_plan(path: Path, log: AuditLog) -> dict[str, Any]:
    from fractale.cli import consent
    from fractale.plan.build import load_plan
    from fractale.studio.launch import CONFIG as STUDIO_CONFIG
    from fractale.sweeps.begin import prepare
    from fractale.sweeps.sweep_file import read_sweep_file

    settings = load_settings(untrusted="narrow", check_state=False)
    place = path.resolve()
    if path.name == STUDIO_CONFIG:
        digest = consent.config_digest(path)
        log.record("trust", kind="registry", path=str(place), digest=digest, by="command")
        lines = consent.agree_to_config(path, settings)
    else:
        spec = read_sweep_file(path)
        prepared = prepare(spec, settings) if spec else None
        plan = prepared.plan if prepared else load_plan(path)
        digest = consent.digest_of_sweep(prepared) if prepared else consent.plan_digest(plan)
        log.record("trust", kind="plan", path=str(place), digest=digest, by="command")
        if prepared:
            lines = consent.agree_to_sweep(prepared, settings)
        else:
            lines = consent.agree_to_plan(plan, settings)
    lines += ["", f"trusted: {place}", f"undo: fractale trust --remove {shlex.quote(str(path))}"]
    return {"json": {"path": str(place), "kind": "plan"}, "lines": lines}


def _trust_plans(store: TrustStore, path: Path, log: AuditLog) -> dict[str, Any]:
    from fractale.cli.consent import EVERY_PLAN

    place = path.resolve()
    if not place.is_dir():
        raise UsageError(f"{path} is not a directory", hint="for one plan: fractale trust PLAN")
    if why := fault_of(place.stat()):
        raise UsageError(f"{place} cannot be trusted: {why}", hint=f"chmod go-w {place}")
    log.record("trust", kind="plans", path=str(place), by="command")
    store.add("plan", place, EVERY_PLAN, shown=EVERY_PLAN)
    lines = [f"trusted: every plan in {place}", f"undo: fractale trust --remove {place}"]
    return {"json": {"path": str(place), "kind": "plan"}, "lines": lines}


def _project_at(path: Path, environment: dict[str, str]) -> Project:
    """The project that a path names: its directory, its ``.fractale``, or its settings file."""
    place = path.resolve()
    if not place.exists():
        raise UsageError(f"{path} does not exist")
    if place.is_file():
        place = place.parent
    return find_project(place.parent if place.name == ".fractale" else place, environment)


def _file_of(project: Project, path: Path) -> SettingsFile:
    if project.config is None:
        passed = "".join(f"\n{words}" for words in project.passed_over)
        raise UsageError(
            f"no settings file of a project found from {path.resolve()}{passed}",
            hint="name the directory that contains `.fractale/config.yaml`",
        )
    return project.config


def _row(each: Any) -> dict[str, str]:
    return {"key": each.key, "value": each.value, "effect": each.effect}
