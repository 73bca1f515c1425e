"""The directives of a job's script that the wrapper passes to the scheduler."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Collection
from itertools import groupby
from typing import Final

from fractale.errors import JobError
from fractale.schedulers.asked import script_of
from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.job import JobSpec
from fractale.schedulers.request import SIZES, Request
from fractale.schedulers.script import Dialect, Directive, Script

_OWN: Final = ("nodes", "tasks", "cores_per_task", "gpus_per_task", "memory")


def header_of(spec: JobSpec, scheduler: str, *, refused: Collection[str] = ()) -> list[str]:
    """List the script's directives as the scheduler reads them, without those below a command.

    The array is omitted, because the spec has it. If the spec has sizes, the script's are omitted.

    Args:
        refused: Patterns of options that need a user at a terminal.

    Raises:
        JobError: The script has a refused option, or an array that the spec does not have.
    """
    script = script_of(spec, scheduler)
    if script is None:
        return []
    own = SIZES if any(getattr(spec, name) for name in _OWN) else frozenset[str]()
    dialect, lines = dialect_of(scheduler), list[str]()
    for number, group in groupby(script.reading.directives, key=lambda each: each.line):
        directives = list(group)
        for each in directives:
            _see(each, dialect.mark, spec, refused)
        line = script.lines[number - 1].strip()
        if line.endswith("\\") or any(each.sets & (own | {"array"}) for each in directives):
            parts = (part for each in directives for part in _kept(each, script, dialect, own))
            lines += [f"{dialect.mark} {part}" for part in parts]
        else:
            lines.append(line)
    return lines


def _see(directive: Directive, mark: str, spec: JobSpec, refused: Collection[str]) -> None:
    where = f"line {directive.line} of the script, `{mark} {directive.text}`,"
    if any(re.match(pattern, directive.text) for pattern in refused):
        raise JobError(
            f"{where} makes the job interactive",
            hint="take the line out: fractale submits batch jobs",
        )
    if "array" in directive.sets and spec.array is None:
        raise JobError(f"{where} submits more than one job", hint="write the array as `array`")


def _kept(directive: Directive, script: Script, dialect: Dialect, own: frozenset[str]) -> list[str]:
    """List the parts of a directive to pass on: all, or those without omitted fields."""
    left_out = directive.sets & (own | {"array"})
    if not left_out:
        value = directive.value
        before = directive.text.removesuffix(value)
        blank = bool(value) and directive.text.endswith(value) and re.search(r"\s", value)
        return [f"{before}{shlex.quote(value)}" if blank else directive.text]
    request = script.request
    rest = {name: getattr(request, name) for name in directive.sets - left_out - SIZES}
    return list(dialect.write(dataclasses.replace(Request(), **rest)).lines) if rest else []
