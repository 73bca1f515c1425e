"""What people do with runs from outside of them: answer, cancel, resume, fork, start.

The command line, ``fractale top`` and ``fractale web`` share this service. A run that it starts or
resumes is a process of its own: ``python -m fractale.cli`` in a session of its own, without a
terminal, with its output in a file of the run. It outlives the process that started it. Its consent
is that of the command line: settings that are not trusted, changed tools and the policy apply to
it, and a refusal is reported with its reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from fractale.audit import AuditLog
from fractale.errors import AnswerError, PlanError, RunHeld, StoreError, UsageError
from fractale.plain import to_json
from fractale.private import make_folder, new_folder, open_private
from fractale.questions import MISSING, asks_secret, identity, read_answer, without_secrets
from fractale.questions.answers import ANY_STEP, keys_of
from fractale.runs.mailbox import OWN, Asked, Mail, Mailbox, key_of
from fractale.settings.files import CONFIG_VARIABLE, trust_store
from fractale.settings.own_runs import is_agreed as is_agreed_run
from fractale.settings.own_runs import not_own
from fractale.store.locks import holder_of
from fractale.store.run_record import (
    ID_LENGTH,
    SHARED_ID_LENGTH,
    RunRecord,
    RunRecords,
    random_id,
)

if TYPE_CHECKING:
    from fractale.plan.model import Plan
    from fractale.runs.workspace import Extensions
    from fractale.settings import Settings

LOOK_SECONDS: Final = 0.05
BEGIN_SECONDS: Final = 15.0
"""Seconds to wait until a background process has taken up its run. It may open many servers."""
TAKE_SECONDS: Final = 10.0
"""Seconds to wait until the process of a run has taken an answer."""
LATE_SECONDS: Final = 1.5
"""Seconds after which an answer that was not taken may have been too late."""
BEGUN_SECONDS: Final = 1.0
"""The same for a process that was started to resume the run, once it has begun."""
CANCEL_SECONDS: Final = 120.0
LONGEST_REASON: Final = 4000
"""The most characters of a background process's output in an error."""
ERROR: Final = "error  "
"""How a process prints an error (`fractale.render.problems`); further lines are indented alike."""
MOST_ASKED_AGAIN: Final = 100
"""How often a step may ask the same so that a late answer still learns who answered."""
LONGEST_ANSWER: Final = 200
"""The most characters of an answer in an error."""
SHORT_KEY: Final = 8
"""The digits of a question's key that are enough to name it."""


class AlreadyAnswered(AnswerError):
    """Another answer to the question was first; the message says whose, where and when."""

    code = "already-answered"
    exit_code = 1


class NotStarted(UsageError):
    """A background process refused to work on a run, or could not; nothing was done.

    ``log`` is the file with its whole output. None if the process could not be started, or if it
    was to begin a new run: then the message has the end of its output.
    """

    code = "not-started"
    exit_code = 1
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
        turn: Whether the process asks its user now. False: after other questions, or without a
            process.
        given: Who answered it, where and when, if the run has not taken the answer yet.
        problem: Why it can be answered only at a terminal (it asks for a secret); empty otherwise.
    """

    key: str
    step: str
    question: Mapping[str, Any]
    held: bool
    asked_at: float | None = None
    turn: bool = False
    given: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundRun:
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
        question: The fields of the question.
        answer: As `fractale.questions.read_answer` reads it.
        taken: Whether the run has used it. Otherwise it does so when the question's turn comes.
        process: The process that asked, as text; empty if the run had none.
        started: The background process that resumes the run with it; None if none was started.
    """

    run: str
    key: str
    step: str
    question: Mapping[str, Any]
    answer: Any
    taken: bool
    process: str = ""
    started: BackgroundRun | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOutcome:
    """What ``fractale cancel`` did.

    Args:
        step: None for the whole run.
        jobs: The jobs that were in progress, as `fractale.runs.cancelling.JobSeen.as_dict`.
        stopped: Whether the run has no process any more.
        trouble: What could not be done, as text; empty if all was done.
    """

    run: str
    step: str | None
    jobs: Sequence[Mapping[str, Any]]
    stopped: bool
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Post:
    """A valid answer, before it is put into the mailbox."""

    open: OpenQuestion
    raw: Any
    answer: Any


class Actions:
    """Acts on the runs of one state directory.

    Args:
        settings: Name the state directory. Their environment is that of background processes.
        by: Where the user acts, as events and the audit log name it: ``fractale web``.
        patience: Seconds to wait until a background process has taken up its run. It then keeps
            opening its servers, and `BackgroundRun.begun` is False.
    """

    def __init__(self, settings: Settings, *, by: str, patience: float = BEGIN_SECONDS) -> None:
        self._settings = settings
        self._by = by
        self._patience = patience
        self._records = RunRecords(settings.state_dir)

    # -- questions and answers --------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def by(self) -> str:
        """Where the user acts."""
        return self._by

    def questions(self, run_id: str) -> list[OpenQuestion]:
        """The open questions of a run; ``-1`` is the latest. It reads the record only.

        Raises:
            UsageError: The run was not found.
            StoreError: Its record cannot be read.
        """
        return open_questions(self._records.find(run_id))

    async def answer(self, run_id: str, question: str, raw: Any) -> Delivered:
        """Answer one open question. The first valid answer counts.

        If a process of the run asks the question, it gets the answer. If the run has no process, it
        is resumed in the background.

        Args:
            question: The `key` of an `OpenQuestion` or its first `SHORT_KEY` digits, or the name of
                its step if the step asks one question only.
            raw: Text as it is typed, or data; see `fractale.questions.read_answer`.

        Raises:
            AlreadyAnswered: Another answer was first. If the run has no process and has not used
                that answer, and it is another one than this, the run is not resumed.
            AnswerError: The question does not accept the answer, or is not open, or several
                questions have that name. The question stays open.
            NotStarted: The run could not be resumed, or ended before it used the answer; the answer
                was dropped.
            SettingsError: Another user started the run.
        """
        return (await self.answer_all(run_id, {question: raw}))[0]

    async def answer_all(self, run_id: str, answers: Mapping[str, Any]) -> list[Delivered]:
        """Answer several questions of one run: none is answered if one answer is not valid.

        Args:
            answers: As `answer` expects them: question → raw answer.

        Raises:
            As `answer`.
        """
        record = self._own(run_id)
        asked = await self._asked(record)
        posts = [_post(record, asked, name, raw) for name, raw in answers.items()]
        mailbox, late = Mailbox(record), list[str]()
        put: list[_Post] = []
        for post in posts:
            mail = Mail(step=post.open.step, via=self._by, time=time.time(), answer=post.raw)
            first = mailbox.put(post.open.key, mail)
            if first and not first.has_answer and holder_of(record) is None:
                mailbox.remove(post.open.key)  # the answer was lost with the process that got it
                first = mailbox.put(post.open.key, mail)
            if first is None:
                put.append(post)
            else:
                late.append(f"`{post.open.step}` was answered before, {first.who}")
        if late and (not put or holder_of(record) is None):
            await asyncio.sleep(LATE_SECONDS)  # the run may be about to take the first answer
            if holder_of(record) is None:  # the first answer waits since a kill
                try:
                    _check_waiting(record, posts)
                except AlreadyAnswered:
                    for post in put:
                        mailbox.remove(post.open.key)
                    raise
                put = posts
        delivered = await self._deliver(record, mailbox, put)
        if late:
            raise AlreadyAnswered("; ".join(late))
        return delivered

    def check(self, run_id: str, answers: Mapping[str, Any]) -> list[tuple[str, OpenQuestion]]:
        """Check answers without giving them; returns each name with its question.

        Raises:
            AlreadyAnswered, AnswerError: As `answer`.
        """
        record = self._records.find(run_id)
        asked = open_questions(record)
        posts = {name: _post(record, asked, name, raw) for name, raw in answers.items()}
        if holder_of(record) is None:
            _check_waiting(record, [*posts.values()])
        return [(name, post.open) for name, post in posts.items()]

    async def _asked(self, record: RunRecord) -> list[OpenQuestion]:
        """The open questions, once a process that is about to ask or to end has done so."""
        until = time.monotonic() + LATE_SECONDS
        while not (asked := open_questions(record)):
            if holder_of(record) is None or time.monotonic() > until:
                break
            await asyncio.sleep(LOOK_SECONDS)
        return asked

    async def _deliver(
        self, record: RunRecord, mailbox: Mailbox, posts: Sequence[_Post]
    ) -> list[Delivered]:
        """Wait until the run has the answers; resume it if it has no process."""
        started: BackgroundRun | None = None
        keys, began = {post.open.key for post in posts}, time.monotonic()
        process = str(holder_of(record) or "")
        check, until = 0.0, TAKE_SECONDS
        while left := mailbox.arrived() & keys:
            waited = time.monotonic() - began
            if waited >= check:
                await self._refuse_late(record, mailbox, [p for p in posts if p.open.key in left])
                check = waited + LATE_SECONDS
            holder = holder_of(record)
            if holder is None:
                patient = waited < until
                started = await self._resume_for(record, mailbox, keys, started, patient=patient)
                if started is not None:
                    if not started.begun:
                        break  # it takes the answer once its servers are open
                    until = time.monotonic() - began + BEGUN_SECONDS
            later = all(p.open.held and not p.open.turn for p in posts if p.open.key in left)
            if holder is not None and (waited > until or (later and waited > LOOK_SECONDS)):
                break
            await asyncio.sleep(LOOK_SECONDS)
        left = mailbox.arrived() & keys
        self._check_used(record, [post for post in posts if post.open.key not in left])
        return [
            Delivered(
                run=record.run_id,
                key=post.open.key,
                step=post.open.step,
                question=post.open.question,
                answer=post.answer,
                taken=post.open.key not in left,
                process=process,
                started=started,
            )
            for post in posts
        ]

    async def _resume_for(
        self,
        record: RunRecord,
        mailbox: Mailbox,
        keys: set[str],
        started: BackgroundRun | None,
        *,
        patient: bool,
    ) -> BackgroundRun | None:
        """Resume a run without a process, once, if answers to some questions wait for it.

        Args:
            started: The process that was started before.
            patient: Whether to wait for another process that resumes it.

        Returns:
            The process; None if another one resumes the run.

        Raises:
            RunHeld: Another one does, although it was waited for.
            NotStarted: The process ended without using the answers; they were dropped.
        """
        if not mailbox.arrived() & keys:
            return started
        try:
            if started is not None:
                raise _ended_early(record)
            return await self._resume(record)
        except RunHeld:
            if patient:
                return None
            raise
        except NotStarted as error:
            for key in mailbox.arrived() & keys:
                mailbox.remove(key)
            error.message = f"the answer was dropped: {error.message}"
            raise

    async def _refuse_late(
        self, record: RunRecord, mailbox: Mailbox, posts: Sequence[_Post]
    ) -> None:
        """Take back answers to questions that were answered while these were written.

        Raises:
            AlreadyAnswered: There is one.
        """
        known = _answered(record, posts)
        if not known:
            return
        await asyncio.sleep(LATE_SECONDS / 5)  # the run may have taken it, and removes it now
        late = [post for post in posts if post.open.key in mailbox.arrived() & known.keys()]
        for post in late:
            mailbox.remove(post.open.key)
        if late:
            raise AlreadyAnswered("; ".join(_before(p, known[p.open.key]) for p in late))

    def _check_used(self, record: RunRecord, posts: Sequence[_Post]) -> None:
        """Check that the run used the answers that left the mailbox.

        Raises:
            AlreadyAnswered: It used another one.
            AnswerError: It used none, since it does not ask the question any more.
        """
        known = _answered(record, posts)
        for post in posts:
            event = known.get(post.open.key)
            if event is None:
                raise AnswerError(
                    f"the answer to `{post.open.step}` was not used",
                    hint=f"see the warnings of `fractale show {record.run_id}`",
                )
            if event.get("via") != self._by:
                raise AlreadyAnswered(_before(post, event))

    # -- runs --------------------------------------------------------------------------------------

    async def cancel(self, run_id: str, step: str | None = None) -> CancelOutcome:
        """End the jobs of a run and stop it, or end the jobs of one step. It does not ask.

        Raises:
            UsageError: The run was not found.
            NotStarted: It was refused, such as for a step without jobs.
            SettingsError: Another user started the run.
        """
        record = self._own(run_id)
        self._record("cancel", record.run_id, **({"step": step} if step else {}))
        words = ["cancel", record.run_id, *([step] if step else []), "--yes", "--json"]
        process = await asyncio.create_subprocess_exec(
            *program_of(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(),
            start_new_session=True,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), CANCEL_SECONDS)
        except TimeoutError:
            raise NotStarted(
                f"`fractale cancel {record.run_id}` has not ended in {CANCEL_SECONDS:.0f} s",
                hint=f"see `fractale show {record.run_id}`; it may still end",
            ) from None
        message, hint = last_error(err.decode(errors="replace"))
        try:
            data: dict[str, Any] = json.loads(out)
        except ValueError:
            raise NotStarted(message or "nothing was cancelled", hint=hint) from None
        text = "; ".join(filter(None, [message, *(hint or "").split("\n")]))
        jobs: list[dict[str, Any]] = data.get("jobs") or []
        failed = [str(job["trouble"]) for job in jobs if job.get("trouble")]
        trouble = "; ".join([*failed, *([text] if text and process.returncode else [])])
        return CancelOutcome(
            run=record.run_id,
            step=step,
            jobs=jobs,
            stopped=bool(data.get("stopped")),
            trouble=trouble,
        )

    async def resume(self, run_id: str) -> BackgroundRun:
        """Resume a run in the background.

        Raises:
            UsageError: The run was not found, or has ended.
            RunHeld: A process has the run.
            NotStarted: The process refused, or could not be started.
            SettingsError: Another user started the run.
        """
        record = self._own(run_id)
        last = next(record.events_from_end(("run_started", "run_finished")), None)
        if last is not None and last.get("status") in ("success", "failed"):
            raise UsageError(
                f"run {record.run_id} has already ended: {last['status']}",
                hint=f"start a new run from one of its steps: `fractale fork {record.run_id} …`",
            )
        return await self._resume(record)

    async def _resume(self, record: RunRecord) -> BackgroundRun:
        if holder := holder_of(record):
            raise RunHeld(f"run {record.run_id} is held by {holder}")
        self._record("resume", record.run_id)
        return await self._spawn(record, ["resume", record.run_id, "--quiet"])

    async def fork(
        self, run_id: str, at: str, inputs: Mapping[str, Any] | None = None
    ) -> BackgroundRun:
        """Start a new run from the state of another one before a step, in the background.

        Args:
            at: The step's name or path, or ``STEP#2`` for its second attempt.
            inputs: Those that change, as texts or values.

        Raises:
            UsageError: The run was not found, or its plan has changed since it was started and the
                user has not agreed to the changed plan.
            PlanError: Its plan cannot be read.
            InputError: An input does not fit the plan.
            NotStarted: The process refused, or could not be started.
            SettingsError: Another user started the run.
        """
        from fractale.plan.inputs import bind_inputs
        from fractale.record.history import input_values
        from fractale.record.history_reader import read_history
        from fractale.record.plans import plan_hash
        from fractale.runs.changes import plan_today

        record = self._own(run_id)
        head = record.read_head()
        plan = plan_today(record, head)
        if plan_hash(plan) != head.get("plan_hash"):  # the user agreed to the plan that ran
            self._check_agreed(plan, record, at, inputs or {})
        kept = input_values(read_history(record))
        known = {name: value for name, value in kept.items() if name in plan.inputs}
        given = {**known, **(inputs or {})}
        hidden = [name for name, spec in plan.inputs.items() if spec.secret]
        bind_inputs(plan, given, dict.fromkeys(hidden, "?"))
        new = self._new_record()
        self._record("fork", new.run_id, parent=record.run_id, at=at)
        words = ["fork", record.run_id, "--at", at, "--run-id", new.run_id, "--quiet"]
        words += ["--plan-hash", plan_hash(plan)]
        return await self._begin(new, words, inputs)

    def _check_agreed(
        self, plan: Plan, record: RunRecord, at: str, inputs: Mapping[str, Any]
    ) -> None:
        """Check that the user has agreed to a plan that has changed since a run of it.

        ``fractale fork`` shows the plan and asks on a terminal; a background process cannot.

        Raises:
            UsageError: The user has not.
        """
        from fractale.runs.agreement import is_agreed, plan_digest
        from fractale.runs.result import fork_command

        environment = self._environment()
        if environment.get(CONFIG_VARIABLE) == "1":
            return
        if is_agreed(plan, trust_store(environment), plan_digest(plan)):
            return
        pairs = [f"inputs.{name}={_typed(value)}" for name, value in inputs.items()]
        sets = "".join(f" --set {shlex.quote(pair)}" for pair in pairs)
        raise UsageError(
            f"the plan {plan.file} has changed since run {record.run_id} was started, and you have "
            "not agreed to what it does now; nothing was started",
            hint=f"see it and agree at a terminal: {fork_command(record.run_id, at)}{sets}",
        )

    async def start(
        self,
        plan: str | Path,
        inputs: Mapping[str, Any] | None = None,
        flags: RunFlags | None = None,
        *,
        shown: str | None = None,
    ) -> BackgroundRun:
        """Run a plan in the background.

        Args:
            plan: The plan's file.
            inputs: Texts or values, without secret ones.
            shown: The `fractale.record.plans.plan_hash` of the plan that the user was shown.

        Raises:
            UsageError: The plan has changed since it was shown.
            PlanError: The plan is invalid.
            InputError: An input is missing or wrong.
            NotStarted: The process refused, or could not be started.
        """
        from fractale.plan.inputs import bind_inputs, read_secrets
        from fractale.record.plans import plan_hash
        from fractale.runs.changes import check_shown

        flags = flags or RunFlags()
        loaded = _checked_plan(plan)
        check_shown(loaded, shown)
        secrets = read_secrets(loaded, self._environment(flags.secrets))
        bind_inputs(loaded, inputs or {}, secrets)
        new = self._new_record()
        self._record("run", new.run_id, plan=loaded.name, file=str(loaded.file))
        words = ["run", str(plan), "--run-id", new.run_id, "--quiet", *_options(flags)]
        words += ["--plan-hash", plan_hash(loaded)]
        return await self._begin(new, words, inputs, flags.secrets)

    async def dry_run(
        self,
        plan: str | Path,
        inputs: Mapping[str, Any] | None = None,
        flags: RunFlags | None = None,
    ) -> dict[str, Any]:
        """The effects of a run of the plan: the data of ``fractale run --dry-run --json``.

        Nothing is started, and no connection is opened. Modules of registries are not imported.

        Raises:
            PlanError: The plan is invalid.
            InputError: An input is missing or wrong.
        """
        from fractale.plan.inputs import read_secrets
        from fractale.runs.dry_run import describe, shown_inputs

        flags = flags or RunFlags()
        loaded = _checked_plan(plan)
        settings = self._settings.with_flags(provider=flags.backend, model=flags.model)
        secrets = read_secrets(loaded, self._environment(flags.secrets))
        found = describe(loaded, shown_inputs(loaded, inputs or {}), settings, _extensions(flags))
        missing = [n for n, spec in loaded.inputs.items() if spec.secret and n not in secrets]
        return {**found, "missing_secrets": missing}

    # -- background processes ---------------------------------------------------------------------

    def _own(self, run_id: str) -> RunRecord:
        """The record of a run that the user may act on.

        Raises:
            UsageError: The run was not found.
            SettingsError: Another user started it.
        """
        record = self._records.find(run_id)
        environment = self._environment()
        if not is_agreed_run(record.path, record.read_head(), environment):
            raise not_own(record.run_id, environment)
        return record

    def _new_record(self) -> RunRecord:
        """A new directory for a run that a background process will begin.

        Raises:
            StoreError: It cannot be made.
        """
        while True:
            new = self._records.at(
                random_id(SHARED_ID_LENGTH if self._settings.store else ID_LENGTH)
            )
            try:
                make_folder(new.path.parent)
                new_folder(new.path)
            except FileExistsError:
                continue
            except OSError as error:
                raise StoreError(f"cannot make {new.path}: {error}") from error
            return new

    async def _begin(
        self,
        new: RunRecord,
        words: Sequence[str],
        inputs: Mapping[str, Any] | None,
        secrets: Mapping[str, str] | None = None,
    ) -> BackgroundRun:
        """Start a process that begins a run; it gets its inputs as an open file without a name."""
        try:
            if not inputs:
                return await self._spawn(new, words, secrets)
            with tempfile.TemporaryFile() as file:
                file.write(to_json(dict(inputs)).encode())
                file.seek(0)
                return await self._spawn(new, words, secrets, file)
        except NotStarted as error:
            new.remove()
            error.log = None
            raise

    async def _spawn(
        self,
        record: RunRecord,
        words: Sequence[str],
        secrets: Mapping[str, str] | None = None,
        inputs: IO[bytes] | None = None,
    ) -> BackgroundRun:
        """Start a background process, and wait until it has taken up its run.

        Args:
            inputs: An open file with its inputs, as JSON.

        Raises:
            RunHeld: Another process took up the run first.
            NotStarted: The process ended before that, or could not be started.
        """
        events, written = _size(record.events), _size(record.output)
        process = self._popen(record, words, secrets, inputs)
        until = time.monotonic() + self._patience
        while _size(record.events) == events and time.monotonic() < until:
            if process.poll() is not None:
                if _size(record.events) != events:
                    break
                if holder := holder_of(record):
                    raise RunHeld(f"run {record.run_id} is held by {holder}")
                raise _not_started(record, written)
            await asyncio.sleep(LOOK_SECONDS)
        return BackgroundRun(
            run=record.run_id,
            pid=process.pid,
            log=record.output,
            begun=_size(record.events) != events,
        )

    def _popen(
        self,
        record: RunRecord,
        words: Sequence[str],
        secrets: Mapping[str, str] | None,
        inputs: IO[bytes] | None,
    ) -> subprocess.Popen[bytes]:
        passed = [inputs.fileno()] if inputs else []
        given = [word for number in passed for word in ("--inputs", f"/dev/fd/{number}")]
        try:
            output = open_private(record.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                process = subprocess.Popen(  # noqa: S603 - fractale itself
                    program_of([*words, *given]),
                    stdin=subprocess.DEVNULL,
                    pass_fds=passed,
                    stdout=output,
                    stderr=output,
                    env=self._environment(secrets),
                    start_new_session=True,
                )
            finally:
                os.close(output)
        except OSError as error:
            raise NotStarted(f"no process can be started: {error}") from error
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie is left
        return process

    def _environment(self, secrets: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of background processes: with the same settings as this one's."""
        from fractale.plan.inputs import secret_variable

        known = child_environment(self._settings)
        given = {secret_variable(name): value for name, value in (secrets or {}).items()}
        return known | given

    def _record(self, action: str, run: str, **details: Any) -> None:
        """Write into the audit log what the user does, and where."""
        log = AuditLog.of(self._settings)
        log.record("act", run=run, action=action, via=self._by, **details)


# -- open questions --------------------------------------------------------------------------------


def open_questions(record: RunRecord) -> list[OpenQuestion]:
    """The open questions of a run, in the order in which they are asked.

    Raises:
        StoreError: The record cannot be read.
    """
    mailbox, holder = Mailbox(record), holder_of(record)
    if holder is not None:
        asked = mailbox.asking(holder)
        given = mailbox.arrived()
        now = next((key for key in asked if key not in given), "")  # the terminal asks in order
        return [
            _open(mailbox, key, one, held=True, turn=key == now or not one.question.get("id"))
            for key, one in asked.items()
        ]
    last = next(record.events_from_end(("run_started", "run_finished")), None)
    if last is None or last.get("status", "waiting") != "waiting":
        return []
    try:
        return _left_open(record, mailbox)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # A damaged line can be valid JSON that is not an event.
        raise StoreError(
            f"the record of run {record.run_id} is damaged: {type(error).__name__}: {error}"
        ) from error


def _left_open(record: RunRecord, mailbox: Mailbox) -> list[OpenQuestion]:
    """The open questions of a run without a process."""
    from fractale.record.history_reader import read_history

    history = read_history(record)
    answered = Counter(identity(one.question) for one in history.questions if one.answered)
    waiting = [(one.question, one.asked_at or 0.0) for one in history.open_questions]
    if history.status == "stopped" and (last := mailbox.asked_last()):
        # A process asks one after the other; it published all that were open.
        kept = [one for one in last.values() if one.question.get("kind") != "failure"]
        waiting = [(one.question, one.at) for one in kept]
    found: dict[str, OpenQuestion] = {}
    for question, since in waiting:
        key = key_of(question, answered[identity(question)])
        asked = Asked(dict(question), since)
        found.setdefault(key, _open(mailbox, key, asked, held=False))
    return list(found.values())


def short_name(question: OpenQuestion, asked: Sequence[OpenQuestion]) -> str:
    """The name to answer a question by: its step if that asks nothing else, or its short key."""
    names = keys_of(question.question)
    others = [each for each in asked if each.key != question.key]
    alone = not any(question.step in keys_of(each.question) for each in others)
    return question.step if alone and question.step in names else question.key[:SHORT_KEY]


def _open(
    mailbox: Mailbox, key: str, one: Asked, *, held: bool, turn: bool = False
) -> OpenQuestion:
    question = one.question
    mail = mailbox.read(key)
    return OpenQuestion(
        key=key,
        step=str(question.get("step") or ""),
        question=question,
        held=held,
        asked_at=one.at or None,
        turn=turn,
        given=mail.who if mail else "",
        problem="it asks for a secret, which is only typed at a terminal"
        if asks_secret(question)
        else "",
    )


def check_waiting(record: RunRecord, answers: Mapping[str, Any]) -> None:
    """Check that answers to a run without a process do not contradict answers in its mailbox.

    Args:
        answers: Question → raw answer, as `Actions.answer_all` expects them; other names are
            ignored.

    Raises:
        AlreadyAnswered: One of them does.
    """
    if holder_of(record) is not None:
        return
    asked = [one for one in open_questions(record) if one.given]
    for name, raw in answers.items() if asked else ():
        try:
            post = _post(record, asked, name, raw)
        except AnswerError:
            continue  # the run reports it
        _check_waiting(record, [post])


def _check_waiting(record: RunRecord, posts: Sequence[_Post]) -> None:
    """Check that no other answer to the same questions waits for the run.

    Raises:
        AlreadyAnswered: There is one; the error says how to continue with it.
    """
    mailbox = Mailbox(record)
    for post in posts:
        mail = mailbox.read(post.open.key)
        if mail is None or not mail.has_answer:
            continue
        question = post.open.question
        try:
            first: Any = read_answer(question, mail.answer)
        except AnswerError:
            first = mail.answer
        if first == post.answer:
            continue
        said = to_json(without_secrets(question, first), compact=True)
        file = shlex.quote(str(record.answers / f"{post.open.key}.json"))
        raise AlreadyAnswered(
            f"`{post.open.step}` was answered before, {mail.who}: {said[:LONGEST_ANSWER]}; run "
            f"{record.run_id} has not used that answer yet, and nothing was started",
            hint=f"continue with that answer: fractale resume {record.run_id}\n"
            f"or take it back first: rm {file}",
        )


def _post(record: RunRecord, asked: Sequence[OpenQuestion], name: str, raw: Any) -> _Post:
    """The answer to the question of that name, if it is valid.

    Raises:
        AnswerError: It is not, or the name fits no question or several.
    """
    found = [each for each in asked if name in (each.key, each.key[:SHORT_KEY])]
    if not found:
        found = [each for each in asked if name in keys_of(each.question) and name != ANY_STEP]
    if not found:
        raise _not_open(record, asked, name)
    if len(found) > 1:
        keys = ", ".join(f"{each.key[:SHORT_KEY]} ({each.step})" for each in found)
        raise AnswerError(
            f"`{name}` asks {len(found)} questions: {keys}",
            hint=f"see them with `fractale answer {record.run_id}`, and answer each by its key",
        )
    question = found[0]
    answer = read_answer(question.question, raw)
    if answer is MISSING:
        raise AnswerError(f"the answer to `{name}` is missing")
    if question.problem and answer.get("action") == "accept":
        where = str(holder_of(record) or "")
        raise AnswerError(
            f"`{question.step}` asks for a secret, which is not taken from another process",
            hint=f"type it at the terminal of {where}; it is not stored there"
            if where
            else f"run `fractale resume {record.run_id}` at a terminal and type it there; "
            "`decline` and `cancel` are accepted here",
        )
    return _Post(open=question, raw=raw, answer=answer)


def _not_open(record: RunRecord, asked: Sequence[OpenQuestion], name: str) -> AnswerError:
    """The error for a name that fits no open question; it says who answered if that is known."""
    last = next(
        (
            event
            for event in record.events_from_end(("answered",))
            if name in keys_of(event["question"]) or _is_key_of(event["question"], name)
        ),
        None,
    )
    open_now = ", ".join(dict.fromkeys(each.step for each in asked))
    if last is not None:
        return AlreadyAnswered(
            f"`{last['question'].get('step')}` was answered before, {who_answered(last)}",
            hint=f"open questions: {open_now or 'none'}",
        )
    holder = holder_of(record)
    busy = f"; {holder} is running it and asks nothing now" if holder and not asked else ""
    return AnswerError(
        f"run {record.run_id} has no open question `{name}`{busy}",
        hint=f"open questions: {open_now or 'none'}",
    )


def _is_key_of(question: Mapping[str, Any], name: str) -> bool:
    """Whether a name is the key of an answered question; the first digits are enough."""
    keys = (key_of(question, number) for number in range(MOST_ASKED_AGAIN))
    return len(name) >= SHORT_KEY and any(key.startswith(name) for key in keys)


def who_answered(event: Mapping[str, Any]) -> str:
    """Who gave an answer where and when, from the event `answered`."""
    ways = {"yes": "by --yes", "answers": "by an answer given beforehand"}
    by = ways.get(str(event.get("by")), "by the default, after its time")
    if event.get("by") == "person":
        via = str(event.get("via") or OWN)
        mail = Mail(step="", via=via, user=str(event.get("user") or ""), time=float(event["time"]))
        return mail.who
    return f"{by} at {time.strftime('%H:%M:%S', time.localtime(float(event['time'])))}"


def _answered(record: RunRecord, posts: Sequence[_Post]) -> dict[str, dict[str, Any]]:
    """The events of the answers that the run used for some questions, by the questions' keys."""
    names = {identity(post.open.question) for post in posts}
    counts = Counter[str]()
    found: dict[str, dict[str, Any]] = {}
    for event in record.read_events() if names else ():
        if event["event"] == "answered" and (name := identity(event["question"])) in names:
            found[key_of(event["question"], counts[name])] = event
            counts[name] += 1
    return {post.open.key: event for post in posts if (event := found.get(post.open.key))}


def _before(post: _Post, event: Mapping[str, Any]) -> str:
    return f"`{post.open.step}` was answered before, {who_answered(event)}"


# -- plans and processes ---------------------------------------------------------------------------


def _checked_plan(path: str | Path) -> Plan:
    from fractale.plan.build import load_plan
    from fractale.plan.check import check_plan

    plan = load_plan(path)
    if errors := [each for each in check_plan(plan) if each.severity == "error"]:
        raise PlanError(errors)
    return plan


def _extensions(flags: RunFlags) -> Extensions:
    from fractale.runs.workspace import Extensions

    return Extensions(registries=list(flags.registries), agents=list(flags.agents))


def _options(flags: RunFlags) -> list[str]:
    """The options of the command line for some flags."""
    pairs = [
        *(("-r", str(path)) for path in flags.registries),
        *(("-a", agent) for agent in flags.agents),
        *((("--model", flags.model),) if flags.model else ()),
        *((("--backend", flags.backend),) if flags.backend else ()),
        *(("--limit", f"{name}={value}") for name, value in flags.limits.items()),
    ]
    return [*(word for pair in pairs for word in pair), *(["--detach"] if flags.detach else [])]


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a background process that has the same settings as this one."""
    known = dict(settings.environment or os.environ)
    known["FRACTALE_STATE_DIR"] = str(settings.state_dir.absolute())
    if decided := os.environ.get(CONFIG_VARIABLE):  # also by --trust-project of this process
        known[CONFIG_VARIABLE] = decided
    return known


def program_of(words: Sequence[str]) -> list[str]:
    """The command that calls fractale in another process."""
    # -P: a file of the working directory must not be imported in place of a module.
    return [sys.executable, "-P", "-m", "fractale.cli", *words]


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, compact=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _not_started(record: RunRecord, written: int) -> NotStarted:
    """The error of a background process that ended before it took up its run.

    Args:
        written: The size of the file with its output when it was started, in bytes.
    """
    try:
        with record.output.open("rb") as file:
            file.seek(written)
            message, hint = last_error(file.read().decode(errors="replace"))
    except OSError as error:
        message, hint = str(error), None
    error = NotStarted(message or "the process ended without a word", hint=hint)
    error.log = record.output
    return error


def last_error(output: str) -> tuple[str, str | None]:
    """The last error that a process of fractale printed: its first line, and the lines below it.

    All of the output, without a hint, if the process printed no error in that form.
    """
    text = output.strip()[-LONGEST_REASON:]
    start = f"\n{text}".rfind(f"\n{ERROR}")
    if start < 0:
        return text, None
    message, *below = text[start + len(ERROR) :].split("\n")
    return message, "\n".join(line.removeprefix(" " * len(ERROR)) for line in below) or None


def _ended_early(record: RunRecord) -> NotStarted:
    """The error of a background process that ended without using the answer to a question."""
    error = NotStarted(
        f"run {record.run_id} was resumed and ended before it used it",
        hint=f"see `fractale show {record.run_id}`",
    )
    error.log = record.output
    return error
