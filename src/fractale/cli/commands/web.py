"""``fractale web``: the runs of this directory in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from fractale import shipped
from fractale.cli import options

PACKAGES: Final = ("starlette", "uvicorn", "sse_starlette", "python_multipart", "anyio")
"""Those of the extra `web`."""


@click.command("web")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of 127.0.0.1 to listen on. Default: a free one.",
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Listen on this Unix socket instead of a port, for `ssh -L`.",
)
@options.tool_options
@options.model_options
@options.trust_option
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser.")
@options.collected
def command(
    port: int, socket_path: Path | None, *, no_browser: bool, given: options.CommandLine
) -> None:
    """Show the runs of this directory in a browser: follow, answer, cancel, resume, fork, start.

    Only you can use the page. The printed address has a token, which the browser exchanges for a
    cookie; keep the address secret. -r, -a, --backend and --model are for the runs that you start.

    \b
    fractale web
    fractale web --port 8765 --no-browser        then ssh -L 8765:localhost:8765 LOGIN
    fractale web --socket ~/.fractale/web.sock   where listening on a port is not allowed

    Ctrl-C ends the page at once. Runs that were started from it keep running.
    """
    try:
        from fractale.web import serve
        from fractale.web.access import Access
        from fractale.web.app import FOLDER, Web
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    from fractale.runs.actions import RunFlags

    settings = given.settings(acts=True)
    listener = serve.listen(port) if socket_path is None else serve.listen_at(socket_path)
    check_user = serve.shows_user(listener)
    if not check_user:
        click.echo(serve.unknown_user(listener), err=True)
    name = str(listener.getsockname()[1]) if socket_path is None else "socket"
    web = Web(
        settings=settings,
        directory=Path.cwd(),
        access=Access(name=name, check_user=check_user),
        flags=RunFlags(
            registries=[shipped.recorded(each) for each in given.extensions.paths],
            agents=given.extensions.agents,
            backend=given.backend,
            model=given.model,
        ),
        report=lambda words: click.echo(words, err=True),
    )
    address = serve.address_of(listener, web.access)

    def ready() -> None:
        _report(address, socket_path)
        if not no_browser and socket_path is None:
            page = settings.state_dir / FOLDER / f"{name}.html"
            serve.open_browser(address, page, settings.environment)

    try:
        serve.run(web.app(), listener, ready, web.stop)
    finally:
        if socket_path is not None:
            socket_path.unlink(missing_ok=True)
        (settings.state_dir / FOLDER / f"{name}.html").unlink(missing_ok=True)


def _missing(error: ModuleNotFoundError) -> Exception:
    """What to install, if the page's packages are missing; any other error unchanged."""
    from fractale.errors import DependencyMissing

    if (error.name or "").partition(".")[0] not in PACKAGES:
        return error
    return DependencyMissing(
        f"`fractale web` needs the package `{error.name}`", hint="pip install 'fractale[web]'"
    )


def _report(address: str, socket_path: Path | None) -> None:
    from fractale.web.serve import forwarding

    if socket_path is not None:
        click.echo(f"listening on {socket_path}; on your own machine run:", err=True)
        click.echo(f"  {forwarding(socket_path)}", err=True)
        click.echo("and open there:", err=True)
    click.echo(address)
    click.echo(
        "the address has a token: keep it secret · Ctrl-C ends the page, not the runs", err=True
    )
