"""One call of `fractale.api.areplay`: from its keywords to the result of the replay."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from langgraph.runtime import RunControl

from fractale.errors import UsageError
from fractale.events import Listener
from fractale.graph.listener import caller_listener
from fractale.plan.model import Plan
from fractale.record.recordings import open_recording, recording_path
from fractale.replaying.replay import Replayed, replay
from fractale.replaying.suite import Side, agents_of, open_live, plan_today_of
from fractale.runs.invocation import (
    Parts,
    extensions_of,
    secrets_for,
    settings_and_model,
)
from fractale.runs.keywords import check_keywords, check_values

if TYPE_CHECKING:
    from fractale.runs.invocation import PlanSource


class ReplayKeywords(Parts, total=False):
    """The keywords of a replay: those of `Parts`, and these.

    Keys:
        plan: Instead of the plan that was run.
        today: Use the present file of the plan.
        live: The side that is called for real, with `tools`, `model` and `secrets`: ``tools`` or
            ``model``.
        loose: Compare only calls, arguments, outcomes and the path, not the answers.
    """

    plan: PlanSource | None
    today: bool
    live: Side | None
    loose: bool


async def replay_recorded(
    function: str, run: str | Path, keywords: ReplayKeywords, plan: Plan | None
) -> Replayed:
    """See `fractale.api.areplay`.

    Args:
        function: The name of the function that was called.
        plan: The `plan` of the keywords, read.
    """
    check_keywords(function, keywords, ReplayKeywords)
    if not isinstance(run, Path):
        check_values({"run_id": run}, "run_id")
    check_values(keywords)
    if plan is not None and keywords.get("today"):
        raise UsageError("`plan` and `today` exclude each other", hint="give one of them")
    settings, model = settings_and_model(keywords)
    side, loose = keywords.get("live"), keywords.get("loose", False)
    with open_recording(recording_path(str(run), settings), settings=settings) as recording:
        if plan is None:
            today = keywords.get("today", False)
            plan = plan_today_of(recording) if today else recording.plan_then()
        given = extensions_of(keywords)
        named = recording.given([str(path) for path in given.registries], given.agents)
        catalog, _ = agents_of(named, plan, given.given)
        secrets = secrets_for(plan, keywords, settings) if side == "tools" else {}
        async with AsyncExitStack() as stack:
            listeners: list[Listener] = []
            if on_event := keywords.get("on_event"):
                heard = caller_listener(on_event, RunControl())
                listeners.append(await stack.enter_async_context(heard))
            live = open_live(
                side,
                named,
                settings,
                plan,
                loose=loose,
                secrets=secrets,
                tools=keywords.get("tools", ()),
                model=model,
            )
            real = await stack.enter_async_context(live)
            return await replay(
                named, settings, plan=plan, agents=catalog, live=real, listeners=listeners
            )
