"""Build the development server's graphs, for the ``graphs/*.py`` that ``langgraph.json`` names.

The server asks for a graph at each use: to draw it, to read or change a thread, to run. A factory
(`recorded_graph`, `any_plan`, `prompt_graph`) builds a `StudioGraph` from files only: the plan of
its `PlanSource`, and the drafts of a run. Only a run opens tools, servers and models
(`fractale.studio.runs`). Its runs are recorded in the state directory; those of
`fractale.plan_graph`, for applications, are not.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, cast

from langgraph.graph.state import CompiledStateGraph
from starlette.exceptions import HTTPException

from fractale.errors import FractaleError, PlanError, UsageError
from fractale.graph.compile import build_inner_graph
from fractale.graph.context import Dependencies
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.inputs import schema_of_inputs
from fractale.plan.model import Plan
from fractale.record.plans import plan_hash, plan_of
from fractale.runs.one_step import (
    GENERALIST,
    WORDS,
    NamedExpert,
    find_agent,
    find_prompt,
    is_small,
    keep_plan,
    one_step_plan,
)
from fractale.runs.workspace import Extensions
from fractale.settings import Settings
from fractale.store.index import RunFilter, list_runs
from fractale.store.run_record import RunRecord, RunRecords
from fractale.studio.launch import OPTIONS, graph_name, server_settings
from fractale.studio.runs import RunPerformer
from fractale.studio.saver import RunThreads, read_head, with_hint

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from fractale.graph.step import Graph
    from fractale.runs.workspace import Workspace


Factory: TypeAlias = "Callable[[dict[str, Any]], Awaitable[StudioGraph]]"
"""Receives the server's config and builds the graph."""

LOOKED_AT = 20
"""The number of a plan's latest runs to search for drafts."""
UNUSABLE = 422
_ITEM = re.compile(r"\[\d+\]")


def recorded_graph(
    path: Path | str, *, registries: Sequence[Path | str] = (), agents: Sequence[str] = ()
) -> Factory:
    """Build the graph of one plan's file; the input of a run is the plan's inputs.

    Args:
        registries: Registry or server files with tools for the runs.
        agents: Sub-agents by dotted path.
    """
    return _factory(FilePlan(Path(path).absolute()), registries, agents)


def recorded_graphs(
    folder: Path | str, registries: Mapping[str, Sequence[Path | str]] | None = None
) -> dict[str, Factory]:
    """Build a graph for each plan of a directory; the names are those of the files.

    Args:
        registries: Name → the registry or server files that the plan needs.
    """
    known = registries or {}
    return {
        graph_name(path): recorded_graph(path, registries=known.get(path.stem, ()))
        for path in sorted(Path(folder).glob("*.yaml"))
    }


def any_plan(*, registries: Sequence[Path | str] = (), agents: Sequence[str] = ()) -> Factory:
    """Build a graph for any plan: the assistant's context or a run's input has its path or text."""
    return _factory(AnyPlan(), registries, agents)


def prompt_graph(*, registries: Sequence[Path | str] = (), agents: Sequence[str] = ()) -> Factory:
    """Build a graph that answers a prompt, like ``fractale prompt``."""
    return _factory(Prompt(), registries, agents)


def _factory(
    source: PlanSource, registries: Sequence[Path | str], agents: Sequence[str]
) -> Factory:
    paths = [str(Path(path).absolute()) for path in registries]
    own = Extensions(registries=paths, agents=agents)

    async def graph(config: dict[str, Any]) -> StudioGraph:
        # Reading files and building the graph must not block the server's loop.
        return await asyncio.to_thread(_build, source, own, config)

    return graph


def _build(source: PlanSource, own: Extensions, config: dict[str, Any]) -> StudioGraph:
    try:
        settings = server_settings()
        extensions = _with_options(settings, own)
        fields = cast("RunnableConfig", config).get("configurable", {})
        plan, drafts = _Look(settings, source, fields).look()
    except PlanError as error:
        raise HTTPException(UNUSABLE, "; ".join(map(str, error.problems))) from error
    except FractaleError as error:
        raise HTTPException(UNUSABLE, with_hint(error)) from error
    # A graph that is only inspected calls nothing.
    deps = Dependencies(toolbox=cast("Any", None), drafts=drafts)
    schemas = {"input": source.input_schema(plan), "context": source.context_schema()}
    return StudioGraph.of(
        build_inner_graph(plan, deps),
        plan.name,
        performer=RunPerformer(source=source, settings=settings, extensions=extensions),
        schemas=schemas,
    )


def _with_options(settings: Settings, own: Extensions) -> Extensions:
    """Add the extensions of the ``fractale studio`` command to those of a graph."""
    given = json.loads(settings.environment.get(OPTIONS) or "{}")
    return Extensions(
        registries=list(dict.fromkeys([*own.paths, *given.get("registries", ())])),
        agents=list(dict.fromkeys([*own.agents, *given.get("agents", ())])),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """The plan to draw, and its drafts from a run.

    Args:
        fields: The ``configurable`` fields of the server's config.
    """

    settings: Settings
    source: PlanSource
    fields: Mapping[str, Any]

    def look(self) -> tuple[Plan, dict[str, str]]:
        """Return the plan and its drafts: of the thread's run, of the named run, or of the latest.

        Raises:
            FractaleError: The plan can't be used, or the run does not exist.
        """
        record = self._run()
        plan = plan_of(record, read_head(record)) if record else None
        if record is not None and plan is not None:
            return plan, drafts_of(record)
        plan = self.source.shown(self.fields)
        if self.fields.get("thread_id"):  # a thread without a run has no drafts yet
            return plan, {}
        return plan, self._latest_drafts(plan)

    def _run(self) -> RunRecord | None:
        records = RunRecords(self.settings.state_dir)
        if thread := self.fields.get("thread_id"):
            return RunThreads(records).run_of(str(thread))
        return records.find(str(self.fields[RUN])) if self.fields.get(RUN) else None

    def _latest_drafts(self, plan: Plan) -> dict[str, str]:
        if not any(step.kind == "plan" and step.plan is None for step in plan.walk()):
            return {}
        records, digest = RunRecords(self.settings.state_dir), plan_hash(plan)
        rows = list_runs(self.settings.state_dir, RunFilter(plan=plan.name), LOOKED_AT)
        for record in (records.at(row.id) for row in rows):
            if read_head(record).get("plan_hash") == digest and (drafts := drafts_of(record)):
                return drafts
        return {}


def drafts_of(record: RunRecord) -> dict[str, str]:
    """Path of a planned step → its draft in a run; in a foreach, the draft of the first item."""
    found: dict[str, str] = {}
    for path, text in record.read_drafts().items():
        found.setdefault(_ITEM.sub("", path), text)
    return found


# -- the graph of the server -----------------------------------------------------------------------


OUTPUT: Mapping[str, Any] = {
    "status": {"enum": ["success", "failed"]},
    "outputs": {"description": "The outputs of the plan."},
    "error": {"type": "string", "description": "The error, if the run failed."},
}


class Performer(Protocol):
    """Carries out the server's requests for a graph."""

    def __call__(
        self, graph: StudioGraph, given: Any, config: RunnableConfig, stream: Mapping[str, Any]
    ) -> AsyncGenerator[Any]:
        """Start or resume a run, and yield its stream.

        Args:
            stream: How to stream the run: the other arguments of LangGraph's ``astream``.
        """
        ...


class StudioGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """The steps of a plan as the server sees them.

    It has the plan's nodes, edges and state, so that the server can draw it, and read and edit its
    states. It never calls anything: its stream comes from the run of its `performer`.

    Args:
        performer: Carries out runs.
        schemas: JSON Schemas of ``input`` and ``context``.
    """

    def __init__(
        self, *, performer: Performer, schemas: Mapping[str, Any], **attributes: Any
    ) -> None:
        # By these names, because LangGraph's `copy` passes every attribute to the constructor.
        super().__init__(**attributes)
        self.performer = performer
        self.schemas = schemas

    @classmethod
    def of(
        cls, builder: Graph, name: str, *, performer: Performer, schemas: Mapping[str, Any]
    ) -> Self:
        """Build the server's graph of a plan."""
        attributes = dict(vars(builder.compile(name=name)))
        attributes.pop("__orig_class__", None)
        # The server must not see the context of a run.
        attributes["context_schema"] = None
        return cls(**attributes, performer=performer, schemas=schemas)

    def get_input_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The schema of a run's input."""
        del config
        return dict(self.schemas["input"])

    def get_output_jsonschema(self, config: RunnableConfig | None = None) -> dict[str, Any]:
        """The schema of a run's result: the plan's outputs, or the reason for a failure."""
        del config
        return {"title": "Output", "type": "object", "properties": dict(OUTPUT)}

    def get_context_jsonschema(self) -> dict[str, Any]:
        """The schema of an assistant's context."""
        return dict(self.schemas["context"])

    async def astream(  # pyright: ignore[reportIncompatibleMethodOverride] - the overloads only say what versions give
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        config: RunnableConfig | None = None,
        *,
        context: Any = None,
        durability: Any = None,
        control: Any = None,
        **stream: Any,
    ) -> AsyncGenerator[Any]:
        """Start a run on the thread, or resume its run.

        Durability is always ``sync``. The run uses its own context and its own way to stop.
        """
        del context, durability, control
        async with aclosing(self.performer(self, input, config or {}, stream)) as chunks:
            async for chunk in chunks:
                yield chunk


# -- the plan of a new run -------------------------------------------------------------------------


PLAN, INPUTS, RUN = "plan", "inputs", "run"
NO_PLAN = """\
name: any plan
description: Name a plan in the assistant's context, or in the input.
steps:
  - {name: plan, type: plan, instruction: Name a plan.}
"""

Schema = dict[str, Any]
SHOWN: Mapping[str, Schema] = {
    RUN: {"type": "string", "description": "The run whose plan and drafts are drawn."}
}


class PlanSource(Protocol):
    """The origin of a new run's plan."""

    def shown(self, context: Mapping[str, Any]) -> Plan:
        """Return the plan to draw of a thread without a run.

        Args:
            context: The assistant's context.

        Raises:
            PlanError: The plan is invalid.
        """
        ...

    def input_schema(self, plan: Plan) -> Schema:
        """JSON Schema of a run's input."""
        ...

    def context_schema(self) -> Schema:
        """JSON Schema of an assistant's context."""
        ...

    def opened_for(self, given: Mapping[str, Any], context: Mapping[str, Any]) -> Plan | None:
        """Return the plan whose servers and sub-agents a run opens, if it is known before that.

        Raises:
            PlanError: The plan is invalid.
            UsageError: No plan is named.
        """
        ...

    async def plan(
        self,
        given: Mapping[str, Any],
        opened: Plan | None,
        workspace: Workspace,
    ) -> tuple[Plan, dict[str, Any]]:
        """Return the plan of a run, and the plan's inputs.

        Args:
            given: The run's input.
            opened: The result of `opened_for`.

        Raises:
            UsageError: The input can't be run.
        """
        ...


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One plan from its file; the input of a run is the plan's inputs."""

    path: Path

    def shown(self, context: Mapping[str, Any]) -> Plan:
        """The current plan of the file."""
        del context
        return load_plan(self.path)

    def input_schema(self, plan: Plan) -> Schema:
        return schema_of_inputs(plan)

    def context_schema(self) -> Schema:
        """The field for a run to draw."""
        return _object(SHOWN)

    def opened_for(self, given: Mapping[str, Any], context: Mapping[str, Any]) -> Plan:
        """The current plan of the file."""
        del given
        return self.shown(context)

    async def plan(
        self,
        given: Mapping[str, Any],
        opened: Plan | None,
        workspace: Workspace,
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan, with its inputs as given."""
        del workspace
        return opened or load_plan(self.path), dict(given)


@dataclass(frozen=True, slots=True)
class AnyPlan:
    """The plan in an assistant's context or in a run's input: a path, or YAML text."""

    def shown(self, context: Mapping[str, Any]) -> Plan:
        """The plan in the context; without one, a placeholder plan that says so."""
        named = context.get(PLAN)
        return read_plan(str(named)) if named else parse_plan(NO_PLAN, "any plan")

    def input_schema(self, plan: Plan) -> Schema:
        """The fields for a plan and its inputs."""
        known = schema_of_inputs(plan)
        inputs = known if known["properties"] else {"type": "object", "title": "Inputs"}
        words = "A plan's path, or its YAML text; not needed if the assistant names one."
        return _object({PLAN: {"type": "string", "description": words}, INPUTS: inputs})

    def context_schema(self) -> Schema:
        """The fields for a plan, or for a run to draw."""
        words = "A plan's path, or its YAML text."
        return _object({PLAN: {"type": "string", "description": words}, **SHOWN})

    def opened_for(self, given: Mapping[str, Any], context: Mapping[str, Any]) -> Plan:
        """The plan in the input, otherwise the plan in the context."""
        named = given.get(PLAN) or context.get(PLAN)
        if not named:
            raise UsageError(
                "no plan was named",
                hint="name a plan in the assistant's context, or as `plan` in the input",
            )
        return read_plan(str(named))

    async def plan(
        self,
        given: Mapping[str, Any],
        opened: Plan | None,
        workspace: Workspace,
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan, with the values of `inputs` in the input."""
        del workspace
        assert opened is not None  # noqa: S101 - it was named
        return opened, _inputs_in(given, {PLAN, INPUTS})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, as for ``fractale prompt`` and ``fractale agent``."""

    def shown(self, context: Mapping[str, Any]) -> Plan:
        """The steps that answer a prompt: directly, or by a plan if the generalist hands over."""
        del context
        import yaml

        data = one_step_plan(NamedExpert(kind="agent", name=GENERALIST), "…", {}, direct=False)
        return parse_plan(yaml.safe_dump(data, allow_unicode=True), "prompt")

    def input_schema(self, plan: Plan) -> Schema:
        """The fields for the prompt and the agent."""
        del plan
        described = {
            WORDS: ("string", "The instruction."),
            "agent": ("string", "The sub-agent to ask. Default: the generalist."),
            "prompt": ("string", "The prompt of a server to use."),
            "direct": ("boolean", "Ask directly, without the planner."),
            INPUTS: ("object", "Further inputs."),
        }
        fields = {
            name: {"type": kind, "description": text} for name, (kind, text) in described.items()
        }
        return {**_object(fields), "required": [WORDS]}

    def context_schema(self) -> Schema:
        """The field for a run to draw."""
        return _object(SHOWN)

    def opened_for(self, given: Mapping[str, Any], context: Mapping[str, Any]) -> Plan | None:
        """None: planning may need all servers of the settings."""
        del given, context

    async def plan(
        self,
        given: Mapping[str, Any],
        opened: Plan | None,
        workspace: Workspace,
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan with the one step that asks."""
        del opened
        words = str(given.get(WORDS) or "")
        inputs = _inputs_in(given, {WORDS, "agent", "prompt", "direct", INPUTS})
        expert = await _expert(given, workspace)
        direct, small = bool(given.get("direct")), is_small(workspace.settings.model_spec)
        data = one_step_plan(expert, words, inputs, direct=direct, small=small)
        plan = load_plan(keep_plan(data, workspace.settings.state_dir))
        return plan, {**inputs, WORDS: words} if words else inputs


async def _expert(given: Mapping[str, Any], workspace: Workspace) -> NamedExpert:
    name = given.get("prompt")
    if not name:
        name = str(given.get("agent") or GENERALIST)
        return await find_agent(name, workspace.toolbox, workspace.agents)
    found = await find_prompt(str(name), workspace.toolbox)
    if found is None:
        raise UsageError(
            f"prompt `{name}` not found on any server", hint="see `fractale list prompts`"
        )
    return found


def read_plan(named: str) -> Plan:
    """Read a plan from its path, or from YAML text (text contains a newline).

    Raises:
        PlanError: The plan is invalid or missing.
    """
    return parse_plan(named) if "\n" in named else load_plan(named)


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"title": "Input", "type": "object", "properties": dict(properties)}


def _inputs_in(given: Mapping[str, Any], own: set[str]) -> dict[str, Any]:
    inputs: Any = given.get(INPUTS) or {}
    strange = sorted(set(given) - own)
    if not isinstance(inputs, Mapping) or strange:
        key = f"the input has an unknown key `{strange[0]}`"
        what = key if strange else f"`{INPUTS}` must be a mapping"
        raise UsageError(what, hint=f"its keys: {', '.join(sorted(own))}")
    return dict(cast("Mapping[str, Any]", inputs))
