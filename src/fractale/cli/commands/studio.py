"""``fractale studio``: plans and runs in LangGraph Studio."""

from __future__ import annotations

from pathlib import Path

import click

from fractale.cli import options
from fractale.cli.commands.run import complete_plans


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
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=2024, show_default=True)
@click.option("--no-browser", is_flag=True, help="Do not open Studio's page.")
@options.collected
def command(
    plans: tuple[Path, ...],
    host: str,
    port: int,
    *,
    no_browser: bool,
    given: options.CommandLine,
) -> None:
    """Start LangGraph's development server on the plans of this folder, and open Studio on it.

    Its graphs are those of langgraph.json, and the PLANs. `plan` runs any plan, `prompt` asks in
    words. Runs are recorded as those of the command line are.

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
            "the address below has the server's token in it: with it anyone can run commands as "
            "you, so keep it to yourself",
            err=True,
        )
    else:
        click.echo("only you can use the server: other users are refused", err=True)
    if not is_own(host):
        click.echo(
            f"warning: {host} can be reached from other machines, and nothing is encrypted: "
            "better listen on 127.0.0.1, and connect with ssh -L",
            err=True,
        )
    run_server(command, environment)
