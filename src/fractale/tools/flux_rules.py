"""What a Flux batch script must keep to, checked without Flux."""

from __future__ import annotations

import difflib
import re

from fractale.tools.batch_script import BatchScript, Directive
from fractale.tools.dialects import DIALECTS, FLUX


def flux_problems(parsed: BatchScript) -> list[str]:
    """Directives that ``flux batch`` would refuse, and a request that names no resources."""
    found = [problem for d in parsed.directives if (problem := _refusal(d))]
    if not {"nodes", "tasks"} & set(parsed.facts):
        found.append("neither --nodes nor --nslots is set: flux batch needs one of them")
    nodes, slots = parsed.facts.get("nodes"), parsed.facts.get("tasks")
    if nodes and slots and nodes > slots:
        found.append(f"--nodes={nodes} is more than --nslots={slots}")
    if parsed.facts.get("exclusive") and not nodes:
        found.append("--exclusive needs --nodes")
    return found


def _refusal(directive: Directive) -> str | None:
    if directive.option in FLUX.others:
        return None
    if directive.option not in FLUX.options:
        near = difflib.get_close_matches(directive.option, [*FLUX.options, *FLUX.others], 1)
        hint = f"; did you mean --{near[0]}?" if near else ""
        return f"line {directive.line}: flux batch has no option {directive.text}{hint}"
    if directive.problem:
        return f"line {directive.line}: {directive.text}: {directive.problem}"
    return None


def leftovers(parsed: BatchScript) -> list[str]:
    """Lines that are still another manager's directives."""
    marks = [d.sentinel for name, d in DIALECTS.items() if name != parsed.manager]
    return [
        f"still in the script: `{line.strip()}`"
        for line in parsed.rest
        if any(re.match(mark, line) for mark in marks)
    ]
