"""What `run` and `resume` do in common: open the tools, show the run, end on signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from fractale.cli import started
from fractale.cli.ending import INTERRUPTED, Ending, ending_by_signals
from fractale.cli.options import trusts_project
from fractale.errors import SettingsError
from fractale.events import logged_to
from fractale.masking import Masker
from fractale.plan.inputs import read_secrets
from fractale.plan.model import Limits, Plan
from fractale.settings import Settings, store_password, without_password

if TYPE_CHECKING:
    from fractale.agents.catalog import Catalog
    from fractale.cli.person import TerminalPerson
    from fractale.runs import RunOptions, RunResult, Runs
    from fractale.toolbox import Toolbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the command line, as its options say."""

    settings: Settings
    registries: Sequence[Path] = ()
    agents: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    replies: Mapping[str, Any] = field(default_factory=dict[str, Any])
    yes: bool = False
    as_json: bool = False
    quiet: bool = False
    detach: bool = False
    run_id: str | None = None

    @property
    def head(self) -> dict[str, Any]:
        """What the record of a run keeps of it, so that a resume has the same tools and model."""
        registries = [str(path.absolute()) for path in self.registries]
        return {
            "registries": registries,
            "agents": list(self.agents),
            "model": self.settings.model_spec,
            "store": without_password(self.settings.store) or "sqlite",
        }

    def like(self, head: Mapping[str, Any]) -> Call:
        """The same call with what a run was started with, unless its options name another.

        That is its tools, its model, and where its checkpoints are.

        Raises:
            SettingsError: They are in a server whose password is not known.
        """
        settings = _in_store_of(self.settings, head)
        by = (settings.origins.get("model"), settings.origins.get("provider"))
        if head.get("model") and "command line" not in by:
            settings = settings.with_flags(model=head["model"])
        registries = [_where_now(Path(path), head) for path in head.get("registries", ())]
        return replace(
            self, settings=settings, registries=registries, agents=head.get("agents", ())
        )


def _where_now(path: Path, head: Mapping[str, Any]) -> Path:
    """A file that a run was given; where its folder was moved as a whole, from this one."""
    folder = head.get("folder")
    if folder and not path.exists():
        moved = Path.cwd() / os.path.relpath(path, folder)
        return moved if moved.exists() else path
    return path


def _in_store_of(settings: Settings, head: Mapping[str, Any]) -> Settings:
    """The settings with the checkpoints where a run has them."""
    there = head.get("store")
    here = without_password(settings.store) or "sqlite"
    if there in (None, here) or settings.origins.get("store") == "command line":
        return settings
    if store_password(there):
        raise SettingsError(
            f"the run keeps its checkpoints in {there}, and its password is kept nowhere",
            hint="give it once more with --store, or leave it out there and set PGPASSWORD",
        )
    return settings.with_flags(store=there)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a command works with while its tools are open."""

    toolbox: Toolbox
    agents: Catalog
    runs: Runs
    options: RunOptions


Begin: TypeAlias = "Callable[[Opened], Awaitable[RunResult]]"


def start(call: Call, plan: Plan, inputs: Mapping[str, Any]) -> int:
    """Run a plan from its first step; returns the exit code."""
    from fractale.cli.answers import check_steps
    from fractale.plan.inputs import bind_inputs

    check_steps(call.answers, plan)
    secrets = secrets_of(plan, call.settings)
    bind_inputs(plan, inputs, secrets)  # what is wrong with them is told before anything starts

    async def begin(opened: Opened) -> RunResult:
        return await opened.runs.start(
            plan, inputs, opened.options, secrets=secrets, head=call.head
        )

    return run_opened(call, plan, begin)


def go_on(call: Call, run_id: str, answers: Mapping[str, str]) -> int:
    """Go on with a run; returns the exit code."""
    from fractale.cli.answers import check_steps
    from fractale.cli.own_runs import check_own
    from fractale.runs.continuing import unchanged_plan
    from fractale.store.run_record import RunRecords

    folder = RunRecords(call.settings.state_dir).find(run_id)
    head = folder.read_head()
    check_own(folder, head, call.settings)
    call = replace(call.like(head), replies=answers)
    plan = unchanged_plan(folder, head)
    check_steps({**call.answers, **answers}, plan)
    secrets = secrets_of(plan, call.settings)

    async def begin(opened: Opened) -> RunResult:
        return await opened.runs.resume(run_id, opened.options, secrets=secrets)

    return run_opened(call, plan, begin)


def secrets_of(plan: Plan, settings: Settings) -> dict[str, str]:
    """The plan's secret inputs, from the environment or asked of the person at the terminal."""
    return read_secrets(plan, settings.environment, _secret_asker())


def _secret_asker() -> Callable[[str], str] | None:
    if not sys.stdin.isatty():
        return None

    def ask(name: str) -> str:
        import click

        return click.prompt(f"{name} (not shown, not stored)", hide_input=True, err=True)

    return ask


def run_opened(call: Call, plan: Plan | None, begin: Begin) -> int:
    """Open the tools and let `begin` work with them; returns the exit code.

    Args:
        plan: Says which servers to open; None: all of the settings.
    """
    try:
        with own_stdout() as stdout, ending_by_signals() as ending:
            try:
                return asyncio.run(_run_async(call, plan, begin, stdout, ending))
            except asyncio.CancelledError as error:  # by a signal; the run's record says so
                if ending.code == INTERRUPTED:
                    raise _Interrupted(ending.run) from error
                if not ending.has_begun:
                    print("stopped before the run began", file=sys.stderr)
                return ending.code
    except _Interrupted as error:
        if error.run and not call.as_json and sys.stdin.isatty() and sys.stderr.isatty():
            from fractale.cli.commands.cancel import offer

            offer(call.settings, error.run)
        raise


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a run.

    Args:
        run: Its id; None if it had not begun.
    """

    def __init__(self, run: str | None) -> None:
        super().__init__()
        self.run = run


async def _run_async(
    call: Call, plan: Plan | None, begin: Begin, stdout: IO[str], ending: Ending
) -> int:
    from fractale.cli.render.display import open_display
    from fractale.policy import Policy
    from fractale.questions import Answers
    from fractale.runs import RunOptions, Runs
    from fractale.runs.opening import open_toolbox, own_agents

    ending.attach()
    with open_display(stdout, sys.stderr, as_json=call.as_json, quiet=call.quiet) as display:
        person = _person(call, display)
        run_options = RunOptions(
            listeners=[ending.listen, *([person.listen] if person else ()), display.listener],
            person=person,
            answers=Answers(call.answers),
            replies=Answers(call.replies),
            yes=call.yes,
            trusted=trusts_project(),
            limits=call.limits,
            detach=call.detach,
            run_id=call.run_id,
            masker=(masker := Masker()),
        )
        log = logged_to(display.listener)

        def stop(reason: str) -> None:
            # A question that the person is at waits on: nobody may be there to answer in time.
            run_options.control.request_drain(reason)
            if person:
                person.leave()

        ending.at_boundary = stop
        ending.say = lambda words: log("fractale", "warning", words)
        named: dict[str, Any] = {"registries": call.registries, "agents": call.agents}
        agents = own_agents(plan, **named)
        async with open_toolbox(call.settings, plan, **named, on_log=log, masker=masker) as toolbox:
            policy = Policy(settings=call.settings.policy, yes=call.yes)
            runs = Runs(call.settings, toolbox, policy=policy, agents=agents)
            started()
            result = await begin(Opened(toolbox, agents, runs, run_options))
    return int(result.exit_code)


def _person(call: Call, display: Any) -> TerminalPerson | None:
    """The person at the terminal, if there is one who can be asked."""
    if call.as_json or not sys.stdin.isatty() or not sys.stderr.isatty():
        return None
    from fractale.cli.person import TerminalPerson
    from fractale.cli.person_input import TerminalInput

    return TerminalPerson(display, TerminalInput(call.settings.environment))


@contextlib.contextmanager
def own_stdout() -> Generator[IO[str]]:
    """Keep stdout for ourselves: what tools in this process print goes to stderr.

    Yields:
        The real stdout. ``sys.stdout`` and file descriptor 1 are stderr meanwhile, also for
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
