"""How a run ended, or what it waits for, and the commands to type next."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fractale.events import Status
from fractale.questions import asks_secret, is_job, needs_no_answer
from fractale.questions.answers import SHORT_ID
from fractale.questions.kinds import example, examples
from fractale.schedulers.ends import after
from fractale.settings import PROJECT_FOLDER

EXIT_CODES: Mapping[Status, int] = {
    "success": 0,
    "failed": 1,
    "waiting": 4,
    "limit": 5,
    "stopped": 75,
}

BY_CANCEL = "cancelled by `fractale cancel`"
"""The error of a run that was cancelled, and whose plan's `finally` steps have run."""

INTERRUPTED = "interrupted"
"""The beginning of the error of a run whose process a signal ended at once."""

CANCEL_REQUEST = "fractale cancel"
"""Why the process of a run stops that `fractale cancel` stops."""

MOST_ANSWERS = 5
"""The most questions that a command answers one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended, or what it waits for.

    Args:
        outputs: The plan's outputs. If the run failed or stopped at a limit, those that could be
            rendered then.
        left_out: The names of the outputs that such a run could not render.
        steps: One entry for each time a step was entered, in that order.
        decided: The last step and the evidence for its outcome: ``{step, by, reason}``.
        usage: ``{input_tokens, output_tokens, total_tokens, cost, seconds}``.
        record: The directory of the run, if it is recorded.
        waiting: The questions that the run waits for, and the jobs and times
            (`fractale.questions.needs_no_answer`).
        output_files: Output → its file, for texts of many lines.
        notices: Notices that a success must not hide, of each step's latest attempt: ``{step, kind,
            message}``. The `kind` is ``warning``, ``lost`` or ``failed``.
    """

    run: str
    status: Status
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])
    steps: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    error: str | None = None
    hint: str | None = None
    decided: dict[str, Any] | None = None
    usage: dict[str, Any] = field(default_factory=dict[str, Any])
    record: Path | None = None
    waiting: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    output_files: dict[str, str] = field(default_factory=dict[str, str])
    notices: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    left_out: list[str] = field(default_factory=list[str])

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        return EXIT_CODES[self.status]

    @property
    def ok(self) -> bool:
        """Whether the plan ended in success."""
        return self.status == "success"

    def _repr_html_(self) -> str:
        """The result in a notebook."""
        from fractale.runs.result_html import result_html

        return result_html(self, next_commands(self))


def finished_data(
    result: RunResult, *, by_cancel: bool = False, has_finally: bool = False
) -> dict[str, Any]:
    """The fields of the event `run_finished`.

    Args:
        by_cancel: Whether `fractale cancel` stops the run.
        has_finally: Whether the plan has `finally` steps.
    """
    by_cancel = by_cancel or result.error == BY_CANCEL
    due = has_finally and not by_cancel and result.status in ("stopped", "waiting")
    return {
        "status": result.status,
        "steps": result.steps,
        "outputs": result.outputs,
        "error": result.error,
        "hint": result.hint,
        "decided": result.decided,
        "usage": result.usage,
        "record": str(result.record) if result.record else None,
        "waiting": _ended_by_cancel(result.waiting)
        if by_cancel and result.status == "stopped"
        else result.waiting,
        "output_files": result.output_files,
        "notices": result.notices,
        **({"left_out": result.left_out} if result.left_out else {}),
        "next": next_commands(result, by_cancel=by_cancel, finally_due=due),
        **({"finally_due": True} if due else {}),
    }


def _ended_by_cancel(waiting: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions, jobs and times of a run; the jobs say that `fractale cancel` ends them."""
    return [
        {**each, "reason": f"{each.get('reason') or each.get('state')}; `{CANCEL_REQUEST}` ends it"}
        if is_job(each) and each.get("job")
        else each
        for each in waiting
    ]


def next_commands(
    result: RunResult, *, by_cancel: bool = False, finally_due: bool = False
) -> list[str]:
    """The commands to type next.

    Args:
        by_cancel: Whether `fractale cancel` stops the run. `fractale resume --ready` then leaves it
            alone, also if it waits for a time.
        finally_due: Whether `fractale cancel` would run the plan's `finally` steps.
    """
    if result.record is None:
        return []
    resume = resume_command(result.run)
    asked = [each for each in result.waiting if not needs_no_answer(each)]
    if result.status == "waiting" and any(asks_secret(each) for each in asked):
        return [resume]  # the user types a secret at the terminal
    if result.status == "waiting" and asked:
        return _answers(result.run, asked)
    stopped = result.status == "stopped"
    if stopped and by_cancel:
        return [resume]
    ends = _jobs_go_on(result) or (stopped and finally_due)
    cancel = [f"{CANCEL_REQUEST} {result.run}"] if ends else []
    if result.waiting and (stopped or result.status == "waiting"):
        later = _epilogues(result.run, result.record, result.waiting)
        return [resume, "fractale resume --ready", *cancel, *later]
    if result.status == "limit":
        return [f"{resume} --limit NAME=VALUE"]
    if result.status == "failed" and result.decided:
        again = fork_command(result.run, _place(result.decided))
        return [*_looks(result.run, result.decided), again]
    if result.status == "success" and result.notices:
        return [_show_command(result.run, str(result.notices[0]["step"]))]
    return [resume, *cancel] if stopped else []


def resume_command(run: str) -> str:
    """The command that continues a run."""
    return f"fractale resume {run}"


def answer_commands(run: str, question: Mapping[str, Any]) -> list[str]:
    """The commands that answer a question from any terminal, with examples of answers.

    None for a secret: that is typed where the run was started.
    """
    if asks_secret(question):
        return []
    step = str(question.get("step") or "")
    return [f"{answer_command(run)} {_pair(step, each)}" for each in examples(question)]


def answer_command(run: str) -> str:
    """The command that lists the open questions of a run, and answers those that it is given."""
    return f"fractale answer {run}"


def fork_command(run: str, at: str) -> str:
    """The command that starts a new run from a step of this one."""
    return f"fractale fork {run} --at {shlex.quote(at)}"


def why_command(run: str) -> str:
    """The command that shows what changed since the last success of the same plan."""
    return f"fractale why {run}"


def _looks(run: str, decided: Mapping[str, Any]) -> list[str]:
    """The commands that show why a step failed: first the log of its job, if it has one."""
    jobs = decided.get("jobs") or ()
    if not jobs:
        return [_show_command(run, str(decided.get("gave_up") or decided["step"]))]
    step = str(jobs[0]["step"])
    return [f"fractale logs {run} {shlex.quote(step)}", _show_command(run, step)]


def _show_command(run: str, step: str) -> str:
    return f"fractale show {run} {shlex.quote(step)}"


def _jobs_go_on(result: RunResult) -> bool:
    """Whether a submitted job keeps running, or waits, without the run."""
    return any(each.get("job") for each in result.waiting if is_job(each))


def _epilogues(run: str, record: Path, waiting: list[dict[str, Any]]) -> list[str]:
    """The command that has the scheduler itself resume a run that waits for one job.

    The elements of an array, and items that were submitted as one job, count as one.
    """
    jobs = {(str(each["scheduler"]), str(each["job"])) for each in waiting if each.get("job")}
    if len(jobs) != 1:
        return []
    ((scheduler, job),) = jobs
    command = after(scheduler, shlex.quote(job), _resume_anywhere(run, record))
    return [command] if command else []


def _resume_anywhere(run: str, record: Path) -> str:
    """A shell command that resumes a run in any working directory and with any PATH."""
    here, state = Path.cwd(), record.absolute().parents[1]
    program = Path(sys.executable).with_name("fractale")
    words = [str(program)] if program.exists() else [sys.executable, "-m", "fractale.cli"]
    line = shlex.join([*words, "resume", run, "--detach"])
    if state != here / PROJECT_FOLDER:
        line = f"FRACTALE_STATE_DIR={shlex.quote(str(state))} {line}"
    return f"cd {shlex.quote(str(here))} && {line}"


def _place(decided: Mapping[str, Any]) -> str:
    """The step of the plan itself at which a failed run ended."""
    path = str(decided.get("gave_up") or decided["step"])
    return path.partition("/")[0].partition("[")[0]


def _answers(run: str, asked: list[dict[str, Any]]) -> list[str]:
    """The commands that answer the questions of a run.

    First those that continue it in the background, which work also if another process has it by
    then. The last one continues it in the user's terminal.
    """
    resume = resume_command(run)
    if len(asked) == 1:
        return [*answer_commands(run, asked[0]), resume]
    if len(asked) > MOST_ANSWERS:
        return [answer_command(run), f"{resume} --answers FILE"]
    steps = Counter(question["step"] for question in asked)
    pairs = [
        # The first digits of their ids distinguish several questions of one step.
        _pair(
            question["step"] if steps[question["step"]] == 1 else question["id"][:SHORT_ID],
            example(question),
        )
        for question in asked
    ]
    return [" ".join([answer_command(run), *pairs]), resume]


def _pair(key: str, answer: str) -> str:
    """A question and its answer, as one word of a shell."""
    return shlex.quote(f"{key}={answer}")
