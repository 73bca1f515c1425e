"""What ``graphs/*.py`` name for ``langgraph.json``: the graphs of the development server.

The server asks for a graph at each use: to draw it, to read or change a thread, to run. What it
gets is built from files only (the plan, and where there is a run, what was drafted in it); tools,
servers and models are opened by a run alone.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from starlette.exceptions import HTTPException

from fractale.errors import FractaleError, PlanError
from fractale.graph.compile import compile_plan
from fractale.graph.context import Dependencies
from fractale.plan.model import Plan
from fractale.record.plans import plan_hash, plan_of
from fractale.settings import Settings
from fractale.store.index import RunFilter, list_runs
from fractale.store.run_record import RunRecord, RunRecords
from fractale.studio.graph import StudioGraph
from fractale.studio.launch import OPTIONS, server_settings
from fractale.studio.names import graph_name
from fractale.studio.performing import RunPerformer, Tools
from fractale.studio.saver import told
from fractale.studio.sources import RUN, AnyPlan, FilePlan, Prompt, Source
from fractale.studio.threads import RunThreads, read_head

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

Factory = Callable[[dict[str, Any]], Awaitable[StudioGraph]]
"""Takes the server's config."""

LOOKED_AT = 20
"""Of a plan's runs, the latest ones, where one with drafts is looked for."""
UNUSABLE = 422
_ITEM = re.compile(r"\[\d+\]")


def plan_graph(
    path: Path | str, *, registries: Sequence[Path | str] = (), agents: Sequence[str] = ()
) -> Factory:
    """One plan, by its file: a run's input is the plan's inputs.

    Args:
        registries: Registry or server files whose tools its runs have.
        agents: Sub-agents by dotted path.
    """
    return _factory(FilePlan(Path(path).absolute()), registries, agents)


def plan_graphs(
    folder: Path | str, registries: Mapping[str, Sequence[Path | str]] | None = None
) -> dict[str, Factory]:
    """The plans of a folder, by the names of their files.

    Args:
        registries: Name → the registry or server files that the plan needs.
    """
    known = registries or {}
    return {
        graph_name(path): plan_graph(path, registries=known.get(path.stem, ()))
        for path in sorted(Path(folder).glob("*.yaml"))
    }


def any_plan(*, registries: Sequence[Path | str] = (), agents: Sequence[str] = ()) -> Factory:
    """Any plan: its path or text is in the assistant's context, or in a run's input."""
    return _factory(AnyPlan(), registries, agents)


def prompt_graph(*, registries: Sequence[Path | str] = (), agents: Sequence[str] = ()) -> Factory:
    """A question in words, as ``fractale prompt`` asks it."""
    return _factory(Prompt(), registries, agents)


def _factory(source: Source, registries: Sequence[Path | str], agents: Sequence[str]) -> Factory:
    own = Tools(registries=[str(Path(path).absolute()) for path in registries], agents=agents)

    async def graph(config: dict[str, Any]) -> StudioGraph:
        # Files are read, and the graph is built, where the server's loop is not held up.
        return await asyncio.to_thread(_build, source, own, config)

    return graph


def _build(source: Source, own: Tools, config: dict[str, Any]) -> StudioGraph:
    try:
        settings = server_settings()
        tools = _with_options(settings, own)
        fields = cast("RunnableConfig", config).get("configurable", {})
        plan, drafts = _Look(settings, source, fields).look()
    except PlanError as error:
        raise HTTPException(UNUSABLE, "; ".join(map(str, error.problems))) from error
    except FractaleError as error:
        raise HTTPException(UNUSABLE, told(error)) from error
    # A graph that is only looked at calls nothing.
    deps = Dependencies(toolbox=cast("Any", None), drafts=drafts)
    schemas = {"input": source.input_schema(plan), "context": source.context_schema()}
    return StudioGraph.of(
        compile_plan(plan, deps),
        plan.name,
        performer=RunPerformer(source=source, settings=settings, tools=tools),
        schemas=schemas,
    )


def _with_options(settings: Settings, own: Tools) -> Tools:
    """A graph's tools with those that ``fractale studio`` was given."""
    given = json.loads(settings.environment.get(OPTIONS) or "{}")
    return Tools(
        registries=list(dict.fromkeys([*own.registries, *given.get("registries", ())])),
        agents=list(dict.fromkeys([*own.agents, *given.get("agents", ())])),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """What is to be drawn: the plan, and what was drafted for it in a run.

    Args:
        fields: What the server's config has.
    """

    settings: Settings
    source: Source
    fields: Mapping[str, Any]

    def look(self) -> tuple[Plan, dict[str, str]]:
        """The plan and its drafts: of the thread's run, of the one that is named, or the latest.

        Raises:
            FractaleError: The plan can't be used, or there is no such run.
        """
        folder = self._run()
        plan = plan_of(folder, read_head(folder)) if folder else None
        if folder is not None and plan is not None:
            return plan, drafts_of(folder)
        plan = self.source.shown(self.fields)
        if self.fields.get("thread_id"):  # a thread without a run: nothing is drafted yet
            return plan, {}
        return plan, self._latest_drafts(plan)

    def _run(self) -> RunRecord | None:
        folders = RunRecords(self.settings.state_dir)
        if thread := self.fields.get("thread_id"):
            return RunThreads(folders).run_of(str(thread))
        return folders.find(str(self.fields[RUN])) if self.fields.get(RUN) else None

    def _latest_drafts(self, plan: Plan) -> dict[str, str]:
        if not any(step.kind == "plan" and step.plan is None for step in plan.walk()):
            return {}
        folders, digest = RunRecords(self.settings.state_dir), plan_hash(plan)
        rows = list_runs(self.settings.state_dir, RunFilter(plan=plan.name), LOOKED_AT)
        for folder in (folders.at(row.id) for row in rows):
            if read_head(folder).get("plan_hash") == digest and (drafts := drafts_of(folder)):
                return drafts
        return {}


def drafts_of(folder: RunRecord) -> dict[str, str]:
    """Path of a planned step → its draft in a run; of a foreach, that of the first item."""
    found: dict[str, str] = {}
    for path, text in folder.read_drafts().items():
        found.setdefault(_ITEM.sub("", path), text)
    return found
