"""The table of a search's trials: when it is enough, and how a trial's job is called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from fractale.agents.ask import as_text
from fractale.agents.search import Direction, best_of, succeeded

SHOWN_TRIALS = 50
"""Trials that the model and the person are shown: the best, and the last ones."""


class Trial(TypedDict):
    """One line of the table; `source` is who proposed it: an algorithm, the model, a person."""

    number: int
    params: dict[str, Any]
    value: float | None
    source: str
    why: str
    ok: bool
    error: str | None
    seconds: float


class Proposal(TypedDict):
    """What is tried next."""

    params: dict[str, Any]
    source: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """When a search is over.

    Args:
        direction: Which values are better.
        max_trials: The budget; failed trials count.
        patience: Trials without a better one; None: all.
        target: A value that is good enough; None: none is.
        max_failures: Failures in a row.
    """

    direction: Direction
    max_trials: int
    patience: int | None = None
    target: float | None = None
    max_failures: int

    def reason(self, trials: Sequence[Trial]) -> str | None:
        """Why the search is over: target, failures, budget or patience; None if it is not."""
        best = best_trial(trials, self.direction)
        if best and self._reaches(best["value"]):
            return "target"
        if failures_in_a_row(trials) >= self.max_failures:
            return "failures"
        if len(trials) >= self.max_trials:
            return "budget"
        if best and self.patience and len(trials) - best["number"] >= self.patience:
            return "patience"
        return None

    def _reaches(self, value: float | None) -> bool:
        if self.target is None or value is None:
            return False
        return value <= self.target if self.direction == "minimize" else value >= self.target


def best_trial(trials: Sequence[Trial], direction: Direction) -> Trial | None:
    """The best trial that succeeded, the first of equals; None if none did."""
    return cast("Trial | None", best_of(trials, direction))


def failures_in_a_row(trials: Sequence[Trial]) -> int:
    """How many of the last trials failed since one succeeded."""
    good = [trial["number"] for trial in trials if succeeded(trial)]
    return len(trials) - (good[-1] if good else 0)


def shown(trials: Sequence[Trial], direction: Direction) -> list[Trial]:
    """All trials; of very many, the best one and the last."""
    last = list(trials[-SHOWN_TRIALS:])
    best = best_trial(trials, direction)
    return last if best is None or best in last else [best, *last[1:]]


# -- one trial's arguments ----------------------------------------------------------------------


TRIAL = "trial"
"""The place of a trial's number, unless a parameter has this name."""

KEY = "key"
"""The argument by which a tool finds a job that it has submitted before (see `fractale.jobs`)."""

HOW = (
    "a text `{{{0}}}` in `arguments` stands for the parameter `{0}`, and `{{trial}}` for the "
    "trial's number; a parameter written nowhere becomes an argument of its own name"
)
"""How a parameter is written into the arguments; to be formatted with the name of one."""


def call_of_trial(
    arguments: Mapping[str, Any], params: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The tool's arguments in the next trial.

    A job's key that an earlier trial had is made another: with the same one, the tool would give
    that trial's job back as a second measurement.

    Args:
        earlier: The params of the trials so far.
    """
    calls = [arguments_for(arguments, each, number) for number, each in enumerate(earlier, 1)]
    call = arguments_for(arguments, params, len(calls) + 1)
    if isinstance(call.get(KEY), str) and call[KEY] in [each.get(KEY) for each in calls]:
        call[KEY] = f"{call[KEY]} trial {len(calls) + 1}"
    return call


def arguments_for(
    arguments: Mapping[str, Any], params: Mapping[str, Any], trial: int | None = None
) -> dict[str, Any]:
    """The tool's arguments with the parameters in their places.

    A text ``{name}`` becomes the parameter itself, with its type; within a longer text it becomes
    text. A parameter without a place is an argument of its own name.

    Args:
        trial: The trial's number, for ``{trial}``; None: that stays as it is.
    """
    known = {**({} if trial is None else {TRIAL: trial}), **params}
    place = re.compile(f"{{({'|'.join(re.escape(name) for name in known)})}}")
    placed: set[str] = set()

    def one(match: re.Match[str]) -> str:
        placed.add(match[1])
        return as_text(known[match[1]])

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            whole = place.fullmatch(value)
            text = place.sub(one, value)
            return known[whole[1]] if whole else text
        if isinstance(value, Mapping):
            return {key: fill(each) for key, each in cast("Mapping[str, Any]", value).items()}
        if isinstance(value, list):
            return [fill(each) for each in cast("list[Any]", value)]
        return value

    filled = fill(arguments)
    return {**filled, **{name: value for name, value in params.items() if name not in placed}}
