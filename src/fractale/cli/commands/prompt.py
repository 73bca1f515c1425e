"""``fractale prompt``: ask in plain English, or by a prompt of a server."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.runs import RunOptions, RunResult, Workspace
    from fractale.runs.one_step import NamedExpert

STDIN = "-"

Find = Callable[["Workspace"], Awaitable["tuple[NamedExpert, str]"]]
"""Finds the expert to ask, and the instruction, once the tools are open."""


@click.command("prompt", context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1)
@options.input_options
@options.tool_options
@options.model_options
@options.answer_options
@options.store_option
@options.run_options
@click.option(
    "--direct", is_flag=True, help="Ask the agent or prompt directly, without the planner."
)
@click.pass_context
@options.collected
def command(
    ctx: click.Context, words: tuple[str, ...], *, direct: bool, given: options.CommandLine
) -> int:
    """Carry out the instruction WORDS; - reads it from stdin.

    An agent works on the instruction with the available tools. If it needs several steps, it hands
    over to the planner, unless you give --direct. If the first word is the name of a prompt of a
    server, fractale uses that prompt: the planner fills in its arguments, and -i sets them.
    Options come before WORDS.

    \b
    fractale prompt Write a joke, and give me choices about the category.
    fractale prompt --direct -i script=job.sbatch transform_jobspec_expert
    """
    check_no_options(ctx, words[1:])
    typed = read_words(words)
    if not typed:
        raise UsageError(
            "the instruction is missing", hint="fractale prompt Which partitions are free?"
        )

    async def find(workspace: Workspace) -> tuple[NamedExpert, str]:
        from fractale.runs.one_step import GENERALIST, find_agent, find_prompt

        name = typed[0].strip()
        if expert := await find_prompt(name, workspace.toolbox):
            return expert, " ".join(typed[1:])
        return await find_agent(GENERALIST, workspace.toolbox, workspace.agents), " ".join(typed)

    return ask(given, find, direct=direct)


# -- shared with `fractale agent` -----------------------------------------------------------------


def ask(given: options.CommandLine, find: Find, *, direct: bool) -> int:
    """Run the plan of one step that asks an expert; returns the exit code."""
    from fractale.cli.running import run_in_workspace

    settings = given.settings(acts=True)

    async def begin(workspace: Workspace, run_options: RunOptions) -> RunResult:
        from fractale.plan.build import load_plan
        from fractale.render.outputs import check_output
        from fractale.runs.one_step import WORDS, is_small, keep_plan, one_step_plan
        from fractale.runs.preflight import check_answers

        expert, words = await find(workspace)
        small = is_small(settings.model_spec)
        data = one_step_plan(expert, words, given.inputs, direct=direct, small=small)
        plan = load_plan(keep_plan(data, settings.state_dir))
        check_answers(given.answers, plan)
        check_output(given.output, plan.outputs, f"`{expert.name}`")
        values = {**given.inputs, WORDS: words} if words else given.inputs
        return await workspace.runs.start(plan, values, run_options)

    return run_in_workspace(given, settings, None, begin)


def read_words(words: Sequence[str]) -> list[str]:
    """The words as the user typed them; a final ``-`` is replaced by the text of stdin."""
    if not words or words[-1] != STDIN:
        return list(words)
    text = sys.stdin.read().rstrip("\n")
    if not text.strip():
        raise UsageError("stdin is empty", hint="`-` reads the instruction from stdin")
    return [*words[:-1], text]


def check_no_options(ctx: click.Context, words: Sequence[str]) -> None:
    """Check that the instruction does not begin with an option.

    Raises:
        UsageError: It does. A model would receive the option as part of its instruction.
    """
    first = words[0].partition("=")[0] if words else ""
    if first in {option for param in ctx.command.params for option in param.opts}:
        raise UsageError(
            f"option `{first}` must come before the instruction",
            hint=f"fractale {ctx.command.name} {first} …",
        )
