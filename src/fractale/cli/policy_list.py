"""``fractale list --policy``: what would be decided about each tool, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fractale.cli.render.text import cells, inert, pad
from fractale.policy import Chooser, PlannedCall, Policy, Ruling, rules_about
from fractale.settings import PolicySettings
from fractale.toolbox import ToolInfo

CHOOSERS: tuple[tuple[Chooser, str], ...] = (
    ("plan", "a step of the plan"),
    ("model", "a model"),
)


def collect(tools: Sequence[ToolInfo], settings: PolicySettings) -> list[dict[str, Any]]:
    """The verdicts about every tool, without arguments, and the rules that speak of it."""
    policy = Policy(settings=settings)
    return [_row(tool, policy) for tool in tools]


def _row(tool: ToolInfo, policy: Policy) -> dict[str, Any]:
    rules = [
        {
            "list": kind,
            "tool": rule.tool,
            "arguments": dict(rule.arguments),
            **({"when": rule.when.source} if rule.when else {}),
            "from": rule.origin or "given",
        }
        for kind, rule in rules_about(policy.settings, tool)
    ]
    verdicts = {chooser: _verdict(_ruling(tool, chooser, policy)) for chooser, _ in CHOOSERS}
    return {"name": tool.name, "server": tool.server, **verdicts, "rules": rules}


def _ruling(tool: ToolInfo, chooser: Chooser, policy: Policy) -> Ruling:
    return policy.rule(PlannedCall(tool=tool, arguments={}, chosen_by=chooser, is_example=True))


def _verdict(ruling: Ruling) -> dict[str, str]:
    return {"verdict": ruling.verdict, "why": ruling.why}


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """A line a tool; below it each rule of the settings that speaks of it."""
    if not rows:
        return "no tools"
    width = max(cells(inert(row["name"], 60)) for row in rows)
    lines = [f"{pad('tool', width)}  {'in a plan':9}  by a model"]
    for row in rows:
        plan, model = row["plan"], row["model"]
        name = pad(inert(row["name"], 60), width)
        lines.append(
            f"{name}  {plan['verdict']:9}  {model['verdict']:5}  {inert(model['why'], 200)}"
        )
        lines += [f"{pad('', width)}  {_rule(rule)}" for rule in row["rules"]]
    lines += ["", *LEGEND]
    return "\n".join(lines)


def _rule(rule: dict[str, Any]) -> str:
    given = [f"{name} is {glob}" for name, glob in rule["arguments"].items()]
    where = f" where {', '.join(given)}" if given else ""
    when = f" when {rule['when']}" if "when" in rule else ""
    return inert(f"- {rule['list']} {rule['tool']}{where}{when} ({rule['from']})", 300)


LEGEND = (
    "in a plan: a `tool` step that a person wrote; its `approve` can ask for more.",
    "by a model: a call that a model chose, or of a step that a model drafted. `ask` needs a",
    "person, or --yes. Rules about arguments, and what a model has read, are decided call by call.",
)
