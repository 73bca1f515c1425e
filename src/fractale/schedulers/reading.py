"""What the readers and writers of directives share: words, drafts of directives, amounts."""

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
    """A directive while its script is read.

    Args:
        fields: The fields of a `Request` that it sets; with their values as long as these matter.
        invalid: Why the scheduler refuses it.
        untold: What of it no field says.
    """

    line: int
    option: str
    value: str = ""
    text: str = ""
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    invalid: str = ""
    untold: list[str] = field(default_factory=list[str])

    def sets(self, *names: str) -> None:
        """Say that it sets these fields, too, whatever their values are."""
        for name in names:
            self.fields.setdefault(name)

    def read(
        self,
        program: str,
        readers: Mapping[str, Callable[[str], Said]],
        reasons: Mapping[str, str],
    ) -> None:
        """Read the value, unless the option is refused already.

        Args:
            program: Whose option it is, in texts: ``sbatch``.
            readers: Option → what its value says; ValueError for a value that is refused.
            reasons: Option → why no field says it, for options without a reader.
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
        """Say that a later directive of the same option counts in place of this one."""
        self.fields = dict.fromkeys(later.fields)
        self.untold = [] if self.fields else self.untold or ["a later line replaces it"]

    def done(self, program: str, sets: frozenset[str] | None = None) -> Directive:
        """The directive, when all lines are read.

        Args:
            program: What refuses an invalid one: ``qsub``.
            sets: The fields that say all of it; None: its own, as far as it has them.
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
    """What a reader has found so far: fields of a request, directives, remarks."""

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
        """Set fields of the request."""
        for name, value in fields.items():
            if value is not None and value != ():
                self.fields[name] = value
                draft.fields[name] = value

    def again(self, before: Draft | None, now: Draft) -> None:
        """Say that an option is there again, and that the last one counts."""
        if before is not None:
            self._again.append((before, now))

    def _settle_again(self) -> None:
        """Say of each directive that another one replaces what that one says."""
        for before, now in reversed(self._again):
            if not (before.fields or before.untold or before.invalid):
                before.sets(*now.fields)
                before.untold += [] if now.fields else [f"line {now.line} replaces it"]

    def remark(self, draft: Draft, why: str) -> None:
        """Say something about a directive."""
        remark = Remark(line=draft.line, text=draft.text, why=why)
        if remark not in self.remarks:
            self.remarks.append(remark)

    def refuse(self, line: int, text: str, why: str) -> None:
        """Say that the scheduler refuses the script."""
        self.invalid.append(Remark(line=line, text=text, why=why))

    def reading(self, program: str, lines: Collection[int]) -> Reading:
        """What was found, when all lines are read.

        Args:
            program: What refuses an invalid directive: ``qsub``.
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
    """A directive with the lines that go on after its backslash.

    Args:
        number: Of its first line, from 1.
        text: That line without the mark.

    Returns:
        The text, and the number of its last line.
    """
    while text.endswith("\\") and number < len(lines):
        text = text[:-1] + lines[number]
        number += 1
    return text, number


def split_words(text: str, *, comments: bool, escapes: bool = True) -> tuple[list[str], str]:
    """Words of a directive line, and the quote that is not closed (empty if all are).

    Quotes of both kinds group, also in the middle of a word; what is in them is kept as it is.

    Args:
        comments: Whether a word that begins with ``#`` ends the line.
        escapes: Whether a backslash outside quotes keeps the next letter as it is.
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
    """Number and text of the `#BB` and `#DW` lines above the first command.

    Plugins read them: Slurm's burst_buffer.conf(5), DataWarp's of PBS.
    """
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            return
        if _BURST_BUFFER.match(line):
            yield number, line.strip()


EVENTS = ("begin", "end", "fail")


def events(found: Iterable[str]) -> tuple[str, ...]:
    """Events that mail is sent on, each once, in one order."""
    every = set(found)
    return tuple(each for each in EVENTS if each in every)


_PLAIN = re.compile(r"[A-Za-z0-9_./:%,=+@^~-]+")


def quoted(word: str) -> str | None:
    """A word as `split_words` reads it back, in quotes if need be; None if no quotes can hold it.

    That is without escapes: a value with both kinds of quotes, or with a line break, cannot be
    written in one directive of LSF.
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
    """Variables as a list of ``NAME=value`` has them, whose reader takes all quotes away.

    Args:
        breaks: A pattern: a value with this in it needs quotes.

    Returns:
        The words, and the field with why some are not among them, if so.
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
    """A whole number.

    Raises:
        ValueError: The text is none, or less than `least`.
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
    """A count in the largest unit that gives a whole number."""
    name, size = next((name, size) for name, size in units if count % size == 0)
    return f"{count // size}{name}"


def even(total: int, parts: int) -> list[tuple[int, int]]:
    """A total over parts as evenly as whole numbers can: how many parts, and how much each."""
    less, more = divmod(total, parts)
    return [(n, each) for n, each in ((more, less + 1), (parts - more, less)) if n]


def slip(name: str, known: Collection[str]) -> str | None:
    """The known name that this is a misspelling of: one letter more, less, other or swapped."""
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
    """Sizes of a request that chunks do not say, and why."""
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
    """Seconds in whole units, rounded up."""
    return math.ceil(seconds / unit)
