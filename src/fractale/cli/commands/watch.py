"""``fractale watch``: show a run while another process works on it."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs
from fractale.errors import UsageError

if TYPE_CHECKING:
    from fractale.render.display import Display
    from fractale.store.run_record import RunRecord, RunRecords

PAUSE = 0.2
"""Seconds between two reads of a run that a process works on."""
PAUSE_WITHOUT_PROCESS = 1.0
BEGIN_SECONDS = 3.0
"""Seconds to wait for a run that does not exist yet; its process may be starting."""
MOST_BEGIN_SECONDS = 15.0
"""The same once its directory exists."""
LOOK_PAUSE = 3.0
"""Seconds between two looks whether a job of a run without a process has ended."""
MOST_LOOKED_AT = 100
"""The most jobs to look at."""
END_SECONDS = 2.0
"""Seconds to wait until the process of a run that has ended is gone: it may also be the next one,
which has not reported anything yet."""


@click.command("watch", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event per line.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the final summary.")
def command(run_id: str, *, as_json: bool, quiet: bool) -> int:
    """Show RUN while another process works on it; -1 is the latest run.

    \b
    fractale watch -1          what happened so far, then each step as it happens
    fractale watch k7f3a -q    only wait for its end

    It may run at another terminal, in a batch job, or in the background. Ctrl-C ends only the
    watching. A run that asks something is answered by the command that is shown.

    A run that has ended prints what `fractale run` printed. If RUN waits for batch jobs or a time
    without a process, as with --detach, the watching continues until a process resumes the run.

    Exit codes: those of `fractale resume`; 130 if you ended the watching.
    """
    from fractale.store.run_record import RunRecords

    settings = options.settings_of()
    record = _begun(RunRecords(settings.state_dir), run_id)
    return watch(record, as_json=as_json, quiet=quiet)


def watch(record: RunRecord, *, as_json: bool, quiet: bool = False) -> int:
    """Show a run until it needs its user, or has ended; returns the exit code."""
    from fractale.render.display import open_display

    output = sys.stdout
    if output.isatty():
        signal.signal(signal.SIGTERM, _exit)  # the terminal is left as it was
    with open_display(output, output, as_json=as_json, quiet=quiet, elsewhere=True) as display:
        watching = _Watching(record, display, as_json=as_json)
        try:
            return watching.follow()
        except KeyboardInterrupt:
            display.close()
            watching.leave()
            return 130


def _exit(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _begun(records: RunRecords, run_id: str) -> RunRecord:
    """The record of a run, once its process has written how it began.

    Raises:
        UsageError: The run does not exist.
    """
    begin = time.monotonic()
    while True:
        waited, record = time.monotonic() - begin, None
        try:
            record = records.find(run_id)
        except UsageError:
            if waited > BEGIN_SECONDS:
                raise
        if record and (record.head.exists() or waited > MOST_BEGIN_SECONDS):
            return record
        time.sleep(PAUSE)


class _Watching:
    """Shows one run until it needs its user, or has ended."""

    def __init__(self, record: RunRecord, display: Display, *, as_json: bool) -> None:
        from fractale.record.follow import RunFollower

        self._record = record
        self._display = display
        self._as_json = as_json
        self._follower = RunFollower(record)
        self._asked: list[Mapping[str, Any]] = []
        self._end: Mapping[str, Any] | None = None
        self._ended_at = 0.0
        self._look_due = 0.0

    def follow(self) -> int:
        """Show the run; returns the exit code."""
        from fractale.record.follow import texts_being_written

        self._display.pause()  # the steps so far are printed at once
        begin, drawn = time.monotonic(), False
        history = self._follower.history
        while True:
            self._show(self._follower.read())
            last = history.processes[-1] if history.processes else None
            if self._end:
                if not history.alive or time.monotonic() > self._ended_at + END_SECONDS:
                    if (code := self._ended(self._end)) is not None:
                        return code
                    self._end, drawn = None, False
            elif last and last.status:
                self._look_at_waits()
            elif not history.alive and (last or time.monotonic() > begin + MOST_BEGIN_SECONDS):
                return self._killed()
            elif last:
                if not drawn:
                    self._display.resume()
                    drawn = True
                self._display.written(texts_being_written(self._record))
            time.sleep(PAUSE if history.alive or self._end else PAUSE_WITHOUT_PROCESS)

    def leave(self) -> None:
        """Say what becomes of the run that is no longer watched."""
        from fractale.store.locks import holder_of

        run, holder = self._record.run_id, holder_of(self._record)
        words = f"run {run} continues: {holder}" if holder else f"no process works on run {run}"
        click.echo(f"no longer watched; {words}", err=True)

    # -- events -----------------------------------------------------------------------------------

    def _show(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Show new events. An end that another process has continued from is left out."""
        before, self._asked = self._asked, []
        for event in events:
            if event["event"] == "run_started":
                self._end = None
            if event["event"] == "run_finished":
                self._end, self._ended_at = event, time.monotonic()
            elif event["event"] == "waiting" and not self._as_json:
                self._asked.append(event)
                continue
            if self._as_json or event["event"] != "run_finished":
                self._take(event)
        # An open question is shown if its process still waits a moment later: its end has it, too.
        for event in before:
            if self._end is None and self._is_open(event):
                self._take(event)

    def _take(self, event: Mapping[str, Any]) -> None:
        from fractale.events import Event

        fields = ("event", "run", "time")
        data = {name: value for name, value in event.items() if name not in fields}
        if event["event"] == "model_finished" and event.get("recorded") and not self._as_json:
            data |= {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}  # counted before
        self._display.listener(Event(event["event"], self._record.run_id, data, event["time"]))

    def _is_open(self, event: Mapping[str, Any]) -> bool:
        """Whether a question has no answer yet; another process may have counted it otherwise."""
        question = event["question"]
        for asked in reversed(self._follower.history.questions):
            key = asked.question.get("id")
            if key == question.get("id") if key else asked.question == question:
                return not asked.answered
        return False

    # -- ends -------------------------------------------------------------------------------------

    def _ended(self, end: Mapping[str, Any]) -> int | None:
        """Show an end; returns the exit code, or None if another process will resume the run.

        That is so if it waits only for batch jobs and times.
        """
        from fractale.questions import needs_no_answer
        from fractale.runs.result import EXIT_CODES

        if not self._as_json:
            self._take(end)
        waiting: list[dict[str, Any]] = end.get("waiting") or []
        if end["status"] != "waiting" or not all(map(needs_no_answer, waiting)):
            return EXIT_CODES[end["status"]]
        self._look_due = 0.0
        self._display.say("watched until a process resumes it; Ctrl-C ends only the watching")
        return None

    def _look_at_waits(self) -> None:
        """Report the first wait of the run that is over. No scheduler is asked."""
        from fractale.render.text import inert
        from fractale.runs.result import resume_command

        now = time.monotonic()
        if now < self._look_due:
            return
        self._look_due = now + LOOK_PAUSE
        waiting: list[dict[str, Any]] = self._follower.history.result.get("waiting") or []
        over = (text for each in waiting[:MOST_LOOKED_AT] if (text := _over(each)))
        words = next(over, "")
        if words:
            self._look_due = math.inf
            again = resume_command(self._record.run_id)
            self._display.say(inert(f"{words}; next: {again}"))

    def _killed(self) -> int:
        """Print the verdict on a run whose process is gone without an end."""
        from fractale.render.summary import history_verdict, text_of
        from fractale.render.text import screen_width, wants_color, writable
        from fractale.runs.result import EXIT_CODES

        self._display.close()
        if not self._as_json:
            color, width = wants_color(sys.stdout), screen_width(sys.stdout)
            history = self._follower.history
            text = text_of(lambda room: history_verdict(history, room), color=color, width=width)
            sys.stdout.write(writable(text, sys.stdout.encoding))
        return EXIT_CODES["stopped"]


def _over(waiting: Mapping[str, Any]) -> str:
    """Words for a batch job that left its evidence, or a time that has come; else empty."""
    from fractale.clock import SystemClock
    from fractale.questions import is_due, is_job
    from fractale.schedulers.folder import JobFolder
    from fractale.schedulers.job import JobHandle

    if is_job(waiting) and waiting.get("handle"):
        try:
            handle = JobHandle.from_dict(waiting["handle"])
        except ValueError:  # of another version
            return ""
        if JobFolder(handle.own_dir).ended() is not None:
            return f"job {handle.title} of `{waiting['step']}` has ended"
    elif is_due(waiting, SystemClock()):
        return f"the wait of `{waiting['step']}` is over"
    return ""
