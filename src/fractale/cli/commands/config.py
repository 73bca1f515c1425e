"""``fractale config``: every setting and where it came from."""

from __future__ import annotations

from typing import Any

import click

from fractale.cli.options import settings_of
from fractale.masking import Masker
from fractale.settings import Settings, without_password

SECRET = ("openai_api_key", "gemini_api_key")
SHOWN = (
    "provider",
    "model",
    "local_model",
    "fallback_models",
    "openai_api_key",
    "openai_base_url",
    "gemini_api_key",
    "gemini_base_url",
    "max_attempts",
    "local_cores",
    "state_dir",
    "store",
    "audit",
    "poll_seconds",
)


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, as_json: bool) -> None:
    """Show every setting and its source. Secrets are never shown."""
    settings = settings_of(check_state=False)
    rows = Masker(settings.secrets)(_rows(settings))
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["setting"]) for row in rows)
    for row in rows:
        value = "-" if row["value"] is None else str(row["value"])
        click.echo(f"{row['setting']:<{width}}  {value:<32}  {row['from']}")


def _rows(settings: Settings) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in SHOWN:
        value = getattr(settings, name)
        if name in SECRET and value:
            value = "*** (set)"
        elif name in ("state_dir", "audit") and value:
            value = str(value)
        elif name == "store":
            value = without_password(value) or "sqlite"
        rows.append(_row(name, value, settings))
    for name, server in settings.servers.items():
        rows.append(
            {
                "setting": f"servers.{name}",
                "value": f"{server.transport} {server.address}"
                + (" (token set)" if server.token else ""),
                "from": server.origin,
            }
        )
    for kind in ("allow", "ask", "deny"):
        for rule in getattr(settings.policy, kind):
            origin = getattr(rule, "origin", "")
            rows.append({"setting": f"policy.{kind}", "value": str(rule), "from": origin})
    for each in settings.notify:
        kind = "webhook" if each.webhook else "command"
        value = f"{', '.join(each.on)}: {kind} {each.address}"
        rows.append({"setting": "notify", "value": value, "from": each.origin})
    rows += [
        {"setting": f"executors.{name}", "value": each.summary, "from": each.origin}
        for name, each in settings.executors.items()
    ]
    for spec, price in settings.prices.items():
        value = f"{price.input:g} in, {price.output:g} out (US$ per million tokens)"
        origin = settings.origins["prices"]
        rows.append({"setting": f"prices.{spec}", "value": value, "from": origin})
    return rows


def _row(name: str, value: Any, settings: Settings) -> dict[str, Any]:
    return {"setting": name, "value": value, "from": settings.origins.get(name, "default")}
