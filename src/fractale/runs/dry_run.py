"""The effects of a run before it starts: everything it would run, start, import and send.

Nothing is started, connected to or imported, except that the files of the user's registries are
read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fractale.errors import DependencyMissing, TemplateError
from fractale.plan.expressions import references, render
from fractale.plan.forms import part_data
from fractale.plan.inputs import bind_inputs
from fractale.plan.job import job_data
from fractale.plan.model import Plan, Step, Value
from fractale.plan.needs import models_of, needs_model
from fractale.runs.workspace import Extensions
from fractale.settings import Settings, shown_url

STEP_KEYS: Final = (
    *("approve", "judge", "creates", "needs", "default_after"),
    *("until", "every", "timeout", "retry", "cache"),
)
"""Keys of a step, beside its call, that decide what it does and how often."""

OPENAI_URL = "https://api.openai.com/v1"


def shown_inputs(plan: Plan, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """All inputs of a run as the user sees them: secret ones are ``***``.

    Raises:
        InputError: The inputs are not those that the plan expects.
    """
    hidden = [name for name, spec in plan.inputs.items() if spec.secret]
    values = bind_inputs(plan, inputs, dict.fromkeys(hidden, "?"))
    return {**values, **dict.fromkeys(hidden, "***")}


def describe(
    plan: Plan,
    inputs: Mapping[str, Any] | None,
    settings: Settings,
    extensions: Extensions | None = None,
) -> dict[str, Any]:
    """Everything that the plan would do, as JSON, as far as it is known before the run.

    Templates that need only the inputs are filled in. Other templates stay as they are written.

    Args:
        inputs: The result of `shown_inputs`; None: describe the plan without inputs.
    """
    extensions = extensions or Extensions()
    steps = list(_steps(plan, inputs))
    kinds = {"tools": "tool", "prompts": "prompt", "agents": "agent"}
    uses = {
        key: sorted({s["target"] or "ask" for s in steps if s["type"] == kind})
        for key, kind in kinds.items()
    }
    servers = plan.servers if plan.servers is not None else tuple(settings.servers)
    models = sorted({name or settings.model_spec for name in models_of(plan)})
    return {
        "plan": plan.name,
        "file": _real(plan.file),
        "included": sorted(set(_included(plan))),
        "inputs": dict(inputs or {}),
        "steps": steps,
        "experts": list(_experts(plan)),
        **uses,
        "jobs": [s["name"] for s in steps if s["job"] and s["type"] != "script"],
        "scripts": [s["name"] for s in steps if s["type"] == "script"],
        "models": models,
        "sent_to": [{"model": spec, "address": _address(spec, settings)} for spec in models],
        "servers": list(servers),
        "confined": _confined(steps, settings, servers),
        "server_addresses": [_server(name, settings) for name in servers],
        "registries": extensions.paths,
        "sub_agents": [*extensions.agents, *(ref.path for ref in plan.registered)],
        "imports": [*_imports(extensions, plan)],
        "limits": {k: getattr(plan.limits, k) for k in type(plan.limits).__slots__},
        "state_dir": str(settings.state_dir),
    }


def _confined(
    steps: Sequence[Mapping[str, Any]], settings: Settings, servers: Sequence[str]
) -> dict[str, str]:
    """Job or server that will be confined → how."""
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


def _real(file: str) -> str:
    return file if file.startswith("<") else os.path.realpath(file)


def _included(plan: Plan) -> Iterator[str]:
    for step in plan.walk():
        if step.plan is not None:
            yield _real(step.plan.file)
            yield from _included(step.plan)


def _address(spec: str, settings: Settings) -> str:
    """The address to which a model's prompts are sent."""
    provider = spec.partition(":")[0]
    if provider == "local":
        return "nowhere: the model runs in this process"
    known = {
        "openai": settings.openai_base_url or OPENAI_URL,
        "gemini": settings.gemini_base_url,
    }
    url = known.get(provider)
    return shown_url(url) if url else f"the address of the provider `{provider}`"


def _server(name: str, settings: Settings) -> dict[str, Any]:
    server = settings.servers.get(name)
    if server is None:
        return {"name": name, "starts": None, "connects": None}
    if server.url:
        return {"name": name, "starts": None, "connects": server.address}
    return {"name": name, "starts": server.address, "connects": None}


def _imports(extensions: Extensions, plan: Plan) -> Iterator[dict[str, str]]:
    """Dotted paths that a run would import, each with the source that names it."""
    for registry in extensions.files:
        for entry in registry.entries:
            yield {"path": entry.path, "named_by": registry.file}
    yield from ({"path": path, "named_by": "-a"} for path in extensions.agents)
    for ref in plan.registered:
        yield {"path": ref.path, "named_by": "the plan (only if it is a registered sub-agent)"}


def _steps(
    plan: Plan, inputs: Mapping[str, Any] | None, prefix: str = ""
) -> Iterator[dict[str, Any]]:
    """The steps, also of included plans, whose inputs are not known before the run."""
    for step in plan.walk():
        yield _step(step, prefix, inputs)
        if step.plan is not None:
            yield from _steps(step.plan, None, f"{prefix}{step.name}/")


def _experts(plan: Plan, prefix: str = "") -> Iterator[dict[str, Any]]:
    """The agents that the plan, and the plans inside it, write themselves."""
    for expert in plan.experts:
        yield {**part_data(expert), "name": prefix + expert.name}
    for step in plan.walk():
        if step.plan is not None:
            yield from _experts(step.plan, f"{prefix}{step.name}/")


def _step(step: Step, prefix: str, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    job: dict[str, Any] | None = None
    if step.job is not None:
        known = {key: _known(value, inputs) for key, value in step.job.values().items()}
        job = {**job_data(step.job), **{k: v for k, v in known.items() if k != "time"}}
    given = step.inputs if step.job is not None else step.rendered
    return {
        "name": prefix + step.name,
        "type": step.kind,
        "target": step.target,
        "description": step.description,
        "instruction": _known(step.instruction, inputs),
        "inputs": {key: _known(value, inputs) for key, value in given.items()},
        "model": step.model,
        "needs_model": needs_model(step),
        "may_call": None if step.tools is None else list(step.tools),
        "approve": step.approve,
        **_keys(step, inputs),
        **({"reason": _known(step.reason, inputs)} if step.reason else {}),
        "job": job,
    }


def _keys(step: Step, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of `STEP_KEYS` that the step has, as a file has them."""
    written = part_data(step)
    filled = {"creates": list(step.creates), "needs": list(step.needs), "judge": step.judge}
    written |= {key: _known(value, inputs) for key, value in filled.items() if key in written}
    return {key: written[key] for key in STEP_KEYS if key in written}


def _known(value: Value, inputs: Mapping[str, Any] | None) -> Any:
    """A value with its templates filled in if they need only the inputs; otherwise unchanged."""
    if isinstance(value, dict):
        return {key: _known(each, inputs) for key, each in value.items()}
    if isinstance(value, list):
        return [_known(each, inputs) for each in value]
    source = getattr(value, "source", value)
    needs = {reference.path[0] for reference in references(value)}
    if inputs is None or (source is not value and needs - {"inputs"}):
        return source
    try:
        return render(value, {"inputs": dict(inputs)})
    except TemplateError:
        return source
