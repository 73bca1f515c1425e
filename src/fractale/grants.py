"""What a person allowed for the rest of a run: one tool, as it was then, and the arguments kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from fractale.toolbox import ToolInfo


class AnyCall(Protocol):
    """A call before it is made, as a `fractale.policy.PlannedCall` is."""

    @property
    def tool(self) -> ToolInfo:
        """What is to be called."""
        ...

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What it is to be called with."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Calls that a person agreed to beforehand.

    Args:
        tool: ``server.tool``.
        definition: The `ToolInfo.definition` that the person agreed to.
        fixed: Argument → the value that it must have. Others may have any value.
        exact: Whether `fixed` are all the arguments that a call may have.
    """

    tool: str
    definition: str
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    exact: bool = False

    def covers(self, call: AnyCall) -> bool:
        """Whether the person agreed to a call.

        A value that holds a secret is known as ``***`` only, so it never fits.
        """
        if (call.tool.qualified_name, call.tool.definition) != (self.tool, self.definition):
            return False
        given = call.arguments
        if self.exact and set(given) != set(self.fixed):
            return False
        return all(name in given and _same(given[name], v) for name, v in self.fixed.items())


def grant_of(question: Mapping[str, Any], answer: Any) -> Grant | None:
    """What an answer to an approval allows for the rest of the run; None if nothing.

    A question of a record that does not have the server and the definition (before 0.3) grants
    nothing: its tool is asked about again.

    Args:
        answer: As `fractale.questions.read_answer` gives it.
    """
    if question.get("kind") != "approval" or not question.get("definition"):
        return None
    fixed: Any
    if answer == "always":
        fixed = {}
    elif isinstance(answer, Mapping) and "always" in answer:
        fixed = cast("Mapping[str, Any]", answer)["always"]["fix"]
    else:
        return None
    exact = fixed == "all"
    return Grant(
        tool=f"{question['server']}.{question['tool']}",
        definition=str(question["definition"]),
        fixed=dict(question["arguments"]) if exact else dict(fixed),
        exact=exact,
    )


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; unlike ``==``, true is not 1 inside them either."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        a, b = cast("Mapping[str, Any]", one), cast("Mapping[str, Any]", other)
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        items, others = cast("list[Any]", one), cast("list[Any]", other)
        return len(items) == len(others) and all(map(_same, items, others))
    return isinstance(one, bool) == isinstance(other, bool) and one == other
