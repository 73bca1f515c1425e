"""Performs the runs of a sweep in processes of this machine, which stay warm.

A process is started when there is a task for it. It speaks through pipes (`worker`); nothing
listens on a port. One that dies is replaced. Each has a session of its own, so that Ctrl-C at a
terminal reaches the driver only, and its output in a file of the sweep's record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from fractale.errors import CHECK_SPACE, StoreError
from fractale.plain import to_json
from fractale.private import make_folder, open_private
from fractale.settings.files import CONFIG_VARIABLE
from fractale.sweeps.executors import WorkerLost
from fractale.sweeps.record import SweepRecord
from fractale.sweeps.task import RunReport, RunTask
from fractale.text import clip

if TYPE_CHECKING:
    from fractale.settings import Settings

PROGRAM: Final = (sys.executable, "-P", "-m", "fractale.sweeps.worker")
"""``-P``: the working directory is not searched for modules, such as a project's ``mcp.py``."""

LONGEST_LINE: Final = 2**26
"""The most bytes of a worker's line."""

LEAVE_SECONDS: Final = 10.0
"""Seconds that workers have for the end of their present call, before they are killed."""

LOOK_SECONDS: Final = 1.0
"""Seconds between two looks whether a worker lives that has a task."""

EXIT_SECONDS: Final = 0.02

LAST_LINES: Final = 5
"""The lines of a worker's output in the reason why it cannot start."""


class LocalExecutor:
    """Performs tasks in processes of this machine.

    Args:
        settings: Their `environment` is that of the workers.
        workers: How many processes; None: `local_cores` of the settings, or one per core.
        program: The worker's program.
        leave_seconds: Seconds that workers have for the end of their present call.
    """

    def __init__(
        self,
        record: SweepRecord,
        settings: Settings,
        *,
        workers: int | None = None,
        program: tuple[str, ...] = PROGRAM,
        leave_seconds: float = LEAVE_SECONDS,
    ) -> None:
        self._record = record
        self._settings = settings
        self._number = workers or settings.local_cores or len(os.sched_getaffinity(0))
        self._program = program
        self._leave_seconds = leave_seconds
        self._idle: list[_WorkerProcess] = []
        self._all: set[_WorkerProcess] = set()
        self._numbers: list[int] = []
        self._room = asyncio.Semaphore(self._number)

    @property
    def workers(self) -> int:
        return self._number

    async def perform(self, task: RunTask) -> RunReport:
        """Perform a task in an idle worker, or in a new one; see `Executor.perform`."""
        async with self._room:
            worker = self._idle.pop() if self._idle else await self._new()
            try:
                report = await worker.perform(task)
            except WorkerLost as lost:
                if lost.cannot_start or worker.is_dead:
                    await self._drop(worker)
                else:
                    self._idle.append(worker)
                raise
            except BaseException:  # cancelled: the run stops at its boundary, or is killed
                self._all.discard(worker)
                await asyncio.shield(worker.end(self._leave_seconds))
                raise
            self._idle.append(worker)
            return report

    def stop(self) -> None:
        """See `Executor.stop`: a task that waits for a worker begins soon, and stops then."""

    async def _new(self) -> _WorkerProcess:
        number = next(n for n in range(1, self._number + 2) if n not in self._numbers)
        worker = _WorkerProcess(number, self._record.workers / f"worker-{number}.txt")
        self._numbers.append(number)
        self._all.add(worker)
        try:
            await worker.start(self._program, self._environment())
        except BaseException:
            await self._drop(worker)
            raise
        return worker

    async def _drop(self, worker: _WorkerProcess) -> None:
        self._all.discard(worker)
        self._numbers.remove(worker.number)
        await worker.end(0.0)

    def _environment(self) -> dict[str, str]:
        known = dict(self._settings.environment or os.environ)
        known["FRACTALE_STATE_DIR"] = str(self._record.state_dir.absolute())
        if decided := os.environ.get(CONFIG_VARIABLE):  # also by --trust-project of this process
            known[CONFIG_VARIABLE] = decided
        return known

    async def __aenter__(self) -> Self:
        try:
            make_folder(self._record.workers)
        except OSError as error:
            raise StoreError(
                f"cannot make {self._record.workers}: {error}", hint=CHECK_SPACE
            ) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(worker.end(self._leave_seconds) for worker in self._all))


class _WorkerProcess:
    """One worker.

    Args:
        number: From 1, for messages.
        output: The file to which its output and that of its tools is appended.
    """

    def __init__(self, number: int, output: Path) -> None:
        self.number = number
        self._output = output
        self._written = 0
        self._process: Process | None = None

    @property
    def is_dead(self) -> bool:
        return self._process is None or self._process.returncode is not None

    @property
    def _alive(self) -> tuple[Process, asyncio.StreamWriter, asyncio.StreamReader]:
        """The process that was started, with its stdin and stdout."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker was not started")
        return process, process.stdin, process.stdout

    async def start(self, program: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Start the process, and wait until it is ready.

        Raises:
            WorkerLost: It ended before that.
        """
        try:
            output = open_private(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise StoreError(f"cannot write {self._output}: {error}", hint=CHECK_SPACE) from error
        try:
            self._written = os.fstat(output).st_size
            self._process = await asyncio.create_subprocess_exec(
                *program,
                stdin=PIPE,
                stdout=PIPE,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
                limit=LONGEST_LINE,
            )
        except OSError as error:
            raise WorkerLost(f"no worker can be started: {error}", cannot_start=True) from error
        finally:
            os.close(output)
        if (await self._line()).get("hello") != 1:
            raise WorkerLost("a worker answered in a way that is not its own", cannot_start=True)

    async def perform(self, task: RunTask) -> RunReport:
        """See `Executor.perform`."""
        _, stdin, _ = self._alive
        with contextlib.suppress(ConnectionError):  # it has died: reading its answer says so
            stdin.write(to_json(task.as_dict(), compact=True).encode() + b"\n")
            await stdin.drain()
        answer = await self._line(ready=True)
        if "lost" in answer:
            raise WorkerLost(str(answer["lost"]), cannot_start=bool(answer.get("cannot_start")))
        try:
            report = RunReport.from_dict(answer["report"])
        except (KeyError, TypeError, ValueError) as error:
            raise await self._unreadable(f"{error!r}") from error
        if report.run != task.run:
            raise await self._unreadable(f"a report on {report.run!r}")
        return report

    async def _line(self, *, ready: bool = False) -> dict[str, Any]:
        """The next line of the worker.

        Raises:
            WorkerLost: It ended instead, or something else wrote to its pipe.
        """
        process, _, stdout = self._alive
        reading = asyncio.ensure_future(stdout.readline())
        try:  # a process that outlives the worker may keep its pipe open
            while not reading.done() and process.returncode is None:
                await asyncio.wait((reading,), timeout=LOOK_SECONDS)
            await asyncio.wait((reading,), timeout=LOOK_SECONDS)
            line = reading.result() if reading.done() else b""
            if not line.endswith(b"\n"):
                raise await self._death(ready=ready)
            found: Any = json.loads(line)
        except ValueError as error:  # no JSON, or longer than `LONGEST_LINE`
            raise await self._unreadable(str(error)) from error
        finally:
            reading.cancel()
        if not isinstance(found, dict):
            raise await self._unreadable(f"a {type(found).__name__}")
        return cast("dict[str, Any]", found)

    async def _unreadable(self, why: str) -> WorkerLost:
        """End a process whose answer is not one of a worker: its next answer may be wrong, too."""
        await self.end(0.0)
        who = f"worker {self.number} (process {self._alive[0].pid})"
        return WorkerLost(f"the answer of {who} cannot be read: {clip(why, 200)}")

    async def _death(self, *, ready: bool) -> WorkerLost:
        """How the process ended.

        Args:
            ready: Whether it was ready before.
        """
        process, _, _ = self._alive
        code = await _exit_code(process)
        who = f"worker {self.number} (process {process.pid})"
        if code < 0:
            how = f"{who} was killed by {_signal_name(-code)}"
            return WorkerLost(how)
        if ready:
            return WorkerLost(f"{who} ended with exit code {code}; its output: {self._output}")
        words = f"{who} cannot start, and ended with exit code {code}"
        last = self._last_lines()
        return WorkerLost(f"{words}:\n{last}" if last else words, cannot_start=True)

    def _last_lines(self) -> str:
        with contextlib.suppress(OSError), self._output.open("rb") as file:
            file.seek(max(self._written, file.seek(0, os.SEEK_END) - 8000))
            lines = file.read().decode(errors="replace").splitlines()
            return "\n".join([line for line in lines if line.strip()][-LAST_LINES:])
        return ""

    async def end(self, seconds: float) -> None:
        """End the process: at a boundary of its run if that comes in time."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            if seconds:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(_exit_code(process), seconds)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session: also what tools started
        await _exit_code(process)


async def _exit_code(process: Process) -> int:
    """Wait for the end of a process. `Process.wait` waits for the ends of its pipes, too."""
    while process.returncode is None:  # noqa: ASYNC110 - asyncio has no event for this alone
        await asyncio.sleep(EXIT_SECONDS)
    return process.returncode


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
