"""The command line: one module a command, imported only when it is used.

``fractale --help`` and completion import nothing but click. `main` is the one place where an
error becomes text and an exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Generator
from typing import Any

import click

COMMANDS = {
    "run": ("fractale.cli.commands.run", "Run a plan."),
    "agent": ("fractale.cli.commands.agent", "Ask a sub-agent."),
    "prompt": ("fractale.cli.commands.prompt", "Ask in words, or by a prompt of a server."),
    "resume": (
        "fractale.cli.commands.resume",
        "Go on with a run that stopped, waits, or reached a limit.",
    ),
    "cancel": ("fractale.cli.commands.cancel", "End the batch jobs of a run, and the run."),
    "logs": ("fractale.cli.commands.logs", "Print the log of a step's batch job, as it grows."),
    "fork": ("fractale.cli.commands.fork", "Start a new run from a step of another one."),
    "replay": ("fractale.cli.commands.replay", "Run a recorded run again, from its record alone."),
    "test": ("fractale.cli.commands.test", "Replay a folder of recordings against today's plans."),
    "runs": ("fractale.cli.commands.runs", "List runs: how they ended, when, what they used."),
    "show": ("fractale.cli.commands.show", "Show what happened in a run, or in one of its steps."),
    "diff": ("fractale.cli.commands.diff", "Compare two runs, step by step."),
    "export": (
        "fractale.cli.commands.export",
        "Write a run as a graph, as transitions, or as an RO-Crate.",
    ),
    "freeze": ("fractale.cli.commands.freeze", "Write a run's plan with what its planner drafted."),
    "validate": ("fractale.cli.commands.validate", "Check plans and report every error at once."),
    "graph": ("fractale.cli.commands.graph", "Draw a plan: text, Mermaid, SVG or PNG."),
    "list": ("fractale.cli.commands.list", "Show tools, prompts, agents, models and servers."),
    "doctor": (
        "fractale.cli.commands.doctor",
        "Check that all that is needed is there, or how to get it.",
    ),
    "discover": ("fractale.cli.commands.discover", "Show what this machine and site have."),
    "serve": ("fractale.cli.commands.serve", "Serve a registry or server file over MCP."),
    "studio": ("fractale.cli.commands.studio", "Open plans and runs in LangGraph Studio."),
    "schema": ("fractale.cli.commands.schema", "Print the JSON Schema of the plan language."),
    "trust": (
        "fractale.cli.commands.trust",
        "Trust a project's settings, or show what is trusted.",
    ),
    "config": ("fractale.cli.commands.config", "Show every setting and where it came from."),
    "version": ("fractale.cli.commands.version", "Show the version."),
}


class ReaderGone(Exception):
    """Nobody reads what is written any more; click would end the process for the error itself."""


@contextlib.contextmanager
def _written() -> Generator[None]:
    """See that what is printed in the block has been written when it ends."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line, which prints what ``--help`` asks for."""
        with _written():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Do what the command line says."""
        with _written():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of a person's work."""
        return [*COMMANDS]  # `list` is a module here, once it is imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[cmd_name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command where one is unknown."""
        from fractale.text import did_you_mean

        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            ctx.fail(f"No such command `{name}`" + did_you_mean(name, COMMANDS, before="; "))
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="fractale", message="%(version)s")
@click.pass_context
def cli(ctx: click.Context, *, debug: bool) -> None:
    """Write a plan of tools, prompts and agents in YAML, and run it so that it lasts.

    \b
    A first run, without a key or a server:   make demo
    What a plan will do, before it does it:   fractale run PLAN --dry-run
    """
    ctx.obj = {"debug": debug, "folder": _working_folder()}


def _working_folder() -> str | None:
    """The folder that the command was started in; None where it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than this command
    except FileNotFoundError:
        return None


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Looking for garbage takes an eighth of the time that the imports take, and finds none. So it
    starts with `started`, and what is there at the end is left to the system.
    """
    gc.disable()
    _open_streams()
    arguments = sys.argv[1:] if args is None else args
    code = run_command(arguments)
    gc.freeze()
    if code in (75, 130):
        _exit_within(2.0, code)
    sys.exit(code)


def _exit_within(seconds: float, code: int) -> None:
    """Exit in this time at the latest: Python would wait for a function that is in a thread."""
    import threading

    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _open_streams() -> None:
    """Open what is closed of stdin, stdout and stderr, on nothing.

    Else the next file that is opened would be in its place, and be written into by whatever a tool
    or a program prints.
    """
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the first number that is free
            os.set_inheritable(number, True)
            name = ("stdin", "stdout", "stderr")[number]
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for as long as the process


def _let_go() -> None:
    """Drop what can't be written, so that nothing is said of it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()


def started() -> None:
    """To be called by a command that goes on for long, once it has imported what it needs."""
    gc.freeze()
    gc.enable()


def run_command(arguments: list[str]) -> int:
    """Run one command line; a process may run many.

    Returns:
        The exit code: 0 success, 1 the plan failed, 2 wrong use, 3 an invalid plan, 4 waits for
        a person or a job, 5 a limit, 75 stopped and resumable, 130 interrupted,
        141 nobody reads its output any more.
    """
    try:
        return _exit_code(arguments)
    except (ReaderGone, BrokenPipeError):
        return 141
    finally:
        _let_go()


def _exit_code(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        # --debug is taken anywhere, since people add it at the end of the line that failed.
        words = [word for word in arguments if word != "--debug"]
        result: Any = cli.main(words, prog_name="fractale", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _interrupted()
    except ReaderGone:
        raise
    except Exception as error:
        if debug:
            raise
        from fractale.cli.render.problems import show_error

        gone = isinstance(error, FileNotFoundError) and _working_folder() is None
        return show_error(_folder_removed() if gone else error)
    return result if isinstance(result, int) else 0


def _folder_removed() -> Exception:
    from fractale.errors import UsageError

    return UsageError(
        "the folder that this command was started in was removed",
        hint="change to a folder that is there, such as with `cd`, and try again",
    )


def _interrupted() -> int:
    click.echo("interrupted", err=True)
    return 130
