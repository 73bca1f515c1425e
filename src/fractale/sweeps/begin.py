"""Checks a sweep, and writes its record: nothing runs here.

    prepared = prepare(spec, settings, options)     # all errors at once; nothing is written
    record = write_sweep(prepared, settings, "melt")

The record is complete once its head is written, which is the last file. Until then the process has
the sweep's lock, so that two starts with one ID cannot both continue.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fractale import shipped
from fractale.errors import InputError, PlanError, StoreError, UsageError
from fractale.masking import Masker
from fractale.plan.build import load_plan
from fractale.plan.check import check_plan
from fractale.plan.inputs import bind_inputs, read_secrets, secret_variable
from fractale.plan.model import Plan
from fractale.private import make_folder
from fractale.record.plans import copy_plan, plan_hash
from fractale.runs.preflight import check_answers
from fractale.runs.workspace import kept_store
from fractale.settings import Settings
from fractale.settings.own_runs import marked
from fractale.settings.secrets import STORE_VARIABLE
from fractale.store.run_record import ID_LENGTH, RunRecords, random_id
from fractale.sweeps.budget import check_limits
from fractale.sweeps.record import SWEEP_ID, SweepLock, SweepRecord, SweepRecords
from fractale.sweeps.spec import Rows, SweepSpec, rows_of
from fractale.text import clip, did_you_mean

TRIES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A sweep that was checked, and can be written.

    Args:
        options: As in `task.RunTask`.
    """

    spec: SweepSpec
    plan: Plan
    rows: Rows
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def first_inputs(self) -> dict[str, Any]:
        """All inputs of the first row."""
        return {**self.rows.constant, **self.rows.rows[0]}


def prepare(
    spec: SweepSpec,
    settings: Settings,
    *,
    plan: Plan | None = None,
    registries: tuple[Path | str, ...] = (),
    agents: tuple[str, ...] = (),
    yes: bool = False,
    trusted: bool = False,
) -> Prepared:
    """Check a sweep as a whole. Nothing is written, and no connection is opened.

    Args:
        plan: Instead of the file that the spec names.
        registries, agents: As of a run; every run uses them.
        yes: Approve beforehand every call and plan that needs approval.
        trusted: Whether an option trusts everything that comes with the runs.

    Raises:
        PlanError: The plan is invalid.
        SweepError: Axes, rows or inputs are wrong; all problems at once.
        InputError: There are too many rows, or the table cannot be read.
        AnswerError: An answer is not for a step of the plan.
        UsageError: The executor is unknown, or nothing bounds what a limit of the sweep is about.
    """
    from fractale.sweeps.executors import executor_settings

    plan = plan or load_plan(spec.plan)
    if errors := [problem for problem in check_plan(plan) if problem.severity == "error"]:
        raise PlanError(errors)
    executor_settings(settings, spec.on)
    check_answers(spec.answers, plan)
    _check_merit(spec, plan)
    if spec.limits:
        check_limits(spec.limits, plan, spec.run_limits)
    masker = masker_of(plan, settings)
    rows = rows_of(spec, plan, masker)
    options: dict[str, Any] = {
        "registries": [shipped.recorded(path) for path in registries],
        "agents": [*agents],
        "model": settings.model_spec,
        "store": kept_store(settings),
        "answers": dict(spec.answers),
        "yes": yes,
        "trusted": trusted,
        "reuse": spec.reuse,
    }
    if settings.origins.get("max_attempts") == "command line":
        options["max_attempts"] = settings.max_attempts
    for what, value in (("an answer", options["answers"]), ("the description", spec.description)):
        if masker(value) != value:
            raise InputError(
                f"{what} has a secret of the settings or the environment, and would be stored",
                hint="declare an input with `secret: true`, and set it in the environment",
            )
    return Prepared(spec=spec, plan=plan, rows=rows, options=options)


def masker_of(plan: Plan, settings: Settings) -> Masker:
    """Knows the secrets that no input may have: those of the settings, and the secret inputs."""
    return Masker([*settings.secrets, *read_secrets(plan, settings.environment).values()])


def environment_of_workers(
    settings: Settings, plan: Plan, secrets: Mapping[str, str]
) -> dict[str, str]:
    """The variables of workers: those of the settings, with secrets that are not recorded.

    These are the plan's secret inputs, and the password of the store.
    """
    known = {secret_variable(name): value for name, value in secrets.items() if name in plan.inputs}
    if settings.store is not None:
        known[STORE_VARIABLE] = settings.store
    # Settings that a program made itself have no environment: workers then get that of the process.
    return {**(settings.environment or os.environ), **known}


def _check_merit(spec: SweepSpec, plan: Plan) -> None:
    """Check that the plan has the output by which rows are compared."""
    if spec.merit is None:
        return
    name = spec.merit.partition(".")[0]
    if name not in plan.outputs and spec.merit not in plan.outputs:
        known = f"its outputs: {', '.join(plan.outputs)}" if plan.outputs else "it has no outputs"
        raise InputError(
            f"the plan has no output `{clip(spec.merit)}` for `merit`",
            hint=did_you_mean(name, plan.outputs, otherwise=known),
        )


def check_secrets(prepared: Prepared, secrets: Mapping[str, str]) -> None:
    """Check that the secret inputs of the plan are known: workers need them.

    Raises:
        InputError: One is missing.
    """
    bind_inputs(prepared.plan, prepared.first_inputs, secrets)


def write_sweep(
    prepared: Prepared, settings: Settings, sweep_id: str | None = None, **more: Any
) -> SweepRecord:
    """Write the record of a new sweep. If it cannot be written, none is left.

    Args:
        sweep_id: Its ID; None: a random one.
        more: Further keys of its head.

    Raises:
        UsageError: The ID is not valid, or a sweep or a run has it.
        RunHeld: Another process is starting a sweep with this ID.
        StoreError: The record cannot be written.
    """
    state_dir = settings.state_dir.absolute()
    records, runs = SweepRecords(state_dir), RunRecords(state_dir)
    if sweep_id is not None:
        _check_id(sweep_id)
    for _ in range(TRIES):
        name = sweep_id or random_id(ID_LENGTH)
        record = records.at(name)
        if taken := _taken(record, runs):
            if sweep_id is None:
                continue
            raise taken
        return _written(record, runs, prepared, settings, more)
    raise StoreError(f"no free ID of a sweep in {state_dir}", hint="remove old runs and sweeps")


def check_free(settings: Settings, sweep_id: str) -> None:
    """Check that a new sweep can have an ID.

    Raises:
        UsageError: It is not valid, or a sweep or a run has it.
    """
    _check_id(sweep_id)
    state_dir = settings.state_dir.absolute()
    if taken := _taken(SweepRecords(state_dir).at(sweep_id), RunRecords(state_dir)):
        raise taken


def _check_id(sweep_id: str) -> None:
    if not SWEEP_ID.fullmatch(sweep_id):
        raise UsageError(
            f"`{clip(sweep_id)}` is not a valid ID of a sweep",
            hint="letters, digits, `-` and `_`, at most 48, with a letter or digit first",
        )


def _taken(record: SweepRecord, runs: RunRecords) -> UsageError | None:
    """The error if a sweep or a run has the ID; runs of the sweep would collide with it."""
    name = record.sweep_id
    if record.head.exists():
        return UsageError(
            f"there is a sweep `{name}` already",
            hint=f"`fractale sweep show {name}` shows it; choose another --sweep-id",
        )
    own = f"{name}."
    run = min((each for each in runs.names() if each == name or each.startswith(own)), default=None)
    if run is None:
        return None
    return UsageError(
        f"there is a run `{run}` already, whose ID a sweep `{name}` would need",
        hint="choose another --sweep-id",
    )


def _written(
    record: SweepRecord,
    runs: RunRecords,
    prepared: Prepared,
    settings: Settings,
    more: Mapping[str, Any],
) -> SweepRecord:
    try:
        make_folder(record.path)
    except OSError as error:
        raise StoreError(
            f"cannot make {record.path}: {error.strerror or error}",
            hint="check space and permissions, or set FRACTALE_STATE_DIR to another directory",
        ) from error
    with SweepLock(record):
        if taken := _taken(record, runs):  # another process was faster
            raise taken
        try:
            record.write_rows(prepared.rows.rows)
            copy_plan(prepared.plan, record.plan, f"sweep {record.sweep_id}")
            head = {**head_of(prepared, record), **more}
            record.write_head(marked(head, settings.environment))
        except BaseException:
            record.remove()
            raise
    return record


def head_of(prepared: Prepared, record: SweepRecord) -> dict[str, Any]:
    """The head of a new sweep, once its plan is kept; see `record` for its keys."""
    spec, plan = prepared.spec, prepared.plan
    kept = load_plan(record.plan)  # its hash differs from the plan's if the plan includes others
    return {
        "version": 1,
        "plan": plan.name,
        "file": str(Path(plan.file).absolute()),
        "folder": str(Path.cwd()),
        "plan_hash": plan_hash(kept),
        "sweep_file": str(Path(spec.file).absolute()) if spec.file else None,
        "table": str(Path(spec.table).absolute()) if spec.table else None,
        "sample": spec.sample,
        "seed": spec.seed if spec.sample is not None else None,
        "description": spec.description,
        "inputs": dict(prepared.rows.constant),
        "varied": list(prepared.rows.varied),
        "rows": len(prepared.rows.rows),
        "limits": dict(spec.limits),
        "run_limits": dict(spec.run_limits),
        "executor": spec.on,
        "max_parallel": spec.max_parallel,
        "options": dict(prepared.options),
        "merit": spec.merit,
        "started": time.time(),
    }
