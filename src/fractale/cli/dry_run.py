"""``fractale run --dry-run``: what would run, without opening a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fractale.errors import DependencyMissing, PlanError
from fractale.plain import to_json
from fractale.plan.dump import job_data
from fractale.plan.model import Plan, Step
from fractale.plan.needs import needs_model
from fractale.settings import Settings


def show(
    plan: Plan,
    inputs: Mapping[str, Any],
    settings: Settings,
    registries: Sequence[Path],
    agents: Sequence[str],
    *,
    as_json: bool,
) -> int:
    """Print what a run of the plan would do; returns the exit code.

    Raises:
        PlanError: The plan is invalid.
        InputError: The inputs are.
    """
    from fractale.cli.validate import offered_problems
    from fractale.plan.check import check_plan
    from fractale.plan.inputs import bind_inputs, read_secrets
    from fractale.plan.problems import in_order

    problems = check_plan(plan)
    if registries or agents:
        problems = in_order([*problems, *offered_problems(plan, registries, agents)])
    if errors := [p for p in problems if p.severity == "error"]:
        raise PlanError(errors)
    secrets = read_secrets(plan, settings.environment)
    values = bind_inputs(plan, inputs, {n: "?" for n, s in plan.inputs.items() if s.secret})
    shown = {**values, **{name: "***" for name, s in plan.inputs.items() if s.secret}}
    found = describe(plan, shown, settings, registries, agents)
    found["missing_secrets"] = [
        name for name, s in plan.inputs.items() if s.secret and name not in secrets
    ]
    if as_json:
        click.echo(to_json(found))
    else:
        click.echo(_as_text(plan, found))
    return 0


def describe(
    plan: Plan,
    inputs: Mapping[str, Any],
    settings: Settings,
    registries: Sequence[Path],
    agents: Sequence[str],
) -> dict[str, Any]:
    """What would run, as JSON: inputs, steps, tools, prompts, agents, models, servers."""
    steps = list(_steps(plan))
    kinds = {"tools": "tool", "prompts": "prompt", "agents": "agent"}
    uses = {
        key: sorted({s["target"] or "ask" for s in steps if s["type"] == kind})
        for key, kind in kinds.items()
    }
    servers = plan.servers if plan.servers is not None else tuple(settings.servers)
    return {
        "plan": plan.name,
        "inputs": dict(inputs),
        "steps": steps,
        **uses,
        "jobs": [s["name"] for s in steps if s["job"]],
        "models": sorted({s["model"] or settings.model_spec for s in steps if s["needs_model"]}),
        "servers": list(servers),
        "confined": _confined(steps, settings, servers),
        "registries": [str(path) for path in registries],
        "sub_agents": [*agents, *(ref.path for ref in plan.agents)],
        "limits": {k: getattr(plan.limits, k) for k in type(plan.limits).__slots__},
        "state_dir": str(settings.state_dir),
    }


def _confined(
    steps: Sequence[Mapping[str, Any]], settings: Settings, servers: Sequence[str]
) -> dict[str, str]:
    """Job or server that is to be confined → how."""
    names = [str(s["name"]) for s in steps if s["job"] and s["job"].get("confine")]
    there = [settings.servers[name] for name in servers if name in settings.servers]
    names += [server.name for server in there if server.confine]
    if not names:
        return {}
    from fractale.confine.ways import find_way

    try:
        how: str = find_way(settings.environment).name
    except DependencyMissing as error:
        how = f"not possible: {error.message}"
    return dict.fromkeys(names, how)


def _steps(plan: Plan, prefix: str = "") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in plan.walk():
        rows.append(_step(step, prefix))
        if step.plan is not None:
            rows += _steps(step.plan, f"{prefix}{step.name}/")
    return rows


def _step(step: Step, prefix: str) -> dict[str, Any]:
    return {
        "name": prefix + step.name,
        "type": step.kind,
        "target": step.target,
        "description": step.description,
        "model": step.model,
        "needs_model": needs_model(step),
        "may_call": None if step.tools is None else list(step.tools),
        "approve": step.approve,
        "job": job_data(step.job) if step.job else None,
    }


def _as_text(plan: Plan, found: dict[str, Any]) -> str:

    from fractale.cli.text import inert
    from fractale.plan import draw

    lines = [draw.text(plan).rstrip("\n"), ""]
    lines += [
        f"{'input':<10} {name} = {inert(to_json(value), 100)}"
        for name, value in found["inputs"].items()
    ]
    for label in ("tools", "prompts", "agents", "jobs", "models", "servers", "registries"):
        lines.append(f"{label:<10} {', '.join(found[label]) or 'none'}")
    lines += [f"{'confined':<10} {name}: {how}" for name, how in found["confined"].items()]
    limits = {k: v for k, v in found["limits"].items() if v is not None}
    lines.append(f"{'limits':<10} {', '.join(f'{k} {v:g}' for k, v in limits.items()) or 'none'}")
    lines.append("nothing was run and no connection was opened")
    return "\n".join(lines)
