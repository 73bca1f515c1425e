"""The calls of tools and prompts in one attempt of a step: agreed to, made once, and told about."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from fractale import questions
from fractale.errors import AnswerError, CallError, JobError, PolicyError, ToolError
from fractale.grants import grant_of
from fractale.graph import job_budget
from fractale.graph.answers import taken
from fractale.graph.attempt import SHORT_TEXT, Attempt
from fractale.graph.bindings import resolve_prompt
from fractale.graph.doubt import cut_off, doubtful
from fractale.graph.faults import CutOff, Elicited
from fractale.graph.interrupts import ask
from fractale.labels import NO_LABELS, Source, Taint, shown, source_of
from fractale.paths import PATHS, forbidden, is_inside
from fractale.plain import to_json
from fractale.plan.kinds import READ_RESOURCE
from fractale.policy import Chooser, PlannedCall, may_repeat, reads_only
from fractale.schemas import UnusableSchema, misfits
from fractale.store.journal import Call, Place, digest_of
from fractale.toolbox import Elicitation, PromptMessage, ToolInfo, ToolResult

E = TypeVar("E", bound=CallError)


def agree(
    attempt: Attempt,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    chosen_by: Chooser,
    agent: str | None = None,
    *,
    cost: str = "",
) -> Mapping[str, Any]:
    """See that a call may be made; a person may have to agree to it.

    The question is an interrupt: the run can end here and continue in another process. Code
    before it in its node only reads, so running that code again does no harm. A call that an
    earlier process of the run began was agreed to then, by a person or by ``--yes``.

    Args:
        agent: The sub-agent that makes the call, if it is not the step's own.
        cost: What the call may use at most, in words for the person.

    Returns:
        The arguments, as the person wants them.

    Raises:
        PolicyError: The settings or a person refuse the call.
        ToolError: The arguments do not fit the tool's schema; no person is asked.
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
            attempt.agreed[_agreed_as(attempt, tool, arguments)] = ruling.why
        return arguments
    if attempt.book.is_begun(agent, _known(attempt, tool, arguments)):
        return arguments
    if misfits := misfits_of(tool.input_schema, arguments):
        raise ToolError(
            f"`{tool.name}` was not called: {'; '.join(misfits)}",
            hint="give it the arguments that its schema asks for",
        )
    masked = context.mask(dict(arguments))
    question = questions.approval(
        attempt.path,
        tool.own_name,
        masked,
        ruling.why,
        server=tool.server,
        definition=tool.definition,
        origins=_origins(planned),
        yes=ruling.yes,
        cost=cost,
    )
    answer = ask(attempt, question)
    if grant := grant_of(question, answer):
        context.grants.append(grant)
    elif isinstance(answer, Mapping):
        edited = cast("Mapping[str, Any]", answer)["arguments"]
        return unmask(edited, masked, arguments)
    elif answer is not True:
        raise PolicyError(f"a person refused the call of `{tool.name}`")
    return arguments


def is_allowed(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any], chosen_by: Chooser
) -> bool:
    """Whether a call may be made without asking anybody."""
    planned = _planned(attempt, tool, arguments, chosen_by)
    return (
        attempt.deps.policy.rule(planned, grants=tuple(attempt.context.grants)).verdict == "allow"
    )


def _refuse_forbidden(tool: ToolInfo, arguments: Mapping[str, Any]) -> None:
    """See that a call that a model chose touches no keys, and no other process.

    Raises:
        PolicyError: It would.
    """
    for _, path in paths_in(tool, arguments):
        if why := forbidden(path):
            raise PolicyError(f"`{tool.name}` was not called: {why}")


def _agreed_as(attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]) -> str:
    return f"{tool.qualified_name} {_digest(attempt, arguments)}"


def _planned(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any], chosen_by: Chooser
) -> PlannedCall:
    """A call with all that the policy wants to know of it."""
    context, seen = attempt.context, attempt.seen
    private: tuple[Source, ...] = ()
    beyond: tuple[str, ...] = ()
    if chosen_by == "model":
        composed = {name for name, _ in seen.composed(arguments, tool.input_schema)}
        taints = seen.taints_of(arguments, tool.input_schema)
        private = tuple(seen.private) if composed else ()
        paths = outside(attempt, tool, arguments)
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
    """The arguments that the plan fills with values that strangers can write, as a source says.

    Of a source that does not say, the person who wrote the plan chose it and what it goes to.
    """
    found: list[Taint] = []
    for name, value in arguments.items():
        labels = attempt.argument_sources.get(name, NO_LABELS)
        if sources := tuple(sorted(each for each in labels if each.stated)):
            found.append(Taint(argument=name, value=shown(value), sources=sources, copied=True))
    return tuple(found)


def _origins(call: PlannedCall) -> list[dict[str, Any]]:
    """Where the untrusted arguments of a call came from, as a question holds it."""
    return [
        {
            "argument": taint.argument,
            "value": taint.value,
            "from": [str(source) for source in taint.sources],
            "copied": taint.copied,
        }
        for taint in call.taints
    ]


def outside(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The arguments that are paths outside the project and the run's folder, each with its path."""
    roots = (attempt.context.folder,) if attempt.context.roots is None else attempt.context.roots
    found = paths_in(tool, arguments)
    return [(name, path) for name, path in found if not is_inside(path, roots)]


def paths_in(tool: ToolInfo, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The arguments of a call that are paths on this machine, each with its path.

    fractale's own tools say which of them are (`fractale.paths`). Of any other tool of a closed
    world, or that does not say, it is what its name or its first characters show.
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


def misfits_of(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """Why the tool's server would refuse the arguments; empty where only it can tell."""
    try:
        return [str(each) for each in misfits(schema, dict(arguments), texts="converted")]
    except UnusableSchema:
        return []


def _known(attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]) -> Call:
    """The call as its journal knows it."""
    return Call(
        kind="tool",
        name=tool.qualified_name,
        digest=_digest(attempt, arguments),
        safe=may_repeat(tool),
    )


def unmask(edited: Any, shown: Any, real: Any) -> Any:
    """What a person left as it was shown, as it really is: secrets are shown as ``***``."""
    if edited == shown:
        return real
    if isinstance(edited, dict) and isinstance(shown, Mapping):
        table, seen = cast("dict[str, Any]", edited), cast("Mapping[str, Any]", shown)
        return {k: unmask(v, seen[k], real[k]) if k in seen else v for k, v in table.items()}
    return cast("Any", edited)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A call while it is made: how far it is, what its server asks, how it ends.

    Args:
        told: What every event of the call says.
        answers: Identity of a question that the server asked before → its answer.
        since: When it began, of the monotonic clock.
        asked: How often the server asked each message in this call.
    """

    attempt: Attempt
    told: Mapping[str, Any]
    answers: Mapping[str, Any]
    since: float = field(default_factory=time.monotonic)
    asked: Counter[str] = field(default_factory=Counter[str])

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """Tell how far the tool says it is."""
        self.attempt.emit("tool_progress", **self.told, progress=done, total=total, message=message)

    async def elicited(self, asked: Elicitation) -> Mapping[str, Any]:
        """What the person answers to the server.

        Raises:
            Elicited: Nobody is there.
        """
        self.asked[asked.message] += 1
        question = questions.elicitation(
            self.attempt.path,
            asked.server,
            asked.message,
            asked.schema,
            call=self.told["key"],
            round=self.asked[asked.message],
        )
        answer = self.answers.get(questions.identity(self.attempt.context.mask(question)))
        if answer is None:
            answer = await self.attempt.context.ask_now(question)
        if answer is None:
            raise Elicited(question)
        return answer

    def finished(self, text: str, **more: Any) -> None:
        """Tell how it ended."""
        seconds = round(time.monotonic() - self.since, 3)
        # Masked first: a secret that is cut is not known any more.
        short = self.attempt.context.mask(text)[:SHORT_TEXT]
        self.attempt.emit("tool_finished", **self.told, **more, seconds=seconds, text=short)


async def call(
    attempt: Attempt,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    agent: str | None = None,
    *,
    make: Callable[[], Awaitable[ToolResult]] | None = None,
    source: Source | None = None,
) -> ToolResult:
    """Make one tool call and tell about it.

    Args:
        agent: The sub-agent that makes the call, where it is not the step's own.
        make: Makes a call of fractale's own, in place of the toolbox, and never does its work
            twice; so it is made again where it was begun before.
        source: Where the answer comes from, where that is not the tool.

    Raises:
        ToolError: The tool or its server failed.
        LimitReached: A limit of the run is used up.
    """
    place = attempt.book.next_place(agent)
    reserved = await job_budget.reserve_for_tool(attempt, tool, arguments, place.key)
    known = _known(attempt, tool, arguments)
    told: dict[str, Any] = {"tool": tool.name, "call": attempt.next_call(), "key": place.key}
    if agent:
        told["agent"] = agent
    agreed = attempt.agreed.pop(_agreed_as(attempt, tool, arguments), None)
    more = {"agreed": agreed} if agreed else {}
    attempt.emit("tool_started", **told, **more, arguments=dict(arguments))
    attempt.seen.contact(arguments)
    answers: dict[str, Any] = {}
    while True:
        try:
            result = await _call_once(attempt, tool, arguments, place, known, told, answers, make)
            await job_budget.settle_for_tool(attempt, tool, result.structured, arguments, reserved)
            return _labeled(attempt, tool, arguments, result, source)
        except ToolError as error:
            await job_budget.settle_for_tool(attempt, tool, None, arguments, reserved)
            _labeled(attempt, tool, arguments, ToolResult(text=str(error)), source)
            raise
        except Elicited as asked:
            question = attempt.context.mask(dict(asked.question))
            attempt.context.journal.withdraw(place)
            attempt.context.journal.tell(place, {"asks": question})
            answers[questions.identity(question)] = ask(attempt, question, played=asked.played)


def _labeled(
    attempt: Attempt,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    result: ToolResult,
    source: Source | None,
) -> ToolResult:
    """An answer, after the attempt took note of where it came from."""
    if source is None:
        # Only of a tool that reads the file itself is it known that its answer is what is in it.
        reads = PATHS in tool.annotations and reads_only(tool)
        beyond = [path for _, path in outside(attempt, tool, arguments)] if reads else []
        source = source_of(tool, attempt.deps.policy.settings.sources, beyond)
    attempt.saw(source, result.text)
    return result


async def _call_once(
    attempt: Attempt,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    place: Place,
    known: Call,
    told: Mapping[str, Any],
    answers: Mapping[str, Any],
    make: Callable[[], Awaitable[ToolResult]] | None,
) -> ToolResult:
    """Make the call of a call site, or take its recorded result.

    Args:
        answers: What the server asked in this call before, answered.

    Raises:
        Elicited: The server asks something that has no answer yet.
    """
    under_way = _UnderWay(attempt, told, answers)

    async def from_toolbox() -> ToolResult:
        answer = await attempt.deps.toolbox.call_tool(
            tool.qualified_name,
            arguments,
            on_progress=under_way.progress,
            on_elicit=under_way.elicited,
            definition=attempt.context.bindings.definition(tool),
        )
        return taken(answer, attempt.deps.outputs, attempt.context.masker, tool)

    def in_doubt() -> ToolResult | None:
        return None if make else _in_doubt(attempt, tool, arguments)

    try:
        result, recorded = await attempt.book.tool(place, known, make or from_toolbox, in_doubt)
    except (ToolError, JobError) as error:
        told_error = _masked_error(attempt, doubtful(error, tool))
        under_way.finished(str(told_error), is_error=True)
        raise told_error from error
    except AnswerError:
        attempt.context.journal.withdraw(place)
        raise
    except (asyncio.CancelledError, CutOff) as error:
        attempt.cut_off.append(cut_off(error, tool))
        raise
    except Elicited:
        under_way.finished("the server waits for an answer", is_error=False)
        raise
    if make is None:
        result = _masked(attempt, result)
    more = {"recorded": True} if recorded else {}
    under_way.finished(result.fault or result.text, is_error=bool(result.fault), **more)
    return result


def _masked(attempt: Attempt, result: ToolResult) -> ToolResult:
    """An answer without secrets, as its journal has it, so that all that follows is the same.

    Before anything of it is cut: a part of a secret is not known any more.
    """
    mask = attempt.context.mask
    return replace(
        result,
        text=mask(result.text),
        structured=mask(result.structured),
        content=tuple(mask(list(result.content))),
        misfit=mask(result.misfit),
    )


def _masked_error(attempt: Attempt, error: E) -> E:
    error.message, error.hint = attempt.context.mask([error.message, error.hint])
    return error


def _in_doubt(attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]) -> ToolResult | None:
    """What a person knows of a call that the run was killed in; None: make it again.

    Raises:
        ToolError: It is to count as failed.
    """
    shown = attempt.context.mask(dict(arguments))
    question = questions.in_doubt(attempt.path, tool.own_name, shown, server=tool.server)
    answer = ask(attempt, question)
    if answer == "again":
        return None
    if isinstance(answer, Mapping):
        outputs = cast("Mapping[str, Any]", answer)["outputs"]
        return ToolResult(text=to_json(outputs), structured=outputs)
    raise ToolError(f"the run was killed during the call of `{tool.name}`: it counts as failed")


async def prompt(
    attempt: Attempt, name: str, arguments: Mapping[str, Any], agent: str | None = None
) -> list[PromptMessage]:
    """Have a server render a prompt.

    Raises:
        ToolError: There is no such prompt, or it did not take the arguments.
    """
    place = attempt.book.next_place(agent, prompt=True)
    known = Call(kind="prompt", name=name, digest=_digest(attempt, arguments), safe=True)

    async def fetch() -> list[PromptMessage]:
        toolbox = attempt.deps.toolbox
        bound = await resolve_prompt(toolbox, attempt.context.bindings, name)
        return await toolbox.get_prompt(bound, arguments)

    try:
        messages = await attempt.book.prompt(place, known, fetch)
    except ToolError as error:
        _masked_error(attempt, error)
        raise
    return [replace(each, text=attempt.context.mask(each.text)) for each in messages]


RESOURCE_READER = ToolInfo(
    name=READ_RESOURCE, server="fractale", annotations={"readOnlyHint": True}
)
"""Reads a resource that a server lists."""

OPEN_READER = replace(RESOURCE_READER, annotations={"readOnlyHint": True, "openWorldHint": True})
"""Reads a resource by a URI that somebody wrote: the URI itself tells the server something."""


async def read_resource(
    attempt: Attempt, uri: str, chosen_by: Chooser, agent: str | None = None
) -> ToolResult:
    """Read a resource of the run's servers: a call that only reads, of fractale's own.

    Args:
        agent: The sub-agent that reads it, where it is not the step's own.

    Raises:
        ToolError: There is no such resource, or its server failed.
        PolicyError: The settings or a person refuse it.
    """
    listed = chosen_by == "plan" or await _is_listed(attempt, uri)
    reader = RESOURCE_READER if listed else OPEN_READER
    arguments = agree(attempt, reader, {"uri": uri}, chosen_by)

    async def make() -> ToolResult:
        answer = await attempt.deps.toolbox.read_resource(str(arguments["uri"]))
        return _masked(attempt, taken(answer, attempt.deps.outputs, attempt.context.masker))

    source = resource_source(attempt, uri)
    return await call(attempt, reader, arguments, agent, make=make, source=source)


def resource_source(attempt: Attempt, uri: str) -> Source:
    """The source of what a resource contains."""
    trusted = uri in attempt.deps.policy.settings.sources.trusted
    return Source(kind="resource", name=uri, untrusted=not trusted, private=True)


async def _is_listed(attempt: Attempt, uri: str) -> bool:
    """Whether a server lists a resource of that URI, rather than a template that it fits."""
    return any(
        uri in (info.uri, f"{info.server}:{info.uri}", f"{info.server}.{info.uri}")
        for info in await attempt.deps.toolbox.resources()
        if not info.is_template
    )


def _digest(attempt: Attempt, arguments: Mapping[str, Any]) -> str:
    return digest_of(attempt.context.mask(dict(arguments)))
