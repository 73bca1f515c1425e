"""``fractale prompt``: ask in words, or by a prompt of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.cli.running import Opened
    from fractale.runs.asking import Expert


@click.command("prompt", context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1)
@options.input_options
@options.tool_options
@options.model_options
@options.answer_options
@options.store_option
@options.run_options
@click.option("--direct", is_flag=True, help="Ask at once, without the planner.")
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...], *, direct: bool, **given: Any) -> int:
    """Do what the WORDS say; - reads them from stdin.

    Where the first word is the name of a prompt that a server has, that prompt is asked, with -i
    for its arguments: the planner fills them in and shows the step that asks it. Other words go to
    an agent that works with the tools at once, and hands over to the planner if several steps are
    needed; --direct never plans. Options come before the words.

    \b
    fractale prompt Tell me a joke, and give me choices about the category.
    fractale prompt --direct -i script=job.sbatch transform_jobspec_expert
    """
    from fractale.cli import asking

    asking.check_no_options(ctx, words[1:])
    told = asking.read_words(words)
    if not told:
        raise UsageError("say what to do", hint="fractale prompt Which partitions are free?")

    async def find(opened: Opened) -> tuple[Expert, str]:
        from fractale.runs.asking import GENERALIST, find_agent, find_prompt

        name = told[0].strip()
        if expert := await find_prompt(name, opened.toolbox):
            return expert, " ".join(told[1:])
        return await find_agent(GENERALIST, opened.toolbox, opened.agents), " ".join(told)

    return asking.ask(given, find, direct=direct)
