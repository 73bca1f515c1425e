"""What `fractale top` and `fractale web` do to a sweep: cancel, resume, retry, answer.

Rows are performed by background processes, which are `fractale sweep resume` and outlive the
process that started them. Their output is kept in the sweep's record.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fractale.errors import RunHeld, UsageError
from fractale.private import open_private
from fractale.runs.actions import NotStarted, child_environment, last_error, program_of
from fractale.store.locks import holder_of_lock
from fractale.sweeps.answering import Answered, QuestionGroup, answer_sweep, question_groups
from fractale.sweeps.record import SweepRecord, SweepRecords
from fractale.sweeps.results import SweepView
from fractale.sweeps.resuming import check_own, retry_rows

if TYPE_CHECKING:
    from fractale.settings import Settings

BEGIN_SECONDS: Final = 15.0
"""Seconds to wait until a background process has taken up its sweep."""
LOOK_SECONDS: Final = 0.05
CANCEL_SECONDS: Final = 120.0
SWEEP_ENDS: Final = (0, 1, 4, 5, 75)
"""The exit codes of a process that has driven a sweep, see `fractale sweep resume`."""


class SweepActions:
    """Acts on the sweeps of one state directory.

    Args:
        by: Where the user acts, such as ``fractale web``.
    """

    def __init__(self, settings: Settings, *, by: str) -> None:
        self._settings = settings
        self._by = by
        self._records = SweepRecords(settings.state_dir)

    def find(self, sweep_id: str) -> SweepRecord:
        """The record of a sweep.

        Raises:
            UsageError: It was not found.
        """
        return self._records.find(sweep_id)

    def questions(self, sweep_id: str, view: SweepView | None = None) -> list[QuestionGroup]:
        """The open questions of a sweep's runs, those of most runs first.

        Raises:
            UsageError: The sweep was not found.
            StoreError: A record cannot be read.
        """
        return question_groups(self.find(sweep_id), view)

    async def cancel(self, sweep_id: str) -> str:
        """End a sweep, in a process of its own, which asks schedulers and runs `finally` steps.

        Returns:
            What could not be ended; empty if everything was.

        Raises:
            UsageError: The sweep was not found, or has ended.
            NotStarted: The process did not end in time, or failed.
        """
        record = self._own(sweep_id)
        process = await asyncio.create_subprocess_exec(
            *program_of(["sweep", "cancel", record.sweep_id, "--yes", "--json"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(self._settings),
            start_new_session=True,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), CANCEL_SECONDS)
        except TimeoutError:
            raise NotStarted(
                f"`fractale sweep cancel {sweep_id}` has not ended in {CANCEL_SECONDS:.0f} s",
                hint=f"see `fractale sweep show {sweep_id}`; it may still end",
            ) from None
        message, hint = last_error(err.decode(errors="replace"))
        try:
            data: dict[str, Any] = json.loads(out)
        except ValueError:
            raise UsageError(message or "nothing was cancelled", hint=hint) from None
        troubles: list[str] = data.get("troubles") or []
        return "; ".join(troubles)

    async def resume(self, sweep_id: str) -> None:
        """Continue a sweep in the background.

        Raises:
            UsageError: The sweep was not found.
            RunHeld: A process drives it.
            SettingsError: Another user started it.
            NotStarted: The process refused, or could not be started.
        """
        await self._spawn(self._own(sweep_id))

    async def retry(self, sweep_id: str, rows: Iterable[int] | None = None) -> list[int]:
        """Perform failed rows anew, in the background; returns the rows.

        Raises:
            UsageError: The sweep was not found, or no row has failed.
            RunHeld: A process drives it.
            SettingsError: Another user started it.
            NotStarted: The process refused, or could not be started.
        """
        record = self._own(sweep_id)
        chosen = await retry_rows(record, self._settings, rows)
        await self._spawn(record)
        return chosen

    async def answer(self, sweep_id: str, key: str, raw: Any) -> list[Answered]:
        """Answer a question for all runs that ask it, which are then resumed in the background.

        Args:
            key: Of the `QuestionGroup`.
            raw: The answer.

        Raises:
            UsageError: The sweep was not found.
            AnswerError: No run asks this any more, or the answer does not fit.
            SettingsError: Another user started the sweep.
            NotStarted: The process that resumes the runs could not be started.
        """
        record = self._own(sweep_id)
        given = await asyncio.to_thread(
            answer_sweep, record, self._settings, {key: raw}, via=self._by
        )
        if holder_of_lock(record.lock) is None:
            await self._spawn(record)
        return given

    def _own(self, sweep_id: str) -> SweepRecord:
        record = self.find(sweep_id)
        check_own(record, record.read_head(), self._settings)
        return record

    async def _spawn(self, record: SweepRecord) -> None:
        """Start the process that drives a sweep, and wait until it has taken it up.

        Raises:
            RunHeld: Another process took it up first.
            NotStarted: The process ended before that, or could not be started.
        """
        if holder := holder_of_lock(record.lock):
            raise RunHeld(f"sweep {record.sweep_id} is held by {holder}")
        written, lines = _size(record.output), _size(record.ledger)
        process = self._popen(record, ["sweep", "resume", record.sweep_id, "--quiet"])
        until = time.monotonic() + BEGIN_SECONDS
        while time.monotonic() < until:
            if _size(record.ledger) != lines:
                return
            if (code := process.poll()) is not None:
                if _size(record.ledger) == lines and code not in SWEEP_ENDS:
                    raise _not_started(record, written)
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _popen(self, record: SweepRecord, words: Sequence[str]) -> subprocess.Popen[bytes]:
        try:
            output = open_private(record.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                process = subprocess.Popen(  # noqa: S603 - fractale itself
                    program_of(words),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=child_environment(self._settings),
                    start_new_session=True,
                )
            finally:
                os.close(output)
        except OSError as error:
            raise NotStarted(f"no process can be started: {error}") from error
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie is left
        return process


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _not_started(record: SweepRecord, written: int) -> NotStarted:
    """The error of a process that ended before it took up the sweep.

    Args:
        written: The size of its output when it was started, in bytes.
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


def possible(view: SweepView) -> frozenset[str]:
    """What can be done to a sweep now: ``cancel``, ``resume``, ``retry``."""
    live = view.status in ("running", "queued")
    can = {"cancel"} if live or view.open else set[str]()
    if not live:
        due = any(view.counts.get(each) for each in ("pending", "running", "stopped"))
        can |= {"resume"} if due and not view.reached else set()
        can |= {"retry"} if view.counts.get("failed") else set()
    return frozenset(can)
