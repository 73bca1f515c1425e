"""The calls of tools and prompts in one visit of a step: agreed to, made once, and told about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from langgraph.types import interrupt

from fractale import questions
from fractale.errors import AnswerError, JobError, PolicyError, ToolError
from fractale.graph.doubt import cut_off, doubtful
from fractale.graph.faults import CutOff, Elicited
from fractale.graph.visit import SHORT_TEXT, Visit
from fractale.plain import to_json
from fractale.policy import Chooser, PlannedCall, may_repeat
from fractale.store.journal import Call, digest_of
from fractale.toolbox import Elicitation, PromptMessage, ToolInfo, ToolResult


def agree(
    visit: Visit, tool: ToolInfo, arguments: Mapping[str, Any], chosen_by: Chooser
) -> Mapping[str, Any]:
    """See that a call may be made; a person may have to agree to it.

    The question is an interrupt: the run can end here and go on in another process. What
    comes before it in its node only reads, so doing that again on the way back does no harm.

    Returns:
        The arguments, as the person wants them.

    Raises:
        PolicyError: The settings or a person refuse it.
    """
    context = visit.context
    planned = PlannedCall(
        tool=tool, arguments=arguments, chosen_by=chosen_by, approve=visit.step.approve
    )
    ruling = visit.deps.policy.rule(planned, grants=frozenset(context.grants))
    if ruling.verdict == "deny":
        raise PolicyError(f"`{tool.name}` was not called: {ruling.why}")
    if ruling.verdict == "allow":
        return arguments
    shown = context.mask(dict(arguments))
    answer = interrupt(questions.approval(visit.path, tool.name, shown, ruling.why))
    if answer == "always":
        context.grants.add(tool.qualified_name)
    elif isinstance(answer, dict):
        edited = cast("dict[str, Any]", answer).get("arguments", arguments)
        return unmask(edited, shown, arguments)
    elif not answer:
        raise PolicyError(f"a person refused the call of `{tool.name}`")
    return arguments


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
        since: When it began, of the monotonic clock.
    """

    visit: Visit
    told: Mapping[str, Any]
    since: float = field(default_factory=time.monotonic)

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """Tell how far the tool says it is."""
        self.visit.emit("tool_progress", **self.told, progress=done, total=total, message=message)

    async def elicited(self, asked: Elicitation) -> Mapping[str, Any]:
        """What the person answers to the server.

        Raises:
            Elicited: Nobody is there.
        """
        question = questions.elicitation(self.visit.path, asked.server, asked.message, asked.schema)
        answer = await self.visit.context.ask_now(question)
        if answer is None:
            raise Elicited(question)
        return answer

    def finished(self, text: str, **more: Any) -> None:
        """Tell how it ended."""
        seconds = round(time.monotonic() - self.since, 3)
        short = text[:SHORT_TEXT]
        self.visit.emit("tool_finished", **self.told, **more, seconds=seconds, text=short)


async def call(
    visit: Visit,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    agent: str | None = None,
    *,
    make: Callable[[], Awaitable[ToolResult]] | None = None,
) -> ToolResult:
    """Make one tool call and tell about it.

    Args:
        agent: The sub-agent that makes the call, where it is not the step's own.
        make: Makes a call of fractale's own, in place of the toolbox, and never does its work
            twice; so it is made again where it was begun before.

    Raises:
        ToolError: The tool or its server failed.
        LimitReached: A limit of the run is used up.
    """
    place = visit.book.next_place(agent)
    known = Call(
        kind="tool",
        name=tool.qualified_name,
        digest=_digest(visit, arguments),
        safe=may_repeat(tool),
    )
    told: dict[str, Any] = {"tool": tool.name, "call": visit.next_call(), "key": place.key}
    if agent:
        told["agent"] = agent
    visit.emit("tool_started", **told, arguments=dict(arguments))
    under_way = _UnderWay(visit, told)

    async def from_toolbox() -> ToolResult:
        return await visit.deps.toolbox.call_tool(
            tool.name, arguments, on_progress=under_way.progress, on_elicit=under_way.elicited
        )

    def in_doubt() -> ToolResult | None:
        return None if make else _in_doubt(visit, tool, arguments)

    journal = visit.context.journal
    try:
        result, recorded = await visit.book.tool(place, known, make or from_toolbox, in_doubt)
    except (ToolError, JobError) as error:
        told_error = doubtful(error, tool)
        under_way.finished(str(told_error), is_error=True)
        raise told_error from error
    except AnswerError:
        journal.withdraw(place)
        raise
    except (asyncio.CancelledError, CutOff) as error:
        visit.cut_off.append(cut_off(error, tool))
        raise
    except Elicited as asked:
        # The call is made again, with the answer at hand, once there is one.
        journal.withdraw(place)
        journal.tell(place, {"asks": visit.context.mask(dict(asked.question))})
        under_way.finished("the server waits for an answer", is_error=False)
        interrupt(asked.question)
        raise ToolError(f"`{tool.name}` asked again after its question was answered") from None
    more = {"recorded": True} if recorded else {}
    under_way.finished(result.text, is_error=result.is_error, **more)
    return result


def _in_doubt(visit: Visit, tool: ToolInfo, arguments: Mapping[str, Any]) -> ToolResult | None:
    """What a person knows of a call that the run was killed in; None: make it again.

    Raises:
        ToolError: It is to count as failed.
    """
    shown = visit.context.mask(dict(arguments))
    answer = interrupt(questions.in_doubt(visit.path, tool.name, shown))
    if answer == "again":
        return None
    if isinstance(answer, dict):
        outputs = cast("dict[str, Any]", answer)["outputs"]
        return ToolResult(text=to_json(outputs), structured=outputs)
    raise ToolError(f"the run was killed during the call of `{tool.name}`: it counts as failed")


async def prompt(
    visit: Visit, name: str, arguments: Mapping[str, Any], agent: str | None = None
) -> list[PromptMessage]:
    """Have a server render a prompt.

    Raises:
        ToolError: There is no such prompt, or it did not take the arguments.
    """
    place = visit.book.next_place(agent, prompt=True)
    known = Call(kind="prompt", name=name, digest=_digest(visit, arguments), safe=True)
    return await visit.book.prompt(
        place, known, lambda: visit.deps.toolbox.get_prompt(name, arguments)
    )


def _digest(visit: Visit, arguments: Mapping[str, Any]) -> str:
    return digest_of(visit.context.mask(dict(arguments)))
