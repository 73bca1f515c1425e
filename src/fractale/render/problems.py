"""Problems of plans, and errors, as text that shows what to do next."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fractale.errors import FractaleError, PlanError, Position, Problem, SweepError
from fractale.render.text import (
    ELLIPSIS,
    Line,
    Mark,
    Segment,
    cells,
    count,
    fold,
    inert,
    paint,
    row,
    wants_color,
    writable,
)

Sources = Callable[[str], list[str] | None]
"""A function from the file name in a position to the file's lines; None if it has no lines."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EBADF, errno.EIO)
"""Errors of an output that was opened for reading, or that has lost its terminal."""

WIDTH = 100
BEFORE, SHOWN = 30, 78
"""The most characters of a long line that are shown before the fault, and in all."""


def show_problems(problems: Sequence[Problem], sources: Sources, *, color: bool) -> str:
    """Every problem with its position, the line at fault, and a suggestion.

    Args:
        problems: In any order; they are shown in the order of the files.
        sources: Returns the lines of a file.

    Returns:
        Lines, with the number of errors and warnings at the end. If registry files near the plan
        list missing tools, prompts or agents, the last lines name the files. Empty without a
        problem.
    """
    if not problems:
        return ""
    lines: list[Line] = []
    for problem in sorted(problems, key=_order):
        lines += _problem(problem, sources)
    lines.append(row(tally(problems)))
    lines += [row(words) for words in _registries(problems)]
    return "\n".join(paint(line, color=color) for line in lines) + "\n"


def _registries(problems: Sequence[Problem]) -> list[str]:
    """The registry files near a plan that list its missing tools, prompts or agents."""
    from fractale.registry.files import registries_with

    lacks: dict[str, list[str]] = {}
    for problem in problems:
        if problem.missing and problem.position:
            lacks.setdefault(problem.position.file, []).append(problem.missing)
    words: list[str] = []
    for plan, names in lacks.items():
        lead = f"{inert(plan)}: " if len(lacks) > 1 else ""
        for path, listed in registries_with(names, plan).items():
            shown = ", ".join(f"`{inert(name, 60)}`" for name in listed)
            words += fold(f"{lead}add -r {inert(path)}: it lists {shown}", WIDTH)
    return words


def tally(problems: Sequence[Problem]) -> str:
    """The number of errors and warnings: ``1 error, 2 warnings``."""
    errors = sum(1 for problem in problems if problem.severity == "error")
    warnings = len(problems) - errors
    parts = [count(errors, "error")] if errors or not warnings else []
    return ", ".join([*parts, *([count(warnings, "warning")] if warnings else [])])


def print_problems(problems: Sequence[Problem]) -> None:
    """Show problems of files on stderr."""
    text = show_problems(problems, file_lines(), color=wants_color(sys.stderr))
    sys.stderr.write(writable(_masked(text), sys.stderr.encoding))


def file_lines() -> Sources:
    """A function that reads each file once; a file that cannot be read has no lines."""
    kept: dict[str, list[str] | None] = {}

    def lines_of(file: str) -> list[str] | None:
        if file not in kept:
            kept[file] = _lines_of(Path(file))
        return kept[file]

    return lines_of


def _lines_of(path: Path) -> list[str] | None:
    """The lines of a plan or registry; None for a pipe or a device, which can be read only once."""
    from fractale.plan.source import MAX_BYTES

    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    return text.removeprefix("\ufeff").split("\n")


def show_error(error: Exception) -> int:
    """Show an error on stderr without a traceback.

    Returns:
        The exit code of the command: the error's code, or 1 for an unexpected error.
    """
    import click

    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, (PlanError, SweepError)):
        print_problems(error.problems)
        if error.hint:
            click.echo(inert(error.hint, 1000, lines=True), err=True)
        return error.exit_code
    color = wants_color(sys.stderr)
    text = "\n".join(paint(line, color=color) for line in _error(error)) + "\n"
    sys.stderr.write(writable(_masked(text), sys.stderr.encoding))
    return error.exit_code if isinstance(error, FractaleError) else 1


def _masked(text: str) -> str:
    """The text of an error without the secrets of the settings, or at least the environment's."""
    from fractale.masking import Masker
    from fractale.settings import load_settings, secrets_of_environment

    try:
        secrets = load_settings().secrets
    except (FractaleError, OSError):  # the settings may be the cause of the error
        secrets = secrets_of_environment()
    return Masker(secrets).text(text)


def _error(error: Exception) -> list[Line]:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return [
            [("error", "bad"), (f"  cannot write: {inert(str(error), 500)}", "")],
            row("       free some space; `fractale runs` lists the state of each run"),
        ]
    if isinstance(error, OSError) and error.errno in CLOSED and error.filename is None:
        return [
            [("error", "bad"), (f"  cannot write the output: {inert(str(error), 500)}", "")],
            row("       check that stdout and stderr can be written to"),
        ]
    if not isinstance(error, FractaleError):
        name = type(error).__name__
        words = inert(str(error), 500) or "no message"
        return [
            [("error", "bad"), (f"  unexpected {name}: {words}", "")],
            row("       this is a bug in fractale; add --debug to see the traceback"),
        ]
    place = f"{error.position}  " if error.position else ""
    message = inert(f"{place}{error.message}", 2000, lines=True).split("\n")
    lines: list[Line] = [[("error", "bad"), (f"  {message[0]}", "")]]
    lines += [row(f"       {words}") for words in message[1:]]
    if error.hint:
        lines += [row(f"       {w}") for w in inert(error.hint, 1000, lines=True).split("\n")]
    return lines


def _order(problem: Problem) -> tuple[str, int, int]:
    place = problem.position
    return (place.file, place.line, place.column) if place else ("", 0, 0)


def _problem(problem: Problem, sources: Sources) -> list[Line]:
    bad = problem.severity == "error"
    place = f"{inert(str(problem.position))}  " if problem.position else ""
    code = problem.code if bad else f"warning {problem.code}"
    head: Line = [(place, ""), (code, _mark(problem))]
    if problem.path:
        head.append((f"  {inert(problem.path)}", ""))
    return [head, *_excerpt(problem, sources)]


def _mark(problem: Problem) -> Mark:
    return "bad" if problem.severity == "error" else "warn"


def _message(problem: Problem) -> str:
    message = inert(problem.message, 1000)
    near = problem.suggestion
    return f"{message}; did you mean `{inert(near)}`?" if near else message


def _excerpt(problem: Problem, sources: Sources) -> list[Line]:
    """The line at fault with carets below, then the message."""
    place = problem.position
    source = _line_of(place, sources)
    if place is None or source is None:
        return [row(f"      {words}") for words in fold(_message(problem), WIDTH)]
    before, fault, after = _split(source, place.column, problem.length)
    number, mark = f"{place.line:>5}", _mark(problem)
    carets = "^" * max(cells(fault), 1)
    lead = " " * cells(before)
    lines: list[Line] = [
        [(f"{number} | ", "dim"), (f"{before}{fault}{after}", "")],
        [("      | ", "dim"), (lead, ""), (carets, mark)],
    ]
    message = _message(problem)
    if 8 + cells(lead + carets) + 1 + cells(message) <= WIDTH:
        lines[-1].append((f" {message}", ""))
    else:
        bar: Segment = ("      | ", "dim")
        lines.extend([bar, (words, "")] for words in fold(message, WIDTH - 8))
    return lines


def _line_of(place: Position | None, sources: Sources) -> str | None:
    lines = sources(place.file) if place else None
    if place is None or not lines or not 1 <= place.line <= len(lines):
        return None
    return lines[place.line - 1].rstrip("\r")


def _split(source: str, column: int, length: int) -> tuple[str, str, str]:
    """A line as the text before the fault, the fault, and the text after it; a long line is cut."""
    start = min(max(column - 1, 0), len(source))
    end = min(start + max(length, 1), len(source))
    before, fault, after = source[:start], source[start:end], source[end:]
    if len(source) > SHOWN and start > BEFORE:
        before = ELLIPSIS + before[-BEFORE:]
    if len(fault) > SHOWN - BEFORE:
        fault, after = fault[: SHOWN - BEFORE], after or " "
    room = max(SHOWN - len(before) - len(fault), 0)
    if len(after) > room:
        after = after[:room] + ELLIPSIS
    return _shown(before), _shown(fault), _shown(after)


def _shown(part: str) -> str:
    """A piece of a line, escaped, with its blanks kept."""
    return inert(part.replace("\t", "    "), lines=True)
