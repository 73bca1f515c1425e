"""A plan's effects as text, for ``run --dry-run`` and before a stranger's plan runs.

The text hides nothing: a stranger may have written the plan.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, cast

from fractale.plain import to_json
from fractale.plan import draw
from fractale.plan.model import Plan
from fractale.render.questions import arguments_lines, exact
from fractale.runs.dry_run import STEP_KEYS

MOST_BLANKS = 40
"""The most blanks in a row, and the most empty lines. More are counted instead of shown, since
they could push text off the screen."""


def text_lines(plan: Plan, found: Mapping[str, Any]) -> list[str]:
    """The lines of a plan's effects; nothing is cut, and no character is hidden.

    Args:
        found: The result of `fractale.runs.dry_run.describe`.
    """
    lines = [draw.text(plan).rstrip("\n"), ""]
    for expert in found.get("experts", ()):
        told = {key: value for key, value in expert.items() if key != "name"}
        lines += [exact(f"{expert['name']}  an agent of this plan")]
        lines += [*(f"    {line}" for line in arguments_lines(told)), ""]
    for step in found["steps"]:
        lines += _step_lines(step)
    lines += [
        _row("input", f"{name} = {exact(to_json(value))}")
        for name, value in found["inputs"].items()
    ]
    for label in ("tools", "prompts", "agents", "jobs", "models", "servers", "registries"):
        lines.append(_row(label, exact(", ".join(found[label])) or "none"))
        if label == "jobs" and found["scripts"]:
            lines.append(_row("scripts", exact(", ".join(found["scripts"]))))
    lines += [_row("confined", exact(f"{name}: {how}")) for name, how in found["confined"].items()]
    limits = {k: v for k, v in found["limits"].items() if v is not None}
    lines.append(_row("limits", ", ".join(f"{k} {v:g}" for k, v in limits.items()) or "none"))
    lines += [_row("includes", exact(path)) for path in found["included"]]
    lines += [
        _row("imports", exact(f"{each['path']}   named by {each['named_by']}"))
        for each in found["imports"]
    ]
    for server in found["server_addresses"]:
        for verb in ("starts", "connects"):
            if server[verb]:
                lines.append(_row(verb, exact(f"{server['name']}: {server[verb]}")))
    lines += [
        _row("sends", exact(f"prompts to {each['model']}: {each['address']}"))
        for each in found["sent_to"]
    ]
    return [_without_gaps(line) for line in lines]


def _row(label: str, text: str) -> str:
    return f"{label:<10} {text}"


def _step_lines(step: Mapping[str, Any]) -> list[str]:
    """A step with all its values."""
    given: dict[str, Any] = dict(step["inputs"])
    if step["instruction"]:
        given = {"instruction": step["instruction"], **given}
    if step.get("reason"):
        given = {**given, "reason": step["reason"]}
    kind, what, below = str(step["type"]), str(step["target"] or ""), list[str]()
    if (job := cast("dict[str, Any] | None", step["job"])) is not None:
        what = "runs on this machine"
        if kind != "script":
            kind = "job"
            what = f"submitted to {job.get('scheduler') or 'the scheduler of this machine'}"
        below = list(_program_lines(job))
        rest = ("outputs", "scheduler", "command", "script")
        given = {k: v for k, v in job.items() if k not in rest and v is not None}
    elif kind != "set":
        given = {f"inputs.{k}" if k in STEP_KEYS else k: v for k, v in given.items()}
    given |= {key: step[key] for key in STEP_KEYS if step.get(key)}
    if not given and not below:
        return []
    head = f"{step['name']}  {kind}  {what}".rstrip()
    below += arguments_lines(given) if given else []
    return [exact(head), *(f"    {line}" for line in below), ""]


def _program_lines(job: Mapping[str, Any]) -> Iterator[str]:
    """The command of a job, quoted for a shell, or its script."""
    command: Any = job.get("command")
    if isinstance(command, list):
        command = " ".join(map(_word, cast("list[Any]", command)))
    if command is not None:
        first, *rest = exact(str(command)).split("\n")
        yield f"command  {first}"
        yield from (f"  │ {line}" for line in rest)
    if job.get("script") is not None:
        yield "script"
        yield from (f"  │ {line}" for line in exact(str(job["script"])).rstrip("\n").split("\n"))


def _word(word: Any) -> str:
    """A word of a command, quoted for a shell."""
    return shlex.quote(word) if isinstance(word, str) else to_json(word)


def _without_gaps(text: str) -> str:
    """A text with long gaps replaced by their length, so that the text after them is seen."""
    text = re.sub(rf" {{{MOST_BLANKS},}}(?=\S)", lambda found: f" [{len(found[0])} blanks] ", text)
    return re.sub(
        r"(\n[ │]*){8,}", lambda found: f"\n[{found[0].count(chr(10)) - 1} empty lines]\n", text
    )
