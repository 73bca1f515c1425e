"""``fractale schema``: the JSON Schema of the plan language."""

from __future__ import annotations

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the plan language, for completion and checks in editors."""
    import json

    from fractale.plan.schema import plan_schema

    click.echo(json.dumps(plan_schema(), indent=2, ensure_ascii=False))
