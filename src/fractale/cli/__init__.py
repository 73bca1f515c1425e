"""The command line: one module per command, imported only when the command is used.

``fractale --help`` and completion import nothing but click. Only `main` turns an error into text
and an exit code.
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

GROUPS = {
    "Run": {
        "demo": ("fractale.cli.commands.demo", "Make a first run, without an API key."),
        "run": ("fractale.cli.commands.run", "Run a plan."),
        "sweep": (
            "fractale.cli.commands.sweep",
            "Run a plan for many inputs, here or on a cluster.",
        ),
        "prompt": (
            "fractale.cli.commands.prompt",
            "Ask for a task in plain English, or use a server's prompt.",
        ),
        "agent": ("fractale.cli.commands.agent", "Ask a sub-agent."),
        "resume": (
            "fractale.cli.commands.resume",
            "Resume a run that stopped, waits, or reached a limit.",
        ),
        "answer": (
            "fractale.cli.commands.answer",
            "Answer the open questions of a run, from another terminal.",
        ),
        "watch": (
            "fractale.cli.commands.watch",
            "Show a run while another process works on it.",
        ),
        "cancel": (
            "fractale.cli.commands.cancel",
            "Cancel the batch jobs of a run, and stop the run.",
        ),
        "logs": ("fractale.cli.commands.logs", "Print or follow the log of a batch job."),
        "fork": ("fractale.cli.commands.fork", "Start a new run from a step of another one."),
    },
    "Inspect": {
        "runs": (
            "fractale.cli.commands.runs",
            "List runs: status, start, duration, resources used.",
        ),
        "cache": (
            "fractale.cli.commands.cache",
            "Show or remove the results that later runs may take over.",
        ),
        "top": ("fractale.cli.commands.top", "Show all runs as they go, and act on them."),
        "show": ("fractale.cli.commands.show", "Show what happened in a run or in one step."),
        "web": ("fractale.cli.commands.web", "Show runs in a browser, live, and act on them."),
        "diff": ("fractale.cli.commands.diff", "Compare two runs, step by step."),
        "why": ("fractale.cli.commands.why", "Show what changed since the last good run."),
        "report": (
            "fractale.cli.commands.report",
            "Write runs as one HTML file that opens without a network.",
        ),
        "export": (
            "fractale.cli.commands.export",
            "Export a run as a graph, transitions, an RO-Crate or a recording.",
        ),
    },
    "Write plans": {
        "init": ("fractale.cli.commands.init", "Start a project: settings, plan, tools, tests."),
        "new": ("fractale.cli.commands.new", "Add a step, a tool or an agent to a project."),
        "examples": (
            "fractale.cli.commands.examples",
            "List the plans and registries that come with fractale, or copy one.",
        ),
        "validate": (
            "fractale.cli.commands.validate",
            "Check plans and report all errors at once.",
        ),
        "graph": ("fractale.cli.commands.graph", "Draw a plan as text, Mermaid, SVG or PNG."),
        "freeze": (
            "fractale.cli.commands.freeze",
            "Write a run's plan with its accepted drafts as a new plan.",
        ),
        "list": ("fractale.cli.commands.list", "List tools, prompts, agents, models and servers."),
        "schema": ("fractale.cli.commands.schema", "Print the JSON Schema of the plan language."),
    },
    "Replay": {
        "replay": (
            "fractale.cli.commands.replay",
            "Repeat a recorded run offline, from its record.",
        ),
        "test": (
            "fractale.cli.commands.test",
            "Replay a directory of recordings against today's plans.",
        ),
    },
    "Site and settings": {
        "doctor": (
            "fractale.cli.commands.doctor",
            "Check requirements, and show how to install what is missing.",
        ),
        "discover": (
            "fractale.cli.commands.discover",
            "Show the schedulers, hardware and software of this site.",
        ),
        "trust": (
            "fractale.cli.commands.trust",
            "Trust a project's settings or a plan, or list what you trust.",
        ),
        "config": ("fractale.cli.commands.config", "Show every setting and its source."),
        "version": ("fractale.cli.commands.version", "Show the version."),
    },
    "Serve": {
        "serve": ("fractale.cli.commands.serve", "Serve a registry or server file over MCP."),
        "studio": ("fractale.cli.commands.studio", "Open plans and runs in LangGraph Studio."),
    },
}
"""Group → command → its module and summary, in the order of `--help`."""

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


class ReaderGone(Exception):
    """The reader of stdout is gone. click itself would exit at the original BrokenPipeError."""


@contextlib.contextmanager
def _written() -> Generator[None]:
    """Flush stdout at the end of the block.

    Raises:
        ReaderGone: The reader of stdout has closed it.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line; ``--help`` prints its text here."""
        with _written():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _written():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of their groups."""
        return [*COMMANDS]  # the name `list` is a module here, once that is imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[cmd_name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        width = max(map(len, COMMANDS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in group.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command if the name is unknown."""
        from fractale.text import did_you_mean

        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            ctx.fail(f"No such command `{name}`" + did_you_mean(name, COMMANDS, before="; "))
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
    epilog="Exit codes: 0 success; 1 failed; 2 wrong use; 3 invalid plan; 4 waiting for an answer "
    "or a job; 5 limit reached; 75 stopped, resumable; 130 interrupted.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
@click.version_option(package_name="fractale", message="%(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run YAML plans of tools, prompts, agents and batch jobs as durable, resumable workflows.

    \b
    First run, without an API key:   fractale demo
    Preview of a plan:               fractale run PLAN --dry-run
    Continue the latest run:         fractale resume -1
    """
    ctx.obj = {"directory": _working_directory()}


def _working_directory() -> str | None:
    """The directory in which the command was started; None if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than this command
    except FileNotFoundError:
        return None


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Garbage collection would take an eighth of the import time and find nothing. So `started`
    enables it later, and objects that are left at the end are not collected.
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
    """Exit after this time at the latest; otherwise Python waits for functions in threads."""
    import threading

    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _open_streams() -> None:
    """Open each of stdin, stdout and stderr that is closed, on the null device.

    Otherwise the next file that fractale opens would get the descriptor, and the output of a tool
    or a program would be written into that file.
    """
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
            os.set_inheritable(number, True)
            name = ("stdin", "stdout", "stderr")[number]
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for as long as the process


def _let_go() -> None:
    """Drop output that cannot be written, so that Python prints no error about it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()


def started() -> None:
    """Enable garbage collection; a long command calls this once its imports are done."""
    gc.freeze()
    gc.enable()


def run_command(arguments: list[str]) -> int:
    """Run one command line; a process may run many.

    Returns:
        The exit code: 0 success, 1 the plan failed, 2 wrong use, 3 an invalid plan, 4 waits for
        the user or a job, 5 a limit, 75 stopped and resumable, 130 interrupted, 141 the reader of
        its output is gone.
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
        # --debug is accepted anywhere, since users add it at the end of the line that failed.
        words = [word for word in arguments if word != "--debug"]
        result: Any = cli.main(words, prog_name="fractale", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _interrupted()
    except ReaderGone:
        raise
    except Exception as error:
        if debug:
            raise
        from fractale.render.problems import show_error

        gone = isinstance(error, FileNotFoundError) and _working_directory() is None
        return show_error(_directory_removed() if gone else error)
    return result if isinstance(result, int) else 0


def _directory_removed() -> Exception:
    from fractale.errors import UsageError

    return UsageError(
        "the working directory was removed",
        hint="change to an existing directory with `cd`, and try again",
    )


def _interrupted() -> int:
    click.echo("interrupted", err=True)
    return 130
