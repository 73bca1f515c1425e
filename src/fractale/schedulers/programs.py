"""Programs of schedulers: run with a bound on their time; submitting ones outlive us."""

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
        seconds: How long one may take to answer.
    """

    environment: Mapping[str, str]
    seconds: float = ANSWER_SECONDS

    def which(self, name: str) -> str | None:
        """Where a program is."""
        return shutil.which(name, path=self.environment.get("PATH", ""))

    def path(self, name: str) -> str:
        """Where a program is.

        Raises:
            DependencyMissing: It is not on the PATH.
        """
        if found := self.which(name):
            return found
        raise DependencyMissing(
            f"there is no `{name}` on the PATH", hint="`fractale doctor` says what a site lacks"
        )

    async def run(self, *words: str, more: Mapping[str, str] | None = None) -> ProgramResult:
        """Run a program that only asks, or that may be run again.

        Args:
            words: Its name and its arguments.
            more: Set in its environment, too.

        Raises:
            DependencyMissing: It is not on the PATH.
            SchedulerUnavailable: It does not answer in time.
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
        """Run a program that only asks, for a few seconds at most. Never raises."""
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
        """Run a program that submits. It is never ended by us: then nobody knew what it did.

        What it says goes into the job's folder, and it holds the folder's lock: if we are killed,
        whoever comes next waits for it, and reads what it said.

        Raises:
            DependencyMissing: It is not on the PATH.
            SchedulerUnavailable: It takes longer than programs may; it goes on.
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
