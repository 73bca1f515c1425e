"""``fractale version``."""

from __future__ import annotations

import click


@click.command("version")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, with the versions of dependencies."
)
def command(*, as_json: bool) -> None:
    """Show the version."""
    from importlib.metadata import PackageNotFoundError, version

    if not as_json:
        click.echo(version("fractale"))
        return
    import json
    import platform

    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("fractale", "langgraph", "langchain-core", "langchain", "mcp", "fastmcp"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    click.echo(json.dumps(found))
