"""Translates a batch script for another scheduler: first its directives, then its commands."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fractale.schedulers.body import CommandChange, translate_body
from fractale.schedulers.comparison import compare
from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.request import GRAVE, Request
from fractale.schedulers.script import Dialect, Loss, Remark, Script
from fractale.schedulers.shell import CSH, POSIX
from fractale.schedulers.shell_text import read_shell, within

NOT_SAID: Final = "the translation does not say it"

SHELL: Final = "/bin/bash"
"""Shell of a translated script, if its own scheduler would use the user's login shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """A batch script for another scheduler.

    Args:
        original: The script that was translated.
        script: The translation, as its scheduler reads it.
        losses: Parts of the original's request that it lacks, in the order of the original's lines.
        notes: Differences in meaning of its directives, and commands with a harmless mention of the
            original's scheduler, one sentence each.
        changes: Changed commands.
        left_out: Omitted launcher options that the other launcher lacks; each is also a loss.
        remains: Commands that are still specific to the original's scheduler, each with a
            suggestion.
        not_launched: Numbers of those lines that start a program by the original's launcher.
        said: Fields of the request that its commands set, because no directive can.
    """

    original: Script
    script: Script
    losses: tuple[Loss, ...]
    notes: tuple[str, ...] = ()
    changes: tuple[CommandChange, ...] = ()
    left_out: tuple[Remark, ...] = ()
    remains: tuple[Remark, ...] = ()
    not_launched: frozenset[int] = frozenset()
    said: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """The text of the translated script."""
        return "\n".join(self.script.lines) + "\n"

    @property
    def grave(self) -> tuple[str, ...]:
        """Reasons why it does not do the work of the original; empty if it does.

        These are a lost array, GPU, dependency or size, and a command that starts the program with
        the other scheduler's launcher.
        """
        lost = [str(each) for each in self.losses if each.grave]
        return (*lost, *(str(each) for each in self.remains if each.line in self.not_launched))


def translate(script: Script, target: str, *, request: Request | None = None) -> Translation:
    """Translate a script for another scheduler.

    Args:
        target: The scheduler to translate for.
        request: The request to write, if it differs from the request of the script's directives.

    Raises:
        ValueError: The script is already for the target, or fractale does not write scripts for it.
    """
    dialect = dialect_of(target)
    if script.scheduler == target:
        raise ValueError(
            f"the script is one of {target} already: nothing is to be translated; name another "
            "scheduler in `to_manager`"
        )
    asked = _with_defaults(request or script.request, dialect_of(script.scheduler), dialect)
    written = dialect.write(asked)
    shell = script.shell or "bash"
    body = translate_body(script.body, script.scheduler, target, asked, shell=shell)
    header = [_shebang(script), *(f"{dialect.mark} {line}" for line in written.lines)]
    plain, neutral = _without_mark(body.lines, [*header, *body.before], dialect, shell)
    lines = (*header, *body.before, *plain)
    reading = dialect.read(lines)
    if dialect.guard and any(each.line > len(header) for each in reading.directives):
        lines = (*header, f"{dialect.mark} {dialect.guard}", *lines[len(header) :])
        reading = dialect.read(lines)
    result = Script(scheduler=target, shebang=header[0], lines=lines, reading=reading)
    said = body.says | {"shell"} if asked.shell else body.says
    lost = {field: why for field, why in written.lost.items() if field not in said}
    losses = [*_told_by_dialect(script, lost), *_told_by_directives(script)]
    losses += (
        Loss(line=each.line, text=each.text, what="", why=each.why) for each in body.left_out
    )
    losses += body.losses
    if request is None:
        losses += untold(script, result, losses, body.says)
    return Translation(
        original=script,
        script=result,
        losses=_in_order(losses, script),
        notes=(*written.notes, *map(str, body.notes), *neutral),
        changes=body.changes,
        left_out=body.left_out,
        remains=body.remains,
        not_launched=body.not_launched,
        said=body.says,
    )


def _without_mark(
    body: Sequence[str], before: Sequence[str], dialect: Dialect, shell: str
) -> tuple[list[str], list[str]]:
    """Disguise comments that the target would read as directives; returns the lines, and notes."""
    lines = [*before, *body]
    live = [n - 1 for n in sorted(dialect.read(lines).lines) if n > len(before)]
    own = [at for at in live if dialect.is_directive(lines[at])]
    notes: list[str] = []
    starts, documents = [0], list[tuple[int, int]]()
    if own and (shell in POSIX or shell in CSH):
        starts += itertools.accumulate(len(line) + 1 for line in lines)
        documents = read_shell("\n".join(lines), csh=shell in CSH).documents
    for at in own:
        text = lines[at].strip()
        if documents and within(documents, starts[at], starts[at + 1] - 1):
            notes.append(f"`{text}`, which the script writes, is a directive for {dialect.title}")
            continue
        lines[at] = f"# not read: {text}"
        notes.append(
            f"`{text}` is a comment of the original that {dialect.title} would read as a "
            "directive: it is another comment now"
        )
    return lines[len(before) :], notes


def _with_defaults(request: Request, source: Dialect, target: Dialect) -> Request:
    """Add the defaults of the script's own scheduler that the target does not share."""
    given: dict[str, bool] = {}
    if request.join is None and request.error is None:
        given["join"] = bool(source.defaults.join and not target.defaults.join)
    if request.append is None and (request.output or request.error):
        given["append"] = bool(source.defaults.append and not target.defaults.append)
    more = {name: True for name, value in given.items() if value}
    return dataclasses.replace(request, **more) if more else request


def _shebang(script: Script) -> str:
    if script.request.shell:
        return f"#!{script.request.shell}"
    return script.shebang or f"#!{SHELL}"


def _in_order(losses: Iterable[Loss], script: Script) -> tuple[Loss, ...]:
    """Sort losses by the order of the original's options."""
    order = {(d.line, d.text): number for number, d in enumerate(script.reading.directives)}
    return tuple(sorted(losses, key=lambda each: (each.line, order.get((each.line, each.text), 0))))


def _told_by_dialect(script: Script, lost: Mapping[str, str]) -> Iterator[Loss]:
    """Yield the losses of the target's dialect, each with the last line that requests the field."""
    for field, why in lost.items():
        setters = [each for each in script.reading.directives if field in each.sets]
        line, text = (setters[-1].line, setters[-1].text) if setters else (0, "")
        own = setters[-1] if setters and not setters[-1].sets & GRAVE else None
        about = dialect_of(script.scheduler).about(own) if own else ""
        yield Loss(line=line, text=text, what=field, why=why, about=about)


def _told_by_directives(script: Script) -> Iterator[Loss]:
    """Yield the parts of the original's directives that no request can express."""
    dialect = dialect_of(script.scheduler)
    said = script.request.said()
    for each in script.reading.directives:
        why = each.untold
        if each.invalid and not each.sets:
            why = f"{dialect.title} refuses it: {each.invalid}"
        if not why:
            continue
        about = dialect.about(each)
        # The other fields of the directive are read; half an array or dependency is another one.
        if about not in WHOLE and any(field in said for field in each.sets & GRAVE):
            about = ""
        yield Loss(line=each.line, text=each.text, what="", why=why, about=about)


WHOLE: Final = frozenset({"array", "dependencies"})
"""Fields that have no use in part."""


def untold(
    script: Script, translated: Script, losses: Iterable[Loss], said: Collection[str] = ()
) -> list[Loss]:
    """Find parts that a translation, read again, lacks without a loss: the result should be empty.

    This finds a dialect that silently drops a field.

    Args:
        said: Fields that the commands of the translation set.
    """
    known = [*losses, *(Loss(line=0, text="", what=field, why="") for field in said)]
    return [
        Loss(
            line=each.line,
            text=each.text,
            what=each.what,
            why=NOT_SAID if each.line else each.why,
        )
        for each in compare(script, translated, known=known)
        if not each.minor
    ]
