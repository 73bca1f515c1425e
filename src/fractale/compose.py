"""Plans in LangGraph applications: as a graph, as a node of a graph, as a tool of an agent.

`plan_graph` is a plan with its tools and models as one compiled graph, such as for an application's
own ``langgraph.json``. `as_node` and `as_tool` put a plan into other graphs and agents.

Runs of these graphs are the application's: its checkpointer has their state, its traces have their
steps. They are not recorded in fractale's state directory; `fractale.arun` does that.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool, ToolException
from langgraph._internal._runnable import RunnableCallable  # a node that is sync and async
from typing_extensions import TypedDict, Unpack

from fractale.agents.catalog import Catalog
from fractale.api import load
from fractale.errors import FractaleError, InputError, PlanError, ToolError, UsageError
from fractale.graph.bindings import Bindings
from fractale.graph.compile import compile_plan
from fractale.graph.context import MADE, Dependencies
from fractale.graph.plan_graph import (
    PlanContext,
    PlanGraph,
    PlanOutput,
    RunSetup,
    parent_context,
)
from fractale.jobs.threaded import ThreadedJobs
from fractale.loops import WorkerLoop
from fractale.masking import Masker
from fractale.models import Models
from fractale.models.runnables import check_chat
from fractale.pins import pins_of
from fractale.plain import to_json
from fractale.plan.check import check_plan
from fractale.plan.given import limits_of, secrets_of
from fractale.plan.inputs import bind_inputs, read_secrets
from fractale.plan.model import Limits, Plan
from fractale.policy import Policy
from fractale.record.jobs import JOBS, RunJobs
from fractale.runs.driver import roots_of
from fractale.runs.invocation import (
    Agents,
    PlanSource,
    Tools,
    extensions_of,
)
from fractale.runs.keywords import (
    check_keywords,
    check_values,
    unusable,
)
from fractale.runs.preflight import preflight
from fractale.runs.service import Runs, result_cache
from fractale.runs.workspace import Extensions, make_toolbox
from fractale.settings import Settings, load_settings
from fractale.store.outputs import resolved
from fractale.text import did_you_mean, shown_value
from fractale.toolbox import (
    OnElicit,
    OnProgress,
    PromptInfo,
    PromptMessage,
    Provenance,
    ResourceInfo,
    ServerStatus,
    Toolbox,
    ToolInfo,
    ToolResult,
    provenance_of,
)

if TYPE_CHECKING:
    from langgraph.cache.base import BaseCache
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.store.base import BaseStore

    from fractale.graph.listener import OnEvent
    from fractale.models.runnables import Chat

Open = Callable[[], AbstractAsyncContextManager[Toolbox]]


class CompileKeywords(TypedDict, total=False):
    """More keywords of LangGraph's ``StateGraph.compile``, which describes them."""

    cache: BaseCache[Any] | None
    interrupt_before: Literal["*"] | list[str] | None
    interrupt_after: Literal["*"] | list[str] | None
    debug: bool
    transformers: Sequence[Callable[[tuple[str, ...]], Any]] | None


class GraphKeywords(CompileKeywords, total=False):
    """The keywords of `plan_graph` that `as_node` and `as_tool` pass on to it."""

    tools: Tools
    registries: Sequence[str | Path]
    agents: Agents
    model: Chat | str | None
    settings: Settings | None
    secrets: Mapping[str, str] | None
    limits: Limits | Mapping[str, Any] | None
    yes: bool
    on_event: OnEvent | None
    checkpointer: BaseCheckpointSaver[Any] | bool | None
    store: BaseStore | None
    idle: float


class _PlanGraphKeywords(GraphKeywords, total=False):
    """All keywords of `plan_graph`."""

    name: str | None


def plan_graph(
    plan: PlanSource,
    *,
    tools: Tools = (),
    registries: Sequence[str | Path] = (),
    agents: Agents = (),
    model: Chat | str | None = None,
    settings: Settings | None = None,
    secrets: Mapping[str, str] | None = None,
    limits: Limits | Mapping[str, Any] | None = None,
    yes: bool = False,
    on_event: OnEvent | None = None,
    checkpointer: BaseCheckpointSaver[Any] | bool | None = None,
    store: BaseStore | None = None,
    name: str | None = None,
    idle: float = 0.0,
    **options: Unpack[CompileKeywords],
) -> PlanGraph:
    """A plan as a compiled graph of LangGraph, with everything that its runs need.

    Its input is the plan's inputs, ``{"nodes": 4}``; its result ``{"status", "outputs", "error"}``;
    its context ``{"secrets", "limits", "yes"}``. The plan's servers are opened when a run begins.
    Runs at the same time share them. They are closed when the last of these runs ends.

    Call it where a module is imported, or in a thread: it reads files.

    Args:
        plan: A path, YAML text, or a `Plan`.
        tools: A toolbox that is open already, or Python functions and LangChain tools, beside the
            settings' servers.
        registries: Registry or server files whose tools the plan may use.
        agents: Sub-agents that the plan may use: dotted paths, or objects (a `Subagent`, a
            LangGraph graph, a function that makes one), or name → object.
        model: A LangChain chat model, or ``provider:name``.
        settings: Used instead of the settings files and the environment.
        secrets: The plan's secret inputs, beside those of the environment. A run's context may
            replace them.
        limits: Replace the plan's limits of the same name.
        yes: Approve beforehand every call and plan that needs approval.
        on_event: Called with every event of every run; a function, or an async function.
        checkpointer, store, options: As for LangGraph's ``StateGraph.compile``.
        name: The graph's name in traces; None: the plan's.
        idle: The seconds for which the servers stay open after the last run. To start a server
            takes seconds, which the next run of a service then saves.

    Raises:
        PlanError: The plan or a registry is invalid.
        SettingsError: The settings, or a model that the plan needs, cannot be used.
        InputError: `secrets` or `limits` names something that the plan does not have.
        UsageError: A keyword has a value that cannot be used.
    """
    check_keywords("plan_graph", options, _PlanGraphKeywords)
    _check_saver(checkpointer)
    check_values({"tools": tools, "registries": registries, "agents": agents, "idle": idle})
    check_values({"settings": settings, "secrets": secrets, "limits": limits, "yes": yes})
    check_values({"on_event": on_event, "store": store, "name": name, **options})
    loaded = load(plan)
    if errors := [p for p in check_plan(loaded) if p.severity == "error"]:
        raise PlanError(errors)
    settings = settings or load_settings()
    if isinstance(model, str):
        settings, model = settings.with_flags(model=model), None
    elif model is not None:
        check_chat(model)
    extensions = extensions_of({"registries": registries, "agents": agents})
    opened = _Opened(settings, loaded, tools, extensions, model, idle)
    setup = RunSetup(
        secrets={**read_secrets(loaded, settings.environment), **secrets_of(loaded, secrets)},
        limits=limits_of(limits),
        yes=yes,
        on_event=on_event,
        begin=opened.begin,
    )
    builder = compile_plan(loaded, opened.dependencies, setup=setup)
    return builder.compile(checkpointer, name=name, store=store, **options)


def _check_saver(saver: Any) -> None:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    if saver not in (None, False) and not isinstance(saver, BaseCheckpointSaver):
        hint = "give an open LangGraph saver, such as `InMemorySaver()`"
        if saver is True:
            hint = "leave it out: a graph inside another one uses that one's checkpointer"
        raise unusable("checkpointer", saver, hint)


class _Opened:
    """The outside world of a graph's runs."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        tools: Tools,
        extensions: Extensions,
        model: Chat | None,
        idle: float,
    ) -> None:
        self._settings, self._plan = settings, plan
        agents, served = extensions.load(plan)
        masker = Masker(settings.secrets)

        @asynccontextmanager
        async def opened() -> AsyncGenerator[Toolbox]:
            if not isinstance(tools, Sequence):
                yield tools
                return
            # Building the server of local tools imports their modules.
            toolbox = await asyncio.to_thread(
                make_toolbox, settings, plan, served, tools, masker=masker
            )
            async with toolbox:
                await Runs(settings, toolbox, models=models, agents=agents).pin(plan)
                yield toolbox

        self._tools = SharedToolbox(opened, idle)
        self._roots = roots_of(settings, None)
        self._jobs = RunJobs.of(
            settings.state_dir / JOBS, settings, partial(ThreadedJobs, WorkerLoop())
        )
        self._models = models = Models(settings, given=model)
        self._agents: Catalog = agents
        self.dependencies = Dependencies(
            toolbox=self._tools,
            models=models,
            policy=Policy(settings=settings.policy),
            agents=agents,
            max_attempts=settings.max_attempts,
            jobs=self._jobs,
            made=settings.state_dir / MADE,
            cache=result_cache(settings, None),
        )

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Mapping[str, Any]]:
        """Open the tools for a run, check the plan with them, and bind the names of its tools.

        Raises:
            PlanError: The plan names tools that its servers do not have.
            SettingsError: A model that the plan needs cannot be used.
        """
        async with self._tools.open() as toolbox:
            bindings = Bindings(pins=pins_of(toolbox))
            await preflight(self._plan, toolbox, self._models, self._agents, bindings)
            yield {
                "bindings": bindings,
                "roots": self._roots,
                "masker": Masker(self._settings.secrets),
                "secrets": self._settings.secrets,
            }


# -- in other graphs and agents --------------------------------------------------------------------


class PlanFailed(FractaleError, RuntimeError):
    """A plan inside another graph did not succeed, and that graph does not look at its status.

    Args:
        status: ``failed`` or ``limit``.
    """

    code = "plan"

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


Inputs: TypeAlias = "Mapping[str, str | Callable[[Any], Any]] | Callable[[Any], Mapping[str, Any]]"
"""How a state gives a plan's inputs: input → key or function of the state; or one function."""

Outputs: TypeAlias = (
    "Mapping[str, str | Callable[[PlanOutput], Any]] | Callable[[PlanOutput], Mapping[str, Any]]"
)
"""How a plan's result changes a state: key → output or function of the result; or one function."""

ContextOf: TypeAlias = Callable[[Any], PlanContext | None]
"""Gives the context of a plan's run. It receives the context of the graph that the plan is in."""

RESULT: Final = tuple(PlanOutput.__annotations__)


def as_node(
    plan: PlanSource | PlanGraph,
    *,
    inputs: Inputs | None = None,
    outputs: Outputs | None = None,
    context: PlanContext | ContextOf | None = None,
    **options: Unpack[GraphKeywords],
) -> Runnable[Any, dict[str, Any]]:
    """A plan as a node of a graph with any state.

        builder.add_node("run", as_node("plan.yaml"))

    Its questions are interrupts of that graph, its chunks are in that graph's stream, and that
    graph's checkpointer keeps its state.

    Args:
        plan: The plan, or its graph.
        inputs: ``{"nodes": "node_count"}`` gives the plan's input `nodes` the value of the state's
            `node_count`, unless that is None and the input has a default. A function receives the
            state. None: keys of the state with the names of inputs.
        outputs: ``{"figure": "speed"}`` sets the state's `figure` to the plan's output `speed`.
            ``status``, ``error`` and ``outputs`` are the parts of the result, unless the plan has
            outputs of these names. None: each output under its own name.
        context: Secrets, limits and approval for each run, or a function that returns them. It
            receives that graph's context, whose `secrets` are known in any case.
        options: Of `plan_graph`.

    Raises:
        InputError: `inputs` or `outputs` name something that the plan does not have.
        PlanFailed: When the node runs: the plan did not succeed, and `outputs` does not take its
            ``status`` or ``error``. The node is then still due: a higher limit continues it.
    """
    graph = _graph_of(plan, options)
    _check_mapping(graph.plan, inputs, outputs)
    _check_context(context)
    looks = callable(outputs) or not {"status", "error"}.isdisjoint(_texts(outputs))

    def update(after: PlanOutput) -> dict[str, Any]:
        if not looks:
            check(graph.plan, after)
        return _update(graph, outputs, after)

    # LangGraph finds the graph among the free variables of these functions, and draws it.

    def call(state: Any, config: RunnableConfig) -> dict[str, Any]:
        given, known = _inputs(graph.plan, inputs, state), _context(context, config)
        return update(cast("PlanOutput", graph.invoke(given, config, context=known)))

    async def acall(state: Any, config: RunnableConfig) -> dict[str, Any]:
        given, known = _inputs(graph.plan, inputs, state), _context(context, config)
        return update(cast("PlanOutput", await graph.ainvoke(given, config, context=known)))

    return RunnableCallable(call, acall, name=graph.get_name(), trace=False)


def as_tool(
    plan: PlanSource | PlanGraph,
    *,
    name: str | None = None,
    description: str | None = None,
    context: PlanContext | ContextOf | None = None,
    **options: Unpack[GraphKeywords],
) -> BaseTool:
    """A plan as a tool of an agent, such as `create_agent`'s.

    Its arguments are the plan's inputs; its answer is the outputs as JSON, and the whole result as
    its artifact. A plan that does not succeed is an error of the tool. Its questions are interrupts
    of the agent's graph.

    Args:
        plan: The plan, or its graph.
        name, description: Of the tool; None: of the plan.
        context: Secrets, limits and approval for each run, or a function that returns them. It
            receives the context of the agent's graph, whose `secrets` are known in any case.
        options: Of `plan_graph`.
    """
    check_values({"name": name, "description": description})
    _check_context(context)
    graph = _graph_of(plan, options)
    return PlanTool(
        name=name or re.sub(r"[^A-Za-z0-9_-]+", "_", graph.plan.name),
        description=description or graph.plan.description or f"Run the plan {graph.plan.name}.",
        args_schema=graph.get_input_jsonschema(),
        response_format="content_and_artifact",
        handle_tool_error=True,
        graph=graph,
        context=context,
    )


class PlanTool(BaseTool):
    """A plan as a tool. It is not a `StructuredTool`, which has no argument called ``config``.

    Args:
        graph: The plan's graph.
        context: The context of its runs, or a function that returns it.
    """

    graph: PlanGraph
    context: Any = None

    def _run(self, /, **given: Any) -> tuple[str, PlanOutput]:
        """Run the plan.

        Raises:
            ToolException: An argument is wrong, or the plan did not succeed.
        """
        config = self._config(given)
        context = _context(self.context, config)
        return self._answer(cast("PlanOutput", self.graph.invoke(given, config, context=context)))

    async def _arun(self, /, **given: Any) -> tuple[str, PlanOutput]:
        """See `_run`."""
        config = self._config(given)
        context = _context(self.context, config)
        after = await self.graph.ainvoke(given, config, context=context)
        return self._answer(cast("PlanOutput", after))

    def _config(self, given: Mapping[str, Any]) -> RunnableConfig:
        """Check the arguments. Return the config of the tool's own run, so that traces nest."""
        plan = self.graph.plan
        secret = {name: "" for name, spec in plan.inputs.items() if spec.secret}
        try:
            bind_inputs(plan, given, secret)
        except InputError as error:  # an error of the tool, so that the model tries again
            raise ToolException(f"{error.message} ({error.hint})") from error
        return ensure_config()

    def _answer(self, after: PlanOutput) -> tuple[str, PlanOutput]:
        try:
            check(self.graph.plan, after)
        except PlanFailed as error:
            raise ToolException(error.message) from error
        found = resolved(after.get("outputs") or {}, self.graph.outputs)
        return to_json(found), PlanOutput(status=after.get("status"), outputs=found, error=None)


def _context(context: PlanContext | ContextOf | None, config: RunnableConfig) -> PlanContext | None:
    return context(parent_context(config)) if callable(context) else context


def _check_context(context: Any) -> None:
    is_function = callable(context) and not isinstance(context, type)
    if context is not None and not isinstance(context, Mapping) and not is_function:
        keys = ", ".join(f"`{key}`" for key in PlanContext.__annotations__)
        raise unusable("context", context, f"give a mapping of {keys}, or a function")


def _graph_of(plan: PlanSource | PlanGraph, options: GraphKeywords) -> PlanGraph:
    if not isinstance(plan, PlanGraph):
        return plan_graph(plan, **options)
    if options:
        raise UsageError(f"`{next(iter(options))}` is for a plan, and this is its graph already")
    return plan


def check(plan: Plan, after: PlanOutput) -> None:
    """Check that a plan inside another graph succeeded.

    Raises:
        PlanFailed: It did not.
    """
    status = after.get("status")
    if status != "success":
        raise PlanFailed(f"the plan `{plan.name}`: {after.get('error')}", str(status))


def _check_mapping(plan: Plan, inputs: Inputs | None, outputs: Outputs | None) -> None:
    """Check how a state is to give inputs and get outputs.

    Raises:
        InputError: The plan does not have one of them.
        UsageError: It is neither a mapping nor a function, or has a value of another type.
    """
    _check_parts("inputs", inputs)
    _check_parts("outputs", outputs)
    pairs = (
        ("input", () if callable(inputs) else inputs or (), [*plan.inputs]),
        ("output", () if callable(outputs) else _texts(outputs), [*plan.outputs, *RESULT]),
    )
    for noun, named, there in pairs:
        for each in named:
            if each not in there:
                hint = did_you_mean(each, there, otherwise=f"it has: {', '.join(there)}")
                raise InputError(f"the plan `{plan.name}` has no {noun} `{each}`", hint=hint)


def _check_parts(keyword: str, parts: Any) -> None:
    if parts is None or (callable(parts) and not isinstance(parts, type)):
        return
    forms = "give a mapping of names, or a function"
    if not isinstance(parts, Mapping):
        raise unusable(keyword, parts, forms)
    for name, source in cast("Mapping[Any, Any]", parts).items():
        if not isinstance(name, str):
            raise unusable(keyword, parts, forms)
        if source is not None and not isinstance(source, str) and not callable(source):
            raise unusable(f'{keyword}["{name}"]', source, "give a name, or a function")


def _table(keyword: str, found: Any) -> dict[str, Any]:
    """The mapping that a function of the caller returned for a keyword.

    Raises:
        UsageError: It is something else.
    """
    if not isinstance(found, Mapping):
        hint = "it must return a mapping"
        raise UsageError(f"the function `{keyword}` returned {shown_value(found)}", hint=hint)
    return dict(cast("Mapping[str, Any]", found))


def _texts(outputs: Mapping[str, Any] | None) -> list[str]:
    return [each for each in (outputs or {}).values() if isinstance(each, str)]


def _inputs(plan: Plan, inputs: Inputs | None, state: Any) -> dict[str, Any]:
    """The plan's inputs from a state, which is a mapping, a dataclass or a pydantic model."""
    if callable(inputs):
        return _table("inputs", inputs(state))
    found: dict[str, Any] = {}
    for name, source in (inputs or dict.fromkeys(plan.inputs)).items():
        if callable(source):
            found[name] = source(state)
            continue
        value = _value(state, source or name)
        unset = value is None and not plan.inputs[name].required
        if value is not _MISSING and not unset:
            found[name] = value
    return found


_MISSING: Final = object()


def _value(state: Any, key: str) -> Any:
    if isinstance(state, Mapping):
        return cast("Mapping[str, Any]", state).get(key, _MISSING)
    return getattr(state, key, _MISSING)


def _update(graph: PlanGraph, outputs: Outputs | None, after: PlanOutput) -> dict[str, Any]:
    """The changes of a state by a plan's result."""
    found = resolved(after.get("outputs") or {}, graph.outputs)
    whole = cast("PlanOutput", {**after, "outputs": found})
    if callable(outputs):
        return _table("outputs", outputs(whole))
    if outputs is None:
        return dict(found)
    known = {**whole, **{name: found.get(name) for name in graph.plan.outputs}}
    return {
        key: source(whole) if callable(source) else known.get(source)
        for key, source in outputs.items()
    }


# -- tools that are open while they are used -------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Held:
    """The toolbox of one loop, and the number of runs that use it."""

    task: asyncio.Task[None] | None = None
    toolbox: asyncio.Future[Toolbox] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    users: int = 0

    @property
    def is_open(self) -> bool:
        return self.toolbox.done() and self.toolbox.exception() is None


class SharedToolbox:
    """A toolbox that is open while runs use it: once for all runs of an event loop.

    A session belongs to the task that opened it, and a run may end in another task than it began
    in. So a separate task opens and closes the toolbox of each loop.

    Args:
        opened: Opens a toolbox for the time of a block.
        idle: The seconds for which it stays open after its last use.
    """

    def __init__(self, opened: Open, idle: float = 0.0) -> None:
        self._opened = opened
        self._idle = idle
        self._held: dict[asyncio.AbstractEventLoop, _Held] = {}

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Toolbox]:
        """Keep the toolbox of the running loop open for the time of the block."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is None:
            held = self._held[loop] = _Held()
            # An empty context: the sessions outlive the run that opens them.
            held.task = loop.create_task(self._hold(held), context=contextvars.Context())
        held.users += 1
        try:
            yield await asyncio.shield(held.toolbox)
        finally:
            held.users -= 1
            if self._idle and held.is_open:
                loop.call_later(self._idle, self._close, loop, held)
            else:
                self._close(loop, held)
            if held.unused.is_set() and held.task is not None:
                await asyncio.shield(held.task)

    def _close(self, loop: asyncio.AbstractEventLoop, held: _Held) -> None:
        """Close the toolbox, unless a run uses it."""
        if held.users:
            return
        if self._held.get(loop) is held:
            del self._held[loop]
        held.unused.set()

    async def _hold(self, held: _Held) -> None:
        try:
            async with self._opened() as toolbox:
                held.toolbox.set_result(toolbox)
                await held.unused.wait()
        except Exception as error:
            if held.toolbox.done():
                raise
            held.toolbox.set_exception(error)
        except asyncio.CancelledError:
            if held.toolbox.done():
                raise
            # The runs that wait for it must not hang.
            held.toolbox.set_exception(ToolError("opening the plan's tools was cancelled"))

    @property
    def current(self) -> Toolbox:
        """The toolbox of the running loop.

        Raises:
            RuntimeError: No run is in progress on this loop.
        """
        held = self._held.get(asyncio.get_running_loop())
        if held is None or not held.is_open:
            raise RuntimeError("the plan's tools are open only during a run of its graph")
        return held.toolbox.result()

    @property
    def pins(self) -> object:
        """The pins of the open toolbox."""
        return pins_of(self.current)

    async def provenance(self, server: str, tool: str | None = None) -> Provenance:
        return await provenance_of(self.current, server, tool)

    async def tools(self, names: Collection[str] | None = None) -> list[ToolInfo]:
        return await self.current.tools(names)

    async def prompts(self, names: Collection[str] | None = None) -> list[PromptInfo]:
        return await self.current.prompts(names)

    async def resources(self) -> list[ResourceInfo]:
        return await self.current.resources()

    async def servers(self, names: Collection[str] | None = None) -> list[ServerStatus]:
        return await self.current.servers(names)

    async def find_tool(self, name: str) -> ToolInfo:
        return await self.current.find_tool(name)

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: OnProgress | None = None,
        on_elicit: OnElicit | None = None,
        definition: str | None = None,
    ) -> ToolResult:
        return await self.current.call_tool(
            name, arguments, on_progress=on_progress, on_elicit=on_elicit, definition=definition
        )

    async def get_prompt(self, name: str, arguments: Mapping[str, Any]) -> list[PromptMessage]:
        return await self.current.get_prompt(name, arguments)

    async def read_resource(self, uri: str) -> ToolResult:
        return await self.current.read_resource(uri)
