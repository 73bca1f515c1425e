"""The search for good settings of a job: proposes the next trial from the trials so far.

`Search.propose` is the core of the agent `optimize` and of the tool `next_trial`. The table of
trials is the only memory of a search, and the pure function `propose` asks Optuna's algorithms. So
the same table and seed give the same proposal in any process, and a resumed search continues as if
it had never stopped.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast, get_args

from typing_extensions import TypedDict

from fractale.agents.space import Parameter, faults_of, read_space, typed
from fractale.errors import DependencyMissing, ToolError

Algorithm: TypeAlias = Literal["tpe", "cma-es", "grid", "random"]
Direction: TypeAlias = Literal["minimize", "maximize"]

ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)

EXTRA = "optimize"

USER = "person"
"""`source` of a trial that the user asked for. The word is part of the table's format."""

STARTUP_TRIALS = 5
"""Random trials before TPE models anything. Optuna's default of ten is a whole budget of jobs."""

MAX_POINTS = 10_000
"""The most points of a grid."""

MAX_ASKS = 20
"""The most requests to an algorithm for a new point. Each trial may take an hour."""

MAX_MISSES = 10_000
"""The most draws in a row of points that were drawn before."""

MAX_SEED = 2**32
"""The upper end of Optuna's seeds."""


class Trial(TypedDict):
    """One line of the table. `source` is an algorithm, ``model`` or `USER`."""

    number: int
    params: dict[str, Any]
    value: float | None
    source: str
    why: str
    ok: bool
    error: str | None
    seconds: float


class Proposal(TypedDict):
    """The settings of the next trial."""

    params: dict[str, Any]
    source: str
    why: str


AnyTrial = TypeVar("AnyTrial", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """The conditions that end a search.

    Args:
        max_trials: The budget. Failed trials count.
        patience: Trials without an improvement; None: no limit.
        target: A value that is good enough; None: without a target.
        max_failures: Failures in a row.
    """

    direction: Direction
    max_trials: int
    patience: int | None = None
    target: float | None = None
    max_failures: int

    def reason(self, trials: Sequence[Trial]) -> str | None:
        """Why the search is over: target, failures, budget or patience; None if it is not over."""
        best = best_of(trials, self.direction)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search: its space, its algorithm, and its end.

    Args:
        space: As `read_space` expects it.
        start: Points to try first.
    """

    space: Mapping[str, Any]
    rules: StopRules
    algorithm: Algorithm = "tpe"
    seed: int = 0
    start: Sequence[Mapping[str, Any]] = ()

    def propose(self, trials: Sequence[Trial]) -> Proposal | str:
        """The next trial after these trials, or the reason why the search is over.

        Raises:
            ToolError: As `propose`.
            DependencyMissing: Optuna is not installed.
        """
        if reason := self.rules.reason(trials):
            return reason
        if len(trials) < len(self.start):
            point = dict(self.start[len(trials)])
            return Proposal(params=point, source=USER, why="a start point")
        direction = self.rules.direction
        params = propose(self.space, trials, self.algorithm, self.seed, direction)
        if params is None:
            return "exhausted"
        return Proposal(params=params, source=self.algorithm, why="")


def next_line(
    trials: Sequence[Mapping[str, Any]], proposal: Proposal, outcome: float | str, seconds: float
) -> Trial:
    """The table's line for the trial that has just ended.

    Args:
        outcome: Its value, or its error.
    """
    failed = isinstance(outcome, str)
    return Trial(
        number=len(trials) + 1,
        params=proposal["params"],
        value=None if failed else outcome,
        source=proposal["source"],
        why=proposal["why"],
        ok=not failed,
        error=outcome if failed else None,
        seconds=round(seconds, 3),
    )


def best_of(trials: Sequence[AnyTrial], direction: Direction = "minimize") -> AnyTrial | None:
    """The best trial that succeeded, the first of equals; None if none did."""
    good = [trial for trial in trials if succeeded(trial)]
    if not good:
        return None
    pick = min if direction == "minimize" else max
    return pick(good, key=lambda trial: trial["value"])


def succeeded(trial: Mapping[str, Any]) -> bool:
    """Whether a trial has a value."""
    return bool(trial.get("ok", True)) and trial.get("value") is not None


def failures_in_a_row(trials: Sequence[Trial]) -> int:
    """The number of failed trials since the last success."""
    good = [trial["number"] for trial in trials if succeeded(trial)]
    return len(trials) - (good[-1] if good else 0)


# -- the algorithms ------------------------------------------------------------------------------


def propose(
    space: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]] = (),
    algorithm: Algorithm = "tpe",
    seed: int = 0,
    direction: Direction = "minimize",
) -> dict[str, Any] | None:
    """An algorithm's next point. The same arguments always give the same point.

    Args:
        space: As `read_space` expects it.
        trials: In order: ``{params: {...}, value: number}``. A trial without a value, or with
            ``ok: false``, has failed.
        algorithm: ``tpe``, ``cma-es``, ``grid`` or ``random``.
        seed: Another seed gives another search.
        direction: Whether to ``minimize`` or to ``maximize`` the value.

    Returns:
        A value for each parameter; None if every point was tried.

    Raises:
        ToolError: The space, a trial or another argument is not valid, or the algorithm cannot
            search this space.
        DependencyMissing: Optuna is not installed.
    """
    parameters = read_space(space)
    _check(parameters, trials, algorithm, direction)
    tried = [typed(parameters, trial["params"]) for trial in trials]
    if _is_spent(parameters, tried):
        return None
    seed = seed % MAX_SEED
    optuna = load_optuna()
    with _quiet():
        if algorithm == "grid":
            study = _grid_study(optuna, parameters, seed)
            return _untried(study, optuna, parameters, tried, _points_of_grid(parameters))
        if algorithm == "cma-es":
            study = _replayed(optuna, parameters, trials, seed, direction)
        else:
            study = _study_of(optuna, parameters, trials, algorithm, seed, direction)
        found = _untried(study, optuna, parameters, tried, MAX_ASKS)
        return _asked(study, optuna, parameters) if found is None else found


def draw(
    space: Mapping[str, Any], number: int, algorithm: Literal["random", "grid"], seed: int
) -> list[dict[str, Any]]:
    """Different points of a space before any of them was tried.

    The same arguments always give the same points, in time that grows with `number` only.

    Args:
        space: As `read_space` expects it.
        number: How many.
        algorithm: ``random``, or ``grid`` for points of the grid in a random order.

    Returns:
        Fewer points if the space has not so many, or if nearly all draws are alike.

    Raises:
        ToolError: The space is not valid, or has no grid.
        DependencyMissing: Optuna is not installed, for ``random``.
    """
    parameters = read_space(space)
    check_fit(parameters, algorithm)
    if algorithm == "grid":
        return _shuffled([p.grid() for p in parameters.values()], parameters, number, seed)
    most = math.prod(parameter.size or 0 for parameter in parameters.values())
    if 0 < most <= 2 * number:
        return _shuffled(map(_all_values, parameters.values()), parameters, number, seed)
    optuna = load_optuna()
    found: dict[str, dict[str, Any]] = {}
    with _quiet():
        sampler = optuna.samplers.RandomSampler(seed=seed % MAX_SEED)
        study = optuna.create_study(sampler=sampler)
        misses = 0
        while len(found) < number and misses < MAX_MISSES:
            before = len(found)
            point = _asked(study, optuna, parameters)
            found.setdefault(repr(point), point)
            misses = misses + 1 if len(found) == before else 0
    return list(found.values())


def _all_values(parameter: Parameter) -> list[Any]:
    if parameter.type == "categorical":
        return list(parameter.choices)
    if parameter.log:
        return list(range(int(parameter.low), int(parameter.high) + 1))
    return [parameter.at(index) for index in range(parameter.size or 0)]


def _shuffled(
    axes: Iterable[Sequence[Any]], names: Iterable[str], number: int, seed: int
) -> list[dict[str, Any]]:
    points = list(itertools.product(*axes))
    random.Random(seed).shuffle(points)  # noqa: S311 - no secret depends on it
    names = list(names)
    return [dict(zip(names, point, strict=True)) for point in points[:number]]


def load_optuna() -> Any:
    """Import Optuna and the packages that its algorithms need.

    Raises:
        DependencyMissing: Optuna is not installed.
    """
    try:
        import cmaes  # noqa: F401  # Optuna imports it only once CMA-ES is asked  # pyright: ignore[reportUnusedImport]
        import optuna
    except ImportError as error:
        raise DependencyMissing(
            f"searching needs {error.name or 'optuna'}, which is not installed",
            hint=f"`pip install 'fractale[{EXTRA}]'`",
        ) from error
    return cast("Any", optuna)


# -- the arguments ------------------------------------------------------------------------------


def _check(
    parameters: Mapping[str, Parameter],
    trials: Sequence[Mapping[str, Any]],
    algorithm: str,
    direction: str,
) -> None:
    if algorithm not in ALGORITHMS:
        raise ToolError(f"unknown algorithm `{algorithm}`; choose from: {', '.join(ALGORITHMS)}")
    if direction not in DIRECTIONS:
        raise ToolError(f"`direction` must be minimize or maximize, not `{direction}`")
    check_fit(parameters, algorithm)
    for number, trial in enumerate(trials, 1):
        faults = faults_of(parameters, trial.get("params"))
        value = trial.get("value")
        if value is not None and not is_number(value):
            faults = [*faults, f"the value {value!r} is not a finite number"]
        if faults:
            raise ToolError(f"trial {number} is not in this space: {'; '.join(faults)}")


def check_fit(parameters: Mapping[str, Parameter], algorithm: str) -> None:
    """Check that an algorithm can search a space.

    Raises:
        ToolError: The algorithm cannot. The hint names an algorithm that can.
    """
    if algorithm == "grid":
        _check_grid(parameters)
    numbers = [p for p in parameters.values() if p.type != "categorical" and p.low < p.high]
    if algorithm == "cma-es" and len(numbers) < 2:
        raise ToolError(
            "`cma-es` needs two or more parameters that are numbers",
            hint="use the algorithm `tpe` for this space",
        )


def _check_grid(parameters: Mapping[str, Parameter]) -> None:
    points = 1
    for name, parameter in parameters.items():
        try:
            points *= len(parameter.grid())
        except ValueError as error:
            hint = "give it a `step` or `choices`, or use the algorithm `tpe`"
            raise ToolError(f"{name}: {error}", hint=hint) from None
    if points > MAX_POINTS:
        raise ToolError(
            f"the grid has {points} points, and at most {MAX_POINTS} are searched",
            hint="widen the steps, or use the algorithm `tpe`",
        )


def _is_spent(parameters: Mapping[str, Parameter], tried: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all points of a finite space were tried."""
    sizes = [parameter.size for parameter in parameters.values()]
    points = math.prod(size or 0 for size in sizes)
    if not 0 < points <= len(tried):
        return False
    return len({tuple(map(repr, point.values())) for point in tried}) >= points


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# -- Optuna -------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Generator[None]:
    """Keep Optuna's log of one-proposal studies off the screen."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _distributions(optuna: Any, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    return {name: _distribution(optuna.distributions, p) for name, p in parameters.items()}


def _distribution(kinds: Any, parameter: Parameter) -> Any:
    if parameter.type == "categorical":
        return kinds.CategoricalDistribution(parameter.choices)
    if parameter.type == "int":
        step = int(parameter.step or 1)
        return kinds.IntDistribution(
            int(parameter.low), int(parameter.high), log=parameter.log, step=step
        )
    return kinds.FloatDistribution(
        parameter.low, parameter.high, log=parameter.log, step=parameter.step
    )


def _asked(study: Any, optuna: Any, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    trial = study.ask(_distributions(optuna, parameters))
    return typed(parameters, trial.params)


def _seed_for(seed: int, number: int) -> int:
    """The seed of one trial. Each proposal has a new sampler without a memory."""
    return (seed * 1_000_003 + number) % MAX_SEED


def _study_of(
    optuna: Any,
    parameters: Mapping[str, Parameter],
    trials: Sequence[Mapping[str, Any]],
    algorithm: str,
    seed: int,
    direction: str,
) -> Any:
    """A study with the trials added, for algorithms that need only their results."""
    seed = _seed_for(seed, len(trials))
    samplers = optuna.samplers
    sampler = (
        samplers.RandomSampler(seed=seed)
        if algorithm == "random"
        else samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    )
    study = optuna.create_study(direction=direction, sampler=sampler)
    distributions = _distributions(optuna, parameters)
    states = optuna.trial.TrialState
    for trial in trials:
        good = succeeded(trial)
        # TPE ignores failed trials. It treats pruned trials as the worst and avoids them.
        added = optuna.trial.create_trial(
            state=states.COMPLETE if good else states.PRUNED,
            value=trial["value"] if good else None,
            params=typed(parameters, trial["params"]),
            distributions=distributions,
        )
        study.add_trial(added)
    return study


def _replayed(
    optuna: Any,
    parameters: Mapping[str, Parameter],
    trials: Sequence[Mapping[str, Any]],
    seed: int,
    direction: str,
) -> Any:
    """A study that replays all trials, for CMA-ES, whose state depends on their order.

    Trials that it did not propose also move its distribution.
    """
    rest = optuna.samplers.RandomSampler(seed=_seed_for(seed, len(trials)))
    sampler = optuna.samplers.CmaEsSampler(
        seed=seed, independent_sampler=rest, warn_independent_sampling=False
    )
    study = optuna.create_study(direction=direction, sampler=sampler)
    distributions = _distributions(optuna, parameters)
    for trial in trials:
        study.enqueue_trial(typed(parameters, trial["params"]))
        asked = study.ask(distributions)
        if succeeded(trial):
            study.tell(asked, trial["value"])
        else:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
    return study


def _grid_study(optuna: Any, parameters: Mapping[str, Parameter], seed: int) -> Any:
    """A study that goes through the shuffled grid from its start."""
    axes = {name: parameter.grid() for name, parameter in parameters.items()}
    return optuna.create_study(sampler=optuna.samplers.GridSampler(axes, seed=seed))


def _points_of_grid(parameters: Mapping[str, Parameter]) -> int:
    return math.prod(len(parameter.grid()) for parameter in parameters.values())


def _untried(
    study: Any,
    optuna: Any,
    parameters: Mapping[str, Parameter],
    tried: Sequence[Mapping[str, Any]],
    asks: int,
) -> dict[str, Any] | None:
    """The study's first new point; None if all of `asks` points were tried."""
    for _ in range(asks):
        point = _asked(study, optuna, parameters)
        if point not in tried:
            return point
    return None
