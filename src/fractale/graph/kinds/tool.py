"""Tool steps, and every tool call: of other kinds of steps, and of a model.

A call is approved (`agree`) and then made once (`call_tool`). The policy sees a call as it will be
made, secrets in the clear. If the policy does not decide, fractale asks the user, who sees the call
with its secrets masked.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from langgraph.errors import GraphInterrupt, is_invalid_resume

from fractale import questions
from fractale.agents.tool_runs import ToolRun
from fractale.errors import AnswerError, CallError, PolicyError, ToolError, TransportError
from fractale.evidence import misfit_of, outputs_of
from fractale.graph import job_budget
from fractale.graph.bindings import find_tool
from fractale.graph.call import Attempt, Codec, current_task, has_callbacks, once
from fractale.graph.errors_as_data import Elicited, Paused
from fractale.graph.interrupts import ask, ask_as_before, identity_of, of_code, refused
from fractale.graph.kinds import Compiler
from fractale.graph.outcome import CallResult
from fractale.paths import JOBS, PATHS, forbidden, is_inside
from fractale.plain import to_json
from fractale.policy import (
    NO_LABELS,
    Chooser,
    PlannedCall,
    Ruling,
    Source,
    Taint,
    allowed_by,
    grant_of,
    may_repeat,
    reads_only,
    source_of,
)
from fractale.questions import needs_no_answer
from fractale.questions.parsing import brief
from fractale.registry.calls import BY_HAND, is_raised_by_hand
from fractale.schemas import UnusableSchema, misfits
from fractale.store.journal import Call
from fractale.store.outputs import OutputStore
from fractale.toolbox import (
    LARGE_ANSWER,
    LOCAL_CALL,
    Elicitation,
    LocalCall,
    ToolInfo,
    ToolResult,
)

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
        raise PolicyError(
            f"`{tool.name}` was not called: the planned step does not have it in its tools"
        )
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


# May the call be made?


def agree(
    attempt: Attempt,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    chosen_by: Chooser,
    agent: str | None = None,
    *,
    cost: str = "",
    reviewed: bool = False,
) -> Mapping[str, Any]:
    """Check that a call may be made. The call may need the user's approval.

    The question is an interrupt: the run can end here and continue in another process. Code
    before it in its node only reads, so running that code again does no harm. If an earlier process
    of the run began the call, a user or ``--yes`` approved it then.

    Args:
        agent: The path of the sub-agent that makes the call, if it is not the step's own.
        cost: The most that the call may use, as text for the user.
        reviewed: Whether the agent itself asked the user about this call. That counts like
            ``--yes``.

    Returns:
        The arguments, with the user's changes.

    Raises:
        PolicyError: The settings or the user refuse the call.
        ToolError: The arguments do not fit the tool's schema. The user is not asked.
    """
    context = attempt.context
    if chosen_by == "model":
        _refuse_forbidden(tool, arguments)
    planned = _planned(attempt, tool, arguments, chosen_by)
    ruling = attempt.deps.policy.rule(planned, grants=tuple(context.grants))
    if ruling.verdict == "deny":
        raise PolicyError(f"`{tool.name}` was not called: {ruling.why}")
    if ruling.verdict == "allow":
        if ruling.agreed:
            ask_as_before(attempt, _approval(attempt, planned, ruling))
            attempt.agreed[_call_of(attempt, tool, arguments)] = ruling.why
        return arguments
    begun = attempt.journal.is_begun(agent, _call_of(attempt, tool, arguments))
    if begun or (reviewed and ruling.yes):
        return arguments
    if faults := _misfits_of(tool.input_schema, arguments):
        raise ToolError(
            f"`{tool.name}` was not called: {'; '.join(faults)}",
            hint="give it the arguments that its schema asks for",
        )
    return _approved(attempt, planned, ruling, cost)


def _approval(
    attempt: Attempt, planned: PlannedCall, ruling: Ruling, cost: str = ""
) -> dict[str, Any]:
    """The question whether a call may be made."""
    tool, consents = planned.tool, attempt.consents
    return questions.approval(
        attempt.path,
        tool.own_name,
        attempt.context.mask(dict(planned.arguments)),
        f"{ruling.why}; {consents.words}" if consents else ruling.why,
        server=tool.server,
        definition=tool.definition,
        origins=_origins(planned),
        yes=ruling.yes,
        cost=cost,
    )


def _approved(
    attempt: Attempt, planned: PlannedCall, ruling: Ruling, cost: str
) -> Mapping[str, Any]:
    """The arguments of a call that the user approves, now or in an earlier try of the attempt.

    Raises:
        PolicyError: The user refuses the call.
    """
    tool, arguments, consents = planned.tool, planned.arguments, attempt.consents
    call, masked = _call_of(attempt, tool, arguments), attempt.context.mask(dict(arguments))
    key = f"{call.name} {call.digest}"
    if consents and key in consents.known:
        return _unmask(consents.known[key], masked, arguments)
    question = _approval(attempt, planned, ruling, cost)
    answer, agreed = ask(attempt, question), masked
    if grant := grant_of(question, answer):
        attempt.context.grants.append(grant)
    elif isinstance(answer, Mapping) and "arguments" in answer:
        agreed = cast("Mapping[str, Any]", answer)["arguments"]
    elif answer is not True:
        given = cast("Mapping[str, Any] | None", answer if isinstance(answer, Mapping) else None)
        why = f": {given['refuse']}" if given and "refuse" in given else ""
        raise PolicyError(f"a person refused the call of `{tool.name}`{why}")
    if consents:
        consents.new[key] = agreed
    return _unmask(agreed, masked, arguments)


def is_allowed(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any], chosen_by: Chooser
) -> bool:
    """Whether a call may be made without asking the user."""
    planned = _planned(attempt, tool, arguments, chosen_by)
    return (
        attempt.deps.policy.rule(planned, grants=tuple(attempt.context.grants)).verdict == "allow"
    )


def _refuse_forbidden(tool: ToolInfo, arguments: Mapping[str, Any]) -> None:
    """Refuse a model's call that touches keys or another process.

    Raises:
        PolicyError: The call would.
    """
    for _, path in _paths_in(tool, arguments):
        if why := forbidden(path):
            raise PolicyError(f"`{tool.name}` was not called: {why}")


def _planned(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any], chosen_by: Chooser
) -> PlannedCall:
    """A call with everything that the policy needs to know about it."""
    context, seen = attempt.context, attempt.seen
    private: tuple[Source, ...] = ()
    beyond: tuple[str, ...] = ()
    if chosen_by == "model":
        composed = {name for name, _ in seen.composed(arguments, tool.input_schema)}
        taints = seen.taints_of(arguments, tool.input_schema)
        private = tuple(seen.private) if composed else ()
        paths = _outside(attempt, tool, arguments)
        beyond = tuple(path for name, path in paths if name in composed)
    else:
        taints = _taints_of_templates(attempt, arguments)
    return PlannedCall(
        tool=tool,
        arguments=arguments,
        chosen_by=chosen_by,
        approve=attempt.step.approve,
        inputs=attempt.scope.get("inputs", {})
        if context.run_inputs is None
        else context.run_inputs,
        taints=taints,
        private=private,
        outside=beyond,
    )


def _taints_of_templates(attempt: Attempt, arguments: Mapping[str, Any]) -> tuple[Taint, ...]:
    """The arguments that the plan fills with values that strangers can write, if a source says so.

    If the source does not say so, the plan's author chose the source and the use of its values.
    """
    found: list[Taint] = []
    for name, value in arguments.items():
        labels = attempt.argument_sources.get(name, NO_LABELS)
        if sources := tuple(sorted(each for each in labels if each.stated)):
            found.append(Taint(argument=name, value=brief(value), sources=sources, copied=True))
    return tuple(found)


def _origins(call: PlannedCall) -> list[dict[str, Any]]:
    """The sources of a call's untrusted arguments, in the form that a question stores."""
    return [
        {
            "argument": taint.argument,
            "value": taint.value,
            "from": [str(source) for source in taint.sources],
            "copied": taint.copied,
        }
        for taint in call.taints
    ]


def _outside(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The arguments that are paths outside the project and the run's directory."""
    roots = (attempt.context.start_dir,) if attempt.context.roots is None else attempt.context.roots
    found = _paths_in(tool, arguments)
    return [(name, path) for name, path in found if not is_inside(path, roots)]


def _paths_in(tool: ToolInfo, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The arguments of a call that are paths on this machine, each with its path.

    fractale's own tools declare which arguments are paths (`fractale.paths`). For any other tool
    that is not of an open world, the argument's name or its first characters show it.
    """
    named: Any = tool.annotations.get(PATHS)
    if named is None and tool.annotations.get("openWorldHint") is True:
        return []
    found: list[tuple[str, str]] = []
    for name, value in arguments.items():
        texts = cast("list[Any]", value) if isinstance(value, list) else [value]
        for text in texts:
            if not isinstance(text, str) or "\n" in text or not text:
                continue
            if name in named if named is not None else _looks_like_path(name, text):
                found.append((name, text.removeprefix("file://")))
    return found


def _looks_like_path(name: str, text: str) -> bool:
    return _PATH.match(text) is not None or _PATH_NAME.search(name) is not None


_PATH = re.compile(r"(file://)?/[^/\s]|~|\.\./")
_PATH_NAME = re.compile(r"(^|_)(path|file|filename|dir|directory|folder)s?$", re.IGNORECASE)


def _misfits_of(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """Why the tool's server would refuse the arguments. Empty if only the server can decide."""
    try:
        return [str(each) for each in misfits(schema, dict(arguments), texts="converted")]
    except UnusableSchema:
        return []


def _call_of(attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]) -> Call:
    """The call in the form that its journal stores."""
    return Call(
        kind="tool",
        name=tool.qualified_name,
        digest=attempt.digest(arguments),
        safe=may_repeat(tool),
    )


def _unmask(edited: Any, shown: Any, real: Any) -> Any:
    """Edited arguments, with the secrets restored in the values that the user left as ``***``."""
    if edited == shown:
        return real
    if isinstance(edited, dict) and isinstance(shown, Mapping):
        table, seen = cast("dict[str, Any]", edited), cast("Mapping[str, Any]", shown)
        return {k: _unmask(v, seen[k], real[k]) if k in seen else v for k, v in table.items()}
    return cast("Any", edited)


# The call


async def call_tool(
    attempt: Attempt,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    agent: str | None = None,
    *,
    make: Callable[[], Awaitable[ToolResult]] | None = None,
    source: Source | None = None,
) -> ToolResult:
    """Make one approved tool call (`agree`).

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
    call = _call_of(attempt, tool, arguments)
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
    if len(result.text) > LARGE_ANSWER:
        size = f"{len(result.text) / 2**20:.0f} MiB of text"
        attempt.warn(
            "large-answer",
            f"`{tool.name}` answered with {size}; let it write them to a file and return its path",
        )
    attempt.saw(source or _source(attempt, tool, arguments), result.text)
    return result


def _source(attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]) -> Source | None:
    """The source of a call's answer."""
    # The answer counts as a file's contents only if the tool itself reads the file.
    reads = PATHS in tool.annotations and reads_only(tool)
    beyond = [path for _, path in _outside(attempt, tool, arguments)] if reads else []
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
        attempt, tool, task = self.attempt, self.tool, current_task()
        sent = partial(
            attempt.deps.toolbox.call_tool,
            tool.qualified_name,
            self.arguments,
            on_progress=self._progress,
            on_elicit=self._elicited,
            definition=attempt.context.bindings.definition(tool),
        )
        outer = LOCAL_CALL.get()  # of the model of an agent, if the same task made it
        id_ = outer.id if outer and outer.task == task else self.fields["key"]
        call = LocalCall(id_, task, attempt.context.caller)
        token = LOCAL_CALL.set(call)
        try:
            answer = await (self._traced(sent, id_) if has_callbacks() else sent())
        except GraphInterrupt as error:
            raise self._paused(error) from error
        finally:
            LOCAL_CALL.reset(token)
        if call.passed_on is not None:
            raise self._paused(call.passed_on)
        kept = with_files(answer, attempt.deps.outputs)
        return replace(kept, misfit=misfit_of(kept, tool))

    async def _traced(self, make: Callable[[], Awaitable[ToolResult]], id_: str) -> ToolResult:
        """Make the call as a tool run of LangChain's callbacks."""
        attempt, agent = self.attempt, self.fields.get("agent")
        shown = attempt.context.mask(dict(self.arguments))
        metadata = {"fractale_step": attempt.path, "fractale_server": self.tool.server}
        run = ToolRun(
            tool=self.tool,
            arguments=shown,
            id=id_,
            metadata={**metadata, "fractale_agent": agent} if agent else metadata,
            mask=attempt.context.mask,
        )
        return await run.around(make)

    def _paused(self, error: Exception) -> Exception:
        """The pause of the run for a question of the tool's code, or for a stop of its graph."""
        notes, key = self.attempt.context.notes, f"asked {current_task()} {self.fields['key']}"
        if is_invalid_resume(error):
            known = notes.get(key)
            if known and (again := refused(known["question"], known["id"], error)):
                return Paused(again, known["question"])
            words = f"the answer to `{self.attempt.path}` does not fit what `{self.tool.name}` asks"
            return AnswerError(f"{words}: {error}")
        if not isinstance(error, GraphInterrupt):
            return Paused(error)
        if is_raised_by_hand(error):
            return ToolError(f"`{self.tool.name}` {BY_HAND}")
        by = {"server": self.tool.server, "tool": self.tool.own_name}
        asked = of_code(self.attempt, error, agent=str(self.fields.get("agent") or ""), **by)
        found = [each for each in asked.args[0] if not needs_no_answer(each.value)]
        if found and found[0].response_schema:
            notes.put(key, {"question": found[0].value, "id": found[0].id})
        return Paused(asked, found[0].value if found else None)

    def _progress(self, done: float, total: float | None, message: str | None) -> None:
        self.attempt.emit(
            "tool_progress", **self.fields, progress=done, total=total, message=message
        )

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
            call=self.fields["key"],
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
        self, outcome: ToolResult | CallError | Elicited | Paused, *, recorded: bool
    ) -> dict[str, Any]:
        if isinstance(outcome, Paused):
            return {"is_error": False, "text": "the tool waits for an answer"}
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
        attempt.end_tries()
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


# Answers with files


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
