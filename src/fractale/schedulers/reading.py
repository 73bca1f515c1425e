"""Shared by the readers and writers of directives: words, drafts of directives, amounts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fractale.schedulers.options import Said
from fractale.schedulers.request import Chunk, Request
from fractale.schedulers.script import Directive, Reading, Remark


@dataclass(slots=True, kw_only=True)
class Draft:
    """A directive while fractale reads its script.

    Args:
        fields: The fields of a `Request` that it sets, with their values while these matter.
        invalid: Why the scheduler refuses it.
        untold: The parts that no field can express.
    """

    line: int
    option: str
    value: str = ""
    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    invalid: str = ""
    untold: list[str] = field(default_factory=list[str])

    def sets(self, *names: str) -> None:
        """Record that the directive also sets these fields, whatever their values."""
        for name in names:
            self.fields.setdefault(name)

    def read(
        self,
        program: str,
        readers: Mapping[str, Callable[[str], Said]],
        reasons: Mapping[str, str],
    ) -> None:
        """Read the value, unless the option is already refused.

        Args:
            program: Name of the program with the option, for texts: ``sbatch``.
            readers: Option → reader of its value; raises ValueError for a refused value.
            reasons: Option → why no field can express it, for options without a reader.
        """
        if self.invalid:
            return
        if self.option in readers:
            try:
                said = readers[self.option](self.value)
            except ValueError as error:
                self.invalid = str(error)
                return
            self.fields, self.untold = dict(said.fields), [said.untold] if said.untold else []
        if not self.fields:
            reason = reasons.get(self.option)
            self.untold = [reason] if reason else self.untold or [f"only {program} has this option"]

    def replace(self, later: Draft) -> None:
        """Record that a later directive of the same option replaces this directive."""
        self.fields = dict.fromkeys(later.fields)
        self.untold = [] if self.fields else self.untold or ["a later line replaces it"]

    def done(self, program: str, sets: frozenset[str] | None = None) -> Directive:
        """Make the directive, after all lines were read.

        Args:
            program: Name of the program that refuses an invalid directive: ``qsub``.
            sets: The fields that express all of it; None: its own fields, as far as it has any.
        """
        untold = [f"{program} refuses it: {self.invalid}"] if self.invalid else self.untold
        if not untold and not self.fields:
            untold = ["it asks for nothing"]
        return Directive(
            line=self.line,
            option=self.option,
            value=self.value,
            text=self.text,
            sets=frozenset(self.fields) if sets is None else sets,
            invalid=self.invalid,
            untold="" if sets else "; ".join(dict.fromkeys(untold)),
        )


class Gathered:
    """The result of a reader so far: fields of a request, directives, remarks."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.drafts: list[Draft] = []
        self.invalid: list[Remark] = []
        self.remarks: list[Remark] = []
        self._again: list[tuple[Draft, Draft]] = []

    def draft(self, line: int, option: str, value: str, text: str) -> Draft:
        """Begin a directive."""
        draft = Draft(line=line, option=option, value=value, text=text)
        self.drafts.append(draft)
        return draft

    def set(self, draft: Draft, **fields: Any) -> None:
        for name, value in fields.items():
            if value is not None and value != ():
                self.fields[name] = value
                draft.fields[name] = value

    def again(self, before: Draft | None, now: Draft) -> None:
        """Record that an option is repeated, and that its last directive counts."""
        if before is not None:
            self._again.append((before, now))

    def _settle_again(self) -> None:
        """Mark each directive whose whole content a later directive replaces."""
        for before, now in reversed(self._again):
            if not (before.fields or before.untold or before.invalid):
                before.sets(*now.fields)
                before.untold += [] if now.fields else [f"line {now.line} replaces it"]

    def remark(self, draft: Draft, why: str) -> None:
        """Add a remark on a directive."""
        remark = Remark(line=draft.line, text=draft.text, why=why)
        if remark not in self.remarks:
            self.remarks.append(remark)

    def refuse(self, line: int, text: str, why: str) -> None:
        """Record that the scheduler refuses the script."""
        self.invalid.append(Remark(line=line, text=text, why=why))

    def reading(self, program: str, lines: Collection[int]) -> Reading:
        """Make the reading, after all lines were read.

        Args:
            program: Name of the program that refuses an invalid directive: ``qsub``.
            lines: Numbers of the lines that are directives.
        """
        self._settle_again()
        return Reading(
            directives=tuple(draft.done(program) for draft in self.drafts),
            lines=frozenset(lines),
            request=Request(**self.fields),
            invalid=tuple(self.invalid),
            remarks=tuple(self.remarks),
        )


_SPECIAL: Final = re.compile(r"[\"'\\#]")


def joined(lines: Sequence[str], number: int, text: str) -> tuple[str, int]:
    """Join a directive with its continuation lines, after backslashes.

    Args:
        number: Number of its first line, from 1.
        text: The first line without the mark.

    Returns:
        The text, and the number of the directive's last line.
    """
    while text.endswith("\\") and number < len(lines):
        text = text[:-1] + lines[number]
        number += 1
    return text, number


def split_words(text: str, *, comments: bool, escapes: bool = True) -> tuple[list[str], str]:
    """Split a directive line into words; also returns an unclosed quote (empty if all are closed).

    Single and double quotes group, also in the middle of a word. Quoted text is kept unchanged.

    Args:
        comments: Whether a word that begins with ``#`` ends the line.
        escapes: Whether a backslash outside quotes escapes the next letter.
    """
    if not _SPECIAL.search(text):
        return text.split(), ""
    words: list[str] = []
    word: list[str] | None = None
    at = 0
    while at < len(text):
        letter = text[at]
        at += 1
        if letter in "\"'":
            end = text.find(letter, at)
            word = [] if word is None else word
            if end < 0:
                word.append(text[at:])
                return [*words, "".join(word)], letter
            word.append(text[at:end])
            at = end + 1
        elif letter == "\\" and escapes and at < len(text):
            word = [] if word is None else word
            word.append(text[at])
            at += 1
        elif letter.isspace():
            if word is not None:
                words.append("".join(word))
                word = None
        elif letter == "#" and comments and word is None:
            break
        else:
            word = [] if word is None else word
            word.append(letter)
    if word is not None:
        words.append("".join(word))
    return words, ""


_BURST_BUFFER: Final = re.compile(r"#(?:BB(?:_LUA)?|DW)[ \t]+\S")

BURST_BUFFER: Final = "storage for the job (a burst buffer), or files copied to it"


def burst_buffers(lines: Sequence[str]) -> Iterable[tuple[int, str]]:
    """Yield number and text of the `#BB` and `#DW` lines above the first command.

    Plugins read them: Slurm's burst_buffer.conf(5), DataWarp's of PBS.
    """
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            return
        if _BURST_BUFFER.match(line):
            yield number, line.strip()


EVENTS = ("begin", "end", "fail")


def events(found: Iterable[str]) -> tuple[str, ...]:
    """List the events that send mail, each once, in a fixed order."""
    every = set(found)
    return tuple(each for each in EVENTS if each in every)


_PLAIN = re.compile(r"[A-Za-z0-9_./:%,=+@^~-]+")


def quoted(word: str) -> str | None:
    """Quote a word for `split_words`, if necessary; None if no quotes can hold it.

    There are no escapes. A value with both kinds of quotes, or with a line break, does not fit into
    one directive of LSF.
    """
    if _PLAIN.fullmatch(word):
        return word
    if "\n" in word or "\r" in word:
        return None
    if '"' not in word:
        return f'"{word}"'
    if "'" not in word:
        return f"'{word}'"
    return None


_QUOTE: Final = re.compile(r"[\"']")


def listed(variables: Iterable[str], breaks: str) -> tuple[list[str], dict[str, str]]:
    """Write variables as a list of ``NAME=value``, for a reader that removes all quotes.

    Args:
        breaks: A pattern: a value that matches needs quotes.

    Returns:
        The words, and the field `variables` with the reason if some variables are missing.
    """
    found, lost = list[str](), dict[str, str]()
    for each in variables:
        name, equals, value = each.partition("=")
        if _QUOTE.search(value):
            lost["variables"] = "a value has quotes"
            continue
        quote = "'" if re.search(breaks, value) else ""
        found.append(f"{name}{equals}{quote}{value}{quote}")
    return found, lost


def whole(text: str, what: str, least: int = 1) -> int:
    """Read a whole number.

    Raises:
        ValueError: The text is not a whole number, or is less than `least`.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) < least:
        raise ValueError(f"`{text}` is not a whole number of {what} from {least}")
    return int(text)


def needed(option: str, value: str) -> None:
    """Refuse an option without its value.

    Raises:
        ValueError: The value is blank.
    """
    if not value.strip():
        raise ValueError(f"`-{option}` needs a value")


def amount(count: int, units: Iterable[tuple[str, int]]) -> str:
    """Write a count in the largest unit that gives a whole number."""
    name, size = next((name, size) for name, size in units if count % size == 0)
    return f"{count // size}{name}"


def even(total: int, parts: int) -> list[tuple[int, int]]:
    """Divide a total over parts as evenly as possible: how many parts, and how much each."""
    less, more = divmod(total, parts)
    return [(n, each) for n, each in ((more, less + 1), (parts - more, less)) if n]


def slip(name: str, known: Collection[str]) -> str | None:
    """Find the known name that this one misspells: one letter more, less, other or swapped."""
    if name in known or len(name) < 4:
        return None
    return next((each for each in known if len(each) > 3 and _one_apart(name, each)), None)


def _one_apart(one: str, other: str) -> bool:
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    left, right = one[start:], other[start:]
    return (
        left[1:] == right
        or left == right[1:]
        or left[1:] == right[1:]
        or (len(left) == len(right) > 1 and left[1::-1] + left[2:] == right)
    )


def contradictions(request: Request, chunks: Sequence[Chunk], nodes: int | None) -> dict[str, str]:
    """Find sizes of a request that its chunks do not express: field → reason."""
    lost: dict[str, str] = {}
    got = Request(chunks=tuple(chunks), place=None).totals()
    many = nodes or 0
    says = {
        "tasks": (1, got.tasks),
        "cores_per_task": (got.tasks, got.cores),
        "cores_per_node": (many, got.cores),
        "gpus": (1, got.gpus),
        "gpus_per_node": (many, got.gpus),
        "gpus_per_task": (got.tasks, got.gpus),
        "memory": (1, got.memory),
        "memory_per_node": (many, got.memory),
        "memory_per_core": (got.cores, got.memory),
        "memory_per_gpu": (got.gpus, got.memory),
    }
    for name, (times, whole_) in says.items():
        each = getattr(request, name)
        if each is None or (times == 0 and name.endswith("_node") and name != "cores_per_node"):
            continue
        spare = whole_ - each * times
        rounding = sum(chunk.count for chunk in chunks) << 20 if name == "memory" else 1
        if not 0 <= spare < rounding:
            lost.setdefault(name, "other sizes of the job contradict it")
    if request.nodes is not None and nodes != request.nodes:
        lost.setdefault("nodes", "other sizes of the job contradict it")
    if request.tasks_per_node is not None and nodes is not None:
        most = max(chunk.tasks or 1 for chunk in chunks)
        less = request.tasks is None and most < request.tasks_per_node
        if less or most > request.tasks_per_node:
            lost.setdefault("tasks_per_node", "other sizes of the job contradict it")
    return lost


def rounded(seconds: float, unit: int) -> int:
    """Convert seconds to whole units, rounded up."""
    return math.ceil(seconds / unit)
