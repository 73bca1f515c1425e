"""``fractale agent``: ask a sub-agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.run import complete_plans
from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.cli.running import Opened
    from fractale.runs.asking import Expert

PLAN_FILES = (".yaml", ".yml")


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Sub-agents that need no server, and plan files, for shell completion."""
    from fractale.agents.catalog import Catalog

    names = [name for name in Catalog().names() if name.startswith(incomplete)]
    return [*names, *complete_plans(ctx, param, incomplete)]


@click.command("agent", context_settings={"allow_interspersed_args": False})
@click.argument("name", shell_complete=complete_names)
@click.argument("words", nargs=-1)
@options.input_options
@options.tool_options
@options.model_options
@options.answer_options
@options.store_option
@options.run_options
@click.option("--direct", is_flag=True, help="Ask it at once, without the planner.")
@click.pass_context
def command(
    ctx: click.Context, name: str, words: tuple[str, ...], *, direct: bool, **given: Any
) -> int:
    """Ask the sub-agent NAME. The WORDS after it are the instruction; - reads it from stdin.

    The planner looks around first, fills in what the sub-agent takes, and shows the step that asks
    it; --direct asks at once. Options come before NAME; --help after NAME shows its inputs.

    \b
    fractale agent optimize Tune lmp for atom-steps per second on one node
    fractale agent -i script=job.sbatch --direct transform_jobspec To Flux
    fractale list agents
    """
    from fractale.cli import asking

    if name.endswith(PLAN_FILES):
        return _run_plan(ctx, name, words, given)
    asking.check_no_options(ctx, words)
    text = " ".join(asking.read_words(words))

    async def find(opened: Opened) -> tuple[Expert, str]:
        from fractale.runs.asking import find_agent

        return await find_agent(name, opened.toolbox, opened.agents), text

    return asking.ask(given, find, direct=direct)


def _run_plan(ctx: click.Context, path: str, words: Sequence[str], given: dict[str, Any]) -> int:
    """Run a plan that is given in the place of a sub-agent, as older instructions have it."""
    from fractale.cli.run import command as run

    if words:
        raise UsageError(
            f"{path} is a plan, which takes no instruction: `{' '.join(words)}`",
            hint=f"its inputs come before it: fractale run {path} -i NAME=VALUE",
        )
    click.echo(f"{path} is a plan: running it, as `fractale run {path}` does", err=True)
    return ctx.invoke(run, plan=path, dry_run=False, **given)
