"""Which scheduler a batch script is for, and the script taken apart."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final, cast

from fractale.schedulers import others
from fractale.schedulers.script import Dialect, Script

NAMES: Final = ("slurm", "flux", "pbs", "lsf")
"""Schedulers whose scripts fractale reads and writes."""

READ: Final = (*NAMES, "cobalt")
"""Schedulers whose scripts fractale reads; to write those of the last ones is an error."""


def dialect_of(scheduler: str) -> Dialect:
    """How a scheduler's scripts are read and written.

    Raises:
        ValueError: There is no such dialect.
    """
    if scheduler not in READ:
        raise ValueError(f"there is no scheduler `{scheduler}`: there are {', '.join(READ)}")
    if scheduler == "cobalt":
        return others.DIALECT
    module = importlib.import_module(f"fractale.schedulers.{scheduler}.directives")
    return cast("Dialect", module.DIALECT)


def schedulers_of(lines: Sequence[str]) -> tuple[str, ...]:
    """The schedulers whose directives are among the lines, the one with the first line first."""
    first: dict[str, int] = {}
    for name in READ:
        is_directive = dialect_of(name).is_directive
        number = next((i for i, line in enumerate(lines) if is_directive(line)), None)
        if number is not None:
            first[name] = number
    return tuple(sorted(first, key=lambda name: first[name]))


def read_script(text: str, scheduler: str | None = None) -> Script:
    """Take a batch script apart.

    Args:
        scheduler: Whose it is; None: the one whose directives it has. Of a script with those of
            several, the lines of the others are comments, as they are for that scheduler.

    Raises:
        ValueError: It has no directives (the message names the scheduler if it is one that
            fractale does not write for), or those of several without `scheduler`.
    """
    lines = tuple(text.removeprefix("\ufeff").splitlines())
    if scheduler is None:
        found = schedulers_of(lines)
        if len(found) > 1:
            marks = " and ".join(dialect_of(name).mark for name in found)
            raise ValueError(
                f"the script has lines of several schedulers ({marks}): say whose it is to be"
            )
        if not found:
            raise ValueError(_whose(lines))
        scheduler = found[0]
    reading = dialect_of(scheduler).read(lines)
    shebang = lines[0] if lines and lines[0].startswith("#!") else ""
    return Script(scheduler=scheduler, shebang=shebang, lines=lines, reading=reading)


def _whose(lines: Sequence[str]) -> str:
    title = others.whose(lines)
    if title is not None:
        return f"the script is for {title}, which fractale does not read"
    return "the script has no #SBATCH, #FLUX:, #PBS, #BSUB or #COBALT line"
