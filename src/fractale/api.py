"""fractale from Python: load, validate, compile and run a plan in a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.errors import Problem
from fractale.events import logged_to
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.model import Limits, Plan
from fractale.settings import Settings, load_settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from fractale.events import Event
    from fractale.runs import Person, RunResult
    from fractale.toolbox import Toolbox


def load(plan: str | Path | Plan) -> Plan:
    """A plan from a path or from YAML text (text has a newline in it); a `Plan` is returned.

    Raises:
        PlanError: The plan is invalid; the error lists every problem and its place.
    """
    if isinstance(plan, Plan):
        return plan
    if isinstance(plan, str) and "\n" in plan:
        return parse_plan(plan)
    return load_plan(plan)


def validate(plan: str | Path | Plan) -> list[Problem]:
    """All problems of a plan, errors and warnings, in file order."""
    from fractale.plan.check import plan_problems

    return plan_problems(lambda: load(plan))[1]


async def arun(
    plan: str | Path | Plan,
    inputs: Mapping[str, Any] | None = None,
    *,
    tools: Toolbox | Sequence[Any] = (),
    registries: Sequence[str | Path] = (),
    model: BaseChatModel | str | None = None,
    checkpointer: BaseCheckpointSaver[Any] | None = None,
    run_id: str | None = None,
    secrets: Mapping[str, str] | None = None,
    on_event: Callable[[Event], None] | None = None,
    person: Person | None = None,
    answers: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    yes: bool = False,
    keep: bool = False,
    settings: Settings | None = None,
) -> RunResult:
    """Run a plan.

    Args:
        plan: A path, YAML text, or a `Plan`.
        inputs: The plan's inputs.
        tools: A toolbox, or Python functions and LangChain tools, beside the settings' servers.
        registries: Registry or server files whose tools the plan may use.
        model: A LangChain chat model, or ``provider:name``.
        checkpointer: A LangGraph saver to use; with it, `run_id` is the thread's id.
        secrets: The plan's secret inputs.
        on_event: Called with every event of the run.
        person: Answers questions; None: the run ends waiting if it would ask.
        answers: Answers to questions, by the path of the step that asks.
        yes: Approve beforehand every call and plan that needs approval.
        keep: Record the run in the state directory, so that ``fractale resume`` finds it.
        settings: Used instead of the settings files and the environment.

    Returns:
        How the run ended. A plan that failed is a result, not an exception.

    Raises:
        PlanError: The plan is invalid.
        InputError: An input is missing or wrong.
        SettingsError: A server or a model that the plan needs cannot be used.
    """
    from fractale.questions import Answers
    from fractale.runs import Extensions, RunOptions, Workspace

    loaded = load(plan)
    settings = settings or load_settings()
    if isinstance(model, str):
        settings, model = settings.with_flags(model=model), None
    options = RunOptions(
        listeners=[on_event] if on_event else [],
        person=person,
        answers=Answers(answers or {}),
        yes=yes,
        limits=limits or Limits(),
        checkpointer=checkpointer,
        keep=keep,
        run_id=run_id,
    )
    async with Workspace.open(
        settings,
        loaded,
        Extensions(registries=registries),
        tools=tools,
        model=model,
        yes=yes,
        on_log=logged_to(on_event) if on_event else None,
        masker=options.masker,
    ) as workspace:
        return await workspace.runs.start(loaded, inputs, options, secrets=secrets)


def run(
    plan: str | Path | Plan, inputs: Mapping[str, Any] | None = None, **options: Any
) -> RunResult:
    """Run a plan and wait for its end; the same as `arun`, for code that is not async.

    Raises:
        RuntimeError: Called inside a running event loop: use `arun` there.
    """
    return asyncio.run(arun(plan, inputs, **options))
