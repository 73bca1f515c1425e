"""``fractale studio``: plans and runs in LangGraph Studio."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click

from fractale.cli import options
from fractale.cli.run import complete_plans


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
def command(
    plans: tuple[Path, ...],
    registries: tuple[Path, ...],
    agents: tuple[str, ...],
    backend: str | None,
    model: str | None,
    store: str | None,
    host: str,
    port: int,
    *,
    no_browser: bool,
) -> None:
    """Start LangGraph's development server on the plans of this folder, and open Studio on it.

    Its graphs are those of langgraph.json, and the PLANs. `plan` runs any plan, `prompt` asks in
    words. Runs are recorded as those of the command line are.

    \b
    fractale studio
    fractale studio my-plan.yaml -r my-tools.yaml --no-browser
    """
    from fractale.studio.launch import Start, prepare, run_server

    start = Start(
        plans=plans,
        registries=registries,
        agents=agents,
        host=host,
        port=port,
        browser=not no_browser,
    )
    if not _is_own(host):
        click.echo(
            f"warning: whoever can reach {host} can read your runs and run your plans: the "
            "development server has no password",
            err=True,
        )
    settings = options.settings_of(backend, model, None, store, acts=True)
    command, environment = prepare(start, settings)
    run_server(command, environment)


def _is_own(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
