"""`#SBATCH` lines: read as sbatch reads them, and written in a form that sbatch reads back.

Sources: sbatch(1), and tests of sbatch 22.05 with such lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast

from fractale.schedulers.options import GivenOption, getopt
from fractale.schedulers.reading import BURST_BUFFER, Draft, burst_buffers
from fractale.schedulers.request import (
    Dependency,
    Request,
    flat,
    in_folder,
    take_broken,
    write_name,
)
from fractale.schedulers.script import Directive, Reading, Remark, Written
from fractale.schedulers.slurm.mixed import foreign_options
from fractale.schedulers.slurm.times import write_time
from fractale.schedulers.slurm.values import (
    ALIASES,
    OF_SRUN,
    OPTIONS,
    READERS,
    REASONS,
    how_many,
)

MARK: Final = "#SBATCH"
_OLD_MARK: Final = "#SLURM"
_ABOUT: Final = {
    "array": "array",
    "dependency": "dependencies",
    "nodes": "nodes",
    "ntasks": "tasks",
    "ntasks-per-node": "tasks_per_node",
    "cpus-per-task": "cores_per_task",
    "gpus": "gpus",
    "gpus-per-node": "gpus_per_node",
    "gpus-per-task": "gpus_per_task",
    "gpus-per-socket": "gpus_per_node",
}
_SPACE: Final = " \t\n\v\f\r"

# Reading lines ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of a directive line; `start` and `end` are its position in the line."""

    text: str
    line: int
    start: int
    end: int


@dataclass(slots=True)
class _Header:
    """The directive lines of a script, divided into words."""

    parts: list[list[_Word]] = field(default_factory=lambda: [[]])
    starts: list[Draft] = field(default_factory=list[Draft])
    numbers: set[int] = field(default_factory=set[int])
    invalid: list[Remark] = field(default_factory=list[Remark])
    remarks: list[Remark] = field(default_factory=list[Remark])
    command: int = 0


_NEARLY: Final = re.compile(r"\s+#SBATCH\b|#\s+SBATCH\s+-|#(?!(?-i:SBATCH))sbatch\b", re.IGNORECASE)


def _header(lines: Sequence[str]) -> _Header:
    header = _Header()
    for number, line in enumerate(lines, 1):
        if not line.startswith((MARK, _OLD_MARK)):
            if not header.command and (bare := line.strip(_SPACE)) and bare[0] != "#":
                header.command = number
            elif not header.command and _NEARLY.match(line):
                why = f"a comment for sbatch: only a line that begins with {MARK} is a directive"
                header.remarks.append(Remark(line=number, text=line.strip(), why=why))
        elif header.command:
            why = f"sbatch passes over it: it is below the first command, line {header.command}"
            header.remarks.append(Remark(line=number, text=line, why=why))
        else:
            if not line.startswith(MARK):
                why = f"sbatch reads it, and warns: write {MARK}"
                header.remarks.append(Remark(line=number, text=line, why=why))
            header.numbers.add(number)
            _directive_line(number, line, header)
    return header


_NEXT_PART: Final = re.compile(r"\s*(?:het|pack)job(?:\s|$)", re.IGNORECASE)
_QUOTING: Final = re.compile(r"[\\'\"#]")
_PLAIN_WORD: Final = re.compile(rf"[^{_SPACE}]+")


def _directive_line(number: int, line: str, header: _Header) -> None:
    start = len(MARK if line.startswith(MARK) else _OLD_MARK)
    if _NEXT_PART.match(line, start):
        text = line[start:].strip()
        header.starts.append(
            Draft(line=number, option="hetjob", text=text, fields={"components": ()})
        )
        header.parts.append([])
    words = header.parts[-1]
    if not _QUOTING.search(line, start):
        found = _PLAIN_WORD.finditer(line, start)
        words += (
            _Word(each[0], number, each.start(), each.end())
            for each in found
            if each[0].lower() not in ("hetjob", "packjob")
        )
        return
    try:
        words += _quoted_words(line, start, number)
    except ValueError as error:
        header.invalid.append(Remark(line=number, text=line, why=str(error)))


def _quoted_words(line: str, at: int, number: int) -> Iterator[_Word]:
    """Divide a line as sbatch does: quotes, a backslash before a letter, ``#`` to the end."""
    while True:
        while at < len(line) and line[at] in _SPACE:
            at += 1
        word, end = _quoted_word(line, at)
        if not word:  # an empty word also ends the line
            return
        if word.lower() not in ("hetjob", "packjob"):
            yield _Word(word, number, at, end)
        at = end


def _quoted_word(line: str, at: int) -> tuple[str, int]:
    """The word that begins at a position of a line, and the position after it."""
    found, quote = list[str](), ""
    while at < len(line):
        letter = line[at]
        if letter == "\\":
            at += 1
            found.append(line[at : at + 1])
        elif quote:
            quote = "" if letter == quote else quote
            found.append("" if not quote else letter)
        elif letter in "'\"":
            quote = letter
        elif letter == "#" or letter in _SPACE:
            break
        else:
            found.append(letter)
        at += 1
    if quote:
        raise ValueError(f"the quote {quote} is not closed")
    return "".join(found), min(at, len(line))


def _drafts(words: Sequence[_Word], lines: Sequence[str]) -> list[Draft]:
    return [_draft(given, words, lines) for given in getopt([word.text for word in words], OPTIONS)]


def _draft(given: GivenOption, words: Sequence[_Word], lines: Sequence[str]) -> Draft:
    first, last = words[given.first], words[given.last]
    text = given.text
    if first.line == last.line:
        text = lines[first.line - 1][first.start : last.end]
    if given.option is None:
        name = first.text.lstrip("-").partition("=")[0]
        why = given.why if name not in OF_SRUN else f"an option of srun: sbatch has no `--{name}`"
        return Draft(line=first.line, option=name, text=text, invalid=why)
    option = ALIASES.get(given.option.name, given.option.name)
    value = given.value or ""
    return _read(Draft(line=first.line, option=option, value=value, text=text, invalid=given.why))


def _read(draft: Draft) -> Draft:
    draft.read("sbatch", READERS, REASONS)
    if draft.invalid and draft.option == "array":  # even an invalid value asks for an array
        draft.fields = {"array": None}
    return draft


def _foreign(lines: Sequence[str], header: _Header) -> Iterator[Draft]:
    """`#PBS` and `#BSUB` lines, which sbatch reads after the `#SBATCH` lines."""
    for each in foreign_options(lines):
        mark = lines[each.line - 1].partition(" ")[0]
        if not each.option and not each.invalid:
            why = "sbatch passes over it"
        else:
            why = f"sbatch reads it, too, as --{each.option}={each.value}".removesuffix("=")
            draft = Draft(
                line=each.line,
                option=each.option,
                value=each.value,
                text=each.text,
                invalid=each.invalid,
            )
            yield _read(draft)
        if not header.command or each.line < header.command:
            header.numbers.add(each.line)
        if not each.invalid:
            header.remarks.append(Remark(line=each.line, text=f"{mark} {each.text}", why=why))


def _merge(drafts: Sequence[Draft], remarks: list[Remark]) -> dict[str, Any]:
    """The fields of all drafts. If an option is repeated, the last one counts."""
    last = {draft.option: draft for draft in drafts if not draft.invalid}
    fields: dict[str, Any] = {}
    mail: dict[str, None] = {}
    for draft in drafts:
        if draft.invalid:
            continue
        if draft.option == "mail-type":  # repeated options add up
            mail |= dict.fromkeys(draft.fields["mail_on"])
        elif last[draft.option] is not draft:
            draft.replace(last[draft.option])
            continue
        fields |= draft.fields
    if mail:
        fields["mail_on"] = tuple(kind for kind in mail if kind != "none") or ("none",)
    _Together(last, fields).settle(remarks)
    return fields


class _Together:
    """Fields that depend on several options: per GPU, per socket, and the named hosts."""

    def __init__(self, last: Mapping[str, Draft], fields: dict[str, Any]) -> None:
        self._last = last
        self._fields = fields

    def settle(self, remarks: list[Remark]) -> None:
        self._per_socket()
        fields, last = self._fields, self._last
        if "hosts" in fields and "nodes" not in fields:
            self._say("nodelist", hosts=fields["hosts"], nodes=how_many(fields["hosts"]))
        self._per_gpu()
        self._least_cores()
        nodes, tasks = fields.get("nodes"), fields.get("tasks")
        if "nodes" in last and "ntasks" in last and nodes and tasks and tasks < nodes:
            fields["nodes"] = tasks
            fields.pop("most_nodes", None)
            why = f"sbatch asks for {tasks} nodes: there are no more tasks"
            remarks.append(Remark(line=last["nodes"].line, text=last["nodes"].text, why=why))
        if "output" in fields and "error" not in fields:
            fields["join"] = True
            last["output"].fields["join"] = True

    def _say(self, option: str, **said: Any) -> None:
        draft = self._last[option]
        draft.untold = []
        draft.fields = dict.fromkeys(said)
        self._fields.update(said)

    def _number(self, option: str) -> int:
        value = self._last[option].value if option in self._last else ""
        return int(value) if value.isdecimal() else 0

    def _per_socket(self) -> None:
        fields, last = self._fields, self._last
        sockets = self._number("sockets-per-node")
        if "gpus-per-socket" in last and last["gpus-per-socket"].fields:
            count = last["gpus-per-socket"].fields["gpus"]
            fields.pop("gpus")
            if "gpus" in last:
                fields |= last["gpus"].fields
            self._say("gpus-per-socket", gpus_per_node=count * (sockets or 1))
            if not sockets:
                untold = "per socket: how many sockets a node has is not said"
                last["gpus-per-socket"].untold = [untold]
        tasks = self._number("ntasks-per-socket")
        if sockets and tasks and "tasks_per_node" not in fields:
            self._say("ntasks-per-socket", tasks_per_node=tasks * sockets)
        if sockets and {"gpus-per-socket", "ntasks-per-socket"} & last.keys():
            last["sockets-per-node"].untold = []
            last["sockets-per-node"].fields = {
                name: None
                for option in ("gpus-per-socket", "ntasks-per-socket")
                if option in last
                for name in last[option].fields
            }

    def _per_gpu(self) -> None:
        if not {"ntasks-per-gpu", "cpus-per-gpu"} & self._last.keys():
            return
        request = Request(**self._fields)
        tasks, gpus = self._number("ntasks-per-gpu"), request.totals().gpus
        if tasks and gpus and request.tasks is None:
            self._say("ntasks-per-gpu", tasks=tasks * gpus)
        elif tasks and request.tasks and not gpus and request.tasks % tasks == 0:
            self._say("ntasks-per-gpu", gpus=request.tasks // tasks)
        totals = Request(**self._fields).totals()
        cores = self._number("cpus-per-gpu") * totals.gpus
        if cores and request.cores_per_task is None and cores % totals.tasks == 0:
            self._say("cpus-per-gpu", cores_per_task=cores // totals.tasks)

    def _least_cores(self) -> None:
        least = self._fields.get("cores_per_node")
        if least is None:
            return
        request = Request(**self._fields)
        totals = request.totals()
        there = -(-totals.tasks // (totals.nodes or 1)) * (request.cores_per_task or 1)
        if least <= there:  # the tasks need at least as many
            del self._fields["cores_per_node"]
            self._last["mincpus"].fields = {"cores_per_task": None}


_OF_MEMORY: Final = ("mem", "mem-per-cpu", "mem-per-gpu")


def _conflicts(drafts: Sequence[Draft]) -> Iterator[Remark]:
    found = {draft.option: draft for draft in drafts if not draft.invalid}
    memory = [found[option] for option in _OF_MEMORY if option in found]
    if len(memory) > 1:
        last = max(memory, key=lambda draft: draft.line)
        why = "sbatch accepts only one of --mem, --mem-per-cpu and --mem-per-gpu"
        yield Remark(line=last.line, text=last.text, why=why)
    if "nodelist" in found and "nodes" in found:
        hosts = how_many(found["nodelist"].fields.get("hosts") or ())
        said = found["nodes"].fields
        most = said.get("most_nodes") or said.get("nodes") or hosts
        if hosts > most:
            draft = found["nodelist"]
            why = f"sbatch refuses it: {hosts} hosts are named, and --nodes is {most}"
            yield Remark(line=draft.line, text=draft.text, why=why)


# Writing ------------------------------------------------------------------------------------

_TO_MARKS: Final = MappingProxyType(
    {
        "id": "%j",
        "array_id": "%A",
        "index": "%a",
        "name": "%x",
        "user": "%u",
        "host": "%N",
        "node": "%n",
        "task": "%t",
    }
)
_NO_OPTION: Final = MappingProxyType(
    {
        "server": "it is a server or cluster of another scheduler",
        "shell": "the first line of a script says its shell",
        "components": "parts of a heterogeneous job are not translated",
        "place": "Slurm has no option for it",
    }
)


_NOT_PLAIN: Final = re.compile(rf"[{_SPACE}\"'\\#]")


def _quoted(text: str) -> str:
    """A word in the quoting that sbatch reads back."""
    if text and not _NOT_PLAIN.search(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _amount(count: int) -> str:
    """Bytes in the largest unit that is exact; rounded up to KiB."""
    for unit, size in (("T", 2**40), ("G", 2**30), ("M", 2**20)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return f"{math.ceil(count / 2**10)}K" if count else "0"


class _Writer:
    """Writes a request. It removes each field that it writes: the remaining fields are lost."""

    def __init__(self, request: Request) -> None:
        self._flat = flat(request)
        self._left = self._flat.request.said()
        self._lines: list[str] = []
        self._lost = {**self._flat.lost, **take_broken(self._left)}
        self._notes = list(self._flat.notes)

    def written(self) -> Written:
        self._names()
        self._files()
        self._sizes()
        self._memory()
        self._when()
        self._rest()
        for name in self._left:
            self._lost[name] = _NO_OPTION.get(name, "Slurm has no option for it")
        return Written(lines=tuple(self._lines), lost=self._lost, notes=tuple(self._notes))

    def _take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def _line(self, option: str, value: object = None) -> None:
        self._lines.append(f"--{option}" if value is None else f"--{option}={_quoted(str(value))}")

    def _plain(self, name: str, option: str) -> None:
        value = self._take(name)
        if value is not None:
            self._line(
                option, ",".join(cast("tuple[str]", value)) if isinstance(value, tuple) else value
            )

    def _names(self) -> None:
        self._plain("name", "job-name")
        self._plain("account", "account")
        self._plain("queues", "partition")
        self._plain("qos", "qos")
        self._plain("reservation", "reservation")

    def _files(self) -> None:
        output, error, join = self._take("output"), self._take("error"), self._take("join")
        array = self._flat.request.array is not None
        if join:  # Slurm joins them unless --error names another file
            if error is not None:
                self._lost["error"] = "stderr goes into stdout's file"
            error = None
        elif error is None and join is False:
            error = in_folder("", "e", array=array)
        for option, name in (("output", output), ("error", error), ("input", self._take("input"))):
            if name is None:
                continue
            if name.endswith("/"):
                name = in_folder(name, "e" if option == "error" else "o", array=array)
            text, missing = write_name(name, _TO_MARKS, lambda part: part.replace("%", "%%"))
            if missing:
                self._lost[option] = f"Slurm has no mark for {', '.join(missing)}: left out"
            self._line(option, text)
        append = self._take("append")
        if append is not None:
            self._line("open-mode", "append" if append else "truncate")
        self._plain("workdir", "chdir")

    def _sizes(self) -> None:
        nodes, most, tasks = self._take("nodes"), self._take("most_nodes"), self._take("tasks")
        per_node = self._take("tasks_per_node")
        if nodes is not None or most is not None:
            least = nodes or 1
            self._line("nodes", f"{least}-{most}" if most and most > least else least)
        if tasks is not None or (nodes is None and per_node is None):
            self._line("ntasks", tasks or 1)
        if per_node is not None:
            self._line("ntasks-per-node", per_node)
        self._cores(nodes or 1, tasks, per_node)
        self._gpus()
        exclusive = self._take("exclusive")
        if exclusive is not None:
            self._line("exclusive" if exclusive else "oversubscribe")

    def _cores(self, nodes: int, tasks: int | None, per_node: int | None) -> None:
        cores, on_node = self._take("cores_per_task"), self._take("cores_per_node")
        if on_node is not None and cores is None:
            each = per_node or (1 if tasks is None else 0 if tasks % nodes else tasks // nodes)
            if each and on_node % each == 0:
                cores, on_node = on_node // each, None
        if cores is not None:
            self._line("cpus-per-task", cores)
        if on_node is not None:
            self._line("mincpus", on_node)

    def _gpus(self) -> None:
        kind = self._take("gpu_kind")
        counts = {
            name: count
            for name in ("gpus", "gpus_per_node", "gpus_per_task")
            if (count := self._take(name)) is not None
        }
        for name, count in counts.items():
            self._line(name.replace("_", "-"), f"{kind}:{count}" if kind else count)
        if kind and not counts:
            self._lost["gpu_kind"] = "no number of GPUs is asked for"

    def _memory(self) -> None:
        options = (
            ("memory_per_node", "mem"),
            ("memory_per_core", "mem-per-cpu"),
            ("memory_per_gpu", "mem-per-gpu"),
        )
        written = False
        for name, option in options:
            amount = self._take(name)
            if amount is not None and written:
                self._lost[name] = "Slurm takes one amount of memory"
            elif amount is not None:
                self._line(option, _amount(amount))
                written = True
        memory = self._take("memory")
        if memory is None:
            return
        if written:
            self._lost["memory"] = "Slurm takes one amount of memory"
            return
        totals = self._flat.request.totals()
        if totals.nodes or totals.tasks == 1:
            self._line("mem", _amount(math.ceil(memory / (totals.nodes or 1))))
        else:
            self._line("mem-per-cpu", _amount(math.ceil(memory / totals.cores)))
            self._notes.append(f"memory is asked for by core: the job's over {totals.cores} cores")

    def _when(self) -> None:
        seconds = self._take("seconds")
        if seconds is not None:
            self._line("time", write_time(seconds))
        begin = self._take("begin")
        if begin is not None:
            self._line("begin", f"now{begin}" if begin.startswith("+") else begin)
        array = self._take("array")
        if array is not None:
            self._line("array", array)
        self._dependencies(self._take("dependencies") or ())
        if self._take("hold"):
            self._line("hold")
        requeue = self._take("requeue")
        if requeue is not None:
            self._line("requeue" if requeue else "no-requeue")
        self._plain("signal", "signal")

    def _dependencies(self, dependencies: Sequence[Dependency]) -> None:
        written: list[str] = []
        strange: list[str] = []
        for each in dependencies:
            ids = [job for job in each.jobs if re.fullmatch(r"\d+(?:_(?:\d+|\*))?", job)]
            strange += [job for job in each.jobs if job not in ids]
            if ids or each.kind == "singleton":
                written.append(":".join([each.kind, *ids]))
        if strange:
            self._lost["dependencies"] = f"{', '.join(strange)}: not the id of a Slurm job"
        if written:
            self._line("dependency", ",".join(written))
        if any(":" in each for each in written):
            self._notes.append("the ids in --dependency are those of the other scheduler's jobs")

    def _rest(self) -> None:
        mail_on = self._take("mail_on")
        if mail_on:
            kinds = [kind.upper() for kind in mail_on]
            self._line("mail-type", ",".join(kinds))
        self._plain("mail_to", "mail-user")
        self._export()
        constraint = self._take("constraint")
        if constraint is not None and re.search(r"[\s:'\"]|^-|&&|\|\|", constraint):
            self._lost["constraint"] = "the words of another scheduler: see sbatch --constraint"
        elif constraint is not None:
            self._line("constraint", constraint)
        self._plain("hosts", "nodelist")
        self._plain("without_hosts", "exclude")
        self._plain("licenses", "licenses")
        self._plain("comment", "comment")
        other = self._take("other") or ()
        generic = [each for each in other if each.startswith("gres/")]
        if generic:
            resources = (each.removeprefix("gres/").replace("=", ":") for each in generic)
            self._line("gres", ",".join(resources))
        if len(generic) < len(other):
            rest = ", ".join(each for each in other if each not in generic)
            self._lost["other"] = f"Slurm has no option for {rest}"

    def _export(self) -> None:
        export, variables = self._take("export"), self._take("variables") or ()
        if export is None and not variables:
            return
        written = ["ALL"] if export else [] if variables else ["NONE"]
        for variable in variables:
            quote = "'" if "'" not in variable else '"'
            if quote == '"' and '"' in variable:
                self._lost["variables"] = f"`{variable}` has quotes of both kinds"
                continue
            name, equals, value = variable.partition("=")
            bare = not re.search(r"[,'\"]", value)
            written.append(name + equals + (value if bare else f"{quote}{value}{quote}"))
        self._line("export", ",".join(written) or "NONE")


# The dialect --------------------------------------------------------------------------------


_DEFAULTS: Final = Request(join=True, append=False, export=True)


@dataclass(frozen=True, slots=True)
class _Slurm:
    name: str = "slurm"
    title: str = "Slurm"
    mark: str = MARK
    defaults: Request = _DEFAULTS
    guard: str = "--ignore-pbs"
    slots: bool = False
    against_dos: str = (
        "sbatch refuses a script with DOS line breaks: take them out with `sed -i 's/\\r$//' FILE`"
    )

    def is_directive(self, line: str) -> bool:
        return line.startswith(MARK)

    def about(self, directive: Directive) -> str:
        if directive.option in ("gres", "tres-per-task"):
            return "gpus" if "gpu" in directive.value else ""
        return _ABOUT.get(directive.option, "")

    def read(self, lines: Sequence[str]) -> Reading:
        header = _header(lines)
        if lines and not lines[0].startswith("#!"):
            why = "sbatch refuses a script whose first line does not begin with #!"
            header.invalid.append(Remark(line=1, text=lines[0], why=why))
        first, *more = header.parts
        drafts = _drafts(first, lines)
        if not any(draft.option == "ignore-pbs" for draft in drafts):
            drafts += _foreign(lines, header)
        remarks = list(header.remarks)
        header.invalid += _conflicts(drafts)
        fields = _merge(drafts, remarks)
        for number, text in burst_buffers(lines):
            header.numbers.add(number)
            draft = Draft(line=number, option=text[1:3], text=text, untold=[BURST_BUFFER])
            drafts.insert(sum(each.line < number for each in drafts), draft)
        directives = [draft.done("sbatch") for draft in drafts]
        if more:
            fields["components"] = tuple(_as_text(part, lines) for part in header.parts)
            others = frozenset({"components"})
            directives += (draft.done("sbatch", others) for draft in header.starts)
            for part in more:
                of_part = _drafts(part, lines)
                header.invalid += _conflicts(of_part)
                directives += (draft.done("sbatch", others) for draft in of_part)
            directives.sort(key=lambda each: each.line)
        return Reading(
            directives=tuple(directives),
            lines=frozenset(header.numbers),
            request=Request(**fields),
            invalid=tuple(header.invalid),
            remarks=tuple(remarks),
        )

    def write(self, request: Request) -> Written:
        return _Writer(request).written()


def _as_text(words: Sequence[_Word], lines: Sequence[str]) -> str:
    return " ".join(lines[word.line - 1][word.start : word.end] for word in words)


DIALECT: Final = _Slurm()
