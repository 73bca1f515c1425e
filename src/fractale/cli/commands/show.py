"""``fractale show``: the history of a run, or of one of its steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.record.history import RecordedAttempt, RunHistory
    from fractale.render.text import Line


def complete_steps(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The steps of the run on the command line, for shell completion."""
    from fractale.errors import FractaleError

    try:
        paths = load(str(ctx.params.get("run_id"))).paths()
    except FractaleError:
        return []
    return [path for path in paths if path.startswith(incomplete)]


def load(run_id: str) -> RunHistory:
    """The history of a run in the state directory; ``-1`` is the latest.

    Raises:
        UsageError: The run was not found.
        StoreError: The run's record is damaged.
    """
    from fractale.record.history_reader import read_history
    from fractale.store.run_record import RunRecords

    return read_history(RunRecords(options.settings_of().state_dir).find(run_id))


@click.command("show", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.argument("step", required=False, shell_complete=complete_steps)
@click.option(
    "--output",
    metavar="NAME",
    help="Print only this output of the run: a text as it is, anything else as JSON.",
)
@click.option("--full", is_flag=True, help="Show long values in full.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(run_id: str, step: str | None, *, output: str | None, full: bool, as_json: bool) -> int:
    """Show the steps that RUN took and why; with STEP, every attempt of this step in detail.

    \b
    fractale show -1                   the latest run
    fractale show k7f3a validate       inputs, calls, results and the decision of one step
    fractale show k7f3a tune/measure   a step inside another
    fractale show k7f3a 'each[3]'      one item of a foreach
    fractale show k7f3a --output jobspec > job.sh
    """
    history = load(run_id)
    if output is not None:
        return _print_output(history, output, alone=step is None and not as_json)
    attempts = None if step is None else _attempts(history, step)
    if as_json:
        click.echo(to_json(_data(history, step, attempts), default=str))
        return 0
    if step is None or attempts is None:
        _print_run(history)
    else:
        from fractale.render.step import WIDTH, step_lines
        from fractale.render.text import screen_width

        width = screen_width(sys.stdout)
        shape: dict[str, Any] = {"width": width or WIDTH, "wrap": bool(width) or not full}
        print_lines(step_lines(history, step, attempts, full=full, **shape))
    return 0


def _print_output(history: RunHistory, name: str, *, alone: bool) -> int:
    """Print one output of a run; of a run that did not succeed, one that it could render."""
    from fractale.errors import UsageError
    from fractale.render.outputs import check_output, outputs_text, write_outputs

    if not alone:
        raise UsageError("--output prints an output of a run, without STEP and --json")
    outputs: dict[str, Any] = history.result.get("outputs") or {}
    if not outputs and history.status in ("running", "waiting"):
        raise UsageError(
            f"run {history.run} has no outputs yet: it is {history.status}",
            hint=f"see where it is: fractale show {history.run}",
        )
    check_output(name, outputs, f"run {history.run} ({history.status})")
    write_outputs(outputs_text(outputs, name), sys.stdout)
    return 0


def _print_run(history: RunHistory) -> None:
    from fractale.render.summary import history_verdict, text_of
    from fractale.render.text import row, screen_width, shows_unicode, wants_color, writable
    from fractale.render.timeline import run_lines

    stdout = sys.stdout
    unicode, width = shows_unicode(stdout.encoding), screen_width(stdout)
    print_lines([*run_lines(history, unicode=unicode, width=width), row("")])
    color = wants_color(stdout)
    text = text_of(lambda room: history_verdict(history, room), color=color, width=width)
    click.echo(writable(text, stdout.encoding), nl=False)


def _attempts(history: RunHistory, step: str) -> list[RecordedAttempt]:
    """The attempts of a step.

    Raises:
        UsageError: The run did not reach the step.
    """
    from fractale.record.history import of_item

    found = history.of_step(step) or of_item(history, step)
    if found:
        return found
    from fractale.errors import UsageError
    from fractale.text import did_you_mean

    paths = history.paths()
    planned = step in {str(known.get("name")) for known in history.steps}
    there = f"steps reached: {', '.join(paths[:20])}" if paths else "it did not reach any step"
    raise UsageError(
        f"run {history.run} {'did not reach' if planned else 'has no'} step `{step}`",
        hint=there if planned else did_you_mean(step, paths, otherwise=there),
    )


def _data(
    history: RunHistory, step: str | None, attempts: Sequence[RecordedAttempt] | None
) -> object:
    from fractale.record.history import attempt_data, history_data, results_of

    if attempts is None:
        return history_data(history)
    results = results_of(history.record, [call for attempt in attempts for call in attempt.calls])
    return {
        "run": history.run,
        "step": step,
        "visits": [attempt_data(history, attempt, results) for attempt in attempts],
    }


def print_lines(lines: Sequence[Line]) -> None:
    """Print lines on stdout, in its encoding, and in color if it is a terminal."""
    from fractale.render.text import narrowed, paint, screen_width, wants_color, writable

    lines = narrowed(lines, screen_width(sys.stdout))
    color, encoding = wants_color(sys.stdout), sys.stdout.encoding
    text = "\n".join(writable(paint(line, color=color), encoding) for line in lines)
    click.echo(text)
