"""``fractale run --dry-run``: everything that a plan would run, start, import and send.

A dry run neither starts nor connects to a server, and imports nothing that the plan names. `show`
imports the modules that the user names with ``-r`` or ``-a``, to check the plan against them. The
text hides nothing of a stranger's plan: fractale shows the same text before it runs such a plan
for the first time (`fractale.cli.consent`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import click

from fractale.cli.render.questions import arguments_lines, exact
from fractale.errors import DependencyMissing, PlanError, TemplateError
from fractale.plain import to_json
from fractale.plan.expressions import references, render
from fractale.plan.job import job_data
from fractale.plan.model import Plan, Step, Value
from fractale.plan.needs import needs_model
from fractale.runs.workspace import Extensions
from fractale.settings import Settings, shown_url

OPENAI_URL = "https://api.openai.com/v1"
MOST_BLANKS = 40
"""The most blanks in a row, and the most empty lines. More are counted instead of shown, since
they could push text off the screen."""


def show(
    plan: Plan,
    inputs: Mapping[str, Any],
    settings: Settings,
    extensions: Extensions,
    *,
    as_json: bool,
) -> int:
    """Print what a run of the plan would do; returns the exit code.

    Raises:
        PlanError: The plan is invalid.
        InputError: The inputs are invalid.
    """
    from fractale.cli.commands.validate import offered_problems
    from fractale.plan.check import check_plan, in_order
    from fractale.plan.inputs import read_secrets

    problems = check_plan(plan)
    if extensions:
        problems = in_order([*problems, *offered_problems(plan, extensions)])
    if errors := [p for p in problems if p.severity == "error"]:
        raise PlanError(errors)
    secrets = read_secrets(plan, settings.environment)
    found = describe(plan, shown_inputs(plan, inputs), settings, extensions)
    found["missing_secrets"] = [
        name for name, s in plan.inputs.items() if s.secret and name not in secrets
    ]
    if as_json:
        click.echo(to_json(found))
    else:
        click.echo(_as_text(plan, found))
    return 0


def shown_inputs(plan: Plan, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """All inputs of a run as the user sees them: secret ones are ``***``.

    Raises:
        InputError: The inputs are not those that the plan expects.
    """
    from fractale.plan.inputs import bind_inputs

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
    models = sorted({s["model"] or settings.model_spec for s in steps if s["needs_model"]})
    return {
        "plan": plan.name,
        "file": _real(plan.file),
        "included": sorted(set(_included(plan))),
        "inputs": dict(inputs or {}),
        "steps": steps,
        **uses,
        "jobs": [s["name"] for s in steps if s["job"]],
        "models": models,
        "sent_to": [{"model": spec, "address": _address(spec, settings)} for spec in models],
        "servers": list(servers),
        "confined": _confined(steps, settings, servers),
        "server_addresses": [_server(name, settings) for name in servers],
        "registries": extensions.paths,
        "sub_agents": [*extensions.agents, *(ref.path for ref in plan.agents)],
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
    for ref in plan.agents:
        yield {"path": ref.path, "named_by": "the plan (only if it is a registered sub-agent)"}


def _steps(
    plan: Plan, inputs: Mapping[str, Any] | None, prefix: str = ""
) -> Iterator[dict[str, Any]]:
    """The steps, also of included plans, whose inputs are not known before the run."""
    for step in plan.walk():
        yield _step(step, prefix, inputs)
        if step.plan is not None:
            yield from _steps(step.plan, None, f"{prefix}{step.name}/")


def _step(step: Step, prefix: str, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    job: dict[str, Any] | None = None
    if step.job is not None:
        known = {key: _known(value, inputs) for key, value in step.job.values().items()}
        job = {**job_data(step.job), **{k: v for k, v in known.items() if k != "time"}}
    return {
        "name": prefix + step.name,
        "type": step.kind,
        "target": step.target,
        "description": step.description,
        "instruction": _known(step.instruction, inputs),
        "inputs": {key: _known(value, inputs) for key, value in step.inputs.items()},
        "model": step.model,
        "needs_model": needs_model(step),
        "may_call": None if step.tools is None else list(step.tools),
        "approve": step.approve,
        "job": job,
    }


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


# -- as text --------------------------------------------------------------------------------------


def _as_text(plan: Plan, found: dict[str, Any]) -> str:
    lines = text_lines(plan, found)
    return "\n".join([*lines, "nothing was run and no connection was opened"])


def text_lines(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """The result of `describe` as lines of text; nothing is cut, and no character is hidden."""
    from fractale.plan import draw

    lines = [draw.text(plan).rstrip("\n"), ""]
    for step in found["steps"]:
        lines += _step_lines(step)
    lines += [
        _row("input", f"{name} = {exact(to_json(value))}")
        for name, value in found["inputs"].items()
    ]
    for label in ("tools", "prompts", "agents", "jobs", "models", "servers", "registries"):
        lines.append(_row(label, exact(", ".join(found[label])) or "none"))
    lines += [_row("confined", exact(f"{name}: {how}")) for name, how in found["confined"].items()]
    limits = {k: v for k, v in found["limits"].items() if v is not None}
    lines.append(_row("limits", ", ".join(f"{k} {v:g}" for k, v in limits.items()) or "none"))
    lines += [_row("includes", exact(path)) for path in found["included"]]
    lines += [
        _row("imports", exact(f"{each['path']}   named by {each['named_by']}"))
        for each in found["imports"]
    ]
    for server in found["server_addresses"]:
        for verb in ("starts", "connects"):
            if server[verb]:
                lines.append(_row(verb, exact(f"{server['name']}: {server[verb]}")))
    lines += [
        _row("sends", exact(f"prompts to {each['model']}: {each['address']}"))
        for each in found["sent_to"]
    ]
    return [_without_gaps(line) for line in lines]


def _row(label: str, text: str) -> str:
    return f"{label:<10} {text}"


def _step_lines(step: Mapping[str, Any]) -> list[str]:
    """A step with all its values."""
    given: dict[str, Any] = dict(step["inputs"])
    if step["instruction"]:
        given = {"instruction": step["instruction"], **given}
    kind, what, below = str(step["type"]), str(step["target"] or ""), list[str]()
    if (job := cast("dict[str, Any] | None", step["job"])) is not None:
        kind = "job"
        what = f"submitted to {job.get('scheduler') or 'the scheduler of this machine'}"
        below = list(_program_lines(job))
        rest = ("outputs", "scheduler", "command", "script")
        given = {k: v for k, v in job.items() if k not in rest and v is not None}
    if not given and not below:
        return []
    head = f"{step['name']}  {kind}  {what}".rstrip()
    below += arguments_lines(given) if given else []
    return [exact(head), *(f"    {line}" for line in below), ""]


def _program_lines(job: Mapping[str, Any]) -> Iterator[str]:
    """The command of a job, quoted for a shell, or its script."""
    command: Any = job.get("command")
    if isinstance(command, list):
        command = " ".join(map(_word, cast("list[Any]", command)))
    if command is not None:
        first, *rest = exact(str(command)).split("\n")
        yield f"command  {first}"
        yield from (f"  │ {line}" for line in rest)
    if job.get("script") is not None:
        yield "script"
        yield from (f"  │ {line}" for line in exact(str(job["script"])).rstrip("\n").split("\n"))


def _word(word: Any) -> str:
    """A word of a command, quoted for a shell."""
    return shlex.quote(word) if isinstance(word, str) else to_json(word)


def _without_gaps(text: str) -> str:
    """A text with long gaps replaced by their length, so that the text after them is seen."""
    text = re.sub(rf" {{{MOST_BLANKS},}}(?=\S)", lambda found: f" [{len(found[0])} blanks] ", text)
    return re.sub(
        r"(\n[ │]*){8,}", lambda found: f"\n[{found[0].count(chr(10)) - 1} empty lines]\n", text
    )
