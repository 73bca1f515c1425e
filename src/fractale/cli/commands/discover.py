"""``fractale discover``: the schedulers, hardware and software of this machine and site."""

from __future__ import annotations

import click

from fractale.plain import to_json


@click.command("discover")
@click.argument("section", required=False)
@click.option("--refresh", is_flag=True, help="Ignore results of the last hour, and look again.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit for each program; slow programs get three times as long.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(section: str | None, *, refresh: bool, timeout: float, as_json: bool) -> None:
    """Show the schedulers, hardware and software of this machine and site, or one SECTION of them.

    Lists schedulers with their partitions and nodes, GPUs, modules, Spack, MPI, containers,
    Kubernetes and directories. ✓: it works; ✗: it is present but does not work, with the reason.

    \b
    fractale discover
    fractale discover schedulers --json
    """
    import asyncio

    from fractale.cli.options import settings_of
    from fractale.cli.running import own_stdout
    from fractale.errors import UsageError
    from fractale.site.discover import PROBES, look

    if section is not None and section not in PROBES:
        raise UsageError(
            f"`{section}` is not a valid section", hint=f"choose one of: {', '.join(PROBES)}"
        )
    with own_stdout() as stdout:
        site = asyncio.run(look(settings_of(), refresh=refresh, timeout=timeout))
        if as_json:
            found = site.as_dict()
            if section:
                found["sections"] = {section: found["sections"].get(section, [])}
            click.echo(to_json(found), file=stdout)
            return
        from fractale.render.site import columns_of, site_lines
        from fractale.render.text import paint, wants_color, writable

        color, width = wants_color(stdout), columns_of(stdout)
        lines = [paint(line, color=color) for line in site_lines(site, section, width)]
        click.echo(writable("\n".join(lines), getattr(stdout, "encoding", None)), file=stdout)
