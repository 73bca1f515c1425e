"""Translates a batch script between workload managers, and lets nothing pass unchecked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fractale.agents.jobspec_graph import (
    DIRECTIVES,
    Task,
    Translating,
    pair_of,
    translation_graph,
)
from fractale.agents.subagent import AgentAnswer, AgentHost, AgentRequest, Subagent
from fractale.agents.translations import manager_of
from fractale.schedulers.homes import scheduler_named

DEFAULT_TRIES = 4


async def run(host: AgentHost, request: AgentRequest) -> AgentAnswer:
    """Translate the script.

    Raises:
        ToolError: The validator is not there.
        TransportError: The validator's server was lost.
        PolicyError: The validator that was asked for may not be called.
        ModelUnavailable: The model is busy or out of reach.
        LimitReached: A limit of the run is used up.
    """
    task = _task(host, request)
    state = Translating(tries=0)
    if task.source == task.target:
        state["jobspec"] = task.script
    after: Translating = await translation_graph().ainvoke(state, request.config, context=task)
    return _answer(task, after)


def _task(host: AgentHost, request: AgentRequest) -> Task:
    given = request.inputs
    script = str(given["script"])
    source = scheduler_named(str(given.get("source") or "")) or manager_of(script)
    return Task(
        host=host,
        script=script,
        source=source,
        target=scheduler_named(str(given["target"])),
        validator=str(given.get("validator") or ""),
        error=str(given.get("error") or ""),
        instruction=request.instruction,
        max_tries=int(given.get("max_tries") or DEFAULT_TRIES),
    )


def _answer(task: Task, after: Translating) -> AgentAnswer:
    jobspec, faults = after.get("jobspec", ""), after.get("faults", [])
    success = not faults and bool(after.get("validated_by"))
    no_analogue = after.get("no_analogue", [])
    outputs: dict[str, Any] = {
        "success": success,
        "jobspec": jobspec,
        "target": task.target,
        "tries": after.get("tries", 0),
        "validated_by": after.get("validated_by") if success else None,
        "no_analogue": [*no_analogue, *pair_of(task, after).without_counterpart()],
    }
    for key in ("notes", "warnings"):
        if value := after.get(key):
            outputs[key] = value
    if success:
        return AgentAnswer(outputs=outputs, text=jobspec)
    times = "once" if outputs["tries"] == 1 else f"{outputs['tries']} times"
    error = f"no valid script for {task.target} ({times} tried): {'; '.join(faults)}"
    return AgentAnswer(outputs={**outputs, "error": error}, text=error, error=error)


INPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "script": {"type": "string", "minLength": 1, "description": "The batch script's text."},
        "target": {
            "type": "string",
            "minLength": 1,
            "description": "The manager to translate it for: flux, slurm, pbs, lsf or another.",
        },
        "source": {
            "type": "string",
            "description": "The manager that it is for; by default that of its first directive.",
        },
        "validator": {
            "type": "string",
            "description": "The tool that validates; by default the one that fits best.",
        },
        "error": {"type": "string", "description": "Why an earlier translation failed."},
        "max_tries": {
            "type": "integer",
            "minimum": 1,
            "maximum": 50,
            "description": f"Translations of the model at most (default {DEFAULT_TRIES}).",
        },
        "instruction": {"type": "string", "description": "What else the model should know."},
    },
    "required": ["script", "target"],
}

OUTPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "success": {"type": "boolean"},
        "jobspec": {"type": "string", "description": "The translated script."},
        "target": {"type": "string"},
        "tries": {"type": "integer", "description": "Translations of the model."},
        "validated_by": {
            "type": ["string", "null"],
            "description": f"The tool, or `{DIRECTIVES}`: only the script's own lines.",
        },
        "no_analogue": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Directives that the target has nothing for.",
        },
        "notes": {"type": "string", "description": "What a person should look at."},
        "warnings": {"type": "array", "items": {"type": "string"}},
        "error": {"type": "string"},
    },
    "required": ["success", "jobspec", "target", "tries", "validated_by", "no_analogue"],
}

TRANSFORM_JOBSPEC = Subagent(
    name="transform_jobspec",
    description=(
        "Translates a batch script between workload managers (Slurm, Flux, PBS, LSF), validates "
        "and repairs it, and lists what has no analogue."
    ),
    input_schema=INPUTS,
    output_schema=OUTPUTS,
    run=run,
)
