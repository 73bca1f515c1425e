"""What a scheduler on this machine says of a script."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
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
