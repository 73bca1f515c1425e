"""``fractale sweep``: many runs of one plan.

The group starts a sweep if its first word is not the name of a subcommand. A plan with such a name
is written ``./show``.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import click

SUBCOMMANDS: Final = {
    "list": "List sweeps, the latest first.",
    "show": "Show the rows of a sweep, its failures, questions and limits.",
    "watch": "Follow a sweep that another process drives.",
    "resume": "Resume a sweep that stopped, waits, or reached a limit.",
    "answer": "Answer the questions of all runs of a sweep.",
    "retry": "Run failed rows again.",
    "cancel": "Stop a sweep, and end the batch jobs of its runs.",
    "export": "Write the table of results as CSV, JSON lines or Parquet.",
}
"""Subcommand → its summary. Each is `command` of the module of its name."""

START: Final = "start"
"""The module of the command that starts a sweep. It has no name on the command line."""

HELP: Final = ("-h", "--help")


class SweepGroup(click.Group):
    """The command that starts a sweep, and the subcommands, imported when they are called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in SUBCOMMANDS and args[0] not in HELP:
            args = [START, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [*SUBCOMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in SUBCOMMANDS and cmd_name != START:
            return None
        return importlib.import_module(f"{__name__}.{cmd_name}").command

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] PLAN")
        formatter.write_usage(ctx.command_path, "COMMAND …", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of a start, then the subcommands, which are not imported."""
        start: Any = self.get_command(ctx, START)
        click.Command.format_options(start, ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([*SUBCOMMANDS.items()])


@click.group("sweep", cls=SweepGroup, no_args_is_help=True)
def command() -> None:
    """Run PLAN once per row of a table of inputs. PLAN is a plan or a sweep file.

    \b
    fractale sweep melt.yaml --over temperature=300,600,900 --over seed=1..4
    fractale sweep melt.yaml --table runs.csv --on cluster
    fractale sweep melt.yaml --over skin=0.1..2.0 --sample 20 --dry-run
    fractale sweep sweep.yaml --sweep-id melt-1

    --over expects values (1,2,4), a range (1..8, 0..1:0.25, 1..64:*2) or a JSON list; several axes
    are combined. A table has a column per input: .csv, .tsv, .jsonl or .parquet.

    Runs have the IDs SWEEP.0, SWEEP.1, …, and every command for runs accepts them. Ctrl-C stops
    the sweep, and `fractale sweep resume` continues it. Exit codes: 0 all rows succeeded; 1 some
    failed; 4 some wait; 5 a limit was reached; 75 stopped.
    """
