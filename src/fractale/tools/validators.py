"""Whether a batch script is one that its workload manager would take.

Each of these asks the manager itself where it answers on this machine, and checks beside it what
the manager lets pass: a script without directives, another manager's directives left over, a
broken body, a time over the queue's limit. Where no manager answers, only the script's own lines
are checked, and the answer says so.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fractale.schedulers.slurm.times import read_time as slurm_seconds
from fractale.tools.batch import bash_problems, validate_batch_script
from fractale.tools.batch_script import BatchScript, header_of, parse
from fractale.tools.dialects import DIALECTS, MARKS
from fractale.tools.processes import Ended, run_program

SECONDS = 60
"""How long a manager may take to answer."""

DIRECTIVES_ONLY = (
    "no {manager} answered here, so only the script's own lines were checked: whether the options "
    "are written as {manager} reads them, nothing of the site's queues, limits and accounts"
)
PARTITIONS = "%P|%l"

FLUX_CHECK = """\
import contextlib, json, sys
answer = {"missing": ""}
with contextlib.redirect_stdout(sys.stderr):
    try:
        from flux_mcp.validate import flux_validate_batch_jobspec
    except ImportError as error:
        answer = {"missing": str(error)}
    else:
        answer.update(flux_validate_batch_jobspec(open(sys.argv[1]).read()))
print(json.dumps({key: answer.get(key) for key in ("missing", "valid", "errors")}))
"""
"""In a process of its own: flux-mcp writes to stdout, and opens a shell where it is at a loss."""


@dataclass(slots=True)
class _Report:
    """What was checked, and what came of it."""

    manager: str
    validated_by: str = "directives"
    checks: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    note: str = ""

    def add(self, check: str, errors: list[str]) -> None:
        self.checks.append(check)
        self.errors += [each for each in errors if each not in self.errors]

    def as_dict(self) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "valid": not self.errors,
            "manager": self.manager,
            "validated_by": self.validated_by,
            "checks": self.checks,
            "warnings": self.warnings,
        }
        if self.note:
            answer["note"] = self.note
        return {**answer, "errors": self.errors} if self.errors else answer


async def validate_jobspec(
    script: str, manager: Literal["slurm", "flux", "pbs", "lsf"], original: str | None = None
) -> dict[str, Any]:
    """Validate a batch script of the manager that is named; submits nothing.

    Args:
        script: The script's text.
        manager: Whose script it is to be.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`; `validated_by`: `sbatch`, `flux-mcp`, or `directives` where only the script's own
        lines could be checked, with a `note` that says so; `checks`, `warnings` and, where there
        are any, `errors`.
    """
    if manager == "slurm":
        return await validate_slurm(script, original)
    if manager == "flux":
        return await validate_flux(script, original)
    return validate_pbs(script, original) if manager == "pbs" else validate_lsf(script, original)


async def validate_slurm(script: str, original: str | None = None) -> dict[str, Any]:
    """Validate a Slurm batch script: by `sbatch --test-only` where Slurm answers; submits nothing.

    Args:
        script: The script's text.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`; `validated_by`: `sbatch`, or `directives` where only the script's own lines could
        be checked, with a `note` that says so; `checks`, `warnings` and, where there are any,
        `errors`.
    """
    report = _lines(script, "slurm", original)
    queues = await _partitions()
    if queues is None:
        report.note = DIRECTIVES_ONLY.format(manager="Slurm")
        return report.as_dict()
    report.validated_by = "sbatch"
    report.add("sbatch --test-only", await _sbatch(script))
    report.add("time limit of the partition", _over_limit(script, queues))
    return report.as_dict()


async def validate_flux(script: str, original: str | None = None) -> dict[str, Any]:
    """Validate a Flux batch script: by flux-mcp where Flux is installed; submits nothing.

    Args:
        script: The script's text.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`; `validated_by`: `flux-mcp`, or `directives` where only the script's own lines
        could be checked, with a `note` that says so; `checks`, `warnings` and, where there are
        any, `errors`.
    """
    report = _lines(script, "flux", original)
    missing, errors = await _flux(script)
    if missing:
        report.note = f"{DIRECTIVES_ONLY.format(manager='Flux')} ({missing})"
        return report.as_dict()
    report.validated_by = "flux-mcp"
    report.add("flux-mcp's reading with Flux's own parser", errors)
    return report.as_dict()


async def flux_validate_jobspec(content: str) -> dict[str, Any]:
    """Validate a Flux batch script; submits nothing.

    The same as flux-mcp's tool of this name where Flux is, but that a script without a single
    #FLUX: directive, or with another manager's, is not valid.

    Args:
        content: The script's text.

    Returns:
        As `validate_flux`.
    """
    return await validate_flux(content)


def validate_pbs(script: str, original: str | None = None) -> dict[str, Any]:
    """Validate a PBS batch script by its own lines: PBS has no command that only tests one.

    Args:
        script: The script's text.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`, `validated_by` (`directives`), a `note` that says what that leaves open, `checks`,
        `warnings` and, where there are any, `errors`.
    """
    report = _lines(script, "pbs", original)
    report.note = DIRECTIVES_ONLY.format(manager="PBS")
    return report.as_dict()


def validate_lsf(script: str, original: str | None = None) -> dict[str, Any]:
    """Validate an LSF batch script by its own lines: LSF has no command that only tests one.

    Args:
        script: The script's text.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`, `validated_by` (`directives`), a `note` that says what that leaves open, `checks`,
        `warnings` and, where there are any, `errors`.
    """
    report = _lines(script, "lsf", original)
    report.note = DIRECTIVES_ONLY.format(manager="LSF")
    return report.as_dict()


# -- the script's own lines ---------------------------------------------------------------------


def _lines(script: str, manager: str, original: str | None) -> _Report:
    """What the lines show: whose directives they are, and what they say."""
    report = _Report(manager)
    report.add("directives of the manager", _foreign(script, manager))
    if report.errors:
        return _with_body(report, script)
    said = validate_batch_script(script)
    report.add("options, shell syntax", said.get("errors", []))
    report.warnings = said["warnings"]
    if original:
        report.add("the original's request and commands", _differences(script, original, manager))
    return report


def _with_body(report: _Report, script: str) -> _Report:
    report.add("shell syntax", bash_problems(script, script.splitlines()[0] if script else ""))
    return report


def _foreign(script: str, manager: str) -> list[str]:
    """That it has no directive of the manager, or some of others: then it is no script for it."""
    lines = script.splitlines()
    header = header_of(lines)
    others = {name: each.sentinel for name, each in DIALECTS.items() if name != manager}
    found = [
        f"line {number}: `{line.strip()}` is a directive of {name}"
        for number, line in enumerate(header, 1)
        for name, mark in others.items()
        if mark.match(line)
    ]
    own = DIALECTS[manager].sentinel
    if not any(own.match(line) for line in header):
        found.insert(0, f"it has no {MARKS[manager]} line: it is no script for {manager}")
    return found


def _differences(script: str, original: str, manager: str) -> list[str]:
    """Where it asks for something else than the original, or does something else.

    A directive that a comment of the script speaks of is taken for left out knowingly.
    """
    from fractale.agents.translations import Pair, manager_of

    try:
        source = manager_of(original)
    except ValueError as error:
        return [f"the original can't be read: {error}"]
    pair = Pair(
        original=original,
        script=script,
        source=source,
        target=manager,
        no_analogue=[line for line in script.splitlines() if line.startswith("#")],
    )
    return pair.faults(strict=False)


# -- Slurm --------------------------------------------------------------------------------------


async def _partitions() -> Mapping[str, float | None] | None:
    """The time limit of each partition in seconds, the default one's also as ""; None: no Slurm."""
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        return None
    told = await _ask("sinfo", "-h", "-o", PARTITIONS)
    if told.returncode != 0:
        return None
    limits: dict[str, float | None] = {}
    for line in told.log.splitlines():
        name, _, limit = line.strip().partition("|")
        limits[name.rstrip("*")] = _seconds(limit)
        if name.endswith("*"):
            limits[""] = _seconds(limit)
    return limits


async def _sbatch(script: str) -> list[str]:
    """What `sbatch --test-only` says against it."""
    with tempfile.TemporaryDirectory(prefix="fractale-sbatch-") as folder:
        file = Path(folder) / "job.sh"
        file.write_text(script, encoding="utf-8")
        told = await _ask("sbatch", "--test-only", str(file))
    if told.returncode == 0:
        return []
    said = [line.strip() for line in told.log.splitlines() if line.strip()]
    return [f"sbatch says: {'; '.join(said)}"]


def _over_limit(script: str, limits: Mapping[str, float | None]) -> list[str]:
    """That it asks for more time than its partition gives: sbatch lets it pass, and it pends."""
    asked = _facts(script)
    queues = str(asked.get("queue") or "").split(",")
    given = [limits.get(queue) for queue in queues]
    seconds = asked.get("seconds")
    most = max((limit for limit in given if limit), default=0)
    if None in given or not seconds or seconds <= most:
        return []
    name = f"partition {asked['queue']}" if asked.get("queue") else "default partition"
    return [
        f"it asks for {_clock(seconds)}, the {name} gives {_clock(most)} at most: the job would "
        "never start"
    ]


def _facts(script: str) -> Mapping[str, Any]:
    try:
        parsed: BatchScript = parse(script)
    except ValueError:
        return {}
    return parsed.facts


def _seconds(limit: str) -> float | None:
    """A time as `sinfo` writes it; None for no limit."""
    try:
        return slurm_seconds(limit.strip())
    except ValueError:
        return None


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


# -- Flux ---------------------------------------------------------------------------------------


async def _flux(script: str) -> tuple[str, list[str]]:
    """What is missing to ask flux-mcp, and what it says against the script."""
    with tempfile.TemporaryDirectory(prefix="fractale-flux-") as folder:
        file = Path(folder) / "job.sh"
        file.write_text(script, encoding="utf-8")
        told = await run_program([sys.executable, "-c", FLUX_CHECK, str(file)], timeout=SECONDS)
    try:
        answer: dict[str, Any] = json.loads(told.log.rstrip().rpartition("\n")[2])
    except ValueError:
        return "", [f"flux-mcp gave no answer: {told.answer('it').get('error', told.log[-300:])}"]
    return answer["missing"], _plainly(answer.get("errors") or [], told.log)


def _plainly(errors: list[str], log: str) -> list[str]:
    """flux-mcp names the directive only; Flux's own parser wrote what is wrong with it."""
    why = re.findall(r"^\S+: error: (.+)$", log, re.MULTILINE)
    return [f"flux-mcp says: {'; '.join([each.replace(chr(10), ' '), *why])}" for each in errors]


async def _ask(*words: str) -> Ended:
    return await run_program(words, timeout=SECONDS)
