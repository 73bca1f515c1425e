"""Run programs with a limit on time and output, and without exceptions."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fractale.findings import ProgramAnswer, version_in
from fractale.programs import run_with_limit
from fractale.registry.calls import in_thread

T = TypeVar("T")

TIMEOUT = 10.0
SLOW = 3.0
"""Factor on the timeout of programs that are known to be slow."""
MOST_BYTES = 4 * 1024 * 1024
SHOWN = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine as the probes see it.

    Args:
        environment: Variables for the programs, with the PATH to search.
        timeout: Seconds until a program must end.
        root: The parent directory of ``proc`` and ``etc``.
        state_dir: The directory where fractale keeps its runs.
        folder: The working directory.
    """

    environment: Mapping[str, str] = field(repr=False)
    timeout: float = TIMEOUT
    root: Path = Path("/")
    state_dir: Path = Path(".fractale")
    folder: Path = Path()

    def which(self, *names: str) -> str | None:
        """The path of the first of the programs that is on the PATH."""
        path = self.environment.get("PATH", os.defpath)
        found = (shutil.which(name, path=path) for name in names)
        return next((program for program in found if program), None)

    def read(self, path: str) -> str:
        """Read a system file, such as ``proc/meminfo``; empty if it can't be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    async def run(self, *words: str, slow: bool = False) -> ProgramAnswer:
        """Run a program without input in a new session; end it after the timeout.

        Args:
            slow: The program is known to take long.
        """
        seconds = self.timeout * (SLOW if slow else 1)
        environment = {**self.environment, "LC_ALL": "C", "NO_COLOR": "1"}
        try:
            ran = await run_with_limit(
                words, environment=environment, seconds=seconds, most_bytes=MOST_BYTES
            )
        except TimeoutError:
            return ProgramAnswer(problem=f"{_short(words)} did not answer within {seconds:g} s")
        except (OSError, ValueError) as error:
            return ProgramAnswer(problem=f"{Path(words[0]).name} can't be started: {error}")
        problem = _problem(words, ran.code, ran.out, ran.err)
        return ProgramAnswer(out=ran.out, err=ran.err, problem=problem)

    async def version(self, *words: str) -> str:
        """The version that a program prints; empty if it prints none."""
        ran = await self.run(*words)
        return version_in(ran.out) or version_in(ran.err)

    async def wait_for(self, call: Callable[[], T]) -> T:
        """Make a blocking file-system call, which may never return.

        Raises:
            TimeoutError: The call took longer than a program may.
        """
        async with asyncio.timeout(self.timeout):
            return await in_thread(call)


def last_line(text: str) -> str:
    """The last words of an output, which usually name the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:SHOWN] if lines else ""


def _problem(words: tuple[str, ...], code: int, out: str, err: str) -> str:
    if code == 0:
        return ""
    return last_line(err) or last_line(out) or f"{_short(words)} ended with exit code {code}"


def _short(words: tuple[str, ...]) -> str:
    return " ".join([Path(words[0]).name, *words[1:]])[:60]
