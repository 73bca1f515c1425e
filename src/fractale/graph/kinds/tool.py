"""Tool steps, and every tool call of other kinds of steps."""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from fractale import questions
from fractale.errors import CallError, PolicyError, ToolError, TransportError
from fractale.evidence import misfit_of, outputs_of
from fractale.graph import job_budget
from fractale.graph.bindings import find_tool
from fractale.graph.call import Attempt, Codec, once
from fractale.graph.consent import agree, call_of, outside
from fractale.graph.errors_as_data import Elicited
from fractale.graph.interrupts import ask, identity_of
from fractale.graph.kinds import Compiler
from fractale.graph.outcome import CallResult
from fractale.labels import Source, source_of
from fractale.paths import JOBS, PATHS
from fractale.plain import to_json
from fractale.policy import allowed_by, may_repeat, reads_only
from fractale.store.outputs import OutputStore
from fractale.toolbox import Elicitation, ToolInfo, ToolResult

if TYPE_CHECKING:
    from fractale.graph.step import StepNode

UNKNOWN_TYPE = "application/octet-stream"


def build(node: StepNode, compiler: Compiler) -> StepNode:
    """A step that calls one tool."""
    del compiler
    return replace(node, perform=_perform)


async def _perform(attempt: Attempt) -> CallResult:
    tool = await find_tool(attempt, attempt.step.target or "")
    return await call_planned(attempt, tool, attempt.inputs)


async def call_planned(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]
) -> CallResult:
    """Make the one call of a step that its plan names: of a tool, or of a server's sub-agent."""
    exact = attempt.context.bindings.exact
    if not all(allowed_by(exact(globs), tool) for globs in attempt.context.within):
        raise PolicyError(f"`{tool.name}` was not called: it is none of the planned step's tools")
    chosen_by = "model" if attempt.context.drafted else "plan"
    agreed = agree(attempt, tool, arguments, chosen_by)
    result = await call_tool(attempt, tool, agreed)
    error, code = None, None
    if result.is_error or result.is_empty:
        error, code = result.fault, "tool" if result.is_error else "empty"
    return CallResult(
        outputs=outputs_of(result, tool),
        text=result.text,
        error=error,
        code=code,
        misfit=result.misfit,
    )


async def call_tool(
    attempt: Attempt,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    agent: str | None = None,
    *,
    make: Callable[[], Awaitable[ToolResult]] | None = None,
    source: Source | None = None,
) -> ToolResult:
    """Make one approved tool call (`fractale.graph.consent.agree`).

    Args:
        agent: The path of the sub-agent that makes the call, if it is not the step's own.
        make: Makes a call of fractale's own, instead of the toolbox. Such a call never does its
            work twice, so it is made again if it was begun before.
        source: The source of the answer, if that is not the tool.

    Raises:
        ToolError: The tool or its server failed.
        LimitReached: A limit of the run is used up.
    """
    site = attempt.journal.next_site(agent)
    call = call_of(attempt, tool, arguments)
    is_job, reserved = JOBS in tool.annotations, ""
    if is_job:
        reserved = await job_budget.reserve_for_tool(attempt, tool, arguments, site.key)
    codec = ToolCodec(attempt, tool, arguments, attempt.agreed.pop(call, None), own=bool(make))
    attempt.seen.contact(arguments)
    try:
        result = await once(attempt, site, call, make or codec.send, codec)
    except ToolError as error:
        if is_job:
            await job_budget.settle_for_tool(attempt, tool, None, arguments, reserved)
        attempt.saw(source or _source(attempt, tool, arguments), str(error))
        raise
    if is_job:
        answer = result.structured
        await job_budget.settle_for_tool(attempt, tool, answer, arguments, reserved)
    attempt.saw(source or _source(attempt, tool, arguments), result.text)
    return result


def _source(attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]) -> Source | None:
    """The source of a call's answer."""
    # The answer counts as a file's contents only if the tool itself reads the file.
    reads = PATHS in tool.annotations and reads_only(tool)
    beyond = [path for _, path in outside(attempt, tool, arguments)] if reads else []
    return source_of(tool, attempt.deps.policy.settings.sources, beyond)


class ToolCodec(Codec[ToolResult]):
    """A call of a tool: its events, its result in the journal, and its server's questions.

    Args:
        agreed: A text that names who approved the call beforehand.
        own: Whether it is a call of fractale's own, which can be made again.
    """

    events = ("tool_started", "tool_finished")

    def __init__(
        self,
        attempt: Attempt,
        tool: ToolInfo,
        arguments: Mapping[str, Any],
        agreed: str | None = None,
        *,
        own: bool = False,
    ) -> None:
        super().__init__(attempt, {"tool": tool.name})
        self.tool = tool
        self.arguments = arguments
        self._agreed = agreed
        self._own = own
        self._answers: dict[str, Any] = {}
        self._asked: Counter[str] = Counter()

    async def send(self) -> ToolResult:
        """Call the tool through the toolbox."""
        self._asked.clear()
        attempt, tool = self.attempt, self.tool
        answer = await attempt.deps.toolbox.call_tool(
            tool.qualified_name,
            self.arguments,
            on_progress=self._progress,
            on_elicit=self._elicited,
            definition=attempt.context.bindings.definition(tool),
        )
        kept = with_files(answer, attempt.deps.outputs)
        return replace(kept, misfit=misfit_of(kept, tool))

    def _progress(self, done: float, total: float | None, message: str | None) -> None:
        self.attempt.emit("tool_progress", **self.told, progress=done, total=total, message=message)

    async def _elicited(self, asked: Elicitation) -> Mapping[str, Any]:
        """The user's answer to a question of the server.

        Raises:
            Elicited: The user has not answered yet.
        """
        self._asked[asked.message] += 1
        question = questions.elicitation(
            self.attempt.path,
            asked.server,
            asked.message,
            asked.schema,
            call=self.told["key"],
            round=self._asked[asked.message],
        )
        answer = self._answers.get(identity_of(self.attempt, question))
        if answer is None:
            answer = await self.attempt.context.ask_now(question)
        if answer is None:
            raise Elicited(question)
        return answer

    def answered(self, question: Mapping[str, Any], answer: Any) -> None:
        self._answers[identity_of(self.attempt, question)] = answer

    def started(self) -> dict[str, Any]:
        agreed = {"agreed": self._agreed} if self._agreed else {}
        return {**agreed, "arguments": dict(self.arguments)}

    def finished(
        self, outcome: ToolResult | CallError | Elicited, *, recorded: bool
    ) -> dict[str, Any]:
        if isinstance(outcome, Elicited):
            return {"is_error": False, "text": "the server waits for an answer"}
        if isinstance(outcome, CallError):
            return {"is_error": True, "text": str(outcome)}
        return {"is_error": bool(outcome.fault), "text": outcome.fault or outcome.text}

    def dump(self, result: ToolResult, seconds: float | None) -> dict[str, Any]:
        only_text = all(part.get("type") == "text" for part in result.content)
        return {
            "text": result.text,
            "structured": result.structured,
            "is_error": result.is_error,
            "content": [] if only_text else [dict(part) for part in result.content],
            "seconds": seconds,
            **({"files": [dict(file) for file in result.files]} if result.files else {}),
            **({"misfit": result.misfit} if result.misfit else {}),
        }

    def load(self, data: Mapping[str, Any]) -> ToolResult:
        return ToolResult(
            text=data["text"],
            structured=data["structured"],
            is_error=data["is_error"],
            content=tuple(data["content"]),
            files=tuple(data.get("files", ())),
            misfit=data.get("misfit"),
            seconds=data.get("seconds"),
        )

    def indeterminate(self) -> ToolResult | None:
        if self._own:
            return None
        tool, attempt = self.tool, self.attempt
        question = questions.in_doubt(
            attempt.path, tool.own_name, dict(self.arguments), server=tool.server
        )
        answer = ask(attempt, question)
        if answer == "again":
            return None
        if isinstance(answer, Mapping):
            outputs = cast("Mapping[str, Any]", answer)["outputs"]
            return ToolResult(text=to_json(outputs), structured=outputs)
        raise ToolError(f"the run was killed during the call of `{tool.name}`: it counts as failed")

    def failed(self, error: CallError) -> CallError:
        """The error. It mentions that the call may have been made, if that matters."""
        if not isinstance(error, TransportError) or not error.sent or may_repeat(self.tool):
            return error
        message = f"{error.message}; {self._may_have_been_made}"
        return TransportError(message, sent=True, hint=error.hint, position=error.position)

    def cut_off(self, cancelled: asyncio.CancelledError | TimeoutError) -> None:
        """Add the known facts about the call. If there are none, the message is empty."""
        for waited_for in cancelled.args:
            if isinstance(waited_for, TransportError):  # the call was not sent yet
                self.attempt.cut_off.append(waited_for)
                return
        safe = may_repeat(self.tool)
        words = "" if safe else self._may_have_been_made
        self.attempt.cut_off.append(TransportError(words, sent=not safe))

    @property
    def _may_have_been_made(self) -> str:
        return f"the call of `{self.tool.name}` may have been made, or not"


class QuietCodec(ToolCodec):
    """A call of fractale's own that only reads, has no events, and can be made again."""

    events = None

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt, ToolInfo(name="", server=""), {}, own=True)

    def cut_off(self, cancelled: asyncio.CancelledError | TimeoutError) -> None:
        del cancelled


def with_files(answer: ToolResult, outputs: OutputStore) -> ToolResult:
    """An answer with its bytes stored as files of the run.

    Raises:
        ToolError: The bytes are not the base64 that MCP prescribes.
        StoreError: A file cannot be written.
    """
    if all(part.get("type") == "text" for part in answer.content):
        return answer
    return replace(answer, files=tuple(_files(answer, outputs)))


def _files(answer: ToolResult, outputs: OutputStore) -> Iterator[dict[str, Any]]:
    for part in answer.content:
        if (found := _bytes_in(part)) is None:
            continue
        data, mime_type = found
        path = outputs.put_file(data, mimetypes.guess_extension(mime_type) or ".bin")
        known = {"path": str(path)} if path else {}
        size = path.stat().st_size if path else len(data)
        yield {**known, "mime_type": mime_type, "bytes": size}


def _bytes_in(part: Mapping[str, Any]) -> tuple[bytes, str] | None:
    """The bytes of a part and their type; None if the part is text."""
    inner = part.get("resource")
    source = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else part
    text = source.get("blob") if "blob" in source else source.get("data")
    if not isinstance(text, str):
        return None
    mime_type = str(source.get("mimeType") or UNKNOWN_TYPE)
    try:
        return base64.b64decode(text, validate=True), mime_type
    except (binascii.Error, ValueError) as error:
        raise ToolError(f"the tool answered with {mime_type} that is not base64") from error
