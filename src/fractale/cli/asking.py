"""What ``fractale agent`` and ``fractale prompt`` do in common."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.answers import check_steps, read_answers, read_answers_file
from fractale.cli.running import Call, Opened, run_opened
from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.runs.asking import Expert
    from fractale.runs.result import RunResult

STDIN = "-"

Find = Callable[[Opened], Awaitable["tuple[Expert, str]"]]
"""Gives the expert to ask, and the instruction, once the tools are open."""


def ask(given: Mapping[str, Any], find: Find, *, direct: bool) -> int:
    """Ask an expert; returns the exit code.

    Args:
        given: The options that `fractale run` has, too.
    """
    inputs = options.read_inputs(given["pairs"], given["inputs_file"])
    call = _call(given)

    async def begin(opened: Opened) -> RunResult:
        from fractale.plan.build import load_plan
        from fractale.runs.asking import WORDS, is_small, keep_plan, one_step_plan

        expert, words = await find(opened)
        small = is_small(call.settings.model_spec)
        data = one_step_plan(expert, words, inputs, direct=direct, small=small)
        plan = load_plan(keep_plan(data, call.settings.state_dir))
        check_steps(call.answers, plan)
        values = {**inputs, WORDS: words} if words else inputs
        return await opened.runs.start(plan, values, opened.options, head=call.head)

    return run_opened(call, None, begin)


def _call(given: Mapping[str, Any]) -> Call:
    return Call(
        settings=options.settings_of(
            given["backend"], given["model"], given["max_attempts"], given["store"], acts=True
        ),
        registries=given["registries"],
        agents=given["agents"],
        limits=options.read_limits(given["limits"]),
        answers={**read_answers_file(given["answers_file"]), **read_answers(given["answers"])},
        yes=given["yes"],
        as_json=given["as_json"],
        quiet=given["quiet"],
    )


def read_words(words: Sequence[str]) -> list[str]:
    """The words as they were typed; a last one of ``-`` stands for what stdin says."""
    if not words or words[-1] != STDIN:
        return list(words)
    text = sys.stdin.read().rstrip("\n")
    if not text.strip():
        raise UsageError("there is nothing on stdin", hint="`-` reads the instruction from it")
    return [*words[:-1], text]


def check_no_options(ctx: click.Context, words: Sequence[str]) -> None:
    """See that no option stands where the instruction has begun.

    Raises:
        UsageError: One does: it would be told to a model instead of being obeyed.
    """
    first = words[0].partition("=")[0] if words else ""
    if first in {option for param in ctx.command.params for option in param.opts}:
        raise UsageError(
            f"`{first}` stands where the instruction has begun",
            hint=f"options come first: fractale {ctx.command.name} {first} …",
        )
