"""``fractale resume``: continue a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from fractale.cli import options
from fractale.errors import FractaleError, RunHeld, UsageError

if TYPE_CHECKING:
    from fractale.runs import RunOptions, RunResult, Workspace
    from fractale.runs.ready import Looked, ReadyRun
    from fractale.settings import Settings
    from fractale.store.run_record import RunRecord

WELL: Final = (0, 4)
"""Exit codes of a run without an error: it succeeded, or it waits again."""


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of runs, for shell completion."""
    from fractale.settings import load_settings
    from fractale.store.run_record import RunRecords

    ids = RunRecords(load_settings(untrusted="narrow").state_dir).ids()
    return [run_id for run_id in ids if run_id.startswith(incomplete)]


@click.command("resume", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", required=False, shell_complete=complete_runs)
@options.reply_options
@options.model_options
@options.store_option
@options.run_options
@options.detach_option
@click.option(
    "--ready",
    is_flag=True,
    help="Resume every run whose batch job has ended, or whose time has come; for cron.",
)
@options.collected
def command(run_id: str | None, *, ready: bool, given: options.CommandLine) -> int:
    """Resume RUN from its last checkpoint; -1 is the latest run.

    \b
    fractale resume k7f3a
    fractale resume k7f3a --limit tokens=100000
    fractale resume -1 --answer submit=yes
    fractale resume --ready

    --answer answers the questions that the run waits for now, --answers also later ones. --ready
    does not wait for jobs or times: a run that submits its next job ends, and waits for it without
    a process. --ready returns 0 if no resumed run failed; it writes no outputs to stdout.
    """
    if (run_id is None) != ready:
        words = "no run was named" if run_id is None else "RUN and --ready exclude each other"
        raise UsageError(words, hint="use `fractale resume RUN` or `fractale resume --ready`")
    if ready and given.output is not None:
        raise UsageError(
            "--output and --ready exclude each other", hint="name the run: fractale resume RUN"
        )
    settings = given.settings(acts=True)
    if run_id is None:
        return resume_ready(replace(given, detach=True, gives_outputs=False), settings)
    return resume(given, settings, run_id)


def resume(given: options.CommandLine, settings: Settings, run_id: str) -> int:
    """Resume a run; returns the exit code."""
    from fractale.cli.consent import ask_about_run
    from fractale.cli.running import run_in_workspace, secrets_of
    from fractale.runs.actions import check_waiting
    from fractale.runs.changes import unchanged_plan
    from fractale.runs.preflight import check_answers
    from fractale.runs.workspace import as_started
    from fractale.store.run_record import RunRecords

    record = RunRecords(settings.state_dir).find(run_id)
    head = record.read_head()
    ask_about_run(record, head, settings)
    check_waiting(record, given.replies)
    settings, extensions = as_started(settings, head)
    plan = unchanged_plan(record, head)
    check_answers({**given.answers, **given.replies}, plan)
    secrets = secrets_of(plan, settings)
    if _has_ended(record):
        unused = ", ".join(f"`{name}`" for name in given.replies)
        words = f"; no question waits for the answer to {unused}" if unused else ""
        _say(f"run {record.run_id} has already ended; nothing was run{words}", given)

    async def begin(workspace: Workspace, run_options: RunOptions) -> RunResult:
        return await workspace.runs.resume(run_id, run_options, plan=plan, secrets=secrets)

    return run_in_workspace(replace(given, extensions=extensions), settings, plan, begin)


def _has_ended(record: RunRecord) -> bool:
    last = next(record.events_from_end(("run_started", "run_finished")), None)
    return last is not None and last.get("status") in ("success", "failed")


def resume_ready(given: options.CommandLine, settings: Settings) -> int:
    """Resume each run whose batch job has ended or whose time has come, one after the other.

    Returns:
        0, or the first exit code that is not in `WELL`.
    """
    from fractale.runs.ready import look

    found = look(settings)
    if not found.ready:
        _say(_nothing_ready(found), given)
        return 0
    codes = [_resume_one(given, settings, run) for run in found.ready]
    return next((code for code in codes if code not in WELL), 0)


def _nothing_ready(found: Looked) -> str:
    if not found.waiting and not found.timed:
        return "no run is waiting for a job or a time"
    from fractale.render.text import count, exactly

    parts: list[str] = []
    if found.waiting:
        jobs = count(sum(found.waiting.values()), "job")
        parts.append(f"{count(len(found.waiting), 'run')} waiting for {jobs}")
    if found.timed:
        first = exactly(min(found.timed.values()))
        runs = count(len(found.timed), "run")
        parts.append(f"{runs} waiting until {first}{' or later' if len(found.timed) > 1 else ''}")
    return f"no run is ready: {', '.join(parts)}"


def _resume_one(given: options.CommandLine, settings: Settings, ready: ReadyRun) -> int:
    from fractale.render.problems import show_error

    _say(f"{ready.run}: {ready.why}", given)
    try:
        return resume(given, settings, ready.run)
    except RunHeld:
        _say(f"{ready.run}: another process is running it", given)
        return 0
    except FractaleError as error:  # the other runs can still be resumed
        return show_error(error)


def _say(words: str, given: options.CommandLine) -> None:
    if not given.quiet:
        click.echo(words, err=True)
