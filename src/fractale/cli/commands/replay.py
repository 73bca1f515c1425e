"""``fractale replay``: repeat a recorded run from its record."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.plan.model import Plan
    from fractale.record.recordings import Recording
    from fractale.replaying.replay import Replayed
    from fractale.replaying.suite import Side
    from fractale.settings import Settings


@click.command("replay", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run", metavar="RUN", shell_complete=complete_runs)
@click.option(
    "--live",
    type=click.Choice(["tools", "model"]),
    help="Call the real tools or the real model; take the other side from the record.",
)
@click.option(
    "--loose",
    is_flag=True,
    help="Compare calls, arguments, outcomes and the path, but not the texts of answers.",
)
@click.option("--plan", "plan_file", type=click.Path(), help="Replay with another plan.")
@click.option("--today", is_flag=True, help="Replay with the present file of the plan.")
@options.tool_options
@options.model_options
@options.trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@options.collected
def command(
    run: str,
    live: Side | None,
    plan_file: str | None,
    *,
    loose: bool,
    today: bool,
    given: options.CommandLine,
) -> int:
    """Repeat the recorded RUN offline, without calling models or tools or starting servers.

    RUN is the id of a run (-1 is the latest) or a recording, which is a directory or a .zip file.
    For a recording, fractale imports only the code that you name with -r and -a. Exit code 0: all
    events are equal, except for times and ids; 1: the replay diverged, with the first difference.

    \b
    fractale replay k7f3a
    fractale replay k7f3a --today            with the present plan
    fractale replay k7f3a --live tools       with real tools and the recorded answers of the model
    fractale replay recordings/translate.zip
    """
    from fractale.cli.commands.show import print_lines
    from fractale.cli.running import own_stdout
    from fractale.errors import PlanError, UsageError
    from fractale.record.recordings import open_recording, recording_path
    from fractale.render.replay import replayed_lines
    from fractale.replaying.suite import left_out_note, replayed_data, reworded_note

    if plan_file and today:
        raise UsageError("--plan and --today exclude each other", hint="give one of them")
    settings = given.settings(acts=live is not None)
    with open_recording(recording_path(run, settings), settings=settings) as recording:
        plan = _plan(recording, plan_file, today=today)
        named = recording.given(given.extensions.paths, given.extensions.agents)
        left_out = left_out_note(recording, named)
        try:
            with own_stdout():
                replayed, notes = asyncio.run(_replay(named, settings, plan, live, loose=loose))
        except PlanError:
            click.echo("\n".join(f"note: {note}" for note in left_out), err=True)
            raise
    notes += left_out if replayed.missing or not replayed.equal else []
    notes += reworded_note(replayed)
    if given.as_json:
        data = {**replayed_data(replayed), "notes": notes}
        click.echo(to_json(data, default=str))
    else:
        print_lines(replayed_lines(replayed, notes))
    return 0 if replayed.equal else 1


def _plan(recording: Recording, file: str | None, *, today: bool) -> Plan:
    from fractale.plan.build import load_plan
    from fractale.replaying.suite import plan_today_of

    if file:
        return load_plan(file)
    return plan_today_of(recording) if today else recording.plan_then()


async def _replay(
    named: Recording, settings: Settings, plan: Plan, live: Side | None, *, loose: bool
) -> tuple[Replayed, list[str]]:
    from fractale.cli.running import secrets_of
    from fractale.replaying.replay import replay
    from fractale.replaying.suite import agents_of, open_live

    catalog, notes = agents_of(named, plan)
    secrets = secrets_of(plan, settings) if live == "tools" else {}
    async with open_live(live, named, settings, plan, loose=loose, secrets=secrets) as real:
        return await replay(named, settings, plan=plan, agents=catalog, live=real), notes
