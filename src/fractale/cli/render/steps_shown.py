"""A step under way, and where a finished one leads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Running:
    """A step that is under way.

    Attributes:
        total: How many items a foreach has; None of any other step.
        items_done: How many of them have ended, those that failed too.
        items: Those in progress, by their paths, and whether a job of theirs is still in a queue.
        elements: Of a step whose job is an array: state → how many of its elements are so.
    """

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
    items_done: int = 0
    items_failed: int = 0
    items: dict[str, bool] = field(default_factory=dict[str, bool])
    waits: bool = False
    is_array: bool = False
    counts_told: str = ""
    counted: float = 0.0
    elements: dict[str, int] = field(default_factory=dict[str, int])
    jobs_told: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    @property
    def progress(self) -> str:
        """How far a foreach is, in items that have ended: ``3/100``."""
        return "" if self.total is None else f"{self.items_done}/{self.total}"

    @property
    def noun(self) -> str:
        """What its parts are called."""
        return "element" if self.is_array else "item"

    @property
    def counts(self) -> str:
        """What a foreach's items do: ``3/100 done · 4 running · 93 waiting · 1 failed``.

        Of a job array, what its elements do.
        """
        if self.total is None:
            return self._of_elements()
        running = sum(not queued for queued in self.items.values())
        waiting = self.total - self.items_done - running
        parts = [f"{self.progress} done", f"{running:,} running", f"{waiting:,} waiting"]
        return " · ".join([*parts, f"{self.items_failed:,} failed"] if self.items_failed else parts)

    def _of_elements(self) -> str:
        if not self.elements:
            return ""
        known = {state: self.elements.get(state, 0) for state in ("running", "pending")}
        total, under_way = sum(self.elements.values()), sum(known.values())
        failed = total - under_way - self.elements.get("completed", 0)
        parts = [f"{total - under_way:,}/{total:,} done", f"{known['running']:,} running"]
        parts.append(f"{known['pending']:,} waiting")
        return " · ".join([*parts, f"{failed:,} failed"] if failed else parts)

    def named(self, path: str) -> str:
        """A path inside the step as people call it; nothing for itself.

        An item of a foreach is ``item 4``, counted from 1; an element of a job array, ``[3]``, is
        ``element 3``.
        """
        rest = path.removeprefix(self.path)
        if self.is_array and rest.startswith("[") and rest.endswith("]"):
            return f"element {rest[1:-1]}"
        if rest.startswith("[") and rest.endswith("]") and rest[1:-1].isdecimal():
            return f"item {int(rest[1:-1]) + 1}"
        return "" if path == self.path else path

    def item_started(self, path: str, total: int | None) -> None:
        """Take note that an item of the step began."""
        self.total = total
        self.items[path] = self.kind == "job"  # until its job runs

    def item_finished(self, path: str, total: int | None, *, failed: bool) -> bool:
        """Take note of an item's end.

        Returns:
            Whether another tenth of the items has ended, and more are to come.
        """
        self.total = self.total if total is None else total
        self.items.pop(path, None)
        self.items_done += 1
        self.items_failed += failed
        if not self.total or self.items_done >= self.total:
            return False
        return 10 * self.items_done // self.total > 10 * (self.items_done - 1) // self.total

    def job_state(self, path: str, state: str) -> None:
        """Take note of how the job of an item stands."""
        if path in self.items:
            self.items[path] = state in ("pending", "held")


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
