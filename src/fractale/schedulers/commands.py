"""Compares the commands of two batch scripts, for the same or different schedulers.

A command that is not specific to a scheduler must be in both scripts, unchanged and in order. A
scheduler-specific command may differ, but only in its specific words: a launcher with its options,
a variable of the job, a program of the scheduler. The started program and its number of tasks must
stay the same.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fractale.schedulers.body import Body, program_at, translate_body
from fractale.schedulers.dialects import dialect_of
from fractale.schedulers.environment import Launcher, environment_of, mentions_in
from fractale.schedulers.homes import NAMES, READ
from fractale.schedulers.launch import UnclearError, known, read_launch, tasks_of
from fractale.schedulers.request import Request
from fractale.schedulers.script import Script
from fractale.schedulers.shell import CSH, POSIX
from fractale.schedulers.shell_text import ShellText, read_shell, within, words_of
from fractale.text import one_line


@dataclass(slots=True)
class Commands:
    """The differences between the commands of a translation and those of its original.

    Args:
        errors: Commands that are missing, added or changed.
        warnings: Differences that may be correct at another site, and that the user should check:
            environment modules, variables that are set, commands that only print.
    """

    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])


def compare_commands(original: Script, translated: Script) -> Commands:
    """Compare the commands of a translation with those of its original."""
    found = Commands()
    own = _translation(original, translated.scheduler)
    if own is not None and _same(translated, (*own.before, *own.lines)):
        return found
    mine = _Commands(original, translated.scheduler, own)
    theirs = _Commands(translated, original.scheduler)
    pairs, gone, added = _aligned(mine, theirs)
    for here, there in pairs.items():
        found.warnings += _unsure(mine, mine.lines[here], theirs, theirs.lines[there])
    for at in gone:
        _tell_gone(found, mine, mine.lines[at], theirs, added)
    before = {one_line(each) for each in own.before} if own else set[str]()
    for at in added:
        if theirs.lines[at].plain not in before:
            _tell_added(found, theirs, theirs.lines[at], mine)
    return found


def _translation(original: Script, target: str) -> Body | None:
    """Translate the commands as fractale itself would."""
    if original.scheduler not in READ or target not in NAMES or original.scheduler == target:
        return None
    shell = original.shell or "sh"
    return translate_body(original.body, original.scheduler, target, original.request, shell=shell)


def _same(script: Script, lines: Sequence[str]) -> bool:
    def bare(texts: Sequence[str]) -> list[str]:
        return [text.rstrip() for text in texts if text.strip()]

    return bare([text for _, text in script.body]) == bare(lines)


# -- the lines of a script ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Launch:
    """A launcher that starts a program.

    Args:
        text: The launcher with its options.
        tasks: Number of tasks that it starts, as a word of the shell; empty if unknown.
        all: Whether it starts as many tasks as its job can run.
        clear: Whether the end of its options is known.
    """

    text: str
    tasks: str
    all: bool = False
    clear: bool = True


@dataclass(slots=True)
class _Line:
    """A command with all of its lines.

    Args:
        numbers: Numbers of its lines in the script.
        plain: The command in one line, with single blanks and without comments.
        own: The same in fractale's own translation; empty if unchanged.
        pattern: A pattern that matches its translations; None if a translation must be identical.
        text: The command with a mark in place of each launcher and its options.
        programs: The simple commands in it, as lists of words.
        speaks: Whether a part of it is specific to the script's own scheduler.
        alone: Whether it is a single command that reads and writes no file.
    """

    numbers: range
    plain: str
    text: str = ""
    own: str = ""
    pattern: re.Pattern[str] | None = None
    facts: list[str] = field(default_factory=list[str])
    launches: list[_Launch] = field(default_factory=list[_Launch])
    programs: list[list[str]] = field(default_factory=list[list[str]])
    speaks: bool = False
    alone: bool = False
    document: bool = False


@dataclass(frozen=True, slots=True, order=True)
class _Part:
    """A part of the text that a translation may change.

    Args:
        kind: ``launch``, ``value``, ``command``, ``module``, ``comment``.
        fact: The fact that a value gives.
    """

    start: int
    less: int
    kind: str = field(compare=False)
    fact: str = field(compare=False, default="")
    launch: _Launch | None = field(compare=False, default=None)


_MARK: Final = "\x01"
"""Replaces a launcher in a text."""
_PATTERNS: Final = {
    "value": r"((?:\$\((?:[^()]|\([^()]*\))*\)|`[^`]*`|\$\{[^}]*\}|[^\s;|&])*?)",
    "command": r"((?:\$\((?:[^()]|\([^()]*\))*\)|'[^']*'|[^;|&<>])+?)",
    "module": r"((?:module|ml) [^;|&<>]+?)",
}
"""Kind of a part → the texts that may replace it; double quotes are ignored."""


class _Commands:
    """The commands of a script, prepared for the comparison.

    Args:
        other: Scheduler of the other script.
        own: fractale's own translation of this script, if this is the original.
    """

    def __init__(self, script: Script, other: str, own: Body | None = None) -> None:
        self.script, self.request = script, script.request
        self.home = environment_of(script.scheduler) if script.scheduler in READ else None
        self.away = environment_of(other) if other in READ else None
        shell = script.shell or "sh"
        self.in_shell = shell in POSIX or shell in CSH
        self.numbers = [number for number, _ in script.body]
        texts = [text.rstrip("\r") for _, text in script.body]
        self.text = "\n".join(texts)
        self.starts = [0]
        for text in texts:
            self.starts.append(self.starts[-1] + len(text) + 1)
        self.shell = read_shell(self.text, csh=shell in CSH) if self.in_shell else ShellText()
        self.figures: Mapping[str, str] = known(script.request)
        self.parts: list[_Part] = []
        self.by_line: dict[int, list[list[str]]] = {}
        self._find_parts()
        changes = {each.line: each for each in own.changes if each.line} if own else {}
        self.lines = [self._line(first, last) for first, last in self._ranges()]
        for line in self.lines if changes else ():
            first = line.numbers[0]
            own_text = text = "\n".join(script.lines[first - 1 : line.numbers[-1]])
            for number in line.numbers:
                if number in changes:
                    own_text = own_text.replace(changes[number].old, changes[number].new)
            line.own = _in_one(own_text) if own_text != text else ""

    def _index(self, at: int) -> int:
        return bisect.bisect_right(self.starts, at) - 1

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the indices of the first and the last line of each command."""
        at = 0
        lines = self.text.split("\n") if self.numbers else []
        while at < len(lines):
            last = at
            while last + 1 < len(lines) and lines[last].endswith("\\"):
                last += 1
            yield at, last
            at = last + 1

    # Parts that a translation may change.

    def _find_parts(self) -> None:
        self.parts += (_Part(start, -end, "comment") for start, end in self.shell.comments)
        for command in self.shell.commands:
            words = list(words_of(command))
            texts = [self.text[word.start : word.end] for word in words]
            if not texts:
                continue
            self.by_line.setdefault(self._index(command.words[0].start), []).append(texts)
            at = program_at(texts)
            if at is None:
                continue
            name = texts[at].rpartition("/")[2].strip("\"'")
            launcher = self._launcher([name, *texts[at + 1 : at + 3]])
            if launcher is not None:
                over = next((w.start for w in command.words if w.redirect), len(self.text))
                spans = [(word.start, word.end) for word in words[at:] if word.start < over]
                self._launch(spans, launcher)
            elif self._is_program([name, *texts[at + 1 : at + 2]]) or (
                name in _ASKS and any(self._is_of_hosts(each) for each in texts[at + 1 :])
            ):
                self.parts.append(_Part(words[at].start, -words[-1].end, "command"))
        self._in_strings()
        for variable in self.shell.variables:
            if self.home and (
                variable.name in self.home.variables or self._mentions(variable.name)
            ):
                fact = self.home.variables.get(variable.name, "")
                self.parts.append(_Part(variable.first, -variable.last, "value", fact))
        if self.home:
            for each in mentions_in(self.text, self.home.name):
                fact = self.home.variables.get(each["variable"] or "", "")
                kind = "module" if each["module"] else "value" if each["variable"] else "command"
                self.parts.append(_Part(each.start(), -each.end(), kind, fact))
        self.parts.sort()

    def _mentions(self, text: str) -> bool:
        return bool(self.home and next(mentions_in(text, self.home.name), None))

    def _launcher(self, texts: Sequence[str]) -> tuple[str, Launcher | None] | None:
        """Find a launcher's words and its options; the options are None for MPI's own launchers."""
        found: dict[str, Launcher] = {}
        for each in (self.away, self.home):
            found |= each.launchers if each else {}
        for count in (3, 2, 1):
            if (name := " ".join(texts[:count])) in found:
                return name, found[name]
        return (texts[0], None) if texts[0] in _MPI_LAUNCHERS else None

    def _is_of_hosts(self, word: str) -> bool:
        """Whether a word is the file that lists the job's hosts."""
        name = re.fullmatch(r"\"?\$\{?(\w+)\}?\"?", word)
        if name is None or self.home is None:
            return False
        return self.home.variables.get(name[1]) in ("slot_file", "host_file")

    def _is_program(self, texts: Sequence[str]) -> bool:
        """Whether the words begin with a program of the script's scheduler."""
        found = next(mentions_in(" ".join(texts), self.home.name), None) if self.home else None
        return bool(found and found["program"] and found.start() == 0)

    def _launch(
        self, spans: Sequence[tuple[int, int]], launcher: tuple[str, Launcher | None]
    ) -> None:
        name, how = launcher
        count = len(name.split())
        texts = [self.text[start:end] for start, end in spans[count:]]
        clear = True
        try:
            taken, tasks, is_all = self._read(texts, how)
        except UnclearError:
            taken, tasks, is_all, clear = 0, "", False, False
        if texts[taken : taken + 1] == ["env"]:  # passes variables to MPI's own launchers
            taken += 1
            while taken < len(texts) and re.match(r"[A-Za-z_]\w*=", texts[taken]):
                taken += 1
        last = spans[min(count + taken, len(spans)) - 1][1]
        text = _in_one(self.text[spans[0][0] : spans[-1][1]])
        while last < len(self.text) and self.text[last] in " \t":
            last += 1
        launch = _Launch(text, self._figure(tasks), is_all, clear)
        self.parts.append(_Part(spans[0][0], -last, "launch", launch=launch))

    def _read(self, texts: Sequence[str], how: Launcher | None) -> tuple[int, str, bool]:
        """Count the words that are options, and the tasks; and say whether these are all tasks."""
        if how is None:
            found = _read_mpi(texts, self.request)
            self._see_program(texts[found[0] :])
            return found
        launch = read_launch(texts, how)
        self._see_program(texts[launch.count :])
        try:
            tasks = tasks_of(launch, how, self.request)
        except UnclearError:
            tasks = ""
        return launch.count, tasks, False

    def _see_program(self, words: Sequence[str]) -> None:
        """Refuse a variable that may hold options.

        Raises:
            UnclearError: The first word is such a variable.
        """
        name = re.match(r"[\"']?\$\{?([A-Za-z_]\w*)", words[0]) if words[1:] else None
        if name is None:
            return
        said = re.search(rf"\b{name[1]}\+?=\(?\s*[\"']?(.?)", self.text)
        if said[1] == "-" if said else _OPTIONS.search(name[1]):
            raise UnclearError(f"`{words[0]}` holds options")

    def _figure(self, word: str) -> str:
        """Convert a word of the shell to a number, if the script sets it."""
        bare = word.strip("\"'")
        name = re.fullmatch(r"\$\{?(\w+)\}?", bare)
        if name is None:
            return bare
        if self.home and (fact := self.home.variables.get(name[1])):
            return self.figures.get(fact, bare)
        said = re.findall(
            rf"^[ \t]*(?:export[ \t]+|set[ \t]+|@[ \t]+)?{name[1]}[ \t]*=[ \t]*(.*)",
            self.text,
            re.M,
        )
        plain = said[0].partition("#")[0].strip("\"' \t;") if len(said) == 1 else ""
        return plain if plain.isdecimal() else bare

    def _in_strings(self) -> None:
        """Find launchers in strings that a shell will run: ``RUN="srun -n 8"``."""
        if self.in_shell:
            for match in _STRING.finditer(self.text):
                spans = [
                    (match.start(1) + word.start(), match.start(1) + word.end())
                    for word in re.finditer(r"\S+", match[1])
                ]
                texts = [self.text[start:end] for start, end in spans[:3]]
                launcher = self._launcher(texts) if texts else None
                if launcher is not None and not within(self.shell.comments, *match.span(1)):
                    self._launch(spans, launcher)

    def speaks(self, text: str) -> bool:
        """Whether a text is specific to the script's scheduler."""
        return self._mentions(text)

    # Commands that may be missing or added.

    def is_harmless(self, words: Sequence[str]) -> bool:
        """Whether a command only reads: a program of the scheduler, or a tool of the shell."""
        at = program_at(words)
        if at is None:
            return True
        name = words[at].rpartition("/")[2]
        if name in _ASKS:
            return not any(each.startswith(("-i", "--in-place")) for each in words[at + 1 :])
        if self._launcher([name, *words[at + 1 : at + 3]]) is not None:
            rest = [each for each in words[at + 1 :] if not each.startswith("-")]
            return not rest or any(each.rpartition("/")[2] in _ASKS for each in rest)
        if self.home is None:
            return False
        asks = (each.split()[:2] for each in self.home.commands.values())
        deed = self.home.programs.get(name, "")
        lists = [
            self.home.does.get(each, "").split() for each in self.home.does if _LISTS.match(each)
        ]
        return bool(_LISTS.match(deed)) or list(words[at : at + 2]) in [
            *asks,
            *(x[:2] for x in lists),
        ]

    def may_go(self, line: _Line) -> bool:
        """Whether a single command has little or no use under another scheduler."""
        (words,) = line.programs
        at = program_at(words)
        if at is None:  # NAME=value
            return self.speaks(words[0].partition("=")[0])
        name = words[at].rpartition("/")[2]
        if name in _MODULES:
            return True
        if name in ("export", "unset", "setenv"):
            return self.speaks(words[at + 1].partition("=")[0]) if words[at + 1 :] else True
        if name in _PRINTS:
            return line.speaks
        if name == "cd":
            return bool(re.fullmatch(r"cd(?: \"?\$\{?\w+\}?\"?)", line.plain)) and line.speaks
        deed = self.home.programs.get(name, "") if self.home else ""
        return bool(_LISTS.match(deed)) or (self.is_harmless(words) and line.speaks)

    def is_known(self, line: _Line, mine: _Commands) -> bool:
        """Whether another scheduler or site may need a command of the added kind."""
        if line.document or re.search(r"[<>]", _QUIET.sub("", line.plain)):
            return False
        return bool(line.programs) and all(self._is_known(each, mine) for each in line.programs)

    def _is_known(self, words: Sequence[str], mine: _Commands) -> bool:
        at = program_at(words)
        name = words[at].rpartition("/")[2] if at is not None else ""
        if name in _SETS or not name:
            names = {each.partition("=")[0] for each in words if "=" in each}
            names |= {words[1]} if name == "setenv" and len(words) > 1 else set()
            return not any(
                each in _CHANGES_PROGRAMS or re.search(rf"\b{re.escape(each)}\b", mine.text)
                for each in names
            )
        if name == "cd":
            return self._goes_back(words[(at or 0) + 1 :], mine)
        if name in _MODULES:
            return True
        if name == "mkdir":
            return True
        return self.is_harmless(words)

    def _goes_back(self, words: Sequence[str], mine: _Commands) -> bool:
        """Whether a `cd` goes to the directory in which the original begins."""
        place = " ".join(words).strip("\"'")
        folder = mine.request.workdir or ""
        return (
            (not place and bool(mine.home and mine.home.starts_in == "home"))
            or bool(folder and place.endswith(folder.removeprefix("./")))
            or bool(re.fullmatch(r"\$\{?\w+\}?", place) and self.speaks(place))
            or place in (".", "$PWD", "$(pwd)")
        )

    # Lines.

    def _line(self, first: int, last: int) -> _Line:
        start, end = self.starts[first], self.starts[last + 1] - 1
        parts = list(self._outer(start, end))
        document = within(self.shell.documents, start, end)
        line = _Line(range(self.numbers[first], self.numbers[last] + 1), "", document=document)
        plain, text, pattern = "", "", ""
        at = start
        for part in parts:
            between = self.text[at : part.start]
            inside = self.text[part.start : -part.less]
            plain, text, pattern = plain + between, text + between, pattern + _literal(between)
            at = -part.less
            if part.kind == "comment":
                continue
            plain += inside
            if part.launch is not None:
                line.launches.append(part.launch)
                text, pattern = text + _MARK, pattern + _MARK
                continue
            line.speaks = True
            text += inside
            line.facts.append(part.fact if part.kind == "value" else part.kind)
            pattern += _PATTERNS[part.kind]
        rest = self.text[at:end]
        line.plain, line.text = _in_one(plain + rest), _in_one(text + rest)
        if not document and not self.in_shell and line.plain.startswith("#"):
            line.plain = line.text = ""
        pattern = pattern + _literal(rest)
        if line.speaks:
            line.pattern = re.compile(_trim(pattern.replace('"', "")))
        for index in range(first, last + 1):
            line.programs += self.by_line.get(index, [])
        line.alone = len(line.programs) == 1 and not re.search(r"[<>|`;&]|\$\(", line.plain)
        return line

    def _outer(self, start: int, end: int) -> Iterator[_Part]:
        at = bisect.bisect_left(self.parts, start, key=lambda part: part.start)
        over = start
        for part in self.parts[at:]:
            if part.start >= end:
                break
            if part.start >= over and -part.less <= end:
                yield part
                over = -part.less


_OPTIONS: Final = re.compile(r"OPT|ARG|FLAG|PARAM", re.IGNORECASE)
_LISTS: Final = re.compile(r"(?:lists|shows)\b")
_STRING: Final = re.compile(r"[\"'=]([A-Za-z/][^\"'\n=]*(?:=[^\"'\n]*)?)(?=[\"'\n]|$)")


def _in_one(text: str) -> str:
    return one_line(re.sub(r"\\\n", " ", text))


def _literal(text: str) -> str:
    text = re.sub(r"\\\n", " ", text)
    return r"\s+".join(re.escape(each) for each in re.split(r"\s+", text))


def _trim(pattern: str) -> str:
    return re.sub(r"^(?:\\s\+)+|(?:\\s\+)+$", "", pattern)


# MPI's own launchers: mpirun(1) of Open MPI, mpiexec of MPICH's Hydra and of Intel MPI.

_MPI_LAUNCHERS: Final = frozenset(
    {"mpirun", "mpiexec", "orterun", "prterun", "mpiexec.hydra", "mpirun_rsh", "ibrun"}
)
_TASKS: Final = frozenset({"-n", "-np", "--np", "--n", "-c", "-ntasks", "--ntasks"})
_PER_NODE: Final = frozenset({"-ppn", "-perhost", "-npernode", "--npernode", "-N", "-rr-ppn"})
_TWO_VALUES: Final = frozenset({"-mca", "--mca", "-gmca", "--gmca", "-genv", "-env", "--prtemca"})
_NO_VALUE: Final = frozenset(
    {
        *("--", "-v", "-V", "-q", "--oversubscribe", "--allow-run-as-root", "--report-bindings"),
        *("-report-bindings", "-bynode", "--bynode", "-byslot", "--byslot", "-bysocket", "-l"),
        *("-bycore", "--bind-to-core", "-bind-to-core", "--bind-to-socket", "-bind-to-socket"),
        *("-tag-output", "--tag-output", "-genvall", "-envall", "-pernode", "--pernode"),
        *("--display-map", "-display-map", "--nolocal", "-nolocal", "--use-hwthread-cpus"),
        *("--verbose", "-prepend-rank", "-rr", "-verbose", "-ib", "-TCP", "--cpu-set-auto"),
    }
)


def _read_mpi(words: Sequence[str], request: Request) -> tuple[int, str, bool]:
    at, tasks, per_node = 0, "", ""
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        name, equals, value = words[at].partition("=")
        count = 3 if name in _TWO_VALUES else 1 if equals or name in _NO_VALUE else 2
        value = value or "".join(words[at + 1 : at + 2])
        if name in _TASKS:
            tasks = value
        elif name in _PER_NODE:
            per_node = value
        elif "pernode" in name:
            per_node = "1"
        at += count
    if tasks:
        return min(at, len(words)), tasks, False
    total = request.totals()
    if per_node.isdecimal() and total.nodes:
        return min(at, len(words)), str(int(per_node) * total.nodes), False
    return min(at, len(words)), str(total.tasks), True


# -- the comparison of two lines ----------------------------------------------------------------


def _aligned(mine: _Commands, theirs: _Commands) -> tuple[dict[int, int], list[int], list[int]]:
    """Pair the lines of the translation with the original's, in order, as many as possible.

    Returns:
        The pairs by index, and the unpaired lines of each script.
    """
    ours = [at for at, line in enumerate(mine.lines) if line.plain]
    others = [at for at, line in enumerate(theirs.lines) if line.plain]

    def fits(a: int, b: int) -> bool:
        return _problem(mine, mine.lines[a], theirs, theirs.lines[b]) is None

    pairs: dict[int, int] = {}
    while ours and others and fits(ours[0], others[0]):
        pairs[ours.pop(0)] = others.pop(0)
    while ours and others and fits(ours[-1], others[-1]):
        pairs[ours.pop()] = others.pop()
    if len(ours) * len(others) <= MOST_PAIRS:
        table = [[fits(a, b) for b in others] for a in ours]
        pairs |= {ours[i]: others[j] for i, j in _longest(table)}
    gone = [at for at in ours if at not in pairs]
    taken = set(pairs.values())
    return pairs, gone, [at for at in others if at not in taken]


MOST_PAIRS: Final = 1_000_000
"""The largest number of line pairs that are compared; scripts that differ in more are unlike."""


def _longest(fits: Sequence[Sequence[bool]]) -> Iterator[tuple[int, int]]:
    """Find the longest sequence of pairs that fit, in the order of both scripts."""
    rows, columns = len(fits), len(fits[0]) if fits else 0
    length = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            one = 1 + length[i + 1][j + 1] if fits[i][j] else 0
            length[i][j] = max(length[i + 1][j], length[i][j + 1], one)
    i = j = 0
    while i < rows and j < columns:
        if fits[i][j] and length[i][j] == 1 + length[i + 1][j + 1]:
            yield i, j
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1


def _problem(mine: _Commands, line: _Line, theirs: _Commands, other: _Line) -> str | None:
    """Say why a line of the translation differs from the original's; None if it does not."""
    if other.plain in (line.plain, line.own):
        return None
    if line.document and line.plain.startswith("#") and other.plain.startswith("#"):
        return None if _are_directives(mine, line.plain, theirs, other.plain) else ANOTHER
    one, two = _Plain.of(line), _Plain.of(other)
    if len(one.launches) != len(two.launches):  # a single task needs no launcher
        one, two = one.without({"1"}), two.without({"1"} if line.launches else _all(theirs))
    if len(one.launches) != len(two.launches):
        return ANOTHER
    if all(each.clear for each in (*one.launches, *two.launches)):
        if not _fits(mine, line, one, theirs, two.text):
            return ANOTHER
    elif not _same_programs(mine, one.text, two.text):
        return ANOTHER
    for ours, other_launch in zip(one.launches, two.launches, strict=True):
        if _tasks(mine, ours, theirs, other_launch) == "other":
            return (
                f"line {line.numbers[0]} of the original, `{ours.text}`, starts "
                f"{_so_many(ours)}, the translation's `{other_launch.text}` "
                f"{_so_many(other_launch)}"
            )
    return None


ANOTHER: Final = "another"


@dataclass(frozen=True, slots=True)
class _Plain:
    """A line with marks in place of its launchers."""

    text: str
    pattern: str | None
    launches: list[_Launch]

    @classmethod
    def of(cls, line: _Line) -> _Plain:
        return cls(line.text, line.pattern.pattern if line.pattern else None, line.launches)

    def without(self, tasks: Collection[str]) -> _Plain:
        """Remove the launchers that start one of these numbers of tasks."""

        def drop(text: str) -> str:
            kept = iter([each.tasks not in tasks for each in self.launches])
            return re.sub(_MARK, lambda _: _MARK if next(kept) else "", text)

        pattern = None if self.pattern is None else drop(self.pattern)
        return _Plain(drop(self.text), pattern, [e for e in self.launches if e.tasks not in tasks])


def _all(theirs: _Commands) -> set[str]:
    """Task counts of a launcher that the original may lack: one, or all tasks of the job."""
    return {"1", str(theirs.request.totals().tasks)}


def _fits(mine: _Commands, line: _Line, plain: _Plain, theirs: _Commands, text: str) -> bool:
    if plain.pattern is None:
        return plain.text == text
    match = re.fullmatch(plain.pattern, text.replace('"', ""))
    return match is not None and all(
        _may_be(mine, fact, value, theirs)
        for fact, value in zip(line.facts, match.groups(), strict=True)
    )


def _so_many(launch: _Launch) -> str:
    return f"{launch.tasks} task" + ("s" if launch.tasks != "1" else "")


def _are_directives(mine: _Commands, line: str, theirs: _Commands, other: str) -> bool:
    """Whether two lines are equal, or both are directives, in a script that the script writes."""
    if line == other:
        return True
    names = mine.script.scheduler, theirs.script.scheduler
    return (
        all(name in READ for name in names)
        and dialect_of(names[0]).is_directive(line)
        and dialect_of(names[1]).is_directive(other)
    )


def _tasks(mine: _Commands, one: _Launch, theirs: _Commands, two: _Launch) -> str:
    """Whether two launches start as many tasks: ``same``, ``other`` or ``unknown``."""
    if one.tasks == two.tasks:
        return "same"
    if not one.tasks or not two.tasks:
        return "unknown"
    if one.all or two.all:
        total = mine.request.totals()
        capacities = {str(total.tasks), str(total.cores)}
        if two.all and not one.all:
            return "same" if one.tasks in capacities else "other"
        if two.tasks in capacities or two.all:
            return "same"
    if one.tasks.isdecimal() and two.tasks.isdecimal():
        return "other"
    asks = re.search(r"\$\(|`", one.tasks) or mine.speaks(one.tasks)
    varies = theirs.speaks(two.tasks) or re.search(r"\$\(|`|\$\{?JOB_", two.tasks)
    return "unknown" if asks or varies else "other"


def _same_programs(mine: _Commands, line: str, other: str) -> bool:
    """Whether two lines start the same program, if the end of a launcher's options is unclear."""
    for one, two in zip(line.split(_MARK), other.split(_MARK), strict=True):
        words, others = one.split(), two.split()
        if words == others:
            continue
        same = 0
        while same < min(len(words), len(others)) and (
            words[-1 - same] == others[-1 - same]
            or (mine.speaks(words[-1 - same]) and same < len(words) - 1)
        ):
            same += 1
        rest = [*words[: len(words) - same], *others[: len(others) - same]]
        before = ["", *rest]
        if not same or not all(
            word.startswith(("-", "$")) or before[at].startswith("-")
            for at, word in enumerate(rest)
        ):
            return False
    return True


def _may_be(mine: _Commands, fact: str, value: str, theirs: _Commands) -> bool:
    """Whether a text may replace a part that is specific to the original's scheduler."""
    for command in read_shell(value).commands if value else ():
        words = [value[word.start : word.end] for word in words_of(command)]
        if (command.depth or fact == "command") and not theirs.is_harmless(words):
            return False
    figure = mine.figures.get(fact)
    return figure is None or not value.isdecimal() or value == figure


def _unsure(mine: _Commands, line: _Line, theirs: _Commands, other: _Line) -> Iterator[str]:
    """Yield the differences, in a line that fits, that the user should check."""
    if other.plain in (line.plain, line.own):
        return
    for added in other.launches if not line.launches else ():
        yield f"line {other.numbers[0]}: the original has no launcher for `{added.text}`"
    for one, two in zip(line.launches, other.launches, strict=False):
        if _tasks(mine, one, theirs, two) == "unknown":
            yield (
                f"line {other.numbers[0]}: whether `{two.text}` starts as many tasks as the "
                f"original's `{one.text}` is unknown"
            )


# -- missing and added commands -----------------------------------------------------------------


def _tell_gone(
    found: Commands, mine: _Commands, line: _Line, theirs: _Commands, added: list[int]
) -> None:
    if line.document and line.plain in map(one_line, theirs.script.lines):
        return  # a directive for a scheduler that also reads here-documents
    for at in added:
        why = _problem(mine, line, theirs, theirs.lines[at])
        if why is not None and why != ANOTHER:
            found.errors.append(why)
            added.remove(at)
            return
    if line.alone and mine.may_go(line):
        found.warnings.append(f"the command `{line.plain}` is not in the translation")
    else:
        found.errors.append(MISSING.format(line.plain))


MISSING: Final = (
    "the command `{}` is missing; keep all commands as they are, except those that call the manager"
)


def _tell_added(found: Commands, theirs: _Commands, line: _Line, mine: _Commands) -> None:
    said = f"line {line.numbers[0]}: the command `{line.plain}` is not in the original"
    if theirs.is_known(line, mine):
        found.warnings.append(said)
    else:
        found.errors.append(f"{said}: add only those that the new manager needs")


_MODULES: Final = frozenset({"module", "ml"})
_PRINTS: Final = frozenset({"echo", "printf"})
_ASKS: Final = frozenset(
    {
        *("date", "hostname", "sort", "uniq", "wc", "cat", "head", "tail", "cut", "tr", "paste"),
        *("basename", "dirname", "pwd", "mktemp", "nproc", "true", ":", "whoami", "id", "uname"),
        *("seq", "sed", "awk", "grep", "echo", "printf", "expr"),
    }
)
"""Programs that only print."""
_SETS: Final = frozenset({"export", "setenv", "set", "declare", "ulimit", "umask"})
_CHANGES_PROGRAMS: Final = frozenset(
    {"PATH", "HOME", "SHELL", "IFS", "ENV", "BASH_ENV", "PYTHONPATH", "LD_PRELOAD"}
) | {"LD_LIBRARY_PATH"}
_QUIET: Final = re.compile(r"\d?>>?\s*(?:/dev/null|/dev/std\w+|&\d|\"?\$\{?JOB_\w+\}?\"?)")
