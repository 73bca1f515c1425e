"""Tunes a job for a figure of merit: proposes settings, runs them, measures, decides."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from fractale.agents.ask import as_text
from fractale.agents.measure import failure_in, find_named, number, text_of, value_of
from fractale.agents.search import load_optuna, propose
from fractale.agents.space import faults_of, typed
from fractale.agents.subagent import AgentAnswer, AgentHost, AgentRequest, Subagent
from fractale.agents.trials import (
    Proposal,
    Trial,
    best_trial,
    call_of_trial,
    failures_in_a_row,
    shown,
)
from fractale.agents.tuning import (
    INPUTS,
    MODEL,
    OUTPUTS,
    SHOWN_ERROR,
    Task,
    decision_schema,
    messages,
    read_task,
)
from fractale.errors import CallError, ModelError, ModelUnavailable, PolicyError
from fractale.toolbox import ToolInfo

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

NODES_PER_TRIAL = 4

PERSON = "person"


class Search(TypedDict, total=False):
    """The agent's state.

    `log` waits to be read by another agent, with the seconds that the trial took.
    """

    trials: list[Trial]
    next: Proposal | None
    log: str | None
    seconds: float
    stopped_by: str | None
    why: str


async def run(host: AgentHost, request: AgentRequest) -> AgentAnswer:
    """Search for the best settings.

    Raises:
        ToolError: The inputs contradict each other, or there is no such tool.
        ModelUnavailable: The agent that reads the figure has no model within reach.
        LimitReached: A limit of the run is used up.
        DependencyMissing: Optuna is not installed.
    """
    load_optuna()
    task = await read_task(host, request)
    config: RunnableConfig = {
        **(request.config or {}),
        "recursion_limit": NODES_PER_TRIAL * task.rules.max_trials + 10,
    }
    after = await _graph().ainvoke(Search(trials=[]), config, context=task)
    return _answer(task, cast("Search", after))


# -- the graph ----------------------------------------------------------------------------------


def _graph() -> Any:
    """Propose, decide, run, measure, until a rule, the budget or the model ends it."""
    builder: Any = StateGraph(Search, context_schema=Task)
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


def _after_proposal(state: Search, runtime: Runtime[Task]) -> str:
    proposal = state.get("next")
    if proposal is None:
        return END
    return "decide" if runtime.context.with_model and proposal["source"] != PERSON else "run"


def _after_decision(state: Search) -> str:
    return END if state.get("stopped_by") else "run"


def _after_run(state: Search) -> str:
    return "propose" if state.get("log") is None else "measure"


async def _propose(state: Search, runtime: Runtime[Task]) -> Search:
    """End the search if a rule says so; else the next start point, else the algorithm's."""
    task, trials = runtime.context, state.get("trials", [])
    if reason := task.rules.reason(trials):
        return Search(next=None, stopped_by=reason)
    if len(trials) < len(task.start):
        point = dict(task.start[len(trials)])
        return Search(next=Proposal(params=point, source=PERSON, why="a start point"))
    params = propose(task.space, trials, task.algorithm, task.seed, task.rules.direction)
    if params is None:
        return Search(next=None, stopped_by="exhausted")
    return Search(next=Proposal(params=params, source=task.algorithm, why=""))


async def _decide(state: Search, runtime: Runtime[Task]) -> Search:
    """Let the model take the algorithm's proposal, make one of its own, or end the search."""
    task, offer = runtime.context, _next(state)
    trials = state.get("trials", [])
    try:
        answer = await task.host.ask_model(messages(task, trials, offer), decision_schema(task))
    except ModelError as error:
        # The search needs no model: it goes on without this one word of it.
        return Search(next={**offer, "why": f"the model gave no usable answer: {error}"})
    said = cast("dict[str, Any]", answer.data) if isinstance(answer.data, dict) else {}
    return _decided(task, offer, said)


def _decided(task: Task, offer: Proposal, said: Mapping[str, Any]) -> Search:
    """What the model's words come to; the algorithm's proposal where they can't be followed."""
    why = str(said.get("why") or "")[:SHOWN_ERROR]
    if said.get("stop") is True:
        return Search(next=None, stopped_by=MODEL, why=why)
    if said.get("use") != "own":
        return Search(next={**offer, "why": why})
    if faults := faults_of(task.parameters, said.get("params")):
        refused = f"the model's own proposal was refused ({'; '.join(faults[:5])}): {why}"
        return Search(next={**offer, "why": refused[: 2 * SHOWN_ERROR]})
    own = Proposal(params=typed(task.parameters, said["params"]), source=MODEL, why=why)
    return Search(next=own)


def _next(state: Search) -> Proposal:
    proposal = state.get("next")
    assert proposal is not None  # noqa: S101 - the edges to the nodes that ask looked
    return proposal


async def _run(state: Search, runtime: Runtime[Task]) -> Search:
    """Run one trial. Nothing else is here: a person may have to agree, and it starts again."""
    task, params = runtime.context, _next(state)["params"]
    earlier = [trial["params"] for trial in state.get("trials", [])]
    arguments = call_of_trial(task.arguments, params, earlier)
    started = time.monotonic()
    try:
        result = await task.host.call_tool(task.tool, arguments)
    except CallError as error:
        took = getattr(error, "seconds", None)
        return _tried(task, state, str(error), _seconds(took, started))
    seconds = _seconds(result.seconds, started)
    fault = failure_in(result)
    if result.arguments is not None:
        fault = "a person had it run with other arguments, so it says nothing about these"
    if fault:
        return _tried(task, state, fault, seconds)
    if task.metric.agent:
        return Search(log=text_of(result), seconds=round(seconds, 3))
    try:
        return _tried(task, state, await value_of(task.metric, result), seconds)
    except ValueError as error:
        return _tried(task, state, str(error), seconds)


def _seconds(took: float | None, started: float) -> float:
    """How long a trial took: as the run's record says, since a resume does not make it again."""
    return time.monotonic() - started if took is None else took


async def _measure(state: Search, runtime: Runtime[Task]) -> Search:
    """Have another agent read the figure in what the trial wrote."""
    task, seconds = runtime.context, state.get("seconds", 0.0)
    inputs = {**task.metric.inputs, "log_text": state.get("log")}
    agent = await _reader(task)
    outcome: float | str
    try:
        answer = await task.host.call_agent(agent, AgentRequest(inputs=inputs))
        outcome = answer.error or _value_in(answer.outputs)
    except (PolicyError, ModelUnavailable):
        raise  # this speaks of the plan or of a server, and not of the settings that were tried
    except (CallError, ValueError) as error:
        outcome = f"`{task.metric.name}` was not read: {error}"
    return _tried(task, state, outcome, seconds)


def _value_in(outputs: Any) -> float:
    if not isinstance(outputs, Mapping):
        raise ValueError("the sub-agent's outputs have no `value`")  # noqa: TRY004 - as for numbers
    return number(cast("Mapping[str, Any]", outputs).get("value"))


async def _reader(task: Task) -> Subagent | ToolInfo:
    from fractale.agents.result_parse import RESULT_PARSE

    named = {agent.name: agent for agent in await task.host.agents()}
    return find_named(task.metric.agent, {RESULT_PARSE.name: RESULT_PARSE, **named}, "sub-agent")


def _tried(task: Task, state: Search, outcome: float | str, seconds: float) -> Search:
    """The table with one trial more: its value, or why it failed."""
    proposal, trials = _next(state), state.get("trials", [])
    error = outcome if isinstance(outcome, str) else None
    trial = Trial(
        number=len(trials) + 1,
        params=proposal["params"],
        value=None if isinstance(outcome, str) else outcome,
        source=proposal["source"],
        why=proposal["why"],
        ok=error is None,
        error=error,
        seconds=round(seconds, 3),
    )
    table = [*trials, trial]
    task.host.show("trials", shown(table, task.rules.direction))
    return Search(trials=table, next=None, log=None)


# -- what comes of it ---------------------------------------------------------------------------


def _answer(task: Task, after: Search) -> AgentAnswer:
    trials, stopped_by = after.get("trials", []), after.get("stopped_by") or ""
    best = best_trial(trials, task.rules.direction)
    error = _error(trials, stopped_by, best, after.get("why", ""))
    outputs = {
        "success": error is None,
        "best": {"params": best["params"], "value": best["value"]} if best else None,
        "trials": trials,
        "stopped_by": stopped_by,
        "why": after.get("why", ""),
        "algorithm": task.algorithm,
        "seed": task.seed,
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


def _summary(task: Task, trials: Sequence[Trial], best: Trial | None) -> str:
    assert best is not None  # noqa: S101 - without one there is an error
    settings = ", ".join(f"{name}={as_text(value)}" for name, value in best["params"].items())
    value = f"{task.metric.name}: {best['value']:g} with {settings}"
    return f"{value} (trial {best['number']} of {len(trials)})"


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
