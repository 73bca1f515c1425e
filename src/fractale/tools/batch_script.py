"""A batch script taken apart: its directives, what they mean, and the rest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fractale.tools.dialects import COUNTERPARTS, DIALECTS, Dialect


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """One option of one directive line.

    Args:
        line: From 1.
        option: Its long name, or the name as written where the dialect does not know it.
        text: As it stands in the script, without the sentinel.
        fact: What it sets, if it has a counterpart in other managers.
        meaning: The fact's value; None where the value could not be read.
        problem: Why it has no counterpart.
    """

    line: int
    option: str
    value: str
    text: str
    fact: str | None = None
    meaning: Any = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The directive as JSON, without empty parts."""
        keys = ("line", "option", "value", "text", "fact", "meaning", "problem")
        return {key: getattr(self, key) for key in keys if getattr(self, key) not in (None, "")}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchScript:
    """A batch script.

    Args:
        manager: ``slurm``, ``flux``, ``pbs`` or ``lsf``.
        shebang: The first line if it is ``#!…``, else empty.
        directives: In file order.
        rest: Every other line but the shebang, as it stands.
    """

    manager: str
    shebang: str
    directives: tuple[Directive, ...]
    rest: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Fact → value; of two directives for one fact the last one counts."""
        return {d.fact: d.meaning for d in self.directives if d.fact and not d.problem}

    @property
    def untranslatable(self) -> list[Directive]:
        """The directives that have no counterpart."""
        return [d for d in self.directives if d.problem]

    def find(self, name: str) -> Directive | None:
        """The last directive of that option (long or short name, ``_`` or ``-``) or fact."""
        dialect = DIALECTS[self.manager]
        names = {name, name.replace("_", "-"), dialect.short.get(name, name)}
        found = [d for d in self.directives if d.option in names or d.fact == name]
        return found[-1] if found else None


def parse(script: str) -> BatchScript:
    """Take a batch script apart.

    Directives count, as for the managers, only above the script's first command.

    Raises:
        ValueError: It has no directives, those of two managers, or one that is no option.
    """
    lines = script.splitlines()
    shebang = lines[0] if lines and lines[0].startswith("#!") else ""
    manager = find_manager(header_of(lines))
    dialect = DIALECTS[manager]
    directives: list[Directive] = []
    rest: list[str] = []
    last = len(header_of(lines))
    for number, line in enumerate(lines, 1):
        match = dialect.sentinel.match(line)
        if match and number <= last:
            directives += read_line(dialect, number, line[match.end() :])
        elif number > 1 or not shebang:
            rest.append(line)
    return BatchScript(
        manager=manager, shebang=shebang, directives=tuple(directives), rest=tuple(rest)
    )


def header_of(lines: list[str]) -> list[str]:
    """The lines above the first command."""
    for index, line in enumerate(lines):
        if line.strip() and not line.startswith("#"):
            return lines[:index]
    return lines


def find_manager(header: list[str]) -> str:
    """Whose directives the lines hold.

    Raises:
        ValueError: Nobody's, or those of two managers.
    """
    found = [name for name, d in DIALECTS.items() if any(d.sentinel.match(x) for x in header)]
    if len(found) > 1:
        raise ValueError(f"the script has directives of {' and '.join(found)}: of one at a time")
    if not found:
        raise ValueError("the script has no #SBATCH, #FLUX:, #PBS or #BSUB line above its commands")
    return found[0]


def read_line(dialect: Dialect, number: int, text: str) -> Iterator[Directive]:
    """The options of one directive line.

    Raises:
        ValueError: A word of it is not an option.
    """
    for name, value in _options(_words(text, number), dialect, number):
        flag = dialect.flag(name)
        joint = "=" if flag.startswith("--") else " "
        written = f"{flag}{joint}{value}" if value else flag
        if dialect.single_dash and name == "l":
            for resource, amount in _resources(value):
                yield _directive(dialect, number, resource, amount, f"{resource}={amount}")
        else:
            yield _directive(dialect, number, name, value, written)


def _words(text: str, number: int) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def _options(words: list[str], dialect: Dialect, number: int) -> Iterator[tuple[str, str]]:
    """Pairs of long name and value, from ``--a=b``, ``--a b``, ``-a b``, ``-ab`` and ``-a``."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not re.match(r"--?\w", word):
            raise ValueError(f"line {number}: `{word}` is not an option")
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--") and not dialect.single_dash and len(name) > 1:
            name, value, equals = word[1], word[2:].removeprefix("="), "="
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        yield dialect.short.get(name, name), value


def _resources(value: str) -> Iterator[tuple[str, str]]:
    """The parts of a PBS resource list: ``select=2:ncpus=4,walltime=1:00:00``."""
    for item in value.split(","):
        name, _, amount = item.partition("=")
        if name not in ("select", "nodes"):
            yield name, amount
            continue
        count, *parts = amount.split(":")
        yield name, count
        for part in parts:
            key, _, figure = part.partition("=")
            yield key, figure


def _directive(dialect: Dialect, number: int, name: str, value: str, text: str) -> Directive:
    option = dialect.options.get(name)
    fact, meaning, problem = None, None, ""
    if option is None:
        known: Mapping[str, str] = COUNTERPARTS if dialect is DIALECTS["slurm"] else {}
        problem = known.get(name, "has no counterpart that fractale knows")
    else:
        fact = option.fact
        try:
            meaning = option.read(value)
        except ValueError as error:
            problem = str(error)
    return Directive(
        line=number,
        option=name,
        value=value,
        text=text,
        fact=fact,
        meaning=meaning,
        problem=problem,
    )
