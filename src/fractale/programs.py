"""Programs that run in a session of their own, with a limit on their time and output.

The session allows killing a program completely: with everything that it started and that may keep
its pipes open. A child that leaves the session survives; fractale does not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MOST_BYTES: Final = 64 * 2**20
KILL_SECONDS: Final = 2.0
"""Seconds to wait for the end of a program that was killed."""

_FRAME: Final = " \t*=#~"
"""Characters that draw lines and frame messages."""
_BANNER: Final = re.compile(r"(?:\w+: )*[*=#~]{3,}[ *=#~]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """The exit code and the output of a program."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def complaint(self) -> str:
        """The program's error message, in one line; of a traceback, the exception."""
        text = (self.err or self.out).splitlines()
        lines = [
            words for line in text if not _BANNER.fullmatch(line) and (words := line.strip(_FRAME))
        ]
        if any(line.startswith("Traceback (most recent call last)") for line in lines):
            lines = lines[-1:]
        return "; ".join(lines[:4])[:500] or f"it ended with exit code {self.code}"


async def run_with_limit(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    seconds: float,
    most_bytes: int = MOST_BYTES,
) -> ProgramResult:
    """Run a program without input.

    Args:
        words: The program and its arguments.
        seconds: Its time limit. After it, or if the call is cancelled, the program is killed.
        most_bytes: How many bytes of each of its outputs are kept, from the beginning.

    Raises:
        OSError: It cannot be started.
        TimeoutError: It took too long.
    """
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await asyncio.gather(
                _head(process.stdout, most_bytes), _head(process.stderr, most_bytes)
            )
            code = await process.wait()
    except BaseException:
        await _kill(process)
        raise
    return ProgramResult(code=code, out=out, err=err)


async def _head(stream: asyncio.StreamReader | None, most: int) -> str:
    """The beginning of an output; all of it is read, so that the program is not blocked."""
    kept = bytearray()
    while stream is not None and (piece := await stream.read(65536)):
        kept += piece[: most - len(kept)]
    return kept.decode("utf-8", errors="replace")


def signal_session(process: Process, number: int) -> None:
    """Send a signal to a program that leads a session, and to all processes of the session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


async def _kill(process: Process) -> None:
    signal_session(process, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_SECONDS):
            await asyncio.gather(_head(process.stdout, 0), _head(process.stderr, 0), process.wait())
    # A process that left the session may still hold the pipes.
    process._transport.close()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType] - asyncio has no other way
