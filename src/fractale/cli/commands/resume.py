"""``fractale resume``: go on with a run."""

from __future__ import annotations

from pathlib import Path

import click

from fractale.cli import options
from fractale.errors import UsageError


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of runs, for shell completion."""
    from fractale.settings import load_settings
    from fractale.store.run_record import RunRecords

    ids = RunRecords(load_settings(untrusted="narrow").state_dir).ids()
    return [run_id for run_id in ids if run_id.startswith(incomplete)]


@click.command("resume", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", required=False, shell_complete=complete_runs)
@options.answer_options
@options.model_options
@options.store_option
@options.run_options
@options.detach_option
@click.option(
    "--ready", is_flag=True, help="Go on with every run whose batch job has ended; for cron."
)
def command(
    run_id: str | None,
    answers_file: Path | None,
    answers: tuple[str, ...],
    backend: str | None,
    model: str | None,
    max_attempts: int | None,
    store: str | None,
    limits: tuple[str, ...],
    *,
    yes: bool,
    as_json: bool,
    quiet: bool,
    detach: bool,
    ready: bool,
) -> int:
    """Go on with RUN where it was left; -1 is the latest run.

    \b
    fractale resume k7f3a
    fractale resume k7f3a --limit tokens=100000
    fractale resume -1 --answer submit=yes
    fractale resume --ready

    --answer counts for what the run waits for now, --answers for all that it asks from here on.
    --ready waits for nothing: a run that comes to its next job ends, waiting for that one. It
    returns 0 if each run that went on went well.
    """
    from fractale.cli.answers import read_answers, read_answers_file
    from fractale.cli.running import Call, go_on

    if (run_id is None) != ready:
        words = "say which run" if run_id is None else "either one run, or all that are ready"
        raise UsageError(words, hint="`fractale resume RUN`, or `fractale resume --ready`")
    call = Call(
        settings=options.settings_of(backend, model, max_attempts, store, acts=True),
        limits=options.read_limits(limits),
        answers=read_answers_file(answers_file),
        yes=yes,
        as_json=as_json,
        quiet=quiet,
        detach=detach or ready,
    )
    if run_id is None:
        from fractale.cli.ready import go_on_with_ready

        return go_on_with_ready(call, read_answers(answers))
    return go_on(call, run_id, read_answers(answers))
