"""``fractale run``: run a plan."""

from __future__ import annotations

from pathlib import Path

import click

from fractale.cli import options


def complete_plans(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Plan files below the folder that is being typed, for shell completion."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete or ".").parent
    found = [*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("plans/*.yaml")]
    return sorted(str(p) for p in found if str(p).startswith(incomplete))


@click.command("run")
@click.argument("plan", type=click.Path(), shell_complete=complete_plans)
@options.input_options
@options.tool_options
@options.model_options
@options.answer_options
@options.store_option
@options.run_options
@options.detach_option
@click.option(
    "--run-id", metavar="ID", help="Give the run this id, as scripts want it: job-$SLURM_JOB_ID."
)
@click.option("--dry-run", is_flag=True, help="Only say what would run. Opens no connection.")
def command(
    plan: str,
    pairs: tuple[str, ...],
    inputs_file: Path | None,
    registries: tuple[Path, ...],
    agents: tuple[str, ...],
    backend: str | None,
    model: str | None,
    max_attempts: int | None,
    store: str | None,
    answers_file: Path | None,
    answers: tuple[str, ...],
    limits: tuple[str, ...],
    run_id: str | None,
    *,
    yes: bool,
    as_json: bool,
    quiet: bool,
    detach: bool,
    dry_run: bool,
) -> int:
    """Run PLAN, a YAML file.

    \b
    fractale run plans/translate.yaml -i script=job.sbatch
    fractale run plans/translate.yaml --dry-run
    fractale run plans/joke.yaml --answers answers.yaml
    fractale run plans/lammps.yaml --detach
    """
    from fractale.plan.build import load_plan

    loaded = load_plan(plan)
    inputs = options.read_inputs(pairs, inputs_file)
    settings = options.settings_of(backend, model, max_attempts, store, acts=not dry_run)
    if dry_run:
        from fractale.cli.dry_run import show

        return show(loaded, inputs, settings, registries, agents, as_json=as_json)
    from fractale.cli.answers import read_answers, read_answers_file
    from fractale.cli.first_run import Given, look_at
    from fractale.cli.running import Call, start

    given = Given(settings=settings, inputs=inputs, registries=registries, agents=agents, yes=yes)
    look_at(loaded, given)
    call = Call(
        settings=settings,
        registries=registries,
        agents=agents,
        limits=options.read_limits(limits),
        answers={**read_answers_file(answers_file), **read_answers(answers)},
        yes=yes,
        as_json=as_json,
        quiet=quiet,
        detach=detach,
        run_id=run_id,
    )
    return start(call, loaded, inputs)
