"""``fractale cancel``: end the batch jobs of a run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fractale.cli import options
from fractale.cli.commands.resume import complete_runs
from fractale.cli.commands.show import complete_steps
from fractale.errors import UsageError
from fractale.plain import to_json

if TYPE_CHECKING:
    from fractale.events import Event
    from fractale.runs.cancelling import Canceller, JobSeen
    from fractale.runs.result import RunResult
    from fractale.settings import Settings
    from fractale.store.run_record import RunRecord

MOST_LINES = 20


@click.command("cancel", context_settings={"ignore_unknown_options": True})  # -1 is a run
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.argument("step", required=False, shell_complete=complete_steps)
@click.option("--yes", is_flag=True, help="Cancel without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(run_id: str, step: str | None, *, yes: bool, as_json: bool) -> int:
    """Cancel the batch jobs of RUN and stop the run; with STEP, only the jobs of that step.

    \b
    fractale cancel k7f3a              all its jobs; `fractale resume` submits them again
    fractale cancel k7f3a tune         the jobs of one step, which then fails
    fractale cancel k7f3a 'tune[3]'    the job of one item of a foreach, counted from 0;
                                       a job array only ends as a whole

    fractale first lists the jobs that it will cancel, and asks. The run may be in progress,
    stopped, or detached. Without STEP its process also stops, and you can resume the run. A run
    that waits for a time is then left alone by `fractale resume --ready`. With STEP
    the run continues by its plan: a step fails if its job was cancelled.

    Without STEP the `finally` steps of the plan run after that, once, even if the run had no job
    and no process. A question in them is not asked, and ends them. If the plan had ended and its
    `on_failure` or `finally` steps wait, they end there, and the run keeps the end of the plan.

    Exit codes: 0 all jobs were cancelled, or none was in progress; 1 a job could not be cancelled,
    the `finally` steps did not run, or you answered no; 2 wrong use.
    """
    from fractale.cli.consent import ask_about_run
    from fractale.store.run_record import RunRecords

    settings = options.settings_of()
    record = RunRecords(settings.state_dir).find(run_id)
    ask_about_run(record, record.read_head(), settings)
    return asyncio.run(_Cancel(settings, record, step, yes=yes, as_json=as_json).run())


def offer(settings: Settings, run_id: str) -> None:
    """Ask, after Ctrl-C on a terminal, whether to end the run's jobs, too, if it has any."""
    from fractale.store.run_record import RunRecords

    record = RunRecords(settings.state_dir).find(run_id)
    asyncio.run(_Cancel(settings, record, None, yes=False, as_json=False).offer())


class _Cancel:
    """One execution of the command."""

    def __init__(
        self, settings: Settings, record: RunRecord, step: str | None, *, yes: bool, as_json: bool
    ) -> None:
        self._settings = settings
        self._record = record
        self._step = step
        self._yes = yes
        self._as_json = as_json

    async def run(self) -> int:
        from fractale.runs.cancelling import can_be_cancelled
        from fractale.store.locks import holder_of

        canceller, seen = await self._look()
        going = [each for each in seen if each.in_progress]
        holder = None if self._step else holder_of(self._record)
        if not going and holder is None and (self._step or not can_be_cancelled(self._record)):
            return self._nothing_to_do(seen)
        if not self._yes and not self._agrees(going, str(holder) if holder else ""):
            click.echo("nothing was cancelled", err=True)
            return 1
        return await self._end(canceller, going)

    async def offer(self) -> None:
        canceller, seen = await self._look()
        going = [each for each in seen if each.in_progress]
        if not going:
            return
        self._list(going, "these jobs keep running", err=True)
        click.echo("  l leave them (default) · c cancel them > ", nl=False, err=True)
        if sys.stdin.readline().strip().casefold() in ("c", "cancel"):
            await self._end(canceller, going)

    def _is_due(self) -> bool:
        """Whether steps at the plan's end run if the run is cancelled now."""
        from fractale.runs.cancelling import may_end

        return may_end(self._record)

    async def _look(self) -> tuple[Canceller, list[JobSeen]]:
        from fractale.runs.cancelling import Canceller, jobs_to_cancel

        canceller = Canceller(self._record, self._settings)
        return canceller, await canceller.look(jobs_to_cancel(self._record, self._step))

    def _nothing_to_do(self, seen: Sequence[JobSeen]) -> int:
        of = f"step `{self._step}` of run" if self._step else "run"
        if self._as_json:
            self._print_json([], stopped=False)
        else:
            click.echo(f"no job of {of} {self._record.run_id} is in progress; nothing was done")
            _print_jobs(seen[-MOST_LINES:])
        return 0

    def _agrees(self, going: Sequence[JobSeen], holder: str) -> bool:
        """Whether the user agrees to end the jobs.

        Raises:
            UsageError: The process has no terminal to ask on.
        """
        run = self._record.run_id
        if self._as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            held = f"the run, in progress in {holder}" if holder else f"run {run}"
            what = _jobs(len(going)) if going else held
            raise UsageError(
                f"cancelling {what} needs your agreement",
                hint=f"check with `fractale show {run}`, then add --yes",
            )
        if going:
            self._list(going, f"these jobs of run {run} would be cancelled", err=True)
        if holder:
            click.echo(
                f"the run is in progress ({holder}); it would stop and could be resumed", err=True
            )
        if self._step is None and self._is_due():
            click.echo("the steps at the end of the plan would run", err=True)
        stop = f"stop run {run}" if holder else f"cancel run {run}"
        what = f"cancel {_jobs(len(going))}" if going else stop
        click.echo(f"{what}? [y/N] ", nl=False, err=True)
        return sys.stdin.readline().strip().casefold() in ("y", "yes")

    def _list(self, seen: Sequence[JobSeen], title: str, *, err: bool) -> None:
        click.echo(f"{title}:", err=err)
        _print_jobs(seen[:MOST_LINES], err=err)
        if len(seen) > MOST_LINES:
            click.echo(f"  … and {len(seen) - MOST_LINES} more", err=err)

    async def _end(self, canceller: Canceller, going: Sequence[JobSeen]) -> int:
        ended, stopped = await canceller.end(going, step=self._step, yes=self._yes)
        failed = [each for each in ended if each.trouble]
        if not self._as_json:
            self._print(ended, failed, stopped=stopped)
        result, trouble = None, ""
        if self._step is None:
            result, trouble = await self._finally()
        if self._as_json:
            self._print_json(ended, stopped=stopped and self._step is None, result=result)
        else:
            self._print_next(result, any_jobs=bool(ended))
        if trouble:
            click.echo(f"warning  {trouble}", err=True)
        return 1 if failed or trouble else 0

    async def _finally(self) -> tuple[RunResult | None, str]:
        """Run the plan's `finally` steps, and print each."""
        from fractale.graph.handlers import GAVE_UP
        from fractale.render.text import inert
        from fractale.runs.cancelling import run_finally

        def listen(event: Event) -> None:
            data = event.data
            if event.kind == "warning" and data.get("code") == GAVE_UP and not self._as_json:
                click.echo(f"  {inert(data['step'], 60)}  {inert(data['message'], 300)}")
            if event.kind == "step_finished" and not self._as_json:
                why = f": {data['error']}" if data.get("error") else ""
                click.echo(f"  {inert(data['step'], 60)}  {data['outcome']}{inert(why, 300)}")

        return await run_finally(self._record, self._settings, [listen])

    def _print_json(
        self, ended: Sequence[JobSeen], *, stopped: bool, result: RunResult | None = None
    ) -> None:
        jobs = [each.as_dict() for each in ended]
        data = {"run": self._record.run_id, "step": self._step, "jobs": jobs, "stopped": stopped}
        if result is not None:
            data |= {"status": result.status, "notices": result.notices, "steps": result.steps}
        click.echo(to_json(data))

    def _print(self, ended: Sequence[JobSeen], failed: Sequence[JobSeen], *, stopped: bool) -> None:
        run, gone = self._record.run_id, [each for each in ended if not each.trouble]
        _print_jobs(ended)
        if not stopped:
            click.echo(f"run {run} is in the middle of a call and stops after it")
        done = f"cancelled {_jobs(len(gone))} of run {run}" if ended else f"stopped run {run}"
        if ending := [each for each in gone if each.status and not each.status.over]:
            done += f"; {_jobs(len(ending))} still ending"
        click.echo(f"{done}; {_jobs(len(failed))} could not be cancelled" if failed else done)

    def _print_next(self, result: RunResult | None, *, any_jobs: bool) -> None:
        from fractale.runs.result import resume_command
        from fractale.store.locks import holder_of

        run = self._record.run_id
        if result is not None and result.status in ("success", "failed"):
            click.echo(f"run {run} had ended before: {result.status}; next    fractale show {run}")
        elif self._step is None:
            again = "submits the cancelled jobs again" if any_jobs else "continues the run"
            click.echo(f"next    {resume_command(run)}    {again}")
        elif holder_of(self._record):
            click.echo(f"the run continues by its plan; next    fractale show {run}")
        else:
            click.echo(f"next    {resume_command(run)}    continues by its plan")


def _jobs(number: int) -> str:
    from fractale.render.text import count

    return count(number, "job")


def _print_jobs(seen: Sequence[JobSeen], *, err: bool = False) -> None:
    from fractale.render.text import narrowed, plain, row, screen_width

    width = screen_width(sys.stderr if err else sys.stdout)
    for line in narrowed([row(each) for each in _lines(seen)], width):
        click.echo(plain(line), err=err)


def _lines(seen: Sequence[JobSeen]) -> list[str]:
    """A line for each job: its step, its id in the scheduler, and its state."""
    from fractale.render.text import cells, inert, pad

    rows: list[tuple[str, str]] = []
    for each in seen:
        name = each.handle
        called = f"{name.scheduler} job {name.title}" if name else "a job without a known id"
        how = each.trouble or (each.status.reason if each.status else "was never submitted")
        how = how.partition("; last line: ")[0]
        between = ": " if how[:1].isdecimal() else " "  # an array has counts of its elements
        rows.append((inert(each.job.step, 60), inert(f"{called}{between}{how}", 300)))
    width = max((cells(step) for step, _ in rows), default=0)
    return [f"  {pad(step, width)}  {words}" for step, words in rows]
