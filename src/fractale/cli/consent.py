"""Ask the user before anything that they have not agreed to acts in their name.

- `ask_about_project`: a project's settings, before they are used.
- `ask_about_plan`: a plan, before its first run, since a plan runs commands as the user.
- `ask_about_sweep`: a sweep file with its table and its plan, before it starts.
- `ask_about_run`: a run that the user did not start, before `resume`, `fork` or `cancel` acts on
  its record.
- `ask_about_config`: a directory's ``langgraph.json``, which names the Python code that Studio's
  server imports.

`fractale.runs.agreement` says when the user has agreed to a plan.

Each function asks on a terminal, stores the answer in the user's trust store, and writes it to the
audit log. Without a terminal a plan runs without a question, since the author of the command line
named it. The other three are refused.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from fractale.audit import AuditLog
from fractale.cli import options
from fractale.errors import PlanError, UsageError
from fractale.plan.check import check_plan
from fractale.plan.model import Plan
from fractale.runs.agreement import EVERY_PLAN, is_agreed, is_mine, plan_digest, sweep_digest
from fractale.settings import (
    Settings,
    TrustStore,
    UntrustedProject,
    changes_of,
    decide_for_children,
    load_settings,
    own_runs,
    trust_file,
    trust_store,
    untrusted_lines,
)
from fractale.settings.trust import digest_of
from fractale.settings.waiting import changes

if TYPE_CHECKING:
    from fractale.runs.workspace import Extensions
    from fractale.store.run_record import RunRecord
    from fractale.sweeps.begin import Prepared

_IMPORTED: Final = re.compile(r"[^\s:]+:[A-Za-z_]\w*")


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _answer(question: str) -> str:
    click.echo(question, nl=False, err=True)
    return sys.stdin.readline().strip().lower()


def _agrees(question: str) -> bool:
    return _answer(f"{question} [y/N] ") in ("y", "yes")


# -- a project's settings -------------------------------------------------------------------------


def ask_about_project(settings: Settings, *, check_state: bool = True) -> Settings:
    """Ask whether the project's settings may be used; returns the settings after the answer.

    Args:
        settings: Settings of which some wait for trust.
        check_state: As in `load_settings`.

    Raises:
        UntrustedProject: The process has no terminal to ask on.
    """
    from fractale.render.text import inert

    assert settings.project is not None and settings.project.config is not None  # noqa: S101, PT018 - something waits
    file, environment = settings.project.config, settings.environment
    if settings.declined:
        return settings
    changed = changes_of(file, environment)
    if not _on_terminal():
        raise UntrustedProject(file.path, settings.waiting, changed)
    for line in untrusted_lines(file.path, settings.waiting, changed):
        click.echo(inert(line, lines=True), err=True)
    agreed = _agrees("Do you trust this file?")
    if agreed:
        AuditLog.of(settings).record(
            "trust", kind="project", path=str(file.path), digest=file.digest, by="person"
        )
        trust_file(file, environment)
    else:
        click.echo("continuing without these settings", err=True)
    decide_for_children(file, trusted=agreed)
    return load_settings(untrusted="narrow", check_state=check_state)


# -- a plan ---------------------------------------------------------------------------------------


def ask_about_plan(
    plan: Plan,
    settings: Settings,
    inputs: Mapping[str, Any],
    extensions: Extensions,
    *,
    yes: bool = False,
    shown: Callable[[], list[str]] | None = None,
) -> None:
    """Show a plan that the user has not agreed to, and ask if there is a terminal.

    Args:
        inputs, extensions: The inputs and the extensions of the run.
        shown: Returns the lines to show; None: those of one run.
        yes: Agree without a question; the plan is shown nevertheless.

    Raises:
        PlanError: The plan is invalid.
        InputError: The inputs are not those of the plan.
        UsageError: The user does not agree.
        SettingsError: The user's trust store cannot be used.
    """
    if not _on_terminal() or plan.file.startswith("<"):
        return
    if options.trust_given(settings.environment):
        return  # the audit log's line of the run records this
    store, digest = trust_store(settings.environment), plan_digest(plan)
    if is_agreed(plan, store, digest):
        return
    if errors := [each for each in check_plan(plan) if each.severity == "error"]:
        raise PlanError(errors)
    _ask_about_file(
        plan.file,
        digest,
        shown=shown() if shown else _shown_plan(plan, settings, inputs, extensions),
        described=_description(plan, settings),
        store=store,
        settings=settings,
        yes=yes,
    )


def ask_about_sweep(
    prepared: Prepared, settings: Settings, extensions: Extensions, *, yes: bool = False
) -> None:
    """Show a sweep that the user has not agreed to, and ask if there is a terminal.

    Without a sweep file, it asks about the plan only, since the user wrote the rest. The rows are
    shown in both cases.

    Args:
        extensions: Of the runs.
        yes: Agree without a question; the sweep is shown nevertheless.

    Raises:
        UsageError: The user does not agree.
        SettingsError: The user's trust store cannot be used.
    """
    spec, plan = prepared.spec, prepared.plan

    def shown() -> list[str]:
        return ["", *_shown_sweep(prepared, settings, extensions), ""]

    if spec.file is None:
        ask_about_plan(plan, settings, prepared.first_inputs, extensions, yes=yes, shown=shown)
        return
    if not _on_terminal() or options.trust_given(settings.environment):
        return
    store, digest = trust_store(settings.environment), digest_of_sweep(prepared)
    if is_agreed(plan, store, digest, file=spec.file, table=spec.file_table):
        return
    _ask_about_file(
        spec.file,
        digest,
        shown=shown(),
        described=_described_sweep(prepared, settings),
        store=store,
        settings=settings,
        yes=yes,
    )


def agree_to_sweep(prepared: Prepared, settings: Settings) -> list[str]:
    """Record that the user agrees to a sweep file in its present form, with its plan and table.

    Returns:
        Lines that say what the sweep would do.

    Raises:
        SettingsError: The user's trust store cannot be used.
    """
    digest, file = digest_of_sweep(prepared), prepared.spec.file
    assert file is not None  # noqa: S101 - the caller has read it
    described = _described_sweep(prepared, settings)
    trust_store(settings.environment).add("plan", file, digest, shown=described)
    return _shown_sweep(prepared, settings, None)


def digest_of_sweep(prepared: Prepared) -> str:
    """A hash of a sweep file with its table and its plan, as an agreement has it."""
    spec = prepared.spec
    return sweep_digest(str(spec.file), spec.file_text, spec.file_table, prepared.plan)


def _shown_sweep(
    prepared: Prepared, settings: Settings, extensions: Extensions | None
) -> list[str]:
    from fractale.render.sweep_dry_run import sweep_text_lines
    from fractale.sweeps.dry_run import describe_sweep

    return sweep_text_lines(prepared, describe_sweep(prepared, settings, extensions))


def _described_sweep(prepared: Prepared, settings: Settings) -> str:
    """The sweep file and its plan's effects as text, to show later what has changed."""
    lines = [prepared.spec.file_text]
    if (table := prepared.spec.file_table) is not None:
        lines.append(f"table with the SHA-256 {digest_of(Path(table).read_bytes())}")
    return "\n".join([*lines, _description(prepared.plan, settings)])


def _ask_about_file(
    file: str,
    digest: str,
    *,
    shown: Sequence[str],
    described: str,
    store: TrustStore,
    settings: Settings,
    yes: bool,
) -> None:
    """Show what a plan or a sweep file would do, ask, and record the answer.

    Args:
        shown: The lines to show.
        described: The text to keep, from which later changes are found.

    Raises:
        UsageError: The user does not agree.
    """
    before = store.find("plan", file)
    click.echo("\n".join(shown), err=True)
    if before is not None:
        click.echo("changed since you agreed to it:", err=True)
        changed = changes(before.shown, described) or ["only comments, layout or names"]
        click.echo("\n".join(f"  {line}" for line in changed), err=True)
    directory = Path(os.path.realpath(file)).parent
    word = "y" if yes else _word_about(file, directory)
    log, by = AuditLog.of(settings), "yes" if yes else "person"
    if word in ("a", "all") and is_mine(directory):
        log.record("trust", kind="plans", path=str(directory), by=by)
        store.add("plan", directory, EVERY_PLAN, shown=EVERY_PLAN)
    elif word not in ("y", "yes"):
        raise UsageError(
            f"{file} was not run",
            hint=f"if you agree to it: fractale trust {shlex.quote(file)}",
        )
    log.record("trust", kind="plan", path=os.path.realpath(file), digest=digest, by=by)
    store.add("plan", file, digest, shown=described)


def _word_about(file: str, directory: Path) -> str:
    from fractale.render.questions import exact

    termios.tcflush(sys.stdin, termios.TCIFLUSH)  # earlier input cannot be an answer to this
    return _answer(
        f"{exact(file)} would run all this as you, and you have not agreed to it yet.\n"
        f"Answer `a` to trust every plan in {exact(str(directory))}, also when it changes.\n"
        "Run it? [y/a/N] "
    )


def agree_to_plan(plan: Plan, settings: Settings) -> list[str]:
    """Record that the user agrees to the plan in its present form.

    Returns:
        Lines that say what the plan would do.

    Raises:
        SettingsError: The user's trust store cannot be used.
    """
    shown = _description(plan, settings)
    trust_store(settings.environment).add("plan", plan.file, plan_digest(plan), shown=shown)
    return shown.split("\n")


def _description(plan: Plan, settings: Settings) -> str:
    """The plan's effects as text, without inputs, to show later what has changed."""
    from fractale.render.dry_run import text_lines
    from fractale.runs.dry_run import describe

    return "\n".join(text_lines(plan, describe(plan, None, settings)))


def _shown_plan(
    plan: Plan, settings: Settings, inputs: Mapping[str, Any], extensions: Extensions
) -> list[str]:
    from fractale.render.dry_run import text_lines
    from fractale.runs.dry_run import describe, shown_inputs

    found = describe(plan, shown_inputs(plan, inputs), settings, extensions)
    return ["", *text_lines(plan, found), ""]


# -- a run that the user did not start ------------------------------------------------------------


def ask_about_run(record: RunRecord, head: Mapping[str, Any], settings: Settings) -> None:
    """Check that the user started a run, or agrees to the code that its record names.

    Raises:
        SettingsError: The user neither started the run nor agrees.
    """
    from fractale.render.text import inert

    environment = settings.environment
    if own_runs.is_own(head, environment):
        return
    log, place = AuditLog.of(settings), str(record.path)
    if by := options.trust_given(environment):
        log.record("trust", kind="run", path=place, run=record.run_id, by=by)
        return
    if own_runs.is_agreed(record.path, head, environment):
        return
    if not _on_terminal():
        raise own_runs.not_own(record.run_id, environment)
    named = [str(each) for key in ("registries", "agents") for each in head.get(key) or ()]
    lines = [f"You did not start run {record.run_id}, or its record was changed: {record.path}"]
    lines += [f"  imports   {path}" for path in named]
    lines += [f"  plan      {head.get('file') or head.get('plan') or '-'}"]
    lines.append(f"  note      {own_runs.why_not_own(environment)}")
    for line in lines:
        click.echo(inert(line, 1000), err=True)
    if not _agrees("Continue with it?"):
        raise own_runs.not_own(record.run_id, environment)
    log.record("trust", kind="run", path=place, run=record.run_id, by="person")
    own_runs.agree(record.path, head, environment)


# -- the code that Studio's server imports --------------------------------------------------------


def ask_about_config(settings: Settings) -> None:
    """Ask about the directory's ``langgraph.json``, unless the user agreed to its present form.

    Raises:
        UsageError: The user does not agree, or the process has no terminal to ask on.
        SettingsError: The user's trust store cannot be used.
    """
    from fractale.studio.launch import CONFIG

    file = Path(CONFIG)
    if not file.is_file():
        return
    log, place = AuditLog.of(settings), str(file.resolve())
    if by := options.trust_given(settings.environment):
        log.record("trust", kind="registry", path=place, by=by)
        return
    store, digest = trust_store(settings.environment), config_digest(file)
    if store.holds("registry", file, digest):
        return
    lines = _shown_config(file)
    refused = UsageError(
        "\n".join([*lines, "you have not agreed to this yet"]),
        hint=f"look at these files, then: fractale trust {CONFIG}\nor for once: --trust-project",
    )
    if not _on_terminal():
        raise refused
    click.echo("\n".join(lines), err=True)
    if not _agrees("Do you trust these files?"):
        raise UsageError("the server was not started", hint=refused.hint)
    log.record("trust", kind="registry", path=place, digest=digest, by="person")
    store.add("registry", file, digest, shown="\n".join(lines))


def agree_to_config(file: Path, settings: Settings) -> list[str]:
    """Record that the user agrees to a ``langgraph.json`` in its present form.

    Returns:
        Lines that say what the file imports.

    Raises:
        UsageError: The file is damaged.
        SettingsError: The user's trust store cannot be used.
    """
    lines, digest = _shown_config(file), config_digest(file)
    trust_store(settings.environment).add("registry", file, digest, shown="\n".join(lines))
    return lines


def _shown_config(file: Path) -> list[str]:
    from fractale.render.questions import exact
    from fractale.studio.launch import read_config

    config = read_config(file)
    named = [f"  imports {exact(place)}" for place in _imported(config)]
    named += [f"  reads variables from {exact(name)}" for name in _variables(config)]
    return [f"for Studio's server, {exact(str(file.resolve()))}", *named]


def config_digest(file: Path) -> str:
    """A hash of a ``langgraph.json`` and of the files that it names."""
    from fractale.studio.launch import read_config

    config = read_config(file)
    files = {place.rpartition(":")[0] for place in _imported(config)} | set(_variables(config))
    parts = [file.read_bytes()]
    for name in sorted(files):
        path = file.parent / name
        parts.append(name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b""))
    return digest_of(b"\0\0".join(parts))


def _imported(value: Any) -> list[str]:
    """Every ``FILE.py:NAME`` or ``MODULE:NAME`` anywhere in a value."""
    if isinstance(value, str):
        return [value] if _IMPORTED.fullmatch(value) else []
    if isinstance(value, dict):
        inner = list(cast("dict[str, Any]", value).values())
    else:
        inner = cast("list[Any]", value) if isinstance(value, list) else []
    return sorted({place for each in inner for place in _imported(each)})


def _variables(config: Mapping[str, Any]) -> list[str]:
    """The file from which the server reads environment variables, if `config` names one."""
    return [config["env"]] if isinstance(config.get("env"), str) else []
