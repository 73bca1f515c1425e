"""``fractale replay``: repeat a recorded run from its record."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.plan.model import Plan
    from fractale.record.recordings import Recording
    from fractale.replay.replay import Live, Replayed
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
    live: str | None,
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
    from fractale.cli.render.replay import replayed_lines
    from fractale.cli.running import own_stdout
    from fractale.errors import PlanError, UsageError
    from fractale.record.recordings import open_recording
    from fractale.replay.suite import left_out_note, replayed_data

    if plan_file and today:
        raise UsageError("--plan and --today exclude each other", hint="give one of them")
    settings = given.settings(acts=live is not None)
    with open_recording(find(run, settings), settings=settings) as recording:
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
    if given.as_json:
        data = {**replayed_data(replayed), "notes": notes}
        click.echo(to_json(data, default=str))
    else:
        print_lines(replayed_lines(replayed, notes))
    return 0 if replayed.equal else 1


def find(run: str, settings: Settings) -> Path:
    """The path of a run's record, or of a recording.

    Raises:
        UsageError: It was not found.
    """
    from fractale.errors import UsageError
    from fractale.store.run_record import RunRecords

    records = RunRecords(settings.state_dir)
    path = Path(run)
    if run not in records.names():
        if path.is_file() or (path / "run.json").is_file():
            return path
        if path.is_dir() or path.suffix == ".zip":
            raise UsageError(
                f"{run} is not a recording" if path.is_dir() else f"file {run} not found",
                hint="create one: fractale export RUN --recording FILE.zip",
            )
    return records.find(run).path


def _plan(recording: Recording, file: str | None, *, today: bool) -> Plan:
    from fractale.errors import UsageError
    from fractale.plan.build import load_plan

    if file:
        return load_plan(file)
    if not today:
        return recording.plan_then()
    plan = recording.plan_today()
    if plan is None:
        raise UsageError(
            f"the plan {recording.head.get('file')} was not found", hint="name a plan with --plan"
        )
    return plan


async def _replay(
    named: Recording, settings: Settings, plan: Plan, live: str | None, *, loose: bool
) -> tuple[Replayed, list[str]]:
    from fractale.replay.replay import replay
    from fractale.replay.suite import agents_of

    catalog, notes = agents_of(named, plan)
    async with AsyncExitStack() as stack:
        real = await _live(stack, live, named, settings, plan, loose=loose)
        return await replay(named, settings, plan=plan, agents=catalog, live=real), notes


async def _live(
    stack: AsyncExitStack,
    side: str | None,
    recording: Recording,
    settings: Settings,
    plan: Plan,
    *,
    loose: bool,
) -> Live:
    """The side (`model` or `tools`) that the replay calls for real, open as long as the stack."""
    from fractale.cli.running import secrets_of
    from fractale.models import Models
    from fractale.replay.replay import Live
    from fractale.runs.workspace import Extensions, Workspace, with_recorded_model

    if side == "model":
        return Live(models=Models(with_recorded_model(settings, recording.head)), loose=loose)
    if side != "tools":
        return Live(loose=loose)
    extensions = Extensions(
        registries=[recording.find(str(p)) or p for p in recording.head.get("registries") or ()],
        agents=[str(path) for path in recording.head.get("agents") or ()],
    )
    secrets = secrets_of(plan, settings)
    opened = await stack.enter_async_context(Workspace.open(settings, plan, extensions))
    return Live(tools=opened.toolbox, secrets=secrets, loose=loose)
