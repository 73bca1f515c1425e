"""``fractale validate``: report every error of plans at once."""

from __future__ import annotations

from typing import Any

import click

from fractale.cli import options
from fractale.cli.options import complete_plans
from fractale.errors import PlanError, Problem
from fractale.plan.model import Plan
from fractale.runs.workspace import Extensions
from fractale.settings import Settings


@click.command("validate")
@click.argument("plans", nargs=-1, required=True, type=click.Path(), shell_complete=complete_plans)
@options.tool_options
@options.trust_option
@click.option("--online", is_flag=True, help="Also check against the servers of the settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
@options.collected
def command(plans: tuple[str, ...], *, online: bool, given: options.CommandLine) -> int:
    """Check PLANs and report all errors at once, each with its file and line.

    With -r or -a, also check tools, prompts, agents and their arguments, without a connection. With
    --online, also check them against the servers of the settings.
    """
    from fractale.render.problems import print_problems

    problems: list[Problem] = []
    for path in plans:
        problems += check(path, given.extensions, online=online)
    errors = sum(1 for problem in problems if problem.severity == "error")
    if given.as_json:
        _print_json(plans, problems)
    else:
        print_problems(problems)
        if not problems:
            count = "1 plan" if len(plans) == 1 else f"{len(plans)} plans"
            click.echo(f"{count}: no problems", err=True)
    return 3 if errors else 0


def check(path: str, extensions: Extensions, *, online: bool) -> list[Problem]:
    """Every problem of one plan file."""
    from fractale.plan.check import file_problems, in_order

    plan, problems = file_problems(path)
    if plan is None or not (online or extensions):
        return problems
    return in_order([*problems, *offered_problems(plan, extensions, online=online)])


def offered_problems(plan: Plan, extensions: Extensions, *, online: bool = False) -> list[Problem]:
    """Problems of a plan with the available tools, prompts and agents.

    Args:
        online: Whether to ask the servers of the settings, too.
    """
    import asyncio

    from fractale.cli.running import own_stdout
    from fractale.runs.preflight import check_local

    settings = options.settings_of(acts=online, check_state=False)
    check = _check_online if online else check_local
    with own_stdout():  # local tools may print during their import
        try:
            return asyncio.run(check(plan, settings, extensions))
        except PlanError as error:  # a registry file is invalid
            return error.problems


async def _check_online(plan: Plan, settings: Settings, extensions: Extensions) -> list[Problem]:
    from fractale.runs.preflight import check_online
    from fractale.runs.workspace import Workspace

    warn = options.warn_of_server
    async with Workspace.open(settings, plan, extensions, on_log=warn) as workspace:
        lost = [
            Problem("server-unreachable", f"server `{s.name}`: {s.error}", plan.position)
            for s in await workspace.toolbox.servers()
            if not s.connected
        ]
        return lost or await check_online(plan, workspace.toolbox, workspace.agents)


def _print_json(plans: tuple[str, ...], problems: list[Problem]) -> None:
    import json

    click.echo(json.dumps({"plans": list(plans), "problems": [_as_dict(p) for p in problems]}))


def _as_dict(problem: Problem) -> dict[str, Any]:
    place = problem.position
    return {
        "code": problem.code,
        "severity": problem.severity,
        "message": problem.message,
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
        "path": problem.path,
        "suggestion": problem.suggestion,
    }
