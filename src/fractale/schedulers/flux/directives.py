"""`#FLUX:` lines: read as flux batch reads them, and written in a form that it reads back.

Sources: RFC 36 and flux-batch(1) of flux-core 0.88. Any characters except letters, digits and
``_`` may precede ``flux:`` or ``FLUX:``, but they must be the same on each line of a script.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast

from fractale.schedulers.flux.times import read_duration, read_limit, write_time
from fractale.schedulers.options import GivenOption, Option, OptionTable, Said, getopt
from fractale.schedulers.reading import Draft
from fractale.schedulers.request import (
    Dependency,
    DependencyKind,
    Request,
    Totals,
    flat,
    in_folder,
    join_dependencies,
    split_hosts,
    take_broken,
    write_name,
)
from fractale.schedulers.script import Directive, Reading, Remark, Written

MARK: Final = "#FLUX:"
_SENTINEL: Final = re.compile(r"([^\w]*)((?:flux|FLUX):)(.*)")

# name[:letter] of the options of flux batch 0.88, grouped by whether a value follows.
_WITH_VALUE: Final = """
    bank:B queue:q time-limit:t urgency job-name setopt:o setattr:S add-file dependency requires
    require begin-time env env-remove env-file rlimit input output error cwd flags signal conf
    broker-opts broker-opt nslots:n cores-per-slot:c gpus-per-slot:g nodes:N add-brokers
"""
_WITHOUT_VALUE: Final = """
    unbuffered:u label-io:l dry-run dry quiet list-plugins debug-emulate exclusive:x wrap
"""
_VALUE_ATTACHED: Final = "help dump"
_ALIASES: Final = MappingProxyType(
    {"require": "requires", "broker-opt": "broker-opts", "dry": "dry-run"}
)

_ABOUT: Final = {
    "dependency": "dependencies",
    "nodes": "nodes",
    "nslots": "tasks",
    "cores-per-slot": "cores_per_task",
    "gpus-per-slot": "gpus_per_task",
}


def _options() -> Iterator[Option]:
    for names, argument in (
        (_WITH_VALUE, "required"),
        (_WITHOUT_VALUE, "none"),
        (_VALUE_ATTACHED, "optional"),
    ):
        for each in names.split():
            name, _, letter = each.partition(":")
            yield Option(name, letter, cast("Any", argument))


OPTIONS: Final = OptionTable(_options())
_NAMES: Final = frozenset(option.name for option in OPTIONS)

_REASONS: Final = MappingProxyType(
    {
        "unbuffered": "how output is buffered belongs to Flux",
        "label-io": "labels before lines of output belong to Flux",
        "conf": "the configuration of the job's own Flux instance",
        "broker-opts": "options of the job's own Flux instance",
        "dump": "the archive of the job's own Flux instance",
        "add-brokers": "options of the job's own Flux instance",
        "wrap": "it belongs on the command line",
        **dict.fromkeys(
            ("dry-run", "quiet", "list-plugins", "debug-emulate", "help", "flags"),
            "it changes what flux batch itself does, not the job",
        ),
    }
)


# Reading values -----------------------------------------------------------------------------


def _refused(value: str, wanted: str) -> ValueError:
    return ValueError(f"`{value}` is not {wanted}")


def _count(name: str, least: int = 1) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        text = value.strip().removeprefix("+")
        if not (text.isascii() and text.isdecimal()) or int(text) < least:
            raise _refused(value, f"a whole number from {least} up")
        return Said({name: int(text)})

    return read


def _text(name: str) -> Callable[[str], Said]:
    return lambda value: Said({name: value} if value else {}, "" if value else "it has no value")


def _queue(value: str) -> Said:
    return Said({"queues": (value,)} if value else {}, "" if value else "it has no value")


def _time(value: str) -> Said:
    return Said({"seconds": read_limit(value)})


_MARKS: Final = MappingProxyType(
    {
        "id": "id",
        "jobid": "id",
        "name": "name",
        "node.id": "node",
        "node.name": "host",
        "task.rank": "task",
        "task.id": "task",
        "taskid": "task",
        "rank": "task",
    }
)


_TAG: Final = re.compile(r"\{\{([^{}]*)\}\}")


def _file(name: str) -> Callable[[str], Said]:
    def read(value: str) -> Said:
        untold: list[str] = []

        def mark(match: re.Match[str]) -> str:
            tag = match[1].strip()
            base = tag if tag in _MARKS else tag.rpartition(".")[0]  # {{id.dec}}, {{id.f58}}
            if base in _MARKS:
                return f"{{{{{_MARKS[base]}}}}}"
            untold.append(f"`{match[0]}` in it")
            return ""

        text = _TAG.sub(mark, value)
        if not text or "{{" in _TAG.sub("", value):
            return Said({}, "another scheduler cannot use this file name")
        return Said({name: text}, ", ".join(untold))

    return read


_DEPENDENCY: Final = re.compile(r"(afterany|afterok|afternotok|after|singleton):?(.*)")


def _dependency(value: str) -> Said:
    match = _DEPENDENCY.fullmatch(value)
    if value.startswith("begin-time:"):
        return Said({}, "a time in seconds since 1970")
    if match is None or (match[1] == "singleton") == bool(match[2]):
        return Said({}, "")
    job, _, options = match[2].partition("?")
    found = Dependency(kind=cast("DependencyKind", match[1]), jobs=(job,) if job else ())
    return Said({"dependencies": (found,)}, f"`{options}` of it" if options else "")


_ISO: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ]+(\d{2}:\d{2}(?::\d{2})?))?")


def _begin(value: str) -> Said:
    if value == "now":
        return Said({"begin": "+0"})
    if value.startswith("+"):
        seconds = read_duration(value[1:])
        return Said({"begin": f"+{math.ceil(seconds)}"})
    match = _ISO.fullmatch(value.strip())
    if match is not None and "T" not in value:
        return Said({"begin": f"{match[1]}T{match[2] or '00:00'}"})
    return Said({}, "a time that depends on when the job is submitted")


def _signal(value: str) -> Said:
    name, _, time = value.partition("@")
    seconds = read_limit(time) if time else 60
    if time and re.fullmatch(r"[\d.]+", time):
        seconds = read_duration(time)
    name = name.upper().removeprefix("SIG") or "USR1"
    if not re.fullmatch(r"[A-Z]+\d?|\d+", name) or math.isinf(seconds):
        raise _refused(value, "a signal such as USR1@60s")
    return Said({"signal": f"{name}@{math.ceil(seconds)}"})


def _urgency(value: str) -> Said:
    if value in ("hold", "0"):
        return Said({"hold": True})
    if value not in ("default", "expedite") and not (value.isdecimal() and int(value) <= 31):
        raise _refused(value, "an urgency from 0 to 31")
    return Said({}, "priorities of schedulers do not compare")


def _requires(value: str) -> Said:
    hosts = re.fullmatch(r"(-?)hosts?:([^\s()|&'\"]+)", value)
    if hosts is not None:
        return Said({"without_hosts" if hosts[1] else "hosts": split_hosts(hosts[2])})
    return Said({"constraint": value} if value else {}, "" if value else "it has no value")


def _env(value: str) -> Said:
    if value == "-*":
        return Said({"export": False})
    if value == "*":
        return Said({"export": True})
    if value.startswith(("-", "^")) or re.search(r"[*?\[]", value.partition("=")[0]):
        return Said({}, "a rule for several variables")
    name, equals, said = value.partition("=")
    plain = said.replace("$$", "")
    if "$" in plain or "{{" in plain:
        return Said({}, "a value that Flux puts other values into")
    return Said({"variables": (name + equals + said.replace("$$", "$"),)})


def _env_remove(value: str) -> Said:
    return _env(f"-{value}")


def _setopt(value: str) -> Said:
    key, _, mode = value.partition("=")
    if key == "output.mode" and mode in ("append", "truncate"):
        return Said({"append": mode == "append"})
    return Said({}, "an option of Flux's job shell")


def _setattr(value: str) -> Said:
    key, _, said = value.partition("=")
    if key == "user.comment" and said:
        return Said({"comment": said})
    return Said({}, "an attribute that only Flux has")


_READ: Final[Mapping[str, Callable[[str], Said]]] = MappingProxyType(
    {
        "bank": _text("account"),
        "begin-time": _begin,
        "cores-per-slot": _count("cores_per_task"),
        "cwd": _text("workdir"),
        "dependency": _dependency,
        "env": _env,
        "env-remove": _env_remove,
        "error": _file("error"),
        "exclusive": lambda _: Said({"exclusive": True}),
        "gpus-per-slot": _count("gpus_per_task", 0),
        "input": _file("input"),
        "job-name": _text("name"),
        "nodes": _count("nodes"),
        "nslots": _count("tasks"),
        "output": _file("output"),
        "queue": _queue,
        "requires": _requires,
        "setattr": _setattr,
        "setopt": _setopt,
        "signal": _signal,
        "time-limit": _time,
        "urgency": _urgency,
    }
)
_ADDING: Final = frozenset(
    {
        *("add-file", "begin-time", "broker-opts", "conf", "dependency", "env", "env-remove"),
        *("requires", "setattr", "setopt"),
    }
)
"""Options that may be repeated: each value counts."""


# Reading lines ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Header:
    """The directives of a script: the first line and the words of each."""

    directives: list[tuple[int, list[str]]] = field(default_factory=list[tuple[int, list[str]]])
    numbers: set[int] = field(default_factory=set[int])
    invalid: list[Remark] = field(default_factory=list[Remark])
    sentinel: str = ""
    closed: int = 0


_TRIPLE: Final = ('"' * 3, "'" * 3)


def _sentinel(line: str) -> re.Match[str] | None:
    return _SENTINEL.match(line) if "lux:" in line or "LUX:" in line else None


def _header(lines: Sequence[str]) -> _Header:
    header = _Header()
    block: _Block | None = None
    for number, line in enumerate(lines, 1):
        match = _sentinel(line)
        if match is None:
            if block is not None:
                why = "flux batch refuses it: the triple quote is not closed"
                header.invalid.append(Remark(line=block.line, text=block.first.strip(), why=why))
                block = None
            if header.sentinel and not header.closed and line.strip():
                prefix = header.sentinel[:-5].rstrip()
                header.closed = 0 if line.startswith(prefix) else number
            continue
        header.numbers.add(number)
        if header.closed:
            why = f"flux batch refuses a directive below the first command (line {header.closed})"
            header.invalid.append(Remark(line=number, text=line, why=why))
            continue
        sentinel, value = match[1] + match[2], match[3]
        header.sentinel = header.sentinel or sentinel
        if sentinel != header.sentinel:
            why = f"flux batch refuses it: earlier directives begin with `{header.sentinel}`"
            header.invalid.append(Remark(line=number, text=line, why=why))
        try:
            block = _line(number, value, block, header)
        except ValueError as error:
            header.invalid.append(Remark(line=number, text=line, why=f"flux batch: {error}"))
    return header


@dataclass(slots=True)
class _Block:
    """An open triple quote: its lines so far, without the first line's indent."""

    line: int
    first: str
    quote: str
    indent: str
    lines: list[str]


def _line(number: int, value: str, block: _Block | None, header: _Header) -> _Block | None:
    """Read the text after a sentinel. Returns the block that is open after it, if any."""
    value = _inline(value)
    if block is not None:
        text = value.removeprefix(block.indent)
        if not value.endswith(block.quote):
            block.lines.append(text)
            return block
        quoted = block.first + shlex.quote("\n".join([*block.lines, text[:-3]]))
        if block.quote in quoted:
            raise ValueError("the triple quote is not closed as it was opened")
        _add(block.line, quoted, header)
        return None
    if value.endswith(_TRIPLE):
        indent = value[: len(value) - len(value.lstrip())]
        return _Block(number, value[:-3].removeprefix(indent), value[-3:], indent, [])
    _add(number, value, header)
    return None


def _add(number: int, value: str, header: _Header) -> None:
    words = _split(value)
    if words and not words[0].startswith("-"):
        raise ValueError(f"`{words[0]}` is not an option")
    if words:
        header.directives.append((number, words))


_OPENED: Final = re.compile(r"((?:[\"']){3}).")
_NOT_PLAIN: Final = re.compile(r"['\"\\#();<>|&]")


def _inline(value: str) -> str:
    """The value with triple-quoted text in plain quotes."""
    if any(value.count(quote) and value.count(quote) % 2 == 0 for quote in _TRIPLE):
        return re.sub(r"((?:[\"']){3})(.*)\1", lambda match: shlex.quote(match[2]), value)
    if _OPENED.search(value):
        raise ValueError("the triple quote is not closed")
    return value


def _split(value: str) -> list[str]:
    if not _NOT_PLAIN.search(value):
        return value.split()
    lexer = shlex.shlex(value, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.escapedquotes = "\"'"
    try:
        return list(lexer)
    except ValueError as error:
        raise ValueError(str(error).lower()) from None


_LETTER: Final = re.compile(r"^-([A-Za-z])=")


def _given(number: int, words: Sequence[str], remarks: list[Remark]) -> Iterator[GivenOption]:
    """The options among words, as argparse reads them; flux batch uses argparse.

    argparse also reads ``-n=4``, and rejects a value that looks like an option. It stops at the
    first word that is not an option: that word begins a command, which flux batch ignores.
    """
    plain = [_LETTER.sub(r"-\1", word) for word in words]
    for given in getopt(plain, OPTIONS):
        if given.option is None and (given.why.startswith("is after") or given.text[:1] != "-"):
            rest = " ".join(words[given.first :])
            why = "flux batch passes over it: options come before it"
            remarks.append(Remark(line=number, text=rest, why=why))
            return
        if given.last > given.first and re.match(r"-[^\d\s][^\s]*$", given.value or ""):
            why = f"`{words[given.first]}` needs a value, and `{given.value}` looks like an option"
            given = dataclasses.replace(given, value=None, why=why)
        yield given


def _draft(line: int, given: GivenOption) -> Draft:
    if given.option is None:
        name = given.text.lstrip("-").partition("=")[0]
        return Draft(line=line, option=name, text=given.text, invalid=given.why)
    option = _ALIASES.get(given.option.name, given.option.name)
    value = given.value or ""
    draft = Draft(line=line, option=option, value=value, text=given.text, invalid=given.why)
    draft.read("flux batch", _READ, _REASONS)
    written = given.text.removeprefix("--").partition("=")[0].partition(" ")[0]
    if given.text.startswith("--") and written not in _NAMES and not draft.invalid:
        draft.invalid = f"flux batch accepts no abbreviation: write --{given.option.name}"
    return draft


def _directive(draft: Draft) -> Directive:
    """The directive. An abbreviation is refused, but its fields still have its meaning."""
    found = draft.done("flux batch")
    if not (draft.invalid and draft.fields):
        return found
    return dataclasses.replace(found, untold="; ".join(draft.untold))


def _merge(drafts: Sequence[Draft]) -> dict[str, Any]:
    """The fields of all drafts. If an option is repeated, the last one counts."""
    last = {draft.option: draft for draft in drafts}
    fields: dict[str, Any] = {}
    for draft in drafts:
        if draft.option in _ADDING or last[draft.option] is draft:
            _add_fields(fields, draft)
        else:
            draft.replace(last[draft.option])
    if "variables" in fields and "export" not in fields:
        fields["export"] = True  # Flux exports all variables unless a rule removes them
        for draft in drafts:
            if "variables" in draft.fields:
                draft.fields["export"] = True
    if "nodes" in fields and "tasks" not in fields:
        fields["exclusive"] = True  # one slot per node, and the job has the nodes to itself
        last["nodes"].fields["exclusive"] = True
    if "output" in fields and "error" not in fields:
        fields["join"] = True
        last["output"].fields["join"] = True
    return fields


def _add_fields(fields: dict[str, Any], draft: Draft) -> None:
    for name, value in draft.fields.items():
        old = fields.get(name)
        if name == "dependencies":
            value = join_dependencies((*(old or ()), *value))
        elif name == "variables":
            value = (*(old or ()), *value)
        elif name == "constraint" and old is not None:
            value = f"{old} {value}"
        elif name == "hosts" and old is not None:
            draft.untold = ["one of several lists of hosts"]
        elif name == "without_hosts":
            value = (*(old or ()), *value)
        elif name == "export" and not value:
            fields.pop("variables", None)
        fields[name] = value


def _size_problems(fields: Mapping[str, Any]) -> Iterator[str]:
    nodes, slots = fields.get("nodes"), fields.get("tasks")
    if nodes is None and slots is None:
        yield "neither --nodes nor --nslots is set: flux batch needs one of them"
    if nodes and slots and nodes > slots:
        yield f"--nodes={nodes} is more than --nslots={slots}"
    if fields.get("exclusive") and nodes is None:
        yield "--exclusive needs --nodes"


# Writing ------------------------------------------------------------------------------------

_TO_MARKS: Final = MappingProxyType(
    {
        "id": "{{id}}",
        "array_id": "{{id}}",
        "name": "{{name}}",
        "host": "{{node.name}}",
        "node": "{{node.id}}",
        "task": "{{task.rank}}",
    }
)
_NO_OPTION: Final = MappingProxyType(
    {
        "array": "flux batch has no job arrays: submit with `flux bulksubmit --cc=INDICES`",
        "components": "parts of a heterogeneous job are not translated",
        "gpu_kind": "flux batch asks for GPUs without a kind; a property of nodes may say it",
        "licenses": "Flux has no licenses",
        "mail_on": "Flux sends no mail",
        "mail_to": "Flux sends no mail",
        **dict.fromkeys(
            ("memory", "memory_per_node", "memory_per_core", "memory_per_gpu"),
            "Flux does not schedule memory",
        ),
        "qos": "Flux has queues and banks, no QOS",
        "requeue": "Flux does not run a job again",
        "reservation": "Flux has no reservations",
        "server": "it is a server or cluster of another scheduler",
        "shell": "the first line of a script says its shell",
    }
)


_SPECIAL: Final = re.compile(r"[\s'\"#\\();<>|&]")


def _quoted(text: str) -> str:
    """A value in the quoting that Flux's parser reads back.

    Each quote in it is escaped separately: Flux reads any three in a row as a triple quote.
    """
    if text and not _SPECIAL.search(text):
        return text
    if re.search("['\"]", text):
        return _SPECIAL.sub(lambda match: f"\\{match[0]}", text)
    escaped = text.replace("\\", "\\\\")
    return f"'{escaped}'"


@dataclass(frozen=True, slots=True)
class _Slots:
    """Slots of equal size."""

    count: int
    cores: int
    gpus: int


def _slots(tasks: int, cores: int, gpus: int, nodes: int | None) -> _Slots:
    """One slot per task if everything divides evenly; else the slots that ask for the least extra.

    Args:
        cores, gpus: Totals of the job.
    """
    if cores % tasks == 0 and gpus % tasks == 0 and (nodes or 1) <= tasks:
        return _Slots(tasks, cores // tasks, gpus // tasks)
    counts = {
        each for each in range(1, min(gpus or cores, 4096) + 1) if (gpus or cores) % each == 0
    }
    if nodes:
        counts = {each for each in counts if each % nodes == 0} or {nodes}

    def beyond(count: int) -> tuple[int, int, int]:
        return (-(-gpus // count) * count - gpus, -(-cores // count) * count - cores, -count)

    best = min(counts, key=beyond)
    return _Slots(best, -(-cores // best), -(-gpus // best))


_IN_SLOTS: Final = (
    *("tasks", "tasks_per_node", "cores_per_task", "cores_per_node"),
    *("gpus", "gpus_per_node", "gpus_per_task"),
)


def _amount(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class _Writer:
    """Writes a request. It removes each field that it writes: the remaining fields are lost."""

    def __init__(self, request: Request) -> None:
        flattened = flat(request)
        self._request = flattened.request
        self._left = self._request.said()
        self._lines: list[str] = []
        self._lost = {**flattened.lost, **take_broken(self._left)}
        self._notes = list(flattened.notes)

    def written(self) -> Written:
        self._sizes()
        self._when()
        self._names()
        self._files()
        self._where()
        self._environment()
        other = self._take("other")
        if other:
            self._lost["other"] = f"flux batch has no option for {', '.join(other)}"
        for name in self._left:
            self._lost[name] = _NO_OPTION.get(name, "flux batch has no option for it")
        return Written(lines=tuple(self._lines), lost=self._lost, notes=tuple(self._notes))

    def _take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def _line(self, option: str, value: object = None) -> None:
        self._lines.append(f"--{option}" + ("" if value is None else f"={_quoted(str(value))}"))

    def _plain(self, name: str, option: str) -> None:
        value = self._take(name)
        if value is not None:
            self._line(option, value)

    def _names(self) -> None:
        queues = self._take("queues")
        if queues:
            self._line("queue", queues[0])
            if len(queues) > 1:
                self._lost["queues"] = f"flux batch accepts one queue: {queues[0]} is written"
        self._plain("name", "job-name")
        self._plain("account", "bank")

    def _files(self) -> None:
        output, error, join = self._take("output"), self._take("error"), self._take("join")
        if join:  # Flux joins them unless --error names another file
            if error is not None:
                self._lost["error"] = "stderr goes into stdout's file"
            error = None
        elif error is None and join is False:
            error = in_folder("", "e", array=False)
        for option, name in (("output", output), ("error", error), ("input", self._take("input"))):
            if name is None:
                continue
            if name.endswith("/"):
                name = in_folder(name, "e" if option == "error" else "o", array=False)
            text, missing = write_name(name, _TO_MARKS)
            if missing:
                self._lost[option] = f"Flux has no mark for {', '.join(missing)}: left out"
            self._line(option, text)
        append = self._take("append")
        if append is not None:
            self._line("setopt", f"output.mode={'append' if append else 'truncate'}")
        self._plain("workdir", "cwd")

    def _sizes(self) -> None:
        request, totals = self._request, self._request.totals()
        for name in _IN_SLOTS:
            self._take(name)
        nodes, exclusive = self._nodes(totals), self._take("exclusive")
        if nodes is None and exclusive and totals.tasks == 1:
            nodes = 1
        if nodes is not None:
            self._line("nodes", nodes)
        untold = request.tasks is None and request.tasks_per_node is None
        if untold and exclusive and nodes and not totals.gpus and totals.cores == nodes:
            return  # whole nodes, with any number of cores and GPUs
        slots = _slots(totals.tasks, totals.cores, totals.gpus, nodes)
        self._line("nslots", slots.count)
        if slots.cores > 1 or request.cores_per_task:
            self._line("cores-per-slot", slots.cores)
        if slots.gpus:
            self._line("gpus-per-slot", slots.gpus)
        self._exclusive(exclusive, nodes)
        self._tell_slots(slots, totals.tasks, totals.cores, totals.gpus)

    def _nodes(self, totals: Totals) -> int | None:
        nodes, most = self._take("nodes"), self._take("most_nodes")
        if nodes is None and (self._request.tasks_per_node or most is not None):
            nodes = totals.nodes or 1
        if most is not None:
            self._lost["most_nodes"] = f"flux batch accepts one number of nodes: {nodes}"
        return cast("int | None", nodes)

    def _exclusive(self, exclusive: bool | None, nodes: int | None) -> None:
        if exclusive and nodes is not None:
            self._line("exclusive")
        elif exclusive:
            self._lost["exclusive"] = "flux batch needs the number of nodes for whole nodes"
        elif exclusive is False:
            self._notes.append("nodes may be shared: for Flux they are unless --exclusive is given")

    def _tell_slots(self, slots: _Slots, tasks: int, cores: int, gpus: int) -> None:
        if slots.count != tasks:
            each = _amount(slots.cores, "core")
            each += f" and {_amount(slots.gpus, 'GPU')}" if slots.gpus else ""
            nodes = self._request.totals().nodes or (1 if slots.count == 1 else None)
            start = f"start them with `flux run -n{tasks}`"
            if slots.gpus and nodes:
                start = f"start them with `flux run -N{nodes} -n{tasks} --exclusive`"
            elif slots.gpus:
                start = f"`flux run -n{tasks}` gives them no GPU"
            note = f"the tasks, {tasks}, get {_amount(slots.count, 'slot')} of {each}: {start}"
            self._notes.append(note)
        if slots.count * slots.cores != cores:
            self._notes.append(f"{slots.count * slots.cores} cores are asked for, not {cores}")
        if slots.count * slots.gpus != gpus:
            why = f"{gpus} do not divide over the nodes: {slots.count * slots.gpus} are asked for"
            self._lost["gpus"] = why

    def _when(self) -> None:
        seconds = self._take("seconds")
        if seconds is not None:
            self._line("time-limit", write_time(seconds))
        begin = self._take("begin")
        if begin is not None:
            text = f"{begin}s" if begin.startswith("+") else begin.replace("T", " ")
            self._line("begin-time", text)
        self._dependencies(self._take("dependencies") or ())
        if self._take("hold"):
            self._line("urgency", "0")
        signal = self._take("signal")
        if signal is not None:
            name, _, seconds = signal.partition("@")
            self._line("signal", f"{name if name.isdecimal() else f'SIG{name}'}@{seconds}s")
        if self._left.get("requeue") is False:
            self._take("requeue")
            self._notes.append("the job is not run again: Flux never does that")

    def _dependencies(self, dependencies: Sequence[Dependency]) -> None:
        for each in dependencies:
            if each.kind == "aftercorr":
                self._lost["dependencies"] = "Flux has no dependency of the kind aftercorr"
            elif each.kind == "singleton":
                self._line("dependency", "singleton")
            else:
                for job in each.jobs:
                    self._line("dependency", f"{each.kind}:{job}")
        if any(each.jobs for each in dependencies):
            self._notes.append("the ids in --dependency are those of the other scheduler's jobs")

    def _where(self) -> None:
        for name, sign in (("hosts", ""), ("without_hosts", "-")):
            hosts = self._take(name)
            if hosts:
                self._line("requires", f"{sign}hosts:{','.join(hosts)}")
        constraint = self._take("constraint")
        if constraint is not None and re.fullmatch(r"[\w.+@:-]+(?:[&|][\w.+@:-]+)*", constraint):
            self._line("requires", constraint)
            self._notes.append(f"`{constraint}` must be a property of the site's nodes")
        elif constraint is not None:
            self._lost["constraint"] = "the words of another scheduler: see flux batch --requires"
        comment = self._take("comment")
        if comment is not None:
            self._line("setattr", f"user.comment={comment}")

    def _environment(self) -> None:
        export = self._take("export")
        if export is not None:
            self._line("env", "*" if export else "-*")
        for variable in self._take("variables") or ():
            if "{{" in variable:
                self._lost["variables"] = f"Flux would replace the marks in `{variable}`"
            else:
                name, equals, value = variable.partition("=")
                self._line("env", name + equals + value.replace("$", "$$"))


# The dialect --------------------------------------------------------------------------------


_DEFAULTS: Final = Request(join=True, append=False, export=True, requeue=True)


@dataclass(frozen=True, slots=True)
class _Flux:
    name: str = "flux"
    title: str = "Flux"
    mark: str = MARK
    defaults: Request = _DEFAULTS
    guard: str = ""
    slots: bool = True
    against_dos: str = ""

    def is_directive(self, line: str) -> bool:
        return _sentinel(line) is not None

    def about(self, directive: Directive) -> str:
        return _ABOUT.get(directive.option, "")

    def read(self, lines: Sequence[str]) -> Reading:
        header = _header(lines)
        if lines and not lines[0].startswith("#!"):
            why = "flux batch refuses a script whose first line does not begin with #!"
            header.invalid.append(Remark(line=1, text=lines[0], why=why))
        remarks: list[Remark] = []
        drafts = [
            _draft(line, given)
            for line, words in header.directives
            for given in _given(line, words, remarks)
        ]
        fields = _merge(drafts)
        problems = (Remark(line=0, text="", why=why) for why in _size_problems(fields))
        return Reading(
            directives=tuple(map(_directive, drafts)),
            lines=frozenset(header.numbers),
            request=Request(**fields),
            invalid=(*header.invalid, *problems),
            remarks=tuple(remarks),
        )

    def write(self, request: Request) -> Written:
        return _Writer(request).written()


DIALECT: Final = _Flux()
