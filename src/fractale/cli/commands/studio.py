"""``fractale studio``: plans and runs in LangGraph Studio."""

from __future__ import annotations

from pathlib import Path

import click

from fractale.cli import options
from fractale.cli.options import complete_plans


@click.command("studio")
@click.argument(
    "plans",
    nargs=-1,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="[PLAN]...",
    shell_complete=complete_plans,
)
@options.tool_options
@options.model_options
@options.store_option
@options.trust_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=2024,
    show_default=True,
    help="Port to listen on.",
)
@click.option("--no-browser", is_flag=True, help="Do not open Studio in a browser.")
@options.collected
def command(
    plans: tuple[Path, ...],
    host: str,
    port: int,
    *,
    no_browser: bool,
    given: options.CommandLine,
) -> None:
    """Start LangGraph's development server in this directory, and open Studio in a browser.

    Studio shows the graphs of langgraph.json and the PLANs. Its graph `plan` runs any plan, and
    `prompt` takes an instruction in plain English. Runs are recorded like those of the command
    line.

    \b
    fractale studio
    fractale studio my-plan.yaml -r my-tools.yaml --no-browser
    """
    from fractale.cli.consent import ask_about_config
    from fractale.studio.gate import TOKEN
    from fractale.studio.launch import Start, is_own, prepare, run_server

    start = Start(
        plans=plans, extensions=given.extensions, host=host, port=port, browser=not no_browser
    )
    settings = given.settings(acts=True)
    ask_about_config(settings)
    command, environment = prepare(start, settings)
    if environment.get(TOKEN):
        click.echo(
            "the address below contains the server's token: anyone who has it can run commands as "
            "you, so keep it secret",
            err=True,
        )
    else:
        click.echo("only you can use the server; it refuses other users", err=True)
    if not is_own(host):
        click.echo(
            f"warning: other machines can reach {host}, and the connection is not encrypted; "
            "listen on 127.0.0.1 and connect with ssh -L instead",
            err=True,
        )
    run_server(command, environment)
