"""Finds the scheduler of a batch script, and parses the script."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Final, cast

from fractale.schedulers.homes import READ, home
from fractale.schedulers.request import Request
from fractale.schedulers.script import Dialect, Reading, Remark, Script

_UNREAD: Final = (
    ("Grid Engine (SGE, UGE)", re.compile(r"#\$\s+-\w")),
    ("OAR", re.compile(r"#OAR\s+-")),
    ("the Fujitsu Technical Computing Suite (PJM)", re.compile(r"#PJM\s+-")),
    ("Moab", re.compile(r"#MSUB\s+-")),
    ("LoadLeveler", re.compile(r"#\s*@\s*\w+(\s*=|\s*$)")),
    ("NQS (NQSV)", re.compile(r"#QSUB\s+-")),
    ("HTCondor", re.compile(r"(?i)\s*(executable|universe)\s*=")),
)
"""Schedulers that fractale only recognizes: title, and pattern of a directive."""


@functools.cache
def dialect_of(scheduler: str) -> Dialect:
    """Find the dialect that reads and writes a scheduler's scripts.

    Raises:
        ValueError: The scheduler is unknown.
    """
    return cast("Dialect", home(scheduler, "directives").DIALECT)


def schedulers_of(lines: Sequence[str]) -> tuple[str, ...]:
    """List the schedulers with directives among the lines, in the order of their first lines."""
    first: dict[str, int] = {}
    marked = [(number, line) for number, line in enumerate(lines) if "#" in line or ":" in line]
    for name in READ:
        is_directive = dialect_of(name).is_directive
        found = next((number for number, line in marked if is_directive(line)), None)
        if found is not None:
            first[name] = found
    return tuple(sorted(first, key=lambda name: first[name]))


def read_script(text: str, scheduler: str | None = None) -> Script:
    """Parse a batch script.

    Args:
        scheduler: The script's scheduler; None: the scheduler of the first directive. Directives of
            other schedulers mean what they mean to that scheduler: comments, or (for sbatch)
            options that it reads, too. A remark says so.

    Raises:
        ValueError: The script has no directives, and `scheduler` is None. The message names the
            scheduler if fractale only recognizes it.
    """
    lines = lines_of(text)
    found = schedulers_of(lines)
    if scheduler is None:
        if not found:
            raise ValueError(_whose(lines))
        scheduler = found[0]
    dialect = dialect_of(scheduler)
    reading = dialect.read(lines)
    if dialect.against_dos and "\r\n" in text:
        dos = Remark(line=0, text="", why=dialect.against_dos)
        reading = dataclasses.replace(reading, invalid=(*reading.invalid, dos))
    if others := [name for name in found if name != scheduler]:
        reading = _told_of_others(reading, dialect, lines, others)
    shebang = lines[0] if lines and lines[0].startswith("#!") else ""
    return Script(scheduler=scheduler, shebang=shebang, lines=lines, reading=reading)


def plain_script(text: str, scheduler: str = "") -> Script:
    """Make a script whose directives, if it has any, fractale does not read."""
    lines = lines_of(text)
    shebang = lines[0] if lines and lines[0].startswith("#!") else ""
    nothing = Reading(directives=(), lines=frozenset(), request=Request())
    return Script(scheduler=scheduler, shebang=shebang, lines=lines, reading=nothing)


def lines_of(text: str) -> tuple[str, ...]:
    """Split a script into lines as a shell does, without a byte order mark and DOS line ends."""
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return tuple(plain.removesuffix("\n").split("\n")) if plain else ()


def _told_of_others(
    reading: Reading, dialect: Dialect, lines: Sequence[str], others: Sequence[str]
) -> Reading:
    """Add a remark about the meaning of other schedulers' lines to a reading."""
    remarks = list(reading.remarks)
    known = {each.line for each in (*reading.directives, *reading.remarks)}
    for name in others:
        other = dialect_of(name)
        numbers = [n for n, line in enumerate(lines, 1) if other.is_directive(line)]
        if known.isdisjoint(numbers):
            why = f"the {other.mark} lines are comments for {dialect.title}"
            first = lines[numbers[0] - 1].strip()
            remarks.append(Remark(line=numbers[0], text=first, why=why))
    return dataclasses.replace(reading, remarks=tuple(remarks))


def _whose(lines: Sequence[str]) -> str:
    for title, mark in _UNREAD:
        if any(map(mark.match, lines)):
            return f"the script is for {title}, which fractale does not read"
    *marks, last = (dialect_of(name).mark for name in READ)
    return f"the script has no {', '.join(marks)} or {last} line"
