"""``fractale new``: add a step, a tool or an agent to a project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fractale.cli import options
from fractale.cli.options import complete_plans
from fractale.errors import UsageError
from fractale.plain import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fractale.runs.workspace import Extensions
    from fractale.scaffold.parts import Added, StepForm

F = TypeVar("F", bound=Callable[..., Any])


@click.group("new")
def command() -> None:
    """Add a step, a tool or an agent to a project. Comments and layout of your files stay.

    \b
    fractale new step plot --plan plans/first.yaml --after summarize
    fractale new tool density
    fractale new agent reviewer --plan plans/first.yaml
    """


def _plan_option(function: F) -> F:
    return click.option(
        "--plan",
        type=click.Path(dir_okay=False, path_type=Path),
        shell_complete=complete_plans,
        help="The plan's file. Default: the only plan in the directory plans.",
    )(function)


def _registry_option(function: F) -> F:
    return click.option(
        "--registry",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The registry file. Default: registries/tools.yaml.",
    )(function)


def _json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        function
    )


@command.command("step")
@click.argument("name")
@_plan_option
@click.option("--after", metavar="STEP", help="The step that it follows. Default: the last one.")
@click.option("--script", "is_script", is_flag=True, help="A short script, run here. The default.")
@click.option("--job", "is_job", is_flag=True, help="A batch job.")
@click.option("--tool", metavar="NAME", help="A call of a tool.")
@click.option("--agent", metavar="NAME", help="A task for a sub-agent; `-` for the general one.")
@click.option("--instruction", metavar="TEXT", help="The task of the agent.")
@options.tool_options
@_json_option
@options.collected
def step(
    name: str,
    *,
    plan: Path | None,
    after: str | None,
    is_script: bool,
    is_job: bool,
    tool: str | None,
    agent: str | None,
    instruction: str | None,
    given: options.CommandLine,
) -> None:
    """Add the step NAME to a plan, and check the plan.

    With -r, a step for --tool gets a value for each input that the tool requires.
    """
    from fractale.scaffold.parts import new_step

    forms: dict[StepForm, bool] = {
        "script": is_script,
        "job": is_job,
        "tool": tool is not None,
        "agent": agent is not None,
    }
    chosen: list[StepForm] = [form for form, is_given in forms.items() if is_given]
    if len(chosen) > 1:
        raise UsageError(
            f"a step has one kind: --{' or --'.join(chosen)}", hint="leave out all but one"
        )
    if instruction is not None and agent is None:
        raise UsageError("--instruction needs --agent", hint="add --agent NAME, or --agent -")
    file = plan or _only_plan()
    added = new_step(
        name,
        file,
        form=chosen[0] if chosen else "script",
        target=tool or (agent if agent and agent != "-" else ""),
        instruction=instruction,
        input_schema=_schema_of(tool, given.extensions) if tool else None,
        after=after,
    )
    _print(added, as_json=given.as_json)


@command.command("tool")
@click.argument("name")
@_registry_option
@_json_option
def tool(name: str, *, registry: Path | None, as_json: bool) -> None:
    """Add the tool NAME: a Python function, its registry entry and its test."""
    from fractale.scaffold.parts import new_tool

    _print(new_tool(name, registry), as_json=as_json)


@command.command("agent")
@click.argument("name")
@_plan_option
@click.option("--instruction", metavar="TEXT", help="The role of the agent, in your words.")
@click.option("--python", "is_python", is_flag=True, help="A Python class instead, in a registry.")
@_registry_option
@_json_option
def agent(
    name: str,
    *,
    plan: Path | None,
    instruction: str | None,
    is_python: bool,
    registry: Path | None,
    as_json: bool,
) -> None:
    """Add the agent NAME to a plan in your own words, or with --python as a class."""
    from fractale.scaffold.parts import new_agent, new_python_agent

    if is_python and (plan or instruction):
        raise UsageError(
            "--plan and --instruction are for an agent in a plan", hint="leave out --python"
        )
    if registry and not is_python:
        raise UsageError("--registry is for a Python agent", hint="add --python")
    added = (
        new_python_agent(name, registry)
        if is_python
        else new_agent(name, plan or _only_plan(), instruction)
    )
    _print(added, as_json=as_json)


def _only_plan() -> Path:
    """The only plan in the directory ``plans``.

    Raises:
        UsageError: There is none, or there are several.
    """
    found = sorted(Path("plans").glob("*.yaml"))
    if len(found) == 1:
        return found[0]
    why = "several plans in plans/" if found else "no plan in plans/"
    raise UsageError(f"{why}: which one is meant?", hint="name the plan: --plan FILE")


def _schema_of(tool: str, extensions: Extensions) -> Mapping[str, Any] | None:
    """The schema of a tool's inputs; None if no registry is given."""
    if not extensions:
        return None
    import asyncio

    from fractale.cli.running import own_stdout
    from fractale.text import nearest

    with own_stdout():  # local tools may print during their import
        known = asyncio.run(_schemas(extensions))
    if tool not in known:
        near = nearest(tool, known)
        raise UsageError(
            f"the registries have no tool `{tool}`",
            hint=f"did you mean `{near}`?" if near else "see them: fractale list tools -r FILE",
        )
    return known[tool]


async def _schemas(extensions: Extensions) -> dict[str, Mapping[str, Any]]:
    from dataclasses import replace

    from fractale.runs.preflight import tool_inputs
    from fractale.runs.workspace import Workspace

    alone = replace(options.settings_of(check_state=False), servers={})
    async with Workspace.open(alone, extensions=extensions) as workspace:
        return await tool_inputs(workspace.toolbox)


def _print(added: Added, *, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(added.as_dict()))
        return
    from fractale.render.problems import print_problems
    from fractale.render.text import inert

    for path in added.written:
        click.echo(f"wrote    {inert(str(path), 1000)}")
    for path in added.changed:
        click.echo(f"changed  {inert(str(path), 1000)}")
    if added.warnings:
        print_problems(list(added.warnings))
    click.echo(f"next: {inert(added.next, 1000)}")
