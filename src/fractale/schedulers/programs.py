"""Runs the programs of schedulers with a time limit; submitting programs outlive fractale."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fractale.errors import DependencyMissing, SchedulerUnavailable
from fractale.private import open_private
from fractale.programs import ProgramResult, run_with_limit
from fractale.schedulers.folder import JobFolder

ANSWER_SECONDS = 60.0
GLANCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs on the PATH of an environment, run with it.

    Args:
        seconds: Time limit of one program, in seconds.
    """

    environment: Mapping[str, str]
    seconds: float = ANSWER_SECONDS

    def which(self, name: str) -> str | None:
        """Find the path of a program; None if it is not on the PATH."""
        return shutil.which(name, path=self.environment.get("PATH", ""))

    def path(self, name: str) -> str:
        """Find the path of a program.

        Raises:
            DependencyMissing: The program is not on the PATH.
        """
        if found := self.which(name):
            return found
        raise DependencyMissing(
            f"`{name}` was not found on the PATH",
            hint="run `fractale doctor` to see what this site lacks",
        )

    async def run(self, *words: str, more: Mapping[str, str] | None = None) -> ProgramResult:
        """Run a program that only reads, or that may be run again.

        Args:
            words: The program's name and its arguments.
            more: Variables added to the environment.

        Raises:
            DependencyMissing: The program is not on the PATH.
            SchedulerUnavailable: The program does not answer in time.
        """
        program = self.path(words[0])
        try:
            return await run_with_limit(
                [program, *words[1:]],
                environment={**self.environment, **(more or {})},
                seconds=self.seconds,
            )
        except TimeoutError as error:
            raise SchedulerUnavailable(
                f"`{words[0]}` did not answer within {self.seconds:.0f} s"
            ) from error

    def glance(self, *words: str) -> ProgramResult:
        """Run a program that only reads, for a few seconds at most. Never raises."""
        try:
            process = subprocess.Popen(  # noqa: S603 - a scheduler's own program
                [self.path(words[0]), *words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self.environment),
                start_new_session=True,
            )
        except (DependencyMissing, OSError) as error:
            return ProgramResult(code=127, out="", err=str(error))
        try:
            out, err = process.communicate(timeout=GLANCE_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return ProgramResult(code=124, out="", err=f"no answer within {GLANCE_SECONDS:.0f} s")
        return ProgramResult(code=process.wait(), out=_text(out), err=_text(err))

    async def submit(
        self, folder: JobFolder, lock: int, *words: str, stdin: Path | None = None
    ) -> ProgramResult:
        """Run a program that submits. fractale never ends it, because its outcome would be unknown.

        The program's output goes to the job's directory, and the program holds the directory's
        lock. If fractale is killed, the next process waits for the program and reads its output.

        Raises:
            DependencyMissing: The program is not on the PATH.
            SchedulerUnavailable: The program exceeds the time limit, and keeps running.
        """
        program = self.path(words[0])
        with contextlib.ExitStack() as files:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            out, err = (
                files.enter_context(os.fdopen(open_private(folder.path / name, flags), "wb"))
                for name in ("submit.out", "submit.err")
            )
            process = await asyncio.create_subprocess_exec(
                program,
                *words[1:],
                stdin=files.enter_context(stdin.open("rb")) if stdin else DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(self.environment),
                pass_fds=(lock,),
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(self.seconds):
                code = await process.wait()
        except TimeoutError as error:
            raise SchedulerUnavailable(
                f"`{words[0]}` has not answered for {self.seconds:.0f} s",
                hint="the same call finds the job, if it was submitted, and submits it if not",
            ) from error
        return ProgramResult(
            code=code, out=folder.text("submit.out"), err=folder.text("submit.err")
        )


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
