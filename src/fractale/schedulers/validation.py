"""Whether a batch script is one that its scheduler would take.

The scheduler itself is asked where it answers on this machine, and its word is final: an option
that fractale cannot translate, or does not know, is not invalid. Checked beside it is what no
scheduler looks at: whether the script has a directive of its own at all, and whether its shell can
read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from fractale.schedulers.body import translate_body
from fractale.schedulers.commands import Commands, compare_commands
from fractale.schedulers.comparison import comments_of, compare, leftovers
from fractale.schedulers.dialects import dialect_of, lines_of, read_script, schedulers_of
from fractale.schedulers.homes import NAMES, optional_home
from fractale.schedulers.programs import Programs
from fractale.schedulers.script import Loss, Script
from fractale.schedulers.shell import check_syntax

WITH_ORIGINAL: Final = "the original's request and commands"
"""The check that `against_original` makes."""

DIRECTIVES: Final = "directives"
"""Who validated a script if no scheduler did: its own lines."""

ONLY_LINES: Final = (
    "no {title} answered here, so only the script's own lines were checked: whether the options "
    "are written as {title} reads them, nothing of the site's queues, limits and accounts"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerVerdict:
    """What was asked and answered; nothing is submitted.

    Args:
        by: Who answered: ``sbatch``.
        checks: What was checked, in words.
        refused: Why it does not take the script; empty if it does, and then it is valid.
        errors: What it lets pass, and what keeps the job from ever starting.
    """

    by: str
    checks: tuple[str, ...]
    refused: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Validator(Protocol):
    """How a scheduler on this machine is asked: `ask` in its home's `validator`."""

    async def ask(self, text: str, script: Script, programs: Programs) -> SchedulerVerdict | str:
        """Its verdict; in words (or none), why it was not asked."""
        ...


@dataclass(slots=True, kw_only=True)
class Validity:
    """What was checked of a script, and what came of it.

    Args:
        by: ``sbatch``, ``flux``, ``flux-python``, ``flux-mcp``, or ``directives`` where only the
            script's own lines were checked; `note` then says what that leaves open.
        warnings: What its scheduler does with it that one may not expect.
    """

    scheduler: str
    by: str = DIRECTIVES
    checks: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    note: str = ""

    @property
    def valid(self) -> bool:
        """Whether nothing was found against it."""
        return not self.errors

    def add(self, check: str, errors: list[str]) -> None:
        """What a check found."""
        self.checks.append(check)
        self.errors += [each for each in errors if each not in self.errors]


def validate_lines(text: str, scheduler: str) -> Validity:
    """Validate a script by its own lines."""
    script = read_script(text, scheduler)
    found = Validity(scheduler=scheduler)
    _check_owner(found, script)
    if not found.errors:
        found.add("options", [str(each) for each in script.invalid])
    _check_shell(found, script)
    return found


async def validate(
    text: str, scheduler: str, programs: Programs, *, bare: bool = False
) -> Validity:
    """Validate a script by its scheduler, where that answers, else by its own lines.

    Args:
        bare: Whether it needs no directive, as it asks for what a job has anyway.
    """
    script = read_script(text, scheduler)
    found = Validity(scheduler=scheduler)
    _check_owner(found, script, bare=bare)
    own = [] if found.errors else [str(each) for each in script.invalid]
    verdict = await _ask(text, script, programs)
    if isinstance(verdict, SchedulerVerdict):
        found.by = verdict.by
        found.checks += verdict.checks
        found.errors += [*verdict.refused, *(own if verdict.refused else ()), *verdict.errors]
    else:
        title = dialect_of(scheduler).title
        found.note = ONLY_LINES.format(title=title) + (f" ({verdict})" if verdict else "")
        found.add("options", own)
    _check_shell(found, script)
    return found


async def _ask(text: str, script: Script, programs: Programs) -> SchedulerVerdict | str:
    validator = optional_home(script.scheduler, "validator")
    return await cast("Validator", validator).ask(text, script, programs) if validator else ""


def _check_owner(found: Validity, script: Script, *, bare: bool = False) -> None:
    """That it has a directive of its scheduler: without one, a translation did not happen.

    Args:
        bare: Whether it needs none, as it asks for what a job has anyway.
    """
    dialect = dialect_of(script.scheduler)
    owners = schedulers_of(script.lines)
    errors: list[str] = []
    if script.scheduler not in owners and (owners or not bare):
        errors.append(f"it has no {dialect.mark} line: it is no script for {script.scheduler}")
        for name in owners:
            is_directive = dialect_of(name).is_directive
            number = next(n for n, line in enumerate(script.lines, 1) if is_directive(line))
            line = script.lines[number - 1].strip()
            errors.append(f"line {number}: `{line}` is a directive of {name}")
    found.add(f"directives of {dialect.title}", errors)
    found.warnings += [str(each) for each in script.reading.remarks]
    found.warnings += foreign_commands(script)


def _check_shell(found: Validity, script: Script) -> None:
    checked = check_syntax("\n".join(script.lines) + "\n", script.shell)
    if checked.skipped:
        found.checks.append(f"shell syntax not checked: {checked.skipped}")
        return
    found.add(f"shell syntax ({checked.shell} -n)", list(checked.errors))
    found.warnings += checked.warnings


def foreign_commands(script: Script) -> list[str]:
    """Commands that speak to another scheduler than the script's own, with their lines."""
    own, shell = script.scheduler, script.shell or "sh"
    found: list[str] = []
    for name in NAMES:
        if name != own:
            body = translate_body(script.body, name, own, script.request, shell=shell)
            title = dialect_of(name).title
            found += [
                f"line {each.line}: `{each.old.strip()}` speaks to {title}; for "
                f"{dialect_of(own).title}: `{each.new.strip()}`"
                for each in body.changes
                if each.line
            ]
            found += [str(each) for each in body.remains]
    return found


# -- against the original -----------------------------------------------------------------------


def against_original(
    script: Script,
    original: str,
    told: Sequence[Any] = (),
    *,
    strict: bool,
    from_manager: str = "",
) -> Commands:
    """Where a script asks for or runs something else than the script it was translated from.

    Args:
        told: Known losses, as `translate_batch_script` returns them, or as texts. A loss that a
            comment of the script names is known, too.
        strict: Whether another queue, account or name is a difference.
        from_manager: The scheduler of the original; if empty, the first with a directive in it
            that is not the script's own.
    """
    source = read_script(original, from_manager or _source_of(original, script.scheduler))
    losses = [_told_loss(cast("dict[str, Any]", each)) for each in told if isinstance(each, dict)]
    texts = [str(each) for each in told if not isinstance(each, dict)]
    differences = compare(source, script, [*comments_of(script), *texts], losses)
    commands = compare_commands(source, script)
    errors = [
        *leftovers(source, script),
        *commands.errors,
        *(str(each) for each in differences if strict or not each.minor),
    ]
    return Commands(errors=errors, warnings=commands.warnings)


def _told_loss(told: Mapping[str, Any]) -> Loss:
    words = {name: str(told.get(name) or "") for name in ("text", "what", "why")}
    line = told.get("line")
    return Loss(line=line if isinstance(line, int) else 0, **words)


def _source_of(original: str, target: str) -> str | None:
    found = schedulers_of(lines_of(original))
    return next((name for name in found if name != target), None)
