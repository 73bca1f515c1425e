"""What `optimize` is asked: its inputs read and checked, and what it asks its model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from fractale.agents.arguments import faults_of_call
from fractale.agents.measure import METRIC_SCHEMA, Metric, find_named, read_metric
from fractale.agents.search import ALGORITHMS, DIRECTIONS, Algorithm, check_fit, propose
from fractale.agents.space import Parameter, faults_of, read_space, typed
from fractale.agents.subagent import AgentHost, AgentRequest
from fractale.agents.trials import (
    HOW,
    Proposal,
    StopRules,
    Trial,
    arguments_for,
    best_trial,
    shown,
)
from fractale.errors import ModelError, ToolError, UsageError
from fractale.toolbox import ToolInfo

DEFAULT_TRIALS = 10
MOST_TRIALS = 500
DEFAULT_FAILURES = 3

SHOWN_ERROR = 300
"""Characters of a trial's error that the model is shown."""

SHOWN_CALL = 4000
"""Characters of the tool's arguments that the model is shown."""

MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is tuned, by whom, and when it is enough.

    Args:
        arguments: The fixed arguments of the tool, with places for the parameters.
        space: The parameters as they were given.
        parameters: The same, read.
        start: Points to try first.
        with_model: Whether a model decides about each proposal.
        rules: When the search is over.
    """

    host: AgentHost
    goal: str
    tool: ToolInfo
    arguments: Mapping[str, Any]
    space: Mapping[str, Any]
    parameters: Mapping[str, Parameter]
    metric: Metric
    algorithm: Algorithm
    seed: int
    start: Sequence[Mapping[str, Any]]
    with_model: bool
    rules: StopRules


async def read_task(host: AgentHost, request: AgentRequest) -> Task:
    """What `optimize` is asked.

    Raises:
        ToolError: The inputs contradict each other, there is no such tool, or it can't be called
            with the arguments.
    """
    given = request.inputs
    parameters = read_space(given["space"])
    algorithm: Algorithm = given.get("algorithm") or "tpe"
    check_fit(parameters, algorithm)
    task = Task(
        host=host,
        goal=_goal(str(given.get("goal") or ""), request.instruction),
        tool=await _tool(host, given["tool"]),
        arguments=given.get("arguments") or {},
        space=given["space"],
        parameters=parameters,
        metric=read_metric(given["metric"]),
        algorithm=algorithm,
        seed=int(given.get("seed") or 0),
        start=_start(parameters, given.get("start") or []),
        with_model=_with_model(host, given.get("decide")),
        rules=_rules(given),
    )
    _check_call(task)
    return task


def _check_call(task: Task) -> None:
    """See that the tool can be called in the first trial, before anything is asked or run.

    Raises:
        ToolError: It can't.
    """
    first = task.start[0] if task.start else propose(task.space, [], task.algorithm, task.seed)
    call = arguments_for(task.arguments, first or {}, 1)
    if faults := faults_of_call(task.tool.input_schema, call):
        raise ToolError(
            f"`{task.tool.name}` can't take these arguments: {'; '.join(faults)}",
            hint=HOW.format(next(iter(task.parameters))),
        )


def _goal(goal: str, instruction: str) -> str:
    """Both, once: a plan's `goal` is its step's instruction, too."""
    return "\n".join(dict.fromkeys(part for part in (goal, instruction) if part))


def _rules(given: Mapping[str, Any]) -> StopRules:
    target = given.get("target")
    return StopRules(
        direction=given["direction"],
        max_trials=int(given.get("max_trials") or DEFAULT_TRIALS),
        patience=given.get("patience"),
        target=None if target is None else float(target),
        max_failures=int(given.get("max_failures") or DEFAULT_FAILURES),
    )


async def _tool(host: AgentHost, name: str) -> ToolInfo:
    tools = await host.tools()
    known = {tool.qualified_name: tool for tool in tools} | {tool.name: tool for tool in tools}
    return find_named(name, known, "tool")


def _start(
    parameters: Mapping[str, Parameter], points: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    for index, point in enumerate(points):
        if faults := faults_of(parameters, point):
            raise ToolError(f"`start[{index}]` is not in the space: {'; '.join(faults)}")
    return [typed(parameters, point) for point in points]


def _with_model(host: AgentHost, decide: str | None) -> bool:
    """Whether a model decides: as was said, else wherever there is one."""
    if decide is not None:
        return decide == MODEL
    try:
        host.chat_model()
    except (UsageError, ModelError):
        return False
    return True


# -- what the model is asked --------------------------------------------------------------------


def decision_schema(task: Task) -> dict[str, Any]:
    """JSON Schema of the model's decision: settings of its own are held to the space."""
    return {
        "type": "object",
        "properties": {
            "why": {"type": "string", "description": "What the decision rests on."},
            "stop": {"type": "boolean", "description": "End the search."},
            "use": {"enum": ["algorithm", "own"]},
            "params": {
                "type": "object",
                "description": "Your own settings; only with `use: own`.",
                "properties": {name: p.schema() for name, p in task.parameters.items()},
                "required": list(task.parameters),
                "additionalProperties": False,
            },
        },
        "required": ["why", "stop", "use"],
        "additionalProperties": False,
    }


def messages(task: Task, trials: Sequence[Trial], offer: Proposal) -> list[BaseMessage]:
    """What the model is asked before a trial; its part is in `optimize.md`."""
    prompt = resources.files(__package__ or "").joinpath("optimize.md")
    about = task.tool.description.strip().partition("\n")[0]
    best = best_trial(trials, task.rules.direction)
    parts = [
        task.goal,
        f"The job: the tool `{task.tool.name}`{': ' + about if about else ''}",
        _call(task),
        f"The figure of merit: {task.metric.name}, to {task.rules.direction}",
        f"The space: {_json(task.space)}",
        _limits(task, trials),
        "\n".join(["Trials so far:", *map(_line, shown(trials, task.rules.direction))])
        if trials
        else "",
        f"The best: trial {best['number']}" if best else "",
        f"The algorithm ({offer['source']}) proposes: {_json(offer['params'])}",
    ]
    return [
        SystemMessage(prompt.read_text(encoding="utf-8")),
        HumanMessage("\n\n".join(part for part in parts if part)),
    ]


def _call(task: Task) -> str:
    """What is run: the arguments, with the parameters in their places."""
    if not task.arguments:
        return "Each parameter is an argument of that name."
    call = _json(dict(task.arguments))[:SHOWN_CALL]
    return f"Its arguments, in which {{NAME}} stands for the parameter NAME: {call}"


def _limits(task: Task, trials: Sequence[Trial]) -> str:
    target = "" if task.rules.target is None else f" The target: {task.rules.target:g}."
    return f"{len(trials)} of at most {task.rules.max_trials} trials were made.{target}"


def _line(trial: Trial) -> str:
    line: dict[str, Any] = {"trial": trial["number"], "params": trial["params"]}
    if trial["ok"]:
        line["value"] = trial["value"]
    else:
        line["failed"] = (trial["error"] or "")[:SHOWN_ERROR]
    return _json({**line, "from": trial["source"], "seconds": trial["seconds"]})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# -- the schemas -------------------------------------------------------------------------------

INPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "goal": {"type": "string", "description": "What the job is, and what is known of it."},
        "space": {
            "type": "object",
            "minProperties": 1,
            "description": (
                "The parameters: name -> {type: int|float, low, high, log, step}, or "
                "{type: categorical, choices: [...]}."
            ),
        },
        "direction": {"enum": list(DIRECTIONS)},
        "tool": {"type": "string", "description": "The tool that runs one trial."},
        "arguments": {
            "type": "object",
            "description": (
                "Its fixed arguments. {NAME} in a text stands for the parameter NAME, as in "
                "{command: [lmp, -np, '{ranks}']}, and {trial} for the trial's number; a parameter "
                "written nowhere becomes an argument of its own name."
            ),
        },
        "metric": METRIC_SCHEMA,
        "max_trials": {
            "type": "integer",
            "minimum": 1,
            "maximum": MOST_TRIALS,
            "description": f"The budget (default {DEFAULT_TRIALS}); failed trials count.",
        },
        "patience": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "End after so many trials without a better one.",
        },
        "target": {"type": ["number", "null"], "description": "End at a value this good."},
        "max_failures": {
            "type": "integer",
            "minimum": 1,
            "description": f"Fail after so many failures in a row (default {DEFAULT_FAILURES}).",
        },
        "algorithm": {"enum": list(ALGORITHMS), "description": "Default: tpe."},
        "seed": {"type": "integer", "minimum": 0, "description": "Default: 0."},
        "start": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Points to try first, such as the settings of today.",
        },
        "decide": {
            "enum": ["algorithm", MODEL, None],
            "description": (
                "Whether a model may take the algorithm's proposal or make its own; by default "
                "where there is a model."
            ),
        },
        "instruction": {"type": "string", "description": "What else the model should know."},
    },
    "required": ["space", "direction", "tool", "metric"],
}

OUTPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "success": {"type": "boolean"},
        "best": {
            "type": ["object", "null"],
            "properties": {"params": {"type": "object"}, "value": {"type": "number"}},
        },
        "trials": {"type": "array", "items": {"type": "object"}},
        "stopped_by": {"enum": ["target", "failures", "budget", "patience", "exhausted", MODEL]},
        "why": {"type": "string", "description": "Why the model ended the search."},
        "algorithm": {"enum": list(ALGORITHMS)},
        "seed": {"type": "integer"},
        "error": {"type": "string"},
    },
    "required": ["success", "best", "trials", "stopped_by", "algorithm", "seed"],
}
