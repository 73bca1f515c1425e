"""Batch scripts: read one, check what somebody claims it says, translate it, validate it.

The evidence is always the script's own lines: every refusal names the line and quotes it.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from fractale.tools.batch_script import BatchScript, Directive, parse
from fractale.tools.dialects import DIALECTS, Dialect
from fractale.tools.flux_rules import flux_problems, leftovers

BASH_SECONDS = 10
PARSER = "the parser"


def read_batch_script(script: str) -> dict[str, Any]:
    """Read the directives of a Slurm, Flux, PBS or LSF batch script.

    Args:
        script: The script's text.

    Returns:
        ``manager``; ``facts``, what the job asks for in words of no manager (``nodes``,
        ``tasks``, ``seconds``, ``queue``, …); ``directives``, each with its line; and
        ``without_counterpart``, those that other managers cannot express, with the reason.

    Raises:
        ValueError: The text has no directives, or a line that cannot be read.
    """
    parsed = parse(script)
    return {
        "manager": parsed.manager,
        "facts": parsed.facts,
        "directives": [d.as_dict() for d in parsed.directives],
        "without_counterpart": [d.as_dict() for d in parsed.untranslatable],
    }


def check_directives(
    script: str,
    claimed: dict[str, Any],
    required: list[str] | None = None,
    source: str = "model",
    kept: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Check claims about a batch script against its own lines, and keep those that are right.

    Args:
        script: The script's text.
        claimed: What each option is claimed to be, such as ``{"ntasks": 64, "time": "1:00:00"}``.
        required: Options about which something must be claimed; else an empty claim is valid.
        source: Who claims it, for the record.
        kept: An earlier answer of this tool for the same script; what was right stays right.

    Returns:
        ``valid`` (whether every claim, now or earlier, is right), ``facts`` and ``supplied_by``
        for the right ones, ``missing`` (the names that are still wrong), and, where there are
        any, ``error``: what the lines say instead.

    Raises:
        ValueError: The script cannot be read.
    """
    parsed = parse(script)
    facts: dict[str, Any] = dict((kept or {}).get("facts") or {})
    supplied_by: dict[str, str] = dict((kept or {}).get("supplied_by") or {})
    wrong: dict[str, str] = {}
    for name, value in {**dict.fromkeys(required or []), **claimed}.items():
        directive = parsed.find(name)
        if directive and directive.fact in facts:
            continue
        if reason := _contradiction(parsed, directive, name, value):
            wrong[name] = reason
        elif directive and directive.fact:
            facts[directive.fact] = directive.meaning
            supplied_by[directive.fact] = source
    answer = {
        "valid": not wrong,
        "facts": facts,
        "supplied_by": supplied_by,
        "missing": list(wrong),
    }
    return {**answer, "error": ", ".join(wrong.values())} if wrong else answer


def _contradiction(
    parsed: BatchScript, directive: Directive | None, name: str, value: Any
) -> str | None:
    """What the script says against a claim; None where it agrees."""
    if directive is None:
        return None if value in (None, "") else f"no line says what {name} is"
    if value is None:
        return f"line {directive.line} says {name} is {directive.value}"
    if value == directive.value or value == directive.meaning:
        return None
    try:
        same = _meaning_of(parsed, directive, str(value)) == directive.meaning
    except ValueError:
        same = False
    if same and directive.fact:
        return None
    return f"line {directive.line} says {name} is {directive.value}, not {value}"


def _meaning_of(parsed: BatchScript, directive: Directive, text: str) -> Any:
    option = DIALECTS[parsed.manager].options.get(directive.option)
    return option.read(text.strip()) if option else None


def take_over_directives(
    script: str, missing: list[str], kept: dict[str, Any], source: str = PARSER
) -> dict[str, Any]:
    """Read by parser what somebody else got wrong.

    Args:
        script: The script's text.
        missing: Options that are still to be read, as `check_directives` names them.
        kept: What is known already: ``facts`` and ``supplied_by``.
        source: Who reads them, for the record.

    Returns:
        ``facts`` and ``supplied_by``, completed, and ``taken_over``: the facts added.

    Raises:
        ValueError: The script cannot be read.
    """
    parsed = parse(script)
    found = [directive for name in missing if (directive := parsed.find(name))]
    added = {d.fact: d.meaning for d in found if d.fact and not d.problem}
    return {
        "facts": {**(kept.get("facts") or {}), **added},
        "supplied_by": {**(kept.get("supplied_by") or {}), **dict.fromkeys(added, source)},
        "taken_over": list(added),
    }


def translate_batch_script(
    script: str, to_manager: str = "flux", known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write a batch script for another workload manager; its commands stay as they are.

    Args:
        script: The script's text: Slurm, Flux, PBS or LSF.
        to_manager: ``flux`` or ``slurm``.
        known: ``facts`` that are established already and ``supplied_by``, who established
            them; whatever they leave open is read from the script by parser.

    Returns:
        ``script``; ``facts``; ``supplied_by``; ``credits``, a line of text for each fact; and
        ``not_translated``, a line of text for each directive without a counterpart.

    Raises:
        ValueError: The script cannot be read, is that manager's already, or fractale does not
            write for that manager.
    """
    target = DIALECTS.get(to_manager)
    if target is None or not target.write:
        raise ValueError(f"fractale writes scripts for flux and slurm, not for `{to_manager}`")
    parsed = parse(script)
    if parsed.manager == to_manager:
        raise ValueError(f"the script is one of {to_manager} already: nothing is to be translated")
    established: Mapping[str, Any] = (known or {}).get("facts") or {}
    facts = {**parsed.facts, **established}
    supplied_by = dict.fromkeys(facts, PARSER) | dict((known or {}).get("supplied_by") or {})
    directives, lost = _directive_lines(target, facts)
    not_translated = [f"line {d.line}: {d.text} ({d.problem})" for d in parsed.untranslatable]
    mark = "#FLUX: " if to_manager == "flux" else "#SBATCH "
    header = [parsed.shebang or "#!/bin/sh", *(mark + text for text in directives)]
    return {
        "script": "\n".join([*header, *parsed.rest]) + "\n",
        "facts": facts,
        "supplied_by": supplied_by,
        "credits": [_credit(parsed, name, facts[name], by) for name, by in supplied_by.items()],
        "not_translated": not_translated + lost,
    }


def _directive_lines(target: Dialect, facts: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The facts as directives of the target, and what of them could not be said."""
    settled, lost = _settle(facts)
    lines: list[str] = []
    for fact, (option, written) in target.write.items():
        if fact in settled:
            value = written(settled[fact])
            lines.append(target.flag(option) + (f"={value}" if value else ""))
    return lines, lost


def _settle(facts: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same request in totals and per task, and what of it could not be said so."""
    settled = dict(facts)
    nodes = settled.get("nodes")
    per_node = settled.pop("tasks_per_node", None)
    if per_node and nodes and "tasks" not in settled:
        settled["tasks"] = per_node * nodes
        per_node = None
    elif per_node and not nodes and "tasks" in settled:  # LSF counts slots, and slots per host
        nodes = settled["nodes"] = math.ceil(settled["tasks"] / per_node)
    lost = [f"tasks_per_node {per_node} (follows from tasks and nodes)"] if per_node else []
    for thing in ("cores", "gpus"):
        amount = settled.pop(f"{thing}_per_node", None)
        if amount is None:
            continue
        total, tasks = amount * (nodes or 1), settled.get("tasks", nodes or 1)
        settled.setdefault("tasks", tasks)
        if total % tasks:
            lost.append(f"{thing}_per_node {amount} (does not divide evenly over {tasks} tasks)")
        else:
            settled.setdefault(f"{thing}_per_task", total // tasks)
    return settled, lost


def _credit(parsed: BatchScript, fact: str, value: Any, by: str) -> str:
    directive = parsed.find(fact)
    line = f"line {directive.line}: " if directive else ""
    return f"{line}{fact} = {value}, read by {by}"


def validate_batch_script(script: str, original: str | None = None) -> dict[str, Any]:
    """Check a batch script without a workload manager at hand.

    Looks for directives that the manager does not know or cannot read, for those of another
    manager left in it, for shell syntax that ``bash -n`` refuses, and, where the script it was
    translated from is given, whether both ask for the same and run the same commands.

    Args:
        script: The script's text.
        original: The script that it was translated from.

    Returns:
        ``valid``, ``checks`` (how many were made), ``warnings``, and, where there are any,
        ``errors``.
    """
    try:
        parsed = parse(script)
    except ValueError as error:
        return {"valid": False, "checks": 1, "warnings": [], "errors": [str(error)]}
    found = [
        [] if parsed.shebang else ["the script does not begin with #!"],
        flux_problems(parsed) if parsed.manager == "flux" else _unreadable(parsed),
        leftovers(parsed),
        bash_problems(script, parsed.shebang),
        _differences(parsed, parse(original)) if original else [],
    ]
    errors = [problem for problems in found for problem in problems]
    answer = {
        "valid": not errors,
        "checks": len(found) if original else len(found) - 1,
        "warnings": _foreign_commands(parsed),
    }
    return {**answer, "errors": errors} if errors else answer


def _unreadable(parsed: BatchScript) -> list[str]:
    return [
        f"line {d.line}: {d.text}: {d.problem}" for d in parsed.directives if d.fact and d.problem
    ]


def _differences(parsed: BatchScript, original: BatchScript) -> list[str]:
    """Where two scripts ask for different things or run different commands."""
    ours, theirs = _settle(parsed.facts)[0], _settle(original.facts)[0]
    found = [
        f"{name} is {ours.get(name, 'not set')}, but the original asks for {theirs[name]}"
        for name in theirs
        if ours.get(name) != theirs[name]
    ]
    found += [f"{name} is set, but not in the original" for name in ours if name not in theirs]
    if _commands(parsed) != _commands(original):
        found.append("the commands below the directives are not those of the original")
    return found


def _commands(parsed: BatchScript) -> list[str]:
    return [line.rstrip() for line in parsed.rest if line.strip()]


def _foreign_commands(parsed: BatchScript) -> list[str]:
    """Lines of the body that speak to another manager than the directives do."""
    words = {"slurm": ("srun ", "SLURM_"), "pbs": ("PBS_",), "lsf": ("jsrun ", "LSB_")}
    foreign = [w for manager, ws in words.items() if manager != parsed.manager for w in ws]
    return [
        f"`{line.strip()}` speaks of {word.strip()}, which {parsed.manager} does not have"
        for line in parsed.rest
        for word in foreign
        if word in line and not line.lstrip().startswith("#")
    ]


def bash_problems(script: str, shebang: str) -> list[str]:
    """What ``bash -n`` says against a shell script; nothing for one in another language.

    Args:
        script: The script's text; it is parsed, never run.
        shebang: Its first line.
    """
    bash = shutil.which("bash")
    if bash is None or not shebang.split("/")[-1].split(" ")[-1].endswith("sh"):
        return []
    checked = subprocess.run(  # noqa: S603 - a fixed program; the script is only parsed
        [bash, "-n"],
        input=script,
        capture_output=True,
        text=True,
        timeout=BASH_SECONDS,
        check=False,
    )
    return [line.removeprefix(f"{bash}: ") for line in checked.stderr.splitlines()]
