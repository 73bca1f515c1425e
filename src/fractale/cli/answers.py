"""Answers given beforehand: ``--answers FILE`` and ``--answer STEP=TEXT``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fractale.errors import AnswerError, PlanError
from fractale.plan.model import Plan

_QUESTION_ID = re.compile(r"[0-9a-f]{32}")


def read_answers(pairs: tuple[str, ...]) -> dict[str, str]:
    """The answers of ``--answer``.

    Raises:
        AnswerError: One has no ``=``, or a step is answered twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        step, equals, answer = pair.partition("=")
        if not equals or not step.strip():
            raise AnswerError(f"an answer is given as STEP=ANSWER, not `{pair}`")
        if step.strip() in found:
            raise AnswerError(
                f"`{step.strip()}` is answered twice",
                hint="a file for --answers can answer each of its questions by their text",
            )
        found[step.strip()] = answer
    return found


def read_answers_file(file: Path | None) -> dict[str, Any]:
    """The answers of ``--answers``: step → answer, or question → answer; empty without a file.

    Raises:
        AnswerError: The file cannot be read, or is not a mapping.
    """
    if file is None:
        return {}
    from fractale.plan.source import read_file

    try:
        root = read_file(file)
    except PlanError as error:
        problem = error.problems[0]
        raise AnswerError(problem.message, position=problem.position) from error
    if not isinstance(root.value, dict):
        raise AnswerError(
            f"a file of answers is a mapping of steps to answers, not {root.found()}",
            hint="such as:  submit: yes",
            position=root.position,
        )
    return root.plain()


def check_steps(answers: Mapping[str, Any], plan: Plan) -> None:
    """See that each answer is for a step of the plan, before anything runs.

    Steps that are drafted while the plan runs are not known yet; where there can be some, any
    name is taken.

    Raises:
        AnswerError: There is no such step, or there are several of that name.
    """
    from fractale.questions.given import ANY_STEP, strip_indexes

    paths = list(_paths(plan))
    names = [path.rpartition("/")[2] for path in paths]
    for key in answers:
        step = strip_indexes(key)
        if key == ANY_STEP or step in paths or _QUESTION_ID.fullmatch(key):
            continue
        if names.count(step) > 1:
            several = ", ".join(path for path in paths if path.endswith(f"/{step}"))
            raise AnswerError(
                f"the answer to `{key}` could be for any of: {several}",
                hint="write the whole path",
            )
        if step not in names and not _drafts(plan):
            near = difflib.get_close_matches(step, [*paths, *names], 1)
            hint = f"did you mean `{near[0]}`?" if near else f"its steps: {', '.join(paths)}"
            raise AnswerError(f"{plan.file} has no step `{key}` to answer", hint=hint)


def _paths(plan: Plan, prefix: str = "") -> Iterator[str]:
    """The paths of all steps, those of parallel blocks and included plans too."""
    for step in plan.steps:
        path = f"{prefix}{step.name}"
        yield path
        yield from (f"{path}/{inner.name}" for inner in step.steps)
        if step.plan is not None:
            yield from _paths(step.plan, f"{path}/")
        for inner in step.steps:
            if inner.plan is not None:
                yield from _paths(inner.plan, f"{path}/{inner.name}/")


def _drafts(plan: Plan) -> bool:
    """Whether the manager may draft steps in this plan."""
    inside = [step.plan for step in plan.walk() if step.plan is not None]
    drafted = any(step.is_drafted for step in plan.walk())
    return drafted or any(_drafts(each) for each in inside)
