"""Tunes a job for a figure of merit: proposes settings, runs them, measures, decides.

The agent is a graph with these nodes:

- propose: the algorithm proposes settings.
- decide: a model accepts them, replaces them with its own proposal, or ends the search.
- run: the tool runs one trial.
- measure: an agent reads the metric, if the tool's answer does not have it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from fractale.agents.ask import as_text
from fractale.agents.metric import (
    METRIC_SCHEMA,
    MetricSource,
    failure_in,
    find_named,
    number,
    read_metric,
    text_of,
    value_of,
)
from fractale.agents.search import (
    ALGORITHMS,
    DIRECTIONS,
    USER,
    Direction,
    Proposal,
    Search,
    StopRules,
    Trial,
    best_of,
    check_fit,
    failures_in_a_row,
    load_optuna,
    next_line,
    propose,
)
from fractale.agents.signatures import faults_of_call
from fractale.agents.space import Parameter, faults_of, read_space, typed
from fractale.agents.subagent import AgentAnswer, AgentContext, AgentRequest, Subagent
from fractale.errors import (
    CallError,
    ModelError,
    ModelUnavailable,
    PolicyError,
    ToolError,
    UsageError,
)
from fractale.toolbox import ToolInfo

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

DEFAULT_TRIALS = 10
MAX_TRIALS = 500
DEFAULT_FAILURES = 3

MAX_SHOWN_TRIALS = 50
"""The most trials that the model and the user see: the best trial, and the last ones."""

MAX_SHOWN_ERROR = 300
"""The most characters of a trial's error that the model sees."""

MAX_SHOWN_CALL = 4000
"""The most characters of the tool's arguments that the model sees."""

NODES_PER_TRIAL = 4

MODEL = "model"
"""`source` of a trial that the model proposed, and `stopped_by` if it ended the search."""


async def run(ctx: AgentContext, request: AgentRequest) -> AgentAnswer:
    """Search for the best settings.

    Raises:
        ToolError: The inputs contradict each other, or the tool is unknown.
        ModelUnavailable: The agent that reads the metric cannot reach its model.
        LimitReached: A limit of the run is used up.
        DependencyMissing: Optuna is not installed.
    """
    load_optuna()
    task = await _read_task(ctx, request)
    config: RunnableConfig = {
        **(request.config or {}),
        "recursion_limit": NODES_PER_TRIAL * task.search.rules.max_trials + 10,
    }
    after = await _graph().ainvoke(SearchState(trials=[]), config, context=task)
    return _answer(task, cast("SearchState", after))


# -- the task -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningTask:
    """A tuning task: the tool, the parameters, and the search.

    Args:
        arguments: The fixed arguments of the tool, with placeholders for the parameters.
        parameters: The space of the search, parsed.
        with_model: Whether a model decides about each proposal.
    """

    ctx: AgentContext
    goal: str
    tool: ToolInfo
    arguments: Mapping[str, Any]
    parameters: Mapping[str, Parameter]
    metric: MetricSource
    search: Search
    with_model: bool


async def _read_task(ctx: AgentContext, request: AgentRequest) -> TuningTask:
    """Read and check the inputs.

    Raises:
        ToolError: The inputs contradict each other, the tool is unknown, or it cannot be called
            with the arguments.
    """
    given = request.inputs
    parameters = read_space(given["space"])
    search = Search(
        space=given["space"],
        rules=_rules(given),
        algorithm=given.get("algorithm") or "tpe",
        seed=int(given.get("seed") or 0),
        start=_start(parameters, given.get("start") or []),
    )
    check_fit(parameters, search.algorithm)
    task = TuningTask(
        ctx=ctx,
        goal=_goal(str(given.get("goal") or ""), request.instruction),
        tool=await _tool(ctx, given["tool"]),
        arguments=given.get("arguments") or {},
        parameters=parameters,
        metric=read_metric(given["metric"]),
        search=search,
        with_model=_with_model(ctx, given.get("decide")),
    )
    _check_call(task)
    return task


def _check_call(task: TuningTask) -> None:
    """Check that the first trial can call the tool, before the user is asked or a trial is run.

    Raises:
        ToolError: The tool cannot be called.
    """
    search = task.search
    first = (
        search.start[0]
        if search.start
        else propose(search.space, [], search.algorithm, search.seed)
    )
    call = arguments_for(task.arguments, first or {}, 1)
    if faults := faults_of_call(task.tool.input_schema, call):
        raise ToolError(
            f"`{task.tool.name}` can't take these arguments: {'; '.join(faults)}",
            hint=HOW.format(next(iter(task.parameters))),
        )


def _goal(goal: str, instruction: str) -> str:
    """Both texts, without a repetition: a plan's `goal` is also its step's instruction."""
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


async def _tool(ctx: AgentContext, name: str) -> ToolInfo:
    tools = await ctx.tools()
    known = {tool.qualified_name: tool for tool in tools} | {tool.name: tool for tool in tools}
    return find_named(name, known, "tool")


def _start(
    parameters: Mapping[str, Parameter], points: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    for index, point in enumerate(points):
        if faults := faults_of(parameters, point):
            raise ToolError(f"`start[{index}]` is not in the space: {'; '.join(faults)}")
    return [typed(parameters, point) for point in points]


def _with_model(ctx: AgentContext, decide: str | None) -> bool:
    """Whether a model decides: by `decide`, or by default if the step has a model."""
    if decide is not None:
        return decide == MODEL
    try:
        ctx.chat_model()
    except (UsageError, ModelError):
        return False
    return True


# -- the graph ----------------------------------------------------------------------------------


class SearchState(TypedDict, total=False):
    """The agent's state. An agent must still read `log`, of a trial that took `seconds`."""

    trials: list[Trial]
    next: Proposal | None
    log: str | None
    seconds: float
    stopped_by: str | None
    why: str


def _graph() -> Any:
    builder: Any = StateGraph(SearchState, context_schema=TuningTask)
    builder.add_node("propose", _propose)
    builder.add_node("decide", _decide)
    builder.add_node("run", _run)
    builder.add_node("measure", _measure)
    builder.add_edge(START, "propose")
    builder.add_conditional_edges("propose", _after_proposal, ["decide", "run", END])
    builder.add_conditional_edges("decide", _after_decision, ["run", END])
    builder.add_conditional_edges("run", _after_run, ["measure", "propose"])
    builder.add_edge("measure", "propose")
    return builder.compile(name="optimize")


def _after_proposal(state: SearchState, runtime: Runtime[TuningTask]) -> str:
    proposal = state.get("next")
    if proposal is None:
        return END
    return "decide" if runtime.context.with_model and proposal["source"] != USER else "run"


def _after_decision(state: SearchState) -> str:
    return END if state.get("stopped_by") else "run"


def _after_run(state: SearchState) -> str:
    return "propose" if state.get("log") is None else "measure"


async def _propose(state: SearchState, runtime: Runtime[TuningTask]) -> SearchState:
    proposal = runtime.context.search.propose(state.get("trials", []))
    if isinstance(proposal, str):
        return SearchState(next=None, stopped_by=proposal)
    return SearchState(next=proposal)


async def _decide(state: SearchState, runtime: Runtime[TuningTask]) -> SearchState:
    task, offer = runtime.context, _next(state)
    trials = state.get("trials", [])
    try:
        answer = await task.ctx.ask_model(_messages(task, trials, offer), _decision_schema(task))
    except ModelError as error:
        # The search does not need a model: it continues with the algorithm's proposal.
        return SearchState(next={**offer, "why": f"the model gave no usable answer: {error}"})
    said = cast("dict[str, Any]", answer.data) if isinstance(answer.data, dict) else {}
    return _decided(task, offer, said)


def _decided(task: TuningTask, offer: Proposal, said: Mapping[str, Any]) -> SearchState:
    """The model's decision, or the algorithm's proposal if the decision is not usable."""
    why = str(said.get("why") or "")[:MAX_SHOWN_ERROR]
    if said.get("stop") is True:
        return SearchState(next=None, stopped_by=MODEL, why=why)
    if said.get("use") != "own":
        return SearchState(next={**offer, "why": why})
    if faults := faults_of(task.parameters, said.get("params")):
        refused = f"the model's own proposal was refused ({'; '.join(faults[:5])}): {why}"
        return SearchState(next={**offer, "why": refused[: 2 * MAX_SHOWN_ERROR]})
    own = Proposal(params=typed(task.parameters, said["params"]), source=MODEL, why=why)
    return SearchState(next=own)


def _next(state: SearchState) -> Proposal:
    proposal = state.get("next")
    assert proposal is not None  # noqa: S101 - the edges to the nodes that ask looked
    return proposal


async def _run(state: SearchState, runtime: Runtime[TuningTask]) -> SearchState:
    """Run one trial, and nothing else: if the user must approve it first, the node starts again."""
    task, params = runtime.context, _next(state)["params"]
    earlier = [trial["params"] for trial in state.get("trials", [])]
    arguments = call_of_trial(task.arguments, params, earlier)
    started = time.monotonic()
    try:
        result = await task.ctx.call_tool(task.tool, arguments)
    except CallError as error:
        took = getattr(error, "seconds", None)
        return _tried(task, state, str(error), _seconds(took, started))
    seconds = _seconds(result.seconds, started)
    fault = failure_in(result)
    if result.arguments is not None:
        fault = "a person ran it with other arguments, so it says nothing about these"
    if fault:
        return _tried(task, state, fault, seconds)
    if task.metric.agent:
        return SearchState(log=text_of(result), seconds=round(seconds, 3))
    try:
        return _tried(task, state, await value_of(task.metric, result), seconds)
    except ValueError as error:
        return _tried(task, state, str(error), seconds)


def _seconds(took: float | None, started: float) -> float:
    """The duration of a trial from the run's record, since a resume does not repeat the call."""
    return time.monotonic() - started if took is None else took


async def _measure(state: SearchState, runtime: Runtime[TuningTask]) -> SearchState:
    """Have another agent read the metric in the log."""
    task, seconds = runtime.context, state.get("seconds", 0.0)
    inputs = {**task.metric.inputs, "log_text": state.get("log")}
    agent = await _reader(task)
    outcome: float | str
    try:
        answer = await task.ctx.call_agent(agent, AgentRequest(inputs=inputs))
        outcome = answer.error or _value_in(answer.outputs)
    except (PolicyError, ModelUnavailable):
        raise  # caused by the plan or a server, not by the settings of the trial
    except (CallError, ValueError) as error:
        outcome = f"`{task.metric.name}` was not read: {error}"
    return _tried(task, state, outcome, seconds)


def _value_in(outputs: Any) -> float:
    if not isinstance(outputs, Mapping):
        raise ValueError("the sub-agent's outputs have no `value`")  # noqa: TRY004 - as for numbers
    return number(cast("Mapping[str, Any]", outputs).get("value"))


async def _reader(task: TuningTask) -> Subagent | ToolInfo:
    from fractale.agents.result_parse import RESULT_PARSE

    named = {agent.name: agent for agent in await task.ctx.agents()}
    return find_named(task.metric.agent, {RESULT_PARSE.name: RESULT_PARSE, **named}, "sub-agent")


def _tried(
    task: TuningTask, state: SearchState, outcome: float | str, seconds: float
) -> SearchState:
    """The table with one more trial."""
    trials = state.get("trials", [])
    table = [*trials, next_line(trials, _next(state), outcome, seconds)]
    task.ctx.show("trials", _shown(table, task.search.rules.direction))
    return SearchState(trials=table, next=None, log=None)


# -- the result ---------------------------------------------------------------------------------


def _answer(task: TuningTask, after: SearchState) -> AgentAnswer:
    trials, stopped_by = after.get("trials", []), after.get("stopped_by") or ""
    best = best_of(trials, task.search.rules.direction)
    error = _error(trials, stopped_by, best, after.get("why", ""))
    outputs = {
        "success": error is None,
        "best": {"params": best["params"], "value": best["value"]} if best else None,
        "trials": trials,
        "stopped_by": stopped_by,
        "why": after.get("why", ""),
        "algorithm": task.search.algorithm,
        "seed": task.search.seed,
    }
    if error is not None:
        outputs["error"] = error
    return AgentAnswer(outputs=outputs, text=error or _summary(task, trials, best), error=error)


def _error(trials: Sequence[Trial], stopped_by: str, best: Trial | None, why: str) -> str | None:
    if not trials and stopped_by == MODEL:
        return f"the model ended the search before the first trial: {why}"
    last = trials[-1]["error"] if trials else ""
    if stopped_by == "failures":
        return f"{failures_in_a_row(trials)} trials in a row failed; the last: {last}"
    if best is None:
        return f"none of {len(trials)} trials succeeded; the last: {last}"
    return None


def _summary(task: TuningTask, trials: Sequence[Trial], best: Trial | None) -> str:
    assert best is not None  # noqa: S101 - without one there is an error
    settings = ", ".join(f"{name}={as_text(value)}" for name, value in best["params"].items())
    value = f"{task.metric.name}: {best['value']:g} with {settings}"
    return f"{value} (trial {best['number']} of {len(trials)})"


# -- one trial's arguments ----------------------------------------------------------------------


TRIAL = "trial"
"""Placeholder of the trial's number, unless a parameter has this name."""

KEY = "key"
"""The argument by which a tool finds a job that it submitted before (see `fractale.jobs`)."""

HOW = (
    "a text `{{{0}}}` in `arguments` means the parameter `{0}`, and `{{trial}}` the "
    "trial's number; a parameter written nowhere becomes an argument of its own name"
)
"""How to write a parameter into the arguments; a format string for a parameter's name."""


def call_of_trial(
    arguments: Mapping[str, Any], params: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The tool's arguments in the next trial.

    If an earlier trial used a job's key, the key is changed: with the same key, the tool would
    return that trial's job as a second measurement.

    Args:
        earlier: The params of the trials so far.
    """
    calls = [arguments_for(arguments, each, number) for number, each in enumerate(earlier, 1)]
    call = arguments_for(arguments, params, len(calls) + 1)
    if isinstance(call.get(KEY), str) and call[KEY] in [each.get(KEY) for each in calls]:
        call[KEY] = f"{call[KEY]} trial {len(calls) + 1}"
    return call


def arguments_for(
    arguments: Mapping[str, Any], params: Mapping[str, Any], trial: int | None = None
) -> dict[str, Any]:
    """The tool's arguments with the parameters filled in.

    A text ``{name}`` becomes the parameter with its type. Inside a longer text it becomes text. A
    parameter without a placeholder becomes an argument with the same name.

    Args:
        trial: The trial's number, for ``{trial}``. None keeps ``{trial}``.
    """
    known = {**({} if trial is None else {TRIAL: trial}), **params}
    place = re.compile(f"{{({'|'.join(re.escape(name) for name in known)})}}")
    placed: set[str] = set()

    def one(match: re.Match[str]) -> str:
        placed.add(match[1])
        return as_text(known[match[1]])

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            whole = place.fullmatch(value)
            text = place.sub(one, value)
            return known[whole[1]] if whole else text
        if isinstance(value, Mapping):
            return {key: fill(each) for key, each in cast("Mapping[str, Any]", value).items()}
        if isinstance(value, list):
            return [fill(each) for each in cast("list[Any]", value)]
        return value

    filled = fill(arguments)
    return {**filled, **{name: value for name, value in params.items() if name not in placed}}


# -- the request to the model -------------------------------------------------------------------


def _decision_schema(task: TuningTask) -> dict[str, Any]:
    """JSON Schema of the model's decision. Its own settings must be in the space."""
    return {
        "type": "object",
        "properties": {
            "why": {"type": "string", "description": "The reason for the decision."},
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


def _messages(task: TuningTask, trials: Sequence[Trial], offer: Proposal) -> list[BaseMessage]:
    """The request to the model before a trial. The system prompt is `optimize.md`."""
    prompt = resources.files(__package__ or "").joinpath("optimize.md")
    about = task.tool.description.strip().partition("\n")[0]
    best = best_of(trials, task.search.rules.direction)
    parts = [
        task.goal,
        f"The job: the tool `{task.tool.name}`{': ' + about if about else ''}",
        _call(task),
        f"The figure of merit: {task.metric.name}, to {task.search.rules.direction}",
        f"The space: {_json(task.search.space)}",
        _limits(task, trials),
        "\n".join(["Trials so far:", *map(_line, _shown(trials, task.search.rules.direction))])
        if trials
        else "",
        f"The best: trial {best['number']}" if best else "",
        f"The algorithm ({offer['source']}) proposes: {_json(offer['params'])}",
    ]
    return [
        SystemMessage(prompt.read_text(encoding="utf-8")),
        HumanMessage("\n\n".join(part for part in parts if part)),
    ]


def _call(task: TuningTask) -> str:
    if not task.arguments:
        return "Each parameter is an argument of that name."
    call = _json(dict(task.arguments))[:MAX_SHOWN_CALL]
    return f"Its arguments, in which {{NAME}} means the parameter NAME: {call}"


def _limits(task: TuningTask, trials: Sequence[Trial]) -> str:
    target = (
        "" if task.search.rules.target is None else f" The target: {task.search.rules.target:g}."
    )
    return f"{len(trials)} of at most {task.search.rules.max_trials} trials were made.{target}"


def _line(trial: Trial) -> str:
    line: dict[str, Any] = {"trial": trial["number"], "params": trial["params"]}
    if trial["ok"]:
        line["value"] = trial["value"]
    else:
        line["failed"] = (trial["error"] or "")[:MAX_SHOWN_ERROR]
    return _json({**line, "from": trial["source"], "seconds": trial["seconds"]})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(trials: Sequence[Trial], direction: Direction) -> list[Trial]:
    """All trials. If there are more than `MAX_SHOWN_TRIALS`, the best and the last ones."""
    last = list(trials[-MAX_SHOWN_TRIALS:])
    best = best_of(trials, direction)
    return last if best is None or best in last else [best, *last[1:]]


# -- the schemas -------------------------------------------------------------------------------

INPUTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "goal": {"type": "string", "description": "The job, and all that is known about it."},
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
                "Its fixed arguments. {NAME} in a text means the parameter NAME, as in "
                "{command: [lmp, -np, '{ranks}']}, and {trial} the trial's number; a parameter "
                "written nowhere becomes an argument of its own name."
            ),
        },
        "metric": METRIC_SCHEMA,
        "max_trials": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_TRIALS,
            "description": f"The budget (default {DEFAULT_TRIALS}); failed trials count.",
        },
        "patience": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "End after this many trials without a better one.",
        },
        "target": {"type": ["number", "null"], "description": "End at a value this good."},
        "max_failures": {
            "type": "integer",
            "minimum": 1,
            "description": f"Fail after this many failures in a row (default {DEFAULT_FAILURES}).",
        },
        "algorithm": {"enum": list(ALGORITHMS), "description": "Default: tpe."},
        "seed": {"type": "integer", "minimum": 0, "description": "Default: 0."},
        "start": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Points to try first, such as today's settings.",
        },
        "decide": {
            "enum": ["algorithm", MODEL, None],
            "description": (
                "Whether a model may take the algorithm's proposal or make its own; by default "
                "where there is a model."
            ),
        },
        "instruction": {"type": "string", "description": "Further information for the model."},
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

OPTIMIZE = Subagent(
    name="optimize",
    description=(
        "Tunes a job for a figure of merit: proposes settings, runs each with a tool, measures, "
        "and returns the best."
    ),
    input_schema=INPUTS,
    output_schema=OUTPUTS,
    run=run,
)
