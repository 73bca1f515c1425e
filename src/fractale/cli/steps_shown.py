"""A step under way, and where a finished one leads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Running:
    """A step that is under way."""

    path: str
    kind: str
    target: str
    attempt: int
    started: float
    description: str = ""
    activity: str = ""
    said: str = ""
    calls: int = 0
    total: int | None = None
    items_started: int = 0
    items_done: int = 0
    waits: bool = False
    jobs_told: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    @property
    def progress(self) -> str:
        """How far a foreach is: ``3/100``."""
        if self.total is None:
            return ""
        return f"{self.items_done or self.items_started}/{self.total}"


def leads_to(
    data: Mapping[str, Any], order: Sequence[Mapping[str, Any]], seen: Collection[str]
) -> str:
    """Where the run goes on, in words, if not simply to the plan's next step; else nothing.

    Args:
        data: Of the event `step_finished`.
        order: The plan's steps.
        seen: The paths of those that the run came to.
    """
    path, target = str(data["step"]), data.get("next")
    failed = data.get("outcome") == "failure"
    if target in (None, "success", "failed"):
        return ""
    prefix = path.rpartition("/")[0]
    there = f"{prefix}/{target}" if prefix else str(target)
    if not failed and _is_next(path, there, [str(step["name"]) for step in order], seen):
        return ""
    if there == path:
        words = f"→ again {target}"
    elif there in seen:
        words = f"→ back to {target}"
    else:
        words = f"→ on to {target}"
    return f"{words}{' with the error' if failed else ''}"


def _is_next(path: str, target: str, names: Sequence[str], seen: Collection[str]) -> bool:
    """Whether only steps inside of `path` stand between it and the target in the plan.

    Of a plan inside the plan the order is not known: what was not seen yet is next.
    """
    if path not in names or target not in names:
        return target not in seen
    if names.index(target) <= names.index(path):
        return False
    between = names[names.index(path) + 1 : names.index(target)]
    return all(f"{path}/{name}" in seen for name in between)
