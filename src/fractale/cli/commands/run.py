"""``fractale run``: run a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.errors import PlanError

if TYPE_CHECKING:
    from fractale.plan.model import Plan
    from fractale.runs import RunOptions, RunResult, Workspace
    from fractale.runs.why import Why
    from fractale.settings import Settings


@click.command("run")
@click.argument("plan", type=click.Path(), shell_complete=options.complete_plans)
@options.input_options
@options.tool_options
@options.model_options
@options.answer_options
@options.store_option
@options.run_options
@options.detach_option
@options.cache_options
@options.run_id_option
@options.plan_hash_option
@click.option("--dry-run", is_flag=True, help="Show what the plan would do, without a connection.")
@click.option(
    "--why",
    is_flag=True,
    help="Show why each step runs, or which result it takes over; with --dry-run, run nothing.",
)
@options.collected
def command(
    plan: str, *, dry_run: bool, why: bool, shown: str | None, given: options.CommandLine
) -> int:
    """Run PLAN, a YAML file.

    \b
    fractale run fractale:translate -i script=job.sbatch
    fractale run fractale:translate --dry-run
    fractale run fractale:joke --answers answers.yaml
    fractale run fractale:lammps --detach
    fractale run fractale:lammps --reuse --why
    """
    from fractale.plan.build import load_plan
    from fractale.runs.changes import check_shown

    loaded = load_plan(plan)
    check_shown(loaded, shown)
    settings = given.settings(acts=why or not dry_run)
    if dry_run and why:
        return explain(given, settings, loaded)
    if dry_run:
        return show_effects(given, settings, loaded)
    return start(given, settings, loaded, why=why)


def show_effects(given: options.CommandLine, settings: Settings, plan: Plan) -> int:
    """Print what a run of the plan would do, without a connection; returns the exit code.

    The modules that the user names with ``-r`` or ``-a`` are imported, to check the plan against
    them. Nothing that the plan names is imported.

    Raises:
        PlanError: The plan is invalid.
        InputError: The inputs are invalid.
    """
    from fractale.cli.commands.validate import offered_problems
    from fractale.plain import to_json
    from fractale.plan.check import check_plan, in_order
    from fractale.plan.inputs import read_secrets
    from fractale.render.dry_run import text_lines
    from fractale.runs.dry_run import describe, shown_inputs

    problems = check_plan(plan)
    if given.extensions:
        problems = in_order([*problems, *offered_problems(plan, given.extensions)])
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise PlanError(errors)
    secrets = read_secrets(plan, settings.environment)
    found = describe(plan, shown_inputs(plan, given.inputs), settings, given.extensions)
    if given.as_json:
        missing = [name for name, s in plan.inputs.items() if s.secret and name not in secrets]
        click.echo(to_json({**found, "missing_secrets": missing}))
    else:
        lines = [*text_lines(plan, found), "nothing was run and no connection was opened"]
        click.echo("\n".join(lines))
    return 0


def explain(given: options.CommandLine, settings: Settings, plan: Plan) -> int:
    """Print why each step would run, or which result it would take over; returns the exit code.

    The servers of the plan are started or connected to, and asked for their tools. No step runs.
    """
    import asyncio

    from fractale.cli.consent import ask_about_plan
    from fractale.cli.options import warn_of_server
    from fractale.cli.running import own_stdout, secrets_of
    from fractale.runs import RunOptions, Workspace

    ask_about_plan(plan, settings, given.inputs, given.extensions, yes=given.yes)
    secrets = secrets_of(plan, settings)

    async def look() -> list[Why]:
        run_options = RunOptions(reuse=given.reuse, limits=given.limits)
        opened = Workspace.open(
            settings, plan, given.extensions, on_log=warn_of_server, masker=run_options.masker
        )
        async with opened as workspace:
            return await workspace.runs.why(plan, given.inputs, run_options, secrets=secrets)

    with own_stdout() as stdout:
        found = asyncio.run(look())
        click.echo(_why_text(found, as_json=given.as_json), file=stdout)
    return 0


def _why_text(found: list[Why], *, as_json: bool) -> str:
    from fractale.plain import to_json
    from fractale.render.why import why_lines

    if as_json:
        return to_json({"steps": [each.as_dict() for each in found]})
    return "\n".join(why_lines(found))


def start(given: options.CommandLine, settings: Settings, plan: Plan, *, why: bool = False) -> int:
    """Run a plan from its first step; returns the exit code.

    Args:
        why: Whether to print first why each step runs.
    """
    from fractale.cli.consent import ask_about_plan
    from fractale.cli.running import run_in_workspace, secrets_of
    from fractale.events import Event
    from fractale.plan.inputs import bind_inputs
    from fractale.runs.preflight import check_answers

    ask_about_plan(plan, settings, given.inputs, given.extensions, yes=given.yes)
    check_answers(given.answers, plan)
    secrets = secrets_of(plan, settings)
    bind_inputs(plan, given.inputs, secrets)  # report wrong inputs before anything starts

    async def begin(workspace: Workspace, run_options: RunOptions) -> RunResult:
        if why:
            found = await workspace.runs.why(plan, given.inputs, run_options, secrets=secrets)
            if given.as_json:  # as an event: stdout has the events of the run
                rows = [each.as_dict() for each in found]
                data = {"step": "", "title": "why", "rows": rows}
                for listener in run_options.listeners:
                    listener(Event("table", "", data))
            else:
                click.echo(_why_text(found, as_json=False), err=True)
        return await workspace.runs.start(plan, given.inputs, run_options, secrets=secrets)

    return run_in_workspace(given, settings, plan, begin)
