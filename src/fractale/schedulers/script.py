"""A parsed batch script, in the way that its scheduler reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fractale.schedulers.request import GRAVE, Request
from fractale.schedulers.shell import shell_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """One option of a directive line.

    Args:
        line: Number of the line, from 1.
        option: Its long name, or its letter without a long name; as written if the scheduler does
            not know the option.
        text: The option as written in the script, without the mark.
        sets: The fields of the `Request` that it sets.
        invalid: Why the scheduler refuses it; empty if it is valid.
        untold: The part that no field of a `Request` can express; empty if the fields express all.
            A translation reports this part as a loss.
    """

    line: int
    option: str
    value: str
    text: str
    sets: frozenset[str] = frozenset()
    invalid: str = ""
    untold: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Make JSON of the directive, without empty parts."""
        found: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("line", "option", "value", "text", "invalid", "untold")
        }
        found["sets"] = sorted(self.sets)
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A note for the user about a line.

    Args:
        line: From 1; 0 for the script as a whole.
        text: The line, or the part of it.
        why: The note, as a sentence without a capital letter.
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
    """A part of a script's request that its translation lacks.

    Args:
        line: Number of the line in the original, from 1; 0 without a line.
        text: The directive as written.
        what: The lost field of `Request`; empty for a part without a field.
        why: The reason, in a few words.
        about: The field that the directive is about, even if fractale could not read it.
    """

    line: int
    text: str
    what: str
    why: str
    about: str = ""

    @property
    def grave(self) -> bool:
        """Whether the translation cannot do the work of the original without it."""
        return self.what in GRAVE or self.about in GRAVE

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.text or self.what} ({self.why})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The content of a script's lines, as a dialect reads them.

    Args:
        directives: In file order.
        lines: Numbers (from 1) of the directive lines, which a translation replaces.
        request: The request of all directives. If several directives set one field, the last counts
            as it does for the scheduler.
        invalid: Reasons why the scheduler refuses the script, besides the directives' own
            `invalid`.
        remarks: Unexpected effects, such as a directive below the first command that the scheduler
            ignores.
    """

    directives: tuple[Directive, ...]
    lines: frozenset[int]
    request: Request
    invalid: tuple[Remark, ...] = ()
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A request written in a dialect.

    Args:
        lines: Directives without their mark, one option each, quoted for the scheduler.
        lost: Field of the request → why the dialect cannot express it, or not all of it.
        notes: Differences in meaning from the original, one sentence each.
    """

    lines: tuple[str, ...]
    lost: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()


class Dialect(Protocol):
    """A reader and writer of one scheduler's scripts: `DIALECT` in its package's `directives`."""

    @property
    def name(self) -> str:
        """The scheduler's name in settings, such as ``slurm``."""
        ...

    @property
    def title(self) -> str:
        """The scheduler's name for users."""
        ...

    @property
    def mark(self) -> str:
        """The beginning of a directive line, as fractale writes it: ``#SBATCH``."""
        ...

    @property
    def defaults(self) -> Request:
        """The request of a job without directives, as far as every site has the same defaults."""
        ...

    @property
    def slots(self) -> bool:
        """Whether its tasks are slots, in which the body may start any number of processes."""
        ...

    @property
    def guard(self) -> str:
        """The option that makes it ignore other schedulers' lines; empty if it does so anyway."""
        ...

    @property
    def against_dos(self) -> str:
        """Why it refuses a script with DOS line ends; empty if it accepts them."""
        ...

    def is_directive(self, line: str) -> bool:
        """Whether a line has the form of a directive, anywhere in the script."""
        ...

    def about(self, directive: Directive) -> str:
        """Find the field that a directive is about, even if the directive is not readable.

        Only for arrays, dependencies and sizes; empty for all other fields.
        """
        ...

    def read(self, lines: Sequence[str]) -> Reading:
        """Read a script's lines, whatever they contain; faults are in the result."""
        ...

    def write(self, request: Request) -> Written:
        """Write a request; each of its fields is in the lines or in `lost`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A batch script.

    Args:
        scheduler: Name of its scheduler.
        shebang: The first line if it begins with ``#!``, else empty.
        lines: All lines.
    """

    scheduler: str
    shebang: str
    lines: tuple[str, ...]
    reading: Reading

    @property
    def request(self) -> Request:
        """The request of its directives."""
        return self.reading.request

    @property
    def shell(self) -> str | None:
        """The program that reads its commands; None if its scheduler refuses such a script."""
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
        """Why its scheduler refuses it, as far as its lines show; empty if they show no fault."""
        own = (
            Remark(line=each.line, text=each.text, why=each.invalid)
            for each in self.reading.directives
            if each.invalid
        )
        return (*own, *self.reading.invalid)
