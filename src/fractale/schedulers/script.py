"""A batch script, taken apart as its scheduler reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fractale.schedulers.request import GRAVE, Request
from fractale.schedulers.shell import shell_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """One option of one directive line.

    Args:
        line: From 1.
        option: Its long name, or its letter where it has none; as written where the scheduler
            knows no such option.
        text: As it stands in the script, without the mark.
        sets: The fields of the `Request` that it sets.
        invalid: Why the scheduler refuses it; empty where it does not.
        untold: What of it no field of a `Request` can say: "" where the fields say all of it.
            Whoever translates the script tells this as a loss.
    """

    line: int
    option: str
    value: str
    text: str
    sets: frozenset[str] = frozenset()
    invalid: str = ""
    untold: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The directive as JSON, without empty parts."""
        found: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("line", "option", "value", "text", "invalid", "untold")
        }
        found["sets"] = sorted(self.sets)
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something that a person should know about a line.

    Args:
        line: From 1; 0 for the script as a whole.
        text: The line, or the part of it.
        why: What is to be known, in a sentence without a capital letter.
    """

    line: int
    text: str
    why: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        quoted = f"`{self.text}`: " if self.text else ""
        return f"{where}{quoted}{self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Something that a script asks for and its translation does not.

    Args:
        line: Of the original, from 1; 0 where it is of no line.
        text: The directive as written.
        what: The field of `Request` that is lost; empty for what has no field.
        why: In a few words.
        about: The field that its directive is about, though no field could be read of it.
    """

    line: int
    text: str
    what: str
    why: str
    about: str = ""

    @property
    def grave(self) -> bool:
        """Whether the translation does not do the work of the original without it."""
        return self.what in GRAVE or self.about in GRAVE

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.text or self.what} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a dialect reads in the lines of a script.

    Args:
        directives: In file order.
        lines: Numbers (from 1) of the lines that are directives, and go when it is translated.
        request: What they ask for, the last of several directives for one field counting as the
            scheduler has it.
        invalid: What makes the scheduler refuse the script, beside the directives' own `invalid`.
        remarks: What the scheduler does with it that a person may not expect, such as a directive
            below the first command that it passes over.
    """

    directives: tuple[Directive, ...]
    lines: frozenset[int]
    request: Request
    invalid: tuple[Remark, ...] = ()
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A request in the words of a dialect.

    Args:
        lines: Directives without their mark, each one option, quoted as the scheduler reads it.
        lost: Field of the request → why it cannot be said, or not in whole.
        notes: What the words say otherwise than the original, in a sentence each.
    """

    lines: tuple[str, ...]
    lost: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()


class Dialect(Protocol):
    """How one scheduler's scripts are read and written: `DIALECT` in its home's `directives`."""

    @property
    def name(self) -> str:
        """``slurm`` and the like."""
        ...

    @property
    def title(self) -> str:
        """What people call it."""
        ...

    @property
    def mark(self) -> str:
        """What its directive lines begin with, as fractale writes them: ``#SBATCH``."""
        ...

    @property
    def defaults(self) -> Request:
        """What a job has that says nothing about it, as far as that is the same at every site."""
        ...

    @property
    def slots(self) -> bool:
        """Whether its tasks are slots: room for any number of processes, started by the body."""
        ...

    @property
    def guard(self) -> str:
        """The option that keeps it from reading other schedulers' lines; empty if it reads none."""
        ...

    @property
    def against_dos(self) -> str:
        """Why it refuses a script whose lines end as on DOS; empty if it reads one."""
        ...

    def is_directive(self, line: str) -> bool:
        """Whether a line has the form of its directives, wherever it stands."""
        ...

    def about(self, directive: Directive) -> str:
        """The field that a directive is about, also if it could not be read.

        Told of arrays, dependencies and sizes; empty for all else.
        """
        ...

    def read(self, lines: Sequence[str]) -> Reading:
        """Read a script's lines, whatever is in them: what is wrong is in the answer."""
        ...

    def write(self, request: Request) -> Written:
        """Write a request; every field that it says is in the lines or in `lost`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A batch script.

    Args:
        scheduler: Whose it is.
        shebang: The first line if it begins with ``#!``, else empty.
        lines: All lines.
    """

    scheduler: str
    shebang: str
    lines: tuple[str, ...]
    reading: Reading

    @property
    def request(self) -> Request:
        """What its directives ask for."""
        return self.reading.request

    @property
    def shell(self) -> str | None:
        """The program that reads its commands; None if its scheduler starts no such script."""
        return shell_of(self.shebang, self.scheduler, self.request.shell)

    @property
    def body(self) -> tuple[tuple[int, str], ...]:
        """Number (from 1) and text of each line that is neither the shebang nor a directive."""
        return tuple(
            (number, line)
            for number, line in enumerate(self.lines, 1)
            if number not in self.reading.lines and not (number == 1 and self.shebang)
        )

    @property
    def invalid(self) -> tuple[Remark, ...]:
        """Why its scheduler refuses it, as far as its lines show; empty if nothing does."""
        own = (
            Remark(line=each.line, text=each.text, why=each.invalid)
            for each in self.reading.directives
            if each.invalid
        )
        return (*own, *self.reading.invalid)
