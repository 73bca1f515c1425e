"""The code that all commands with a run share: show it, answer questions, end it on signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Generator
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from fractale.cli import started
from fractale.cli.options import CommandLine, trusts_project
from fractale.cli.signals import INTERRUPTED, Ending, ending_by_signals
from fractale.errors import FractaleError
from fractale.events import logged_to
from fractale.plan.inputs import read_secrets
from fractale.plan.model import Plan
from fractale.render.outputs import check_output, outputs_text, write_outputs
from fractale.settings import Settings

if TYPE_CHECKING:
    from fractale.cli.dialogue import TerminalUser
    from fractale.runs import RunOptions, RunResult, Workspace
    from fractale.runs.notify import Notifications

Begin: TypeAlias = "Callable[[Workspace, RunOptions], Awaitable[RunResult]]"


def run_in_workspace(
    given: CommandLine, settings: Settings, plan: Plan | None, begin: Begin
) -> int:
    """Open a workspace and let `begin` run something in it; returns the exit code.

    The outputs of a run that succeeds go to stdout; see `give_outputs`.

    Args:
        plan: Selects the servers to open; None: all servers of the settings.

    Raises:
        UsageError: The plan does not have the output that the command line names.
    """
    from fractale.runs.notify import Notifications

    if plan:
        check_output(given.output, plan.outputs, f"plan `{plan.name}`")
    try:
        with own_stdout() as stdout:
            notifications = Notifications()
            with ending_by_signals() as ending:
                work = _run(given, settings, plan, begin, stdout, ending, notifications)
                try:
                    result = asyncio.run(work)
                except asyncio.CancelledError as error:  # by a signal; the run's record says so
                    notifications.abandon()
                    if ending.code == INTERRUPTED:
                        raise _Interrupted(ending.run) from error
                    if not ending.has_begun:
                        print("stopped before the run began", file=sys.stderr)
                    return ending.code
            try:
                give_outputs(result, given, stdout)
            finally:
                _wait_for(notifications)
            return result.exit_code
    except _Interrupted as error:
        if error.run and not given.as_json and sys.stdin.isatty() and sys.stderr.isatty():
            from fractale.cli.commands.cancel import offer

            offer(settings, error.run)
        raise


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a run.

    Args:
        run: Its id; None if the run had not begun.
    """

    def __init__(self, run: str | None) -> None:
        super().__init__()
        self.run = run


async def _run(
    given: CommandLine,
    settings: Settings,
    plan: Plan | None,
    begin: Begin,
    stdout: IO[str],
    ending: Ending,
    notifications: Notifications,
) -> RunResult:
    from fractale.questions import Answers
    from fractale.render.display import open_display
    from fractale.runs import RunOptions, Workspace

    ending.attach()
    with open_display(stdout, sys.stderr, as_json=given.as_json, quiet=given.quiet) as display:
        person = _person(given, settings, display)
        run_options = RunOptions(
            listeners=[ending.listen, *([person.listen] if person else ()), display.listener],
            person=person,
            answers=Answers(given.answers),
            replies=Answers(given.replies),
            yes=given.yes,
            trusted=trusts_project(),
            limits=given.limits,
            detach=given.detach,
            run_id=given.run_id,
            reuse=given.reuse,
            notifications=notifications,
        )
        log = logged_to(display.listener)

        def stop(reason: str) -> None:
            # The question on the screen stays unanswered: the user may not answer it in time.
            run_options.control.request_drain(reason)
            if person:
                person.leave()

        ending.at_boundary = stop
        ending.say = lambda words: log("fractale", "warning", words)
        async with Workspace.open(
            settings,
            plan,
            given.extensions,
            yes=given.yes,
            on_log=log,
            masker=run_options.masker,
        ) as workspace:
            started()
            return await begin(workspace, run_options)


def _wait_for(notifications: Notifications) -> None:
    """Wait for the notifications of a run; the user may interrupt this."""
    try:
        faults = notifications.finish()
    except KeyboardInterrupt:
        faults = [*notifications.finish(0.0)]
    for words in faults:
        print(f"warning  {words}", file=sys.stderr)


def give_outputs(result: RunResult, given: CommandLine, stdout: IO[str]) -> None:
    """Write the outputs of a successful run to stdout.

    If no output was named and people see the summary on the terminal of stdout, nothing is
    written: the summary has them. Nothing is written for a run that did not succeed, so that no
    program takes a part of its outputs for the whole.

    Raises:
        BrokenPipeError: The reader is gone.
        FractaleError: They cannot be written.
    """
    seen = given.output is None and stdout.isatty() and sys.stderr.isatty()
    if given.as_json or not given.gives_outputs or seen or not result.ok:
        return
    try:
        write_outputs(outputs_text(result.outputs, given.output), stdout)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FractaleError(
            f"run {result.run} succeeded, but cannot write its outputs: {error.strerror}",
            hint=f"`fractale show {result.run} --output NAME` prints an output",
        ) from error


def _person(given: CommandLine, settings: Settings, display: Any) -> TerminalUser | None:
    """The user at the terminal; None without a terminal to ask on."""
    if given.as_json or not sys.stdin.isatty() or not sys.stderr.isatty():
        return None
    from fractale.cli.dialogue import TerminalUser
    from fractale.cli.terminal import TerminalInput

    return TerminalUser(display, TerminalInput(settings.environment))


def secrets_of(plan: Plan, settings: Settings) -> dict[str, str]:
    """The plan's secret inputs, from the environment or typed at the terminal."""
    return read_secrets(plan, settings.environment, _secret_asker())


def _secret_asker() -> Callable[[str], str] | None:
    if not sys.stdin.isatty():
        return None

    def ask(name: str) -> str:
        import click

        return click.prompt(f"{name} (not shown, not stored)", hide_input=True, err=True)

    return ask


@contextlib.contextmanager
def own_stdout() -> Generator[IO[str]]:
    """Reserve stdout for fractale: output of tools in this process goes to stderr.

    Yields:
        The real stdout. In the block ``sys.stdout`` and file descriptor 1 are stderr, also for
        programs that tools start.
    """
    sys.stdout.flush()
    try:
        number = sys.stdout.fileno()
    except OSError:  # not a real file, as under a test runner
        yield sys.stdout
        return
    before, kept = sys.stdout, os.dup(number)
    os.dup2(sys.stderr.fileno(), number)
    sys.stdout = sys.stderr
    try:
        with open(kept, "w", encoding=before.encoding, errors="replace", closefd=False) as real:
            yield real
    finally:
        sys.stdout = before
        os.dup2(kept, number)
        os.close(kept)
