"""A sweep before it starts as text, for ``--dry-run`` and for a stranger's sweep file.

As `fractale.render.dry_run` does for a plan, the text hides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fractale.plain import to_json
from fractale.render.dry_run import text_lines
from fractale.render.questions import exact
from fractale.render.text import count
from fractale.sweeps.begin import Prepared
from fractale.sweeps.budget import OF_MODELS

NAMES: Final[Mapping[str, str]] = {
    "tokens": "tokens",
    "cost": "dollars",
    "node_hours": "node-hours",
    "core_hours": "core-hours",
    "gpu_hours": "GPU-hours",
    "jobs": "batch jobs",
}


def sweep_text_lines(prepared: Prepared, found: Mapping[str, Any]) -> list[str]:
    """The lines of a sweep's effects: its rows, what it may cost at most, and its plan.

    Args:
        found: The result of `fractale.sweeps.dry_run.describe_sweep`.
    """
    lines = [*_about(found), "", *_rows(found), "", *_costs(found), ""]
    lines += ["each run, here with the inputs of row 0:", ""]
    return [*lines, *text_lines(prepared.plan, found["effects"])]


def _about(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{count(found['rows'], 'run')} of {exact(found['plan'])} ({exact(found['file'])})"
    if found["description"]:
        yield _row("purpose", exact(found["description"]))
    if found["sweep_file"]:
        yield _row("from", exact(found["sweep_file"]))
    if found["table"]:
        yield _row("table", exact(found["table"]))
    if found["sample"] is not None:
        yield _row("drawn", f"{found['sample']:,} rows, seed {found['seed']}")
    yield _row("on", f"{exact(found['executor'])}, {found['at_a_time']:,} at a time")
    for name in ("limits", "run_limits"):
        if found[name]:
            words = ", ".join(f"{key} {_limit(key, value)}" for key, value in found[name].items())
            yield _row("limits" if name == "limits" else "each run", words)
    for step, answer in found["answers"].items():
        yield _row("answer", f"{exact(str(step))}: {exact(to_json(answer))}")


def _limit(name: str, value: float) -> str:
    return f"{_number(value)} s" if name == "time" else _number(value)


def _rows(found: Mapping[str, Any]) -> Iterator[str]:
    total = found["rows"]
    first, last = found["first"], found["last"]
    for number, inputs in enumerate(first):
        yield _row(f"row {number}", _inputs(inputs))
    if left := total - len(first) - len(last):
        yield _row("…", f"{left:,} more")
    for number, inputs in enumerate(last, total - len(last)):
        yield _row(f"row {number}", _inputs(inputs))


def _inputs(inputs: Mapping[str, Any]) -> str:
    return exact(", ".join(f"{name}={to_json(value)}" for name, value in inputs.items()))


def _costs(found: Mapping[str, Any]) -> Iterator[str]:
    yield "at most, in all:"
    rows, overshoots = found["rows"], False
    unbounded: list[str] = []
    unused: dict[str, list[str]] = {}
    for name, bound in found["most"].items():
        words = NAMES[name]
        if bound["most"] is None:
            unbounded.append(words)
            continue
        if bound["each"] == 0:
            why = "no step asks a model" if name in OF_MODELS else "no step submits a job"
            unused.setdefault(why, []).append(words)
            continue
        overshoots = overshoots or name in OF_MODELS
        parts: list[str] = []
        if bound["each"] is not None:
            parts.append(f"{rows:,} runs x {_number(bound['each'])} = {_number(bound['rows'])}")
        if bound["limit"] is not None:
            parts.append(f"the sweep's limit is {_number(bound['limit'])}")
        yield f"  {words:<11} {_number(bound['most'])}  ({'; '.join(parts)})"
    for why, names in unused.items():
        yield f"  none: {', '.join(names)}; {why}"
    if unbounded:
        yield f"  no bound: {', '.join(unbounded)}; --run-limit NAME=VALUE sets one"
    if overshoots:
        yield "  A model call that is in progress when a run reaches its limit comes on top."


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.6g}"


def _row(label: str, text: str) -> str:
    return f"{label:<10} {text}"
