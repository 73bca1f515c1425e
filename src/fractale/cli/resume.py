"""``fractale resume``: go on with a run."""

from __future__ import annotations

from pathlib import Path

import click

from fractale.cli import options


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The ids of runs, for shell completion."""
    from fractale.store.records import RunFolders

    ids = RunFolders(options.settings_of().state_dir).ids()
    return [run_id for run_id in ids if run_id.startswith(incomplete)]


@click.command("resume", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@options.answer_options
@options.model_options
@options.store_option
@options.run_options
def command(
    run_id: str,
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
) -> int:
    """Go on with RUN where it was left; -1 is the latest run.

    \b
    fractale resume k7f3a
    fractale resume k7f3a --limit tokens=100000
    fractale resume -1 --answer submit=yes

    --answer counts for what the run waits for now, --answers for all that it asks from here on.
    """
    from fractale.cli.answers import read_answers, read_answers_file
    from fractale.cli.running import Call, go_on

    call = Call(
        settings=options.settings_of(backend, model, max_attempts, store),
        limits=options.read_limits(limits),
        answers=read_answers_file(answers_file),
        yes=yes,
        as_json=as_json,
        quiet=quiet,
    )
    return go_on(call, run_id, read_answers(answers))
