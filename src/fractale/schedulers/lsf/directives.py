"""The directives of LSF: `#BSUB` lines, as bsub reads them.

bsub reads them in the whole script, also below commands. Sources: "job_script" in IBM's reference
of bsub has one below a command, and parseScript in cmd.sub.c of OpenLava (from LSF's own code)
reads all lines. The rules are:

- Blanks may precede the mark.
- A line without an option after its mark is a comment.
- A word that begins with ``#`` ends the options.
- A backslash at the end continues a line.
- All lines together are one list of options.
- Names have one dash and one or more letters; a value may follow a one-letter name directly.
- Variables are not replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from fractale.schedulers.lsf.requirements import (
    Required,
    read_gpu,
    read_required,
    read_size,
    write_size,
)
from fractale.schedulers.lsf.times import read_time, write_time
from fractale.schedulers.reading import (
    Draft,
    Gathered,
    contradictions,
    events,
    joined,
    listed,
    needed,
    quoted,
    rounded,
    split_words,
    whole,
)
from fractale.schedulers.request import (
    ALL_MEMORY,
    SIZES,
    Array,
    Chunk,
    Dependency,
    DependencyKind,
    Request,
    flat,
)
from fractale.schedulers.script import Directive, Reading, Remark, Written

_MARK: Final = re.compile(r"\s*#BSUB\s*(?=-)")
_SPACED: Final = re.compile(r"\s*#\s+BSUB\s*-")

_WITH_VALUE: Final = frozenset(
    {
        *("a", "alloc_flags", "app", "b", "C", "c", "clusters", "cn_cu", "cn_mem"),
        *("core_isolation", "csm", "cwd", "D", "data", "datagrp", "E", "Ep", "e", "eo", "env"),
        *("eptl", "ext", "extsched", "F", "f", "freq", "G", "g", "gpu", "hostfile", "i", "is"),
        *("J", "Jd", "jobaff", "jsdl", "jsdl_strict", "json", "jsm", "k", "L", "Lp", "ln_mem"),
        *("ln_slots", "M", "m", "mig", "n", "network", "nnodes", "notify", "o", "oo", "outdir"),
        *("P", "p", "pack", "ptl", "Q", "q", "R", "rcacct", "rnc", "S", "s", "sla", "smt", "sp"),
        *("stage", "step_cgroup", "T", "t", "ti", "U", "u", "v", "W", "We", "w", "wa", "wt"),
        *("yaml", "jm", "mcn", "hbm", "cu"),
    }
)
_SWITCHES: Final = frozenset(
    {
        *("ar", "B", "datachk", "H", "h", "hl", "I", "Ip", "IS", "ISp", "ISs", "Is", "IX", "K"),
        *("N", "Ne", "r", "rn", "tty", "ul", "V", "x", "XF", "Zs"),
    }
)

_DEPENDENCIES: Final[dict[str, DependencyKind]] = {
    "done": "afterok",
    "exit": "afternotok",
    "ended": "afterany",
    "post_done": "afterok",
    "started": "after",
}
_NAMES: Final = {"afterok": "done", "afternotok": "exit", "afterany": "ended", "after": "started"}

_ABOUT: Final = {"w": "dependencies", "n": "tasks", "nnodes": "nodes", "gpu": "gpus"}
_COMPOUND: Final = re.compile(r"\*\s*\{|\bspan\[")


class LsfDialect:
    """IBM Spectrum LSF, Platform LSF and OpenLava."""

    name = "lsf"
    title = "LSF"
    mark = "#BSUB"
    defaults = Request(join=True, append=True, export=True, requeue=False)
    slots = False
    guard = ""
    against_dos = ""

    def is_directive(self, line: str) -> bool:
        return "#BSUB" in line and bool(_MARK.match(line))

    def about(self, directive: Directive) -> str:
        value = directive.value
        if directive.option == "J":
            return "array" if "[" in value else ""
        if directive.option == "R":
            return "gpus" if "gpu" in value else "chunks" if _COMPOUND.search(value) else ""
        return _ABOUT.get(directive.option, "")

    def read(self, lines: Sequence[str]) -> Reading:
        return _Reader(lines).reading()

    def write(self, request: Request) -> Written:
        return _Writer(request).written()


DIALECT: Final = LsfDialect()


class _Reader:
    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._numbers: set[int] = set()
        self._found = Gathered()
        self._seen: dict[str, Draft] = {}
        self._required: list[tuple[Draft, Required]] = []
        self._appends: dict[str, bool] = {}

    def reading(self) -> Reading:
        for number, text in self._directives():
            self._line(number, text)
        self._settle()
        return self._found.reading("bsub", self._numbers)

    def _directives(self) -> Iterator[tuple[int, str]]:
        number, last, passed, late = 0, len(self._lines), False, False
        while number < last:
            line = self._lines[number]
            number += 1
            match = _MARK.match(line) if "#BSUB" in line else None
            if match is None:
                bare = line.lstrip()
                passed = passed or bool(bare and not bare.startswith("#"))
                if "BSUB" in line and _SPACED.match(line):
                    why = "a comment for LSF's reference; some releases of bsub read it"
                    self._found.remarks.append(Remark(line=number, text=bare, why=why))
                continue
            if passed and not late:
                late = True
                why = "bsub reads it, although it is below the first command"
                self._found.remarks.append(Remark(line=number, text=line.strip(), why=why))
            first = number
            text, number = joined(self._lines, first, line[match.end() :])
            self._numbers.update(range(first, number + 1))
            yield first, text

    def _line(self, number: int, text: str) -> None:
        words, unclosed = split_words(text, comments=True, escapes=False)
        if unclosed:
            why = f"the quote {unclosed} is not closed: read to the end of the line"
            self._found.remarks.append(Remark(line=number, text=text.strip(), why=why))
        at = 0
        while at < len(words):
            word = words[at]
            at += 1
            name = word[1:]
            if not word.startswith("-") or not name:
                why = "it is not an option: bsub may stop here, and ignore the options below"
                self._found.remarks.append(Remark(line=number, text=word, why=why))
            elif name in _WITH_VALUE:
                if at == len(words):
                    draft = self._found.draft(number, name, "", word)
                    draft.invalid = f"`{word}` needs a value"
                    continue
                self._option(number, name, words[at], f"{word} {words[at]}")
                at += 1
            elif name in _SWITCHES:
                self._option(number, name, "", word)
            elif name[0] in _WITH_VALUE:
                self._option(number, name[0], name[1:], word)
            else:
                draft = self._found.draft(number, word, "", word)
                draft.invalid = f"bsub has no option `{word}`"

    def _option(self, number: int, name: str, value: str, text: str) -> None:
        draft = self._found.draft(number, name, value, text)
        self._found.again(self._seen.get(name), draft)
        self._seen[name] = draft
        handler = _HANDLERS.get(name)
        try:
            if handler:
                if name in _WITH_VALUE:
                    needed(name, value)
                handler(self, draft, value.strip())
            else:
                draft.untold.append(_UNTOLD.get(name, f"bsub's option {name}"))
        except ValueError as error:
            draft.invalid = str(error)
        if "$" in value and name not in ("E", "Ep", "env"):
            self._found.remark(draft, "bsub does not replace variables in directives")

    # options

    def name(self, draft: Draft, value: str) -> None:
        match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]*)\](?:%(\S+))?", value)
        if match is None:
            if "[" in value and not re.search(r"\$|\{", value):
                draft.sets("array")
                raise ValueError(f"`{value}` is not an array such as name[1-10]")
            if "{{" in value:
                draft.untold.append("the name, which contains `{{`")
                return
            self._found.set(draft, name=value)
            return
        draft.sets("array")
        most = f"%{match[3]}" if match[3] else ""
        array = Array.parse(match[2].replace(" ", "") + most)
        if array.indices[0] < 1:
            raise ValueError(f"`{value}`: LSF counts the elements of an array from 1")
        self._found.set(draft, name=match[1] or None, array=array)

    def comment(self, draft: Draft, value: str) -> None:
        del value
        self._found.set(draft, comment=draft.value)  # keeps its blanks

    def tasks(self, draft: Draft, value: str) -> None:
        draft.sets("tasks")
        least, comma, most = value.partition(",")
        tasks = whole(least.strip(), "tasks")
        if comma and whole(most.strip(), "tasks", tasks) > tasks:
            draft.untold.append(f"up to {most.strip()} tasks")
        self._found.set(draft, tasks=tasks)

    def nodes(self, draft: Draft, value: str) -> None:
        draft.sets("nodes")
        # Whole nodes ("easy mode" of CSM): the job gets all of their cores and GPUs.
        self._found.set(draft, nodes=whole(value, "nodes"), exclusive=True)

    def require(self, draft: Draft, value: str) -> None:
        required = read_required(value)
        draft.untold.extend(required.untold)
        if required == Required():
            draft.untold.append("a requirement of nothing")
        if any(each.startswith("alternative") for each in required.untold):
            draft.sets("chunks")
        self._required.append((draft, required))

    def gpu(self, draft: Draft, value: str) -> None:
        draft.sets("gpus")
        required = read_gpu(value)
        draft.untold.extend(required.untold)
        self._required.append((draft, required))

    def time(self, draft: Draft, value: str) -> None:
        limit, slash, host = value.partition("/")
        self._found.set(draft, seconds=read_time(limit))
        if slash:
            draft.untold.append(f"the time is that of the host {host}")

    def memory_limit(self, draft: Draft, value: str) -> None:
        read_size(value.rstrip("!"), "K")  # settled after all options: it depends on `-R`

    def queue(self, draft: Draft, value: str) -> None:
        self._found.set(draft, queues=tuple(value.split()))

    def account(self, draft: Draft, value: str) -> None:
        self._found.set(draft, account=value)

    def keep(self, draft: Draft, value: str) -> None:
        draft.value = value  # settled after all options

    def reservation(self, draft: Draft, value: str) -> None:
        self._found.set(draft, reservation=value)

    def begin(self, draft: Draft, value: str) -> None:
        parts = value.split(":")
        if not 2 <= len(parts) <= 5 or not all(re.fullmatch(r"[0-9]{1,4}", p) for p in parts):
            raise ValueError(
                f"`{value}` is not a time of the form [[[year:]month:]day:]hour:minute"
            )
        if int(parts[-1]) > 59 or int(parts[-2]) > 23:
            raise ValueError(f"`{value}` is not a time of a day")
        if len(parts) < 5:
            draft.sets("begin")
            draft.untold.append("when the job may start: the next such time")
            return
        year, month, day, hour, minute = map(int, parts)
        self._found.set(draft, begin=f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}")

    def output(self, draft: Draft, value: str) -> None:
        self._file(draft, "output", value)

    def error(self, draft: Draft, value: str) -> None:
        self._file(draft, "error", value)

    def input(self, draft: Draft, value: str) -> None:
        self._file(draft, "input", value)

    def _file(self, draft: Draft, field: str, value: str) -> None:
        if "{{" in value:
            draft.untold.append("the name of the file")
            return
        self._found.set(draft, **{field: value.replace("%J", "{{id}}").replace("%I", "{{index}}")})
        if field != "input":
            self._appends[field] = draft.option in ("o", "e")

    def workdir(self, draft: Draft, value: str) -> None:
        if "%" in value or "{{" in value:
            draft.untold.append("the directory, with the job's id")
        else:
            self._found.set(draft, workdir=value)

    def mail(self, draft: Draft, value: str) -> None:
        del value
        event = {"B": "begin", "N": "end", "Ne": "fail"}[draft.option]
        on = self._found.fields.get("mail_on", ())
        self._found.set(draft, mail_on=events((*on, event)))

    def mail_to(self, draft: Draft, value: str) -> None:
        self._found.set(draft, mail_to=tuple(filter(None, re.split(r"[\s,;]+", value))))

    def hold(self, draft: Draft, value: str) -> None:
        del value
        self._found.set(draft, hold=True)

    def requeue(self, draft: Draft, value: str) -> None:
        del value
        self._found.set(draft, requeue=draft.option == "r")

    def exclusive(self, draft: Draft, value: str) -> None:
        del value
        self._found.set(draft, exclusive=True)

    def environment(self, draft: Draft, value: str) -> None:
        items = [item.strip() for item in re.findall(r"""((?:[^,"']|"[^"]*"|'[^']*')+)""", value)]
        if items and items[0] in ("all", "none"):
            self._found.set(draft, export=items.pop(0) == "all")
        draft.untold.extend(f"without {item[1:]}" for item in items if item.startswith("~"))
        variables = [re.sub(r"[\"']", "", item) for item in items if not item.startswith("~")]
        if not all(re.match(r"[A-Za-z_]\w*(=|$)|\$", each) for each in variables):
            raise ValueError(f"`-env {value}` is not a list such as all, A=1")
        self._found.set(draft, variables=tuple(variables))

    def depend(self, draft: Draft, value: str) -> None:
        """``done(1) && ended("prep*")``."""
        draft.sets("dependencies")
        found: list[Dependency] = []
        for term in re.split(r"&&", value):
            match = re.fullmatch(r"""\s*(?:(\w+)\s*\(\s*)?["']?([^()"'|,]+?)["']?\s*\)?\s*""", term)
            kind = match and _DEPENDENCIES.get(match[1] or "done")
            if match is None or kind is None or "!" in term or match[2].startswith("$"):
                draft.untold.append(f"waits for {term.strip()}")
            elif match[2].endswith("[*]") and kind == "afterok":
                found.append(Dependency(kind="aftercorr", jobs=(match[2][:-3],)))
            else:
                found.append(Dependency(kind=kind, jobs=(match[2],)))
        merged: dict[DependencyKind, tuple[str, ...]] = {}
        for each in found:
            merged[each.kind] = merged.get(each.kind, ()) + each.jobs
        dependencies = tuple(Dependency(kind=kind, jobs=jobs) for kind, jobs in merged.items())
        self._found.set(draft, dependencies=dependencies)

    def _settle(self) -> None:
        self._settle_sizes()
        self._settle_memory()
        found, seen, fields = self._found, self._seen, self._found.fields
        group = seen.get("G")
        if group and "account" in fields:
            group.untold.append("the group of users")
        elif group:
            found.set(group, account=group.value)
        self._settle_hosts()
        self._settle_files()
        shell = seen.get("L")
        if shell:
            first = self._lines[0] if self._lines else ""
            program = first[2:].split()[:1] if first.startswith("#!") else []
            if program in ([], [shell.value]):
                found.set(shell, shell=shell.value)
            else:
                shell.untold.append("the shell whose profile is read")
        self._settle_signal()

    def _settle_hosts(self) -> None:
        hosts = self._seen.get("m")
        if hosts is None:
            return
        names = hosts.value.split()
        plain = all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)
        if plain and len(names) in (1, self._found.fields.get("nodes")):
            self._found.set(hosts, hosts=tuple(names))
            self._found.remark(hosts, "read as names of hosts: LSF has groups of hosts, too")
        else:
            hosts.untold.append("which hosts may be chosen from")

    def _settle_signal(self) -> None:
        action, ahead = self._seen.get("wa"), self._seen.get("wt")
        if action is None or ahead is None or not re.fullmatch(r"\w+", action.value):
            for draft in filter(None, (action, ahead)):
                draft.untold.append("what is done ahead of the end")
            return
        try:
            seconds = read_time(ahead.value)
        except ValueError as error:
            ahead.invalid = str(error)
        else:
            self._found.set(action, signal=f"{action.value.removeprefix('SIG')}@{seconds}")
            ahead.sets("signal")

    def _settle_files(self) -> None:
        fields, seen = self._found.fields, self._seen
        output = next((seen[name] for name in ("o", "oo", "outdir") if name in seen), None)
        if "array" in fields:  # all elements of an array have the same id
            for name in ("output", "error", "input"):
                if name in fields:
                    fields[name] = fields[name].replace("{{id}}", "{{array_id}}")
        if "output" in fields and output:
            same = fields.get("error") == fields["output"]
            if same and not fields["output"].endswith("/"):
                del fields["error"]
            if "error" not in fields:
                self._found.set(output, join=True)  # `-o` without `-e`: IBM's reference
        # A file name with the job's id is new unless the job runs again, so only `-oo` matters.
        appends = {
            appends
            for name, appends in self._appends.items()
            if name in fields
            and not (appends and ("id}}" in fields[name] or fields[name].endswith("/")))
        }
        if appends:
            draft = next(seen[name] for name in ("o", "oo", "e", "eo") if name in seen)
            self._found.set(draft, append=appends.pop())
            if appends:
                draft.untold.append("one of the files is appended to, the other is not")

    def _settle_sizes(self) -> None:
        for draft, required in self._required:
            self._settle_span(draft, required)
            self._settle_gpus(draft, required)
            self._found.set(draft, cores_per_task=required.cores, gpu_kind=required.gpu_kind)
            fields = self._found.fields
            if required.constraint:
                before = fields.get("constraint")
                both = f"{before}&{required.constraint}" if before else required.constraint
                self._found.set(draft, constraint=both)
            if required.other:
                self._found.set(draft, other=(*fields.get("other", ()), *required.other))
        for draft, required in self._required:
            if required.block and required.block > 1:
                self._settle_block(draft, required.block)

    def _settle_span(self, draft: Draft, required: Required) -> None:
        if required.hosts:
            self._found.set(draft, nodes=1)
        if required.ptile:
            tasks = self._found.fields.get("tasks", 1)
            self._found.set(draft, tasks_per_node=required.ptile)
            if "nodes" not in self._found.fields:
                self._found.set(draft, nodes=-(-tasks // required.ptile))

    def _settle_gpus(self, draft: Draft, required: Required) -> None:
        if required.gpus:
            count, of = required.gpus
            for other in ("gpus_per_node", "gpus_per_task"):
                self._found.fields.pop(other, None)
            name = "gpus_per_task" if of == "task" else "gpus_per_node"
            self._found.set(draft, **{name: count or None})

    def _settle_block(self, draft: Draft, size: int) -> None:
        """Set chunks for tasks in blocks: each block stays on one host."""
        fields = self._found.fields
        tasks = fields.get("tasks", 1)
        beside = {"gpus_per_node", "gpus_per_task", "nodes"} & fields.keys()
        if tasks % size or beside or any(required.memory for _, required in self._required):
            draft.untold.append(f"span[block={size}]")
            return
        cores = size * fields.get("cores_per_task", 1)
        chunk = Chunk(count=tasks // size, tasks=size, cores=cores)
        self._found.set(draft, chunks=(chunk,))

    def _settle_memory(self) -> None:
        found, fields = self._found, self._found.fields
        reserved = [(draft, required) for draft, required in self._required if required.memory]
        for draft, required in reserved:
            size, of = required.memory or (0, "")
            if size == 0:
                draft.untold.append("that no memory is reserved")
                continue
            cores = fields.get("cores_per_task", 1)
            for name in ("memory", "memory_per_node", "memory_per_core"):
                fields.pop(name, None)
            if of == "job":
                found.set(draft, memory=size)
            elif of == "task" and size % cores == 0:
                found.set(draft, memory_per_core=size // cores)
            elif of == "task":
                found.set(draft, memory=size * fields.get("tasks", 1))
            else:
                found.set(draft, memory_per_node=size)
            if required.bare:
                why = "the amount of memory is read in MB: the site may use another unit"
                found.remark(draft, why)
            if of == "host" and fields.get("tasks", 1) > 1:
                why = "the memory is read as per host: the site may count it per task"
                found.remark(draft, why)
        limit = self._seen.get("M")
        if limit is not None and not limit.invalid:
            self._settle_limit(limit, [draft for draft, _ in reserved])

    def _settle_limit(self, limit: Draft, reserved: Sequence[Draft]) -> None:
        """`-M` counts as the job's memory only if nothing is reserved."""
        value = limit.value.strip().rstrip("!")
        if any(re.search(rf"mem={re.escape(value)}\b", draft.value) for draft in reserved):
            limit.sets("memory_per_node")
        elif reserved:
            limit.untold.append("the limit of memory beside what is reserved")
        else:
            self._found.set(limit, memory=read_size(value, "K"))
            why = "the limit is read as the memory of the job"
            if value.isdecimal():
                why += ", in KB, LSF's default: the site may use another unit"
            self._found.remark(limit, why)


_HANDLERS: Final[dict[str, Callable[[_Reader, Draft, str], None]]] = {
    "B": _Reader.mail,
    "b": _Reader.begin,
    "cwd": _Reader.workdir,
    "e": _Reader.error,
    "eo": _Reader.error,
    "env": _Reader.environment,
    "G": _Reader.keep,
    "gpu": _Reader.gpu,
    "H": _Reader.hold,
    "i": _Reader.input,
    "is": _Reader.input,
    "J": _Reader.name,
    "Jd": _Reader.comment,
    "L": _Reader.keep,
    "M": _Reader.memory_limit,
    "m": _Reader.keep,
    "N": _Reader.mail,
    "Ne": _Reader.mail,
    "n": _Reader.tasks,
    "nnodes": _Reader.nodes,
    "o": _Reader.output,
    "oo": _Reader.output,
    "P": _Reader.account,
    "q": _Reader.queue,
    "R": _Reader.require,
    "r": _Reader.requeue,
    "rn": _Reader.requeue,
    "U": _Reader.reservation,
    "u": _Reader.mail_to,
    "W": _Reader.time,
    "w": _Reader.depend,
    "wa": _Reader.keep,
    "wt": _Reader.keep,
    "x": _Reader.exclusive,
}
_UNTOLD: Final = {
    "a": "a program of the site that changes the job (esub)",
    "alloc_flags": "how the nodes are set up",
    "app": "an application profile",
    "c": "a limit of CPU time",
    "E": "a command before the job",
    "Ep": "a command after the job",
    "g": "the group of jobs",
    "I": "the job is interactive",
    "Ip": "the job is interactive",
    "Is": "the job is interactive",
    "K": "bsub waits for the job's end",
    "Lp": "the project of licenses",
    "Q": "exit codes after which the job runs again",
    "sla": "the service class",
    "sp": "the priority",
    "t": "when the job must end",
    "We": "the estimated time",
}


class _Writer:
    def __init__(self, request: Request) -> None:
        self._asked = request
        without = flat(request)
        self._request = without.request
        self._left = self._request.said()
        self._lines: list[str] = []
        self._lost = dict(without.lost)
        kept = self._block() > 1
        self._notes = [note for note in without.notes if not (kept and "not kept together" in note)]
        self._name = ""

    def written(self) -> Written:
        self._who()
        self._size()
        self._when()
        self._files()
        self._rest()
        if not self._lines:  # write a default, so that the script is recognized as LSF
            self._lines.append("-n 1")
        for name in self._left:
            self._lost.setdefault(name, _NO_WORD.get(name, "LSF has no option for it"))
        return Written(lines=tuple(self._lines), lost=self._losses(), notes=tuple(self._notes))

    def _losses(self) -> dict[str, str]:
        """The lost fields of the original request. Lost sizes of its chunks count as `chunks`."""
        asked = self._asked.said()
        if not self._asked.chunks:
            return self._lost
        lost = {name: why for name, why in self._lost.items() if name in asked}
        others = [why for name, why in self._lost.items() if name not in asked]
        if others:
            lost.setdefault("chunks", others[0])
        nodes = self._asked.totals().nodes
        return {**contradictions(self._asked, self._asked.chunks, nodes), **lost}

    def _block(self) -> int:
        """How many tasks stay on one host, if the request has equal chunks that may share hosts."""
        chunks = self._asked.chunks
        free = self._request.nodes is None and len(chunks) == 1
        return (chunks[0].tasks or 1) if free else 1

    def _add(self, field: str, option: str, value: str | None = None) -> None:
        """Write an option for a field, if LSF can represent its value."""
        self._left.pop(field, None)
        if value is None:
            self._lines.append(f"-{option}")
        elif (word := quoted(value)) is None or not value.strip():
            self._lost[field] = "its value is blank, has both kinds of quotes, or a line break"
        else:
            self._lines.append(f"-{option} {word}")

    def _who(self) -> None:
        request = self._request
        name = self._name = (request.name or "").replace("[", "(").replace("]", ")")
        if request.name is not None and name != request.name:
            self._lost["name"] = f"brackets in a name are an array for LSF: `{name}`"
        if request.array is not None and request.array.indices[0] < 1:
            self._left.pop("array")
            self._lost["array"] = "LSF counts the elements of an array from 1"
        elif request.array is not None:
            if not name:
                name = "array"
                self._notes.append("LSF needs a name for an array: `array`")
            most = f"%{request.array.most}" if request.array.most else ""
            name += f"[{','.join(map(str, request.array.spans))}]{most}"
            self._left.pop("array")
        if name:
            self._add("name", "J", name)
        if request.comment is not None:
            self._add("comment", "Jd", request.comment)
        if request.account is not None:
            self._add("account", "P", request.account)
        if request.queues:
            self._add("queues", "q", " ".join(request.queues))
        if request.reservation is not None:
            self._add("reservation", "U", request.reservation)

    def _size(self) -> None:
        request, totals, lost = self._request, self._request.totals(), self._lost
        tasks, nodes = totals.tasks, totals.nodes
        if nodes and tasks < nodes:
            if request.tasks is not None:
                lost["tasks"] = f"LSF starts a task on each of the {nodes} hosts at least"
            tasks = nodes
        if self._left.keys() & {"tasks", "nodes", "tasks_per_node"}:
            self._lines.append(f"-n {tasks}")
        together = self._gpus(tasks, nodes)
        cores = self._cores(tasks, nodes)
        sections = [
            *self._select(),
            *self._span(tasks, 1 if together else nodes),
            *([f"affinity[core({cores})]"] if cores > 1 or request.cores_per_task == 1 else []),
            *self._memory(tasks, nodes, cores),
        ]
        if sections:
            self._lines.append(f'-R "{" ".join(sections)}"')
        for name in ("tasks", "nodes", "tasks_per_node"):
            self._left.pop(name, None)
        if request.most_nodes is not None and request.most_nodes == request.nodes:
            self._left.pop("most_nodes")
        self._hosts(nodes)

    def _hosts(self, nodes: int | None) -> None:
        request = self._request
        if request.exclusive:
            self._add("exclusive", "x")
            if not request.said().keys() & (SIZES - {"nodes", "most_nodes"}):
                self._notes.append(
                    "the hosts are the job's own, and `-n` counts one slot on each: write how many "
                    "cores a host has, and its GPUs as `-gpu`"
                )
        elif request.exclusive is False:
            self._left.pop("exclusive")
            self._notes.append("jobs of LSF share hosts unless `-x` is given")
        if not all(re.fullmatch(r"[\w.-]+", host) for host in request.hosts):
            self._lost["hosts"] = "LSF has no ranges of host names"
        elif len(request.hosts) in (1, nodes):
            self._add("hosts", "m", " ".join(request.hosts))
        elif request.hosts:
            self._lost["hosts"] = "LSF chooses among the hosts of `-m`, and may not use all"

    def _select(self) -> list[str]:
        terms = self._request.constraint
        if terms is None:
            return []
        self._left.pop("constraint")
        if not re.fullmatch(r"[A-Za-z_]\w*((&[A-Za-z_]\w*)*|(\|[A-Za-z_]\w*)*)", terms):
            self._lost["constraint"] = "LSF's conditions are on resources: `-R select[…]`"
            return []
        return [f"select[{terms.replace('&', ' && ').replace('|', ' || ')}]"]

    def _span(self, tasks: int, nodes: int | None) -> list[str]:
        request, lost = self._request, self._lost
        if nodes == 1:
            if request.tasks_per_node and request.tasks_per_node < tasks:
                lost["tasks_per_node"] = "other sizes of the job contradict it"
            return ["span[hosts=1]"]
        if nodes is None:
            if self._asked.nodes is not None:
                lost["nodes"] = "LSF chooses the hosts of chunks that may share them"
            return [f"span[block={self._block()}]"] if self._block() > 1 else []
        ptile = -(-tasks // nodes)
        if request.tasks_per_node and -(-tasks // request.tasks_per_node) == nodes:
            ptile = request.tasks_per_node
        elif request.tasks_per_node and ptile != request.tasks_per_node:
            lost["tasks_per_node"] = "other sizes of the job contradict it"
        if -(-tasks // ptile) != nodes:
            lost["nodes"] = f"{tasks} tasks cannot be on {nodes} hosts as LSF fills them"
        return [f"span[ptile={ptile}]"]

    def _gpus(self, tasks: int, nodes: int | None) -> bool:
        """Write the GPUs. Returns whether they need all tasks on one host."""
        request, left, total = self._request, self._left, self._request.totals().gpus
        names = [name for name in ("gpus", "gpus_per_node", "gpus_per_task") if name in left]
        if not total:
            for name in names:
                left.pop(name)
            return False
        value, together = self._gpu_number(tasks, nodes, total)
        if not value:
            self._lost[names[0]] = f"{total} GPUs divide neither over hosts nor over tasks"
            return False
        for name in names:
            left.pop(name)
            times = {"gpus": 1, "gpus_per_node": nodes or 1, "gpus_per_task": tasks}[name]
            if getattr(request, name) * times != total:
                self._lost[name] = "other sizes of the job contradict it"
        if request.gpu_kind is not None:
            left.pop("gpu_kind")
            if re.fullmatch(r"[\w.+-]+", request.gpu_kind):
                value += f":gmodel={request.gpu_kind}"
            else:
                self._lost["gpu_kind"] = "LSF's kinds of GPUs have no such names"
        self._lines.append(f'-gpu "{value}"')
        return together

    def _gpu_number(self, tasks: int, nodes: int | None, total: int) -> tuple[str, bool]:
        request = self._request
        if request.gpus_per_task and request.gpus_per_task * tasks == total:
            return f"num={request.gpus_per_task}/task", False
        if nodes and total % nodes == 0:
            return f"num={total // nodes}", False
        if nodes is None and request.gpus_per_node == total:
            return f"num={total}", False
        if total % tasks == 0:
            return f"num={total // tasks}/task", False
        if nodes is not None:
            return "", False
        self._notes.append(
            f"{total} GPUs do not divide over {tasks} tasks: all tasks are put on one host"
        )
        return f"num={total}", True

    def _cores(self, tasks: int, nodes: int | None) -> int:
        request, left = self._request, self._left
        if request.cores_per_node is not None:
            left.pop("cores_per_node")
            per_node = tasks // nodes if nodes and tasks % nodes == 0 else 0
            if not per_node or request.cores_per_node % per_node:
                self._lost["cores_per_node"] = "LSF counts cores for each task"
            else:
                each = request.cores_per_node // per_node
                if request.cores_per_task not in (None, each):
                    self._lost["cores_per_task"] = "other sizes of the job contradict it"
                left.pop("cores_per_task", None)
                return each
        left.pop("cores_per_task", None)
        return request.cores_per_task or 1

    def _memory(self, tasks: int, nodes: int | None, cores: int) -> list[str]:
        request, left, total = self._request, self._left, self._request.totals().memory
        names = [
            *("memory", "memory_per_node", "memory_per_core", "memory_per_gpu"),
        ]
        said = [name for name in names if left.pop(name, None) is not None]
        if not said or not total:
            if said:
                self._lost |= dict.fromkeys(said, ALL_MEMORY)
            return []
        name = said[0]
        each: int = getattr(request, name)
        if name == "memory_per_node" or (name == "memory" and nodes == 1):
            size, of = each, ""
        elif name == "memory":
            size, of = each, "/job"
        elif name == "memory_per_core":
            size, of = each * cores, "" if tasks == 1 else "/task"
        else:
            size, of = total, "" if nodes == 1 or tasks == 1 else "/job"
        for name in said[1:]:
            self._lost[name] = "other amounts of memory come before it"
        return [f"rusage[mem={write_size(size)}{of}]"]

    def _when(self) -> None:
        request = self._request
        if request.seconds is not None and request.seconds != float("inf"):
            self._left.pop("seconds")
            self._lines.append(f"-W {write_time(request.seconds)}")
            if request.seconds % 60:
                self._notes.append("LSF counts minutes: the time limit is rounded up")
        if request.begin is not None:
            match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::00)?", request.begin)
            if match:
                self._add("begin", "b", ":".join(match.groups()))
        self._depend()
        if request.hold:
            self._add("hold", "H")
        elif request.hold is False:
            self._left.pop("hold")
        if request.requeue is not None:
            self._add("requeue", "r" if request.requeue else "rn")
        self._signal()

    def _signal(self) -> None:
        match = re.fullmatch(r"([A-Z]+[0-9]?)@(\d+)", self._request.signal or "")
        if match:
            self._add("signal", "wa", match[1])
            self._lines.append(f"-wt {rounded(int(match[2]), 60)}")
            if int(match[2]) % 60:
                self._notes.append("LSF counts minutes: the signal's time is rounded up")

    def _depend(self) -> None:
        known, others = list[str](), list[str]()
        for each in self._request.dependencies:
            if each.kind == "aftercorr" and each.jobs:
                known += [f"done({_job(job)}[*])" for job in each.jobs]
            elif each.kind in _NAMES and each.jobs:
                known += [f"{_NAMES[each.kind]}({_job(job)})" for job in each.jobs]
            else:
                others.append(each.kind)
        if known:
            self._add("dependencies", "w", " && ".join(known))
            self._notes.append("the ids of other jobs are those of the original's scheduler")
        if others:
            self._left.pop("dependencies", None)
            self._lost["dependencies"] = f"LSF has no {', '.join(others)}"

    def _files(self) -> None:
        request = self._request
        for field, options in (("output", ("o", "oo")), ("error", ("e", "eo")), ("input", "ii")):
            value: str | None = getattr(request, field)
            if value is None:
                continue
            name, why = self._file(value)
            if why:
                self._lost[field] = why
            alone = "%J" in name or name.endswith("/")
            appends = request.append if request.append is not None else alone
            self._add(field, options[0 if appends else 1], name)
        if request.append is not None and (request.output or request.error):
            self._left.pop("append")
        self._join()
        if request.workdir is not None and "%" in request.workdir:
            self._left.pop("workdir")
            self._lost["workdir"] = "LSF puts other words for a `%` in it"
        elif request.workdir is not None:
            self._add("workdir", "cwd", request.workdir)

    def _join(self) -> None:
        request = self._request
        output, error, join = request.output, request.error, request.join
        self._left.pop("join", None)
        if output is None and error is None:
            self._notes.append("LSF sends stdout and stderr by mail, as no file is named")
        elif output is not None and output == error and not output.endswith("/"):
            self._notes.append("stdout and stderr have one name: LSF writes both into the file")
        elif join and error is not None:
            self._lost["join"] = "stderr has a file of its own"
        elif join is None and error is None:
            self._notes.append("LSF puts stderr into the file of stdout, as it has no name")
        if join is False and error is None:
            self._lost["join"] = "LSF keeps stdout and stderr together unless both have a file"

    def _file(self, value: str) -> tuple[str, str]:
        """A file name as LSF writes it, and the reason for a loss."""
        value = value.replace("{{array_id}}", "%J")
        array = self._request.array is not None and "array" not in self._lost
        if array and "{{id}}" in value and "{{index}}" not in value:
            value = value.replace("{{id}}", "%J.%I")
            note = "the elements of an array of LSF have one id: the index follows it in the name"
            self._notes.append(f"{note} of the file")
        value = value.replace("{{id}}", "%J").replace("{{index}}", "%I")
        if self._name:
            value = value.replace("{{name}}", self._name)
        marks = re.findall(r"\{\{\w+\}\}", value)
        if not marks:
            return value, ""
        kept = re.sub(r"[._-]?\{\{\w+\}\}", "", value)
        kept += "%J" if not kept or kept.endswith("/") else ""
        return kept, f"LSF has no {marks[0]} in names of files: `{kept}`"

    def _rest(self) -> None:
        request = self._request
        self._mail()
        if request.mail_to:
            self._add("mail_to", "u", " ".join(request.mail_to))
        self._environment()
        if request.shell is not None:
            self._add("shell", "L", request.shell)

    def _mail(self) -> None:
        on = set(self._request.mail_on)
        self._left.pop("mail_on", None)
        if on & {"begin", "all"}:
            self._lines.append("-B")
        if on & {"end", "all"}:  # -N sends mail after success and after failure
            self._lines.append("-N")
        elif "fail" in on:
            self._lines.append("-Ne")
        others = sorted(on - {"begin", "end", "fail", "all", "none"})
        if others:
            self._lost["mail_on"] = f"LSF sends no mail on {', '.join(others)}"

    def _environment(self) -> None:
        request = self._request
        if request.export is None and not request.variables:
            return
        words = {True: ["all"], False: ["none"], None: list[str]()}[request.export]
        if request.variables and request.export is False:
            words = []  # `none` accepts no variables; without `all`, only the listed ones are set
        values, lost = listed(request.variables, r"[,\s]")
        self._lost |= lost
        self._left.pop("export", None)
        self._left.pop("variables", None)
        if words or values:
            self._add("variables" if values else "export", "env", ", ".join([*words, *values]))


def _job(job: str) -> str:
    return job if re.fullmatch(r"[0-9]+(\[[0-9]+\])?", job) else f"'{job}'"


_NO_WORD: Final = {
    "seconds": "LSF has no word for no limit: that of the queue counts",
    "begin": "LSF expects a date to the minute, not a delay",
    "qos": "LSF has queues and service classes, no QOS",
    "server": "LSF has names of clusters: `-clusters`",
    "most_nodes": "LSF has no range of hosts",
    "without_hosts": "LSF leaves out no hosts by name: `-R select[hname!=…]`",
    "other": "LSF has other names of resources",
    "components": "LSF has no jobs of several parts",
    "append": "the job names no file",
    "gpu_kind": "the job has no GPU",
}
