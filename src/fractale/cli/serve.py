"""``fractale serve``: serve registry or server files over MCP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fractale.errors import PlanError, Problem


@click.command("serve")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE...",
)
@click.option("--transport", type=click.Choice(["http", "stdio", "sse"]), help="Default: http.")
@click.option("--host", help="Default: what the file says, else 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: the file's, else 8089.")
@click.option("--stdio", is_flag=True, help="The same as --transport stdio.")
@click.option(
    "--token",
    envvar="FRACTALE_MCP_TOKEN",
    help="Callers must send it as a bearer token. Better set FRACTALE_MCP_TOKEN than type it.",
)
def command(
    files: tuple[Path, ...],
    transport: str | None,
    host: str | None,
    port: int | None,
    token: str | None,
    *,
    stdio: bool,
) -> None:
    """Serve the tools, prompts and resources of FILEs over MCP, on this machine only by default.

    \b
    fractale serve registries/demo.yaml
    FRACTALE_MCP_TOKEN=… fractale serve registries/demo.yaml --host 0.0.0.0
    """
    from fractale.server import serve

    def ready(url: str) -> None:
        click.echo(f"serving at {url} · health {url.rpartition('/')[0]}/health", err=True)

    serve(
        load_all(files),
        transport="stdio" if stdio else transport,
        host=host,
        port=port,
        token=token,
        on_ready=ready,
    )


def load_all(files: tuple[Path, ...]) -> list[Any]:
    """Every registry file.

    Raises:
        PlanError: Any of them is wrong, with the problems of all.
    """
    from fractale.registry import load_registry

    registries: list[Any] = []
    problems: list[Problem] = []
    for file in files:
        try:
            registries.append(load_registry(file))
        except PlanError as error:
            problems += error.problems
    if problems:
        raise PlanError(problems)
    return registries
