"""The plan of a run: a copy beside its record, and how to find the plan again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fractale.errors import CHECK_SPACE, PlanError, StoreError
from fractale.plan.build import load_plan
from fractale.plan.dump import dump_plan_fast, plan_data
from fractale.plan.model import Plan, Step
from fractale.private import make_folder, write_private
from fractale.store.outputs import encode
from fractale.store.run_record import RunRecord


def plan_hash(plan: Plan) -> str:
    """A hash of the plan and those that it includes; comments and layout do not matter."""
    return hashlib.sha256(encode(_meaning(plan))).hexdigest()


def _meaning(plan: Plan) -> list[Any]:
    return [plan_data(plan), *(_meaning(step.plan) for step in plan.walk() if step.plan)]


def keep_plan(record: RunRecord, plan: Plan) -> Path:
    """Copy the plan of a run, and those that it includes, into the run's directory.

    The plan's file may change or disappear afterwards, and a plan that is given as text has none.

    Returns:
        ``plan.yaml``; included plans are in ``plan/STEP.yaml`` below it.

    Raises:
        StoreError: It cannot be written.
    """
    copy_plan(plan, record.plan, f"run {record.run_id}")
    return record.plan


class PlanCopies:
    """Keeps the plan of one run after another. The text of a plan is made once for all of them."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._texts: dict[Path, str] = {}

    def keep(self, record: RunRecord, plan: Plan) -> None:
        """As `keep_plan`."""
        if plan is not self._plan:
            target = Path(RunRecord.plan.name)
            self._texts = _files(plan, target, RunRecord.included_plans.name)
            self._plan = plan
        texts = {record.path / path: text for path, text in self._texts.items()}
        _write(texts, f"run {record.run_id}")


def copy_plan(plan: Plan, target: Path, of: str) -> None:
    """Write a plan, and those that it includes into the directory ``plan`` beside it.

    Args:
        target: The file for the plan itself.
        of: The run or the sweep, for the message.

    Raises:
        StoreError: It cannot be written.
    """
    _write(_files(plan, target, RunRecord.included_plans.name), of)


def _write(texts: Mapping[Path, str], of: str) -> None:
    try:
        for path, text in texts.items():
            make_folder(path.parent)
            write_private(path, text, sync="none")
    except OSError as error:
        raise StoreError(f"the plan of {of} cannot be kept: {error}", hint=CHECK_SPACE) from error


def _files(plan: Plan, target: Path, near: str) -> dict[Path, str]:
    """The files of a plan and of those that it includes, which are in the directory `near` it."""
    found: dict[Path, str] = {}

    def kept(step: Step) -> Step:
        if step.chain is not None:
            inside = tuple(kept(inner) for inner in step.chain.steps)
            return replace(step, chain=replace(step.chain, steps=inside))
        if step.plan is None:
            return replace(step, steps=tuple(kept(inner) for inner in step.steps))
        name = f"{near}/{step.name}.yaml"
        found.update(_files(step.plan, target.parent / name, step.name))
        return replace(step, target=f"./{name}")

    whole = replace(
        plan,
        steps=tuple(map(kept, plan.steps)),
        on_failure=tuple(map(kept, plan.on_failure)),
        finally_=tuple(map(kept, plan.finally_)),
    )
    return {target: dump_plan_fast(whole), **found}


def plan_file(record: RunRecord, head: Mapping[str, Any]) -> Path | None:
    """The file with the plan as it was run; None if the plan has changed or is gone."""
    kept = record.plan
    if kept.is_file():
        return kept
    file = Path(str(head.get("file") or ""))
    try:
        same = file.is_file() and plan_hash(load_plan(file)) == head.get("plan_hash")
    except PlanError:
        return None
    return file if same else None


def plan_of(record: RunRecord, head: Mapping[str, Any]) -> Plan | None:
    """The plan as it was run; None if it has changed or is gone."""
    file = plan_file(record, head)
    try:
        return load_plan(file) if file else None
    except PlanError:
        return None
