"""``fractale resume --ready``: go on with the runs whose batch jobs have ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from fractale.errors import FractaleError, RunHeld

if TYPE_CHECKING:
    from fractale.cli.running import Call
    from fractale.runs.ready import ReadyRun

WELL = (0, 4)
"""Exit codes of a run that went well as far as it could: it ended, or waits again."""


def go_on_with_ready(call: Call, answers: Mapping[str, str]) -> int:
    """Go on with each run that is ready, one after the other.

    Returns:
        0, or the exit code of the first that did not go well.
    """
    from fractale.runs.ready import look

    found = look(call.settings)
    if not found.ready:
        _say(_nothing(found.waiting), call)
        return 0
    codes = [_go_on(call, run, answers) for run in found.ready]
    return next((code for code in codes if code not in WELL), 0)


def _nothing(waiting: Mapping[str, int]) -> str:
    if not waiting:
        return "no run waits for a job"
    from fractale.cli.render.text import count

    runs, jobs = count(len(waiting), "run"), count(sum(waiting.values()), "job")
    return f"nothing is ready; waiting: {runs}, for {jobs}"


def _go_on(call: Call, ready: ReadyRun, answers: Mapping[str, str]) -> int:
    from fractale.cli.render.problems import show_error
    from fractale.cli.running import go_on

    _say(f"{ready.run}: {ready.why}", call)
    try:
        return go_on(replace(call, replies={}), ready.run, answers)
    except RunHeld:
        _say(f"{ready.run}: another process has gone on with it", call)
        return 0
    except FractaleError as error:  # the others are ready all the same
        return show_error(error)


def _say(words: str, call: Call) -> None:
    if not call.quiet:
        click.echo(words, err=True)
