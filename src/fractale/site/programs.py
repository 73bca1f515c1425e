"""Asking programs, each bounded in time and output, and never with an exception."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fractale.programs import run_with_limit
from fractale.registry.calls import in_thread

T = TypeVar("T")

TIMEOUT = 10.0
SLOW = 3.0
"""Programs that are known to be slow get so many times the time."""
MOST_BYTES = 4 * 1024 * 1024
SHOWN = 300
VERSION = re.compile(r"\d+(?:\.\d+)+[\w.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a program answered.

    Args:
        problem: Empty where it ended with exit code 0, else why not, in its own words if any.
    """

    out: str = ""
    err: str = ""
    problem: str = ""

    @property
    def lines(self) -> list[str]:
        """What it wrote on stdout, without empty lines."""
        return [line for line in self.out.splitlines() if line.strip()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine as probes see it.

    Args:
        environment: What programs get, and where they are looked for.
        timeout: Seconds that one program may take.
        root: Where ``proc`` and ``etc`` are.
        state_dir: Where fractale keeps its runs.
        folder: The working folder.
    """

    environment: Mapping[str, str] = field(repr=False)
    timeout: float = TIMEOUT
    root: Path = Path("/")
    state_dir: Path = Path(".fractale")
    folder: Path = Path()

    def which(self, *names: str) -> str | None:
        """The first of the programs that is on the PATH."""
        path = self.environment.get("PATH", os.defpath)
        found = (shutil.which(name, path=path) for name in names)
        return next((program for program in found if program), None)

    def read(self, path: str) -> str:
        """A file of the system, such as ``proc/meminfo``; empty if it can't be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    async def run(self, *words: str, slow: bool = False) -> Answer:
        """Run a program without input, in a session of its own, and end it when its time is over.

        Args:
            slow: It is known to take long.
        """
        seconds = self.timeout * (SLOW if slow else 1)
        environment = {**self.environment, "LC_ALL": "C", "NO_COLOR": "1"}
        try:
            ran = await run_with_limit(
                words, environment=environment, seconds=seconds, most_bytes=MOST_BYTES
            )
        except TimeoutError:
            return Answer(problem=f"{_short(words)} did not answer within {seconds:g} s")
        except (OSError, ValueError) as error:
            return Answer(problem=f"{Path(words[0]).name} can't be started: {error}")
        problem = _problem(words, ran.code, ran.out, ran.err)
        return Answer(out=ran.out, err=ran.err, problem=problem)

    async def version(self, *words: str) -> str:
        """The version in what a program says, or nothing."""
        ran = await self.run(*words)
        return version_in(ran.out) or version_in(ran.err)

    async def wait_for(self, call: Callable[[], T]) -> T:
        """Make a blocking call of the file system, which may never return.

        Raises:
            TimeoutError: It took longer than a program may.
        """
        async with asyncio.timeout(self.timeout):
            return await in_thread(call)


def version_in(text: str) -> str:
    """The first thing in a text that looks like a version."""
    found = VERSION.search(text)
    return found[0].rstrip(".") if found else ""


def last_line(text: str) -> str:
    """The last words of an output, which mostly say why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:SHOWN] if lines else ""


def _problem(words: tuple[str, ...], code: int, out: str, err: str) -> str:
    if code == 0:
        return ""
    return last_line(err) or last_line(out) or f"{_short(words)} ended with exit code {code}"


def _short(words: tuple[str, ...]) -> str:
    return " ".join([Path(words[0]).name, *words[1:]])[:60]
