"""``fractale serve``: serve registry or server files over MCP."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
@click.option(
    "--transport", type=click.Choice(["http", "stdio", "sse"]), help="The transport. Default: http."
)
@click.option("--host", help="Address to listen on. Default: from the file, or 127.0.0.1.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on. Default: from the file, or 8089.",
)
@click.option("--path", help="Endpoint path. Default: from the file, or /mcp (/sse for sse).")
@click.option("--stdio", is_flag=True, help="Same as --transport stdio.")
@click.option(
    "--token",
    envvar="FRACTALE_MCP_TOKEN",
    help="Require this bearer token. Set FRACTALE_MCP_TOKEN to keep it off the command line.",
)
@click.option("--ssl-certfile", metavar="PEM", help="Certificate file, to serve HTTPS.")
@click.option(
    "--ssl-keyfile", metavar="PEM", help="Private key of the certificate, without a passphrase."
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Accept this host name, too; * accepts any. Repeatable.",
)
@click.option(
    "--allowed-origin",
    "allowed_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Accept calls from pages of this web origin, such as https://lab.example. Repeatable.",
)
def command(files: tuple[Path, ...], *, stdio: bool, **options: Any) -> None:
    """Serve the tools, prompts and resources of FILEs over MCP, by default only on this machine.

    \b
    fractale serve fractale:demo
    FRACTALE_MCP_TOKEN=… fractale serve fractale:demo --host 0.0.0.0
    """
    from fractale.server import serve

    if stdio:
        options["transport"] = "stdio"
    serve(load_all(files), on_ready=_report, **options)


def _report(url: str) -> None:
    where = urlsplit(url)
    click.echo(f"serving at {url} · health {where.scheme}://{where.netloc}/health", err=True)


def load_all(files: tuple[Path, ...]) -> list[Any]:
    """Load all registry and server files.

    Raises:
        PlanError: Some files are invalid; it has the problems of all files.
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
