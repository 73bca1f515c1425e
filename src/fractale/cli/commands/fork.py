"""``fractale fork``: a new run from a step of another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs

if TYPE_CHECKING:
    from fractale.runs import RunOptions, RunResult, Workspace
    from fractale.runs.fork import ForkChanges


@click.command("fork", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option(
    "--at",
    "at",
    metavar="STEP",
    required=True,
    help="Start before this step: its name or path, or STEP#2 for its second attempt.",
)
@click.option(
    "--set",
    "changed",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a value: inputs.NAME, steps.STEP.outputs.KEY of an earlier step, or values.NAME. "
    "Repeatable.",
)
@options.inputs_file_option("Read changed inputs from a YAML or JSON file; --set overrides it.")
@options.run_id_option
@options.plan_hash_option
@click.option("--plan", "plan_file", type=click.Path(), help="Use another plan that has this step.")
@options.tool_options
@options.model_options
@options.store_option
@options.answer_options
@options.run_options
@options.collected
def command(
    run_id: str,
    at: str,
    changed: tuple[str, ...],
    plan_file: str | None,
    *,
    shown: str | None,
    given: options.CommandLine,
) -> int:
    """Start a new run from the state of RUN before STEP; -1 is the latest run.

    RUN does not change. The fork uses the present file of the plan, unless you give --plan.

    \b
    fractale fork k7f3a --at run --set inputs.time=30m
    fractale fork k7f3a --at transform#1 --model openai:gpt-5
    fractale fork -1 --at tune --plan plans/tune2.yaml
    """
    from fractale.cli.consent import ask_about_plan, ask_about_run
    from fractale.cli.running import run_in_workspace, secrets_of
    from fractale.plan.build import load_plan
    from fractale.record.plans import plan_hash
    from fractale.runs.changes import check_shown, plan_today
    from fractale.runs.preflight import check_answers
    from fractale.runs.workspace import as_started
    from fractale.store.run_record import RunRecords

    changes, settings = read_changes(changed, given.inputs), given.settings(acts=True)
    record = RunRecords(settings.state_dir).find(run_id)
    head = record.read_head()
    ask_about_run(record, head, settings)
    plan = load_plan(plan_file) if plan_file else plan_today(record, head)
    check_shown(plan, shown)
    check_answers(given.answers, plan)
    settings, extensions = as_started(settings, head, given.extensions)
    if plan_hash(plan) != head.get("plan_hash"):  # the user agreed to the plan that ran
        values: dict[str, Any] = {**(head.get("inputs") or {}), **changes.inputs}
        public = [name for name, spec in plan.inputs.items() if not spec.secret]
        inputs = {name: value for name, value in values.items() if name in public}
        ask_about_plan(plan, settings, inputs, extensions, yes=given.yes)
    secrets = secrets_of(plan, settings)

    async def begin(workspace: Workspace, run_options: RunOptions) -> RunResult:
        return await workspace.runs.fork(
            record.run_id, at, run_options, plan=plan, changes=changes, secrets=secrets
        )

    return run_in_workspace(replace(given, extensions=extensions), settings, plan, begin)


def read_changes(
    pairs: tuple[str, ...], inputs_of_file: Mapping[str, Any] | None = None
) -> ForkChanges:
    """The changes that ``--inputs`` and ``--set`` make.

    Raises:
        InputError: A name cannot be set.
    """
    from fractale.errors import InputError
    from fractale.runs.fork import ForkChanges

    inputs: dict[str, Any] = {**(inputs_of_file or {})}
    outputs: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        match name.strip().split("."):
            case ["inputs", key] if equals and key:
                inputs[key] = value
            case ["steps", step, "outputs", *keys] if equals and keys and all(keys):
                outputs.setdefault(step, {})[".".join(keys)] = value
            case ["values", key] if equals and key:
                values[key] = value
            case _:
                raise InputError(
                    f"--set {pair}: this value cannot be set",
                    hint="such as inputs.time=30m, steps.read.outputs.nodes=4 or values.best=3",
                )
    return ForkChanges(inputs=inputs, outputs=outputs, values=values)
