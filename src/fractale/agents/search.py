"""Search algorithms: what to try next in a space of parameters, given what was tried.

The algorithms are Optuna's, asked through one pure function: the table of trials is all the
memory that a search has. So the same table and seed give the same proposal in any process, and a
search that is resumed goes on as if it had never stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

from fractale.agents.space import Parameter, faults_of, read_space, typed
from fractale.errors import DependencyMissing, ToolError

if TYPE_CHECKING:
    from langchain_core.tools import StructuredTool

Algorithm: TypeAlias = Literal["tpe", "cma-es", "grid", "random"]
Direction: TypeAlias = Literal["minimize", "maximize"]

ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)

EXTRA = "optimize"

STARTUP_TRIALS = 5
"""Random trials before TPE models anything: Optuna's own ten are a whole budget of jobs."""

MOST_POINTS = 10_000
"""Points of a grid."""

MOST_ASKS = 20
"""How often an algorithm is asked for a point that was not tried: each trial may be an hour."""

MOST_SEED = 2**32
"""Where Optuna's seeds end."""


def propose(
    space: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]] = (),
    algorithm: Algorithm = "tpe",
    seed: int = 0,
    direction: Direction = "minimize",
) -> dict[str, Any] | None:
    """What an algorithm would try next; the same for the same arguments.

    Args:
        space: For each parameter ``{type: int | float, low, high, log, step}`` or
            ``{type: categorical, choices: [...]}``.
        trials: What was tried, in order: ``{params: {...}, value: number}``. A trial without a
            value, or with ``ok: false``, has failed.
        algorithm: ``tpe``, ``cma-es``, ``grid`` or ``random``.
        seed: Another seed, another search.
        direction: Whether the value is to ``minimize`` or to ``maximize``.

    Returns:
        A value for each parameter; None where no point is left that was not tried.

    Raises:
        ToolError: The space, a trial or another argument is not of its form, or the algorithm
            cannot search this space.
        DependencyMissing: Optuna is not installed.
    """
    parameters = read_space(space)
    _check(parameters, trials, algorithm, direction)
    tried = [typed(parameters, trial["params"]) for trial in trials]
    if _is_spent(parameters, tried):
        return None
    seed = seed % MOST_SEED
    optuna = load_optuna()
    with _quiet():
        if algorithm == "grid":
            study = _grid_study(optuna, parameters, seed)
            return _untried(study, optuna, parameters, tried, _points_of_grid(parameters))
        if algorithm == "cma-es":
            study = _replayed(optuna, parameters, trials, seed, direction)
        else:
            study = _study_of(optuna, parameters, trials, algorithm, seed, direction)
        found = _untried(study, optuna, parameters, tried, MOST_ASKS)
        return _asked(study, optuna, parameters) if found is None else found


def best_of(
    trials: Sequence[Mapping[str, Any]], direction: Direction = "minimize"
) -> Mapping[str, Any] | None:
    """The best trial that succeeded, the first of equals; None if none did."""
    good = [trial for trial in trials if succeeded(trial)]
    if not good:
        return None
    pick = min if direction == "minimize" else max
    return pick(good, key=lambda trial: trial["value"])


def succeeded(trial: Mapping[str, Any]) -> bool:
    """Whether a trial brought a value."""
    return bool(trial.get("ok", True)) and trial.get("value") is not None


def load_optuna() -> Any:
    """Optuna and what its algorithms need.

    Raises:
        DependencyMissing: It is not installed.
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


def search_tools() -> list[StructuredTool]:
    """The algorithms as tools that a model can call, one for each."""
    from langchain_core.tools import StructuredTool

    return [
        StructuredTool(
            name=f"propose_{algorithm.replace('-', '_')}",
            description=f"What the {_ABOUT[algorithm]} would try next, given the trials so far.",
            args_schema=dict(TOOL_SCHEMA),
            func=_tool(algorithm),
        )
        for algorithm in ALGORITHMS
    ]


_ABOUT: Mapping[Algorithm, str] = {
    "tpe": "tree-structured Parzen estimator (a good choice for few, dear trials)",
    "cma-es": "covariance matrix adaptation (two or more numbers, many trials)",
    "grid": "grid of all combinations, shuffled,",
    "random": "random search",
}

TOOL_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "space": {
            "type": "object",
            "description": (
                "name -> {type: int|float, low, high, log, step} or {type: categorical, choices}"
            ),
        },
        "trials": {
            "type": "array",
            "items": {"type": "object"},
            "description": "In order: {params, value}; a failed trial has no value.",
        },
        "seed": {"type": "integer", "minimum": 0},
        "direction": {"enum": list(DIRECTIONS)},
    },
    "required": ["space", "trials", "direction"],
}


def _tool(algorithm: Algorithm) -> Any:
    def call(
        space: dict[str, Any],
        trials: list[dict[str, Any]],
        direction: Direction,
        seed: int = 0,
    ) -> dict[str, Any]:
        params = propose(space, trials, algorithm, seed, direction)
        return {"params": params, "source": algorithm, "exhausted": params is None}

    return call


# -- what is asked ------------------------------------------------------------------------------


def _check(
    parameters: Mapping[str, Parameter],
    trials: Sequence[Mapping[str, Any]],
    algorithm: str,
    direction: str,
) -> None:
    if algorithm not in ALGORITHMS:
        raise ToolError(f"there is no algorithm `{algorithm}`; there are: {', '.join(ALGORITHMS)}")
    if direction not in DIRECTIONS:
        raise ToolError(f"`direction` is minimize or maximize, and not `{direction}`")
    check_fit(parameters, algorithm)
    for number, trial in enumerate(trials, 1):
        faults = faults_of(parameters, trial.get("params"))
        value = trial.get("value")
        if value is not None and not is_number(value):
            faults = [*faults, f"the value {value!r} is not a finite number"]
        if faults:
            raise ToolError(f"trial {number} is not of this space: {'; '.join(faults)}")


def check_fit(parameters: Mapping[str, Parameter], algorithm: str) -> None:
    """See whether an algorithm can search a space.

    Raises:
        ToolError: It cannot; the hint says what would.
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
    if points > MOST_POINTS:
        raise ToolError(
            f"the grid has {points} points, and at most {MOST_POINTS} are searched",
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
    """Keep Optuna's notes on studies of one proposal off the person's screen, for this long."""
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
    """Each trial draws with a seed of its own: a sampler is new each time and forgets."""
    return (seed * 1_000_003 + number) % MOST_SEED


def _study_of(
    optuna: Any,
    parameters: Mapping[str, Parameter],
    trials: Sequence[Mapping[str, Any]],
    algorithm: str,
    seed: int,
    direction: str,
) -> Any:
    """A study that knows the trials, for algorithms that see only their results."""
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
        # TPE overlooks trials that failed, but takes pruned ones for the worst: it stays away.
        told = optuna.trial.create_trial(
            state=states.COMPLETE if good else states.PRUNED,
            value=trial["value"] if good else None,
            params=typed(parameters, trial["params"]),
            distributions=distributions,
        )
        study.add_trial(told)
    return study


def _replayed(
    optuna: Any,
    parameters: Mapping[str, Parameter],
    trials: Sequence[Mapping[str, Any]],
    seed: int,
    direction: str,
) -> Any:
    """A study that goes through all trials again, for CMA-ES, whose state grows with each.

    Its distribution moves on by what was tried, also where that was not its own proposal.
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
    """The first point the study gives that is not among the trials; None if none is."""
    for _ in range(asks):
        point = _asked(study, optuna, parameters)
        if point not in tried:
            return point
    return None
