"""Freezes a run's plan: each draft becomes a plan file, so that no planner is needed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fractale.errors import StoreError, UsageError
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.plan.kinds import PLANNER_INPUTS
from fractale.plan.model import Plan, Step
from fractale.plan.needs import narrow
from fractale.plan.paths import without_indexes
from fractale.record.plans import plan_of
from fractale.store.run_record import RunRecord


def freeze(record: RunRecord, target: Path) -> list[Path]:
    """Write the plan of a run, and each draft as a plan that it includes.

    A planned step becomes ``plan: ./STEM/STEP.yaml``, where STEM is the target's name without its
    ending. Keys that only a planned step has are left out. Its `tools` and `approve` move into the
    steps of its draft, so that they limit them as they did in the run. Plans that the run's plan
    includes are written beside the drafts, so that the files need no others.

    Args:
        record: The run's record.
        target: The file of the plan, a ``.yaml``; it must not exist.

    Returns:
        The files, the plan first.

    Raises:
        UsageError: The run has no drafts, or one that was not accepted; its plan has changed; a
            file exists already.
        StoreError: A file cannot be written.
    """
    if target.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{target} is not a name of a plan file", hint="use -o NAME.yaml")
    plan = plan_of(record, record.read_head())
    if plan is None:
        raise UsageError(
            f"the plan of run {record.run_id} has changed or was removed",
            hint="restore the plan, or freeze a newer run",
        )
    files = _frozen(record, plan, target.name)
    _check(files)
    return _write(files, target)


def _frozen(record: RunRecord, plan: Plan, name: str) -> dict[Path, str]:
    """The files by their place beside the plan, which is the first of them."""
    freezer = _Freezer(_accepted(record), Path(name).with_suffix(""))
    text = dump_plan(freezer.plan(plan, "", Path(name)))
    if not freezer.planned:
        raise UsageError(
            f"run {record.run_id} has no planned step",
            hint="only drafts of the planner can be frozen",
        )
    return {Path(name): text, **freezer.files}


def _accepted(record: RunRecord) -> dict[str, set[str]]:
    """Path of a step, without the items of a foreach → its drafts."""
    found: dict[str, set[str]] = {}
    for path, text in record.read_drafts().items():
        found.setdefault(without_indexes(path), set()).add(text)
    return found


def _check(files: Mapping[Path, str]) -> None:
    """Check the files before they are written to the target."""
    with tempfile.TemporaryDirectory() as directory:
        written = _write(files, Path(directory) / next(iter(files)).name)
        problems = [p for p in check_plan(load_plan(written[0])) if p.severity == "error"]
    if problems:  # an error in fractale: the plan and the drafts were valid
        raise UsageError(f"the frozen plan is not valid: {problems[0]}")


def _write(files: Mapping[Path, str], target: Path) -> list[Path]:
    paths = [target.parent / path for path in files]
    if there := [path for path in paths if path.exists()]:
        raise UsageError(f"{there[0]} already exists", hint="choose another file with -o FILE")
    try:
        for path, text in zip(paths, files.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"the plan cannot be written: {error}") from error
    return paths


class _Freezer:
    """Freezes plans within plans.

    Args:
        drafts: The run's drafts, by the path of their step.
        directory: The directory of drafts and included plans, relative to the plan.
    """

    def __init__(self, drafts: Mapping[str, set[str]], directory: Path) -> None:
        self._drafts = drafts
        self._directory = directory
        self.files: dict[Path, str] = {}
        self.planned = 0

    def plan(self, plan: Plan, prefix: str, home: Path) -> Plan:
        """A plan whose planned steps include their drafts.

        Args:
            prefix: The path of the plan in the run.
            home: The file that the plan goes into.
        """

        def frozen(steps: tuple[Step, ...], below: str) -> tuple[Step, ...]:
            return tuple(self._step(step, below, home) for step in steps)

        return replace(
            plan,
            steps=frozen(plan.steps, prefix),
            on_failure=frozen(plan.on_failure, f"{prefix}on_failure/"),
            finally_=frozen(plan.finally_, f"{prefix}finally/"),
        )

    def _step(self, step: Step, prefix: str, home: Path) -> Step:
        path = f"{prefix}{step.name}"
        if step.chain is not None:
            return replace(step, chain=self.plan(step.chain, f"{path}/", home))
        if step.kind != "plan":
            return replace(step, steps=tuple(self._step(s, f"{path}/", home) for s in step.steps))
        file = self._directory / f"{path}.yaml"
        inner = self.plan(step.plan or self._draft(step, path), f"{path}/", file)
        self.files[file] = dump_plan(inner)
        target = Path(os.path.relpath(file, home.parent)).as_posix()
        included = replace(step, target=f"./{target}", plan=inner)
        return included if step.plan else _without_planner(included)

    def _draft(self, step: Step, path: str) -> Plan:
        self.planned += 1
        texts = self._drafts.get(path, set())
        if not texts:
            raise UsageError(
                f"step `{path}` has no accepted draft in this run",
                hint="freeze a run that completed the step",
            )
        if len(texts) > 1:
            raise UsageError(
                f"step `{path}` has {len(texts)} different drafts, one per item",
                hint="only a draft that is equal for all items can be frozen",
            )
        draft = parse_plan(next(iter(texts)), f"draft of {path}")
        return narrow(draft, step.tools, step.approve)


def _without_planner(step: Step) -> Step:
    """A step that includes its draft, without the keys that are only for the planner."""
    return replace(
        step,
        inputs={name: v for name, v in step.inputs.items() if name not in PLANNER_INPUTS},
        instruction=None,
        tools=None,
        approve=None,
        retry=None,
    )
