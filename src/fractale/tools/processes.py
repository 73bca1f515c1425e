"""Run long programs: report each line while they run, and end all processes that they started."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fractale.programs import signal_session
from fractale.registry.calls import Progress
from fractale.settings import program_environment

OnLine: TypeAlias = Callable[[int, str], Awaitable[None]]
"""Receives the number of lines so far, and the last line."""

MOST_KEPT = 64 * 1024
"""Characters of the output that are kept: the end, because errors appear there."""

LONGEST_LINE = 4096
SHOWN_LOG = 8000
ERROR_LINES = 20
GRACE = 5.0
"""Seconds between asking a program to end and killing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd:
    """The result of a program.

    Args:
        returncode: None if the program was ended at its timeout.
        log: Its stdout and stderr in order of arrival; of long output, the end.
        seconds: Its duration.
    """

    returncode: int | None
    log: str
    seconds: float

    def answer(self, what: str, *, success: Collection[int] = (0,)) -> dict[str, Any]:
        """Return the result for a tool, as JSON.

        Args:
            what: The name of the program, for messages.
            success: The exit codes that mean success.

        Returns:
            `success`, `returncode`, `seconds`, `log` (its end) and, after a failure, `error`: the
            last lines of the log, which usually name the cause.
        """
        answer: dict[str, Any] = {
            "success": self.returncode in success,
            "returncode": self.returncode,
            "seconds": round(self.seconds, 1),
            "log": self.log[-SHOWN_LOG:],
        }
        if answer["success"]:
            return answer
        how = "did not end in time and was ended"
        if self.returncode is not None:
            how = f"ended with exit code {self.returncode}"
        last = "\n".join(self.log.rstrip().splitlines()[-ERROR_LINES:])
        said = f"; the end of its output:\n{last}" if last else ", without output"
        return {**answer, "error": f"{what} {how} after {self.seconds:.1f} s{said}"}


def teller(progress: Progress) -> OnLine:
    """Return a function that reports each line of a program as progress of the call."""

    async def report(number: int, line: str) -> None:
        if line.strip():
            await progress.report_progress(number, None, line.strip()[:200])

    return report


async def run_program(
    words: Sequence[str],
    *,
    folder: Path | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - it is an end like others, not an error
    on_line: OnLine | None = None,
    held: Collection[int] = (),
) -> ProcessEnd:
    """Run a program without input, in a new session.

    At the timeout, or if the call is cancelled, all processes of the session are ended.

    Args:
        words: The program and its arguments.
        folder: The directory where it runs; None for the working directory.
        timeout: Seconds until the program is ended; None for no limit.
        on_line: Receives each line that the program writes.
        held: Descriptors of locks that the program and its child processes also hold.

    Raises:
        OSError: The program can't be started.
    """
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        cwd=folder,
        env=program_environment(),
        pass_fds=tuple(held),
        start_new_session=True,
    )
    kept, started = _Kept(), time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            await _read(process, kept, on_line)
            code: int | None = await process.wait()
    except TimeoutError:
        code = None
    finally:
        await _end(process)
    return ProcessEnd(returncode=code, log=kept.text, seconds=time.monotonic() - started)


class _Kept:
    """The last lines of an output."""

    def __init__(self) -> None:
        self.lines = 0
        self._kept: deque[str] = deque()
        self._size = 0

    def add(self, line: str) -> None:
        self.lines += 1
        self._kept.append(line)
        self._size += len(line) + 1
        while self._size > MOST_KEPT and len(self._kept) > 1:
            self._size -= len(self._kept.popleft()) + 1

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._kept)


async def _read(process: Process, kept: _Kept, on_line: OnLine | None) -> None:
    """Read and keep the output; a line without an end is split into pieces."""
    rest = ""
    while process.stdout is not None and (piece := await process.stdout.read(65536)):
        *lines, rest = (rest + piece.decode("utf-8", errors="replace")).split("\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], ""
        for line in lines:
            await _told(kept, line, on_line)
    if rest:
        await _told(kept, rest, on_line)


async def _told(kept: _Kept, line: str, on_line: OnLine | None) -> None:
    # Programs overwrite a line with a carriage return: its last version counts.
    shown = line.rstrip("\r").rpartition("\r")[2][:LONGEST_LINE]
    kept.add(shown)
    if on_line is not None:
        await on_line(kept.lines, shown)


async def _end(process: Process) -> None:
    """End the remaining processes of its session: first ask, then kill."""
    for sign, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        if process.returncode is not None:
            break
        signal_session(process, sign)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await process.wait()
    signal_session(process, signal.SIGKILL)
