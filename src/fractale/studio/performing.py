"""Doing a run for the development server: as the command line does it, with its stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from langgraph.errors import GraphDrained

from fractale.errors import FractaleError, UsageError
from fractale.events import Event
from fractale.plan.inputs import read_secrets
from fractale.policy import Policy
from fractale.runs.continuing import plan_today
from fractale.runs.opening import open_toolbox, own_agents
from fractale.runs.options import RunOptions
from fractale.runs.result import RunResult
from fractale.runs.service import Runs
from fractale.settings import Settings, without_password
from fractale.settings.own_runs import is_agreed, not_own
from fractale.store.run_record import RunRecords
from fractale.studio.orders import Order, order_of, take
from fractale.studio.running import Emit, in_own_thread
from fractale.studio.saver import told
from fractale.studio.threads import RunThreads

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from fractale.studio.graph import StudioGraph
    from fractale.studio.sources import Source

BREAKPOINTS = ("interrupt_before", "interrupt_after")
NAMING = ("debug", "checkpoints", "tasks")
"""Kinds of chunk that name the thread."""


class RunEnded(RuntimeError):
    """A run that did not end in success, with its last words.

    The server shows the words of the errors that it knows, and of no others.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The tools that runs of a graph have beside those of the settings' servers."""

    registries: Sequence[str] = ()
    agents: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPerformer:
    """Does the runs of one graph.

    Args:
        source: Where the plans of new runs come from.
        settings: As they were when the graph was opened.
        tools: Of new runs; a run that goes on has those that it was started with.
    """

    source: Source
    settings: Settings
    tools: Tools

    async def __call__(
        self, graph: StudioGraph, given: Any, config: RunnableConfig, stream: Mapping[str, Any]
    ) -> AsyncGenerator[Any]:
        """Start a run or go on with one, in a thread of its own; gives the run's stream.

        Raises:
            RunEnded: The run did not end in success, and does not wait either.
        """
        threads = RunThreads(RunRecords(self.settings.state_dir))
        try:
            order = await order_of(graph, threads, given, config)

            async def work(emit: Emit) -> None:
                await self._do(order, stream, emit)

            async with aclosing(in_own_thread(work)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except FractaleError as error:
            raise RunEnded(told(error)) from error

    async def _do(self, order: Order, stream: Mapping[str, Any], emit: Emit) -> None:
        feed = _Feed(order, stream, emit)
        options = RunOptions(
            listeners=[feed.listen],
            replies=order.replies,
            answers=order.answers,
            run_id=order.run_id if order.folder is None else None,
            invoke=feed.invoke,
        )
        do = self._start if order.folder is None else self._go_on
        result = await do(order, options)
        if result.status not in ("success", "waiting") and not feed.at_breakpoint:
            hint = f" ({result.hint})" if result.hint else ""
            raise RunEnded(f"run {result.run}: {result.status}: {result.error}{hint}")

    async def _start(self, order: Order, options: RunOptions) -> RunResult:
        source, tools, settings = self.source, self.tools, self.settings
        named: dict[str, Any] = {"registries": tools.registries, "agents": tools.agents}
        opened = source.opened_for(order.given, order.context)
        agents = own_agents(opened, **named)
        async with open_toolbox(settings, opened, **named) as toolbox:
            plan, inputs = await source.plan(order.given, opened, toolbox, agents, settings)
            policy = Policy(settings=settings.policy)
            runs = Runs(settings, toolbox, policy=policy, agents=agents)
            secrets = read_secrets(plan, settings.environment)
            head = {**_head(settings, tools), **order.head}
            return await runs.start(plan, inputs, options, secrets=secrets, head=head)

    async def _go_on(self, order: Order, options: RunOptions) -> RunResult:
        assert order.folder is not None  # noqa: S101 - the caller looked
        take(order.folder, order.request)
        head = order.folder.read_head()
        if not is_agreed(order.folder.path, head, self.settings.environment):
            raise not_own(order.folder.run_id, self.settings.environment)
        settings = _like(self.settings, head)
        named: dict[str, Any] = {
            "registries": head.get("registries", ()),
            "agents": head.get("agents", ()),
        }
        plan = plan_today(order.folder, head)
        agents = own_agents(plan, **named)
        async with open_toolbox(settings, plan, **named) as toolbox:
            policy = Policy(settings=settings.policy)
            runs = Runs(settings, toolbox, policy=policy, agents=agents)
            secrets = read_secrets(plan, settings.environment)
            return await runs.resume(order.run_id, options, secrets=secrets)


class _Feed:
    """A run's stream, as the server wants it.

    Attributes:
        at_breakpoint: Whether the run stopped where the server wanted it to.
    """

    def __init__(self, order: Order, stream: Mapping[str, Any], emit: Emit) -> None:
        self._order = order
        self._stream = dict(stream)
        self._emit = emit
        modes: Any = stream.get("stream_mode") or ()
        self._modes = [modes] if isinstance(modes, str) else list(modes)
        self._subgraphs = bool(stream.get("subgraphs"))
        self.at_breakpoint = False

    async def invoke(
        self, graph: Any, given: Any, config: RunnableConfig, **more: Any
    ) -> Mapping[str, Any]:
        """What the graph's ``ainvoke`` does, and each chunk to the server."""
        known = {**config, "metadata": dict(self._order.metadata)}
        async with aclosing(graph.astream(given, known, **self._stream, **more)) as chunks:
            async for chunk in chunks:
                self._emit(self._renamed(chunk))
        state = await graph.aget_state(config)
        if state.next and not state.interrupts and any(map(self._stream.get, BREAKPOINTS)):
            self.at_breakpoint = True
            raise GraphDrained
        asked = {"__interrupt__": state.interrupts} if state.interrupts else {}
        return {**state.values, **asked}

    def listen(self, event: Event) -> None:
        """Tell an event of the run where the server wants custom chunks."""
        if "custom" in self._modes:
            chunk = ("custom", event.as_dict())
            self._emit(((), *chunk) if self._subgraphs else chunk)

    def _renamed(self, chunk: Any) -> Any:
        """A chunk with the server's name of the thread."""
        if not isinstance(chunk, tuple):
            return chunk
        *head, mode, payload = cast("tuple[Any, ...]", chunk)
        if mode not in NAMING:
            return cast("Any", chunk)
        return (*head, mode, _with_thread(payload, self._order.thread))


def _with_thread(value: Any, thread: str) -> Any:
    """The same with the thread named so in every config; states are left as they are."""
    if isinstance(value, list):
        return [_with_thread(each, thread) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    table = cast("dict[str, Any]", value)
    if isinstance(fields := table.get("configurable"), dict) and "thread_id" in fields:
        known = {k: v for k, v in cast("dict[str, Any]", fields).items() if not k.startswith("__")}
        return {**table, "configurable": {**known, "thread_id": thread}}
    kept = ("values", "input", "result")
    return {k: v if k in kept else _with_thread(v, thread) for k, v in table.items()}


def _head(settings: Settings, tools: Tools) -> dict[str, Any]:
    return {
        "registries": [str(Path(path).absolute()) for path in tools.registries],
        "agents": list(tools.agents),
        "model": settings.model_spec,
        "store": without_password(settings.store) or "sqlite",
    }


def _like(settings: Settings, head: Mapping[str, Any]) -> Settings:
    """The settings with the model that a run was started with.

    Raises:
        UsageError: The run's checkpoints are in another store than the server's.
    """
    here, there = without_password(settings.store) or "sqlite", head.get("store")
    if there not in (None, here):
        raise UsageError(
            f"the run keeps its checkpoints in {there}",
            hint=f"start Studio with them: fractale studio --store {there}",
        )
    return settings.with_flags(model=head["model"]) if head.get("model") else settings
