"""Every error that fractale raises on purpose.

Each has a stable ``code`` (for scripts and documentation), an ``exit_code`` of the command
line, a message that says what happened, and a ``hint`` about the next step.

.. code-block:: text

    FractaleError
    ├── UsageError              2    the command or the call was used wrongly
    │   ├── InputError          2    an input of the plan is missing or ill-typed
    │   │   └── SweepError      2    rows of a sweep are wrong: all problems at once
    │   ├── AnswerError         2    an answer is not valid for its question
    │   ├── SettingsError       2    a setting or a settings file is wrong
    │   └── RunHeld             2    another process has the run: nothing was done
    ├── PlanError               3    the plan (or registry file) is invalid: all problems at once
    ├── CallError                    a step's call failed: becomes the outcome `error`
    │   ├── TemplateError            a template or expression could not be evaluated
    │   ├── ToolError                a tool, prompt or resource of a server failed
    │   │   └── TransportError       the server was lost or never answered: `retry` applies
    │   ├── JobError                 a batch job cannot be submitted, found or cancelled
    │   │   ├── JobInDoubt           it is not known whether the job was submitted
    │   │   └── SchedulerUnavailable the scheduler does not answer: `retry` applies
    │   ├── NotDone                  an agent reports that it did not do its task
    │   ├── ModelError               the model failed or answered nothing usable
    │   │   └── ModelUnavailable     429, 5xx, time-out, connection: `retry` applies
    │   └── PolicyError              the call was refused before it was made
    ├── LimitReached            5    a limit of the run was reached; the run can be resumed
    ├── Stopped                 75   the run was stopped on request and can be resumed
    ├── ListenerError           1    the caller's `on_event` raised; the run stopped, resumable
    ├── StoreError              1    the run's record cannot be read or written
    ├── NotRecorded             2    a run cannot be replayed: its record lacks something
    └── DependencyMissing       2    an optional package or program is not installed
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file.

    Args:
        file: The path as the user gave it, or ``<string>``.
        line: 1 for the first line.
        column: 1 for the first character.
    """

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


_POSITION = re.compile(r"\S+:[0-9]+:[0-9]+ {2}")


def without_positions(text: str) -> str:
    """The texts of errors without their places in a file: the same plan may have another layout."""
    return _POSITION.sub("", text)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a plan or a registry file.

    Args:
        code: A stable word such as ``unknown-step``.
        message: The problem, and the right form.
        position: Where in the file, if the problem has a place.
        path: Its place in the plan, such as ``steps[2].transitions.failure``.
        length: How many characters from the position on are wrong (1 if unknown).
        suggestion: The nearest valid word, if one is near.
        severity: ``error`` stops the plan, ``warning`` is reported and ignored.
        missing: The name of a tool, prompt or sub-agent that no server or file offers.
    """

    code: str
    message: str
    position: Position | None = None
    path: str = ""
    length: int = 1
    suggestion: str | None = None
    severity: str = "error"
    missing: str | None = None

    def __str__(self) -> str:
        where = f"{self.position}  " if self.position else ""
        path = f"  {self.path}" if self.path else ""
        tail = f"; did you mean `{self.suggestion}`?" if self.suggestion else ""
        return f"{where}{self.code}{path}: {self.message}{tail}"


class FractaleError(Exception):
    """The root of the tree, with a message, a place and a hint.

    Args:
        message: One sentence.
        hint: How the user can correct it.
        position: Where in a file, if the error has a place.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, hint: str | None = None, position: Position | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.position = position

    def __str__(self) -> str:
        return f"{self.position}  {self.message}" if self.position else self.message


class UsageError(FractaleError):
    """The command line or the library was used wrongly."""

    code = "usage"
    exit_code = 2


class InputError(UsageError, ValueError):
    """An input of the plan is missing, unknown, or not of its type.

    It is a ValueError, too: LangGraph's server shows the messages of Python's own errors only.
    """

    code = "input"


class SweepError(InputError):
    """The axes or the table of a sweep are wrong.

    Args:
        problems: Every problem found. At least one.
    """

    code = "sweep"

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)


class SettingsError(UsageError):
    """A setting, or a settings file, is wrong."""

    code = "settings"


class AnswerError(UsageError, ValueError):
    """An answer does not fit its question; the run still waits for one.

    It is a ValueError, too, as `InputError` is.
    """

    code = "answer"


class RunHeld(UsageError):
    """Another process has the run. Nothing was done; try again when that process has ended."""

    code = "run-held"


class DependencyMissing(UsageError):
    """An optional package or program is needed but not installed."""

    code = "dependency-missing"


class PlanError(FractaleError):
    """A plan or a registry file is invalid.

    Args:
        problems: Every problem found, in file order. At least one.
        plan: The readable part of the plan (a `fractale.plan.model.Plan`), so that the rest
            of it can be checked, too; None if too little could.
    """

    code = "invalid-plan"
    exit_code = 3

    def __init__(self, problems: list[Problem], plan: Any = None) -> None:
        self.problems = problems
        self.plan = plan
        super().__init__("\n".join(str(problem) for problem in problems))


class CallError(FractaleError):
    """A step's call failed. The step's outcome is ``failure``, decided by ``error``.

    ``retryable`` says whether the step's ``retry`` applies: true for transport errors, false for
    answers that are merely wrong.
    """

    code = "call"
    retryable: ClassVar[bool] = False


class TemplateError(CallError):
    """A template or an expression could not be evaluated."""

    code = "template"


class ToolError(CallError):
    """A tool, prompt or resource raised, is unknown, or its arguments do not fit.

    ``seconds`` says how long the call took, if a run made it.
    """

    code = "tool"
    seconds: float | None = None


class TransportError(ToolError):
    """The server was lost, could not be reached, or did not answer in time.

    ``sent`` says whether the call may have reached the server. If so, it is unknown whether the
    tool did its work.
    """

    code = "transport"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        sent: bool = False,
        hint: str | None = None,
        position: Position | None = None,
    ) -> None:
        super().__init__(message, hint=hint, position=position)
        self.sent = sent


class JobError(CallError):
    """A batch job cannot be submitted, found or cancelled: the scheduler says why."""

    code = "job"


class JobInDoubt(JobError):
    """A job may have been submitted: neither the scheduler nor the job's own files show whether."""

    code = "job-in-doubt"


class SchedulerUnavailable(JobError):
    """The scheduler does not answer. Nothing was lost; make the same call again later."""

    code = "scheduler-unavailable"
    retryable = True


class NotDone(CallError):
    """An agent reports that it did not do its task.

    Args:
        reason: Why, in the agent's words.
        messages: Its conversation, LangChain messages.
    """

    code = "not-done"

    def __init__(self, reason: str, *, messages: Sequence[Any] = ()) -> None:
        super().__init__(f"not done: {reason}")
        self.reason = reason
        self.messages = messages


class ModelError(CallError):
    """The model refused, or its answer is empty or cannot be used.

    ``usage`` is a `fractale.models.Usage` of the answers that cost tokens, or None if the model
    gave none. ``text`` is an answer that is not the requested JSON.
    """

    code = "model"
    usage: Any = None
    text: str = ""


class ModelUnavailable(ModelError):
    """The model's server is busy, broken or out of reach (429, 5xx, time-out).

    Args:
        retry_after: Seconds the server asked to wait, if it did.
    """

    code = "model-unavailable"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        hint: str | None = None,
        position: Position | None = None,
    ) -> None:
        super().__init__(message, hint=hint, position=position)
        self.retry_after = retry_after


class PolicyError(CallError):
    """The call was refused before it was made."""

    code = "policy"


class LimitReached(FractaleError):
    """A limit of the run was reached. The run is kept and can be resumed.

    Args:
        limit: ``steps``, ``time``, ``tokens``, ``cost``, ``depth``, ``node_hours`` and the like.
    """

    code = "limit"
    exit_code = 5

    def __init__(self, limit: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.limit = limit


class Stopped(FractaleError):
    """The run was stopped on request at a step's boundary and can be resumed."""

    code = "stopped"
    exit_code = 75


class ListenerError(FractaleError):
    """The caller's `on_event` raised. The run stopped at a step's boundary and can be resumed.

    ``result`` is how the run ended (a `fractale.RunResult`), if it had begun.
    """

    code = "listener"
    result: Any = None


class StoreError(FractaleError):
    """The record of a run cannot be read or written."""

    code = "store"


CHECK_SPACE = "check space and permissions, or set FRACTALE_STATE_DIR to another directory"
"""The hint if a run's data cannot be written."""


class NotRecorded(FractaleError):
    """A run cannot be replayed: its record lacks something that replay needs.

    Args:
        reason: A stable word for what is missing, such as ``no-tools``.
    """

    code = "not-recorded"
    exit_code = 2

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


@dataclass(slots=True)
class ProblemList:
    """Collects problems so that all problems of a file are reported at once."""

    problems: list[Problem] = field(default_factory=list[Problem])

    def add(self, problem: Problem) -> None:
        self.problems.append(problem)

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop the plan, in file order."""
        return sorted(
            (p for p in self.problems if p.severity == "error"),
            key=lambda p: (
                (p.position.file, p.position.line, p.position.column) if p.position else ("", 0, 0)
            ),
        )

    def raise_if_any(self) -> None:
        """Raise PlanError if any problem is an error."""
        if errors := self.errors:
            raise PlanError(errors)
