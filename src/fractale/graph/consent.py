"""May this call be made? The policy answers, or fractale asks the user.

Policy sees a call as it will be made, secrets in the clear. The user sees it with secrets masked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from fractale import questions
from fractale.errors import PolicyError, ToolError
from fractale.graph.call import Attempt
from fractale.graph.interrupts import ask
from fractale.labels import NO_LABELS, Source, Taint, shown
from fractale.paths import PATHS, forbidden, is_inside
from fractale.policy import Chooser, PlannedCall, grant_of, may_repeat
from fractale.schemas import UnusableSchema, misfits
from fractale.store.journal import Call
from fractale.toolbox import ToolInfo


def agree(
    attempt: Attempt,
    tool: ToolInfo,
    arguments: Mapping[str, Any],
    chosen_by: Chooser,
    agent: str | None = None,
    *,
    cost: str = "",
) -> Mapping[str, Any]:
    """Check that a call may be made. The call may need the user's approval.

    The question is an interrupt: the run can end here and continue in another process. Code
    before it in its node only reads, so running that code again does no harm. If an earlier process
    of the run began the call, a user or ``--yes`` approved it then.

    Args:
        agent: The path of the sub-agent that makes the call, if it is not the step's own.
        cost: The most that the call may use, as text for the user.

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
            attempt.agreed[call_of(attempt, tool, arguments)] = ruling.why
        return arguments
    if attempt.journal.is_begun(agent, call_of(attempt, tool, arguments)):
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
    for _, path in paths_in(tool, arguments):
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
    """The arguments that the plan fills with values that strangers can write, if a source says so.

    If the source does not say so, the plan's author chose the source and the use of its values.
    """
    found: list[Taint] = []
    for name, value in arguments.items():
        labels = attempt.argument_sources.get(name, NO_LABELS)
        if sources := tuple(sorted(each for each in labels if each.stated)):
            found.append(Taint(argument=name, value=shown(value), sources=sources, copied=True))
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


def outside(
    attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The arguments that are paths outside the project and the run's directory."""
    roots = (attempt.context.folder,) if attempt.context.roots is None else attempt.context.roots
    found = paths_in(tool, arguments)
    return [(name, path) for name, path in found if not is_inside(path, roots)]


def paths_in(tool: ToolInfo, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
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


def misfits_of(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """Why the tool's server would refuse the arguments. Empty if only the server can decide."""
    try:
        return [str(each) for each in misfits(schema, dict(arguments), texts="converted")]
    except UnusableSchema:
        return []


def call_of(attempt: Attempt, tool: ToolInfo, arguments: Mapping[str, Any]) -> Call:
    """The call in the form that its journal stores."""
    return Call(
        kind="tool",
        name=tool.qualified_name,
        digest=attempt.digest(arguments),
        safe=may_repeat(tool),
    )


def unmask(edited: Any, shown: Any, real: Any) -> Any:
    """Edited arguments, with the secrets restored in the values that the user left as ``***``."""
    if edited == shown:
        return real
    if isinstance(edited, dict) and isinstance(shown, Mapping):
        table, seen = cast("dict[str, Any]", edited), cast("Mapping[str, Any]", shown)
        return {k: unmask(v, seen[k], real[k]) if k in seen else v for k, v in table.items()}
    return cast("Any", edited)
