"""Tools that check whether a workload manager would accept a batch script, without submitting it.

If the manager answers on this machine, each tool asks it. The tools also find errors that a manager
accepts: a script without directives, a body that its shell cannot parse, a time over the queue's
limit. If no manager answers, only the script's own lines are checked, and the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fractale.schedulers.commands import Commands
from fractale.schedulers.dialects import read_script
from fractale.schedulers.homes import ScriptScheduler
from fractale.schedulers.programs import Programs
from fractale.schedulers.script import Script
from fractale.schedulers.validation import (
    WITH_ORIGINAL,
    Validity,
    against_original,
    validate,
)
from fractale.settings import program_environment

SECONDS = 60.0
"""Seconds until a manager must answer."""


async def validate_jobspec(
    script: str,
    manager: ScriptScheduler,
    original: str | None = None,
    told: list[Any] | None = None,
    from_manager: str = "",
) -> dict[str, Any]:
    """Validate a batch script for the named manager; submits nothing.

    Args:
        script: The script's text.
        manager: The manager that the script is for.
        original: The script that it was translated from; then both must ask for the same.
        told: The known losses: `told` of `translate_batch_script`, or texts.
        from_manager: The manager of the original, if that has lines of several managers.

    Returns:
        `valid`; `validated_by`: `sbatch`, `flux`, `flux-python`, `flux-mcp`, or `directives`
        if only the script's own lines could be checked, with a `note` that says so; `checks`,
        `warnings` and, if there are any, `errors`.
    """
    return await _answer(script, manager, original, told or (), from_manager)


async def validate_slurm(script: str, original: str | None = None) -> dict[str, Any]:
    """Validate a Slurm batch script: by `sbatch --test-only` if Slurm answers; submits nothing.

    Args:
        script: The script's text.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`; `validated_by`: `sbatch`, or `directives` if only the script's own lines could
        be checked, with a `note` that says so; `checks`, `warnings` and, if there are any,
        `errors`.
    """
    return await _answer(script, "slurm", original)


async def validate_flux(script: str, original: str | None = None) -> dict[str, Any]:
    """Validate a Flux batch script: by Flux or its own parsers if installed; submits nothing.

    Args:
        script: The script's text.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`; `validated_by`: `flux` (`flux batch --dry-run`), `flux-python` or `flux-mcp`
        (Flux's own parsers), or `directives` if only the script's own lines could be checked,
        with a `note` that says so; `checks`, `warnings` and, if there are any, `errors`.
    """
    return await _answer(script, "flux", original)


async def flux_validate_jobspec(content: str) -> dict[str, Any]:
    """Validate a Flux batch script; submits nothing.

    Where Flux is installed, the same as flux-mcp's tool of this name, except that a script
    without a single #FLUX: directive is not valid.

    Args:
        content: The script's text.

    Returns:
        As `validate_flux`.
    """
    return await _answer(content, "flux")


async def validate_pbs(script: str, original: str | None = None) -> dict[str, Any]:
    """Validate a PBS batch script by its own lines: PBS has no command that only tests one.

    Args:
        script: The script's text.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`, `validated_by` (`directives`), a `note` about the unchecked properties, `checks`,
        `warnings` and, if there are any, `errors`.
    """
    return await _answer(script, "pbs", original)


async def validate_lsf(script: str, original: str | None = None) -> dict[str, Any]:
    """Validate an LSF batch script by its own lines: LSF has no command that only tests one.

    Args:
        script: The script's text.
        original: The script that it was translated from; then both must ask for the same.

    Returns:
        `valid`, `validated_by` (`directives`), a `note` about the unchecked properties, `checks`,
        `warnings` and, if there are any, `errors`.
    """
    return await _answer(script, "lsf", original)


async def _answer(
    script: str,
    manager: str,
    original: str | None = None,
    told: Sequence[Any] = (),
    from_manager: str = "",
) -> dict[str, Any]:
    programs = Programs(program_environment(), SECONDS)
    compared = None
    if original:
        compared = _against(read_script(script, manager), original, told, from_manager)
    same = compared is not None and not compared.errors
    found: Validity = await validate(script, manager, programs, bare=same)
    if compared is not None:
        found.add(WITH_ORIGINAL, compared.errors)
        found.warnings += compared.warnings
    answer: dict[str, Any] = {
        "valid": found.valid,
        "manager": manager,
        "validated_by": found.by,
        "checks": found.checks,
        "warnings": found.warnings,
    }
    if found.note:
        answer["note"] = found.note
    return {**answer, "errors": found.errors} if found.errors else answer


def _against(script: Script, original: str, told: Sequence[Any], from_manager: str) -> Commands:
    try:
        return against_original(script, original, told, strict=False, from_manager=from_manager)
    except ValueError as error:
        return Commands(errors=[f"the original can't be read: {error}"])
