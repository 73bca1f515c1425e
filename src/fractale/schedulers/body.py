"""Translates the commands of a batch script for another scheduler.

The translation is mechanical: launchers with their options, variables of the job, and the few
commands with an exact equivalent. fractale never guesses: it keeps an uncertain command unchanged,
and reports it. The variables and programs of each scheduler are in its package's `environment`.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from fractale.schedulers.environment import (
    PROCESS,
    Environment,
    Launcher,
    environment_of,
    mentions_in,
    mentions_of,
)
from fractale.schedulers.launch import (
    Launch,
    UnclearError,
    Uses,
    WrittenLaunch,
    known,
    read_launch,
    write_launch,
)
from fractale.schedulers.request import Request
from fractale.schedulers.script import Loss, Remark
from fractale.schedulers.shell import CSH, POSIX
from fractale.schedulers.shell_text import (
    Command,
    ShellText,
    Variable,
    Word,
    read_fragment,
    read_shell,
    within,
    words_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandChange:
    """A change of one or more lines.

    Args:
        line: Number of the first changed line in the original; 0 for an added line.
        old, new: The complete lines.
    """

    line: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.old} → {self.new}" if self.line else f"added: {self.new}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The translated commands of a script.

    Args:
        before: Lines to put before all others.
        lines: The commands; unchanged unless something in them is specific to the old scheduler.
        remains: Lines that are still specific to the old scheduler, with a suggestion. The user has
            to check them.
        not_launched: Numbers of those lines that still have the old launcher: they cannot run.
        left_out: Launcher options that are omitted because the other launcher lacks them.
        losses: Resources that only the original's programs have, such as the GPUs of its nodes.
        notes: Other remarks on lines, such as a harmless mention of the old scheduler in a printed
            text.
        says: Fields of the request that `before` sets, because no directive can.
    """

    lines: tuple[str, ...]
    before: tuple[str, ...] = ()
    changes: tuple[CommandChange, ...] = ()
    remains: tuple[Remark, ...] = ()
    not_launched: frozenset[int] = frozenset()
    left_out: tuple[Remark, ...] = ()
    losses: tuple[Loss, ...] = ()
    notes: tuple[Remark, ...] = ()
    says: frozenset[str] = frozenset()


def translate_body(
    lines: Sequence[tuple[int, str]], source: str, target: str, request: Request, *, shell: str
) -> Body:
    """Translate the commands of a script for another scheduler.

    Args:
        lines: Number and text of each line, without shebang and directives.
        source: The scheduler of the script; ``cobalt`` is valid, too.
        target: The scheduler to translate for.
        request: The request of the script's directives.
        shell: The program that reads the commands, as `fractale.schedulers.shell` names it.

    Raises:
        ValueError: A scheduler is unknown.
    """
    texts = tuple(text for _, text in lines)
    home, away = environment_of(source), environment_of(target)
    if source == target or not any(text.strip() for text in texts):
        return Body(lines=texts)
    notes = () if away.finds_hosts else tuple(_own_launchers(lines, away))
    if not (shell in POSIX or shell in CSH) and home.starts_in != away.starts_in:
        notes = (*notes, Remark(line=0, text="", why=_ELSEWHERE[away.starts_in].format(away.title)))
    losses, more = _beyond_by_mpi(lines, request, home, away)
    notes = (*notes, *more)
    before, says = _start(texts, home, away, request, shell)
    text = "\n".join(texts)
    mentions = list(mentions_in(text, source))
    if not mentions:
        changes = tuple(CommandChange(line=0, old="", new=each) for each in before)
        return Body(
            lines=texts,
            before=before,
            changes=changes,
            says=says,
            losses=tuple(losses),
            notes=notes,
        )
    places = [each.start() for each in mentions]
    work = _Translation(lines, text, home, away, request, shell, places)
    work.losses += losses
    if shell in POSIX or shell in CSH:
        work.translate()
    work.leftovers(mentions)
    return work.body(before, says, notes)


def beyond(uses: Uses, request: Request, home: Environment, away: Environment) -> Loss | str | None:
    """Report a launch that uses more than the directives request.

    Returns:
        A loss (without a line) if the original job has that much, because it has whole nodes. A
        note if the original also requests less than it starts. None if the request is sufficient.
    """
    total = request.totals()
    gpus = uses.gpus > total.gpus
    if uses.cores <= total.cores and not gpus:
        return None
    whole = bool(request.exclusive) and (
        home.whole_nodes or (request.nodes is not None and request.tasks is None)
    )
    if whole and away.whole_nodes:
        return None
    starts = f"it starts {_count(uses.tasks, 'task')} on {_count(uses.cores, 'core')}"
    starts += f" and {_count(uses.gpus, 'GPU')}" if gpus else ""
    has = _count(total.cores, "core") + (f" and {_count(total.gpus, 'GPU')}" if gpus else "")
    if not whole:
        return f"{starts}, and the original's directives ask for {has}, too"
    why = (
        f"{starts}: the original has all that is in its nodes, {away.title} only what is asked "
        f"for, {has}; write how much a node has"
    )
    return Loss(line=0, text="", what="gpus" if gpus else "cores_per_node", why=why)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}" + ("" if number == 1 else "s")


_MPIRUN: Final = re.compile(
    r"\s*(?:\w+=\S*\s+|time\s+|exec\s+)*(?:\S*/)?(?P<name>mpirun|mpiexec|orterun)(?:\.hydra)?\s"
    r"(?!.*-(?:hosts?|H|f|hostfile|machinefile)[ =])"
)


def _own_launchers(lines: Sequence[tuple[int, str]], away: Environment) -> Iterator[Remark]:
    """Report MPI launchers that would start all processes on one host."""
    launcher = away.launch.program if away.launch else ""
    for number, text in lines:
        if "mpi" in text and (found := _MPIRUN.match(text)):
            why = f"`{found['name']}` does not ask {away.title} for its hosts; `{launcher}` does"
            yield Remark(line=number, text=text.strip(), why=why)


_OF_MPI: Final = re.compile(
    r"(?!\s*#).*?\b(?P<launch>(?:mpirun|mpiexec|orterun)(?:\.hydra)?\s(?:[^;&|#]*\s)?"
    r"(?:-np|-n|--np)\s+(?P<tasks>\d+))\s"
)


def _beyond_by_mpi(
    lines: Sequence[tuple[int, str]], request: Request, home: Environment, away: Environment
) -> tuple[list[Loss], list[Remark]]:
    """Report MPI launchers that start more tasks than the directives request cores for."""
    losses, notes = list[Loss](), list[Remark]()
    for number, text in lines:
        if "-n" not in text or not (match := _OF_MPI.match(text)):
            continue
        tasks = int(match["tasks"])
        found = beyond(Uses(tasks=tasks, cores=tasks), request, home, away)
        if isinstance(found, str):
            notes.append(Remark(line=number, text=text.strip(), why=found))
        elif found is not None:
            losses.append(dataclasses.replace(found, line=number, text=match["launch"]))
    return losses, notes


# The directory in which the job begins.

_ELSEWHERE: Final = {
    "home": "{} starts a job in the home directory, not in the directory of the submission",
    "submit": "{} starts a job in the directory of the submission, not in the home directory",
}

# Commands that do the same in any directory, unless `_DEPENDS` matches …
_HARMLESS: Final = re.compile(
    r"(?:module|ml|export|setenv|set|unset|source|\.|echo|printf|date|hostname|ulimit|limit|umask"
    r"|shopt|uname|whoami|id|sleep|trap|conda|spack|which|then|fi|else|endif|unsetenv|unlimit"
    r"|let|declare|env|nvidia-smi)\b"
    r"|[A-Za-z_]\w*=|\.\s"
    # … and these, if they have only absolute paths, options and comparisons.
    r"|(?:(?:el)?if\s+)?(?:!\s+)?(?:cat|mkdir|ls|test|\[\[?)"
    r"(?:\s+(?:[-!=<>&|;\]]\S*|[\"']?[/~$]\S*|then|\d+;?|\"\w*\"))*\s*$"
)
_OURS: Final = re.compile(r".*\bhostname -s \| sort > ")
_DEPENDS: Final = re.compile(
    r"^(?!echo|printf).*(?:pwd|PWD|cwd)|^(?:source|\.)\s+(?![/~$\"'\w])|^(?:source|\.)\s+\w+[/.]"
    r"|[=\s\"']\.\.?/|^\S+\s.*>|;\s*\S|&&|\||`|\$\("
)
_ASKS: Final = re.compile(
    r"(?:`|\$\()\s*(?:date|hostname|whoami|uname|nproc|id|basename|which|echo"
    r"|(?:cat|wc -l\s*<?|sort(?: -u)?|uniq)\s+\"?\$\w+)[^`)|;&]*"
    r"(?:\|\s*(?:wc|sort|uniq|head|awk|cut)[^`)|;&]*)*[`)]|;\s*then\s*$|;$"
)
"""Substitutions, and ends of commands, that give the same in any directory."""
_COMMENT: Final = re.compile(r"\s#.*")
_ABSOLUTE: Final = re.compile(r"[\"']?[/~$]")
_GOES: Final = re.compile(r"(?:cd|pushd|chdir)(?:\s+(?:-P\s+|--\s+)?(\S.*))?$")


def _start(
    lines: Sequence[str], home: Environment, away: Environment, request: Request, shell: str
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Make the line that starts the job in the same directory, and list the fields that it sets."""
    if home.starts_in == away.starts_in or not (shell in POSIX or shell in CSH):
        return (), frozenset()
    folder = away.names.get("submit_folder")
    if away.starts_in == "submit":
        if request.workdir or not _depends_on_start(lines):
            return (), frozenset()
        return ("cd",), frozenset()
    submitted = f'"${folder.name}"' if folder else "."
    if request.workdir:
        place = _in_quotes(request.workdir)
        plain = re.match(r"[/~$]", request.workdir)
        return ((f"cd {place}" if plain else f"cd {submitted}/{place}"),), frozenset({"workdir"})
    if not _depends_on_start(lines):
        return (), frozenset()
    return (f"cd {submitted}",), frozenset()


def _in_quotes(text: str) -> str:
    return text if re.fullmatch(r"[\w.+:@%/~-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def _depends_on_start(lines: Sequence[str]) -> bool:
    """Whether the commands may depend on the directory in which they begin."""
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if goes := _GOES.match(text.rstrip(";")):
            return bool(goes[1]) and not _ABSOLUTE.match(goes[1])
        if _OURS.match(text):
            continue
        text = _COMMENT.sub("", text)
        if not _HARMLESS.match(text) or _DEPENDS.search(_ASKS.sub("", text)):
            return True
    return False


# Commands.

_EVERYWHERE: Final = {"user": "USER", "home": "HOME"}
"""Facts for which every shell has a variable."""

_PREFIXES: Final = frozenset(
    {"time", "exec", "nohup", "command", "env", "nice", "timeout", "numactl", "stdbuf", "builtin"}
)
_OF_PREFIX: Final = re.compile(r"-.*|\d+[smhd]?|[A-Za-z_]\w*=.*", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w*)\+?=(?!=)")
_SETTERS: Final = frozenset({"export", "declare", "local", "readonly", "typeset", "alias", "env"})
_RUN_TEXT: Final = re.compile(r"-\w*c")
_DEFAULT: Final = re.compile(r":?[-=?](.*)", re.DOTALL)
_RUNS: Final = frozenset({"eval", "setenv", "set", "alias"})
_OUTER_QUOTE: Final = re.compile(r"^\"|\"$")
_IN_BRACES: Final = re.compile(r"\$\{(\w+)\}")
_FURTHER: Final = 4000
_PRINTS: Final = frozenset({"echo", "printf", "print"})
_QUIET_FILES: Final = frozenset({"1", "2", "/dev/null", "/dev/stderr", "/dev/stdout"})

_T = TypeVar("_T")


def _escaped(command: str) -> str:
    return command.replace("{", "{{").replace("}", "}}")


def _is_shell(word: str) -> bool:
    return word.rpartition("/")[2] in POSIX


def program_at(words: Sequence[str]) -> int | None:
    """Find the index of the program among a command's words.

    It follows assignments, and programs that start programs, such as ``time``.
    """
    after_prefix = False
    for at, text in enumerate(words):
        if _ASSIGNMENT.match(text) or (after_prefix and _OF_PREFIX.fullmatch(text)):
            continue
        if text.rpartition("/")[2].lstrip("\\") not in _PREFIXES:
            return at
        after_prefix = True
    return None


class _Edit(NamedTuple):
    """A replacement of a part of the text.

    Args:
        less: The negative end, so that the longest of the edits with one start sorts first.
    """

    start: int
    less: int
    new: str

    @property
    def end(self) -> int:
        return -self.less


@dataclass(slots=True)
class _Translation:
    """One body: its text, and the changes to make in it."""

    numbered: Sequence[tuple[int, str]]
    text: str
    home: Environment
    away: Environment
    request: Request
    shell: str
    places: list[int]
    found: ShellText = field(default_factory=ShellText)
    edits: list[_Edit] = field(default_factory=list[_Edit])
    reasons: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    notes: dict[int, str] = field(default_factory=dict[int, str])
    left_out: list[Remark] = field(default_factory=list[Remark])
    losses: list[Loss] = field(default_factory=list[Loss])
    unclear: dict[int, str] = field(default_factory=dict[int, str])
    before: dict[str, str] = field(default_factory=dict[str, str])
    not_launched: set[int] = field(default_factory=set[int])
    own: dict[str, int] = field(default_factory=dict[str, int])
    renamed: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    inner: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    printing: dict[int, list[tuple[int, int, bool]]] = field(
        default_factory=dict[int, list[tuple[int, int, bool]]]
    )
    inside: dict[int, list[tuple[int, int]]] = field(
        default_factory=dict[int, list[tuple[int, int]]]
    )
    outer: list[_Edit] = field(default_factory=list[_Edit])
    looked: dict[str, int | None] = field(default_factory=dict[str, "int | None"])
    starts: list[int] = field(default_factory=list[int])
    _figures: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        lengths = (len(line) + 1 for _, line in self.numbered)
        self.starts += itertools.accumulate(lengths, initial=0)
        self.starts.pop()

    @property
    def csh(self) -> bool:
        return self.shell in CSH

    def index(self, at: int) -> int:
        """The index of the line that contains a position."""
        return bisect.bisect_right(self.starts, at) - 1

    def figure(self, fact: str) -> str | None:
        """A fact that the request shows."""
        if self._figures is None:
            self._figures = known(self.request)
        return self._figures.get(fact)

    def place_of(self, pattern: str) -> int | None:
        """The first position of a pattern in the text; searched only once."""
        if pattern not in self.looked:
            found = re.search(pattern, self.text)
            self.looked[pattern] = found.start() if found else None
        return self.looked[pattern]

    def edit(self, start: int, end: int, new: str) -> None:
        """Replace a part of the text."""
        bisect.insort(self.edits, _Edit(start, -end, new))

    def render(self, start: int, end: int) -> str:
        """Write a part of the text with its changes."""
        parts: list[str] = []
        at = start
        first = bisect.bisect_left(self.edits, (start, -end))
        for edit in itertools.islice(self.edits, first, None):
            if edit.start >= end:
                break
            if edit.start < at or edit.end > end:  # inside an edit that is done
                continue
            parts += [self.text[at : edit.start], edit.new]
            at = edit.end
        return "".join([*parts, self.text[at:end]])

    def translate(self) -> None:
        """Find all changes."""
        # Text long after the last relevant position is not read.
        over = self.text.find("\n", self.places[-1] + _FURTHER)
        self.found = read_shell(
            self.text, csh=self.csh, end=None if over < 0 else over, places=self.places
        )
        commands = [
            each
            for each in self.found.commands
            if self.speaks(each.words[0].start, each.words[-1].end)
        ]
        for command in commands:
            self.assignments(command)
        for variable in self.found.variables:
            self.variable(variable, process=False)
        for command in commands:
            self.command(command)

    def speaks(self, start: int, end: int) -> bool:
        """Whether a part of the text names the scheduler."""
        at = bisect.bisect_left(self.places, start)
        return at < len(self.places) and self.places[at] < end

    # Variables.

    def assignments(self, command: Command) -> None:
        """Remember the scheduler's variables that the script itself sets."""
        words = [self.text[word.start : word.end] for word in words_of(command)]
        if words and words[0] in ("setenv", "set", "read", "for", "foreach") and len(words) > 1:
            self._set(words[1].partition("=")[0], command)
        for word in words:
            if match := _ASSIGNMENT.match(word):
                self._set(match[1], command)
            elif word not in _SETTERS and not word.startswith("-"):
                break

    def _set(self, name: str, command: Command) -> None:
        if name in self.home.variables or mentions_of(self.home.name).fullmatch(name):
            self.own.setdefault(name, self.index(command.words[0].start))

    def variable(self, variable: Variable, *, process: bool) -> None:
        """Replace a variable by the other scheduler's equivalent, if it has one.

        Args:
            process: Whether a process that a launcher starts expands the variable.
        """
        fact = self.home.variables.get(variable.name)
        if fact is None or variable.name in self.own or (fact in PROCESS and not process):
            return
        if name := self.name_of(fact):
            self.edit(variable.start, variable.end, name)
            self.renamed.add((self.index(variable.start), variable.name))
        elif (new := self._value(variable, fact)) is not None:
            self.edit(variable.first, variable.last, new)

    def name_of(self, fact: str) -> str | None:
        """Find the variable for a fact: the scheduler's, or one that is added to the script."""
        name = self.away.names.get(fact)
        if name is not None:
            said = self.request.said()
            if not name.said or any(each in said for each in name.said):
                return name.name
        if fact in _EVERYWHERE:
            return _EVERYWHERE[fact]
        if fact == "submit_folder" and self.away.starts_in == "submit":
            if self.request.workdir:
                return None
            return self._given("JOB_SUBMIT_DIR", '"$cwd"' if self.csh else "$PWD")
        if fact == "slot_file":
            return self._file("JOB_NODEFILE", "slot_lines")
        if fact == "host_file":
            return self._file("JOB_HOSTFILE", "host_lines")
        return None

    def _file(self, name: str, fact: str) -> str | None:
        command = self.away.commands.get(fact)
        if fact == "slot_lines" and command is None and (launch := self.away.launch):
            nodes, tasks = self.figure("nodes"), self.figure("tasks")
            sizes = f" -N {nodes}" if nodes and nodes != "1" else ""
            command = f"{launch.program}{sizes} -n {tasks} hostname -s | sort"
        if command is None:
            return None
        value = "`mktemp`" if self.csh else "$(mktemp)"
        return self._given(name, value, _escaped(command) + ' > "${}"')

    def _given(self, name: str, value: str, *more: str) -> str:
        """Set a variable before all commands, by a name that the script does not use."""
        own = name
        while own not in self.before and re.search(rf"\b{own}\b", self.text):
            own += "_"
        first = f"setenv {own} {value}" if self.csh else f"export {own}={value}"
        self.before[own] = "\n".join([first, *(each.format(own) for each in more)])
        return own

    def _value(self, variable: Variable, fact: str) -> str | None:
        """The replacement of a whole expansion."""
        default = _DEFAULT.fullmatch(variable.rest)
        if variable.length or (variable.rest and default is None):
            return None
        conditions = self.home.conditional.get(variable.name)
        if default and conditions and not any(each in self.request.said() for each in conditions):
            plain = re.fullmatch(r"[\w./:-]+", default[1])
            return default[1] if plain and variable.rest[:2] != ":?" else None
        figure = self.figure(fact)
        if figure is not None:
            plain = variable.context != "plain" or re.fullmatch(r"[\w.+:@/-]+", figure)
            return figure if plain else f"'{figure}'"
        return self._printed(fact, variable)

    def _printed(self, fact: str, variable: Variable) -> str | None:
        """A command substitution that prints a fact."""
        command = "hostname -s" if fact == "host" else self.away.commands.get(fact)
        if fact == "host_words" and (file := self.name_of("slot_file")):
            command = f"paste -sd' ' \"${file}\""
        if command is None or self.csh or variable.back:
            return None
        return f"$({command})"

    # Commands.

    def command(self, command: Command) -> None:
        """Replace a command by the other scheduler's exact equivalent, if it has one."""
        words = list(words_of(command))
        if command.depth:
            start, end = command.words[0].start, command.words[-1].end
            for line in range(self.index(start), self.index(end) + 1):
                self.inside.setdefault(line, []).append((start, end))
        self._fragments(words)
        texts = [self.text[word.start : word.end] for word in words]
        at = program_at(texts)
        if at is None:
            return
        name = texts[at].rpartition("/")[2].strip("\"'")
        if name in _PRINTS:
            self._print(command)
            return
        launcher = self._launcher([name, *texts[at + 1 : at + 3]])
        self._inner(words[at:], texts[at:], process=launcher is not None)
        if launcher:
            self.launch(command.words[at:], launcher)
        else:
            self._plain(words[at:], [name, *texts[at + 1 :]])

    def _launcher(self, texts: Sequence[str]) -> str | None:
        """Find the launcher that the first words name."""
        names = (" ".join(texts[:count]) for count in (3, 2, 1))
        return next((name for name in names if name in self.home.launchers), None)

    def _print(self, command: Command) -> None:
        to_file = command.piped or any(
            word.redirect and self.text[word.start : word.end] not in _QUIET_FILES
            for word in command.words
        )
        start, end = command.words[0].start, command.words[-1].end
        for line in range(self.index(start), self.index(end) + 1):
            self.printing.setdefault(line, []).append((start, end, to_file))

    def _inner(self, words: Sequence[Word], texts: Sequence[str], *, process: bool) -> None:
        """Translate inside ``bash -c '…'``, whose single quotes hold shell commands."""
        for at in range(2, len(texts)):
            shell, option, text = texts[at - 2 : at + 1]
            plain = len(text) > 1 and text[0] == text[-1] == "'" and "'" not in text[1:-1]
            if not plain or not _RUN_TEXT.fullmatch(option) or not _is_shell(shell):
                continue
            self.inner.append((words[at].start, words[at].end))
            inner = read_fragment(self.text, words[at].start + 1, words[at].end - 1)
            for variable in inner.variables:
                self.variable(variable, process=process)
            for command in inner.commands:
                self.command(command)

    def _fragments(self, words: Sequence[Word]) -> None:
        """Translate launchers in strings that a shell will run: ``RUN="srun -n 8"``."""
        before, runs = "", False
        for word in words:
            text = self.text[word.start : word.end]
            if self.speaks(word.start, word.end):
                match = _ASSIGNMENT.match(text)
                if match or runs:
                    first = word.start + (match.end() if match else 0)
                    self._fragment(first, word.end, match[1] if match else "")
            option = _RUN_TEXT.fullmatch(text)
            runs = text in _RUNS or bool(option and _is_shell(before)) or (runs and text == "=")
            runs = runs or before in ("set", "setenv")
            before = text

    def _fragment(self, start: int, end: int, name: str) -> None:
        value = self.text[start:end]
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        if "\\" in value or (quoted and value[0] in value[1:-1]):
            return
        start, end = start + quoted, end - quoted
        program = self._launcher(self.text[start:end].split()[:3])
        if program is None:
            return
        inner = read_fragment(self.text, start, end)
        if not inner.commands or inner.commands[-1].words[0].start != start:
            return
        use = self.place_of(rf"\$\{{?{name}\}}?\"?[ \t]+-") if name else None
        if use is not None:
            number = self.numbered[self.index(use)][0]
            self.unclear[self.index(start)] = f"line {number} gives it more options"
            return
        self.launch(inner.commands[-1].words, program, fragment=True, bare=not quoted)

    def launch(
        self,
        words: Sequence[Word],
        program: str,
        *,
        fragment: bool = False,
        bare: bool = False,
    ) -> None:
        """Replace a launcher and its options by the other scheduler's launcher.

        Args:
            fragment: Whether the launcher is in a string, so that a program may follow elsewhere.
            bare: Whether that string has no quotes yet.
        """
        count = len(program.split())
        plain: list[Word] = []
        for word in words[count:]:
            if word.redirect:
                break
            plain.append(word)
        texts = [self.render(word.start, word.end) for word in plain]
        launcher = self.home.launchers[program]
        line = self.index(words[0].start)
        try:
            launch, written = self._written(texts, launcher, fragment=fragment)
        except UnclearError as error:
            self.unclear[line] = str(error)
            return
        last = plain[launch.count - 1].end if launch.count else words[count - 1].end
        text = f'"{written.text}"' if bare and " " in written.text else written.text
        self.edit(words[0].start, last, text)
        number = self.numbered[line][0]
        self.left_out += [Remark(line=number, text=t, why=why) for t, why in written.left_out]
        if written.no_gpus:
            text = self.text[words[0].start : last]
            loss = Loss(line=number, text=text, what="gpus", why=written.no_gpus)
            self.losses.append(loss)
        if self._in_background(words[-1].end) and written.uses.cores < self.request.totals().cores:
            self._at_once(line)
        self._beyond(line, self.text[words[0].start : last], written.uses)

    def _in_background(self, end: int) -> bool:
        """Whether a command that ends at this position runs in parallel with the next one."""
        return bool(re.match(r"[ \t]*&(?![&>])", self.text[end : end + 80]))

    def _at_once(self, line: int) -> None:
        """Report parallel launches if all of them would begin on the job's first host."""
        launch, nodes = self.away.launch, self.request.totals().nodes
        if launch is not None and launch.tasks == "all" and nodes != 1:
            why = (
                f"`{launch.program}` does not know what else runs: all that are started at a time "
                "would begin on the job's first host; give each its own host"
            )
            self.notes.setdefault(line, why)

    def _beyond(self, line: int, text: str, uses: Uses) -> None:
        """Report a launch that uses more than the directives request."""
        found = beyond(uses, self.request, self.home, self.away)
        if isinstance(found, str):
            self.notes.setdefault(line, found)
        elif found is not None:
            number = self.numbered[line][0]
            self.losses.append(dataclasses.replace(found, line=number, text=text))

    def _written(
        self, texts: Sequence[str], launcher: Launcher, *, fragment: bool
    ) -> tuple[Launch, WrittenLaunch]:
        """Read the launcher's words, and write them for the other launcher."""
        writing = self.away.launch
        if writing is None:
            raise UnclearError("the launcher is unknown")
        launch = read_launch(texts, launcher)
        self._program_after(texts, launch.count, fragment=fragment)
        of_job, own = launch.said.pop("of_job", None), self.away.names.get("job_id")
        if of_job and (
            own is None or of_job.strip('"') not in (f"${own.name}", f"${{{own.name}}}")
        ):
            raise UnclearError(f"it starts in job {of_job}")
        written = write_launch(launch, launcher, writing, self.request, title=self.away.title)
        if self.csh and "$((" in written.text:
            raise UnclearError("csh cannot multiply in a word")
        return launch, written

    def _program_after(self, texts: Sequence[str], at: int, *, fragment: bool) -> None:
        if at >= len(texts):
            if not fragment:
                raise UnclearError("no program follows")
            return
        if ":" in texts[at:]:
            raise UnclearError("it starts several programs")
        name = re.match(r"[\"']?\$\{?([A-Za-z_]\w*)", texts[at])
        if name and self.place_of(rf"\b{name[1]}=\(?\s*[\"']?-") is not None:
            raise UnclearError(f"`{texts[at]}` holds options")

    def _plain(self, words: Sequence[Word], texts: Sequence[str]) -> None:
        """Translate a command that prints a fact, or that acts on the job itself."""
        plain = " ".join(_OUTER_QUOTE.sub("", each) for each in texts)
        plain = _IN_BRACES.sub(r"$\1", plain)
        fact = self.home.printed.get(plain)
        new = self._prints(fact) if fact else self._own_job(plain)
        if new is not None:
            self.edit(words[0].start, words[-1].end, new)

    def _prints(self, fact: str) -> str | None:
        if command := self.away.commands.get(fact):
            return None if self.csh else command
        name = self.name_of(fact)
        value = f'"${name}"' if name else self.figure(fact)
        return f"echo {value}" if value else None

    def _own_job(self, plain: str) -> str | None:
        ids = [name for name, fact in self.home.variables.items() if fact == "job_id"]
        away = self.away.names.get("job_id")
        for role, command in self.home.own_job.items():
            same = any(plain == command.format(f"${name}") for name in ids)
            if same and away and role in self.away.own_job:
                return self.away.own_job[role].format(f"${away.name}")
        return None

    # Leftovers.

    def leftovers(self, mentions: Sequence[re.Match[str]]) -> None:
        """Report the parts that are still specific to the old scheduler."""
        for edit in self.edits:
            if not self.outer or edit.start >= self.outer[-1].end:
                self.outer.append(edit)
        for mention in mentions:
            start, end = mention.span()
            if self._is_comment(start, end):
                continue
            edit = self._around(start, end)
            if edit is None:
                self._leftover(mention)
            elif again := next(mentions_in(edit.new, self.home.name), None):
                self._tell(start, self._why(again))

    def _around(self, start: int, end: int) -> _Edit | None:
        """The outermost change around a span of text."""
        at = bisect.bisect_right(self.outer, (start, 1)) - 1
        return self.outer[at] if at >= 0 and end <= self.outer[at].end else None

    def _is_comment(self, start: int, end: int) -> bool:
        if self.shell in POSIX or self.shell in CSH:
            return within(self.found.comments, start, end)
        return self.numbered[self.index(start)][1].lstrip().startswith("#")

    def _leftover(self, mention: re.Match[str]) -> None:
        start, end = mention.span()
        line = self.index(start)
        in_line = self.printing.get(line, ())
        printing = next((p for p in in_line if p[0] <= start and end <= p[1]), None)
        name = mention["variable"]
        literal = self.text[start - 1] not in "${" or (
            within(self.found.quiet, start, end) and not within(self.inner, start, end)
        )
        if name and printing and literal:
            fact = self.home.variables.get(name, "")
            if (line, name) in self.renamed and (new := self.name_of(fact)):
                self.edit(start, end, new)
                return
            self.notes.setdefault(line, f"`{name}` is only in a text that is printed")
        elif name and name in self.own and self.own[name] != line:
            number = self.numbered[self.own[name]][0]
            self.notes.setdefault(line, f"`{name}` is set in line {number}")
        elif printing and not printing[2] and not name and not self._in_substitution(start):
            self.notes.setdefault(line, f"`{mention[0]}` is only in a text that is printed")
        else:
            self._tell(start, self._why(mention))

    def _in_substitution(self, at: int) -> bool:
        """Whether a position is in a command inside another command."""
        spans = self.inside.get(self.index(at), ())
        return any(start <= at < end for start, end in spans)

    def _tell(self, at: int, why: str) -> None:
        reasons = self.reasons.setdefault(self.index(at), [])
        if why not in reasons:
            reasons.append(why)

    def _why(self, mention: re.Match[str]) -> str:
        if mention["module"]:
            return f"loads {self.home.title} itself"
        if name := mention["variable"]:
            return self._why_variable(name)
        return self._why_program(mention)

    def _why_variable(self, name: str) -> str:
        home, away = self.home, self.away
        fact = home.variables.get(name)
        if name in self.own:
            return f"`{name}` is set here: programs of {home.title}'s read it, not {away.title}'s"
        counterpart = away.names.get(fact or "")
        launcher = away.launch.program if away.launch else ""
        if fact in PROCESS and counterpart is None:
            return f"`{name}` is set for each process; what is under `{launcher}` is up to the MPI"
        if fact in PROCESS and counterpart is not None:
            return f"`{name}` is set for each process; `{launcher}` sets `{counterpart.name}`"
        what = f"`{name}` is a variable of {home.title}'s"
        if counterpart is not None:
            return f"{what}; {away.title} has `{counterpart.name}`"
        if (command := away.commands.get(fact or "")) is not None:
            return f"{what}; under {away.title}, `{command}` prints it"
        return f"{what}, and {away.title} has none for it"

    def _why_program(self, mention: re.Match[str]) -> str:
        home, away = self.home, self.away
        words = re.sub(r"[ \t]+", " ", mention[0])
        name = words.split(" ")[0]
        line = self.index(mention.start())
        deed = home.programs.get(name, "")
        if mention.groupdict().get("sub"):
            deed = next((what for what, does in home.does.items() if does == words), deed)
        if deed == _STARTS:
            self.not_launched.add(self.numbered[line][0])
            if line in self.unclear:
                return f"`{words}` is left as it is: {self.unclear[line]}"
        other = away.launch.program if away.launch and deed == _STARTS else away.doing(deed)
        what = f"`{words}` ({deed}) is a program of {home.title}'s"
        return f"{what}; {away.title} has `{other}`" if other else f"{what}"

    # The result.

    def body(
        self, before: tuple[str, ...], says: frozenset[str], notes: tuple[Remark, ...]
    ) -> Body:
        """Make the body with all changes."""
        given = [line for text in self.before.values() for line in text.split("\n")]
        first = [line for line in given if "JOB_SUBMIT_DIR" in line]  # it has to precede any `cd`
        before = (*first, *before, *(line for line in given if line not in first))
        changes = [CommandChange(line=0, old="", new=each) for each in before]
        lines = [line for _, line in self.numbered]
        for first, last in reversed(self._ranges()):
            start, end = self.starts[first], self.starts[last] + len(lines[last])
            old, new = self.text[start:end], self.render(start, end)
            lines[first : last + 1] = new.split("\n")
            if old != new:
                changes.insert(
                    len(before), CommandChange(line=self.numbered[first][0], old=old, new=new)
                )
        return Body(
            before=before,
            lines=tuple(lines),
            changes=tuple(changes),
            remains=tuple(
                Remark(line=number, text=line.strip(), why="; ".join(why))
                for (number, line), why in self._by_line(self.reasons)
            ),
            not_launched=frozenset(self.not_launched),
            left_out=tuple(self.left_out),
            losses=tuple(self.losses),
            notes=(
                *notes,
                *(
                    Remark(line=number, text=line.strip(), why=why)
                    for (number, line), why in self._by_line(self.notes)
                ),
            ),
            says=says,
        )

    def _by_line(self, found: Mapping[int, _T]) -> Iterator[tuple[tuple[int, str], _T]]:
        return ((self.numbered[index], found[index]) for index in sorted(found))

    def _ranges(self) -> list[tuple[int, int]]:
        """List the ranges of changed lines; lines that one change spans stay together."""
        found: list[tuple[int, int]] = []
        for first, last in sorted((self.index(e.start), self.index(e.end)) for e in self.edits):
            if found and first <= found[-1][1]:
                found[-1] = (found[-1][0], max(last, found[-1][1]))
            else:
                found.append((first, last))
        return found


_STARTS: Final = "starts a parallel program"
