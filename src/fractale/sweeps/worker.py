"""A process that performs one run of a sweep after another, and stays warm between them.

It is started as ``python -P -m fractale.sweeps.worker``. It reads a `RunTask` per line from stdin,
as JSON, and writes a line per task to stdout:

    {"hello": 1, "pid": 4711}                        once, when it is ready
    {"report": {…}}                                  a `RunReport`
    {"lost": "…", "cannot_start": false}             see `executors.WorkerLost`

Output of tools goes to stderr, which the driver keeps. What Python code prints has no known secrets
there; programs that tools start, and compiled code, write to it directly. At the end of stdin, and
at SIGTERM, the present run stops at the next boundary of a step, and the process ends.

`Worker` is what the process has; a worker of another executor uses it, too. Settings are read once,
and a plan once. The workspace stays open between runs of the same plan with the same options: its
servers keep running, as they do between the steps of one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import stat
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Final, Self, cast

from langgraph.runtime import RunControl

from fractale.errors import (
    AnswerError,
    FractaleError,
    InputError,
    RunHeld,
    StoreError,
)
from fractale.masking import Masker
from fractale.plain import to_json
from fractale.plan.build import load_plan
from fractale.plan.given import limits_of
from fractale.plan.inputs import read_secrets
from fractale.plan.model import Plan
from fractale.private import fault_of
from fractale.questions import Answers
from fractale.record.plans import plan_hash
from fractale.runs.changes import unchanged_plan
from fractale.runs.options import RunOptions
from fractale.runs.result import RunResult
from fractale.runs.workspace import Workspace, as_started
from fractale.settings import Settings, load_settings
from fractale.settings.own_runs import is_agreed
from fractale.store.outputs import FileOutputs, resolved
from fractale.store.run_record import RunRecord, RunRecords
from fractale.sweeps.budget import used_by
from fractale.sweeps.executors import WorkerLost
from fractale.sweeps.record import SweepRecords, row_lock
from fractale.sweeps.task import RunReport, RunTask

LONGEST_TEXT: Final = 1000
"""The most characters of a text in the outputs of a report."""

LONGEST_OUTPUT: Final = 4000
"""The most characters of one output of a report, as JSON. A longer one is cut, as text."""

ENDS: Final = ("success", "failed")

LEAVING: Final = "its worker ends"
"""Why a run stops whose worker was asked to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """A workspace that is open, and what the runs in it share."""

    key: str
    plan: Plan
    settings: Settings
    workspace: Workspace
    masker: Masker
    secrets: Mapping[str, str]
    stack: AsyncExitStack


class Worker:
    """Performs tasks, one at a time, in an ``async with`` block.

    Args:
        environment: Used instead of the process's own.
        printed: Masks what the process prints: it gets to know the secrets of the runs.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, printed: Masker | None = None
    ) -> None:
        self._printed = Masker() if printed is None else printed  # an empty one is false
        self._environment = dict(os.environ if environment is None else environment)
        self._settings: dict[tuple[str, str], Settings] = {}
        self._plans: dict[tuple[str, str], Plan] = {}
        self._open: _Open | None = None
        self._control: RunControl | None = None
        self._stopping = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    def stop(self, reason: str = LEAVING) -> None:
        """Let the present run stop at its next boundary; later tasks are not begun."""
        self._stopping = reason
        if self._control is not None:
            self._control.request_drain(reason)

    async def perform(self, task: RunTask) -> RunReport:
        """Perform a task: resume the run if its record exists, or start it.

        Raises:
            WorkerLost: The run's record cannot be read or written now, or this worker ends; the run
                is to be resumed elsewhere. Or no run of this plan can be started here.
        """
        if self._stopping:
            raise WorkerLost(self._stopping)
        record = RunRecords(Path(task.state_dir)).at(task.run)
        if fault := _not_own(record.path):
            words = f"the directory of run {task.run} is not used: {fault}"
            return RunReport(run=task.run, status="failed", error=words)
        sweep = SweepRecords(Path(task.state_dir)).at(task.sweep)
        try:
            with row_lock(sweep, task.row):
                if record.head.exists():
                    return await self._continue(task, record)
                return await self._start(task, record)
        except RunHeld:
            return RunReport(run=task.run, status="running", held=True)
        except StoreError as error:
            raise WorkerLost(_words(error)) from error

    async def _start(self, task: RunTask, record: RunRecord) -> RunReport:
        plan = self._plan(task)
        if plan is None:
            words = f"the plan {task.plan} has changed since the sweep was started"
            return RunReport(run=task.run, status="failed", error=words)
        opened = await self._opened(task, plan)
        options = self._options(task, opened)
        head = {"sweep": {"id": task.sweep, "row": task.row, "attempt": task.attempt}}
        try:
            result = await opened.workspace.runs.start(
                plan, task.inputs, options, secrets=opened.secrets, head=head
            )
        except (StoreError, RunHeld):
            raise
        except InputError as error:
            return RunReport(run=task.run, status="failed", error=_words(error))
        except AnswerError as error:
            return _stopped(task, record, error)
        except FractaleError as error:
            raise WorkerLost(_words(error), cannot_start=True) from error
        finally:
            self._control = None
        return report_of(result, record, options.control)

    async def _continue(self, task: RunTask, record: RunRecord) -> RunReport:
        """Report the end of a run that has ended, or resume it."""
        head = record.read_head()
        if not _is_of(head, task) or not is_agreed(record.path, head, self._environment):
            words = f"run {task.run} exists, and is not a run of this row"
            return RunReport(run=task.run, status="failed", error=words)
        if (ended := ended_report(record)) is not None:
            return ended
        try:
            plan = self._plan(task) or unchanged_plan(record, head)
            opened = await self._opened(task, plan)
            options = self._options(task, opened)
            result = await opened.workspace.runs.resume(
                task.run, options, plan=plan, secrets=opened.secrets
            )
        except (StoreError, RunHeld):
            raise
        except FractaleError as error:  # such as a tool that has changed: nothing was done
            return _stopped(task, record, error)
        finally:
            self._control = None
        return report_of(result, record, options.control)

    def _options(self, task: RunTask, opened: _Open) -> RunOptions:
        given = task.options
        self._control = RunControl()
        return RunOptions(
            answers=Answers(given.get("answers")),
            replies=Answers(task.replies),
            yes=bool(given.get("yes")),
            trusted=bool(given.get("trusted")),
            limits=limits_of(task.limits),
            reuse=given.get("reuse"),
            control=self._control,
            run_id=task.run,
            masker=opened.masker,
            notifications=None,
        )

    # -- what stays warm --------------------------------------------------------------------------

    def _plan(self, task: RunTask) -> Plan | None:
        """The plan of a task; None if its file has changed since the sweep was started."""
        key = (task.plan, task.plan_hash)
        if key not in self._plans:
            try:
                plan = load_plan(Path(task.plan))
            except FractaleError as error:
                raise WorkerLost(_words(error), cannot_start=True) from error
            if plan_hash(plan) != task.plan_hash:
                return None
            self._plans[key] = plan
        return self._plans[key]

    async def _opened(self, task: RunTask, plan: Plan) -> _Open:
        """The workspace of a task: the open one, if it is of the same plan and options."""
        key = to_json([task.plan, task.plan_hash, task.directory, task.state_dir, task.options])
        if self._open is not None and self._open.key == key:
            return self._open
        await self._close()
        stack = AsyncExitStack()
        try:
            settings, masker = self._settings_of(task), Masker()
            settings, extensions = as_started(settings, task.options)
            secrets = read_secrets(plan, settings.environment)
            self._printed.add(*filter(None, settings.secrets), *secrets.values())
            workspace = await stack.enter_async_context(
                Workspace.open(
                    settings,
                    plan,
                    extensions,
                    yes=bool(task.options.get("yes")),
                    masker=masker,
                )
            )
        except StoreError:
            raise
        except FractaleError as error:
            raise WorkerLost(_words(error), cannot_start=True) from error
        self._open = _Open(
            key=key,
            plan=plan,
            settings=settings,
            workspace=workspace,
            masker=masker,
            secrets=secrets,
            stack=stack,
        )
        return self._open

    def _settings_of(self, task: RunTask) -> Settings:
        """The settings of a task's directory, which becomes the working directory."""
        os.chdir(task.directory)
        key = (task.directory, task.state_dir)
        if key not in self._settings:
            environment = {**self._environment, "FRACTALE_STATE_DIR": task.state_dir}
            self._settings[key] = load_settings(environment)
        options = task.options
        flags = {name: options.get(name) for name in ("provider", "max_attempts")}
        return self._settings[key].with_flags(**{k: v for k, v in flags.items() if v is not None})

    async def _close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            await opened.stack.aclose()


def _not_own(directory: Path) -> str | None:
    """Why an existing directory of a run is not the user's own; None if it is, or is missing."""
    try:
        found = directory.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return "it is a link or a file"
    return fault_of(found)


def _is_of(head: Mapping[str, Any], task: RunTask) -> bool:
    """Whether a run was started for a task."""
    mark = head.get("sweep")
    if not isinstance(mark, Mapping):
        return False
    mine = {"id": task.sweep, "row": task.row, "attempt": task.attempt}
    return dict(cast("Mapping[str, Any]", mark)) == mine


def _words(error: FractaleError) -> str:
    return f"{error}" if not error.hint else f"{error}; {error.hint}"


# -- reports --------------------------------------------------------------------------------------


def report_of(result: RunResult, record: RunRecord, control: RunControl | None = None) -> RunReport:
    """The report of a task whose run has this result.

    Args:
        record: Of the run: says what it used over all its processes.
        control: Of the run: says why it was asked to stop.

    Raises:
        StoreError: The record cannot be read.
    """
    asked = control.drain_reason if control is not None and control.drain_requested else None
    decided = result.decided or {}
    failed = result.status == "failed"
    return RunReport(
        run=result.run,
        status=result.status,
        outputs={name: _cut(value) for name, value in result.outputs.items()},
        waiting=tuple(result.waiting) if result.status == "waiting" else (),
        used=_used(record),
        error=result.error,
        failed_at=str(decided.get("gave_up") or decided.get("step") or "") if failed else "",
        seconds=float(result.usage.get("elapsed") or result.usage.get("seconds") or 0.0),
        again=result.status == "stopped" and asked in (None, LEAVING),
    )


def _used(record: RunRecord) -> dict[str, float]:
    return {name: amount for name, amount in used_by(record).items() if amount}


def _stopped(task: RunTask, record: RunRecord, error: FractaleError) -> RunReport:
    """The report of a run that an error outside of it stopped: what it used before counts."""
    return RunReport(run=task.run, status="stopped", used=_used(record), error=_words(error))


def ended_report(record: RunRecord) -> RunReport | None:
    """The report of a run that has ended, from its record; None if the run is not over.

    Raises:
        StoreError: The record cannot be read.
    """
    last = next(record.events_from_end(("run_started", "run_finished")), None)
    if last is None or last["event"] != "run_finished" or last.get("status") not in ENDS:
        return None
    outputs: Any = resolved(last.get("outputs") or {}, FileOutputs(record.outputs))
    return report_of(
        RunResult(
            run=record.run_id,
            status=last["status"],
            outputs=outputs,
            error=last.get("error"),
            decided=last.get("decided"),
            usage=last.get("usage") or {},
        ),
        record,
    )


def _cut(value: Any) -> Any:
    """An output that is not too long for a ledger; the run's record has the whole."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}…"
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    text = to_json(value, compact=True)
    return value if len(text) <= LONGEST_OUTPUT else f"{text[:LONGEST_TEXT]}…"


# -- the process ----------------------------------------------------------------------------------


class MaskedText(io.TextIOWrapper):
    """A text stream that writes no known secrets.

    Args:
        buffer: Where it writes.
        masker: Knows the secrets; it may get to know more of them later.
    """

    def __init__(self, buffer: BinaryIO, masker: Masker) -> None:
        super().__init__(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._masker = masker

    def write(self, text: str, /) -> int:
        super().write(self._masker.text(text))
        return len(text)


async def serve(tasks: IO[bytes], reports: IO[bytes], printed: Masker | None = None) -> None:
    """Perform the tasks that come in, until their stream ends or a SIGTERM comes.

    Args:
        printed: As of `Worker`.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**30)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), tasks)

    def write(line: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the driver has gone
            reports.write(to_json(line, compact=True).encode() + b"\n")
            reports.flush()

    lines: asyncio.Queue[bytes] = asyncio.Queue()

    async with Worker(printed=printed) as worker:

        def leave() -> None:
            worker.stop()
            lines.put_nowait(b"")

        async def read() -> None:
            while line := await reader.readline():
                lines.put_nowait(line)
            leave()

        loop.add_signal_handler(signal.SIGTERM, leave)
        reading = asyncio.create_task(read())
        write({"hello": 1, "pid": os.getpid()})
        while line := await lines.get():
            try:
                report = await worker.perform(RunTask.from_dict(json.loads(line)))
                write({"report": report.as_dict()})
            except WorkerLost as lost:
                write({"lost": lost.reason, "cannot_start": lost.cannot_start})
        reading.cancel()


def main() -> None:
    """Serve this process's stdin and stdout."""
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of tools, also of programs that they start
    printed = Masker()
    sys.stdout = sys.stderr = MaskedText(os.fdopen(os.dup(2), "wb"), printed)
    tasks = os.fdopen(os.dup(0), "rb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver
    asyncio.run(serve(tasks, reports, printed))


if __name__ == "__main__":
    main()
