"""What people do with runs from outside of them: answer, cancel, resume, fork, start.

The command line, ``fractale top`` and ``fractale web`` share this service. A run that it starts or
resumes is a process of its own: ``python -m fractale.cli`` in a session of its own, without a
terminal, with its output in a file of the run. It outlives the process that started it. Its consent
is that of the command line: settings that are not trusted, changed tools and the policy hold there,
and a refusal is reported with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractale.errors import AnswerError, UsageError

if TYPE_CHECKING:
    from fractale.runs.cancelling import Cancelled
    from fractale.settings import Settings


class AlreadyAnswered(AnswerError):
    """Another answer to the question was first; the message says whose, where and when."""

    code = "already-answered"


class NotStarted(UsageError):
    """A background process refused to work on a run, or could not; nothing was done.

    ``log`` is the file with its whole output, or None if the process could not be started.
    """

    code = "not-started"
    log: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """A question of a run that has no answer yet.

    Args:
        key: Names this question and no other: a step that asks the same again has another key.
        step: The path of the step that asks.
        question: Its fields, as in `fractale.questions`; secrets are masked.
        held: Whether a process of the run asks it right now. Otherwise it waits in the record.
        asked_at: Unix time in seconds; None if it is not known.
        problem: Why it can be answered only at a terminal (it asks for a secret); empty otherwise.
    """

    key: str
    step: str
    question: Mapping[str, Any]
    held: bool
    asked_at: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A background process that works on a run.

    Args:
        run: The run's id.
        pid: The process.
        log: The file with its output.
        begun: Whether it has taken up the run. False: it still opens its servers.
    """

    run: str
    pid: int
    log: Path
    begun: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """An answer that was accepted.

    Args:
        answer: As `fractale.questions.read_answer` reads it.
        taken: Whether a process of the run has it already.
        process: The process that asked, as text; empty if the run had none.
        started: The background process that resumes the run with it; None if none was started.
    """

    run: str
    key: str
    step: str
    answer: Any
    taken: bool
    process: str = ""
    started: Started | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags:
    """Options of the command line for a run that is started in the background.

    Args:
        registries: ``-r``.
        agents: ``-a``.
        model: ``--model``, as ``provider:name``.
        backend: ``--backend``.
        limits: ``--limit``: name → value as text.
        detach: ``--detach``.
        secrets: Secret inputs of the plan; passed in the environment of the process.
    """

    registries: Sequence[str | Path] = ()
    agents: Sequence[str] = ()
    model: str | None = None
    backend: str | None = None
    limits: Mapping[str, str] = field(default_factory=dict[str, str])
    detach: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class Actions:
    """Acts on the runs of one state directory.

    Args:
        settings: Name the state directory. Their environment is that of background processes.
        by: Where the user acts, as events and the audit log name it: ``fractale web``.
    """

    def __init__(self, settings: Settings, *, by: str) -> None:
        self._settings = settings
        self._by = by

    def questions(self, run_id: str) -> list[OpenQuestion]:
        """The open questions of a run; ``-1`` is the latest. It reads the record only.

        Raises:
            UsageError: The run was not found.
            StoreError: Its record cannot be read.
        """
        raise NotImplementedError

    async def answer(self, run_id: str, question: str, raw: Any) -> Delivered:
        """Answer one open question. The first valid answer counts.

        If a process of the run asks the question, it gets the answer. If the run has no process, it
        is resumed in the background.

        Args:
            question: The `key` of an `OpenQuestion`, or the name of its step if the step asks one
                question only.
            raw: Text as it is typed, or data; see `fractale.questions.read_answer`.

        Raises:
            AlreadyAnswered: Another answer was first.
            AnswerError: The question does not accept the answer, or is not open, or several
                questions have that name. The question stays open.
            NotStarted: The run could not be resumed; the answer was dropped.
            SettingsError: Another user started the run.
        """
        raise NotImplementedError

    async def answer_all(self, run_id: str, answers: Mapping[str, Any]) -> list[Delivered]:
        """Answer several questions of one run: all of them, or none if one is not valid.

        Args:
            answers: As `answer` expects them: question → raw answer.

        Raises:
            As `answer`.
        """
        raise NotImplementedError

    async def cancel(self, run_id: str, step: str | None = None) -> Cancelled:
        """End the jobs of a run and stop it, or end the jobs of one step. It does not ask.

        Raises:
            UsageError: The run was not found, or the step did not submit a job.
            SettingsError: Another user started the run.
            StoreError: The record cannot be read or written.
        """
        raise NotImplementedError

    async def resume(self, run_id: str) -> Started:
        """Resume a run in the background.

        Raises:
            RunHeld: A process has the run.
            NotStarted: The process refused, or could not be started.
            SettingsError: Another user started the run.
        """
        raise NotImplementedError

    async def fork(self, run_id: str, at: str, inputs: Mapping[str, Any] | None = None) -> Started:
        """Start a new run from the state of another one before a step, in the background.

        Args:
            at: The step's name or path, or ``STEP#2`` for its second attempt.
            inputs: Those that change, as texts or values.

        Raises:
            InputError: An input does not fit the plan.
            NotStarted: The process refused, or could not be started.
            SettingsError: Another user started the run.
        """
        raise NotImplementedError

    async def start(
        self,
        plan: str | Path,
        inputs: Mapping[str, Any] | None = None,
        flags: RunFlags | None = None,
    ) -> Started:
        """Run a plan in the background.

        Args:
            plan: The plan's file.
            inputs: Texts or values, without secret ones.

        Raises:
            PlanError: The plan is invalid.
            InputError: An input is missing or wrong.
            NotStarted: The process refused, or could not be started.
        """
        raise NotImplementedError

    async def dry_run(
        self,
        plan: str | Path,
        inputs: Mapping[str, Any] | None = None,
        flags: RunFlags | None = None,
    ) -> dict[str, Any]:
        """What a run of the plan would do: the data of ``fractale run --dry-run --json``.

        Nothing is started, and no connection is opened. Modules of `flags.registries` are imported.

        Raises:
            PlanError: The plan is invalid.
            InputError: An input is missing or wrong.
        """
        raise NotImplementedError
