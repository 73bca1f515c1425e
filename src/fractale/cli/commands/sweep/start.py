"""``fractale sweep PLAN``: start a sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import click

from fractale.cli import options
from fractale.cli.options import complete_plans
from fractale.sweeps.spec import (
    Algorithm,
    SweepSpec,
    axes_from_texts,
    with_options,
)
from fractale.text import count

if TYPE_CHECKING:
    import asyncio

    from fractale.cli.sweeping import SweepProgress
    from fractale.settings import Settings
    from fractale.sweeps.begin import Prepared
    from fractale.sweeps.results import SweepView


class _StartContext(click.Context):
    """Without a name of its own: the command is ``fractale sweep``."""

    @property
    def command_path(self) -> str:
        return self.parent.command_path if self.parent else super().command_path


class _StartCommand(click.Command):
    context_class = _StartContext


@click.command("start", cls=_StartCommand)
@click.argument("plan", type=click.Path(), shell_complete=complete_plans)
@click.option(
    "--over",
    multiple=True,
    metavar="NAME=VALUES",
    help="Vary an input: 1,2,4, a range 1..8, or a JSON list. Repeatable: axes are combined.",
)
@click.option(
    "--table",
    type=click.Path(dir_okay=False),
    help="Read inputs from a table, one run per row: .csv, .tsv, .jsonl or .parquet.",
)
@click.option(
    "--sample", type=click.IntRange(1), metavar="N", help="Draw N rows from the axes of --over."
)
@click.option("--seed", type=click.IntRange(0), metavar="S", help="Draw other rows. Default: 0.")
@click.option(
    "--algorithm",
    type=click.Choice(get_args(Algorithm)),
    help="How rows are drawn. Default: random.",
)
@options.input_options
@click.option(
    "--on", metavar="NAME", help="Where runs happen: local, or an executor of the settings."
)
@click.option(
    "--max-parallel", type=click.IntRange(1), metavar="N", help="Run at most N rows at a time."
)
@click.option(
    "--limit",
    "sweep_limits",
    multiple=True,
    metavar="NAME=VALUE",
    help="Limit all runs together: tokens, cost, node_hours, core_hours, gpu_hours, jobs, "
    "jobs_at_once.",
)
@click.option(
    "--run-limit",
    "run_limits",
    multiple=True,
    metavar="NAME=VALUE",
    help="Limit each run, as --limit of `fractale run` does.",
)
@click.option("--merit", metavar="OUTPUT", help="Compare rows by this output in tables and plots.")
@options.tool_options
@options.model_options
@options.answer_options
@options.cache_options
@options.store_option
@click.option("--max-attempts", type=click.IntRange(1), help="Maximum attempts per step.")
@click.option("--yes", is_flag=True, help="Approve all tool calls and plan drafts without asking.")
@click.option("--sweep-id", metavar="ID", help="Use this ID instead of a random one.")
@click.option(
    "--detach",
    is_flag=True,
    help="Drive the sweep in a job of the executor's scheduler, or in the background, and exit.",
)
@click.option("--dry-run", is_flag=True, help="Show the rows and what they may cost at most.")
@click.option("--json", "as_json", is_flag=True, help="Print the sweep as JSON at the end.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the final summary.")
@options.trust_option
@options.collected
def command(
    plan: str,
    *,
    over: tuple[str, ...],
    table: str | None,
    sample: int | None,
    seed: int | None,
    algorithm: Algorithm | None,
    on: str | None,
    max_parallel: int | None,
    sweep_limits: tuple[str, ...],
    run_limits: tuple[str, ...],
    merit: str | None,
    sweep_id: str | None,
    dry_run: bool,
    given: options.CommandLine,
) -> int:
    """Run PLAN once per row of a table of inputs. PLAN is a plan or a sweep file."""
    from fractale.cli.sweeping import run_limits_of, sweep_limits_of
    from fractale.sweeps.begin import prepare

    spec = with_options(
        _spec_of(plan),
        over=axes_from_texts(over),
        inputs=given.inputs,
        answers=given.answers,
        limits=sweep_limits_of(sweep_limits),
        run_limits=run_limits_of(run_limits),
        table=table,
        sample=sample,
        seed=seed,
        algorithm=algorithm,
        on=on,
        max_parallel=max_parallel,
        merit=merit,
        reuse=given.reuse,
    )
    settings = given.settings(acts=not dry_run)

    prepared = prepare(
        spec,
        settings,
        registries=tuple(given.extensions.registries),  # pyright: ignore[reportArgumentType] - the command line has paths
        agents=tuple(given.extensions.agents),
        yes=given.yes,
        trusted=options.trusts_project(),
    )
    if given.detach:
        from fractale.sweeps.detach import check_detachable

        check_detachable(settings, prepared.spec.on)
    if dry_run:
        return show_effects(prepared, settings, given, sweep_id)
    return start(prepared, settings, given, sweep_id)


def _spec_of(path: str) -> SweepSpec:
    from fractale.sweeps.sweep_file import read_sweep_file

    return read_sweep_file(path) or SweepSpec(plan=path)


def show_effects(
    prepared: Prepared, settings: Settings, given: options.CommandLine, sweep_id: str | None
) -> int:
    """Print what the sweep would do, without a connection; returns the exit code."""
    from fractale.plain import to_json
    from fractale.plan.inputs import read_secrets, secret_variable
    from fractale.render.sweep_dry_run import sweep_text_lines
    from fractale.sweeps.begin import check_free
    from fractale.sweeps.dry_run import describe_sweep

    if sweep_id is not None:
        check_free(settings, sweep_id)
    found = describe_sweep(prepared, settings, given.extensions)
    secrets = read_secrets(prepared.plan, settings.environment)
    missing = [n for n, s in prepared.plan.inputs.items() if s.secret and n not in secrets]
    if given.as_json:
        click.echo(to_json({**found, "missing_secrets": missing}))
        return 0
    lines = sweep_text_lines(prepared, found)
    lines += [f"set {secret_variable(name)} before you start it" for name in missing]
    click.echo("\n".join([*lines, "nothing was run and no connection was opened"]))
    return 0


def start(
    prepared: Prepared, settings: Settings, given: options.CommandLine, sweep_id: str | None
) -> int:
    """Ask the user if needed, write the sweep, and drive it; returns the exit code.

    With ``--detach``, a job or a background process drives it.
    """
    from fractale.cli.consent import ask_about_sweep
    from fractale.cli.running import secrets_of
    from fractale.cli.sweeping import detached, driven, ended
    from fractale.render.text import inert
    from fractale.sweeps.begin import (
        check_free,
        check_secrets,
        environment_of_workers,
        write_sweep,
    )
    from fractale.sweeps.driver import run_sweep

    if sweep_id is not None:
        check_free(settings, sweep_id)
    ask_about_sweep(prepared, settings, given.extensions, yes=given.yes)
    secrets = secrets_of(prepared.plan, settings)
    check_secrets(prepared, secrets)
    record = write_sweep(prepared, settings, sweep_id)
    quiet = given.quiet or given.as_json
    if not quiet:
        rows, plan = len(prepared.rows.rows), inert(prepared.plan.name, 60)
        words = f"{count(rows, 'run')} of `{plan}` on {prepared.spec.on}"
        click.echo(f"sweep {record.sweep_id}: {words}", err=True)
    known = environment_of_workers(settings, prepared.plan, secrets)
    settings = replace(settings, environment=known)
    if given.detach:
        return detached(record, settings, as_json=given.as_json)

    async def begin(progress: SweepProgress, stop: asyncio.Event) -> SweepView:
        return await run_sweep(record, settings=settings, listener=progress.hear, stop=stop)

    view = driven(begin, sweep=record.sweep_id, quiet=quiet)
    return ended(view, as_json=given.as_json)
