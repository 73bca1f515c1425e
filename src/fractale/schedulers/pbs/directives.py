"""The directives of PBS: `#PBS` lines, as qsub of OpenPBS, PBS Professional and Torque reads them.

qsub looks for them from the first line to the first command (get_script in qsub_sup.c of OpenPBS).
A command is a line that is neither blank nor a comment, and does not begin with ``:``. Blanks may
precede the mark, and need not follow it. A backslash at the end continues a directive. `-C` or the
variable PBS_DPREFIX can set another mark at submission; a `-C` in the script has no effect on it.

If a word follows the options, OpenPBS refuses the script (process_opts in qsub.c); Torque ignores
the word. Neither supports comments after options, nor replaces variables in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final, cast

from fractale.schedulers.options import Option, OptionTable, getopt
from fractale.schedulers.pbs.resources import Resources, write_chunks
from fractale.schedulers.pbs.times import write_time
from fractale.schedulers.reading import (
    BURST_BUFFER,
    Draft,
    Gathered,
    burst_buffers,
    events,
    joined,
    listed,
    needed,
    quoted,
    split_words,
    whole,
)
from fractale.schedulers.request import Array, Dependency, DependencyKind, Request, Span
from fractale.schedulers.script import Directive, Reading, Remark, Written

_MARK: Final = re.compile(r"\s*#PBS(?![A-Za-z0-9_])")


def _mark(line: str) -> re.Match[str] | None:
    return _MARK.match(line) if "#PBS" in line else None


_ABOUT: Final = {
    **dict.fromkeys(("ngpus", "gpus"), "gpus"),
    **dict.fromkeys(("select", "chunks"), "chunks"),
    **dict.fromkeys(("nodes", "nodect", "mppnodes"), "nodes"),
    **dict.fromkeys(("ncpus", "procs", "mppwidth", "mpiprocs"), "tasks"),
}
_SIZES: Final = re.compile(rf"(?<!\w)(?:{'|'.join(_ABOUT)})(?==)")

_NQSV: Final = re.compile(r"\b(elapstim_req|cpunum_job|gpunum_job|memsz_job)\b|--ve(num|node)")
"""Text that only scripts of NEC's NQSV contain. NQSV's mark is also `#PBS`."""

_LETTERS: Final = (
    "a:A:c:C:e:fGhIj:J:k:l:m:M:N:o:p:q:r:R:S:u:v:VW:XzP:"  # OpenPBS, PBS Professional
    "b:d:D:EF:i:K:L:nt:T:w:x"  # Torque
)
_OPTIONS: Final = OptionTable(
    Option("", letter, "required" if colon else "none")
    for letter, colon in re.findall(r"(\w)(:?)", _LETTERS)
)

_DEPENDENCIES: Final[dict[str, DependencyKind]] = {
    "after": "after",
    "afterok": "afterok",
    "afternotok": "afternotok",
    "afterany": "afterany",
    "afterstartarray": "after",
    "afterokarray": "afterok",
    "afternotokarray": "afternotok",
    "afteranyarray": "afterany",
}
_OTHER_DEPENDENCIES: Final = re.compile(r"(before\w*|on|synccount|syncwith|runone)$")
_JOB: Final = re.compile(r"[0-9]+(\[[0-9]*\])?(\.[\w.-]+)?(@[\w.-]+)?")
_MAIL: Final = {"b": "begin", "e": "end", "a": "fail"}

_FILE_MARKS: Final = (
    (re.compile(r"\$\{?PBS_JOBID\}?"), "{{id}}"),
    (re.compile(r"\$\{?PBS_JOBNAME\}?"), "{{name}}"),
    (re.compile(r"\^array_index\^|\$\{?PBS_ARRAY_?(INDEX|ID)\}?"), "{{index}}"),
    (re.compile(r"\$\{?(USER|LOGNAME|PBS_O_LOGNAME)\}?"), "{{user}}"),
    (re.compile(r"^\$\{?PBS_O_WORKDIR\}?/"), ""),
)
_MOST_OF_A_NAME: Final = 230


class PbsDialect:
    """PBS Professional, OpenPBS and Torque."""

    name = "pbs"
    title = "PBS"
    mark = "#PBS"
    defaults = Request(join=False, append=False, export=False, requeue=True)
    slots = False
    guard = ""
    against_dos = ""

    def is_directive(self, line: str) -> bool:
        return bool(_mark(line)) and line.lstrip()[4:].lstrip().startswith("-")

    def about(self, directive: Directive) -> str:
        if directive.option in ("J", "t"):
            return "array"
        if directive.option in ("W", "depend"):
            return "dependencies" if "depend" in directive.text else ""
        found = _SIZES.search(directive.text) if directive.text.startswith("-l") else None
        return _ABOUT.get(found[0], "") if found else ""

    def read(self, lines: Sequence[str]) -> Reading:
        return _Reader(lines).reading()

    def write(self, request: Request) -> Written:
        return _Writer(request).written()


DIALECT: Final = PbsDialect()


class _Reader:
    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._numbers: set[int] = set()
        self._found = Gathered()
        self._resources = Resources(self._found)
        self._seen: dict[str, Draft] = {}
        self._of_nqsv = any(_NQSV.search(line) for line in lines if _mark(line))

    def reading(self) -> Reading:
        for number, text in self._directives():
            self._line(number, text)
        for number, text in burst_buffers(self._lines):
            self._numbers.add(number)
            draft = self._found.draft(number, text[1:3], "", text)
            draft.untold.append(BURST_BUFFER)
            self._found.drafts.sort(key=lambda each: each.line)
        self._resources.settle()
        self._settle()
        return self._found.reading("qsub", self._numbers)

    def _directives(self) -> Iterator[tuple[int, str]]:
        """Number and text (without the mark) of each directive above the first command."""
        number, last, passed = 0, len(self._lines), False
        while number < last:
            line = self._lines[number]
            number += 1
            match = _mark(line)
            if match is None:
                bare = line.lstrip()
                passed = passed or bool(bare and not bare.startswith("#") and line[0] != ":")
                continue
            if passed:
                if DIALECT.is_directive(line):
                    why = "qsub does not read it: it is below the first command"
                    self._found.remarks.append(Remark(line=number, text=line.strip(), why=why))
                continue
            first = number
            text, number = joined(self._lines, first, line[match.end() :])
            self._numbers.update(range(first, number + 1))
            yield first, text

    def _line(self, number: int, text: str) -> None:
        words, unclosed = split_words(text, comments=False)
        if unclosed:
            self._found.refuse(number, text.strip(), f"a quote {unclosed} is not closed")
        if not words:
            return
        stray: list[str] = []
        for given in getopt(words, _OPTIONS):
            if given.option is None and not given.text.startswith("-"):
                stray.append(given.text)
            elif given.text.startswith("--") and self._of_nqsv:
                self._nqsv(number, given.text)
            elif given.option is None or given.why:
                draft = self._found.draft(number, given.text, "", given.text)
                draft.invalid = given.why or f"qsub has no option `{given.text}`"
            else:
                self._option(number, given.option.letter, given.value or "", given.text)
        if stray:
            why = "OpenPBS refuses words after the options, Torque ignores them"
            self._found.remarks.append(Remark(line=number, text=" ".join(stray), why=why))

    def _nqsv(self, number: int, text: str) -> None:
        """A long option, which only the qsub of NEC's NQSV has."""
        name, _, value = text[2:].partition("=")
        draft = self._found.draft(number, name, value, text)
        if name == "group" and value:
            self._found.set(draft, account=value)
        else:
            draft.untold.append(f"the option {name} of NEC's NQSV")

    def nqsv_nodes(self, draft: Draft, value: str) -> None:
        """`-b`: the number of nodes for NQSV; how long qsub tries for Torque."""
        if self._of_nqsv:
            self._found.set(draft, nodes=whole(value, "nodes"))
        else:
            draft.untold.append("how long qsub tries")

    def _option(self, number: int, letter: str, value: str, text: str) -> None:
        if letter == "l":
            try:
                self._resources.add(number, value)
            except ValueError as error:
                self._found.draft(number, "l", value, text).invalid = str(error)
            return
        if letter == "W":
            self._attributes(number, value, text)
            return
        draft = self._found.draft(number, letter, value, text)
        self._found.again(self._seen.get(letter), draft)
        self._seen[letter] = draft
        handler = _HANDLERS.get(letter)
        try:
            if letter in _WITH_VALUE:
                needed(letter, value)
            if handler:
                handler(self, draft, value)
            else:
                draft.untold.append(_UNTOLD[letter])
        except ValueError as error:
            draft.invalid = str(error)
        if "$" in value and letter in "ANqPMSJtapd":
            self._found.remark(draft, "qsub does not replace variables in directives")

    def _attributes(self, number: int, value: str, text: str) -> None:
        """`-W name=value,name=value`; a comma belongs to the value unless a name follows it."""
        if not re.match(r"\s*\w+\s*=", value):
            why = "`-W` has the form name=value"
            self._found.draft(number, "W", value, text).invalid = why
            return
        for item in re.split(r",(?=\s*\w+\s*=)", value):
            name, _, amount = (part.strip() for part in item.partition("="))
            draft = self._found.draft(number, name, amount, f"-W {item.strip()}")
            self._found.again(self._seen.get(name), draft)
            self._seen[name] = draft
            try:
                self._attribute(draft, name, amount.strip("\"'"))
            except ValueError as error:
                draft.invalid = str(error)

    def _attribute(self, draft: Draft, name: str, value: str) -> None:
        if name == "depend":
            self._depend(draft, value)
        elif name == "max_run_subjobs":
            whole(value, "elements")
        elif name.lower() == "x" and "naccesspolicy:single" in value.lower():
            self._found.set(draft, exclusive=True)
        elif name in ("block", "interactive") and value.lower() == "false":
            draft.untold.append("it is the default")
        else:
            draft.untold.append(
                {
                    "group_list": "the group that the job runs as",
                    "umask": "the mask of new files",
                    "block": "qsub waits for the job's end",
                    "stagein": "files that are copied before the job",
                    "stageout": "files that are copied after the job",
                    "sandbox": "the directory that the job runs in",
                }.get(name, f"the attribute {name}")
            )

    def _depend(self, draft: Draft, value: str) -> None:
        found: list[Dependency] = []
        draft.sets("dependencies")
        for item in value.split(","):
            kind, *jobs = item.strip().split(":")
            if _OTHER_DEPENDENCIES.match(kind):
                draft.untold.append(item.strip())
            elif kind not in _DEPENDENCIES or not jobs or not all(map(_JOB.fullmatch, jobs)):
                raise ValueError(f"`{item}` is not a dependency such as afterok:123")
            else:
                found.append(Dependency(kind=_DEPENDENCIES[kind], jobs=tuple(jobs)))
        self._found.set(draft, dependencies=tuple(found))

    # options

    def begin(self, draft: Draft, value: str) -> None:
        match = re.fullmatch(r"((?:\d\d)?\d\d)?(\d\d)?(\d\d)?(\d\d)(\d\d)(?:\.(\d\d))?", value)
        date = re.fullmatch(r"(?:(\d{8}|\d{6}))(\d\d)(\d\d)(?:\.(\d\d))?", value)
        if match is None or int(match[4]) > 23 or int(match[5]) > 59 or int(match[6] or 0) > 59:
            raise ValueError(f"`{value}` is not a time of the form [[[[CC]YY]MM]DD]hhmm[.SS]")
        if date is None or (len(date[1]) == 6 and int(date[1][:2]) > 68):
            draft.untold.append("when the job may start: the next such time")
            draft.sets("begin")
            return
        day = date[1] if len(date[1]) == 8 else f"20{date[1]}"
        seconds = f":{date[4]}" if date[4] else ""
        begin = f"{day[:4]}-{day[4:6]}-{day[6:]}T{date[2]}:{date[3]}{seconds}"
        self._found.set(draft, begin=begin)

    def account(self, draft: Draft, value: str) -> None:
        self._found.set(draft, account=value)

    def project(self, draft: Draft, value: str) -> None:
        draft.value = value  # settled after all options: an account may follow

    def name(self, draft: Draft, value: str) -> None:
        if re.search(r"\s", value) or len(value) > _MOST_OF_A_NAME:
            raise ValueError(f"`{value}` is not a valid name in PBS: it has blanks or is too long")
        if "{{" in value:
            draft.untold.append("the name, which contains `{{`")
            return
        self._found.set(draft, name=value)

    def queue(self, draft: Draft, value: str) -> None:
        queue, _, server = value.partition("@")
        self._found.set(draft, queues=(queue,) if queue else None, server=server or None)

    def output(self, draft: Draft, value: str) -> None:
        self._file(draft, "output", value)

    def error(self, draft: Draft, value: str) -> None:
        self._file(draft, "error", value)

    def _file(self, draft: Draft, field: str, value: str) -> None:
        host, colon, path = value.partition(":")
        if colon and "/" not in host:
            if host and host != "localhost":
                draft.untold.append(f"the host {host}")
            value = path
        if not value or "{{" in value:
            draft.untold.append("the name of the file")
            return
        for pattern, mark in _FILE_MARKS:
            value = pattern.sub(mark, value) or "./"
        if "$" in draft.value:
            why = "OpenPBS replaces no variables in file names; Torque replaces some"
            self._found.remark(draft, why)
        self._found.set(draft, **{field: value})

    def join(self, draft: Draft, value: str) -> None:
        if value not in ("oe", "eo", "n"):
            raise ValueError(f"`-j {value}`: oe, eo and n are known")
        self._found.set(draft, join=value != "n")

    def mail(self, draft: Draft, value: str) -> None:
        letters = value.strip()
        if letters in ("n", "p"):
            self._found.set(draft, mail_on=("none",))
            return
        if not re.fullmatch(r"[abefj]+", letters):
            raise ValueError(f"`-m {value}`: n, or letters of a, b and e are known")
        if "j" in letters:
            draft.untold.append("mail for each element of the array")
        on = events(_MAIL.get(letter, "fail") for letter in letters if letter != "j")
        self._found.set(draft, mail_on=on)

    def mail_to(self, draft: Draft, value: str) -> None:
        self._found.set(draft, mail_to=tuple(filter(None, re.split(r"[,\s]+", value))))

    def array(self, draft: Draft, value: str) -> None:
        draft.sets("array")
        array = Array.parse(value)
        span, *more = array.spans
        if more or span.first >= span.last:
            raise ValueError(f"`-J {value}`: a range such as 1-10 or 1-10:2%4 is known")
        self._found.set(draft, array=array)

    def torque_array(self, draft: Draft, value: str) -> None:
        draft.sets("array")
        array = Array.parse(re.sub(r"^\[(.*)\]", r"\1", value))
        if len(array.indices) == 1:
            self._found.remark(
                draft, "read as the only index; old releases of Torque read it as how many"
            )
        self._found.set(draft, array=array)

    def hold(self, draft: Draft, value: str) -> None:
        del value
        self._found.set(draft, hold=True)

    def rerun(self, draft: Draft, value: str) -> None:
        if value not in ("y", "n"):
            raise ValueError(f"`-r {value}`: y and n are known")
        self._found.set(draft, requeue=value == "y")

    def export(self, draft: Draft, value: str) -> None:
        del value
        self._found.set(draft, export=True)

    def variables(self, draft: Draft, value: str) -> None:
        items = re.findall(r"""((?:[^,"']|"[^"]*"|'[^']*')+)""", value)
        variables = tuple(re.sub(r"[\"']", "", item).strip() for item in items)
        if not all(re.match(r"[A-Za-z_]\w*(=|$)|\$", each) for each in variables):
            raise ValueError(f"`-v {value}` is not a list such as A,B=1")
        self._found.set(draft, variables=variables)

    def shell(self, draft: Draft, value: str) -> None:
        shells = [each.partition("@") for each in value.split(",")]
        if len(shells) > 1 or shells[0][2]:
            draft.untold.append("shells for single hosts")
        self._found.set(draft, shell=shells[0][0] or None)

    def priority(self, draft: Draft, value: str) -> None:
        if not re.fullmatch(r"\s*[-+]?\d{1,4}", value) or abs(int(value)) > 1024:
            raise ValueError(f"`-p {value}`: a number from -1024 to 1023 is known")
        draft.untold.append("the priority")

    def workdir(self, draft: Draft, value: str) -> None:
        if value.startswith("alltime="):
            raise ValueError(f"`-w{value}` is not an option; write `-l walltime=…`")
        self._found.set(draft, workdir=value)

    def exclusive(self, draft: Draft, value: str) -> None:
        del value
        self._found.set(draft, exclusive=True)

    def prefix(self, draft: Draft, value: str) -> None:
        del value
        draft.untold.append("the mark of directives")
        self._found.remark(draft, "it counts on the command line only")

    def numa(self, draft: Draft, value: str) -> None:
        """Torque 6: ``tasks=2:lprocs=9:…``."""
        for word in value.split(":"):
            name, _, amount = word.partition("=")
            if name == "tasks":
                self._found.set(draft, tasks=whole(amount, "tasks"))
            elif name == "lprocs" and amount.isdecimal():
                self._found.set(draft, cores_per_task=whole(amount, "cores"))
            else:
                draft.untold.append(word)

    def _settle(self) -> None:
        """Set the fields that depend on several options."""
        found, seen = self._found, self._seen
        project = seen.get("P")
        if project and not project.invalid:
            if "account" in found.fields:
                project.untold.append("the project beside the account")
            else:
                found.set(project, account=project.value)
        self._settle_files()
        most = seen.get("max_run_subjobs")
        array = cast("Array | None", found.fields.get("array"))
        if most and not most.invalid and array and most.value.isdecimal():
            found.set(most, array=Array(spans=array.spans, most=int(most.value)))
        elif most and not most.invalid:
            most.invalid = "the job is not an array"
        if "J" in seen and found.fields.get("requeue") is False:
            seen["J"].invalid = "PBS refuses an array with `-r n`"
        if "J" in seen and "I" in seen:
            seen["J"].invalid = "PBS refuses an interactive array"

    def _settle_files(self) -> None:
        found, seen = self._found, self._seen
        join = seen.get("j")
        if join and join.value == "eo":
            if "error" in found.fields:
                found.set(join, output=found.fields.pop("error"))
            else:
                join.untold.append("the name of the file, which is that of stderr")
        elif join and join.value == "oe" and found.fields.pop("error", None) is not None:
            found.remark(join, "stderr goes into the file of stdout: `-e` has no effect")
        elif not join and "output" in found.fields and "error" not in found.fields:
            found.set(seen["o"], join=False)  # PBS chooses the name of stderr's file


_HANDLERS: Final[dict[str, Callable[[_Reader, Draft, str], None]]] = {
    "a": _Reader.begin,
    "A": _Reader.account,
    "b": _Reader.nqsv_nodes,
    "C": _Reader.prefix,
    "d": _Reader.workdir,
    "e": _Reader.error,
    "h": _Reader.hold,
    "j": _Reader.join,
    "J": _Reader.array,
    "L": _Reader.numa,
    "m": _Reader.mail,
    "M": _Reader.mail_to,
    "n": _Reader.exclusive,
    "N": _Reader.name,
    "o": _Reader.output,
    "p": _Reader.priority,
    "P": _Reader.project,
    "q": _Reader.queue,
    "r": _Reader.rerun,
    "S": _Reader.shell,
    "t": _Reader.torque_array,
    "v": _Reader.variables,
    "V": _Reader.export,
    "w": _Reader.workdir,
}
_WITH_VALUE: Final = frozenset("aAdejJmMNopPqrStvw")
_UNTOLD: Final = {
    "c": "checkpoints",
    "D": "the root directory",
    "E": "an option of Torque",
    "f": "how qsub submits",
    "F": "arguments of the script",
    "G": "a graphical session",
    "i": "the initial directory",
    "I": "the job is interactive",
    "k": "which files stay on the node, or are written at once",
    "K": "an option of Torque",
    "R": "which files are removed",
    "T": "a prologue of the job",
    "u": "the user that the job runs as",
    "x": "an option of Torque",
    "X": "X11",
    "z": "qsub prints no id",
}


class _Writer:
    def __init__(self, request: Request) -> None:
        self._request = request
        self._left = request.said()
        self._lines: list[str] = []
        self._lost: dict[str, str] = {}
        self._notes: list[str] = []
        self._name = ""

    def written(self) -> Written:
        self._who()
        self._size()
        self._when()
        self._files()
        self._rest()
        if not self._lines:  # write a default, so that the script is recognized as PBS
            self._lines.append("-l select=1:ncpus=1")
        for name in self._left:
            self._lost.setdefault(name, _NO_WORD.get(name, "PBS has no option for it"))
        return Written(lines=tuple(self._lines), lost=self._lost, notes=tuple(self._notes))

    def _add(self, field: str, letter: str, value: str = "") -> None:
        """Write an option for a field, if PBS can represent its value."""
        self._left.pop(field, None)
        word = quoted(value) if value else ""
        if word is None:
            self._lost[field] = "its value has both kinds of quotes, or a line break"
        else:
            self._lines.append(f"-{letter} {word}".rstrip())

    def _who(self) -> None:
        request = self._request
        if request.name is not None:
            plain = self._name = _plain_name(request.name)
            self._add("name", "N", plain)
            if plain != request.name:
                self._lost["name"] = f"PBS accepts only letters, digits and _+.-: `{plain}`"
        if request.account is not None:
            self._add("account", "A", request.account)
        if request.queues:
            self._add("queues", "q", request.queues[0])
            if len(request.queues) > 1:
                self._lost["queues"] = "PBS accepts one queue: the first"

    def _size(self) -> None:
        chosen = write_chunks(self._request)
        for name in chosen.said:
            self._left.pop(name, None)
        self._lost |= chosen.lost
        self._notes += chosen.notes
        if chosen.select:
            self._lines.append(f"-l select={quoted(chosen.select) or chosen.select}")
        if chosen.place:
            self._lines.append(f"-l place={chosen.place}")
        in_chunks = {each for chunk in self._request.chunks for each in chunk.other}
        left: list[str] = []
        for each in self._request.other:
            name, equals, value = each.partition("=")
            if each in in_chunks:
                continue
            if equals and name in _JOB_WIDE and re.fullmatch(r"[\w.:]+", value):
                self._lines.append(f"-l {each}")
            else:
                left.append(each)
        self._left.pop("other", None)
        if left:
            self._lost["other"] = f"PBS has no such resource: {', '.join(left)}"

    def _when(self) -> None:
        request = self._request
        if request.seconds is not None and request.seconds != float("inf"):
            self._left.pop("seconds")
            self._lines.append(f"-l walltime={write_time(request.seconds)}")
        if request.begin is not None:
            match = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::(\d\d))?", request.begin)
            if match:
                seconds = f".{match[6]}" if match[6] else ""
                self._add("begin", "a", "".join(match.groups()[:5]) + seconds)
        if request.array is not None:
            span = _one_span(request.array)
            if span is not None:
                most = f"%{request.array.most}" if request.array.most else ""
                self._add("array", "J", span + most)
        self._depend()
        if request.hold:
            self._add("hold", "h")
        if request.requeue is not None:
            self._add("requeue", "r", "y" if request.requeue else "n")
            if request.array is not None and not request.requeue:
                self._lines.pop()
                self._lost["requeue"] = "PBS may run the elements of an array again"

    def _depend(self) -> None:
        request = self._request
        known = [
            each
            for each in request.dependencies
            if each.kind in _DEPENDENCIES and each.jobs and all(map(_JOB.fullmatch, each.jobs))
        ]
        others = [
            f"{each.kind}:{':'.join(each.jobs)}"
            for each in request.dependencies
            if each not in known
        ]
        if known:
            value = ",".join(":".join((d.kind, *d.jobs)) for d in known)
            self._add("dependencies", "W", f"depend={value}")
            self._notes.append("the ids of other jobs are those of the original's scheduler")
        if others:
            self._left.pop("dependencies", None)
            self._lost["dependencies"] = f"PBS cannot wait for {', '.join(others)}"

    def _files(self) -> None:
        request = self._request
        joined = request.join
        for field, letter in (("output", "o"), ("error", "e")):
            value: str | None = getattr(request, field)
            if value is None:
                continue
            if joined and field == "error":
                self._left.pop(field)
                self._lost[field] = "stderr goes into stdout's file"
                continue
            path, why = self._path(value)
            if why:
                self._lost[field] = why
            self._left.pop(field)
            if path:
                self._add(field, letter, path)
        if joined is not None:
            self._add("join", "j", "oe" if joined else "n")
        if request.append is False:
            self._left.pop("append")
            self._notes.append("PBS overwrites files that are there")

    def _path(self, value: str) -> tuple[str, str]:
        """A file name as PBS writes it (empty: PBS's default), and the reason for a loss."""
        workdir = self._request.workdir
        if workdir and not re.match(r"[/~$]", value):  # PBS has no option for the directory
            value = f"{workdir.rstrip('/')}/{value}"
            note = f"PBS jobs have no working directory: file names begin with `{workdir}`"
            self._notes += [] if note in self._notes else [note]
        value = value.replace("{{index}}", "^array_index^")
        if self._name:
            value = value.replace("{{name}}", self._name)
        if ":" in value.partition("/")[0]:
            value = f"./{value}"  # else PBS reads the part before the colon as a host
        if "{{" not in value:
            return value, ""
        folder, slash, _ = value.rpartition("/")
        mark = re.findall(r"\{\{\w+\}\}", value)[0]
        why = f"PBS cannot put {mark} into a file name: its own name, with the job's id, is used"
        return (f"{folder}/", why) if slash and "{{" not in folder else ("", why)

    def _mail(self) -> None:
        on = self._request.mail_on
        if not on:
            return
        letters = "".join(
            letter
            for letter, event in (("a", "fail"), ("b", "begin"), ("e", "end"))
            if event in on or "all" in on
        )
        self._left.pop("mail_on")
        others = [e for e in on if e not in ("fail", "begin", "end", "all", "none")]
        if letters or "none" in on:
            self._add("mail_on", "m", letters or "n")
        if others:
            self._lost["mail_on"] = f"PBS sends no mail on {', '.join(others)}"

    def _rest(self) -> None:
        request = self._request
        self._mail()
        if request.mail_to:
            self._add("mail_to", "M", ",".join(request.mail_to))
        if request.export:
            self._add("export", "V")
        elif request.export is False:
            self._left.pop("export")  # this is PBS's default
        if request.variables:
            values, lost = listed(request.variables, ",")
            self._lost |= lost
            self._left.pop("variables")
            if values:
                self._add("variables", "v", ",".join(values))
        if request.shell is not None:
            self._add("shell", "S", request.shell)
        if request.hold is False:
            self._left.pop("hold")


_JOB_WIDE: Final = frozenset({"cput", "pcput", "file", "nice", "software", "site", "pvmem"})
_NO_WORD: Final = {
    "seconds": "PBS has no word for no limit: that of the queue counts",
    "array": "PBS has one range of indices in an array, such as 1-10:2",
    "workdir": "`cd` into it in the script: PBS starts jobs in the home directory",
    "begin": "PBS expects a date, not a delay",
    "append": "PBS overwrites files that are there",
    "qos": "PBS has queues, no QOS",
    "server": "it is a server or cluster of another scheduler",
    "reservation": "a reservation of PBS is a queue",
    "signal": "PBS sends no signal ahead of the end",
    "without_hosts": "PBS leaves out no hosts by name",
    "components": "PBS has no jobs of several parts",
}


def _plain_name(name: str) -> str:
    """A job's name in the characters that OpenPBS accepts (check_job_name in ck_job_name.c)."""
    return re.sub(r"[^A-Za-z0-9_+.-]", "_", name)[:_MOST_OF_A_NAME]


def _one_span(array: Array) -> str | None:
    """The indices of an array as one PBS range; None if one range cannot represent them."""
    indices = array.indices
    steps = {b - a for a, b in pairwise(indices)}
    if len(steps) > 1:
        return None
    step = steps.pop() if steps else 2
    if len(indices) == 1:  # PBS refuses 5-5
        return f"{indices[0]}-{indices[0] + 1}:2"
    return str(Span(first=indices[0], last=indices[-1], step=step))
