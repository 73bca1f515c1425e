"""``fractale fork``: a new run from a step of another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs

if TYPE_CHECKING:
    from fractale.runs.forking import ForkChanges


@click.command("fork", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option(
    "--at",
    "at",
    metavar="STEP",
    required=True,
    help="Begin just before this step: its name or path, STEP#2 for its second attempt.",
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another value: inputs.NAME, or steps.STEP.outputs.KEY of a step before. Repeatable.",
)
@click.option("--plan", "plan_file", type=click.Path(), help="Another plan that has the step.")
@options.tool_options
@options.model_options
@options.store_option
@options.answer_options
@options.run_options
def command(
    run_id: str,
    at: str,
    pairs: tuple[str, ...],
    plan_file: str | None,
    registries: tuple[Path, ...],
    agents: tuple[str, ...],
    backend: str | None,
    model: str | None,
    store: str | None,
    max_attempts: int | None,
    answers_file: Path | None,
    answers: tuple[str, ...],
    limits: tuple[str, ...],
    *,
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Start a new run that has all that RUN had when it came to STEP; -1 is the latest run.

    RUN itself stays as it is. Its plan may have changed since: the fork takes it as it is now.

    \b
    fractale fork k7f3a --at run --set inputs.time=30m
    fractale fork k7f3a --at transform#1 --model openai:gpt-5
    fractale fork -1 --at tune --plan plans/tune2.yaml
    """
    from fractale.cli.answers import read_answers, read_answers_file
    from fractale.cli.running import Call

    call = Call(
        settings=options.settings_of(backend, model, max_attempts, store, acts=True),
        registries=registries,
        agents=agents,
        limits=options.read_limits(limits),
        answers={**read_answers_file(answers_file), **read_answers(answers)},
        yes=yes,
        as_json=as_json,
        quiet=quiet,
    )
    return _fork(call, run_id, at, plan_file, read_changes(pairs))


def _fork(call: Any, run_id: str, at: str, plan_file: str | None, changes: ForkChanges) -> int:
    from fractale.cli.answers import check_steps
    from fractale.cli.first_run import Given, look_at
    from fractale.cli.own_runs import check_own
    from fractale.cli.running import Opened, run_opened, secrets_of
    from fractale.plan.build import load_plan
    from fractale.record.plans import plan_hash
    from fractale.runs.continuing import plan_today
    from fractale.runs.result import RunResult
    from fractale.store.run_record import RunRecords

    folder = RunRecords(call.settings.state_dir).find(run_id)
    head = folder.read_head()
    check_own(folder, head, call.settings)
    plan = load_plan(plan_file) if plan_file else plan_today(folder, head)
    check_steps(call.answers, plan)
    own = {"registries": call.registries, "agents": call.agents}
    like = call.like(head)
    # What is named on the command line counts in place of what the run was started with.
    call = replace(like, **{name: given for name, given in own.items() if given})
    if plan_hash(plan) != head.get("plan_hash"):  # what was run before was agreed to
        given: dict[str, Any] = {**(head.get("inputs") or {}), **changes.inputs}
        open_inputs = [name for name, spec in plan.inputs.items() if not spec.secret]
        look_at(
            plan,
            Given(
                settings=call.settings,
                inputs={n: v for n, v in given.items() if n in open_inputs},
                registries=call.registries,
                agents=call.agents,
                yes=call.yes,
            ),
        )
    secrets = secrets_of(plan, call.settings)

    async def begin(opened: Opened) -> RunResult:
        return await opened.runs.fork(
            folder.run_id,
            at,
            opened.options,
            plan=plan,
            changes=changes,
            secrets=secrets,
            head=call.head,
        )

    return run_opened(call, plan, begin)


def read_changes(pairs: tuple[str, ...]) -> ForkChanges:
    """What ``--set`` says.

    Raises:
        InputError: A name is none that can be set.
    """
    from fractale.errors import InputError
    from fractale.runs.forking import ForkChanges

    inputs: dict[str, Any] = {}
    outputs: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        match name.strip().split("."):
            case ["inputs", key] if equals and key:
                inputs[key] = value
            case ["steps", step, "outputs", *keys] if equals and keys and all(keys):
                outputs.setdefault(step, {})[".".join(keys)] = value
            case _:
                raise InputError(
                    f"--set {pair}: not a value that can be set",
                    hint="such as inputs.time=30m or steps.read.outputs.nodes=4",
                )
    return ForkChanges(inputs=inputs, outputs=outputs)
