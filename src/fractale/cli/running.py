"""What `run` and `resume` do in common: open the tools, show the run, stop on signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from fractale.cli import started
from fractale.events import Event, Listener
from fractale.plan.inputs import read_secrets
from fractale.plan.model import Limits, Plan
from fractale.settings import Settings


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


def start(call: Call, plan: Plan, inputs: Mapping[str, Any]) -> int:
    """Run a plan from its first step; returns the exit code."""
    from fractale.plan.inputs import bind_inputs

    secrets = read_secrets(plan, call.settings.environment, _secret_asker())
    bind_inputs(plan, inputs, secrets)  # what is wrong with them is told before anything starts
    head = {"registries": [str(p.absolute()) for p in call.registries], "agents": list(call.agents)}

    async def begin(runs: Any, run_options: Any) -> Any:
        return await runs.start(plan, inputs, run_options, secrets=secrets, head=head)

    return _run(call, plan, call.registries, call.agents, begin)


def go_on(call: Call, run_id: str, answers: Mapping[str, str]) -> int:
    """Go on with a run; returns the exit code."""
    from fractale.plan.build import load_plan
    from fractale.store.records import RunFolders

    head = RunFolders(call.settings.state_dir).find(run_id).read_head()
    plan = load_plan(head["file"])
    secrets = read_secrets(plan, call.settings.environment, _secret_asker())
    call = replace(call, replies=answers)

    async def begin(runs: Any, run_options: Any) -> Any:
        return await runs.resume(run_id, run_options, secrets=secrets)

    registries = [Path(path) for path in head.get("registries", ())]
    return _run(call, plan, registries, head.get("agents", ()), begin)


def _secret_asker() -> Callable[[str], str] | None:
    if not sys.stdin.isatty():
        return None

    def ask(name: str) -> str:
        import click

        return click.prompt(f"{name} (not shown, not stored)", hide_input=True, err=True)

    return ask


def _run(
    call: Call,
    plan: Plan,
    registries: Sequence[Path],
    agents: Sequence[str],
    begin: Callable[[Any, Any], Awaitable[Any]],
) -> int:
    with own_stdout() as stdout:
        return asyncio.run(_run_async(call, plan, registries, agents, begin, stdout))


async def _run_async(
    call: Call,
    plan: Plan,
    registries: Sequence[Path],
    agents: Sequence[str],
    begin: Callable[[Any, Any], Awaitable[Any]],
    stdout: IO[str],
) -> int:
    from fractale.cli.display import open_display
    from fractale.policy import Policy
    from fractale.questions import Answers
    from fractale.runs import RunOptions, Runs
    from fractale.runs.opening import open_toolbox

    with open_display(stdout, sys.stderr, as_json=call.as_json, quiet=call.quiet) as display:
        run_options = RunOptions(
            listeners=[display.listener],
            person=_person(call, display),
            answers=Answers(call.answers),
            replies=Answers(call.replies),
            yes=call.yes,
            limits=call.limits,
        )
        log = _log_listener(display.listener)
        async with open_toolbox(
            call.settings, plan, registries=registries, agents=agents, on_log=log
        ) as toolbox:
            policy = Policy(settings=call.settings.policy, yes=call.yes)
            runs = Runs(call.settings, toolbox, policy=policy)
            started()
            with stopping(run_options.control):
                result = await begin(runs, run_options)
    return int(result.exit_code)


def _log_listener(listener: Listener) -> Callable[[str, str, str], None]:
    def log(server: str, level: str, message: str) -> None:
        listener(Event("log", "", {"step": server, "level": level, "message": message}))

    return log


def _person(call: Call, display: Any) -> Any:
    """The person at the terminal, if there is one who can be asked."""
    if call.as_json or not sys.stdin.isatty() or not sys.stderr.isatty():
        return None
    from fractale.cli.person import TerminalPerson

    return TerminalPerson(display, yes=call.yes)


@contextlib.contextmanager
def stopping(control: Any) -> Generator[None]:
    """SIGTERM and SIGUSR1 (as Slurm sends before a time limit) stop at a step's boundary."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGUSR1)
    for number in signals:
        loop.add_signal_handler(number, control.request_drain, signal.Signals(number).name)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


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
