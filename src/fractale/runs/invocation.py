"""One call of a function of `fractale.api` that runs a plan: from its keywords to a `RunResult`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, cast

from fractale.errors import InputError, UsageError
from fractale.events import Event, Listener, logged_to
from fractale.graph.listener import CallerListener, OnEvent, caller_listener
from fractale.graph.sync_saver import LoopSaver
from fractale.models.runnables import check_chat
from fractale.plan.given import limits_of, secrets_of
from fractale.plan.inputs import read_secrets, secret_variable
from fractale.plan.model import Limits, Plan
from fractale.questions import Answers
from fractale.runs.changes import plan_today, unchanged_plan
from fractale.runs.fork import ForkChanges
from fractale.runs.keywords import check_keywords, check_values, unusable
from fractale.runs.options import Person, RunOptions
from fractale.runs.preflight import check_answers
from fractale.runs.result import RunResult
from fractale.runs.workspace import Extensions, OnLog, Workspace, as_started
from fractale.settings import Settings, load_settings
from fractale.settings.own_runs import is_agreed, not_own
from fractale.store.checkpoints import RunSaver
from fractale.store.run_record import RunRecord, RunRecords
from fractale.toolbox import Toolbox

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks
    from langchain_core.tools import BaseTool
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.store.base import BaseStore

    from fractale.models.runnables import Chat

T = TypeVar("T")

Agents: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Sub-agents: dotted paths or objects, or name → object."""

PlanSource: TypeAlias = str | Path | Plan
"""A plan: a path, YAML text, or a `Plan`."""

Tools: TypeAlias = "Toolbox | Sequence[Callable[..., Any] | BaseTool]"
"""Python functions and LangChain tools, or a toolbox that replaces all servers."""


class Parts(TypedDict, total=False):
    """The parts that a run or a replay uses, as keywords.

    Keys:
        tools: Python functions and LangChain tools, beside the settings' servers; or a toolbox that
            replaces these.
        registries: Registry or server files whose tools the plan may use.
        agents: Sub-agents: dotted paths, or objects (a `Subagent`, a LangGraph graph, a function
            that makes one), or name → object.
        model: A LangChain chat model, or ``provider:name``.
        secrets: The plan's secret inputs; else ``FRACTALE_INPUT_NAME`` of the environment.
        on_event: Called with every event; a function, or an async function. If it raises, the run
            stops at the next boundary of a step (ListenerError).
        settings: Used instead of the settings files and the environment.
    """

    tools: Tools
    registries: Sequence[str | Path]
    agents: Agents
    model: Chat | str | None
    secrets: Mapping[str, str] | None
    on_event: OnEvent | None
    settings: Settings | None


class RunKeywords(Parts, total=False):
    """The keywords of every function that runs a plan: those of `Parts`, and these.

    Keys:
        checkpointer: A LangGraph saver to use instead of the state directory's.
        store: A LangGraph store, which the agents of the run see as theirs.
        person: Answers questions; without one, the run ends waiting if it would ask.
        answers: Answers to questions, by the path of the step that asks; ``*`` for any step.
        yes: Approve beforehand every call and plan that needs approval.
        limits: Replace the plan's limits of the same name.
        detach: End the run, waiting, when it would wait for a batch job.
        reuse: True: every step that only reads takes over the result of an equal step of an earlier
            run. None: only steps that say `cache`. False: no step.
        callbacks, tags, metadata: LangChain's, for the run and everything in it.
    """

    checkpointer: BaseCheckpointSaver[Any] | None
    store: BaseStore | None
    person: Person | None
    answers: Mapping[str, Any] | None
    yes: bool
    limits: Limits | Mapping[str, Any] | None
    detach: bool
    reuse: bool | None
    callbacks: Callbacks
    tags: Sequence[str]
    metadata: Mapping[str, Any] | None


class Invocation:
    """One call of a function of `fractale.api` that runs a plan.

    Args:
        function: Its name.
        keywords: As the caller gave them.
        waits: Whether the caller is not async: its checkpointer may have sync methods only.

    Raises:
        TypeError: A keyword is unknown.
        UsageError: A keyword has a value that cannot be used.
        SettingsError: The settings cannot be read.
    """

    def __init__(self, function: str, keywords: RunKeywords, *, waits: bool = False) -> None:
        check_keywords(function, keywords, RunKeywords)
        check_values(keywords)
        self._keywords = keywords
        self._saver = _checked_saver(keywords.get("checkpointer"), waits=waits)
        self._settings, self._model = settings_and_model(keywords)
        self._given = extensions_of(keywords)
        self._send: Listener | None = None

    async def start(
        self, plan: Plan, inputs: Mapping[str, Any] | None, *, run_id: str | None, keep: bool
    ) -> RunResult:
        """See `fractale.api.arun`."""
        check_values({"inputs": inputs, "run_id": run_id, "keep": keep})
        options = self._options(plan, keep=keep, run_id=run_id)
        secrets = secrets_for(plan, self._keywords, self._settings)

        async def begin(workspace: Workspace) -> RunResult:
            return await workspace.runs.start(plan, inputs, options, secrets=secrets)

        return await self._work(self._settings, self._given, plan, options, begin)

    async def resume(
        self, run_id: str, plan: Plan | None, replies: Mapping[str, Any] | None
    ) -> RunResult:
        """See `fractale.api.aresume`.

        Args:
            plan: Of a run that is not recorded; None: the run is recorded.
        """
        check_values({"run_id": run_id, "replies": replies}, "run_id")
        if plan is not None:
            return await self._resume_unrecorded(run_id, plan, replies)
        record, head = find_own(run_id, self._settings, may_be_unrecorded=True)
        settings, extensions = as_started(self._settings, head, self._given)
        then = unchanged_plan(record, head)
        options = self._options(then, replies=Answers(replies))
        secrets = secrets_for(then, self._keywords, settings)

        async def begin(workspace: Workspace) -> RunResult:
            return await workspace.runs.resume(record.run_id, options, plan=then, secrets=secrets)

        return await self._work(settings, extensions, then, options, begin)

    async def _resume_unrecorded(
        self, run_id: str, plan: Plan, replies: Mapping[str, Any] | None
    ) -> RunResult:
        """Continue a run that only its checkpointer knows."""
        if self._saver is None:
            raise UsageError(
                f"run `{run_id}` cannot be found without its checkpointer",
                hint="give `checkpointer`, too; a recorded run needs neither it nor a `plan`",
            )
        options = self._options(plan, keep=False, replies=Answers(replies))
        secrets = secrets_for(plan, self._keywords, self._settings)

        async def begin(workspace: Workspace) -> RunResult:
            return await workspace.runs.resume_unrecorded(run_id, plan, options, secrets=secrets)

        return await self._work(self._settings, self._given, plan, options, begin)

    async def fork(
        self,
        run_id: str,
        at: str,
        plan: Plan | None,
        inputs: Mapping[str, Any] | None,
        outputs: Mapping[str, Mapping[str, Any]] | None,
        values: Mapping[str, Any] | None,
        *,
        new_id: str | None,
    ) -> RunResult:
        """See `fractale.api.afork`."""
        check_values({"run_id": run_id, "at": at}, "run_id", "at")
        check_values({"inputs": inputs, "outputs": outputs, "values": values, "new_id": new_id})
        record, head = find_own(run_id, self._settings)
        now = plan or plan_today(record, head)
        settings, extensions = as_started(self._settings, head, self._given)
        options = self._options(now, keep=True, run_id=new_id)
        changes = ForkChanges(inputs=inputs or {}, outputs=outputs or {}, values=values or {})
        secrets = secrets_for(now, self._keywords, settings)

        async def begin(workspace: Workspace) -> RunResult:
            return await workspace.runs.fork(
                record.run_id, at, options, plan=now, changes=changes, secrets=secrets
            )

        return await self._work(settings, extensions, now, options, begin)

    async def streamed(
        self, begin: Callable[[], Coroutine[Any, Any, RunResult]]
    ) -> AsyncGenerator[Event | RunResult]:
        """The events of one of the methods above, and at last its result.

        The run has a task of its own, so that it makes progress between two items.
        """
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._send = events.put_nowait

        async def work() -> RunResult:
            try:
                return await begin()
            finally:
                events.put_nowait(None)

        task = asyncio.create_task(work())
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await task
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            elif not task.cancelled():
                task.exception()  # else asyncio warns that it was never retrieved

    def _options(self, plan: Plan, **more: Any) -> RunOptions:
        """The options of the run.

        Raises:
            AnswerError: An answer is for a step that the plan does not have.
        """
        keywords = self._keywords
        answers = keywords.get("answers") or {}
        check_answers(answers, plan)
        return RunOptions(
            person=keywords.get("person"),
            answers=Answers(answers),
            yes=keywords.get("yes", False),
            limits=limits_of(keywords.get("limits")),
            detach=keywords.get("detach", False),
            reuse=keywords.get("reuse"),
            checkpointer=self._saver,
            memory=keywords.get("store"),
            callbacks=keywords.get("callbacks"),
            tags=listed(keywords.get("tags")),
            metadata=keywords.get("metadata") or {},
            **more,
        )

    async def _work(
        self,
        settings: Settings,
        extensions: Extensions,
        plan: Plan,
        options: RunOptions,
        begin: Callable[[Workspace], Awaitable[RunResult]],
    ) -> RunResult:
        """Open what the run uses, and let `begin` run it."""
        listeners: list[Listener] = [self._send] if self._send else []
        async with AsyncExitStack() as stack:
            caller: CallerListener | None = None
            if on_event := self._keywords.get("on_event"):
                heard = caller_listener(on_event, options.control)
                caller = await stack.enter_async_context(heard)
                listeners.insert(0, caller)
            options.listeners = listeners
            opened = Workspace.open(
                settings,
                plan,
                extensions,
                tools=self._keywords.get("tools", ()),
                model=self._model,
                yes=options.yes,
                on_log=_log_to(listeners) if listeners else None,
                masker=options.masker,
            )
            workspace = await stack.enter_async_context(opened)
            try:
                result = await begin(workspace)
            except NotImplementedError as error:
                raise _only_sync(self._saver, error) from error
            if caller:
                caller.result = result
        return result


def _checked_saver(saver: Any, *, waits: bool) -> BaseCheckpointSaver[Any] | None:
    """The checkpointer of a call, in a form that an event loop can use.

    Raises:
        UsageError: It is not a checkpointer.
    """
    if saver is None or isinstance(saver, RunSaver):
        return saver
    from langgraph.checkpoint.base import BaseCheckpointSaver

    if not isinstance(saver, BaseCheckpointSaver):
        raise unusable(
            "checkpointer", saver, "give an open LangGraph saver, such as `InMemorySaver()`"
        )
    made = cast("BaseCheckpointSaver[Any]", saver)
    return LoopSaver(made) if waits else made


def _only_sync(saver: Any, error: NotImplementedError) -> Exception:
    """The error if a checkpointer has no async methods."""
    if saver is None:
        return error
    return UsageError(
        f"the checkpointer {type(saver).__name__} has no async methods",
        hint=f"use `Async{type(saver).__name__}`, or the function without `a`, such as `run`",
    )


def _log_to(listeners: Sequence[Listener]) -> OnLog:
    """Sends the logs of servers to listeners, as events."""
    logs = [logged_to(listener) for listener in listeners]

    def log(server: str, level: str, message: str) -> None:
        for each in logs:
            each(server, level, message)

    return log


def listed(value: Any) -> list[Any]:
    """A sequence as a list; a single text or path is a list of one."""
    return [value] if isinstance(value, (str, Path)) else list(value or ())


def extensions_of(keywords: Parts) -> Extensions:
    """The registries and sub-agents of a call."""
    agents = keywords.get("agents", ())
    registries = listed(keywords.get("registries"))
    if isinstance(agents, Mapping):
        return Extensions(registries=registries, given=agents)
    return Extensions(
        registries=registries,
        agents=[each for each in listed(agents) if isinstance(each, str)],
        given=[each for each in listed(agents) if not isinstance(each, str)],
    )


def settings_and_model(keywords: Parts) -> tuple[Settings, Chat | None]:
    """The settings, with the model if it is named by text, and the model if it is an object.

    Raises:
        UsageError: `model` has a value that cannot be used.
        SettingsError: The settings cannot be read.
    """
    settings = keywords.get("settings") or load_settings()
    model = keywords.get("model")
    if isinstance(model, str):
        return settings.with_flags(model=model), None
    if model is not None:
        check_chat(model)
    return settings, model


def secrets_for(plan: Plan, keywords: Parts, settings: Settings) -> dict[str, str]:
    """The plan's secret inputs: those that the caller gives, else those of the environment.

    Raises:
        InputError: A secret input is missing, or one is given that the plan does not have.
    """
    given = secrets_of(plan, keywords.get("secrets"))
    found = {**read_secrets(plan, settings.environment), **given}
    for name, spec in plan.inputs.items():
        if spec.secret and spec.required and name not in found:
            raise InputError(
                f"input `{name}` is secret: give it in `secrets`, or set {secret_variable(name)}"
            )
    return found


def find_own(
    run_id: str, settings: Settings, *, may_be_unrecorded: bool = False
) -> tuple[RunRecord, dict[str, Any]]:
    """The record of a run that may be acted on, and its head.

    Its head names code that is imported. If the caller made the settings by hand, the caller also
    named the state directory; else the run must be the user's own.

    Raises:
        UsageError: The run was not found.
        SettingsError: Another user started it.
        StoreError: The record cannot be read.
    """
    try:
        record = RunRecords(settings.state_dir).find(run_id)
    except UsageError as error:
        if may_be_unrecorded:
            error.hint = f"{error.hint}; for a run without a record, give `plan` and `checkpointer`"
        raise
    head = record.read_head()
    by_hand = "state_dir" not in settings.origins
    if not by_hand and not is_agreed(record.path, head, settings.environment):
        raise not_own(record.run_id, settings.environment)
    return record, head
