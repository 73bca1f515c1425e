"""Runs a sub-agent that is a LangGraph graph with its own models and tools.

fractale does not make the calls of such a graph. But LangChain reports each call to the callback
handlers of the run before it makes the call, and a handler can stop it. So `GraphCalls` does for
these calls what `fractale.graph.call.once` does for the others, in the same order:

1. Policy. A tool call counts as chosen by a model. It may need the user's approval.
2. Limits. The run stops here if its time, tokens or cost are used up.
3. Event ``…_started``.
4. Journal. A tool call that changes something is recorded before it is made.
5. LangChain makes the call.
6. Journal and event ``…_finished``.

A handler can stop a call, and can neither change it nor replace its result. Two things follow. If
the user changes the arguments, the call is refused and the model reads which arguments it may use.
And after a kill LangGraph repeats the node that was cut off, as for any graph: the model is called
again. A tool call that changes something is not repeated: the user decides, or, if it had ended,
the model reads its result.

A call is not seen if it bypasses LangChain (the provider's own package, another process) or
LangGraph's context (a thread that the graph starts itself). If an answer shows such a call of a
model, the run has a warning.

An interrupt of the graph becomes a question of the kind ``interrupt``. It keeps LangGraph's id, so
the answer goes straight to the graph's node, in the graph's own form.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import pydantic_core
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, message_to_dict
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.runnables.config import merge_configs
from langchain_core.tools import BaseTool
from langgraph._internal._constants import (
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
)
from langgraph._internal._serde import collect_allowlist_from_schemas
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp, GraphInterrupt, GraphRecursionError
from langgraph.prebuilt.tool_node import ToolInvocationError
from langgraph.types import Command, Interrupt

from fractale import questions
from fractale.agents.conversation import CHANGES
from fractale.errors import (
    AnswerError,
    CallError,
    FractaleError,
    ModelError,
    PolicyError,
    SettingsError,
    ToolError,
)
from fractale.graph.call import Attempt, current_task
from fractale.graph.errors_as_data import failure_data
from fractale.graph.interrupts import ask, asked_again, note_shown
from fractale.graph.kinds.tool import agree
from fractale.models import Usage
from fractale.models.faults import to_model_error
from fractale.models.usage import tokens_of
from fractale.paths import PATHS
from fractale.plain import to_json
from fractale.policy import may_repeat, source_of
from fractale.questions.kinds import KINDS
from fractale.registry.calls import BY_HAND, is_raised_by_hand
from fractale.registry.files import MCP_HINTS
from fractale.store.journal import Call, CallSite, digest_of
from fractale.store.outputs import is_inline, to_common
from fractale.store.serializer import Types, allowing
from fractale.toolbox import ToolInfo

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

T = TypeVar("T")

MOST_STEPS = 1000
"""The most steps of LangGraph in one attempt, unless the graph's own config has a limit."""

PATIENCE = 2.0
"""Seconds until a thread that cannot reach the event loop does the work itself."""

MADE_BEFORE = "this call was made before, and answered: "
"""Precedes the result of a call that an earlier process of the run made."""

OWN_MODULES = ("deepagents.", "langchain.agents.")
VIRTUAL = ("deepagents.backends.state", "deepagents.backends.store")
"""The modules of deepagents' backends whose files are not on this machine."""
LOOKS = frozenset({"ls", "read_file", "glob", "grep"})
"""Tools of deepagents that only read."""
SERVES = frozenset({"write_todos", "task"})
"""Tools of LangChain and deepagents that change nothing outside of the agent's own state."""
SERVING = "fractale.serving"
"""A hint of such a tool."""


async def run_graph(
    attempt: Attempt,
    graph: Any,
    given: Any,
    *,
    agent: str,
    config: RunnableConfig | None = None,
    context: Any = None,
) -> Any:
    """Run a compiled graph inside a step. Its checkpoints are those of the run.

    Args:
        given: The input of the graph.
        agent: The path of the sub-agent, as events show it.
        config: The node's.
        context: Of the graph's context schema; None if it has no values.

    Raises:
        GraphInterrupt: The graph asks the user something, or one of its calls needs an approval.
        CallError: The graph failed.
        LimitReached: A limit of the run is used up.
    """
    calls = GraphCalls(attempt, agent, graph)
    own: Any = getattr(graph, "config", None) or {}
    most = own.get("recursion_limit", MOST_STEPS)
    # Merged before the store is set: LangChain merges the surrounding config in again.
    merged = merge_configs(
        config or get_config(),
        {"callbacks": [calls], "recursion_limit": most, "run_name": agent},
    )
    merged = _with_store(merged, graph)
    more = {} if context is None else {"context": context}
    calls.check_continued()
    try:
        with _without_warnings(), allowing(_types_in(graph)):
            waiting = await calls.waiting_at(graph, merged)
            merged = calls.with_answers(merged, waiting)
            calls.remember_approved(merged, waiting)
            result = await graph.ainvoke(given, merged, **more)
    except GraphInterrupt as asked:
        if is_raised_by_hand(asked):
            raise ToolError(f"the agent `{agent}` {BY_HAND}") from asked
        calls.note_passed_on(asked)
        raise calls.as_questions(asked) from asked
    except GraphBubbleUp:
        raise
    except GraphRecursionError as error:
        raise ModelError(
            f"the agent `{agent}` did not come to an end within {most} steps",
            hint="narrow its instruction, or give its graph a `recursion_limit`",
        ) from error
    except Exception as error:
        raise calls.error_of(error) from error
    if calls.stopped is not None:  # the graph caught the error and continued
        raise calls.stopped
    calls.check_passed_on()
    if isinstance(result, Mapping) and "__interrupt__" in result:
        raise ToolError(
            f"the agent `{agent}` stopped at a question and did not ask it: its graph called "
            "another graph without the node's config",
            hint="pass `config` on: `await inner.ainvoke(state, config)`",
        )
    calls.warn_of_unseen(result)
    return calls.marked(cast("Any", result))


def _with_store(config: RunnableConfig, graph: Any) -> RunnableConfig:
    """The config with the graph's own store. The context of the run stays with the run.

    A nested graph takes both from its parent; LangGraph has no public way to change that.
    """
    configurable = dict(config.get("configurable") or {})
    runtime = configurable.get(CONFIG_KEY_RUNTIME)
    if runtime is None:
        return config
    store = getattr(graph, "store", None) or runtime.store
    configurable[CONFIG_KEY_RUNTIME] = runtime.override(store=store, context=None)
    return cast("RunnableConfig", {**config, "configurable": configurable})


class Refused(ToolInvocationError):
    """A tool call that is not made. LangChain's agents show the message to the model.

    Args:
        message: Why, as text for the model.
        error: The same as an error of fractale, if no model reads the message.
    """

    def __init__(self, message: str, error: CallError) -> None:
        Exception.__init__(self, message)
        self.message = message
        self.error = error


@dataclass(slots=True, kw_only=True)
class _OpenCall:
    """A call that was started and has not ended.

    Args:
        fields: Of all its events.
        stack: Ends the report of a model's text.
        approval: The approval that it used up, as `GraphCalls.use_approval` returns it.
    """

    fields: dict[str, Any]
    site: CallSite
    call: Call
    started: float = field(default_factory=time.monotonic)
    tool: ToolInfo | None = None
    approval: tuple[str, str] | None = None
    feed: Callable[[str], None] | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)


class GraphCalls(BaseCallbackHandler):
    """Counts, limits and approves the calls of a graph. The module lists the order.

    Attributes:
        stopped: The error that ended the run, also if the graph caught it.
    """

    raise_error = True
    run_inline = True

    def __init__(self, attempt: Attempt, agent: str, graph: Any) -> None:
        self.stopped: FractaleError | None = None
        self._attempt = attempt
        self._agent = agent
        self._name = str(getattr(graph, "name", "") or "")
        self._tools = _tools_in(graph)
        self._hints: dict[str, dict[str, Any]] = {}
        for name, tools in self._tools.items():
            for each in tools:
                _add_hints(self._hints, name, _hints_of(each))
        self._open: dict[UUID, _OpenCall] = {}
        self._failures: list[tuple[BaseException, str]] = []
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._warned = False
        self._questions: dict[str, set[str]] = {
            call: set() for call in attempt.context.notes.get(self._lost) or ()
        }

    # -- what LangChain reports -----------------------------------------------------------------

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        self._in_loop(self._model_started, run_id, _spec(serialized, metadata, kwargs), metadata)

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        self._in_loop(self._model_started, run_id, _spec(serialized, metadata, kwargs), metadata)

    def on_llm_new_token(
        self,
        token: str | list[Any],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        **kwargs: Any,
    ) -> Any:
        del kwargs
        if (call := self._open.get(run_id)) and call.feed:
            text = chunk.message.text if isinstance(chunk, ChatGenerationChunk) else token
            if isinstance(text, str) and text:
                self._in_loop(call.feed, text)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> Any:
        del kwargs
        self._in_loop(self._model_finished, run_id, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        del kwargs
        self._in_loop(self._model_failed, run_id, error)

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        reporting = _reporting_tool()
        tool = self._info(serialized or {}, reporting)
        given = {"input": input_str} if inputs is None else inputs
        arguments = cast("dict[str, Any]", _as_json(given))
        call_id = str(kwargs.get("tool_call_id") or "")
        own = self._tools.get(tool.name)
        is_own = own is None or (len(own) == 1 and own[0] is reporting)
        self._in_loop(self._tool_started, run_id, tool, arguments, call_id, metadata or {}, is_own)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> Any:
        del kwargs
        self._in_loop(self._tool_finished, run_id, output)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        del kwargs
        self._in_loop(self._tool_failed, run_id, error)

    # -- models that were not seen --------------------------------------------------------------

    @property
    def _seen(self) -> str:
        """The key of whether a call of a model was seen in this attempt."""
        return f"models of {self._attempt.path} {self._attempt.attempts} {self._agent}"

    def warn_of_unseen(self, result: Any) -> None:
        """Warn if a model wrote the answer, and no call of a model was seen."""
        given: Any = result
        messages: Any = given.get("messages") if isinstance(result, Mapping) else None
        last: Any = cast("list[Any]", messages)[-1:] if isinstance(messages, list) else []
        by_model = any(
            isinstance(each, AIMessage) and (each.usage_metadata or each.response_metadata)
            for each in last
        )
        if by_model and not self._attempt.context.notes.get(self._seen):
            self._attempt.warn(
                "unseen-model",
                f"the agent `{self._agent}` called a model in a way that fractale cannot see: "
                "the limits of the run do not count it",
            )

    # -- models ---------------------------------------------------------------------------------

    def _model_started(self, run_id: UUID, spec: str, metadata: dict[str, Any] | None) -> None:
        attempt = self._attempt
        self._check(spec)
        if not attempt.context.notes.get(self._seen):
            attempt.context.notes.put(self._seen, True)
        agent = self._path(metadata)
        site = attempt.journal.next_site(agent)
        call = Call(kind="model", name=spec, digest="", safe=True)
        self._keep(lambda: attempt.journal.run.begin(site, call))
        fields = self._fields(agent, site, model=spec)
        attempt.emit("model_started", **fields)
        opened = _OpenCall(fields=fields, site=site, call=call)
        opened.feed = opened.stack.enter_context(attempt.text_of_model())
        self._open[run_id] = opened

    def _model_finished(self, run_id: UUID, response: LLMResult) -> None:
        opened = self._open.pop(run_id, None)
        if opened is None:
            return
        inputs = outputs = 0
        texts: list[str] = []
        for generation in (each for several in response.generations for each in several):
            message = getattr(generation, "message", None)
            if isinstance(message, BaseMessage):
                used = tokens_of(message)
                inputs, outputs = inputs + used[0], outputs + used[1]
                texts.append(message.text)
                result: Any = message_to_dict(message)
            else:
                texts.append(generation.text)
                result = {"text": generation.text}
            self._keep(
                lambda result=result: self._attempt.journal.run.finish(
                    opened.site, opened.call, result
                )
            )
        if not inputs + outputs:
            inputs, outputs = _counted(response.llm_output or {})
        if not inputs + outputs and not self._warned:
            self._warned = True
            self._attempt.warn(
                "no-usage",
                f"the model `{opened.call.name}` of the agent `{self._agent}` reports no tokens, "
                "so the limits of tokens and cost do not see its calls",
            )
        self._end_model(opened, inputs, outputs, "\n".join(texts))

    def _model_failed(self, run_id: UUID, error: BaseException) -> None:
        if (opened := self._open.pop(run_id, None)) is None:
            return
        self._failures.append((error, opened.call.name))
        self._keep(lambda: self._attempt.journal.run.withdraw(opened.site))
        self._end_model(opened, 0, 0, str(error))

    def _end_model(self, opened: _OpenCall, inputs: int, outputs: int, text: str) -> None:
        attempt, spec = self._attempt, opened.call.name
        opened.stack.close()
        cost = attempt.deps.models.cost(spec, inputs, outputs) or 0.0
        usage = Usage(input_tokens=inputs, output_tokens=outputs, cost=cost, calls=1)
        attempt.usage += usage
        attempt.context.meter.add(usage)
        attempt.emit(
            "model_finished",
            **opened.fields,
            seconds=opened.seconds,
            input_tokens=inputs,
            output_tokens=outputs,
            cost=cost,
            text=text,
        )

    # -- tools ----------------------------------------------------------------------------------

    def _tool_started(
        self,
        run_id: UUID,
        tool: ToolInfo,
        arguments: dict[str, Any],
        call_id: str,
        metadata: dict[str, Any],
        is_own: bool,
    ) -> None:
        attempt, agent = self._attempt, self._path(metadata)
        call = Call(
            kind="tool",
            name=tool.qualified_name,
            digest=attempt.digest(arguments),
            safe=may_repeat(tool),
        )
        # Not by the call's id: a model that is asked again gives it another one.
        site = self._site(agent, f"{call.name} {call.digest}")
        journal = attempt.journal.run
        approval = self._use_approval(tool, arguments, is_own=is_own)
        with self._watched(call), self._asking(site):
            if not journal.is_begun(site, call):  # else an earlier process had the approval
                self._agree(tool, arguments, agent, reviewed=approval is not None)
            self._check()
            known = journal.find(site, call)
            if known is not None and not call.safe:
                if known.done and call_id:
                    text = str(known.result.get("text") or "")
                    raise _refused(f"{MADE_BEFORE}{text}")
                # Without an id, no model reads the result: the call may be another, equal one.
                self._ask_in_doubt(tool, arguments)
        fields = self._fields(agent, site, tool=tool.name)
        attempt.seen.contact(arguments)
        self._keep(lambda: self._begin(site, call))
        attempt.emit("tool_started", **fields, **self._agreed(call), arguments=arguments)
        self._open[run_id] = _OpenCall(
            fields=fields, site=site, call=call, tool=tool, approval=approval
        )

    def _begin(self, site: CallSite, call: Call) -> None:
        """Record a call's intent. LangChain makes the call as soon as this returns."""
        journal = self._attempt.journal.run
        journal.begin(site, call)
        if not call.safe:
            journal.sync()

    @property
    def _lost(self) -> str:
        """The key of the calls whose questions did not reach the user in this attempt."""
        return f"lost {self._attempt.path} {self._attempt.attempts} {self._agent}"

    @contextmanager
    def _watched(self, call: Call) -> Generator[None]:
        """Remember the questions about a call until the graph has passed them on."""
        key = f"{call.name} {call.digest}"
        self._questions.pop(key, None)
        try:
            yield
        except GraphInterrupt as interrupted:
            self._questions[key] = {each.id for each in interrupted.args[0]}
            raise

    def note_passed_on(self, asked: GraphInterrupt) -> None:
        """Note which questions about calls the graph passed on, and which it did not."""
        passed_on: set[str] = {each.id for each in (asked.args[0] if asked.args else ())}
        lost = [key for key, ids in self._questions.items() if not ids & passed_on]
        notes = self._attempt.context.notes
        if lost or notes.get(self._lost):
            notes.put(self._lost, lost)

    def check_passed_on(self) -> None:
        """Check at the end of the graph that it passed on each question about a call.

        Raises:
            ToolError: It caught one. So the call was not made, and the user does not know of it.
        """
        if self._questions:
            name = next(iter(self._questions)).partition(" ")[0]
            raise ToolError(
                f"the agent `{self._agent}` caught the question about its call of `{name}`, so it "
                "was neither asked nor made",
                hint="pass LangGraph's interrupts on: `except GraphBubbleUp: raise`",
            )

    @contextmanager
    def _asking(self, site: CallSite) -> Generator[None]:
        """Ask the questions about a call in the same order each time its task runs.

        LangGraph gives a task its answers in order. If the task runs again, an approval may not be
        needed any more. Its answer must not become that of the tool's own `interrupt`. So the
        questions that were asked are asked again first, and their answers are kept for them.
        """
        attempt, key = self._attempt, f"asked {site.key}"
        notes, replies = attempt.context.notes, attempt.replies
        asked: list[dict[str, Any]] = list(notes.get(key) or [])
        shown = attempt.context.shown
        if shown is None:  # a bare answer is one to the graph itself
            attempt.context.shown = set()
        try:
            answers = [(questions.identity(each), ask(attempt, each)) for each in asked]
            replies.setdefault(attempt.journal.task, []).extend(answers)
            yield
        except GraphInterrupt as interrupted:
            known = {questions.identity(each) for each in asked}
            new = [each.value for each in interrupted.args[0]]
            new = [each for each in new if questions.identity(each) not in known]
            notes.put(key, [*asked, *new])
            raise
        finally:
            attempt.context.shown = shown

    def _agreed(self, call: Call) -> dict[str, Any]:
        agreed = self._attempt.agreed.pop(call, None)
        return {"agreed": agreed} if agreed else {}

    def _agree(
        self, tool: ToolInfo, arguments: dict[str, Any], agent: str, *, reviewed: bool
    ) -> None:
        """Check that a call may be made.

        Args:
            reviewed: Whether the user approved it, since the graph asked about it.

        Raises:
            Refused: It may not.
            GraphInterrupt: The user must approve it.
        """
        attempt = self._attempt
        try:
            agreed = agree(attempt, tool, arguments, "model", agent, reviewed=reviewed)
        except (PolicyError, ToolError) as error:
            raise Refused(str(error), error) from error
        if dict(agreed) == arguments:
            return
        self._remember_changed(tool, agreed)
        wanted = to_json(attempt.context.mask(dict(agreed)))
        raise _refused(
            f"`{tool.own_name}` was not called: the user wants other arguments. Call it with "
            f"exactly these: {wanted}"
        )

    def _ask_in_doubt(self, tool: ToolInfo, arguments: dict[str, Any]) -> None:
        """Ask about a call that an earlier process began.

        Raises:
            Refused: It must not be made again.
        """
        attempt = self._attempt
        answer = ask(
            attempt,
            questions.in_doubt(attempt.path, tool.own_name, arguments, server=tool.server),
        )
        if isinstance(answer, Mapping):
            outputs = to_json(cast("Mapping[str, Any]", answer)["outputs"])
            raise _refused(f"{MADE_BEFORE}{outputs}")
        if answer != "again":
            attempt.end_tries()
            words = f"the run was killed during the call of `{tool.own_name}`: it counts as failed"
            raise _refused(words)

    def _tool_finished(self, run_id: UUID, output: Any) -> None:
        opened = self._open.pop(run_id, None)
        if opened is not None:
            text, is_error = _said(output)
            result: dict[str, Any] = {
                "text": text,
                "structured": None,
                "is_error": is_error,
                "content": [],
                "seconds": opened.seconds,
            }
            self._keep(lambda: self._attempt.journal.run.finish(opened.site, opened.call, result))
            self._end_tool(opened, text, is_error=is_error)

    def _tool_failed(self, run_id: UUID, error: BaseException) -> None:
        opened = self._open.pop(run_id, None)
        if opened is None:
            return
        journal = self._attempt.journal.run
        if isinstance(error, GraphBubbleUp):  # it asks something, or hands over to another agent
            self._keep(lambda: journal.withdraw(opened.site))
            if isinstance(error, GraphInterrupt) and opened.approval:
                self._give_back(*opened.approval)
            text = "waits for an answer" if isinstance(error, GraphInterrupt) else "hands over"
            self._emit_tool(opened, text, is_error=False)
            return
        text = str(error) or type(error).__name__
        if isinstance(error, Exception):  # a cancelled call has an unknown outcome
            failure = failure_data(ToolError(text))
            self._keep(lambda: journal.finish(opened.site, opened.call, {**failure, "text": text}))
        self._end_tool(opened, text, is_error=True)

    def _end_tool(self, opened: _OpenCall, text: str, *, is_error: bool) -> None:
        attempt = self._attempt
        assert opened.tool is not None  # noqa: S101 - only tools get here
        if SERVING not in opened.tool.annotations:
            attempt.saw(source_of(opened.tool, attempt.deps.policy.settings.sources, []), text)
        self._emit_tool(opened, text, is_error=is_error)

    def _emit_tool(self, opened: _OpenCall, text: str, *, is_error: bool) -> None:
        self._attempt.emit(
            "tool_finished", **opened.fields, seconds=opened.seconds, is_error=is_error, text=text
        )

    def _info(self, serialized: Mapping[str, Any], tool: BaseTool | None) -> ToolInfo:
        """A tool as the policy sees it. Like a registry's, it is of a closed world by default.

        Args:
            tool: None if it is not known: then it has no hints, whatever its name is.
        """
        name = str(serialized.get("name") or "tool")
        hints = {} if tool is None else _hints_of(tool)
        _add_hints(self._hints, name, hints)
        return ToolInfo(
            name=name,
            server=self._agent.rpartition("/")[2],
            description=str(serialized.get("description") or ""),
            annotations={"openWorldHint": False, **hints},
        )

    def marked(self, result: Any) -> Any:
        """The output of the graph. Its tool messages say which calls were to change something."""
        if not isinstance(result, Mapping):
            return result
        values = cast("Mapping[str, Any]", result)
        messages: Any = values.get("messages")
        if not isinstance(messages, list):
            return values
        return {**values, "messages": [self._marked(each) for each in cast("list[Any]", messages)]}

    def _marked(self, message: Any) -> Any:
        if not isinstance(message, ToolMessage):
            return message
        hints = self._hints.get(str(message.name), {})
        if SERVING in hints:
            return message
        changes = {CHANGES: hints.get("readOnlyHint") is not True}
        update: dict[str, Any] = {"additional_kwargs": {**message.additional_kwargs, **changes}}
        if message.text.startswith(MADE_BEFORE):  # LangChain can only pass it on as an error
            update["status"] = "success"
        return message.model_copy(update=update)

    # -- interrupts -----------------------------------------------------------------------------

    def as_questions(self, asked: GraphInterrupt) -> GraphInterrupt:
        """The same interrupts, with questions of fractale as their values."""
        found: Sequence[Interrupt] = asked.args[0] if asked.args else ()
        if not found:  # a breakpoint: `interrupt_before`, `interrupt_after`
            question = self._breakpoint
            key, notes = self._stops, self._attempt.context.notes
            notes.put(key, (notes.get(key) or 0) + 1)
            note_shown(self._attempt, question)
            return GraphInterrupt((Interrupt.from_ns(value=question, ns=current_task()),))
        return GraphInterrupt(tuple(self._as_question(each) for each in found))

    @property
    def _breakpoint(self) -> dict[str, Any]:
        return self._question({"breakpoint": self._agent}, None)

    @property
    def _stops(self) -> str:
        """The key of the number of breakpoints at which the graph has stopped in this task."""
        return f"asked to continue {current_task()} {self._agent}"

    def check_continued(self) -> None:
        """Check that the user let the graph continue from each breakpoint at which it stopped.

        LangGraph itself would continue with any answer.

        Raises:
            GraphInterrupt: The answer is none. The question is asked again.
        """
        for _ in range(self._attempt.context.notes.get(self._stops) or 0):
            ask(self._attempt, self._breakpoint)

    def _as_question(self, asked: Interrupt) -> Interrupt:
        if _is_known(asked.value):
            return asked
        schema = asked.response_schema if isinstance(asked.response_schema, dict) else None
        question = self._question(_as_json(asked.value), schema)
        return Interrupt(value=question, id=asked.id, response_schema=asked.response_schema)

    def _question(self, value: Any, schema: dict[str, Any] | None) -> dict[str, Any]:
        attempt = self._attempt
        question = questions.interrupt(attempt.path, self._agent, value, schema)
        masked = cast("dict[str, Any]", attempt.context.mask(question))
        return to_common(masked) if is_inline(attempt.deps.outputs) else masked

    # -- calls that the graph itself asked about ------------------------------------------------

    @property
    def _note(self) -> str:
        """The key of the approved calls of this attempt: interrupt → digests, one for each call."""
        return f"approved {self._attempt.path} {self._attempt.attempts} {self._agent}"

    async def waiting_at(self, graph: Any, config: RunnableConfig) -> Sequence[Interrupt]:
        """The graph's own interrupts that this resume may answer, from its checkpoint."""
        known: Mapping[str, Any] = config.get("configurable") or {}
        saver = known.get(CONFIG_KEY_CHECKPOINTER)
        if not known.get(CONFIG_KEY_RESUMING) or not isinstance(saver, BaseCheckpointSaver):
            return ()
        if getattr(graph, "checkpointer", None) is False:
            return ()
        names = ("thread_id", "checkpoint_ns", CONFIG_KEY_CHECKPOINTER)
        place: Any = {"configurable": {name: known.get(name) for name in names}}
        waiting: Sequence[Interrupt] = (await graph.aget_state(place)).interrupts
        return waiting

    def with_answers(self, config: RunnableConfig, waiting: Sequence[Interrupt]) -> RunnableConfig:
        """The config of the graph, in which the answers have the form that the graph expects.

        A plan inside another graph does not see an answer before its steps do.

        Args:
            waiting: The interrupts that the graph waits at.

        Raises:
            GraphInterrupt: An answer is none. The questions are asked again.
        """
        known: Mapping[str, Any] = config.get("configurable") or {}
        asked = {i.id: self._as_question(i).value for i in waiting if not _is_known(i.value)}
        given: dict[str, Any] = known.get(CONFIG_KEY_RESUME_MAP) or {}
        if asked and (given or len(waiting) == 1):
            # Beside answers by id, a bare one is of an earlier resume.
            bare = known[CONFIG_KEY_SCRATCHPAD].get_null_resume(True)
            given = given or ({} if bare is None else dict.fromkeys(asked, bare))
        answers: dict[str, Any] = {}
        again: dict[str, Any] = {}
        for key in asked.keys() & given.keys():
            try:
                answers[key] = questions.read_for_code(asked[key], given[key])
            except AnswerError as error:
                again[key] = asked_again(asked[key], error)
        if again:
            raise GraphInterrupt(
                tuple(
                    Interrupt(again.get(i.id, i.value), i.id, response_schema=i.response_schema)
                    for i in waiting
                )
            )
        if not answers:
            return config
        conf = {**known, CONFIG_KEY_RESUME_MAP: {**given, **answers}}
        return cast("RunnableConfig", {**config, "configurable": conf})

    def remember_approved(self, config: RunnableConfig, waiting: Sequence[Interrupt]) -> None:
        """Remember the calls that the user approves now, so that fractale does not ask again.

        If it is not certain what the user decided about a call, fractale asks.
        """
        known: Mapping[str, Any] = config.get("configurable") or {}
        for asked in waiting:
            answer = _answer_in(known, asked.id, is_only=len(waiting) == 1)
            calls = _approved(self._question(_as_json(asked.value), None), answer)
            self._put_approved(asked.id, [digest_of(call) for call in calls])

    def _put_approved(self, interrupt: str, calls: list[str]) -> None:
        notes = self._attempt.context.notes
        known: dict[str, list[str]] = notes.get(self._note) or {}
        if calls or interrupt in known:
            notes.put(self._note, {**known, interrupt: calls})

    def _remember_changed(self, tool: ToolInfo, arguments: Mapping[str, Any]) -> None:
        """Remember the arguments that the user wants, for one call. The task may run again."""
        digest = digest_of([tool.qualified_name, tool.definition, dict(arguments)])
        known: dict[str, list[str]] = self._attempt.context.notes.get(self._note) or {}
        change = f"changed {current_task()} {digest}"
        if change not in known:
            self._attempt.context.notes.put(self._note, {**known, change: [digest]})

    def _use_approval(
        self, tool: ToolInfo, arguments: Mapping[str, Any], *, is_own: bool
    ) -> tuple[str, str] | None:
        """Use up the approval of a call. Each allows one call.

        A call with a secret in it is not known exactly, so it has none.

        Args:
            is_own: Whether the graph can have asked about it: no other tool has its name.

        Returns:
            The interrupt that asked for it, and the digest of the call; None: there is none.
        """
        context, given = self._attempt.context, dict(arguments)
        if context.mask(given) != given:
            return None
        digests = [digest_of([tool.qualified_name, tool.definition, given])]
        if is_own:
            digests.append(digest_of([tool.own_name, given]))
        known: dict[str, list[str]] = context.notes.get(self._note) or {}
        for interrupt, calls in known.items():
            for digest in digests:
                if digest in calls:
                    index = calls.index(digest)
                    self._put_approved(interrupt, [*calls[:index], *calls[index + 1 :]])
                    return interrupt, digest
        return None

    def _give_back(self, interrupt: str, digest: str) -> None:
        """Keep the approval of a call that asks something itself, and is made again later."""
        known: dict[str, list[str]] = self._attempt.context.notes.get(self._note) or {}
        self._put_approved(interrupt, [*known.get(interrupt, []), digest])

    # -- shared ---------------------------------------------------------------------------------

    def error_of(self, error: Exception) -> BaseException:
        """An exception of the graph as an error of fractale."""
        if self.stopped is not None:
            return self.stopped
        if isinstance(error, FractaleError):
            return error
        if isinstance(error, Refused):
            return error.error
        mask = self._attempt.context.masker.text
        for failure, spec in self._failures:
            if failure is error and isinstance(failure, Exception):
                return to_model_error(failure, spec=spec, key=None, mask=mask)
        words = mask(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        return ToolError(f"the agent `{self._agent}` failed: {words}")

    def _check(self, spec: str | None = None) -> None:
        """Check the limits before a call.

        Raises:
            LimitReached: Time, tokens or cost are used up.
            SettingsError: The cost is limited, and the model's price is unknown.
        """
        meter = self._attempt.context.meter
        self._keep(meter.check)
        if spec and meter.limits_cost and self._attempt.deps.models.cost(spec, 1, 1) is None:
            self.stopped = SettingsError(
                f"the run limits its cost, but the price of {spec} is not known",
                hint=f"add `prices: {{{spec}: {{input: …, output: …}}}}` to the settings",
            )
            raise self.stopped

    def _keep(self, do: Callable[[], Any]) -> None:
        """Check a limit or write to the journal. A failure stops the run, whatever the graph does.

        Raises:
            FractaleError: What the function raised.
        """
        try:
            do()
        except FractaleError as error:
            self.stopped = error
            raise

    def _fields(self, agent: str, site: CallSite, **more: Any) -> dict[str, Any]:
        """The fields of all events of a call."""
        self._attempt.calls += 1
        return {**more, "call": self._attempt.calls, "key": site.key, "agent": agent}

    def _site(self, agent: str, part: str) -> CallSite:
        """The call site of a tool call: LangGraph's task, and the call in it."""
        return self._attempt.journal.next_site(agent, part=part)

    def _path(self, metadata: Mapping[str, Any] | None) -> str:
        """The path of the agent that makes a call: of an agent inside, with its name."""
        inner = str((metadata or {}).get("lc_agent_name") or "")
        return f"{self._agent}/{inner}" if inner and inner != self._name else self._agent

    def _in_loop(self, work: Callable[..., T], *given: Any) -> T:
        """Do the work in the thread of the event loop, where everything else of the run happens.

        A sync node runs in another thread, which waits for the loop. If the loop itself waits for
        that thread, the thread does the work: then nothing else happens in the loop.
        """
        if threading.get_ident() == self._thread:
            return work(*given)
        done: Future[T] = Future()
        context = copy_context()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(context.run(work, *given))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        try:
            return done.result(PATIENCE)
        except TimeoutError:
            if done.cancel():
                return work(*given)
            return done.result()


def _is_known(value: Any) -> bool:
    """Whether an interrupt is a question, a job or a time of fractale, not of the graph itself."""
    if not isinstance(value, Mapping):
        return False
    known = cast("Mapping[str, Any]", value)
    return (known.get("kind") in KINDS or questions.needs_no_answer(known)) and "step" in known


def _refused(message: str) -> Refused:
    return Refused(message, ToolError(message))


def _as_json(value: Any) -> Any:
    return pydantic_core.to_jsonable_python(value, fallback=str)


def _spec(
    serialized: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    more: Mapping[str, Any],
) -> str:
    """``provider:name`` of a model, as far as LangChain says."""
    known: Any = metadata or {}
    asked: Any = more.get("invocation_params") or {}
    name = known.get("ls_model_name") or asked.get("model") or asked.get("model_name")
    provider = known.get("ls_provider")
    if not name:
        return str(provider or (serialized or {}).get("name") or asked.get("_type") or "model")
    return f"{provider}:{name}" if provider else str(name)


def _counted(output: Mapping[str, Any]) -> tuple[int, int]:
    """The tokens that a provider reports beside its answer."""
    used: Any = output.get("token_usage") or output.get("usage") or {}
    if not isinstance(used, Mapping):
        return 0, 0
    counts = cast("Mapping[str, Any]", used)
    return int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0)


def _said(output: Any) -> tuple[str, bool]:
    """The text of a tool's answer, and whether it is an error."""
    if isinstance(output, ToolMessage):
        return output.text, output.status == "error"
    if isinstance(output, Command):
        update: Any = cast("Command[Any]", output).update
        messages: Sequence[Any] = ()
        if isinstance(update, Mapping):
            messages = cast("Mapping[str, Any]", update).get("messages") or ()
        found = [message for message in messages if isinstance(message, ToolMessage)]
        return "\n".join(m.text for m in found), any(m.status == "error" for m in found)
    if isinstance(output, (list, tuple)):
        parts = [_said(each) for each in cast("Sequence[Any]", output)]
        return "\n".join(text for text, _ in parts), any(error for _, error in parts)
    return (output if isinstance(output, str) else to_json(_as_json(output))), False


_RUNS = (BaseTool.run.__code__, BaseTool.arun.__code__)
_REPORTS = ("langchain_core.callbacks.", "fractale.graph.")


def _reporting_tool() -> BaseTool | None:
    """The tool whose call LangChain reports to a handler at this moment.

    LangChain passes on the name only, and several tools can have the same one. But it calls the
    handlers from the tool's own `run` or `arun`.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code in _RUNS:
            tool = frame.f_locals.get("self")
            return tool if isinstance(tool, BaseTool) else None
        if not str(frame.f_globals.get("__name__", "")).startswith(_REPORTS):
            return None  # other code reports a call
        frame = frame.f_back
    return None


def _hints_of(tool: Any) -> dict[str, Any]:
    """MCP's hints in a tool's own metadata, where `langchain-mcp-adapters` puts them.

    Some tools of LangChain and deepagents need no approval. They are known by their modules, so
    that a person's own tool of the same name is another tool.
    """
    name = str(getattr(tool, "name", ""))
    made: Any = getattr(tool, "coroutine", None) or getattr(tool, "func", None)
    module = str(getattr(made, "__module__", ""))
    is_known = name in LOOKS | SERVES and module.startswith(OWN_MODULES)
    own: dict[str, Any] = {"readOnlyHint": True} if is_known else {}
    serving = {SERVING: True} if is_known and name in SERVES else {}
    if is_known and name in LOOKS and _is_virtual(made):
        own[PATHS] = ()  # none of its arguments is a path of this machine
    known: Any = getattr(tool, "metadata", None) or {}
    given = {name: known[name] for name in MCP_HINTS if isinstance(known.get(name), bool)}
    return {**own, **serving, **given}


def _is_virtual(made: Any) -> bool:
    """Whether a tool of deepagents has its files in the agent's state or store, as by default.

    Args:
        made: Its function, which is made by the middleware that has the backend.
    """
    names, cells = made.__code__.co_freevars, made.__closure__ or ()
    middleware = dict(zip(names, cells, strict=True)).get("self")
    backend = getattr(middleware and middleware.cell_contents, "backend", None)
    return type(backend).__module__ in VIRTUAL


def _add_hints(known: dict[str, dict[str, Any]], name: str, hints: dict[str, Any]) -> None:
    """Add a tool's hints to those known by name. Tools of one name that differ have none."""
    known[name] = hints if known.get(name, hints) == hints else {}


def _tools_in(graph: Any) -> dict[str, list[Any]]:
    """The different tools of the graph's nodes, by name."""
    found: dict[str, list[Any]] = {}
    nodes: Mapping[str, Any] = getattr(graph, "nodes", None) or {}
    for node in nodes.values():
        tools: Any = getattr(getattr(node, "bound", None), "tools_by_name", None) or {}
        for name, tool in cast("Mapping[str, Any]", tools).items():
            known = found.setdefault(name, [])
            if not any(each is tool for each in known):
                known.append(tool)
    return found


def _answer_in(known: Mapping[str, Any], interrupt: str, *, is_only: bool) -> Any:
    """The user's answer to an interrupt in the config of a resumed run; None if there is none.

    Args:
        is_only: Whether the graph has no other open interrupt. A bare answer belongs to the only
            one.
    """
    by_id: Mapping[str, Any] = known.get(CONFIG_KEY_RESUME_MAP) or {}
    if by_id:
        return by_id.get(interrupt)
    scratchpad = known.get(CONFIG_KEY_SCRATCHPAD)
    return scratchpad.get_null_resume(False) if is_only and scratchpad is not None else None


def _approved(question: Mapping[str, Any], answer: Any) -> list[list[Any]]:
    """The calls of a question of LangChain's form that an answer approves, as they are."""
    calls = questions.calls_in(question)
    if not calls or not isinstance(answer, Mapping):
        return []
    given = cast("Mapping[str, Any]", answer)
    is_one = question["value"].get("type") == "tool_approval"
    decisions: Any = [given] if is_one else given.get("decisions")
    if not isinstance(decisions, list) or len(cast("list[Any]", decisions)) != len(calls):
        return []
    return [
        [call["name"], call["args"]]
        for call, decision in zip(calls, cast("list[Any]", decisions), strict=True)
        if isinstance(decision, Mapping)
        and cast("Mapping[str, Any]", decision).get("type") == "approve"
    ]


def _types_in(graph: Any) -> Types:
    """The types that the states of the graph and of its subgraphs declare: checkpoints have them.

    The user named the module that has them, so reading them runs no other code.
    """
    found: set[tuple[str, ...]] = set()
    inner: list[Any] = []
    if hasattr(graph, "get_subgraphs"):
        inner = [each for _, each in graph.get_subgraphs(recurse=True)]
    for each in [graph, *inner]:
        builder: Any = getattr(each, "builder", None)
        names = ("state_schema", "input_schema", "output_schema")
        schemas = [getattr(builder, name, None) for name in names]
        found |= collect_allowlist_from_schemas(
            schemas=[schema for schema in schemas if schema is not None],
            channels=getattr(each, "channels", None),
        )
    return frozenset(found)


# LangChain logs each error of a handler, although it also raises it.

_LOG = logging.getLogger("langchain_core.callbacks.manager")


def _is_other(record: logging.LogRecord) -> bool:
    arguments = record.args
    return not (isinstance(arguments, tuple) and arguments[:1] == (GraphCalls.__name__,))


@contextmanager
def _without_warnings() -> Generator[None]:
    """Silence LangChain's warnings about the errors that `GraphCalls` raises on purpose."""

    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return _is_other(record)

    silent = Filter()
    _LOG.addFilter(silent)
    try:
        yield
    finally:
        _LOG.removeFilter(silent)
