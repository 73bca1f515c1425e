"""Checks whether a scheduler would accept a batch script.

If the scheduler answers on this machine, its answer is final: an option that fractale cannot
translate, or does not know, is not invalid. fractale also checks two things that schedulers ignore:
whether the script has a directive at all, and whether its shell can parse it.
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
"""Name of the check that `against_original` makes."""

DIRECTIVES: Final = "directives"
"""Name of the validator if no scheduler validated the script: its own lines."""

ONLY_LINES: Final = (
    "no {title} answered here, so only the script's own lines were checked: whether the options "
    "are written as {title} reads them, nothing of the site's queues, limits and accounts"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerVerdict:
    """The answer of a scheduler about a script; nothing is submitted.

    Args:
        by: The program that answered: ``sbatch``.
        checks: The checks, for users.
        refused: Why the scheduler refuses the script; empty if it accepts the script.
        errors: Faults that the scheduler accepts, but that keep the job from ever starting.
    """

    by: str
    checks: tuple[str, ...]
    refused: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Validator(Protocol):
    """Asks a scheduler on this machine: `ask` in its package's `validator`."""

    async def ask(self, text: str, script: Script, programs: Programs) -> SchedulerVerdict | str:
        """Get the scheduler's verdict, or a text (which may be empty) why it was not asked."""
        ...


@dataclass(slots=True, kw_only=True)
class Validity:
    """The checks of a script, and their results.

    Args:
        by: ``sbatch``, ``flux``, ``flux-python``, ``flux-mcp``, or ``directives`` if fractale only
            checked the script's own lines; `note` then says which questions remain open.
        warnings: Unexpected effects with its scheduler.
    """

    scheduler: str
    by: str = DIRECTIVES
    checks: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    note: str = ""

    @property
    def valid(self) -> bool:
        """Whether no check found an error."""
        return not self.errors

    def add(self, check: str, errors: list[str]) -> None:
        """Add the result of a check."""
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
    """Validate a script by its scheduler, if the scheduler answers, else by its own lines.

    Args:
        bare: Whether it needs no directive, because it requests only defaults.
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
    """Check that it has a directive of its scheduler: without one, a translation did not happen.

    Args:
        bare: Whether it needs no directive, because it requests only defaults.
    """
    dialect = dialect_of(script.scheduler)
    owners = schedulers_of(script.lines)
    errors: list[str] = []
    if script.scheduler not in owners and (owners or not bare):
        errors.append(f"it has no {dialect.mark} line: it is not a script for {script.scheduler}")
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
    """List commands that are specific to another scheduler, with their lines."""
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


# -- comparison with the original ---------------------------------------------------------------


def against_original(
    script: Script,
    original: str,
    known: Sequence[Any] = (),
    *,
    strict: bool,
    from_manager: str = "",
) -> Commands:
    """List the differences between a script and the script that it was translated from.

    Args:
        known: Known losses, as `translate_batch_script` returns them, or as texts. A loss that a
            comment of the script names is also known.
        strict: Whether another queue, account or name is a difference.
        from_manager: The scheduler of the original; if empty, the first scheduler with a directive
            in it, other than the script's own.
    """
    source = read_script(original, from_manager or _source_of(original, script.scheduler))
    losses = [_loss_of(cast("dict[str, Any]", each)) for each in known if isinstance(each, dict)]
    texts = [str(each) for each in known if not isinstance(each, dict)]
    differences = compare(source, script, [*comments_of(script), *texts], losses)
    commands = compare_commands(source, script)
    errors = [
        *leftovers(source, script),
        *commands.errors,
        *(str(each) for each in differences if strict or not each.minor),
    ]
    return Commands(errors=errors, warnings=commands.warnings)


def _loss_of(known: Mapping[str, Any]) -> Loss:
    words = {name: str(known.get(name) or "") for name in ("text", "what", "why")}
    line = known.get("line")
    return Loss(line=line if isinstance(line, int) else 0, **words)


def _source_of(original: str, target: str) -> str | None:
    found = schedulers_of(lines_of(original))
    return next((name for name in found if name != target), None)
