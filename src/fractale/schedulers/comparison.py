"""Compares the requests of two batch scripts, for the same or different schedulers.

Sizes are compared for the whole job: two slots of 32 cores each equal 64 tasks of one core. A name
(queue, account, file) may differ at another site, but its omission is reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.homes import NAMES as SCHEDULERS
from fractale.schedulers.request import MEMORY, Request, Totals
from fractale.schedulers.script import Directive, Loss, Script

FIGURES: Final[Mapping[str, frozenset[str]]] = {
    "nodes": frozenset({"nodes", "tasks_per_node", "chunks", "place"}),
    "tasks": frozenset({"tasks", "tasks_per_node", "chunks"}),
    "cores": frozenset({"cores_per_task", "cores_per_node", "chunks"}),
    "gpus": frozenset({"gpus", "gpus_per_node", "gpus_per_task", "chunks"}),
    "memory": frozenset(
        {"memory", "memory_per_node", "memory_per_core", "memory_per_gpu", "chunks"}
    ),
}
"""Size of a whole job → the fields of a request that set it."""

_OF_FIGURES: Final = frozenset[str]().union(*FIGURES.values())

_OF_CHUNKS: Final = {"tasks": "tasks", "cores": "cores", "gpus": "gpus", "memory": "memory"}
"""Size of a whole job → the field of a chunk that sets it."""

NAMES: Final = {"name": "job name", "account": "account", "queues": "queue", "qos": "QOS"}
"""Fields whose values are compared, but may differ at another site."""

MINUTE: Final = 60.0
MEGABYTE: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A difference between the requests of a translation and its original.

    Args:
        what: Name of the job's size, or the field of the `Request`; empty for a directive without a
            field.
        line: Line of the original, from 1; 0 without a line.
        text: The original's directive as written.
        why: The difference, as a sentence without a capital letter.
        minor: Whether it may be correct at another site: another queue, an added time limit.
    """

    what: str
    why: str
    line: int = 0
    text: str = ""
    minor: bool = False

    def __str__(self) -> str:
        return self.why


def compare(
    original: Script,
    translated: Script,
    mentions: Sequence[str] = (),
    known: Iterable[Loss] = (),
) -> list[Difference]:
    """List the differences between the requests of a translation and its original.

    Args:
        mentions: Texts that may name deliberately omitted directives, such as the comments of the
            translation.
        known: Known losses.
    """
    losses = [*known]
    lost = frozenset(loss.what for loss in losses if loss.what)
    places = {(loss.line, loss.text) for loss in losses}
    dropped = dropped_fields(original, translated, lost)
    left_out = [
        Difference(
            what=min(each.sets & dropped, default=""),
            line=each.line,
            text=each.text,
            why=f"line {each.line} of the original, {each.text}, is neither translated nor in "
            "`no_analogue`, nor named in a comment",
        )
        for each in original.reading.directives
        if each.sets & dropped
        or ((each.line, each.text) not in places and _is_untold(each, translated))
        if not _is_mentioned(each, mentions)
    ]
    expected = lost.union(name for name, fields in FIGURES.items() if fields & lost)
    others = [*_figures(original, translated), *_fields(original, translated)]
    return [*(each for each in others if each.what not in expected), *left_out]


# -- sizes --------------------------------------------------------------------------------------


def _figures(original: Script, translated: Script) -> Iterator[Difference]:
    """Yield the sizes that both scripts set, but to different values."""
    wanted, given = original.request, translated.request
    ours, theirs = wanted.totals(), given.totals()
    for name in FIGURES:
        asked, got = getattr(ours, name), _figure(given, theirs, name)
        if is_same(name, asked, got, ours) or not _is_compared(name, original, translated):
            continue
        unit = "bytes of memory" if name == "memory" else "GPUs" if name == "gpus" else name
        yield Difference(
            what=name, why=f"it asks for {got} {unit}, the original for {asked or 'none'}"
        )


def _is_compared(name: str, original: Script, translated: Script) -> bool:
    """Whether a size that differs is a changed request, rather than an omitted one."""
    wanted, given = original.request, translated.request
    if not says(given, name):
        return False
    if name == "gpus":
        return True
    if name == "tasks" and says(wanted, name):
        ours, theirs = wanted.totals(), given.totals()
        if dialect_of(translated.scheduler).slots:
            # Enough cores for the tasks; slots of several cores may have one core more than needed.
            least = (
                theirs.cores if theirs.cores == theirs.tasks else theirs.cores - theirs.tasks + 1
            )
            return not least <= ours.cores <= theirs.cores
        if dialect_of(original.scheduler).slots and says(given, "cores"):
            return ours.cores != theirs.cores
    if name == "cores":
        return True
    return says(wanted, name)


def _figure(given: Request, totals: Totals, name: str) -> Any:
    """A size of a translation. Its chunks count as nodes if it does not place them."""
    if name == "nodes" and totals.nodes is None and given.chunks and given.place is None:
        return sum(chunk.count for chunk in given.chunks)
    return getattr(totals, name)


def says(request: Request, figure: str) -> bool:
    """Whether a request sets a size, in any field."""
    if figure == "nodes" and request.nodes is None and request.totals().nodes is None:
        return False
    if any(getattr(request, field) is not None for field in FIGURES[figure] - {"chunks"}):
        return True
    part = _OF_CHUNKS.get(figure)
    return any(part is None or getattr(each, part) is not None for each in request.chunks)


def is_same(figure: str, asked: Any, got: Any, totals: Totals) -> bool:
    """Whether two values of a size are equal, as exactly as schedulers write them."""
    if figure != "memory":
        return asked == got
    parts = max(totals.nodes or 1, totals.tasks, totals.cores, totals.gpus)
    return abs(asked - got) <= max(parts * MEGABYTE, asked / 200)


# -- fields -------------------------------------------------------------------------------------


def _fields(original: Script, translated: Script) -> Iterator[Difference]:
    wanted, given = original.request, translated.request
    yield from _times(wanted, given)
    yield from _arrays(wanted, given)
    yield from _dependencies(wanted, given)
    for field, word in NAMES.items():
        asked, got = _as_text(getattr(wanted, field)), _as_text(getattr(given, field))
        if field == "name" and given.array and not asked:
            continue  # LSF requires a name for an array
        if got and not asked:
            why = f"{word} is set, but not in the original"
        elif asked and got and asked != got and got not in asked.split(","):
            why = f"{word} is {got}, but the original asks for {asked}"
        else:
            continue
        yield Difference(what=field, why=why, minor=True)


def _as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else value or ""  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - of strings


def _times(wanted: Request, given: Request) -> Iterator[Difference]:
    asked, got = wanted.seconds, given.seconds
    if got is None or asked == got:
        return
    if asked is None:
        yield Difference(
            what="seconds", why=f"it asks for {got:g} seconds, the original says none", minor=True
        )
    elif not abs(asked - got) < MINUTE:
        yield Difference(
            what="seconds", why=f"it asks for {got:g} seconds, the original for {asked:g}"
        )


def _arrays(wanted: Request, given: Request) -> Iterator[Difference]:
    asked, got = wanted.array, given.array
    if got is None or asked == got:
        return
    if asked is None:
        yield Difference(what="array", why=f"it is an array ({got}), the original is one job")
    elif asked.indices != got.indices or (asked.most and got.most and asked.most != got.most):
        yield Difference(what="array", why=f"it is the array {got}, the original {asked}")


def _dependencies(wanted: Request, given: Request) -> Iterator[Difference]:
    """Compare the kinds of dependencies; the ids of the jobs differ by machine."""
    asked = sorted(each.kind for each in wanted.dependencies)
    got = sorted(each.kind for each in given.dependencies)
    if got and asked != got:
        yield Difference(
            what="dependencies",
            why=f"it waits for other jobs ({', '.join(got)}), the original for "
            f"{', '.join(asked) or 'none'}",
        )


# -- omissions ----------------------------------------------------------------------------------


def dropped_fields(
    original: Script, translated: Script, lost: Collection[str] = ()
) -> frozenset[str]:
    """Find the fields of the original's request that the translation neither sets nor implies.

    Args:
        lost: Fields that are known to be lost, and are skipped.
    """
    wanted, given = original.request, translated.request
    asked = wanted.said()
    dropped = {field for field in asked if _is_dropped(field, original, translated)}
    # The original requests all of a node's memory.
    dropped |= {each for each in MEMORY & asked.keys() if asked[each] == 0 and not _is_all(given)}
    ours, theirs = wanted.totals(), given.totals()
    for figure, fields in FIGURES.items():
        ask, got = getattr(ours, figure), _figure(given, theirs, figure)
        known = is_same(figure, ask, got, ours) or not fields.isdisjoint(lost)
        if says(wanted, figure) and not says(given, figure) and not known:
            said = fields & asked.keys()
            dropped |= said - {"chunks"} or said
    return frozenset(dropped).difference(lost)


def _is_dropped(field: str, original: Script, translated: Script) -> bool:
    """Whether the translation omits a field that does not set a size."""
    wanted, given = original.request, translated.request
    asked, got = getattr(wanted, field), getattr(given, field)
    if field in _OF_FIGURES or asked == got or asked in NOTHING_ASKED:
        return False
    if field == "most_nodes" and asked == wanted.nodes:
        return False
    if field == "workdir" and any(_goes_to(asked, line) for _, line in translated.body):
        return False
    if field == "shell":
        return asked not in translated.shebang
    if field == "join":
        return _joins(translated) is not asked
    if field == "error" and (wanted.join or asked == wanted.output) and _joins(translated):
        return False
    if field in ("hosts", "variables", "other", "mail_to", "without_hosts"):
        return bool(set(asked) - set(got))
    if got is None or got == ():
        return asked != getattr(dialect_of(translated.scheduler).defaults, field)
    return isinstance(asked, bool)


def _is_all(given: Request) -> bool:
    """Whether a request has all of a node's memory."""
    return given.exclusive is True or any(getattr(given, each) == 0 for each in MEMORY)


def _goes_to(folder: str, line: str) -> bool:
    """Whether a command changes to the working directory of the original's job."""
    found = re.fullmatch(r"\s*cd\s+(?:--\s+)?(\S.*?)\s*(?:\|\|.*)?", line)
    place = re.sub(r"[\"']", "", found[1]) if found else ""
    return place == folder or place.endswith(f"/{folder.removeprefix('./')}")


NOTHING_ASKED: Final = (False, ("none",))
"""Values that equal the default: not held, not exclusive, no mail."""


def _joins(script: Script) -> bool:
    """Whether stderr goes into stdout's file."""
    if script.request.join is not None:
        return script.request.join
    return bool(dialect_of(script.scheduler).defaults.join) and script.request.error is None


def _is_untold(directive: Directive, translated: Script) -> bool:
    """Whether a directive says more than its fields, and the translation does not have it."""
    if directive.sets and not directive.untold:
        return False
    return not any(
        (each.option, each.value) == (directive.option, directive.value)
        for each in translated.reading.directives
    )


def _is_mentioned(directive: Directive, mentions: Sequence[str]) -> bool:
    """Whether a text names the directive: by its option in any spelling, or in full."""
    flag = re.split(r"[\s=]", directive.text, maxsplit=1)[0]
    names = {flag, f"--{directive.option}", f"-{directive.option}"}
    names |= {directive.option} if len(directive.option) > 1 else set()
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    name = re.compile(rf"(?<![\w-])(?:{pattern})(?![a-z-])")
    return any(directive.text in each or name.search(each) for each in mentions)


# -- other lines --------------------------------------------------------------------------------


def comments_of(script: Script) -> list[str]:
    """List the comments of a script, without its directives."""
    return [line for _, line in script.body if line.lstrip().startswith("#")]


def leftovers(original: Script, translated: Script) -> list[str]:
    """List directives of other schedulers that a translation still has.

    Directives that the original's commands print, such as in a here-document, do not count.
    """
    printed = {line for _, line in original.body}
    others = [name for name in SCHEDULERS if name != translated.scheduler]
    return [
        f"still in it: `{line.strip()}` is a directive of {name}"
        for line in translated.lines
        if line not in printed
        for name in others
        if dialect_of(name).is_directive(line)
    ]
