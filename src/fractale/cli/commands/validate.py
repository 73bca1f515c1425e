"""``fractale validate``: every error of plans, at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fractale.cli import options
from fractale.cli.commands.run import complete_plans
from fractale.errors import PlanError, Problem
from fractale.plan.model import Plan
from fractale.settings import Settings


@click.command("validate")
@click.argument("plans", nargs=-1, required=True, type=click.Path(), shell_complete=complete_plans)
@options.tool_options
@options.trust_option
@click.option("--online", is_flag=True, help="Also ask the servers of the settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
def command(
    plans: tuple[str, ...],
    registries: tuple[Path, ...],
    agents: tuple[str, ...],
    *,
    online: bool,
    as_json: bool,
) -> int:
    """Check PLANs and report every error at once, with its place.

    With -r or -a the tools, prompts, agents and arguments are also checked against what those
    offer, without a connection; with --online, against the servers of the settings too.
    """
    from fractale.cli.render.problems import print_problems

    problems: list[Problem] = []
    for path in plans:
        problems += check(path, registries, agents, online=online)
    errors = sum(1 for problem in problems if problem.severity == "error")
    if as_json:
        _print_json(plans, problems)
    else:
        print_problems(problems)
        if not problems:
            count = "1 plan" if len(plans) == 1 else f"{len(plans)} plans"
            click.echo(f"{count}: no problems", err=True)
    return 3 if errors else 0


def check(
    path: str, registries: tuple[Path, ...], agents: tuple[str, ...], *, online: bool
) -> list[Problem]:
    """Every problem of one plan file."""
    from fractale.plan.check import file_problems, in_order

    plan, problems = file_problems(path)
    if plan is None or not (online or registries or agents):
        return problems
    return in_order([*problems, *offered_problems(plan, registries, agents, online=online)])


def offered_problems(
    plan: Plan, registries: Sequence[Path], agents: Sequence[str], *, online: bool = False
) -> list[Problem]:
    """What of a plan does not fit the tools, prompts and agents that there are.

    Args:
        online: Whether the servers of the settings are asked.
    """
    import asyncio

    from fractale.cli.running import own_stdout
    from fractale.runs.preflight import check_local

    settings = options.settings_of(acts=online, check_state=False)
    check = _check_online if online else check_local
    with own_stdout():  # what local tools print while they are imported goes to stderr
        try:
            return asyncio.run(check(plan, settings, registries, agents))
        except PlanError as error:  # of a registry file
            return error.problems


async def _check_online(
    plan: Plan, settings: Settings, registries: Sequence[Path], agents: Sequence[str]
) -> list[Problem]:
    from fractale.runs.opening import open_toolbox, own_agents
    from fractale.runs.preflight import check_online

    named: dict[str, Any] = {"registries": registries, "agents": agents}
    async with open_toolbox(settings, plan, **named, on_log=options.warn_of_server) as toolbox:
        lost = [
            Problem("server-unreachable", f"server `{s.name}`: {s.error}", plan.position)
            for s in await toolbox.servers()
            if not s.connected
        ]
        own = own_agents(plan, registries=registries, agents=agents)
        return lost or await check_online(plan, toolbox, own)


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
