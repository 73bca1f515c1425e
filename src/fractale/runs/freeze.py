"""A run's plan with its drafts in place, as files that need no manager."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fractale.errors import UsageError
from fractale.plan.build import load_plan, parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.plan.model import Plan, Step
from fractale.plan.words import INSTRUCTION_INPUTS
from fractale.store.drafts import Drafts
from fractale.store.records import RunFolder

EXPERTS = ("agent", "prompt")


def freeze(folder: RunFolder, target: Path) -> list[Path]:
    """Write the plan of a run, and each draft as a plan that it includes.

    A planned step becomes ``plan: ./STEM/STEP.yaml``, where STEM is the target's name without
    its ending. What only a planned step has (`instruction`, `tools`) is left out.

    Args:
        folder: Of the run.
        target: The file of the plan; there must be none.

    Returns:
        The files, the plan first.

    Raises:
        UsageError: The run has no drafts, or one that was not accepted; a file is there already.
        PlanError: The plan or a draft cannot be read.
    """
    plan = load_plan(folder.read_head()["file"])
    freezer = _Freezer(Drafts(folder.path / "drafts"), target.with_suffix(""), {})
    frozen = freezer.plan(plan, "", target.with_suffix("").name)
    if not freezer.files:
        raise UsageError(
            f"run {folder.run_id} has no step that was planned",
            hint=f"its plan is {plan.file}",
        )
    files = {target: dump_plan(frozen), **freezer.files}
    if there := [path for path in files if path.exists()]:
        raise UsageError(f"{there[0]} is there already", hint="choose another -o FILE")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    _check(target)
    return list(files)


def _check(target: Path) -> None:
    problems = [p for p in check_plan(load_plan(target)) if p.severity == "error"]
    if problems:  # an error of ours: the drafts were valid
        raise UsageError(f"the frozen plan is not valid: {problems[0]}")


class _Freezer:
    """Freezes plans within plans.

    Args:
        drafts: Of the run.
        folder: Where drafts are written.
        files: Takes what is to be written.
    """

    def __init__(self, drafts: Drafts, folder: Path, files: dict[Path, str]) -> None:
        self._drafts = drafts
        self._folder = folder
        self.files = files

    def plan(self, plan: Plan, prefix: str, near: str) -> Plan:
        """A plan whose planned steps include their drafts.

        Args:
            prefix: The path of the plan in the run.
            near: The folder of its drafts, as seen from its own file.
        """
        return replace(plan, steps=tuple(self._step(s, prefix, near) for s in plan.steps))

    def _step(self, step: Step, prefix: str, near: str) -> Step:
        path = f"{prefix}{step.name}"
        inner = tuple(self._step(each, f"{path}/", near) for each in step.steps)
        if step.kind != "plan" or step.plan is not None:
            return replace(step, steps=inner)
        text = self._drafts.text(path)
        if text is None:
            raise UsageError(
                f"step `{path}` has no accepted draft in this run",
                hint="let the run come to its end, then freeze it",
            )
        file = self._folder / f"{path}.yaml"
        draft = self.plan(parse_plan(text, str(file)), f"{path}/", step.name)
        self.files[file] = dump_plan(draft)
        hidden = (*INSTRUCTION_INPUTS, *EXPERTS)
        inputs = {name: value for name, value in step.inputs.items() if name not in hidden}
        return replace(
            step,
            target=f"./{near}/{step.name}.yaml",
            plan=draft,
            inputs=inputs,
            instruction=None,
            tools=None,
        )
