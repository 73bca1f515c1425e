"""A run beside its fork: from where they can differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fractale.record.history import RunHistory, Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedFrom:
    """Where one of two runs was forked from the other one.

    Args:
        fork: Which of them it is: ``a`` or ``b``.
        step: The step's path.
        visit: Which visit of it in the other run, from 1.
        before: How many visits the other run had made; the fork has what came of them.
    """

    fork: str
    step: str
    visit: int
    before: int


Visits = Sequence[Visit]


def from_fork(a: RunHistory, b: RunHistory) -> tuple[Visits, Visits, ForkedFrom | None]:
    """The visits of two runs that can differ, numbered alike.

    Of a run and its fork these are the ones from the fork on: what came before is one and the same,
    and only the first run's record has it. The fork's are then counted on from there.
    """
    if _parent(b).get("run") == a.run:
        ours, theirs, at = _aligned(a, b, "b")
        return ours, theirs, at
    if _parent(a).get("run") == b.run:
        theirs, ours, at = _aligned(b, a, "a")
        return ours, theirs, at
    return a.visits, b.visits, None


def _parent(history: RunHistory) -> Mapping[str, Any]:
    return history.head.get("parent") or {}


def _aligned(parent: RunHistory, fork: RunHistory, side: str) -> tuple[Visits, Visits, ForkedFrom]:
    step, number = str(_parent(fork).get("step")), int(_parent(fork).get("attempt") or 1)
    places = [(visit.path, visit.number) for visit in parent.visits]
    # A run can be forked at a step that it stopped in front of.
    place = places.index((step, number)) if (step, number) in places else len(places)
    around = list(_around(parent.visits[place])) if place < len(places) else []
    before = [each for each in parent.visits[:place] if not any(each is one for one in around)]
    kept = [*(_since(each, parent.visits[place]) for each in around), *parent.visits[place:]]
    made = Counter(visit.path for visit in before)
    counted = [replace(visit, number=visit.number + made[visit.path]) for visit in fork.visits]
    return kept, counted, ForkedFrom(fork=side, step=step, visit=number, before=len(before))


def _around(visit: Visit) -> Iterator[Visit]:
    """The visits that a visit lies within, the outermost first: the fork entered them again."""
    if visit.parent is not None:
        yield from _around(visit.parent)
        yield visit.parent


def _since(around: Visit, visit: Visit) -> Visit:
    """A visit without the calls that it made before one inside of it."""
    return replace(around, calls=[each for each in around.calls if each.started >= visit.started])
