"""``fractale doctor``: check that everything needed is there, and say how to get the rest."""

from __future__ import annotations

from pathlib import Path

import click

from fractale.cli import options
from fractale.cli.options import complete_plans
from fractale.plain import to_json


@click.command("doctor")
@click.argument("plan", required=False, type=click.Path(), shell_complete=complete_plans)
@options.tool_options
@click.option(
    "--server",
    "server_files",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Check this server file, as for `fractale serve`. Repeatable.",
)
@options.input_options
@options.model_options
@options.store_option
@options.trust_option
@click.option(
    "--site-rules",
    is_flag=True,
    help="Check only the rules of a shared site: sockets, polling, secrets, files.",
)
@click.option(
    "--online", is_flag=True, help="Also send the model a short request, which costs a few tokens."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit for each program or server.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.collected
def command(
    plan: str | None,
    server_files: tuple[Path, ...],
    *,
    site_rules: bool,
    online: bool,
    timeout: float,
    given: options.CommandLine,
) -> int:
    """Check the requirements of PLAN, a registry or a server file, and show how to meet them.

    Without any of them, check the site for every feature. ✓: found; ✗: required but missing;
    !: missing, and possibly not required. Exit code 0: no requirement is missing; 1: one is.

    \b
    fractale doctor
    fractale doctor fractale:demo -r fractale:demo
    fractale doctor fractale:lammps -r fractale:lammps -i scheduler=slurm
    fractale doctor --server servers/run-job.yaml
    fractale doctor --site-rules
    """
    import asyncio

    from fractale.cli.running import own_stdout
    from fractale.site.doctor import Wanted, examine, examine_rules

    settings = given.settings(acts=not site_rules, check_state=not site_rules)
    wanted = Wanted(
        plan=plan,
        registries=[Path(path) for path in given.extensions.paths],
        server_files=server_files,
        agents=given.extensions.agents,
        inputs=given.inputs,
    )
    with own_stdout() as stdout:
        if site_rules:
            report = examine_rules(settings)
        else:
            report = asyncio.run(examine(settings, wanted, online=online, timeout=timeout))
        if given.as_json:
            click.echo(to_json(report.as_dict()), file=stdout)
        else:
            from fractale.render.site import columns_of, report_lines
            from fractale.render.text import paint, wants_color, writable

            color, width = wants_color(stdout), columns_of(stdout)
            lines = [paint(line, color=color) for line in report_lines(report, width)]
            click.echo(writable("\n".join(lines), getattr(stdout, "encoding", None)), file=stdout)
    return 1 if report.missing else 0
