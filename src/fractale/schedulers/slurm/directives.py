"""`#SBATCH` lines, read as sbatch reads them and written so that it does.

Sources: sbatch(1), and what sbatch 22.05 made of the lines when it was tried.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast

from fractale.schedulers.options import Given, Option, Said, getopt
from fractale.schedulers.request import (
    Array,
    Dependency,
    DependencyKind,
    Request,
    flat,
    in_folder,
    join_dependencies,
    split_hosts,
    take_broken,
    write_name,
)
from fractale.schedulers.script import Directive, Reading, Remark, Written
from fractale.schedulers.slurm.mixed import foreign_options
from fractale.schedulers.slurm.times import read_limit, write_time

MARK: Final = "#SBATCH"
_OLD_MARK: Final = "#SLURM"
_SPACE: Final = " \t\n\v\f\r"

# name[:letter] of the options of sbatch 22.05, by whether a value follows.
_WITH_VALUE: Final = """
    account:A acctg-freq array:a batch bb bbf begin:b chdir:D cluster cluster-constraint clusters:M
    comment constraint:C container context core-spec:S cores-per-socket cpu-freq cpus-per-gpu
    cpus-per-task:c deadline delay-boot dependency:d distribution:m error:e exclude:x export
    export-file extra-node-info:B gid gpu-bind gpu-freq gpus:G gpus-per-node gpus-per-socket
    gpus-per-task gres gres-flags hint input:i job-name:J kill-on-invalid-dep licenses:L mail-type
    mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile:F nodelist:w
    nodes:N ntasks:n ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
    ntasks-per-tres open-mode output:o partition:p power prefer priority profile qos:q reservation
    signal sockets-per-node switches tasks-per-node thread-spec threads-per-core time:t time-min tmp
    uid wait-all-nodes wckey wrap
"""
_WITHOUT_VALUE: Final = """
    contiguous help:h hold:H ignore-pbs no-requeue overcommit:O oversubscribe:s parsable quiet:Q
    reboot spread-job test-only usage use-min-nodes verbose:v version:V wait:W
"""
_VALUE_ATTACHED: Final = "exclusive get-user-env nice no-kill:k propagate requeue"
# Of later releases, and those of two plugins that many sites have: Shifter, Pyxis.
_LATER_WITH_VALUE: Final = """
    container-id extra mem-update resources runtime segment tres-bind tres-per-task
    image volume module
    container-image container-mounts container-workdir container-name container-save container-env
"""
_LATER_WITHOUT_VALUE: Final = """
    consolidate-segments external spread-segments stepmgr container-mount-home
    no-container-mount-home container-remap-root no-container-remap-root container-entrypoint
    no-container-entrypoint container-writable container-readonly
"""
_LATER_ATTACHED: Final = "oom-kill-step resv-ports"
_OF_SRUN: Final = frozenset(
    {
        *("accel-bind", "bcast", "cpu-bind", "cpu_bind", "disable-status", "epilog", "exact"),
        *("immediate", "interactive", "jobid", "kill-on-bad-exit", "label", "mpi", "multi-prog"),
        *("no-allocate", "overlap", "preserve-env", "prolog", "pty", "relative", "slurmd-debug"),
        *("task-epilog", "task-prolog", "unbuffered", "x11"),
    }
)


def _options() -> Iterator[Option]:
    for names, argument, exact in (
        (_WITH_VALUE, "required", False),
        (_WITHOUT_VALUE, "none", False),
        (_VALUE_ATTACHED, "optional", False),
        (_LATER_WITH_VALUE, "required", True),
        (_LATER_WITHOUT_VALUE, "none", True),
        (_LATER_ATTACHED, "optional", True),
    ):
        for each in names.split():
            name, _, letter = each.partition(":")
            yield Option(name, letter, cast("Any", argument), exact)


OPTIONS: Final = tuple(_options())

# Options of one meaning: the last of them counts.
_ALIASES: Final = MappingProxyType({"tasks-per-node": "ntasks-per-node", "cluster": "clusters"})

_UNTOLD: Final = MappingProxyType(
    {
        **dict.fromkeys(
            ("container-image", "image"),
            "an option of a plugin; start the container in the commands",
        ),
        "distribution": "how tasks are laid out belongs to the launcher",
        "hint": "how hardware threads are used belongs to the launcher",
        "threads-per-core": "how hardware threads are used belongs to the launcher",
        "ntasks-per-core": "how hardware threads are used belongs to the launcher",
        "mem-bind": "binding belongs to the launcher",
        "gpu-bind": "binding belongs to the launcher",
        "nice": "priorities of schedulers do not compare",
        "priority": "priorities of schedulers do not compare",
        "wrap": "it is for the command line",
        **dict.fromkeys(
            ("parsable", "quiet", "verbose", "test-only", "usage", "help", "version", "wait"),
            "it changes what sbatch itself does, not the job",
        ),
    }
)


# Reading values -----------------------------------------------------------------------------


def _refused(value: str, wanted: str) -> ValueError:
    return ValueError(f"`{value}` is not {wanted}")


def _whole(value: str, least: int = 1) -> int:
    text = value.lstrip(_SPACE)
    if not (text.removeprefix("+").isdecimal() and text.isascii()) or int(text) < least:
        raise _refused(value, f"a whole number from {least} up")
    return int(text)


def _count(name: str) -> Callable[[str], Said]:
    return lambda value: Said({name: _whole(value)})


def _number(value: str) -> Said:
    _whole(value, 0)
    return Said({}, "only Slurm has it")


def _text(name: str) -> Callable[[str], Said]:
    return lambda value: Said({name: value} if value else {}, "" if value else "it has no value")


def _per_socket(value: str) -> Said:
    if not re.fullmatch(r"\s*\d+(-\d+)?|\*", value):
        raise _refused(value, "a number such as 2")
    return Said({}, "only Slurm has it")


def _words(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        found = tuple(each.strip() for each in value.split(",") if each.strip())
        return Said({name: found} if found else {}, "" if found else "it has no value")

    return read


def _flag(name: str, value: bool) -> Callable[[str], Said]:
    return lambda _: Said({name: value})


_AMOUNT: Final = re.compile(r"\s*\+?(\d+)(?:([kmgt])b?)?", re.IGNORECASE | re.ASCII)


def _bytes(value: str) -> int:
    match = _AMOUNT.fullmatch(value)
    if match is None:
        raise _refused(value, "an amount of memory such as 512M or 4G")
    return int(match[1]) << {"k": 10, "m": 20, "g": 30, "t": 40}[(match[2] or "m").lower()]


def _memory(name: str) -> Callable[[str], Said]:
    return lambda value: Said({name: _bytes(value)})


def _memory_only_here(value: str) -> Said:
    _bytes(value)
    return Said({}, "only Slurm has it")


_NODES: Final = re.compile(r"\s*(\d*)([km]?)\s*(?:(-)\s*(\d*)([km]?)\s*)?", re.I | re.ASCII)
_THOUSANDS: Final = MappingProxyType({"": 1, "k": 1024, "m": 1024 * 1024})


def _nodes(value: str) -> Said:
    match = _NODES.fullmatch(value)
    if re.fullmatch(r"\d+(?:-\d+(?::\d+)?)?(?:,\d+(?:-\d+(?::\d+)?)?)+", value):
        numbers = [int(each) for each in re.findall(r"\d+", value)]
        return Said({"nodes": min(numbers)}, f"any of the numbers {value}")
    if match is None or not (match[1] or match[3]) or (match[3] and not match[4]):
        raise _refused(value, "a number of nodes such as 2 or 2-4")
    least = int(match[1] or 1) * _THOUSANDS[match[2].lower()]
    if not match[3]:
        return Said({"nodes": least} if least else {}, "" if least else "0 is no number of nodes")
    most = int(match[4]) * _THOUSANDS[match[5].lower()]
    if most and most < least:
        raise ValueError(f"`{value}`: the most is less than the least")
    return Said({"nodes": least, **({"most_nodes": most} if most > least else {})})


_GRES_COUNT: Final = re.compile(r"(\d+)([kmgtp]?)b?", re.IGNORECASE | re.ASCII)


def _gpus_of(parts: Sequence[str], value: str) -> tuple[int, str]:
    """How many and of which kind, from ``[KIND:][N]``."""
    kind, count = "", 1
    for part in parts:
        match = _GRES_COUNT.fullmatch(part)
        if match is not None:
            count = (
                int(match[1])
                << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}[match[2].lower()]
            )
        elif re.fullmatch(r"[\w.+-]+", part):
            kind = part
        else:
            raise _refused(value, "a number of GPUs such as 2 or a100:2")
    return count, kind


def _gpu_fields(name: str, found: Sequence[tuple[int, str]]) -> Said:
    kinds = sorted({kind for _, kind in found if kind})
    fields: dict[str, Any] = {name: sum(count for count, _ in found)}
    if len(kinds) == 1:
        fields["gpu_kind"] = kinds[0]
    return Said(fields, f"so many of each kind ({', '.join(kinds)})" if len(kinds) > 1 else "")


def _gpus(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        found = [_gpus_of(re.split("[:=]", each), value) for each in value.split(",") if each]
        return _gpu_fields(name, found) if found else Said({}, "it has no value")

    return read


def _gres(value: str) -> Said:
    if value.lower() == "none":
        return Said({"gpus_per_node": 0})
    found: list[tuple[int, str]] = []
    other: list[str] = []
    for item in value.split(","):
        name, *parts = re.split("[:=]", item.removeprefix("gres/").removeprefix("gres:"))
        if not name:
            continue
        if "$" in item:
            raise _refused(value, "a list of resources such as gpu:2,lscratch:100")
        if name == "gpu":
            found.append(_gpus_of(parts, value))
        else:
            *kind, count = parts or ["1"]
            other.append(f"gres/{':'.join([name, *kind])}={count}")
    said = _gpu_fields("gpus_per_node", found) if found else Said({})
    if other:
        return Said({**said.fields, "other": tuple(other)}, said.untold)
    return said if found else Said({}, "it has no value")


def _tres_per_task(value: str) -> Said:
    fields: dict[str, Any] = {}
    found: list[tuple[int, str]] = []
    untold: list[str] = []
    for item in filter(None, value.split(",")):
        name, *parts = re.split("[:=]", item.removeprefix("gres/"))
        if name == "cpu" and len(parts) == 1 and parts[0].isdecimal():
            fields["cores_per_task"] = int(parts[0])
        elif name == "gpu":
            found.append(_gpus_of(parts, value))
        else:
            untold.append(item)
    if found:
        fields |= _gpu_fields("gpus_per_task", found).fields
    return Said(fields, f"{', '.join(untold)} per task" if untold else "")


def _time(value: str) -> Said:
    return Said({"seconds": read_limit(value)})


def _time_only_here(value: str) -> Said:
    read_limit(value)
    return Said({}, "only Slurm has it")


_MARKS: Final = MappingProxyType(
    {
        "j": "id",
        "J": "id",
        "A": "array_id",
        "a": "index",
        "x": "name",
        "u": "user",
        "N": "host",
        "n": "node",
        "t": "task",
    }
)
_PATTERN: Final = re.compile(r"%(\d*)([A-Za-z%])")


def _file(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        if not value or "{{" in value:
            return Said({}, "it is no file name for another scheduler")
        if value.lower() == "none":
            return Said({name: "/dev/null"})
        if "\\" in value:  # then sbatch replaces nothing
            return Said({name: value.replace("\\", "")})
        untold: list[str] = []

        def mark(match: re.Match[str]) -> str:
            width, letter = match[1], match[2]
            if letter == "%":
                return "%"
            if letter not in _MARKS:
                if letter in "sb":
                    untold.append(f"`{match[0]}` in it")
                return "" if letter in "sb" else match[0]
            if width:
                untold.append(f"the width in `{match[0]}`")
            return f"{{{{{_MARKS[letter]}}}}}"

        return Said({name: _PATTERN.sub(mark, value)}, ", ".join(untold))

    return read


_MAIL: Final = frozenset(
    {
        *("none", "all", "begin", "end", "fail", "requeue", "invalid_depend", "stage_out"),
        *("array_tasks", "time_limit", "time_limit_90", "time_limit_80", "time_limit_50"),
    }
)


def _mail_type(value: str) -> Said:
    found = [each for each in value.lower().split(",") if each in _MAIL]
    if not found:
        raise _refused(value, "one of BEGIN, END, FAIL, REQUEUE, ALL, NONE")
    if "none" in found:
        return Said({"mail_on": ("none",)})
    kinds = dict.fromkeys(found)
    if "all" in kinds:
        kinds = dict.fromkeys(["begin", "end", "fail", "requeue", *kinds])
        del kinds["all"]
    return Said({"mail_on": tuple(kinds)})


def _array(value: str) -> Said:
    text = value.removeprefix("[").removesuffix("]")
    try:
        return Said({"array": Array.parse(text)})
    except ValueError as error:
        if "elements" in str(error):
            return Said({}, str(error))
        raise


_DEPENDENCY: Final = re.compile(
    r"(?:(afterany|afterok|afternotok|aftercorr|afterburstbuffer|after|expand):)?"
    r"([\w+]+(?::[\w+]+)*)",
    re.ASCII | re.IGNORECASE,
)


def _dependency(value: str) -> Said:
    found: list[Dependency] = []
    untold: list[str] = []
    for item in re.split("[,?]", value):
        match = _DEPENDENCY.fullmatch(item)
        if item.lower() == "singleton":
            found.append(Dependency(kind="singleton"))
            continue
        if match is None or not all(re.match(r"\d", each) for each in match[2].split(":")):
            raise _refused(value, "a dependency such as afterok:123")
        kind = (match[1] or "afterany").lower()
        if kind in ("afterburstbuffer", "expand"):
            untold.append(item)
            continue
        jobs = match[2].split(":")
        if any("+" in job for job in jobs):
            untold.append(f"the minutes to wait in `{item}`")
        ids = tuple(job.partition("+")[0] for job in jobs)
        found.append(Dependency(kind=cast("DependencyKind", kind), jobs=ids))
    if "?" in value:
        untold.append("one of them is enough")
    fields = {"dependencies": join_dependencies(found)} if found else {}
    return Said(fields, ", ".join(untold))


_UNITS: Final = MappingProxyType(
    {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
)
_CLOCK: Final = r"(?:\d{1,2}:\d{2}(?::\d{2})?(?:\s*[ap]m)?|midnight|noon|fika|teatime|elevenses)"
_DATE: Final = r"(?:\d{6}|\d{1,2}[/.]\d{1,2}(?:[/.]\d{2}(?:\d{2})?)?|today|tomorrow)"
_ISO: Final = re.compile(r"\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}(?::\d{2})?)?")
_MOMENT: Final = re.compile(
    rf"(?:{_CLOCK}(?:[-T\s]*{_DATE})?|{_DATE}(?:[-T\s]*{_CLOCK})?|"
    r"\d{4}-\d{1,2}-\d{1,2}(?:T\d{1,2}(?::\d{1,2}){0,2})?)(?:\s*\+.*)?",
    re.IGNORECASE,
)


def _begin(value: str) -> Said:
    text = value.strip()
    if text.lower() == "now":
        return Said({"begin": "+0"})
    match = re.fullmatch(r"now\s*\+\s*(\d+)\s*([a-z]*)", text, re.IGNORECASE)
    if match is not None:
        unit = match[2].lower().removesuffix("s")
        return Said({"begin": f"+{int(match[1]) * _UNITS.get(unit or 'second', 1)}"})
    if _ISO.fullmatch(text):
        return Said({"begin": text if "T" in text else f"{text}T00:00"})
    if _MOMENT.fullmatch(text):
        return Said({}, "a time that depends on when the job is submitted")
    raise _refused(value, "a time such as now+3600 or 2026-11-30T12:00")


_SIGNALS: Final = frozenset(
    {
        *("HUP", "INT", "QUIT", "ABRT", "KILL", "ALRM", "TERM", "USR1", "USR2", "URG", "CONT"),
        *("STOP", "TSTP", "TTIN", "TTOU", "XCPU"),
    }
)


def _signal(value: str) -> Said:
    match = re.fullmatch(r"([RB]{1,2}:)?\s*(?:SIG)?(\w+?)\s*(?:@(\d+))?", value, re.I | re.ASCII)
    if match is None or not (match[2].upper() in _SIGNALS or match[2].isdecimal()):
        raise _refused(value, "a signal such as USR1@60 or B:TERM@120")
    said = f"{match[2].upper()}@{match[3] or 60}"
    untold = "it goes to the batch shell only" if "B" in (match[1] or "").upper() else ""
    return Said({"signal": said}, untold)


def _exclusive(value: str) -> Said:
    kind = value.lower()
    if kind in ("", "exclusive"):
        return Said({"exclusive": True})
    if kind == "oversubscribe":
        return Said({"exclusive": False})
    if kind in ("user", "mcs", "topo"):
        return Said({}, f"nodes are kept from jobs of another {kind}")
    raise _refused(value, "one of user, mcs, topo, oversubscribe")


def _open_mode(value: str) -> Said:
    if value[:1].lower() not in ("a", "t") or not value:
        raise _refused(value, "append or truncate")
    return Said({"append": value[0].lower() == "a"})


def _export(value: str) -> Said:
    names = _split_quoted(value)
    kinds = {name.upper() for name in names} & {"ALL", "NONE", "NIL"}
    variables = tuple(name for name in names if name.upper() not in ("ALL", "NONE", "NIL"))
    untold = "without the variables that Slurm sets" if "NIL" in kinds else ""
    return Said(
        {"export": "ALL" in kinds, **({"variables": variables} if variables else {})}, untold
    )


def _split_quoted(value: str) -> tuple[str, ...]:
    """Parts between commas; commas within quotes do not separate, and quotes go."""
    parts, quote = [""], ""
    for letter in value:
        if quote and letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        elif letter == "," and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part for part in parts if part)


def _hosts(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        if "/" in value:
            return Said({}, "the names are in a file")
        found = split_hosts(value)
        return Said({name: found} if found else {}, "" if found else "it has no value")

    return read


def _how_many(hosts: Sequence[str]) -> int:
    """How many hosts ``n[1-4,7]`` and the like are."""
    total = 0
    for host in hosts:
        product = 1
        for inner in re.findall(r"\[([^\]]*)\]", host):
            spans = [span.partition("-") for span in inner.split(",")]
            product *= sum(
                int(last) - int(first) + 1 if last.isdecimal() and first.isdecimal() else 1
                for first, _, last in spans
            )
        total += product
    return total


_READ: Final[Mapping[str, Callable[[str], Said]]] = MappingProxyType(
    {
        "account": _text("account"),
        "array": _array,
        "begin": _begin,
        "chdir": _text("workdir"),
        "clusters": _text("server"),
        "comment": _text("comment"),
        "constraint": _text("constraint"),
        "core-spec": _number,
        "cpus-per-gpu": _number,
        "cpus-per-task": _count("cores_per_task"),
        "dependency": _dependency,
        "error": _file("error"),
        "exclude": _hosts("without_hosts"),
        "exclusive": _exclusive,
        "export": _export,
        "gpus": _gpus("gpus"),
        "gpus-per-node": _gpus("gpus_per_node"),
        "gpus-per-socket": _gpus("gpus"),
        "gpus-per-task": _gpus("gpus_per_task"),
        "gres": _gres,
        "hold": _flag("hold", True),
        "input": _file("input"),
        "job-name": _text("name"),
        "licenses": _text("licenses"),
        "mail-type": _mail_type,
        "mail-user": _words("mail_to"),
        "mem": _memory("memory_per_node"),
        "mem-per-cpu": _memory("memory_per_core"),
        "mem-per-gpu": _memory("memory_per_gpu"),
        "mincpus": _count("cores_per_node"),
        "no-requeue": _flag("requeue", False),
        "nodelist": _hosts("hosts"),
        "nodes": _nodes,
        "ntasks": _count("tasks"),
        "ntasks-per-core": _number,
        "ntasks-per-gpu": _number,
        "ntasks-per-node": _count("tasks_per_node"),
        "ntasks-per-socket": _number,
        "open-mode": _open_mode,
        "output": _file("output"),
        "oversubscribe": _flag("exclusive", False),
        "partition": _words("queues"),
        "qos": _text("qos"),
        "requeue": _flag("requeue", True),
        "reservation": _text("reservation"),
        "signal": _signal,
        "sockets-per-node": _per_socket,
        "threads-per-core": _number,
        "time": _time,
        "time-min": _time_only_here,
        "tmp": _memory_only_here,
        "tres-per-task": _tres_per_task,
    }
)


# Reading lines ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of a directive line; `start` and `end` are its place in the line."""

    text: str
    line: int
    start: int
    end: int


@dataclass(slots=True)
class _Entry:
    """A directive as far as it is read."""

    line: int
    option: str
    value: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    untold: str = ""
    invalid: str = ""

    def directive(self, sets: frozenset[str] | None = None) -> Directive:
        return Directive(
            line=self.line,
            option=self.option,
            value=self.value,
            text=self.text,
            sets=frozenset(self.fields) if sets is None else sets,
            invalid=self.invalid,
            untold="" if sets else self.untold,
        )


@dataclass(slots=True)
class _Header:
    """The directive lines of a script, in words."""

    parts: list[list[_Word]] = field(default_factory=lambda: [[]])
    starts: list[_Entry] = field(default_factory=list["_Entry"])
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


def _directive_line(number: int, line: str, header: _Header) -> None:
    start = len(MARK if line.startswith(MARK) else _OLD_MARK)
    if re.match(r"\s*(?:het|pack)job(?:\s|$)", line[start:], re.IGNORECASE):
        text = line[start:].strip()
        header.starts.append(_Entry(number, "hetjob", "", text, {"components": ()}))
        header.parts.append([])
    words = header.parts[-1]
    if not re.search(r"[\\'\"#]", line[start:]):
        found = re.finditer(rf"[^{_SPACE}]+", line[start:])
        words += (
            _Word(each[0], number, start + each.start(), start + each.end())
            for each in found
            if each[0].lower() not in ("hetjob", "packjob")
        )
        return
    try:
        words += _quoted_words(line, start, number)
    except ValueError as error:
        header.invalid.append(Remark(line=number, text=line, why=str(error)))


def _quoted_words(line: str, at: int, number: int) -> Iterator[_Word]:
    """Words as sbatch divides a line: quotes, a backslash before a letter, ``#`` to the end."""
    while True:
        while at < len(line) and line[at] in _SPACE:
            at += 1
        word, end = _quoted_word(line, at)
        if not word:  # an empty word ends the line, too
            return
        if word.lower() not in ("hetjob", "packjob"):
            yield _Word(word, number, at, end)
        at = end


def _quoted_word(line: str, at: int) -> tuple[str, int]:
    """The word that begins at a place of a line, and where it ends."""
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


def _entries(words: Sequence[_Word], lines: Sequence[str]) -> list[_Entry]:
    return [_entry(given, words, lines) for given in getopt([word.text for word in words], OPTIONS)]


def _entry(given: Given, words: Sequence[_Word], lines: Sequence[str]) -> _Entry:
    first, last = words[given.first], words[given.last]
    text = given.text
    if first.line == last.line:
        text = lines[first.line - 1][first.start : last.end]
    if given.option is None:
        name = first.text.lstrip("-").partition("=")[0]
        why = given.why if name not in _OF_SRUN else f"an option of srun: sbatch has no `--{name}`"
        return _Entry(first.line, name, "", text, untold=f"sbatch refuses it: {why}", invalid=why)
    option = _ALIASES.get(given.option.name, given.option.name)
    entry = _Entry(first.line, option, given.value or "", text, invalid=given.why)
    return _with_meaning(entry)


def _with_meaning(entry: _Entry) -> _Entry:
    """Read the entry's value, unless it is refused already."""
    if not entry.invalid:
        read = _READ.get(entry.option)
        try:
            said = read(entry.value) if read else Said({}, "only Slurm has it")
            entry.fields = dict(said.fields)
            untold = said.untold if said.fields else _UNTOLD.get(entry.option, said.untold)
            entry.untold = untold
        except ValueError as error:
            entry.invalid = str(error)
    if entry.invalid:
        entry.untold = f"sbatch refuses it: {entry.invalid}"
    return entry


def _foreign(lines: Sequence[str], header: _Header) -> Iterator[_Entry]:
    """`#PBS` and `#BSUB` lines, which sbatch reads after its own."""
    for each in foreign_options(lines):
        mark = lines[each.line - 1].partition(" ")[0]
        if not each.option and not each.invalid:
            why = "sbatch passes over it"
        else:
            why = f"sbatch reads it, too, as --{each.option}={each.value}".removesuffix("=")
            entry = _Entry(each.line, each.option, each.value, each.text, invalid=each.invalid)
            yield _with_meaning(entry)
        if not header.command or each.line < header.command:
            header.numbers.add(each.line)
        if not each.invalid:
            header.remarks.append(Remark(line=each.line, text=f"{mark} {each.text}", why=why))


def _merge(entries: Sequence[_Entry], remarks: list[Remark]) -> dict[str, Any]:
    """The fields of all entries; of several with one option the last one counts."""
    last = {entry.option: entry for entry in entries if not entry.invalid}
    fields: dict[str, Any] = {}
    mail: dict[str, None] = {}
    for entry in entries:
        if entry.invalid:
            continue
        if entry.option == "mail-type":  # those add up
            mail |= dict.fromkeys(entry.fields["mail_on"])
        elif last[entry.option] is not entry:
            entry.fields = dict.fromkeys(last[entry.option].fields)
            entry.untold = "" if entry.fields else entry.untold
            continue
        fields |= entry.fields
    if mail:
        fields["mail_on"] = tuple(kind for kind in mail if kind != "none") or ("none",)
    _Together(last, fields).settle(remarks)
    return fields


class _Together:
    """What options say together: per GPU, per socket, the hosts that are named."""

    def __init__(self, last: Mapping[str, _Entry], fields: dict[str, Any]) -> None:
        self._last = last
        self._fields = fields

    def settle(self, remarks: list[Remark]) -> None:
        self._per_socket()
        fields, last = self._fields, self._last
        if "hosts" in fields and "nodes" not in fields:
            self._say("nodelist", hosts=fields["hosts"], nodes=_how_many(fields["hosts"]))
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
        entry = self._last[option]
        entry.untold = ""
        entry.fields = dict.fromkeys(said)
        self._fields.update(said)

    def _number(self, option: str) -> int:
        value = self._last[option].value if option in self._last else ""
        return int(value) if value.isdecimal() else 0

    def _per_socket(self) -> None:
        fields, last = self._fields, self._last
        sockets = self._number("sockets-per-node")
        if "gpus-per-socket" in last:
            count = last["gpus-per-socket"].fields["gpus"]
            fields.pop("gpus")
            if "gpus" in last:
                fields["gpus"] = last["gpus"].fields["gpus"]
            self._say("gpus-per-socket", gpus_per_node=count * (sockets or 1))
            if not sockets:
                untold = "per socket: how many sockets a node has is not said"
                last["gpus-per-socket"].untold = untold
        tasks = self._number("ntasks-per-socket")
        if sockets and tasks and "tasks_per_node" not in fields:
            self._say("ntasks-per-socket", tasks_per_node=tasks * sockets)
        if sockets and {"gpus-per-socket", "ntasks-per-socket"} & last.keys():
            last["sockets-per-node"].untold = ""
            last["sockets-per-node"].fields = {
                name: None
                for option in ("gpus-per-socket", "ntasks-per-socket")
                if option in last
                for name in last[option].fields
            }

    def _per_gpu(self) -> None:
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
        if least <= there:  # the tasks need as many anyway
            del self._fields["cores_per_node"]
            self._last["mincpus"].fields = {"cores_per_task": None}


_OF_MEMORY: Final = ("mem", "mem-per-cpu", "mem-per-gpu")


def _conflicts(entries: Sequence[_Entry]) -> Iterator[Remark]:
    found = {entry.option: entry for entry in entries if not entry.invalid}
    memory = [found[option] for option in _OF_MEMORY if option in found]
    if len(memory) > 1:
        last = max(memory, key=lambda entry: entry.line)
        why = "sbatch takes only one of --mem, --mem-per-cpu and --mem-per-gpu"
        yield Remark(line=last.line, text=last.text, why=why)
    if "nodelist" in found and "nodes" in found:
        hosts = _how_many(found["nodelist"].fields.get("hosts") or ())
        said = found["nodes"].fields
        most = said.get("most_nodes") or said.get("nodes") or hosts
        if hosts > most:
            entry = found["nodelist"]
            why = f"sbatch refuses it: {hosts} hosts are named, and --nodes is {most}"
            yield Remark(line=entry.line, text=entry.text, why=why)


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


def _quoted(text: str) -> str:
    """A word as sbatch's reading of a line gives it back."""
    if text and not re.search(rf"[{_SPACE}\"'\\#]", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _amount(count: int) -> str:
    """Bytes with the largest unit that says them; rounded up to KiB."""
    for unit, size in (("T", 2**40), ("G", 2**30), ("M", 2**20)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return f"{math.ceil(count / 2**10)}K" if count else "0"


class _Writer:
    """Writes a request, taking each field away as it is written: what remains is lost."""

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
        if join:
            error = None  # Slurm puts stderr into stdout's file unless --error names another
        elif error is None and join is False:
            error = in_folder("", "e", self._flat.request)
        for option, name in (("output", output), ("error", error), ("input", self._take("input"))):
            if name is None:
                continue
            if name.endswith("/"):
                name = in_folder(name, "e" if option == "error" else "o", self._flat.request)
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
        dependencies = self._take("dependencies")
        if dependencies:
            told = (":".join([each.kind, *each.jobs]) for each in dependencies)
            self._line("dependency", ",".join(told))
            if any(each.jobs for each in dependencies):
                self._notes.append(
                    "the ids in --dependency are those of the other scheduler's jobs"
                )
        if self._take("hold"):
            self._line("hold")
        requeue = self._take("requeue")
        if requeue is not None:
            self._line("requeue" if requeue else "no-requeue")
        self._plain("signal", "signal")

    def _rest(self) -> None:
        mail_on = self._take("mail_on")
        if mail_on:
            kinds = [kind.upper() for kind in mail_on]
            self._line("mail-type", ",".join(kinds))
        self._plain("mail_to", "mail-user")
        self._export()
        self._plain("constraint", "constraint")
        self._plain("hosts", "nodelist")
        self._plain("without_hosts", "exclude")
        self._plain("licenses", "licenses")
        self._plain("comment", "comment")
        other = self._take("other") or ()
        generic = [each for each in other if each.startswith("gres/")]
        if generic:
            told = (each.removeprefix("gres/").replace("=", ":") for each in generic)
            self._line("gres", ",".join(told))
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
    slots: bool = False

    def is_directive(self, line: str) -> bool:
        return line.startswith(MARK)

    def read(self, lines: Sequence[str]) -> Reading:
        header = _header(lines)
        if lines and not lines[0].startswith("#!"):
            why = "sbatch refuses a script whose first line does not begin with #!"
            header.invalid.append(Remark(line=1, text=lines[0], why=why))
        first, *more = header.parts
        entries = _entries(first, lines)
        if not any(entry.option == "ignore-pbs" for entry in entries):
            entries += _foreign(lines, header)
        remarks = list(header.remarks)
        header.invalid += _conflicts(entries)
        fields = _merge(entries, remarks)
        directives = [entry.directive() for entry in entries]
        if more:
            fields["components"] = tuple(_as_text(part, lines) for part in header.parts)
            others = frozenset({"components"})
            directives += (entry.directive(others) for entry in header.starts)
            for part in more:
                of_part = _entries(part, lines)
                header.invalid += _conflicts(of_part)
                directives += (entry.directive(others) for entry in of_part)
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
