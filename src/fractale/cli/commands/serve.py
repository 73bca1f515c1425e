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
@click.option("--transport", type=click.Choice(["http", "stdio", "sse"]), help="Default: http.")
@click.option("--host", help="Default: what the file says, else 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: the file's, else 8089.")
@click.option("--path", help="Of the endpoint. Default: the file's, else /mcp, for sse /sse.")
@click.option("--stdio", is_flag=True, help="The same as --transport stdio.")
@click.option(
    "--token",
    envvar="FRACTALE_MCP_TOKEN",
    help="Callers must send it as a bearer token. Better set FRACTALE_MCP_TOKEN than type it.",
)
@click.option("--ssl-certfile", metavar="PEM", help="The certificate: with it, HTTPS is served.")
@click.option("--ssl-keyfile", metavar="PEM", help="The certificate's key, without a pass phrase.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A further name that callers may use for this machine; * any. Repeat it for more.",
)
@click.option(
    "--allowed-origin",
    "allowed_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web origin, as https://lab.example, whose pages may call. Repeat it for more.",
)
def command(files: tuple[Path, ...], *, stdio: bool, **options: Any) -> None:
    """Serve the tools, prompts and resources of FILEs over MCP, on this machine only by default.

    \b
    fractale serve registries/demo.yaml
    FRACTALE_MCP_TOKEN=… fractale serve registries/demo.yaml --host 0.0.0.0
    """
    from fractale.server import serve

    if stdio:
        options["transport"] = "stdio"
    serve(load_all(files), on_ready=_tell, **options)


def _tell(url: str) -> None:
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
