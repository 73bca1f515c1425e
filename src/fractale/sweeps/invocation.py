"""One call of `fractale.api.asweep`: from its keywords to a `SweepView`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, cast, get_args

from typing_extensions import TypedDict

from fractale.errors import UsageError
from fractale.plan.given import limits_of, secrets_of
from fractale.plan.inputs import read_secrets
from fractale.plan.model import Limits, Plan
from fractale.runs.invocation import listed
from fractale.runs.keywords import check_keywords, check_values, unusable
from fractale.settings import Settings, load_settings
from fractale.sweeps.begin import (
    check_free,
    check_secrets,
    environment_of_workers,
    prepare,
    write_sweep,
)
from fractale.sweeps.driver import Listener, run_sweep
from fractale.sweeps.record import SweepRecords
from fractale.sweeps.resuming import resume_sweep
from fractale.sweeps.spec import Algorithm, SweepSpec, axes_of, with_options
from fractale.sweeps.sweep_file import read_sweep_file
from fractale.text import listing

if TYPE_CHECKING:
    from fractale.sweeps.results import SweepView


class SweepKeywords(TypedDict, total=False):
    """The keywords of `fractale.sweep` and `fractale.asweep`.

    Keys:
        over: Input → its values: a list, or a text such as ``"1..8"``. Several are combined.
        table: The path of a table with a row per run.
        sample, seed, algorithm: Draw so many rows from `over`.
        inputs: The inputs that are the same in all runs, secret ones left out.
        on: The executor: ``local``, or one of the settings.
        max_parallel: At most so many runs at a time.
        limits: Of all runs together, such as ``{"node_hours": 40}``.
        run_limits: Of each run; they replace the plan's limits of the same name.
        answers, yes: As of a run.
        registries, agents, model: As of a run, by path and by name.
        secrets: The plan's secret inputs; else ``FRACTALE_INPUT_NAME`` of the environment.
        merit: The output by which rows are compared.
        reuse: True: take over the results of equal steps of earlier runs, for all tools that only
            read. False: make every call.
        sweep_id: The ID of the sweep; left out: a new one.
        on_row: Called with each change of a row, as in the sweep's ledger, and with state → number
            of rows.
        settings: Used instead of the settings files and the environment.
    """

    over: Mapping[str, Any] | None
    table: str | Path | None
    sample: int | None
    seed: int | None
    algorithm: Algorithm | None
    inputs: Mapping[str, Any] | None
    on: str | None
    max_parallel: int | None
    limits: Mapping[str, float] | None
    run_limits: Limits | Mapping[str, Any] | None
    answers: Mapping[str, Any] | None
    yes: bool
    registries: Sequence[str | Path]
    agents: Sequence[str]
    model: str | None
    secrets: Mapping[str, str] | None
    merit: str | None
    reuse: bool | None
    sweep_id: str | None
    on_row: Listener | None
    settings: Settings | None


async def start_sweep(
    function: str, plan: str | Path | Plan, keywords: SweepKeywords, load: Callable[[], Plan]
) -> SweepView:
    """See `fractale.api.asweep`.

    Args:
        function: The name of the function that was called.
        plan: As the caller gave it; it may be the path of a sweep file.
        load: Reads it as a plan.

    Raises:
        TypeError: A keyword is unknown.
    """
    check_keywords(function, keywords, SweepKeywords)
    _check({"plan": plan}, "plan")
    _check(keywords)
    spec = read_sweep_file(plan) if _is_file(plan) else None
    loaded = None if spec else load()
    given = keywords.get
    table = given("table")
    spec = with_options(
        spec or SweepSpec(plan=loaded.file if loaded else ""),
        over=axes_of(given("over") or {}),
        table=None if table is None else str(table),
        sample=given("sample"),
        seed=given("seed"),
        algorithm=given("algorithm"),
        inputs=given("inputs"),
        on=given("on"),
        max_parallel=given("max_parallel"),
        limits=_limits_of_sweep(given("limits")),
        run_limits=_limits_of_runs(given("run_limits")),
        answers=given("answers"),
        merit=given("merit"),
        reuse=given("reuse"),
    )
    settings = given("settings") or load_settings()
    _check_reaches_workers(settings)
    if model := given("model"):
        settings = settings.with_flags(model=model)
    prepared = prepare(
        spec,
        settings,
        plan=loaded,
        registries=tuple(listed(given("registries"))),
        agents=tuple(listed(given("agents"))),
        yes=given("yes", False),
    )
    if (sweep_id := given("sweep_id")) is not None:
        check_free(settings, sweep_id)
    plan_secrets = secrets_of(prepared.plan, given("secrets"))
    secrets = read_secrets(prepared.plan, settings.environment) | plan_secrets
    check_secrets(prepared, secrets)
    record = write_sweep(prepared, settings, sweep_id)
    settings = replace(
        settings, environment=environment_of_workers(settings, prepared.plan, secrets)
    )
    return await run_sweep(record, settings=settings, listener=given("on_row"))


async def resume_recorded(
    sweep_id: str,
    *,
    limits: Mapping[str, float] | None,
    run_limits: Limits | Mapping[str, Any] | None,
    on_row: Listener | None,
    settings: Settings | None,
) -> SweepView:
    """See `fractale.api.aresume_sweep`."""
    _check({"sweep_id": sweep_id, "on_row": on_row, "settings": settings}, "sweep_id")
    of_sweep, of_runs = _limits_of_sweep(limits), _limits_of_runs(run_limits)
    settings = settings or load_settings()
    record = SweepRecords(settings.state_dir).find(sweep_id)
    done = await resume_sweep(
        record, settings, limits=of_sweep, run_limits=of_runs, listener=on_row
    )
    return done.view


BY_HAND: Final = (
    *("servers", "policy", "prices", "fallback_models", "local_model", "notify", "max_attempts"),
    *("openai_api_key", "openai_base_url", "gemini_api_key", "gemini_base_url"),
)
"""Settings that workers read from the settings files and the environment only."""


def _check_reaches_workers(settings: Settings) -> None:
    """Check that settings which a program made itself do not get lost.

    Raises:
        UsageError: They have values that the processes of the runs would not get.
    """
    if settings.origins:
        return  # `load_settings` made them, and workers load them, too
    plain = Settings()
    lost = [name for name in BY_HAND if getattr(settings, name) != getattr(plain, name)]
    if lost:
        raise UsageError(
            f"the processes of a sweep would not get {listing(lost)} of `settings`",
            hint="set them in ~/.config/fractale/config.yaml or the environment: workers read both",
        )


def _check(given: Mapping[str, Any], *required: str) -> None:
    """Check that the values of keywords can be used.

    Raises:
        UsageError: One cannot.
    """
    own = {name: value for name, value in given.items() if name in _OWN}
    for name, value in own.items():
        fits, hint = _OWN[name]
        needed = value is not None or name in required
        if needed and not fits(value):
            raise unusable(name, value, hint)
    check_values({name: value for name, value in given.items() if name not in own}, *required)


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return fits, f"give a whole number of at least {least}"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) for name in cast("Mapping[Any, Any]", value)
    )


def _are_paths(value: Any) -> bool:
    several = listed(value) if isinstance(value, (str, Path, list, tuple)) else [None]
    return all(isinstance(each, str) for each in several)


_Form: TypeAlias = tuple[Callable[[Any], bool], str]

_TEXT: Final[_Form] = (lambda value: isinstance(value, str), "give a text")
_OWN: Final[Mapping[str, _Form]] = {
    "over": (_is_table, "give a mapping: input → list of values"),
    "table": (lambda value: isinstance(value, (str, Path)), "give the path of a table"),
    "sample": _whole(1),
    "seed": _whole(0),
    "max_parallel": _whole(1),
    "algorithm": (lambda value: value in get_args(Algorithm), 'give "random" or "grid"'),
    "limits": (_is_table, 'give a mapping such as {"node_hours": 40}'),
    "run_limits": (
        lambda value: isinstance(value, Limits) or _is_table(value),
        "give `fractale.Limits(…)`, or a mapping like a plan's `limits`",
    ),
    "agents": (_are_paths, "give a list of dotted paths: runs are in processes of their own"),
    "on": _TEXT,
    "merit": _TEXT,
    "model": (
        lambda value: isinstance(value, str),
        "give `provider:name`: runs are in processes of their own",
    ),
    "sweep_id": _TEXT,
    "reuse": (lambda value: isinstance(value, bool), "give True, False or None"),
    "on_row": (
        lambda value: callable(value) and not isinstance(value, type),
        "give a function of a line and of counts",
    ),
}
"""Keyword → whether a value fits, and what to give instead; for keywords of sweeps only."""


def _is_file(plan: Any) -> TypeGuard[str | Path]:
    if isinstance(plan, Path):
        return plan.is_file()
    try:
        return isinstance(plan, str) and "\n" not in plan and Path(plan).is_file()
    except (OSError, ValueError):  # too long for the name of a file
        return False


def _limits_of_sweep(value: Mapping[str, float] | None) -> dict[str, float]:
    for name, limit in (value or {}).items():
        is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)  # pyright: ignore[reportUnnecessaryIsInstance] - a user may not check types
        if not is_number or not math.isfinite(limit) or limit <= 0:
            raise UsageError(
                f"the limit `{name}` of a sweep cannot be {limit!r}", hint="give a number above 0"
            )
    return dict(value or {})


def _limits_of_runs(value: Limits | Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: each for name, each in asdict(limits_of(value)).items() if each is not None}
