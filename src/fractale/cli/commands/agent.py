"""``fractale agent``: ask a sub-agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.options import complete_plans
from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.runs import Workspace
    from fractale.runs.one_step import NamedExpert

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
@click.option("--direct", is_flag=True, help="Ask the sub-agent directly, without the planner.")
@click.pass_context
@options.collected
def command(
    ctx: click.Context,
    name: str,
    words: tuple[str, ...],
    *,
    direct: bool,
    given: options.CommandLine,
) -> int:
    """Ask the sub-agent NAME. WORDS are the instruction; - reads it from stdin.

    The planner first fills in the sub-agent's inputs and shows you the step, unless you give
    --direct. Options come before NAME; --help after NAME shows the sub-agent's inputs.

    \b
    fractale agent optimize Tune lmp for atom-steps per second on one node
    fractale agent -i script=job.sbatch --direct transform_jobspec To Flux
    fractale list agents
    """
    from fractale.cli.commands.prompt import ask, check_no_options, read_words

    if name.endswith(PLAN_FILES):
        return _run_plan(name, " ".join(words), given)
    if words == ("--help",):
        return _show_inputs(name, given)
    check_no_options(ctx, words)
    text = " ".join(read_words(words))

    async def find(workspace: Workspace) -> tuple[NamedExpert, str]:
        from fractale.runs.one_step import find_agent

        return await find_agent(name, workspace.toolbox, workspace.agents), text

    return ask(given, find, direct=direct)


def _show_inputs(name: str, given: options.CommandLine) -> int:
    """Print the inputs and outputs of a sub-agent."""
    import asyncio

    from fractale.cli.running import own_stdout

    async def find() -> NamedExpert:
        from fractale.runs.one_step import find_agent, find_in_catalog
        from fractale.runs.workspace import Workspace

        if found := find_in_catalog(name, given.extensions.load()[0]):
            return found  # without starting a server
        settings = options.settings_of(acts=True)
        async with Workspace.open(settings, extensions=given.extensions) as workspace:
            return await find_agent(name, workspace.toolbox, workspace.agents)

    with own_stdout() as stdout:
        click.echo("\n".join(_lines_about(asyncio.run(find()))), file=stdout)
    return 0


def _lines_about(expert: NamedExpert) -> list[str]:
    from fractale.agents.signatures import outputs_of_schema
    from fractale.render.text import fold, inert

    gives = outputs_of_schema(expert.output_schema) if expert.output_schema else "content: string"
    words = "" if expert.words_as == "" else " [WORDS]"
    return [
        f"fractale agent [OPTIONS] {inert(expert.name, 80)}{words}",
        *(f"  {line}" for line in fold(inert(expert.description, 400), 90)),
        "",
        "Inputs, set with -i NAME=VALUE:",
        *_input_lines(expert.input_schema),
        "",
        "Outputs:",
        *(f"  {line}" for line in fold(inert(gives, 1500), 90)),
    ]


def _input_lines(schema: Mapping[str, Any]) -> list[str]:
    from fractale.agents.signatures import type_in_words
    from fractale.render.text import fold, inert

    required, lines = list[str](schema.get("required") or ()), list[str]()
    properties: dict[str, Any] = schema.get("properties") or {}
    for name, each in properties.items():
        if name in ("instruction", "error"):  # the words after NAME, and an earlier failure
            continue
        kind = type_in_words(each, schema)
        lines.append(f"  {inert(f'{name}: {kind}', 90)}{', required' if name in required else ''}")
        about = " ".join(str(each.get("description") or "").split())
        lines += [f"      {line}" for line in fold(inert(about, 400), 86) if line]
    return lines or ["  none"]


def _run_plan(path: str, words: str, given: options.CommandLine) -> int:
    """Run a plan that is given instead of a sub-agent, as in older instructions."""
    from fractale.cli.commands.run import start
    from fractale.plan.build import load_plan

    if words:
        raise UsageError(
            f"{path} is a plan; a plan has no instruction: `{words}`",
            hint=f"set its inputs with -i: fractale run {path} -i NAME=VALUE",
        )
    click.echo(f"{path} is a plan: running it, as `fractale run {path}` does", err=True)
    plan = load_plan(path)
    return start(given, given.settings(acts=True), plan)
